"""What the decoder of a graph takes, held against a video's header: NVDEC as its driver says, or DALI without a GPU."""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from av.video.format import VideoFormat

from ..decode.packets import Scan

__all__ = [
    "Answer",
    "Limits",
    "PictureKind",
    "ask_driver",
    "limits_of",
    "picture_kind",
    "read_limits",
    "refusal",
    "refusal_without_gpu",
]

DALI_CPU_CODECS = frozenset({"vp8", "vp9", "mjpeg"})

PictureKind = tuple[str, str, int]
"""(codec, chroma subsampling, bits a sample), such as ("h264", "4:2:0", 8)."""

# The numbers of cudaVideoCodec and cudaVideoChromaFormat in NVIDIA's Video Codec SDK (cuviddec.h), for the codecs that
# DALI hands to NVDEC. MJPEG is none of them: NVDEC takes it, and DALI 2.4's operator stops its pipeline there, whatever
# its documentation says.
_CODECS = {"mpeg4": 2, "h264": 4, "hevc": 8, "vp8": 9, "vp9": 10, "av1": 11}
_CHROMAS = {"4:0:0": 0, "4:2:0": 1, "4:2:2": 2, "4:4:4": 3}
_BITS = (8, 10, 12)

# DALI creates its decoders for pictures in NV12 and no other format (bit 0 of the driver's mask), which holds chroma of
# half the width and height. Of other chroma the decoder cannot be created, and the pipeline ends.
_NV12 = 1
_NV12_CHROMAS = frozenset({"4:0:0", "4:2:0"})


@dataclass(frozen=True)
class Limits:
    """What a decoder takes of one kind of picture."""

    num_engines: int
    min_width: int
    min_height: int
    max_width: int
    max_height: int
    max_macroblocks: int
    """Of 16 x 16 pixels, in one picture."""


@dataclass(frozen=True)
class Answer:
    """What the driver says of one kind of picture."""

    status: int
    """0, or the CUDA error that the question ended with."""
    is_supported: bool
    output_formats: int
    """A bit for each format that decoded pictures can have; bit 0 is NV12."""
    limits: Limits


class _DecodeCaps(ctypes.Structure):
    # CUVIDDECODECAPS of cuviddec.h
    _fields_ = (
        ("codec", ctypes.c_int),
        ("chroma", ctypes.c_int),
        ("bits_minus_8", ctypes.c_uint),
        ("reserved1", ctypes.c_uint * 3),
        ("is_supported", ctypes.c_ubyte),
        ("num_engines", ctypes.c_ubyte),
        ("output_formats", ctypes.c_ushort),
        ("max_width", ctypes.c_uint),
        ("max_height", ctypes.c_uint),
        ("max_macroblocks", ctypes.c_uint),
        ("min_width", ctypes.c_ushort),
        ("min_height", ctypes.c_ushort),
        ("is_histogram_supported", ctypes.c_ubyte),
        ("counter_bits", ctypes.c_ubyte),
        ("max_histogram_bins", ctypes.c_ushort),
        ("reserved3", ctypes.c_uint * 10),
    )


def read_limits() -> dict[PictureKind, Limits]:
    """What DALI's decoder on the current CUDA device takes. A CUDA context must exist.

    Returns:
        Kind of picture → limits, for the kinds that are taken.

    Raises:
        OSError: the driver's video library is not here.
        RuntimeError: nothing is taken.
    """
    return limits_of(ask_driver())


def ask_driver() -> dict[PictureKind, Answer]:
    """Ask the driver for each kind of picture whether its decoder takes it. A CUDA context must exist.

    Raises:
        OSError: the driver's video library is not here.
    """
    try:
        library = ctypes.CDLL("libnvcuvid.so.1")
    except OSError as error:
        raise OSError(
            "the driver's video library libnvcuvid.so.1 is not here. In a container, set "
            "NVIDIA_DRIVER_CAPABILITIES=compute,video,utility; on a bare machine, install the driver's decode package."
        ) from error
    answers: dict[PictureKind, Answer] = {}
    for codec, codec_number in _CODECS.items():
        for chroma, chroma_number in _CHROMAS.items():
            for bits in _BITS:
                caps = _DecodeCaps(codec=codec_number, chroma=chroma_number, bits_minus_8=bits - 8)
                status = library.cuvidGetDecoderCaps(ctypes.byref(caps))
                limits = Limits(
                    num_engines=caps.num_engines,
                    min_width=caps.min_width,
                    min_height=caps.min_height,
                    max_width=caps.max_width,
                    max_height=caps.max_height,
                    max_macroblocks=caps.max_macroblocks,
                )
                answers[codec, chroma, bits] = Answer(status, bool(caps.is_supported), caps.output_formats, limits)
    return answers


def limits_of(answers: Mapping[PictureKind, Answer]) -> dict[PictureKind, Limits]:
    """The kinds of picture that are taken, by the driver and in the format that DALI asks for.

    A question that failed means that its kind is not taken: a driver need not know every kind by name.

    Raises:
        RuntimeError: nothing is taken.
    """
    taken = {
        kind: answer.limits
        for kind, answer in answers.items()
        if answer.status == 0
        and answer.is_supported
        and answer.output_formats & _NV12
        and kind[1] in _NV12_CHROMAS  # by the mask alone a driver may offer NV12 for other chroma
    }
    if not taken:
        codes = Counter(answer.status for answer in answers.values())
        told = ", ".join(
            f"CUDA error {code} for {count}" if code else f"no for {count}" for code, count in codes.items()
        )
        raise RuntimeError(
            f"the driver's video decoder takes none of {len(answers)} kinds of picture (cuvidGetDecoderCaps: {told})"
        )
    return taken


def picture_kind(codec: str, pixel_format: str) -> PictureKind:
    """The kind of picture that a video's header names.

    Args:
        codec: FFmpeg's name of the codec.
        pixel_format: FFmpeg's name of the pixel format, such as "yuv420p10le".
    """
    if pixel_format == "unknown":
        return codec, "unknown", 0
    layout = VideoFormat(pixel_format, 64, 64)
    if layout.is_rgb:
        return codec, "rgb", layout.components[0].bits
    if len(layout.components) < 3:
        return codec, "4:0:0", layout.components[0].bits
    across, down = 64 // layout.chroma_width(64), 64 // layout.chroma_height(64)
    chroma = {(2, 2): "4:2:0", (2, 1): "4:2:2", (1, 1): "4:4:4"}.get((across, down), f"{across}x{down}")
    return codec, chroma, layout.components[0].bits


def refusal(scan: Scan, limits: Mapping[PictureKind, Limits]) -> str:
    """Why a decoder with these limits does not take a video; empty where it does.

    Known from the header, before anything is decoded: a decoder that fails takes its pipeline with it.
    """
    kind = picture_kind(scan.codec, scan.pixel_format)
    if kind not in limits:
        codec, chroma, bits = kind
        return f"{codec} {chroma} {bits} bit is not decoded here"
    limit = limits[kind]
    size = f"{scan.width}x{scan.height}"
    if scan.width % 2 or scan.height % 2:
        # DALI's conversion to RGB writes pairs of pixels and takes chroma at a height that the decoder rounds up.
        return f"{size}: odd sizes are left to the CPU until seen right on a GPU"
    if scan.width < limit.min_width or scan.height < limit.min_height:
        return f"{size} is below the decoder's {limit.min_width}x{limit.min_height} for {scan.codec}"
    if scan.width > limit.max_width or scan.height > limit.max_height:
        return f"{size} is above the decoder's {limit.max_width}x{limit.max_height} for {scan.codec}"
    macroblocks = -(-scan.width // 16) * -(-scan.height // 16)
    if macroblocks > limit.max_macroblocks:
        return f"{size} has {macroblocks} macroblocks, above the decoder's {limit.max_macroblocks} for {scan.codec}"
    return ""


def refusal_without_gpu(scan: Scan) -> str:
    """Why DALI does not decode a video without a GPU; empty where it does."""
    if scan.codec in DALI_CPU_CODECS:
        return ""
    return f"codec {scan.codec} is not decoded without a GPU (decoded: {', '.join(sorted(DALI_CPU_CODECS))})"
