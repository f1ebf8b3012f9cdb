"""What a run tells: log lines, and the metrics in its folder."""

from __future__ import annotations

import json
import logging
import shlex
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning.fabric import Fabric
from torch.utils.tensorboard import SummaryWriter

from mgs_dali.files import write_whole

from .recipe import Recipe
from .stop import Stopped

__all__ = ["Metrics", "log", "open_log", "read_metrics", "say_how_to_go_on", "set_up_logging"]

log = logging.getLogger("train")

Metrics = dict[str, Any]


def set_up_logging(*, shown: bool) -> None:
    """Log to stderr; where not ``shown`` (all processes but the first) only warnings."""
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    for logger in (log, logging.getLogger("mgs_dali")):  # the loaders say what route they take
        logger.setLevel(logging.INFO if shown else logging.WARNING)


def command() -> str:
    """The command line of this process, to be typed again."""
    return shlex.join(["python", "-m", "train.tsm", *sys.argv[1:]])


@contextmanager
def open_log(
    fabric: Fabric, out: Path, recipe: Recipe, *, num_epochs_done: int, wandb_project: str | None = None
) -> Iterator[Callable[[Metrics], None]]:
    """Open the folder of a run and give what an epoch's metrics are told to: the log, metrics.jsonl, TensorBoard and,
    where a project is given, Weights & Biases.

    What the folder holds of epochs after ``num_epochs_done`` is dropped: they come again.

    Raises:
        ValueError: the folder cannot be made.
    """
    if not fabric.is_global_zero:
        yield lambda _metrics: None
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"--out {out}: no such folder can be made ({error}). Choose one where you may write."
        ) from None
    log.info("files: %s", out)
    (out / "config.yaml").write_text(f"# {command()}\n{recipe.to_yaml()}", encoding="utf-8")
    file = out / "metrics.jsonl"
    with write_whole(file) as unfinished:
        lines = (_json_line(line) for line in read_metrics(file) if line["epoch"] <= num_epochs_done)
        unfinished.write_text("".join(lines))

    def write(metrics: Metrics) -> None:
        with file.open("a") as stream:
            stream.write(_json_line(metrics))
        measured = {name: value for name, value in metrics.items() if name != "epoch" and value is not None}
        for name, value in measured.items():
            board.add_scalar(name, value, metrics["epoch"])
        board.flush()
        send(metrics["epoch"], measured)
        text = ", ".join(f"{name} {value:.4g}" for name, value in measured.items())
        log.info("epoch %d/%d: %s", metrics["epoch"], recipe.epochs, text)

    with SummaryWriter(str(out), purge_step=num_epochs_done + 1) as board, _wandb(wandb_project, out, recipe) as send:
        yield write


@contextmanager
def _wandb(project: str | None, out: Path, recipe: Recipe) -> Iterator[Callable[[int, Metrics], None]]:
    """Send (epoch, metrics) to a project of Weights & Biases; a run that goes on goes on there too."""
    if project is None:
        yield lambda _epoch, _metrics: None
        return
    import wandb  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415

    id_file = out / "wandb_id.txt"
    if not id_file.is_file():
        id_file.write_text(uuid.uuid4().hex)
    with wandb.init(
        project=project, name=out.name, id=id_file.read_text(), resume="allow", dir=str(out), config=asdict(recipe)
    ) as sent:
        yield lambda epoch, metrics: sent.log(metrics, step=epoch)


@contextmanager
def say_how_to_go_on(fabric: Fabric, loader: str, out: Path) -> Iterator[None]:
    """On Ctrl-C or SIGTERM, say in one line how to go on with the run in this folder."""
    try:
        yield
    except (KeyboardInterrupt, Stopped):
        if fabric.is_global_zero:
            saved = (out / "last.ckpt").is_file()
            again = f"Go on with: python -m train.tsm --loader {loader} --out {shlex.quote(str(out))} --resume auto"
            print(f"\nStopped. {again if saved else 'No checkpoint was saved yet.'}", file=sys.stderr)
        raise


def read_metrics(file: Path) -> list[Metrics]:
    """The lines of a metrics.jsonl; none where there is no such file. A last line that was cut off is left out."""
    if not file.is_file():
        return []
    return [json.loads(line) for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]


def _json_line(metrics: Metrics) -> str:
    return json.dumps(metrics) + "\n"
