"""Small bugs that the tests must notice: ``python tests/mutants.py [NAME ...]``, by hand and before a release.

Each bug is put into a copy of the checkout, alone, and the tests named with it run there. A bug that they do not notice
"survived": there is a test to be written. Without names all bugs are tried, which takes a quarter of an hour. The exit
code is 1 if a bug survived, or could not be tried.

A bug is a piece of text that occurs exactly once in the code, and what stands there instead. In which file it is does
not matter, so that code can move; where the text itself changes, change it here as well.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[1]
CODE = ("mgs_dali", "train", "models")
LEFT_OUT = (".git", ".venv*", "__pycache__", ".*_cache", "runs", "*.egg-info")
SECONDS = 900
"""For the tests of one bug; one that makes them hang is noticed, too."""


@dataclass(frozen=True)
class Mutant:
    """A bug, and who is to notice it."""

    name: str
    old: str
    new: str
    tests: str
    """Of tests/, as pytest names them; those that CI runs."""


MUTANTS = (
    # --- which frames
    Mutant(
        "mu ignored with a curve that is known",
        "return frames_of_span(video.name, span, sampler=sampler, targets=targets, motion=of_span)",
        "sampler_ = type(sampler)(sampler.num_segments, floor=sampler.floor, pick=sampler.pick) if motion is not None "
        "else sampler\n"
        "        return frames_of_span(video.name, span, sampler=sampler_, targets=targets, motion=of_span)",
        "test_source.py::test_a_known_curve_is_read_as_the_sampler_says",
    ),
    Mutant(
        "pick ignored with a curve that is known",
        "return frames_of_span(video.name, span, sampler=sampler, targets=targets, motion=of_span)",
        "sampler_ = type(sampler)(sampler.num_segments, sampler.mu, sampler.floor) if motion is not None else sampler\n"
        "        return frames_of_span(video.name, span, sampler=sampler_, targets=targets, motion=of_span)",
        "test_source.py::test_a_known_curve_is_read_as_the_sampler_says",
    ),
    Mutant(
        "mu ignored with a motion index in a loader",
        "return frames_of_span(video.name, span, sampler=sampler, targets=targets, motion=of_span)",
        "sampler_ = type(sampler)(sampler.num_segments, floor=sampler.floor, pick=sampler.pick) if motion is not None "
        "else sampler\n"
        "        return frames_of_span(video.name, span, sampler=sampler_, targets=targets, motion=of_span)",
        "test_loader.py::test_a_motion_index_gives_the_clips_of_measuring",
    ),
    Mutant(
        "floor ignored in the graph",
        "return guided_frames(motion, targets, mu=sampler.mu, floor=sampler.floor, pick=sampler.pick)",
        "return guided_frames(motion, targets, mu=sampler.mu, pick=sampler.pick)",
        "test_loader.py::test_a_floor_leaves_frames_to_still_parts_in_the_graph_too",
    ),
    Mutant(
        "span of a clip ignored by the graph",
        "return None if len(found.span) == found.num_frames else np.array(found.span)",
        "return None",
        "test_loader.py::test_the_part_of_a_video_that_is_the_clip",
    ),
    Mutant(
        "motion of another part of the video",
        "of_span = measure_of(sampler).curve(reading) if motion is None else motion[span.start : span.stop - 1]",
        "of_span = measure_of(sampler).curve(reading) if motion is None else motion[: len(span) - 1]",
        "test_loader.py::test_the_part_of_a_video_that_is_the_clip",
    ),
    Mutant(
        "sizes of B-frames not scaled",
        "sizes[backward] *= sizes[forward].mean() / sizes[backward].mean()",
        "pass",
        "test_measures.py::test_packet_scales_b_frames",
    ),
    Mutant(
        "index blind to a change of time",
        "return job.video(path).stamp() == (row.size_bytes, row.mtime_ns)",
        "return job.video(path).stamp().size_bytes == row.size_bytes",
        "test_motion_index.py::test_a_file_that_changed_in_time_only_is_measured_again",
    ),
    Mutant(
        "index blind to a change of size",
        "return job.video(path).stamp() == (row.size_bytes, row.mtime_ns)",
        "return job.video(path).stamp().mtime_ns == row.mtime_ns",
        "test_motion_index.py::test_a_file_that_changed_in_size_only_is_measured_again",
    ),
    # --- draws and order
    Mutant(
        "one crop for all epochs",
        "crop_rng = generator(seed, purpose=Purpose.CROPS, epoch=epoch, index=sample)",
        "crop_rng = generator(seed, purpose=Purpose.CROPS, epoch=0, index=sample)",
        "test_source.py::test_another_epoch_gives_another_crop",
    ),
    Mutant(
        "one stream for all purposes",
        "np.random.Philox(key=[seed, purpose], counter=[0, 0, epoch, index])",
        "np.random.Philox(key=[seed, 0], counter=[0, 0, epoch, index])",
        "test_source.py::test_crops_are_not_related_to_targets",
    ),
    Mutant(
        "crops drawn after the targets",
        "crop_rng = generator(seed, purpose=Purpose.CROPS, epoch=epoch, index=sample)",
        "crop_rng = generator(seed, purpose=Purpose.DRAWS, epoch=epoch, index=sample)\n"
        "        sampler.targets(rng=crop_rng)",
        "test_source.py::test_crops_do_not_depend_on_what_else_is_drawn",
    ),
    Mutant(
        "mirrored with 1 - probability",
        "flip = bool(rng.random() < flip_probability)",
        "flip = bool(rng.random() >= flip_probability)",
        "test_source.py::test_training_draws_vary",
    ),
    Mutant(
        "one order for all epochs",
        "order = generator(seed, purpose=Purpose.ORDER, epoch=epoch).permutation(num_samples)",
        "order = generator(seed, purpose=Purpose.ORDER, epoch=0).permutation(num_samples)",
        "test_source.py::test_order_changes_with_epoch_and_seed_and_nothing_else",
    ),
    Mutant(
        "stride of the ranks",
        "place = (iteration * world_size + rank) * batch_size + np.arange(batch_size)",
        "place = (iteration + rank * world_size) * batch_size + np.arange(batch_size)",
        "test_source.py::test_ranks_share_out_the_order",
    ),
    # --- pictures
    Mutant(
        "x and y of a crop swapped",
        "return picture[y : y + height, x : x + width]",
        "return picture[x : x + height, y : y + width]",
        "test_source.py::test_load_clip",
    ),
    Mutant(
        "labels of the clips that are not mirrored",
        "return np.where(flips, mapped[labels], labels)",
        "return np.where(flips, labels, mapped[labels])",
        "test_source.py::test_labels_of_flipped_clips",
    ),
    Mutant(
        "memory of a part not spent",
        "budget -= used",
        "pass",
        "test_fallback.py::test_a_video_that_does_not_fit_beside_the_others_goes_to_the_cpu",
    ),
    # --- training
    Mutant(
        "the worst epoch called the best",
        "score > run.best[judge]",
        "score < run.best[judge]",
        "test_train.py::test_the_best_epoch_is_the_one_with_the_highest_score",
    ),
    Mutant(
        "grad_clip ignored",
        "max_norm=recipe.grad_clip or math.inf",
        "max_norm=math.inf",
        "test_loop.py::test_an_epoch_equals_plain_pytorch",
    ),
    Mutant(
        "clips that fill up the batch trained on",
        "multi_label=labels.ndim == 2).masked_fill(~valid, 0)",
        "multi_label=labels.ndim == 2)",
        "test_loop.py::test_an_epoch_equals_plain_pytorch",
    ),
    Mutant(
        "waiting not counted",
        "self.wait_seconds += time.perf_counter() - asked",
        "self.wait_seconds += 0.0",
        "test_loop.py::test_times_are_those_of_the_clock",
    ),
    Mutant(
        "one dropout for all processes",
        "return int(of_ranks.integers(2**63, size=rank + 1)[-1])",
        "return int(of_ranks.integers(2**63, size=1)[-1])",
        "test_loop.py::test_dropout_is_another_one_in_each_step_and_process",
    ),
    Mutant(
        "gradient short by the number of processes",
        "fabric.backward(losses.sum() * fabric.world_size / num_valid)",
        "fabric.backward(losses.sum() / num_valid)",
        "test_loop.py::test_two_processes_step_as_plain_pytorch_and_share_statistics",
    ),
    Mutant(
        "statistics of batch norms not shared",
        "torch.distributed.broadcast(buffer, src=0)",
        "pass",
        "test_loop.py::test_two_processes_step_as_plain_pytorch_and_share_statistics",
    ),
    Mutant(
        "warm-up from 0",
        "return 0.1 + 0.9 * epoch / self.warmup_epochs",
        "return epoch / self.warmup_epochs",
        "test_train.py::test_learning_rate_steps_after_a_warm_up",
    ),
    Mutant(
        "x and y of cutmix swapped",
        "return left, top, right, bottom",
        "return top, left, bottom, right",
        "test_mixing.py::test_cutmix_takes_a_rectangle_from_the_neighbour",
    ),
    Mutant(
        "softmax of the mean",
        "    return scores.unflatten(0, (-1, num_views)).mean(dim=1)",
        "    if average == 'probabilities' and not multi_label:\n"
        "        return logits.double().unflatten(0, (-1, num_views)).mean(dim=1).softmax(dim=1)\n"
        "    return scores.unflatten(0, (-1, num_views)).mean(dim=1)",
        "test_evaluation.py::test_probabilities_and_logits_can_disagree",
    ),
    Mutant(
        "shifted the other way",
        "(slice(0, fold), slice(fold, 2 * fold))[::step]",
        "(slice(0, fold), slice(fold, 2 * fold))[::-step]",
        "test_tsm_model.py::test_shift_worked_example",
    ),
)


def run_tests(checkout: Path, tests: Sequence[str]) -> tuple[int | None, str]:
    """pytest's exit code, None where it took too long, and the end of what it said."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    # No bytecode: it is known by a file's size and second, which a bug may share with what it stands for.
    environment = {**os.environ, "PYTHONPATH": str(checkout), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            command,
            cwd=checkout / "tests",
            env=environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None, ""
    return done.returncode, (done.stdout + done.stderr)[-3000:]


def places_of(text: str, checkout: Path) -> list[Path]:
    """The files of the code that a text is in, as often as it is there."""
    files = [file for folder in CODE for file in sorted((checkout / folder).rglob("*.py"))]
    return [file for file in files for _ in range(file.read_text(encoding="utf-8").count(text))]


def verdict(mutant: Mutant, checkout: Path) -> str:
    """What became of a bug: "killed" or what else."""
    places = places_of(mutant.old, checkout)
    if len(places) != 1:
        found = ", ".join(str(place.relative_to(checkout)) for place in places) or "nowhere"
        return f"NOT TRIED: its old text must be in one place, and is in {len(places)} ({found})"
    (file,) = places
    whole = file.read_text(encoding="utf-8")
    file.write_text(whole.replace(mutant.old, mutant.new), encoding="utf-8")
    try:
        code, said = run_tests(checkout, [mutant.tests])
    finally:
        file.write_text(whole, encoding="utf-8")
    if code in (1, None):
        return "killed"
    return "SURVIVED" if code == 0 else f"NOT TRIED: pytest ended with {code}\n{said}"


def main() -> int:
    """Try the bugs asked for. Returns the exit code."""
    parser = argparse.ArgumentParser(description="Put small bugs into the code, one at a time, and see tests fail.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="parts of the names of bugs; all by default")
    names = parser.parse_args().names
    chosen = [mutant for mutant in MUTANTS if not names or any(name in mutant.name for name in names)]
    if not chosen:
        parser.error(f"no bug is called so. There are: {'; '.join(mutant.name for mutant in MUTANTS)}")
    with TemporaryDirectory(prefix="mutants-") as folder:
        checkout = Path(folder) / "checkout"
        shutil.copytree(ROOT, checkout, ignore=shutil.ignore_patterns(*LEFT_OUT))
        code, said = run_tests(checkout, sorted({mutant.tests for mutant in chosen}))
        if code != 0:
            print(f"{said}\nWithout any bug the tests end with {code}: that comes first.")
            return 1
        verdicts = []
        for mutant in chosen:
            start = time.monotonic()
            verdicts.append(verdict(mutant, checkout))
            print(f"{mutant.name:45} {verdicts[-1]} ({time.monotonic() - start:.0f} s)", flush=True)
    num_killed = verdicts.count("killed")
    print(f"{num_killed} of {len(chosen)} killed")
    return int(num_killed < len(chosen))


if __name__ == "__main__":
    sys.exit(main())
