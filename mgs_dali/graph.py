"""Motion-guided sampling as DALI operators, to compose in any ``@pipeline_def``.

Each function takes and returns DataNodes and works alike on the CPU and the GPU::

    video = graph.decode_video(encoded, device="mixed")           # (F, H, W, 3) uint8
    frames = graph.guided_frames(graph.motion_curve(video), targets)
    clip = graph.take_frames(video, frames)                       # (T, H, W, 3)

Only native operators: no Python runs while the pipeline does.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

try:
    from nvidia.dali import fn, math, types
    from nvidia.dali.auto_aug.core import select, signed_bin
    from nvidia.dali.auto_aug.rand_augment import get_rand_augment_suite
    from nvidia.dali.data_node import DataNode
except ImportError as error:
    raise ModuleNotFoundError(
        "NVIDIA DALI is not installed. Install it with: pip install 'mgs-dali[cuda130]' (driver 580 or newer) or "
        "'mgs-dali[cuda120]' (driver 525.60 or newer); both run without a GPU too.",
        name="nvidia.dali",
    ) from error

from .libraries import load_cuda_libraries
from .motion.pixel import WORKING_SIDE_PIXELS
from .sampling import MotionGuided
from .views.rand_augment import MAX_STRENGTH, OPERATIONS, RandAugment

__all__ = [
    "GPU_DECODER_BIAS",
    "MAX_FRAMES",
    "augment",
    "correct_colours",
    "decode_frames",
    "decode_picture",
    "decode_video",
    "guided_frames",
    "motion_curve",
    "rand_augment",
    "spread_frames",
    "take_frames",
    "turn_upright",
]

MAX_FRAMES = 65_536
"""The longest video that :func:`guided_frames` takes."""

load_cuda_libraries()

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

_UNIT = float(2**40)  # the largest weight in fixed point: twice the sum of MAX_FRAMES of them fits 63 bits
_BLOCK = 64


GPU_DECODER_BIAS = (0.80, -0.60, 1.01)
"""By how many grey levels red, green and blue of DALI's GPU decoder are too bright: it takes 127.5 for the middle of
chroma, where it is 128 (DALI 2.4.0, color_space.cu; half a level of both chroma values in BT.601)."""


def decode_video(encoded: DataNode, *, device: str = "mixed") -> DataNode:
    """Decode whole videos. DALI takes every picture of a file for a frame, also hidden ones and those that an edit list
    leaves out; :func:`mgs_dali.decode.cut.cut` makes copies that hold frames alone.

    Args:
        encoded: (bytes,) uint8 on the CPU, a whole file a sample.
        device: "mixed" decodes on the GPU: H.264, HEVC, MPEG-4, VP8, VP9 and AV1 as far as its NVDEC takes them, and no
            MJPEG, for which DALI 2.4 stops the pipeline whatever its documentation says. "cpu" takes VP8, VP9 and
            MJPEG.

    Returns:
        (F, H, W, 3) uint8, layout FHWC.
    """
    return _decoders().video(encoded, device=device)


def decode_frames(encoded: DataNode, frames: DataNode, *, device: str = "mixed") -> DataNode:
    """Decode some frames of videos. DALI decodes from the first frame to the last one asked for.

    On the CPU it converts those that are asked for to RGB; on the GPU every one that it decodes, and waits for it.

    Args:
        encoded: (bytes,) uint8 on the CPU, a whole file a sample.
        frames: (U,) int32 on the CPU: sorted, each once (a repeated frame would be decoded again from the start).
        device: "mixed" decodes on the GPU, "cpu" without one: see :func:`decode_video` for the codecs.

    Returns:
        (U, H, W, 3) uint8, layout FHWC. A frame beyond the end stops the pipeline; the operator's default would be a
        black picture.
    """
    return _decoders().video(encoded, frames=frames, device=device, pad_mode="none")


def decode_picture(encoded: DataNode, crop: DataNode, *, device: str = "mixed") -> DataNode:
    """Decode a part of each JPEG, as a clip of one frame. A rotation in EXIF is left alone, as videos have none.

    Chroma is interpolated on the GPU as on the CPU. For parts of pictures nvImageCodec leaves that to the CPU where
    nvJPEG is older than 13.2 (CUDA 13.3), as it is with CUDA 12.

    Args:
        encoded: (bytes,) uint8 on the CPU, a whole file a sample.
        crop: (4,) int32 on the CPU: x, y, width, height in pixels.
        device: "mixed" decodes on the GPU, with nvJPEG; or "cpu".

    Returns:
        (1, height, width, 3) uint8 RGB, layout FHWC.
    """
    picture = _decoders().image_slice(
        encoded,
        crop[:2],
        crop[2:],
        axis_names="WH",
        device=device,
        output_type=types.RGB,
        adjust_orientation=False,
        jpeg_fancy_upsampling=True,  # of nvJPEG, which repeats chroma otherwise; libjpeg-turbo interpolates anyway
    )
    return fn.expand_dims(picture, axes=0, new_axis_names="F")


def motion_curve(video: DataNode) -> DataNode:
    """How much each frame of a video moves: the measure ``pixel`` of :class:`mgs_dali.motion.pixel.MotionMeter`.

    Args:
        video: (F, H, W, 3) uint8 RGB, on the CPU or the GPU.

    Returns:
        (F - 1,) float32 on the same device, in grey levels: the mean absolute difference of the luma of neighbouring
        frames, averaged over square blocks first.
    """
    # To YCbCr, not to grey: rounding to limited range gives back the luma that the decoder started from, so that still
    # frames measure exactly 0 as they do on the CPU. Grey would keep the rounding of R, G and B as motion.
    luma = fn.color_space_conversion(video, image_type=types.RGB, output_type=types.YCbCr)[:, :, :, 0]
    shape = luma.shape()
    num_frames, height, width = shape[0], shape[1], shape[2]
    block = math.max(math.min(height, width) // WORKING_SIDE_PIXELS, 1)
    rows, columns = height // block, width // block
    sizes = (fn.cast(size, dtype=types.INT32) for size in (num_frames, rows, block, columns, block))
    squares = fn.reshape(luma[:, : rows * block, : columns * block], shape=fn.stack(*sizes))
    means = fn.reductions.mean(squares, axes=(2, 4))
    return fn.reductions.mean(math.abs(means[1:] - means[:-1]), axes=(1, 2))


def guided_frames(
    motion: DataNode, targets: DataNode, *, mu: float = 0.5, floor: float = 0.0, pick: str = "nearest"
) -> DataNode:
    """Frames that share out the motion of a video: :func:`mgs_dali.sampling.motion_guided_frames` as a graph.

    A video of one frame or without motion gives uniform picks.

    Args:
        motion: (F - 1,) float32, on the CPU or the GPU; at most :data:`MAX_FRAMES` values, none negative or NaN.
        targets: (T,) float64 on the CPU, as :func:`mgs_dali.sampling.segment_targets` gives them.
        mu: exponent that evens the motion out, 0 to 1 in practice.
        floor: share of the mean motion added to every value, so that still stretches keep some frames.
        pick: "nearest" (the released code's rule) or "inverse" (the inverse of the CDF; can reach the last frame).

    Returns:
        (T,) int32 on the CPU: 0-based frame indices.

    Raises:
        ValueError: mu, floor or pick is not allowed.
    """
    MotionGuided(mu=mu, floor=floor, pick=pick)  # the same checks
    motion = motion.cpu() if motion.device == "gpu" else motion
    num_gaps = motion.shape()[0]
    # One value more, so that a one-frame video has something to sum. It weighs nothing and is never picked.
    motion = fn.cat(motion, types.Constant(np.zeros(1, np.float32), device="cpu"), axis=0)
    index = types.Constant(np.arange(MAX_FRAMES, dtype=np.int64), device="cpu")[: num_gaps + 1]
    inside = _whole(index < num_gaps)

    largest = fn.reductions.max(motion)
    moves = _whole(largest > 0)
    relative = _real(motion) / _real(largest + fn.cast(largest <= 0, dtype=types.FLOAT))
    # Whole numbers from here on: DALI does not sum doubles, and sums of single floats would move picks in long, nearly
    # still stretches. Integers add up exactly, in any order.
    weight = _whole(math.pow(relative, mu) * _UNIT) * inside
    mean = _real(fn.reductions.sum(weight)) / _real(math.max(num_gaps, 1))
    weight = (_whole(_real(weight) / (1 + floor)) + _whole(mean * (floor / (1 + floor)))) * inside

    total = _real(fn.reductions.sum(weight))
    target = fn.expand_dims(_whole(targets * total), axes=1)  # (T, 1) against (1, F)
    index_row, weight_row = fn.expand_dims(index, axes=0), fn.expand_dims(weight, axes=0)
    cdf_row = fn.expand_dims(_running_sum(weight)[: num_gaps + 1], axes=0)
    if pick == "nearest":
        distance = math.abs(cdf_row - target)
        nearest = fn.expand_dims(fn.reductions.min(distance, axes=1), axes=1)
        guided = fn.reductions.min(index_row + _whole(distance > nearest) * MAX_FRAMES, axes=1)  # the first of equals
    else:
        beyond = target - (cdf_row - weight_row)  # of the start of each gap; a gap is passed from its middle on
        passed = _whole(beyond > 0) * _whole(2 * beyond >= weight_row) * fn.expand_dims(inside, axes=0)
        guided = fn.reductions.sum(passed, axes=1)
    uniform = spread_frames(num_gaps + 1, targets)
    return fn.cast(guided * moves + uniform * (1 - moves), dtype=types.INT32)


def spread_frames(num_frames: DataNode, targets: DataNode) -> DataNode:
    """Uniform picks: :func:`mgs_dali.sampling.uniform_frames` as a graph.

    Args:
        num_frames: () integer on the CPU.
        targets: (T,) float64 on the CPU.

    Returns:
        (T,) int64 on the CPU: 0-based frame indices.
    """
    # The small part is for targets such as 7/30 of 30 frames, whose product with 30 falls just short of 7.
    return math.min(_whole(math.floor(targets * _real(num_frames) + 1e-9)), num_frames - 1)


def take_frames(video: DataNode, frames: DataNode) -> DataNode:
    """The chosen frames of a video, in the order given.

    Args:
        video: (F, H, W, 3), on the CPU or the GPU.
        frames: (T,) int32 on the CPU: 0-based indices below F; may repeat.

    Returns:
        (T, H, W, 3) on the video's device.
    """
    return fn.sequence_rearrange(video, new_order=frames)


def augment(
    clip: DataNode,
    *,
    size: int,
    crop: DataNode | None = None,
    flip: DataNode | int = 0,
    turn: DataNode | None = None,
    colours: DataNode | None = None,
    bias: Sequence[float] = (0.0, 0.0, 0.0),
    operations: DataNode | None = None,
    randomly: RandAugment | None = None,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    dtype: types.DALIDataType = types.FLOAT,
) -> DataNode:
    """Crop, resize once, augment, flip and normalise a clip, alike in all its frames.

    Args:
        clip: (T, H, W, 3) uint8, layout FHWC, on the CPU or the GPU.
        size: side of the square result in pixels. Linear resize, with antialiasing where it shrinks.
        crop: (4,) int32 on the CPU: x, y, width, height in pixels; the whole frame by default.
        flip: () int32 on the CPU, or a number: 1 mirrors left and right.
        turn: (3,) int32 on the CPU: turn the crop upright, see :func:`turn_upright`.
        colours: (3, 3) float32 on the CPU: correct its colours, see :func:`correct_colours`.
        bias: of red, green and blue: by how many grey levels the clip is too bright.
        operations, randomly: apply :func:`rand_augment` to the resized clip.
        mean, std: of each channel, on the 0 to 1 scale; ImageNet's by default.
        dtype: FLOAT or FLOAT16.

    Returns:
        (T, 3, size, size), layout FCHW, on the clip's device.
    """
    if crop is not None:
        clip = fn.slice(clip, crop[:2], crop[2:], axis_names="WH")
    if turn is not None:
        clip = turn_upright(clip, turn)
    if colours is not None:
        clip = correct_colours(clip, colours, bias=bias)
    clip = fn.resize(clip, size=(size, size), interp_type=types.INTERP_LINEAR)
    if randomly is not None:
        assert operations is not None
        clip = rand_augment(clip, operations, randomly, size=size)
    return fn.crop_mirror_normalize(
        clip,
        mirror=flip,
        mean=(255 * np.array(mean) + np.array(bias)).tolist(),
        std=[255 * value for value in std],
        dtype=dtype,
        output_layout="FCHW",
    )


def turn_upright(clip: DataNode, turn: DataNode) -> DataNode:
    """Turn the frames of a clip as its container says. For pipelines with ``enable_conditionals=True``.

    Args:
        clip: (T, H, W, 3), layout FHWC, on the CPU or the GPU.
        turn: (3,) int32 on the CPU: 1 to transpose, to mirror left and right, to flip top and bottom, in this order, as
            :class:`mgs_dali.decode.containers.Turn` has it.

    Returns:
        (T, H, W, 3) or (T, W, H, 3) on the clip's device.
    """
    if turn[0] != 0:
        clip = fn.transpose(clip, perm=[0, 2, 1, 3], transpose_layout=False)
    if turn[1] + turn[2] > 0:
        clip = fn.flip(clip, horizontal=turn[1], vertical=turn[2])
    return clip


def correct_colours(clip: DataNode, colours: DataNode, *, bias: Sequence[float] = (0.0, 0.0, 0.0)) -> DataNode:
    """Make the right colours of those that BT.601 gave. For pipelines with ``enable_conditionals=True``.

    Args:
        clip: (T, H, W, 3) uint8 RGB, on the CPU or the GPU.
        colours: (3, 3) float32 on the CPU, from :func:`mgs_dali.decode.colours.colour_correction`. The unit matrix does
            nothing, and costs nothing.
        bias: of red, green and blue in grey levels, that the clip has and keeps.

    Returns:
        (T, H, W, 3) uint8 on the clip's device.
    """
    unit = types.Constant(np.eye(3, dtype=np.float32), device="cpu")
    if fn.reductions.max(math.abs(colours - unit)) > 1e-6:
        constant = types.Constant(np.array(bias, np.float32)[:, None], device="cpu")
        kept = fn.reshape(constant - _product(colours, np.array(bias, np.float32)), shape=[3])
        clip = fn.coord_transform(clip, M=colours, T=kept, dtype=types.UINT8)
    return clip


def _product(matrix: DataNode, vector: np.ndarray) -> DataNode:
    """(3, 1): a matrix times a vector."""
    return fn.reductions.sum(matrix * types.Constant(vector[None, :], device="cpu"), axes=1, keep_dims=True)


def rand_augment(clip: DataNode, operations: DataNode, randomly: RandAugment, *, size: int) -> DataNode:
    """RandAugment with operations that were drawn outside: DALI's suite of operations, alike in all frames of a clip.

    For pipelines with ``enable_conditionals=True``.

    Args:
        clip: (T, size, size, 3) uint8, layout FHWC, on the CPU or the GPU.
        operations: (num_operations, 2) int32 on the CPU, from :func:`mgs_dali.views.rand_augment.draw_operations`.
        randomly: how many operations, and how strong.
        size: side of the frames in pixels: translations go up to 100/224 of it.

    Returns:
        (T, size, size, 3) uint8 on the clip's device. What comes in from outside of a frame is grey (128).
    """
    by_name = {operation.name: operation for operation in get_rand_augment_suite(use_shape=True)}
    suite = [by_name[name] for name in OPERATIONS]
    with warnings.catch_warnings(record=True):  # DALI 2.4 warns of operators in its own suite, whatever filters say
        for place in range(randomly.num_operations):
            strength = signed_bin(randomly.strength, random_sign=operations[place, 1])
            clip = select(
                suite,
                operations[place, 0],
                data=clip,
                magnitude_bin=strength,
                num_magnitude_bins=MAX_STRENGTH + 1,
                shape=(size, size),
                fill_value=128,
            )
    return clip


def _running_sum(values: DataNode) -> DataNode:
    """Cumulative sums of (F,) int64, padded at the end: DALI has no such operator, but masks and sums over an axis.

    In two levels, within blocks and over blocks, so that memory grows with F and not with its square.
    """
    blocks = fn.reshape(fn.pad(values, axes=[0], align=[_BLOCK]), shape=[-1, _BLOCK])
    within = types.Constant(np.tril(np.ones((1, _BLOCK, _BLOCK), np.int64)), device="cpu")
    sums = fn.reductions.sum(fn.expand_dims(blocks, axes=1) * within, axes=2)  # (F / block, block)
    index = types.Constant(np.arange(MAX_FRAMES // _BLOCK, dtype=np.int64), device="cpu")[: blocks.shape()[0]]
    before = _whole(fn.expand_dims(index, axes=0) < fn.expand_dims(index, axes=1))
    totals = fn.expand_dims(fn.reductions.sum(blocks, axes=1), axes=0)
    start = fn.reductions.sum(before * totals, axes=1)
    return fn.reshape(sums + fn.expand_dims(start, axes=1), shape=[-1])


def _decoders() -> Any:
    # In DALI 1.x fn.experimental has these decoders, and fn.decoders an older one of images and none of videos.
    return fn.decoders if hasattr(fn.decoders, "video") else fn.experimental.decoders


def _whole(node: DataNode) -> DataNode:
    return fn.cast(node, dtype=types.INT64)


def _real(node: DataNode) -> DataNode:
    return fn.cast(node, dtype=types.FLOAT64)
