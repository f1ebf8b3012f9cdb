"""Clips without DALI: a plain ``torch.utils.data.DataLoader`` over PyAV and torchvision.

What people do today, and what the DALI loader is measured against. For the same seed it gives the same samples, frames,
crops and flips as :class:`mgs_dali.ClipLoader`; pixels differ by the rounding of the two resizes.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from multiprocessing.process import BaseProcess

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from mgs_dali.load.clip import error_text, load_sample
from mgs_dali.load.loader import ClipBatch, Position, batch_of_views, default_num_workers
from mgs_dali.load.plan import Plan
from mgs_dali.load.shared_memory import check_room
from mgs_dali.load.workers import WorkersEnded, follow_parent, why_workers_ended
from mgs_dali.machine import why_it_is_full
from mgs_dali.views.crops import Box

from .logs import log

__all__ = ["CpuLoader"]

IMAGENET_MEAN = [0.485, 0.456, 0.406]
IMAGENET_STD = [0.229, 0.224, 0.225]

_Item = tuple[int, int]  # epoch, sample
_Row = tuple[torch.Tensor, np.ndarray, tuple[bool, ...]]  # views (K, num_picks, 3, H, W), frames, flips
_Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # rows, stacked


class CpuLoader:
    """Batches of clips, decoded and resized by worker processes.

    Iterates and resumes like :class:`mgs_dali.ClipLoader`.

    Args:
        plan: what every batch holds. RandAugment is done by DALI: a plan to train with it is not taken.
        num_workers: worker processes; one a CPU core by default, 8 at most. 0 loads in this process.

    Raises:
        ValueError: an argument is not allowed. While iterating: a video that cannot be read or decoded, with its path
            and line of the list; or /dev/shm is too small for the batches that workers hand over in it.
        WorkersEnded: while iterating, worker processes were killed.
    """

    route = "cpu"

    def __init__(self, plan: Plan, *, num_workers: int | None = None) -> None:
        if plan.training and plan.rand_augment is not None:
            raise ValueError(
                f"rand_augment ({list(plan.rand_augment)}) is done by DALI, which this loader does without: its clips "
                "would not be those of the DALI loader. Leave out one of the two."
            )
        self.plan = plan
        self.num_workers = default_num_workers() if num_workers is None else num_workers
        if self.num_workers < 0:
            raise ValueError(f"num_workers ({num_workers}) must be at least 0; 0 loads in the process that trains.")
        where = f"{self.num_workers} worker processes" if self.num_workers else "this process"
        self.route_reason = f"PyAV and torchvision in {where}"
        log.info("route %s: %s", self.route, self.route_reason)
        self._position = Position(num_batches=self.plan.num_batches)
        self._order = _BatchOrder(self.plan, self._position)
        self._batches: DataLoader[_Row | str] | None = None
        self._workers: list[BaseProcess] = []

    def __len__(self) -> int:
        """Batches an epoch. The last one is filled up from the epoch's start, marked in ``valid``."""
        return self.plan.num_batches

    def __iter__(self) -> Iterator[ClipBatch]:
        """The batches of one epoch, or what is left of it after :meth:`load_state_dict`."""
        position = self._position
        position.begin()
        if self._batches is None:
            self._batches = self._start()
        try:
            others = multiprocessing.active_children()
            batches = iter(self._batches)
            self._workers += [child for child in multiprocessing.active_children() if child not in others]
            for columns in batches:
                if isinstance(columns, str):
                    raise ValueError(columns)
                samples, valid = self.plan.batch(position.epoch, position.iteration)
                clips, frames, flips = columns
                position.iteration += 1
                yield batch_of_views(
                    self.plan, samples, valid, clips=clips, frames=frames, flips=flips, device=torch.device("cpu")
                )
        except RuntimeError as error:
            self._tell_of_killed_workers(error)
            raise
        position.end()

    def _tell_of_killed_workers(self, error: RuntimeError) -> None:
        """Raise WorkersEnded if that is what PyTorch tells: it has one class for everything."""
        told = re.search(r"DataLoader worker .*?(killed by signal: \w+|exited unexpectedly)", str(error))
        if told is None:
            return
        codes = [process.exitcode for process in self._workers if not process.is_alive()]
        self.close()
        raise WorkersEnded(f"{told[0]}. {why_workers_ended(codes, shared_bytes=self._shared_bytes)}") from None

    @property
    def _shared_bytes(self) -> int:
        """What the workers hand over in /dev/shm: a batch each, and one more under way."""
        plan = self.plan
        num_pictures = plan.batch_size * plan.num_picks * plan.views.num_crops
        return num_pictures * 3 * plan.side**2 * 4 * 2 * self.num_workers

    def state_dict(self) -> dict[str, int]:
        """Where the loader stands: ``{"epoch": e, "iteration": batches given in it}``."""
        return self._position.state_dict()

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on from a position: the next iteration gives the rest of that epoch.

        Raises:
            ValueError: the state is not one of :meth:`state_dict`, or lies beyond the epoch's end.
        """
        self._position.load_state_dict(state)

    def close(self) -> None:
        """End the worker processes. Iterating again starts new ones."""
        self._batches = None  # PyTorch ends its workers with the DataLoader
        self._workers = []

    def __enter__(self) -> CpuLoader:
        return self

    def __exit__(self, _class: object, error: object, _traceback: object) -> None:
        try:
            # PyTorch raises it wherever the program is when a worker ends.
            if isinstance(error, RuntimeError) and not isinstance(error, WorkersEnded):
                self._tell_of_killed_workers(error)
        finally:
            self.close()

    def _start(self) -> DataLoader[_Row | str]:
        check_room(self._shared_bytes)
        return DataLoader(
            _ClipDataset(self.plan),
            batch_sampler=self._order,
            num_workers=self.num_workers,
            collate_fn=partial(_collate, shared_bytes=self._shared_bytes),
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_prepare_worker,
            persistent_workers=self.num_workers > 0,
        )


@dataclass(frozen=True)
class _BatchOrder:
    """What is left of an epoch as lists of (epoch, sample), for DataLoader's ``batch_sampler``."""

    plan: Plan
    position: Position

    def __len__(self) -> int:
        return self.plan.num_batches

    def __iter__(self) -> Iterator[list[_Item]]:
        epoch = self.position.epoch
        for iteration in range(self.position.iteration, len(self)):
            yield [(epoch, sample) for sample in self.plan.batch(epoch, iteration)[0].tolist()]


@dataclass(frozen=True)
class _ClipDataset(Dataset[_Row | str]):
    plan: Plan

    def __getitem__(self, item: _Item) -> _Row | str:
        epoch, sample = item
        plan, draws = self.plan, self.plan.draws(epoch, sample)
        try:
            pixels, frames, *_ = load_sample(plan, sample, draws)
        except Exception as error:
            # As data: DataLoader would wrap an exception in its own text and a traceback.
            return error_text(error, name=plan.name(sample))
        pictures = torch.from_numpy(pixels).permute(0, 3, 1, 2)  # (num_picks, 3, height, width)
        height, width = pixels.shape[1:3]
        crops = draws.boxes(width, height) if len(draws.flips) > 1 else [(0, 0, width, height)]
        views = [_view(pictures, box, flip, side=plan.side) for box, flip in zip(crops, draws.flips, strict=True)]
        return torch.stack(views), frames, draws.flips


def _view(pictures: torch.Tensor, box: Box, flip: bool, *, side: int) -> torch.Tensor:
    x, y, width, height = box
    view = pictures[:, :, y : y + height, x : x + width]
    view = transforms.resize(view, [side, side], InterpolationMode.BILINEAR, antialias=True)
    if flip:
        view = transforms.horizontal_flip(view)
    view = transforms.to_dtype(view, torch.float32, scale=True)
    return transforms.normalize(view, IMAGENET_MEAN, IMAGENET_STD)


def _collate(rows: list[_Row | str], *, shared_bytes: int) -> _Batch | str:
    """Rows as a batch, or the first error among them."""
    clips, frames, flips = [], [], []
    for row in rows:
        if isinstance(row, str):
            return row
        clips.append(row[0])
        frames.append(row[1])
        flips.append(row[2])
    batch = torch.stack(clips).contiguous(), torch.from_numpy(np.stack(frames)), torch.tensor(flips)
    if get_worker_info() is not None:
        # Or the thread that feeds PyTorch's queue does it: where there is no room, that prints a traceback and drops
        # the batch, and the parent waits for it without end.
        try:
            for column in batch:
                column.share_memory_()
        except RuntimeError as error:
            if os.strerror(errno.ENOSPC) not in str(error):
                raise
            return f"a worker process could not hand a batch over because of {why_it_is_full(shared_bytes)}"
    return batch


def _prepare_worker(_worker: int) -> None:
    torch.set_num_threads(1)  # the workers share the cores already
    follow_parent(os.getppid())
