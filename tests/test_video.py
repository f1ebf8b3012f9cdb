"""Decoding on the CPU, against full decoding with PyAV and arithmetic on whole pictures."""

from __future__ import annotations

from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path
from typing import Any, cast

import av
import av.logging
import numpy as np
import pytest
from av.video.frame import VideoFrame
from conftest import HEIGHT, NUM_FRAMES, WIDTH, decode_all, encode, kind, moving_disc

from mgs_dali.decode import frames as video
from mgs_dali.decode.frames import decode_chosen, decode_file, luma, rgb, rgb_chosen
from mgs_dali.decode.packets import open_scanned

# --- luma -----------------------------------------------------------------------------------------------------------


def picture() -> np.ndarray:
    """Smooth, with all of its values between 16 and 235: nothing is clipped on the way to YUV and back."""
    return next(moving_disc(1, width=70, height=46))


def weighted(rgb: np.ndarray) -> np.ndarray:
    """BT.601 luma, full range."""
    return rgb @ np.array([0.299, 0.587, 0.114])


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuvj420p", "yuv444p", "yuv422p", "nv12", "nv21", "gray"])
def test_luma_is_the_plane_itself_where_there_is_one(pixel_format: str) -> None:
    frame = VideoFrame.from_ndarray(picture(), format="rgb24").reformat(format=pixel_format, threads=1)
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
    # One thread: with several, libswscale now and then gets a row of yuv420p10le wrong that it makes from RGB.
    frame = VideoFrame.from_ndarray(picture(), format="rgb24").reformat(format=pixel_format, threads=1)
    found = luma(frame)
    assert kind(found) == ("uint8", (46, 70))
    assert np.abs(found - weighted(picture())).max() < 3  # to full range, whatever the source's range


def test_luma_in_a_forked_worker() -> None:
    """The parent has converted pictures, with several threads: PyAV 19 keeps the converter, and the fork not them."""
    VideoFrame.from_ndarray(picture(), format="rgb24").reformat(format="gray", threads=4)
    frame = VideoFrame.from_ndarray(picture()[:30], format="rgb24")
    worker = get_context("fork").Process(target=luma, args=(frame,))
    worker.start()
    worker.join(timeout=30)
    try:
        assert worker.exitcode == 0
    finally:
        worker.kill()


def test_luma_of_pictures_with_a_palette() -> None:
    palette = np.zeros((256, 4), np.uint8)
    palette[:3] = [[255, 200, 10, 60], [255, 30, 90, 220], [255, 128, 128, 128]]  # ARGB
    indices = np.random.default_rng(0).integers(0, 3, (10, 14)).astype(np.uint8)
    found = luma(VideoFrame.from_ndarray(cast(Any, (indices, palette)), format="pal8"))
    assert np.abs(found - weighted(palette[indices][..., 1:])).max() < 3


@pytest.mark.parametrize("name", ["h264", "mpeg4", "vp9", "mjpeg", "hevc", "ffv1"])
def test_luma_of_decoded_frames(videos: dict[str, Path], name: str) -> None:
    planes = decode_all(videos[name], "yuvj420p" if name == "mjpeg" else "yuv420p")[:, :HEIGHT]
    found = [luma(frame).copy() for frame in decode_file(videos[name])]
    np.testing.assert_array_equal(found, planes)


@pytest.mark.parametrize("name", ["ffv1-10bit", "ffv1-gray", "h264-rgb", "qtrle-rgb"])
def test_luma_of_decoded_frames_in_other_formats(videos: dict[str, Path], name: str) -> None:
    expected = [weighted(frame) for frame in moving_disc()]
    found = [luma(frame).astype(float) for frame in decode_file(videos[name])]
    assert len(found) == NUM_FRAMES
    assert np.abs(np.array(found) - expected).max() < 6  # libx264rgb compresses


# --- chosen frames --------------------------------------------------------------------------------------------------


def whole(width: int, height: int) -> tuple[int, int, int, int]:
    return 0, 0, width, height


@pytest.mark.parametrize(
    "name", ["h264", "mpeg4", "vp8", "vp8-hidden", "vp9", "mjpeg", "hevc", "ffv1-10bit", "h264-rgb"]
)
def test_rgb_chosen_gives_the_frames_of_a_full_decode(videos: dict[str, Path], name: str) -> None:
    everything = decode_all(videos[name])
    for picks in (np.arange(NUM_FRAMES), np.array([59]), np.array([41, 3, 3, 57, 0, 41])):
        clip = rgb_chosen(dict(enumerate(decode_file(videos[name]))), picks, box=whole)
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


def test_rgb_chosen_crops(videos: dict[str, Path]) -> None:
    sizes = []

    def box(width: int, height: int) -> tuple[int, int, int, int]:
        sizes.append((width, height))
        return 11, 5, 33, 21

    picks = np.array([30, 7, 30])
    clip = rgb_chosen(dict(enumerate(decode_file(videos["h264"]))), picks, box=box)
    np.testing.assert_array_equal(clip, decode_all(videos["h264"])[picks, 5:26, 11:44])
    assert set(sizes) == {(WIDTH, HEIGHT)}


# --- damaged files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vp8", "vp9", "mjpeg", "ffv1"])
def test_decoding_a_damaged_file_tells_where_it_failed(videos: dict[str, Path], tmp_path: Path, name: str) -> None:
    file = damaged_copy(videos[name], tmp_path, packet=20)
    reason = r"frame 20 cannot be decoded \(.+\)\. The file is damaged; replace it"
    with pytest.raises(ValueError, match=r"^list\.txt, line 4: " + reason):
        list(decode_file(file, name="list.txt, line 4"))


def test_what_stands_in_the_log_alone_counts(videos: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    class Complaining:
        """A decoder that conceals damage, with a word in its log."""

        def __init__(self, context: Any) -> None:
            self._context, self.codec = context, context.codec

        def decode(self, packet: Any) -> Any:
            if packet is not None and packet.pts == row:
                av.logging.log(av.logging.ERROR, "mjpeg", "slice is damaged")
            return self._context.decode(packet)

    row, fed = 20, video._fed  # all of its packets are keyframes

    def listened(context: Any, packet: Any, **more: Any) -> Any:
        return fed(cast(Any, Complaining(context)), packet, **more)

    monkeypatch.setattr(video, "_fed", listened)
    with pytest.raises(ValueError, match=r"v: frame 20 cannot be decoded \(slice is damaged\)\. The file is damaged"):
        list(decode_file(videos["mjpeg"], name="v"))
    # nothing depends on it
    for sparse in (False, True):
        assert sorted(decode_chosen(videos["mjpeg"], np.array([19, 25]), sparse=sparse).frames) == [19, 25]
        with pytest.raises(ValueError, match=r"frame 20 cannot be decoded \(slice is damaged\)"):
            decode_chosen(videos["mjpeg"], np.array([20, 25]), sparse=sparse)


@pytest.mark.parametrize("name", ["h264", "hevc", "vp9", "mpeg4"])
def test_frames_that_a_decoder_leaves_out(videos: dict[str, Path], monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with open_scanned(videos[name]) as scanned:
        row = int(scanned.table.frames[31])
    fed = video._fed

    def leaves_out(*arguments: Any, **options: Any) -> Any:
        frames, trouble = fed(*arguments, **options)
        return [frame for frame in frames if frame.pts != row], trouble

    monkeypatch.setattr(video, "_fed", leaves_out)
    with pytest.raises(ValueError, match=r"v: frame 31 cannot be decoded \(the decoder leaves it out\)"):
        list(decode_file(videos[name], name="v"))


@pytest.mark.parametrize("name", ["filled.mpg", "filled.ts", "filled.mkv"])
def test_packets_that_are_filled_up_with_zeros(tmp_path: Path, name: str) -> None:
    """As broadcasters do, whose streams have a constant rate."""
    rate = {"b": "4M", "minrate": "4M", "maxrate": "4M", "bufsize": "1835k"}
    file = encode(tmp_path / name, moving_disc(12, width=352, height=288), "mpeg2video", options=rate)
    assert bytes(1000) in file.read_bytes() or name == "filled.ts"
    assert len(list(decode_file(file))) == 12


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_raw_recordings_that_start_inside_a_gop(tmp_path: Path, codec: str) -> None:
    """What reads them is called like the decoder, whose complaints of the first packets say nothing of the file."""
    options = {"g": "12", "x265-params": "keyint=12:log-level=none"} if codec == "libx265" else {"g": "12"}
    file = tmp_path / ("raw.hevc" if codec == "libx265" else "raw.h264")
    encode(file, moving_disc(30), codec, max_b_frames=0, options=options)
    with av.open(str(file)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    file.write_bytes(b"".join(packets[4:]))
    assert 0 < len(list(decode_file(file))) < 26


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
            for packet in encoder.encode(image.reformat(format="yuvj420p", threads=1)):
                packet.pts = packet.dts = index
                packet.stream = stream
                container.mux(packet)
    with pytest.raises(ValueError, match=r"^v: the picture size changes from 64x48 to 48x32 at frame 2\."):
        list(decode_file(file, name="v"))


def test_encoding_helper_keeps_every_frame(tmp_path: Path) -> None:
    frames = list(moving_disc(7))
    np.testing.assert_array_equal(decode_all(encode(tmp_path / "v.mov", frames, "qtrle", pixel_format="rgb24")), frames)
