"""The kernel of `cuda/sample.cu`, compiled for GPUs and run by `simulator`, draws what `Sampler` draws.

`tests/gpu/test_sample.py` runs it where it belongs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from mutants import mutant
from numpy.typing import NDArray
from simulator import SimulationError, simulate
from torch._subclasses.fake_tensor import FakeTensorMode

from tempa.engine import Engine, Request, Sampling
from tempa.model import ModelConfig, Transformer
from tempa.ops import nvrtc
from tempa.ops.sample_cuda import REQUEST, SOURCE, Shape, arguments, has_clusters, sample_into
from tempa.ops.sampler_cuda import CudaSampler
from tempa.sample import Draws, Sampler, Settings

STOPS = (5, 9, 5)
SETTINGS = {
    "plain": Settings(),
    "greedy": Settings(temperature=0, repetition_penalty=1.3),
    "cold": Settings(temperature=1e-3),
    "hot": Settings(temperature=30.0, min_p=0.2),
    "top-k": Settings(top_k=3),
    "top-k of many": Settings(top_k=300, temperature=2.0),
    "top-k of more than there are": Settings(top_k=10**9, top_p=0.7),
    "top-p": Settings(top_p=0.8),
    "top-p of many": Settings(top_p=0.97, temperature=3.0),
    "tiny top-p": Settings(top_p=1e-9),
    "min-p": Settings(min_p=0.05, temperature=1.5),
    "top-n-sigma": Settings(top_n_sigma=1.5),
    "typical": Settings(typical_p=0.6),
    "all cuts": Settings(top_n_sigma=3.0, top_k=100, top_p=0.9, min_p=0.01, typical_p=0.9, temperature=0.8),
    "penalties": Settings(repetition_penalty=1.7, presence_penalty=0.3, frequency_penalty=0.2, top_p=0.9),
    "negative penalties": Settings(repetition_penalty=0.6, presence_penalty=-0.3, frequency_penalty=-0.7),
    "bias": Settings(bias={3: 5.0, 700: 4.0, 9: -2.5}, top_k=3, stop_ids=STOPS, stop_ramp=0.75),
    "allowed": Settings(allowed_ids=(1, 9, 33, 64, 500, 776), top_k=4, bad_ids=(9, 2)),
    "early": Settings(stop_ids=STOPS, min_new_tokens=4, bias={5: 50.0}, temperature=0.5),
}
# More than are above -inf in the rows with few.
TOP_N = 40


def _logits(kind: str, rows: int, vocab: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, vocab, generator=generator)
    if kind == "wide":
        return 6 * logits
    if kind == "ties":
        return (2 * logits).round() / 2
    if kind == "equal":
        return torch.zeros(rows, vocab)
    if kind == "few":
        logits = logits.where(torch.rand(rows, vocab, generator=generator) < 0.02, -torch.inf)
        logits[:, 1] = 0
    return logits


# Single elements and packs; all chunks in shared memory, some, or none; lists that soon overflow, so that
# histograms cut further, and lists as on a device; rows of a block and of a cluster. No vocabulary is a
# multiple of its chunks.
SMALL = Shape(vocab=777, chunk=32, resident=3, vector=1, threads=64, cluster=1, members=64)
BFLOAT = Shape(vocab=1000, chunk=128, resident=0, vector=4, threads=64, cluster=1)
CLUSTER = Shape(vocab=777, chunk=32, resident=3, vector=1, threads=64, cluster=4, members=64)
WIDE_CLUSTER = Shape(vocab=2500, chunk=128, resident=3, vector=4, threads=64, cluster=8)
ROWS = [
    *((kind, SMALL, torch.float32) for kind in ("normal", "wide", "ties", "equal", "few")),
    *((kind, BFLOAT, torch.bfloat16) for kind in ("normal", "ties")),
    *((kind, CLUSTER, torch.float32) for kind in ("normal", "wide", "ties", "equal", "few")),
    *((kind, WIDE_CLUSTER, torch.float32) for kind in ("normal", "equal")),
]


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch):
    """Makes `CudaSampler` draw on the simulator, in this shape."""

    def use(shape: Shape, source: str | Path = SOURCE, seed: int = 0) -> None:
        def draw(batch, logits, mask, vocab_size, top_n, *, logps):
            assert vocab_size == shape.vocab
            requests, edits, allowed = batch.tensors(torch.device("cpu"))
            out = torch.full((len(batch.requests), 3 + 2 * top_n), -7, dtype=torch.int32)
            simulate(
                source,
                "sample",
                *arguments(out, logits, requests, edits, allowed, mask, top_n=top_n, logps=logps),
                grid=len(out) * shape.cluster,
                block=shape.threads,
                shared_bytes=shape.shared_bytes(logits.itemsize),
                defines=shape.defines(logits.dtype),
                seed=seed,
            )
            return out

        monkeypatch.setattr("tempa.ops.sampler_cuda.draw", draw)
        monkeypatch.setattr(
            "tempa.ops.sampler_cuda.is_on_device", lambda logits: isinstance(logits, torch.Tensor)
        )

    return use


def equal(ours: Draws, theirs: Draws) -> None:
    """Tokens are; only a logarithm in double precision stands between the bits of log-probabilities."""
    assert ours.ids.tolist() == theirs.ids.tolist()
    assert ours.top_ids.tolist() == theirs.top_ids.tolist()
    for name in ("logps", "kept_logps", "top_logps"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=3e-7, err_msg=name)


def _check(kind: str, shape: Shape, dtype: torch.dtype) -> None:
    """Steps of all settings with masks, other rows and likely tokens, on both samplers."""
    vocab, generator = shape.vocab, np.random.default_rng(shape.vocab)
    samplers = Sampler(vocab), CudaSampler(vocab)
    handles = []
    for settings in SETTINGS.values():
        prompt, given = generator.integers(vocab, size=20), generator.integers(12, size=2)
        seed = int(generator.integers(2**63))
        handle, other = (sampler.add(settings, prompt=prompt, seed=seed) for sampler in samplers)
        assert handle == other
        handles.append(handle)
        for sampler in samplers:
            sampler.append(handle, given)
    for step, top_n in enumerate((TOP_N, 3, 0)):
        logits = _logits(kind, len(handles), vocab, step).to(dtype)
        rows = generator.permutation(len(handles))
        # Masks leave a token that is allowed; one step has none.
        words = generator.integers(-(2**31), 2**31, size=(len(handles), -(-vocab // 32)), dtype=np.int64)
        mask = None if step == 0 else words.astype(np.int32) | 2
        logps = "none" if step == 2 else "processed"
        theirs, ours = (
            sampler.step(handles, logits, rows=rows, mask=mask, top_n=top_n, logps=logps, on_bad="sentinel")
            for sampler in samplers
        )
        equal(ours, theirs)
    assert [samplers[0].output(one).tolist() for one in handles] == [
        samplers[1].output(one).tolist() for one in handles
    ]


@pytest.mark.parametrize(("kind", "shape", "dtype"), ROWS, ids=str)
def test_the_simulated_kernel_draws_what_the_cpu_draws(kind, shape, dtype, simulated) -> None:
    simulated(shape, seed=len(kind))
    _check(kind, shape, dtype)


def _any_settings(draws: np.random.Generator) -> Settings:
    """Values of their ranges' ends and middles; no setting is usual."""

    def one(*values: float) -> float:
        return values[draws.integers(len(values))]

    return Settings(
        temperature=one(0, 1, 0.7, 5, 1e-30, 1e30),
        top_k=int(one(0, 0, 1, 2, 5, 100, 700)),
        top_p=one(1, 1, 0.9, 0.5, 1e-12, 0.999999),
        min_p=one(0, 0, 0.1, 1, 1e-9),
        top_n_sigma=one(0, 0, 1e-3, 1, 1e6),
        typical_p=one(1, 1, 0.2, 0.95, 1e-9),
        repetition_penalty=one(1, 1.3, 0.5, 1e-30),
        presence_penalty=one(0, 0.5, -2),
        frequency_penalty=one(0, -1, 1e38),
        bad_ids=tuple(draws.integers(777, size=2).tolist()),
    )


def _any_row(draws: np.random.Generator) -> NDArray[np.float32]:
    """Logits of any size: with ties, signed zeros, denormal and huge numbers, sorted, bad."""
    row = draws.normal(size=777) * 10.0 ** draws.integers(-3, 3)
    kind = draws.integers(7)
    if kind == 0:
        row = row.round()
    elif kind == 1:
        row = np.where(row < 0, -0.0, 0.0)
    elif kind in (2, 3):
        row *= (1e35, 1e-41)[kind - 2]
    elif kind == 4:
        row = np.sort(row)[::-1]
    elif kind == 5:
        row[draws.integers(777)] = (np.nan, np.inf, 3e38, 40)[draws.integers(4)]
    return row.astype(np.float32)


@pytest.mark.parametrize("shape", [SMALL, CLUSTER], ids=str)
def test_any_row_under_any_settings_gives_what_the_cpu_gives(shape, simulated) -> None:
    draws = np.random.default_rng(shape.cluster)
    for seed in range(4):
        simulated(shape, seed=seed)
        samplers = Sampler(777), CudaSampler(777)
        for _ in range(16):
            settings, prompt = _any_settings(draws), draws.integers(777, size=5)
            for sampler in samplers:
                sampler.add(settings, prompt=prompt, seed=seed)
        for top_n in (3, 60):
            logits = torch.from_numpy(np.stack([_any_row(draws) for _ in range(16)]))
            theirs, ours = (
                sampler.step(range(16), logits, top_n=top_n, on_bad="sentinel") for sampler in samplers
            )
            equal(ours, theirs)


@pytest.mark.parametrize(
    ("source", "right", "wrong"),
    [
        ("sample_mass.cuh", "x >= logit && at <= id", "x >= logit && at < id"),
        ("sample_row.cuh", "x > 0.0f ? __fdiv_rn", "x < 0.0f ? __fdiv_rn"),
        ("sample_row.cuh", "copy_async_wait<0>();", ""),
        ("sample_select.cuh", "target = found.rest;", ""),
        ("sample_select.cuh", "    row_sync();\n    sort(", "    sort("),
        ("sample.cu", "    row_sync();\n}", "}"),
    ],
)
def test_a_planted_mistake_is_noticed(source, right, wrong, simulated, tmp_path) -> None:
    """In a copy of a header, which comes before the right one."""
    path = mutant(tmp_path, source, right, wrong)
    for name in (SOURCE, "sample_select.cuh", "sample_row.cuh", "sample_mass.cuh"):
        if name != path.name:
            (tmp_path / name).write_text((nvrtc.SOURCES / name).read_text())
    simulated(CLUSTER, tmp_path / SOURCE)
    with pytest.raises((AssertionError, SimulationError)):
        _check("ties", CLUSTER, torch.float32)


def test_rows_that_cannot_be_drawn_from_are_sentinels_or_raise_the_same(simulated) -> None:
    logits = torch.zeros(7, 777)
    logits[0, 776] = torch.nan
    logits[1, 3] = torch.inf
    logits[2] = -torch.inf
    logits[4, 3] = 3e38
    mask = torch.full((7, 25), -1, dtype=torch.int32)
    mask[3] = 0
    mask[0, 24] = 0  # also where the mask hides it
    asked = [
        *(Settings(), Settings(), Settings(), Settings()),
        *(Settings(bias={3: 3e38}), Settings(allowed_ids=(2,), bad_ids=(2,)), Settings()),
    ]
    simulated(SMALL)
    samplers = Sampler(777), CudaSampler(777)
    handles, others = ([sampler.add(settings) for settings in asked] for sampler in samplers)
    assert handles == others
    theirs, ours = (
        sampler.step(handles, logits, mask=mask, top_n=TOP_N, on_bad="sentinel") for sampler in samplers
    )
    equal(ours, theirs)
    assert (ours.ids < 0).tolist() == [True] * 6 + [False]
    for row in range(6):
        errors = []
        for sampler in samplers:
            with pytest.raises(ValueError, match="row 0: ") as raised:
                sampler.step(handles[row : row + 1], logits[row : row + 1], mask=mask[row : row + 1])
            errors.append(str(raised.value))
        assert errors[0] == errors[1]
    assert [len(samplers[1].output(handle)) for handle in handles] == [0] * 6 + [1]


def test_a_draw_depends_on_nothing_but_its_request(simulated) -> None:
    """Rows shared and in another order, more columns than tokens, another order of threads."""
    columns = torch.full((3, 780), torch.nan)
    columns[:, :777] = _logits("normal", 3, 777, 1)
    rows = [0, 1, 2, 2, 1, 0]
    drawn = []
    for order, seed in ((slice(None), 0), (slice(None, None, -1), 5)):
        simulated(SMALL, seed=seed)
        sampler = CudaSampler(777)
        handles = [sampler.add(Settings(top_p=0.9), seed=i) for i in range(6)][order]
        drawn.append(sampler.step(handles, columns, rows=rows[order]).ids[order].tolist())
    assert drawn[0] == drawn[1]


def test_requests_are_kept_as_on_the_cpu(simulated) -> None:
    """Forks, tokens taken back and given, drafts and what is drawn on the CPU count as there."""
    simulated(SMALL)
    settings = Settings(repetition_penalty=1.5, frequency_penalty=0.4, stop_ids=(3,), stop_ramp=0.1)
    each, one = _logits("ties", 3, 777, 2), _logits("wide", 1, 777, 3)
    outputs = []
    for sampler in (Sampler(777), CudaSampler(777)):
        handle = sampler.add(settings, prompt=[7, 8, 8], seed=11)
        for _ in range(3):
            sampler.step([handle], one)
        sampler.rollback(handle, 2)
        sampler.append(handle, [4, 4, 5])
        handles = [handle, *sampler.fork(handle, [12, 13]).tolist()]
        sampler.step(handles, each)
        sampler.step(handles, each, logps="raw", top_n=2)
        sampler.verify(handles[:1], [[4, 4]], each)
        sampler.step(handles[::-1], each)
        probs = sampler.distribution(handles, each)
        outputs.append(([sampler.output(one).tolist() for one in handles], probs.tolist()))
        sampler.remove(handles[1:])
        with pytest.raises(KeyError, match=f"no request has the handle {handles[1]}"):
            sampler.step(handles[1:2], one)
        with pytest.raises(KeyError, match=f"request {handle} is given twice"):
            sampler.step([handle, handle], each[:2])
        assert len(sampler) == 1
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize(
    ("arch", "dtype"),
    [
        ("sm_80", torch.float32),
        ("sm_90a", torch.float32),
        ("sm_100a", torch.bfloat16),
        ("sm_120", torch.float32),
    ],
    ids=str,
)
@pytest.mark.usefixtures("kernel_cache")
def test_the_kernel_compiles_without_spills(arch, dtype) -> None:
    limit = {"sm_80": 163, "sm_120": 99}.get(arch, 227) << 10
    shape = Shape.of(131072, dtype.itemsize, shared_bytes=limit, clusters=has_clusters(arch))
    assert shape.shared_bytes(dtype.itemsize) <= limit
    if has_clusters(arch):  # which keep the whole row
        assert shape.resident * shape.chunk * shape.cluster == shape.vocab
    needs = nvrtc.compile_source(SOURCE, arch=arch, defines=shape.defines(dtype)).resources()["sample"]
    assert needs.spilled_bytes == 0
    assert needs.registers * shape.threads * (512 // shape.threads) <= 65536


def test_an_engine_draws_on_the_device_of_its_model(simulated, monkeypatch) -> None:
    """As if it were on one: the scheduler's sampler draws by the kernel, and the tokens are the same."""
    model = Transformer(ModelConfig(vocab_size=777, depth=1, width=16, num_heads=2, max_positions=64))
    asked = Sampling(max_new_tokens=4, temperature=0.9, top_k=5, presence_penalty=0.5, n=2)
    results = []
    for is_simulated in (False, True):
        if is_simulated:
            simulated(SMALL)
            monkeypatch.setattr("tempa.engine.scheduler._sampler", lambda model: CudaSampler(777))
        request = Request(
            prompt=[1, 2, 3], sampling=asked, top_logps=3, hook=lambda ids: [7] if len(ids) == 2 else []
        )
        [group] = Engine(model).generate([request])
        results.append([(one.ids.tolist(), str(one.logps), one.top) for one in group])
    assert results[0] == results[1]


def test_a_vocabulary_that_has_no_variant_is_rejected() -> None:
    with pytest.raises(ValueError, match="1 to 262144 tokens, got a vocabulary of 300000"):
        Shape.of(300000, 2, shared_bytes=99 << 10)


def test_what_the_kernel_cannot_read_is_rejected() -> None:
    requests, edits = torch.zeros(2 * REQUEST.itemsize, dtype=torch.uint8), torch.zeros(0, dtype=torch.uint8)
    sound = {
        "out": torch.zeros(2, 3, dtype=torch.int32),
        "logits": torch.zeros(2, 64),
        "requests": requests,
        "edits": edits,
        "allowed": torch.zeros(0, dtype=torch.int32),
        "mask": torch.zeros(2, 2, dtype=torch.int32),
    }
    for wrong, message in (
        ({"logits": torch.zeros(2, 63)}, r"\(R, 64 or more\) float32 or bfloat16, got \(2, 63\)"),
        ({"logits": torch.zeros(2, 64).half()}, "float32 or bfloat16, got .* torch.float16"),
        ({"logits": torch.zeros(64, 2).T}, "neighbours in each row"),
        ({"out": torch.zeros(2, 5, dtype=torch.int32)}, r"results of \(B, 3\) int32"),
        ({"requests": requests[1:]}, "the bytes of 2 requests"),
        ({"edits": torch.zeros(5, dtype=torch.uint8)}, "the bytes of edits"),
        ({"mask": torch.zeros(2, 1, dtype=torch.int32)}, r"a mask of \(2, 2 or more\) int32"),
        ({"mask": torch.zeros(2, 2, dtype=torch.int32, device="meta")}, "all tensors on cpu"),
    ):
        with pytest.raises(ValueError, match=message):
            sample_into(**sound | wrong, vocab_size=64)
    with pytest.raises(ValueError, match="up to 1024 likely tokens, got top_n=1025"):
        sample_into(**sound, vocab_size=64, top_n=1025)


def test_the_operator_has_a_shape_without_a_device() -> None:
    with FakeTensorMode():
        logits, data = (
            torch.empty(4, 100, device="cuda"),
            torch.empty(3 * REQUEST.itemsize, dtype=torch.uint8),
        )
        out = torch.ops.tempa.sample(logits, data, data, data, None, 100, 5, True)
    assert (out.shape, out.dtype, out.device.type) == ((3, 13), torch.int32, "cuda")
