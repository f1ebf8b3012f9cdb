"""PyAV behind one door: what differs between its versions (17 to 19), and what FFmpeg has to say of a damaged file."""

from __future__ import annotations

import io
import re
import struct
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import av.logging
from av.container import InputContainer
from av.video.codeccontext import VideoCodecContext
from av.video.format import VideoFormat
from av.video.frame import VideoFrame

__all__ = [
    "ACCURATE",
    "STRICT",
    "Disposition",
    "complaint",
    "decoder_options",
    "display_matrix",
    "ffmpeg_reason",
    "keep_matrix",
    "listening",
    "open_input",
    "pixel_format",
]

# As in setup.cfg, where the reasons are.
_OLDEST, _NEWEST = 17, 19
_MAJOR = int(av.__version__.split(".")[0])
if not _OLDEST <= _MAJOR <= _NEWEST:
    raise ImportError(
        f"PyAV {av.__version__} is installed, and mgs_dali works with PyAV {_OLDEST} to {_NEWEST}. "
        f"Install one with: pip install 'av>={_OLDEST},<{_NEWEST + 1}'",
        name="av",
    )

from av.stream import Disposition  # noqa: E402  (which early versions do not have)

STRICT = "crccheck+bitstream+buffer+explode"
"""What decoders are to notice (``err_detect``): it is an error then, instead of pixels that are made up."""


def decoder_options(codec: str, *, joined: bool = False) -> dict[str, str]:
    """Options for a decoder that hides no damage.

    Args:
        codec: FFmpeg's name of it.
        joined: decoding starts where some of what comes next refers to pictures that are not there. What the decoder
            notices is in its log only then.
    """
    flags = STRICT.split("+")
    if codec in ("mpeg1video", "mpeg2video"):
        flags.remove("bitstream")  # FFmpeg would complain of the zeros that broadcasters fill packets with
    if joined:
        flags.remove("explode")
    return {"err_detect": "+".join(flags)}


# SWS_BILINEAR, SWS_ACCURATE_RND and SWS_FULL_CHR_H_INT of libswscale/swscale.h; PyAV names all three from 18 on.
ACCURATE = 0x2 | 0x40000 | 0x2000
"""How swscale converts: chroma interpolated and rounded with care, which is what DALI's CPU decoder gives, to the bit.
The fast path repeats chroma and is a grey level too dark."""


def open_input(file: Path | bytes, *, options: Mapping[str, str] | None = None) -> InputContainer:
    """Open a file, or the bytes of one, for reading; ``options`` are FFmpeg's, for the container and its streams."""
    source = str(file.absolute()) if isinstance(file, Path) else io.BytesIO(file)
    # Text in metadata that is not UTF-8 must not keep a video from being read; PyAV 19 replaces it by itself.
    text: dict[str, Any] = {"metadata_errors": "replace"} if _MAJOR < 19 else {}
    return av.open(source, "r", options=dict(options or {}), **text)


def pixel_format(context: VideoCodecContext) -> str | None:
    """FFmpeg's name of a decoder's pixel format; None where it is not known, for which 17.1's ``pix_fmt`` crashes."""
    layout: VideoFormat | None = context.format
    return None if layout is None else layout.name


def ffmpeg_reason(error: Exception) -> str:
    """FFmpeg's own words, without errno and file name."""
    reason = getattr(error, "strerror", None) or str(error)
    if isinstance(error, MemoryError):
        return f"{reason}: a size in it cannot be, or this machine is short of memory"
    return reason


AS_STORED = struct.pack("=9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
"""A display matrix that turns nothing."""


def display_matrix(frame: VideoFrame) -> bytes | None:
    """The matrix that says how a frame is turned for display: nine int32, see :mod:`mgs_dali.decode.containers`.

    It is what :func:`keep_matrix` gave it, or else its own: the container's, which FFmpeg gives to every frame, or one
    in the stream, which the first frame has that it holds for.
    """
    kept: Any = frame.opaque
    if kept is not None:
        return kept
    try:
        data: Any = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:
        # PyAV does not know some kinds of side data, such as EXIF, and then gives none. The angle it knows.
        quarter_turns = round(frame.rotation / 90) % 4
        a, b = ((1, 0), (0, -1), (-1, 0), (0, 1))[quarter_turns]
        return struct.pack("=9i", a << 16, b << 16, 0, -b << 16, a << 16, 0, 0, 0, 1 << 30) if quarter_turns else None
    return None if data is None else bytes(data)


def keep_matrix(frame: VideoFrame, matrix: bytes | None) -> bytes | None:
    """Give a frame without a matrix one, that of the frame before it; returns what it has then."""
    found = display_matrix(frame) or matrix
    if found is not None:
        frame.opaque = found
    return found


# --- what FFmpeg complains of ---------------------------------------------------------------------------------------

# FFmpeg mends or conceals much damage with no more than a line in its log. PyAV throws the log away unless a level is
# set, for the whole process; a capture is of one thread.
_lock = threading.Lock()
_num_listeners = 0
_before: tuple[int | None, bool] = (None, True)


@contextmanager
def listening() -> Iterator[None]:
    """Inside, ``av.logging.Capture()`` holds what FFmpeg logs as errors on the thread that it is made on."""
    global _num_listeners, _before
    with _lock:
        if _num_listeners == 0:
            _before = av.logging.get_level(), av.logging.get_skip_repeated()
            # A message that a file before gave too counts anew.
            av.logging.set_skip_repeated(False)
            av.logging.set_level(max(_before[0] or 0, av.logging.ERROR))
        _num_listeners += 1
    try:
        yield
    finally:
        with _lock:
            _num_listeners -= 1
            if _num_listeners == 0:
                av.logging.set_level(_before[0])
                av.logging.set_skip_repeated(_before[1])


# Of an AVI's header lists, which nothing depends on once its streams are known; of the sound in ASF; of MXF's timecode.
_HARMLESS = re.compile(
    r"Something went wrong during header parsing|pkt\.size != ds_packet_size \* ds_span|could not resolve source track"
)
# H.264 that starts at an open GOP is told to forget pictures from before it.
_HARMLESS_AFTER_JOINING = re.compile(r"mmco: unref short failure")


def complaint(logs: Iterable[tuple[int, str, str]], *, of: str = "", joined: bool = False) -> str:
    """The first error among what was logged; empty where there is none.

    Args:
        logs: (level, who logged it, message), as ``av.logging.Capture()`` collects them.
        of: who must have logged it: the name of a container's format; anybody by default.
        joined: decoding started at an open GOP.
    """
    for level, name, message in logs:
        if level > av.logging.ERROR or (of and name != of) or _HARMLESS.match(message):
            continue
        if not (joined and _HARMLESS_AFTER_JOINING.match(message)):
            return message.strip().rstrip(".")
    return ""
