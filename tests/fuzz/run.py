"""Run the fuzz test, see :mod:`fuzz`: python -m tests.fuzz.run --num-files 1500 --seed 1 --json fuzz.json."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from fuzz.judge import BAD, FAILURES, run_file, verdict  # noqa: E402
from fuzz.mutate import SEEDS, make_seeds  # noqa: E402

LOADERS_EVERY = 7
"""Loaders start processes: they get one file in so many; a number that shares no factor with those of the seeds and of
the kinds of damage, so that all come."""
NUM_SHOWN = 60


def main() -> int:
    """The command. Returns 1 where something was delivered that FFmpeg knows to be damaged, or worse."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-files", type=int, default=150, help="damaged files (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the damage (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="results; a run that was broken off goes on from FILE.lines")
    parser.add_argument("--processes", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("--only", type=int, nargs="+", metavar="NUMBER", help="these files only")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the files of --only here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return _run(arguments, Path(folder))


def _run(arguments: argparse.Namespace, folder: Path) -> int:
    make_seeds(folder / "seeds")
    numbers = arguments.only or range(arguments.num_files)
    lines = arguments.json.with_name(arguments.json.name + ".lines") if arguments.json else None
    done: dict[int, dict[str, Any]] = {}
    if lines is not None and lines.exists():
        for text in lines.read_text().splitlines():
            line = json.loads(text)
            if line["run"] == arguments.seed:
                done[line["number"]] = line
    left = [number for number in numbers if number not in done]
    job = partial(_job, folder, arguments.seed, arguments.keep)
    start = time.monotonic()
    # Forking while threads run may hang; the workers fork, so they begin afresh.
    with ProcessPoolExecutor(arguments.processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting = [pool.submit(job, number) for number in left]
        for count, future in enumerate(as_completed(waiting), start=1):
            result = future.result()
            done[result["number"]] = {"run": arguments.seed, **result}
            if lines is not None:
                with lines.open("a") as out:
                    out.write(json.dumps(done[result["number"]]) + "\n")
            if count % 100 == 0:
                print(f"{count} of {len(left)} files, {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    results = [done[number] for number in numbers]
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"seed": arguments.seed, "files": results}, indent=1))
    if lines is not None:
        lines.unlink(missing_ok=True)
    bad = failures(results)
    print(summary(results))
    for text in bad[:NUM_SHOWN]:
        print(text)
    if len(bad) > NUM_SHOWN:
        print(f"... and {len(bad) - NUM_SHOWN} more")
    return int(bool(bad))


def _job(folder: Path, seed: int, keep: Path | None, number: int) -> dict[str, Any]:
    return run_file(folder / "seeds", folder, seed, number, loaders=number % LOADERS_EVERY == 0, keep=keep)


def failures(results: Iterable[dict[str, Any]]) -> list[str]:
    """A line for each route of each file that must not be so."""
    found = []
    for result in results:
        for route, outcome in result.get("routes", {}).items():
            word = verdict(outcome)
            if word in FAILURES or (word in BAD and outcome["known"]):
                known = f"; FFmpeg: {outcome['known'][:120]}" if outcome.get("known") else ""
                what = outcome.get("frames") or outcome.get("text")
                details = f"{result['seed']}, {result['kind']}: {result['details']}"
                found.append(f"{result['number']} {route}: {word} ({what}) of {details}{known}")
        if not result.get("alike", True):
            host, sparse = (result["routes"][route] for route in ("host", "host-sparse"))
            found.append(f"{result['number']} host and host-sparse differ: {host}, {sparse} of {result['seed']}")
    return found


def summary(results: list[dict[str, Any]]) -> str:
    """Tables: verdicts by route, and what was delivered bad by seed and by kind of damage."""
    made = [result for result in results if "routes" in result]
    routes = list(dict.fromkeys(route for result in made for route in result["routes"]))
    words = ("reported", "right", "slight", "concealed", "wrong", *FAILURES)
    text = [f"{len(made)} files ({len(results) - len(made)} could not be made), FFmpeg knows of "]
    text[0] += f"damage in {sum(bool(result['known']) for result in made)}; in brackets: of those that it knows of,"
    text[0] += " in the delivered frames themselves where they are not right"
    text.append(f"{'':22}" + "".join(f"{word:>15}" for word in words))
    for route in routes:
        counts: Counter[str] = Counter()
        known: Counter[str] = Counter()
        for result in made:
            if route in result["routes"]:
                word = verdict(result["routes"][route])
                counts[word] += 1
                known[word] += bool(result["routes"][route].get("known") if word in BAD else result["known"])
        cells = (f"{counts[word]} ({known[word]})" if counts[word] else "." for word in words)
        text.append(f"{route:22}" + "".join(f"{cell:>15}" for cell in cells))
    for what in ("seed", "kind"):
        text.append(f"\nby {what}: files; delivered wrong or concealed on some route, and known; worse")
        for name in SEEDS if what == "seed" else dict.fromkeys(result["kind"] for result in made):
            of = [result for result in made if result[what] == name]
            verdicts = [{verdict(outcome) for outcome in result["routes"].values()} for result in of]
            bad = [bool(found & set(BAD)) for found in verdicts]
            known_bad = sum(any(o.get("known") for o in result["routes"].values()) for result in of)
            worse = sum(bool(found & set(FAILURES)) for found in verdicts)
            text.append(f"{name:22}{len(of):6}{sum(bad):6}{known_bad:6}{worse:6}")
    return "\n".join(text)


if __name__ == "__main__":
    sys.exit(main())
