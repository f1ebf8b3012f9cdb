"""Reading and writing published checkpoints. The names and shapes of the formats are written out here, by hand."""

from __future__ import annotations

import math
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models import mobilenetv2, resnet

from models.checkpoints import load, main, permute_classes, read, start_from, to_mit, to_mmaction2, tsm_options
from models.tsm import TSM

REPOSITORY = Path(__file__).parents[1]

Shapes = dict[str, tuple[int, ...]]
State = dict[str, Tensor]

R18, R50, R101 = (2, 2, 2, 2), (3, 4, 6, 3), (3, 4, 23, 3)
NON_LOCAL = {(2, 0), (2, 2), (3, 0), (3, 2), (3, 4)}


# --- the formats ------------------------------------------------------------------------------------------------------


def norm(name: str, channels: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    for tensor in ("weight", "bias", "running_mean", "running_var"):
        yield f"{name}.{tensor}", (channels,)
    yield f"{name}.num_batches_tracked", ()


def mit_names(
    blocks: tuple[int, ...] = R50,
    *,
    num_classes: int = 174,
    shift: bool = True,
    non_local: bool = False,
    temporal_pool: bool = False,
) -> Shapes:
    """A ResNet in DataParallel. ``blocks`` of R18 are basic ones, the others bottlenecks."""
    names: Shapes = {"conv1.weight": (64, 3, 7, 7), **dict(norm("bn1", 64))}
    inputs = 64
    kernels: list[tuple[str, tuple[int, ...]]]
    for layer, count in enumerate(blocks, start=1):
        for b in range(count):
            inner = 32 * 2**layer
            outputs = inner if blocks == R18 else 4 * inner
            nl = non_local and (layer, b) in NON_LOCAL
            at = f"layer{layer}{'.net' if temporal_pool and layer == 2 else ''}.{b}"
            block = f"{at}.block" if nl else at
            net = ".net" if shift and (blocks != R101 or b % 2 == 0) else ""
            if blocks == R18:
                kernels = [(f"conv1{net}", (inner, inputs, 3, 3)), ("conv2", (inner, inner, 3, 3))]
            else:
                kernels = [
                    (f"conv1{net}", (inner, inputs, 1, 1)),
                    ("conv2", (inner, inner, 3, 3)),
                    ("conv3", (outputs, inner, 1, 1)),
                ]
            for n, (conv, shape) in enumerate(kernels, start=1):
                names[f"{block}.{conv}.weight"] = shape
                names |= norm(f"{block}.bn{n}", shape[0])
            if b == 0 and (layer > 1 or blocks != R18):
                names[f"{block}.downsample.0.weight"] = (outputs, inputs, 1, 1)
                names |= norm(f"{block}.downsample.1", outputs)
            if nl:
                half = outputs // 2
                for conv in ("g.0", "W.0", "theta", "phi.0"):
                    into, out_of = (outputs, half) if conv == "W.0" else (half, outputs)
                    names |= {f"{at}.nl.{conv}.weight": (into, out_of, 1, 1, 1), f"{at}.nl.{conv}.bias": (into,)}
                names |= norm(f"{at}.nl.W.1", outputs)
            inputs = outputs
    names = {f"module.base_model.{name}": shape for name, shape in names.items()}
    return {**names, "module.new_fc.weight": (num_classes, inputs), "module.new_fc.bias": (num_classes,)}


def mmaction2_names(
    blocks: tuple[int, ...] = R50,
    *,
    num_classes: int = 174,
    shift: bool = True,
    non_local: str | None = None,
    temporal_pool: bool = False,
) -> Shapes:
    """``backbone`` and ``cls_head``, each convolution with its norm in a ConvModule; in the order of `mit_names`."""
    names: Shapes = {"conv1.conv.weight": (64, 3, 7, 7), **dict(norm("conv1.bn", 64))}
    inputs = 64
    for layer, count in enumerate(blocks, start=1):
        for b in range(count):
            inner = 32 * 2**layer
            outputs = inner if blocks == R18 else 4 * inner
            nl = non_local is not None and (layer, b) in NON_LOCAL
            at = f"layer{layer}{'.net' if temporal_pool and layer == 2 else ''}.{b}"
            block = f"{at}.block" if nl else at
            net = ".net" if shift and (blocks != R101 or b % 2 == 0) else ""
            shapes = [(inner, inputs, 1, 1), (inner, inner, 3, 3), (outputs, inner, 1, 1)]
            if blocks == R18:
                shapes = [(inner, inputs, 3, 3), (inner, inner, 3, 3)]
            for n, shape in enumerate(shapes, start=1):
                names[f"{block}.conv{n}.conv{net if n == 1 else ''}.weight"] = shape
                names |= norm(f"{block}.conv{n}.bn", shape[0])
            if b == 0 and (layer > 1 or blocks != R18):
                names[f"{block}.downsample.conv.weight"] = (outputs, inputs, 1, 1)
                names |= norm(f"{block}.downsample.bn", outputs)
            if nl:
                half, nl_at = outputs // 2, f"{at}.non_local_block"
                for conv in ("g.0",) if non_local == "gaussian" else ("g.0", "theta", "phi.0"):
                    names |= {
                        f"{nl_at}.{conv}.conv.weight": (half, outputs, 1, 1, 1),
                        f"{nl_at}.{conv}.conv.bias": (half,),
                    }
                names[f"{nl_at}.conv_out.conv.weight"] = (outputs, half, 1, 1, 1)
                names |= norm(f"{nl_at}.conv_out.bn", outputs)
            inputs = outputs
    names = {f"backbone.{name}": shape for name, shape in names.items()}
    return {**names, "cls_head.fc_cls.weight": (num_classes, inputs), "cls_head.fc_cls.bias": (num_classes,)}


# expansion, channels, blocks, stride of the first; the shift is where the stride is 1 and the channels stay
MOBILENET = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]


def mobilenet_names(style: str, *, num_classes: int = 400, shift: bool = True) -> Shapes:
    """MobileNetV2 in mit's names (layers in a row) or mmaction2's (ConvModules), in the same order."""
    mit = style == "mit"
    names: Shapes = {}

    def layer(mit_conv: str, mit_norm: str, conv: str, bn: str, shape: tuple[int, ...]) -> None:
        names[f"{mit_conv if mit else conv}.weight"] = shape
        names.update(norm(mit_norm if mit else bn, shape[0]))

    layer("features.0.0", "features.0.1", "conv1.conv", "conv1.bn", (32, 3, 3, 3))
    inputs, number = 32, 1
    for stage, (expansion, outputs, blocks, stride) in enumerate(MOBILENET, start=1):
        for b in range(blocks):
            ours, theirs = f"features.{number}.conv", f"layer{stage}.{b}.conv"
            net = ".net" if shift and expansion > 1 and inputs == outputs and (b > 0 or stride == 1) else ""
            wide = inputs * expansion
            at = 0
            if expansion > 1:
                expand = f"{theirs}.0{net}"
                layer(f"{ours}.0{net}", f"{ours}.1", f"{expand}.conv", f"{expand}.bn", (wide, inputs, 1, 1))
                at = 1
            depthwise, project = f"{theirs}.{at}", f"{theirs}.{at + 1}"
            layer(f"{ours}.{3 * at}", f"{ours}.{3 * at + 1}", f"{depthwise}.conv", f"{depthwise}.bn", (wide, 1, 3, 3))
            layer(
                f"{ours}.{3 * at + 3}",
                f"{ours}.{3 * at + 4}",
                f"{project}.conv",
                f"{project}.bn",
                (outputs, wide, 1, 1),
            )
            inputs, number = outputs, number + 1
    layer("features.18.0", "features.18.1", "conv2.conv", "conv2.bn", (1280, 320, 1, 1))
    names = {f"{'module.base_model' if mit else 'backbone'}.{name}": shape for name, shape in names.items()}
    fc = "module.new_fc" if mit else "cls_head.fc_cls"
    return {**names, f"{fc}.weight": (num_classes, 1280), f"{fc}.bias": (num_classes,)}


def test_formats_here_are_the_published_ones() -> None:
    assert len(mit_names()) == len(mmaction2_names()) == 320
    assert sum(".net." in name for name in mit_names()) == sum(".net." in name for name in mmaction2_names()) == 16
    assert len(mit_names(non_local=True)) == 385
    assert len(mit_names(R101)) == 626
    assert sum(".net." in name for name in mit_names(R101)) == 18
    assert sum(".conv.0.net.weight" in name for name in mobilenet_names("mit")) == 10
    assert mit_names()["module.base_model.layer4.2.conv1.net.weight"] == (512, 2048, 1, 1)


def numbered(names: Shapes) -> State:
    """Every number of the n-th weight is n: cheap, and tells where a weight went."""
    return {name: torch.tensor(float(n)).expand(shape) for n, (name, shape) in enumerate(names.items(), start=1)}


def random_weights(names: Shapes, seed: int = 0) -> State:
    """Weights under which numbers neither grow nor vanish; the same for formats with the same shapes in order."""
    generator = torch.Generator().manual_seed(seed)
    weights: State = {}
    for name, shape in names.items():
        x = torch.randn(shape, generator=generator)
        if name.endswith("num_batches_tracked"):
            weights[name] = torch.tensor(7)
        elif len(shape) > 1:
            weights[name] = x / math.sqrt(math.prod(shape[1:]))
        else:
            weights[name] = 1 + x.abs() / 4 if name.endswith("running_var") else 0.5 + x / 8
    return weights


def save(content: Any, folder: Path, name: str = "some.pth") -> Path:
    torch.save(content, folder / name)
    return folder / name


# --- the same model in both formats -----------------------------------------------------------------------------------


def restated_scores(w: State, clips: Tensor, blocks: tuple[int, ...], *, non_local: bool = False) -> Tensor:
    """What mit's bottleneck ResNet makes of clips, from its weights alone, one layer after the other."""
    num_segments = clips.shape[1]

    def conv(x: Tensor, name: str, **geometry: Any) -> Tensor:
        return F.conv2d(x, w[f"module.base_model.{name}.weight"], **geometry)

    def bn(x: Tensor, name: str) -> Tensor:
        mean, var, scale, shift = (
            w[f"module.base_model.{name}.{part}"].view(1, -1, *[1] * (x.dim() - 2))
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * scale + shift

    def shift(x: Tensor) -> Tensor:
        fold, out = x.shape[1] // 8, x.clone()
        for i in range(len(x)):
            t = i % num_segments
            out[i, :fold] = x[i + 1, :fold] if t + 1 < num_segments else 0
            out[i, fold : 2 * fold] = x[i - 1, fold : 2 * fold] if t > 0 else 0
        return out

    def look_around(x: Tensor, name: str) -> Tensor:
        volume = x.view(-1, num_segments, *x.shape[1:]).transpose(1, 2)
        theta, phi, g = (
            F.conv3d(volume, w[f"module.base_model.{name}.{part}.weight"], w[f"module.base_model.{name}.{part}.bias"])
            for part in ("theta", "phi.0", "g.0")
        )
        phi, g = (F.max_pool3d(y, (1, 2, 2)).flatten(2) for y in (phi, g))
        y = (torch.einsum("bci,bcj->bij", theta.flatten(2), phi).softmax(-1) @ g.mT).mT.reshape(theta.shape)
        y = F.conv3d(y, w[f"module.base_model.{name}.W.0.weight"], w[f"module.base_model.{name}.W.0.bias"])
        return (volume + bn(y, f"{name}.W.1")).transpose(1, 2).flatten(0, 1)

    x = bn(conv(clips.flatten(0, 1), "conv1", stride=2, padding=3), "bn1").relu()
    x = F.max_pool2d(x, 3, 2, 1)
    for layer, count in enumerate(blocks, start=1):
        for b in range(count):
            stride = 2 if b == 0 and layer > 1 else 1
            nl = non_local and (layer, b) in NON_LOCAL
            block = f"layer{layer}.{b}{'.block' if nl else ''}"
            shifted = f"module.base_model.{block}.conv1.net.weight" in w
            y = conv(shift(x), f"{block}.conv1.net") if shifted else conv(x, f"{block}.conv1")
            y = bn(y, f"{block}.bn1").relu()
            y = bn(conv(y, f"{block}.conv2", stride=stride, padding=1), f"{block}.bn2").relu()
            y = bn(conv(y, f"{block}.conv3"), f"{block}.bn3")
            if b == 0:
                x = bn(conv(x, f"{block}.downsample.0", stride=stride), f"{block}.downsample.1")
            x = (x + y).relu()
            if nl:
                x = look_around(x, f"layer{layer}.{b}.nl")
    frame_scores = x.mean((2, 3)) @ w["module.new_fc.weight"].T + w["module.new_fc.bias"]
    return frame_scores.view(len(clips), num_segments, -1).mean(1)


def scores(state: State, clips: Tensor, **options: Any) -> Tensor:
    with torch.device("meta"):
        model = TSM(num_segments=clips.shape[1], **{**tsm_options(state), **options})
    model.load_state_dict(state, strict=True, assign=True)
    with torch.no_grad():
        out: Tensor = model.eval()(clips)
    return out


@pytest.mark.parametrize("blocks", [R50, pytest.param(R101, marks=pytest.mark.slow)])
def test_mit_and_mmaction2_give_the_same_logits(blocks: tuple[int, ...], tmp_path: Path) -> None:
    mit = random_weights(mit_names(blocks))
    mmaction2 = random_weights(mmaction2_names(blocks))
    training_file = {
        "epoch": 45,
        "arch": "resnet50",
        "state_dict": mit,
        "optimizer": {},
        "best_prec1": torch.tensor(47.0),
    }
    mit_state = load(save(training_file, tmp_path, "ckpt.best.pth.tar"))
    mmaction2_state = load(save({"meta": {"epoch": 50}, "state_dict": mmaction2}, tmp_path, "mm.pth"))
    clips = torch.randn(2, 3, 3, 32, 32)
    logits = scores(mit_state, clips)
    assert torch.equal(logits, scores(mmaction2_state, clips))
    torch.testing.assert_close(logits, restated_scores(mit, clips, blocks), rtol=1e-3, atol=1e-3)
    assert logits.std() > 0.01


def test_non_local_logits(tmp_path: Path) -> None:
    mit = random_weights(mit_names(non_local=True, num_classes=5))
    state = load(save({"state_dict": mit}, tmp_path))
    clips = torch.randn(2, 2, 3, 32, 32)
    logits = scores(state, clips)
    expected = restated_scores(mit, clips, R50, non_local=True)
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3)
    # mmaction2 has no bias in front of the batch norm: the scores stay, the weights do not all
    exported = to_mmaction2(state)["state_dict"]
    assert exported.keys() == mmaction2_names(non_local="embedded_gaussian", num_classes=5).keys()
    again = load(save({"state_dict": exported}, tmp_path))
    torch.testing.assert_close(scores(again, clips), logits, rtol=1e-4, atol=1e-4)
    assert not torch.equal(scores(again, clips, non_local="dot_product"), logits)


def test_mobilenet_logits(tmp_path: Path) -> None:
    states = []
    for style in ("mit", "mmaction2"):
        weights = random_weights(mobilenet_names(style))
        states.append(load(save({"state_dict": weights}, tmp_path)))
    clips = torch.randn(1, 2, 3, 64, 64)
    assert torch.equal(scores(states[0], clips), scores(states[1], clips))


# --- there and back ---------------------------------------------------------------------------------------------------

MIT = {
    "resnet18": (mit_names(R18), (18, True, None, False)),
    "resnet50": (mit_names(), (50, True, None, False)),
    "resnet101": (mit_names(R101), (101, True, None, False)),
    "tsn": (mit_names(shift=False), (50, False, None, False)),
    "non_local": (mit_names(non_local=True), (50, True, "embedded_gaussian", False)),
    "temporal_pool": (mit_names(temporal_pool=True), (50, True, None, True)),
    "mobilenet": (mobilenet_names("mit", num_classes=174), ("mobilenet_v2", True, None, False)),
    "mobilenet_tsn": (mobilenet_names("mit", num_classes=174, shift=False), ("mobilenet_v2", False, None, False)),
}
MMACTION2 = {
    "resnet18": (mmaction2_names(R18), (18, True, None, False)),
    "resnet50": (mmaction2_names(), (50, True, None, False)),
    "resnet101": (mmaction2_names(R101), (101, True, None, False)),
    "tsn": (mmaction2_names(shift=False), (50, False, None, False)),
    "non_local": (mmaction2_names(non_local="dot_product"), (50, True, "embedded_gaussian", False)),
    "gaussian": (mmaction2_names(non_local="gaussian"), (50, True, "gaussian", False)),
    "temporal_pool": (mmaction2_names(temporal_pool=True), (50, True, None, True)),
    "mobilenet": (mobilenet_names("mmaction2", num_classes=174), ("mobilenet_v2", True, None, False)),
}


@pytest.mark.parametrize(
    ("checkpoint_format", "names", "options"),
    [("mit", *MIT[key]) for key in MIT] + [("mmaction2", *MMACTION2[key]) for key in MMACTION2],
    ids=[f"mit-{key}" for key in MIT] + [f"mmaction2-{key}" for key in MMACTION2],
)
def test_there_and_back_is_the_identity(
    checkpoint_format: str, names: Shapes, options: tuple[Any, ...], tmp_path: Path
) -> None:
    published = numbered(names)
    found_format, state = read(save({"state_dict": published}, tmp_path))
    assert found_format == checkpoint_format
    num_classes, *others = tsm_options(state).values()
    assert num_classes == 174
    assert tuple(others) == options
    with torch.device("meta"):
        TSM(num_segments=2, **tsm_options(state)).load_state_dict(state, strict=True, assign=True)
    content = (to_mit if checkpoint_format == "mit" else to_mmaction2)(state)
    again = torch.load(save(content, tmp_path, "again.pth"), weights_only=True)["state_dict"]
    assert again.keys() == published.keys()
    for name, tensor in published.items():
        assert torch.equal(again[name], tensor), name


def test_mit_to_mmaction2_renames_every_weight(tmp_path: Path) -> None:
    for key in MIT.keys() & MMACTION2.keys() - {"non_local"}:
        state = load(save({"state_dict": numbered(MIT[key][0])}, tmp_path))
        converted = to_mmaction2(state)["state_dict"]
        expected = numbered(MMACTION2[key][0])
        assert converted.keys() == expected.keys()
        assert all(torch.equal(converted[name], expected[name]) for name in expected), key


def test_own_checkpoints_and_bare_state_dicts(tmp_path: Path) -> None:
    state = TSM(7, 8, depth=10).state_dict()
    for content in ({"model": state, "recipe": {"depth": 10}, "best": None}, state):
        found_format, again = read(save(content, tmp_path))
        assert found_format == "mgs_dali"
        assert again.keys() == state.keys()
        assert all(torch.equal(again[name], state[name]) for name in state)


def test_old_files_without_counters(tmp_path: Path) -> None:
    names = {name: shape for name, shape in mit_names(R18).items() if not name.endswith("num_batches_tracked")}
    state = load(save({"state_dict": numbered(names)}, tmp_path))
    TSM(174, 8, depth=18).load_state_dict(state, strict=True)
    assert state["backbone.bn1.num_batches_tracked"].dtype == torch.int64
    assert state["backbone.bn1.num_batches_tracked"] == 0


@pytest.mark.parametrize("key", MIT)
def test_there_and_back_without_dropout(key: str, tmp_path: Path) -> None:
    """mit's model of ``--dropout 0`` has its classifier in the backbone, and ``--resume`` takes no other."""
    names, (depth, *_) = MIT[key]
    classifier = "base_model.classifier" if depth == "mobilenet_v2" else "base_model.fc"
    published = {name.replace("new_fc", classifier): x for name, x in numbered(names).items()}
    assert f"module.{classifier}.weight" in published
    file = save({"state_dict": published}, tmp_path)
    found_format, state = read(file)
    assert (found_format, tsm_options(state)["num_classes"]) == ("mit", 174)
    again = to_mit(state, with_dropout=False)["state_dict"]
    assert again.keys() == published.keys()
    assert all(torch.equal(again[name], published[name]) for name in published)
    assert to_mit(state)["state_dict"].keys() == names.keys()  # as test_models.py has it

    assert main([str(file), "--to", "mit", "--without-dropout", "--out", str(tmp_path / "again.pth")]) == 0
    assert torch.load(tmp_path / "again.pth", weights_only=True)["state_dict"].keys() == published.keys()


def test_mmaction2_normalization(tmp_path: Path) -> None:
    known = {
        "data_preprocessor.mean": torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1),
        "data_preprocessor.std": torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1),
    }
    weights = numbered(mmaction2_names(R18))
    load(save({"state_dict": {**known, **weights}}, tmp_path))
    other = {**known, "data_preprocessor.std": torch.ones(3, 1, 1)}
    with pytest.raises(ValueError, match=r"normalised by another std \(\[1.0, 1.0, 1.0\]\)"):
        load(save({"state_dict": {**other, **weights}}, tmp_path))


# --- what does not fit ------------------------------------------------------------------------------------------------

FORMATS = {
    "mit": (mit_names(R18), "module.base_model.layer3.1.bn2.weight", "module.base_model.conv1.weight"),
    "mmaction2": (mmaction2_names(R18), "backbone.layer3.1.conv2.bn.weight", "backbone.conv1.conv.weight"),
}


@pytest.mark.parametrize("checkpoint_format", FORMATS)
def test_weights_that_do_not_fit_are_named(checkpoint_format: str, tmp_path: Path) -> None:
    names, norm_weight, stem = FORMATS[checkpoint_format]
    extra = norm_weight.replace("layer3.1", "layer3.9")

    def message(weights: State) -> str:
        with pytest.raises(ValueError) as caught:
            load(save({"state_dict": weights}, tmp_path, "wrong.pth"))
        text = str(caught.value)
        assert (
            f"wrong.pth: looks like ResNet-18 with temporal shift, 174 classes in the format {checkpoint_format}"
            in text
        )
        return text

    weights = numbered(names)
    load(save({"state_dict": weights}, tmp_path))
    found = message({name: x for name, x in weights.items() if name != norm_weight})
    assert f"1 missing: {norm_weight}." in found
    found = message({**weights, extra: torch.zeros(256)})
    assert f"1 unexpected: {extra}." in found
    found = message({**weights, stem: torch.zeros(64, 10, 7, 7)})
    assert f"1 of another shape: {stem} is (64, 10, 7, 7) instead of (64, 3, 7, 7)." in found
    found = message(
        {**{n: x for n, x in weights.items() if n != norm_weight}, extra: torch.zeros(1), stem: torch.zeros(2)}
    )
    assert f"1 missing: {norm_weight}; 1 unexpected: {extra}; 1 of another shape: {stem} is (2,)" in found
    stage = re.compile(r"\blayer4\.")
    found = message({name: x for name, x in weights.items() if not stage.search(name)})
    num_missing = sum(bool(stage.search(name)) and not name.endswith("tracked") for name in names)
    assert f"{num_missing} missing: " in found
    assert f" and {num_missing - 8} more. Nothing is loaded in part" in found


@pytest.mark.parametrize(
    ("names", "model"),
    [
        (mit_names(R18, shift=False), "ResNet-18 with temporal shift, 174 classes"),
        (mit_names(shift=False), "ResNet-50 with temporal shift, 174 classes"),
        (mit_names(R101, shift=False), "ResNet-101 with temporal shift, 174 classes"),
        (mit_names(shift=False, temporal_pool=True), "ResNet-50 with temporal shift and temporal pooling, 174 classes"),
        (mit_names(shift=False, non_local=True), "ResNet-50 with temporal shift and non-local blocks"),
        (mmaction2_names(shift=False), "ResNet-50 with temporal shift, 174 classes"),
        (mmaction2_names(shift=False, non_local="gaussian"), "ResNet-50 with temporal shift and gaussian non-local"),
    ],
)
def test_a_shift_around_whole_blocks_is_told(names: Shapes, model: str, tmp_path: Path) -> None:
    """Which wraps each block as ``layer1.0.net``, in non-local blocks ``layer2.0.block.net``."""
    block = re.compile(r"(\blayer\d\.(?:net\.)?\d+\.(?:block\.)?)(?!block\.|nl\.|non_local_block\.)")
    wrapped = {block.sub(r"\1net.", name): shape for name, shape in names.items()}
    assert sum(".net." in name for name in wrapped) > 80
    with pytest.raises(ValueError) as caught:
        load(save({"state_dict": numbered(wrapped)}, tmp_path, "block.pth"))
    message = str(caught.value)
    assert f"block.pth: {model}" in message
    assert 'the shift around whole blocks (shift_place="block"), found ' in message
    assert "layer1.0.net.conv1." in message
    assert 'Allowed: "blockres"' in message


def test_the_depth_is_told_whatever_is_around_the_layers(tmp_path: Path) -> None:
    names = {re.sub(r"(layer\d\.\d+)", r"\1.block", name): shape for name, shape in mit_names().items()}
    with pytest.raises(ValueError, match=r"looks like ResNet-50 with temporal shift, 174 classes in the format mit"):
        load(save({"state_dict": numbered(names)}, tmp_path))


def test_classifier_that_does_not_fit_is_named(tmp_path: Path) -> None:
    weights = numbered(mit_names(R18))
    weights["module.new_fc.bias"] = torch.zeros(175)
    with pytest.raises(ValueError, match=r"module.new_fc.bias is \(175,\) instead of \(174,\)"):
        load(save({"state_dict": weights}, tmp_path))
    del weights["module.new_fc.bias"], weights["module.new_fc.weight"]
    with pytest.raises(ValueError, match=r"2 missing: module.new_fc.weight, module.new_fc.bias"):
        load(save({"state_dict": weights}, tmp_path))


class Malicious:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.file),)


def test_files_that_need_more_than_weights_are_refused(tmp_path: Path) -> None:
    trace = tmp_path / "code was run"
    content = {"state_dict": numbered(mit_names(R18)), "meta": Malicious(trace)}
    with pytest.raises(ValueError, match=r"holds more than weights \(posix.mkdir\).*weights_only=False.*state_dict"):
        load(save(content, tmp_path))
    assert not trace.exists()


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.pth: no such checkpoint"):
        load(tmp_path / "none.pth")
    for content in (b"", b"this is a text", b"\x80\x02"):
        (tmp_path / "text.pth").write_bytes(content)
        with pytest.raises(ValueError, match=r"text\.pth: not a checkpoint that PyTorch can read"):
            load(tmp_path / "text.pth")
    for other in ([1, 2], {}, {"state_dict": {"a": 1}}, torch.zeros(2)):
        with pytest.raises(ValueError, match="no weights found"):
            load(save(other, tmp_path))
    with pytest.raises(ValueError, match=r"no known format, found encoder.weight. Allowed: TSM of mit-han-lab"):
        load(save({"encoder.weight": torch.zeros(2)}, tmp_path))


def test_pan_is_told_where_it_belongs(tmp_path: Path) -> None:
    names = {**mit_names(), "module.PA.shallow_conv.weight": (8, 3, 7, 7), "module.base_model.fc.TES.0.weight": (28, 7)}
    with pytest.raises(ValueError, match=r"a checkpoint of PAN.*--measure pa --pa-weights"):
        load(save({"state_dict": numbered(names)}, tmp_path))


def test_states_of_no_tsm_are_not_exported() -> None:
    state = TSM(5, 8, depth=10).state_dict()
    del state["backbone.layer2.0.conv1.net.weight"]
    for write in (to_mit, to_mmaction2):
        with pytest.raises(ValueError, match=r"1 missing: backbone\.layer2\.0\.conv1\.net\.weight"):
            write(state)


def test_mit_has_no_gaussian_blocks(tmp_path: Path) -> None:
    state = load(save({"state_dict": numbered(MMACTION2["gaussian"][0])}, tmp_path))
    with pytest.raises(ValueError, match="found gaussian ones"):
        to_mit(state)


# --- ImageNet, and other classes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [18, 34, 50, 101, "mobilenet_v2"])
def test_imagenet_names(depth: Any, tmp_path: Path) -> None:
    with torch.device("meta"):
        network = mobilenetv2.mobilenet_v2() if depth == "mobilenet_v2" else getattr(resnet, f"resnet{depth}")()
        model = TSM(1000, 8, depth=depth)
    published = numbered({name: tuple(x.shape) for name, x in network.state_dict().items()})
    found_format, state = read(save(published, tmp_path))
    assert found_format == "torchvision"
    assert tsm_options(state) == {
        "num_classes": 1000, "depth": depth, "shift": True, "non_local": None, "temporal_pool": False
    }  # fmt: skip
    model.load_state_dict(state, strict=True, assign=True)
    assert len(state) == len(published)
    assert state["fc.bias"][0] == len(published)


@pytest.mark.parametrize("depth", [18, "mobilenet_v2"])
def test_imagenet_weights_start_a_model(depth: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = (mobilenetv2.mobilenet_v2() if depth == "mobilenet_v2" else resnet.resnet18()).eval()
    for name, x in network.state_dict().items():
        if name.endswith("running_mean"):
            torch.nn.init.normal_(x, std=0.1)
    state = load(save(network.state_dict(), tmp_path))
    # without the shift, and of one frame, it is the same network
    model = TSM(1000, 1, depth=depth, shift=False).eval()
    assert start_from(model, state) == ["fc.weight", "fc.bias"]
    model.fc.load_state_dict({"weight": state["fc.weight"], "bias": state["fc.bias"]})
    frames = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(model(frames[:, None]), network(frames))


def test_other_classes_keep_the_classifier_of_the_model(tmp_path: Path) -> None:
    state = load(save({"state_dict": random_weights(mit_names(R18, num_classes=400))}, tmp_path))
    model = TSM(5, 8, depth=18)
    with pytest.raises(RuntimeError, match=r"size mismatch for fc.weight"):
        model.load_state_dict(state)
    before = model.fc.weight.detach().clone()
    assert start_from(model, state) == ["fc.weight", "fc.bias"]
    assert torch.equal(model.fc.weight, before)
    after = model.state_dict()
    assert all(torch.equal(after[name], state[name]) for name in state if not name.startswith("fc."))


def test_start_tells_about_new_non_local_blocks(tmp_path: Path) -> None:
    state = load(save({"state_dict": numbered(mit_names())}, tmp_path))
    model = TSM(5, 8, non_local="embedded_gaussian")
    kept = start_from(model, state)
    assert len(kept) == 5 * 10 + 2  # four convolutions with a bias and a batch norm each, the classifier
    assert kept[0].startswith("backbone.layer2.0.nl.")
    assert kept[-2:] == ["fc.weight", "fc.bias"]
    assert torch.equal(
        model.backbone.layer2[0].block.conv1.net.weight, state["backbone.layer2.0.conv1.net.weight"].clone()
    )
    pooled = TSM(5, 8, temporal_pool=True, shift=False)
    assert start_from(pooled, state) == ["fc.weight", "fc.bias"]


def test_start_refuses_what_does_not_fit(tmp_path: Path) -> None:
    state = load(save({"state_dict": numbered(mit_names(non_local=True))}, tmp_path))
    with pytest.raises(ValueError, match=r"65 unexpected: backbone.layer2.0.nl.g.0.weight.* and 57 more"):
        start_from(TSM(5, 8), state)
    state = load(save({"state_dict": numbered(mit_names(R18))}, tmp_path))
    with pytest.raises(
        ValueError, match=r"missing: backbone.layer1.0.conv3.weight.*of another shape: .*layer1.0.conv1"
    ):
        start_from(TSM(5, 8), state)


def test_classes_in_another_order(tmp_path: Path) -> None:
    official = ["Holding something", "Turning left", "Approaching something", "Dropping"]
    alphabetical = sorted(official)
    state = load(save({"state_dict": random_weights(mit_names(R18, num_classes=4))}, tmp_path))
    moved = permute_classes(state, found=alphabetical, wanted=official)
    clips = torch.randn(1, 2, 3, 32, 32)
    by_name = dict(zip(alphabetical, scores(state, clips)[0].tolist(), strict=True))
    assert dict(zip(official, scores(moved, clips)[0].tolist(), strict=True)) == pytest.approx(by_name, rel=1e-5)
    back = permute_classes(moved, found=official, wanted=alphabetical)
    assert all(torch.equal(back[name], state[name]) for name in state)
    with pytest.raises(ValueError, match=r"has 4 classes; given are 3 names \(3 different\)"):
        permute_classes(state, found=alphabetical[:3], wanted=official)
    with pytest.raises(ValueError, match=r"4 names \(3 different\)"):
        permute_classes(state, found=[*alphabetical[:3], alphabetical[0]], wanted=official)
    with pytest.raises(ValueError, match=r"Dropping, Dropping \[something\] in one of them only"):
        permute_classes(state, found=alphabetical, wanted=[*official[:3], "Dropping [something]"])


# --- the command and the page -----------------------------------------------------------------------------------------


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs, out = save({"state_dict": numbered(mit_names(R18))}, tmp_path, "theirs.pth"), tmp_path / "mm.pth"
    assert main([str(theirs), "--to", "mmaction2", "--out", str(out)]) == 0
    said, written = capsys.readouterr().out.splitlines()
    assert said == f"{theirs}: mit, ResNet-18 with temporal shift, 174 classes"
    assert written == f"{out}: mmaction2"
    weights = torch.load(out, weights_only=True)["state_dict"]
    assert {name: tuple(x.shape) for name, x in weights.items()} == mmaction2_names(R18)
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith("mm")] == ["mm.pth"]


def test_command_teaches(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = save({"state_dict": numbered(mit_names(R18))}, tmp_path)
    assert main([str(file), "--to", "mit", "--out", str(file)]) == 2
    assert capsys.readouterr().err == f"error: {file} exists. Give another --out.\n"
    with pytest.raises(SystemExit, match="2"):
        main([str(file), "--to", "mit"])
    assert "--to and --out belong together" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main([str(file), "--to", "mmaction2", "--out", "x.pth", "--without-dropout"])
    assert "--without-dropout belongs to --to mit" in capsys.readouterr().err


PAGE = (REPOSITORY / "docs" / "checkpoints.md").read_text()


def blocks_of_page(language: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert found
    return found


def run(arguments: list[str], folder: Path) -> list[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def page_folder(tmp_path: Path) -> Path:
    save({"state_dict": random_weights(mit_names(R18))}, tmp_path, "tsm.pth")
    (tmp_path / "something-something-v1-labels.csv").write_text("".join(f"class {173 - i}\n" for i in range(174)))
    return tmp_path


def test_python_of_the_page_prints_what_its_comments_say(page_folder: Path) -> None:
    code = "".join(block for block in blocks_of_page("python") if "onnx" not in block)
    promised = re.findall(r"^print\(.*\)  # (.*)$", code, flags=re.MULTILINE)
    assert len(promised) == code.count("print(") == 3
    assert run(["-c", code], page_folder) == promised


@pytest.mark.slow
def test_commands_of_the_page_run(page_folder: Path) -> None:
    (block,) = blocks_of_page("sh")
    printed = []
    for line in block.splitlines():
        program, *arguments = shlex.split(line, comments=True)
        assert program == "python"
        printed += run(arguments, page_folder)
    words = "tsm.pth: mit, ResNet-18 with temporal shift, 174 classes"
    assert printed == [words, words, "converted.pth: mmaction2"]
    assert read(page_folder / "converted.pth")[0] == "mmaction2"


@pytest.mark.slow
def test_onnx_of_the_page_runs(page_folder: Path) -> None:
    pytest.importorskip("onnx", reason="needs onnx and onnxscript")
    pytest.importorskip("onnxscript", reason="needs onnx and onnxscript")
    (code,) = [block for block in blocks_of_page("python") if "onnx" in block]
    run(["-c", code], page_folder)
    assert (page_folder / "tsm.onnx").stat().st_size > 0
