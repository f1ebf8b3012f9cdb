"""The names of classes, in the order of their numbers: as they are given, or in a file beside a list."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .text import is_integer, load_json, read_text, where


def read_class_names(file: str | Path) -> list[str]:
    """Read class names in the order of their numbers: one a line, or a Something-Something ``labels.json``.

    Raises:
        ValueError: the file is missing or empty, or has a name twice.
    """
    names = class_names_of(file)
    assert names is not None
    return names


def class_names_of(source: str | Path | Sequence[str] | None) -> list[str] | None:
    """Return class names that are given as a sequence or as a file; None where none are given."""
    if source is None:
        return None
    if isinstance(source, (str, Path)):
        file = Path(source)
        if not file.is_file():
            raise ValueError(f"The file of class names {file} does not exist.")
        text = read_text(file)
        if file.suffix.lower() == ".json":
            names = _names_of_numbered(file, load_json(file, text))
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
    if isinstance(numbers, dict) and all(is_integer(str(number)) for number in numbers.values()):
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


def names_beside(file: Path, labels_name: str, data_set: str) -> list[str]:
    """Return the classes from the official file beside an official list."""
    # mmaction2 puts a prefix before both: something-something-v2-train.json, -labels.json
    prefix = re.split(r"train|val|test", file.name)[0]
    for beside in (file.with_name(f"{prefix}{labels_name}"), file.with_name(labels_name)):
        if beside.exists():
            names = class_names_of(beside)
            assert names is not None
            return names
    raise ValueError(
        f"{file}: this {data_set} list needs the official {prefix}{labels_name} beside it, which gives the number of "
        f"each class; there is none in {file.parent}. Copy it there, or give class_names=FILE."
    )


def known_label(file: Path, number: int | None, name: str, label_of: dict[str, int]) -> int:
    """Return the number of a class that the entry at `number`, or the folder `file` itself without one, is of."""
    label = label_of.get(name)
    if label is None:
        place = str(file) if number is None else where(file, number)
        raise ValueError(
            f"{place}: the class {name!r} is not one of the {len(label_of)} known ({next(iter(label_of))!r}, ...). "
            "Give the class_names that belong to this list."
        )
    return label
