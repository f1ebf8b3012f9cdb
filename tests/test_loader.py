"""The loader: what it gives, that this depends on nothing else, and that nothing is left behind."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from conftest import MJPEG, clip_table, decode_all, encode, moving_disc, picks_by_hand, take_apart

from mgs_dali.index.indexing import index_videos
from mgs_dali.index.measuring import measure_video
from mgs_dali.index.recorder import MotionRecorder
from mgs_dali.index.store import MotionIndex
from mgs_dali.lists.table import Clips
from mgs_dali.load.clip import load_clip
from mgs_dali.load.plan import Plan
from mgs_dali.sampling import (
    Dense,
    MotionGuided,
    Uniform,
    dense_frames,
    motion_guided_frames,
    segment_targets,
    uniform_frames,
)
from mgs_dali.video.file import VideoFile
from mgs_dali.views.crops import centre_crop
from mgs_dali.views.protocols import PROTOCOLS, Views
from mgs_dali.views.rand_augment import OPERATIONS

pytest.importorskip("torch")

import torch
from nvidia.dali import Pipeline

from mgs_dali.load import loader as loader_module
from mgs_dali.load.loader import ClipBatch, ClipLoader, Position, default_num_workers
from mgs_dali.load.routes import InGraph, Setting
from train.cpu_loader import CpuLoader

MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]


def make(clips: Clips, **changes: Any) -> ClipLoader:
    options: dict[str, Any] = {
        "sampler": MotionGuided(4),
        "batch_size": 3,
        "training": True,
        "size": 48,
        "device": "cpu",
        "num_workers": 1,
        **changes,
    }
    return ClipLoader(clips, **options)


def same(one: ClipBatch, other: ClipBatch) -> bool:
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in vars(one))


def assert_same(some: Sequence[ClipBatch], others: Sequence[ClipBatch]) -> None:
    assert len(some) == len(others)
    for place, (one, other) in enumerate(zip(some, others, strict=True)):
        for name in vars(one):
            assert torch.equal(getattr(one, name), getattr(other, name)), f"{name} of batch {place}"


def to_levels(clips: torch.Tensor) -> torch.Tensor:
    return (clips * STD + MEAN) * 255


@pytest.fixture(scope="module")
def three_epochs(dali_videos: Clips) -> list[list[ClipBatch]]:
    """Three epochs of the loader that ``make`` makes: 4 batches of 3 each, of 10 clips."""
    with make(dali_videos, flip_probability=0.5) as loader:
        return [list(loader) for _ in range(3)]


# --- what a batch is ------------------------------------------------------------------------------------------------


def test_batches(dali_videos: Clips, three_epochs: list[list[ClipBatch]]) -> None:
    loader = make(dali_videos)
    assert len(loader) == 4
    assert (loader.route, loader.device) == ("host", torch.device("cpu"))
    assert "PyAV" in loader.route_reason
    for epoch in three_epochs:
        assert len(epoch) == 4
        for batch in epoch:
            assert (batch.clips.shape, batch.clips.dtype) == ((3, 4, 3, 48, 48), torch.float32)
            assert (batch.frames.shape, batch.frames.dtype) == ((3, 4), torch.int64)
            assert (batch.labels.shape, batch.labels.dtype) == ((3,), torch.int64)
            assert (batch.samples.shape, batch.samples.dtype) == ((3,), torch.int64)
            assert (batch.valid.shape, batch.valid.dtype) == ((3,), torch.bool)
            assert batch.labels.tolist() == [sample % 5 for sample in batch.samples.tolist()]
            assert 60 < to_levels(batch.clips).mean() < 180
            assert torch.isfinite(batch.clips).all()
        samples = torch.cat([batch.samples for batch in epoch])
        valid = torch.cat([batch.valid for batch in epoch])
        assert sorted(samples[valid].tolist()) == list(range(10))
        assert valid.tolist() == [True] * 10 + [False] * 2
        assert samples[10:].tolist() == samples[:2].tolist()


def test_epochs_differ(three_epochs: list[list[ClipBatch]]) -> None:
    orders = {tuple(sample for batch in epoch for sample in batch.samples.tolist()) for epoch in three_epochs}
    assert len(orders) == 3
    drawn = {
        tuple(batch.frames[row].tolist())
        for epoch in three_epochs
        for batch in epoch
        for row in range(3)
        if batch.samples[row] == 4 and batch.valid[row]
    }
    assert len(drawn) == 3


@pytest.mark.parametrize("train_crop", ["multi_scale", "random_resized"])
def test_clips_are_crops_of_the_frames_that_the_batch_names(dali_videos: Clips, train_crop: str) -> None:
    with make(dali_videos, flip_probability=0.5, train_crop=train_crop) as loader:
        for iteration, batch in enumerate(loader):
            for row, sample in enumerate(batch.samples.tolist()):
                draws = loader.plan.draws(0, sample)
                pixels, frames, *_ = load_clip(VideoFile(dali_videos.file(sample), "v"), draws, sampler=MotionGuided(4))
                assert batch.frames[row].tolist() == frames.tolist()
                cut = torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2).float()
                resized = torch.nn.functional.interpolate(cut, (48, 48), mode="bilinear", antialias=True)
                expected = resized.flip(-1) if draws.flip else resized
                apart = (to_levels(batch.clips[row]) - expected).abs()
                assert apart.mean() < 1, (iteration, row)


def test_repr_tells_what_is_inside(three_epochs: list[list[ClipBatch]]) -> None:
    batch = three_epochs[0][3]
    assert len(batch) == 3
    assert repr(batch) == (
        f"ClipBatch(clips=3x4x3x48x48 torch.float32 on cpu, samples={batch.samples.tolist()}, valid=1 of 3)"
    )


@pytest.mark.parametrize("route", ["host", "gpu"])
def test_kept_batches_are_not_written_over(dali_videos: Clips, route: str) -> None:
    """Tensors share DALI's memory; it must not be used again while a tensor is there."""
    kept: list[tuple[ClipBatch, torch.Tensor, torch.Tensor]] = []
    with make(dali_videos, route=route, size=32) as loader:
        for _ in range(3):
            kept += [(batch, batch.clips.clone(), batch.frames.clone()) for batch in loader]
    for batch, clips, frames in kept:
        assert torch.equal(batch.clips, clips)
        assert torch.equal(batch.frames, frames)


def test_batches_can_be_written_to(dali_videos: Clips) -> None:
    with make(dali_videos) as loader, make(dali_videos) as other:
        for batch, untouched in zip(loader, other, strict=True):
            assert same(batch, untouched)
            batch.clips.zero_()
            batch.labels += 1
            batch.samples += 1
            batch.valid.logical_not_()


def test_multi_label_lists(dali_videos: Clips) -> None:
    hot = np.eye(5, dtype=np.float32)[np.arange(10) % 5]
    hot[:, 4] = 1
    clips = clip_table(dali_videos.root, dali_videos.paths, labels=hot, num_classes=5)
    with make(clips, flip_probability=0.5, flip_label_map={0: 1, 1: 0}, sampler=Uniform(1), size=16) as loader:
        for batch in loader:
            assert (batch.labels.shape, batch.labels.dtype) == ((3, 5), torch.float32)
            for row, sample in enumerate(batch.samples.tolist()):
                expected = {sample % 5, 4}
                if loader.plan.draws(0, sample).flip:
                    expected = {{0: 1, 1: 0}.get(label, label) for label in expected}
                assert set(batch.labels[row].nonzero().flatten().tolist()) == expected


# --- what it does not depend on -------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", ["host", "gpu"])
def test_workers_change_nothing(dali_videos: Clips, route: str) -> None:
    with make(dali_videos, route=route) as one, make(dali_videos, route=route, num_workers=3) as three:
        for _ in range(2):
            assert_same(list(one), list(three))


@pytest.mark.parametrize("training", [True, False])
def test_ranks_change_nothing(dali_videos: Clips, training: bool) -> None:
    """Two ranks with batches of 2 give the halves of one rank's batches of 4."""
    options: dict[str, Any] = {"training": training, "flip_probability": 0.5}
    with (
        make(dali_videos, batch_size=4, **options) as whole,
        make(dali_videos, batch_size=2, rank=0, world_size=2, **options) as first,
        make(dali_videos, batch_size=2, rank=1, world_size=2, **options) as second,
    ):
        assert len(whole) == len(first) == len(second) == 3
        for _ in range(2):
            for batch, *halves in zip(whole, first, second, strict=True):
                for name in vars(batch):
                    assert torch.equal(getattr(batch, name), torch.cat([getattr(half, name) for half in halves])), name


@pytest.mark.parametrize("sampler", [MotionGuided(4), MotionGuided(4, pick="inverse"), Uniform(4), Dense(4)], ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_routes_agree(dali_videos: Clips, sampler: MotionGuided | Uniform | Dense, training: bool) -> None:
    options: dict[str, Any] = {
        "sampler": sampler,
        "training": training,
        "flip_probability": 0.5,
        "flip_label_map": {0: 1, 1: 0},
    }
    equal = []
    with make(dali_videos, route="host", **options) as host, make(dali_videos, route="gpu", **options) as gpu:
        assert gpu.route == "gpu"
        for one, other in zip(host, gpu, strict=True):
            for name in ("samples", "labels", "valid"):  # labels tell flips
                assert torch.equal(getattr(one, name), getattr(other, name)), name
            assert (one.frames - other.frames).abs().max() <= 1
            for row in range(3):
                alike = one.frames[row] == other.frames[row]
                equal += alike.tolist()
                apart = (to_levels(one.clips[row]) - to_levels(other.clips[row])).abs()[alike]
                # The codecs' output is the same to the bit, and so is the resize.
                assert apart.max() <= 1.01
    assert np.mean(equal) >= 0.97


def test_seeds_matter(dali_videos: Clips, three_epochs: list[list[ClipBatch]]) -> None:
    with make(dali_videos, flip_probability=0.5, seed=1) as loader:
        assert not same(next(iter(loader)), three_epochs[0][0])


def test_spawned_workers_change_nothing(
    dali_videos: Clips, three_epochs: list[list[ClipBatch]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where CUDA is in use, workers are spawned, not forked."""
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with make(dali_videos, flip_probability=0.5, num_workers=2) as loader:
        assert_same(list(loader), three_epochs[0])


# --- evaluation -----------------------------------------------------------------------------------------------------


def test_evaluation_goes_through_the_list_in_order(dali_videos: Clips) -> None:
    with make(dali_videos, batch_size=4, training=False, flip_probability=1.0, flip_label_map={0: 1}) as loader:
        epochs = [list(loader) for _ in range(2)]
    assert_same(*epochs)
    assert [batch.samples.tolist() for batch in epochs[0]] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 0, 1]]
    assert [batch.valid.tolist() for batch in epochs[0]] == [[True] * 4, [True] * 4, [True, True, False, False]]
    assert torch.cat([batch.labels for batch in epochs[0]]).tolist() == [0, 1, 2, 3, 4] * 2 + [0, 1]


def test_padding_with_more_ranks_than_clips(dali_videos: Clips) -> None:
    clips = clip_table(dali_videos.root, dali_videos.paths[:3])
    found = []
    for rank in range(3):
        with make(clips, batch_size=2, training=False, rank=rank, world_size=3, sampler=Uniform(1)) as loader:
            (batch,) = loader
            found.append((batch.samples.tolist(), batch.valid.tolist()))
    assert found == [([0, 1], [True, True]), ([2, 0], [True, False]), ([1, 2], [False, False])]


# --- views ----------------------------------------------------------------------------------------------------------


def expected_views(
    file: Path, sampler: MotionGuided | Uniform | Dense, views: Views
) -> list[tuple[list[int], Any, bool]]:
    """(frames, box, flip) of each view of a video, from its length, size and motion alone, crop by crop."""
    video = decode_all(file)
    strata = [(2 * np.arange(4) + 1) / 8, np.arange(4) / 4][: views.num_clips]  # centres, starts
    if isinstance(sampler, MotionGuided):
        clips = [motion_guided_frames(measure_video(file).motion, targets) for targets in strata]
    elif isinstance(sampler, Uniform):
        clips = [uniform_frames(len(video), targets) for targets in strata]
    else:
        starts = np.arange(views.num_clips) / (views.num_clips - 1)
        clips = [dense_frames(len(video), 4, start, span_frames=16) for start in starts.tolist()]
    boxes = views.boxes(video.shape[2], video.shape[1], size=48)
    return [(frames.tolist(), box, flip) for box, flip in zip(boxes, views.flips, strict=True) for frames in clips]


@pytest.mark.parametrize(
    ("sampler", "views", "routes"),
    [
        (MotionGuided(4), Views(2, "three"), ["host", "gpu"]),
        (Uniform(4), Views(2, "three"), ["host", "host-sparse", "gpu", "gpu-sparse"]),
        (Uniform(4), Views(1, "ten"), ["host-sparse", "gpu", "gpu-sparse"]),
        (Dense(4, span_frames=16), Views(3, "centre"), ["host-sparse", "gpu", "gpu-sparse"]),
        (Dense(4, span_frames=16), Views(2, "three"), ["host", "gpu-sparse"]),
    ],
    ids=str,
)
def test_views_are_crops_of_the_frames_of_their_clips(
    dali_videos: Clips, sampler: MotionGuided | Uniform | Dense, views: Views, routes: list[str]
) -> None:
    """Against full decoding, NumPy and PyTorch's resize, view by view."""
    side = 55 if views.crops == "three" else 48
    table = clip_table(dali_videos.root, dali_videos.paths[:4], labels=[0, 1, 2, 3], num_classes=5)
    expected = [expected_views(table.file(sample), sampler, views) for sample in range(4)]
    videos = [decode_all(table.file(sample)) for sample in range(4)]
    for route in routes:
        with make(table, sampler=sampler, route=route, training=False, views=views) as loader:
            batches = list(loader)
        assert [len(batch) for batch in batches] == [3 * len(views)] * 2
        rows = torch.cat([batch.samples for batch in batches])
        assert rows.tolist() == np.repeat([0, 1, 2, 3, 0, 1], len(views)).tolist()
        valid = torch.cat([batch.valid for batch in batches]).tolist()
        assert valid == [True] * 4 * len(views) + [False] * 2 * len(views)
        assert torch.cat([batch.labels for batch in batches]).tolist() == rows.tolist()
        clips, frames = (torch.cat([getattr(batch, name) for batch in batches]) for name in ("clips", "frames"))
        assert clips.shape == (6 * len(views), 4, 3, side, side)
        for row, sample in enumerate(rows.tolist()):
            picks, (x, y, width, height), flip = expected[sample][row % len(views)]
            if route == "gpu":  # measures motion itself, rounded otherwise
                assert np.abs(frames[row].numpy() - picks).max() <= 1
            else:
                assert frames[row].tolist() == picks
            cut = videos[sample][frames[row].numpy(), y : y + height, x : x + width]
            pixels = torch.from_numpy(cut).permute(0, 3, 1, 2).float()
            resized = torch.nn.functional.interpolate(pixels, (side, side), mode="bilinear", antialias=True)
            apart = (to_levels(clips[row]) - (resized.flip(-1) if flip else resized)).abs()
            assert apart.mean() < 1, (route, row)
            assert apart.max() < 12, (route, row)


def test_one_view_is_what_evaluation_was_without_views(dali_videos: Clips) -> None:
    with make(dali_videos, training=False) as plain, make(dali_videos, training=False, views=Views()) as one:
        assert_same(list(plain), list(one))


def test_ranks_and_workers_share_views(dali_videos: Clips) -> None:
    options: dict[str, Any] = {"training": False, "views": PROTOCOLS["accurate"], "sampler": Uniform(2), "size": 16}
    with (
        make(dali_videos, batch_size=4, num_workers=2, **options) as whole,
        make(dali_videos, batch_size=2, rank=0, world_size=2, **options) as first,
        make(dali_videos, batch_size=2, rank=1, world_size=2, **options) as second,
    ):
        for batch, *halves in zip(whole, first, second, strict=True):
            assert len(batch) == 24
            for name in vars(batch):
                assert torch.equal(getattr(batch, name), torch.cat([getattr(half, name) for half in halves])), name


@pytest.mark.parametrize("route", ["gpu", "gpu-sparse"])
def test_views_of_videos_that_a_gpu_route_leaves_to_the_cpu(videos: dict[str, Path], route: str) -> None:
    """Views of H.264, which the graph does not take here, and of MJPEG in one batch: those of the route host."""
    clips = clip_table(videos["h264"].parent, [videos["h264"].name, videos["mjpeg"].name])
    options: dict[str, Any] = {
        "sampler": Uniform(4), "batch_size": 2, "training": False, "views": Views(2, "three"),
    }  # fmt: skip
    with make(clips, route="host", **options) as host, make(clips, route=route, **options) as other:
        other._setting = replace(other._setting, by_name=False)  # as where a GPU is, which may leave videos to the CPU
        (expected,), (found,) = list(host), list(other)
        assert sum(other.decoded_on_host.values()) == 1
    assert_same([found], [expected])


# --- RandAugment ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def augmented(dali_videos: Clips) -> list[list[ClipBatch]]:
    """Two epochs with two operations on every clip."""
    with make(dali_videos, flip_probability=0.5, rand_augment=(2, 27)) as loader:
        return [list(loader) for _ in range(2)]


def test_operations_change_pixels_and_nothing_else(
    three_epochs: list[list[ClipBatch]], augmented: list[list[ClipBatch]]
) -> None:
    for epoch, plain_epoch in zip(augmented, three_epochs, strict=False):
        for batch, plain in zip(epoch, plain_epoch, strict=True):
            for name in ("labels", "frames", "samples", "valid"):
                assert torch.equal(getattr(batch, name), getattr(plain, name))
    changed = [not torch.equal(one, other) for one, other in pairs(augmented[0], three_epochs[0])]
    assert np.mean(changed) > 0.7


def pairs(some: list[ClipBatch], others: list[ClipBatch]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for one, other in zip(some, others, strict=True):
        yield from zip(one.clips, other.clips, strict=True)


def test_operations_do_not_depend_on_workers_and_restarts(dali_videos: Clips, augmented: list[list[ClipBatch]]) -> None:
    with make(dali_videos, flip_probability=0.5, rand_augment=(2, 27), num_workers=3) as loader:
        loader.load_state_dict({"epoch": 0, "iteration": 2})
        assert_same(list(loader), augmented[0][2:])
        assert_same(list(loader), augmented[1])


def test_operations_on_the_route_gpu(dali_videos: Clips, augmented: list[list[ClipBatch]]) -> None:
    with make(dali_videos, flip_probability=0.5, rand_augment=(2, 27), route="gpu") as loader:
        for batch, expected in zip(loader, augmented[0], strict=True):
            for row in range(3):
                if torch.equal(batch.frames[row], expected.frames[row]):
                    assert torch.equal(batch.clips[row], expected.clips[row])


def test_the_operations_are_those_that_were_drawn(dali_videos: Clips, three_epochs: list[list[ClipBatch]]) -> None:
    """Solarize at the greatest strength inverts, posterize keeps four bits, identity does nothing."""
    seen = set()
    with make(dali_videos, flip_probability=0.5, rand_augment=(1, 30)) as loader:
        for epoch, plain_epoch in enumerate(three_epochs):
            for batch, plain in zip(loader, plain_epoch, strict=True):
                for row, sample in enumerate(batch.samples.tolist()):
                    name = OPERATIONS[int(loader.plan.draws(epoch, sample).operations[0, 0])]
                    before, after = (to_levels(clips.clips[row]).round() for clips in (plain, batch))
                    if name in ("solarize", "posterize", "identity"):
                        seen.add(name)
                        expected = {"solarize": 255 - before, "posterize": before // 16 * 16, "identity": before}[name]
                        assert torch.equal(after, expected)
    assert len(seen) >= 2


def test_evaluation_is_not_augmented(dali_videos: Clips) -> None:
    with make(dali_videos, training=False) as plain, make(dali_videos, training=False, rand_augment=(2, 27)) as other:
        assert_same(list(plain), list(other))


# --- position -------------------------------------------------------------------------------------------------------


def after(state: dict[str, int], epochs: list[list[ClipBatch]]) -> list[ClipBatch]:
    return epochs[state["epoch"]][state["iteration"] :]


@pytest.mark.parametrize("place", [(0, 0), (0, 1), (0, 3), (1, 0), (1, 2), (2, 3)])
def test_resume_is_exact(dali_videos: Clips, three_epochs: list[list[ClipBatch]], place: tuple[int, int]) -> None:
    state = {"epoch": place[0], "iteration": place[1]}
    with make(dali_videos, flip_probability=0.5) as loader:
        loader.load_state_dict(state)
        assert loader.state_dict() == state
        for epoch in range(place[0], 3):
            assert_same(list(loader), after(state, three_epochs) if epoch == place[0] else three_epochs[epoch])
        assert loader.state_dict() == {"epoch": 3, "iteration": 0}


def test_states_count_batches_given(dali_videos: Clips) -> None:
    with make(dali_videos, sampler=Uniform(1), size=16) as loader:
        assert loader.state_dict() == {"epoch": 0, "iteration": 0}
        for epoch in range(2):
            for iteration, _ in enumerate(loader):
                assert loader.state_dict() == {"epoch": epoch, "iteration": iteration + 1}
            assert loader.state_dict() == {"epoch": epoch + 1, "iteration": 0}


def test_saved_at_the_last_batch_of_an_epoch(dali_videos: Clips, three_epochs: list[list[ClipBatch]]) -> None:
    """A state from inside the loop, after the last batch: nothing of that epoch is left, and the next one follows."""
    with make(dali_videos, flip_probability=0.5) as loader:
        loader.load_state_dict({"epoch": 0, "iteration": 4})
        assert list(loader) == []
        assert_same(list(loader), three_epochs[1])


def test_resuming_does_not_change_the_loader_it_came_from(
    dali_videos: Clips, three_epochs: list[list[ClipBatch]]
) -> None:
    with make(dali_videos, flip_probability=0.5) as one, make(dali_videos, flip_probability=0.5) as other:
        batches = iter(one)
        assert same(next(batches), three_epochs[0][0])
        state = one.state_dict()
        other.load_state_dict(state)
        assert_same(list(other), three_epochs[0][1:])
        assert_same(list(batches), three_epochs[0][1:])
        assert state == {"epoch": 0, "iteration": 1}


def test_going_back_in_the_same_loader(dali_videos: Clips, three_epochs: list[list[ClipBatch]]) -> None:
    with make(dali_videos, flip_probability=0.5) as loader:
        list(loader)
        loader.load_state_dict({"epoch": 0, "iteration": 2})
        assert_same(list(loader), three_epochs[0][2:])
        assert_same(list(loader), three_epochs[1])


def test_an_epoch_that_was_left_half_way_is_over(dali_videos: Clips, three_epochs: list[list[ClipBatch]]) -> None:
    with make(dali_videos, flip_probability=0.5) as loader:
        for iteration, batch in enumerate(loader):
            assert same(batch, three_epochs[0][iteration])
            if iteration == 1:
                break
        assert_same(list(loader), three_epochs[1])


def test_left_half_way_after_resuming(dali_videos: Clips, three_epochs: list[list[ClipBatch]]) -> None:
    with make(dali_videos, flip_probability=0.5) as loader:
        loader.load_state_dict({"epoch": 0, "iteration": 2})
        assert same(next(iter(loader)), three_epochs[0][2])
        assert_same(list(loader), three_epochs[1])


def test_closing_and_going_on(dali_videos: Clips, three_epochs: list[list[ClipBatch]]) -> None:
    loader = make(dali_videos, flip_probability=0.5)
    found = []
    for batch in loader:
        found.append(batch)
        loader.close()
    loader.close()
    assert_same(found, three_epochs[0])


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ({}, "is not one of ClipLoader.state_dict"),
        ({"epoch": 1}, "is not one of ClipLoader.state_dict"),
        ({"epoch": -1, "iteration": 0}, "both whole numbers of at least 0"),
        ({"epoch": 0, "iteration": 1.5}, "both whole numbers of at least 0"),
        ({"epoch": 0, "iteration": 0, "seed": 3}, "is not one of ClipLoader.state_dict"),
        (
            {"epoch": 0, "iteration": 5},
            "at batch 5 of an epoch, which has 4 here. Resume with the list, the batch size",
        ),
    ],
)
def test_states_that_do_not_fit(state: dict[str, Any], text: str) -> None:
    position = Position(num_batches=4)
    position.load_state_dict({"epoch": 2, "iteration": 4})
    with pytest.raises(ValueError, match=text):
        position.load_state_dict(state)
    assert position.state_dict() == {"epoch": 2, "iteration": 4}


# --- arguments ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"route": "best"}, r"route \('best'\) must be one of 'auto', 'gpu', 'gpu-sparse', 'host'"),
        ({"device": "tpu"}, r"device \('tpu'\) must be 'auto', 'cpu' or 'cuda'"),
        ({"num_workers": 0}, r"num_workers \(0\) must be at least 1"),
        ({"num_workers": -2}, r"num_workers \(-2\) must be at least 1"),
        ({"batch_size": 0}, r"batch_size \(0\) must be a whole number"),
        ({"rank": 1}, r"rank \(1\) must be below world_size \(1\)"),
        (
            {"sampler": "motion"},
            r"sampler \('motion'\) is no sampler: it has no 'num_segments'\. Give MotionGuided\(\.\.\.\)",
        ),
        ({"sampler": Uniform}, r"sampler \(Uniform\) is a class, not a sampler\. Call it: Uniform\(num_segments=8\)"),
        ({"sampler": None}, r"sampler \(None\) is no sampler"),
        ({"training": "no"}, r"training \('no'\) must be True or False"),
        ({"training": 1}, r"training \(1\) must be True or False"),
        ({"flip_probability": "x"}, r"flip_probability \('x'\) must be between 0 and 1"),
        ({"flip_probability": 1.5}, r"flip_probability \(1\.5\) must be between 0 and 1"),
        ({"flip_label_map": 3}, r"flip_label_map \(3\) must map labels to labels"),
        ({"flip_label_map": {"a": 1}}, r"flip_label_map names label a; the labels of .* are 0 to 4"),
        ({"motion_index": 5}, r"motion_index \(5\) must be the folder of one, a MotionIndex, a MotionRecorder"),
        ({"motion_index": "nowhere"}, r"nowhere: there is no such folder\. Make one with: mgs-dali index"),
        ({"views": "best"}, r"views \('best'\) must be Views\(\.\.\.\) or one of 'efficient', .*'accurate'"),
        ({"views": 3}, r"views \(3\) must be Views"),
        ({"views": "accurate"}, r"is for evaluation: a training clip is one view"),
        ({"rand_augment": "x"}, r"rand_augment \(x\) must be \[operations, strength\]"),
        ({"batch_size": True}, r"batch_size \(True\) must be a whole number"),
        ({"seed": "x"}, r"seed \('x'\) must be a whole number of at least 0"),
        ({"num_workers": "x"}, r"num_workers \('x'\) must be at least 1"),
        ({"memory_limit_gib": "x"}, r"memory_limit_gib \('x'\) must be above 0"),
        ({"dtype": "float16"}, r"dtype \(float16\) must be one of torch\.float32"),
    ],
)
def test_arguments_that_are_not_taken(dali_videos: Clips, changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make(dali_videos, **changes)


def test_a_table_is_not_the_path_of_a_list() -> None:
    with pytest.raises(ValueError, match=r"clips \('list\.txt'\) must be a table of clips: read_annotations"):
        make("list.txt")  # type: ignore[arg-type]


def test_an_index_by_its_folder_and_views_by_their_name(motion_index: tuple[Clips, MotionIndex]) -> None:
    clips, index = motion_index
    options: dict[str, Any] = {"training": False, "batch_size": 2}
    for folder in (index.folder, str(index.folder)):
        with (
            make(clips, motion_index=folder, views="accurate", **options) as found,
            make(clips, motion_index=index, views=Views(2, "three"), **options) as expected,
        ):
            assert found.route == "host-sparse"
            assert_same([next(iter(found))], [next(iter(expected))])


@pytest.mark.skipif(torch.cuda.is_available(), reason="of a machine without a GPU")
def test_a_gpu_that_is_not_there(dali_videos: Clips) -> None:
    with pytest.raises(ValueError, match=r"device 'cuda' asked for, but PyTorch finds no CUDA device here\. Use dev"):
        make(dali_videos, device="cuda")
    with pytest.raises(ValueError, match=r"route 'gpu' needs a CUDA device and PyTorch finds none here\. Use route='h"):
        make(dali_videos, device="auto", route="gpu")


def test_routes_tell_why(dali_videos: Clips, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="mgs_dali"):
        assert make(dali_videos, route="host").route_reason == "asked for by name"
        assert make(dali_videos, route="gpu").route_reason == "asked for by name; its graph runs on the CPU"
        automatic = make(dali_videos)
    assert caplog.messages[-1] == f"route host: {automatic.route_reason}"


def test_number_of_workers_by_default(dali_videos: Clips) -> None:
    assert 1 <= default_num_workers() <= min(8, os.cpu_count() or 1)
    assert make(dali_videos, num_workers=None).num_workers == default_num_workers()


# --- bad videos -----------------------------------------------------------------------------------------------------


def with_bad_file(clips: Clips, folder: Path, content: bytes, *, row: int, suffix: str = ".webm") -> Clips:
    """The table with another file in one row."""
    bad = folder / f"bad{suffix}"
    bad.write_bytes(content)
    paths = [str(clips.file(index)) for index in range(len(clips))]
    paths[row] = str(bad)
    return clip_table(folder, paths, labels=clips.labels, num_classes=clips.num_classes)


@pytest.mark.parametrize("route", ["host", "gpu"])
def test_a_bad_video_is_an_error_of_its_batch(dali_videos: Clips, tmp_path: Path, route: str) -> None:
    clips = with_bad_file(dali_videos, tmp_path, b"no video", row=7)
    options: dict[str, Any] = {"route": route, "training": False, "num_workers": 2}
    with make(clips, **options) as loader, make(dali_videos, **options) as clean:
        expected = list(clean)
        for _ in range(2):  # the same on the next try
            loader.load_state_dict({"epoch": 0, "iteration": 0})
            batches = iter(loader)
            assert_same([next(batches), next(batches)], expected[:2])
            text = r"bad\.webm \(.*list\.txt, line 8\): cannot be opened as a video"
            with pytest.raises(ValueError, match=text):
                next(batches)
            assert loader.state_dict() == {"epoch": 0, "iteration": 2}
        loader.load_state_dict({"epoch": 0, "iteration": 3})  # beyond the bad one
        assert_same(list(loader), expected[3:])


@pytest.mark.parametrize("route", ["host", "gpu"])
def test_a_missing_video(dali_videos: Clips, tmp_path: Path, route: str) -> None:
    content = dali_videos.file(0).read_bytes()
    (tmp_path / "0.webm").write_bytes(content)
    clips = clip_table(tmp_path, ["0.webm", "gone.webm"])
    with make(clips, route=route, batch_size=2, training=False) as loader:
        with pytest.raises(ValueError, match=r"gone\.webm \(.*list\.txt, line 2\): [Nn]o such file"):
            list(loader)
        (tmp_path / "gone.webm").write_bytes(content)
        (batch,) = loader  # the file is there now
        assert torch.equal(batch.clips[0], batch.clips[1])


def damaged(file: Path, *, packet: int) -> bytes:
    """A video with one packet, counted from 0, overwritten by bytes that no decoder takes."""
    content = bytearray(file.read_bytes())
    with av.open(str(file)) as container:
        target = [p for p in container.demux(video=0) if p.size][packet]
    place = content.find(bytes(target), target.pos or 0)
    assert place >= 0
    content[place : place + target.size] = b"\xff" * target.size
    return bytes(content)


@pytest.mark.parametrize("route", ["host", "gpu"])
def test_a_damaged_video_is_named(dali_videos: Clips, tmp_path: Path, route: str) -> None:
    """Header and packets look right, decoding fails; on the route 'gpu' DALI notices and knows no names."""
    clips = with_bad_file(dali_videos, tmp_path, damaged(dali_videos.file(4), packet=15), row=4)
    options: dict[str, Any] = {"route": route, "training": False, "batch_size": 2}
    given: list[ClipBatch] = []
    with make(clips, **options) as loader, make(dali_videos, **options) as clean:
        expected = list(clean)
        with pytest.raises(ValueError, match=r"bad\.webm \(.*list\.txt, line 5\)"):
            given.extend(iter(loader))
        assert_same(given, expected[:2])  # the good batches before it
        loader.load_state_dict({"epoch": 0, "iteration": 3})
        assert_same(list(loader), expected[3:])


@pytest.mark.parametrize("sampler", [MotionGuided(4), Uniform(4)], ids=str)
def test_hidden_frames_do_not_become_black_clips(videos: dict[str, Path], sampler: MotionGuided | Uniform) -> None:
    file = videos["vp8-hidden"]
    clips = clip_table(file.parent, [file.name])
    expected = load_clip(VideoFile(file, "v"), make(clips, training=False).plan.draws(0, 0), sampler=sampler)[1]
    for route in ("host", "gpu", *(["gpu-sparse"] if isinstance(sampler, Uniform) else [])):
        with make(clips, route=route, batch_size=1, training=False, sampler=sampler) as loader:
            (batch,) = loader
        assert np.abs(batch.frames[0].numpy() - expected).max() <= 1
        shown = decode_all(file)[batch.frames[0].numpy()]
        levels = to_levels(batch.clips[0])
        assert (levels.mean(dim=(1, 2, 3)) - torch.from_numpy(shown).float().mean(dim=(1, 2, 3))).abs().max() < 15


@pytest.mark.parametrize("name", ["h264", "mpeg4", "hevc", "ffv1"])
def test_codecs_that_the_gpu_graph_does_not_take_on_the_cpu(videos: dict[str, Path], name: str) -> None:
    file = videos[name]
    clips = clip_table(file.parent, [file.name])
    reason = rf"codec {name} is not decoded .*\(decoded: mjpeg, vp8, vp9\) .*Use route='auto'"
    with (
        make(clips, route="gpu", batch_size=1) as loader,
        pytest.raises(ValueError, match=rf"{file.name} \(.*list\.txt, line 1\): {reason}"),
    ):
        next(iter(loader))
    with make(clips, route="host", batch_size=1) as loader:
        assert len(list(loader)) == 1


# --- nothing is left behind -----------------------------------------------------------------------------------------

PROGRAM = """
import os, sys, time
import torch
from pathlib import Path
from conftest import clip_table
from mgs_dali import ClipLoader, MotionGuided

def children():
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid() and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return sorted(found)

if sys.argv[3] == "spawn":
    torch.cuda.is_initialized = lambda: True
root = Path(sys.argv[1])
paths = sorted(path.name for path in root.iterdir())
loader = ClipLoader(
    clip_table(root, paths), sampler=MotionGuided(4), batch_size=2, training=True, size=32, device="cpu", num_workers=2,
    route=sys.argv[2],
)
assert not children(), children()
batches = iter(loader)
next(batches)
print("workers", *children(), flush=True)
"""


def program(dali_videos: Clips, route: str, rest: str, *, start_method: str = "fork") -> subprocess.Popen[str]:
    """Start a program that loads a batch and then does ``rest``; it has its own process group."""
    folders = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM + textwrap.dedent(rest), str(dali_videos.root), route, start_method],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(folders)},
        start_new_session=True,
    )


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("workers"):
            return [int(pid) for pid in line.split()[1:]]
    assert process.stderr is not None
    raise AssertionError(process.stderr.read())


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_until_gone(pids: list[int], *, limit_seconds: float = 60) -> None:
    until = time.monotonic() + limit_seconds
    while any(lives(pid) for pid in pids):
        assert time.monotonic() < until, f"still there: {[pid for pid in pids if lives(pid)]}"
        time.sleep(0.1)


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    """Programs to be ended with the test, and whatever they left behind with them."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("route", "start_method"),
    [("host", "fork"), pytest.param("gpu", "fork", marks=pytest.mark.slow), ("gpu", "spawn")],
)
def test_killed_parents_leave_no_workers(
    dali_videos: Clips, started: list[subprocess.Popen[str]], route: str, start_method: str
) -> None:
    process = program(dali_videos, route, "time.sleep(600)", start_method=start_method)
    started.append(process)
    workers = workers_of(process)
    assert len(workers) >= 2
    process.kill()
    process.wait(60)
    wait_until_gone(workers)


@pytest.mark.parametrize(
    ("rest", "start_method"),
    [
        ("while True:\n    for _ in loader:\n        pass", "fork"),
        pytest.param("time.sleep(600)", "fork", marks=pytest.mark.slow),
        pytest.param("while True:\n    for _ in loader:\n        pass", "spawn", marks=pytest.mark.slow),
    ],
    ids=["loading", "waiting", "loading, spawned"],
)
def test_ctrl_c_ends_everything(
    dali_videos: Clips, started: list[subprocess.Popen[str]], rest: str, start_method: str
) -> None:
    """The terminal sends SIGINT to all processes of the group, workers included."""
    process = program(dali_videos, "host", rest, start_method=start_method)
    started.append(process)
    workers = workers_of(process)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode in (-signal.SIGINT, 130, 1)
    assert "KeyboardInterrupt" in errors
    assert errors.count("Traceback") == 1, errors  # of the parent; the workers say nothing
    wait_until_gone(workers)


@pytest.mark.parametrize(
    ("rest", "return_code"),
    [
        ("raise RuntimeError('in the loop')", 1),
        ("del batches, loader\nassert not children(), children()", 0),
        pytest.param("pass", 0, marks=pytest.mark.slow),
        pytest.param("sys.exit(3)", 3, marks=pytest.mark.slow),
    ],
    ids=["exception", "del", "end", "exit"],
)
def test_programs_that_end_leave_no_workers(
    dali_videos: Clips, started: list[subprocess.Popen[str]], rest: str, return_code: int
) -> None:
    process = program(dali_videos, "host", rest)
    started.append(process)
    workers = workers_of(process)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == return_code, errors
    wait_until_gone(workers)


def test_closing_ends_the_workers(dali_videos: Clips, started: list[subprocess.Popen[str]]) -> None:
    rest = """
    loader.close()
    assert not children(), children()
    try:
        with loader:
            for _ in loader:
                assert children()
                raise ValueError("in the loop")
    except ValueError:
        pass
    assert not children(), children()
    """
    process = program(dali_videos, "gpu", rest)
    started.append(process)
    workers = workers_of(process)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    wait_until_gone(workers)


def test_a_killed_worker_is_an_error(dali_videos: Clips, started: list[subprocess.Popen[str]]) -> None:
    """By the kernel for want of memory, say: the loader must not wait for it for ever."""
    rest = """
    time.sleep(1)  # workers that wait for work are the worst case; the others must end in an error as well
    for child in children():
        os.kill(child, 9)
    try:
        for _ in range(100):
            next(batches, None)
            batches = iter(loader) if loader.state_dict()["iteration"] == 0 else batches
    except RuntimeError as error:
        assert "worker processes of the loader ended" in str(error), error
        sys.exit(5)
    """
    process = program(dali_videos, "host", rest)
    started.append(process)
    workers_of(process)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 5, errors


def test_sources_that_are_copied_do_not_touch_the_process(
    dali_videos: Clips, started: list[subprocess.Popen[str]]
) -> None:
    """Copies and pickles of a source in the parent are no worker: Ctrl-C must go on working, and so must nohup."""
    rest = """
    import copy, pickle, signal, threading
    from mgs_dali.load.sources import HostSource
    before = signal.getsignal(signal.SIGINT)
    copy.deepcopy(HostSource(loader.plan))
    pickle.loads(pickle.dumps(HostSource(loader.plan)))
    assert signal.getsignal(signal.SIGINT) is before
    assert not [thread for thread in threading.enumerate() if thread.name == "follow-parent"]
    """
    process = program(dali_videos, "host", rest)
    started.append(process)
    workers_of(process)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors


def test_host_sparse_gives_the_clips_of_host(videos: dict[str, Path]) -> None:
    names = ["h264", "hevc", "mpeg4", "vp8-hidden", "vp9", "mjpeg"]
    files = [videos[name] for name in names]
    clips = clip_table(files[0].parent, [file.name for file in files])
    for training in (True, False):
        options: dict[str, Any] = {"sampler": Uniform(4), "batch_size": 3, "training": training}
        with make(clips, route="host", **options) as whole, make(clips, **options) as sparse:
            assert sparse.route == "host-sparse"
            for one, other in zip(whole, sparse, strict=True):
                assert torch.equal(one.frames, other.frames)
                assert torch.equal(one.clips, other.clips)


@pytest.fixture(scope="session")
def motion_index(videos: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Clips, MotionIndex]:
    names = ["h264", "hevc", "mpeg4", "vp8-hidden", "vp9", "mjpeg"]
    clips = clip_table(videos["h264"].parent, [videos[name].name for name in names])
    folder = tmp_path_factory.mktemp("index")
    summary = index_videos(clips, folder, num_workers=1, progress=False)
    assert not summary.errors
    return clips, MotionIndex(folder)


@pytest.mark.parametrize(
    ("training", "rule"), [(True, {}), (False, {"mu": 1.0, "floor": 0.3, "pick": "inverse"})], ids=["training", "not"]
)
def test_a_motion_index_gives_the_clips_of_measuring(
    motion_index: tuple[Clips, MotionIndex], training: bool, rule: dict[str, Any]
) -> None:
    clips, index = motion_index
    options: dict[str, Any] = {"sampler": MotionGuided(4, **rule), "training": training}
    with make(clips, **options) as measured, make(clips, motion_index=index, **options) as known:
        assert (measured.route, known.route) == ("host", "host-sparse")
        for one, other in zip(measured, known, strict=True):
            assert torch.equal(one.frames, other.frames)
            assert torch.equal(one.clips, other.clips)
            for sample, frames in zip(other.samples.tolist(), other.frames.tolist(), strict=True):
                targets = known.plan.draws(0, sample).targets
                assert frames == picks_by_hand(index[clips.paths[sample]], targets, **rule)


def test_a_floor_leaves_frames_to_still_parts_in_the_graph_too(tmp_path: Path) -> None:
    """It stands still but for the gaps from frame 20 to frame 28."""
    frames = moving_disc(60, action=(20, 28))
    motion = measure_video(encode(tmp_path / "v.avi", frames, "mjpeg", pixel_format="yuvj420p", options=MJPEG)).motion
    assert np.flatnonzero(motion).tolist() == [*range(20, 28)]
    options: dict[str, Any] = {"sampler": MotionGuided(8, floor=1.0, pick="inverse"), "training": False}
    with make(clip_table(tmp_path, ["v.avi"]), batch_size=1, route="gpu", **options) as loader:
        (batch,) = loader
    (found,) = batch.frames.tolist()
    by_hand = picks_by_hand(motion, (np.arange(8) + 0.5) / 8, floor=1.0, pick="inverse")
    assert np.abs(np.subtract(found, by_hand)).max() <= 1  # the graph measures in RGB
    # half of the weight is spread over all gaps, of which 51 of 59 are still: without the floor no frame would be there
    assert sum(frame < 20 or frame > 28 for frame in found) == 3


def test_an_index_of_other_videos_is_refused(motion_index: tuple[Clips, MotionIndex], dali_videos: Clips) -> None:
    with pytest.raises(ValueError, match=r"of the \d+ clips of .* it knows 0"):
        make(dali_videos, motion_index=motion_index[1])


def test_a_video_that_changed_since_it_was_indexed(motion_index: tuple[Clips, MotionIndex], tmp_path: Path) -> None:
    clips, index = motion_index
    encode(tmp_path / clips.paths[0], moving_disc(20), "libx264")
    changed = clip_table(tmp_path, [clips.paths[0]])
    with (
        make(changed, motion_index=index, batch_size=1) as loader,
        pytest.raises(
            ValueError, match=r"list\.txt, line 1\): the motion index holds 60 frames of it, the file shows 20"
        ),
    ):
        next(iter(loader))


# --- recording ------------------------------------------------------------------------------------------------------


def test_what_is_recorded_serves_from_the_second_epoch_on(
    motion_index: tuple[Clips, MotionIndex], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clips, index = motion_index
    recorder = MotionRecorder(tmp_path / "motion")
    with (
        caplog.at_level("INFO", logger="mgs_dali"),
        make(clips) as plain,
        make(clips, motion_index=recorder) as recording,
    ):
        for route in ("host", "host-sparse", "host-sparse"):
            assert_same(list(recording), list(plain))
            assert recording.route == route
    routes = [message for message in caplog.messages if message.startswith("route host") and "motion curves" in message]
    assert len(routes) == 2
    assert routes[0].endswith("; motion curves are being recorded")
    assert routes[1].startswith("route host-sparse: ")
    found = MotionIndex(tmp_path / "motion")
    assert set(found) == set(index)
    for path in index:
        np.testing.assert_array_equal(found[path], index[path])
    # what indexing the list would have made: it has nothing left to do
    again = index_videos(clips, tmp_path / "motion", num_workers=1, progress=False)
    assert (again.num_known, again.num_measured) == (len(clips), 0)
    with make(clips, motion_index=MotionRecorder(tmp_path / "motion")) as later:
        assert later.route == "host-sparse"


def test_an_epoch_that_is_left_early_keeps_what_it_measured(
    motion_index: tuple[Clips, MotionIndex], tmp_path: Path
) -> None:
    clips, _ = motion_index
    with make(clips, motion_index=MotionRecorder(tmp_path), batch_size=2) as recording:
        next(iter(recording))
    assert len(MotionIndex(tmp_path)) == 2
    with make(clips, batch_size=2) as plain, make(clips, motion_index=MotionRecorder(tmp_path), batch_size=2) as rest:
        assert rest.route == "host"  # some are known, some are measured
        assert_same(list(rest), list(plain))
    assert len(MotionIndex(tmp_path)) == len(clips)


def test_ranks_share_what_they_record(motion_index: tuple[Clips, MotionIndex], tmp_path: Path) -> None:
    clips, _ = motion_index
    options: dict[str, Any] = {"batch_size": 2, "world_size": 2}
    with (
        make(clips, rank=0, motion_index=MotionRecorder(tmp_path), **options) as first,
        make(clips, rank=1, motion_index=MotionRecorder(tmp_path), **options) as second,
        make(clips, rank=1, **options) as plain,
    ):
        list(first)
        assert_same(list(second), list(plain))
        assert_same(list(second), list(plain))
        assert second.route == "host-sparse"
        list(first)
        assert first.route == "host-sparse"


def test_the_graph_s_curves_are_recorded(dali_videos: Clips, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def choose(_: str, setting: Setting) -> tuple[InGraph, str]:
        return InGraph(sparse=setting.frames_known), "a stand-in"

    monkeypatch.setattr(loader_module, "choose_route", choose)
    with make(dali_videos, motion_index=MotionRecorder(tmp_path)) as loader:
        first = list(loader)
        assert loader.route == "gpu"
        second = list(loader)
        assert loader.route == "gpu-sparse"
    found = MotionIndex(tmp_path)
    for path in dali_videos.paths:
        expected = measure_video(dali_videos.root / path).motion
        # A factor apart for full-range JPEG, and by the rounding of RGB on the way; sampling sees shares only.
        np.testing.assert_allclose(found[path] / found[path].sum(), expected / expected.sum(), atol=5e-3)
    assert len(first) == len(second)


def test_a_video_of_one_frame_is_recorded_too(tmp_path: Path) -> None:
    encode(tmp_path / "one.mkv", moving_disc(1), "ffv1")
    clips = clip_table(tmp_path, ["one.mkv"])
    with make(clips, motion_index=MotionRecorder(tmp_path / "motion"), batch_size=1) as loader:
        list(loader)
        list(loader)
        assert loader.route == "host-sparse"
    assert MotionIndex(tmp_path / "motion")["one.mkv"].shape == (0,)


def test_recording_into_an_index_of_another_measure_is_refused(
    motion_index: tuple[Clips, MotionIndex], tmp_path: Path
) -> None:
    clips = motion_index[0]
    index_videos(clips, tmp_path, measure="packet", num_workers=1, progress=False)
    with pytest.raises(ValueError, match=r"holds curves of measure packet; what is measured while loading is measure"):
        MotionRecorder(tmp_path)


def test_a_sparse_route_by_name_waits_for_no_recording(dali_videos: Clips, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"route 'host-sparse' .* a motion_index of all clips"):
        make(dali_videos, route="host-sparse", motion_index=MotionRecorder(tmp_path))


# --- frame folders --------------------------------------------------------------------------------------------------

TEMPLATE = "img_{:05}.jpg"
FOLDER_LENGTHS = [31, 20, 5, 12, 1, 24, 8]


@pytest.fixture(scope="session")
def taken_apart(tmp_path_factory: pytest.TempPathFactory) -> tuple[Clips, Clips]:
    """Seven MJPEG videos of 1 to 31 frames, and the same as frame folders."""
    root = tmp_path_factory.mktemp("taken_apart")
    for index, num_frames in enumerate(FOLDER_LENGTHS):
        width, height = [(96, 64), (64, 80), (112, 72)][index % 3]
        action = (num_frames // 3, 2 * num_frames // 3)
        frames = moving_disc(num_frames, width=width, height=height, action=action, seed=index)
        video = encode(root / f"{index}.avi", frames, "mjpeg", pixel_format="yuvj420p", options=MJPEG)
        take_apart(video, root / str(index))
    names, labels = [str(index) for index in range(7)], [index % 4 for index in range(7)]
    videos = clip_table(root, [f"{name}.avi" for name in names], labels=labels, num_classes=4)
    return videos, clip_table(root, names, labels=labels, num_classes=4, template=TEMPLATE)


@pytest.fixture(scope="session")
def folder_index(taken_apart: tuple[Clips, Clips], tmp_path_factory: pytest.TempPathFactory) -> MotionIndex:
    """Of the seven frame folders."""
    folder = tmp_path_factory.mktemp("folder_index")
    index_videos(taken_apart[1], folder, num_workers=1, progress=False)
    return MotionIndex(folder)


@pytest.fixture
def folders(taken_apart: tuple[Clips, Clips], tmp_path: Path) -> Clips:
    """A copy of the frame folders, to damage."""
    clips = taken_apart[1]
    for path in clips.paths:
        shutil.copytree(clips.root / path, tmp_path / path)
    return replace(clips, root=tmp_path)


def cpu_loader(clips: Clips, **changes: Any) -> CpuLoader:
    options: dict[str, Any] = {"sampler": MotionGuided(4), "batch_size": 3, "training": True, "size": 48}
    return CpuLoader(Plan(clips, **{**options, **changes}), num_workers=0)


def assert_pictures_of(batch: ClipBatch, expected: ClipBatch) -> None:
    """The same frames of the same samples, from another decoder."""
    for name in ("labels", "frames", "samples", "valid"):
        assert torch.equal(getattr(batch, name), getattr(expected, name))
    difference = (to_levels(batch.clips) - to_levels(expected.clips)).abs()
    # DALI decodes JPEG with libjpeg-turbo, PyAV decodes it and MJPEG with FFmpeg. Both are right within the standard's
    # tolerance, and differ by the rounding of the cosine transform, of chroma between its samples, and of colours: by
    # 3 grey levels at most before the resize. A crop that is moved by a pixel differs by ten times as much.
    assert difference.max() < 4
    assert difference.mean() < 0.5


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "sampler", [MotionGuided(6), MotionGuided(1, mu=1.0, floor=0.3, pick="inverse"), Uniform(6)], ids=str
)
def test_frame_folders_give_the_clips_of_their_videos(
    taken_apart: tuple[Clips, Clips], folder_index: MotionIndex, sampler: MotionGuided | Uniform, training: bool
) -> None:
    videos, folders = taken_apart
    options: dict[str, Any] = {"sampler": sampler, "flip_probability": 0.5, "seed": 3, "training": training}
    with (
        make(videos, **options) as of_videos,
        make(folders, **options, num_workers=2) as measured,
        make(folders, **options, motion_index=folder_index) as known,
    ):
        assert (measured.route, known.route) == ("rawframes", "rawframes")
        by_pyav = cpu_loader(videos, **options), cpu_loader(folders, **options)
        for _ in range(2):
            for batch, *others in zip(of_videos, measured, known, *by_pyav, strict=True):
                assert_pictures_of(others[0], batch)
                assert same(others[0], others[1])
                assert same(others[2], others[3])


@pytest.mark.parametrize(
    ("sampler", "views"),
    [
        (MotionGuided(6), Views(2, "three")),
        (Uniform(6), Views(1, "ten")),
        (Dense(4, span_frames=16), Views(3, "centre")),
    ],
    ids=str,
)
def test_views_of_frame_folders_are_those_of_their_videos(
    taken_apart: tuple[Clips, Clips], sampler: MotionGuided | Uniform | Dense, views: Views
) -> None:
    """Also of frames that are in several clips, and of folders of fewer frames than segments."""
    videos, folders = taken_apart
    options: dict[str, Any] = {"sampler": sampler, "training": False, "views": views}
    with make(videos, **options) as of_videos, make(folders, **options) as of_folders:
        by_pyav = cpu_loader(videos, **options), cpu_loader(folders, **options)
        for batch, found, *others in zip(of_videos, of_folders, *by_pyav, strict=True):
            assert len(found) == 3 * len(views)
            assert_pictures_of(found, batch)
            assert same(*others)


def test_frame_folders_are_cropped_and_augmented_as_their_videos(taken_apart: tuple[Clips, Clips]) -> None:
    """Operations that stretch a picture's values stretch the decoders' differences too."""
    videos, folders = taken_apart
    options: dict[str, Any] = {"sampler": Uniform(4), "train_crop": "random_resized", "rand_augment": (1, 20)}
    apart = []
    with make(videos, **options) as of_videos, make(folders, **options, num_workers=2) as of_folders:
        for batch, found in zip(of_videos, of_folders, strict=True):
            assert torch.equal(batch.frames, found.frames)
            differences = (to_levels(batch.clips) - to_levels(found.clips)).abs()
            apart += differences.mean(dim=(1, 2, 3, 4)).tolist()
    assert np.median(apart) < 0.5
    assert max(apart) < 10


def test_offsets_are_respected_in_the_motion_too(taken_apart: tuple[Clips, Clips], folder_index: MotionIndex) -> None:
    videos, folders = taken_apart
    spans = [(0, 31), (7, 10), (20, 11), (0, 1), (30, 1), (5, -1), (12, 12)]
    first_frames, num_frames = (np.array(column, np.int64) for column in zip(*spans, strict=True))
    parts = replace(folders, paths=["0"] * 7, first_frames=first_frames, num_frames=num_frames)
    curve = measure_video(videos.file(0)).motion
    targets = segment_targets(5)
    for sampler in (MotionGuided(5), MotionGuided(5, pick="inverse"), Uniform(5)):
        expected = []
        for first, num in spans:
            end = 31 if num == -1 else first + num
            if isinstance(sampler, Uniform):
                picks = uniform_frames(end - first, targets)
            else:
                picks = motion_guided_frames(curve[first : end - 1], targets, pick=sampler.pick)
            expected.append((first + picks).tolist())
        for index in (None, folder_index):
            options: dict[str, Any] = {"sampler": sampler, "training": False, "motion_index": index, "batch_size": 7}
            (plain,) = cpu_loader(parts, **options)
            assert plain.frames.tolist() == expected
            if sampler == MotionGuided(5):
                with make(parts, **options) as loader:
                    (batch,) = loader
                assert_pictures_of(batch, plain)


def test_frames_that_come_twice_in_a_clip(taken_apart: tuple[Clips, Clips]) -> None:
    options: dict[str, Any] = {"sampler": Uniform(9), "training": False, "batch_size": 7}
    (expected,) = cpu_loader(taken_apart[0], **options)
    with make(taken_apart[1], **options) as loader:
        (batch,) = loader
    assert_pictures_of(batch, expected)
    assert batch.frames[[2, 4, 6]].tolist() == [[0, 0, 1, 1, 2, 3, 3, 4, 4], [0] * 9, [0, 1, 2, 3, 4, 4, 5, 6, 7]]
    assert torch.equal(batch.clips[2, 5], batch.clips[2, 6])
    assert not torch.equal(batch.clips[2, 4], batch.clips[2, 5])


def test_pictures_that_say_they_are_turned(folders: Clips) -> None:
    with (
        make(folders, sampler=Uniform(3), training=False) as loader,
        cpu_loader(folders, sampler=Uniform(3), training=False) as other,
    ):
        upright, plain = list(loader), list(other)
    exif = b"Exif\0\0II*\0" + bytes.fromhex("08000000010012010300010000000600000000000000")
    for file in folders.root.glob("*/*.jpg"):
        jpeg = file.read_bytes()
        file.write_bytes(jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpeg[2:])
    with (
        make(folders, sampler=Uniform(3), training=False) as loader,
        cpu_loader(folders, sampler=Uniform(3), training=False) as other,
    ):
        assert_same(list(loader), upright)
        assert_same(list(other), plain)


def test_frame_folders_resume_exactly_and_kept_batches_stay(taken_apart: tuple[Clips, Clips]) -> None:
    options: dict[str, Any] = {"sampler": MotionGuided(4), "seed": 9}
    with make(taken_apart[1], **options, num_workers=2) as loader:
        epochs = [list(loader), list(loader)]
    with make(taken_apart[1], **options) as loader:
        loader.load_state_dict({"epoch": 0, "iteration": 2})
        assert_same(list(loader), epochs[0][2:])
        assert_same(list(loader), epochs[1])
    with make(taken_apart[1], **options, dtype=torch.bfloat16) as loader:
        batch = next(iter(loader))
        assert batch.clips.dtype == torch.bfloat16
        torch.testing.assert_close(batch.clips.float(), epochs[0][0].clips, atol=0.02, rtol=0.01)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-40])


def damage(file: Path) -> None:
    jpeg = file.read_bytes()
    tables = jpeg.index(b"\xff\xc4") + 5  # of Huffman codes, without which nothing can be decoded
    file.write_bytes(jpeg[:tables] + b"\xff" * 16 + jpeg[tables + 16 :])


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (cut, r"img_00004\.jpg is cut off: after \d+ bytes the picture has no end"),
        (damage, r"img_00004\.jpg is a damaged JPEG \(Invalid data found"),
        (Path.unlink, r"frame 'img_00004\.jpg' is missing, although there are frames up to 'img_00012\.jpg'"),
        (lambda file: file.write_bytes(b""), r"img_00004\.jpg is empty \(0 bytes\)"),
        (lambda file: file.write_bytes(b"GIF89a"), r"img_00004\.jpg is no JPEG \(it begins with 47 49 46 38\)"),
        (lambda file: shutil.copy(file.parents[1] / "1" / file.name, file), r"has 64x80 pixels, img_0000\d\.jpg 96x64"),
        (lambda file: shutil.rmtree(file.parent), r"no such folder\. Check the path in the list and the root folder"),
    ],
    ids=["cut", "damage", "missing", "empty", "gif", "size", "no folder"],
)
@pytest.mark.parametrize("sampler", [MotionGuided(4), Uniform(12)], ids=str)
def test_bad_frames_are_errors_of_their_batch(
    folders: Clips, spoil: Callable[[Path], Any], text: str, sampler: MotionGuided | Uniform
) -> None:
    options: dict[str, Any] = {"sampler": sampler, "training": False, "batch_size": 1}
    spoil(folders.root / "3" / "img_00004.jpg")
    for loader in (make(folders, **options), cpu_loader(folders, **options)):
        with loader:
            batches = iter(loader)
            given = [next(batches) for _ in range(3)]
            assert len(given) == 3
            with pytest.raises(ValueError, match=rf"/3 \(.*list\.txt, line 4\): .*{text}"):
                next(batches)


@pytest.mark.parametrize("sampler", [MotionGuided(4), Uniform(4)], ids=str)
def test_lists_that_promise_more_frames(folders: Clips, sampler: MotionGuided | Uniform) -> None:
    promised = replace(folders, num_frames=np.array([31, 20, 5, 13, 1, 24, 8]))
    for loader in (make(promised, sampler=sampler, batch_size=7), cpu_loader(promised, sampler=sampler, batch_size=7)):
        with (
            loader,
            pytest.raises(ValueError, match=r"line 4\): the list has 13 frames of it, the folder has 12\. Corr"),
        ):
            next(iter(loader))


def test_a_folder_that_changed_since_it_was_indexed(folders: Clips, tmp_path: Path) -> None:
    index_videos(folders, tmp_path / "index", num_workers=1, progress=False)
    (tmp_path / "6" / "img_00008.jpg").unlink()
    with (
        make(folders, motion_index=MotionIndex(tmp_path / "index"), batch_size=7) as loader,
        pytest.raises(
            ValueError, match=r"line 7\): the motion index holds 8 frames of it, the folder has 7\. It has ch"
        ),
    ):
        next(iter(loader))


def test_curves_of_frame_folders_are_recorded_whole(taken_apart: tuple[Clips, Clips], tmp_path: Path) -> None:
    folders = taken_apart[1]
    parts = replace(
        folders, first_frames=np.array([3, 0, 0, 0, 0, 10, 0]), num_frames=np.array([9, 20, 5, 6, 1, -1, 8])
    )
    with make(parts) as loader:
        expected = [list(loader), list(loader)]
    for changes in ({}, {"route": "rawframes"}):
        recorder = MotionRecorder(tmp_path / f"index {len(changes)}")
        with make(parts, motion_index=recorder, **changes) as loader:
            assert "all frames of each clip" in loader.route_reason
            assert_same(list(loader), expected[0])
            assert_same(list(loader), expected[1])
            assert (loader.route, loader.route_reason[-23:]) == ("rawframes", "motion curves are there")
    index = MotionIndex(recorder.folder)
    assert [index.num_frames(path) for path in folders.paths] == FOLDER_LENGTHS
    assert index_videos(folders, recorder.folder, num_workers=1, progress=False).num_measured == 0


def test_routes_and_tables_that_do_not_go_together(taken_apart: tuple[Clips, Clips]) -> None:
    videos, folders = taken_apart
    with pytest.raises(
        ValueError, match=r"'rawframes' loads folders of JPEG files, and .*list\.txt was read as a list of"
    ):
        make(videos, route="rawframes")
    for route in ("gpu", "gpu-sparse", "host", "host-sparse"):
        with pytest.raises(ValueError, match=rf"'{route}' decodes videos, and .*list\.txt was read as a list of frame"):
            make(folders, route=route)
    with pytest.raises(ValueError, match=r"list\.txt: measure packet takes .* Use measure pixel"):
        make(folders, sampler=MotionGuided(4, measure="packet"))
    with make(folders, route="rawframes", sampler=Uniform(4)) as loader:
        assert loader.route_reason == "frame folders, whose JPEGs are decoded by the CPU"
    with make(folders) as loader:
        assert "to measure motion, workers decode all frames of each clip" in loader.route_reason


# --- clips of videos ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stretches(dali_videos: Clips) -> tuple[Clips, list[range]]:
    """Parts of videos, and which frames of them these are."""
    spans = [range(4, 20), range(23), range(7, 18), range(12, 29), range(31, 32), range(3, 35), range(38)]
    first_frames = np.array([span.start for span in spans])
    num_frames = np.array([-1 if span in (range(23), range(3, 35)) else len(span) for span in spans])
    return replace(dali_videos.only(range(7)), first_frames=first_frames, num_frames=num_frames), spans


def expected_frames(spans: list[range], sampler: Any, *, motions: list[np.ndarray]) -> list[list[int]]:
    targets, expected = segment_targets(sampler.num_segments), []
    for span, motion in zip(spans, motions, strict=True):
        if isinstance(sampler, Uniform):
            picks = uniform_frames(len(span), targets)
        else:
            of_span, options = motion[span.start : span.stop - 1], (sampler.mu, sampler.floor, sampler.pick)
            picks = motion_guided_frames(of_span, targets, **dict(zip(("mu", "floor", "pick"), options, strict=True)))
        expected.append((span.start + picks).tolist())
    return expected


@pytest.mark.parametrize(
    ("route", "sampler", "indexed"),
    [
        (route, sampler, indexed)
        for route in ("cpu", "host", "host-sparse", "gpu", "gpu-sparse")
        for sampler in (Uniform(4), MotionGuided(4, mu=1.0, floor=0.3, pick="inverse"))
        for indexed in (False, True)
        if (indexed or not route.endswith("sparse") or isinstance(sampler, Uniform))
        and not (indexed and isinstance(sampler, Uniform))
    ],
    ids=str,
)
def test_the_part_of_a_video_that_is_the_clip(
    stretches: tuple[Clips, list[range]], dali_index: MotionIndex, route: str, sampler: Any, indexed: bool
) -> None:
    """Which frames: by the samplers' own functions on the motion of the frames that are the clip. Which pictures: those
    that a loader takes of whole videos for the same frames."""
    clips, spans = stretches
    motions = [measure_video(clips.file(row)).motion for row in range(7)]
    options: dict[str, Any] = {"training": False, "batch_size": 7, "motion_index": dali_index if indexed else None}
    load = cpu_loader if route == "cpu" else partial(make, route=route)
    with load(clips, sampler=sampler, **options) as loader:
        (batch,) = loader
    expected = expected_frames(spans, sampler, motions=motions)
    assert batch.frames.tolist() == expected
    for row in range(7):
        pictures = torch.from_numpy(decode_all(clips.file(row))[expected[row]]).permute(0, 3, 1, 2).float()
        x, y, width, height = centre_crop(pictures.shape[3], pictures.shape[2], size=48)
        crop = pictures[:, :, y : y + height, x : x + width]
        resized = torch.nn.functional.interpolate(crop, (48, 48), mode="bilinear", antialias=True)
        assert (to_levels(batch.clips[row]) - resized).abs().max() < 4


@pytest.fixture(scope="module")
def dali_index(dali_videos: Clips, tmp_path_factory: pytest.TempPathFactory) -> MotionIndex:
    folder = tmp_path_factory.mktemp("dali_index")
    index_videos(dali_videos, folder, progress=False)
    return MotionIndex(folder)


@pytest.mark.parametrize("route", ["host", "auto", "gpu"])
def test_recording_is_of_the_whole_video(
    stretches: tuple[Clips, list[range]], dali_index: MotionIndex, tmp_path: Path, route: str
) -> None:
    clips, spans = stretches
    recorder, sampler = MotionRecorder(tmp_path), MotionGuided(4)
    expected = expected_frames(spans, sampler, motions=[dali_index[path] for path in clips.paths])
    options = {"sampler": sampler, "training": False, "batch_size": 7, "motion_index": recorder}
    with make(clips, route=route, **options) as loader:
        if route == "gpu":
            with pytest.raises(ValueError, match=r"its motion is recorded, of the whole video, and its clip is a part"):
                next(iter(loader))
            return
        for _ in range(2):
            (batch,) = loader
            assert batch.frames.tolist() == expected
        assert loader.route == ("host-sparse" if route == "auto" else "host")
    found = MotionIndex(tmp_path)
    assert set(found) == set(clips.paths)
    for path in clips.paths:
        np.testing.assert_array_equal(found[path], dali_index[path])


def test_a_part_that_its_video_does_not_have(dali_videos: Clips) -> None:
    part = dali_videos.only([2])
    part = replace(part, first_frames=np.array([20]), num_frames=np.array([7]))  # of 26
    for route in ("host", "host-sparse", "gpu", "gpu-sparse"):
        with make(part, sampler=Uniform(4), route=route) as loader, pytest.raises(ValueError) as error:
            next(iter(loader))
        text = f"{part.name(0)}: the list has 7 frames of it from offset 20 on, the video has 26."
        assert str(error.value).startswith(text)


# --- samplers of one's own ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Last:
    """The last frames, or where ``needs_motion``, those before the most motion."""

    num_segments: int = 3
    needs_motion: bool = False

    def targets(self, *, num_clips: int = 1, rng: np.random.Generator | None = None) -> np.ndarray:
        return np.zeros(num_clips)

    def frames(self, num_frames: int, targets: np.ndarray, motion: np.ndarray | None = None) -> np.ndarray:
        if not self.needs_motion:
            return np.arange(num_frames - self.num_segments, num_frames)
        assert motion is not None
        assert len(motion) == num_frames - 1
        return np.sort(np.argsort(motion)[-self.num_segments :])


def test_a_sampler_of_ones_own(dali_videos: Clips, dali_index: MotionIndex) -> None:
    options: dict[str, Any] = {"training": False, "batch_size": 10}
    last = [[num - 3, num - 2, num - 1] for num in range(20, 50, 3)]
    for route in ("host", "host-sparse", "gpu", "gpu-sparse", "auto"):
        with make(dali_videos, sampler=Last(), route=route, **options) as loader:
            assert next(iter(loader)).frames.tolist() == last
    most = [np.sort(np.argsort(dali_index[path])[-3:]).tolist() for path in dali_videos.paths]
    sampler = Last(needs_motion=True)
    for route, index in (
        ("host", None),
        ("auto", None),
        ("host-sparse", dali_index),
        ("gpu-sparse", dali_index),
        ("gpu", dali_index),
    ):
        with make(dali_videos, sampler=sampler, route=route, motion_index=index, **options) as loader:
            assert next(iter(loader)).frames.tolist() == most
    with pytest.raises(ValueError, match=r"route 'gpu' measures motion in the graph.*Last.*motion_index.*'host'"):
        make(dali_videos, sampler=sampler, route="gpu", **options)


def test_nothing_keeps_a_pipeline_of_a_closed_loader(dali_videos: Clips, tmp_path: Path) -> None:
    """Or the workers of a later loader, which are forked, may collect it as garbage: they would hang."""
    gc.collect()
    shutil.copy(dali_videos.file(0), tmp_path / "good.webm")
    (tmp_path / "no video.webm").write_bytes(b"no video")
    content = dali_videos.file(0).read_bytes()
    (tmp_path / "cut.webm").write_bytes(content[: len(content) // 2])
    gc.disable()
    try:
        for name in ("good", "no video", "cut", "missing"):
            for route in ("host", "gpu", "gpu-sparse"):
                clips = clip_table(tmp_path, [f"{name}.webm"] * 2)
                with (
                    make(clips, sampler=Uniform(4), route=route) as loader,
                    nullcontext() if name == "good" else pytest.raises(ValueError),
                ):
                    list(loader)
                assert not [thing for thing in gc.get_objects() if type(thing) is Pipeline], (name, route)
    finally:
        gc.enable()
