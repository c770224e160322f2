"""Several shard directories as one corpus: what is read of each, and from when on.

Shares are shares of the predictions that a model is trained on. A mixture says what is wanted, not in which
order it comes: rows are drawn by `tempa.data.loader`, as a pure function of the seed and their number.
"""

from __future__ import annotations

import difflib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from tempa.data.shards import Shards
from tempa.data.staging import save_json

MIXTURE = "mixture.json"
MANIFEST = "manifest.json"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Other weights from some point on, such as only the best text for the last tenth.

    Attributes:
        from_tokens: Predictions before the stage begins.
        weights: Relative numbers for the sources; those it does not name are not read.
    """

    from_tokens: int
    weights: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Named shard directories, and the share that each has of what is read.

    At most one of `weights`, `temperature` and `epochs` says how; without, shares are proportional to size.

    Attributes:
        sources: Name -> shard directory. The order counts: another order of sources is another order of rows.
        weights: Relative numbers for the sources; those it does not name are not read, or in a stage only.
        temperature: Shares proportional to size^(1/temperature): 1 is by size, larger is nearer to equal
            shares. XLM, mBERT and mT5 give the exponent alpha = 1/temperature: 0.5, 0.7 and 0.3.
        epochs: How often each source is read, relative to the others: weights are size times epochs.
        max_epochs: No source, or none that is named, is read more often than this in the whole run. What its
            share has in excess is shared out to the others by their weights (as UniMax does for equal ones).
            Four epochs are worth about as much as new text (Muennighoff et al. 2023).
        stages: Other weights later, in order.

    Raises:
        ValueError: If a name is unknown or a source is never read, a number is out of range, all weights are
            0, or stages are not in order.

    >>> mixture = Mixture(sources={"web": "shards/web", "code": "shards/code"}, temperature=2)
    >>> [stage] = mixture.shares({"web": 900, "code": 100})
    >>> stage.weights
    {'web': 0.75, 'code': 0.25}
    """

    sources: Mapping[str, Path]
    weights: Mapping[str, float] | None = None
    temperature: float | None = None
    epochs: Mapping[str, float] | None = None
    max_epochs: float | Mapping[str, float] | None = None
    stages: tuple[Stage, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "sources", {name: Path(path) for name, path in self.sources.items()})
        if not self.sources or not all(self.sources):
            raise ValueError(f"a mixture needs sources with names, got {dict(self.sources)}")
        given = [name for name in ("weights", "temperature", "epochs") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"give one of weights, temperature and epochs, not {' and '.join(given)}")
        if self.temperature is not None and not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature must be positive and finite, got {self.temperature}")
        named: set[str] = set() if self.weights is not None or self.epochs is not None else set(self.sources)
        for what, weights in (("weights", self.weights), ("epochs", self.epochs)):
            if weights is not None:
                named |= set(self._checked(weights, what))
        before = 0
        for stage in self.stages:
            if stage.from_tokens <= before:
                raise ValueError(
                    f"stages begin after 0 tokens, in order; got {stage.from_tokens} after {before}"
                )
            before = stage.from_tokens
            named |= set(self._checked(stage.weights, f"the weights from {before} tokens on"))
        for name in self.sources:
            if name not in named:
                raise ValueError(f"source {name!r} is never read; give it a weight, which may be 0")
        limits = {} if self.max_epochs is None else self._max_epochs()
        self._known(limits, "max_epochs")
        for name, limit in limits.items():
            if not limit > 0:
                raise ValueError(f"max_epochs must be positive, got {limit} for {name!r}")

    @classmethod
    def load(cls, directory: str | Path) -> Mixture:
        """The mixture that a directory is.

        - A shard directory is a mixture of one source.
        - `mixture.json` names sources by paths that are relative to the directory.
        - Otherwise each shard directory directly below is a source, and shares are proportional to size.

        Raises:
            FileNotFoundError: If there are no shards.
            ValueError: If `mixture.json` is not a mixture.
        """
        directory = Path(directory)
        if (directory / MANIFEST).is_file():
            return cls(sources={directory.resolve().name: directory})
        if (directory / MIXTURE).is_file():
            return cls._read(directory)
        found = sorted(path.parent for path in directory.glob(f"[!.]*/{MANIFEST}"))
        if not found:
            raise FileNotFoundError(f"{directory}: no {MANIFEST} or {MIXTURE}, and no shard directory below")
        return cls(sources={path.name: path for path in found})

    def save(self, directory: str | Path) -> None:
        """Write `mixture.json`, with the paths as they are seen from the directory."""
        paths = {
            name: Path(os.path.relpath(path, directory)).as_posix() for name, path in self.sources.items()
        }
        values = {name: value for name, value in asdict(self).items() if value not in (None, ())}
        save_json(Path(directory) / MIXTURE, {**values, "sources": paths})

    def open(self, *, tokenizer_fingerprint: str | None = None, verify: bool = True) -> dict[str, Shards]:
        """The shards of each source, see `Shards`.

        Raises:
            FileNotFoundError: If a directory is missing.
            ValueError: If a file is damaged, or sources are of different tokenizers.
        """
        opened: dict[str, Shards] = {}
        for name, path in self.sources.items():
            shards = Shards(path, tokenizer_fingerprint=tokenizer_fingerprint, verify=verify)
            first = next(iter(opened.values()), shards)
            if shards.fingerprint != first.fingerprint:
                raise ValueError(
                    f"{path}: the ids were made by tokenizer {shards.fingerprint[:12]}, "
                    f"those of {first.directory} by {first.fingerprint[:12]}; use one tokenizer for all"
                )
            opened[name] = shards
        return opened

    def shares(self, sizes: Mapping[str, int], num_tokens: int | None = None) -> tuple[Stage, ...]:
        """The share of each source, from the start and in each stage.

        Args:
            sizes: Predictions in one epoch of each source.
            num_tokens: Predictions in the whole run, which `max_epochs` depends on.

        Raises:
            ValueError: If `max_epochs` is set and the run's length is missing, or longer than it allows.
        """
        stages = [Stage(from_tokens=0, weights=self._weights(sizes)), *self.stages]
        wanted = [
            Stage(from_tokens=stage.from_tokens, weights=self._normal(stage.weights)) for stage in stages
        ]
        if self.max_epochs is None:
            return tuple(wanted)
        if num_tokens is None or num_tokens < 1:
            raise ValueError(f"max_epochs depends on the length of the run; num_tokens is {num_tokens}")
        limits = self._max_epochs()
        left = {name: limits.get(name, math.inf) * size for name, size in sizes.items()}
        ends = [*(stage.from_tokens for stage in self.stages), math.inf]
        limited = []
        for stage, end in zip(wanted, ends, strict=True):
            length = min(end, num_tokens) - stage.from_tokens
            if length <= 0:
                break
            shares = _share_out(stage.weights, {name: tokens / length for name, tokens in left.items()})
            if shares is None:
                there = sum(left[name] for name, share in stage.weights.items() if share)
                raise ValueError(
                    f"max_epochs leaves {there:,.0f} tokens for {length:,.0f} from {stage.from_tokens:,} on; "
                    "shorten the run, add sources or raise max_epochs"
                )
            left = {name: max(tokens - shares[name] * length, 0.0) for name, tokens in left.items()}
            limited.append(Stage(from_tokens=stage.from_tokens, weights=shares))
        return tuple(limited)

    @classmethod
    def _read(cls, directory: Path) -> Mixture:
        path = directory / MIXTURE
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            known = [each.name for each in fields(cls)]
            for key in values:
                if key not in known:
                    raise ValueError(f"unknown key {key!r}; {_nearest(key, known)}")
            values["sources"] = {
                name: directory / source for name, source in values.get("sources", {}).items()
            }
            values["stages"] = tuple(Stage(**stage) for stage in values.get("stages", ()))
            return cls(**values)
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: not a mixture: {error}") from None

    def _weights(self, sizes: Mapping[str, int]) -> Mapping[str, float]:
        if self.weights is not None:
            return self.weights
        if self.epochs is not None:
            return {name: sizes[name] * epochs for name, epochs in self.epochs.items()}
        largest = max(sizes.values())
        return {name: (size / largest) ** (1 / (self.temperature or 1)) for name, size in sizes.items()}

    def _normal(self, weights: Mapping[str, float]) -> dict[str, float]:
        total = sum(weights.values())
        return {name: weights.get(name, 0) / total for name in self.sources}

    def _max_epochs(self) -> Mapping[str, float]:
        limits = self.max_epochs
        return limits if isinstance(limits, Mapping) else dict.fromkeys(self.sources, limits or 0.0)

    def _checked(self, weights: Mapping[str, float], what: str) -> Mapping[str, float]:
        self._known(weights, what)
        for name, weight in weights.items():
            if not 0 <= weight < math.inf:
                raise ValueError(f"{what}: a weight is 0 or more and finite, got {weight} for {name!r}")
        if not any(weights.values()):
            raise ValueError(f"{what}: all are 0; give one source more")
        return weights

    def _known(self, names: Mapping[str, Any], what: str) -> None:
        for name in names:
            if name not in self.sources:
                raise ValueError(f"{what}: unknown source {name!r}; {_nearest(name, list(self.sources))}")


def _share_out(wanted: Mapping[str, float], limits: Mapping[str, float]) -> dict[str, float] | None:
    """Shares as proportional to those wanted as the limits allow, 1 in all; None if they are too low."""
    full: dict[str, float] = {}
    while True:
        room = 1 - sum(full.values())
        open_ = {name: share for name, share in wanted.items() if share and name not in full}
        if not open_:
            return {name: full.get(name, 0.0) for name in wanted} if room < 1e-9 else None
        total = sum(open_.values())
        over = {name: limits[name] for name, share in open_.items() if share / total * room > limits[name]}
        if not over:
            return {name: full.get(name, share / total * room) for name, share in wanted.items()}
        full |= over


def _nearest(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
