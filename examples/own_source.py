"""A source of one's own: videos that are members of a ZIP file. Nothing is unpacked to the disk.

python examples/own_source.py LIST ZIP
"""

import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from mgs_dali import ClipLoader, Clips, Uniform, read_annotations
from mgs_dali.video.file import VideoFile


@dataclass(frozen=True)
class ZippedClips(Clips):
    """A table whose paths are those of members of the ZIP file ``root``."""

    def video(self, index: int, *, name: str = "") -> VideoFile:
        """The video of a clip."""
        with zipfile.ZipFile(self.root) as archive:
            content = archive.read(self.paths[index])
        return VideoFile(content, name or self.name(index), int(self.first_frames[index]), int(self.num_frames[index]))


if __name__ == "__main__":
    table = read_annotations(sys.argv[1], root=".")
    clips = ZippedClips(**(vars(table) | {"root": Path(sys.argv[2])}))
    with ClipLoader(clips, sampler=Uniform(8), batch_size=4, training=False, size=112) as loader:
        for batch in loader:
            for sample, frames in zip(batch.samples.tolist(), batch.frames.tolist(), strict=True):
                print(clips.paths[sample], *frames)
