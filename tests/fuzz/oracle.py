"""What FFmpeg knows of the damage in a file, frame by frame: with nothing but PyAV, nor with what is tested."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import av
import av.logging
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext

STRICT = "crccheck+bitstream+buffer+explode"


class Shown(NamedTuple):
    """A frame that a decoder which is told to go on gives."""

    row: int
    """Of its packet, in the order of the file."""
    is_key: bool


class Oracle:
    """Of one file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.container = ""
        """What the container's reader complains of; it holds for all frames."""
        self._contents: list[tuple[bytes, bool, bool]] = []
        """(content, is a keyframe by the container, is marked as damaged) of the packets."""
        self._template: av.container.InputContainer | None = None
        with _listening() as lines:
            try:
                with av.open(str(path), metadata_errors="replace") as container:
                    for packet in container.demux(container.streams.video[0]):
                        if packet.size:
                            self._contents.append((bytes(packet), packet.is_keyframe, packet.is_corrupt))
                    name = container.format.name
            except (av.error.FFmpegError, IndexError, OSError) as error:
                self.container, name = f"{type(error).__name__}: {error}", ""
        said = [text.strip() for level, who, text in lines if level <= av.logging.ERROR and who == name]
        self.container = self.container or (f"log: {said[0]}" if said else "")

    @cached_property
    def shown(self) -> list[Shown]:
        """The frames of the file, from the first keyframe that comes out; decoded with no regard to damage."""
        found: list[Shown] = []
        with av.open(str(self.path), metadata_errors="replace") as container, _listening():
            context = self._context(container, "")
            for row, content in [*enumerate(self._contents), (-1, None)]:
                try:
                    for frame in context.decode(None if content is None else _packet(content[0], row)):
                        found.append(Shown(-1 if frame.pts is None else frame.pts, frame.key_frame))
                except av.error.FFmpegError:
                    continue
        first = next((place for place, frame in enumerate(found) if frame.is_key), 0)
        return found[first:]

    def is_certain(self) -> bool:
        """Whether FFmpeg gives the same pictures again.

        It leaves parts of some damaged ones as they were in memory, and so by whether pictures before are still in use.
        """
        first, second = self._digests(keep=False), self._digests(keep=True)
        return first == second

    def _digests(self, *, keep: bool) -> list[str]:
        found, kept = [], []
        with av.open(str(self.path), metadata_errors="replace") as container:
            context = self._context(container, "")
            for row, content in [*enumerate(self._contents), (-1, None)]:
                try:
                    for frame in context.decode(None if content is None else _packet(content[0], row)):
                        found.append(hashlib.sha256(frame.to_ndarray().tobytes()).hexdigest())
                        kept += [frame] if keep else []
                except av.error.FFmpegError:
                    continue
        return found

    def num_lost(self, num_packets: int) -> int:
        """How many frames before the first keyframe cannot be decoded, of a recording that begins inside a GOP."""
        return num_packets - len(self.shown) if self.shown and self.shown[0].row > 0 else 0

    def knows(self, frame: int) -> str:
        """What strict decoding complains of on the way to a frame from the last keyframe; empty if of nothing.

        Pictures that no other refers to are left out, as far as the decoder can do that.
        """
        if self.container or frame >= len(self.shown):
            return self.container
        row = self.shown[frame].row
        start = max((place for place in range(row + 1) if self._contents[place][1]), default=self.shown[0].row)
        with av.open(str(self.path), metadata_errors="replace") as container, _listening() as lines:
            context = self._context(container, STRICT)
            try:
                for place in range(start, row + 1):
                    content, _, is_corrupt = self._contents[place]
                    context.skip_frame = "DEFAULT" if place == row else "NONREF"
                    if is_corrupt:
                        return f"packet {place} is marked as damaged"
                    for picture in context.decode(_packet(content, place)):
                        if picture.is_corrupt:
                            return f"the picture of packet {picture.pts} is marked as damaged"
                context.decode(None)
            except av.error.FFmpegError as error:
                return f"{type(error).__name__}: {error}"
        said = [text.strip() for level, _, text in lines if level <= av.logging.ERROR]
        return f"log: {said[0]}" if said else ""

    @staticmethod
    def _context(container: av.container.InputContainer, err_detect: str) -> VideoCodecContext:
        stream = container.streams.video[0]
        stream.thread_type, stream.codec_context.thread_count = "NONE", 1
        if err_detect:
            stream.codec_context.options = {"err_detect": err_detect}
        return stream.codec_context


def _packet(content: bytes, row: int) -> Packet:
    packet = Packet(len(content))  # with zeros behind it, where FFmpeg reads on
    packet.update(content)
    packet.pts = row
    return packet


class _listening:
    """FFmpeg's errors while inside, as (level, who, message)."""

    def __enter__(self) -> list[tuple[int, str, str]]:
        self._before = av.logging.get_level(), av.logging.get_skip_repeated()
        av.logging.set_level(av.logging.ERROR)
        av.logging.set_skip_repeated(False)
        self._capture = av.logging.Capture()
        return self._capture.__enter__()

    def __exit__(self, *exception: object) -> None:
        self._capture.__exit__(None, None, None)
        av.logging.set_level(self._before[0])
        av.logging.set_skip_repeated(self._before[1])
