"""AV1, whose packets are shown in the order of the file."""

from __future__ import annotations

from collections.abc import Iterator

from .reader import CLEAN, NOWHERE, Bits, Damage, Data, Doubt, Picture, Reader, Size, pixel_format_of

AV1_FRAMES = (3, 6)
"""Types of units that start with a frame header: it alone, or its tiles after it."""


class Av1(Reader):
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
        for kind, content in av1_units(data):
            if kind == 1:
                has_sequence = True
                self._read_sequence(bytes(content))
            elif kind in AV1_FRAMES:
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
            return size, pixel_format_of("4:0:0", depth), is_still
        is_rgb = bits(1) and (bits(8), bits(8), bits(8)) == (1, 13, 0)
        if is_rgb:
            return size, pixel_format_of("RGB", depth), is_still
        bits(1)
        chroma = ("4:2:0", "4:4:4", "4:2:2")[profile]
        if profile == 2 and depth == 12:
            chroma = ("4:2:2" if not bits(1) else "4:2:0") if bits(1) else "4:4:4"
        return size, pixel_format_of(chroma, depth), is_still


def av1_units(data: Data) -> Iterator[tuple[int, Data]]:
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
