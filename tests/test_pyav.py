"""Which versions of PyAV are taken, what FFmpeg complains of, and how a display matrix comes to a frame."""

from __future__ import annotations

import logging
import re
import struct
import subprocess
import sys
import threading
from configparser import ConfigParser
from pathlib import Path

import av
import av.logging
import numpy as np
import pytest
from av.video.frame import VideoFrame
from hard_videos import write

from mgs_dali.decode import pyav
from mgs_dali.decode.packets import scan
from mgs_dali.decode.pyav import (
    AS_STORED,
    complaint,
    display_matrix,
    ffmpeg_reason,
    keep_matrix,
    listening,
    open_input,
)

ROOT = Path(__file__).parents[1]
LEFT = struct.pack("=9i", 0, -(1 << 16), 0, 1 << 16, 0, 0, 0, 0, 1 << 30)


def test_the_bounds_are_those_of_the_package() -> None:
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    wanted = re.search(r"^av>=(\d+),<(\d+)$", setup["options"]["install_requires"], flags=re.MULTILINE)
    assert wanted is not None
    assert tuple(map(int, wanted.groups())) == (pyav._OLDEST, pyav._NEWEST + 1)


def test_a_pixel_format_that_is_not_known() -> None:
    # A process of its own: PyAV 17.1 ends it where its pix_fmt is asked.
    program = """
from av.codec.context import CodecContext
from mgs_dali.decode.pyav import pixel_format
context = CodecContext.create("h264", "r")
print(pixel_format(context))
context.pix_fmt = "yuv420p"
print(pixel_format(context))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["None", "yuv420p"], done.stderr


@pytest.mark.parametrize("version", ["16.1.0", "20.0.0rc1"])
@pytest.mark.parametrize(
    "module", ["decode.packets", "decode.frames", "video.folder", "index.indexing", "load.sources"]
)
def test_others_are_refused_in_one_line(version: str, module: str) -> None:
    program = f"import av\nav.__version__ = {version!r}\nimport mgs_dali.{module}"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == (
        f"ImportError: PyAV {version} is installed, and mgs_dali works with PyAV 17 to 19. "
        "Install one with: pip install 'av>=17,<20'"
    )


def heard(message: str, *, level: int = av.logging.ERROR, name: str = "h264") -> str:
    with av.logging.Capture() as logs:
        av.logging.log(level, name, message)
    return complaint(logs)


def test_errors_are_heard_inside_alone_and_each_time(caplog: pytest.LogCaptureFixture) -> None:
    before = av.logging.get_level(), av.logging.get_skip_repeated()
    with listening():
        with listening():
            assert heard("slice is damaged") == "slice is damaged"
        # the same message of another file
        assert heard("slice is damaged") == "slice is damaged"
        assert heard("deprecated", level=av.logging.WARNING) == ""
    assert (av.logging.get_level(), av.logging.get_skip_repeated()) == before
    assert heard("slice is damaged") == ""
    assert caplog.records == []


def test_a_level_that_a_program_has_set_stays() -> None:
    before = av.logging.get_level()
    av.logging.set_level(av.logging.VERBOSE)
    try:
        with listening():
            assert av.logging.get_level() == av.logging.VERBOSE
            assert heard("slice is damaged") == "slice is damaged"
        assert av.logging.get_level() == av.logging.VERBOSE
    finally:
        av.logging.set_level(before)


def test_other_threads_are_not_heard() -> None:
    logging.getLogger("libav").setLevel(logging.CRITICAL)
    try:
        with listening(), av.logging.Capture() as logs:
            other = threading.Thread(target=av.logging.log, args=(av.logging.ERROR, "h264", "of another file"))
            other.start()
            other.join()
    finally:
        logging.getLogger("libav").setLevel(logging.WARNING)
    assert complaint(logs) == ""


def test_which_complaints_count() -> None:
    logs = [
        (av.logging.WARNING, "mjpeg", "EOI missing"),
        (av.logging.ERROR, "avi", "Something went wrong during header parsing, tag XXXX"),
        (av.logging.ERROR, "h264", "mmco: unref short failure\n"),
        (av.logging.FATAL, "avi", "gone."),
    ]
    assert complaint(logs) == "mmco: unref short failure"
    assert complaint(logs, joined=True) == "gone"
    assert complaint(logs, of="avi") == "gone"
    assert complaint(logs, of="matroska,webm") == ""


def picture() -> VideoFrame:
    return VideoFrame.from_ndarray(np.zeros((4, 6, 3), np.uint8), format="rgb24")


def test_matrices_are_handed_on() -> None:
    first, second = picture(), picture()
    assert keep_matrix(first, None) is None
    assert display_matrix(first) is None
    assert keep_matrix(first, LEFT) == LEFT
    assert keep_matrix(second, keep_matrix(first, None)) == LEFT
    assert display_matrix(second) == LEFT
    first.opaque = AS_STORED
    assert keep_matrix(first, LEFT) == AS_STORED


def test_metadata_that_is_not_utf8(tmp_path: Path) -> None:
    file = tmp_path / "a.avi"
    with av.open(str(file), "w") as container:
        container.metadata["title"] = "Grosse"
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "yuvj420p"
        container.mux(stream.encode(VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode())
    content = file.read_bytes().replace(b"Grosse", b"Gr\xf6\xdfe\x00")
    file.write_bytes(content)
    for source in (file, content):
        with open_input(source) as container:
            assert container.streams.video[0].width == 16


def test_reasons_are_ffmpegs_own_words(tmp_path: Path) -> None:
    with pytest.raises(av.error.FFmpegError) as caught:
        open_input(tmp_path / "missing.mp4")
    assert ffmpeg_reason(caught.value) == "No such file or directory"
    assert ffmpeg_reason(Exception("other")) == "other"


def test_a_size_that_cannot_be_is_told_apart_from_damage(tmp_path: Path) -> None:
    """FFmpeg says of both that it cannot allocate memory, and takes none for this one."""
    file = write(tmp_path / "a.mp4", "libx264", range(12), size=(64, 64))
    content = bytearray(file.read_bytes())
    sizes = content.index(b"stsz") + 16  # after kind, version, the one size of all (none) and their number
    content[sizes + 4 * 7 : sizes + 4 * 8] = (2**29).to_bytes(4, "big")
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.mp4.*a size in it cannot be, or this machine is short of memory"):
        scan(file)
