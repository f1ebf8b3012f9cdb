"""The non-local block: each position of a clip looks at all the others (Wang, Girshick, Gupta, He: "Non-local Neural
Networks", CVPR 2018), as the published TSM models with ``nl`` in their names have it."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["NonLocal", "NonLocalBlock", "PairwiseFunction"]

PairwiseFunction = Literal["embedded_gaussian", "gaussian", "dot_product"]
"""How much a position counts for another: softmax of the product of two embeddings of them, softmax of the product of
themselves, or the product of the embeddings over the number of positions looked at."""


class NonLocal(nn.Module):
    """Adds to every position of a clip a weighted mean over the whole clip: ``x + W(weights(x) g(x))``.

    Half as many channels inside; the positions looked at are the maxima of 2 x 2 pixels. The batch norm at the end
    starts with scale 0, so that a new block changes nothing. (mit-han-lab's ``ops/non_local.py``, and mmcv's
    ``NonLocal3d`` with ``sub_sample=True, use_scale=False``.) They write 1 x 1 x 1 convolutions over clips, which are
    1 x 1 convolutions over frames.
    """

    def __init__(self, channels: int, num_segments: int, pairwise: PairwiseFunction) -> None:
        super().__init__()
        self.num_segments = num_segments
        self.pairwise = pairwise
        inner = channels // 2
        embeds = pairwise != "gaussian"
        self.g = nn.Sequential(nn.Conv2d(channels, inner, 1), nn.MaxPool2d(2))
        self.theta = nn.Conv2d(channels, inner, 1) if embeds else nn.Identity()
        self.phi = nn.Sequential(nn.Conv2d(channels, inner, 1) if embeds else nn.Identity(), nn.MaxPool2d(2))
        self.W = nn.Sequential(nn.Conv2d(inner, channels, 1), nn.BatchNorm2d(channels))
        for name, parameter in self.named_parameters():
            if not name.startswith("W."):  # mmcv's start
                nn.init.normal_(parameter, std=0.01) if parameter.dim() > 1 else nn.init.zeros_(parameter)
        nn.init.zeros_(self.W.get_parameter("1.weight"))

    def forward(self, x: Tensor) -> Tensor:
        """(B * T, C, H, W) features to features of the same shape."""
        theta, phi, g = (self._positions(layer(x)) for layer in (self.theta, self.phi, self.g))
        if self.pairwise == "dot_product":
            # The same as (theta phi^T) g with less to compute: without the matrix of all pairs of positions.
            y = theta @ (phi.mT @ g / phi.shape[-2])
        else:
            y = F.scaled_dot_product_attention(theta, phi, g, scale=1.0)
        y = y.squeeze(1).unflatten(1, (self.num_segments, *x.shape[2:])).movedim(-1, 2).flatten(0, 1)
        out: Tensor = x + self.W(y)
        return out

    def _positions(self, x: Tensor) -> Tensor:
        """(B * T, C, H, W) to (B, 1, T * H * W, C): positions of a clip, and the one head that attention expects."""
        return x.unflatten(0, (-1, self.num_segments)).movedim(2, -1).flatten(1, 3).unsqueeze(1)


class NonLocalBlock(nn.Module):
    """A residual block followed by `NonLocal`."""

    def __init__(self, block: nn.Module, nl: NonLocal) -> None:
        super().__init__()
        self.block = block
        self.nl = nl

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.nl(self.block(x))
        return out
