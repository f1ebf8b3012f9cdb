"""Non-local blocks against their sums written out position by position, and where they are in the model."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from models.non_local import NonLocal, NonLocalBlock, PairwiseFunction
from models.size import count_parameters
from models.tsm import TSM, parameter_groups

KINDS: tuple[PairwiseFunction, ...] = ("embedded_gaussian", "gaussian", "dot_product")


def _restated(block: NonLocal, x: NDArray[np.float64], num_segments: int) -> NDArray[np.float64]:
    """``x + bn(W y)``, where ``y_i = sum_j f(x_i, x_j) g(x_j)`` and j runs over the 2 x 2 maxima of all frames."""

    def linear(conv: nn.Module, x: NDArray[np.float64]) -> NDArray[np.float64]:
        weight, bias = (parameter.detach().numpy() for parameter in conv.parameters())
        return np.einsum("oc,nchw->nohw", weight[:, :, 0, 0], x) + bias[:, None, None]

    def maxima(x: NDArray[np.float64]) -> NDArray[np.float64]:
        n, c, h, w = x.shape
        return x[:, :, : h // 2 * 2, : w // 2 * 2].reshape(n, c, h // 2, 2, w // 2, 2).max((3, 5))

    embeds = block.pairwise != "gaussian"
    theta = linear(block.theta, x) if embeds else x
    phi = maxima(linear(block.phi[0], x) if embeds else x)
    g = maxima(linear(block.g[0], x))
    y = np.zeros((len(x), g.shape[1], *x.shape[2:]))
    for clip in range(0, len(x), num_segments):
        frames = range(clip, clip + num_segments)
        seen = [(frame, h, w) for frame in frames for h in range(g.shape[2]) for w in range(g.shape[3])]
        for i in frames:
            for row in range(x.shape[2]):
                for column in range(x.shape[3]):
                    product = np.array([theta[i, :, row, column] @ phi[f, :, h, w] for f, h, w in seen])
                    if block.pairwise == "dot_product":
                        weights = product / len(seen)
                    else:
                        weights = np.exp(product - product.max()) / np.exp(product - product.max()).sum()
                    y[i, :, row, column] = sum(a * g[f, :, h, w] for a, (f, h, w) in zip(weights, seen, strict=True))
    norm = block.W[1].state_dict()
    mean, var, scale, shift = (
        norm[name].numpy()[:, None, None] for name in ("running_mean", "running_var", "weight", "bias")
    )
    return np.asarray(x + (linear(block.W[0], y) - mean) / np.sqrt(var + 1e-5) * scale + shift)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_block_is_its_formula(kind: PairwiseFunction, channels_last: bool) -> None:
    torch.manual_seed(0)
    block = NonLocal(6, 2, kind).double().eval()
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(4, 6, 5, 4, dtype=torch.float64)  # two clips; an odd side, of which a line is not looked at
    expected = _restated(block, x.numpy(), 2)
    if channels_last:
        block, x = block.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    out = block(x)
    np.testing.assert_allclose(out.detach().numpy(), expected, rtol=1e-9, atol=1e-9)
    assert not channels_last or out.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("kind", KINDS)
def test_new_block_changes_nothing(kind: PairwiseFunction) -> None:
    x = torch.randn(4, 8, 4, 4)
    assert torch.equal(NonLocal(8, 2, kind)(x), x)


def test_places_and_groups() -> None:
    with torch.device("meta"):
        model = TSM(400, 8, non_local="embedded_gaussian")
    found = [name for name, module in model.named_modules() if isinstance(module, NonLocalBlock)]
    assert found == [f"backbone.layer{place}" for place in ("2.0", "2.2", "3.0", "3.2", "3.4")]
    groups = parameter_groups(model, lr=0.01, weight_decay=1e-4)
    # five blocks of four convolutions with a bias and one batch norm, besides ResNet-50's
    assert [len(group["params"]) for group in groups] == [1, 0, 52 + 5 * 4, 5 * 4, 106 + 5 * 2, 1, 1]
    assert (groups[3]["lr"], groups[3]["weight_decay"]) == (0.02, 0)


@pytest.mark.parametrize(
    ("kind", "millions"), [("embedded_gaussian", 31.68), ("gaussian", 28.00), ("dot_product", 31.68)]
)
def test_parameters_are_those_of_mmaction2s_table(kind: PairwiseFunction, millions: float) -> None:
    with torch.device("meta"):
        model = TSM(400, 8, non_local=kind)
    biases_that_mmaction2_has_not = 2 * 512 + 3 * 1024
    assert (count_parameters(model) - biases_that_mmaction2_has_not) / 1e6 == pytest.approx(millions, abs=0.01)


def test_impossible_places_are_refused() -> None:
    with pytest.raises(ValueError, match="has its places in ResNet-50, found depth=18"):
        TSM(5, 8, depth=18, non_local="gaussian")
    with pytest.raises(ValueError, match=r"'concatenation' is not known. Allowed: None, embedded_gaussian, gaussian"):
        TSM(5, 8, non_local="concatenation")  # type: ignore[arg-type]
