"""Several shard directories as one, without reading their ids again more than to check them.

The files are those of the parts, under new names: hard links where the file system has them, which take no
space.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tempa.data.mixture import MANIFEST
from tempa.data.shards import Shards
from tempa.data.staging import save_json, staged_directory


def merge_shards(
    parts: Sequence[str | Path], directory: str | Path, *, overwrite: bool = False, verify: bool = True
) -> Shards:
    """Join shard directories of one tokenizer: the documents of the first, then those of the second, ...

    Args:
        parts: Shard directories, which stay as they are.
        directory: Where the shards go; it appears complete or not at all.
        overwrite: Replace a shard directory of this name.
        verify: Compare checksums first.

    Raises:
        FileNotFoundError: If a part is missing.
        FileExistsError: If the directory exists and may not be replaced.
        ValueError: If there are no parts, one is damaged, or two are of different tokenizers.

    >>> import numpy as np, tempfile
    >>> from tempa.data.shards import ShardWriter
    >>> place = Path(tempfile.mkdtemp())
    >>> for name, ids in {"a": [1, 2], "b": [3, 4]}.items():
    ...     with ShardWriter(place / name, "ab" * 32, vocab_size=10) as writer:
    ...         writer.add(np.array(ids, np.uint32), np.array([0, 2]))
    >>> merge_shards([place / "a", place / "b"], place / "both").tokens(0, 4).tolist()
    [1, 2, 3, 4]
    """
    if not parts:
        raise ValueError("there is nothing to merge; name shard directories")
    opened = [Shards(part, verify=verify) for part in parts]
    for shards in opened:
        if shards.fingerprint != opened[0].fingerprint:
            raise ValueError(
                f"{shards.directory}: the ids were made by tokenizer {shards.fingerprint[:12]}, those of "
                f"{opened[0].directory} by {opened[0].fingerprint[:12]}; make them with one"
            )
    manifests = [json.loads((shards.directory / MANIFEST).read_text("utf-8")) for shards in opened]
    entries: list[dict[str, Any]] = []
    with staged_directory(directory, marker=MANIFEST, overwrite=overwrite) as staging:
        for shards, manifest in zip(opened, manifests, strict=True):
            for entry in manifest["shards"]:
                name = f"shard-{len(entries):05}.bin"
                _link(shards.directory / entry["file"], staging / name)
                entries.append({**entry, "file": name})
        totals = {
            key: sum(manifest[key] for manifest in manifests) for key in ("num_tokens", "num_documents")
        }
        save_json(staging / MANIFEST, {**manifests[0], **totals, "shards": entries})
        Shards(staging, verify=False)
    return Shards(directory, verify=False)


def _link(source: Path, target: Path) -> None:
    """The same file under another name, or a copy on disk where that cannot be."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
        with target.open("rb+") as file:
            os.fsync(file.fileno())
