"""Files and directories that appear under their name complete, or not at all.

Work goes to `.NAME.partial` beside the target and is renamed when it is finished and on disk. An error or
Ctrl-C removes it; one that a killed process left is removed by the next run.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


@contextmanager
def staged_file(path: str | Path, *, overwrite: bool = False) -> Iterator[BinaryIO]:
    """Open a file that replaces `path` when the block ends without an error.

    Raises:
        FileExistsError: If the file exists and may not be replaced.
    """
    target = Path(path)
    _check_free(target, overwrite)
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = target.with_name(f".{target.name}.partial")
    try:
        with _named(staging), staging.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        staging.replace(target)
        sync_directory(target.parent)
    finally:
        staging.unlink(missing_ok=True)


def save_json(path: str | Path, values: dict[str, Any]) -> None:
    """Write plain values as JSON to a file that replaces `path` when it is complete."""
    with staged_file(path, overwrite=True) as file:
        file.write(json.dumps(values, indent=1, ensure_ascii=False).encode())


@contextmanager
def staged_directory(path: str | Path, *, marker: str, overwrite: bool = False) -> Iterator[Path]:
    """Make a directory that becomes `path` when the block ends without an error.

    Args:
        path: The final name.
        marker: A file that such directories hold; one without it is never replaced.
        overwrite: Replace an earlier directory.

    Raises:
        FileExistsError: If the name is taken and may not be replaced.
    """
    target = Path(path)
    is_replaced = check_free_directory(target, marker=marker, overwrite=overwrite)
    staging, old = (target.with_name(f".{target.name}.{suffix}") for suffix in ("partial", "replaced"))
    for leftover in (staging, old):
        shutil.rmtree(leftover, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        yield staging
        sync_directory(staging)
        if is_replaced:
            target.rename(old)
        try:
            staging.replace(target)
        except OSError:
            if is_replaced:
                old.rename(target)
            raise
        sync_directory(target.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def check_free_directory(target: Path, *, marker: str, overwrite: bool) -> bool:
    """Fail unless a directory may be made or replaced; whether there is one to replace.

    Raises:
        FileExistsError: If the name is taken and may not be replaced.
    """
    is_replaced = target.exists() and not (target.is_dir() and not any(target.iterdir()))
    if is_replaced:
        if overwrite and not (target / marker).is_file():
            raise FileExistsError(f"{target}: holds no {marker}, so it is not replaced; choose another name")
        _check_free(target, overwrite)
    return is_replaced


def sync_directory(path: Path) -> None:
    """Make new names in a directory survive a power cut."""
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _check_free(target: Path, overwrite: bool) -> None:
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target}: exists already; remove it, overwrite it, or choose another name")


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Errors of writing, such as a full disk, do not say which file; this does."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise
