"""The published recipes, held against the values of mmaction2's configs; and what docs/training.md says to type."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from conftest import encode, moving_disc, take_apart
from training import metrics

from train.command_line import Options, parse_command_line
from train.recipe import RECIPES, Recipe
from train.tsm import main

SWAPPED_IN_JESTER = {0: 1, 1: 0, 6: 7, 7: 6}

# frames, classes, clips a GPU (of 8), lr, weight decay, epochs, steps, epochs between validations, flip probability
PUBLISHED = {
    "sthv1": (8, 174, 8, 0.01, 5e-4, 50, (20, 40), 2, 0.0),
    "sthv1-16f": (16, 174, 6, 0.0075, 5e-4, 50, (20, 40), 2, 0.0),
    "sthv2": (8, 174, 6, 0.0075, 5e-4, 50, (20, 40), 2, 0.0),
    "sthv2-16f": (16, 174, 6, 0.0075, 5e-4, 50, (20, 40), 2, 0.0),
    "jester": (8, 27, 8, 0.01, 5e-4, 50, (20, 40), 2, 0.5),
    "diving48": (8, 48, 8, 0.01, 1e-4, 50, (20, 40), 1, 0.5),
    "diving48-16f": (16, 48, 4, 0.005, 1e-4, 50, (20, 40), 1, 0.5),
    "kinetics400": (8, 400, 8, 0.01, 1e-4, 50, (20, 40), 5, 0.5),
    "kinetics400-16f": (16, 400, 6, 0.0075, 1e-4, 50, (20, 40), 5, 0.5),
    "kinetics400-dense": (8, 400, 8, 0.01, 1e-4, 100, (40, 80), 2, 0.5),
    "ucf101": (8, 101, 12, 0.0015, 1e-4, 25, (10, 20), 1, 0.0),
    "hmdb51": (8, 51, 12, 0.0015, 1e-4, 25, (10, 20), 1, 0.0),
}
FINE_TUNED = ("ucf101", "hmdb51")


def read(name: str) -> Recipe:
    return parse_command_line(["--recipe", name])[1]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_trainings_sample_whole_parts(name: str) -> None:
    recipe = read(name)
    assert recipe.sampler == "dense" or (recipe.sampler, recipe.keep_tail) == ("uniform", False)


def test_all_recipes_are_in_the_table() -> None:
    assert {file.stem for file in RECIPES.glob("*.yaml")} == {"demo", *PUBLISHED}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_has_the_published_values(name: str) -> None:
    recipe = read(name)
    assert PUBLISHED[name] == (
        recipe.num_segments,
        recipe.num_classes,
        recipe.batch_size,
        recipe.lr,
        recipe.weight_decay,
        recipe.epochs,
        recipe.lr_steps,
        recipe.validate_every,
        recipe.flip_probability,
    )
    assert recipe.flip_label_map == (SWAPPED_IN_JESTER if name == "jester" else None)
    assert (recipe.depth, recipe.dropout, recipe.momentum, recipe.grad_clip, recipe.size) == (50, 0.5, 0.9, 20, 224)
    assert (recipe.schedule, recipe.lr_gamma, recipe.warmup_epochs, recipe.accumulate) == ("step", 0.1, 0, 1)
    assert (recipe.mixing, recipe.label_smoothing, recipe.multi_label) == (None, 0, False)
    assert recipe.weights == "imagenet"
    assert (recipe.init is not None) == (name in FINE_TUNED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_eight_processes_train_with_the_published_learning_rate(name: str) -> None:
    recipe = read(name)
    assert recipe.lr_for(8 * recipe.batch_size) == pytest.approx(recipe.lr)
    # Linear scaling: all recipes from ImageNet have one learning rate per clip, the fine-tuned ones a tenth of it.
    factor = 0.1 if name in FINE_TUNED else 1
    assert recipe.lr_for(64) == pytest.approx(0.01 * factor)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_names_its_data_set_and_no_machine(name: str) -> None:
    recipe = read(name)
    folder = f"data/{name.partition('-')[0]}/"
    for path in (recipe.train_list, recipe.val_list, recipe.root):
        assert path is not None
        assert path.startswith(folder)
        assert ".." not in Path(path).parts
    assert recipe.template == ("{:05}.jpg" if name.startswith(("sthv1", "jester")) else None)
    assert (recipe.num_workers, recipe.precision, recipe.seed, recipe.class_names) == (None, "auto", 0, None)


# --- the page about long trainings ----------------------------------------------------------------------------------

PAGE = (Path(__file__).parents[1] / "docs" / "training.md").read_text()


def test_the_commands_of_the_page_are_allowed() -> None:
    blocks = "".join(re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL)).replace("\\\n", "")
    commands = [line.partition("#")[0] for line in blocks.splitlines() if "train.tsm" in line]
    assert len(commands) == 4
    for command in commands:
        options, recipe, _ = parse_command_line(shlex.split(command.partition("train.tsm")[2]))
        assert options.recipe == "sthv2"
        assert recipe.num_classes == 174


def test_the_flags_that_the_page_names_exist() -> None:
    of_torchrun = {"--nproc-per-node", "--nnodes", "--rdzv-backend", "--rdzv-endpoint", "--max-restarts"}
    named = set(re.findall(r"--[a-z][a-z-]+", PAGE)) - of_torchrun
    ours = {f"--{field.name.replace('_', '-')}" for cls in (Options, Recipe) for field in fields(cls)}
    assert len(named) > 10
    assert named <= ours


# --- recipes on miniature sets in the official layouts --------------------------------------------------------------

LESS = [
    "--loader", "cpu", "--device", "cpu", "--num-workers", "0", "--weights", "null", "--size", "64",
    "--batch-size", "2", "--epochs", "2", "--validate-every", "1",
]  # fmt: skip
"""What makes a published recipe small enough for a test: the network and all else stays as it is."""


def train_here(folder: Path, monkeypatch: pytest.MonkeyPatch, *flags: str) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.argv", ["train.tsm", *LESS, *flags])
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert main() == 0
    torch.set_num_threads(num_threads)


def check_run(out: Path) -> None:
    lines = metrics(out)
    assert [line["epoch"] for line in lines] == [1, 2]
    # ln 174 for 174 classes of which nothing is known; the first steps may overshoot
    assert 4 < lines[0]["train/loss"] < 8
    checkpoint = torch.load(out / "last.ckpt", weights_only=True)
    assert checkpoint["model"]["fc.weight"].shape == (174, 2048)


@pytest.mark.slow
def test_sthv2_trains_on_its_official_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "data" / "sthv2"
    (data / "labels").mkdir(parents=True)
    (data / "20bn-something-something-v2").mkdir()
    classes = sorted(f"Moving something {number:03d} times" for number in range(174))
    (data / "labels" / "labels.json").write_text(json.dumps({name: str(i) for i, name in enumerate(classes)}))
    for name, ids in (("train", range(1, 7)), ("validation", range(7, 10))):
        entries = [
            {
                "id": str(video),
                "label": "moving a disc",
                "template": classes[17 * video].replace("something", "[something]"),
                "placeholders": ["a disc"],
            }
            for video in ids
        ]
        (data / "labels" / f"{name}.json").write_text(json.dumps(entries))
        for video in ids:
            frames = moving_disc(20, width=96, height=72, action=(4, 14), seed=video)
            encode(data / "20bn-something-something-v2" / f"{video}.webm", frames, "libvpx-vp9")
    train_here(tmp_path, monkeypatch, "--recipe", "sthv2", "--out", "run")
    check_run(tmp_path / "run")


@pytest.mark.slow
def test_sthv1_trains_on_its_official_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "data" / "sthv1"
    data.mkdir(parents=True)
    classes = [f"Moving something {number:03d} times" for number in range(174)]
    (data / "something-something-v1-labels.csv").write_text("".join(f"{name}\n" for name in classes))
    for name, ids in (("train", range(1, 7)), ("validation", range(7, 10))):
        lines = [f"{video};{classes[17 * video]}\n" for video in ids]
        (data / f"something-something-v1-{name}.csv").write_text("".join(lines))
        for video in ids:
            frames = moving_disc(20, width=132, height=100, action=(4, 14), seed=video)
            film = encode(tmp_path / f"{video}.avi", frames, "mjpeg", pixel_format="yuvj420p")
            take_apart(film, data / "20bn-something-something-v1" / str(video), template="{:05}.jpg")
    train_here(tmp_path, monkeypatch, "--recipe", "sthv1", "--out", "run")
    check_run(tmp_path / "run")
