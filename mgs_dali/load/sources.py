"""What DALI's workers run: batches of clips, or of encoded videos for a graph to decode."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..decode.colours import ColourMatrix, colour_correction
from ..decode.containers import UPRIGHT
from ..decode.cut import Cut, cut_scanned
from ..decode.headers.reader import CLEAN
from ..decode.packets import Scan, ScannedVideo, open_video
from ..decode.reading import Reading
from ..video.file import VideoFile, detour
from ..video.folder import FrameFolder
from ..views.crops import Box
from .clip import NOT_MEASURED, LoadedClip, choose_pictures, error_text, known_frames, load_sample
from .plan import Draws, Plan
from .workers import follow_if_spawned

__all__ = [
    "EncodedRow",
    "EncodedSource",
    "HostRow",
    "HostSource",
    "PictureRow",
    "PictureSource",
    "graph_bytes",
    "part_of",
]


class HostRow(NamedTuple):
    """One sample of :class:`HostSource`."""

    pixels: np.ndarray
    """(num_picks, height, width, 3) uint8: the crop, or whole frames where there are several crops."""
    crops: np.ndarray
    """(K, 4) int32: x, y, width, height in ``pixels``."""
    frames: np.ndarray
    """(num_picks,) int64."""
    flips: np.ndarray
    """(K,) int32: 1 for crops that are mirrored."""
    operations: np.ndarray
    """(N, 2) int32, see :class:`Draws`."""
    measured: np.ndarray
    """(F - 1,) float32, see :class:`LoadedClip`."""
    detour: np.ndarray
    """(L,) uint8: UTF-8 text, see :class:`LoadedClip`."""
    error: np.ndarray
    """(L,) uint8: UTF-8 text of what is wrong with the sample, empty where nothing is. Errors travel as data because an
    exception in a worker would reach the reader batches too early and leave the pipeline dead."""


class EncodedRow(NamedTuple):
    """One sample of :class:`EncodedSource`: a file for the graph to decode, or a clip that was decoded here."""

    in_graph: np.ndarray
    """() bool: decode ``file``; otherwise take ``pixels`` and ``frames``."""
    file: np.ndarray
    """(bytes,) uint8: a copy of all packets of the video, or of those that the frames depend on."""
    is_all: np.ndarray
    """() bool: every picture of ``file`` is a frame of the video. Hidden ones and those that an edit list leaves out
    are none."""
    targets: np.ndarray
    """(num_picks,) float64."""
    start: np.ndarray
    """() int64: the first frame of the clip in its video."""
    decoded: np.ndarray
    """(U,) int32: the pictures of ``file`` that are wanted, sorted, each once: the chosen frames on a sparse route,
    else all frames of the clip."""
    places: np.ndarray
    """(num_picks,) int32: where in ``decoded`` each segment's frame is, where they are known before."""
    crops: np.ndarray
    """(K, 4) int32: x, y, width, height in the pictures as they are stored; of ``pixels`` in whole frames only."""
    turn: np.ndarray
    """(3,) int32: how stored pictures are turned upright, see :class:`mgs_dali.decode.containers.Turn`."""
    colours: np.ndarray
    """(3, 3) float32: what makes the right colours of BT.601's, see
    :func:`mgs_dali.decode.colours.colour_correction`."""
    flips: np.ndarray
    """(K,) int32: 1 for crops that are mirrored."""
    operations: np.ndarray
    """(N, 2) int32, see :class:`Draws`."""
    pixels: np.ndarray
    """(num_picks, height, width, 3) uint8: the crop, or whole frames where there are several crops."""
    frames: np.ndarray
    """(num_picks,) int64: where they are known before."""
    measured: np.ndarray
    """(F - 1,) float32, see :class:`LoadedClip`."""
    note: np.ndarray
    """(L,) uint8: UTF-8 text of why the graph does not decode this video, empty where it does."""
    detour: np.ndarray
    """(L,) uint8: UTF-8 text, see :class:`LoadedClip`."""
    error: np.ndarray
    """(L,) uint8, see :class:`HostRow`."""


class PictureRow(NamedTuple):
    """One frame of a clip of :class:`PictureSource`. All but the first three are the clip's, the same in each."""

    picture: np.ndarray
    """(bytes,) uint8: a JPEG file; a stand-in of one pixel for a frame that an earlier row of the clip has."""
    crop: np.ndarray
    """(4,) int32: what is needed of the picture, x, y, width, height in pixels."""
    crops: np.ndarray
    """(K, 4) int32: the crops, where there are several: the whole picture is needed then."""
    frames: np.ndarray
    """(num_picks,) int64."""
    flips: np.ndarray
    """(K,) int32: 1 for crops that are mirrored."""
    operations: np.ndarray
    """(N, 2) int32, see :class:`Draws`."""
    measured: np.ndarray
    """(F - 1,) float32, see :class:`LoadedClip`."""
    error: np.ndarray
    """(L,) uint8, see :class:`HostRow`."""


@dataclass(frozen=True)
class HostSource:
    """Clips decoded on the CPU: a callable for DALI's external source in batch mode.

    Called with DALI's batch info it gives the columns of :class:`HostRow` for batch ``info.iteration`` from ``start``.
    """

    plan: Plan
    start: tuple[int, int] = (0, 0)
    """(epoch, iteration) of the first batch."""
    sparse: bool = False
    """Where picks are known before decoding, decode only the packets that they depend on, see :func:`load_clip`."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The fields of :class:`HostRow` that the graph uses, in the order in which they are given."""
        unused = _unused(self.plan) | ({"crops"} if self.plan.views.num_crops == 1 else set())
        return tuple(name for name in HostRow._fields if name not in unused)

    @property
    def told(self) -> tuple[str, ...]:
        """Those of the columns that the pipeline passes on as they are."""
        return _told(self.plan, self.columns)

    def clip_bytes(self, epoch: int, sample: int) -> int:
        """About how large a clip is that is handed over."""
        video = self.plan.clips.video(sample)
        assert isinstance(video, VideoFile)
        with open_video(video.file, name=video.name) as opened:  # its header only: a scan reads every packet
            _, _, width, height = self.plan.draws(epoch, sample).box(opened.stream.width, opened.stream.height)
        return self.plan.num_picks * width * height * 3

    def __call__(self, info: Any) -> tuple[list[np.ndarray], ...]:
        epoch, samples = _batch_at(self.plan, self.start, info.iteration)
        return _columns((self._row(epoch, sample) for sample in samples.tolist()), self.columns)

    def _row(self, epoch: int, sample: int) -> HostRow:
        plan = self.plan
        draws, error = plan.draws(epoch, sample), ""
        try:
            clip = load_sample(plan, sample, draws, sparse=self.sparse)
        except Exception as reason:
            clip, error = _no_clip(plan.num_picks), error_text(reason, name=plan.name(sample))
        return HostRow(
            pixels=clip.pixels,
            crops=np.array(_crops_of(clip, draws), np.int32),
            frames=clip.frames,
            flips=np.array(draws.flips, np.int32),
            operations=draws.operations,
            measured=clip.measured,
            detour=_text(clip.detour),
            error=_text(error),
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        follow_if_spawned()


@dataclass(frozen=True)
class EncodedSource:
    """Encoded videos for a graph that decodes: a callable for DALI's external source in batch mode.

    Called with DALI's batch info it gives the columns of :class:`EncodedRow`. Each batch comes in ``num_parts`` parts,
    one a call, so that the decoded videos of one part fit in memory. A video that the graph's decoder does not take, or
    that does not fit in memory, is decoded here.
    """

    plan: Plan
    refusal: Callable[[Scan], str]
    """Why the graph's decoder does not take a video; empty where it does."""
    sparse: bool = False
    """The graph decodes chosen frames only: for picks that are known before decoding."""
    graph_chooses: bool = True
    """The graph can choose the sampler's frames by the motion that it measures."""
    counts_hidden: bool = False
    """The graph's decoder delivers hidden pictures too, as DALI's does on a GPU."""
    strict: bool = False
    """A video that the graph cannot take is an error."""
    part_limit_bytes: int = 2**62
    """What the decoded videos of one part may take, by :func:`graph_bytes`."""
    num_parts: int = 1
    start: tuple[int, int] = (0, 0)
    """(epoch, iteration) of the first batch."""

    @property
    def told(self) -> tuple[str, ...]:
        """Those of the columns that the pipeline passes on as they are."""
        return _told(self.plan, self.columns)

    def clip_bytes(self, epoch: int, sample: int) -> int:  # noqa: ARG002
        """About how large a clip is that is handed over: a copy of the video's packets. 0 where only reading them tells
        which ones, which are few."""
        return 0 if self.sparse else self.plan.clips.video(sample).stamp().size_bytes

    def __call__(self, info: Any) -> tuple[list[np.ndarray], ...]:
        batches, part = divmod(info.iteration, self.num_parts)
        epoch, samples = _batch_at(self.plan, self.start, batches)
        budget = self.part_limit_bytes
        rows = []
        for sample in part_of(samples, part=part, num_parts=self.num_parts).tolist():
            row, used = self._row(epoch, sample, budget)
            budget -= used
            rows.append(row)
        return _columns(rows, self.columns)

    @property
    def picks_in_graph(self) -> bool:
        """Whether the graph measures motion and chooses frames by it; otherwise they are known before."""
        return not self.sparse and self.plan.sampler.needs_motion and self.graph_chooses

    @property
    def columns(self) -> tuple[str, ...]:
        """The fields of :class:`EncodedRow` that the graph uses, in the order in which they are given."""
        unused = _unused(self.plan) | ({"is_all"} if self.sparse else set())
        unused |= {"places"} if self.picks_in_graph else {"targets", "start"}
        return tuple(name for name in EncodedRow._fields if name not in unused)

    def _row(self, epoch: int, sample: int, budget: int) -> tuple[EncodedRow, int]:
        """A row, and how many bytes of the budget it takes."""
        plan, name = self.plan, self.plan.name(sample)
        sampler, draws, video = plan.sampler, plan.draws(epoch, sample), plan.clips.video(sample)
        assert isinstance(video, VideoFile)
        piece: Cut | None = None
        turn, note, error, used, start = UPRIGHT, "", "", 0, 0
        colours: ColourMatrix = "bt601"
        crops = [(0, 0, 1, 1)] * len(draws.flips)
        clip = _no_clip(plan.num_picks)
        try:
            motion = plan.motion(sample)
            with video.scanned() as scanned:
                found = video.found(scanned.scan, num_measured=None if motion is None else len(motion) + 1)
                start = found.span.start
                num_decoded = plan.num_picks if self.sparse else len(found.span)
                used = graph_bytes(scanned.scan, num_frames=num_decoded)
                note = self._note(scanned.scan, used=used, budget=budget, name=name)
                if not note and self._measures_part(found):
                    note = self._checked(_MEASURES_WHOLE, scanned.scan, name=name, advice=_USE_AUTO)
                if not note:
                    known = known_frames(video, sampler=sampler, targets=draws.targets, motion=motion)
                    if known is not None:
                        clip = clip._replace(frames=known(found))
                    piece = cut_scanned(scanned, self._copied(found, clip.frames))
                    note = self._note_of_copy(piece, scanned.scan, name=name)
            if note or piece is None:
                piece, used = None, 0
                clip = load_sample(plan, sample, draws, sparse=True)
                crops = _crops_of(clip, draws)
            else:
                scan = piece.scan
                clip = clip._replace(detour=detour(piece.level, piece.reason if self.sparse else "", scan))
                turn, colours = scan.turn, scan.colour_matrix
                crops = [turn.box(*box, of=scan.upright_size) for box in draws.boxes(*scan.upright_size)]
        except Exception as reason:
            piece, used, error = None, 0, error_text(reason, name=name)
        in_file = clip.frames * 0
        if piece is not None:
            in_file = piece.pictures if self.counts_hidden else piece.frames
        decoded, places = np.unique(in_file, return_inverse=True)
        if not self.sparse:
            places = clip.frames - start
        return EncodedRow(
            in_graph=np.array(piece is not None),
            file=np.frombuffer(b"\0" if piece is None else piece.file, np.uint8),
            is_all=np.array(piece is not None and len(decoded) == piece.num_packets),
            targets=draws.targets,
            start=np.array(start, np.int64),
            decoded=decoded.astype(np.int32),
            places=places.astype(np.int32),
            crops=np.array(crops, np.int32),
            turn=np.array(turn, np.int32),
            colours=colour_correction(colours),
            flips=np.array(draws.flips, np.int32),
            operations=draws.operations,
            pixels=clip.pixels,
            frames=clip.frames,
            measured=clip.measured,
            note=_text(note),
            detour=_text(clip.detour),
            error=_text(error),
        ), used

    def refuses(self, sample: int, scanned: ScannedVideo) -> str:
        """Why the graph does not decode the video of a sample, were it alone in its batch; empty where it does.

        Nothing is decoded to tell.

        Raises:
            ValueError: with ``strict``, it does not. Or the frames cannot be chosen.
        """
        plan, name, motion = self.plan, self.plan.name(sample), self.plan.motion(sample)
        video = plan.clips.video(sample)
        assert isinstance(video, VideoFile)
        found = video.found(scanned.scan, num_measured=None if motion is None else len(motion) + 1)
        used = graph_bytes(scanned.scan, num_frames=plan.num_picks if self.sparse else len(found.span))
        if note := self._note(scanned.scan, used=used, budget=used, name=name):
            return note
        if self._measures_part(found):
            return self._checked(_MEASURES_WHOLE, scanned.scan, name=name, advice=_USE_AUTO)
        frames = np.zeros(0, np.int64)
        if self.sparse:
            targets = plan.draws(0, sample).targets
            known = known_frames(video, sampler=plan.sampler, targets=targets, motion=motion)
            assert known is not None
            frames = known(found)
        return self._note_of_copy(cut_scanned(scanned, self._copied(found, frames)), scanned.scan, name=name)

    def _copied(self, found: Reading, frames: np.ndarray) -> np.ndarray | None:
        """The frames that are copied with all that they depend on; None for the whole video."""
        if self.sparse:
            return frames
        return None if len(found.span) == found.num_frames else np.array(found.span)

    def _measures_part(self, found: Reading) -> bool:
        """Whether the graph would measure a part of a video whose curve is to be recorded."""
        return self.picks_in_graph and not self.plan.index_is_whole and len(found.span) < found.num_frames

    def _note(self, found: Scan, *, used: int, budget: int, name: str) -> str:
        """Why the graph does not decode a video; empty where it does.

        Raises:
            ValueError: it does not, and is to.
        """
        table = found.packets
        assert table is not None
        note = self.refusal(found)
        if not note and table.level == "full":
            # DALI would trust the count of packets: a black frame for each that shows nothing.
            note = f"only decoding tells which frames it shows ({table.reason})"
        if not note and table.access[table.num_skipped] != CLEAN:
            note = "it starts at an open GOP"
        if not note and used > self.part_limit_bytes:
            note = "decoded whole it is larger than the memory limit"
        note = self._checked(note, found, name=name, advice=_USE_AUTO)
        if not note and used > budget:
            note = "with the rest of its batch it is larger than the memory limit"
            advice = "Use a smaller batch_size, a larger memory_limit_gib, or route='auto', which decodes it on the CPU"
            note = self._checked(note, found, name=name, advice=advice)
        return note

    def _note_of_copy(self, piece: Cut, found: Scan, *, name: str) -> str:
        """The same, once its packets are copied."""
        note = piece.reason if piece.level == "full" else piece.gpu_refusal if self.counts_hidden else ""
        return self._checked(note, found, name=name, advice=_USE_AUTO)

    def _checked(self, note: str, found: Scan, *, name: str, advice: str) -> str:
        if note and self.strict:
            raise ValueError(
                f"{name}: {note} ({found.num_frames} frames of {found.width}x{found.height}). {advice}, or take the "
                "file out of the list."
            )
        return note

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        follow_if_spawned()


@dataclass(frozen=True)
class PictureSource:
    """JPEG files of frame folders: a callable for DALI's external source in batch mode.

    Called with DALI's batch info it gives the columns of :class:`PictureRow` for batch ``info.iteration`` from
    ``start``: num_picks rows for each clip, one a frame, so that one decoder takes all pictures of a batch at once.
    """

    plan: Plan
    start: tuple[int, int] = (0, 0)
    """(epoch, iteration) of the first batch."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The fields of :class:`PictureRow` that the graph uses, in the order in which they are given."""
        unused = _unused(self.plan) | ({"crops"} if self.plan.views.num_crops == 1 else set())
        return tuple(name for name in PictureRow._fields if name not in unused)

    @property
    def told(self) -> tuple[str, ...]:
        """Those of the columns that the pipeline passes on as they are."""
        return _told(self.plan, self.columns)

    def clip_bytes(self, epoch: int, sample: int) -> int:  # noqa: ARG002
        """About how large a clip is that is handed over."""
        folder = self.plan.clips.video(sample)
        assert isinstance(folder, FrameFolder)
        (picture,) = folder.read([folder.first_frame])
        return self.plan.num_picks * len(picture.jpeg)

    def __call__(self, info: Any) -> tuple[list[np.ndarray], ...]:
        epoch, samples = _batch_at(self.plan, self.start, info.iteration)
        return _columns((row for sample in samples.tolist() for row in self._rows(epoch, sample)), self.columns)

    def _rows(self, epoch: int, sample: int) -> list[PictureRow]:
        draws, crop, error = self.plan.draws(epoch, sample), (0, 0, 1, 1), ""
        stand_ins = crops = [(0, 0, 1, 1)] * len(draws.flips)
        try:
            frames, pictures, measured = choose_pictures(self.plan, sample, draws)
            first = pictures[int(frames[0])]
            crop = draws.box(first.width, first.height)
            crops = draws.boxes(first.width, first.height)
        except Exception as reason:
            frames, pictures, measured = np.zeros(self.plan.num_picks, np.int64), {}, NOT_MEASURED
            error = error_text(reason, name=self.plan.name(sample))
        rows, left = [], dict(pictures)
        for frame in frames.tolist():
            picture = left.pop(frame, None)
            row = PictureRow(
                picture=np.frombuffer(_STAND_IN if picture is None else picture.jpeg, np.uint8),
                crop=np.array((0, 0, 1, 1) if picture is None else crop, np.int32),
                crops=np.array(stand_ins if picture is None else crops, np.int32),
                frames=frames,
                flips=np.array(draws.flips, np.int32),
                operations=draws.operations,
                measured=measured,
                error=_text(error),
            )
            rows.append(row)
        return rows

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        follow_if_spawned()


_USE_AUTO = "Use route='auto', which decodes such videos on the CPU"

_MEASURES_WHOLE = "its motion is recorded, of the whole video, and its clip is a part of it"

_STAND_IN = b"P6 1 1 255\n\0\0\0"
"""A picture of one pixel (PPM), for the decoder's rows that are never delivered."""


def part_of(samples: np.ndarray, *, part: int, num_parts: int) -> np.ndarray:
    """One of the nearly equal parts of a batch, larger ones first; all together are the batch, in order."""
    return np.array_split(samples, num_parts)[part]


def graph_bytes(found: Scan, *, num_frames: int) -> int:
    """About how much memory a graph takes for ``num_frames`` decoded frames of a video, in bytes.

    Ten bytes a pixel: RGB of this batch and the next (3 + 3), and for the motion curve YCbCr (3) and its luma (1).
    """
    return 10 * num_frames * found.width * found.height


def _crops_of(clip: LoadedClip, draws: Draws) -> list[Box]:
    """The crops in the pixels of a clip that was decoded here."""
    height, width = clip.pixels.shape[1:3]
    return draws.boxes(width, height) if len(draws.flips) > 1 else [(0, 0, width, height)]


def _no_clip(num_picks: int) -> LoadedClip:
    """Arrays of the right rank where there is no clip: never delivered."""
    pixels, frames = np.zeros((num_picks, 1, 1, 3), np.uint8), np.zeros(num_picks, np.int64)
    return LoadedClip(pixels, frames, NOT_MEASURED, "")


def _unused(plan: Plan) -> set[str]:
    """Columns that nobody reads."""
    unused = set() if plan.training and plan.rand_augment is not None else {"operations"}
    return unused | ({"measured"} if plan.index_is_whole else set())


def _told(plan: Plan, columns: Iterable[str]) -> tuple[str, ...]:
    """What a source tells of a clip besides the clip; its motion only where that is recorded."""
    told = ("note", "detour", "error") if plan.index_is_whole else ("measured", "note", "detour", "error")
    return tuple(name for name in told if name in columns)


def _text(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8)


def _columns(rows: Iterable[HostRow | EncodedRow | PictureRow], names: Iterable[str]) -> tuple[list[np.ndarray], ...]:
    rows = list(rows)
    return tuple([getattr(row, name) for row in rows] for name in names)


def _batch_at(plan: Plan, start: tuple[int, int], steps: int) -> tuple[int, np.ndarray]:
    """(epoch, samples) of the batch that comes ``steps`` batches after ``start``; epochs follow each other."""
    more_epochs, iteration = divmod(start[1] + steps, plan.num_batches)
    epoch = start[0] + more_epochs
    return epoch, plan.batch(epoch, iteration)[0]
