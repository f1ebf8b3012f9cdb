"""Where to crop a clip, as one box in source pixels.

The published pipelines resize the short side of a frame to 256, crop, and resize the crop to 224. Here the crop is
chosen in that resized frame, as published, and its box is mapped back to the source, so that a loader crops once from
the source frame and resizes once.
"""

import numpy as np

Box = tuple[int, int, int, int]
"""``(x, y, width, height)`` in source pixels."""

_SCALES = (1.0, 0.875, 0.75, 0.66)
# (width, height) as indices into _SCALES: the two may be at most one step apart
_SIDES = tuple((i, j) for i in range(4) for j in range(4) if abs(i - j) <= 1)
# (x, y) in quarters of the free space: corners, centre, middles of the four sides, the four quarters
_OFFSETS = ((0, 0), (4, 0), (0, 4), (4, 4), (2, 2), (0, 2), (4, 2), (2, 4), (2, 0), (1, 1), (3, 1), (1, 3), (3, 3))


def multi_scale_crop(width: int, height: int, rng: np.random.Generator, *, size: int = 224) -> Box:
    """Draw a training crop: ``MultiScaleCrop`` of TSM and mmaction2, with its 13 fixed offsets.

    In the frame with its short side resized to ``256 * size / 224``, a side of the crop is 1, 0.875, 0.75 or 0.66 of
    the short side (rounded down; one less than 3 pixels from `size` becomes `size`), and width and height are at most
    one step apart: 10 pairs. The crop sits at one of 13 places. All 130 are equally likely, and one number is drawn.

    Args:
        width: of the source frame in pixels, at least 1.
        height: of the source frame in pixels, at least 1.
        rng: where the draw comes from.
        size: side of the network's input in pixels, at least 1.

    Returns:
        The box in source pixels, inside the frame and at least 1 pixel in both directions. Its aspect ratio is from
        3:4 to 4:3, about; resizing it to a square stretches it, as published.
    """
    resized_width, resized_height = _resized(width, height, short_side(size))
    shorter = min(resized_width, resized_height)
    sides = [int(shorter * scale) for scale in _SCALES]
    sides = [size if abs(side - size) < 3 else side for side in sides]
    pair, place = divmod(int(rng.integers(len(_SIDES) * len(_OFFSETS))), len(_OFFSETS))
    crop_width, crop_height = (sides[i] for i in _SIDES[pair])
    x_quarters, y_quarters = _OFFSETS[place]
    x, crop_width = _in_source(x_quarters * ((resized_width - crop_width) // 4), crop_width, resized_width, width)
    y, crop_height = _in_source(y_quarters * ((resized_height - crop_height) // 4), crop_height, resized_height, height)
    return x, y, crop_width, crop_height


_LEAST_AREA, _LARGEST_ASPECT = 0.08, 4 / 3
_ATTEMPTS = 10


def random_resized_crop(width: int, height: int, rng: np.random.Generator) -> Box:
    """Draw a training crop: ``RandomResizedCrop`` of mmaction2, which trains on Jester with it.

    Straight from the source frame: the crop has 0.08 to 1 of its area, evenly drawn, and an aspect ratio (width to
    height) from 3:4 to 4:3, drawn evenly in its logarithm, and sits anywhere. Of ten such shapes the first that fits
    into the frame is taken; where none does, the largest square in the middle.

    Args:
        width: of the source frame in pixels, at least 1.
        height: of the source frame in pixels, at least 1.
        rng: where the draws come from.

    Returns:
        The box in source pixels, inside the frame and at least 1 pixel in both directions.
    """
    _check_lengths(width=width, height=height)
    aspects = _LARGEST_ASPECT ** rng.uniform(-1, 1, size=_ATTEMPTS)
    areas = rng.uniform(_LEAST_AREA, 1, size=_ATTEMPTS) * width * height
    x_share, y_share = rng.random(2)
    shapes = np.rint(np.sqrt([areas * aspects, areas / aspects])).astype(int).T
    for crop_width, crop_height in shapes.tolist():
        if 1 <= crop_width <= width and 1 <= crop_height <= height:
            x = int(x_share * (width - crop_width + 1))
            y = int(y_share * (height - crop_height + 1))
            return x, y, crop_width, crop_height
    side = min(width, height)
    return (width - side) // 2, (height - side) // 2, side, side


def short_side(size: int) -> int:
    """Return the short side in pixels that frames are resized to before crops of `size` are chosen: 256 for 224."""
    _check_lengths(size=size)
    return _divide(256 * size, 224)


def three_crop(width: int, height: int, *, size: int = 256) -> list[Box]:
    """Return ``ThreeCrop`` of mmaction2: short side to `size`, then the whole of it at three places of the long side.

    Args:
        width: of the source frame in pixels, at least 1.
        height: of the source frame in pixels, at least 1.
        size: side of the crops in pixels, at least 1.

    Returns:
        The boxes in source pixels: left, right, middle; of an upright frame top, bottom, middle.
    """
    resized_width, resized_height = _resized(width, height, size)
    step = (max(resized_width, resized_height) - size) // 2
    boxes = []
    for steps in (0, 2, 1):
        across, down = (steps * step, 0) if resized_width >= resized_height else (0, steps * step)
        x, crop_width = _in_source(across, size, resized_width, width)
        y, crop_height = _in_source(down, size, resized_height, height)
        boxes.append((x, y, crop_width, crop_height))
    return boxes


def ten_crop(width: int, height: int, *, size: int = 224) -> list[Box]:
    """Return ``TenCrop`` of mmaction2: short side to ``256 * size / 224``, then `size` squares, each of them twice.

    Args:
        width: of the source frame in pixels, at least 1.
        height: of the source frame in pixels, at least 1.
        size: side of the network's input in pixels, at least 1.

    Returns:
        The boxes in source pixels: upper left, upper right, lower left, lower right, centre. Each comes twice; the
        second one is to be mirrored.
    """
    resized_width, resized_height = _resized(width, height, short_side(size))
    boxes = []
    for x_quarters, y_quarters in _OFFSETS[:5]:
        x, crop_width = _in_source(x_quarters * ((resized_width - size) // 4), size, resized_width, width)
        y, crop_height = _in_source(y_quarters * ((resized_height - size) // 4), size, resized_height, height)
        boxes += [(x, y, crop_width, crop_height)] * 2
    return boxes


def centre_crop(width: int, height: int, *, size: int = 224) -> Box:
    """Return the crop for evaluation: short side to ``256 * size / 224``, then the `size` square in the middle.

    Args:
        width: of the source frame in pixels, at least 1.
        height: of the source frame in pixels, at least 1.
        size: side of the network's input in pixels, at least 1.

    Returns:
        The box in source pixels, inside the frame and at least 1 pixel in both directions.
    """
    resized_width, resized_height = _resized(width, height, short_side(size))
    x, crop_width = _in_source((resized_width - size) // 2, size, resized_width, width)
    y, crop_height = _in_source((resized_height - size) // 2, size, resized_height, height)
    return x, y, crop_width, crop_height


def _resized(width: int, height: int, target: int) -> tuple[int, int]:
    """Return the frame's width and height once its short side is `target`."""
    _check_lengths(width=width, height=height, size=target)
    shorter = min(width, height)
    return _divide(width * target, shorter), _divide(height * target, shorter)


def _check_lengths(**lengths: int) -> None:
    for name, value in lengths.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1 pixel, found {value}.")


def _in_source(start: int, length: int, resized: int, source: int) -> tuple[int, int]:
    """Map a stretch of a side that is `resized` pixels long to that side's `source` pixels: its start and length.

    The length is rounded on its own, so that crops of one scale have one size wherever they sit.
    """
    source_length = max(_divide(length * source, resized), 1)
    return min(_divide(start * source, resized), source - source_length), source_length


def _divide(numerator: int, denominator: int) -> int:
    """Return the quotient rounded to the nearest integer, halves up: mmcv's ``int(x + 0.5)`` without float errors."""
    return (2 * numerator + denominator) // (2 * denominator)
