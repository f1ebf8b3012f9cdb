"""VP8, whose frames are shown in the order of the file."""

from __future__ import annotations

from .reader import CLEAN, NOWHERE, Damage, Data, Picture, Reader, pixel_format_of


class Vp8(Reader):
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
            self._check((width, height), pixel_format_of("4:2:0", 8))
        return Picture(bool(data[0] & 0x10), True, access, len(self.pictures))
