"""One epoch of training, and one validation."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy, MultilabelAveragePrecision
from tqdm import tqdm

from mgs_dali.annotations import Clips
from mgs_dali.loader import ClipBatch

from .logs import log
from .recipe import Recipe

__all__ = ["Loader", "Run", "Stopwatch", "clip_metrics", "train_epoch", "validate"]

SECONDS_BETWEEN_LOG_LINES = 30
"""Where no progress bar is shown."""


class Loader(Protocol):
    """What :class:`mgs_dali.ClipLoader` and :class:`train.cpu_loader.CpuLoader` have in common."""

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

    model: nn.Module
    optimizer: Any
    schedule: torch.optim.lr_scheduler.LambdaLR
    loader: Loader
    loss_sums: Tensor
    """(2,) float64 on the model's device: sum of the losses in this epoch so far, and over how many clips."""
    best: dict[str, Any] | None = None
    """The best epoch's line of metrics.jsonl."""


@dataclass
class Stopwatch:
    """Where the time of an epoch goes, as this process sees it."""

    start: float = field(default_factory=time.perf_counter)
    wait_seconds: float = 0.0
    """Spent waiting for the next batch."""

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
        """The time/ part of metrics.jsonl, when so many clips were trained on."""
        seconds = time.perf_counter() - self.start
        return {"time/clips_per_s": num_clips / seconds, "time/data_wait_share": self.wait_seconds / seconds}


def train_epoch(
    fabric: Fabric, run: Run, *, recipe: Recipe, after_step: Callable[[int], None]
) -> tuple[float, dict[str, float]]:
    """Train on what is left of the epoch at which the loader stands.

    Args:
        after_step: called with the number of steps since the start of the run, after each but the epoch's last.

    Returns:
        The mean loss of the whole epoch's clips, and the time/ part of metrics.jsonl for the clips trained on here.
    """
    run.model.train()
    num_steps, position = len(run.loader), run.loader.state_dict()
    epoch, first = position["epoch"], position["iteration"]
    num_clips_before = float(run.loss_sums[1])
    stopwatch = Stopwatch()
    title = f"epoch {epoch + 1}/{recipe.epochs}"
    with _Progress(title, num_steps, first_step=first, shown=fabric.is_global_zero) as progress:
        for iteration, batch in enumerate(stopwatch.watch(run.loader), start=first):
            step = epoch * num_steps + iteration
            torch.manual_seed(_step_seed(recipe.seed, rank=fabric.global_rank, step=step))
            clips, labels, valid = _to_device(fabric, batch)
            run.optimizer.zero_grad()
            losses = clip_losses(run.model(clips), labels).masked_fill(~valid, 0)
            sums = torch.stack([losses.detach().sum(), valid.sum().to(losses.dtype)])
            sums = cast(Tensor, fabric.all_reduce(sums, reduce_op="sum"))
            # DDP takes the mean of the processes' gradients. Times world_size it is their sum, and divided by how many
            # clips of all processes are valid it is that of the mean loss, however the clips are spread.
            fabric.backward(losses.sum() * fabric.world_size / sums[1])
            if recipe.grad_clip is not None:
                fabric.clip_gradients(run.model, run.optimizer, max_norm=recipe.grad_clip, error_if_nonfinite=False)
            run.optimizer.step()
            run.schedule.step()
            run.loss_sums += sums
            progress.step(run.loss_sums, stopwatch)
            if iteration + 1 < num_steps:
                after_step(step + 1)
    loss_sum, num_clips = run.loss_sums.tolist()
    if not math.isfinite(loss_sum):
        raise ValueError(
            f"the loss of {title} is {loss_sum}: training diverged. Lower --lr (now {recipe.lr}), warm up longer "
            f"(--warmup-epochs {recipe.warmup_epochs}), or clip gradients harder (--grad-clip {recipe.grad_clip})."
        )
    run.loss_sums.zero_()
    return loss_sum / num_clips, stopwatch.metrics(num_clips=num_clips - num_clips_before)


@torch.no_grad()
def validate(fabric: Fabric, model: nn.Module, loader: Loader, *, metrics: Mapping[str, Metric]) -> dict[str, float]:
    """The val/ part of metrics.jsonl, over all processes; samples that only fill up a batch do not count."""
    model.eval()
    for metric in metrics.values():
        metric.reset()
    for batch in loader:
        clips, labels, valid = _to_device(fabric, batch)
        logits = model(clips).float()
        if valid.any():
            for metric in metrics.values():
                metric.update(logits[valid], labels[valid].long())
    return {f"val/{name}": float(metric.compute()) for name, metric in metrics.items()}


def clip_metrics(clips: Clips, device: torch.device) -> dict[str, Metric]:
    """What validation measures; the first is what the best epoch is chosen by.

    Mean class accuracy is over the classes that occur in the labels or the predictions, as in mmaction2.
    """
    num_classes = clips.num_classes
    if num_classes < 2:
        raise ValueError(f"{clips.list_file}: {num_classes} class. There must be at least 2 to tell apart.")
    if clips.labels.ndim == 2:
        return {"map": MultilabelAveragePrecision(num_classes).to(device)}
    return {
        "top1": MulticlassAccuracy(num_classes, average="micro").to(device),
        "top5": MulticlassAccuracy(num_classes, average="micro", top_k=min(5, num_classes)).to(device),
        "mean_class": MulticlassAccuracy(num_classes, average="macro").to(device),
    }


def clip_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """(B,) losses: cross entropy, or for labels (B, num_classes) the binary cross entropy averaged over the classes."""
    if labels.ndim == 1:
        return functional.cross_entropy(logits, labels, reduction="none")
    return functional.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(dim=1)


def _to_device(fabric: Fabric, batch: ClipBatch) -> tuple[Tensor, Tensor, Tensor]:
    clips, labels, valid = (x.to(fabric.device, non_blocking=True) for x in (batch.clips, batch.labels, batch.valid))
    return clips, labels, valid


def _step_seed(seed: int, *, rank: int, step: int) -> int:
    # Dropout, too, is a function of the position: nothing of the generators' state has to be saved.
    return int(np.random.SeedSequence([seed, rank, step]).generate_state(1, np.uint64)[0])


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
        share = 100 * stopwatch.wait_seconds / (time.perf_counter() - stopwatch.start)
        text = f"loss {loss_sum / num_clips:.4f}, {share:.0f}% of the time waiting for data"
        if self.on_terminal:
            self.bar.set_postfix_str(text)
        else:
            log.info("%s, step %d/%d: %s", self.title, self.num_done, self.num_steps, text)
