"""HMDB51: a file for each class, of which lists are made."""

from __future__ import annotations

import os
import re
from pathlib import Path

from .text import read_text, where

_SPLIT_NAME = re.compile(r"(.+)_test_split([123])\.txt")
_NUM_CLASSES = 51


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
    found = [match for name in sorted(os.listdir(splits)) if (match := _SPLIT_NAME.fullmatch(name))]
    file_of = {match[1]: splits / match[0] for match in found if int(match[2]) == split}
    if len(file_of) != _NUM_CLASSES:
        raise ValueError(
            f"{splits}: found {len(file_of)} files <class>_test_split{split}.txt, expected {_NUM_CLASSES}. "
            "Give the folder that all of HMDB51's official splits are unpacked in: the classes are numbered by them."
        )
    lines_of: dict[str, list[str]] = {"0": [], "1": [], "2": []}
    classes = sorted(file_of)
    for label, name in enumerate(classes):
        for number, line in enumerate(read_text(file_of[name]).split("\n"), start=1):
            match line.split():
                case []:
                    pass
                case [video, "0" | "1" | "2" as flag] if not video.endswith((",", ";")):
                    lines_of[flag].append(f"{name}/{video} {label}\n")
                case _:
                    raise ValueError(
                        f"{where(file_of[name], number)}: expected `video.avi flag` with a flag of 1 (training), 2 "
                        f"(testing) or 0 (neither), found {line.strip()!r}."
                    )
    out.mkdir(parents=True, exist_ok=True)
    train, test = out / f"hmdb51_train_split{split}.txt", out / f"hmdb51_test_split{split}.txt"
    train.write_text("".join(lines_of["1"]), encoding="utf-8")
    test.write_text("".join(lines_of["2"]), encoding="utf-8")
    (out / "hmdb51_classes.txt").write_text("".join(f"{name}\n" for name in classes), encoding="utf-8")
    return train, test
