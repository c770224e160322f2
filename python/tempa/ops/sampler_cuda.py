"""`CudaSampler`: a `Sampler` that draws where the logits are, on a CUDA device; needs torch.

Its tokens are those of `Sampler`, bit for bit. A step sends settings and the tokens whose logits are changed,
and fetches what was drawn; logits stay where they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tempa.data.upload import upload
from tempa.ops.sample_cuda import EDIT, ELEMENTS, MAX_VOCAB, MEMBERS, NUM_COLUMNS, REQUEST, WORD, fields
from tempa.sample.sampler import Draws, Ids, Sampler, Verified
from tempa.sample.settings import Settings

Record = np.ndarray[Any, np.dtype[np.void]]


class _Edits:
    """What is added to and taken from single logits of a request."""

    def __init__(self, settings: Settings, prompt: NDArray[np.int64]) -> None:
        self._records = np.zeros(16, EDIT)
        self._places: dict[int, int] = {}
        repeats = settings.repetition_penalty != 1
        self._counts = repeats or bool(settings.presence_penalty or settings.frequency_penalty)
        for token, bias in settings.bias.items():
            self._add(token, "bias", bias)
        if settings.stop_ramp or settings.min_new_tokens:
            for token in settings.stop_ids:
                self._add(token, "num_stops", 1)
        for token in set(settings.bad_ids):
            self._add(token, "is_bad", 1)
        if repeats:
            places = [self._place(token) for token in np.unique(prompt).tolist()]
            self._records["is_in_prompt"][places] = 1

    def __len__(self) -> int:
        return len(self._places)

    @property
    def data(self) -> NDArray[np.uint8]:
        """The bytes of `EDIT`s, each token once."""
        return self._records.view(np.uint8)[: len(self) * EDIT.itemsize]

    def count(self, tokens: Sequence[int], by: int = 1) -> None:
        """Tokens have come to the output, or gone from it."""
        if self._counts:
            for token in tokens:
                self._add(token, "count", by)

    def copy(self) -> _Edits:
        """The same, with records of its own."""
        copied = object.__new__(_Edits)
        copied._records, copied._places = self._records.copy(), self._places.copy()
        copied._counts = self._counts
        return copied

    def _add(self, token: int, name: str, value: float) -> None:
        place = self._place(token)
        self._records[name][place] += value

    def _place(self, token: int) -> int:
        place = self._places.get(token)
        if place is None:
            place = self._places[token] = len(self._places)
            if place == len(self._records):
                self._records = np.concatenate([self._records, np.zeros(place, EDIT)])
            self._records["id"][place] = token
        return place


@dataclass
class _Request:
    """A request beside what the CPU's sampler has of it, which does not have the `undelivered` tokens yet."""

    place: int
    edits: _Edits
    allowed: NDArray[np.int32] | None
    undelivered: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Batch:
    """A step as the kernel reads it: `REQUEST`s, bytes of `EDIT`s, bits of tokens that settings allow."""

    requests: Record
    edits: NDArray[np.uint8]
    allowed: NDArray[np.int32]

    def tensors(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Their bytes on a device, by one copy."""
        parts = self.requests.view(np.uint8), self.edits, self.allowed
        requests, edits, allowed = upload(parts, device)
        return requests, edits, allowed


class CudaSampler(Sampler):
    """The requests of a server or a rollout whose logits are on a CUDA device.

    `step` draws on the device of the logits. Where it cannot, it copies them and draws as `Sampler`: with
    `logps="raw"`, `top_n` above 1024 or a vocabulary above 262144 tokens. All else is as of `Sampler`, but
    that one thread at a time may call it.

    Args:
        vocab_size: Tokens; logits may have more columns, which are not read.
    """

    def __init__(self, vocab_size: int) -> None:
        super().__init__(vocab_size)
        self._known: dict[int, _Request] = {}
        self._records = np.zeros(16, REQUEST)
        self._free = list(range(16))

    def add(self, settings: Settings, *, prompt: Ids = (), seed: int = 0) -> int:
        """As of `Sampler`."""
        handle = super().add(settings, prompt=prompt, seed=seed)
        tokens = np.asarray(prompt, np.int64)
        allowed = None if settings.allowed_ids is None else self._bits(settings.allowed_ids)
        record = fields(settings, seed=seed, num_prompt=len(tokens))
        self._keep(handle, record, _Edits(settings, tokens), allowed)
        return handle

    def fork(self, handle: int, seeds: Sequence[int] | NDArray[np.uint64]) -> NDArray[np.int64]:
        """As of `Sampler`."""
        self._deliver([handle])
        handles = super().fork(handle, seeds)
        request = self._known[handle]
        for forked, seed in zip(handles.tolist(), seeds, strict=True):
            record = self._records[request.place].copy()
            record["seed"] = seed
            self._keep(forked, record, request.edits.copy(), request.allowed)
        return handles

    def remove(self, handles: Ids) -> None:
        """As of `Sampler`."""
        super().remove(handles)
        self._free += [self._known.pop(int(handle)).place for handle in handles]

    def append(self, handle: int, ids: Ids) -> None:
        """As of `Sampler`."""
        self._deliver([handle])
        super().append(handle, ids)
        self._count(handle, np.asarray(ids).tolist())

    def rollback(self, handle: int, num_tokens: int) -> None:
        """As of `Sampler`."""
        output = self.output(handle)
        super().rollback(handle, num_tokens)
        self._count(handle, output[len(output) - num_tokens :].tolist(), by=-1)

    def output(self, handle: int) -> NDArray[np.int64]:
        """As of `Sampler`."""
        self._deliver([handle])
        return super().output(handle)

    def step(
        self,
        handles: Ids,
        logits: Any,
        *,
        rows: Ids | None = None,
        mask: Any = None,
        logps: Literal["processed", "raw", "none"] = "processed",
        top_n: int = 0,
        on_bad: Literal["raise", "sentinel"] = "raise",
    ) -> Draws:
        """As of `Sampler`, with logits and mask on the CPU or on a CUDA device."""
        numbers = [int(handle) for handle in handles]
        modes: dict[str, Any] = {"rows": rows, "logps": logps, "top_n": top_n, "on_bad": on_bad}
        is_known = logps in ("processed", "none") and on_bad in ("raise", "sentinel")
        is_listed = 0 <= top_n <= MEMBERS and not (top_n and logps == "none")
        is_drawn = is_on_device(logits) and logits.dtype in ELEMENTS and self.vocab_size <= MAX_VOCAB
        if not (is_known and is_listed and is_drawn and numbers):
            return self._step_on_cpu(numbers, logits, mask, modes)
        places = np.arange(len(numbers)) if rows is None else np.asarray(rows)
        self._check(numbers, logits, places, mask)
        batch = self.batch(numbers, places)
        words = mask
        if mask is not None and not is_on_device(mask):
            [words] = upload([np.asarray(mask)], logits.device)
        out = draw(batch, logits, words, self.vocab_size, top_n, logps=logps == "processed")
        draws = unpack(out.cpu().numpy(), top_n)
        tokens = draws.ids.tolist()
        if on_bad == "raise" and min(tokens) < 0:
            return self._step_on_cpu(numbers, logits, mask, modes)  # raises with the reason
        for handle, token in zip(numbers, tokens, strict=True):
            if token >= 0:
                self._known[handle].undelivered.append(token)
                self._count(handle, [token])
        return draws

    def verify(
        self,
        handles: Ids,
        drafts: Sequence[Ids],
        logits: Any,
        *,
        draft_probs: Any = None,
        mask: Any = None,
        logps: Literal["processed", "raw", "none"] = "processed",
        top_n: int = 0,
        on_bad: Literal["raise", "sentinel"] = "raise",
    ) -> Verified:
        """As of `Sampler`, on the CPU."""
        before = [len(self.output(int(handle))) for handle in handles]
        verified = super().verify(
            handles,
            drafts,
            _on_cpu(logits),
            draft_probs=_on_cpu(draft_probs),
            mask=_on_cpu(mask),
            logps=logps,
            top_n=top_n,
            on_bad=on_bad,
        )
        for handle, num_old in zip(handles, before, strict=True):
            self._count(int(handle), self.output(int(handle))[num_old:].tolist())
        return verified

    def distribution(self, handles: Ids, logits: Any, *, mask: Any = None) -> NDArray[np.float32]:
        """As of `Sampler`, on the CPU."""
        self._deliver(handles)
        return super().distribution(handles, _on_cpu(logits), mask=_on_cpu(mask))

    def _step_on_cpu(self, handles: list[int], logits: Any, mask: Any, modes: dict[str, Any]) -> Draws:
        self._deliver(handles)
        draws = super().step(handles, _on_cpu(logits), mask=_on_cpu(mask), **modes)
        for handle, token in zip(handles, draws.ids.tolist(), strict=True):
            if token >= 0:
                self._count(handle, [token])
        return draws

    def _keep(self, handle: int, record: Record, edits: _Edits, allowed: NDArray[np.int32] | None) -> None:
        if not self._free:
            self._free = list(range(len(self._records), 2 * len(self._records)))
            self._records = np.concatenate([self._records, np.zeros_like(self._records)])
        place = self._free.pop()
        self._records[place] = record
        self._known[handle] = _Request(place, edits, allowed)

    def _bits(self, ids: Sequence[int]) -> NDArray[np.int32]:
        flags = np.zeros(-(-self.vocab_size // WORD) * WORD, np.uint8)
        flags[list(ids)] = 1
        return np.packbits(flags, bitorder="little").view("<i4").astype(np.int32, copy=False)

    def _deliver(self, handles: Ids) -> None:
        """Tell the CPU's sampler of tokens that were drawn elsewhere."""
        for handle in handles:
            request = self._known.get(int(handle))
            if request is not None and request.undelivered:
                super().append(int(handle), request.undelivered)
                request.undelivered = []

    def _count(self, handle: int, tokens: list[int], by: int = 1) -> None:
        request = self._known[handle]
        num_output = int(self._records["num_output"][request.place])
        self._records["num_output"][request.place] = num_output + by * len(tokens)
        request.edits.count(tokens, by)

    def batch(self, handles: list[int], rows: NDArray[np.int64]) -> Batch:
        """The next step of these requests, each with its row."""
        known = [self._known[handle] for handle in handles]
        records = self._records[[request.place for request in known]]
        ends = np.cumsum([len(request.edits) for request in known], dtype=np.int32)
        records["row"], records["last_edit"] = rows, ends
        records["first_edit"][1:] = ends[:-1]
        edits = [request.edits.data for request in known if len(request.edits)]
        limited = [i for i, request in enumerate(known) if request.allowed is not None]
        allowed = [words for request in known if (words := request.allowed) is not None]
        records["allowed"][limited] = np.arange(len(allowed)) * -(-self.vocab_size // WORD)
        return Batch(
            records,
            np.concatenate([np.zeros(0, np.uint8), *edits]),
            np.concatenate([np.zeros(0, np.int32), *allowed]),
        )

    def _check(self, handles: list[int], logits: Tensor, rows: NDArray[Any], mask: Any) -> None:
        for handle in handles:
            if handle not in self._known:
                raise KeyError(f"no request has the handle {handle}")
        if len(set(handles)) < len(handles):
            twice = next(handle for handle in sorted(handles) if handles.count(handle) > 1)
            raise KeyError(f"request {twice} is given twice")
        if logits.dim() != 2 or logits.shape[1] < self.vocab_size:
            raise ValueError(
                f"logits must have rows of {self.vocab_size} columns or more, got {tuple(logits.shape)}"
            )
        if rows.shape != (len(handles),):
            raise ValueError(f"{len(handles)} rows of logits are needed, got {len(rows)}")
        if outside := [row for row in rows.tolist() if not 0 <= row < len(logits)]:
            raise ValueError(f"row {outside[0]} is not one of the {len(logits)} rows of logits")
        if mask is not None and len(mask) != len(handles):
            raise ValueError(f"{len(handles)} masks are needed, got {len(mask)}")


def is_on_device(values: Any) -> bool:
    """Whether the kernel can read them."""
    return isinstance(values, Tensor) and values.is_cuda


def draw(
    batch: Batch, logits: Tensor, mask: Tensor | None, vocab_size: int, top_n: int, *, logps: bool
) -> Tensor:
    """(B, 3 + 2 top_n) int32 on the device of the logits, as `sample_into` writes it; waits for nothing."""
    requests, edits, allowed = batch.tensors(logits.device)
    out: Tensor = torch.ops.tempa.sample(logits, requests, edits, allowed, mask, vocab_size, top_n, logps)
    return out


def unpack(out: NDArray[np.int32], top_n: int) -> Draws:
    """What the kernel has written, by its columns."""
    ids, logps, kept_logps, top_ids, top_logps = np.split(
        out, [1, 2, NUM_COLUMNS, NUM_COLUMNS + top_n], axis=1
    )
    floats = [np.ascontiguousarray(bits).view(np.float32) for bits in (logps, kept_logps, top_logps)]
    return Draws(
        ids[:, 0].astype(np.int64), floats[0][:, 0], floats[1][:, 0], top_ids.astype(np.int64), floats[2]
    )


def _on_cpu(values: Any) -> Any:
    return values.cpu() if isinstance(values, Tensor) else values
