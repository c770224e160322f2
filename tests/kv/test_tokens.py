"""Token ids of the caller: of any usual type, read in place, and kept by value."""

from __future__ import annotations

import numpy as np
import pytest

from tempa.kv import KvManager


def write(kv: KvManager, handles, num_new: int) -> None:
    tables, slots, lengths = np.zeros((4, 16), np.int32), np.zeros(64, np.int32), np.zeros(4, np.int32)
    kv.step(handles, np.full(len(handles), num_new), None, tables, slots, lengths)


@pytest.mark.parametrize("dtype", [np.uint32, np.int32, np.int64])
def test_types_of_ids_do_not_matter(dtype) -> None:
    kv = KvManager(8, block_size=2)
    first = kv.admit([np.arange(6, dtype=dtype)]).handles
    write(kv, first, 6)
    kv.free(first)
    assert kv.admit([list(range(7))]).num_cached.tolist() == [6]


@pytest.mark.parametrize(
    ("ids", "wrong"),
    [
        (np.array([3, -1, -2], np.int32), "-1"),
        (np.array([1, 2**32, -1]), "4294967296"),
        (np.array([-5]), "-5"),
    ],
)
def test_what_is_no_id_is_named_and_changes_nothing(ids, wrong: str) -> None:
    kv = KvManager(8, block_size=2)
    with pytest.raises(ValueError, match=rf"^{wrong} is not a token id: expected uint32$"):
        kv.admit([ids])
    assert kv.stats()["num_sequences"] == 0


def test_arrays_of_other_numbers_are_refused() -> None:
    kv = KvManager(8, block_size=2)
    for ids in (np.zeros(2), np.zeros((2, 2), np.int32), np.zeros(2, np.uint64)):
        with pytest.raises(TypeError):
            kv.admit([ids])


def test_slices_with_steps_are_prompts_too() -> None:
    kv = KvManager(8, block_size=2)
    first = kv.admit([np.arange(12)[::2], np.arange(8)[::2]]).handles
    write(kv, first, 4)
    kv.commit(first)
    assert kv.admit([np.arange(12)[::2]]).num_cached.tolist() == [4]


def test_an_array_may_change_once_it_is_admitted() -> None:
    kv, ids = KvManager(8, block_size=2), np.arange(6, dtype=np.int32)
    first = kv.admit([ids]).handles
    ids[:] = 9
    write(kv, first, 6)
    kv.free(first)
    assert kv.admit([[9] * 6]).num_cached.tolist() == [0]
    assert kv.admit([range(6)]).num_cached.tolist() == [5]


def test_no_prompts_are_admitted_as_none() -> None:
    admission = KvManager(8).admit([])
    assert [len(part) for part in admission] == [0, 0, 0]
    assert admission.copies.shape == (0, 4)
