"""Train TSM on clips that DALI loads (or PyTorch's DataLoader, to compare).

    python -m train.tsm                                              # the demo, on a GPU or without
    python -m train.tsm --loader cpu --device cpu                    # without DALI and without a GPU
    python -m train.tsm --recipe my.yaml --train-list train.txt --val-list val.txt --root videos/ --out runs/mine
    torchrun --nproc-per-node 8 -m train.tsm ...                     # the same on 8 GPUs
    python -m train.tsm --out runs/mine --resume auto                # go on where it stopped
    python -m train.tsm --eval runs/mine/best.ckpt                   # evaluate only
    python -m train.tsm --eval runs/mine/best.ckpt --protocol accurate --scores mine.npz    # see train/evaluate.py

A run is a recipe (``train/recipe.py``) and these options (``train/command_line.py``; ``--help`` lists all).
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from lightning.fabric import Fabric

from mgs_dali.views import PROTOCOLS

from .build import (
    build_model,
    make_loader,
    read_data,
    read_val_data,
    run_folder,
    say_what_runs,
    snapshot,
    start_fabric,
    start_run,
)
from .checkpoint import Checkpoint, check_same_run, save_checkpoint
from .command_line import Options, parse_command_line
from .evaluation import ClipScores, score_clips, write_scores
from .logs import Metrics, log, open_log, say_how_to_go_on
from .loop import clip_metrics, train_epoch, validate
from .recipe import Recipe


def train(fabric: Fabric, options: Options, recipe: Recipe, checkpoint: Checkpoint | None) -> None:
    """Train from the start, or from a checkpoint on, to the last epoch."""
    out = fabric.broadcast(run_folder(options))
    recipe, train_clips, val_clips = read_data(fabric, recipe)
    if checkpoint and options.checkpoint_file:
        check_same_run(checkpoint, recipe=recipe, world_size=fabric.world_size, file=options.checkpoint_file)
    first_epoch = checkpoint["loader"]["epoch"] if checkpoint else 0
    metrics = clip_metrics(val_clips, fabric.device)
    judge = f"val/{next(iter(metrics))}"
    with (
        make_loader(fabric, options, recipe, train_clips, training=True, out=out) as train_loader,
        make_loader(fabric, options, recipe, val_clips, training=False, out=out) as val_loader,
        open_log(fabric, out, recipe, num_epochs_done=first_epoch) as write_metrics,
        say_how_to_go_on(fabric, options.loader, out),
    ):
        run = start_run(fabric, recipe, train_loader, checkpoint)
        say_what_runs(fabric, recipe, train_loader, train_clips, val_clips)

        def save(name: str) -> None:
            if fabric.is_global_zero:
                save_checkpoint(snapshot(fabric, recipe, run), out / name)

        def after_step(step: int) -> None:
            if recipe.checkpoint_every_steps and step % recipe.checkpoint_every_steps == 0:
                save("last.ckpt")

        for epoch in range(first_epoch, recipe.epochs):
            loss, times = train_epoch(fabric, run, recipe=recipe, after_step=after_step)
            fabric.barrier()  # what every process has recorded of motion is there for the next epoch
            scores: dict[str, float | None] = {f"val/{name}": None for name in metrics}
            if (epoch + 1) % recipe.validate_every == 0 or epoch + 1 == recipe.epochs:
                scores.update(validate(fabric, run.model, val_loader, metrics=metrics))
            line: Metrics = {"epoch": epoch + 1, "train/loss": loss, **scores, **times}
            write_metrics(line)
            score = scores[judge]
            if score is not None and (run.best is None or score > run.best[judge]):
                run.best = line
                save("best.ckpt")
            save("last.ckpt")
    if run.best and fabric.is_global_zero:
        print(f"best {judge} {run.best[judge]:.4f} (epoch {run.best['epoch']})")


def evaluate(fabric: Fabric, options: Options, recipe: Recipe, checkpoint: Checkpoint) -> None:
    """Evaluate a checkpoint with the recipe's protocol, print its metrics and write its scores."""
    if recipe.num_classes is None:
        recipe = replace(recipe, num_classes=checkpoint["recipe"]["num_classes"])
    recipe, clips = read_val_data(fabric, recipe)
    views = PROTOCOLS[recipe.protocol]
    model = fabric.setup(build_model(recipe, checkpoint))
    with make_loader(fabric, options, recipe, clips, training=False, views=views) as loader:
        log.info("evaluating %d clips of %s", len(clips), clips.list_file)
        side = views.side(recipe.size)
        log.info("protocol %s: the %s of %d views of %d x %d", recipe.protocol, recipe.average, len(views), side, side)
        scores = score_clips(fabric, model, loader, num_clips=len(clips), num_views=len(views), average=recipe.average)
    found = ClipScores.of(clips, scores, protocol=recipe.protocol, average=recipe.average)
    if fabric.is_global_zero:
        if options.scores is not None:
            write_scores(found, Path(options.scores))
        print(", ".join(f"val/{name} {value:.4f}" for name, value in found.metrics.items()))


def main() -> int:
    """The command: train, or with ``--eval`` validate. Returns the exit code."""
    try:
        options, recipe, checkpoint = parse_command_line(sys.argv[1:])
        fabric = start_fabric(options, recipe)
        if options.eval and checkpoint:
            evaluate(fabric, options, recipe, checkpoint)
        else:
            train(fabric, options, recipe, checkpoint)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
