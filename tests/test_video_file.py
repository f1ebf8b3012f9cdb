from __future__ import annotations

import os
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from conftest import NUM_FRAMES, decode_all, encode, moving_disc

from mgs_dali import Dense, MotionGuided, Uniform, open_video
from mgs_dali.decode.frames import decode_file
from mgs_dali.decode.packets import scan
from mgs_dali.decode.reading import Stamp
from mgs_dali.motion.packet import Packet, packet_motion
from mgs_dali.motion.pixel import Pixel, pixel_motion
from mgs_dali.sampling import dense_frames, motion_guided_frames, segment_targets, uniform_frames
from mgs_dali.video.file import VideoFile
from mgs_dali.video.folder import FrameFolder

CODECS = ["h264", "hevc", "vp9", "mpeg4", "mjpeg"]


def frames_a_second(video: Path) -> float:
    with av.open(str(video)) as container:
        return float(container.streams.video[0].average_rate or 0)


# --- frames ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("codec", CODECS)
def test_pictures_are_those_of_full_decoding(videos: dict[str, Path], codec: str, sparse: bool) -> None:
    frames = [41, 3, 41, 58]
    expected = decode_all(videos[codec])[frames]
    for source in (videos[codec], str(videos[codec]), videos[codec].read_bytes()):
        pictures = open_video(source).pictures(np.array(frames), sparse=sparse)
        np.testing.assert_array_equal(pictures.pixels, expected)
        assert pictures.frames.tolist() == frames
        assert len(pictures) == 4
        np.testing.assert_allclose(pictures.seconds, np.array(frames) / frames_a_second(videos[codec]), atol=1e-3)


@pytest.mark.parametrize("codec", ["h264", "mjpeg"])
@pytest.mark.parametrize(("first", "num"), [(0, -1), (0, 20), (17, 25), (17, -1), (59, 1)])
def test_frames_of_a_clip_are_frames_of_the_video(videos: dict[str, Path], codec: str, first: int, num: int) -> None:
    """The samplers' own functions and the motion of the frames that are the clip tell which these are."""
    stop = NUM_FRAMES if num == -1 else first + num
    video = VideoFile(videos[codec], first_frame=first, num_frames=num)
    targets = segment_targets(4)
    motion = pixel_motion(list(decode_file(videos[codec]))[first:stop])
    np.testing.assert_array_equal(video.motion(Pixel()), motion)
    for sampler, expected in (
        (Uniform(4), uniform_frames(stop - first, targets)),
        (Uniform(4, keep_tail=False), uniform_frames(stop - first, targets)),  # as evaluation takes them
        (Dense(4, span_frames=8), dense_frames(stop - first, 4, 0.5, span_frames=8)),
        (MotionGuided(4, mu=1.0, floor=0.3, pick="inverse"), motion_guided_frames(
            motion, targets, mu=1.0, floor=0.3, pick="inverse"
        )),
    ):  # fmt: skip
        assert video.choose(sampler).tolist() == (first + expected).tolist()
    drawn = video.choose(Uniform(4), rng=np.random.default_rng(3))
    targets = segment_targets(4, np.random.default_rng(3))
    assert drawn.tolist() == (first + uniform_frames(stop - first, targets)).tolist()


def test_packet_sizes_of_a_clip(videos: dict[str, Path]) -> None:
    table = scan(videos["h264"]).packets
    assert table is not None
    motion = packet_motion(table)[10:39]
    video = VideoFile(videos["h264"], first_frame=10, num_frames=30)
    np.testing.assert_array_equal(video.motion(Packet()), motion)
    expected = 10 + motion_guided_frames(motion, segment_targets(4))
    assert video.choose(MotionGuided(4, measure="packet")).tolist() == expected.tolist()


def test_a_clip_longer_than_its_video(videos: dict[str, Path]) -> None:
    for first, num, text in (
        (0, 61, r"the list has 61 frames of it, the video has 60\. Correct the line of the list"),
        (50, 11, r"the list has 11 frames of it from offset 50 on, the video has 60"),
        (60, -1, r"the list has at least one frame of it from offset 60 on, the video has 60"),
    ):
        video = VideoFile(videos["h264"], "a.mp4 (l.txt, line 3)", first, num)
        for ask in (
            lambda v: v.choose(Uniform(4)),
            lambda v: v.motion(Pixel()),
            lambda v: v.pictures(lambda reading: np.array([reading.span.start])),
        ):
            with pytest.raises(ValueError, match=rf"a\.mp4 \(l\.txt, line 3\): {text}"):
                ask(video)


def test_a_video_that_is_not_the_one_that_was_measured(videos: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match=r"the motion index holds 61 frames of it, the file shows 60\. It has changed"):
        VideoFile(videos["h264"]).pictures(np.array([2]), num_measured=61)


class OutOfTheClip:
    num_segments, needs_motion = 2, False

    def __init__(self, *frames: Any) -> None:
        self.chosen = np.array(frames)

    def targets(self, *, num_clips: int = 1, rng: np.random.Generator | None = None) -> np.ndarray:
        return np.zeros(num_clips)

    def frames(self, num_frames: int, targets: np.ndarray, motion: np.ndarray | None = None) -> np.ndarray:
        return self.chosen


@pytest.mark.parametrize("frames", [(0, 30), (-1, 3), (1.0, 2.0), (3,), ()])
def test_frames_that_are_none_of_the_clip(videos: dict[str, Path], frames: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match=r"v: the sampler .*OutOfTheClip.* of a clip of 30 frames\. .* from 0 to 29"):
        VideoFile(videos["h264"], "v", 0, 30).choose(OutOfTheClip(*frames))
    assert VideoFile(videos["h264"], "v", 5, 30).choose(OutOfTheClip(29, 0)).tolist() == [34, 5]


# --- times ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", CODECS)
def test_start_and_end_are_seconds(videos: dict[str, Path], codec: str) -> None:
    """Frame k is shown from k / rate on."""
    rate = frames_a_second(videos[codec])
    half = 0.5 / rate
    for start, end, expected in (
        (10 / rate + half, 20 / rate + half, range(10, 21)),  # in the middle of both frames' time
        (None, 5 / rate - half, range(5)),
        (50 / rate + half, None, range(50, 60)),
        (0, 1e6, range(60)),
        (59 / rate + half, None, range(59, 60)),
    ):
        video = open_video(videos[codec], start=start, end=end)
        assert isinstance(video, VideoFile)
        assert range(video.first_frame, video.first_frame + video.num_frames) == expected


def test_times_are_those_of_presentation(tmp_path: Path) -> None:
    """A video whose frames are shown for 1, 2, 3, 4, ... hundredths of a second, with B-frames."""
    file = tmp_path / "v.mp4"
    times = np.cumsum(np.arange(20))
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=100, options={"bf": "2", "g": "10"})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 100)
        for time, picture in zip(times.tolist(), moving_disc(20), strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    pictures = open_video(file).pictures(np.arange(20))
    np.testing.assert_allclose(pictures.seconds, times / 100, atol=1e-6)
    clip = open_video(file, start=0.45, end=1.05)
    assert isinstance(clip, VideoFile)
    assert (clip.first_frame, clip.num_frames) == (9, 5)  # 0.45 is the time of frame 9, 1.05 that of frame 14


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"start": -1}, r"start \(-1\) must be a number of seconds of at least 0"),
        ({"end": "5"}, r"end \('5'\) must be a number of seconds"),
        ({"start": float("nan")}, r"start \(nan\) must be"),
        ({"start": 2, "end": 2}, r"end \(2 s\) must be after start \(2 s\)"),
        ({"end": 0}, r"end \(0 s\) must be after start \(0 s\)"),
        ({"start": 99}, r"h264\.mp4: start \(99 s\) is after its last frame, at \d\.\d+ s"),
        (
            {"template": "{:05}.jpg", "start": 1},
            r"template is for a folder of frames, which has a path and tells no ti",
        ),
        ({"template": "x"}, r"template 'x' does not name a file by its number"),
    ],
)
def test_arguments_are_checked_at_the_call(videos: dict[str, Path], options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        open_video(videos["h264"], **options)


def test_what_is_no_video_is_an_error_at_the_call(tmp_path: Path) -> None:
    for source, text in (
        (tmp_path / "gone.mp4", r"gone\.mp4: no such file"),
        (tmp_path, r": it is a folder"),
        (b"no video at all", r"video in memory: cannot be opened as a video"),
        (7, r"source \(7\) must be a path or the bytes of a video file"),
    ):
        with pytest.raises(ValueError, match=text):
            open_video(source)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^mine: no such folder"):
        open_video(tmp_path / "gone", template="{:05}.jpg", name="mine")


# --- the rest -------------------------------------------------------------------------------------------------------


def test_a_folder_of_frames(videos: dict[str, Path], tmp_path: Path) -> None:
    with av.open(str(videos["mjpeg"])) as container:
        for number, packet in enumerate((p for p in container.demux(video=0) if p.size), start=1):
            (tmp_path / f"{number:05}.jpg").write_bytes(bytes(packet))
    folder, video = open_video(tmp_path, template="{:05}.jpg"), open_video(videos["mjpeg"])
    assert isinstance(folder, FrameFolder)
    for sampler in (Uniform(4), MotionGuided(4)):
        frames = folder.choose(sampler)
        assert frames.tolist() == video.choose(sampler).tolist()
        np.testing.assert_array_equal(folder.pictures(frames).pixels, video.pictures(frames).pixels)
    assert np.isnan(folder.pictures(np.array([3])).seconds).all()
    assert (folder.scan().num_frames, folder.scan().width, folder.scan().height) == (60, 96, 64)
    with pytest.raises(ValueError, match="measure packet takes what a video's encoder spent"):
        folder.choose(MotionGuided(4, measure="packet"))


def test_stamps_tell_another_file(videos: dict[str, Path], tmp_path: Path) -> None:
    file = Path(shutil.copy(videos["h264"], tmp_path / "v.mp4"))
    os.utime(file, ns=(5, 7))
    content = file.read_bytes()
    assert VideoFile(file).stamp() == Stamp(len(content), 7)
    assert VideoFile(content).stamp() == Stamp(len(content), 0)
    file.unlink()
    with pytest.raises(FileNotFoundError):
        VideoFile(file).stamp()


def test_frames_of_a_video_that_only_decoding_counts(tmp_path: Path) -> None:
    """FFV1's headers are not read here."""
    file = encode(tmp_path / "v.mkv", moving_disc(12), "ffv1")
    expected = uniform_frames(12, segment_targets(4))
    assert open_video(file).choose(Uniform(4)).tolist() == expected.tolist()
    clip = VideoFile(file, first_frame=3, num_frames=6)
    assert clip.choose(Uniform(3)).tolist() == (3 + uniform_frames(6, segment_targets(3))).tolist()
    motion = pixel_motion(list(decode_file(file))[3:9])
    frames = clip.choose(MotionGuided(3))
    assert frames.tolist() == (3 + motion_guided_frames(motion, segment_targets(3))).tolist()
    np.testing.assert_array_equal(clip.pictures(frames).pixels, decode_all(file)[frames])
