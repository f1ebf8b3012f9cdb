"""Order, draws and batches as pure functions, and clips against full decoding."""

from __future__ import annotations

import io
import multiprocessing
import pickle
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
from av.video.frame import VideoFrame
from conftest import NUM_FRAMES, clip_table, decode_all, encode, kind, leave_out, moving_disc, picks_by_hand
from hypothesis import given, settings
from hypothesis import strategies as st

from mgs_dali.decode import frames as video
from mgs_dali.decode.cut import cut
from mgs_dali.decode.frames import decode
from mgs_dali.decode.packets import Scan, open_video, scan
from mgs_dali.generator import Purpose, generator
from mgs_dali.index.measuring import measure_video
from mgs_dali.lists.table import Clips
from mgs_dali.load.clip import load_clip, load_sample
from mgs_dali.load.nvdec import refusal_without_gpu
from mgs_dali.load.plan import Draws, Plan, batch_samples, epoch_order, sample_draws
from mgs_dali.load.sources import EncodedSource, HostSource, _batch_at
from mgs_dali.sampling import Dense, MotionGuided, Uniform, motion_guided_frames, uniform_frames
from mgs_dali.video.file import VideoFile
from mgs_dali.views.protocols import Views
from mgs_dali.views.rand_augment import RandAugment

Sampler = MotionGuided | Uniform

# --- order ----------------------------------------------------------------------------------------------------------


@given(st.integers(1, 300), st.integers(0, 2**40), st.integers(0, 10**6))
def test_order_is_a_permutation(num_samples: int, seed: int, epoch: int) -> None:
    order = epoch_order(num_samples, seed=seed, epoch=epoch, shuffle=True)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(num_samples))
    np.testing.assert_array_equal(
        epoch_order(num_samples, seed=seed, epoch=epoch, shuffle=False), np.arange(num_samples)
    )


def test_order_changes_with_epoch_and_seed_and_nothing_else() -> None:
    orders = [
        tuple(epoch_order(50, seed=seed, epoch=epoch, shuffle=True).tolist()) for seed in range(5) for epoch in range(5)
    ]
    assert len(set(orders)) == 25
    epoch_order.cache_clear()
    assert tuple(epoch_order(50, seed=1, epoch=2, shuffle=True).tolist()) == orders[7]


def test_order_is_fair() -> None:
    """Every sample comes first about as often: 2000 draws of 10, standard deviation 13."""
    firsts = [int(epoch_order(10, seed=0, epoch=epoch, shuffle=True)[0]) for epoch in range(2000)]
    assert np.abs(np.bincount(firsts, minlength=10) - 200).max() < 5 * 13.5


def test_order_is_not_to_be_written_to() -> None:
    with pytest.raises(ValueError, match="read-only"):
        epoch_order(5, seed=0, epoch=0, shuffle=True)[0] = 1


@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 5), st.integers(0, 1000))
def test_ranks_share_out_the_order(num_samples: int, batch_size: int, world_size: int, seed: int) -> None:
    order = epoch_order(num_samples, seed=seed, epoch=0, shuffle=True)
    num_batches = -(-num_samples // (batch_size * world_size))
    given_out, valid = [], []
    for iteration in range(num_batches):
        for rank in range(world_size):
            samples, marks = batch_samples(
                order, iteration=iteration, batch_size=batch_size, rank=rank, world_size=world_size
            )
            assert kind(samples) == ("int64", (batch_size,))
            assert kind(marks) == ("bool", (batch_size,))
            given_out += samples.tolist()
            valid += marks.tolist()
    assert valid == [True] * num_samples + [False] * (len(valid) - num_samples)
    assert given_out[:num_samples] == order.tolist()
    assert given_out[num_samples:] == [int(order[k % num_samples]) for k in range(len(given_out) - num_samples)]


@given(st.integers(1, 60), st.sampled_from([(8, 1), (4, 2), (2, 4), (1, 8)]), st.integers(0, 6))
def test_the_global_batch_does_not_depend_on_how_many_share_it(
    num_samples: int, share: tuple[int, int], iteration: int
) -> None:
    batch_size, world_size = share
    order = epoch_order(num_samples, seed=3, epoch=1, shuffle=True)
    parts = [
        batch_samples(order, iteration=iteration, batch_size=batch_size, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    samples, valid = batch_samples(order, iteration=iteration, batch_size=8)
    assert np.concatenate([part[0] for part in parts]).tolist() == samples.tolist()
    assert np.concatenate([part[1] for part in parts]).tolist() == valid.tolist()


# --- draws ----------------------------------------------------------------------------------------------------------


def draw(seed: int = 0, epoch: int = 0, sample: int = 0, *, num_segments: int = 8, **changes: Any) -> Draws:
    options: dict[str, Any] = {"training": True, "sampler": Uniform(num_segments), "size": 224}
    options |= {"flip_probability": 0.5, **changes}
    return sample_draws(seed, epoch, sample, **options)


def values(draws: Draws) -> tuple[object, ...]:
    return (*draws.targets.tolist(), draws.flip, draws.box(340, 256))


def test_draws_depend_on_seed_epoch_and_sample() -> None:
    everything = [(seed, epoch, sample) for seed in range(4) for epoch in range(4) for sample in range(4)]
    drawn = {key: values(draw(*key)) for key in everything}
    assert len(set(drawn.values())) == len(everything)
    for key in reversed(everything):  # whatever was drawn before
        assert values(draw(*key)) == drawn[key]


def test_neighbouring_draws_are_not_related() -> None:
    """Correlation of 3000 pairs of uniform numbers: standard deviation 0.018."""
    keys = [(0, epoch, sample) for epoch in range(30) for sample in range(101)]
    numbers = np.array(
        [generator(key[0], purpose=Purpose.DRAWS, epoch=key[1], index=key[2]).random() for key in keys]
    ).reshape(30, 101)
    for ahead in (numbers[:, 1:].ravel(), np.roll(numbers, -1, axis=0)[:, :-1].ravel()):
        assert abs(np.corrcoef(numbers[:, :-1].ravel(), ahead)[0, 1]) < 0.1


@given(st.integers(1, 700), st.integers(1, 700), st.integers(0, 10**6), st.integers(16, 256))
def test_the_crop_of_a_size_is_always_the_same(width: int, height: int, sample: int, size: int) -> None:
    draws = draw(sample=sample, size=size)
    box = draws.box(width, height)
    draws.box(height, width)
    assert draws.box(width, height) == box
    assert pickle.loads(pickle.dumps(draw(sample=sample, size=size).targets)).tolist() == draws.targets.tolist()
    x, y, box_width, box_height = box
    assert 0 <= x <= x + box_width <= width
    assert 0 <= y <= y + box_height <= height


def test_training_draws_vary() -> None:
    drawn = [draw(sample=sample) for sample in range(400)]
    strata = np.array([d.targets for d in drawn]) * 8 - np.arange(8)
    assert strata.min() >= 0
    assert strata.max() < 1
    assert np.abs(strata.mean(axis=0) - 0.5).max() < 0.08  # standard deviation 0.014
    assert abs(np.mean([d.flip for d in drawn]) - 0.5) < 0.13  # standard deviation 0.025
    assert len({d.box(340, 256) for d in drawn}) > 80  # of 130
    flips = np.array([d.flip for d in drawn])
    assert abs(np.corrcoef(flips, strata[:, 0])[0, 1]) < 0.25
    assert not any(draw(sample=sample, flip_probability=0.0).flip for sample in range(200))
    assert all(draw(sample=sample, flip_probability=1.0).flip for sample in range(200))


def test_targets_do_not_depend_on_other_choices() -> None:
    reference = draw(sample=5)
    other = draw(sample=5, flip_probability=0.0, size=112)
    assert other.targets.tolist() == reference.targets.tolist()


def test_random_resized_crops_are_drawn_like_the_others() -> None:
    drawn = [draw(sample=sample, train_crop="random_resized") for sample in range(100)]
    assert len({d.box(340, 256) for d in drawn}) > 95
    for sample, draws in enumerate(drawn):
        assert draws.box(340, 256) == draws.box(340, 256)
        assert draws.targets.tolist() == draw(sample=sample).targets.tolist()
    assert min(d.box(340, 256)[2] for d in drawn) < 120  # smaller than any other crop: 0.66 of 256 are 168


@pytest.mark.parametrize(("train_crop", "least"), [("multi_scale", 180), ("random_resized", 195)])
def test_another_epoch_gives_another_crop(train_crop: str, least: int) -> None:
    """Of 200 samples; a crop of multi_scale, which has 130, comes again about once in a hundred."""
    boxes = [[draw(0, epoch, sample, train_crop=train_crop).box(340, 256) for sample in range(200)] for epoch in (0, 1)]
    assert sum(one != other for one, other in zip(*boxes, strict=True)) > least


@pytest.mark.parametrize("train_crop", ["multi_scale", "random_resized"])
def test_crops_do_not_depend_on_what_else_is_drawn(train_crop: str) -> None:
    others: list[dict[str, Any]] = [
        {"num_segments": 3},
        {"sampler": Dense(8)},
        {"sampler": MotionGuided(5)},
        {"flip_probability": 0.0},
        {"num_operations": 2},
    ]
    for sample in range(20):
        box = draw(sample=sample, train_crop=train_crop).box(340, 256)
        for other in others:
            assert draw(sample=sample, train_crop=train_crop, **other).box(340, 256) == box


@pytest.mark.parametrize("train_crop", ["multi_scale", "random_resized"])
def test_crops_are_not_related_to_targets(train_crop: str) -> None:
    """Correlation of 2000 pairs of numbers: standard deviation 0.022. From one stream it would be 0.7 and more."""
    drawn = [draw(sample=sample, train_crop=train_crop) for sample in range(2000)]
    strata = np.array([[*(d.targets * 8 - np.arange(8)), d.flip] for d in drawn])
    boxes = np.array([d.box(340, 256) for d in drawn], float)
    aspects = np.log(boxes[:, 2] / boxes[:, 3])
    areas = boxes[:, 2] * boxes[:, 3]
    related = np.corrcoef(np.column_stack([strata, boxes, aspects, areas]), rowvar=False)[:9, 9:]
    assert np.abs(related).max() < 0.1


def test_operations_are_drawn_after_the_rest() -> None:
    everything = [(seed, epoch, sample) for seed in range(4) for epoch in range(4) for sample in range(4)]
    drawn = {key: draw(*key, num_operations=3).operations for key in everything}
    assert len({tuple(operations.ravel().tolist()) for operations in drawn.values()}) > 60
    for key in reversed(everything):
        again = draw(*key, num_operations=3)
        assert kind(again.operations) == ("int32", (3, 2))
        np.testing.assert_array_equal(again.operations, drawn[key])
        assert values(again) == values(draw(*key))  # without operations nothing else changes
    assert draw().operations.shape == (0, 2)


def test_a_dense_clip_starts_anywhere() -> None:
    starts = [float(draw(sample=sample, sampler=Dense(8)).targets[0]) for sample in range(400)]
    assert draw(sampler=Dense(8)).targets.shape == (1,)
    assert np.abs(np.quantile(starts, [0.1, 0.5, 0.9]) - [0.1, 0.5, 0.9]).max() < 0.1
    assert min(starts) >= 0
    assert max(starts) < 1


def test_views_are_not_drawn_either() -> None:
    draws = draw(training=False, views=Views(2, "three"), num_operations=2)
    assert draws.targets.tolist() == [*((2 * np.arange(8) + 1) / 16).tolist(), *(np.arange(8) / 8).tolist()]
    assert draws.flips == (False,) * 3
    assert draws.boxes(340, 256) == [(0, 0, 256, 256), (84, 0, 256, 256), (42, 0, 256, 256)]
    assert draws.box(340, 256) == (0, 0, 340, 256)  # what is needed of the frames
    assert draws.operations.shape == (0, 2)
    assert draw(training=False, views=Views(crops="ten")).flips == (False, True) * 5
    assert not draw(training=False, views=Views(crops="ten")).flip


def test_evaluation_draws_nothing() -> None:
    drawn = {values(draw(seed, epoch, sample, training=False)) for seed, epoch, sample in np.ndindex(3, 3, 3)}
    # Short side 256, then the 224 x 224 in the middle of 340 x 256: no scaling here.
    assert drawn == {(*(np.arange(8) / 8 + 1 / 16).tolist(), False, (58, 16, 224, 224))}


# --- plan -----------------------------------------------------------------------------------------------------------


def plan_of(clips: Clips, **changes: Any) -> Plan:
    options: dict[str, Any] = {"sampler": MotionGuided(4), "batch_size": 3, "training": True, "size": 64, **changes}
    return Plan(clips, **options)


def table(num_clips: int, **options: Any) -> Clips:
    return clip_table(Path("videos"), [f"{index}.mp4" for index in range(num_clips)], **options)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"batch_size": 0}, r"batch_size \(0\) must be a whole number of at least 1"),
        ({"batch_size": 2.5}, r"batch_size \(2\.5\) must be a whole number"),
        ({"batch_size": "8"}, r"batch_size \('8'\) must be a whole number"),
        ({"size": 0}, r"size \(0\) must be a whole number of at least 1"),
        ({"seed": -1}, r"seed \(-1\) must be a whole number of at least 0"),
        ({"world_size": 0}, r"world_size \(0\) must be a whole number of at least 1"),
        ({"rank": -1}, r"rank \(-1\) must be a whole number of at least 0"),
        ({"rank": 2, "world_size": 2}, r"rank \(2\) must be below world_size \(2\)"),
        ({"train_crop": "centre"}, r"train_crop \('centre'\) must be one of 'multi_scale', 'random_resized'"),
        ({"rand_augment": RandAugment(0, 9)}, r"rand_augment \(\[0, 9\]\) must be \[operations, strength\]"),
        ({"views": Views(2)}, r"Views\(num_clips=2, crops='centre'\) is for evaluation"),
        ({"views": Views(3), "training": False}, r"3 clips of a video asked for, but MotionGuided has at most 2"),
        (
            {"views": Views(crops="ten"), "training": False, "flip_label_map": {0: 1}},
            r"flip_label_map says that mirrored clips have other labels.*crops='three'",
        ),
        ({"flip_probability": 1.5}, r"flip_probability \(1\.5\) must be between 0 and 1"),
        ({"flip_probability": -0.1}, r"flip_probability \(-0\.1\) must be between 0 and 1"),
        ({"flip_probability": float("nan")}, r"flip_probability \(nan\) must be between 0 and 1"),
        ({"flip_label_map": {0: 7}}, r"flip_label_map names label 7; the labels of videos/list\.txt are 0 to 1"),
        ({"flip_label_map": {-1: 0}}, r"flip_label_map names label -1"),
    ],
)
def test_what_a_plan_does_not_take(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        plan_of(table(4), **changes)


def test_a_list_without_clips() -> None:
    with pytest.raises(ValueError, match=r"videos/list\.txt: no clips\. The list needs at least one line\."):
        plan_of(table(0))


@pytest.mark.parametrize(
    ("num_clips", "world_size", "num_batches"), [(1, 1, 1), (6, 1, 2), (7, 1, 3), (7, 2, 2), (13, 2, 3)]
)
def test_number_of_batches(num_clips: int, world_size: int, num_batches: int) -> None:
    assert plan_of(table(num_clips), world_size=world_size).num_batches == num_batches


def test_names_tell_file_and_line() -> None:
    assert re.fullmatch(r"videos/2\.mp4 \(.*list\.txt, line 3\)", plan_of(table(4)).name(2))


FLIPS = np.array([True, False, True, True])


@pytest.mark.parametrize(
    ("flip_label_map", "expected"),
    [
        (None, [0, 0, 1, 3]),
        ({}, [0, 0, 1, 3]),
        ({0: 1, 1: 0}, [1, 0, 0, 3]),
        ({0: 2}, [2, 0, 1, 3]),
        ({3: 0, 0: 1, 1: 3}, [1, 0, 3, 0]),
    ],
)
def test_labels_of_flipped_clips(flip_label_map: Mapping[int, int] | None, expected: list[int]) -> None:
    clips = table(4, labels=[0, 0, 1, 3], num_classes=4)
    plan = plan_of(clips, flip_label_map=flip_label_map)
    labels = plan.labels(np.arange(4), FLIPS)
    assert labels.dtype == np.int64
    assert labels.tolist() == expected
    assert plan.labels(np.arange(4), np.zeros(4, bool)).tolist() == [0, 0, 1, 3]
    assert clips.labels.tolist() == [0, 0, 1, 3]
    assert plan.labels(np.array([3, 0]), np.array([False, True])).tolist() == [3, expected[0]]


@pytest.mark.parametrize(
    ("flip_label_map", "expected"),
    [
        (None, [{0, 2}, {0, 1}, {1}, {0, 1, 3}]),
        ({0: 1, 1: 0}, [{1, 2}, {0, 1}, {0}, {0, 1, 3}]),
        # A label that is only the mirrored one of another: both names stand for the same picture afterwards.
        ({0: 1}, [{1, 2}, {0, 1}, {1}, {1, 3}]),
        ({2: 0, 0: 3, 3: 2}, [{3, 0}, {0, 1}, {1}, {3, 1, 2}]),
    ],
)
def test_several_labels_of_flipped_clips(flip_label_map: Mapping[int, int] | None, expected: list[set[int]]) -> None:
    rows = [{0, 2}, {0, 1}, {1}, {0, 1, 3}]
    hot = np.array([[float(label in row) for label in range(4)] for row in rows], np.float32)
    labels = plan_of(table(4, labels=hot, num_classes=4), flip_label_map=flip_label_map).labels(np.arange(4), FLIPS)
    assert labels.dtype == np.float32
    assert set(np.unique(labels)) <= {0.0, 1.0}
    assert [set(np.flatnonzero(row).tolist()) for row in labels] == expected


# --- clips ----------------------------------------------------------------------------------------------------------

SAMPLERS = [MotionGuided(8), MotionGuided(5, mu=1.0, floor=0.3, pick="inverse"), Uniform(8)]


def restated_picks(file: Path, targets: np.ndarray, sampler: Sampler) -> np.ndarray:
    if isinstance(sampler, Uniform):
        return uniform_frames(len(decode_all(file, "gray")), targets)
    planes = decode_all(file, "yuvj420p" if file.suffix == ".avi" else "yuv420p")[:, :64].astype(float)
    averages = planes.reshape(len(planes), 32, 2, 48, 2).mean(axis=(2, 4))
    motion = np.abs(np.diff(averages, axis=0)).mean(axis=(1, 2))
    return motion_guided_frames(motion, targets, mu=sampler.mu, floor=sampler.floor, pick=sampler.pick)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
@pytest.mark.parametrize("name", ["h264", "vp8", "vp8-hidden", "vp9", "mjpeg"])
def test_load_clip(videos: dict[str, Path], name: str, sampler: Sampler, training: bool) -> None:
    draws = draw(sample=3, training=training, num_segments=sampler.num_segments, size=48)
    pixels, frames, *_ = load_clip(VideoFile(videos[name], "v"), draws, sampler=sampler)
    assert (frames.dtype.name, pixels.dtype.name) == ("int64", "uint8")
    assert frames.tolist() == restated_picks(videos[name], draws.targets, sampler).tolist()
    x, y, width, height = draws.box(96, 64)
    np.testing.assert_array_equal(pixels, decode_all(videos[name])[frames, y : y + height, x : x + width])


@pytest.mark.parametrize("sparse", [False, True])
def test_a_known_curve_is_read_as_the_sampler_says(videos: dict[str, Path], sparse: bool) -> None:
    motion = np.random.default_rng(3).random(NUM_FRAMES - 1).astype(np.float32) ** 6 + 0.01
    draws = draw(num_segments=6, training=False)
    found = set()
    for mu, floor, pick in [(0.5, 0.0, "nearest"), (1.0, 0.0, "nearest"), (0.5, 0.0, "inverse"), (1.0, 0.3, "inverse")]:
        sampler = MotionGuided(6, mu=mu, floor=floor, pick=pick)
        clip = load_clip(VideoFile(videos["h264"], "v"), draws, sampler=sampler, motion=motion, sparse=sparse)
        assert clip.frames.tolist() == picks_by_hand(motion, draws.targets, mu=mu, floor=floor, pick=pick)
        found.add(tuple(clip.frames.tolist()))
    assert len(found) == 4  # each of the parameters matters here


@pytest.mark.parametrize("sampler", SAMPLERS[:2], ids=str)
@pytest.mark.parametrize("name", ["h264", "vp8-hidden", "mjpeg"])
def test_clips_too_long_for_memory_are_the_same(
    videos: dict[str, Path], monkeypatch: pytest.MonkeyPatch, name: str, sampler: Sampler
) -> None:
    draws = draw(sample=1, num_segments=sampler.num_segments)
    once = load_clip(VideoFile(videos[name], "v"), draws, sampler=sampler)
    num_opened = 0

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal num_opened
        num_opened += 1
        return open_video(*arguments, **options)

    monkeypatch.setattr(video, "open_video", counted)
    monkeypatch.setattr(video, "KEPT_FRAMES_MIB", 0)
    twice = load_clip(VideoFile(videos[name], "v"), draws, sampler=sampler)
    assert num_opened == 1  # again
    for one, other in zip(once[:3], twice[:3], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("sampler", [MotionGuided(3), MotionGuided(3, pick="inverse"), Uniform(3)], ids=str)
@pytest.mark.parametrize("num_frames", [1, 2])
def test_clips_from_very_short_videos(tmp_path: Path, sampler: Sampler, num_frames: int) -> None:
    file = encode(tmp_path / "short.mkv", moving_disc(num_frames, action=(0, 1)), "ffv1")
    pixels, frames, *_ = load_clip(VideoFile(file, "v"), draw(num_segments=3, training=False), sampler=sampler)
    assert pixels.shape[0] == 3
    assert set(frames.tolist()) <= set(range(num_frames))


def late_start(video: Path, file: Path) -> Path:
    """A file whose packets are more than its frames: H.264 that starts inside a GOP after a cut."""
    with av.open(str(video)) as original, av.open(str(file), "w") as copy:
        stream = copy.add_stream_from_template(original.streams.video[0])
        for index, packet in enumerate(original.demux(video=0)):
            if packet.dts is not None and index >= 12:
                packet.stream = stream
                copy.mux(packet)
    return file


@pytest.mark.parametrize("sparse", [False, True])
def test_recordings_that_start_inside_a_gop(videos: dict[str, Path], tmp_path: Path, sparse: bool) -> None:
    file = late_start(videos["h264"], tmp_path / "late.mkv")
    everything = decode_all(file)
    found = scan(file)
    assert len(everything) == found.num_frames < found.num_packets
    draws = draw(training=False)
    pixels, frames, *_ = load_clip(VideoFile(file, "v"), draws, sampler=Uniform(8), sparse=sparse)
    assert frames.tolist() == [int((2 * k + 1) * len(everything) / 16) for k in range(8)]
    x, y, width, height = draws.box(96, 64)
    np.testing.assert_array_equal(pixels, everything[frames, y : y + height, x : x + width])
    assert len(measure_video(file, measure="packet").motion) == len(everything) - 1


def test_picks_by_packet_sizes_need_no_motion_pass(videos: dict[str, Path]) -> None:
    sampler = MotionGuided(6, measure="packet")
    draws = draw(num_segments=6, training=False)
    clip = load_clip(VideoFile(videos["h264"], "v"), draws, sampler=sampler, sparse=True)
    motion = measure_video(videos["h264"], measure="packet").motion
    assert clip.frames.tolist() == motion_guided_frames(motion, draws.targets).tolist()
    x, y, width, height = draws.box(96, 64)
    expected = decode_all(videos["h264"])[clip.frames, y : y + height, x : x + width]
    np.testing.assert_array_equal(clip.pixels, expected)
    assert np.isnan(clip.measured).all()
    assert clip.detour == ""
    whole = load_clip(VideoFile(videos["h264"], "v"), draws, sampler=sampler)
    np.testing.assert_array_equal(whole.pixels, clip.pixels)


def test_packet_sizes_of_keyframes_say_nothing(videos: dict[str, Path]) -> None:
    draws = draw(num_segments=4, training=False)
    with pytest.raises(ValueError, match=r"^v: all of its 60 frames are keyframes.*Use measure pixel"):
        load_clip(VideoFile(videos["mjpeg"], "v"), draws, sampler=MotionGuided(4, measure="packet"), sparse=True)


def test_what_sparse_decoding_could_not_leave_out_is_said(videos: dict[str, Path], tmp_path: Path) -> None:
    draws = draw(num_segments=4, training=False)
    interlaced = encode(
        tmp_path / "i.mp4", moving_disc(30), "libx264", options={"x264-params": "keyint=20:interlaced=1"}
    )
    late = late_start(videos["h264"], tmp_path / "late.mkv")
    live = late_start(videos["h264"], tmp_path / "live.ts")
    for file, detour in (
        (videos["h264"], ""),
        (interlaced, "from the first frame on, because of: interlaced H.264"),
        (late, "from the first frame that can be decoded on, in recordings that begin inside a GOP"),
        (
            live,
            "from the first frame that can be decoded on, in recordings that begin inside a GOP; from files that do",
        ),
    ):
        clip = load_clip(VideoFile(file, "v"), draws, sampler=Uniform(4), sparse=True)
        assert clip.detour.startswith(detour)
        assert bool(clip.detour) == bool(detour)
        whole = load_clip(VideoFile(file, "v"), draws, sampler=Uniform(4))
        assert whole.detour == (clip.detour if file in (late, live) else "")


@pytest.mark.parametrize("sampler", [MotionGuided(4), Uniform(4)], ids=str)
def test_clips_that_cannot_be_loaded(tmp_path: Path, sampler: Sampler) -> None:
    (tmp_path / "text.mp4").write_text("no video")
    for name in ("text.mp4", "missing.mp4"):
        with pytest.raises(ValueError, match=r"^a\.txt, line 9: "):
            load_clip(VideoFile(tmp_path / name, "a.txt, line 9"), draw(num_segments=4), sampler=sampler)


@pytest.mark.parametrize("sampler", [MotionGuided(4), Uniform(4)], ids=str)
def test_cut_off_files_whose_header_tells_are_errors(videos: dict[str, Path], tmp_path: Path, sampler: Sampler) -> None:
    """On the GPU's route they are; a clip from what is left would be a silent replacement."""
    with av.open(str(videos["mjpeg"])) as container:
        place = [packet.pos for packet in container.demux(video=0)][30]
    assert place is not None
    file = tmp_path / "cut.avi"
    file.write_bytes(videos["mjpeg"].read_bytes()[:place])  # between two packets: what is left decodes
    with pytest.raises(ValueError, match=r"^v: its RIFF chunk ends at byte \d+, .* The file is cut off"):
        load_clip(VideoFile(file, "v"), draw(num_segments=4, training=False), sampler=sampler)


# --- sources for DALI -----------------------------------------------------------------------------------------------


def texts(column: list[np.ndarray]) -> list[str]:
    assert all(row.dtype == np.uint8 and row.ndim == 1 for row in column)
    return [row.tobytes().decode() for row in column]


def expected_samples(plan: Plan, epoch: int, iteration: int) -> list[int]:
    return plan.batch(epoch, iteration)[0].tolist()


@pytest.mark.parametrize("start", [(0, 0), (2, 3)])
def test_host_source_gives_the_rows_of_the_plan(dali_videos: Clips, start: tuple[int, int]) -> None:
    plan = plan_of(dali_videos, sampler=MotionGuided(3), flip_probability=0.5, size=48, index_is_whole=False)
    assert plan.num_batches == 4
    rows = HostSource(plan, start)
    for steps in (0, 1, 5):
        position = start[0] * 4 + start[1] + steps
        epoch, samples = position // 4, expected_samples(plan, position // 4, position % 4)
        pixels, frames, flips, measured, detours, errors = rows(SimpleNamespace(iteration=steps, epoch_idx=99))
        assert texts(detours) == texts(errors) == [""] * 3
        for row, sample in enumerate(samples):
            draws = plan.draws(epoch, sample)
            clip, picks, *_ = load_clip(VideoFile(dali_videos.file(sample), "v"), draws, sampler=plan.sampler)
            np.testing.assert_array_equal(pixels[row], clip)
            assert frames[row].tolist() == picks.tolist()
            assert (kind(flips[row]), bool(flips[row][0])) == (("int32", (1,)), draws.flip)
            np.testing.assert_array_equal(measured[row], measure_video(dali_videos.file(sample)).motion)


def test_encoded_source_gives_the_rows_of_the_plan(dali_videos: Clips) -> None:
    plan = plan_of(dali_videos, flip_probability=0.5, size=48, rank=1, world_size=2)
    rows = EncodedSource(plan, refusal_without_gpu, start=(1, 1))
    # the second batch of epoch 2
    columns = dict(zip(rows.columns, rows(SimpleNamespace(iteration=2)), strict=True))
    assert texts(columns["note"]) == texts(columns["detour"]) == texts(columns["error"]) == [""] * 3
    for row, sample in enumerate(expected_samples(plan, 2, 1)):
        found = {name: column[row] for name, column in columns.items()}
        everything = decode_all(dali_videos.file(sample))
        draws = plan.draws(2, sample)
        assert (kind(found["in_graph"]), bool(found["in_graph"])) == (("bool", ()), True)
        with av.open(io.BytesIO(found["file"].tobytes()), "r") as container:
            copied = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert len(copied) == len(everything)
        assert np.abs(copied[-1].astype(int) - everything[-1]).mean() < 2  # converted with less care
        assert (kind(found["decoded"]), len(found["decoded"])) == (("int32", (len(everything),)), len(everything))
        is_all = found["file"].tobytes() == cut(dali_videos.file(sample), None).file and not hides(
            copied, found["file"]
        )
        assert (kind(found["is_all"]), bool(found["is_all"])) == (("bool", ()), is_all)
        assert (kind(found["targets"]), found["targets"].tolist()) == (("float64", (4,)), draws.targets.tolist())
        height, width = everything.shape[1:3]
        assert (kind(found["crops"]), tuple(found["crops"][0])) == (("int32", (1, 4)), draws.box(width, height))
        assert (kind(found["turn"]), found["turn"].tolist()) == (("int32", (3,)), [0, 0, 0])
        assert (kind(found["colours"]), found["colours"].round(6).tolist()) == (("float32", (3, 3)), np.eye(3).tolist())
        assert (kind(found["flips"]), bool(found["flips"][0])) == (("int32", (1,)), draws.flip)


def hides(copied: list[np.ndarray], file: np.ndarray) -> bool:
    """Whether a copy has packets that show nothing."""
    with av.open(io.BytesIO(file.tobytes()), "r") as container:
        return sum(packet.size > 0 for packet in container.demux(video=0)) > len(copied)


@pytest.mark.parametrize("sampler", [MotionGuided(3), Uniform(3), Dense(3)], ids=str)
def test_a_video_is_decoded_once_for_all_its_views(
    dali_videos: Clips, sampler: Sampler | Dense, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = []

    def count(*arguments: Any, **options: Any) -> Iterator[VideoFrame]:
        for frame in decode(*arguments, **options):
            decoded.append(frame)
            yield frame

    monkeypatch.setattr(video, "decode", count)
    plan = plan_of(dali_videos, sampler=sampler, batch_size=1, training=False, views=Views(2, "ten"))
    pixels, crops, frames, flips, *_ = HostSource(plan)(SimpleNamespace(iteration=4))
    everything = decode_all(dali_videos.file(4))
    assert 0 < len(decoded) <= len(everything)
    assert frames[0].shape == (6,)
    np.testing.assert_array_equal(pixels[0], everything[frames[0]])  # whole frames
    assert [tuple(box) for box in crops[0].tolist()] == plan.draws(0, 4).boxes(*everything.shape[2:0:-1])
    assert flips[0].tolist() == [0, 1] * 5


def test_sources_give_the_columns_that_the_graph_uses(dali_videos: Clips) -> None:
    """DALI warns of others."""
    names = {"crops", "operations", "targets", "places"}
    augmented, views = RandAugment(2, 9), Views(crops="three")
    for kind_of_source, changes, used in (
        (HostSource, {}, set()),
        (HostSource, {"rand_augment": augmented}, {"operations"}),
        (HostSource, {"rand_augment": augmented, "training": False}, set()),
        (HostSource, {"training": False, "views": views}, {"crops"}),
        (EncodedSource, {}, {"crops", "targets"}),
        (EncodedSource, {"sampler": Uniform(4), "rand_augment": augmented}, {"crops", "operations", "places"}),
    ):
        plan = plan_of(dali_videos, **changes)
        rows = HostSource(plan) if kind_of_source is HostSource else EncodedSource(plan, refusal_without_gpu)
        assert names & set(rows.columns) == used


def bad_table(videos: dict[str, Path], folder: Path) -> Clips:
    """A good file, a missing one, a text, a cut one, and one of another codec."""
    (folder / "good.avi").write_bytes(videos["mjpeg"].read_bytes())
    (folder / "text.avi").write_text("no video")
    content = videos["mjpeg"].read_bytes()
    (folder / "cut.avi").write_bytes(content[: len(content) // 2])
    (folder / "h264.mp4").write_bytes(videos["h264"].read_bytes())
    return clip_table(folder, ["good.avi", "missing.avi", "text.avi", "cut.avi", "h264.mp4"])


def test_bad_samples_are_rows_with_a_text(videos: dict[str, Path], tmp_path: Path) -> None:
    clips = bad_table(videos, tmp_path)
    plan = plan_of(clips, batch_size=5, training=False)
    rows = EncodedSource(plan, refusal_without_gpu, strict=True)(SimpleNamespace(iteration=0))
    in_graph, files, *_, errors = rows
    assert [bool(row) for row in in_graph] == [True, False, False, False, False]
    good, missing, text, cut_off, codec = texts(errors)
    assert good == ""
    for line, found in enumerate((missing, text, cut_off, codec), start=2):
        assert found.startswith(f"{clips.file(line - 1)} (")
        assert f"list.txt, line {line})" in found
        assert len(files[line - 1]) == 1
    assert "no such file" in missing
    assert "cannot be opened as a video" in text
    assert re.search(r"its RIFF chunk ends at byte \d+, the file at byte \d+\. The file is cut off", cut_off)
    assert "codec h264 is not decoded without a GPU (decoded: mjpeg, vp8, vp9)" in codec
    assert f"({NUM_FRAMES} frames of" in codec
    assert "Use route='auto', which decodes such videos on the CPU" in codec

    pixels, frames, *_, errors = HostSource(plan)(SimpleNamespace(iteration=0))
    good, missing, text, cut_off, h264 = texts(errors)
    assert (good, h264) == ("", "")
    assert "The file is cut off" in cut_off
    assert "no such file" in missing
    assert "cannot be opened as a video" in text
    assert all(len(row) == 4 and row.ndim == 4 for row in pixels)
    assert all(row.shape == (4,) for row in frames)


def test_a_video_cut_by_an_edit_list_is_not_cut_off(videos: dict[str, Path], tmp_path: Path) -> None:
    assert len(decode_all(leave_out(videos["mjpeg"], 10, tmp_path / "cut.mp4"))) == NUM_FRAMES - 10
    plan = plan_of(clip_table(tmp_path, ["cut.mp4"]), batch_size=1, training=False)
    *_, errors = EncodedSource(plan, refusal_without_gpu)(SimpleNamespace(iteration=0))
    assert texts(errors) == [""]


def test_sources_work_in_spawned_processes(dali_videos: Clips) -> None:
    plan = plan_of(dali_videos, sampler=Uniform(2), size=32)
    info = SimpleNamespace(iteration=1)
    for rows in (HostSource(plan), EncodedSource(plan, refusal_without_gpu)):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            there = pool.apply(rows.__call__, (info,))
        for one, other in zip(rows(info), there, strict=True):
            assert len(one) == len(other) == 3
            for a, b in zip(one, other, strict=True):
                np.testing.assert_array_equal(a, b)


def test_the_graph_is_given_copies_of_the_needed_packets(tmp_path: Path) -> None:
    encode(tmp_path / "v.webm", moving_disc(60), "libvpx-vp9", gop=10, options={"deadline": "realtime"})
    plan = plan_of(clip_table(tmp_path, ["v.webm"]), sampler=Uniform(2), batch_size=1, training=False)
    rows = EncodedSource(plan, refusal_without_gpu, sparse=True)
    columns = dict(zip(rows.columns, rows(SimpleNamespace(iteration=0)), strict=True))
    assert columns["frames"][0].tolist() == [15, 45]
    file = columns["file"][0].tobytes()
    assert len(file) < (tmp_path / "v.webm").stat().st_size
    assert scan(file).num_packets <= 12  # of two GOPs, up to the sixth packet each
    (tmp_path / "copy.mkv").write_bytes(file)
    chosen = decode_all(tmp_path / "copy.mkv")[columns["decoded"][0]][columns["places"][0]]
    np.testing.assert_array_equal(chosen, decode_all(tmp_path / "v.webm")[[15, 45]])


def test_the_published_training_leaves_out_the_tail(tmp_path: Path) -> None:
    """mmaction2's SampleFrames: eight parts of 3 frames, and of 30 frames the last six are never seen."""
    encode(tmp_path / "v.avi", moving_disc(30), "mjpeg", pixel_format="yuvj420p")
    clips = clip_table(tmp_path, ["v.avi"])
    seen = set()
    for epoch in range(60):
        plan = plan_of(clips, sampler=Uniform(8, keep_tail=False), batch_size=1)
        frames = load_sample(plan, 0, plan.draws(epoch, 0)).frames.tolist()
        assert [frame // 3 for frame in frames] == list(range(8))
        seen |= set(frames)
    assert seen == set(range(24))
    plan = plan_of(clips, sampler=Uniform(8, keep_tail=False), batch_size=1, training=False)
    assert load_sample(plan, 0, plan.draws(0, 0)).frames.tolist() == [1, 5, 9, 13, 16, 20, 24, 28]


def test_packet_measure_and_an_index_exclude_each_other(dali_videos: Clips) -> None:
    with pytest.raises(ValueError, match=r"measure='packet'.*Leave out one"):
        plan_of(dali_videos, sampler=MotionGuided(2, measure="packet"), motion_index={})


def test_plans_can_be_changed_and_compared(dali_videos: Clips) -> None:
    plan = plan_of(dali_videos)
    assert replace(plan, seed=5).seed == 5
    assert pickle.loads(pickle.dumps(replace(plan, flip_label_map={0: 1}))).flip_label_map == {0: 1}


@settings(max_examples=30)
@given(st.integers(0, 20), st.integers(0, 3), st.integers(0, 40))
def test_batches_follow_each_other_over_epochs(epoch: int, iteration: int, steps: int) -> None:
    plan = plan_of(table(10))
    rows = [
        (e, tuple(plan.batch(e, i)[0].tolist())) for e in range(epoch, epoch + 12) for i in range(plan.num_batches)
    ][iteration:]
    found_epoch, samples = _batch_at(plan, (epoch, iteration), steps)
    assert (found_epoch, tuple(samples.tolist())) == rows[steps]


def nothing_is_refused(_: Scan) -> str:
    return ""


@pytest.mark.parametrize("strict", [False, True])
def test_the_graph_is_not_given_videos_whose_frames_only_decoding_counts(tmp_path: Path, strict: bool) -> None:
    encode(tmp_path / "interlaced.mp4", moving_disc(30), "libx264", options={"x264-params": "keyint=20:interlaced=1"})
    plan = plan_of(clip_table(tmp_path, ["interlaced.mp4"]), batch_size=1, training=False)
    rows = EncodedSource(plan, nothing_is_refused, strict=strict)
    columns = dict(zip(rows.columns, rows(SimpleNamespace(iteration=0)), strict=True))
    (note,), (error,) = texts(columns["note"]), texts(columns["error"])
    assert not columns["in_graph"][0]
    if strict:
        assert re.search(r"line 1\): only decoding tells which frames it shows \(interlaced H\.264\)", error)
    else:
        assert (note, error) == ("only decoding tells which frames it shows (interlaced H.264)", "")
        assert columns["pixels"][0].std() > 0
