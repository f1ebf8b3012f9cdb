"""What containers tell of turns and of their own end, by boxes and elements made here and by FFmpeg's writers."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import pytest
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from conftest import moving_disc
from hypothesis import given
from hypothesis import strategies as st

from mgs_dali.decode.containers import UPRIGHT, Facts, Turn, read_facts, turn_of_matrix

ONE = 1 << 16
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
SEGMENTS = {"movflags": FRAGMENTS["movflags"] + "+dash+global_sidx"}

# --- turns ----------------------------------------------------------------------------------------------------------

TURNS = [Turn(*values) for values in itertools.product([False, True], repeat=3)]


def shown(picture: np.ndarray, matrix: Sequence[int]) -> np.ndarray:
    """A picture as ISO/IEC 14496-12 puts each of its points: (p, q) at (a p + c q, b p + d q)."""
    a, b, _, c, d, *_ = matrix
    rows, columns = np.mgrid[: picture.shape[0], : picture.shape[1]]
    across, down = (a * columns + c * rows) // ONE, (b * columns + d * rows) // ONE
    across, down = across - across.min(), down - down.min()
    result = np.zeros((down.max() + 1, across.max() + 1), picture.dtype)
    result[down, across] = picture
    return result


MATRICES = [
    (a, b, 0, c, d, 0, 0, 0, 1 << 30)
    for a, b, c, d in (
        *((x, 0, 0, y) for x in (ONE, -ONE) for y in (ONE, -ONE)),
        *((0, x, y, 0) for x in (ONE, -ONE) for y in (ONE, -ONE)),
    )
]


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("scale", [1, 3])
def test_pictures_are_turned_as_the_matrix_says(matrix: tuple[int, ...], scale: int) -> None:
    picture = np.arange(12).reshape(3, 4)
    scaled = [*(scale * value for value in matrix[:5]), *matrix[5:]]
    turn = turn_of_matrix(scaled)
    np.testing.assert_array_equal(turn.apply(picture), shown(picture, matrix))
    assert turn == turn_of_matrix(struct.pack("=9i", *scaled))
    assert turn.size(4, 3) == shown(picture, matrix).shape[::-1]


def test_matrices_that_say_nothing() -> None:
    assert turn_of_matrix([0] * 9) == UPRIGHT
    assert turn_of_matrix(MATRICES[0]) == UPRIGHT


@pytest.mark.parametrize("degrees", [30, 45, -60, 135])
def test_other_angles_are_errors(degrees: int) -> None:
    cosine, sine = (round(ONE * value) for value in (np.cos(np.radians(degrees)), np.sin(np.radians(degrees))))
    with pytest.raises(ValueError, match=rf"shown turned by {degrees} degrees; only quarter turns"):
        turn_of_matrix([cosine, sine, 0, -sine, cosine, 0, 0, 0, 1 << 30])


@given(turn=st.sampled_from(TURNS), data=st.data())
def test_boxes_of_the_upright_picture_in_the_stored_one(turn: Turn, data: st.DataObject) -> None:
    stored = np.arange(7 * 5).reshape(5, 7)
    upright = turn.apply(stored)
    height, width = upright.shape
    x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    w, h = data.draw(st.integers(1, width - x)), data.draw(st.integers(1, height - y))
    left, top, across, down = turn.box(x, y, w, h, of=(width, height))
    np.testing.assert_array_equal(
        turn.apply(stored[top : top + down, left : left + across]), upright[y : y + h, x : x + w]
    )


# --- files ----------------------------------------------------------------------------------------------------------

FORMATS = {".mp4": "mov,mp4,m4a,3gp,3g2,mj2", ".mov": "mov,mp4,m4a,3gp,3g2,mj2", ".mkv": "matroska,webm"}


def write(
    file: Path,
    codec: str = "libx264",
    *,
    muxing: dict[str, str] | None = None,
    degrees: int | None = None,
    mirrored: bool = False,
) -> Path:
    """36 frames with a keyframe in 12."""
    with av.open(str(file), "w", options=muxing or {}) as container:
        stream = cast(VideoStream, container.add_stream(codec, rate=25, options={"g": "12"}))
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.thread_count = 1
        if degrees is not None:
            if not hasattr(stream, "set_display_rotation"):
                pytest.skip("PyAV 17 writes no rotation")
            stream.set_display_rotation(degrees, hflip=mirrored)
        for picture in moving_disc(36, width=64, height=48):
            container.mux(stream.encode(VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return file


def facts_of(content: bytes, suffix: str = ".mp4") -> Facts:
    return read_facts(content, format_name=FORMATS.get(suffix, suffix[1:]))


@pytest.mark.parametrize(("degrees", "mirrored"), list(itertools.product([0, 90, 180, 270], [False, True])))
@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_turns_of_tracks_are_those_that_ffmpeg_finds(tmp_path: Path, suffix: str, degrees: int, mirrored: bool) -> None:
    file = write(tmp_path / f"a{suffix}", degrees=degrees, mirrored=mirrored)
    found = read_facts(file, format_name=FORMATS[suffix]).turns.get(1, MATRICES[0])
    expected = matrix_by_ffmpeg(file)
    assert list(found) == list(MATRICES[0] if expected is None else struct.unpack("=9i", expected))


def matrix_by_ffmpeg(file: Path) -> bytes | None:
    with av.open(str(file)) as container:
        data: Any = next(container.decode(video=0)).side_data.get("DISPLAYMATRIX")
        return None if data is None else bytes(data)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_turns_in_matroska_are_those_that_ffmpeg_finds(tmp_path: Path, degrees: int) -> None:
    file = write(tmp_path / "a.mkv", degrees=degrees)
    (found,) = read_facts(file, format_name=FORMATS[".mkv"]).turns.values()
    expected = matrix_by_ffmpeg(file)
    assert expected is not None
    assert turn_of_matrix(found) == turn_of_matrix(expected) != UPRIGHT


def test_the_movies_matrix_comes_after_the_tracks(tmp_path: Path) -> None:
    content = bytearray(write(tmp_path / "a.mp4", degrees=90).read_bytes())
    place = content.index(b"mvhd") + 4 + 36
    assert struct.unpack(">9i", content[place : place + 36]) == MATRICES[0]
    half = (-ONE, 0, 0, 0, -ONE, 0, 0, 0, 1 << 30)
    content[place : place + 36] = struct.pack(">9i", *half)
    turned, track = (
        turn_of_matrix(facts_of(bytes(each)).turns[1]) for each in (content, (tmp_path / "a.mp4").read_bytes())
    )
    picture = np.arange(12).reshape(3, 4)
    np.testing.assert_array_equal(turned.apply(picture), track.apply(picture)[::-1, ::-1])


# --- where a file should end ------------------------------------------------------------------------------------------


def boxes(content: bytes) -> list[tuple[bytes, int, int]]:
    """(type, place, end) of the outermost boxes of an MP4."""
    found, place = [], 0
    while place < len(content):
        size = int.from_bytes(content[place : place + 4], "big")
        found.append((content[place + 4 : place + 8], place, place + size))
        place += size
    return found


@pytest.mark.parametrize(
    ("muxing", "is_proved"),
    [({}, True), ({"movflags": "faststart"}, True), (FRAGMENTS, True), (SEGMENTS, True)],
)
def test_whole_mp4(tmp_path: Path, muxing: dict[str, str], is_proved: bool) -> None:
    found = facts_of(write(tmp_path / "a.mp4", muxing=muxing).read_bytes())
    assert (found.damage, found.is_proved_whole) == ("", is_proved)


def fragments(tmp_path: Path, muxing: dict[str, str] = FRAGMENTS) -> tuple[bytes, list[tuple[bytes, int, int]]]:
    content = write(tmp_path / "a.mp4", muxing=muxing).read_bytes()
    parts = boxes(content)
    assert [kind for kind, _, _ in parts].count(b"moof") >= 3
    return content, parts


def test_fragments_that_end_early(tmp_path: Path) -> None:
    content, parts = fragments(tmp_path)
    last = [part for part in parts if part[0] == b"mdat"][-1]
    found = facts_of(content[: last[1] + 20])
    assert found.damage == f"its box 'mdat' ends at byte {last[2]}, the file at byte {last[1] + 20}"
    # Between two fragments nothing tells, once the index at the end is gone.
    found = facts_of(content[: last[2]])
    assert (found.damage, found.is_proved_whole) == ("", False)


def test_a_segment_index_tells_of_missing_segments(tmp_path: Path) -> None:
    content, parts = fragments(tmp_path, SEGMENTS)
    assert facts_of(content).damage == ""
    kinds = [kind for kind, _, _ in parts]
    end = parts[len(kinds) - 1 - kinds[::-1].index(b"moof")][1]  # without the last fragment
    found = facts_of(content[:end])
    assert found.damage.startswith("its segments end at byte ")
    assert found.damage.endswith(f", the file at byte {end}")


TFHD = b"tfhd\0\2\0\x38\0\0\0"
BREAKS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "zeroes": (lambda box: bytes(len(box)), "no box begins at byte"),
    "no traf": (lambda box: box.replace(b"traf", b"tr\xe1f"), "has a part that is none"),
    "no tfhd": (lambda box: box.replace(b"tfhd", b"tfh\xe4"), "does not tell its frames"),
    "no trun": (lambda box: box.replace(b"trun", b"tr\0n"), "does not tell its frames"),
    "another track": (lambda box: box.replace(TFHD + b"\1", TFHD + b"\7"), "does not tell its frames"),
    "a size": (lambda box: box[:24] + b"\0\1" + box[26:], "is not what its size says"),
}


@pytest.mark.parametrize("kind", BREAKS)
def test_fragments_with_holes(tmp_path: Path, kind: str) -> None:
    content, parts = fragments(tmp_path)
    _, start, end = [part for part in parts if part[0] == b"moof"][1]
    change, expected = BREAKS[kind]
    box = change(content[start:end])
    assert len(box) == end - start
    assert box != content[start:end]
    found = facts_of(content[:start] + box + content[end:])
    assert expected in found.damage


def test_whole_matroska_and_avi(tmp_path: Path) -> None:
    for suffix, codec in ((".mkv", "libx264"), (".webm", "libvpx"), (".avi", "mjpeg")):
        content = write(tmp_path / f"a{suffix}", codec).read_bytes()
        name = "avi" if suffix == ".avi" else FORMATS[".mkv"]
        whole = read_facts(content, format_name=name)
        assert (whole.damage, whole.is_proved_whole) == ("", True)
        cut = read_facts(content[:-500], format_name=name)
        what = "RIFF chunk" if suffix == ".avi" else "segment"
        assert cut.damage == f"its {what} ends at byte {len(content)}, the file at byte {len(content) - 500}"


def test_avi_whose_list_of_pictures_is_lost(tmp_path: Path) -> None:
    content = write(tmp_path / "a.avi", "mjpeg").read_bytes()
    place = content.index(b"movi") - 8
    lost = read_facts(content[:place] + bytes(100) + content[place + 100 :], format_name="avi")
    assert lost.damage == f"no chunk begins at byte {place}, where the one before it ends"


def test_live_recordings_do_not_tell_where_they_end(tmp_path: Path) -> None:
    live = write(tmp_path / "a.webm", "libvpx", muxing={"live": "1"}).read_bytes()
    found = read_facts(live, format_name=FORMATS[".mkv"])
    assert (found.damage, found.is_proved_whole) == ("", False)
    content = bytearray(write(tmp_path / "a.avi", "mjpeg").read_bytes())
    content[4:8] = bytes(4)
    found = read_facts(bytes(content), format_name="avi")
    assert (found.damage, found.is_proved_whole) == ("", False)


@pytest.mark.parametrize("name", ["mpegts", "flv", "ogg"])
def test_containers_that_are_not_read(name: str) -> None:
    found = read_facts(b"whatever it holds", format_name=name)
    assert (found.damage, found.is_proved_whole, found.turns) == ("", False, {})


JUNK = {
    "mov": b"\0\0\1\0moov\0\0\0\x6cmvhd",
    "matroska,webm": b"\x18\x53\x80\x67\x90\x15\x49\xa9\x66",
    "avi": b"RIFF\x20\0\0\0AVI ",
}


@given(content=st.binary(max_size=300), name=st.sampled_from(list(JUNK)), head=st.sampled_from([0, 8, 40]))
def test_junk_is_no_crash(content: bytes, name: str, head: int) -> None:
    read_facts(JUNK[name][:head] + content, format_name=name)
