"""Train TSM on clips that DALI loads (or PyTorch's DataLoader, to compare).

    python -m train.tsm                                              # the demo, on a GPU or without
    python -m train.tsm --loader cpu --device cpu                    # without DALI and without a GPU
    python -m train.tsm --recipe my.yaml --train-list train.txt --val-list val.txt --root videos/ --out runs/mine
    torchrun --nproc-per-node 8 -m train.tsm ...                     # the same on 8 GPUs
    python -m train.tsm --recipe sthv2 --root videos/ --dry-run      # only say what would be done
    python -m train.tsm --out runs/mine --resume auto                # go on where it stopped
    python -m train.tsm --eval runs/mine/best.ckpt                   # evaluate only
    python -m train.tsm --eval runs/mine/best.ckpt --protocol accurate --scores mine.npz    # see train/evaluate.py

A run is a recipe (``train/recipe.py``) and these options (``train/command_line.py``; ``--help`` lists all).
"""

from __future__ import annotations

import errno
import sys
from dataclasses import replace
from pathlib import Path

from lightning.fabric import Fabric

from mgs_dali.load.workers import WorkersEnded
from mgs_dali.views.protocols import PROTOCOLS
from models.size import count_flops, count_parameters

from .build import (
    AllFailed,
    build_model,
    fetch_weights,
    in_list_order,
    make_loader,
    read_data,
    read_published,
    read_val_data,
    run_folder,
    say_what_runs,
    snapshot,
    start_fabric,
    start_run,
    stop_fabric,
)
from .checkpoint import Checkpoint, check_same_run, drop_old_checkpoints, epoch_checkpoint, save_checkpoint
from .command_line import Options, parse_command_line
from .evaluation import ClipScores, metric_names, score_clips, write_scores
from .logs import Metrics, log, open_log, say_how_to_go_on
from .loop import train_epoch, validate
from .recipe import Recipe
from .stop import EXIT_CODE, Stopped, stopping_on_sigterm


def train(fabric: Fabric, options: Options, recipe: Recipe, checkpoint: Checkpoint | None) -> None:
    """Train from the start, or from a checkpoint on, to the last epoch."""
    if checkpoint is None:
        fetch_weights(fabric, recipe)
    out = fabric.broadcast(run_folder(options))
    recipe, train_clips, val_clips = read_data(fabric, recipe)
    if checkpoint and options.checkpoint_file:
        check_same_run(checkpoint, recipe=recipe, world_size=fabric.world_size, file=options.checkpoint_file)
    first_epoch = checkpoint["loader"]["epoch"] if checkpoint else 0
    judged = [f"val/{name}" for name in metric_names(val_clips)]
    judge = judged[0]
    with (
        make_loader(fabric, options, recipe, train_clips, training=True, out=out) as train_loader,
        make_loader(fabric, options, recipe, val_clips, training=False, out=out) as val_loader,
        open_log(fabric, out, recipe, num_epochs_done=first_epoch, wandb_project=options.wandb) as write_metrics,
        say_how_to_go_on(fabric, options.loader, out),
        stopping_on_sigterm() as stop,
    ):
        run = start_run(fabric, options, recipe, train_loader, checkpoint)
        say_what_runs(fabric, recipe, train_loader, train_clips, val_clips)

        def save(*files: Path) -> None:
            if fabric.is_global_zero:
                save_checkpoint(snapshot(fabric, recipe, run), out / "last.ckpt", *files)

        for epoch in range(first_epoch, recipe.epochs):
            loss, measured = train_epoch(fabric, run, recipe=recipe, stop=stop, save=save)
            fabric.barrier()  # what every process has recorded of motion is there for the next epoch
            scores: dict[str, float | None] = dict.fromkeys(judged)
            if (epoch + 1) % recipe.validate_every == 0 or epoch + 1 == recipe.epochs:
                try:
                    scores.update(validate(fabric, run.model, val_loader, stop=stop))
                except Stopped:
                    save()
                    raise
            line: Metrics = {"epoch": epoch + 1, "train/loss": loss, **scores, **measured}
            write_metrics(line)
            run.finish_epoch()
            files = [epoch_checkpoint(out, epoch + 1)] if recipe.keep_checkpoints else []
            score = scores[judge]
            if score is not None and (run.best is None or score > run.best[judge]):
                run.best = line
                files.append(out / "best.ckpt")
            save(*files)
            if recipe.keep_checkpoints and fabric.is_global_zero:
                drop_old_checkpoints(out, epoch=epoch + 1, num_kept=recipe.keep_checkpoints)
    if run.best and fabric.is_global_zero:
        print(f"best {judge} {run.best[judge]:.4f} (epoch {run.best['epoch']})")


def evaluate(fabric: Fabric, options: Options, recipe: Recipe, checkpoint: Checkpoint | None) -> None:
    """Evaluate a checkpoint with the recipe's protocol, print its metrics and write its scores."""
    if checkpoint is None:
        assert options.eval is not None
        recipe, state = read_published(Path(options.eval), recipe)
    else:
        state = checkpoint["model"]
        recipe = replace(recipe, num_classes=recipe.num_classes or checkpoint["recipe"]["num_classes"])
    recipe, clips = read_val_data(fabric, recipe)
    if options.sorted_classes:
        state = in_list_order(state, clips)
    views = PROTOCOLS[recipe.protocol]
    model = fabric.setup(build_model(recipe, state))
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


def dry_run(fabric: Fabric, options: Options, recipe: Recipe) -> None:
    """Print what a training would do."""
    recipe, train_clips, val_clips = read_data(fabric, recipe)
    out = fabric.broadcast(run_folder(options))
    with make_loader(fabric, options, recipe, train_clips, training=True, out=out) as loader:
        if fabric.is_global_zero:
            print(recipe.to_yaml())
        say_what_runs(fabric, recipe, loader, train_clips, val_clips)
        model = build_model(replace(recipe, weights=None, init=None), None)
        log.info(
            "parameters: %s; %.2f GFLOPs a clip", f"{count_parameters(model):,}", count_flops(model, recipe.size) / 1e9
        )


def main() -> int:
    """The command: train, or with ``--eval`` validate. Returns the exit code."""
    exit_code = 0
    try:
        options, recipe, checkpoint = parse_command_line(sys.argv[1:])
        fabric = start_fabric(options, recipe)
        try:
            if options.dry_run:
                dry_run(fabric, options, recipe)
            elif options.eval:
                evaluate(fabric, options, recipe, checkpoint)
            else:
                train(fabric, options, recipe, checkpoint)
        except Stopped:  # all processes stop at one step
            exit_code = EXIT_CODE
        except AllFailed as error:
            exit_code = 2
            if fabric.is_global_zero:
                print(f"error: {error}", file=sys.stderr, flush=True)
        stop_fabric(fabric)
    except (ValueError, WorkersEnded) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {_told(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return exit_code


def _told(error: OSError) -> str:
    """What the operating system says, on one line, and what to do where that is known."""
    text = " ".join(str(error).split())
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{text}. What was saved before is whole: make room, and go on with --resume auto."
    return text


if __name__ == "__main__":
    sys.exit(main())
