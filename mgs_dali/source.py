"""Which samples a batch holds and what chance decided for them: pure functions of (seed, epoch, sample).

Nothing here depends on the number of workers or on what was loaded before, so a run can stop and go on anywhere, and
every loader that asks for the same batch gets the same samples, frames, crops and flips.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np

from .colours import ColourMatrix, colour_correction
from .containers import UPRIGHT
from .crops import Box, multi_scale_crop, random_resized_crop
from .cut import Cut, cut_scanned
from .decode.headers.reader import CLEAN
from .generator import Purpose, generator
from .index.recorder import MotionRecorder
from .index.store import MotionIndex
from .lists.table import Clips
from .motion import NO_PACKETS, MotionMeter, measure_of
from .packets import Scan, ScannedVideo
from .rand_augment import RandAugment, as_rand_augment, draw_operations
from .rawframes import FrameFolder, Picture
from .sampling import Sampler, check_sampler, evaluated
from .video_file import Video, VideoFile, detour
from .videos import Choose, Reading, frames_of_span
from .views import ONE_VIEW, Views, as_views
from .workers import follow_if_spawned

__all__ = [
    "NOT_MEASURED",
    "TRAIN_CROPS",
    "Draws",
    "EncodedRow",
    "EncodedSource",
    "HostRow",
    "HostSource",
    "LoadedClip",
    "PictureRow",
    "PictureSource",
    "Plan",
    "batch_samples",
    "choose_pictures",
    "epoch_order",
    "error_text",
    "graph_bytes",
    "load_clip",
    "load_sample",
    "part_of",
    "sample_draws",
]

# --- order and draws ------------------------------------------------------------------------------------------------


@lru_cache(maxsize=4)
def epoch_order(num_samples: int, *, seed: int, epoch: int, shuffle: bool) -> np.ndarray:
    """The order of samples in an epoch, (N,) int64, read-only: a permutation, or 0 to N - 1 without ``shuffle``."""
    if shuffle:
        order = generator(seed, purpose=Purpose.ORDER, epoch=epoch).permutation(num_samples)
    else:
        order = np.arange(num_samples)
    order.flags.writeable = False  # cached
    return order


def batch_samples(
    order: np.ndarray, *, iteration: int, batch_size: int, rank: int = 0, world_size: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """The samples of one rank's batch.

    The ranks' batches of an iteration, one after the other, are one stretch of the order, so that the global batch does
    not depend on how many ranks share it. Beyond the end of the order the batch is filled from its start.

    Returns:
        samples: (B,) int64.
        valid: (B,) bool; False for samples that only fill the batch.
    """
    place = (iteration * world_size + rank) * batch_size + np.arange(batch_size)
    return order[place % len(order)], place < len(order)


class Draws(NamedTuple):
    """What is decided for one sample of one epoch before its video is opened."""

    targets: np.ndarray
    """float64: where the frames of its clips are taken, see :class:`mgs_dali.sampling.Sampler`."""
    flips: tuple[bool, ...]
    """For each crop, whether it is mirrored, left to right."""
    boxes: Callable[[int, int], list[Box]]
    """(width, height) of the frames -> the crops; the same for the same size, however often it is asked."""
    operations: np.ndarray
    """(N, 2) int32: of RandAugment, see :func:`mgs_dali.rand_augment.draw_operations`; N is 0 without it."""

    @property
    def flip(self) -> bool:
        """Mirror a training clip."""
        return self.flips == (True,)

    def box(self, width: int, height: int) -> Box:
        """The part of the frames that is needed: the crop, or the whole frame where there are several crops."""
        return self.boxes(width, height)[0] if len(self.flips) == 1 else (0, 0, width, height)


TRAIN_CROPS = ("multi_scale", "random_resized")
"""Crops to train on: MultiScaleCrop of TSN and TSM, and RandomResizedCrop, see :mod:`mgs_dali.crops`."""


def sample_draws(
    seed: int,
    epoch: int,
    sample: int,
    *,
    training: bool,
    sampler: Sampler,
    size: int,
    flip_probability: float = 0.0,
    train_crop: str = "multi_scale",
    num_operations: int = 0,
    views: Views = ONE_VIEW,
) -> Draws:
    """Draw a sample's targets, flip, crop and operations; without ``training``, those of the views, which are fixed."""
    if not training:
        targets = sampler.targets(num_clips=views.num_clips)
        return Draws(targets, tuple(views.flips), partial(views.boxes, size=size), _NO_OPERATIONS)

    def boxes(width: int, height: int) -> list[Box]:
        crop_rng = generator(seed, purpose=Purpose.CROPS, epoch=epoch, index=sample)
        if train_crop == "random_resized":
            return [random_resized_crop(width, height, crop_rng)]
        return [multi_scale_crop(width, height, crop_rng, size=size)]

    rng = generator(seed, purpose=Purpose.DRAWS, epoch=epoch, index=sample)
    targets = sampler.targets(rng=rng)
    flip = bool(rng.random() < flip_probability)
    operations = draw_operations(num_operations, rng) if num_operations else _NO_OPERATIONS
    return Draws(targets, (flip,), boxes, operations)


_NO_OPERATIONS = np.zeros((0, 2), np.int32)


@dataclass(frozen=True)
class Plan:
    """What every batch of one rank holds, epoch after epoch: the data set, how it is sampled, and the seed."""

    clips: Clips
    sampler: Sampler
    batch_size: int
    training: bool
    """Shuffle and draw at random; otherwise list order and ``views``."""
    size: int = 224
    """Side of the square clips in pixels."""
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    flip_probability: float = 0.0
    flip_label_map: Mapping[int, int] | None = None
    """Labels that change when a clip is flipped ("left to right" becomes "right to left")."""
    motion_index: Mapping[str, np.ndarray] | None = None
    """Path in the list -> motion curve of the whole video: a :class:`mgs_dali.MotionIndex`, or a
    :class:`mgs_dali.MotionRecorder` that is to be filled."""
    index_is_whole: bool = True
    """Every video must be in the motion index. Otherwise one that is not is measured as it is decoded; always so with a
    recorder."""
    train_crop: str = "multi_scale"
    """One of :data:`TRAIN_CROPS`."""
    rand_augment: RandAugment | None = None
    """How training clips are augmented."""
    views: Views = ONE_VIEW
    """What is seen of each video without ``training``."""

    def __post_init__(self) -> None:
        if not isinstance(self.clips, Clips):
            raise ValueError(f"clips ({self.clips!r}) must be a table of clips: read_annotations(list, root=folder).")
        if len(self.clips) == 0:
            raise ValueError(f"{self.clips.list_file}: no clips. The list needs at least one line.")
        if not isinstance(self.training, bool | np.bool_):
            raise ValueError(f"training ({self.training!r}) must be True or False.")
        check_sampler(self.sampler)
        if not self.training:
            object.__setattr__(self, "sampler", evaluated(self.sampler))
        self._check_numbers()
        self._check_index()
        self._check_views()
        if self.train_crop not in TRAIN_CROPS:
            raise ValueError(f"train_crop ({self.train_crop!r}) must be one of {', '.join(map(repr, TRAIN_CROPS))}.")
        if self.rand_augment is not None:
            as_rand_augment(self.rand_augment)
        self._check_labels()

    def _check_numbers(self) -> None:
        for name, least in (("batch_size", 1), ("size", 1), ("seed", 0), ("rank", 0), ("world_size", 1)):
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} ({value!r}) must be a whole number of at least {least}.")
        if self.rank >= self.world_size:
            raise ValueError(f"rank ({self.rank}) must be below world_size ({self.world_size}).")
        probability = self.flip_probability
        if not isinstance(probability, int | float | np.number) or not 0 <= probability <= 1:
            raise ValueError(f"flip_probability ({probability!r}) must be between 0 and 1.")

    def _check_index(self) -> None:
        index, clips = self.motion_index, self.clips
        if index is not None and not isinstance(index, Mapping):
            raise ValueError(
                f"motion_index ({index!r}) must be the folder of one, a MotionIndex, a MotionRecorder, or a mapping "
                "from paths to curves."
            )
        if isinstance(index, MotionRecorder):
            object.__setattr__(self, "index_is_whole", False)
        needs_no_index = self.sampler.needs_motion and not measure_of(self.sampler).needs_decoding
        if index is not None and needs_no_index:
            raise ValueError(
                "MotionGuided(measure='packet') measures motion without a motion index, and there is one. Leave out "
                "one of the two; an index of packet sizes is made with: mgs-dali index LIST --measure packet."
            )
        if clips.are_folders and needs_no_index:
            raise ValueError(f"{clips.list_file}: {NO_PACKETS}")
        if isinstance(index, MotionIndex):
            index.check_covers(clips)

    def _check_views(self) -> None:
        views = as_views(self.views)
        if self.training and len(views) > 1:
            raise ValueError(f"{views} is for evaluation: a training clip is one view. Leave out views.")
        if any(views.flips) and self.flip_label_map:
            raise ValueError(
                "views of crops='ten' are mirrored, and flip_label_map says that mirrored clips have other labels: "
                "their scores must not be averaged. Use other crops, such as crops='three' (protocol accurate)."
            )
        if not self.training:
            self.sampler.targets(num_clips=views.num_clips)  # checks how many clips there are

    def _check_labels(self) -> None:
        if self.flip_label_map is not None and not isinstance(self.flip_label_map, Mapping):
            raise ValueError(
                f"flip_label_map ({self.flip_label_map!r}) must map labels to labels, such as {{0: 1, 1: 0}}."
            )
        for label in (label for pair in (self.flip_label_map or {}).items() for label in pair):
            if not isinstance(label, int | np.integer) or not 0 <= label < self.clips.num_classes:
                raise ValueError(
                    f"flip_label_map names label {label}; the labels of {self.clips.list_file} are "
                    f"0 to {self.clips.num_classes - 1}."
                )

    @property
    def num_batches(self) -> int:
        """Batches an epoch; the last one may be filled up, see :func:`batch_samples`."""
        return -(-len(self.clips) // (self.batch_size * self.world_size))

    def batch(self, epoch: int, iteration: int) -> tuple[np.ndarray, np.ndarray]:
        """(samples, valid) of a batch, see :func:`batch_samples`."""
        order = epoch_order(len(self.clips), seed=self.seed, epoch=epoch, shuffle=self.training)
        return batch_samples(
            order, iteration=iteration, batch_size=self.batch_size, rank=self.rank, world_size=self.world_size
        )

    def draws(self, epoch: int, sample: int) -> Draws:
        """What is decided for a sample, see :func:`sample_draws`."""
        return sample_draws(
            self.seed,
            epoch,
            sample,
            training=self.training,
            sampler=self.sampler,
            size=self.size,
            flip_probability=self.flip_probability,
            train_crop=self.train_crop,
            num_operations=0 if self.rand_augment is None else self.rand_augment.num_operations,
            views=self.views,
        )

    @property
    def num_picks(self) -> int:
        """Frames that are taken of each video: T for each of its clips."""
        return self.views.num_clips * self.sampler.num_segments

    @property
    def side(self) -> int:
        """Side of the delivered clips in pixels; larger than ``size`` for views of the whole short side."""
        return self.views.side(self.size)

    def motion(self, sample: int) -> np.ndarray | None:
        """The motion curve of the whole video that a sample is of, where there is a motion index.

        Raises:
            ValueError: the index should hold one, and does not.
        """
        if self.motion_index is None or not self.sampler.needs_motion:
            return None
        try:
            return self.motion_index[self.clips.paths[sample]]
        except KeyError as error:
            if not self.index_is_whole:
                return None
            raise ValueError(f"{self.name(sample)}: {error.args[0]}") from None

    def labels(self, samples: np.ndarray, flips: np.ndarray) -> np.ndarray:
        """Labels of samples, (B,) int64 or (B, num_classes) float32, with those of flipped clips mapped."""
        labels = self.clips.labels[samples]
        if self.flip_label_map is None or not flips.any():
            return labels
        mapped = np.arange(self.clips.num_classes)
        mapped[list(self.flip_label_map)] = list(self.flip_label_map.values())
        if labels.ndim == 1:
            return np.where(flips, mapped[labels], labels)
        flipped = np.zeros_like(labels)
        for label, mirrored in enumerate(mapped.tolist()):  # two labels may become one
            flipped[:, mirrored] = np.maximum(flipped[:, mirrored], labels[:, label])
        return np.where(flips[:, None], flipped, labels)

    def name(self, sample: int) -> str:
        """What to call a sample's file in errors: its path and the line of the list that names it."""
        return self.clips.name(sample)


# --- clips on the CPU -----------------------------------------------------------------------------------------------


class LoadedClip(NamedTuple):
    """What :func:`load_clip` gives."""

    pixels: np.ndarray
    """(num_picks, height, width, 3) uint8: what is needed of the frames (:meth:`Draws.box`), not resized."""
    frames: np.ndarray
    """(num_picks,) int64: which frames these are."""
    measured: np.ndarray
    """(F - 1,) float32, the motion curve if it was measured here; :data:`NOT_MEASURED` if not."""
    detour: str
    """Why sparse decoding took more than the packets that the frames depend on; empty where it did not, or was not
    asked for."""


NOT_MEASURED = np.full(1, np.nan, np.float32)
"""In place of a motion curve; that of a video of one frame is empty."""


def known_frames(video: Video, *, sampler: Sampler, targets: np.ndarray, motion: np.ndarray | None) -> Choose | None:
    """How the frames of a clip are chosen before decoding; None where its motion must be seen first.

    Args:
        video: of the clip.
        sampler: how frames are chosen.
        targets: drawn for it.
        motion: (F - 1,) motion curve of the whole video, where it is known.
    """
    if sampler.needs_motion and motion is None and measure_of(sampler).needs_decoding:
        return None

    def choose(reading: Reading) -> np.ndarray:
        span, of_span = reading.span, None
        if sampler.needs_motion:
            of_span = measure_of(sampler).curve(reading) if motion is None else motion[span.start : span.stop - 1]
        return frames_of_span(video.name, span, sampler=sampler, targets=targets, motion=of_span)

    return choose


def load_clip(
    video: Video,
    draws: Draws,
    *,
    sampler: Sampler,
    motion: np.ndarray | None = None,
    sparse: bool = False,
    measure_whole: bool = False,
) -> LoadedClip:
    """Choose the frames of a clip and decode them on the CPU; of each the part that is needed.

    Where its motion must be seen first, all frames of the clip are decoded for it.

    Args:
        video: of the clip, a file or a frame folder.
        draws: what was decided for it.
        sampler: how frames are chosen.
        motion: (F - 1,) motion curve of the whole video, where it is known.
        sparse: where frames are known before decoding, decode only the packets that they depend on instead of every
            one up to the last. The result is the same.
        measure_whole: where its motion must be seen, see that of the whole video, for a motion index.

    Raises:
        ValueError: the video cannot be read or decoded, or the curve is of another video.
    """
    asked = _ask(video, draws, sampler=sampler, motion=motion, measure_whole=measure_whole)
    watch = None if asked.meter is None else asked.meter.watch
    pictures = asked.video.pictures(asked.choose, sparse=sparse, num_measured=asked.num_measured, watch=watch)
    return LoadedClip(pictures.cropped(draws.box), pictures.frames, asked.measured, pictures.detour)


@dataclass(frozen=True)
class _Asked:
    """What is asked of a video for a clip."""

    video: Video
    choose: Choose
    num_measured: int | None
    meter: MotionMeter | None = None
    """Where frames are chosen by what it has seen."""

    @property
    def measured(self) -> np.ndarray:
        """See :attr:`LoadedClip.measured`."""
        return NOT_MEASURED if self.meter is None else self.meter.curve


def _ask(video: Video, draws: Draws, *, sampler: Sampler, motion: np.ndarray | None, measure_whole: bool) -> _Asked:
    """See :func:`load_clip`."""
    known = known_frames(video, sampler=sampler, targets=draws.targets, motion=motion)
    if known is not None:
        return _Asked(video, known, None if motion is None else len(motion) + 1)
    meter = MotionMeter()

    def choose(reading: Reading) -> np.ndarray:
        span, seen = video.span(reading.num_frames), meter.curve
        of_span = seen[span.start : span.stop - 1] if measure_whole else seen
        return frames_of_span(video.name, span, sampler=sampler, targets=draws.targets, motion=of_span)

    return _Asked(video.whole if measure_whole else video, choose, None, meter)


def choose_pictures(plan: Plan, sample: int, draws: Draws) -> tuple[np.ndarray, dict[int, Picture], np.ndarray]:
    """Choose the frames of a clip that is (part of) a frame folder as :func:`load_clip` does, and read their files.

    Returns:
        frames: (T,) int64.
        pictures: by frame, each once; all of one size.
        measured: as :attr:`LoadedClip.measured`.

    Raises:
        ValueError: the folder or a frame is not there or damaged, or does not fit the list or the motion index.
    """
    folder, motion, whole = plan.clips.video(sample), plan.motion(sample), not plan.index_is_whole
    assert isinstance(folder, FrameFolder)
    asked = _ask(folder, draws, sampler=plan.sampler, motion=motion, measure_whole=whole)
    assert isinstance(asked.video, FrameFolder)
    watch = None if asked.meter is None else asked.meter.watch
    chosen = asked.video.read_chosen(asked.choose, num_measured=asked.num_measured, watch=watch)
    return *chosen, asked.measured if whole else NOT_MEASURED


def load_sample(plan: Plan, sample: int, draws: Draws, *, sparse: bool = False) -> LoadedClip:
    """Load a clip of the list on the CPU, see :func:`load_clip`.

    Raises:
        ValueError: as there.
    """
    return load_clip(
        plan.clips.video(sample),
        draws,
        sampler=plan.sampler,
        motion=plan.motion(sample),
        sparse=sparse,
        measure_whole=not plan.index_is_whole,
    )


# --- batches for DALI's external source -----------------------------------------------------------------------------


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
    """(3,) int32: how stored pictures are turned upright, see :class:`mgs_dali.containers.Turn`."""
    colours: np.ndarray
    """(3, 3) float32: what makes the right colours of BT.601's, see :func:`mgs_dali.colours.colour_correction`."""
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
        _, _, width, height = self.plan.draws(epoch, sample).box(*self.plan.clips.video(sample).scan().upright_size)
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
        unused = _unused_operations(self.plan) | ({"is_all"} if self.sparse else set())
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


def error_text(error: Exception, *, name: str) -> str:
    """What is to be said of a sample that a worker could not load; whatever it is, it names the file."""
    if isinstance(error, ValueError):
        return str(error) if name in str(error) else f"{name}: {error}"
    if isinstance(error, OSError):
        return f"{name}: {error.strerror or error}. Check the list and the root folder."
    where = "".join(traceback.format_exception(error)[-3:]).strip()
    return f"{name}: could not be loaded, for a reason that was not foreseen ({type(error).__name__}).\n{where}"


def _crops_of(clip: LoadedClip, draws: Draws) -> list[Box]:
    """The crops in the pixels of a clip that was decoded here."""
    height, width = clip.pixels.shape[1:3]
    return draws.boxes(width, height) if len(draws.flips) > 1 else [(0, 0, width, height)]


def _no_clip(num_picks: int) -> LoadedClip:
    """Arrays of the right rank where there is no clip: never delivered."""
    pixels, frames = np.zeros((num_picks, 1, 1, 3), np.uint8), np.zeros(num_picks, np.int64)
    return LoadedClip(pixels, frames, NOT_MEASURED, "")


def _unused_operations(plan: Plan) -> set[str]:
    return set() if plan.training and plan.rand_augment is not None else {"operations"}


def _unused(plan: Plan) -> set[str]:
    """Columns that nobody reads, of sources whose graph measures nothing."""
    return _unused_operations(plan) | ({"measured"} if plan.index_is_whole else set())


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
