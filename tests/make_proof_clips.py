"""Make the clips of mgs_dali/proof_clips, of which every frame shows its own number, for mgs_dali/load/proof.py.

    python tests/make_proof_clips.py [FOLDER]

They are in the repository, so this is only to be run where a codec is added or the pictures change. Another version of
an encoder gives other bytes. Streams are as videos are found: with B-frames where a codec has them, in closed groups
of pictures, and VP9 with a hidden one. AV1 is without pictures that are shown again, which no route of the GPU takes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from hard_videos import AV1, VP8, VP9_HIDDEN, write, write_av1, x264, x265

from mgs_dali.load.proof import CLIPS, NUM_FRAMES, SIDE, bars_of, clip_file

YELLOW, BLUE = (215, 195, 40), (40, 50, 190)
ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "h264": ("libx264", {"b_frames": 2, "options": x264() | {"crf": "30"}}),
    "hevc": ("libx265", {"b_frames": 2, "options": x265(open_gop=0, info=0, crf=30)}),
    "mpeg4": ("mpeg4", {"b_frames": 2, "options": {"qmin": "6", "qmax": "8"}}),
    "vp8": ("libvpx", {"options": VP8 | {"crf": "30", "b": "200k"}}),
    "vp9": ("libvpx-vp9", {"gop": 16, "options": VP9_HIDDEN | {"b": "200k"}}),
    # pred-struct=1: each picture refers to earlier ones only
    "av1": ("libsvtav1", {"setting": {"options": AV1 | {"svtav1-params": "lp=1:enable-tf=0:keyint=8:pred-struct=1"}}}),
    "mjpeg": ("mjpeg", {"pixel_format": "yuvj420p", "options": {"qmin": "20", "qmax": "24"}}),
}


def picture(number: int, width: int, height: int) -> np.ndarray:
    """(height, width, 3) uint8 RGB: the bars of :func:`mgs_dali.load.proof.bars_of`, yellow above and blue below, or
    the other way round."""
    image = np.empty((height, width, 3), np.uint8)
    bars = bars_of(number)
    for place, bar in enumerate(bars):
        columns = slice(width * place // len(bars), width * (place + 1) // len(bars))
        image[: height // 2, columns] = YELLOW if bar else BLUE
        image[height // 2 :, columns] = BLUE if bar else YELLOW
    return image


def main(folder: Path) -> None:
    """Write the clip of each codec into a folder."""
    folder.mkdir(exist_ok=True)
    for codec, name in CLIPS.items():
        encoder, own = ENCODERS[codec]
        common = {"size": (SIDE, SIDE), "gop": 8, "draw": picture, "muxing": {"fflags": "+bitexact"}}
        options: dict[str, Any] = common | own
        if encoder == "libsvtav1":
            write_av1(folder / name, range(NUM_FRAMES), **options)
        else:
            write(folder / name, encoder, range(NUM_FRAMES), **options)
        print(f"{folder / name}: {(folder / name).stat().st_size} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else clip_file("h264").parent)
