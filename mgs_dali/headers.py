"""The few header bits of encoded pictures that say where decoding can start, what is shown when, what nobody needs.

A :class:`Reader` takes the packets of a stream in the order of the file and tells of each. Whatever it cannot be sure
of raises :class:`Doubt`; the stream is then decoded from its start, as if there were no reader. What cannot be read
because it is broken raises :class:`Damage`, and pictures of another size or pixel format :class:`Change`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, NoReturn

__all__ = [
    "CLEAN",
    "LEADING",
    "NOWHERE",
    "Change",
    "Damage",
    "Doubt",
    "Part",
    "Picture",
    "Reader",
    "has_hole",
    "joinable",
    "reader_for",
    "split",
]

NOWHERE, LEADING, CLEAN = range(3)
"""Whether decoding can start at a packet: no; yes, but pictures after it that are shown before it may need earlier
ones (an open GOP), and the stream cannot be joined here to other pictures; yes, and it can."""


Data = bytes | memoryview
"""Of a packet, or of a part of one."""


Size = tuple[int, int]
"""Width and height."""


class Doubt(Exception):
    """Why nothing can be proved about a stream."""


class Damage(Doubt):
    """A header is broken, or a picture that others depend on is missing."""


class Change(Exception):
    """The pictures' size or pixel format changes inside the stream."""


class Picture(NamedTuple):
    """What one packet holds."""

    shows: bool
    """It gives a frame; hidden reference frames do not."""
    is_referenced: bool
    """Later packets may depend on it."""
    access: int
    """:data:`NOWHERE`, :data:`LEADING` or :data:`CLEAN`."""
    order: int
    """Rises with presentation time."""
    num_pictures: int = 1
    """Pictures to decode, hidden ones too; none where an earlier one is only shown again."""
    repeats: bool = False
    """It shows a picture that an earlier packet, or an earlier part of this one, holds."""
    skipped_after_start: bool = False
    """A decoder that started at the keyframe before it skips it (RASL pictures of HEVC)."""


class Reader:
    """Reads the packets of one stream."""

    needs_leading = False
    """Decoding that starts at an open GOP must be given the referenced pictures that are shown before its first."""
    order_may_restart = False
    """``order`` can be wrong where the stream restarts its count in a way that is not read."""

    def __init__(self) -> None:
        self.pictures: list[Picture] = []
        self.whole_gops = ""
        """Why no packet inside a GOP may be left out."""
        self.size: Size | None = None
        """Of all pictures so far; None until a header tells."""
        self.pixel_format = ""
        """Of all pictures so far, such as "4:2:0 8 bit"; empty until a header tells."""

    def add(self, data: Data, *, is_keyframe: bool) -> None:
        """Read the next packet.

        Raises:
            Doubt: nothing can be proved about this stream; :class:`Damage` where it is broken.
            Change: the packet's pictures have another size or pixel format than those before it.
        """
        try:
            self.pictures.append(self._read(data, is_keyframe))
        except IndexError:
            raise Damage("a header is cut off") from None

    def finish(self) -> list[Picture]:
        """The pictures, in the order of the file."""
        if not self.whole_gops:
            return self.pictures
        return [picture._replace(is_referenced=True) for picture in self.pictures]

    def _read(self, data: Data, is_keyframe: bool) -> Picture:
        raise NotImplementedError

    def _check(self, size: Size, pixel_format: str = "") -> None:
        """Hold what a decoder gives from here on against what it gave so far."""
        if self.size and size != self.size:
            raise Change("the picture size changes from {}x{} to {}x{}".format(*self.size, *size))
        if self.pixel_format and pixel_format != self.pixel_format:
            raise Change(f"the pixel format changes from {self.pixel_format} to {pixel_format}")
        self.size, self.pixel_format = size, pixel_format

    def _not_understood(self, text: str) -> NoReturn:
        """Damage, unless it is so from the start: then it may be this reader that does not understand."""
        raise (Damage if self.pictures else Doubt)(text)


class Bits:
    """Reads bits, most significant first."""

    __slots__ = ("_left", "_value")

    def __init__(self, data: Data) -> None:
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def __call__(self, num_bits: int) -> int:
        self._left -= num_bits
        if self._left < 0:
            raise Damage("a header is cut off")
        return (self._value >> self._left) & ((1 << num_bits) - 1)

    def unsigned(self) -> int:
        """An unsigned Exp-Golomb number, ue(v) of H.264 (clause 9.1)."""
        rest = self._value & ((1 << self._left) - 1)
        num_bits = rest.bit_length()  # as many zeros as came before follow the first one
        self._left = 2 * num_bits - self._left - 1
        if self._left < 0:
            raise Damage("a header is cut off")
        return (rest >> self._left) - 1

    def signed(self) -> int:
        """A signed Exp-Golomb number, se(v)."""
        number = self.unsigned()
        return (number + 1) // 2 if number % 2 else -(number // 2)


class _Settings:
    """Headers that hold for many packets: each must be the same through the stream, and known wherever decoding starts.

    They come with the container (its extradata), with packets, or both.
    """

    def __init__(self) -> None:
        self._contents: dict[object, bytes] = {}
        self._of_container: set[object] = set()
        self._of_first_packet: set[object] | None = None
        self._has_changed = False

    def add_container(self, units: dict[object, bytes]) -> None:
        self._contents.update(units)
        self._of_container = set(units)

    def add_packet(self, units: dict[object, bytes]) -> bool:
        """Whether decoding could start at this packet, as far as these headers go."""
        if self._of_first_packet is None:
            self._contents = {**units, **self._contents}
            self._of_first_packet = set(units) - self._of_container
        for key, content in units.items():
            self._has_changed |= self._contents.get(key) != content
        return not self._of_first_packet or self._of_first_packet <= units.keys()

    def check(self) -> None:
        """To be called when it is known that size and pixel format are as before."""
        if self._has_changed:
            raise Doubt("the coding parameters change on the way")


_CHROMAS = ("4:0:0", "4:2:0", "4:2:2", "4:4:4")
_CHROMA_STEPS = ((1, 1), (2, 2), (2, 1), (1, 1))
"""Luma samples across and down for each chroma sample, by the number that H.264 and HEVC give the subsampling."""


def _pixel_format(chroma: str, luma_bits: int, chroma_bits: int | None = None) -> str:
    if chroma_bits in (None, luma_bits) or chroma == _CHROMAS[0]:
        return f"{chroma} {luma_bits} bit"
    return f"{chroma} {luma_bits} and {chroma_bits} bit"


# --- H.264 and HEVC ---------------------------------------------------------------------------------------------------


def _units(data: Data, length_size: int) -> Iterator[Data]:
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


def _payload(unit: Data, *, header_bytes: int, num_bytes: int | None = None) -> bytes:
    # 7.3.1: a 3 after two zeros only keeps start codes from arising.
    return bytes(unit[header_bytes : num_bytes and header_bytes + num_bytes]).replace(b"\0\0\3", b"\0\0")


def _messages(unit: Data, *, header_bytes: int) -> Iterator[tuple[int, bytes]]:
    """(type, content) of the messages in an SEI unit (H.264, clause 7.3.2.3.1)."""
    data = _payload(unit, header_bytes=header_bytes)
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


_FILM_GRAIN, _RECOVERY_POINT, _USER_DATA, _ORIENTATION = 19, 6, 5, 47


def _check_message(message: int, content: bytes, *, codec: str) -> None:
    """Messages that change how pictures look."""
    if message == _FILM_GRAIN:
        raise Doubt(f"{codec} with film grain")
    if message == _ORIENTATION and _is_turned(content):
        raise Doubt(f"{codec} with a display orientation")


_PERIOD = 1 << 33
_FARTHEST_FIELD = 1 << 16


class _OrderCount:
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


class _H264Sequence(NamedTuple):
    colour_plane_bits: int
    frame_number_bits: int
    order_type: int
    order_bits: int
    may_have_gaps: bool
    """Frame numbers may be left out."""
    size: Size
    pixel_format: str
    unread: str
    """What this reader does not understand of it."""


class _H264(Reader):
    """ITU-T H.264."""

    needs_leading = True  # the frame numbers of referenced pictures must not have gaps
    order_may_restart = True  # memory management control operation 5

    def __init__(self, extradata: bytes) -> None:
        super().__init__()
        self._sequences: dict[int, _H264Sequence] = {}
        self._pictures: dict[int, tuple[int, bool]] = {}
        self._settings = _Settings()
        self._order = _OrderCount()
        self._frame_number: int | None = None
        self.length_size = 0
        if extradata[:1] == b"\1" and len(extradata) >= 7:  # avcC (ISO/IEC 14496-15, clause 5.3.3.1)
            self.length_size = (extradata[4] & 3) + 1
            units, place = list[Data](), 5
            for mask in (31, 255):
                count, place = extradata[place] & mask, place + 1
                for _ in range(count):
                    end = place + 2 + int.from_bytes(extradata[place : place + 2], "big")
                    units.append(extradata[place + 2 : end])
                    place = end
                if place >= len(extradata):
                    break
        else:
            units = list(_units(extradata, 0))
        self._settings.add_container(self._read_settings([unit for unit in units if unit[0] & 31 in (7, 8)]))

    def _read_settings(self, units: Sequence[Data]) -> dict[object, bytes]:
        found: dict[object, bytes] = {}
        for unit in units:
            bits = Bits(_payload(unit, header_bytes=1))
            if unit[0] & 31 == 7:
                number, self_sequence = self._read_sequence(bits)
                self._sequences[number] = self_sequence
            else:
                number, sequence = bits.unsigned(), bits.unsigned()
                bits(1)
                self._pictures[number] = (sequence, bool(bits(1)))
            found[unit[0] & 31, number] = bytes(unit)
        return found

    @staticmethod
    def _read_sequence(bits: Bits) -> tuple[int, _H264Sequence]:
        profile = bits(8)
        bits(16)
        number = bits.unsigned()
        chroma, planes, luma_bits, chroma_bits = 1, 0, 8, 8
        if profile in (44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244):
            chroma = bits.unsigned()
            planes = bits(1) if chroma == 3 else 0
            luma_bits, chroma_bits = 8 + bits.unsigned(), 8 + bits.unsigned()
            bits(1)
            if bits(1):  # scaling lists
                for index in range(12 if chroma == 3 else 8):
                    last = following = 8
                    for _ in range((16 if index < 6 else 64) if bits(1) else 0):
                        if following:
                            following = (last + bits.signed()) % 256
                        last = following or last
        frame_number_bits = bits.unsigned() + 4
        order_type, order_bits = bits.unsigned(), 0
        if order_type == 0:
            order_bits = bits.unsigned() + 4
        elif order_type == 1:
            bits(1), bits.signed(), bits.signed()
            for _ in range(bits.unsigned()):
                bits.signed()
        bits.unsigned()
        may_have_gaps = bool(bits(1))
        width, height = 16 * (bits.unsigned() + 1), 16 * (bits.unsigned() + 1)
        fields = 2 - bits(1)
        if chroma > 3 or max(frame_number_bits, order_bits) > 16 or order_type > 2 or max(luma_bits, chroma_bits) > 14:
            raise Damage("an H.264 header is not understood")
        bits(fields)
        left, right, top, bottom = [bits.unsigned() for _ in range(4)] if bits(1) else (0, 0, 0, 0)
        across, down = (1, 1) if planes else _CHROMA_STEPS[chroma]
        unread = ""
        if chroma == 3:
            # FFmpeg decodes these by the encoder's version, which only the first packet tells.
            unread = "H.264 with 4:4:4 chroma"
        elif order_type == 1:
            unread = "H.264 with picture order count type 1"
        elif fields == 2:
            unread = "interlaced H.264"
        return number, _H264Sequence(
            colour_plane_bits=2 * planes,
            frame_number_bits=frame_number_bits,
            order_type=order_type,
            order_bits=order_bits,
            may_have_gaps=may_have_gaps,
            size=(width - across * (left + right), fields * (height - down * (top + bottom))),
            # FFmpeg gives pictures without chroma grey chroma.
            pixel_format=_pixel_format(_CHROMAS[chroma or 1], luma_bits, chroma_bits if chroma else None),
            unread=unread,
        )

    def _read(self, data: Data, is_keyframe: bool) -> Picture:  # noqa: ARG002
        settings, slices = [], []
        recovery = None
        num_pictures = 0
        for unit in _units(data, self.length_size):
            kind = unit[0] & 31
            if unit[0] & 0x80:
                raise Damage("an H.264 unit is not understood")
            if kind in (1, 5):
                slices.append(unit)
                num_pictures += unit[1] >> 7  # first_mb_in_slice is 0
            elif kind in (7, 8):
                settings.append(bytes(unit))
            elif kind in (2, 3, 4, 13, 15):
                raise Doubt(f"H.264 with NAL units of type {kind}")
            elif kind == 6:
                recovery = self._read_messages(unit) or recovery
        has_settings = True
        if settings or not self.pictures:
            has_settings = self._settings.add_packet(self._read_settings(settings))
        if not slices:
            raise Doubt("an H.264 packet holds 0 pictures")

        header, kind = slices[0][0], slices[0][0] & 31
        bits = Bits(_payload(slices[0], header_bytes=1, num_bytes=24))
        first_block = bits.unsigned()
        bits.unsigned()
        number, has_lower = self._pictures.get(bits.unsigned(), (-1, False))
        if number not in self._sequences:
            self._not_understood("a picture's parameter sets are missing")
        sequence = self._sequences[number]
        self._check(sequence.size, sequence.pixel_format)
        self._settings.check()
        if sequence.unread:
            raise Doubt(sequence.unread)
        if num_pictures != 1 or first_block:
            raise Doubt(f"an H.264 packet holds {num_pictures} pictures")
        is_idr, is_referenced = kind == 5, header & 0x60 != 0
        bits(sequence.colour_plane_bits)
        frame_number = bits(sequence.frame_number_bits)
        if not is_idr and not sequence.may_have_gaps:
            self._check_frame_number(frame_number, num_bits=sequence.frame_number_bits, recovers=recovery is not None)
        if is_idr or is_referenced:
            self._frame_number = frame_number
        order = self._read_order(bits, sequence, has_lower=has_lower, is_idr=is_idr, is_referenced=is_referenced)
        access = NOWHERE
        if has_settings and is_idr:
            access = CLEAN
        elif has_settings and recovery == (0, 1, 0) and all(self._is_intra(unit) for unit in slices):
            access = LEADING
        return Picture(True, is_referenced, access, order)

    def _read_messages(self, unit: Data) -> tuple[int, int, int] | None:
        """recovery_frame_cnt, exact_match_flag and broken_link_flag (D.1.8) where there is a recovery point."""
        recovery = None
        try:
            for message, content in _messages(unit, header_bytes=1):
                _check_message(message, content, codec="H.264")
                if message == _RECOVERY_POINT:
                    bits = Bits(content)
                    recovery = (bits.unsigned(), bits(1), bits(1))
                if message == _USER_DATA and (version := re.search(rb"x264 - core (\d+)", content)):
                    self._check_encoder(int(version[1]))
        except Damage:  # decoders go on
            raise Doubt("an H.264 message is not understood") from None
        return recovery

    @staticmethod
    def _check_encoder(version: int) -> None:
        if version <= 33:
            raise Doubt("H.264 of an encoder with a known fault, which only the first packet tells")

    def _check_frame_number(self, number: int, *, num_bits: int, recovers: bool) -> None:
        """Clause 7.4.3: it rises by one after a referenced picture; 0 and 1 where operation 5 starts it anew."""
        before = self._frame_number
        if before is None or number in (before, (before + 1) % (1 << num_bits), 0, 1):
            return
        if recovers:
            raise Doubt("H.264 sequences that were joined")
        raise Damage("a picture that others refer to is missing (H.264 frame numbers)")

    @staticmethod
    def _is_intra(unit: Data) -> bool:
        bits = Bits(_payload(unit, header_bytes=1, num_bytes=24))
        bits.unsigned()
        return bits.unsigned() % 5 == 2

    def _read_order(
        self, bits: Bits, sequence: _H264Sequence, *, has_lower: bool, is_idr: bool, is_referenced: bool
    ) -> int:
        if is_idr:
            bits.unsigned()
        if sequence.order_type == 2:
            return len(self.pictures)
        low = bits(sequence.order_bits)
        order = self._order(low, num_bits=sequence.order_bits, restarts=is_idr, is_anchor=is_referenced)
        # delta_pic_order_cnt_bottom: a picture is as early as the earlier of its fields.
        return order + min(max(bits.signed(), -_FARTHEST_FIELD), 0) if has_lower else order


_RASL = (8, 9)
_BLA_WITHOUT_LEADING, _CRA = 18, 21


class _HevcSequence(NamedTuple):
    colour_plane_bits: int
    order_bits: int
    size: Size
    pixel_format: str


class _Hevc(Reader):
    """ITU-T H.265."""

    def __init__(self, extradata: bytes) -> None:
        super().__init__()
        self._sequences: dict[int, _HevcSequence] = {}
        self._pictures: dict[int, tuple[int, int]] = {}
        self._settings = _Settings()
        self._order = _OrderCount()
        self.length_size = 0
        if len(extradata) >= 23 and extradata[:3] not in (b"\0\0\0", b"\0\0\1"):  # hvcC (ISO/IEC 14496-15, 8.3.3.1)
            self.length_size = (extradata[21] & 3) + 1
            units, place = list[Data](), 23
            for _ in range(extradata[22]):
                count = int.from_bytes(extradata[place + 1 : place + 3], "big")
                place += 3
                for _ in range(count):
                    end = place + 2 + int.from_bytes(extradata[place : place + 2], "big")
                    units.append(extradata[place + 2 : end])
                    place = end
        else:
            units = list(_units(extradata, 0))
        self._settings.add_container(self._read_settings([u for u in units if u and u[0] >> 1 & 63 in (32, 33, 34)]))

    def _read_settings(self, units: Sequence[Data]) -> dict[object, bytes]:
        found: dict[object, bytes] = {}
        for unit in units:
            bits, kind = Bits(_payload(unit, header_bytes=2)), unit[0] >> 1 & 63
            if kind == 32:
                number = bits(4)
            elif kind == 33:
                number = self._read_sequence(bits)
            else:
                number, sequence = bits.unsigned(), bits.unsigned()
                bits(1)
                if bits(1):
                    raise Doubt("HEVC with pictures that may not be shown")
                self._pictures[number] = (sequence, bits(3))
            found[kind, number] = bytes(unit)
        return found

    def _read_sequence(self, bits: Bits) -> int:
        bits(4)
        num_sub_layers = bits(3)
        bits(1 + 96)
        present = [(bits(1), bits(1)) for _ in range(num_sub_layers)]
        if num_sub_layers:
            bits(2 * (8 - num_sub_layers))
        for has_profile, has_level in present:
            bits(88 * has_profile + 8 * has_level)
        number, chroma = bits.unsigned(), bits.unsigned()
        planes = bits(1) if chroma == 3 else 0
        width, height = bits.unsigned(), bits.unsigned()
        left, right, top, bottom = [bits.unsigned() for _ in range(4)] if bits(1) else (0, 0, 0, 0)
        luma_bits, chroma_bits = 8 + bits.unsigned(), 8 + bits.unsigned()
        order_bits = bits.unsigned() + 4
        if chroma > 3 or order_bits > 16 or max(luma_bits, chroma_bits) > 16:
            raise Damage("an HEVC header is not understood")
        across, down = (1, 1) if planes else _CHROMA_STEPS[chroma]
        self._sequences[number] = _HevcSequence(
            colour_plane_bits=2 * planes,
            order_bits=order_bits,
            size=(width - across * (left + right), height - down * (top + bottom)),
            pixel_format=_pixel_format(_CHROMAS[chroma], luma_bits, chroma_bits),
        )
        return number

    def _read(self, data: Data, is_keyframe: bool) -> Picture:  # noqa: ARG002
        settings, first = [], []
        for unit in _units(data, self.length_size):
            kind, layer = unit[0] >> 1 & 63, (unit[0] & 1) << 5 | unit[1] >> 3
            if kind in (36, 37):
                raise Doubt("HEVC sequences that were joined")
            if unit[0] & 0x80 or len(unit) < 3 or not unit[1] & 7:
                raise Damage("an HEVC unit is not understood")
            if layer:
                raise Doubt("HEVC with several layers")
            if kind < 32:
                if unit[2] & 0x80:
                    first.append(unit)
            elif kind in (32, 33, 34):
                settings.append(bytes(unit))
            elif kind == 39:
                self._read_messages(unit)
        has_settings = True
        if settings or not self.pictures:
            has_settings = self._settings.add_packet(self._read_settings(settings))
        if len(first) != 1:
            raise Doubt(f"an HEVC packet holds {len(first)} pictures")
        kind, layer = first[0][0] >> 1 & 63, (first[0][1] & 7) - 1
        if 10 <= kind <= 15 or kind >= 22:
            raise Damage(f"HEVC with pictures of the reserved NAL unit type {kind}")
        bits = Bits(_payload(first[0], header_bytes=2, num_bytes=24))
        bits(1)
        is_without_earlier = 16 <= kind <= 23 and bool(bits(1))
        number, num_extra_bits = self._pictures.get(bits.unsigned(), (-1, 0))
        if number not in self._sequences:
            self._not_understood("a picture's parameter sets are missing")
        sequence = self._sequences[number]
        self._check(sequence.size, sequence.pixel_format)
        self._settings.check()
        if is_without_earlier and self.pictures:
            raise Doubt("HEVC with pictures that are not shown before a new sequence")
        if 16 <= kind <= 18:
            raise Doubt(f"HEVC with pictures of NAL unit type {kind}")
        bits(num_extra_bits)
        bits.unsigned()
        bits(sequence.colour_plane_bits)
        is_idr = kind in (19, 20)
        is_sub_layer_reference = kind >= 16 or bool(kind & 1)
        order = self._order(
            0 if is_idr else bits(sequence.order_bits),
            num_bits=sequence.order_bits,
            restarts=is_idr,
            is_anchor=layer == 0 and is_sub_layer_reference and kind not in (7, 9),
        )
        if layer > 0:
            # Pictures of higher temporal layers may refer to sub-layer non-reference pictures of lower ones.
            self.whole_gops = "HEVC with temporal layers"
        access = CLEAN if 19 <= kind <= 21 and has_settings else NOWHERE
        return Picture(True, is_sub_layer_reference, access, order, skipped_after_start=kind in _RASL)

    @staticmethod
    def _read_messages(unit: Data) -> None:
        try:
            for message, content in _messages(unit, header_bytes=2):
                _check_message(message, content, codec="HEVC")
        except Damage:  # decoders go on
            raise Doubt("an HEVC message is not understood") from None


def joinable(packet: bytes, *, codec: str, extradata: bytes) -> bytes:
    """The packet of a CLEAN access point so that it can follow any other packet.

    H.264 gets an access unit delimiter: without one, two IDR pictures in a row may look like slices of one. A CRA
    picture of HEVC becomes a BLA picture, which starts a sequence of its own; the two differ by name only (clause
    7.4.2.2), their slices have the same syntax. Packets of other codecs stay as they are.
    """
    if codec == "h264":
        length_size = _H264(extradata).length_size
        delimiter = b"\x09\xf0"
        if next(iter(_units(packet, length_size)))[0] & 31 == 9:
            return packet
        return (len(delimiter).to_bytes(length_size, "big") if length_size else b"\0\0\0\1") + delimiter + packet
    if codec != "hevc":
        return packet
    renamed, place = bytearray(packet), 0
    for unit in map(bytes, _units(packet, _Hevc(extradata).length_size)):
        place = packet.index(unit, place)
        if unit[0] >> 1 & 63 == _CRA:
            renamed[place] = unit[0] & 0x81 | _BLA_WITHOUT_LEADING << 1
        place += len(unit)
    return bytes(renamed)


# --- MPEG-4 part 2 ----------------------------------------------------------------------------------------------------


class _Mpeg4(Reader):
    """ISO/IEC 14496-2. A reference picture is shown when the next one is decoded, a B-VOP at once."""

    def __init__(self, extradata: bytes) -> None:
        super().__init__()
        self._settings = _Settings()
        self._time_bits = 0
        self._layer_size: Size | None = None
        self._low_delay = True  # what FFmpeg takes it for without a word on it
        self._reference: int | None = None
        self._settings.add_container(self._read_settings(extradata))

    def _read_settings(self, data: bytes) -> dict[object, bytes]:
        found: dict[object, bytes] = {}
        for unit in map(bytes, _units(data, 0)):
            kind = unit[0]
            if 0x20 <= kind <= 0x2F:
                self._read_layer(Bits(unit[1:]))
            elif kind == 0xB2 and re.search(rb"DivX\d+(b|Build)\d+p", unit):
                raise Doubt("MPEG-4 with packed B-frames")
            if kind not in (0xB3, 0xB6):
                found[kind, unit if kind == 0xB2 else None] = unit
        return found

    def _read_layer(self, bits: Bits) -> None:
        bits(9)
        if bits(1):
            bits(7)
        if bits(4) == 15:
            bits(16)
        if bits(1):
            bits(2)
            self._low_delay = bool(bits(1))
            if bits(1):
                bits(79)
        if bits(2):
            raise Doubt("MPEG-4 with shapes")
        bits(1)
        resolution = bits(16)
        bits(1)
        self._time_bits = max((resolution - 1).bit_length(), 1)
        if bits(1):
            bits(self._time_bits)
        bits(1)
        width, _, height, _ = bits(13), bits(1), bits(13), bits(1)
        self._layer_size = width, height
        if bits(1):
            raise Doubt("interlaced MPEG-4")

    def _read(self, data: Data, is_keyframe: bool) -> Picture:  # noqa: ARG002
        data = bytes(data)
        place = data.find(b"\0\0\1\xb6")
        if place < 0 or data.find(b"\0\0\1\xb6", place + 4) >= 0:
            raise Doubt("MPEG-4 with packets of no picture, or of two (packed B-frames)")
        has_settings = self._settings.add_packet(self._read_settings(data[:place]) if place else {})
        if self._layer_size is None:
            raise Doubt("MPEG-4 without a header")
        self._check(self._layer_size, _pixel_format("4:2:0", 8))
        self._settings.check()
        bits = Bits(data[place + 4 : place + 24])
        kind = bits(2)
        while bits(1):
            pass
        if not bits(1):
            self._not_understood("an MPEG-4 header is not understood")
        bits(self._time_bits)
        if not bits(1):
            self._not_understood("an MPEG-4 header is not understood")
        if not bits(1):
            raise Doubt("MPEG-4 with pictures that are not coded")
        index = len(self.pictures)
        if kind == 2:
            if self._low_delay:
                raise Doubt("MPEG-4 with B-frames in a stream that promises none")
            return Picture(True, False, NOWHERE, 2 * index)
        self._show_reference(2 * index - 1)
        self._reference = index
        return Picture(True, True, CLEAN if kind == 0 and has_settings else NOWHERE, -1)

    def _show_reference(self, order: int) -> None:
        if self._reference is not None:
            self.pictures[self._reference] = self.pictures[self._reference]._replace(order=order)

    def finish(self) -> list[Picture]:
        self._show_reference(2 * len(self.pictures) + 1)
        return super().finish()


# --- VP8, VP9, AV1: shown in the order of the file --------------------------------------------------------------------


class _Vp8(Reader):
    """RFC 6386.

    A frame that refreshes no reference buffer could be left out, were it not that it also passes on probabilities and
    segments: of libvpx's streams, also those with temporal layers, none had a frame without either.
    """

    def __init__(self) -> None:
        super().__init__()
        self.whole_gops = "every VP8 frame passes on probabilities"

    def _read(self, data: Data, is_keyframe: bool) -> Picture:  # noqa: ARG002
        # Section 9.1: bit 0 of the tag is clear in keyframes, bit 4 is show_frame; then the size of partition 1.
        access = NOWHERE if data[0] & 1 else CLEAN
        header_bytes = 3 if access == NOWHERE else 10
        if len(data) < header_bytes + (int.from_bytes(data[:3], "little") >> 5):
            raise Damage("a VP8 frame is cut off")
        if access == CLEAN:
            if data[3:6] != b"\x9d\x01\x2a":
                raise Damage("a VP8 keyframe without its start code")
            width, height = (int.from_bytes(data[at : at + 2], "little") & 0x3FFF for at in (6, 8))
            self._check((width, height), _pixel_format("4:2:0", 8))
        return Picture(bool(data[0] & 0x10), True, access, len(self.pictures))


class _Vp9Frame(NamedTuple):
    shows: bool
    refreshes: int
    """Bit mask of the eight slots that keep it as a reference."""
    is_key: bool
    resets: bool
    """It takes nothing over from the frame before it."""
    size: Size | None
    repeats: bool = False


class _Vp9(Reader):
    """The VP9 bitstream specification, version 0.6."""

    def __init__(self) -> None:
        super().__init__()
        self._resets: list[bool] = []
        self._slots: list[Size | None] = [None] * 8
        self._size_of_all: Size | None = None
        """Of the pictures in all slots, where it is one, as it mostly is."""
        self._sizes = set[Size]()
        self._format = ""

    def _read(self, data: Data, is_keyframe: bool) -> Picture:  # noqa: ARG002
        frames = list[_Vp9Frame]()
        for content in _vp9_frames(data):
            frame = self._read_frame(Bits(content[:32]))
            if frame.refreshes and frame.size != self._size_of_all:
                self._slots = [frame.size if frame.refreshes >> n & 1 else size for n, size in enumerate(self._slots)]
                self._size_of_all = frame.size if len(set(self._slots)) == 1 else None
            if frame.size and frame.shows:
                self._check(frame.size, self._format)
            frames.append(frame)
            if frame.size:
                self._sizes.add(frame.size)
        if self.size and len(self._sizes) > 1:
            raise Doubt("VP9 with hidden pictures of another size")
        num_shown = sum([frame.shows for frame in frames])
        if num_shown > 1:
            raise Doubt(f"a VP9 packet shows {num_shown} frames")
        self._resets.append(frames[0].resets)
        return Picture(
            shows=num_shown == 1,
            is_referenced=any(frame.refreshes for frame in frames),
            access=CLEAN if frames[0].is_key else NOWHERE,
            order=len(self.pictures),
            num_pictures=sum([not frame.repeats for frame in frames]),
            repeats=any(frame.repeats for frame in frames),
        )

    def finish(self) -> list[Picture]:
        # A frame that refreshes no buffer still passes on its motion vectors and probabilities, unless the frame after
        # it starts afresh (error-resilient, or a keyframe).
        following = [*self._resets[1:], True]
        return [
            picture._replace(is_referenced=picture.is_referenced or not resets)
            for picture, resets in zip(self.pictures, following, strict=True)
        ]

    def _read_frame(self, bits: Bits) -> _Vp9Frame:
        """The uncompressed header (clause 6.2)."""
        if bits(2) != 2:
            raise Damage("a VP9 header is not understood")
        profile = bits(1) + 2 * bits(1)
        if profile == 3 and bits(1):
            raise Damage("a VP9 header is not understood")
        if bits(1):  # show_existing_frame
            return _Vp9Frame(True, 0, False, False, self._slots[bits(3)], repeats=True)
        is_key, shows, is_resilient = not bits(1), bool(bits(1)), bool(bits(1))
        is_intra = is_key or (not shows and bool(bits(1)))
        if not is_key and not is_resilient:
            bits(2)
        if is_intra:
            if bits(24) != 0x498342:
                raise Damage("a VP9 keyframe without its start code")
            pixel_format = self._read_colours(bits, profile) if is_key or profile else _pixel_format("4:2:0", 8)
            if self._format and pixel_format != self._format:
                raise Change(f"the pixel format changes from {self._format} to {pixel_format}")
            self._format = pixel_format
        refreshes = 255 if is_key else bits(8)
        size = None
        if not is_intra:
            references = [bits(4) >> 1 for _ in range(3)]
            same = next((slot for slot in references if bits(1)), None)
            if same is not None:
                return _Vp9Frame(shows, refreshes, False, is_resilient, self._slots[same])
        size = bits(16) + 1, bits(16) + 1
        return _Vp9Frame(shows, refreshes, is_key, is_key or is_resilient, size)

    @staticmethod
    def _read_colours(bits: Bits, profile: int) -> str:
        depth = (12 if bits(1) else 10) if profile >= 2 else 8
        is_rgb = bits(3) == 7
        if not is_rgb:
            bits(1)
        if is_rgb and not profile & 1:
            raise Damage("a VP9 header is not understood")
        across = down = not is_rgb
        if profile & 1:
            across, down = (False, False) if is_rgb else (bool(bits(1)), bool(bits(1)))
            if bits(1):
                raise Damage("a VP9 header is not understood")
        chroma = {(True, True): "4:2:0", (True, False): "4:2:2", (False, True): "4:4:0"}.get((across, down), "4:4:4")
        return _pixel_format("RGB" if is_rgb else chroma, depth)


def _vp9_frames(data: Data) -> list[Data]:
    """The frames of a packet (Annex B, superframes)."""
    if not data:
        raise Damage("an empty VP9 packet")
    marker = data[-1]
    count, width = (marker & 7) + 1, (marker >> 3 & 3) + 1
    index_bytes = 2 + count * width
    if marker & 0xE0 != 0xC0 or len(data) < index_bytes or data[-index_bytes] != marker:
        return [data]
    frames, place = list[Data](), 0
    for number in range(count):
        at = len(data) - index_bytes + 1 + number * width
        size = int.from_bytes(data[at : at + width], "little")
        if size:
            frames.append(data[place : place + size])
        place += size
    if not frames or place > len(data) - index_bytes:
        raise Damage("a VP9 superframe is not understood")
    return frames


_AV1_FRAMES = (3, 6)
"""Types of units that start with a frame header: it alone, or its tiles after it."""


class _Av1(Reader):
    """The AV1 bitstream specification. A temporal unit, which is a packet, shows one frame."""

    def __init__(self) -> None:
        super().__init__()
        self.whole_gops = "AV1 is decoded in whole GOPs"
        self._sequence = b""
        self._is_still = False

    def _read(self, data: Data, is_keyframe: bool) -> Picture:
        num_pictures, repeats = 0, False
        has_sequence = False
        starts: bool | None = None
        for kind, content in _av1_units(data):
            if kind == 1:
                has_sequence = True
                self._read_sequence(bytes(content))
            elif kind in _AV1_FRAMES:
                # show_existing_frame, frame_type, show_frame (clause 5.9.2)
                bits = content[0] if not self._is_still else 0x10
                if starts is None:
                    starts = has_sequence and not self._is_still and bits >> 4 == 1
                repeats |= bits >> 7 == 1
                num_pictures += not bits >> 7
        access = CLEAN if is_keyframe and starts else NOWHERE
        return Picture(True, True, access, len(self.pictures), num_pictures=num_pictures, repeats=repeats)

    def _read_sequence(self, data: bytes) -> None:
        if data == self._sequence:
            return
        size, pixel_format, self._is_still = self._read_size(Bits(data))
        self._check(size, pixel_format)
        if self._sequence:
            raise Doubt("the coding parameters change on the way")
        self._sequence = data

    @staticmethod
    def _read_size(bits: Bits) -> tuple[Size, str, bool]:
        """Size, pixel format, and whether it is a still picture of the short kind (clause 5.5)."""
        profile, _, is_still = bits(3), bits(1), bool(bits(1))
        if is_still:
            bits(5)
        else:
            delay_bits = 0
            if bits(1):  # timing information
                bits(64)
                if bits(1):
                    bits.unsigned()
                if bits(1):
                    delay_bits = bits(5) + 1
                    bits(42)
            has_delays = bits(1)
            for _ in range(bits(5) + 1):
                bits(12)
                if bits(5) > 7:
                    bits(1)
                if delay_bits and bits(1):
                    bits(2 * delay_bits + 1)
                if has_delays and bits(1):
                    bits(4)
        width_bits, height_bits = bits(4) + 1, bits(4) + 1
        size = bits(width_bits) + 1, bits(height_bits) + 1
        if not is_still and bits(1):
            bits(7)
        bits(3)
        if not is_still:
            bits(4)
            has_order = bits(1)
            bits(2 * has_order)
            if bits(1) or bits(1):  # screen content tools are chosen by frame, or are on: so may integer vectors be
                bits(0 if bits(1) else 1)
            bits(3 * has_order)
        bits(3)
        depth = 10 if bits(1) else 8
        if profile == 2 and depth == 10 and bits(1):
            depth = 12
        if profile != 1 and bits(1):
            return size, _pixel_format("4:0:0", depth), is_still
        is_rgb = bits(1) and (bits(8), bits(8), bits(8)) == (1, 13, 0)
        if is_rgb:
            return size, _pixel_format("RGB", depth), is_still
        bits(1)
        chroma = ("4:2:0", "4:4:4", "4:2:2")[profile]
        if profile == 2 and depth == 12:
            chroma = ("4:2:2" if not bits(1) else "4:2:0") if bits(1) else "4:4:4"
        return size, _pixel_format(chroma, depth), is_still


def _av1_units(data: Data) -> Iterator[tuple[int, Data]]:
    """(type, content) of the open bitstream units (clause 5.3)."""
    place = 0
    while place < len(data):
        header = data[place]
        if header & 0x80:
            raise Damage("an AV1 unit is not understood")
        place += 2 if header & 4 else 1
        size = shift = 0
        if not header & 2:  # the last one
            size = len(data) - place
        while header & 2:
            size |= (data[place] & 127) << shift
            shift, place = shift + 7, place + 1
            if data[place - 1] < 128:
                break
        if place + size > len(data):
            raise Damage("an AV1 unit is cut off")
        yield header >> 3 & 15, data[place : place + size]
        place += size


class Part(NamedTuple):
    """A packet, or one of the frames that it is made of."""

    content: bytes
    shows: bool
    num_pictures: int
    """Pictures to decode; none where an earlier one is only shown again."""


def split(packet: Data, *, codec: str, shows: bool) -> list[Part]:
    """A packet's frames, one each where they can be parted: a VP9 packet may hold hidden ones before a shown one.

    Args:
        packet: one that a reader took.
        codec: FFmpeg's name of the codec.
        shows: the packet gives a frame.
    """
    if codec == "vp9":
        frames = [(bytes(frame), _vp9_shows(frame)) for frame in _vp9_frames(packet)]
        return [Part(frame, shown, int(not again)) for frame, (shown, again) in frames]
    num_pictures = 1
    if codec == "av1":
        num_pictures = sum(content[0] < 128 for kind, content in _av1_units(packet) if kind in _AV1_FRAMES)
    return [Part(bytes(packet), shows, num_pictures)]


def _vp9_shows(frame: Data) -> tuple[bool, bool]:
    """Whether a VP9 frame is shown, and whether it is an earlier one that is shown again."""
    bits = Bits(frame[:2])
    bits(2)
    if bits(2) == 3:
        bits(1)
    again = bool(bits(1))
    return again or bits(2) & 1 == 1, again


# --- intra only -------------------------------------------------------------------------------------------------------


class _Intra(Reader):
    """Codecs whose every packet stands alone."""

    def _read(self, data: Data, is_keyframe: bool) -> Picture:  # noqa: ARG002
        if not is_keyframe:
            raise Doubt("packets of an intra-only codec that are not keyframes")
        return Picture(True, False, CLEAN, len(self.pictures))


_JPEG_END_BYTES = 4096
"""The end of a picture must be among the last bytes of its packet; some writers pad packets."""


class _Jpeg(_Intra):
    """ITU-T T.81, as a motion picture."""

    def __init__(self) -> None:
        super().__init__()
        self._has_huffman_tables: set[bool] = set()

    def _read(self, data: Data, is_keyframe: bool) -> Picture:
        tables = set[int]()
        size: Size | None = None
        pixel_format = ""
        is_field = False
        for marker, segment in self._segments(data):
            tables.add(marker)
            if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
                pixel_format = self._sampling(bytes(segment))
                size = int.from_bytes(segment[3:5], "big"), int.from_bytes(segment[1:3], "big")
            elif marker == 0xE0 and segment[:4] == b"AVI1":
                is_field = segment[4:5] not in (b"", b"\0")
        if size is None:
            raise Damage("a JPEG picture without a header")
        if bytes(data[-_JPEG_END_BYTES:]).find(b"\xff\xd9") < 0:
            raise Damage("a JPEG picture without an end")
        if not is_field and size[1]:  # else its height comes later
            self._check(size, pixel_format)
        # Tables that a picture lacks are those of the picture before it, or the standard ones where none has any.
        self._has_huffman_tables.add(0xC4 in tables)
        if 0xDB not in tables or len(self._has_huffman_tables) > 1:
            raise Doubt("JPEG pictures without tables of their own")
        return super()._read(data, is_keyframe)

    @staticmethod
    def _sampling(frame_header: bytes) -> str:
        """How chroma is sampled (clause B.2.2)."""
        factors = [(factor >> 4, factor & 15) for factor in frame_header[7::3][: frame_header[5]]]
        if len(factors) < 3:
            return _pixel_format("4:0:0", frame_header[0])
        across, down = (max(luma, 1) // max(chroma, 1) for luma, chroma in zip(factors[0], factors[1], strict=True))
        known = {(2, 2): "4:2:0", (2, 1): "4:2:2", (1, 1): "4:4:4"}
        return _pixel_format(known.get((across, down), f"{across}x{down}"), frame_header[0])

    def _segments(self, data: Data) -> Iterator[tuple[int, Data]]:
        """(second byte of the marker, content) of the segments before the first scan."""
        place = 2
        if data[:2] != b"\xff\xd8":
            self._not_understood("a JPEG picture without a start")
        while True:
            while data[place] == 0xFF and data[place + 1] == 0xFF:  # fill bytes
                place += 1
            if data[place] != 0xFF:
                raise Damage("a JPEG header is not understood")
            marker, size = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
            if marker == 0xDA:
                return
            if place + 2 + size > len(data) or size < 2:
                raise Damage("a JPEG picture is cut off")
            yield marker, data[place + 4 : place + 2 + size]
            place += 2 + size


# --- MPEG-1 and MPEG-2 ------------------------------------------------------------------------------------------------

_SLICES = range(0x01, 0xB0)
"""Start codes of slices."""


def _zeros_of(num_before: int) -> bytes:
    """An expression for 23 zero bits: these in one byte, 16 in the next two, the rest in a fourth that is no 1."""
    before = bytes(byte for byte in range(256) if byte % (1 << num_before) == 0)
    num_after = 7 - num_before
    after = bytes(range(1 << (7 - num_after), 1 << (8 - num_after)))
    classes = (b"".join(b"\\x%02x" % byte for byte in found) for found in (before, after))
    return b"[%s]\\0\\0[%s]" % tuple(classes)


_HOLE = re.compile(b"|".join([rb"\0\0\0[^\0\1]", *(_zeros_of(num_before) for num_before in range(1, 8))]), re.DOTALL)


def has_hole(packet: bytes) -> bool:
    """Whether a slice of MPEG-1 or MPEG-2 has 23 zero bits in a row, which none has: the standards keep them for start
    codes (13818-2, 6.2.1). Zeros that nothing but a start code or the end follows fill a packet up.
    """
    for hole in _HOLE.finditer(packet):
        start = packet.rfind(b"\0\0\1", 0, hole.start() + 1)
        if start >= 0 and packet[start + 3] in _SLICES:
            return True
    return False


def reader_for(codec: str, extradata: bytes, *, intra_only: bool) -> Reader:
    """A reader of a codec's packets.

    Args:
        codec: FFmpeg's name of the codec.
        extradata: the codec's headers in the container.
        intra_only: no packet of this codec depends on another.

    Raises:
        Doubt: no reader, or headers that nothing can be proved from.
    """
    readers: dict[str, Callable[[bytes], Reader]] = {"h264": _H264, "hevc": _Hevc, "mpeg4": _Mpeg4}
    without_header: dict[str, Callable[[], Reader]] = {"vp8": _Vp8, "vp9": _Vp9, "av1": _Av1, "mjpeg": _Jpeg}
    try:
        if codec in readers:
            return readers[codec](extradata)
    except (IndexError, Damage):  # decoders go on, packets may bring a better one
        raise Doubt("the container's header is not understood") from None
    if codec in without_header:
        return without_header[codec]()
    if intra_only:
        return _Intra()
    raise Doubt(f"{codec} is not read packet by packet")
