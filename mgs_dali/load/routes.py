"""Who decodes: the ways from videos to batches, each of which knows where it can be taken and how it starts."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

import numpy as np
import torch
from torch.utils.dlpack import from_dlpack

from ..decode.packets import Scan, ScannedVideo
from ..load import nvdec
from ..machine import needed_bytes
from ..motion.measure import measure_of
from ..video.file import VideoFile
from .clip import load_sample
from .plan import Plan
from .shared_memory import batch_bytes
from .sources import EncodedSource, HostSource, PictureSource, graph_bytes

if TYPE_CHECKING:
    from nvidia.dali import Pipeline

__all__ = ["AUTO", "ROUTES", "Ready", "Route", "Setting", "choose_route", "frames_known", "free_gib"]

DECODER_THREADS = 16
"""Threads that decode on a GPU, for the seven NVDEC engines of an H100 or H200: each decodes a picture, has it
converted and waits for it, so that one thread an engine would leave the engines idle. A guess, not yet measured."""

AUTO = "auto"


@dataclass(frozen=True)
class Setting:
    """What a loader wants, and where."""

    plan: Plan
    frames_known: bool
    """Frames are chosen before decoding, of every clip: see :func:`frames_known`."""
    device: torch.device
    """Where clips are delivered."""
    by_name: bool = True
    """The route was asked for by its name. A video that it does not take is an error then; otherwise it is decoded on
    the CPU, and counted."""
    asked_device: str = AUTO
    num_workers: int = 1
    dtype: torch.dtype = torch.float32
    memory_limit_gib: float | None = None

    @property
    def on_gpu(self) -> bool:
        """Clips are resized and delivered on a GPU."""
        return self.device.type == "cuda"

    @property
    def limit_bytes(self) -> int:
        """What decoded videos may take in a graph."""
        return int((self.memory_limit_gib or free_gib(self.device) / 4) * 2**30)

    def pipeline_options(self, *, batch_size: int) -> dict[str, Any]:
        """What all pipelines are made with."""
        from nvidia.dali import types  # noqa: PLC0415  needs DALI

        plan = self.plan
        return {
            "size": plan.side,
            "device": "gpu" if self.on_gpu else "cpu",
            "dtype": types.FLOAT if self.dtype == torch.float32 else types.FLOAT16,
            "prefetch_batches": self.num_prefetched,
            "num_crops": plan.views.num_crops,
            "rand_augment": plan.rand_augment if plan.training else None,
            "batch_size": batch_size,
            # On the GPU a thread keeps one of its decoder engines busy.
            "num_threads": max(self.num_workers, DECODER_THREADS) if self.on_gpu else self.num_workers,
            "device_id": self.device.index if self.on_gpu else None,
            "py_num_workers": self.num_workers,
            # A process that has used CUDA must not fork.
            "py_start_method": "spawn" if self.on_gpu or torch.cuda.is_initialized() else "fork",
        }

    @property
    def num_prefetched(self) -> int:
        """Batches under way: a worker makes a whole batch, so there must be as many as workers."""
        return max(2, self.num_workers)


@dataclass(frozen=True)
class Ready:
    """What a pipeline is about to be made of."""

    source: HostSource | EncodedSource | PictureSource
    """What its workers run."""
    num_parts: int
    """Runs that make a batch."""
    shared_bytes: int
    """About what the workers will take of /dev/shm."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Of the pipeline, in order: the clip, and what else the source tells of it."""
        return ("clips", "frames", "flips", *self.source.told)


class Unpacked(NamedTuple):
    """What a run of a pipeline gives of B clips."""

    clips: torch.Tensor
    """(B, num_crops, num_picks, 3, H, W); num_crops is left out where it is 1."""
    frames: torch.Tensor
    """(B, num_picks) int64."""
    flips: torch.Tensor
    """(B, num_crops)."""


class Route(Protocol):
    """A way from videos to batches."""

    @property
    def name(self) -> str:
        """As ``ClipLoader(route=...)`` takes it."""

    @property
    def in_graph(self) -> bool:
        """DALI decodes the videos, which its decoder may refuse."""

    @property
    def sparse(self) -> bool:
        """Only what chosen frames depend on is decoded: they must be known before."""

    def refuses(self, setting: Setting) -> str:
        """Why it cannot be taken here, to go on from "route 'name' ..."; empty where it can."""

    def why(self, setting: Setting) -> str:
        """Why it is taken, in a few words."""

    def refuses_video(self, setting: Setting) -> Callable[[int, ScannedVideo], str] | None:
        """(sample, its video) -> why the graph does not decode it, empty where it does; None if every video is taken.

        Raises:
            ValueError: its frames cannot be chosen.
        """

    def prepare(self, setting: Setting, *, at: tuple[int, int]) -> Ready:
        """Look at some videos, for a pipeline whose first batch is that of (epoch, iteration)."""

    def pipeline(self, setting: Setting, ready: Ready) -> Pipeline:
        """Make the pipeline."""

    def unpack(self, setting: Setting, columns: Mapping[str, Any], *, num_clips: int) -> Unpacked:
        """Clips, frames and flips of a run of the pipeline; see :class:`Unpacked`."""

    def find_damage(self, plan: Plan, epoch: int, samples: np.ndarray) -> None:
        """Look for what made DALI fail.

        Raises:
            ValueError: a clip is damaged; the message names it.
        """


@dataclass(frozen=True)
class InGraph:
    """Routes ``gpu`` and ``gpu-sparse``: NVDEC decodes, in DALI's graph."""

    sparse: bool
    decoder: Callable[[Scan], str] | None = None
    """What the decoder refuses, and why; by default what this machine's driver says, or DALI's decoder on the CPU."""

    in_graph: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """See :class:`Route`."""
        return "gpu-sparse" if self.sparse else "gpu"

    def refuses(self, setting: Setting) -> str:
        """See :class:`Route`."""
        plan = setting.plan
        if plan.clips.are_folders:
            return _is_for_videos(plan)
        if self.sparse and not setting.frames_known:
            return _needs_frames("gpu")
        if not setting.frames_known and not _graph_chooses(plan):
            return (
                f"measures motion in the graph, and chooses by it for MotionGuided only, not for {plan.sampler!r}. "
                "Give a motion_index of all clips, or use route='host'."
            )
        if setting.on_gpu:
            try:
                self._decoder(setting)
            except (OSError, RuntimeError) as error:
                return f"needs NVDEC: {error}"
        elif not setting.by_name:
            return "needs a CUDA device, and there is none here"
        elif setting.asked_device != "cpu":
            return (
                "needs a CUDA device and PyTorch finds none here. Use route='host', or device='cpu' to run the same "
                "graph on the CPU (VP8, VP9 and MJPEG videos only)."
            )
        return ""

    def why(self, setting: Setting) -> str:
        """See :class:`Route`."""
        if setting.by_name:
            return "asked for by name" if setting.on_gpu else "asked for by name; its graph runs on the CPU"
        return f"a GPU with NVDEC is here ({torch.cuda.get_device_name(setting.device)})"

    def source(self, setting: Setting, *, at: tuple[int, int] = (0, 0), num_parts: int = 1) -> EncodedSource:
        """What the pipeline's workers run."""
        return EncodedSource(
            setting.plan,
            refusal=self._decoder(setting),
            sparse=self.sparse,
            graph_chooses=_graph_chooses(setting.plan),
            counts_hidden=setting.on_gpu,
            strict=setting.by_name,
            part_limit_bytes=setting.limit_bytes,
            num_parts=num_parts,
            start=at,
        )

    def refuses_video(self, setting: Setting) -> Callable[[int, ScannedVideo], str] | None:
        """See :class:`Route`."""
        return self.source(setting).refuses

    def prepare(self, setting: Setting, *, at: tuple[int, int]) -> Ready:
        """See :class:`Route`. A batch is decoded in parts whose videos fit in memory."""
        num_parts = 1 if self.sparse else num_parts_for(setting.plan, limit_bytes=setting.limit_bytes)
        return _ready(self.source(setting, at=at, num_parts=num_parts), setting, at=at, num_parts=num_parts)

    def pipeline(self, setting: Setting, ready: Ready) -> Pipeline:
        """See :class:`Route`."""
        from .pipelines import encoded_clips  # noqa: PLC0415  needs DALI

        batch_size = -(-setting.plan.batch_size // ready.num_parts)
        return encoded_clips(ready.source, **setting.pipeline_options(batch_size=batch_size))

    def unpack(self, setting: Setting, columns: Mapping[str, Any], *, num_clips: int) -> Unpacked:  # noqa: ARG002
        """See :class:`Route`."""
        return _unpacked(setting, columns)

    def find_damage(self, plan: Plan, epoch: int, samples: np.ndarray) -> None:
        """See :class:`Route`. DALI's decoder fails on what PyAV decodes as well: nothing is looked for."""

    def _decoder(self, setting: Setting) -> Callable[[Scan], str]:
        if self.decoder is not None:
            return self.decoder
        if not setting.on_gpu:
            return nvdec.refusal_without_gpu
        torch.cuda.synchronize(setting.device)  # the driver's library answers within a CUDA context
        return partial(nvdec.refusal, limits=nvdec.read_limits())


@dataclass(frozen=True)
class OnHost:
    """Routes ``host`` and ``host-sparse``: PyAV decodes, in worker processes."""

    sparse: bool

    in_graph: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """See :class:`Route`."""
        return "host-sparse" if self.sparse else "host"

    def refuses(self, setting: Setting) -> str:
        """See :class:`Route`."""
        if setting.plan.clips.are_folders:
            return _is_for_videos(setting.plan)
        if self.sparse and not setting.frames_known:
            return _needs_frames("host")
        return ""

    def why(self, setting: Setting) -> str:
        """See :class:`Route`."""
        if setting.by_name:
            return "asked for by name"
        if not setting.on_gpu:
            return "no CUDA device here, videos are decoded by PyAV in worker processes"
        return f"the GPU cannot: route 'gpu' {ROUTES['gpu'].refuses(setting)}"

    def refuses_video(self, setting: Setting) -> None:
        """See :class:`Route`."""

    def prepare(self, setting: Setting, *, at: tuple[int, int]) -> Ready:
        """See :class:`Route`."""
        plan = setting.plan
        # Where curves are being recorded, the clips that have one need not be decoded whole.
        sparse = self.sparse or (not plan.index_is_whole and not setting.by_name)
        return _ready(HostSource(plan, start=at, sparse=sparse), setting, at=at)

    def pipeline(self, setting: Setting, ready: Ready) -> Pipeline:
        """See :class:`Route`."""
        from .pipelines import decoded_clips  # noqa: PLC0415  needs DALI

        return decoded_clips(ready.source, **setting.pipeline_options(batch_size=setting.plan.batch_size))

    def unpack(self, setting: Setting, columns: Mapping[str, Any], *, num_clips: int) -> Unpacked:  # noqa: ARG002
        """See :class:`Route`."""
        return _unpacked(setting, columns)

    def find_damage(self, plan: Plan, epoch: int, samples: np.ndarray) -> None:
        """See :class:`Route`. DALI decodes nothing here."""


@dataclass(frozen=True)
class OfFolders:
    """Route ``rawframes``: DALI decodes the JPEG files of frame folders, one by one."""

    name: ClassVar[str] = "rawframes"
    in_graph: ClassVar[bool] = False
    sparse: ClassVar[bool] = False

    def refuses(self, setting: Setting) -> str:
        """See :class:`Route`."""
        clips = setting.plan.clips
        if clips.are_folders:
            return ""
        return (
            f"loads folders of JPEG files, and {clips.list_file} was read as a list of videos. If its paths are such "
            "folders, read it with a template, such as read_annotations(..., template='img_{:05}.jpg'); for videos use "
            "route='auto'."
        )

    def why(self, setting: Setting) -> str:
        """See :class:`Route`."""
        decoder = "nvJPEG" if setting.on_gpu else "the CPU"
        slow = "; to measure motion, workers decode all frames of each clip: an index saves that"
        return f"frame folders, whose JPEGs are decoded by {decoder}{'' if setting.frames_known else slow}"

    def refuses_video(self, setting: Setting) -> None:
        """See :class:`Route`."""

    def prepare(self, setting: Setting, *, at: tuple[int, int]) -> Ready:
        """See :class:`Route`."""
        return _ready(PictureSource(setting.plan, start=at), setting, at=at)

    def pipeline(self, setting: Setting, ready: Ready) -> Pipeline:
        """See :class:`Route`."""
        from .pipelines import picture_clips  # noqa: PLC0415  needs DALI

        num_pictures = setting.plan.batch_size * setting.plan.num_picks  # a sample of DALI is a picture
        return picture_clips(ready.source, **setting.pipeline_options(batch_size=num_pictures))

    def unpack(self, setting: Setting, columns: Mapping[str, Any], *, num_clips: int) -> Unpacked:
        """See :class:`Route`."""
        pictures, frames, flips = _unpacked(setting, columns)
        num_picks = setting.plan.num_picks
        clips = pictures.view(num_clips, num_picks, -1, *pictures.shape[-3:])
        frames, flips = frames[::num_picks], flips[::num_picks]
        _fill_repeated(clips, frames)
        return Unpacked(clips.transpose(1, 2), frames, flips)  # crop by crop, as the other routes give them

    def find_damage(self, plan: Plan, epoch: int, samples: np.ndarray) -> None:
        """See :class:`Route`. Pictures are decoded in another way, which names a damaged one."""
        for sample in samples.tolist():
            load_sample(plan, sample, plan.draws(epoch, sample))


ROUTES: dict[str, Route] = {
    route.name: route
    for route in (InGraph(sparse=True), InGraph(sparse=False), OfFolders(), OnHost(sparse=True), OnHost(sparse=False))
}
"""By name, the best first: "auto" is the first that does not refuse."""


def choose_route(asked: str, setting: Setting) -> tuple[Route, str]:
    """The route of this name, or for "auto" the best that can be taken; and why it is that.

    Raises:
        ValueError: there is no such route, or it cannot be taken here.
    """
    if asked == AUTO:
        route = next(route for route in ROUTES.values() if not route.refuses(setting))
        return route, route.why(setting)
    if asked not in ROUTES:
        raise ValueError(f"route ({asked!r}) must be one of {', '.join(map(repr, (AUTO, *sorted(ROUTES))))}.")
    route = ROUTES[asked]
    if refusal := route.refuses(setting):
        raise ValueError(f"route {asked!r} {refusal}")
    return route, route.why(setting)


def frames_known(plan: Plan) -> bool:
    """Whether the frames of every clip are chosen before it is decoded: its motion is known or not needed."""
    if not plan.sampler.needs_motion or not measure_of(plan.sampler).needs_decoding:
        return True
    index = plan.motion_index
    return index is not None and (plan.index_is_whole or all(path in index for path in plan.clips.paths))


def num_parts_for(plan: Plan, *, limit_bytes: int, num_probed: int = 32) -> int:
    """In how many parts to decode a batch, so that an average part takes no more than half of a limit.

    Judged by the headers of some clips, evenly spread over the list; unreadable ones are left out.
    """
    sizes = []
    for sample in np.unique(np.linspace(0, len(plan.clips) - 1, num_probed).astype(int)).tolist():
        with suppress(ValueError):
            video = plan.clips.video(sample)
            assert isinstance(video, VideoFile)
            found = video.scan()
            num_frames = len(video.span(found.num_frames))
            sizes.append(min(graph_bytes(found, num_frames=num_frames), limit_bytes))
    if not sizes:
        return 1
    return min(plan.batch_size, max(1, math.ceil(2 * plan.batch_size * float(np.mean(sizes)) / limit_bytes)))


def free_gib(device: torch.device) -> float:
    """Memory of a device that is free now."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / 2**30
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30


def _is_for_videos(plan: Plan) -> str:
    clips = plan.clips
    return (
        f"decodes videos, and {clips.list_file} was read as a list of frame folders (template {clips.template!r}). Use "
        "route='auto' or 'rawframes'; a list of videos is read without a template."
    )


def _needs_frames(other: str) -> str:
    return (
        "decodes chosen frames only, so it needs picks that are known before decoding: sampler=Uniform(...) or "
        "Dense(...), MotionGuided(measure='packet'), or a motion_index of all clips. Otherwise use "
        f"route={other!r}."
    )


def _graph_chooses(plan: Plan) -> bool:
    from .pipelines import IN_GRAPH  # noqa: PLC0415  needs DALI

    return type(plan.sampler) in IN_GRAPH


def _ready(
    source: HostSource | EncodedSource | PictureSource, setting: Setting, *, at: tuple[int, int], num_parts: int = 1
) -> Ready:
    bytes_a_run = batch_bytes(source, at=at) // num_parts
    return Ready(source, num_parts, needed_bytes(bytes_a_run, num_batches=setting.num_prefetched))


def _unpacked(setting: Setting, columns: Mapping[str, Any]) -> Unpacked:
    # DALI writes no bfloat16; float16 holds normalised pixels at least as finely.
    clips = from_dlpack(columns["clips"].as_tensor()).to(setting.dtype)
    return Unpacked(clips, from_dlpack(columns["frames"].as_tensor()), from_dlpack(columns["flips"].as_tensor()))


def _fill_repeated(clips: torch.Tensor, frames: torch.Tensor) -> None:
    """Frames that are taken several times come once, in the first of their places: copy them to the others.

    Args:
        clips: (B, num_picks, num_crops, 3, H, W), written to.
        frames: (B, num_picks) int64.
    """
    first = (frames[:, :, None] == frames[:, None, :]).int().argmax(dim=2)
    rows, places = (first != torch.arange(frames.shape[1])).nonzero(as_tuple=True)
    clips[rows, places] = clips[rows, first[rows, places]]
