"""The tests of what there is from Hopper on again, by PTX: it and the simulator mean the same."""

from __future__ import annotations

import pytest
import test_ptx_hopper
import torch
from test_ptx_hopper import (  # noqa: F401 - collected here too
    test_a_box_is_cut_out_swizzled_and_put_back,
    test_a_product_of_specialised_warps_is_right_in_any_order,
    test_a_warpgroup_multiplies_tiles_of_any_layout,
    test_blocks_of_a_cluster_reach_each_others_shared_memory,
    test_neighbouring_bytes_are_loaded,
    test_nobody_passes_a_barrier_before_all_of_a_phase_have_come,
)

IS_HOPPER = torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == 9

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.sanitize,
    pytest.mark.skipif(not IS_HOPPER, reason="torch sees no device of the Hopper generation"),
]


@pytest.fixture(autouse=True)
def _device(on_device) -> None:
    on_device(test_ptx_hopper)
