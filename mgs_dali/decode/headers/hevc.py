"""HEVC: parameter sets, the first slice of a picture, and messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .nal import OrderCount, check_message, messages, nal_units, payload
from .reader import (
    CHROMA_STEPS,
    CHROMAS,
    CLEAN,
    NOWHERE,
    Bits,
    Damage,
    Data,
    Doubt,
    Picture,
    Reader,
    Settings,
    Size,
    pixel_format_of,
)

_RASL = (8, 9)
BLA_WITHOUT_LEADING, CRA = 18, 21
"""NAL unit types of pictures that decoding can start at."""


class _HevcSequence(NamedTuple):
    colour_plane_bits: int
    order_bits: int
    size: Size
    pixel_format: str


class Hevc(Reader):
    """ITU-T H.265."""

    def __init__(self, extradata: bytes) -> None:
        super().__init__()
        self._sequences: dict[int, _HevcSequence] = {}
        self._pictures: dict[int, tuple[int, int]] = {}
        self._settings = Settings()
        self._order = OrderCount()
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
            units = list(nal_units(extradata, 0))
        self._settings.add_container(self._read_settings([u for u in units if u and u[0] >> 1 & 63 in (32, 33, 34)]))

    def _read_settings(self, units: Sequence[Data]) -> dict[object, bytes]:
        found: dict[object, bytes] = {}
        for unit in units:
            bits, kind = Bits(payload(unit, header_bytes=2)), unit[0] >> 1 & 63
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
        across, down = (1, 1) if planes else CHROMA_STEPS[chroma]
        self._sequences[number] = _HevcSequence(
            colour_plane_bits=2 * planes,
            order_bits=order_bits,
            size=(width - across * (left + right), height - down * (top + bottom)),
            pixel_format=pixel_format_of(CHROMAS[chroma], luma_bits, chroma_bits),
        )
        return number

    def _read(self, data: Data, is_keyframe: bool) -> Picture:  # noqa: ARG002
        settings, first = [], []
        for unit in nal_units(data, self.length_size):
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
        bits = Bits(payload(first[0], header_bytes=2, num_bytes=24))
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
            for message, content in messages(unit, header_bytes=2):
                check_message(message, content, codec="HEVC")
        except Damage:  # decoders go on
            raise Doubt("an HEVC message is not understood") from None
