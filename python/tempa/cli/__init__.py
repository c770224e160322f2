"""The `tempa` command: find the subcommand, run it, turn expected errors into one line.

Subcommands are imported when they are called, so `tempa --help` answers at once.
"""

from __future__ import annotations

import importlib
import os
import sys

from tempa._core import TempaError, __version__

# Name -> (module under tempa.cli, what it does). Each module has `main(name, argv) -> int`.
COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("demo", "the whole story on this machine: five models, one question, plots (10 minutes)"),
    "tokenizer": ("tokenizer", "train, encode, decode, inspect a byte-level BPE tokenizer"),
    "data": ("data", "clean, dedup, build: documents to token shards with a funnel report"),
    "pretrain": ("train", "next-token prediction on shards"),
    "sft": ("train", "instruction tuning on chats: loss on the assistant's tokens"),
    "reward": ("train", "Bradley-Terry reward model on preference pairs"),
    "dpo": ("train", "direct preference optimisation on preference pairs"),
    "ppo": ("train", "policy gradient with a value head against a reward model"),
    "grpo": ("train", "policy gradient on groups of samples with a verifiable reward"),
    "chat": ("chat", "show: render a conversation and colour the tokens that are trained"),
    "generate": ("generate", "complete a prompt or answer a chat message"),
    "serve": ("serve", "an OpenAI-compatible server with a page to chat with a model"),
    "eval": ("eval", "bits per byte, exact answers, preference accuracy, with intervals"),
    "bench": ("bench", "micro-benchmarks on this machine beside its measured ceilings"),
    "kernels": ("kernels", "compile the CUDA kernels ahead of time, list or clear their cache"),
}


def main() -> None:
    """Entry point of the console script."""
    # Usage and one-line errors go to stderr, results to stdout.
    try:
        status = run(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of a pipe has gone; there is nobody left to tell, nor at the flush on exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 141
    sys.exit(status)


def run(argv: list[str]) -> int:
    """Run one command line and return its exit status."""
    if not argv or argv[0] in ("-h", "--help"):
        print(_help())
        return 0
    if argv[0] in ("-V", "--version"):
        print(f"tempa {__version__}")
        return 0
    name, rest = argv[0], argv[1:]
    if name not in COMMANDS:
        import difflib

        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else "; `tempa --help` lists the commands"
        print(f"tempa: unknown command {name!r}{hint}", file=sys.stderr)
        return 2
    try:
        module = importlib.import_module(f"tempa.cli.{COMMANDS[name][0]}")
        status: int = module.main(name, rest)
    except KeyboardInterrupt:
        print(f"tempa {name}: interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    except BrokenPipeError:
        raise
    except (ValueError, KeyError, OSError, TempaError) as error:
        if os.environ.get("TEMPA_TRACEBACK"):
            raise
        print(f"tempa {name}: {_one_line(error)}", file=sys.stderr)
        return 1
    return status


def _one_line(error: Exception) -> str:
    if isinstance(error, KeyError) and error.args:
        text = str(error.args[0])  # str(KeyError) would show the quotes of its repr
    elif isinstance(error, OSError) and error.strerror:
        name = f"{error.filename}: " if error.filename else ""
        text = f"{name}{error.strerror.lower()}"
    else:
        text = str(error) or type(error).__name__
    return " ".join(text.split())


def _help() -> str:
    rows = "\n".join(f"  {name:<10} {text}" for name, (_, text) in COMMANDS.items())
    return (
        "usage: tempa COMMAND [CONFIG.toml] [--option value ...]\n\n"
        "Raw text to a reasoning chat model.\n\n"
        f"commands:\n{rows}\n\n"
        "`tempa COMMAND --help` explains a command; start with `tempa demo`."
    )
