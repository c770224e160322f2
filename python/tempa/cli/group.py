"""Commands of commands: `tempa tokenizer train`, `tempa data clean`."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Mapping

# What a subcommand is: takes the words after its name, returns the exit status.
Command = Callable[[list[str]], int]


def dispatch(
    name: str, argv: list[str], summary: str, commands: Mapping[str, tuple[Command, str]], hint: str
) -> int:
    """Run the subcommand that `argv` names, or explain which there are.

    Args:
        name: The group, as typed after `tempa`.
        argv: The words after it.
        summary: One sentence for the help.
        commands: Name -> (what runs, what it does in a line).
        hint: Last line of the help: where to begin.
    """
    if not argv or argv[0] in ("-h", "--help"):
        rows = "\n".join(f"  {command:<10} {text}" for command, (_, text) in commands.items())
        print(f"usage: tempa {name} COMMAND ...\n\n{summary}\n\ncommands:\n{rows}\n\n{hint}")
        return 0
    if argv[0] not in commands:
        close = difflib.get_close_matches(argv[0], commands, n=1)
        what = f"did you mean {close[0]!r}?" if close else f"`tempa {name} --help` lists the commands"
        print(f"tempa {name}: unknown command {argv[0]!r}; {what}", file=sys.stderr)
        return 2
    return commands[argv[0]][0](argv[1:])
