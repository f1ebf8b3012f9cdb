from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from mgs_dali.generator import Purpose, generator


def test_each_thing_has_a_stream_of_its_own() -> None:
    """Of any two of these, no value of the first hundred is the same, and together they are spread evenly."""
    things = list(product((0, 1, 2**32), Purpose, (0, 1, 5), (0, 1, 1000)))
    draws = np.array([generator(s, purpose=p, epoch=e, index=i).random(100) for s, p, e, i in things])
    assert len(np.unique(draws)) == draws.size
    # A mean of n uniform values is off by 1 / sqrt(12 n); five times that is seen once in millions.
    assert abs(draws.mean() - 0.5) < 5 / np.sqrt(12 * draws.size)


def test_the_same_thing_is_drawn_again() -> None:
    first, again = (generator(3, purpose=Purpose.ORDER, epoch=2).permutation(50).tolist() for _ in range(2))
    assert first == again


def test_draws_of_this_version_are_those_of_all_versions() -> None:
    """Written out: checkpoints and docs rest on them."""
    values = generator(7, purpose=Purpose.DRAWS, epoch=3, index=11).integers(1000, size=5).tolist()
    assert values == [397, 349, 353, 597, 201]


@pytest.mark.parametrize("name", ["DRAWS", "ORDER", "CROPS", "DROPOUT", "MIXING"])
def test_purposes_keep_their_numbers(name: str) -> None:
    assert Purpose[name] == ["DRAWS", "ORDER", "CROPS", "DROPOUT", "MIXING"].index(name)
