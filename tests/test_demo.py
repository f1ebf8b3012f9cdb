"""The synthetic data set: what is in the files, what the class decides, making it twice."""

import csv
import json
import math
from collections import Counter
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgs_dali import demo
from mgs_dali.demo import DemoFiles, make_demo, plan_video, render

NUM_TRAIN, NUM_VAL, SEED = 6, 3, 7


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> DemoFiles:
    return make_demo(tmp_path_factory.mktemp("demo"), seed=SEED, num_train=NUM_TRAIN, num_val=NUM_VAL, progress=False)


def _rows(files: DemoFiles) -> list[dict[str, str]]:
    with (files.root.parent / "actions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def _luma(file: Path) -> npt.NDArray[np.float64]:
    with av.open(str(file)) as container:
        frames = [frame.to_ndarray()[:96] for frame in container.decode(video=0)]  # planar YUV: luma comes first
    return np.stack(frames).astype(np.float64)


def _rendered(split: demo.Split, index: int, label: int, *, seed: int = SEED) -> npt.NDArray[np.uint8]:
    video = plan_video(seed, split, index)
    return render(video, label, demo._scene(seed, video.scene), seed=seed)


def _snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    return {str(file.relative_to(folder)): (file.read_bytes(), file.stat().st_mtime_ns) for file in files}


def test_lists_name_every_video_and_a_class(made: DemoFiles) -> None:
    for file, split, num_videos in ((made.train_list, "train", NUM_TRAIN), (made.val_list, "val", NUM_VAL)):
        lines = [line.split(" ") for line in file.read_text().splitlines()]
        assert [path for path, _ in lines] == [f"{split}/{i:04}.webm" for i in range(num_videos)]
        assert [int(label) for _, label in lines] == [i % 6 for i in range(num_videos)]
        assert all((made.root / path).is_file() for path, _ in lines)
    assert made.class_names.read_text().splitlines() == [
        "red, green, blue",
        "red, blue, green",
        "green, red, blue",
        "green, blue, red",
        "blue, red, green",
        "blue, green, red",
    ]


def test_classes_are_of_equal_size_by_default() -> None:
    for split, num_videos in (("train", 400), ("val", 96)):
        labels = Counter(plan_video(0, split, index).label for index in range(num_videos))  # type: ignore[arg-type]
        assert sorted(labels) == list(range(6))
        assert max(labels.values()) - min(labels.values()) <= 1


def test_videos_are_what_the_docstring_says(made: DemoFiles) -> None:
    for row in _rows(made):
        with av.open(str(made.root / row["path"])) as container:
            stream = container.streams.video[0]
            assert stream.codec_context.name in ("vp9", "libvpx-vp9")
            assert (stream.width, stream.height, stream.pix_fmt) == (128, 96, "yuv420p")
            assert stream.average_rate == 12
            num_packets = sum(packet.size > 0 for packet in container.demux(stream))
        num_frames = len(_luma(made.root / row["path"]))
        assert num_frames == num_packets == int(row["num_frames"])
        assert 80 <= num_frames <= 100


def test_the_action_is_where_the_table_says(made: DemoFiles) -> None:
    quiet = [row for row in _rows(made) if row["camera_shakes"] == "False"]
    assert len(quiet) >= 6
    for row in quiet:
        luma = _luma(made.root / row["path"])
        first, length = int(row["first_action_frame"]), int(row["num_action_frames"])
        changed = (np.abs(luma - luma[0]) > 20).mean(axis=(1, 2)) > 0.03
        assert np.flatnonzero(changed).tolist() == list(range(first, first + length))
        assert 8 <= length <= 14
        # Most of the motion is the action's: this is what the frames are chosen by.
        motion = np.abs(np.diff(luma, axis=0)).mean(axis=(1, 2))
        assert motion[first - 1 : first + length].sum() > 0.8 * motion.sum()


@settings(max_examples=10, deadline=None)
@given(index=st.integers(0, 2**31), labels=st.permutations(range(6)))
def test_the_class_decides_the_colours_of_the_action_and_nothing_else(index: int, labels: list[int]) -> None:
    video = plan_video(SEED, "val", index)
    one, other = (_rendered("val", index, label) for label in labels[:2])
    differs = (one != other).any(axis=(1, 2, 3))
    action = slice(video.first_action_frame, video.first_action_frame + video.num_action_frames)
    outside = np.delete(differs, np.r_[action])
    assert not outside.any()
    # Two orders of three things differ in two places or in all three.
    assert differs[action].mean() >= 2 / 3 - 1e-9


@settings(max_examples=10, deadline=None)
@given(index=st.integers(0, 1000), label=st.integers(0, 5))
def test_every_class_shows_the_same_colours_for_the_same_time(index: int, label: int) -> None:
    video = plan_video(SEED, "train", index)
    frames = _rendered("train", index, label)
    shown = []
    for i in range(video.num_action_frames):
        angle = video.phase + video.speed * i
        y = round(video.centre[0] + video.orbit_radius * math.sin(angle))
        x = round(video.centre[1] + video.orbit_radius * math.cos(angle))
        colour = frames[video.first_action_frame + i, y - 5 : y + 6, x - 5 : x + 6].mean(axis=(0, 1))
        shown.append(("red", "green", "blue")[int(colour.argmax())])
    third = video.num_action_frames // 3
    expected = [["red", "green", "blue"], ["red", "blue", "green"], ["green", "red", "blue"]]
    expected += [["green", "blue", "red"], ["blue", "red", "green"], ["blue", "green", "red"]]
    assert shown == [colour for colour in expected[label] for _ in range(third)]


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**63 - 1), split=st.sampled_from(["train", "val"]), index=st.integers(0, 2**31))
def test_plans_keep_inside_the_video_and_the_picture(seed: int, split: demo.Split, index: int) -> None:
    video = plan_video(seed, split, index)
    assert video == plan_video(seed, split, index)
    assert 80 <= video.num_frames <= 100
    assert video.first_action_frame >= 2
    assert video.first_action_frame + video.num_action_frames <= video.num_frames - 2
    reach = video.orbit_radius + video.disc_radius + 0.5
    assert reach <= video.centre[0] <= 96 - reach
    assert reach <= video.centre[1] <= 128 - reach


def test_plans_differ_between_splits_seeds_and_videos() -> None:
    plans = [
        plan_video(seed, split, index).phase for seed in (0, 1) for split in ("train", "val") for index in range(20)
    ]
    assert len(set(plans)) == len(plans)
    shaking = sum(plan_video(0, "train", index).camera_shakes for index in range(1000))
    assert 20 <= shaking <= 60


def test_scenes_are_shared_and_noise_is_not() -> None:
    plans = [plan_video(0, "train", index) for index in range(100)]
    assert {video.scene for video in plans} == set(range(5))
    frames = _rendered("train", 0, 0).astype(np.float64)
    still = frames[: plan_video(SEED, "train", 0).first_action_frame]
    noise = still[1] - still[0]
    # The difference of two frames of noise of standard deviation 1, plus rounding twice (1/12 each).
    assert noise.std() == pytest.approx(math.sqrt(2 * (1 + 1 / 12)), rel=0.05)


def test_same_seed_same_files(made: DemoFiles, tmp_path: Path) -> None:
    again = make_demo(tmp_path / "again", seed=SEED, num_train=NUM_TRAIN, num_val=NUM_VAL, progress=False)
    first, second = _snapshot(made.root.parent), _snapshot(again.root.parent)
    assert {name: content for name, (content, _) in first.items()} == {
        name: content for name, (content, _) in second.items()
    }


def test_complete_demo_is_left_alone(made: DemoFiles, capsys: pytest.CaptureFixture[str]) -> None:
    before = _snapshot(made.root.parent)
    assert make_demo(made.root.parent, seed=SEED, num_train=NUM_TRAIN, num_val=NUM_VAL) == made
    assert "already holds this demo data set: nothing to do" in capsys.readouterr().out
    assert _snapshot(made.root.parent) == before


def test_interrupted_making_goes_on_where_it_stopped(
    made: DemoFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, calls = demo._encode, []

    def failing_encode(file: Path, frames: npt.NDArray[np.uint8]) -> None:
        calls.append(file.name)
        if len(calls) == 4:
            file.with_name(f"{file.name}.unfinished").write_bytes(b"half a video")
            raise KeyboardInterrupt
        encode(file, frames)

    monkeypatch.setattr(demo, "_encode", failing_encode)
    with pytest.raises(KeyboardInterrupt):
        make_demo(tmp_path, seed=SEED, num_train=NUM_TRAIN, num_val=NUM_VAL, progress=False)
    assert json.loads((tmp_path / "demo.json").read_text())["complete"] is False
    assert not (tmp_path / "train_list.txt").exists()
    left = _snapshot(tmp_path / "videos")
    monkeypatch.setattr(demo, "_encode", encode)
    make_demo(tmp_path, seed=SEED, num_train=NUM_TRAIN, num_val=NUM_VAL, progress=False)
    finished, whole = _snapshot(tmp_path), _snapshot(made.root.parent)
    assert {name: content for name, (content, _) in finished.items()} == {
        name: content for name, (content, _) in whole.items()
    }
    kept = [name for name in left if name.endswith(".webm")]
    assert kept
    assert all(finished[f"videos/{name}"][1] == left[name][1] for name in kept)


def test_deleted_video_is_made_again(tmp_path: Path) -> None:
    files = make_demo(tmp_path, num_train=2, num_val=1, progress=False)
    before = _snapshot(tmp_path)
    (files.root / "train/0001.webm").unlink()
    make_demo(tmp_path, num_train=2, num_val=1, progress=False)
    after = _snapshot(tmp_path)
    assert {name: content for name, (content, _) in after.items()} == {
        name: content for name, (content, _) in before.items()
    }
    assert after["videos/train/0000.webm"] == before["videos/train/0000.webm"]


@pytest.mark.parametrize("content", [None, "", "[1]", '{"name": "something"}'])
def test_other_folders_are_refused(tmp_path: Path, content: str | None) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    if content is not None:
        (tmp_path / "demo.json").write_text(content)
    before = _snapshot(tmp_path)
    with pytest.raises(ValueError, match=r"holds something that is no demo data set\. Name a new or an empty folder"):
        make_demo(tmp_path, num_train=1, num_val=1, progress=False)
    assert _snapshot(tmp_path) == before


def test_making_that_stopped_at_its_first_file_goes_on(tmp_path: Path) -> None:
    (tmp_path / "demo.json.unfinished").write_text("{")
    make_demo(tmp_path, num_train=1, num_val=1, progress=False)
    assert not list(tmp_path.rglob("*.unfinished"))


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="no demo data set"):
        make_demo(tmp_path / "file", num_train=1, num_val=1, progress=False)


def test_another_demo_is_refused(made: DemoFiles) -> None:
    with pytest.raises(
        ValueError, match=r"found version=1, seed=7, num_train=6, .* asked for version=1, seed=8, num_train=6"
    ):
        make_demo(made.root.parent, seed=8, num_train=NUM_TRAIN, num_val=NUM_VAL, progress=False)


@pytest.mark.parametrize("arguments", [{"seed": -1}, {"num_train": 0}, {"num_val": 0}])
def test_numbers_out_of_range_are_refused(tmp_path: Path, arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="Allowed: a seed of 0 or more, one video or more in each split"):
        make_demo(tmp_path / "out", progress=False, **arguments)
    assert not (tmp_path / "out").exists()
