"""mmaction2's lists of videos and of frame folders, as text and as JSON."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from .kinetics import KINETICS_COLUMNS
from .table import VIDEO_SUFFIXES, Rows, checked_rows
from .text import is_integer, where
from .ucf101 import check_not_ucf101

_SUFFIXES_AND_COMMA = tuple(f"{suffix}{comma}" for suffix in VIDEO_SUFFIXES for comma in ",;")
_MAX_FRAMES = 2**31
_COMMA_BEFORE_NUMBER = re.compile(r"[,;]\s*-?\d+\s*(?=[,;]|$)")

GIVE_TEMPLATE = (
    "Give template, how the frames are named by their number: 'img_{:05}.jpg' is mmaction2's default, '{:05}.jpg' is "
    "that of Something-Something V1 and Jester."
)
"""What to do about a list of frame folders, in error messages."""


def read_mmaction2_list(file: Path, text: str, multi_label: bool, *, of_folders: bool, with_offset: bool) -> Rows:
    """Read lines ``path label``; of frame folders ``folder total_frames label``, or an offset between the first two."""
    counts = [*["offset"] * with_offset, "total_frames"] if of_folders else []
    expected = " ".join(["folder" if of_folders else "path", *counts, "label label ..." if multi_label else "label"])
    num_numbers = len(counts) + 1
    paths, labels, lines, first_frames, num_frames = [], [], [], [], []
    for number, line in enumerate(text.split("\n"), start=1):
        fields = line.split() if multi_label else line.strip().rsplit(maxsplit=num_numbers)
        if not fields:
            continue
        if len(fields) <= num_numbers:
            meaning = (
                "A template was given, so the list is of frame folders. For a list of videos leave template out."
                if of_folders
                else "A line has a path relative to root and a class number."
            )
            raise ValueError(
                f"{where(file, number)}: expected `{expected}`, found {line.strip()!r}. "
                f"{_comma_hint(line) or meaning}{_csv_hint(file)}"
            )
        path, *words = fields
        if path.lower().endswith(_SUFFIXES_AND_COMMA):
            raise _comma_error(file, number, path, line)
        if not multi_label and len(parts := path.split()) > 1 and parts[-1].isdecimal():
            if of_folders:
                advice = "" if with_offset else " For `folder offset total_frames label` give with_offset=True;"
                advice += " for several labels give multi_label=True and num_classes."
            else:
                advice = " For several labels give multi_label=True and num_classes. If it is a list of frame folders "
                advice += f"(`folder total_frames label`): {GIVE_TEMPLATE}"
            raise ValueError(
                f"{where(file, number)}: expected `{expected}`, found more than "
                f"{'one number' if num_numbers == 1 else f'{num_numbers} numbers'} after the path in "
                f"{line.strip()!r}.{advice}"
            )
        try:
            values = [int(word) for word in words]
        except ValueError:
            place = next(place for place, word in enumerate(words) if not is_integer(word))
            hint = _comma_hint(line)
            blanks = " Paths in a multi-label list cannot have blanks in them." if multi_label else ""
            raise ValueError(
                f"{where(file, number)}: the {[*counts, 'label'][min(place, len(counts))]} {words[place]!r} is not a "
                f"whole number. Expected `{expected}`, classes counted from 0.{blanks}{hint and ' ' + hint}"
                f"{_csv_hint(file)}"
            ) from None
        if of_folders:
            *offset, count = values[: len(counts)]
            first_frames.append(offset[0] if offset else 0)
            num_frames.append(count)
            _check_span(where(file, number), path, first_frames[-1], count)
        paths.append(path)
        labels.append(values[len(counts) :])
        lines.append(number)
    rows = checked_rows(file, paths, labels, lines, None)
    if all(path.endswith((",", ";")) for path in paths):  # of one frame folder it may be the name
        raise _comma_error(file, lines[0], paths[0], text.split("\n")[lines[0] - 1])
    if of_folders:
        return rows._replace(first_frames=first_frames, num_frames=num_frames)
    if multi_label and all(len(several) > 1 and "." not in path for path, several in zip(paths, labels, strict=True)):
        raise ValueError(
            f"{where(file, lines[0])}: {paths[0]!r} looks like a frame folder and {labels[0][0]} like its number of "
            f"frames: no path of the list ends like a video's. {GIVE_TEMPLATE}"
        )
    check_not_ucf101(file, rows)
    return rows


def mmaction2_path_key(file: Path, entry: dict[str, Any], template: str | None) -> str | None:
    """What holds the path in an mmaction2 list with this first entry; None for the other formats that are known."""
    if "filename" in entry:
        if template is not None:
            raise ValueError(f"{where(file, 1)}: entries with 'filename' are videos. Leave template out.")
        return "filename"
    if "frame_dir" in entry:
        if template is None:
            raise ValueError(f"{where(file, 1)}: entries with 'frame_dir' are frame folders. {GIVE_TEMPLATE}")
        return "frame_dir"
    if "vid_name" in entry or "id" in entry:
        return None
    raise ValueError(
        f"{where(file, 1)}: unknown format, its keys are {', '.join(map(repr, entry)) or 'none'}. Entries must have "
        "'filename' and 'label' or 'frame_dir', 'total_frames' and 'label' (mmaction2), 'id' and 'template' "
        "(Something-Something V2), or 'vid_name' and 'label' (Diving48)."
    )


def read_mmaction2_json(file: Path, entries: list[dict[str, Any]], multi_label: bool, path_key: str) -> Rows:
    """Read entries with `filename` or, as `path_key`, `frame_dir`."""
    paths, labels, first_frames, num_frames = [], [], [], []
    for number, entry in enumerate(entries, start=1):
        path, label = entry.get(path_key), entry.get("label")
        if not isinstance(path, str) or not path:
            raise ValueError(f"{where(file, number)}: expected a path as {path_key!r}, found {path!r}.")
        several: list[Any] = label if isinstance(label, list) else [label]
        if not several or not all(type(value) is int for value in several):
            raise ValueError(f"{where(file, number)}: expected whole numbers as 'label', such as [3], found {label!r}.")
        if len(several) > 1 and not multi_label:
            raise ValueError(
                f"{where(file, number)}: found {len(several)} labels, {label!r}. For several labels give "
                "multi_label=True and num_classes."
            )
        if path_key == "frame_dir":
            offset, count = entry.get("offset", 0), entry.get("total_frames")
            if type(offset) is not int or type(count) is not int:
                raise ValueError(
                    f"{where(file, number)}: expected whole numbers as 'total_frames' and, if there is one, 'offset', "
                    f"found {count!r} and {offset!r}."
                )
            _check_span(where(file, number), path, offset, count)
            first_frames.append(offset)
            num_frames.append(count)
        paths.append(path)
        labels.append(several)
    rows = checked_rows(file, paths, labels, list(range(1, len(paths) + 1)), None)
    return rows._replace(first_frames=first_frames, num_frames=num_frames) if num_frames else rows


def _check_span(place: str, path: str, first_frame: int, num_frames: int) -> None:
    if not 0 <= first_frame < _MAX_FRAMES:
        raise ValueError(
            f"{place}: the offset {first_frame} of {path!r} is out of range. It is the number of frames in the folder "
            "before the clip, 0 or more."
        )
    if not 1 <= num_frames < _MAX_FRAMES:
        raise ValueError(
            f"{place}: {path!r} has a total_frames of {num_frames}; 1 or more are allowed. Leave out clips without "
            "frames. (In a list with offsets, which need with_offset=True, it is the number after the offset.)"
        )


def _comma_hint(line: str) -> str:
    """Return what to say of a line whose fields are set apart by commas; nothing of others."""
    found = _COMMA_BEFORE_NUMBER.search(line.strip())
    if found is None:
        return ""
    return f"Fields are set apart by blanks or tabs, found {found[0][0]!r}: write {_by_blanks(line)!r}."


def _comma_error(file: Path, number: int, path: str, line: str) -> ValueError:
    hint = _comma_hint(line) or "Fields are set apart by blanks or tabs."
    return ValueError(f"{where(file, number)}: the path {path!r} ends in {path[-1]!r}. {hint}{_csv_hint(file)}")


def _by_blanks(line: str) -> str:
    return re.sub(r"\s*[,;]\s*(?=-?\d+\s*(?:[,;]|$))", " ", line.strip())


def _csv_hint(file: Path) -> str:
    if file.suffix.lower() != ".csv":
        return ""
    return (
        f" (A Kinetics CSV would begin with the header {','.join(KINETICS_COLUMNS)}, one of Something-Something V1 or "
        "Jester with `id;class`.)"
    )
