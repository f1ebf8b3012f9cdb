"""A motion index that fills up while a loader measures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..lists.text import escaped
from ..motion.pixel import Pixel
from ..video.file import Video
from .store import MotionIndex, NotIndexed, Writer, empty_row, known_rows, locked, part_files, words

__all__ = ["MotionRecorder"]

_PIXEL: dict[str, Any] = {"measure": Pixel.name, "parameters": Pixel.parameters}


class MotionRecorder(Mapping[str, np.ndarray]):
    """A motion index that a loader fills with the curves that it measures (measure ``pixel``).

    Given to :class:`mgs_dali.ClipLoader` as its motion index, the first epoch runs as without one, and from then on the
    frames are known before decoding. As a mapping it holds what is in the folder; what is added is there after the next
    :meth:`flush`. Several processes may record into one folder.

    Args:
        folder: of the index, made when there is something to write. It may hold an index of measure ``pixel``.

    Raises:
        ValueError: the folder holds an index of another measure or version.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._index: MotionIndex | None = None
        self._part_files: list[Path] = []
        self._rows: dict[str, dict[str, Any]] = {}
        self.refresh()

    def __reduce__(self) -> tuple[type[MotionRecorder], tuple[Path]]:
        return MotionRecorder, (self.folder.absolute(),)

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __len__(self) -> int:
        return 0 if self._index is None else len(self._index)

    def __iter__(self) -> Iterator[str]:
        return iter(()) if self._index is None else iter(self._index)

    def __contains__(self, path: object) -> bool:
        return self._index is not None and path in self._index

    def __getitem__(self, path: str) -> np.ndarray:
        if self._index is None:
            raise NotIndexed(f"{path!r} has not been recorded in {self.folder} yet.")
        return self._index[path]

    def refresh(self) -> None:
        """Read what this and other processes have written since."""
        files = part_files(self.folder)
        if files == self._part_files:
            return
        index = MotionIndex(self.folder)
        found = {"measure": index.measure, "parameters": index.parameters}
        if found != _PIXEL:
            raise ValueError(
                f"{self.folder} holds curves of {words(found)}; what is measured while loading is {words(_PIXEL)}. "
                "Give another folder, or load with this index as it is: MotionIndex(folder)."
            )
        self._index, self._part_files = index, files

    def add(self, path: str, motion: np.ndarray, *, video: Video) -> None:
        """Take the curve of a video or frame folder that has just been measured.

        Args:
            path: of the video in the list.
            motion: (F - 1,) float32, of all of its frames.
            video: itself, whose size and time of change are noted.
        """
        if path in self or path in self._rows:
            return
        try:
            stamp = video.stamp()
        except (OSError, ValueError):
            return  # gone meanwhile: the next epoch will say so
        self._rows[path] = empty_row(path) | {
            **stamp._asdict(),
            "num_frames": len(motion) + 1,
            "motion": np.asarray(motion, np.float32),
        }

    def flush(self) -> None:
        """Write what was added as one part of the index.

        Raises:
            ValueError: the folder cannot be written to, or another indexer keeps it to itself for a minute.
        """
        if not self._rows:
            return
        with locked(self.folder, wait_seconds=60.0):
            known = known_rows(self.folder, _PIXEL)
            writer = Writer(self.folder, _PIXEL, part_num_videos=len(self._rows) + 1, part_seconds=math.inf)
            for path, row in self._rows.items():
                if known.get(escaped(path)) != (row["size_bytes"], row["mtime_ns"], None):
                    writer.add(row)
            writer.flush()
        self._rows.clear()
        self.refresh()
