"""No good video is refused: many valid files over codecs, containers and options, and the frames that come are right.

Strict decoding must not mistake what is unusual for damage. 60 files by default, all of them with ``-m slow``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hard_videos import (
    AV1,
    FRAGMENTS,
    MPEG4,
    VP8,
    VP9,
    VP9_HIDDEN,
    Hard,
    deliver,
    shown_by,
    strict_complaint,
    write,
    write_av1,
    x264,
    x265,
)

from mgs_dali.index.measuring import measure_video
from mgs_dali.sampling import MotionGuided, Uniform

Options = dict[str, str]


@dataclass(frozen=True)
class Family:
    """Videos of one encoder."""

    containers: tuple[str, ...]
    """Suffixes; "+fragments", "+faststart" or "+live" behind one sets the writer's options."""
    pixel_formats: tuple[str, ...] = ("yuv420p",)
    options: tuple[Options | None, ...] = (None,)
    b_frames: tuple[int, ...] = (0,)
    takes_odd_sizes: bool = False
    takes_any_rate: bool = True
    share: int = 16
    """How many files of it there are."""
    sizes: tuple[tuple[int, int], ...] = ((128, 96), (96, 128), (160, 90), (98, 66), (130, 74), (64, 48), (176, 144))
    gops: tuple[int, ...] = field(default=(1, 6, 12, 25, 250))


WRITERS: dict[str, dict[str, str]] = {
    "fragments": FRAGMENTS,
    "faststart": {"movflags": "faststart"},
    "live": {"live": "1"},
    "dash": {"movflags": "frag_keyframe+empty_moov+default_base_moof+dash"},
}
FAMILIES: dict[str, Family] = {
    "libx264": Family(
        ("mp4", "mkv", "mov", "avi", "ts", "flv", "mp4+fragments", "mp4+faststart", "mkv+live", "mp4+dash", "h264"),
        ("yuv420p", "yuv420p", "yuv420p", "yuvj420p", "yuv422p", "yuv444p", "yuv420p10le", "gray"),
        (
            None,
            x264(open_gop=1),
            x264(b_pyramid="strict", ref=4),
            x264(slices=3),
            x264(interlaced=1),
            x264(intra_refresh=1),
            x264(repeat_headers=1, aud=1),
            x264(cabac=0, ref=1),
            x264(weightp=2, scenecut=40),
        ),
        (0, 1, 2, 3, 5),
        share=130,
    ),
    "libx264rgb": Family(("mp4", "mkv"), ("rgb24", "bgr24"), share=6),
    "libx265": Family(
        ("mp4", "mkv", "mov", "ts", "mp4+fragments", "mp4+faststart", "mkv+live", "hevc"),
        ("yuv420p", "yuv420p", "yuv420p10le", "yuv422p", "yuv444p", "gray"),
        (None, x265(open_gop=0), x265(b_adapt=0, ref=3), x265(radl=2, open_gop=0), x265(wpp=1), x265(repeat_headers=1)),
        (0, 2, 3, 4),
        share=80,
    ),
    "libvpx": Family(
        ("webm", "mkv", "webm+live", "avi"),
        options=(
            VP8,
            VP8 | {"error-resilient": "1"},
            VP8 | {"deadline": "good", "auto-alt-ref": "1", "lag-in-frames": "16"},
        ),
        takes_odd_sizes=True,
        share=40,
    ),
    "libvpx-vp9": Family(
        ("webm", "mkv", "mp4", "webm+live", "mp4+fragments"),
        ("yuv420p", "yuv420p", "yuv420p", "yuv444p", "yuv422p"),
        (
            VP9,
            VP9_HIDDEN,
            VP9 | {"error-resilient": "1"},
            {"deadline": "realtime", "cpu-used": "8", "lossless": "1"},
            VP9 | {"row-mt": "1", "tile-columns": "1"},
        ),
        takes_odd_sizes=True,
        share=70,
    ),
    "libsvtav1": Family(
        ("mp4", "mkv", "webm", "mp4+fragments"), ("yuv420p", "yuv420p10le"), (AV1,), share=14, gops=(12, 25, 60)
    ),
    "mpeg4": Family(
        ("avi", "mp4", "mkv", "mov", "ts", "mp4+fragments"),
        options=(
            None,
            MPEG4 | {"flags": "+qpel+mv4"},
            MPEG4 | {"flags": "+ildct+ilme"},
            MPEG4 | {"data_partitioning": "1"},
        ),
        b_frames=(0, 1, 2, 3),
        share=60,
    ),
    "mpeg2video": Family(
        ("mpg", "ts", "mkv", "vob"),
        ("yuv420p", "yuv422p"),
        (None, MPEG4 | {"flags": "+ildct+ilme"}, MPEG4 | {"intra_vlc": "1"}),
        (0, 1, 2),
        takes_any_rate=False,
        share=30,
    ),
    "mpeg1video": Family(("mpg", "mkv"), b_frames=(0, 2), takes_any_rate=False, share=8),
    "mjpeg": Family(
        ("avi", "mov", "mkv"),
        ("yuvj420p", "yuvj422p", "yuvj444p"),
        (None, MPEG4 | {"huffman": "default"}),
        takes_odd_sizes=True,
        share=30,
    ),
    "ffv1": Family(
        ("mkv", "avi"),
        ("yuv420p", "bgr0", "gray", "yuv444p10le", "bgra"),
        (None, {"level": "3", "slicecrc": "1", "slices": "4"}, {"level": "1"}),
        takes_odd_sizes=True,
        share=20,
    ),
    "qtrle": Family(("mov",), ("rgb24", "argb"), share=6),
    "png": Family(("mov", "avi"), ("rgb24", "rgba", "gray"), takes_odd_sizes=True, share=8),
    "prores_ks": Family(("mov", "mkv"), ("yuv422p10le", "yuv444p10le"), share=6),
    "huffyuv": Family(("avi",), ("yuv422p", "rgb24"), share=4),
    "utvideo": Family(("avi",), ("yuv420p", "gbrp"), share=4),
    "flv": Family(("flv",), share=5),
    "h263": Family(("avi", "mov"), sizes=((128, 96), (176, 144)), takes_any_rate=False, share=4),
    "wmv2": Family(("avi", "asf"), share=4),
    "msmpeg4": Family(("avi", "asf"), share=4),
    "rawvideo": Family(("avi",), ("yuv420p", "bgr24"), share=4),
    "gif": Family(("gif",), ("gray",), share=3, takes_any_rate=False),
    "zmbv": Family(("avi",), ("bgr0",), share=3),
    "cinepak": Family(("avi", "mov"), ("rgb24",), share=3, sizes=((128, 96), (64, 48))),
}
RATES = (
    Fraction(25),
    Fraction(30000, 1001),
    Fraction(24),
    Fraction(50),
    Fraction(60000, 1001),
    Fraction(30),
    Fraction(15),
    Fraction(10),
)
ODD_SIZES = ((97, 65), (65, 97), (131, 95), (427, 239))
COUNTS = (40, 40, 40, 60, 33, 25, 12, 3, 1)


@dataclass(frozen=True)
class Case:
    """One file."""

    encoder: str
    number: int
    suffix: str
    num_frames: int
    options: dict[str, Any]

    def make(self, folder: Path) -> Hard:
        path = folder / f"{self.encoder}-{self.number}.{self.suffix}"
        if self.encoder == "libsvtav1":
            write_av1(path, range(self.num_frames), **self.options)
        else:
            write(path, self.encoder, range(self.num_frames), **self.options)
        return Hard(path, tuple(range(self.num_frames)), size=self.options["size"])


def cases(encoder: str) -> list[Case]:
    """The files of an encoder; the same whenever asked."""
    family = FAMILIES[encoder]
    found = []
    for number in range(family.share):
        rng = np.random.default_rng([sum(encoder.encode()), number])

        def any_of(values: tuple[Any, ...], rng: np.random.Generator = rng) -> Any:
            return values[int(rng.integers(len(values)))]

        # every container and pixel format comes soon, options by chance
        suffix, _, writer = family.containers[number % len(family.containers)].partition("+")
        rate = any_of(RATES) if family.takes_any_rate else RATES[0]
        count = any_of(COUNTS)
        if suffix in ("ts", "mpg", "vob", "h264", "hevc", "flv"):
            count = max(count, 12)  # FFmpeg finds no stream, or no rate, in less
        sizes = family.sizes + (ODD_SIZES if family.takes_odd_sizes else ())
        pixel_format = family.pixel_formats[number % len(family.pixel_formats)]
        options: dict[str, Any] = {
            "size": any_of(sizes),
            "pixel_format": pixel_format,
            "gop": any_of(family.gops),
            "b_frames": any_of(family.b_frames),
            "rate": rate,
            "time_base": 1 / rate,
        }
        if (chosen := any_of(family.options)) is not None and encoder != "libsvtav1":
            options["options"] = chosen
        if writer:
            options["muxing"] = WRITERS[writer]
        found.append(Case(encoder, number, suffix, count, _possible(encoder, suffix, options)))
    return found


def _possible(encoder: str, suffix: str, options: dict[str, Any]) -> dict[str, Any]:
    """Without combinations that encoders or containers do not take."""
    chosen = options.get("options") or {}
    parameters = str(chosen.get("x264-params", "")) + str(chosen.get("x265-params", ""))
    if "interlaced" in parameters or "flags" in chosen:
        options["size"] = (128, 96)
    if "intra_refresh" in parameters or "intra-refresh" in parameters:
        options["gop"] = max(6, options["gop"])
    if encoder == "libx265":
        options["b_frames"] = max(2, options["b_frames"]) if "radl" in parameters else options["b_frames"]
        options["gop"] = max(6, options["gop"]) if "radl" in parameters else options["gop"]
        options["size"] = max(options["size"], (96, 128))
    if encoder == "mpeg4" and "data_partitioning" in chosen:
        options["b_frames"] = 0
    if options["gop"] == 1:
        options["b_frames"] = 0
    if encoder in ("libx264", "libx265") and suffix in ("avi", "flv", "h264", "hevc"):
        options["pixel_format"] = "yuv420p"
    return options


def wrong_with(hard: Hard) -> str:
    """What is wrong with what comes of a good file; empty where nothing is."""
    if text := strict_complaint(hard.path).text:
        return f"strict decoding complains: {text}"
    samplers = (Uniform(8), Uniform(3))
    for sampler in samplers:
        host, sparse = (deliver(hard.path, sampler, sparse=sparse) for sparse in (False, True))
        for delivered in (host, sparse):
            if delivered.error:
                return delivered.error
            expected = [hard.numbers[frame] for frame in delivered.frames if frame < len(hard.numbers)]
            if shown_by(hard, delivered) != expected:
                return f"frames {delivered.frames} show {shown_by(hard, delivered)}"
        if not np.array_equal(host.pictures, sparse.pictures):
            return "host and host-sparse differ"
    guided = deliver(hard.path, MotionGuided(8), sparse=False)
    if guided.error:
        return guided.error
    if shown_by(hard, guided) != [hard.numbers[frame] for frame in guided.frames]:
        return f"guided: frames {guided.frames} show {shown_by(hard, guided)}"
    num_frames = len(measure_video(hard.path).motion) + 1
    return "" if num_frames == len(hard.numbers) else f"{num_frames} frames in the index, not {len(hard.numbers)}"


def _number_by_default(encoder: str) -> int:
    return {"libx264": 14, "libx265": 8, "libvpx-vp9": 7, "mpeg4": 6, "libvpx": 4, "mjpeg": 3, "libsvtav1": 1}.get(
        encoder, 1
    )


@pytest.mark.parametrize("encoder", FAMILIES)
@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["some", "all"])
def test_no_good_video_is_refused(encoder: str, every: bool, tmp_path: Path) -> None:
    chosen = cases(encoder)[: None if every else _number_by_default(encoder)]
    wrong = {}
    for case in chosen:
        hard = case.make(tmp_path)
        if text := wrong_with(hard):
            wrong[f"{case.number}.{case.suffix} {case.options}"] = text
        hard.path.unlink()
    assert not wrong, f"{len(wrong)} of {len(chosen)}:\n" + "\n".join(f"{name}: {text}" for name, text in wrong.items())


def test_there_are_many() -> None:
    assert sum(family.share for family in FAMILIES.values()) >= 500
    assert sum(min(_number_by_default(encoder), family.share) for encoder, family in FAMILIES.items()) >= 60
