"""Seed videos, and damage to them as a function of numbers."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from hard_videos import FRAGMENTS, VP9_HIDDEN, Row, kind_of_vop, rows_of, simple, write_rows

NUM_FRAMES = 40

SEEDS: dict[str, Callable[[Path], Path]] = {
    "h264-faststart.mp4": lambda file: simple(file, "h264", muxing={"movflags": "faststart"}),
    "h264-long.mp4": lambda file: simple(file, "h264", gop=250, b_frames=3),
    "h264-fragments.mp4": lambda file: simple(file, "h264", muxing=FRAGMENTS),
    "h264.mkv": lambda file: simple(file, "h264", muxing={"cluster_time_limit": "300"}),
    "h264.ts": lambda file: simple(file, "h264"),
    "mpeg4.avi": lambda file: simple(file, "mpeg4"),
    "vp8.webm": lambda file: simple(file, "vp8"),
    "vp9-hidden.webm": lambda file: simple(file, "vp9", gop=128, options=VP9_HIDDEN),
    "hevc.mp4": lambda file: simple(file, "hevc"),
    "hevc.mkv": lambda file: simple(file, "hevc"),
    "mjpeg.avi": lambda file: simple(file, "mjpeg"),
    "av1.mp4": lambda file: simple(file, "av1"),
}


@dataclass(frozen=True)
class Mutation:
    """A damaged file."""

    seed: str
    kind: str
    details: str
    content: bytes
    numbers: tuple[int, ...]
    """Which frames of the seed belong into the file, as far as its packets tell."""


def make_seeds(folder: Path) -> None:
    """Write the seed videos, those that are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in SEEDS.items():
        if not (folder / name).exists():
            make(folder / name)


def pair(number: int) -> tuple[str, str]:
    """The seed and the kind of damage of a number: each pair once in 180 files, and each seed and kind soon."""
    return list(SEEDS)[number % len(SEEDS)], list(KINDS)[(number + number // 60) % len(KINDS)]


def mutate(folder: Path, seed: int, number: int) -> Mutation:
    """The damaged file of this number."""
    name, kind = pair(number)
    rng = np.random.default_rng([seed, number])
    content, details, numbers = KINDS[kind](folder / name, rng)
    return Mutation(name, kind, details, content, tuple(numbers))


# --- bytes ------------------------------------------------------------------------------------------------------------

Made = tuple[bytes, str, Sequence[int]]
_ALL = range(NUM_FRAMES)


def _cut(file: Path, rng: np.random.Generator) -> Made:
    content = file.read_bytes()
    end = int(rng.integers(len(content) // 20, len(content)))
    return content[:end], f"{end} of {len(content)} bytes", _ALL


def _bits(file: Path, rng: np.random.Generator) -> Made:
    content = bytearray(file.read_bytes())
    places = rng.integers(0, len(content), int(rng.choice([1, 1, 3, 20]))).tolist()
    for place in places:
        content[place] ^= 1 << int(rng.integers(8))
    return bytes(content), f"bits at {places}", _ALL


def _stretch(rng: np.random.Generator, size: int) -> tuple[int, int]:
    length = int(rng.choice([4, 32, 200, 1000, 4000]))
    start = int(rng.integers(0, max(1, size - length)))
    return start, min(size, start + length)


def _zeros(file: Path, rng: np.random.Generator) -> Made:
    content = bytearray(file.read_bytes())
    start, end = _stretch(rng, len(content))
    content[start:end] = bytes(end - start)
    return bytes(content), f"zeros from {start} to {end}", _ALL


def _junk(file: Path, rng: np.random.Generator) -> Made:
    content = bytearray(file.read_bytes())
    start, end = _stretch(rng, len(content))
    content[start:end] = rng.bytes(end - start)
    return bytes(content), f"junk from {start} to {end}", _ALL


def _inserted(file: Path, rng: np.random.Generator) -> Made:
    content = file.read_bytes()
    start, end = _stretch(rng, len(content))
    return content[:start] + rng.bytes(end - start) + content[start:], f"{end - start} bytes inserted at {start}", _ALL


def _taken_out(file: Path, rng: np.random.Generator) -> Made:
    content = file.read_bytes()
    start, end = _stretch(rng, len(content))
    return content[:start] + content[end:], f"bytes {start} to {end} taken out", _ALL


# --- packets ----------------------------------------------------------------------------------------------------------


def numbers_of_packets(rows: Sequence[Row], *, is_mpeg4: bool) -> list[int]:
    """The number of the frame that each packet shows."""
    if is_mpeg4:  # AVI does not say when: B-pictures are shown before the picture that they follow
        order: list[int] = []
        waiting: int | None = None
        for place, row in enumerate(rows):
            if kind_of_vop(row.content) == 2:
                order.append(place)
                continue
            order += [] if waiting is None else [waiting]
            waiting = place
        order += [] if waiting is None else [waiting]
        return [order.index(place) for place in range(len(rows))]
    times = [row.pts if row.pts is not None else place for place, row in enumerate(rows)]
    return [sorted(times).index(time) for time in times]


def _written(file: Path, rows: Sequence[Row], numbers: Sequence[int], details: str) -> Made:
    formats = {".mp4": "mp4", ".mkv": "matroska", ".webm": "webm", ".avi": "avi", ".ts": "mpegts"}
    target = io.BytesIO()
    muxing = FRAGMENTS if "fragments" in file.name else {}
    write_rows(target, file, rows, container_format=formats[file.suffix], muxing=muxing)
    return target.getvalue(), details, numbers


def _packets(file: Path) -> tuple[list[Row], list[int]]:
    rows = rows_of(file)
    return rows, numbers_of_packets(rows, is_mpeg4=file.name.startswith("mpeg4"))


def _removed(file: Path, rng: np.random.Generator) -> Made:
    rows, numbers = _packets(file)
    start, count = int(rng.integers(1, len(rows) - 1)), int(rng.choice([1, 1, 2, 6]))
    gone = numbers[start : start + count]
    left = [number for number in _ALL if number not in gone]
    return _written(file, rows[:start] + rows[start + count :], left, f"without packets {start} to {start + count - 1}")


def _key_removed(file: Path, rng: np.random.Generator) -> Made:
    rows, numbers = _packets(file)
    keys = [place for place, row in enumerate(rows) if row.is_keyframe]
    place = keys[int(rng.integers(len(keys)))]
    left = [number for number in _ALL if number != numbers[place]]
    return _written(file, rows[:place] + rows[place + 1 :], left, f"without keyframe packet {place}")


def _swapped(file: Path, rng: np.random.Generator) -> Made:
    rows, _ = _packets(file)
    a, b = (int(place) for place in rng.choice(len(rows), 2, replace=False))
    rows[a], rows[b] = rows[a]._replace(content=rows[b].content), rows[b]._replace(content=rows[a].content)
    return _written(file, rows, _ALL, f"contents of packets {a} and {b} swapped")


def _repeated(file: Path, rng: np.random.Generator) -> Made:
    rows, _ = _packets(file)
    a, b = sorted(int(place) for place in rng.choice(len(rows), 2, replace=False))
    rows[b] = rows[b]._replace(content=rows[a].content)
    return _written(file, rows, _ALL, f"packet {b} holds the content of packet {a}")


def _halved(file: Path, rng: np.random.Generator) -> Made:
    rows, _ = _packets(file)
    place = int(rng.integers(len(rows)))
    content = rows[place].content
    rows[place] = rows[place]._replace(content=content[: max(1, int(len(content) * rng.random()))])
    return _written(file, rows, _ALL, f"packet {place} ends after {len(rows[place].content)} of {len(content)} bytes")


def _emptied(file: Path, rng: np.random.Generator) -> Made:
    rows, _ = _packets(file)
    place = int(rng.integers(len(rows)))
    rows[place] = rows[place]._replace(content=bytes(len(rows[place].content)))
    return _written(file, rows, _ALL, f"packet {place} is zeros")


# --- headers ----------------------------------------------------------------------------------------------------------

# Names of boxes, chunks and elements behind which numbers lie.
_FIELDS: dict[str, tuple[bytes, ...]] = {
    ".mp4": (
        *(b"mvhd", b"tkhd", b"mdhd", b"elst", b"stsd", b"stts", b"ctts", b"stsc", b"stsz", b"stco", b"stss"),
        *(b"avc1", b"avcC", b"hev1", b"hvc1", b"hvcC", b"av01", b"av1C", b"moof", b"mfhd", b"tfhd", b"tfdt", b"trun"),
        *(b"trex", b"moov", b"trak", b"mdat", b"mfro", b"tfra"),
    ),
    ".avi": (b"avih", b"strh", b"strf", b"movi", b"idx1", b"RIFF", b"LIST", b"00dc"),
    # duration, scale of times, width, height, cluster, block, track, duration of a frame, segment, time, cues
    ".mkv": tuple(
        bytes.fromhex(name)
        for name in (
            "4489",
            "2ad7b1",
            "b0",
            "ba",
            "1f43b675",
            "a3",
            "ae",
            "23e383",
            "18538067",
            "e7",
            "1c53bb6b",
            "63a2",
        )
    ),
    ".ts": (b"\x47\x40\x00", b"\x47\x50\x00", b"\x47\x41\x00", b"\x47\x01\x00", b"\x00\x00\x01\xe0"),
}
_VALUES = (0, 1, 7, 20, 80, 2**15, 2**16 + 1, 30000 << 16 | 30000, 2**31 - 1, 2**32 - 1)


def _lie(file: Path, rng: np.random.Generator) -> Made:
    content = bytearray(file.read_bytes())
    marks = [mark for mark in _FIELDS[".mkv" if file.suffix == ".webm" else file.suffix] if mark in content]
    mark = marks[int(rng.integers(len(marks)))]
    places: list[int] = []
    place = content.find(mark)
    while place >= 0 and len(places) < 200:
        places.append(place)
        place = content.find(mark, place + 1)
    place = places[int(rng.integers(len(places)))]
    if file.suffix in (".mkv", ".webm", ".ts"):  # numbers of one to four bytes, the element's size first
        at = place + len(mark) + int(rng.integers(0, 4))
        new = rng.bytes(int(rng.integers(1, 4)))
    else:
        at = place - 4 if rng.random() < 0.15 else place + 4 + 4 * int(rng.integers(0, 12))  # its size, or a field
        value = int(rng.choice(_VALUES))
        new = struct.pack("<I" if file.suffix == ".avi" else ">I", value)
        if rng.random() < 0.3 and 0 <= at < len(content) - 4:  # half or twice of what is there
            order = "<I" if file.suffix == ".avi" else ">I"
            (there,) = struct.unpack_from(order, content, at)
            new = struct.pack(order, there * 2 % 2**32 if rng.random() < 0.5 else there // 2)
    at = max(0, min(at, len(content) - len(new)))
    content[at : at + len(new)] = new
    return bytes(content), f"{new.hex()} at {at}, behind {mark!r}", _ALL


KINDS: dict[str, Callable[[Path, np.random.Generator], Made]] = {
    "cut": _cut,
    "bits": _bits,
    "zeros": _zeros,
    "junk": _junk,
    "header lies": _lie,
    "packets removed": _removed,
    "inserted": _inserted,
    "packet halved": _halved,
    "packet zeroed": _emptied,
    "packets swapped": _swapped,
    "taken out": _taken_out,
    "keyframe removed": _key_removed,
    "packet repeated": _repeated,
    "more header lies": _lie,
    "more bits": _bits,
}
