"""What a Dockerfile says to do, read without a container engine: its steps with the variables put in, and which files
its COPYs take.

The part of the format that docker/Dockerfile needs, in one stage and without heredocs. Whatever else stands in a
Dockerfile is an error, so that nothing is passed over.
"""

from __future__ import annotations

import json
import posixpath
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

__all__ = ["Image", "Step", "copied_files", "is_ignored", "plan", "read_ignore_file"]

FLAGS: dict[str, tuple[str, ...]] = {
    "ARG": (),
    "CMD": (),
    "COPY": ("chown",),
    "ENTRYPOINT": (),
    "ENV": (),
    "FROM": (),
    "HEALTHCHECK": ("interval", "timeout", "start-period", "retries"),
    "LABEL": (),
    "RUN": (),
    "SHELL": (),
    "USER": (),
    "VOLUME": (),
    "WORKDIR": (),
}
"""The instructions that are known, and their flags."""


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """One instruction as it is written, on one line."""

    file: str
    line: int
    name: str
    flags: Mapping[str, str]
    text: str

    def error(self, words: str) -> ValueError:
        return ValueError(f"{self.file}:{self.line}: {words}")


@dataclass(frozen=True, kw_only=True)
class Step:
    """What changes files: a RUN with its command, a COPY with its sources and target, or the folder of a WORKDIR."""

    file: str
    line: int
    name: str
    text: str
    """As written, with the variables put in except in RUN, where the shell does that."""
    user: str
    workdir: str
    environment: Mapping[str, str]
    command: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    target: str = ""
    chown: str = ""


@dataclass(kw_only=True)
class Image:
    """The steps, and what a container is started with."""

    base: str
    steps: list[Step] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    user: str = ""
    workdir: str = "/"
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)
    volumes: list[str] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)


def plan(file: Path, build_args: Mapping[str, str], *, base_environment: Mapping[str, str]) -> Image:
    """Read a Dockerfile.

    Args:
        file: the Dockerfile.
        build_args: values of its ARGs, as by ``--build-arg``.
        base_environment: variables that the base image sets.

    Raises:
        ValueError: with the file and the line, for whatever is not known here.
    """
    instructions = list(_instructions(file.read_text(), str(file)))
    reader = _Reader(build_args=build_args, base_environment=base_environment)
    for instruction in instructions:
        reader.read(instruction)
    if reader.image is None:
        raise ValueError(f"{file}: has no FROM.")
    if unknown := sorted(set(build_args) - reader.declared):
        declared = ", ".join(sorted(reader.declared)) or "none"
        raise ValueError(f"{file}: no ARG is named {', '.join(unknown)}. Declared: {declared}.")
    return reader.image


def _instructions(text: str, file: str) -> Iterator[Instruction]:
    written, start = "", 0
    for number, line in enumerate(text.splitlines(), start=1):
        if line.lstrip().startswith("#"):
            if re.match(r"\s*#\s*(syntax|escape|check)\s*=", line):
                raise ValueError(f"{file}:{number}: parser directives are not known here. Leave it out.")
            continue  # also between the lines of one instruction
        if not line.strip():
            continue
        start = start or number
        if line.rstrip().endswith("\\"):
            written += line.rstrip()[:-1]
            continue
        yield _instruction(written + line, file, start)
        written, start = "", 0
    if start:
        raise ValueError(f"{file}:{start}: the instruction goes on, but the file ends. Take away the last backslash.")


def _instruction(written: str, file: str, line: int) -> Instruction:
    name, _, text = written.strip().partition(" ")
    name, text = name.upper(), text.strip()
    if name not in FLAGS:
        raise ValueError(f"{file}:{line}: instruction {name} is not known here. Known: {', '.join(FLAGS)}.")
    flags = {}
    while found := re.match(r"--([a-z-]+)(?:=(\S*))?(?:\s+|$)", text):
        if found[1] not in FLAGS[name] or not found[2]:
            known = ", ".join(f"--{flag}=..." for flag in FLAGS[name]) or "none"
            raise ValueError(f"{file}:{line}: {name} with {found[0].strip()} is not known here. Known flags: {known}.")
        flags[found[1]] = found[2]
        text = text[found.end() :]
    if name in ("COPY", "RUN") and re.search(r"<<-?['\"]?[A-Za-z]", text):
        raise ValueError(f"{file}:{line}: {name} with a heredoc is not known here. Join the lines by backslashes.")
    if not text:
        raise ValueError(f"{file}:{line}: {name} has nothing behind it.")
    return Instruction(file=file, line=line, name=name, flags=flags, text=text)


class _Reader:
    """Goes through the instructions, with the variables and the metadata as they are at each."""

    def __init__(self, *, build_args: Mapping[str, str], base_environment: Mapping[str, str]) -> None:
        self.build_args = build_args
        self.base_environment = base_environment
        self.declared: set[str] = set()
        self.global_args: dict[str, str] = {}
        self.args: dict[str, str] = {}
        self.shell = ["/bin/sh", "-c"]
        self.image: Image | None = None

    def read(self, instruction: Instruction) -> None:
        if instruction.name == "ARG":
            self._arg(instruction)
            return
        if instruction.name == "FROM":
            self._from(instruction)
            return
        if self.image is None:
            raise instruction.error(f"{instruction.name} before FROM. Only ARG may stand there.")
        self._of_image(instruction, self.image)

    def _of_image(self, instruction: Instruction, image: Image) -> None:
        match instruction.name:
            case "RUN":
                is_json = instruction.text.startswith("[")
                command = _json(instruction) if is_json else [*self.shell, instruction.text]
                self._step(instruction, image, text=instruction.text, command=tuple(command))
            case "COPY":
                self._copy(instruction, image)
            case "ENV":
                image.environment |= self._pairs(instruction)
            case "LABEL":
                image.labels |= self._pairs(instruction)
            case "USER":
                image.user = self._put_in(instruction, instruction.text)
            case "WORKDIR":
                image.workdir = posixpath.normpath(
                    posixpath.join(image.workdir, self._put_in(instruction, instruction.text))
                )
                self._step(instruction, image, text=image.workdir)
            case "VOLUME":
                image.volumes += _json(instruction)
            case "ENTRYPOINT":
                image.entrypoint = _json(instruction)
            case "CMD":
                image.command = _json(instruction)
            case "SHELL":
                self.shell = _json(instruction)
            case "HEALTHCHECK":
                word, _, command_text = instruction.text.partition(" ")
                if word != "CMD":
                    raise instruction.error(f"HEALTHCHECK {word} is not known here. Known: HEALTHCHECK CMD [...].")
                image.health = _json(instruction, command_text)

    def _from(self, instruction: Instruction) -> None:
        if self.image is not None:
            raise instruction.error("a second FROM is not known here: one stage.")
        base = _substituted(instruction, instruction.text, self.global_args)
        if len(base.split()) != 1:
            raise instruction.error(f"FROM {base}: a named stage is not known here.")
        self.image = Image(base=base, environment=dict(self.base_environment))

    def _arg(self, instruction: Instruction) -> None:
        for word in shlex.split(instruction.text):
            name, equals, default = word.partition("=")
            self.declared.add(name)
            known = self.global_args if self.image is None else self.args
            if name in self.build_args:
                known[name] = self.build_args[name]
            elif equals:
                known[name] = self._put_in(instruction, default)
            elif self.image is not None and name in self.global_args:
                known[name] = self.global_args[name]
            else:
                raise instruction.error(f"ARG {name} has no value. Give it a default, or build with a value for it.")

    def _put_in(self, instruction: Instruction, text: str) -> str:
        return _substituted(instruction, text, self._variables())

    def _variables(self) -> dict[str, str]:
        """ENV is stronger than ARG."""
        return self.global_args if self.image is None else {**self.args, **self.image.environment}

    def _pairs(self, instruction: Instruction) -> dict[str, str]:
        if re.search(r"'[^']*\$", instruction.text):
            raise instruction.error("$ between single quotes is not known here. Use double quotes.")
        found = {}
        for word in shlex.split(instruction.text):
            name, equals, value = word.partition("=")
            if not equals:
                raise instruction.error(f"{instruction.name} {word}: write it as NAME=VALUE.")
            found[name] = self._put_in(instruction, value)
        return found

    def _copy(self, instruction: Instruction, image: Image) -> None:
        text = self._put_in(instruction, instruction.text)
        if text.startswith("["):
            raise instruction.error("COPY as JSON is not known here. Write COPY SOURCE... TARGET.")
        *sources, target = text.split()
        if not sources:
            raise instruction.error(f"COPY {text}: the target is missing. Write COPY SOURCE... TARGET.")
        if any(posixpath.normpath(source) == "." for source in sources):
            raise instruction.error("COPY of everything is not known here. Name the files and folders.")
        if not target.endswith("/"):
            raise instruction.error(f"COPY to {target}: write {target}/, so that it is plain that it is a folder.")
        chown = self._put_in(instruction, instruction.flags.get("chown", ""))
        folder = posixpath.normpath(posixpath.join(image.workdir, target))
        self._step(instruction, image, text=text, sources=tuple(sources), target=folder, chown=chown)

    def _step(
        self,
        instruction: Instruction,
        image: Image,
        *,
        text: str,
        command: tuple[str, ...] = (),
        sources: tuple[str, ...] = (),
        target: str = "",
        chown: str = "",
    ) -> None:
        image.steps.append(
            Step(
                file=instruction.file,
                line=instruction.line,
                name=instruction.name,
                text=text,
                user=image.user,
                workdir=image.workdir,
                environment=self._variables(),
                command=command,
                sources=sources,
                target=target,
                chown=chown,
            )
        )


def _substituted(instruction: Instruction, text: str, variables: Mapping[str, str]) -> str:
    def value(found: re.Match[str]) -> str:
        name = found["bare"] or found["name"]
        if name is None:
            raise instruction.error(f"{found[0]} in {text!r} is not known here. Known: $X, ${{X}} and ${{X:-default}}.")
        if found["default"] is not None:
            return variables.get(name) or found["default"]
        if name not in variables:
            raise instruction.error(f"${name} has no value. Declare it by ARG or ENV above.")
        return variables[name]

    pattern = r"\$(?:(?P<bare>\w+)|\{(?P<name>\w+)(?::-(?P<default>[^}$]*))?\}|.?)"
    return re.sub(pattern, value, text)


def _json(instruction: Instruction, text: str | None = None) -> list[str]:
    text = instruction.text if text is None else text
    try:
        words = json.loads(text)
    except json.JSONDecodeError:
        words = None
    if not (isinstance(words, list) and words and all(isinstance(word, str) for word in words)):
        raise instruction.error(f'{instruction.name} {text}: only the JSON form is known here, such as ["a", "b"].')
    return words


def read_ignore_file(text: str) -> list[tuple[str, bool]]:
    """(pattern, whether it brings back what an earlier one left out) of each line of a .dockerignore."""
    lines = [line.strip() for line in text.splitlines()]
    rules = [(line.removeprefix("!").strip(), line.startswith("!")) for line in lines if line and line[0] != "#"]
    return [(posixpath.normpath(pattern).lstrip("/"), brings_back) for pattern, brings_back in rules]


def is_ignored(path: str, rules: Sequence[tuple[str, bool]]) -> bool:
    """Whether a file of the build context is left out: the last pattern decides that matches it or a folder above."""
    parts = path.split("/")
    prefixes = [parts[:length] for length in range(1, len(parts) + 1)]
    ignored = False
    for pattern, brings_back in rules:
        if any(_matches(prefix, pattern.split("/")) for prefix in prefixes):
            ignored = not brings_back
    return ignored


def _matches(parts: list[str], pattern: list[str]) -> bool:
    """A path against a pattern, folder by folder; ``**`` stands for any number of folders."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_matches(parts[skipped:], pattern[1:]) for skipped in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def copied_files(step: Step, context: Path, rules: Sequence[tuple[str, bool]]) -> list[tuple[Path, str]]:
    """Every file that a COPY takes from the build context, and where it goes in the image.

    Raises:
        ValueError: a source matches nothing.
    """
    found = []
    for source in step.sources:
        taken = []
        for place in sorted(context.glob(source)):
            # A folder's content goes into the target, a file goes there by its name.
            files = sorted(place.rglob("*")) if place.is_dir() else [place]
            above = place if place.is_dir() else place.parent
            for file in files:
                if not file.is_dir() and not is_ignored(file.relative_to(context).as_posix(), rules):
                    taken.append((file, posixpath.join(step.target, file.relative_to(above).as_posix())))
        if not taken:
            raise ValueError(
                f"{step.file}:{step.line}: COPY {source}: no such file in {context}, or .dockerignore leaves it out."
            )
        found += taken
    return found
