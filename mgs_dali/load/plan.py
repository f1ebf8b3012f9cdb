"""Which samples a batch holds and what chance decided for them: pure functions of (seed, epoch, sample).

Nothing here depends on the number of workers or on what was loaded before, so a run can stop and go on anywhere, and
every loader that asks for the same batch gets the same samples, frames, crops and flips.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np

from ..generator import Purpose, generator
from ..index.recorder import MotionRecorder
from ..index.store import MotionIndex
from ..lists.table import Clips
from ..motion.measure import measure_of
from ..motion.packet import NO_PACKETS
from ..sampling import Sampler, check_sampler, evaluated
from ..views.crops import Box, multi_scale_crop, random_resized_crop
from ..views.protocols import ONE_VIEW, Views, as_views
from ..views.rand_augment import RandAugment, as_rand_augment, draw_operations

__all__ = [
    "TRAIN_CROPS",
    "Draws",
    "Plan",
    "batch_samples",
    "epoch_order",
    "sample_draws",
]


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
    """(N, 2) int32: of RandAugment, see :func:`mgs_dali.views.rand_augment.draw_operations`; N is 0 without it."""

    @property
    def flip(self) -> bool:
        """Mirror a training clip."""
        return self.flips == (True,)

    def box(self, width: int, height: int) -> Box:
        """The part of the frames that is needed: the crop, or the whole frame where there are several crops."""
        return self.boxes(width, height)[0] if len(self.flips) == 1 else (0, 0, width, height)


TRAIN_CROPS = ("multi_scale", "random_resized")
"""Crops to train on: MultiScaleCrop of TSN and TSM, and RandomResizedCrop, see :mod:`mgs_dali.views.crops`."""


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
