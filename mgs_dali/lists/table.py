"""The table of clips that a list is read into, and the rows that the readers make on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..video.file import Video, VideoFile
from ..video.folder import FrameFolder
from .text import where

VIDEO_SUFFIXES = (".mp4", ".webm", ".avi", ".mkv", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp")
"""How the names of videos end."""


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
        return where(self.list_file, int(self.list_lines[index]))


class Rows(NamedTuple):
    """What a reader found, one entry for each clip; `read_annotations` makes a table of it."""

    paths: list[str]
    labels: list[list[int]]
    lines: list[int]
    class_names: list[str] | None
    first_frames: list[int] | None = None
    num_frames: list[int] | None = None


def checked_rows(
    file: Path, paths: list[str], labels: list[list[int]], lines: list[int], names: list[str] | None
) -> Rows:
    """Return the rows of a list that has any."""
    if not paths:
        raise ValueError(f"{file}: the list is empty. Give a list with at least one video.")
    return Rows(paths, labels, lines, names)


def path_of(name: str, suffix: str, template: str | None) -> str:
    """Return the video of that name, or with a template the folder of its frames."""
    return f"{name}{suffix}" if template is None else name
