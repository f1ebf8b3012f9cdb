"""What this machine lets a process use: CPU cores, memory and shared memory, a container's limits included."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = [
    "Room",
    "cpu_quota",
    "default_num_workers",
    "memory",
    "mib",
    "more_shared_memory",
    "needed_bytes",
    "num_cpus",
    "shared_memory",
    "why_it_is_full",
]

_ROOT = Path("/")
_NUM_KEPT = 2
"""Batches that DALI keeps beside those that are under way: its pipeline's prefetch_queue_depth."""


class Room(NamedTuple):
    """How large something is, and how much of it is free, in bytes."""

    total: int
    free: int


def num_cpus(*, root: Path = _ROOT) -> int:
    """CPU cores that this process may use at once: those it may run on, or fewer where its container has a quota."""
    num_seen = len(os.sched_getaffinity(0))
    return max(1, math.ceil(min(num_seen, cpu_quota(root=root))))


def default_num_workers(*, root: Path = _ROOT) -> int:
    """One worker a CPU core that this process may use, 8 at most."""
    return min(8, num_cpus(root=root))


def cpu_quota(*, root: Path = _ROOT) -> float:
    """CPU cores whose time this process may use, by its control groups; infinity without a limit.

    Docker's --cpus and Kubernetes' limits are such quotas: all cores are seen, and few of them can be kept busy.

    Args:
        root: where /proc and /sys are, for tests.
    """
    quotas = [math.inf]
    for text in _settings("cpu.max", root=root):  # version 2: "200000 100000", or "max 100000"
        quota, period = text.split()
        if quota != "max":
            quotas.append(int(quota) / int(period))
    for folder in _folders("cpu", root=root):
        quota, period = (_read(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
        if quota and period and int(quota) > 0:  # -1 is no limit
            quotas.append(int(quota) / int(period))
    return min(quotas)


def memory(*, root: Path = _ROOT) -> Room:
    """The memory that this process may use, by the system and its control groups.

    Args:
        root: where /proc and /sys are, for tests.
    """
    lines = (line.split() for line in _read(root / "proc/meminfo").splitlines())
    kib = {words[0]: int(words[1]) for words in lines if len(words) > 1}
    rooms = [Room(kib["MemTotal:"] * 1024, kib["MemAvailable:"] * 1024)]
    for limit_name, used_name, controller in (
        ("memory.max", "memory.current", ""),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory"),
    ):
        for folder in _folders(controller, root=root):
            limit, used = _read(folder / limit_name), _read(folder / used_name)
            if limit and used and limit != "max":
                # The cache of files counts as used, and is given up where memory is short.
                cached = dict(line.split() for line in _read(folder / "memory.stat").splitlines())
                free = int(limit) - int(used) + int(cached.get("inactive_file", cached.get("total_inactive_file", 0)))
                rooms.append(Room(int(limit), free))
    return Room(min(room.total for room in rooms), max(0, min(room.free for room in rooms)))


def shared_memory(folder: Path = Path("/dev/shm")) -> Room:
    """The shared memory in which worker processes hand batches over.

    Raises:
        OSError: there is none.
    """
    found = os.statvfs(folder)
    return Room(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)


def needed_bytes(bytes_a_batch: int, *, num_batches: int) -> int:
    """What a loader takes of shared memory.

    Args:
        bytes_a_batch: what a worker hands over.
        num_batches: that the workers may be ahead.
    """
    return bytes_a_batch * (num_batches + _NUM_KEPT)


def mib(num_bytes: int) -> str:
    """So many bytes, as messages have it: "1,024 MiB"."""
    return f"{num_bytes / 2**20:,.0f} MiB"


def more_shared_memory(bytes_needed: int) -> str:
    """How to have so much of it, or to need less: what to tell where it is short."""
    gib = max(1, -(-2 * bytes_needed // 2**30))
    return (
        f"In a container, start it with --shm-size={gib}g (Docker's default is 64 MiB; in Kubernetes it is a volume of "
        "medium Memory at /dev/shm). Or use a smaller batch_size or fewer num_workers."
    )


def why_it_is_full(bytes_needed: int) -> str:
    """What to tell where a worker found no room in it.

    Args:
        bytes_needed: about, by all workers; 0 if that is not known.
    """
    try:
        room = f"it is {mib(shared_memory().total)} large"
    except OSError:
        room = "there is none"
    needed = f" and the batches take about {mib(bytes_needed)}" if bytes_needed else ""
    return f"a full /dev/shm: {room}{needed}. {more_shared_memory(bytes_needed)}"


def _settings(name: str, *, root: Path) -> Iterator[str]:
    return filter(None, (_read(folder / name) for folder in _folders("", root=root)))


def _folders(controller: str, *, root: Path) -> Iterator[Path]:
    """The folders of this process's control groups, from its own up to the root: each may have a limit.

    Args:
        controller: of version 1, such as "cpu"; empty for version 2, which has one hierarchy.
    """
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controller not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / controller
        own = top / path.lstrip("/")
        # In a container the path may be the host's, which is not to be seen there: its limits are at the top then.
        yield from (folder for folder in (own, *own.parents) if folder.is_relative_to(top))


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:  # no such file, or not for us
        return ""
