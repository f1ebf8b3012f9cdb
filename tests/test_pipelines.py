"""The pipelines themselves, with their worker processes. Needs DALI, not PyTorch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import NUM_FRAMES, clip_table, decode_all, encode, kind, leave_out, moving_disc
from nvidia.dali import types

from mgs_dali.lists.table import Clips
from mgs_dali.load.clip import load_clip
from mgs_dali.load.nvdec import refusal_without_gpu
from mgs_dali.load.pipelines import decoded_clips, encoded_clips
from mgs_dali.load.plan import Plan
from mgs_dali.load.sources import EncodedSource, HostSource
from mgs_dali.load.workers import workers_follow
from mgs_dali.sampling import MotionGuided, Uniform, uniform_frames
from mgs_dali.video.file import VideoFile

SIZE = 32
MEAN = np.array([0.485, 0.456, 0.406])[:, None, None]
STD = np.array([0.229, 0.224, 0.225])[:, None, None]

Sampler = MotionGuided | Uniform
Rows = list[list[np.ndarray]]


def plan_of(clips: Clips, sampler: Sampler, **changes: Any) -> Plan:
    options: dict[str, Any] = {"batch_size": 4, "training": True, "size": SIZE, "flip_probability": 0.5, **changes}
    return Plan(clips, sampler, **options)


def batches(route: str, plan: Plan, *, workers: int = 1, start: tuple[int, int] = (0, 0)) -> Iterator[Rows]:
    """The outputs of a pipeline, a list of arrays each, batch after batch."""
    options: dict[str, Any] = {
        "size": plan.size,
        "device": "cpu",
        "dtype": types.FLOAT,
        "prefetch_batches": 2,
        "batch_size": plan.batch_size,
        "num_threads": 1,
        "device_id": None,
        "py_num_workers": workers,
        "py_start_method": "fork",
    }
    if route == "host":
        pipeline = decoded_clips(HostSource(plan, start), **options)
    else:
        pipeline = encoded_clips(EncodedSource(plan, refusal_without_gpu, start=start), **options)
    with workers_follow():
        pipeline.start_py_workers()
    pipeline.build()
    while True:
        clips, frames, flips, *_, errors = pipeline.run()
        outputs = (clips, frames, flips, errors)
        yield [[np.array(output.at(row)) for row in range(plan.batch_size)] for output in outputs]


def to_levels(clip: np.ndarray) -> np.ndarray:
    """Normalised clips as grey levels, 0 to 255."""
    return (clip * STD + MEAN) * 255


def resized(pixels: np.ndarray) -> np.ndarray:
    """Area means of a crop whose sides are whole multiples of SIZE, (T, 3, SIZE, SIZE)."""
    num_frames, height, width, _ = pixels.shape
    squares = pixels.reshape(num_frames, SIZE, height // SIZE, SIZE, width // SIZE, 3)
    return squares.mean(axis=(2, 4)).transpose(0, 3, 1, 2)


@pytest.mark.parametrize("sampler", [MotionGuided(4), MotionGuided(4, pick="inverse", mu=1.0), Uniform(4)], ids=str)
@pytest.mark.parametrize("route", ["host", "gpu"])
def test_batches_are_those_of_the_plan(dali_videos: Clips, route: str, sampler: Sampler) -> None:
    plan = plan_of(dali_videos, sampler)
    for position, (clips, frames, flips, errors) in zip(range(4), batches(route, plan), strict=False):
        epoch, iteration = divmod(position, plan.num_batches)
        samples, _ = plan.batch(epoch, iteration)
        for row, sample in enumerate(samples.tolist()):
            draws = plan.draws(epoch, sample)
            pixels, picks, *_ = load_clip(VideoFile(dali_videos.file(sample), "v"), draws, sampler=sampler)
            assert errors[row].size == 0
            assert kind(frames[row]) == ("int64", (4,))
            assert kind(clips[row]) == ("float32", (4, 3, SIZE, SIZE))
            assert bool(flips[row]) == draws.flip
            assert np.abs(frames[row] - picks).max() <= (1 if route == "gpu" else 0)
            if frames[row].tolist() != picks.tolist():
                continue
            mean = pixels.mean(axis=(1, 2))
            np.testing.assert_allclose(to_levels(clips[row]).mean(axis=(2, 3)), mean, atol=1.5)
            left = pixels[:, :, : pixels.shape[2] // 2].mean(axis=(1, 2))
            half = to_levels(clips[row])[..., SIZE // 2 :] if draws.flip else to_levels(clips[row])[..., : SIZE // 2]
            np.testing.assert_allclose(half.mean(axis=(2, 3)), left, atol=4)


@pytest.mark.parametrize("route", ["host", "gpu"])
def test_pixels_of_a_crop_that_is_a_multiple_of_the_size(tmp_path: Path, route: str) -> None:
    """Evaluation of 74 x 74 (short side 37 for size 32, twice that here) crops 64 x 64: squares of 2 x 2 pixels."""
    encode(tmp_path / "v.avi", moving_disc(30, width=74, height=74), "mjpeg", pixel_format="yuvj420p")
    plan = plan_of(clip_table(tmp_path, ["v.avi"]), Uniform(3), batch_size=1, training=False)
    ((clip,), (frames,), _, _) = next(batches(route, plan))
    assert frames.tolist() == [5, 15, 25]
    x, y, width, height = plan.draws(0, 0).box(74, 74)
    assert (width, height) == (64, 64)
    expected = resized(decode_all(tmp_path / "v.avi")[frames][:, y : y + 64, x : x + 64].astype(float))
    apart = np.abs(to_levels(clip) - expected)
    assert apart.mean() < 1  # an antialiasing triangle is a little wider than the square


@pytest.mark.parametrize("sampler", [MotionGuided(8), Uniform(8)], ids=str)
def test_hidden_frames_do_not_become_black_pictures(videos: dict[str, Path], sampler: Sampler) -> None:
    """VP8 files with alternate references have more packets than frames; DALI counts packets."""
    file = videos["vp8-hidden"]
    plan = plan_of(clip_table(file.parent, [file.name]), sampler, batch_size=1, training=False)
    ((clip,), (frames,), _, (error,)) = next(batches("gpu", plan))
    assert error.tobytes() == b""
    assert frames.max() < NUM_FRAMES
    pixels, picks, *_ = load_clip(VideoFile(file, "v"), plan.draws(0, 0), sampler=sampler)
    assert np.abs(frames - picks).max() <= 1
    np.testing.assert_allclose(to_levels(clip).mean(axis=(2, 3)), pixels.mean(axis=(1, 2)), atol=2)


@pytest.mark.parametrize("sampler", [MotionGuided(8), Uniform(8)], ids=str)
def test_frames_that_an_edit_list_leaves_out_do_not_become_black_pictures(
    videos: dict[str, Path], tmp_path: Path, sampler: Sampler
) -> None:
    file = leave_out(videos["vp9"], 10, tmp_path / "cut.mp4")
    plan = plan_of(clip_table(tmp_path, ["cut.mp4"]), sampler, batch_size=1, training=False)
    ((clip,), (frames,), _, (error,)) = next(batches("gpu", plan))
    assert error.tobytes().decode() == ""
    pixels, picks, *_ = load_clip(VideoFile(file, "v"), plan.draws(0, 0), sampler=sampler)
    assert np.abs(frames - picks).max() <= 1
    np.testing.assert_allclose(to_levels(clip).mean(axis=(2, 3)), pixels.mean(axis=(1, 2)), atol=2)


@pytest.mark.parametrize("route", ["host", "gpu"])
def test_workers_do_not_change_anything(dali_videos: Clips, route: str) -> None:
    plan = plan_of(dali_videos, MotionGuided(2))
    one, three = (batches(route, plan, workers=workers, start=(1, 1)) for workers in (1, 3))
    for _ in range(3):
        for a, b in zip(next(one), next(three), strict=True):
            for left, right in zip(a, b, strict=True):
                np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("route", ["host", "gpu"])
def test_errors_travel_as_rows_and_the_pipeline_goes_on(dali_videos: Clips, tmp_path: Path, route: str) -> None:
    (tmp_path / "text.webm").write_text("no video")
    good = str(dali_videos.file(0))
    clips = clip_table(tmp_path, [good, "text.webm", "missing.webm", good, good, good, good, good])
    plan = plan_of(clips, Uniform(2), training=False)
    outputs = batches(route, plan)
    for expected in ((0, 1, 2, 3), (4, 5, 6, 7), (0, 1, 2, 3)):
        _, frames, _, errors = next(outputs)
        for row, sample in enumerate(expected):
            text = errors[row].tobytes().decode()
            if sample in (1, 2):
                assert text.startswith(f"{clips.file(sample)} (")
                assert f"line {sample + 1}" in text
            else:
                assert text == ""
                num_frames = len(decode_all(dali_videos.file(0)))
                assert frames[row].tolist() == uniform_frames(num_frames, np.array([0.25, 0.75])).tolist()
