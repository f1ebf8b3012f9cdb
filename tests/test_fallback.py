"""What the routes of the GPU do with videos that they cannot take: left to the CPU, counted, said. Runs on the CPU,
where DALI takes VP8, VP9 and MJPEG only."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import clip_table, encode, moving_disc
from hypothesis import given
from hypothesis import strategies as st

from mgs_dali.decode.packets import Scan
from mgs_dali.lists.table import Clips
from mgs_dali.load import loader as loader_module
from mgs_dali.load import nvdec, routes
from mgs_dali.load.loader import ClipLoader
from mgs_dali.load.nvdec import Limits
from mgs_dali.load.plan import Plan
from mgs_dali.load.routes import InGraph, choose_route, num_parts_for
from mgs_dali.load.sources import graph_bytes, part_of
from mgs_dali.sampling import MotionGuided, Uniform

SIZE = 32
H264 = "codec h264 is not decoded without a GPU (decoded: mjpeg, vp8, vp9)"
MPEG4 = "codec mpeg4 is not decoded without a GPU (decoded: mjpeg, vp8, vp9)"
TOO_LARGE = "decoded whole it is larger than the memory limit"
BATCH_TOO_LARGE = "with the rest of its batch it is larger than the memory limit"

# (codec, suffix, pixel format, frames, width, height); the shortest has fewer frames than segments.
VIDEOS = [
    ("libvpx-vp9", "webm", "yuv420p", 30, 64, 48),
    ("libx264", "mp4", "yuv420p", 25, 48, 64),
    ("libvpx", "webm", "yuv420p", 22, 64, 48),
    ("mjpeg", "avi", "yuvj420p", 3, 80, 48),
    ("mpeg4", "avi", "yuv420p", 20, 64, 48),
    ("libvpx-vp9", "webm", "yuv420p", 40, 96, 64),
    ("libx264", "mp4", "yuv420p", 1, 64, 48),
]
QUALITY = {
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "crf": "20"},
    "libvpx": {"deadline": "realtime", "cpu-used": "8", "crf": "10", "b": "1M"},
    "libx264": {"preset": "veryfast", "crf": "18"},
}
# Decoded for the graph: 10 bytes a pixel of each frame.
LARGEST_BYTES, LARGEST = 10 * 40 * 96 * 64, 5


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Clips:
    """Seven videos of five codecs, in list.txt from line 1 on."""
    root = tmp_path_factory.mktemp("mixed")
    paths = []
    for index, (codec, suffix, pixel_format, num_frames, width, height) in enumerate(VIDEOS):
        frames = moving_disc(num_frames, width=width, height=height, action=(4, 15), seed=index, noise=3)
        paths.append(f"{index}.{suffix}")
        encode(root / paths[-1], frames, codec, pixel_format=pixel_format, options=QUALITY.get(codec))
    return clip_table(root, paths, labels=[index % 3 for index in range(len(paths))], num_classes=3)


@dataclass
class Epoch:
    """All of an epoch, batches joined."""

    clips: torch.Tensor
    frames: torch.Tensor
    samples: torch.Tensor
    labels: torch.Tensor
    valid: torch.Tensor
    decoded_on_host: Counter[str]


def load(clips: Clips, **options: Any) -> Epoch:
    settings: dict[str, Any] = {
        "sampler": MotionGuided(num_segments=4),
        "batch_size": 4,
        "training": True,
        "size": SIZE,
        "seed": 3,
        "device": "cpu",
        "num_workers": 1,
        "flip_probability": 0.5,
    }
    with ClipLoader(clips, **(settings | options)) as loader:
        batches = list(loader)
        columns = {
            name: torch.cat([getattr(batch, name) for batch in batches])
            for name in ("clips", "frames", "samples", "labels", "valid")
        }
        return Epoch(**columns, decoded_on_host=loader.decoded_on_host)


def not_strict(monkeypatch: pytest.MonkeyPatch, refusal: Callable[[Scan], str], *, route: str = "gpu") -> None:
    """Let route="auto" find a route of the GPU, with a decoder that refuses what ``refusal`` does; graphs run on the
    CPU."""
    taken = InGraph(sparse=route == "gpu-sparse", decoder=refusal)
    monkeypatch.setattr(loader_module, "choose_route", lambda *_: (taken, "a stand-in"))


def assert_same_clips(found: Epoch, expected: Epoch) -> None:
    assert torch.equal(found.samples, expected.samples)
    assert torch.equal(found.valid, expected.valid)
    assert torch.equal(found.labels, expected.labels)
    assert torch.equal(found.frames, expected.frames)
    # Cropped before or in the graph, DALI resizes with the last bits apart: far below half a grey level, which is
    # 0.5 / 255 / 0.229 = 0.0086 after normalising.
    torch.testing.assert_close(found.clips, expected.clips, rtol=0, atol=1e-3)


# --- codecs ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def on_host(mixed: Clips) -> Epoch:
    """What route="host" gives: the clips that every mixture of decoders must give."""
    return load(mixed, route="host")


def test_a_batch_mixes_what_the_graph_and_the_cpu_decode(
    mixed: Clips, on_host: Epoch, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    not_strict(monkeypatch, nvdec.refusal_without_gpu)
    with caplog.at_level(logging.INFO, logger="mgs_dali"):
        epoch = load(mixed)
    assert_same_clips(epoch, on_host)
    # 7 videos in batches of 4: the epoch's first sample is loaded a second time to fill the last batch.
    times = Counter(epoch.samples.tolist())
    counts = {H264: times[1] + times[6], MPEG4: times[4]}
    assert epoch.decoded_on_host == counts
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert sorted(warnings) == sorted(
        f"epoch 0: {count} clips were decoded on the CPU: {reason}" for reason, count in counts.items()
    )


def refuse_vp8(found: Scan) -> str:
    return "no VP8 today" if found.codec == "vp8" else nvdec.refusal_without_gpu(found)


def test_a_codec_marked_as_not_taken_goes_to_the_cpu(
    mixed: Clips, on_host: Epoch, monkeypatch: pytest.MonkeyPatch
) -> None:
    not_strict(monkeypatch, refuse_vp8)
    epoch = load(mixed)
    assert_same_clips(epoch, on_host)
    assert epoch.decoded_on_host["no VP8 today"] == Counter(epoch.samples.tolist())[2] > 0


def refuse_all(found: Scan) -> str:
    return f"nothing is taken, not even {found.width} pixels"


def test_a_batch_may_come_from_the_cpu_altogether(
    mixed: Clips, on_host: Epoch, monkeypatch: pytest.MonkeyPatch
) -> None:
    not_strict(monkeypatch, refuse_all)
    epoch = load(mixed)
    assert_same_clips(epoch, on_host)
    assert torch.equal(epoch.clips, on_host.clips)  # the same work, to the last bit
    assert sum(epoch.decoded_on_host.values()) == 8


def test_an_epoch_s_summary_counts_that_epoch_only(
    mixed: Clips, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    not_strict(monkeypatch, nvdec.refusal_without_gpu)
    clips = mixed.only([1, 2])
    with ClipLoader(
        clips,
        sampler=MotionGuided(num_segments=2),
        batch_size=2,
        training=False,
        size=SIZE,
        device="cpu",
        num_workers=1,
    ) as loader:
        for _ in range(3):
            list(loader)
        assert loader.decoded_on_host == {H264: 3}
    summaries = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert summaries == [f"epoch {epoch}: 1 clips were decoded on the CPU: {H264}" for epoch in range(3)]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        # In list order both H.264 and MPEG-4 come; the error is of the first.
        ((0, 1, 2, 4), r"1\.mp4 \(.*list\.txt, line 2\): codec h264 is not decoded .* \(25 frames of 48x64\)"),
        ((0, 2, 4, 1), r"4\.avi \(.*list\.txt, line 5\): codec mpeg4 is not decoded without a GPU"),
    ],
)
def test_a_route_asked_for_by_name_is_strict(mixed: Clips, rows: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        load(mixed.only(rows), route="gpu", training=False)
    assert "Use route='auto'" in str(caught.value)


def test_a_strict_route_takes_what_it_can(mixed: Clips) -> None:
    taken = mixed.only([0, 2, 3, 5])
    epoch = load(taken, route="gpu", training=False)
    assert_same_clips(epoch, load(taken, route="host", training=False))
    assert epoch.decoded_on_host == {}


# --- memory ---------------------------------------------------------------------------------------------------------


def test_a_batch_is_decoded_in_parts_to_stay_below_the_limit(
    mixed: Clips, on_host: Epoch, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    not_strict(monkeypatch, nvdec.refusal_without_gpu)
    with caplog.at_level(logging.INFO, logger="mgs_dali"):
        # Twice what the largest video takes: four of them do not fit at once.
        epoch = load(mixed, memory_limit_gib=2 * LARGEST_BYTES / 2**30)
    assert_same_clips(epoch, on_host)
    assert any(
        re.fullmatch(r"decoding each batch in [234] parts, to stay below 0\.0 GiB", record.getMessage())
        for record in caplog.records
    )
    assert TOO_LARGE not in epoch.decoded_on_host


def test_a_video_that_never_fits_goes_to_the_cpu(
    mixed: Clips, on_host: Epoch, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    not_strict(monkeypatch, nvdec.refusal_without_gpu)
    epoch = load(mixed, memory_limit_gib=(LARGEST_BYTES - 1) / 2**30)
    assert_same_clips(epoch, on_host)
    count = Counter(epoch.samples.tolist())[LARGEST]
    assert epoch.decoded_on_host[TOO_LARGE] == count > 0
    assert f"epoch 0: {count} clips were decoded on the CPU: {TOO_LARGE}" in caplog.messages


def test_a_video_that_does_not_fit_beside_the_others_goes_to_the_cpu(
    mixed: Clips, monkeypatch: pytest.MonkeyPatch
) -> None:
    not_strict(monkeypatch, nvdec.refusal_without_gpu)
    # Twice the largest video in one part, against a limit of once and a half: the second is left over. (The number of
    # parts is a guess from the average; this is what catches it where the guess is too low.)
    monkeypatch.setattr(routes, "num_parts_for", lambda *_, **__: 1)
    clips = mixed.only([LARGEST, LARGEST])
    limit_gib = 1.5 * LARGEST_BYTES / 2**30
    epoch = load(clips, training=False, batch_size=2, memory_limit_gib=limit_gib)
    assert epoch.decoded_on_host == {BATCH_TOO_LARGE: 1}
    assert_same_clips(epoch, load(clips, training=False, batch_size=2, route="host"))


def test_a_strict_route_names_the_video_that_does_not_fit(mixed: Clips) -> None:
    with pytest.raises(ValueError, match=rf"5\.webm \(.*list\.txt, line 6\): {TOO_LARGE} \(40 frames of 96x64\)"):
        load(mixed.only([0, LARGEST]), route="gpu", training=False, memory_limit_gib=(LARGEST_BYTES - 1) / 2**30)


@pytest.mark.parametrize("limit_gib", [0, -1.5])
def test_the_limit_must_be_positive(mixed: Clips, limit_gib: float) -> None:
    with pytest.raises(ValueError, match=re.escape(f"memory_limit_gib ({limit_gib}) must be above 0")):
        load(mixed, memory_limit_gib=limit_gib)


@given(num_samples=st.integers(1, 70), num_parts=st.integers(1, 70))
def test_parts_are_the_batch_in_order_and_nearly_equal(num_samples: int, num_parts: int) -> None:
    num_parts = min(num_parts, num_samples)
    batch = np.arange(num_samples) * 3
    parts = [part_of(batch, part=part, num_parts=num_parts) for part in range(num_parts)]
    assert np.concatenate(parts).tolist() == batch.tolist()
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == -(-num_samples // num_parts)  # what the pipeline's batch size must be


def test_graph_bytes_by_hand() -> None:
    # A 300-frame video of 340x256 takes 78 MB as RGB; the graph holds ten bytes a pixel, not three.
    found = Scan("h264", 340, 256, "yuv420p", num_frames=300, num_packets=300)
    assert graph_bytes(found, num_frames=300) == 261_120_000
    assert graph_bytes(found, num_frames=8) == 6_963_200


def plan_of(clips: Clips, *, batch_size: int) -> Plan:
    return Plan(clips, MotionGuided(), batch_size, training=False, size=SIZE)


def test_num_parts_by_hand(mixed: Clips) -> None:
    one = mixed.only([LARGEST] * 3)  # three times the same video, of LARGEST_BYTES
    assert num_parts_for(plan_of(one, batch_size=8), limit_bytes=2**40) == 1
    # Half of the limit is for a part: eight videos against room for two and for four.
    assert num_parts_for(plan_of(one, batch_size=8), limit_bytes=4 * LARGEST_BYTES) == 4
    assert num_parts_for(plan_of(one, batch_size=8), limit_bytes=8 * LARGEST_BYTES) == 2
    # Never more parts than samples, and a video beyond the limit counts as the limit: it is not decoded by the graph.
    assert num_parts_for(plan_of(one, batch_size=8), limit_bytes=1000) == 8
    assert num_parts_for(plan_of(one, batch_size=1), limit_bytes=1000) == 1


def test_num_parts_leaves_unreadable_files_out(mixed: Clips, tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    (tmp_path / "good.webm").write_bytes(mixed.file(LARGEST).read_bytes())
    both = clip_table(tmp_path, ["broken.mp4", "good.webm"])
    assert num_parts_for(plan_of(both, batch_size=8), limit_bytes=4 * LARGEST_BYTES) == 4
    assert num_parts_for(plan_of(clip_table(tmp_path, ["broken.mp4"]), batch_size=8), limit_bytes=1) == 1


# --- chosen frames only ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False], ids=["drawn", "centres"])
def test_sparse_gives_the_frames_of_the_host(mixed: Clips, training: bool) -> None:
    # The 3-frame video has frames picked several times; the short and the long share a batch.
    taken = mixed.only([0, 2, 3, 5])
    options: dict[str, Any] = {"sampler": Uniform(num_segments=8), "training": training}
    sparse, host = (load(taken, route=route, **options) for route in ("gpu-sparse", "host"))
    assert_same_clips(sparse, host)
    short = host.frames[host.samples == 2][0].tolist()
    assert max(Counter(short).values()) > 1
    assert sparse.decoded_on_host == {}


def test_sparse_leaves_to_the_cpu_what_it_does_not_take(mixed: Clips, monkeypatch: pytest.MonkeyPatch) -> None:
    host = load(mixed, sampler=Uniform(num_segments=8), route="host")
    not_strict(monkeypatch, nvdec.refusal_without_gpu, route="gpu-sparse")
    sparse = load(mixed, sampler=Uniform(num_segments=8))
    assert_same_clips(sparse, host)
    times = Counter(host.samples.tolist())
    assert sparse.decoded_on_host == {H264: times[1] + times[6], MPEG4: times[4]}


def test_sparse_counts_chosen_frames_only_against_the_limit(mixed: Clips) -> None:
    # Whole, this video is five times the limit; two frames of it are a quarter.
    limit_gib = LARGEST_BYTES / 5 / 2**30
    options: dict[str, Any] = {"sampler": Uniform(num_segments=2), "batch_size": 1}
    sparse = load(mixed.only([LARGEST]), route="gpu-sparse", memory_limit_gib=limit_gib, **options)
    assert sparse.decoded_on_host == {}


def test_sparse_takes_motion_guided_picks_by_packet_sizes(mixed: Clips) -> None:
    taken, sampler = mixed.only([0, 2, 5]), MotionGuided(num_segments=6, measure="packet")
    sparse, host = (load(taken, route=route, sampler=sampler) for route in ("gpu-sparse", "host"))
    assert_same_clips(sparse, host)
    with ClipLoader(taken, sampler=sampler, batch_size=2, training=True, device="cpu") as loader:
        assert loader.route == "host-sparse"


def test_detours_are_counted_and_logged(
    mixed: Clips, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode(tmp_path / "i.mp4", moving_disc(20), "libx264", options={"x264-params": "keyint=20:interlaced=1"})
    clips = clip_table(tmp_path, ["i.mp4", str(mixed.file(0)), "i.mp4"])
    reason = "from the first frame on, because of: interlaced H.264"
    options: dict[str, Any] = {"sampler": Uniform(2), "batch_size": 3, "training": False, "num_workers": 1}
    with (
        caplog.at_level(logging.INFO, logger="mgs_dali"),
        ClipLoader(clips, device="cpu", size=SIZE, **options) as loader,
    ):
        for _ in range(2):
            list(loader)
        assert loader.detours == {reason: 4}
    assert f"epoch 1: 2 clips were decoded {reason}" in caplog.messages
    not_strict(monkeypatch, nvdec.refusal_without_gpu, route="gpu-sparse")
    with ClipLoader(clips, device="cpu", size=SIZE, **options) as loader:
        list(loader)
        assert loader.detours == {reason: 2}


def test_sparse_refuses_motion_guided_picks(mixed: Clips) -> None:
    with pytest.raises(ValueError, match=r"route 'gpu-sparse' .* picks that are known before decoding.*route='gpu'"):
        load(mixed, route="gpu-sparse", sampler=MotionGuided())


# --- workers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", ["auto", "host"])
def test_workers_start_without_forking_where_cuda_is_in_use(
    mixed: Clips, monkeypatch: pytest.MonkeyPatch, route: str
) -> None:
    # Then everything that a worker needs is pickled: the table, the sampler, and what the driver said.
    limits = {("vp9", "4:2:0", 8): Limits(7, 16, 16, 4096, 4096, 65536)}
    clips = mixed.only([0, 2])
    expected = load(clips, route="host", training=False, batch_size=2)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    taken = InGraph(sparse=False, decoder=partial(nvdec.refusal, limits=limits))
    monkeypatch.setattr(
        loader_module,
        "choose_route",
        lambda asked, setting: (taken, "a stand-in") if asked == "auto" else choose_route(asked, setting),
    )
    epoch = load(clips, route=route, training=False, batch_size=2)
    assert_same_clips(epoch, expected)
    assert epoch.decoded_on_host == ({} if route == "host" else {"vp8 4:2:0 8 bit is not decoded here": 1})


# --- precision ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("route", ["gpu", "host"])
def test_clips_come_in_the_precision_asked_for(mixed: Clips, dtype: torch.dtype, route: str) -> None:
    taken = mixed.only([0, 2])
    options: dict[str, Any] = {"route": route, "batch_size": 2, "training": False}
    coarse, fine = load(taken, dtype=dtype, **options), load(taken, **options)
    assert coarse.clips.dtype == dtype
    assert fine.clips.dtype == torch.float32
    # Half a unit in the last place, of the float16 that DALI writes and of the dtype itself.
    error = torch.finfo(torch.float16).eps / 2 + (torch.finfo(dtype).eps / 2 if dtype == torch.bfloat16 else 0)
    torch.testing.assert_close(coarse.clips.float(), fine.clips, rtol=error * 1.01, atol=1e-6)
    assert torch.equal(coarse.frames, fine.frames)


def test_another_precision_is_refused(mixed: Clips) -> None:
    with pytest.raises(ValueError, match=r"dtype \(torch\.float64\) must be one of torch\.float32, torch\.float16"):
        load(mixed, dtype=torch.float64)


# --- without CUDA ---------------------------------------------------------------------------------------------------


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.usefixtures("no_cuda")
@pytest.mark.parametrize("route", ["gpu", "gpu-sparse"])
def test_routes_of_the_gpu_fail_in_one_line_without_cuda(mixed: Clips, route: str) -> None:
    with pytest.raises(ValueError, match=rf"route '{route}' needs a CUDA device.*route='host'") as caught:
        load(mixed, route=route, device="auto", sampler=Uniform())
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("no_cuda")
def test_auto_takes_the_host_without_cuda_and_says_so(mixed: Clips, caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level(logging.INFO, logger="mgs_dali"),
        ClipLoader(mixed, sampler=MotionGuided(), batch_size=2, training=False) as loader,
    ):
        assert loader.route == "host"
        assert loader.device == torch.device("cpu")
    assert "route host: no CUDA device here, videos are decoded by PyAV in worker processes" in caplog.messages


CUDA_FREE = """
import sys
from pathlib import Path

import torch

from mgs_dali import ClipLoader, MotionGuided, read_annotations

if __name__ == "__main__":
    clips = read_annotations(sys.argv[1], root=Path(sys.argv[1]).parent)
    with ClipLoader(clips, sampler=MotionGuided(2), batch_size=1, training=False, route="host", device="cpu") as loader:
        assert len(list(loader)) == 1
    assert not torch.cuda.is_initialized()
    mapped = {line.split("/")[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "/" in line}
    # PyTorch's CUDA builds link cuFFT and others by themselves; these are what decoding on a GPU would open.
    assert not [name for name in mapped if name.startswith(("libnpp", "libnvcuvid", "libcuda.so"))]
"""


@pytest.mark.skipif(Path("/proc/driver/nvidia/version").exists(), reason="is about machines without NVIDIA's driver")
def test_nothing_of_cuda_is_loaded_on_a_machine_without_it(mixed: Clips, tmp_path: Path) -> None:
    script, list_file = tmp_path / "script.py", mixed.root / "one.txt"
    script.write_text(CUDA_FREE)
    list_file.write_text("0.webm 0\n")
    path = os.pathsep.join([str(Path(loader_module.__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    result = subprocess.run(
        [sys.executable, str(script), str(list_file)],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
