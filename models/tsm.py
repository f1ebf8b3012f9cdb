"""TSM: a 2D network whose residual branches see their neighbour frames (Lin, Gan, Han: "TSM: Temporal Shift Module for
Efficient Video Understanding", ICCV 2019).

The shift sits where the published models have it ("blockres"): in front of the first convolution of a residual branch,
so that the identity path keeps every frame as it is. It has no parameters, and the number of segments changes no
parameter's shape.
"""

from collections.abc import Iterator
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models import mobilenetv2, resnet

from models.non_local import NonLocal, NonLocalBlock, PairwiseFunction
from models.pretrained import load_imagenet

__all__ = ["DEPTHS", "TSM", "Depth", "TemporalPool", "TemporalShift", "parameter_groups", "temporal_shift"]

Depth = Literal[10, 18, 34, 50, 101, "mobilenet_v2"]
DEPTHS: tuple[Depth, ...] = (10, 18, 34, 50, 101, "mobilenet_v2")

# depth -> (block, blocks per stage). Depth 10 is the demo's: the smallest ResNet, one residual block a stage;
# torchvision has no ImageNet weights for it.
_RESNETS: dict[int | str, tuple[type[resnet.BasicBlock | resnet.Bottleneck], list[int]]] = {
    10: (resnet.BasicBlock, [1, 1, 1, 1]),
    18: (resnet.BasicBlock, [2, 2, 2, 2]),
    34: (resnet.BasicBlock, [3, 4, 6, 3]),
    50: (resnet.Bottleneck, [3, 4, 6, 3]),
    101: (resnet.Bottleneck, [3, 4, 23, 3]),
}

# Stage -> blocks that a non-local block follows, in the published ResNet-50 models.
_NON_LOCAL_PLACES = {2: (0, 2), 3: (0, 2, 4)}


def _shift(x: Tensor, num_segments: int, fold: int, step: int) -> Tensor:
    """Write channels [0, fold) of frame t + step and [fold, 2 fold) of frame t - step to frame t; copy the rest."""
    x = x.view(-1, num_segments, *x.shape[1:])
    out = torch.empty_like(x)
    ahead, behind = (slice(0, fold), slice(fold, 2 * fold))[::step]
    out[:, :-1, ahead] = x[:, 1:, ahead]
    out[:, -1, ahead] = 0
    out[:, 1:, behind] = x[:, :-1, behind]
    out[:, 0, behind] = 0
    out[:, :, 2 * fold :] = x[:, :, 2 * fold :]
    return out.flatten(0, 1)


def _shift_for_export(x: Tensor, num_segments: int, fold: int) -> Tensor:
    """The same as ``_shift(x, num_segments, fold, 1)``. What moves is copied twice here, but the exported graph is
    three slices and their concatenation, where slices that are written to become scattering by index."""
    x = x.view(-1, num_segments, *x.shape[1:])
    ahead = F.pad(x[:, 1:, :fold], (0, 0) * 3 + (0, 1))
    behind = F.pad(x[:, :-1, fold : 2 * fold], (0, 0) * 3 + (1, 0))
    return torch.cat((ahead, behind, x[:, :, 2 * fold :]), 2).flatten(0, 1)


class _Shift(torch.autograd.Function):
    # The gradient of a shift is the shift the other way: one pass over one tensor, where autograd's own way back
    # through five slice assignments clones the whole gradient five times.
    @staticmethod
    def forward(ctx: Any, x: Tensor, num_segments: int, fold: int, step: int) -> Tensor:
        ctx.geometry = (num_segments, fold, step)
        return _shift(x, num_segments, fold, step)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None, None, None]:
        num_segments, fold, step = ctx.geometry
        return _Shift.apply(grad[0], num_segments, fold, -step), None, None, None


def temporal_shift(x: Tensor, num_segments: int, *, shift_div: int = 8) -> Tensor:
    """Move a part of the channels by one frame: the next frame's first ``C // shift_div`` channels to this frame, the
    previous frame's second ``C // shift_div`` channels to this frame. Zeros come in at the ends; nothing wraps.

    Args:
        x: (B * T, C, H, W) features, the frames of a clip next to each other.
        num_segments: T.
        shift_div: the part of the channels that moves each way, 8 for an eighth.

    Returns:
        (B * T, C, H, W), a new tensor of the same dtype.
    """
    fold = x.shape[1] // shift_div
    if torch.compiler.is_exporting():
        return _shift_for_export(x, num_segments, fold)
    shifted: Tensor = _Shift.apply(x, num_segments, fold, 1)
    return shifted


class TemporalShift(nn.Module):
    """A layer that sees temporally shifted features: ``net(temporal_shift(x))``."""

    def __init__(self, net: nn.Module, num_segments: int, *, shift_div: int = 8) -> None:
        super().__init__()
        self.net = net
        self.num_segments = num_segments
        self.shift_div = shift_div

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(temporal_shift(x, self.num_segments, shift_div=self.shift_div))
        return out

    def extra_repr(self) -> str:
        return f"num_segments={self.num_segments}, shift_div={self.shift_div}"


class TemporalPool(nn.Module):
    """A network that sees half the frames: maxima over three neighbours, every second one."""

    def __init__(self, net: nn.Module, num_segments: int) -> None:
        super().__init__()
        self.net = net
        self.num_segments = num_segments

    def forward(self, x: Tensor) -> Tensor:
        """(B * T, C, H, W) features to what the network makes of (B * T / 2, C, H, W)."""
        x = x.unflatten(0, (-1, self.num_segments)).transpose(1, 2)
        x = F.max_pool3d(x, kernel_size=(3, 1, 1), stride=(2, 1, 1), padding=(1, 0, 0))
        out: Tensor = self.net(x.transpose(1, 2).flatten(0, 1))
        return out


class TSM(nn.Module):
    """A 2D network with temporal shift, and the mean of the frames' class scores as the clip's.

    The backbone is torchvision's ResNet with ``conv1`` of the residual blocks wrapped in `TemporalShift` (every block;
    in ResNet-101 blocks 0, 2, 4, ... of each stage, as published), or torchvision's MobileNetV2 with the shift in front
    of the ten blocks that have an identity path. Head: average pooling, dropout, a linear layer (weights from a normal
    distribution of standard deviation 0.001, bias 0), the mean over the segments.

    Args:
        num_classes: number of classes.
        num_segments: frames of a clip, T. Any number: no parameter's shape depends on it.
        depth: ResNet of 10, 18, 34, 50 or 101 layers, or "mobilenet_v2". Depth 10 (one block a stage) is for
            demonstrations.
        shift: False leaves the shift out: frames meet in the mean of their scores only (TSN).
        shift_div: an n-th of the channels comes from the next frame and an n-th from the previous one.
        non_local: kind of the non-local blocks behind five blocks of ResNet-50 (stage 2: 0, 2; stage 3: 0, 2, 4), None
            for no such blocks.
        temporal_pool: halve the number of frames behind the first stage of a ResNet.
        dropout: probability of dropping a feature in front of the linear layer.
        weights: "imagenet" starts from torchvision's ``IMAGENET1K_V1`` weights (what the published TSM models start
            from; downloaded once), None from random ones.

    Raises:
        ValueError: for values that make no model, or ImageNet weights of a depth that has none.
    """

    def __init__(
        self,
        num_classes: int,
        num_segments: int,
        *,
        depth: Depth = 50,
        shift: bool = True,
        shift_div: int = 8,
        non_local: PairwiseFunction | None = None,
        temporal_pool: bool = False,
        dropout: float = 0.5,
        weights: Literal["imagenet"] | None = None,
    ) -> None:
        super().__init__()
        if num_classes < 1 or num_segments < 1:
            raise ValueError(
                f"TSM needs at least one class and one segment, found num_classes={num_classes}, "
                f"num_segments={num_segments}."
            )
        if depth not in DEPTHS:
            raise ValueError(f"TSM depth={depth!r} is not known. Allowed: {', '.join(map(str, DEPTHS))}.")
        if shift_div < 2:
            raise ValueError(
                f"shift_div={shift_div}: C // shift_div channels come from the next frame and as many from the "
                "previous one, and must fit into C. Allowed: 2 or more (published models: 8)."
            )
        if non_local not in (None, *get_args(PairwiseFunction)):
            raise ValueError(
                f"non_local={non_local!r} is not known. Allowed: None, {', '.join(get_args(PairwiseFunction))}."
            )
        if non_local is not None and depth != 50:
            raise ValueError(
                f"non_local={non_local!r} has its places in ResNet-50, found depth={depth!r}. Use depth=50."
            )
        if temporal_pool and (depth == "mobilenet_v2" or num_segments % 2):
            raise ValueError(
                f"temporal_pool halves the frames behind the first stage of a ResNet, found depth={depth!r} and "
                f"num_segments={num_segments}. Allowed: a ResNet and an even number of segments."
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout} is a probability. Allowed: 0 up to, not including, 1.")
        if weights not in (None, "imagenet"):
            raise ValueError(
                f'weights={weights!r} is not known. Allowed: None and "imagenet". To start from a checkpoint, build '
                "the model without weights and load its state dict (models.checkpoints)."
            )
        self.num_segments = num_segments
        self.num_scored_frames = num_segments // 2 if temporal_pool else num_segments
        if depth == "mobilenet_v2":
            self.backbone = _mobilenet_v2(imagenet=weights == "imagenet")
            num_features = self.backbone.last_channel
            self.backbone.classifier = nn.Identity()
            if shift:
                _shift_mobilenet(self.backbone, num_segments, shift_div=shift_div)
        else:
            self.backbone = _resnet(depth, imagenet=weights == "imagenet")
            num_features = self.backbone.fc.in_features
            self.backbone.fc = nn.Identity()
            _adapt_resnet(
                self.backbone,
                num_segments,
                shift_div=shift_div if shift else None,
                every=2 if depth == 101 else 1,
                non_local=non_local,
                temporal_pool=temporal_pool,
            )
        self.dropout = nn.Dropout(dropout)
        # The optimizer groups take the last linear layer for the classifier: register it last.
        self.fc = nn.Linear(num_features, num_classes)
        nn.init.normal_(self.fc.weight, std=0.001)
        nn.init.zeros_(self.fc.bias)

    def forward(self, clips: Tensor) -> Tensor:
        """Class scores of clips.

        Args:
            clips: (B, T, 3, H, W), normalised floats.

        Returns:
            (B, num_classes) logits.

        Raises:
            ValueError: when the shape or T is not the model's.
        """
        if clips.dim() != 5 or clips.shape[2] != 3:
            raise ValueError(
                f"TSM takes clips of shape (B, T, 3, H, W), found {tuple(clips.shape)}. One clip alone needs a batch "
                "dimension: clip[None]; channels come after the segments: clips.transpose(1, 2) for (B, 3, T, H, W)."
            )
        if clips.shape[1] != self.num_segments:
            raise ValueError(
                f"This TSM was built for num_segments={self.num_segments}, but the clips have {clips.shape[1]} frames. "
                "Sample as many frames as the model has segments, or build the model for that number: it changes no "
                "parameter's shape, so a checkpoint fits either way."
            )
        features = self.backbone(clips.flatten(0, 1))
        scores: Tensor = self.fc(self.dropout(features))
        return scores.unflatten(0, (-1, self.num_scored_frames)).mean(1)


def parameter_groups(model: nn.Module, *, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """The optimizer groups of the TSM recipe (``TSMOptimizerConstructor`` of mmaction2, policies of the TSM authors).

    | group | lr | weight decay |
    |---|---|---|
    | first_conv_weight | x1 | x1 |
    | first_conv_bias | x2 | 0 |
    | weight (other convolutions and linear layers) | x1 | x1 |
    | bias (theirs) | x2 | 0 |
    | bn (scale and shift) | x1 | 0 |
    | fc_weight (the last linear layer) | x5 | x1 |
    | fc_bias | x10 | 0 |

    Args:
        model: a TSM, or any model of convolutions, linear layers and batch norms whose last linear layer classifies.
        lr: the learning rate of the x1 groups.
        weight_decay: the weight decay of the x1 groups.

    Returns:
        Seven groups in the table's order, for any ``torch.optim`` optimizer: "name", "params", "lr", "weight_decay". A
        group may be empty (a ResNet has no convolution biases).

    Raises:
        ValueError: when the model has no linear layer, or parameters of a layer that the recipe says nothing about.
    """
    convolutions: list[nn.Module] = []
    linears: list[nn.Module] = []
    norms: list[nn.Parameter] = []
    for name, module in _modules_with_parameters(model):
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            convolutions.append(module)
        elif isinstance(module, nn.Linear):
            linears.append(module)
        elif isinstance(module, _BatchNorm):
            norms.extend(module.parameters(recurse=False))
        else:
            raise ValueError(
                f"{name or 'the model itself'} ({type(module).__name__}) has parameters, and the TSM recipe has no "
                "group for them. Allowed: convolutions, linear layers and batch norms. Freeze them, or write your own "
                "groups."
            )
    if not linears:
        raise ValueError(f"{type(model).__name__} has no linear layer to classify with. Give it one, registered last.")
    first, others, last = convolutions[:1], [*convolutions[1:], *linears[:-1]], linears[-1:]
    table = (
        ("first_conv_weight", _named(first, "weight"), 1, 1),
        ("first_conv_bias", _named(first, "bias"), 2, 0),
        ("weight", _named(others, "weight"), 1, 1),
        ("bias", _named(others, "bias"), 2, 0),
        ("bn", norms, 1, 0),
        ("fc_weight", _named(last, "weight"), 5, 1),
        ("fc_bias", _named(last, "bias"), 10, 0),
    )
    return [
        {"name": name, "params": params, "lr": lr * lr_factor, "weight_decay": weight_decay * decay_factor}
        for name, params, lr_factor, decay_factor in table
    ]


def _resnet(depth: int, *, imagenet: bool) -> resnet.ResNet:
    model = resnet.ResNet(*_RESNETS[depth])
    if imagenet:
        model.load_state_dict(load_imagenet(depth))
    return model


def _mobilenet_v2(*, imagenet: bool) -> mobilenetv2.MobileNetV2:
    model = mobilenetv2.MobileNetV2()
    if imagenet:
        model.load_state_dict(load_imagenet("mobilenet_v2"))
    return model


def _adapt_resnet(
    model: resnet.ResNet,
    num_segments: int,
    *,
    shift_div: int | None,
    every: int,
    non_local: PairwiseFunction | None,
    temporal_pool: bool,
) -> None:
    for number, stage in enumerate((model.layer1, model.layer2, model.layer3, model.layer4), start=1):
        segments = num_segments // 2 if temporal_pool and number > 1 else num_segments
        for i, block in enumerate(stage):
            if shift_div is not None and i % every == 0:
                block.conv1 = TemporalShift(block.conv1, segments, shift_div=shift_div)
            if non_local is not None and i in _NON_LOCAL_PLACES.get(number, ()):
                stage[i] = NonLocalBlock(block, NonLocal(block.bn3.num_features, segments, non_local))
    if temporal_pool:
        model.layer2 = TemporalPool(model.layer2, num_segments)


def _shift_mobilenet(model: mobilenetv2.MobileNetV2, num_segments: int, *, shift_div: int) -> None:
    for block in model.features:
        if isinstance(block, mobilenetv2.InvertedResidual) and block.use_res_connect:
            block.conv[0] = TemporalShift(block.conv[0], num_segments, shift_div=shift_div)


def _modules_with_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in model.named_modules():
        if any(parameter.requires_grad for parameter in module.parameters(recurse=False)):
            yield name, module


def _named(modules: list[nn.Module], name: str) -> list[nn.Parameter]:
    parameters = (getattr(module, name) for module in modules)
    return [parameter for parameter in parameters if parameter is not None and parameter.requires_grad]
