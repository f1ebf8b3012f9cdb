"""The trial of a list: who takes which videos, and what is made of measured figures. No test here measures."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import clip_table, encode, moving_disc

pytest.importorskip("torch")
pytest.importorskip("nvidia.dali")

from mgs_dali.lists.table import Clips
from mgs_dali.load import loader as loader_module
from mgs_dali.load import trial as trial_module
from mgs_dali.load.trial import Rate, Refused, Trial, try_clips

VP9 = {"deadline": "realtime", "cpu-used": "8", "crf": "20"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four VP9 videos, one of H.264, and two files that are none."""
    root = tmp_path_factory.mktemp("trial")
    for index in range(4):
        frames = moving_disc(12 + index, width=64, height=48, action=(2, 9), seed=index)
        encode(root / f"{index}.webm", frames, "libvpx-vp9", options=VP9)
    frames = moving_disc(12, width=64, height=48, action=(2, 9))
    encode(root / "h264.mp4", frames, "libx264", options={"preset": "veryfast"})
    (root / "text.mp4").write_text("no video")
    return root


@pytest.fixture
def vp9(folder: Path) -> Clips:
    return clip_table(folder, [f"{index}.webm" for index in range(4)])


def figures(
    rates: Mapping[tuple[str, int], float], asked: list[tuple[str, int, float]] | None = None
) -> Callable[[str, int, float], float]:
    """A measurement that knows its results, by route and workers."""

    def measure(route: str, num_workers: int, seconds: float) -> float:
        if asked is not None:
            asked.append((route, num_workers, seconds))
        return rates[route, num_workers]

    return measure


ALL = {
    ("gpu", 8): 50.0,
    ("host", 8): 100.0,
    ("gpu-sparse", 8): 400.0,
    ("host-sparse", 8): 150.0,
}


def text_of(trial: Trial) -> str:
    lines = trial.lines()
    assert all(len(line) <= 100 for line in lines)
    return "\n".join(lines)


# --- what is made of figures ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("half", "num_workers"), [(94.9, 8), (95.0, 4), (120.0, 4)])
def test_the_fastest_with_as_few_workers_as_do(vp9: Clips, half: float, num_workers: int) -> None:
    asked: list[tuple[str, int, float]] = []
    measure = figures(ALL | {("host", 4): half, ("gpu-sparse", 4): 399.0}, asked)
    found = try_clips(vp9, device="cpu", num_workers=8, seconds=6, measure=measure)
    guided, uniform = found.comparisons
    assert (guided.sampler, guided.fastest, guided.num_workers) == ("motion-guided", "host", num_workers)
    assert (uniform.sampler, uniform.fastest, uniform.num_workers) == ("uniform", "gpu-sparse", 4)
    # What the two do is not the same: 400 uniform clips do not make a route the fastest for motion-guided ones.
    assert (found.fastest, found.loader_route, found.num_workers) == ("host", "host", num_workers)
    assert asked == [
        ("host", 8, 1.0),
        ("gpu", 8, 1.0),
        ("host", 4, 1.0),
        ("host-sparse", 8, 1.0),
        ("gpu-sparse", 8, 1.0),
        ("gpu-sparse", 4, 1.0),
    ]
    assert guided.routes[0].rates == (Rate(8, 100.0), Rate(4, half))
    assert guided.clips_per_second == (half if num_workers == 4 else 100.0)


def test_text(vp9: Clips) -> None:
    measure = figures(ALL | {("host", 4): 60, ("gpu-sparse", 4): 399.0})
    found = try_clips(vp9, device="cpu", num_workers=8, measure=measure)
    text = text_of(found)
    assert f"4 of 4 videos of {vp9.list_file} looked at." in " ".join(text.split())
    assert "Motion-guided frames, measured on 4 videos:\n" in text
    assert "  host         takes 4 of 4     100.0 clips/s with 8 workers, 60.0 with 4  <- fastest\n" in text
    assert "  gpu          takes 4 of 4     50.0 clips/s with 8 workers\n" in text
    assert "Fastest here: ClipLoader(..., route='host', device='cpu', num_workers=8)" in text
    # 399 / 100
    assert "Route gpu-sparse, which decodes chosen frames only, was 4.0 times as fast for uniform frames." in text
    slow = text_of(try_clips(vp9, device="cpu", num_workers=1, measure=lambda *_: 10.0))
    assert "times as fast" not in slow
    assert "with 1 worker" in slow
    assert "with 1 workers" not in slow


def test_one_worker_has_no_half(vp9: Clips) -> None:
    asked: list[tuple[str, int, float]] = []
    measure = figures({(route, 1): rate for (route, _), rate in ALL.items()}, asked)
    found = try_clips(vp9, device="cpu", num_workers=1, seconds=8, measure=measure)
    assert [seconds for _, _, seconds in asked] == [2.0] * 4
    assert found.num_workers == 1


def test_json(vp9: Clips) -> None:
    found = try_clips(vp9, device="cpu", num_workers=1, measure=lambda *_: 10.0)
    content = found.to_json()
    assert json.loads(json.dumps(content)) == content
    assert (content["kind"], content["num_listed"], content["num_sampled"]) == ("videos", 4, 4)
    (host, gpu), _ = (comparison["routes"] for comparison in content["comparisons"])
    assert host == {
        "route": "host",
        "num_taken": 4,
        "refused": [],
        "rates": [{"num_workers": 1, "clips_per_second": 10.0}],
        "error": "",
    }
    assert gpu["route"] == "gpu"


def test_a_route_that_cannot_be_measured(vp9: Clips) -> None:
    def measure(route: str, num_workers: int, seconds: float) -> float:
        if route == "host":
            raise RuntimeError("worker processes ended")
        if route.endswith("sparse"):
            raise ValueError("no room in /dev/shm")
        return 10.0 * num_workers * seconds

    found = try_clips(vp9, device="cpu", num_workers=2, measure=measure)
    guided, uniform = found.comparisons
    assert guided.fastest == found.fastest == "gpu"
    assert (guided.routes[0].rates, guided.routes[0].error) == ((), "worker processes ended")
    assert (uniform.fastest, [route.error for route in uniform.routes]) == ("", ["no room in /dev/shm"] * 2)
    assert "  host: worker processes ended\n" in text_of(found)


def test_no_route_can_be_measured(vp9: Clips) -> None:
    def measure(*_: object) -> float:
        raise RuntimeError("no")

    found = try_clips(vp9, device="cpu", num_workers=2, measure=measure)
    assert (found.fastest, found.loader_route, found.num_workers) == ("", "", 0)
    assert text_of(found).endswith("No route could be measured.")


def test_ctrl_c_is_not_taken_for_a_result(vp9: Clips) -> None:
    def measure(*_: object) -> float:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        try_clips(vp9, device="cpu", num_workers=2, measure=measure)


# --- who takes what ---------------------------------------------------------------------------------------------------


def test_what_is_refused_and_what_cannot_be_read(folder: Path) -> None:
    paths = ["0.webm", "h264.mp4", "text.mp4", "1.webm", "missing.webm", "h264.mp4"]
    asked: list[tuple[str, int, float]] = []
    measure = figures({("host", 1): 10.0, ("host-sparse", 1): 20.0}, asked)
    found = try_clips(clip_table(folder, paths), device="cpu", num_workers=1, measure=measure)
    assert set(found.unreadable) == {"text.mp4", "missing.webm"}
    assert "list.txt, line 5" in found.unreadable["missing.webm"]
    for comparison in found.comparisons:
        host, gpu = comparison.routes
        assert (host.num_taken, gpu.num_taken, host.refused) == (4, 2, ())
        assert gpu.refused == (
            Refused("codec h264 is not decoded without a GPU (decoded: mjpeg, vp8, vp9)", 2, "h264.mp4"),
        )
        # On the CPU it would raise for the others: it is no choice for this list.
        assert gpu.rates == ()
        assert comparison.num_compared == 4
    assert [route for route, _, _ in asked] == ["host", "host-sparse"]
    text = text_of(found)
    assert "2 of them cannot be read:" in " ".join(text.split())
    assert re.search(r"  gpu +takes 2 of 4 +not measured\n    2 not: codec h264 is not decoded", text)


def test_routes_of_a_gpu_leave_some_to_the_cpu(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the decision is on a GPU, without one: the device's name is all that differs."""
    monkeypatch.setattr(trial_module, "_is_worth", lambda answer, count, **_: 2 * len(answer.taken) >= count)
    monkeypatch.setattr(trial_module, "_loader_route", lambda route, **_: "auto" if route.startswith("gpu") else route)
    measure = figures({(route, 1): rate for (route, _), rate in (ALL | {("gpu", 8): 500.0}).items()})
    found = try_clips(
        clip_table(folder, ["0.webm", "h264.mp4", "1.webm"]), device="cpu", num_workers=1, measure=measure
    )
    assert (found.fastest, found.loader_route) == ("gpu", "auto")
    assert found.comparisons[0].num_compared == 2  # like with like: those that both take


@pytest.mark.parametrize(
    ("num_taken", "num_readable", "device_type", "worth"),
    [(4, 4, "cpu", True), (3, 4, "cpu", False), (3, 4, "cuda", True), (1, 4, "cuda", False), (0, 0, "cuda", False)],
)
def test_routes_that_are_worth_measuring(num_taken: int, num_readable: int, device_type: str, worth: bool) -> None:
    answer = trial_module._Answer(list(range(num_taken)))
    assert trial_module._is_worth(answer, num_readable, device_type=device_type) == worth
    assert not trial_module._is_worth(replace(answer, error="no"), num_readable, device_type=device_type)


def test_names_of_routes_for_a_loader() -> None:
    names = [
        trial_module._loader_route(route, device_type=device_type)
        for device_type in ("cpu", "cuda")
        for route in ("gpu", "gpu-sparse", "host", "host-sparse")
    ]
    assert names == ["gpu", "gpu-sparse", "host", "host-sparse", "auto", "auto", "host", "host-sparse"]


def test_a_route_that_is_not_usable_here(vp9: Clips, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    measure = figures({("host", 1): 10.0, ("host-sparse", 1): 20.0})
    found = try_clips(vp9, num_workers=1, measure=measure)  # device="auto"
    assert found.device == "cpu"
    gpu = found.comparisons[0].routes[1]
    assert "needs a CUDA device" in gpu.error
    assert (gpu.num_taken, gpu.rates) == (0, ())
    assert "  gpu: route 'gpu' needs a CUDA device" in text_of(found)


def test_long_lists_are_sampled_evenly(folder: Path) -> None:
    clips = clip_table(folder, [f"missing{index}.mp4" for index in range(640)] + ["0.webm"])
    found = try_clips(clips, device="cpu", num_workers=1, measure=lambda *_: 10.0)
    assert (found.num_listed, found.num_sampled, len(found.unreadable)) == (641, 64, 63)
    steps = np.diff([int(re.findall(r"\d+", path)[0]) for path in found.unreadable])
    assert set(steps.tolist()) == {10, 11}
    assert "  and 58 more\n" in text_of(found)


def test_not_one_can_be_read(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"text\.mp4 .*cannot be opened as a video"):
        try_clips(clip_table(folder, ["text.mp4", "missing.mp4"]), device="cpu", measure=lambda *_: 10.0)
    with pytest.raises(ValueError, match="no clips"):
        try_clips(clip_table(folder, []), device="cpu", measure=lambda *_: 10.0)


@pytest.mark.parametrize("options", [{"seconds": 0}, {"num_workers": 0}, {"batch_size": 0}, {"device": "tpu"}], ids=str)
def test_arguments_that_are_not_allowed(vp9: Clips, options: dict[str, object]) -> None:
    (name,) = options
    with pytest.raises(ValueError, match=name):
        try_clips(vp9, **({"device": "cpu", "measure": lambda *_: 10.0} | options))  # type: ignore[arg-type]


def test_frame_folders(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number, frame in enumerate(moving_disc(5, width=64, height=48, action=(1, 3)), start=1):
            encode(tmp_path / name / f"{number:05}.jpg", [frame], "mjpeg", pixel_format="yuvj420p")
    (tmp_path / "empty").mkdir()
    clips = clip_table(tmp_path, ["a", "b", "empty"], template="{:05}.jpg")
    asked: list[tuple[str, int, float]] = []
    found = try_clips(
        clips, device="cpu", num_workers=2, measure=figures({("rawframes", 2): 30.0, ("rawframes", 1): 10.0}, asked)
    )
    assert asked == [("rawframes", 2, 5.0), ("rawframes", 1, 5.0)]
    assert (found.kind, found.fastest, found.loader_route, found.num_workers) == (
        "frame folders", "rawframes", "rawframes", 2,
    )  # fmt: skip
    assert set(found.unreadable) == {"empty"}
    assert "Motion-guided frames, measured on 2 frame folders:\n" in text_of(found)


# --- with loaders -----------------------------------------------------------------------------------------------------


def ticking() -> Callable[[], float]:
    """A clock that is a second on each time it is looked at."""
    return map(float, itertools.count()).__next__


def test_real_loaders(vp9: Clips) -> None:
    found = try_clips(vp9, seconds=0.1, batch_size=2, device="cpu", num_workers=2)
    assert found.unreadable == {}
    for comparison, names in zip(found.comparisons, (["host", "gpu"], ["host-sparse", "gpu-sparse"]), strict=True):
        assert [route.route for route in comparison.routes] == names
        assert [(route.num_taken, route.error) for route in comparison.routes] == [(4, "")] * 2
        assert comparison.fastest in names
        for route in comparison.routes:
            counts = [2, 1] if route.route == comparison.fastest else [2]
            assert [rate.num_workers for rate in route.rates] == counts
            assert all(rate.clips_per_second > 0 for rate in route.rates)
        assert comparison.num_workers in (1, 2)
    assert found.fastest in ("host", "gpu")
    assert not multiprocessing.active_children()
    text_of(found)


def test_clips_are_counted_after_the_warm_up(vp9: Clips) -> None:
    loaders = trial_module._Loaders(vp9, {"host": [0, 1, 2]}, batch_size=2, device="cpu", clock_s=ticking())
    # It ends at the fifth look after the one that began it, which took a batch each; the sixth gives the time.
    assert loaders("host", 1, 5.0) == 5 * 2 / 6


def test_a_damaged_video_is_left_out(folder: Path, tmp_path: Path) -> None:
    content = bytearray((folder / "0.webm").read_bytes())
    with av.open(str(folder / "0.webm")) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    # The content of a picture in the middle of the file, not what describes it.
    place = content.index(bytes(packets[6]))
    content[place + 1 : place + packets[6].size] = b"\xff" * (packets[6].size - 1)
    (tmp_path / "damaged.webm").write_bytes(content)
    for index in range(2):
        (tmp_path / f"{index}.webm").write_bytes((folder / f"{index}.webm").read_bytes())
    clips = clip_table(tmp_path, ["0.webm", "damaged.webm", "1.webm"])
    loaders = trial_module._Loaders(
        clips, {"host": [0, 1, 2], "gpu": [0, 1, 2]}, batch_size=2, device="cpu", clock_s=ticking()
    )
    assert loaders("host", 1, 2.0) > 0
    assert list(loaders.errors) == [1]
    assert "damaged.webm (" in loaders.errors[1]
    assert loaders("gpu", 1, 2.0) > 0  # which would have ended with it
    assert not multiprocessing.active_children()
    with pytest.raises(ValueError, match=r"damaged\.webm"):
        trial_module._Loaders(clips, {"host": [1]}, batch_size=2, device="cpu", clock_s=ticking())("host", 1, 2.0)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, ZeroDivisionError])
def test_nothing_leaves_worker_processes(vp9: Clips, error: type[BaseException]) -> None:
    looks = itertools.count()

    def clock_s() -> float:
        if next(looks) == 2:  # workers are busy
            assert multiprocessing.active_children()
            raise error
        return 0.0

    loaders = trial_module._Loaders(vp9, {"host": [0, 1]}, batch_size=2, device="cpu", clock_s=clock_s)
    with pytest.raises(error):
        loaders("host", 2, 5.0)
    assert not multiprocessing.active_children()


def test_the_default_number_of_workers(vp9: Clips, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader_module, "default_num_workers", lambda: 6)
    asked: list[int] = []

    def measure(_route: str, num_workers: int, _seconds: float) -> float:
        asked.append(num_workers)
        return 10.0

    try_clips(vp9, device="cpu", measure=measure)
    assert asked == [6, 6, 3] * 2
