"""What the GPU's decoder is said to take, without a GPU: the driver's library is a stand-in."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from mgs_dali.decode.packets import Scan
from mgs_dali.load import nvdec
from mgs_dali.load.nvdec import (
    Limits,
    PictureKind,
    ask_driver,
    picture_kind,
    read_limits,
    refusal,
    refusal_without_gpu,
)

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
CODEC_NUMBERS = {"mpeg4": 2, "h264": 4, "hevc": 8, "vp8": 9, "vp9": 10, "av1": 11}
"""What is asked for. NVDEC would take MJPEG (5), DALI's GPU decoder does not."""
CHROMA_NUMBERS = {"4:0:0": 0, "4:2:0": 1, "4:2:2": 2, "4:4:4": 3}

# Like an H100 or H200: no AV1, no 10-bit H.264. The sizes are made up where the test needs small ones.
HOPPER: dict[PictureKind, Limits] = {
    ("h264", "4:2:0", 8): Limits(7, 48, 16, 4096, 4096, 65536),
    ("hevc", "4:2:0", 8): Limits(7, 144, 144, 8192, 8192, 262144),
    ("hevc", "4:2:0", 10): Limits(7, 144, 144, 8192, 8192, 262144),
    ("vp9", "4:2:0", 8): Limits(7, 128, 128, 8192, 8192, 262144),
    ("mpeg4", "4:2:0", 8): Limits(7, 48, 16, 2032, 2032, 100),
}


def video(codec: str, pixel_format: str = "yuv420p", *, width: int = 320, height: int = 240) -> Scan:
    return Scan(codec, width, height, pixel_format, num_frames=10, num_packets=10)


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
        (video("mjpeg", "yuvj420p"), "mjpeg 4:2:0 8 bit is not decoded here"),
        (video("vp9", width=427), "427x240: odd sizes are left to the CPU until seen right on a GPU"),
        (video("vp9", height=239), "320x239: odd sizes are left to the CPU until seen right on a GPU"),
        # 11 x 10 squares of 16 pixels: the eleventh is begun by two pixels.
        (video("vp9", width=96, height=320), "96x320 is below the decoder's 128x128 for vp9"),
        (video("vp9", width=320, height=96), "320x96 is below the decoder's 128x128 for vp9"),
        (video("h264", width=4098, height=16), "4098x16 is above the decoder's 4096x4096 for h264"),
        (video("h264", width=64, height=4098), "64x4098 is above the decoder's 4096x4096 for h264"),
        (video("mpeg4", width=162, height=160), "162x160 has 110 macroblocks, above the decoder's 100 for mpeg4"),
    ],
    ids=str,
)
def test_other_videos_are_refused_by_name(refused: Scan, reason: str) -> None:
    assert refusal(refused, HOPPER) == reason


def test_odd_sizes_are_decoded_without_a_gpu() -> None:
    assert refusal_without_gpu(video("vp9", width=427, height=239)) == ""


def test_layout_is_that_of_the_header_file() -> None:
    caps = nvdec._DecodeCaps
    assert ctypes.sizeof(caps) == 88
    assert {name: getattr(caps, name).offset for name in OFFSETS} == OFFSETS


class Driver:
    """Stands in for libnvcuvid: writes its answers at the header file's offsets, through the pointer that it gets."""

    def __init__(
        self, taken: Iterable[PictureKind], *, failing: Mapping[PictureKind, int] | None = None, formats: int = 1
    ) -> None:
        self._taken = {question_of(kind) for kind in taken}
        self._failing = {question_of(kind): status for kind, status in (failing or {}).items()}
        self._formats = formats
        self.asked: list[tuple[int, int, int]] = []

    def cuvidGetDecoderCaps(self, pointer: Any) -> int:
        buffer = ctypes.cast(pointer, ctypes.POINTER(ctypes.c_ubyte * 88)).contents
        question = struct.unpack_from("<iiI", buffer, 0)
        self.asked.append(question)
        assert bytes(buffer[12:]) == bytes(76)
        if status := self._failing.get(question):
            # What lies in the answer then is not to be looked at.
            struct.pack_into("<BBH", buffer, 24, 1, 7, 1)
            return status
        struct.pack_into("<BBH", buffer, 24, question in self._taken, 7, self._formats)
        struct.pack_into("<IIIHH", buffer, 28, 4096, 2160, 65536, 48, 16)
        return 0


ALL_KINDS: list[PictureKind] = [
    (codec, chroma, bits) for codec in CODEC_NUMBERS for chroma in CHROMA_NUMBERS for bits in (8, 10, 12)
]


def question_of(kind: PictureKind) -> tuple[int, int, int]:
    codec, chroma, bits = kind
    return CODEC_NUMBERS[codec], CHROMA_NUMBERS[chroma], bits - 8


def install(monkeypatch: pytest.MonkeyPatch, driver: Driver) -> list[str]:
    names = []

    def load(name: str) -> Driver:
        names.append(name)
        return driver

    monkeypatch.setattr(ctypes, "CDLL", load)
    return names


def test_reads_what_the_driver_says(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = [("h264", "4:2:0", 8), ("hevc", "4:2:0", 10), ("vp9", "4:0:0", 8)]
    driver = Driver(kinds)
    names = install(monkeypatch, driver)
    expected = Limits(
        num_engines=7, min_width=48, min_height=16, max_width=4096, max_height=2160, max_macroblocks=65536
    )
    assert read_limits() == dict.fromkeys(kinds, expected)
    assert names == ["libnvcuvid.so.1"]
    assert sorted(driver.asked) == sorted(map(question_of, ALL_KINDS))  # every kind, once


def test_a_missing_library_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    with pytest.raises(OSError, match=r"libnvcuvid\.so\.1 is not here.*NVIDIA_DRIVER_CAPABILITIES=compute,video"):
        read_limits()


def test_a_question_that_fails_means_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = [("h264", "4:2:0", 8), ("mpeg4", "4:2:0", 8)]
    install(monkeypatch, Driver(kinds, failing={kinds[1]: 801, ("mpeg4", "4:4:4", 12): 1}))
    assert list(read_limits()) == kinds[:1]
    answers = ask_driver()
    assert {kind: answer.status for kind, answer in answers.items() if answer.status} == {
        kinds[1]: 801,
        ("mpeg4", "4:4:4", 12): 1,
    }
    assert [kind for kind, answer in answers.items() if answer.status == 0 and answer.is_supported] == kinds[:1]


def test_where_nothing_is_taken_the_codes_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    failing = dict.fromkeys(ALL_KINDS[:70], 201)
    install(monkeypatch, Driver([], failing=failing))
    told = r"takes none of 72 kinds of picture \(cuvidGetDecoderCaps: CUDA error 201 for 70, no for 2\)"
    with pytest.raises(RuntimeError, match=told):
        read_limits()


def test_only_pictures_that_come_out_in_nv12_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    # Like the driver of an H100 on 4:4:4 HEVC: supported, as planes of their own (bit 2) and in 16 bits (bit 3).
    install(monkeypatch, Driver([("hevc", "4:2:0", 8)], formats=0b1100))
    with pytest.raises(RuntimeError, match=r"takes none of 72 kinds"):
        read_limits()


@pytest.mark.parametrize(("chroma", "is_taken"), [("4:0:0", True), ("4:2:0", True), ("4:2:2", False), ("4:4:4", False)])
def test_chroma_that_nv12_does_not_hold_is_not_taken(
    monkeypatch: pytest.MonkeyPatch, chroma: str, is_taken: bool
) -> None:
    install(monkeypatch, Driver([("h264", "4:2:0", 8), ("hevc", chroma, 8)], formats=0b0111))
    assert (("hevc", chroma, 8) in read_limits()) == is_taken
