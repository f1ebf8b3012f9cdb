"""The PyTorch face: batches of clips as tensors."""

from __future__ import annotations

import itertools
import logging
import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.dlpack import from_dlpack

from . import nvdec
from .annotations import Clips
from .machine import default_num_workers, needed_bytes
from .motion import measure_of
from .motion_index import MotionIndex, MotionRecorder
from .packets import Scan
from .rand_augment import RandAugment
from .sampling import Sampler
from .shared_memory import batch_bytes, check_room
from .source import EncodedSource, HostSource, PictureSource, Plan, load_sample, num_parts_for, part_of
from .views import ONE_VIEW, Views
from .workers import WorkerWatch, interrupt_later, workers_follow

if TYPE_CHECKING:
    from nvidia.dali import Pipeline

__all__ = ["ROUTES", "ClipBatch", "ClipLoader", "Position", "batch_of_views", "default_num_workers"]

ROUTES = ("gpu", "gpu-sparse", "host", "host-sparse", "rawframes")
DECODER_THREADS = 16
"""Threads that decode on a GPU, for the seven NVDEC engines of an H100 or H200: each decodes a picture, has it
converted and waits for it, so that one thread an engine would leave the engines idle. A guess, not yet measured."""

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
        motion_index: motion curves from ``mgs-dali index``: with them motion-guided frames are known before decoding.
            With a :class:`mgs_dali.MotionRecorder` the curves are recorded as the loader measures them, and used from
            the epoch on in which it has those of all clips.
        train_crop: crops to train on: "multi_scale" (MultiScaleCrop of TSN and TSM) or "random_resized".
        rand_augment: (operations, strength) of RandAugment for training clips, see
            :class:`mgs_dali.rand_augment.RandAugment`.
        views: what is seen of each video in evaluation: the centres of its segments in a centre crop by default. A
            batch has ``batch_size * len(views)`` rows.
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
        route: str = "auto",
        device: str = "auto",
        num_workers: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        flip_probability: float = 0.0,
        flip_label_map: Mapping[int, int] | None = None,
        motion_index: MotionIndex | MotionRecorder | None = None,
        train_crop: str = "multi_scale",
        rand_augment: tuple[int, int] | None = None,
        views: Views = ONE_VIEW,
        dtype: torch.dtype = torch.float32,
        memory_limit_gib: float | None = None,
    ) -> None:
        from . import graph as _  # noqa: F401, PLC0415  says what to install where DALI is missing

        self.plan = Plan(
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
            motion_index=motion_index,
            index_is_whole=not isinstance(motion_index, MotionRecorder),
            train_crop=train_crop,
            rand_augment=None if rand_augment is None else RandAugment(*rand_augment),
            views=views,
        )
        if isinstance(motion_index, MotionIndex):
            motion_index.check_covers(clips)
        if dtype not in _DTYPES:
            raise ValueError(f"dtype ({dtype}) must be one of {', '.join(map(str, _DTYPES))}.")
        if memory_limit_gib is not None and memory_limit_gib <= 0:
            raise ValueError(f"memory_limit_gib ({memory_limit_gib}) must be above 0.")
        self.dtype = dtype
        self.device = _choose_device(device)
        self._asked = (route, device)
        self._recorder = motion_index if isinstance(motion_index, MotionRecorder) else None
        self._memory_limit_gib = memory_limit_gib
        self.decoded_on_host, self.detours = Counter(), Counter()
        self.num_workers = default_num_workers() if num_workers is None else num_workers
        if self.num_workers < 1:
            raise ValueError(f"num_workers ({num_workers}) must be at least 1: DALI decodes in processes of its own.")
        self._position = Position(num_batches=self.plan.num_batches)
        self._pipeline: Pipeline | None = None
        self._pipeline_at = (0, 0)
        self._workers: WorkerWatch | None = None
        self._num_parts = 1
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
        route, device = self._asked
        sampler, index = self.plan.sampler, self.plan.motion_index
        picks_known = index is not None or not sampler.needs_motion or not measure_of(sampler).needs_decoding
        recorded = ""
        if self._recorder is not None and sampler.needs_motion:
            picks_known = all(path in self._recorder for path in self.plan.clips.paths)
            recorded = "; motion curves are there" if picks_known else "; motion curves are being recorded"
        self.route, reason, self._refusal = _choose_route(
            route,
            clips=self.plan.clips,
            picks_known=picks_known,
            device=self.device,
            asked=device,
            cannot_choose="" if self._graph_chooses() else repr(sampler),
        )
        self._picks_known = picks_known
        self.route_reason = reason + recorded
        log.info("route %s: %s", self.route, self.route_reason)

    def _graph_chooses(self) -> bool:
        from .pipelines import IN_GRAPH  # noqa: PLC0415  needs DALI

        return type(self.plan.sampler) in IN_GRAPH

    def _use_recorded(self) -> None:
        """Decode chosen frames only as soon as the curves of all clips are recorded, here or by other processes."""
        may_change = self._asked[0] == "auto" or self.route == "rawframes"
        if self._recorder is None or self._picks_known or not may_change:
            return
        self._recorder.refresh()
        if all(path in self._recorder for path in self.plan.clips.paths):
            self._stop()
            self._take_route()

    def _load(self, epoch: int, iteration: int) -> ClipBatch:
        if self._pipeline is None or self._pipeline_at != (epoch, iteration):
            self._stop()
            self._pipeline = self._start(epoch, iteration)
        samples, valid = self.plan.batch(epoch, iteration)
        parts = [
            self._run_part(part_of(samples, part=part, num_parts=self._num_parts)) for part in range(self._num_parts)
        ]
        clips, frames, flips = (
            tensors[0] if len(tensors) == 1 else torch.cat(tensors) for tensors in zip(*parts, strict=True)
        )
        more_epochs, next_iteration = divmod(iteration + 1, len(self))
        self._pipeline_at = (epoch + more_epochs, next_iteration)
        return batch_of_views(self.plan, samples, valid, clips=clips, frames=frames, flips=flips, device=self.device)

    def _run_part(self, samples: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Clips, frames and flips of the pipeline's next run, which is of these samples."""
        assert self._pipeline is not None
        assert self._workers is not None
        try:
            with self._workers.call():
                clips, frames, flips, measured, notes, detours, errors = self._pipeline.run()
        except RuntimeError as error:
            lost = self._workers.obituary()
            self.close()
            if lost:
                raise
            if self.route == "rawframes":
                self._find_damaged_picture()
            names = "".join(f"\n  {self.plan.name(sample)}" for sample in samples.tolist())
            raise ValueError(f"DALI failed on one of these videos or of the next batch:{names}\n{error}") from error
        rows_a_clip = self.plan.num_picks if self.route == "rawframes" else 1
        for sample, row in zip(samples.tolist(), itertools.count(step=rows_a_clip)):
            if text := _text(errors.at(row)):
                self.close()
                raise ValueError(text)
            if text := _text(notes.at(row)):
                self.decoded_on_host[text] += 1
            if text := _text(detours.at(row)):
                self.detours[text] += 1
            if self._recorder is not None:
                self._record(sample, np.asarray(measured.at(row)))
        # DALI writes no bfloat16; float16 holds normalised pixels at least as finely.
        pixels = from_dlpack(clips.as_tensor()).to(self.dtype)
        picks, flipped = from_dlpack(frames.as_tensor()), from_dlpack(flips.as_tensor())
        if self.route == "rawframes":
            pixels = pixels.view(len(samples), rows_a_clip, -1, *pixels.shape[-3:])
            picks, flipped = picks[::rows_a_clip], flipped[::rows_a_clip]
            _fill_repeated(pixels, picks)
            pixels = pixels.transpose(1, 2)  # crop by crop, as the other routes give them
        return pixels, picks, flipped

    def _find_damaged_picture(self) -> None:
        """Decode what DALI failed on, or may have, which is this batch and the next, in another way.

        Raises:
            ValueError: a picture is damaged; the message names it.
        """
        epoch, iteration = self._pipeline_at
        for ahead in range(2):
            more_epochs, place = divmod(iteration + ahead, len(self))
            for sample in self.plan.batch(epoch + more_epochs, place)[0].tolist():
                load_sample(self.plan, sample, self.plan.draws(epoch + more_epochs, sample))

    def _record(self, sample: int, measured: np.ndarray) -> None:
        assert self._recorder is not None
        if not np.isnan(measured).any():  # NOT_MEASURED
            clips = self.plan.clips
            self._recorder.add(clips.paths[sample], measured, video=clips.video(sample).whole)

    def _start(self, epoch: int, iteration: int) -> Pipeline:
        from nvidia.dali import types  # noqa: PLC0415

        from .pipelines import decoded_clips, encoded_clips, picture_clips  # noqa: PLC0415  needs DALI

        plan, on_gpu = self.plan, self.device.type == "cuda"
        limit_bytes = int((self._memory_limit_gib or _free_gib(self.device) / 4) * 2**30)
        self._num_parts = num_parts_for(plan, limit_bytes=limit_bytes) if self.route == "gpu" else 1
        common: dict[str, Any] = {
            "size": plan.side,
            "device": "gpu" if on_gpu else "cpu",
            "dtype": types.FLOAT if self.dtype == torch.float32 else types.FLOAT16,
            # A worker makes a whole batch, so there must be as many batches under way as workers.
            "prefetch_batches": max(2, self.num_workers),
            "num_crops": plan.views.num_crops,
            "rand_augment": plan.rand_augment if plan.training else None,
            "batch_size": -(-plan.batch_size // self._num_parts),
            # On the GPU a thread keeps one of its decoder engines busy.
            "num_threads": max(self.num_workers, DECODER_THREADS) if on_gpu else self.num_workers,
            "device_id": self.device.index if on_gpu else None,
            "py_num_workers": self.num_workers,
            # A process that has used CUDA must not fork.
            "py_start_method": "spawn" if on_gpu or torch.cuda.is_initialized() else "fork",
        }
        if self.route == "rawframes":
            common["batch_size"] = plan.batch_size * plan.num_picks  # a sample of DALI is a picture
            pipeline = picture_clips(PictureSource(plan, start=(epoch, iteration)), **common)
        elif self.route.startswith("host"):
            sparse = self.route == "host-sparse" or (self._recorder is not None and self._asked[0] == "auto")
            host_source = HostSource(plan, start=(epoch, iteration), sparse=sparse)
            pipeline = decoded_clips(host_source, **common)
        else:
            source = EncodedSource(
                plan,
                refusal=self._refusal,
                sparse=self.route == "gpu-sparse",
                graph_chooses=self._graph_chooses(),
                counts_hidden=on_gpu,
                strict=self._asked[0] != "auto",
                part_limit_bytes=limit_bytes,
                num_parts=self._num_parts,
                start=(epoch, iteration),
            )
            pipeline = encoded_clips(source, **common)
        if self._num_parts > 1:
            log.info("decoding each batch in %d parts, to stay below %.1f GiB", self._num_parts, limit_bytes / 2**30)
        bytes_a_batch = batch_bytes(plan, self.route, epoch=epoch, iteration=iteration) // self._num_parts
        shared_bytes = needed_bytes(bytes_a_batch, num_batches=common["prefetch_batches"])
        check_room(shared_bytes)
        others = multiprocessing.active_children()
        with workers_follow():
            pipeline.start_py_workers()
        started = [child for child in multiprocessing.active_children() if child not in others]
        self._workers = WorkerWatch(started, shared_bytes=shared_bytes)
        with self._workers.call():
            pipeline.build()
        self._pipeline_at = (epoch, iteration)
        return pipeline


def _choose_device(device: str) -> torch.device:
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device ({device!r}) must be 'auto', 'cpu' or 'cuda'.")
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError("device 'cuda' asked for, but PyTorch finds no CUDA device here. Use device='cpu'.")
    return torch.device("cuda", torch.cuda.current_device())


def _fill_repeated(clips: torch.Tensor, frames: torch.Tensor) -> None:
    """Frames that are taken several times come once, in the first of their places: copy them to the others.

    Args:
        clips: (B, num_picks, num_crops, 3, H, W), written to.
        frames: (B, num_picks) int64.
    """
    first = (frames[:, :, None] == frames[:, None, :]).int().argmax(dim=2)
    rows, places = (first != torch.arange(frames.shape[1])).nonzero(as_tuple=True)
    clips[rows, places] = clips[rows, first[rows, places]]


def _choose_route(
    route: str, *, clips: Clips, picks_known: bool, device: torch.device, asked: str, cannot_choose: str = ""
) -> tuple[str, str, Callable[[Scan], str]]:
    """(route, why, what its decoder refuses). ``cannot_choose`` is a sampler whose frames no graph can choose."""
    if route not in ("auto", *ROUTES):
        allowed = ", ".join(map(repr, ("auto", *ROUTES)))
        raise ValueError(f"route ({route!r}) must be one of {allowed}.")
    if not clips.are_folders and route == "rawframes":
        raise ValueError(
            f"route 'rawframes' loads folders of JPEG files, and {clips.list_file} was read as a list of videos. If "
            "its paths are such folders, read it with a template, such as read_annotations(..., "
            "template='img_{:05}.jpg'); for videos use route='auto'."
        )
    if clips.are_folders:
        if route not in ("auto", "rawframes"):
            raise ValueError(
                f"route {route!r} decodes videos, and {clips.list_file} was read as a list of frame folders (template "
                f"{clips.template!r}). Use route='auto' or 'rawframes'; a list of videos is read without a template."
            )
        decoder = "nvJPEG" if device.type == "cuda" else "the CPU"
        slow = "" if picks_known else "; to measure motion, workers decode all frames of each clip: an index saves that"
        return "rawframes", f"frame folders, whose JPEGs are decoded by {decoder}{slow}", _refuse_nothing
    if route in ("gpu-sparse", "host-sparse") and not picks_known:
        raise ValueError(
            f"route {route!r} decodes chosen frames only, so it needs picks that are known before decoding: "
            "sampler=Uniform(...) or Dense(...), MotionGuided(measure='packet'), or a motion_index of all clips. "
            f"Otherwise use route={route.removesuffix('-sparse')!r}."
        )
    if route == "gpu" and not picks_known and cannot_choose:
        raise ValueError(
            f"route 'gpu' measures motion in the graph, and chooses by it for MotionGuided only, not for "
            f"{cannot_choose}. Give a motion_index of all clips, or use route='host'."
        )
    host = "host-sparse" if picks_known else "host"
    if device.type == "cuda" and not route.startswith("host"):
        torch.cuda.synchronize(device)  # the driver's library answers within a CUDA context
        try:
            refusal = partial(nvdec.refusal, limits=nvdec.read_limits())
        except (OSError, RuntimeError) as error:
            if route == "auto":
                return host, f"{error}", _refuse_nothing
            raise ValueError(f"route {route!r} needs NVDEC: {error}") from error
        if route == "auto":
            if not picks_known and cannot_choose:
                return host, f"a graph cannot choose the frames of {cannot_choose} by motion", _refuse_nothing
            best = "gpu-sparse" if picks_known else "gpu"
            return best, f"a GPU with NVDEC is here ({torch.cuda.get_device_name(device)})", refusal
        return route, "asked for by name", refusal
    if route in ("gpu", "gpu-sparse"):
        if asked != "cpu":
            raise ValueError(
                f"route {route!r} needs a CUDA device and PyTorch finds none here. Use route='host', or device='cpu' "
                "to run the same graph on the CPU (VP8, VP9 and MJPEG videos only)."
            )
        return route, "asked for by name; its graph runs on the CPU", nvdec.refusal_without_gpu
    if route != "auto":
        return route, "asked for by name", _refuse_nothing
    return host, "no CUDA device here, videos are decoded by PyAV in worker processes", _refuse_nothing


def _refuse_nothing(_: Scan) -> str:
    return ""


def _free_gib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / 2**30
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30


def _text(bytes_: Any) -> str:
    return np.asarray(bytes_).tobytes().decode()
