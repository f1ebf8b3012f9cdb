"""What the decoder of a graph takes, held against a video's header: NVDEC as its driver says, or DALI without a GPU."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass

from av.video.format import VideoFormat

from .packets import Scan

__all__ = ["Limits", "PictureKind", "picture_kind", "read_limits", "refusal", "refusal_without_gpu"]

DALI_CPU_CODECS = frozenset({"vp8", "vp9", "mjpeg"})

PictureKind = tuple[str, str, int]
"""(codec, chroma subsampling, bits a sample), such as ("h264", "4:2:0", 8)."""

# The numbers of cudaVideoCodec and cudaVideoChromaFormat in NVIDIA's Video Codec SDK (cuviddec.h), for the codecs that
# DALI hands to NVDEC.
_CODECS = {"mpeg4": 2, "h264": 4, "mjpeg": 5, "hevc": 8, "vp8": 9, "vp9": 10, "av1": 11}
_CHROMAS = {"4:0:0": 0, "4:2:0": 1, "4:2:2": 2, "4:4:4": 3}
_BITS = (8, 10, 12)


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
    """Ask the driver what the decoder of the current CUDA device takes. A CUDA context must exist.

    Returns:
        Kind of picture → limits, for the kinds that are taken.

    Raises:
        OSError: the driver's video library is not here.
        RuntimeError: the driver answers with an error.
    """
    try:
        library = ctypes.CDLL("libnvcuvid.so.1")
    except OSError as error:
        raise OSError(
            "the driver's video library libnvcuvid.so.1 is not here. In a container, set "
            "NVIDIA_DRIVER_CAPABILITIES=compute,video,utility; on a bare machine, install the driver's decode package."
        ) from error
    limits: dict[PictureKind, Limits] = {}
    for codec, codec_number in _CODECS.items():
        for chroma, chroma_number in _CHROMAS.items():
            for bits in _BITS:
                caps = _DecodeCaps(codec=codec_number, chroma=chroma_number, bits_minus_8=bits - 8)
                if status := library.cuvidGetDecoderCaps(ctypes.byref(caps)):
                    raise RuntimeError(
                        f"cuvidGetDecoderCaps for {codec} {chroma} {bits} bit failed: CUDA error {status}"
                    )
                if caps.is_supported:
                    limits[codec, chroma, bits] = Limits(
                        num_engines=caps.num_engines,
                        min_width=caps.min_width,
                        min_height=caps.min_height,
                        max_width=caps.max_width,
                        max_height=caps.max_height,
                        max_macroblocks=caps.max_macroblocks,
                    )
    return limits


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
