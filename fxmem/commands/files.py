"""What a command is to write: found out before it begins."""

from __future__ import annotations

from pathlib import Path


def check_writable(path: Path) -> None:
    """Raise OSError where no file of that name can be written; what is there stays as it is."""
    there = path.exists()
    with path.open("ab"):
        pass
    if not there:
        path.unlink()
