"""Decoding only what chosen frames depend on, against decoding everything."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from functools import cache, lru_cache, partial
from multiprocessing import get_context
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from conftest import MJPEG, VP8, VP9_ALTREF, encode, hide_frames, leave_out, moving_disc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mgs_dali.decode import packets
from mgs_dali.decode.cut import cut
from mgs_dali.decode.frames import decode_chosen, rgb_chosen
from mgs_dali.decode.headers.reader import CLEAN, LEADING, NOWHERE
from mgs_dali.decode.packets import Level, PacketTable, Scan, needed_packets, scan

NUM_FRAMES, WIDTH, HEIGHT = 60, 64, 48

# --- files ------------------------------------------------------------------------------------------------------------


def x264(preset: str = "medium", **parameters: object) -> dict[str, str]:
    text = ":".join(f"{name.replace('_', '-')}={value}" for name, value in parameters.items())
    return {"preset": preset, "crf": "23", "x264-params": text}


def x265(**parameters: object) -> dict[str, str]:
    text = ":".join(f"{name.replace('_', '-')}={value}" for name, value in parameters.items())
    return {"preset": "fast", "x265-params": f"log-level=none:pools=1:frame-threads=1:{text}"}


OPEN = x264(open_gop=1, keyint=16, min_keyint=16, scenecut=0, b_adapt=0, bframes=4)
LAYERS = (
    "ts_number_layers=3:ts_target_bitrate=100,200,300:ts_rate_decimator=4,2,1:ts_periodicity=4:ts_layer_id=0,2,1,2:"
    "ts_layering_mode=3"
)
GOOD = {"deadline": "good", "cpu-used": "4", "b": "300k", "auto-alt-ref": "6", "lag-in-frames": "25"}
RESILIENT = {"deadline": "realtime", "cpu-used": "6", "b": "300k", "error-resilient": "1", "ts-parameters": LAYERS}

# name of the file: encoder, options, number of B-frames, GOP length, pixel format
ENCODINGS: dict[str, tuple[str, dict[str, str], int | None, int | None, str]] = {
    "h264-gop12.mp4": ("libx264", x264(keyint=12, min_keyint=12), None, None, "yuv420p"),
    "h264-default.mp4": ("libx264", {"crf": "23"}, None, None, "yuv420p"),
    "h264-pyramid.mkv": (
        "libx264",
        x264(keyint=40, b_pyramid="strict", bframes=5, b_adapt=0, scenecut=0),
        None,
        None,
        "yuv420p",
    ),
    "h264-flat.mp4": ("libx264", x264(keyint=40, b_pyramid="none", b_adapt=0, scenecut=0), None, None, "yuv420p"),
    "h264-open.mp4": ("libx264", OPEN, None, None, "yuv420p"),
    "h264-open-temporal.mkv": (
        "libx264",
        x264("veryslow", open_gop=1, keyint=16, min_keyint=8, bframes=5, ref=8, direct="temporal"),
        None,
        None,
        "yuv420p",
    ),
    "h264-open.avi": ("libx264", OPEN, None, None, "yuv420p"),
    "h264.ts": ("libx264", x264(keyint=16, b_adapt=0, scenecut=0), None, None, "yuv420p"),
    "h264.avi": ("libx264", x264(keyint=30, b_adapt=0, scenecut=0), None, None, "yuv420p"),
    "h264-raw.h264": ("libx264", x264(keyint=16, b_adapt=0, scenecut=0), None, None, "yuv420p"),
    "hevc-raw.hevc": ("libx265", x265(keyint=16, min_keyint=16), None, None, "yuv420p"),
    "h264-baseline.mp4": ("libx264", {**x264(keyint=30), "profile": "baseline"}, None, None, "yuv420p"),
    "h264-refresh.mp4": ("libx264", x264(intra_refresh=1, keyint=20, bframes=2, b_adapt=0), None, None, "yuv420p"),
    "h264-slices.mp4": ("libx264", x264(keyint=20, slices=3, b_adapt=0, scenecut=0), None, None, "yuv420p"),
    "h264-headers.mp4": ("libx264", x264(keyint=16, aud=1, repeat_headers=1), None, None, "yuv420p"),
    "h264-10bit.mp4": ("libx264", x264(keyint=20), None, None, "yuv420p10le"),
    "h264-interlaced.mp4": ("libx264", x264(keyint=20, interlaced=1), None, None, "yuv420p"),
    "h264-444.mp4": ("libx264", x264(keyint=20), None, None, "yuv444p"),
    "hevc-default.mp4": ("libx265", x265(), None, None, "yuv420p"),
    "hevc-open.mkv": ("libx265", x265(keyint=16, min_keyint=16, b_adapt=0, bframes=4), None, None, "yuv420p"),
    "hevc-closed.mp4": ("libx265", x265(keyint=16, min_keyint=16, open_gop=0, b_adapt=0), None, None, "yuv420p"),
    "hevc-radl.mp4": ("libx265", x265(keyint=16, min_keyint=16, open_gop=0, radl=2, b_adapt=0), None, None, "yuv420p"),
    "hevc-layers.mp4": ("libx265", x265(keyint=24, temporal_layers=3, b_adapt=0), None, None, "yuv420p"),
    "hevc.ts": ("libx265", x265(keyint=16, min_keyint=16), None, None, "yuv420p"),
    "mpeg4.avi": ("mpeg4", {}, 2, 12, "yuv420p"),
    "mpeg4.mp4": ("mpeg4", {}, 3, 20, "yuv420p"),
    "mpeg4-forward.avi": ("mpeg4", {}, 0, 15, "yuv420p"),
    "mpeg4-qpel.mp4": ("mpeg4", {"flags": "+qpel+mv4"}, 2, 15, "yuv420p"),
    "mpeg4-interlaced.avi": ("mpeg4", {"flags": "+ildct+ilme"}, 2, 15, "yuv420p"),
    "vp8.webm": ("libvpx", VP8, None, 24, "yuv420p"),
    "vp9-altref.webm": ("libvpx-vp9", VP9_ALTREF, None, None, "yuv420p"),
    "vp9-good.webm": ("libvpx-vp9", GOOD, None, 24, "yuv420p"),
    "vp9-layers.webm": ("libvpx-vp9", RESILIENT, None, 24, "yuv420p"),
    "mjpeg.avi": ("mjpeg", MJPEG, None, None, "yuvj420p"),
    "prores.mov": ("prores_ks", {}, None, None, "yuv422p10le"),
    "ffv1.mkv": ("ffv1", {}, None, None, "yuv420p"),
    "mpeg2.mpg": ("mpeg2video", {}, 2, None, "yuv420p"),
    "av1.mp4": ("libsvtav1", {"preset": "12", "svtav1-params": "lp=1"}, None, 24, "yuv420p"),
}


def copy(file: Path, target: Path, *, keep: Callable[[int], bool] = lambda _: True, shift: int = 0) -> Path:
    """Copy the packets of a video, by their place in the file."""
    with av.open(str(file)) as source, av.open(str(target), "w") as container:
        inputs = source.streams.video[0]
        stream = container.add_stream_from_template(inputs)
        rows = (packet for packet in source.demux(inputs) if packet.dts is not None and packet.pts is not None)
        for row, packet in enumerate(rows):
            if keep(row):
                assert packet.pts is not None
                assert packet.dts is not None
                packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, stream
                container.mux_one(packet)
    return target


def uneven(target: Path) -> Path:
    """Frames between 5 and 200 milliseconds apart, the first at 3 seconds."""
    rng = np.random.default_rng(0)
    time = 3000
    with av.open(str(target), "w") as container:
        stream = container.add_stream("libx264", rate=25, options=x264(keyint=20))
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for picture in pictures():
            frame = VideoFrame.from_ndarray(picture, format="rgb24")
            time += int(rng.integers(5, 200))
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return target


@lru_cache(maxsize=1)
def pictures() -> list[np.ndarray]:
    return list(moving_disc(NUM_FRAMES, width=WIDTH, height=HEIGHT, action=(5, NUM_FRAMES - 5), noise=4))


DERIVED: dict[str, Callable[[Callable[[str], Path], Path], Path]] = {
    "vp8-hidden.webm": lambda made, to: hide_frames(made("vp8.webm"), range(4, NUM_FRAMES, 8), to),
    "h264-edit.mp4": lambda made, to: leave_out(made("h264-gop12.mp4"), 7, to),
    "h264-open-edit.mp4": lambda made, to: leave_out(made("h264-open.mp4"), 21, to),
    "hevc-edit.mp4": lambda made, to: leave_out(made("hevc-open.mkv"), 21, to),
    "h264-later.mkv": lambda made, to: copy(made("h264-open.mp4"), to, shift=3 * 12800),
    "h264-later.mp4": lambda made, to: copy(made("h264-open.mp4"), to, shift=3 * 12800),
    "h264-headless.mkv": lambda made, to: copy(made("h264-gop12.mp4"), to, keep=lambda row: row >= 3),
    "h264-open-cut.mkv": lambda made, to: copy(made("h264-open.mp4"), to, keep=lambda row: row >= 17),
    "hevc-open-cut.mkv": lambda made, to: copy(made("hevc-open.mkv"), to, keep=lambda row: row >= 17),
    "h264-vfr.mp4": lambda _, to: uneven(to),
}


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Files by name, each made when it is first asked for."""
    folder = tmp_path_factory.mktemp("sparse")

    @cache
    def make(name: str) -> Path:
        if name in DERIVED:
            return DERIVED[name](make, folder / name)
        codec, options, b_frames, gop, pixel_format = ENCODINGS[name]
        encoding = partial(encode, options=options, max_b_frames=b_frames, gop=gop, pixel_format=pixel_format)
        if codec != "libsvtav1":
            return encoding(folder / name, pictures(), codec)
        # SVT-AV1 leaves its process in a state in which FFmpeg converts 10-bit pictures wrongly.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            return process.submit(encoding, folder / name, pictures(), codec).result()

    return make


def pixels(frame: VideoFrame) -> bytes:
    if frame.format.name != "yuv420p10le":
        return frame.to_ndarray().tobytes()
    # PyAV 17.0 has no array for it.
    planes = [np.frombuffer(bytes(plane), np.uint8).reshape(plane.height, -1) for plane in frame.planes]
    return b"".join(rows[:, : 2 * plane.width].tobytes() for rows, plane in zip(planes, frame.planes, strict=True))


@cache
def all_frames(file: Path | bytes) -> list[bytes]:
    """Every frame of a video, with nothing but PyAV, in its own pixel format."""
    with av.open(str(file) if isinstance(file, Path) else io.BytesIO(file), "r") as container:
        return [pixels(frame) for frame in container.decode(video=0)]


# What each file allows, and why it does not allow more.
LEVELS: dict[str, tuple[Level, str]] = {
    "h264-interlaced.mp4": ("full", "interlaced H.264"),
    "h264-444.mp4": ("full", "4:4:4"),
    "hevc-layers.mp4": ("gops", "temporal layers"),
    "mpeg4-interlaced.avi": ("full", "interlaced MPEG-4"),
    "vp8.webm": ("gops", "passes on probabilities"),
    "vp8-hidden.webm": ("gops", "passes on probabilities"),
    "ffv1.mkv": ("full", "ffv1 is not read"),
    "mpeg2.mpg": ("full", "mpeg2video is not read"),
    "av1.mp4": ("gops", "whole GOPs"),
}
NAMES = [*ENCODINGS, *DERIVED]
READ_NAMES = [name for name in NAMES if LEVELS.get(name, ("packets", ""))[0] != "full"]

# --- every frame of every file ----------------------------------------------------------------------------------------


def check(file: Path | bytes, picks: list[int], whole: list[bytes]) -> int:
    """Chosen frames are those of full decoding; returns the packets that it took."""
    found = decode_chosen(file, np.array(picks))
    assert set(found.frames) == set(picks)
    assert found.picks.tolist() == picks
    for pick in set(picks):
        assert pixels(found.frames[pick]) == whole[pick], pick
    return found.num_decoded


@pytest.mark.parametrize("name", NAMES)
def test_level(made: Callable[[str], Path], name: str) -> None:
    level, reason = LEVELS.get(name, ("packets", ""))
    table = scan(made(name)).packets
    assert table is not None
    assert table.level == level
    assert reason in table.reason
    assert bool(table.reason) == (level != "packets")
    found = decode_chosen(made(name), np.array([3]))
    assert (found.level, found.reason) == (level, table.reason)


@pytest.mark.parametrize("name", NAMES)
def test_every_frame_alone(made: Callable[[str], Path], name: str) -> None:
    file = made(name)
    whole = all_frames(file)
    full = LEVELS.get(name, ("packets", ""))[0] == "full"
    num_decoded = [check(file, [pick], whole) for pick in range(0, len(whole), 9 if full else 1)]
    found = scan(file)
    if not full:
        assert len(whole) == found.num_frames
        # A keyframe needs itself; everything else less than all.
        assert min(num_decoded) == 1
        assert np.mean(num_decoded) < 0.6 * found.num_packets


@pytest.mark.parametrize("name", READ_NAMES)
def test_every_frame_at_once(made: Callable[[str], Path], name: str) -> None:
    whole = all_frames(made(name))
    num_decoded = check(made(name), list(range(len(whole))), whole)
    found = scan(made(name))
    assert num_decoded <= found.num_packets


@pytest.mark.parametrize("name", READ_NAMES)
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_frames_in_any_order(made: Callable[[str], Path], name: str, data: st.DataObject) -> None:
    whole = all_frames(made(name))
    index = st.integers(0, len(whole) - 1)
    picks = data.draw(st.lists(index, min_size=1, max_size=8) | index.map(lambda pick: [pick] * 8))
    check(made(name), picks, whole)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_many_frames_in_any_order(made: Callable[[str], Path], name: str, data: st.DataObject) -> None:
    whole = all_frames(made(name))
    picks = data.draw(st.lists(st.integers(0, len(whole) - 1), min_size=1, max_size=12))
    check(made(name), picks, whole)
    copied = cut(made(name), np.array(picks))
    frames = all_frames.__wrapped__(copied.file)
    assert [frames[frame] for frame in copied.frames] == [whole[pick] for pick in picks]


@pytest.mark.parametrize("name", ["h264-flat.mp4", "mpeg4.avi", "h264-pyramid.mkv", "hevc-open.mkv"])
def test_b_frames_that_nobody_needs_are_left_out(made: Callable[[str], Path], name: str) -> None:
    with av.open(str(made(name))) as container:
        kinds = np.array([int(frame.pict_type) for frame in container.decode(video=0)])
    (other_kinds,) = np.nonzero(kinds != 3)
    num_b_frames = NUM_FRAMES - len(other_kinds)
    assert num_b_frames > 0.4 * NUM_FRAMES
    found = decode_chosen(made(name), other_kinds)
    if name in ("h264-flat.mp4", "mpeg4.avi"):  # where no B-frame refers to another
        assert found.num_decoded == len(other_kinds)
    else:
        assert len(other_kinds) < found.num_decoded < NUM_FRAMES - num_b_frames // 3


def test_one_frame(tmp_path: Path) -> None:
    for codec, suffix in [("libx264", "mp4"), ("mpeg4", "avi"), ("libvpx-vp9", "webm")]:
        file = encode(tmp_path / f"{codec}.{suffix}", pictures()[:1], codec)
        whole = all_frames(file)
        assert len(whole) == 1
        assert check(file, [0] * 8, whole) == 1
        assert decode_chosen(file, np.array([0])).level == "packets"


def test_picks_can_be_chosen_by_the_scan_and_files_be_bytes(made: Callable[[str], Path]) -> None:
    content = made("h264-open.mp4").read_bytes()

    def last_and_largest(found: Scan) -> np.ndarray:
        assert found.packets is not None
        return np.array([found.num_frames - 1, int(found.packets.order[found.packets.size.argmax()])])

    found = decode_chosen(content, last_and_largest)
    assert found.picks.tolist() == [NUM_FRAMES - 1, 0]
    whole = all_frames(made("h264-open.mp4"))
    assert [pixels(found.frames[pick]) for pick in found.picks.tolist()] == [whole[-1], whole[0]]
    assert cut(content, last_and_largest).picks.tolist() == [NUM_FRAMES - 1, 0]


@pytest.mark.parametrize("name", ["h264-open.mp4", "vp8-hidden.webm", "h264-edit.mp4"])
def test_packets_that_do_not_stay_in_memory_are_read_again(
    made: Callable[[str], Path], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = all_frames(made(name))
    picks = [40, 3, 22, 22]
    in_memory = cut(made(name), np.array(picks))
    monkeypatch.setattr(packets, "KEPT_PACKETS_MIB", 0)
    check(made(name), picks, whole)
    assert cut(made(name), np.array(picks)).file == in_memory.file


@pytest.mark.parametrize("name", ["h264-gop12.mp4", "vp8.webm", "ffv1.mkv"])
@pytest.mark.parametrize("picks", [[NUM_FRAMES], [0, 1000], [-1], []])
def test_frames_that_are_not_there(made: Callable[[str], Path], name: str, picks: list[int]) -> None:
    with pytest.raises(IndexError, match=r"frame|no frames"):
        decode_chosen(made(name), np.array(picks, np.int64))
    with pytest.raises(IndexError, match=r"frame|no frames"):
        cut(made(name), np.array(picks, np.int64))


def test_rgb_is_that_of_full_decoding(made: Callable[[str], Path]) -> None:
    picks = np.array([50, 2, 2, 31])
    box = lambda width, height: (3, 5, width - 10, height - 8)  # noqa: E731
    chosen = decode_chosen(made("h264-open.mp4"), picks)
    with av.open(str(made("h264-open.mp4"))) as container:
        expected = rgb_chosen(dict(enumerate(container.decode(video=0))), picks, box=box)
    np.testing.assert_array_equal(rgb_chosen(chosen.frames, picks, box=box), expected)


# --- files that say one thing and hold another ------------------------------------------------------------------------


def test_a_decoder_that_disagrees_with_the_table(made: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    file = made("h264-flat.mp4")
    whole = all_frames(file)
    real = packets.needed_packets

    def too_few(table: PacketTable, picks: np.ndarray) -> list[packets.Run]:
        return [run._replace(packets=run.packets[1:]) for run in real(table, picks)]

    monkeypatch.setattr("mgs_dali.decode.frames.needed_packets", too_few)
    found = decode_chosen(file, np.array([30, 7]))
    assert found.level == "full"
    assert "decoding by the packet table failed" in found.reason
    assert [pixels(found.frames[pick]) for pick in (30, 7)] == [whole[30], whole[7]]


def test_wrong_timestamps_do_not_mislead(made: Callable[[str], Path]) -> None:
    # FFmpeg writes no presentation times to AVI, and reads those of decoding: the pictures themselves know better.
    table = scan(made("h264.avi")).packets
    assert table is not None
    assert (np.diff(table.pts) > 0).all()
    assert (np.diff(table.order) < 0).any()
    assert table.level == "packets"


def test_changing_parameters_fall_back(tmp_path: Path) -> None:
    # Two streams of different parameters, one after the other.
    first, second = tmp_path / "first.h264", tmp_path / "second.h264"
    encode(first, pictures()[:20], "libx264", options=x264(keyint=10, ref=1))
    encode(second, pictures()[20:], "libx264", options=x264(keyint=10, ref=5, cabac=0))
    file = tmp_path / "both.h264"
    file.write_bytes(first.read_bytes() + second.read_bytes())
    table = scan(file).packets
    assert table is not None
    assert (table.level, table.reason) == ("full", "the coding parameters change on the way")
    whole = all_frames(file)
    check(file, [0, len(whole) - 1, 25], whole)


def test_packed_b_frames_fall_back(made: Callable[[str], Path], tmp_path: Path) -> None:
    # As DivX wrote them to AVI: a packet of a reference picture and the B-frame after it, then one of nothing.
    file = tmp_path / "packed.avi"
    with av.open(str(made("mpeg4.avi"))) as source, av.open(str(file), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        rows = [bytes(packet) for packet in source.demux(video=0) if packet.size]
        rows[1:3] = [rows[1] + rows[2], bytes.fromhex("000001b6") + b"\x50\x00"]
        for row, content in enumerate(rows):
            packet = av.Packet(content)
            packet.pts = packet.dts = row
            packet.time_base, packet.stream, packet.is_keyframe = Fraction(1, 25), stream, row == 0
            container.mux_one(packet)
    table = scan(file).packets
    assert table is not None
    assert table.level == "full"
    assert "packed B-frames" in table.reason


def test_cut_off_files_are_errors(made: Callable[[str], Path], tmp_path: Path) -> None:
    content = made("mpeg4.avi").read_bytes()
    file = tmp_path / "cut.avi"
    file.write_bytes(content[: len(content) * 7 // 10])
    for reads in (decode_chosen, cut):
        with pytest.raises(ValueError, match=r"cut\.avi: its RIFF chunk ends at byte \d+, the file at byte \d+"):
            reads(file, np.array([0]))


@pytest.mark.parametrize("name", ["h264-open.mp4", "h264-raw.h264", "hevc-open.mkv", "mpeg4.avi", "vp9-good.webm"])
def test_damaged_files_are_decoded_or_refused(made: Callable[[str], Path], name: str) -> None:
    content = made(name).read_bytes()
    rng = np.random.default_rng(3)
    for _ in range(25):
        damaged = bytearray(content)
        for place in rng.integers(0, len(content), rng.integers(1, 20)).tolist():
            damaged[place] = int(rng.integers(256))
        for reads in (decode_chosen, cut):
            with contextlib.suppress(ValueError, IndexError):
                reads(bytes(damaged), np.array([20, 5]))


# --- copies of what is needed -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_copies_hold_the_chosen_frames(made: Callable[[str], Path], name: str) -> None:
    whole = all_frames(made(name))
    level, _ = LEVELS.get(name, ("packets", ""))
    rng = np.random.default_rng(7)
    for picks in ([len(whole) - 1], [17, 3, 17, 25], *rng.integers(0, len(whole), (6, 8)).tolist()):
        copied = cut(made(name), np.array(picks))
        assert copied.level == level
        frames = all_frames.__wrapped__(copied.file)
        assert [frames[frame] for frame in copied.frames] == [whole[pick] for pick in picks]
        if level == "full":
            assert copied.file == made(name).read_bytes()
            continue
        with av.open(io.BytesIO(copied.file), "r") as container:
            rows = [packet for packet in container.demux(video=0) if packet.size]
        assert len(rows) == copied.num_packets
        if name != "vp9-altref.webm":  # whose hidden frames get packets of their own
            assert len(rows) <= copied.scan.num_packets
        times = sorted(packet.pts for packet in rows if packet.pts is not None)
        hidden = len(rows) - len(frames)
        assert len(set(times)) == len(rows)
        if not hidden:
            assert times == [40 * index for index in range(len(rows))]


@pytest.mark.parametrize("name", NAMES)
def test_copies_of_all_packets_hold_every_frame(made: Callable[[str], Path], name: str) -> None:
    whole = all_frames(made(name))
    copied = cut(made(name), None)
    assert copied.picks.tolist() == list(range(copied.scan.num_frames))
    if copied.level == "full":
        assert copied.file == made(name).read_bytes()
        assert copied.gpu_refusal == copied.reason != ""
        return
    frames = all_frames.__wrapped__(copied.file)
    assert [frames[frame] for frame in copied.frames] == whole
    some = cut(made(name), np.array([9, 2, 9]), whole=True)
    assert some.file == copied.file
    assert some.frames.tolist() == copied.frames[[9, 2, 9]].tolist()
    assert some.pictures.tolist() == copied.pictures[[9, 2, 9]].tolist()
    assert copied.gpu_refusal == ("a packet shows an earlier picture again" if name == "av1.mp4" else "")
    num_hidden = copied.pictures - copied.frames
    assert (np.diff(num_hidden) >= 0).all()
    assert (num_hidden[-1] > 0) == (name in ("vp8-hidden.webm", "vp9-altref.webm"))


def test_copies_whose_packets_show_a_picture_again(made: Callable[[str], Path], tmp_path: Path) -> None:
    file = tmp_path / "again.webm"
    with av.open(str(made("vp9-altref.webm"))) as source, av.open(str(file), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        rows = [bytes(packet) for packet in source.demux(video=0) if packet.size]
        for row, content in enumerate([*rows[:7], bytes([0b10001000]), *rows[7:]]):
            packet = av.Packet(content)
            packet.pts = packet.dts = row
            packet.time_base, packet.stream, packet.is_keyframe = Fraction(1, 25), stream, row == 0
            container.mux_one(packet)
    whole = all_frames(file)
    assert len(whole) == NUM_FRAMES + 1
    copied = cut(file, np.arange(20))
    assert (copied.level, copied.gpu_refusal) == ("packets", "a packet shows an earlier picture again")
    frames = all_frames.__wrapped__(copied.file)
    assert [frames[frame] for frame in copied.frames] == whole[:20]
    assert cut(file, np.arange(7)).gpu_refusal == ""  # not among those that these depend on


@pytest.mark.parametrize("name", ["vp8.webm", "vp8-hidden.webm", "vp9-altref.webm", "vp9-good.webm", "mjpeg.avi"])
def test_dali_decodes_copies_like_whole_files(made: Callable[[str], Path], name: str) -> None:
    pytest.importorskip("nvidia.dali")
    from nvidia.dali import fn, pipeline_def

    from mgs_dali import graph

    content = made(name).read_bytes()
    num_frames = len(all_frames(made(name)))
    picks = [np.sort(np.random.default_rng(seed).choice(num_frames, 8, replace=False)) for seed in range(3)]
    copies = [cut(content, chosen) for chosen in picks]
    files = [content] * 3 + [copied.file for copied in copies]
    frames = [*picks, *(copied.frames for copied in copies)]

    @pipeline_def(batch_size=6, num_threads=1, device_id=None)
    def decoding() -> object:
        encoded = fn.external_source(lambda: [np.frombuffer(file, np.uint8) for file in files], batch=True)
        wanted = fn.external_source(lambda: [indices.astype(np.int32) for indices in frames], batch=True)
        return graph.decode_frames(encoded, wanted, device="cpu")

    pipeline = decoding(prefetch_queue_depth=1)
    pipeline.build()
    clips = [np.array(clip) for clip in pipeline.run()[0]]
    for whole, copied in zip(clips[:3], clips[3:], strict=True):
        assert whole.std() > 0
        np.testing.assert_array_equal(whole, copied)


# --- which packets are needed -----------------------------------------------------------------------------------------


def table(
    order: list[int], *, access: str, referenced: str, shows: str = "", needs_leading: bool = False
) -> PacketTable:
    """A made-up table, one letter a packet: access is Clean, Leading or none; r for referenced; s for shown."""
    count = len(order)
    zeros = np.zeros(count, np.int64)
    return PacketTable(
        pts=zeros,
        dts=zeros,
        size=zeros,
        is_keyframe=zeros.astype(bool),
        discard=zeros.astype(bool),
        shows=np.array([letter != "." for letter in shows or "s" * count]),
        is_referenced=np.array([letter == "r" for letter in referenced]),
        access=np.array([{"C": CLEAN, "L": LEADING, ".": NOWHERE}[letter] for letter in access], np.uint8),
        order=np.array(order),
        needs_leading=needs_leading,
        level="packets",
        reason="",
    )


#                packet:  0  1  2  3  4  5  6  7  8   (I P b b I b b P b: the second GOP is open)
OPEN_ORDER = [0, 3, 1, 2, 6, 4, 5, 8, 7]
OPEN_GOPS = table(OPEN_ORDER, access="C...L....", referenced="rr..r..r.")


@pytest.mark.parametrize(
    ("picks", "runs"),
    [
        ([0], [([0], [0])]),
        ([3], [([0, 1], [3])]),
        ([2], [([0, 1, 3], [2])]),
        ([6], [([4], [6])]),
        ([8, 0], [([0], [0]), ([4, 7], [8])]),
        ([7], [([4, 7, 8], [7])]),
        ([5], [([0, 1, 4, 6], [5])]),  # shown before the second keyframe: needs the first GOP too
        ([5, 7], [([0, 1, 4, 6, 7, 8], [5, 7])]),  # and so the decoder need not be flushed between
        ([3, 8, 3, 3], [([0, 1], [3]), ([4, 7], [8])]),
    ],
)
def test_needed_packets_of_open_gops(picks: list[int], runs: list[tuple[list[int], list[int]]]) -> None:
    found = needed_packets(OPEN_GOPS, np.array(picks))
    assert [(run.packets.tolist(), run.frames.tolist()) for run in found] == runs


def test_copies_are_joined_at_clean_starts_only() -> None:
    (run,) = needed_packets(OPEN_GOPS, np.array([8]), least_access=CLEAN)
    assert run.packets.tolist() == [0, 1, 4, 7]


def test_hidden_packets_are_no_frames() -> None:
    hidden = table([0, 1, 2, 3], access="C...", referenced="rrrr", shows="s.ss")
    assert hidden.frames.tolist() == [0, 2, 3]
    assert [run.packets.tolist() for run in needed_packets(hidden, np.array([1]))] == [[0, 1, 2]]


@st.composite
def tables(draw: st.DrawFn) -> tuple[PacketTable, list[set[int]], list[int]]:
    """A stream of GOPs, what each packet refers to, and picks."""
    order: list[int] = []
    access, referenced, needs = "", "", list[set[int]]()
    for _ in range(draw(st.integers(1, 4))):
        base, is_open = len(order), bool(order) and draw(st.booleans())
        size = draw(st.integers(1, 7))
        previous = [row for row in range(base) if referenced[row] == "r"]
        num_leading = draw(st.integers(0, size - 1)) if is_open else 0
        places = [num_leading, *range(num_leading), *range(num_leading + 1, size)]
        last_start = access.rfind("L") if access.rfind("L") > access.rfind("C") else access.rfind("C")
        for row, place in enumerate(places):
            here = base + row
            order.append(base + place)
            access += "." if row else ("L" if is_open else "C")
            referenced += "r" if not row else draw(st.sampled_from("r."))
            within = [other for other in range(base, here) if referenced[other] == "r"]
            if row and place < num_leading:  # may use all since the last start, and pictures of this GOP
                within += [other for other in previous if other >= last_start and order[other] >= order[last_start]]
            elif row:
                within = [other for other in within if order[other] >= base + num_leading]
            needs.append(set(draw(st.lists(st.sampled_from(within), max_size=3))) if within else set())
    picks = draw(st.lists(st.integers(0, len(order) - 1), min_size=1, max_size=6))
    made_up = table(order, access=access, referenced=referenced, needs_leading=draw(st.booleans()))
    return made_up, needs, picks


@given(tables())
def test_needed_packets_hold_all_that_the_picks_depend_on(drawn: tuple[PacketTable, list[set[int]], list[int]]) -> None:
    made_up, needs, picks = drawn
    runs = needed_packets(made_up, np.array(picks))
    assert sorted(frame for run in runs for frame in run.frames.tolist()) == sorted(set(picks))
    for run in runs:
        fed = run.packets.tolist()
        assert fed == sorted(set(fed))
        chosen = {made_up.order.tolist().index(frame) for frame in run.frames.tolist()}
        assert fed[-1] in chosen  # nothing after the last pick
        assert made_up.access[fed[0]]
        assert all(row in chosen or made_up.is_referenced[row] for row in fed)
        open_rows = set(chosen)
        while open_rows:
            assert open_rows <= set(fed)
            open_rows = set().union(*(needs[row] for row in open_rows))
    rows = [row for run in runs for row in run.packets.tolist()]
    assert len(rows) == len(set(rows))
