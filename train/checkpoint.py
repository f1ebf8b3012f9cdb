"""Checkpoints of a run: written whole or not at all, read without running any code from them."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypedDict

import torch

from mgs_dali.files import write_whole

from .recipe import Recipe

__all__ = [
    "Checkpoint",
    "check_same_run",
    "drop_old_checkpoints",
    "epoch_checkpoint",
    "is_own",
    "position_here",
    "read_checkpoint",
    "save_checkpoint",
]

MAY_CHANGE = {
    "train_list", "val_list", "root", "val_root", "class_names", "epochs", "num_workers", "validate_every",
    "checkpoint_every_steps", "keep_checkpoints", "batch_size", "accumulate", "init", "protocol", "average",
}  # fmt: skip
"""Fields of the recipe that may be others when a run goes on: files may have moved, the run may be made longer, and a
step may be shared in another way."""


class Checkpoint(TypedDict):
    """All that a run needs to go on as if it had never stopped. There is no state of random generators: whatever is
    random is a function of the seed and the position."""

    model: dict[str, torch.Tensor]
    optimizer: dict[str, Any]
    loader: dict[str, int]
    """Epoch, and how many of its batches went into steps. All of them: the epoch waits for its validation."""
    loss_sums: torch.Tensor
    """(2,) float64: sum of the losses in this epoch so far, and over how many clips."""
    best: dict[str, Any] | None
    """The best epoch's line of metrics.jsonl."""
    recipe: dict[str, Any]
    world_size: int


_KEYS = Checkpoint.__annotations__.keys()


def save_checkpoint(checkpoint: Checkpoint, *files: Path) -> None:
    """Write a checkpoint under one name or several, once where the file system has hard links.

    A process killed on the way, or a power cut, leaves each file as it was before or as it is now.

    Raises:
        OSError: it cannot be written, on a full disk for example. The files are those that were there before.
    """
    first, *others = files
    with write_whole(first) as unfinished:
        _write(checkpoint, unfinished)
        for file in others:
            with write_whole(file) as other_unfinished:
                try:
                    os.link(unfinished, other_unfinished)
                except OSError:
                    shutil.copyfile(unfinished, other_unfinished)


def _write(checkpoint: Checkpoint, file: Path) -> None:
    try:
        with file.open("wb") as stream:  # given a name, PyTorch would not tell what the system said
            torch.save(checkpoint, stream)
    except (OSError, RuntimeError) as error:
        found: BaseException | None = error
        while found is not None and not isinstance(found, OSError):
            found = found.__context__  # PyTorch raises "unexpected pos" over it
        if found is None:
            raise
        raise OSError(found.errno, found.strerror, str(file)) from None


def epoch_checkpoint(out: Path, epoch: int) -> Path:
    """The checkpoint that is kept of an epoch, which count from 1."""
    return out / f"epoch-{epoch:04d}.ckpt"


def drop_old_checkpoints(out: Path, *, epoch: int, num_kept: int) -> None:
    """Delete the checkpoints of all but the last epochs up to this one."""
    for file in out.glob("epoch-*.ckpt"):
        number = file.stem.partition("-")[2]
        if number.isdecimal() and int(number) <= epoch - num_kept:
            file.unlink()


def read_checkpoint(file: Path) -> Checkpoint:
    """Read a checkpoint of this trainer onto the CPU.

    Raises:
        ValueError: the file is missing, damaged, or no checkpoint of this trainer.
    """
    try:
        checkpoint: Checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"{file}: no such checkpoint (working folder: {Path.cwd()}).") from None
    except Exception as error:  # what the unpickler of damaged files raises is anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{file}: not a checkpoint that PyTorch can read ({reason}).") from None
    missing = _KEYS - (checkpoint.keys() if isinstance(checkpoint, dict) else set())
    if missing:
        raise ValueError(
            f"{file}: not a checkpoint of this trainer ({', '.join(sorted(missing))} missing). Give a last.ckpt or a "
            "best.ckpt."
        )
    return checkpoint


def is_own(file: Path) -> bool:
    """Whether a file that PyTorch can read is a checkpoint of this trainer; True where it cannot."""
    try:
        content = torch.load(file, map_location="meta", weights_only=True)
    except Exception:  # reading it will tell what is wrong
        return True
    return isinstance(content, dict) and content.keys() >= _KEYS


def check_same_run(checkpoint: Checkpoint, *, recipe: Recipe, world_size: int, file: Path) -> None:
    """Check that a run can go on from a checkpoint with this recipe.

    Raises:
        ValueError: the recipe differs where it decides what is computed, or the checkpoint is in the middle of an epoch
            and steps are of another number of clips here.
    """
    # asdict gives what a checkpoint holds too; what the checkpoint lacks is new in the recipe since it was written
    differing = [
        f"{name} ({checkpoint['recipe'][name]} there, {value} here)"
        for name, value in asdict(recipe).items()
        if name not in MAY_CHANGE and name in checkpoint["recipe"] and checkpoint["recipe"][name] != value
    ]
    if differing:
        raise ValueError(
            f"{file} is of another recipe: {', '.join(differing)}. Go on with the same values (without --recipe and "
            "flags they are taken from the checkpoint), or start a new run in another --out."
        )
    there, here = (
        _clips_a_step(checkpoint["recipe"], checkpoint["world_size"]),
        _clips_a_step(asdict(recipe), world_size),
    )
    if checkpoint["loader"]["iteration"] > 0 and there != here:
        raise ValueError(
            f"{file} was saved in the middle of an epoch with steps of {there} clips; here are {here} (batch_size "
            f"{recipe.batch_size} x accumulate {recipe.accumulate} x {world_size} processes). Go on with a product of "
            f"{there}."
        )


def position_here(checkpoint: Checkpoint, *, recipe: Recipe, world_size: int, num_batches: int) -> dict[str, int]:
    """Where a run stands, counted in batches of this recipe and this number of processes."""
    there = checkpoint["recipe"]["batch_size"] * checkpoint["world_size"]
    num_clips = checkpoint["loader"]["iteration"] * there
    iteration = min(-(-num_clips // (recipe.batch_size * world_size)), num_batches)
    return {"epoch": checkpoint["loader"]["epoch"], "iteration": iteration}


def _clips_a_step(recipe: dict[str, Any], world_size: int) -> int:
    return recipe["batch_size"] * recipe["accumulate"] * world_size
