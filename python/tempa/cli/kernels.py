"""`tempa kernels`: compile the CUDA kernels ahead of time, list or clear what is kept.

A kernel is compiled when it is first needed, in half a second to three, and kept for later processes.
`prewarm` does so beforehand, also on a machine without a GPU, for the sizes of a preset.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from tempa import config

if TYPE_CHECKING:
    import torch

    from tempa.model import ModelConfig

ACTIONS = {
    "prewarm": "compile every kernel for a preset's sizes and keep the result",
    "list": "show what is kept: architecture, macros, registers, size",
    "clear": "delete what is kept",
}


@dataclass(frozen=True)
class PrewarmConfig:
    """What to compile for.

    Attributes:
        arch: Architectures, such as sm_80, sm_90a or sm_100a; this machine's GPU when none is named.
        presets: Presets of the model whose sizes are compiled.
        dtypes: Element types.
        vocab_sizes: Vocabularies for which the sampler is compiled.
        caches: Kinds of caches beside those of the element types: int8, float8_e4m3fn.
    """

    arch: tuple[str, ...] = ()
    presets: tuple[str, ...] = ("85m",)
    dtypes: tuple[str, ...] = ("bfloat16", "float32")
    vocab_sizes: tuple[int, ...] = ()
    caches: tuple[str, ...] = ()


def main(name: str, argv: list[str]) -> int:
    """Run one action."""
    if not argv or argv[0] in ("-h", "--help"):
        rows = "\n".join(f"  {action:<8} {text}" for action, text in ACTIONS.items())
        print(f"usage: tempa {name} ACTION\n\n{__doc__}\nactions:\n{rows}")
        return 0
    if argv[0] not in ACTIONS:
        raise ValueError(f"unknown action {argv[0]!r}; choose from {', '.join(ACTIONS)}")
    if argv[0] == "prewarm":
        _prewarm(
            config.parse(
                PrewarmConfig, argv[1:], prog=f"tempa {name} prewarm", description=ACTIONS["prewarm"]
            )
        )
        return 0
    if argv[1:]:
        raise ValueError(f"{argv[0]} takes no more words, got {argv[1]!r}")
    _list() if argv[0] == "list" else _clear()
    return 0


def _prewarm(options: PrewarmConfig) -> None:
    import torch

    from tempa.model import ModelConfig
    from tempa.ops import nvrtc
    from tempa.ops.cuda_tensors import ELEMENTS
    from tempa.ops.scaled import LARGEST

    arches = options.arch or (nvrtc.device_arch(torch.device("cuda")),)
    known = {str(dtype).removeprefix("torch."): dtype for dtype in ELEMENTS}
    kinds = {str(dtype).removeprefix("torch."): dtype for dtype in LARGEST}
    for words, of, choices in ((options.dtypes, "dtype", known), (options.caches, "cache", kinds)):
        unknown = [word for word in words if word not in choices]
        if unknown:
            raise ValueError(f"unknown {of} {unknown[0]!r}; choose from {', '.join(choices)}")
    caches = [kinds[name] for name in options.caches]
    configs = [ModelConfig.preset(preset, vocab_size=1) for preset in options.presets]
    jobs = []
    for arch in arches:
        jobs += [_Job(f"{variant[0]} {arch} {what}", arch, *variant) for what, variant in _shared_variants()]
        for name in options.dtypes:
            # Presets share sizes; each is compiled once.
            variants = dict(
                chain(
                    *(_variants(c, known[name], arch, caches) for c in configs),
                    _samplers(options.vocab_sizes, known[name], arch),
                )
            )
            jobs += [
                _Job(f"{variant[0]} {arch} {name} {what}", arch, *variant)
                for what, variant in variants.items()
            ]
    _compile(jobs)


@dataclass(frozen=True)
class _Job:
    """One source to compile."""

    what: str
    arch: str
    source: str
    defines: dict[str, str | int]


def _compile(jobs: Sequence[_Job]) -> None:
    """Compile on all processors, with a line for each when it is done; an interrupt keeps what is done."""
    from concurrent.futures import ThreadPoolExecutor

    from tempa import _core
    from tempa.cli.progress import WorkProgress
    from tempa.ops import nvrtc

    with WorkProgress() as progress, ThreadPoolExecutor(_core.num_processors()) as pool:
        running = [
            pool.submit(nvrtc.compile_source, job.source, arch=job.arch, defines=job.defines) for job in jobs
        ]
        try:
            for done, (job, made) in enumerate(zip(jobs, running, strict=True), 1):
                made.result()
                print(job.what)
                progress.show("compile", done, len(jobs), "kernels")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _shared_variants() -> Iterator[tuple[str, tuple[str, dict[str, str | int]]]]:
    """What runs beside a model of any shape and dtype: a name, the source and its macros."""
    import torch

    from tempa.ops import adamw_cuda, policy_cuda, scan_cuda

    # What is trained is float32 whatever the products are.
    yield "AdamW", (adamw_cuda.SOURCE, adamw_cuda.defines(torch.float32))
    yield "policy loss", (policy_cuda.SOURCE, policy_cuda.DEFINES)
    for has_values in (False, True):
        what = "advantages" if has_values else "reward-to-go"
        yield what, (scan_cuda.SOURCE, scan_cuda.defines(has_values=has_values))


def _variants(
    config: ModelConfig, dtype: torch.dtype, arch: str, caches: Sequence[torch.dtype] = ()
) -> Iterator[tuple[str, tuple[str, dict[str, str | int]]]]:
    """What a model of this shape runs: a name, the source and its macros."""
    import torch

    from tempa.ops import (
        attention_kernels,
        glu_cuda,
        linear_loss_cuda,
        norm_cuda,
        paged_cuda,
        rope_cuda,
        rope_scaled_cuda,
    )
    from tempa.ops.calls import Target
    from tempa.ops.cuda_tensors import pack_size

    # Under autocast the residual stream is float32; a model may also have been converted as a whole.
    for stream in {dtype: None, torch.float32: None}:
        yield from _norm_variants(config, stream, dtype)
    if config.qk_norm:
        shape = norm_cuda.Shape.of(config.head_dim, dtype)
        what = f"rms width {config.head_dim} without gain"
        yield what, (norm_cuda.SOURCE, shape.defines(dtype, norm_cuda.Kind(weighted=False)))
    if config.mlp != "gelu":
        function, gated = ("silu", True) if config.mlp == "swiglu" else ("relu2", False)
        vector = pack_size(config.mlp_width, dtype)
        yield f"{config.mlp}", (glu_cuda.SOURCE, glu_cuda.defines(dtype, vector, function, gated=gated))
    if config.positions == "rope":
        vector = max(2, pack_size(config.head_dim, dtype))
        what = f"heads of {config.head_dim}"
        yield what, (rope_cuda.SOURCE, rope_cuda.defines(dtype, config.head_dim, vector))
    if dtype in paged_cuda.ELEMENTS:
        # Blocks as the engine makes them.
        group, limit = config.num_heads // config.num_kv_heads, Target(arch).shared_limit
        for kept in (dtype, *caches):
            paged = paged_cuda.Shape.of(config.head_dim, 16, group, kept.itemsize, shared_bytes=limit)
            of = "" if kept == dtype else f" of {str(kept).removeprefix('torch.')}"
            for row_warps in (1, 2, 4)[: paged.max_row_warps]:
                macros = paged.defines(dtype, kept, row_warps=row_warps, softcap=False, alibi=False)
                yield f"heads of {config.head_dim}{of}, {16 * row_warps} rows", (paged_cuda.SOURCE, macros)
            if kept != dtype:
                vector = max(2, pack_size(config.head_dim, dtype))
                macros = rope_scaled_cuda.defines(dtype, kept, config.head_dim, vector)
                yield f"heads of {config.head_dim}{of}", (rope_scaled_cuda.SOURCE, macros)
    if dtype in linear_loss_cuda.DTYPES:
        capped = config.softcap is not None
        what = f"logits{' with a cap' if capped else ''}"
        source = linear_loss_cuda.Family.of(arch).source
        yield what, (source, linear_loss_cuda.defines(dtype, capped=capped))
    if attention_kernels.is_supported(config.head_dim, dtype):
        for entry, variant in attention_kernels.variants(arch, config.head_dim, dtype):
            yield f"{entry}, heads of {config.head_dim}", variant


def _norm_variants(
    config: ModelConfig, stream: torch.dtype, product: torch.dtype
) -> Iterator[tuple[str, tuple[str, dict[str, str | int]]]]:
    """Norms of a residual stream, alone and with what is added to it, for products of some dtype."""
    from tempa.ops.norm_cuda import SOURCE, Kind, Shape

    centred = config.norm == "layer"
    biased = centred and config.bias
    of = "" if stream == product else f" of a {str(stream).removeprefix('torch.')} stream"
    name = f"{'layer' if centred else 'rms'} width {config.width}{of}"
    alone, added = Kind(centred, True, biased), Kind(centred, True, biased, residual=True)
    shape = Shape.of(config.width, stream, biased=biased)
    yield name, (SOURCE, shape.defines(stream, alone, output=product))
    yield f"{name}, of a sum", (SOURCE, shape.defines(stream, added, branch=product, output=product))
    if config.embedding_norm:
        shape, kind = Shape.of(config.width, stream), Kind(weighted=False)
        yield f"rms width {config.width}{of}, without gain", (SOURCE, shape.defines(stream, kind))


def _samplers(
    vocab_sizes: tuple[int, ...], dtype: torch.dtype, arch: str
) -> Iterator[tuple[str, tuple[str, dict[str, str | int]]]]:
    """What draws from such vocabularies."""
    from tempa.ops import sample_cuda
    from tempa.ops.calls import Target

    if dtype in sample_cuda.ELEMENTS:
        limit = Target(arch).shared_limit
        for vocab in vocab_sizes:
            shape = sample_cuda.Shape.of(
                vocab, dtype.itemsize, shared_bytes=limit, clusters=sample_cuda.has_clusters(arch)
            )
            yield f"{vocab} tokens", (sample_cuda.SOURCE, shape.defines(dtype))


def _list() -> None:
    from rich.console import Console
    from rich.table import Table

    from tempa.bench.results import quantity
    from tempa.ops import kernel_cache

    table = Table("source", "arch", "macros", "entry: registers, spilled", "size", box=None, pad_edge=False)
    count = 0
    for _, binary in kernel_cache.cached():
        macros = " ".join(f"{name}={value}" for name, value in binary.defines.items())
        needs = "\n".join(
            f"{entry}: {needs.registers}, {needs.spilled_bytes} B"
            for entry, needs in binary.resources().items()
        )
        table.add_row(binary.source, binary.arch, macros, needs, quantity(len(binary.cubin), "B"))
        count += 1
    console = Console()
    console.print(f"{count} compiled kernels in {kernel_cache.cache_folder()}", highlight=False)
    if count:
        console.print(table)


def _clear() -> None:
    from tempa.ops import kernel_cache

    print(f"deleted {kernel_cache.clear_cache()} compiled kernels in {kernel_cache.cache_folder()}")
