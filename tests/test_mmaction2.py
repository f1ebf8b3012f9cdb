"""The transform for mmaction2: its dict interface, and inside mmaction2's own datasets where that is installed."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from conftest import clip_table, encode

from mgs_dali.index.released_json import import_json
from mgs_dali.mmaction2 import MotionGuidedSampleFrames

ROOT = Path(__file__).parents[1]
NUM_FRAMES = 99
TEMPLATE = "img_{:05}.jpg"

# 18 equal steps, from frame 40 on: step i ends at (i + 1) / 18 of the motion.
MOTION = [0.0] * 40 + [1.0] * 18 + [0.0] * 40
CENTRES = [42, 48, 54]  # of 3 shares: 3, 9 and 15 of 18 steps are passed in these frames
STARTS = [0, 45, 51]  # 0, 6 and 12


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of a video ``class/a.avi``, a frame folder ``class/b``, and a still ``c.avi``."""
    folder = tmp_path_factory.mktemp("index")
    (folder / "motion.json").write_text(json.dumps({"a": MOTION, "b": MOTION, "c": [0.0] * 29}))
    clips = clip_table(folder / "not there", ["class/a.avi", "class/b", "c.avi"])
    import_json(folder / "motion.json", clips, folder / "motion", json_format="differences", progress=False)
    return folder / "motion"


def video(path: str = "class/a.avi", num_frames: int = NUM_FRAMES) -> dict[str, Any]:
    """What mmaction2's VideoDataset and DecordInit hand on."""
    return {"filename": f"data/videos/{path}", "label": 0, "start_index": 0, "total_frames": num_frames, "avg_fps": 12}


def folder(path: str = "class/b", num_frames: int = NUM_FRAMES, **others: int) -> dict[str, Any]:
    """What mmaction2's RawframeDataset hands on."""
    given = {"frame_dir": f"data/videos/{path}", "label": 0, "start_index": 1, "total_frames": num_frames}
    return {**given, "filename_tmpl": TEMPLATE, "modality": "RGB", **others}


def sample(index: Path, results: dict[str, Any], **arguments: Any) -> list[int]:
    transform = MotionGuidedSampleFrames(index, "data/videos/", **{"num_clips": 3, **arguments})
    return transform(results)["frame_inds"].tolist()


def test_centres_in_testing(index: Path) -> None:
    assert sample(index, video(), test_mode=True) == CENTRES
    assert sample(index, video(), test_mode=True, num_clips=1) == [48]
    assert sample(index, video(), test_mode=True, mu=0.0) == [15, 48, 81]  # 16.3, 49, 81.7 of 98 steps


def test_twice_sample_adds_the_starts(index: Path) -> None:
    assert sample(index, video(), test_mode=True, twice_sample=True) == CENTRES + STARTS


def test_file_numbers_of_frame_folders_count_from_1(index: Path) -> None:
    assert sample(index, folder(), test_mode=True) == [43, 49, 55]


def test_a_clip_of_a_frame_folder(index: Path) -> None:
    """Six of the eighteen steps are in the frames 46 to 52; RawFrameDecode adds the offset."""
    assert sample(index, folder(num_frames=7, offset=46), test_mode=True) == [1, 3, 5]
    assert sample(index, folder(num_frames=30, offset=0), test_mode=True) == [1 + 5, 1 + 15, 1 + 25]  # still: uniform


def test_a_video_that_never_moves_is_sampled_evenly(index: Path) -> None:
    assert sample(index, video("c.avi", 30), test_mode=True) == [5, 15, 25]


def test_keys_of_sample_frames(index: Path) -> None:
    given = video()
    results = MotionGuidedSampleFrames(index, "data/videos", num_clips=3, test_mode=True, twice_sample=True)(given)
    assert results is given
    assert results["frame_inds"].dtype == np.int32
    assert (results["clip_len"], results["frame_interval"], results["num_clips"]) == (1, 1, 3)


def test_training_draws_from_the_global_generator(index: Path) -> None:
    transform = MotionGuidedSampleFrames(index, "data/videos", num_clips=3)
    np.random.seed(3)
    first = np.stack([transform(video())["frame_inds"] for _ in range(200)])
    second = np.stack([transform(video())["frame_inds"] for _ in range(200)])
    np.random.seed(3)
    again = np.stack([transform(video())["frame_inds"] for _ in range(200)])
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, second)
    # every step of every third of the motion is drawn, and no other. (Nearest: a half step over the ends of a third.)
    for share, (low, high) in enumerate([(0, 45), (45, 51), (51, 57)]):
        drawn = set(first[:, share].tolist())
        assert min(drawn) >= low
        assert max(drawn) <= high
        assert drawn >= set(range(max(low, 40) + 1, high))


def test_testing_draws_nothing(index: Path) -> None:
    np.random.seed(3)
    before = np.random.get_state()[1].tolist()  # type: ignore[index]
    sample(index, video(), test_mode=True, twice_sample=True)
    assert np.random.get_state()[1].tolist() == before  # type: ignore[index]


def test_pickles_for_spawned_workers(index: Path) -> None:
    transform = MotionGuidedSampleFrames(index, "data/videos", num_clips=3, test_mode=True)
    assert pickle.loads(pickle.dumps(transform))(video())["frame_inds"].tolist() == CENTRES
    assert f"motion_index={str(index)!r}, root='data/videos', num_clips=3, test_mode=True" in repr(transform)


@pytest.mark.parametrize(
    ("results", "arguments", "parts"),
    [
        (video(), {"clip_len": 8}, ["clip_len and frame_interval must be 1, found 8 and 1", "num_clips"]),
        (video(), {"frame_interval": 2}, ["found 1 and 2"]),
        (video(), {"twice_sample": True}, ["twice_sample=True is for testing", "test_mode=True"]),
        (video(), {"num_clips": 0}, ["num_segments must be a whole number of at least 1, found 0"]),
        (video(), {"pick": "best"}, ["pick must be one of"]),
        (video("class/d.avi"), {}, ["'class/d.avi' is not in the motion index", "such as 'class/a.avi'"]),
        (video("../a.avi"), {}, ["'../a.avi' is not in the motion index"]),
        (video(num_frames=98), {}, ["class/a.avi: mmaction2 found 98 frames", "holds 99", "run mgs-dali index again"]),
        (video(num_frames=100), {}, ["found 100 frames"]),
        (folder(num_frames=60, offset=40), {}, ["found 60 frames from offset 40 on", "holds 99"]),
    ],
)
def test_mistakes(index: Path, results: dict[str, Any], arguments: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(ValueError) as caught:
        sample(index, results, **arguments)
    for part in parts:
        assert part in str(caught.value)


def test_mistakes_with_folders(index: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"data/videos/class/a.avi is not inside root='/data/videos'.*data_prefix"):
        MotionGuidedSampleFrames(index, "/data/videos")(video())
    with pytest.raises(ValueError, match="there is no motion index in this folder"):
        MotionGuidedSampleFrames(tmp_path, "data/videos")


def test_needs_nothing_of_openmmlab() -> None:
    program = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("mmaction", "mmengine", "mmcv", "torch"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
import mgs_dali.mmaction2
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=120, check=True)


def test_a_broken_installation_is_not_passed_over() -> None:
    program = """
import sys, types
sys.modules["mmaction"] = types.ModuleType("mmaction")
sys.modules["mmaction"].__path__ = []
import mgs_dali.mmaction2
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, timeout=120, check=False, capture_output=True, text=True
    )
    assert "No module named 'mmaction.registry'" in done.stderr


def test_registers_itself_under_its_name() -> None:
    """With a stand-in for the registry, so that it is tested where mmaction2 is not installed too."""
    program = """
import sys, types
registered = []
class Registry:
    def register_module(self, module):
        registered.append(module.__name__)
sys.modules["mmaction"] = types.ModuleType("mmaction")
sys.modules["mmaction.registry"] = types.ModuleType("mmaction.registry")
sys.modules["mmaction.registry"].TRANSFORMS = Registry()
import mgs_dali.mmaction2
print(registered)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=120, check=True, capture_output=True)
    assert done.stdout.decode().strip() == "['MotionGuidedSampleFrames']"


# --- the real mmaction2 ----------------------------------------------------------------------------------------------


def numbered(frame: int) -> np.ndarray:
    """A picture that tells which frame it is, through any codec: the bits of its number as black and white stripes."""
    bits = [frame >> bit & 1 for bit in range(8)]
    return np.repeat(np.array([[bits] * 32], np.uint8).transpose(1, 2, 0) * 255, 8, axis=1).repeat(3, axis=2)


def numbers(results: dict[str, Any]) -> list[int]:
    """What `numbered` wrote into the pictures that mmaction2 decoded."""
    stripes = [np.asarray(picture).reshape(32, 8, 8, 3).mean(axis=(0, 2, 3)) > 127 for picture in results["imgs"]]
    return [sum(1 << bit for bit in range(8) if white[bit]) for white in stripes]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``videos/class/a.avi`` and the frame folder ``videos/class/b``, with their lists."""
    pytest.importorskip("mmaction", reason="mmaction2 is not installed")
    folder = tmp_path_factory.mktemp("data")
    (folder / "videos/class/b").mkdir(parents=True)
    pictures = [numbered(frame) for frame in range(NUM_FRAMES)]
    encode(folder / "videos/class/a.avi", pictures, "mjpeg", pixel_format="yuvj420p", options={"qmin": "1"})
    for number, picture in enumerate(pictures, start=1):
        with av.open(str(folder / "videos/class/b" / TEMPLATE.format(number)), "w", format="image2") as file:
            stream = file.add_stream("mjpeg")
            stream.height, stream.width, stream.pix_fmt = 32, 64, "yuvj420p"
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            file.mux(stream.encode())
    (folder / "videos.txt").write_text("class/a.avi 4\n")
    (folder / "frames.txt").write_text(f"class/b {NUM_FRAMES} 4\n")
    (folder / "parts.txt").write_text("class/b 46 7 4\n")
    return folder


def dataset(data: Path, index: Path, decode: list[dict[str, Any]], **arguments: Any) -> Any:
    """One of mmaction2's datasets, built from a config, whose pipeline has the transform in place of SampleFrames."""
    from mmaction.registry import DATASETS
    from mmengine.registry import init_default_scope

    init_default_scope("mmaction")  # as mmengine's Runner does for mmaction2's configs
    *init, decode_frames = decode
    sampling = {
        "type": "MotionGuidedSampleFrames",
        "motion_index": str(index),
        "root": str(data / "videos"),
        "num_clips": 3,
        "test_mode": True,
    }
    return DATASETS.build({"pipeline": [*init, sampling, decode_frames], "test_mode": True, **arguments})


@pytest.mark.parametrize("decoder", ["Decord", "PyAV", "OpenCV"])
def test_inside_mmaction2_with_videos(data: Path, index: Path, decoder: str) -> None:
    pytest.importorskip({"Decord": "decord", "PyAV": "av", "OpenCV": "cv2"}[decoder])
    decode = [{"type": f"{decoder}Init"}, {"type": f"{decoder}Decode"}]
    videos = dataset(
        data,
        index,
        decode,
        type="VideoDataset",
        ann_file=str(data / "videos.txt"),
        data_prefix={"video": str(data / "videos")},
    )
    results = videos[0]
    assert results["frame_inds"].tolist() == numbers(results) == CENTRES
    assert results["label"] == 4


def test_inside_mmaction2_with_frame_folders(data: Path, index: Path) -> None:
    common = {"type": "RawframeDataset", "data_prefix": {"img": str(data / "videos")}}
    whole = dataset(data, index, [{"type": "RawFrameDecode"}], ann_file=str(data / "frames.txt"), **common)[0]
    assert numbers(whole) == CENTRES
    parts = dataset(
        data, index, [{"type": "RawFrameDecode"}], ann_file=str(data / "parts.txt"), with_offset=True, **common
    )[0]
    assert numbers(parts) == [46, 48, 50]


def test_sets_what_sample_frames_sets(index: Path) -> None:
    pytest.importorskip("mmaction", reason="mmaction2 is not installed")
    from mmaction.registry import TRANSFORMS

    for arguments in ({"test_mode": True, "twice_sample": True}, {"test_mode": True}, {}):
        common = {"clip_len": 1, "frame_interval": 1, "num_clips": 3, **arguments}
        theirs = TRANSFORMS.build({"type": "SampleFrames", **common})(folder())
        ours = TRANSFORMS.build(
            {"type": "MotionGuidedSampleFrames", "motion_index": str(index), "root": "data/videos", **common}
        )(folder())
        assert ours.keys() == theirs.keys()
        assert {**ours, "frame_inds": 0} == {**theirs, "frame_inds": 0}
        assert (ours["frame_inds"].dtype, ours["frame_inds"].shape) == (
            theirs["frame_inds"].dtype,
            theirs["frame_inds"].shape,
        )


def test_mmengine_seeds_the_draws_of_each_worker(index: Path) -> None:
    pytest.importorskip("mmengine", reason="mmengine is not installed")
    from mmengine.dataset import worker_init_fn

    transform = MotionGuidedSampleFrames(index, "data/videos", num_clips=3)

    def drawn(worker: int) -> list[list[int]]:
        worker_init_fn(worker, num_workers=2, rank=0, seed=5)
        return [transform(video())["frame_inds"].tolist() for _ in range(20)]

    assert drawn(0) == drawn(0) != drawn(1)


def test_a_config_imports_it(tmp_path: Path, index: Path) -> None:
    pytest.importorskip("mmaction", reason="mmaction2 is not installed")
    (tmp_path / "config.py").write_text(
        'custom_imports = dict(imports=["mgs_dali.mmaction2"])\n'
        f'pipeline = [dict(type="MotionGuidedSampleFrames", motion_index={str(index)!r}, root="x", num_clips=8)]\n'
    )
    program = """
import sys
from mmengine.config import Config
from mmaction.registry import TRANSFORMS
print(TRANSFORMS.build(Config.fromfile(sys.argv[1]).pipeline[0]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "config.py")],
        cwd=ROOT,
        timeout=120,
        check=False,
        capture_output=True,
        text=True,
    )
    assert "MotionGuidedSampleFrames(motion_index=" in done.stdout, done.stderr
