"""The fuzz run of :mod:`fuzz`: what damaged videos do to every route."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import av
import pytest
from fuzz.mutate import KINDS, NUM_FRAMES, SEEDS, make_seeds, mutate, numbers_of_packets, pair
from hard_videos import number_in, rows_of, strict_complaint

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("seeds")
    make_seeds(folder)
    return folder


@pytest.mark.parametrize("name", SEEDS)
def test_seeds_are_what_they_seem(seeds: Path, name: str) -> None:
    """Every frame shows its number, strict decoding complains of nothing, and it is known what each packet shows."""
    said = strict_complaint(seeds / name)
    assert (said.text, said.num_frames) == ("", NUM_FRAMES)
    rows = rows_of(seeds / name)
    numbers = numbers_of_packets(rows, is_mpeg4=name.startswith("mpeg4"))
    assert sorted(numbers) == list(range(NUM_FRAMES))
    with av.open(str(seeds / name)) as container:
        shown = [number_in(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    assert shown == list(range(NUM_FRAMES))


def test_a_number_makes_the_same_file_again(seeds: Path) -> None:
    assert len({pair(number) for number in range(180)}) == len(SEEDS) * len(KINDS) == 180
    for number in (1, 2, 3, 15):
        once, again = mutate(seeds, 1, number), mutate(seeds, 1, number)
        assert once == again
        assert once.content != mutate(seeds, 2, number).content
        assert once.content != (seeds / once.seed).read_bytes()


@pytest.mark.parametrize("num_files", [150, pytest.param(1500, marks=pytest.mark.slow)])
def test_damaged_videos_are_reported_or_right(num_files: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz.run", "--num-files", str(num_files), "--seed", "1"]
    command += ["--json", str(tmp_path / "fuzz.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stdout[-12000:] + done.stderr[-2000:]
    files = json.loads((tmp_path / "fuzz.json").read_text())["files"]
    assert len(files) == num_files
    assert sum("routes" in file for file in files) > 0.95 * num_files
