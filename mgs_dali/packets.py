"""What can be known of a video without decoding it, and which of its packets chosen frames depend on."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Literal, NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from .headers import CLEAN, LEADING, Doubt, Reader, joinable, reader_for

__all__ = [
    "Cut",
    "Level",
    "PacketTable",
    "Run",
    "Scan",
    "check_complete",
    "check_picks",
    "cut",
    "ffmpeg_reason",
    "needed_packets",
    "open_scanned",
    "open_video",
    "packets_again",
    "promised_packets",
    "read_packets",
    "scan",
]

Level = Literal["packets", "gops", "full"]
"""What is decoded for chosen frames: the packets that they depend on; every packet from the start of a group of
pictures (GOP) up to its last chosen frame; or every packet from the start of the file."""

KEPT_PACKETS_MIB = 128
"""The packets of a video that takes no more than this stay in memory between reading their headers and decoding."""

_NO_TIME = np.iinfo(np.int64).min
_INTRA_ONLY = 1  # AV_CODEC_PROP_INTRA_ONLY
_REORDER_WINDOW = 32  # H.264 shows no picture more than 16 pictures late


@contextmanager
def open_video(file: Path | bytes, *, name: str = "") -> Iterator[VideoStream]:
    """Open a video and give its first video stream, set to decode on one thread.

    One thread because loaders run one decoder a worker: frame threads would only fight over the same cores.

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
    try:
        source = str(file.absolute()) if isinstance(file, Path) else io.BytesIO(file)
        container = av.open(source, "r", metadata_errors="replace")
    except (av.error.FFmpegError, OSError) as error:
        raise ValueError(
            f"{name}: cannot be opened as a video ({ffmpeg_reason(error)}). It may be cut off, empty or not a video; "
            "replace it or take it out of the list."
        ) from error
    with container:
        if not container.streams.video:
            kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "none"
            raise ValueError(f"{name}: no video stream (streams found: {kinds}). Take the file out of the list.")
        stream = container.streams.video[0]
        if stream.codec_context is None:
            raise ValueError(f"{name}: its video codec is not known to PyAV's FFmpeg. Re-encode it, to H.264 say.")
        stream.codec_context.thread_count = 1
        stream.thread_type = "NONE"
        yield stream


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
    """bool: gives a frame; hidden reference frames of VP8 do not."""
    is_referenced: np.ndarray
    """bool: other packets may depend on it."""
    access: np.ndarray
    """uint8: whether decoding can start here, see :mod:`mgs_dali.headers`."""
    order: np.ndarray
    """int64: place in presentation order, a permutation of 0 to N - 1."""
    needs_leading: bool
    """See :class:`mgs_dali.headers.Reader`."""
    level: Level
    """What is proved about this stream. At "full" only the container's columns mean something."""
    reason: str
    """Why not level "packets"; empty at that level."""

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
            :mod:`mgs_dali.headers`.

    Raises:
        IndexError: the video has no such frame.
    """
    assert table.level != "full"
    frames = table.frames
    chosen = np.unique(picks)
    check_picks(chosen, num_frames=len(frames))
    starts = np.flatnonzero((table.access >= least_access) | (np.arange(len(table.access)) == 0))
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


def check_picks(picks: np.ndarray, *, num_frames: int) -> None:
    """Check that a video has the frames that are asked for.

    Raises:
        IndexError: it has not, or none is asked for.
    """
    if len(picks) == 0:
        raise IndexError("no frames are asked for")
    if picks.min() < 0 or picks.max() >= num_frames:
        raise IndexError(f"frames {picks.min()} to {picks.max()} of a video of {num_frames} frames")


def packets_again(file: Path | bytes, *, name: str) -> Iterator[Packet]:
    """The packets of a video's table, read once more: for videos whose packets do not stay in memory."""
    with open_video(file, name=name) as stream:
        container = stream.container
        assert isinstance(container, InputContainer)
        yield from (packet for packet in container.demux(stream) if packet.size > 0)


@dataclass(frozen=True)
class Scan:
    """What a video's header and packets say."""

    codec: str
    """FFmpeg's name of the codec: h264, hevc, vp8, vp9, mpeg4, mjpeg, av1, ..."""
    width: int
    height: int
    pixel_format: str
    num_frames: int
    """Packets that show a frame."""
    num_packets: int
    """Packets of any kind: also those of hidden frames, and those that an edit list leaves out."""
    header_num_frames: int
    """Frames that the container's header promises, and means packets; 0 where it promises none."""
    packets: PacketTable | None = field(default=None, compare=False, repr=False)
    """Each packet."""


def scan(file: Path | bytes, *, name: str = "") -> Scan:
    """Read header and packets of a video; nothing is decoded.

    Args:
        file: path of the video, or the bytes of the whole file.
        name: what to call the file in errors; the path by default.

    Raises:
        ValueError: not a readable video (see :func:`open_video`), or one without a single frame.
    """
    name = name or (str(file) if isinstance(file, Path) else "video in memory")
    with open_video(file, name=name) as stream:
        return read_packets(stream, name=name)[0]


def read_packets(stream: VideoStream, *, name: str) -> tuple[Scan, list[Packet] | None]:
    """Read the packets of an open stream up to its end.

    Returns:
        scan: with its packet table.
        packets: the packets of the table, or None where they take more than :data:`KEPT_PACKETS_MIB`.

    Raises:
        ValueError: reading fails, or there is no frame.
    """
    container, context = stream.container, stream.codec_context
    assert isinstance(container, InputContainer)
    codec = context.codec.canonical_name
    columns = _Columns(codec, context.extradata or b"", intra_only=bool(context.codec.properties & _INTRA_ONLY))
    kept: list[Packet] | None = []
    num_bytes = 0
    try:
        for packet in container.demux(stream):
            if packet.size == 0:
                columns.add_empty(packet)
                continue
            columns.add(packet)
            num_bytes += packet.size
            if kept is not None:
                kept.append(packet)
                if num_bytes > KEPT_PACKETS_MIB * 2**20:
                    kept = None
    except av.error.FFmpegError as error:
        raise ValueError(
            f"{name}: reading failed after {columns.num_frames} frames ({ffmpeg_reason(error)}). The file is damaged; "
            "replace it or take it out of the list."
        ) from error
    if columns.num_frames == 0:
        raise ValueError(f"{name}: its video stream holds no frame. Take the file out of the list.")
    found = Scan(
        codec=codec,
        width=context.width,
        height=context.height,
        pixel_format=context.pix_fmt or "unknown",
        num_frames=columns.num_frames,
        num_packets=columns.num_packets,
        header_num_frames=promised_packets(stream),
        packets=columns.table(reorder_depth=context.reorder_depth if codec == "h264" else None),
    )
    return found, kept


class _Columns:
    """Collects the rows of a packet table."""

    def __init__(self, codec: str, extradata: bytes, *, intra_only: bool) -> None:
        self._codec = codec
        self._rows: list[tuple[int, int, int, bool, bool]] = []
        self._shows: list[bool] = []
        self._reader: Reader | None = None
        self._doubt = ""
        self.num_packets = self.num_frames = 0
        try:
            self._reader = reader_for(codec, extradata, intra_only=intra_only)
        except Doubt as doubt:
            self._doubt = str(doubt)

    def add_empty(self, packet: Packet) -> None:
        """A packet without content: PyAV's mark of the end, or one that a decoder could take for the end."""
        if packet.dts is not None or packet.pts is not None:
            self._doubt = self._doubt or "packets without content"

    def add(self, packet: Packet) -> None:
        pts = _NO_TIME if packet.pts is None else packet.pts
        dts = _NO_TIME if packet.dts is None else packet.dts
        is_keyframe, is_discard = packet.is_keyframe, packet.is_discard
        self._rows.append((pts, dts, packet.size, is_keyframe, is_discard))
        shows: bool | None = None
        if not self._doubt:
            assert self._reader is not None
            try:
                if packet.is_corrupt:
                    raise Doubt("a damaged packet")
                if any(side.data_type in ("new_extradata", "param_change") for side in packet.iter_sidedata()):
                    raise Doubt("the coding parameters change on the way")
                self._reader.add(memoryview(packet), is_keyframe=is_keyframe)
                shows = self._reader.pictures[-1].shows
            except Doubt as doubt:
                self._doubt = str(doubt)
        if shows is None:
            shows = _shows_a_frame(self._codec, packet)
        self._shows.append(shows)
        self.num_packets += 1
        self.num_frames += shows and not is_discard

    def table(self, *, reorder_depth: int | None) -> PacketTable:
        """The table of all packets so far.

        Args:
            reorder_depth: how late the decoder shows pictures, where it must be checked that this is late enough.
        """
        num_packets = len(self._rows)
        pts, dts, size, is_keyframe, discard = (np.array(column) for column in zip(*self._rows, strict=True))
        shows = np.array(self._shows)
        level: Level = "full"
        reason = self._doubt
        referenced, access = np.ones(num_packets, bool), np.zeros(num_packets, np.uint8)
        order = np.arange(num_packets)
        if not reason:
            assert self._reader is not None
            pictures = self._reader.finish()
            keys = np.array([picture.order for picture in pictures])
            order = np.empty(num_packets, np.int64)
            order[np.argsort(keys, kind="stable")] = np.arange(num_packets)
            referenced = np.array([picture.is_referenced for picture in pictures])
            access = np.array([picture.access for picture in pictures], np.uint8)
            reason = _doubt_order(keys, order, pts, may_restart=self._reader.order_may_restart)
            if not access[0] or order[0] != 0:
                reason = reason or "the first packet is not where decoding can start"
            if reorder_depth is not None and _reorder_depth(order) > reorder_depth:
                reason = reason or "pictures are shown later than the header says"
            if not reason:
                level = "gops" if self._reader.whole_gops else "packets"
                reason = self._reader.whole_gops
        return PacketTable(
            pts=pts,
            dts=dts,
            size=size,
            is_keyframe=is_keyframe,
            discard=discard,
            shows=shows,
            is_referenced=referenced,
            access=access,
            order=order,
            needs_leading=self._reader is not None and self._reader.needs_leading,
            level=level,
            reason=reason,
        )


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


@contextmanager
def open_scanned(file: Path | bytes, *, name: str) -> Iterator[tuple[VideoStream, Scan, Iterable[Packet]]]:
    """Open a video and read its packets, for those who go on with some of them.

    Yields:
        The stream, the scan with its packet table, and the packets of the table: those in memory, or where they take
        too much of it, the same read once more.

    Raises:
        ValueError: not a readable video, or one that is cut off.
    """
    with open_video(file, name=name) as stream:
        found, kept = read_packets(stream, name=name)
        check_complete(name, num_packets=found.num_packets, header_num_frames=found.header_num_frames)
        yield stream, found, kept if kept is not None else packets_again(file, name=name)


def promised_packets(stream: VideoStream) -> int:
    """How many packets a file's header promises; 0 where it promises none.

    MP4 and MOV name each packet; FFmpeg leaves those out that an edit list makes superfluous, which the header's mere
    count of frames still holds.
    """
    if "mov" in stream.container.format.name.split(","):
        return min(stream.frames, len(stream.index_entries))
    return stream.frames


def check_complete(name: str, *, num_packets: int, header_num_frames: int) -> None:
    """Check that a file holds as many packets as its header promises.

    Raises:
        ValueError: it is cut off. Decoders show such a file's missing frames in black, or not at all.
    """
    if header_num_frames > num_packets:
        raise ValueError(
            f"{name}: its header promises {header_num_frames} frames, {num_packets} are there. The file is cut off; "
            "replace it or take it out of the list."
        )


def _shows_a_frame(codec: str, packet: Packet) -> bool:
    """False for VP8's alternate reference frames, the only packets of their own that are decoded but never shown.

    VP9 packs its hidden frames into the packet of a shown one. RFC 6386 section 9.1: bit 4 of the frame tag is
    ``show_frame``.
    """
    return codec != "vp8" or bool(bytes(memoryview(packet)[:1])[0] & 0x10)


# --- a file of just the needed packets --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cut:
    """A video file in memory that holds what chosen frames depend on."""

    file: bytes
    frames: np.ndarray
    """(T,) int64: which frames of ``file`` the picks are, in their order."""
    picks: np.ndarray
    """(T,) int64: which frames of the whole video they are."""
    scan: Scan
    """Of the whole video."""
    level: Level
    reason: str
    """Why not level "packets"; empty at that level."""
    num_packets: int
    """Packets in ``file``."""


def cut(file: Path | bytes, picks: np.ndarray | Callable[[Scan], np.ndarray], *, name: str = "") -> Cut:
    """Copy the packets that frames depend on into a small Matroska file; nothing is decoded.

    A decoder that plays the copy from its start gives the same pixels for the chosen frames as for the whole file; the
    other frames of the copy are not to be used. Its timestamps are regular. Runs of packets follow each other without a
    mark, so they start only where pictures can be joined: at IDR pictures of H.264, at keyframes of other codecs
    (HEVC's CRA pictures are renamed to BLA pictures, which are made for this).

    Args:
        file: path of the video, or the bytes of the whole file.
        picks: (T,) frame indices in any order, may repeat; or a function that chooses them by the scan.
        name: what to call the file in errors; the path by default.

    Returns:
        The copy. At level "full" it is the whole file.

    Raises:
        ValueError: not a readable video, or one that is cut off.
        IndexError: the video has no such frame.
    """
    name = name or (str(file) if isinstance(file, Path) else "video in memory")
    with open_scanned(file, name=name) as (stream, found, packets):
        table = found.packets
        assert table is not None
        chosen = np.asarray(picks(found) if callable(picks) else picks)
        check_picks(chosen, num_frames=found.num_frames)
        reason = table.reason
        if table.level != "full":
            runs = needed_packets(table, chosen, least_access=CLEAN)
            rows = np.concatenate([run.packets for run in runs])
            shown = np.sort(table.order[rows[table.shows[rows]]])
            relative = np.searchsorted(shown, table.order[table.frames[chosen]])
            try:
                content = _copy(stream, packets, table, rows, runs)
            except (av.error.FFmpegError, Doubt) as error:
                reason = f"its packets cannot be copied ({ffmpeg_reason(error)})"
            else:
                return Cut(content, relative, chosen, found, table.level, reason, len(rows))
        content = file if isinstance(file, bytes) else file.read_bytes()
        return Cut(content, chosen, chosen, found, "full", reason, found.num_packets)


_FRAME_TICKS = 40  # of a thousandth of a second, Matroska's own


def _copy(
    stream: VideoStream, packets: Iterable[Packet], table: PacketTable, rows: np.ndarray, runs: list[Run]
) -> bytes:
    """A Matroska file of the packets of runs, whose rows of the table these are."""
    starts = {int(run.packets[0]) for run in runs[1:]}
    shown = np.sort(table.order[rows[table.shows[rows]]])
    # A hidden frame comes half a frame before the one that is shown next.
    times = np.searchsorted(shown, table.order[rows]) * _FRAME_TICKS - np.where(table.shows[rows], 0, _FRAME_TICKS // 2)
    times -= times.min()
    # Matroska stores no decoding times, but its writer wants them rising, and none above the time of presentation.
    decode_times = np.minimum.accumulate(times[::-1])[::-1] - np.arange(len(rows), 0, -1)
    codec = stream.codec_context.codec.canonical_name
    file = io.BytesIO()
    # Times as they are: the writer would shift all so that the first decoding time is 0. And no random identifiers.
    options = {"avoid_negative_ts": "disabled", "fflags": "+bitexact"}
    with av.open(file, "w", format="matroska", options=options) as container:
        target = container.add_stream_from_template(stream, opaque=True)
        wanted = iter(zip(rows.tolist(), times.tolist(), decode_times.tolist(), strict=True))
        row, time, decode_time = next(wanted)
        for index, packet in enumerate(packets):
            if index != row:
                continue
            content = bytes(packet)
            if row in starts:
                content = joinable(content, codec=codec, extradata=stream.codec_context.extradata or b"")
            copied = Packet(content)
            copied.pts, copied.dts, copied.time_base = time, decode_time, Fraction(1, 1000)
            copied.is_keyframe = bool(table.access[row])
            copied.stream = target
            container.mux_one(copied)
            following = next(wanted, None)
            if following is None:
                break
            row, time, decode_time = following
        else:
            raise Doubt("the file became shorter while it was read")
    return file.getvalue()


def ffmpeg_reason(error: Exception) -> str:
    """FFmpeg's own words, without errno and file name."""
    return getattr(error, "strerror", None) or str(error)
