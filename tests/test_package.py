"""Rules of the package as a whole: what a wheel holds, what an import costs, who may import whom."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "python" / "tempa"

# From the lowest layer up; what shares a line may import each other.
LAYERS = [
    {"_core"},
    {"config", "report", "kv", "sample"},
    {"tokenizer", "chat"},
    {"data"},
    {"ops"},
    {"model"},
    {"engine"},
    {"train"},
    {"align"},
    {"eval"},
    {"recipes", "bench", "serve", "cli", "__main__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
MAX_LINES = 500
# A longer file says why in these words.
LONG_FILE_REASON = re.compile(rf"more than {MAX_LINES} lines", re.IGNORECASE)
PICKLES = {"pickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}
HEAVY = {"torch", "tyro", "rich", "matplotlib", "pyarrow", "transformers", "tokenizers", "jinja2", "fastapi"}


def _modules() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path, ast.parse(path.read_text(encoding="utf-8"), str(path))


def _imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import, those inside functions included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def test_a_lower_layer_never_imports_a_higher_one() -> None:
    wrong = []
    for path, tree in _modules():
        own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if own == "__init__":
            continue  # the public face names every layer
        assert own in LEVEL, f"{own} has no place in LAYERS"
        for line, name in _imports(tree):
            parts = name.split(".")
            if parts[0] != "tempa" or parts[1] in ("__version__", "Error"):
                continue
            if LEVEL.get(parts[1], len(LAYERS)) > LEVEL[own]:
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    assert not wrong


def test_nothing_is_unpickled() -> None:
    wrong = []
    for path, tree in _modules():
        wrong += [
            f"{path.relative_to(ROOT)}:{line} imports {name}"
            for line, name in _imports(tree)
            if name.split(".")[0] in PICKLES
        ]
        for node in ast.walk(tree):
            text = ast.unparse(node) if isinstance(node, ast.Call) else ""
            if text.startswith("torch.load(") or "allow_pickle=True" in text:
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} calls {text[:40]}")
    assert not wrong


def test_the_package_names_no_host() -> None:
    wrong = []
    for path in (*PACKAGE.rglob("*.py"), *(ROOT / "rust").rglob("*.rs")):
        hosts = re.findall(r"https?://([\w.-]+)", path.read_text(encoding="utf-8"))
        # The one address that SVG and XML use as a name.
        wrong += [f"{path.relative_to(ROOT)}: {host}" for host in hosts if host != "www.w3.org"]
    assert not wrong


def test_a_file_of_more_than_500_lines_says_why() -> None:
    suffixes = {".py", ".pyi", ".rs", ".cu", ".cuh", ".hpp", ".sh", ".md"}
    folders = ("python", "rust", "cuda", "tests", "benches", "scripts", "docs")
    wrong = []
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*")):
        if path.suffix in suffixes and path.is_file():
            text = path.read_text(encoding="utf-8")
            if text.count("\n") > MAX_LINES and not LONG_FILE_REASON.search(text):
                wrong.append(f"{path.relative_to(ROOT)}: {text.count(chr(10))}")
    assert not wrong


def test_the_cuda_folder_holds_sources_only() -> None:
    # A Python file there would hide NVIDIA's namespace package `cuda`.
    suffixes = {path.suffix for path in (ROOT / "cuda").rglob("*") if path.is_file()}
    assert suffixes == {".cu", ".cuh", ".md"}


@pytest.mark.parametrize("code", ["import tempa", "from tempa import cli; cli.run(['--help'])"])
def test_start_up_imports_nothing_heavy(code) -> None:
    script = f"import sys; {code}; print('loaded:', *sys.modules)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(result.stdout.rpartition("loaded:")[2].split())
    assert "tempa._core" in loaded
    assert not loaded & HEAVY


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(folder), str(ROOT)], check=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.mark.slow
def test_the_wheel_holds_the_tree_and_nothing_else(wheel) -> None:
    expected = {
        f"tempa/{path.relative_to(PACKAGE).as_posix()}": path
        for path in PACKAGE.rglob("*")
        if path.is_file() and path.suffix != ".so" and "__pycache__" not in path.parts
    }
    expected |= {f"tempa/cuda/{path.name}": path for path in (ROOT / "cuda").iterdir()}
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name and not name.endswith("/")}
        assert names == {*expected, "tempa/_core.abi3.so"}
        for name, path in expected.items():
            assert archive.read(name) == path.read_bytes(), name
        tops = {name.split("/")[0] for name in archive.namelist()}
    assert "cuda" not in tops
    assert "-cp311-abi3-" in wheel.name


@pytest.mark.slow
def test_the_wheel_works_from_another_folder(wheel, tmp_path) -> None:
    site = tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target"]
    subprocess.run([*command, str(site), str(wheel)], check=True)
    script = """
import pathlib, sys
import tempa
from tempa import cli
assert pathlib.Path(tempa.__file__).is_relative_to(sys.argv[1]), tempa.__file__
assert (pathlib.Path(tempa.__file__).parent / "cuda" / "norm.cu").is_file()
import cuda.bindings.nvrtc  # not hidden by a folder of ours
from tempa.ops import nvrtc
raise SystemExit(cli.run(["--version"]))
"""
    subprocess.run(
        [sys.executable, "-c", script, str(site)], cwd=tmp_path, env={"PYTHONPATH": str(site)}, check=True
    )
