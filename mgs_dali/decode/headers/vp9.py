"""VP9, whose frames are shown in the order of the file; several may be in one packet."""

from __future__ import annotations

from typing import NamedTuple

from .reader import CLEAN, NOWHERE, Bits, Change, Damage, Data, Doubt, Picture, Reader, Size, pixel_format_of


class _Vp9Frame(NamedTuple):
    shows: bool
    refreshes: int
    """Bit mask of the eight slots that keep it as a reference."""
    is_key: bool
    resets: bool
    """It takes nothing over from the frame before it."""
    size: Size | None
    repeats: bool = False


class Vp9(Reader):
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
        for content in vp9_frames(data):
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
            pixel_format = self._read_colours(bits, profile) if is_key or profile else pixel_format_of("4:2:0", 8)
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
        return pixel_format_of("RGB" if is_rgb else chroma, depth)


def vp9_frames(data: Data) -> list[Data]:
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


def vp9_shows(frame: Data) -> tuple[bool, bool]:
    """Whether a VP9 frame is shown, and whether it is an earlier one that is shown again."""
    bits = Bits(frame[:2])
    bits(2)
    if bits(2) == 3:
        bits(1)
    again = bool(bits(1))
    return again or bits(2) & 1 == 1, again
