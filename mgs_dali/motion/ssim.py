"""Measure ``ssim``: 1 - SSIM, as the released code of MGSampler measures."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from ..decode.reading import Reading

__all__ = [
    "Ssim",
    "ssim_motion",
]


@dataclass(frozen=True)
class Ssim:
    """1 - SSIM, see :func:`ssim_motion`."""

    name: ClassVar[str] = "ssim"
    parameters: ClassVar[dict[str, Any]] = {}
    needs_decoding: ClassVar[bool] = True

    def curve(self, reading: Reading) -> np.ndarray:
        """See :class:`Measure`."""
        return ssim_motion(reading.decode(), name=reading.name)


_WINDOW_PIXELS = 7

_K1, _K2, _DATA_RANGE = 0.01, 0.03, 255


class _Window(NamedTuple):
    """Sums over the 7 x 7 windows that lie inside a picture, (H - 6, W - 6) int32 each."""

    image: np.ndarray
    total: np.ndarray
    total_squared: np.ndarray
    spread: np.ndarray
    """49 times the sum of squares, less the square of the sum."""


def ssim_motion(frames: Iterable[VideoFrame], *, name: str = "video") -> np.ndarray:
    """1 - SSIM of neighbouring frames in grey at full resolution, (F - 1,) float32 from 0 to 2.

    The rule of the released ``generate_img_diff.py``: scikit-image's ``structural_similarity`` with its defaults (flat
    windows of 7 x 7 pixels, K1 = 0.01, K2 = 0.03, sample covariance, the mean over windows inside the picture), here
    with window sums in integers, which are exact.

    Raises:
        ValueError: frames are smaller than a window.
    """
    reformatter = VideoReformatter()
    values: list[float] = []
    previous: _Window | None = None
    for frame in frames:
        if min(frame.width, frame.height) < _WINDOW_PIXELS:
            raise ValueError(
                f"{name}: frames of {frame.width}x{frame.height} pixels; measure ssim needs at least "
                f"{_WINDOW_PIXELS}x{_WINDOW_PIXELS}. Measure pixel takes any size."
            )
        window = _window(reformatter.reformat(frame, format="gray", threads=1).to_ndarray().astype(np.int32))
        if previous is not None:
            values.append(1 - _mean_ssim(previous, window))
        previous = window
    # rounding can leave a hair below 0
    return np.maximum(np.array(values, np.float32), 0)


def _window(image: np.ndarray) -> _Window:
    total = _window_sums(image)
    total_squared = total * total
    return _Window(image, total, total_squared, _WINDOW_PIXELS**2 * _window_sums(image * image) - total_squared)


def _window_sums(values: np.ndarray) -> np.ndarray:
    for axis in (0, 1):
        across = values if axis == 0 else values.T
        inside = across.shape[0] - _WINDOW_PIXELS + 1
        pairs = across[:-1] + across[1:]
        # 7 = 4 + 2 + 1
        sums = pairs[:inside] + pairs[2 : inside + 2]
        sums += pairs[4 : inside + 4]
        sums += across[6:]
        values = sums if axis == 0 else sums.T
    return values


def _mean_ssim(a: _Window, b: _Window) -> float:
    """With n = 49, sums s and N = n (n - 1): all four factors of SSIM, times n**2 or N. Below 2**31 throughout."""
    num_pixels = _WINDOW_PIXELS**2
    level = (_K1 * _DATA_RANGE) ** 2 * num_pixels**2
    contrast = (_K2 * _DATA_RANGE) ** 2 * num_pixels * (num_pixels - 1)
    product = a.total * b.total
    covariance = num_pixels * _window_sums(a.image * b.image) - product
    above = (2 * product + level) * (2 * covariance + contrast)
    below = (a.total_squared + b.total_squared + level) * (a.spread + b.spread + contrast)
    return float((above / below).mean())
