import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tempa import config


@dataclass(frozen=True)
class Inner:
    """A part.

    Attributes:
        depth: How deep.
        is_fast: Whether it is fast.
    """

    depth: int = 2
    is_fast: bool = False


@dataclass(frozen=True)
class Outer:
    """The whole.

    Attributes:
        name: What it is called.
        rate: How fast.
        kind: Which kind.
        sizes: Sizes.
        betas: A pair.
        words: Any words.
        path: Where.
        note: Optional.
        loud: A switch.
        inner: The part.
    """

    name: str = "plain"
    rate: float = 0.5
    kind: Literal["one", "two"] = "one"
    sizes: tuple[int, ...] = (1, 2)
    betas: tuple[float, float] = (0.9, 0.95)
    words: tuple[str, ...] = ()
    path: Path = Path("here")
    note: str | None = None
    loud: bool = True
    inner: Inner = field(default_factory=Inner)


def parse(*words: str) -> Outer:
    return config.parse(Outer, list(words), prog="test", description="A test.")


def test_without_words_the_defaults_hold() -> None:
    assert parse() == Outer()


def test_options_set_fields_nested_ones_by_dots() -> None:
    assert parse("--name", "x", "--rate", "2", "--inner.depth", "7", "--no-loud") == Outer(
        name="x", rate=2.0, inner=Inner(depth=7), loud=False
    )


def test_a_file_speaks_first_and_the_command_line_last(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('name = "file"\nrate = 2.5\n[inner]\ndepth = 4\nis_fast = true\n')
    assert parse(str(path), "--rate", "3") == Outer(name="file", rate=3.0, inner=Inner(4, is_fast=True))


def test_an_unknown_key_is_an_error_that_suggests_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text("[inner]\ndept = 4\n")
    with pytest.raises(
        ValueError, match=r"run\.toml: unknown setting 'inner\.dept'; did you mean 'inner\.depth'"
    ):
        parse(str(path))
    path.write_text("zzz = 4\n")
    with pytest.raises(ValueError, match="unknown setting 'zzz'; known here: name, rate, kind"):
        parse(str(path))


def test_a_table_where_a_value_belongs_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text("[rate]\nx = 1\n")
    with pytest.raises(ValueError, match=r"run\.toml: rate is {'x': 1}, expected float"):
        parse(str(path))
    path.write_text("inner = 3\n")
    with pytest.raises(ValueError, match=r"run\.toml: inner is 3, expected a table"):
        parse(str(path))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("rate = true", "rate is True, expected float"),
        ('rate = "fast"', "rate is 'fast', expected float"),
        ('kind = "three"', "kind is 'three', expected one of 'one', 'two'"),
        ("sizes = 3", "sizes is 3, expected a list"),
        ("sizes = [1, 2.5]", "sizes is 2.5, expected int"),
        ("betas = [0.5]", "betas has 1 values, expected 2"),
        ("note = 1", "note is 1, expected str"),
        ("loud = 1", "loud is 1, expected bool"),
    ],
)
def test_a_value_of_another_type_is_an_error_that_names_it(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "run.toml"
    path.write_text(line)
    with pytest.raises(ValueError, match=re.escape(f"run.toml: {message}")):
        parse(str(path))


@dataclass(frozen=True)
class Checked:
    """Two sizes, one a multiple of the other.

    Attributes:
        whole: The larger one; required.
        part: The smaller one.
    """

    whole: int
    part: int = 4

    def __post_init__(self) -> None:
        if self.whole % self.part:
            raise ValueError(f"part {self.part} does not divide whole {self.whole}")


def test_values_are_checked_once_file_and_command_line_are_joined(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.toml"
    path.write_text("part = 3\n")
    assert config.parse(Checked, [str(path), "--whole", "9"], prog="t", description="") == Checked(9, 3)
    with pytest.raises(SystemExit):
        config.parse(Checked, [str(path), "--whole", "8"], prog="t", description="")
    assert "part 3 does not divide whole 8" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        config.parse(Checked, [str(path)], prog="t", description="")
    assert "--whole" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["name = ", "\xff"])
def test_what_is_not_toml_is_an_error_that_names_the_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"run\.toml: not a TOML file"):
        parse(str(path))


def test_a_missing_file_is_an_error() -> None:
    with pytest.raises(FileNotFoundError):
        parse("missing.toml")


@pytest.mark.parametrize("words", [("--nmae", "x"), ("--rate", "fast"), ("--kind", "three"), ("stray",)])
def test_a_wrong_command_line_stops_with_usage(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        parse(*words)
    assert stop.value.code == 2
    assert words[0].lstrip("-") in capsys.readouterr().err


TEXT = st.text(st.characters(blacklist_categories=("Cs",)), max_size=20)
OUTERS = st.builds(
    Outer,
    name=TEXT,
    rate=st.floats(allow_nan=False, allow_infinity=False),
    kind=st.sampled_from(["one", "two"]),
    sizes=st.lists(st.integers(-(10**12), 10**12), max_size=4).map(tuple),
    words=st.lists(TEXT, max_size=4).map(tuple),
    path=st.sampled_from([Path("a b"), Path("/x/y"), Path("-z")]),
    note=st.none() | TEXT,
    loud=st.booleans(),
    inner=st.builds(Inner, depth=st.integers(-9, 9), is_fast=st.booleans()),
)


@given(OUTERS)
def test_toml_says_what_the_configuration_says(outer: Outer) -> None:
    assert tomllib.loads(config.to_toml(outer)) == config.to_dict(outer)


@given(outer=OUTERS)
def test_a_saved_configuration_parses_back_to_itself(
    tmp_path_factory: pytest.TempPathFactory, outer: Outer
) -> None:
    path = tmp_path_factory.mktemp("toml") / "run.toml"
    path.write_text(config.to_toml(outer), encoding="utf-8")
    assert parse(str(path)) == outer
