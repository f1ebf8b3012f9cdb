"""Lists of a data set on disk -> a table of clips. Nothing here opens a video, or asks whether it is there."""

import csv
import io
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

VIDEO_SUFFIXES = (".mp4", ".webm", ".avi", ".mkv", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp")

_KINETICS_COLUMNS = ("label", "youtube_id", "time_start", "time_end")
_MAX_CLASSES = 2**31


@dataclass(frozen=True, eq=False)
class Clips:
    """A table of clips, one row for each; `read_annotations` makes it.

    Attributes:
        root: the folder that `paths` are relative to.
        paths: (N,) path of each video. The same path may come more than once.
        first_frames: (N,) int64, the first frame of the clip in its video, counted from 0; 0 for a whole video.
        num_frames: (N,) int64, frames of the clip; -1 stands for up to the end of the file.
        labels: (N,) int64 class numbers, or (N, num_classes) float32 with 1.0 for each class that applies.
        num_classes: number of classes; every label is below it.
        class_names: (num_classes,) names, or None where the list does not tell them.
        list_file: the file (or the folder of class folders) that the table was read from.
        list_lines: (N,) int64, the line, JSON entry or file in `list_file` that each clip is from, counted from 1.
        template: how the frames of a folder are named by their number, from 1 on, such as ``img_{:05}.jpg``: `paths`
            are then folders of pictures. None for videos.
    """

    root: Path
    paths: list[str]
    first_frames: npt.NDArray[np.int64]
    num_frames: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64] | npt.NDArray[np.float32]
    num_classes: int
    class_names: list[str] | None
    list_file: Path
    list_lines: npt.NDArray[np.int64]
    template: str | None = None

    def __post_init__(self) -> None:
        num_clips = len(self.paths)
        for column in (self.first_frames, self.num_frames, self.list_lines):
            assert column.shape == (num_clips,)
            assert column.dtype == np.int64
        assert np.all(self.first_frames >= 0)
        assert np.all((self.num_frames >= 1) | (self.num_frames == -1))
        if self.labels.ndim == 1:
            assert self.labels.shape == (num_clips,)
            assert self.labels.dtype == np.int64
            assert np.all((self.labels >= 0) & (self.labels < self.num_classes))
        else:
            assert self.labels.shape == (num_clips, self.num_classes)
            assert self.labels.dtype == np.float32
        assert self.class_names is None or len(self.class_names) == self.num_classes

    def __len__(self) -> int:
        return len(self.paths)

    def file(self, index: int) -> Path:
        """Return the path of the video of clip `index`."""
        return self.root / self.paths[index]

    def where(self, index: int) -> str:
        """Return where clip `index` is listed, such as ``train.txt, line 17``: for error messages."""
        return _where(self.list_file, int(self.list_lines[index]))


class _Rows(NamedTuple):
    paths: list[str]
    labels: list[list[int]]
    lines: list[int]
    class_names: list[str] | None


def read_annotations(
    file: str | Path,
    *,
    root: str | Path | None = None,
    num_classes: int | None = None,
    multi_label: bool = False,
    class_names: str | Path | Sequence[str] | None = None,
) -> Clips:
    """Read a list of labelled videos. What `file` is decides how it is read:

    ==================================  ===============================================================================
    a folder                            one sub-folder per class, videos directly in it; classes are sorted by name
    ``.json``, entries with `filename`  mmaction2 0.x: ``[{"filename": "a.mp4", "label": [3]}]``
    ``.json``, entries with `id`        Something-Something V2: ``train.json``, ``validation.json``; videos are
                                        ``<id>.webm``; the classes come from ``labels.json`` beside it
    text, header with `youtube_id`      Kinetics CSV; videos are ``<class>/<youtube_id>_<start>_<end>.mp4``, blanks in
                                        the class as ``_``, times in seconds with six digits; classes are sorted by name
    any other text                      mmaction2 video list, a line for each video: ``path label``, or with
                                        `multi_label` ``path label label ...``
    ==================================  ===============================================================================

    Text is UTF-8, with or without a byte order mark; blank lines are skipped. In a single-label list the label is the
    last field, so paths may have blanks in them.

    Args:
        file: the list, or the folder of class folders.
        root: the folder that the videos' paths are relative to. Only for a folder of class folders it may be left out.
        num_classes: number of classes. For mmaction2 lists it defaults to the number of `class_names`, else to the
            largest label plus one: give it where a list may lack the last classes. `multi_label` needs it.
        multi_label: every video may have several labels; the table gets a multi-hot matrix. Only for mmaction2 lists.
        class_names: the classes in the order of their numbers, as a sequence or as a file with a name per line (or a
            Something-Something ``labels.json``). A Kinetics CSV or a class folder of a validation set needs those of
            the training set (``train_clips.class_names``), as soon as it may lack a class.

    Returns:
        The table, in the order of the list.

    Raises:
        ValueError: the list or root is not there, or something in the list cannot be understood; the message tells
            where it is, what was found and what to do.
    """
    file = Path(file)
    names = _read_class_names(class_names)
    if names is not None and num_classes not in (None, len(names)):
        raise ValueError(f"class_names has {len(names)} names but num_classes is {num_classes}. Leave num_classes out.")
    if num_classes is not None and not 1 <= num_classes <= _MAX_CLASSES:
        raise ValueError(f"num_classes must be from 1 to {_MAX_CLASSES}, found {num_classes}.")
    if not file.exists():
        raise ValueError(f"The list {file} does not exist (working folder: {Path.cwd()}).")
    root = _checked_root(file, root)

    if file.is_dir():
        rows = _read_class_folders(file, root, names)
        lists_numbers = False
    else:
        text = _read_text(file)
        if file.suffix.lower() == ".json":
            entries = _parse_json(file, text)
            lists_numbers = _is_mmaction_json(file, entries)
            rows = (
                _read_mmaction_json(file, entries, multi_label) if lists_numbers else _read_ssv2(file, entries, names)
            )
        elif "youtube_id" in re.split(r'[\s,"]+', text.lstrip().partition("\n")[0]):
            rows = _read_kinetics(file, text, names)
            lists_numbers = False
        else:
            rows = _read_list(file, text, multi_label)
            lists_numbers = True

    if lists_numbers:
        rows = rows._replace(class_names=names)
        if names is not None:
            num_classes = len(names)
        elif multi_label and num_classes is None:
            raise ValueError(f"{file}: multi_label=True needs num_classes, the width of the label matrix.")
        num_classes = _checked_labels(file, rows, num_classes)
    else:
        assert rows.class_names is not None
        if multi_label:
            raise ValueError(f"{file}: this format has one class for each video. Leave multi_label out.")
        if num_classes not in (None, len(rows.class_names)):
            raise ValueError(
                f"{file}: found {len(rows.class_names)} classes but num_classes is {num_classes}. "
                "Leave num_classes out, or give class_names, all of them in the order of their numbers."
            )
        num_classes = len(rows.class_names)

    labels: npt.NDArray[np.int64] | npt.NDArray[np.float32]
    if multi_label:
        labels = np.zeros((len(rows.paths), num_classes), np.float32)
        of_row = np.repeat(np.arange(len(rows.labels)), [len(several) for several in rows.labels])
        labels[of_row, [label for several in rows.labels for label in several]] = 1.0
    else:
        labels = np.array([label for (label,) in rows.labels], np.int64)
    return Clips(
        root=root,
        paths=rows.paths,
        first_frames=np.zeros(len(rows.paths), np.int64),
        num_frames=np.full(len(rows.paths), -1, np.int64),
        labels=labels,
        num_classes=num_classes,
        class_names=rows.class_names,
        list_file=file,
        list_lines=np.array(rows.lines, np.int64),
    )


# --- one reader for each format --------------------------------------------------------------------------------------


def _read_list(file: Path, text: str, multi_label: bool) -> _Rows:
    paths, labels, lines = [], [], []
    for number, line in enumerate(text.split("\n"), start=1):
        fields = line.split() if multi_label else line.strip().rsplit(maxsplit=1)
        if not fields:
            continue
        if len(fields) < 2:
            expected = "path label label ..." if multi_label else "path label"
            raise ValueError(
                f"{_where(file, number)}: expected `{expected}`, found {line.strip()!r}. A line has a path relative to "
                f"root and a class number.{_csv_hint(file)}"
            )
        path, *numbers = fields
        if not multi_label and len(parts := path.split()) > 1 and parts[-1].isdecimal():
            raise ValueError(
                f"{_where(file, number)}: found more than one number after the path in {line.strip()!r}. For several "
                "labels give multi_label=True and num_classes; lists of frame folders (`folder num_frames label`) "
                "cannot be read."
            )
        try:
            labels.append([int(value) for value in numbers])
        except ValueError:
            wrong = next(value for value in numbers if not _is_integer(value))
            blanks = " Paths in a multi-label list cannot have blanks in them." if multi_label else ""
            raise ValueError(
                f"{_where(file, number)}: the label {wrong!r} is not a whole number. Expected a path and then the "
                f"class number, counted from 0.{blanks}{_csv_hint(file)}"
            ) from None
        paths.append(path)
        lines.append(number)
    return _checked_rows(file, paths, labels, lines, None)


def _is_mmaction_json(file: Path, entries: list[dict[str, Any]]) -> bool:
    first = entries[0]
    if "filename" in first:
        return True
    if "id" in first:
        return False
    raise ValueError(
        f"{_where(file, 1)}: unknown format, its keys are {', '.join(map(repr, first)) or 'none'}. Entries must have "
        "'filename' and 'label' (mmaction2), or 'id' and 'template' (Something-Something V2)."
    )


def _read_mmaction_json(file: Path, entries: list[dict[str, Any]], multi_label: bool) -> _Rows:
    paths, labels = [], []
    for number, entry in enumerate(entries, start=1):
        path, label = entry.get("filename"), entry.get("label")
        if not isinstance(path, str) or not path:
            raise ValueError(f"{_where(file, number)}: expected a path as 'filename', found {path!r}.")
        several: list[Any] = label if isinstance(label, list) else [label]
        if not several or not all(type(value) is int for value in several):
            raise ValueError(
                f"{_where(file, number)}: expected whole numbers as 'label', such as [3], found {label!r}."
            )
        if len(several) > 1 and not multi_label:
            raise ValueError(
                f"{_where(file, number)}: found {len(several)} labels, {label!r}. For several labels give "
                "multi_label=True and num_classes."
            )
        paths.append(path)
        labels.append(several)
    return _checked_rows(file, paths, labels, list(range(1, len(paths) + 1)), None)


def _read_ssv2(file: Path, entries: list[dict[str, Any]], names: list[str] | None) -> _Rows:
    if names is None:
        # mmaction2 puts a prefix before all of them: something-something-v2-train.json, -labels.json
        prefix = re.split(r"train|val|test", file.name)[0]
        beside = [
            path for path in (file.with_name(f"{prefix}labels.json"), file.with_name("labels.json")) if path.exists()
        ]
        if not beside:
            raise ValueError(
                f"{file}: this Something-Something V2 list needs the official labels.json beside it, which gives the "
                f"number of each class; there is none in {file.parent}. Copy it there, or give class_names=FILE."
            )
        names = _read_class_names(beside[0])
        assert names is not None
    label_of = {name: label for label, name in enumerate(names)}
    paths, labels = [], []
    for number, entry in enumerate(entries, start=1):
        if "id" not in entry or not isinstance(entry.get("template"), str):
            raise ValueError(
                f"{_where(file, number)}: expected 'id' and 'template', found "
                f"{', '.join(map(repr, entry)) or 'no keys'}. "
                "The official test.json has no labels: use train.json or validation.json."
            )
        name = entry["template"].replace("[", "").replace("]", "")
        paths.append(f"{entry['id']}.webm")
        labels.append([_label_of(file, number, name, label_of)])
    return _checked_rows(file, paths, labels, list(range(1, len(paths) + 1)), names)


def _read_kinetics(file: Path, text: str, names: list[str] | None) -> _Rows:
    reader = csv.reader(io.StringIO(text.lstrip()), strict=True)
    skipped = text[: len(text) - len(text.lstrip())].count("\n")
    header = [column.strip() for column in next(reader)]
    missing = [column for column in _KINETICS_COLUMNS if column not in header]
    if missing:
        hint = " The official test CSV has no labels: use train or validate." if missing == ["label"] else ""
        raise ValueError(
            f"{_where(file, 1 + skipped)}: the header lacks {', '.join(missing)}. A Kinetics CSV has the columns "
            f"{','.join(_KINETICS_COLUMNS)}.{hint}"
        )
    columns = [header.index(column) for column in _KINETICS_COLUMNS]
    paths, classes, lines = [], [], []
    try:
        for fields in reader:
            if not any(fields):
                continue
            number = reader.line_num + skipped
            if len(fields) <= max(columns):
                raise ValueError(
                    f"{_where(file, number)}: expected {len(header)} fields ({','.join(header)}), "
                    f"found {len(fields)}: {fields}."
                )
            name, video, start, end = (fields[column].strip() for column in columns)
            if not name or not start.isdecimal() or not end.isdecimal():
                raise ValueError(
                    f"{_where(file, number)}: expected a label and times in whole seconds, found label {name!r}, "
                    f"time_start {start!r} and time_end {end!r}."
                )
            paths.append(f"{name.replace(' ', '_')}/{video}_{int(start):06d}_{int(end):06d}.mp4")
            classes.append(name)
            lines.append(number)
    except csv.Error as error:
        raise ValueError(f"{_where(file, reader.line_num + skipped)}: not a valid CSV: {error}.") from None
    if names is None:
        names = sorted(set(classes), key=_underscored)
    label_of = {_underscored(name): label for label, name in enumerate(names)}
    labels = [
        [_label_of(file, number, _underscored(name), label_of)] for number, name in zip(lines, classes, strict=True)
    ]
    return _checked_rows(file, paths, labels, lines, names)


def _read_class_folders(folder: Path, root: Path, names: list[str] | None) -> _Rows:
    try:
        prefix = folder.resolve().relative_to(root.resolve()).as_posix()
    except ValueError:
        raise ValueError(f"{folder} is not inside root ({root}). Leave root out, or give a folder above it.") from None
    prefix = "" if prefix == "." else f"{prefix}/"
    with os.scandir(folder) as found:
        classes = sorted(entry.name for entry in found if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        raise ValueError(
            f"{folder} has no sub-folders. Expected one for each class, with the videos of that class in it."
        )
    names = classes if names is None else names
    label_of = {name: label for label, name in enumerate(names)}
    paths, labels = [], []
    for name in classes:
        videos = sorted(video for video in os.listdir(folder / name) if video.lower().endswith(VIDEO_SUFFIXES))
        if videos:
            label = _label_of(folder / name, None, name, label_of)
            paths += [f"{prefix}{name}/{video}" for video in videos]
            labels += [[label] for _ in videos]
    if not paths:
        raise ValueError(
            f"{folder} has no videos in its {len(classes)} sub-folders ({classes[0]}, ...). Expected files that end in "
            f"{', '.join(VIDEO_SUFFIXES)}, directly in them."
        )
    return _Rows(paths, labels, list(range(1, len(paths) + 1)), names)


# --- shared by the readers -------------------------------------------------------------------------------------------


def _where(file: Path, number: int) -> str:
    if file.is_dir():
        return f"{file}, file {number}"
    return f"{file}, {'entry' if file.suffix.lower() == '.json' else 'line'} {number}"


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        found = f"byte 0x{error.object[error.start]:02x}"
        raise ValueError(f"{file}, line {line}: not UTF-8 text ({found}). Give a list, saved as UTF-8.") from None


def _load_json(file: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{file}, line {error.lineno}, column {error.colno}: not valid JSON: {error.msg}. Is the file complete?"
        ) from None


def _parse_json(file: Path, text: str) -> list[dict[str, Any]]:
    entries = _load_json(file, text)
    if not isinstance(entries, list):
        raise ValueError(f"{file}: expected a JSON list of videos, found {type(entries).__name__}.")
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry, dict):
            raise ValueError(f"{_where(file, number)}: expected an object in braces, found {entry!r}.")
    if not entries:
        raise ValueError(f"{file}: the list is empty. Give a list with at least one video.")
    return entries


def _read_class_names(source: str | Path | Sequence[str] | None) -> list[str] | None:
    if source is None:
        return None
    if isinstance(source, (str, Path)):
        file = Path(source)
        if not file.is_file():
            raise ValueError(f"The file of class names {file} does not exist.")
        text = _read_text(file)
        if file.suffix.lower() == ".json":
            names = _names_of_numbered(file, _load_json(file, text))
        else:
            names = [line.strip() for line in text.split("\n") if line.strip()]
    else:
        names = list(source)
    if not names:
        raise ValueError(f"class_names is empty ({source!r}). Expected a name for each class.")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"class_names has {twice!r} more than once. Expected one name for each class.")
    return names


def _names_of_numbered(file: Path, numbers: Any) -> list[str]:
    """Return the names of ``{"name": "number", ...}`` in the order of the numbers."""
    if isinstance(numbers, dict) and all(_is_integer(str(number)) for number in numbers.values()):
        ordered = sorted(numbers, key=lambda name: int(numbers[name]))
        if [int(numbers[name]) for name in ordered] == list(range(len(ordered))):
            return ordered
    raise ValueError(
        f'{file}: expected the classes with their numbers from 0 up, such as {{"Opening something": "0"}}.'
    )


def _checked_root(file: Path, root: str | Path | None) -> Path:
    if root is None:
        if not file.is_dir():
            raise ValueError(f"{file}: root is missing. Give root=FOLDER, which the paths in the list are relative to.")
        return file
    if not Path(root).is_dir():
        raise ValueError(f"{file}: root={str(root)!r} is not a folder. Give the folder that holds the videos.")
    return Path(root)


def _checked_rows(
    file: Path, paths: list[str], labels: list[list[int]], lines: list[int], names: list[str] | None
) -> _Rows:
    if not paths:
        raise ValueError(f"{file}: the list is empty. Give a list with at least one video.")
    return _Rows(paths, labels, lines, names)


def _checked_labels(file: Path, rows: _Rows, num_classes: int | None) -> int:
    """Return the number of classes, after a look at every label."""
    limit = _MAX_CLASSES if num_classes is None else num_classes
    for path, labels, number in zip(rows.paths, rows.labels, rows.lines, strict=True):
        if min(labels) < 0 or max(labels) >= limit:
            wrong = next(label for label in labels if not 0 <= label < limit)
            advice = "Class numbers count from 0." if num_classes is None else "Correct the label or num_classes."
            raise ValueError(
                f"{_where(file, number)}: the label {wrong} of {path!r} is out of range. "
                f"Allowed are 0 to {limit - 1}. {advice}"
            )
    return max(map(max, rows.labels)) + 1 if num_classes is None else num_classes


def _label_of(file: Path, number: int | None, name: str, label_of: dict[str, int]) -> int:
    label = label_of.get(name)
    if label is None:
        where = str(file) if number is None else _where(file, number)
        raise ValueError(
            f"{where}: the class {name!r} is not one of the {len(label_of)} known ({next(iter(label_of))!r}, ...). "
            "Give the class_names that belong to this list."
        )
    return label


def _is_integer(text: str) -> bool:
    try:
        int(text)
    except ValueError:
        return False
    return True


def _underscored(name: str) -> str:
    """Return a Kinetics class as its folder is named. mmaction2 sorts the classes by this."""
    return name.replace(" ", "_")


def _csv_hint(file: Path) -> str:
    if file.suffix.lower() != ".csv":
        return ""
    return f" (A Kinetics CSV would begin with the header {','.join(_KINETICS_COLUMNS)}.)"
