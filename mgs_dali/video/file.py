"""A video that is a file, or the bytes of one; and the way in for any kind of video."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from av.video.frame import VideoFrame

from ..decode.frames import decode, decode_chosen, decode_then_choose
from ..decode.packets import Level, Scan, ScannedVideo, frame_seconds, open_scanned, scan
from ..decode.reading import Choose, Pictures, Reading, Stamp, clip_span
from ..motion.measure import Measure, choose_frames
from ..sampling import Sampler
from .folder import FrameFolder, check_template

__all__ = ["Video", "VideoFile", "detour", "open_video"]


@dataclass(frozen=True)
class VideoFile:
    """A video file, or the part of it that is a clip. Nothing is read before it is asked for."""

    file: Path | bytes
    """Its path, or all of its bytes."""
    name: str = ""
    """What to call it in errors; its path by default."""
    first_frame: int = 0
    """Where the clip begins."""
    num_frames: int = -1
    """How many frames the clip has; -1 for all from ``first_frame`` on."""

    def __post_init__(self) -> None:
        if not self.name:
            name = str(self.file) if isinstance(self.file, Path) else "video in memory"
            object.__setattr__(self, "name", name)

    def __repr__(self) -> str:
        return f"VideoFile({self.name!r}, first_frame={self.first_frame}, num_frames={self.num_frames})"

    @property
    def whole(self) -> VideoFile:
        """The video that this is a clip of."""
        return replace(self, first_frame=0, num_frames=-1)

    def span(self, num_there: int) -> range:
        """The frames of the clip in a video of so many.

        Raises:
            ValueError: it has fewer.
        """
        return clip_span(
            num_there,
            first_frame=self.first_frame,
            num_frames=self.num_frames,
            name=self.name,
            what="video",
            advice="Correct the line of the list.",
        )

    def scan(self) -> Scan:
        """What headers and packets say of the whole video; nothing is decoded. See
        :class:`mgs_dali.decode.packets.Scan`.

        Raises:
            ValueError: not a readable video, or one that is cut off.
        """
        return scan(self.file, name=self.name)

    @contextmanager
    def scanned(self) -> Iterator[ScannedVideo]:
        """The video, open and with its packets read, for those who go on with them.

        Raises:
            ValueError: as :meth:`scan`.
        """
        with open_scanned(self.file, name=self.name) as opened:
            yield opened

    @contextmanager
    def reading(self) -> Iterator[Reading]:
        """The video, open, for a measure of motion.

        Raises:
            ValueError: as :meth:`scan`.
        """
        with self.scanned() as scanned:
            stop = None if self.num_frames == -1 else self.first_frame + self.num_frames
            yield replace(self.found(scanned.scan), decode=lambda: islice(decode(scanned), self.first_frame, stop))

    def found(self, scan: Scan, *, num_measured: int | None = None) -> Reading:
        """What a scan tells those who choose frames.

        Args:
            scan: of this video.
            num_measured: how many frames its motion curve is of, where that was measured earlier.

        Raises:
            ValueError: it has another number of frames, or fewer than the clip takes.
        """
        if num_measured is not None and scan.num_frames != num_measured:
            raise ValueError(
                f"{self.name}: the motion index holds {num_measured} frames of it, the file shows {scan.num_frames}. "
                "It has changed since: run mgs-dali index again."
            )
        return Reading(self.name, scan.num_frames, self.span(scan.num_frames), scan)

    def pictures(
        self,
        choose: np.ndarray | Choose,
        *,
        sparse: bool = True,
        num_measured: int | None = None,
        watch: Callable[[Iterable[VideoFrame]], Iterable[VideoFrame]] | None = None,
    ) -> Pictures:
        """Decode frames, and little else.

        Args:
            choose: (T,) frames of the video in any order, may repeat; or what chooses them.
            sparse: decode only the packets that they depend on. Otherwise from the first frame up to the last that is
                chosen. The pictures are the same.
            num_measured: as :meth:`found`.
            watch: sees every frame of the clip, in order, before frames are chosen, such as
                :meth:`mgs_dali.motion.pixel.MotionMeter.watch`. All of them are decoded for it.

        Raises:
            ValueError: the video cannot be read or decoded, or is not the one that was measured, or is shorter than the
                clip.
            IndexError: it has no such frame.
        """

        def chosen_by(scan: Scan) -> np.ndarray:
            found = self.found(scan, num_measured=num_measured)
            return choose(found) if callable(choose) else np.asarray(choose)

        if watch is None:
            chosen = decode_chosen(self.file, chosen_by, name=self.name, sparse=sparse)
            how = detour(chosen.level, chosen.reason if sparse else "", chosen.scan)
            return Pictures(chosen.picks, chosen.frames, chosen.scan, how)
        with self.scanned() as scanned:
            stop = None if self.num_frames == -1 else self.first_frame + self.num_frames
            frames, picks = decode_then_choose(scanned, chosen_by, watch=watch, first_frame=self.first_frame, stop=stop)
            return Pictures(picks, frames, scanned.scan, detour("packets", "", scanned.scan))

    def motion(self, measure: Measure) -> np.ndarray:
        """How much each frame of the clip moves, (N - 1,) float32 for N frames: ``motion[j]`` is the change from its
        frame j to its frame j + 1. The unit is the measure's.

        Raises:
            ValueError: the video cannot be read or decoded, or its motion not be measured in this way.
        """
        with self.reading() as reading:
            return measure.curve(reading)

    def choose(self, sampler: Sampler, *, rng: np.random.Generator | None = None) -> np.ndarray:
        """Choose frames of the clip, (T,) int64 of the video. Nothing is decoded but for a measure that needs it.

        Args:
            sampler: how. One that needs motion says by ``measure`` how that is measured: an object or a name of
                :data:`mgs_dali.motion.measure.MEASURES`; by default "pixel".
            rng: draws them, as in training; without one they are those of evaluation.

        Raises:
            ValueError: as :meth:`motion`.
        """
        return choose_frames(self.reading(), sampler, rng=rng)

    def stamp(self) -> Stamp:
        """The state that the file is in.

        Raises:
            OSError: it is not there.
        """
        if isinstance(self.file, bytes):
            return Stamp(len(self.file), 0)
        stat = os.stat(self.file)
        return Stamp(stat.st_size, stat.st_mtime_ns)


def detour(level: Level, reason: str, found: Scan) -> str:
    """Why decoding took more than the packets that frames depend on; empty where it did not."""
    parts = []
    if reason:
        parts.append(f"{'by whole GOPs' if level == 'gops' else 'from the first frame on'}, because of: {reason}")
    if found.packets is not None and found.packets.num_skipped:
        parts.append("from the first frame that can be decoded on, in recordings that begin inside a GOP")
    if not found.is_proved_whole:
        parts.append("from files that do not tell where they end, so that nobody can know whether they are whole")
    return "; ".join(parts)


Video = VideoFile | FrameFolder
"""One video, wherever it lies."""


def open_video(
    source: str | os.PathLike[str] | bytes,
    *,
    start: float | None = None,
    end: float | None = None,
    template: str | None = None,
    name: str = "",
) -> Video:
    """Take a video, or a part of it, to choose and decode frames of: in any program, without a loader.

    Args:
        source: path of a video file, the bytes of one, or with ``template`` the path of a folder of frames.
        start: of the clip, in seconds from the first frame on; the frame that is shown then is its first.
        end: of the clip, in seconds; the first frame that is shown at ``end`` or later is no part of it.
        template: how a folder's frames are named by their number, such as ``img_{:05}.jpg``.
        name: what to call the video in errors; its path by default.

    Raises:
        ValueError: there is no such video, it cannot be read, or has no frame between ``start`` and ``end``; or
            an argument is not allowed.
    """
    if not isinstance(source, str | os.PathLike | bytes):
        raise ValueError(f"source ({source!r}) must be a path or the bytes of a video file.")
    for argument, value in (("start", start), ("end", end)):
        if value is not None and not (isinstance(value, int | float) and 0 <= value < math.inf):
            raise ValueError(f"{argument} ({value!r}) must be a number of seconds of at least 0.")
    if end is not None and (start or 0) >= end:
        raise ValueError(f"end ({end} s) must be after start ({start or 0} s).")
    if template is not None:
        check_template(template)
        if isinstance(source, bytes) or not (start is end is None):
            raise ValueError("template is for a folder of frames, which has a path and tells no times.")
        folder = FrameFolder(Path(source), template, name)
        folder.count_frames()
        return folder
    video = VideoFile(source if isinstance(source, bytes) else Path(source), name)
    found = video.scan()
    if start is end is None:
        return video
    seconds = frame_seconds(found)
    if np.isnan(seconds).any():
        raise ValueError(f"{video.name}: does not tell when its frames are shown. Leave out start and end.")
    first = 0 if start is None else int(np.searchsorted(seconds, start, side="right")) - 1
    stop = len(seconds) if end is None else int(np.searchsorted(seconds, end, side="left"))
    if start is not None and start >= _end_seconds(seconds):
        raise ValueError(f"{video.name}: start ({start} s) is after its last frame, at {seconds[-1]:.3f} s.")
    return replace(video, first_frame=first, num_frames=stop - first)


def _end_seconds(seconds: np.ndarray) -> float:
    """When the last frame ends, which is as long as those before it."""
    return math.inf if len(seconds) == 1 else float(seconds[-1] + np.median(np.diff(seconds)))
