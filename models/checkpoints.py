"""Published checkpoints: read into TSM, written for other projects.

The format of a file is seen from the names in it, and reading is strict: every weight of the file has its place, every
place in the model is filled, or a ValueError says what does not fit. No code from a file is ever run.

| format | file | names |
|---|---|---|
| mit | mit-han-lab's TSM | ``module.base_model.layer1.0.conv1.net.weight``, ``module.new_fc.weight`` |
| mmaction2 | mmaction2 0.x and 1.x | ``backbone.layer1.0.conv1.conv.net.weight``, ``cls_head.fc_cls.weight`` |
| torchvision | ImageNet ResNets and MobileNetV2 | ``layer1.0.conv1.weight``, ``fc.weight`` or ``classifier.1.weight`` |
| mgs_dali | runs of ``train.tsm`` | ``backbone.layer1.0.conv1.net.weight``, ``fc.weight`` |

``python -m models.checkpoints FILE`` says what a file is, ``--to mit --out FILE`` and ``--to mmaction2`` convert it.
"""

import argparse
import functools
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

import torch
from torch import Tensor

from mgs_dali.files import write_whole
from models.non_local import PairwiseFunction
from models.tsm import DEPTHS, TSM, Depth

__all__ = [
    "Format", "TsmOptions", "load", "permute_classes", "read", "start_from", "to_mit", "to_mmaction2", "tsm_options"
]  # fmt: skip

Format = Literal["mit", "mmaction2", "torchvision", "mgs_dali"]
State = dict[str, Tensor]


class TsmOptions(TypedDict):
    """What the weights tell about the model: arguments of `TSM`."""

    num_classes: int
    depth: Depth
    shift: bool
    non_local: PairwiseFunction | None
    temporal_pool: bool


def load(path: str | os.PathLike[str]) -> State:
    """Read a checkpoint of any format of this module.

    Args:
        path: the file.

    Returns:
        A state dict for the `TSM` that `tsm_options` describes, on the CPU. Weights of an ImageNet model come as those
        of a TSM with 1000 classes, see `start_from`. Counters of seen batches that old files lack are 0.

    Raises:
        ValueError: the file cannot be read without running code from it, is of no known format, or does not fit: the
            names that are missing, unexpected or of another shape are listed as the file has them.
    """
    return read(path)[1]


def read(path: str | os.PathLike[str]) -> tuple[Format, State]:
    """As `load`, with the format that the file has."""
    found = _tensors(_unpickled(Path(path)), file=path)
    prefix = "module." if found and all(name.startswith("module.") for name in found) else ""
    found = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
    checkpoint_format = _format(found, file=path)
    if checkpoint_format == "mit" and not any(name.startswith("new_fc.") for name in found):
        # Trained without dropout, mit's classifier stays where the backbone has it.
        found = {re.sub(r"^base_model\.(fc|classifier)\.", "new_fc.", name): x for name, x in found.items()}
    if checkpoint_format == "mmaction2":
        _check_normalization(found.pop("data_preprocessor.mean", None), found.pop("data_preprocessor.std", None), path)
    return checkpoint_format, _to_tsm(found, checkpoint_format, prefix=prefix, file=path)


def tsm_options(state: Mapping[str, Tensor]) -> TsmOptions:
    """The arguments of the `TSM` that a state dict belongs to: ``TSM(num_segments=8, **tsm_options(state))``.

    Weights do not tell the number of segments, ``shift_div`` (8 in all published models), nor embedded_gaussian from
    dot_product, whose weights have the same names and shapes: embedded_gaussian is assumed.

    Args:
        state: a state dict as `load` returns it.

    Raises:
        ValueError: it is not one of a TSM; what is missing, unexpected or of another shape is listed.
    """
    options, shapes = _closest(state, "mgs_dali")
    _check(state, shapes, "mgs_dali", options, prefix="", file="state dict")
    return options


def start_from(model: TSM, state: Mapping[str, Tensor]) -> list[str]:
    """Start a model from the backbone of a checkpoint, to train it on other classes.

    The shift has no weights: a checkpoint without it (ImageNet, TSN) starts a model with it, and the other way round.
    To take a whole checkpoint, classifier and all, call ``model.load_state_dict(state)`` instead.

    Args:
        model: changed in place. Its classifier keeps its weights, and so do non-local blocks that the state has not.
        state: a state dict as `load` returns it.

    Returns:
        The names of the parameters that keep the weights they had: tell the user.

    Raises:
        ValueError: any other weight of the model is not in the state, has another shape there, or would not be used.
    """
    own = model.state_dict()
    plain = {name: _without_wrappers(name) for name in own if not name.startswith("fc.")}
    given = {_without_wrappers(name): tensor for name, tensor in state.items() if not name.startswith("fc.")}
    optional = ("num_batches_tracked", ".nl.")
    kept = [
        name
        for name in own
        if name not in plain or (plain[name] not in given and any(part in name for part in optional))
    ]
    expected = {plain[name]: tensor.shape for name, tensor in own.items() if name not in kept}
    if problems := _problems(given, expected):
        raise ValueError(
            f"The model cannot start from this checkpoint: {problems}. Build the model with the checkpoint's own "
            "options, tsm_options(state)."
        )
    model.load_state_dict({name: own[name] if name in kept else given[plain[name]] for name in own})
    return [name for name, _ in model.named_parameters() if name in kept]


def permute_classes(state: Mapping[str, Tensor], *, found: Sequence[str], wanted: Sequence[str]) -> State:
    """Put the classes of a state dict into another order.

    mit-han-lab numbers the classes of Something-Something V1 and of Jester alphabetically (``sorted(names)``),
    mmaction2 by their lines in the official ``*-labels.csv``. Something-Something V2 has the same numbers in both.

    Args:
        state: a state dict as `load` returns it.
        found: the names of the classes in the state's order.
        wanted: the same names in the order of the labels to be used with it.

    Returns:
        The state with the rows of ``fc.weight`` and ``fc.bias`` moved.

    Raises:
        ValueError: the two lists are not the same names, or not as many as there are classes.
    """
    num_classes = len(state["fc.bias"])
    if not len(set(found)) == len(found) == len(set(wanted)) == len(wanted) == num_classes:
        raise ValueError(
            f"The checkpoint has {num_classes} classes; given are {len(found)} names ({len(set(found))} different) for "
            f"its order and {len(wanted)} ({len(set(wanted))} different) for the wanted one. Give each class once."
        )
    if strangers := sorted(set(found) ^ set(wanted)):
        raise ValueError(
            f"The two lists name different classes: {_listed(strangers)} in one of them only. Give the same names "
            "twice, in the checkpoint's order and in the wanted one."
        )
    row = {name: i for i, name in enumerate(found)}
    rows = torch.tensor([row[name] for name in wanted])
    return {**state, "fc.weight": state["fc.weight"][rows], "fc.bias": state["fc.bias"][rows]}


def to_mit(state: Mapping[str, Tensor], *, with_dropout: bool = True) -> dict[str, Any]:
    """A checkpoint for mit-han-lab's ``test_models.py --weights`` and ``main.py --tune_from``.

    They take the model's options from the file's name: call it as theirs, such as
    ``TSM_something_RGB_resnet50_shift8_blockres_avg_segment8_e50.pth``.

    Args:
        state: a state dict as `load` returns it.
        with_dropout: False for ``main.py --dropout 0`` (``--resume``, ``--tune_from``, ``--evaluate``), whose
            classifier stays where the backbone has it: it is ``base_model.fc`` or ``base_model.classifier`` there.
            ``test_models.py`` always builds one with dropout, ``new_fc``.

    Returns:
        ``{"state_dict": ...}``, for ``torch.save``.

    Raises:
        ValueError: it is no state dict of a TSM, or one that this project has no model for.
    """
    options = tsm_options(state)
    if options["non_local"] == "gaussian":
        raise ValueError(
            "mit-han-lab's non-local blocks are embedded_gaussian, found gaussian ones. Write for mmaction2."
        )
    names = _names("mit", state)
    if not with_dropout:
        classifier = "base_model.classifier." if options["depth"] == "mobilenet_v2" else "base_model.fc."
        names = {key: re.sub(r"^new_fc\.", classifier, name) for key, name in names.items()}
    return {
        "state_dict": {f"module.{names[key]}": x.reshape(_published_shape(key, x.shape)) for key, x in state.items()}
    }


def to_mmaction2(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """A checkpoint for mmaction2, 0.x and 1.x.

    mmaction2's non-local blocks have no bias in front of their batch norm. One that is not zero goes into the mean that
    the batch norm subtracts, which gives the same scores.

    Args:
        state: a state dict as `load` returns it.

    Returns:
        ``{"meta": {}, "state_dict": ...}``, for ``torch.save``.

    Raises:
        ValueError: it is no state dict of a TSM.
    """
    tsm_options(state)
    state = dict(state)
    for key in [key for key in state if key.endswith(".nl.W.0.bias")]:
        bias, mean = state.pop(key), key.replace("W.0.bias", "W.1.running_mean")
        state[mean] = state[mean] - bias
    names = _names("mmaction2", state)
    return {
        "meta": {},
        "state_dict": {names[key]: x.reshape(_published_shape(key, x.shape)) for key, x in state.items()},
    }


# --- files ------------------------------------------------------------------------------------------------------------


def _unpickled(file: Path) -> Any:
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"{file}: no such checkpoint (working folder: {Path.cwd()}).") from None
    except Exception as error:  # on a damaged file the unpickler breaks in any way
        text = str(error)
    needs = re.search(r"GLOBAL ([\w.]+)|Unsupported class ([\w.]+)|legacy \.tar", text)
    if needs:
        what = needs[1] or needs[2] or "an old kind of file"
        raise ValueError(
            f"{file}: holds more than weights ({what}), and reading that could run code from the file. Refused. If you "
            "trust who made it, keep only its weights: c = torch.load(FILE, weights_only=False); "
            'torch.save({"state_dict": c["state_dict"]}, NEW_FILE), in the environment that it was made in.'
        )
    unreadable = re.search(r"WeightsUnpickler error: (.*)", text)
    reason = unreadable[1] if unreadable else next(iter(text.splitlines()), "empty")
    raise ValueError(f"{file}: not a checkpoint that PyTorch can read ({reason}).")


def _tensors(content: Any, *, file: str | os.PathLike[str]) -> State:
    """The state dict in a file: under "state_dict" (mit, mmaction2), under "model" (train.tsm), or all there is."""
    if isinstance(content, dict):
        for key in ("state_dict", "model"):
            if isinstance(content.get(key), dict):
                content = content[key]
                break
        if content and all(isinstance(x, Tensor) and isinstance(name, str) for name, x in content.items()):
            return dict(content)
    raise ValueError(
        f'{file}: no weights found. Allowed: a state dict, alone or under "state_dict" (mit-han-lab, mmaction2) or '
        '"model" (train.tsm).'
    )


def _format(names: Iterable[str], *, file: str | os.PathLike[str]) -> Format:
    names = list(names)

    def starts(*beginnings: str) -> bool:
        return any(name.startswith(beginnings) for name in names)

    if starts("PA.") or any(".TES." in name for name in names):
        raise ValueError(
            f"{file}: a checkpoint of PAN, whose classifier is not TSM's. Its first convolution measures motion: "
            f"mgs-dali index --measure pa --pa-weights {file}"
        )
    if starts("base_model."):
        return "mit"
    if starts("cls_head.", "backbone.conv1.conv.", "backbone.conv1.bn."):
        return "mmaction2"
    if starts("backbone."):
        return "mgs_dali"
    if starts("layer1.", "features."):
        return "torchvision"
    raise ValueError(
        f"{file}: weights of no known format, found {_listed(names)}. Allowed: TSM of mit-han-lab (base_model.*), of "
        "mmaction2 (backbone.*, cls_head.*), of train.tsm (backbone.*, fc.*), torchvision's ResNet (layer1.*) and "
        "MobileNetV2 (features.*)."
    )


def _check_normalization(mean: Tensor | None, std: Tensor | None, file: str | os.PathLike[str]) -> None:
    """Some mmaction2 1.x files tell how frames were normalised. The one known way is that of all published models."""
    for name, found, known in (("mean", mean, (123.675, 116.28, 103.53)), ("std", std, (58.395, 57.12, 57.375))):
        if found is not None and not (
            found.numel() == 3 and torch.allclose(found.flatten().float(), torch.tensor(known))
        ):
            raise ValueError(
                f"{file}: trained with frames normalised by another {name} ({found.flatten().tolist()}). Allowed: "
                f"{known}, ImageNet's."
            )


# --- what fits where --------------------------------------------------------------------------------------------------


# mit's and mmaction2's name of what a shift in front of a whole block wraps, with temporal pooling and non-local blocks
_SHIFTED_BLOCK = re.compile(r"\blayer\d\.(net\.)?\d+\.(block\.)?net\.")


def _to_tsm(found: State, checkpoint_format: Format, *, prefix: str, file: str | os.PathLike[str]) -> State:
    options, shapes = _closest(found, checkpoint_format)
    if shifted := [name for name in found if _SHIFTED_BLOCK.search(name)]:
        raise ValueError(
            f"{file}: {_words({**options, 'shift': True})}, but with the shift around whole blocks "
            f'(shift_place="block"), found {prefix}{shifted[0]}. Allowed: "blockres", in front of a block\'s first '
            "convolution, as in all published models. This project has no model for the other."
        )
    names = _names(checkpoint_format, shapes)
    published = checkpoint_format in ("mit", "mmaction2")
    theirs = {name: _published_shape(key, shapes[key]) if published else shapes[key] for key, name in names.items()}
    _check(found, theirs, checkpoint_format, options, prefix=prefix, file=file)
    state = {}
    for key, shape in shapes.items():
        tensor = found.get(names.get(key, ""))
        if tensor is None:  # a counter of batches in an old file, or a bias that mmaction2's blocks do without
            tensor = torch.zeros(shape, dtype=torch.int64 if key.endswith("num_batches_tracked") else torch.float32)
        state[key] = tensor.reshape(shape)
    return state


def _closest(found: Mapping[str, Tensor], checkpoint_format: Format) -> tuple[TsmOptions, dict[str, torch.Size]]:
    """The model whose names are most like these, and the shapes of its weights by TSM's names."""
    names = list(found)

    def any_has(pattern: str) -> bool:
        return any(re.search(pattern, name) for name in names)

    shift = checkpoint_format == "torchvision" or any_has(r"\bconv1\.(conv\.)?net\.|\bconv\.0\.net\.")
    non_local: PairwiseFunction | None = None
    if any_has(r"\.(nl|non_local_block)\."):
        non_local = "embedded_gaussian" if any_has(r"\.theta\.") else "gaussian"
    temporal_pool = any_has(r"\blayer2\.net\.")
    # what is wrapped around layers tells nothing of the depth, and may be what does not fit
    plain = {_without_wrappers(name) for name in names}
    candidates: list[tuple[int, TsmOptions, dict[str, torch.Size]]] = []
    for depth in DEPTHS:
        if (non_local and depth != 50) or (temporal_pool and depth == "mobilenet_v2"):
            continue
        options: TsmOptions = {
            "num_classes": 1, "depth": depth, "shift": shift, "non_local": non_local, "temporal_pool": temporal_pool
        }  # fmt: skip
        shapes = _shapes(**options)
        expected = {_without_wrappers(name) for name in _names(checkpoint_format, shapes).values()}
        candidates.append((len(expected ^ plain), options, shapes))
    _, options, shapes = min(candidates, key=lambda candidate: candidate[0])
    fc_names = _names(checkpoint_format, shapes)
    classifier = [found[fc_names[key]] for key in ("fc.weight", "fc.bias") if fc_names[key] in found]
    options["num_classes"] = classifier[0].shape[0] if classifier and classifier[0].dim() else 1
    features = shapes["fc.weight"][1]
    num_classes = options["num_classes"]
    return options, {
        **shapes, "fc.weight": torch.Size((num_classes, features)), "fc.bias": torch.Size((num_classes,))
    }  # fmt: skip


@functools.cache
def _shapes(**options: Any) -> dict[str, torch.Size]:
    with torch.device("meta"):
        model = TSM(num_segments=2, **options)
    return {key: tensor.shape for key, tensor in model.state_dict().items()}


def _check(
    found: Mapping[str, Tensor],
    shapes: Mapping[str, torch.Size],
    checkpoint_format: Format,
    options: TsmOptions,
    *,
    prefix: str,
    file: str | os.PathLike[str],
) -> None:
    if problems := _problems(found, shapes, prefix=prefix):
        raise ValueError(
            f"{file}: looks like {_words(options)} in the format {checkpoint_format}, but does not fit: {problems}. "
            "Nothing is loaded in part: give a checkpoint that holds these weights and no others."
        )


def _problems(found: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], *, prefix: str = "") -> str:
    """What does not fit, in words; "" where all does."""
    missing = [prefix + name for name in shapes if name not in found and not name.endswith(".num_batches_tracked")]
    unexpected = [prefix + name for name in found if name not in shapes]
    misshapen = [
        f"{prefix}{name} is {tuple(tensor.shape)} instead of {tuple(shapes[name])}"
        for name, tensor in found.items()
        if name in shapes and tensor.shape != shapes[name]
    ]
    kinds = (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen))
    return "; ".join(f"{len(names)} {kind}: {_listed(names)}" for kind, names in kinds if names)


def _listed(names: Sequence[str], at_most: int = 8) -> str:
    more = f" and {len(names) - at_most} more" if len(names) > at_most else ""
    return ", ".join(names[:at_most]) + more


def _words(options: TsmOptions) -> str:
    depth = options["depth"]
    words = [
        "MobileNetV2" if depth == "mobilenet_v2" else f"ResNet-{depth}",
        "with temporal shift" if options["shift"] else "without temporal shift",
    ]
    if options["non_local"] == "gaussian":
        words.append("and gaussian non-local blocks")
    elif options["non_local"]:
        words.append("and non-local blocks (embedded_gaussian or dot_product, the weights do not tell)")
    if options["temporal_pool"]:
        words.append("and temporal pooling")
    return f"{' '.join(words)}, {options['num_classes']} classes"


# --- names ------------------------------------------------------------------------------------------------------------

# Layers of an inverted residual of MobileNetV2: TSM's and torchvision's name -> mit's, mmaction2's.
_INVERTED_RESIDUAL = {
    "0.0": ("0", "0.conv"),
    "0.1": ("1", "0.bn"),
    "0.net.0": ("0.net", "0.net.conv"),
    "0.net.1": ("1", "0.net.bn"),
    "1.0": ("3", "1.conv"),
    "1.1": ("4", "1.bn"),
    "2": ("6", "2.conv"),
    "3": ("7", "2.bn"),
}
# The first one widens nothing, and so has a convolution less.
_FIRST_INVERTED_RESIDUAL = {
    "0.0": ("0", "0.conv"), "0.1": ("1", "0.bn"), "1": ("3", "1.conv"), "2": ("4", "1.bn")
}  # fmt: skip
_MOBILENET_STAGES = (1, 2, 3, 4, 3, 3, 1)
# TSM's -> mmaction2's
_MOBILENET_ENDS = {
    "backbone.features.0.0.": "backbone.conv1.conv.",
    "backbone.features.0.1.": "backbone.conv1.bn.",
    "backbone.features.18.0.": "backbone.conv2.conv.",
    "backbone.features.18.1.": "backbone.conv2.bn.",
}
_RESNET_LAYERS = (
    (r"\bconv(\d)\.", r"conv\1.conv."),
    (r"\bbn(\d)\.", r"conv\1.bn."),
    (r"\bdownsample\.0\.", "downsample.conv."),
    (r"\bdownsample\.1\.", "downsample.bn."),
    (r"\.nl\.(g\.0|phi\.0|theta)\.", r".non_local_block.\1.conv."),
    (r"\.nl\.W\.0\.", ".non_local_block.conv_out.conv."),
    (r"\.nl\.W\.1\.", ".non_local_block.conv_out.bn."),
)


def _names(checkpoint_format: Format, keys: Iterable[str]) -> dict[str, str]:
    """TSM's names -> a format's, for those that it has."""
    keys = list(keys)
    if checkpoint_format == "mit":
        return {key: _mit_name(key) for key in keys}
    if checkpoint_format == "mmaction2":
        return {key: _mmaction2_name(key) for key in keys if not key.endswith(".nl.W.0.bias")}
    if checkpoint_format == "torchvision":
        classifier = "classifier.1." if any("features." in key for key in keys) else "fc."
        return {key: re.sub("^fc.", classifier, key).replace(".net.", ".").removeprefix("backbone.") for key in keys}
    return {key: key for key in keys}


def _published_shape(key: str, shape: torch.Size) -> torch.Size:
    """The convolutions of published non-local blocks are over clips, 1 x 1 x 1."""
    return torch.Size((*shape, 1)) if ".nl." in key and len(shape) == 4 else shape


def _without_wrappers(key: str) -> str:
    """The name without the modules that shift, non-local blocks and temporal pooling put around others."""
    return re.sub(r"\.(net|block)(?=\.)", "", key)


def _mit_name(key: str) -> str:
    if key.startswith("fc."):
        return f"new_{key}"
    if block := _inverted_residual(key):
        number, layers, tensor = block
        return f"base_model.features.{number}.conv.{layers[0]}.{tensor}"
    return key.replace("backbone.", "base_model.", 1)


def _mmaction2_name(key: str) -> str:
    if key.startswith("fc."):
        return f"cls_head.fc_cls.{key.removeprefix('fc.')}"
    if block := _inverted_residual(key):
        number, layers, tensor = block
        stage, first = 1, 1
        while number >= first + _MOBILENET_STAGES[stage - 1]:
            first += _MOBILENET_STAGES[stage - 1]
            stage += 1
        return f"backbone.layer{stage}.{number - first}.conv.{layers[1]}.{tensor}"
    for ours, theirs in _MOBILENET_ENDS.items():
        if key.startswith(ours):
            return key.replace(ours, theirs, 1)
    for pattern, theirs in _RESNET_LAYERS:
        key = re.sub(pattern, theirs, key)
    return key


def _inverted_residual(key: str) -> tuple[int, tuple[str, str], str] | None:
    """Number of the block, mit's and mmaction2's name of the layer, and the tensor's, of a key in one."""
    match = re.fullmatch(r"backbone\.features\.(\d+)\.conv\.([\w.]+)\.(\w+)", key)
    if not match:
        return None
    number, layer, tensor = match.groups()
    table = _FIRST_INVERTED_RESIDUAL if number == "1" else _INVERTED_RESIDUAL
    return int(number), table[layer], tensor


# --- command line -----------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m models.checkpoints``: say what a checkpoint is, convert it.

    Returns:
        The exit status: 0, or 2 for anything the user can put right (one line on stderr says what).
    """
    parser = argparse.ArgumentParser(
        prog="python -m models.checkpoints", description="Say what a checkpoint is; convert it for another project."
    )
    parser.add_argument("file", metavar="FILE", help="mit-han-lab's, mmaction2's, torchvision's or train.tsm's")
    parser.add_argument("--to", choices=("mit", "mmaction2"), help="project to write it for")
    parser.add_argument("--out", metavar="FILE", type=Path, help="file to write; must not exist")
    parser.add_argument(
        "--without-dropout", action="store_true", help="with --to mit: for its main.py --dropout 0, else test_models.py"
    )
    given = parser.parse_args(arguments)
    if (given.to is None) != (given.out is None):
        parser.error("--to and --out belong together")
    if given.without_dropout and given.to != "mit":
        parser.error("--without-dropout belongs to --to mit")
    try:
        checkpoint_format, state = read(given.file)
        print(f"{given.file}: {checkpoint_format}, {_words(tsm_options(state))}")
        if given.out is not None:
            if given.out.exists():
                raise ValueError(f"{given.out} exists. Give another --out.")
            content = (
                to_mit(state, with_dropout=not given.without_dropout) if given.to == "mit" else to_mmaction2(state)
            )
            with write_whole(given.out) as unfinished:
                torch.save(content, unfinished)
            print(f"{given.out}: {given.to}")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
