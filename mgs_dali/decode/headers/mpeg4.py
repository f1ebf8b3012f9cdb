"""MPEG-4 part 2."""

from __future__ import annotations

import re

from .nal import nal_units
from .reader import CLEAN, NOWHERE, Bits, Data, Doubt, Picture, Reader, Settings, Size, pixel_format_of


class Mpeg4(Reader):
    """ISO/IEC 14496-2. A reference picture is shown when the next one is decoded, a B-VOP at once."""

    def __init__(self, extradata: bytes) -> None:
        super().__init__()
        self._settings = Settings()
        self._time_bits = 0
        self._layer_size: Size | None = None
        self._low_delay = True  # what FFmpeg takes it for without a word on it
        self._reference: int | None = None
        self._settings.add_container(self._read_settings(extradata))

    def _read_settings(self, data: bytes) -> dict[object, bytes]:
        found: dict[object, bytes] = {}
        for unit in map(bytes, nal_units(data, 0)):
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
        self._check(self._layer_size, pixel_format_of("4:2:0", 8))
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
