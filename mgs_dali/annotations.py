"""Lists of a data set on disk -> a table of clips. Nothing here opens a video, or asks whether it is there."""

from __future__ import annotations

import codecs
import csv
import io
import json
import logging
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .rawframes import FrameFolder, check_template
from .video_file import Video, VideoFile

VIDEO_SUFFIXES = (".mp4", ".webm", ".avi", ".mkv", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp")
_SUFFIXES_AND_COMMA = tuple(f"{suffix}{comma}" for suffix in VIDEO_SUFFIXES for comma in ",;")

OFFICIAL_FRAMES_TEMPLATE = "{:05}.jpg"
"""How Something-Something V1 and Jester, which are given out as frames, name them."""

log = logging.getLogger(__name__)

_LEFT_BY_SYSTEMS = frozenset(
    {
        "__MACOSX", "@eaDir", "#recycle", "@Recycle", "lost+found", "$RECYCLE.BIN", "System Volume Information",
        "Thumbs.db", "desktop.ini",
    }
)  # fmt: skip
"""What archives, network storage, file systems and desktops leave among data under names that are not hidden."""

_KINETICS_COLUMNS = ("label", "youtube_id", "time_start", "time_end")
_UCF101_LIST = re.compile(r"(train|test)list\d*\.txt", re.IGNORECASE)
_HMDB51_SPLIT = re.compile(r"(.+)_test_split([123])\.txt")
_NUM_HMDB51_CLASSES = 51
_MAX_CLASSES = 2**31
_MAX_FRAMES = 2**31
_COMMA_BEFORE_NUMBER = re.compile(r"[,;]\s*-?\d+\s*(?=[,;]|$)")
_GIVE_TEMPLATE = (
    "Give template, how the frames are named by their number: 'img_{:05}.jpg' is mmaction2's default, '{:05}.jpg' is "
    "that of Something-Something V1 and Jester."
)


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

    @property
    def are_folders(self) -> bool:
        """Whether `paths` are folders of pictures."""
        return self.template is not None

    def file(self, index: int) -> Path:
        """Return the path of the video of clip `index`."""
        return self.root / self.paths[index]

    def name(self, index: int) -> str:
        """Return what errors call clip `index`: its path and the line of the list that names it."""
        return f"{self.file(index)} ({self.where(index)})"

    def video(self, index: int, *, name: str = "") -> Video:
        """Return the video that clip `index` is (a part of). Nothing is read.

        Whatever loads or measures a clip asks for it here: a table of your own that overrides this method may keep its
        videos wherever `open_video` takes them from.

        Args:
            index: row of the table.
            name: what errors are to call it; `name` of the clip by default.
        """
        file, span = self.file(index), (int(self.first_frames[index]), int(self.num_frames[index]))
        name = name or self.name(index)
        return VideoFile(file, name, *span) if self.template is None else FrameFolder(file, self.template, name, *span)

    def only(self, rows: Sequence[int]) -> Clips:
        """Return a table of these clips, in this order, which keep their lines of the list."""
        keep = np.array(rows, np.int64)
        return replace(
            self,
            paths=[self.paths[row] for row in rows],
            first_frames=self.first_frames[keep],
            num_frames=self.num_frames[keep],
            labels=self.labels[keep],
            list_lines=self.list_lines[keep],
        )

    def where(self, index: int) -> str:
        """Return where clip `index` is listed, such as ``train.txt, line 17``: for error messages."""
        return _where(self.list_file, int(self.list_lines[index]))


class _Rows(NamedTuple):
    paths: list[str]
    labels: list[list[int]]
    lines: list[int]
    class_names: list[str] | None
    first_frames: list[int] | None = None
    num_frames: list[int] | None = None


def read_annotations(
    file: str | Path,
    *,
    root: str | Path | None = None,
    num_classes: int | None = None,
    multi_label: bool = False,
    class_names: str | Path | Sequence[str] | None = None,
    template: str | None = None,
    with_offset: bool = False,
) -> Clips:
    """Read a list of labelled videos, or of folders of frames. What `file` is decides how it is read, in this order:

    ==================================  ===============================================================================
    a folder                            one sub-folder per class, videos (or frame folders) directly in it; classes are
                                        sorted by name; what is hidden, a system's (``__MACOSX``), or empty is neither
                                        a clip nor a class
    ``.json``, entries with `filename`  mmaction2 0.x: ``[{"filename": "a.mp4", "label": [3]}]``
    ``.json``, entries with `frame_dir` mmaction2 0.x frame folders, needs `template`: ``[{"frame_dir": "a",
                                        "total_frames": 163, "label": [3]}]``; an ``"offset"`` is respected
    ``.json``, entries with `vid_name`  Diving48: ``Diving48_V2_train.json``, ``_test.json``; videos are
                                        ``<vid_name>.mp4``
    ``.json``, entries with `id`        Something-Something V2: ``train.json``, ``validation.json``; videos are
                                        ``<id>.webm``; the classes come from ``labels.json`` beside it
    text, header with `youtube_id`      Kinetics CSV; videos are ``<class>/<youtube_id>_<start>_<end>.mp4``, blanks in
                                        the class as ``_``, times in seconds with six digits; classes are sorted by name
    ``.csv`` that begins ``number;``    Something-Something V1, Jester: ``id;class``; frame folders ``<id>`` with
                                        `template` ``{:05}.jpg``, if no other is given; the number of a class is its
                                        line in ``something-something-v1-labels.csv`` or ``jester-v1-labels.csv``
                                        beside it
    ``trainlist01.txt``,                UCF101, told by these names: ``Class/v_Class_g01_c01.avi 1``, counted from 1,
    ``testlist01.txt``                  or without the number; the classes come from ``classInd.txt`` beside it
    any other text, no `template`       mmaction2 video list, a line for each video: ``path label``, or with
                                        `multi_label` ``path label label ...``
    any other text, with `template`     mmaction2 rawframe list (and that of the original TSM): ``folder total_frames
                                        label``, with `with_offset` ``folder offset total_frames label``; with
                                        `multi_label` any of the two with several labels
    ==================================  ===============================================================================

    HMDB51 has a file for each class instead of lists: `write_hmdb51_lists` makes lists of them.

    With a `template` every format above is of frame folders: where it would name a video ``a.mp4``, the frames are in
    the folder ``a``. Frame ``i`` of a clip, counted from 0, is the file ``template.format(first_frame + i + 1)``.
    Where the list does not tell how many frames there are, `num_frames` is -1.

    Text is UTF-8, with or without a byte order mark, or UTF-16 with one; blank lines are skipped. In a single-label
    list the numbers are the last fields, so paths may have blanks in them (but not a number behind the last one).

    What may be wrong and cannot be known to be is logged as a warning, one line each: what of a folder was left out,
    paths that are not UTF-8 (they stay as Python has them, see `os.fsencode`), labels that look counted from 1.

    Args:
        file: the list, or the folder of class folders.
        root: the folder that the paths are relative to. Only for a folder of class folders it may be left out.
        num_classes: number of classes. For mmaction2 and Diving48 lists it defaults to the number of `class_names`,
            else to the largest label plus one: give it where a list may lack the last classes. `multi_label` needs it.
        multi_label: every clip may have several labels; the table gets a multi-hot matrix. Only for mmaction2 lists.
        class_names: the classes in the order of their numbers, as a sequence or as a file with a name per line (or a
            Something-Something ``labels.json``, or UCF101's ``classInd.txt``). A Kinetics CSV or a class folder of a
            validation set needs those of the training set (``train_clips.class_names``), as soon as it may lack a
            class.
        template: how frames are named by their number: ``img_{:05}.jpg`` (mmaction2), ``{:05}.jpg``
            (Something-Something V1, Jester), ``{:06d}.jpg`` (the original TSM's Something-Something V2). One
            replacement field with a format of whole numbers, zero-padded or not padded at all.
        with_offset: lines of a rawframe list have the frames before the clip in front of their number.

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
    if template is not None:
        check_template(template)
    if not file.exists():
        raise ValueError(f"The list {file} does not exist (working folder: {Path.cwd()}).")
    root = _checked_root(file, root)

    of_mmaction = takes_offset = False
    if file.is_dir():
        rows = _read_class_folders(file, root, names, template)
    else:
        text = _read_text(file, any_bytes=True)
        first_line = text.lstrip().partition("\n")[0]
        if file.suffix.lower() == ".json":
            entries = _parse_json(file, text)
            if path_key := _mmaction_path_key(file, entries[0], template):
                of_mmaction = True
                rows = _read_mmaction_json(file, entries, multi_label, path_key)
            elif "vid_name" in entries[0]:
                rows = _read_diving48(file, entries, template)
            else:
                rows = _read_ssv2(file, entries, names, template)
        elif "youtube_id" in re.split(r'[\s,"]+', first_line):
            rows = _read_kinetics(file, text, names, template)
        elif file.suffix.lower() == ".csv" and re.match(r"\d+;", first_line):
            template = template or OFFICIAL_FRAMES_TEMPLATE
            rows = _read_id_and_class(file, text, names)
        elif _UCF101_LIST.fullmatch(file.name):
            rows = _read_ucf101(file, text, names, template)
        else:
            of_mmaction = takes_offset = True
            if with_offset and template is None:
                raise ValueError(f"{file}: with_offset=True is for lists of frame folders. {_GIVE_TEMPLATE}")
            rows = _read_list(file, text, multi_label, of_folders=template is not None, with_offset=with_offset)

    _check_names(file, rows)
    if multi_label and not of_mmaction:
        raise ValueError(f"{file}: this format has one class for each video. Leave multi_label out.")
    if with_offset and not takes_offset:
        raise ValueError(
            f"{file}: with_offset=True is for text lists of frame folders (`folder offset total_frames label`), which "
            "this is not. Leave with_offset out."
        )
    if rows.class_names is None:
        rows = rows._replace(class_names=names)
        if names is not None:
            num_classes = len(names)
        elif multi_label and num_classes is None:
            raise ValueError(f"{file}: multi_label=True needs num_classes, the width of the label matrix.")
        num_classes = _checked_labels(file, rows, num_classes)
    else:
        if num_classes not in (None, len(rows.class_names)):
            raise ValueError(
                f"{file}: found {len(rows.class_names)} classes but num_classes is {num_classes}. "
                "Leave num_classes out, or give class_names, all of them in the order of their numbers."
            )
        num_classes = len(rows.class_names)

    num_clips = len(rows.paths)
    labels: npt.NDArray[np.int64] | npt.NDArray[np.float32]
    if multi_label:
        labels = np.zeros((num_clips, num_classes), np.float32)
        of_row = np.repeat(np.arange(num_clips), [len(several) for several in rows.labels])
        labels[of_row, [label for several in rows.labels for label in several]] = 1.0
    else:
        labels = np.array([label for (label,) in rows.labels], np.int64)
    return Clips(
        root=root,
        paths=rows.paths,
        first_frames=np.array(rows.first_frames or [0] * num_clips, np.int64),
        num_frames=np.array(rows.num_frames or [-1] * num_clips, np.int64),
        labels=labels,
        num_classes=num_classes,
        class_names=rows.class_names,
        list_file=file,
        list_lines=np.array(rows.lines, np.int64),
        template=template,
    )


def write_hmdb51_lists(splits: str | Path, out: str | Path, *, split: int = 1) -> tuple[Path, Path]:
    """Make a training and a test list of HMDB51's official split files, for `read_annotations`.

    Writes ``hmdb51_train_split1.txt`` and ``hmdb51_test_split1.txt`` (with the number of the split), whose lines are
    ``class/video.avi label``, and ``hmdb51_classes.txt``. Classes are sorted by name, as mmaction2 numbers them.

    Args:
        splits: the unpacked folder of ``<class>_test_split1.txt`` ... files, whose lines are ``video.avi flag``: 1 is
            for training, 2 for testing, 0 for neither.
        out: folder for the lists, made if it is not there.
        split: 1, 2 or 3.

    Returns:
        The paths of the training and of the test list.

    Raises:
        ValueError: there are not the 51 files of the split, or a line in one cannot be understood.
    """
    splits, out = Path(splits), Path(out)
    if split not in (1, 2, 3):
        raise ValueError(f"split must be 1, 2 or 3, found {split!r}.")
    if not splits.is_dir():
        raise ValueError(f"{splits} is not a folder. Give the one that HMDB51's official splits are unpacked in.")
    found = [match for name in sorted(os.listdir(splits)) if (match := _HMDB51_SPLIT.fullmatch(name))]
    file_of = {match[1]: splits / match[0] for match in found if int(match[2]) == split}
    if len(file_of) != _NUM_HMDB51_CLASSES:
        raise ValueError(
            f"{splits}: found {len(file_of)} files <class>_test_split{split}.txt, expected {_NUM_HMDB51_CLASSES}. "
            "Give the folder that all of HMDB51's official splits are unpacked in: the classes are numbered by them."
        )
    lines_of: dict[str, list[str]] = {"0": [], "1": [], "2": []}
    classes = sorted(file_of)
    for label, name in enumerate(classes):
        for number, line in enumerate(_read_text(file_of[name]).split("\n"), start=1):
            match line.split():
                case []:
                    pass
                case [video, "0" | "1" | "2" as flag] if not video.endswith((",", ";")):
                    lines_of[flag].append(f"{name}/{video} {label}\n")
                case _:
                    raise ValueError(
                        f"{_where(file_of[name], number)}: expected `video.avi flag` with a flag of 1 (training), 2 "
                        f"(testing) or 0 (neither), found {line.strip()!r}."
                    )
    out.mkdir(parents=True, exist_ok=True)
    train, test = out / f"hmdb51_train_split{split}.txt", out / f"hmdb51_test_split{split}.txt"
    train.write_text("".join(lines_of["1"]), encoding="utf-8")
    test.write_text("".join(lines_of["2"]), encoding="utf-8")
    (out / "hmdb51_classes.txt").write_text("".join(f"{name}\n" for name in classes), encoding="utf-8")
    return train, test


# --- one reader for each format --------------------------------------------------------------------------------------


def _read_list(file: Path, text: str, multi_label: bool, *, of_folders: bool, with_offset: bool) -> _Rows:
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
                f"{_where(file, number)}: expected `{expected}`, found {line.strip()!r}. "
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
                advice += f"(`folder total_frames label`): {_GIVE_TEMPLATE}"
            raise ValueError(
                f"{_where(file, number)}: expected `{expected}`, found more than "
                f"{'one number' if num_numbers == 1 else f'{num_numbers} numbers'} after the path in "
                f"{line.strip()!r}.{advice}"
            )
        try:
            values = [int(word) for word in words]
        except ValueError:
            place = next(place for place, word in enumerate(words) if not _is_integer(word))
            hint = _comma_hint(line)
            blanks = " Paths in a multi-label list cannot have blanks in them." if multi_label else ""
            raise ValueError(
                f"{_where(file, number)}: the {[*counts, 'label'][min(place, len(counts))]} {words[place]!r} is not a "
                f"whole number. Expected `{expected}`, classes counted from 0.{blanks}{hint and ' ' + hint}"
                f"{_csv_hint(file)}"
            ) from None
        if of_folders:
            *offset, count = values[: len(counts)]
            first_frames.append(offset[0] if offset else 0)
            num_frames.append(count)
            _check_span(_where(file, number), path, first_frames[-1], count)
        paths.append(path)
        labels.append(values[len(counts) :])
        lines.append(number)
    rows = _checked_rows(file, paths, labels, lines, None)
    if all(path.endswith((",", ";")) for path in paths):  # of one frame folder it may be the name
        raise _comma_error(file, lines[0], paths[0], text.split("\n")[lines[0] - 1])
    if of_folders:
        return rows._replace(first_frames=first_frames, num_frames=num_frames)
    if multi_label and all(len(several) > 1 and "." not in path for path, several in zip(paths, labels, strict=True)):
        raise ValueError(
            f"{_where(file, lines[0])}: {paths[0]!r} looks like a frame folder and {labels[0][0]} like its number of "
            f"frames: no path of the list ends like a video's. {_GIVE_TEMPLATE}"
        )
    _check_not_ucf101(file, rows)
    return rows


def _check_not_ucf101(file: Path, rows: _Rows) -> None:
    """Refuse an official UCF101 list under another name: it counts classes from 1, and all would be one too high."""
    first_class = next(
        (label for path, (label, *_) in zip(rows.paths, rows.labels, strict=True) if "v_ApplyEyeMakeup_" in path), None
    )
    if first_class == 1 and min(map(min, rows.labels)) == 1:
        raise ValueError(
            f"{file}: this looks like an official UCF101 list, whose classes count from 1. Give it its official name, "
            "such as trainlist01.txt, and put classInd.txt beside it; or count the classes from 0."
        )


def _mmaction_path_key(file: Path, entry: dict[str, Any], template: str | None) -> str | None:
    """What holds the path in an mmaction2 list with this first entry; None for the other formats that are known."""
    if "filename" in entry:
        if template is not None:
            raise ValueError(f"{_where(file, 1)}: entries with 'filename' are videos. Leave template out.")
        return "filename"
    if "frame_dir" in entry:
        if template is None:
            raise ValueError(f"{_where(file, 1)}: entries with 'frame_dir' are frame folders. {_GIVE_TEMPLATE}")
        return "frame_dir"
    if "vid_name" in entry or "id" in entry:
        return None
    raise ValueError(
        f"{_where(file, 1)}: unknown format, its keys are {', '.join(map(repr, entry)) or 'none'}. Entries must have "
        "'filename' and 'label' or 'frame_dir', 'total_frames' and 'label' (mmaction2), 'id' and 'template' "
        "(Something-Something V2), or 'vid_name' and 'label' (Diving48)."
    )


def _read_mmaction_json(file: Path, entries: list[dict[str, Any]], multi_label: bool, path_key: str) -> _Rows:
    paths, labels, first_frames, num_frames = [], [], [], []
    for number, entry in enumerate(entries, start=1):
        path, label = entry.get(path_key), entry.get("label")
        if not isinstance(path, str) or not path:
            raise ValueError(f"{_where(file, number)}: expected a path as {path_key!r}, found {path!r}.")
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
        if path_key == "frame_dir":
            offset, count = entry.get("offset", 0), entry.get("total_frames")
            if type(offset) is not int or type(count) is not int:
                raise ValueError(
                    f"{_where(file, number)}: expected whole numbers as 'total_frames' and, if there is one, 'offset', "
                    f"found {count!r} and {offset!r}."
                )
            _check_span(_where(file, number), path, offset, count)
            first_frames.append(offset)
            num_frames.append(count)
        paths.append(path)
        labels.append(several)
    rows = _checked_rows(file, paths, labels, list(range(1, len(paths) + 1)), None)
    return rows._replace(first_frames=first_frames, num_frames=num_frames) if num_frames else rows


def _read_diving48(file: Path, entries: list[dict[str, Any]], template: str | None) -> _Rows:
    paths, labels = [], []
    for number, entry in enumerate(entries, start=1):
        name, label = entry.get("vid_name"), entry.get("label")
        if not isinstance(name, str) or not name or type(label) is not int:
            raise ValueError(
                f"{_where(file, number)}: expected a name as 'vid_name' and a whole number as 'label' (Diving48), "
                f"found {name!r} and {label!r}."
            )
        paths.append(_path_of(name, ".mp4", template))
        labels.append([label])
    return _checked_rows(file, paths, labels, list(range(1, len(paths) + 1)), None)


def _read_ssv2(file: Path, entries: list[dict[str, Any]], names: list[str] | None, template: str | None) -> _Rows:
    names = _names_beside(file, "labels.json", "Something-Something V2") if names is None else names
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
        paths.append(_path_of(str(entry["id"]), ".webm", template))
        labels.append([_label_of(file, number, name, label_of)])
    return _checked_rows(file, paths, labels, list(range(1, len(paths) + 1)), names)


def _read_id_and_class(file: Path, text: str, names: list[str] | None) -> _Rows:
    names = _names_beside(file, "labels.csv", "Something-Something V1 or Jester") if names is None else names
    label_of = {name: label for label, name in enumerate(names)}
    paths, labels, lines = [], [], []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        folder, separator, name = line.strip().partition(";")
        if not separator or not folder or not name:
            raise ValueError(
                f"{_where(file, number)}: expected `id;class`, as in the official lists of Something-Something V1 and "
                f"Jester, found {line.strip()!r}. The official test list has no classes: use train or validation."
            )
        paths.append(folder.strip())
        labels.append([_label_of(file, number, name.strip(), label_of)])
        lines.append(number)
    return _checked_rows(file, paths, labels, lines, names)


def _read_ucf101(file: Path, text: str, names: list[str] | None, template: str | None) -> _Rows:
    names = _names_beside(file, "classInd.txt", "UCF101") if names is None else names
    label_of = {name: label for label, name in enumerate(names)}
    paths, labels, lines = [], [], []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        path, *words = line.split()
        name, _, video = path.rpartition("/")
        if not name or not video.endswith(".avi") or len(words) > 1 or not all(map(_is_integer, words)):
            raise ValueError(
                f"{_where(file, number)}: a file of this name is read as an official list of UCF101: expected "
                f"`Class/video.avi number`, or without the number, found {line.strip()!r}. Rename a list of your own."
            )
        label = _label_of(file, number, name, label_of)
        if words and int(words[0]) != label + 1:
            raise ValueError(
                f"{_where(file, number)}: the class {name!r} has the number {words[0]}, but {label + 1} in the list of "
                "classes. A file of this name is read as an official list of UCF101, which counts classes from 1: put "
                "the official classInd.txt beside it. Rename a list of your own."
            )
        paths.append(_path_of(path.removesuffix(".avi"), ".avi", template))
        labels.append([label])
        lines.append(number)
    return _checked_rows(file, paths, labels, lines, names)


def _read_kinetics(file: Path, text: str, names: list[str] | None, template: str | None) -> _Rows:
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
            path = f"{_underscored(name)}/{video}_{int(start):06d}_{int(end):06d}"
            paths.append(_path_of(path, ".mp4", template))
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


def _read_class_folders(folder: Path, root: Path, names: list[str] | None, template: str | None) -> _Rows:
    try:
        prefix = folder.resolve().relative_to(root.resolve()).as_posix()
    except ValueError:
        raise ValueError(f"{folder} is not inside root ({root}). Leave root out, or give a folder above it.") from None
    prefix = "" if prefix == "." else f"{prefix}/"
    folders, files = _seen_in(folder)
    astray = [file for file in files if template is None and _is_video(file)]
    if not folders:
        raise ValueError(
            f"{folder} has no sub-folders. Expected one for each class, with the videos of that class in it."
            f"{_left_out([(astray, _ASTRAY)])}"
        )
    clips_of: dict[str, list[str]] = {}
    others, empty = [], []
    for name in folders:
        inner, files = _seen_in(folder / name)
        if template is None:
            clips_of[name] = [file for file in files if _is_video(file)]
            others += [f"{name}/{file}" for file in files if not _is_video(file)]
            astray += [f"{name}/{file}" for below in inner for file in _videos_below(folder / name, below)]
        else:
            has_frames = [bool(_seen_in(folder / name / below)[1]) for below in inner]
            clips_of[name] = [below for below, has in zip(inner, has_frames, strict=True) if has]
            others += [f"{name}/{file}" for file in files]
            empty += [f"{name}/{below}" for below, has in zip(inner, has_frames, strict=True) if not has]
    without = [name for name, clips in clips_of.items() if not clips]
    what = _WITHOUT_VIDEOS if template is None else _WITHOUT_FRAMES
    left_out = _left_out(zip((others, astray, empty, without), what, strict=True))
    if len(without) == len(folders) and template is not None:
        raise ValueError(
            f"{folder} has no frame folders in its {len(folders)} sub-folders ({folders[0]}, ...). With a template, "
            f"expected a folder of frames for each clip, directly in them. For videos leave template out.{left_out}"
        )
    if len(without) == len(folders):
        raise ValueError(
            f"{folder} has no videos in its {len(folders)} sub-folders ({folders[0]}, ...). Expected files that end in "
            f"{', '.join(VIDEO_SUFFIXES)}, directly in them.{left_out}"
        )
    if left_out:
        log.warning("%s:%s", folder, left_out)
    names = [name for name in folders if clips_of[name]] if names is None else names
    label_of = {name: label for label, name in enumerate(names)}
    paths, labels = [], []
    for name, clips in clips_of.items():
        if clips:
            label = _label_of(folder / name, None, name, label_of)
            paths += [f"{prefix}{name}/{clip}" for clip in clips]
            labels += [[label] for _ in clips]
    return _Rows(paths, labels, list(range(1, len(paths) + 1)), names)


_ASTRAY = "{} video{s} not directly in a class's folder"
_WITHOUT_VIDEOS = (
    f"{{}} file{{s}} whose name does not end in {', '.join(VIDEO_SUFFIXES)}",
    _ASTRAY,
    "",
    "{} folder{s} without videos, no class",
)
_WITHOUT_FRAMES = (
    "{} file{s} outside of frame folders",
    "",
    "{} folder{s} without files where a clip's frames would be",
    "{} folder{s} without frame folders, no class",
)


def _left_out(kinds: Iterable[tuple[Sequence[str], str]]) -> str:
    """Return a sentence that counts what is left out by kinds, with an example each; nothing where nothing is."""
    told = [
        f"{what.format(len(names), s='s' if len(names) > 1 else '')} ({'such as ' if len(names) > 1 else ''}{names[0]})"
        for names, what in kinds
        if names
    ]
    return f" Left out: {'; '.join(told)}." if told else ""


def _is_video(name: str) -> bool:
    return name.lower().endswith(VIDEO_SUFFIXES)


def _seen_in(folder: Path) -> tuple[list[str], list[str]]:
    """Return the folders and the files in a folder, each sorted by name, without what nobody put there as data."""
    with os.scandir(folder) as found:
        # "._a.mp4" is no video but what macOS keeps about one
        entries = [entry for entry in found if not entry.name.startswith(".") and entry.name not in _LEFT_BY_SYSTEMS]
    folders = sorted(entry.name for entry in entries if entry.is_dir())
    return folders, sorted(entry.name for entry in entries if not entry.is_dir())


def _videos_below(folder: Path, name: str) -> list[str]:
    """Return the videos at any depth in `folder`/`name`, by their path from `folder`."""
    folders, files = _seen_in(folder / name)
    below = [video for inner in folders for video in _videos_below(folder / name, inner)]
    return [f"{name}/{video}" for video in [*filter(_is_video, files), *below]]


# --- shared by the readers -------------------------------------------------------------------------------------------


def _check_span(where: str, path: str, first_frame: int, num_frames: int) -> None:
    if not 0 <= first_frame < _MAX_FRAMES:
        raise ValueError(
            f"{where}: the offset {first_frame} of {path!r} is out of range. It is the number of frames in the folder "
            "before the clip, 0 or more."
        )
    if not 1 <= num_frames < _MAX_FRAMES:
        raise ValueError(
            f"{where}: {path!r} has a total_frames of {num_frames}; 1 or more are allowed. Leave out clips without "
            "frames. (In a list with offsets, which need with_offset=True, it is the number after the offset.)"
        )


def _path_of(name: str, suffix: str, template: str | None) -> str:
    """Return the video of that name, or with a template the folder of its frames."""
    return f"{name}{suffix}" if template is None else name


def _names_beside(file: Path, labels_name: str, data_set: str) -> list[str]:
    """Return the classes from the official file beside an official list."""
    # mmaction2 puts a prefix before both: something-something-v2-train.json, -labels.json
    prefix = re.split(r"train|val|test", file.name)[0]
    for beside in (file.with_name(f"{prefix}{labels_name}"), file.with_name(labels_name)):
        if beside.exists():
            names = _read_class_names(beside)
            assert names is not None
            return names
    raise ValueError(
        f"{file}: this {data_set} list needs the official {prefix}{labels_name} beside it, which gives the number of "
        f"each class; there is none in {file.parent}. Copy it there, or give class_names=FILE."
    )


def _where(file: Path, number: int) -> str:
    if file.is_dir():
        return f"{file}, file {number}"
    return f"{file}, {'entry' if file.suffix.lower() == '.json' else 'line'} {number}"


def _read_text(file: Path, *, any_bytes: bool = False) -> str:
    """Return a text without byte order marks, its line ends as one character.

    With `any_bytes`, those that are no UTF-8 come as surrogates, as Python has them in the names of files: a list may
    name such a file, and only that one is to be lost.
    """
    content = file.read_bytes()
    encoding, errors = "utf-8-sig", "surrogateescape" if any_bytes else "strict"
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # as Windows' PowerShell writes
        encoding, errors = "utf-16", "strict"
    try:
        text = content.decode(encoding, errors)
    except UnicodeDecodeError as error:
        raise _no_text(file, content, error.start) from None
    if "\0" in text:
        raise _no_text(file, content, content.index(0))
    # lists that were put together keep the marks of all of them
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\n\ufeff", "\n")


def _no_text(file: Path, content: bytes, place: int) -> ValueError:
    line = content[:place].count(b"\n") + 1
    found = f"byte 0x{content[place]:02x}"
    return ValueError(f"{file}, line {line}: not UTF-8 text ({found}). Give a list, saved as UTF-8.")


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
        elif file.name == "classInd.txt":
            names = _names_of_ucf101(file, text)
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


def _names_of_ucf101(file: Path, text: str) -> list[str]:
    """Return the names of lines ``1 ApplyEyeMakeup``, which count from 1."""
    lines = [line.split() for line in text.split("\n") if line.strip()]
    if [words[0] for words in lines] != [str(number) for number in range(1, len(lines) + 1)] or any(
        len(words) != 2 for words in lines
    ):
        raise ValueError(f"{file}: expected UCF101's classes with their numbers from 1 up, such as `1 ApplyEyeMakeup`.")
    return [name for _, name in lines]


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
    used = {label for labels in rows.labels for label in labels}
    from_1 = len(used) > 1 and min(used) == 1 and max(used) == len(used)
    for path, labels, number in zip(rows.paths, rows.labels, rows.lines, strict=True):
        if min(labels) < 0 or max(labels) >= limit:
            wrong = next(label for label in labels if not 0 <= label < limit)
            advice = "Class numbers count from 0." if num_classes is None else "Correct the label or num_classes."
            if from_1 and wrong == num_classes:
                advice = f"Class numbers count from 0, those of this list are 1 to {wrong}: take 1 off each."
            raise ValueError(
                f"{_where(file, number)}: the label {wrong} of {path!r} is out of range. "
                f"Allowed are 0 to {limit - 1}. {advice}"
            )
    if from_1 and rows.class_names is None:
        log.warning(
            "%s: its labels are 1 to %d, and none is 0. Class numbers count from 0: if these count from 1, take 1 off "
            "each; else class 0 has no clip here.",
            file,
            len(used),
        )
    return max(used) + 1 if num_classes is None else num_classes


def is_utf8(name: str) -> bool:
    """Return whether a name is one of characters, and not of bytes that Python has as surrogates (`os.fsdecode`)."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def escaped(name: str) -> str:
    """Return a name as UTF-8 can hold it: ``b\\udcff.mp4``, with a backslash, where its bytes are none (0xff here)."""
    return name if name.isascii() else name.encode(errors="backslashreplace").decode()


def _check_names(file: Path, rows: _Rows) -> None:
    """Refuse names that can be none, and tell of paths that are not UTF-8: those may well be a file's name."""
    for name in rows.class_names or ():
        if not is_utf8(name):
            raise ValueError(
                f"{file}: the name of the class {name!r} is not UTF-8. Rename its folder, or save the list as UTF-8."
            )
    for path, number in zip(rows.paths, rows.lines, strict=True):
        if "\0" in path:
            raise ValueError(f"{_where(file, number)}: the path {path!r} has a NUL in it, which no file's name has.")
    strange = [(path, number) for path, number in zip(rows.paths, rows.lines, strict=True) if not is_utf8(path)]
    if strange:
        path, number = strange[0]
        log.warning(
            "%s: %d of %d paths %s not UTF-8, such as %s (%s). If the list is in another encoding, save it as UTF-8; "
            "if the file has such a name, rename it.",
            file,
            len(strange),
            len(rows.paths),
            "is" if len(strange) == 1 else "are",
            repr(path),
            _where(file, number),
        )


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


def _comma_hint(line: str) -> str:
    """Return what to say of a line whose fields are set apart by commas; nothing of others."""
    found = _COMMA_BEFORE_NUMBER.search(line.strip())
    if found is None:
        return ""
    return f"Fields are set apart by blanks or tabs, found {found[0][0]!r}: write {_by_blanks(line)!r}."


def _comma_error(file: Path, number: int, path: str, line: str) -> ValueError:
    hint = _comma_hint(line) or "Fields are set apart by blanks or tabs."
    return ValueError(f"{_where(file, number)}: the path {path!r} ends in {path[-1]!r}. {hint}{_csv_hint(file)}")


def _by_blanks(line: str) -> str:
    return re.sub(r"\s*[,;]\s*(?=-?\d+\s*(?:[,;]|$))", " ", line.strip())


def _csv_hint(file: Path) -> str:
    if file.suffix.lower() != ".csv":
        return ""
    return (
        f" (A Kinetics CSV would begin with the header {','.join(_KINETICS_COLUMNS)}, one of Something-Something V1 or "
        "Jester with `id;class`.)"
    )


def read_class_names(file: str | Path) -> list[str]:
    """Read class names in the order of their numbers: one a line, or a Something-Something ``labels.json``.

    Raises:
        ValueError: the file is missing or empty, or has a name twice.
    """
    names = _read_class_names(file)
    assert names is not None
    return names
