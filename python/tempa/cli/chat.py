"""`tempa chat show`: what a model is trained on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, cast

import tyro

from tempa import config
from tempa.align.records import load_chats
from tempa.chat import Message, Role, render
from tempa.cli.group import dispatch
from tempa.cli.tokens import print_tokens
from tempa.tokenizer import Tokenizer


def main(name: str, argv: list[str]) -> int:
    """Run one subcommand."""
    commands = {"show": (_show, "render conversations and colour the tokens that are trained")}
    return dispatch(
        name,
        argv,
        "Conversations as the model reads them.",
        commands,
        "try `tempa chat show --tokenizer DIR --message 'user:hi' --message 'assistant:hello'`.",
    )


@dataclass(frozen=True)
class ShowConfig:
    """Which conversations, and by which tokenizer."""

    tokenizer: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Directory with a tokenizer.json, such as that of a model, or the file."""
    file: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")] = None
    """.jsonl or .json file of chats, as `tempa sft` reads them."""
    message: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="ROLE:TEXT")] = ()
    """A message as role:content; once for each turn, in order."""
    limit: int = 3
    """Conversations of the file to show."""
    prompt: bool = False
    """End with <|assistant|>, as when the model is to answer."""


def _show(argv: list[str]) -> int:
    settings = config.parse(
        ShowConfig,
        argv,
        prog="tempa chat show",
        description="Render conversations with the chat template. Trained tokens, the assistant's content "
        "and the <|end|> after it, are green in a terminal; elsewhere each token has a line: mask, id, text.",
    )
    if bool(settings.message) == bool(settings.file):
        raise ValueError("give either a FILE of chats, or --message role:content once for each turn")
    tokenizer = Tokenizer.load(settings.tokenizer)
    chats = [tuple(map(_message, settings.message))]
    if settings.file:
        chats = [chat.messages for chat in load_chats(settings.file)[: settings.limit]]
    for chat in chats:
        rendered = render(tokenizer, chat, add_generation_prompt=settings.prompt)
        print_tokens(tokenizer, rendered.ids, rendered.mask.tolist())
        print(f"{len(rendered.ids):,} tokens, {rendered.mask.sum():,} trained\n")
    return 0


def _message(text: str) -> Message:
    role, colon, content = text.partition(":")
    if not colon:
        raise ValueError(f"--message {text!r} is not role:content, such as 'user:hello'")
    return {"role": cast(Role, role), "content": content}
