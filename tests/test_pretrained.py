"""ImageNet weights: where they lie, and what is said where they are not to be had."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch

from models import pretrained
from models.pretrained import load_imagenet, weights_file
from models.tsm import TSM


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    return tmp_path / "checkpoints"


@pytest.fixture
def no_internet(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        assert socket.getdefaulttimeout() == pretrained._SECONDS_TO_ANSWER
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize(
    ("depth", "name"),
    [
        (18, "resnet18-f37072fd.pth"),
        (50, "resnet50-0676ba61.pth"),
        ("mobilenet_v2", "mobilenet_v2-b0353104.pth"),
    ],
)
@pytest.mark.usefixtures("no_internet")
def test_without_internet_it_is_said_which_file_goes_where(cache: Path, depth: int | str, name: str) -> None:
    assert weights_file(depth) == cache / name
    for load in (load_imagenet, lambda depth: TSM(3, 8, depth=depth, weights="imagenet")):
        with pytest.raises(ValueError, match="not known") as caught:
            load(depth)
        said = str(caught.value)
        assert said.startswith(f"the ImageNet weights {name} are not in {cache} and cannot be downloaded (")
        assert f"https://download.pytorch.org/models/{name}" in said
        assert "--init FILE" in said
        assert "--weights null" in said
        assert "\n" not in said
    assert socket.getdefaulttimeout() is None


@pytest.mark.usefixtures("no_internet")
def test_a_file_that_is_damaged(cache: Path) -> None:
    cache.mkdir()
    weights_file(18).write_bytes(b"half a download")
    with pytest.raises(ValueError, match=r"resnet18-f37072fd\.pth: the ImageNet weights cannot be read .*Delete"):
        load_imagenet(18)


@pytest.mark.usefixtures("no_internet")
def test_a_file_that_is_there_is_read(cache: Path) -> None:
    cache.mkdir()
    torch.save({"conv1.weight": torch.ones(2)}, weights_file(34))
    assert torch.equal(load_imagenet(34)["conv1.weight"], torch.ones(2))


def test_the_demos_backbone_has_none() -> None:
    with pytest.raises(ValueError, match=r"no ImageNet weights for depth=10\. Allowed: weights=None, or depth 18"):
        load_imagenet(10)
