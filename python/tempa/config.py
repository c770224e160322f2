"""Configuration: frozen dataclasses, filled from a TOML file and then from the command line.

The dataclass is the single source of names, types, defaults and help. A key that no field has is an error
that suggests the nearest name, so a misspelled option never passes in silence.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import tomllib
import typing
from pathlib import Path
from typing import Any, TypeVar

Config = TypeVar("Config")


def parse(config_type: type[Config], argv: list[str], *, prog: str, description: str) -> Config:
    """Build a configuration from `[FILE.toml] [--option value ...]`.

    Args:
        config_type: A frozen dataclass; nested dataclasses become dotted options and TOML tables.
        argv: The words after the command. A first word that ends in `.toml` is the file.
        prog: Name shown in the usage line.
        description: First paragraph of `--help`.

    Returns:
        The configuration, checked by the dataclasses' own `__post_init__`.

    Raises:
        ValueError: If the file is not TOML or has an unknown key.
        FileNotFoundError: If the file does not exist.
    """
    import tyro

    if argv and argv[0].endswith(".toml"):
        # The file speaks first and the command line last, and the last one to set an option wins.
        argv = [*toml_to_args(config_type, Path(argv[0])), *argv[1:]]
    return tyro.cli(config_type, args=argv, prog=prog, description=description)


def toml_to_args(config_type: type[Any], path: Path) -> list[str]:
    """The words on the command line that say what a TOML file says."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a TOML file: {error}") from None
    try:
        return list(_args(config_type, values, ""))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _args(config_type: type[Any], values: dict[str, Any], table: str) -> typing.Iterator[str]:
    hints = typing.get_type_hints(config_type)
    for key, value in values.items():
        if key not in hints:
            close = difflib.get_close_matches(key, hints, n=1)
            hint = f"did you mean {table + close[0]!r}?" if close else f"known here: {', '.join(hints)}"
            raise ValueError(f"unknown setting {table + key!r}; {hint}")
        option = (table + key).replace("_", "-")
        if isinstance(value, dict):
            yield from _args(hints[key], value, f"{table}{key}.")
        elif isinstance(value, bool):
            head, _, leaf = option.rpartition(".")
            yield f"--{head}{'.' if head else ''}{'' if value else 'no-'}{leaf}"
        elif isinstance(value, list):
            yield from (f"--{option}", *map(str, value))
        else:
            yield from (f"--{option}", str(value))


def to_dict(config: Any) -> dict[str, Any]:
    """The plain values of a configuration, without the fields that are None."""
    plain: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            plain[field.name] = to_dict(value)
        elif isinstance(value, tuple):
            plain[field.name] = list(value)
        elif isinstance(value, Path):
            plain[field.name] = str(value)
        elif value is not None:
            plain[field.name] = value
    return plain


def to_toml(config: Any) -> str:
    """A configuration as TOML: the file that reproduces the run it is saved with."""
    return "\n".join(_toml_lines(to_dict(config), "")).lstrip("\n") + "\n"


def _toml_lines(values: dict[str, Any], table: str) -> list[str]:
    lines = [f"{key} = {_toml_value(value)}" for key, value in values.items() if not isinstance(value, dict)]
    for key, value in values.items():
        if isinstance(value, dict):
            lines += ["", f"[{table}{key}]", *_toml_lines(value, f"{table}{key}.")]
    return lines


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    # A JSON string is a TOML basic string; numbers are written alike.
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
