"""The loader without DALI: what a batch holds, in which order, and what happens when a file is bad."""

from __future__ import annotations

import dataclasses
import itertools
import multiprocessing
import os
import pickle
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import clip_table, decode_all, encode, moving_disc

from mgs_dali.lists.table import Clips
from mgs_dali.load.loader import ClipBatch
from mgs_dali.load.plan import Plan
from mgs_dali.load.workers import WorkersEnded
from mgs_dali.sampling import Dense, MotionGuided, Uniform
from mgs_dali.views.protocols import Views
from train.cpu_loader import CpuLoader

NUM_FRAMES = 12
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Clips:
    """Seven small videos of three classes; neither encoding nor subsampled chroma changes their pixels."""
    root = tmp_path_factory.mktemp("clips")
    for index in range(7):
        frames = moving_disc(NUM_FRAMES, width=64, height=48, action=(index, index + 4), seed=index)
        encode(root / f"{index}.mkv", frames, "ffv1", pixel_format="yuv444p")
    return clip_table(root, [f"{i}.mkv" for i in range(7)], labels=[i % 3 for i in range(7)], num_classes=3)


@pytest.fixture
def load(clips: Clips) -> Callable[..., CpuLoader]:
    def make(table: Clips = clips, **changes: Any) -> CpuLoader:
        usual: dict[str, Any] = {"sampler": MotionGuided(3), "batch_size": 3, "training": True, "size": 16, "seed": 5}
        num_workers = changes.pop("num_workers", 0)
        return CpuLoader(Plan(table, **{**usual, **changes}), num_workers=num_workers)

    return make


def assert_same(left: list[ClipBatch], right: list[ClipBatch]) -> None:
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        for field in dataclasses.fields(ClipBatch):
            torch.testing.assert_close(getattr(a, field.name), getattr(b, field.name), rtol=0, atol=0)


def test_evaluation_is_in_list_order_and_fills_the_last_batch_from_the_start(load: Callable[..., CpuLoader]) -> None:
    loader = load(sampler=Uniform(3), training=False)
    batches = list(loader)
    assert len(loader) == len(batches) == 3
    assert [batch.samples.tolist() for batch in batches] == [[0, 1, 2], [3, 4, 5], [6, 0, 1]]
    assert [batch.valid.tolist() for batch in batches] == [[True] * 3, [True] * 3, [True, False, False]]
    assert [batch.labels.tolist() for batch in batches] == [[0, 1, 2], [0, 1, 2], [0, 0, 1]]
    assert batches[0].labels.dtype == batches[0].frames.dtype == batches[0].samples.dtype == torch.int64
    assert batches[0].clips.shape == (3, 3, 3, 16, 16)
    assert batches[0].clips.dtype == torch.float32
    assert batches[0].frames.tolist() == [[2, 6, 10]] * 3  # the middles of the thirds of 12 frames


def test_clips_are_the_resized_normalised_centre_of_the_frames(load: Callable[..., CpuLoader], clips: Clips) -> None:
    # Published: short side to 256 / 224 * 21 = 24, so 32 x 24, and of it the 21 x 21 at (32 - 21) // 2, (24 - 21) // 2.
    # In pixels of the video that is twice as much.
    batch = next(iter(load(sampler=Uniform(3), training=False, size=21)))
    for row in range(3):
        frames = decode_all(clips.file(row))[[2, 6, 10], 2:44, 10:52]
        # Halving with antialias: the triangle of weights 1 3 3 1 in both directions.
        padded = np.pad(frames.astype(float), [(0, 0), (1, 1), (1, 1), (0, 0)], mode="edge")
        rows = np.sum([w / 8 * padded[:, k : k + 42 : 2] for k, w in enumerate((1, 3, 3, 1))], axis=0)
        expected = np.sum([w / 8 * rows[:, :, k : k + 42 : 2] for k, w in enumerate((1, 3, 3, 1))], axis=0)
        pixels = ((batch.clips[row] * STD + MEAN) * 255).permute(0, 2, 3, 1).numpy()
        inner = slice(1, -1)  # at the border the resize leaves the outer weight out
        assert np.abs(pixels - expected)[:, inner, inner].max() < 3  # rounding, of colours and of the resize


def test_an_epoch_is_a_permutation_and_the_next_is_another(load: Callable[..., CpuLoader]) -> None:
    loader = load()
    orders = [[s for batch in loader for s in batch.samples[batch.valid].tolist()] for _ in range(2)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(7))
    assert orders[0] != orders[1]


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")
@pytest.mark.parametrize("num_workers", [1, 3])
def test_batches_do_not_depend_on_the_number_of_workers(load: Callable[..., CpuLoader], num_workers: int) -> None:
    expected = load()
    with load(num_workers=num_workers) as loader:
        for _ in range(2):
            assert_same(list(loader), list(expected))


def test_ranks_share_the_batches_of_one_process(load: Callable[..., CpuLoader]) -> None:
    whole = list(load(batch_size=4))
    parts = [list(load(batch_size=2, rank=rank, world_size=2)) for rank in range(2)]
    for together, first, second in zip(whole, *parts, strict=True):
        for field in dataclasses.fields(ClipBatch):
            joined = torch.cat([getattr(first, field.name), getattr(second, field.name)])
            assert torch.equal(joined, getattr(together, field.name))


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("num_given", [0, 1, 2, 3])
def test_goes_on_from_a_position(load: Callable[..., CpuLoader], num_given: int, num_workers: int) -> None:
    with load(num_workers=num_workers) as loader, load(num_workers=num_workers) as resumed:
        first_epoch = list(load())
        iterator = iter(loader)
        given = list(itertools.islice(iterator, num_given))
        assert_same(given, first_epoch[:num_given])
        state = loader.state_dict()
        assert state == {"epoch": 0, "iteration": num_given}
        assert_same(list(iterator), first_epoch[num_given:])
        resumed.load_state_dict(state)
        assert_same(list(resumed), first_epoch[num_given:])
        assert_same(list(resumed), list(loader))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_epoch_left_half_way_is_over(load: Callable[..., CpuLoader], num_workers: int) -> None:
    expected = load()
    list(expected)
    with load(num_workers=num_workers) as loader:
        for _batch in loader:
            break
        assert_same(list(loader), list(expected))
        assert loader.state_dict() == {"epoch": 2, "iteration": 0}


@pytest.mark.parametrize("state", [{"epoch": 0}, {"epoch": 0, "iteration": 4}, {"epoch": -1, "iteration": 0}])
def test_refuses_a_position_that_is_none(load: Callable[..., CpuLoader], state: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="loader state"):
        load().load_state_dict(state)


def test_flips_mirror_clips_and_swap_labels(load: Callable[..., CpuLoader]) -> None:
    plain = list(load())
    flipped = list(load(flip_probability=1.0, flip_label_map={0: 1, 1: 0}))
    for a, b in zip(plain, flipped, strict=True):
        assert torch.equal(a.frames, b.frames)
        assert torch.equal(a.clips.flip(-1), b.clips)
        assert [{0: 1, 1: 0, 2: 2}[label] for label in a.labels.tolist()] == b.labels.tolist()


def test_several_labels_a_clip(load: Callable[..., CpuLoader], clips: Clips) -> None:
    labels = np.eye(3, dtype=np.float32)[clips.labels]
    labels[:, 2] = 1
    table = dataclasses.replace(clips, labels=labels)
    batch = next(iter(load(table, training=False)))
    assert batch.labels.dtype == torch.float32
    assert batch.labels.tolist() == [[1, 0, 1], [0, 1, 1], [0, 0, 1]]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_bad_video_is_one_error_with_file_and_line(
    load: Callable[..., CpuLoader], clips: Clips, tmp_path: Path, num_workers: int
) -> None:
    for path in clips.paths:
        (tmp_path / path).symlink_to(clips.root / path)
    (tmp_path / "4.mkv").unlink()
    (tmp_path / "4.mkv").write_bytes(b"no video")
    table = dataclasses.replace(clips, root=tmp_path)
    with load(table, training=False, num_workers=num_workers) as loader:
        iterator = iter(loader)
        next(iterator)
        with pytest.raises(ValueError, match=r"4\.mkv \(.*list\.txt, line 5\): cannot be opened as a video") as error:
            next(iterator)
        assert "Traceback" not in str(error.value)
        assert loader.state_dict() == {"epoch": 0, "iteration": 1}  # the batch was not given


def test_a_killed_worker_is_an_error(load: Callable[..., CpuLoader]) -> None:
    """By the kernel for want of memory, say. It may come up in the loader, or in what is done with a batch."""

    def run() -> None:
        before = set(multiprocessing.active_children())
        with load(num_workers=1) as loader:
            list(loader)
            (worker,) = set(multiprocessing.active_children()) - before
            assert worker.pid is not None
            os.kill(worker.pid, signal.SIGKILL)
            while True:
                list(loader)

    with pytest.raises(WorkersEnded, match=r"^DataLoader worker .* Code -9 is mostly") as error:
        run()
    assert "\n" not in str(error.value)


def test_closing_ends_the_workers(load: Callable[..., CpuLoader]) -> None:
    before = set(multiprocessing.active_children())
    loader = load(num_workers=2)
    list(loader)
    assert len(set(multiprocessing.active_children()) - before) == 2
    loader.close()
    assert not set(multiprocessing.active_children()) - before
    assert len(list(loader)) == 3  # and iterating starts new ones
    loader.close()


@pytest.mark.parametrize(
    ("sampler", "changes"),
    [
        (MotionGuided(4), {"training": False, "views": Views(2, "three")}),
        (Uniform(4), {"training": False, "views": Views(1, "ten")}),
        (Dense(4), {"training": False, "views": Views(3, "full")}),
        (Dense(4), {"training": True}),
        (Uniform(4), {"training": True, "train_crop": "random_resized"}),
    ],
    ids=str,
)
def test_views_and_crops_are_those_of_the_dali_loader(
    dali_videos: Clips, sampler: MotionGuided | Uniform | Dense, changes: dict[str, Any]
) -> None:
    pytest.importorskip("nvidia.dali")
    from mgs_dali.load.loader import ClipLoader

    usual: dict[str, Any] = {"sampler": sampler, "batch_size": 4, "size": 32, "seed": 3, **changes}
    with (
        CpuLoader(Plan(dali_videos, **usual), num_workers=1) as cpu,
        ClipLoader(dali_videos, **usual, route="host", device="cpu", num_workers=1) as dali,
    ):
        for a, b in zip(cpu, dali, strict=True):
            assert a.clips.shape == b.clips.shape
            for name in ("samples", "frames", "labels", "valid"):
                assert torch.equal(getattr(a, name), getattr(b, name))
            difference = (a.clips - b.clips).abs() * STD * 255
            assert difference.mean() < 1.5
            assert difference.max() < 16


def test_augmentation_by_dali_is_refused_in_training(load: Callable[..., CpuLoader]) -> None:
    with pytest.raises(ValueError, match=r"rand_augment \(\[2, 27\]\) is done by DALI, which this loader does without"):
        load(rand_augment=(2, 27))
    assert len(load(rand_augment=(2, 27), training=False)) == 3  # evaluation does not augment


def test_refuses_bad_arguments(load: Callable[..., CpuLoader]) -> None:
    with pytest.raises(ValueError, match=r"num_workers \(-1\) must be at least 0"):
        load(num_workers=-1)
    with pytest.raises(ValueError, match=r"batch_size \(0\) must be a whole number of at least 1"):
        load(batch_size=0)


def test_says_what_it_is(load: Callable[..., CpuLoader]) -> None:
    loader = load(num_workers=2)
    assert loader.route == "cpu"
    assert loader.route_reason == "PyAV and torchvision in 2 worker processes"
    assert pickle.loads(pickle.dumps(loader.plan)).batch_size == 3  # workers may be spawned


@pytest.mark.parametrize("sampler", [MotionGuided(4), Uniform(4)])
@pytest.mark.parametrize("training", [True, False])
def test_gives_what_the_dali_loader_gives(dali_videos: Clips, sampler: MotionGuided | Uniform, training: bool) -> None:
    pytest.importorskip("nvidia.dali")
    from mgs_dali.load.loader import ClipLoader

    usual: dict[str, Any] = {
        "sampler": sampler, "batch_size": 4, "training": training, "size": 32, "seed": 3,
        "flip_probability": 0.5, "flip_label_map": {0: 1, 1: 0},
    }  # fmt: skip
    with (
        CpuLoader(Plan(dali_videos, **usual), num_workers=1) as cpu,
        ClipLoader(dali_videos, **usual, route="host", device="cpu", num_workers=1) as dali,
    ):
        for a, b in zip(cpu, dali, strict=True):
            for name in ("samples", "frames", "labels", "valid"):
                assert torch.equal(getattr(a, name), getattr(b, name))
            difference = (a.clips - b.clips).abs() * STD * 255
            assert difference.mean() < 1.5  # of 255: rounding to uint8 after the resize
            assert difference.max() < 16
