"""What docs/recipes.md says can be typed, and its tables hold what the recipes hold."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
from dataclasses import fields
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from mgs_dali.cli import _parser
from mgs_dali.mmaction2 import MotionGuidedSampleFrames

REPOSITORY = Path(__file__).parents[1]
DOC = (REPOSITORY / "docs" / "recipes.md").read_text()
RECIPES = sorted(file.stem for file in (REPOSITORY / "train" / "recipes").glob("*.yaml") if file.stem != "demo")

needs_train = pytest.mark.skipif(find_spec("torch") is None, reason="needs the extra train")


def blocks(language: str) -> list[str]:
    every = re.findall(r"^```(\w*)\n(.*?)^```$", DOC, flags=re.MULTILINE | re.DOTALL)
    found = [text for its_language, text in every if its_language == language]
    assert found, f"no {language} block in the document"
    return found


COMMANDS = [line for block in blocks("sh") for line in block.splitlines() if line]
INDEXING = [command for command in COMMANDS if command.startswith("mgs-dali ")]
TRAINING = [command for command in COMMANDS if command.startswith("torchrun --nproc-per-node 8 -m train.tsm ")]
TESTING = [command for command in COMMANDS if command.startswith("python -m train.tsm --eval ")]
FUSING = [command for command in COMMANDS if command.startswith("python -m train.evaluate ")]


def arguments(command: str) -> list[str]:
    """What follows ``-m train.tsm``."""
    words = shlex.split(command)
    return words[words.index("train.tsm") + 1 :]


def value(command: str, flag: str) -> str | None:
    words = shlex.split(command)
    return words[words.index(flag) + 1] if flag in words else None


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table behind a heading, without its head."""
    table = DOC.partition(heading)[2].partition("\n|")[2].partition("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


@lru_cache
def recipe(name: str) -> Any:
    from train.command_line import parse_command_line

    return parse_command_line(["--recipe", name])[1]


def test_every_command_is_checked_below() -> None:
    assert sorted(INDEXING + TRAINING + TESTING + FUSING) == sorted(COMMANDS)


@pytest.mark.parametrize("command", INDEXING)
def test_commands_of_mgs_dali_are_understood(command: str) -> None:
    _parser().parse_args(shlex.split(command)[1:])


@needs_train
@pytest.mark.parametrize("command", TRAINING)
def test_trainings_are_understood(command: str) -> None:
    from train.command_line import parse_command_line

    parse_command_line(arguments(command))


@needs_train
@pytest.mark.parametrize("command", TESTING)
def test_testing_is_understood(command: str) -> None:
    """Flag by flag: the checkpoints are not there."""
    from train.command_line import Options
    from train.recipe import Recipe

    known = {f"--{field.name.replace('_', '-')}" for cls in (Options, Recipe) for field in fields(cls)}
    assert {word for word in arguments(command) if word.startswith("--")} <= known
    if protocol := value(command, "--protocol"):
        hints = {**get_type_hints(Options), **get_type_hints(Recipe)}
        assert protocol in get_args(hints["protocol"])


@needs_train
def test_named_protocols_exist() -> None:
    from train.command_line import Options
    from train.recipe import Recipe

    hints = {**get_type_hints(Options), **get_type_hints(Recipe)}
    named = {name for first, *_ in rows("**Testing.**") for name in re.findall(r"`(\w+)`", first)}
    named |= set(re.findall(r"`--protocol (\w+)`", DOC))
    assert len(named) >= 5
    assert named <= set(get_args(hints["protocol"]))


@pytest.mark.parametrize("command", FUSING)
def test_scores_that_are_fused_are_written_before(command: str) -> None:
    assert find_spec("train.evaluate") is not None
    written = [value(testing, "--scores") for testing in TESTING[: COMMANDS.index(command)]]
    assert set(shlex.split(command)[3:]) <= set(written)


def test_checkpoints_and_indices_that_are_used_are_made() -> None:
    made = {f"{value(command, '--out')}/best.ckpt" for command in TRAINING}
    indices = {value(command, "--out") for command in INDEXING}
    for command in [*TRAINING, *TESTING]:
        for flag in ("--eval", "--init"):
            assert value(command, flag) in {None, *made}, command
        assert value(command, "--motion-index") in {None, *indices}, command
    outs = [value(command, "--out") for command in TRAINING if "--recipe kinetics400 --train-list" not in command]
    assert len(outs) == len(set(outs)), "two trainings write into one folder"


# --- the recipes ------------------------------------------------------------------------------------------------------


def test_the_table_names_every_recipe() -> None:
    assert sorted(name.strip("`") for name, *_ in rows("# Recipes")) == RECIPES


@needs_train
@pytest.mark.parametrize("row", rows("# Recipes"), ids=lambda row: row[0].strip("`"))
def test_the_table_has_the_values_of_the_recipe(row: list[str]) -> None:
    name, config, num_frames, batch, lr = row
    found = recipe(name.strip("`"))
    assert (found.num_segments, found.lr) == (int(num_frames), float(lr))
    assert batch == f"8 x {found.batch_size}"
    assert f"1x1x{num_frames}_{found.epochs}e" in config
    assert (found.sampler == "dense") == ("dense" in config)


@needs_train
@pytest.mark.parametrize("name", [row[0].strip("`") for row in rows("# Recipes")])
def test_the_layout_is_where_the_recipe_looks(name: str) -> None:
    """Each list and folder of a recipe is in a command that makes its index, or was made by one."""
    found = recipe(name)
    indexed = [shlex.split(command) for command in INDEXING if " index " in command]
    of_set = [words for words in indexed if words[2] in (found.train_list, found.val_list)]
    assert [words[2] for words in of_set] == [found.train_list, found.val_list]
    val_root = getattr(found, "val_root", None) or found.root
    assert [words[words.index("--root") + 1] for words in of_set] == [found.root, val_root]
    made = [f"{value(command, '--out')}/" for command in INDEXING if "hmdb51-lists" in command]
    layout = "\n".join(blocks(""))
    for path in (found.train_list, found.val_list, found.root):
        folder = path if path == found.root else str(Path(path).parent)
        assert f"{folder}/" in layout or path.startswith(tuple(made)), path


@needs_train
def test_flip_maps_are_those_of_the_recipes_and_swap_pairs() -> None:
    maps = {name: ast.literal_eval(text.strip("`")) for name, text, _ in rows("## Mirrored clips")}
    assert maps["Jester"] == recipe("jester").flip_label_map
    for label_map in maps.values():
        assert all(label_map[other] == label for label, other in label_map.items())
    given = [ast.literal_eval(text) for command in TRAINING if (text := value(command, "--flip-label-map"))]
    assert given == [maps["Something-Something V1"], maps["Something-Something V2"]]


# --- the rest ---------------------------------------------------------------------------------------------------------


def test_the_pipeline_for_mmaction2_has_arguments_that_the_transform_takes() -> None:
    (code,) = blocks("python")
    calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    ours = [call for call in calls if "motion" in ast.unparse(call) and "imports" not in ast.unparse(call)]
    keywords = {keyword.arg for call in ours for keyword in call.keywords} - {"type"}
    assert keywords == {"motion_index", "root", "num_clips", "test_mode", "twice_sample"}
    assert keywords <= set(inspect.signature(MotionGuidedSampleFrames).parameters)


def test_links_lead_somewhere() -> None:
    headings = {re.sub(r"[^\w -]", "", line).replace(" ", "-").lower() for line in re.findall(r"^#+ (.*)$", DOC, re.M)}
    for target in re.findall(r"\]\(([^)]+)\)", DOC):
        file, _, heading = target.partition("#")
        assert not file or (REPOSITORY / "docs" / file).is_file(), target
        assert file or heading in headings, target
