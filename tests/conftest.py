"""Small encoded videos, tables of clips, and the handling of tests that need a GPU."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import cast

import av
import numpy as np
import pytest
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from mgs_dali.lists.table import Clips

NUM_FRAMES, WIDTH, HEIGHT = 60, 96, 64
# Started in the background of a shell, the suite inherits that Ctrl-C is ignored, and so do the programs that it tests.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ACTION = (20, 40)
"""The disc of the videos of the fixture ``videos`` moves between these frames, and stands still otherwise."""


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is None or has_gpu():
        return
    if os.environ.get("FAIL_WITHOUT_GPU") == "1":
        pytest.fail("this test needs a CUDA GPU, none is here, and FAIL_WITHOUT_GPU=1 is set")
    pytest.skip("needs a CUDA GPU")


@lru_cache(maxsize=1)
def has_gpu() -> bool:
    """Ask the driver itself, since neither PyTorch nor DALI needs to be here."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0


@pytest.fixture
def file_limit() -> Iterator[Callable[[int], None]]:
    """Let no file grow beyond so many bytes, for the rest of the test: writes fail as they do on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda num_bytes: resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# --- pictures -------------------------------------------------------------------------------------------------------


def moving_disc(
    num_frames: int = NUM_FRAMES,
    *,
    width: int = WIDTH,
    height: int = HEIGHT,
    action: tuple[int, int] = ACTION,
    seed: int = 0,
    noise: float = 0.0,
) -> Iterator[np.ndarray]:
    """A coloured disc on a smooth background, (height, width, 3) uint8; it moves in the frames of ``action`` only."""
    rng = np.random.default_rng(seed)
    phase = rng.random(4) * 6
    y, x = np.mgrid[:height, :width]
    scene = np.stack([118 + 34 * np.sin(x / 19 + phase[c]) + 24 * np.cos(y / 15 + phase[c]) for c in range(3)], axis=-1)
    first, last = action
    for index in range(num_frames):
        moved = (min(max(index, first), last) - first) / max(last - first, 1)
        centre_x, centre_y = width * (0.2 + 0.6 * moved), height * (0.5 + 0.25 * np.sin(9 * moved + phase[3]))
        disc = np.clip((0.2 * height - np.hypot(x - centre_x, y - centre_y)) / 4, 0, 1)[..., None]
        picture = scene * (1 - disc) + disc * np.array([190, 80, 90])
        picture = picture + (noise * rng.standard_normal((height, width, 1)) if noise else 0)
        yield picture.round().clip(0, 255).astype(np.uint8)


# --- files ----------------------------------------------------------------------------------------------------------


def encode(
    file: Path,
    frames: Iterable[np.ndarray],
    codec: str,
    *,
    pixel_format: str = "yuv420p",
    max_b_frames: int | None = None,
    gop: int | None = None,
    options: Mapping[str, str] | None = None,
) -> Path:
    """Write (H, W, 3) uint8 RGB frames as a video; its container is known by the file's suffix."""
    with av.open(str(file), "w") as container:
        stream: VideoStream | None = None
        for frame in frames:
            if stream is None:
                stream = cast(VideoStream, container.add_stream(codec, rate=25, options=dict(options or {})))
                stream.height, stream.width = frame.shape[:2]
                stream.pix_fmt = pixel_format
                stream.codec_context.thread_count = 1  # frames of one slice, however many cores there are
                if max_b_frames is not None:
                    stream.codec_context.max_b_frames = max_b_frames
                if gop is not None:
                    stream.codec_context.gop_size = gop
            container.mux(stream.encode(VideoFrame.from_ndarray(frame, format="rgb24")))
        assert stream is not None
        container.mux(stream.encode())
    return file


def hide_frames(file: Path, hidden: Sequence[int], target: Path) -> Path:
    """Copy a VP8 file; the packets ``hidden`` become frames that are decoded but not shown, as alternate references.

    Encoding in one pass, as PyAV does, makes no alternate references. Whether a frame is shown is one bit of its tag
    (RFC 6386, section 9.1) that changes nothing else.
    """
    with av.open(str(file)) as source, av.open(str(target), "w") as copy:
        stream = copy.add_stream_from_template(source.streams.video[0])
        for index, packet in enumerate(source.demux(video=0)):
            if packet.size == 0:
                continue
            content = bytearray(bytes(packet))
            if index in hidden:
                content[0] &= 0xEF
            changed = av.Packet(bytes(content))
            changed.pts, changed.dts, changed.time_base = packet.pts, packet.dts, packet.time_base
            changed.is_keyframe, changed.stream = packet.is_keyframe, stream
            copy.mux(changed)
    return target


def take_apart(video: Path, folder: Path, *, template: str = "img_{:05}.jpg") -> Path:
    """Write the packets of an MJPEG video, which are JPEGs, as a folder of frames: they decode alike."""
    folder.mkdir(parents=True)
    with av.open(str(video)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    for number, jpeg in enumerate(packets, start=1):
        (folder / template.format(number)).write_bytes(jpeg)
    return folder


def leave_out(file: Path, num_frames: int, target: Path) -> Path:
    """Copy a video to an MP4 whose first frames are there and not shown, as ``ffmpeg -ss ... -c copy`` does."""
    with av.open(str(file)) as source, av.open(str(target), "w", options={"avoid_negative_ts": "disabled"}) as copy:
        inputs = source.streams.video[0]
        stream = copy.add_stream_from_template(inputs)
        assert inputs.time_base is not None
        ticks = round(num_frames / 25 / inputs.time_base)
        for packet in source.demux(inputs):
            if packet.dts is not None and packet.pts is not None:
                packet.dts, packet.pts, packet.stream = packet.dts - ticks, packet.pts - ticks, stream
                copy.mux(packet)
    return target


def decode_all(file: Path, pixel_format: str = "rgb24") -> np.ndarray:
    """Every frame of a video, with nothing but PyAV: (F, H, W, 3) uint8 for rgb24, chroma interpolated."""
    careful = 0x2 | 0x2000 | 0x40000  # SWS_BILINEAR, _FULL_CHR_H_INT, _ACCURATE_RND; PyAV 17 does not name all three
    with av.open(str(file)) as container:
        frames = container.decode(video=0)
        return np.stack([frame.to_ndarray(format=pixel_format, interpolation=careful) for frame in frames])


MJPEG = {"qmin": "3", "qmax": "3"}
X264 = {"preset": "veryfast", "crf": "18"}
VP8 = {"deadline": "good", "cpu-used": "4", "crf": "10", "b": "1M", "auto-alt-ref": "1", "lag-in-frames": "16"}
VP9_ALTREF = {"deadline": "realtime", "cpu-used": "6", "b": "300k", "auto-alt-ref": "1", "lag-in-frames": "25"}


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One scene in many formats, by a short name: NUM_FRAMES of WIDTH x HEIGHT pixels, action at ACTION."""
    folder = tmp_path_factory.mktemp("videos")
    frames = list(moving_disc())
    vp8_longer = encode(folder / "longer.webm", moving_disc(NUM_FRAMES + 8, seed=1), "libvpx", options=VP8)
    return {
        "h264": encode(folder / "h264.mp4", frames, "libx264", max_b_frames=3, gop=30, options=X264),
        "mpeg4": encode(folder / "mpeg4.avi", frames, "mpeg4", max_b_frames=2),
        "vp8": encode(folder / "vp8.webm", frames, "libvpx", options=VP8),
        "vp8-hidden": hide_frames(vp8_longer, range(4, NUM_FRAMES + 8, 8), folder / "vp8-hidden.webm"),
        "vp9": encode(folder / "vp9.webm", frames, "libvpx-vp9", options=VP9_ALTREF),
        "mjpeg": encode(folder / "mjpeg.avi", frames, "mjpeg", pixel_format="yuvj420p", options=MJPEG),
        "hevc": encode(folder / "hevc.mp4", frames, "libx265", options={"x265-params": "log-level=none"}),
        "ffv1": encode(folder / "ffv1.mkv", frames, "ffv1"),
        "ffv1-10bit": encode(folder / "ffv1-10bit.mkv", frames, "ffv1", pixel_format="yuv420p10le"),
        "ffv1-gray": encode(folder / "ffv1-gray.mkv", frames, "ffv1", pixel_format="gray"),
        "h264-rgb": encode(folder / "h264-rgb.mp4", frames, "libx264rgb", pixel_format="rgb24", options={"crf": "10"}),
        "qtrle-rgb": encode(folder / "qtrle-rgb.mov", frames, "qtrle", pixel_format="rgb24"),
    }


@pytest.fixture(scope="session")
def dali_videos(tmp_path_factory: pytest.TempPathFactory) -> Clips:
    """Ten videos that DALI decodes on the CPU too (VP8, VP9, MJPEG), of different sizes and lengths, five classes."""
    root = tmp_path_factory.mktemp("dali_videos")
    codecs = [("libvpx", "webm", VP8), ("libvpx-vp9", "webm", VP9_ALTREF), ("mjpeg", "avi", MJPEG)]
    paths = []
    for index in range(10):
        codec, suffix, options = codecs[index % 3]
        width, height = [(96, 64), (64, 80), (112, 72)][index // 2 % 3]
        num_frames = 20 + 3 * index
        frames = moving_disc(num_frames, width=width, height=height, action=(index, index + 10), seed=index)
        pixel_format = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        paths.append(f"{index}.{suffix}")
        encode(root / paths[-1], frames, codec, pixel_format=pixel_format, options=options)
    return clip_table(root, paths, labels=[index % 5 for index in range(10)], num_classes=5)


def picks_by_hand(
    motion: np.ndarray, targets: Iterable[float], *, mu: float = 0.5, floor: float = 0.0, pick: str = "nearest"
) -> list[int]:
    """Motion-guided frames, said in another way than the samplers say it."""
    weights = motion.astype(float) ** mu
    weights = weights + floor * weights.mean()
    ends = weights.cumsum() / weights.sum()
    if pick == "nearest":  # the first of the gaps that end nearest to the target
        distances = [np.abs(ends - target).tolist() for target in targets]
        return [of_target.index(min(of_target)) for of_target in distances]
    # the curve of the shares, read backwards and rounded to a frame
    shares = np.concatenate([[0], ends])
    return [int(np.interp(target, shares, np.arange(len(shares))) + 0.5) for target in targets]


def kind(array: np.ndarray) -> tuple[str, tuple[int, ...]]:
    """Element type and shape."""
    return str(array.dtype), array.shape


def clip_table(
    root: Path,
    paths: Sequence[str],
    *,
    labels: Sequence[int] | np.ndarray | None = None,
    num_classes: int = 2,
    template: str | None = None,
) -> Clips:
    """A table of whole videos; its list file is ``root/list.txt``, which need not exist, and counts lines from 1."""
    column = np.array([0] * len(paths) if labels is None else labels)
    return Clips(
        root=root,
        paths=list(paths),
        first_frames=np.zeros(len(paths), np.int64),
        num_frames=np.full(len(paths), -1, np.int64),
        labels=column.astype(np.int64) if column.ndim == 1 else column.astype(np.float32),
        num_classes=num_classes,
        class_names=None,
        list_file=root / "list.txt",
        list_lines=np.arange(1, len(paths) + 1),
        template=template,
    )
