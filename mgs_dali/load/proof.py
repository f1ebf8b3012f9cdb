"""Whether decoding works here: each codec goes through each route, and the frames that come out are looked at.

The package brings a tiny clip of each codec, of which every frame shows its own number as bars. A route is right where
the delivered pictures show the numbers of the frames that were chosen.

Decoding is done in child processes (``python -m mgs_dali.load.proof``), so that a crash or a hang in a driver or a
library is a result like others. This module itself imports nothing but the standard library: it works where PyTorch,
DALI or PyAV do not.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

from .workers import follow_parent

if TYPE_CHECKING:
    import numpy as np

    from ..sampling import MotionGuided, Uniform

__all__ = [
    "CLIPS",
    "GPU_ROUTES",
    "NUM_FRAMES",
    "ROUTES",
    "SIDE",
    "Outcome",
    "Proof",
    "bars_of",
    "clip_file",
    "number_in",
    "prove",
    "proved",
]

Outcome = Literal["right", "refused", "wrong", "failed"]
Job = tuple[str, str]
"""(route, codec)"""

GPU_ROUTES = ("gpu", "gpu-sparse")
ROUTES = ("host", "host-sparse", *GPU_ROUTES)
CLIPS = {
    "h264": "h264.mp4",
    "hevc": "hevc.mp4",
    "mpeg4": "mpeg4.mp4",
    "vp8": "vp8.webm",
    "vp9": "vp9.webm",
    "av1": "av1.mp4",
    "mjpeg": "mjpeg.avi",
}
"""File of each codec, made by tests/make_proof_clips.py."""
NUM_FRAMES, SIDE = 24, 216
"""Frames of each clip, and the side of its square frames in pixels: above the smallest that NVDEC takes, of any
codec."""


@dataclass(frozen=True)
class Proof:
    """What came of one codec on one route."""

    codec: str
    route: str
    outcome: Outcome
    """"right": the frames that were chosen came out; "refused": the route says beforehand that it does not take the
    codec here; "wrong": other pictures came out; "failed": an error, a crash or a hang."""
    text: str
    """In a few words: what was seen, or why not."""


def clip_file(codec: str) -> Path:
    """The clip of a codec, one of :data:`CLIPS`."""
    return Path(__file__).parents[1] / "proof_clips" / CLIPS[codec]


# --- the parent -------------------------------------------------------------------------------------------------------


def prove(*, device: str, timeout_s: float = 60.0) -> list[Proof]:
    """Let each codec go through each route, and look at what comes out. Takes a minute or so.

    Args:
        device: where clips are delivered, as :class:`mgs_dali.ClipLoader` takes it: "cuda" or "cpu".
        timeout_s: how long one codec may take on one route, the start of its process included, in seconds.

    Returns:
        A proof of each codec on each route, in the order of :data:`ROUTES` and :data:`CLIPS`. Nothing that goes wrong
        in decoding is raised.
    """
    return list(proved(device=device, timeout_s=timeout_s))


def proved(
    *,
    device: str,
    timeout_s: float = 60.0,
    routes: Sequence[str] = ROUTES,
    codecs: Sequence[str] = tuple(CLIPS),
    program: Sequence[str] = (sys.executable, "-m", "mgs_dali.load.proof"),
) -> Iterator[Proof]:
    """The proofs of :func:`prove` one by one, as they come.

    Args:
        device, timeout_s: as for :func:`prove`.
        routes, codecs: which ones.
        program: what is run, with ``--device`` and a ``route:codec`` for each proof appended.
    """
    left = [(route, codec) for route in routes for codec in codecs]
    while left:
        command = [*program, "--device", device, *(f"{route}:{codec}" for route, codec in left)]
        for proof in _run_child(command, left, timeout_s=timeout_s):
            left.remove((proof.route, proof.codec))
            yield proof


def _run_child(command: Sequence[str], jobs: Sequence[Job], *, timeout_s: float) -> Iterator[Proof]:
    """The proofs that a child gives, at least one. Where it crashes or hangs, the last one is of that."""
    left, num_jobs = list(jobs), len(jobs)
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    # Files and not pipes: worker processes that outlive their parent for a moment would keep a pipe open.
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as said:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=said,
            env=environment,
            start_new_session=True,  # a process group, which is ended with all that is in it
        )
        try:
            num_read_bytes, deadline_s = 0, time.monotonic() + timeout_s
            while left:
                code = child.poll()  # before reading: what it wrote before it ended is there
                for line in _whole_lines(out, start=num_read_bytes):
                    num_read_bytes += len(line)
                    proof = _proof_of(line)
                    if proof is not None and (proof.route, proof.codec) in left:
                        left.remove((proof.route, proof.codec))
                        deadline_s = time.monotonic() + timeout_s
                        yield proof
                if left and code is not None:
                    if code != 0 or len(left) == num_jobs:
                        yield _failed(left[0], _end_text(code, _last_line(said)))
                    return
                if time.monotonic() > deadline_s:
                    yield _failed(left[0], f"nothing came for {timeout_s:g} s; the process was ended")
                    return
                time.sleep(0.02)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def _failed(job: Job, text: str) -> Proof:
    route, codec = job
    return Proof(codec, route, "failed", text)


def _whole_lines(file: BinaryIO, *, start: int) -> list[bytes]:
    """The lines from byte ``start`` on, as far as they are written to their end."""
    # At a place of its own: the child goes on writing at the one that both have in common.
    content = os.pread(file.fileno(), 1 << 20, start)
    return content[: content.rfind(b"\n") + 1].splitlines(keepends=True)


def _proof_of(line: bytes) -> Proof | None:
    try:
        return Proof(**json.loads(line))
    except (ValueError, TypeError):  # of something that Python runs as it starts
        return None


def _last_line(file: BinaryIO) -> str:
    size = os.fstat(file.fileno()).st_size
    text = os.pread(file.fileno(), 4096, max(0, size - 4096)).decode(errors="replace")
    return next((" ".join(line.split()) for line in reversed(text.splitlines()) if line.strip()), "")


def _end_text(code: int, said: str) -> str:
    """What to tell of a process that ended early, by its exit code and the last line that it wrote to stderr."""
    end = f"exit code {code}"
    if code < 0:
        try:
            end = signal.Signals(-code).name
        except ValueError:  # a real-time signal
            end = f"signal {-code}"
    return f"the process ended with {end}" + (f": {said}" if said else "")


# --- bars -------------------------------------------------------------------------------------------------------------

_NUM_BITS = 6


def bars_of(number: int) -> list[bool]:
    """The bars that show a number below 64, from left to right: True for one that is yellow above and blue below.

    Between a first and a last one that are the same in every picture are the bits and their parity. Mirrored, upside
    down or with red and blue swapped, the first one is another; turned half around, seven bars are inverted and their
    parity is another.
    """
    bits = [bool(number >> shift & 1) for shift in reversed(range(_NUM_BITS))]
    return [True, *bits, sum(bits) % 2 == 1, False]


def number_in(picture: np.ndarray) -> int | None:
    """The number that a picture shows, whatever its size; None where it shows none.

    Args:
        picture: (H, W, 3) RGB of any type, with values from 0 to 255.
    """
    height, width = picture.shape[:2]
    num_bars = _NUM_BITS + 3
    bars = []
    for place in range(num_bars):
        columns = slice(width * (4 * place + 1) // (4 * num_bars), width * (4 * place + 3) // (4 * num_bars))
        above, below = (
            # Red less blue: about 200 for yellow, -170 for blue, and 0 for any grey.
            float(picture[height * first // 8 : height * last // 8, columns, 0].mean())
            - float(picture[height * first // 8 : height * last // 8, columns, 2].mean())
            for first, last in ((1, 3), (5, 7))
        )
        if min(abs(above), abs(below)) < 60 or (above > 0) == (below > 0):
            return None
        bars.append(above > 0)
    number = sum(bit << shift for shift, bit in enumerate(reversed(bars[1 : 1 + _NUM_BITS])))
    return number if bars == bars_of(number) else None


def _difference(frames: Sequence[int], seen: Sequence[int | None]) -> str:
    """How what was seen differs from the frames that were chosen; empty where it does not."""
    if list(frames) == list(seen):
        return ""
    shown = " ".join("?" if number is None else str(number) for number in seen)
    return f"frames {' '.join(map(str, frames))} were chosen, and those delivered show {shown}"


# --- the child --------------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Prove codecs on routes in this process, and write a line of JSON for each. Ends at the first that fails.

    What fails may leave a library or a GPU in a state in which others would fail too: they need another process. A
    package that is missing does not.
    """
    parser = argparse.ArgumentParser(prog="python -m mgs_dali.load.proof")
    parser.add_argument("--device", required=True)
    parser.add_argument("jobs", metavar="ROUTE:CODEC", nargs="+")
    given = parser.parse_args(arguments)
    # Libraries may write to stdout: from here on that is stderr.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for job in given.jobs:
        route, codec = job.split(":")
        goes_on = True
        try:
            outcome, text = _prove_one(codec, route=route, device=given.device)
        except Exception as error:
            goes_on = isinstance(error, ModuleNotFoundError)
            outcome, text = "failed", f"{type(error).__name__}: {' '.join(str(error).split())}"
        print(json.dumps(asdict(Proof(codec, route, outcome, text))), file=out, flush=True)
        if not goes_on:
            break
    return 0


def _prove_one(codec: str, *, route: str, device: str) -> tuple[Outcome, str]:
    """(outcome, text) of a codec on a route, in this process.

    Raises:
        Exception: it failed.
    """
    # Here and not above: any of these may be missing, or end the process.
    from ..decode.packets import scan  # noqa: PLC0415
    from ..sampling import MotionGuided, Uniform  # noqa: PLC0415
    from .routes import ROUTES as loader_routes  # noqa: PLC0415

    file = clip_file(codec)
    try:
        scan(file)
    except ValueError as error:  # an FFmpeg that was built without the codec
        return "refused", str(error)
    samplers: list[MotionGuided | Uniform] = [Uniform(8)]
    if not loader_routes[route].sparse:
        samplers.append(MotionGuided(8))
    for sampler in samplers:
        outcome, text = _deliver(file, sampler, route=route, device=device)
        if outcome != "right":
            return outcome, text
    return "right", f"the frames of {' and '.join(type(sampler).__name__ for sampler in samplers)}"


def _deliver(file: Path, sampler: MotionGuided | Uniform, *, route: str, device: str) -> tuple[Outcome, str]:
    """(outcome, text) of a batch of two of the same video."""
    import numpy as np  # noqa: PLC0415

    from ..lists.table import Clips  # noqa: PLC0415
    from ..views.protocols import Views  # noqa: PLC0415
    from .loader import ClipLoader  # noqa: PLC0415

    paths = [file.name] * 2
    clips = Clips(
        root=file.parent,
        paths=paths,
        first_frames=np.zeros(len(paths), np.int64),
        num_frames=np.full(len(paths), -1, np.int64),
        labels=np.arange(len(paths)),
        num_classes=len(paths),
        class_names=None,
        list_file=file.parent,
        list_lines=np.arange(1, len(paths) + 1),
    )
    try:
        loader = ClipLoader(
            clips,
            sampler=sampler,
            batch_size=len(paths),
            training=False,
            size=SIDE * 224 // 256,
            route=route,
            device=device,
            num_workers=1,
            views=Views(crops="full"),
        )
    except ValueError as error:
        return "refused", str(error)
    with loader:
        if reason := loader.refuses_video(0):
            return "refused", reason
        try:
            (batch,) = loader
        except ValueError as error:
            # A route of the GPU that is asked for by name tells in this way of what its decoder does not take. Host
            # routes refuse nothing, and DALI's own errors are no refusals either.
            names_video = str(error).startswith(str(file)) and not isinstance(error.__cause__, RuntimeError)
            if route in GPU_ROUTES and names_video and "not foreseen" not in str(error):
                return "refused", str(error)
            raise
        if loader.decoded_on_host:
            return "refused", f"decoded on the CPU instead: {'; '.join(loader.decoded_on_host)}"
    mean, std = (np.array(values) * 255 for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    pictures = batch.clips.float().cpu().numpy().transpose(0, 1, 3, 4, 2) * std + mean
    for frames, clip in zip(batch.frames.tolist(), pictures, strict=True):
        if difference := _difference(frames, [number_in(picture) for picture in clip]):
            return "wrong", f"{type(sampler).__name__}: {difference}"
    return "right", ""


if __name__ == "__main__":
    follow_parent(os.getppid())
    # At once: what a library does as Python ends proves nothing, and may hang.
    os._exit(main())
