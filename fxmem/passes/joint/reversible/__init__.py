"""Reversible networks: chains of couplings are found, and their states recomputed."""
