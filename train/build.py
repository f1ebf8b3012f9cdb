"""What a run is made of, from its recipe: Fabric, data, loaders, the model with its optimizer, the folder."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal, cast

import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.fabric.strategies.ddp import DDPStrategy
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mgs_dali.demo import make_demo
from mgs_dali.index.recorder import MotionRecorder
from mgs_dali.index.store import MotionIndex
from mgs_dali.lists.read import read_annotations
from mgs_dali.lists.table import Clips
from mgs_dali.load.loader import ClipLoader
from mgs_dali.load.plan import Plan
from mgs_dali.views.protocols import ONE_VIEW, Views
from mgs_dali.views.rand_augment import as_rand_augment
from models import checkpoints
from models.pretrained import load_imagenet
from models.tsm import TSM, parameter_groups

from .checkpoint import Checkpoint, position_here
from .command_line import Options
from .cpu_loader import CpuLoader
from .logs import log, set_up_logging
from .loop import Loader, Run, steps_an_epoch
from .recipe import Recipe

__all__ = [
    "AllFailed",
    "build_model",
    "clips_a_step",
    "fetch_weights",
    "in_list_order",
    "make_loader",
    "model_name",
    "read_data",
    "read_published",
    "read_val_data",
    "run_folder",
    "say_what_runs",
    "snapshot",
    "start_fabric",
    "start_run",
    "stop_fabric",
]

DEMO_FOLDER = Path("data/demo")
"""Where the demo set is made, under the working folder."""


def start_fabric(options: Options, recipe: Recipe) -> Fabric:
    """Device, processes and precision. Several processes are torchrun's to start."""
    if options.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: PyTorch finds no CUDA device here. Use --device cpu or auto; see nvidia-smi.")
    on_gpu = options.device != "cpu" and torch.cuda.is_available()
    num_devices = num_nodes = 1
    if TorchElasticEnvironment.detect():
        num_devices = int(os.environ["LOCAL_WORLD_SIZE"])
        num_nodes = int(os.environ["WORLD_SIZE"]) // num_devices
    if on_gpu and num_devices > torch.cuda.device_count():
        raise ValueError(
            f"torchrun --nproc-per-node {num_devices}: there are {torch.cuda.device_count()} GPUs here, and each "
            "process trains on its own. Start as many processes as GPUs, or train with --device cpu."
        )
    precision, why = _precision(recipe, on_gpu=on_gpu)
    fabric = Fabric(
        accelerator="cuda" if on_gpu else "cpu",
        devices=num_devices,
        num_nodes=num_nodes,
        precision=precision,
        strategy=_ddp() if num_devices * num_nodes > 1 else "auto",
    )
    fabric.launch()
    set_up_logging(shown=fabric.is_global_zero)
    if on_gpu:
        torch.backends.cudnn.benchmark = True  # all batches have one shape
    device = torch.cuda.get_device_name(fabric.device) if on_gpu else f"CPU, {torch.get_num_threads()} threads"
    log.info("device: %s x %d; precision %s (%s)", device, fabric.world_size, precision, why)
    return fabric


def stop_fabric(fabric: Fabric) -> None:
    """Part from the other processes, once every one of them is done. All must call it.

    Lightning ends NCCL's group of processes at exit, but leaves Gloo's to the interpreter: a thread of it that is still
    at work while Python goes down aborts the process ("terminate called without an active exception"), and torchrun
    calls a run that is done a failed one.
    """
    fabric.barrier()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _ddp() -> DDPStrategy:
    # Running statistics of batch norms stay each process's own until they are evaluated, as in mmaction2. PyTorch is
    # renaming the option.
    options = inspect.signature(DistributedDataParallel).parameters
    own_buffers = "forward_sync_buffers" if "forward_sync_buffers" in options else "broadcast_buffers"
    return DDPStrategy(gradient_as_bucket_view=True, **{own_buffers: False})  # type: ignore[arg-type]


def _precision(recipe: Recipe, *, on_gpu: bool) -> tuple[Literal["32-true", "bf16-mixed"], str]:
    """The precision to train in, and why."""
    if recipe.precision != "auto":
        return recipe.precision, "asked for"
    if not on_gpu:
        return "32-true", "on the CPU"
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return "bf16-mixed", "the GPU computes in bfloat16"
    return "32-true", "the GPU has no bfloat16"


class AllFailed(ValueError):
    """All processes have failed, and know of it: each ends, and the first one says why."""


def fetch_weights(fabric: Fabric, recipe: Recipe) -> None:
    """Have the ImageNet weights on this machine before anything is made, by one process of each machine.

    Raises:
        AllFailed: they are neither here nor to be had, on one of the machines, or the recipe's backbone has none.
    """
    if recipe.weights is None or recipe.init is not None:
        return
    error = None
    if fabric.local_rank == 0:
        try:
            load_imagenet(recipe.depth)
        except ValueError as caught:
            error = str(caught)
    errors = [error]
    if fabric.world_size > 1:  # the others wait here, and would wait for one that had just ended
        errors *= fabric.world_size
        torch.distributed.all_gather_object(errors, error)
    for found in filter(None, errors):
        raise AllFailed(found)


def read_data(fabric: Fabric, recipe: Recipe) -> tuple[Recipe, Clips, Clips]:
    """The training and the validation clips, and the recipe with what the lists told."""
    recipe = _with_demo(fabric, recipe)
    if recipe.train_list is None or recipe.val_list is None:
        missing = "--train-list" if recipe.train_list is None else "--val-list"
        raise ValueError(f"{missing} is missing. A training needs both lists; without any, it uses the demo set.")
    val_list = recipe.val_list
    train_clips = _read_list(recipe, recipe.train_list, recipe.root)
    recipe = replace(recipe, num_classes=train_clips.num_classes)
    # a folder's classes are its sub-folders that hold clips, which a class of few may have no part in
    names = train_clips.class_names if Path(val_list).is_dir() else None
    val_clips = _read_list(recipe, val_list, recipe.val_root or recipe.root, class_names=names)
    if train_clips.class_names != val_clips.class_names and train_clips.class_names and val_clips.class_names:
        differing = sorted(set(train_clips.class_names) ^ set(val_clips.class_names))
        raise ValueError(
            f"{train_clips.list_file} and {val_clips.list_file} have other classes, or another order of them "
            f"(in one only: {', '.join(differing[:5]) or 'none'}). Both must number the same classes alike."
        )
    return recipe, train_clips, val_clips


def read_published(file: Path, recipe: Recipe) -> tuple[Recipe, dict[str, torch.Tensor]]:
    """The weights of a checkpoint that another project published, and the recipe with the model that they belong to.

    What the weights do not tell is the recipe's: segments, shift_div, which kind of non-local blocks, how clips are
    sampled and cropped.

    Raises:
        ValueError: the file cannot be read, or is of no known format, see :mod:`models.checkpoints`.
    """
    kind, state = checkpoints.read(file)
    options = checkpoints.tsm_options(state)
    if options["non_local"] and recipe.non_local in ("embedded_gaussian", "dot_product"):
        options["non_local"] = recipe.non_local if options["non_local"] != "gaussian" else "gaussian"
    recipe = replace(recipe, **options, weights=None, init=None)
    log.info("%s: %s's format; %s for %d classes", file, kind, model_name(recipe), recipe.num_classes)
    return recipe, state


def in_list_order(state: Mapping[str, torch.Tensor], clips: Clips) -> dict[str, torch.Tensor]:
    """Weights whose classes are sorted by name, put into the order of a list.

    Raises:
        ValueError: the list does not tell the names of its classes, or they are not as many as the weights'.
    """
    if clips.class_names is None:
        raise ValueError(
            f"--sorted-classes: {clips.list_file} does not name its classes, so that those of the checkpoint cannot be "
            "put into its order. Give --class-names FILE, one a line in the order of the labels."
        )
    return checkpoints.permute_classes(state, found=sorted(clips.class_names), wanted=clips.class_names)


def read_val_data(fabric: Fabric, recipe: Recipe) -> tuple[Recipe, Clips]:
    """The validation clips alone, and the recipe with the demo's lists where there were none."""
    recipe = _with_demo(fabric, recipe)
    if recipe.val_list is None:
        raise ValueError("--val-list is missing. Give the list of the clips to validate on.")
    return recipe, _read_list(recipe, recipe.val_list, recipe.val_root or recipe.root)


def _with_demo(fabric: Fabric, recipe: Recipe) -> Recipe:
    if recipe.train_list is not None or recipe.val_list is not None:
        return recipe
    if fabric.is_global_zero:
        log.info("no lists given: training on the demo set in %s", DEMO_FOLDER)
        make_demo(DEMO_FOLDER)
    fabric.barrier()
    demo = make_demo(DEMO_FOLDER, progress=False)  # made already: only its paths
    return replace(
        recipe,
        train_list=str(demo.train_list),
        val_list=str(demo.val_list),
        root=str(demo.root),
        class_names=str(demo.class_names),
    )


def _read_list(recipe: Recipe, file: str | None, root: str | None, *, class_names: list[str] | None = None) -> Clips:
    assert file is not None
    return read_annotations(
        file,
        root=root,
        num_classes=recipe.num_classes,
        multi_label=recipe.multi_label,
        class_names=recipe.class_names or class_names,
        template=recipe.template,
        with_offset=recipe.with_offset,
    )


def make_loader(
    fabric: Fabric,
    options: Options,
    recipe: Recipe,
    clips: Clips,
    *,
    training: bool,
    out: Path | None = None,
    views: Views = ONE_VIEW,
) -> ClipLoader | CpuLoader:
    """The loader of this process; ``out`` is the run's folder, for what is recorded, ``views`` are for evaluation."""
    plan = Plan(
        clips,
        recipe.frame_sampler,
        recipe.batch_size,
        training,
        recipe.size,
        seed=recipe.seed,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
        flip_probability=recipe.flip_probability,
        flip_label_map=recipe.flip_label_map,
        motion_index=_motion_index(options, out=out),
        train_crop=recipe.train_crop,
        rand_augment=None if recipe.rand_augment is None else as_rand_augment(recipe.rand_augment),
        views=views,
    )
    if options.loader == "cpu":
        return CpuLoader(plan, num_workers=recipe.num_workers)
    on_gpu = fabric.device.type == "cuda"
    try:
        return ClipLoader.of_plan(
            plan,
            num_workers=recipe.num_workers,
            route=options.route or "auto",
            # Not fabric's own word: that the CPU was asked for allows --route gpu to run its graph there.
            device="cpu" if options.device == "cpu" else "auto",
            # Half the memory, and autocast converts to bfloat16 where it computes.
            dtype=torch.float16 if on_gpu and _precision(recipe, on_gpu=on_gpu)[0] == "bf16-mixed" else torch.float32,
        )
    except ModuleNotFoundError as error:
        raise ValueError(f"{error} Or train without DALI: --loader cpu.") from None


def _motion_index(options: Options, *, out: Path | None) -> MotionIndex | MotionRecorder | None:
    if options.motion_index is None:
        return None
    if options.motion_index == "auto":
        assert out is not None
        return MotionRecorder(out / "motion")
    return MotionIndex(options.motion_index)


def build_model(recipe: Recipe, state: Mapping[str, torch.Tensor] | None) -> TSM:
    """The model, with the weights of a checkpoint or those that the recipe starts from."""
    assert recipe.num_classes is not None
    model = TSM(
        recipe.num_classes,
        recipe.num_segments,
        depth=recipe.depth,
        shift=recipe.shift,
        shift_div=recipe.shift_div,
        non_local=recipe.non_local,
        temporal_pool=recipe.temporal_pool,
        dropout=recipe.dropout,
        weights=None if state or recipe.init else recipe.weights,
    )
    if state is None and recipe.init is not None:
        kept = checkpoints.start_from(model, checkpoints.load(recipe.init))
        log.info("init: the backbone from %s; new are %s", recipe.init, ", ".join(kept))
    if state:
        try:
            model.load_state_dict(dict(state))
        except RuntimeError as error:
            raise ValueError(
                f"the checkpoint does not fit the model ({model_name(recipe)}) for {recipe.num_classes} classes: "
                f"{' '.join(str(error).split())[:300]}. Leave out --recipe, --depth and --num-classes to take its own."
            ) from None
    return model


def model_name(recipe: Recipe) -> str:
    """What to call the recipe's model, such as ``TSM, ResNet-50``."""
    backbone = "MobileNetV2" if recipe.depth == "mobilenet_v2" else f"ResNet-{recipe.depth}"
    non_local = f", non-local ({recipe.non_local})" if recipe.non_local else ""
    return f"{'TSM' if recipe.shift else 'TSN'}, {backbone}{non_local}{', temporal pooling' * recipe.temporal_pool}"


def start_run(fabric: Fabric, options: Options, recipe: Recipe, loader: Loader, checkpoint: Checkpoint | None) -> Run:
    """Model and optimizer, new or where the checkpoint left them, and the loader at the same place."""
    torch.manual_seed(recipe.seed)
    network: nn.Module = build_model(recipe, checkpoint["model"] if checkpoint else None).to(
        memory_format=torch.channels_last
    )  # faster on GPU and CPU
    if recipe.sync_batchnorm:
        if fabric.device.type != "cuda":
            raise ValueError("sync_batchnorm: PyTorch has it for GPUs only. Leave it out on the CPU.")
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    lr = recipe.lr_for(clips_a_step(fabric, recipe))
    groups = [
        {**group, "initial_lr": group["lr"]}
        for group in parameter_groups(network, lr=lr, weight_decay=recipe.weight_decay)
        if group["params"]
    ]
    optimizer = torch.optim.SGD(groups, lr=lr, momentum=recipe.momentum)
    compiled = cast(nn.Module, torch.compile(network)) if options.compile else network
    model, fabric_optimizer = fabric.setup(compiled, optimizer)
    loss_sums = torch.zeros(2, dtype=torch.float64, device=fabric.device)
    run = Run(network, model, fabric_optimizer, loader, loader.state_dict(), loss_sums)
    if checkpoint:
        optimizer.load_state_dict(checkpoint["optimizer"])
        for group, new in zip(optimizer.param_groups, groups, strict=True):
            group["initial_lr"] = new["initial_lr"]  # another number of processes may go on
        run.position = position_here(checkpoint, recipe=recipe, world_size=fabric.world_size, num_batches=len(loader))
        loader.load_state_dict(run.position)
        run.loss_sums = checkpoint["loss_sums"].to(fabric.device)
        run.best = checkpoint["best"]
    return run


def clips_a_step(fabric: Fabric, recipe: Recipe) -> int:
    """Clips of all processes that make one step."""
    return recipe.batch_size * recipe.accumulate * fabric.world_size


def snapshot(fabric: Fabric, recipe: Recipe, run: Run) -> Checkpoint:
    """The run as it stands now."""
    return {
        "model": run.network.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "loader": dict(run.position),
        "loss_sums": run.loss_sums,
        "best": run.best,
        "recipe": asdict(recipe),
        "world_size": fabric.world_size,
    }


def run_folder(options: Options) -> Path:
    """Where the run's files go: what was asked for, the folder of the checkpoint, or a new one in runs/.

    Raises:
        ValueError: the folder holds another run.
    """
    source = options.checkpoint_file
    if options.out is None and source is None:
        name = Path(options.recipe or "demo").stem
        candidates = (Path("runs", name if number == 1 else f"{name}-{number}") for number in range(1, 10**6))
        return next(folder for folder in candidates if not folder.exists())
    out = Path(options.out) if options.out is not None else source.parent if source is not None else Path()
    if (out / "last.ckpt").exists() and (source is None or source.parent.resolve() != out.resolve()):
        raise ValueError(f"--out {out} holds a run already. Go on with it (--resume auto), or choose another folder.")
    return out


def say_what_runs(fabric: Fabric, recipe: Recipe, loader: Loader, train_clips: Clips, val_clips: Clips) -> None:
    """Log what is about to be trained, on what, and how it is loaded."""
    log.info(
        "clips: %d to train on, %d to validate on, %d classes",
        len(train_clips),
        len(val_clips),
        train_clips.num_classes,
    )
    log.info(
        "model: %s; %d frames of %d x %d pixels, sampler %s",
        model_name(recipe),
        recipe.num_segments,
        recipe.size,
        recipe.size,
        recipe.sampler,
    )
    step = clips_a_step(fabric, recipe)
    log.info(
        "batch: %d clips in each of %d processes%s; %d steps of %d clips an epoch, %d epochs",
        recipe.batch_size,
        fabric.world_size,
        f", {recipe.accumulate} batches a step" if recipe.accumulate > 1 else "",
        steps_an_epoch(loader, recipe),
        step,
        recipe.epochs,
    )
    if recipe.lr_batch is None:
        log.info("lr %g as it is (lr_batch: null)", recipe.lr)
    else:
        log.info("lr %g for %d clips a step -> %g for %d", recipe.lr, recipe.lr_batch, recipe.lr_for(step), step)
