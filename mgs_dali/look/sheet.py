"""Several videos of a motion index on one sheet, drawn small below each other."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from tqdm import tqdm

from ..index.store import MotionIndex
from ..sampling import MotionGuided
from .choices import Choice, busy_frames, cdf_at_frames, choose_indexed, film_strip, runs, why_no_curve
from .plot import BUSY, DPI, GUIDED, QUIET, UNIFORM, WIDTH_PIXELS, check_png, draw_strata, save_png

__all__ = ["MAX_SHEET_VIDEOS", "draw_sheet", "plot_sheet"]

MAX_SHEET_VIDEOS = 100
"""More videos make a picture too tall for many viewers."""

_SHEET_BOX_PIXELS = (200, 150)
_SHEET_TEXT_POINTS = 10.0
_SHEET_HEAD_PIXELS, _SHEET_EDGE_PIXELS = 74, 20
_SHEET_STRIPS_LEFT_PIXELS = 560
_MAX_SHEET_NAME_CHARACTERS = 90


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
    check_png(out)
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
    save_png(draw_sheet(choices), out)
    return choices


def draw_sheet(choices: Sequence[Choice]) -> Figure:
    """The picture of several choices of one sampler, below each other, as a figure like that of :mod:`.plot`."""
    num_segments = len(choices[0].targets)
    strip_width = WIDTH_PIXELS - _SHEET_EDGE_PIXELS - _SHEET_STRIPS_LEFT_PIXELS
    strip_height = round(min(96.0, max(40.0, 0.75 * strip_width / num_segments)))
    row_height = 34 + 2 * (strip_height + 24) + 22
    height = _SHEET_HEAD_PIXELS + len(choices) * row_height
    figure = Figure(figsize=(WIDTH_PIXELS / DPI, height / DPI), dpi=DPI, facecolor="white")

    def text(x: float, y: float, words: str, **style: Any) -> None:
        """Words that start at (x, y) pixels, y counted from the top."""
        style = {"fontsize": _SHEET_TEXT_POINTS, "va": "top", **style}
        figure.text(x / WIDTH_PIXELS, 1 - y / height, words, parse_math=False, **style)

    def panel(x: float, y: float, width: float, panel_height: float) -> Any:
        """Axes whose upper left corner is at (x, y) pixels, y counted from the top."""
        place = (x / WIDTH_PIXELS, 1 - (y + panel_height) / height, width / WIDTH_PIXELS, panel_height / height)
        return figure.add_axes(place)

    sampler = choices[0].sampler
    parameters = f"{num_segments} segments, mu={sampler.mu:g}, floor={sampler.floor:g}, pick={sampler.pick}"
    text(_SHEET_EDGE_PIXELS, 14, "Motion-guided frames (blue) and uniform ones (orange)", weight="bold", fontsize=14)
    text(WIDTH_PIXELS - _SHEET_EDGE_PIXELS, 17, parameters, color="#555555", ha="right")
    legend = (
        f"dark: motion; line: its cumulative share, from 0 to 1 in {num_segments} equal strata; dots and squares: the "
        "frames chosen; yellow: action, where there is more motion than the mean"
    )
    text(_SHEET_EDGE_PIXELS, 44, legend, color="#555555")
    for row, choice in enumerate(choices):
        top = _SHEET_HEAD_PIXELS + row * row_height
        text(_SHEET_EDGE_PIXELS, top, _shortened(choice.name), weight="bold", fontsize=_SHEET_TEXT_POINTS + 1)
        text(WIDTH_PIXELS - _SHEET_EDGE_PIXELS, top, _told(choice), color="#555555", ha="right")
        strips_top = top + 28
        width = _SHEET_STRIPS_LEFT_PIXELS - _SHEET_EDGE_PIXELS - 30
        _draw_small(panel(_SHEET_EDGE_PIXELS, strips_top, width, 2 * (strip_height + 24) - 22), choice)
        if choice.error:
            text(_SHEET_STRIPS_LEFT_PIXELS, strips_top, textwrap.fill(choice.error, 120), color="#A00000")
            continue
        for line, (frames, colour) in enumerate([(choice.guided, GUIDED), (choice.uniform, UNIFORM)]):
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
    draw_strata(axes, len(choice.targets))
    for first, last in runs(busy_frames(choice.motion)):
        axes.axvspan(first - 0.5, last + 0.5, color=BUSY, linewidth=0, zorder=0.4)
    if choice.motion.any():
        motion = choice.motion / choice.motion.max()
        axes.stairs(motion, np.arange(num_frames), fill=True, color="#8C8C8C", zorder=0.6)
    cdf = cdf_at_frames(choice.motion, sampler=choice.sampler)
    axes.plot(np.arange(len(cdf)), cdf, color="black", linewidth=1.6)
    axes.axhline(0, color=QUIET, linewidth=1)
    axes.plot(choice.guided, np.full(len(choice.guided), -0.11), "o", color=GUIDED, markersize=6)
    axes.plot(choice.uniform, np.full(len(choice.uniform), -0.25), "s", color=UNIFORM, markersize=5.5)


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
