"""The user's own tables of levels, by activation and bits, in FewBit's interface and files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from fxmem.activations import store as files
from fxmem.activations.given import Numbers, check_fit, table_of
from fxmem.activations.levels import Levels

Pair = tuple[Numbers | None, Numbers]


class Store:
    """Tables that count instead of the shipped ones wherever `bits` asks for a table.

    What is coded with them is an activation with its default parameters, nearest or drawn as the
    table is. Compiled code keeps the tables that it was compiled with.
    """

    def __init__(self) -> None:
        self._own: dict[tuple[str, int], Levels] = {}
        self.version = 0

    def __len__(self) -> int:
        return len(self._own)

    def __repr__(self) -> str:
        return f"Store({', '.join(f'{name}{bits:02d}' for name, bits in self._own)})"

    def items(self) -> Iterator[tuple[tuple[str, int], Levels]]:
        """The user's own tables, by (name, bits)."""
        return iter(self._own.items())

    def find(self, name: str, bits: int, unbiased: bool = False) -> Levels | None:
        """The user's own table of an activation; None where there is none."""
        found = self._own.get((name, bits))
        return found if found is not None and found.unbiased == unbiased else None

    def add(self, name: str, bits: int, table: Levels | Pair) -> None:
        """Have `bits` mean this table for activation `name`: Levels, or (borders, levels)."""
        found = table if isinstance(table, Levels) else table_of(*table)
        check_fit(found, bits)
        self._own[name, bits] = found
        self.version += 1

    def get(
        self,
        name: str,
        bits: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Borders with the ends of the domain, and levels, of the user's own or a shipped table.

        Raises KeyError where there is neither.
        """
        table = self.find(name, bits) or self.find(name, bits, unbiased=True)
        table = table or files.levels(name, bits)
        borders, levels = torch.tensor(files.with_ends(table)), torch.tensor(table.levels)
        return borders.to(device, dtype), levels.to(device, dtype)

    def load(self, path: Path | str) -> Store:
        """Add the tables of an .npz file that `save`, `fxmem quantize` or FewBit wrote."""
        for (name, bits), table in files.load(path).items():
            self.add(name, bits, table)
        return self

    def save(self, path: Path | str) -> None:
        """Write the user's own tables to an .npz file."""
        files.save(path, self._own)

    def clear(self) -> None:
        """Forget the user's own tables."""
        self._own.clear()
        self.version += 1


store = Store()
