"""How much each frame of a video moves: what a measure is, and those that there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np

from ..decode.reading import Reading, frames_of_span
from ..sampling import Sampler, check_sampler, evaluated
from .pa import _pa
from .packet import Packet
from .pixel import Pixel
from .ssim import Ssim

__all__ = [
    "MEASURES",
    "Measure",
    "as_measure",
    "choose_frames",
    "measure_of",
]


class Measure(Protocol):
    """A way to put a number on how much happens between two frames. One of your own has these members; see
    ``examples/own_measure.py``. It can be pickled, since worker processes measure."""

    @property
    def name(self) -> str:
        """In a few letters, such as ``pixel``."""

    @property
    def parameters(self) -> Mapping[str, Any]:
        """What else tells this measure from others: an index holds curves of one name and its parameters, as JSON."""

    @property
    def needs_decoding(self) -> bool:
        """False where packets tell enough. Then a loader needs no index, since measuring costs next to nothing."""

    def curve(self, reading: Reading) -> np.ndarray:
        """The motion curve of a clip, (N - 1,) float32, finite and at least 0.

        Args:
            reading: the video. Its ``decode()`` gives the clip's frames; its ``scan`` is of the whole video, with its
                packets; its ``span`` are the frames that are the clip.

        Raises:
            ValueError: its motion cannot be measured in this way.
        """


MEASURES: dict[str, Callable[..., Measure]] = {"pixel": Pixel, "ssim": Ssim, "pa": _pa, "packet": Packet}
"""By name, what makes one. Its keyword arguments are options of ``mgs-dali index``."""


def measure_of(sampler: Sampler) -> Measure:
    """How the motion is measured that a sampler needs: by its ``measure``, an object or one of :data:`MEASURES`.

    Raises:
        ValueError: there is no such measure.
    """
    return as_measure(getattr(sampler, "measure", "pixel"))


def as_measure(measure: str | Measure) -> Measure:
    """A measure by its name; one that is an object already stays as it is.

    Raises:
        ValueError: there is no measure of this name.
    """
    if not isinstance(measure, str):
        return measure
    if measure not in MEASURES:
        raise ValueError(f"measure must be one of {', '.join(MEASURES)}, found {measure!r}.")
    return MEASURES[measure]()


def choose_frames(
    video: AbstractContextManager[Reading], sampler: Sampler, *, rng: np.random.Generator | None = None
) -> np.ndarray:
    """Choose frames of a clip, see :meth:`mgs_dali.video.file.VideoFile.choose`."""
    check_sampler(sampler)
    sampler = sampler if rng is not None else evaluated(sampler)
    with video as reading:
        span, table = reading.span, reading.packets
        motion = measure_of(sampler).curve(reading) if sampler.needs_motion else None
        num_frames = len(span)
        if motion is not None:
            num_frames = len(motion) + 1
        elif table is not None and table.level == "full":
            num_frames = sum(1 for _ in reading.decode())  # only decoding tells how many there are
        span = range(span.start, span.start + num_frames)
        return frames_of_span(reading.name, span, sampler=sampler, targets=sampler.targets(rng=rng), motion=motion)
