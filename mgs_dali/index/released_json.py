"""The motion that the released MGSampler code keeps in JSON: read into an index, written from one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from ..files import write_whole
from ..lists.table import Clips
from ..lists.text import is_utf8
from ..motion.pixel import Pixel
from .indexing import Job, Summary, columns_of, why_not_utf8
from .measuring import video_facts
from .store import MotionIndex, Writer, empty_row, known_rows, locked

__all__ = ["JsonFormat", "export_json", "import_json"]

_CUMULATED_END_TOLERANCE = 1e-3
_ROUNDING = 1e-6

JsonFormat = Literal["auto", "differences", "cumulated"]


def import_json(
    file: str | Path, clips: Clips, out: str | Path, *, json_format: JsonFormat = "auto", progress: bool = True
) -> Summary:
    """Make an index of the motion that the released MGSampler code keeps in ``img_diff_*.json``.

    There are two formats, both ``{clip name: [F - 1 numbers]}``. ``generate_img_diff.py`` writes raw differences.
    ``generate_feature_diff.py`` writes the finished distribution ``c``, which has the exponent 0.5 in it already and is
    cumulated; its differences ``p`` give back the motion (up to a factor, which sampling does not see) as ``p ** 2``. A
    file is taken for the second kind if each of its curves never falls and ends at 1.

    A clip's name is that of its file or frame folder up to the first dot. Where the video is there, its frames are
    counted (without decoding) and compared. Several objects in one file, which is what a repeated run of the released
    scripts leaves, are read as one.

    Args:
        file: the JSON.
        clips: the list that tells the paths. Clips in the JSON alone are left out.
        out: folder of the index. It may hold an earlier import of the same format.
        json_format: ``differences`` or ``cumulated``; ``auto`` looks.
        progress: show a progress bar.

    Returns:
        A summary in which every video that the JSON has counts as measured, and ``errors`` are those that it lacks or
        has nonsense for.

    Raises:
        ValueError: the JSON cannot be understood, two videos of the list have one name, or no video of it is in the
            JSON.
    """
    file, out = Path(file), Path(out)
    curves = _read_json(file)
    paths = _paths_by_name(list(dict.fromkeys(clips.paths)), clips.list_file)
    if not paths.keys() & curves.keys():
        raise ValueError(
            f"{file}: none of its {len(curves)} clips (such as {next(iter(curves))!r}) is in {clips.list_file} (whose "
            f"clips are such as {next(iter(paths))!r}). A clip's name is its file's name up to the first dot."
        )
    if json_format == "auto":
        json_format = _json_format(file, curves)
    job = Job(clips, Pixel())
    identity = {"measure": "imported", "parameters": {"format": json_format}}
    errors: dict[str, str] = {}
    with locked(out):
        known_rows(out, identity)  # another measure there is an error
        writer = Writer(out, identity, part_num_videos=4096, part_seconds=300.0)
        for name, path in tqdm(paths.items(), desc="import", unit=" videos", disable=not progress):
            if name not in curves:
                errors[path] = f"{path}: {file} has no clip {name!r}."
                continue
            row = _imported_row(job, path, curves[name], cumulated=json_format == "cumulated", source=file)
            if row["error"] is not None:
                errors[path] = row["error"]
            writer.add(row)
        writer.flush()
    return Summary(len(paths), len(paths.keys() & curves.keys()), 0, errors)


def export_json(index: MotionIndex, file: str | Path) -> int:
    """Write an index as the JSON that the released MGSampler code reads: ``{clip name: [F - 1 raw differences]}``.

    Returns:
        The number of clips. Videos that could not be measured are left out.

    Raises:
        ValueError: two videos have one clip name, the index is empty, or the file cannot be written.
    """
    file = Path(file)
    if len(index) == 0:
        raise ValueError(f"{index.folder}: holds no curve, there is nothing to write.")
    paths = _paths_by_name(list(index), index.folder)
    try:
        with write_whole(file) as unfinished, unfinished.open("w", encoding="utf-8") as text:
            for number, (name, path) in enumerate(paths.items()):
                # nine digits give a float32 back exactly
                values = ", ".join([f"{value:.9g}" for value in index[path].tolist()])
                text.write(f"{', ' if number else '{'}{json.dumps(name)}: [{values}]")
            text.write("}")
    except OSError as error:
        raise ValueError(f"{file}: could not be written ({error.strerror}).") from error
    return len(paths)


def _read_json(file: Path) -> dict[str, list[float]]:
    if not file.is_file():
        raise ValueError(f"{file}: there is no such file.")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: not UTF-8 text ({error.reason}), so no JSON of the released code.") from None
    decoder, place = json.JSONDecoder(), 0
    curves: dict[str, list[float]] = {}
    while place < len(text.rstrip()):
        try:
            found, place = decoder.raw_decode(text, len(text) - len(text[place:].lstrip()))
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{file}, line {error.lineno}, column {error.colno}: not valid JSON: {error.msg}. Is the file complete?"
            ) from None
        if not isinstance(found, dict):
            raise ValueError(f"{file}: expected an object of clip names and lists, found {type(found).__name__}.")
        curves |= found
    for name, values in curves.items():
        if not isinstance(values, list) or not all(type(value) in (float, int) for value in values):
            raise ValueError(f"{file}: expected a list of numbers for clip {name!r}, found {str(values)[:60]}.")
    if not curves:
        raise ValueError(f"{file}: holds no clip.")
    return curves


def _json_format(file: Path, curves: Mapping[str, list[float]]) -> Literal["differences", "cumulated"]:
    """Which of the two formats a file has. One value, or none, or NaN tells nothing."""
    telling = {name: np.array(values) for name, values in curves.items() if len(values) > 1}
    looks = {
        name: bool(
            np.all(np.diff(values, prepend=0.0) >= -_ROUNDING) and abs(values[-1] - 1) <= _CUMULATED_END_TOLERANCE
        )
        for name, values in telling.items()
        if np.isfinite(values).all()
    }
    if looks and all(looks.values()):
        return "cumulated"
    if any(looks.values()):
        one, other = (next(name for name, look in looks.items() if look is wanted) for wanted in (True, False))
        raise ValueError(
            f"{file}: {sum(looks.values())} of {len(looks)} curves look cumulated (they never fall and end at 1, such "
            f"as {one!r}), the others do not (such as {other!r}). Say which it is with --format differences or "
            "--format cumulated, or split the file."
        )
    return "differences"


def _paths_by_name(paths: Sequence[str], source: Path) -> dict[str, str]:
    """Paths by the released code's clip names."""
    by_name: dict[str, str] = {}
    for path in paths:
        name = PurePosixPath(path).name.split(".")[0]
        if name in by_name:
            raise ValueError(
                f"{source}: {by_name[name]!r} and {path!r} are both clip {name!r} in the released code's JSON, which "
                "tells clips by their file's name up to the first dot. Rename one, or use lists that hold one of them."
            )
        by_name[name] = path
    return by_name


def _imported_row(job: Job, path: str, curve: list[float], *, cumulated: bool, source: Path) -> dict[str, Any]:
    clips, row = job.clips, empty_row(path)
    if not is_utf8(path):
        return row | {"error": why_not_utf8(path)}
    values = np.array(curve, np.float64)
    if cumulated:
        values = np.diff(values, prepend=0.0)
    if not np.isfinite(values).all() or (values < -_ROUNDING).any():
        return row | {
            "error": f"{path}: its curve in {source} has values that are negative or not finite. Measure it anew."
        }
    values = np.maximum(values, 0)
    motion = (values**2 if cumulated else values).astype(np.float32)
    row |= {"num_frames": len(motion) + 1, "motion": motion}
    if not (clips.root / path).exists():
        if not curve:
            # the released scripts leave nothing for a video that they could not decode
            return empty_row(path) | {"error": f"{path}: has no values in {source}. Measure it anew."}
        return row
    try:
        video = job.video(path)
        stamp, found = video.stamp(), video_facts(video)
    except ValueError as error:
        return empty_row(path) | {"error": str(error)}
    facts = stamp._asdict() | columns_of(found)
    if facts["num_frames"] != len(motion) + 1:
        found_by, another = ("folder has", "video") if clips.are_folders else ("file shows", "file")
        return empty_row(path) | {
            "error": f"{path}: {source} has {len(motion)} values, for {len(motion) + 1} frames; the {found_by} "
            f"{facts['num_frames']}. It was decoded in another way or is another {another}. Measure it anew."
        }
    return row | facts
