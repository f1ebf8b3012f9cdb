"""Videos that are hard to read right, and an oracle that believes no decoder.

Every frame shows its own number as bars, so a delivered picture can be asked which frame it is, and whether it is
upright: the bars of a turned or mirrored picture are not readable. What a correct player shows is known by
construction: each maker says which numbers come in which order.

The makers are in :data:`MAKERS`, by kind and name. Two colour kinds have flat patches of known colour beside the bars.
"""

from __future__ import annotations

import io
import os
import re
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import av
import numpy as np
from av.bitstream import BitStreamFilterContext
from av.container import OutputContainer
from av.stream import Disposition, Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from mgs_dali.decode.pyav import open_input
from mgs_dali.lists.table import Clips
from mgs_dali.load.clip import load_sample
from mgs_dali.load.plan import Plan
from mgs_dali.sampling import Dense, MotionGuided, Uniform
from mgs_dali.views.protocols import Views

WIDTH, HEIGHT, NUM_FRAMES, GOP = 128, 96, 40, 12
RATE = 25

# --- pictures ---------------------------------------------------------------------------------------------------------

_NUM_BITS, _NUM_CHECKS = 7, 3
_WHITE, _BLACK = 235, 20
# Cells of a 4 x 4 grid that are the same in every picture. The white corner alone would leave one mirroring unseen.
_FIXED = {(0, 0): 1, (0, 3): 0, (3, 0): 0, (3, 3): 0, (0, 1): 1, (1, 0): 0}
_FREE = [(row, column) for row in range(4) for column in range(4) if (row, column) not in _FIXED]


def _cells(number: int) -> np.ndarray:
    assert 0 <= number < 1 << _NUM_BITS
    code = number | (number * 5 + 3) % (1 << _NUM_CHECKS) << _NUM_BITS
    cells = np.zeros((4, 4), np.uint8)
    for place, bit in _FIXED.items():
        cells[place] = bit
    for shift, place in enumerate(_FREE):
        cells[place] = code >> shift & 1
    return cells


def picture(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """(height, width, 3) uint8: bars in the middle that tell the number, and a block that moves with it."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([70 + 90 * x // width, 60 + 90 * y // height, 160 - 80 * x // width], axis=-1).astype(np.uint8)
    top, side = height * 13 // 16, max(2, height // 8)
    left = (number * 5) % max(1, width - 2 * side)
    image[top : top + side, left : left + 2 * side] = (220, 90 + number, 60)
    _draw_cells(image, number, (_BLACK,) * 3, (_WHITE,) * 3)
    return image


def _draw_cells(image: np.ndarray, number: int, black: Sequence[int], white: Sequence[int]) -> None:
    height, width = image.shape[:2]
    for (row, column), bit in np.ndenumerate(_cells(number)):
        rows = slice(height * (4 + 2 * row) // 16, height * (6 + 2 * row) // 16)
        columns = slice(width * (4 + 2 * column) // 16, width * (6 + 2 * column) // 16)
        image[rows, columns] = white if bit else black


def number_in(image: np.ndarray, *, of: tuple[int, int] | None = None) -> int | None:
    """The number that a picture shows, (H, W, 3) of any type with values from 0 to 255; None where it is not readable.

    Args:
        image: the whole frame, or its middle square.
        of: (width, height) of the whole frame, where ``image`` is its middle square at any size.
    """
    grey = np.asarray(image, np.float32).mean(axis=-1)
    height, width = grey.shape
    full_width, full_height, scale = width, height, 1.0
    left = top = 0.0
    if of is not None:
        full_width, full_height = of
        shorter = min(of)
        scale = width / shorter
        left, top = (full_width - shorter) / 2, (full_height - shorter) / 2
    means = np.zeros((4, 4))
    for row in range(4):
        for column in range(4):
            # the middle half of the cell
            y0, y1 = ((full_height * (4 + 2 * row + part) / 16 - top) * scale for part in (0.5, 1.5))
            x0, x1 = ((full_width * (4 + 2 * column + part) / 16 - left) * scale for part in (0.5, 1.5))
            part = grey[int(y0) : max(int(y0) + 1, int(y1)), int(x0) : max(int(x0) + 1, int(x1))]
            means[row, column] = part.mean() if part.size else 128
    if ((means > 90) & (means < 165)).any():
        return None
    cells = means > 128
    code = sum(int(cells[place]) << shift for shift, place in enumerate(_FREE))
    number = code & (1 << _NUM_BITS) - 1
    return number if (cells == _cells(number)).all() else None


# --- writing files ----------------------------------------------------------------------------------------------------

X264 = {"preset": "veryfast", "crf": "18", "x264-params": "threads=1:scenecut=0"}
X265 = {"preset": "ultrafast", "x265-params": "log-level=none:pools=1:frame-threads=1:scenecut=0:crf=20"}
VP8 = {"deadline": "realtime", "cpu-used": "6", "crf": "8", "b": "2M"}
VP9 = {"deadline": "realtime", "cpu-used": "8", "crf": "16", "b": "2M"}
VP9_HIDDEN = {"deadline": "realtime", "cpu-used": "6", "b": "500k", "auto-alt-ref": "1", "lag-in-frames": "25"}
MPEG4 = {"qmin": "2", "qmax": "3"}
AV1 = {"preset": "6", "crf": "5", "svtav1-params": "lp=1:enable-tf=0"}
OPTIONS: dict[str, Mapping[str, str]] = {
    "libx264": X264,
    "libx265": X265,
    "libvpx": VP8,
    "libvpx-vp9": VP9,
    "libsvtav1": AV1,
    "mpeg4": MPEG4,
    "mjpeg": MPEG4,
    "mpeg2video": MPEG4,
    "mpeg1video": MPEG4,
}


def x264(**parameters: object) -> dict[str, str]:
    """Options of libx264 beyond :data:`X264`."""
    more = ":".join(f"{name.replace('_', '-')}={value}" for name, value in parameters.items())
    return X264 | {"x264-params": f"{X264['x264-params']}:{more}"}


def x265(**parameters: object) -> dict[str, str]:
    """Options of libx265 beyond :data:`X265`."""
    more = ":".join(f"{name.replace('_', '-')}={value}" for name, value in parameters.items())
    return X265 | {"x265-params": f"{X265['x265-params']}:{more}"}


def write(
    file: Path,
    codec: str,
    numbers: Iterable[int] = range(NUM_FRAMES),
    *,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    pixel_format: str = "yuv420p",
    gop: int | None = GOP,
    b_frames: int | None = 0,
    options: Mapping[str, str] | None = None,
    muxing: Mapping[str, str] | None = None,
    times: Sequence[int] | None = None,
    time_base: Fraction = Fraction(1, RATE),
    rate: Fraction | int = RATE,
    container_format: str | None = None,
    draw: Callable[[int, int, int], np.ndarray | VideoFrame] = picture,
    setting: Mapping[str, object] | None = None,
    stream_time_base: Fraction | None = None,
) -> Path:
    """Encode pictures of these numbers.

    Args:
        times: of the frames in units of ``time_base``; one after the other by default.
        draw: (number, width, height) -> the picture, RGB or ready to be encoded.
        setting: attributes of the codec context.
    """
    width, height = size
    with av.open(str(file), "w", format=container_format, options=dict(muxing or {})) as container:
        stream = container.add_stream(
            codec, rate=rate, options=dict(OPTIONS.get(codec, {}) if options is None else options)
        )
        stream = cast(VideoStream, stream)
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        context = stream.codec_context
        context.thread_count = 1
        context.time_base = time_base
        if stream_time_base is not None:
            stream.time_base = stream_time_base
        if gop is not None:
            context.gop_size = gop
        if b_frames is not None and codec in ("libx264", "libx265", "mpeg4", "mpeg2video", "mpeg1video"):
            context.max_b_frames = b_frames
        if codec == "libx265":
            # x265 goes by its own options only
            extra = f":bframes={b_frames or 0}" + ("" if gop is None else f":keyint={gop}:min-keyint={gop}")
            parameters = dict(X265 if options is None else options)
            context.options = parameters | {"x265-params": parameters["x265-params"] + extra}
        elif codec == "libsvtav1" and gop is not None:
            context.options = dict(AV1) | {"svtav1-params": f"{AV1['svtav1-params']}:keyint={gop}"}
        for name, value in (setting or {}).items():
            setattr(context, name, value)
        for index, number in enumerate(numbers):
            drawn = draw(number, width, height)
            frame = VideoFrame.from_ndarray(drawn, format="rgb24") if isinstance(drawn, np.ndarray) else drawn
            if frame.format.name != pixel_format:
                # Several threads write pictures of 10 bits wrongly, now and then.
                frame = frame.reformat(format=pixel_format, threads=1)
            frame.pts, frame.time_base = (times[index] if times is not None else index), time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file


def write_av1(
    file: Path,
    numbers: Iterable[int] = range(NUM_FRAMES),
    *,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    draw: Callable[[int, int, int], np.ndarray] = picture,
    **options: Any,
) -> Path:
    """:func:`write` with SVT-AV1, which leaves its process in a state in which FFmpeg converts pictures wrongly."""
    drawn = [draw(number, *size) for number in numbers]
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(_write_drawn, file, drawn, size, options).result()


def _write_drawn(file: Path, drawn: list[np.ndarray], size: tuple[int, int], options: dict[str, Any]) -> Path:
    os.environ["SVT_LOG"] = "1"  # errors only
    return write(file, "libsvtav1", range(len(drawn)), size=size, draw=lambda place, _w, _h: drawn[place], **options)


class Row(NamedTuple):
    """A packet."""

    content: bytes
    pts: int | None
    dts: int | None
    duration: int
    is_keyframe: bool
    place: int
    """Of its content in the file, in bytes."""


def rows_of(file: Path) -> list[Row]:
    """The packets of a video that is valid."""
    with open_input(file) as container:
        return [
            Row(bytes(packet), packet.pts, packet.dts, packet.duration or 0, packet.is_keyframe, packet.pos or 0)
            for packet in container.demux(container.streams.video[0])
            if packet.size
        ]


def write_rows(
    file: Path | io.BytesIO,
    like: Path,
    rows: Iterable[Row],
    *,
    muxing: Mapping[str, str] | None = None,
    container_format: str | None = None,
    filtered: str = "",
) -> None:
    """Write packets into a new file, with the stream's parameters and ticks of the file ``like``.

    Args:
        filtered: name of an FFmpeg bitstream filter that they go through.
    """
    target = file if isinstance(file, io.BytesIO) else str(file)
    with (
        open_input(like) as source,
        av.open(target, "w", format=container_format, options=dict(muxing or {})) as container,
    ):
        inputs = source.streams.video[0]
        stream = container.add_stream_from_template(inputs, opaque=True)
        bitstream_filter = BitStreamFilterContext(filtered, inputs, stream) if filtered else None
        for row in rows:
            packet = av.Packet(row.content)
            packet.pts, packet.dts, packet.duration = row.pts, row.dts, row.duration
            packet.time_base, packet.is_keyframe = cast(Fraction, inputs.time_base), row.is_keyframe
            for changed in bitstream_filter.filter(packet) if bitstream_filter else [packet]:
                changed.stream = stream
                container.mux_one(changed)


def copy(source: Path, target: Path, *, keep: Callable[[int], bool] = lambda _: True, **options: Any) -> Path:
    """Copy the packets of a video by their place in the file."""
    write_rows(target, source, [row for place, row in enumerate(rows_of(source)) if keep(place)], **options)
    return target


def joined(
    sources: Sequence[Path], target: Path, *, muxing: Mapping[str, str] | None = None, filtered: str = ""
) -> Path:
    """The packets of videos one after the other, in a stream with the parameters of the first."""
    together: list[Row] = []
    start = 0
    for source in sources:
        rows = rows_of(source)
        step = max(row.duration for row in rows) or 1
        first = min(row.pts for row in rows if row.pts is not None)
        for row in rows:
            assert row.pts is not None
            assert row.dts is not None
            together.append(row._replace(pts=row.pts - first + start, dts=row.dts - first + start))
        start += max(row.pts - first for row in rows if row.pts is not None) + step
    write_rows(target, sources[0], together, muxing=muxing, filtered=filtered)
    return target


# --- boxes of MP4 -----------------------------------------------------------------------------------------------------

_PARENTS = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf", b"edts")


def boxes(content: bytes) -> list[tuple[bytes, bytes]]:
    """(kind, content without its header) of boxes that follow each other."""
    found, place = [], 0
    while place + 8 <= len(content):
        size, kind = struct.unpack(">I4s", content[place : place + 8])
        header = 8
        if size == 1:
            (size,), header = struct.unpack(">Q", content[place + 8 : place + 16]), 16
        elif size == 0:
            size = len(content) - place
        found.append((kind, content[place + header : place + size]))
        place += size
    return found


def joined_boxes(rows: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The inverse of :func:`boxes`."""
    return b"".join(struct.pack(">I4s", len(content) + 8, kind) + content for kind, content in rows)


def change_box(content: bytes, kind: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """Change the content of every box of a kind, in whatever depth."""

    def changed(row: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
        if row[0] == kind:
            return kind, change(row[1])
        return (row[0], change_box(row[1], kind, change)) if row[0] in _PARENTS else row

    return joined_boxes(changed(row) for row in boxes(content))


def set_box(content: bytes, kind: bytes, new: bytes) -> bytes:
    """Give every box of a kind another content."""
    return change_box(content, kind, lambda _: new)


# --- what is made -----------------------------------------------------------------------------------------------------

Verdict = Literal["right", "error", "damaged", "either"]


@dataclass(frozen=True)
class Hard:
    """A made video, and what must be said of it."""

    path: Path
    numbers: tuple[int, ...]
    """What a correct player shows, in order; nothing where there is nothing to show."""
    verdict: Verdict = "right"
    """"right": every route delivers; "error": every route reports; "damaged": what decodes all of it reports, and what
    decodes less delivers right or reports; "either": right or reported."""
    size: tuple[int, int] = (WIDTH, HEIGHT)
    """Of the upright pictures."""
    like: Path | None = None
    """An undamaged file whose frames of the same numbers are the same to the bit."""
    patches: tuple[tuple[int, int, int], ...] = ()
    """RGB of the flat patches from left to right along the upper edge."""
    tolerance: float = 2.0
    """Of the patches, in grey levels."""
    error: str = ""
    """A regular expression of the error's text."""
    is_tiny: bool = False
    """Without bars: a frame's grey is 20 + 10 times its number."""


Maker = Callable[[Path], Hard]
"""Makes its files in a folder of its own."""

MAKERS: dict[str, dict[str, Maker]] = {}
"""By kind and name."""
OFTEN: set[tuple[str, str]] = set()
"""Those that are tried by default; the others are slow."""


def _add(kind: str, name: str, maker: Callable[..., Hard], *values: Any, often: bool = False, **options: Any) -> None:
    """Register a file: what ``maker`` makes of a folder, ``values`` and ``options``."""
    assert name not in MAKERS.setdefault(kind, {}), name
    MAKERS[kind][name] = lambda folder: maker(folder, *values, **options)
    if often:
        OFTEN.add((kind, name))


def _right(path: Path, numbers: Iterable[int] = range(NUM_FRAMES), **more: Any) -> Hard:
    return Hard(path, tuple(numbers), **more)


FRAGMENTS = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
CODECS: dict[str, tuple[str, str, int]] = {  # codec: encoder, pixel format, B-frames
    "h264": ("libx264", "yuv420p", 2),
    "hevc": ("libx265", "yuv420p", 2),
    "mpeg4": ("mpeg4", "yuv420p", 2),
    "mpeg2": ("mpeg2video", "yuv420p", 2),
    "mjpeg": ("mjpeg", "yuvj420p", 0),
    "vp8": ("libvpx", "yuv420p", 0),
    "vp9": ("libvpx-vp9", "yuv420p", 0),
    "av1": ("libsvtav1", "yuv420p", 0),
}


def simple(file: Path, codec: str, numbers: Iterable[int] = range(NUM_FRAMES), **options: Any) -> Path:
    """A video of this codec with its usual options."""
    encoder, pixel_format, b_frames = CODECS[codec]
    options.setdefault("pixel_format", pixel_format)
    options.setdefault("b_frames", b_frames)
    if codec == "av1":
        return write_av1(file, numbers, **options)
    return write(file, encoder, numbers, **options)


# --- which stream -----------------------------------------------------------------------------------------------------


def _jpeg(number: int = 127, size: tuple[int, int] = (80, 80)) -> bytes:
    context = cast(Any, av.CodecContext.create("mjpeg", "w"))
    context.width, context.height, context.pix_fmt, context.time_base = *size, "yuvj420p", Fraction(1, 25)
    frame = VideoFrame.from_ndarray(picture(number, *size), format="rgb24").reformat(format="yuvj420p", threads=1)
    frame.pts = 0
    return b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)])


def _tone(container: OutputContainer, codec: str) -> Any:
    stream = cast(Any, container.add_stream(codec, rate=48000))
    stream.layout = "mono"
    return stream


def _mux_tone(container: OutputContainer, stream: Any, *, seconds: float) -> None:
    size = stream.codec_context.frame_size or 1024
    samples = (8000 * np.sin(np.arange(int(48000 * seconds)) / 20)).astype(np.int16)
    resampler = av.AudioResampler(format=stream.codec_context.format, layout="mono", rate=48000, frame_size=size)
    for start in range(0, len(samples), size):
        frame = av.AudioFrame.from_ndarray(samples[None, start : start + size], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 48000, start, Fraction(1, 48000)
        for part in resampler.resample(frame):
            container.mux(stream.encode(part))
    container.mux(stream.encode(None))


def _mark(stream: Stream, disposition: Disposition) -> None:
    stream.disposition = cast(Any, disposition.value)  # PyAV 17 takes nothing but the number


def _with_cover(folder: Path, suffix: str, codec: str = "h264", *, first: bool = False) -> Hard:
    video = simple(folder / f"video.{suffix}", codec)
    target = folder / f"cover.{suffix}"
    with av.open(str(video)) as source, av.open(str(target), "w") as container:
        inputs = source.streams.video[0]
        stream = container.add_stream_from_template(inputs, opaque=True)
        if suffix == "mkv":
            container.add_attachment("cover.jpg", "image/jpeg", _jpeg())
        else:
            _add_cover(container)
        for packet in source.demux(inputs):
            if packet.size:
                packet.stream = stream
                container.mux_one(packet)
    if first:  # the tags before the tracks: the cover is stream 0
        content = target.read_bytes()
        target.write_bytes(change_box(content, b"moov", _tags_first))
    return _right(target)


def _add_cover(container: OutputContainer) -> None:
    """A still picture as a stream of its own, muxed at once: every other stream must be there before."""
    cover = container.add_stream("mjpeg", rate=RATE)
    cover.width, cover.height, cover.pix_fmt = 80, 80, "yuvj420p"
    _mark(cover, Disposition.attached_pic)
    still = VideoFrame.from_ndarray(picture(127, 80, 80), format="rgb24").reformat(format="yuvj420p", threads=1)
    still.pts = 0
    container.mux([*cover.encode(still), *cover.encode(None)])


def _tags_first(moov: bytes) -> bytes:
    return joined_boxes(sorted(boxes(moov), key=lambda box: box[0] not in (b"mvhd", b"udta")))


def _music(folder: Path, suffix: str, codec: str) -> Hard:
    target = folder / f"music.{suffix}"
    with av.open(str(target), "w", format="mp4" if suffix == "m4a" else None) as container:
        tone = _tone(container, codec)
        _add_cover(container)
        _mux_tone(container, tone, seconds=1)
    return Hard(target, (), "error", error="no video stream")


def _two_streams(folder: Path, suffix: str, codec: str, *, default: int | None) -> Hard:
    """The first is smaller, shorter and counts from 64; the one of the container's default is shown, else the first."""
    encoder, pixel_format, _ = CODECS[codec]
    sources = [
        write(folder / f"a.{suffix}", encoder, range(64, 94), size=(96, 64), pixel_format=pixel_format),
        write(folder / f"b.{suffix}", encoder, pixel_format=pixel_format),
    ]
    target = folder / f"two.{suffix}"
    packets: list[tuple[float, int, av.Packet]] = []
    with (
        av.open(str(sources[0])) as a,
        av.open(str(sources[1])) as b,
        av.open(str(target), "w", options={"default_mode": "infer_no_subs"} if suffix != "mp4" else {}) as container,
    ):
        streams = []
        for place, source in enumerate((a, b)):
            inputs = source.streams.video[0]
            stream = container.add_stream_from_template(inputs, opaque=True)
            _mark(stream, Disposition.default if default == place else Disposition(0))
            streams.append(stream)
            for packet in source.demux(inputs):
                if packet.size and packet.dts is not None:
                    packets.append((float(packet.dts * packet.time_base), place, packet))
        for _, place, packet in sorted(packets, key=lambda item: item[:2]):
            packet.stream = streams[place]
            container.mux(packet)
    with av.open(str(target)) as made:
        marked = [bool(stream.disposition & Disposition.default) for stream in made.streams.video]
    assert len(marked) == 2
    if default is not None:
        assert marked == [default == 0, default == 1], marked
    shown = marked.index(True) if any(marked) else 0
    return _right(target) if shown else _right(target, range(64, 94), size=(96, 64))


def _beside(folder: Path, suffix: str, codec: str, audio: str, subtitle: str = "", *, late: bool = False) -> Hard:
    """Video with sound, and text; ``late`` writes the sound's stream first."""
    encoder, pixel_format, b_frames = CODECS[codec]
    target = folder / f"beside.{suffix}"
    with av.open(str(target), "w") as container:
        tone = _tone(container, audio) if late else None
        stream = cast(VideoStream, container.add_stream(encoder, rate=RATE, options=dict(OPTIONS[encoder])))
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixel_format
        stream.codec_context.thread_count = 1
        stream.codec_context.gop_size = GOP
        if b_frames:
            stream.codec_context.max_b_frames = b_frames
        tone = tone or _tone(container, audio)
        text: Any = None
        if subtitle:
            text = container.add_stream(subtitle)
            text.codec_context.subtitle_header = b"[Script Info]\nScriptType: v4.00+\n"
        for number in range(NUM_FRAMES):
            frame = VideoFrame.from_ndarray(picture(number), format="rgb24").reformat(format=pixel_format, threads=1)
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        _mux_tone(container, tone, seconds=NUM_FRAMES / RATE)
        if text is not None:
            packet = av.Packet(b"\x00\x05words" if subtitle == "mov_text" else b"words")
            packet.stream, packet.pts, packet.dts, packet.duration = text, 0, 0, 500
            packet.time_base = Fraction(1, 1000)
            container.mux(packet)
    return _right(target)


_add("stream", "cover after, mp4", _with_cover, "mp4", often=True)
_add("stream", "cover before, mp4", _with_cover, "mp4", first=True, often=True)
_add("stream", "cover before, hevc mp4", _with_cover, "mp4", "hevc", first=True)
_add("stream", "cover, mkv", _with_cover, "mkv", often=True)
_add("stream", "cover, vp8 mkv", _with_cover, "mkv", "vp8")
for _suffix, _codec in (("m4a", "aac"), ("mp3", "libmp3lame"), ("flac", "flac")):
    _add("stream", f"music, {_suffix}", _music, _suffix, _codec, often=_suffix != "mp3")
for _suffix, _codec in (
    ("webm", "vp9"),
    ("webm", "vp8"),
    ("mkv", "h264"),
    ("mp4", "h264"),
    ("mp4", "vp9"),
    ("mkv", "mjpeg"),
):
    for _default in (None, 0, 1):
        _add(
            "stream",
            f"two, {_codec} {_suffix}, default {_default}",
            _two_streams,
            _suffix,
            _codec,
            default=_default,
            often=(_suffix, _codec) in (("webm", "vp9"), ("mp4", "h264")) and _default != 0,
        )
_add("stream", "sound, mp4", _beside, "mp4", "h264", "aac")
_add("stream", "sound first, mp4", _beside, "mp4", "h264", "aac", late=True, often=True)
_add("stream", "sound first, vp8 webm", _beside, "webm", "vp8", "libopus", late=True, often=True)
_add("stream", "sound first, mpeg4 avi", _beside, "avi", "mpeg4", "libmp3lame", late=True)
_add("stream", "sound first, mjpeg avi", _beside, "avi", "mjpeg", "pcm_s16le", late=True)
_add("stream", "sound first, ts", _beside, "ts", "h264", "mp2", late=True)
_add("stream", "sound, vp9 mkv", _beside, "mkv", "vp9", "flac")


# --- turned and mirrored ----------------------------------------------------------------------------------------------

# (a, b, c, d) of ISO 14496-12, 6.2.2: a stored point (x, y) is shown at (a x + c y, b x + d y), but for a shift.
TURNS: dict[str, tuple[int, int, int, int]] = {
    "as is": (1, 0, 0, 1),
    "right": (0, 1, -1, 0),
    "half": (-1, 0, 0, -1),
    "left": (0, -1, 1, 0),
    "mirrored": (-1, 0, 0, 1),
    "upside down": (1, 0, 0, -1),
    "transposed": (0, 1, 1, 0),
    "other diagonal": (0, -1, -1, 0),
}


def stored(shown: np.ndarray, turn: str) -> np.ndarray:
    """The picture to store so that a player with this display matrix shows ``shown``."""
    a, b, c, d = TURNS[turn]
    height, width = shown.shape[:2]
    stored_height, stored_width = (height, width) if a else (width, height)
    y, x = np.mgrid[:stored_height, :stored_width]
    shown_x, shown_y = a * x + c * y, b * x + d * y
    return np.ascontiguousarray(shown[shown_y - shown_y.min(), shown_x - shown_x.min()])


def _tagged(file: Path, turn: str) -> Path:
    """Write a display matrix into the track header of an MP4 or MOV file."""
    a, b, c, d = TURNS[turn]
    with av.open(str(file)) as container:
        stream = container.streams.video[0]
        width, height = stream.width, stream.height
    # what lies left of or above the origin is shifted back
    shift_x, shift_y = (-min(0, one * width) - min(0, other * height) for one, other in ((a, c), (b, d)))
    matrix = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, shift_x << 16, shift_y << 16, 1 << 30)

    def change(header: bytes) -> bytes:
        place = 52 if header[0] == 1 else 40  # version 1 has longer times
        return header[:place] + matrix + header[place + 36 :]

    # of the same length: nothing moves
    file.write_bytes(change_box(file.read_bytes(), b"tkhd", change))
    return file


def _turned(
    folder: Path, turn: str, suffix: str, codec: str, size: tuple[int, int] = (WIDTH, HEIGHT), **options: Any
) -> Hard:
    def draw(number: int, _width: int, _height: int) -> np.ndarray:
        return stored(picture(number, *size), turn)

    is_across = TURNS[turn][0] == 0
    file = folder / f"turned.{suffix}"
    simple(file, codec, size=size[::-1] if is_across else size, draw=draw, **options)
    return _right(_tagged(file, turn), size=size)


def _posed(folder: Path, turn: str) -> Hard:
    """In Matroska, whose writer makes ProjectionPoseRoll of the display matrix that the MP4 has."""
    hard = _turned(folder, turn, "mp4", "h264")
    target = copy(hard.path, folder / "posed.mkv")
    with av.open(str(target)) as container:
        rotation = next(container.decode(video=0)).rotation
    assert rotation != 0, "the writer left the turn out"
    return _right(target, size=hard.size)


def _announced(folder: Path, anticlockwise: int, *, flips: bool = False) -> Hard:
    """By a display orientation message of H.264 (ITU-T H.264, D.1.27): no container says anything."""
    turn = {0: "as is", 90: "left", 180: "half", 270: "right"}[anticlockwise]
    size = (WIDTH, HEIGHT)
    is_across = TURNS[turn][0] == 0

    def draw(number: int, _width: int, _height: int) -> np.ndarray:
        shown = picture(number, *size)
        # the picture is flipped before it is turned
        rotated = stored(shown, turn)
        return np.ascontiguousarray(rotated[:, ::-1]) if flips else rotated

    plain = simple(folder / "plain.mkv", "h264", size=size[::-1] if is_across else size, draw=draw)
    rotation = {0: "0", 90: "90", 180: "180", 270: "270"}[anticlockwise]
    target = folder / "announced.mkv"
    options = f"h264_metadata=display_orientation=insert:rotate={rotation}" + (":flip=horizontal" if flips else "")
    copy(plain, target, filtered=options)
    return _right(target, size=size)


for _turn in TURNS:
    for _suffix, _codec in (
        ("mp4", "h264"),
        ("mov", "mjpeg"),
        ("mp4", "hevc"),
        ("mp4", "mpeg4"),
        ("mp4", "vp9"),
        ("mp4", "av1"),
    ):
        if _codec == "av1" and _turn not in ("right", "transposed"):
            continue
        _add(
            "turn",
            f"{_turn}, {_codec} {_suffix}",
            _turned,
            _turn,
            _suffix,
            _codec,
            often=_codec == "h264" or (_codec in ("mjpeg", "vp9") and _turn in ("left", "mirrored", "transposed")),
        )
for _turn in ("right", "left", "half"):
    _add("turn", f"{_turn}, mkv", _posed, _turn, often=_turn == "right")
_add("turn", "right, 98x130 h264", _turned, "right", "mp4", "h264", size=(98, 130))
_add("turn", "left, 101x67 vp9", _turned, "left", "mp4", "vp9", size=(101, 67))
_add("turn", "right, 4:4:4", _turned, "right", "mp4", "h264", pixel_format="yuv444p")
_add("turn", "right, 4:2:2", _turned, "right", "mov", "h264", pixel_format="yuv422p")
_add("turn", "right, fragmented", _turned, "right", "mp4", "h264", muxing=FRAGMENTS)
for _degrees in (90, 180, 270):
    _add("turn", f"message of {_degrees}", _announced, _degrees, often=_degrees == 90)
_add("turn", "message, mirrored", _announced, 0, flips=True)


# --- colour -----------------------------------------------------------------------------------------------------------

# Number of the matrix in ITU-T H.273: Kr, Kb.
MATRICES: dict[str, tuple[int, float, float]] = {
    "bt709": (1, 0.2126, 0.0722),
    "untagged": (2, 0.299, 0.114),
    "fcc": (4, 0.30, 0.11),
    "bt470bg": (5, 0.299, 0.114),
    "smpte170m": (6, 0.299, 0.114),
    "smpte240m": (7, 0.212, 0.087),
    "bt2020nc": (9, 0.2627, 0.0593),
}
_SAMPLES = [(120, 128, 128), (100, 160, 110), (150, 100, 150), (95, 120, 165), (165, 140, 95)]
"""Y, Cb, Cr of the patches: inside the range of RGB by every matrix, in both ranges."""


def rgb_of(sample: tuple[int, int, int], matrix: str, *, full: bool) -> tuple[int, int, int]:
    """R, G, B of 8-bit Y, Cb, Cr, by the formulas of ITU-T H.273, 8.3."""
    _, red, blue = MATRICES[matrix]
    y, cb, cr = (sample[0], sample[1] - 128, sample[2] - 128)
    luma, b_less, r_less = (
        (float(y), float(cb), float(cr)) if full else ((y - 16) * 255 / 219, cb * 255 / 224, cr * 255 / 224)
    )
    r = luma + 2 * (1 - red) * r_less
    b = luma + 2 * (1 - blue) * b_less
    g = (luma - red * r - blue * b) / (1 - red - blue)
    assert all(-0.5 < value < 255.5 for value in (r, g, b)), (matrix, sample, r, g, b)
    return round(r), round(g), round(b)


def _patches(number: int, width: int, height: int, *, pixel_format: str, full: bool) -> VideoFrame:
    """The bars with flat patches above them, in Y, Cb and Cr as given."""
    black, white = ((0, 128, 128), (255, 128, 128)) if full else ((16, 128, 128), (235, 128, 128))
    image = np.empty((height, width, 3), np.uint8)
    image[:] = (110, 128, 128)
    for place, sample in enumerate(_SAMPLES):
        image[: height * 3 // 16, place * width // len(_SAMPLES) : (place + 1) * width // len(_SAMPLES)] = sample
    _draw_cells(image, number, black, white)
    left = number * 2 % (width - 16)
    image[height * 14 // 16 : height * 15 // 16, left : left + 16] = (180, 118, 140)
    frame = VideoFrame(width, height, pixel_format)
    for plane, channel in zip(frame.planes, range(3), strict=True):
        down, across = height // plane.height, width // plane.width
        values = image[::down, ::across, channel]
        if plane.line_size >= 2 * plane.width and "10" in pixel_format:
            rows = np.zeros((plane.height, plane.line_size // 2), np.uint16)
            rows[:, : plane.width] = values.astype(np.uint16) * 4
        else:
            rows = np.zeros((plane.height, plane.line_size), np.uint8)
            rows[:, : plane.width] = values
        plane.update(rows.tobytes())
    return frame


def _coloured(
    folder: Path,
    matrix: str,
    codec: str,
    suffix: str,
    *,
    full: bool = False,
    pixel_format: str = "yuv420p",
    tagged_range: bool = True,
    options: Mapping[str, str] | None = None,
) -> Hard:
    encoder = CODECS[codec][0]
    setting: dict[str, object] = {}
    if matrix != "untagged":
        number = MATRICES[matrix][0]
        setting = {"colorspace": number, "color_primaries": number if number != 4 else 6, "color_trc": 1}
    if tagged_range:
        setting["color_range"] = 2 if full else 1
    fine = {"libx264": x264() | {"crf": "2"}, "libx265": x265(crf=2), "libvpx-vp9": VP9 | {"crf": "4", "b": "8M"}}

    def draw(number: int, width: int, height: int) -> VideoFrame:
        return _patches(number, width, height, pixel_format=pixel_format, full=full)

    file = write(
        folder / f"coloured.{suffix}",
        encoder,
        range(16),
        size=(160, 96),
        pixel_format=pixel_format,
        options=options or fine.get(encoder),
        setting=setting,
        draw=draw,
    )
    patches = tuple(rgb_of(sample, matrix, full=full) for sample in _SAMPLES)
    return Hard(file, tuple(range(16)), size=(160, 96), patches=patches, tolerance=2.5 if encoder in fine else 5)


for _matrix in MATRICES:
    for _full in (False, True):
        for _codec, _suffix in (
            ("h264", "mp4"),
            ("h264", "mkv"),
            ("hevc", "mp4"),
            ("vp9", "webm"),
            ("vp9", "mp4"),
            ("mpeg4", "mp4"),
        ):
            if (_codec, _matrix) in (("vp9", "fcc"), ("mpeg4", "untagged")):
                continue  # VP9 has no number for it; MPEG-4 in MP4 has no range without a matrix
            _add(
                "colour",
                f"{_matrix} {('full' if _full else 'limited')}, {_codec} {_suffix}",
                _coloured,
                _matrix,
                _codec,
                _suffix,
                full=_full,
                often=(_codec, _suffix) in (("h264", "mp4"), ("vp9", "webm"))
                and (not _full or _matrix in ("bt709", "untagged")),
            )
_add("colour", "untagged, h264 avi", _coloured, "untagged", "h264", "avi", tagged_range=False, often=True)
_add("colour", "untagged, mpeg4 avi", _coloured, "untagged", "mpeg4", "avi", tagged_range=False)
_add(
    "colour",
    "untagged, vp8",
    _coloured,
    "untagged",
    "vp8",
    "webm",
    tagged_range=False,
    options=VP8 | {"crf": "4", "b": "8M"},
    often=True,
)
_add(
    "colour",
    "mjpeg avi",
    _coloured,
    "untagged",
    "mjpeg",
    "avi",
    full=True,
    pixel_format="yuvj420p",
    options={"qmin": "1", "qmax": "1"},
    often=True,
)
_add(
    "colour",
    "mjpeg 4:4:4 mov",
    _coloured,
    "untagged",
    "mjpeg",
    "mov",
    full=True,
    pixel_format="yuvj444p",
    options={"qmin": "1", "qmax": "1"},
)
_add("colour", "bt709, 10 bit hevc", _coloured, "bt709", "hevc", "mp4", pixel_format="yuv420p10le", often=True)
_add("colour", "bt709, 4:2:2 h264", _coloured, "bt709", "h264", "mp4", pixel_format="yuv422p")
_add("colour", "bt709, 4:4:4 h264", _coloured, "bt709", "h264", "mkv", pixel_format="yuv444p")
_add("colour", "bt709, 10 bit full h264", _coloured, "bt709", "h264", "mp4", pixel_format="yuv420p10le", full=True)
_add("colour", "bt2020nc, 10 bit hevc", _coloured, "bt2020nc", "hevc", "mkv", pixel_format="yuv420p10le")


# --- frames that were left out ----------------------------------------------------------------------------------------

GAPS = [number + (number >= 10) + 2 * (number >= 25) + 5 * (number >= 31) for number in range(NUM_FRAMES)]
"""Times of frames; a camera left some out."""


def _gaps(folder: Path, codec: str, **options: Any) -> Hard:
    file = simple(folder / "gaps.avi", codec, times=GAPS, **options)
    with av.open(str(file)) as container:
        assert container.streams.video[0].frames > NUM_FRAMES, "the writer left no entry for them"
    return _right(file)


class AviChunk(NamedTuple):
    content: bytes
    is_keyframe: bool


def write_avi(
    file: Path, like: Path, chunks: Sequence[AviChunk], *, index: Literal["idx1", "open", "both", "none"]
) -> None:
    """An AVI file by hand: with the old index, or that of OpenDML, which says where the parts of its index lie."""
    with av.open(str(like)) as source:
        stream = source.streams.video[0]
        tag = _tag_of(stream)
        width, height, extradata = stream.width, stream.height, stream.codec_context.extradata or b""
    count = len(chunks)
    movi, old, entries = b"movi", b"", []
    for chunk in chunks:
        old += b"00dc" + struct.pack("<III", 16 if chunk.is_keyframe else 0, len(movi), len(chunk.content))
        entries.append((len(movi) + 8, len(chunk.content) | (0 if chunk.is_keyframe else 1 << 31)))
        movi += b"00dc" + struct.pack("<I", len(chunk.content)) + chunk.content + b"\0" * (len(chunk.content) % 2)
    rate = struct.pack("<IIII", 1, RATE, 0, count)
    strh = b"vids" + tag + bytes(12) + rate + struct.pack("<IiI4H", 1 << 20, -1, 0, 0, 0, width, height)
    strf = (
        struct.pack("<IiiHH4sIiiII", 40 + len(extradata), width, height, 1, 24, tag, width * height * 3, 0, 0, 0, 0)
        + extradata
    )
    avih = struct.pack("<14I", 1_000_000 // RATE, 1 << 20, 0, 0x10, count, 0, 1, 1 << 20, width, height, 0, 0, 0, 0)
    has_open = index in ("open", "both")

    def riff(kind: bytes, content: bytes) -> bytes:
        return kind + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)

    def header(where: int, size: int) -> bytes:
        indx = struct.pack("<HBBI4sIII", 4, 0, 0, 1, b"00dc", 0, 0, 0) + struct.pack("<QII", where, size, count)
        stream_list = b"strl" + riff(b"strh", strh) + riff(b"strf", strf) + (riff(b"indx", indx) if has_open else b"")
        return riff(b"LIST", b"hdrl" + riff(b"avih", avih) + riff(b"LIST", stream_list))

    base = 12 + len(header(0, 0)) + 8  # of "movi" in the file
    part = struct.pack("<HBBI4sQI", 2, 0, 1, count, b"00dc", base, 0) + b"".join(
        struct.pack("<II", *entry) for entry in entries
    )
    head = header(base + len(movi), len(part) + 8)
    content = head + riff(b"LIST", movi + (riff(b"ix00", part) if has_open else b""))
    if index in ("idx1", "both"):
        content += riff(b"idx1", old)
    file.write_bytes(riff(b"RIFF", b"AVI " + content))


def _tag_of(stream: VideoStream) -> bytes:
    return {"mpeg4": b"FMP4", "mjpeg": b"MJPG", "h264": b"H264"}[stream.codec_context.codec.canonical_name]


def _by_hand(
    folder: Path, codec: str, *, index: Literal["idx1", "open", "both", "none"], left_out: bool = True
) -> Hard:
    """AVI written by hand, with entries of no bytes for the frames that were left out."""
    source = simple(folder / "source.avi", codec, b_frames=0)
    chunks: list[AviChunk] = []
    for place, row in enumerate(rows_of(source)):
        if left_out and place in (7, 8, 30):
            chunks.append(AviChunk(b"", False))
        chunks.append(AviChunk(row.content, row.is_keyframe))
    target = folder / "by_hand.avi"
    write_avi(target, source, chunks, index=index)
    return _right(target)


def _one_by_one(folder: Path, codec: str, empty: Sequence[int]) -> Hard:
    """MOV with samples of no bytes: each sample is a chunk of its own in the tables."""
    # An edit list would end after as many samples as there were.
    source = simple(folder / "source.mov", codec, b_frames=0, muxing={"use_editlist": "0"})
    rows = rows_of(source)
    sizes, places = [], []
    for place, row in enumerate(rows):
        if place in empty:
            sizes.append(0)
            places.append(row.place)
        sizes.append(len(row.content))
        places.append(row.place)
    count = len(sizes)
    content = source.read_bytes()
    with av.open(str(source)) as container:
        delta = rows_of(source)[0].duration
        assert container.streams.video[0].frames == len(rows)
    tables = {
        b"stsz": struct.pack(">III", 0, 0, count) + struct.pack(f">{count}I", *sizes),
        b"stsc": struct.pack(">IIIII", 0, 1, 1, 1, 1),
        b"stco": struct.pack(">II", 0, count) + struct.pack(f">{count}I", *places),
        b"stts": struct.pack(">IIII", 0, 1, count, delta),
    }
    keys = [place + sum(other <= place for other in empty) + 1 for place, row in enumerate(rows) if row.is_keyframe]
    tables[b"edts"] = b""  # it knows of fewer samples
    tables[b"stss"] = struct.pack(">II", 0, len(keys)) + struct.pack(f">{len(keys)}I", *keys)
    for kind, table in tables.items():
        content = set_box(content, kind, table)
    assert [kind for kind, _ in boxes(content)][-1] == b"moov", "tables before the pictures would move them"
    target = folder / "one_by_one.mov"
    target.write_bytes(content)
    return _right(target)


def _cut_off(
    folder: Path, codec: str, suffix: str, *, share: float = 0.6, keep_index: bool = False, **options: Any
) -> Hard:
    """The bytes end early; for AVI with ``keep_index`` those in the middle are gone, and the index is there."""
    source = simple(folder / f"whole.{suffix}", codec, **options)
    content = source.read_bytes()
    target = folder / f"cut.{suffix}"
    end = int((content.rindex(b"idx1") if suffix == "avi" else len(content)) * share)
    if keep_index:
        target.write_bytes(content[: end // 2 * 2] + content[content.rindex(b"idx1") :])
    else:
        target.write_bytes(content[:end])
    return Hard(target, tuple(range(NUM_FRAMES)), "error", like=source)


def _half_an_index(folder: Path) -> Hard:
    """All pictures are there; what ends early is the index behind them."""
    source = simple(folder / "whole.avi", "mpeg4")
    content, target = source.read_bytes(), folder / "cut.avi"
    place = content.rindex(b"idx1")
    target.write_bytes(content[: (place + len(content)) // 2])
    return _right(target, verdict="either")


for _codec in ("mpeg4", "mjpeg", "h264"):
    _add("left out", f"gaps, {_codec} avi", _gaps, _codec, often=True)
    _add("left out", f"gaps without B-frames, {_codec} avi", _gaps, _codec, b_frames=0)
    for _index in ("idx1", "open", "both", "none"):
        _add(
            "left out",
            f"{_index}, {_codec} avi",
            _by_hand,
            _codec,
            index=_index,
            often=_codec == "mjpeg" or _index == "open",
        )
        _add("left out", f"{_index} none left out, {_codec} avi", _by_hand, _codec, index=_index, left_out=False)
for _codec in ("mjpeg", "mpeg4", "h264"):
    _add("left out", f"samples of no bytes, {_codec} mov", _one_by_one, _codec, (6, 7, 30), often=_codec == "mjpeg")
    _add("left out", f"no samples of no bytes, {_codec} mov", _one_by_one, _codec, ())
    for _share in (0.3, 0.6, 0.97):
        _add("cut off", f"avi at {_share}, {_codec}", _cut_off, _codec, "avi", share=_share, often=_share == 0.6)
        _add(
            "cut off",
            f"avi with its index at {_share}, {_codec}",
            _cut_off,
            _codec,
            "avi",
            share=_share / 1.2,
            keep_index=True,
            often=_share == 0.6,
        )
for _codec in ("h264", "hevc", "vp9", "mpeg4"):
    for _share in (0.4, 0.7, 0.98):
        _add(
            "cut off",
            f"mp4 at {_share}, {_codec}",
            _cut_off,
            _codec,
            "mp4",
            share=_share,
            muxing={"movflags": "faststart"},
            often=_share == 0.7,
        )
_add("cut off", "avi without half of its index", _half_an_index, often=True)
_add("cut off", "mp4 without its tables", _cut_off, "h264", "mp4", often=True)
_add("cut off", "gaps, mpeg4 avi", _cut_off, "mpeg4", "avi", times=GAPS, often=True)
_add("cut off", "gaps, mjpeg avi", _cut_off, "mjpeg", "avi", times=GAPS)


# --- sizes and formats that change ------------------------------------------------------------------------------------


def _changes(
    folder: Path,
    suffix: str,
    codec: str,
    first: Mapping[str, Any],
    second: Mapping[str, Any],
    *,
    inner: str = "",
    filtered: str = "",
    back: bool = False,
    verdict: Verdict = "error",
) -> Hard:
    """Two encodings, one after the other, in one stream; ``back`` adds the first kind once more."""
    inner = inner or suffix
    parts = [
        simple(folder / f"{place}.{inner}", codec, range(20 * place, 20 * place + 20), **options)
        for place, options in enumerate([first, second])
    ]
    if back:
        parts.append(simple(folder / f"2.{inner}", codec, range(40, 60), **first))
    target = joined(parts, folder / f"changes.{suffix}", filtered=filtered)
    return Hard(target, tuple(range(60 if back else 40)), verdict, error="change" if verdict == "error" else "")


_SMALL: dict[str, Any] = {"size": (96, 64)}


def _change_of_size_in_band(
    folder: Path, codec: str, suffix: str, second: Mapping[str, Any], *, verdict: Verdict = "error"
) -> Hard:
    """H.264 and HEVC with parameter sets before every keyframe, as in a transport stream."""
    parts = [
        simple(folder / f"{place}.ts", codec, range(20 * place, 20 * place + 20), **options)
        for place, options in enumerate([{}, second])
    ]
    target = joined(parts, folder / f"changes.{suffix}")
    return Hard(target, tuple(range(40)), verdict, error="change" if verdict == "error" else "")


def _mpeg4_changes(folder: Path, suffix: str) -> Hard:
    """The second half begins with a header (VOL) of another size."""
    parts = []
    for place, size in enumerate([(WIDTH, HEIGHT), (96, 64)]):
        part = simple(folder / f"{place}.avi", "mpeg4", range(20 * place, 20 * place + 20), size=size)
        with av.open(str(part)) as container:
            extradata = container.streams.video[0].codec_context.extradata or b""
        rows = [
            row._replace(content=(extradata if row.is_keyframe else b"") + row.content, pts=n, dts=n)
            for n, row in enumerate(rows_of(part), 20 * place)
        ]
        parts.append(rows)
    target = folder / f"changes.{suffix}"
    write_rows(target, folder / "0.avi", [*parts[0], *parts[1]])
    return Hard(target, tuple(range(40)), "error", error="change")


def _two_descriptions(folder: Path) -> Hard:
    """MP4 with two sample descriptions, as edited recordings have: the second half is of another size.

    Two files of the same table layout, one sample a chunk, the chunks of the second naming the second description.
    """
    parts = [
        simple(folder / f"{place}.mp4", "h264", range(20 * place, 20 * place + 20), size=size, b_frames=0)
        for place, size in enumerate([(WIDTH, HEIGHT), (96, 64)])
    ]
    contents = [part.read_bytes() for part in parts]
    descriptions = [_find(content, b"stsd") for content in contents]
    entries = descriptions[0][8:] + descriptions[1][8:]
    rows = [rows_of(part) for part in parts]
    moved = contents[0]
    # the second file's pictures go into a box of their own, in front of the tables
    tables = next(content for kind, content in boxes(moved) if kind == b"moov")
    before = [(kind, content) for kind, content in boxes(moved) if kind != b"moov"]
    start = len(joined_boxes(before)) + 8
    media = b"".join(row.content for row in rows[1])
    places, place = [row.place for row in rows[0]], start
    for row in rows[1]:
        places.append(place)
        place += len(row.content)
    sizes = [len(row.content) for part in rows for row in part]
    count = len(sizes)
    keys = [number for number, row in enumerate([*rows[0], *rows[1]], 1) if row.is_keyframe]
    changed = {
        b"stsd": struct.pack(">II", 0, 2) + entries,
        b"stsz": struct.pack(">III", 0, 0, count) + struct.pack(f">{count}I", *sizes),
        b"stsc": struct.pack(">II6I", 0, 2, 1, 1, 1, 21, 1, 2),
        b"stco": struct.pack(">II", 0, count) + struct.pack(f">{count}I", *places),
        b"stts": struct.pack(">IIII", 0, 1, count, rows[0][0].duration),
        b"stss": struct.pack(">II", 0, len(keys)) + struct.pack(f">{len(keys)}I", *keys),
        b"edts": b"",
    }
    for kind, table in changed.items():
        tables = set_box(tables, kind, table)
    target = folder / "changes.mp4"
    target.write_bytes(joined_boxes([*before, (b"mdat", media), (b"moov", tables)]))
    return Hard(target, tuple(range(40)), "error", error="change")


for _codec, _suffix in (
    ("vp8", "webm"),
    ("vp9", "webm"),
    ("vp9", "mp4"),
    ("vp9", "mkv"),
    ("mjpeg", "avi"),
    ("mjpeg", "mov"),
    ("mjpeg", "mkv"),
):
    for _name, _second in (("smaller", _SMALL), ("larger", {"size": (160, 128)}), ("turned", {"size": (96, 128)})):
        _add(
            "change",
            f"{_name}, {_codec} {_suffix}",
            _changes,
            _suffix,
            _codec,
            {},
            _second,
            often=_name == "smaller" or (_codec, _suffix) == ("vp9", "webm"),
        )
    _add(
        "change",
        f"there and back, {_codec} {_suffix}",
        _changes,
        _suffix,
        _codec,
        {},
        _SMALL,
        back=True,
        often=_suffix == "webm",
    )
    _add(
        "change",
        f"none, {_codec} {_suffix}",
        _changes,
        _suffix,
        _codec,
        {},
        {},
        verdict="right",
        often=_suffix == "webm",
    )
for _codec in ("h264", "hevc"):
    for _suffix in ("ts", "mkv"):
        for _name, _options in (
            ("smaller", _SMALL),
            ("larger", {"size": (160, 128)}),
            ("10 bit", {"pixel_format": "yuv420p10le"}),
            ("4:4:4", {"pixel_format": "yuv444p"}),
        ):
            _add(
                "change",
                f"{_name}, {_codec} {_suffix}",
                _change_of_size_in_band,
                _codec,
                _suffix,
                _options,
                often=_name in ("smaller", "10 bit") and _suffix == "ts",
            )
        _add(
            "change",
            f"none, {_codec} {_suffix}",
            _change_of_size_in_band,
            _codec,
            _suffix,
            {},
            verdict="right",
            often=_suffix == "ts",
        )
_add("change", "4:4:4, vp9 webm", _changes, "webm", "vp9", {}, {"pixel_format": "yuv444p"}, often=True)
_add("change", "4:4:4, mjpeg avi", _changes, "avi", "mjpeg", {}, {"pixel_format": "yuvj444p"}, often=True)
_add("change", "4:2:2, mjpeg mov", _changes, "mov", "mjpeg", {}, {"pixel_format": "yuvj422p"})
_add("change", "smaller, mpeg4 in band avi", _mpeg4_changes, "avi", often=True)
_add("change", "smaller, mpeg4 in band mkv", _mpeg4_changes, "mkv")
_add("change", "smaller, mpeg2 ts", _change_of_size_in_band, "mpeg2", "ts", _SMALL)
_add("change", "smaller, av1 mkv", _changes, "mkv", "av1", {}, _SMALL)
_add("change", "of the sample description, mp4", _two_descriptions, often=True)


def _find(content: bytes, kind: bytes) -> bytes:
    found: list[bytes] = []

    def note(box: bytes) -> bytes:
        found.append(box)
        return box

    change_box(content, kind, note)
    return found[0]


# --- damage -----------------------------------------------------------------------------------------------------------

DAMAGES = ("flipped", "half zero", "zeroed", "cut short", "removed", "doubled", "keyframe", "last GOP")


def _numbers_of_packets(folder: Path, codec: str, **options: Any) -> list[int]:
    """The number that each packet shows: from a container that knows when each is shown."""
    options.pop("muxing", None)
    timed = simple(folder / f"timed.{'mkv' if codec in ('mpeg2', 'vp8') else 'mp4'}", codec, **options)
    times = [cast(int, row.pts) for row in rows_of(timed)]
    return [sorted(times).index(time) for time in times]


def _plus(time: int | None, step: int) -> int | None:
    return None if time is None else time + step


def _damaged(folder: Path, codec: str, suffix: str, damage: str, **options: Any) -> Hard:
    """One packet of a file with GOPs of twelve is damaged; what other packets show is as before.

    "keyframe" damages the first packet of the second GOP, "last GOP" one in the last, others one in the second.
    """
    source = simple(folder / f"whole.{suffix}", codec, **options)
    target = folder / f"damaged.{suffix}"
    rows = rows_of(source)
    keys = [place for place, row in enumerate(rows) if row.is_keyframe]
    assert len(keys) >= 3
    place = {"keyframe": keys[1], "last GOP": keys[-1] + 2}.get(damage, keys[1] + 3)
    if codec == "mjpeg" and damage == "last GOP":
        place = len(rows) - 2
    row = rows[place]
    content = bytearray(source.read_bytes())
    at, size = row.place, len(row.content)
    numbers = list(range(NUM_FRAMES))
    shown = _numbers_of_packets(folder, codec, **options)[place]
    if damage in ("removed", "doubled"):
        # a fragment does not say how long its frames are
        step = (row.duration or (rows[1].dts or 0) - (rows[0].dts or 0)) * (damage == "doubled")
        later = [other._replace(pts=_plus(other.pts, step), dts=_plus(other.dts, step)) for other in rows[place:]]
        changed = [*rows[:place], row, *later] if damage == "doubled" else [*rows[:place], *later[1:]]
        write_rows(target, source, changed, muxing=options.get("muxing"))
        numbers[shown : shown + 1] = [shown, shown] if damage == "doubled" else []
        return Hard(target, tuple(numbers), "either", like=source)
    # MP4 and Matroska say where a packet's content lies; other containers pack it, or put bytes before it
    found = bytes(content).find(row.content[:64], max(0, at - 8))
    if found < 0:
        at = at + 200  # somewhere in the picture's transport packets
        size = min(size, 100)
    else:
        at = found
    if damage in ("flipped", "keyframe", "last GOP"):
        for share in (4, 2):
            content[at + max(12, size // share) % size] ^= 0x5A
        content[at + size * 3 // 4] ^= 0xFF
    elif damage == "half zero":
        content[at + size // 2 : at + size] = bytes(size - size // 2)
    elif damage == "zeroed":
        content[at : at + size] = bytes(size)
    elif damage == "cut short":
        changed = [*rows[:place], row._replace(content=row.content[: len(row.content) // 2]), *rows[place + 1 :]]
        write_rows(target, source, changed, muxing=options.get("muxing"))
        return Hard(target, tuple(numbers), "either", like=source)
    target.write_bytes(content)
    return Hard(target, tuple(numbers), "either", like=source)


DAMAGE_PAIRS = [
    *[("h264", suffix) for suffix in ("mp4", "mkv", "ts", "avi")],
    *[("hevc", suffix) for suffix in ("mp4", "mkv", "ts")],
    *[("mpeg4", suffix) for suffix in ("avi", "mp4")],
    *[("mpeg2", suffix) for suffix in ("ts", "mkv")],
    *[("vp9", suffix) for suffix in ("webm", "mp4")],
    *[("av1", suffix) for suffix in ("mp4", "mkv")],
    *[("mjpeg", suffix) for suffix in ("avi", "mov")],
    ("vp8", "webm"),
]
for _codec, _suffix in DAMAGE_PAIRS:
    for _damage in DAMAGES:
        if (_codec, _damage) in (("mjpeg", "keyframe"), ("av1", "cut short")):
            continue  # every packet is one; the writers take no half of an AV1 packet
        _add(
            "damage",
            f"{_damage}, {_codec} {_suffix}",
            _damaged,
            _codec,
            _suffix,
            _damage,
            often=(_codec, _suffix)
            in (
                ("h264", "mp4"),
                ("hevc", "mkv"),
                ("mpeg4", "avi"),
                ("vp8", "webm"),
                ("vp9", "webm"),
                ("mjpeg", "avi"),
                ("h264", "ts"),
            )
            and _damage in ("flipped", "half zero", "keyframe", "last GOP"),
        )
        if _suffix == "mp4" and _codec in ("h264", "vp9"):
            _add("damage", f"{_damage}, {_codec} fragmented", _damaged, _codec, "mp4", _damage, muxing=FRAGMENTS)

# name: suffix, options of the writer
_PIECES: dict[str, tuple[str, dict[str, str]]] = {
    "fragments": ("mp4", FRAGMENTS),
    "fragments with an index": ("mp4", {"movflags": "frag_keyframe+empty_moov+default_base_moof+global_sidx"}),
    "dash fragments": ("mp4", {"movflags": "frag_keyframe+empty_moov+default_base_moof+dash+delay_moov"}),
    "fragments after tables": ("mp4", {"movflags": "frag_keyframe"}),
    "fragments that say how long": ("mp4", FRAGMENTS),
    "webm": ("webm", {"cluster_time_limit": "300"}),
    "webm of unknown sizes": ("webm", {"cluster_time_limit": "300", "live": "1"}),
    "mkv": ("mkv", {"cluster_time_limit": "300"}),
    "mkv of unknown sizes": ("mkv", {"cluster_time_limit": "300", "live": "1"}),
}


def _pieces(content: bytes, suffix: str) -> list[tuple[int, int]]:
    """Where fragments (moof and mdat) or clusters begin and end."""
    starts: list[int] = []
    ends: list[int] = []
    if suffix == "mp4":
        place = 0
        for kind, inner in boxes(content):
            end = place + 8 + len(inner)
            if kind == b"moof":
                starts.append(place)
            if kind == b"mdat" and len(starts) > len(ends):
                ends.append(end)
            place = end
    else:
        starts = [match.start() for match in re.finditer(re.escape(b"\x1f\x43\xb6\x75"), content)]
        tail = content.rfind(b"\x1c\x53\xbb\x6b")  # cues, behind the last cluster
        ends = [*starts[1:], tail if tail > starts[-1] else len(content)]
    return list(zip(starts, ends, strict=True))


def _in_pieces(folder: Path, codec: str, kind: str, damage: str) -> Hard:
    """A fragmented MP4 or a Matroska file that is whole, ends early, or has a hole."""
    suffix, muxing = _PIECES[kind]
    source = simple(folder / f"whole.{suffix}", codec, muxing=muxing)
    content = source.read_bytes()
    if kind == "fragments that say how long":
        # the writer leaves the duration of all fragments out: add it
        with av.open(str(source)) as container:
            stream = container.streams.video[0]
            ticks = round(NUM_FRAMES / RATE * 1000)
            del stream
        extends = _find_in(content, (b"moov", b"mvex"))
        header = (b"mehd", struct.pack(">II", 0, ticks))
        content = _replace(content, (b"moov", b"mvex"), joined_boxes([header]) + extends)
        source.write_bytes(content)
    pieces = _pieces(content, suffix)
    assert len(pieces) >= 3, (kind, len(pieces))
    target = folder / f"pieces.{suffix}"
    start, end = pieces[1]
    last_start, last_end = pieces[-1]
    changed = {
        "whole": content,
        "ends in a piece": content[: (last_start + last_end) // 2],
        "ends between pieces": content[:last_start],
        "ends in the second": content[: (start + end) // 2],
        "hole": content[:start] + content[end:],
        "zeroed hole": content[:start] + bytes(end - start) + content[end:],
        "half of a piece zeroed": content[: (start + end) // 2] + bytes(end - (start + end) // 2) + content[end:],
    }[damage]
    target.write_bytes(changed)
    gone = {
        "whole": range(0),
        "ends in a piece": range((last_start + last_end) // 2, len(content)),
        "ends between pieces": range(last_start, len(content)),
        "ends in the second": range((start + end) // 2, len(content)),
    }.get(damage, range(start, end))
    rows = rows_of(source)
    times = sorted(cast(int, row.pts) for row in rows)
    numbers = sorted(
        times.index(cast(int, row.pts))
        for row in rows
        if not (row.place in gone or row.place + len(row.content) - 1 in gone)
    )
    verdict: Verdict = "either"
    if damage == "whole":
        verdict = "right"
    elif damage != "half of a piece zeroed" and kind in _TELLING and (kind != "fragments" or damage != _UNTOLD):
        verdict = "error"
    return Hard(target, tuple(numbers), verdict, like=source)


_TELLING = ("fragments", "fragments with an index", "fragments that say how long", "webm", "mkv")
"""Kinds of pieces whose headers say how much there is."""
_UNTOLD = "ends between pieces"
"""What a fragmented file without a duration does not tell."""


def _find_in(content: bytes, path: tuple[bytes, ...]) -> bytes:
    for kind in path:
        content = next(inner for found, inner in boxes(content) if found == kind)
    return content


def _replace(content: bytes, path: tuple[bytes, ...], new: bytes) -> bytes:
    if not path:
        return new
    return joined_boxes(
        (kind, _replace(inner, path[1:], new) if kind == path[0] else inner) for kind, inner in boxes(content)
    )


PIECE_DAMAGES = (
    "whole",
    "ends in a piece",
    "ends between pieces",
    "ends in the second",
    "hole",
    "zeroed hole",
    "half of a piece zeroed",
)
for _kind, (_suffix, _) in _PIECES.items():
    for _codec in ("vp8", "vp9") if _suffix == "webm" else ("h264", "hevc", "vp9"):
        for _damage in PIECE_DAMAGES:
            _add(
                "pieces",
                f"{_damage}, {_codec} {_kind}",
                _in_pieces,
                _codec,
                _kind,
                _damage,
                often=(_codec, _kind)
                in (
                    ("h264", "fragments"),
                    ("vp9", "webm"),
                    ("h264", "fragments that say how long"),
                    ("vp8", "webm of unknown sizes"),
                ),
            )


# --- packets and frames that are not as many --------------------------------------------------------------------------


def _cut_between(folder: Path, codec: str, suffix: str, skip: int, **options: Any) -> Hard:
    """A recording that begins between keyframes: its first packets are not there.

    What can be shown begins at the next keyframe; a player may show nothing before it, or refuse the file.
    """
    source = simple(folder / f"whole.{'mp4' if suffix == 'mkv' else suffix}", codec, **options)
    rows = rows_of(source)
    target = folder / f"later.{suffix}"
    write_rows(target, source, rows[skip:])
    key = next(place for place, row in enumerate(rows) if row.is_keyframe and place >= skip)
    if codec == "mpeg4":  # AVI does not say when a picture is shown
        first = key + next(n for n, row in enumerate(rows[key + 1 :]) if kind_of_vop(row.content) != 2)
    else:
        first = sorted(cast(int, row.pts) for row in rows).index(cast(int, rows[key].pts))
    return Hard(target, tuple(range(first, NUM_FRAMES)), "either", like=source)


def _cut_open(folder: Path, codec: str, suffix: str, **options: Any) -> Hard:
    """It begins at a keyframe of an open GOP: the frames shown before that keyframe cannot be decoded."""
    source = simple(folder / f"whole.{suffix}", codec, b_frames=3, **options)
    rows = rows_of(source)
    keys = [place for place, row in enumerate(rows) if row.is_keyframe]
    if codec == "h264":  # only the first is a keyframe to the container: a recovery point is not
        keys = [
            place for place, row in enumerate(rows) if place and b"\x00\x00" in row.content and _is_intra(row.content)
        ] or keys
    skip = keys[1] if len(keys) > 1 else 12
    target = copy(source, folder / f"open.{suffix}", keep=lambda place: place >= skip)
    times = sorted(cast(int, row.pts) for row in rows)
    first = times.index(cast(int, rows[skip].pts))
    return Hard(target, tuple(range(first, NUM_FRAMES)), "either", like=source)


def _is_intra(content: bytes) -> bool:
    """Whether a packet of H.264 in MP4 has a recovery point message: a unit of type 6 with payload 6."""
    place = 0
    while place + 5 <= len(content):
        (size,) = struct.unpack(">I", content[place : place + 4])
        if content[place + 4] & 31 == 6 and content[place + 5] == 6:
            return True
        place += 4 + size
    return False


def _packed(folder: Path, suffix: str = "avi") -> Hard:
    """MPEG-4 as DivX writes it to AVI: a packet of a P-picture and the B-picture after it, then one of nothing."""
    source = simple(folder / f"whole.{suffix}", "mpeg4", b_frames=1)
    rows = rows_of(source)
    contents = [row.content for row in rows]
    start = contents[0].index(b"\x00\x00\x01\xb6")
    contents[0] = contents[0][:start] + b"\x00\x00\x01\xb2DivX503b1393p" + contents[0][start:]
    packed: list[bytes] = []
    place = 0
    while place < len(contents):
        following = contents[place + 1] if place + 1 < len(contents) else b""
        if following and kind_of_vop(contents[place]) != 2 and kind_of_vop(following) == 2:
            packed += [contents[place] + following, bytes.fromhex("000001b6") + b"\x50\x00"]
            place += 2
        else:
            packed.append(contents[place])
            place += 1
    keys = [kind_of_vop(content) == 0 for content in packed]
    target = folder / f"packed.{suffix}"
    write_rows(
        target,
        source,
        [
            Row(content, number, number, 1, key, 0)
            for number, (content, key) in enumerate(zip(packed, keys, strict=True))
        ],
    )
    return Hard(target, tuple(range(NUM_FRAMES)), "right", like=source)


def kind_of_vop(content: bytes) -> int:
    """0 for I, 1 for P, 2 for B."""
    place = content.find(b"\x00\x00\x01\xb6")
    return content[place + 4] >> 6


def _leaves_out(folder: Path, codec: str, num_frames: int, **options: Any) -> Hard:
    """An edit list leaves the first frames out, as ``ffmpeg -ss ... -c copy`` writes it."""
    source = simple(folder / "whole.mp4", codec, **options)
    target = folder / "edited.mp4"
    ticks = num_frames * max(row.duration for row in rows_of(source))
    rows = [row._replace(pts=cast(int, row.pts) - ticks, dts=cast(int, row.dts) - ticks) for row in rows_of(source)]
    write_rows(target, source, rows, muxing={"avoid_negative_ts": "disabled"})
    return Hard(target, tuple(range(num_frames, NUM_FRAMES)), "right", like=source)


def _shifted(folder: Path, codec: str, suffix: str, ticks_of_frames: int, **muxing: str) -> Hard:
    """All times are later, or earlier than zero."""
    source = simple(folder / f"whole.{'mp4' if suffix == 'mkv' else suffix}", codec)
    ticks = ticks_of_frames * (max(row.duration for row in rows_of(source)) or 40)
    rows = [row._replace(pts=cast(int, row.pts) + ticks, dts=cast(int, row.dts) + ticks) for row in rows_of(source)]
    target = folder / f"shifted.{suffix}"
    write_rows(target, source, rows, muxing=muxing)
    return Hard(target, tuple(range(NUM_FRAMES)), "right", like=source)


for _codec, _suffix in (
    ("h264", "ts"),
    ("h264", "mkv"),
    ("h264", "mp4"),
    ("hevc", "mkv"),
    ("hevc", "mp4"),
    ("hevc", "ts"),
    ("mpeg4", "avi"),
    ("mpeg2", "ts"),
    ("vp8", "webm"),
    ("vp9", "webm"),
):
    for _skip in (1, 3, 13):
        _add(
            "counts",
            f"without the first {_skip}, {_codec} {_suffix}",
            _cut_between,
            _codec,
            _suffix,
            _skip,
            often=_skip == 3 and _suffix != "mkv",
        )
_OPEN = x264(open_gop=1, keyint=12, min_keyint=12, b_adapt=0)
for _suffix in ("mkv", "mp4"):
    _add(
        "counts",
        f"open GOPs, h264 {_suffix}",
        _cut_open,
        "h264",
        _suffix,
        options=_OPEN,
        gop=None,
        often=_suffix == "mp4",
    )
    _add(
        "counts",
        f"open GOPs, hevc {_suffix}",
        _cut_open,
        "hevc",
        _suffix,
        options=x265(open_gop=1, b_adapt=0),
        often=_suffix == "mkv",
    )
_add("counts", "packed B-frames, avi", _packed, often=True)
_add("counts", "packed B-frames, mkv", _packed, "mkv")
for _codec, _count in (("h264", 7), ("h264", 12), ("hevc", 7), ("vp9", 7), ("mpeg4", 7), ("mjpeg", 3)):
    _add("counts", f"edit list of {_count}, {_codec}", _leaves_out, _codec, _count, often=_codec in ("h264", "vp9"))
_add("counts", "edit list of 7, open GOPs", _leaves_out, "h264", 7, options=_OPEN, gop=None)
_add("counts", "starts at 3 seconds, mkv", _shifted, "h264", "mkv", 75)
_add("counts", "starts at 3 seconds, mp4", _shifted, "h264", "mp4", 75)
_add("counts", "starts at an hour, ts", _shifted, "h264", "ts", 90000)
_add("counts", "starts below zero, mkv", _shifted, "h264", "mkv", -5, avoid_negative_ts="disabled", often=True)
_add("counts", "starts below zero, vp9 webm", _shifted, "vp9", "webm", -5, avoid_negative_ts="disabled")


# --- hidden frames ----------------------------------------------------------------------------------------------------


def pictures_in(file: Path) -> int:
    """Pictures in the packets of a VP9 video: a packet may hold hidden ones beside the one it shows."""
    with av.open(str(file)) as container:
        stream = container.streams.video[0]
        split = BitStreamFilterContext("vp9_superframe_split", stream)
        return sum(len(split.filter(packet)) for packet in container.demux(stream) if packet.size)


def _vp9_hidden(folder: Path, suffix: str = "webm", size: tuple[int, int] = (WIDTH, HEIGHT), **options: str) -> Hard:
    file = write(folder / f"hidden.{suffix}", "libvpx-vp9", range(60), size=size, gop=128, options=VP9_HIDDEN | options)
    assert pictures_in(file) > 60
    return _right(file, range(60), size=size)


def _vp8_hidden(
    folder: Path, hidden: Sequence[int], size: tuple[int, int] = (WIDTH, HEIGHT), suffix: str = "webm"
) -> Hard:
    """One bit of a frame's tag says whether it is shown (RFC 6386, 9.1)."""
    source = write(folder / f"whole.{suffix}", "libvpx", range(NUM_FRAMES), size=size, gop=GOP)
    rows = [
        row._replace(content=bytes([row.content[0] & 0xEF]) + row.content[1:]) if place in hidden else row
        for place, row in enumerate(rows_of(source))
    ]
    target = folder / f"hidden.{suffix}"
    write_rows(target, source, rows)
    return Hard(target, tuple(number for number in range(NUM_FRAMES) if number not in hidden), size=size, like=source)


def _shown_again(folder: Path, suffix: str, after: Sequence[int]) -> Hard:
    """VP9 packets of one byte, which show a picture that was kept (show_existing_frame): here the GOP's keyframe."""
    source = write(folder / f"whole.{suffix}", "libvpx-vp9", range(NUM_FRAMES), gop=GOP)
    rows, numbers, changed = rows_of(source), list[int](), list[Row]()
    step = 40 if suffix in ("webm", "mkv") else max(row.duration for row in rows)
    for place, row in enumerate(rows):
        time = len(changed) * step
        changed.append(row._replace(pts=time, dts=time, duration=step))
        numbers.append(place)
        if place in after:
            assert row.is_keyframe  # all eight places hold it
            time = len(changed) * step
            changed.append(Row(bytes([0x88]), time, time, step, False, 0))
            numbers.append(place)
    target = folder / f"again.{suffix}"
    write_rows(target, source, changed)
    return Hard(target, tuple(numbers), like=source)


_add("hidden", "vp9 webm", _vp9_hidden, often=True)
_add("hidden", "vp9 mp4", _vp9_hidden, "mp4", often=True)
_add("hidden", "vp9 mkv, 427x239", _vp9_hidden, "mkv", (427, 239), often=True)
_add("hidden", "vp9, 97x65", _vp9_hidden, "webm", (97, 65))
_add("hidden", "vp8 webm", _vp8_hidden, (5, 11, 20, 33), often=True)
_add("hidden", "vp8, first and last", _vp8_hidden, (0, 39), often=True)
_add("hidden", "vp8, keyframes", _vp8_hidden, (12, 24))
_add("hidden", "vp8, 427x239", _vp8_hidden, (5, 20), (427, 239))
_add("hidden", "vp8 mkv", _vp8_hidden, (5, 6, 7), suffix="mkv")
_add("hidden", "shown again, vp9 webm", _shown_again, "webm", (0, 24), often=True)
_add("hidden", "shown again, vp9 mp4", _shown_again, "mp4", (12,), often=True)


# --- neighbours -------------------------------------------------------------------------------------------------------


def _refused(folder: Path, name: str, content: bytes) -> Hard:
    (folder / name).write_bytes(content)
    return Hard(folder / name, (), "error")


def _header_only(folder: Path, suffix: str, codec: str) -> Hard:
    source = simple(folder / f"whole.{suffix}", codec, muxing=FRAGMENTS if suffix == "mp4" else None)
    content = source.read_bytes()
    first = _pieces(content, suffix)[0][0] if suffix != "avi" else content.index(b"movi") + 4
    return _refused(folder, f"header.{suffix}", content[:first])


def _plain(folder: Path, name: str, encoder: str, count: int = NUM_FRAMES, **options: Any) -> Hard:
    size = options.get("size", (WIDTH, HEIGHT))
    if encoder == "libsvtav1":
        return _right(write_av1(folder / name, range(count), **options), range(count), size=size)
    return _right(write(folder / name, encoder, range(count), **options), range(count), size=size)


_add("hidden", "av1", _plain, "a.mkv", "libsvtav1", 60, gop=60)
_UNEVEN = [0]
for _number in range(1, NUM_FRAMES):
    _UNEVEN.append(_UNEVEN[-1] + 5 + 37 * _number % 190)

_add("neighbours", "empty", _refused, "empty.mp4", b"", often=True)
_add("neighbours", "text", _refused, "text.mp4", b"not a video\n" * 100, often=True)
_add("neighbours", "zeros", _refused, "zeros.avi", bytes(20000), often=True)
_add("neighbours", "a picture", _refused, "picture.html", b"<html><body>404 not found</body></html>")
for _suffix, _codec in (("mp4", "h264"), ("webm", "vp9"), ("avi", "mpeg4"), ("mkv", "h264")):
    _add("neighbours", f"header only, {_suffix}", _header_only, _suffix, _codec, often=_suffix != "mkv")
for _name, _encoder, _pixels in (
    ("a.mp4", "libx264", "yuv420p"),
    ("a.webm", "libvpx-vp9", "yuv420p"),
    ("b.webm", "libvpx", "yuv420p"),
    ("a.avi", "mpeg4", "yuv420p"),
    ("b.avi", "mjpeg", "yuvj420p"),
    ("a.mkv", "libx265", "yuv420p"),
    ("a.ts", "libx264", "yuv420p"),
):
    for _count in (1, 2, 3):
        if (_name, _count) == ("a.ts", 2):
            continue  # FFmpeg does not find its stream
        _add(
            "neighbours",
            f"{_count} frames, {_encoder} {_name[2:]}",
            _plain,
            _name,
            _encoder,
            _count,
            pixel_format=_pixels,
            often=_count < 3 and _encoder in ("libx264", "libvpx-vp9"),
        )
for _size in ((97, 65), (427, 239), (33, 97), (64, 360), (40, 30)):
    for _name, _encoder, _pixels in (
        ("a.webm", "libvpx-vp9", "yuv420p"),
        ("b.webm", "libvpx", "yuv420p"),
        ("b.avi", "mjpeg", "yuvj420p"),
        ("a.mkv", "ffv1", "yuv420p"),
    ):
        _add(
            "neighbours",
            f"{_size[0]}x{_size[1]}, {_encoder}",
            _plain,
            _name,
            _encoder,
            24,
            pixel_format=_pixels,
            size=_size,
            often=_size == (427, 239),
        )
_add("neighbours", "very long GOP, h264", _plain, "a.mp4", "libx264", 120, gop=1000, b_frames=3, often=True)
_add("neighbours", "very long GOP, vp8", _plain, "a.webm", "libvpx", 120, gop=1000)
_add(
    "neighbours",
    "uneven times, mp4",
    _plain,
    "a.mp4",
    "libx264",
    times=_UNEVEN,
    time_base=Fraction(1, 1000),
    b_frames=2,
    often=True,
)
_add("neighbours", "uneven times, webm", _plain, "a.webm", "libvpx-vp9", times=_UNEVEN, time_base=Fraction(1, 1000))
for _rate in (
    Fraction(30000, 1001),
    Fraction(24000, 1001),
    Fraction(1),
    Fraction(1, 3),
    Fraction(120),
    Fraction(1000000, 33367),
):
    _add(
        "neighbours",
        f"{float(_rate):.6g} frames a second, mp4",
        _plain,
        "a.mp4",
        "libx264",
        rate=_rate,
        time_base=1 / _rate,
        b_frames=2,
        often=_rate == Fraction(30000, 1001),
    )
    _add(
        "neighbours",
        f"{float(_rate):.6g} frames a second, mkv",
        _plain,
        "a.mkv",
        "libx264",
        rate=_rate,
        time_base=1 / _rate,
        b_frames=2,
    )
_add(
    "neighbours",
    "B-pyramid",
    _plain,
    "a.mp4",
    "libx264",
    options=x264(b_pyramid="strict", b_adapt=0),
    b_frames=5,
    gop=40,
    often=True,
)
_add(
    "neighbours",
    "hevc B-pyramid, open GOPs",
    _plain,
    "a.mkv",
    "libx265",
    options=x265(b_adapt=0, rc_lookahead=20),
    b_frames=5,
    gop=16,
)
_add("neighbours", "interlaced h264", _plain, "a.mp4", "libx264", options=x264(interlaced=1), often=True)
_add(
    "neighbours", "interlaced mpeg2", _plain, "a.ts", "mpeg2video", options=MPEG4 | {"flags": "+ildct+ilme"}, b_frames=2
)
_add("neighbours", "many slices", _plain, "a.mp4", "libx264", options=x264(slices=4))
_add("neighbours", "intra refresh", _plain, "a.mp4", "libx264", options=x264(intra_refresh=1), b_frames=2)
_FORMATS: dict[str, tuple[str, ...]] = {
    "libx264": ("yuv420p10le", "yuv422p", "yuv444p", "gray", "yuv422p10le", "yuvj420p", "nv12"),
    "libx264rgb": ("rgb24", "bgr24"),
    "libx265": ("yuv420p10le", "yuv422p", "yuv444p", "gray", "gbrp", "yuv420p12le"),
    "libvpx-vp9": ("yuv444p", "yuv422p", "yuv440p", "gbrp", "yuva420p"),
    "ffv1": ("yuv420p", "bgr0", "bgra", "gray", "gray16le", "yuv444p16le", "yuva444p", "gbrp10le"),
    "qtrle": ("rgb24", "argb", "gray"),
    "png": ("rgb24", "rgba", "gray", "rgb48be"),
    "prores_ks": ("yuv422p10le", "yuv444p10le", "yuva444p10le"),
    "mjpeg": ("yuvj422p", "yuvj444p", "yuvj420p"),
    "rawvideo": ("yuv420p", "rgb24", "bgr24", "gray"),
    "huffyuv": ("yuv422p", "rgb24"),
    "gif": ("rgb8", "gray"),
    "zmbv": ("bgr0",),
    "mpeg4": ("yuv420p",),
    "h263p": ("yuv420p",),
    "flv": ("yuv420p",),
    "wmv2": ("yuv420p",),
    "msmpeg4": ("yuv420p",),
    "mpeg1video": ("yuv420p",),
    "dnxhd": (),
    "utvideo": ("yuv420p", "gbrp"),
    "snow": ("yuv420p",),
    "cinepak": ("rgb24",),
    "svq1": (),
    "jpeg2000": ("yuv420p",),
    "libsvtav1": ("yuv420p10le",),
}
_SUFFIX_OF = {
    "libx264": "mp4",
    "libx264rgb": "mp4",
    "libx265": "mp4",
    "libvpx-vp9": "webm",
    "qtrle": "mov",
    "prores_ks": "mov",
    "png": "mov",
    "gif": "gif",
    "flv": "flv",
    "mpeg1video": "mpg",
    "libsvtav1": "mp4",
    "ffv1": "mkv",
    "snow": "mkv",
    "jpeg2000": "mkv",
}
"""AVI for the others."""
for _encoder, _formats in _FORMATS.items():
    for _pixels in _formats:
        _add(
            "neighbours",
            f"{_pixels}, {_encoder}",
            _plain,
            f"a.{_SUFFIX_OF.get(_encoder, 'avi')}",
            _encoder,
            24,
            pixel_format=_pixels,
            often=_encoder in ("libx264", "libvpx-vp9", "qtrle", "png", "gif")
            and _pixels not in ("nv12", "gbrp", "rgb48be"),
        )


def _tiny(folder: Path, size: tuple[int, int], encoder: str, suffix: str, pixel_format: str) -> Hard:
    """Too small for bars: each frame has a grey of its own, ten levels apart."""

    def draw(number: int, width: int, height: int) -> np.ndarray:
        return np.full((height, width, 3), 20 + 10 * number, np.uint8)

    file = write(folder / f"tiny.{suffix}", encoder, range(20), size=size, pixel_format=pixel_format, draw=draw)
    return _right(file, range(20), size=size, is_tiny=True)


for _size, _encoder, _suffix, _pixels in (
    ((1, 1), "ffv1", "mkv", "gray"),
    ((2, 2), "ffv1", "mkv", "yuv420p"),
    ((2, 2), "libx264", "mp4", "yuv420p"),
    ((1, 1), "libvpx-vp9", "webm", "yuv420p"),
    ((3, 5), "libvpx-vp9", "webm", "yuv420p"),
    ((5, 3), "libvpx", "webm", "yuv420p"),
    ((8, 8), "mjpeg", "avi", "yuvj420p"),
    ((1, 1), "mjpeg", "avi", "yuvj420p"),
):
    _add(
        "neighbours",
        f"{_size[0]}x{_size[1]} pixels, {_encoder}",
        _tiny,
        _size,
        _encoder,
        _suffix,
        _pixels,
        often=_encoder != "libvpx",
    )


# --- what is delivered ------------------------------------------------------------------------------------------------


class Delivered(NamedTuple):
    """What a route gives of a video."""

    frames: list[int]
    pictures: np.ndarray
    """(T, H, W, 3), values from 0 to 255."""
    error: str
    """Of a ValueError; empty where there was none."""
    of: tuple[int, int] | None = None
    """(width, height) of the frames, where the pictures are their middle squares."""


def _failed(path: Path, error: ValueError) -> Delivered:
    text = str(error)
    assert path.name in text, f"the error does not name {path.name}: {text}"
    return Delivered([], np.zeros((0, 1, 1, 3), np.uint8), text)


def table_of(paths: Sequence[Path]) -> Clips:
    """A table of whole videos, each a class of its own."""
    return Clips(
        root=Path("/"),
        paths=[str(path.absolute()).lstrip("/") for path in paths],
        first_frames=np.zeros(len(paths), np.int64),
        num_frames=np.full(len(paths), -1, np.int64),
        labels=np.arange(len(paths)),
        num_classes=len(paths),
        class_names=None,
        list_file=Path("list.txt"),
        list_lines=np.arange(1, len(paths) + 1),
        template=None,
    )


Sampler = MotionGuided | Uniform | Dense


def deliver(path: Path, sampler: Sampler, *, sparse: bool, curve: np.ndarray | None = None) -> Delivered:
    """What a worker of the routes ``host`` and ``host-sparse`` makes of a video: whole frames."""
    clips = table_of([path])
    index = None if curve is None else {clips.paths[0]: curve}
    plan = Plan(clips, sampler, 1, False, 84, motion_index=index, views=Views(crops="three"))
    try:
        clip = load_sample(plan, 0, plan.draws(0, 0), sparse=sparse)
    except ValueError as error:
        return _failed(path, error)
    return Delivered(clip.frames.tolist(), clip.pixels, "")


def deliver_batch(hards: Sequence[Hard], sampler: Sampler, *, route: str) -> list[Delivered]:
    """What a loader of this route makes of videos that are right, in one batch: the middle squares of their frames.

    Args:
        route: one of ClipLoader on the CPU, or "predict", which is the loader of ``train.predict``.
    """
    clips = table_of([hard.path for hard in hards])
    options: dict[str, Any] = {
        "sampler": sampler,
        "batch_size": len(hards),
        "training": False,
        "size": 84,
        "views": Views(crops="full"),
    }
    loader: Any
    if route == "predict":
        from train.cpu_loader import CpuLoader

        loader = CpuLoader(Plan(clips, **options), num_workers=0)
    else:
        from mgs_dali.load.loader import ClipLoader

        loader = ClipLoader(clips, route=route, device="cpu", num_workers=1, **options)
    mean, std = (np.array(values) * 255 for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with loader:
        try:
            (batch,) = loader
        except ValueError as error:
            if len(hards) > 1:
                raise
            return [_failed(hards[0].path, error)]
        pictures = batch.clips.numpy().transpose(0, 1, 3, 4, 2) * std + mean
        frames = batch.frames.tolist()
    return [Delivered(frames[place], pictures[place], "", hard.size) for place, hard in enumerate(hards)]


def shown_by(hard: Hard, delivered: Delivered) -> list[int | None]:
    """The numbers that delivered pictures show; None for one that is not readable."""
    if hard.is_tiny:
        greys = [float(picture.mean()) for picture in delivered.pictures]
        return [
            round((grey - 20) / 10) if abs((grey - 20) / 10 - round((grey - 20) / 10)) < 0.4 else None for grey in greys
        ]
    return [number_in(picture, of=delivered.of) for picture in delivered.pictures]


@dataclass(frozen=True)
class Complaint:
    """What FFmpeg says of a video when it is asked to be strict."""

    text: str
    """Empty where it says nothing."""
    num_frames: int
    """That came out."""


def strict_complaint(path: Path) -> Complaint:
    """Decode all of a video, and gather what FFmpeg complains of: errors, its log, what it marks as damaged.

    The packets are read once more by themselves, for errors of the container that decoding hides.
    """
    before = av.logging.get_level()
    before_skipping = av.logging.get_skip_repeated()
    av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)
    complaint, num_frames = "", 0
    try:
        with av.logging.Capture() as lines:
            try:
                with open_input(path, options={"err_detect": "crccheck+bitstream+buffer+explode"}) as container:
                    streams = [
                        stream
                        for stream in container.streams.video
                        if not stream.disposition & Disposition.attached_pic
                    ]
                    marked = [stream for stream in streams if stream.disposition & Disposition.default]
                    stream = (marked or streams)[0]
                    stream.thread_type, stream.codec_context.thread_count = "NONE", 1
                    stream.codec_context.options = {"err_detect": "crccheck+bitstream+buffer+explode"}
                    for packet in container.demux(stream):
                        if packet.size == 0 and packet.dts is not None:
                            continue  # left out: PyAV takes it for the end
                        if packet.is_corrupt:
                            complaint = complaint or f"a packet after frame {num_frames} is marked as damaged"
                        for frame in packet.decode():
                            num_frames += 1
                            if frame.is_corrupt:
                                complaint = complaint or f"frame {num_frames - 1} is marked as damaged"
            except (av.error.FFmpegError, IndexError, OSError) as error:
                complaint = complaint or f"{type(error).__name__}: {error}"
            said = [text.strip() for level, _, text in lines if level <= av.logging.ERROR]
    finally:
        av.logging.set_level(before)
        av.logging.set_skip_repeated(before_skipping)
    return Complaint(complaint or (f"log: {said[0]}" if said else ""), num_frames)
