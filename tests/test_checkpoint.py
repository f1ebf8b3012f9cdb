"""Checkpoints: written whole, kept in number, and taken up by another number of processes."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from train.checkpoint import (
    Checkpoint,
    check_same_run,
    drop_old_checkpoints,
    epoch_checkpoint,
    position_here,
    read_checkpoint,
    save_checkpoint,
)
from train.recipe import Recipe


def make_checkpoint(recipe: Recipe | None = None, *, iteration: int = 0, world_size: int = 1) -> Checkpoint:
    return {
        "model": {"weight": torch.arange(3.0)},
        "optimizer": {},
        "loader": {"epoch": 4, "iteration": iteration},
        "loss_sums": torch.zeros(2, dtype=torch.float64),
        "best": None,
        "recipe": asdict(recipe or Recipe()),
        "world_size": world_size,
    }


def test_one_checkpoint_under_several_names_is_written_once(tmp_path: Path) -> None:
    last, best = tmp_path / "last.ckpt", tmp_path / "best.ckpt"
    save_checkpoint(make_checkpoint(), last, best)
    assert os.path.samefile(last, best)
    save_checkpoint(make_checkpoint(iteration=3), last)
    assert read_checkpoint(last)["loader"]["iteration"] == 3
    assert read_checkpoint(best)["loader"]["iteration"] == 0
    assert {file.name for file in tmp_path.iterdir()} == {"last.ckpt", "best.ckpt"}


def test_each_name_stands_for_what_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor: int) -> None:
        calls.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    def noted_replace(source: Path, target: Path) -> None:
        calls.append(f"{source.name} to {target.name}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    save_checkpoint(make_checkpoint(), tmp_path / "last.ckpt", tmp_path / "best.ckpt")
    assert calls == [
        call
        for name in ("best.ckpt", "last.ckpt")
        for call in (f"{name}.unfinished", f"{name}.unfinished to {name}", tmp_path.name)
    ]


def test_a_kill_between_two_names_harms_neither(tmp_path: Path) -> None:
    last, best = tmp_path / "last.ckpt", tmp_path / "best.ckpt"
    save_checkpoint(make_checkpoint(), last, best)
    os.link(best, tmp_path / "last.ckpt.unfinished")  # killed when best.ckpt had its name
    save_checkpoint(make_checkpoint(iteration=3), last)
    assert read_checkpoint(last)["loader"]["iteration"] == 3
    assert read_checkpoint(best)["loader"]["iteration"] == 0


def test_without_hard_links_it_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_source: Path, _target: Path) -> None:
        raise OSError("no hard links here")

    monkeypatch.setattr("os.link", refuse)
    last, best = tmp_path / "last.ckpt", tmp_path / "best.ckpt"
    (tmp_path / "best.ckpt.unfinished").write_text("of a process that was killed")
    save_checkpoint(make_checkpoint(), last, best)
    assert not os.path.samefile(last, best)
    assert read_checkpoint(best)["loader"] == {"epoch": 4, "iteration": 0}


def test_a_failed_write_says_why_and_leaves_the_old_files(tmp_path: Path, file_limit: Callable[[int], None]) -> None:
    last, best = tmp_path / "last.ckpt", tmp_path / "best.ckpt"
    save_checkpoint(make_checkpoint(), last, best)
    large = make_checkpoint(iteration=3)
    large["model"] = {"weight": torch.zeros(1_000_000)}
    file_limit(1_000_000)
    with pytest.raises(OSError, match=r"File too large: '.*last\.ckpt\.unfinished'"):
        save_checkpoint(large, last, best)
    assert read_checkpoint(last)["loader"]["iteration"] == read_checkpoint(best)["loader"]["iteration"] == 0
    assert {file.name for file in tmp_path.iterdir()} == {"last.ckpt", "best.ckpt"}


def test_old_epochs_are_dropped_and_nothing_else(tmp_path: Path) -> None:
    others = ["last.ckpt", "best.ckpt", "epoch-best.ckpt", "epoch-0001.txt"]
    for name in [*others, *(epoch_checkpoint(tmp_path, epoch).name for epoch in range(1, 8))]:
        (tmp_path / name).touch()
    drop_old_checkpoints(tmp_path, epoch=5, num_kept=2)
    left = {file.name for file in tmp_path.iterdir()}
    assert left == {*others, "epoch-0004.ckpt", "epoch-0005.ckpt", "epoch-0006.ckpt", "epoch-0007.ckpt"}


@given(
    num_clips=st.integers(1, 200),
    there=st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4)),
    here=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    data=st.data(),
)
def test_a_position_is_the_same_clip_for_other_processes(
    num_clips: int, there: tuple[int, int, int], here: tuple[int, int], data: st.DataObject
) -> None:
    batch, accumulate, processes = there
    step = batch * accumulate * processes
    batch_here, processes_here = here
    if step % (batch_here * processes_here):
        return
    num_batches = -(-num_clips // (batch * processes))
    num_steps = -(-num_batches // accumulate)
    steps_done = data.draw(st.integers(0, num_steps))
    checkpoint = make_checkpoint(
        Recipe(batch_size=batch, accumulate=accumulate),
        iteration=min(steps_done * accumulate, num_batches),
        world_size=processes,
    )
    recipe = Recipe(batch_size=batch_here, accumulate=step // (batch_here * processes_here))
    num_batches_here = -(-num_clips // (batch_here * processes_here))
    position = position_here(checkpoint, recipe=recipe, world_size=processes_here, num_batches=num_batches_here)
    assert position["epoch"] == 4
    if steps_done == num_steps:
        assert position["iteration"] == num_batches_here
    else:
        assert position["iteration"] * batch_here * processes_here == steps_done * step


def check(checkpoint: Checkpoint, recipe: Recipe, world_size: int) -> None:
    check_same_run(checkpoint, recipe=recipe, world_size=world_size, file=Path("last.ckpt"))


def test_a_step_may_be_shared_in_another_way() -> None:
    checkpoint = make_checkpoint(Recipe(batch_size=8), iteration=3, world_size=4)
    check(checkpoint, Recipe(batch_size=8, accumulate=2), 2)
    check(checkpoint, Recipe(batch_size=16), 2)
    check(make_checkpoint(Recipe(batch_size=8), world_size=4), Recipe(batch_size=8), 3)  # at the end of an epoch
    with pytest.raises(
        ValueError, match=r"in the middle of an epoch with steps of 32 clips; here are 24 \(batch_size 8"
    ):
        check(checkpoint, Recipe(batch_size=8), 3)


@pytest.mark.parametrize(
    ("field", "value"), [("mixing", "mixup"), ("label_smoothing", 0.1), ("lr_batch", 32), ("seed", 1)]
)
def test_what_is_computed_must_stay(field: str, value: Any) -> None:
    checkpoint = make_checkpoint()
    checkpoint["recipe"] = checkpoint["recipe"] | {field: value}
    with pytest.raises(ValueError, match=rf"last\.ckpt is of another recipe: {field} \({value} there"):
        check(checkpoint, Recipe(), 1)
