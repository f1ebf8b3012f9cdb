"""Whether the batches that workers hand over fit in /dev/shm, which containers keep small."""

from __future__ import annotations

import logging
import os
from statistics import fmean
from typing import Protocol

from ..machine import Room, mib, more_shared_memory, shared_memory
from .plan import Plan

__all__ = ["batch_bytes", "check_room"]

log = logging.getLogger(__name__)

_NUM_SAMPLES = 8
"""Clips whose sizes stand for those of all."""


class Source(Protocol):
    """What a worker runs."""

    @property
    def plan(self) -> Plan:
        """What it loads."""

    def clip_bytes(self, epoch: int, sample: int) -> int:
        """About how large a clip is that it hands over."""


def batch_bytes(source: Source, *, at: tuple[int, int]) -> int:
    """About how many bytes a worker hands over for the batch at (epoch, iteration), by a look at a few of its clips.

    Nothing is decoded. Clips that cannot be read do not count: they are an error when their turn comes.
    """
    plan, (epoch, iteration) = source.plan, at
    samples, _ = plan.batch(epoch, iteration)
    sizes = []
    for sample in samples[:: -(-len(samples) // _NUM_SAMPLES)].tolist():
        try:
            sizes.append(source.clip_bytes(epoch, sample))
        except (ValueError, OSError):
            continue
    return int(fmean(sizes) * plan.batch_size) if sizes else 0


def check_room(bytes_needed: int, *, room: Room | None = None, num_processes: int | None = None) -> None:
    """Compare what a loader is about to take of /dev/shm with what is free there; log it where it is close.

    Args:
        bytes_needed: about, by each process.
        room: that there is; by default that of /dev/shm.
        num_processes: on this machine that load; by default as many as torchrun says.

    Raises:
        ValueError: not half of it would fit. A worker that writes more than there is is killed by the system.
    """
    if room is None:
        try:
            room = shared_memory()
        except OSError:  # DALI says so itself
            return
    if num_processes is None:
        num_processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    wanted = bytes_needed * num_processes
    if wanted <= room.free:
        return
    text = (
        f"/dev/shm has {mib(room.free)} free of {mib(room.total)}, and the batches that worker processes hand over "
        f"there take about {mib(wanted)}. {more_shared_memory(wanted)}"
    )
    if wanted / 2 > room.free:
        raise ValueError(text)
    log.warning("%s", text)
