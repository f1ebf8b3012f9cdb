"""How a video's luma and chroma become red, green and blue: the matrix that its stream names (ITU-T H.273)."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

__all__ = ["ColourMatrix", "colour_correction", "colour_matrix", "rgb_of_ycbcr"]

ColourMatrix = Literal["bt601", "bt709", "fcc", "smpte240m", "bt2020"]
MATRICES: tuple[ColourMatrix, ...] = get_args(ColourMatrix)

# As ITU-T H.273 numbers them, and FFmpeg's AVColorSpace; 0, 2 and 3 say nothing of YCbCr.
_BY_NUMBER: dict[int, ColourMatrix] = {
    0: "bt601", 1: "bt709", 2: "bt601", 3: "bt601", 4: "fcc", 5: "bt601", 6: "bt601", 7: "smpte240m", 9: "bt2020",
}  # fmt: skip
_RED_BLUE: dict[ColourMatrix, tuple[float, float]] = {
    "bt601": (0.299, 0.114),
    "bt709": (0.2126, 0.0722),
    "fcc": (0.30, 0.11),
    "smpte240m": (0.212, 0.087),
    "bt2020": (0.2627, 0.0593),
}
"""The shares of red and blue in luma."""


def colour_matrix(number: int) -> ColourMatrix:
    """The matrix of a video's colours. Where nothing is said it is BT.601, whatever the size.

    That is what the ffmpeg program, OpenCV and decord do, and so what the published models were trained on.

    Args:
        number: of ITU-T H.273, as FFmpeg has it for streams and frames.

    Raises:
        ValueError: the colours are not made by one matrix, or by one that nothing here knows.
    """
    if number not in _BY_NUMBER:
        raise ValueError(f"its colours are coded in a way that is not read (matrix coefficients {number} of H.273)")
    return _BY_NUMBER[number]


def rgb_of_ycbcr(matrix: ColourMatrix) -> np.ndarray:
    """(3, 3) float64: red, green and blue from luma (0 to 1) and both chroma values (-0.5 to 0.5)."""
    red, blue = _RED_BLUE[matrix]
    green = 1 - red - blue
    return np.array(
        [
            [1, 0, 2 * (1 - red)],
            [1, -2 * blue * (1 - blue) / green, -2 * red * (1 - red) / green],
            [1, 2 * (1 - blue), 0],
        ]
    )


def colour_correction(matrix: ColourMatrix) -> np.ndarray:
    """(3, 3) float32: what makes the right colours of those that BT.601 gave, which is all that DALI knows.

    In the same range of values; colours that BT.601 had to cut off at 0 or 255 stay a little off.
    """
    return (rgb_of_ycbcr(matrix) @ np.linalg.inv(rgb_of_ycbcr("bt601"))).astype(np.float32)
