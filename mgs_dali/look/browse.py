"""The videos of a motion index by how much motion-guided and uniform picks differ, and a page to look through them.

The page is one HTML file that asks the network for nothing: styles, script, numbers and pictures are in it. Its layout
and its behaviour are in ``browse.html``; here is what it shows.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..files import write_whole
from ..index.store import MotionIndex
from ..machine import num_cpus
from ..sampling import MotionGuided
from .choices import (
    Choice,
    both_picks,
    busy_frames,
    cdf_at_frames,
    choose_indexed,
    film_strip,
    jpeg,
    pick_difference,
    runs,
    why_no_curve,
)

__all__ = ["MAX_PAGE_VIDEOS", "most_different", "note_of_short", "page_row", "page_selection", "write_page"]

MAX_PAGE_VIDEOS = 10_000
"""More make a file of hundreds of megabytes, which browsers do not open well."""

_BOX_PIXELS = (128, 96)
_MAX_STRIP_PIXELS = 8192  # wide; JPEG ends at 65535
_MAX_POINTS = 300  # of a curve on the page: a long video's are as many as there are pixels to show them
_DATA_PLACE = "@DATA@"


def most_different(index: MotionIndex, *, sampler: MotionGuided, progress: bool = True) -> list[str]:
    """The paths of an index's videos that have a curve, those first whose two kinds of picks differ most.

    What differs is told by :func:`mgs_dali.look.choices.pick_difference`; equals are in the order of their paths.
    Videos of fewer frames than segments come last, in the same order: one frame is a large share of them, and would be
    first.
    """
    ranks = {}
    for path in tqdm(index, desc="picks", unit=" videos", disable=not progress):
        guided, uniform = both_picks(index[path], sampler=sampler)
        num_frames = index.num_frames(path)
        difference = pick_difference(guided, uniform, num_frames=num_frames)
        ranks[path] = (num_frames < sampler.num_segments, -difference, path)
    return sorted(ranks, key=ranks.__getitem__)


def note_of_short(index: MotionIndex, ranked: Sequence[str], *, sampler: MotionGuided) -> str:
    """The sentence that says how many videos of a ranking come last for being short; empty where none is."""
    num_short = sum(index.num_frames(path) < sampler.num_segments for path in ranked)
    if not num_short:
        return ""
    which = f"{num_short} {'has' if num_short == 1 else 'have'} fewer frames than the {sampler.num_segments} segments"
    return f" {which} and come{'s' * (num_short == 1)} last."


def page_selection(
    index: MotionIndex, ranked: Sequence[str], *, num_videos: int, sampler: MotionGuided
) -> tuple[list[str], str]:
    """What a page shows of an index: the first of the ranking, and the videos without a curve as far as there is room.

    Args:
        index: the motion index.
        ranked: all of its videos that have a curve, see :func:`most_different`.
        num_videos: how many of them to show at most.
        sampler: the one of the ranking.

    Returns:
        The paths, and the sentences that say what is shown and what is not.
    """
    shown = list(ranked[:num_videos])
    failed = list(index.errors)[: max(0, MAX_PAGE_VIDEOS - len(shown))]
    note = f"All {len(shown)} videos with a motion curve."
    if len(shown) < len(ranked):
        note = (
            f"The {len(shown)} of {len(ranked)} videos whose picks differ most; the others are not on this page "
            f"(--num-videos shows more, up to {MAX_PAGE_VIDEOS})."
        )
    note += note_of_short(index, ranked, sampler=sampler)
    if index.errors:
        which = f"{len(failed)}" if len(failed) == len(index.errors) else f"{len(failed)} of the {len(index.errors)}"
        note += f" Also {which} without a motion curve, with the reason."
    return [*shown, *failed], note


def write_page(
    index: MotionIndex,
    paths: Sequence[str],
    out: Path,
    *,
    root: Path,
    sampler: MotionGuided,
    template: str | None = None,
    note: str = "",
    progress: bool = True,
) -> dict[str, str]:
    """Write a page to look through videos of an index.

    Motion curves come from the index; of the videos only the chosen frames are decoded, in as many threads as there are
    CPU cores. The page is there as a whole or not at all.

    Args:
        index: the motion index.
        paths: videos that the index knows, by their path in it, at most `MAX_PAGE_VIDEOS`. Those without a motion curve
            are listed with the reason.
        out: the HTML file to write.
        root: the folder that the paths start from.
        sampler: which motion-guided sampling to show.
        template: of the names of frames, for an index of frame folders.
        note: what the page says of the choice of videos.
        progress: show a progress bar.

    Returns:
        Why videos that have a curve are shown without their frames, by path.

    Raises:
        ValueError: a video is not in the index, not one of those with a curve can be decoded, there are too many or
            none, or the file cannot be written there.
    """
    if out.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"{out}: the page is written as HTML. Give a name that ends in .html.")
    if not out.parent.is_dir():
        raise ValueError(f"{out}: there is no folder {out.parent}. Make it first, or write the page elsewhere.")
    if not 1 <= len(paths) <= MAX_PAGE_VIDEOS:
        raise ValueError(f"a page holds 1 to {MAX_PAGE_VIDEOS} videos, found {len(paths)}. Lower --num-videos.")
    for path in paths:
        if path not in index and path not in index.errors:
            raise ValueError(why_no_curve(index, path))
    about = {
        "name": index.folder.absolute().name,
        "measure": index.measure,
        "sampler": f"{sampler.num_segments} segments, mu={sampler.mu:g}, floor={sampler.floor:g}, pick={sampler.pick}",
        "num_segments": sampler.num_segments,
        "note": note,
    }
    before, after = (files(__package__) / "browse.html").read_text(encoding="utf-8").split(_DATA_PLACE)
    rows_of = partial(_rows, index, root=root, sampler=sampler, template=template)
    failed: dict[str, str] = {}
    with write_whole(out) as unfinished:
        with unfinished.open("w", encoding="utf-8") as page, closing(rows_of(paths)) as rows:
            page.write(f'{before}{{"about":{_json(about)},"videos":[')
            bar = tqdm(rows, total=len(paths), desc="pictures", unit=" videos", disable=not progress)
            for number, row in enumerate(bar):
                if row["path"] in index and row["error"]:
                    failed[row["path"]] = row["error"]
                page.write(("," if number else "") + "\n" + _json(row))
            page.write(f"\n]}}{after}")
        num_curves = sum(path in index for path in paths)
        if num_curves and len(failed) == num_curves:
            first = next(iter(failed.values()))
            raise ValueError(f"not one of the {num_curves} videos can be shown. The first: {first}")
    return failed


def _rows(
    index: MotionIndex, paths: Sequence[str], *, root: Path, sampler: MotionGuided, template: str | None
) -> Generator[dict[str, Any], None, None]:
    """What the page holds of each video, in order."""
    pool = ThreadPoolExecutor(num_cpus())
    try:
        yield from pool.map(partial(page_row, index, root=root, sampler=sampler, template=template), paths)
    finally:
        pool.shutdown(cancel_futures=True)


def page_row(
    index: MotionIndex, path: str, *, root: Path, sampler: MotionGuided, template: str | None = None
) -> dict[str, Any]:
    """What the page holds of a video: plain values for JSON.

    Without a curve it is its path and the ``error``. The others have

    - ``difference``: see :func:`mgs_dali.look.choices.pick_difference`;
    - ``frames``, ``seconds``, ``codec``, ``width``, ``height``: of the video; null where the index does not tell;
    - ``motion``, ``peak``: mean and largest value of the curve;
    - ``curve``: the curve as whole numbers from 0 to 255, the largest value being 255; `_MAX_POINTS` at most, each then
      the largest of the values that it stands for;
    - ``cdf``: the CDF as whole numbers from 0 to 1000, evenly spread from frame 0 on; as many at most;
    - ``guided``, ``uniform``: the chosen frames; ``guided_hits``, ``uniform_hits``: how many of them are in the action;
    - ``action``: first and last frame of each run of frames in the action;
    - ``guided_strip``, ``uniform_strip``: the frames side by side as a JPEG in base64, ``strip``: its size in pixels.
      Empty where they could not be decoded, and ``error`` tells why.
    """
    entry = index.entry(path)
    seconds = entry.num_frames / entry.frames_per_second if entry.num_frames and entry.frames_per_second else None
    row: dict[str, Any] = {
        "path": path,
        "error": entry.error or "",
        "frames": entry.num_frames,
        "seconds": seconds,
        "codec": entry.codec,
        "width": entry.width,
        "height": entry.height,
    }
    if path not in index:
        return row
    box_pixels = (max(1, min(_BOX_PIXELS[0], _MAX_STRIP_PIXELS // sampler.num_segments)), _BOX_PIXELS[1])
    choice = choose_indexed(index, path, root=root, sampler=sampler, template=template, box_pixels=box_pixels)
    motion = choice.motion
    cdf = cdf_at_frames(motion, sampler=sampler)
    return {
        **row,
        "error": choice.error,
        "frames": len(motion) + 1,
        "difference": choice.difference,
        "motion": float(motion.mean(dtype=np.float64)) if len(motion) else 0.0,
        "peak": float(motion.max(initial=0.0)),
        "curve": _curve_points(motion),
        "cdf": _cdf_points(cdf),
        "cdf_frames": len(cdf),
        "guided": choice.guided.tolist(),
        "uniform": choice.uniform.tolist(),
        "guided_hits": choice.hits[0],
        "uniform_hits": choice.hits[1],
        "action": runs(busy_frames(motion)),
        **_strips(choice),
    }


def _curve_points(motion: np.ndarray) -> list[int]:
    if not len(motion):
        return []
    num_points = min(len(motion), _MAX_POINTS)
    largest = np.maximum.reduceat(motion, np.arange(num_points) * len(motion) // num_points).astype(np.float64)
    return np.rint(255 * largest / (largest.max() or 1.0)).astype(int).tolist()


def _cdf_points(cdf: np.ndarray) -> list[int]:
    num_points = min(len(cdf), _MAX_POINTS)
    places = np.linspace(0, max(len(cdf) - 1, 0), num_points)
    return np.rint(1000 * np.interp(places, np.arange(len(cdf)), cdf)).astype(int).tolist() if num_points else []


def _strips(choice: Choice) -> dict[str, Any]:
    if choice.error:
        return {}
    strips = {"guided_strip": film_strip(choice, choice.guided), "uniform_strip": film_strip(choice, choice.uniform)}
    height, width = strips["guided_strip"].shape[:2]
    texts = {name: base64.b64encode(jpeg(strip)).decode("ascii") for name, strip in strips.items()}
    return {"strip": [width, height], **texts}


def _json(value: Any) -> str:
    """JSON that an HTML script element can hold: nothing in it, a file's name say, can end the element."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
