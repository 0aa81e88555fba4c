"""The published formulas, written down in numpy in float32: what the quantizers must equal."""

import numpy as np

F = np.float32


def steps(bits):
    return F(2.0 ** (bits - 1))


def nearest_power(x):
    """R(x) = 2^round(log2 max|x|); 1 for zeros."""
    top = np.abs(x).max()
    return F(2.0 ** np.round(np.log2(np.float64(top)))) if top > 0 else F(1)


def direct(x, k):
    return np.round(x * steps(k)) / steps(k)


def all_direct(x, fraction, bits):
    top = steps(bits) - F(1)
    return np.clip(np.round(x * steps(fraction)), -top, top) / steps(fraction)


def weight(x, k):
    d = F(1) / steps(k)
    return np.clip(direct(x, k), F(-1) + d, F(1) - d)


def constant(x, range_bits, k, draw=None):
    """`draw` is uniform in [0, 1); without it rounding is to nearest."""
    scaled, top = steps(range_bits) * x / nearest_power(x), steps(range_bits) - F(1)
    if draw is None:
        rounded = np.round(scaled)
    else:
        below = np.floor(np.abs(scaled))
        rounded = np.sign(scaled) * (below + (draw < np.abs(scaled) - below))
    return np.clip(rounded, -top, top) / steps(k)


def shift(x, k):
    r, d = nearest_power(x), F(1) / steps(k)
    return r * np.clip(direct(x / r, k), F(-1) + d, F(1) - d)


def flag(x, k):
    """As the first author's code: small values on a fine grid up to 1, large ones on a coarse."""
    sc = nearest_power(x) / steps(k)
    y, sign, top = np.abs(x / sc), np.sign(x), steps(k) - F(1)
    small = np.where(y < 1, np.clip(direct(y, k), F(-1), F(1)), F(0))
    large = np.where(y >= 1, np.clip(np.round(y), -top, top), F(0))
    return sc * (sign * small + sign * large)


def quantize_k(r, k):
    n = F(2**k - 1)
    return np.round(n * r) / n


def dorefa_weight(w, k):
    if k == 1:
        return np.where(w >= 0, F(1), F(-1)) * np.abs(w).mean(dtype=F)
    t = np.tanh(w)
    top = np.abs(t).max()
    unit = t / (F(2) * top) + F(0.5) if top > 0 else np.full_like(t, 0.5)
    return F(2) * quantize_k(unit, k) - F(1)


def dorefa_activation(a, k):
    return quantize_k(np.clip(a, F(0), F(1)), k)


def dorefa_gradient(g, k, draw=None):
    """`draw` is uniform in [0, 1), the same shape as g; samples lie along the first dimension."""
    top = np.abs(g).max(axis=tuple(range(1, g.ndim)), keepdims=True)
    noise = F(0) if draw is None else (draw - F(0.5)) / F(2**k - 1)
    unit = np.clip(g / (F(2) * np.where(top > 0, top, F(1))) + F(0.5) + noise, F(0), F(1))
    return F(2) * top * (quantize_k(unit, k) - F(0.5))


def binary(x, scale=1.0, draw=None):
    if draw is None:
        return np.where(x >= 0, F(scale), F(-scale))
    return np.where(draw < np.clip((x / F(scale) + F(1)) / F(2), F(0), F(1)), F(scale), F(-scale))


def xnor_weight(w):
    alpha = np.abs(w).sum(axis=tuple(range(1, w.ndim)), keepdims=True) / F(w[0].size)
    return np.where(w >= 0, F(1), F(-1)) * alpha


def tqt(x, log2_t, bits, signed=True):
    """The value, the derivative by x and the derivative by log2_t, for every element."""
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    s = 2.0 ** (np.ceil(log2_t) - (bits - 1 if signed else bits))
    r = np.round(x / s)
    inside = (low <= r) & (r <= high)
    of_t = np.where(inside, r - x / s, np.where(r < low, low, high))
    return np.clip(r, low, high) * s, inside.astype(x.dtype), s * np.log(2) * of_t
