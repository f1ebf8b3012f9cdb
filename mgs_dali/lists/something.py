"""Something-Something V2 (JSON), Something-Something V1 and Jester (``id;class``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .class_names import known_label, names_beside
from .table import Rows, checked_rows, path_of
from .text import where

OFFICIAL_FRAMES_TEMPLATE = "{:05}.jpg"
"""How Something-Something V1 and Jester, which are given out as frames, name them."""


def read_something_v2(file: Path, entries: list[dict[str, Any]], names: list[str] | None, template: str | None) -> Rows:
    """Read entries with `id` and `template`, the class with the objects in brackets."""
    names = names_beside(file, "labels.json", "Something-Something V2") if names is None else names
    label_of = {name: label for label, name in enumerate(names)}
    paths, labels = [], []
    for number, entry in enumerate(entries, start=1):
        if "id" not in entry or not isinstance(entry.get("template"), str):
            raise ValueError(
                f"{where(file, number)}: expected 'id' and 'template', found "
                f"{', '.join(map(repr, entry)) or 'no keys'}. "
                "The official test.json has no labels: use train.json or validation.json."
            )
        name = entry["template"].replace("[", "").replace("]", "")
        paths.append(path_of(str(entry["id"]), ".webm", template))
        labels.append([known_label(file, number, name, label_of)])
    return checked_rows(file, paths, labels, list(range(1, len(paths) + 1)), names)


def read_id_and_class(file: Path, text: str, names: list[str] | None) -> Rows:
    """Read lines ``id;class``, of Something-Something V1 and Jester. The clips are frame folders."""
    names = names_beside(file, "labels.csv", "Something-Something V1 or Jester") if names is None else names
    label_of = {name: label for label, name in enumerate(names)}
    paths, labels, lines = [], [], []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        folder, separator, name = line.strip().partition(";")
        if not separator or not folder or not name:
            raise ValueError(
                f"{where(file, number)}: expected `id;class`, as in the official lists of Something-Something V1 and "
                f"Jester, found {line.strip()!r}. The official test list has no classes: use train or validation."
            )
        paths.append(folder.strip())
        labels.append([known_label(file, number, name.strip(), label_of)])
        lines.append(number)
    return checked_rows(file, paths, labels, lines, names)
