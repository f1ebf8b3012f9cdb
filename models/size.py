"""How large a model is and how much it computes."""

import copy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from models.tsm import TSM

__all__ = ["count_flops", "count_parameters"]


def count_parameters(model: nn.Module) -> int:
    """Number of parameters, 23,864,558 for ResNet-50 with 174 classes."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_flops(model: TSM, size_pixels: int = 224) -> int:
    """What one clip of square frames costs in inference, as the tables of mmaction2 count it.

    A multiplication with its addition counts once, in convolutions, linear layers and matrix products; a batch norm
    counts two for every number that passes it; nothing else counts (the convention of fvcore, in which mmaction2's
    READMEs give 32.88 G for ResNet-50, 8 frames of 224 x 224). PyTorch's ``FlopCounterMode`` counts multiplication and
    addition as two, and no batch norms: 65.4 G for the same model.

    Args:
        model: left as it is; nothing is computed, so that this is quick.
        size_pixels: side of the frames.

    Returns:
        Operations for ``model.num_segments`` frames.
    """
    model = copy.deepcopy(model).to("meta").eval()
    in_norms = 0

    def count_norm(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal in_norms
        in_norms += 2 * output.numel()

    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.register_forward_hook(count_norm)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.empty(1, model.num_segments, 3, size_pixels, size_pixels, device="meta"))
    return int(counter.get_total_flops()) // 2 + in_norms
