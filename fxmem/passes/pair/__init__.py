"""Passes and rules on the pair of graphs after the cut: how is it kept?

`registry.py`, one room up, has what is done in its order. Here are

- the pair and how it is changed: graphs, rewrite, hoist, parts, expand
- what is settled first: remade, results, small, differences, discrete, slopes, waves, normalised
- the rules: few_bit, packed, encode, sketched, copied
- of few-bit codes: cones, products, curves, steps
- of encoding, what may be: codable, which asks eligible, unbounded, masked, logits and averages;
  and in how many bits: allocate, sensitivity
- between which numbers a value lies, what is kept beside it, and what is spared: ranges,
  companions, spared; of packed places the counts: places
"""
