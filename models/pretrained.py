"""torchvision's ImageNet weights, which TSM starts from: which file, where it lies, how it gets there."""

from __future__ import annotations

import pickle
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torchvision.models import mobilenetv2, resnet
from torchvision.models._api import WeightsEnum

__all__ = ["load_imagenet", "weights_file"]

_WEIGHTS: dict[int | str, WeightsEnum] = {
    18: resnet.ResNet18_Weights.IMAGENET1K_V1,
    34: resnet.ResNet34_Weights.IMAGENET1K_V1,
    50: resnet.ResNet50_Weights.IMAGENET1K_V1,
    101: resnet.ResNet101_Weights.IMAGENET1K_V1,
    "mobilenet_v2": mobilenetv2.MobileNet_V2_Weights.IMAGENET1K_V1,
}
_SECONDS_TO_ANSWER = 20.0


def weights_file(depth: int | str) -> Path:
    """Where the weights of a backbone lie, or will: in PyTorch's own cache, ``$TORCH_HOME/hub/checkpoints``.

    Raises:
        ValueError: there are none for this depth.
    """
    return Path(torch.hub.get_dir(), "checkpoints", Path(_weights(depth).url).name)


def load_imagenet(depth: int | str) -> Mapping[str, Any]:
    """The state dict of a backbone, downloaded where it is not there yet.

    Raises:
        ValueError: there are none for this depth, they cannot be downloaded, or the file is damaged.
    """
    weights, file = _weights(depth), weights_file(depth)
    was_there = file.exists()
    try:
        with _patience(_SECONDS_TO_ANSWER):
            return weights.get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        told = " ".join(str(error).split())
        if was_there:
            raise ValueError(
                f"{file}: the ImageNet weights cannot be read ({told}). Delete the file, and it is downloaded again."
            ) from error
        raise ValueError(
            f"the ImageNet weights {file.name} are not in {file.parent} and cannot be downloaded ({told}). On a "
            f"machine with internet fetch {weights.url} and copy it there (TORCH_HOME names another folder); or start "
            "from a checkpoint with --init FILE, or from random weights with --weights null."
        ) from error


def _weights(depth: int | str) -> WeightsEnum:
    if depth not in _WEIGHTS:
        known = ", ".join(map(str, _WEIGHTS))
        raise ValueError(f"There are no ImageNet weights for depth={depth}. Allowed: weights=None, or depth {known}.")
    return _WEIGHTS[depth]


@contextmanager
def _patience(seconds: float) -> Iterator[None]:
    """How long a server may be silent: without it a closed network is waited for without end."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
