from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from mgs_dali.decode.frames import decode_file
from mgs_dali.lists.table import Clips
from mgs_dali.sampling import segment_targets, uniform_frames

pytest.importorskip("nvidia.dali")
pytest.importorskip("torch")

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def data(dali_videos: Clips, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a list, its videos, and a ZIP file of them."""
    folder = tmp_path_factory.mktemp("data")
    lines = [f"{path} {label}" for path, label in zip(dali_videos.paths, dali_videos.labels.tolist(), strict=True)]
    (folder / "list.txt").write_text("\n".join(lines))
    with zipfile.ZipFile(folder / "videos.zip", "w") as archive:
        for path in dali_videos.paths:
            archive.write(dali_videos.root / path, path)
    return folder


def run(example: str, *arguments: object, cwd: Path) -> str:
    """What an example prints."""
    command = [sys.executable, str(EXAMPLES / example), *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def frames_by_path(text: str) -> dict[str, list[int]]:
    return {
        path: [int(frame) for frame in frames.split()]
        for path, frames in re.findall(r"^(\S+\.\w+) ([\d ]+)$", text, re.MULTILINE)
    }


def test_own_sampler(dali_videos: Clips, data: Path, tmp_path: Path) -> None:
    """Against a loop over all stretches, on luma of our own."""
    found = frames_by_path(run("own_sampler.py", data / "list.txt", dali_videos.root, cwd=tmp_path))
    assert list(found) == dali_videos.paths
    for row, path in enumerate(dali_videos.paths):
        num_frames = 20 + 3 * row
        span_frames = min(32, num_frames)
        first = found[path][0] - int(0.5 * span_frames / 8)
        assert found[path] == [first + int((k + 0.5) * span_frames / 8) for k in range(8)]
        assert 0 <= first <= num_frames - span_frames
        # The disc moves from frame `row` to `row + 10` (see conftest): all of that is inside.
        assert first <= row
        assert first + span_frames > row + 10


def test_own_measure(dali_videos: Clips, data: Path, tmp_path: Path) -> None:
    found = frames_by_path(run("own_measure.py", data / "list.txt", dali_videos.root, "colours", cwd=tmp_path))
    assert list(found) == dali_videos.paths
    from mgs_dali import MotionIndex

    index = MotionIndex(tmp_path / "colours")
    assert (index.measure, index.parameters) == ("colours", {"bins": 8})
    frames = [frame.to_ndarray(format="rgb24") for frame in decode_file(dali_videos.file(0))]
    cubes = [np.histogramdd(frame.reshape(-1, 3), bins=8, range=[(0, 256)] * 3)[0] / (96 * 64) for frame in frames]
    expected = [np.abs(after - before).sum() / 2 for before, after in pairwise(cubes)]
    np.testing.assert_allclose(index[dali_videos.paths[0]], expected, atol=1e-6)


def test_own_source(dali_videos: Clips, data: Path, tmp_path: Path) -> None:
    found = frames_by_path(run("own_source.py", data / "list.txt", data / "videos.zip", cwd=tmp_path))
    targets = segment_targets(8)
    expected = {path: uniform_frames(20 + 3 * row, targets).tolist() for row, path in enumerate(dali_videos.paths)}
    assert found == expected
    assert list(tmp_path.iterdir()) == []  # nothing was unpacked


def test_own_everything(data: Path, tmp_path: Path) -> None:
    text = run("own_everything.py", data / "list.txt", data / "videos.zip", cwd=tmp_path)
    losses = [float(loss) for loss in re.findall(r"loss (\d+\.\d+)", text)]
    assert len(losses) == 3
    assert losses[-1] < losses[0]
    assert len((EXAMPLES / "own_everything.py").read_text().splitlines()) <= 32


def test_examples_name_nothing_private() -> None:
    for file in EXAMPLES.glob("*.py"):
        assert not re.search(r"mgs_dali\S*\._|import _\w|\w\._[a-z]", file.read_text()), file.name
