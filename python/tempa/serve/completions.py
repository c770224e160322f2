"""From bodies to requests of the engine, with the limits of the server."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tempa.chat import Message, render
from tempa.engine.request import Request
from tempa.engine.sampling import Sampling
from tempa.serve.constraint import JsonGrammar, JsonGrammars
from tempa.serve.errors import ApiError
from tempa.serve.schemas import ChatBody, CompletionBody, ResponseFormat, TurnBody
from tempa.serve.settings import ServeConfig
from tempa.tokenizer import END_OF_TEXT, Tokenizer

# What OpenAI gives a completion that names no number.
_COMPLETION_TOKENS = 16


@dataclass(frozen=True)
class Model:
    """What is served.

    Attributes:
        name: As clients call it.
        tokenizer: Its own.
        vocab_size: Tokens that it can draw.
        max_positions: Tokens of prompt and answer together.
    """

    name: str
    tokenizer: Tokenizer
    vocab_size: int
    max_positions: int


class Planner:
    """Makes requests. Its methods take a while for long texts and may run on any thread.

    Args:
        model: What is served.
        config: The limits.
    """

    def __init__(self, model: Model, config: ServeConfig) -> None:
        self.model = model
        self._config = config
        specials = model.tokenizer.special_tokens
        self.text_stops = tuple(specials[name] for name in (END_OF_TEXT,) if name in specials)
        # A document ends at one, a turn at the other; what comes after either is not asked for.
        self.chat_stops = tuple(specials[name] for name in ("<|end|>", END_OF_TEXT) if name in specials)
        self._grammars = JsonGrammars(model.tokenizer, self.chat_stops) if self.chat_stops else None
        longest = model.max_positions - 1
        self._max_prompt = min(config.max_prompt_tokens or longest, longest)

    def completion(self, body: CompletionBody) -> list[Request]:
        """A request for each prompt.

        Raises:
            ApiError: If a limit is passed; it names the field.
            ValueError: If a value is out of range.
        """
        self._check(body, len(body.prompt), body.max_tokens, "max_tokens")
        tokenizer = self.model.tokenizer
        requests: list[Request] = []
        for prompt in body.prompt:
            ids = tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
            ids = ids or [tokenizer.eot_id]  # an empty prompt begins a document
            self._check_length(ids, "prompt")
            self._check_ids(ids, "prompt")
            requests.append(
                Request(
                    prompt=ids,
                    sampling=self._sampling(
                        body, body.max_tokens or _COMPLETION_TOKENS, self.text_stops, len(requests)
                    ),
                    top_logps=body.logprobs or 0,
                )
            )
        return requests

    def chat(self, body: ChatBody) -> list[Request]:
        """The request for an answer.

        Raises:
            ApiError: If a limit is passed; it names the field.
            ValueError: If a value is out of range, or the tokenizer has no tokens for chats.
        """
        name = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
        max_tokens = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
        self._check(body, 1, max_tokens, name)
        if body.top_logprobs and not body.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs: true", param="top_logprobs")
        rendered = render(self.model.tokenizer, messages(body.messages), add_generation_prompt=True)
        self._check_length(rendered.ids, "messages")
        return [
            Request(
                prompt=rendered.ids,
                sampling=self._sampling(body, max_tokens or self._config.max_tokens, self.chat_stops, 0),
                constraint=self._constraint(body.response_format),
                top_logps=body.top_logprobs or 0,
            )
        ]

    def _check(
        self, body: ChatBody | CompletionBody, num_prompts: int, max_tokens: int | None, name: str
    ) -> None:
        config = self._config
        if body.model != self.model.name:
            message = f"no model {body.model!r} here, only {self.model.name!r}"
            raise ApiError(404, message, param="model", code="model_not_found")
        if num_prompts * (body.n or 1) > config.max_samples:
            message = f"n: {num_prompts} prompts x {body.n or 1} samples; the most is {config.max_samples}"
            raise ApiError(400, message, param="n")
        if (max_tokens or 0) > config.max_tokens:
            raise ApiError(400, f"{name} must be at most {config.max_tokens}, got {max_tokens}", param=name)

    def _check_length(self, ids: Sequence[int] | Any, name: str) -> None:
        if len(ids) > self._max_prompt:
            message = f"{name}: {len(ids)} tokens; the most is {self._max_prompt}"
            raise ApiError(400, message, param=name, code="context_length_exceeded")

    def _check_ids(self, ids: Sequence[int], name: str) -> None:
        for token in ids:
            if not 0 <= token < self.model.vocab_size:
                message = f"{name}: token {token} is not among the {self.model.vocab_size} of the model"
                raise ApiError(400, message, param=name)

    def _sampling(
        self, body: ChatBody | CompletionBody, max_tokens: int, stop_ids: tuple[int, ...], index: int
    ) -> Sampling:
        n = body.n or 1
        # Without a seed, every request draws anew.
        seed = secrets.randbits(62) if body.seed is None else body.seed
        return Sampling(
            max_new_tokens=max_tokens,
            temperature=_or(body.temperature, 1.0),
            top_p=_or(body.top_p, 1.0),
            top_k=body.top_k or 0,
            min_p=body.min_p or 0.0,
            presence_penalty=body.presence_penalty or 0.0,
            frequency_penalty=body.frequency_penalty or 0.0,
            repetition_penalty=_or(body.repetition_penalty, 1.0),
            bias=self._bias(body.logit_bias or {}),
            seed=seed + index * n,
            n=n,
            stop=tuple(body.stop or ()),
            stop_ids=stop_ids,
        )

    def _bias(self, bias: dict[str, float]) -> dict[int, float]:
        wrong = [token for token in bias if not (token.isascii() and token.isdigit() and len(token) < 10)]
        if wrong:
            raise ApiError(400, f"logit_bias: {wrong[0]!r} is not a token id", param="logit_bias")
        self._check_ids([int(token) for token in bias], "logit_bias")
        return {int(token): value for token, value in bias.items()}

    def _constraint(self, form: ResponseFormat | None) -> JsonGrammar | None:
        if form is None or form.type == "text":
            return None
        if self._grammars is None:
            raise ApiError(400, "the tokenizer has no token that ends a text", param="response_format")
        schema: dict[str, Any] = {"type": "object"}
        if form.type == "json_schema":
            if form.json_schema is None:
                raise ApiError(400, "json_schema is missing", param="response_format.json_schema")
            schema = form.json_schema.definition
        try:
            return self._grammars.compile(schema)
        except ValueError as error:
            message = f"response_format: {error}"
            raise ApiError(400, message, param="response_format.json_schema.schema") from None


def messages(turns: Sequence[TurnBody]) -> list[Message]:
    """Turns of a body as a conversation."""
    return [{"role": turn.role, "content": turn.content} for turn in turns]


def _or(value: float | None, default: float) -> float:
    return default if value is None else value
