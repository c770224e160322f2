"""`tempa serve`: a model behind OpenAI's interface, and a page to chat with it."""

from __future__ import annotations

import asyncio
import logging
from importlib.util import find_spec
from typing import TYPE_CHECKING

from tempa import config
from tempa.serve.settings import ServeConfig, Weights, read_api_key

if TYPE_CHECKING:
    from tempa.model import Transformer

_HELP = """Serve a model to OpenAI's clients, and a page to chat with it.

  tempa serve --model runs/sft          then open 127.0.0.1:8000 in a browser, or:
  curl 127.0.0.1:8000/v1/chat/completions -H 'content-type: application/json' \\
    -d '{"model": "sft", "messages": [{"role": "user", "content": "What is 17 + 25?"}]}'
  TEMPA_API_KEY=... tempa serve --model runs/sft --host 0.0.0.0
  tempa serve --model runs/sft --preferences pairs.jsonl    votes of the page, for tempa dpo

It listens to this machine alone unless --host says otherwise. SIGTERM or Ctrl-C refuses new requests and
finishes those that run; the second one ends at once. docs/serving.md has the interface and the limits."""

_EXTRA = ("fastapi", "llguidance", "uvicorn")


def main(name: str, argv: list[str]) -> int:
    """Serve until told to end."""
    options = config.parse(ServeConfig, argv, prog=f"tempa {name}", description=_HELP)
    missing = [package for package in _EXTRA if find_spec(package) is None]
    if missing:
        raise ValueError(f"serving needs {', '.join(missing)}: pip install 'tempa[serve]'")
    api_key = read_api_key(options)

    from tempa.engine import Engine
    from tempa.model import load_model
    from tempa.serve.completions import Model
    from tempa.serve.server import Service, run
    from tempa.train.precision import choose_device
    from tempa.train.run import resolve_model

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    directory = resolve_model(options.model)
    model, tokenizer = load_model(directory, choose_device(options.device))
    if tokenizer is None:
        raise ValueError(f"{directory}: the model was saved without a tokenizer")
    engine = Engine(
        model,
        tokenizer,
        cache_bytes=options.cache_bytes,
        max_batch=options.max_batch,
        weights=_convert(model, options.weights),
        has_fixed_weights=True,
    )
    served = Model(
        name=options.name or options.model.resolve().name,
        tokenizer=tokenizer,
        vocab_size=model.config.vocab_size,
        max_positions=model.config.max_positions,
    )
    service = Service(engine, served, options, api_key)
    listener = service.listen()
    address = f"[{options.host}]" if ":" in options.host else options.host

    def ready() -> None:
        print(f"{served.name} at http://{address}:{listener.getsockname()[1]}", flush=True)

    return asyncio.run(run(service, listener, ready))


def _convert(model: Transformer, weights: Weights) -> Weights:
    """Keep a model on a GPU as `weights` asks; returns what the engine is asked, which does so on the CPU."""
    import torch

    if model.device.type == "cpu":
        return weights
    if weights == "int8":
        raise ValueError("--weights int8 is for the CPU; a GPU takes bfloat16, or float32")
    if weights != "float32":
        # Kernels for attention and losses read 16 bits, which move in half the time.
        model.to(dtype=torch.bfloat16)
    return "auto"
