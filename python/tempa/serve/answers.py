"""From events of the engine to answers, whole or in pieces."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from typing import Any, ClassVar

from tempa.engine.request import Event
from tempa.tokenizer import Tokenizer

Choice = dict[str, Any]
Numbered = tuple[int, Event]

END_OF_STREAM = b"data: [DONE]\n\n"


class Form:
    """How an answer is written; one object for each.

    Args:
        model: Its name.
        tokenizer: For the texts of tokens.
        stop_ids: Tokens that end a text and are not part of it.
        has_logps: Whether log-probabilities were asked for.
    """

    prefix: ClassVar[str]
    whole_object: ClassVar[str]
    piece_object: ClassVar[str]
    first_delta: ClassVar[dict[str, str] | None] = None

    def __init__(
        self, model: str, tokenizer: Tokenizer, stop_ids: tuple[int, ...], *, has_logps: bool
    ) -> None:
        self._tokenizer, self._stop_ids, self.has_logps = tokenizer, stop_ids, has_logps
        self._head = {
            "id": f"{self.prefix}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": model,
        }

    def piece(self, choices: Sequence[Choice], **more: Any) -> bytes:
        """A server-sent event."""
        return event_bytes({**self._head, "object": self.piece_object, "choices": choices, **more})

    def whole(self, events: Sequence[Numbered], num_samples: int, num_prompt_tokens: int) -> dict[str, Any]:
        """The answer in one piece."""
        samples: list[list[Event]] = [[] for _ in range(num_samples)]
        for index, event in events:
            samples[index].append(event)
        return {
            **self._head,
            "object": self.whole_object,
            "choices": [self.choice(index, sample) for index, sample in enumerate(samples)],
            "usage": usage(num_prompt_tokens, num_tokens(events)),
        }

    def opening(self, num_samples: int) -> list[Choice]:
        """What a stream begins with, if anything."""
        if self.first_delta is None:
            return []
        return [_choice(index, None, None, delta=self.first_delta) for index in range(num_samples)]

    def delta(self, index: int, event: Event) -> Choice:
        """What an event adds to a sample."""
        raise NotImplementedError

    def choice(self, index: int, events: Sequence[Event]) -> Choice:
        """A whole sample."""
        raise NotImplementedError

    def is_silent(self, event: Event) -> bool:
        """Whether there is nothing to tell of an event."""
        return not event.text and event.finish_reason is None and not self.has_logps

    def _is_told(self, event: Event) -> bool:
        """Whether the event's token is part of the answer."""
        return event.token is not None and event.token not in self._stop_ids

    def _bytes(self, token: int | None) -> bytes:
        """Of a token; those that a model has beyond its tokenizer are empty."""
        if token is None or token >= self._tokenizer.vocab_size:
            return b""
        return self._tokenizer.token_bytes(token)

    def _name(self, token: int | None) -> str:
        """A token as text; one that is no UTF-8 by its bytes, so that names differ."""
        data = self._bytes(token)
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


class ChatForm(Form):
    """Answers of /v1/chat/completions."""

    prefix, whole_object, piece_object = "chatcmpl", "chat.completion", "chat.completion.chunk"
    first_delta: ClassVar = {"role": "assistant", "content": ""}

    def delta(self, index: int, event: Event) -> Choice:
        """The text that an event settles."""
        delta = {"content": event.text} if event.text else {}
        return _choice(index, self._logps([event]), event.finish_reason, delta=delta)

    def choice(self, index: int, events: Sequence[Event]) -> Choice:
        """The message."""
        message = {"role": "assistant", "content": "".join(e.text for e in events), "refusal": None}
        return _choice(index, self._logps(events), events[-1].finish_reason, message=message)

    def _logps(self, events: Sequence[Event]) -> dict[str, Any] | None:
        if not self.has_logps:
            return None
        content = [
            {
                **self._token(e.token, e.logp),
                "top_logprobs": [self._token(token, logp) for token, logp in e.top],
            }
            for e in events
            if self._is_told(e)
        ]
        return {"content": content, "refusal": None}

    def _token(self, token: int | None, logp: float) -> dict[str, Any]:
        return {"token": self._name(token), "logprob": _finite(logp), "bytes": list(self._bytes(token))}


class TextForm(Form):
    """Answers of /v1/completions."""

    prefix, whole_object, piece_object = "cmpl", "text_completion", "text_completion"

    def __init__(
        self, model: str, tokenizer: Tokenizer, stop_ids: tuple[int, ...], *, has_logps: bool
    ) -> None:
        super().__init__(model, tokenizer, stop_ids, has_logps=has_logps)
        self._num_chars: dict[int, int] = {}  # sample -> characters told so far

    def delta(self, index: int, event: Event) -> Choice:
        """The text that an event settles."""
        return self.choice(index, [event])

    def choice(self, index: int, events: Sequence[Event]) -> Choice:
        """The text."""
        text, logps = "".join(e.text for e in events), self._logps(index, events)
        return _choice(index, logps, events[-1].finish_reason, text=text)

    def _logps(self, index: int, events: Sequence[Event]) -> dict[str, Any] | None:
        if not self.has_logps:
            return None
        names, logps, tops, offsets = list[str](), list[float](), list[dict[str, float]](), list[int]()
        at = self._num_chars.get(index, 0)
        for event in events:
            if self._is_told(event):
                names.append(self._name(event.token))
                logps.append(_finite(event.logp))
                tops.append({self._name(token): _finite(logp) for token, logp in event.top})
                offsets.append(at)
            at += len(event.text)
        self._num_chars[index] = at
        return {"tokens": names, "token_logprobs": logps, "top_logprobs": tops, "text_offset": offsets}


def _choice(index: int, logps: dict[str, Any] | None, finish_reason: str | None, **content: Any) -> Choice:
    return {"index": index, **content, "logprobs": logps, "finish_reason": finish_reason}


def _finite(logp: float) -> float:
    """What JSON can hold, and OpenAI writes, for a token that cannot come."""
    return max(logp, -9999.0)


def usage(num_prompt_tokens: int, num_new_tokens: int) -> dict[str, int]:
    """What an answer took."""
    return {
        "prompt_tokens": num_prompt_tokens,
        "completion_tokens": num_new_tokens,
        "total_tokens": num_prompt_tokens + num_new_tokens,
    }


def num_tokens(events: Sequence[Numbered]) -> int:
    """Tokens that were drawn, those that end a text included."""
    return sum(event.token is not None for _, event in events)


def event_bytes(data: dict[str, Any]) -> bytes:
    """A server-sent event of JSON."""
    return b"data: " + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
