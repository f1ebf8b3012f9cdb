"""What all processes know: the loss of a step, whether all of it is finite, and whether somebody was told to stop.

It is a sum over the processes. On a GPU it is read one step later, when it has long been there: to wait for it at once
would leave the GPU without work. So all processes see the same numbers at the same step, and end after the same one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar, cast

import torch
from lightning.fabric import Fabric
from torch import Tensor

from mgs_dali.load.plan import Plan

from .recipe import Recipe
from .stop import StopRequest

__all__ = ["Consensus", "LateSums", "Step", "gathered"]

NAMED_CLIPS = 10
"""How many clips an error names at most."""

_Of = TypeVar("_Of")


class LateSums(Generic[_Of]):
    """Sums over all processes, to be read later.

    Args:
        late: read each one call later; by default on a GPU.
    """

    def __init__(self, fabric: Fabric, *, late: bool | None = None) -> None:
        self._fabric = fabric
        self._num_kept = int(fabric.device.type == "cuda" if late is None else late)
        self._waiting: list[tuple[_Of, Tensor, torch.cuda.Event | None]] = []

    def add(self, of: _Of, numbers: Tensor) -> Tensor:
        """Sum (N,) numbers over the processes, and remember what they are of. Returns the sums on the device."""
        sums = cast(Tensor, self._fabric.all_reduce(numbers, reduce_op="sum"))
        if sums.device.type == "cuda":
            here = torch.empty_like(sums, device="cpu", pin_memory=True).copy_(sums, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
            self._waiting.append((of, here, arrived))
        else:
            self._waiting.append((of, sums.clone(), None))
        return sums

    def read(self, *, rest: bool = False) -> Iterator[tuple[_Of, list[float]]]:
        """The sums that are due, each once, or with ``rest`` all."""
        while len(self._waiting) > (0 if rest else self._num_kept):
            of, sums, arrived = self._waiting.pop(0)
            if arrived is not None:
                arrived.synchronize()
            yield of, sums.tolist()


@dataclass
class Step:
    """What this process trained on in a step."""

    title: str
    """What to call it in errors."""
    losses: list[Tensor] = field(default_factory=list)
    """(B,) of each batch, 0 where a clip only fills it up."""
    samples: list[Tensor] = field(default_factory=list)
    """(B,) of each batch, on the CPU."""
    num_valid: list[Tensor] = field(default_factory=list)
    """() of each batch: how many clips count."""

    def add(self, losses: Tensor, samples: Tensor, valid: Tensor) -> None:
        """One batch is done."""
        self.losses.append(losses)
        self.samples.append(samples)
        self.num_valid.append(valid.sum())


class Consensus:
    """The steps of an epoch, as all processes see them."""

    def __init__(
        self, fabric: Fabric, *, plan: Plan, recipe: Recipe, stop: StopRequest, late: bool | None = None
    ) -> None:
        self._fabric, self._plan, self._recipe, self._stop = fabric, plan, recipe, stop
        self._sums: LateSums[Step] = LateSums(fabric, late=late)
        self.told_to_stop = False
        """Some process was, as far as the steps looked at tell."""

    def add(self, step: Step, *, gradient_norm: Tensor) -> Tensor:
        """Share a step with the other processes, and look at those that are due.

        Returns:
            (2,) float64 on the device: sum of the step's losses and number of its clips, over all processes.

        Raises:
            ValueError: a loss or the gradient is not finite; names the clips.
        """
        numbers = torch.stack(
            [
                torch.stack([losses.double().sum() for losses in step.losses]).sum(),
                torch.stack(step.num_valid).sum().double(),
                (~gradient_norm.isfinite()).double(),
                torch.full((), float(self._stop.made), dtype=torch.float64, device=gradient_norm.device),
            ]
        )
        sums = self._sums.add(step, numbers)
        self._look(rest=False)
        return sums[:2]

    def settle(self) -> None:
        """Look at all steps, as before a checkpoint: what is not finite must not get into one.

        Raises:
            ValueError: as of :meth:`add`.
        """
        self._look(rest=True)

    def _look(self, *, rest: bool) -> None:
        for step, (loss_sum, _, num_bad_gradients, num_told) in self._sums.read(rest=rest):
            self.told_to_stop |= num_told > 0
            if num_bad_gradients or not -torch.inf < loss_sum < torch.inf:
                raise ValueError(self._why_it_stops(step))

    def _why_it_stops(self, step: Step) -> str:
        """What to tell of a step that is not finite. All processes come here, and know the clips of all."""
        losses, samples = torch.cat(step.losses), torch.cat(step.samples).to(self._fabric.device)
        bad = gathered(self._fabric, torch.where(losses.isfinite(), -1, samples))
        names = [self._plan.name(sample) for sample in bad.tolist() if sample >= 0]
        advice = (
            f"training diverged. Lower --lr (now {self._recipe.lr}), warm up longer (--warmup-epochs "
            f"{self._recipe.warmup_epochs}), or clip gradients harder (--grad-clip {self._recipe.grad_clip})."
        )
        if not names:
            return f"the gradient in {step.title} is not finite, though all losses are: {advice}"
        listed = "".join(f"\n  {name}" for name in names[:NAMED_CLIPS])
        more = f"\n  and {len(names) - NAMED_CLIPS} more" if len(names) > NAMED_CLIPS else ""
        return (
            f"the loss in {step.title} is not finite for {len(names)} of its clips: {advice} Where it is a few clips "
            f"only, look at them:{listed}{more}"
        )


def gathered(fabric: Fabric, tensor: Tensor) -> Tensor:
    """(N * processes, ...): the (N, ...) tensors of all processes, one after the other."""
    return cast(Tensor, fabric.all_gather(tensor)).reshape(-1, *tensor.shape[1:])
