"""Why these frames: the motion of one video, what motion-guided sampling makes of it, and uniform picks beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .motion import MotionMeter
from .packets import open_video
from .sampling import MotionGuided, motion_cdf, motion_guided_frames, segment_targets, uniform_frames
from .video import decode, rgb_clip

try:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.gridspec import GridSpecFromSubplotSpec, SubplotSpec
    from matplotlib.ticker import MaxNLocator
    from PIL import Image
except ImportError as error:
    raise ModuleNotFoundError(
        "Plots need matplotlib, which is not installed. Install it with: pip install 'mgs-dali[plot]'",
        name="matplotlib",
    ) from error

__all__ = ["Choice", "busy_frames", "choose", "draw", "plot_video"]

# Two colours of Okabe and Ito's palette, which people with any kind of colour blindness tell apart.
_GUIDED, _UNIFORM = "#0072B2", "#D55E00"
_BUSY, _CURVE, _QUIET = "#FFF0B3", "#333333", "#B0B0B0"

_WIDTH_PIXELS, _HEIGHT_PIXELS, _DPI = 1600, 1000, 100
_TEXT_POINTS = 16.0  # still readable where a page shows the picture at half its width
_MAX_NAMED_SEGMENTS = 10  # more pictures side by side have room for their frame's number only


@dataclass(frozen=True)
class Choice:
    """The frames chosen of one video, and what decided.

    Attributes:
        name: of the video.
        sampler: the motion-guided sampler; the uniform picks have its number of segments.
        motion: (F - 1,) float32, the motion curve in grey levels, see :class:`mgs_dali.motion.MotionMeter`.
        targets: (T,) float64, the stratum centres.
        guided: (T,) int64, frames that motion-guided sampling takes.
        uniform: (T,) int64, frames that uniform sampling takes.
        pictures: (H, W, 3) uint8 RGB of each frame in `guided` or `uniform`.
    """

    name: str
    sampler: MotionGuided
    motion: np.ndarray
    targets: np.ndarray
    guided: np.ndarray
    uniform: np.ndarray
    pictures: dict[int, np.ndarray]


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
    if out.suffix.lower() != ".png":
        raise ValueError(f"{out}: the picture is written as PNG. Give a name that ends in .png.")
    if not out.parent.is_dir():
        raise ValueError(f"{out}: there is no folder {out.parent}. Make it first, or write the picture elsewhere.")
    choice = choose(video, sampler=sampler)
    canvas = FigureCanvasAgg(draw(choice))
    canvas.draw()
    # 256 colours are enough for lines, text and small pictures, and a third of the bytes.
    Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(256).save(out, optimize=True)
    return choice


def choose(video: Path, *, sampler: MotionGuided) -> Choice:
    """Measure a video and choose its frames. Decodes it twice: for the motion, and up to the last pick.

    Raises:
        ValueError: the video cannot be read or decoded.
    """
    if not video.is_file():
        raise ValueError(f"{video}: there is no such file (working folder: {Path.cwd()}). Give the path of a video.")
    name, meter = str(video), MotionMeter()
    with open_video(video) as stream:
        for _ in meter.watch(decode(stream, name=name)):
            pass
    if meter.num_frames == 0:
        raise ValueError(f"{name}: no frame could be decoded. Give a file that plays.")
    targets = segment_targets(sampler.num_segments)
    guided = motion_guided_frames(meter.curve, targets, mu=sampler.mu, floor=sampler.floor, pick=sampler.pick)
    uniform = uniform_frames(meter.num_frames, targets)
    picks = np.union1d(guided, uniform)
    with open_video(video) as stream:
        pictures = rgb_clip(decode(stream, name=name), picks, box=lambda width, height: (0, 0, width, height))
    return Choice(
        video.name, sampler, meter.curve, targets, guided, uniform, dict(zip(picks.tolist(), pictures, strict=True))
    )


def busy_frames(motion: np.ndarray) -> np.ndarray:
    """Which frames are in the middle of motion: more than the video's mean both before and after them.

    Args:
        motion: (F - 1,) motion curve.

    Returns:
        (F,) bool. The first and the last frame have one neighbour only. All False without motion.
    """
    if len(motion) == 0:
        return np.zeros(1, bool)
    above = motion > motion.mean(dtype=np.float64)
    return np.concatenate([above[:1], above[:-1] & above[1:], above[-1:]])


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
    figure.text(0.012, 0.98, about, fontsize=_TEXT_POINTS, weight="bold", va="top")
    parameters = f"mu={sampler.mu:g}, floor={sampler.floor:g}, pick={sampler.pick}"
    figure.text(right, 0.98, parameters, fontsize=_TEXT_POINTS, color="#555555", va="top", ha="right")
    note = "action: more motion than the mean" if busy.any() else "no motion: the picks are uniform"
    patch = {"facecolor": _BUSY if busy.any() else "white", "edgecolor": "none", "pad": 4}
    figure.text(0.5, 0.98, note, fontsize=_TEXT_POINTS, va="top", ha="center", bbox=patch)

    above, below = figure.add_subplot(panels[0]), figure.add_subplot(panels[1])
    for axes in (above, below):
        axes.set_xlim(-0.5, num_frames - 0.5)
        axes.tick_params(labelsize=_TEXT_POINTS - 2)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.spines[["top", "right"]].set_visible(False)
        for first, last in _runs(busy):
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
    sampler, num_segments = choice.sampler, len(choice.targets)
    for boundary in np.arange(num_segments + 1) / num_segments:
        axes.axhline(boundary, color="#E4E4E4", linewidth=1, zorder=0.5)
    if choice.motion.any():
        cdf = motion_cdf(choice.motion, mu=sampler.mu, floor=sampler.floor)
        if sampler.pick == "inverse":
            cdf = np.concatenate([[0.0], cdf])
        # "nearest" compares a target with the point of the gap that follows the frame: drawn at that frame
        axes.plot(np.arange(len(cdf)), cdf, color=_CURVE, linewidth=2.5)
    for frame, target in zip(choice.guided, choice.targets, strict=True):
        axes.plot([-0.5, frame, frame], [target, target, 0], color=_GUIDED, linewidth=1.2, alpha=0.8)
    axes.plot(choice.guided, choice.targets, "o", color=_GUIDED, markersize=7)
    axes.set_ylim(0, 1.02)
    axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
    text = f"cumulative\nmotion, in\n{num_segments} equal\nparts"
    axes.text(-0.04, 0.5, text, transform=axes.transAxes, fontsize=_TEXT_POINTS, ha="right", va="center")
    axes.text(-0.012, -0.06, "frame", transform=axes.transAxes, fontsize=_TEXT_POINTS, ha="right", va="top")


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


def _runs(marks: np.ndarray) -> list[tuple[int, int]]:
    """(first, last) of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], marks.astype(np.int8), [0]])))
    return [(int(first), int(end) - 1) for first, end in zip(edges[::2], edges[1::2], strict=True)]
