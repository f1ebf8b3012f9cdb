"""What the readers of all codecs have in common: what they tell of a packet, what they raise, how bits are read."""

from __future__ import annotations

from typing import NamedTuple, NoReturn

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


class Settings:
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


CHROMAS = ("4:0:0", "4:2:0", "4:2:2", "4:4:4")
"""By the number that H.264 and HEVC give the subsampling."""

CHROMA_STEPS = ((1, 1), (2, 2), (2, 1), (1, 1))
"""Luma samples across and down for each chroma sample, by the same number."""


def pixel_format_of(chroma: str, luma_bits: int, chroma_bits: int | None = None) -> str:
    """What :attr:`Reader.pixel_format` calls pictures of such samples."""
    if chroma_bits in (None, luma_bits) or chroma == CHROMAS[0]:
        return f"{chroma} {luma_bits} bit"
    return f"{chroma} {luma_bits} and {chroma_bits} bit"
