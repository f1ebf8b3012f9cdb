"""Mixup and cutmix: clips and their labels mixed with their neighbours', on the device.

Neighbours are the two clips at places 2k and 2k + 1 of the epoch's order, which is a random one. They are in one batch
for any even batch size and any number of processes, and what is drawn for them depends on the seed, the epoch and k
alone: how a step is shared among processes changes nothing.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from mgs_dali.generator import Purpose, generator

from .recipe import Recipe

__all__ = ["Mix", "draw_mixes", "mix"]


class Mix(NamedTuple):
    """What was drawn for a pair: each of its clips keeps ``share`` of itself, and takes the rest from the other."""

    share: float
    """Beta-distributed."""
    centre: tuple[float, float]
    """Cutmix: centre of the rectangle, across and down, as parts of the side."""


def draw_mixes(num_pairs: int, recipe: Recipe, *, epoch: int, first_pair: int) -> list[Mix]:
    """Draw for ``num_pairs`` pairs from the ``first_pair``-th of the epoch on."""
    mixes = []
    for pair in range(first_pair, first_pair + num_pairs):
        rng = generator(recipe.seed, purpose=Purpose.MIXING, epoch=epoch, index=pair)
        share = float(rng.beta(recipe.mixing_alpha, recipe.mixing_alpha))
        mixes.append(Mix(share, (float(rng.random()), float(rng.random()))))
    return mixes


def mix(
    clips: Tensor, targets: Tensor, valid: Tensor, *, kind: Literal["mixup", "cutmix"], mixes: list[Mix]
) -> tuple[Tensor, Tensor]:
    """Mix each clip with its neighbour in the batch.

    Mixup (Zhang et al., ICLR 2018) adds the pictures up, cutmix (Yun et al., ICCV 2019) takes a rectangle of ``1 -
    share`` of the area from the other clip, the same in all its frames, cut off at the border. The targets are mixed
    in the share of the pixels. A clip next to one that only fills up the batch stays as it is.

    Args:
        clips: (B, T, 3, H, W), B even.
        targets: (B, num_classes) float.
        valid: (B,) bool.
        kind: which of the two.
        mixes: one a pair, from :func:`draw_mixes`.

    Returns:
        New clips and targets, as given.
    """
    num_clips, _, _, height, width = clips.shape
    assert num_clips == 2 * len(mixes)
    neighbour = torch.arange(num_clips, device=clips.device) ^ 1
    if kind == "mixup":
        shares = [share for share, _ in mixes for _ in range(2)]
        kept = torch.tensor(shares, device=clips.device).view(-1, 1, 1, 1, 1)
    else:
        boxes = [_box(drawn, width=width, height=height) for drawn in mixes for _ in range(2)]
        left, top, right, bottom = torch.tensor(boxes, device=clips.device).view(-1, 4, 1, 1).unbind(1)
        x, y = torch.arange(width, device=clips.device), torch.arange(height, device=clips.device).view(-1, 1)
        taken = (left <= x) & (x < right) & (top <= y) & (y < bottom)
        kept = (~taken).float().view(-1, 1, 1, height, width)
    mixed = (valid & valid[neighbour]).view(-1, 1, 1, 1, 1)
    kept = torch.where(mixed, kept, 1.0)
    share = kept.mean(dim=(1, 2, 3, 4)).view(-1, 1).to(targets.dtype)
    kept = kept.to(clips.dtype)
    return kept * clips + (1 - kept) * clips[neighbour], share * targets + (1 - share) * targets[neighbour]


def _box(drawn: Mix, *, width: int, height: int) -> tuple[int, int, int, int]:
    """The rectangle that cutmix takes from the other clip: left, top, right, bottom."""
    part = (1 - drawn.share) ** 0.5
    left, right = _span(drawn.centre[0], part, side=width)
    top, bottom = _span(drawn.centre[1], part, side=height)
    return left, top, right, bottom


def _span(centre: float, part: float, *, side: int) -> tuple[int, int]:
    return round(max(centre - part / 2, 0) * side), round(min(centre + part / 2, 1) * side)
