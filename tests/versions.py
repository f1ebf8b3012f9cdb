"""A short suite on each end of each bound that setup.cfg promises: ``make test-versions``.

To be run before a release, and when setup.cfg's bounds or constraints*.txt change; it takes a quarter of an hour, and
half an hour more the first time. Each combination has an environment of its own in .venv-versions/, which is kept.
Pythons are found by name (python3.10, ...) on PATH or under ~/.pyenv/versions; one that is not here is said to be
missing, and is no error.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from configparser import ConfigParser
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENTS = ROOT / ".venv-versions"
CONSTRAINTS = ("constraints.txt", "constraints-cuda130.txt", "constraints-cuda120.txt")
PACKAGES = ("av", "nvidia-dali-cuda130", "numpy", "pyarrow", "torch")

# Names of test files. The first need no PyTorch.
CORE = """
pyav imports packets containers video motion measures sparse headers graph pipelines source sampling annotations
rawframes
"""
# What those with PyTorch run in the place of the rest, which other combinations with the same PyAV do.
LOADER = "pyav video loader"
# Of the hard videos: each kind, without the samplers and routes.
HARD = "test_frames_known_before"


@dataclass(frozen=True)
class Combination:
    """What is installed together, and what runs there."""

    python: str
    pins: str
    """"oldest": every lower bound of setup.cfg; "tested": constraints*.txt; "newest": nothing but setup.cfg."""
    suite: str = "core"
    torch: bool = False
    """Also installed, which takes minutes, for a training on the demo set."""

    @property
    def name(self) -> str:
        return f"{self.pins}-{self.python}"


COMBINATIONS = (
    Combination("3.10", "oldest", torch=True),
    Combination("3.10", "tested"),
    Combination("3.11", "tested"),
    Combination("3.12", "tested", suite="loader", torch=True),
    Combination("3.13", "newest"),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(each.name for each in COMBINATIONS)}; all by default")
    names = parser.parse_args().names
    if unknown := set(names) - {each.name for each in COMBINATIONS}:
        parser.error(f"no such combination: {', '.join(sorted(unknown))}")
    rows, failed = [], False
    for combination in COMBINATIONS:
        if names and combination.name not in names:
            continue
        started = time.monotonic()
        outcome, is_good = check(combination)
        failed |= not is_good
        rows.append((combination.name, *versions(combination), outcome, f"{time.monotonic() - started:.0f} s"))
    heads = ("combination", "python", *(name.removesuffix("-cuda130") for name in PACKAGES), "outcome", "took")
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    print()
    for row in (heads, *rows):
        print("  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip())
    return int(failed)


def check(combination: Combination) -> tuple[str, bool]:
    """Build one environment and run its suite: what came of it in words, and whether that is good."""
    python = find_python(combination.python)
    if python is None:
        return f"python{combination.python} is not here: not run", True
    print(f"\n=== {combination.name}: {python}", flush=True)
    try:
        build(combination, python)
    except subprocess.CalledProcessError as error:
        return f"NOT INSTALLED: pip ended with {error.returncode}", False
    try:
        use(combination)
    except subprocess.CalledProcessError as error:
        return f"FAILED: {' '.join(error.cmd[1:4])[:60]} ... ended with {error.returncode}", False
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    is_good = True
    for files, chosen in suites(combination):
        with TemporaryDirectory() as folder:
            report = Path(folder) / "report.xml"
            command = [program(combination), "-m", "pytest", "-q", "--durations=3", "-p", "no:cacheprovider"]
            command += [f"--junitxml={report}", *(f"tests/test_{name}.py" for name in files.split())]
            is_good &= subprocess.run([*command, *chosen], cwd=ROOT, check=False).returncode == 0
            if not report.exists():
                return "FAILED: pytest wrote no report", False
            for suite in ElementTree.parse(report).iter("testsuite"):
                num_failed = int(suite.attrib["failures"]) + int(suite.attrib["errors"])
                num_skipped = int(suite.attrib["skipped"])
                counts["failed"] += num_failed
                counts["skipped"] += num_skipped
                counts["passed"] += int(suite.attrib["tests"]) - num_failed - num_skipped
    said = ", ".join(f"{number} {word}" for word, number in counts.items() if number)
    return (said if is_good else f"FAILED: {said}"), is_good


def suites(combination: Combination) -> list[tuple[str, list[str]]]:
    """(names of test files, options of pytest) of each run of pytest."""
    if combination.suite == "loader":
        return [(LOADER, []), ("hard_videos", ["-k", f"{HARD} or test_loaders"])]
    return [(CORE, []), ("hard_videos", ["-k", HARD])]


def find_python(version: str) -> str | None:
    found = [path for path in [shutil.which(f"python{version}")] if path is not None]
    found += sorted(map(str, Path.home().glob(f".pyenv/versions/{version}.*/bin/python")), reverse=True)
    for python in found:
        # A shim of pyenv is there for every version that is installed, and runs those that are switched on.
        if subprocess.run([python, "-c", "import venv"], capture_output=True, check=False).returncode == 0:
            return python
    return None


def program(combination: Combination, name: str = "python") -> str:
    return str(ENVIRONMENTS / combination.name / "bin" / name)


def build(combination: Combination, python: str) -> None:
    """Make the environment, unless it is there and what it was made from is unchanged."""
    if combination.pins == "tested":
        constraints = [f"--constraint={ROOT / 'constraints-cuda130.txt'}"]
    elif combination.pins == "oldest":
        ENVIRONMENTS.mkdir(exist_ok=True)
        oldest = ENVIRONMENTS / "oldest.txt"
        oldest.write_text("".join(f"{line}\n" for line in lower_bounds()))
        constraints = [f"--constraint={oldest}"]
    else:
        constraints = ["--upgrade", "--upgrade-strategy=eager"]
    extras = ["cuda130", "plot", *(["train"] if combination.torch else [])]
    wanted = [*constraints, "pytest", "hypothesis", f"--editable={ROOT}[{','.join(extras)}]"]
    inputs = [(ROOT / name).read_text() for name in ("setup.cfg", *CONSTRAINTS)]
    digest = hashlib.sha256(repr((wanted, python, inputs)).encode()).hexdigest()
    stamp = ENVIRONMENTS / combination.name / ".made-from"
    if stamp.exists() and stamp.read_text() == digest:
        return
    subprocess.run([python, "-m", "venv", str(ENVIRONMENTS / combination.name)], check=True)
    install = [program(combination), "-m", "pip", "--disable-pip-version-check", "-qq", "install"]
    subprocess.run([*install, "--no-compile", *wanted], check=True)
    if combination.pins == "tested":
        # The rest of what the constraints name need not be installed to know that it can be.
        for cuda in ("130", "120"):
            everything = f"{ROOT}[cuda{cuda},train,plot,test]"
            subprocess.run(
                [*install, "--dry-run", f"--constraint={ROOT / f'constraints-cuda{cuda}.txt'}", everything], check=True
            )
    stamp.write_text(digest)


def lower_bounds() -> list[str]:
    """Every requirement of setup.cfg at its oldest."""
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lines = setup["options"]["install_requires"].splitlines()
    lines += [line for extra in setup["options.extras_require"].values() for line in extra.splitlines()]
    found = dict(re.findall(r"^([\w-]+)>=([\d.]+)", "\n".join(lines), flags=re.MULTILINE))
    return [f"{name}=={bound}" for name, bound in found.items()]


def use(combination: Combination) -> None:
    """The installed package, away from the checkout: its command, a video opened, and a training on the demo set."""
    with TemporaryDirectory() as folder:

        def run(command: list[str], **environment: str) -> None:
            quiet = subprocess.DEVNULL
            subprocess.run(
                command, cwd=folder, env={**os.environ, **environment}, stdout=quiet, check=True, timeout=900
            )

        run([program(combination, "mgs-dali"), "demo", "demo", "--num-train", "12", "--num-val", "16"])
        code = """
import pathlib
import numpy as np
from mgs_dali.index.measuring import measure_video
motion = measure_video(pathlib.Path("demo/videos/val/0000.webm")).motion
assert motion.any() and np.isfinite(motion).all(), motion
"""
        run([program(combination), "-c", code])
        if combination.torch:
            command = "-m train.tsm --loader dali --num-workers 1 --size 32 --epochs 1 --out run"
            lists = "--train-list demo/train_list.txt --val-list demo/val_list.txt --root demo/videos"
            run([program(combination), *f"{command} {lists}".split()], PYTHONPATH=str(ROOT))


def versions(combination: Combination) -> list[str]:
    """Of Python and PACKAGES in an environment, as far as they are there."""
    code = f"""
import importlib.metadata as m, platform
def version(name):
    try:
        return m.version(name)
    except m.PackageNotFoundError:
        return "-"
print(platform.python_version(), *map(version, {PACKAGES!r}))
"""
    if not Path(program(combination)).exists():
        return [combination.python, *("-" for _ in PACKAGES)]
    done = subprocess.run([program(combination), "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.split() or ["?"] * (1 + len(PACKAGES))


if __name__ == "__main__":
    sys.exit(main())
