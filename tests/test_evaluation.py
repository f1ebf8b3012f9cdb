"""Scores of clips: averaging, gathering over processes, metrics by hand, files and their fusion."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import clip_table
from hypothesis import given
from hypothesis import strategies as st
from lightning.fabric import Fabric
from torch import nn

from mgs_dali.load.loader import ClipBatch
from mgs_dali.load.plan import batch_samples
from train import evaluate
from train.evaluation import (
    ClipScores,
    average_views,
    fuse,
    gather_scores,
    judge,
    read_scores,
    score_clips,
    write_scores,
)

REPOSITORY = Path(__file__).parent.parent


# --- averaging ------------------------------------------------------------------------------------------------------


def test_probabilities_and_logits_can_disagree() -> None:
    """One view is sure of class 1, two prefer class 0 a little: the mean logit is class 1's, the mean probability
    class 0's."""
    logits = torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 9.0]])
    by_logits = average_views(logits, num_views=3, average="logits")
    assert by_logits.tolist() == [[4 / 3, 3.0]]
    by_probability = average_views(logits, num_views=3, average="probabilities")
    sure = 1 / (1 + np.exp(-2.0))
    np.testing.assert_allclose(by_probability[0, 0], (2 * sure + 1 / (1 + np.exp(9.0))) / 3, rtol=1e-12)
    assert by_probability.dtype == torch.float64
    assert by_probability[0, 0] > by_probability[0, 1]


def test_views_of_a_clip_follow_each_other() -> None:
    logits = torch.tensor([[1.0], [3.0], [10.0], [20.0]])
    assert average_views(logits, num_views=2, average="logits").tolist() == [[2.0], [15.0]]


def test_several_labels_are_averaged_by_sigmoid() -> None:
    logits = torch.tensor([[0.0, 100.0], [0.0, -100.0]])
    found = average_views(logits, num_views=2, average="probabilities", multi_label=True)
    np.testing.assert_allclose(found, [[0.5, 0.5]])


# --- metrics --------------------------------------------------------------------------------------------------------


def one_hot(classes: list[int], num_classes: int) -> np.ndarray:
    return np.eye(num_classes)[classes]


def test_metrics_by_hand() -> None:
    """Class 0: 2 of 3 right; class 1: 0 of 1; class 2 is predicted once and never true; class 3 is neither."""
    predicted, labels = [0, 0, 1, 2], np.array([0, 0, 0, 1])
    found = judge(one_hot(predicted, 4), labels)
    assert found["top1"] == 0.5
    assert found["mean_recall"] == (2 / 3 + 0) / 2
    assert found["mean_class"] == (2 / 3 + 0 + 0) / 3
    assert list(found) == ["top1", "top5", "mean_class", "mean_recall"]


def test_the_first_five_and_ties() -> None:
    scores = np.array([[6.0, 5, 4, 3, 2, 1], [0.0, 0, 0, 0, 0, 0]])
    assert judge(scores, np.array([4, 4]))["top5"] == 1.0
    assert judge(scores, np.array([5, 5]))["top5"] == 0.0
    assert judge(scores, np.array([0, 0]))["top1"] == 1.0  # of equal scores the first class
    assert judge(scores[:, :3], np.array([2, 2]))["top5"] == 1.0  # fewer than five classes


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=40))
def test_mean_class_accuracy_restated(pairs: list[tuple[int, int]]) -> None:
    found = judge(one_hot([predicted for _, predicted in pairs], 7), np.array([label for label, _ in pairs]))

    def recall(label: int) -> float:
        answers = [predicted for true, predicted in pairs if true == label]
        return answers.count(label) / len(answers) if answers else 0.0

    occurring = {label for label, _ in pairs}
    either = occurring | {predicted for _, predicted in pairs}
    assert found["mean_class"] == pytest.approx(sum(map(recall, either)) / len(either), abs=1e-12)
    assert found["mean_recall"] == pytest.approx(sum(map(recall, occurring)) / len(occurring), abs=1e-12)


def test_mean_average_precision_by_hand() -> None:
    """Class 0 is true for the first and the third by score: (1/1 + 2/3) / 2. Class 1 for the second: 1/2. Class 2 for
    none, and left out."""
    scores = np.array([[0.9, 0.8, 0.1], [0.5, 0.6, 0.2], [0.3, 0.1, 0.3]])
    labels = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 0]], np.float32)
    assert judge(scores, labels) == {"map": pytest.approx(((1 + 2 / 3) / 2 + 1 / 2) / 2)}


# --- from batches to scores -----------------------------------------------------------------------------------------


class Mean(nn.Module):
    """Logits that tell the clip: its mean, and minus its mean."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(clips))
        mean = clips.mean(dim=(1, 2, 3, 4))
        return torch.stack([mean, -mean], dim=1)


def batches_of(
    num_clips: int, *, num_views: int, batch_size: int, rank: int = 0, world_size: int = 1
) -> list[ClipBatch]:
    """What a loader gives for clips whose pixels are their number, plus 100 for every further view."""
    batches = []
    for iteration in range(-(-num_clips // (batch_size * world_size))):
        samples, valid = batch_samples(
            np.arange(num_clips), iteration=iteration, batch_size=batch_size, rank=rank, world_size=world_size
        )
        rows = torch.from_numpy(samples).repeat_interleave(num_views)
        values = rows + 100 * torch.arange(num_views).repeat(batch_size)
        batches.append(
            ClipBatch(
                clips=values.double()[:, None, None, None, None].expand(-1, 2, 3, 4, 4),
                labels=rows % 2,
                frames=torch.zeros(len(rows), 2, dtype=torch.int64),
                samples=rows,
                valid=torch.from_numpy(valid).repeat_interleave(num_views),
            )
        )
    return batches


def test_every_clip_counts_once_in_the_order_of_the_list() -> None:
    model, fabric = Mean(), Fabric(accelerator="cpu", devices=1)
    batches = batches_of(7, num_views=3, batch_size=2)
    scores = score_clips(fabric, model, batches, num_clips=7, num_views=3, average="logits")
    assert scores[:, 0].tolist() == [number + 100.0 for number in range(7)]  # the mean of +0, +100 and +200
    assert scores.dtype == np.float64
    assert set(model.sizes) == {2}  # a batch's clips at a time, however many views


PROGRAM = """
import sys, numpy as np, torch
from lightning.fabric import Fabric
from test_evaluation import Mean, batches_of
from train.build import stop_fabric
from train.evaluation import score_clips
torch.set_num_threads(1)
world_size = int(__import__("os").environ["WORLD_SIZE"])
fabric = Fabric(accelerator="cpu", devices=world_size)
fabric.launch()
found = []
for num_clips in (1, 7, 12, 13):
    batches = batches_of(
        num_clips, num_views=2, batch_size=12 // world_size, rank=fabric.global_rank, world_size=world_size
    )
    found.append(score_clips(fabric, Mean(), batches, num_clips=num_clips, num_views=2, average="probabilities"))
np.savez(f"{sys.argv[1]}-{fabric.global_rank}.npz", *found)
stop_fabric(fabric)
assert not torch.distributed.is_initialized()  # no thread of it is left for Python's end
"""


@pytest.mark.parametrize("world_size", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_any_number_of_processes_gives_the_same_scores(tmp_path: Path, world_size: int) -> None:
    """Set sizes that do not divide, and fewer clips than processes; the global batch is 12 clips."""
    (tmp_path / "program.py").write_text(textwrap.dedent(PROGRAM))
    folders = [str(REPOSITORY / "tests"), str(REPOSITORY)]
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world_size),
         str(tmp_path / "program.py"), str(tmp_path / "found")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(folders), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        check=True,
        timeout=300,
    )  # fmt: skip
    fabric = Fabric(accelerator="cpu", devices=1)
    for place, num_clips in enumerate((1, 7, 12, 13)):
        alone = score_clips(
            fabric,
            Mean(),
            batches_of(num_clips, num_views=2, batch_size=12),
            num_clips=num_clips,
            num_views=2,
            average="probabilities",
        )
        for rank in range(world_size):
            with np.load(tmp_path / f"found-{rank}.npz") as found:
                np.testing.assert_array_equal(found[f"arr_{place}"], alone)


def test_a_clip_that_is_missing_is_noticed() -> None:
    fabric = Fabric(accelerator="cpu", devices=1)
    with pytest.raises(AssertionError, match="every clip must come once"):
        gather_scores(fabric, torch.tensor([0, 0]), torch.tensor([True, True]), torch.zeros(2, 3), num_clips=2)


def test_scores_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    scores = np.zeros((2, 2))
    scores[1, 0] = np.nan
    with pytest.raises(
        ValueError, match=r"gives nan for .*b\.mp4 \(.*list\.txt, line 2\), and no numbers for 0 other clips"
    ):
        ClipScores.of(clip_table(tmp_path, ["a.mp4", "b.mp4"]), scores, protocol="efficient", average="logits")


# --- files ----------------------------------------------------------------------------------------------------------


def table(**changes: Any) -> ClipScores:
    clips = clip_table(Path("videos"), ["b.mp4", "a.mp4", "c.mp4"], labels=[0, 1, 1])
    scores = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    return replace(ClipScores.of(clips, scores, protocol="accurate", average="probabilities"), **changes)


def test_files_keep_everything(tmp_path: Path) -> None:
    write_scores(table(), tmp_path / "new" / "a.npz")
    found = read_scores(tmp_path / "new" / "a.npz")
    for name, value in vars(table()).items():
        np.testing.assert_array_equal(getattr(found, name), value)
    assert found.metrics == {"top1": 2 / 3, "top5": 1.0, "mean_class": 0.75, "mean_recall": 0.75}
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["a.npz"]
    with np.load(tmp_path / "new" / "a.npz") as plain:  # what others read without this project
        assert plain["paths"].tolist() == ["b.mp4", "a.mp4", "c.mp4"]
        assert str(plain["protocol"]) == "accurate"


def write_bytes(content: bytes) -> Callable[[Path], object]:
    return lambda file: file.write_bytes(content)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda _: None, "no such file"),
        (write_bytes(b""), "not a file of scores that NumPy can read"),
        (write_bytes(b"top1 0.4"), "not a file of scores that NumPy can read"),
        (write_bytes(b"PK\x03\x04 and then nothing"), "not a file of scores that NumPy can read"),
        (lambda file: np.savez(file, scores=np.zeros((2, 2))), r"not a file of scores \(average, first_frames, labels"),
        (lambda file: np.savez(file, scores=np.array([{}])), "not a file of scores that NumPy can read"),
        (lambda file: np.save(file.open("wb"), np.zeros(3)), "not a file of scores"),
    ],
    ids=["gone", "empty", "text", "damaged", "another", "pickled", "one array"],
)
def test_other_files_are_refused(tmp_path: Path, make: Callable[[Path], object], text: str) -> None:
    make(tmp_path / "s.npz")
    with pytest.raises(ValueError, match=rf"s\.npz: {text}"):
        read_scores(tmp_path / "s.npz")


def test_scores_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"s\.npz: the scores cannot be written"):
        write_scores(table(), tmp_path / "file" / "s.npz")


def test_fusion_finds_the_clips_in_whatever_order() -> None:
    first = table()
    other = table(
        paths=np.array(["c.mp4", "b.mp4", "a.mp4"]),
        labels=np.array([1, 0, 1]),
        scores=np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]]),
        protocol=np.array("efficient"),
    )
    fused = fuse([first, other], [1, 3], names=["first", "other"])
    assert fused.paths.tolist() == ["b.mp4", "a.mp4", "c.mp4"]
    np.testing.assert_allclose(fused.scores, [[3.9 / 4, 0.1 / 4], [3.2 / 4, 0.8 / 4], [0.6 / 4, 3.4 / 4]])
    np.testing.assert_array_equal(fuse([first, first], [1, 1], names=["a", "b"]).scores, first.scores)


def test_two_clips_of_one_video_are_two_clips() -> None:
    one = table(paths=np.array(["a.mp4"] * 3), first_frames=np.array([0, 30, 60]))
    order = [2, 0, 1]
    other = replace(
        one, first_frames=one.first_frames[order], labels=one.labels[order], scores=np.array([1, 0]) + one.scores[order]
    )
    np.testing.assert_allclose(fuse([one, other], [1, 1], names=["a", "b"]).scores, np.array([0.5, 0]) + one.scores)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"paths": np.array(["b.mp4", "a.mp4", "d.mp4"])},
            r"other clips than one: 3 and 3, in one only are c\.mp4, d\.mp4\.",
        ),
        ({"first_frames": np.array([0, 0, 9])}, r"other clips than one: .* in one only are c\.mp4\."),
        ({"labels": np.array([0, 0, 1])}, "has other labels than one for the same clips"),
        ({"scores": np.zeros((3, 5))}, "has 5 classes, one 2"),
        ({"average": np.array("logits")}, "holds logits, one probabilities"),
    ],
)
def test_what_cannot_be_fused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=f"two.*{text}"):
        fuse([table(), table(**changes)], [1, 1], names=["one", "two"])


@pytest.mark.parametrize("weights", [[1], [1, 0], [1, -1], [1, float("nan")], [1, float("inf")]])
def test_weights_that_are_not_allowed(weights: list[float]) -> None:
    with pytest.raises(ValueError, match=r"weights \(.*\) must be 2 numbers above 0"):
        fuse([table(), table()], weights, names=["one", "two"])


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    write_scores(table(), Path("a.npz"))
    write_scores(table(scores=np.array([[0.8, 0.2], [0.7, 0.3], [0.2, 0.8]])), Path("b.npz"))

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["train.evaluate", *arguments])
        return evaluate.main(), *capsys.readouterr()

    code, out, _ = run("a.npz")
    assert code == 0
    assert out == "a.npz (accurate, probabilities): top1 0.6667, top5 1.0000, mean_class 0.7500, mean_recall 0.7500\n"
    code, out, _ = run("a.npz", "b.npz")
    assert out.splitlines()[2].startswith("fused 1:1: top1 1.0000, ")
    code, out, _ = run("a.npz", "b.npz", "--weights", "1,9")
    assert out.splitlines()[2].startswith("fused 1:9: top1 0.6667, ")
    assert run("a.npz", "gone.npz")[0] == 2
    code, _, error = run("a.npz", "--weights", "1,2")
    assert (code, error) == (2, "error: weights (1, 2) must be 1 numbers above 0, one for each file.\n")
