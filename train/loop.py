"""One epoch of training, and one validation."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from lightning.fabric import Fabric
from lightning.fabric.wrappers import _FabricModule
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from mgs_dali.generator import Purpose, generator
from mgs_dali.load.loader import ClipBatch
from mgs_dali.load.plan import Plan

from .consensus import Consensus, LateSums, Step
from .evaluation import judge, score_clips
from .logs import log
from .mixing import draw_mixes, mix
from .recipe import Recipe
from .stop import Stopped, StopRequest

__all__ = [
    "Loader",
    "Run",
    "Stopwatch",
    "clip_losses",
    "loss_targets",
    "share_batch_norms",
    "steps_an_epoch",
    "train_epoch",
    "validate",
]

SECONDS_BETWEEN_LOG_LINES = 30
"""Where no progress bar is shown."""


class Loader(Protocol):
    """What :class:`mgs_dali.ClipLoader` and :class:`train.cpu_loader.CpuLoader` have in common."""

    plan: Plan
    route: str
    route_reason: str

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[ClipBatch]: ...
    def state_dict(self) -> dict[str, int]: ...
    def load_state_dict(self, state: dict[str, int]) -> None: ...
    def close(self) -> None: ...


@dataclass
class Run:
    """All that changes while a run goes on."""

    network: nn.Module
    """The model itself, for its state."""
    model: _FabricModule
    """The model as it is trained: in Fabric's wrappers, and compiled where that was asked for."""
    optimizer: Any
    """Its groups' ``initial_lr`` is the learning rate before the schedule."""
    loader: Loader
    position: dict[str, int]
    """Epoch, and how many of its batches went into steps. An epoch is over when it is validated."""
    loss_sums: Tensor
    """(2,) float64 on the model's device: sum of the losses in this epoch so far, and over how many clips."""
    best: dict[str, Any] | None = None
    """The best epoch's line of metrics.jsonl."""

    def finish_epoch(self) -> None:
        """The epoch is validated: the next one begins."""
        self.position = {"epoch": self.position["epoch"] + 1, "iteration": 0}
        self.loss_sums.zero_()


@dataclass
class Stopwatch:
    """Where the time and the memory of an epoch go, as this process sees it."""

    device: torch.device
    num_clips_before: float
    """Of all processes, in this epoch before this process was started."""
    start: float = field(default_factory=time.perf_counter)
    wait_seconds: float = 0.0
    """Spent waiting for the next batch."""

    def __post_init__(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def watch(self, batches: Iterable[ClipBatch]) -> Iterator[ClipBatch]:
        """Pass batches on and measure how long each was waited for."""
        iterator = iter(batches)
        while True:
            asked = time.perf_counter()
            batch = next(iterator, None)
            self.wait_seconds += time.perf_counter() - asked
            if batch is None:
                return
            yield batch

    def metrics(self, *, num_clips: float) -> dict[str, float]:
        """The time/ and memory/ part of metrics.jsonl, when so many clips of the epoch were trained on."""
        seconds = time.perf_counter() - self.start
        measured = {
            "time/clips_per_s": (num_clips - self.num_clips_before) / seconds,
            "time/data_wait_share": self.wait_seconds / seconds,
        }
        if self.device.type == "cuda":
            measured["memory/max_allocated_gib"] = torch.cuda.max_memory_allocated(self.device) / 2**30
        return measured


def train_epoch(
    fabric: Fabric, run: Run, *, recipe: Recipe, stop: StopRequest, save: Callable[[], None]
) -> tuple[float, dict[str, float]]:
    """Train on what is left of the epoch at which the run stands.

    Args:
        stop: looked at after each step; all processes stop after the same one, on a GPU one step later.
        save: writes a checkpoint. Called every ``recipe.checkpoint_every_steps`` steps of the run, and before stopping.

    Returns:
        The mean loss of the whole epoch's clips, and the time/ and memory/ part of metrics.jsonl for what was trained
        on here.

    Raises:
        ValueError: a loss or the gradient is not a finite number; names the clips.
        Stopped: a process was told to stop, and the checkpoint is written.
    """
    run.model.train()
    plan, num_batches, every = run.loader.plan, len(run.loader), recipe.checkpoint_every_steps
    num_steps = steps_an_epoch(run.loader, recipe)
    clips_a_step = recipe.accumulate * plan.batch_size * plan.world_size
    epoch, first = run.position["epoch"], run.position["iteration"]
    title = f"epoch {epoch + 1}/{recipe.epochs}"
    consensus = Consensus(fabric, plan=plan, recipe=recipe, stop=stop)
    stopwatch = Stopwatch(fabric.device, num_clips_before=float(run.loss_sums[1]))
    with _Progress(title, num_steps, first_step=first // recipe.accumulate, shown=fabric.is_global_zero) as progress:
        for iteration, batch in enumerate(stopwatch.watch(run.loader), start=first):
            step_in_epoch, part = divmod(iteration, recipe.accumulate)
            completes_step = part + 1 == recipe.accumulate or iteration + 1 == num_batches
            if part == 0:
                step = Step(f"step {step_in_epoch + 1}/{num_steps} of {title}")
                run.optimizer.zero_grad()
            torch.manual_seed(batch_seed(plan.seed, epoch=epoch, iteration=iteration, rank=fabric.global_rank))
            clips, labels, valid = _to_device(fabric, batch)
            targets = loss_targets(labels, plan.clips.num_classes, recipe)
            if recipe.mixing is not None:
                place = (iteration * plan.world_size + plan.rank) * plan.batch_size
                mixes = draw_mixes(len(clips) // 2, recipe, epoch=epoch, first_pair=place // 2)
                clips, targets = mix(clips, targets, valid, kind=recipe.mixing, mixes=mixes)
            with fabric.no_backward_sync(run.model, enabled=not completes_step):
                losses = clip_losses(run.model(clips), targets, multi_label=labels.ndim == 2).masked_fill(~valid, 0)
                # DDP takes the mean of the processes' gradients. Times world_size it is their sum, and divided by how
                # many clips of the whole step are valid it is that of the mean loss, however the clips are spread.
                num_valid = min(clips_a_step, len(plan.clips) - step_in_epoch * clips_a_step)
                fabric.backward(losses.sum() * fabric.world_size / num_valid)
            step.add(losses.detach(), batch.samples, valid)
            if not completes_step:
                continue
            num_done = epoch * num_steps + step_in_epoch + 1
            for group in run.optimizer.param_groups:
                group["lr"] = group["initial_lr"] * recipe.lr_factor((num_done - 1) / num_steps)
            norm = fabric.clip_gradients(
                run.model, run.optimizer, max_norm=recipe.grad_clip or math.inf, error_if_nonfinite=False
            )
            assert norm is not None
            run.optimizer.step()
            run.loss_sums += consensus.add(step, gradient_norm=norm)
            run.position["iteration"] = iteration + 1
            progress.step(run.loss_sums, stopwatch)
            if consensus.told_to_stop or (every and num_done % every == 0 and iteration + 1 < num_batches):
                consensus.settle()
                save()
            if consensus.told_to_stop:
                raise Stopped
    consensus.settle()
    if consensus.told_to_stop:
        save()
        raise Stopped
    loss_sum, num_clips = run.loss_sums.tolist()
    return loss_sum / num_clips, stopwatch.metrics(num_clips=num_clips)


def steps_an_epoch(loader: Loader, recipe: Recipe) -> int:
    """Steps of the optimizer an epoch; the last one may be of fewer batches."""
    return -(-len(loader) // recipe.accumulate)


def validate(fabric: Fabric, model: nn.Module, loader: Loader, *, stop: StopRequest | None = None) -> dict[str, float]:
    """The val/ part of metrics.jsonl, over all processes: see :func:`train.evaluation.judge`.

    Args:
        stop: looked at after each batch.

    Raises:
        Stopped: a process was told to stop.
    """
    share_batch_norms(fabric, model)
    clips = loader.plan.clips
    batches = loader if stop is None else _until_told(fabric, loader, stop)
    scores = score_clips(fabric, model, batches, num_clips=len(clips), num_views=1, average="logits")
    return {f"val/{name}": value for name, value in judge(scores, clips.labels).items()}


def _until_told(fabric: Fabric, batches: Iterable[ClipBatch], stop: StopRequest) -> Iterator[ClipBatch]:
    """Pass batches on, as many in every process, until one is told to stop."""
    told: LateSums[None] = LateSums(fabric)
    for batch in batches:
        yield batch
        told.add(None, torch.full((1,), float(stop.made), device=fabric.device))
        if any(num_told for _, (num_told,) in told.read()):
            raise Stopped


def share_batch_norms(fabric: Fabric, model: nn.Module) -> None:
    """Give all processes the first one's running statistics of batch norms, as mmaction2 does before it evaluates.

    They are what a checkpoint holds; while training, each process keeps its own.
    """
    if fabric.world_size > 1:
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, src=0)


def loss_targets(labels: Tensor, num_classes: int, recipe: Recipe) -> Tensor:
    """What the loss compares with: (B,) labels as they are, or where they are mixed, smoothed or several (B,
    num_classes) shares.

    Smoothing takes its share of each clip's labels and spreads it evenly over all classes, as in mmaction2.
    """
    if labels.ndim == 1 and (recipe.mixing is not None or recipe.label_smoothing > 0):
        labels = functional.one_hot(labels.long(), num_classes).float()
    if recipe.label_smoothing > 0:
        labels = (1 - recipe.label_smoothing) * labels + recipe.label_smoothing / num_classes
    return labels


def clip_losses(logits: Tensor, targets: Tensor, *, multi_label: bool) -> Tensor:
    """(B,) losses: cross entropy, or with several labels a clip the binary cross entropy averaged over the classes."""
    if multi_label:
        return functional.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(dim=1)
    return functional.cross_entropy(logits, targets, reduction="none")


def _to_device(fabric: Fabric, batch: ClipBatch) -> tuple[Tensor, Tensor, Tensor]:
    clips, labels, valid = (x.to(fabric.device, non_blocking=True) for x in (batch.clips, batch.labels, batch.valid))
    return clips, labels, valid


def batch_seed(seed: int, *, epoch: int, iteration: int, rank: int) -> int:
    """The seed of dropout in a batch of a process.

    It is a function of the position, so that nothing of the generators' state has to be saved.
    """
    of_ranks = generator(seed, purpose=Purpose.DROPOUT, epoch=epoch, index=iteration)
    return int(of_ranks.integers(2**63, size=rank + 1)[-1])


class _Progress:
    """A progress bar on a terminal; elsewhere a log line now and then.

    The loss is read only when it is shown: reading it waits for the GPU.
    """

    def __init__(self, title: str, num_steps: int, *, first_step: int, shown: bool) -> None:
        self.title, self.num_steps, self.num_done, self.shown = title, num_steps, first_step, shown
        self.on_terminal = sys.stderr.isatty()
        self.bar = tqdm(
            total=num_steps,
            initial=first_step,
            desc=title,
            unit="step",
            leave=False,
            disable=not (shown and self.on_terminal),
        )
        self.told = time.monotonic()

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        self.bar.close()

    def step(self, loss_sums: Tensor, stopwatch: Stopwatch) -> None:
        """Show that a step is done."""
        self.num_done += 1
        self.bar.update()
        pause = 1 if self.on_terminal else SECONDS_BETWEEN_LOG_LINES
        if not self.shown or time.monotonic() - self.told < pause:
            return
        self.told = time.monotonic()
        loss_sum, num_clips = loss_sums.tolist()
        measured = stopwatch.metrics(num_clips=num_clips)
        text = (
            f"loss {loss_sum / num_clips:.4f}, {measured['time/clips_per_s']:.1f} clips/s, "
            f"{100 * measured['time/data_wait_share']:.0f}% of the time waiting for data"
        )
        if "memory/max_allocated_gib" in measured:
            text += f", {measured['memory/max_allocated_gib']:.1f} GiB of GPU memory"
        if self.on_terminal:
            self.bar.set_postfix_str(text)
        else:
            log.info("%s, step %d/%d: %s", self.title, self.num_done, self.num_steps, text)
