import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors import SafetensorError

from tempa.train import checkpoint


def write(directory: Path) -> None:
    (directory / "weights").write_bytes(bytes(range(200)))
    (directory / "more").write_text("text")


def save(root: Path, step: int, keep: int = 2) -> Path:
    return checkpoint.save(root, step, write, {"stage": {"kl": 0.25}}, keep=keep)


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def test_a_checkpoint_gives_back_its_state(tmp_path: Path) -> None:
    path = save(tmp_path / "checkpoints", 7)
    assert path.name == "step-000007"
    state = checkpoint.load_state(path)
    assert (state["step"], state["stage"]) == (7, {"kl": 0.25})
    assert checkpoint.latest(tmp_path / "checkpoints") == path


def test_latest_goes_by_number_and_ignores_other_names(tmp_path: Path) -> None:
    for step in (999_999, 1_000_000, 5):
        save(tmp_path, step, keep=9)
    (tmp_path / "step-9999999.bak").mkdir()
    assert checkpoint.latest(tmp_path) == tmp_path / "step-1000000"
    assert checkpoint.latest(tmp_path / "missing") is None


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in range(5):
        save(tmp_path, step, keep=2)
    assert names(tmp_path) == ["step-000003", "step-000004"]


def test_leftovers_of_an_interrupted_save_are_removed_by_the_next(tmp_path: Path) -> None:
    for leftover in (".step-000003.x1y2", "..step-000003.x1y2.z3", ".step-000001.deleted"):
        (tmp_path / leftover).mkdir()
    save(tmp_path, 4)
    assert names(tmp_path) == ["step-000004"]


@pytest.mark.parametrize("name", ["weights", "more", "state.json"])
def test_one_flipped_byte_anywhere_is_found_and_named(tmp_path: Path, name: str) -> None:
    older, path = save(tmp_path, 1), save(tmp_path, 2)
    original = (path / name).read_bytes()
    for position in range(0, len(original), 7):
        flipped = bytearray(original)
        flipped[position] ^= 1
        (path / name).write_bytes(flipped)
        with pytest.raises(ValueError, match="is damaged or missing") as error:
            checkpoint.load_state(path)
        assert str(path / name) in str(error.value)
        assert f"delete {path} to resume from {older.name}" in str(error.value)


@pytest.mark.parametrize("name", ["weights", "state.json"])
def test_a_missing_or_shortened_file_is_found_and_named(tmp_path: Path, name: str) -> None:
    path = save(tmp_path, 1)
    os.truncate(path / name, 3)
    with pytest.raises(ValueError, match=f"{name} is damaged .* to resume from the start"):
        checkpoint.load_state(path)
    (path / name).unlink()
    with pytest.raises(ValueError, match=f"{name} is damaged or missing"):
        checkpoint.load_state(path)


@pytest.mark.parametrize(
    "failure",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_one_os_error_and_the_earlier_checkpoint_stays(
    tmp_path: Path, failure: Exception
) -> None:
    older = save(tmp_path, 1)

    def fail(directory: Path) -> None:
        write(directory)
        raise failure

    with pytest.raises(OSError, match="free some space and run the same command again") as error:
        checkpoint.save(tmp_path, 2, fail, {}, keep=2)
    assert (error.value.errno, error.value.filename) == (errno.ENOSPC, str(tmp_path / "step-000002"))
    assert "step-000001 is intact" in str(error.value)
    assert names(tmp_path) == ["step-000001"]
    checkpoint.load_state(older)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_really_full_disk_leaves_the_earlier_checkpoint(small_disk: Path) -> None:
    older = save(small_disk, 1)

    def write_much(directory: Path) -> None:
        (directory / "big").write_bytes(bytes(1 << 20))

    with pytest.raises(OSError, match="No space left") as error:
        checkpoint.save(small_disk, 2, write_much, {}, keep=2)
    assert error.value.errno == errno.ENOSPC
    assert names(small_disk) == ["step-000001"]
    checkpoint.load_state(older)


def test_another_failure_of_the_disk_keeps_its_own_message(tmp_path: Path) -> None:
    def fail(directory: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "weights")

    with pytest.raises(PermissionError, match="weights"):
        checkpoint.save(tmp_path, 2, fail, {}, keep=2)
