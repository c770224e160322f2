"""Sampling: one row of 151,936 logits on one thread beside torch and the warpers of transformers.

`torch sort` sorts the row, cuts, and draws by `multinomial`, as samplers written with tensor operations do;
`torch topk` sorts the k largest alone; `torch softmax` has no cut; `transformers` runs its logits processors,
then softmax and `multinomial`. Each has the same probabilities as ours. Ours adds a log-probability.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
import transformers

from tempa.sample import Sampler, Settings

VOCAB = 151_936
PROMPT, OUTPUT = 500, 500
FULL = "top-k 50, top-p 0.9, penalties, mask"
SETTINGS = {
    FULL: Settings(
        temperature=0.8, top_k=50, top_p=0.9,
        repetition_penalty=1.1, frequency_penalty=0.1, presence_penalty=0.1,
    ),
    "top-k 50": Settings(temperature=0.8, top_k=50),
    "top-p 0.9": Settings(temperature=0.8, top_p=0.9),
    "min-p 0.05": Settings(temperature=0.8, min_p=0.05),
    "typical-p 0.9": Settings(temperature=0.8, typical_p=0.9),
    "temperature 0.8": Settings(temperature=0.8),
    "greedy": Settings(temperature=0),
}  # fmt: skip
# transformers has neither a frequency penalty nor a mask.
CUTS = ("ours", "torch sort", "transformers")
SIDES = {
    FULL: ("ours", "torch sort", "torch topk"),
    "top-k 50": (*CUTS, "torch topk"),
    "temperature 0.8": ("ours", "torch softmax", "transformers"),
    "greedy": ("ours", "torch argmax"),
}
PAIRS = [(case, side) for case in SETTINGS for side in SIDES.get(case, CUTS)]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Case:
    """A row of normal logits, a request with a history, and a mask with half of its bits set."""

    def __init__(self, name: str, spread: float) -> None:
        random = np.random.default_rng(0)
        self.settings = SETTINGS[name]
        self.row = random.normal(0, spread, (1, VOCAB)).astype(np.float32)
        self.prompt, self.output = (random.integers(0, VOCAB, n) for n in (PROMPT, OUTPUT))
        self.bits = random.random(VOCAB) < 0.5
        self.mask = np.packbits(self.bits, bitorder="little").view(np.int32)[None] if name == FULL else None
        self.sampler = Sampler(VOCAB)
        self.handle = self.sampler.add(self.settings, prompt=self.prompt)
        self.sampler.append(self.handle, self.output)

    def ours(self) -> np.ndarray:
        return self.sampler.distribution([self.handle], self.row, mask=self.mask)[0]

    def draw(self) -> int:
        draws = self.sampler.step([self.handle], self.row, mask=self.mask)
        self.sampler.rollback(self.handle, 1)
        return int(draws.ids[0])

    def edited(self) -> torch.Tensor:
        """The logits after mask, penalties and temperature, by tensor operations."""
        s, x = self.settings, torch.from_numpy(self.row).clone()
        if self.mask is not None:
            x.masked_fill_(self.is_forbidden, -torch.inf)
            seen = x.gather(1, self.seen)
            seen = torch.where(seen > 0, seen / s.repetition_penalty, seen * s.repetition_penalty)
            x.scatter_(1, self.seen, seen)
            x -= s.frequency_penalty * self.counts + s.presence_penalty * (self.counts > 0)
        return x.div_(s.temperature)

    def prepare(self) -> None:
        """What a server keeps between steps."""
        self.is_forbidden = torch.from_numpy(~self.bits)[None]
        self.seen = torch.from_numpy(np.unique(np.concatenate([self.prompt, self.output])))[None]
        self.counts = torch.from_numpy(np.bincount(self.output, minlength=VOCAB).astype(np.float32))[None]

    def by_sort(self) -> torch.Tensor:
        s, x = self.settings, self.edited()
        ordered, order = x.sort(dim=-1, descending=True)
        if s.top_k:
            ordered[:, s.top_k :] = -torch.inf
        p = ordered.softmax(-1)
        if s.typical_p < 1:
            surprisal = -p.log()
            _, again = (surprisal - (p * surprisal).nansum(-1, keepdim=True)).abs().sort(dim=-1)
            p, order = p.gather(1, again), order.gather(1, again)
        share = min(s.top_p, s.typical_p)
        p[p.cumsum(-1) - p >= share] = 0
        p[p < s.min_p * p[:, :1]] = 0
        return torch.zeros_like(p).scatter_(1, order, p / p.sum(-1, keepdim=True))

    def by_topk(self) -> torch.Tensor:
        s, x = self.settings, self.edited()
        ordered, order = x.topk(s.top_k)
        p = ordered.softmax(-1)
        p[p.cumsum(-1) - p >= s.top_p] = 0
        return torch.zeros_like(x).scatter_(1, order, p / p.sum(-1, keepdim=True))

    def by_transformers(self) -> torch.Tensor:
        s = self.settings
        steps = transformers.LogitsProcessorList()
        if s.repetition_penalty != 1:
            steps.append(transformers.RepetitionPenaltyLogitsProcessor(s.repetition_penalty))
        steps.append(transformers.TemperatureLogitsWarper(s.temperature))
        if s.top_k:
            steps.append(transformers.TopKLogitsWarper(s.top_k))
        if s.top_p < 1:
            steps.append(transformers.TopPLogitsWarper(s.top_p))
        if s.min_p:
            steps.append(transformers.MinPLogitsWarper(s.min_p))
        if s.typical_p < 1:
            steps.append(transformers.TypicalLogitsWarper(s.typical_p))
        ids = torch.from_numpy(np.concatenate([self.prompt, self.output]))[None]
        return steps(ids, torch.from_numpy(self.row).clone()).softmax(-1)


@pytest.mark.benchmark(group="one row of 151,936 logits, 1 thread", min_rounds=20, warmup=True)
@pytest.mark.parametrize("spread", [1, 5])
@pytest.mark.parametrize(("case", "side"), PAIRS)
def test_row(benchmark, case: str, side: str, spread: int) -> None:
    work = Case(case, spread)
    work.prepare()
    if side == "ours":
        benchmark(work.draw)
    elif side == "torch argmax":
        row = torch.from_numpy(work.row)
        assert work.draw() == int(row.argmax())
        benchmark(lambda: int(row.argmax()))
    else:
        peers: dict[str, Callable[[], torch.Tensor]] = {
            "torch sort": work.by_sort,
            "torch topk": work.by_topk,
            "torch softmax": lambda: work.edited().softmax(-1),
            "transformers": work.by_transformers,
        }
        peer = peers[side]
        # The token at the border of a cut may fall either way: they add up in single precision.
        assert float((peer()[0] - torch.from_numpy(work.ours())).abs().max()) < 2e-5
        benchmark(lambda: torch.multinomial(peer(), 1))
