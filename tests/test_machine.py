"""What a machine and its container let a process use, read from stand-ins of /proc and /sys."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from mgs_dali.machine import Room, cpu_quota, memory, more_shared_memory, num_cpus, shared_memory

MIB = 2**20
MEMINFO = "MemTotal:       16000000 kB\nMemFree:         1000000 kB\nMemAvailable:    8000000 kB\n"


def root(folder: Path, files: Mapping[str, str]) -> Path:
    for name, text in {"proc/meminfo": MEMINFO, **files}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text + "\n")
    return folder


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, math.inf),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "max 100000"}, math.inf),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "250000 100000"}, 2.5),
        # A limit of a group above counts too: the least of them holds.
        (
            {
                "proc/self/cgroup": "0::/pods/pod",
                "sys/fs/cgroup/pods/cpu.max": "300000 100000",
                "sys/fs/cgroup/pods/pod/cpu.max": "400000 100000",
            },
            3.0,
        ),
        # The host's path, which a container does not see.
        ({"proc/self/cgroup": "0::/../other", "sys/fs/cgroup/cpu.max": "50000 100000"}, 0.5),
        (
            {
                "proc/self/cgroup": "4:memory:/docker/1\n3:cpu,cpuacct:/docker/1",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "150000",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            1.5,
        ),
        (
            {
                "proc/self/cgroup": "3:cpu,cpuacct:/",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            math.inf,
        ),
    ],
)
def test_cpu_quotas(tmp_path: Path, files: Mapping[str, str], quota: float) -> None:
    assert cpu_quota(root=root(tmp_path, files)) == quota


def test_cores_are_those_of_the_quota_rounded_up(tmp_path: Path) -> None:
    folder = root(tmp_path, {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "20000 100000"})
    assert num_cpus(root=folder) == 1
    (folder / "sys/fs/cgroup/cpu.max").write_text("99900000 100000")
    assert num_cpus(root=folder) == len(os.sched_getaffinity(0))


def test_memory_of_the_system(tmp_path: Path) -> None:
    assert memory(root=root(tmp_path, {})) == Room(16_000_000 * 1024, 8_000_000 * 1024)


@pytest.mark.parametrize(
    ("cgroup", "folder", "limit", "used", "cached"),
    [
        ("0::/", "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
        ("0::/a/b", "sys/fs/cgroup/a", "memory.max", "memory.current", "inactive_file"),
        (
            "9:memory:/x",
            "sys/fs/cgroup/memory",
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
            "total_inactive_file",
        ),
    ],
)
def test_memory_of_a_container(tmp_path: Path, cgroup: str, folder: str, limit: str, used: str, cached: str) -> None:
    files = {
        "proc/self/cgroup": cgroup,
        f"{folder}/{limit}": f"{1000 * MIB}",
        f"{folder}/{used}": f"{600 * MIB}",
        f"{folder}/memory.stat": f"anon 5\n{cached} {250 * MIB}",  # files that are cached make room where it is needed
    }
    assert memory(root=root(tmp_path, files)) == Room(1000 * MIB, 650 * MIB)


def test_a_limit_above_what_there_is_changes_nothing(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/",
        "sys/fs/cgroup/memory.max": f"{10**15}",
        "sys/fs/cgroup/memory.current": "0",
    }
    assert memory(root=root(tmp_path, files)) == Room(16_000_000 * 1024, 8_000_000 * 1024)


def test_this_machine() -> None:
    assert 1 <= num_cpus() <= (os.cpu_count() or 1)
    for room in (memory(), shared_memory()):
        assert 0 <= room.free <= room.total
    with pytest.raises(OSError, match="no/such/folder"):
        shared_memory(Path("no/such/folder"))


@pytest.mark.parametrize(("wanted", "gib"), [(0, 1), (100 * MIB, 1), (600 * MIB, 2), (3000 * MIB, 6)])
def test_advice_is_for_twice_of_what_is_needed(wanted: int, gib: int) -> None:
    assert f"--shm-size={gib}g " in more_shared_memory(wanted)
