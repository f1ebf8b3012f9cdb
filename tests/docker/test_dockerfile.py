"""The reader of Dockerfiles, and what docker/Dockerfile says by it. run.sh runs what it says."""

from __future__ import annotations

import configparser
import os
import re
import subprocess
from pathlib import Path

import pytest
from dockerfile import Image, copied_files, is_ignored, plan, read_ignore_file

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "docker" / "Dockerfile"


def read(folder: Path, text: str, **build_args: str) -> Image:
    file = folder / "Dockerfile"
    file.write_text(text)
    return plan(file, build_args, base_environment={"PATH": "/usr/bin"})


def test_lines_are_joined_and_comments_left_out(tmp_path: Path) -> None:
    lines = [
        "# a comment",
        "FROM base:1",
        "",
        r"RUN first \ ",
        "  # why",
        "  && second \\",
        "",
        "  && third # no comment",
    ]
    image = read(tmp_path, "\n".join([*lines, "USER me"]))
    (step,) = image.steps
    assert step.line == 4
    assert step.command == ("/bin/sh", "-c", "first   && second   && third # no comment")
    assert image.user == "me"


def test_args_before_from_are_for_from_and_for_whoever_asks(tmp_path: Path) -> None:
    text = "ARG VERSION=3.11\nARG BASE=python:${VERSION}\nFROM ${BASE}\n"
    assert read(tmp_path, text).base == "python:3.11"
    assert read(tmp_path, text, VERSION="3.12").base == "python:3.12"
    assert read(tmp_path, f"{text}ARG VERSION\nWORKDIR /$VERSION\n", VERSION="3.12").workdir == "/3.12"
    with pytest.raises(ValueError, match=r"Dockerfile:4: \$VERSION has no value"):
        read(tmp_path, f"{text}WORKDIR /$VERSION\n")


def test_variables_and_their_defaults(tmp_path: Path) -> None:
    text = 'FROM b\nARG A=1\nENV B=${A}2 C="$B and ${MISSING:-none}" PATH=/venv/bin:$PATH\n'
    with pytest.raises(ValueError, match=r"Dockerfile:3: \$B has no value"):
        read(tmp_path, text)  # an ENV sees what is above it
    image = read(tmp_path, text.replace(" C=", "\nENV C=") + "RUN echo $A ${B#x}\nENV A=env\nWORKDIR /$A\n")
    assert image.environment == {"PATH": "/venv/bin:/usr/bin", "B": "12", "C": "12 and none", "A": "env"}
    assert image.workdir == "/env"  # ENV is stronger than ARG
    assert image.steps[0].command[-1] == "echo $A ${B#x}"  # the shell's to put in
    assert image.steps[0].environment == {"PATH": "/venv/bin:/usr/bin", "B": "12", "C": "12 and none", "A": "1"}


def test_user_and_workdir_are_for_what_follows(tmp_path: Path) -> None:
    image = read(tmp_path, "FROM b\nRUN one\nUSER 7:8\nWORKDIR /a\nWORKDIR b/../c\nRUN two\nCOPY x ./\nUSER root\n")
    one, a, c, two, copy = image.steps
    assert (one.user, one.workdir) == ("", "/")
    assert [a.workdir, c.workdir] == ["/a", "/a/c"]
    assert (two.user, two.workdir) == ("7:8", "/a/c")
    assert copy.target == "/a/c"
    assert (image.user, image.workdir) == ("root", "/a/c")


def test_what_a_container_is_started_with(tmp_path: Path) -> None:
    image = read(
        tmp_path,
        'FROM b\nSHELL ["/bin/bash", "-c"]\nRUN x\nRUN ["y", "$z"]\nVOLUME ["/a", "/b"]\nENTRYPOINT ["e"]\nCMD ["c"]\n'
        'HEALTHCHECK --interval=5m --timeout=1m CMD ["h", "-q"]\nLABEL a="one two" b=3\n',
    )
    assert [step.command for step in image.steps] == [("/bin/bash", "-c", "x"), ("y", "$z")]
    assert (image.volumes, image.entrypoint, image.command) == (["/a", "/b"], ["e"], ["c"])
    assert image.health == ["h", "-q"]
    assert image.labels == {"a": "one two", "b": "3"}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("ADD x /", "instruction ADD is not known"),
        ("ONBUILD RUN x", "instruction ONBUILD is not known"),
        ("RUN --mount=type=cache,target=/x y", "RUN with --mount=type=cache,target=/x is not known"),
        ("COPY --from=other a /b/", "COPY with --from=other is not known here. Known flags: --chown=..."),
        ("COPY --chown a /b/", "COPY with --chown is not known"),
        ("COPY a /b", "COPY to /b: write /b/"),
        ("COPY a", "the target is missing"),
        ("COPY ./ /b/", "COPY of everything"),
        ('COPY ["a", "b/"]', "COPY as JSON"),
        ("RUN <<EOF", "RUN with a heredoc"),
        ("RUN", "RUN has nothing behind it"),
        ("RUN x \\", "the instruction goes on, but the file ends"),
        ("FROM again", "a second FROM"),
        ("ENV A 1", "write it as NAME=VALUE"),
        ("ENV A='$B'", "between single quotes"),
        ("ENV A=${B:+c}", "is not known here. Known: \\$X"),
        ("ENV A=$B", "\\$B has no value"),
        ("ARG A", "ARG A has no value"),
        ("ENTRYPOINT run.sh", "only the JSON form"),
        ('CMD ["a", 1]', "only the JSON form"),
        ("HEALTHCHECK NONE", "HEALTHCHECK NONE is not known"),
        ("# syntax=docker/dockerfile:1", "parser directives"),
    ],
)
def test_what_is_not_known_is_an_error_with_its_line(tmp_path: Path, line: str, words: str) -> None:
    with pytest.raises(ValueError, match=f"Dockerfile:3: .*({words})"):
        read(tmp_path, f"# one\nFROM b\n{line}")


def test_files_without_from_and_arguments_that_nobody_asks_for(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no FROM"):
        read(tmp_path, "# nothing\n")
    with pytest.raises(ValueError, match=r"Dockerfile:1: RUN before FROM"):
        read(tmp_path, "RUN x\n")
    with pytest.raises(ValueError, match=r"FROM a AS b: a named stage"):
        read(tmp_path, "FROM a AS b\n")
    with pytest.raises(ValueError, match=r"no ARG is named CUDDA. Declared: CUDA"):
        read(tmp_path, "FROM a\nARG CUDA=1\n", CUDDA="2")


@pytest.mark.parametrize(
    ("path", "ignored"),
    [
        ("README.md", True),
        ("code/a.py", False),
        ("code/deep/b.py", False),
        ("code/deep/__pycache__/b.pyc", True),
        ("notes/keep.txt", False),
        ("notes/other.txt", True),
        ("constraints-x.txt", False),
        ("other/constraints-x.txt", True),
    ],
)
def test_the_last_pattern_that_matches_decides(path: str, ignored: bool) -> None:
    rules = read_ignore_file("# all\n*\n\n!code\n!/notes/keep.txt\n!constraints*.txt\n**/__pycache__\n")
    assert is_ignored(path, rules) == ignored


def test_copy_takes_what_dockerignore_leaves(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt", "secret.txt", "code/one.py", "code/deep/two.py", "code/deep/__pycache__/two.pyc"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    rules = read_ignore_file("secret.txt\n**/__pycache__\n")
    image = read(tmp_path, "FROM b\nWORKDIR /w\nCOPY *.txt ./\nCOPY code here/\nCOPY code/deep/two.py .gone /x/\n")
    _, texts, code, missing = image.steps
    assert copied_files(texts, tmp_path, rules) == [
        (tmp_path / "a.txt", "/w/a.txt"),
        (tmp_path / "b.txt", "/w/b.txt"),
    ]
    assert [target for _, target in copied_files(code, tmp_path, rules)] == ["/w/here/deep/two.py", "/w/here/one.py"]
    with pytest.raises(ValueError, match=r"Dockerfile:5: COPY \.gone: no such file in .*, or \.dockerignore"):
        copied_files(missing, tmp_path, rules)


@pytest.mark.parametrize("cuda", ["130", "120"])
def test_the_image(cuda: str) -> None:
    image = plan(DOCKERFILE, {"CUDA": cuda}, base_environment={"PATH": "/usr/bin"})
    rules = read_ignore_file((ROOT / ".dockerignore").read_text())
    copies = [copied_files(step, ROOT, rules) for step in image.steps if step.name == "COPY"]
    targets = {target for copy in copies for _, target in copy}
    # What everybody else wrote is installed from these alone, so that its layer stays when our code changes.
    assert {Path(target).name for _, target in copies[0]} == {
        "LICENSE", "constraints.txt", f"constraints-cuda{cuda}.txt", "pyproject.toml", "setup.cfg"
    }  # fmt: skip
    for package in ("mgs_dali", "models", "train"):
        for file in (ROOT / package).rglob("*"):
            is_code = file.is_file() and "__pycache__" not in file.parts
            assert not is_code or f"/opt/mgs_dali/{file.relative_to(ROOT)}" in targets, file
    assert not [target for target in targets if "__pycache__" in target]
    assert image.base == "python:3.11-slim-bookworm"
    assert image.user == "10001:10001"
    assert image.entrypoint == ["/opt/mgs_dali/docker/entrypoint.sh"]
    assert "video" in image.environment["NVIDIA_DRIVER_CAPABILITIES"].split(",")
    assert image.environment["TORCH_HOME"].startswith(tuple(image.volumes))
    assert image.workdir in image.volumes
    assert image.labels["org.opencontainers.image.base.name"] == image.base


def test_extras_of_the_image_are_those_of_the_package() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    named = re.search(r"--editable \"\.\[(.*?)\]\"", DOCKERFILE.read_text())
    assert named
    for cuda in ("130", "120"):
        assert set(named[1].replace("${CUDA}", cuda).split(",")) <= set(setup["options.extras_require"])


def test_no_base_is_latest() -> None:
    image = plan(DOCKERFILE, {}, base_environment={"PATH": ""})
    assert re.fullmatch(r"[\w/]+:\d[\w.-]+", image.base)


@pytest.mark.parametrize(
    ("given", "ran"),
    [
        ([], ["python", "-m", "train.tsm"]),
        (["--epochs", "1"], ["python", "-m", "train.tsm", "--epochs", "1"]),
        (["--out", "a b"], ["python", "-m", "train.tsm", "--out", "a b"]),
        (["mgs-dali", "doctor", "--quick"], ["mgs-dali", "doctor", "--quick"]),
    ],
)
def test_the_entry_point_trains_unless_a_command_is_given(tmp_path: Path, given: list[str], ran: list[str]) -> None:
    """The programs are replaced by one that tells how it was called, and whether it took the place of the shell."""
    for name in ("python", "mgs-dali"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho "$$"\nprintf "%s\\n" {name} "$@"\n')
        (tmp_path / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    process = subprocess.Popen(
        [ROOT / "docker" / "entrypoint.sh", *given], env=environment, stdout=subprocess.PIPE, text=True
    )
    printed, _ = process.communicate(timeout=60)
    assert printed.splitlines() == [str(process.pid), *ran]
