"""The routes of the GPU on a GPU, against PyAV and NumPy. ``run.py`` runs them with the measurements.

``GPU_TESTS_DEVICE=cpu`` tries them without a GPU, on the few codecs that DALI decodes there.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clip_sets import COLOURS, DAMAGED, HARD, SCALES, list_of, make_clips, read_colours, read_number
from machine import Report
from PIL import Image
from questions import SHOWN, SIDE, ask, auto_takes_gpu_routes, grey_levels

from mgs_dali import read_annotations
from mgs_dali.decode.frames import decode_file
from mgs_dali.decode.packets import Scan, scan
from mgs_dali.lists.table import Clips
from mgs_dali.load import nvdec
from mgs_dali.load.loader import ClipBatch, ClipLoader
from mgs_dali.motion.pixel import pixel_motion
from mgs_dali.sampling import MotionGuided, Uniform, motion_guided_frames, segment_targets

DEVICE = os.environ.get("GPU_TESTS_DEVICE", "cuda")
ON_GPU = DEVICE == "cuda"
pytestmark = pytest.mark.gpu if ON_GPU else pytest.mark.slow


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = os.environ.get("GPU_TESTS_CLIPS")
    clips = Path(made) if made else tmp_path_factory.mktemp("clips")
    make_clips(clips, device=DEVICE)
    return clips


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Where tests leave what they measured, for ``run.py``."""
    file = os.environ.get("GPU_TESTS_REPORT")
    return Report(Path(file) if file else tmp_path_factory.mktemp("report") / "report.json")


@pytest.fixture
def table(folder: Path) -> Callable[..., Clips]:
    """Clips of some of the sets, as a table."""
    return lambda *names: read_annotations(list_of(folder, *names), root=folder, num_classes=4)


@pytest.fixture(scope="session")
def refuse() -> Callable[[Scan], str]:
    """Why the decoder here does not take a video."""
    if not ON_GPU:
        return nvdec.refusal_without_gpu
    torch.zeros(1, device="cuda")
    return partial(nvdec.refusal, limits=nvdec.read_limits())


@pytest.fixture
def auto() -> Iterator[None]:
    """Let route="auto" find the routes of the GPU where there is none, too."""
    with auto_takes_gpu_routes(DEVICE):
        yield


def open_loader(clips: Clips, **options: Any) -> ClipLoader:
    settings: dict[str, Any] = {
        "sampler": Uniform(num_segments=8),
        "batch_size": min(len(clips), 16),
        "training": False,
        "size": SIDE,
        "route": "gpu",
        "device": DEVICE,
        "num_workers": 2,
    }
    return ClipLoader(clips, **(settings | options))


def load(clips: Clips, **options: Any) -> list[ClipBatch]:
    with open_loader(clips, **options) as loader:
        return list(loader)


def joined(batches: list[ClipBatch], name: str) -> torch.Tensor:
    """A field of all batches, less what fills the last one."""
    return torch.cat([getattr(batch, name)[batch.valid.to(getattr(batch, name).device)] for batch in batches])


def kind_of(path: str) -> str:
    return Path(path).stem.partition("-")[2]


# --- never a wrong frame --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def numbered_on_host(folder: Path) -> torch.Tensor:
    """The numbered clips by PyAV, uniform picks; on the CPU."""
    clips = read_annotations(list_of(folder, "numbered"), root=folder, num_classes=4)
    return joined(load(clips, route="host", device="cpu"), "clips")


@pytest.mark.parametrize(("route", "sampler"), [("gpu", "motion"), ("gpu", "uniform"), ("gpu-sparse", "uniform")])
def test_pictures_are_of_the_frames_named(
    table: Callable[..., Clips], numbered_on_host: torch.Tensor, report: Report, route: str, sampler: str
) -> None:
    clips = table("numbered")  # all codecs, in one batch
    chosen = MotionGuided(num_segments=8) if sampler == "motion" else Uniform(num_segments=8)
    batches = load(clips, route=route, sampler=chosen)
    frames, pictures = joined(batches, "frames").numpy(), grey_levels(joined(batches, "clips"))
    shown = np.array([[read_number(picture, shown=SHOWN) for picture in clip] for clip in pictures])
    kinds = [kind_of(path) for path in clips.paths]
    wrong = {kind: row.tolist() for kind, row, want in zip(kinds, shown, frames, strict=True) if (row != want).any()}
    assert not wrong, f"frames shown, where they are not those named: {wrong}; named: {frames.tolist()}"
    if sampler == "uniform":
        difference = np.abs(pictures - grey_levels(numbered_on_host))
        levels = {
            kind: [round(float(some.mean()), 2), round(float(np.quantile(some, 0.999)), 1)]
            for kind, some in zip(kinds, difference, strict=True)
        }
        report[f"{route}: mean difference from PyAV and its 99.9 % quantile, grey levels"] = levels
        off = {kind: colours_off(clip) for kind, clip in zip(kinds, pictures, strict=True)}
        report[f"{route}: colours off by"] = off
        assert {kind: levels for kind, levels in off.items() if levels > MOST_OFF} == {}
        # Chroma is interpolated differently, and DALI takes BT.601 for all; a wrong range would be 10 levels and more.
        assert {kind: mean for kind, (mean, _) in levels.items() if mean > 4} == {}


def test_picks_are_those_of_numpy(table: Callable[..., Clips], report: Report) -> None:
    clips = table("picks")
    assert len(clips) >= 200 or not ON_GPU
    batches = load(clips, sampler=MotionGuided(num_segments=8), size=32)
    found, expected = joined(batches, "frames").numpy(), []
    for row in range(len(clips)):
        motion = pixel_motion(decode_file(clips.file(row)))
        expected.append(motion_guided_frames(motion, segment_targets(8)))
    apart = np.abs(found - np.stack(expected))
    kinds = np.array([path.partition("-")[2].partition("-")[2].rpartition(".")[0] for path in clips.paths])
    report["picks"] = {
        "clips": len(clips),
        "frames": apart.size,
        "equal": round(float((apart == 0).mean()), 5),
        "furthest apart": int(apart.max()),
        "equal by kind": {str(kind): round(float((apart[kinds == kind] == 0).mean()), 4) for kind in np.unique(kinds)},
    }
    assert (apart == 0).mean() >= 0.99
    assert apart.max() <= 1


def test_batches_stay_as_they_are(table: Callable[..., Clips]) -> None:
    # Clips are DALI's own memory, not a copy: it must not be written again while a batch is held.
    options: dict[str, Any] = {"batch_size": 2, "training": True, "sampler": MotionGuided(4), "flip_probability": 0.5}
    with open_loader(table("numbered"), **options) as loader:
        held, copies = [], []
        for _ in range(3):  # epochs
            for batch in loader:
                held.append(batch)
                copies.append(batch.clips.clone())
        for batch, copy in zip(held, copies, strict=True):
            assert torch.equal(batch.clips, copy)
    with open_loader(table("numbered"), **options) as loader:
        again = [batch for _ in range(3) for batch in loader]
    for batch, other in zip(held, again, strict=True):
        assert torch.equal(batch.samples, other.samples)
        assert torch.equal(batch.frames, other.frames)
        torch.testing.assert_close(batch.clips, other.clips, rtol=0, atol=1e-3)


# --- files that decoders show otherwise than players do -------------------------------------------------------------

Shown = dict[str, tuple[np.ndarray, np.ndarray] | str]
"""By file: its frames and pictures, or an error."""


@pytest.fixture(scope="module", params=["motion", "uniform"])
def hard(request: pytest.FixtureRequest, folder: Path, report: Report) -> Shown:
    """The hard files on route="auto": all in one batch, or where that fails one by one."""
    sampler = {"motion": MotionGuided(num_segments=8), "uniform": Uniform(num_segments=8)}[request.param]
    clips = read_annotations(list_of(folder, "hard"), root=folder, num_classes=4)
    # Both of 340x256 and 352x256 several times, one after the other.
    sizes = [row for row, path in enumerate(clips.paths) if path.endswith("x256.mp4")]
    clips = rows_of(clips, [*range(len(clips)), *sizes, *sizes])
    title, found, left = f"hard files, {request.param}", Shown(), Counter[str]()
    with auto_takes_gpu_routes(DEVICE):
        try:
            left += load_into(found, clips, sampler)
        except ValueError as error:
            report[f"{title}: all in one batch"] = str(error).replace(str(folder), "")[-600:]
            for row, path in enumerate(clips.paths):
                try:
                    left += load_into(found, rows_of(clips, [row]), sampler)
                except ValueError as reason:
                    found[path] = str(reason)
    report[f"{title}: left to the host"] = dict(left)
    report[title] = {
        kind_of(path): what
        if isinstance(what, str)
        else {"frames": what[0].tolist(), "shown": numbers_shown(what[1]), "colours off by": colours_off(what[1])}
        for path, what in found.items()
    }
    return found


def load_into(found: Shown, clips: Clips, sampler: Any) -> Counter[str]:
    with open_loader(clips, route="auto", sampler=sampler) as loader:
        batches = list(loader)
        frames, pictures = joined(batches, "frames").numpy(), grey_levels(joined(batches, "clips"))
        for path, *parts in zip(clips.paths, frames, pictures, strict=True):
            before = found.get(path, ())
            assert not isinstance(before, str)
            found[path] = (np.concatenate([*before[:1], parts[0]]), np.concatenate([*before[1:], parts[1]]))
        return loader.decoded_on_host


def rows_of(clips: Clips, rows: list[int]) -> Clips:
    """A table of some of the clips."""
    columns = {name: getattr(clips, name)[rows] for name in ("first_frames", "num_frames", "labels", "list_lines")}
    return replace(clips, paths=[clips.paths[row] for row in rows], **columns)


MOST_OFF = 8
"""Grey levels by which a strong colour may be off: encoding takes 4, BT.601 for BT.709 or another range 15 and more."""


def colours_off(clip: np.ndarray) -> float:
    """By how much the worst of the colours in numbered pictures is off, on average over the frames."""
    apart = np.mean([read_colours(picture, shown=SHOWN) for picture in clip], axis=0) - COLOURS
    return round(float(np.abs(apart).max()), 2)


def numbers_shown(clip: np.ndarray) -> list[int]:
    return [read_number(picture, shown=SHOWN) for picture in clip]


@pytest.mark.parametrize("file", HARD)
def test_a_hard_file_shows_the_frames_named(hard: Shown, file: str) -> None:
    # Good files all: to leave one to the CPU is right, to refuse it is not.
    what = hard[file]
    assert not isinstance(what, str), what
    frames, pictures = what
    assert numbers_shown(pictures) == frames.tolist()


@pytest.mark.parametrize("file", HARD)
def test_a_hard_file_shows_the_colours_encoded(hard: Shown, file: str) -> None:
    """Also those that name another matrix, and those whose coded size is another's, whose decoder may be kept."""
    what = hard[file]
    assert not isinstance(what, str), what
    assert colours_off(what[1]) < MOST_OFF


@pytest.mark.parametrize("codec", ["h264", "hevc", "vp9"])
def test_damage_inside_packets_is_an_error_or_is_not_seen(folder: Path, report: Report, codec: str) -> None:
    # In a process of its own: a decoder may crash of it.
    answer = ask(f"loaded {codec}", folder=folder, device=DEVICE, seconds=60 if ON_GPU else 240)
    report[f"damaged {codec}, by the loader"] = answer
    assert "error" not in answer, answer
    (file,) = (name for name in DAMAGED if codec in name)
    for sampler in ("Uniform", "MotionGuided"):
        found = answer[sampler]
        if "refused" in found:
            assert file in found["refused"]
        elif codec != "vp9":  # of which FFmpeg's decoder notices nothing, however strict: what comes out is reported
            assert found["shown"] == found["frames"]
            assert found["unlike the source"] == []


# --- where and how batches come -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_batches_are_on_the_device_in_the_precision_asked_for(table: Callable[..., Clips], dtype: torch.dtype) -> None:
    batch = load(table("numbered"), dtype=dtype, batch_size=3)[0]
    expected = torch.device("cuda", torch.cuda.current_device()) if ON_GPU else torch.device("cpu")
    assert batch.clips.device == batch.labels.device == batch.valid.device == expected
    assert batch.clips.dtype == dtype
    assert batch.clips.shape == (3, 8, 3, SIDE, SIDE)
    assert batch.clips.is_contiguous()
    assert batch.frames.device == batch.samples.device == torch.device("cpu")
    assert torch.isfinite(batch.clips).all()
    # What happens to a batch in training works on it.
    assert torch.nn.functional.avg_pool2d(batch.clips.flatten(0, 1), SIDE).shape == (24, 3, 1, 1)


def test_the_route_is_reported(table: Callable[..., Clips]) -> None:
    clips = table("numbered")
    loaders = [open_loader(clips, route="auto", sampler=sampler) for sampler in (MotionGuided(8), Uniform(8))]
    assert [loader.route for loader in loaders] == (["gpu", "gpu-sparse"] if ON_GPU else ["host", "host-sparse"])
    if ON_GPU:
        assert torch.cuda.get_device_name() in loaders[0].route_reason


# --- what the GPU does not take -------------------------------------------------------------------------------------


def without(clips: Clips, kind: str) -> Clips:
    """A table less the clips of one kind."""
    return rows_of(clips, [row for row, path in enumerate(clips.paths) if kind_of(path) != kind])


@pytest.mark.usefixtures("auto")
def test_a_batch_mixes_gpu_and_host(table: Callable[..., Clips], refuse: Callable[[Scan], str], report: Report) -> None:
    clips = without(table("numbered", "rare"), "hevc-10bit")
    refused = {row: why for row in range(len(clips)) if (why := refuse(scan(clips.file(row))))}
    assert refused
    options: dict[str, Any] = {"sampler": MotionGuided(num_segments=8), "batch_size": len(clips)}
    with open_loader(clips, route="auto", **options) as loader:
        assert loader.route == "gpu"
        (batch,) = loader
        assert loader.decoded_on_host == Counter(refused.values())
    report["left to the host"] = {kind_of(clips.paths[row]): why for row, why in refused.items()}
    host = load(clips, route="host", device="cpu", **options)[0]
    rows = list(refused)
    assert torch.equal(batch.frames[rows], host.frames[rows])
    # Decoded by the same code; resized on the GPU or on the CPU.
    assert np.abs(grey_levels(batch.clips[rows]) - grey_levels(host.clips[rows])).mean() < 1
    shown = [[read_number(picture, shown=SHOWN) for picture in clip] for clip in grey_levels(batch.clips)]
    assert shown == batch.frames.tolist()


@pytest.mark.usefixtures("auto")
def test_ten_bits_of_hevc_are_decoded_somewhere(
    table: Callable[..., Clips], tmp_path: Path, folder: Path, report: Report
) -> None:
    # NVDEC takes it and DALI gives 8 bits of it, or neither does: in both cases these frames are right.
    (path,) = (path for path in table("rare").paths if kind_of(path) == "hevc-10bit")
    list_file = tmp_path / "list.txt"
    list_file.write_text(f"{path} 0\n")
    clips = read_annotations(list_file, root=folder, num_classes=4)
    with open_loader(clips, route="auto", sampler=MotionGuided(num_segments=8)) as loader:
        (batch,) = loader
        report["10-bit HEVC"] = f"left to the host: {dict(loader.decoded_on_host)}"
    shown = [read_number(picture, shown=SHOWN) for picture in grey_levels(batch.clips)[0]]
    assert shown == batch.frames[0].tolist()


def test_a_route_asked_for_by_name_names_the_first_refused(
    table: Callable[..., Clips], refuse: Callable[[Scan], str]
) -> None:
    clips = table("numbered", "rare")
    first = next(row for row in range(len(clips)) if refuse(scan(clips.file(row))))
    with pytest.raises(ValueError, match=rf"{clips.paths[first]} .*line {first + 1}\): .*Use route='auto'"):
        load(clips)


# --- memory ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("auto")
def test_a_limit_of_memory_changes_nothing_but_the_parts(table: Callable[..., Clips]) -> None:
    clips = table("numbered")
    options: dict[str, Any] = {"route": "auto", "sampler": MotionGuided(num_segments=8), "batch_size": len(clips)}
    with open_loader(clips, **options) as loader:
        (whole,) = loader
        assert loader.num_parts == 1
    # Room for two of these videos: 60 frames of 192x192, ten bytes a pixel.
    limit_gib = 2 * 60 * 192 * 192 * 10 / 2**30
    with open_loader(clips, memory_limit_gib=limit_gib, **options) as loader:
        (parted,) = loader
        assert loader.num_parts == len(clips)
        assert loader.decoded_on_host == {}
    assert torch.equal(parted.frames, whole.frames)
    torch.testing.assert_close(parted.clips, whole.clips, rtol=0, atol=1e-3)


@pytest.mark.usefixtures("auto")
def test_a_long_video_is_survived(table: Callable[..., Clips], report: Report) -> None:
    clips = table("long", "numbered")
    long = scan(clips.file(0))
    _, rate, _, _, seconds = SCALES[DEVICE].long_video
    assert long.num_frames == rate * seconds
    # On a GPU the default limit is what is tested; the stand-in video is only 20 seconds long.
    num_bytes = 10 * long.num_frames * long.width * long.height
    limit_gib = None if ON_GPU else 0.75 * num_bytes / 2**30
    with open_loader(clips, route="auto", sampler=MotionGuided(8), batch_size=4, memory_limit_gib=limit_gib) as loader:
        batches = list(loader)
        report["long video"] = {"frames": long.num_frames, "left to the host": dict(loader.decoded_on_host)}
        if not ON_GPU or torch.cuda.mem_get_info()[1] / 4 < num_bytes:
            assert loader.decoded_on_host["decoded whole it is larger than the memory limit"] == 1
    frames, pictures = joined(batches, "frames"), grey_levels(joined(batches, "clips"))
    assert len(frames) == len(clips)
    assert frames[0].max() > long.num_frames // 2
    assert (pictures.reshape(len(clips), 8, -1).max(axis=2) > 100).all()  # nothing black


# --- damaged files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", ["gpu", "gpu-sparse"])
@pytest.mark.parametrize("kind", ["h264-gop12", "vp9"])
def test_a_cut_file_gives_an_error_or_the_frames_that_are_there(
    table: Callable[..., Clips], tmp_path: Path, folder: Path, report: Report, kind: str, route: str
) -> None:
    if kind == "h264-gop12" and not ON_GPU:
        pytest.skip("DALI decodes no H.264 without a GPU")
    (path,) = (path for path in table("truncated").paths if kind in path)
    list_file = tmp_path / "list.txt"
    list_file.write_text(f"{path} 0\n")
    clips = read_annotations(list_file, root=folder, num_classes=4)
    error, batches = "", []
    try:
        batches = load(clips, route=route)
    except ValueError as reason:
        error = str(reason)
    what = error.replace(str(folder), "")[-400:] or f"frames {batches[0].frames[0].tolist()}"
    report[f"cut {kind}, {route}"] = what
    if error:
        assert path in error
    else:
        shown = [read_number(picture, shown=SHOWN) for picture in grey_levels(batches[0].clips)[0]]
        assert shown == batches[0].frames[0].tolist()


# --- frame folders --------------------------------------------------------------------------------------------------


def test_frame_folders_are_those_of_the_cpu(tmp_path: Path) -> None:
    """nvJPEG against libjpeg-turbo: several sizes, colour and grey, frames that come twice, a single frame."""
    lengths = [12, 5, 1, 9]
    lines = []
    for number, num_frames in enumerate(lengths):
        width, height = [(320, 240), (176, 100), (97, 131), (240, 320)][number]
        y, x = np.mgrid[:height, :width]
        (tmp_path / str(number)).mkdir()
        for index in range(num_frames):
            waves = [128 + 90 * np.sin((x + 9 * index) / 23 + c) * np.cos(y / 17 + number) for c in range(3)]
            picture = Image.fromarray(np.stack(waves, axis=-1).astype(np.uint8)).convert("L" if number == 3 else "RGB")
            picture.save(tmp_path / str(number) / f"{index + 1:05}.jpg", quality=92)
        lines.append(f"{number} {num_frames} {number}\n")
    (tmp_path / "list.txt").write_text("".join(lines))
    clips = read_annotations(tmp_path / "list.txt", root=tmp_path, template="{:05}.jpg")
    for training in (True, False):
        options: dict[str, Any] = {"route": "rawframes", "training": training, "sampler": MotionGuided(6)}
        (found,) = load(clips, **options)
        (expected,) = load(clips, **options, device="cpu")
        assert found.clips.device.type == DEVICE
        assert torch.equal(found.frames, expected.frames)
        difference = np.abs(grey_levels(found.clips) - grey_levels(expected.clips))
        assert difference.mean() < 1.5  # neighbouring frames differ by 14
        assert difference.max() < 16
