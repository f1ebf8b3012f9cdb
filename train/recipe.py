"""A recipe: everything that decides what a training run computes. YAML files of them are in ``train/recipes``."""

from __future__ import annotations

import ast
import difflib
import inspect
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import yaml  # type: ignore[import-untyped]

from mgs_dali.sampling import Dense, MotionGuided, Uniform
from mgs_dali.views.rand_augment import as_rand_augment

__all__ = ["RECIPES", "Recipe", "did_you_mean", "field_docs", "find_recipe"]

RECIPES = Path(__file__).parent / "recipes"
"""The folder of the recipes that are asked for by name."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What to train, on what, and how."""

    # data
    train_list: str | None = None
    """List of training clips, in any format of mgs_dali.read_annotations. Without any list, the demo set is made."""
    val_list: str | None = None
    """List of validation clips."""
    root: str | None = None
    """Folder that the paths in the lists are relative to."""
    val_root: str | None = None
    """The same for the validation list, where it is another."""
    num_classes: int | None = None
    """Number of classes; found in the training list by default."""
    class_names: str | None = None
    """File of class names, one a line."""
    multi_label: bool = False
    """The lists have several labels a clip: trained with binary cross entropy, judged by mean average precision."""
    template: str | None = None
    """The lists are of frame folders, whose files are named by number: "img_{:05}.jpg" (in quotes in YAML)."""
    with_offset: bool = False
    """Lines of the frame folders' lists are `folder offset total_frames label`."""

    # sampling
    sampler: Literal["motion", "uniform", "dense"] = "motion"
    """How frames are chosen: by the motion of the video (MGSampler), evenly in time (TSN, TSM), or evenly in one
    stretch of it (TSM dense)."""
    num_segments: int = 8
    """Frames of a clip."""
    mu: float = 0.5
    """Motion-guided: exponent that smooths the motion; 0 is uniform in time, 0.5 is the published value."""
    floor: float = 0.0
    """Motion-guided: share of the mean motion that is added everywhere, so that still parts keep some frames."""
    pick: Literal["nearest", "inverse"] = "nearest"
    """Motion-guided: nearest point of the cumulative motion (the released code) or its inverse."""
    measure: Literal["pixel", "packet"] = "pixel"
    """Motion-guided, without a motion index: pixel differences, which decode whole videos, or the sizes of compressed
    frames, for which nothing is decoded."""
    keep_tail: bool = True
    """Uniform: train on the whole video; false leaves out the last frames that do not fill num_segments equal parts, as
    the published models did."""
    span_frames: int = 64
    """Dense: frames of the stretch."""
    size: int = 224
    """Side of the square clips in pixels. The short side of a video counts as 256/224 of it when crops are chosen."""
    train_crop: Literal["multi_scale", "random_resized"] = "multi_scale"
    """Crops to train on: MultiScaleCrop of TSN and TSM, or RandomResizedCrop as mmaction2 has it for Jester."""
    rand_augment: tuple[int, int] | None = None
    """RandAugment of training clips: how many operations and how strong, 0 to 30. mmaction2's (2 at 9 of 10) is
    [2, 27]."""
    flip_probability: float = 0.0
    """Probability of mirroring a training clip, left to right. 0 where directions are classes (Something-Something)."""
    flip_label_map: dict[int, int] | None = None
    """Labels that change when a clip is mirrored, such as {86: 87, 87: 86}."""

    # evaluation
    protocol: Literal["efficient", "efficient_full", "accurate", "ten_crop", "dense", "dense_three", "dense_ten"] = (
        "efficient"
    )
    """Views of a clip that --eval takes, here for size 224. efficient: 1 clip, centre crop of 224. efficient_full: 1,
    centre of 256. accurate: 2, ThreeCrop of 256. ten_crop: 1, TenCrop of 224. dense: 10, centre of 224; dense_three and
    dense_ten: 10, ThreeCrop or TenCrop. Validation while training is efficient."""
    average: Literal["probabilities", "logits"] = "probabilities"
    """What the scores of several views are the mean of: probabilities as in mmaction2, or logits as in the TSM code."""

    # model
    depth: Literal[10, 18, 34, 50, 101, "mobilenet_v2"] = 50
    """Layers of the ResNet, or mobilenet_v2."""
    shift: bool = True
    """Shift features in time, which is TSM; without it is TSN."""
    shift_div: int = 8
    """One of so many channels is shifted each way."""
    non_local: Literal["embedded_gaussian", "gaussian", "dot_product"] | None = None
    """Non-local blocks of that kind in a ResNet-50, as published for Kinetics."""
    temporal_pool: bool = False
    """Halve the frames before the second stage of a ResNet."""
    weights: Literal["imagenet"] | None = "imagenet"
    """What the backbone starts from: torchvision's ImageNet weights (downloaded once), or null for random ones."""
    init: str | None = None
    """Checkpoint to fine-tune from, in any published format: the backbone starts from it and the classifier anew."""
    dropout: float = 0.5
    """Probability of dropping a feature in front of the classifier."""
    sync_batchnorm: bool = False
    """Batch norms take their statistics from the batches of all processes; on GPUs only. The published models take
    each process's own."""

    # what is learned from
    mixing: Literal["mixup", "cutmix"] | None = None
    """Mix neighbours of a batch and their labels: whole pictures (mixup) or a rectangle of them (cutmix)."""
    mixing_alpha: float = 0.2
    """Both parameters of the beta distribution that the shares of a mix are drawn from; 0.2 is mmaction2's."""
    label_smoothing: float = 0.0
    """Share of the label that is spread evenly over all classes."""

    # optimization
    batch_size: int = 8
    """Clips in a batch of each process."""
    accumulate: int = 1
    """Batches of each process whose gradients make one step, so that a step is of accumulate x batch_size x processes
    clips."""
    epochs: int = 50
    """Passes over the training list."""
    lr: float = 0.01
    """Learning rate of SGD for steps of lr_batch clips."""
    lr_batch: int | None = 64
    """Clips a step that lr is for: with more or fewer, the learning rate is scaled in proportion. Null takes lr as it
    is. The published ones are 0.01 for 64 clips."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 1e-4
    """Weight decay of convolutions and of the classifier's weight; batch norms and biases have none."""
    schedule: Literal["step", "cosine"] = "step"
    """How the learning rate falls: times lr_gamma at each of lr_steps, or along half a cosine to 0."""
    lr_steps: tuple[int, ...] = (20, 40)
    """Schedule step: after how many epochs the learning rate falls."""
    lr_gamma: float = 0.1
    """Schedule step: what the learning rate is multiplied with."""
    warmup_epochs: float = 0.0
    """Epochs in which the learning rate rises evenly from a tenth of itself."""
    grad_clip: float | None = 20.0
    """Largest norm of the gradient of all parameters; null for no limit."""

    # the run
    seed: int = 0
    """Of everything random: order, frames, crops, flips, the weights at the start, dropout."""
    precision: Literal["auto", "32-true", "bf16-mixed"] = "auto"
    """Auto is bf16-mixed on a GPU that computes in bfloat16, else 32-true."""
    num_workers: int | None = None
    """Worker processes of each loader; one a CPU core by default, 8 at most."""
    validate_every: int = 1
    """Epochs between validations; the last epoch is always validated."""
    checkpoint_every_steps: int | None = None
    """Save last.ckpt also after every so many steps; by default only at the end of an epoch."""
    keep_checkpoints: int = 0
    """Keep the checkpoints of so many last epochs, beside last.ckpt and best.ckpt, as epoch-0001.ckpt."""

    def __post_init__(self) -> None:
        positive_counts = ("num_segments", "size", "batch_size", "epochs", "validate_every", "checkpoint_every_steps")
        for name in (*positive_counts, "num_classes", "accumulate", "lr_batch"):
            value = getattr(self, name)
            _check(value is None or value >= 1, name, value, "a whole number of at least 1")
        _check(self.seed >= 0, "seed", self.seed, "a whole number of at least 0")
        _check(self.num_workers is None or self.num_workers >= 0, "num_workers", self.num_workers, "at least 0")
        _check(0 <= self.flip_probability <= 1, "flip_probability", self.flip_probability, "between 0 and 1")
        _check(0 <= self.dropout < 1, "dropout", self.dropout, "at least 0 and below 1")
        _check(0 < self.mixing_alpha < math.inf, "mixing_alpha", self.mixing_alpha, "above 0")
        _check(0 <= self.label_smoothing < 1, "label_smoothing", self.label_smoothing, "at least 0 and below 1")
        _check(self.keep_checkpoints >= 0, "keep_checkpoints", self.keep_checkpoints, "at least 0")
        _check(0 < self.lr < math.inf, "lr", self.lr, "above 0")
        _check(0 <= self.momentum < 1, "momentum", self.momentum, "at least 0 and below 1")
        _check(0 <= self.weight_decay < math.inf, "weight_decay", self.weight_decay, "at least 0")
        _check(0 < self.lr_gamma <= 1, "lr_gamma", self.lr_gamma, "above 0 and at most 1")
        _check(
            all(0 < a < b for a, b in pairwise((*self.lr_steps, math.inf))),
            "lr_steps",
            list(self.lr_steps),
            "numbers of epochs of at least 1, each larger than the one before",
        )
        _check(0 <= self.warmup_epochs < math.inf, "warmup_epochs", self.warmup_epochs, "at least 0")
        _check(self.grad_clip is None or self.grad_clip > 0, "grad_clip", self.grad_clip, "above 0, or null")
        if self.flip_label_map and self.flip_probability == 0:
            raise ValueError("flip_label_map is given but flip_probability is 0: nothing is mirrored. Set both.")
        if self.rand_augment is not None:
            as_rand_augment(self.rand_augment)
        if self.mixing is not None and self.batch_size % 2:
            raise ValueError(
                f"mixing: {self.mixing} mixes pairs of clips; batch_size ({self.batch_size}) must be even."
            )
        _ = self.frame_sampler  # checks its own

    @property
    def frame_sampler(self) -> MotionGuided | Uniform | Dense:
        """How the loader chooses frames."""
        if self.sampler == "dense":
            return Dense(self.num_segments, span_frames=self.span_frames)
        if self.sampler == "uniform":
            return Uniform(self.num_segments, keep_tail=self.keep_tail)
        return MotionGuided(self.num_segments, mu=self.mu, floor=self.floor, pick=self.pick, measure=self.measure)

    def lr_for(self, num_clips: int) -> float:
        """The learning rate for steps of so many clips: lr, scaled linearly (Goyal et al. 2017, as in mmaction2)."""
        return self.lr if self.lr_batch is None else self.lr * num_clips / self.lr_batch

    def lr_factor(self, epoch: float) -> float:
        """What the learning rate is multiplied with ``epoch`` epochs into the run; fractions are within an epoch."""
        if epoch < self.warmup_epochs:
            return 0.1 + 0.9 * epoch / self.warmup_epochs
        if self.schedule == "step":
            return self.lr_gamma ** sum(epoch >= step for step in self.lr_steps)
        # One step more than there are is asked for after the last one; with no epoch after the warm-up, this is it.
        passed = (epoch - self.warmup_epochs) / (self.epochs - self.warmup_epochs) if self.epochs > epoch else 1.0
        return 0.5 * (1 + math.cos(math.pi * passed))

    def to_yaml(self) -> str:
        """The recipe as a file that ``--recipe`` takes."""
        return yaml.safe_dump(asdict(self), sort_keys=False)


def _check(allowed: bool, name: str, value: Any, words: str) -> None:
    if not allowed:
        raise ValueError(f"{name} ({value}) must be {words}.")


def field_docs(cls: type) -> dict[str, str]:
    """The strings under the fields of a dataclass, which Python itself does not keep."""
    (definition,) = ast.parse(inspect.getsource(cls)).body
    assert isinstance(definition, ast.ClassDef)
    return dict(_fields_with_docs(definition.body))


def _fields_with_docs(body: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    for field, doc in pairwise(body):
        match field, doc:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                yield name, inspect.cleandoc(text)


def find_recipe(name: str) -> Path:
    """The file of a recipe that is given by name (one of ``train/recipes``) or as a YAML file.

    Raises:
        ValueError: there is no such file.
    """
    file = Path(name)
    if file.suffix in (".yaml", ".yml"):
        if not file.is_file():
            raise ValueError(f"--recipe {name}: no such file (working folder: {Path.cwd()}).")
        return file
    known = sorted(path.stem for path in RECIPES.glob("*.yaml"))
    if name not in known:
        raise ValueError(
            f"--recipe {name}: no recipe of that name.{did_you_mean(name, known)} Allowed: {', '.join(known)}, or the "
            "path of a .yaml file."
        )
    return RECIPES / f"{name}.yaml"


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """`` Did you mean ...?`` for the closest of the allowed words, or nothing where none is close."""
    closest = difflib.get_close_matches(word, list(allowed), n=1)
    return f" Did you mean {closest[0]}?" if closest else ""
