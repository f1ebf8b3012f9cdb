"""Colour matrices against the arithmetic of ITU-T H.273."""

from __future__ import annotations

import numpy as np
import pytest

from mgs_dali.decode.colours import MATRICES, ColourMatrix, colour_correction, colour_matrix, rgb_of_ycbcr


@pytest.mark.parametrize(
    ("number", "matrix"),
    [(1, "bt709"), (2, "bt601"), (4, "fcc"), (5, "bt601"), (6, "bt601"), (7, "smpte240m"), (9, "bt2020")],
)
def test_numbers_of_h273(number: int, matrix: str) -> None:
    assert colour_matrix(number) == matrix


@pytest.mark.parametrize("number", [8, 10, 11, 14, 99])
def test_other_ways_to_code_colours_are_errors(number: int) -> None:
    with pytest.raises(ValueError, match=rf"not read \(matrix coefficients {number} of H\.273\)"):
        colour_matrix(number)


def test_bt601_and_bt709_are_as_their_recommendations_print_them() -> None:
    # BT.601-7 and BT.709-6: R = Y + 1.402 Cr and 1.5748 Cr, B = Y + 1.772 Cb and 1.8556 Cb
    expected = {
        "bt601": [[1, 0, 1.402], [1, -0.344136, -0.714136], [1, 1.772, 0]],
        "bt709": [[1, 0, 1.5748], [1, -0.187324, -0.468124], [1, 1.8556, 0]],
    }
    np.testing.assert_allclose(rgb_of_ycbcr("bt601"), expected["bt601"], atol=1e-6)
    np.testing.assert_allclose(rgb_of_ycbcr("bt709"), expected["bt709"], atol=1e-6)


@pytest.mark.parametrize("matrix", MATRICES)
def test_correction_gives_back_what_was_encoded(matrix: ColourMatrix) -> None:
    colours = np.random.default_rng(0).random((50, 3))
    ycbcr = colours @ np.linalg.inv(rgb_of_ycbcr(matrix)).T
    taken_for_bt601 = ycbcr @ rgb_of_ycbcr("bt601").T
    np.testing.assert_allclose(taken_for_bt601 @ colour_correction(matrix).T, colours, atol=1e-5)
    # grey stays grey
    np.testing.assert_allclose(colour_correction(matrix).sum(axis=1), 1, atol=1e-6)
    assert colour_correction(matrix).dtype == np.float32
