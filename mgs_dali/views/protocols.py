"""How a video is looked at for evaluation: some clips of it, each in some crops. A protocol is a name for that."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

from .crops import Box, centre_crop, short_side, ten_crop, three_crop

__all__ = ["CROPS", "ONE_VIEW", "PROTOCOLS", "Views"]

CROPS = {"centre": 1, "full": 1, "three": 3, "ten": 10}
"""How many crops there are of each kind, see :class:`Views`."""


@dataclass(frozen=True)
class Views:
    """The views of a video: every crop of every clip, crop after crop and within a crop clip after clip, as mmaction2
    orders them.

    Crops, for clips of ``size`` 224:

    * "centre": 224 pixels in the middle of the frame with its short side resized to 256
    * "full": 256 pixels there, the whole short side
    * "three": ThreeCrop of 256 pixels: left, right and middle
    * "ten": TenCrop of 224 pixels: the four corners and the centre, each followed by its mirror image
    """

    num_clips: int = 1
    """Clips of a video, see :class:`mgs_dali.sampling.Sampler`: 1 or 2, or any number for Dense."""
    crops: str = "centre"
    """Kind of crops: one of :data:`CROPS`."""

    def __post_init__(self) -> None:
        try:
            counts = operator.index(self.num_clips) >= 1
        except TypeError:
            counts = False
        if not counts:
            raise ValueError(f"num_clips ({self.num_clips!r}) must be a whole number of at least 1.")
        if self.crops not in CROPS:
            raise ValueError(f"crops ({self.crops!r}) must be one of {', '.join(map(repr, CROPS))}.")

    @property
    def num_crops(self) -> int:
        """Crops of each clip."""
        return CROPS[self.crops]

    def __len__(self) -> int:
        """Views of a video."""
        return self.num_clips * self.num_crops

    @property
    def flips(self) -> list[bool]:
        """Which crops are mirrored, left to right: one value a crop."""
        return [False, True] * 5 if self.crops == "ten" else [False] * self.num_crops

    def side(self, size: int) -> int:
        """Side of the clips in pixels, for a network whose input is ``size``: 256/224 of it for whole short sides."""
        return short_side(size) if self.crops in ("full", "three") else size

    def boxes(self, width: int, height: int, *, size: int) -> list[Box]:
        """The crops of a frame of ``width`` x ``height`` pixels, for a network whose input is ``size``."""
        if self.crops == "centre":
            return [centre_crop(width, height, size=size)]
        if self.crops == "ten":
            return ten_crop(width, height, size=size)
        left, right, middle = three_crop(width, height, size=short_side(size))
        return [middle] if self.crops == "full" else [left, right, middle]


ONE_VIEW = Views()
"""The centres of the segments in a centre crop."""

PROTOCOLS = {
    "efficient": ONE_VIEW,
    "efficient_full": Views(crops="full"),
    "accurate": Views(2, "three"),
    "ten_crop": Views(crops="ten"),
    "dense": Views(10),
    "dense_three": Views(10, "three"),
    "dense_ten": Views(10, "ten"),
}
"""The published protocols. "efficient" and "accurate" are mmaction2's for Something-Something, "efficient_full" its
validation on Jester, "ten_crop" its test on Kinetics; the dense ones are for the sampler Dense: ten crops in mmaction2
from 0.19 on, three in its MobileNetV2 configs and the original TSM code, the centre in mmaction2 before."""


def as_views(given: Any) -> Views:
    """Views as they are given, or by the name of one of :data:`PROTOCOLS`.

    Raises:
        ValueError: there are none of this name.
    """
    if isinstance(given, Views):
        return given
    if isinstance(given, str) and given in PROTOCOLS:
        return PROTOCOLS[given]
    raise ValueError(f"views ({given!r}) must be Views(...) or one of {', '.join(map(repr, PROTOCOLS))}.")
