"""Records to align a model with: chats, preference pairs, tasks; read from .jsonl or .json files.

Every record is checked when it is read, and an error names the file, the line and the field.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tempa.align.grade import Task, extract_answer
from tempa.chat import Message

Record = TypeVar("Record")
_ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Chat:
    """A conversation to learn from; the loss is on the assistant's turns."""

    messages: tuple[Message, ...]


@dataclass(frozen=True)
class Pair:
    """Two answers to the same conversation, one preferred.

    Attributes:
        messages: The conversation, ending with the user's turn.
        chosen: The preferred answer.
        rejected: The other one.
    """

    messages: tuple[Message, ...]
    chosen: str
    rejected: str


def load_chats(path: Path | str) -> list[Chat]:
    """Read chats: `{"messages": [{"role", "content"}, ...]}` or `{"instruction", "input", "output"}`.

    Raises:
        ValueError: If a record is not a chat with at least one assistant turn; names file, line and field.
        OSError: If the file cannot be read.
    """
    return _load(path, _chat)


def load_pairs(path: Path | str) -> list[Pair]:
    """Read pairs: "chosen" and "rejected" beside "prompt", "messages" or "instruction" and "input".

    A pair whose answers are the same says nothing and is left out.

    Raises:
        ValueError: If a record is not a pair; names file, line and field.
        OSError: If the file cannot be read.
    """
    return [pair for pair in _load(path, _pair) if pair.chosen != pair.rejected]


def load_tasks(path: Path | str) -> list[Task]:
    """Read tasks: `"answer"` beside `"prompt"`, `"question"` or `"messages"`; GSM8K's `#### x` is cut out.

    Raises:
        ValueError: If a record is not a task; names file, line and field.
        OSError: If the file cannot be read.
    """
    return _load(path, _task)


def load_prompts(path: Path | str) -> list[Task]:
    """Read conversations to answer, with whatever else their records hold; the tasks have no answer.

    Raises:
        ValueError: If a record has no prompt; names file, line and field.
        OSError: If the file cannot be read.
    """
    return _load(path, lambda value: Task(_prompt(value), ""))


def chat_from(prompt: str, answer: str) -> Chat:
    """One question and its answer as a chat."""
    return Chat((Message(role="user", content=prompt), Message(role="assistant", content=answer)))


def _load(path: Path | str, parse: Callable[[dict[str, Any]], Record]) -> list[Record]:
    path = Path(path)
    records = []
    for line, value in _values(path):
        try:
            if not isinstance(value, dict):
                raise ValueError(f"expected an object, found {_kind(value)}")
            records.append(parse(value))
        except ValueError as error:
            raise ValueError(f"{path}:{line}: {error}") from None
    if not records:
        raise ValueError(f"{path}: no records")
    return records


def _values(path: Path) -> Iterator[tuple[int, Any]]:
    """The records of a file, each with the line on which it begins."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 at byte {error.start}") from None
    if path.suffix == ".jsonl":
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                try:
                    yield number, json.loads(line)
                except json.JSONDecodeError as error:
                    raise _not_json(path, number, error) from None
        return
    if path.suffix != ".json":
        raise ValueError(f"{path}: records are read from .jsonl and .json files")
    yield from _array_values(path, text)


def _array_values(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    # One value at a time, so that each is known by its line.
    decoder = json.JSONDecoder()
    at, line, counted, opener = 0, 1, 0, "["
    while True:
        while at < len(text) and text[at].isspace():
            at += 1
        line, counted = line + text.count("\n", counted, at), at
        mark = text[at : at + 1]
        if mark == "]" and opener == ",":
            return
        if mark != opener:
            raise ValueError(f"{path}:{line}: expected {opener!r} of an array of records, found {mark!r}")
        at += 1
        while at < len(text) and text[at].isspace():
            at += 1
        line, counted = line + text.count("\n", counted, at), at
        if text[at : at + 1] == "]" and opener == "[":
            return
        try:
            value, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            raise _not_json(path, error.lineno, error) from None
        yield line, value
        opener = ","


def _not_json(path: Path, line: int, error: json.JSONDecodeError) -> ValueError:
    return ValueError(f"{path}:{line}: not JSON: {error.msg} at column {error.colno}")


def _chat(value: dict[str, Any]) -> Chat:
    if "messages" not in value:
        return chat_from(_instruction(value), _string(value, "output"))
    messages = _messages(value)
    if not any(message["role"] == "assistant" for message in messages):
        raise ValueError('field "messages": no assistant turn to learn from')
    return Chat(messages)


def _pair(value: dict[str, Any]) -> Pair:
    return Pair(_prompt(value), _string(value, "chosen"), _string(value, "rejected"))


def _task(value: dict[str, Any]) -> Task:
    answer = value.get("answer")
    # A number is an answer too, and 0 is one of them.
    if isinstance(answer, (int, float)) and not isinstance(answer, bool):
        answer = str(answer)
    elif answer is not None:
        answer = _string(value, "answer")
        answer = extract_answer(answer, "marker") or answer
    if answer is None:
        raise ValueError('field "answer": missing')
    return Task(_prompt(value), answer)


def _prompt(value: dict[str, Any]) -> tuple[Message, ...]:
    if "messages" in value:
        messages = _messages(value)
        if messages[-1]["role"] != "user":
            raise ValueError(f'field "messages": must end with the user, ends with {messages[-1]["role"]!r}')
        return messages
    for name in ("prompt", "question"):
        if name in value:
            return (Message(role="user", content=_string(value, name)),)
    if "instruction" in value:
        return (Message(role="user", content=_instruction(value)),)
    raise ValueError('field "prompt": missing, and neither "messages", "question" nor "instruction" is there')


def _instruction(value: dict[str, Any]) -> str:
    if "instruction" not in value:
        raise ValueError('field "messages": missing, and there is no "instruction" either')
    instruction = _string(value, "instruction")
    given = value.get("input") or ""
    if not isinstance(given, str):
        raise ValueError(f'field "input": expected text, found {_kind(given)}')
    return f"{instruction}\n\n{given}" if given else instruction


def _messages(value: dict[str, Any]) -> tuple[Message, ...]:
    turns = value["messages"]
    if not isinstance(turns, list) or not turns:
        raise ValueError(f'field "messages": expected turns, found {_kind(turns)}')
    messages = []
    for i, turn in enumerate(turns):
        field = f'field "messages[{i}]'
        if not isinstance(turn, dict):
            raise ValueError(f'{field}": expected an object, found {_kind(turn)}')
        role, content = turn.get("role"), turn.get("content")
        if role not in _ROLES:
            raise ValueError(f'{field}.role": expected one of {", ".join(_ROLES)}, found {role!r}')
        if not isinstance(content, str):
            raise ValueError(f'{field}.content": expected text, found {_kind(content)}')
        messages.append(Message(role=role, content=content))
    return tuple(messages)


def _string(value: dict[str, Any], name: str) -> str:
    if name not in value:
        raise ValueError(f'field "{name}": missing')
    text = value[name]
    if not isinstance(text, str):
        raise ValueError(f'field "{name}": expected text, found {_kind(text)}')
    if not text.strip():
        raise ValueError(f'field "{name}": empty')
    return text


def _kind(value: Any) -> str:
    if value == []:
        return "an empty array"
    names = {dict: "an object", list: "an array", str: "text", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number")
