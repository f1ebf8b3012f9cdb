"""A measure of one's own: how much the colours of neighbouring frames differ.

python examples/own_measure.py LIST ROOT INDEX
"""

import sys
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from mgs_dali import ClipLoader, MotionGuided, MotionIndex, index_videos, read_annotations
from mgs_dali.decode.reading import Reading


@dataclass(frozen=True)
class Colours:
    """Half the absolute difference of histograms of RGB, from 0 (the same colours) to 1 (none in common)."""

    bins: int = 8
    name: ClassVar[str] = "colours"
    needs_decoding: ClassVar[bool] = True
    parameters: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "parameters", {"bins": self.bins})

    def curve(self, reading: Reading) -> np.ndarray:
        """(N - 1,) float32."""
        shares = []
        for frame in reading.decode():
            pixels = frame.to_ndarray(format="rgb24").reshape(-1, 3) // (256 // self.bins)
            codes = pixels.astype(np.int64) @ [self.bins**2, self.bins, 1]
            shares.append(np.bincount(codes, minlength=self.bins**3) / len(codes))
        return (np.abs(np.diff(shares, axis=0)).sum(axis=1) / 2).astype(np.float32)


if __name__ == "__main__":
    clips = read_annotations(sys.argv[1], root=sys.argv[2])
    print(index_videos(clips, sys.argv[3], measure=Colours(), progress=False))
    index, sampler = MotionIndex(sys.argv[3]), MotionGuided(8)
    with ClipLoader(clips, sampler=sampler, batch_size=4, training=False, size=112, motion_index=index) as loader:
        for batch in loader:
            for sample, frames in zip(batch.samples.tolist(), batch.frames.tolist(), strict=True):
                print(clips.paths[sample], *frames)
