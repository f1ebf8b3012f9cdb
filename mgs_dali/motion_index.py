"""The store of motion curves: measured once for all videos of a list, kept in Parquet, read by every loader.

An index is a folder of ``part-NNNNNN.parquet`` files; ``docs/motion.md`` tells their columns. A part is written in one
piece, so that whatever is there is whole. A row of a later part replaces those of earlier ones for the same path.
"""

from __future__ import annotations

import bisect
import fcntl
import json
import math
import multiprocessing
import os
import re
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from .lists.table import Clips
from .lists.text import escaped, is_utf8
from .files import write_whole
from .machine import num_cpus
from .measuring import Measured, measure_video, video_facts
from .motion import NO_PACKETS, Measure, Pixel, as_measure
from .video_file import Video

__all__ = [
    "FORMAT_VERSION",
    "Entry",
    "MotionIndex",
    "MotionRecorder",
    "Summary",
    "export_json",
    "import_json",
    "index_videos",
]

FORMAT_VERSION = 1

_METADATA_KEY = b"mgs_dali.motion_index"
_PIXEL: dict[str, Any] = {"measure": Pixel.name, "parameters": Pixel.parameters}
_PART_PATTERN = re.compile(r"part-(\d{6,})\.parquet")
_SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("size_bytes", pa.int64()),
        pa.field("mtime_ns", pa.int64()),
        pa.field("num_frames", pa.int32()),
        pa.field("frames_per_second", pa.float64()),
        pa.field("codec", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("keyframes", pa.list_(pa.field("item", pa.int32(), nullable=False))),
        pa.field("motion", pa.list_(pa.field("item", pa.float32(), nullable=False))),
        pa.field("error", pa.string()),
    ]
)


# --- reading --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """What an index holds of one video or frame folder.

    Attributes:
        path: as in the list, relative to the root folder. Of one that is not UTF-8 each byte that is none is written
            as ``\\udcff``, of byte 0xff.
        size_bytes: of the file, or of all frames of a folder; None where it was not there to be asked.
        mtime_ns: when it was last changed, nanoseconds since 1970, see :class:`mgs_dali.rawframes.Stamp` for folders;
            None likewise.
        num_frames: that it shows; None where it could not be measured.
        frames_per_second: on average; None where the file does not tell.
        codec: FFmpeg's name of it.
        width: of the frames, in pixels.
        height: of the frames, in pixels.
        keyframes: (K,) int64, the keyframes' places in presentation order; None where they are not known.
        error: why it could not be measured; None where it was.
    """

    path: str
    size_bytes: int | None
    mtime_ns: int | None
    num_frames: int | None
    frames_per_second: float | None
    codec: str | None
    width: int | None
    height: int | None
    keyframes: np.ndarray | None
    error: str | None


class NotIndexed(KeyError):
    """A video without a motion curve."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would show the text in quotes


class _Part(NamedTuple):
    file: Path
    identity: dict[str, Any]
    table: pa.Table
    values: np.ndarray
    offsets: np.ndarray


class MotionIndex(Mapping[str, np.ndarray]):
    """Motion curves by path: ``MotionIndex(folder)["some/video.webm"]`` is (F - 1,) float32, read-only.

    Its length, iteration and ``in`` are those of the videos that have a curve; ``errors`` tells of the others. The
    curves lie in Arrow's memory: forked processes share them without copies. Pickled it is its folder's path, and is
    read again where it is unpickled.

    Args:
        folder: what ``mgs-dali index`` or ``mgs-dali import-json`` wrote.

    Raises:
        ValueError: there is no index, one of another format version, or a part of it is damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._parts = _read_parts(self.folder, columns=None)
        if not self._parts:
            raise ValueError(
                f"{self.folder}: {_no_index(self.folder)} Make one with: mgs-dali index LIST --root DIR --out "
                f"{self.folder}"
            )
        identity = self._parts[0].identity
        self.measure: str = identity["measure"]
        """``pixel``, ``ssim``, ``pa``, ``packet``, or ``imported`` from the released code's JSON."""
        self.parameters: dict[str, Any] = identity["parameters"]
        """The measure's."""
        self._starts = np.cumsum([0, *(part.table.num_rows for part in self._parts)]).tolist()
        paths = [path for part in self._parts for path in part.table.column("path").to_pylist()]
        # of several rows with one path the last counts
        self._rows = dict(zip(paths, range(len(paths)), strict=True))
        texts = [text for part in self._parts for text in part.table.column("error").to_pylist()]
        self.errors: dict[str, str] = {path: texts[row] for path, row in self._rows.items() if texts[row] is not None}
        """Why a video has no curve, by its path."""

    def __reduce__(self) -> tuple[type[MotionIndex], tuple[Path]]:
        return MotionIndex, (self.folder.absolute(),)

    def __repr__(self) -> str:
        return f"MotionIndex({str(self.folder)!r}): {len(self)} curves of measure {self.measure}"

    # One index is one object: comparing all of its curves, which Mapping would do, is nothing that anybody wants.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __len__(self) -> int:
        return len(self._rows) - len(self.errors)

    def __iter__(self) -> Iterator[str]:
        return (path for path in self._rows if path not in self.errors)

    def __contains__(self, path: object) -> bool:
        return isinstance(path, str) and (path := escaped(path)) in self._rows and path not in self.errors

    def __getitem__(self, path: str) -> np.ndarray:
        if (path := escaped(path)) in self.errors:
            raise NotIndexed(
                f"{path}: has no motion curve in {self.folder}, it could not be measured: {self.errors[path]}"
            )
        part, row = self._find(path)
        return part.values[part.offsets[row] : part.offsets[row + 1]]

    def num_frames(self, path: str) -> int:
        """Frames of a video: one more than its curve is long."""
        return len(self[path]) + 1

    def entry(self, path: str) -> Entry:
        """All but the curve that is known of a video, whether it could be measured or not."""
        part, row = self._find(path)
        values = {name: part.table.column(name)[row].as_py() for name in Entry.__dataclass_fields__}
        if values["keyframes"] is not None:
            values["keyframes"] = np.array(values["keyframes"], np.int64)
        return Entry(**values)

    def check_covers(self, clips: Clips) -> None:
        """Check that the index knows every video of a list, be it by its curve or by what is wrong with the file.

        Raises:
            ValueError: it was made for another list or another root folder, or the list has grown since.
        """
        missing = [sample for sample, path in enumerate(clips.paths) if escaped(path) not in self._rows]
        if not missing:
            return
        known = len(clips) - len(missing)
        example = next(iter(self._rows), "none")
        why = (
            "It was made for other videos, or with another --root"
            if known * 2 < len(clips)
            else "The list has videos that were not in it when the index was made"
        )
        raise ValueError(
            f"{self.folder}: of the {len(clips)} clips of {clips.list_file} it knows {known}; the first that it does "
            f"not is {clips.paths[missing[0]]!r} ({clips.where(missing[0])}), while its own paths are such as "
            f"{example!r}. {why}. Measure what is missing with: mgs-dali index {clips.list_file} --root {clips.root} "
            f"--out {self.folder}{f' --template {clips.template}' if clips.template else ''}"
        )

    def _find(self, path: str) -> tuple[_Part, int]:
        row = self._rows.get(escaped(path))
        if row is None:
            example = next(iter(self._rows), "none")
            raise NotIndexed(
                f"{path!r} is not in the motion index {self.folder}, whose paths are such as {example!r}. Paths are "
                "relative to the root folder, as in the list. Run mgs-dali index again to add what is missing."
            )
        number = bisect.bisect_right(self._starts, row) - 1
        return self._parts[number], row - self._starts[number]


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
        files = _part_files(self.folder)
        if files == self._part_files:
            return
        index = MotionIndex(self.folder)
        found = {"measure": index.measure, "parameters": index.parameters}
        if found != _PIXEL:
            raise ValueError(
                f"{self.folder} holds curves of {_words(found)}; what is measured while loading is {_words(_PIXEL)}. "
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
        self._rows[path] = _empty_row(path) | {
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
        with _locked(self.folder, wait_seconds=60.0):
            known = _known(self.folder, _PIXEL)
            writer = _Writer(self.folder, _PIXEL, part_num_videos=len(self._rows) + 1, part_seconds=math.inf)
            for path, row in self._rows.items():
                if known.get(escaped(path)) != (row["size_bytes"], row["mtime_ns"], None):
                    writer.add(row)
            writer.flush()
        self._rows.clear()
        self.refresh()


def _read_parts(folder: Path, *, columns: Sequence[str] | None) -> list[_Part]:
    """Read all parts of an index in the order that they were written; none of a folder that is not there."""
    files = _part_files(folder)
    with ThreadPoolExecutor(min(8, (os.cpu_count() or 1) * 2)) as pool:
        parts = list(pool.map(lambda file: _read_part(file, columns), files))
    for part in parts[1:]:
        if part.identity != parts[0].identity:
            raise ValueError(
                f"{folder}: its parts do not belong together: {parts[0].file.name} holds {_words(parts[0].identity)}, "
                f"{part.file.name} {_words(part.identity)}. Move one of the two measures into another folder."
            )
    return parts


def _read_part(file: Path, columns: Sequence[str] | None) -> _Part:
    try:
        with pq.ParquetFile(file, memory_map=True) as content:
            metadata = (content.schema_arrow.metadata or {}).get(_METADATA_KEY)
            if metadata is None:
                raise ValueError(f"{file}: a Parquet file, but no part of a motion index. Move it out of this folder.")
            identity: dict[str, Any] = json.loads(metadata)
            version = identity.pop("version", None)
            if version != FORMAT_VERSION:
                raise ValueError(
                    f"{file}: motion index of format version {version}; this mgs_dali reads version {FORMAT_VERSION}. "
                    "Use the mgs_dali that wrote it, or index into another folder."
                )
            table = content.read(columns=columns, use_threads=False).combine_chunks()
    except (pa.ArrowException, OSError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{file}: this part of the motion index is damaged ({' '.join(str(error).split())}). Delete it and index "
            "again into the same folder: only its videos are measured again."
        ) from error
    values, offsets = np.zeros(0, np.float32), np.zeros(table.num_rows + 1, np.int32)
    if "motion" in table.column_names and table.num_rows:
        (motion,) = table.column("motion").chunks
        offsets, values = motion.offsets.to_numpy(), motion.values.to_numpy()
        values.flags.writeable = False
    return _Part(file, identity, table, values, offsets)


def _part_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    numbered = [(int(match[1]), file) for file in folder.iterdir() if (match := _PART_PATTERN.fullmatch(file.name))]
    return [file for _, file in sorted(numbered)]


def _no_index(folder: Path) -> str:
    return "there is no motion index in this folder." if folder.is_dir() else "there is no such folder."


def _words(identity: Mapping[str, Any]) -> str:
    parameters = ", ".join(f"{name}={value}" for name, value in identity["parameters"].items())
    return f"measure {identity['measure']}" + (f" ({parameters})" if parameters else "")


# --- writing --------------------------------------------------------------------------------------------------------


class _Writer:
    """Collects rows and writes them as parts. One process at a time: it holds the folder's lock."""

    def __init__(self, folder: Path, identity: Mapping[str, Any], *, part_num_videos: int, part_seconds: float) -> None:
        self.folder = folder
        self._part_num_videos, self._part_seconds = part_num_videos, part_seconds
        self._schema = _SCHEMA.with_metadata({_METADATA_KEY: json.dumps({"version": FORMAT_VERSION, **identity})})
        self._rows: list[dict[str, Any]] = []
        self._first_row_seconds = 0.0
        files = _part_files(folder)
        self._next_number = int(_PART_PATTERN.fullmatch(files[-1].name)[1]) + 1 if files else 0  # type: ignore[index]

    def add(self, row: dict[str, Any]) -> None:
        """Take a row; writes a part when there are enough or the oldest has waited long enough."""
        if not self._rows:
            self._first_row_seconds = time.monotonic()
        # the names of the root folder and of the video may be bytes of any kind, and errors quote them
        self._rows.append(row | {name: escaped(row[name]) for name in ("path", "error") if row[name] is not None})
        if len(self._rows) >= self._part_num_videos or time.monotonic() - self._first_row_seconds >= self._part_seconds:
            self.flush()

    def flush(self) -> None:
        """Write the rows that wait, as one part that is there as a whole or not at all."""
        if not self._rows:
            return
        table = pa.Table.from_pylist(self._rows, schema=self._schema)
        content = pa.BufferOutputStream()
        # Uncompressed and without dictionaries: noise hardly compresses, and reading is a copy.
        pq.write_table(table, content, compression="none", use_dictionary=False)
        part = self.folder / f"part-{self._next_number:06}.parquet"
        try:
            with write_whole(part) as unfinished:
                unfinished.write_bytes(content.getvalue())
        except OSError as error:
            raise ValueError(
                f"{part}: could not be written ({error.strerror}). The {len(_part_files(self.folder))} parts before it "
                "are complete. Make room, then run the same command again: it goes on from there."
            ) from error
        self._next_number += 1
        self._rows.clear()


@contextmanager
def _locked(folder: Path, *, wait_seconds: float = 0.0) -> Iterator[None]:
    """Hold a folder for one indexer. The lock goes with the process that holds it, however that ends."""
    end_seconds = time.monotonic() + wait_seconds
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise ValueError(f"{folder} is a file. Give a folder for the motion index.") from None
    with (folder / "lock").open("a+") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= end_seconds:
                    file.seek(0)
                    owner = file.read().strip() or "unknown"
                    raise ValueError(
                        f"{folder}: another indexer is writing into this folder ({owner}). Wait for it, stop it, or "
                        "give another folder."
                    ) from None
                time.sleep(0.05)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


# --- measuring ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Summary:
    """What came of indexing a list.

    Attributes:
        num_videos: different videos in the list.
        num_measured: of them, measured now, with or without success.
        num_known: of them, measured before.
        errors: why a video of the list has no curve, by its path.
        num_unproved: of those measured now, files that do not tell where they end (live recordings, transport
            streams): nobody can know whether they were cut off.
    """

    num_videos: int
    num_measured: int
    num_known: int
    errors: dict[str, str]
    num_unproved: int = 0


def index_videos(
    clips: Clips,
    out: str | Path,
    *,
    measure: str | Measure = "pixel",
    num_workers: int | None = None,
    part_num_videos: int = 512,
    part_seconds: float = 300.0,
    progress: bool = True,
) -> Summary:
    """Measure the motion of every video or frame folder of a list that the index in a folder does not know yet.

    Parts are written as they fill up: whatever ends this process, only the unfinished part is lost, and the same call
    goes on from there. Ctrl-C loses nothing. A file that has changed since is measured again, and so is one that could
    not be read for a reason that may pass (not there, no permission, a worker that died); one that is damaged is not
    until it changes. Worker processes are spawned: a script calls this under ``if __name__ == "__main__":``.

    Args:
        clips: the list. Videos that come more than once are measured once. Of a frame folder all frames are measured,
            whichever of them its clips take.
        out: folder of the index, made if it is not there.
        measure: one of :data:`mgs_dali.motion.MEASURES` by its name, or an object.
        num_workers: processes; by default one a CPU core.
        part_num_videos: a part is written when it holds this many videos,
        part_seconds: or when the first of them has waited for so long.
        progress: show a progress bar.

    Raises:
        ValueError: the folder holds another measure or another version, is in use by another indexer, or cannot be
            written to; or the measure is none for frame folders.
    """
    measure = as_measure(measure)
    num_workers = num_cpus() if num_workers is None else num_workers
    for name, value in (("num_workers", num_workers), ("part_num_videos", part_num_videos)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, found {value!r}.")
    if clips.are_folders and not measure.needs_decoding:
        raise ValueError(f"{clips.list_file}: {NO_PACKETS}")
    out = Path(out)
    identity = {"measure": measure.name, "parameters": dict(measure.parameters)}
    paths = list(dict.fromkeys(clips.paths))
    with _locked(out):
        for unfinished in out.glob("part-*.unfinished"):
            unfinished.unlink()
        known = _known(out, identity)
        job = _Job(clips, measure)
        todo = _not_known(paths, job, known)
        errors = {path: text for path in set(paths) - set(todo) if (text := known[escaped(path)].error) is not None}
        writer = _Writer(out, identity, part_num_videos=part_num_videos, part_seconds=part_seconds)
        bar = tqdm(
            total=len(paths), initial=len(paths) - len(todo), desc=f"motion ({measure.name})", unit=" videos",
            smoothing=0.05, disable=not progress,
        )  # fmt: skip
        num_unproved = 0
        with bar, closing(_measured(todo, job, num_workers=num_workers)) as rows:
            try:
                for row in rows:
                    num_unproved += not row.pop(_IS_PROVED_WHOLE, True)
                    if known.get(escaped(row["path"])) != (row["size_bytes"], row["mtime_ns"], row["error"]):
                        writer.add(row)  # else it failed again, and as before
                    if row["error"] is not None:
                        errors[row["path"]] = row["error"]
                        bar.set_postfix(failed=len(errors), refresh=False)
                    bar.update()
            except KeyboardInterrupt:
                writer.flush()
                raise
        writer.flush()
    in_list_order = {path: errors[path] for path in paths if path in errors}
    return Summary(len(paths), len(todo), len(paths) - len(todo), in_list_order, num_unproved)


class _Known(NamedTuple):
    size_bytes: int | None
    mtime_ns: int | None
    error: str | None


def _known(folder: Path, identity: Mapping[str, Any]) -> dict[str, _Known]:
    """What an index that is to be continued holds already."""
    parts = _read_parts(folder, columns=["path", "size_bytes", "mtime_ns", "error"])
    if parts and parts[0].identity != identity:
        raise ValueError(
            f"{folder} holds curves of {_words(parts[0].identity)}, asked for {_words(identity)}. An index has one "
            "measure: give another --out, or ask for the measure that is there."
        )
    known: dict[str, _Known] = {}
    for part in parts:
        columns = [part.table.column(name).to_pylist() for name in ("path", "size_bytes", "mtime_ns", "error")]
        for path, *values in zip(*columns, strict=True):
            known[path] = _Known(*values)
    return known


def _not_known(paths: Sequence[str], job: _Job, known: Mapping[str, _Known]) -> list[str]:
    """The paths that are to be measured: those without a row, and those whose file is another one now."""

    def is_known(path: str) -> bool:
        row = known.get(escaped(path))
        if row is None or row.size_bytes is None:
            return False
        try:
            return job.video(path).stamp() == (row.size_bytes, row.mtime_ns)
        except (OSError, ValueError):
            return False

    # threads: over a network a stat waits much longer than it works
    with ThreadPoolExecutor(16) as pool:
        return [path for path, here in zip(paths, pool.map(is_known, paths), strict=True) if not here]


@dataclass(frozen=True)
class _Job:
    """What a worker does with each path that it gets."""

    clips: Clips
    measure: Measure

    def video(self, path: str) -> Video:
        """The whole video of a path; errors in the index call it by its file."""
        row = self._rows[path]
        return self.clips.video(row, name=str(self.clips.file(row))).whole

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {path: row for row, path in enumerate(self.clips.paths)}

    def row(self, path: str) -> dict[str, Any]:
        """Measure one video or frame folder. Whatever is wrong with it is in the row."""
        file, empty = self.clips.root / path, _empty_row(path)
        if not is_utf8(path):
            return empty | {"error": _not_utf8(path)}
        try:
            video = self.video(path)
            before = video.stamp()
        except OSError as error:
            return empty | {"error": f"{file}: {error.strerror}. Check the path in the list and the root folder."}
        except ValueError as error:
            return empty | {"error": str(error)}
        if file.exists() and not os.access(file, os.R_OK):  # no stamp: tried again, whatever puts it right
            return empty | {"error": f"{file}: it may not be read. Check its permissions."}
        stamp = before._asdict()
        try:
            found = measure_video(video, measure=self.measure)
            error_text = None
        except ValueError as error:
            error_text = str(error)
        except Exception as error:
            # not foreseen: lack of memory, a failing disk. Without its stamp the file is tried again next time.
            return empty | {"error": f"{file}: {type(error).__name__}: {error}"}
        try:
            after = video.stamp()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            return empty | {"error": f"{file}: {reason}. It was there when reading it began."}
        if after != before:
            return empty | {
                "error": f"{file}: changed while it was being read. Index again when nothing writes to it any more."
            }
        if error_text is not None:
            return empty | stamp | {"error": error_text}
        return empty | stamp | _columns(found) | {"motion": found.motion, _IS_PROVED_WHOLE: found.is_proved_whole}


def _columns(found: Measured) -> dict[str, Any]:
    """What was learnt of a video besides its motion."""
    return {
        "num_frames": len(found.motion) + 1,
        "frames_per_second": found.frames_per_second,
        "codec": found.codec,
        "width": found.width,
        "height": found.height,
        "keyframes": found.keyframes.astype(np.int32),
    }


_IS_PROVED_WHOLE = "is proved whole"
"""Beside the columns, for the summary."""


def _not_utf8(path: str) -> str:
    return (
        f"{escaped(path)}: its name is not UTF-8, which the index and all that shows it are written in. Rename the "
        "file, also in the list; if only the list is in another encoding, save it as UTF-8."
    )


def _empty_row(path: str) -> dict[str, Any]:
    return {**dict.fromkeys(_SCHEMA.names), "path": path}


_TASKS_AHEAD = 2
"""Paths that a worker has: the one that it measures, and the next, so that it need not wait for us."""


@dataclass(eq=False)
class _Worker:
    process: SpawnProcess
    connection: Connection
    paths: deque[str]
    ready: bool = False


def _measured(paths: Sequence[str], job: _Job, *, num_workers: int) -> Generator[dict[str, Any], None, None]:
    """Measure videos in worker processes; yields their rows as they come.

    Own processes rather than a pool of the standard library: there one decoder that crashes on one damaged file takes
    the whole run with it. Here the crash is that file's error, and another worker takes over.
    """
    waiting = deque(paths)
    num_workers = min(num_workers, len(paths))
    workers: dict[Connection, _Worker] = {}
    try:
        while waiting or workers:
            while waiting and len(workers) < num_workers:
                worker = _start_worker(job)
                workers[worker.connection] = worker
            for connection in wait(list(workers)):
                assert isinstance(connection, Connection)
                worker = workers[connection]
                try:
                    row = connection.recv()
                except (EOFError, OSError):
                    yield from _bury(workers.pop(connection), waiting)
                    continue
                worker.ready = True
                if row is not None:
                    assert row["path"] == worker.paths.popleft()
                while waiting and len(worker.paths) < _TASKS_AHEAD:
                    try:
                        connection.send(waiting[0])
                    except OSError:
                        break  # it has died; the next look at it says so
                    worker.paths.append(waiting.popleft())
                if not worker.paths:
                    _stop(workers.pop(connection))
                if row is not None:
                    yield row
    finally:
        for worker in workers.values():
            worker.process.terminate()
        for worker in workers.values():
            _stop(worker)


def _bury(worker: _Worker, waiting: deque[str]) -> Iterator[dict[str, Any]]:
    """A worker that died: the video that it had in hand is given up, the next one goes back into the queue."""
    _stop(worker)
    if not worker.ready:
        raise ValueError(
            "a worker process could not start; what it said is above. In a script of your own, call index_videos under "
            "if __name__ == '__main__':"
        )
    if not worker.paths:
        return
    path, *rest = worker.paths
    waiting.extendleft(reversed(rest))
    code = worker.process.exitcode
    how = f"signal {-code} ({signal.Signals(-code).name})" if code is not None and code < 0 else f"exit status {code}"
    yield _empty_row(path) | {
        "error": f"{path}: the process that measured it died ({how}). The file may crash the decoder, or memory ran "
        "out (then use fewer workers). It is tried again when the list is indexed again."
    }


def _start_worker(job: _Job) -> _Worker:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_work, args=(theirs, job), daemon=True)
    in_main_thread = threading.current_thread() is threading.main_thread()
    # Ctrl-C is ours to handle. Ignored signals stay ignored across exec, so that it does not hit a starting worker.
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN) if in_main_thread else None
    try:
        process.start()
    finally:
        if in_main_thread:
            signal.signal(signal.SIGINT, handler)
    theirs.close()
    return _Worker(process, ours, deque())


def _stop(worker: _Worker) -> None:
    worker.connection.close()
    worker.process.join()


def _work(connection: Connection, job: _Job) -> None:
    """A worker: measures the paths that it is sent until the connection closes, and ends with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, name="follow-parent", daemon=True).start()
    if job.measure.name == "pa":
        import torch  # noqa: PLC0415  only this measure needs it

        torch.set_num_threads(1)  # a worker a core
    try:
        connection.send(None)
        while True:
            connection.send(job.row(connection.recv()))
    except (EOFError, BrokenPipeError):
        return


# --- the released code's JSON ---------------------------------------------------------------------------------------

_CUMULATED_END_TOLERANCE = 1e-3
_ROUNDING = 1e-6

JsonFormat = Literal["auto", "differences", "cumulated"]


def import_json(
    file: str | Path, clips: Clips, out: str | Path, *, json_format: JsonFormat = "auto", progress: bool = True
) -> Summary:
    """Make an index of the motion that the released MGSampler code keeps in ``img_diff_*.json``.

    There are two formats, both ``{clip name: [F - 1 numbers]}``. ``generate_img_diff.py`` writes raw differences.
    ``generate_feature_diff.py`` writes the finished distribution ``c``, which has the exponent 0.5 in it already and is
    cumulated; its differences ``p`` give back the motion (up to a factor, which sampling does not see) as ``p ** 2``. A
    file is taken for the second kind if each of its curves never falls and ends at 1.

    A clip's name is that of its file or frame folder up to the first dot. Where the video is there, its frames are
    counted (without decoding) and compared. Several objects in one file, which is what a repeated run of the released
    scripts leaves, are read as one.

    Args:
        file: the JSON.
        clips: the list that tells the paths. Clips in the JSON alone are left out.
        out: folder of the index. It may hold an earlier import of the same format.
        json_format: ``differences`` or ``cumulated``; ``auto`` looks.
        progress: show a progress bar.

    Returns:
        A summary in which every video that the JSON has counts as measured, and ``errors`` are those that it lacks or
        has nonsense for.

    Raises:
        ValueError: the JSON cannot be understood, two videos of the list have one name, or no video of it is in the
            JSON.
    """
    file, out = Path(file), Path(out)
    curves = _read_json(file)
    paths = _paths_by_name(list(dict.fromkeys(clips.paths)), clips.list_file)
    if not paths.keys() & curves.keys():
        raise ValueError(
            f"{file}: none of its {len(curves)} clips (such as {next(iter(curves))!r}) is in {clips.list_file} (whose "
            f"clips are such as {next(iter(paths))!r}). A clip's name is its file's name up to the first dot."
        )
    if json_format == "auto":
        json_format = _json_format(file, curves)
    job = _Job(clips, Pixel())
    identity = {"measure": "imported", "parameters": {"format": json_format}}
    errors: dict[str, str] = {}
    with _locked(out):
        _known(out, identity)  # another measure there is an error
        writer = _Writer(out, identity, part_num_videos=4096, part_seconds=300.0)
        for name, path in tqdm(paths.items(), desc="import", unit=" videos", disable=not progress):
            if name not in curves:
                errors[path] = f"{path}: {file} has no clip {name!r}."
                continue
            row = _imported_row(job, path, curves[name], cumulated=json_format == "cumulated", source=file)
            if row["error"] is not None:
                errors[path] = row["error"]
            writer.add(row)
        writer.flush()
    return Summary(len(paths), len(paths.keys() & curves.keys()), 0, errors)


def export_json(index: MotionIndex, file: str | Path) -> int:
    """Write an index as the JSON that the released MGSampler code reads: ``{clip name: [F - 1 raw differences]}``.

    Returns:
        The number of clips. Videos that could not be measured are left out.

    Raises:
        ValueError: two videos have one clip name, the index is empty, or the file cannot be written.
    """
    file = Path(file)
    if len(index) == 0:
        raise ValueError(f"{index.folder}: holds no curve, there is nothing to write.")
    paths = _paths_by_name(list(index), index.folder)
    try:
        with write_whole(file) as unfinished, unfinished.open("w", encoding="utf-8") as text:
            for number, (name, path) in enumerate(paths.items()):
                # nine digits give a float32 back exactly
                values = ", ".join([f"{value:.9g}" for value in index[path].tolist()])
                text.write(f"{', ' if number else '{'}{json.dumps(name)}: [{values}]")
            text.write("}")
    except OSError as error:
        raise ValueError(f"{file}: could not be written ({error.strerror}).") from error
    return len(paths)


def _read_json(file: Path) -> dict[str, list[float]]:
    if not file.is_file():
        raise ValueError(f"{file}: there is no such file.")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: not UTF-8 text ({error.reason}), so no JSON of the released code.") from None
    decoder, place = json.JSONDecoder(), 0
    curves: dict[str, list[float]] = {}
    while place < len(text.rstrip()):
        try:
            found, place = decoder.raw_decode(text, len(text) - len(text[place:].lstrip()))
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{file}, line {error.lineno}, column {error.colno}: not valid JSON: {error.msg}. Is the file complete?"
            ) from None
        if not isinstance(found, dict):
            raise ValueError(f"{file}: expected an object of clip names and lists, found {type(found).__name__}.")
        curves |= found
    for name, values in curves.items():
        if not isinstance(values, list) or not all(type(value) in (float, int) for value in values):
            raise ValueError(f"{file}: expected a list of numbers for clip {name!r}, found {str(values)[:60]}.")
    if not curves:
        raise ValueError(f"{file}: holds no clip.")
    return curves


def _json_format(file: Path, curves: Mapping[str, list[float]]) -> Literal["differences", "cumulated"]:
    """Which of the two formats a file has. One value, or none, or NaN tells nothing."""
    telling = {name: np.array(values) for name, values in curves.items() if len(values) > 1}
    looks = {
        name: bool(
            np.all(np.diff(values, prepend=0.0) >= -_ROUNDING) and abs(values[-1] - 1) <= _CUMULATED_END_TOLERANCE
        )
        for name, values in telling.items()
        if np.isfinite(values).all()
    }
    if looks and all(looks.values()):
        return "cumulated"
    if any(looks.values()):
        one, other = (next(name for name, look in looks.items() if look is wanted) for wanted in (True, False))
        raise ValueError(
            f"{file}: {sum(looks.values())} of {len(looks)} curves look cumulated (they never fall and end at 1, such "
            f"as {one!r}), the others do not (such as {other!r}). Say which it is with --format differences or "
            "--format cumulated, or split the file."
        )
    return "differences"


def _paths_by_name(paths: Sequence[str], source: Path) -> dict[str, str]:
    """Paths by the released code's clip names."""
    by_name: dict[str, str] = {}
    for path in paths:
        name = PurePosixPath(path).name.split(".")[0]
        if name in by_name:
            raise ValueError(
                f"{source}: {by_name[name]!r} and {path!r} are both clip {name!r} in the released code's JSON, which "
                "tells clips by their file's name up to the first dot. Rename one, or use lists that hold one of them."
            )
        by_name[name] = path
    return by_name


def _imported_row(job: _Job, path: str, curve: list[float], *, cumulated: bool, source: Path) -> dict[str, Any]:
    clips, row = job.clips, _empty_row(path)
    if not is_utf8(path):
        return row | {"error": _not_utf8(path)}
    values = np.array(curve, np.float64)
    if cumulated:
        values = np.diff(values, prepend=0.0)
    if not np.isfinite(values).all() or (values < -_ROUNDING).any():
        return row | {
            "error": f"{path}: its curve in {source} has values that are negative or not finite. Measure it anew."
        }
    values = np.maximum(values, 0)
    motion = (values**2 if cumulated else values).astype(np.float32)
    row |= {"num_frames": len(motion) + 1, "motion": motion}
    if not (clips.root / path).exists():
        if not curve:
            # the released scripts leave nothing for a video that they could not decode
            return _empty_row(path) | {"error": f"{path}: has no values in {source}. Measure it anew."}
        return row
    try:
        video = job.video(path)
        stamp, found = video.stamp(), video_facts(video)
    except ValueError as error:
        return _empty_row(path) | {"error": str(error)}
    facts = stamp._asdict() | _columns(found)
    if facts["num_frames"] != len(motion) + 1:
        found_by, another = ("folder has", "video") if clips.are_folders else ("file shows", "file")
        return _empty_row(path) | {
            "error": f"{path}: {source} has {len(motion)} values, for {len(motion) + 1} frames; the {found_by} "
            f"{facts['num_frames']}. It was decoded in another way or is another {another}. Measure it anew."
        }
    return row | facts
