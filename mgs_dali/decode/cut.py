"""A file of just the packets of a video that chosen frames depend on."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.packet import Packet
from av.video.stream import VideoStream

from .headers import Part, joinable, split
from .headers.reader import CLEAN, Doubt
from .packets import Level, PacketTable, Run, Scan, ScannedVideo, check_picks, needed_packets, open_scanned
from .pyav import ffmpeg_reason

__all__ = ["Cut", "cut", "cut_scanned"]


@dataclass(frozen=True)
class Cut:
    """A video file in memory that holds what chosen frames depend on."""

    file: bytes
    frames: np.ndarray
    """(T,) int64: which frames of ``file`` the picks are, in their order."""
    pictures: np.ndarray
    """(T,) int64: the same, counted over all decoded pictures, as DALI's GPU decoder does: hidden ones included."""
    picks: np.ndarray
    """(T,) int64: which frames of the whole video they are."""
    scan: Scan
    """Of the whole video."""
    level: Level
    reason: str
    """Why not level "packets"; empty at that level."""
    num_packets: int
    """Packets in ``file``, which are its pictures. One that held several VP9 frames is several there."""
    gpu_refusal: str
    """Why ``pictures`` means nothing: not each packet of ``file`` is one decoded picture; empty where each is."""


def cut(
    file: Path | bytes,
    picks: np.ndarray | Callable[[Scan], np.ndarray] | None,
    *,
    name: str = "",
    whole: bool = False,
) -> Cut:
    """Copy the packets that frames depend on into a small Matroska file; nothing is decoded.

    A decoder that plays the copy from its start gives the same pixels for the chosen frames as for the whole file; the
    other frames of the copy are not to be used. Its timestamps are regular. Runs of packets follow each other without a
    mark, so they start only where pictures can be joined: at IDR pictures of H.264, at keyframes of other codecs
    (HEVC's CRA pictures are renamed to BLA pictures, which are made for this).

    Args:
        file: path of the video, or the bytes of the whole file.
        picks: (T,) frame indices in any order, may repeat; or a function that chooses them by the scan; or None for all
            frames of the video.
        name: what to call the file in errors; the path by default.
        whole: copy every packet of the video, whatever the picks depend on.

    Returns:
        The copy. At level "full" it is the whole file.

    Raises:
        ValueError: not a readable video, or one that is cut off.
        IndexError: the video has no such frame.
    """
    with open_scanned(file, name=name) as scanned:
        return cut_scanned(scanned, picks(scanned.scan) if callable(picks) else picks, whole=whole)


def cut_scanned(scanned: ScannedVideo, picks: np.ndarray | None, *, whole: bool = False) -> Cut:
    """Copy packets of a video that has been scanned, see :func:`cut`."""
    found, table = scanned.scan, scanned.table
    if picks is None:
        picks, whole = np.arange(found.num_frames), True
    chosen = np.asarray(picks)
    check_picks(chosen, num_frames=found.num_frames)
    reason = table.reason
    if table.level != "full":
        runs = [_all_packets(table, chosen)] if whole else needed_packets(table, chosen, least_access=CLEAN)
        try:
            parts = list(_parts(scanned.video.stream, scanned.packets(), table, runs))
            places = _Places(table, parts)
            content = _write(scanned.video.stream, table, parts, places.times)
        except (av.error.FFmpegError, Doubt) as error:
            reason = f"its packets cannot be copied ({ffmpeg_reason(error)})"
        else:
            at = table.frames[chosen]
            return Cut(
                file=content,
                frames=places.frame_of(at),
                pictures=places.picture_of(at),
                picks=chosen,
                scan=found,
                level=table.level,
                reason=reason,
                num_packets=len(parts),
                gpu_refusal=_gpu_refusal(part for _, part in parts),
            )
    file = scanned.video.file
    return Cut(
        file=file if isinstance(file, bytes) else file.read_bytes(),
        frames=chosen,
        pictures=chosen,
        picks=chosen,
        scan=found,
        level="full",
        reason=reason,
        num_packets=found.num_packets,
        gpu_refusal=reason,
    )


def _all_packets(table: PacketTable, chosen: np.ndarray) -> Run:
    """All packets but those that nothing can be made of, where a recording starts in the middle of a GOP."""
    rows = np.arange(table.num_skipped, len(table.order))
    return Run(rows[table.order[rows] >= table.order[table.num_skipped]], np.unique(chosen))


def _parts(
    stream: VideoStream, packets: Iterable[Packet], table: PacketTable, runs: list[Run]
) -> Iterator[tuple[int, Part]]:
    """(row of the table, content) of the packets to write, in their order."""
    codec, extradata = stream.codec_context.codec.canonical_name, stream.codec_context.extradata or b""
    starts = {int(run.packets[0]) for run in runs[1:]}
    wanted = iter(np.concatenate([run.packets for run in runs]).tolist())
    row = next(wanted)
    for index, packet in enumerate(packets):
        if index != row:
            continue
        content = bytes(packet)
        if row in starts:
            content = joinable(content, codec=codec, extradata=extradata)
        for part in split(content, codec=codec, shows=bool(table.shows[row])):
            yield row, part
        following = next(wanted, None)
        if following is None:
            return
        row = following
    raise Doubt("the file became shorter while it was read")


def _gpu_refusal(parts: Iterable[Part]) -> str:
    counts = {part.num_pictures for part in parts}
    if 0 in counts:
        return "a packet shows an earlier picture again"
    return "" if counts == {1} else "a packet holds several pictures"


_FRAME_TICKS = 40  # of a thousandth of a second, Matroska's own


class _Places:
    """When the parts of a copy are shown, and as which of its frames and pictures."""

    def __init__(self, table: PacketTable, parts: list[tuple[int, Part]]) -> None:
        rows = np.array([row for row, _ in parts])
        shows = np.array([part.shows for _, part in parts])
        in_order = np.argsort(table.order[rows], kind="stable")
        self._rows = rows[in_order]
        self._shows = shows[in_order]
        # A frame comes with the hidden ones before it, which share the time since the frame before that.
        frame = np.cumsum(self._shows) - self._shows
        _, first, size = np.unique(frame, return_index=True, return_counts=True)
        if size.max() > _FRAME_TICKS:
            raise Doubt("too many hidden pictures in a row")
        num_after = (first + size)[frame] - 1 - np.arange(len(frame))
        self.times = np.empty(len(frame), np.int64)
        """(parts,) int64, in the order of the parts; from 0, no two the same."""
        self.times[in_order] = _FRAME_TICKS * frame - _FRAME_TICKS * num_after // size[frame]
        self.times -= self.times.min()

    def picture_of(self, rows: np.ndarray) -> np.ndarray:
        """Which picture of the copy rows of the table show, hidden ones counted."""
        shown = np.flatnonzero(self._shows)
        by_row = np.argsort(self._rows[shown])
        return shown[by_row[np.searchsorted(self._rows[shown], rows, sorter=by_row)]]

    def frame_of(self, rows: np.ndarray) -> np.ndarray:
        """Which frame of the copy rows of the table show."""
        return np.cumsum(self._shows)[self.picture_of(rows)] - 1


def _write(stream: VideoStream, table: PacketTable, parts: list[tuple[int, Part]], times: np.ndarray) -> bytes:
    """A Matroska file of parts, each a packet of its own."""
    # Matroska stores no decoding times, but its writer wants them rising, and none above the time of presentation.
    decode_times = np.minimum.accumulate(times[::-1])[::-1] - np.arange(len(times), 0, -1)
    file = io.BytesIO()
    # Times as they are: the writer would shift all so that the first decoding time is 0. No random identifiers. And no
    # filters, of which one packs VP9's hidden frames into the packet of the next shown one.
    options = {"avoid_negative_ts": "disabled", "fflags": "+bitexact-autobsf"}
    with av.open(file, "w", format="matroska", options=options) as container:
        target = container.add_stream_from_template(stream, opaque=True)
        before = -1
        for (row, part), time, decode_time in zip(parts, times.tolist(), decode_times.tolist(), strict=True):
            copied = Packet(part.content)
            copied.pts, copied.dts, copied.time_base = time, decode_time, Fraction(1, 1000)
            copied.is_keyframe = bool(table.access[row]) and row != before
            copied.stream = target
            container.mux_one(copied)
            before = row
    return file.getvalue()
