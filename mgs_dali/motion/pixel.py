"""Measure ``pixel``: the mean absolute difference of luma."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from av.video.frame import VideoFrame

from ..decode.frames import luma
from ..decode.reading import Reading

__all__ = [
    "WORKING_SIDE_PIXELS",
    "MotionMeter",
    "Pixel",
    "block_side",
    "pixel_motion",
]


WORKING_SIDE_PIXELS = 32
"""The short side of the picture that motion is measured on. Small enough that averaging takes the sensor's noise away
(blocks of 7 x 7 pixels for a 240-pixel video lower it seven times), large enough for a moving hand to cross blocks."""

_FRAMES_AT_ONCE = 8  # more would take their memory from the system anew each time, which costs more than it saves


@dataclass(frozen=True)
class Pixel:
    """Mean absolute difference of luma, see :class:`MotionMeter`."""

    name: ClassVar[str] = "pixel"
    parameters: ClassVar[dict[str, Any]] = {"working_side_pixels": WORKING_SIDE_PIXELS}
    needs_decoding: ClassVar[bool] = True

    def curve(self, reading: Reading) -> np.ndarray:
        """See :class:`Measure`."""
        return pixel_motion(reading.decode())


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
        self._block = 1
        self._values: list[np.ndarray] = []
        self._rows = np.zeros((0, 0, 0), np.uint16)
        """Sums over rows of blocks, of frames that wait: the first ``_num_waiting`` count."""
        self._num_waiting = 0

    def watch(self, frames: Iterable[VideoFrame]) -> Iterator[VideoFrame]:
        """Pass frames on and measure each against the one before it."""
        for frame in frames:
            image = luma(frame)
            if self.num_frames == 0:
                self._block = block_side(frame.width, frame.height)
                # 16 bits hold 257 rows; a block has as many in pictures of 8224 pixels' height.
                assert self._block <= 257
                self._rows = np.empty((_FRAMES_AT_ONCE + 1, image.shape[0] // self._block, image.shape[1]), np.uint16)
            # Rows of blocks at once, while the frame is in the cache and before the decoder needs its memory again.
            _, num_rows, width = self._rows.shape
            whole = image[: num_rows * self._block].reshape(num_rows, self._block, width)
            np.add.reduce(whole, axis=1, dtype=np.uint16, out=self._rows[self._num_waiting])
            self._num_waiting += 1
            self.num_frames += 1
            # The rest for several frames at once: for arrays this small NumPy's calls cost more than its sums.
            if self._num_waiting == len(self._rows):
                self._measure()
            yield frame

    def _measure(self) -> None:
        rows, block = self._rows[: self._num_waiting], self._block
        # Differences first: they fit 16 bits, also summed over a block, in pictures of up to 383 pixels' height.
        rows = rows.view(np.int16) if 255 * block**2 < 2**15 else rows.astype(np.int32)
        change = rows[1:] - rows[:-1]
        num_frames, num_rows, num_columns = *change.shape[:2], change.shape[2] // block
        whole = change[:, :, : num_columns * block].reshape(num_frames, num_rows, num_columns, block)
        blocks = np.einsum("frcb->frc", whole)  # the sum over b; for so short an axis faster than .sum()
        totals = np.abs(blocks).reshape(num_frames, -1).sum(axis=1, dtype=np.int64)
        self._values.append((totals / (num_rows * num_columns * block**2)).astype(np.float32))
        self._rows[0] = self._rows[self._num_waiting - 1]
        self._num_waiting = 1

    @property
    def curve(self) -> np.ndarray:
        """(F - 1,) float32: ``curve[j]`` is the change from frame j to frame j + 1, in grey levels (0 to 255)."""
        if self._num_waiting > 1:
            self._measure()
        return np.concatenate([np.zeros(0, np.float32), *self._values])


def pixel_motion(frames: Iterable[VideoFrame]) -> np.ndarray:
    """The motion curve of a whole video, (F - 1,) float32 in grey levels. See :class:`MotionMeter`."""
    meter = MotionMeter()
    for _ in meter.watch(frames):
        pass
    return meter.curve
