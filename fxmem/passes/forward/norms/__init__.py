"""Norms that keep their output, in a forward graph."""
