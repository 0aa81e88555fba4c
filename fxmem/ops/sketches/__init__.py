"""Sketches: random projections of a batch, and the linear layers that keep them."""
