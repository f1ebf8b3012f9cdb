"""Whether the batches that workers hand over fit in /dev/shm, which containers keep small."""

from __future__ import annotations

import logging
import os
from statistics import fmean

from .machine import Room, mib, more_shared_memory, shared_memory
from .rawframes import FrameFolder
from .source import Plan

__all__ = ["batch_bytes", "check_room"]

log = logging.getLogger(__name__)

_NUM_SAMPLES = 8
"""Clips whose sizes stand for those of all."""


def batch_bytes(plan: Plan, route: str, *, epoch: int, iteration: int) -> int:
    """About how many bytes a worker hands over for a batch, by a look at a few of its clips.

    Nothing is decoded. Clips that cannot be read do not count: they are an error when their turn comes. 0 where only
    the reading of packets would tell (gpu-sparse), which is little.
    """
    samples, _ = plan.batch(epoch, iteration)
    sizes = []
    for sample in samples[:: -(-len(samples) // _NUM_SAMPLES)].tolist():
        try:
            sizes.append(_clip_bytes(plan, route, epoch=epoch, sample=sample))
        except (ValueError, OSError):
            continue
    return int(fmean(sizes) * plan.batch_size) if sizes else 0


def _clip_bytes(plan: Plan, route: str, *, epoch: int, sample: int) -> int:
    if route == "gpu-sparse":
        return 0
    video = plan.clips.video(sample)
    if isinstance(video, FrameFolder):
        (picture,) = video.read([video.first_frame])
        return plan.num_picks * len(picture.jpeg)
    if route == "gpu":
        return video.stamp().size_bytes  # a copy of its packets
    _, _, width, height = plan.draws(epoch, sample).box(*video.scan().upright_size)
    return plan.num_picks * width * height * 3


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
