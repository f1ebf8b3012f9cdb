"""The few header bits of encoded pictures that say where decoding can start, what is shown when, what nobody needs.

A :class:`~.reader.Reader` takes the packets of a stream in the order of the file and tells of each. Whatever it cannot
be sure of raises :class:`~.reader.Doubt`; the stream is then decoded from its start, as if there were no reader. What
cannot be read because it is broken raises :class:`~.reader.Damage`, and pictures of another size or pixel format
:class:`~.reader.Change`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from .av1 import AV1_FRAMES, Av1, av1_units
from .h264 import H264
from .hevc import BLA_WITHOUT_LEADING, CRA, Hevc
from .intra import Intra, Jpeg
from .mpeg4 import Mpeg4
from .nal import nal_units
from .reader import Damage, Data, Doubt, Reader
from .vp8 import Vp8
from .vp9 import Vp9, vp9_frames, vp9_shows

__all__ = ["Part", "joinable", "reader_for", "split"]


def reader_for(codec: str, extradata: bytes, *, intra_only: bool) -> Reader:
    """A reader of a codec's packets.

    Args:
        codec: FFmpeg's name of the codec.
        extradata: the codec's headers in the container.
        intra_only: no packet of this codec depends on another.

    Raises:
        Doubt: no reader, or headers that nothing can be proved from.
    """
    readers: dict[str, Callable[[bytes], Reader]] = {"h264": H264, "hevc": Hevc, "mpeg4": Mpeg4}
    without_header: dict[str, Callable[[], Reader]] = {"vp8": Vp8, "vp9": Vp9, "av1": Av1, "mjpeg": Jpeg}
    try:
        if codec in readers:
            return readers[codec](extradata)
    except (IndexError, Damage):  # decoders go on, packets may bring a better one
        raise Doubt("the container's header is not understood") from None
    if codec in without_header:
        return without_header[codec]()
    if intra_only:
        return Intra()
    raise Doubt(f"{codec} is not read packet by packet")


def joinable(packet: bytes, *, codec: str, extradata: bytes) -> bytes:
    """The packet of a CLEAN access point so that it can follow any other packet.

    H.264 gets an access unit delimiter: without one, two IDR pictures in a row may look like slices of one. A CRA
    picture of HEVC becomes a BLA picture, which starts a sequence of its own; the two differ by name only (clause
    7.4.2.2), their slices have the same syntax. Packets of other codecs stay as they are.
    """
    if codec == "h264":
        length_size = H264(extradata).length_size
        delimiter = b"\x09\xf0"
        if next(iter(nal_units(packet, length_size)))[0] & 31 == 9:
            return packet
        return (len(delimiter).to_bytes(length_size, "big") if length_size else b"\0\0\0\1") + delimiter + packet
    if codec != "hevc":
        return packet
    renamed, place = bytearray(packet), 0
    for unit in map(bytes, nal_units(packet, Hevc(extradata).length_size)):
        place = packet.index(unit, place)
        if unit[0] >> 1 & 63 == CRA:
            renamed[place] = unit[0] & 0x81 | BLA_WITHOUT_LEADING << 1
        place += len(unit)
    return bytes(renamed)


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
        frames = [(bytes(frame), vp9_shows(frame)) for frame in vp9_frames(packet)]
        return [Part(frame, shown, int(not again)) for frame, (shown, again) in frames]
    num_pictures = 1
    if codec == "av1":
        num_pictures = sum(content[0] < 128 for kind, content in av1_units(packet) if kind in AV1_FRAMES)
    return [Part(bytes(packet), shows, num_pictures)]
