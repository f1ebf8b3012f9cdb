"""Decoding on the CPU with PyAV: the luma of every frame, and chosen frames as RGB."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from .crops import Box
from .packets import (
    Level,
    PacketTable,
    Run,
    Scan,
    check_complete,
    check_picks,
    ffmpeg_reason,
    needed_packets,
    open_scanned,
    open_video,
    promised_packets,
)

__all__ = ["Chosen", "decode", "decode_chosen", "luma", "rgb", "rgb_chosen", "rgb_clip"]


def decode(stream: VideoStream, *, name: str) -> Iterator[VideoFrame]:
    """Yield every frame of an open stream in presentation order.

    Raises:
        ValueError: a packet cannot be decoded, the picture size changes on the way, or the file is cut off.
    """
    container = stream.container
    assert isinstance(container, InputContainer)
    num_packets = num_frames = 0
    num_promised = promised_packets(stream)
    size: tuple[int, int] | None = None
    try:
        for packet in container.demux(stream):
            num_packets += packet.size > 0
            for frame in packet.decode():
                assert isinstance(frame, VideoFrame)
                size = size or (frame.width, frame.height)
                if (frame.width, frame.height) != size:
                    raise ValueError(
                        f"{name}: the picture size changes from {size[0]}x{size[1]} to {frame.width}x{frame.height} at "
                        f"frame {num_frames}. A clip has one size; re-encode the file."
                    )
                num_frames += 1
                yield frame
    except av.error.FFmpegError as error:
        raise ValueError(
            f"{name}: decoding failed after {num_frames} frames ({ffmpeg_reason(error)}). The file is damaged; "
            "replace it or take it out of the list."
        ) from error
    check_complete(name, num_packets=num_packets, header_num_frames=num_promised)


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


def decode_chosen(file: Path | bytes, picks: np.ndarray | Callable[[Scan], np.ndarray], *, name: str = "") -> Chosen:
    """Decode chosen frames and little else: only the packets that they depend on, where headers prove which these are.

    The frames are those that :func:`decode` gives. What the decoder gives is held against the packet table; where they
    differ, the video is decoded from its start.

    Args:
        file: path of the video, or the bytes of the whole file.
        picks: (T,) frame indices in any order, may repeat; or a function that chooses them by the scan.
        name: what to call the file in errors; the path by default.

    Raises:
        ValueError: the video cannot be read or decoded, or is cut off.
        IndexError: the video ends before a pick.
    """
    name = name or (str(file) if isinstance(file, Path) else "video in memory")
    with open_scanned(file, name=name) as (stream, found, packets):
        table = found.packets
        assert table is not None
        chosen = np.asarray(picks(found) if callable(picks) else picks)
        check_picks(chosen, num_frames=found.num_frames)
        reason = table.reason
        if table.level != "full":
            runs = needed_packets(table, chosen)
            try:
                frames = _decode_runs(stream, packets, table, runs)
            except (_Surprise, av.error.FFmpegError) as surprise:
                reason = f"decoding by the packet table failed ({ffmpeg_reason(surprise)})"
            else:
                num_decoded = sum(len(run.packets) for run in runs)
                return Chosen(frames, chosen, found, table.level, reason, num_decoded)
    wanted, last = set(chosen.tolist()), int(chosen.max())
    frames = {}
    with open_video(file, name=name) as stream:
        for index, frame in enumerate(decode(stream, name=name)):
            if index in wanted:
                frames[index] = frame
            if index == last:
                return Chosen(frames, chosen, found, "full", reason, found.num_packets)
    raise IndexError(f"frame {last} of a video that ends earlier")


def _decode_runs(
    stream: VideoStream, packets: Iterable[Packet], table: PacketTable, runs: list[Run]
) -> dict[int, VideoFrame]:
    """Decode runs of packets, each with a flushed decoder.

    Raises:
        _Surprise: a frame is missing, damaged, out of order or of another size.
        av.error.FFmpegError: a packet cannot be decoded.
    """
    context = stream.codec_context
    packet_frames = table.frames
    frames: dict[int, VideoFrame] = {}
    rows = iter(enumerate(packets))
    size: tuple[int, int] | None = None
    for run in runs:
        wanted = {int(packet_frames[frame]): frame for frame in run.frames.tolist()}
        missing, last = len(wanted), -1
        for row in [*run.packets.tolist(), None]:
            packet = None
            if row is not None:
                packet = next((packet for index, packet in rows if index == row), None)
                if packet is None:
                    raise _Surprise("the file became shorter while it was read")
                # The decoder hands the timestamp on: this is how a frame is known, also where files have none.
                packet.pts, packet.dts = row, None
            for frame in context.decode(packet):
                if frame.pts is None or not last < table.order[frame.pts]:
                    raise _Surprise("frames out of order")
                last = int(table.order[frame.pts])
                if frame.pts in wanted:
                    size = size or (frame.width, frame.height)
                    if frame.is_corrupt or (frame.width, frame.height) != size:
                        raise _Surprise("a damaged frame, or one of another size")
                    frames[wanted[frame.pts]] = frame
                    missing -= 1
        if missing:
            raise _Surprise(f"{missing} frames missing")
        context.flush_buffers()
    return frames


def luma(frame: VideoFrame) -> np.ndarray:
    """The 8-bit luma plane of a frame, (H, W) uint8, without a copy where the pixel format has such a plane."""
    if not _has_luma_plane(frame.format.name):
        frame = frame.reformat(format="gray")
    plane = frame.planes[0]
    return np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)[:, : frame.width]


@lru_cache
def _has_luma_plane(pixel_format: str) -> bool:
    """Whether the first plane of a pixel format is 8-bit luma and nothing else."""
    description = VideoFormat(pixel_format)
    first, *others = description.components
    packed = any(component.plane == first.plane for component in others)
    return first.is_luma and first.bits == 8 and not packed and not description.has_palette


# Chroma interpolated and rounded with care, which is what DALI's CPU decoder gives, to the bit. swscale's fast path
# repeats chroma and is a grey level too dark.
_RGB_QUALITY = int(Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT)


def rgb(frame: VideoFrame, *, reformatter: VideoReformatter | None = None) -> np.ndarray:
    """A frame as RGB, (H, W, 3) uint8. A reformatter used for many frames of one video is set up once."""
    reformatter = reformatter or VideoReformatter()
    return reformatter.reformat(frame, format="rgb24", interpolation=_RGB_QUALITY, threads=1).to_ndarray()


def rgb_clip(frames: Iterable[VideoFrame], picks: np.ndarray, *, box: Callable[[int, int], Box]) -> np.ndarray:
    """The chosen frames of a video as RGB, cropped; a frame chosen twice is converted once.

    Args:
        frames: the frames of the video from 0 on; read no further than the last pick.
        picks: (T,) frame indices, in any order.
        box: (width, height) of the frames -> the crop (x, y, width, height) in pixels.

    Returns:
        (T, height, width, 3) uint8.

    Raises:
        IndexError: the video ends before a pick.
    """
    wanted, last = set(picks.tolist()), int(picks.max())
    pictures = {}
    reformatter = VideoReformatter()
    for index, frame in enumerate(frames):
        if index in wanted:
            x, y, width, height = box(frame.width, frame.height)
            pictures[index] = rgb(frame, reformatter=reformatter)[y : y + height, x : x + width]
        if index == last:
            return np.stack([pictures[pick] for pick in picks.tolist()])
    raise IndexError(f"frame {last} of a video that ends earlier")


def rgb_chosen(frames: Mapping[int, VideoFrame], picks: np.ndarray, *, box: Callable[[int, int], Box]) -> np.ndarray:
    """Chosen frames as RGB, cropped: :func:`rgb_clip` for frames that are known by their index.

    Args:
        frames: at least the frames of ``picks``, such as :attr:`Chosen.frames`.
        picks: (T,) frame indices, in any order.
        box: (width, height) of the frames -> the crop (x, y, width, height) in pixels.

    Returns:
        (T, height, width, 3) uint8.
    """
    pictures = {}
    reformatter = VideoReformatter()
    for index in sorted(set(picks.tolist())):
        frame = frames[index]
        x, y, width, height = box(frame.width, frame.height)
        pictures[index] = rgb(frame, reformatter=reformatter)[y : y + height, x : x + width]
    return np.stack([pictures[pick] for pick in picks.tolist()])
