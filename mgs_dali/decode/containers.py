"""What a container tells of its video before any packet is read: how it is turned, and where the file should end.

FFmpeg reads as much of a file as there is and says nothing of what is missing. The sizes that MP4 boxes, Matroska
elements and AVI chunks name are promises, and a file that ends before them is cut off.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

__all__ = ["UPRIGHT", "Facts", "Turn", "read_facts", "turn_of_matrix"]


class Turn(NamedTuple):
    """How a stored picture becomes an upright one, in this order; the eight of them are all lossless turns."""

    transpose: bool
    """Rows become columns."""
    mirror: bool
    """Left and right change places."""
    flip: bool
    """Top and bottom change places."""

    def size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) of the upright picture; or of the stored one, given those of the upright one."""
        return (height, width) if self.transpose else (width, height)

    def box(self, x: int, y: int, width: int, height: int, *, of: tuple[int, int]) -> tuple[int, int, int, int]:
        """The part of the stored picture that is a box of the upright one.

        Args:
            x, y, width, height: of the box, in pixels of the upright picture.
            of: (width, height) of the upright picture.
        """
        if self.mirror:
            x = of[0] - x - width
        if self.flip:
            y = of[1] - y - height
        return (y, x, height, width) if self.transpose else (x, y, width, height)

    def apply(self, picture: np.ndarray) -> np.ndarray:
        """Turn a picture upright: (H, W, ...) or its transpose, a view."""
        if self.transpose:
            picture = picture.swapaxes(0, 1)
        return picture[:: -1 if self.flip else 1, :: -1 if self.mirror else 1]


UPRIGHT = Turn(False, False, False)


def turn_of_matrix(matrix: bytes | Sequence[int]) -> Turn:
    """The turn that a display matrix stands for (ISO/IEC 14496-12, clause 8.3.2).

    Args:
        matrix: nine numbers a, b, u, c, d, v, x, y, w, or their bytes as FFmpeg has them: the point (p, q) of the
            stored picture is shown at (a p + c q + x, b p + d q + y). Its scale does not matter.

    Raises:
        ValueError: it is none of the eight; the message says what was found.
    """
    a, b, _, c, d, *_ = struct.unpack("=9i", matrix) if isinstance(matrix, bytes) else matrix
    straight, crossed = min(abs(a), abs(d)), min(abs(b), abs(c))
    if max(abs(a), abs(d), abs(b), abs(c)) == 0:
        return UPRIGHT  # says nothing
    tolerance = 0.02
    if max(abs(b), abs(c)) <= tolerance * straight:
        return Turn(False, a < 0, d < 0)
    if max(abs(a), abs(d)) <= tolerance * crossed:
        return Turn(True, c < 0, b < 0)
    degrees = np.degrees(np.arctan2(b, a))
    raise ValueError(f"it is to be shown turned by {degrees:.0f} degrees; only quarter turns and mirrored pictures are")


@dataclass
class Facts:
    """What a container tells."""

    turns: dict[int, Sequence[int]] = field(default_factory=dict)
    """The display matrix by track: the number of an MP4 track, the place of a Matroska video track among those."""
    damage: str = ""
    """Why the file is not whole; empty where nothing says so."""
    is_proved_whole: bool = True
    """Something in the file tells where it ends, and it ends there. Not so of live recordings."""
    fragments: list[tuple[int, int]] = field(default_factory=list)
    """(place in the file, sequence number) of an MP4's fragments."""
    duration_seconds: float | None = None
    """What the header promises, where the file does not tell where it ends."""


def read_facts(file: Path | bytes, *, format_name: str) -> Facts:
    """Read what a container tells, as far as its format is known here: MP4 and its like, Matroska and WebM, AVI.

    Args:
        file: path of the video, or the bytes of the whole file.
        format_name: FFmpeg's name of the format.
    """
    readers = {"mov": _read_mp4, "matroska": _read_matroska, "avi": _read_avi}
    reader = readers.get(format_name.split(",")[0])
    if reader is None:
        return Facts(is_proved_whole=format_name == "image2")
    with open(file, "rb") if isinstance(file, Path) else io.BytesIO(file) as source:
        size = source.seek(0, io.SEEK_END)
        try:
            return reader(source, size)
        except (struct.error, IndexError):
            return Facts(is_proved_whole=False)


# --- MP4, MOV and their like (ISO/IEC 14496-12) ---------------------------------------------------------------------


def _boxes(source: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(type, place of the content, end) of the boxes in a stretch of a file. The last one may end beyond it."""
    place = start
    while place + 8 <= end:
        source.seek(place)
        header = source.read(16)
        size, kind, content = int.from_bytes(header[:4], "big"), header[4:8], place + 8
        if size == 1:
            size, content = int.from_bytes(header[8:16], "big"), place + 16
        elif size == 0:
            size = end - place
        if size < 8:
            return
        yield kind, content, place + size
        place += size


def _find(source: BinaryIO, start: int, end: int, kind: bytes) -> tuple[int, int] | None:
    """(place, end) of the content of the first box of a type."""
    return next(((content, stop) for found, content, stop in _boxes(source, start, end) if found == kind), None)


def _read_mp4(source: BinaryIO, size: int) -> Facts:
    facts = Facts()
    promised_end, is_fragmented, ends_told = 0, False, False
    tracks = set[int]()
    for kind, content, end in _boxes(source, 0, size):
        if kind == b"moov":
            is_fragmented |= _read_moov(source, content, min(end, size), facts, tracks)
        elif kind == b"moof":
            is_fragmented = True
            if end <= size:
                facts.fragments.append((content - 8, _read_fragment(source, content, end, facts, tracks)))
        elif kind == b"sidx":
            source.seek(content)
            promised_end, ends_told = max(promised_end, _end_of_segments(source.read(end - content), end)), True
        elif kind == b"mfra":
            ends_told = True
        if is_fragmented and not all(32 <= letter < 127 or letter == 0xA9 for letter in kind):
            facts.damage = f"no box begins at byte {content - 8}, where the one before it ends"
            break
        if is_fragmented and end > size:
            facts.damage = f"its box {kind.decode('latin1')!r} ends at byte {end}, the file at byte {size}"
            break
    if promised_end > size and not facts.damage:
        facts.damage = f"its segments end at byte {promised_end}, the file at byte {size}"
    facts.is_proved_whole = not is_fragmented or ends_told or facts.duration_seconds is not None
    return facts


def _read_fragment(source: BinaryIO, start: int, end: int, facts: Facts, tracks: set[int]) -> int:
    """Check a fragment's own boxes, which FFmpeg passes over where it cannot read them; gives its number."""
    number, place = 0, start
    for kind, content, stop in _boxes(source, start, end):
        place = stop
        if kind == b"mfhd":
            source.seek(content + 4)
            number = int.from_bytes(source.read(4), "big")
        elif kind == b"traf":
            parts = {part: begin for part, begin, _ in _boxes(source, content, stop)}
            source.seek(parts.get(b"tfhd", content))
            header = source.read(8)
            is_empty = header[1] & 1 == 1  # duration-is-empty
            track = int.from_bytes(header[4:8], "big")
            if b"tfhd" not in parts or track not in tracks or (b"trun" not in parts and not is_empty):
                facts.damage = facts.damage or f"the fragment at byte {start - 8} does not tell its frames"
        elif kind not in _IN_FRAGMENTS:
            facts.damage = facts.damage or f"the fragment at byte {start - 8} has a part that is none ({kind!r})"
    if place != end or not number:
        facts.damage = facts.damage or f"the fragment at byte {start - 8} is not what its size says"
    return number


_IN_FRAGMENTS = (b"pssh", b"meta", b"udta", b"free", b"skip", b"uuid")


def _read_moov(source: BinaryIO, start: int, end: int, facts: Facts, numbers: set[int]) -> bool:
    """Note tracks and how they are turned; gives whether fragments are to follow."""
    movie, timescale, is_fragmented = _IDENTITY, 1, False
    tracks: dict[int, Sequence[int]] = {}
    for kind, content, stop in _boxes(source, start, end):
        if kind == b"mvhd":
            source.seek(content)
            header = source.read(stop - content)
            timescale = int.from_bytes(header[20:24] if header[0] == 1 else header[12:16], "big")
            movie = struct.unpack(">9i", header[48:84] if header[0] == 1 else header[36:72])
        elif kind == b"trak" and (found := _find(source, content, stop, b"tkhd")):
            source.seek(found[0])
            header = source.read(found[1] - found[0])
            late = 12 if header[0] == 1 else 0  # its times have 64 bits
            number = int.from_bytes(header[12 + late // 3 * 2 : 16 + late // 3 * 2], "big")
            tracks[number] = struct.unpack(">9i", header[40 + late : 76 + late])
        elif kind == b"mvex":
            is_fragmented = True
            if found := _find(source, content, stop, b"mehd"):
                source.seek(found[0])
                header = source.read(12)
                duration = int.from_bytes(header[4:12] if header[0] == 1 else header[4:8], "big")
                facts.duration_seconds = duration / timescale if timescale else None
    numbers.update(tracks)
    for number, matrix in tracks.items():
        turned = _product(matrix, movie)
        if turned[:5] != _IDENTITY[:5]:
            facts.turns[number] = turned
    return is_fragmented


_IDENTITY: Sequence[int] = (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)


def _product(track: Sequence[int], movie: Sequence[int]) -> Sequence[int]:
    """Both matrices one after the other: the track's, then the movie's."""
    shifts = (16, 16, 30)
    return [
        sum(track[3 * row + inner] * movie[3 * inner + column] >> shifts[inner] for inner in range(3))
        for row in range(3)
        for column in range(3)
    ]


def _end_of_segments(index: bytes, end_of_box: int) -> int:
    """Where the segments that a segment index (sidx, clause 8.16.3) lists end in the file."""
    late = 8 if index[0] == 1 else 0
    first = int.from_bytes(index[16 + late // 2 : 20 + late] if late else index[16:20], "big")
    (count,) = struct.unpack(">H", index[22 + late : 24 + late])
    rows = index[24 + late : 24 + late + 12 * count]
    sizes = [int.from_bytes(rows[place : place + 4], "big") & 0x7FFFFFFF for place in range(0, len(rows), 12)]
    return end_of_box + first + sum(sizes)


# --- Matroska and WebM (RFC 9559) -----------------------------------------------------------------------------------

_SEGMENT, _INFO, _TRACKS, _CLUSTER = 0x18538067, 0x1549A966, 0x1654AE6B, 0x1F43B675
_SCALE, _DURATION = 0x2AD7B1, 0x4489
_TRACK, _TRACK_TYPE, _VIDEO, _PROJECTION = 0xAE, 0x83, 0xE0, 0x7670
_PROJECTION_TYPE, _YAW, _PITCH, _ROLL = 0x7671, 0x7673, 0x7674, 0x7675
_MAX_HEAD_BYTES = 1 << 20


def _elements(source: BinaryIO, start: int, end: int) -> Iterator[tuple[int, int, int | None]]:
    """(identifier, place of the content, size or None where it is not told) of elements in a stretch of a file."""
    place = start
    while place < end:
        source.seek(place)
        header = source.read(12)
        if not header or header[0] == 0:
            return
        id_bytes = 9 - header[0].bit_length()
        size_bytes = 9 - header[id_bytes].bit_length()
        if id_bytes > 4 or size_bytes > 8:
            return
        number = int.from_bytes(header[id_bytes : id_bytes + size_bytes], "big")
        limit = (1 << 7 * size_bytes) - 1
        size = None if number & limit == limit else number & limit
        content = place + id_bytes + size_bytes
        yield int.from_bytes(header[:id_bytes], "big"), content, size
        if size is None:
            return
        place = content + size


def _read_matroska(source: BinaryIO, size: int) -> Facts:
    facts = Facts(is_proved_whole=False)
    for kind, content, length in _elements(source, 0, size):
        if kind != _SEGMENT:
            continue
        if length is not None:
            facts.is_proved_whole = True
            if content + length > size:
                facts.damage = f"its segment ends at byte {content + length}, the file at byte {size}"
        for part, place, part_length in _elements(source, content, min(size, content + _MAX_HEAD_BYTES)):
            if part == _CLUSTER or part_length is None:
                break
            if part == _INFO:
                values = _values(source, place, part_length)
                if not facts.is_proved_whole and _DURATION in values:
                    scale = int.from_bytes(values.get(_SCALE, b"\x0f\x42\x40"), "big")
                    facts.duration_seconds = _float(values[_DURATION]) * scale / 1e9
            elif part == _TRACKS:
                _read_tracks(source, place, part_length, facts)
        break
    return facts


def _values(source: BinaryIO, start: int, length: int) -> dict[int, bytes]:
    found = {}
    for kind, place, size in _elements(source, start, start + length):
        if size is not None:
            source.seek(place)
            found[kind] = source.read(size)
    return found


def _float(content: bytes) -> float:
    return float(struct.unpack(">f" if len(content) == 4 else ">d", content)[0]) if content else 0.0


def _read_tracks(source: BinaryIO, start: int, length: int, facts: Facts) -> None:
    number = 0
    for kind, place, size in _elements(source, start, start + length):
        if kind != _TRACK or size is None:
            continue
        track = _values(source, place, size)
        if track.get(_TRACK_TYPE) != b"\1":
            continue
        video = _values(io.BytesIO(track.get(_VIDEO, b"")), 0, len(track.get(_VIDEO, b"")))
        projection = video.get(_PROJECTION)
        if projection is not None:
            pose = _values(io.BytesIO(projection), 0, len(projection))
            yaw, pitch, roll = (_float(pose.get(axis, b"")) for axis in (_YAW, _PITCH, _ROLL))
            # As FFmpeg takes them: flat pictures only, rolled, and mirrored by a yaw of half a turn.
            if int.from_bytes(pose.get(_PROJECTION_TYPE, b""), "big") == 0 and pitch == 0 and yaw in (0, 180, -180):
                facts.turns[number] = _rolled(roll, mirrored=yaw != 0)
        number += 1


def _rolled(degrees: float, *, mirrored: bool) -> Sequence[int]:
    """A display matrix that turns counter-clockwise, and then mirrors left and right."""
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    columns = np.array([[cosine, -sine], [sine, cosine]]) * (1 << 16)
    if mirrored:
        columns[:, 0] *= -1
    (a, b), (c, d) = np.rint(columns).astype(int).tolist()
    return (a, b, 0, c, d, 0, 0, 0, 1 << 30)


# --- AVI --------------------------------------------------------------------------------------------------------------


def _read_avi(source: BinaryIO, size: int) -> Facts:
    """Chunks of a RIFF file: each with its size; a file that was never finished has 0 or all ones there."""
    facts = Facts(is_proved_whole=False)
    place = 0
    while place + 12 <= size:
        source.seek(place)
        kind, length, _ = struct.unpack("<4sI4s", source.read(12))
        if kind != b"RIFF" or length in (0, 0xFFFFFFFF):
            break
        facts.is_proved_whole = True
        end = place + 8 + length
        if end > size + 1:  # a last chunk of odd size may lack its byte of padding
            facts.damage = f"its RIFF chunk ends at byte {end}, the file at byte {size}"
            break
        if lost := _place_without_pictures(source, place + 12, end):
            facts.damage = f"no chunk begins at byte {lost}, where the one before it ends"
            break
        place = end + length % 2
    return facts


def _place_without_pictures(source: BinaryIO, place: int, end: int) -> int:
    """Where a RIFF's chunks stop to be some before the list of its pictures (movi); 0 if they do not.

    FFmpeg takes whatever follows for pictures then, and goes on from where it finds one.
    """
    while place + 12 <= end:
        source.seek(place)
        kind, length, name = struct.unpack("<4sI4s", source.read(12))
        if (kind, name) == (b"LIST", b"movi"):
            return 0
        if not all(32 <= letter < 127 for letter in kind):
            return place
        place += 8 + length + length % 2
    return place
