"""Passes on a graph before it is differentiated: what is computed, in every dialect of FX."""
