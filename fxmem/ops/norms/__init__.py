"""Norms whose gradient comes from the output."""
