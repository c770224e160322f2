"""The sampler in numpy, one step after the other, with a sort and whole vectors.

`draw` repeats the arithmetic of `rust/core/src/sample/mod.rs` and must give the same token. `probabilities`
is the distribution as the papers write it, in double precision: Fan et al. 2018 (top-k), Holtzman et al. 2020
(top-p), Nguyen et al. 2025 (min-p), Tang et al. 2025 (top-n-sigma), Meister et al. 2023 (typical), Keskar et
al. 2019 (repetition).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tempa import _core
from tempa.sample import Settings

STREAM = 0x73616D706C65
ONE, FLOOR = 1 << 40, -41
F32 = np.float32
Array = NDArray[np.float32]


def edit(
    row: Array,
    settings: Settings,
    prompt: Sequence[int] = (),
    output: Sequence[int] = (),
    mask: NDArray[np.int32] | None = None,
) -> Array:
    """The logits after masks, bias and penalties."""
    x = row.astype(F32).copy()
    if mask is not None:
        for i in range(len(x)):
            if not int(mask[i // 32]) >> (i % 32) & 1:
                x[i] = -np.inf
    if settings.allowed_ids is not None:
        x[np.setdiff1d(np.arange(len(x)), settings.allowed_ids)] = -np.inf
    for i, bias in settings.bias.items():
        x[i] += F32(bias)
    for i in settings.stop_ids:
        x[i] += F32(settings.stop_ramp) * F32(len(output))
    penalty = F32(settings.repetition_penalty)
    for i in {*prompt, *output}:
        x[i] = x[i] / penalty if x[i] > 0 else x[i] * penalty
    for i, count in Counter(output).items():
        x[i] = x[i] - F32(settings.frequency_penalty) * F32(count) - F32(settings.presence_penalty)
    x[list(settings.bad_ids)] = -np.inf
    if len(output) < settings.min_new_tokens:
        x[list(settings.stop_ids)] = -np.inf
    return x


def levels(x: Array, temperature: float) -> Array:
    factor = F32(min(np.log2(np.e) / (temperature or 1.0), float(np.finfo(F32).max)))
    with np.errstate(invalid="ignore", over="ignore"):
        return (x - x.max()) * factor


def masses(level: Array) -> list[int]:
    """2^level in units of 2^-40, rounded down."""
    powers = [1.5353308e-4, 1.339894e-3, 9.618438e-3, 5.5503324e-2, 0.24022648, np.log(2)]
    level = np.where(level > -63, level, F32(-63))
    shifted = level + F32(12582912)
    r = level - (shifted - F32(12582912))
    p = np.full_like(r, F32(powers[0]))
    for power in powers[1:]:
        p = p * r + F32(power)
    p = p * r + F32(1)
    digits = (p * F32(2**24)).astype(np.int64)
    shift = np.float32(12582912).view(np.uint32).astype(np.int64) - shifted.view(np.uint32)
    return [(int(d) << 16) >> int(s) for d, s in zip(digits, shift, strict=True)]


def share(p: float, total: int) -> int:
    return min(max(int(np.ceil(p * float(total))), 1), total)


def sigma_limit(x: Array, n: float) -> np.float32:
    finite = x[x > -np.inf]
    with np.errstate(over="ignore", divide="ignore"):
        distance = finite.max() - finite
        span = np.minimum(distance.max(), np.finfo(F32).max)
        if span == 0:
            return finite.max()
        unit = np.minimum(F32(2**20) / span, np.finfo(F32).max)
    whole = [int(d) for d in np.minimum(distance, span) * unit]
    mean = float(sum(whole)) / len(whole)
    variance = float(sum(w * w for w in whole)) / len(whole) - mean * mean
    sigma = max(variance, 0.0) ** 0.5 / float(unit)
    return min(F32(float(finite.max()) - n * sigma), finite.max())


def kept(x: Array, settings: Settings) -> NDArray[np.bool_]:
    """Which tokens may be drawn, from edited logits and a temperature above 0."""
    level = levels(x, settings.temperature)
    mass = masses(level)
    order = np.lexsort((np.arange(len(x)), -x))
    order = order[x[order] > -np.inf]
    if settings.top_n_sigma:
        order = order[x[order] >= sigma_limit(x, settings.top_n_sigma)]
    if settings.top_k:
        order = order[: settings.top_k]
    if settings.top_p < 1:
        order = order[: fewest(order, mass, settings.top_p)]
    if settings.min_p:
        order = order[level[order] >= F32(np.log2(settings.min_p))]
    if settings.typical_p < 1:
        order = np.array([i for i in order if mass[i]])
        total = sum(mass[i] for i in order)
        moment = sum(mass[i] * int(-level[i] * F32(65536)) for i in order)
        distance = np.abs(level[order] - F32(moment // total) / F32(-65536))
        order = order[np.lexsort((order, distance))]
        order = order[: fewest(order, mass, settings.typical_p)]
    keep = np.zeros(len(x), bool)
    keep[order] = True
    return keep


def fewest(order: NDArray[np.int64], mass: list[int], p: float) -> int:
    sums = np.cumsum([mass[i] for i in order], dtype=object)
    target = share(p, sums[-1])
    return next(n for n, total in enumerate(sums, 1) if total >= target)


def random_bits(seed: int, position: int, stream: int = STREAM) -> int:
    return int(_core.random_bits(seed, stream, position, 1)[0])


def draw(x: Array, settings: Settings, bits: int) -> int:
    """The token, from edited logits."""
    if settings.temperature == 0:
        return int(np.argmax(x))
    mass = masses(levels(x, settings.temperature))
    left = [m if keep else 0 for m, keep in zip(mass, kept(x, settings), strict=True)]
    target = bits * sum(left) >> 64
    for i, m in enumerate(left):
        if target < m:
            return i
        target -= m
    raise AssertionError("the target is not below the sum")


def probabilities(x: Array, settings: Settings) -> NDArray[np.float64]:
    """The textbook distribution, in double precision, from edited logits."""
    z = x.astype(np.float64)
    if settings.temperature == 0:
        return (np.arange(len(z)) == z.argmax()).astype(np.float64)
    order = np.lexsort((np.arange(len(z)), -z))
    finite = z[z > -np.inf]
    keep = z > -np.inf
    if settings.top_n_sigma:
        keep &= z >= z.max() - settings.top_n_sigma * finite.std()
    p = np.exp((z - z.max()) / settings.temperature) * keep
    if settings.top_k:
        p[order[settings.top_k :]] = 0
    if settings.top_p < 1:
        sums = np.cumsum(p[order])
        p[order[np.searchsorted(sums, settings.top_p * sums[-1]) + 1 :]] = 0
    p[p < settings.min_p * p.max()] = 0
    p /= p.sum()
    if settings.typical_p < 1:
        with np.errstate(divide="ignore", invalid="ignore"):
            surprisal = -np.log(p)
            distance = np.abs(surprisal - np.sum(np.where(p > 0, p * surprisal, 0)))
        order = np.lexsort((np.arange(len(z)), distance))
        sums = np.cumsum(p[order])
        p[order[np.searchsorted(sums, settings.typical_p) + 1 :]] = 0
    return p / p.sum()
