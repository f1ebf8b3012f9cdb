"""Measure ``pa``: persistence of appearance, the change of a network's first features."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from ..decode.frames import rgb
from ..decode.reading import Reading
from .pixel import _FRAMES_AT_ONCE

__all__ = [
    "Filters",
    "Pa",
    "load_filters",
    "pa_motion",
]


@dataclass(frozen=True)
class Pa:
    """Differences of low-level features, see :func:`pa_motion`."""

    filters: Filters

    name: ClassVar[str] = "pa"
    needs_decoding: ClassVar[bool] = True

    @property
    def parameters(self) -> dict[str, Any]:
        """Which filters these are."""
        return self.filters.parameters

    def curve(self, reading: Reading) -> np.ndarray:
        """See :class:`Measure`."""
        return pa_motion(reading.decode(), filters=self.filters)


def _pa(*, pa_weights: Path | None = None) -> Pa:
    """The measure pa.

    Args:
        pa_weights: a PAN checkpoint or a torchvision ResNet; by default torchvision's ResNet-50
    """
    return Pa(load_filters(pa_weights))


_PA_EPSILON = 1e-6

_PAN_KEY = "module.PA.shallow_conv.weight"

_RESNET_KEYS = ("conv1.weight", "module.conv1.weight")

_IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, eq=False)
class Filters:
    """The convolution of the measure ``pa``.

    Attributes:
        weight: (C, 3, 7, 7) float32, for RGB frames with values from 0 to 255.
        stride: in pixels.
        source: ``PAN`` or ``ResNet``.
    """

    weight: np.ndarray
    stride: int
    source: str

    @property
    def parameters(self) -> dict[str, str]:
        """What tells these filters from others."""
        return {"filters": self.source, "sha256": hashlib.sha256(self.weight.tobytes()).hexdigest()}


def load_filters(file: Path | None = None) -> Filters:
    """Read the convolution of the measure ``pa`` from a checkpoint.

    PAN's checkpoints hold it as ``module.PA.shallow_conv.weight``, 8 filters at stride 1. Like the released
    ``generate_feature_diff.py`` it is fed frames as they are, blue first and with values from 0 to 255, although PAN
    was trained on normalised RGB. The bias cancels in differences.

    Of a torchvision ResNet the first convolution is taken as the network has it: 64 filters at stride 2, no bias, fed
    RGB normalised with ImageNet's standard deviation (the mean cancels).

    Args:
        file: a PAN checkpoint, or the state dict of a torchvision ResNet. None: torchvision's ResNet-50 with ImageNet
            weights (IMAGENET1K_V1), downloaded once.

    Raises:
        ValueError: the file holds neither, or cannot be read.
        ModuleNotFoundError: PyTorch is not installed.
    """
    torch = _import_torch()
    if file is None:
        try:
            from torchvision.models import ResNet50_Weights  # noqa: PLC0415  needs torchvision

            states: Any = ResNet50_Weights.IMAGENET1K_V1.get_state_dict(progress=True, check_hash=True)
        except (OSError, RuntimeError) as error:
            raise ValueError(
                f"torchvision's ResNet-50 weights could not be downloaded ({error}). On a machine with internet fetch "
                f"{ResNet50_Weights.IMAGENET1K_V1.url} and copy it to {torch.hub.get_dir()}/checkpoints; or give a "
                "checkpoint that is here: --pa-weights FILE, a PAN checkpoint or a torchvision ResNet state dict."
            ) from error
    else:
        if not file.is_file():
            raise ValueError(f"{file}: there is no such file. Give a PAN checkpoint or a torchvision ResNet.")
        try:
            states = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:
            raise ValueError(
                f"{file}: cannot be read as a checkpoint of plain tensors ({str(error).splitlines()[0]}). Save it "
                "again with torch.save({'state_dict': ...})."
            ) from error
    nested = [states, *states.values()] if isinstance(states, dict) else []
    for state in nested:
        if not isinstance(state, dict):
            continue
        if _PAN_KEY in state:
            weight = _checked_filters(state[_PAN_KEY], (8, 3, 7, 7), _PAN_KEY, file)
            # trained on RGB, released on BGR: its first channel sees blue
            return Filters(np.ascontiguousarray(weight[:, ::-1]), 1, "PAN")
        for key in _RESNET_KEYS:
            if key in state:
                weight = _checked_filters(state[key], (64, 3, 7, 7), key, file)
                scale = np.array(_IMAGENET_STD, np.float32)[:, None, None] * 255
                return Filters(weight / scale, 2, "ResNet")
    raise ValueError(
        f"{file}: holds neither {_PAN_KEY} (a PAN checkpoint) nor conv1.weight (a torchvision ResNet). Give one of "
        "these two."
    )


def _checked_filters(weight: Any, shape: tuple[int, ...], key: str, file: Path | None) -> np.ndarray:
    if tuple(weight.shape) != shape:
        raise ValueError(f"{file}: {key} has the shape {tuple(weight.shape)}, expected {shape}.")
    values: np.ndarray = weight.detach().float().numpy()
    if not np.isfinite(values).all():
        raise ValueError(f"{file}: {key} holds values that are not finite.")
    return values


def pa_motion(frames: Iterable[VideoFrame], *, filters: Filters, device: str | None = None) -> np.ndarray:
    """Persistence of appearance (PAN, arXiv 2008.03462), (F - 1,) float32: change of the first features.

    The sum over pixels of the distance between the filter responses of neighbouring frames, at full resolution. As in
    PyTorch's ``PairwiseDistance``, 1e-6 is added to each difference. The convolution is linear, so it is applied to the
    difference of frames, which costs the same and loses nothing to rounding.

    Args:
        frames: of one video.
        filters: see :func:`load_filters`.
        device: where to compute; by default a GPU if there is one.
    """
    torch = _import_torch()
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    weight = torch.from_numpy(filters.weight).to(place)
    reformatter = VideoReformatter()
    values: list[Any] = []  # tensors
    waiting: list[np.ndarray] = []

    def flush() -> None:
        images = torch.from_numpy(np.stack(waiting)).to(place).permute(0, 3, 1, 2).float()
        change = torch.nn.functional.conv2d(images[1:] - images[:-1], weight, stride=filters.stride, padding=3)
        values.append((change + _PA_EPSILON).square().sum(dim=1).sqrt().sum(dim=(1, 2)).cpu())
        del waiting[:-1]

    with torch.inference_mode():
        for frame in frames:
            waiting.append(rgb(frame, reformatter=reformatter))
            if len(waiting) > _FRAMES_AT_ONCE:
                flush()
        if len(waiting) > 1:
            flush()
    return torch.cat(values).numpy() if values else np.zeros(0, np.float32)


def _import_torch() -> Any:
    try:
        import torch  # noqa: PLC0415  only this measure needs it
    except ImportError as error:
        raise ModuleNotFoundError(
            "Measure pa needs PyTorch, which is not installed. Install it with: pip install 'mgs-dali[train]'",
            name="torch",
        ) from error
    return torch
