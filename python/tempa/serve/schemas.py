"""What requests may hold, as OpenAI's clients write them. A field that nothing is done with is an error."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

# Seeds of samples are counted on from it, so the top is left free.
_MAX_SEED = (1 << 62) - 1


def _one_or_more(stop: Any) -> Any:
    return [stop] if isinstance(stop, str) else stop


def _text(content: Any) -> Any:
    """The text of a message, which may come in parts."""
    if not isinstance(content, list):
        return content
    for part in content:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise ValueError("content may be text or parts of type 'text', nothing else")
    return "".join(part["text"] for part in content)


def _prompts(prompt: Any) -> Any:
    """A list of prompts, each text or ids."""
    if isinstance(prompt, str) or (isinstance(prompt, list) and prompt and type(prompt[0]) is int):
        prompt = [prompt]
    if not isinstance(prompt, list) or not prompt:
        raise ValueError("a prompt is text, token ids, or a list of either")
    for one in prompt:
        is_ids = isinstance(one, list) and all(type(token) is int for token in one)
        if not isinstance(one, str) and not is_ids:
            raise ValueError("a prompt is text, token ids, or a list of either")
    return prompt


class _Part(BaseModel):
    # NaN and infinities pass comparisons of ranges in surprising ways; JSON has no such numbers anyway.
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class StreamOptions(_Part):
    """What a stream tells beside the text."""

    include_usage: bool = False


class _Body(_Part):
    """What both kinds of completion share; None is the same as leaving a field out."""

    model: str
    n: Annotated[int, Field(ge=1)] | None = None
    seed: Annotated[int, Field(ge=0, le=_MAX_SEED)] | None = None
    stop: (
        Annotated[
            list[Annotated[str, Field(min_length=1, max_length=256)]],
            Field(max_length=16),
            BeforeValidator(_one_or_more),
        ]
        | None
    ) = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    # Beyond OpenAI's.
    top_k: Annotated[int, Field(ge=0, lt=1 << 32)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    # Names for the client's own books; they change no answer.
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None


class CompletionBody(_Body):
    """Body of /v1/completions."""

    prompt: Annotated[list[str | list[int]], BeforeValidator(_prompts)]
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None


class TurnBody(_Part):
    """A message of a chat."""

    role: Annotated[
        Literal["system", "user", "assistant"],
        BeforeValidator(lambda role: "system" if role == "developer" else role),
    ]
    content: Annotated[str, BeforeValidator(_text)]
    name: None = None
    refusal: None = None


class JsonSchema(_Part):
    """A schema and its name."""

    name: str
    description: str | None = None
    # The field is called schema; a model of pydantic has a method of that name.
    definition: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None


class ResponseFormat(_Part):
    """What an answer must be."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class ChatBody(_Body):
    """Body of /v1/chat/completions."""

    messages: Annotated[list[TurnBody], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None


class PairBody(_Part):
    """Two answers to the same messages, one preferred."""

    messages: Annotated[list[TurnBody], Field(min_length=1)]
    chosen: Annotated[str, Field(pattern=r"\S")]
    rejected: Annotated[str, Field(pattern=r"\S")]
