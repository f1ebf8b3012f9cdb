"""What a model says of clips: scores averaged over views, gathered by sample, judged, and kept in files.

A score belongs to a clip of the list, not to a place in a batch: however many processes share the list, each clip
counts once, and the metrics are computed in the order of the list from the same float64 numbers.
"""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torchmetrics.functional.classification import multilabel_average_precision

from mgs_dali.files import write_whole
from mgs_dali.lists.table import Clips
from mgs_dali.load.loader import ClipBatch

__all__ = [
    "ClipScores",
    "average_views",
    "fuse",
    "gather_scores",
    "judge",
    "metric_names",
    "read_scores",
    "score_clips",
    "write_scores",
]


# --- scores ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def score_clips(
    fabric: Fabric,
    model: nn.Module,
    batches: Iterable[ClipBatch],
    *,
    num_clips: int,
    num_views: int,
    average: str,
) -> np.ndarray:
    """What a model says of every clip of a list, on every process.

    Args:
        fabric: the processes that share the list.
        model: (B, T, 3, H, W) -> logits (B, num_classes). Set to evaluation mode.
        batches: this process's share of the list, once through: as many batches in every process.
        num_clips: clips in the list.
        num_views: rows of a batch that are views of one clip, one after the other.
        average: see :func:`average_views`.

    Returns:
        (num_clips, num_classes) float64, in the order of the list.
    """
    model.eval()
    samples, valid, scores = [], [], []
    for batch in batches:
        rows = batch.clips.to(fabric.device, non_blocking=True)
        # One view of every clip at a time, so that many views take no more memory than training does.
        logits = torch.cat([model(part) for part in rows.split(len(rows) // num_views)])
        multi_label = batch.labels.ndim == 2
        scores.append(average_views(logits, num_views=num_views, average=average, multi_label=multi_label))
        samples.append(batch.samples[::num_views].to(fabric.device))
        valid.append(batch.valid[::num_views].to(fabric.device))
    return gather_scores(fabric, torch.cat(samples), torch.cat(valid), torch.cat(scores), num_clips=num_clips)


def average_views(logits: Tensor, *, num_views: int, average: str, multi_label: bool = False) -> Tensor:
    """The scores of clips from those of their views.

    Args:
        logits: (B * num_views, num_classes), the views of a clip one after the other.
        num_views: of each clip.
        average: "probabilities" takes the mean of the softmax of each view (mmaction2: ``average_clips='prob'``), or of
            the sigmoid for clips of several labels; "logits" the mean of the logits (the original TSM code).
        multi_label: a clip may have several labels.

    Returns:
        (B, num_classes) float64.
    """
    assert average in ("probabilities", "logits")
    scores = logits.double()
    if average == "probabilities":
        scores = scores.sigmoid() if multi_label else scores.softmax(dim=1)
    return scores.unflatten(0, (-1, num_views)).mean(dim=1)


def gather_scores(fabric: Fabric, samples: Tensor, valid: Tensor, scores: Tensor, *, num_clips: int) -> np.ndarray:
    """Put the scores of all processes in the order of the list.

    Args:
        fabric: the processes.
        samples: (R,) int64: which clips these are; as many in every process.
        valid: (R,) bool; rows that only fill up a batch are False and left out.
        scores: (R, num_classes) float64.
        num_clips: clips in the list.

    Returns:
        (num_clips, num_classes) float64, on every process.
    """
    parts = [cast(Tensor, fabric.all_gather(part)) for part in (samples, valid, scores)]
    all_samples, all_valid = (part.reshape(-1).cpu().numpy() for part in parts[:2])
    all_scores = parts[2].reshape(-1, scores.shape[1]).cpu().numpy()
    counts = np.bincount(all_samples[all_valid], minlength=num_clips)
    assert np.array_equal(counts, np.ones(num_clips)), "every clip must come once"
    ordered = np.empty((num_clips, scores.shape[1]))
    ordered[all_samples[all_valid]] = all_scores[all_valid]
    return ordered


# --- metrics --------------------------------------------------------------------------------------------------------


def metric_names(clips: Clips) -> list[str]:
    """What :func:`judge` tells of the clips of a list. The first is what checkpoints are chosen by.

    Raises:
        ValueError: there are no two classes to tell apart.
    """
    if clips.num_classes < 2:
        raise ValueError(f"{clips.list_file}: {clips.num_classes} class. There must be at least 2 to tell apart.")
    return ["map"] if clips.labels.ndim == 2 else ["top1", "top5", "mean_class", "mean_recall"]


def judge(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """How good scores are.

    Args:
        scores: (N, num_classes) float64.
        labels: (N,) int64, or (N, num_classes) float32 for clips of several labels.

    Returns:
        For one label a clip:

        * ``top1``, ``top5``: share of the clips whose class is the first, or among the first five. Of equal scores the
          lower class comes first.
        * ``mean_class``: mean class accuracy as mmaction2 computes it, over the classes that occur in the labels or are
          predicted (as the first); a class that is only predicted counts 0.
        * ``mean_recall``: the usual one, over the classes that occur in the labels.

        For several labels ``map``: the mean over the classes that occur of their average precision.
    """
    num_classes = scores.shape[1]
    if labels.ndim == 2:
        truth = torch.from_numpy(labels).long()
        occurring = truth.any(dim=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the classes that do not occur
            precisions = multilabel_average_precision(torch.from_numpy(scores), truth, num_classes, average="none")
        return {"map": float(precisions[occurring].double().mean())}
    ranking = np.argsort(-scores, axis=1, kind="stable")
    hits = ranking == labels[:, None]
    occurrences = np.bincount(labels, minlength=num_classes)
    correct = np.bincount(labels[hits[:, 0]], minlength=num_classes)
    occurs = occurrences > 0
    recalls = correct[occurs] / occurrences[occurs]
    num_only_predicted = len(np.setdiff1d(ranking[:, 0], labels))
    return {
        "top1": float(hits[:, 0].mean()),
        "top5": float(hits[:, :5].any(axis=1).mean()),
        "mean_class": float(recalls.sum() / (len(recalls) + num_only_predicted)),
        "mean_recall": float(recalls.mean()),
    }


# --- files ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class ClipScores:
    """What a model says of the clips of a list. In files, the fields are the arrays of a NumPy ``.npz``."""

    paths: np.ndarray
    """(N,) str: of the videos, as in the list."""
    first_frames: np.ndarray
    """(N,) int64: where in its video each clip starts."""
    labels: np.ndarray
    """(N,) int64, or (N, num_classes) float32 for clips of several labels."""
    scores: np.ndarray
    """(N, num_classes) float64: the mean over the views of a clip."""
    protocol: np.ndarray
    """() str: the views, one of :data:`mgs_dali.views.protocols.PROTOCOLS`."""
    average: np.ndarray
    """() str: what was averaged, "probabilities" or "logits"."""

    @classmethod
    def of(cls, clips: Clips, scores: np.ndarray, *, protocol: str, average: str) -> ClipScores:
        """The scores of the clips of a list, (N, num_classes) float64 in its order.

        Raises:
            ValueError: a score is no number.
        """
        assert scores.shape == (len(clips), clips.num_classes)
        bad = ~np.isfinite(scores).all(axis=1)
        if bad.any():
            first = int(bad.argmax())
            raise ValueError(
                f"the model gives {scores[first][~np.isfinite(scores[first])][0]} for {clips.file(first)} "
                f"({clips.where(first)}), and no numbers for {bad.sum() - 1} other clips. Its training diverged; "
                "take an earlier checkpoint."
            )
        paths = np.array(clips.paths)
        return cls(paths, clips.first_frames, clips.labels, scores, np.array(protocol), np.array(average))

    @property
    def metrics(self) -> dict[str, float]:
        """How good they are, see :func:`judge`."""
        return judge(self.scores, self.labels)


def write_scores(found: ClipScores, file: Path) -> None:
    """Write scores, whole or not at all.

    Raises:
        ValueError: the file cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with write_whole(file) as unfinished, unfinished.open("wb") as stream:
            np.savez(stream, **vars(found))
    except OSError as error:
        raise ValueError(f"{file}: the scores cannot be written ({error.strerror}).") from error


def read_scores(file: Path) -> ClipScores:
    """Read scores.

    Raises:
        ValueError: the file is missing or damaged, or holds something else.
    """
    names = ClipScores.__dataclass_fields__
    try:
        with np.load(file, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in names if name in arrays}
    except FileNotFoundError:
        raise ValueError(f"{file}: no such file (working folder: {Path.cwd()}).") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError, TypeError) as error:
        raise ValueError(f"{file}: not a file of scores that NumPy can read ({error}).") from None
    if missing := names.keys() - found.keys():
        raise ValueError(
            f"{file}: not a file of scores ({', '.join(sorted(missing))} missing). Write one with "
            "python -m train.tsm --eval CHECKPOINT --scores FILE."
        )
    return ClipScores(**found)


def fuse(several: Sequence[ClipScores], weights: Sequence[float], *, names: Sequence[str]) -> ClipScores:
    """The weighted mean of several models' scores of the same clips, in the order of the first.

    Args:
        several: scores, each in the order of its own list.
        weights: one each, above 0.
        names: what to call them in errors.

    Raises:
        ValueError: they are of other clips, labels, classes or averages, or the weights are not allowed.
    """
    if len(weights) != len(several) or not all(0 < weight < np.inf for weight in weights):
        raise ValueError(
            f"weights ({', '.join(f'{weight:g}' for weight in weights)}) must be {len(several)} numbers above 0, "
            "one for each file."
        )
    first, total = several[0], np.zeros_like(several[0].scores)
    order = _order(first)
    for other, weight, name in zip(several, weights, names, strict=True):
        if other.average != first.average:
            raise ValueError(
                f"{name} holds {other.average}, {names[0]} {first.average}: their sum means nothing. Write both with "
                "the same --average."
            )
        if other.scores.shape[1] != first.scores.shape[1]:
            raise ValueError(
                f"{name} has {other.scores.shape[1]} classes, {names[0]} {first.scores.shape[1]}. Fuse models of the "
                "same classes."
            )
        theirs = _order(other)
        mine, found = _keys(first, order), _keys(other, theirs)
        if mine != found:
            differing = sorted({path for path, _ in set(mine) ^ set(found)}) or ["a clip that comes more often"]
            raise ValueError(
                f"{name} is of other clips than {names[0]}: {len(found)} and {len(mine)}, in one only are "
                f"{', '.join(differing[:3])}{' ...' if len(differing) > 3 else ''}. Write both on the same list."
            )
        if not np.array_equal(other.labels[theirs], first.labels[order]):
            raise ValueError(
                f"{name} has other labels than {names[0]} for the same clips. Write both on the same list."
            )
        total[order] += weight * other.scores[theirs]
    return replace(first, scores=total / sum(weights))


def _order(found: ClipScores) -> np.ndarray:
    return np.lexsort((found.first_frames, found.paths))


def _keys(found: ClipScores, order: np.ndarray) -> list[tuple[str, int]]:
    return list(zip(found.paths[order].tolist(), found.first_frames[order].tolist(), strict=True))
