"""The picture of a choice: its numbers against a video whose action is known, and a file for any video."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import encode, moving_disc
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mgs_dali.plot import busy_frames, choose, draw, plot_video
from mgs_dali.sampling import MotionGuided

STILL = np.full((48, 64, 3), 90, np.uint8)


@pytest.fixture(scope="module")
def blinking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 still frames, but for the 18 gaps from frame 20 to frame 38, all of the same motion."""
    frames = [STILL + 20 * (index % 2 if 20 <= index <= 38 else 0) for index in range(60)]
    return encode(tmp_path_factory.mktemp("plot") / "blinking.mkv", (f.astype(np.uint8) for f in frames), "ffv1")


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


def test_no_pyplot(blinking: Path, tmp_path: Path) -> None:
    """In a process of its own: other tests bring pyplot along."""
    program = (
        "import sys; from pathlib import Path; from mgs_dali.plot import plot_video; "
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


@given(st.lists(st.integers(0, 100), min_size=1, max_size=40))
def test_busy_frames_by_their_neighbours(values: list[int]) -> None:
    busy = busy_frames(np.array(values, np.float32))
    assert len(busy) == len(values) + 1
    for frame, is_busy in enumerate(busy):
        gaps = [values[gap] for gap in (frame - 1, frame) if 0 <= gap < len(values)]
        assert is_busy == all(gap * len(values) > sum(values) for gap in gaps)


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
