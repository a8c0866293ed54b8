"""From logits to a token: the most probable one, or one that is drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[Any]
FEW = 512  # tokens that mostly hold what ``top_p`` asks for


def choose_token(logits: Floats, temperature: float, top_k: int, top_p: float, rng: np.random.Generator) -> int:
    """Choose a token: temperature first, then ``top_k``, then ``top_p``.

    Args:
        logits: of the vocabulary, ``(V,)``; minus infinity for what must not be chosen, and finite for one at least.
        temperature: 0 takes the most probable token, the first of equals.
    """
    if temperature == 0:
        return int(logits.argmax())
    if top_k == 0 and top_p == 1:
        weights = _weights(logits, temperature)
        return _drawn(weights, rng)
    tokens, shares = kept_tokens(logits, temperature, top_k, top_p)
    return int(tokens[_drawn(shares, rng)])


def kept_tokens(logits: Floats, temperature: float, top_k: int, top_p: float) -> tuple[npt.NDArray[np.int64], Floats]:
    """Tokens that may be drawn, the most probable first, the first of equals first, and their probabilities before ``top_p``."""
    weights = _weights(logits, temperature)
    tokens = _best(logits, top_k or FEW)
    total = weights[tokens].sum() if top_k else weights.sum()
    if not top_k and weights[tokens].sum() < top_p * total:  # seldom: sorting a vocabulary takes as long as half a step
        tokens = _best(logits, len(logits))
    shares = weights[tokens] / total
    before = np.cumsum(shares) - shares
    kept = (before < top_p) & (shares > 0)
    kept[0] = True
    return tokens[kept], shares[kept]


def _weights(logits: Floats, temperature: float) -> Floats:
    weights: Floats = np.exp((logits.astype(np.float64) - logits.max()) / temperature)
    return weights


def _drawn(weights: Floats, rng: np.random.Generator) -> int:
    sums = np.cumsum(weights)
    place = int(np.searchsorted(sums, rng.random() * sums[-1], side="right"))
    return min(place, int(np.flatnonzero(weights)[-1]))  # a sum may be rounded


def _best(logits: Floats, count: int) -> npt.NDArray[np.int64]:
    """Tokens of the largest logits, in falling order, the first of equals first."""
    if count < len(logits):
        edge = np.partition(logits, -count)[-count]
        above, at_edge = np.flatnonzero(logits > edge), np.flatnonzero(logits == edge)
        candidates = np.sort(np.concatenate([above, at_edge[: count - len(above)]]))
    else:
        candidates = np.arange(len(logits))
    order: npt.NDArray[np.int64] = candidates[np.argsort(-logits[candidates], kind="stable")]
    return order


def log_probabilities(logits: Floats) -> Floats:
    """Log-softmax along the last axis, in float32."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    result: Floats = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def log_probability(logits: Floats, token: int) -> float:
    """Log-probability of one token, ``logits`` ``(V,)``; not finite where a logit is not."""
    top = logits.max()
    return float(logits[token] - top - np.log(np.exp(logits - top).sum()))
