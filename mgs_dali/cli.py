"""The command ``mgs-dali``."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser, Namespace

from .demo import CLASSES, make_demo
from .sampling import MotionGuided

__all__ = ["main"]

Pick = Literal["nearest", "inverse"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: what follows the command's name; those of this process by default.

    Returns:
        The exit status: 0, 2 for anything the user can put right (one line on stderr says what), 130 after Ctrl-C.
    """
    try:
        given = _parser().parse_args(None if arguments is None else list(arguments))
        if given.command == "demo":
            _demo(given.demo)
        else:
            _plot(given.plot)
    except argparse.ArgumentError as error:
        print(f"error: {_taught(error)}. See: mgs-dali --help, mgs-dali COMMAND --help", file=sys.stderr)
        return 2
    except (ValueError, OSError, ModuleNotFoundError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def _parser() -> ArgumentParser:
    demo = ArgumentParser(
        usage="mgs-dali demo OUT [options]",
        description="Write a small synthetic data set: short actions in long still videos. What is there is kept.",
        exit_on_error=False,
    )
    demo.add_argument("out", metavar="OUT", help="folder for videos/, train_list.txt and val_list.txt")
    demo.add_argument("--seed", type=int, default=0, help="another seed gives other videos")
    demo.add_argument("--num-train", type=int, default=400, help="number of training videos")
    demo.add_argument("--num-val", type=int, default=96, help="number of validation videos")

    defaults = MotionGuided()
    plot = ArgumentParser(
        usage="mgs-dali plot VIDEO --out PNG [options]",
        description="Draw the motion of a video, its CDF, and the frames chosen against uniform ones.",
        exit_on_error=False,
    )
    plot.add_argument("video", metavar="VIDEO", help="a video file")
    plot.add_argument("--out", metavar="PNG", required=True, help="the picture to write")
    plot.add_argument("--num-segments", type=int, default=defaults.num_segments, help="frames to choose")
    plot.add_argument(
        "--mu", type=float, default=defaults.mu, help="exponent that smooths motion; 0 is uniform in time"
    )
    plot.add_argument("--floor", type=float, default=defaults.floor, help="share of the mean motion added everywhere")
    plot.add_argument("--pick", type=Pick, default=defaults.pick, help="the released rule, or the inverse of the CDF")

    parser = ArgumentParser(
        prog="mgs-dali",
        usage="mgs-dali COMMAND ... [--help]",
        description="Motion-guided video loading on NVIDIA DALI.",
        exit_on_error=False,
    )
    commands = parser.add_subcommands(required=True, dest="command", title="commands")
    commands.add_subcommand("demo", demo, help="write a data set to try things on")
    commands.add_subcommand("plot", plot, help="draw why these frames of a video are chosen")
    return parser


def _demo(given: Namespace) -> None:
    files = make_demo(given.out, seed=given.seed, num_train=given.num_train, num_val=given.num_val)
    print(f"{files.train_list}: {given.num_train} videos of {len(CLASSES)} classes")
    print(f"{files.val_list}: {given.num_val} videos")
    print(f"{files.root}: the videos")


def _plot(given: Namespace) -> None:
    sampler = MotionGuided(given.num_segments, mu=given.mu, floor=given.floor, pick=given.pick)
    from .plot import plot_video  # noqa: PLC0415  needs matplotlib

    choice = plot_video(Path(given.video), Path(given.out), sampler=sampler)
    print(f"motion-guided frames  {' '.join(map(str, choice.guided))}")
    print(f"uniform frames        {' '.join(map(str, choice.uniform))}")
    print(f"{given.out} shows why.")


def _taught(error: argparse.ArgumentError) -> str:
    """A parser's message on one line, in the words of the command line."""
    text = re.sub(r"\b(?:demo|plot)\.", "", " ".join(str(error).split())).rstrip(".")
    wrong = re.fullmatch(r'Parser key "(\w+)": Expected a (.*)\. Got value: (.*)', text)
    if not wrong:
        return text
    name, kind, found = wrong.groups()
    kind = {"<class 'int'>": "a whole number", "<class 'float'>": "a number"}.get(kind, kind)
    kind = re.sub(r"typing\.Literal\[(.*)\]", r"one of \1", kind)
    return f"--{name.replace('_', '-')} must be {kind}, found {found}"
