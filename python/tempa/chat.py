"""Conversations to token ids and loss masks: the one place where the chat template lives.

A turn is `<|role|>` content `<|end|>` and a conversation is its turns, nothing before and nothing after, so
the rendering of the first turns is a prefix of the rendering of all. Content is encoded verbatim, turn by
turn, and cannot produce a special token. The mask is 1 on the content of assistant turns and on the `<|end|>`
after it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

from tempa import _core
from tempa.tokenizer import Tokenizer

Role = Literal["system", "user", "assistant"]


class Message(TypedDict):
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True)
class Rendered:
    """One conversation.

    Attributes:
        ids: (T,) uint32.
        mask: (T,) uint8, 1 where the token is trained.
    """

    ids: NDArray[np.uint32]
    mask: NDArray[np.uint8]


@dataclass(frozen=True)
class RenderedBatch:
    """Many conversations; number i is `ids[offsets[i]:offsets[i + 1]]`.

    Attributes:
        ids: (T,) uint32, all conversations one after the other.
        mask: (T,) uint8, 1 where the token is trained.
        offsets: (n + 1,) int64, from 0 to T.
    """

    ids: NDArray[np.uint32]
    mask: NDArray[np.uint8]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> Rendered:
        """Conversation `index`, as views."""
        if not 0 <= index < len(self):
            raise IndexError(f"no conversation {index} in a batch of {len(self)}")
        row = slice(self.offsets[index], self.offsets[index + 1])
        return Rendered(self.ids[row], self.mask[row])


def read_template(path: str | os.PathLike[str], name: str = "default") -> str | None:
    """The chat template that a model came with, as Jinja source, or None if it has none.

    It is for looking at, or for `transformers`; `render` has one template and does not use it.

    Args:
        path: Directory of the model, or its tokenizer_config.json.
        name: Which, where there are several, such as "tool_use".

    Raises:
        OSError: If there is neither tokenizer_config.json nor chat_template.jinja.
        ValueError: If the configuration is not JSON, or has templates but none of that name.
    """
    config = Path(path)
    if config.suffix != ".json":
        config /= "tokenizer_config.json"
    separate = config.parent / "chat_template.jinja"
    if name == "default" and separate.exists():
        return separate.read_text(encoding="utf-8")
    try:
        template = json.loads(config.read_text(encoding="utf-8")).get("chat_template")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{config}: not a tokenizer configuration: {error}") from None
    if template is None:
        return None
    named = (
        {"default": template}
        if isinstance(template, str)
        else {one["name"]: one["template"] for one in template}
    )
    if name not in named:
        raise ValueError(f"{config}: no chat template {name!r}; there are {', '.join(named)}")
    return str(named[name])


def render(
    tokenizer: Tokenizer, messages: Sequence[Message], *, add_generation_prompt: bool = False
) -> Rendered:
    """Render one conversation.

    Args:
        tokenizer: Has the special tokens of the template; `Tokenizer.with_special_tokens` adds missing ones.
        messages: Role and content of each turn.
        add_generation_prompt: End with `<|assistant|>`, so that a model goes on with the answer.

    Raises:
        ValueError: If there is no message, a role is unknown, a content is no str, or a special is missing.

    >>> tokenizer = Tokenizer.train(["hello"], vocab_size=261)
    >>> rendered = render(
    ...     tokenizer, [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    ... )
    >>> tokenizer.decode(rendered.ids)
    '<|user|>hi<|end|><|assistant|>ho<|end|>'
    >>> tokenizer.decode(rendered.ids[rendered.mask == 1])
    'ho<|end|>'
    """
    (ids, _), mask = _core.render_chats(tokenizer._core, [messages], add_generation_prompt, 1)
    return Rendered(ids, mask)


def render_batch(
    tokenizer: Tokenizer,
    conversations: Sequence[Sequence[Message]],
    *,
    add_generation_prompt: bool = False,
    num_threads: int | None = None,
) -> RenderedBatch:
    """Render many conversations.

    Args:
        tokenizer: See `render`.
        conversations: See `render`.
        add_generation_prompt: See `render`.
        num_threads: One for each processor when None. The result is the same.

    Raises:
        ValueError: As `render`, naming the conversation and the message.

    >>> tokenizer = Tokenizer.train(["hello"], vocab_size=261)
    >>> batch = render_batch(tokenizer, [[{"role": "user", "content": "hi"}]] * 2)
    >>> batch.offsets.tolist()
    [0, 4, 8]
    """
    (ids, offsets), mask = _core.render_chats(
        tokenizer._core, conversations, add_generation_prompt, num_threads
    )
    return RenderedBatch(ids, mask, offsets)
