"""Decoding on the CPU with PyAV: the luma of every frame, and chosen frames as RGB."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path

import av
import av.logging
import numpy as np
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from ..views.crops import Box
from .colours import colour_matrix
from .containers import UPRIGHT, Turn, turn_of_matrix
from .headers.mpeg12 import has_hole
from .headers.reader import LEADING
from .packets import (
    Level,
    PacketTable,
    Run,
    Scan,
    ScannedVideo,
    check_picks,
    needed_packets,
    open_scanned,
    open_video,
    shown_packets,
)
from .pyav import ACCURATE, complaint, decoder_options, display_matrix, ffmpeg_reason, keep_matrix, listening

__all__ = [
    "Chosen",
    "decode",
    "decode_chosen",
    "decode_file",
    "decode_then_choose",
    "luma",
    "rgb",
    "rgb_chosen",
    "turn_of_frame",
]

KEPT_FRAMES_MIB = 256
"""A video whose decoded frames take no more than this is decoded once: the frames wait in memory until the picks are
known. A longer one is decoded twice, first to its end and then up to its last pick."""


class DamagedVideo(ValueError):
    """A frame cannot be decoded as its encoder meant it."""


def decode_file(file: Path | bytes, *, name: str = "") -> Iterator[VideoFrame]:
    """Yield every frame of a video in presentation order, see :func:`decode`."""
    with open_scanned(file, name=name) as scanned:
        yield from decode(scanned)


def decode(scanned: ScannedVideo) -> Iterator[VideoFrame]:
    """Yield every frame of a video in presentation order. It can be done once.

    Where headers tell which frames there are, each of them comes, or it is an error. A recording that begins in the
    middle of a group of pictures starts at the first frame that can be decoded. A frame's timestamp is not that of the
    video, but the row of its packet in the table.

    Raises:
        ValueError: a frame cannot be decoded, or not without making up a part of it; the picture size or format
            changes on the way; or the video has no frame that can be decoded.
    """
    table, name, context = scanned.table, scanned.video.name, scanned.video.stream.codec_context
    is_known = table.level != "full"
    # Of a stream whose headers are not read here, a recorder may have written the end of a group of pictures first.
    has_started = is_known or bool(table.is_keyframe[0])
    expected = table.frames.tolist()
    joined = _join(scanned, [table.num_skipped])
    kind: tuple[int, int, str] | None = None
    matrix: bytes | None = None
    num_frames = 0
    with listening():
        for row, packet in enumerate(chain(scanned.packets(), [None])):
            if row < table.num_skipped:
                continue
            if packet is not None:
                # The decoder hands the timestamp on: this is how a frame is known, also where files have none.
                packet.pts, packet.dts = row, None
            frames, trouble = _fed(context, packet, joined=joined)
            if trouble and has_started and not _is_leading(table, row, start=table.num_skipped):
                number = _frame_of(table, row) if is_known else num_frames
                raise DamagedVideo(_damage(name, number, trouble))
            for frame in frames:
                if is_known:
                    if frame.pts is not None and not table.shows[frame.pts]:
                        continue  # it needs pictures from before the recording
                    if num_frames == len(expected) or frame.pts != expected[num_frames]:
                        raise DamagedVideo(_damage(name, num_frames, "the decoder leaves it out"))
                elif trouble and not has_started:
                    continue
                has_started = True
                kind = _checked_kind(frame, kind, name=name, number=num_frames)
                if not is_known:
                    matrix = keep_matrix(frame, matrix)
                num_frames += 1
                yield frame
    if num_frames < len(expected) and (is_known or table.is_damaged):
        reason = "the decoder leaves it out" if is_known else f"of {len(expected)} frames some are lost: {table.reason}"
        raise DamagedVideo(_damage(name, num_frames, reason))
    if num_frames == 0:
        raise ValueError(f"{name}: no frame could be decoded. Replace the file or take it out of the list.")


def _join(scanned: ScannedVideo, starts: Iterable[int]) -> bool:
    """Whether decoding starts at open GOPs; prepares the decoder, which has not been used yet, for that.

    Args:
        scanned: the video.
        starts: the rows of the table that decoding starts at.
    """
    joined = any(scanned.table.access[start] == LEADING for start in starts)
    if joined:
        scanned.video.stream.codec_context.options = decoder_options(scanned.scan.codec, joined=True)
    return joined


def _fed(context: VideoCodecContext, packet: Packet | None, *, joined: bool) -> tuple[list[VideoFrame], str]:
    """The frames that a decoder gives for a packet (None is the end), and what is wrong with it; empty if nothing is.

    Errors that a decoder mends by itself stand in its log only.
    """
    if packet is not None and context.codec.canonical_name in ("mpeg1video", "mpeg2video") and has_hole(bytes(packet)):
        # Decoders take its start for the end of the picture, filled up.
        return [], "zeros inside a picture"
    with av.logging.Capture() as logs:
        try:
            frames = context.decode(packet)
        except av.error.FFmpegError as error:
            return [], complaint(logs) or ffmpeg_reason(error)
    if logs and (trouble := complaint(logs, joined=joined)):
        return frames, trouble
    if packet is not None and packet.is_corrupt:
        return frames, "a packet that is damaged or cut off"
    if any(frame.is_corrupt for frame in frames):
        return frames, "the decoder marks it as damaged"
    return frames, ""


def _damage(name: str, number: int, reason: str) -> str:
    return (
        f"{name}: frame {number} cannot be decoded ({reason}). The file is damaged; replace it or take it out of the "
        "list."
    )


def _frame_of(table: PacketTable, row: int) -> int:
    """The frame that a packet gives; of one that gives none, the frame that is shown next."""
    if row == len(table.order):
        return len(table.frames)
    return int((table.order[table.frames] < table.order[row]).sum())


def _is_leading(table: PacketTable, row: int, *, start: int) -> bool:
    """Whether a packet is shown before the one that decoding started at: what it needs is not there."""
    return table.level != "full" and row < len(table.order) and bool(table.order[row] < table.order[start])


def _checked_kind(
    frame: VideoFrame, kind: tuple[int, int, str] | None, *, name: str, number: int
) -> tuple[int, int, str]:
    """(width, height, pixel format) of a frame, which are those of the frames before it.

    Raises:
        ValueError: they are not.
    """
    # yuvj420p is yuv420p of full range, which each frame tells by itself.
    found = frame.width, frame.height, frame.format.name.replace("yuvj", "yuv")
    if kind is not None and found != kind:
        what, (before, after) = "pixel format", (kind[2], found[2])
        if found[:2] != kind[:2]:
            what, (before, after) = "picture size", (f"{kind[0]}x{kind[1]}", f"{found[0]}x{found[1]}")
        raise ValueError(
            f"{name}: the {what} changes from {before} to {after} at frame {number}. A clip has one size and format; "
            "re-encode the file."
        )
    return found


def decode_then_choose(
    scanned: ScannedVideo,
    choose: Callable[[Scan], np.ndarray],
    *,
    watch: Callable[[Iterable[VideoFrame]], Iterable[VideoFrame]] | None = None,
    first_frame: int = 0,
    stop: int | None = None,
) -> tuple[dict[int, VideoFrame], np.ndarray]:
    """Decode a whole video, or a stretch of it, and then take the frames that are chosen by how many there are.

    Args:
        scanned: the video.
        choose: the scan, with the number of frames that came out -> (T,) frame indices.
        watch: sees every frame of the stretch before they are chosen, such as
            :meth:`mgs_dali.motion.pixel.MotionMeter.watch`.
        first_frame: of the stretch that frames are chosen of.
        stop: the frame behind its last one; None for the end of the video.

    Returns:
        The chosen frames by their index, and (T,) int64, their indices.

    Raises:
        ValueError: as :func:`decode`, and what ``choose`` raises.
    """
    kept: list[VideoFrame] | None = []
    num_bytes = 0
    rows: list[int | None] = []
    is_known = scanned.table.level != "full"

    def noted() -> Iterator[VideoFrame]:
        for frame in decode(scanned):
            rows.append(frame.pts)
            yield frame

    every = noted()
    frames: Iterable[VideoFrame] = islice(every, first_frame, stop)
    for frame in frames if watch is None else watch(frames):
        if kept is not None:
            num_bytes += sum(plane.buffer_size for plane in frame.planes)
            kept.append(frame)
            if num_bytes > KEPT_FRAMES_MIB * 2**20:
                kept = None
    found = scanned.scan
    if not is_known:
        for _ in every:  # only decoding tells how many there are
            pass
        found = replace(found, num_frames=len(rows), packets=shown_packets(scanned.table, rows))
    picks = choose(found)
    check_picks(picks, num_frames=found.num_frames)
    if kept is not None:
        return {pick: kept[pick - first_frame] for pick in set(picks.tolist())}, picks
    with _opened_again(scanned) as again:
        return _taken(decode(again), picks), picks


@contextmanager
def _opened_again(scanned: ScannedVideo) -> Iterator[ScannedVideo]:
    """A scanned video with a decoder that is new."""
    with open_video(scanned.video.file, name=scanned.video.name) as video:
        yield replace(scanned, video=video)


def _taken(frames: Iterable[VideoFrame], picks: np.ndarray) -> dict[int, VideoFrame]:
    """Chosen frames by their index; read no further than the last of them."""
    wanted, last = set(picks.tolist()), int(picks.max())
    taken = {}
    for index, frame in enumerate(frames):
        if index in wanted:
            taken[index] = frame
        if index == last:
            break
    return taken


@dataclass(frozen=True)
class Chosen:
    """Chosen frames of a video, and what it took to decode them."""

    frames: dict[int, VideoFrame]
    """By their index in the video; their timestamps are not those of the video."""
    picks: np.ndarray
    """(T,) int64: the frames that were asked for, in that order."""
    scan: Scan
    level: Level
    reason: str
    """Why not level "packets"; empty at that level."""
    num_decoded: int
    """Packets that were given to the decoder, of ``scan.num_packets``."""


class _Surprise(Exception):
    """A decoder gives something else than the packet table says."""


def decode_chosen(
    file: Path | bytes,
    picks: np.ndarray | Callable[[Scan], np.ndarray],
    *,
    name: str = "",
    sparse: bool = True,
) -> Chosen:
    """Decode chosen frames and little else: only the packets that they depend on, where headers prove which these are.

    The frames are those that :func:`decode` gives. What the decoder gives is held against the packet table; where they
    differ, the video is decoded from its start. A video of which only decoding tells how many frames it has is decoded
    whole.

    Args:
        file: path of the video, or the bytes of the whole file.
        picks: (T,) frame indices in any order, may repeat; or a function that chooses them by the scan.
        name: what to call the file in errors; the path by default.
        sparse: decode the needed packets first. Otherwise from the start up to the last pick, and the needed packets
            only where there is damage on the way, which may be in frames that no pick depends on. The outcome is the
            same.

    Raises:
        ValueError: the video cannot be read, is cut off, or a frame that a pick depends on is damaged.
        IndexError: the video has no such frame.
    """
    with open_scanned(file, name=name) as scanned:
        table, found = scanned.table, scanned.scan

        def choose(found: Scan) -> np.ndarray:
            chosen = np.asarray(picks(found) if callable(picks) else picks)
            check_picks(chosen, num_frames=found.num_frames)
            return chosen

        if table.level == "full":
            frames, chosen = decode_then_choose(scanned, choose)
            return Chosen(frames, chosen, found, "full", table.reason, found.num_packets)
        chosen = choose(found)
        runs = needed_packets(table, chosen)
        num_needed = sum(len(run.packets) for run in runs)
        if sparse:
            try:
                frames = _decode_runs(scanned, runs)
                return Chosen(frames, chosen, found, table.level, table.reason, num_needed)
            except _Surprise as surprise:
                reason = f"decoding by the packet table failed ({surprise})"
            with _opened_again(scanned) as again:
                return Chosen(_taken(decode(again), chosen), chosen, found, "full", reason, found.num_packets)
        try:
            return Chosen(_taken(decode(scanned), chosen), chosen, found, "full", "", found.num_packets)
        except DamagedVideo as damage:
            with _opened_again(scanned) as again:
                try:
                    frames = _decode_runs(again, runs)
                except _Surprise:
                    raise damage from None
            return Chosen(frames, chosen, found, table.level, table.reason, num_needed)


def _decode_runs(scanned: ScannedVideo, runs: list[Run]) -> dict[int, VideoFrame]:
    """Decode runs of packets, each with a flushed decoder.

    Raises:
        _Surprise: a frame is missing, damaged, out of order or of another size, or a packet cannot be decoded.
    """
    table, context = scanned.table, scanned.video.stream.codec_context
    packet_frames = table.frames
    frames: dict[int, VideoFrame] = {}
    rows = iter(enumerate(scanned.packets()))
    size: tuple[int, int] | None = None
    joined = _join(scanned, [int(run.packets[0]) for run in runs])
    with listening():
        for run in runs:
            wanted = {int(packet_frames[frame]): frame for frame in run.frames.tolist()}
            missing, last = len(wanted), -1
            for row in [*run.packets.tolist(), None]:
                packet = None
                if row is not None:
                    packet = next((packet for index, packet in rows if index == row), None)
                    if packet is None:
                        raise _Surprise("the file became shorter while it was read")
                    packet.pts, packet.dts = row, None
                decoded, trouble = _fed(context, packet, joined=joined)
                if trouble and not (row is not None and _is_leading(table, row, start=int(run.packets[0]))):
                    raise _Surprise(trouble)
                for frame in decoded:
                    if frame.pts is None or not last < table.order[frame.pts]:
                        raise _Surprise("frames out of order")
                    last = int(table.order[frame.pts])
                    size = size or (frame.width, frame.height)
                    if (frame.width, frame.height) != size:
                        raise _Surprise("a frame of another size")
                    if frame.pts in wanted:
                        frames[wanted[frame.pts]] = frame
                        missing -= 1
            if missing:
                raise _Surprise(f"{missing} frames missing")
            context.flush_buffers()
    return frames


def luma(frame: VideoFrame) -> np.ndarray:
    """The 8-bit luma plane of a frame, (H, W) uint8, without a copy where the pixel format has such a plane."""
    if not _has_luma_plane(frame.format.name):
        # Not frame.reformat(), whose converter PyAV 19 keeps for each thread, with threads of its own: a worker process
        # that is forked inherits the one and not the others, and would wait for them for good.
        frame = VideoReformatter().reformat(frame, format="gray", threads=1)
    plane = frame.planes[0]
    return np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)[:, : frame.width]


@lru_cache
def _has_luma_plane(pixel_format: str) -> bool:
    """Whether the first plane of a pixel format is 8-bit luma and nothing else."""
    description = VideoFormat(pixel_format)
    first, *others = description.components
    packed = any(component.plane == first.plane for component in others)
    return first.is_luma and first.bits == 8 and not packed and not description.has_palette


def rgb(frame: VideoFrame, *, reformatter: VideoReformatter | None = None) -> np.ndarray:
    """A frame as a player shows it: RGB by its colour matrix and range, turned upright, (H, W, 3) uint8.

    A reformatter used for many frames of one video is set up once.

    Raises:
        ValueError: its colours are coded, or it is to be turned, in a way that is not known.
    """
    reformatter = reformatter or VideoReformatter()
    colour_matrix(int(frame.colorspace))
    # Some encoders call YCbCr RGB, which says nothing.
    colours = _BT601 if frame.colorspace == 0 and not frame.format.is_rgb else None
    picture = reformatter.reformat(
        frame, format="rgb24", src_colorspace=colours, interpolation=ACCURATE, threads=1
    ).to_ndarray()
    return turn_of_frame(frame).apply(picture)


_BT601 = 5  # SWS_CS_ITU601 of libswscale/swscale.h


def turn_of_frame(frame: VideoFrame) -> Turn:
    """How a frame is to be turned, as its container says or the stream itself.

    Raises:
        ValueError: neither by quarter turns nor mirrored.
    """
    matrix = display_matrix(frame)
    return UPRIGHT if matrix is None else turn_of_matrix(matrix)


def rgb_chosen(frames: Mapping[int, VideoFrame], picks: np.ndarray, *, box: Callable[[int, int], Box]) -> np.ndarray:
    """Chosen frames as RGB, turned upright and cropped; one that is chosen twice is converted once.

    Args:
        frames: at least the frames of ``picks``, such as :attr:`Chosen.frames`.
        picks: (T,) frame indices, in any order.
        box: (width, height) of the upright frames -> the crop (x, y, width, height) in pixels.

    Returns:
        (T, height, width, 3) uint8.
    """
    pictures = {}
    reformatter = VideoReformatter()
    for index in sorted(set(picks.tolist())):
        pictures[index] = _cropped(rgb(frames[index], reformatter=reformatter), box)
    return np.stack([pictures[pick] for pick in picks.tolist()])


def _cropped(picture: np.ndarray, box: Callable[[int, int], Box]) -> np.ndarray:
    x, y, width, height = box(picture.shape[1], picture.shape[0])
    return picture[y : y + height, x : x + width]
