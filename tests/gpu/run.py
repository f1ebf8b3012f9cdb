"""Every GPU test and measurement in one go, within a time limit, on videos that it encodes itself::

    FAIL_WITHOUT_GPU=1 python tests/gpu/run.py --json gpu.json

From a checkout, with the packages of the host; mgs_dali need not be installed. Each section runs in a process of its
own, and each result is in the JSON from the moment it is known, so that a crash, a hang or the end of the machine
loses no other. The most important come first: when the time is over, the rest is left out and named. ``--device cpu``
tries the script without a GPU, on tiny videos, with workers that are spawned as on a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

# DALI's workers import this file: what is heavy is imported where it is used.
from clip_sets import make_clips
from machine import environment, without_folders_of, write_json

ROOT = Path(__file__).resolve().parents[2]
TESTS = Path(__file__).with_name("test_gpu.py")

# In order of importance; seconds that each may take at most.
ORDER = {
    "smoke": 60,
    "tests": 200,
    "engines": 170,
    "throughput": 270,
    "training": 130,
    "memory": 60,
    "long video": 90,
    "facts": 120,
    "variants": 90,
    "libraries": 30,
}
SAVED_SECONDS = 5
"""Kept back for the summary."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--seconds", type=float, default=1260, help="time limit (default: %(default)s)")
    out = Path(os.environ.get("OUT", ""))
    parser.add_argument(
        "--json", type=Path, default=out / "gpu.json", help="results (default: gpu.json, in $OUT if set)"
    )
    parser.add_argument("--folder", type=Path, help="where the videos are made, and found if they are there already")
    parser.add_argument("--only", help=f"some of the sections, with commas between them: {', '.join(ORDER)}")
    parser.add_argument("--section", help=argparse.SUPPRESS)  # this is the process of one section
    options = parser.parse_args()
    if options.section:
        return _run_section(options)
    chosen = list(ORDER) if options.only is None else options.only.split(",")
    if unknown := [name for name in chosen if name not in ORDER]:
        parser.error(f"--only: no such section: {', '.join(unknown)}. Sections: {', '.join(ORDER)}.")
    return _run_all(options, chosen)


def _run_all(options: argparse.Namespace, chosen: list[str]) -> int:
    deadline = time.monotonic() + options.seconds - SAVED_SECONDS
    folder = (options.folder or Path(tempfile.mkdtemp(prefix="gpu_tests_"))).resolve()
    sections: dict[str, Any] = {}
    results = {"environment": environment(ROOT), "device": options.device, "sections": sections}

    def keep(name: str, section: dict[str, Any]) -> None:
        sections[name] = section
        write_json(options.json, results)

    write_json(options.json, results)
    try:
        start = time.monotonic()
        results["not encoded"] = make_clips(folder, device=options.device)
        results["seconds to encode the videos"] = round(time.monotonic() - start, 1)
        for name in chosen:
            left = deadline - time.monotonic()
            print(f"{name}: {left:.0f} s left", flush=True)
            if left < 10:
                keep(name, {"status": "no time left"})
            else:
                most = ORDER[name] * (1 if options.device == "cuda" else 5)
                _in_own_process(name, options, folder, seconds=min(left, most), keep=partial(keep, name))
            section = sections[name]
            print(f"  {section['status']}, {section.get('seconds', 0)} s{_counts(section)}", flush=True)
            if section["status"] != "ok":
                print(section.get("log", ""), flush=True)
    finally:
        if options.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    print("\n" + markdown(results))
    return int(any(section["status"] not in ("ok", "no time left") for section in sections.values()))


def _counts(section: dict[str, Any]) -> str:
    tests = section.get("tests")
    return f": {tests['run']} tests, {len(tests['failed'])} failed, {tests['skipped']} skipped" if tests else ""


def _in_own_process(
    name: str,
    options: argparse.Namespace,
    folder: Path,
    *,
    seconds: float,
    keep: Callable[[dict[str, Any]], None],
) -> None:
    """Run one section, and keep its status, what it has found so far, and the end of its log where it failed."""
    stem = name.replace(" ", "_")
    found, tests, log = folder / f"{stem}.json", folder / f"{stem}.tests.json", folder / f"{stem}.log"
    for old in (found, tests):
        old.unlink(missing_ok=True)
    variables = os.environ | {
        "GPU_TESTS_DEVICE": options.device,
        "GPU_TESTS_CLIPS": str(folder),
        "GPU_TESTS_REPORT": str(found),
    }
    command = [sys.executable, __file__, "--section", name, "--device", options.device]
    command += ["--folder", str(folder), "--json", str(found), "--seconds", f"{seconds - 3:.1f}"]
    if name == "libraries" and (paths := variables.get("LD_LIBRARY_PATH")):
        variables["LD_LIBRARY_PATH"] = without_folders_of("libnppc.so", paths)
    start = time.monotonic()

    def so_far(status: str) -> dict[str, Any]:
        section = {"status": status, "seconds": round(time.monotonic() - start, 1)}
        parts = {"tests": tests, "found": found}
        return section | {part: json.loads(file.read_text()) for part, file in parts.items() if file.exists()}

    with log.open("w") as output:
        # A session of its own, so that it can be ended with all its workers.
        process = subprocess.Popen(
            command, cwd=ROOT, env=variables, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        seen, status = None, ""
        while not status:
            try:
                code = process.wait(timeout=0.5)
                status = "ok" if code == 0 else f"failed with exit status {code}"
            except subprocess.TimeoutExpired:
                if time.monotonic() - start > seconds:
                    status = f"stopped after {seconds:.0f} s"
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
                written = [file.stat().st_mtime_ns for file in (tests, found) if file.exists()]
                if written != seen:
                    seen = written
                    keep(so_far("running"))  # in case this process ends
    section = so_far(status)
    if status != "ok":
        section["log"] = log.read_text(errors="replace")[-6000:]
    keep(section)


def _run_section(options: argparse.Namespace) -> int:
    deadline = time.monotonic() + options.seconds
    sys.path.insert(0, str(ROOT))
    from machine import Report, spawn_workers

    if options.device == "cpu":
        spawn_workers()
    if options.section in ("tests", "long video"):
        import pytest

        choice = "long_video" if options.section == "long video" else "not long_video"
        command = [str(TESTS), "-m", "gpu or slow", "-k", choice, "-v", "-p", "no:cacheprovider"]
        return int(pytest.main(command, plugins=[Outcomes(options.json.with_suffix(".tests.json"))]))
    from sections import SECTIONS, Setup

    SECTIONS[options.section](Report(options.json), Setup(options.folder, options.device, deadline))
    return 0


class Outcomes:
    """A plugin of pytest that keeps how each test ended, in a file, from that moment on."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.outcomes: dict[str, Any] = {"run": 0, "skipped": 0, "failed": {}, "seconds": {}}

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Called with what came of a test's setup, of itself, and of what follows it."""
        name = report.nodeid.rpartition("::")[2]
        if report.when == "setup":
            self.outcomes["run"] += 1
        self.outcomes["skipped"] += report.skipped
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            self.outcomes["failed"][name] = (crash.message if crash else str(report.longrepr))[:600]
        seconds = self.outcomes["seconds"]
        seconds[name] = round(seconds.get(name, 0) + report.duration, 1)
        write_json(self._file, self.outcomes)


# --- summary --------------------------------------------------------------------------------------------------------


def markdown(results: dict[str, Any]) -> str:
    """What was found, as the section of docs/gpu.md."""
    environment = results["environment"]
    packages = ", ".join(f"{name} {version}" for name, version in environment["packages"].items())
    gpus = "; ".join(environment["gpus"] or ["no GPU"])
    lines = [
        f"### {environment['date']}: {gpus}",
        "",
        f"Python {environment['python']}, {packages}; {environment['num_cores']} cores, "
        f"{environment['memory_gib']} GiB; revision {environment['revision']}. Command: `{environment['command']}`.",
    ]
    for name, section in results["sections"].items():
        lines += ["", f"#### {name}: {section['status']} ({section.get('seconds', 0)} s)", ""]
        if tests := section.get("tests"):
            lines += [f"{tests['run']} tests, {len(tests['failed'])} failed, {tests['skipped']} skipped.", ""]
            lines += [f"- `{test}` failed: {_one_line(message)}" for test, message in tests["failed"].items()]
        if found := section.get("found"):
            lines += ["| what | found |", "|---|---|"]
            lines += [f"| {what} | {_cell(value)} |" for what, value in found.items()]
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        cells = ((name, _cell(part), isinstance(part, dict)) for name, part in value.items())
        return "; ".join(f"{name} ({cell})" if nested else f"{name} {cell}" for name, cell, nested in cells)
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "<br>".join(_cell(part) for part in value)
    if isinstance(value, list):
        return ", ".join(map(_cell, value)) or "none"
    return _one_line(str(value))


def _one_line(text: str) -> str:
    return " ".join(text.replace("|", "/").split())[:300]


if __name__ == "__main__":
    sys.exit(main())
