"""One batch of requests on its way: admission, prefill, decode steps, and what came out.

A row is one sample of one request. Rows join the batch as soon as blocks for their worst case are free, and
leave it with their last token, so a step computes nothing that is not used.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tempa.engine.sampling import Sampling
from tempa.engine.text import StopWatch
from tempa.kv import KvManager
from tempa.model import Decoder, KvCache, Transformer
from tempa.ops import AttentionSpec
from tempa.sample import Sampler
from tempa.tokenizer import Tokenizer

# Prompt tokens computed at once: enough to fill the machine, and a bound on the memory of a step.
PREFILL_TOKENS = 8192


# A checked prompt and what is asked of it.
Request: TypeAlias = tuple[NDArray[np.int64], Sampling]


@dataclass(frozen=True)
class Job:
    """Samples of one request that share their prompt's blocks and start together."""

    prompt: NDArray[np.int64]
    rows: NDArray[np.int64]
    num_shared_blocks: int
    num_own_blocks: int  # of each sample, at worst

    @property
    def num_blocks(self) -> int:
        """Cache blocks at worst."""
        return self.num_shared_blocks + len(self.rows) * self.num_own_blocks


class Memory:
    """The blocks of a run: who owns which, their tensors, and the arrays of a step."""

    def __init__(self, model: Transformer, num_blocks: int, block_size: int, max_batch: int) -> None:
        weight, longest = model.embedding.weight, model.config.max_positions
        self.kv = KvManager(num_blocks, block_size=block_size)
        self.num_blocks = num_blocks
        self.cache = KvCache(
            model.config,
            num_blocks=num_blocks,
            block_size=block_size,
            dtype=cache_dtype(weight),
            device=weight.device,
        )
        self.tables = np.zeros((max_batch, -(-longest // block_size)), np.int32)
        self.slots = np.zeros(max(PREFILL_TOKENS + longest, max_batch), np.int32)
        self.lengths = np.zeros(max_batch, np.int32)
        self._num_runs = 0

    def start_run(self) -> None:
        """Forget the prompts of earlier runs: the weights may have changed since."""
        self._num_runs += 1
        self.kv.reset(self._num_runs)

    @property
    def num_available(self) -> int:
        """Blocks that no sequence holds."""
        return self.kv.num_available[0]

    def fits(self, model: Transformer, num_blocks: int) -> bool:
        """Whether a run of this model with so many blocks can use it."""
        blocks, weight = self.cache.blocks, model.embedding.weight
        return self.num_available == self.num_blocks >= num_blocks and (blocks.dtype, blocks.device) == (
            cache_dtype(weight),
            weight.device,
        )

    def step(
        self, handles: NDArray[np.int64], counts: NDArray[np.int64] | None, tokens: NDArray[np.int64]
    ) -> None:
        """Make room in the arrays and copy what has to be copied."""
        copies = self.kv.step(handles, counts, tokens, self.tables, self.slots, self.lengths)
        if len(copies):
            sources, targets = torch.from_numpy(copies[:, 1:3].T.astype(np.int64)).to(
                self.cache.blocks.device
            )
            self.cache.copy_blocks(sources, targets)


def cache_dtype(weight: Tensor) -> torch.dtype:
    """What products with `weight` give: its dtype, or that of autocast."""
    kind = weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype


class Run:
    """The state of a batch between steps.

    Args:
        model: Read at every step, so it must not change before the run ends.
        tokenizer: For stop strings.
        requests: Checked prompts with their sampling.
        jobs: The same requests, cut for the cache.
        memory: Blocks; this run is their only user.
        max_batch: Most rows in a step.
        decoder: Computes the decode steps, instead of the model; it has the model's weights.
    """

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer | None,
        requests: Sequence[Request],
        jobs: Sequence[Job],
        memory: Memory,
        max_batch: int,
        decoder: Decoder | None = None,
    ) -> None:
        self.memory = memory
        memory.start_run()
        self._model, self._max_batch, self._decoder = model, max_batch, decoder
        samplings = [sampling for _, sampling in requests]
        counts = [sampling.n for sampling in samplings]
        first_rows = np.concatenate([[0], np.cumsum(counts)])
        num_rows = int(first_rows[-1])
        self._sampler = Sampler(model.config.vocab_size)
        self._draws_of_row = np.zeros(num_rows, np.int64)
        for first, (prompt, sampling) in zip(first_rows[:-1], requests, strict=True):
            handle = self._sampler.add(sampling, prompt=prompt, seed=sampling.seed)
            forks = self._sampler.fork(handle, [sampling.seed + i for i in range(1, sampling.n)])
            self._draws_of_row[first : first + sampling.n] = [handle, *forks]
        longest = model.config.max_positions
        self._limit = np.repeat([min(len(p) + s.max_new_tokens, longest) for p, s in requests], counts)
        # The distinct sets of stop tokens are rows of a table, looked up for the whole batch at once.
        stop_sets = list(dict.fromkeys(s.stop_ids for s in samplings))
        self._is_stop = np.zeros((len(stop_sets), model.config.vocab_size), bool)
        for i, stop_ids in enumerate(stop_sets):
            self._is_stop[i, list(stop_ids)] = True
        self._stop_set = np.repeat([stop_sets.index(s.stop_ids) for s in samplings], counts)
        self._watches: dict[int, StopWatch] = {}
        for request, sampling in enumerate(samplings):
            if sampling.stop and tokenizer is not None:
                for row in range(first_rows[request], first_rows[request + 1]):
                    self._watches[row] = StopWatch(tokenizer, sampling.stop)

        self._waiting = deque(jobs)
        self._reserved = 0
        self._own_blocks = np.zeros(num_rows, np.int64)
        self._job_of_row = np.zeros(num_rows, np.int64)
        self._left_of_job: list[int] = []
        self._shared_of_job: list[int] = []
        self._rows = np.zeros(0, np.int64)
        self._handles = np.zeros(0, np.int64)
        self._tokens = np.zeros(0, np.int64)  # drawn, not yet in the cache
        self.stopped = np.zeros(num_rows, bool)
        self._drawn: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]] = []

    @torch.inference_mode()
    def step(self) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
        """Draw one token for some rows: new ones if there is room, else all in the batch.

        Returns:
            The rows and their tokens, or None when every row has ended.
        """
        admitted = self._admit()
        if admitted:
            return self._prefill(admitted)
        if len(self._rows):
            return self._decode()
        return None

    def results(self) -> list[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Tokens and log-probabilities of every row, in order."""
        rows, ids, logps = (np.concatenate(column) for column in zip(*self._drawn, strict=True))
        order = np.argsort(rows, kind="stable")
        cuts = np.cumsum(np.bincount(rows, minlength=len(self.stopped)))[:-1]
        return list(zip(np.split(ids[order], cuts), np.split(logps[order], cuts), strict=True))

    def close(self) -> None:
        """Give back the blocks of rows that have not ended."""
        self.memory.kv.free(self._handles, commit=False)
        self._handles = self._handles[:0]

    def _admit(self) -> list[Job]:
        admitted: list[Job] = []
        num_rows, num_tokens = len(self._rows), 0
        while self._waiting:
            job = self._waiting[0]
            num_rows, num_tokens = num_rows + len(job.rows), num_tokens + len(job.prompt)
            if (
                num_rows > self._max_batch
                or self._reserved + job.num_blocks > self.memory.num_blocks
                or (admitted and num_tokens > PREFILL_TOKENS)
            ):
                break
            self._reserved += job.num_blocks
            self._own_blocks[job.rows] = job.num_own_blocks
            self._job_of_row[job.rows] = len(self._left_of_job)
            self._left_of_job.append(len(job.rows))
            self._shared_of_job.append(job.num_shared_blocks)
            admitted.append(self._waiting.popleft())
        return admitted

    def _prefill(self, admitted: list[Job]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        memory, device = self.memory, self._model.device
        lengths = np.array([len(job.prompt) for job in admitted])
        ends = np.cumsum(lengths)
        # A namespace of its own for every prompt: nothing of it is in the cache yet.
        first_job = len(self._left_of_job) - len(admitted)
        names = [f"{first_job + i}".encode() for i in range(len(admitted))]
        handles = memory.kv.admit([job.prompt for job in admitted], namespaces=names).handles
        # In the batch at once: whatever happens next, `close` frees them.
        self._handles = np.concatenate([self._handles, handles])
        memory.step(handles, lengths, np.zeros(0, np.int64))
        slots = memory.slots[: ends[-1]].astype(np.int64)
        bounds = torch.from_numpy(np.concatenate([[0], ends]))
        hidden = self._model(
            torch.from_numpy(np.concatenate([job.prompt for job in admitted])).to(device),
            positions=torch.from_numpy(np.arange(ends[-1]) - np.repeat(ends - lengths, lengths)).to(device),
            attention=AttentionSpec.packed(
                bounds.to(device), window=self._model.config.window, slots=torch.from_numpy(slots).to(device)
            ),
            cache=self.memory.cache,
        )
        logits = self._model.logits(hidden[bounds[1:].to(device) - 1])
        for handle, job in zip(handles, admitted, strict=True):
            forks = memory.kv.fork(int(handle), len(job.rows) - 1)
            self._handles = np.concatenate([self._handles, forks])
        counts = [len(job.rows) for job in admitted]
        # Forks stand behind all prompts; order the rows the same way.
        first = np.array([job.rows[0] for job in admitted])
        rows = np.concatenate([first, *(job.rows[1:] for job in admitted)])
        source = np.concatenate(
            [np.arange(len(admitted)), np.repeat(np.arange(len(admitted)), np.array(counts) - 1)]
        )
        self._rows = np.concatenate([self._rows, rows])
        return self._draw(rows, logits[torch.from_numpy(source).to(device)], lengths[source])

    def _decode(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        device, memory, cache = self._model.device, self.memory, self.memory.cache
        num_rows = len(self._rows)
        memory.step(self._handles, None, self._tokens)
        lengths = memory.lengths[:num_rows].astype(np.int64)
        slots = memory.slots[:num_rows].astype(np.int64)
        tables = memory.tables[:num_rows, : -(-int(lengths.max()) // cache.block_size)].copy()
        if self._decoder is not None:
            logits = self._decoder(self._tokens, cache=cache, tables=tables, lengths=lengths)
            self._tokens = self._tokens[:0]
            return self._draw(self._rows, torch.from_numpy(logits), lengths)
        reach = torch.from_numpy(lengths).to(device)
        hidden = self._model(
            torch.from_numpy(self._tokens).to(device),
            positions=reach - 1,
            attention=AttentionSpec.paged(
                torch.from_numpy(tables).to(device),
                reach,
                torch.from_numpy(slots).to(device),
                block_size=cache.block_size,
                window=self._model.config.window,
            ),
            cache=cache,
        )
        self._tokens = self._tokens[:0]
        return self._draw(self._rows, self._model.logits(hidden), lengths)

    def _draw(
        self, rows: NDArray[np.int64], logits: Tensor, lengths: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Draw for the last rows of the batch, which have `lengths` tokens, and drop those that end."""
        draws = self._sampler.step(self._draws_of_row[rows], logits.float().cpu())
        ids = draws.ids
        self._drawn.append((rows, ids, draws.logps))
        stopped = self._is_stop[self._stop_set[rows], ids]
        if self._watches:
            for i in np.flatnonzero(~stopped):
                watch = self._watches.get(int(rows[i]))
                if watch is not None:
                    watch.push(int(ids[i]))
                    stopped[i] = watch.stopped
        self.stopped[rows] = stopped
        ended = stopped | (lengths + 1 >= self._limit[rows])
        self._tokens = np.concatenate([self._tokens, ids])
        if ended.any():
            self._drop(np.concatenate([np.zeros(len(self._rows) - len(rows), bool), ended]))
        return rows, ids

    def _drop(self, ended: NDArray[np.bool_]) -> None:
        handles, rows = self._handles[ended], self._rows[ended]
        stay = ~ended
        self._handles, self._rows, self._tokens = self._handles[stay], self._rows[stay], self._tokens[stay]
        self.memory.kv.free(handles)
        self._reserved -= int(self._own_blocks[rows].sum())
        for job, count in zip(*np.unique(self._job_of_row[rows], return_counts=True), strict=True):
            self._left_of_job[job] -= int(count)
            if not self._left_of_job[job]:
                self._reserved -= self._shared_of_job[job]


def cut_jobs(
    requests: Sequence[Request], *, max_positions: int, block_size: int, max_batch: int, max_blocks: int
) -> list[Job]:
    """Cut requests into jobs of as many samples as fit the batch and the cache.

    Raises:
        ValueError: If one sample does not fit the cache.
    """
    jobs: list[Job] = []
    first = 0
    for i, (prompt, sampling) in enumerate(requests):
        # The last token drawn is never read, so it is not cached.
        longest = min(len(prompt) + sampling.max_new_tokens, max_positions) - 1
        shared = len(prompt) // block_size
        own = -(-longest // block_size) - shared
        if shared + own > max_blocks:
            raise ValueError(
                f"prompt {i}: a sample of {longest} tokens needs {shared + own} cache blocks and "
                f"{max_blocks} fit; raise cache_bytes or lower max_new_tokens"
            )
        at_once = min(max_batch, (max_blocks - shared) // max(own, 1))
        for start in range(first, first + sampling.n, at_once):
            rows = np.arange(start, min(start + at_once, first + sampling.n))
            jobs.append(Job(prompt, rows, shared, own))
        first += sampling.n
    return jobs
