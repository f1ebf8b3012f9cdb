"""The PyTorch face: batches of clips as tensors."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import torch
from av.video.frame import VideoFrame
from torch.utils.dlpack import from_dlpack

from .annotations import Clips
from .sampling import MotionGuided, Uniform
from .source import EncodedSource, HostSource, Plan, workers_follow

if TYPE_CHECKING:
    from nvidia.dali import Pipeline

__all__ = ["ROUTES", "ClipBatch", "ClipLoader", "Position", "default_num_workers"]

ROUTES = ("gpu", "host")
DALI_CPU_CODECS = frozenset({"vp8", "vp9", "mjpeg"})

log = logging.getLogger(__name__)


@dataclass
class ClipBatch:
    """One batch of clips, with which frames of which samples they are."""

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
        sampler: how frames are chosen: ``MotionGuided(...)`` or ``Uniform(...)``.
        batch_size: clips in a batch of this process.
        training: shuffle, and draw frames, crops (MultiScaleCrop) and flips at random. Otherwise list order, the
            centre of each segment, and centre crops.
        size: side of the square clips in pixels.
        seed: of order and draws.
        route: who decodes: "gpu" (NVDEC; motion, picks and crops on the GPU), "host" (PyAV in worker processes), or
            "auto": the best that works here, see :attr:`route` and :attr:`route_reason`.
        device: where clips are resized and delivered: "cuda", "cpu", or "auto" (CUDA where PyTorch has it).
            ``route="gpu", device="cpu"`` runs the GPU's graph on the CPU, for VP8, VP9 and MJPEG videos.
        num_workers: worker processes; one a CPU core by default, 8 at most.
        rank, world_size: of this process among those that share the data set.
        flip_probability: of mirroring a training clip, left to right.
        flip_label_map: labels that change when a clip is mirrored, from the label to its mirrored one.

    Raises:
        ValueError: an argument is not allowed, or a route asked for by name is not usable here. While iterating: a
            video that cannot be read or decoded, with its path and line of the list.
        ModuleNotFoundError: DALI is not installed.
    """

    route: str
    """The route taken."""
    route_reason: str
    """Why this route, in a few words."""

    def __init__(
        self,
        clips: Clips,
        *,
        sampler: MotionGuided | Uniform,
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
        )
        self.device = _choose_device(device)
        self.route, self.route_reason = _choose_route(route, device=self.device, device_asked=device)
        self.num_workers = default_num_workers() if num_workers is None else num_workers
        if self.num_workers < 1:
            raise ValueError(f"num_workers ({num_workers}) must be at least 1: DALI decodes in processes of its own.")
        self._position = Position(num_batches=self.plan.num_batches)
        self._pipeline: Pipeline | None = None
        self._pipeline_at = (0, 0)
        log.info("route %s: %s", self.route, self.route_reason)

    def __len__(self) -> int:
        """Batches an epoch. The last one is filled up from the epoch's start, marked in ``valid``."""
        return self.plan.num_batches

    def __iter__(self) -> Iterator[ClipBatch]:
        """The batches of one epoch, or what is left of it after :meth:`load_state_dict`."""
        position = self._position
        position.begin()
        while position.iteration < len(self):
            batch = self._load(position.epoch, position.iteration)
            position.iteration += 1
            yield batch
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
        self._pipeline = None  # DALI ends its workers with the pipeline

    def __enter__(self) -> ClipLoader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _load(self, epoch: int, iteration: int) -> ClipBatch:
        if self._pipeline is None or self._pipeline_at != (epoch, iteration):
            self.close()
            self._pipeline = self._start(epoch, iteration)
        samples, valid = self.plan.batch(epoch, iteration)
        try:
            clips, frames, flips, errors = self._pipeline.run()
        except RuntimeError as error:
            self.close()
            names = "".join(f"\n  {self.plan.name(sample)}" for sample in samples.tolist())
            raise ValueError(f"DALI failed on one of the videos of this batch or the next:{names}\n{error}") from error
        for row in range(len(samples)):
            if text := np.asarray(errors.at(row)).tobytes().decode():
                self.close()
                raise ValueError(text)
        more_epochs, next_iteration = divmod(iteration + 1, len(self))
        self._pipeline_at = (epoch + more_epochs, next_iteration)
        labels = self.plan.labels(samples, np.asarray(flips.as_tensor()).astype(bool))
        return ClipBatch(
            clips=from_dlpack(clips.as_tensor()),
            labels=torch.from_numpy(labels).to(self.device),
            frames=from_dlpack(frames.as_tensor()),
            samples=torch.from_numpy(samples),
            valid=torch.from_numpy(valid).to(self.device),
        )

    def _start(self, epoch: int, iteration: int) -> Pipeline:
        from .pipelines import decoded_clips, encoded_clips  # noqa: PLC0415  needs DALI

        on_gpu = self.device.type == "cuda"
        common: dict[str, Any] = {
            "size": self.plan.size,
            "device": "gpu" if on_gpu else "cpu",
            # A worker makes a whole batch, so there must be as many batches under way as workers.
            "prefetch_batches": max(2, self.num_workers),
            "batch_size": self.plan.batch_size,
            "num_threads": self.num_workers,
            "device_id": self.device.index if on_gpu else None,
            "py_num_workers": self.num_workers,
            # A process that has used CUDA must not fork.
            "py_start_method": "spawn" if on_gpu or torch.cuda.is_initialized() else "fork",
        }
        if self.route == "host":
            pipeline = decoded_clips(HostSource(self.plan, start=(epoch, iteration)), **common)
        else:
            source = EncodedSource(
                self.plan,
                placeholder=_placeholder_video(),
                codecs=None if on_gpu else DALI_CPU_CODECS,
                start=(epoch, iteration),
            )
            pipeline = encoded_clips(source, sampler=self.plan.sampler, **common)
        with workers_follow():
            pipeline.start_py_workers()
        pipeline.build()
        self._pipeline_at = (epoch, iteration)
        return pipeline


def default_num_workers() -> int:
    """One worker a CPU core that this process may use, 8 at most."""
    return min(8, len(os.sched_getaffinity(0)))


def _choose_device(device: str) -> torch.device:
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device ({device!r}) must be 'auto', 'cpu' or 'cuda'.")
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise ValueError("device 'cuda' asked for, but PyTorch finds no CUDA device here. Use device='cpu'.")
    return torch.device("cuda", torch.cuda.current_device())


def _choose_route(route: str, *, device: torch.device, device_asked: str) -> tuple[str, str]:
    if route not in ("auto", *ROUTES):
        allowed = ", ".join(map(repr, ("auto", *ROUTES)))
        raise ValueError(f"route ({route!r}) must be one of {allowed}.")
    if route == "gpu" and device.type == "cpu" and device_asked == "auto":
        raise ValueError(
            "route 'gpu' needs a CUDA device and PyTorch finds none here. Use route='host', or device='cpu' to run the "
            "same graph on the CPU (VP8, VP9 and MJPEG videos only)."
        )
    if route == "gpu":
        return route, "asked for by name" + ("" if device.type == "cuda" else "; its graph runs on the CPU")
    if route == "host":
        return route, "asked for by name"
    if device.type == "cuda":
        return "gpu", f"a GPU is here ({torch.cuda.get_device_name(device)})"
    return "host", "no CUDA device here, videos are decoded by PyAV in worker processes"


@lru_cache(maxsize=1)
def _placeholder_video() -> bytes:
    """A short video that DALI decodes everywhere, for the place of one that cannot be read."""
    file = io.BytesIO()
    with av.open(file, "w", format="avi") as container:
        stream = container.add_stream("mjpeg", rate=1)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuvj420p"
        for _ in range(2):
            container.mux(stream.encode(VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()
