"""Which samples a batch holds and what chance decided for them: pure functions of (seed, epoch, sample).

Nothing here depends on the number of workers or on what was loaded before, so a run can stop and go on anywhere, and
every loader that asks for the same batch gets the same samples, frames, crops and flips.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .annotations import Clips
from .colours import ColourMatrix, colour_correction
from .containers import UPRIGHT
from .crops import Box, multi_scale_crop, random_resized_crop
from .cut import Cut, cut_scanned
from .headers import CLEAN
from .motion import NO_PACKETS, MotionMeter, packet_motion, pixel_motion
from .packets import Level, Scan, ScannedVideo, open_scanned, scan
from .rand_augment import RandAugment, draw_operations
from .rawframes import FrameFolder, Picture, decode_pictures
from .sampling import Dense, MotionGuided, Uniform, motion_guided_frames, sampling_targets, timed_frames
from .video import decode_chosen, decode_then_choose, rgb_chosen
from .views import ONE_VIEW, Views
from .workers import follow_if_spawned

__all__ = [
    "NOT_MEASURED",
    "TRAIN_CROPS",
    "ChosenPictures",
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
    "num_parts_for",
    "part_of",
    "sample_draws",
    "sample_rng",
]

# --- order and draws ------------------------------------------------------------------------------------------------

_DRAWS, _ORDER, _CROPS = range(3)


def _generator(seed: int, *, epoch: int, sample: int, purpose: int) -> np.random.Generator:
    # Philox is counter-based: the generator of any (epoch, sample) is reached directly. The two low words of the
    # counter are left for its own counting.
    return np.random.Generator(np.random.Philox(key=[seed, purpose], counter=[0, 0, epoch, sample]))


def sample_rng(seed: int, epoch: int, sample: int) -> np.random.Generator:
    """The generator of all draws for one sample of one epoch."""
    return _generator(seed, epoch=epoch, sample=sample, purpose=_DRAWS)


@lru_cache(maxsize=4)
def epoch_order(num_samples: int, *, seed: int, epoch: int, shuffle: bool) -> np.ndarray:
    """The order of samples in an epoch, (N,) int64, read-only: a permutation, or 0 to N - 1 without ``shuffle``."""
    if shuffle:
        order = _generator(seed, epoch=epoch, sample=0, purpose=_ORDER).permutation(num_samples)
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
    """float64: where the frames of its clips are taken, see :func:`mgs_dali.sampling.sampling_targets`."""
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
    sampler: MotionGuided | Uniform | Dense,
    size: int,
    flip_probability: float = 0.0,
    train_crop: str = "multi_scale",
    num_operations: int = 0,
    views: Views = ONE_VIEW,
) -> Draws:
    """Draw a sample's targets, flip, crop and operations; without ``training``, those of the views, which are fixed."""
    if not training:
        targets = sampling_targets(sampler, num_clips=views.num_clips)
        return Draws(targets, tuple(views.flips), partial(views.boxes, size=size), _NO_OPERATIONS)

    def boxes(width: int, height: int) -> list[Box]:
        crop_rng = _generator(seed, epoch=epoch, sample=sample, purpose=_CROPS)
        if train_crop == "random_resized":
            return [random_resized_crop(width, height, crop_rng)]
        return [multi_scale_crop(width, height, crop_rng, size=size)]

    rng = sample_rng(seed, epoch, sample)
    targets = sampling_targets(sampler, rng=rng)
    flip = bool(rng.random() < flip_probability)
    operations = draw_operations(num_operations, rng) if num_operations else _NO_OPERATIONS
    return Draws(targets, (flip,), boxes, operations)


_NO_OPERATIONS = np.zeros((0, 2), np.int32)


@dataclass(frozen=True)
class Plan:
    """What every batch of one rank holds, epoch after epoch: the data set, how it is sampled, and the seed."""

    clips: Clips
    sampler: MotionGuided | Uniform | Dense
    batch_size: int
    training: bool
    """Shuffle and draw at random; otherwise list order and ``views``."""
    size: int
    """Side of the square clips in pixels."""
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    flip_probability: float = 0.0
    flip_label_map: Mapping[int, int] | None = None
    """Labels that change when a clip is flipped ("left to right" becomes "right to left")."""
    motion_index: Mapping[str, np.ndarray] | None = None
    """Path in the list -> motion curve, such as a :class:`mgs_dali.MotionIndex`."""
    index_is_whole: bool = True
    """Every video must be in the motion index. Otherwise one that is not is measured as it is decoded."""
    train_crop: str = "multi_scale"
    """One of :data:`TRAIN_CROPS`."""
    rand_augment: RandAugment | None = None
    """How training clips are augmented."""
    views: Views = ONE_VIEW
    """What is seen of each video without ``training``."""

    def __post_init__(self) -> None:
        if isinstance(self.sampler, Uniform) and not self.training:
            object.__setattr__(self, "sampler", replace(self.sampler, keep_tail=True))
        if len(self.clips) == 0:
            raise ValueError(f"{self.clips.list_file}: no clips. The list needs at least one line.")
        for name, least in (("batch_size", 1), ("size", 1), ("seed", 0), ("rank", 0), ("world_size", 1)):
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or value < least:
                raise ValueError(f"{name} ({value!r}) must be a whole number of at least {least}.")
        if self.rank >= self.world_size:
            raise ValueError(f"rank ({self.rank}) must be below world_size ({self.world_size}).")
        if not 0 <= self.flip_probability <= 1:
            raise ValueError(f"flip_probability ({self.flip_probability}) must be between 0 and 1.")
        if self.motion_index is not None and getattr(self.sampler, "measure", "") == "packet":
            raise ValueError(
                "MotionGuided(measure='packet') measures motion without a motion index, and there is one. Leave out "
                "one of the two; an index of packet sizes is made with: mgs-dali index LIST --measure packet."
            )
        if self.clips.template is not None and getattr(self.sampler, "measure", "") == "packet":
            raise ValueError(f"{self.clips.list_file}: {NO_PACKETS}")
        if self.train_crop not in TRAIN_CROPS:
            raise ValueError(f"train_crop ({self.train_crop!r}) must be one of {', '.join(map(repr, TRAIN_CROPS))}.")
        if self.rand_augment is not None:
            self.rand_augment.check()
        if self.training and len(self.views) > 1:
            raise ValueError(f"{self.views} is for evaluation: a training clip is one view. Leave out views.")
        if any(self.views.flips) and self.flip_label_map:
            raise ValueError(
                "views of crops='ten' are mirrored, and flip_label_map says that mirrored clips have other labels: "
                "their scores must not be averaged. Use other crops, such as crops='three' (protocol accurate)."
            )
        if not self.training:
            sampling_targets(self.sampler, num_clips=self.views.num_clips)  # checks how many clips there are
        for label in (label for pair in (self.flip_label_map or {}).items() for label in pair):
            if not 0 <= label < self.clips.num_classes:
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

    def curve(self, sample: int) -> np.ndarray | None:
        """The motion curve of a sample's video, where there is a motion index.

        Raises:
            ValueError: the index should hold one, and does not.
        """
        if self.motion_index is None or not isinstance(self.sampler, MotionGuided):
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
        return f"{self.clips.file(sample)} ({self.clips.where(sample)})"


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


def known_picks(
    targets: np.ndarray, *, sampler: MotionGuided | Uniform | Dense, curve: np.ndarray | None, name: str
) -> Callable[[Scan], np.ndarray] | None:
    """How frames are chosen by what a scan tells, before decoding; None where the motion must be seen first.

    What is returned raises a ValueError where the curve is not of the video that was scanned, or where the sizes of its
    packets say nothing of motion.
    """
    if not isinstance(sampler, MotionGuided):
        return lambda found: timed_frames(sampler, found.num_frames, targets)
    if curve is None and sampler.measure != "packet":
        return None

    def picks(found: Scan) -> np.ndarray:
        assert found.packets is not None
        if curve is not None and found.num_frames != len(curve) + 1:
            raise ValueError(
                f"{name}: the motion index holds {len(curve) + 1} frames of it, the file shows {found.num_frames}. It "
                "has changed since: run mgs-dali index again."
            )
        motion = packet_motion(found.packets, name=name) if curve is None else curve
        if curve is None and found.num_frames != len(motion) + 1:
            raise ValueError(
                f"{name}: its packets promise {len(motion) + 1} frames, {found.num_frames} come out, so that their "
                "sizes do not tell when it moves. Use measure='pixel', or a motion index."
            )
        return motion_guided_frames(motion, targets, mu=sampler.mu, floor=sampler.floor, pick=sampler.pick)

    return picks


def load_clip(
    file: Path,
    draws: Draws,
    *,
    sampler: MotionGuided | Uniform | Dense,
    name: str,
    curve: np.ndarray | None = None,
    sparse: bool = False,
) -> LoadedClip:
    """Decode a video once and take the chosen frames of all its clips, cropped but not resized.

    Where motion has to be measured, it is on the luma plane of each frame; only chosen frames are converted to RGB.

    Args:
        curve: the video's motion curve, where it is known.
        sparse: where the frames are known beforehand, decode only the packets that they depend on
            (:func:`mgs_dali.video.decode_chosen`), instead of every one up to the last. The result is the same.

    Raises:
        ValueError: the video cannot be read or decoded, or the curve is of another video.
    """
    known = known_picks(draws.targets, sampler=sampler, curve=curve, name=name)
    if known is not None:
        chosen = decode_chosen(file, known, name=name, sparse=sparse)
        pixels = rgb_chosen(chosen.frames, chosen.picks, box=draws.box)
        detour = _detour(chosen.level, chosen.reason if sparse else "", chosen.scan)
        return LoadedClip(pixels, chosen.picks, NOT_MEASURED, detour)
    assert isinstance(sampler, MotionGuided)

    meter = MotionMeter()

    def choose(_found: Scan) -> np.ndarray:
        return motion_guided_frames(meter.curve, draws.targets, mu=sampler.mu, floor=sampler.floor, pick=sampler.pick)

    with open_scanned(file, name=name) as scanned:
        frames, picks = decode_then_choose(scanned, choose, watch=meter.watch)
        detour = _detour("packets", "", scanned.scan)
    return LoadedClip(rgb_chosen(frames, picks, box=draws.box), picks, meter.curve, detour)


def _detour(level: Level, reason: str, found: Scan) -> str:
    parts = []
    if reason:
        parts.append(f"{'by whole GOPs' if level == 'gops' else 'from the first frame on'}, because of: {reason}")
    if found.packets is not None and found.packets.num_skipped:
        parts.append("from the first frame that can be decoded on, in recordings that begin inside a GOP")
    if not found.is_proved_whole:
        parts.append("from files that do not tell where they end, so that nobody can know whether they are whole")
    return "; ".join(parts)


# --- clips from frame folders ---------------------------------------------------------------------------------------


class ChosenPictures(NamedTuple):
    """What :func:`choose_pictures` gives."""

    frames: np.ndarray
    """(T,) int64: which frames of the folder these are."""
    pictures: dict[int, Picture]
    """By frame, each once; all of one size."""
    measured: np.ndarray
    """(F - 1,) float32, the motion curve of the folder if it was measured here; :data:`NOT_MEASURED` if not."""


def choose_pictures(plan: Plan, sample: int, draws: Draws) -> ChosenPictures:
    """Choose the frames of a clip that is (part of) a frame folder, and read their files.

    Where its motion is not known, all frames of the clip are decoded for it; of the whole folder, if the curve is to be
    recorded.

    Raises:
        ValueError: the folder or a frame is not there or damaged, or does not fit the list or the motion index.
    """
    clips, sampler, curve = plan.clips, plan.sampler, plan.curve(sample)
    assert clips.template is not None
    folder = FrameFolder(clips.file(sample), clips.template, name=plan.name(sample))
    num_indexed = None if curve is None else len(curve) + 1
    span = folder.clip(int(clips.first_frames[sample]), int(clips.num_frames[sample]), num_indexed=num_indexed)
    measured = NOT_MEASURED
    if not isinstance(sampler, MotionGuided):
        picks = timed_frames(sampler, len(span), draws.targets)
    else:
        start = 0
        if curve is None:
            seen = span if plan.index_is_whole else range(folder.count_frames())
            start, curve = seen.start, pixel_motion(folder.decode(seen))
            measured = NOT_MEASURED if plan.index_is_whole else curve
        motion = curve[span.start - start : span.stop - 1 - start]
        picks = motion_guided_frames(motion, draws.targets, mu=sampler.mu, floor=sampler.floor, pick=sampler.pick)
    frames = span.start + picks
    each = np.unique(frames).tolist()
    return ChosenPictures(frames, dict(zip(each, folder.read(each), strict=True)), measured)


def load_sample(plan: Plan, sample: int, draws: Draws, *, sparse: bool = False) -> LoadedClip:
    """Load a clip of the list on the CPU, be it a video (:func:`load_clip`) or a frame folder.

    Raises:
        ValueError: as these two.
    """
    if plan.clips.template is None:
        file, name = plan.clips.file(sample), plan.name(sample)
        return load_clip(file, draws, sampler=plan.sampler, name=name, curve=plan.curve(sample), sparse=sparse)
    chosen = choose_pictures(plan, sample, draws)
    decoded = decode_pictures(chosen.pictures.values(), name=plan.name(sample))
    frames = dict(zip(chosen.pictures, decoded, strict=True))
    return LoadedClip(rgb_chosen(frames, chosen.frames, box=draws.box), chosen.frames, chosen.measured, "")


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
    note: np.ndarray
    """(0,) uint8: nothing to note."""
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
    decoded: np.ndarray
    """(U,) int32: the pictures of ``file`` that are wanted, sorted, each once: the picks where they are known before,
    else all frames."""
    places: np.ndarray
    """(num_picks,) int32: where in ``decoded`` each segment's frame is."""
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
    """(F - 1,) float32, see :class:`ChosenPictures`."""
    note: np.ndarray
    """(0,) uint8: nothing to note."""
    detour: np.ndarray
    """(0,) uint8: likewise."""
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
        unused = _unused_operations(self.plan) | ({"crops"} if self.plan.views.num_crops == 1 else set())
        return tuple(name for name in HostRow._fields if name not in unused)

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
            note=_text(""),
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
    counts_hidden: bool = False
    """The graph's decoder delivers hidden pictures too, as DALI's does on a GPU."""
    strict: bool = False
    """A video that the graph cannot take is an error."""
    part_limit_bytes: int = 2**62
    """What the decoded videos of one part may take, by :func:`graph_bytes`."""
    num_parts: int = 1
    start: tuple[int, int] = (0, 0)
    """(epoch, iteration) of the first batch."""

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
    def columns(self) -> tuple[str, ...]:
        """The fields of :class:`EncodedRow` that the graph uses, in the order in which they are given."""
        unused = _unused_operations(self.plan) | ({"is_all"} if self.sparse else {"places"})
        if self.sparse or not isinstance(self.plan.sampler, MotionGuided):
            unused.add("targets")
        return tuple(name for name in EncodedRow._fields if name not in unused)

    def _row(self, epoch: int, sample: int, budget: int) -> tuple[EncodedRow, int]:
        """A row, and how many bytes of the budget it takes."""
        plan, name = self.plan, self.plan.name(sample)
        sampler, path = plan.sampler, plan.clips.file(sample)
        draws = plan.draws(epoch, sample)
        piece: Cut | None = None
        turn, note, error, used = UPRIGHT, "", "", 0
        colours: ColourMatrix = "bt601"
        crops = [(0, 0, 1, 1)] * len(draws.flips)
        clip = _no_clip(plan.num_picks)
        try:
            curve = plan.curve(sample)
            with open_scanned(path, name=name) as scanned:
                found = scanned.scan
                used = graph_bytes(found, num_frames=plan.num_picks if self.sparse else found.num_frames)
                note = self._note(found, used=used, budget=budget, name=name)
                if not note:
                    picks = None
                    if self.sparse:
                        known = known_picks(draws.targets, sampler=sampler, curve=curve, name=name)
                        assert known is not None
                        picks = known(found)
                    elif not isinstance(sampler, MotionGuided):
                        clip = clip._replace(frames=timed_frames(sampler, found.num_frames, draws.targets))
                    piece = cut_scanned(scanned, picks)
                    note = self._note_of_copy(piece, found, name=name)
            if note or piece is None:
                piece, used = None, 0
                clip = load_clip(path, draws, sampler=sampler, name=name, curve=curve, sparse=True)
                crops = _crops_of(clip, draws)
            else:
                clip = clip._replace(frames=piece.picks if self.sparse else clip.frames)
                clip = clip._replace(detour=_detour(piece.level, piece.reason if self.sparse else "", found))
                turn, colours = found.turn, found.colour_matrix
                crops = [turn.box(*box, of=found.upright_size) for box in draws.boxes(*found.upright_size)]
        except Exception as reason:
            piece, used, error = None, 0, error_text(reason, name=name)
        in_file = clip.frames * 0
        if piece is not None:
            in_file = piece.pictures if self.counts_hidden else piece.frames
        decoded, places = np.unique(in_file, return_inverse=True)
        return EncodedRow(
            in_graph=np.array(piece is not None),
            file=np.frombuffer(b"\0" if piece is None else piece.file, np.uint8),
            is_all=np.array(piece is not None and len(decoded) == piece.num_packets),
            targets=draws.targets,
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
        plan, found, name = self.plan, scanned.scan, self.plan.name(sample)
        used = graph_bytes(found, num_frames=plan.num_picks if self.sparse else found.num_frames)
        if note := self._note(found, used=used, budget=used, name=name):
            return note
        picks = None
        if self.sparse:
            targets, curve = plan.draws(0, sample).targets, plan.curve(sample)
            known = known_picks(targets, sampler=plan.sampler, curve=curve, name=name)
            assert known is not None
            picks = known(found)
        return self._note_of_copy(cut_scanned(scanned, picks), found, name=name)

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
        note = self._checked(note, found, name=name, advice="Use route='auto', which decodes such videos on the CPU")
        if not note and used > budget:
            note = "with the rest of its batch it is larger than the memory limit"
            advice = "Use a smaller batch_size, a larger memory_limit_gib, or route='auto', which decodes it on the CPU"
            note = self._checked(note, found, name=name, advice=advice)
        return note

    def _note_of_copy(self, piece: Cut, found: Scan, *, name: str) -> str:
        """The same, once its packets are copied."""
        note = piece.reason if piece.level == "full" else piece.gpu_refusal if self.counts_hidden else ""
        return self._checked(note, found, name=name, advice="Use route='auto', which decodes such videos on the CPU")

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
        unused = _unused_operations(self.plan) | ({"crops"} if self.plan.views.num_crops == 1 else set())
        return tuple(name for name in PictureRow._fields if name not in unused)

    def __call__(self, info: Any) -> tuple[list[np.ndarray], ...]:
        epoch, samples = _batch_at(self.plan, self.start, info.iteration)
        return _columns((row for sample in samples.tolist() for row in self._rows(epoch, sample)), self.columns)

    def _rows(self, epoch: int, sample: int) -> list[PictureRow]:
        draws, crop, error = self.plan.draws(epoch, sample), (0, 0, 1, 1), ""
        stand_ins = crops = [(0, 0, 1, 1)] * len(draws.flips)
        try:
            chosen = choose_pictures(self.plan, sample, draws)
            first = chosen.pictures[int(chosen.frames[0])]
            crop = draws.box(first.width, first.height)
            crops = draws.boxes(first.width, first.height)
        except Exception as reason:
            no_frames = np.zeros(self.plan.num_picks, np.int64)
            chosen = ChosenPictures(no_frames, {}, NOT_MEASURED)
            error = error_text(reason, name=self.plan.name(sample))
        rows, left = [], dict(chosen.pictures)
        for frame in chosen.frames.tolist():
            picture = left.pop(frame, None)
            row = PictureRow(
                picture=np.frombuffer(_STAND_IN if picture is None else picture.jpeg, np.uint8),
                crop=np.array((0, 0, 1, 1) if picture is None else crop, np.int32),
                crops=np.array(stand_ins if picture is None else crops, np.int32),
                frames=chosen.frames,
                flips=np.array(draws.flips, np.int32),
                operations=draws.operations,
                measured=chosen.measured,
                note=_text(""),
                detour=_text(""),
                error=_text(error),
            )
            rows.append(row)
        return rows

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        follow_if_spawned()


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


def num_parts_for(plan: Plan, *, limit_bytes: int, num_probed: int = 32) -> int:
    """In how many parts to decode a batch, so that an average part takes no more than half of a limit.

    Judged by the headers of some clips, evenly spread over the list; unreadable ones are left out.
    """
    sizes = []
    for sample in np.unique(np.linspace(0, len(plan.clips) - 1, num_probed).astype(int)).tolist():
        with suppress(ValueError):
            found = scan(plan.clips.file(sample))
            sizes.append(min(graph_bytes(found, num_frames=found.num_frames), limit_bytes))
    if not sizes:
        return 1
    return min(plan.batch_size, max(1, math.ceil(2 * plan.batch_size * float(np.mean(sizes)) / limit_bytes)))


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
