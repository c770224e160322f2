"""`tempa generate`: complete a prompt or answer a chat message, printed as it is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tempa import config

if TYPE_CHECKING:
    from tempa.engine import Sampling
    from tempa.tokenizer import Tokenizer

_HELP = """Complete a text, or answer a message.

  tempa generate --model runs/base --prompt "Once upon a time"
  tempa generate --model runs/sft --chat "What is the capital of France?"
  tempa generate --model runs/grpo --chat "What is 17 + 25?" --n 4 --temperature 0.7
  tempa generate --model runs/base --prompt "Q: 2 + 2? A:" --temperature 0 --stop "Q:"

One sample is printed as it is written; with --n, each sample after the last has ended. The same seed writes
the same text."""


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """Settings of `tempa generate`.

    Attributes:
        model: A model, checkpoint or run directory.
        prompt: Text to go on from, as it stands; "" begins a new document.
        chat: Message to answer, in the chat template; for models after SFT.
        system: Instruction before the message.
        max_new_tokens: The longest text.
        temperature: Divides the logits; 0 always takes the likeliest token.
        top_k: Draw from so many likeliest tokens; 0 means all.
        top_p: Then from the fewest that hold this share of the probability.
        n: Number of samples.
        seed: Sample i draws with seed + i.
        stop: Strings that end the text before them.
        device: Where to run.
    """

    model: Path
    prompt: str | None = None
    chat: str | None = None
    system: str = ""
    max_new_tokens: int = 256
    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 1.0
    n: int = 1
    seed: int = 0
    stop: tuple[str, ...] = ()
    device: str = "auto"

    def __post_init__(self) -> None:
        if (self.prompt is None) == (self.chat is None):
            raise ValueError("give either --prompt TEXT or --chat TEXT")
        if self.system and self.chat is None:
            raise ValueError("--system goes with --chat; a prompt is taken as it stands")


def main(name: str, argv: list[str]) -> int:
    """Print one completion as it comes, or several one after the other."""
    options = config.parse(GenerateConfig, argv, prog=f"tempa {name}", description=_HELP)

    from tempa.engine import Engine
    from tempa.model import load_model
    from tempa.train.precision import choose_device
    from tempa.train.run import resolve_model

    directory = resolve_model(options.model)
    model, tokenizer = load_model(directory, choose_device(options.device))
    if tokenizer is None:
        raise ValueError(f"{directory}: the model was saved without a tokenizer")
    prompt, sampling = request(options, tokenizer)
    engine = Engine(model, tokenizer)
    if options.n == 1:
        for piece in engine.stream(prompt, sampling):
            print(piece, end="", flush=True)
        print()
        return 0
    [completions] = engine.generate([prompt], sampling)
    for i, completion in enumerate(completions):
        print(f"--- {i + 1} of {options.n}, seed {options.seed + i}, {completion.finish_reason}")
        print(completion.text)
    return 0


def request(options: GenerateConfig, tokenizer: Tokenizer) -> tuple[list[int], Sampling]:
    """The ids to go on from, and how.

    Raises:
        ValueError: If the tokenizer lacks a special token that is needed, or a setting is out of range.
    """
    from tempa.chat import Message, render
    from tempa.engine import Sampling
    from tempa.tokenizer import END_OF_TEXT

    if options.chat is not None:
        messages: list[Message] = [{"role": "user", "content": options.chat}]
        if options.system:
            messages.insert(0, {"role": "system", "content": options.system})
        ids = render(tokenizer, messages, add_generation_prompt=True).ids.tolist()
    else:
        ids = tokenizer.encode(options.prompt or "") or [tokenizer.eot_id]
    # A document ends at one, a turn at the other; what comes after either is not asked for.
    ends = (END_OF_TEXT, "<|end|>") if options.chat is not None else (END_OF_TEXT,)
    return ids, Sampling(
        max_new_tokens=options.max_new_tokens,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        seed=options.seed,
        n=options.n,
        stop=options.stop,
        stop_ids=tuple(tokenizer.special_tokens[end] for end in ends if end in tokenizer.special_tokens),
    )
