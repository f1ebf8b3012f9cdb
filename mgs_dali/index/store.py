"""The store of motion curves: measured once for all videos of a list, kept in Parquet, read by every loader.

An index is a folder of ``part-NNNNNN.parquet`` files; ``docs/motion.md`` tells their columns. A part is written in one
piece, so that whatever is there is whole. A row of a later part replaces those of earlier ones for the same path.
"""

from __future__ import annotations

import bisect
import fcntl
import json
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..files import write_whole
from ..lists.table import Clips
from ..lists.text import escaped

__all__ = [
    "FORMAT_VERSION",
    "SCHEMA",
    "Entry",
    "Known",
    "MotionIndex",
    "NotIndexed",
    "Writer",
    "empty_row",
    "known_rows",
    "locked",
    "part_files",
    "words",
]

FORMAT_VERSION = 1

_METADATA_KEY = b"mgs_dali.motion_index"
_PART_PATTERN = re.compile(r"part-(\d{6,})\.parquet")
SCHEMA = pa.schema(
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
        mtime_ns: when it was last changed, nanoseconds since 1970, see :class:`mgs_dali.decode.reading.Stamp`; None
            likewise.
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


def _read_parts(folder: Path, *, columns: Sequence[str] | None) -> list[_Part]:
    """Read all parts of an index in the order that they were written; none of a folder that is not there."""
    files = part_files(folder)
    with ThreadPoolExecutor(min(8, (os.cpu_count() or 1) * 2)) as pool:
        parts = list(pool.map(lambda file: _read_part(file, columns), files))
    for part in parts[1:]:
        if part.identity != parts[0].identity:
            raise ValueError(
                f"{folder}: its parts do not belong together: {parts[0].file.name} holds {words(parts[0].identity)}, "
                f"{part.file.name} {words(part.identity)}. Move one of the two measures into another folder."
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


def part_files(folder: Path) -> list[Path]:
    """The files of an index's parts, in the order that they were written."""
    if not folder.is_dir():
        return []
    numbered = [(int(match[1]), file) for file in folder.iterdir() if (match := _PART_PATTERN.fullmatch(file.name))]
    return [file for _, file in sorted(numbered)]


def _no_index(folder: Path) -> str:
    return "there is no motion index in this folder." if folder.is_dir() else "there is no such folder."


def words(identity: Mapping[str, Any]) -> str:
    """A measure and its parameters, as messages call them."""
    parameters = ", ".join(f"{name}={value}" for name, value in identity["parameters"].items())
    return f"measure {identity['measure']}" + (f" ({parameters})" if parameters else "")


# --- writing --------------------------------------------------------------------------------------------------------


class Known(NamedTuple):
    """What decides whether a video is measured again: the stamp of what was measured, and what was wrong with it."""

    size_bytes: int | None
    mtime_ns: int | None
    error: str | None


def known_rows(folder: Path, identity: Mapping[str, Any]) -> dict[str, Known]:
    """What an index that is to be continued holds already."""
    parts = _read_parts(folder, columns=["path", "size_bytes", "mtime_ns", "error"])
    if parts and parts[0].identity != identity:
        raise ValueError(
            f"{folder} holds curves of {words(parts[0].identity)}, asked for {words(identity)}. An index has one "
            "measure: give another --out, or ask for the measure that is there."
        )
    known: dict[str, Known] = {}
    for part in parts:
        columns = [part.table.column(name).to_pylist() for name in ("path", "size_bytes", "mtime_ns", "error")]
        for path, *values in zip(*columns, strict=True):
            known[path] = Known(*values)
    return known


def empty_row(path: str) -> dict[str, Any]:
    """A row in which all but the path is missing yet."""
    return {**dict.fromkeys(SCHEMA.names), "path": path}


class Writer:
    """Collects rows and writes them as parts. One process at a time: it holds the folder's lock."""

    def __init__(self, folder: Path, identity: Mapping[str, Any], *, part_num_videos: int, part_seconds: float) -> None:
        self.folder = folder
        self._part_num_videos, self._part_seconds = part_num_videos, part_seconds
        self._schema = SCHEMA.with_metadata({_METADATA_KEY: json.dumps({"version": FORMAT_VERSION, **identity})})
        self._rows: list[dict[str, Any]] = []
        self._first_row_seconds = 0.0
        files = part_files(folder)
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
                f"{part}: could not be written ({error.strerror}). The {len(part_files(self.folder))} parts before it "
                "are complete. Make room, then run the same command again: it goes on from there."
            ) from error
        self._next_number += 1
        self._rows.clear()


@contextmanager
def locked(folder: Path, *, wait_seconds: float = 0.0) -> Iterator[None]:
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
