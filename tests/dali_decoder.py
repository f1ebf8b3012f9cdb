"""A model of DALI's GPU video decoder: which picture it gives as which frame. And frames that show their number.

``fn.decoders.video(device="mixed")`` asks NVDEC for every picture that is decoded, shown or not, in the order of
decoding. It gives each the time of the packet that it came with, keeps up to eight, and returns the earliest of those
that it has. It knows neither hidden pictures nor edit lists nor what the pictures themselves say about their order.
"""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

WIDTH, HEIGHT = 160, 120
_BAR = 8
_LEFT, _TOP, _BOTTOM = WIDTH // 2 - 4 * _BAR, HEIGHT // 2 - _BAR, HEIGHT // 2 + _BAR


# --- frames that show their number ------------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def numbered(number: int) -> np.ndarray:
    """A frame whose number, up to 255, any decoder's output can be asked for: eight bars, bit 0 on the left."""
    assert number < 256
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    image = np.stack([60 + x * 120 // WIDTH, 60 + y * 120 // HEIGHT, np.full_like(x, 90)], -1).astype(np.uint8)
    for bit in range(8):
        start = _LEFT + bit * _BAR
        image[_TOP:_BOTTOM, start : start + _BAR] = 235 if number >> bit & 1 else 20
    edge = number * 5 % (WIDTH - 20)
    image[HEIGHT - 30 : HEIGHT - 10, edge : edge + 20] = 200
    return image


def number_of(frame: VideoFrame) -> int:
    """The number that a frame shows."""
    luma = frame.reformat(format="gray", threads=1).to_ndarray()
    bars = luma[_TOP:_BOTTOM, _LEFT : _LEFT + 8 * _BAR].reshape(_BOTTOM - _TOP, 8, _BAR).mean((0, 2)) > 128
    return int(bars @ (1 << np.arange(8)))


def shown(file: bytes) -> list[int]:
    """The numbers of a file's frames, as a player shows them."""
    with av.open(io.BytesIO(file), "r") as container:
        return [number_of(frame) for frame in container.decode(video=0)]


# --- what NVDEC decodes -----------------------------------------------------------------------------------------------


class Packet(NamedTuple):
    """What DALI sends to NVDEC."""

    time: int | None
    numbers: list[int | None]
    """Of the pictures that are decoded, in their order; None where no number can be seen."""


@lru_cache(maxsize=2)
def decoded(file: bytes) -> tuple[list[Packet], int]:
    """A file's packets with every picture in them, and how many frames DALI takes the file to have."""
    with av.open(io.BytesIO(file), "r") as container:
        assert isinstance(container, InputContainer)
        stream = container.streams.video[0]
        packets = [(packet.pts, bytes(packet)) for packet in container.demux(stream) if packet.size]
        codec, extradata = stream.codec_context.codec.canonical_name, stream.codec_context.extradata
        num_frames = stream.frames or len(packets)
    decoder = av.CodecContext.create(codec, "r")
    assert isinstance(decoder, VideoCodecContext)
    decoder.extradata, decoder.thread_count = extradata, 1
    if codec == "vp9":
        numbers = [_vp9_numbers(decoder, content) for _, content in packets]
    elif codec == "vp8":  # bit 4 of the frame tag: it is shown
        numbers = [_numbers(decoder, bytes([content[0] | 0x10]) + content[1:]) for _, content in packets]
    else:
        by_row: dict[int, int] = {}
        for row, (_, content) in enumerate([*packets, (None, None)]):
            packet = None if content is None else padded_packet(content)
            if packet is not None:
                packet.pts = packet.dts = row  # which a decoder hands on to the packet's picture
            for frame in decoder.decode(packet):
                assert frame.pts is not None
                by_row[frame.pts] = number_of(frame)
        numbers = [[by_row.get(row)] for row in range(len(packets))]
    return [Packet(time, found) for (time, _), found in zip(packets, numbers, strict=True)], num_frames


def padded_packet(content: bytes) -> av.Packet:
    """A packet with zeros behind it, where FFmpeg reads on: `av.Packet(content)` has whatever memory holds there."""
    packet = av.Packet(len(content))
    packet.update(content)
    return packet


def _numbers(decoder: VideoCodecContext, content: bytes) -> list[int | None]:
    return [number_of(frame) for frame in decoder.decode(padded_packet(content))]


def _vp9_numbers(decoder: VideoCodecContext, content: bytes) -> list[int | None]:
    """A hidden frame is asked for by a packet that shows it again, from a slot where it is kept."""
    numbers = list[int | None]()
    for frame in _vp9_frames(content):
        again, hidden = frame[0] >> 3 & 1, not frame[0] >> 1 & 1
        found = _numbers(decoder, frame)
        if again:
            continue
        if hidden:
            slots = _vp9_slots(frame)
            kept = (slots & -slots).bit_length() - 1
            found = _numbers(decoder, bytes([frame[0] & 0xF0 | 8 | kept])) if slots else [None]
        numbers += found
    return numbers


def _vp9_frames(content: bytes) -> list[bytes]:
    """The frames of a superframe of profile 0 to 2 (Annex B of the VP9 specification)."""
    marker = content[-1]
    count, width = (marker & 7) + 1, (marker >> 3 & 3) + 1
    start = len(content) - 2 - count * width
    if marker >> 5 != 6 or start < 0 or content[start] != marker:
        return [content]
    sizes = [int.from_bytes(content[start + 1 + n * width :][:width], "little") for n in range(count)]
    ends = np.cumsum(sizes).tolist()
    return [content[end - size : end] for size, end in zip(sizes, ends, strict=True)]


def _vp9_slots(frame: bytes) -> int:
    """Bit mask of the slots that keep a hidden frame of profile 0."""
    bits = "".join(f"{byte:08b}" for byte in frame[:12])
    if bits[5] == "0":  # a keyframe
        return 255
    is_resilient, is_intra = bits[7] == "1", bits[8] == "1"
    at = 9 + (0 if is_resilient else 2) + (24 if is_intra else 0)
    return int(bits[at : at + 8], 2)


# --- what DALI does with it -------------------------------------------------------------------------------------------

_NUM_SLOTS = 8
_EMPTY = -1


class _Slot(NamedTuple):
    time: int = _EMPTY
    number: int | None = None


class _Loop:
    """Its reading of frame after frame."""

    def __init__(self, packets: list[Packet], *, parser_waits: bool) -> None:
        self._packets: Iterator[Packet] = iter(packets)
        self._waits = parser_waits
        self._in_parser = list[int | None]()
        self._slots = [_Slot()] * _NUM_SLOTS
        self._times = deque[int]()
        self._time: int | None = None
        self._num_without_time = 0
        self._has_more = True
        self._index = 0

    def _send(self, packet: Packet) -> None:
        time = packet.time
        if time is None:
            time, self._num_without_time = self._num_without_time, self._num_without_time + 1
        self._times.append((time + 2**31) % 2**32 - 2**31)
        if self._waits:
            self._emit(self._in_parser)
            self._in_parser = packet.numbers
        else:
            self._emit(packet.numbers)
        self._time = None

    def _emit(self, numbers: list[int | None]) -> None:
        for number in numbers:
            if self._time is None:  # else it is not the first picture of the packet
                self._time = self._times.popleft()
            empty = next((at for at, slot in enumerate(self._slots) if slot.time == _EMPTY), len(self._slots))
            self._slots[empty : empty + 1] = [_Slot(self._time, number)]

    @property
    def _num_empty(self) -> int:
        return sum(slot.time == _EMPTY for slot in self._slots)

    def _next_without_time(self) -> int | None:
        """Where times are mere counts, the frame of this count goes before the slots overflow."""
        if not self._num_without_time or self._num_empty >= len(self._times):
            return None
        return next((at for at, slot in enumerate(self._slots) if slot.time == self._index), None)

    def read(self) -> int | None:
        """The number of the next frame; None where DALI writes nothing."""
        if self._index < 0:
            return None
        at = self._next_without_time()
        while at is None and self._has_more and len(self._slots) - self._num_empty < _NUM_SLOTS:
            packet = next(self._packets, None)
            if packet is not None:
                self._send(packet)
                continue
            at = self._next_without_time()
            if at is None:
                self._emit(self._in_parser)
                self._has_more = False
        if at is None:
            at = min(
                (at for at, slot in enumerate(self._slots) if slot.time != _EMPTY),
                key=lambda at: self._slots[at].time,
                default=None,
            )
        if at is None:
            return None
        number, self._slots[at] = self._slots[at].number, _Slot()
        self._index += 1
        if self._num_empty == len(self._slots):
            self._index = -1
        return number


def play(file: bytes, *, parser_waits: bool = False) -> list[int | None]:
    """The numbers of the frames that DALI's GPU decoder gives for a file; None where it would leave memory as it is.

    Args:
        file: the bytes of the whole file.
        parser_waits: NVDEC's parser takes a picture for whole when the next one begins, not when its packet ends.
    """
    packets, num_frames = decoded(file)
    loop = _Loop(packets, parser_waits=parser_waits)
    return [loop.read() for _ in range(num_frames)]
