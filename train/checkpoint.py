"""Checkpoints of a run: written whole or not at all, read without running any code from them."""

from __future__ import annotations

import os
import pickle
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypedDict

import torch

from .recipe import Recipe

__all__ = ["Checkpoint", "check_same_run", "read_checkpoint", "save_checkpoint"]

MAY_CHANGE = {
    "train_list", "val_list", "root", "class_names", "epochs", "num_workers", "validate_every",
    "checkpoint_every_steps", "protocol", "average"
}  # fmt: skip
"""Fields of the recipe that may be others when a run goes on: files may have moved, and the run may be made longer."""


class Checkpoint(TypedDict):
    """All that a run needs to go on as if it had never stopped. There is no state of random generators: whatever is
    random is a function of the seed and the position."""

    model: dict[str, torch.Tensor]
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    loader: dict[str, int]
    """Epoch and batches given in it."""
    loss_sums: torch.Tensor
    """(2,) float64: sum of the losses in this epoch so far, and over how many clips."""
    best: dict[str, Any] | None
    """The best epoch's line of metrics.jsonl."""
    recipe: dict[str, Any]
    world_size: int


def save_checkpoint(checkpoint: Checkpoint, file: Path) -> None:
    """Write a checkpoint. A process killed on the way leaves the file that was there before."""
    part = file.with_name(file.name + ".part")
    torch.save(checkpoint, part)
    os.replace(part, file)


def read_checkpoint(file: Path) -> Checkpoint:
    """Read a checkpoint of this trainer onto the CPU.

    Raises:
        ValueError: the file is missing, damaged, or no checkpoint of this trainer.
    """
    try:
        checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"{file}: no such checkpoint (working folder: {Path.cwd()}).") from None
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{file}: not a checkpoint that PyTorch can read ({reason}).") from None
    missing = Checkpoint.__annotations__.keys() - (checkpoint.keys() if isinstance(checkpoint, dict) else ())
    if missing:
        raise ValueError(
            f"{file}: not a checkpoint of this trainer ({', '.join(sorted(missing))} missing). Give a last.ckpt or a "
            "best.ckpt."
        )
    return checkpoint


def check_same_run(checkpoint: Checkpoint, *, recipe: Recipe, world_size: int, file: Path) -> None:
    """Check that a run can go on from a checkpoint with this recipe.

    Raises:
        ValueError: the recipe differs where it decides what is computed, or the checkpoint is in the middle of an epoch
            that was shared among another number of processes.
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
    if checkpoint["loader"]["iteration"] > 0 and checkpoint["world_size"] != world_size:
        raise ValueError(
            f"{file} was saved in the middle of an epoch shared by {checkpoint['world_size']} processes; here are "
            f"{world_size}. Go on with {checkpoint['world_size']}."
        )
