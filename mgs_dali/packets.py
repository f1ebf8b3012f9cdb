"""What can be known of a video without decoding it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
from av.container import InputContainer
from av.video.stream import VideoStream

__all__ = ["Scan", "ffmpeg_reason", "open_video", "scan"]


@contextmanager
def open_video(file: Path | bytes, *, name: str = "") -> Iterator[VideoStream]:
    """Open a video and give its first video stream, set to decode on one thread.

    One thread because loaders run one decoder a worker: frame threads would only fight over the same cores.

    Args:
        file: path of the video, or the bytes of the whole file.
        name: what to call the file in errors; the path by default.

    Raises:
        ValueError: the file is missing, empty, no video container, or holds no video stream.
    """
    name = name or (str(file) if isinstance(file, Path) else "video in memory")
    if isinstance(file, Path) and not file.is_file():
        found = "it is a folder" if file.is_dir() else "no such file"
        raise ValueError(f"{name}: {found}. Check the path in the list and the root folder that it is relative to.")
    try:
        container = av.open(str(file) if isinstance(file, Path) else io.BytesIO(file))
    except (av.error.FFmpegError, OSError) as error:
        raise ValueError(
            f"{name}: cannot be opened as a video ({ffmpeg_reason(error)}). It may be cut off, empty or not a video; "
            "replace it or take it out of the list."
        ) from error
    with container:
        if not container.streams.video:
            kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "none"
            raise ValueError(f"{name}: no video stream (streams found: {kinds}). Take the file out of the list.")
        stream = container.streams.video[0]
        if stream.codec_context is None:
            raise ValueError(f"{name}: its video codec is not known to PyAV's FFmpeg. Re-encode it, to H.264 say.")
        stream.codec_context.thread_count = 1
        stream.thread_type = "NONE"
        yield stream


@dataclass(frozen=True)
class Scan:
    """What a video's header and packets say."""

    codec: str
    """FFmpeg's name of the codec: h264, hevc, vp8, vp9, mpeg4, mjpeg, av1, ..."""
    width: int
    height: int
    pixel_format: str
    num_frames: int
    """Packets that show a frame."""
    header_num_frames: int
    """Frames that the container's header claims; 0 where it claims none."""


def scan(file: Path | bytes, *, name: str = "") -> Scan:
    """Read header and packets of a video; nothing is decoded.

    Args:
        file: path of the video, or the bytes of the whole file.
        name: what to call the file in errors; the path by default.

    Raises:
        ValueError: not a readable video (see :func:`mgs_dali.video.open_video`), or one without a single frame.
    """
    name = name or (str(file) if isinstance(file, Path) else "video in memory")
    with open_video(file, name=name) as stream:
        container, context = stream.container, stream.codec_context
        assert isinstance(container, InputContainer)
        num_frames = 0
        try:
            for packet in container.demux(stream):
                num_frames += (
                    packet.size > 0 and not packet.is_discard and _shows_a_frame(context.codec.canonical_name, packet)
                )
        except av.error.FFmpegError as error:
            raise ValueError(
                f"{name}: reading failed after {num_frames} frames ({ffmpeg_reason(error)}). The file is damaged; "
                "replace it or take it out of the list."
            ) from error
        if num_frames == 0:
            raise ValueError(f"{name}: its video stream holds no frame. Take the file out of the list.")
        return Scan(
            codec=context.codec.canonical_name,
            width=context.width,
            height=context.height,
            pixel_format=context.pix_fmt or "unknown",
            num_frames=num_frames,
            header_num_frames=stream.frames,
        )


def _shows_a_frame(codec: str, packet: av.Packet) -> bool:
    """False for VP8's alternate reference frames, the only packets of their own that are decoded but never shown.

    VP9 packs its hidden frames into the packet of a shown one. RFC 6386 section 9.1: bit 4 of the frame tag is
    ``show_frame``.
    """
    return codec != "vp8" or bool(bytes(memoryview(packet)[:1])[0] & 0x10)


def ffmpeg_reason(error: Exception) -> str:
    """FFmpeg's own words, without errno and file name."""
    return getattr(error, "strerror", None) or str(error)
