"""A folder for each class, with its videos or frame folders in it: no list at all."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from .class_names import known_label
from .table import VIDEO_SUFFIXES, Rows

log = logging.getLogger(__name__)

_LEFT_BY_SYSTEMS = frozenset(
    {
        "__MACOSX", "@eaDir", "#recycle", "@Recycle", "lost+found", "$RECYCLE.BIN", "System Volume Information",
        "Thumbs.db", "desktop.ini",
    }
)  # fmt: skip
"""What archives, network storage, file systems and desktops leave among data under names that are not hidden."""


def read_class_folders(folder: Path, root: Path, names: list[str] | None, template: str | None) -> Rows:
    """Read a folder of class folders. What is left out of it is logged."""
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
            label = known_label(folder / name, None, name, label_of)
            paths += [f"{prefix}{name}/{clip}" for clip in clips]
            labels += [[label] for _ in clips]
    return Rows(paths, labels, list(range(1, len(paths) + 1)), names)


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
