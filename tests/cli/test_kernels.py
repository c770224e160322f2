from __future__ import annotations

import pytest
import torch

from tempa import cli
from tempa.cli import kernels
from tempa.model import ModelConfig
from tempa.ops import nvrtc


@pytest.mark.usefixtures("kernel_cache")
def test_prewarm_fills_the_cache_list_shows_it_and_clear_empties_it(capsys) -> None:
    words = ["--arch", "sm_90a", "--presets", "1m", "--dtypes", "bfloat16", "--vocab-sizes", "5000"]
    assert cli.run(["kernels", "prewarm", *words]) == 0
    compiled = capsys.readouterr().out.splitlines()
    assert len(set(compiled)) == len(compiled)
    assert {
        "norm.cu sm_90a bfloat16 rms width 32 without gain",
        "norm.cu sm_90a bfloat16 rms width 128",
        "norm.cu sm_90a bfloat16 rms width 128 of a float32 stream, of a sum",
        "glu.cu sm_90a bfloat16 relu2",
        "scan.cu sm_90a advantages",
        "sample.cu sm_90a bfloat16 5000 tokens",
    } <= set(compiled)
    assert cli.run(["kernels", "list"]) == 0
    text = capsys.readouterr().out
    assert f"{len(compiled)} compiled kernels" in text
    assert "sm_90a" in text
    assert cli.run(["kernels", "clear"]) == 0
    assert f"deleted {len(compiled)}" in capsys.readouterr().out
    assert cli.run(["kernels", "list"]) == 0
    assert "0 compiled kernels" in capsys.readouterr().out


@pytest.mark.usefixtures("kernel_cache")
@pytest.mark.parametrize("error", [KeyboardInterrupt, nvrtc.KernelCompileError])
def test_what_prewarm_has_compiled_is_kept_when_it_ends_early(monkeypatch, capsys, error) -> None:
    compiled = []

    def compile_source(source: str, **options: object) -> None:
        compiled.append(source)
        if source == "linear_loss.cu":
            raise error("no more")

    monkeypatch.setattr(nvrtc, "compile_source", compile_source)
    monkeypatch.setattr(kernels, "_shared_variants", lambda: iter(()))
    assert cli.run(["kernels", "prewarm", "--arch", "sm_80", "--dtypes", "bfloat16"]) != 0
    printed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert printed == compiled[: len(printed)]
    assert "linear_loss.cu" not in printed


def test_prewarm_knows_every_source() -> None:
    """For rotary and learned positions, default dtypes, a cache of bytes, and both families of kernels."""
    options = kernels.PrewarmConfig()
    variants = list(kernels._shared_variants())
    for preset in ("85m", "gpt2"):
        config = ModelConfig.preset(preset, vocab_size=1)
        for dtype in options.dtypes:
            for arch in ("sm_80", "sm_90a"):
                variants += kernels._variants(config, getattr(torch, dtype), arch, [torch.int8])
    variants += kernels._samplers((5000,), torch.float32, "sm_90a")
    assert {source for _, (source, _) in variants} == {path.name for path in nvrtc.SOURCES.glob("*.cu")}


@pytest.mark.parametrize(("arch", "slots"), [("sm_80", 4), ("sm_90a", 4), ("sm_120", 3)])
def test_prewarm_takes_the_shared_memory_of_the_architecture(arch, slots) -> None:
    """Wide heads: a ring of four tiles does not fit every device, and an engine takes what fits its own."""
    config = ModelConfig(vocab_size=1, depth=1, width=512, num_heads=2)
    variants = kernels._variants(config, torch.bfloat16, arch, [])
    assert {macros["SLOTS"] for _, (source, macros) in variants if source == "paged.cu"} == {slots}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["warm"], "unknown action 'warm'; choose from prewarm, list, clear"),
        (["clear", "all"], "clear takes no more words, got 'all'"),
        (["prewarm", "--arch", "sm_80", "--dtypes", "int8"], "unknown dtype 'int8'"),
        (["prewarm", "--arch", "sm_80", "--caches", "int4"], "unknown cache 'int4'; choose from int8, fl"),
        (["prewarm", "--arch", "sm_80", "--presets", "9m"], "unknown preset '9m'"),
    ],
)
def test_a_wrong_word_is_named(words, message, capsys) -> None:
    assert cli.run(["kernels", *words]) == 1
    assert message in capsys.readouterr().err
