"""The frames that motion-guided and uniform sampling choose of a video, what decided, and their pictures."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..decode.frames import rgb
from ..index.store import MotionIndex
from ..lists.text import escaped
from ..motion.pixel import Pixel
from ..sampling import MotionGuided, motion_cdf, motion_guided_frames, segment_targets, uniform_frames
from ..video.file import Video, VideoFile, open_video
from ..video.folder import FrameFolder

__all__ = [
    "Choice",
    "both_picks",
    "busy_frames",
    "cdf_at_frames",
    "choose",
    "choose_indexed",
    "chosen_pictures",
    "film_strip",
    "indexed_video",
    "jpeg",
    "pick_difference",
    "runs",
    "why_no_curve",
]

_REPEATED_SHARE_OF_MEAN, _MAX_REPEATS = 0.1, 2


@dataclass(frozen=True)
class Choice:
    """The frames chosen of one video, and what decided.

    Attributes:
        name: of the video.
        sampler: the motion-guided sampler; the uniform picks have its number of segments.
        motion: (F - 1,) float32, the motion curve, in grey levels or in the unit of the index's measure.
        targets: (T,) float64, the stratum centres.
        guided: (T,) int64, frames that motion-guided sampling takes.
        uniform: (T,) int64, frames that uniform sampling takes.
        pictures: (H, W, 3) uint8 RGB of each frame in `guided` or `uniform`; empty where they could not be decoded.
        error: why there are no pictures; empty where there are.
    """

    name: str
    sampler: MotionGuided
    motion: np.ndarray
    targets: np.ndarray
    guided: np.ndarray
    uniform: np.ndarray
    pictures: dict[int, np.ndarray]
    error: str = ""

    @property
    def difference(self) -> float:
        """How far apart the two samplers pick, see :func:`pick_difference`."""
        return pick_difference(self.guided, self.uniform, num_frames=len(self.motion) + 1)

    @property
    def hits(self) -> tuple[int, int]:
        """How many of the guided and of the uniform frames are in the action, see :func:`busy_frames`."""
        busy = busy_frames(self.motion)
        return int(busy[self.guided].sum()), int(busy[self.uniform].sum())


def both_picks(motion: np.ndarray, *, sampler: MotionGuided) -> tuple[np.ndarray, np.ndarray]:
    """The frames that motion-guided and uniform sampling take in evaluation, (T,) int64 each, for the same targets.

    Args:
        motion: (F - 1,) motion curve.
        sampler: the motion-guided one.
    """
    targets = segment_targets(sampler.num_segments)
    guided = motion_guided_frames(motion, targets, mu=sampler.mu, floor=sampler.floor, pick=sampler.pick)
    return guided, uniform_frames(len(motion) + 1, targets)


def choose(video: Path, *, sampler: MotionGuided) -> Choice:
    """Measure a video and choose its frames. Decodes all of it for the motion, and again what the picks depend on.

    Raises:
        ValueError: the video cannot be read or decoded.
    """
    if not video.is_file():
        raise ValueError(f"{video}: there is no such file (working folder: {Path.cwd()}). Give the path of a video.")
    opened = open_video(video)
    motion = opened.motion(Pixel())
    guided, uniform = both_picks(motion, sampler=sampler)
    pictures = chosen_pictures(opened, np.union1d(guided, uniform))
    targets = segment_targets(sampler.num_segments)
    return Choice(escaped(video.name), sampler, motion, targets, guided, uniform, pictures)


def pick_difference(guided: np.ndarray, uniform: np.ndarray, *, num_frames: int) -> float:
    """How far apart two samplers pick in one video: the mean of ``|guided - uniform|`` as a share of its frames.

    It is what training sees of the difference, in a unit that means the same for short and long videos. With more and
    more segments it tends to the area between the motion's CDF and the diagonal.

    Args:
        guided: (T,) frames for T targets.
        uniform: (T,) frames for the same targets.
        num_frames: of the video.

    Returns:
        A share from 0 to 1.
    """
    return float(np.abs(guided - uniform).mean()) / num_frames


def choose_indexed(
    index: MotionIndex,
    path: str,
    *,
    root: Path,
    sampler: MotionGuided,
    box_pixels: tuple[int, int],
    template: str | None = None,
) -> Choice:
    """Choose frames of a video by its curve in an index. Nothing is measured, and only these frames are decoded.

    A video that cannot be read or decoded gives a choice without pictures, with the reason as its `error`.

    Args:
        index: the motion index.
        path: of a video that has a curve in the index.
        root: the folder that `path` starts from.
        sampler: the motion-guided one.
        box_pixels: (width, height) that the pictures are made small enough for.
        template: of the names of frames, where `path` is a frame folder.
    """
    motion = index[path]
    guided, uniform = both_picks(motion, sampler=sampler)
    pictures: dict[int, np.ndarray] = {}
    error = ""
    try:
        picks = np.union1d(guided, uniform)
        video = indexed_video(root / path, template=template)
        pictures = chosen_pictures(video, picks, box_pixels=box_pixels, num_measured=len(motion) + 1)
    except (ValueError, OSError) as problem:
        error = escaped(str(problem))
    return Choice(path, sampler, motion, segment_targets(sampler.num_segments), guided, uniform, pictures, error)


def indexed_video(file: Path, *, template: str | None) -> Video:
    """The video of a path in an index.

    Raises:
        ValueError: it is a folder, and there is no template of the names of its frames.
    """
    if template is not None:
        return FrameFolder(file, template)
    if file.is_dir():
        raise ValueError(f"{file}: a folder. If it holds frames, say how they are named: --template 'img_{{:05}}.jpg'.")
    return VideoFile(file)


def chosen_pictures(
    video: Video,
    picks: np.ndarray,
    *,
    box_pixels: tuple[int, int] | None = None,
    num_measured: int | None = None,
) -> dict[int, np.ndarray]:
    """Frames of a video as pictures, (H, W, 3) uint8 RGB by frame. Only what these frames depend on is decoded.

    Args:
        video: the video.
        picks: (T,) frames.
        box_pixels: (width, height) that the pictures are made small enough for; their own size by default.
        num_measured: how many frames its motion curve is of, where that was measured earlier.

    Raises:
        ValueError: the video cannot be read or decoded, or is not the one that was measured.
    """
    decoded = video.pictures(picks, num_measured=num_measured).decoded
    return {frame: _fitted(rgb(decoded[frame]), box_pixels) for frame in sorted(decoded)}


def _fitted(picture: np.ndarray, box_pixels: tuple[int, int] | None) -> np.ndarray:
    if box_pixels is None:
        return picture
    image = Image.fromarray(picture)
    image.thumbnail(box_pixels)
    return np.asarray(image)


def film_strip(choice: Choice, frames: np.ndarray) -> np.ndarray:
    """The pictures of frames side by side, (H, T * W, 3) uint8."""
    return np.concatenate([choice.pictures[frame] for frame in frames.tolist()], axis=1)


def jpeg(picture: np.ndarray) -> bytes:
    """An (H, W, 3) uint8 picture as a JPEG file, small rather than beautiful."""
    content = io.BytesIO()
    Image.fromarray(picture).save(content, "JPEG", quality=70, optimize=True)
    return content.getvalue()


def why_no_curve(index: MotionIndex, path: str) -> str:
    """What is to say of a video that an index has no curve of."""
    try:
        index[path]
    except KeyError as error:
        return str(error)
    raise AssertionError(path)


def busy_frames(motion: np.ndarray) -> np.ndarray:
    """Which frames are in the middle of motion: more than the video's mean both before and after them.

    Frames that show one picture twice or three times, as where 30 frames a second were made 60, are judged as that
    picture, and the motion from it to the next is shared out over its frames.

    Args:
        motion: (F - 1,) motion curve.

    Returns:
        (F,) bool. The first and the last frame have one neighbour only. All False without motion.
    """
    if len(motion) == 0:
        return np.zeros(1, bool)
    is_change = ~_repeats(motion)
    changes = np.flatnonzero(is_change)
    above = motion[changes] / np.diff(changes, prepend=-1) > motion.mean(dtype=np.float64)
    busy = np.concatenate([above[:1], above[:-1] & above[1:], above[-1:]])
    picture_of_frame = np.concatenate([[0], np.cumsum(is_change)])
    return busy[picture_of_frame]


def _repeats(motion: np.ndarray) -> np.ndarray:
    """Where a curve is between frames of one picture: one or two values of nearly nothing in the midst of motion."""
    is_repeat = np.zeros(len(motion), bool)
    # not exactly nothing: frames that were encoded with loss differ
    for first, last in runs(motion < _REPEATED_SHARE_OF_MEAN * motion.mean(dtype=np.float64)):
        if first > 0 and last < len(motion) - 1 and last - first < _MAX_REPEATS:
            is_repeat[first : last + 1] = True
    return is_repeat


def cdf_at_frames(motion: np.ndarray, *, sampler: MotionGuided) -> np.ndarray:
    """The motion's CDF as the sampler's rule reads it: value ``f`` belongs to frame ``f``.

    ``pick="nearest"`` compares a target with the point of the gap that follows the frame, so that the last frame has
    none; for ``pick="inverse"`` the CDF starts with 0 at frame 0.

    Returns:
        (F - 1,) or (F,) float64; empty without motion.
    """
    if not motion.any():
        return np.zeros(0)
    cdf = motion_cdf(motion, mu=sampler.mu, floor=sampler.floor)
    return np.concatenate([[0.0], cdf]) if sampler.pick == "inverse" else cdf


def runs(marks: np.ndarray) -> list[tuple[int, int]]:
    """(first, last) of each run of True in (N,) bool."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], marks.astype(np.int8), [0]])))
    return [(int(first), int(end) - 1) for first, end in zip(edges[::2], edges[1::2], strict=True)]
