"""A sampler, a measure and a source of one's own, and a training with them: own_everything.py LIST ZIP."""

import sys
from pathlib import Path

import torch
from own_measure import Colours
from own_sampler import BusiestStretch
from own_source import ZippedClips

from mgs_dali import ClipLoader, MotionIndex, index_videos, read_annotations

if __name__ == "__main__":
    table = read_annotations(sys.argv[1], root=".")
    clips = ZippedClips(**(vars(table) | {"root": Path(sys.argv[2])}))
    index_videos(clips, "colours", measure=Colours(), progress=False)
    model = torch.nn.LazyLinear(clips.num_classes)
    loader = ClipLoader(
        clips, sampler=BusiestStretch(), batch_size=8, training=True, size=32, motion_index=MotionIndex("colours")
    )
    with loader:
        model(next(iter(loader)).clips.flatten(1))  # tells how large it is
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        for _ in range(3):
            for batch in loader:
                loss = torch.nn.functional.cross_entropy(model(batch.clips.flatten(1)), batch.labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            print(f"loss {loss.item():.4f}")
