"""Why these frames: the motion of a video, what motion-guided sampling makes of it, and uniform picks beside it.

One video is measured and drawn large; several videos of a motion index are drawn small, on one sheet.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from .index.store import MotionIndex
from .lists.text import escaped
from .motion import Pixel
from .rawframes import FrameFolder
from .sampling import MotionGuided, motion_cdf, motion_guided_frames, segment_targets, uniform_frames
from .video import rgb
from .video_file import Video, VideoFile, open_video

try:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.gridspec import GridSpecFromSubplotSpec, SubplotSpec
    from matplotlib.patches import Rectangle
    from matplotlib.ticker import MaxNLocator
    from PIL import Image
except ImportError as error:
    raise ModuleNotFoundError(
        "Plots need matplotlib, which is not installed. Install it with: pip install 'mgs-dali[plot]'",
        name="matplotlib",
    ) from error

__all__ = [
    "MAX_SHEET_VIDEOS",
    "Choice",
    "both_picks",
    "busy_frames",
    "cdf_at_frames",
    "choose",
    "choose_indexed",
    "chosen_pictures",
    "draw",
    "draw_sheet",
    "film_strip",
    "indexed_video",
    "jpeg",
    "pick_difference",
    "plot_sheet",
    "plot_video",
    "runs",
    "why_no_curve",
]

MAX_SHEET_VIDEOS = 100
"""More videos make a picture too tall for many viewers."""

# Two colours of Okabe and Ito's palette, which people with any kind of colour blindness tell apart.
_GUIDED, _UNIFORM = "#0072B2", "#D55E00"
_BUSY, _CURVE, _QUIET, _STRATUM = "#FFF0B3", "#333333", "#B0B0B0", "#ECECEC"

_REPEATED_SHARE_OF_MEAN, _MAX_REPEATS = 0.1, 2

_WIDTH_PIXELS, _HEIGHT_PIXELS, _DPI = 1600, 1000, 100
_TEXT_POINTS = 16.0  # still readable where a page shows the picture at half its width
_MAX_NAMED_SEGMENTS = 10  # more pictures side by side have room for their frame's number only

_SHEET_BOX_PIXELS = (200, 150)
_SHEET_TEXT_POINTS = 10.0
_SHEET_HEAD_PIXELS, _SHEET_EDGE_PIXELS = 74, 20
_SHEET_STRIPS_LEFT_PIXELS = 560
_MAX_SHEET_NAME_CHARACTERS = 90


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


def plot_video(video: Path, out: Path, *, sampler: MotionGuided) -> Choice:
    """Draw how frames of a video are chosen: its motion, the motion's CDF with targets and picks, and both film strips.

    Args:
        video: a video that PyAV decodes.
        out: the PNG to write.
        sampler: which motion-guided sampling to show. Targets are the stratum centres, as in evaluation.

    Returns:
        What is drawn.

    Raises:
        ValueError: the video cannot be read or decoded, or the PNG cannot be written there.
    """
    _check_png(out)
    choice = choose(video, sampler=sampler)
    _save_png(draw(choice), out)
    return choice


def plot_sheet(
    index: MotionIndex,
    paths: Sequence[str],
    out: Path,
    *,
    root: Path,
    sampler: MotionGuided,
    template: str | None = None,
    progress: bool = True,
) -> list[Choice]:
    """Draw videos of an index below each other: motion, CDF and strata, and both film strips.

    Motion curves come from the index; of the videos only the chosen frames are decoded.

    Args:
        index: the motion index.
        paths: the videos, by their path in the index; at most `MAX_SHEET_VIDEOS`.
        out: the PNG to write.
        root: the folder that the paths start from.
        sampler: which motion-guided sampling to show.
        template: of the names of frames, for an index of frame folders.
        progress: show a progress bar.

    Returns:
        What is drawn, in the order of `paths`. A video that cannot be decoded has its error in the place of its frames.

    Raises:
        ValueError: a video has no curve, not one can be decoded, there are too many or none, or the PNG cannot be
            written there.
    """
    _check_png(out)
    if not 1 <= len(paths) <= MAX_SHEET_VIDEOS:
        raise ValueError(
            f"a sheet holds 1 to {MAX_SHEET_VIDEOS} videos, found {len(paths)}. A page (--html) holds more."
        )
    for path in paths:
        if path not in index:
            raise ValueError(why_no_curve(index, path))
    bar = tqdm(paths, desc="pictures", unit=" videos", disable=not progress)
    choices = [
        choose_indexed(index, path, root=root, sampler=sampler, template=template, box_pixels=_SHEET_BOX_PIXELS)
        for path in bar
    ]
    if all(choice.error for choice in choices):
        raise ValueError(f"not one of the {len(choices)} videos can be shown. The first: {choices[0].error}")
    _save_png(draw_sheet(choices), out)
    return choices


def _check_png(out: Path) -> None:
    if out.suffix.lower() != ".png":
        raise ValueError(f"{out}: the picture is written as PNG. Give a name that ends in .png.")
    if not out.parent.is_dir():
        raise ValueError(f"{out}: there is no folder {out.parent}. Make it first, or write the picture elsewhere.")


def _save_png(figure: Figure, out: Path) -> None:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    # 256 colours are enough for lines, text and small pictures, and a third of the bytes.
    Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(256).save(out, optimize=True)


# --- choosing -------------------------------------------------------------------------------------------------------


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


# --- one video ------------------------------------------------------------------------------------------------------


def draw(choice: Choice) -> Figure:
    """The picture of a choice, as a matplotlib figure that no pyplot knows of."""
    figure = Figure(figsize=(_WIDTH_PIXELS / _DPI, _HEIGHT_PIXELS / _DPI), dpi=_DPI, facecolor="white")
    left, right = 0.13, 0.985
    panels = figure.add_gridspec(
        2, 1, left=left, right=right, top=0.93, bottom=0.545, height_ratios=[1, 1.35], hspace=0.12
    )
    strips = figure.add_gridspec(2, 1, left=left, right=right, top=0.43, bottom=0.045, hspace=0.6)
    busy, num_frames = busy_frames(choice.motion), len(choice.motion) + 1
    sampler = choice.sampler
    about = f"{choice.name}, {num_frames} frame{'s' * (num_frames > 1)}"
    figure.text(0.012, 0.98, about, fontsize=_TEXT_POINTS, weight="bold", va="top", parse_math=False)
    parameters = f"mu={sampler.mu:g}, floor={sampler.floor:g}, pick={sampler.pick}"
    figure.text(right, 0.98, parameters, fontsize=_TEXT_POINTS, color="#555555", va="top", ha="right")
    note = "no motion: the picks are uniform"
    if choice.motion.any():
        note = "action: more motion than the mean" if busy.any() else "motion, but no frame in the middle of it"
    patch = {"facecolor": _BUSY if busy.any() else "white", "edgecolor": "none", "pad": 4}
    figure.text(0.5, 0.98, note, fontsize=_TEXT_POINTS, va="top", ha="center", bbox=patch)

    above, below = figure.add_subplot(panels[0]), figure.add_subplot(panels[1])
    for axes in (above, below):
        axes.set_xlim(-0.5, num_frames - 0.5)
        axes.tick_params(labelsize=_TEXT_POINTS - 2)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.spines[["top", "right"]].set_visible(False)
        for first, last in runs(busy):
            axes.axvspan(first - 0.5, last + 0.5, color=_BUSY, linewidth=0)
    _draw_motion(above, choice)
    _draw_cdf(below, choice)
    _draw_strip(figure, strips[0], choice, choice.guided, busy, title="Motion-guided", colour=_GUIDED)
    _draw_strip(figure, strips[1], choice, choice.uniform, busy, title="Uniform", colour=_UNIFORM)
    return figure


def _draw_motion(axes: Any, choice: Choice) -> None:
    largest = float(choice.motion.max(initial=0.0)) or 1.0
    # value j is the change from frame j to frame j + 1
    if len(choice.motion):
        axes.stairs(choice.motion, np.arange(len(choice.motion) + 1), fill=True, color=_CURVE)
    rows = {"guided": -0.22 * largest, "uniform": -0.55 * largest}
    axes.plot(choice.guided, np.full(len(choice.guided), rows["guided"]), "o", color=_GUIDED, markersize=9)
    axes.plot(choice.uniform, np.full(len(choice.uniform), rows["uniform"]), "s", color=_UNIFORM, markersize=8)
    axes.axhline(0, color=_QUIET, linewidth=1)
    axes.set_ylim(-0.75 * largest, 1.1 * largest)
    axes.set_yticks([rows["uniform"], rows["guided"], largest / 2], ["uniform", "motion-guided", "motion"])
    for label, colour in zip(axes.get_yticklabels(), (_UNIFORM, _GUIDED, _CURVE), strict=True):
        label.set_color(colour)
        label.set_fontsize(_TEXT_POINTS)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelbottom=False)


def _draw_cdf(axes: Any, choice: Choice) -> None:
    num_segments = len(choice.targets)
    _draw_strata(axes, num_segments)
    cdf = cdf_at_frames(choice.motion, sampler=choice.sampler)
    axes.plot(np.arange(len(cdf)), cdf, color=_CURVE, linewidth=2.5)
    for frame, target in zip(choice.guided, choice.targets, strict=True):
        axes.plot([-0.5, frame, frame], [target, target, 0], color=_GUIDED, linewidth=1.2, alpha=0.8)
    axes.plot(choice.guided, choice.targets, "o", color=_GUIDED, markersize=7)
    axes.set_ylim(0, 1.02)
    axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
    text = f"cumulative\nmotion, in\n{num_segments} equal\nparts"
    axes.text(-0.04, 0.5, text, transform=axes.transAxes, fontsize=_TEXT_POINTS, ha="right", va="center")
    axes.text(-0.012, -0.06, "frame", transform=axes.transAxes, fontsize=_TEXT_POINTS, ha="right", va="top")


def _draw_strata(axes: Any, num_segments: int) -> None:
    """Every second of the equal parts in grey, under everything else."""
    for k in range(0, num_segments, 2):
        axes.axhspan(k / num_segments, (k + 1) / num_segments, color=_STRATUM, linewidth=0, zorder=0.2)


def _draw_strip(
    figure: Figure, place: SubplotSpec, choice: Choice, frames: np.ndarray, busy: np.ndarray, *, title: str, colour: str
) -> None:
    hits = f"{int(busy[frames].sum())} of {len(frames)} frames in the action"
    box = place.get_position(figure)
    figure.text(box.x0, box.y1 + 0.012, f"{title}: {hits}", color=colour, fontsize=_TEXT_POINTS + 4, weight="bold")
    named = len(frames) <= _MAX_NAMED_SEGMENTS
    cells = GridSpecFromSubplotSpec(1, len(frames), place, wspace=0.06)
    for column, frame in enumerate(frames.tolist()):
        axes = figure.add_subplot(cells[column])
        axes.imshow(choice.pictures[frame])
        axes.set_anchor("N")
        axes.set_xticks([])
        axes.set_yticks([])
        for spine in axes.spines.values():
            spine.set_color(colour if busy[frame] else _QUIET)
            spine.set_linewidth((5 if named else 3) if busy[frame] else 1)
        axes.set_xlabel(
            f"frame {frame}" if named else str(frame),
            fontsize=_TEXT_POINTS if len(frames) <= 2 * _MAX_NAMED_SEGMENTS else _TEXT_POINTS / 2,
            weight="bold" if busy[frame] else "normal",
            color=colour if busy[frame] else "#777777",
        )


# --- several videos -------------------------------------------------------------------------------------------------


def draw_sheet(choices: Sequence[Choice]) -> Figure:
    """The picture of several choices of one sampler, below each other, as a figure like that of :func:`draw`."""
    num_segments = len(choices[0].targets)
    strip_width = _WIDTH_PIXELS - _SHEET_EDGE_PIXELS - _SHEET_STRIPS_LEFT_PIXELS
    strip_height = round(min(96.0, max(40.0, 0.75 * strip_width / num_segments)))
    row_height = 34 + 2 * (strip_height + 24) + 22
    height = _SHEET_HEAD_PIXELS + len(choices) * row_height
    figure = Figure(figsize=(_WIDTH_PIXELS / _DPI, height / _DPI), dpi=_DPI, facecolor="white")

    def text(x: float, y: float, words: str, **style: Any) -> None:
        """Words that start at (x, y) pixels, y counted from the top."""
        style = {"fontsize": _SHEET_TEXT_POINTS, "va": "top", **style}
        figure.text(x / _WIDTH_PIXELS, 1 - y / height, words, parse_math=False, **style)

    def panel(x: float, y: float, width: float, panel_height: float) -> Any:
        """Axes whose upper left corner is at (x, y) pixels, y counted from the top."""
        place = (x / _WIDTH_PIXELS, 1 - (y + panel_height) / height, width / _WIDTH_PIXELS, panel_height / height)
        return figure.add_axes(place)

    sampler = choices[0].sampler
    parameters = f"{num_segments} segments, mu={sampler.mu:g}, floor={sampler.floor:g}, pick={sampler.pick}"
    text(_SHEET_EDGE_PIXELS, 14, "Motion-guided frames (blue) and uniform ones (orange)", weight="bold", fontsize=14)
    text(_WIDTH_PIXELS - _SHEET_EDGE_PIXELS, 17, parameters, color="#555555", ha="right")
    legend = (
        f"dark: motion; line: its cumulative share, from 0 to 1 in {num_segments} equal strata; dots and squares: the "
        "frames chosen; yellow: action, where there is more motion than the mean"
    )
    text(_SHEET_EDGE_PIXELS, 44, legend, color="#555555")
    for row, choice in enumerate(choices):
        top = _SHEET_HEAD_PIXELS + row * row_height
        text(_SHEET_EDGE_PIXELS, top, _shortened(choice.name), weight="bold", fontsize=_SHEET_TEXT_POINTS + 1)
        text(_WIDTH_PIXELS - _SHEET_EDGE_PIXELS, top, _told(choice), color="#555555", ha="right")
        strips_top = top + 28
        width = _SHEET_STRIPS_LEFT_PIXELS - _SHEET_EDGE_PIXELS - 30
        _draw_small(panel(_SHEET_EDGE_PIXELS, strips_top, width, 2 * (strip_height + 24) - 22), choice)
        if choice.error:
            text(_SHEET_STRIPS_LEFT_PIXELS, strips_top, textwrap.fill(choice.error, 120), color="#A00000")
            continue
        for line, (frames, colour) in enumerate([(choice.guided, _GUIDED), (choice.uniform, _UNIFORM)]):
            strip = film_strip(choice, frames)
            scale = min(strip_width / strip.shape[1], strip_height / strip.shape[0])
            place = (_SHEET_STRIPS_LEFT_PIXELS, strips_top + line * (strip_height + 24))
            axes = panel(*place, scale * strip.shape[1], scale * strip.shape[0])
            _draw_small_strip(axes, choice, frames, strip, colour=colour, scale=scale)
    return figure


def _told(choice: Choice) -> str:
    num_segments, num_frames = len(choice.targets), len(choice.motion) + 1
    guided, uniform = choice.hits
    return (
        f"{num_frames} frame{'s' * (num_frames > 1)}; picks differ by {choice.difference:.1%} of the length; "
        f"in the action: {guided} of {num_segments} motion-guided, {uniform} of {num_segments} uniform"
    )


def _shortened(name: str) -> str:
    return name if len(name) <= _MAX_SHEET_NAME_CHARACTERS else f"…{name[1 - _MAX_SHEET_NAME_CHARACTERS :]}"


def _draw_small(axes: Any, choice: Choice) -> None:
    """Motion, CDF and picks in one panel; both curves reach up to 1."""
    num_frames = len(choice.motion) + 1
    axes.set_xlim(-0.5, num_frames - 0.5)
    axes.set_ylim(-0.36, 1.04)
    axes.set_yticks([])
    axes.tick_params(labelsize=_SHEET_TEXT_POINTS - 1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, nbins=8))
    axes.spines[["top", "right", "left"]].set_visible(False)
    _draw_strata(axes, len(choice.targets))
    for first, last in runs(busy_frames(choice.motion)):
        axes.axvspan(first - 0.5, last + 0.5, color=_BUSY, linewidth=0, zorder=0.4)
    if choice.motion.any():
        motion = choice.motion / choice.motion.max()
        axes.stairs(motion, np.arange(num_frames), fill=True, color="#8C8C8C", zorder=0.6)
    cdf = cdf_at_frames(choice.motion, sampler=choice.sampler)
    axes.plot(np.arange(len(cdf)), cdf, color="black", linewidth=1.6)
    axes.axhline(0, color=_QUIET, linewidth=1)
    axes.plot(choice.guided, np.full(len(choice.guided), -0.11), "o", color=_GUIDED, markersize=6)
    axes.plot(choice.uniform, np.full(len(choice.uniform), -0.25), "s", color=_UNIFORM, markersize=5.5)


def _draw_small_strip(
    axes: Any, choice: Choice, frames: np.ndarray, strip: np.ndarray, *, colour: str, scale: float
) -> None:
    busy = busy_frames(choice.motion)
    height, width = strip.shape[0], strip.shape[1] / len(frames)
    axes.imshow(strip, extent=(0, strip.shape[1], height, 0), aspect="auto")
    axes.set_axis_off()
    # a bold digit of 10 points is about 10 pixels wide
    points = min(_SHEET_TEXT_POINTS, 0.95 * scale * width / len(str(frames.max())))
    for column, frame in enumerate(frames.tolist()):
        style = {"color": colour, "weight": "bold"} if busy[frame] else {"color": "#777777"}
        middle = ((column + 0.5) * width, height)
        offset = {"xytext": (0, -3), "textcoords": "offset points", "ha": "center", "va": "top"}
        axes.annotate(str(frame), middle, fontsize=points, **offset, **style)
        edge, line, above = (colour, 3.0, 3) if busy[frame] else ("white", 1.5, 2)
        corner = (column * width, 0)
        axes.add_patch(Rectangle(corner, width, height, fill=False, edgecolor=edge, linewidth=line, zorder=above))


def runs(marks: np.ndarray) -> list[tuple[int, int]]:
    """(first, last) of each run of True in (N,) bool."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], marks.astype(np.int8), [0]])))
    return [(int(first), int(end) - 1) for first, end in zip(edges[::2], edges[1::2], strict=True)]
