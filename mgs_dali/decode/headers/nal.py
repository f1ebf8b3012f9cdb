"""What H.264 and HEVC have in common: NAL units, messages, picture order count."""

from __future__ import annotations

from collections.abc import Iterator

from .reader import Bits, Damage, Data, Doubt


def nal_units(data: Data, length_size: int) -> Iterator[Data]:
    """The NAL units of a packet: each after its length, or between start codes (Annex B) where ``length_size`` is 0."""
    place, size = 0, len(data)
    if length_size:
        while place < size:
            start = place + length_size
            if start > size or (place == 0 and data[:4] == b"\0\0\0\1" and length_size == 4):
                raise Doubt("a packet's NAL units are not separated as the container says")
            place = start + int.from_bytes(data[place:start], "big")
            if not start < place <= size:
                raise Damage("a packet's NAL units are not where their lengths say")
            yield data[start:place]
        return
    data = bytes(data)
    place = data.find(b"\0\0\1")
    while place >= 0:
        following = data.find(b"\0\0\1", place + 3)
        if unit := data[place + 3 : following if following >= 0 else None].rstrip(b"\0"):
            yield unit
        place = following


def payload(unit: Data, *, header_bytes: int, num_bytes: int | None = None) -> bytes:
    """The bytes of a NAL unit after its header, all or the first few of them."""
    # 7.3.1: a 3 after two zeros only keeps start codes from arising.
    return bytes(unit[header_bytes : num_bytes and header_bytes + num_bytes]).replace(b"\0\0\3", b"\0\0")


def messages(unit: Data, *, header_bytes: int) -> Iterator[tuple[int, bytes]]:
    """(type, content) of the messages in an SEI unit (H.264, clause 7.3.2.3.1)."""
    data = payload(unit, header_bytes=header_bytes)
    place = 0
    while place + 2 < len(data):
        numbers = []
        for _ in range(2):
            number = 0
            while place < len(data) and data[place] == 255:
                number, place = number + 255, place + 1
            if place >= len(data):
                return
            numbers.append(number + data[place])
            place += 1
        yield numbers[0], data[place : place + numbers[1]]
        place += numbers[1]


def _is_turned(content: bytes) -> bool:
    """Whether a display orientation message (H.264, clause D.1.27) asks for a flip or a rotation."""
    bits = Bits(content)
    return not bits(1) and bool(bits(18))


_FILM_GRAIN, _ORIENTATION = 19, 47


def check_message(message: int, content: bytes, *, codec: str) -> None:
    """Messages that change how pictures look."""
    if message == _FILM_GRAIN:
        raise Doubt(f"{codec} with film grain")
    if message == _ORIENTATION and _is_turned(content):
        raise Doubt(f"{codec} with a display orientation")


_PERIOD = 1 << 33


class OrderCount:
    """Picture order count from its low bits (H.264 clause 8.2.1.1, HEVC clause 8.3.1), unique over the stream."""

    def __init__(self) -> None:
        self._period = 0
        self._previous = 0

    def __call__(self, low: int, *, num_bits: int, restarts: bool, is_anchor: bool) -> int:
        if restarts:
            self._period, self._previous = self._period + 1, 0
        size = 1 << num_bits
        count = self._previous - self._previous % size + low
        if self._previous - count >= size // 2:
            count += size
        elif count - self._previous > size // 2:
            count -= size
        if is_anchor:
            self._previous = count
        return self._period * _PERIOD + count
