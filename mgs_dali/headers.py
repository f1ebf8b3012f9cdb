"""The few header bits of encoded pictures that say where decoding can start, what is shown when, what nobody needs.

A :class:`Reader` takes the packets of a stream in the order of the file and tells of each. Whatever it cannot be sure
of raises :class:`Doubt`; the stream is then decoded from its start, as if there were no reader.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

__all__ = ["CLEAN", "LEADING", "NOWHERE", "Doubt", "Picture", "Reader", "joinable", "reader_for"]

NOWHERE, LEADING, CLEAN = range(3)
"""Whether decoding can start at a packet: no; yes, but pictures after it that are shown before it may need earlier
ones (an open GOP), and the stream cannot be joined here to other pictures; yes, and it can."""


Data = bytes | memoryview
"""Of a packet, or of a part of one."""


class Doubt(Exception):
    """Why nothing can be proved about a stream."""


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

    def add(self, data: Data, *, is_keyframe: bool) -> None:
        """Read the next packet.

        Raises:
            Doubt: nothing can be proved about this stream.
        """
        try:
            self.pictures.append(self._read(data, is_keyframe))
        except IndexError:
            raise Doubt("a header is cut off") from None

    def finish(self) -> list[Picture]:
        """The pictures, in the order of the file."""
        if not self.whole_gops:
            return self.pictures
        return [picture._replace(is_referenced=True) for picture in self.pictures]

    def _read(self, data: Data, is_keyframe: bool) -> Picture:
        raise NotImplementedError


class Bits:
    """Reads bits, most significant first."""

    __slots__ = ("_left", "_value")

    def __init__(self, data: Data) -> None:
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def __call__(self, num_bits: int) -> int:
        self._left -= num_bits
        if self._left < 0:
            raise Doubt("a header is cut off")
        return (self._value >> self._left) & ((1 << num_bits) - 1)

    def unsigned(self) -> int:
        """An unsigned Exp-Golomb number, ue(v) of H.264 (clause 9.1)."""
        rest = self._value & ((1 << self._left) - 1)
        num_bits = rest.bit_length()  # as many zeros as came before follow the first one
        self._left = 2 * num_bits - self._left - 1
        if self._left < 0:
            raise Doubt("a header is cut off")
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

    def add_container(self, units: dict[object, bytes]) -> None:
        self._contents.update(units)
        self._of_container = set(units)

    def add_packet(self, units: dict[object, bytes]) -> bool:
        """Whether decoding could start at this packet, as far as these headers go."""
        if self._of_first_packet is None:
            self._contents = {**units, **self._contents}
            self._of_first_packet = set(units) - self._of_container
        for key, content in units.items():
            if self._contents.get(key) != content:
                raise Doubt("the coding parameters change on the way")
        return not self._of_first_packet or self._of_first_packet <= units.keys()


# --- H.264 and HEVC ---------------------------------------------------------------------------------------------------


def _units(data: Data, length_size: int) -> Iterator[Data]:
    """The NAL units of a packet: each after its length, or between start codes (Annex B) where ``length_size`` is 0."""
    place, size = 0, len(data)
    if length_size:
        while place < size:
            start = place + length_size
            place = start + int.from_bytes(data[place:start], "big")
            if not start < place <= size:
                raise Doubt("a packet's NAL units are not where their lengths say")
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


_FILM_GRAIN, _RECOVERY_POINT, _USER_DATA = 19, 6, 5
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
        chroma = planes = 0
        if profile in (44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244):
            chroma = bits.unsigned()
            planes = bits(1) if chroma == 3 else 0
            bits.unsigned(), bits.unsigned(), bits(1)
            if bits(1):  # scaling lists
                for index in range(12 if chroma == 3 else 8):
                    last = following = 8
                    for _ in range((16 if index < 6 else 64) if bits(1) else 0):
                        if following:
                            following = (last + bits.signed()) % 256
                        last = following or last
        if chroma == 3:
            # FFmpeg decodes these by the encoder's version, which only the first packet tells.
            raise Doubt("H.264 with 4:4:4 chroma")
        frame_number_bits = bits.unsigned() + 4
        order_type, order_bits = bits.unsigned(), 0
        if order_type == 0:
            order_bits = bits.unsigned() + 4
        elif order_type != 2:
            raise Doubt(f"H.264 with picture order count type {order_type}")
        bits.unsigned(), bits(1), bits.unsigned(), bits.unsigned()
        if not bits(1):
            raise Doubt("interlaced H.264")
        if order_bits > 16:
            raise Doubt("an H.264 header is not understood")
        return number, _H264Sequence(2 * planes, frame_number_bits, order_type, order_bits)

    def _read(self, data: Data, is_keyframe: bool) -> Picture:  # noqa: ARG002
        recovers = False
        settings, slices = [], []
        num_pictures = 0
        for unit in _units(data, self.length_size):
            kind = unit[0] & 31
            if kind in (1, 5):
                slices.append(unit)
                num_pictures += unit[1] >> 7  # first_mb_in_slice is 0
            elif kind in (7, 8):
                settings.append(bytes(unit))
            elif kind in (2, 3, 4, 13, 15):
                raise Doubt(f"H.264 with NAL units of type {kind}")
            elif kind == 6:
                for message, content in _messages(unit, header_bytes=1):
                    if message == _FILM_GRAIN:
                        raise Doubt("H.264 with film grain")
                    if message == _RECOVERY_POINT:  # D.1.8: recovery_frame_cnt, exact_match_flag, broken_link_flag
                        bits = Bits(content)
                        recovers = (bits.unsigned(), bits(1), bits(1)) == (0, 1, 0)
                    if message == _USER_DATA and (version := re.search(rb"x264 - core (\d+)", content)):
                        self._check_encoder(int(version[1]))
        has_settings = True
        if settings or not self.pictures:
            has_settings = self._settings.add_packet(self._read_settings(settings))
        if num_pictures != 1 or not slices[0][1] >> 7:
            raise Doubt(f"an H.264 packet holds {num_pictures} pictures")

        header, kind = slices[0][0], slices[0][0] & 31
        bits = Bits(_payload(slices[0], header_bytes=1, num_bytes=24))
        bits(1)
        bits.unsigned()
        is_referenced = header & 0x60 != 0
        order = self._read_order(bits, is_idr=kind == 5, is_referenced=is_referenced)
        access = NOWHERE
        if has_settings and kind == 5:
            access = CLEAN
        elif has_settings and recovers and all(self._is_intra(unit) for unit in slices):
            access = LEADING
        return Picture(True, is_referenced, access, order)

    @staticmethod
    def _check_encoder(version: int) -> None:
        if version <= 33:
            raise Doubt("H.264 of an encoder with a known fault, which only the first packet tells")

    @staticmethod
    def _is_intra(unit: Data) -> bool:
        bits = Bits(_payload(unit, header_bytes=1, num_bytes=24))
        bits.unsigned()
        return bits.unsigned() % 5 == 2

    def _read_order(self, bits: Bits, *, is_idr: bool, is_referenced: bool) -> int:
        picture = bits.unsigned()
        if picture not in self._pictures or self._pictures[picture][0] not in self._sequences:
            raise Doubt("a picture's parameter sets are missing")
        number, has_lower = self._pictures[picture]
        sequence = self._sequences[number]
        bits(sequence.colour_plane_bits + sequence.frame_number_bits)
        if is_idr:
            bits.unsigned()
        if sequence.order_type == 2:
            return len(self.pictures)
        low = bits(sequence.order_bits)
        order = self._order(low, num_bits=sequence.order_bits, restarts=is_idr, is_anchor=is_referenced)
        # delta_pic_order_cnt_bottom: a picture is as early as the earlier of its fields.
        return order + min(max(bits.signed(), -_FARTHEST_FIELD), 0) if has_lower else order


_BLA_WITHOUT_LEADING, _CRA = 18, 21


class _Hevc(Reader):
    """ITU-T H.265."""

    def __init__(self, extradata: bytes) -> None:
        super().__init__()
        self._sequences: dict[int, tuple[int, int]] = {}
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
        number = bits.unsigned()
        planes = bits(1) if bits.unsigned() == 3 else 0
        bits.unsigned(), bits.unsigned()
        if bits(1):
            for _ in range(4):
                bits.unsigned()
        bits.unsigned(), bits.unsigned()
        order_bits = bits.unsigned() + 4
        if order_bits > 16:
            raise Doubt("an HEVC header is not understood")
        self._sequences[number] = (2 * planes, order_bits)
        return number

    def _read(self, data: Data, is_keyframe: bool) -> Picture:  # noqa: ARG002
        settings, first = [], []
        for unit in _units(data, self.length_size):
            if len(unit) < 3:
                raise Doubt("an HEVC unit is cut off")
            kind = unit[0] >> 1 & 63
            if (unit[0] & 1) << 5 | unit[1] >> 3:
                raise Doubt("HEVC with several layers")
            if kind < 32:
                if unit[2] & 0x80:
                    first.append(unit)
            elif kind in (32, 33, 34):
                settings.append(bytes(unit))
            elif kind in (36, 37):
                raise Doubt("HEVC sequences that were joined")
            elif kind == 39 and any(message == _FILM_GRAIN for message, _ in _messages(unit, header_bytes=2)):
                raise Doubt("HEVC with film grain")
        has_settings = True
        if settings or not self.pictures:
            has_settings = self._settings.add_packet(self._read_settings(settings))
        if len(first) != 1:
            raise Doubt(f"an HEVC packet holds {len(first)} pictures")
        kind, layer = first[0][0] >> 1 & 63, (first[0][1] & 7) - 1
        bits = Bits(_payload(first[0], header_bytes=2, num_bytes=24))
        bits(1)
        if 16 <= kind <= 23 and bits(1) and self.pictures:
            raise Doubt("HEVC with pictures that are not shown before a new sequence")
        if not (kind <= 9 or 19 <= kind <= 21):
            raise Doubt(f"HEVC with pictures of NAL unit type {kind}")
        number, num_extra_bits = self._pictures.get(bits.unsigned(), (-1, 0))
        if number not in self._sequences:
            raise Doubt("a picture's parameter sets are missing")
        plane_bits, order_bits = self._sequences[number]
        bits(num_extra_bits)
        bits.unsigned()
        bits(plane_bits)
        is_idr = kind in (19, 20)
        is_sub_layer_reference = kind >= 16 or bool(kind & 1)
        order = self._order(
            0 if is_idr else bits(order_bits),
            num_bits=order_bits,
            restarts=is_idr,
            is_anchor=layer == 0 and is_sub_layer_reference and kind not in (7, 9),
        )
        if layer > 0:
            # Pictures of higher temporal layers may refer to sub-layer non-reference pictures of lower ones.
            self.whole_gops = "HEVC with temporal layers"
        access = CLEAN if 19 <= kind <= 21 and has_settings else NOWHERE
        return Picture(True, is_sub_layer_reference, access, order)


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
        bits(29)
        if bits(1):
            raise Doubt("interlaced MPEG-4")

    def _read(self, data: Data, is_keyframe: bool) -> Picture:  # noqa: ARG002
        data = bytes(data)
        place = data.find(b"\0\0\1\xb6")
        if place < 0 or data.find(b"\0\0\1\xb6", place + 4) >= 0:
            raise Doubt("MPEG-4 with packets of no picture, or of two (packed B-frames)")
        has_settings = self._settings.add_packet(self._read_settings(data[:place]) if place else {})
        if not self._time_bits:
            raise Doubt("MPEG-4 without a header")
        bits = Bits(data[place + 4 : place + 24])
        kind = bits(2)
        while bits(1):
            pass
        if not bits(1):
            raise Doubt("an MPEG-4 header is not understood")
        bits(self._time_bits)
        if not bits(1):
            raise Doubt("an MPEG-4 header is not understood")
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
        # Section 9.1: bit 0 of the frame tag is clear in keyframes, bit 4 is show_frame.
        access = NOWHERE if data[0] & 1 else CLEAN
        return Picture(bool(data[0] & 0x10), True, access, len(self.pictures))


class _Vp9(Reader):
    """The VP9 bitstream specification, version 0.6."""

    def __init__(self) -> None:
        super().__init__()
        self._resets: list[bool] = []

    def _read(self, data: Data, is_keyframe: bool) -> Picture:  # noqa: ARG002
        frames = [self._read_frame(frame) for frame in self._split(data)]
        num_shown = sum(shows for shows, _, _, _ in frames)
        if num_shown > 1:
            raise Doubt(f"a VP9 packet shows {num_shown} frames")
        _, _, is_key, resets = frames[0]
        self._resets.append(resets)
        is_referenced = any(refreshes for _, refreshes, _, _ in frames)
        return Picture(num_shown == 1, is_referenced, CLEAN if is_key else NOWHERE, len(self.pictures))

    def finish(self) -> list[Picture]:
        # A frame that refreshes no buffer still passes on its motion vectors and probabilities, unless the frame after
        # it starts afresh (error-resilient, or a keyframe).
        following = [*self._resets[1:], True]
        return [
            picture._replace(is_referenced=picture.is_referenced or not resets)
            for picture, resets in zip(self.pictures, following, strict=True)
        ]

    @staticmethod
    def _split(data: Data) -> list[Data]:
        """The frames of a packet (Annex B, superframes)."""
        if not data:
            raise Doubt("an empty VP9 packet")
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
            raise Doubt("a VP9 superframe is not understood")
        return frames

    @staticmethod
    def _read_frame(data: Data) -> tuple[bool, bool, bool, bool]:
        """(shows, refreshes a buffer, is a keyframe, takes nothing over), clause 6.2."""
        bits = Bits(data[:24])
        if bits(2) != 2:
            raise Doubt("a VP9 header is not understood")
        profile = bits(1) + 2 * bits(1)
        if profile == 3:
            bits(1)
        if bits(1):  # show_existing_frame
            return True, False, False, False
        is_key, shows, is_resilient = not bits(1), bool(bits(1)), bool(bits(1))
        if is_key:
            return shows, True, True, True
        intra_only = False if shows else bool(bits(1))
        if not is_resilient:
            bits(2)
        if intra_only:
            bits(24)
            if profile > 0:
                return shows, True, False, is_resilient
        return shows, bits(8) != 0, False, is_resilient


class _Av1(Reader):
    """The AV1 bitstream specification. A temporal unit, which is a packet, shows one frame."""

    def __init__(self) -> None:
        super().__init__()
        self.whole_gops = "AV1 is decoded in whole GOPs"

    def _read(self, data: Data, is_keyframe: bool) -> Picture:
        access = CLEAN if is_keyframe and self._starts(data) else NOWHERE
        return Picture(True, True, access, len(self.pictures))

    @staticmethod
    def _starts(data: Data) -> bool:
        """A sequence header, then a keyframe that is shown (clauses 5.3, 5.9)."""
        place, has_sequence = 0, False
        while place < len(data):
            header = data[place]
            if not header & 2:
                return False
            place += 2 if header & 4 else 1
            size = shift = 0
            while place < len(data):
                size |= (data[place] & 127) << shift
                shift, place = shift + 7, place + 1
                if data[place - 1] < 128:
                    break
            kind = header >> 3 & 15
            if kind == 1:
                has_sequence = place < len(data) and not data[place] & 8  # reduced_still_picture_header
            elif kind in (3, 6):
                # show_existing_frame 0, frame_type 00 (key), show_frame 1
                return has_sequence and place < len(data) and data[place] >> 4 == 1
            place += size
        return False


# --- intra only -------------------------------------------------------------------------------------------------------


_JPEG_HEADER_BYTES = 4096


class _Intra(Reader):
    """Codecs whose every packet stands alone."""

    def __init__(self, codec: str) -> None:
        super().__init__()
        self._is_jpeg = codec == "mjpeg"
        self._has_huffman_tables: set[bool] = set()

    def _read(self, data: Data, is_keyframe: bool) -> Picture:
        if not is_keyframe:
            raise Doubt("packets of an intra-only codec that are not keyframes")
        if self._is_jpeg:
            # Tables that a picture lacks are those of the picture before it, or the standard ones where none has any.
            header = bytes(data[:_JPEG_HEADER_BYTES])
            header = header[: header.find(b"\xff\xda")]
            self._has_huffman_tables.add(b"\xff\xc4" in header)
            if b"\xff\xdb" not in header or len(self._has_huffman_tables) > 1:
                raise Doubt("JPEG pictures without tables of their own")
        return Picture(True, False, CLEAN, len(self.pictures))


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
    in_order: dict[str, Callable[[], Reader]] = {"vp8": _Vp8, "vp9": _Vp9, "av1": _Av1}
    try:
        if codec in readers:
            return readers[codec](extradata)
    except IndexError:
        raise Doubt("the header is cut off") from None
    if codec in in_order:
        return in_order[codec]()
    if intra_only:
        return _Intra(codec)
    raise Doubt(f"{codec} is not read packet by packet")
