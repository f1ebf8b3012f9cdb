"""Decoding on the CPU with PyAV: the luma of every frame, and chosen frames as RGB."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from .crops import Box
from .packets import ffmpeg_reason

__all__ = ["block_luma", "decode", "luma", "rgb", "rgb_clip"]


def decode(stream: VideoStream, *, name: str) -> Iterator[VideoFrame]:
    """Yield every frame of an open stream in presentation order.

    Raises:
        ValueError: a packet cannot be decoded, or the picture size changes on the way.
    """
    container = stream.container
    assert isinstance(container, InputContainer)
    num_frames = 0
    size: tuple[int, int] | None = None
    try:
        for frame in container.decode(stream):
            size = size or (frame.width, frame.height)
            if (frame.width, frame.height) != size:
                raise ValueError(
                    f"{name}: the picture size changes from {size[0]}x{size[1]} to {frame.width}x{frame.height} at "
                    f"frame {num_frames}. A clip has one size; re-encode the file."
                )
            num_frames += 1
            yield frame
    except av.error.FFmpegError as error:
        raise ValueError(
            f"{name}: decoding failed after {num_frames} frames ({ffmpeg_reason(error)}). The file is damaged; "
            "replace it or take it out of the list."
        ) from error


def luma(frame: VideoFrame) -> np.ndarray:
    """The 8-bit luma plane of a frame, (H, W) uint8, without a copy where the pixel format has such a plane."""
    first, *others = frame.format.components
    packed = any(component.plane == first.plane for component in others)
    if frame.format.has_palette or packed or not first.is_luma or first.bits != 8:
        frame = frame.reformat(format="gray")
    plane = frame.planes[0]
    return np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)[:, : frame.width]


def block_luma(image: np.ndarray, *, block: int) -> np.ndarray:
    """Sums of luma over ``block`` x ``block`` squares: area averaging, without the division.

    Skipping pixels instead would keep all of the sensor's noise, which a sum over n pixels lowers by sqrt(n).

    Args:
        image: (H, W) uint8.
        block: side of a square in pixels; rows and columns beyond the last whole square are left out.

    Returns:
        (H // block, W // block) int32.
    """
    height, width = image.shape[0] // block, image.shape[1] // block
    # Rows first, in 16 bits: one pass over contiguous memory (block <= 257 cannot overflow).
    assert 1 <= block <= 257
    rows = image[: height * block].reshape(height, block, -1).sum(axis=1, dtype=np.uint16)
    return rows[:, : width * block].reshape(height, width, block).sum(axis=2, dtype=np.int32)


# Chroma interpolated and rounded with care, which is what DALI's CPU decoder gives, to the bit. swscale's fast path
# repeats chroma and is a grey level too dark.
_RGB_QUALITY = int(Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT)


def rgb(frame: VideoFrame, *, reformatter: VideoReformatter | None = None) -> np.ndarray:
    """A frame as RGB, (H, W, 3) uint8. A reformatter used for many frames of one video is set up once."""
    reformatter = reformatter or VideoReformatter()
    return reformatter.reformat(frame, format="rgb24", interpolation=_RGB_QUALITY, threads=1).to_ndarray()


def rgb_clip(frames: Iterable[VideoFrame], picks: np.ndarray, *, box: Callable[[int, int], Box]) -> np.ndarray:
    """The chosen frames of a video as RGB, cropped; a frame chosen twice is converted once.

    Args:
        frames: the frames of the video from 0 on; read no further than the last pick.
        picks: (T,) frame indices, in any order.
        box: (width, height) of the frames -> the crop (x, y, width, height) in pixels.

    Returns:
        (T, height, width, 3) uint8.

    Raises:
        IndexError: the video ends before a pick.
    """
    wanted, last = set(picks.tolist()), int(picks.max())
    pictures = {}
    reformatter = VideoReformatter()
    for index, frame in enumerate(frames):
        if index in wanted:
            x, y, width, height = box(frame.width, frame.height)
            pictures[index] = rgb(frame, reformatter=reformatter)[y : y + height, x : x + width]
        if index == last:
            return np.stack([pictures[pick] for pick in picks.tolist()])
    raise IndexError(f"frame {last} of a video that ends earlier")
