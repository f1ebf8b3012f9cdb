"""Lists of a data set on disk -> a table of clips. Nothing here opens a video, or asks whether it is there."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..video.folder import check_template
from .class_folders import read_class_folders
from .class_names import class_names_of
from .diving48 import read_diving48
from .kinetics import read_kinetics
from .mmaction2 import GIVE_TEMPLATE, mmaction2_path_key, read_mmaction2_json, read_mmaction2_list
from .something import OFFICIAL_FRAMES_TEMPLATE, read_id_and_class, read_something_v2
from .table import Clips, Rows
from .text import is_utf8, parse_json, read_text, where
from .ucf101 import UCF101_LIST, read_ucf101

log = logging.getLogger(__name__)

_MAX_CLASSES = 2**31


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
    names = class_names_of(class_names)
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
        rows = read_class_folders(file, root, names, template)
    else:
        text = read_text(file, any_bytes=True)
        first_line = text.lstrip().partition("\n")[0]
        if file.suffix.lower() == ".json":
            entries = parse_json(file, text)
            if path_key := mmaction2_path_key(file, entries[0], template):
                of_mmaction = True
                rows = read_mmaction2_json(file, entries, multi_label, path_key)
            elif "vid_name" in entries[0]:
                rows = read_diving48(file, entries, template)
            else:
                rows = read_something_v2(file, entries, names, template)
        elif "youtube_id" in re.split(r'[\s,"]+', first_line):
            rows = read_kinetics(file, text, names, template)
        elif file.suffix.lower() == ".csv" and re.match(r"\d+;", first_line):
            template = template or OFFICIAL_FRAMES_TEMPLATE
            rows = read_id_and_class(file, text, names)
        elif UCF101_LIST.fullmatch(file.name):
            rows = read_ucf101(file, text, names, template)
        else:
            of_mmaction = takes_offset = True
            if with_offset and template is None:
                raise ValueError(f"{file}: with_offset=True is for lists of frame folders. {GIVE_TEMPLATE}")
            rows = read_mmaction2_list(
                file, text, multi_label, of_folders=template is not None, with_offset=with_offset
            )

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


def _checked_root(file: Path, root: str | Path | None) -> Path:
    if root is None:
        if not file.is_dir():
            raise ValueError(f"{file}: root is missing. Give root=FOLDER, which the paths in the list are relative to.")
        return file
    if not Path(root).is_dir():
        raise ValueError(f"{file}: root={str(root)!r} is not a folder. Give the folder that holds the videos.")
    return Path(root)


def _checked_labels(file: Path, rows: Rows, num_classes: int | None) -> int:
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
                f"{where(file, number)}: the label {wrong} of {path!r} is out of range. "
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


def _check_names(file: Path, rows: Rows) -> None:
    """Refuse names that can be none, and tell of paths that are not UTF-8: those may well be a file's name."""
    for name in rows.class_names or ():
        if not is_utf8(name):
            raise ValueError(
                f"{file}: the name of the class {name!r} is not UTF-8. Rename its folder, or save the list as UTF-8."
            )
    for path, number in zip(rows.paths, rows.lines, strict=True):
        if "\0" in path:
            raise ValueError(f"{where(file, number)}: the path {path!r} has a NUL in it, which no file's name has.")
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
            where(file, number),
        )
