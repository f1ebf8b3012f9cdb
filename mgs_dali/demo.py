"""A small synthetic data set on which choosing the frames decides: short actions inside long still videos.

Every video shows one of a few still scenes with sensor noise. At a random moment a disc appears, circles for about a
tenth of the video and shows three colours one after the other; the class is their order. All classes show the same
colours, each for the same time, at places drawn from the same distribution: neither one frame nor a set of frames
without their order tells the class. Uniform sampling gets one frame of the action, seldom two; motion-guided sampling
gets the action.

Everything in a video before encoding is a function of (seed, split, index).
"""

import csv
import io
import itertools
import json
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from .files import write_whole
from .machine import num_cpus

__all__ = ["CLASSES", "DemoFiles", "DemoVideo", "make_demo", "plan_video", "render"]

Split = Literal["train", "val"]

VERSION = 1  # of the pixels and the files: with another number it is another data set
WIDTH, HEIGHT, FRAMES_PER_SECOND = 128, 96, 12
COLOURS = {"red": (255, 90, 80), "green": (80, 220, 90), "blue": (100, 130, 255)}
CLASSES = tuple(itertools.permutations(COLOURS))  # class c shows CLASSES[c], in this order

_NUM_FRAMES = (80, 100)
_NUM_ACTION_FRAMES = (9, 12)  # multiples of three: every colour is shown for the same time
_NUM_SCENES = 5
_MARGIN_PIXELS = 16  # a scene is larger than the picture by this on every side: videos show different parts of it
_NOISE = 1.0  # standard deviation of the sensor noise, in steps of 255
_SHAKE_PROBABILITY, _SHAKE_PIXELS = 0.04, 2
_STREAMS = {"train": 0, "val": 1, "scenes": 2}


@dataclass(frozen=True)
class DemoFiles:
    """Where a demo data set lies. The lists' paths are relative to ``root``."""

    root: Path
    train_list: Path
    val_list: Path
    class_names: Path


@dataclass(frozen=True)
class DemoVideo:
    """What happens in one video, without its pixels. Times are in frames, 0-based, places in pixels."""

    split: Split
    index: int
    num_frames: int
    first_action_frame: int
    num_action_frames: int
    centre: tuple[float, float]  # y, x of the circle that the disc goes round
    orbit_radius: float
    disc_radius: float
    phase: float  # radians, where on the circle the disc appears
    speed: float  # radians per frame
    scene: int
    corner: tuple[int, int]  # y, x of the picture in the scene
    camera_shakes: bool

    @property
    def path(self) -> str:
        """The file, relative to the folder of the videos."""
        return f"{self.split}/{self.index:04}.webm"

    @property
    def label(self) -> int:
        """The class. It depends on the index alone, so classes are of equal size."""
        return self.index % len(CLASSES)


def make_demo(
    out: str | Path, *, seed: int = 0, num_train: int = 400, num_val: int = 96, progress: bool = True
) -> DemoFiles:
    """Write the demo data set into a folder, or what of it is not there yet.

    ``out`` gets ``videos/`` (VP9 in WebM, 128 x 96, 12 frames a second, 80 to 100 frames), ``train_list.txt`` and
    ``val_list.txt`` (mmaction2's video lists: ``path label`` lines, paths relative to ``videos/``),
    ``class_names.txt``, ``actions.csv`` (where in each video the action is) and ``demo.json`` (which data set this is,
    and whether it is complete). A complete data set is left as it is; an interrupted making goes on where it stopped.
    One process at a time.

    Args:
        out: the folder; made if it is not there.
        seed: 0 or more; another seed gives other videos.
        num_train: number of training videos.
        num_val: number of validation videos.
        progress: show a progress bar, and say so when there is nothing to do.

    Returns:
        The paths to train with.

    Raises:
        ValueError: when ``out`` holds anything else, such as a demo of another seed or size, or a number is out of
            range.
    """
    if seed < 0 or num_train < 1 or num_val < 1:
        raise ValueError(
            f"Cannot make a demo data set with seed={seed}, num_train={num_train}, num_val={num_val}. "
            "Allowed: a seed of 0 or more, one video or more in each split."
        )
    out = Path(out)
    files = DemoFiles(out / "videos", out / "train_list.txt", out / "val_list.txt", out / "class_names.txt")
    wanted = {"version": VERSION, "seed": seed, "num_train": num_train, "num_val": num_val}
    videos = {
        "train": [plan_video(seed, "train", index) for index in range(num_train)],
        "val": [plan_video(seed, "val", index) for index in range(num_val)],
    }
    all_videos = videos["train"] + videos["val"]
    texts = {
        files.train_list: _list_text(videos["train"]),
        files.val_list: _list_text(videos["val"]),
        files.class_names: "".join(", ".join(colours) + "\n" for colours in CLASSES),
        out / "actions.csv": _actions_text(all_videos),
    }
    complete = _is_complete(out, wanted)
    missing = [video for video in all_videos if not (files.root / video.path).is_file()]
    if complete and not missing and all(file.is_file() for file in texts):
        if progress:
            tqdm.write(f"{out} already holds this demo data set: nothing to do.")
        return files

    out.mkdir(parents=True, exist_ok=True)
    _write(out / "demo.json", json.dumps({**wanted, "complete": False}) + "\n")
    for split in videos:
        (files.root / split).mkdir(parents=True, exist_ok=True)
    scenes = [_scene(seed, index) for index in range(_NUM_SCENES)]

    def make(video: DemoVideo) -> None:
        _encode(files.root / video.path, render(video, video.label, scenes[video.scene], seed=seed))

    # Threads, not processes: libvpx and the large NumPy operations run without the interpreter's lock.
    num_workers = num_cpus()
    with ThreadPoolExecutor(min(num_workers, 16)) as pool:
        for _ in tqdm(
            pool.map(make, missing), "demo videos", len(all_videos), initial=len(all_videos) - len(missing),
            unit="video", disable=not progress, mininterval=0.1 if sys.stderr.isatty() else 10,
        ):  # fmt: skip
            pass
    for file, text in texts.items():
        _write(file, text)
    _write(out / "demo.json", json.dumps({**wanted, "complete": True}) + "\n")
    return files


def plan_video(seed: int, split: Split, index: int) -> DemoVideo:
    """Draw what happens in a video, and when. The class is no part of it: it decides the colours, nothing else."""
    rng = np.random.Generator(np.random.Philox(key=_key(seed, split, index)))
    num_frames = int(rng.integers(_NUM_FRAMES[0], _NUM_FRAMES[1], endpoint=True))
    num_action_frames = int(rng.choice(_NUM_ACTION_FRAMES))
    room = (2 * _MARGIN_PIXELS - _SHAKE_PIXELS, _SHAKE_PIXELS)
    return DemoVideo(
        split,
        index,
        num_frames,
        # Two still frames or more on each side.
        first_action_frame=int(rng.integers(2, num_frames - num_action_frames - 2, endpoint=True)),
        num_action_frames=num_action_frames,
        # The disc starts anywhere on its circle: where it is says nothing about how far the action has got.
        centre=(HEIGHT / 2 + rng.uniform(-5, 5), WIDTH / 2 + rng.uniform(-5, 5)),
        orbit_radius=rng.uniform(10, 12),
        disc_radius=rng.uniform(20, 24),
        phase=rng.uniform(0, 2 * np.pi),
        speed=rng.choice([-1, 1]) * rng.uniform(1.0, 1.3),
        scene=int(rng.integers(_NUM_SCENES)),
        corner=(int(rng.integers(room[1], room[0], endpoint=True)), int(rng.integers(room[1], room[0], endpoint=True))),
        camera_shakes=bool(rng.random() < _SHAKE_PROBABILITY),
    )


def render(video: DemoVideo, label: int, scene: npt.NDArray[np.float32], *, seed: int) -> npt.NDArray[np.uint8]:
    """The pixels of a video before encoding, showing the colours of class ``label``.

    Args:
        video: from `plan_video`.
        label: index into `CLASSES`; outside the action the frames are the same for every label.
        scene: (128, 160, 3) float32, the scene of the video's number.
        seed: of the data set.

    Returns:
        (F, 96, 128, 3) uint8 RGB.
    """
    # Another counter of the same key: independent of the draws of the plan.
    rng = np.random.Generator(np.random.Philox(counter=[0, 0, 0, 1], key=_key(seed, video.split, video.index)))
    shake = rng.integers(-_SHAKE_PIXELS, _SHAKE_PIXELS, size=(video.num_frames, 2), endpoint=True) * video.camera_shakes
    frames = np.empty((video.num_frames, HEIGHT, WIDTH, 3), np.float32)
    for frame, (y, x) in zip(frames, video.corner + shake, strict=True):
        frame[:] = scene[y : y + HEIGHT, x : x + WIDTH]
    rows, columns = np.ogrid[:HEIGHT, :WIDTH]
    for i in range(video.num_action_frames):
        frame = frames[video.first_action_frame + i]
        angle = video.phase + video.speed * i
        disc_y = video.centre[0] + video.orbit_radius * np.sin(angle)
        disc_x = video.centre[1] + video.orbit_radius * np.cos(angle)
        colour = np.array(COLOURS[CLASSES[label][i * 3 // video.num_action_frames]], np.float32)
        cover = np.clip(video.disc_radius + 0.5 - np.hypot(rows - disc_y, columns - disc_x), 0, 1)[..., None]
        frame += cover.astype(np.float32) * (colour - frame)
    frames += _NOISE * rng.standard_normal((video.num_frames, HEIGHT, WIDTH, 1), np.float32)
    return np.clip(np.rint(frames, out=frames), 0, 255, out=frames).astype(np.uint8)


def _key(seed: int, stream: str, index: int) -> list[int]:
    return [seed, _STREAMS[stream] << 32 | index]


def _scene(seed: int, index: int) -> npt.NDArray[np.float32]:
    """A still, dim scene, larger than the picture: blobs of colour and two gratings."""
    rng = np.random.Generator(np.random.Philox(key=_key(seed, "scenes", index)))
    y, x = np.mgrid[: HEIGHT + 2 * _MARGIN_PIXELS, : WIDTH + 2 * _MARGIN_PIXELS].astype(np.float32)
    scene = np.broadcast_to(rng.uniform(40, 80, size=3), (*y.shape, 3)).copy()
    for _ in range(12):
        distance = np.hypot(y - rng.uniform(0, y.shape[0]), x - rng.uniform(0, y.shape[1]))
        blob = np.exp(-0.5 * (distance / rng.uniform(8, 30)) ** 2)
        scene += blob[..., None] * rng.uniform(-30, 40, size=3)
    for _ in range(2):
        angle, period_pixels, phase = rng.uniform(0, np.pi), rng.uniform(5, 14), rng.uniform(0, 2 * np.pi)
        wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / period_pixels + phase)
        scene += 10 * wave[..., None]
    return np.clip(scene, 0, 255).astype(np.float32)


def _encode(file: Path, frames: npt.NDArray[np.uint8]) -> None:
    # Quick, one packet a frame (no look-ahead, no hidden frames), and the same bytes wherever libvpx is the same (one
    # thread).
    # The threshold lets the encoder skip blocks of mere noise, as encoders of still scenes do.
    options = {
        "deadline": "realtime",
        "cpu-used": "8",
        "crf": "36",
        "b": "0",
        "static-thresh": "200",
        "auto-alt-ref": "0",
        "lag-in-frames": "0",
    }
    with (
        write_whole(file) as unfinished,
        av.open(str(unfinished), "w", format="webm", options={"fflags": "+bitexact"}) as container,
    ):
        stream = container.add_stream("libvpx-vp9", rate=FRAMES_PER_SECOND, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.gop_size = 48
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def _is_complete(out: Path, wanted: dict[str, int]) -> bool:
    """Whether ``out`` holds the complete data set; False for a part of it or nothing, ValueError for anything else."""
    if not out.exists() or (out.is_dir() and all(file.name == "demo.json.unfinished" for file in out.iterdir())):
        return False
    found: Any = None
    if (out / "demo.json").is_file():
        try:
            found = json.loads((out / "demo.json").read_text())
        except ValueError:
            found = None
    if not isinstance(found, dict) or "complete" not in found:
        raise ValueError(
            f"{out} holds something that is no demo data set. Name a new or an empty folder to make the demo in."
        )
    complete = found.pop("complete")
    if found != wanted:
        raise ValueError(
            f"{out} holds another demo data set: found {_words(found)}, asked for {_words(wanted)}. "
            "Name another folder, ask for what is there, or delete the folder to make it anew."
        )
    return bool(complete)


def _words(what: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in what.items())


def _list_text(videos: Iterable[DemoVideo]) -> str:
    return "".join(f"{video.path} {video.label}\n" for video in videos)


def _actions_text(videos: Iterable[DemoVideo]) -> str:
    columns = ("path", "label", "num_frames", "first_action_frame", "num_action_frames", "camera_shakes")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([getattr(video, column) for column in columns] for video in videos)
    return text.getvalue()


def _write(file: Path, text: str) -> None:
    with write_whole(file) as unfinished:
        unfinished.write_text(text)
