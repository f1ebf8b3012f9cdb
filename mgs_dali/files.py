"""Files that are there as a whole or not at all, whatever ends their writing: an error, a kill, a power cut."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["write_whole"]


@contextmanager
def write_whole(file: Path) -> Iterator[Path]:
    """Replace a file by what is written meanwhile, or leave the old one.

    The block gets the path of an unfinished file beside it, which is not there yet: its name with ``.unfinished`` after
    it. When the block has ended, it is flushed to the disk, takes the file's name, and the folder is flushed too: from
    then on the new file outlives a power cut. When the block raises, the unfinished file is removed. One that a killed
    process has left is overwritten by the next.

    Raises:
        OSError: the system refuses to flush the file or to give it its name. It is removed then.
    """
    unfinished = file.with_name(f"{file.name}.unfinished")
    # Not only overwritten: what a killed process left may have a second name by now, whose content it would change.
    unfinished.unlink(missing_ok=True)
    try:
        yield unfinished
        _flush(unfinished)
        os.replace(unfinished, file)
    except BaseException:
        with suppress(OSError):  # the first error is the one to tell
            unfinished.unlink(missing_ok=True)
        raise
    try:
        _flush(file.parent)
    except OSError as error:
        # Some network file systems flush no folders; there is nothing more that can be done on them.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise


def _flush(path: Path) -> None:
    """Wait until what a file or folder holds is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None  # a descriptor's error has no name in it
    finally:
        os.close(descriptor)
