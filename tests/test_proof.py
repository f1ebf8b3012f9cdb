"""The proof that decoding works: the clips that the package brings, the numbers in them, and children that go wrong."""

from __future__ import annotations

import configparser
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import av
import numpy as np
import pytest
from make_proof_clips import picture

from mgs_dali.decode.cut import cut
from mgs_dali.load import proof
from mgs_dali.load.proof import CLIPS, NUM_FRAMES, ROUTES, SIDE, Proof, bars_of, clip_file, number_in, proved

ROOT = Path(__file__).parents[1]


# --- clips and bars ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", CLIPS)
def test_clips_show_their_numbers(codec: str) -> None:
    with av.open(str(clip_file(codec))) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.codec.canonical_name == codec
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert [number_in(shown) for shown in pictures] == list(range(NUM_FRAMES))
    assert {shown.shape for shown in pictures} == {(SIDE, SIDE, 3)}


@pytest.mark.parametrize("codec", CLIPS)
def test_nothing_but_the_codec_can_keep_a_clip_from_a_gpu(codec: str) -> None:
    copied = cut(clip_file(codec), None)
    assert copied.level != "full"
    assert copied.gpu_refusal == ""
    assert (copied.num_packets > NUM_FRAMES) == (codec == "vp9")  # a hidden picture


def test_clips_are_small_and_in_the_package() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert "proof_clips/*" in setup["options.package_data"]["mgs_dali"]
    folder = ROOT / "mgs_dali/proof_clips"
    assert {file.name for file in folder.iterdir()} == set(CLIPS.values())
    assert sum(file.stat().st_size for file in folder.iterdir()) < 100_000


def test_all_numbers_are_told_apart() -> None:
    assert len({tuple(bars_of(number)) for number in range(64)}) == 64
    for number in range(64):
        assert number_in(picture(number, SIDE, SIDE)) == number
        assert number_in(picture(number, 90, 50).astype(np.float32)) == number


@pytest.mark.parametrize(
    "spoil",
    [
        lambda image: image[::-1],
        lambda image: image[:, ::-1],
        lambda image: image[::-1, ::-1],
        lambda image: image.transpose(1, 0, 2),
        lambda image: image[..., ::-1],
        lambda image: image * 0,
        lambda image: image // 4 + 60,
        lambda image: image.mean(axis=-1, keepdims=True).repeat(3, axis=-1),
        lambda image: np.roll(image, SIDE // 9, axis=1),
    ],
    ids=["flipped", "mirrored", "turned", "transposed", "colours swapped", "black", "faded", "grey", "rolled"],
)
def test_other_pictures_show_no_number(spoil: Callable[[np.ndarray], np.ndarray]) -> None:
    for number in range(64):
        assert number_in(spoil(picture(number, SIDE, SIDE))) is None


def test_one_bar_that_is_wrong_is_seen() -> None:
    for place in range(9):
        image = picture(5, SIDE, SIDE)
        columns = slice(SIDE * place // 9, SIDE * (place + 1) // 9)
        image[:, columns] = image[::-1, columns]
        assert number_in(image) is None


def test_what_differs() -> None:
    assert proof._difference([1, 4, 4], [1, 4, 4]) == ""
    assert proof._difference([1, 4, 4], [1, 3, None]) == "frames 1 4 4 were chosen, and those delivered show 1 3 ?"


# --- the real thing ---------------------------------------------------------------------------------------------------


def test_every_codec_on_every_route_of_the_cpu() -> None:
    pytest.importorskip("torch")
    pytest.importorskip("nvidia.dali")
    found = proof.prove(device="cpu", timeout_s=600)
    assert [(one.route, one.codec) for one in found] == [(route, codec) for route in ROUTES for codec in CLIPS]
    for one in found:
        if one.route.startswith("host") or one.codec in ("vp8", "vp9", "mjpeg"):
            assert one.outcome == "right", one
            assert one.text == f"the frames of Uniform{'' if one.route.endswith('sparse') else ' and MotionGuided'}"
        else:
            assert one.outcome == "refused", one
            assert one.text == f"codec {one.codec} is not decoded without a GPU (decoded: mjpeg, vp8, vp9)"


def test_pictures_of_other_frames_are_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("nvidia.dali")
    monkeypatch.setattr(proof, "number_in", lambda image: min(number_in(image) or 0, 12))
    outcome, text = proof._prove_one("vp9", route="host-sparse", device="cpu")
    assert outcome == "wrong"
    assert text.startswith("Uniform: frames 1 4 7 10 13 16 19 22 were chosen, and those delivered show 1 4 7 10 12 12")


class Refusing:
    """In place of a ClipLoader: says of its batches what it is told to."""

    error: Exception | None = None
    cause: Exception | None = None
    decoded_on_host: ClassVar[Counter[str]] = Counter()

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __enter__(self) -> Refusing:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def refuses_video(self, _: int) -> str:
        return ""

    def __iter__(self) -> Iterator[object]:
        if self.error is not None:
            raise self.error from self.cause
        yield object()


FILE = str(clip_file("vp9"))


@pytest.mark.parametrize(
    ("route", "error", "cause", "is_refusal"),
    [
        ("gpu", ValueError(f"{FILE} (list, line 1): it starts at an open GOP."), None, True),
        ("gpu", ValueError(f"DALI failed on one of these videos:\n  {FILE}"), RuntimeError("decoder"), False),
        ("gpu", ValueError(f"{FILE} (list, line 1): for a reason that was not foreseen (KeyError)."), None, False),
        ("gpu", ValueError("/dev/shm is too small"), None, False),
        ("gpu-sparse", RuntimeError("worker processes ended"), None, False),
        ("host", ValueError(f"{FILE} (list, line 1): the file is damaged."), None, False),
    ],
)
def test_errors_that_are_refusals(
    route: str, error: Exception, cause: Exception | None, is_refusal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = pytest.importorskip("mgs_dali.load.loader")
    monkeypatch.setattr(Refusing, "error", error)
    monkeypatch.setattr(Refusing, "cause", cause)
    monkeypatch.setattr(loader, "ClipLoader", Refusing)
    if is_refusal:
        assert proof._prove_one("vp9", route=route, device="cpu") == ("refused", str(error))
    else:
        with pytest.raises(type(error), match=re.escape(str(error))):
            proof._prove_one("vp9", route=route, device="cpu")


def test_a_detour_over_the_cpu_is_no_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    loader = pytest.importorskip("mgs_dali.load.loader")
    monkeypatch.setattr(Refusing, "decoded_on_host", Counter({"it is too large": 2}))
    monkeypatch.setattr(loader, "ClipLoader", Refusing)
    outcome, text = proof._prove_one("vp9", route="gpu", device="cpu")
    assert (outcome, text) == ("refused", "decoded on the CPU instead: it is too large")


def test_a_device_that_is_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("nvidia.dali")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    outcome, text = proof._prove_one("vp9", route="gpu", device="cuda")
    assert outcome == "refused"
    assert "PyTorch finds no CUDA device here" in text


# --- children that go wrong -------------------------------------------------------------------------------------------

CHILD = """
import json, os, signal, sys, time
jobs = sys.argv[3:]
assert sys.argv[1:3] == ["--device", "cpu"], sys.argv
def right(job):
    route, codec = job.split(":")
    print(json.dumps(dict(codec=codec, route=route, outcome="right", text="seen")), flush=True)
"""


def outcomes(program: str, codecs: tuple[str, ...] = ("h264", "vp9", "av1"), timeout_s: float = 600) -> list[Proof]:
    command = (sys.executable, "-c", CHILD + program)
    return list(proved(device="cpu", routes=("host",), codecs=codecs, program=command, timeout_s=timeout_s))


def test_a_crash_is_of_the_codec_that_was_under_way() -> None:
    found = outcomes("""
for job in jobs:
    if job == "host:vp9":
        print("first line\\n  the last   line\\n", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGSEGV)
    right(job)
""")
    assert [(one.codec, one.outcome) for one in found] == [("h264", "right"), ("vp9", "failed"), ("av1", "right")]
    assert found[1].text == "the process ended with SIGSEGV: the last line"


def test_a_hang_is_ended() -> None:
    (found,) = outcomes("time.sleep(3600)", ("vp9",), timeout_s=0.5)
    assert found == Proof("vp9", "host", "failed", "nothing came for 0.5 s; the process was ended")


def test_a_child_that_says_nothing_is_not_started_for_ever() -> None:
    found = outcomes("print('not JSON'); print('{}'); print('[1]')")
    assert [one.text for one in found] == ["the process ended with exit code 0"] * 3


def test_a_child_that_stops_after_a_failure_is_followed_by_another() -> None:
    found = outcomes("right(jobs[0])")
    assert [one.outcome for one in found] == ["right"] * 3


def test_an_error_ends_the_child_and_what_libraries_print_is_no_proof() -> None:
    program = """
import os, sys
from mgs_dali.load import proof
def prove_one(codec, *, route, device):
    assert (route, device) == ("host", "cpu")
    print("a library")
    os.write(1, b"another\\n")
    if codec == "vp9":
        raise RuntimeError("CUDA error:\\n  700")
    return "right", str(os.getpid())
proof._prove_one = prove_one
raise SystemExit(proof.main())
"""
    codecs = ("h264", "hevc", "vp9", "av1")
    found = list(
        proved(device="cpu", routes=("host",), codecs=codecs, program=(sys.executable, "-c", program), timeout_s=600)
    )
    assert [one.outcome for one in found] == ["right", "right", "failed", "right"]
    assert found[2].text == "RuntimeError: CUDA error: 700"
    assert found[0].text == found[1].text != found[3].text


def test_leaving_early_ends_the_child(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    program = f"open({str(pid_file)!r}, 'w').write(str(os.getpid())); right(jobs[0]); time.sleep(3600)"
    command = (sys.executable, "-c", CHILD + program)
    running = proved(device="cpu", routes=("host",), codecs=("h264", "vp9"), program=command, timeout_s=600)
    assert next(running).codec == "h264"
    pid = int(pid_file.read_text())
    os.kill(pid, 0)
    running.close()  # type: ignore[attr-defined]  # as an exception in the loop over it does
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_exit_codes() -> None:
    assert proof._end_text(3, "") == "the process ended with exit code 3"
    assert proof._end_text(-signal.SIGKILL, "") == "the process ended with SIGKILL"
    assert proof._end_text(-40, "why") == "the process ended with signal 40: why"


BLOCKED = """
import runpy, sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocker())
"""


@pytest.mark.parametrize("package", ["torch", "av"])
def test_a_package_that_is_missing(package: str) -> None:
    program = BLOCKED.format(blocked=[package]) + "runpy.run_module('mgs_dali.load.proof', run_name='__main__')"
    command = (sys.executable, "-c", program)
    found = list(proved(device="cpu", routes=("host",), codecs=("h264", "vp9"), program=command, timeout_s=600))
    assert [one.outcome for one in found] == ["failed"] * 2
    assert all(one.text.startswith("ModuleNotFoundError: ") for one in found)
    assert all(package in one.text for one in found)


def test_the_parent_needs_the_standard_library_only() -> None:
    program = BLOCKED.format(blocked=["numpy", "torch", "nvidia", "av", "pyarrow"]) + (
        "import json, mgs_dali.load.proof as proof; print(json.dumps([proof.CLIPS, proof._last_line.__name__]))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)[0] == CLIPS
