"""Every GPU test and measurement in one go, within a time limit, on videos that it encodes itself::

    FAIL_WITHOUT_GPU=1 python tests/gpu/run.py --json gpu.json

From a checkout, with the packages of the host; mgs_dali need not be installed. Each section runs in a process of its
own and writes its results as they come, so that a crash or a hang loses no other's. The most important come first: when
the time is over, the rest is left out and named. ``--device cpu`` tries the script without a GPU, on tiny videos.
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
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

# DALI's workers import this file: what is heavy is imported where it is used.
from clip_sets import make_clips
from machine import environment, without_folders_of

ROOT = Path(__file__).resolve().parents[2]
TESTS = Path(__file__).with_name("test_gpu.py")

# In order of importance; seconds that each may take at most.
ORDER = {
    "facts": 75,
    "tests": 150,
    "throughput": 150,
    "training": 80,
    "memory": 60,
    "long video": 90,
    "engines": 110,
    "libraries": 30,
}
SAVED_SECONDS = 5
"""Kept back for the summary."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--seconds", type=float, default=540, help="time limit (default: %(default)s)")
    parser.add_argument("--json", type=Path, default=Path("gpu.json"), help="results (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="where the videos are made, and found if they are there already")
    parser.add_argument("--only", help=f"some of the sections, with commas between them: {', '.join(ORDER)}")
    parser.add_argument("--section", help=argparse.SUPPRESS)  # this is the process of one section
    options = parser.parse_args()
    if options.section:
        _run_section(options)
        return 0
    chosen = list(ORDER) if options.only is None else options.only.split(",")
    if unknown := [name for name in chosen if name not in ORDER]:
        parser.error(f"--only: no such section: {', '.join(unknown)}. Sections: {', '.join(ORDER)}.")
    return _run_all(options, chosen)


def _run_all(options: argparse.Namespace, chosen: list[str]) -> int:
    deadline = time.monotonic() + options.seconds - SAVED_SECONDS
    folder = (options.folder or Path(tempfile.mkdtemp(prefix="gpu_tests_"))).resolve()
    sections: dict[str, Any] = {}
    results = {"environment": environment(ROOT), "device": options.device, "sections": sections}
    try:
        start = time.monotonic()
        make_clips(folder, device=options.device)
        results["seconds to encode the videos"] = round(time.monotonic() - start, 1)
        for name in chosen:
            left = deadline - time.monotonic()
            print(f"{name}: {left:.0f} s left", flush=True)
            if left < 10:
                sections[name] = {"status": "no time left"}
            else:
                most = ORDER[name] * (1 if options.device == "cuda" else 5)
                sections[name] = _in_own_process(name, options, folder, seconds=min(left, most))
            if sections[name]["status"] != "ok":
                print(f"  {sections[name]['status']}\n{sections[name].get('log', '')}", flush=True)
            options.json.write_text(json.dumps(results, indent=1))  # after each, in case this process ends
    finally:
        options.json.write_text(json.dumps(results, indent=1))
        if options.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    print("\n" + markdown(results))
    return int(any(section["status"] not in ("ok", "no time left") for section in sections.values()))


def _in_own_process(name: str, options: argparse.Namespace, folder: Path, *, seconds: float) -> dict[str, Any]:
    """Run one section, and give its status, what it found, and the end of its log where it failed."""
    stem = name.replace(" ", "_")
    found, xml, log = folder / f"{stem}.json", folder / f"{stem}.xml", folder / f"{stem}.log"
    for old in (found, xml):
        old.unlink(missing_ok=True)
    variables = dict(os.environ)
    if name in ("tests", "long video"):
        choice = "long_video" if name == "long video" else "not long_video"
        command = [sys.executable, "-m", "pytest", str(TESTS), "-m", "gpu or slow", "-k", choice]
        command += ["-v", "-p", "no:cacheprovider", f"--junitxml={xml}"]
        variables |= {
            "GPU_TESTS_DEVICE": options.device,
            "GPU_TESTS_CLIPS": str(folder),
            "GPU_TESTS_REPORT": str(found),
        }
    else:
        command = [sys.executable, __file__, "--section", name, "--device", options.device]
        command += ["--folder", str(folder), "--json", str(found), "--seconds", f"{seconds - 3:.1f}"]
    if name == "libraries" and (paths := variables.get("LD_LIBRARY_PATH")):
        variables["LD_LIBRARY_PATH"] = without_folders_of("libnppc.so", paths)
    start = time.monotonic()
    with log.open("w") as output:
        # A session of its own, so that it can be ended with all its workers.
        process = subprocess.Popen(
            command, cwd=ROOT, env=variables, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            status = "ok" if process.wait(timeout=seconds) == 0 else f"failed with exit status {process.returncode}"
        except subprocess.TimeoutExpired:
            status = f"stopped after {seconds:.0f} s"
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    section: dict[str, Any] = {"status": status, "seconds": round(time.monotonic() - start, 1)}
    if xml.exists():
        section["tests"] = _test_results(xml)
    if found.exists():
        section["found"] = json.loads(found.read_text())
    if status != "ok":
        section["log"] = log.read_text(errors="replace")[-6000:]
    return section


def _run_section(options: argparse.Namespace) -> None:
    deadline = time.monotonic() + options.seconds
    sys.path.insert(0, str(ROOT))
    from machine import Report
    from sections import SECTIONS, Setup

    SECTIONS[options.section](Report(options.json), Setup(options.folder, options.device, deadline))


def _test_results(xml: Path) -> dict[str, Any]:
    cases = list(ElementTree.parse(xml).iter("testcase"))
    outcomes: dict[str, Any] = {"run": len(cases), "skipped": 0, "failed": {}, "seconds": {}}
    for case in cases:
        name = case.get("name", "")
        outcomes["seconds"][name] = round(float(case.get("time", 0)), 1)
        outcomes["skipped"] += case.find("skipped") is not None
        bad = case.find("failure") if case.find("failure") is not None else case.find("error")
        if bad is not None:
            outcomes["failed"][name] = (bad.get("message") or "")[:600]
    return outcomes


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
