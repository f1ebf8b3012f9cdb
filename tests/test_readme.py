"""What the README says is run: its Python, its commands, its recipe, and the names in its tables."""

from __future__ import annotations

import configparser
import dataclasses
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from mgs_dali.demo import make_demo, plan_video

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text()

# Small enough for a test. Which pixels a demo video has does not depend on how many there are.
FEWER = {"mgs-dali demo": "--num-train 12 --num-val 16", "train": "--num-workers 1 --size 32 --epochs {epochs}"}
NOT_RUN_HERE = (". ", "pip install", "torchrun ", "make ")


def blocks(language: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
    assert found, f"no {language} block in the README"
    return found


def commands(start: str) -> list[str]:
    lines = (line.partition("  #")[0].strip() for block in blocks("sh") for line in block.splitlines())
    return [line for line in lines if line.startswith(start)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a small demo set, and with a folder for the picture."""
    folder = tmp_path_factory.mktemp("readme")
    make_demo(folder / "demo", num_train=12, num_val=16, progress=False)
    (folder / "docs").mkdir()
    return folder


def run(arguments: list[str], folder: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_command(command: str, folder: Path) -> str:
    program, *arguments = shlex.split(command)
    if program == "mgs-dali":
        return run(["-c", "import sys; from mgs_dali.cli import main; sys.exit(main())", *arguments], folder)
    assert program == "python"
    return run(arguments, folder)


@pytest.mark.parametrize("code", blocks("python"), ids=lambda code: re.findall(r"^from (mgs_dali\S*)", code, re.M)[-1])
def test_python_runs_and_prints_what_its_comments_say(code: str, folder: Path) -> None:
    promised = re.findall(r"^print\(.*\)\s*# (.*)$", code, flags=re.MULTILINE)
    assert len(promised) == code.count("print(") > 0
    assert run(["-c", code], folder).splitlines() == promised


@pytest.mark.parametrize("command", commands("mgs-dali "))
def test_mgs_dali_commands_run(command: str, folder: Path) -> None:
    few = FEWER["mgs-dali demo"] if command.startswith("mgs-dali demo") else ""
    run_command(f"{command} {few}", folder)
    for written in re.findall(r"--out (\S+)", command):
        assert (folder / written).stat().st_size > 0


@pytest.mark.slow
def test_trainings_run(folder: Path) -> None:
    """In the README's order: a run, going on with it, what is done with its checkpoint, trainings with an index.

    Those with a recipe need data that are not here.
    """
    for command in commands("mgs-dali index"):
        run_command(command, folder)
    for command in commands("python "):
        if "--recipe" in command:
            continue
        few, last = FEWER["train"].format(epochs=1), r"best val/top1 \d\.\d{4} \(epoch [12]\)"
        if "--resume" in command:
            few = "--epochs 2"
        elif "--eval" in command:
            few, last = "", r"val/top1 \d\.\d{4}, "
        elif "train.evaluate" in command:
            few, last = "", r"mine\.npz \(accurate, probabilities\): top1 \d\.\d{4}"
        elif "train.predict" in command:
            few, last = "", r"   0\.\d{4}  \S"
        printed = run_command(f"{command} {few}", folder)
        assert re.match(last, printed.splitlines()[-1]), f"{command}\n{printed}"
    described = re.findall(r"`([\w.*]+)`", README.partition("A run writes into")[2].partition("## ")[0])
    for name in ("config.yaml", "metrics.jsonl", "events.out.tfevents.*", "last.ckpt", "best.ckpt"):
        assert name in described
        assert list((folder / "runs" / "mine").glob(name)), name


def test_recipe_is_one(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="needs the extra train")
    from train.command_line import parse_command_line

    for text in blocks("yaml"):
        (tmp_path / "my.yaml").write_text(text)
        _, recipe, _ = parse_command_line(["--recipe", str(tmp_path / "my.yaml")])
        found = (recipe.depth, recipe.weights, recipe.num_segments, recipe.size, recipe.epochs)
        assert found == (50, "imagenet", 8, 224, 50)  # the defaults that the README names


def test_flags_of_trainings_exist() -> None:
    pytest.importorskip("torch", reason="needs the extra train")
    from train.command_line import Options
    from train.recipe import Recipe

    known = {f"--{field.name.replace('_', '-')}" for cls in (Options, Recipe) for field in dataclasses.fields(cls)}
    for command in [*commands("python -m train.tsm"), *commands("torchrun ")]:
        used = set(re.findall(r"--[a-z-]+", command.partition("-m train.tsm")[2]))
        assert used <= known, command


def test_no_command_is_forgotten() -> None:
    """Each command is run by a test above, or known not to be."""
    for command in commands(""):
        assert not command or command.startswith(("mgs-dali ", "python -m train.", *NOT_RUN_HERE)), command


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE))
    named = re.findall(r"(?:^|`)make ([a-z-]+)", README, flags=re.MULTILINE)
    assert named
    assert set(named) <= targets


def test_extras_are_those_of_the_package() -> None:
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    table = README.partition("## Install")[2].partition("## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE)) | {"cuda110"} == set(
        setup["options.extras_require"]
    )


def test_routes_are_those_of_the_loader() -> None:
    pytest.importorskip("torch", reason="needs the extra train")
    from mgs_dali.load.routes import ROUTES

    table = README.partition("## Routes")[2].partition("## ")[0]
    assert re.findall(r"^\| `([\w-]+)` \|", table, flags=re.MULTILINE) == sorted(ROUTES)


def test_links_and_named_files_exist() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if not link.startswith("http")]
    files = re.findall(r"^- `(\S+\.py)`:", README, flags=re.MULTILINE)
    assert len(files) == 7
    for name in [*links, *files]:
        assert (REPOSITORY / name).is_file(), name


def test_words_on_the_picture_fit_its_video() -> None:
    """The demo may change; the picture and the sentence under it have to be made anew then."""
    sentence = re.search(r"The action lasts (\d+) of the (\d+) frames", README)
    assert sentence
    video = plan_video(0, "val", 0)
    assert f"demo/videos/{video.path} --out docs/motion_guided.png" in README
    assert sentence.groups() == (str(video.num_action_frames), str(video.num_frames))


def test_picture_is_small() -> None:
    assert (REPOSITORY / "docs" / "motion_guided.png").stat().st_size < 300 * 1024
