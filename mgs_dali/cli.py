"""The command ``mgs-dali``."""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_type_hints

from jsonargparse import ArgumentParser, Namespace

from . import doctor
from .demo import CLASSES, make_demo
from .index.indexing import Summary, index_videos
from .index.released_json import JsonFormat, export_json, import_json
from .index.store import MotionIndex
from .lists.hmdb51 import write_hmdb51_lists
from .lists.read import read_annotations
from .lists.table import Clips
from .motion.measure import MEASURES
from .sampling import MotionGuided

__all__ = ["main"]

Pick = Literal["nearest", "inverse"]

_PLOT_VIDEO = "mgs-dali plot VIDEO --out PNG"
_PLOT_INDEX = "mgs-dali plot --index DIR --root DIR {--out PNG, --html FILE}"
_NUM_SHEET_VIDEOS, _NUM_PAGE_VIDEOS = 8, 500


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: what follows the command's name; those of this process by default.

    Returns:
        The exit status: 0, 2 for anything the user can put right (one line on stderr says what), 130 after Ctrl-C.
        Videos that cannot be measured are reported and leave the status at 0, unless there is not one that can.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments[:1] == ["doctor"]:
        return doctor.main(arguments[1:])
    try:
        given = _parser().parse_args(arguments)
        run = {
            "demo": _demo, "plot": _plot, "index": _index, "import-json": _import_json, "export-json": _export_json,
            "hmdb51-lists": _hmdb51_lists,
        }[given.command]  # fmt: skip
        return run(given[given.command])
    except argparse.ArgumentError as error:
        print(f"error: {_plain(error)}. See: mgs-dali --help, mgs-dali COMMAND --help", file=sys.stderr)
        return 2
    except (ValueError, OSError, ModuleNotFoundError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


MeasureName = Literal[tuple(MEASURES)]  # type: ignore[valid-type]
_MEASURE_OPTIONS = {
    option: name for name, make in MEASURES.items() for option in inspect.signature(make).parameters.values()
}


def _flag(option: inspect.Parameter) -> str:
    return f"--{option.name.replace('_', '-')}"


def _parser() -> ArgumentParser:
    demo = ArgumentParser(
        usage="mgs-dali demo OUT [options]",
        description="Write a small synthetic data set: short actions in long still videos. What is there is kept.",
        exit_on_error=False,
    )
    demo.add_argument("out", metavar="OUT", help="folder for videos/, train_list.txt and val_list.txt")
    demo.add_argument("--seed", type=int, default=0, help="another seed gives other videos")
    demo.add_argument("--num-train", type=int, default=400, help="number of training videos")
    demo.add_argument("--num-val", type=int, default=96, help="number of validation videos")

    defaults = MotionGuided()
    plot = ArgumentParser(
        usage=f"{_PLOT_VIDEO} [options]\n       {_PLOT_INDEX} [options] [VIDEO ...]",
        description="Draw the motion of a video, its CDF, and the frames chosen against uniform ones; or of those "
        "videos of an index where the two differ most, as one picture or as a page to browse.",
        exit_on_error=False,
    )
    plot.add_argument("video", metavar="VIDEO", nargs="*", help="a video file; with --index, paths as they are in it")
    plot.add_argument("--out", metavar="PNG", type=str, help="the picture to write")
    plot.add_argument("--html", metavar="FILE", type=str, help="the page to write, one file; with --index")
    plot.add_argument("--index", metavar="DIR", type=str, help="a motion index, whose curves are used")
    plot.add_argument("--root", metavar="DIR", type=str, help="the folder that the index's paths start from")
    plot.add_argument("--template", type=str, help="of an index of frame folders: how files are named")
    plot.add_argument(
        "--num-videos",
        type=int,
        help=f"of an index, those that differ most; by default {_NUM_SHEET_VIDEOS} on a picture, {_NUM_PAGE_VIDEOS} "
        "on a page",
    )
    plot.add_argument("--num-segments", type=int, default=defaults.num_segments, help="frames to choose")
    plot.add_argument(
        "--mu", type=float, default=defaults.mu, help="exponent that smooths motion; 0 is uniform in time"
    )
    plot.add_argument("--floor", type=float, default=defaults.floor, help="share of the mean motion added everywhere")
    plot.add_argument("--pick", type=Pick, default=defaults.pick, help="the released rule, or the inverse of the CDF")

    index = ArgumentParser(
        usage="mgs-dali index LIST --root DIR --out DIR [options]",
        description="Measure the motion of every video of a list, once. The same command goes on where it was stopped.",
        exit_on_error=False,
    )
    _add_list(index)
    index.add_argument("--measure", type=MeasureName, default="pixel", help=f"one of {', '.join(MEASURES)}")
    for option, measure in _MEASURE_OPTIONS.items():
        says = re.search(rf"{option.name}: (.*)", inspect.getdoc(MEASURES[measure]) or "")
        index.add_argument(
            _flag(option),
            metavar="FILE",
            type=get_type_hints(MEASURES[measure])[option.name],
            default=option.default,
            help=f"of measure {measure}: {says[1] if says else ''}",
        )
    index.add_argument("--num-workers", type=int, help="processes; by default one a CPU core")

    import_ = ArgumentParser(
        usage="mgs-dali import-json JSON LIST --root DIR --out DIR [options]",
        description="Make an index of the motion in the released MGSampler code's img_diff_*.json.",
        exit_on_error=False,
    )
    import_.add_argument("json", metavar="JSON", help="the file of the released code")
    _add_list(import_)
    import_.add_argument(
        "--format", type=JsonFormat, default="auto", help="raw differences, or the cumulated feature curves"
    )

    export = ArgumentParser(
        usage="mgs-dali export-json INDEX --out JSON",
        description="Write an index as the JSON of raw differences that the released MGSampler code reads.",
        exit_on_error=False,
    )
    export.add_argument("index", metavar="INDEX", help="folder of a motion index")
    export.add_argument("--out", metavar="JSON", required=True, help="the file to write")

    hmdb51 = ArgumentParser(
        usage="mgs-dali hmdb51-lists SPLITS --out DIR [--split N]",
        description="Make a training and a test list of HMDB51's official files, of which there is one for each class.",
        exit_on_error=False,
    )
    hmdb51.add_argument("splits", metavar="SPLITS", help="folder of the files <class>_test_split1.txt")
    hmdb51.add_argument("--out", metavar="DIR", required=True, help="folder for the lists and the names of the classes")
    hmdb51.add_argument("--split", type=int, default=1, help="1, 2 or 3")

    parser = ArgumentParser(
        prog="mgs-dali",
        usage="mgs-dali COMMAND ... [--help]",
        description="Motion-guided video loading on NVIDIA DALI.",
        exit_on_error=False,
    )
    commands = parser.add_subcommands(required=True, dest="command", title="commands")
    # The doctor has a parser of its own, which needs no package; here it is for the list of commands.
    doctor_ = ArgumentParser(usage="mgs-dali doctor [LIST --root DIR] [options]", exit_on_error=False)
    commands.add_subcommand("doctor", doctor_, help="say what works here, and what to do about the rest")
    commands.add_subcommand("demo", demo, help="write a data set to try things on")
    commands.add_subcommand("plot", plot, help="draw why these frames are chosen, of a video or of an index")
    commands.add_subcommand("index", index, help="measure the motion of every video of a list")
    commands.add_subcommand("import-json", import_, help="make an index of the released code's JSON")
    commands.add_subcommand("export-json", export, help="write an index as the released code's JSON")
    commands.add_subcommand("hmdb51-lists", hmdb51, help="make lists of HMDB51's official files")
    return parser


def _add_list(parser: ArgumentParser) -> None:
    parser.add_argument("list", metavar="LIST", help="a list of videos in any format, or a folder of class folders")
    parser.add_argument("--root", metavar="DIR", type=str, help="the folder that the list's paths start from")
    parser.add_argument("--out", metavar="DIR", required=True, help="the index: a folder, made if it is not there")
    parser.add_argument("--multi-label", type=bool, default=False, help="true where a line may have several labels")
    parser.add_argument("--num-classes", type=int, help="of a multi-label list")
    parser.add_argument("--template", type=str, help="of frame folders: how files are named, such as img_{:05}.jpg")
    parser.add_argument("--with-offset", type=bool, default=False, help="true where frame folders have an offset")


def _clips(given: Namespace) -> Clips:
    return read_annotations(
        given.list,
        root=given.root,
        num_classes=given.num_classes,
        multi_label=given.multi_label,
        template=given.template,
        with_offset=given.with_offset,
    )


def _index(given: Namespace) -> int:
    options = {}
    for option, measure in _MEASURE_OPTIONS.items():
        value = given[option.name]
        if measure == given.measure:
            options[option.name] = value
        elif value != option.default:
            raise ValueError(
                f"{_flag(option)} belongs to --measure {measure}, found --measure {given.measure}. Leave one of them "
                "out."
            )
    clips = _clips(given)
    by = MEASURES[given.measure](**options)
    try:
        summary = index_videos(clips, given.out, measure=by, num_workers=given.num_workers)
    except KeyboardInterrupt:
        print(f"{given.out} keeps what was measured so far. The same command goes on from there.", file=sys.stderr)
        raise
    print(f"{given.out}: {summary.num_measured} videos measured now, {summary.num_known} before")
    if summary.num_unproved:
        print(
            f"{summary.num_unproved} of the files measured now do not tell where they end (live recordings, transport "
            "streams): whether they were cut off cannot be known."
        )
    return _report(summary, given.out)


def _import_json(given: Namespace) -> int:
    summary = import_json(given.json, _clips(given), given.out, json_format=given.format)
    print(f"{given.out}: {summary.num_measured} of the {summary.num_videos} videos of {given.list} imported")
    return _report(summary, given.out)


def _export_json(given: Namespace) -> int:
    index = MotionIndex(given.index)
    num_clips = export_json(index, given.out)
    print(f"{given.out}: {num_clips} clips, {len(index.errors)} without motion left out")
    return 0


_NUM_FAILURES_SHOWN = 20


def _report(summary: Summary, out: str) -> int:
    """Tell what failed and why. The status is 0 unless there is not one motion curve."""
    if not summary.errors:
        return 0
    print(f"{len(summary.errors)} of {summary.num_videos} have no motion curve:", file=sys.stderr)
    _list_failures(summary.errors, rest=f"all in MotionIndex({out!r}).errors")
    return 2 if len(summary.errors) == summary.num_videos else 0


def _list_failures(errors: Mapping[str, str], *, rest: str) -> None:
    """Tell why, a line a video; `rest` says where all of them are if these are too many."""
    for text in list(errors.values())[:_NUM_FAILURES_SHOWN]:
        print(f"  {' '.join(text.split())}", file=sys.stderr)
    if len(errors) > _NUM_FAILURES_SHOWN:
        print(f"  and {len(errors) - _NUM_FAILURES_SHOWN} more, {rest}", file=sys.stderr)


def _hmdb51_lists(given: Namespace) -> int:
    for file in write_hmdb51_lists(given.splits, given.out, split=given.split):
        print(f"{file}: {len(file.read_text(encoding='utf-8').splitlines())} videos")
    return 0


def _demo(given: Namespace) -> int:
    files = make_demo(given.out, seed=given.seed, num_train=given.num_train, num_val=given.num_val)
    print(f"{files.train_list}: {given.num_train} videos of {len(CLASSES)} classes")
    print(f"{files.val_list}: {given.num_val} videos")
    print(f"{files.root}: the videos")
    return 0


def _plot(given: Namespace) -> int:
    sampler = MotionGuided(given.num_segments, mu=given.mu, floor=given.floor, pick=given.pick)
    if given.index is not None:
        return _plot_index(given, sampler)
    for name in ("html", "root", "num_videos", "template"):
        if getattr(given, name) is not None:
            option = name.replace("_", "-")
            raise ValueError(f"--{option} belongs to --index, which was not given. Use: {_PLOT_INDEX}")
    if len(given.video) > 1:
        raise ValueError(f"found {len(given.video)} videos. Several take their motion from an index: {_PLOT_INDEX}")
    if not given.video or given.out is None:
        missing = "VIDEO" if not given.video else "--out PNG"
        raise ValueError(f"{missing} is missing. Use: {_PLOT_VIDEO}, or: {_PLOT_INDEX}")
    from .look.plot import plot_video  # noqa: PLC0415  needs matplotlib

    choice = plot_video(Path(given.video[0]), Path(given.out), sampler=sampler)
    print(f"motion-guided frames  {' '.join(map(str, choice.guided))}")
    print(f"uniform frames        {' '.join(map(str, choice.uniform))}")
    print(f"{given.out} shows why.")
    return 0


def _plot_index(given: Namespace, sampler: MotionGuided) -> int:
    """A sheet or a page, or both, of the videos that are named, or of those where the two samplers differ most."""
    if given.root is None or (given.out is None and given.html is None):
        missing = "--root DIR" if given.root is None else "--out PNG or --html FILE"
        raise ValueError(f"{missing} is missing. Use: {_PLOT_INDEX}")
    if given.video and given.num_videos is not None:
        raise ValueError("videos are named, and --num-videos tells how many to take. Leave one of them out.")
    if given.num_videos is not None and given.num_videos < 1:
        raise ValueError(f"--num-videos must be at least 1, found {given.num_videos}.")
    root = Path(given.root)
    if not root.is_dir():
        raise ValueError(f"{root}: there is no such folder. --root is the folder that the index's paths start from.")
    index = MotionIndex(given.index)
    if not given.video and given.out is not None and not len(index):
        raise ValueError(f"{given.index}: not one of its {len(index.errors)} videos has a motion curve to draw.")
    from .look.browse import most_different, note_of_short, page_selection, write_page  # noqa: PLC0415  needs matplotlib
    from .look.sheet import plot_sheet  # noqa: PLC0415

    ranked = [] if given.video else most_different(index, sampler=sampler)
    failed = {}
    if given.out is not None:
        paths = given.video or ranked[: given.num_videos or _NUM_SHEET_VIDEOS]
        choices = plot_sheet(index, paths, Path(given.out), root=root, sampler=sampler, template=given.template)
        failed.update({choice.name: choice.error for choice in choices if choice.error})
        note = note_of_short(index, ranked, sampler=sampler)
        print(f"{given.out} shows {len(paths)} of the {len(index)} videos with a motion curve.{note}")
    if given.html is not None:
        paths, note = given.video, "The videos that were named."
        if not given.video:
            num_videos = given.num_videos or _NUM_PAGE_VIDEOS
            paths, note = page_selection(index, ranked, num_videos=num_videos, sampler=sampler)
        failed.update(
            write_page(index, paths, Path(given.html), root=root, sampler=sampler, template=given.template, note=note)
        )
        print(f"{given.html}: {note}")
    if failed:
        print(f"{len(failed)} could not be shown:", file=sys.stderr)
        _list_failures(failed, rest="all of them say why where they are shown")
    return 0


def _plain(error: argparse.ArgumentError) -> str:
    """A parser's message on one line, in the words of the command line."""
    text = re.sub(
        r"\b(?:demo|plot|index|import-json|export-json|hmdb51-lists)\.", "", " ".join(str(error).split())
    ).rstrip(".")
    wrong = re.fullmatch(r'Parser key "(\w+)": Expected a (.*)\. Got value: (.*)', text)
    if not wrong:
        return text
    name, kind, found = wrong.groups()
    kind = {"<class 'int'>": "a whole number", "<class 'float'>": "a number"}.get(kind, kind)
    kind = re.sub(r"typing\.Literal\[(.*)\]", r"one of \1", kind)
    return f"--{name.replace('_', '-')} must be {kind}, found {found}"


if __name__ == "__main__":
    sys.exit(main())
