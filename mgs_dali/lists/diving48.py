"""Diving48: JSON files of both versions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .table import Rows, checked_rows, path_of
from .text import where


def read_diving48(file: Path, entries: list[dict[str, Any]], template: str | None) -> Rows:
    """Read entries with `vid_name` and `label`."""
    paths, labels = [], []
    for number, entry in enumerate(entries, start=1):
        name, label = entry.get("vid_name"), entry.get("label")
        if not isinstance(name, str) or not name or type(label) is not int:
            raise ValueError(
                f"{where(file, number)}: expected a name as 'vid_name' and a whole number as 'label' (Diving48), "
                f"found {name!r} and {label!r}."
            )
        paths.append(path_of(name, ".mp4", template))
        labels.append([label])
    return checked_rows(file, paths, labels, list(range(1, len(paths) + 1)), None)
