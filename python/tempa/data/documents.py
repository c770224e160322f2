"""Documents on disk: text files, JSON lines and Parquet tables, read as a stream.

Text files and JSON lines may be compressed. A document is a text and the place it came from. Files are read
in sorted order, so the order of documents is a function of the paths alone. Anything that cannot be read is
an error that names the file and the line.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tempa.data.compressed import CODECS, check, format_of, opened
from tempa.data.staging import staged_file

SUFFIXES = (".txt", ".jsonl", ".parquet")
# Tables are compressed inside.
_NOT_COMPRESSIBLE = (".parquet",)

DecodeErrors = Literal["strict", "replace"]

# Rows of a Parquet table held in memory at once.
_PARQUET_ROWS = 1024
# Characters of a batch: enough for all threads, little beside the corpus.
_BATCH_CHARS = 4 << 20


@dataclass(frozen=True, slots=True)
class Document:
    """One text and where it came from.

    Attributes:
        text: The whole text.
        source: `file` for a text file, `file:line` for JSON lines, `file:row` for Parquet; both count from 1.
    """

    text: str
    source: str


def corpus_files(
    paths: str | Path | Iterable[str | Path], *, suffixes: Sequence[str] = SUFFIXES
) -> list[Path]:
    """The files that `paths` stand for: files as given, directories by all files below them, sorted.

    Args:
        paths: Files, directories or patterns such as `part-*.jsonl` and `**/*.txt`, whose matches are sorted.
            Below a directory only files with these endings count.
        suffixes: Endings of documents; all but `.parquet` also with `.gz` or `.zst` after it.

    Raises:
        FileNotFoundError: If a path does not exist.
        ValueError: If a file has another ending or a directory holds no document file.
    """
    files: list[Path] = []
    for path in [Path(paths)] if isinstance(paths, str | Path) else map(Path, paths):
        if path.is_dir():
            below = sorted(
                file for file in path.rglob("*") if _is_document(file, suffixes) and file.is_file()
            )
            if not below:
                raise ValueError(f"{path}: no {', '.join(suffixes)} file in this directory or below it")
            files += below
        elif not path.exists():
            matches = sorted(Path(path.anchor or ".").glob(str(path.relative_to(path.anchor))))
            if not matches:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
            files += corpus_files(matches, suffixes=suffixes)
        elif not _is_document(path, suffixes):
            packed = [suffix for suffix in suffixes if suffix not in _NOT_COMPRESSIBLE]
            also = f"; {' and '.join(packed)} also with {' or '.join(CODECS)}"
            raise ValueError(
                f"{path}: cannot tell its format from its name; expected {', '.join(suffixes)}{also}"
            )
        else:
            files.append(path)
    if not files:
        raise ValueError("no files given to read documents from")
    return files


def read_documents(
    paths: str | Path | Iterable[str | Path],
    *,
    field: str = "text",
    errors: DecodeErrors = "strict",
    progress: Callable[[int], object] | None = None,
) -> Iterator[Document]:
    r"""Stream the documents of files and directories.

    The paths are checked at once, the contents while they are read. A `.txt` file is one document; a `.jsonl`
    file has one on each line, empty lines apart; a `.parquet` file one in each row. Compressed files are all
    decompressed once before the first document, so that damage in the last does not cost the work on others.

    Args:
        paths: Files, directories or patterns, see `corpus_files`.
        field: Key or column that holds the text.
        errors: What to do with bytes that are not UTF-8: fail, or put U+FFFD in their place.
        progress: Called with the number of bytes of each piece of input that is done.

    Raises:
        FileNotFoundError: If a path does not exist.
        ValueError: If a file is not what its name says, or all documents together have no text.

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "two.jsonl")
    >>> _ = path.write_text('{"text": "one"}\n{"text": "two"}\n')
    >>> [document.text for document in read_documents(path)]
    ['one', 'two']
    """
    if errors not in ("strict", "replace"):
        raise ValueError(f"errors must be 'strict' or 'replace', got {errors!r}")
    return _stream(corpus_files(paths), field, errors, progress or (lambda _: None))


def in_batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Lists of documents that are worth the start of several threads, a few megabytes each."""
    batch: list[Document] = []
    num_chars = 0
    for document in documents:
        batch.append(document)
        num_chars += len(document.text)
        if num_chars >= _BATCH_CHARS:
            yield batch
            batch, num_chars = [], 0
    if batch:
        yield batch


def write_documents(path: str | Path, documents: Iterable[Document], *, overwrite: bool = False) -> None:
    """Write documents as JSON lines with the fields `text` and `source`.

    Args:
        path: A name that ends in `.jsonl`. The file appears when all documents are in it.
        documents: What to write.
        overwrite: Replace an earlier file.

    Raises:
        ValueError: If the name has another ending.
        FileExistsError: If the file exists and may not be replaced.
        OSError: If the disk refuses, with the name of the file.
    """
    records = ({"text": document.text, "source": document.source} for document in documents)
    write_records(path, records, overwrite=overwrite)


def write_records(
    path: str | Path, records: Iterable[Mapping[str, object]], *, overwrite: bool = False
) -> None:
    """Write records as JSON lines; arguments and errors as for `write_documents`."""
    if Path(path).suffix != ".jsonl":
        raise ValueError(f"{path}: documents are written as JSON lines; the name should end in .jsonl")
    with staged_file(path, overwrite=overwrite) as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")


def _is_document(file: Path, suffixes: Sequence[str]) -> bool:
    is_packed = file.suffix in CODECS
    return format_of(file) in suffixes and not (is_packed and format_of(file) in _NOT_COMPRESSIBLE)


def _stream(
    files: list[Path], field: str, errors: DecodeErrors, progress: Callable[[int], object]
) -> Iterator[Document]:
    readers = {".txt": _read_text, ".jsonl": _read_jsonl, ".parquet": _read_parquet}
    for file in files:
        check(file)
    is_empty = True
    for file in files:
        for document in readers[format_of(file)](file, field, errors, progress):
            is_empty = is_empty and not document.text
            yield document
    if is_empty:
        names = ", ".join(map(str, files[:3])) + (f" and {len(files) - 3} more" if len(files) > 3 else "")
        raise ValueError(f"{names}: the corpus is empty, no document has any text")


def _read_text(
    file: Path, _field: str, errors: DecodeErrors, progress: Callable[[int], object]
) -> Iterator[Document]:
    with opened(file) as (stream, position):
        data = stream.read()
        num_bytes = position()
    yield Document(_decode(data.removeprefix(b"\xef\xbb\xbf"), errors, str(file)), str(file))
    progress(num_bytes)


def _read_jsonl(
    file: Path, field: str, errors: DecodeErrors, progress: Callable[[int], object]
) -> Iterator[Document]:
    done = 0
    with opened(file) as (lines, position):
        for number, line in enumerate(lines, start=1):
            source = f"{file}:{number}"
            if not line.isspace():
                yield Document(_json_text(line, field, errors, source), source)
            progress(position() - done)
            done = position()


def _json_text(line: bytes, field: str, errors: DecodeErrors, source: str) -> str:
    try:
        record = json.loads(_decode(line.removeprefix(b"\xef\xbb\xbf"), errors, source))
    except json.JSONDecodeError as error:
        raise ValueError(f"{source}: not JSON: {error.msg} at character {error.pos + 1}") from None
    except RecursionError:
        raise ValueError(f"{source}: JSON is nested too deeply") from None
    text = _text_of(record, field, source)
    # JSON can spell half of a surrogate pair, which is no character and has no UTF-8 form.
    if b"\\u" in line and any("\ud800" <= char <= "\udfff" for char in text):
        if errors == "strict":
            raise ValueError(f"{source}: {field!r} has an unpaired surrogate; errors='replace' accepts it")
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _text_of(record: Any, field: str, source: str) -> str:
    if not isinstance(record, dict):
        raise ValueError(f"{source}: expected an object with field {field!r}, got a {type(record).__name__}")
    if field not in record:
        raise ValueError(f"{source}: no field {field!r}; the fields are {', '.join(record) or 'none'}")
    text = record[field]
    if not isinstance(text, str):
        raise ValueError(f"{source}: {field!r} should be a string, got {type(text).__name__}")
    return text


def _read_parquet(
    file: Path, field: str, errors: DecodeErrors, progress: Callable[[int], object]
) -> Iterator[Document]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(file)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{file}: not a Parquet file: {error}") from None
    with table:
        if field not in table.schema_arrow.names:
            names = ", ".join(table.schema_arrow.names)
            raise ValueError(f"{file}: no column {field!r}; the columns are {names}")
        row = 0
        try:
            for batch in table.iter_batches(batch_size=_PARQUET_ROWS, columns=[field]):
                # Bytes, because Arrow's own conversion would not say which row is not UTF-8.
                for value in batch.column(0).cast(pa.large_binary()):
                    row += 1
                    source = f"{file}:{row}"
                    data = value.as_py()
                    if data is None:
                        raise ValueError(f"{source}: {field!r} is null")
                    yield Document(_decode(data, errors, source), source)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{file}: cannot read the table after row {row}: {error}") from None
    progress(file.stat().st_size)


def _decode(data: bytes, errors: DecodeErrors, source: str) -> str:
    try:
        return data.decode("utf-8", errors)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{source}: not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}; "
            "errors='replace' puts U+FFFD in its place"
        ) from None
