"""The tests of the primitives again, by PTX: it and the simulator mean the same."""

from __future__ import annotations

import pytest
import test_ptx
import torch
from test_ptx import (  # noqa: F401 - collected here too
    test_a_product_takes_and_gives_the_parts_of_each_lane,
    test_atomic_updates_add_up,
    test_barriers_of_the_block_count_votes,
    test_copies_without_use_write_zeros_and_read_nothing,
    test_every_element_is_widened_as_torch_does,
    test_floats_are_rounded_as_torch_does,
    test_functions_of_the_special_unit,
    test_matrices_are_dealt_to_lanes_as_instructions_take_them,
    test_pairs_lie_as_in_memory,
    test_pairs_of_e4m3_become_the_same_halves,
    test_reductions_keep_to_their_mask,
    test_shuffles_stay_in_their_part_of_the_warp,
    test_the_high_words_of_products_are_exact,
    test_the_last_block_sees_what_the_others_wrote_and_leaves_the_ticket_as_it_was,
    test_threads_and_blocks_are_numbered_in_three_dimensions,
    test_vectors_are_moved_whole,
    test_votes_count_the_lanes_of_their_mask_and_not_those_that_returned,
    test_warps_hand_over_at_named_barriers,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.sanitize,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]


@pytest.fixture(autouse=True)
def _device(on_device) -> None:
    on_device(test_ptx)
