"""H.264: parameter sets, the first slice of a picture, and messages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from .nal import OrderCount, check_message, messages, nal_units, payload
from .reader import (
    CHROMA_STEPS,
    CHROMAS,
    CLEAN,
    LEADING,
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

_RECOVERY_POINT, _USER_DATA = 6, 5
_FARTHEST_FIELD = 1 << 16


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


class H264(Reader):
    """ITU-T H.264."""

    needs_leading = True  # the frame numbers of referenced pictures must not have gaps
    order_may_restart = True  # memory management control operation 5

    def __init__(self, extradata: bytes) -> None:
        super().__init__()
        self._sequences: dict[int, _H264Sequence] = {}
        self._pictures: dict[int, tuple[int, bool]] = {}
        self._settings = Settings()
        self._order = OrderCount()
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
            units = list(nal_units(extradata, 0))
        self._settings.add_container(self._read_settings([unit for unit in units if unit[0] & 31 in (7, 8)]))

    def _read_settings(self, units: Sequence[Data]) -> dict[object, bytes]:
        found: dict[object, bytes] = {}
        for unit in units:
            bits = Bits(payload(unit, header_bytes=1))
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
        across, down = (1, 1) if planes else CHROMA_STEPS[chroma]
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
            pixel_format=pixel_format_of(CHROMAS[chroma or 1], luma_bits, chroma_bits if chroma else None),
            unread=unread,
        )

    def _read(self, data: Data, is_keyframe: bool) -> Picture:  # noqa: ARG002
        settings, slices = [], []
        recovery = None
        num_pictures = 0
        for unit in nal_units(data, self.length_size):
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
        bits = Bits(payload(slices[0], header_bytes=1, num_bytes=24))
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
            for message, content in messages(unit, header_bytes=1):
                check_message(message, content, codec="H.264")
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
        bits = Bits(payload(unit, header_bytes=1, num_bytes=24))
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
