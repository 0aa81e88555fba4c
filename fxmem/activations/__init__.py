"""Activations as mathematics: one row of `table.TABLE` each, from which all else follows.

- `calculus`: slope, pieces, turning points, parity, and numpy functions of a row;
- `levels`, `unbiased`: the best few-bit levels of any slope; `store`: those that are shipped;
- `inverse`: the slope from the output;
- `codegen`: the C++ functors of native/generated/activations.h.

After a change to the table: `python -m fxmem.activations.store`, then `… .codegen`.
"""
