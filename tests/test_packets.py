"""What is known of a video without decoding it, against what decoding gives."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from conftest import HEIGHT, NUM_FRAMES, WIDTH, decode_all, encode, leave_out, moving_disc

from mgs_dali.decode import packets
from mgs_dali.decode.packets import OpenVideo, open_video, scan

FORMATS = {
    "h264": ("h264", "yuv420p"),
    "mpeg4": ("mpeg4", "yuv420p"),
    "vp8": ("vp8", "yuv420p"),
    "vp8-hidden": ("vp8", "yuv420p"),
    "vp9": ("vp9", "yuv420p"),
    "mjpeg": ("mjpeg", "yuvj420p"),
    "hevc": ("hevc", "yuv420p"),
    "ffv1": ("ffv1", "yuv420p"),
    "ffv1-10bit": ("ffv1", "yuv420p10le"),
    "ffv1-gray": ("ffv1", "gray"),
    "h264-rgb": ("h264", "gbrp"),
    "qtrle-rgb": ("qtrle", "rgb24"),
}


@pytest.mark.parametrize("in_memory", [False, True])
@pytest.mark.parametrize("name", FORMATS)
def test_scan_counts_the_frames_that_decoding_gives(videos: dict[str, Path], name: str, in_memory: bool) -> None:
    file = videos[name]
    codec, pixel_format = FORMATS[name]
    found = scan(file.read_bytes() if in_memory else file)
    assert found.num_frames == len(decode_all(file)) == NUM_FRAMES
    assert (found.codec, found.pixel_format) == (codec, pixel_format)
    assert (found.width, found.height) == (WIDTH, HEIGHT)
    assert found.is_proved_whole


def test_the_test_videos_have_what_makes_counting_hard(videos: dict[str, Path]) -> None:
    def pictures(name: str) -> str:
        with av.open(str(videos[name])) as container:
            return "".join(" IPB"[int(frame.pict_type)] for frame in container.decode(video=0))

    def packets(name: str) -> list[bytes]:
        with av.open(str(videos[name])) as container:
            return [bytes(packet) for packet in container.demux(video=0) if packet.size]

    assert "BB" in pictures("h264")
    assert "B" in pictures("mpeg4")
    assert len(packets("vp8-hidden")) == NUM_FRAMES + 8
    assert any(packet[-1] & 0xE0 == 0xC0 for packet in packets("vp9"))  # a superframe: a hidden frame with a shown one


def test_frames_that_an_edit_list_leaves_out_are_not_counted(videos: dict[str, Path], tmp_path: Path) -> None:
    file = leave_out(videos["h264"], 10, tmp_path / "cut.mp4")
    found = scan(file)
    assert found.num_frames == len(decode_all(file)) == NUM_FRAMES - 10


def test_open_video_decodes_on_one_thread(videos: dict[str, Path]) -> None:
    with open_video(videos["h264"]) as video:
        assert video.stream.codec_context.thread_count == 1


# --- files that are no videos ---------------------------------------------------------------------------------------


def bad_file(kind: str, videos: dict[str, Path], folder: Path) -> Path:
    file = folder / {"folder": "clips", "truncated WebM header": "bad.webm"}.get(kind, "bad.mp4")
    if kind == "folder":
        file.mkdir()
    elif kind == "empty":
        file.touch()
    elif kind == "text":
        file.write_text("not a video\n" * 100)
    elif kind == "noise":
        file.write_bytes(np.random.default_rng(0).bytes(20_000))
    elif kind == "truncated MP4":
        content = videos["h264"].read_bytes()
        assert content.rfind(b"moov") > len(content) // 2  # its header is at the end
        file.write_bytes(content[: len(content) // 2])
    elif kind == "truncated WebM header":
        file.write_bytes(videos["vp9"].read_bytes()[:20])
    elif kind == "audio":
        with av.open(str(file), "w") as container:
            stream = container.add_stream("aac", rate=8000)
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate = 8000
            for _ in range(4):
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    return file


BAD_FILES = {
    "missing": r"no such file\. Check the path in the list and the root folder",
    "folder": r"it is a folder\. Check the path in the list",
    "empty": r"cannot be opened as a video \(.+\)\. It may be cut off, empty or not a video; replace it",
    "text": r"cannot be opened as a video \(Invalid data found.*\)",
    "noise": r"cannot be opened as a video \(Invalid data found.*\)",
    "truncated MP4": r"cannot be opened as a video \(Invalid data found.*\)\. It may be cut off",
    "truncated WebM header": r"cannot be opened as a video \(.+\)\. It may be cut off",
    "audio": r"no video stream \(streams found: audio\)\. Take the file out of the list",
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_files_that_are_no_videos(videos: dict[str, Path], tmp_path: Path, kind: str) -> None:
    file = bad_file(kind, videos, tmp_path)
    with pytest.raises(ValueError, match=re.escape(f"{file}: ") + BAD_FILES[kind]) as caught:
        scan(file)
    assert "Errno" not in str(caught.value)
    assert str(caught.value).count(str(file)) == 1
    with pytest.raises(ValueError, match=re.escape("train.txt, line 7: ") + BAD_FILES[kind]):
        scan(file, name="train.txt, line 7")
    with pytest.raises(ValueError, match=BAD_FILES[kind]), open_video(file):
        pass


@pytest.mark.parametrize("kind", ["empty", "text", "noise", "truncated MP4", "audio"])
def test_bytes_that_are_no_video(videos: dict[str, Path], tmp_path: Path, kind: str) -> None:
    content = bad_file(kind, videos, tmp_path).read_bytes()
    with pytest.raises(ValueError, match="video in memory: " + BAD_FILES[kind]):
        scan(content)
    with pytest.raises(ValueError, match=r"train\.txt, line 7: " + BAD_FILES[kind]):
        scan(content, name="train.txt, line 7")


def test_a_video_stream_without_frames(tmp_path: Path) -> None:
    file = tmp_path / "header-only.avi"
    with av.open(str(file), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuvj420p"
        container.start_encoding()
    with pytest.raises(ValueError, match=r"header-only\.avi: (its video stream holds no frame|cannot be opened)"):
        scan(file)


@pytest.mark.parametrize("name", ["h264", "vp8", "vp8-hidden", "vp9", "mjpeg", "mpeg4"])
def test_cut_off_videos_are_errors(videos: dict[str, Path], tmp_path: Path, name: str) -> None:
    content = videos[name].read_bytes()
    file = tmp_path / f"cut{videos[name].suffix}"
    file.write_bytes(content[: int(len(content) * 0.71)])
    if name == "h264":  # the tables of its MP4 are at the end
        expected = r"cannot be opened as a video"
    else:
        expected = (
            rf"its (segment|RIFF chunk) ends at byte \d+, the file at byte {file.stat().st_size}\. The file is cut"
        )
    with pytest.raises(ValueError, match=rf"{re.escape(str(file))}: {expected}"):
        scan(file)


def test_odd_sizes(tmp_path: Path) -> None:
    file = encode(tmp_path / "odd.avi", moving_disc(3, width=35, height=27), "mjpeg", pixel_format="yuvj420p")
    found = scan(file)
    assert (found.width, found.height, found.num_frames) == (35, 27, 3)


def test_a_stream_that_begins_late(videos: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """PyAV knows the streams that there were when the file was opened."""

    def demux(_: OpenVideo) -> Iterator[Any]:
        yield from ()
        raise IndexError("list index out of range")

    monkeypatch.setattr(packets, "_demux", demux)
    with pytest.raises(ValueError, match=r"h264\.mp4: after 0 frames a stream begins that the start"):
        scan(videos["h264"])
