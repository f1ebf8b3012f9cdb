"""What the GPU's decoder is said to take, without a GPU: the driver's library is a stand-in."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterable
from typing import Any

import pytest

from mgs_dali import nvdec
from mgs_dali.nvdec import Limits, PictureKind, picture_kind, read_limits, refusal
from mgs_dali.packets import Scan

# The layout of CUVIDDECODECAPS in NVIDIA's cuviddec.h, counted by hand: C's 4-byte int and unsigned int, 2-byte short.
OFFSETS = {
    "codec": 0,
    "chroma": 4,
    "bits_minus_8": 8,
    "is_supported": 24,
    "num_engines": 25,
    "output_formats": 26,
    "max_width": 28,
    "max_height": 32,
    "max_macroblocks": 36,
    "min_width": 40,
    "min_height": 42,
    "is_histogram_supported": 44,
    "counter_bits": 45,
    "max_histogram_bins": 46,
    "reserved3": 48,
}
CODEC_NUMBERS = {"mpeg4": 2, "h264": 4, "mjpeg": 5, "hevc": 8, "vp8": 9, "vp9": 10, "av1": 11}
CHROMA_NUMBERS = {"4:0:0": 0, "4:2:0": 1, "4:2:2": 2, "4:4:4": 3}

# Like an H100 or H200: no AV1, no 10-bit H.264. The sizes are made up where the test needs small ones.
HOPPER: dict[PictureKind, Limits] = {
    ("h264", "4:2:0", 8): Limits(7, 48, 16, 4096, 4096, 65536),
    ("hevc", "4:2:0", 8): Limits(7, 144, 144, 8192, 8192, 262144),
    ("hevc", "4:2:0", 10): Limits(7, 144, 144, 8192, 8192, 262144),
    ("hevc", "4:4:4", 8): Limits(7, 144, 144, 8192, 8192, 262144),
    ("vp9", "4:2:0", 8): Limits(7, 128, 128, 8192, 8192, 262144),
    ("mpeg4", "4:2:0", 8): Limits(7, 48, 16, 2032, 2032, 100),
}


def video(codec: str, pixel_format: str = "yuv420p", *, width: int = 320, height: int = 240) -> Scan:
    return Scan(codec, width, height, pixel_format, num_frames=10, num_packets=10, header_num_frames=10)


@pytest.mark.parametrize(
    ("pixel_format", "chroma", "bits"),
    [
        ("yuv420p", "4:2:0", 8),
        ("yuvj420p", "4:2:0", 8),
        ("nv12", "4:2:0", 8),
        ("yuva420p", "4:2:0", 8),
        ("yuv420p10le", "4:2:0", 10),
        ("p010le", "4:2:0", 10),
        ("yuv420p12le", "4:2:0", 12),
        ("yuv422p", "4:2:2", 8),
        ("yuyv422", "4:2:2", 8),
        ("yuv422p10le", "4:2:2", 10),
        ("yuv444p", "4:4:4", 8),
        ("yuv444p12le", "4:4:4", 12),
        ("gray", "4:0:0", 8),
        ("gray10le", "4:0:0", 10),
        ("rgb24", "rgb", 8),
        ("gbrp", "rgb", 8),
        ("gbrp10le", "rgb", 10),
        ("yuv411p", "4x1", 8),
        ("yuv410p", "4x4", 8),
        ("yuv440p", "1x2", 8),
        ("unknown", "unknown", 0),
    ],
)
def test_picture_kind(pixel_format: str, chroma: str, bits: int) -> None:
    assert picture_kind("h264", pixel_format) == ("h264", chroma, bits)


@pytest.mark.parametrize(
    "taken",
    [
        video("h264"),
        video("h264", "yuvj420p"),
        video("hevc", "yuv420p10le"),
        video("vp9"),
        video("h264", width=48, height=16),
        video("h264", width=4096, height=4096),
        video("mpeg4", width=160, height=160),
    ],
    ids=str,
)
def test_taken_videos_are_not_refused(taken: Scan) -> None:
    assert refusal(taken, HOPPER) == ""


@pytest.mark.parametrize(
    ("refused", "reason"),
    [
        (video("h264", "yuv420p10le"), "h264 4:2:0 10 bit is not decoded here"),
        (video("h264", "yuv444p"), "h264 4:4:4 8 bit is not decoded here"),
        (video("h264", "gbrp"), "h264 rgb 8 bit is not decoded here"),
        (video("av1"), "av1 4:2:0 8 bit is not decoded here"),
        (video("prores", "yuv422p10le"), "prores 4:2:2 10 bit is not decoded here"),
        (video("h264", "unknown"), "h264 unknown 0 bit is not decoded here"),
        (video("vp9", width=96, height=320), "96x320 is below the decoder's 128x128 for vp9"),
        (video("vp9", width=320, height=96), "320x96 is below the decoder's 128x128 for vp9"),
        (video("h264", width=4098, height=16), "4098x16 is above the decoder's 4096x4096 for h264"),
        (video("h264", width=64, height=4098), "64x4098 is above the decoder's 4096x4096 for h264"),
        # 11 x 10 squares of 16 pixels: the eleventh is begun by one pixel.
        (video("mpeg4", width=161, height=160), "161x160 has 110 macroblocks, above the decoder's 100 for mpeg4"),
    ],
    ids=str,
)
def test_other_videos_are_refused_by_name(refused: Scan, reason: str) -> None:
    assert refusal(refused, HOPPER) == reason


def test_layout_is_that_of_the_header_file() -> None:
    caps = nvdec._DecodeCaps
    assert ctypes.sizeof(caps) == 88
    assert {name: getattr(caps, name).offset for name in OFFSETS} == OFFSETS


class Driver:
    """Stands in for libnvcuvid: writes its answers at the header file's offsets, through the pointer that it gets."""

    def __init__(self, taken: Iterable[tuple[str, str, int]], *, status: int = 0) -> None:
        self._taken = {(CODEC_NUMBERS[codec], CHROMA_NUMBERS[chroma], bits - 8) for codec, chroma, bits in taken}
        self._status = status
        self.asked: list[tuple[int, int, int]] = []

    def cuvidGetDecoderCaps(self, pointer: Any) -> int:
        buffer = ctypes.cast(pointer, ctypes.POINTER(ctypes.c_ubyte * 88)).contents
        question = struct.unpack_from("<iiI", buffer, 0)
        self.asked.append(question)
        assert bytes(buffer[12:]) == bytes(76)
        struct.pack_into("<BBH", buffer, 24, question in self._taken, 7, 1)
        struct.pack_into("<IIIHH", buffer, 28, 4096, 2160, 65536, 48, 16)
        return self._status


def install(monkeypatch: pytest.MonkeyPatch, driver: Driver) -> list[str]:
    names = []

    def load(name: str) -> Driver:
        names.append(name)
        return driver

    monkeypatch.setattr(ctypes, "CDLL", load)
    return names


def test_reads_what_the_driver_says(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = [("h264", "4:2:0", 8), ("hevc", "4:2:0", 10), ("mjpeg", "4:0:0", 8)]
    driver = Driver(kinds)
    names = install(monkeypatch, driver)
    expected = Limits(
        num_engines=7, min_width=48, min_height=16, max_width=4096, max_height=2160, max_macroblocks=65536
    )
    assert read_limits() == dict.fromkeys(kinds, expected)
    assert names == ["libnvcuvid.so.1"]
    questions = [(c, k, b) for c in CODEC_NUMBERS.values() for k in CHROMA_NUMBERS.values() for b in (0, 2, 4)]
    assert sorted(driver.asked) == sorted(questions)  # every kind, once


def test_a_missing_library_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    with pytest.raises(OSError, match=r"libnvcuvid\.so\.1 is not here.*NVIDIA_DRIVER_CAPABILITIES=compute,video"):
        read_limits()


def test_an_error_of_the_driver_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Driver([], status=201))
    with pytest.raises(RuntimeError, match=r"cuvidGetDecoderCaps for mpeg4 4:0:0 8 bit failed: CUDA error 201"):
        read_limits()
