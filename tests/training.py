"""A tiny data set, and trainings on it as a user starts them: in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from conftest import encode, moving_disc

REPOSITORY = Path(__file__).parent.parent
NUM_TRAIN, NUM_VAL = 14, 5
SMALL = [
    "--root", "videos", "--train-list", "train.txt", "--val-list", "val.txt", "--depth", "10", "--weights", "null",
    "--size", "32", "--num-segments", "2", "--batch-size", "3", "--num-workers", "1", "--device", "cpu",
]  # fmt: skip
"""Flags of a training that takes seconds."""


def write_data(folder: Path) -> None:
    """Make ``folder/videos``, ``train.txt`` and ``val.txt``: 14 and 5 videos of 12 frames, three classes."""
    (folder / "videos").mkdir()
    lines = []
    for index in range(NUM_TRAIN + NUM_VAL):
        frames = moving_disc(12, width=48, height=40, action=(index % 3, index % 3 + 6), seed=index)
        encode(folder / "videos" / f"{index}.avi", frames, "mjpeg", pixel_format="yuvj420p")
        lines.append(f"{index}.avi {index % 3}\n")
    (folder / "train.txt").write_text("".join(lines[:NUM_TRAIN]))
    (folder / "val.txt").write_text("".join(lines[NUM_TRAIN:]))


def start(folder: Path, *flags: str, launcher: tuple[str, ...] = ("-m",), **kwargs: Any) -> subprocess.Popen[str]:
    """Start ``python -m train.tsm`` in ``folder``."""
    return subprocess.Popen(
        [sys.executable, *launcher, "train.tsm", *flags],
        cwd=folder,
        # One thread, so that sums have one order; the tests share the machine's cores.
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **kwargs,
    )


def finish(process: subprocess.Popen[str], *, code: int = 0) -> tuple[str, str]:
    """Wait for a training to end with this exit code; its stdout and stderr."""
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == code, f"exit code {process.returncode}\n{stdout}\n{stderr}"
    return stdout, stderr


def train(folder: Path, *flags: str, code: int = 0, launcher: tuple[str, ...] = ("-m",)) -> tuple[str, str]:
    """Run ``python -m train.tsm`` in ``folder``; its stdout and stderr."""
    return finish(start(folder, *flags, launcher=launcher), code=code)


def metrics(out: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl."""
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
