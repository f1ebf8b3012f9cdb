"""RandAugment (arXiv 1909.13719): which operations a clip gets, drawn outside of DALI.

DALI's own ``rand_augment`` draws in the graph, from a state that depends on what ran before. Drawn here, the operations
of a clip are a function of its generator, and :func:`mgs_dali.graph.rand_augment` applies them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

__all__ = ["MAX_STRENGTH", "OPERATIONS", "RandAugment", "draw_operations"]

OPERATIONS = (
    "translate_x",
    "translate_y",
    "shear_x",
    "shear_y",
    "rotate",
    "brightness",
    "contrast",
    "color",
    "sharpness",
    "posterize",
    "solarize",
    "equalize",
    "auto_contrast",
    "identity",
)
"""The operations of DALI's suite, by name. Draws are places in this tuple."""

MAX_STRENGTH = 30


class RandAugment(NamedTuple):
    """How training clips are augmented; all frames of a clip alike."""

    num_operations: int
    """Operations of each clip, drawn with replacement."""
    strength: int
    """0 to :data:`MAX_STRENGTH`, DALI's magnitude bin: the same for all operations. mmaction2 has 2 operations at 9 of
    10, which is 27 here."""


def as_rand_augment(given: Any) -> RandAugment:
    """(operations, strength) as they are given, checked.

    Raises:
        ValueError: one of them is not allowed.
    """
    is_pair = isinstance(given, tuple | list) and len(given) == 2
    whole = is_pair and all(isinstance(value, int | np.integer) and not isinstance(value, bool) for value in given)
    if not whole or given[0] < 1 or not 0 <= given[1] <= MAX_STRENGTH:
        shown = list(given) if is_pair else given
        raise ValueError(f"rand_augment ({shown}) must be [operations, strength]: at least 1, and 0 to {MAX_STRENGTH}.")
    return RandAugment(*given)


def draw_operations(num_operations: int, rng: np.random.Generator) -> np.ndarray:
    """Draw operations, and for each whether its strength is negated (rotate left instead of right).

    Returns:
        (num_operations, 2) int32: places in :data:`OPERATIONS`, and 1 for negated ones.
    """
    draws = np.stack([rng.integers(len(OPERATIONS), size=num_operations), rng.integers(2, size=num_operations)], axis=1)
    return draws.astype(np.int32)
