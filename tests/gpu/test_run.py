"""The script of the GPU tests, tried without a GPU, so that a slip in it does not cost a session on one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from clip_sets import read_number
from machine import (
    DmonParser,
    Report,
    Utilisation,
    environment,
    parse_query,
    tree_memory_bytes,
    without_folders_of,
)
from run import ORDER, markdown

RUN = Path(__file__).with_name("run.py")


@pytest.mark.parametrize(
    ("line", "sample"),
    [
        ("35, 71\n", (35, 71)),
        ("0, 0", (0, 0)),
        ("[N/A], 12", None),
        ("", None),
        ('Field "utilization.decoder" is not a valid field to query.', None),
    ],
)
def test_lines_of_a_query(line: str, sample: tuple[float, float] | None) -> None:
    assert parse_query(line) == sample


def test_lines_of_dmon() -> None:
    lines = [
        "# gpu     sm    mem    enc    dec    jpg    ofa",
        "# Idx      %      %      %      %      %      %",
        "    0     12      3      0     57      0      0",
        "    0      -      -      -      -      -      -",
        "    0     14      3      0     71      0      0",
        "garbage",
    ]
    parse = DmonParser()
    assert [parse(line) for line in lines] == [None, None, (12, 57), None, (14, 71), None]


def test_dmon_columns_are_found_by_name() -> None:
    parse = DmonParser()
    assert parse("#gpu  dec  sm") is None
    assert parse("   0   80   5") == (5, 80)


ANSWERS = {
    "query": """case "$*" in *-lms*) while :; do echo "35, 71"; sleep 0.01; done;; *) echo "0, 0";; esac""",
    "dmon": """case "$*" in
*dmon*) echo "# gpu sm mem enc dec jpg ofa"; while :; do echo "  0 35 3 0 71 0 0"; sleep 0.01; done;;
*) echo 'Field "utilization.decoder" is not a valid field to query.'; exit 2;; esac""",
}


@pytest.mark.parametrize("way", ANSWERS)
def test_utilisation_by_a_stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/bash\n{ANSWERS[way]}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with Utilisation() as utilisation:
        for _ in range(1000):
            if utilisation.summary() is not None:
                break
            time.sleep(0.01)
    summary = utilisation.summary()
    assert summary is not None
    assert (summary["gpu_mean"], summary["decoder_mean"], summary["decoder_max"]) == (35, 71, 71)


def test_no_utilisation_without_nvidia_smi(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with Utilisation() as utilisation:
        pass
    assert utilisation.summary() is None


def test_a_search_path_without_the_folders_of_a_library(tmp_path: Path) -> None:
    for folder in ("npp", "driver"):
        (tmp_path / folder).mkdir()
    (tmp_path / "npp" / "libnppc.so.13").touch()
    (tmp_path / "driver" / "libcuda.so.1").touch()
    path = os.pathsep.join(["", str(tmp_path / "npp"), str(tmp_path / "driver"), str(tmp_path / "none")])
    assert without_folders_of("libnppc.so", path).split(os.pathsep) == [
        str(tmp_path / "driver"),
        str(tmp_path / "none"),
    ]


def test_memory_of_a_process_with_its_children() -> None:
    block = 200 * 2**20
    before = tree_memory_bytes(os.getpid())
    code = f"data = bytearray({block}); data[::4096] = bytes([1]) * len(data[::4096]); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert tree_memory_bytes(os.getpid()) - before > 0.9 * block
        child.communicate(b"\n")


def test_a_report_keeps_what_came_before_an_error(tmp_path: Path) -> None:
    report = Report(tmp_path / "report.json")
    report["first"] = 1

    def fail() -> None:
        raise RuntimeError("no such thing")

    report.attempt("second", fail)
    assert json.loads((tmp_path / "report.json").read_text()) == {
        "first": 1,
        "second": {"error": "RuntimeError: no such thing"},
    }


def test_the_summary_names_what_failed_and_what_was_left_out() -> None:
    results: dict[str, Any] = {
        "environment": environment(RUN.parent),
        "sections": {
            "tests": {
                "status": "failed with exit status 1",
                "seconds": 3.0,
                "tests": {"run": 4, "skipped": 1, "failed": {"test_a": "bad |\n thing"}, "seconds": {}},
                "found": {"picks": {"equal": 0.5, "by kind": {"vp9": 1.0}}},
            },
            "engines": {"status": "no time left"},
        },
    }
    text = markdown(results)
    assert "#### tests: failed with exit status 1 (3.0 s)" in text
    assert "4 tests, 1 failed, 1 skipped." in text
    assert "- `test_a` failed: bad / thing" in text
    assert "| picks | equal 0.5; by kind (vp9 1.0) |" in text
    assert "#### engines: no time left (0 s)" in text


@pytest.mark.slow
def test_every_section_runs_without_a_gpu(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    command = [sys.executable, str(RUN), "--device", "cpu", "--seconds", "900", "--json", str(file)]
    variables = {name: value for name, value in os.environ.items() if name != "FAIL_WITHOUT_GPU"}
    result = subprocess.run(
        [*command, "--folder", str(tmp_path / "videos")], env=variables, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    results = json.loads(file.read_text())
    assert list(results["sections"]) == list(ORDER)
    for name, section in results["sections"].items():
        assert section["status"] == "ok", name
        errors = [value for value in section["found"].values() if isinstance(value, dict) and "error" in value]
        assert errors == [], name
    assert results["sections"]["tests"]["tests"]["failed"] == {}
    assert "| kinetics: gpu | clips/s (whole route" in result.stdout


def test_a_section_that_does_not_exist_is_named() -> None:
    result = subprocess.run(
        [sys.executable, str(RUN), "--only", "facts,speed"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert "no such section: speed. Sections: facts, tests, throughput" in result.stderr


def test_numbers_are_read_from_pictures() -> None:
    import numpy as np
    from clip_sets import KINDS, Job, _numbered_pictures

    job = Job(Path("none"), KINDS[0], 60, 192, 192, numbered=True)
    for index, picture in enumerate(_numbered_pictures(job)):
        assert read_number(picture) == index
        assert read_number(picture[12:180, 12:180], shown=168 / 192) == index
        assert read_number(np.zeros_like(picture)) == 0
