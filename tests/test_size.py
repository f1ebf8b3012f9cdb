"""Parameters and operations against published numbers (mmaction2's README of TSM, its tests, torchvision's tables)."""

from typing import Any

import pytest
import torch

from models.size import count_flops, count_parameters
from models.tsm import TSM


@pytest.mark.parametrize(
    ("num_classes", "options", "giga"),
    [
        (400, {}, 32.88),
        (174, {}, 32.88),
        (174, {"depth": 101}, 62.66),
        (400, {"non_local": "embedded_gaussian"}, 61.30),
        (400, {"non_local": "gaussian"}, 59.06),
    ],
)
def test_flops_are_those_of_mmaction2s_table(num_classes: int, options: dict[str, Any], giga: float) -> None:
    with torch.device("meta"):
        model = TSM(num_classes, 8, **options)
    assert round(count_flops(model) / 1e9, 2) == giga


def test_flops_grow_with_frames_and_pixels() -> None:
    model = TSM(5, 4, depth=10)
    flops = count_flops(model, 64)
    assert count_flops(TSM(5, 8, depth=10), 64) == 2 * flops
    fc = 4 * 512 * 5
    assert count_flops(model, 128) - fc == 4 * (flops - fc)
    assert model.training
    assert next(model.parameters()).device.type == "cpu"


@pytest.mark.parametrize(
    ("depth", "backbone"),
    # torchvision's number for 1000 classes less its classifier
    [(18, 11_689_512 - 513_000), (101, 44_549_160 - 2_049_000), ("mobilenet_v2", 3_504_872 - 1_281_000)],
)
def test_parameters(depth: Any, backbone: int) -> None:
    with torch.device("meta"):
        model = TSM(174, 8, depth=depth)
    assert count_parameters(model) == backbone + 174 * (model.fc.in_features + 1)


def test_parameters_of_the_published_model() -> None:
    with torch.device("meta"):
        assert count_parameters(TSM(174, 8)) == 23_864_558
