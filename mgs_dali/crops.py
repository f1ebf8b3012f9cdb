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
    resized_width, resized_height = _resized(width, height, size)
    short_side = min(resized_width, resized_height)
    sides = [int(short_side * scale) for scale in _SCALES]
    sides = [size if abs(side - size) < 3 else side for side in sides]
    pair, place = divmod(int(rng.integers(len(_SIDES) * len(_OFFSETS))), len(_OFFSETS))
    crop_width, crop_height = (sides[i] for i in _SIDES[pair])
    x_quarters, y_quarters = _OFFSETS[place]
    x, crop_width = _in_source(x_quarters * ((resized_width - crop_width) // 4), crop_width, resized_width, width)
    y, crop_height = _in_source(y_quarters * ((resized_height - crop_height) // 4), crop_height, resized_height, height)
    return x, y, crop_width, crop_height


def centre_crop(width: int, height: int, *, size: int = 224) -> Box:
    """Return the crop for evaluation: short side to ``256 * size / 224``, then the `size` square in the middle.

    Args:
        width: of the source frame in pixels, at least 1.
        height: of the source frame in pixels, at least 1.
        size: side of the network's input in pixels, at least 1.

    Returns:
        The box in source pixels, inside the frame and at least 1 pixel in both directions.
    """
    resized_width, resized_height = _resized(width, height, size)
    x, crop_width = _in_source((resized_width - size) // 2, size, resized_width, width)
    y, crop_height = _in_source((resized_height - size) // 2, size, resized_height, height)
    return x, y, crop_width, crop_height


def _resized(width: int, height: int, size: int) -> tuple[int, int]:
    """Return the frame's width and height once its short side is ``256 * size / 224`` (256 for 224)."""
    for name, value in (("width", width), ("height", height), ("size", size)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1 pixel, found {value}.")
    target, short_side = _divide(256 * size, 224), min(width, height)
    return _divide(width * target, short_side), _divide(height * target, short_side)


def _in_source(start: int, length: int, resized: int, source: int) -> tuple[int, int]:
    """Map a stretch of a side that is `resized` pixels long to that side's `source` pixels: its start and length.

    The length is rounded on its own, so that crops of one scale have one size wherever they sit.
    """
    source_length = max(_divide(length * source, resized), 1)
    return min(_divide(start * source, resized), source - source_length), source_length


def _divide(numerator: int, denominator: int) -> int:
    """Return the quotient rounded to the nearest integer, halves up: mmcv's ``int(x + 0.5)`` without float errors."""
    return (2 * numerator + denominator) // (2 * denominator)
