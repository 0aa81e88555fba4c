"""Activations whose gradient comes from a few bits or from the output."""
