"""Frame sampling: worked numbers of the published rules, restatements in plain Python, and properties."""

import math
import pickle
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mgs_dali.sampling import (
    Dense,
    MotionGuided,
    Uniform,
    dense_frames,
    dense_starts,
    motion_cdf,
    motion_guided_frames,
    segment_targets,
    stratum_starts,
    uniform_frames,
)

seeds = st.integers(0, 2**32)
segments = st.integers(1, 64)
changes = st.one_of(st.just(0.0), st.floats(1e-3, 1e3))
motions = st.lists(changes, min_size=1, max_size=100)
moving = motions.filter(any)
picks = st.sampled_from(["nearest", "inverse"])
mus = st.sampled_from([0.0, 0.3, 0.5, 1.0, 2.0])
floors = st.sampled_from([0.0, 0.1, 1.0])


# --- targets ---------------------------------------------------------------------------------------------------------


def test_centres_and_starts_of_strata() -> None:
    assert segment_targets(4).tolist() == [0.125, 0.375, 0.625, 0.875]
    assert stratum_starts(4).tolist() == [0.0, 0.25, 0.5, 0.75]
    # the sixteen that the released MGSampler writes out by hand
    np.testing.assert_allclose(segment_targets(16), [1 / 32 + k / 16 for k in range(16)], rtol=0, atol=1e-15)


@given(segments, seeds)
def test_a_drawn_target_lies_strictly_inside_its_stratum(num_segments: int, seed: int) -> None:
    targets = segment_targets(num_segments, np.random.default_rng(seed))
    assert targets.shape == (num_segments,)
    assert targets.dtype == np.float64
    for k, target in enumerate(targets):
        assert Fraction(k, num_segments) < Fraction(float(target)) < Fraction(k + 1, num_segments)


@pytest.mark.parametrize("drawn", [0, 2**32 - 1])
@pytest.mark.parametrize("num_segments", [1, 3, 8, 49, 1000])
def test_the_extreme_draws_stay_inside_too(drawn: int, num_segments: int) -> None:
    class Extreme(np.random.Generator):
        def integers(self, *_args: Any, size: Any = None, **_kwargs: Any) -> Any:
            return np.full(size, drawn, np.uint64)

    targets = segment_targets(num_segments, Extreme(np.random.PCG64(0)))
    assert np.all(targets > stratum_starts(num_segments))
    assert np.all(targets[:-1] < stratum_starts(num_segments)[1:])
    assert targets[-1] < 1


def test_draws_fill_the_strata_evenly_and_follow_the_generator() -> None:
    rng = np.random.default_rng(5)
    inside = np.concatenate([segment_targets(8, rng) * 8 - np.arange(8) for _ in range(2500)])
    counts, _ = np.histogram(inside, bins=10, range=(0, 1))
    assert counts.sum() == 20_000
    assert np.all(np.abs(counts - 2000) < 250)
    a, b = (segment_targets(8, np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("bad", [0, -1, 2.5, "8", None])
def test_bad_segment_counts(bad: Any) -> None:
    for make in (segment_targets, stratum_starts, MotionGuided, Uniform):
        with pytest.raises(ValueError, match="num_segments must be a whole number of at least 1"):
            make(bad)


# --- the cumulative distribution -------------------------------------------------------------------------------------


def test_cdf_by_hand() -> None:
    assert motion_cdf([1, 9, 0, 36]).tolist() == [0.1, 0.4, 0.4, 1.0]
    assert motion_cdf([1, 1, 2], mu=1).tolist() == [0.25, 0.5, 1.0]
    # weights 0 and 2, mean 1, so a floor of 1 makes them 1 and 3
    assert motion_cdf([0, 2], mu=1, floor=1).tolist() == [0.25, 1.0]
    assert motion_cdf([0, 5, 0, 7], mu=0).tolist() == [0.25, 0.5, 0.75, 1.0]
    assert motion_cdf(np.array([4, 4], np.float32)).dtype == np.float64


@given(moving, mus, floors)
def test_cdf_never_falls_and_ends_at_one(motion: list[float], mu: float, floor: float) -> None:
    cdf = motion_cdf(motion, mu=mu, floor=floor)
    assert cdf.shape == (len(motion),)
    assert np.all(np.diff(cdf, prepend=0.0) >= 0)
    assert cdf[-1] == 1.0


@pytest.mark.parametrize(
    ("motion", "message"),
    [
        ([1, math.nan, 2, math.nan], r"motion\[1\] is nan.*2 of 4 values"),
        ([1, 2, -1e-12], r"motion\[2\] is -1e-12"),
        ([math.inf], r"motion\[0\] is inf"),
        ([-math.inf, 0], r"motion\[0\] is -inf"),
        ([[1, 2]], r"one dimension.*\(1, 2\)"),
    ],
)
def test_bad_motion_is_named(motion: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        motion_cdf(motion)
    with pytest.raises(ValueError, match=message):
        motion_guided_frames(motion, segment_targets(8))


@pytest.mark.parametrize("motion", [[], [0.0], [0.0, 0.0]])
def test_no_motion_has_no_cdf(motion: list[float]) -> None:
    with pytest.raises(ValueError, match="Use uniform_frames"):
        motion_cdf(motion)


@pytest.mark.parametrize("bad", [-0.1, math.nan, math.inf])
@pytest.mark.parametrize("name", ["mu", "floor"])
def test_bad_smoothing(name: str, bad: float) -> None:
    parameters: dict[str, Any] = {name: bad}
    with pytest.raises(ValueError, match=f"{name} must be a finite number of at least 0"):
        motion_cdf([1, 2], **parameters)
    with pytest.raises(ValueError, match=f"{name} must be a finite number of at least 0"):
        motion_guided_frames([0, 0], [0.5], **parameters)
    with pytest.raises(ValueError, match=f"{name} must be a finite number of at least 0"):
        MotionGuided(**parameters)


@pytest.mark.parametrize("motion", [[1e300, 1e300], [1e-300, 1e-300]])
def test_weights_beyond_float64(motion: list[float]) -> None:
    with pytest.raises(ValueError, match="Use a smaller mu"):
        motion_cdf(motion, mu=2)


# --- motion-guided frames --------------------------------------------------------------------------------------------

CONSTANT_32 = [0, 2, 4, 6, 8, 10, 12, 14, 15, 17, 19, 21, 23, 25, 27, 29]
SPIKE = [4, 14, 24, 29, 29, 29, 29, 29, 30, 30, 30, 30, 30, 37, 47, 57]


@pytest.mark.parametrize(
    ("motion", "expected"),
    [
        ([1.0] * 31, CONSTANT_32),
        ([1.0] * 4, [0] * 6 + [1] * 4 + [2] * 4 + [3] * 2),
        ([1.0], [0] * 16),
        ([1e-4] * 30 + [1.0] + [1e-4] * 32, SPIKE),
    ],
    ids=["constant", "few-gaps", "one-gap", "spike"],
)
def test_the_released_rule_in_worked_numbers(motion: list[float], expected: list[int]) -> None:
    frames = motion_guided_frames(motion, segment_targets(16))
    assert frames.dtype == np.int64
    assert frames.tolist() == expected


def test_more_worked_numbers() -> None:
    assert len(set(motion_guided_frames([1.0] * 9, segment_targets(16)).tolist())) == 9
    background = motion_guided_frames([0.02] * 30 + [1.0] + [0.02] * 32, segment_targets(16)).tolist()
    assert [f for f in background if 28 <= f <= 31] == [29, 30]
    still_first_half = motion_guided_frames([0.0] * 32 + [1.0] * 31, segment_targets(16))
    assert still_first_half.min() >= 32


def nearest_in_plain_python(motion: list[float], targets: list[float], mu: float, floor: float) -> list[int]:
    weights = [value**mu for value in motion]
    mean = sum(weights) / len(weights)
    weights = [weight + floor * mean for weight in weights]
    frames = []
    for target in targets:
        best, best_distance, passed = -1, math.inf, 0.0
        for j, weight in enumerate(weights):
            passed += weight
            distance = abs(passed / sum(weights) - target)
            if distance < best_distance - 1e-12:
                best, best_distance = j, distance
        frames.append(best)
    return frames


@given(moving, segments, seeds, mus, floors)
def test_nearest_against_plain_python(motion: list[float], t: int, seed: int, mu: float, floor: float) -> None:
    targets = segment_targets(t, np.random.default_rng(seed))
    frames = motion_guided_frames(motion, targets, mu=mu, floor=floor)
    expected = nearest_in_plain_python(motion, targets.tolist(), mu, floor)
    cdf = motion_cdf(motion, mu=mu, floor=floor)
    for frame, other, target in zip(frames, expected, targets, strict=True):
        # another frame only where the two are equally near but for rounding
        assert frame == other or abs(abs(cdf[frame] - target) - abs(cdf[other] - target)) < 1e-11


def test_nearest_takes_the_first_of_equals() -> None:
    assert motion_guided_frames([1, 1], [0.75]).tolist() == [0]
    assert motion_guided_frames([1, 0, 0, 1], [0.5]).tolist() == [0]


def inverse_in_plain_python(motion: list[float], targets: list[float], mu: float) -> list[float]:
    weights = [value**mu for value in motion]
    total = sum(weights)
    positions = []
    for target in targets:
        position, start = 0.0, 0.0
        for weight in weights:
            share = weight / total
            if share == 0:
                position += target > start
            else:
                position += min(max((target - start) / share, 0.0), 1.0)
            start += share
        positions.append(position)
    return positions


def assert_rounded(frames: npt.NDArray[np.int64], positions: npt.ArrayLike) -> None:
    """Each frame is a nearest integer of its position; at halves, rounding errors may decide."""
    assert np.all(np.abs(frames - np.asarray(positions)) < 0.5 + 1e-6)


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=100), segments, seeds, mus, floors)
def test_inverse_against_np_interp(motion: list[float], t: int, seed: int, mu: float, floor: float) -> None:
    targets = segment_targets(t, np.random.default_rng(seed))
    cdf = motion_cdf(motion, mu=mu, floor=floor)
    positions = np.interp(targets, np.concatenate([[0.0], cdf]), np.arange(len(motion) + 1))
    assert_rounded(motion_guided_frames(motion, targets, mu=mu, floor=floor, pick="inverse"), positions)


@given(
    st.lists(st.sampled_from([0.0, 0.0, 1.0, 4.0, 9.0, 100.0]), min_size=1, max_size=60).filter(any), segments, seeds
)
def test_inverse_with_still_parts_against_plain_python(motion: list[float], t: int, seed: int) -> None:
    targets = segment_targets(t, np.random.default_rng(seed))
    positions = inverse_in_plain_python(motion, targets.tolist(), 0.5)
    frames = motion_guided_frames(motion, targets, pick="inverse")
    np.testing.assert_array_equal(frames, np.floor(np.array(positions) + 0.5).astype(int))


def test_inverse_by_hand() -> None:
    def inverse(motion: list[float], targets: list[float]) -> list[int]:
        return [int(frame) for frame in motion_guided_frames(motion, targets, pick="inverse")]

    assert inverse([1, 1, 1, 1], [0.0, 0.124, 0.125, 0.5, 0.874, 0.875, 0.999]) == [0, 0, 1, 2, 3, 4, 4]
    # a plateau: frames 1, 2 and 3 all have half of the motion before them; a target on it gives the first of them
    assert inverse([1, 0, 0, 1], [0.24, 0.25, 0.5, 0.74, 0.75]) == [0, 1, 1, 3, 4]
    # a still start and end
    assert inverse([0, 0, 1, 0, 0], [0.0, 0.01, 0.49, 0.5, 0.99]) == [0, 2, 2, 3, 3]


@given(moving, segments, seeds, picks)
def test_in_range_in_order_and_one_frame_a_target(motion: list[float], t: int, seed: int, pick: str) -> None:
    frames = motion_guided_frames(motion, segment_targets(t, np.random.default_rng(seed)), pick=pick)
    assert frames.shape == (t,)
    assert np.all(np.diff(frames) >= 0)
    assert frames.min() >= 0
    assert frames.max() <= len(motion) - (pick == "nearest")


@given(moving, segments, seeds, picks, st.integers(-20, 20))
def test_the_unit_of_motion_does_not_matter(motion: list[float], t: int, seed: int, pick: str, power: int) -> None:
    targets = segment_targets(t, np.random.default_rng(seed))
    # powers of four: the square roots scale without rounding, so the picks must be the same to the last one
    np.testing.assert_array_equal(
        motion_guided_frames(np.array(motion) * 4.0**power, targets, pick=pick),
        motion_guided_frames(motion, targets, pick=pick),
    )


@given(moving, segments, picks)
def test_mu_zero_is_uniform_in_time(motion: list[float], t: int, pick: str) -> None:
    targets = segment_targets(t)
    np.testing.assert_array_equal(
        motion_guided_frames(motion, targets, mu=0, pick=pick),
        motion_guided_frames([1.0] * len(motion), targets, pick=pick),
    )


@given(st.integers(1, 60), st.integers(1, 60), picks)
def test_a_floor_keeps_still_parts_covered(num_still: int, num_moving: int, pick: str) -> None:
    motion = [0.0] * num_still + [1.0] * num_moving
    targets = segment_targets(256)
    # each gap weighs at least floor * mean, so the still part has floor / (1 + floor) of its share of the time
    share = 1.0 / 2.0 * num_still / (num_still + num_moving)
    frames = motion_guided_frames(motion, targets, floor=1.0, pick=pick)
    assert np.count_nonzero(frames <= num_still) >= math.floor(share * 256)
    if num_moving > 1:  # without a floor, all but the pick next to the border are in the moving part
        assert np.all(motion_guided_frames(motion, targets, pick=pick)[128:] >= num_still)


def test_only_inverse_reaches_the_last_frame() -> None:
    rng = np.random.default_rng(0)
    motion = rng.random(31) + 0.1
    drawn = {
        pick: np.concatenate([motion_guided_frames(motion, segment_targets(16, rng), pick=pick) for _ in range(500)])
        for pick in ("nearest", "inverse")
    }
    assert set(drawn["nearest"].tolist()) == set(range(31))
    assert set(drawn["inverse"].tolist()) == set(range(32))


def test_nearest_gives_a_frame_half_of_both_neighbouring_gaps() -> None:
    motion = np.array([1.0, 2.0, 3.0, 4.0])
    frames = motion_guided_frames(motion, segment_targets(100_000), mu=1)
    shares = np.bincount(frames) / 100_000
    np.testing.assert_allclose(shares, [0.1 + 0.1, 0.1 + 0.15, 0.15 + 0.2, 0.2], atol=1e-4)


@pytest.mark.parametrize("mu", [0.0, 0.5])
@pytest.mark.parametrize("pick", ["nearest", "inverse"])
def test_no_motion_or_one_frame_gives_uniform_frames(mu: float, pick: str) -> None:
    still = motion_guided_frames([0.0] * 29, segment_targets(8), mu=mu, pick=pick)
    assert still.tolist() == [1, 5, 9, 13, 16, 20, 24, 28]
    one = motion_guided_frames([], segment_targets(8), mu=mu, pick=pick)
    assert one.tolist() == [0] * 8
    assert one.dtype == np.int64


@pytest.mark.parametrize("bad", [[0.5, 1.0], [0.2, -0.1], [0.1, math.nan]])
def test_bad_targets(bad: list[float]) -> None:
    with pytest.raises(ValueError, match=r"targets\[1\] is .*must be in \[0, 1\)"):
        motion_guided_frames([1, 2], bad)
    with pytest.raises(ValueError, match=r"targets\[1\] is .*must be in \[0, 1\)"):
        uniform_frames(10, bad)


@pytest.mark.parametrize("bad", [[], 0.5, [[0.5]]])
def test_targets_have_one_dimension(bad: Any) -> None:
    with pytest.raises(ValueError, match="targets must have one dimension"):
        motion_guided_frames([1, 2], bad)


def test_unknown_pick() -> None:
    with pytest.raises(ValueError, match="pick must be one of 'nearest', 'inverse', found 'closest'"):
        motion_guided_frames([1, 2], [0.5], pick="closest")
    with pytest.raises(ValueError, match="pick must be one of"):
        MotionGuided(pick="closest")


def test_what_to_sample_is_a_plain_value() -> None:
    sampler = MotionGuided(16, mu=1.0, floor=0.1, pick="inverse")
    assert pickle.loads(pickle.dumps(sampler)) == sampler != MotionGuided(16)
    assert (MotionGuided().num_segments, MotionGuided().mu, MotionGuided().floor) == (8, 0.5, 0.0)
    assert Uniform() == Uniform(num_segments=8)
    assert pickle.loads(pickle.dumps(Dense(16))) == Dense(num_segments=16, span_frames=64)


# --- uniform frames --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_frames", "centres", "starts"),
    [
        (30, [1, 5, 9, 13, 16, 20, 24, 28], [0, 3, 7, 11, 15, 18, 22, 26]),
        (5, [0, 0, 1, 2, 2, 3, 4, 4], [0, 0, 1, 1, 2, 3, 3, 4]),
        (1, [0] * 8, [0] * 8),
    ],
)
def test_uniform_worked_numbers(num_frames: int, centres: list[int], starts: list[int]) -> None:
    assert uniform_frames(num_frames, segment_targets(8)).tolist() == centres
    assert uniform_frames(num_frames, stratum_starts(8)).tolist() == starts


def assert_exact_test_rule(num_frames: int, num_segments: int) -> None:
    strata = np.arange(num_segments)
    centres = uniform_frames(num_frames, segment_targets(num_segments))
    starts = uniform_frames(num_frames, stratum_starts(num_segments))
    np.testing.assert_array_equal(centres, (2 * strata + 1) * num_frames // (2 * num_segments))
    np.testing.assert_array_equal(starts, strata * num_frames // num_segments)


def test_uniform_is_exact_where_fractions_are_whole() -> None:
    for num_segments in range(1, 65):
        for num_frames in (1, 7, 64, num_segments, 2 * num_segments, 6 * num_segments, 30 * num_segments, 100_000):
            assert_exact_test_rule(num_frames, num_segments)


@pytest.mark.slow
def test_uniform_is_exact_everywhere() -> None:
    for num_segments in range(1, 65):
        for num_frames in range(1, 2001):
            assert_exact_test_rule(num_frames, num_segments)


def test_uniform_is_mmaction2s_float_rule_or_later_by_the_rounding_of_it() -> None:
    for num_segments in (3, 8, 16, 49, 64):
        for num_frames in range(1, 500):
            average = num_frames / float(num_segments)
            floats = (np.arange(num_segments) * average + average / 2.0).astype(int)
            frames = uniform_frames(num_frames, segment_targets(num_segments))
            assert set((frames - floats).tolist()) <= {0, 1}
            if num_segments in (8, 16, 64):
                np.testing.assert_array_equal(frames, floats)


@given(st.integers(1, 2000), segments, seeds)
def test_uniform_training_with_the_tail(num_frames: int, num_segments: int, seed: int) -> None:
    targets = segment_targets(num_segments, np.random.default_rng(seed))
    frames = uniform_frames(num_frames, targets)
    assert frames.dtype == np.int64
    expected = [math.floor(Fraction(float(target)) * num_frames) for target in targets]
    np.testing.assert_array_equal(frames, expected)


@given(st.integers(1, 2000), segments, seeds)
def test_uniform_training_without_the_tail(num_frames: int, num_segments: int, seed: int) -> None:
    targets = segment_targets(num_segments, np.random.default_rng(seed))
    frames = uniform_frames(num_frames, targets, keep_tail=False)
    assert frames.shape == (num_segments,)
    if num_frames < num_segments:  # Python rounds halves to even, as np.around does
        expected = [round(k * num_frames / num_segments) % num_frames for k in range(num_segments)]
    else:
        average = num_frames // num_segments
        inside = [Fraction(float(target)) * num_segments - k for k, target in enumerate(targets)]
        expected = [k * average + math.floor(position * average) for k, position in enumerate(inside)]
    np.testing.assert_array_equal(frames, expected)


def test_uniform_without_the_tail_by_hand() -> None:
    assert uniform_frames(30, stratum_starts(8), keep_tail=False).tolist() == [0, 3, 6, 9, 12, 15, 18, 21]
    assert uniform_frames(30, segment_targets(8), keep_tail=False).tolist() == [1, 4, 7, 10, 13, 16, 19, 22]
    assert uniform_frames(5, segment_targets(8), keep_tail=False).tolist() == [0, 1, 1, 2, 2, 3, 4, 4]
    assert uniform_frames(2, segment_targets(8), keep_tail=False).tolist() == [0, 0, 0, 1, 1, 1, 0, 0]
    seen = {
        f for s in range(200) for f in uniform_frames(30, segment_targets(8, np.random.default_rng(s)), keep_tail=False)
    }
    assert seen == set(range(24))


def test_uniform_without_the_tail_needs_a_target_per_stratum() -> None:
    with pytest.raises(ValueError, match="one target in each of the 2 strata"):
        uniform_frames(10, [0.1, 0.2], keep_tail=False)


@pytest.mark.parametrize("bad", [0, -3, 1.5])
def test_uniform_needs_a_frame(bad: Any) -> None:
    with pytest.raises(ValueError, match="num_frames must be a whole number of at least 1"):
        uniform_frames(bad, [0.5])


# --- dense frames ----------------------------------------------------------------------------------------------------


def test_dense_worked_numbers() -> None:
    assert dense_frames(100, 8, 0.0).tolist() == [0, 8, 16, 24, 32, 40, 48, 56]
    assert dense_frames(100, 8, 1.0).tolist() == [36, 44, 52, 60, 68, 76, 84, 92]
    assert dense_frames(30, 8, 0.7).tolist() == [0, 8, 16, 24, 2, 10, 18, 26]
    assert dense_frames(100, 16, 0.5, span_frames=32).tolist() == list(range(34, 66, 2))
    assert dense_starts(1).tolist() == [0.0]
    assert dense_starts(3).tolist() == [0.0, 0.5, 1.0]


def test_dense_test_starts() -> None:
    for num_frames in range(1, 400):
        last = max(1, 1 + num_frames - 64) - 1
        firsts = [int(dense_frames(num_frames, 8, float(start))[0]) for start in dense_starts()]
        assert firsts == [i * last // 9 for i in range(10)]


@given(st.integers(1, 1000), st.floats(0, 1, exclude_max=True), st.integers(1, 64))
def test_dense_training(num_frames: int, start: float, num_segments: int) -> None:
    frames = dense_frames(num_frames, num_segments, start)
    positions = max(1, 1 + num_frames - 64)
    # mmaction2 draws randint(0, positions - 1), whose upper end is left out
    assert 0 <= frames[0] <= max(0, positions - 2)
    expected = [(int(frames[0]) + k * (64 // num_segments)) % num_frames for k in range(num_segments)]
    assert frames.tolist() == expected
    assert frames.dtype == np.int64


def test_dense_draws_every_start_alike() -> None:
    firsts = [int(dense_frames(73, 8, (i + 0.5) / 900)[0]) for i in range(900)]
    assert np.bincount(firsts).tolist() == [100] * 9


def test_dense_errors() -> None:
    with pytest.raises(ValueError, match=r"start must be in \[0, 1\], found 1.5"):
        dense_frames(100, 8, 1.5)
    with pytest.raises(ValueError, match=r"span_frames must be at least num_segments \(8\), found 4"):
        dense_frames(100, 8, 0.5, span_frames=4)
    with pytest.raises(ValueError, match=r"span_frames must be at least num_segments \(8\), found 4"):
        Dense(8, span_frames=4)


# --- the clips of a video --------------------------------------------------------------------------------------------


def test_two_clips_of_a_video_are_twice_sample() -> None:
    frames = Uniform(8).frames(30, Uniform(8).targets(num_clips=2))
    assert frames.tolist() == [1, 5, 9, 13, 16, 20, 24, 28, 0, 3, 7, 11, 15, 18, 22, 26]
    assert Uniform(8).frames(5, Uniform(8).targets()).tolist() == [0, 0, 1, 2, 2, 3, 4, 4]


def test_the_second_motion_guided_clip_has_the_starts_of_the_strata() -> None:
    """Motion 1 1 2 with mu = 1: the CDF is 1/4, 1/2, 1. Nearest to 0, 1/4, 1/2, 3/4 (a tie) are gaps 0, 0, 1, 1."""
    targets = MotionGuided(4).targets(num_clips=2)
    assert targets.tolist() == [1 / 8, 3 / 8, 5 / 8, 7 / 8, 0, 1 / 4, 1 / 2, 3 / 4]
    assert motion_guided_frames([1, 1, 2], targets, mu=1.0).tolist() == [0, 0, 1, 2, 0, 0, 1, 1]


def test_dense_clips() -> None:
    frames = Dense(8).frames(100, Dense(8).targets(num_clips=10))
    assert frames.reshape(10, 8)[:, 0].tolist() == [0, 4, 8, 12, 16, 20, 24, 28, 32, 36]
    assert frames[-8:].tolist() == [36, 44, 52, 60, 68, 76, 84, 92]
    assert Dense(8).frames(100, Dense(8).targets()).tolist() == [18, 26, 34, 42, 50, 58, 66, 74]
    short = Dense(4, span_frames=16).frames(10, Dense(4, span_frames=16).targets(num_clips=3))
    assert short.tolist() == [0, 4, 8, 2] * 3


def test_training_clips_are_drawn() -> None:
    one, same, other = (Dense(8).targets(rng=np.random.default_rng(seed)).tolist() for seed in (0, 0, 1))
    assert one == same != other
    assert 0 <= one[0] < 1
    drawn = Uniform(8).targets(rng=np.random.default_rng(3))
    assert drawn.tolist() == segment_targets(8, np.random.default_rng(3)).tolist()


@pytest.mark.parametrize("sampler", [Uniform(8), MotionGuided(8)], ids=str)
def test_strata_have_two_clips_at_most(sampler: Uniform | MotionGuided) -> None:
    with pytest.raises(
        ValueError, match=r"10 clips of a video asked for, but \w+ has at most 2.*Use the sampler Dense"
    ):
        sampler.targets(num_clips=10)
