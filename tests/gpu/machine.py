"""What the machine is, and how busy and full it gets while something runs."""

from __future__ import annotations

import ctypes
import functools
import json
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

NVIDIA_SMI = "nvidia-smi"
_QUERY = "utilization.gpu,utilization.decoder"


def environment(root: Path) -> dict[str, Any]:
    """Hardware and versions, without loading PyTorch or DALI; what cannot be found out is None."""
    # The name and driver as nvidia-smi gives them: "NVIDIA H200, 580.65.06, 143771 MiB"
    gpus = _output([NVIDIA_SMI, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"])
    packages = ("nvidia-dali-cuda130", "nvidia-dali-cuda120", "torch", "torchvision", "av", "numpy")
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "command": " ".join(["python", *sys.argv]),
        "revision": _output(["git", "-C", str(root), "rev-parse", "--short", "HEAD"]),
        "gpus": gpus.splitlines() if gpus else None,
        "python": platform.python_version(),
        "packages": {name: version for name in packages if (version := _version(name))},
        "num_cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30),
        "shared_memory_gib": round(shutil.disk_usage("/dev/shm").total / 2**30, 1),
        "NVIDIA_DRIVER_CAPABILITIES": os.environ.get("NVIDIA_DRIVER_CAPABILITIES"),
        "LD_LIBRARY_PATH": os.environ.get("LD_LIBRARY_PATH"),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _output(command: list[str]) -> str | None:
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()


def can_load(library: str) -> bool:
    """Whether the dynamic linker finds a library by name."""
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def mapped_libraries(prefixes: tuple[str, ...]) -> list[str]:
    """Paths of the libraries in this process whose file names begin so."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    paths = {line.split(maxsplit=5)[5] for line in lines if line.count("/") > 0}
    return sorted(path for path in paths if path.rsplit("/", 1)[-1].startswith(prefixes))


def without_folders_of(library: str, search_path: str) -> str:
    """A search path such as LD_LIBRARY_PATH, less the folders that hold a library."""
    return os.pathsep.join(
        folder for folder in search_path.split(os.pathsep) if folder and not list(Path(folder).glob(f"{library}*"))
    )


# --- sampling while something runs ----------------------------------------------------------------------------------


def parse_query(line: str) -> tuple[float, float] | None:
    """(GPU, decoder) utilisation in percent from a line of ``nvidia-smi --query-gpu``; None where a part is missing."""
    try:
        gpu, decoder = (float(part) for part in line.split(","))
    except ValueError:
        return None
    return gpu, decoder


class DmonParser:
    """Reads the same from lines of ``nvidia-smi dmon -s u``, by the names in its header."""

    def __init__(self) -> None:
        self._names: list[str] = []

    def __call__(self, line: str) -> tuple[float, float] | None:
        parts = line.replace("#", " ").split()
        if "dec" in parts:
            self._names = parts
        if line.startswith("#") or len(parts) != len(self._names):
            return None
        row = dict(zip(self._names, parts, strict=True))
        try:
            return float(row["sm"]), float(row["dec"])
        except (KeyError, ValueError):
            return None


class Utilisation:
    """Mean and peak use of the GPU and of its decoder while a block runs, as nvidia-smi sees them.

    The decoder's percentage is over all engines: one of seven busy is 14 %.
    """

    def __init__(self) -> None:
        self._samples: list[tuple[float, float]] = []
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Utilisation:
        query = [NVIDIA_SMI, "-i", "0", f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"]
        parse: Callable[[str], tuple[float, float] | None] = parse_query
        command = [*query, "-lms", "200"]
        if parse_query(_output(query) or "") is None:
            command, parse = [NVIDIA_SMI, "dmon", "-i", "0", "-s", "u", "-d", "1"], DmonParser()
        try:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        except OSError:
            return self
        assert self._process.stdout is not None
        threading.Thread(target=self._read, args=(self._process.stdout, parse), daemon=True).start()
        return self

    def _read(self, lines: Iterable[str], parse: Callable[[str], tuple[float, float] | None]) -> None:
        for line in lines:
            if (sample := parse(line)) is not None:
                self._samples.append(sample)

    def __exit__(self, *exception: object) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()

    def summary(self) -> dict[str, float] | None:
        """Percentages, or None where nvidia-smi is not here or says nothing."""
        if not self._samples:
            return None
        gpu, decoder = zip(*self._samples, strict=True)
        return {
            "gpu_mean": round(sum(gpu) / len(gpu), 1),
            "decoder_mean": round(sum(decoder) / len(decoder), 1),
            "decoder_max": max(decoder),
            "num_samples": len(self._samples),
        }


class PeakMemory:
    """The most memory that this process with its children, and the GPU, held while a block ran."""

    def __init__(self, *, device: str) -> None:
        self.host_gib = 0.0
        self.gpu_gib: float | None = None
        """Of all processes on the GPU, DALI's decoders included."""
        self._device = device
        self._done = threading.Event()

    def __enter__(self) -> PeakMemory:
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._done.set()

    def _watch(self) -> None:
        while not self._done.wait(0.2):
            self.host_gib = max(self.host_gib, round(tree_memory_bytes(os.getpid()) / 2**30, 2))
            if self._device == "cuda":
                import torch

                free, total = torch.cuda.mem_get_info()
                self.gpu_gib = max(self.gpu_gib or 0.0, round((total - free) / 2**30, 2))


def tree_memory_bytes(pid: int) -> int:
    """Memory of a process and its descendants; what they share is counted once."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except OSError:  # ended meanwhile
            continue
        # "pid (name) state parent ..."; the name may hold spaces and brackets.
        children.setdefault(int(text.rpartition(")")[2].split()[1]), []).append(int(stat.parent.name))
    total, waiting = 0, [pid]
    while waiting:
        process = waiting.pop()
        waiting += children.get(process, [])
        try:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total


# --- workers as on a GPU --------------------------------------------------------------------------------------------


def spawning(pipeline: Callable[..., Any]) -> Callable[..., Any]:
    """A pipeline definition whose workers are spawned: a process that has used CUDA must not fork, so this is how it is
    on a GPU, where the loader forks otherwise."""

    @functools.wraps(pipeline)
    def define(*inputs: Any, **options: Any) -> Any:
        return pipeline(*inputs, **(options | {"py_start_method": "spawn"}))

    return define


def spawn_workers() -> None:
    """Let all loaders of this process spawn their workers."""
    from mgs_dali.load import pipelines

    for name in pipelines.__all__:
        setattr(pipelines, name, spawning(getattr(pipelines, name)))


# --- results that survive -------------------------------------------------------------------------------------------


def write_json(file: Path, results: Any) -> None:
    """Write all of it or nothing: whenever this process or machine ends, the file can be read."""
    part = file.with_name(f"{file.name}.part")
    part.write_text(json.dumps(results, indent=1))
    part.replace(file)


class Report:
    """Results of one section, in its file from the moment they are known: a crash loses what comes after only."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._results: dict[str, Any] = {}

    def __setitem__(self, name: str, result: Any) -> None:
        self._results[name] = result
        write_json(self._file, self._results)

    def __getitem__(self, name: str) -> Any:
        return self._results[name]

    def add(self, name: str, **results: Any) -> None:
        """Put more into a result that is a dictionary; what is in it already is kept."""
        self[name] = self._results.get(name, {}) | results

    def attempt(self, name: str, measure: Callable[[], Any]) -> None:
        """Keep what a measurement gives, or the error that it raises beside what it has added before."""
        try:
            found = measure()
        except Exception as error:
            self.add(name, error=f"{type(error).__name__}: {error}"[:2000])
        else:
            if isinstance(found, dict):
                self.add(name, **found)
            elif found is not None:  # or it was added on the way
                self[name] = found
