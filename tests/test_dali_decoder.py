"""Copies of videos under a model of DALI's GPU decoder: it gives the chosen frames, and would not of the files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from conftest import VP9_ALTREF, hide_frames, leave_out
from dali_decoder import HEIGHT, WIDTH, decoded, number_of, numbered, play, shown
from test_sparse import LAYERS, OPEN, copy, x264, x265

from mgs_dali.decode.cut import cut

NUM_FRAMES = 90


def encode(
    file: Path,
    codec: str,
    options: Mapping[str, str],
    *,
    muxer: Mapping[str, str] | None = None,
    times: Callable[[int], int] = lambda number: 40 * number,
    b_frames: int | None = None,
    gop: int = 24,
) -> Path:
    with av.open(str(file), "w", options=dict(muxer or {})) as container:
        stream = container.add_stream(codec, rate=25, options=dict(options))
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        context = stream.codec_context
        context.thread_count, context.gop_size = 1, gop
        context.time_base = Fraction(1, 25) if codec == "mpeg4" or file.suffix == ".avi" else Fraction(1, 1000)
        if b_frames is not None:
            context.max_b_frames = b_frames
        for number in range(NUM_FRAMES):
            frame = VideoFrame.from_ndarray(numbered(number), format="rgb24")
            frame.pts, frame.time_base = times(number), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file


def early(source: Path, target: Path) -> Path:
    """From 41 milliseconds before 0."""
    with av.open(str(source)) as container, av.open(str(target), "w", options={"avoid_negative_ts": "disabled"}) as out:
        inputs = container.streams.video[0]
        stream = out.add_stream_from_template(inputs)
        for packet in container.demux(inputs):
            if packet.size:
                assert packet.pts is not None
                copied = av.Packet(bytes(packet))
                copied.pts, copied.dts, copied.time_base = packet.pts - 41, None, packet.time_base
                copied.is_keyframe, copied.stream = packet.is_keyframe, stream
                copied.dts = copied.pts
                out.mux_one(copied)
    return target


PYRAMID = x264(keyint=40, b_pyramid="normal", bframes=8, ref=8, b_adapt=0, scenecut=0)
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
CRF = {"crf": "20"}


def uneven(number: int) -> int:
    return 3000 + 40 * number + 17 * (number % 3) + 900 * (number // 30)


Maker = Callable[[Path, Callable[[str], Path]], Path]
FILES: dict[str, Maker] = {
    "h264.mp4": lambda to, _: encode(to, "libx264", x264(keyint=24, bframes=3, b_adapt=0)),
    "h264-pyramid.mp4": lambda to, _: encode(to, "libx264", PYRAMID),
    "h264-open.mkv": lambda to, _: encode(to, "libx264", OPEN),
    "h264.avi": lambda to, _: encode(to, "libx264", x264(keyint=24, b_adapt=0)),
    "h264.ts": lambda to, _: encode(to, "libx264", x264(keyint=24, b_adapt=0)),
    "h264-edit.mp4": lambda to, made: leave_out(made("h264.mp4"), 7, to),
    "h264-open-edit.mp4": lambda to, made: leave_out(made("h264-open.mkv"), 21, to),
    "h264-vfr.mp4": lambda to, _: encode(to, "libx264", x264(keyint=24), times=uneven),
    "h264-fragments.mp4": lambda to, _: encode(to, "libx264", x264(keyint=24), muxer=FRAGMENTS),
    "h264-later.mkv": lambda to, made: copy(made("h264.mp4"), to, shift=(2**31 - 1600) * 16),
    "hevc.mp4": lambda to, _: encode(to, "libx265", x265(keyint=24)),
    "hevc-open.mkv": lambda to, _: encode(to, "libx265", x265(keyint=16, min_keyint=16, bframes=6, b_adapt=0)),
    "hevc-radl.mp4": lambda to, _: encode(to, "libx265", x265(keyint=16, open_gop=0, radl=2, b_adapt=0)),
    "hevc-fragments.mp4": lambda to, _: encode(to, "libx265", x265(keyint=24), muxer=FRAGMENTS),
    "hevc.ts": lambda to, _: encode(to, "libx265", x265(keyint=16)),
    "mpeg4.mp4": lambda to, _: encode(to, "mpeg4", {"q": "3"}, b_frames=2),
    "mpeg4.avi": lambda to, _: encode(to, "mpeg4", {"q": "3"}, b_frames=2),
    "vp8.webm": lambda to, _: encode(to, "libvpx", {"deadline": "realtime", "crf": "10", "b": "2M"}),
    "vp8-hidden.webm": lambda to, made: hide_frames(made("vp8.webm"), range(4, NUM_FRAMES, 8), to),
    "vp8-hidden-runs.webm": lambda to, made: hide_frames(
        made("vp8.webm"), [n for n in range(3, NUM_FRAMES) if n % 9 < 4], to
    ),
    "vp9.webm": lambda to, _: encode(to, "libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "crf": "30"}),
    "vp9-altref.webm": lambda to, _: encode(to, "libvpx-vp9", VP9_ALTREF),
    "vp9-altref.mp4": lambda to, _: encode(to, "libvpx-vp9", VP9_ALTREF),
    "vp9-layers.webm": lambda to, _: encode(
        to, "libvpx-vp9", {"deadline": "realtime", "error-resilient": "1", "b": "500k", "ts-parameters": LAYERS}
    ),
    "vp9-early.mkv": lambda to, made: early(made("vp9.webm"), to),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("numbered")

    @cache
    def make(name: str) -> Path:
        return FILES[name](folder / name, make)

    return make


def wrong(found: list[int | None], expected: list[int]) -> int:
    return sum(one != other for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("name", FILES)
def test_copies_come_out_right(made: Callable[[str], Path], name: str) -> None:
    content = made(name).read_bytes()
    numbers = shown(content)
    assert len(set(numbers)) == len(numbers) > 50  # the bars can be read
    whole = cut(content, None)
    assert (whole.level != "full", whole.gpu_refusal) == (True, "")
    copies = [whole]
    for seed in range(4):
        rng = np.random.default_rng(seed)
        copies.append(cut(content, rng.integers(0, len(numbers), int(rng.integers(1, 12)))))
    for copied in copies:
        expected = [numbers[pick] for pick in copied.picks]
        for parser_waits in (False, True):
            given = play(copied.file, parser_waits=parser_waits)
            assert wrong([given[place] for place in copied.pictures], expected) == 0
        as_player = shown(copied.file)
        assert [as_player[place] for place in copied.frames] == expected
        assert all(len(packet.numbers) == 1 for packet in decoded(copied.file)[0])


# Of the files themselves: whether DALI's GPU decoder would give each frame in its place.
RIGHT = ["h264.mp4", "h264-pyramid.mp4", "h264-open.mkv", "h264.ts", "h264-vfr.mp4", "h264-fragments.mp4"]
RIGHT += ["hevc.mp4", "hevc-open.mkv", "hevc-radl.mp4", "mpeg4.mp4", "vp8.webm", "vp9.webm"]
WRONG = ["h264.avi", "h264-edit.mp4", "h264-open-edit.mp4", "h264-later.mkv"]
WRONG += ["vp8-hidden.webm", "vp8-hidden-runs.webm", "vp9-altref.webm", "vp9-altref.mp4"]


@pytest.mark.parametrize("name", RIGHT)
def test_the_model_finds_no_fault_where_there_is_none(made: Callable[[str], Path], name: str) -> None:
    content = made(name).read_bytes()
    assert wrong(play(content), shown(content)) == 0


@pytest.mark.parametrize("name", WRONG)
def test_the_model_catches_what_copies_mend(made: Callable[[str], Path], name: str) -> None:
    content = made(name).read_bytes()
    numbers = shown(content)
    assert wrong(play(content)[: len(numbers)], numbers) > 0


def test_dali_without_a_gpu_gives_the_frames_of_copies(made: Callable[[str], Path]) -> None:
    pytest.importorskip("nvidia.dali")
    from nvidia.dali import fn, pipeline_def

    names = [name for name in FILES if name.startswith("vp")]
    copies = [cut(made(name), np.array([3, 30, 17, 50, 8])) for name in names]
    copies += [cut(made(name), None) for name in names]
    places = [np.sort(copied.frames)[:50] for copied in copies]

    @pipeline_def(batch_size=len(copies), num_threads=1, device_id=None)
    def decoding() -> object:
        encoded = fn.external_source(lambda: [np.frombuffer(copied.file, np.uint8) for copied in copies], batch=True)
        wanted = fn.external_source(lambda: [frames.astype(np.int32) for frames in places], batch=True)
        return fn.decoders.video(encoded, frames=wanted, device="cpu", pad_mode="none")

    pipeline = decoding(prefetch_queue_depth=1)
    pipeline.build()
    for clip, copied, frames in zip(pipeline.run()[0], copies, places, strict=True):
        numbers = shown(copied.file)
        given = [number_of(VideoFrame.from_ndarray(picture, format="rgb24")) for picture in np.array(clip)]
        assert given == [numbers[place] for place in frames]
