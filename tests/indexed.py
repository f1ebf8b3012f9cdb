"""Videos whose motion is known by hand, and an index of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from conftest import clip_table, encode

from mgs_dali.index.indexing import index_videos
from mgs_dali.index.store import MotionIndex
from mgs_dali.sampling import MotionGuided

STILL = np.full((48, 64, 3), 90, np.uint8)
SAMPLER = MotionGuided(num_segments=4)

EARLY, LATE, NASTY = "early.mkv", "late.mkv", 'a"><script>alert(1)</script>.mp4'
ONE, MOTIONLESS = "one.mkv", "still.mkv"
BROKEN, GONE = "broken.mp4", "gone.mkv"
# early: frames 21, 26, 30, 35 against 7, 22, 37, 52, that is 14 + 4 + 7 + 17 frames of 4 * 60; late: 41, 46, 50, 55
# against the same, 34 + 24 + 13 + 3
# and ONE has fewer frames than segments
RANKED = [GONE, LATE, NASTY, EARLY, MOTIONLESS, ONE]
DIFFERENCES = [74 / 240, 74 / 240, 42 / 240, 42 / 240, 0.0, 0.0]


def blinking(file: Path, *, first: int, num_frames: int = 60) -> Path:
    """Still frames but for the 18 gaps from `first` on, all of the same motion; 25 frames a second."""
    blinks = [(frame % 2) * (first <= frame <= first + 18) for frame in range(num_frames)]
    return encode(file, [(STILL + 20 * blink).astype(np.uint8) for blink in blinks], "ffv1")


def write_index(folder: Path) -> tuple[MotionIndex, Path]:
    """Make an index of the seven videos above, and then take GONE away. The second is its root folder."""
    root = folder / "videos"
    (root / NASTY).parent.mkdir(parents=True)
    blinking(root / EARLY, first=20)
    blinking(root / LATE, first=40)
    encode(root / ONE, [STILL], "ffv1")
    encode(root / MOTIONLESS, [STILL] * 9, "ffv1")
    shutil.copy(root / EARLY, root / NASTY)
    shutil.copy(root / LATE, root / GONE)
    (root / BROKEN).write_text("no video")
    paths = [EARLY, BROKEN, LATE, NASTY, ONE, MOTIONLESS, GONE]
    index_videos(clip_table(root, paths), folder / "index", num_workers=1, progress=False)
    (root / GONE).unlink()
    return MotionIndex(folder / "index"), root
