"""A sampler of one's own: frames of the stretch of a video where most moves.

python examples/own_sampler.py LIST ROOT
"""

import sys
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mgs_dali import ClipLoader, read_annotations


@dataclass(frozen=True)
class BusiestStretch:
    """Frames at equal steps of the ``span_frames`` frames between which most moves."""

    num_segments: int = 8
    span_frames: int = 32
    needs_motion: ClassVar[bool] = True

    def targets(self, *, num_clips: int = 1, rng: np.random.Generator | None = None) -> np.ndarray:
        """Where in each step its frame is: in training anywhere, in evaluation in the middle."""
        if num_clips > 1:
            raise ValueError(f"{num_clips} clips of a video asked for, but there is only one busiest stretch.")
        return np.array([0.5 if rng is None else rng.random()])

    def frames(self, num_frames: int, targets: np.ndarray, motion: np.ndarray) -> np.ndarray:
        """(num_segments,) frames."""
        span_frames = min(self.span_frames, num_frames)
        moved = np.concatenate([[0.0], np.cumsum(motion, dtype=np.float64)])  # up to each frame
        first = np.argmax(moved[span_frames - 1 :] - moved[: num_frames - span_frames + 1])
        steps = (np.arange(self.num_segments) + targets[0]) * span_frames / self.num_segments
        return first + steps.astype(np.int64)


if __name__ == "__main__":
    clips = read_annotations(sys.argv[1], root=sys.argv[2])
    with ClipLoader(clips, sampler=BusiestStretch(), batch_size=4, training=False, size=112) as loader:
        for batch in loader:
            for sample, frames in zip(batch.samples.tolist(), batch.frames.tolist(), strict=True):
                print(clips.paths[sample], *frames)
