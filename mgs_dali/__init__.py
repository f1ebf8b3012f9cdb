"""Motion-guided video loading on NVIDIA DALI: the frames where something happens, at the cost of decoding.

The names below are imported on first use, so that ``import mgs_dali`` needs neither PyTorch nor DALI.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .index.indexing import index_videos
    from .index.recorder import MotionRecorder
    from .index.store import MotionIndex
    from .lists.read import read_annotations
    from .lists.table import Clips
    from .load.loader import ClipBatch, ClipLoader
    from .sampling import Dense, MotionGuided, Uniform
    from .video.file import open_video
    from .views.protocols import Views

__version__ = "0.1.0"
__all__ = [
    "ClipBatch",
    "ClipLoader",
    "Clips",
    "Dense",
    "MotionGuided",
    "MotionIndex",
    "MotionRecorder",
    "Uniform",
    "Views",
    "index_videos",
    "open_video",
    "read_annotations",
]

_HOMES = {
    "ClipBatch": "load.loader",
    "ClipLoader": "load.loader",
    "Clips": "lists.table",
    "Dense": "sampling",
    "MotionGuided": "sampling",
    "MotionIndex": "index.store",
    "MotionRecorder": "index.recorder",
    "Uniform": "sampling",
    "Views": "views.protocols",
    "index_videos": "index.indexing",
    "open_video": "video.file",
    "read_annotations": "lists.read",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mgs_dali' has no attribute '{name}'")
    return getattr(import_module(f"mgs_dali.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
