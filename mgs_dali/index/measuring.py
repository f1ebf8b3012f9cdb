"""What an index keeps of a video besides its motion, learnt in the same pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from av.video.frame import VideoFrame

from ..decode.frames import turn_of_frame
from ..decode.packets import shown_packets
from ..motion.measure import Measure, as_measure
from ..motion.packet import packet_keyframes
from ..video.file import Video, VideoFile

__all__ = ["Measured", "measure_video", "video_facts"]


@dataclass(frozen=True)
class Measured:
    """One video or frame folder, measured.

    Attributes:
        motion: (N - 1,) float32: ``motion[j]`` is the change from frame j to frame j + 1. The unit is the measure's.
        keyframes: (K,) int64, the keyframes' places in presentation order.
        codec: FFmpeg's name of it.
        width: of the upright frames, in pixels.
        height: of the upright frames, in pixels.
        frames_per_second: on average; None where the file does not tell.
        is_proved_whole: the file tells where it ends, see :class:`mgs_dali.decode.packets.Scan`.
    """

    motion: np.ndarray
    keyframes: np.ndarray
    codec: str
    width: int
    height: int
    frames_per_second: float | None
    is_proved_whole: bool = True


def measure_video(video: Video | Path | bytes, *, measure: str | Measure = "pixel", name: str = "") -> Measured:
    """Measure the motion of a video or frame folder.

    Args:
        video: one, or the path or the bytes of a video file.
        measure: one of :data:`mgs_dali.motion.measure.MEASURES` by its name, or an object.
        name: what to call a path or bytes in errors; the path by default.

    Raises:
        ValueError: the video cannot be read, or its motion not be measured in this way; or an unknown measure.
    """
    measure = as_measure(measure)
    if isinstance(video, Path | bytes):
        video = VideoFile(video, name)
    with video.reading() as reading:
        seen, scan = _Seen(), reading.scan
        assert scan is not None
        motion = measure.curve(replace(reading, decode=lambda: seen.watch(reading.decode())))
        (width, height), keyframes = scan.upright_size, np.array(seen.keyframes, np.int64)
        if measure.needs_decoding and seen.rows:
            width, height = seen.size
        elif scan.packets is not None:
            table = scan.packets
            if table.level == "full":
                table = shown_packets(table, seen.rows)
            keyframes = packet_keyframes(table)
        return Measured(
            motion=motion,
            keyframes=keyframes,
            codec=scan.codec,
            width=width,
            height=height,
            frames_per_second=scan.frames_per_second,
            is_proved_whole=scan.is_proved_whole,
        )


def video_facts(video: Video) -> Measured:
    """All of that but the motion, in whose place there are zeros. Only a video whose headers do not tell its frames is
    decoded for them.

    Raises:
        ValueError: the video cannot be read.
    """
    with video.reading() as reading:
        scan, num_frames = reading.scan, reading.num_frames
        assert scan is not None
        table, keyframes = scan.packets, np.arange(num_frames)
        if table is not None:
            if table.level == "full":
                rows = [frame.pts for frame in reading.decode()]
                num_frames, table = len(rows), shown_packets(table, rows)
            keyframes = packet_keyframes(table)
        width, height = scan.upright_size
        return Measured(np.zeros(num_frames - 1), keyframes, scan.codec, width, height, scan.frames_per_second)


class _Seen:
    """What passing frames tell besides their motion."""

    def __init__(self) -> None:
        self.rows: list[int | None] = []
        self.keyframes: list[int] = []
        self.size = (0, 0)

    def watch(self, frames: Iterable[VideoFrame]) -> Iterator[VideoFrame]:
        """Pass frames on."""
        for index, frame in enumerate(frames):
            if index == 0:
                self.size = turn_of_frame(frame).size(frame.width, frame.height)
            if frame.key_frame or index == 0:
                self.keyframes.append(index)
            self.rows.append(frame.pts)
            yield frame
