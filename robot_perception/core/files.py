"""Files that are replaced as a whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file for what `path` is to hold; it is on the disk before it gets the name.

    So the old file or the new one is there, whole, at any moment and after a crash. The folder is
    made where it is missing. Raises OSError, and the old file stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".part")
    try:
        with aside.open("wb", buffering=1 << 20) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
        sync_folder(path.parent)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def replace_text(path: Path, text: str) -> None:
    """`text` in `path`, as `replacing` does it. Raises OSError."""
    with replacing(path) as file:
        file.write(text.encode())


def sync_folder(path: Path) -> None:
    """Bring the names in a folder to the disk: a renamed file keeps its name after a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
