"""Mixup and cutmix: what is mixed, with what share, and that it does not depend on how a step is shared."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from train.mixing import Mix, draw_mixes, mix
from train.recipe import Recipe

NUM_CLASSES = 5


def numbered_clips(num_clips: int, *, side: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Clips (B, 2, 3, side, side) whose pixels all are the clip's number, and their labels one-hot."""
    clips = torch.arange(num_clips).float().view(-1, 1, 1, 1, 1).expand(-1, 2, 3, side, side).contiguous()
    return clips, torch.eye(NUM_CLASSES)[torch.arange(num_clips) % NUM_CLASSES]


def all_valid(num_clips: int) -> torch.Tensor:
    return torch.ones(num_clips, dtype=torch.bool)


def test_mixup_adds_neighbours_up_in_their_share() -> None:
    clips, targets = numbered_clips(4)
    mixed, mixed_targets = mix(clips, targets, all_valid(4), kind="mixup", mixes=[Mix(0.75, (0, 0)), Mix(0.1, (0, 0))])
    for row, value in enumerate([0.25, 0.75, 2.9, 2.1]):
        torch.testing.assert_close(mixed[row], torch.full((2, 3, 8, 8), value))
    expected = [[0.75, 0.25, 0, 0, 0], [0.25, 0.75, 0, 0, 0], [0, 0, 0.1, 0.9, 0], [0, 0, 0.9, 0.1, 0]]
    torch.testing.assert_close(mixed_targets, torch.tensor(expected))


def test_cutmix_takes_a_rectangle_from_the_neighbour() -> None:
    clips, targets = numbered_clips(2)
    # A quarter of the area: 4 of 8 pixels each way, around x = 4, y = 2.
    mixed, mixed_targets = mix(clips, targets, all_valid(2), kind="cutmix", mixes=[Mix(0.75, (0.5, 0.25))])
    expected = torch.zeros(8, 8)
    expected[0:4, 2:6] = 1
    torch.testing.assert_close(mixed[0], expected.expand(2, 3, 8, 8))
    torch.testing.assert_close(mixed[1], (1 - expected).expand(2, 3, 8, 8))
    torch.testing.assert_close(mixed_targets[:, :2], torch.tensor([[0.75, 0.25], [0.25, 0.75]]))


@given(share=st.floats(0, 1), x=st.floats(0, 1), y=st.floats(0, 1), kind=st.sampled_from(["mixup", "cutmix"]))
def test_targets_have_the_share_of_the_pixels(share: float, x: float, y: float, kind: str) -> None:
    clips, targets = numbered_clips(2)  # all pixels 0 and all 1: the mean is the neighbour's share
    mixed, mixed_targets = mix(clips, targets, all_valid(2), kind=kind, mixes=[Mix(share, (x, y))])  # type: ignore[arg-type]
    torch.testing.assert_close(mixed.mean(dim=(1, 2, 3, 4)), mixed_targets[:, 1])
    torch.testing.assert_close(mixed_targets.sum(1), torch.ones(2))
    if kind == "cutmix":
        assert set(mixed.unique().tolist()) <= {0.0, 1.0}
        assert mixed_targets[0, 0] >= share - 0.2  # at most the rectangle, to the pixel; less at the border
    else:
        assert mixed_targets[0, 0] == pytest.approx(share, abs=1e-6)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_a_clip_beside_a_padded_one_stays_as_it_is(kind: str) -> None:
    clips, targets = numbered_clips(4)
    valid = torch.tensor([True, True, True, False])
    mixes = [Mix(0.5, (0.5, 0.5))] * 2
    mixed, mixed_targets = mix(clips, targets, valid, kind=kind, mixes=mixes)  # type: ignore[arg-type]
    torch.testing.assert_close(mixed[2:], clips[2:], rtol=0, atol=0)
    torch.testing.assert_close(mixed_targets[2:], targets[2:], rtol=0, atol=0)
    assert not torch.equal(mixed[:2], clips[:2])


def test_mixes_several_labels_and_half_precision() -> None:
    clips, _ = numbered_clips(2)
    targets = torch.tensor([[1.0, 1, 0], [0, 1, 1]])
    mixed, mixed_targets = mix(clips.half(), targets, all_valid(2), kind="mixup", mixes=[Mix(0.25, (0, 0))])
    assert mixed.dtype == torch.float16
    torch.testing.assert_close(mixed_targets, torch.tensor([[0.25, 1, 0.75], [0.75, 1, 0.25]]))


@given(cuts=st.lists(st.integers(1, 4), min_size=1, max_size=4), seed=st.integers(0, 9), epoch=st.integers(0, 9))
def test_draws_do_not_depend_on_how_an_epoch_is_cut_up(cuts: list[int], seed: int, epoch: int) -> None:
    recipe = Recipe(mixing="mixup", seed=seed)
    whole = draw_mixes(sum(cuts), recipe, epoch=epoch, first_pair=0)
    starts = np.cumsum([0, *cuts[:-1]])
    parts = [
        draw_mixes(cut, recipe, epoch=epoch, first_pair=int(start)) for cut, start in zip(cuts, starts, strict=True)
    ]
    assert [drawn for part in parts for drawn in part] == whole


def test_draws_differ_and_follow_the_beta_distribution() -> None:
    recipe = Recipe(mixing="cutmix", mixing_alpha=0.2)
    shares = np.array([drawn.share for drawn in draw_mixes(4000, recipe, epoch=1, first_pair=0)])
    assert shares.mean() == pytest.approx(0.5, abs=0.03)
    assert shares.var() == pytest.approx(1 / (4 * (2 * 0.2 + 1)), abs=0.01)  # of Beta(a, a)
    first = draw_mixes(1, recipe, epoch=1, first_pair=0)
    assert first != draw_mixes(1, recipe, epoch=2, first_pair=0)
    assert first != draw_mixes(1, Recipe(mixing="cutmix", seed=1), epoch=1, first_pair=0)


def test_pairs_need_an_even_batch() -> None:
    with pytest.raises(ValueError, match=r"mixing: mixup mixes pairs of clips; batch_size \(3\) must be even"):
        Recipe(mixing="mixup", batch_size=3)
