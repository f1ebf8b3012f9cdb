"""The command line of ``python -m train.tsm``: run options, a recipe, and flags that override the recipe."""

from __future__ import annotations

import argparse
import importlib.util
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_type_hints

import yaml  # type: ignore[import-untyped]
from jsonargparse import ArgumentParser

from .checkpoint import Checkpoint, is_own, read_checkpoint
from .recipe import Recipe, did_you_mean, field_docs, find_recipe

__all__ = ["Options", "parse_command_line"]

Values = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line decides beside the recipe."""

    recipe: str | None = None
    """Name of a recipe in train/recipes, or a YAML file; demo by default. With --resume or --eval, the checkpoint's."""
    loader: Literal["dali", "cpu"] = "dali"
    """Who loads clips: DALI, or PyTorch's DataLoader with PyAV and torchvision."""
    route: str | None = None
    """Who decodes for the DALI loader: auto (the default), or a route by name."""
    motion_index: str | None = None
    """Folder of motion curves from mgs-dali index: motion-guided frames are then known before decoding. Or auto: the
    first epoch records them in motion/ of --out, and later epochs use them."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto is CUDA where PyTorch has it."""
    out: str | None = None
    """Folder for the run's files; by default a new one in runs/, named after the recipe."""
    resume: str | None = None
    """Go on from a checkpoint; auto takes last.ckpt of --out where there is one, and starts anew where not."""
    eval: str | None = None
    """Only evaluate this checkpoint on the validation list, with the recipe's protocol. With --recipe, also one that
    another project published, see docs/checkpoints.md."""
    sorted_classes: bool = False
    """With --eval: the checkpoint numbers its classes by their sorted names, as the original TSM code does for
    Something-Something V1 and Jester; they are put into the order of the list."""
    scores: str | None = None
    """With --eval: a .npz file for the scores of every clip, which python -m train.evaluate judges and fuses."""
    dry_run: bool = False
    """Print the recipe, how large the model is and what the loader will do, and train nothing."""
    compile: bool = False
    """Compile the model with torch.compile: slow to start, then fewer and larger steps on a GPU."""
    wandb: str | None = None
    """Project of Weights & Biases that metrics are sent to, beside the run's folder."""

    def __post_init__(self) -> None:
        if self.loader == "cpu" and self.route is not None:
            raise ValueError(f"--route {self.route} is for --loader dali. Leave out one of the two.")
        if self.motion_index == "auto" and (self.loader == "cpu" or self.eval is not None):
            other = "--eval" if self.eval is not None else "--loader cpu"
            raise ValueError(
                f"--motion-index auto records while --loader dali trains, and does not go with {other}. Give a folder "
                "of curves, or leave it out."
            )
        if self.eval is not None and self.resume is not None:
            raise ValueError("--eval and --resume exclude each other: --eval trains nothing.")
        if self.scores is not None and (self.eval is None or not self.scores.endswith(".npz")):
            raise ValueError(f"--scores {self.scores} must be a .npz file, and is for --eval CHECKPOINT.")
        if self.sorted_classes and self.eval is None:
            raise ValueError("--sorted-classes is for --eval CHECKPOINT.")
        if self.wandb is not None and importlib.util.find_spec("wandb") is None:
            raise ValueError(f"--wandb {self.wandb} needs the package wandb: pip install wandb, or leave the flag out.")
        if self.resume == "auto" and self.out is None:
            raise ValueError("--resume auto needs --out DIR, the folder of the run to go on with.")

    @property
    def checkpoint_file(self) -> Path | None:
        """The checkpoint to start from."""
        if self.resume == "auto":
            assert self.out is not None
            last = Path(self.out, "last.ckpt")
            return last if last.is_file() else None
        name = self.resume or self.eval
        return Path(name) if name else None


def parse_command_line(arguments: list[str]) -> tuple[Options, Recipe, Checkpoint | None]:
    """Options, the recipe with all flags applied, and the checkpoint to start from.

    The recipe's values come from its file, or, with a checkpoint and no ``--recipe``, from the checkpoint;
    flags override both.

    Raises:
        ValueError: anything that is not allowed, with the file or flag, the value, and what is allowed.
    """
    parser = _parser()
    given = _parsed(parser, arguments)
    options = Options(**{field.name: given[field.name] for field in fields(Options)})
    checkpoint = None
    if options.checkpoint_file and not _is_published(options):
        checkpoint = read_checkpoint(options.checkpoint_file)
    if checkpoint and options.recipe is None:
        source, values = str(options.checkpoint_file), checkpoint["recipe"]
    else:
        file = find_recipe(options.recipe or "demo")
        source, values = str(file), _read_values(parser, file)
    parser.set_defaults(values)
    given = _parsed(parser, arguments)
    chosen = {field.name: given[field.name] for field in fields(Recipe)}
    try:
        recipe = Recipe(**chosen)
    except ValueError as error:
        raise ValueError(f"{source}, with the flags given: {error}") from None
    return options, recipe, checkpoint


def _is_published(options: Options) -> bool:
    """Whether ``--eval`` is of a checkpoint of another project, whose recipe must be given."""
    if options.eval is None or not Path(options.eval).is_file() or is_own(Path(options.eval)):
        return False
    if options.recipe is None:
        raise ValueError(
            f"--eval {options.eval}: no checkpoint of this trainer, and one of another project does not say how its "
            "clips are sampled and cropped. Name the recipe that it was trained with: --recipe NAME|FILE.yaml."
        )
    return True


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="python -m train.tsm",
        usage="python -m train.tsm [--loader {dali,cpu}] [--recipe NAME|FILE.yaml] [--out DIR] [options]",
        description="Train TSM on the frames where something happens. The last line tells the best validation score.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    _add_fields(parser.add_argument_group("the run"), Options)
    title = "the recipe's values, as flags that override it (defaults: where the recipe says nothing)"
    _add_fields(parser.add_argument_group(title), Recipe)
    return parser


def _add_fields(parser: Any, cls: type) -> None:
    docs, types = field_docs(cls), get_type_hints(cls)
    for field in fields(cls):
        text = docs[field.name].replace("%", "%%")
        kwargs = {"nargs": "?", "const": True} if types[field.name] is bool else {}  # --compile, or --compile true
        parser.add_argument(
            f"--{_dashed(field.name)}", type=types[field.name], default=field.default, help=text, **kwargs
        )


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def _read_values(parser: ArgumentParser, file: Path) -> Values:
    try:
        text = file.read_text(encoding="utf-8")
        keys = yaml.safe_load(text) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{file}: cannot be read as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(keys, dict):
        raise ValueError(f"{file}: expected lines such as 'epochs: 50', found {type(keys).__name__}.")
    allowed = [field.name for field in fields(Recipe)]
    for key in keys:
        if key not in allowed:
            hint = did_you_mean(str(key), allowed)
            raise ValueError(f"{file}: unknown key {key!r}.{hint} Allowed: {', '.join(allowed)}.")
    try:
        return vars(parser.parse_string(text, defaults=False)) if keys else {}
    except argparse.ArgumentError as error:
        raise ValueError(f"{file}: {_plain(error)}") from None


def _parsed(parser: ArgumentParser, arguments: list[str]) -> Values:
    try:
        return vars(parser.parse_args(arguments))
    except argparse.ArgumentError as error:
        unknown = re.search(r"unrecognized arguments: (\S+)", str(error))
        allowed = [f"--{_dashed(field.name)}" for cls in (Options, Recipe) for field in fields(cls)]
        hint = did_you_mean(unknown[1].partition("=")[0], allowed) if unknown else ""
        raise ValueError(f"{_plain(error)}.{hint} All flags: --help.") from None


def _plain(error: argparse.ArgumentError) -> str:
    """A parser's message on one line, in the terms of a recipe's field where it is about one."""
    text = " ".join(str(error).split())
    about = re.search(r'Parser key "(\w+)"', text)
    found = re.search(r"(?:Got|Given) value: (.*)$", text)
    if not (about and found):
        return text
    allowed = {**get_type_hints(Options), **get_type_hints(Recipe)}[about[1]]
    words = getattr(allowed, "__name__", str(allowed)) if isinstance(allowed, type) else str(allowed)
    words = re.sub(r"typing\.Literal\[(.*?)\]", r"one of \1", words).replace("None", "null")
    return f"{about[1]} must be {words}, found {found[1]}"
