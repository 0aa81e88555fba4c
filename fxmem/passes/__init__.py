"""Passes on FX graphs: on the joint graph (what crosses the cut?) and on the pair (how is it kept?)."""
