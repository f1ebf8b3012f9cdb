"""Questions to DALI's decoder, each answered in a process of its own, so that a crash or a hang hides no other answer.

``python questions.py QUESTION --folder CLIPS --device cuda --json FILE``; :func:`ask` does so. The light ones load DALI
and not PyTorch.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from clip_sets import KINDS, RARE_KINDS, list_of, numbered_job, pictures_of, read_number, unlike
from machine import can_load, spawn_workers, write_json

ROOT = Path(__file__).resolve().parents[2]


def ask(question: str, *, folder: Path, device: str, seconds: float = 30) -> dict[str, Any]:
    """Have a question answered; a process that ends in any other way is the answer."""
    stem = question.replace(" ", "-")
    answer, log = folder / f"answer-{stem}.json", folder / f"answer-{stem}.log"
    answer.unlink(missing_ok=True)
    command = [sys.executable, __file__, question, "--folder", str(folder), "--device", device, "--json", str(answer)]
    start = time.monotonic()
    with log.open("w") as output, subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT) as process:
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
    ended = {"seconds": round(time.monotonic() - start, 1)}
    if answer.exists():
        return json.loads(answer.read_text()) | ended
    error = f"no answer; its process ended with {process.returncode}"
    return {"error": error, "log": log.read_text(errors="replace")[-2000:]} | ended


# --- the loader, where there is no GPU either -----------------------------------------------------------------------

SIDE = 96
SHOWN = 224 / 256
"""Share of the shorter side that the loader's centre crop keeps."""


@contextmanager
def auto_takes_gpu_routes(device: str) -> Iterator[None]:
    """Let route="auto" find the routes of the GPU where there is none, too."""
    from mgs_dali.load import loader
    from mgs_dali.load.routes import InGraph, Route, Setting, choose_route

    def stand_in(asked: str, setting: Setting) -> tuple[Route, str]:
        if asked != "auto":
            return choose_route(asked, setting)
        return InGraph(sparse=setting.frames_known), "a stand-in"

    if device == "cuda":
        yield
    else:
        with mock.patch.object(loader, "choose_route", stand_in):
            yield


def grey_levels(clips: Any) -> np.ndarray:
    """(..., 3, H, W) normalised -> (..., H, W, 3) from 0 to 255."""
    import torch

    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return ((clips.float().cpu() * std + mean) * 255).movedim(-3, -1).numpy()


# --- DALI's decoder -------------------------------------------------------------------------------------------------


def stored(
    files: list[np.ndarray],
    *,
    device: str,
    frames: list[int] | None = None,
    num_frames: int | None = None,
    num_threads: int = 8,
    to_cpu: bool = False,
) -> Any:
    """A pipeline, built, that decodes the same videos from memory again and again, and does nothing else."""
    from nvidia.dali import fn, pipeline_def, types

    from mgs_dali.graph import decode_frames

    decoder = "mixed" if device == "cuda" else "cpu"

    @pipeline_def(exec_dynamic=True)
    def videos() -> Any:
        encoded = fn.external_source(lambda: files, batch=True, dtype=types.UINT8, ndim=1)
        if frames is not None:
            some = types.Constant(np.array(frames, np.int32), device="cpu")
            video = decode_frames(encoded, some, device=decoder)
        else:
            first: dict[str, Any] = {} if num_frames is None else {"end_frame": num_frames}
            video = fn.decoders.video(encoded, device=decoder, **first)
        return video.cpu() if to_cpu and decoder == "mixed" else video

    pipeline = videos(batch_size=len(files), num_threads=num_threads, device_id=0 if device == "cuda" else None)
    pipeline.build()
    return pipeline


def pictures_by_dali(content: np.ndarray, *, device: str, frames: list[int] | None = None) -> np.ndarray:
    """(F, H, W, 3) uint8: all frames of a file, or some."""
    (output,) = stored([content], device=device, frames=frames, to_cpu=True).run()
    return np.array(output.at(0))


def reason_of(error: Exception) -> str:
    """What DALI says, less where in the graph."""
    text = str(error)
    return " ".join((text.partition("encountered:")[2] or text).split())[:400]


def comparison(file: Path, *, device: str) -> dict[str, Any]:
    """All frames of a file by DALI, against PyAV and against the numbers that they show."""
    from mgs_dali.decode.frames import decode_file, rgb

    try:
        video = pictures_by_dali(np.fromfile(file, np.uint8), device=device)
    except RuntimeError as error:
        return {"decoded": False, "reason": reason_of(error)}
    reference = np.stack([rgb(frame) for frame in decode_file(file)])
    found = {"decoded": True, "frames": len(video), "frames by PyAV": len(reference)} | numbers_of(video)
    if video.shape != reference.shape:
        return found
    difference = np.abs(video.astype(np.int16) - reference)
    return found | {"mean difference": _level(difference), "largest difference": int(difference.max())}


def numbers_of(video: np.ndarray) -> dict[str, Any]:
    """Which numbers its pictures show, where frame k should show k."""
    shown = [read_number(picture) for picture in video]
    return {
        "frames out of place": sum(number != index for index, number in enumerate(shown)),
        "shown first": shown[:16],
        "black": int((video.reshape(len(video), -1).max(axis=1) < 20).sum()),
    }


def _level(difference: np.ndarray) -> float:
    return round(float(difference.mean()), 3)


# --- the questions --------------------------------------------------------------------------------------------------


def drivers_table(_folder: Path, device: str) -> dict[str, Any]:
    """What the driver says that it decodes, what of it DALI can use, and the questions that it refused."""
    found: dict[str, Any] = {"libnvcuvid is found": can_load("libnvcuvid.so.1")}
    if device != "cuda":
        return found
    import torch

    torch.zeros(1, device="cuda")  # makes the context that the driver is asked in
    return found | answers_of_driver()


def answers_of_driver() -> dict[str, Any]:
    """The same, in a process that has a CUDA context."""
    from mgs_dali.load import nvdec

    answers = nvdec.ask_driver()
    statuses = Counter(answer.status for answer in answers.values())
    found: dict[str, Any] = {
        "statuses": {str(status): count for status, count in statuses.items()},
        "refused with an error": [[*kind, answer.status] for kind, answer in answers.items() if answer.status],
        "supported": [
            {"kind": list(kind), "output formats": answer.output_formats, **vars(answer.limits)}
            for kind, answer in answers.items()
            if answer.status == 0 and answer.is_supported
        ],
    }
    try:
        return found | {"taken": [list(kind) for kind in nvdec.limits_of(answers)]}
    except RuntimeError as error:
        return found | {"taken": [], "error": str(error)}


def by_frames(file: str) -> Callable[[Path, str], dict[str, Any]]:
    """Chosen frames of one clip, by the operator's argument ``frames``."""

    def answer(folder: Path, device: str) -> dict[str, Any]:
        frames = [0, 7, 8, 31, 59]
        try:
            video = pictures_by_dali(np.fromfile(folder / file, np.uint8), device=device, frames=frames)
        except RuntimeError as error:
            return {"decoded": False, "reason": reason_of(error)}
        shown = [read_number(picture) for picture in video]
        return {"decoded": True, "right": shown == frames, "asked for": frames, "shown": shown}

    return answer


def whole_and_copied(file: str) -> Callable[[Path, str], dict[str, Any]]:
    """A file as it is, and a copy of all its packets as the loader hands it over."""

    def answer(folder: Path, device: str) -> dict[str, Any]:
        from mgs_dali.decode.cut import cut

        found: dict[str, Any] = {"the file": comparison(folder / file, device=device)}
        copied = cut(folder / file, None)
        content = np.frombuffer(copied.file, np.uint8)
        frames = (copied.pictures if device == "cuda" else copied.frames).tolist()
        try:
            video = pictures_by_dali(content, device=device, frames=frames)
        except RuntimeError as error:
            return found | {"a copy": {"decoded": False, "reason": reason_of(error)}}
        return found | {"a copy": {"decoded": True, "frames": len(video)} | numbers_of(video)}

    return answer


def whole(file: str) -> Callable[[Path, str], dict[str, Any]]:
    """A kind that DALI may not take, which the loader does not hand over then."""

    def answer(folder: Path, device: str) -> dict[str, Any]:
        return comparison(folder / file, device=device)

    return answer


def odd_size(folder: Path, device: str) -> dict[str, Any]:
    """A clip of 427x239: whether it comes out, and right up to its edges."""
    from mgs_dali.decode.frames import decode_file, rgb

    file = folder / "hard-odd-size.webm"
    try:
        video = pictures_by_dali(np.fromfile(file, np.uint8), device=device)
    except RuntimeError as error:
        return {"decoded": False, "reason": reason_of(error)}
    found = {"decoded": True, "shape": list(video.shape)} | numbers_of(video)
    reference = np.stack([rgb(frame) for frame in decode_file(file)])
    if video.shape != reference.shape:
        return found
    difference = np.abs(video.astype(np.int16) - reference)
    parts = {
        "": difference,
        " of the first column": difference[:, :, 0],
        " of the last column": difference[:, :, -1],
        " of the first row": difference[:, 0],
        " of the last row": difference[:, -1],
    }
    return found | {f"mean difference{part}": _level(some) for part, some in parts.items()}


def damaged(file: str) -> Callable[[Path, str], dict[str, Any]]:
    """What DALI gives for a file with damage inside packets: an error, or pictures unlike those that were encoded."""

    def answer(folder: Path, device: str) -> dict[str, Any]:
        try:
            video = pictures_by_dali(np.fromfile(folder / file, np.uint8), device=device)
        except RuntimeError as error:
            return {"decoded": False, "reason": reason_of(error)}
        job = numbered_job(folder / file, KINDS[0])
        encoded = [*pictures_of(job)][: len(video)]
        far = unlike(video[: len(encoded)], np.stack(encoded))
        return (
            {"decoded": True, "frames": len(video)}
            | numbers_of(video)
            | {"unlike the source": far.nonzero()[0].tolist()}
        )

    return answer


def loaded(file: str) -> Callable[[Path, str], dict[str, Any]]:
    """What the loader makes of a damaged file, route "auto": an error, or pictures; those of what was encoded?"""

    def answer(folder: Path, device: str) -> dict[str, Any]:
        from mgs_dali.sampling import MotionGuided, Uniform

        if device == "cpu":
            spawn_workers()
        found = {}
        with auto_takes_gpu_routes(device):
            for sampler in (Uniform(8), MotionGuided(8)):
                found[type(sampler).__name__] = _loaded(folder, file, sampler, device=device)
        return found

    return answer


def _loaded(folder: Path, file: str, sampler: Any, *, device: str) -> dict[str, Any]:
    from mgs_dali import ClipLoader, read_annotations

    one = folder / f"{file}.txt"
    one.write_text(f"{file} 0\n")
    clips = read_annotations(one, root=folder)
    options: dict[str, Any] = {"batch_size": 1, "training": False, "size": SIDE, "num_workers": 1}
    try:
        with ClipLoader(clips, sampler=sampler, device=device, **options) as loader:
            (batch,) = loader
            found: dict[str, Any] = {"route": loader.route, "left to the host": dict(loader.decoded_on_host)}
    except ValueError as error:
        return {"refused": str(error).replace(str(folder), "")[:500]}
    frames = batch.frames[0].tolist()
    pictures = grey_levels(batch.clips)[0]
    # What the same frames of the same pictures look like without damage, by PyAV.
    whole = read_annotations(list_of(folder, "smoke"), root=folder)
    sources = {path: row for row, path in enumerate(whole.paths)}
    reference = _cropped(whole.file(sources["smoke-vp9.webm"]), frames)
    return found | {
        "frames": frames,
        "shown": [read_number(picture, shown=SHOWN) for picture in pictures],
        "unlike the source": [frame for frame, far in zip(frames, unlike(pictures, reference), strict=True) if far],
    }


def _cropped(file: Path, frames: list[int]) -> np.ndarray:
    """The frames as the loader shows them, resized in another way."""
    from PIL import Image

    from mgs_dali.decode.frames import decode_file, rgb

    pictures = [rgb(frame) for frame in decode_file(file)]
    height, width = pictures[0].shape[:2]
    side = round(min(height, width) * SHOWN)
    box = ((width - side) // 2, (height - side) // 2, (width + side) // 2, (height + side) // 2)
    bilinear = Image.Resampling.BILINEAR
    return np.stack([np.asarray(Image.fromarray(pictures[k]).resize((SIDE, SIDE), bilinear, box)) for k in frames])


SMOKE: dict[str, Callable[[Path, str], dict[str, Any]]] = {
    "driver's table": drivers_table,
    "h264 by frames": by_frames("smoke-h264-b-gop250.mp4"),
    "vp9 by frames": by_frames("smoke-vp9.webm"),
    "hevc by frames": by_frames("smoke-hevc.mp4"),
    "hidden frames": whole_and_copied("hard-vp9-hidden.webm"),
    "edit list": whole_and_copied("hard-edit-list.mp4"),
    "mjpeg": whole("rare-mjpeg.avi"),
    "odd size": odd_size,
}
"""In order of importance."""
LOADED = {
    f"loaded {codec}": loaded(f"damaged-{codec}.{end}")
    for codec, end in (("h264", "mp4"), ("hevc", "mp4"), ("vp9", "webm"))
}
DAMAGE = {
    f"damaged {codec}": damaged(f"damaged-{codec}.{end}")
    for codec, end in (("h264", "mp4"), ("hevc", "mp4"), ("vp9", "webm"))
}

RARE = {f"codec {kind.name}": whole(f"rare-{kind.name}.{kind.suffix}") for kind in RARE_KINDS}
QUESTIONS = SMOKE | DAMAGE | LOADED | RARE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("question", choices=list(QUESTIONS))
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--device", choices=("cuda", "cpu"), required=True)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    write_json(options.json, QUESTIONS[options.question](options.folder, options.device))


if __name__ == "__main__":
    main()
