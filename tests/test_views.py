"""Views of a video: how many, how large, and which boxes."""

from __future__ import annotations

from typing import Any

import pytest

from mgs_dali.views.crops import centre_crop, ten_crop, three_crop
from mgs_dali.views.protocols import PROTOCOLS, Views


def test_protocols_as_published() -> None:
    """Views of a video, and their side, where the network takes 224 pixels."""
    assert {name: (len(views), views.side(224)) for name, views in PROTOCOLS.items()} == {
        "efficient": (1, 224),
        "efficient_full": (1, 256),
        "accurate": (6, 256),
        "ten_crop": (10, 224),
        "dense": (10, 224),
        "dense_three": (30, 256),
        "dense_ten": (100, 224),
    }


def test_boxes() -> None:
    assert Views().boxes(340, 256, size=224) == [centre_crop(340, 256)]
    assert Views(crops="full").boxes(340, 256, size=224) == [(42, 0, 256, 256)]
    assert Views(2, "three").boxes(340, 256, size=224) == three_crop(340, 256)
    assert Views(crops="ten").boxes(340, 256, size=112) == ten_crop(340, 256, size=112)
    assert Views(crops="three").boxes(100, 73, size=64) == three_crop(100, 73, size=73)


def test_only_ten_crop_mirrors() -> None:
    assert Views(crops="ten").flips == [False, True] * 5
    assert Views(2, "three").flips == [False] * 3


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"num_clips": 0}, r"num_clips \(0\) must be a whole number of at least 1"),
        ({"num_clips": 1.5}, r"num_clips \(1\.5\) must be"),
        ({"crops": "five"}, r"crops \('five'\) must be one of 'centre', 'full', 'three', 'ten'"),
    ],
)
def test_impossible_views(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Views(**arguments)
