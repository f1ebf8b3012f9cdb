"""Codecs whose every packet stands alone, and of these JPEG, whose headers tell more."""

from __future__ import annotations

from collections.abc import Iterator

from .reader import CLEAN, Damage, Data, Doubt, Picture, Reader, Size, pixel_format_of


class Intra(Reader):
    """Codecs whose every packet stands alone."""

    def _read(self, data: Data, is_keyframe: bool) -> Picture:  # noqa: ARG002
        if not is_keyframe:
            raise Doubt("packets of an intra-only codec that are not keyframes")
        return Picture(True, False, CLEAN, len(self.pictures))


_JPEG_END_BYTES = 4096
"""The end of a picture must be among the last bytes of its packet; some writers pad packets."""


class Jpeg(Intra):
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
            return pixel_format_of("4:0:0", frame_header[0])
        across, down = (max(luma, 1) // max(chroma, 1) for luma, chroma in zip(factors[0], factors[1], strict=True))
        known = {(2, 2): "4:2:0", (2, 1): "4:2:2", (1, 1): "4:4:4"}
        return pixel_format_of(known.get((across, down), f"{across}x{down}"), frame_header[0])

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
