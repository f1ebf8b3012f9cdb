"""The one generator of everything that is random."""

from __future__ import annotations

from enum import IntEnum

import numpy as np

__all__ = ["Purpose", "generator"]


class Purpose(IntEnum):
    """What draws are for: those of one purpose say nothing of those of another."""

    DRAWS = 0
    """Targets, flips and augmentation of a clip."""
    ORDER = 1
    """Of an epoch's clips."""
    CROPS = 2
    """Of a clip."""
    DROPOUT = 3
    """The seed of PyTorch's own generators, for a batch."""
    MIXING = 4
    """Of two clips."""


def generator(seed: int, *, purpose: Purpose, epoch: int, index: int = 0) -> np.random.Generator:
    """The generator of one thing of one epoch, reached directly: nothing depends on what was drawn before.

    Args:
        seed: of the run.
        purpose: what is drawn.
        epoch: from 0.
        index: of the clip, pair or batch within the epoch.
    """
    # Philox is counter-based. The two low words of the counter are left for its own counting.
    return np.random.Generator(np.random.Philox(key=[seed, purpose], counter=[0, 0, epoch, index]))
