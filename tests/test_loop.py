"""The loop on a tiny model and clips made of numbers: what a step computes, and what stops it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from mgs_dali.lists.table import Clips
from mgs_dali.load.loader import ClipBatch
from mgs_dali.load.plan import Plan
from mgs_dali.sampling import Uniform
from train.build import start_fabric, stop_fabric
from train.command_line import Options
from train.consensus import Consensus, Step
from train.loop import Run, Stopwatch, clip_losses, loss_targets, train_epoch, validate
from train.mixing import draw_mixes
from train.recipe import Recipe
from train.stop import Stopped, StopRequest, stopping_on_sigterm

NUM_CLIPS, NUM_CLASSES, SIDE = 11, 3, 4


def make_clips(*, multi_label: bool = False) -> Clips:
    labels = np.arange(NUM_CLIPS) % NUM_CLASSES
    return Clips(
        root=Path("videos"),
        paths=[f"{i}.mp4" for i in range(NUM_CLIPS)],
        first_frames=np.zeros(NUM_CLIPS, np.int64),
        num_frames=np.full(NUM_CLIPS, -1),
        labels=np.eye(NUM_CLASSES, dtype=np.float32)[labels] if multi_label else labels,
        num_classes=NUM_CLASSES,
        class_names=None,
        list_file=Path("list.txt"),
        list_lines=np.arange(NUM_CLIPS) + 1,
    )


class NumberLoader:
    """Clips of random numbers, of sample i always the same; NaN for those asked for."""

    route, route_reason = "numbers", "for tests"

    def __init__(self, plan: Plan, *, broken: tuple[int, ...] = ()) -> None:
        self.plan, self.broken = plan, broken
        self.epoch = self.iteration = 0
        self.sigterm_at: int | None = None

    def __len__(self) -> int:
        return self.plan.num_batches

    def __iter__(self) -> Iterator[ClipBatch]:
        while self.iteration < len(self):
            samples, valid = self.plan.batch(self.epoch, self.iteration)
            if self.iteration == self.sigterm_at:
                signal.raise_signal(signal.SIGTERM)
            self.iteration += 1
            yield ClipBatch(
                clips=torch.stack([self.clip(sample) for sample in samples.tolist()]),
                labels=torch.from_numpy(self.plan.clips.labels[samples]),
                frames=torch.zeros(len(samples), 2, dtype=torch.int64),
                samples=torch.from_numpy(samples),
                valid=torch.from_numpy(valid),
            )
        self.epoch, self.iteration = self.epoch + 1, 0

    def clip(self, sample: int) -> Tensor:
        if sample in self.broken:
            return torch.full((2, 3, SIDE, SIDE), torch.nan)
        return torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(sample))

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "iteration": self.iteration}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.iteration = state["epoch"], state["iteration"]

    def close(self) -> None: ...


RECIPE = Recipe(batch_size=2, lr=0.1, epochs=2, lr_batch=None, lr_steps=(1,))
fabric = Fabric(accelerator="cpu", devices=1)


def linear_network() -> nn.Sequential:
    """It has no batch norms, so that a batch's clips do not see each other."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(2 * 3 * SIDE * SIDE, NUM_CLASSES))


def make_run(
    recipe: Recipe,
    *,
    training: bool = True,
    broken: tuple[int, ...] = (),
    clips: Clips | None = None,
    network: nn.Module | None = None,
    fabric: Fabric = fabric,
) -> Run:
    network = network or linear_network()
    groups = [{"params": [*network.parameters()], "lr": recipe.lr, "initial_lr": recipe.lr}]
    model, optimizer = fabric.setup(network, torch.optim.SGD(groups, momentum=0.9))
    plan = Plan(
        clips or make_clips(),
        Uniform(2),
        recipe.batch_size,
        training,
        SIDE,
        seed=recipe.seed,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
    )
    loader = NumberLoader(plan, broken=broken)
    return Run(network, model, optimizer, loader, loader.state_dict(), torch.zeros(2, dtype=torch.float64))


def train(run: Run, recipe: Recipe, *, stop: StopRequest | None = None, num_epochs: int = 1) -> list[float]:
    losses = []
    for _ in range(num_epochs):
        losses.append(train_epoch(fabric, run, recipe=recipe, stop=stop or StopRequest(), save=never)[0])
        run.finish_epoch()
    return losses


def never() -> None:
    raise AssertionError("no checkpoint is due")


# --- a step ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [{}, {"mixing": "mixup"}, {"mixing": "cutmix"}, {"label_smoothing": 0.1}])
def test_accumulated_batches_step_as_one_large_batch(more: dict[str, object]) -> None:
    small = replace(RECIPE, accumulate=2, grad_clip=0.3, **more)  # type: ignore[arg-type]
    large = replace(small, accumulate=1, batch_size=4)
    runs = [make_run(recipe) for recipe in (small, large)]
    losses = [train(run, recipe, num_epochs=2) for run, recipe in zip(runs, (small, large), strict=True)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    for name, value in runs[0].network.state_dict().items():
        torch.testing.assert_close(value, runs[1].network.state_dict()[name])
    start = make_run(small).network.state_dict()
    assert not torch.allclose(start["1.weight"], runs[0].network.state_dict()["1.weight"], atol=1e-3)


@pytest.mark.parametrize("grad_clip", [20.0, 0.3, None])
def test_an_epoch_equals_plain_pytorch(grad_clip: float | None) -> None:
    recipe = replace(RECIPE, grad_clip=grad_clip)
    run = make_run(recipe)
    reference = make_run(recipe)
    (loss,) = train(run, recipe)
    norms = []
    optimizer = torch.optim.SGD(reference.network.parameters(), lr=RECIPE.lr, momentum=0.9)
    losses = []
    for batch in reference.loader:
        batch_losses = nn.CrossEntropyLoss(reduction="none")(reference.network(batch.clips), batch.labels)[batch.valid]
        losses += batch_losses.tolist()
        optimizer.zero_grad()
        batch_losses.mean().backward()
        gradients = [parameter.grad for parameter in reference.network.parameters() if parameter.grad is not None]
        norms.append(sum(float(gradient.square().sum()) for gradient in gradients) ** 0.5)
        if grad_clip is not None and norms[-1] > grad_clip:
            for gradient in gradients:
                gradient *= grad_clip / norms[-1]
        optimizer.step()
    assert 0.3 < min(norms) <= max(norms) < 20  # the one clips every step, the other none
    assert len(losses) == NUM_CLIPS
    assert loss == pytest.approx(np.mean(losses), rel=1e-6)
    torch.testing.assert_close(run.network.state_dict(), reference.network.state_dict(), rtol=1e-5, atol=1e-6)


def test_dropout_is_another_one_in_each_step_and_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def kept(rank: int, seed: int = 0) -> list[tuple[bool, ...]]:
        """What dropout keeps of the first clip of each step."""
        recipe = replace(RECIPE, seed=seed)
        network, found = linear_network(), []
        network.insert(1, dropout := nn.Dropout(0.5))
        dropout.register_forward_hook(lambda _module, _clips, out: found.append(tuple((out[0] != 0).tolist())))
        run = make_run(recipe, network=network)
        monkeypatch.setattr(Fabric, "global_rank", property(lambda _: rank))
        train(run, recipe, num_epochs=2)
        monkeypatch.undo()
        return found

    first = kept(0)
    assert len(first) == len(set(first)) == 12
    assert kept(0) == first
    for other in (kept(1), kept(2), kept(0, seed=1)):
        assert not set(other) & set(first)
    assert all(30 < sum(clip) < 66 for clip in first)  # of 96 numbers; standard deviation 4.9


class Clock:
    """Time that passes only where it is told to."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def perf_counter(self) -> float:
        return self.seconds

    monotonic = perf_counter


def test_times_are_those_of_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch takes 3 s to come and 1 s to be trained on, and 2 s have passed before the first: of 26 s."""
    clock = Clock()
    monkeypatch.setattr("train.loop.time", clock)
    monkeypatch.setattr("train.loop.Stopwatch", partial(Stopwatch, start=98.0))
    run = make_run(RECIPE)
    clip, forward = NumberLoader.clip, run.network.forward

    def slow_clip(loader: NumberLoader, sample: int) -> Tensor:
        clock.seconds += 1.5  # two of them a batch
        return clip(loader, sample)

    def slow_forward(clips: Tensor) -> Tensor:
        clock.seconds += 1
        return forward(clips)

    monkeypatch.setattr(NumberLoader, "clip", slow_clip)
    monkeypatch.setattr(run.network, "forward", slow_forward)
    _, measured = train_epoch(fabric, run, recipe=RECIPE, stop=StopRequest(), save=never)
    assert measured["time/data_wait_share"] == pytest.approx(18 / 26)
    assert measured["time/clips_per_s"] == pytest.approx(NUM_CLIPS / 26)


def test_the_learning_rate_is_of_the_position() -> None:
    recipe = replace(RECIPE, warmup_epochs=1.0, accumulate=2)
    run = make_run(recipe)
    train(run, recipe)
    (group,) = run.optimizer.param_groups
    assert group["lr"] == pytest.approx(0.1 * (0.1 + 0.9 * 2 / 3))  # the last of three steps
    train(run, recipe)
    assert group["lr"] == pytest.approx(0.1 * 0.1)  # after the step at epoch 1


def test_the_learning_rate_scales_with_the_clips_of_a_step() -> None:
    assert Recipe(lr=0.01, lr_batch=64).lr_for(16) == pytest.approx(0.0025)
    assert Recipe(lr=0.01, lr_batch=64).lr_for(128) == pytest.approx(0.02)
    assert Recipe(lr=0.01, lr_batch=None).lr_for(16) == 0.01


def test_smoothing_spreads_a_share_over_all_classes() -> None:
    recipe = Recipe(label_smoothing=0.3)
    targets = loss_targets(torch.tensor([2, 0]), 3, recipe)
    torch.testing.assert_close(targets, torch.tensor([[0.1, 0.1, 0.8], [0.8, 0.1, 0.1]]))
    several = loss_targets(torch.tensor([[1.0, 0, 1]]), 3, recipe)
    torch.testing.assert_close(several, torch.tensor([[0.8, 0.1, 0.8]]))
    logits = torch.tensor([[0.3, -1.0, 2.0], [1.0, 0.0, -1.0]])
    expected = nn.CrossEntropyLoss(label_smoothing=0.3, reduction="none")(logits, torch.tensor([2, 0]))
    torch.testing.assert_close(clip_losses(logits, targets, multi_label=False), expected)


def test_plain_labels_stay_plain() -> None:
    labels = torch.tensor([2, 0])
    assert loss_targets(labels, 3, Recipe()) is labels


def test_every_mix_of_an_epoch_is_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[int, int]] = []

    def record(num_pairs: int, recipe: Recipe, *, epoch: int, first_pair: int) -> list:
        drawn.extend((epoch, pair) for pair in range(first_pair, first_pair + num_pairs))
        return draw_mixes(num_pairs, recipe, epoch=epoch, first_pair=first_pair)

    monkeypatch.setattr("train.loop.draw_mixes", record)
    recipe = replace(RECIPE, mixing="mixup")
    train(make_run(recipe), recipe, num_epochs=2)
    assert drawn == [(epoch, pair) for epoch in range(2) for pair in range(6)]


# --- what stops a run -----------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_names_its_clip_and_saves_nothing() -> None:
    recipe = replace(RECIPE, checkpoint_every_steps=6)
    run = make_run(recipe, broken=(7,))
    with pytest.raises(ValueError, match=r"not finite for 1 of its clips") as error:
        train(run, recipe)
    assert str(error.value).splitlines()[1:] == ["  videos/7.mp4 (list.txt, line 8)"]
    assert "Lower --lr (now 0.1)" in str(error.value)


def test_a_gradient_that_is_not_finite_stops_too() -> None:
    run = make_run(RECIPE)
    for parameter in run.network.parameters():
        parameter.register_hook(lambda gradient: gradient / 0)
    with pytest.raises(ValueError, match=r"the gradient in step 1/6 of epoch 1/2 is not finite, though all losses are"):
        train(run, RECIPE)


@pytest.mark.parametrize("late", [False, True])
def test_what_is_read_late_is_not_lost(late: bool) -> None:
    run = make_run(RECIPE)
    stop = StopRequest()
    consensus = Consensus(fabric, plan=run.loader.plan, recipe=RECIPE, stop=stop, late=late)

    def step(*losses: float) -> Step:
        step = Step("a step")
        step.add(torch.tensor(losses), torch.arange(len(losses)), torch.ones(len(losses), dtype=torch.bool))
        return step

    assert consensus.add(step(1, 2), gradient_norm=torch.tensor(1.0)).tolist() == [3, 2]
    stop.made = True
    consensus.add(step(1), gradient_norm=torch.tensor(1.0))
    assert consensus.told_to_stop != late
    consensus.settle()
    assert consensus.told_to_stop
    if late:
        consensus.add(step(1, torch.inf), gradient_norm=torch.tensor(1.0))
        with pytest.raises(ValueError, match=r"1\.mp4"):
            consensus.add(step(1, 2), gradient_norm=torch.tensor(1.0))
    else:
        with pytest.raises(ValueError, match=r"1\.mp4"):
            consensus.add(step(1, torch.inf), gradient_norm=torch.tensor(1.0))


@pytest.mark.parametrize("iteration", [0, 3, 5])
def test_sigterm_saves_after_the_step_and_the_rest_is_as_without(iteration: int) -> None:
    undisturbed = make_run(RECIPE)
    losses = train(undisturbed, RECIPE, num_epochs=2)

    run = make_run(RECIPE)
    saved: list[dict[str, int]] = []
    assert isinstance(run.loader, NumberLoader)
    run.loader.sigterm_at = iteration
    with stopping_on_sigterm() as stop, pytest.raises(Stopped):
        train_epoch(fabric, run, recipe=RECIPE, stop=stop, save=lambda: saved.append(dict(run.position)))
    run.loader.sigterm_at = None
    assert saved == [{"epoch": 0, "iteration": iteration + 1}]
    run.loader.load_state_dict(saved[0])
    assert train(run, RECIPE, num_epochs=2) == losses
    torch.testing.assert_close(run.network.state_dict(), undisturbed.network.state_dict(), rtol=0, atol=0)


def test_sigterm_stops_a_validation() -> None:
    run = make_run(RECIPE, training=False)
    with pytest.raises(Stopped):
        validate(fabric, run.model, run.loader, stop=StopRequest(made=True))


# --- two processes --------------------------------------------------------------------------------------------------

SHARED = replace(RECIPE, batch_size=4, epochs=2, grad_clip=None, precision="32-true", schedule="step")
"""Steps of eight clips in two processes; of the three in an epoch's second step the second process has none."""


def normalising_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(2 * 3 * SIDE * SIDE, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, NUM_CLASSES)
    )


def one_of_two(rank: int, port: int, folder: Path) -> None:
    """What the first or second of two processes does: train, validate, and write down what came of it."""
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
    os.environ.update({name: str(value) for name, value in (ranks | meeting).items()})
    torch.set_num_threads(1)
    fabric = start_fabric(Options(device="cpu"), SHARED)
    run = make_run(SHARED, network=normalising_network(), fabric=fabric)
    losses = []
    for _ in range(2):
        losses.append(train_epoch(fabric, run, recipe=SHARED, stop=StopRequest(), save=never)[0])
        run.finish_epoch()
    trained = {name: value.clone() for name, value in run.network.state_dict().items()}
    plan = replace(run.loader.plan, training=False)
    values = validate(fabric, run.model, NumberLoader(plan))
    found = {"losses": losses, "trained": trained, "validated": run.network.state_dict(), "values": values}
    torch.save(found, folder / f"{rank}.pt")
    stop_fabric(fabric)


START_TWO = """
import sys, torch
from pathlib import Path
from test_loop import one_of_two

# Forked: importing takes longer than all of the rest.
arguments = (int(sys.argv[1]), Path(sys.argv[2]))
torch.multiprocessing.start_processes(one_of_two, arguments, nprocs=2, start_method="fork")
"""


def test_two_processes_step_as_plain_pytorch_and_share_statistics(tmp_path: Path) -> None:
    """Plain PyTorch in this process: two copies of the network see a half each, and one of them has the parameters."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    paths = {"PYTHONPATH": f"{Path(__file__).parent}:{Path(__file__).parent.parent}", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", START_TWO, str(port), str(tmp_path)]
    done = subprocess.run(
        command, env={**os.environ, **paths}, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]

    copies = [normalising_network() for _ in range(2)]
    optimizer = torch.optim.SGD(copies[0].parameters(), lr=0.1, momentum=0.9)
    plan = Plan(make_clips(), Uniform(2), 8, True, SIDE, seed=SHARED.seed)
    loader = NumberLoader(plan)
    means: list[float] = []
    for lr in (0.1, 0.01):
        losses: list[float] = []
        for step, batch in enumerate(loader):
            copies[1].load_state_dict(copies[0].state_dict() | dict(copies[1].named_buffers()))
            optimizer.zero_grad()
            copies[1].zero_grad()
            halves = [
                nn.CrossEntropyLoss(reduction="none")(copy(clips), labels)[valid]
                for copy, clips, labels, valid in zip(
                    copies, batch.clips.split(4), batch.labels.split(4), batch.valid.split(4), strict=True
                )
            ]
            assert [len(half) for half in halves] == ([4, 4] if step == 0 else [3, 0])
            losses += torch.cat(halves).tolist()
            torch.cat(halves).mean().backward()
            for parameter, other in zip(copies[0].parameters(), copies[1].parameters(), strict=True):
                assert parameter.grad is not None
                if other.grad is not None:
                    parameter.grad += other.grad
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.step()
        means.append(float(np.mean(losses)))
    copies[1].load_state_dict(copies[0].state_dict() | dict(copies[1].named_buffers()))
    first, second = (copy.state_dict() for copy in copies)
    assert not torch.allclose(first["2.running_mean"], second["2.running_mean"], atol=0.01)
    close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-5)
    close(found[0]["trained"], first)
    close(found[1]["trained"], second)  # statistics of its own
    for process in found:
        assert process["losses"] == pytest.approx(means, rel=1e-5)
        close(process["validated"], first)
        clips = torch.stack([loader.clip(sample) for sample in range(NUM_CLIPS)])
        right = copies[0].eval()(clips).argmax(1).numpy() == make_clips().labels
        assert process["values"]["val/top1"] == pytest.approx(right.mean())


# --- validation -----------------------------------------------------------------------------------------------------


def test_validation_is_of_all_clips_in_evaluation_mode() -> None:
    run = make_run(RECIPE, training=False)
    assert isinstance(run.loader, NumberLoader)
    for _ in range(2):  # nothing stays from one validation to the next
        values = validate(fabric, run.model, run.loader)
    clips = torch.stack([run.loader.clip(sample) for sample in range(NUM_CLIPS)])
    guesses = run.network.eval()(clips).argmax(1).numpy()
    labels = make_clips().labels
    right = guesses == labels
    assert values["val/top1"] == pytest.approx(right.mean())
    assert values["val/mean_recall"] == pytest.approx(np.mean([right[labels == k].mean() for k in range(NUM_CLASSES)]))
    assert values["val/top5"] == 1  # three classes
