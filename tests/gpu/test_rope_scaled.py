"""The write to a cache of bytes on the device against that of the CPU."""

from __future__ import annotations

import pytest
import test_rope_scaled_cuda as on_cpu
import torch

from tempa.model import KvCache, ModelConfig, Transformer
from tempa.ops import AttentionSpec, rope, scaled

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]
KEPT = [torch.int8, torch.float8_e4m3fn]


@pytest.mark.parametrize("kept", KEPT, ids=str)
@pytest.mark.parametrize("head_dim", [16, 64, 80, 128, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_rows_are_those_of_the_cpu(dtype, head_dim, kept) -> None:
    q, k, v, turns = on_cpu._case(dtype, head_dim)
    pools, expected = on_cpu._pools(kept, head_dim).cuda(), on_cpu._pools(kept, head_dim)
    tensors = (x.cuda() for x in (q, k, v, turns, on_cpu.SLOTS))
    q_out, k_out = torch.ops.tempa.rope_to_scaled_cache(*tensors, *pools, on_cpu.BLOCK_SIZE)
    tolerance = {torch.float32: 4e-6, torch.bfloat16: 2**-7, torch.float16: 2**-10}[dtype]
    close = {"rtol": tolerance, "atol": tolerance}
    torch.testing.assert_close((q_out.cpu(), k_out.cpu()), (rope(q, turns), rope(k, turns)), **close)
    for pool, rows in zip(expected, (k_out.cpu(), v), strict=True):
        scaled.write(pool, on_cpu.SLOTS, rows, on_cpu.BLOCK_SIZE)
    ours, theirs = (x.view(torch.int8).cpu() for x in (pools, expected))
    # Up to the scales, which may be NaN of another pattern.
    end = on_cpu.KV_HEADS * on_cpu.BLOCK_SIZE * head_dim
    assert torch.equal(ours[..., :end], theirs[..., :end])
    scales = (x[..., end:].contiguous().view(torch.float32) for x in (ours, theirs))
    torch.testing.assert_close(*scales, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("kept", KEPT, ids=str)
@torch.inference_mode()
def test_a_model_reads_what_it_has_kept(kept) -> None:
    config = ModelConfig(vocab_size=50, depth=2, width=128, num_heads=2, num_kv_heads=1, init="gpt2")
    model = Transformer(config).cuda().bfloat16()
    ids, slots = torch.arange(40, device="cuda"), torch.arange(16, 56, device="cuda")
    results = []
    for dtype in (torch.bfloat16, kept):
        cache = KvCache(config, num_blocks=4, block_size=16, dtype=dtype, device="cuda")
        spec = AttentionSpec.packed(torch.tensor([0, 39], device="cuda"), slots=slots[:39])
        model(ids[:39], positions=torch.arange(39, device="cuda"), attention=spec, cache=cache)
        tables = torch.tensor([[1, 2, 3]], dtype=torch.int32, device="cuda")
        spec = AttentionSpec.paged(tables, torch.tensor([40], device="cuda"), slots[39:], block_size=16)
        place = torch.tensor([39], device="cuda")
        results.append(model(ids[39:], positions=place, attention=spec, cache=cache).float())
    # Rounded keys and values turn the state, of length sqrt(width), by a few percent.
    assert (results[0] - results[1]).norm() < 0.1 * results[0].norm()
