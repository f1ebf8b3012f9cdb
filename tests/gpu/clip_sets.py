"""The videos of the GPU tests and measurements, encoded on the spot: lists of clips in a folder, made once."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

FRAMES_PER_SECOND = 25
NUMBERED_SIDE, NUMBERED_FRAMES = 192, 60


@dataclass(frozen=True)
class Kind:
    """One way of encoding."""

    name: str
    codec: str
    """PyAV's name of the encoder."""
    suffix: str
    pixel_format: str = "yuv420p"
    gop: int | None = None
    max_b_frames: int | None = None
    variable_rate: bool = False
    options: dict[str, str] = field(default_factory=dict)


X264 = {"preset": "veryfast", "crf": "20", "sc_threshold": "0"}
VPX = {"deadline": "realtime", "cpu-used": "8", "crf": "15", "b": "2M"}
KINDS = (
    Kind("h264-gop12", "libx264", "mp4", gop=12, max_b_frames=0, options=X264),
    Kind("h264-b-gop250", "libx264", "mp4", gop=250, max_b_frames=3, options=X264),
    Kind("h264-vfr", "libx264", "mp4", gop=60, max_b_frames=2, variable_rate=True, options=X264),
    Kind("hevc", "libx265", "mp4", options={"preset": "ultrafast", "crf": "20", "x265-params": "log-level=none"}),
    Kind("mpeg4", "mpeg4", "mp4", max_b_frames=2, options={"qmin": "3", "qmax": "5"}),
    Kind("vp8", "libvpx", "webm", options=VPX),
    Kind("vp9", "libvpx-vp9", "webm", options=VPX),
    Kind("mjpeg", "mjpeg", "avi", pixel_format="yuvj420p", options={"qmin": "3", "qmax": "3"}),
)
"""What a data set holds. NVDEC of an H100 or H200 takes them all."""
CPU_KINDS = tuple(kind for kind in KINDS if kind.name in ("vp8", "vp9", "mjpeg"))
"""What DALI decodes without a GPU."""
RARE_KINDS = (
    Kind("h264-10bit", "libx264", "mp4", pixel_format="yuv420p10le", options=X264),
    Kind("h264-444", "libx264", "mp4", pixel_format="yuv444p", options=X264),
    Kind(
        "hevc-10bit",
        "libx265",
        "mp4",
        pixel_format="yuv420p10le",
        options={"preset": "ultrafast", "x265-params": "log-level=none"},
    ),
    Kind("av1", "libsvtav1", "mp4", options={"preset": "10", "crf": "20", "svtav1-params": "lp=1"}),
)
"""What a GPU may refuse: an H100 or H200 takes the 10-bit HEVC of these only."""


@dataclass(frozen=True)
class Scale:
    """How much to make."""

    kinds: tuple[Kind, ...]
    num_picks: int
    """Clips of each kind in the list ``picks``."""
    num_speed_files: int
    """Files of each speed list; each is named ``speed_repeats`` times."""
    speed_repeats: int
    something: tuple[Kind, int, int, int]
    """(kind, frames, width, height), like Something-Something V2."""
    kinetics: tuple[Kind, int, int, int]
    long_video: tuple[Kind, int, int, int, int]
    """(kind, frames a second, width, height, seconds)."""


# About 280 kbit/s at 340x256, as re-encoded copies of Kinetics have.
_H264_LONG_GOP = Kind("h264-gop250", "libx264", "mp4", gop=250, options=X264 | {"crf": "16"})
_H264_FAST = Kind("h264-ultrafast", "libx264", "mp4", gop=100, options={"preset": "ultrafast", "crf": "28"})
_VP9 = Kind("vp9", "libvpx-vp9", "webm", options=VPX)
SCALES = {
    "cuda": Scale(
        kinds=KINDS,
        num_picks=26,
        num_speed_files=64,
        speed_repeats=8,
        something=(_VP9, 45, 426, 240),
        kinetics=(_H264_LONG_GOP, 300, 340, 256),
        long_video=(_H264_FAST, 10, 1920, 1080, 600),
    ),
    # To try the scripts without a GPU: nothing here measures anything.
    "cpu": Scale(
        kinds=CPU_KINDS,
        num_picks=2,
        num_speed_files=3,
        speed_repeats=4,
        something=(_VP9, 8, 64, 48),
        kinetics=(_VP9, 12, 48, 36),
        long_video=(CPU_KINDS[2], 10, 192, 144, 20),
    ),
}


@dataclass(frozen=True)
class Job:
    """One file to encode."""

    file: Path
    kind: Kind
    num_frames: int
    width: int
    height: int
    seed: int = 0
    numbered: bool = False
    frames_per_second: int = FRAMES_PER_SECOND

    @property
    def cost(self) -> int:
        return self.num_frames * self.width * self.height


def make_clips(folder: Path, *, device: str) -> Path:
    """Encode what is missing in a folder, on all cores, and write its lists ``<set>.txt``, a path and a label a line.

    Sets: ``picks`` (many clips of every kind), ``numbered`` and ``rare`` (one clip a kind, its frames numbered in the
    picture), ``something`` and ``kinetics`` (for speed), ``truncated`` (a cut MP4 and a cut WebM) and ``long``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scale = SCALES[device]
    sizes = [(192, 144), (320, 240), (256, 340), (426, 240)]
    lists: dict[str, list[Job]] = {name: [] for name in ("picks", "numbered", "rare", "something", "kinetics")}
    for index in range(scale.num_picks * len(scale.kinds)):
        kind, (width, height) = scale.kinds[index % len(scale.kinds)], sizes[index // len(scale.kinds) % len(sizes)]
        file = folder / f"picks-{index:03}-{kind.name}.{kind.suffix}"
        lists["picks"].append(Job(file, kind, 20 + 7 * index % 67, width, height, seed=index))
    for name, kinds in (("numbered", scale.kinds), ("rare", RARE_KINDS)):
        for kind in kinds:
            file = folder / f"{name}-{kind.name}.{kind.suffix}"
            lists[name].append(Job(file, kind, NUMBERED_FRAMES, NUMBERED_SIDE, NUMBERED_SIDE, numbered=True))
    for name, (kind, num_frames, width, height) in (("something", scale.something), ("kinetics", scale.kinetics)):
        for index in range(scale.num_speed_files):
            file = folder / f"{name}-{index:02}.{kind.suffix}"
            lists[name].append(Job(file, kind, num_frames, width, height, seed=index))
    kind, rate, width, height, seconds = scale.long_video
    ten_seconds = Job(folder / f"ten-seconds.{kind.suffix}", kind, 10 * rate, width, height, frames_per_second=rate)
    # VP9 with its header in front, and H.264 likewise; MJPEG stands in where DALI takes no H.264.
    to_cut = [job for job in lists["numbered"] if job.kind.name in ("vp9", "h264-gop12")]

    jobs = [job for some in lists.values() for job in some] + [ten_seconds]
    missing = sorted((job for job in jobs if not job.file.exists()), key=lambda job: -job.cost)
    if missing:
        num_processes = len(os.sched_getaffinity(0))
        with ProcessPoolExecutor(num_processes, mp_context=multiprocessing.get_context("spawn")) as pool:
            list(pool.map(encode, missing))
    for name, some in lists.items():
        made = [job.file for job in some if job.file.exists()]
        repeats = scale.speed_repeats if name in ("something", "kinetics") else 1
        _write_list(folder / f"{name}.txt", made * repeats)
    cut = [_cut(job.file, folder / f"truncated-{job.file.name}") for job in to_cut]
    _write_list(folder / "truncated.txt", cut)
    long = folder / f"long.{kind.suffix}"
    _repeat(ten_seconds.file, long, times=seconds // 10)
    _write_list(folder / "long.txt", [long])
    return folder


def list_of(folder: Path, *names: str) -> Path:
    """A list file with the clips of several sets."""
    if len(names) == 1:
        return folder / f"{names[0]}.txt"
    file = folder / f"{'+'.join(names)}.txt"
    file.write_text("".join((folder / f"{name}.txt").read_text() for name in names))
    return file


def encode(job: Job) -> None:
    """Encode one file; an encoder that this FFmpeg lacks leaves none."""
    part = job.file.with_name(f"part-{job.file.name}")
    draw = _numbered_pictures if job.numbered else _moving_pictures
    rate = job.frames_per_second
    kind = job.kind
    options = {"movflags": "+faststart"} if kind.suffix == "mp4" else {}
    os.environ.setdefault("SVT_LOG", "1")  # the AV1 encoder tells its life story otherwise
    with av.open(str(part), "w", options=options) as container:
        try:
            stream = cast(VideoStream, container.add_stream(kind.codec, rate=rate, options=dict(kind.options)))
        except (ValueError, av.error.FFmpegError):
            return
        stream.width, stream.height, stream.pix_fmt = job.width, job.height, kind.pixel_format
        stream.codec_context.thread_count = 1  # as many processes as cores
        if kind.gop is not None:
            stream.codec_context.gop_size = kind.gop
        if kind.max_b_frames is not None:
            stream.codec_context.max_b_frames = kind.max_b_frames
        if kind.variable_rate:
            stream.codec_context.time_base = Fraction(1, 4 * rate)
        gaps = np.random.default_rng(job.seed).integers(1, 9, job.num_frames)
        for index, picture in enumerate(draw(job)):
            frame = VideoFrame.from_ndarray(picture, format="rgb24")
            if kind.variable_rate:
                frame.pts, frame.time_base = int(gaps[:index].sum()), Fraction(1, 4 * rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    part.rename(job.file)


def _moving_pictures(job: Job) -> Iterator[np.ndarray]:
    """A disc that moves for a third of the time on a textured scene with some noise, (height, width, 3) uint8."""
    rng = np.random.default_rng(job.seed)
    height, width = job.height, job.width
    y, x = np.mgrid[:height, :width].astype(np.float32)
    phase = rng.random((3, 2)) * 6
    waves = [30 * np.sin(x / 17 + phase[c, 0]) + 25 * np.cos(y / 13 + phase[c, 1]) for c in range(3)]
    scene = 120 + np.stack(waves, axis=-1)
    scenes = [(scene + 2 * rng.standard_normal((height, width, 1))).clip(0, 255).astype(np.uint8) for _ in range(4)]
    first = int(rng.integers(0, max(1, job.num_frames * 2 // 3)))
    length = max(2, job.num_frames // 3)
    radius = max(4, min(height, width) // 6)
    colour = rng.integers(60, 220, 3)
    for index in range(job.num_frames):
        done = min(max(index - first, 0), length) / length
        left = int((width - 2 * radius) * done)
        top = int((height - 2 * radius) * (0.5 + 0.4 * np.sin(5 * done)))
        picture = scenes[index % 4].copy()
        area = picture[top : top + 2 * radius, left : left + 2 * radius]
        rows, columns = np.mgrid[: area.shape[0], : area.shape[1]] - radius
        area[rows**2 + columns**2 < radius**2] = colour
        yield picture


# --- frames that say which they are ---------------------------------------------------------------------------------

_BITS = [(0.2 + 0.15 * column, 0.3 + 0.2 * row) for row in range(2) for column in range(4)]
_BIT_WIDTH, _BIT_HEIGHT = 0.15, 0.2


def _numbered_pictures(job: Job) -> Iterator[np.ndarray]:
    """Pictures with their frame index as eight light or dark squares in the middle."""
    for index, picture in enumerate(_moving_pictures(job)):
        for bit, (x, y) in enumerate(_BITS):
            rows = slice(round(y * job.height), round((y + _BIT_HEIGHT) * job.height))
            columns = slice(round(x * job.width), round((x + _BIT_WIDTH) * job.width))
            picture[rows, columns] = 215 if index >> bit & 1 else 40
        yield picture


def read_number(picture: np.ndarray, *, shown: float = 1.0) -> int:
    """The frame index that a numbered picture shows.

    Args:
        picture: (H, W, 3), from 0 to 255.
        shown: share of each side that a crop around the centre has left.
    """
    height, width = picture.shape[:2]
    number = 0
    for bit, (x, y) in enumerate(_BITS):
        row = int(height * (0.5 + (y + _BIT_HEIGHT / 2 - 0.5) / shown))
        column = int(width * (0.5 + (x + _BIT_WIDTH / 2 - 0.5) / shown))
        number |= int(picture[row - 2 : row + 3, column - 2 : column + 3].mean() > 128) << bit
    return number


# --- files made from files ------------------------------------------------------------------------------------------


def _cut(file: Path, target: Path) -> Path:
    """The first 60 % of a file, as an interrupted download leaves it."""
    content = file.read_bytes()
    target.write_bytes(content[: len(content) * 6 // 10])
    return target


def _repeat(file: Path, target: Path, *, times: int) -> None:
    """Play a video without B-frames several times, copying its packets: long videos without long encoding."""
    if target.exists():
        return
    part = target.with_name(f"part-{target.name}")
    with av.open(str(file)) as source, av.open(str(part), "w") as copy:
        packets = [packet for packet in source.demux(video=0) if packet.size > 0]
        stream = copy.add_stream_from_template(source.streams.video[0])
        times_shown = [packet.pts for packet in packets if packet.pts is not None]
        assert times_shown == [packet.dts for packet in packets]  # no B-frames
        step = times_shown[1] - times_shown[0]
        for index in range(times * len(packets)):
            original = packets[index % len(packets)]
            packet = av.Packet(bytes(original))
            packet.pts = packet.dts = index * step
            packet.time_base, packet.is_keyframe, packet.stream = original.time_base, original.is_keyframe, stream
            copy.mux(packet)
    part.rename(target)


def _write_list(file: Path, videos: list[Path]) -> None:
    file.write_text("".join(f"{video.name} {index % 4}\n" for index, video in enumerate(videos)))
