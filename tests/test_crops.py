"""Crop boxes against a restatement of the published pipeline, and in bounds for every frame size."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mgs_dali.views.crops import (
    Box,
    centre_crop,
    multi_scale_crop,
    random_resized_crop,
    short_side,
    ten_crop,
    three_crop,
)

lengths = st.integers(1, 4000)
seeds = st.integers(0, 2**32)
sizes = st.sampled_from([1, 2, 3, 5, 16, 32, 64, 112, 128, 224, 256, 288, 320])


class Scripted(np.random.Generator):
    """A generator whose every integer is the one given."""

    def __init__(self, value: int) -> None:
        super().__init__(np.random.PCG64(0))
        self.value = value

    def integers(self, high: Any, *_args: Any, **_kwargs: Any) -> Any:  # type: ignore[override]
        assert self.value < high
        return self.value


def every_crop(width: int, height: int, size: int = 224) -> Counter[Box]:
    return Counter(multi_scale_crop(width, height, Scripted(value), size=size) for value in range(130))


def published_crops(width: int, height: int, sides: list[int]) -> Counter[Box]:
    """All crops of a resized frame, written out as mmaction2 does: fixed offsets for each pair of sides."""
    boxes: Counter[Box] = Counter()
    for i, crop_height in enumerate(sides):
        for j, crop_width in enumerate(sides):
            if abs(i - j) > 1:
                continue
            w_step = (width - crop_width) // 4
            h_step = (height - crop_height) // 4
            for x, y in [
                (0, 0),  # upper left
                (4 * w_step, 0),  # upper right
                (0, 4 * h_step),  # lower left
                (4 * w_step, 4 * h_step),  # lower right
                (2 * w_step, 2 * h_step),  # centre
                (0, 2 * h_step),  # centre left
                (4 * w_step, 2 * h_step),  # centre right
                (2 * w_step, 4 * h_step),  # lower centre
                (2 * w_step, 0),  # upper centre
                (1 * w_step, 1 * h_step),  # upper left quarter
                (3 * w_step, 1 * h_step),  # upper right quarter
                (1 * w_step, 3 * h_step),  # lower left quarter
                (3 * w_step, 3 * h_step),  # lower right quarter
            ]:
                boxes[x, y, crop_width, crop_height] += 1
    return boxes


@pytest.mark.parametrize(("width", "height"), [(256, 256), (340, 256), (256, 340), (455, 256), (256, 457)])
def test_a_source_with_short_side_256_gets_the_published_boxes(width: int, height: int) -> None:
    expected = published_crops(width, height, [256, 224, 192, 168])
    assert expected.total() == 130
    assert every_crop(width, height) == expected


def test_other_input_sizes() -> None:
    # 64: the short side becomes 73, its fractions 73, 63, 54 and 48, and 63 is near enough to 64 to become it
    assert every_crop(100, 73, size=64) == published_crops(100, 73, [73, 64, 54, 48])
    # 112: 128, 112, 96 and 84
    assert every_crop(128, 170, size=112) == published_crops(128, 170, [128, 112, 96, 84])


def test_a_source_of_twice_the_size_gets_twice_the_boxes() -> None:
    doubled = {(2 * x, 2 * y, 2 * w, 2 * h) for x, y, w, h in published_crops(340, 256, [256, 224, 192, 168])}
    assert set(every_crop(680, 512)) == doubled


def test_worked_examples() -> None:
    # 320 x 240 becomes 341 x 256, and its centre crop starts at (58, 16): times 15 / 16
    assert centre_crop(320, 240) == (54, 15, 210, 210)
    assert centre_crop(340, 256) == (58, 16, 224, 224)
    assert centre_crop(256, 341) == (16, 58, 224, 224)
    assert centre_crop(224, 224) == (14, 14, 196, 196)
    # 176 x 100 (Something-Something V1, Jester) becomes 451 x 256: 113 and 224 of 451 are 44.1 and 87.4 of 176
    assert centre_crop(176, 100) == (44, 6, 87, 88)
    assert centre_crop(1, 1) == (0, 0, 1, 1)


# Frame -> width and height, and places of ThreeCrop(256) and TenCrop(224), worked out by hand: the frame with its short
# side at 256, the published offset there, and back (times 15/16 for 240 lines, 25/64 for 100).
THREE = {
    (256, 256): ((256, 256), [(0, 0), (0, 0), (0, 0)]),
    (340, 256): ((256, 256), [(0, 0), (84, 0), (42, 0)]),  # a step of (340 - 256) // 2 = 42
    (341, 256): ((256, 256), [(0, 0), (84, 0), (42, 0)]),  # the last column is not reached, as published
    (256, 340): ((256, 256), [(0, 0), (0, 84), (0, 42)]),
    (320, 240): ((240, 240), [(0, 0), (79, 0), (39, 0)]),  # 341 x 256: 84 and 42 of 341 are 78.8 and 39.4 of 320
    (176, 100): ((100, 100), [(0, 0), (76, 0), (38, 0)]),  # 451 x 256: 194 and 97 of 451 are 75.7 and 37.9 of 176
    (1920, 1080): ((1080, 1080), [(0, 0), (836, 0), (418, 0)]),  # 455 x 256: 198 and 99 of 455 are 835.5 and 417.8
}
TEN = {
    (256, 256): ((224, 224), [(0, 0), (32, 0), (0, 32), (32, 32), (16, 16)]),
    (340, 256): ((224, 224), [(0, 0), (116, 0), (0, 32), (116, 32), (58, 16)]),  # a step of 116 // 4 = 29
    (343, 256): ((224, 224), [(0, 0), (116, 0), (0, 32), (116, 32), (58, 16)]),  # 119 // 4 is 29, too
    (256, 340): ((224, 224), [(0, 0), (32, 0), (0, 116), (32, 116), (16, 58)]),
    (320, 240): ((210, 210), [(0, 0), (109, 0), (0, 30), (109, 30), (54, 15)]),
    (176, 100): ((87, 88), [(0, 0), (87, 0), (0, 12), (87, 12), (44, 6)]),  # 112 of 451 is 43.7; 12.5 would leave 87
}


@pytest.mark.parametrize(("width", "height"), THREE)
def test_three_crop_by_hand(width: int, height: int) -> None:
    sides, places = THREE[width, height]
    assert three_crop(width, height) == [(*place, *sides) for place in places]


@pytest.mark.parametrize(("width", "height"), TEN)
def test_ten_crop_by_hand(width: int, height: int) -> None:
    sides, places = TEN[width, height]
    boxes = ten_crop(width, height)
    assert boxes[0::2] == boxes[1::2] == [(*place, *sides) for place in places]


def test_the_centre_of_ten_is_the_centre_crop() -> None:
    """Where the free space is a multiple of 4, as it is not for 343 x 256: 59 of (343 - 224) // 2, and 2 * 29."""
    assert ten_crop(340, 256)[8] == centre_crop(340, 256)
    assert (ten_crop(343, 256)[8][0], centre_crop(343, 256)[0]) == (58, 59)


def test_short_sides() -> None:
    assert [short_side(size) for size in (224, 112, 64, 32, 1)] == [256, 128, 73, 37, 1]


def test_random_resized_crops_are_drawn_as_published() -> None:
    rng = np.random.default_rng(1)
    x, y, w, h = np.array([random_resized_crop(1200, 1000, rng) for _ in range(20_000)]).T
    aspect, area = np.log(w / h) / np.log(4 / 3), w * h / 1.2e6
    assert np.abs(aspect).max() <= 1.02
    assert 0.079 < area.min() < 0.085
    assert 0.95 < area.max() <= 1
    # A crop of up to 0.6 of the frame fits at any aspect ratio: these are even.
    small = area <= 0.6
    steps = np.linspace(0.05, 0.95, 10)
    assert np.abs(np.quantile(area[small], steps) - (0.08 + 0.52 * steps)).max() < 0.015
    assert np.abs(np.quantile(aspect[small], steps) - (2 * steps - 1)).max() < 0.05
    for place, free in ((x, 1200 - w), (y, 1000 - h)):
        assert np.abs(np.quantile((place / np.maximum(free, 1))[small], steps) - steps).max() < 0.02
        assert (place == 0).any()
        assert (place[free > 9] == free[free > 9]).any()


def test_a_random_resized_crop_that_never_fits_is_the_square_in_the_middle() -> None:
    # The least area is 0.08 of 10,000: at 3:4 that is 24 pixels wide and 33 high.
    for seed in range(50):
        assert random_resized_crop(1000, 10, np.random.default_rng(seed)) == (495, 0, 10, 10)
        assert random_resized_crop(10, 1000, np.random.default_rng(seed)) == (0, 495, 10, 10)
    assert random_resized_crop(1, 1, np.random.default_rng(0)) == (0, 0, 1, 1)


@given(lengths, lengths, seeds, sizes)
def test_always_inside_the_frame(width: int, height: int, seed: int, size: int) -> None:
    for x, y, w, h in (
        multi_scale_crop(width, height, np.random.default_rng(seed), size=size),
        centre_crop(width, height, size=size),
        random_resized_crop(width, height, np.random.default_rng(seed)),
        *three_crop(width, height, size=size),
        *ten_crop(width, height, size=size),
    ):
        assert all(type(value) is int for value in (x, y, w, h))
        assert x >= 0
        assert y >= 0
        assert w >= 1
        assert h >= 1
        assert x + w <= width
        assert y + h <= height


@given(st.integers(64, 4000), st.integers(64, 4000), seeds)
def test_sides_and_centre_within_a_pixel_of_the_published_ones(width: int, height: int, seed: int) -> None:
    short_side = min(width, height)
    _, _, w, h = multi_scale_crop(width, height, np.random.default_rng(seed))
    tolerance = 1 + short_side / 256
    for side in (w, h):
        assert min(abs(side - short_side * published / 256) for published in (256, 224, 192, 168)) <= tolerance
    x, y, w, h = centre_crop(width, height)
    assert abs(w - short_side * 224 / 256) <= tolerance
    assert abs(h - short_side * 224 / 256) <= tolerance
    assert abs(x + w / 2 - width / 2) <= tolerance
    assert abs(y + h / 2 - height / 2) <= tolerance


def test_draws_follow_the_generator_and_reach_every_box() -> None:
    rng = np.random.default_rng(0)
    drawn = Counter(multi_scale_crop(455, 256, rng) for _ in range(13_000))
    assert set(drawn) == set(every_crop(455, 256))
    a, b = (multi_scale_crop(455, 256, np.random.default_rng(9)) for _ in range(2))
    assert a == b


@pytest.mark.parametrize(
    ("width", "height", "size", "name"), [(0, 5, 224, "width"), (5, -1, 224, "height"), (5, 5, 0, "size")]
)
def test_impossible_sizes(width: int, height: int, size: int, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1 pixel"):
        centre_crop(width, height, size=size)
    with pytest.raises(ValueError, match=f"{name} must be at least 1 pixel"):
        multi_scale_crop(width, height, np.random.default_rng(0), size=size)
    with pytest.raises(ValueError, match=f"{name} must be at least 1 pixel"):
        ten_crop(width, height, size=size)
    with pytest.raises(ValueError, match=f"{name} must be at least 1 pixel"):
        three_crop(width, height, size=size)
