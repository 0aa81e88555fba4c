"""``python -m fxmem COMMAND``: what can be run without writing a program."""

from __future__ import annotations

import sys
from importlib import import_module

# A command's module has a ``main(arguments)`` that returns the exit status.
COMMANDS = {
    "demo": ("fxmem.demo.command", "train a small language model with and without fxmem"),
    "quantize": ("fxmem.commands.quantize", "fit few-bit levels to an activation's slope"),
    "gallery": ("fxmem.commands.gallery", "draw every activation's slope with its codes"),
}


def main(arguments: list[str]) -> int:
    """Run the command that the first argument names; return its exit status, 2 for an unknown."""
    name, *rest = arguments or ["--help"]
    if name in COMMANDS:
        return import_module(COMMANDS[name][0]).main(rest)
    lines = ["usage: python -m fxmem COMMAND …", ""]
    lines += [f"  {command:8} {about}" for command, (_, about) in COMMANDS.items()]
    helps = name in ("-h", "--help")
    if not helps:
        lines.insert(0, f"unknown command {name!r}")
    print("\n".join(lines), file=sys.stdout if helps else sys.stderr)
    return 0 if helps else 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
