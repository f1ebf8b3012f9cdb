"""Say what videos show, by a trained checkpoint.

    python -m train.predict a.mp4 b.webm --checkpoint runs/mine/best.ckpt
    python -m train.predict a.mp4 --checkpoint runs/mine/best.ckpt --labels names.txt --protocol accurate

For each video: the five likeliest classes with their scores, and the frames that were looked at. Needs no DALI.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from mgs_dali.lists.class_names import read_class_names
from mgs_dali.lists.read import read_annotations
from mgs_dali.lists.table import Clips
from mgs_dali.load.plan import Plan
from mgs_dali.views.protocols import PROTOCOLS

from .build import build_model, read_published
from .command_line import parse_command_line
from .cpu_loader import CpuLoader
from .evaluation import average_views
from .recipe import Recipe

__all__ = ["Prediction", "class_names", "main", "predict"]

NUM_SHOWN = 5


@dataclass(frozen=True)
class Prediction:
    """What a model says of a video."""

    scores: np.ndarray
    """(num_classes,) float64: the mean over the views."""
    frames: np.ndarray
    """(num_clips, T) int64: the frames looked at, counted from 0."""

    def best(self, names: Sequence[str]) -> list[tuple[str, float]]:
        """The likeliest classes, five at most, by name and score. Of equal scores the lower class comes first."""
        order = np.argsort(-self.scores, kind="stable")[:NUM_SHOWN]
        return [(names[place], float(self.scores[place])) for place in order.tolist()]


@torch.no_grad()
def predict(video: Path, model: nn.Module, recipe: Recipe) -> Prediction:
    """Look at a video as the recipe's protocol says, without a motion index.

    Args:
        video: the file; or a frame folder, for a model that was trained on such.
        model: (B, T, 3, H, W) -> logits (B, num_classes), on the device to use.
        recipe: what the model was trained with.

    Raises:
        ValueError: the video cannot be read or decoded.
    """
    views, num_classes = PROTOCOLS[recipe.protocol], recipe.num_classes
    assert num_classes is not None
    clips = Clips(
        root=Path(),
        paths=[str(video)],
        first_frames=np.zeros(1, np.int64),
        num_frames=np.full(1, -1),
        labels=np.zeros(1, np.int64),
        num_classes=num_classes,
        class_names=None,
        list_file=Path("the command line"),
        list_lines=np.ones(1, np.int64),
        template=recipe.template if video.is_dir() else None,
    )
    plan = Plan(clips, recipe.frame_sampler, 1, training=False, size=recipe.size, views=views)
    (batch,) = CpuLoader(plan, num_workers=0)
    model.eval()
    device = next(model.parameters()).device
    logits = torch.cat([model(view.to(device)) for view in batch.clips.split(1)])
    scores = average_views(logits, num_views=len(views), average=recipe.average, multi_label=recipe.multi_label)
    return Prediction(scores[0].cpu().numpy(), batch.frames[: views.num_clips].numpy())


def class_names(recipe: Recipe, labels: str | None) -> tuple[list[str], str]:
    """The names of the classes, and what to say of where they are from; empty where they were asked for.

    From ``labels``, or else from what the recipe names: its file of class names, or its training list. Where neither is
    there, they are numbers.

    Raises:
        ValueError: ``labels`` cannot be read, or the names are not as many as the model has classes.
    """
    assert recipe.num_classes is not None
    names, note, source = None, "", ""
    if labels is not None:
        names, source = read_class_names(labels), labels
    else:
        try:
            if recipe.class_names is not None:
                names, source = read_class_names(recipe.class_names), recipe.class_names
            elif recipe.train_list is not None:
                source = recipe.train_list
                names = read_annotations(
                    source,
                    root=recipe.root,
                    num_classes=recipe.num_classes,
                    multi_label=recipe.multi_label,
                    template=recipe.template,
                    with_offset=recipe.with_offset,
                ).class_names
            reason = "the checkpoint's recipe names no classes."
        except ValueError as error:
            reason = str(error)
        if names is None:
            note = f"classes are shown as numbers: {reason} Name them with --labels FILE, one a line."
            return [f"class {number}" for number in range(recipe.num_classes)], note
        note = f"class names from {source}"
    if len(names) != recipe.num_classes:
        raise ValueError(
            f"{source} names {len(names)} classes, and the checkpoint knows {recipe.num_classes}. Give --labels a file "
            "with a name for each class of the training, in the order of their numbers."
        )
    return names, note


def main() -> int:
    """The command. Returns the exit code: 2 where a video could not be read."""
    arguments = _parser().parse_args()
    flags = ["--eval", arguments.checkpoint]
    for name in ("protocol", "recipe"):
        if getattr(arguments, name) is not None:
            flags += [f"--{name}", getattr(arguments, name)]
    try:
        _, recipe, checkpoint = parse_command_line(flags)
        device = _choose_device(arguments.device)
        if checkpoint is None:
            recipe, state = read_published(Path(arguments.checkpoint), recipe)
        else:
            state = checkpoint["model"]
        names, note = class_names(recipe, arguments.labels)
        model = build_model(recipe, state).to(device)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if note:
        print(note, file=sys.stderr)
    code = 0
    for video in arguments.videos:
        try:
            found = predict(Path(video), model, recipe)
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            code = 2
            continue
        print(video)
        for frames in found.frames.tolist():
            print(f"  frames {' '.join(map(str, frames))}")
        for name, score in found.best(names):
            print(f"  {score:7.4f}  {name}")
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m train.predict", description="Say what videos show.")
    parser.add_argument("videos", nargs="+", metavar="VIDEO", help="video file, or frame folder if trained on such")
    parser.add_argument(
        "--checkpoint", required=True, metavar="CKPT", help="best.ckpt of a training, or a published one"
    )
    parser.add_argument("--recipe", metavar="NAME", help="of a published checkpoint: how its clips are sampled")
    parser.add_argument("--labels", metavar="FILE", help="class names, one a line (default: those of the training)")
    parser.add_argument("--protocol", choices=list(PROTOCOLS), help="views of a video (default: the recipe's)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto is CUDA where it is")
    return parser


def _choose_device(device: str) -> torch.device:
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: PyTorch finds no CUDA device here. Use --device cpu or auto; see nvidia-smi.")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


if __name__ == "__main__":
    sys.exit(main())
