"""One clip, decoded on the CPU."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..decode.reading import Choose, Reading, frames_of_span
from ..motion.measure import measure_of
from ..motion.pixel import MotionMeter
from ..sampling import Sampler
from ..video.file import Video
from ..video.folder import FrameFolder, Picture
from .plan import Draws, Plan

__all__ = [
    "NOT_MEASURED",
    "LoadedClip",
    "choose_pictures",
    "error_text",
    "known_frames",
    "load_clip",
    "load_sample",
]


class LoadedClip(NamedTuple):
    """What :func:`load_clip` gives."""

    pixels: np.ndarray
    """(num_picks, height, width, 3) uint8: what is needed of the frames (:meth:`Draws.box`), not resized."""
    frames: np.ndarray
    """(num_picks,) int64: which frames these are."""
    measured: np.ndarray
    """(F - 1,) float32, the motion curve if it was measured here; :data:`NOT_MEASURED` if not."""
    detour: str
    """Why sparse decoding took more than the packets that the frames depend on; empty where it did not, or was not
    asked for."""


NOT_MEASURED = np.full(1, np.nan, np.float32)
"""In place of a motion curve; that of a video of one frame is empty."""


def known_frames(video: Video, *, sampler: Sampler, targets: np.ndarray, motion: np.ndarray | None) -> Choose | None:
    """How the frames of a clip are chosen before decoding; None where its motion must be seen first.

    Args:
        video: of the clip.
        sampler: how frames are chosen.
        targets: drawn for it.
        motion: (F - 1,) motion curve of the whole video, where it is known.
    """
    if sampler.needs_motion and motion is None and measure_of(sampler).needs_decoding:
        return None

    def choose(reading: Reading) -> np.ndarray:
        span, of_span = reading.span, None
        if sampler.needs_motion:
            of_span = measure_of(sampler).curve(reading) if motion is None else motion[span.start : span.stop - 1]
        return frames_of_span(video.name, span, sampler=sampler, targets=targets, motion=of_span)

    return choose


def load_clip(
    video: Video,
    draws: Draws,
    *,
    sampler: Sampler,
    motion: np.ndarray | None = None,
    sparse: bool = False,
    measure_whole: bool = False,
) -> LoadedClip:
    """Choose the frames of a clip and decode them on the CPU; of each the part that is needed.

    Where its motion must be seen first, all frames of the clip are decoded for it.

    Args:
        video: of the clip, a file or a frame folder.
        draws: what was decided for it.
        sampler: how frames are chosen.
        motion: (F - 1,) motion curve of the whole video, where it is known.
        sparse: where frames are known before decoding, decode only the packets that they depend on instead of every
            one up to the last. The result is the same.
        measure_whole: where its motion must be seen, see that of the whole video, for a motion index.

    Raises:
        ValueError: the video cannot be read or decoded, or the curve is of another video.
    """
    asked = _ask(video, draws, sampler=sampler, motion=motion, measure_whole=measure_whole)
    watch = None if asked.meter is None else asked.meter.watch
    pictures = asked.video.pictures(asked.choose, sparse=sparse, num_measured=asked.num_measured, watch=watch)
    return LoadedClip(pictures.cropped(draws.box), pictures.frames, asked.measured, pictures.detour)


@dataclass(frozen=True)
class _Asked:
    """What is asked of a video for a clip."""

    video: Video
    choose: Choose
    num_measured: int | None
    meter: MotionMeter | None = None
    """Where frames are chosen by what it has seen."""

    @property
    def measured(self) -> np.ndarray:
        """See :attr:`LoadedClip.measured`."""
        return NOT_MEASURED if self.meter is None else self.meter.curve


def _ask(video: Video, draws: Draws, *, sampler: Sampler, motion: np.ndarray | None, measure_whole: bool) -> _Asked:
    """See :func:`load_clip`."""
    known = known_frames(video, sampler=sampler, targets=draws.targets, motion=motion)
    if known is not None:
        return _Asked(video, known, None if motion is None else len(motion) + 1)
    meter = MotionMeter()

    def choose(reading: Reading) -> np.ndarray:
        span, seen = video.span(reading.num_frames), meter.curve
        of_span = seen[span.start : span.stop - 1] if measure_whole else seen
        return frames_of_span(video.name, span, sampler=sampler, targets=draws.targets, motion=of_span)

    return _Asked(video.whole if measure_whole else video, choose, None, meter)


def choose_pictures(plan: Plan, sample: int, draws: Draws) -> tuple[np.ndarray, dict[int, Picture], np.ndarray]:
    """Choose the frames of a clip that is (part of) a frame folder as :func:`load_clip` does, and read their files.

    Returns:
        frames: (T,) int64.
        pictures: by frame, each once; all of one size.
        measured: as :attr:`LoadedClip.measured`.

    Raises:
        ValueError: the folder or a frame is not there or damaged, or does not fit the list or the motion index.
    """
    folder, motion, whole = plan.clips.video(sample), plan.motion(sample), not plan.index_is_whole
    assert isinstance(folder, FrameFolder)
    asked = _ask(folder, draws, sampler=plan.sampler, motion=motion, measure_whole=whole)
    assert isinstance(asked.video, FrameFolder)
    watch = None if asked.meter is None else asked.meter.watch
    chosen = asked.video.read_chosen(asked.choose, num_measured=asked.num_measured, watch=watch)
    return *chosen, asked.measured if whole else NOT_MEASURED


def load_sample(plan: Plan, sample: int, draws: Draws, *, sparse: bool = False) -> LoadedClip:
    """Load a clip of the list on the CPU, see :func:`load_clip`.

    Raises:
        ValueError: as there.
    """
    return load_clip(
        plan.clips.video(sample),
        draws,
        sampler=plan.sampler,
        motion=plan.motion(sample),
        sparse=sparse,
        measure_whole=not plan.index_is_whole,
    )


def error_text(error: Exception, *, name: str) -> str:
    """What is to be said of a sample that a worker could not load; whatever it is, it names the file."""
    if isinstance(error, ValueError):
        return str(error) if name in str(error) else f"{name}: {error}"
    if isinstance(error, OSError):
        return f"{name}: {error.strerror or error}. Check the list and the root folder."
    where = "".join(traceback.format_exception(error)[-3:]).strip()
    return f"{name}: could not be loaded, for a reason that was not foreseen ({type(error).__name__}).\n{where}"
