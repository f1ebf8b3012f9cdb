"""The videos of the GPU tests and measurements, encoded on the spot: lists of clips in a folder, made once."""

from __future__ import annotations

import multiprocessing
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace
from av.video.stream import VideoStream
from PIL import Image

FRAMES_PER_SECOND = 25
NUMBERED_SIDE, NUMBERED_FRAMES = 192, 60
FOLDER_TEMPLATE = "{:05}.jpg"


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
    colorspace: Colorspace | None = None
    """The matrix from RGB, and the stream's word on it. FFmpeg's own is BT.601, without a word."""
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
)
"""What a data set holds. DALI on an H100 or H200 takes them all."""
_MJPEG = Kind("mjpeg", "mjpeg", "avi", pixel_format="yuvj420p", options={"qmin": "3", "qmax": "3"})
CPU_KINDS = (*(kind for kind in KINDS if kind.name in ("vp8", "vp9")), _MJPEG)
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
    Kind(
        "hevc-444",
        "libx265",
        "mp4",
        pixel_format="yuv444p",
        options={"preset": "ultrafast", "x265-params": "log-level=none"},
    ),
    Kind("av1", "libsvtav1", "mp4", options={"preset": "10", "crf": "20", "svtav1-params": "lp=1"}),
    _MJPEG,
)
"""What a GPU may refuse: an H100 or H200 takes the HEVC of these only, and DALI no 4:4:4 and no MJPEG on any."""


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
    num_aligned_files: int
    """Files of the list ``aligned``: like Kinetics, but for a width of whole macroblocks."""
    folders: tuple[int, int]
    """(frame folders, frames in each), of the size of ``kinetics``."""
    long_video: tuple[Kind, int, int, int, int]
    """(kind, frames a second, width, height, seconds)."""


# About 280 kbit/s at 340x256, as re-encoded copies of Kinetics have.
_H264_LONG_GOP = Kind("h264-gop250", "libx264", "mp4", gop=250, options=X264 | {"crf": "16"})
_H264_FAST = Kind("h264-ultrafast", "libx264", "mp4", gop=100, options={"preset": "ultrafast", "crf": "28"})
_VP9 = Kind("vp9", "libvpx-vp9", "webm", options=VPX)
SCALES = {
    "cuda": Scale(
        kinds=KINDS,
        num_picks=30,
        num_speed_files=64,
        speed_repeats=8,
        something=(_VP9, 45, 426, 240),
        kinetics=(_H264_LONG_GOP, 300, 340, 256),
        num_aligned_files=16,
        folders=(64, 24),
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
        num_aligned_files=2,
        folders=(2, 8),
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
    numbers: Sequence[int] | None = None
    """What each frame shows in its picture, 0 to 255."""
    frames_per_second: int = FRAMES_PER_SECOND
    pictures: Sequence[np.ndarray] | None = None
    """What to encode, where it is not drawn."""

    @property
    def cost(self) -> int:
        return self.num_frames * self.width * self.height


def make_clips(folder: Path, *, device: str) -> dict[str, str]:
    """Encode what is missing in a folder, on all cores, and write its lists ``<set>.txt``, a path and a label a line.

    Sets: ``picks`` (many clips of every kind), ``smoke``, ``numbered`` and ``rare`` (one clip a kind, its frames
    numbered in the picture), ``hard`` and ``damaged`` (likewise, see :data:`HARD` and :data:`DAMAGED`), ``something``,
    ``kinetics`` and ``aligned`` (for speed), ``folders`` (likewise, of JPEG files), ``truncated`` (a cut MP4 and a cut
    WebM) and ``long``.

    Returns:
        File → error, of those that could not be made. They are in no list.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scale = SCALES[device]
    lists = _jobs(folder, scale)
    special = {name: [folder / file for file in files] for name, files in (("hard", HARD), ("damaged", DAMAGED))}
    folders = _folder_jobs(folder, scale)
    kind, rate, width, height, seconds = scale.long_video
    ten_seconds = Job(folder / f"ten-seconds.{kind.suffix}", kind, 10 * rate, width, height, frames_per_second=rate)
    jobs = sorted([*(job for some in lists.values() for job in some), ten_seconds], key=lambda job: -job.cost)
    work: list[tuple[Path, Callable[..., None], Any]] = [(job.file, encode, job) for job in jobs]
    work += [(file, make_special, file) for files in special.values() for file in files]
    work += [(job.file, make_folder, job) for job in folders]
    failed = _do([part for part in work if not part[0].exists()])

    for name, some in lists.items():
        repeats = scale.speed_repeats if name in ("something", "kinetics") else 1
        _write_list(folder / f"{name}.txt", [job.file for job in some] * repeats)
    for name, files in special.items():
        _write_list(folder / f"{name}.txt", files)
    lines = [
        f"{job.file.name} {job.num_frames} {index % 4}\n" for index, job in enumerate(folders) if job.file.exists()
    ]
    (folder / "folders.txt").write_text("".join(lines * scale.speed_repeats))
    # VP9 with its header in front, and H.264 likewise.
    to_cut = [job.file for job in lists["numbered"] if job.kind.name in ("vp9", "h264-gop12") and job.file.exists()]
    _write_list(folder / "truncated.txt", [_cut(file, folder / f"truncated-{file.name}") for file in to_cut])
    long = folder / f"long.{kind.suffix}"
    if ten_seconds.file.exists():
        _repeat(ten_seconds.file, long, times=seconds // 10)
    _write_list(folder / "long.txt", [long])
    return failed


def _jobs(folder: Path, scale: Scale) -> dict[str, list[Job]]:
    """What is encoded for each set, where that is all that there is to do."""
    sizes = [(192, 144), (320, 240), (256, 340), (426, 240)]
    names = ("smoke", "numbered", "rare", "picks", "something", "kinetics", "aligned")
    lists: dict[str, list[Job]] = {name: [] for name in names}
    for index in range(scale.num_picks * len(scale.kinds)):
        kind, (width, height) = scale.kinds[index % len(scale.kinds)], sizes[index // len(scale.kinds) % len(sizes)]
        file = folder / f"picks-{index:03}-{kind.name}.{kind.suffix}"
        lists["picks"].append(Job(file, kind, 20 + 7 * index % 67, width, height, seed=index))
    smoke = tuple(kind for kind in KINDS if kind.name in ("h264-b-gop250", "vp9", "hevc"))
    for name, kinds in (("smoke", smoke), ("numbered", scale.kinds), ("rare", RARE_KINDS)):
        for kind in kinds:
            lists[name].append(numbered_job(folder / f"{name}-{kind.name}.{kind.suffix}", kind))
    kind, num_frames, width, height = scale.kinetics
    aligned = (kind, num_frames, width + -width % 16, height + -height % 16)
    for name, (kind, num_frames, width, height), num_files in (
        ("something", scale.something, scale.num_speed_files),
        ("kinetics", scale.kinetics, scale.num_speed_files),
        ("aligned", aligned, scale.num_aligned_files),
    ):
        for index in range(num_files):
            file = folder / f"{name}-{index:02}.{kind.suffix}"
            lists[name].append(Job(file, kind, num_frames, width, height, seed=index))
    return lists


def _folder_jobs(folder: Path, scale: Scale) -> list[Job]:
    num_folders, num_pictures = scale.folders
    kind, _, width, height = scale.kinetics
    return [
        Job(folder / f"folder-{index:02}", kind, num_pictures, width, height, seed=index)
        for index in range(num_folders)
    ]


def _do(work: list[tuple[Path, Callable[..., None], Any]]) -> dict[str, str]:
    """Make files in processes, and give what went wrong: one that cannot be made costs no other."""
    failed: dict[str, str] = {}
    if not work:
        return failed
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=context) as pool:
        waiting = [(file, pool.submit(make, what)) for file, make, what in work]
        for file, made in waiting:
            try:
                made.result()
            except Exception as error:
                failed[file.name] = f"{type(error).__name__}: {error}"[:300]
    return failed


def list_of(folder: Path, *names: str) -> Path:
    """A list file with the clips of several sets."""
    if len(names) == 1:
        return folder / f"{names[0]}.txt"
    file = folder / f"{'+'.join(names)}.txt"
    file.write_text("".join((folder / f"{name}.txt").read_text() for name in names))
    return file


def encode(job: Job) -> None:
    """Encode one file."""
    part = job.file.with_name(f"part-{job.file.name}")
    rate = job.frames_per_second
    kind = job.kind
    options = {"movflags": "+faststart"} if job.file.suffix == ".mp4" else {}
    os.environ.setdefault("SVT_LOG", "1")  # the AV1 encoder tells its life story otherwise
    with av.open(str(part), "w", options=options) as container:
        stream = cast(VideoStream, container.add_stream(kind.codec, rate=rate, options=dict(kind.options)))
        stream.width, stream.height, stream.pix_fmt = job.width, job.height, kind.pixel_format
        stream.codec_context.thread_count = 1  # as many processes as cores
        if kind.gop is not None:
            stream.codec_context.gop_size = kind.gop
        if kind.max_b_frames is not None:
            stream.codec_context.max_b_frames = kind.max_b_frames
        if kind.variable_rate:
            stream.codec_context.time_base = Fraction(1, 4 * rate)
        if kind.colorspace is not None:
            stream.codec_context.colorspace = kind.colorspace
            stream.codec_context.color_range = ColorRange.MPEG
        gaps = np.random.default_rng(job.seed).integers(1, 9, job.num_frames)
        for index, picture in enumerate(pictures_of(job)):
            frame = VideoFrame.from_ndarray(picture, format="rgb24")
            if kind.colorspace is not None:
                frame = frame.reformat(
                    format=kind.pixel_format, dst_colorspace=kind.colorspace, dst_color_range=ColorRange.MPEG
                )
            if kind.variable_rate:
                frame.pts, frame.time_base = int(gaps[:index].sum()), Fraction(1, 4 * rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    part.rename(job.file)


def make_folder(job: Job) -> None:
    """Write the pictures of a job as JPEG files named by :data:`FOLDER_TEMPLATE`."""
    part = job.file.with_name(f"part-{job.file.name}")
    part.mkdir(exist_ok=True)
    for index, picture in enumerate(pictures_of(job)):
        Image.fromarray(picture).save(part / FOLDER_TEMPLATE.format(index + 1), quality=90)
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

# Of the square in the middle, which centre crops keep.
_BITS = [(0.2 + 0.15 * column, 0.3 + 0.2 * row) for row in range(2) for column in range(4)]
_BIT_WIDTH, _BIT_HEIGHT = 0.15, 0.2
# Strong colours above and below them: another matrix or range than the encoder's moves these by 15 levels and more.
COLOURS = np.array([(200, 40, 40), (40, 180, 60), (50, 60, 190), (190, 180, 40)])
_PATCHES = [(0.2, 0.14), (0.55, 0.14), (0.2, 0.76), (0.55, 0.76)]
_PATCH_WIDTH, _PATCH_HEIGHT = 0.25, 0.1


def pictures_of(job: Job) -> Iterator[np.ndarray]:
    """What to encode, (height, width, 3) uint8: with numbers as eight light or dark squares in the middle, if any, and
    then with :data:`COLOURS` around them."""
    if job.pictures is not None:
        yield from job.pictures
        return
    side = min(job.width, job.height)
    left, top = (job.width - side) / 2, (job.height - side) / 2

    def area(x: float, y: float, width: float, height: float) -> tuple[slice, slice]:
        rows = slice(round(top + y * side), round(top + (y + height) * side))
        return rows, slice(round(left + x * side), round(left + (x + width) * side))

    for index, picture in enumerate(_moving_pictures(job)):
        if job.numbers is not None:
            for bit, place in enumerate(_BITS):
                picture[area(*place, _BIT_WIDTH, _BIT_HEIGHT)] = 215 if job.numbers[index] >> bit & 1 else 40
            for colour, place in zip(COLOURS, _PATCHES, strict=True):
                picture[area(*place, _PATCH_WIDTH, _PATCH_HEIGHT)] = colour
        yield picture


def read_number(picture: np.ndarray, *, shown: float = 1.0) -> int:
    """The number that a picture shows.

    Args:
        picture: (H, W, 3), from 0 to 255.
        shown: share of the shorter side that a crop around the centre has left.
    """
    levels = [_level_at(picture, x + _BIT_WIDTH / 2, y + _BIT_HEIGHT / 2, shown).mean() for x, y in _BITS]
    return sum(int(level > 128) << bit for bit, level in enumerate(levels))


def read_colours(picture: np.ndarray, *, shown: float = 1.0) -> np.ndarray:
    """(4, 3): what a numbered picture shows of :data:`COLOURS`; arguments as of :func:`read_number`."""
    return np.stack([_level_at(picture, x + _PATCH_WIDTH / 2, y + _PATCH_HEIGHT / 2, shown) for x, y in _PATCHES])


def _level_at(picture: np.ndarray, x: float, y: float, shown: float) -> np.ndarray:
    height, width = picture.shape[:2]
    side = min(width, height)
    row, column = int(height / 2 + side * (y - 0.5) / shown), int(width / 2 + side * (x - 0.5) / shown)
    return picture[row - 2 : row + 3, column - 2 : column + 3].mean(axis=(0, 1))


def numbered_job(
    file: Path,
    kind: Kind,
    *,
    width: int = NUMBERED_SIDE,
    height: int = NUMBERED_SIDE,
    numbers: Sequence[int] = range(NUMBERED_FRAMES),
) -> Job:
    """A file whose frames show these numbers."""
    return Job(file, kind, len(numbers), width, height, numbers=numbers)


def unlike(video: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """(F,) bool: which frames of two videos are far from each other, somewhere in the picture; by damage, say.

    Args:
        video, reference: (F, H, W, 3), from 0 to 255.
    """
    # In blocks: what encoding takes away is noise, and what damage does is not.
    size = 12
    rows, columns = video.shape[1] // size, video.shape[2] // size
    apart = np.abs(video.astype(np.float32) - reference)[:, : rows * size, : columns * size]
    return apart.reshape(-1, rows, size, columns, size, 3).mean(axis=(2, 4, 5)).max(axis=(1, 2)) > 24


# --- files that decoders show otherwise than players do -------------------------------------------------------------

NEVER_SHOWN = 255
"""The number of pictures that are in a file and no frames of it. Frame k shows k in all of them."""
_H264 = Kind("h264", "libx264", "mp4", gop=30, max_b_frames=3, options=X264)
_VP9_REALTIME = {"deadline": "realtime", "cpu-used": "6", "b": "300k"}
_VP9_HIDDEN = Kind(
    "vp9-hidden", "libvpx-vp9", "webm", options=_VP9_REALTIME | {"auto-alt-ref": "1", "lag-in-frames": "25"}
)
_MPEG4 = next(kind for kind in KINDS if kind.name == "mpeg4")
_HEVC = next(kind for kind in KINDS if kind.name == "hevc")


def _encoder(kind: Kind, *, width: int = NUMBERED_SIDE, height: int = NUMBERED_SIDE) -> Callable[[Path], None]:
    def make(file: Path) -> None:
        encode(numbered_job(file, kind, width=width, height=height))

    return make


def _vp8_hidden(file: Path) -> None:
    """VP8 whose every eighth packet is decoded and not shown: one bit of its tag (RFC 6386, section 9.1)."""
    numbers, shown = list[int](), 0
    for index in range(NUMBERED_FRAMES + NUMBERED_FRAMES // 8):
        hidden = index % 8 == 4
        numbers.append(NEVER_SHOWN if hidden else shown)
        shown += not hidden
    source = _encoded_beside(file, Kind("vp8", "libvpx", "webm", options=VPX), numbers=numbers)

    def hide(index: int, content: bytes) -> bytes:
        return bytes([content[0] & 0xEF]) + content[1:] if numbers[index] == NEVER_SHOWN else content

    _copied(source, file, change=hide)


def _edit_list(file: Path) -> None:
    """MP4 whose first seven frames are left out, as cutting without encoding does."""
    numbers = [*[NEVER_SHOWN] * 7, *range(NUMBERED_FRAMES - 7)]
    _copied(_encoded_beside(file, _H264, numbers=numbers), file, frames_earlier=7)


def _turned(turn: Callable[[np.ndarray], np.ndarray], matrix: Sequence[float]) -> Callable[[Path], None]:
    """H.264 as a phone writes it: the pictures as they lie in the sensor, and in the track's header how they are shown.

    Args:
        turn: from the picture as it is shown to the one that is encoded.
        matrix: a, b, c, d of ISO/IEC 14496-12, from the encoded picture (x, y) to the shown one: (ax + cy, bx + dy).
    """

    def make(file: Path) -> None:
        shown = numbered_job(file, _H264, width=256, height=160)
        pictures = [turn(picture) for picture in pictures_of(shown)]
        height, width = pictures[0].shape[:2]
        encode(replace(shown, width=width, height=height, pictures=pictures))
        a, b, c, d = matrix
        x, y = max(0.0, -a * width, -c * height), max(0.0, -b * width, -d * height)
        content = bytearray(file.read_bytes())
        at = content.index(b"tkhd") + 44
        fixed = [round(value * 65536) for value in (a, b, 0, c, d, 0, x, y)]
        content[at : at + 36] = struct.pack(">9i", *fixed, 1 << 30)
        file.write_bytes(content)

    return make


def _two_streams(file: Path) -> None:
    """WebM with a small stream, then the larger one that it calls the default."""
    kind = Kind("vp9", "libvpx-vp9", "webm", options=VPX)
    small = _encoded_beside(file, kind, numbers=[NEVER_SHOWN] * NUMBERED_FRAMES, side=96)
    large = _encoded_beside(file, kind, numbers=range(NUMBERED_FRAMES))
    with av.open(str(small)) as first, av.open(str(large)) as second, av.open(str(file), "w") as copy:
        packets = []
        for source, disposition in ((first, Disposition(0)), (second, Disposition.default)):
            stream = copy.add_stream_from_template(source.streams.video[0])
            stream.disposition = disposition
            packets += [(packet, stream) for packet in source.demux(video=0) if packet.size]
        for packet, stream in sorted(packets, key=lambda pair: cast(int, pair[0].dts)):
            packet.stream = stream
            copy.mux(packet)
    small.unlink()
    large.unlink()


def _damaged(kind: Kind) -> Callable[[Path], None]:
    """Twenty bytes inside packets turned over; the frames of the first two packets are whole."""

    def make(file: Path) -> None:
        source = _encoded_beside(file, kind, numbers=range(NUMBERED_FRAMES))
        content, rng = bytearray(source.read_bytes()), np.random.default_rng(0)
        with av.open(str(source)) as container:
            packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size > 60]
        for start, size in (packets[row] for row in rng.choice(np.arange(2, len(packets)), 20).tolist()):
            assert start is not None
            content[start + int(rng.integers(40, size))] ^= 0xFF
        source.unlink()
        file.write_bytes(content)

    return make


_OF_VP9 = next(kind for kind in KINDS if kind.name == "vp9")
_QUARTER = (lambda picture: np.rot90(picture), (0, 1, -1, 0))  # shown turned clockwise by 90 degrees
_MIRROR = (lambda picture: picture[:, ::-1], (-1, 0, 0, 1))
HARD: dict[str, Callable[[Path], None]] = {
    "hard-vp9-hidden.webm": _encoder(_VP9_HIDDEN),
    "hard-vp8-hidden.webm": _vp8_hidden,
    "hard-edit-list.mp4": _edit_list,
    "hard-h264-avi.avi": _encoder(_H264),
    "hard-mpeg4-avi.avi": _encoder(_MPEG4),
    "hard-odd-size.webm": _encoder(_OF_VP9, width=427, height=239),
    "hard-h264-bt709.mp4": _encoder(replace(_H264, colorspace=Colorspace.ITU709)),
    "hard-vp9-bt709.webm": _encoder(replace(_OF_VP9, colorspace=Colorspace.ITU709)),
    "hard-h264-340x256.mp4": _encoder(_H264, width=340, height=256),
    "hard-h264-352x256.mp4": _encoder(_H264, width=352, height=256),
    "hard-rotated.mp4": _turned(*_QUARTER),
    "hard-mirrored.mp4": _turned(*_MIRROR),
    "hard-two-streams.webm": _two_streams,
}
"""Good files, by name, with what makes them: hidden frames, an edit list, B-frames without times of their own, an odd
size, a tagged matrix, a size that is another's coded size, rotation and mirroring, several streams."""
DAMAGED: dict[str, Callable[[Path], None]] = {
    "damaged-h264.mp4": _damaged(_H264),
    "damaged-hevc.mp4": _damaged(_HEVC),
    "damaged-vp9.webm": _damaged(_OF_VP9),
}
"""Files with damage inside packets, which containers do not tell."""


def make_special(file: Path) -> None:
    """Make one file of :data:`HARD` or :data:`DAMAGED`."""
    part = file.with_name(f"making-{file.name}")
    (HARD | DAMAGED)[file.name](part)
    part.rename(file)


def _encoded_beside(file: Path, kind: Kind, *, numbers: Sequence[int], side: int = NUMBERED_SIDE) -> Path:
    source = file.with_name(f"source-{side}-{file.stem}.{kind.suffix}")
    encode(numbered_job(source, kind, width=side, height=side, numbers=numbers))
    return source


def _copied(
    source: Path,
    target: Path,
    *,
    frames_earlier: int = 0,
    change: Callable[[int, bytes], bytes] = lambda _index, content: content,
) -> None:
    """Copy packets, each with its content changed, or all of them earlier, and delete their source."""
    with av.open(str(source)) as opened, av.open(str(target), "w", options={"avoid_negative_ts": "disabled"}) as copy:
        stream = copy.add_stream_from_template(opened.streams.video[0])
        packets = [packet for packet in opened.demux(video=0) if packet.size]
        for index, original in enumerate(packets):
            assert original.pts is not None
            assert original.dts is not None
            earlier = round(frames_earlier / FRAMES_PER_SECOND / original.time_base)
            packet = av.Packet(change(index, bytes(original)))
            packet.pts, packet.dts, packet.time_base = (
                original.pts - earlier,
                original.dts - earlier,
                original.time_base,
            )
            packet.is_keyframe, packet.stream, packet.duration = original.is_keyframe, stream, original.duration
            copy.mux(packet)
    source.unlink()


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
    made = [video for video in videos if video.exists()]
    file.write_text("".join(f"{video.name} {index % 4}\n" for index, video in enumerate(made)))
