"""What is the same for every video, wherever it lies: which part of it is the clip, and frames decoded of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from av.video.frame import VideoFrame

from ..sampling import Sampler
from ..views.crops import Box
from .frames import rgb_chosen
from .packets import PacketTable, Scan, frame_seconds

__all__ = ["Choose", "Pictures", "Reading", "Stamp", "clip_span", "frames_of_span"]


def _not_to_be_decoded() -> Iterator[VideoFrame]:
    raise AssertionError("frames are chosen before they are decoded")


@dataclass(frozen=True)
class Reading:
    """A video that is being read: what is known of it when frames are chosen, and what a measure of motion looks at."""

    name: str
    """What to call it in errors."""
    num_frames: int
    """Of the whole video; of a frame folder that was not counted, up to the end of the clip."""
    span: range
    """The frames that are the clip."""
    scan: Scan | None = None
    """Of the whole video; of a frame folder only where one was asked for."""
    decode: Callable[[], Iterator[VideoFrame]] = field(default=_not_to_be_decoded, repr=False)
    """Decodes the frames of the clip, in order. It can be done once, and not while frames are chosen."""

    @property
    def packets(self) -> PacketTable | None:
        """Of the whole video; None of a frame folder."""
        return None if self.scan is None else self.scan.packets


Choose = Callable[[Reading], np.ndarray]
"""What is known of a video -> (T,) int64 frames, in any order; may repeat."""


@dataclass(frozen=True)
class Pictures:
    """Decoded frames of a video."""

    frames: np.ndarray
    """(T,) int64: which frames of the video, in the order in which they were asked for."""
    decoded: dict[int, VideoFrame]
    """By frame, each once. Their timestamps are not those of the video."""
    scan: Scan | None = field(default=None, repr=False)
    """Of the whole video; None of a frame folder."""
    detour: str = ""
    """Why decoding took more than the packets that the frames depend on; empty where it did not, or was to."""

    def __len__(self) -> int:
        return len(self.frames)

    def __repr__(self) -> str:
        return f"Pictures(frames={self.frames.tolist()})"

    @property
    def seconds(self) -> np.ndarray:
        """(T,) float64: when they are shown, from the first frame of the video on; NaN where it does not tell."""
        times = np.zeros(0) if self.scan is None else frame_seconds(self.scan)
        return times[self.frames] if self.frames.max() < len(times) else np.full(len(self.frames), np.nan)

    @property
    def pixels(self) -> np.ndarray:
        """(T, H, W, 3) uint8 RGB, as a player shows them: upright, by their colour matrix and range.

        Raises:
            ValueError: they are coloured or turned in a way that is not known.
        """
        return self.cropped(lambda width, height: (0, 0, width, height))

    def cropped(self, box: Callable[[int, int], Box]) -> np.ndarray:
        """A crop of all of them, (T, height, width, 3) uint8 RGB, see :func:`mgs_dali.decode.frames.rgb_chosen`.

        Args:
            box: (width, height) of the upright frames -> the crop (x, y, width, height) in pixels.
        """
        return rgb_chosen(self.decoded, self.frames, box=box)


class Stamp(NamedTuple):
    """What tells whether a video is another one now."""

    size_bytes: int
    """Of the file; of all frames of a folder together."""
    mtime_ns: int
    """Nanoseconds since 1970: the latest change of the file; of a frame of a folder, or of the folder itself. 0 of
    bytes in memory."""


def clip_span(num_there: int, *, first_frame: int, num_frames: int, name: str, what: str, advice: str) -> range:
    """The frames of a clip in its video.

    Args:
        num_there: how many frames the video has.
        first_frame: where the clip begins.
        num_frames: how many frames it has; -1 for all from ``first_frame`` on.
        name: of the video, for errors.
        what: it is, for errors, such as "folder".
        advice: for errors.

    Raises:
        ValueError: the video has fewer frames.
    """
    stop = num_there if num_frames == -1 else first_frame + num_frames
    if not first_frame < stop <= num_there:
        wanted = f"{num_frames} frames" if num_frames != -1 else "at least one frame"
        offset = f" from offset {first_frame} on" if first_frame else ""
        raise ValueError(f"{name}: the list has {wanted} of it{offset}, the {what} has {num_there}. {advice}")
    return range(first_frame, stop)


def frames_of_span(
    name: str, span: range, *, sampler: Sampler, targets: np.ndarray, motion: np.ndarray | None
) -> np.ndarray:
    """The frames that a sampler chooses of a clip, (N,) int64 frames of the video.

    Args:
        name: of the video, for errors.
        span: the frames that are the clip.
        sampler: how frames are chosen.
        targets: drawn for it.
        motion: (len(span) - 1,) motion curve of the clip; None for a sampler that needs none.

    Raises:
        ValueError: they are none of the clip. Only a sampler of a user's own does that.
    """
    places = np.asarray(sampler.frames(len(span), targets, motion))
    is_right = places.ndim == 1 and len(places) % sampler.num_segments == 0 and len(places) > 0
    if not (is_right and places.dtype.kind in "iu" and places.min() >= 0 and places.max() < len(span)):
        raise ValueError(
            f"{name}: the sampler {sampler!r} chose {places.tolist()} ({places.dtype}) of a clip of {len(span)} "
            f"frames. Its frames() must give whole numbers from 0 to {len(span) - 1}, num_segments "
            f"({sampler.num_segments}) of them for each clip."
        )
    return span.start + places.astype(np.int64)
