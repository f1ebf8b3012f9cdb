"""Decoding on the CPU, against full decoding with PyAV and arithmetic on whole pictures."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import pytest
from av.video.frame import VideoFrame
from conftest import HEIGHT, NUM_FRAMES, WIDTH, decode_all, encode, kind, moving_disc

from mgs_dali.packets import open_video
from mgs_dali.video import decode, luma, rgb, rgb_clip

# --- luma -----------------------------------------------------------------------------------------------------------


def picture() -> np.ndarray:
    """Smooth, with all of its values between 16 and 235: nothing is clipped on the way to YUV and back."""
    return next(moving_disc(1, width=70, height=46))


def weighted(rgb: np.ndarray) -> np.ndarray:
    """BT.601 luma, full range."""
    return rgb @ np.array([0.299, 0.587, 0.114])


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuvj420p", "yuv444p", "yuv422p", "nv12", "nv21", "gray"])
def test_luma_is_the_plane_itself_where_there_is_one(pixel_format: str) -> None:
    frame = VideoFrame.from_ndarray(picture(), format="rgb24").reformat(format=pixel_format)
    found = luma(frame)
    assert kind(found) == ("uint8", (46, 70))
    assert found.base is not None  # no copy
    plane = bytes(frame.planes[0])
    stride = frame.planes[0].line_size
    for row in (0, 17, 45):
        assert found[row].tobytes() == plane[row * stride : row * stride + 70]
    full_range = pixel_format in ("yuvj420p", "gray")
    expected = weighted(picture()) if full_range else 16 + weighted(picture()) * 219 / 255
    assert np.abs(found - expected).max() < 2.5


@pytest.mark.parametrize(
    "pixel_format",
    ["yuv420p10le", "p010le", "rgb24", "bgr24", "gbrp", "gbrp10le", "rgba", "yuyv422", "uyvy422", "gray10le", "ya8"],
)
def test_luma_of_other_formats_is_converted(pixel_format: str) -> None:
    frame = VideoFrame.from_ndarray(picture(), format="rgb24").reformat(format=pixel_format)
    found = luma(frame)
    assert kind(found) == ("uint8", (46, 70))
    assert np.abs(found - weighted(picture())).max() < 3  # to full range, whatever the source's range


def test_luma_of_pictures_with_a_palette() -> None:
    palette = np.zeros((256, 4), np.uint8)
    palette[:3] = [[255, 200, 10, 60], [255, 30, 90, 220], [255, 128, 128, 128]]  # ARGB
    indices = np.random.default_rng(0).integers(0, 3, (10, 14)).astype(np.uint8)
    found = luma(VideoFrame.from_ndarray(cast(Any, (indices, palette)), format="pal8"))
    assert np.abs(found - weighted(palette[indices][..., 1:])).max() < 3


@pytest.mark.parametrize("name", ["h264", "mpeg4", "vp9", "mjpeg", "hevc", "ffv1"])
def test_luma_of_decoded_frames(videos: dict[str, Path], name: str) -> None:
    planes = decode_all(videos[name], "yuvj420p" if name == "mjpeg" else "yuv420p")[:, :HEIGHT]
    with open_video(videos[name]) as stream:
        found = [luma(frame).copy() for frame in decode(stream, name="v")]
    np.testing.assert_array_equal(found, planes)


@pytest.mark.parametrize("name", ["ffv1-10bit", "ffv1-gray", "h264-rgb", "qtrle-rgb"])
def test_luma_of_decoded_frames_in_other_formats(videos: dict[str, Path], name: str) -> None:
    expected = [weighted(frame) for frame in moving_disc()]
    with open_video(videos[name]) as stream:
        found = [luma(frame).astype(float) for frame in decode(stream, name="v")]
    assert len(found) == NUM_FRAMES
    assert np.abs(np.array(found) - expected).max() < 6  # libx264rgb compresses


# --- chosen frames --------------------------------------------------------------------------------------------------


def whole(width: int, height: int) -> tuple[int, int, int, int]:
    return 0, 0, width, height


@pytest.mark.parametrize(
    "name", ["h264", "mpeg4", "vp8", "vp8-hidden", "vp9", "mjpeg", "hevc", "ffv1-10bit", "h264-rgb"]
)
def test_rgb_clip_gives_the_frames_of_a_full_decode(videos: dict[str, Path], name: str) -> None:
    everything = decode_all(videos[name])
    for picks in (np.arange(NUM_FRAMES), np.array([59]), np.array([41, 3, 3, 57, 0, 41])):
        with open_video(videos[name]) as stream:
            clip = rgb_clip(decode(stream, name="v"), picks, box=whole)
        np.testing.assert_array_equal(clip, everything[picks])


def test_rgb_is_bt601() -> None:
    """The arithmetic of BT.601 in limited range; full resolution of chroma leaves nothing to interpolate."""
    image = picture()
    red, green, blue = np.moveaxis(image.astype(float), -1, 0)
    y = 0.299 * red + 0.587 * green + 0.114 * blue
    planes = [16 + y * 219 / 255, 128 + (blue - y) / 1.772 * 224 / 255, 128 + (red - y) / 1.402 * 224 / 255]
    frame = VideoFrame.from_ndarray(np.stack(planes).round().astype(np.uint8), format="yuv444p")
    error = rgb(frame).astype(int) - image
    assert np.abs(error).max() <= 3  # YUV is rounded
    assert abs(error.mean()) < 0.2


def test_rgb_clip_crops(videos: dict[str, Path]) -> None:
    sizes = []

    def box(width: int, height: int) -> tuple[int, int, int, int]:
        sizes.append((width, height))
        return 11, 5, 33, 21

    picks = np.array([30, 7, 30])
    with open_video(videos["h264"]) as stream:
        clip = rgb_clip(decode(stream, name="v"), picks, box=box)
    np.testing.assert_array_equal(clip, decode_all(videos["h264"])[picks, 5:26, 11:44])
    assert set(sizes) == {(WIDTH, HEIGHT)}


def test_rgb_clip_reads_no_further_than_the_last_pick(videos: dict[str, Path]) -> None:
    num_read = 0

    def counted(frames: Iterator[VideoFrame]) -> Iterator[VideoFrame]:
        nonlocal num_read
        for frame in frames:
            num_read += 1
            yield frame

    with open_video(videos["vp9"]) as stream:
        rgb_clip(counted(decode(stream, name="v")), np.array([9, 2]), box=whole)
    assert num_read == 10


def test_rgb_clip_beyond_the_end(videos: dict[str, Path]) -> None:
    with open_video(videos["vp9"]) as stream, pytest.raises(IndexError, match=f"frame {NUM_FRAMES} of a video"):
        rgb_clip(decode(stream, name="v"), np.array([3, NUM_FRAMES]), box=whole)


# --- damaged files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vp8", "vp9", "mjpeg", "ffv1"])
def test_decoding_a_damaged_file_tells_where_it_failed(videos: dict[str, Path], tmp_path: Path, name: str) -> None:
    file = damaged_copy(videos[name], tmp_path, packet=20)
    reason = r"decoding failed after 20 frames \(Invalid data found .*\)\. The file is damaged; replace it"
    with open_video(file) as stream, pytest.raises(ValueError, match=r"^list\.txt, line 4: " + reason):
        list(decode(stream, name="list.txt, line 4"))


def damaged_copy(file: Path, folder: Path, *, packet: int) -> Path:
    """Copy a video with one packet, counted from 0, overwritten by bytes that no decoder takes."""
    content = bytearray(file.read_bytes())
    with av.open(str(file)) as container:
        damaged = [p for p in container.demux(video=0) if p.size][packet]
    assert damaged.pos is not None
    place = content.find(bytes(damaged), damaged.pos)
    assert place >= damaged.pos
    content[place : place + damaged.size] = b"\xff" * damaged.size
    target = folder / f"damaged{file.suffix}"
    target.write_bytes(content)
    return target


def test_pictures_that_change_their_size(tmp_path: Path) -> None:
    file = tmp_path / "resized.avi"
    with av.open(str(file), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        container.start_encoding()
        for index in range(4):
            encoder = av.CodecContext.create("mjpeg", "w")
            encoder.width, encoder.height = (64, 48) if index < 2 else (48, 32)
            encoder.pix_fmt, encoder.time_base = "yuvj420p", Fraction(1, 25)
            image = VideoFrame.from_ndarray(np.full((encoder.height, encoder.width, 3), 99, np.uint8), format="rgb24")
            for packet in encoder.encode(image.reformat(format="yuvj420p")):
                packet.pts = packet.dts = index
                packet.stream = stream
                container.mux(packet)
    with (
        open_video(file) as stream,
        pytest.raises(ValueError, match=r"^v: the picture size changes from 64x48 to 48x32 at frame 2\."),
    ):
        list(decode(stream, name="v"))


def test_encoding_helper_keeps_every_frame(tmp_path: Path) -> None:
    frames = list(moving_disc(7))
    np.testing.assert_array_equal(decode_all(encode(tmp_path / "v.mov", frames, "qtrle", pixel_format="rgb24")), frames)
