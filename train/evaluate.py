"""Judge files of scores, each alone and all fused.

python -m train.tsm --eval runs/mine/best.ckpt --protocol accurate --scores mine.npz     # writes one
python -m train.evaluate mine.npz                                                        # judges it again
python -m train.evaluate eight_frames.npz sixteen_frames.npz --weights 1,2               # and an ensemble
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .evaluation import fuse, read_scores

__all__ = ["main"]


def main() -> int:
    """The command. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m train.evaluate", description="Judge files of scores, and fuse them."
    )
    parser.add_argument("scores", nargs="+", metavar="SCORES", help="file of python -m train.tsm --eval ... --scores")
    parser.add_argument("--weights", type=_numbers, help="one for each file, such as 1,2 (default: all alike)")
    arguments = parser.parse_args()
    names = arguments.scores
    try:
        several = [read_scores(Path(name)) for name in names]
        weights = arguments.weights or [1.0] * len(names)
        fused = fuse(several, weights, names=names)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name, found in zip(names, several, strict=True):
        print(f"{name} ({found.protocol}, {found.average}): {_line(found.metrics)}")
    if len(several) > 1:
        print(f"fused {':'.join(f'{weight:g}' for weight in weights)}: {_line(fused.metrics)}")
    return 0


def _numbers(text: str) -> list[float]:
    try:
        return [float(number) for number in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected numbers such as 1,2, found {text!r}") from None


def _line(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())


if __name__ == "__main__":
    sys.exit(main())
