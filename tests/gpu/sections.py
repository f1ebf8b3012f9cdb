"""The facts and measurements that ``run.py`` collects, a function a section. Each runs in a process of its own."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from clip_sets import list_of, read_number
from machine import PeakMemory, Report, Utilisation, can_load, mapped_libraries
from nvidia.dali import Pipeline, fn, pipeline_def, types

from mgs_dali import nvdec, pipelines, read_annotations
from mgs_dali.annotations import Clips
from mgs_dali.graph import decode_frames, decode_video, take_frames
from mgs_dali.loader import ClipBatch, ClipLoader
from mgs_dali.packets import open_video, scan
from mgs_dali.sampling import MotionGuided, Uniform
from mgs_dali.source import EncodedSource
from mgs_dali.video import decode, rgb
from models.tsm import TSM, parameter_groups


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

    def loader(self, name: str, **options: Any) -> ClipLoader:
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
        return ClipLoader(self.clips(name), **(settings | options))

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


def facts(report: Report, setup: Setup) -> None:
    """What the driver says that it decodes, what DALI then decodes, and what choosing frames costs."""
    report["libnvcuvid is found"] = can_load("libnvcuvid.so.1")
    if setup.on_gpu:
        torch.zeros(1, device="cuda")  # makes the context that the driver is asked in
        report.attempt("limits", _limits_table)
    refuse = _refusal(setup)
    for name in ("numbered", "rare"):
        for file in setup.files(name):
            kind = file.stem.partition("-")[2]
            setup.measure(report, f"codec {kind}", partial(_codec, file, refuse, setup), seconds=5)
    for file in setup.files("truncated"):
        setup.measure(report, f"cut {file.suffix[1:]}", partial(_truncated, file, setup), seconds=5)
    setup.measure(report, "cost of choosing frames", partial(_cost_of_frames, setup), seconds=15)


def _refusal(setup: Setup) -> Callable[[Any], str]:
    if not setup.on_gpu:
        return nvdec.refusal_without_gpu
    limits = nvdec.read_limits()
    return lambda found: nvdec.refusal(found, limits)


def _limits_table() -> list[dict[str, Any]]:
    return [
        {"codec": codec, "chroma": chroma, "bits": bits, **vars(limits)}
        for (codec, chroma, bits), limits in nvdec.read_limits().items()
    ]


def _codec(file: Path, refuse: Callable[[Any], str], setup: Setup) -> dict[str, Any]:
    found = scan(file)
    facts: dict[str, Any] = {"refused by the header": refuse(found), "decoded": False}
    try:
        video = _pictures(file, setup)
    except RuntimeError as error:
        return facts | {"reason": _reason(error)}
    with open_video(file) as stream:
        reference = np.stack([rgb(frame) for frame in decode(stream, name=file.name)])
    numbers = [read_number(picture) for picture in video]
    same_shape = video.shape == reference.shape
    difference = np.abs(video.astype(np.int16) - reference) if same_shape else np.full(1, 255)
    return facts | {
        "decoded": True,
        "frames": len(video),
        "frames by PyAV": len(reference),
        "frames out of place": sum(number != index for index, number in enumerate(numbers)),
        "mean difference": round(float(difference.mean()), 3),
        "largest difference": int(difference.max()),
    }


def _truncated(file: Path, setup: Setup) -> dict[str, Any]:
    found = scan(file)
    facts = {"packets": found.num_frames, "frames by the header": found.header_num_frames}
    try:
        video = _pictures(file, setup)
    except RuntimeError as error:
        return facts | {"decoded": False, "reason": _reason(error)}
    return facts | {
        "decoded": True,
        "frames": len(video),
        "black": int((video.reshape(len(video), -1).max(axis=1) < 20).sum()),
        "frames out of place": sum(read_number(picture) != index for index, picture in enumerate(video)),
    }


def _reason(error: Exception) -> str:
    """What DALI says, less where in the graph."""
    text = str(error)
    return " ".join((text.partition("encountered:")[2] or text).split())[:400]


def _cost_of_frames(setup: Setup) -> dict[str, Any]:
    """Milliseconds a clip. The clips have a keyframe at frame 0 and one in the second half: a decoder that seeks is
    quick for the latter, one that begins at frame 0 is slower the later the frame."""
    files = [np.fromfile(file, np.uint8) for file in setup.files("kinetics")[: setup.pick(14, 2)]]
    last, key = setup.pick((299, 250), (11, 8))
    times = {}
    for name, frames in (
        ("first", [0]),
        ("before keyframe", [key - 1]),
        ("keyframe", [key]),
        ("last", [last]),
        ("last, 4 times", [last] * 4),
        ("all", None),
    ):
        pipeline = _stored(files, setup, frames=frames)
        for _ in range(3):  # the pipeline works two batches ahead
            pipeline.run()
        setup.synchronize()
        start = time.perf_counter()
        for _ in range(3):
            pipeline.run()
        setup.synchronize()
        times[name] = round((time.perf_counter() - start) / 3 / len(files) * 1000, 2)
    return {"frame": {"keyframe": key, "last": last}, "ms per clip": times}


@pipeline_def(exec_dynamic=True)
def _stored_videos(files: list[np.ndarray], *, device: str, frames: list[int] | None, to_cpu: bool) -> Any:
    """The same videos from memory again and again, decoded and nothing else."""
    encoded = fn.external_source(lambda: files, batch=True, dtype=types.UINT8, ndim=1)
    if frames is None:
        video = decode_video(encoded, device=device)
    else:
        video = decode_frames(encoded, types.Constant(np.array(frames, np.int32), device="cpu"), device=device)
    return video.cpu() if to_cpu and device == "mixed" else video


def _stored(
    files: list[np.ndarray],
    setup: Setup,
    *,
    frames: list[int] | None = None,
    num_threads: int = 8,
    to_cpu: bool = False,
) -> Pipeline:
    pipeline = _stored_videos(
        files,
        device=setup.pick("mixed", "cpu"),
        frames=frames,
        to_cpu=to_cpu,
        batch_size=len(files),
        num_threads=num_threads,
        device_id=setup.pick(0, None),
    )
    pipeline.build()
    return pipeline


def _pictures(file: Path, setup: Setup) -> np.ndarray:
    (output,) = _stored([np.fromfile(file, np.uint8)], setup, to_cpu=True).run()
    return np.array(output.at(0))


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
    video = decode_video(row["file"], device=decoder, num_frames=row["num_frames"])
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
        self.take(3)  # what was made while nobody took it
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
    for name in ("kinetics", "something"):
        setup.measure(report, f"{name}: gpu", partial(_against_decoding, name, setup), seconds=35)
    by_packets = MotionGuided(8, measure="packet")
    for route, sampler in (("gpu-sparse", Uniform(8)), ("gpu-sparse", by_packets), ("host", MotionGuided(8))):
        for name in ("kinetics", "something"):
            title = f"{name}: {route}, {'packet sizes' if sampler is by_packets else type(sampler).__name__}"
            setup.measure(report, title, partial(_one_route, name, setup, route, sampler), seconds=15)


def _against_decoding(name: str, setup: Setup) -> dict[str, Any]:
    with ExitStack() as stack:
        whole = stack.enter_context(setup.loader(name))
        bare = stack.enter_context(setup.loader(name))
        streams = {"whole route": Stream(whole, setup), "decode only": Stream(bare, setup)}
        streams["whole route"].take(1)
        with mock.patch.object(pipelines, "encoded_clips", decode_only):
            streams["decode only"].take(1)
        rates: dict[str, list[float]] = {title: [] for title in streams}
        use = {}
        for _ in range(2):
            for title, stream in streams.items():
                with Utilisation() as utilisation:
                    rates[title].append(stream.rate(setup.pick(5, 0.1))["clips/s"])
                use[title] = utilisation.summary()
        medians = {title: statistics.median(some) for title, some in rates.items()}
        return {
            "clips/s": rates,
            "ratio": round(medians["whole route"] / medians["decode only"], 3),
            "utilisation": use,
            "batch size": whole.plan.batch_size,
            "parts": whole._num_parts,
            "workers": whole.num_workers,
            "decoded on the host": dict(whole.decoded_on_host),
        }


def _one_route(name: str, setup: Setup, route: str, sampler: Any) -> dict[str, Any]:
    with setup.loader(name, route=route, sampler=sampler) as loader:
        stream = Stream(loader, setup)
        stream.take(1)
        with Utilisation() as utilisation:
            rate = stream.rate(setup.pick(4, 0.1))
        return rate | {"workers": loader.num_workers, "utilisation": utilisation.summary()}


def engines(report: Report, setup: Setup) -> None:
    """How the rate of decoding depends on a pipeline's threads, and on the number of pipelines."""
    files = [np.fromfile(file, np.uint8) for file in setup.files("kinetics")[: setup.pick(28, 2)]]
    for num_pipelines, num_threads in (
        (1, 8), (1, 1), (1, 14), (2, 8), (1, 4), (1, 7), (3, 8), (1, 2), (2, 4), (1, 28)
    ):  # fmt: skip
        title = f"{num_pipelines} pipelines of {num_threads} threads"
        rate = partial(_decoding_rate, files, setup, num_pipelines=num_pipelines, num_threads=num_threads)
        setup.measure(report, title, rate, seconds=20 if num_threads < 4 else 10)


def _decoding_rate(files: list[np.ndarray], setup: Setup, *, num_pipelines: int, num_threads: int) -> dict[str, Any]:
    built = [_stored(files, setup, num_threads=num_threads) for _ in range(num_pipelines)]
    for _ in range(2):
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
    num_frames = setup.pick(300, 12)
    return {
        "clips/s": round(num_clips / seconds, 1),
        "frames/s": round(num_clips * num_frames / seconds),
        "utilisation": utilisation.summary(),
    }


# --- training -------------------------------------------------------------------------------------------------------


def training(report: Report, setup: Setup) -> None:
    """TSM training with the loader, and with batches that are on the device already: what the loader costs."""
    for name in ("something", "kinetics"):
        setup.measure(report, name, partial(_training, name, setup), seconds=30)


def _training(name: str, setup: Setup) -> dict[str, Any]:
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
        cached, loaded = [], []
        with Utilisation() as utilisation:
            for _ in range(2):
                cached.append(_cached_rate(kept, step, seconds, setup))
                loaded.append(stream.rate(seconds, step=step))
        rates = [leg["clips/s"] for leg in loaded]
        return {
            "model": f"TSM ResNet-{depth}, 8 frames, {dtype}, batches of {loader.plan.batch_size}",
            "clips/s": rates,
            "clips/s with a cached loader": cached,
            "share of the ceiling": round(statistics.median(rates) / statistics.median(cached), 3),
            "wait share": [leg["wait share"] for leg in loaded],
            "utilisation": utilisation.summary(),
        }


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
            "parts": loader._num_parts,
            "decoded on the host": dict(loader.decoded_on_host),
        }


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
    "facts": facts,
    "throughput": throughput,
    "training": training,
    "memory": memory,
    "libraries": libraries,
    "engines": engines,
}
