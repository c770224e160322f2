"""Draws from 131,072 logits for 128 requests, where the logits are, beside the CPU's sampler and torch."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpu.comparison import OURS, Case, Comparison, Run, Target
from gpu.rig import Rig, normal, size
from tempa.ops.sampler_cuda import CudaSampler
from tempa.sample import Sampler, Settings

ROWS, VOCABULARY = 128, 131072
TOP_K, TOP_P, TEMPERATURE = 50, 0.9, 0.8
# Tokens are those of the CPU's sampler, all of them.
TOLERANCE = 1e-9
LATENCY = Target("time", 60.0, 30.0)
CUTS = {
    "temperature": Settings(temperature=TEMPERATURE),
    "top-k 50 and top-p 0.9": Settings(temperature=TEMPERATURE, top_k=TOP_K, top_p=TOP_P),
    "top-p 0.9": Settings(temperature=TEMPERATURE, top_p=TOP_P),
    "greedy": Settings(temperature=0),
}


def cases() -> list[Case]:
    """Logits as of a model that knows what comes, and others that are flat."""
    listed = []
    for words, settings in CUTS.items():
        name = f"{ROWS} rows of {VOCABULARY}, {words}"
        listed.append(Case(name, _case(settings, 3.0), is_quick=words.startswith("top-k")))
    listed.append(Case(f"{ROWS} rows of {VOCABULARY}, top-p 0.9, flat logits", _case(CUTS["top-p 0.9"], 0.5)))
    return listed


def _case(settings: Settings, scale: float) -> Callable[[Rig], Comparison]:
    def build(rig: Rig) -> Comparison:
        rows, vocabulary = size(rig, ROWS, 3), size(rig, VOCABULARY, 600)
        logits = normal(rig, rows, vocabulary, dtype=torch.float32, scale=scale)
        sides = {
            OURS: lambda: _ours(settings, logits),
            "the CPU's sampler": lambda: _on_cpu(settings, logits),
            "torch": lambda: _torchs(settings, logits, lambda draw: draw),
            "torch.compile": lambda: _torchs(settings, logits, rig.compiled),
            "FlashInfer": lambda: _flashinfer(settings, logits),
        }
        return Comparison(
            sides,
            TOLERANCE,
            logits.nbytes,
            ceiling="read",
            targets=(LATENCY,),
            # They draw with random numbers of their own.
            unchecked=("torch", "torch.compile", "FlashInfer"),
        )

    return build


def _requests(sampler: Sampler, settings: Settings, count: int) -> list[int]:
    return [sampler.add(settings, seed=seed) for seed in range(count)]


def _ours(settings: Settings, logits: Tensor) -> Run:
    sampler = CudaSampler(logits.shape[1])
    handles = _requests(sampler, settings, len(logits))
    described = sampler.batch(handles, np.arange(len(handles))).tensors(logits.device)
    return lambda: torch.ops.tempa.sample(logits, *described, None, logits.shape[1], 0, True)[:, 0]


def _on_cpu(settings: Settings, logits: Tensor) -> Run:
    """With the copy that it takes to have the logits there, and the first draw again and again."""

    def run() -> Tensor:
        sampler = Sampler(logits.shape[1])
        handles = _requests(sampler, settings, len(logits))
        ids = sampler.step(handles, logits.cpu()).ids
        return torch.from_numpy(ids.astype(np.int32)).to(logits.device)

    return run


def _torchs(settings: Settings, logits: Tensor, compiled: Callable[..., Callable[[Tensor], Tensor]]) -> Run:
    """The shortest way that torch has for these settings."""

    def draw(logits: Tensor) -> Tensor:
        if settings.temperature == 0:
            return logits.argmax(-1)
        if settings.top_k:
            chosen, places = (logits / settings.temperature).topk(settings.top_k)
        elif settings.top_p < 1:
            chosen, places = (logits / settings.temperature).sort(descending=True)
        else:
            chosen, places = logits / settings.temperature, None
        weights = chosen.softmax(-1)
        if settings.top_p < 1:
            weights = weights.where(weights.cumsum(-1) - weights < settings.top_p, 0.0)
        # The largest of weights over exponential noise is a draw by weight, without waiting for the device.
        drawn = (weights / torch.empty_like(weights).exponential_()).argmax(-1, keepdim=True)
        return drawn if places is None else places.gather(-1, drawn)

    fast = compiled(draw)
    return lambda: fast(logits)


def _flashinfer(settings: Settings, logits: Tensor) -> Run:
    library: Any = importlib.import_module("flashinfer.sampling")
    if settings.temperature == 0:
        raise NotImplementedError("it has no greedy draws")

    def run() -> Tensor:
        probs = library.softmax(logits, temperature=settings.temperature)
        if settings.top_k:
            return library.top_k_top_p_sampling_from_probs(probs, settings.top_k, settings.top_p)
        if settings.top_p < 1:
            return library.top_p_sampling_from_probs(probs, settings.top_p)
        return library.sampling_from_probs(probs)

    return run
