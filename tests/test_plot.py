"""The picture of a choice: its numbers against videos whose action is known; a file for any video; the sheet."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from conftest import decode_all, encode, moving_disc
from hypothesis import given
from hypothesis import strategies as st
from indexed import BROKEN, EARLY, GONE, LATE, MOTIONLESS, NASTY, ONE, SAMPLER, STILL, write_index
from indexed import blinking as write_blinking
from PIL import Image

from mgs_dali.index.store import MotionIndex
from mgs_dali.look import choices, sheet
from mgs_dali.look.choices import (
    both_picks,
    busy_frames,
    cdf_at_frames,
    choose,
    choose_indexed,
    chosen_pictures,
    film_strip,
    indexed_video,
    jpeg,
    pick_difference,
    runs,
)
from mgs_dali.look.plot import draw, plot_video
from mgs_dali.look.sheet import draw_sheet, plot_sheet
from mgs_dali.sampling import MotionGuided
from mgs_dali.video.file import VideoFile
from mgs_dali.video.folder import FrameFolder


@pytest.fixture(scope="module")
def blinking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 still frames, but for the 18 gaps from frame 20 to frame 38, all of the same motion."""
    return write_blinking(tmp_path_factory.mktemp("plot") / "blinking.mkv", first=20)


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> tuple[MotionIndex, Path]:
    return write_index(tmp_path_factory.mktemp("indexed"))


def test_choice_of_a_known_video(blinking: Path) -> None:
    choice = choose(blinking, sampler=MotionGuided(num_segments=4))
    assert choice.name == "blinking.mkv"
    assert choice.motion.shape == (59,)
    assert np.flatnonzero(choice.motion).tolist() == list(range(20, 38))
    assert choice.uniform.tolist() == [7, 22, 37, 52]  # 60 / 8, 60 * 3 / 8, ...
    assert choice.guided.tolist() == [21, 26, 30, 35]  # (j - 19) / 18 nearest to 1/8, 3/8, ...
    assert set(choice.pictures) == {*choice.guided.tolist(), *choice.uniform.tolist()}
    assert {picture.shape for picture in choice.pictures.values()} == {(48, 64, 3)}
    np.testing.assert_array_equal(choice.pictures[7], choice.pictures[52])  # before the action and after it
    assert choice.pictures[21].mean() > choice.pictures[26].mean() + 15


def test_picture_says_how_many_frames_hit(blinking: Path) -> None:
    choice = choose(blinking, sampler=MotionGuided(num_segments=4))
    texts = [text.get_text() for text in draw(choice).texts]
    assert "blinking.mkv, 60 frames" in texts
    assert "mu=0.5, floor=0, pick=nearest" in texts
    # frames 21 to 37 differ from both neighbours
    assert "Motion-guided: 4 of 4 frames in the action" in texts
    assert "Uniform: 2 of 4 frames in the action" in texts


@pytest.mark.parametrize("num_segments", [1, 4, 5])
def test_picture_shows_motion_cdf_and_strata(blinking: Path, num_segments: int) -> None:
    choice = choose(blinking, sampler=MotionGuided(num_segments=num_segments))
    panels: list[Any] = [axes for axes in draw(choice).axes if not axes.images]
    motion, cdf = panels
    (steps,) = [patch for patch in motion.patches if hasattr(patch, "get_data")]
    np.testing.assert_array_equal(steps.get_data().values, choice.motion)
    assert cdf.lines[0].get_xdata().tolist() == list(range(59))
    expected = np.clip((np.arange(59) - 19) / 18, 0, 1)
    np.testing.assert_allclose(cdf.lines[0].get_ydata(), expected, atol=1e-12)
    bands = [patch for patch in cdf.patches if patch.get_facecolor()[:3] == pytest.approx([236 / 255] * 3)]
    edges = [band.get_extents().transformed(cdf.transData.inverted()).intervaly for band in bands]
    np.testing.assert_allclose(
        edges, [(k / num_segments, (k + 1) / num_segments) for k in range(0, num_segments, 2)], atol=1e-9
    )


def test_picture_names_each_frame(blinking: Path) -> None:
    choice = choose(blinking, sampler=MotionGuided(num_segments=5, mu=1.0, floor=0.5, pick="inverse"))
    labels = [axes.get_xlabel() for axes in draw(choice).axes if axes.images]
    assert labels == [f"frame {frame}" for frame in [*choice.guided.tolist(), *choice.uniform.tolist()]]


@pytest.mark.parametrize(("num_frames", "num_segments"), [(1, 3), (2, 1), (20, 8), (20, 32)])
@pytest.mark.parametrize("moving", [True, False])
def test_any_video_gives_a_readable_png(tmp_path: Path, num_frames: int, num_segments: int, moving: bool) -> None:
    frames = moving_disc(num_frames, action=(0, num_frames)) if moving else [STILL] * num_frames
    video = encode(tmp_path / "video.mkv", frames, "ffv1")
    plot_video(video, tmp_path / "picture.png", sampler=MotionGuided(num_segments=num_segments))
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.format == "PNG"
        assert picture.width == 1600
        assert picture.convert("RGB").getpixel((0, 0)) == (255, 255, 255)


def test_still_video_says_so(tmp_path: Path) -> None:
    choice = choose(encode(tmp_path / "still.mkv", [STILL] * 9, "ffv1"), sampler=MotionGuided(num_segments=3))
    assert choice.guided.tolist() == choice.uniform.tolist()
    assert "no motion: the picks are uniform" in [text.get_text() for text in draw(choice).texts]


def test_a_name_that_is_not_utf8(blinking: Path, tmp_path: Path) -> None:
    video = tmp_path / os.fsdecode(b"b\xff.mkv")
    try:
        video.write_bytes(blinking.read_bytes())
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    choice = plot_video(video, tmp_path / "picture.png", sampler=SAMPLER)
    assert choice.name == r"b\udcff.mkv"
    assert (tmp_path / "picture.png").stat().st_size > 0


@pytest.mark.parametrize("repeats", [2, 3])
def test_a_video_in_pairs_or_triples_is_seen_to_move(tmp_path: Path, repeats: int) -> None:
    frames = [(STILL + 20 * (frame % 2 if 10 <= frame <= 20 else 0)).astype(np.uint8) for frame in range(30)]
    once = choose(encode(tmp_path / "once.mkv", frames, "ffv1"), sampler=SAMPLER)
    again = [frame for frame in frames for _ in range(repeats)]
    choice = choose(encode(tmp_path / "again.mkv", again, "ffv1"), sampler=SAMPLER)
    assert busy_frames(once.motion).any()
    assert busy_frames(choice.motion).tolist() == np.repeat(busy_frames(once.motion), repeats).tolist()
    assert choice.hits == once.hits
    texts = [text.get_text() for text in draw(choice).texts]
    assert "action: more motion than the mean" in texts


def test_motion_without_action_is_not_called_none(tmp_path: Path) -> None:
    frames = [STILL] * 9 + [STILL // 2] * 9  # one cut
    choice = choose(encode(tmp_path / "cut.mkv", frames, "ffv1"), sampler=SAMPLER)
    texts = [text.get_text() for text in draw(choice).texts]
    assert "motion, but no frame in the middle of it" in texts
    assert "no motion: the picks are uniform" not in texts


def test_no_pyplot(blinking: Path, tmp_path: Path) -> None:
    """In a process of its own: other tests bring pyplot along."""
    program = (
        "import sys; from pathlib import Path; from mgs_dali.look.plot import plot_video; "
        "from mgs_dali.sampling import MotionGuided; "
        "plot_video(Path(sys.argv[1]), Path(sys.argv[2]), sampler=MotionGuided()); "
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    root = Path(__file__).parents[1]
    subprocess.run([sys.executable, "-c", program, blinking, tmp_path / "picture.png"], check=True, cwd=root)


def test_same_video_same_file(blinking: Path, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        plot_video(blinking, tmp_path / name, sampler=MotionGuided())
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_busy_frames_examples() -> None:
    assert busy_frames(np.array([0, 0, 5, 5, 5, 0], np.float32)).tolist() == [0, 0, 0, 1, 1, 0, 0]
    assert busy_frames(np.array([9, 0, 0], np.float32)).tolist() == [1, 0, 0, 0]
    assert busy_frames(np.array([0, 0, 9], np.float32)).tolist() == [0, 0, 0, 1]
    assert busy_frames(np.array([], np.float32)).tolist() == [0]


def busy_by_neighbours(values: list[int]) -> list[bool]:
    gaps = [[values[gap] for gap in (f - 1, f) if 0 <= gap < len(values)] for f in range(len(values) + 1)]
    return [all(gap * len(values) > sum(values) for gap in around) for around in gaps]


# of values like these none is so small beside the mean that it is between frames of one picture
@given(st.lists(st.integers(10, 100), min_size=1, max_size=40))
def test_busy_frames_by_their_neighbours(values: list[int]) -> None:
    assert busy_frames(np.array(values, np.float32)).tolist() == busy_by_neighbours(values)


@given(
    st.lists(st.tuples(st.integers(10, 30), st.integers(1, 3)), min_size=1, max_size=40),
    st.sampled_from([0.0, 0.25]),
)
def test_frames_that_show_a_picture_again_are_judged_as_the_picture(
    pictures: list[tuple[int, int]], noise: float
) -> None:
    """Each picture is there for some frames, and then moves by a value to the next; the first has one frame."""
    pictures = [(pictures[0][0], 1), *pictures[1:]]
    curve = [gap for value, times in pictures for gap in [noise] * (times - 1) + [value]]
    above = [value / times > sum(curve) / len(curve) for value, times in pictures]
    shown = [number for number, (_, times) in enumerate(pictures) for _ in range(times)]
    expected = [(number == 0 or above[number - 1]) and above[number] for number in shown] + [above[-1]]
    assert busy_frames(np.array(curve, np.float32)).tolist() == expected


def test_a_still_stretch_is_no_repetition() -> None:
    still = [0.0, 0.0, 0.0]  # four frames of one picture
    assert busy_frames(np.array([5, 5, 5, *still, 5, 5, 5], np.float32)).tolist() == [1] * 3 + [0] * 4 + [1] * 3
    assert busy_frames(np.array([5, 0, 5, 0, 5, 0, *still], np.float32)).tolist() == [1] * 5 + [0] * 5


def test_errors_teach(blinking: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"gone\.mp4: there is no such file .*Give the path of a video"):
        plot_video(tmp_path / "gone.mp4", tmp_path / "picture.png", sampler=MotionGuided())
    with pytest.raises(
        ValueError, match=r"picture\.jpg: the picture is written as PNG\. Give a name that ends in \.png"
    ):
        plot_video(blinking, tmp_path / "picture.jpg", sampler=MotionGuided())
    with pytest.raises(ValueError, match=r"there is no folder .*nowhere\. Make it first"):
        plot_video(blinking, tmp_path / "nowhere" / "picture.png", sampler=MotionGuided())
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(ValueError, match=r"text\.mp4: cannot be opened as a video"):
        plot_video(tmp_path / "text.mp4", tmp_path / "picture.png", sampler=MotionGuided())


# --- choosing -------------------------------------------------------------------------------------------------------


def test_picks_and_their_difference_by_hand() -> None:
    motion = np.zeros(59, np.float32)
    motion[20:38] = 3.0
    guided, uniform = both_picks(motion, sampler=SAMPLER)
    assert guided.tolist() == [21, 26, 30, 35]
    assert uniform.tolist() == [7, 22, 37, 52]
    assert pick_difference(guided, uniform, num_frames=60) == 42 / 240  # 14 + 4 + 7 + 17 frames of 60, four times


def test_difference_tends_to_the_area_between_cdf_and_diagonal() -> None:
    motion = np.repeat([0.0, 1.0], 5000)  # the CDF is 0 up to the middle, then straight up to 1: 1/4 from the diagonal
    picks = both_picks(motion, sampler=MotionGuided(num_segments=500))
    assert pick_difference(*picks, num_frames=10001) == pytest.approx(1 / 4, abs=1e-3)


@pytest.mark.parametrize(
    ("pick", "motion", "expected"),
    [
        ("nearest", [0, 1, 3], [0, 0.25, 1]),
        ("inverse", [0, 1, 3], [0, 0, 0.25, 1]),
        ("nearest", [0, 0], []),
        ("inverse", [], []),
    ],
)
def test_cdf_at_frames(pick: str, motion: list[float], expected: list[float]) -> None:
    sampler = MotionGuided(mu=1.0, pick=pick)
    assert cdf_at_frames(np.array(motion, np.float32), sampler=sampler).tolist() == expected


@given(st.lists(st.booleans(), max_size=30))
def test_runs_cover_what_is_marked(marks: list[bool]) -> None:
    found = runs(np.array(marks, bool))
    assert [frame for first, last in found for frame in range(first, last + 1)] == np.flatnonzero(marks).tolist()
    assert all(last + 1 < first for (_, last), (first, _) in pairwise(found))


@pytest.mark.parametrize("codec", ["h264", "mpeg4", "vp8-hidden", "vp9", "mjpeg"])
def test_chosen_pictures_are_those_of_full_decoding(videos: dict[str, Path], codec: str) -> None:
    everything = decode_all(videos[codec])
    found = chosen_pictures(VideoFile(videos[codec], "video"), np.array([41, 3, 41, 58]), num_measured=60)
    assert list(found) == [3, 41, 58]
    for frame, picture in found.items():
        np.testing.assert_array_equal(picture, everything[frame])


def test_chosen_pictures_fit_a_box(videos: dict[str, Path]) -> None:
    found = chosen_pictures(VideoFile(videos["h264"], "video"), np.array([7]), box_pixels=(48, 20))
    assert found[7].shape == (20, 30, 3)  # of 96 x 64


def test_video_that_changed_is_an_error(videos: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match=r"the motion index holds 61 frames of it, the file shows 60\. It has changed"):
        chosen_pictures(VideoFile(videos["h264"], "video"), np.array([2]), num_measured=61)


def test_choice_by_an_index_measures_nothing(
    indexed: tuple[MotionIndex, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choices, "Pixel", None)
    index, root = indexed
    choice = choose_indexed(index, LATE, root=root, sampler=SAMPLER, box_pixels=(32, 32))
    assert choice.guided.tolist() == [41, 46, 50, 55]
    assert choice.uniform.tolist() == [7, 22, 37, 52]
    assert choice.difference == 74 / 240
    assert choice.hits == (4, 1)  # frames 41 to 57 are in the action
    assert choice.error == ""
    assert {picture.shape for picture in choice.pictures.values()} == {(24, 32, 3)}


def test_choice_of_a_video_that_is_gone_says_so(indexed: tuple[MotionIndex, Path]) -> None:
    index, root = indexed
    choice = choose_indexed(index, GONE, root=root, sampler=SAMPLER, box_pixels=(32, 32))
    assert choice.guided.tolist() == [41, 46, 50, 55]
    assert choice.pictures == {}
    assert "gone.mkv: no such file. Check the path in the list and the root folder" in choice.error


def test_film_strip_is_frames_side_by_side(blinking: Path) -> None:
    choice = choose(blinking, sampler=SAMPLER)
    strip = film_strip(choice, np.array([21, 26, 21]))
    assert strip.shape == (48, 192, 3)
    np.testing.assert_array_equal(strip[:, 64:128], choice.pictures[26])
    np.testing.assert_array_equal(strip[:, 128:], choice.pictures[21])
    with Image.open(io.BytesIO(jpeg(strip))) as picture:
        assert picture.format == "JPEG"
        np.testing.assert_allclose(np.asarray(picture), strip, atol=12)


# --- the sheet ------------------------------------------------------------------------------------------------------


def sheet_of(indexed: tuple[MotionIndex, Path], paths: list[str], sampler: MotionGuided = SAMPLER) -> Any:
    index, root = indexed
    choices = [choose_indexed(index, path, root=root, sampler=sampler, box_pixels=(64, 48)) for path in paths]
    return draw_sheet(choices)


def test_sheet_says_what_differs(indexed: tuple[MotionIndex, Path]) -> None:
    texts = [text.get_text() for text in sheet_of(indexed, [LATE, NASTY, ONE]).texts]
    assert "4 segments, mu=0.5, floor=0, pick=nearest" in texts
    place = texts.index(LATE)
    assert texts[place + 1] == (
        "60 frames; picks differ by 30.8% of the length; in the action: 4 of 4 motion-guided, 1 of 4 uniform"
    )
    assert texts[texts.index(NASTY) + 1].startswith("60 frames; picks differ by 17.5% of the length;")
    assert texts[texts.index(ONE) + 1].startswith("1 frame; picks differ by 0.0% of the length;")


def test_sheet_names_each_frame(indexed: tuple[MotionIndex, Path]) -> None:
    strips = [axes for axes in sheet_of(indexed, [EARLY, LATE]).axes if axes.images]
    frames = [[text.get_text() for text in axes.texts] for axes in strips]
    uniform = ["7", "22", "37", "52"]
    assert frames == [["21", "26", "30", "35"], uniform, ["41", "46", "50", "55"], uniform]


def test_sheet_gives_the_reason_in_the_place_of_frames(indexed: tuple[MotionIndex, Path]) -> None:
    figure = sheet_of(indexed, [GONE, EARLY])
    assert len([axes for axes in figure.axes if axes.images]) == 2
    reason = " ".join(" ".join(text.get_text().split()) for text in figure.texts)
    assert "gone.mkv: no such file. Check the path in the list" in reason


@pytest.mark.parametrize("num_segments", [1, 40])
def test_sheet_of_any_videos_is_a_readable_png(
    indexed: tuple[MotionIndex, Path], tmp_path: Path, num_segments: int
) -> None:
    index, root = indexed
    heights = []
    for number, paths in enumerate([[MOTIONLESS], [ONE, NASTY, GONE]]):
        out = tmp_path / f"{number}.png"
        sampler = MotionGuided(num_segments=num_segments)
        choices = plot_sheet(index, paths, out, root=root, sampler=sampler, progress=False)
        assert [choice.name for choice in choices] == paths
        with Image.open(out) as picture:
            assert (picture.format, picture.width) == ("PNG", 1600)
            heights.append(picture.height)
    assert heights[1] > 2 * heights[0] > 0


def test_sheet_errors_teach(indexed: tuple[MotionIndex, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index, root = indexed
    out = tmp_path / "sheet.png"

    def fails(paths: list[str], out: Path = out) -> str:
        with pytest.raises(ValueError) as caught:
            plot_sheet(index, paths, out, root=root, sampler=SAMPLER, progress=False)
        assert list(tmp_path.iterdir()) == []
        return str(caught.value)

    assert "Give a name that ends in .png" in fails([EARLY], tmp_path / "sheet.gif")
    assert "a sheet holds 1 to 100 videos, found 0. A page (--html) holds more" in fails([])
    assert "'nowhere.mp4' is not in the motion index" in fails([EARLY, "nowhere.mp4"])
    assert "broken.mp4: has no motion curve" in fails([BROKEN])
    assert "cannot be opened as a video" in fails([BROKEN])
    assert "not one of the 1 videos can be shown. The first: " in fails([GONE])
    monkeypatch.setattr(sheet, "MAX_SHEET_VIDEOS", 2)
    assert "a sheet holds 1 to 2 videos, found 3" in fails([EARLY, LATE, ONE])


def test_frames_of_a_folder(videos: dict[str, Path], tmp_path: Path) -> None:
    """The packets of an MJPEG video are JPEGs: the pictures are those of the video."""
    with av.open(str(videos["mjpeg"])) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    folder = tmp_path / "clip"
    folder.mkdir()
    for number, packet in enumerate(packets, start=1):
        (folder / f"img_{number:05}.jpg").write_bytes(packet)
    picks = np.array([41, 3, 41])
    found = chosen_pictures(FrameFolder(folder, "img_{:05}.jpg", "clip"), picks, num_measured=len(packets))
    expected = chosen_pictures(VideoFile(videos["mjpeg"], "video"), picks)
    assert list(found) == [3, 41]
    for frame, picture in found.items():
        np.testing.assert_array_equal(picture, expected[frame])
    with pytest.raises(ValueError, match=r"clip: the motion index holds 9 frames of it, the folder has 60"):
        chosen_pictures(FrameFolder(folder, "img_{:05}.jpg", "clip"), picks, num_measured=9)
    with pytest.raises(ValueError, match=r": a folder\. If it holds frames, say how they are named: --template"):
        indexed_video(folder, template=None)
