"""Kinetics: CSV files with a header."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from .class_names import known_label
from .table import Rows, checked_rows, path_of
from .text import where

KINETICS_COLUMNS = ("label", "youtube_id", "time_start", "time_end")
"""Those that are read; there may be others, and in another order."""


def read_kinetics(file: Path, text: str, names: list[str] | None, template: str | None) -> Rows:
    """Read a CSV whose columns are told by its header."""
    reader = csv.reader(io.StringIO(text.lstrip()), strict=True)
    skipped = text[: len(text) - len(text.lstrip())].count("\n")
    header = [column.strip() for column in next(reader)]
    missing = [column for column in KINETICS_COLUMNS if column not in header]
    if missing:
        hint = " The official test CSV has no labels: use train or validate." if missing == ["label"] else ""
        raise ValueError(
            f"{where(file, 1 + skipped)}: the header lacks {', '.join(missing)}. A Kinetics CSV has the columns "
            f"{','.join(KINETICS_COLUMNS)}.{hint}"
        )
    columns = [header.index(column) for column in KINETICS_COLUMNS]
    paths, classes, lines = [], [], []
    try:
        for fields in reader:
            if not any(fields):
                continue
            number = reader.line_num + skipped
            if len(fields) <= max(columns):
                raise ValueError(
                    f"{where(file, number)}: expected {len(header)} fields ({','.join(header)}), "
                    f"found {len(fields)}: {fields}."
                )
            name, video, start, end = (fields[column].strip() for column in columns)
            if not name or not start.isdecimal() or not end.isdecimal():
                raise ValueError(
                    f"{where(file, number)}: expected a label and times in whole seconds, found label {name!r}, "
                    f"time_start {start!r} and time_end {end!r}."
                )
            path = f"{_underscored(name)}/{video}_{int(start):06d}_{int(end):06d}"
            paths.append(path_of(path, ".mp4", template))
            classes.append(name)
            lines.append(number)
    except csv.Error as error:
        raise ValueError(f"{where(file, reader.line_num + skipped)}: not a valid CSV: {error}.") from None
    if names is None:
        names = sorted(set(classes), key=_underscored)
    label_of = {_underscored(name): label for label, name in enumerate(names)}
    labels = [
        [known_label(file, number, _underscored(name), label_of)] for number, name in zip(lines, classes, strict=True)
    ]
    return checked_rows(file, paths, labels, lines, names)


def _underscored(name: str) -> str:
    """Return a Kinetics class as its folder is named. mmaction2 sorts the classes by this."""
    return name.replace(" ", "_")
