"""Frame folders: videos that were taken apart into JPEG files, one a frame, as Something-Something V1 and Jester come.

Frames are counted from 0 as everywhere; the files are numbered from 1, as mmaction2 has them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from string import Formatter
from typing import NamedTuple

import av
import av.logging
import numpy as np
from av.codec.context import CodecContext
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

from ..decode.packets import Scan
from ..decode.pyav import AS_STORED, complaint, decoder_options, ffmpeg_reason, listening
from ..decode.reading import Choose, Pictures, Reading, Stamp, clip_span
from ..motion.measure import Measure, choose_frames
from ..sampling import Sampler

__all__ = ["FrameFolder", "Picture", "check_jpeg", "check_template", "decode_pictures"]


class Picture(NamedTuple):
    """One frame as it is in its file."""

    file: Path
    jpeg: bytes
    width: int
    height: int


def check_template(template: str) -> None:
    """Check that a template names the frames of a folder by their number, and by nothing else.

    Raises:
        ValueError: it does not; the message has examples.
    """
    try:
        parsed = [(name, spec, how) for _, name, spec, how in Formatter().parse(template) if name is not None]
    except ValueError:
        parsed = []
    if len(parsed) == 1 and "/" not in template:
        ((name, spec, conversion),) = parsed
        # Nothing but the number itself: a field such as {0.__class__} or {0!r} would format, but to something else.
        if name in ("", "0") and not conversion and re.fullmatch(r"(0\d{1,2})?d?", spec or ""):
            return
    percent = " What is %05d elsewhere is {:05} here." if "%" in template else ""
    raise ValueError(
        f"template {template!r} does not name a file by its number. It must have exactly one pair of braces, empty or "
        "with a zero-padded width, and no folders, such as 'img_{:05}.jpg' (which names img_00001.jpg), '{:05}.jpg', "
        f"'{{:06d}}.jpg' or '{{}}.jpg'.{percent}"
    )


@dataclass(frozen=True)
class FrameFolder:
    """A folder of numbered JPEG files, or the part of it that is a clip."""

    path: Path
    template: str
    """How a file is named by its number, such as ``img_{:05}.jpg``, as :func:`mgs_dali.read_annotations` takes it."""
    name: str = ""
    """What to call the folder in errors; its path by default."""
    first_frame: int = 0
    """Where the clip begins."""
    num_frames: int = -1
    """How many frames the clip has; -1 for all from ``first_frame`` on."""

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", str(self.path))

    @property
    def whole(self) -> FrameFolder:
        """The folder that this is a clip of."""
        return replace(self, first_frame=0, num_frames=-1)

    def file(self, index: int) -> Path:
        """Where frame ``index`` is."""
        return self.path / self.template.format(index + 1)

    def count_frames(self) -> int:
        """How many frames there are: files numbered from 1 on without a gap. Others in the folder do not count.

        Raises:
            ValueError: there is no such folder, no frame in it, or one is missing in between.
        """
        return len(self._frames())

    def stamp(self) -> Stamp:
        """The state that the frames are in. Asks for each file: over a network that takes a moment, see docs/motion.md.

        Raises:
            ValueError: as :meth:`count_frames`.
        """
        try:
            stats = [entry.stat() for entry in self._frames()]
            newest = max(os.stat(self.path).st_mtime_ns, *(stat.st_mtime_ns for stat in stats))
        except OSError as error:
            raise ValueError(
                f"{self.name}: {error.strerror}. Something takes files away while they are read."
            ) from error
        return Stamp(sum(stat.st_size for stat in stats), newest)

    def span(self, num_there: int) -> range:
        """The frames of the clip in a folder of so many.

        Raises:
            ValueError: it has fewer.
        """
        return clip_span(
            num_there,
            first_frame=self.first_frame,
            num_frames=self.num_frames,
            name=self.name,
            what="folder",
            advice="Correct the line of the list, or extract the frames again.",
        )

    def found(self, *, num_measured: int | None = None) -> Reading:
        """What is known to those who choose frames.

        Where the clip's length is not known, the folder is listed; else one look at the clip's last file tells that it
        is there.

        Args:
            num_measured: how many frames its motion curve is of, where that was measured earlier.

        Raises:
            ValueError: the folder has another number of frames, or fewer than the clip takes.
        """
        if num_measured is not None:
            if not (self._has(num_measured - 1) and not self._has(num_measured)):
                raise ValueError(
                    f"{self.name}: the motion index holds {num_measured} frames of it, the folder has "
                    f"{self.count_frames()}. It has changed since: run mgs-dali index again."
                )
            return Reading(self.name, num_measured, self.span(num_measured))
        stop = self.first_frame + self.num_frames
        num_there = stop if self.num_frames != -1 and self._has(stop - 1) else self.count_frames()
        return Reading(self.name, num_there, self.span(num_there))

    def scan(self) -> Scan:
        """What the folder and the header of the clip's first picture say. Nothing is decoded.

        Raises:
            ValueError: as :meth:`count_frames` and :meth:`read`.
        """
        num_frames = self.count_frames()
        (first,) = self.read([self.span(num_frames).start])
        return Scan("mjpeg", first.width, first.height, "unknown", num_frames, num_frames)

    @contextmanager
    def reading(self) -> Iterator[Reading]:
        """The folder, for a measure of motion.

        Raises:
            ValueError: as :meth:`scan`.
        """
        scan = self.scan()
        span = self.span(scan.num_frames)
        yield Reading(self.name, scan.num_frames, span, scan, lambda: self.decode(span))

    def read_chosen(
        self,
        choose: np.ndarray | Choose,
        *,
        num_measured: int | None = None,
        watch: Callable[[Iterable[VideoFrame]], Iterable[VideoFrame]] | None = None,
    ) -> tuple[np.ndarray, dict[int, Picture]]:
        """Choose frames, and read their files. They are decoded where ``watch`` is to see them, and only then.

        Args:
            choose, num_measured, watch: as those of :meth:`mgs_dali.video.file.VideoFile.pictures`.

        Returns:
            frames: (T,) int64.
            pictures: by frame, each once; all of one size.

        Raises:
            ValueError: the folder or a frame is not there or damaged, or is not the one that was measured.
        """
        found = self.found(num_measured=num_measured)
        if watch is not None:
            for _ in watch(self.decode(found.span)):
                pass
        frames = choose(found) if callable(choose) else np.asarray(choose)
        each = np.unique(frames).tolist()
        return frames, dict(zip(each, self.read(each), strict=True))

    def pictures(
        self,
        choose: np.ndarray | Choose,
        *,
        sparse: bool = True,  # noqa: ARG002  every picture is decoded by itself
        num_measured: int | None = None,
        watch: Callable[[Iterable[VideoFrame]], Iterable[VideoFrame]] | None = None,
    ) -> Pictures:
        """Decode frames, as :meth:`mgs_dali.video.file.VideoFile.pictures` does.

        Raises:
            ValueError: as :meth:`read_chosen`.
        """
        frames, chosen = self.read_chosen(choose, num_measured=num_measured, watch=watch)
        decoded = dict(zip(chosen, decode_pictures(chosen.values(), name=self.name), strict=True))
        return Pictures(frames, decoded)

    def motion(self, measure: Measure) -> np.ndarray:
        """How much each frame of the clip moves, see :meth:`mgs_dali.video.file.VideoFile.motion`.

        Raises:
            ValueError: a frame is missing or damaged, or the motion cannot be measured in this way.
        """
        with self.reading() as reading:
            return measure.curve(reading)

    def choose(self, sampler: Sampler, *, rng: np.random.Generator | None = None) -> np.ndarray:
        """Choose frames of the clip, see :meth:`mgs_dali.video.file.VideoFile.choose`.

        Raises:
            ValueError: as :meth:`motion`.
        """
        return choose_frames(self.reading(), sampler, rng=rng)

    def read(self, indices: Iterable[int]) -> Iterator[Picture]:
        """Read frames, in the order given.

        Raises:
            ValueError: a file is missing, no whole JPEG, or of another size than the one before it.
        """
        first: Picture | None = None
        for index in indices:
            file = self.file(index)
            try:
                jpeg = file.read_bytes()
            except OSError as error:
                hint = ""
                if isinstance(error, FileNotFoundError | NotADirectoryError):
                    # which says what is wrong where the folder is not there, or the file is missing in between
                    hint = f" The folder has {self.count_frames()} frames."
                raise ValueError(
                    f"{self.name}: frame {file.name!r} cannot be read ({error.strerror}).{hint} Check the list and "
                    "the root folder, or extract the frames again."
                ) from error
            width, height = check_jpeg(jpeg, name=f"{self.name}: {file.name}")
            picture = Picture(file, jpeg, width, height)
            first = first or picture
            if (width, height) != (first.width, first.height):
                raise ValueError(
                    f"{self.name}: {file.name} has {width}x{height} pixels, {first.file.name} {first.width}x"
                    f"{first.height}. A clip has one size: extract its frames again, or take it out of the list."
                )
            yield picture

    def decode(self, indices: Iterable[int]) -> Iterator[VideoFrame]:
        """Read and decode frames, in the order given.

        Raises:
            ValueError: as :meth:`read`, or a picture is damaged.
        """
        return decode_pictures(self.read(indices), name=self.name)

    def _has(self, index: int) -> bool:
        return os.path.exists(self.file(index))

    def _frames(self) -> list[os.DirEntry[str]]:
        """The files of the frames, in order."""
        before, after = _around_number(self.template)
        found: dict[int, os.DirEntry[str]] = {}
        other = ""
        try:
            with os.scandir(self.path) as entries:
                for entry in entries:
                    number = entry.name[len(before) : len(entry.name) - len(after)].strip()
                    if number.isdecimal() and self.template.format(int(number)) == entry.name:
                        found[int(number)] = entry
                    else:
                        other = entry.name
        except FileNotFoundError:
            raise ValueError(
                f"{self.name}: no such folder. Check the path in the list and the root folder that it is relative to."
            ) from None
        except NotADirectoryError:
            raise ValueError(
                f"{self.name}: a file, not a folder of frames. For a list of videos leave out the template."
            ) from None
        except OSError as error:
            raise ValueError(f"{self.name}: {error.strerror}. Check the folder's permissions.") from error
        first = self.template.format(1)
        if not found:
            what = f"files such as {other!r}" if other else "no files"
            raise ValueError(
                f"{self.name}: no frame such as {first!r} in this folder, which has {what}. Check the template "
                f"({self.template!r}), or extract the frames again."
            )
        if 0 in found:
            raise ValueError(
                f"{self.name}: has a frame {self.template.format(0)!r}, but frames are numbered from 1 on "
                f"({first!r}). Rename the files."
            )
        missing = next((number for number in range(1, len(found) + 1) if number not in found), None)
        if missing is not None:
            raise ValueError(
                f"{self.name}: frame {self.template.format(missing)!r} is missing, although there are frames up to "
                f"{self.template.format(max(found))!r}. Extract the frames again, or take the folder out of the list."
            )
        return [found[number] for number in range(1, len(found) + 1)]


def _around_number(template: str) -> tuple[str, str]:
    """The text before and after the number."""
    before, after, seen = "", "", False
    for text, field, _, _ in Formatter().parse(template):
        if seen:
            after += text
        else:
            before += text
        seen = seen or field is not None
    return before, after


# --- JPEG -----------------------------------------------------------------------------------------------------------

_SOI, _EOI = b"\xff\xd8", b"\xff\xd9"
_START_OF_SCAN = 0xDA
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_DECODED = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive


def check_jpeg(jpeg: bytes, *, name: str) -> tuple[int, int]:
    """Width and height of a JPEG in pixels, and that it is one and whole: decoders fill up what is cut off with grey.

    Damage inside, which only decoding shows, is found where the motion is measured: :func:`decode_pictures`.

    Raises:
        ValueError: it is empty, no JPEG, cut off, or of a kind that decoders do not take.
    """
    if not jpeg:
        raise ValueError(f"{name} is empty (0 bytes). Extract the frame again, or take its clip out of the list.")
    if not jpeg.startswith(_SOI):
        raise ValueError(f"{name} is no JPEG (it begins with {jpeg[:4].hex(' ')}). Convert the frames to JPEG.")
    size: tuple[int, int] | None = None
    place = len(_SOI)
    while place + 4 <= len(jpeg) and jpeg[place] == 0xFF:
        marker = jpeg[place + 1]
        if marker == 0xFF:  # a marker may have any number of these in front
            place += 1
            continue
        length = int.from_bytes(jpeg[place + 2 : place + 4], "big")
        if marker in _START_OF_FRAME and place + 10 <= len(jpeg):
            bits, num_channels = jpeg[place + 4], jpeg[place + 9]
            height, width = (int.from_bytes(jpeg[at : at + 2], "big") for at in (place + 5, place + 7))
            if marker not in _DECODED or bits != 8 or num_channels not in (1, 3):
                raise ValueError(
                    f"{name} is a JPEG of an unusual kind (process SOF{marker - 0xC0}, {bits} bits, {num_channels} "
                    "channels). Convert the frames to baseline JPEG in colour or grey, with 8 bits."
                )
            size = width, height
        if marker == _START_OF_SCAN:
            break
        place += 2 + length
    # Within a scan each ff of the data is followed by 00: this is the end of the picture, not of a thumbnail in it.
    if jpeg.find(_EOI, place) < 0:
        raise ValueError(
            f"{name} is cut off: after {len(jpeg)} bytes the picture has no end. Extract the frame again, or take its "
            "clip out of the list."
        )
    if size is None or 0 in size:
        raise ValueError(
            f"{name} is a damaged JPEG (its header tells no size). Extract the frame again, or take its clip out of "
            "the list."
        )
    return size


def decode_pictures(pictures: Iterable[Picture], *, name: str) -> Iterator[VideoFrame]:
    """Decode JPEGs as the frames of an MJPEG video are decoded: rotations in EXIF are left alone.

    Args:
        pictures: of one folder.
        name: what to call the folder in errors.

    Raises:
        ValueError: a picture is damaged.
    """
    context = CodecContext.create("mjpeg", "r")
    assert isinstance(context, VideoCodecContext)
    context.thread_count = 1
    context.options = decoder_options("mjpeg")  # by default it gives what could be decoded, and grey
    for picture in pictures:
        with listening(), av.logging.Capture() as logs:
            try:
                # Copied, with zeros behind it where FFmpeg reads on: a packet of the bytes has whatever memory holds.
                packet = av.Packet(len(picture.jpeg))
                packet.update(picture.jpeg)
                frames = context.decode(packet)
                damage = complaint(logs) if len(frames) == 1 else f"{len(frames)} pictures in it"
            except av.error.FFmpegError as error:
                frames, damage = [], ffmpeg_reason(error)
        if damage:
            raise ValueError(
                f"{name}: {picture.file.name} is a damaged JPEG ({damage}). Extract the frame again, or take its clip "
                "out of the list."
            )
        frames[0].opaque = AS_STORED
        yield frames[0]
