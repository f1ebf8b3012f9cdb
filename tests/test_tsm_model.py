"""The TSM model: the shift, where it sits, the head, the optimizer groups."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.models import mobilenetv2, resnet

from models.tsm import TSM, Depth, TemporalShift, _shift_for_export, parameter_groups, temporal_shift


def _shift_restated(x: npt.NDArray[np.float32], num_segments: int, shift_div: int) -> npt.NDArray[np.float32]:
    """Frame by frame and channel by channel: the next frame's, the previous frame's, or one's own; zero outside."""
    fold = x.shape[1] // shift_div
    out = np.zeros_like(x)
    for i in range(len(x)):
        clip, t = divmod(i, num_segments)
        for channel in range(x.shape[1]):
            source = t + 1 if channel < fold else t - 1 if channel < 2 * fold else t
            if 0 <= source < num_segments:
                out[i, channel] = x[clip * num_segments + source, channel]
    return out


@settings(max_examples=60, deadline=None)
@given(
    num_clips=st.integers(1, 3),
    num_segments=st.integers(1, 9),
    channels=st.integers(1, 33),
    shift_div=st.integers(2, 24),
    channels_last=st.booleans(),
)
def test_shift_moves_the_published_channels(
    num_clips: int, num_segments: int, channels: int, shift_div: int, channels_last: bool
) -> None:
    values = np.random.default_rng(0).standard_normal((num_clips * num_segments, channels, 2, 3)).astype(np.float32)
    x = torch.from_numpy(values)
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
    shifted = temporal_shift(x, num_segments, shift_div=shift_div)
    expected = _shift_restated(values, num_segments, shift_div)
    np.testing.assert_array_equal(shifted.numpy(), expected)
    exported = _shift_for_export(x, num_segments, channels // shift_div)
    np.testing.assert_array_equal(exported.numpy(), expected)
    np.testing.assert_array_equal(x.numpy(), values)
    assert not channels_last or shifted.is_contiguous(memory_format=torch.channels_last)


def test_shift_worked_example() -> None:
    # Three frames of four channels holding "frame, channel": shift_div 4 moves channel 0 here from the next frame and
    # channel 1 from the previous one.
    x = torch.tensor([[10.0, 11, 12, 13], [20, 21, 22, 23], [30, 31, 32, 33]])[:, :, None, None]
    expected = [[20, 0, 12, 13], [30, 11, 22, 23], [0, 21, 32, 33]]
    assert temporal_shift(x, 3, shift_div=4)[:, :, 0, 0].tolist() == expected


def test_shift_gradient_is_exact() -> None:
    x = torch.randn(6, 9, 2, 2, dtype=torch.float64, requires_grad=True)

    def shift(x: torch.Tensor) -> torch.Tensor:
        return temporal_shift(x, 3, shift_div=4)

    assert torch.autograd.gradcheck(shift, x)
    assert torch.autograd.gradgradcheck(shift, x)


def test_shift_compiles_without_graph_breaks() -> None:
    model = TemporalShift(nn.Conv2d(8, 4, 1), 3)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    x = torch.randn(6, 8, 2, 2)
    gradients = []
    for function in (model, compiled):
        leaf = x.clone().requires_grad_()
        function(leaf).square().sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize(
    "options",
    [
        {"depth": 10},
        pytest.param({"depth": 10, "temporal_pool": True}, marks=pytest.mark.slow),
        pytest.param({"depth": "mobilenet_v2"}, marks=pytest.mark.slow),
        pytest.param({"non_local": "embedded_gaussian"}, marks=pytest.mark.slow),
    ],
)
def test_model_compiles_without_graph_breaks(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = TSM(5, 2, dropout=0.0, **options).eval()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    clips = torch.randn(2, 2, 3, 32, 32)
    results = []
    for function in (model, compiled):
        model.zero_grad()
        logits = function(clips)
        logits.square().sum().backward()
        results.append((logits.detach(), model.get_parameter("fc.weight").grad, _first_convolution(model).weight.grad))
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_compiled_code_gives_the_same_logits() -> None:
    model = TSM(5, 4, depth=10).eval()
    clips = torch.randn(2, 4, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model, fullgraph=True)(clips), model(clips), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"depth": 10},
        pytest.param({"depth": 10, "temporal_pool": True}, marks=pytest.mark.slow),
        pytest.param({"depth": "mobilenet_v2"}, marks=pytest.mark.slow),
        pytest.param({"non_local": "embedded_gaussian"}, marks=pytest.mark.slow),
        pytest.param({"non_local": "gaussian"}, marks=pytest.mark.slow),
        pytest.param({"non_local": "dot_product"}, marks=pytest.mark.slow),
    ],
)
def test_onnx_gives_the_same_logits(options: dict[str, Any], tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="needs onnx, onnxscript and onnxruntime")
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnx, onnxscript and onnxruntime")
    pytest.importorskip("onnxscript", reason="needs onnx, onnxscript and onnxruntime")
    torch.manual_seed(0)
    model = TSM(5, 4, **options).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("nl.W.1.weight"):  # starts at 0, with which the block does nothing
            nn.init.ones_(parameter)
    file = tmp_path / "tsm.onnx"
    torch.onnx.export(
        model,
        (torch.randn(2, 4, 3, 64, 64),),
        file,
        input_names=["clips"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        dynamo=True,
    )
    session = onnxruntime.InferenceSession(file)
    for batch in (1, 3):
        # Faint, because gaussian blocks take the exponential of squared features: rounding must not grow with it.
        clips = 0.1 * torch.randn(batch, 4, 3, 64, 64)
        (logits,) = session.run(["logits"], {"clips": clips.numpy()})
        expected = model(clips).detach().numpy()
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    operators = {node.op_type for node in onnx.load(file).graph.node}
    assert not operators & {"ScatterND", "ScatterElements", "GatherND"}  # the shift stays slices


def _first_convolution(model: nn.Module) -> nn.Conv2d:
    return next(module for module in model.modules() if isinstance(module, nn.Conv2d))


@pytest.mark.parametrize(
    "options",
    [
        {"depth": 10},
        {"depth": "mobilenet_v2"},
        pytest.param({"non_local": "embedded_gaussian"}, marks=pytest.mark.slow),
    ],
)
def test_channels_last_reaches_every_convolution(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = TSM(5, 2, **options).eval()
    clips = torch.randn(1, 2, 3, 64, 64)
    with torch.no_grad():
        expected = model(clips)
        model = model.to(memory_format=torch.channels_last)
        wrong: list[str] = []
        for name, module in model.named_modules():
            if isinstance(module, nn.Conv2d) and module is not _first_convolution(model):

                def check(_module: nn.Module, inputs: tuple[torch.Tensor, ...], name: str = name) -> None:
                    if not inputs[0].is_contiguous(memory_format=torch.channels_last):
                        wrong.append(name)

                module.register_forward_pre_hook(check)
        torch.testing.assert_close(model(clips), expected, rtol=1e-3, atol=1e-6)
    assert not wrong


def _shifted_blocks(model: TSM) -> list[list[int]]:
    stages = [model.backbone.layer1, model.backbone.layer2, model.backbone.layer3, model.backbone.layer4]
    return [[i for i, block in enumerate(stage) if isinstance(block.conv1, TemporalShift)] for stage in stages]


@pytest.mark.parametrize(
    ("depth", "blocks"),
    [
        (10, [[0], [0], [0], [0]]),
        (18, [[0, 1]] * 4),
        (34, [[0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3, 4, 5], [0, 1, 2]]),
        (50, [[0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3, 4, 5], [0, 1, 2]]),
        (101, [[0, 2], [0, 2], list(range(0, 23, 2)), [0, 2]]),
    ],
)
def test_which_blocks_are_shifted(depth: Depth, blocks: list[list[int]]) -> None:
    with torch.device("meta"):
        model = TSM(5, 4, depth=depth)
    assert _shifted_blocks(model) == blocks
    assert sum(isinstance(module, TemporalShift) for module in model.modules()) == sum(map(len, blocks))


def test_which_blocks_of_mobilenet_are_shifted() -> None:
    with torch.device("meta"):
        model = TSM(5, 4, depth="mobilenet_v2")
    found = [name for name, module in model.named_modules() if isinstance(module, TemporalShift)]
    # the later blocks of the stages that have several: 24, 32, 64, 96 and 160 channels wide
    assert found == [f"backbone.features.{i}.conv.0" for i in (3, 5, 6, 8, 9, 10, 12, 13, 15, 16)]


@pytest.mark.parametrize("depth", [10, "mobilenet_v2"])
def test_without_shift_frames_meet_in_the_mean_only(depth: Depth) -> None:
    torch.manual_seed(0)
    model = TSM(5, 3, depth=depth, shift=False).eval()
    assert not any(isinstance(module, TemporalShift) for module in model.modules())
    clips = torch.randn(2, 3, 3, 32, 32)
    one = TSM(5, 1, depth=depth, shift=False).eval()
    one.load_state_dict(model.state_dict())
    frames = one(clips.flatten(0, 1)[:, None])
    torch.testing.assert_close(model(clips), frames.view(2, 3, 5).mean(1))


def test_temporal_pool_halves_the_frames_after_the_first_stage() -> None:
    model = TSM(5, 6, depth=10, temporal_pool=True).eval()
    backbone = model.backbone
    assert [module.num_segments for module in model.modules() if isinstance(module, TemporalShift)] == [6, 3, 3, 3]
    seen: dict[str, torch.Tensor] = {}
    backbone.layer1.register_forward_hook(lambda _module, _inputs, output: seen.update(before=output))
    backbone.layer2.net.register_forward_pre_hook(lambda _module, inputs: seen.update(after=inputs[0]))
    assert model(torch.randn(2, 6, 3, 32, 32)).shape == (2, 5)
    before = seen["before"].detach().numpy().reshape(2, 6, 64, 8, 8)
    after = seen["after"].detach().numpy().reshape(2, 3, 64, 8, 8)
    for t in range(3):
        np.testing.assert_array_equal(after[:, t], before[:, max(0, 2 * t - 1) : 2 * t + 2].max(1))


def test_only_the_residual_branch_is_shifted() -> None:
    # With a silent branch (batch norm scale 0) a block hands its input on as it is, unless the identity were shifted.
    model = TSM(5, 4, depth=18).eval()
    block = model.backbone.layer1[0]
    nn.init.zeros_(block.bn2.weight)
    x = torch.rand(8, 64, 3, 3)
    torch.testing.assert_close(block(x), x)
    # And the branch does see the neighbours: a change in frame 1 changes frames 0 to 2 of its clip, no other.
    nn.init.ones_(block.bn2.weight)
    changed = x.clone()
    changed[1] += 1
    differs = (block(changed) - block(x)).abs().amax((1, 2, 3)) > 0
    assert differs.tolist() == [True, True, True, False] + [False] * 4


def test_resnet50_size_and_groups() -> None:
    with torch.device("meta"):
        model = TSM(174, 8)
    assert sum(parameter.numel() for parameter in model.parameters()) == 23_864_558
    groups = parameter_groups(model, lr=0.01, weight_decay=5e-4)
    assert [len(group["params"]) for group in groups] == [1, 0, 52, 0, 106, 1, 1]
    assert [group["lr"] for group in groups] == pytest.approx([0.01, 0.02, 0.01, 0.02, 0.01, 0.05, 0.1])
    assert [group["weight_decay"] for group in groups] == pytest.approx([5e-4, 0, 5e-4, 0, 0, 5e-4, 0])
    assert groups[0]["params"][0] is model.backbone.conv1.weight
    assert groups[5]["params"][0] is model.fc.weight
    assert groups[6]["params"][0] is model.fc.bias
    grouped = {id(parameter) for group in groups for parameter in group["params"]}
    assert grouped == {id(parameter) for parameter in model.parameters()}


def test_groups_of_a_model_with_biases() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Linear(4, 4), nn.Linear(4, 2))
    groups = parameter_groups(model, lr=1, weight_decay=1)
    shapes = [[tuple(parameter.shape) for parameter in group["params"]] for group in groups]
    assert shapes == [[(4, 3, 3, 3)], [(4,)], [(4, 4, 1, 1), (4, 4)], [(4,), (4,)], [(4,), (4,)], [(2, 4)], [(2,)]]


def test_groups_take_any_optimizer_and_leave_frozen_parameters_out() -> None:
    model = TSM(3, 2, depth=10)
    model.backbone.conv1.weight.requires_grad_(False)
    groups = parameter_groups(model, lr=0.1, weight_decay=0.0)
    torch.optim.SGD(groups, momentum=0.9)
    assert all(parameter is not model.backbone.conv1.weight for group in groups for parameter in group["params"])


def test_groups_of_a_model_the_recipe_does_not_know() -> None:
    with pytest.raises(ValueError, match=r"1 \(LayerNorm\) has parameters, and the TSM recipe has no group"):
        parameter_groups(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)), lr=1, weight_decay=0)
    with pytest.raises(ValueError, match="has no linear layer to classify with"):
        parameter_groups(nn.Conv2d(3, 3, 1), lr=1, weight_decay=0)


def test_logits_are_the_mean_over_the_segments_and_gradients_reach_everything() -> None:
    torch.manual_seed(0)
    model = TSM(5, 3, depth=10, dropout=0.0)
    clips = torch.randn(2, 3, 3, 32, 32)
    frame_scores = []
    handle = model.fc.register_forward_hook(lambda _module, _inputs, scores: frame_scores.append(scores))
    logits = model(clips)
    handle.remove()
    assert logits.shape == (2, 5)
    assert frame_scores[0].shape == (6, 5)
    torch.testing.assert_close(logits[1], (frame_scores[0][3] + frame_scores[0][4] + frame_scores[0][5]) / 3)
    logits.square().sum().backward()
    missing = [
        name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()
    ]
    assert not missing


def test_order_of_frames_matters_only_through_the_shift() -> None:
    torch.manual_seed(0)
    model = TSM(5, 4, depth=10).eval()
    clips = torch.randn(1, 4, 3, 32, 32)
    assert not torch.allclose(model(clips), model(clips.flip(1)), rtol=0, atol=1e-7)
    for module in model.modules():
        if isinstance(module, TemporalShift):
            module.shift_div = 10_000  # no channel moves
    torch.testing.assert_close(model(clips), model(clips.flip(1)))


def test_head_initialisation() -> None:
    model = TSM(400, 8, depth=18)
    assert model.fc.weight.std().item() == pytest.approx(0.001, rel=0.02)
    assert not model.fc.bias.any()
    assert model.dropout.p == 0.5


@pytest.mark.parametrize("depth", [18, "mobilenet_v2"])
def test_imagenet_weights_come_from_torchvision(depth: Depth, monkeypatch: pytest.MonkeyPatch) -> None:
    mobile = depth == "mobilenet_v2"
    network = mobilenetv2.mobilenet_v2(weights=None) if mobile else resnet.resnet18(weights=None)
    enum = mobilenetv2.MobileNet_V2_Weights if mobile else resnet.ResNet18_Weights
    published: Mapping[str, Any] = network.state_dict()
    asked: list[Any] = []

    def get_state_dict(self: Any, *_args: Any, **_kwargs: Any) -> Mapping[str, Any]:
        asked.append(self)
        return published

    monkeypatch.setattr(enum, "get_state_dict", get_state_dict)
    model = TSM(7, 8, depth=depth, weights="imagenet")
    assert asked == [enum.IMAGENET1K_V1]
    state = {key.replace(".net.", "."): value for key, value in model.backbone.state_dict().items()}
    assert state.keys() == {key for key in published if not key.startswith(("fc.", "classifier."))}
    for key, value in state.items():
        assert torch.equal(value, published[key]), key
    assert model.fc.weight.shape == (7, 1280 if mobile else 512)


def test_batch_of_no_clips() -> None:
    assert TSM(5, 4, depth=10).eval()(torch.empty(0, 4, 3, 32, 32)).shape == (0, 5)


def test_number_of_segments_changes_no_parameter() -> None:
    eight, sixteen = TSM(5, 8, depth=10).state_dict(), TSM(5, 16, depth=10).state_dict()
    assert {key: value.shape for key, value in eight.items()} == {key: value.shape for key, value in sixteen.items()}


@pytest.mark.parametrize(
    ("shape", "match"),
    [
        ((8, 3, 32, 32), r"shape \(B, T, 3, H, W\), found \(8, 3, 32, 32\)"),
        ((1, 3, 8, 32, 32), r"clips.transpose\(1, 2\)"),
        ((1, 16, 3, 32, 32), "built for num_segments=8, but the clips have 16 frames"),
    ],
)
def test_wrong_clips_are_refused(shape: tuple[int, ...], match: str) -> None:
    with torch.device("meta"):
        model = TSM(5, 8, depth=10)
        with pytest.raises(ValueError, match=match):
            model(torch.empty(shape))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"depth": 20}, "depth=20 is not known. Allowed: 10, 18, 34, 50, 101"),
        ({"depth": 10, "weights": "imagenet"}, "no ImageNet weights for depth=10"),
        ({"weights": "kinetics"}, "'kinetics' is not known"),
        ({"num_segments": 7, "temporal_pool": True}, "temporal_pool halves .* num_segments=7. Allowed: a ResNet and"),
        ({"depth": "mobilenet_v2", "temporal_pool": True}, "temporal_pool halves .* found depth='mobilenet_v2'"),
        ({"dropout": 1.0}, "dropout=1.0 is a probability"),
        ({"shift_div": 1}, "shift_div=1"),
        ({"num_classes": 0}, "num_classes=0"),
    ],
)
def test_impossible_models_are_refused(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        TSM(**{"num_classes": 5, "num_segments": 8, **arguments})
