"""How much each frame of a video moves: measures over decoded frames."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from av.video.frame import VideoFrame

from .video import block_luma, luma

__all__ = ["WORKING_SIDE_PIXELS", "MotionMeter", "block_side", "pixel_motion"]

WORKING_SIDE_PIXELS = 32
"""The short side of the picture that motion is measured on. Small enough that averaging takes the sensor's noise away
(blocks of 7 x 7 pixels for a 240-pixel video lower it seven times), large enough for a moving hand to cross blocks."""


def block_side(width: int, height: int) -> int:
    """Side in pixels of the square blocks that a picture of this size is averaged over."""
    return max(1, min(width, height) // WORKING_SIDE_PIXELS)


class MotionMeter:
    """Measures motion of frames as they pass: the mean absolute luma difference of neighbours (measure ``pixel``).

    Luma is averaged over square blocks first, see :data:`WORKING_SIDE_PIXELS`. The method's paper (MGSampler,
    ICCV 2021) subtracts neighbouring frames; the authors' released script takes 1 - SSIM and says that the two "give
    similar results".
    """

    def __init__(self) -> None:
        self.num_frames = 0
        self._values: list[float] = []
        self._previous: np.ndarray | None = None

    def watch(self, frames: Iterable[VideoFrame]) -> Iterator[VideoFrame]:
        """Pass frames on and measure each against the one before it."""
        for frame in frames:
            block = block_side(frame.width, frame.height)
            blocks = block_luma(luma(frame), block=block)
            if self._previous is not None:
                difference = np.abs(blocks - self._previous)
                self._values.append(float(difference.mean()) / block**2)
            self._previous = blocks
            self.num_frames += 1
            yield frame

    @property
    def curve(self) -> np.ndarray:
        """(F - 1,) float32: ``curve[j]`` is the change from frame j to frame j + 1, in grey levels (0 to 255)."""
        return np.array(self._values, np.float32)


def pixel_motion(frames: Iterable[VideoFrame]) -> np.ndarray:
    """The motion curve of a whole video, (F - 1,) float32 in grey levels. See :class:`MotionMeter`."""
    meter = MotionMeter()
    for _ in meter.watch(frames):
        pass
    return meter.curve
