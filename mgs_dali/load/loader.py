"""The PyTorch face: batches of clips as tensors."""

from __future__ import annotations

import itertools
import logging
import multiprocessing
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

try:
    import torch
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "ClipLoader gives PyTorch tensors, and PyTorch is not installed. Install it with: pip install torch",
        name="torch",
    ) from error

from ..index.recorder import MotionRecorder
from ..index.store import MotionIndex
from ..lists.table import Clips
from ..machine import default_num_workers
from ..sampling import Sampler
from ..video.file import VideoFile
from ..views.protocols import ONE_VIEW, Views, as_views
from ..views.rand_augment import as_rand_augment
from .plan import Plan
from .routes import AUTO, Ready, Setting, choose_route, frames_known
from .shared_memory import check_room
from .sources import part_of
from .workers import WorkerWatch, interrupt_later, workers_follow

if TYPE_CHECKING:
    from nvidia.dali import Pipeline

__all__ = ["ClipBatch", "ClipLoader", "Position", "batch_of_views", "choose_device", "default_num_workers"]

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)

log = logging.getLogger(__name__)


@dataclass
class ClipBatch:
    """One batch of clips, with which frames of which samples they are.

    For evaluation with several views of a video, each view is a row of its own, and those of one video follow each
    other in the order of :class:`mgs_dali.Views`: B is the batch size times the number of views.
    """

    clips: torch.Tensor
    """(B, T, 3, H, W) float32, RGB, normalised with ImageNet's mean and standard deviation."""
    labels: torch.Tensor
    """(B,) int64, or (B, num_classes) float32 for lists with several labels a clip; on the clips' device."""
    frames: torch.Tensor
    """(B, T) int64 on the CPU: 0-based indices of the frames."""
    samples: torch.Tensor
    """(B,) int64 on the CPU: rows of the annotation table."""
    valid: torch.Tensor
    """(B,) bool on the clips' device; False for samples that only fill up the last batch of an epoch."""

    def __post_init__(self) -> None:
        num_clips, num_segments = self.clips.shape[:2]
        assert self.frames.shape == (num_clips, num_segments)
        assert all(len(part) == num_clips for part in (self.labels, self.samples, self.valid))

    def __len__(self) -> int:
        return len(self.clips)

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.clips.shape))
        return (
            f"ClipBatch(clips={shape} {self.clips.dtype} on {self.clips.device}, "
            f"samples={self.samples.tolist()}, valid={int(self.valid.sum())} of {len(self)})"
        )


def batch_of_views(
    plan: Plan,
    samples: np.ndarray,
    valid: np.ndarray,
    *,
    clips: torch.Tensor,
    frames: torch.Tensor,
    flips: torch.Tensor,
    device: torch.device,
) -> ClipBatch:
    """Make a batch with a row for each view.

    Args:
        plan: what was loaded.
        samples, valid: (B,) of the batch.
        clips: (B, num_crops, num_clips * T, 3, H, W) in any grouping of the dimensions before the last three.
        frames: (B, num_clips * T) int64.
        flips: (B, num_crops), true for crops that are mirrored.
        device: for labels and valid.
    """
    num_segments, views = plan.sampler.num_segments, plan.views
    frames = frames.reshape(len(samples), 1, views.num_clips, num_segments).expand(-1, views.num_crops, -1, -1)
    # Views that are mirrored keep their labels: only a training clip changes its own.
    labels = plan.labels(samples, flips[:, 0].numpy().astype(bool) & plan.training)
    return ClipBatch(
        clips=clips.reshape(-1, num_segments, *clips.shape[-3:]),
        labels=torch.from_numpy(np.repeat(labels, len(views), axis=0)).to(device),
        frames=frames.reshape(-1, num_segments),
        samples=torch.from_numpy(np.repeat(samples, len(views))),
        valid=torch.from_numpy(np.repeat(valid, len(views))).to(device),
    )


class Position:
    """Where a loader stands: ``iteration`` batches of ``epoch`` have been given."""

    def __init__(self, *, num_batches: int) -> None:
        self.num_batches = num_batches
        self.epoch, self.iteration = 0, 0
        self._loaded = False

    def begin(self) -> None:
        """Begin an iteration over the loader: at a position just loaded, else at the start of an epoch.

        An epoch that was left half-way is over.
        """
        if self.iteration > 0 and not self._loaded:
            self.epoch, self.iteration = self.epoch + 1, 0
        self._loaded = False

    def end(self) -> None:
        """All batches of the epoch were given."""
        self.epoch, self.iteration = self.epoch + 1, 0

    def state_dict(self) -> dict[str, int]:
        """The position as ``{"epoch": ..., "iteration": ...}``."""
        return {"epoch": self.epoch, "iteration": self.iteration}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go to a position.

        Raises:
            ValueError: the state is not one of :meth:`state_dict`, or lies beyond the epoch's end.
        """
        if set(state) != {"epoch", "iteration"} or not all(isinstance(v, int) and v >= 0 for v in state.values()):
            raise ValueError(
                f"loader state {dict(state)!r} is not one of ClipLoader.state_dict(): "
                "it takes 'epoch' and 'iteration', both whole numbers of at least 0."
            )
        if state["iteration"] > self.num_batches:
            raise ValueError(
                f"loader state is at batch {state['iteration']} of an epoch, which has {self.num_batches} here. Resume "
                "with the list, the batch size and the number of processes that the state was saved with."
            )
        self.epoch, self.iteration = state["epoch"], state["iteration"]
        self._loaded = True


class ClipLoader:
    """Batches of clips, decoded and sampled by a DALI pipeline.

    Each iteration over the loader is the next epoch. Order, frames, crops and flips depend on ``seed``, the epoch and
    the sample alone, not on workers, ranks or restarts.

    Args:
        clips: the annotation table, from :func:`mgs_dali.read_annotations`.
        sampler: how frames are chosen: ``MotionGuided(...)``, ``Uniform(...)`` or ``Dense(...)``.
        batch_size: videos in a batch of this process.
        training: shuffle, and draw frames, crops and flips at random. Otherwise list order, and of each video what
            ``views`` says.
        size: side of the square clips in pixels.
        seed: of order and draws.
        route: who decodes: "gpu" (NVDEC whole videos; motion, picks and crops on the GPU), "gpu-sparse" (NVDEC, only
            the packets that the picks depend on), "host" (PyAV in worker processes, whole videos), "host-sparse"
            (PyAV, only the packets that the picks depend on), "rawframes" (for frame folders: the JPEG files of the
            picks, by nvJPEG on a GPU), or "auto": the best that works here, see :attr:`route` and
            :attr:`route_reason`. "auto" decodes videos that the GPU does not take on the CPU, within the same batches;
            a route asked for by name raises for them.
        device: where clips are resized and delivered: "cuda", "cpu", or "auto" (CUDA where PyTorch has it).
            ``route="gpu", device="cpu"`` runs the GPU's graph on the CPU, for VP8, VP9 and MJPEG videos.
        num_workers: worker processes; one a CPU core by default, 8 at most.
        rank, world_size: of this process among those that share the data set.
        flip_probability: of mirroring a training clip, left to right.
        flip_label_map: labels that change when a clip is mirrored, from the label to its mirrored one.
        motion_index: motion curves from ``mgs-dali index``, or their folder: with them motion-guided frames are known
            before decoding.
            With a :class:`mgs_dali.MotionRecorder` the curves are recorded as the loader measures them, and used from
            the epoch on in which it has those of all clips.
        train_crop: crops to train on: "multi_scale" (MultiScaleCrop of TSN and TSM) or "random_resized".
        rand_augment: (operations, strength) of RandAugment for training clips, see
            :class:`mgs_dali.views.rand_augment.RandAugment`.
        views: what is seen of each video in evaluation, as ``Views(...)`` or by the name of one of
            :data:`mgs_dali.views.protocols.PROTOCOLS`: the centres of its segments in a centre crop by default. A batch
            has ``batch_size * len(views)`` rows.
        dtype: of the clips: ``torch.float32``, ``torch.float16`` or ``torch.bfloat16``.
        memory_limit_gib: what the decoded videos of the routes that decode in the graph may take. A batch is decoded in
            parts to stay below, and a video that does not fit is decoded on the CPU. A quarter of the device's free
            memory by default.

    Raises:
        ValueError: an argument is not allowed, or a route asked for by name is not usable here. While iterating: a
            video that cannot be read or decoded, with its path and line of the list; or /dev/shm is too small for the
            batches that workers hand over in it.
        WorkersEnded: while iterating, worker processes were killed.
        ModuleNotFoundError: DALI is not installed.
    """

    route: str
    """The route taken."""
    route_reason: str
    """Why this route, in a few words."""
    decoded_on_host: Counter[str]
    """Clips that a route of the GPU left to the CPU so far, by reason; logged after each epoch."""
    detours: Counter[str]
    """Clips of which there is something to tell so far, by what it is; logged after each epoch: a sparse route decoded
    more than the packets that their frames depend on, and why; the video starts inside a GOP; or its file does not
    tell where it ends."""

    def __init__(
        self,
        clips: Clips,
        *,
        sampler: Sampler,
        batch_size: int,
        training: bool,
        size: int = 224,
        seed: int = 0,
        route: str = AUTO,
        device: str = "auto",
        num_workers: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        flip_probability: float = 0.0,
        flip_label_map: Mapping[int, int] | None = None,
        motion_index: MotionIndex | MotionRecorder | str | Path | None = None,
        train_crop: str = "multi_scale",
        rand_augment: tuple[int, int] | None = None,
        views: Views | str = ONE_VIEW,
        dtype: torch.dtype = torch.float32,
        memory_limit_gib: float | None = None,
    ) -> None:
        plan = Plan(
            clips,
            sampler,
            batch_size,
            training,
            size,
            seed=seed,
            rank=rank,
            world_size=world_size,
            flip_probability=flip_probability,
            flip_label_map=flip_label_map,
            motion_index=MotionIndex(motion_index) if isinstance(motion_index, str | Path) else motion_index,
            train_crop=train_crop,
            rand_augment=None if rand_augment is None else as_rand_augment(rand_augment),
            views=as_views(views),
        )
        self._set_up(
            plan, route=route, device=device, num_workers=num_workers, dtype=dtype, memory_limit_gib=memory_limit_gib
        )

    @classmethod
    def of_plan(
        cls,
        plan: Plan,
        *,
        route: str = AUTO,
        device: str = "auto",
        num_workers: int | None = None,
        dtype: torch.dtype = torch.float32,
        memory_limit_gib: float | None = None,
    ) -> ClipLoader:
        """The loader of a plan, for those who have one; all else as in the class."""
        loader = cls.__new__(cls)
        loader._set_up(
            plan, route=route, device=device, num_workers=num_workers, dtype=dtype, memory_limit_gib=memory_limit_gib
        )
        return loader

    def _set_up(
        self,
        plan: Plan,
        *,
        route: str,
        device: str,
        num_workers: int | None,
        dtype: torch.dtype,
        memory_limit_gib: float | None,
    ) -> None:
        from .. import graph as _  # noqa: F401, PLC0415  says what to install where DALI is missing

        self.plan = plan
        if dtype not in _DTYPES:
            raise ValueError(f"dtype ({dtype}) must be one of {', '.join(map(str, _DTYPES))}.")
        if memory_limit_gib is not None and not (isinstance(memory_limit_gib, int | float) and memory_limit_gib > 0):
            raise ValueError(f"memory_limit_gib ({memory_limit_gib!r}) must be above 0.")
        self.dtype = dtype
        self.device = choose_device(device)
        self._asked = (route, device)
        self._recorder = plan.motion_index if isinstance(plan.motion_index, MotionRecorder) else None
        self._memory_limit_gib = memory_limit_gib
        self.decoded_on_host, self.detours = Counter(), Counter()
        if num_workers is not None and (not isinstance(num_workers, int | np.integer) or num_workers < 1):
            raise ValueError(f"num_workers ({num_workers!r}) must be at least 1: DALI decodes in processes of its own.")
        self.num_workers = default_num_workers() if num_workers is None else int(num_workers)
        self._position = Position(num_batches=self.plan.num_batches)
        self._ready: Ready | None = None
        self._pipeline: Pipeline | None = None
        self._pipeline_at = (0, 0)
        self._workers: WorkerWatch | None = None
        self._take_route()

    def __len__(self) -> int:
        """Batches an epoch. The last one is filled up from the epoch's start, marked in ``valid``."""
        return self.plan.num_batches

    def __iter__(self) -> Iterator[ClipBatch]:
        """The batches of one epoch, or what is left of it after :meth:`load_state_dict`."""
        position = self._position
        position.begin()
        self._use_recorded()
        before, before_detours = self.decoded_on_host.copy(), self.detours.copy()
        while position.iteration < len(self):
            batch = self._load(position.epoch, position.iteration)
            position.iteration += 1
            yield batch
        for reason, count in (self.decoded_on_host - before).items():
            log.warning("epoch %d: %d clips were decoded on the CPU: %s", position.epoch, count, reason)
        for detour, count in (self.detours - before_detours).items():
            log.info("epoch %d: %d clips were decoded %s", position.epoch, count, detour)
        if self._recorder is not None:
            self._recorder.flush()
        position.end()

    @property
    def num_parts(self) -> int:
        """Parts that a batch is decoded in, one after the other, to fit in memory; 1 before the first batch."""
        return 1 if self._ready is None else self._ready.num_parts

    def refuses_video(self, sample: int) -> str:
        """Why the route's graph does not decode the video of a sample; empty where it does, or the route has none.

        Nothing is decoded to tell.

        Raises:
            ValueError: the video cannot be read.
        """
        refuses = self._route.refuses_video(replace(self._setting, by_name=False))
        video = self.plan.clips.video(sample)
        if refuses is None or not isinstance(video, VideoFile):
            return ""
        with video.scanned() as scanned:
            return refuses(sample, scanned)

    def state_dict(self) -> dict[str, int]:
        """Where the loader stands: ``{"epoch": e, "iteration": batches given in it}``."""
        return self._position.state_dict()

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on from a position: the next iteration gives the rest of that epoch.

        Raises:
            ValueError: the state is not one of :meth:`state_dict`, or lies beyond the epoch's end.
        """
        self._position.load_state_dict(state)

    def close(self) -> None:
        """End the worker processes. Iterating again starts new ones."""
        self._stop()
        if self._recorder is not None:
            self._recorder.flush()

    def _stop(self) -> None:
        if self._workers is not None:
            self._workers.close()
        with interrupt_later():
            self._workers = self._pipeline = None  # DALI ends its workers with the pipeline

    def __enter__(self) -> ClipLoader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _take_route(self) -> None:
        plan, (route, device) = self.plan, self._asked
        self._setting = Setting(
            plan,
            frames_known=frames_known(plan),
            device=self.device,
            by_name=route != AUTO,
            asked_device=device,
            num_workers=self.num_workers,
            dtype=self.dtype,
            memory_limit_gib=self._memory_limit_gib,
        )
        self._route, reason = choose_route(route, self._setting)
        self.route = self._route.name
        recorded = ""
        if self._recorder is not None and plan.sampler.needs_motion:
            recorded = f"; motion curves are {'there' if self._setting.frames_known else 'being recorded'}"
        self.route_reason = reason + recorded
        log.info("route %s: %s", self.route, self.route_reason)

    def _use_recorded(self) -> None:
        """Decode chosen frames only as soon as the curves of all clips are recorded, here or by other processes."""
        may_change = self._asked[0] == AUTO or self.plan.clips.are_folders
        if self._recorder is None or self._setting.frames_known or not may_change:
            return
        self._recorder.refresh()
        if frames_known(self.plan):
            self._stop()
            self._take_route()

    def _load(self, epoch: int, iteration: int) -> ClipBatch:
        if self._pipeline is None or self._pipeline_at != (epoch, iteration):
            self._stop()
            self._start(epoch, iteration)
        samples, valid = self.plan.batch(epoch, iteration)
        assert self._ready is not None
        num_parts = self._ready.num_parts
        parts = [self._run_part(part_of(samples, part=part, num_parts=num_parts)) for part in range(num_parts)]
        clips, frames, flips = (
            tensors[0] if len(tensors) == 1 else torch.cat(tensors) for tensors in zip(*parts, strict=True)
        )
        more_epochs, next_iteration = divmod(iteration + 1, len(self))
        self._pipeline_at = (epoch + more_epochs, next_iteration)
        return batch_of_views(self.plan, samples, valid, clips=clips, frames=frames, flips=flips, device=self.device)

    def _run_part(self, samples: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Clips, frames and flips of the pipeline's next run, which is of these samples."""
        assert self._ready is not None
        assert self._pipeline is not None
        assert self._workers is not None
        try:
            with self._workers.call():
                columns = dict(zip(self._ready.outputs, self._pipeline.run(), strict=True))
        except RuntimeError as error:
            lost = self._workers.why_ended()
            self.close()
            if lost:
                raise
            self._find_damage()
            names = "".join(f"\n  {self.plan.name(sample)}" for sample in samples.tolist())
            raise ValueError(f"DALI failed on one of these videos or of the next batch:{names}\n{error}") from error
        rows_a_clip = len(columns["frames"]) // len(samples)
        for sample, row in zip(samples.tolist(), itertools.count(step=rows_a_clip)):
            told = {name: np.asarray(columns[name].at(row)) for name in self._ready.outputs[3:]}
            if text := _text(told["error"]):
                self.close()
                raise ValueError(text)
            for name, counted in (("note", self.decoded_on_host), ("detour", self.detours)):
                if name in told and (text := _text(told[name])):
                    counted[text] += 1
            if "measured" in told:
                self._record(sample, told["measured"])
        return self._route.unpack(self._setting, columns, num_clips=len(samples))

    def _find_damage(self) -> None:
        """Look for what DALI failed on, which is in this batch or the next.

        Raises:
            ValueError: it was found; the message names it.
        """
        epoch, iteration = self._pipeline_at
        for ahead in range(2):
            more_epochs, place = divmod(iteration + ahead, len(self))
            samples, _ = self.plan.batch(epoch + more_epochs, place)
            self._route.find_damage(self.plan, epoch + more_epochs, samples)

    def _record(self, sample: int, measured: np.ndarray) -> None:
        assert self._recorder is not None
        if not np.isnan(measured).any():  # NOT_MEASURED
            clips = self.plan.clips
            self._recorder.add(clips.paths[sample], measured, video=clips.video(sample).whole)

    def _start(self, epoch: int, iteration: int) -> None:
        # The pipeline is in no variable of a function: an error, be it one that was caught long ago, may keep those of
        # functions for a while. A pipeline that outlives its loader is deleted by whoever collects garbage next, which
        # may be a worker of the next one: it waits for threads that only its parent has, without end.
        ready = self._ready = self._route.prepare(self._setting, at=(epoch, iteration))
        if ready.num_parts > 1:
            limit_gib = self._setting.limit_bytes / 2**30
            log.info("decoding each batch in %d parts, to stay below %.1f GiB", ready.num_parts, limit_gib)
        check_room(ready.shared_bytes)
        self._pipeline = self._route.pipeline(self._setting, ready)
        others = multiprocessing.active_children()
        with workers_follow():
            self._pipeline.start_py_workers()
        started = [child for child in multiprocessing.active_children() if child not in others]
        self._workers = WorkerWatch(started, shared_bytes=ready.shared_bytes)
        with self._workers.call():
            self._pipeline.build()
        self._pipeline_at = (epoch, iteration)


def choose_device(device: str) -> torch.device:
    """The device that clips are delivered on.

    Args:
        device: "cuda", "cpu", or "auto", which is CUDA where PyTorch has it.

    Raises:
        ValueError: another one, or CUDA where there is none.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device ({device!r}) must be 'auto', 'cpu' or 'cuda'.")
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError("device 'cuda' asked for, but PyTorch finds no CUDA device here. Use device='cpu'.")
    return torch.device("cuda", torch.cuda.current_device())


def _text(bytes_: Any) -> str:
    return np.asarray(bytes_).tobytes().decode()
