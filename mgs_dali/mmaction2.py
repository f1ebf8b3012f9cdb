"""Motion-guided frames inside mmaction2's own pipeline: a transform that takes the place of its ``SampleFrames``.

    custom_imports = dict(imports=["mgs_dali.mmaction2"])

    train_pipeline = [
        dict(type="DecordInit"),
        dict(type="MotionGuidedSampleFrames", motion_index="motion", root="data/sthv2/videos", num_clips=8),
        dict(type="DecordDecode"),
        ...
    ]

The motion index is made before, with ``mgs-dali index LIST --root data/sthv2/videos --out motion``. Importing this
module where mmaction2 1.x is installed registers the transform in its ``TRANSFORMS``. It needs nothing else of
OpenMMLab's; without mmaction2 it is a callable from dict to dict like any other.

Tested with mmaction2 1.2.0, mmengine 0.10.7 and mmcv-lite 2.1.0 (1.2.0 refuses mmcv from 2.2 on): frame folders and
videos, through their datasets and decoders.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from .index.store import MotionIndex
from .sampling import MotionGuided, motion_guided_frames, segment_targets, stratum_starts

__all__ = ["MotionGuidedSampleFrames"]


class MotionGuidedSampleFrames:
    """Choose frames by the motion of the video, in an mmaction2 1.x pipeline, where ``SampleFrames`` would choose them.

    Keys that it reads, all set by mmaction2's datasets and by its ``DecordInit``, ``PyAVInit`` or ``OpenCVInit``:
    ``filename`` or ``frame_dir``, ``total_frames``, ``start_index``, and ``offset``, if the dataset is ``with_offset``.

    Keys that it sets, as ``SampleFrames`` with ``clip_len=1`` does: ``frame_inds`` (int32, counted from
    ``start_index``, which is 0 for videos and 1 for frame folders; without the offset, which ``RawFrameDecode`` adds),
    ``clip_len`` and ``frame_interval`` (1), and ``num_clips`` (not doubled by `twice_sample`, as there).

    In training each frame is drawn at random from its share of the motion. The draws are seeded from NumPy's global
    generator, which mmengine seeds in every worker process, so that ``randomness=dict(seed=...)`` holds for them too.
    `test_mode` takes the centres of the shares and draws nothing.

    Args:
        motion_index: folder of the motion index.
        root: the folder that the paths in the index start from: the ``--root`` that it was made with, written as the
            dataset writes it, which is ``data_root`` and ``data_prefix`` joined.
        num_clips: frames of a clip, as ``SampleFrames`` calls them: the segments of TSN and TSM.
        clip_len: 1; others are for networks that take neighbouring frames.
        frame_interval: 1, likewise.
        test_mode: for validation and test pipelines.
        twice_sample: in testing, a second clip behind the first: the starts of the shares.
        mu: exponent that smooths the motion; 0 is uniform in time, 0.5 the published value.
        floor: share of the mean motion that is added everywhere.
        pick: ``"nearest"`` (the released code) or ``"inverse"``.

    Raises:
        ValueError: an argument is not allowed, there is no index in the folder, or, when called, a video is not in the
            index or has another number of frames than when it was measured.
    """

    def __init__(
        self,
        motion_index: str | Path,
        root: str | Path,
        num_clips: int = 8,
        clip_len: int = 1,
        frame_interval: int = 1,
        test_mode: bool = False,
        twice_sample: bool = False,
        mu: float = 0.5,
        floor: float = 0.0,
        pick: str = "nearest",
    ) -> None:
        if (clip_len, frame_interval) != (1, 1):
            raise ValueError(
                "MotionGuidedSampleFrames chooses single frames, as TSN and TSM need them: clip_len and frame_interval "
                f"must be 1, found {clip_len} and {frame_interval}. Give the number of frames as num_clips."
            )
        if twice_sample and not test_mode:
            raise ValueError("twice_sample=True is for testing. Leave it out, or set test_mode=True.")
        self.sampler = MotionGuided(num_clips, mu=mu, floor=floor, pick=pick)
        self.index = MotionIndex(motion_index)  # before the workers are forked, which then share it
        self.root = root
        self.test_mode = test_mode
        self.twice_sample = twice_sample

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Set the frames of one video, see the class."""
        results["frame_inds"] = (self._frames(results) + results["start_index"]).astype(np.int32)
        results["clip_len"] = 1
        results["frame_interval"] = 1
        results["num_clips"] = self.sampler.num_segments
        return results

    transform = __call__
    """What mmcv's transforms have beside it."""

    def __repr__(self) -> str:
        sampler = self.sampler
        return (
            f"{type(self).__name__}(motion_index={str(self.index.folder)!r}, root={str(self.root)!r}, "
            f"num_clips={sampler.num_segments}, test_mode={self.test_mode}, twice_sample={self.twice_sample}, "
            f"mu={sampler.mu}, floor={sampler.floor}, pick={sampler.pick!r})"
        )

    def _frames(self, results: dict[str, Any]) -> np.ndarray:
        """The frames of a clip, counted from 0 and from its offset."""
        num_segments = self.sampler.num_segments
        if self.test_mode:
            second = [stratum_starts(num_segments)] if self.twice_sample else []
            targets = np.concatenate([segment_targets(num_segments), *second])
        else:
            seed = np.random.randint(2**32, size=4, dtype=np.uint32)  # of the generator that mmengine seeds
            targets = segment_targets(num_segments, np.random.default_rng(seed))
        mu, floor, pick = self.sampler.mu, self.sampler.floor, self.sampler.pick
        return motion_guided_frames(self._motion(results), targets, mu=mu, floor=floor, pick=pick)

    def _motion(self, results: dict[str, Any]) -> np.ndarray:
        """The motion curve of a clip."""
        of_folder = "frame_dir" in results
        file = results["frame_dir" if of_folder else "filename"]
        try:
            path = PurePosixPath(file).relative_to(PurePosixPath(self.root))
        except ValueError:
            raise ValueError(
                f"{file} is not inside root={str(self.root)!r}. Give the folder that the paths in the motion index "
                f"{self.index.folder} start from, as the dataset writes it: data_root and data_prefix, joined."
            ) from None
        try:
            motion = self.index[str(path)]
        except KeyError as error:
            raise ValueError(str(error)) from None
        first, num_frames, num_measured = results.get("offset", 0), results["total_frames"], len(motion) + 1
        # A frame folder may hold more than the clip.
        if first + num_frames > num_measured or (num_frames != num_measured and not of_folder):
            offset = f" from offset {first} on" if first else ""
            raise ValueError(
                f"{file}: mmaction2 found {num_frames} frames{offset}, the motion index {self.index.folder} holds "
                f"{num_measured}. If the video has changed, run mgs-dali index again; if its decoder counts otherwise, "
                "leave it out of the list."
            )
        return motion[first : first + num_frames - 1]


def _register() -> None:
    try:
        from mmaction.registry import TRANSFORMS  # noqa: PLC0415  needs PyTorch, and is seldom installed
    except ModuleNotFoundError as error:
        if error.name != "mmaction":
            raise
        return  # used without mmaction2
    TRANSFORMS.register_module(module=MotionGuidedSampleFrames)


_register()
