"""What the doctor says: of what was found, by each check; and as a command, with anything missing."""

from __future__ import annotations

import json
import math
import os
import re
import resource
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hard_videos import write

from mgs_dali.doctor import (
    LEVELS,
    Line,
    check_cpus,
    check_dali,
    check_disk,
    check_gpu,
    check_memory,
    check_nvjpeg,
    check_open_files,
    check_packages,
    check_python,
    check_shared_memory,
    check_torch,
    check_weights,
    main,
    show,
    weights_folder,
)
from mgs_dali.driver import Driver
from mgs_dali.machine import Room

ROOT = Path(__file__).parents[1]
MIB, GIB = 2**20, 2**30
NO_DRIVER = Driver(num_cards=0, version="", has_device_files=False)

SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["mgs_dali", "machine", "level", "lines", "trial"],
    "additionalProperties": False,
    "properties": {
        "mgs_dali": {"type": ["string", "null"]},
        "machine": {"type": "string"},
        "level": {"enum": list(LEVELS)},
        "lines": {
            "type": "array",
            "minItems": 10,
            "items": {
                "type": "object",
                "required": ["name", "level", "found", "do"],
                "additionalProperties": False,
                "properties": {
                    "name": {"type": "string", "minLength": 1},
                    "level": {"enum": list(LEVELS)},
                    "found": {"type": "string", "minLength": 1},
                    "do": {"type": "string"},
                },
                # What is not green comes with something to do.
                "if": {"properties": {"level": {"const": "green"}}},
                "then": {"properties": {"do": {"const": ""}}},
                "else": {"properties": {"do": {"minLength": 1}}},
            },
        },
        "trial": {"type": ["object", "null"]},
    },
}


# --- checks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "level", "found", "do"),
    [
        (check_python((3, 11, 7)), "green", "3.11.7", ""),
        (check_python((3, 9, 2)), "red", "3.9.2", "Install Python 3.10 or newer"),
        (check_packages({"numpy": "2.0", "av": "18"}, pyav_problem=""), "green", "numpy 2.0, av 18", ""),
        (
            check_packages({"numpy": "2.0", "av": None}, pyav_problem="x"),
            "red",
            "av missing; numpy 2.0",
            "pip install av",
        ),
        (check_packages({"av": "16.1"}, pyav_problem="PyAV 16.1 is"), "red", "PyAV 16.1 is", "'av>=17,<20'"),
        (check_torch("2.10", "13.2", has_gpu=True), "green", "2.10, CUDA 13.2", ""),
        (check_torch("2.10", None, has_gpu=False), "green", "2.10, built without CUDA", ""),
        (check_torch("2.10", None, has_gpu=True), "red", "built without CUDA on a machine with", "CUDA build"),
        (check_torch(None, None, has_gpu=False), "red", "missing", "pip install 'mgs-dali[train]'"),
        (check_dali({"nvidia-dali-cuda130": "2.4.0"}, "13.2"), "green", "2.4.0 (nvidia-dali-cuda130)", ""),
        (check_dali({"nvidia-dali-cuda120": "2.4.0"}, "13.2"), "yellow", "PyTorch is for CUDA 13.2", "CUDA 13"),
        (check_dali({"nvidia-dali-cuda120": "2.4.0"}, None), "green", "2.4.0", ""),
        (check_dali({}, "13.2"), "red", "missing", "pip install 'mgs-dali[cuda130]'"),
        (check_dali({}, "12.8"), "red", "missing", "pip install 'mgs-dali[cuda120]'"),
        (
            check_dali({"nvidia-dali-cuda130": "2.4.0", "nvidia-dali-cuda120": "2.3.0"}, "13.2"),
            "red",
            "2.4.0 (nvidia-dali-cuda130), 2.3.0 (nvidia-dali-cuda120)",
            "pip uninstall nvidia-dali-cuda130 nvidia-dali-cuda120",
        ),
        (check_nvjpeg("13.3.2.43", has_gpu=True), "green", "13.3.2.43", ""),
        (check_nvjpeg("13.1.0", has_gpu=True), "yellow", "13.1.0", "--upgrade nvidia-nvjpeg"),
        (check_nvjpeg("12.4.0.76", has_gpu=True), "green", "12.4.0.76", ""),
        (check_nvjpeg(None, has_gpu=True), "yellow", "missing", "pip install nvidia-nvjpeg"),
        (check_nvjpeg(None, has_gpu=False), "green", "missing, and no GPU", ""),
        # 8 clips x 8 pictures x 340 x 256 x 3 bytes are 16 MiB less 3 %; of those 8 and 2.
        (
            check_shared_memory(Room(64 * MIB, 64 * MIB), num_workers=8, num_processes=1),
            "red",
            "64 MiB free of 64 MiB; the default batch needs 159 MiB",
            "--shm-size=1g",
        ),
        (
            check_shared_memory(Room(GIB, 100 * MIB), num_workers=8, num_processes=1),
            "yellow",
            "100 MiB free of 1,024 MiB",
            "--shm-size=1g",
        ),
        (check_shared_memory(Room(GIB, GIB), num_workers=8, num_processes=1), "green", "1,024 MiB free", ""),
        (
            check_shared_memory(Room(GIB, GIB), num_workers=8, num_processes=8),
            "yellow",
            "needs 1,275 MiB in 8 processes",
            "--shm-size=3g",
        ),
        (check_shared_memory(None, num_workers=1, num_processes=1), "red", "there is none", "/dev/shm"),
        (check_open_files(1024, 4096), "yellow", "1,024 (hard limit: 4,096)", "ulimit -n 4096"),
        (check_open_files(1024, 2048), "yellow", "1,024", "needs a higher hard limit"),
        (check_open_files(100, resource.RLIM_INFINITY), "red", "100 (hard limit: no limit)", "--ulimit nofile=65536"),
        (check_open_files(65536, 65536), "green", "65,536", ""),
        (check_open_files(resource.RLIM_INFINITY, resource.RLIM_INFINITY), "green", "no limit", ""),
        (check_cpus(16, math.inf, num_gpus=0, num_threads=None), "green", "16", ""),
        (
            check_cpus(16, 2.5, num_gpus=0, num_threads=None),
            "yellow",
            "16 seen, 2.5 of them by the container's quota",
            "OMP_NUM_THREADS=2",
        ),
        (check_cpus(16, 2.5, num_gpus=0, num_threads="2"), "green", "2.5 of them", ""),
        (check_cpus(16, math.inf, num_gpus=8, num_threads=None), "yellow", "16, for 8 GPUs", "4 or more a GPU"),
        (check_memory(Room(32 * GIB, 16 * GIB), num_workers=8), "green", "16.0 GiB free of 32.0 GiB", ""),
        (check_memory(Room(8 * GIB, 2 * GIB), num_workers=8), "yellow", "2.0 GiB free", "fewer num_workers"),
        (check_memory(Room(8 * GIB, GIB // 2), num_workers=1), "red", "0.5 GiB free", "fewer num_workers"),
    ],
)
def test_each_check(line: Line, level: str, found: str, do: str) -> None:
    assert line.level == level
    assert found in line.found
    assert do in line.do
    assert bool(line.do) == (level != "green")


def test_no_gpu_is_no_fault() -> None:
    (line,) = check_gpu(NO_DRIVER, cuda_major=13, in_container=False)
    assert line.level == "yellow"
    assert "docs/gpu.md" in line.do


def test_the_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_disk(tmp_path / "not" / "there").level in ("green", "yellow")
    for free, level in ((10 * GIB, "green"), (GIB, "yellow"), (GIB // 4, "red")):
        monkeypatch.setattr("shutil.disk_usage", lambda _, free=free: type("Usage", (), {"free": free}))
        assert check_disk(tmp_path).level == level
    monkeypatch.setattr("os.access", lambda *_: False)
    line = check_disk(tmp_path / "runs")
    assert (line.level, line.found) == ("red", f"{tmp_path} cannot be written to")


def test_weights(tmp_path: Path) -> None:
    assert check_weights(tmp_path, reach=lambda: "").level == "green"
    for reach, found in ((lambda: "no name", "is not reached: no name"), (None, "was not tried")):
        line = check_weights(tmp_path, reach=reach)
        assert line.level == "yellow"
        assert line.found.startswith(f"resnet50-0676ba61.pth is not in {tmp_path}")
        assert found in line.found
        assert "https://download.pytorch.org/models/resnet50-0676ba61.pth" in line.do
        assert "--weights null" in line.do
    (tmp_path / "resnet50-0676ba61.pth").touch()
    assert check_weights(tmp_path, reach=None).level == "green"


def test_weights_are_looked_for_where_pytorch_keeps_them() -> None:
    environs: list[dict[str, str]] = [{}, {"TORCH_HOME": "/x"}, {"XDG_CACHE_HOME": "/y"}]
    program = (
        "import json, os, sys; from models.pretrained import weights_file\n"
        "for environ in json.loads(sys.argv[1]): os.environ.update(environ); print(weights_file(50)); "
        "[os.environ.pop(name) for name in environ]\n"
    )
    kept = {name: value for name, value in os.environ.items() if name not in ("TORCH_HOME", "XDG_CACHE_HOME")}
    command = [sys.executable, "-c", program, json.dumps(environs)]
    done = subprocess.run(command, cwd=ROOT, env=kept, capture_output=True, text=True, check=True)
    files = [weights_folder(environ) / "resnet50-0676ba61.pth" for environ in environs]
    assert list(map(Path, done.stdout.split())) == files


def test_the_table() -> None:
    lines = [Line("a", "green", "well"), Line("longer", "red", "broken", "mend it")]
    assert show(lines, in_colour=False).splitlines() == [
        "green   a       well",
        "red     longer  broken",
        "                -> mend it",
    ]
    assert "\x1b[31mred   \x1b[0m  longer" in show(lines, in_colour=True)


# --- the command ------------------------------------------------------------------------------------------------------


def doctor(*arguments: str, python: Sequence[str] = (), **environ: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, *python, "-m", "mgs_dali", "doctor", *arguments],
        cwd=ROOT,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_quick_is_quick_and_asks_nobody() -> None:
    before = os.times()
    code, out, err = doctor("--quick", "--json")
    after = os.times()
    found = json.loads(out)
    jsonschema.validate(found, SCHEMA)
    assert not err
    assert code == int(found["level"] == "red")
    names = [line["name"] for line in found["lines"]]
    assert names[:5] == ["Python", "packages", "PyTorch", "DALI", "driver"]
    assert names[-7:] == ["nvJPEG", "/dev/shm", "open files", "CPU cores", "memory", "run folder", "weights"]
    assert found["trial"] is None
    # Processor time, which other work on the machine does not add to.
    assert after.children_user + after.children_system - before.children_user - before.children_system < 3


def test_the_table_has_the_lines_of_the_json() -> None:
    code, out, _ = doctor("--quick")
    found = json.loads(doctor("--quick", "--json")[1])
    levels = [row.split()[0] for row in out.splitlines() if not row.startswith(" ")]
    assert levels == [line["level"] for line in found["lines"]]
    assert code == int("red" in levels)


HIDE = """
import runpy, sys
packages = sys.argv[1].split(",")
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in packages:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
import importlib.metadata as metadata
distribution = metadata.distribution
def hidden(name):
    if name in packages or name.startswith("nvidia-dali") and "nvidia" in packages:
        raise metadata.PackageNotFoundError(name)
    return distribution(name)
metadata.distribution = hidden
sys.meta_path.insert(0, Hidden())
sys.argv = ["mgs-dali", *sys.argv[2:]]
runpy.run_module("mgs_dali", run_name="__main__")
"""


def without(packages: str, *arguments: str) -> tuple[int, str, str]:
    """The command where packages are missing."""
    done = subprocess.run(
        [sys.executable, "-c", HIDE, packages, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("packages", "red"),
    [
        ("torch", {"PyTorch"}),
        ("nvidia", {"DALI"}),
        ("av", {"packages"}),
        ("numpy,av,pyarrow,tqdm,jsonargparse,torch,nvidia", {"packages", "PyTorch", "DALI"}),
    ],
)
def test_it_runs_with_anything_missing(packages: str, red: set[str]) -> None:
    """And says of each what to install; what would need it is not tried."""
    code, out, err = without(packages, "doctor", "--json")
    assert code == 1, err
    found = json.loads(out)
    jsonschema.validate(found, SCHEMA)
    lines = {line["name"]: line for line in found["lines"]}
    assert {name for name, line in lines.items() if line["level"] == "red"} == red | {"decoding"}
    for name in red:
        assert "missing" in lines[name]["found"]
        assert "pip install" in lines[name]["do"]
    assert "Traceback" not in err


def test_other_commands_send_to_it_where_something_is_missing() -> None:
    code, out, err = without("jsonargparse", "demo", "x")
    assert (code, out) == (2, "")
    assert err == "error: No module named 'jsonargparse'. See what is missing with: mgs-dali doctor\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--quick", "list.txt"], "--quick decodes nothing"),
        (["--root", "videos"], "belong to a LIST"),
        (["--slow"], "unrecognized arguments: --slow"),
        (["no/such/list.txt"], "no/such/list.txt"),
    ],
)
def test_wrong_command_lines(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mgs_dali.doctor.prove_decoding", lambda **_: [])
    assert main(arguments) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("as_json", [False, True])
def test_a_list_is_tried(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, as_json: bool
) -> None:
    """Which of two routes is faster is decided here: the graph's, by far."""
    trial = pytest.importorskip("mgs_dali.load.trial")
    pytest.importorskip("torch")
    pytest.importorskip("nvidia.dali")
    write(tmp_path / "a.webm", "libvpx-vp9", range(12), size=(64, 64))
    (tmp_path / "list.txt").write_text("a.webm 0\n" * 4)
    rates = {"host": 10.0, "gpu": 90.0, "host-sparse": 20.0, "gpu-sparse": 15.0}
    measured = partial(trial.try_clips, measure=lambda route, num_workers, _seconds: rates[route] * num_workers)
    monkeypatch.setattr(trial, "try_clips", measured)
    monkeypatch.setattr("mgs_dali.doctor.prove_decoding", lambda **_: [])
    code = main([str(tmp_path / "list.txt"), "--root", str(tmp_path), *["--json"] * as_json])
    out = capsys.readouterr().out
    if as_json:
        found = json.loads(out)
        jsonschema.validate(found, SCHEMA)
        assert found["trial"]["fastest"] == "gpu"
        assert code == int(found["level"] == "red")
    else:
        assert re.search(r"gpu +takes 4 of 4 .*<- fastest", out)
        assert re.search(r"host-sparse +takes 4 of 4 .*<- fastest", out)
        assert "route='gpu'" in out.splitlines()[-1] or "Fastest here: ClipLoader(..., route='gpu'" in out
