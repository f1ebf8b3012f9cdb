"""The pipelines behind the routes of :class:`mgs_dali.ClipLoader`. Each gives clips, frames, flips and errors."""

from __future__ import annotations

from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.data_node import DataNode

from .graph import augment, decode_video, guided_frames, motion_curve, spread_frames, take_frames
from .sampling import MotionGuided, Uniform
from .source import EncodedSource, HostSource

__all__ = ["decoded_clips", "encoded_clips"]

_Outputs = tuple[DataNode, DataNode, DataNode, DataNode]


@pipeline_def(exec_dynamic=True)
def decoded_clips(source: HostSource, *, size: int, device: str, prefetch_batches: int) -> _Outputs:
    """Route ``host``: the source decodes and samples, DALI does the rest.

    Args:
        source: called in worker processes.
        size: side of the clips in pixels.
        device: "gpu" or "cpu": where clips are resized and normalised.
        prefetch_batches: how many batches the workers may be ahead.

    Returns:
        clips (T, 3, size, size) float32, frames (T,) int64, flips () int32, errors (bytes,) uint8.
    """
    pixels, frames, flip, error = fn.external_source(
        source,
        num_outputs=4,
        batch=True,
        batch_info=True,
        parallel=True,
        prefetch_queue_depth=prefetch_batches,
        dtype=[types.UINT8, types.INT64, types.INT32, types.UINT8],
        ndim=[4, 1, 0, 1],
        layout=["FHWC", "", "", ""],
    )
    pixels = pixels.gpu() if device == "gpu" else pixels
    return augment(pixels, size=size, flip=flip), frames, flip, error


@pipeline_def(exec_dynamic=True)
def encoded_clips(
    source: EncodedSource, *, sampler: MotionGuided | Uniform, size: int, device: str, prefetch_batches: int
) -> _Outputs:
    """Route ``gpu``: the graph decodes whole videos, measures their motion and takes the chosen frames.

    Args:
        source: called in worker processes; reads files and headers only.
        sampler: how frames are chosen.
        size: side of the clips in pixels.
        device: "gpu", or "cpu" to run the same graph without one (VP8, VP9 and MJPEG).
        prefetch_batches: how many batches the workers may be ahead.

    Returns:
        clips (T, 3, size, size) float32, frames (T,) int64, flips () int32, errors (bytes,) uint8.
    """
    encoded, targets, crop, flip, error = fn.external_source(
        source,
        num_outputs=5,
        batch=True,
        batch_info=True,
        parallel=True,
        prefetch_queue_depth=prefetch_batches,
        dtype=[types.UINT8, types.FLOAT64, types.INT32, types.INT32, types.UINT8],
        ndim=[1, 1, 1, 0, 1],
    )
    video = decode_video(encoded, device="mixed" if device == "gpu" else "cpu")
    if isinstance(sampler, MotionGuided):
        curve = motion_curve(video)
        frames = guided_frames(curve, targets, mu=sampler.mu, floor=sampler.floor, pick=sampler.pick)
    else:
        frames = fn.cast(spread_frames(video.shape()[0], targets), dtype=types.INT32)
    clip = augment(take_frames(video, frames), size=size, crop=crop, flip=flip)
    return clip, fn.cast(frames, dtype=types.INT64), flip, error
