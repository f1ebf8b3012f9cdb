"""Speeds, measured on videos that are made here: the tables of docs/benchmarks.md.

    python -m train.benchmark                       # all sections
    python -m train.benchmark index --json out.json # how fast motion is indexed, against decoding alone
    python -m train.benchmark loaders               # clips a second of the loader's routes
    python -m train.benchmark loaders --list LIST --root FOLDER   # either one with your own videos

Machines drift, and share their cores with others: what is compared runs in turn, round after round, and the table shows
medians, and the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from functools import partial
from itertools import pairwise
from multiprocessing import get_context
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from tqdm import tqdm

from mgs_dali.decode.packets import open_video
from mgs_dali.index.indexing import index_videos
from mgs_dali.index.store import MotionIndex
from mgs_dali.lists.read import read_annotations
from mgs_dali.lists.table import Clips
from mgs_dali.machine import num_cpus
from mgs_dali.sampling import MotionGuided, Uniform

if TYPE_CHECKING:
    from mgs_dali.load.loader import ClipLoader

    from .cpu_loader import CpuLoader

T = TypeVar("T")

__all__ = [
    "Row",
    "benchmark_index",
    "benchmark_loaders",
    "compare_index",
    "compare_loaders",
    "main",
    "make_videos",
]

WIDTH, HEIGHT, NUM_FRAMES = 340, 256, 300
"""What Kinetics' videos are usually resized to, and their length at 30 frames a second."""

ENCODINGS: dict[str, tuple[str, str, dict[str, str]]] = {
    "h264-gop250": (".mp4", "libx264", {}),
    "h264-gop16": (".mp4", "libx264", {"g": "16"}),
    "vp9-one-gop": (".webm", "libvpx-vp9", {"deadline": "realtime", "cpu-used": "6", "crf": "34", "g": "9999"}),
}
"""Name -> suffix, encoder, options. The first is what x264 does by itself: GOPs of up to 250 frames, B-frames."""


@dataclass(frozen=True)
class Row:
    """One measured thing.

    Attributes:
        section: of the benchmark.
        videos: the name of their encoding.
        what: was measured.
        unit: of `median`.
        median: over the rounds.
        rounds: each round's value.
        ratio: median over the rounds of its value divided by the baseline's in the same round; None for the baseline.
    """

    section: str
    videos: str
    what: str
    unit: str
    median: float
    rounds: list[float]
    ratio: float | None


def main(arguments: Sequence[str] | None = None) -> int:
    """The command: measure, print tables, and write the figures where asked to. Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m train.benchmark", description="Measure speeds on videos made here."
    )
    parser.add_argument("section", nargs="?", choices=list(SECTIONS), help="what to measure; everything by default")
    parser.add_argument("--json", metavar="FILE", help="also write the figures, with machine, versions and date")
    parser.add_argument(
        "--num-videos",
        type=int,
        default=32,
        help="of each encoding; index: 16 times as many for what is faster than SSIM",
    )
    parser.add_argument("--num-rounds", type=int, default=3, help="how often everything that is compared runs")
    parser.add_argument("--num-workers", type=int, default=num_cpus(), help="one a CPU core by default")
    parser.add_argument("--list", metavar="LIST", help="measure a section with the videos of this list instead")
    parser.add_argument("--root", help="the folder that the list's paths are relative to; its own by default")
    given = parser.parse_args(arguments)
    if given.list is not None and given.section is None:
        parser.error("--list is for one section: python -m train.benchmark loaders --list LIST, or index")
    if given.root is not None and given.list is None:
        parser.error("--root says where the videos of --list are. Give both.")
    for name in ("num_videos", "num_rounds", "num_workers"):
        if getattr(given, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1, found {getattr(given, name)}")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        if given.list is not None:
            try:
                clips = read_annotations(given.list, root=given.root or Path(given.list).parent)
            except ValueError as error:
                parser.error(str(error))
            compare = {"index": compare_index, "loaders": compare_loaders}[given.section]
            rows = compare(
                clips,
                Path(given.list).stem,
                Path(folder),
                num_rounds=given.num_rounds,
                num_workers=given.num_workers,
            )
        for name, run in SECTIONS.items():
            if given.list is None and given.section in (None, name):
                rows += run(
                    Path(folder),
                    num_videos=given.num_videos,
                    num_rounds=given.num_rounds,
                    num_workers=given.num_workers,
                )
    machine = describe_machine()
    print(f"{', '.join(f'{name} {value}' for name, value in machine.items())}; {given.num_workers} worker processes\n")
    for name in dict.fromkeys(row.section for row in rows):
        print(table([row for row in rows if row.section == name]))
    if given.json:
        content = {"machine": machine, "num_workers": given.num_workers, "rows": [asdict(row) for row in rows]}
        Path(given.json).write_text(json.dumps(content, indent=2) + "\n")
    return 0


# --- videos ---------------------------------------------------------------------------------------------------------


def pictures(seed: int) -> Iterator[np.ndarray]:
    """A waving cloth that moves in bursts before a textured wall, (HEIGHT, WIDTH, 3) uint8, with a sensor's noise.

    The camera is held by hand. Encoded by x264's defaults, keyframes take 9 to 12 kB on average and the other frames
    0.9 to 1.2 kB; of three recorded clips of this size, encoded alike, 7 to 9 kB and 1.1 to 2.7 kB.
    """
    rng = np.random.default_rng(seed)
    margin, side = 16, 160
    wall, cloth = _texture(rng, HEIGHT + 2 * margin, WIDTH + 2 * margin), _texture(rng, side, side)
    rows, columns = np.arange(side)[:, None], np.arange(side)
    place, velocity = rng.uniform(0.2, 0.8, 2), np.zeros(2)
    shake = np.zeros(2)
    for index in range(NUM_FRAMES):
        if index % 20 == 0:
            velocity = rng.normal(0, 0.03, 2) if rng.random() < 0.9 else np.zeros(2)
        place = np.clip(place + velocity, 0, 1)
        shake = np.clip(0.95 * shake + rng.normal(0, 1.5, 2), 1 - margin, margin - 1)
        picture = _window(wall, *(margin + shake))
        top, left = (place * (HEIGHT - side, WIDTH - side) + shake).round().astype(int)
        top, left = np.clip((top, left), 0, (HEIGHT - side, WIDTH - side))
        wave = (8 * np.sin(rows / 9 + index / 4) * (np.abs(velocity).sum() > 0)).round().astype(int)
        picture[top : top + side, left : left + side] = cloth[rows, (columns + wave) % side]
        picture += rng.normal(0, 3, (HEIGHT, WIDTH, 1)).astype(np.float32)
        yield picture.clip(0, 255).astype(np.uint8)


def _window(wall: np.ndarray, top: float, left: float) -> np.ndarray:
    """(HEIGHT, WIDTH, 3) of a larger picture, from a place between its pixels."""
    (down, below), (right, beside) = divmod(top, 1), divmod(left, 1)
    part = wall[int(down) : int(down) + HEIGHT + 1, int(right) : int(right) + WIDTH + 1]
    part = (1 - below) * part[:-1] + below * part[1:]
    return ((1 - beside) * part[:, :-1] + beside * part[:, 1:]).astype(np.float32)


def _texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Amplitudes that fall with the frequency, so that frames take about the bytes that those of real videos take."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.normal(size=(3, height, width))) / frequency**1.65
    spectrum[1:] = 0.8 * spectrum[:1] + 0.2 * spectrum[1:]  # colours go together
    texture = np.fft.irfft2(spectrum, s=(height, width)).transpose(1, 2, 0)
    return (128 + 45 * texture / texture.std()).astype(np.float32)


def make_videos(folder: Path, encoding: str, *, num_videos: int) -> Clips:
    """Encode four videos, once, and copy them under other names: enough different ones to be no special case."""
    suffix, codec, options = ENCODINGS[encoding]
    root = folder / encoding
    root.mkdir(exist_ok=True)
    for index in tqdm(range(num_videos), desc=f"making {encoding}", leave=False):
        file = root / f"{index}{suffix}"
        if file.exists():
            continue
        if index >= 4:
            shutil.copyfile(root / f"{index % 4}{suffix}", file)
            continue
        with av.open(str(file), "w") as container:
            stream = cast(VideoStream, container.add_stream(codec, rate=30, options=options))
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            stream.codec_context.thread_count = 1  # PyAV's threads cut frames into slices, which x264 does not
            for picture in pictures(index):
                container.mux(stream.encode(VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
    list_file = root / f"{num_videos}.txt"
    list_file.write_text("".join(f"{index}{suffix} {index % 2}\n" for index in range(num_videos)))
    return read_annotations(list_file, root=root)


# --- index ----------------------------------------------------------------------------------------------------------


def benchmark_index(folder: Path, *, num_videos: int, num_rounds: int, num_workers: int) -> list[Row]:
    """:func:`compare_index` with videos of two encodings."""
    rows = []
    for encoding in ("h264-gop250", "vp9-one-gop"):
        clips = make_videos(folder, encoding, num_videos=num_videos)
        # SSIM is slow, a few videos tell enough. For the others starting the workers would count with so few.
        many = make_videos(folder, encoding, num_videos=16 * num_videos)
        rows += compare_index(clips, encoding, folder, many=many, num_rounds=num_rounds, num_workers=num_workers)
    return rows


def compare_index(
    clips: Clips, videos: str, folder: Path, *, num_rounds: int, num_workers: int, many: Clips | None = None
) -> list[Row]:
    """Videos a second that are indexed with each measure, against processes that only decode.

    Args:
        clips: the videos.
        videos: what to call them in the rows.
        folder: where indexes are made, and removed.
        num_rounds: how often each measure runs.
        num_workers: processes.
        many: more of such videos, for what is faster than SSIM; `clips` by default.
    """
    many = clips if many is None else many
    files, many_files = _files(clips), _files(many)
    measured = partial(index_anew, folder, num_workers=num_workers)
    pooled = partial(in_processes, num_workers=num_workers)
    runs: dict[str, tuple[int, Callable[[], None]]] = {
        "decode-only": (len(many_files), partial(pooled, decode_only, many_files)),
        "pixel": (len(many_files), partial(measured, many, "pixel")),
        "packet": (len(many_files), partial(measured, many, "packet")),
        "ssim": (len(files), partial(measured, clips, "ssim")),
    }
    missing = [name for name in ("skimage", "cv2") if importlib.util.find_spec(name) is None]
    if missing:
        print(f"{missing} not installed: the released SSIM script is left out (extra bench)", file=sys.stderr)
    else:
        runs["the released SSIM rule"] = len(files), partial(pooled, released_ssim, files)
        script = partial(in_processes, released_script, [files], num_workers=1)
        runs["the released SSIM script, 28 threads"] = len(files), script
    found = in_turn({name: run for name, (_, run) in runs.items()}, num_rounds=num_rounds)
    speeds, cpu = {}, {}
    for name, rounds in found.items():
        count = runs[name][0]
        speeds[name] = [count / seconds for seconds, _ in rounds]
        cpu[name] = [1e3 * seconds / count for _, seconds in rounds]
    return [
        *make_rows("index", videos, speeds, unit="videos/s", baseline="decode-only"),
        *make_rows("index", videos, cpu, unit="CPU ms a video", baseline="decode-only"),
    ]


def _files(clips: Clips) -> list[Path]:
    """The different files of a list: what indexing measures."""
    return list(dict.fromkeys(clips.file(sample) for sample in range(len(clips))))


def index_anew(folder: Path, clips: Clips, measure: str, *, num_workers: int) -> None:
    """Index all videos into a new folder."""
    with tempfile.TemporaryDirectory(dir=folder) as out:
        summary = index_videos(clips, out, measure=measure, num_workers=num_workers, progress=False)
    assert not summary.errors


def in_processes(work: Callable[[T], None], items: Sequence[T], *, num_workers: int) -> None:
    """Do something with each item in spawned processes, as indexing does with files."""
    with ProcessPoolExecutor(num_workers, mp_context=get_context("spawn")) as pool:
        list(pool.map(work, items))


def decode_only(file: Path) -> None:
    """Decode every frame and do nothing with it."""
    with open_video(file) as video:
        for _ in video.container.decode(video.stream):
            pass


def released_ssim(file: Path) -> None:
    """1 - SSIM of neighbouring frames, in the steps of MGSampler's ``generate_img_diff.py``, decoded by PyAV.

    Every frame is kept as RGB, and turned grey for both of its pairs; the map of SSIM is asked for, and dropped.
    """
    import cv2  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415
    from skimage.metrics import structural_similarity  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415

    with open_video(file) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.container.decode(video.stream)]
    for earlier, later in pairwise(frames):
        grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (earlier, later)]
        structural_similarity(*grey, full=True)


def released_script(files: Sequence[Path]) -> None:
    """The released rule in the way of its script: 28 threads of one process, whatever the machine has."""
    with ThreadPool(28) as pool:
        pool.map(released_ssim, files)


# --- loaders --------------------------------------------------------------------------------------------------------


def benchmark_loaders(folder: Path, *, num_videos: int, num_rounds: int, num_workers: int) -> list[Row]:
    """:func:`compare_loaders` with videos of each encoding."""
    rows = []
    for encoding in ENCODINGS:
        clips = make_videos(folder, encoding, num_videos=num_videos)
        rows += compare_loaders(clips, encoding, folder, num_rounds=num_rounds, num_workers=num_workers)
    return rows


def compare_loaders(clips: Clips, videos: str, folder: Path, *, num_rounds: int, num_workers: int) -> list[Row]:
    """Clips a second of 8 frames, 224 x 224, through each route that needs no GPU. Starting the workers is left out.

    Args:
        clips: the videos.
        videos: what to call them in the rows.
        folder: where their motion index is made.
        num_rounds: how often each route runs.
        num_workers: of each loader.
    """
    # Not for the whole module: the processes of benchmark_index import it too, and would load PyTorch.
    from mgs_dali.load.loader import ClipLoader  # noqa: PLC0415
    from mgs_dali.load.plan import Plan  # noqa: PLC0415

    from .cpu_loader import CpuLoader  # noqa: PLC0415

    motion = folder / f"motion-{videos}"
    index_videos(clips, motion, num_workers=num_workers, progress=False)
    common: dict[str, Any] = {"batch_size": 4, "training": True}
    dali = partial(ClipLoader, clips, device="cpu", num_workers=num_workers, **common)
    pytorch = partial(CpuLoader, num_workers=num_workers)
    guided, index = MotionGuided(8), MotionIndex(motion)
    packets, uniform = MotionGuided(8, measure="packet"), Uniform(8)
    loaders: dict[str, Callable[[], ClipLoader | CpuLoader]] = {
        "host, motion measured": partial(dali, sampler=guided, route="host"),
        "host-sparse, motion index": partial(dali, sampler=guided, route="host-sparse", motion_index=index),
        "host-sparse, packet sizes": partial(dali, sampler=packets, route="host-sparse"),
        "host, uniform": partial(dali, sampler=uniform, route="host"),
        "host-sparse, uniform": partial(dali, sampler=uniform, route="host-sparse"),
        "PyTorch DataLoader, uniform": partial(pytorch, Plan(clips, uniform, **common)),
        "PyTorch DataLoader, motion measured": partial(pytorch, Plan(clips, guided, **common)),
    }
    speeds: dict[str, list[float]] = {name: [] for name in loaders}
    for _ in tqdm(range(num_rounds), desc=f"rounds of {videos}", leave=False):
        for name, start in loaders.items():
            speeds[name].append(clips_per_second(start))
    return make_rows("loaders", videos, speeds, unit="clips/s", baseline="host, motion measured")


def clips_per_second(start: Callable[[], ClipLoader | CpuLoader], *, num_epochs: int = 2) -> float:
    """How fast a loader gives clips once it runs: of the epochs after its first, with its queue full at both ends.

    Each loader is on its own: the workers of one that waits go on to fill its queue.
    """
    with start() as loader:
        for _ in loader:
            pass
        begun = time.perf_counter()
        num_clips = sum(int(batch.valid.sum()) for _ in range(num_epochs) for batch in loader)
        return num_clips / (time.perf_counter() - begun)


# --- measuring and telling ------------------------------------------------------------------------------------------


def in_turn(runs: dict[str, Callable[[], None]], *, num_rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Run everything once a round, round after round.

    Returns:
        (seconds on the clock, seconds of CPU time in ended child processes) of each round, for each name.
    """
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in tqdm(range(num_rounds), desc="rounds", leave=False):
        for name, run in runs.items():
            used, begun = child_cpu_seconds(), time.perf_counter()
            run()
            found[name].append((time.perf_counter() - begun, child_cpu_seconds() - used))
    return found


def child_cpu_seconds() -> float:
    """CPU time of the child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def make_rows(section: str, videos: str, values: dict[str, list[float]], *, unit: str, baseline: str) -> list[Row]:
    """A row for each name, with its ratio to the baseline round by round."""
    base = values[baseline]
    return [
        Row(
            section,
            videos,
            what,
            unit,
            statistics.median(rounds),
            rounds,
            None if what == baseline else statistics.median(a / b for a, b in zip(rounds, base, strict=True)),
        )
        for what, rounds in values.items()
    ]


def table(rows: Sequence[Row]) -> str:
    """Rows as a Markdown table."""
    lines = [
        f"| {rows[0].section}: videos | what | median | lowest to highest | unit | ratio |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        ratio = "1" if row.ratio is None else f"{row.ratio:.3g}"
        spread = f"{min(row.rounds):.3g} to {max(row.rounds):.3g}"
        lines.append(f"| {row.videos} | {row.what} | {row.median:.3g} | {spread} | {row.unit} | {ratio} |")
    return "\n".join(lines) + "\n"


def describe_machine() -> dict[str, str]:
    """Processor, versions and date: what a figure means nothing without."""
    names = [line.partition(":")[2].strip() for line in _cpu_lines() if line.startswith("model name")]
    versions = {name: _version(name) for name in ("av", "numpy", "torch", "nvidia-dali-cuda130", "nvidia-dali-cuda120")}
    return {
        "CPU": f"{names[0] if names else platform.machine()} x {len(os.sched_getaffinity(0))}",
        "Python": platform.python_version(),
        **{name: version for name, version in versions.items() if version},
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
    }


def _cpu_lines() -> list[str]:
    file = Path("/proc/cpuinfo")
    return file.read_text().splitlines() if file.is_file() else []


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


SECTIONS = {"index": benchmark_index, "loaders": benchmark_loaders}

if __name__ == "__main__":
    sys.exit(main())
