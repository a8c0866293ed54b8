"""Choose a token from logits: the most probable one, or a random sample."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[Any]
FEW = 512  # number of tokens whose probabilities usually reach ``top_p``


def choose_token(logits: Floats, temperature: float, top_k: int, top_p: float, rng: np.random.Generator) -> int:
    """Choose a token, applying temperature first, then ``top_k``, then ``top_p``.

    ``logits`` ``(V,)`` are minus infinity for tokens that must not be chosen, and finite for at least one. Temperature
    0 takes the most probable token, and the first one of equals.
    """
    if temperature == 0:
        return int(logits.argmax())
    if top_k == 0 and top_p == 1:
        weights = _weights(logits, temperature)
        return _draw(weights, rng)
    tokens, shares = filter_tokens(logits, temperature, top_k, top_p)
    return int(tokens[_draw(shares, rng)])


def filter_tokens(logits: Floats, temperature: float, top_k: int, top_p: float) -> tuple[npt.NDArray[np.int64], Floats]:
    """Return the tokens to sample from and their probabilities before ``top_p``.

    The most probable tokens come first; equal ones are in the order of their ids.
    """
    weights = _weights(logits, temperature)
    tokens = _best(logits, top_k or FEW)
    total = weights[tokens].sum() if top_k else weights.sum()
    if not top_k and weights[tokens].sum() < top_p * total:  # rare; sorting the vocabulary takes half as long as a step
        tokens = _best(logits, len(logits))
    shares = weights[tokens] / total
    before = np.cumsum(shares) - shares
    kept = (before < top_p) & (shares > 0)
    kept[0] = True
    return tokens[kept], shares[kept]


def _weights(logits: Floats, temperature: float) -> Floats:
    weights: Floats = np.exp((logits.astype(np.float64) - logits.max()) / temperature)
    return weights


def _draw(weights: Floats, rng: np.random.Generator) -> int:
    sums = np.cumsum(weights)
    place = int(np.searchsorted(sums, rng.random() * sums[-1], side="right"))
    return min(place, int(np.flatnonzero(weights)[-1]))  # guards against rounding of the sum


def _best(logits: Floats, count: int) -> npt.NDArray[np.int64]:
    """Return the tokens of the largest logits in descending order; equal ones in the order of their ids."""
    if count < len(logits):
        edge = np.partition(logits, -count)[-count]
        above, at_edge = np.flatnonzero(logits > edge), np.flatnonzero(logits == edge)
        candidates = np.sort(np.concatenate([above, at_edge[: count - len(above)]]))
    else:
        candidates = np.arange(len(logits))
    order: npt.NDArray[np.int64] = candidates[np.argsort(-logits[candidates], kind="stable")]
    return order


def log_probabilities(logits: Floats) -> Floats:
    """Return the log-softmax along the last axis, in float32."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    result: Floats = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def log_probability(logits: Floats, token: int) -> float:
    """Return the log-probability of one token, with ``logits`` ``(V,)``; not finite if any logit is not."""
    top = logits.max()
    return float(logits[token] - top - np.log(np.exp(logits - top).sum()))
