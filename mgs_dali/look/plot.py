"""Why these frames: the motion of a video, what motion-guided sampling makes of it, and uniform picks beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpecFromSubplotSpec, SubplotSpec
from matplotlib.ticker import MaxNLocator
from PIL import Image

from ..sampling import MotionGuided
from .choices import Choice, busy_frames, cdf_at_frames, choose, runs

__all__ = [
    "BUSY",
    "DPI",
    "GUIDED",
    "QUIET",
    "UNIFORM",
    "WIDTH_PIXELS",
    "check_png",
    "draw",
    "draw_strata",
    "plot_video",
    "save_png",
]

# Two colours of Okabe and Ito's palette, which people with any kind of colour blindness tell apart.
GUIDED, UNIFORM = "#0072B2", "#D55E00"
BUSY, _CURVE, QUIET, _STRATUM = "#FFF0B3", "#333333", "#B0B0B0", "#ECECEC"

WIDTH_PIXELS, _HEIGHT_PIXELS, DPI = 1600, 1000, 100
_TEXT_POINTS = 16.0  # still readable where a page shows the picture at half its width
_MAX_NAMED_SEGMENTS = 10  # more pictures side by side have room for their frame's number only


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
    check_png(out)
    choice = choose(video, sampler=sampler)
    save_png(draw(choice), out)
    return choice


def check_png(out: Path) -> None:
    """Check that a picture may be written under a name.

    Raises:
        ValueError: it is not that of a PNG, or its folder is not there.
    """
    if out.suffix.lower() != ".png":
        raise ValueError(f"{out}: the picture is written as PNG. Give a name that ends in .png.")
    if not out.parent.is_dir():
        raise ValueError(f"{out}: there is no folder {out.parent}. Make it first, or write the picture elsewhere.")


def save_png(figure: Figure, out: Path) -> None:
    """Write a figure as a PNG of 256 colours."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    # 256 colours are enough for lines, text and small pictures, and a third of the bytes.
    Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(256).save(out, optimize=True)


def draw(choice: Choice) -> Figure:
    """The picture of a choice, as a matplotlib figure that no pyplot knows of."""
    figure = Figure(figsize=(WIDTH_PIXELS / DPI, _HEIGHT_PIXELS / DPI), dpi=DPI, facecolor="white")
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
    patch = {"facecolor": BUSY if busy.any() else "white", "edgecolor": "none", "pad": 4}
    figure.text(0.5, 0.98, note, fontsize=_TEXT_POINTS, va="top", ha="center", bbox=patch)

    above, below = figure.add_subplot(panels[0]), figure.add_subplot(panels[1])
    for axes in (above, below):
        axes.set_xlim(-0.5, num_frames - 0.5)
        axes.tick_params(labelsize=_TEXT_POINTS - 2)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.spines[["top", "right"]].set_visible(False)
        for first, last in runs(busy):
            axes.axvspan(first - 0.5, last + 0.5, color=BUSY, linewidth=0)
    _draw_motion(above, choice)
    _draw_cdf(below, choice)
    _draw_strip(figure, strips[0], choice, choice.guided, busy, title="Motion-guided", colour=GUIDED)
    _draw_strip(figure, strips[1], choice, choice.uniform, busy, title="Uniform", colour=UNIFORM)
    return figure


def _draw_motion(axes: Any, choice: Choice) -> None:
    largest = float(choice.motion.max(initial=0.0)) or 1.0
    # value j is the change from frame j to frame j + 1
    if len(choice.motion):
        axes.stairs(choice.motion, np.arange(len(choice.motion) + 1), fill=True, color=_CURVE)
    rows = {"guided": -0.22 * largest, "uniform": -0.55 * largest}
    axes.plot(choice.guided, np.full(len(choice.guided), rows["guided"]), "o", color=GUIDED, markersize=9)
    axes.plot(choice.uniform, np.full(len(choice.uniform), rows["uniform"]), "s", color=UNIFORM, markersize=8)
    axes.axhline(0, color=QUIET, linewidth=1)
    axes.set_ylim(-0.75 * largest, 1.1 * largest)
    axes.set_yticks([rows["uniform"], rows["guided"], largest / 2], ["uniform", "motion-guided", "motion"])
    for label, colour in zip(axes.get_yticklabels(), (UNIFORM, GUIDED, _CURVE), strict=True):
        label.set_color(colour)
        label.set_fontsize(_TEXT_POINTS)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelbottom=False)


def _draw_cdf(axes: Any, choice: Choice) -> None:
    num_segments = len(choice.targets)
    draw_strata(axes, num_segments)
    cdf = cdf_at_frames(choice.motion, sampler=choice.sampler)
    axes.plot(np.arange(len(cdf)), cdf, color=_CURVE, linewidth=2.5)
    for frame, target in zip(choice.guided, choice.targets, strict=True):
        axes.plot([-0.5, frame, frame], [target, target, 0], color=GUIDED, linewidth=1.2, alpha=0.8)
    axes.plot(choice.guided, choice.targets, "o", color=GUIDED, markersize=7)
    axes.set_ylim(0, 1.02)
    axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
    text = f"cumulative\nmotion, in\n{num_segments} equal\nparts"
    axes.text(-0.04, 0.5, text, transform=axes.transAxes, fontsize=_TEXT_POINTS, ha="right", va="center")
    axes.text(-0.012, -0.06, "frame", transform=axes.transAxes, fontsize=_TEXT_POINTS, ha="right", va="top")


def draw_strata(axes: Any, num_segments: int) -> None:
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
            spine.set_color(colour if busy[frame] else QUIET)
            spine.set_linewidth((5 if named else 3) if busy[frame] else 1)
        axes.set_xlabel(
            f"frame {frame}" if named else str(frame),
            fontsize=_TEXT_POINTS if len(frames) <= 2 * _MAX_NAMED_SEGMENTS else _TEXT_POINTS / 2,
            weight="bold" if busy[frame] else "normal",
            color=colour if busy[frame] else "#777777",
        )
