"""Files that may be compressed with gzip or Zstandard, read as a stream of lines.

Arrow decompresses, which the package needs anyway. Damage is an error that says where; an empty file is
damaged too.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

# Endings that say how the file before them is compressed, and Arrow's names for it.
CODECS = {".gz": "gzip", ".zst": "zstd"}
# Decompressed bytes at a time.
_STEP = 1 << 20


def format_of(file: Path) -> str:
    """The ending of a file's name without that of its compression."""
    return Path(file.stem).suffix if file.suffix in CODECS else file.suffix


@contextmanager
def opened(file: Path) -> Iterator[tuple[BinaryIO, Callable[[], int]]]:
    """Open a file for reading, decompressed if its name says so.

    Yields:
        The stream, and a function that says how much of the file it has used so far.

    Raises:
        ValueError: While reading, if what is compressed is truncated or altered.
    """
    codec = CODECS.get(file.suffix)
    if codec is None:
        with file.open("rb") as stream:
            yield stream, stream.tell
        return
    import pyarrow as pa

    size = file.stat().st_size  # of a file that is missing, the usual error
    if size == 0:
        raise ValueError(f"{file}: 0 bytes are no {codec} file: truncated")
    raw = pa.OSFile(str(file))
    with raw, io.BufferedReader(pa.CompressedInputStream(raw, codec), _STEP) as lines:
        try:
            yield cast(BinaryIO, lines), raw.tell
        except OSError as error:
            if error.errno is not None:
                raise
            raise ValueError(
                f"{file}: truncated or altered at or before byte {raw.tell():,} of {size:,}: {error}"
            ) from None


def check(file: Path) -> None:
    """Decompress all of a file and keep nothing, so that damage is known before work begins.

    Raises:
        ValueError: If what is compressed is truncated or altered.
    """
    if file.suffix in CODECS:
        with opened(file) as (stream, _):
            while stream.read(_STEP):
                pass
