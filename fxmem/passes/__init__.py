"""Passes on FX graphs: what crosses the cut (joint), and how it is kept (pair)."""
