"""UCF101: the official lists, whose classes count from 1."""

from __future__ import annotations

import re
from pathlib import Path

from .class_names import known_label, names_beside
from .table import Rows, checked_rows, path_of
from .text import is_integer, where

UCF101_LIST = re.compile(r"(train|test)list\d*\.txt", re.IGNORECASE)
"""What the official lists are named."""


def read_ucf101(file: Path, text: str, names: list[str] | None, template: str | None) -> Rows:
    """Read lines ``Class/video.avi number``, or without the number."""
    names = names_beside(file, "classInd.txt", "UCF101") if names is None else names
    label_of = {name: label for label, name in enumerate(names)}
    paths, labels, lines = [], [], []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        path, *words = line.split()
        name, _, video = path.rpartition("/")
        if not name or not video.endswith(".avi") or len(words) > 1 or not all(map(is_integer, words)):
            raise ValueError(
                f"{where(file, number)}: a file of this name is read as an official list of UCF101: expected "
                f"`Class/video.avi number`, or without the number, found {line.strip()!r}. Rename a list of your own."
            )
        label = known_label(file, number, name, label_of)
        if words and int(words[0]) != label + 1:
            raise ValueError(
                f"{where(file, number)}: the class {name!r} has the number {words[0]}, but {label + 1} in the list of "
                "classes. A file of this name is read as an official list of UCF101, which counts classes from 1: put "
                "the official classInd.txt beside it. Rename a list of your own."
            )
        paths.append(path_of(path.removesuffix(".avi"), ".avi", template))
        labels.append([label])
        lines.append(number)
    return checked_rows(file, paths, labels, lines, names)


def check_not_ucf101(file: Path, rows: Rows) -> None:
    """Refuse an official UCF101 list under another name: it counts classes from 1, and all would be one too high."""
    first_class = next(
        (label for path, (label, *_) in zip(rows.paths, rows.labels, strict=True) if "v_ApplyEyeMakeup_" in path), None
    )
    if first_class == 1 and min(map(min, rows.labels)) == 1:
        raise ValueError(
            f"{file}: this looks like an official UCF101 list, whose classes count from 1. Give it its official name, "
            "such as trainlist01.txt, and put classInd.txt beside it; or count the classes from 0."
        )
