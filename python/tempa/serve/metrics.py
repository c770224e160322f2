"""Counts and times in Prometheus' text format."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping

# From a fast decode step to a request that waited long.
_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Histogram:
    """How often a time was within each bound."""

    def __init__(self) -> None:
        self._counts = [0] * (len(_BOUNDS_S) + 1)
        self._sum = 0.0

    def observe(self, elapsed_s: float) -> None:
        """Count one time."""
        self._counts[bisect_left(_BOUNDS_S, elapsed_s)] += 1
        self._sum += elapsed_s

    def lines(self, name: str, about: str) -> Iterable[str]:
        """The histogram under a name."""
        yield from _head(name, about, "histogram")
        total = 0
        for bound, count in zip((*_BOUNDS_S, "+Inf"), self._counts, strict=True):
            total += count
            yield f'{name}_bucket{{le="{bound}"}} {total}'
        yield f"{name}_sum {self._sum}"
        yield f"{name}_count {total}"


class Metrics:
    """What the server has done. Used on the event loop's thread only.

    Attributes:
        responses: (path, status) -> how many.
        prompt_tokens: Read.
        new_tokens: Drawn.
        first_token: Times from a request's arrival to its first token.
        between_tokens: Times between tokens of a sample.

    >>> metrics = Metrics()
    >>> metrics.first_token.observe(0.02)
    >>> 'tempa_time_to_first_token_seconds_bucket{le="0.025"} 1' in metrics.text({}, {})
    True
    """

    def __init__(self) -> None:
        self.responses: Counter[tuple[str, int]] = Counter()
        self.prompt_tokens = 0
        self.new_tokens = 0
        self.first_token = Histogram()
        self.between_tokens = Histogram()

    def text(self, gauges: Mapping[str, tuple[str, float]], engine: Mapping[str, int]) -> str:
        """All of it.

        Args:
            gauges: Name -> (what it is, its value now).
            engine: The engine's own counts.
        """
        lines = list(_head("tempa_responses_total", "Responses by path and status.", "counter"))
        for (path, status), count in sorted(self.responses.items()):
            lines.append(f'tempa_responses_total{{path="{path}",status="{status}"}} {count}')
        for name, about, value in (
            ("tempa_prompt_tokens_total", "Tokens of prompts.", self.prompt_tokens),
            ("tempa_new_tokens_total", "Tokens drawn.", self.new_tokens),
        ):
            lines += [*_head(name, about, "counter"), f"{name} {value}"]
        for name, (about, number) in gauges.items():
            lines += [*_head(f"tempa_{name}", about, "gauge"), f"tempa_{name} {number}"]
        for name, value in sorted(engine.items()):
            lines += [
                *_head(f"tempa_engine_{name}", "As the engine counts it.", "untyped"),
                f"tempa_engine_{name} {value}",
            ]
        lines += self.first_token.lines(
            "tempa_time_to_first_token_seconds", "From a request's arrival to its first token."
        )
        lines += self.between_tokens.lines("tempa_inter_token_seconds", "Between tokens of a sample.")
        return "\n".join(lines) + "\n"


def _head(name: str, about: str, kind: str) -> tuple[str, str]:
    return f"# HELP {name} {about}", f"# TYPE {name} {kind}"
