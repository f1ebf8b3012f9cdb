"""Which samples a batch holds and what chance decided for them: pure functions of (seed, epoch, sample).

Nothing here depends on the number of workers or on what was loaded before, so a run can stop and go on anywhere, and
every loader that asks for the same batch gets the same samples, frames, crops and flips.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from av.video.frame import VideoFrame

from .annotations import Clips
from .crops import Box, centre_crop, multi_scale_crop
from .motion import MotionMeter
from .packets import open_video, scan
from .sampling import MotionGuided, Uniform, motion_guided_frames, segment_targets, uniform_frames
from .video import decode, rgb_clip

__all__ = [
    "Draws",
    "EncodedSource",
    "HostSource",
    "Plan",
    "batch_samples",
    "epoch_order",
    "load_clip",
    "sample_draws",
    "sample_rng",
    "workers_follow",
]

KEPT_FRAMES_MIB = 256
"""A video whose decoded frames take no more than this is decoded once: the frames wait in memory until the picks are
known. A longer one is decoded twice, first for its motion and then up to its last pick."""


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
    """(T,) float64, one a segment, see :func:`mgs_dali.sampling.segment_targets`."""
    flip: bool
    """Mirror the clip, left to right."""
    box: Callable[[int, int], Box]
    """(width, height) of the frames -> the crop; the same for the same size, however often it is asked."""


def sample_draws(
    seed: int, epoch: int, sample: int, *, training: bool, num_segments: int, size: int, flip_probability: float = 0.0
) -> Draws:
    """Draw a sample's targets, flip and crop; without ``training``, stratum centres and the centre crop.

    The training crop is MultiScaleCrop of TSN and TSM (see :mod:`mgs_dali.crops`).
    """
    if not training:
        return Draws(segment_targets(num_segments), False, partial(centre_crop, size=size))

    def box(width: int, height: int) -> Box:
        crop_rng = _generator(seed, epoch=epoch, sample=sample, purpose=_CROPS)
        return multi_scale_crop(width, height, crop_rng, size=size)

    rng = sample_rng(seed, epoch, sample)
    return Draws(segment_targets(num_segments, rng), bool(rng.random() < flip_probability), box)


@dataclass(frozen=True)
class Plan:
    """What every batch of one rank holds, epoch after epoch: the data set, how it is sampled, and the seed."""

    clips: Clips
    sampler: MotionGuided | Uniform
    batch_size: int
    training: bool
    """Shuffle and draw at random; otherwise list order, stratum centres and centre crops."""
    size: int
    """Side of the square clips in pixels."""
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    flip_probability: float = 0.0
    flip_label_map: Mapping[int, int] | None = None
    """Labels that change when a clip is flipped ("left to right" becomes "right to left")."""

    def __post_init__(self) -> None:
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
            num_segments=self.sampler.num_segments,
            size=self.size,
            flip_probability=self.flip_probability,
        )

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
        flipped[:, mapped] = labels
        return np.where(flips[:, None], flipped, labels)

    def name(self, sample: int) -> str:
        """What to call a sample's file in errors: its path and the line of the list that names it."""
        return f"{self.clips.file(sample)} ({self.clips.where(sample)})"


# --- clips on the CPU -----------------------------------------------------------------------------------------------


def load_clip(file: Path, draws: Draws, *, sampler: MotionGuided | Uniform, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Decode a video and take the chosen frames, cropped but not resized.

    Motion is measured on the luma plane of each frame; only chosen frames are converted to RGB.

    Returns:
        pixels: (T, height, width, 3) uint8.
        frames: (T,) int64, which frames these are.

    Raises:
        ValueError: the video cannot be read or decoded.
    """
    if isinstance(sampler, Uniform):
        num_frames = scan(file, name=name).num_frames
        try:
            return _take(file, uniform_frames(num_frames, draws.targets), draws, name=name)
        except IndexError:
            # Some packets show nothing (a dummy packet of packed B-frames in AVI, a leading frame of an open GOP):
            # what counts is how many frames come out.
            num_frames = _count_frames(file, name=name)
            return _take(file, uniform_frames(num_frames, draws.targets), draws, name=name)

    meter = MotionMeter()
    kept: list[VideoFrame] | None = []
    num_kept_bytes = 0
    with open_video(file, name=name) as stream:
        for frame in meter.watch(decode(stream, name=name)):
            if kept is not None:
                num_kept_bytes += sum(plane.buffer_size for plane in frame.planes)
                kept.append(frame)
                if num_kept_bytes > KEPT_FRAMES_MIB * 2**20:
                    kept = None
    if meter.num_frames == 0:
        raise ValueError(f"{name}: no frame could be decoded. Replace the file or take it out of the list.")
    picks = motion_guided_frames(meter.curve, draws.targets, mu=sampler.mu, floor=sampler.floor, pick=sampler.pick)
    if kept is None:
        return _take(file, picks, draws, name=name)
    return rgb_clip(kept, picks, box=draws.box), picks


def _take(file: Path, picks: np.ndarray, draws: Draws, *, name: str) -> tuple[np.ndarray, np.ndarray]:
    with open_video(file, name=name) as stream:
        return rgb_clip(decode(stream, name=name), picks, box=draws.box), picks


def _count_frames(file: Path, *, name: str) -> int:
    with open_video(file, name=name) as stream:
        num_frames = sum(1 for _ in decode(stream, name=name))
    if num_frames == 0:
        raise ValueError(f"{name}: no frame could be decoded. Replace the file or take it out of the list.")
    return num_frames


# --- batches for DALI's external source -----------------------------------------------------------------------------


@dataclass(frozen=True)
class HostSource:
    """Clips decoded on the CPU: a callable for DALI's external source in batch mode.

    Called with DALI's batch info it gives, for batch ``info.iteration`` counted from ``start``, lists over the batch of

    - pixels (T, height, width, 3) uint8, cropped,
    - frames (T,) int64,
    - flip () int32,
    - error (L,) uint8: UTF-8 text of what is wrong with the sample, empty where nothing is. Errors travel as data
      because an exception in a worker would reach the reader batches too early and leave the pipeline dead.
    """

    plan: Plan
    start: tuple[int, int] = (0, 0)
    """(epoch, iteration) of the first batch."""

    def __call__(self, info: Any) -> tuple[list[np.ndarray], ...]:
        epoch, samples = _batch_at(self.plan, self.start, info.iteration)
        rows = [self._row(epoch, sample) for sample in samples.tolist()]
        return tuple(list(column) for column in zip(*rows, strict=True))

    def _row(self, epoch: int, sample: int) -> tuple[np.ndarray, ...]:
        plan, draws, error = self.plan, self.plan.draws(epoch, sample), b""
        try:
            pixels, frames = load_clip(plan.clips.file(sample), draws, sampler=plan.sampler, name=plan.name(sample))
        except ValueError as reason:
            error = str(reason).encode()
            pixels = np.zeros((plan.sampler.num_segments, 1, 1, 3), np.uint8)  # never delivered: the loader raises
            frames = np.zeros(plan.sampler.num_segments, np.int64)
        return pixels, frames, np.array(draws.flip, np.int32), np.frombuffer(error, np.uint8)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        _follow_parent(os.getppid())  # unpickled: this is a spawned worker


@dataclass(frozen=True)
class EncodedSource:
    """Encoded videos for a graph that decodes: a callable for DALI's external source in batch mode.

    Called with DALI's batch info it gives, for batch ``info.iteration`` counted from ``start``, lists over the batch of

    - file (bytes,) uint8: the whole video file,
    - targets (T,) float64,
    - crop (4,) int32: x, y, width, height,
    - flip () int32,
    - error (L,) uint8, see :class:`HostSource`.
    """

    plan: Plan
    placeholder: bytes
    """A video that decodes, sent in the place of one that cannot be read."""
    codecs: frozenset[str] | None = None
    """The codecs that the graph decodes; None where that is not known beforehand."""
    start: tuple[int, int] = (0, 0)
    """(epoch, iteration) of the first batch."""

    def __call__(self, info: Any) -> tuple[list[np.ndarray], ...]:
        epoch, samples = _batch_at(self.plan, self.start, info.iteration)
        rows = [self._row(epoch, sample) for sample in samples.tolist()]
        return tuple(list(column) for column in zip(*rows, strict=True))

    def _row(self, epoch: int, sample: int) -> tuple[np.ndarray, ...]:
        draws, error = self.plan.draws(epoch, sample), b""
        try:
            file, box = self._read(sample, draws)
        except ValueError as reason:
            file, box, error = self.placeholder, (0, 0, 1, 1), str(reason).encode()
        return (
            np.frombuffer(file, np.uint8),
            draws.targets,
            np.array(box, np.int32),
            np.array(draws.flip, np.int32),
            np.frombuffer(error, np.uint8),
        )

    def _read(self, sample: int, draws: Draws) -> tuple[bytes, Box]:
        name = self.plan.name(sample)
        path = self.plan.clips.file(sample)
        try:
            file = path.read_bytes()
        except OSError as error:
            raise ValueError(f"{name}: {error.strerror}. Check the list and the root folder.") from error
        found = scan(file, name=name)
        # DALI trusts the header's frame count and returns black pictures for frames that are not there.
        if found.header_num_frames > found.num_frames:
            raise ValueError(
                f"{name}: its header promises {found.header_num_frames} frames, {found.num_frames} are there. The file "
                "is cut off; replace it or take it out of the list."
            )
        if self.codecs is not None and found.codec not in self.codecs:
            raise ValueError(
                f"{name}: codec {found.codec} is not decoded on this route and device (decoded: "
                f"{', '.join(sorted(self.codecs))}). Use route 'host'."
            )
        return file, draws.box(found.width, found.height)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        _follow_parent(os.getppid())  # unpickled: this is a spawned worker


def _batch_at(plan: Plan, start: tuple[int, int], steps: int) -> tuple[int, np.ndarray]:
    """(epoch, samples) of the batch that comes ``steps`` batches after ``start``; epochs follow each other."""
    more_epochs, iteration = divmod(start[1] + steps, plan.num_batches)
    epoch = start[0] + more_epochs
    return epoch, plan.batch(epoch, iteration)[0]


# --- workers that end with their parent -----------------------------------------------------------------------------

_forking_pid: int | None = None


@contextmanager
def workers_follow() -> Iterator[None]:
    """Processes forked inside end when this process does, however it ends, and leave Ctrl-C to it.

    DALI's workers wait on a queue for ever when their parent is killed.
    """
    global _forking_pid
    _forking_pid = os.getpid()
    try:
        yield
    finally:
        _forking_pid = None


def _after_fork() -> None:
    if _forking_pid is not None:
        _follow_parent(_forking_pid)


os.register_at_fork(after_in_child=_after_fork)


def _follow_parent(parent_pid: int) -> None:
    def watch() -> None:
        while os.getppid() == parent_pid:
            time.sleep(0.5)
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=watch, name="follow-parent", daemon=True).start()
