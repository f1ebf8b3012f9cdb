"""The facts and measurements that ``run.py`` collects, a function a section. Each runs in a process of its own."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from clip_sets import FOLDER_TEMPLATE, list_of
from machine import PeakMemory, Report, Utilisation, mapped_libraries, spawning
from nvidia.dali import fn, pipeline_def, types
from questions import (
    DAMAGE,
    SMOKE,
    answers_of_driver,
    ask,
    comparison,
    numbers_of,
    pictures_by_dali,
    reason_of,
    stored,
)

from mgs_dali import read_annotations
from mgs_dali.decode.packets import scan
from mgs_dali.graph import decode_video, take_frames
from mgs_dali.lists.table import Clips
from mgs_dali.load import nvdec, pipelines
from mgs_dali.load.loader import ClipBatch, ClipLoader
from mgs_dali.load.sources import EncodedSource
from mgs_dali.sampling import MotionGuided, Uniform
from mgs_dali.views.protocols import Views


@dataclass(frozen=True)
class Setup:
    """Where a section works, and for how long."""

    folder: Path
    device: str
    """"cuda", or "cpu" to try the scripts."""
    deadline: float
    """On the clock of ``time.monotonic``."""

    @property
    def on_gpu(self) -> bool:
        return self.device == "cuda"

    def pick(self, on_gpu: Any, on_cpu: Any) -> Any:
        """A size for measuring, or one for trying the script out."""
        return on_gpu if self.on_gpu else on_cpu

    def clips(self, *names: str) -> Clips:
        return read_annotations(list_of(self.folder, *names), root=self.folder, num_classes=4)

    def files(self, name: str) -> list[Path]:
        clips = self.clips(name)
        return [clips.file(row) for row in range(len(clips))]

    def loader(self, clips: str | Clips, **options: Any) -> ClipLoader:
        """A loader of a set or of a table, to be measured."""
        settings: dict[str, Any] = {
            "sampler": MotionGuided(num_segments=8),
            "batch_size": self.pick(32, 2),
            "training": True,
            "size": self.pick(224, 32),
            "route": "gpu",
            "device": self.device,
            "num_workers": self.pick(None, 1),
            "dtype": torch.bfloat16,
        }
        table = self.clips(clips) if isinstance(clips, str) else clips
        return ClipLoader(table, **(settings | options))

    def answers(self, questions: Iterable[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Answers as they come, of some questions at a time."""
        with ThreadPoolExecutor(self.pick(4, 2)) as pool:
            asked = {
                pool.submit(ask, question, folder=self.folder, device=self.device, seconds=self.pick(25, 120)): question
                for question in questions
            }
            for answer in as_completed(asked):
                yield asked[answer], answer.result()

    def synchronize(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()

    def measure(self, report: Report, name: str, measurement: Callable[[], Any], *, seconds: float) -> None:
        """Take a measurement where there is time for it; an error is kept in its place."""
        if self.deadline - time.monotonic() < self.pick(seconds, 0):
            report[name] = {"skipped": "no time left"}
        else:
            report.attempt(name, measurement)


# --- what the machine and DALI do -----------------------------------------------------------------------------------


def smoke(report: Report, setup: Setup) -> None:
    """In a minute: what the driver takes, whether DALI decodes at all, and where it shows other frames than players do.

    Each question has a process of its own; a few are asked at a time.
    """
    for question, answer in setup.answers(SMOKE):
        report[question] = answer


def facts(report: Report, setup: Setup) -> None:
    """What the driver says that it decodes, what DALI then decodes, and what choosing frames costs."""
    if setup.on_gpu:
        torch.zeros(1, device="cuda")  # makes the context that the driver is asked in
        report.attempt("driver's answers", answers_of_driver)
    refuse = _refusal(setup)
    for file in setup.files("numbered"):
        kind = file.stem.partition("-")[2]
        setup.measure(report, f"codec {kind}", partial(_codec, file, refuse, setup), seconds=5)
    # What the driver takes none of may end more than a pipeline.
    rare = {f"codec {file.stem.partition('-')[2]}": file for file in setup.files("rare")}
    for question, answer in setup.answers(rare):
        report[question] = {"refused by the header": refuse(scan(rare[question]))} | answer
    for file in setup.files("truncated"):
        setup.measure(report, f"cut {file.suffix[1:]}", partial(_truncated, file, setup), seconds=5)
    setup.measure(report, "cost of choosing frames", partial(_cost_of_frames, report, setup), seconds=15)
    for question, answer in setup.answers(DAMAGE):
        report[question] = answer


def _refusal(setup: Setup) -> Callable[[Any], str]:
    if not setup.on_gpu:
        return nvdec.refusal_without_gpu
    limits = nvdec.read_limits()
    return lambda found: nvdec.refusal(found, limits)


def _codec(file: Path, refuse: Callable[[Any], str], setup: Setup) -> dict[str, Any]:
    return {"refused by the header": refuse(scan(file))} | comparison(file, device=setup.device)


def _truncated(file: Path, setup: Setup) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    try:
        facts["frames"] = scan(file).num_frames
    except ValueError as error:
        facts["refused"] = str(error)
    try:
        video = pictures_by_dali(np.fromfile(file, np.uint8), device=setup.device)
    except RuntimeError as error:
        return facts | {"decoded": False, "reason": reason_of(error)}
    # What is missing is black on the CPU, and may be anything on a GPU, which writes nothing there.
    return facts | {"decoded": True, "frames": len(video)} | numbers_of(video)


def _cost_of_frames(report: Report, setup: Setup) -> None:
    """Milliseconds a clip. The clips have a keyframe at frame 0 and one in the second half: a decoder that seeks is
    quick for the latter, one that begins at frame 0 is slower the later the frame."""
    files = [np.fromfile(file, np.uint8) for file in setup.files("kinetics")[: setup.pick(7, 2)]]
    last, key = setup.pick((299, 250), (11, 8))
    title, times = "cost of choosing frames", dict[str, float]()
    report.add(title, frame={"keyframe": key, "last": last})
    for name, frames in (
        ("first", [0]),
        ("before keyframe", [key - 1]),
        ("keyframe", [key]),
        ("last", [last]),
        ("last, twice", [last] * 2),
        ("all", None),
    ):
        pipeline = stored(files, device=setup.device, frames=frames)
        for _ in range(2):  # the pipeline works two batches ahead
            pipeline.run()
        setup.synchronize()
        start = time.perf_counter()
        for _ in range(2):
            pipeline.run()
        setup.synchronize()
        times[name] = round((time.perf_counter() - start) / 2 / len(files) * 1000, 2)
        report.add(title, **{"ms per clip": times})


# --- clips a second -------------------------------------------------------------------------------------------------


@pipeline_def(exec_dynamic=True)
def decode_only(
    source: EncodedSource,
    *,
    sampler: Any,
    size: int,
    device: str,
    dtype: Any,
    prefetch_batches: int,
    num_crops: int,
    rand_augment: Any,
) -> Any:
    """In the place of ``encoded_clips``: the same source and decoder, whole videos, and nothing after it."""
    del sampler, size, dtype, num_crops, rand_augment
    row = pipelines._columns(source, prefetch_batches=prefetch_batches)
    decoder = "mixed" if device == "gpu" else "cpu"
    video = decode_video(row["file"], device=decoder)
    # One pixel a frame, so that nothing but decoding takes time.
    corner = take_frames(video[:1, :1, :1], fn.cast(row["frames"] * 0, dtype=types.INT32))
    return corner, row["frames"], row["flips"], row["measured"], row["note"], row["detour"], row["error"]


class Stream:
    """The batches of a loader, epoch after epoch."""

    def __init__(self, loader: ClipLoader, setup: Setup) -> None:
        self._setup = setup
        self._batches = self._endless(loader)

    @staticmethod
    def _endless(loader: ClipLoader) -> Iterator[ClipBatch]:
        while True:
            yield from loader

    def take(self, num_batches: int) -> list[ClipBatch]:
        return [next(self._batches) for _ in range(num_batches)]

    def rate(self, seconds: float, *, step: Callable[[ClipBatch], None] | None = None) -> dict[str, float]:
        """Clips a second, and the share of the time that was spent waiting for batches."""
        self.take(2)  # what was made while nobody took it
        self._setup.synchronize()
        start, num_clips, waited = time.perf_counter(), 0, 0.0
        while (now := time.perf_counter()) - start < seconds or num_clips == 0:
            batch = next(self._batches)
            waited += time.perf_counter() - now
            num_clips += len(batch)
            if step is not None:
                step(batch)
        self._setup.synchronize()
        total = time.perf_counter() - start
        return {"clips/s": round(num_clips / total, 1), "wait share": round(waited / total, 3)}


def throughput(report: Report, setup: Setup) -> None:
    """The routes against decoding alone with the same decoders, source and workers, taking turns."""
    for name, seconds in (("kinetics", 70), ("something", 35)):
        title = f"{name}: gpu"
        setup.measure(report, title, partial(_against_decoding, report, title, name, setup), seconds=seconds)
    by_packets = MotionGuided(8, measure="packet")
    for route, sampler in (("gpu-sparse", Uniform(8)), ("gpu-sparse", by_packets), ("host", MotionGuided(8))):
        for name in ("kinetics", "something"):
            title = f"{name}: {route}, {'packet sizes' if sampler is by_packets else type(sampler).__name__}"
            setup.measure(report, title, partial(_one_route, name, setup, route, sampler), seconds=25)


def _against_decoding(report: Report, title: str, name: str, setup: Setup) -> None:
    with ExitStack() as stack:
        whole = stack.enter_context(setup.loader(name))
        bare = stack.enter_context(setup.loader(name))
        streams = {"whole route": Stream(whole, setup), "decode only": Stream(bare, setup)}
        streams["whole route"].take(1)
        with mock.patch.object(pipelines, "encoded_clips", setup.pick(decode_only, spawning(decode_only))):
            streams["decode only"].take(1)
        report.add(
            title,
            **{"batch size": whole.plan.batch_size, "parts": whole.num_parts, "workers": whole.num_workers},
        )
        rates: dict[str, list[float]] = {title: [] for title in streams}
        use = {}
        for _ in range(2):
            for leg, stream in streams.items():
                with Utilisation() as utilisation:
                    rates[leg].append(stream.rate(setup.pick(5, 0.1))["clips/s"])
                use[leg] = utilisation.summary()
                report.add(title, **{"clips/s": rates, "utilisation": use})
            medians = {leg: statistics.median(some) for leg, some in rates.items()}
            report.add(title, ratio=round(medians["whole route"] / medians["decode only"], 3))
        report.add(title, **{"decoded on the host": dict(whole.decoded_on_host)})


def _one_route(name: str, setup: Setup, route: str, sampler: Any) -> dict[str, Any]:
    return _rate_of(setup.clips(name), setup, {"route": route, "sampler": sampler})


ENGINES = ((1, 8), (1, 16), (2, 8), (1, 32), (2, 16))
"""Pipelines and threads of each."""


def engines(report: Report, setup: Setup) -> None:
    """How the rate of decoding depends on the number of pipelines and on their threads; for videos whose coded size is
    that of the picture, and for those where it is not, which never find their decoder in DALI's cache."""
    videos = {}
    for name, size in (("kinetics", "340x256"), ("aligned", "352x256")):
        files = [np.fromfile(file, np.uint8) for file in setup.files(name)[: setup.pick(16, 2)]]
        videos[size] = files * setup.pick(4, 1)
    for num_pipelines, num_threads in ENGINES:
        for size, files in videos.items():
            title = f"{size}: {num_pipelines} x {num_threads} threads"
            rate = partial(_decoding_rate, files, setup, num_pipelines=num_pipelines, num_threads=num_threads)
            setup.measure(report, title, rate, seconds=15)


def _decoding_rate(files: list[np.ndarray], setup: Setup, *, num_pipelines: int, num_threads: int) -> dict[str, Any]:
    num_frames = setup.pick(100, 12)  # the start of each: a batch in some seconds, with two clips a thread and more
    built = [
        stored(files, device=setup.device, num_frames=num_frames, num_threads=num_threads) for _ in range(num_pipelines)
    ]
    for pipeline in built:
        pipeline.run()
    with Utilisation() as utilisation:
        start, num_rounds = time.perf_counter(), 0
        while time.perf_counter() - start < setup.pick(4, 0.05) or num_rounds < 2:
            for pipeline in built:  # each works ahead while the others are asked
                pipeline.run()
            num_rounds += 1
        setup.synchronize()
        seconds = time.perf_counter() - start
    num_clips = num_rounds * num_pipelines * len(files)
    return {
        "frames/s": round(num_clips * num_frames / seconds),
        "clips/s": round(num_clips / seconds, 1),
        "frames a clip": num_frames,
        "utilisation": utilisation.summary(),
    }


# --- training -------------------------------------------------------------------------------------------------------


def training(report: Report, setup: Setup) -> None:
    """TSM training with the loader, and with batches that are on the device already: what the loader costs."""
    for name in ("something", "kinetics"):
        setup.measure(report, name, partial(_training, report, name, setup), seconds=60)


def _training(report: Report, name: str, setup: Setup) -> None:
    from models.tsm import TSM, parameter_groups  # with torchvision, which no other section needs

    depth = setup.pick(50, 10)
    torch.backends.cudnn.benchmark = True
    model = TSM(174, 8, depth=depth).to(setup.device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(parameter_groups(model, lr=0.001, weight_decay=1e-4), momentum=0.9)
    model.train()

    def step(batch: ClipBatch) -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(setup.device, dtype=torch.bfloat16, enabled=setup.on_gpu):
            loss = torch.nn.functional.cross_entropy(model(batch.clips), batch.labels)
        loss.backward()
        optimizer.step()

    seconds = setup.pick(6, 0.1)
    dtype = setup.pick(torch.bfloat16, torch.float32)  # without autocast a model takes its own precision only
    with setup.loader(name, flip_probability=0.5, dtype=dtype) as loader:
        stream = Stream(loader, setup)
        kept = stream.take(setup.pick(4, 2))
        for batch in kept:
            step(batch)
        cached, rates, waits = list[float](), list[float](), list[float]()
        report.add(name, model=f"TSM ResNet-{depth}, 8 frames, {dtype}, batches of {loader.plan.batch_size}")
        for _ in range(2):
            cached.append(_cached_rate(kept, step, seconds, setup))
            with Utilisation() as utilisation:
                leg = stream.rate(seconds, step=step)
            rates.append(leg["clips/s"])
            waits.append(leg["wait share"])
            report.add(
                name,
                **{
                    "clips/s": rates,
                    "clips/s with a cached loader": cached,
                    "share of the ceiling": round(statistics.median(rates) / statistics.median(cached), 3),
                    "wait share": waits,
                    "utilisation": utilisation.summary(),
                },
            )


def _cached_rate(kept: Sequence[ClipBatch], step: Callable[[ClipBatch], None], seconds: float, setup: Setup) -> float:
    setup.synchronize()
    start, num_clips = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        for batch in kept:
            step(batch)
            num_clips += len(batch)
        setup.synchronize()  # the queue to the GPU is long; the clock must not run ahead of it
    return round(num_clips / (time.perf_counter() - start), 1)


# --- memory ---------------------------------------------------------------------------------------------------------


def memory(report: Report, setup: Setup) -> None:
    """Peaks of host and GPU memory with batches of 64 clips, with the default limit and with a low one."""
    for title, limit_gib in (("default limit", None), ("limit of 8 GiB", setup.pick(8.0, 0.001))):
        setup.measure(report, title, partial(_peaks, limit_gib, setup), seconds=20)


def _peaks(limit_gib: float | None, setup: Setup) -> dict[str, Any]:
    route = setup.pick("gpu", "host")  # on the CPU the tiny limit would refuse videos
    if setup.on_gpu:
        torch.cuda.reset_peak_memory_stats()
    with (
        PeakMemory(device=setup.device) as peak,
        setup.loader("kinetics", batch_size=setup.pick(64, 4), memory_limit_gib=limit_gib, route=route) as loader,
    ):
        Stream(loader, setup).take(setup.pick(8, 2))
        time.sleep(0.5)
        return {
            "host GiB": peak.host_gib,
            "GPU GiB": peak.gpu_gib,
            "of it PyTorch GiB": round(torch.cuda.max_memory_allocated() / 2**30, 2) if setup.on_gpu else None,
            "parts": loader.num_parts,
            "decoded on the host": dict(loader.decoded_on_host),
        }


# --- what else a loader does ----------------------------------------------------------------------------------------


def variants(report: Report, setup: Setup) -> None:
    """Clips a second with RandAugment, with three crops of each video, and of frame folders, with short videos."""
    sparse: dict[str, Any] = {"route": "gpu-sparse", "sampler": Uniform(8)}
    three_crops = {"training": False, "views": Views(crops="three")}
    folders = read_annotations(
        list_of(setup.folder, "folders"), root=setup.folder, num_classes=4, template=FOLDER_TEMPLATE
    )
    for title, clips, options in (
        ("gpu-sparse, for comparison", setup.clips("something"), sparse),
        ("gpu-sparse, RandAugment", setup.clips("something"), sparse | {"rand_augment": (2, 9)}),
        ("gpu-sparse, three crops", setup.clips("something"), sparse | three_crops),
        ("frame folders", folders, {"route": "rawframes", "sampler": Uniform(8)}),
    ):
        setup.measure(report, title, partial(_rate_of, clips, setup, options), seconds=20)


def _rate_of(clips: Clips, setup: Setup, options: dict[str, Any]) -> dict[str, Any]:
    with setup.loader(clips, **options) as loader:
        stream = Stream(loader, setup)
        stream.take(1)
        with Utilisation() as utilisation:
            rate = stream.rate(setup.pick(4, 0.1))
        return rate | {"workers": loader.num_workers, "utilisation": utilisation.summary()}


def libraries(report: Report, setup: Setup) -> None:
    """Which of NVIDIA's libraries are in the process after the GPU route ran. ``run.py`` takes NPP's folder out of
    LD_LIBRARY_PATH before."""
    report["LD_LIBRARY_PATH"] = os.environ.get("LD_LIBRARY_PATH")
    before = mapped_libraries(("libnpp", "libcufft"))
    with setup.loader("numbered", batch_size=2, sampler=MotionGuided(4)) as loader:
        Stream(loader, setup).take(1)
    report["mapped before the first batch"] = before
    report["mapped after it"] = mapped_libraries(("libnpp", "libcufft", "libnvcuvid", "libcuda.so"))


SECTIONS = {
    "smoke": smoke,
    "facts": facts,
    "throughput": throughput,
    "training": training,
    "memory": memory,
    "libraries": libraries,
    "engines": engines,
    "variants": variants,
}
