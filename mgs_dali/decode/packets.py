"""What can be known of a video without decoding it, and which of its packets chosen frames depend on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple

import av
import av.logging
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.format import VideoFormat
from av.video.stream import VideoStream

from .colours import ColourMatrix, colour_matrix
from .containers import UPRIGHT, Facts, Turn, read_facts, turn_of_matrix
from .headers import reader_for
from .headers.reader import LEADING, Change, Damage, Doubt, Picture, Reader
from .pyav import Disposition, complaint, decoder_options, ffmpeg_reason, listening, open_input, pixel_format

__all__ = [
    "Level",
    "OpenVideo",
    "PacketTable",
    "Run",
    "Scan",
    "ScannedVideo",
    "check_picks",
    "frame_seconds",
    "needed_packets",
    "open_scanned",
    "open_video",
    "read_packets",
    "scan",
    "shown_packets",
]

Level = Literal["packets", "gops", "full"]
"""What is decoded for chosen frames: the packets that they depend on; every packet from the start of a group of
pictures (GOP) up to its last chosen frame; or every packet of the file."""

KEPT_PACKETS_MIB = 128
"""The packets of a video that takes no more than this stay in memory between reading their headers and decoding."""

_NO_TIME = np.iinfo(np.int64).min
_INTRA_ONLY = 1  # AV_CODEC_PROP_INTRA_ONLY
_REORDER_WINDOW = 32  # H.264 shows no picture more than 16 pictures late
_NO_VIDEO = Disposition.attached_pic | Disposition.timed_thumbnails


@dataclass(frozen=True)
class OpenVideo:
    """A video that is open for reading."""

    file: Path | bytes
    name: str
    """What to call it in errors."""
    stream: VideoStream
    """Its video, set to decode on one thread and to hide no damage."""
    place: int
    """Of the stream among the file's video streams."""
    trouble: str
    """Damage that FFmpeg found in opening it; empty where there was none."""

    @property
    def container(self) -> InputContainer:
        container = self.stream.container
        assert isinstance(container, InputContainer)
        return container

    def packets(self) -> Iterator[Packet]:
        """The packets of the stream that hold something, read on from where the file stands.

        AVI and others write a frame that was left out as an entry of no bytes. A decoder would take it for the end.
        """
        return (packet for packet in self.container.demux(self.stream) if packet.size > 0)


@contextmanager
def open_video(file: Path | bytes, *, name: str = "") -> Iterator[OpenVideo]:
    """Open a video.

    Of several video streams it is the one that the container marks as the default, else the first; cover art and
    thumbnails are none. One thread decodes, because loaders run one decoder a worker: frame threads would only fight
    over the same cores.

    Args:
        file: path of the video, or the bytes of the whole file.
        name: what to call the file in errors; the path by default.

    Raises:
        ValueError: the file is missing, empty, no video container, or holds no video stream.
    """
    name = name or (str(file) if isinstance(file, Path) else "video in memory")
    if isinstance(file, Path) and not file.is_file():
        found = "it is a folder" if file.is_dir() else "no such file"
        raise ValueError(f"{name}: {found}. Check the path in the list and the root folder that it is relative to.")
    with listening():
        try:
            with av.logging.Capture() as logs:
                container = open_input(file)
        except (av.error.FFmpegError, OSError) as error:
            raise ValueError(
                f"{name}: cannot be opened as a video ({ffmpeg_reason(error)}). It may be cut off, empty or not a "
                "video; replace it or take it out of the list."
            ) from error
        with container:
            streams = [stream for stream in container.streams.video if not stream.disposition & _NO_VIDEO]
            if not streams:
                kinds = {str(stream.type) for stream in container.streams}
                kinds = (kinds - {"video"}) | {"attached picture" for _ in container.streams.video}
                raise ValueError(
                    f"{name}: no video stream (streams found: {', '.join(sorted(kinds)) or 'none'}). Take the file "
                    "out of the list."
                )
            stream = next((stream for stream in streams if stream.disposition & Disposition.default), streams[0])
            if stream.codec_context is None:
                raise ValueError(f"{name}: its video codec is not known to PyAV's FFmpeg. Re-encode it, to H.264 say.")
            stream.codec_context.thread_count = 1
            stream.thread_type = "NONE"
            stream.codec_context.options = decoder_options(stream.codec_context.codec.canonical_name)
            trouble = _demuxers_complaint(stream, logs)
            yield OpenVideo(file, name, stream, streams.index(stream), trouble)


def _demux(video: OpenVideo) -> Iterator[Packet]:
    return video.container.demux(video.stream)


def _demuxers_complaint(stream: VideoStream, logs: Iterable[tuple[int, str, str]]) -> str:
    """The first error that the container's reader has logged, not a decoder; empty where there is none."""
    reader, codec = stream.container.format.name, stream.codec_context.codec.canonical_name
    return complaint(logs, of=reader) if reader != codec else ""  # as those of raw H.264 are called


def _damaged(name: str, what: str) -> ValueError:
    return ValueError(f"{name}: {what}. The file is damaged; replace it or take it out of the list.")


@dataclass(frozen=True, eq=False)
class PacketTable:
    """The packets of a video in the order of the file, which is the order of decoding. All columns have N elements."""

    pts: np.ndarray
    """int64, in ticks of the stream; the least int64 where the container says nothing."""
    dts: np.ndarray
    """int64, as ``pts``."""
    size: np.ndarray
    """int64, bytes."""
    is_keyframe: np.ndarray
    """bool, the container's word."""
    discard: np.ndarray
    """bool: decoded, but left out by the container's edit list."""
    shows: np.ndarray
    """bool: gives a frame; hidden reference frames of VP8 do not, nor what comes before the first place where decoding
    can start."""
    is_referenced: np.ndarray
    """bool: other packets may depend on it."""
    access: np.ndarray
    """uint8: whether decoding can start here, see :mod:`mgs_dali.decode.headers`."""
    order: np.ndarray
    """int64: place in presentation order, a permutation of 0 to N - 1."""
    needs_leading: bool
    """See :class:`mgs_dali.decode.headers.reader.Reader`."""
    level: Level
    """What is proved about this stream. At "full" only the container's columns mean something."""
    reason: str
    """Why not level "packets"; empty at that level."""
    is_damaged: bool = False
    """The reason is that headers make no sense. Every packet should give a frame all the same."""
    is_decoded: bool = False
    """At level "full": decoding has told which packets give frames, and in which order, see :func:`shown_packets`."""
    num_skipped: int = 0
    """Packets before the first one that decoding can start at, not to be decoded."""

    @property
    def frames(self) -> np.ndarray:
        """(F,) int64: the packet that gives each frame, in presentation order."""
        packets = np.argsort(self.order)
        return packets[(self.shows & ~self.discard)[packets]]


class Run(NamedTuple):
    """Packets to decode one after the other, with a fresh or flushed decoder."""

    packets: np.ndarray
    """(P,) int64, rising: rows of the table."""
    frames: np.ndarray
    """(K,) int64, rising: the chosen frames that come out of it."""


def needed_packets(table: PacketTable, picks: np.ndarray, *, least_access: int = LEADING) -> list[Run]:
    """The packets that frames depend on, as far as headers tell.

    Each frame needs the last packet before it that decoding can start at and that is not shown after it (a frame of an
    open GOP may be shown before the keyframe that it follows), and from there on every packet that others refer to.

    Args:
        table: at level "packets" or "gops".
        picks: (T,) frame indices in any order; may repeat.
        least_access: what a packet must allow for decoding to start at it: LEADING or CLEAN of
            :mod:`mgs_dali.decode.headers`.

    Raises:
        IndexError: the video has no such frame.
    """
    assert table.level != "full"
    frames = table.frames
    chosen = np.unique(picks)
    check_picks(chosen, num_frames=len(frames))
    starts = np.flatnonzero((table.access >= least_access) | (np.arange(len(table.access)) == table.num_skipped))
    spans: dict[int, list[tuple[int, int]]] = {}  # start -> (packet, frame) of the picks
    for frame, packet in zip(chosen.tolist(), frames[chosen].tolist(), strict=True):
        earlier = starts[: np.searchsorted(starts, packet, side="right")][::-1]
        start = next(start for start in earlier.tolist() if table.order[start] <= table.order[packet])
        spans.setdefault(start, []).append((packet, frame))

    merged: list[tuple[int, int, list[tuple[int, int]]]] = []  # (start, end, picks), apart from each other
    for start in sorted(spans):
        end = max(packet for packet, _ in spans[start])
        if merged and start <= merged[-1][1]:
            first, before, found = merged.pop()
            merged.append((first, max(before, end), found + spans[start]))
        else:
            merged.append((start, end, spans[start]))

    runs = []
    for start, end, found in merged:
        feed = table.is_referenced[start : end + 1].copy()
        if not table.needs_leading:
            feed &= table.order[start : end + 1] >= table.order[start]
        feed[[packet - start for packet, _ in found]] = True
        runs.append(Run(start + np.flatnonzero(feed), np.array(sorted(frame for _, frame in found), np.int64)))
    return runs


def shown_packets(table: PacketTable, rows: Sequence[int | None]) -> PacketTable:
    """The table of a video at level "full", once decoding has told which packets give frames.

    Args:
        table: as it was scanned.
        rows: of the packets that the frames came from, in the order in which they were shown. Where a decoder does not
            tell, or tells twice of one packet, the table stays as it is.
    """
    if None in rows or len(set(rows)) != len(rows):
        return replace(table, is_decoded=True)
    shown = np.array(rows, np.int64)
    others = np.setdiff1d(np.arange(len(table.pts)), shown)
    order = np.empty(len(table.pts), np.int64)
    order[np.concatenate([shown, others])] = np.arange(len(order))
    shows = np.zeros(len(order), bool)
    shows[shown] = True
    return replace(table, pts=order, order=order, shows=shows, discard=np.zeros(len(order), bool), is_decoded=True)


def check_picks(picks: np.ndarray, *, num_frames: int) -> None:
    """Check that a video has the frames that are asked for.

    Raises:
        IndexError: it has not, or none is asked for.
    """
    if len(picks) == 0:
        raise IndexError("no frames are asked for")
    if picks.min() < 0 or picks.max() >= num_frames:
        raise IndexError(f"frames {picks.min()} to {picks.max()} of a video of {num_frames} frames")


@dataclass(frozen=True)
class Scan:
    """What a video's header and packets say."""

    codec: str
    """FFmpeg's name of the codec: h264, hevc, vp8, vp9, mpeg4, mjpeg, av1, ..."""
    width: int
    """Of the pictures as they are stored: those of a phone may lie on their side, see ``turn``."""
    height: int
    pixel_format: str
    num_frames: int
    """Packets that show a frame."""
    num_packets: int
    """Packets of any kind: also those of hidden frames, and those that an edit list leaves out."""
    turn: Turn = UPRIGHT
    """How the container wants pictures to be turned."""
    colour_matrix: ColourMatrix = "bt601"
    """BT.601 also where there is no chroma."""
    is_proved_whole: bool = True
    """The file tells where it ends, and ends there. Otherwise nobody can know whether it was cut off."""
    frames_per_second: float | None = None
    """On average; None where the file does not tell."""
    tick_seconds: float = 0.0
    """Unit of the times in ``packets``."""
    packets: PacketTable | None = field(default=None, compare=False, repr=False)
    """Each packet."""

    @property
    def upright_size(self) -> tuple[int, int]:
        """(width, height) of the frames, turned upright."""
        return self.turn.size(self.width, self.height)


def frame_seconds(found: Scan) -> np.ndarray:
    """When each frame is shown, (F,) float64 rising seconds from the first frame on.

    By the timestamps of their packets; where these do not rise (AVI has none, raw streams neither) by the frame rate.
    NaN where there is none either.
    """
    assert found.packets is not None
    table = found.packets
    # Without headers that tell, the order of presentation is that of the timestamps.
    times = table.pts[table.frames] if table.level != "full" else np.sort(table.pts[table.shows & ~table.discard])
    if len(times) == found.num_frames and times.min() != _NO_TIME and (np.diff(times) > 0).all() and found.tick_seconds:
        return np.asarray((times - times[0]) * found.tick_seconds)
    rate = found.frames_per_second
    return np.arange(found.num_frames) / rate if rate else np.full(found.num_frames, np.nan)


@dataclass(frozen=True)
class ScannedVideo:
    """An open video whose packets have been read, for those who go on with them."""

    video: OpenVideo
    scan: Scan
    kept: list[Packet] | None
    """The packets of the table, or None where they take more than :data:`KEPT_PACKETS_MIB`."""

    @property
    def table(self) -> PacketTable:
        assert self.scan.packets is not None
        return self.scan.packets

    def packets(self) -> Iterator[Packet]:
        """The packets of the table: from memory, or read once more."""
        if self.kept is not None:
            yield from self.kept
            return
        with open_video(self.video.file, name=self.video.name) as again:
            yield from again.packets()


def scan(file: Path | bytes, *, name: str = "") -> Scan:
    """Read header and packets of a video; nothing is decoded.

    Args:
        file: path of the video, or the bytes of the whole file.
        name: what to call the file in errors; the path by default.

    Raises:
        ValueError: not a readable video (see :func:`open_video`), one without a single frame, or see
            :func:`read_packets`.
    """
    with open_video(file, name=name) as video:
        return read_packets(video)[0]


@contextmanager
def open_scanned(file: Path | bytes, *, name: str = "") -> Iterator[ScannedVideo]:
    """Open a video and read its packets, for those who go on with some of them.

    Raises:
        ValueError: as :func:`scan`.
    """
    with open_video(file, name=name) as video:
        found, kept = read_packets(video)
        yield ScannedVideo(video, found, kept)


def read_packets(video: OpenVideo) -> tuple[Scan, list[Packet] | None]:
    """Read the packets of an open video up to its end.

    Returns:
        scan: with its packet table.
        packets: the packets of the table, or None where they take more than :data:`KEPT_PACKETS_MIB`.

    Raises:
        ValueError: reading fails, there is no frame, the file is cut off or damaged as far as its container tells, the
            pictures change their size or format on the way, or they are turned or coloured in a way that is not known.
    """
    name, stream, format_name = video.name, video.stream, video.container.format.name
    context = stream.codec_context
    codec = context.codec.canonical_name
    facts = read_facts(video.file, format_name=format_name)
    if facts.damage:
        raise _cut_off(name, facts.damage)
    columns = _Columns(codec, context.extradata or b"", intra_only=bool(context.codec.properties & _INTRA_ONLY))
    kept: list[Packet] | None = []
    num_bytes = num_left_out = 0
    try:
        with av.logging.Capture() as logs:
            for packet in _demux(video):
                if packet.size == 0:
                    num_left_out += packet.dts is not None or packet.pts is not None  # else PyAV's mark of the end
                    continue
                columns.add(packet)
                num_bytes += packet.size
                if kept is not None:
                    kept.append(packet)
                    if num_bytes > KEPT_PACKETS_MIB * 2**20:
                        kept = None
    except av.error.FFmpegError as error:
        raise _damaged(name, f"reading failed after {columns.num_frames} frames ({ffmpeg_reason(error)})") from error
    except IndexError:
        raise ValueError(
            f"{name}: after {columns.num_frames} frames a stream begins that the start of the file does not tell of, "
            "which PyAV cannot read. Copy its video into another file, or take it out of the list."
        ) from None
    except Change as change:
        raise ValueError(
            f"{name}: {change} at frame {columns.num_frames}. A clip has one size and format; re-encode the file."
        ) from None
    if found := video.trouble or _demuxers_complaint(stream, logs):
        raise _damaged(name, f"FFmpeg found damage ({found})")
    table = columns.table(reorder_depth=context.reorder_depth if codec == "h264" else None) if columns.rows else None
    if table is None or not (table.shows & ~table.discard).any():
        raise ValueError(f"{name}: its video stream holds no frame. Take the file out of the list.")
    _check_whole(video, facts, columns, num_left_out=num_left_out)
    layout = pixel_format(context)
    matrix = facts.turns.get(stream.id if format_name.startswith("mov") else video.place)
    try:
        turn = UPRIGHT if matrix is None else turn_of_matrix(matrix)
        colours = colour_matrix(int(context.colorspace) if _has_chroma(layout) else 0)
    except ValueError as reason:
        raise ValueError(f"{name}: {reason}. Re-encode the file, or take it out of the list.") from None
    width, height = columns.size or (context.width, context.height)
    found_scan = Scan(
        codec=codec,
        width=width,
        height=height,
        pixel_format=layout or "unknown",
        num_frames=int((table.shows & ~table.discard).sum()),
        num_packets=len(table.pts),
        turn=turn,
        colour_matrix=colours,
        is_proved_whole=facts.is_proved_whole,
        frames_per_second=float(stream.average_rate) if stream.average_rate else None,
        tick_seconds=float(stream.time_base) if stream.time_base else 0.0,
        packets=table,
    )
    return found_scan, kept


def _has_chroma(pixel_format: str | None) -> bool:
    if pixel_format is None:
        return False
    layout = VideoFormat(pixel_format, 64, 64)
    return not layout.is_rgb and not layout.has_palette and len(layout.components) >= 3


def _cut_off(name: str, what: str) -> ValueError:
    return ValueError(f"{name}: {what}. The file is cut off or damaged; replace it or take it out of the list.")


def _check_whole(video: OpenVideo, facts: Facts, columns: _Columns, *, num_left_out: int) -> None:
    """Check that what the container promises is there.

    Raises:
        ValueError: it is not. Decoders show such a file's missing frames in black, or not at all.
    """
    name, stream, format_name = video.name, video.stream, video.container.format.name
    num_packets, promised, has_index = len(columns.rows), stream.frames, format_name.startswith(("mov", "avi"))
    if has_index:
        # FFmpeg leaves those out of its index that an edit list makes superfluous, which the header's mere count still
        # holds. An AVI's count holds the frames that were left out, which its index does not.
        promised = len(stream.index_entries)
        if promised > num_packets:
            promised = sum(entry.size > 0 for entry in stream.index_entries)
    else:
        num_packets += num_left_out
    if promised > num_packets:
        raise _cut_off(name, f"its header promises {promised} frames, {num_packets} are there")
    if facts.duration_seconds is not None and len(video.container.streams) == 1 and stream.time_base:
        times = [(row.dts if has_index else row.pts, row.duration) for row in columns.rows]
        times = [(time, duration) for time, duration in times if time != _NO_TIME] or [(0, 0)]
        length = max(time + duration for time, duration in times) - (min(times)[0] if has_index else 0)
        length_seconds = float(length * stream.time_base)
        # A header may be off by a frame, and by what it rounds.
        tolerance_seconds = 0.02 + 1.5 * float(np.median([duration for _, duration in times]) * stream.time_base)
        if facts.duration_seconds - length_seconds > tolerance_seconds:
            raise _cut_off(
                name, f"its header promises {facts.duration_seconds:.2f} s, {length_seconds:.2f} s are there"
            )
    for (_, number), (place, following) in pairwise(facts.fragments):
        if following <= number + 1:
            continue  # they need not count by one, so a jump alone means nothing
        row = next((row for row, found in enumerate(columns.rows) if found.pos > place), 0)
        before, after = columns.rows[row - 1], columns.rows[row]
        if row and after.dts - before.dts > 1.5 * before.duration:
            raise _damaged(
                name,
                f"fragments are missing between number {number} and number {following}, before frame "
                f"{columns.shown[:row].count(True)}",
            )


class _Row(NamedTuple):
    """What the container tells of a packet."""

    pts: int
    dts: int
    size: int
    is_keyframe: bool
    discard: bool
    pos: int
    duration: int


class _Columns:
    """Collects the rows of a packet table."""

    def __init__(self, codec: str, extradata: bytes, *, intra_only: bool) -> None:
        self._codec = codec
        self.rows: list[_Row] = []
        self.shown: list[bool] = []
        self._reader: Reader | None = None
        self._doubt: Doubt | None = None
        try:
            self._reader = reader_for(codec, extradata, intra_only=intra_only)
        except Doubt as doubt:
            self._doubt = doubt

    @property
    def size(self) -> tuple[int, int] | None:
        """(width, height) by the pictures' own headers, where these tell."""
        return None if self._reader is None else self._reader.size

    @property
    def num_frames(self) -> int:
        """So far."""
        return sum(shows and not row.discard for shows, row in zip(self.shown, self.rows, strict=True))

    def add(self, packet: Packet) -> None:
        """Take the next packet.

        Raises:
            Change: the size or format of pictures changes.
        """
        shows: bool | None = None
        if self._doubt is None:
            assert self._reader is not None
            try:
                if packet.is_corrupt:
                    raise Damage("a damaged packet")
                if any(side.data_type in ("new_extradata", "param_change") for side in packet.iter_sidedata()):
                    raise Doubt("the coding parameters change on the way")
                self._reader.add(memoryview(packet), is_keyframe=packet.is_keyframe)
                shows = self._reader.pictures[-1].shows
            except Doubt as doubt:
                self._doubt = doubt
        self.shown.append(_shows_a_frame(self._codec, packet) if shows is None else shows)
        self.rows.append(
            _Row(
                pts=_NO_TIME if packet.pts is None else packet.pts,
                dts=_NO_TIME if packet.dts is None else packet.dts,
                size=packet.size,
                is_keyframe=packet.is_keyframe,
                discard=packet.is_discard,
                pos=packet.pos or 0,
                duration=packet.duration or 0,
            )
        )

    def table(self, *, reorder_depth: int | None) -> PacketTable:
        """The table of all packets so far.

        Args:
            reorder_depth: how late the decoder shows pictures, where it must be checked that this is late enough.
        """
        num_packets = len(self.rows)
        pts, dts, size, is_keyframe, discard, _, _ = (np.array(column) for column in zip(*self.rows, strict=True))
        table = PacketTable(
            pts=pts,
            dts=dts,
            size=size,
            is_keyframe=is_keyframe,
            discard=discard,
            shows=np.array(self.shown),
            is_referenced=np.ones(num_packets, bool),
            access=np.zeros(num_packets, np.uint8),
            order=np.arange(num_packets),
            needs_leading=False,
            level="full",
            reason=str(self._doubt),
            is_damaged=isinstance(self._doubt, Damage),
        )
        if self._doubt is not None:
            return table
        assert self._reader is not None
        pictures = self._reader.finish()
        keys = np.array([picture.order for picture in pictures])
        order = np.empty(num_packets, np.int64)
        order[np.argsort(keys, kind="stable")] = np.arange(num_packets)
        access = np.array([picture.access for picture in pictures], np.uint8)
        reason = _doubt_order(keys, order, pts, may_restart=self._reader.order_may_restart)
        if reorder_depth is not None and _reorder_depth(order) > reorder_depth:
            reason = reason or "pictures are shown later than the header says"
        if not access.any():
            reason = reason or "it holds no packet that decoding can start at"
        if reason:
            return replace(table, reason=reason)
        # A recording that was cut out of a longer one begins where decoding can start, and without what is shown before
        # that but needs what is gone.
        start = int(access.argmax())
        if is_keyframe[:start].any():
            # damaged, or a place to start by some agreement that headers do not show
            return replace(table, reason="decoding cannot start at its first keyframe")
        is_leading = (np.arange(num_packets) > start) & (order < order[start])
        is_lost = (np.arange(num_packets) < start) | (is_leading & _needs_the_past(self._codec, pictures))
        if (is_leading & ~is_lost).any():
            return replace(table, reason="pictures are shown before the first one that decoding can start at")
        return replace(
            table,
            shows=table.shows & ~is_lost,
            is_referenced=np.array([picture.is_referenced for picture in pictures]),
            access=access,
            order=order,
            needs_leading=self._reader.needs_leading,
            level="gops" if self._reader.whole_gops else "packets",
            reason=self._reader.whole_gops,
            num_skipped=start,
        )


def _needs_the_past(codec: str, pictures: list[Picture]) -> np.ndarray:
    """Whether a picture that is shown before the keyframe that it follows needs what came before that: (N,) bool.

    HEVC tells: decoders leave those out (RASL) and show the others (RADL). Elsewhere it has to be assumed.
    """
    return np.array([picture.skipped_after_start or codec != "hevc" for picture in pictures])


def _doubt_order(keys: np.ndarray, order: np.ndarray, pts: np.ndarray, *, may_restart: bool) -> str:
    """Why the order of presentation cannot be trusted; empty where it can.

    A decoder goes by what the pictures say, whatever the timestamps. Where the pictures' count may restart unseen, it
    must agree with the timestamps or be without gaps. (Without B-frames' timestamps, AVI gives those of decoding.)
    """
    if len(np.unique(keys)) != len(keys):
        return "two pictures of one place in presentation order"
    if not may_restart:
        return ""
    in_order = np.argsort(order)
    if pts.min() != _NO_TIME and (np.diff(pts[in_order]) > 0).all():
        return ""
    period, count = np.divmod(keys[in_order] + (1 << 32), 1 << 33)
    within = np.diff(period) == 0
    steps = np.diff(count)[within]
    first_counts = count[np.r_[True, ~within]] - (1 << 32)
    if (first_counts == 0).all() and len(np.unique(steps)) <= 1:
        return ""
    return "timestamps and pictures disagree about the order of presentation"


def _reorder_depth(order: np.ndarray) -> int:
    """The most packets that come before one that is shown before them."""
    later = np.zeros(len(order), np.int64)
    for distance in range(1, min(_REORDER_WINDOW, len(order) - 1) + 1):
        later[distance:] += order[:-distance] > order[distance:]
    return int(later.max())


def _shows_a_frame(codec: str, packet: Packet) -> bool:
    """False for VP8's alternate reference frames, the only packets of their own that are decoded but never shown.

    VP9 packs its hidden frames into the packet of a shown one. RFC 6386 section 9.1: bit 4 of the frame tag is
    ``show_frame``.
    """
    return codec != "vp8" or bool(bytes(memoryview(packet)[:1])[0] & 0x10)
