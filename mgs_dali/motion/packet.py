"""Measure ``packet``: the sizes of compressed frames; nothing is decoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..decode.packets import PacketTable, shown_packets
from ..decode.reading import Reading

__all__ = [
    "NO_PACKETS",
    "Packet",
    "packet_keyframes",
    "packet_motion",
]


@dataclass(frozen=True)
class Packet:
    """Sizes of compressed frames, see :func:`packet_motion`. Nothing is decoded where headers tell what is shown."""

    name: ClassVar[str] = "packet"
    parameters: ClassVar[dict[str, Any]] = {}
    needs_decoding: ClassVar[bool] = False

    def curve(self, reading: Reading) -> np.ndarray:
        """See :class:`Measure`."""
        table, span, name = reading.packets, reading.span, reading.name
        if table is None:
            raise ValueError(f"{name}: {NO_PACKETS}")
        decodes = table.level == "full" and not table.is_decoded
        if decodes:
            # Only decoding tells which packets give frames, and when they are shown.
            table = shown_packets(table, [frame.pts for frame in reading.decode()])
        motion = packet_motion(table, name=name)
        if not decodes and reading.num_frames != len(motion) + 1:
            raise ValueError(
                f"{name}: its packets promise {len(motion) + 1} frames, {reading.num_frames} come out, so that their "
                "sizes do not tell when it moves. Use measure='pixel', or a motion index."
            )
        return motion[span.start : span.stop - 1]


NO_PACKETS = (
    "measure packet takes what a video's encoder spent on each change. The pictures of a frame folder are compressed "
    "one by one, so their sizes say nothing of motion. Use measure pixel."
)


def packet_motion(table: PacketTable, *, name: str = "video") -> np.ndarray:
    """Motion from the sizes of compressed frames, (F - 1,) float32: what the encoder could not predict costs bytes.

    Nothing is decoded. Three things hide motion in the sizes, and are taken out in this order:

    1. A B-frame costs less than a P-frame of the same motion: B-frames are scaled to the mean of the P-frames.
    2. A keyframe costs bytes for its content, not for motion: it is replaced by the line between its neighbours.
    3. Encoders spend more on some frames for the sake of those that follow, and less right after (golden frames, the
       hidden frames that VP9 packs together with a shown one, the levels of B-pyramids): the geometric mean of the size
       and the median of the five frames around it, which halves such exceptions but leaves short motion in sight.

    The size of frame j + 1 stands for the change from frame j to it.

    Args:
        table: all packets of the video, see :func:`mgs_dali.decode.packets.scan`.
        name: what to call the file in errors.

    Raises:
        ValueError: every frame is a keyframe, as in MJPEG, or packets hold two frames or none: their sizes say nothing
            of motion.
    """
    if "packed B-frames" in table.reason:
        raise ValueError(
            f"{name}: it has packed B-frames, two frames in one packet, so that packet sizes do not tell when it "
            "moves. Use measure pixel."
        )
    packets, is_reordered = _in_presentation_order(table)
    num_frames = len(packets)
    if num_frames == 0:
        raise ValueError(f"{name}: its video stream holds no frame. Take the file out of the list.")
    predicted = ~table.is_keyframe[packets]
    predicted[0] = False  # whatever it says: there is no frame before it
    if not predicted.any():
        if num_frames == 1:
            return np.zeros(0, np.float32)
        raise ValueError(
            f"{name}: all of its {num_frames} frames are keyframes, and the size of a keyframe says nothing of motion. "
            "Use measure pixel for this codec."
        )
    sizes = table.size[packets].astype(np.float64)
    forward, backward = predicted & ~is_reordered, predicted & is_reordered
    if forward.any() and backward.any():
        sizes[backward] *= sizes[forward].mean() / sizes[backward].mean()
    (known,) = predicted.nonzero()
    sizes = np.interp(np.arange(num_frames), known, sizes[known])[1:]
    around = np.lib.stride_tricks.sliding_window_view(np.pad(sizes, 2, mode="edge"), 5)
    return np.sqrt(sizes * np.median(around, axis=1)).astype(np.float32)


def packet_keyframes(table: PacketTable) -> np.ndarray:
    """The frames that the container calls keyframes, (K,) int64, by their places in presentation order."""
    return np.flatnonzero(table.is_keyframe[_in_presentation_order(table)[0]])


def _in_presentation_order(table: PacketTable) -> tuple[np.ndarray, np.ndarray]:
    """The packets that give frames, (F,) int64, and which of them are decoded after one that is shown later."""
    order = table.order
    if table.level == "full" and table.pts.min() > np.iinfo(np.int64).min:
        # what the headers say cannot be trusted: by the container's timestamps, where all are there
        order = np.empty(len(table.pts), np.int64)
        order[np.argsort(table.pts, kind="stable")] = np.arange(len(order))
    packets = np.argsort(order)
    packets = packets[(table.shows & ~table.discard)[packets]]
    return packets, (order < np.maximum.accumulate(order))[packets]
