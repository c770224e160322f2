"""Checkpoints: directories that are either whole or not there.

A checkpoint is written beside its final name, pushed to disk and renamed, so a process killed at any moment
leaves the earlier checkpoints as they were. `state.json` holds a SHA-256 of every other file and of itself:
damage is found before anything is loaded. Nothing is pickled.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from tempa.model.store import file_sha256, new_directory

STATE_FILE = "state.json"
_NAME = re.compile(r"step-(\d+)")


def save(root: Path, step: int, write: Callable[[Path], None], state: dict[str, Any], *, keep: int) -> Path:
    """Write `root/step-000123` in one piece, then delete all but the newest `keep` checkpoints.

    Args:
        root: The run's directory of checkpoints; made if missing.
        step: Updates done.
        write: Fills the directory it is given.
        state: JSON values to store beside the files.
        keep: How many checkpoints remain, this one included.

    Raises:
        OSError: If the disk is full or fails; the earlier checkpoints are intact.
    """
    final = root / name_of(step)
    try:
        root.mkdir(parents=True, exist_ok=True)
        remove_leftovers(root)
        with new_directory(final) as fresh:
            write(fresh)
            files = {path.name: file_sha256(path) for path in sorted(fresh.iterdir())}
            body = {"step": step, **state, "files": files}
            text = json.dumps({**body, "sha256": _sha256_of(body)}, indent=1)
            (fresh / STATE_FILE).write_text(text, encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise _explain(error, final) from None
    for _, old in _numbered(root)[:-keep]:
        _delete(old)
    return final


def load_state(checkpoint: Path) -> dict[str, Any]:
    """Check every file of a checkpoint and return its state.

    Raises:
        ValueError: If a file is missing or altered; the message names it and says what to do.
    """
    path = checkpoint / STATE_FILE
    try:
        state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        sealed = state.pop("sha256") == _sha256_of(state)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        sealed = False
    if not sealed:
        raise _damaged(path, checkpoint)
    for name, digest in state["files"].items():
        if not (checkpoint / name).is_file() or file_sha256(checkpoint / name) != digest:
            raise _damaged(checkpoint / name, checkpoint)
    return state


def name_of(step: int) -> str:
    """The directory name of the checkpoint after `step` updates."""
    return f"step-{step:06d}"


def latest(root: Path) -> Path | None:
    """The newest finished checkpoint, or None."""
    numbered = _numbered(root)
    return numbered[-1][1] if numbered else None


def remove_leftovers(root: Path) -> None:
    """Delete what an interrupted save or deletion has left behind."""
    for path in root.glob(".*step-*"):
        shutil.rmtree(path)


def _numbered(root: Path) -> list[tuple[int, Path]]:
    if not root.is_dir():
        return []
    matches = ((_NAME.fullmatch(path.name), path) for path in root.iterdir())
    return sorted((int(match[1]), path) for match, path in matches if match)


def _delete(checkpoint: Path) -> None:
    # Renamed first: a deletion cut short must not leave half a checkpoint under a valid name.
    doomed = checkpoint.with_name(f".{checkpoint.name}.deleted")
    checkpoint.rename(doomed)
    shutil.rmtree(doomed)


def _sha256_of(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _damaged(path: Path, checkpoint: Path) -> ValueError:
    older = [other.name for _, other in _numbered(checkpoint.parent)]
    older = older[: older.index(checkpoint.name)] if checkpoint.name in older else []
    target = older[-1] if older else "the start"
    return ValueError(f"{path} is damaged or missing; delete {checkpoint} to resume from {target}")


def _explain(error: OSError | SafetensorError, final: Path) -> OSError:
    code = error.errno if isinstance(error, OSError) else _os_error(str(error))
    if code in (errno.ENOSPC, errno.EDQUOT):
        previous = latest(final.parent)
        kept = f"{previous.name} is intact" if previous else "there was no earlier checkpoint"
        advice = f"{os.strerror(code)}; free some space and run the same command again ({kept})"
        return OSError(code, advice, str(final))
    if isinstance(error, OSError):
        return error
    return OSError(code, f"{os.strerror(code)} ({error})" if code else str(error), str(final))


def _os_error(text: str) -> int:
    # safetensors reports the number of the system's error only inside its message.
    match = re.search(r"os error (\d+)", text)
    return int(match[1]) if match else errno.EIO
