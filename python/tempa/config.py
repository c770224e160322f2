"""Configuration: frozen dataclasses, filled from a TOML file and then from the command line.

The dataclass is the single source of names, types, defaults and help. A key that no field has is an error
that suggests the nearest name, so a misspelled option never passes in silence.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import tomllib
import types
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
        # What the file says becomes the defaults of the command line.
        return tyro.cli(
            config_type,
            args=argv[1:],
            prog=prog,
            description=description,
            default=read_toml(config_type, Path(argv[0])),
        )
    return tyro.cli(config_type, args=argv, prog=prog, description=description)


def read_toml(config_type: type[Config], path: Path) -> Config:
    """The values of a TOML file in the fields of a configuration, not yet checked together.

    Fields without a default that the file does not set hold tyro's mark for a missing value.

    Raises:
        ValueError: If the file is not TOML, has an unknown key, or a value of another type.
        FileNotFoundError: If the file does not exist.
    """
    try:
        return _fill(config_type, tomllib.loads(path.read_text(encoding="utf-8")), "")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a TOML file: {error}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _fill(config_type: type[Config], values: dict[str, Any], table: str) -> Config:
    import tyro

    hints = typing.get_type_hints(config_type)
    for key in values:
        if key not in hints:
            close = difflib.get_close_matches(key, hints, n=1)
            hint = f"did you mean {table + close[0]!r}?" if close else f"known here: {', '.join(hints)}"
            raise ValueError(f"unknown setting {table + key!r}; {hint}")
    # Not through the constructor: it would check values before the command line has changed them.
    config = object.__new__(config_type)
    for field in dataclasses.fields(config_type):  # type: ignore[arg-type]
        if field.name in values:
            value = _convert(values[field.name], hints[field.name], table + field.name)
        elif field.default is not dataclasses.MISSING:
            value = field.default
        elif field.default_factory is not dataclasses.MISSING:
            value = field.default_factory()
        else:
            value = tyro.MISSING
        object.__setattr__(config, field.name, value)
    return config


def _convert(value: Any, hint: Any, name: str) -> Any:
    """A TOML value as the type that a field asks for."""
    arguments = typing.get_args(hint)
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return _fill(hint, value, f"{name}.")  # type: ignore[arg-type]
    if origin in (typing.Union, types.UnionType):
        return _convert(value, next(kind for kind in arguments if kind is not types.NoneType), name)
    if origin is typing.Literal and value in arguments:
        return value
    if origin is tuple and isinstance(value, list):
        kinds = arguments[:1] * len(value) if arguments[-1:] == (...,) else arguments
        if len(kinds) != len(value):
            raise ValueError(f"{name} has {len(value)} values, expected {len(kinds)}")
        return tuple(_convert(item, kind, name) for item, kind in zip(value, kinds, strict=True))
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is hint:
        return value
    expected = f"one of {', '.join(map(repr, arguments))}" if origin is typing.Literal else _type_name(hint)
    raise ValueError(f"{name} is {value!r}, expected {expected}")


def _type_name(hint: Any) -> str:
    if dataclasses.is_dataclass(hint):
        return "a table"
    return "a list" if typing.get_origin(hint) is tuple else str(getattr(hint, "__name__", hint))


def to_dict(config: Any) -> dict[str, Any]:
    """The plain values of a configuration, without the fields that are None."""
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return {name: _plain(value) for name, value in values.items() if value is not None}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def to_toml(config: Any) -> str:
    """A configuration as TOML: the file that reproduces the run it is saved with."""
    return "\n".join(_toml_lines(to_dict(config), "")).lstrip("\n") + "\n"


def _toml_lines(values: dict[str, Any], table: str) -> list[str]:
    tables = {key: value for key, value in values.items() if isinstance(value, dict) or _are_tables(value)}
    lines = [f"{key} = {_toml_value(value)}" for key, value in values.items() if key not in tables]
    for key, value in tables.items():
        mark, each = ("[[{}]]", value) if isinstance(value, list) else ("[{}]", [value])
        for one in each:
            lines += ["", mark.format(f"{table}{key}"), *_toml_lines(one, f"{table}{key}.")]
    return lines


def _are_tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    if isinstance(value, str):
        # A JSON string is a TOML basic string, but for the one control character that JSON leaves as it is.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)
