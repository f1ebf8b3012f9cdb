"""What works here and what to do about the rest: the command ``mgs-dali doctor``.

Nothing that may be missing is imported where this module is: not PyTorch, not DALI, not PyAV. Checks are functions from
what was found to lines, so that each can be tried on a machine that has not got the trouble.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import re
import resource
import shutil
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

from .driver import Driver, find_driver, trouble
from .machine import (
    Room,
    cpu_quota,
    default_num_workers,
    memory,
    mib,
    more_shared_memory,
    needed_bytes,
    shared_memory,
)

__all__ = ["Line", "main"]

Level = Literal["green", "yellow", "red"]
LEVELS: Final[tuple[Level, ...]] = ("green", "yellow", "red")
_COLOURS: Final = {"green": "32", "yellow": "33", "red": "31"}

_PACKAGES: Final = ("numpy", "av", "pyarrow", "tqdm", "jsonargparse")
"""What the package cannot do without, as they are called on PyPI."""
_CUDA_BUILDS: Final = {"nvidia-dali-cuda130": 13, "nvidia-dali-cuda120": 12, "nvidia-dali-cuda110": 11}
_OLDEST_NVJPEG: Final = (13, 2)

# The loader's default batch: 8 clips of 8 pictures, of videos as data sets for recognition have them.
_BATCH_BYTES: Final = 8 * 8 * 340 * 256 * 3
_NEEDED_TO_DECODE: Final = {"Python", "packages", "PyTorch", "DALI"}
_ENOUGH_FILES: Final = 4096
_GIB: Final = 2**30

_WEIGHTS_URL: Final = "https://download.pytorch.org/models/resnet50-0676ba61.pth"
_SECONDS_TO_REACH: Final = 4.0


@dataclass(frozen=True)
class Line:
    """One row of the table."""

    name: str
    level: Level
    found: str
    do: str = ""
    """What to do about it; empty where it is green."""


# --- software ---------------------------------------------------------------------------------------------------------


def check_python(version: tuple[int, ...] = sys.version_info[:3]) -> Line:
    """Whether the interpreter is new enough."""
    found = ".".join(map(str, version))
    if version < (3, 10):
        return Line("Python", "red", found, "Install Python 3.10 or newer and make the environment anew.")
    return Line("Python", "green", found)


def check_packages(versions: Mapping[str, str | None], *, pyav_problem: str) -> Line:
    """What the package needs, PyTorch and DALI aside.

    Args:
        versions: of the packages needed; None for one that is not here.
        pyav_problem: why PyAV cannot be used; empty where it can.
    """
    missing = [name for name, version in versions.items() if version is None]
    found = ", ".join(f"{name} {version}" for name, version in versions.items() if version is not None)
    if missing:
        do = f"pip install {' '.join(missing)} (or make, in a checkout: it takes the tested versions)"
        return Line("packages", "red", f"{', '.join(missing)} missing; {found}".removesuffix("; "), do)
    if pyav_problem:
        return Line("packages", "red", pyav_problem, "pip install 'av>=17,<20'; if it does not load, reinstall it.")
    return Line("packages", "green", found)


def check_torch(version: str | None, cuda: str | None, *, has_gpu: bool) -> Line:
    """PyTorch, which holds the batches.

    Args:
        version: None if it is not here.
        cuda: that it was built for, such as "13.2"; None for none.
        has_gpu: a GPU is on this machine.
    """
    if version is None:
        return Line("PyTorch", "red", "missing", "pip install 'mgs-dali[train]' (it brings torch and torchvision)")
    if cuda is None:
        if has_gpu:
            do = "Install a CUDA build: pip install --force-reinstall torch, without an index for CPU builds."
            return Line("PyTorch", "red", f"{version}, built without CUDA on a machine with a GPU", do)
        return Line("PyTorch", "green", f"{version}, built without CUDA")
    return Line("PyTorch", "green", f"{version}, CUDA {cuda}")


def check_dali(builds: Mapping[str, str], torch_cuda: str | None) -> Line:
    """NVIDIA DALI, of which one build must be here.

    Args:
        builds: distribution → version, of those that are installed.
        torch_cuda: that PyTorch was built for.
    """
    if not builds:
        build = "cuda120" if (torch_cuda or "").startswith("12.") else "cuda130"
        do = f"pip install 'mgs-dali[{build}]'; without it: --loader cpu"
        return Line("DALI", "red", "missing", do)
    found = ", ".join(f"{version} ({name})" for name, version in builds.items())
    if len(builds) > 1:
        extra = " ".join(sorted(builds)[:-1])
        do = f"Both write the same files: pip uninstall {' '.join(builds)}, then install one. To drop: {extra}."
        return Line("DALI", "red", found, do)
    major = _CUDA_BUILDS[next(iter(builds))]
    if torch_cuda is not None and int(torch_cuda.split(".")[0]) != major:
        do = (
            f"They share a GPU: install the DALI build for CUDA {torch_cuda.split('.')[0]}, or the PyTorch build "
            f"for CUDA {major} (see constraints-cuda{major}0.txt)."
        )
        return Line("DALI", "yellow", f"{found}; PyTorch is for CUDA {torch_cuda}", do)
    return Line("DALI", "green", found)


def check_nvjpeg(version: str | None, *, has_gpu: bool) -> Line:
    """nvJPEG, which decodes frame folders on a GPU."""
    if version is None and not has_gpu:
        return Line("nvJPEG", "green", "missing, and no GPU needs it")
    if version is None:
        do = "pip install nvidia-nvjpeg (for CUDA 12: nvidia-nvjpeg-cu12); only frame folders on a GPU need it."
        return Line("nvJPEG", "yellow", "missing", do)
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if numbers[0] >= 13 and numbers < _OLDEST_NVJPEG:
        do = "pip install --upgrade nvidia-nvjpeg: from 13.2 on its pictures are held to the CPU's."
        return Line("nvJPEG", "yellow", version, do)
    return Line("nvJPEG", "green", version)


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _pyav_problem() -> str:
    try:
        from .decode import pyav  # noqa: F401, PLC0415  (needs PyAV)
    except ImportError as error:
        return " ".join(str(error).split())
    return ""


def _torch_cuda() -> str | None:
    """What PyTorch was built for, without the seconds that importing it takes."""
    try:
        text = Path(str(importlib.metadata.distribution("torch").locate_file("torch/version.py"))).read_text()
    except (importlib.metadata.PackageNotFoundError, OSError):
        return None
    found = re.search(r"^cuda\b[^=\n]*=\s*'([\d.]+)'", text, re.MULTILINE)
    return found[1] if found else None


# --- the GPU ----------------------------------------------------------------------------------------------------------


def check_gpu(driver: Driver, *, cuda_major: int | None, in_container: bool) -> list[Line]:
    """The driver, the GPUs, and what their video decoder takes."""
    if not driver.version and not driver.num_cards:
        do = (
            "Nothing, if this machine has none: videos are decoded on the CPU (route='host'). On a GPU server see "
            "docs/gpu.md."
        )
        return [Line("driver", "yellow", "no NVIDIA GPU and no driver here", do)]
    found = trouble(driver, cuda_major=cuda_major, in_container=in_container)
    lines = []
    if found is None or found.what == "NVDEC":
        known = f"CUDA {driver.cuda // 1000}.{driver.cuda % 1000 // 10}"
        gpus = ", ".join(f"{driver.gpus.count(name)} x {name}" for name in dict.fromkeys(driver.gpus))
        lines.append(Line("driver", "green", f"{driver.version}, {known}; {gpus}"))
    if found is not None:
        return [*lines, Line(found.what, "red", found.found, found.do)]
    if driver.codecs is None:
        do = "Put the packages right first (see that line); they know how to ask."
        return [*lines, Line("NVDEC", "yellow", "not asked for its codecs", do)]
    decoded = f"decodes {', '.join(driver.codecs)}"
    missing = [codec for codec in ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4") if codec not in driver.codecs]
    if missing:
        do = f"Videos of {', '.join(missing)} are decoded on the CPU; encode them as {driver.codecs[0]} to avoid that."
        return [*lines, Line("NVDEC", "yellow", f"{decoded}; not {', '.join(missing)}", do)]
    return [*lines, Line("NVDEC", "green", decoded)]


def _in_container(root: Path = Path("/")) -> bool:
    if (root / ".dockerenv").exists() or (root / "run/.containerenv").exists():
        return True
    names = ("container", "KUBERNETES_SERVICE_HOST", "ENROOT_ROOTFS", "SINGULARITY_CONTAINER", "APPTAINER_CONTAINER")
    return any(name in os.environ for name in names)


# --- the machine ------------------------------------------------------------------------------------------------------


def check_shared_memory(room: Room | None, *, num_workers: int, num_processes: int) -> Line:
    """/dev/shm against what the default batch needs in each training process of this machine."""
    wanted = num_processes * needed_bytes(_BATCH_BYTES, num_batches=max(2, num_workers))
    needs = f"the default batch needs {mib(wanted)}" + (f" in {num_processes} processes" * (num_processes > 1))
    if room is None:
        return Line("/dev/shm", "red", f"there is none; {needs}", more_shared_memory(wanted))
    found = f"{mib(room.free)} free of {mib(room.total)}; {needs}"
    if room.free < wanted / 2:
        return Line("/dev/shm", "red", found, more_shared_memory(wanted))
    if room.free < wanted:
        return Line("/dev/shm", "yellow", found, more_shared_memory(wanted))
    return Line("/dev/shm", "green", found)


def check_open_files(soft: int, hard: int) -> Line:
    """How many files a process may hold open: sockets and semaphores of the workers are files too."""
    no_limit = resource.RLIM_INFINITY
    if soft != no_limit and soft < _ENOUGH_FILES:
        most = "no limit" if hard == no_limit else f"{hard:,}"
        can = hard == no_limit or hard >= _ENOUGH_FILES
        do = f"ulimit -n {_ENOUGH_FILES if can else 'needs a higher hard limit'}; in a container --ulimit nofile=65536"
        level: Level = "red" if soft < 256 else "yellow"
        return Line("open files", level, f"{soft:,} (hard limit: {most})", do)
    return Line("open files", "green", "no limit" if soft == no_limit else f"{soft:,}")


def check_cpus(num_seen: int, quota: float, *, num_gpus: int, num_threads: str | None) -> Line:
    """CPU cores against a container's quota.

    Args:
        num_seen: cores that processes may run on.
        quota: cores whose time they may use; infinity without a limit.
        num_gpus: that are to be fed.
        num_threads: what OMP_NUM_THREADS is set to.
    """
    if quota < num_seen:
        found = f"{num_seen} seen, {quota:g} of them by the container's quota"
        whole = max(1, int(quota))
        if num_threads is None:
            do = f"PyTorch starts {num_seen} threads: set OMP_NUM_THREADS={whole}, or raise the quota (--cpus)."
            return Line("CPU cores", "yellow", found, do)
        num_seen = whole
    else:
        found = str(num_seen)
    if num_gpus and num_seen < 4 * num_gpus:
        do = "Ask for 4 or more a GPU: workers read files, parse packets and decode what NVDEC does not."
        return Line("CPU cores", "yellow", f"{found}, for {num_gpus} GPU{'s' if num_gpus > 1 else ''}", do)
    return Line("CPU cores", "green", found)


def check_memory(room: Room, *, num_workers: int) -> Line:
    """Memory against what the training process and its workers take."""
    wanted = 3 * _GIB + num_workers * _GIB // 2
    found = f"{_gib(room.free)} free of {_gib(room.total)}"
    if room.free < wanted:
        do = f"{num_workers} workers and a training take about {_gib(wanted)}: use fewer num_workers, or give it more."
        return Line("memory", "red" if room.free < _GIB else "yellow", found, do)
    return Line("memory", "green", found)


def check_disk(folder: Path) -> Line:
    """The disk that runs are written to."""
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    if not os.access(there, os.W_OK):
        do = f"Start from a folder that may be written to, or train with --out elsewhere (here: user {os.getuid()})."
        return Line("run folder", "red", f"{there} cannot be written to", do)
    free = shutil.disk_usage(there).free
    found = f"{folder}: {_gib(free)} free"
    if free < 2 * _GIB:
        do = "A run keeps two checkpoints of 0.2 to 0.5 GiB and more with keep_checkpoints: free some, or use --out."
        return Line("run folder", "red" if free < _GIB // 2 else "yellow", found, do)
    return Line("run folder", "green", found)


def check_weights(folder: Path, *, reach: Callable[[], str] | None) -> Line:
    """The ImageNet weights that a training starts from, or the way to them.

    Args:
        folder: where PyTorch keeps them.
        reach: tells why their server is not reached, empty where it is; None not to ask.
    """
    name = _WEIGHTS_URL.rsplit("/", 1)[1]
    if (folder / name).exists():
        return Line("weights", "green", f"{folder / name}")
    missing = f"{name} is not in {folder}"
    do = f"Elsewhere fetch {_WEIGHTS_URL} and copy it there; or train with --init FILE or --weights null."
    if reach is None:
        return Line("weights", "yellow", f"{missing}; the way to it was not tried", do)
    if why := reach():
        return Line("weights", "yellow", f"{missing}, and {_WEIGHTS_URL.split('/')[2]} is not reached: {why}", do)
    return Line("weights", "green", "downloaded when a training asks for them")


def weights_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Where PyTorch keeps weights, as its torch.hub says."""
    cache = environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = environ.get("TORCH_HOME") or os.path.join(cache, "torch")
    return Path(os.path.expanduser(home), "hub", "checkpoints")


def _reach() -> str:
    """Why the server of the weights is not reached; empty where it is."""
    answers = [f"no answer within {_SECONDS_TO_REACH:.0f} s"]

    def ask() -> None:
        try:
            request = urllib.request.Request(_WEIGHTS_URL, method="HEAD")
            with urllib.request.urlopen(request, timeout=_SECONDS_TO_REACH):
                answers.append("")
        except Exception as error:  # whatever a proxy makes of it
            reason = getattr(error, "reason", error)  # what urllib has wrapped
            answers.append(" ".join(str(reason).split()) or type(error).__name__)

    # A thread of its own, because the time limit does not hold for the lookup of the name.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_SECONDS_TO_REACH)
    return answers[-1]


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / _GIB:,.1f} GiB"


# --- the command ------------------------------------------------------------------------------------------------------


def examine(*, quick: bool, root: Path = Path("/"), run_folder: Path = Path("runs")) -> list[Line]:
    """All checks that need no decoding.

    Args:
        quick: leave out what takes seconds.
        root: where /proc, /dev and /sys are, for tests.
        run_folder: that runs are written to.
    """
    driver = find_driver(root=root)
    has_gpu = bool(driver.version or driver.num_cards)
    torch_cuda = _torch_cuda()
    builds = {name: version for name in _CUDA_BUILDS if (version := _version(name)) is not None}
    cuda_major = _CUDA_BUILDS[next(iter(builds))] if len(builds) == 1 else None
    num_processes = max(1, len(driver.gpus))
    try:
        room = shared_memory()
    except OSError:
        room = None
    num_workers = default_num_workers()
    return [
        check_python(),
        check_packages({name: _version(name) for name in _PACKAGES}, pyav_problem=_pyav_problem()),
        check_torch(_version("torch"), torch_cuda, has_gpu=has_gpu),
        check_dali(builds, torch_cuda),
        *check_gpu(driver, cuda_major=cuda_major, in_container=_in_container(root)),
        check_nvjpeg(_version("nvidia-nvjpeg") or _version("nvidia-nvjpeg-cu12"), has_gpu=has_gpu),
        check_shared_memory(room, num_workers=num_workers, num_processes=num_processes),
        check_open_files(*resource.getrlimit(resource.RLIMIT_NOFILE)),
        check_cpus(
            len(os.sched_getaffinity(0)),
            cpu_quota(root=root),
            num_gpus=len(driver.gpus),
            num_threads=os.environ.get("OMP_NUM_THREADS"),
        ),
        check_memory(memory(root=root), num_workers=num_processes * num_workers),
        check_disk(run_folder),
        check_weights(weights_folder(), reach=None if quick else _reach),
    ]


def prove_decoding(*, device: str, timeout_s: float = 60.0) -> list[Line]:
    """One line a codec: whether the bundled clip of it comes back right on each route."""
    from .load.proof import GPU_ROUTES, prove  # noqa: PLC0415  (not for what --quick says)

    lines = []
    proofs = prove(device=device, timeout_s=timeout_s)
    for codec in dict.fromkeys(proof.codec for proof in proofs):
        here = [proof for proof in proofs if proof.codec == codec]
        bad = [proof for proof in here if proof.outcome in ("wrong", "failed")]
        told = "; ".join(
            f"{outcome}: {', '.join(proof.route for proof in here if proof.outcome == outcome)}"
            for outcome in dict.fromkeys(proof.outcome for proof in here)
        )
        name = f"decode {codec}"
        if bad:
            do = f"{bad[0].route}: {bad[0].text}. If packages and driver are green, please report this with --json."
            lines.append(Line(name, "red", told, do))
        elif device == "cuda" and not any(p.outcome == "right" for p in here if p.route in GPU_ROUTES):
            refused = next((proof.text for proof in here if proof.outcome == "refused"), "")
            lines.append(Line(name, "yellow", told, f"Such videos are decoded on the CPU: {refused}"))
        else:
            lines.append(Line(name, "green", told))
    return lines


def show(lines: Iterable[Line], *, in_colour: bool) -> str:
    """The table."""
    lines = list(lines)
    width = max((len(line.name) for line in lines), default=0)
    rows = []
    for line in lines:
        level = f"{line.level:<6}"
        if in_colour:
            level = f"\x1b[{_COLOURS[line.level]}m{level}\x1b[0m"
        rows.append(f"{level}  {line.name:<{width}}  {line.found}")
        if line.do:
            rows.append(f"{'':<6}  {'':<{width}}  -> {line.do}")
    return "\n".join(rows)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mgs-dali doctor",
        description="Say what works here and what to do about the rest; with a list, also which route is fastest for "
        "its videos. Exit status: 0, 1 where a line is red, 2 for a wrong command line.",
    )
    parser.add_argument("list", metavar="LIST", nargs="?", help="a list of clips, to try for ten seconds")
    parser.add_argument("--root", metavar="DIR", help="the folder that the list's paths start from; by default its own")
    parser.add_argument("--template", help="of a list of frame folders: how files are named, such as img_{:05}.jpg")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--quick", action="store_true", help="without decoding and internet, under 3 seconds")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run ``mgs-dali doctor`` with what follows it.

    Returns:
        0, 1 where a line is red, 2 for a wrong command line, 130 after Ctrl-C.
    """
    try:
        given = _parser().parse_args(list(arguments))
    except SystemExit as end:
        return int(end.code or 0)
    if given.quick and given.list:
        print("error: --quick decodes nothing, and a list is tried by decoding it. Leave one out.", file=sys.stderr)
        return 2
    if given.list is None and (given.root or given.template):
        print("error: --root and --template belong to a LIST: mgs-dali doctor LIST --root DIR", file=sys.stderr)
        return 2
    try:
        return _run(given)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _run(given: argparse.Namespace) -> int:
    lines: list[Line] = []

    def tell(more: list[Line]) -> None:
        lines.extend(more)
        if not given.json:
            in_colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
            print(show(more, in_colour=in_colour), flush=True)

    tell(examine(quick=given.quick))
    red = {line.name for line in lines if line.level == "red"}
    device = "cuda" if any(line.name == "NVDEC" and line.level != "red" for line in lines) else "cpu"
    if red & _NEEDED_TO_DECODE and not given.quick:
        tell([Line("decoding", "red", "not tried", "Put what is red above right first.")])
    elif not given.quick:
        tell(prove_decoding(device=device))
    trial = None
    if given.list is not None and not red & _NEEDED_TO_DECODE:
        from .lists.read import read_annotations  # noqa: PLC0415  (as above)
        from .load.trial import try_clips  # noqa: PLC0415

        try:
            clips = read_annotations(given.list, root=given.root, template=given.template)
            trial = try_clips(clips, device=device)
        except (ValueError, OSError) as error:
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            return 2
        if not given.json:
            print("", *trial.lines(), sep="\n")
    worst = max((line.level for line in lines), key=LEVELS.index)
    if given.json:
        found: dict[str, Any] = {"mgs_dali": _version("mgs-dali"), "machine": platform.platform(), "level": worst}
        found |= {"lines": [asdict(line) for line in lines], "trial": trial and trial.to_json()}
        print(json.dumps(found, indent=2))
    return int(worst == "red")
