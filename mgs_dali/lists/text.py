"""What lists have in common as text: encodings, JSON, where something is, names that are not UTF-8."""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import Any


def where(file: Path, number: int) -> str:
    """Return where in a list something is, such as ``train.txt, line 17``: for error messages."""
    if file.is_dir():
        return f"{file}, file {number}"
    return f"{file}, {'entry' if file.suffix.lower() == '.json' else 'line'} {number}"


def read_text(file: Path, *, any_bytes: bool = False) -> str:
    """Return a text without byte order marks, its line ends as one character.

    With `any_bytes`, those that are no UTF-8 come as surrogates, as Python has them in the names of files: a list may
    name such a file, and only that one is to be lost.
    """
    content = file.read_bytes()
    encoding, errors = "utf-8-sig", "surrogateescape" if any_bytes else "strict"
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # as Windows' PowerShell writes
        encoding, errors = "utf-16", "strict"
    try:
        text = content.decode(encoding, errors)
    except UnicodeDecodeError as error:
        raise _no_text(file, content, error.start) from None
    if "\0" in text:
        raise _no_text(file, content, content.index(0))
    # lists that were put together keep the marks of all of them
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\n\ufeff", "\n")


def _no_text(file: Path, content: bytes, place: int) -> ValueError:
    line = content[:place].count(b"\n") + 1
    found = f"byte 0x{content[place]:02x}"
    return ValueError(f"{file}, line {line}: not UTF-8 text ({found}). Give a list, saved as UTF-8.")


def load_json(file: Path, text: str) -> Any:
    """Return what a JSON text holds."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{file}, line {error.lineno}, column {error.colno}: not valid JSON: {error.msg}. Is the file complete?"
        ) from None


def parse_json(file: Path, text: str) -> list[dict[str, Any]]:
    """Return the entries of a JSON list, each an object."""
    entries = load_json(file, text)
    if not isinstance(entries, list):
        raise ValueError(f"{file}: expected a JSON list of videos, found {type(entries).__name__}.")
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry, dict):
            raise ValueError(f"{where(file, number)}: expected an object in braces, found {entry!r}.")
    if not entries:
        raise ValueError(f"{file}: the list is empty. Give a list with at least one video.")
    return entries


def is_integer(text: str) -> bool:
    """Return whether a text is a whole number."""
    try:
        int(text)
    except ValueError:
        return False
    return True


def is_utf8(name: str) -> bool:
    """Return whether a name is one of characters, and not of bytes that Python has as surrogates (`os.fsdecode`)."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def escaped(name: str) -> str:
    """Return a name as UTF-8 can hold it: ``b\\udcff.mp4``, with a backslash, where its bytes are none (0xff here)."""
    return name if name.isascii() else name.encode(errors="backslashreplace").decode()
