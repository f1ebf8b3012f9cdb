"""One damaged file through every route, in a process of its own with limits, and what is to be said of each."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import select
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from hard_videos import Delivered, Hard, deliver, deliver_batch, number_in, strict_complaint

from mgs_dali.index.measuring import measure_video
from mgs_dali.sampling import Dense, MotionGuided, Uniform

from .mutate import NUM_FRAMES, Mutation, mutate
from .oracle import Oracle

LIMIT_SECONDS = 25
"""For one route."""
LIMIT_BYTES = 2**30
"""That a file may take."""
NO_MEMORY = "Cannot allocate memory"
NOISE = 8.0
"""Grey levels by which the mean of a block of 8 x 8 pixels may differ and be called slight."""
SEGMENTS = 12

IN_GRAPH = ("vp8", "vp9")
"""Codecs that DALI decodes without a GPU, and complains of their damage. It says nothing of a damaged JPEG; on a GPU it
takes none."""
FAILURES = ("exception", "crash", "hang", "memory")
BAD = ("wrong", "concealed")

Job = Callable[[Path], "Delivered | np.ndarray"]


@dataclass(frozen=True)
class Routes:
    """What a file is put through."""

    jobs: dict[str, Job]

    @classmethod
    def of(cls, seed: str, *, loaders: bool) -> Routes:
        """Those that run here for a seed's codec, with or without processes of loaders."""

        def index(measure: str) -> Job:
            return lambda path: measure_video(path, measure=measure).motion

        def load(route: str, sampler: MotionGuided | Uniform) -> Job:
            return lambda path: deliver_batch([Hard(path, ())], sampler, route=route)[0]

        jobs: dict[str, Job] = {
            "strict": lambda path: np.array([ord(letter) for letter in strict_complaint(path).text[:200]]),
            "certain": lambda path: np.array([ord(str(int(oracle_of(path).is_certain())))]),
            "host": lambda path: deliver(path, Uniform(SEGMENTS), sparse=False),
            "host-sparse": lambda path: deliver(path, Uniform(SEGMENTS), sparse=True),
            "host-sparse, late": lambda path: deliver(path, Dense(2, 2), sparse=True),
            "host, guided": lambda path: deliver(path, MotionGuided(SEGMENTS), sparse=False),
            "host-sparse, packet": lambda path: deliver(path, MotionGuided(SEGMENTS, measure="packet"), sparse=True),
            "index pixel": index("pixel"),
            "index packet": index("packet"),
        }
        if loaders:
            jobs["loader host"] = load("host", MotionGuided(SEGMENTS))
            jobs["loader host-sparse"] = load("host-sparse", Uniform(SEGMENTS))
            if seed.startswith(IN_GRAPH):
                jobs["loader gpu"] = load("gpu", MotionGuided(SEGMENTS))
                jobs["loader gpu-sparse"] = load("gpu-sparse", Uniform(SEGMENTS))
        return cls(jobs)


# --- what is delivered ------------------------------------------------------------------------------------------------


@cache
def undamaged(seed: Path, route: str) -> np.ndarray:
    """All frames of a seed, as a route gives them; they show their numbers."""
    if route.startswith("loader"):
        hard = Hard(seed, tuple(range(NUM_FRAMES)))
        sampler = Uniform(NUM_FRAMES)
        (found,) = deliver_batch([hard], sampler, route=route.removeprefix("loader "))
    else:
        found = deliver(seed, Uniform(NUM_FRAMES), sparse=False)
    assert not found.error, found.error
    assert found.frames == list(range(NUM_FRAMES))
    assert [number_in(picture, of=found.of) for picture in found.pictures] == found.frames, seed
    return found.pictures


def judge(
    delivered: Delivered, numbers: Sequence[int], clean: np.ndarray, oracle: Oracle
) -> tuple[dict[str, int], str]:
    """How many of the delivered frames are right, slight, concealed or wrong, and what FFmpeg knows of the last two."""
    verdicts: Counter[str] = Counter()
    known = ""
    for frame, picture in zip(delivered.frames, delivered.pictures, strict=True):
        number = numbers[frame] if frame < len(numbers) else None
        shown = number_in(picture, of=delivered.of)
        there = None if number is None else clean[number]
        if there is not None and there.shape == picture.shape and np.abs(there - picture.astype(float)).max() < 0.01:
            verdicts["right"] += 1
        else:
            if shown is not None and shown != number:
                word = "wrong"
            elif there is None or there.shape != picture.shape or block_difference(there, picture) > NOISE:
                word = "concealed"
            else:
                word = "slight"
            verdicts[word] += 1
            if word in BAD:
                known = known or oracle.knows(frame)
    return dict(verdicts), known


def judge_curve(
    curve: np.ndarray, name: str, numbers: Sequence[int], seed: Path, oracle: Oracle
) -> tuple[dict[str, int], str]:
    """Whether a motion curve has the length of what is in the file, and measures the frames of the undamaged video."""
    is_whole = len(curve) + 1 == len(numbers)
    if name == "index packet":  # nothing is decoded: sizes of damaged packets are sizes
        return {"right" if is_whole else "wrong": 1}, oracle.container
    if is_whole and (len(numbers) != NUM_FRAMES or np.allclose(curve, undamaged_curve(seed), atol=0.05)):
        return {"right": 1}, ""  # where frames are missing, others are neighbours
    known = oracle.container or next(filter(None, map(oracle.knows, range(len(numbers)))), "")
    return {"concealed" if is_whole else "wrong": 1}, known


@cache
def oracle_of(path: Path) -> Oracle:
    """What FFmpeg knows of a file."""
    return Oracle(path)


@cache
def undamaged_curve(seed: Path) -> np.ndarray:
    """The motion curve of a seed."""
    return measure_video(seed).motion


def block_difference(a: np.ndarray, b: np.ndarray) -> float:
    """The largest mean difference of a block of 8 x 8 pixels."""
    rows, columns = a.shape[0] // 8 * 8, a.shape[1] // 8 * 8
    difference = np.abs(a[:rows, :columns].astype(float) - b[:rows, :columns])
    return float(difference.reshape(rows // 8, 8, columns // 8, 8, 3).mean(axis=(1, 3, 4)).max())


# --- processes --------------------------------------------------------------------------------------------------------


def run_file(
    seeds: Path, folder: Path, seed: int, number: int, *, loaders: bool, keep: Path | None = None
) -> dict[str, Any]:
    """Make a damaged file, and say what every route does with it."""
    try:
        mutation = mutate(seeds, seed, number)
    except Exception as error:  # the writer of the container does not take such packets
        return {"number": number, "not made": f"{type(error).__name__}: {error}"}
    path = folder / f"fuzz-{seed}-{number}{Path(mutation.seed).suffix}"
    path.write_bytes(mutation.content)
    routes = Routes.of(mutation.seed, loaders=loaders)
    for name in routes.jobs:  # here, not in the children: they would do it again and again
        if name.startswith("loader") or name == "host":
            undamaged(seeds / mutation.seed, name if name.startswith("loader") else "host")
    undamaged_curve(seeds / mutation.seed)
    results: dict[str, dict[str, Any]] = {}
    try:
        while len(results) < len(routes.jobs):
            left = [name for name in routes.jobs if name not in results]
            results.update(_in_a_child(path, left, routes, mutation, seeds))
    finally:
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            path.replace(keep / path.name)
        else:
            path.unlink(missing_ok=True)
    strict, is_certain = results.pop("strict"), results.pop("certain").get("text") == "1"
    known = strict.get("text", "") if strict["outcome"] == "delivered" else f"strict decoding: {strict['outcome']}"
    for outcome in results.values():
        # Decoders that are to leave pictures out may stumble over that.
        outcome["known"] = outcome.get("known", "") if known else ""
    host, sparse = results["host"], results["host-sparse"]
    return {
        "number": number,
        "alike": (host["outcome"], host.get("text")) == (sparse["outcome"], sparse.get("text")) or not is_certain,
        "seed": mutation.seed,
        "kind": mutation.kind,
        "details": mutation.details,
        "known": known,
        "routes": results,
    }


def _in_a_child(
    path: Path, names: list[str], routes: Routes, mutation: Mutation, seeds: Path
) -> dict[str, dict[str, Any]]:
    """Do jobs in a forked process, one after the other, until it ends; the one that ends it is told too."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            os.setsid()
            with os.fdopen(writing, "w", buffering=1) as pipe:
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
                _limit_memory()
                for name in names:
                    pipe.write(json.dumps([name, _outcome(path, name, routes, mutation, seeds)]) + "\n")
        finally:
            os._exit(0)  # whatever happened: this process must not go on as its parent
    os.close(writing)
    found: dict[str, dict[str, Any]] = {}
    end = ""
    try:
        for line in _lines(reading):
            name, outcome = json.loads(line)
            found[name] = outcome
    except TimeoutError:
        end = "hang"
    finally:
        os.close(reading)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    left = [name for name in names if name not in found]
    if left:
        if not end:
            end = "crash"
            if os.WIFSIGNALED(status):
                found[left[0]] = {"outcome": "crash", "text": signal.Signals(os.WTERMSIG(status)).name}
                return found
        found[left[0]] = {"outcome": end, "text": ""}
    return found


def _lines(reading: int) -> Iterator[bytes]:
    waiting, last = b"", time.monotonic()
    while True:
        ready, _, _ = select.select([reading], [], [], max(0.0, last + LIMIT_SECONDS - time.monotonic()))
        if not ready:
            raise TimeoutError
        data = os.read(reading, 1 << 16)
        if not data:
            return
        *lines, waiting = (waiting + data).split(b"\n")
        if lines:
            last = time.monotonic()
        yield from lines


def _limit_memory(num_bytes: int = 2 * LIMIT_BYTES) -> None:
    """No more address space than there is, and this: the limit, beside some for threads' stacks."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + num_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


def _wants_memory(job: Callable[[Path], Any], path: Path) -> bool:
    """Whether a job that was short of memory is not where there is more.

    FFmpeg has the same words for a size that no packet can have, and says them however much there is: it never asks for
    a block of more than 2 GiB.
    """
    _limit_memory(8 * LIMIT_BYTES)
    try:
        text = getattr(job(path), "error", "")
    except (ValueError, MemoryError) as error:
        text = str(error)
    _limit_memory()
    return NO_MEMORY not in text


def _outcome(path: Path, name: str, routes: Routes, mutation: Mutation, seeds: Path) -> dict[str, Any]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.monotonic()
    found: dict[str, Any]
    try:
        value = routes.jobs[name](path)
    except ValueError as error:
        found = {"outcome": "reported" if path.name in str(error) else "exception", "text": str(error)[-300:]}
    except MemoryError as error:
        found = {"outcome": "memory", "text": str(error)[-300:]}
    except BaseException as error:
        found = {"outcome": "exception", "text": f"{type(error).__name__}: {error}"[-300:]}
    else:
        if name in ("strict", "certain"):
            assert isinstance(value, np.ndarray)
            found = {"outcome": "delivered", "text": "".join(chr(letter) for letter in value.tolist())}
        elif isinstance(value, Delivered) and value.error:
            found = {"outcome": "reported", "text": value.error[-300:]}
        else:
            oracle = oracle_of(path)
            # Of a recording that begins inside a GOP the first frames are none.
            numbers = mutation.numbers[oracle.num_lost(len(mutation.numbers)) :]
            if isinstance(value, Delivered):
                clean = undamaged(seeds / mutation.seed, name if name.startswith("loader") else "host")
                frames, known = judge(value, numbers, clean, oracle)
            else:
                frames, known = judge_curve(value, name, numbers, seeds / mutation.seed, oracle)
            text = f"a curve of {len(value) + 1} frames"
            if isinstance(value, Delivered):
                text = hashlib.sha256(value.pictures.tobytes() + bytes(str(value.frames), "ascii")).hexdigest()
            found = {"outcome": "delivered", "frames": frames, "text": text, "known": known}
    if NO_MEMORY in found.get("text", "") and _wants_memory(routes.jobs[name], path):
        found["outcome"] = "memory"
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    if grown > LIMIT_BYTES:
        found = {"outcome": "memory", "text": f"{grown / 2**20:.0f} MiB"}
    return {**found, "seconds": round(time.monotonic() - start, 2)}


def verdict(outcome: dict[str, Any]) -> str:
    """One word for what a route did with a file."""
    if outcome["outcome"] != "delivered":
        return str(outcome["outcome"])
    frames = outcome.get("frames", {})
    return next((word for word in ("wrong", "concealed", "slight") if frames.get(word)), "right")
