"""Saving and loading: a directory with `config.json`, `model.safetensors` and `tokenizer.json`.

A directory appears whole or not at all: it is written beside its name, synced and renamed. The sha256 of the
weights is in `config.json` (`sha256sum model.safetensors` prints the same), so an altered file is not loaded.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tempa.model.config import ModelConfig
from tempa.model.transformer import ScalarHead, Transformer

if TYPE_CHECKING:
    from tempa.tokenizer import Tokenizer

CONFIG, WEIGHTS, TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"


def save_model(
    directory: str | Path, model: Transformer | ScalarHead, tokenizer: Tokenizer | None = None
) -> None:
    """Write a model that `load_model`, or `load_scalar` for a `ScalarHead`, reads back.

    Args:
        directory: Made if missing; replaced if it holds a model.
        model: What to save.
        tokenizer: The one it was trained with.

    Raises:
        ValueError: If the tokenizer has more tokens than the model, or the directory holds something else.
    """
    directory = Path(directory)
    if directory.exists() and any(directory.iterdir()) and not (directory / CONFIG).exists():
        raise ValueError(f"{directory}: holds files but no {CONFIG}; choose another directory for the model")
    if tokenizer is not None:
        _check_vocab(tokenizer, model.config, directory)
    with new_directory(directory) as fresh:
        description: dict[str, Any] = {
            "format": "tempa-scalar" if isinstance(model, ScalarHead) else "tempa-model",
            "model": asdict(model.config),
            "sha256": write_tensors(fresh / WEIGHTS, model.state_dict()),
        }
        if tokenizer is not None:
            description["tokenizer"] = tokenizer.sha256
            tokenizer.save(fresh / TOKENIZER)
        (fresh / CONFIG).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def load_model(
    directory: str | Path, device: torch.device | str = "cpu"
) -> tuple[Transformer, Tokenizer | None]:
    """Read a language model and its tokenizer, if one was saved with it.

    Raises:
        FileNotFoundError: If the directory or one of its files does not exist.
        ValueError: If a file is damaged, altered, or belongs to another model; the message names it.
    """
    config, tensors, tokenizer = _read(Path(directory), "tempa-model")
    model = Transformer(config)
    _fill(model, tensors, Path(directory))
    return model.to(device), tokenizer


def load_scalar(
    directory: str | Path, device: torch.device | str = "cpu"
) -> tuple[ScalarHead, Tokenizer | None]:
    """Read a value or reward model; raises as `load_model` does."""
    config, tensors, tokenizer = _read(Path(directory), "tempa-scalar")
    model = ScalarHead(Transformer(config))
    _fill(model, tensors, Path(directory))
    return model.to(device), tokenizer


def _read(directory: Path, form: str) -> tuple[ModelConfig, dict[str, Tensor], Tokenizer | None]:
    path = directory / CONFIG
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a JSON file: {error}") from None
    if not isinstance(description, dict) or description.get("format") != form:
        found = description.get("format") if isinstance(description, dict) else None
        raise ValueError(f"{path}: format is {found!r}, expected {form!r}")
    config = config_from_json(description.get("model"), path)
    tensors = read_tensors(directory / WEIGHTS, str(description.get("sha256")))
    tokenizer = None
    if "tokenizer" in description:
        from tempa.tokenizer import Tokenizer

        path = directory / TOKENIZER
        tokenizer = Tokenizer.load(path)
        if tokenizer.sha256 != description["tokenizer"]:
            raise ValueError(
                f"{path}: not the tokenizer that the model was saved with; its fingerprint differs"
            )
        _check_vocab(tokenizer, config, directory)
    return config, tensors, tokenizer


def config_from_json(values: Any, path: Path) -> ModelConfig:
    """A configuration from a JSON object; unknown and missing keys are errors that name `path`."""
    names = {field.name for field in fields(ModelConfig)}
    if not isinstance(values, dict) or set(values) != names:
        keys = set(values) if isinstance(values, dict) else set()
        raise ValueError(
            f"{path}: model has unknown keys {sorted(keys - names)} and lacks {sorted(names - keys)}; "
            "it was written by another version of tempa"
        )
    try:
        return ModelConfig(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None


def _check_vocab(tokenizer: Tokenizer, config: ModelConfig, directory: Path) -> None:
    if tokenizer.vocab_size > config.vocab_size:
        raise ValueError(
            f"{directory}: the tokenizer has {tokenizer.vocab_size} tokens, the model {config.vocab_size}"
        )


def _fill(model: nn.Module, tensors: dict[str, Tensor], directory: Path) -> None:
    """Copy tensors into the parameters; names, shapes and dtypes must be the model's."""
    path = directory / WEIGHTS
    expected = model.state_dict()
    if set(tensors) != set(expected):
        odd = sorted(set(tensors) ^ set(expected))
        raise ValueError(f"{path}: tensors do not match the configuration, first difference {odd[0]!r}")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise ValueError(
                f"{path}: {name} has shape {tuple(tensor.shape)}, expected {tuple(expected[name].shape)}"
            )
    model.load_state_dict(tensors)


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write a safetensors file and return its sha256; tensors are copied to the CPU first."""
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)
    return file_sha256(path)


def read_tensors(path: Path, sha256: str) -> dict[str, Tensor]:
    """Read a safetensors file that has the given sha256.

    Raises:
        FileNotFoundError: If it does not exist.
        ValueError: If its bytes are not those that were written.
    """
    if file_sha256(path) != sha256:
        raise ValueError(
            f"{path}: the checksum differs from the recorded one; the file is damaged or was replaced"
        )
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file: {error}") from None


def file_sha256(path: Path) -> str:
    """Checksum of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def new_directory(final: Path) -> Iterator[Path]:
    """A directory that takes its final name when the block ends without error, its files on disk before that.

    An older directory of that name is replaced; after an error it is as it was.

    >>> with new_directory(Path("run")) as fresh:
    ...     _ = (fresh / "note.txt").write_text("whole or not at all")
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{final.name}.", dir=final.parent))
    try:
        yield fresh
        fresh.chmod(0o777 & ~_umask())
        for path in [*fresh.rglob("*"), fresh]:
            _sync(path)
        old = fresh.with_name(fresh.name + ".old")
        if final.exists():
            final.rename(old)
        fresh.rename(final)
        _sync(final.parent)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise


def _umask() -> int:
    mask = os.umask(0)  # there is no way to read it without setting it
    os.umask(mask)
    return mask


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
