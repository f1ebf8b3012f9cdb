"""The pipelines behind the routes of :class:`mgs_dali.ClipLoader`."""

from __future__ import annotations

# Graph first: where DALI is missing, it says what to install.
# isort: off
from collections.abc import Callable, Sequence
from typing import Any

from ..graph import (
    GPU_DECODER_BIAS,
    augment,
    decode_frames,
    decode_picture,
    decode_video,
    guided_frames,
    motion_curve,
    take_frames,
)

from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.data_node import DataNode
from nvidia.dali.pipeline import do_not_convert

# isort: on
from ..sampling import MotionGuided, Sampler
from ..views.rand_augment import RandAugment
from .sources import EncodedSource, HostSource, PictureSource

__all__ = ["IN_GRAPH", "decoded_clips", "encoded_clips", "picture_clips"]

_Outputs = tuple[DataNode, ...]

_FORMATS = {
    "in_graph": (types.BOOL, 0),
    "file": (types.UINT8, 1),
    "picture": (types.UINT8, 1),
    "is_all": (types.BOOL, 0),
    "targets": (types.FLOAT64, 1),
    "start": (types.INT64, 0),
    "decoded": (types.INT32, 1),
    "places": (types.INT32, 1),
    "crop": (types.INT32, 1),
    "crops": (types.INT32, 2),
    "turn": (types.INT32, 1),
    "colours": (types.FLOAT, 2),
    "flips": (types.INT32, 1),
    "operations": (types.INT32, 2),
    "pixels": (types.UINT8, 4),
    "frames": (types.INT64, 1),
    "measured": (types.FLOAT, 1),
    "note": (types.UINT8, 1),
    "detour": (types.UINT8, 1),
    "error": (types.UINT8, 1),
}
"""Type and number of dimensions of each column that the sources give."""


def _guided(sampler: MotionGuided, motion: DataNode, targets: DataNode) -> DataNode:
    return guided_frames(motion, targets, mu=sampler.mu, floor=sampler.floor, pick=sampler.pick)


IN_GRAPH: dict[type[Any], Callable[[Any, DataNode, DataNode], DataNode]] = {MotionGuided: _guided}
"""Samplers whose frames a graph can choose by the motion that it measures: (sampler, motion, targets) -> frames. A
sampler of a user's own is NumPy: its frames must be known before."""


@do_not_convert
def choose_in_graph(sampler: Sampler, motion: DataNode, targets: DataNode) -> DataNode:
    """(T,) int32 frames that a sampler of :data:`IN_GRAPH` chooses of a clip."""
    return IN_GRAPH[type(sampler)](sampler, motion, targets)


@do_not_convert  # plain Python, which the conversion of conditionals does not take whole
def _columns(source: HostSource | EncodedSource | PictureSource, *, prefetch_batches: int) -> dict[str, DataNode]:
    names = source.columns
    nodes = fn.external_source(
        source,
        num_outputs=len(names),
        batch=True,
        batch_info=True,
        parallel=True,
        prefetch_queue_depth=prefetch_batches,
        dtype=[_FORMATS[name][0] for name in names],
        ndim=[_FORMATS[name][1] for name in names],
        layout=["FHWC" if name == "pixels" else "" for name in names],
    )
    return dict(zip(names, nodes, strict=True))


def _views(
    clip: DataNode,
    row: dict[str, DataNode],
    *,
    crops: DataNode | None,
    num_crops: int,
    size: int,
    dtype: types.DALIDataType,
    rand_augment: RandAugment | None,
    in_graph: bool = False,
    bias: Sequence[float] = (0.0, 0.0, 0.0),
) -> DataNode:
    """All crops of the frames, each resized once: (num_crops, num_picks, 3, size, size), or without the first axis for
    one crop. ``crops`` is None where the clip is the crop already; ``in_graph`` are pictures as the graph decodes them,
    and ``bias`` is by how many grey levels they are too bright."""
    views = []
    for place in range(num_crops):
        view = augment(
            clip,
            size=size,
            crop=None if crops is None else crops[place],
            flip=row["flips"][place],
            turn=row["turn"] if in_graph else None,
            colours=row["colours"] if in_graph else None,
            bias=bias,
            operations=row["operations"] if rand_augment is not None else None,
            randomly=rand_augment,
            dtype=dtype,
        )
        views.append(view)
    return views[0] if num_crops == 1 else fn.stack(*views)


@pipeline_def(exec_dynamic=True, enable_conditionals=True)
def decoded_clips(
    source: HostSource,
    *,
    size: int,
    device: str,
    dtype: types.DALIDataType,
    prefetch_batches: int,
    num_crops: int = 1,
    rand_augment: RandAugment | None = None,
) -> _Outputs:
    """Route ``host``: the source decodes and samples, DALI does the rest.

    Args:
        source: called in worker processes.
        size: side of the clips in pixels.
        device: "gpu" or "cpu": where clips are resized and normalised.
        dtype: of the clips.
        prefetch_batches: how many batches the workers may be ahead.
        num_crops: K, of each video.
        rand_augment: how clips are augmented.

    Returns:
        clips (K, num_picks, 3, size, size) without the K of one crop, frames (num_picks,) int64, flips (K,) int32, and
        what ``source.told`` names; all but the clips on the CPU.
    """
    row = _columns(source, prefetch_batches=prefetch_batches)
    pixels = row["pixels"].gpu() if device == "gpu" else row["pixels"]
    crops = None if num_crops == 1 else row["crops"]
    clip = _views(pixels, row, crops=crops, num_crops=num_crops, size=size, dtype=dtype, rand_augment=rand_augment)
    return clip, row["frames"], row["flips"], *[row[name] for name in source.told]


@pipeline_def(exec_dynamic=True, enable_conditionals=True)
def encoded_clips(
    source: EncodedSource,
    *,
    size: int,
    device: str,
    dtype: types.DALIDataType,
    prefetch_batches: int,
    num_crops: int = 1,
    rand_augment: RandAugment | None = None,
) -> _Outputs:
    """Routes ``gpu`` and ``gpu-sparse``: the graph decodes, and on ``gpu`` measures motion and picks frames.

    Args:
        source: called in worker processes; reads files and headers, and decodes what the graph cannot.
        size: side of the clips in pixels.
        device: "gpu", or "cpu" to run the same graph without one (VP8, VP9 and MJPEG).
        dtype: of the clips.
        prefetch_batches: how many parts of batches the workers may be ahead.
        num_crops: K, of each video.
        rand_augment: how clips are augmented.

    Returns:
        clips (K, num_picks, 3, size, size) without the K of one crop, frames (num_picks,) int64, flips (K,) int32, and
        what ``source.told`` names; all but the clips on the CPU.
    """
    row = _columns(source, prefetch_batches=prefetch_batches)
    decoder = "mixed" if device == "gpu" else "cpu"
    bias = GPU_DECODER_BIAS if device == "gpu" else (0.0, 0.0, 0.0)
    is_recorded = "measured" in source.told  # otherwise both branches have anything of one type in its place
    if row["in_graph"]:
        if source.sparse:
            video = decode_frames(row["file"], row["decoded"], device=decoder)
        elif row["is_all"]:
            video = decode_video(row["file"], device=decoder)
        else:
            video = decode_frames(row["file"], row["decoded"], device=decoder)
        if source.picks_in_graph:
            motion = motion_curve(video).cpu() if device == "gpu" else motion_curve(video)
            places = choose_in_graph(source.plan.sampler, motion, row["targets"])
            frames = fn.cast(places, dtype=types.INT64) + row["start"]
            measured = motion if is_recorded else frames
        else:
            places, frames = row["places"], row["frames"]
            measured = row["measured"] if is_recorded else frames
        chosen = take_frames(video, places)
        clip = _views(
            chosen,
            row,
            crops=row["crops"],
            num_crops=num_crops,
            size=size,
            dtype=dtype,
            rand_augment=rand_augment,
            in_graph=True,
            bias=bias,
        )
    else:
        frames = row["frames"]
        measured = row["measured"] if is_recorded else frames
        pixels = row["pixels"].gpu() if device == "gpu" else row["pixels"]
        crops = None if num_crops == 1 else row["crops"]
        clip = _views(pixels, row, crops=crops, num_crops=num_crops, size=size, dtype=dtype, rand_augment=rand_augment)
    return clip, frames, row["flips"], *[measured if name == "measured" else row[name] for name in source.told]


@pipeline_def(exec_dynamic=True, enable_conditionals=True)
def picture_clips(
    source: PictureSource,
    *,
    size: int,
    device: str,
    dtype: types.DALIDataType,
    prefetch_batches: int,
    num_crops: int = 1,
    rand_augment: RandAugment | None = None,
) -> _Outputs:
    """Route ``rawframes``: the source picks frames and reads their files, DALI does the rest.

    A sample of the pipeline is one frame of a clip: a batch of B clips has B * num_picks.

    Args:
        source: called in worker processes.
        size: side of the clips in pixels.
        device: "gpu" or "cpu": where pictures are decoded, resized and normalised.
        dtype: of the clips.
        prefetch_batches: how many batches the workers may be ahead.
        num_crops: K, of each clip.
        rand_augment: how clips are augmented.

    Returns:
        clips of one frame (K, 1, 3, size, size) without the K of one crop, then of the clip that it belongs to: frames
        (num_picks,) int64, flips (K,) int32, and what ``source.told`` names; all but the clips on the CPU.
    """
    row = _columns(source, prefetch_batches=prefetch_batches)
    picture = decode_picture(row["picture"], row["crop"], device="mixed" if device == "gpu" else "cpu")
    crops = None if num_crops == 1 else row["crops"]
    clip = _views(picture, row, crops=crops, num_crops=num_crops, size=size, dtype=dtype, rand_augment=rand_augment)
    return clip, row["frames"], row["flips"], *[row[name] for name in source.told]
