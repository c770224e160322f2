"""`tempa::sample`, the draws of `Sampler` bit for bit from logits on a CUDA device; kernel: `cuda/sample.cu`.

A batch is described to the kernel by a `REQUEST` for each row and an `EDIT` for each token whose logit
something is added to or taken from. Registered for CUDA and fake tensors: on the CPU there is `Sampler`.
"""

from __future__ import annotations

import functools
import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tempa.ops import nvrtc
from tempa.sample.settings import Settings

SOURCE = "sample.cu"
ELEMENTS = {torch.float32: "float", torch.bfloat16: "bf16"}
MAX_VOCAB = 1 << 18

# The same in the headers of sample.cu.
BINS = 1024
MEMBERS = 1024
WORD = 32
REQUEST = np.dtype(
    [
        *((name, np.uint64) for name in ("seed", "num_prompt", "num_output", "min_new_tokens")),
        *((name, np.float64) for name in ("top_p", "top_n_sigma", "typical_p")),
        *(
            (n, np.float32)
            for n in ("factor", "min_level", "repetition", "presence", "frequency", "stop_ramp")
        ),
        *((n, np.int32) for n in ("top_k", "is_greedy", "row", "allowed", "first_edit", "last_edit")),
    ]
)
EDIT = np.dtype(
    [
        ("id", np.int32),
        ("bias", np.float32),
        *((name, np.int32) for name in ("num_stops", "count", "is_in_prompt", "is_bad")),
    ]
)
# Requests start at a multiple of so many bytes, and edits.
ALIGNMENT = 8
# What the kernel writes of a row before the likeliest tokens.
NUM_COLUMNS = 3

CHUNK = 256
# Elements that a thread moves at once: 16 bytes of float32.
VECTOR = 4
# Blocks of a row on devices that have clusters, and of how many chunks each is worth it.
CLUSTER = 8
CHUNKS_OF_BLOCK = 8
# Two blocks of a cluster share a multiprocessor.
THREADS = {1: 512, CLUSTER: 256}
LOG2_E = 1.4426950408889634
# No level is as high, so every token reaches `min_p`.
NO_LEVEL = 1.0


@dataclass(frozen=True)
class Shape:
    """A variant of the kernel; the names are the macros of `sample.cu` in lower case."""

    vocab: int
    chunk: int
    resident: int
    vector: int
    threads: int
    cluster: int
    members: int = MEMBERS

    @classmethod
    def of(
        cls,
        vocab: int,
        itemsize: int,
        *,
        shared_bytes: int,
        aligned: bool = True,
        clusters: bool = False,
        chunk: int = CHUNK,
        threads: int | None = None,
    ) -> Shape:
        """The variant that keeps as much of a row as fits so much shared memory.

        Args:
            vocab: Tokens.
            itemsize: Bytes of a logit.
            shared_bytes: What a block may have.
            aligned: Whether every row starts at a multiple of a pack.
            clusters: Whether the device has clusters of blocks.
            chunk: Tokens of a chunk.
            threads: Of a block, if not as many as are best.

        Raises:
            ValueError: If the vocabulary has no variant.
        """
        if not 0 < vocab <= MAX_VOCAB:
            raise ValueError(f"sampling on CUDA takes 1 to {MAX_VOCAB} tokens, got a vocabulary of {vocab}")
        chunks = -(-vocab // chunk)
        cluster = CLUSTER if clusters and chunks >= CLUSTER * CHUNKS_OF_BLOCK else 1
        vector = VECTOR if aligned and vocab % VECTOR == 0 else 1
        empty = cls(vocab, chunk, 0, vector, threads or THREADS[cluster], cluster)
        room = (shared_bytes - empty.shared_bytes(itemsize)) // (chunk * itemsize)
        resident = max(0, min(room, -(-chunks // cluster)))
        return cls(vocab, chunk, resident, vector, empty.threads, cluster)

    def shared_bytes(self, itemsize: int) -> int:
        """Of a block: its chunks, a list or a histogram, masses and maxima of chunks, bits of tokens."""
        chunks = -(-self.vocab // self.chunk)
        own = -(-chunks // self.cluster)
        logits = (self.resident * self.chunk or self.vector) * itemsize
        found = max(12 * BINS, 16 * self.members)
        parts = 16 * (self.cluster + 1) * (self.threads // 32) + 16
        total = logits + found + 8 * max(chunks, self.chunk) + parts + 4 * chunks + own * self.chunk // 8
        return total + 64 & -64

    def defines(self, dtype: torch.dtype) -> dict[str, str | int]:
        """The macros that `sample.cu` is compiled with."""
        numbers = {name.upper(): value for name, value in asdict(self).items()}
        return {"ELEMENT": ELEMENTS[dtype], "SHARED_BYTES": self.shared_bytes(dtype.itemsize), **numbers}


def has_clusters(arch: str) -> bool:
    """Whether an architecture, such as sm_90a, has clusters of blocks."""
    return int(arch.removeprefix("sm_").rstrip("a")) >= 90


def fields(settings: Settings, *, seed: int, num_prompt: int) -> np.ndarray[Any, np.dtype[np.void]]:
    """A `REQUEST` before its first draw."""
    request = np.zeros((), REQUEST)
    request["seed"] = seed
    request["num_prompt"] = num_prompt
    for name in ("min_new_tokens", "top_p", "top_n_sigma", "typical_p", "stop_ramp"):
        request[name] = getattr(settings, name)
    for name in ("repetition", "presence", "frequency"):
        request[name] = getattr(settings, f"{name}_penalty")
    # Finite, because 0 times it must be 0.
    request["factor"] = min(LOG2_E / (settings.temperature or 1), float(np.finfo(np.float32).max))
    request["min_level"] = math.log2(settings.min_p) if settings.min_p else NO_LEVEL
    request["top_k"] = min(settings.top_k, MAX_VOCAB)
    request["is_greedy"] = settings.temperature == 0
    request["allowed"] = -1
    return request


def sample_into(
    out: Tensor,
    logits: Tensor,
    requests: Tensor,
    edits: Tensor,
    allowed: Tensor,
    mask: Tensor | None,
    *,
    vocab_size: int,
    top_n: int = 0,
    logps: bool = True,
) -> None:
    """Draw a token for each request.

    Args:
        out: (B, 3 + 2 top_n) int32: the token or -1; the bits of its log-probability and of that among what
            was kept; the likeliest tokens; the bits of their log-probabilities.
        logits: (R, columns) float32 or bfloat16; rows may lie apart.
        requests: The bytes of B `REQUEST`s, which name rows of `logits` and places in `edits` and `allowed`.
        edits: The bytes of `EDIT`s.
        allowed: int32 words, a bit for each token; as many for each request that names a place in them.
        mask: (B, words) int32, likewise, or None.
        vocab_size: Tokens; columns behind are not read.
        top_n: How many of the likeliest tokens are listed, up to 1024.
        logps: Whether log-probabilities before the cuts are computed; those of `top_n` need it.

    Raises:
        ValueError: If a tensor does not fit, or the vocabulary has no variant.
    """
    device, count = logits.device, len(out)
    _check(out, logits, requests, edits, allowed, mask, vocab_size, top_n)
    if not count:
        return
    aligned = (logits.data_ptr() | logits.stride(0) * logits.itemsize) % (VECTOR * logits.itemsize) == 0
    properties = torch.cuda.get_device_properties(device)
    shape = Shape.of(
        vocab_size,
        logits.itemsize,
        shared_bytes=properties.shared_memory_per_block_optin,
        aligned=aligned,
        clusters=has_clusters(nvrtc.device_arch(device)),
    )
    nvrtc.launch(
        _kernel(shape, logits.dtype, device),
        *arguments(out, logits, requests, edits, allowed, mask, top_n=top_n, logps=logps),
        grid=count * shape.cluster,
        block=shape.threads,
        shared_bytes=shape.shared_bytes(logits.itemsize),
    )


def arguments(
    out: Tensor,
    logits: Tensor,
    requests: Tensor,
    edits: Tensor,
    allowed: Tensor,
    mask: Tensor | None,
    *,
    top_n: int,
    logps: bool,
) -> tuple[Any, ...]:
    """What the kernel takes; those of `sample_into`."""
    edited = torch.empty(len(edits) // EDIT.itemsize, device=logits.device)
    return (
        *(out, logits, requests, edits, edited, allowed, mask),
        logits.stride(0),
        *((0, 0) if mask is None else (mask.stride(0), mask.shape[1])),
        *(top_n, int(logps)),
    )


def _check(
    out: Tensor,
    logits: Tensor,
    requests: Tensor,
    edits: Tensor,
    allowed: Tensor,
    mask: Tensor | None,
    vocab_size: int,
    top_n: int,
) -> None:
    if logits.dim() != 2 or logits.dtype not in ELEMENTS or logits.shape[1] < vocab_size:
        raise _error(f"logits of (R, {vocab_size} or more) float32 or bfloat16", logits)
    if logits.stride(1) != 1 and logits.numel():
        raise _error("neighbours in each row of logits", logits)
    if not 0 <= top_n <= MEMBERS:
        raise ValueError(f"sampling on CUDA lists up to {MEMBERS} likely tokens, got top_n={top_n}")
    count, width = len(out), NUM_COLUMNS + 2 * top_n
    if out.shape != (count, width) or out.dtype != torch.int32 or not out.is_contiguous():
        raise _error(f"contiguous results of (B, {width}) int32", out)
    for what, tensor, dtype, num_bytes in (
        (f"the bytes of {count} requests", requests, torch.uint8, count * REQUEST.itemsize),
        ("the bytes of edits", edits, torch.uint8, len(edits) // EDIT.itemsize * EDIT.itemsize),
        ("words of allowed tokens", allowed, torch.int32, 4 * len(allowed)),
    ):
        if tensor.dtype != dtype or tensor.nbytes != num_bytes or not tensor.is_contiguous():
            raise _error(f"{what} in contiguous {dtype}", tensor)
        if tensor.data_ptr() % ALIGNMENT and dtype == torch.uint8:
            raise _error(f"{what} at a multiple of {ALIGNMENT} bytes", tensor)
    if mask is not None and (
        mask.dtype != torch.int32
        or mask.dim() != 2
        or len(mask) != count
        or mask.shape[1] * WORD < vocab_size
        or mask.stride(1) != 1
    ):
        raise _error(f"a mask of ({count}, {-(-vocab_size // WORD)} or more) int32", mask)
    for other in (out, requests, edits, allowed, mask):
        if other is not None and other.device != logits.device:
            raise _error(f"all tensors on {logits.device}", other)


def _error(what: str, tensor: Tensor) -> ValueError:
    got = f"{tuple(tensor.shape)} {tensor.dtype} of strides {tensor.stride()} on {tensor.device}"
    return ValueError(f"sampling on CUDA takes {what}, got {got}")


@functools.cache
def _kernel(shape: Shape, dtype: torch.dtype, device: torch.device) -> nvrtc.Kernel:
    return nvrtc.load(
        SOURCE, "sample", device, shape.defines(dtype), shared_bytes=shape.shared_bytes(dtype.itemsize)
    )


def _sample_cuda(
    logits: Tensor,
    requests: Tensor,
    edits: Tensor,
    allowed: Tensor,
    mask: Tensor | None,
    vocab_size: int,
    top_n: int,
    logps: bool,
) -> Tensor:
    out = _sample_fake(logits, requests, edits, allowed, mask, vocab_size, top_n, logps)
    sample_into(out, logits, requests, edits, allowed, mask, vocab_size=vocab_size, top_n=top_n, logps=logps)
    return out


def _sample_fake(
    logits: Tensor,
    requests: Tensor,
    edits: Tensor,
    allowed: Tensor,
    mask: Tensor | None,
    vocab_size: int,
    top_n: int,
    logps: bool,
) -> Tensor:
    del edits, allowed, mask, vocab_size, logps
    count = requests.shape[0] // REQUEST.itemsize
    return logits.new_empty(count, NUM_COLUMNS + 2 * top_n, dtype=torch.int32)


_library: Any = torch.library.Library("tempa", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define(
    "sample(Tensor logits, Tensor requests, Tensor edits, Tensor allowed, Tensor? mask, int vocab_size,"
    " int top_n, bool logps) -> Tensor"
)
_library.impl("sample", _sample_cuda, "CUDA")
torch.library.register_fake("tempa::sample", _sample_fake, lib=_library)
