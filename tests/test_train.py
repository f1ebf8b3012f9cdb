"""The command that trains: recipes, flags, errors, files, and several processes."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import torch
import yaml  # type: ignore[import-untyped]
from lightning.fabric import Fabric
from training import NUM_TRAIN, NUM_VAL, REPOSITORY, SMALL, metrics, train, write_data

from mgs_dali.index.store import MotionIndex
from mgs_dali.lists.read import read_annotations
from mgs_dali.load.plan import Plan
from mgs_dali.sampling import Dense, MotionGuided, Uniform
from mgs_dali.views.protocols import PROTOCOLS
from models import checkpoints
from models.tsm import TSM
from train.build import build_model, model_name, read_data
from train.command_line import Options, parse_command_line
from train.cpu_loader import CpuLoader
from train.evaluation import read_scores
from train.recipe import RECIPES, Recipe, field_docs
from train.tsm import main

KEYS = [
    "epoch", "train/loss", "val/top1", "val/top5", "val/mean_class", "val/mean_recall", "time/clips_per_s",
    "time/data_wait_share",
]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_data(folder)
    return folder


@pytest.fixture(scope="module")
def trained(data: Path) -> tuple[str, str]:
    """Two epochs with the CPU loader, in ``data/run``."""
    return train(data, *SMALL, "--loader", "cpu", "--epochs", "2", "--out", "run")


@pytest.fixture
def train_here(data: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int]]:
    """Run the command in this process, which saves the seconds of a start; its exit code."""

    def run(*flags: str) -> int:
        monkeypatch.chdir(data)
        monkeypatch.setattr("sys.argv", ["train.tsm", "--loader", "cpu", "--device", "cpu", *flags])
        return main()

    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield run
    torch.set_num_threads(num_threads)


# --- recipes and flags ----------------------------------------------------------------------------------------------


def write_recipe(folder: Path, text: str) -> list[str]:
    (folder / "my.yaml").write_text(text)
    return ["--recipe", str(folder / "my.yaml")]


def test_a_validation_folder_may_lack_clips_of_a_class(tmp_path: Path) -> None:
    for name in ("train/a/1.mp4", "train/b/1.mp4", "val/b/1.mp4"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    (tmp_path / "val/a").mkdir()
    recipe = Recipe(train_list=str(tmp_path / "train"), val_list=str(tmp_path / "val"))
    _, train_clips, val_clips = read_data(Fabric(accelerator="cpu"), recipe)
    assert train_clips.class_names == val_clips.class_names == ["a", "b"]
    assert val_clips.labels.tolist() == [1]
    (tmp_path / "val/b").rename(tmp_path / "val/c")
    with pytest.raises(ValueError, match=r"val/c: the class 'c' is not one of the 2 known"):
        read_data(Fabric(accelerator="cpu"), recipe)


@pytest.mark.parametrize("name", [file.stem for file in RECIPES.glob("*.yaml")])
def test_every_recipe_can_be_read(name: str) -> None:
    values = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())
    _, recipe, _ = parse_command_line(["--recipe", name])
    for key, value in values.items():
        found = getattr(recipe, key)
        assert (list(found) if isinstance(found, tuple) else found) == value


def test_a_recipe_knows_the_protocols() -> None:
    assert set(get_args(get_type_hints(Recipe)["protocol"])) == set(PROTOCOLS)


def test_flags_go_before_the_file_wherever_they_stand(tmp_path: Path) -> None:
    flags = write_recipe(tmp_path, "lr: 1e-3\nepochs: 7\nsampler: uniform\nlr_steps: [2, 4]\n")
    for arguments in (["--epochs", "9", *flags], [*flags, "--epochs", "9"]):
        _, recipe, _ = parse_command_line(arguments)
        assert (recipe.lr, recipe.epochs, recipe.lr_steps) == (0.001, 9, (2, 4))
        assert recipe.momentum == Recipe().momentum
        assert recipe.frame_sampler == Uniform(8)


def test_a_recipe_survives_its_own_file(tmp_path: Path) -> None:
    recipe = Recipe(flip_label_map={3: 4}, flip_probability=0.5, grad_clip=None, lr_steps=(1, 2), lr=3e-5, epochs=3)
    _, again, _ = parse_command_line(write_recipe(tmp_path, recipe.to_yaml()))
    assert again == recipe
    recipe = Recipe(sampler="dense", train_crop="random_resized", rand_augment=(2, 27), protocol="dense_ten")
    _, again, _ = parse_command_line(write_recipe(tmp_path, recipe.to_yaml()))
    assert again == recipe
    assert again.frame_sampler == Dense(8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch: 3\n", r"my\.yaml: unknown key 'epoch'. Did you mean epochs\? Allowed: train_list, "),
        ("epochs: many\n", r"my\.yaml: epochs must be int, found many"),
        ("sampler: random\n", r"my\.yaml: sampler must be one of 'motion', 'uniform', 'dense', found random"),
        ("num_workers: 1.5\n", r"my\.yaml: num_workers must be int \| null, found 1\.5"),
        ("dropout: 1.0\n", r"my\.yaml, with the flags given: dropout \(1\.0\) must be at least 0 and below 1"),
        ("mu: -1\n", r"my\.yaml, with the flags given: mu must be a finite number of at least 0"),
        ("[1, 2\n", r"my\.yaml: cannot be read as YAML: .*line 1"),
        ("- 3\n", r"my\.yaml: expected lines such as 'epochs: 50', found list"),
    ],
)
def test_teaches_what_is_wrong_with_a_recipe(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        parse_command_line(write_recipe(tmp_path, text))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--recipe", "demi"], r"--recipe demi: no recipe of that name\. Did you mean demo\? Allowed: .*demo.*\.yaml"),
        (["--recipe", "gone.yaml"], r"--recipe gone\.yaml: no such file"),
        (["--epoch", "3"], r"unrecognized arguments: --epoch 3\. Did you mean --epochs\?"),
        (["--epochs", "x"], r"epochs must be int, found x"),
        (["--epochs", "0"], r"epochs \(0\) must be a whole number of at least 1"),
        (["--lr"], r"--lr: expected one argument"),
        (["--loader", "gpu"], r"loader must be one of 'dali', 'cpu', found gpu"),
        (["--loader", "cpu", "--route", "host"], r"--route host is for --loader dali"),
        (["--resume", "auto"], r"--resume auto needs --out"),
        (["--sorted-classes", "true"], r"--sorted-classes is for --eval"),
        (["--motion-index", "auto", "--loader", "cpu"], r"--motion-index auto records .* with --loader cpu"),
        (["--motion-index", "auto", "--eval", "a.ckpt"], r"--motion-index auto records .* with --eval"),
        (["--resume", "gone.ckpt"], r"gone\.ckpt: no such checkpoint"),
        (["--scores", "a.npz"], r"--scores a\.npz must be a \.npz file, and is for --eval"),
        (["--eval", "a.ckpt", "--scores", "a.csv"], r"--scores a\.csv must be a \.npz file"),
        (["--protocol", "best"], r"protocol must be one of 'efficient', 'efficient_full', 'accurate'.* found best"),
        (["--rand-augment", "[2, 31]"], r"rand_augment \(\[2, 31\]\) must be \[operations, strength\]"),
        (["--sampler", "dense", "--span-frames", "4"], r"span_frames must be at least num_segments \(8\), found 4"),
        (["--eval", "a.ckpt", "--resume", "b.ckpt"], r"--eval and --resume exclude each other"),
        (["--lr-steps", "[4, 2]"], r"lr_steps \(\[4, 2\]\) must be numbers of epochs"),
        (["--flip-label-map", "{0: 1}"], r"flip_label_map is given but flip_probability is 0"),
    ],
)
def test_teaches_what_is_wrong_with_flags(flags: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_command_line(flags)


def test_every_field_says_what_it_is() -> None:
    assert list(field_docs(Recipe)) == [field.name for field in dataclasses.fields(Recipe)]


def test_learning_rate_steps_after_a_warm_up() -> None:
    recipe = Recipe(epochs=50, schedule="step", lr_steps=(20, 40), lr_gamma=0.1, warmup_epochs=5)
    at = {0: 0.1, 2.5: 0.55, 5: 1.0, 19.9: 1.0, 20: 0.1, 39.9: 0.1, 40: 0.01, 49.9: 0.01}
    assert [recipe.lr_factor(epoch) for epoch in at] == pytest.approx(list(at.values()))


def test_learning_rate_follows_half_a_cosine() -> None:
    recipe = Recipe(epochs=12, schedule="cosine", warmup_epochs=2)
    at = {0: 0.1, 2: 1.0, 4.5: 0.5 + 0.5 * 0.5**0.5, 7: 0.5, 12: 0.0}
    assert [recipe.lr_factor(epoch) for epoch in at] == pytest.approx(list(at.values()))
    shorter = dataclasses.replace(recipe, epochs=1)  # a run may end within its warm-up
    assert [shorter.lr_factor(epoch) for epoch in (0, 0.5, 1)] == pytest.approx([0.1, 0.325, 0.55])
    just = dataclasses.replace(recipe, epochs=2)
    assert [just.lr_factor(epoch) for epoch in (1, 2)] == pytest.approx([0.55, 0.0])


def test_model_options_reach_the_model() -> None:
    flags = ["--depth", "50", "--non-local", "gaussian", "--temporal-pool", "true", "--num-classes", "7"]
    _, recipe, _ = parse_command_line([*flags, "--num-segments", "4", "--weights", "null"])
    model = build_model(recipe, None)
    expected = {"depth": 50, "shift": True, "non_local": "gaussian", "temporal_pool": True, "num_classes": 7}
    assert dict(checkpoints.tsm_options(model.state_dict())) | {"temporal_pool": True} == expected
    assert model_name(recipe) == "TSM, ResNet-50, non-local (gaussian), temporal pooling"
    _, recipe, _ = parse_command_line(["--depth", "mobilenet_v2", "--shift", "false"])
    assert (recipe.depth, model_name(recipe)) == ("mobilenet_v2", "TSN, MobileNetV2")


def test_motion_parameters_reach_the_sampler() -> None:
    _, recipe, _ = parse_command_line(["--mu", "0.7", "--floor", "0.1", "--pick", "inverse", "--num-segments", "4"])
    assert recipe.frame_sampler == MotionGuided(4, mu=0.7, floor=0.1, pick="inverse")


# --- trainings ------------------------------------------------------------------------------------------------------


def test_a_training_leaves_its_files_and_ends_with_the_best(data: Path, trained: tuple[str, str]) -> None:
    stdout, stderr = trained
    lines = metrics(data / "run")
    assert [list(line) for line in lines] == [KEYS, KEYS]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert all(0 <= line[key] <= 1 for line in lines for key in KEYS if key.startswith("val/"))
    assert all(line["val/top5"] == 1 for line in lines)  # three classes
    assert all(0 <= line["time/data_wait_share"] <= 1 < line["time/clips_per_s"] for line in lines)
    best = max(lines, key=lambda line: line["val/top1"])
    assert stdout.splitlines()[-1] == f"best val/top1 {best['val/top1']:.4f} (epoch {best['epoch']})"
    names = {file.name for file in (data / "run").iterdir()}
    assert {"config.yaml", "metrics.jsonl", "last.ckpt", "best.ckpt"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert not [name for name in names if name.endswith(".unfinished")]
    assert "route cpu: PyAV and torchvision in 1 worker processes" in stderr
    assert "14 to train on, 5 to validate on, 3 classes" in stderr
    assert "precision 32-true (on the CPU)" in stderr
    assert "1 processes; 5 steps of 3 clips an epoch, 2 epochs" in stderr
    assert "lr 0.01 for 16 clips a step -> 0.001875 for 3" in stderr


def test_the_resolved_recipe_is_one(data: Path, trained: tuple[str, str]) -> None:
    assert trained
    _, recipe, _ = parse_command_line(["--recipe", str(data / "run" / "config.yaml")])
    assert (recipe.num_classes, recipe.epochs, recipe.train_list) == (3, 2, "train.txt")


def test_a_run_is_not_written_over(
    data: Path, trained: tuple[str, str], train_here: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert trained
    before = metrics(data / "run")
    assert train_here(*SMALL, "--epochs", "2", "--out", "run") == 2
    assert "error: --out run holds a run already" in capsys.readouterr().err
    assert metrics(data / "run") == before


def test_validates_a_checkpoint_with_its_own_recipe(
    trained: tuple[str, str], train_here: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_here("--eval", "run/best.ckpt") == 0
    line = capsys.readouterr().out
    found = re.fullmatch(r"(val/top1 \d\.\d{4}), val/top5 1\.0000(, val/mean_(class|recall) \d\.\d{4}){2}\n", line)
    assert found
    assert found[1] in trained[0].splitlines()[-1]


def test_protocols_and_files_of_scores(
    trained: tuple[str, str], train_here: Callable[..., int], capsys: pytest.CaptureFixture[str], data: Path
) -> None:
    assert trained
    scores = {}
    for protocol in ("efficient", "accurate"):
        flags = ["--protocol", protocol, "--average", "logits", "--scores", f"{protocol}.npz"]
        assert train_here("--eval", "run/best.ckpt", *flags) == 0
        line = capsys.readouterr().out
        scores[protocol] = read_scores(data / f"{protocol}.npz")
        assert line == ", ".join(f"val/{name} {value:.4f}" for name, value in scores[protocol].metrics.items()) + "\n"
        assert scores[protocol].paths.tolist() == [f"{index}.avi" for index in range(NUM_TRAIN, NUM_TRAIN + NUM_VAL)]
        assert scores[protocol].labels.tolist() == [index % 3 for index in range(NUM_TRAIN, NUM_TRAIN + NUM_VAL)]
        assert (str(scores[protocol].protocol), str(scores[protocol].average)) == (protocol, "logits")
    assert scores["efficient"].scores.shape == (NUM_VAL, 3)
    assert not np.array_equal(scores["efficient"].scores, scores["accurate"].scores)


def test_scores_are_the_mean_over_the_views(
    trained: tuple[str, str], train_here: Callable[..., int], data: Path
) -> None:
    """The model on every view of one video, without the evaluation."""
    assert trained
    for average, protocol in (("probabilities", "accurate"), ("logits", "ten_crop")):
        flags = ["--protocol", protocol, "--average", average, "--scores", "scores.npz"]
        assert train_here("--eval", "run/best.ckpt", *flags) == 0
        checkpoint = torch.load(data / "run" / "best.ckpt", weights_only=True)
        model = TSM(3, 2, depth=10, weights=None).eval()
        model.load_state_dict(checkpoint["model"])
        clips = read_annotations(data / "val.txt", root=data / "videos", num_classes=3)
        views = PROTOCOLS[protocol]
        options: dict[str, Any] = {"sampler": MotionGuided(2), "batch_size": NUM_VAL, "size": 32}
        (batch,) = CpuLoader(Plan(clips, **options, training=False, views=views), num_workers=0)
        with torch.no_grad():
            logits = model(batch.clips).double().reshape(NUM_VAL, len(views), 3)
        expected = (logits.softmax(-1) if average == "probabilities" else logits).mean(1)
        np.testing.assert_allclose(read_scores(data / "scores.npz").scores, expected, atol=1e-4)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ResNet-18 TSM in mit-han-lab's format that always says class 2 of three."""
    torch.manual_seed(0)
    model = TSM(3, 2, depth=18)
    torch.nn.init.zeros_(model.fc.weight)
    model.fc.bias.data = torch.tensor([0.0, 1.0, 2.0])
    file = tmp_path_factory.mktemp("published") / "TSM_something.pth.tar"
    torch.save(checkpoints.to_mit(model.state_dict()), file)
    return file


PUBLISHED = ["--root", "videos", "--val-list", "val.txt", "--size", "32", "--num-segments", "2", "--num-workers", "0"]


def test_evaluates_what_others_published(
    train_here: Callable[..., int], published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tmp_path, "depth: 50\nsampler: uniform\n")
    assert train_here("--eval", str(published), *recipe, *PUBLISHED) == 0
    right = (np.arange(NUM_TRAIN, NUM_TRAIN + NUM_VAL) % 3 == 2).mean()
    assert f"val/top1 {right:.4f}" in capsys.readouterr().out
    (tmp_path / "names.txt").write_text("zebra\nant\ncow\n")  # sorted, the last is the list's first
    named = ["--class-names", str(tmp_path / "names.txt")]
    assert train_here("--eval", str(published), *recipe, *PUBLISHED, *named, "--sorted-classes", "true") == 0
    right = (np.arange(NUM_TRAIN, NUM_TRAIN + NUM_VAL) % 3 == 0).mean()
    assert f"val/top1 {right:.4f}" in capsys.readouterr().out
    assert train_here("--eval", str(published), *recipe, *PUBLISHED, "--sorted-classes", "true") == 2
    assert "val.txt does not name its classes" in capsys.readouterr().err


def test_a_published_checkpoint_needs_a_recipe(
    train_here: Callable[..., int], published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_here("--eval", str(published), *PUBLISHED) == 2
    assert "no checkpoint of this trainer" in (error := capsys.readouterr().err)
    assert "--recipe NAME|FILE.yaml" in error
    assert error.count("\n") == 1


def test_a_run_that_is_done_says_so_again(
    trained: tuple[str, str], train_here: Callable[..., int], capsys: pytest.CaptureFixture[str], data: Path
) -> None:
    before = metrics(data / "run")
    assert train_here("--out", "run", "--resume", "auto") == 0
    assert capsys.readouterr().out == trained[0]
    assert metrics(data / "run") == before


def test_refuses_to_go_on_with_another_recipe(
    trained: tuple[str, str], train_here: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert trained
    assert train_here("--resume", "run/last.ckpt", "--lr", "7.0") == 2
    assert "run/last.ckpt is of another recipe: lr (0.01 there, 7.0 here)" in capsys.readouterr().err


def test_teaches_when_a_checkpoint_does_not_fit(
    trained: tuple[str, str], train_here: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert trained
    assert train_here("--eval", "run/last.ckpt", "--depth", "18") == 2
    assert "error: the checkpoint does not fit the model (TSM, ResNet-18) for 3 classes" in capsys.readouterr().err


def test_teaches_when_a_loss_is_not_a_number(
    tmp_path: Path, train_here: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--epochs", "2", "--lr", "1e30", "--grad-clip", "null", "--out", str(tmp_path / "run")]
    assert train_here(*SMALL, *flags) == 2
    assert "training diverged. Lower --lr (now 1e+30)" in capsys.readouterr().err


def test_a_loss_that_is_not_a_number_names_the_clips(
    tmp_path: Path, train_here: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--epochs", "9", "--lr", "1e30", "--grad-clip", "null", "--out", str(tmp_path / "run")]
    assert train_here(*SMALL, *flags, "--checkpoint-every-steps", "1") == 2
    lines = capsys.readouterr().err.splitlines()
    assert any(re.fullmatch(r"  videos/\d+\.avi \(train\.txt, line \d+\)", line) for line in lines)
    if (tmp_path / "run" / "last.ckpt").exists():  # of a step before: nothing that is not finite was saved
        checkpoint: dict[str, Any] = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
        assert all(value.isfinite().all() for value in checkpoint["model"].values())


def test_keeps_the_checkpoints_of_the_last_epochs(tmp_path: Path, train_here: Callable[..., int]) -> None:
    out = tmp_path / "run"
    assert train_here(*SMALL, "--epochs", "3", "--keep-checkpoints", "2", "--out", str(out)) == 0
    names = sorted(file.name for file in out.glob("*.ckpt"))
    assert names == ["best.ckpt", "epoch-0002.ckpt", "epoch-0003.ckpt", "last.ckpt"]
    epochs = [torch.load(out / name, weights_only=True)["loader"]["epoch"] for name in names[1:]]
    assert epochs == [2, 3, 3]
    assert train_here("--eval", str(out / "epoch-0002.ckpt")) == 0


def test_the_best_epoch_is_the_one_with_the_highest_score(
    tmp_path: Path, train_here: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.5, 0.75, 0.25])
    others = {"val/top5": 1.0, "val/mean_class": 0.1, "val/mean_recall": 0.1}
    monkeypatch.setattr("train.tsm.validate", lambda *_, **__: {"val/top1": next(scores), **others})
    out = tmp_path / "run"
    assert train_here(*SMALL, "--epochs", "3", "--keep-checkpoints", "3", "--out", str(out)) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "best val/top1 0.7500 (epoch 2)"
    best, second, last = (
        torch.load(out / f"{name}.ckpt", weights_only=True) for name in ("best", "epoch-0002", "last")
    )
    assert (best["loader"]["epoch"], last["loader"]["epoch"]) == (2, 3)
    torch.testing.assert_close(best["model"], second["model"], rtol=0, atol=0)
    for checkpoint in (best, last):
        assert (checkpoint["best"]["epoch"], checkpoint["best"]["val/top1"]) == (2, 0.75)


def test_trains_with_mixing_smoothing_and_accumulation(tmp_path: Path, train_here: Callable[..., int]) -> None:
    flags = ["--mixing", "cutmix", "--label-smoothing", "0.1", "--accumulate", "2", "--batch-size", "2"]
    assert train_here(*SMALL, *flags, "--epochs", "1", "--out", str(tmp_path / "run")) == 0
    assert metrics(tmp_path / "run")[0]["train/loss"] == pytest.approx(1.1, abs=0.2)  # ln 3: nothing is learned yet


def test_synchronized_batch_norms_need_a_gpu(
    tmp_path: Path, train_here: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_here(*SMALL, "--sync-batchnorm", "--out", str(tmp_path / "run")) == 2
    assert "error: sync_batchnorm: PyTorch has it for GPUs only" in capsys.readouterr().err


def test_says_what_it_would_do_and_does_nothing(
    tmp_path: Path, train_here: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    more = ["--depth", "50", "--num-segments", "8", "--size", "224", "--num-classes", "174", "--lr-batch", "64"]
    with pytest.MonkeyPatch.context() as patch:
        said: list[str] = []
        patch.setattr("train.logs.log.info", lambda text, *values: said.append(text % values))
        assert train_here(*SMALL, *more, "--accumulate", "4", "--out", str(out), "--dry-run") == 0
    assert yaml.safe_load(capsys.readouterr().out)["num_classes"] == 174
    assert not out.exists()
    assert "parameters: 23,864,558; 32.88 GFLOPs a clip" in said
    assert "lr 0.01 for 64 clips a step -> 0.001875 for 12" in said
    assert "batch: 3 clips in each of 1 processes, 4 batches a step; 2 steps of 12 clips an epoch, 6 epochs" in said
    assert any(text.startswith("route cpu: ") for text in said)


@pytest.mark.slow
def test_trains_a_compiled_model(tmp_path: Path, train_here: Callable[..., int]) -> None:
    for name, flags in (("plain", []), ("compiled", ["--compile"])):
        assert train_here(*SMALL, "--dropout", "0", "--epochs", "1", "--out", str(tmp_path / name), *flags) == 0
    plain, compiled = (metrics(tmp_path / name)[0]["train/loss"] for name in ("plain", "compiled"))
    assert compiled == pytest.approx(plain, rel=1e-3)
    models = [torch.load(tmp_path / name / "last.ckpt", weights_only=True)["model"] for name in ("plain", "compiled")]
    assert models[0].keys() == models[1].keys()


def test_fine_tunes_from_a_checkpoint(
    tmp_path: Path, trained: tuple[str, str], train_here: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert trained
    flags = [*SMALL, "--num-classes", "5", "--epochs", "1", "--lr", "1e-12", "--weight-decay", "0"]
    assert train_here(*flags, "--init", "run/best.ckpt", "--out", str(tmp_path / "run")) == 0
    start, end = (torch.load(f, weights_only=True)["model"] for f in ("run/best.ckpt", tmp_path / "run" / "last.ckpt"))
    assert end["fc.weight"].shape[0] == 5
    learned = [name for name in start if name.endswith(".weight") and not name.startswith("fc.")]
    assert len(learned) > 20
    for name in learned:
        torch.testing.assert_close(end[name], start[name])
    assert train_here(*flags, "--init", "gone.pth", "--out", str(tmp_path / "other")) == 2
    assert "gone.pth" in capsys.readouterr().err


# --- errors of the operating system ---------------------------------------------------------------------------------


def only_error(capsys: pytest.CaptureFixture[str]) -> str:
    """What came on stderr beside the log: one line."""
    (line,) = (line for line in capsys.readouterr().err.splitlines() if not re.match(r"\d\d:\d\d:\d\d ", line))
    return line


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--out", "/proc/x"],
            r"error: --out /proc/x: no such folder can be made \(.*\)\. Choose one where you may write\.",
        ),
        (["--out", "train.txt"], r"error: --out train\.txt: no such folder can be made \(.*File exists.*\)"),
        (["--out", "train.txt/x"], r"error: .*Not a directory: 'train\.txt/x.*'"),
        (["--recipe", "videos"], r"error: --recipe videos: no recipe of that name"),
        (["--recipe", "folder.yaml"], r"error: --recipe folder\.yaml: no such file"),
        (["--resume", "videos"], r"error: videos: not a checkpoint .*Is a directory"),
        (["--motion-index", "train.txt"], r"error: train\.txt"),
        (["--class-names", "videos"], r"error: .*videos"),
    ],
)
def test_what_the_system_refuses_is_one_line(
    data: Path, train_here: Callable[..., int], capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    (data / "folder.yaml").mkdir(exist_ok=True)
    assert train_here(*SMALL, "--out", "refused", *flags) == 2
    assert re.match(message, only_error(capsys))
    assert not (data / "refused").exists()


def test_a_disk_that_is_full_at_the_first_checkpoint(
    tmp_path: Path,
    train_here: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    file_limit: Callable[[int], None],
) -> None:
    file_limit(1_000_000)
    assert train_here(*SMALL, "--out", str(tmp_path / "run")) == 2
    assert re.match(r"error: .*File too large: '.*last\.ckpt\.unfinished'", only_error(capsys))


def test_says_what_to_do_where_the_disk_is_full(
    tmp_path: Path, train_here: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "last.ckpt.unfinished")

    monkeypatch.setattr("train.tsm.save_checkpoint", refuse)
    assert train_here(*SMALL, "--out", str(tmp_path / "run")) == 2
    assert re.match(
        r"error: .*No space left on device: 'last\.ckpt\.unfinished'\. What was saved before is whole: make room, and "
        r"go on with --resume auto\.",
        only_error(capsys),
    )


# --- ImageNet weights -----------------------------------------------------------------------------------------------

IMAGENET = ["--depth", "18", "--weights", "imagenet", "--device", "cpu", "--loader", "cpu"]
"""Without lists: the demo set would be made."""


def assert_names_the_file(line: str, cache: Path) -> None:
    assert line.startswith(f"error: the ImageNet weights resnet18-f37072fd.pth are not in {cache}")
    assert "https://download.pytorch.org/models/resnet18-f37072fd.pth" in line
    assert "--init FILE" in line
    assert "--weights null" in line


def test_without_internet_and_weights_nothing_is_made(
    tmp_path: Path, train_here: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("train.build.make_demo", None)
    assert train_here(*IMAGENET, "--out", str(tmp_path / "run")) == 2
    assert_names_the_file(only_error(capsys), tmp_path / "torch/hub/checkpoints")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("unshare") is None
    or subprocess.run(["unshare", "-n", "true"], check=False, capture_output=True).returncode != 0,
    reason="needs a network namespace, which this user cannot make",
)
def test_on_a_machine_without_network(tmp_path: Path) -> None:
    done = subprocess.run(
        ["unshare", "-n", sys.executable, "-m", "train.tsm", *IMAGENET, "--out", "run"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "TORCH_HOME": str(tmp_path / "torch")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert_names_the_file(done.stderr.splitlines()[-1], tmp_path / "torch/hub/checkpoints")
    assert "Traceback" not in done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["torch"]


DOWNLOADING = """
import os, sys, torch
from torchvision.models import resnet18
from train import build, tsm

def download(_url, file, *_arguments, **_options):
    with open("downloads", "a") as log:
        print(os.environ["LOCAL_RANK"], file=log)
    if os.environ["INTERNET"] == "no":
        raise OSError("no route to host")
    torch.save(resnet18().state_dict(), file)

def train(fabric, options, recipe, checkpoint):
    build.fetch_weights(fabric, recipe)
    build.build_model(recipe, None)

torch.hub.download_url_to_file = download
if os.environ["INTERNET"] == "yes":
    tsm.train = train
sys.exit(tsm.main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("internet", ["yes", "no"])
def test_one_process_a_machine_downloads_and_all_know_how_it_ended(tmp_path: Path, internet: str) -> None:
    """Four processes, as on two machines that share their files, started as torchrun does: it would end the others."""
    (tmp_path / "program.py").write_text(DOWNLOADING)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    processes = []
    for rank in range(4):
        environment = {
            "PYTHONPATH": str(REPOSITORY), "TORCH_HOME": "torch", "INTERNET": internet, "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "4",
            "LOCAL_WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank % 2), "GROUP_RANK": str(rank // 2),
            "TORCHELASTIC_RUN_ID": "test",
        }  # fmt: skip
        processes.append(
            subprocess.Popen(
                [sys.executable, "program.py", *IMAGENET, "--num-classes", "3", "--out", "run"],
                cwd=tmp_path,
                env={**os.environ, **environment},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    try:
        said = [process.communicate(timeout=600)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert set((tmp_path / "downloads").read_text().split()) == {"0"}
    assert [process.returncode for process in processes] == [0 if internet == "yes" else 2] * 4, said
    errors = [[line for line in text.splitlines() if line.startswith("error: ")] for text in said]
    if internet == "yes":
        assert not any(errors)
    else:
        assert_names_the_file(errors[0][0], Path("torch/hub/checkpoints"))
        assert [len(lines) for lines in errors] == [1, 0, 0, 0]
        assert not any("Traceback" in text for text in said)
        assert not (tmp_path / "run").exists()


# --- Weights & Biases -----------------------------------------------------------------------------------------------

WANDB = """
import json, os
from contextlib import contextmanager

class Run:
    def log(self, metrics, step):
        tell(log=metrics, step=step)

def tell(**what):
    with open(os.environ["WANDB_STAND_IN"], "a") as file:
        print(json.dumps(what), file=file)

@contextmanager
def init(**kwargs):
    tell(init=kwargs)
    yield Run()
"""


def test_sends_metrics_to_weights_and_biases(
    tmp_path: Path, train_here: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wandb.py").write_text(WANDB)  # stands in for the package
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.setenv("WANDB_STAND_IN", str(tmp_path / "told.jsonl"))
    out = tmp_path / "mine"
    flags = [*SMALL, "--out", str(out), "--wandb", "discs", "--schedule", "step"]
    assert train_here(*flags, "--epochs", "1") == 0
    assert train_here(*flags, "--epochs", "2", "--resume", "auto") == 0
    monkeypatch.delitem(sys.modules, "wandb")
    told = [json.loads(line) for line in (tmp_path / "told.jsonl").read_text().splitlines()]
    first, line_1, second, line_2 = told
    assert (first["init"]["project"], first["init"]["name"]) == ("discs", "mine")
    assert first["init"]["config"]["num_segments"] == 2
    assert first["init"]["id"] == second["init"]["id"]  # it goes on there too
    assert second["init"]["resume"] == "allow"
    assert [line["step"] for line in (line_1, line_2)] == [1, 2]
    for line, sent in zip(metrics(out), (line_1, line_2), strict=True):
        assert sent["log"] == {key: value for key, value in line.items() if key != "epoch"}


def test_says_what_weights_and_biases_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(ValueError, match=r"--wandb discs needs the package wandb: pip install wandb"):
        Options(wandb="discs")


def test_teaches_that_both_lists_are_needed(
    train_here: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert train_here("--train-list", "train.txt", "--root", "videos", "--out", str(tmp_path / "run")) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: --val-list is missing.")


def test_validates_now_and_then(tmp_path: Path, train_here: Callable[..., int]) -> None:
    flags = ["--epochs", "3", "--validate-every", "2", "--out", str(tmp_path / "run")]
    assert train_here(*SMALL, *flags) == 0
    assert [line["val/top1"] is None for line in metrics(tmp_path / "run")] == [True, False, False]


def test_a_bad_video_ends_the_training_with_one_line(
    data: Path, tmp_path: Path, train_here: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train.txt").write_text("0.avi 0\n1.avi 1\nbroken.avi 2\n")
    (data / "videos" / "broken.avi").write_bytes(b"no video")
    assert train_here(*SMALL, "--train-list", str(tmp_path / "train.txt"), "--out", str(tmp_path / "run")) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert re.match(r"error: videos/broken\.avi \(.*train\.txt, line 3\): cannot be opened as a video", last)


def test_trains_on_several_labels_a_clip(
    tmp_path: Path, train_here: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    for name, videos in (("train", range(6)), ("val", range(6, 12))):
        (tmp_path / f"{name}.txt").write_text("".join(f"{i}.avi {i % 3} {(i + 1) % 3}\n" for i in videos))
    lists = ["--train-list", str(tmp_path / "train.txt"), "--val-list", str(tmp_path / "val.txt")]
    more = ["--multi-label", "true", "--num-classes", "3", "--epochs", "1", "--out", str(tmp_path / "run")]
    assert train_here(*SMALL, *lists, *more) == 0
    (line,) = metrics(tmp_path / "run")
    assert capsys.readouterr().out.splitlines()[-1] == f"best val/map {line['val/map']:.4f} (epoch 1)"
    assert line["train/loss"] == pytest.approx(0.693, abs=0.1)  # ln 2: nothing is learned yet


def test_trains_with_dali(data: Path, tmp_path: Path, trained: tuple[str, str]) -> None:
    pytest.importorskip("nvidia.dali")
    out = tmp_path / "run"
    stdout, stderr = train(data, *SMALL, "--epochs", "2", "--out", str(out))
    assert "route host: " in stderr
    assert [list(line) for line in metrics(out)] == [KEYS, KEYS]
    assert stdout.splitlines()[-1].startswith("best val/top1 ")
    # The same clips but for the rounding of pixels, hence nearly the same loss as long as the weights are the same.
    assert trained
    first = [lines[0]["train/loss"] for lines in (metrics(out), metrics(data / "run"))]
    assert first[0] == pytest.approx(first[1], rel=0.05)


def test_records_motion_in_the_first_epoch(data: Path, tmp_path: Path, trained: tuple[str, str]) -> None:
    out = tmp_path / "out"
    _, stderr = train(data, *SMALL, "--epochs", "2", "--out", str(out), "--motion-index", "auto")
    assert "motion curves are being recorded" in stderr
    assert stderr.count("route host-sparse") == 2  # training and validation, from their second epoch on
    assert len(MotionIndex(out / "motion")) == NUM_TRAIN + NUM_VAL
    assert trained
    first = [lines[0]["train/loss"] for lines in (metrics(out), metrics(data / "run"))]
    assert first[0] == pytest.approx(first[1], rel=0.05)


def test_says_what_to_do_without_dali(data: Path, tmp_path: Path) -> None:
    (tmp_path / "nvidia").mkdir()
    (tmp_path / "nvidia" / "__init__.py").write_text("raise ImportError('not here')\n")
    program = tmp_path / "without_dali.py"  # its folder comes first on sys.path
    program.write_text("import runpy, sys\nrunpy.run_module(sys.argv.pop(1), run_name='__main__')\n")
    launcher = (str(program),)
    _, stderr = train(data, *SMALL, "--out", str(tmp_path / "run"), launcher=launcher, code=2)
    last = stderr.splitlines()[-1]
    assert re.match(r"error: NVIDIA DALI is not installed.*mgs-dali\[cuda130\].*--loader cpu\.$", last)


@pytest.mark.slow
def test_processes_share_an_epoch_and_count_clips_once(data: Path, tmp_path: Path, trained: tuple[str, str]) -> None:
    assert trained
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")
    # Validation does not depend on how clips are spread; 5 clips in batches of 2 x 3 leave one place to fill up.
    one, _ = train(data, "--loader", "cpu", "--device", "cpu", "--eval", "run/last.ckpt")
    two, _ = train(data, "--loader", "cpu", "--device", "cpu", "--eval", "run/last.ckpt", launcher=launcher)
    assert one == two

    out = tmp_path / "run"
    stdout, stderr = train(data, *SMALL, "--loader", "cpu", "--epochs", "2", "--out", str(out), launcher=launcher)
    assert "3 clips in each of 2 processes; 3 steps of 6 clips an epoch" in stderr
    assert [list(line) for line in metrics(out)] == [KEYS, KEYS]
    assert stdout.splitlines()[-1].startswith("best val/top1 ")
    checkpoint: dict[str, Any] = torch.load(out / "last.ckpt", weights_only=True)
    assert checkpoint["loader"] == {"epoch": 2, "iteration": 0}


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["efficient", "accurate"])
def test_scores_are_the_same_on_any_number_of_processes(data: Path, trained: tuple[str, str], protocol: str) -> None:
    """Five clips, in global batches of six that one, two and three processes share."""
    assert trained
    flags = ["--loader", "cpu", "--device", "cpu", "--eval", "run/last.ckpt", "--protocol", protocol]
    found = []
    for num_processes in (1, 2, 3):
        launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num_processes), "-m")
        batch = ["--batch-size", str(6 // num_processes), "--scores", f"{num_processes}.npz"]
        line, _ = train(data, *flags, *batch, launcher=launcher)
        found.append((line, read_scores(data / f"{num_processes}.npz")))
    for line, scores in found[1:]:
        assert line == found[0][0]
        assert scores.metrics == found[0][1].metrics
        assert scores.paths.tolist() == found[0][1].paths.tolist()
        np.testing.assert_allclose(scores.scores, found[0][1].scores, atol=1e-5)
