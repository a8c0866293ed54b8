"""Tests of sampling: which tokens may be drawn, how often each is drawn, and the guarantees of a seed."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vidrisk.runtimes.text import sampling
from vidrisk.runtimes.text.sampling import choose_token, filter_tokens, log_probabilities, log_probability

logits_of = hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(-30, 30, width=32))
temperatures, shares = st.floats(0.05, 5), st.floats(0.01, 1)


@given(logits_of, temperatures, st.integers(0, 50), shares, st.integers(0, 2**32))
def test_what_is_drawn_is_among_the_most_probable(
    logits: np.ndarray, temperature: float, top_k: int, top_p: float, seed: int
) -> None:
    token = choose_token(logits, temperature, top_k, top_p, np.random.default_rng(seed))
    more_probable = logits > logits[token]
    if top_k:
        assert more_probable.sum() < top_k
    weights = np.exp((logits.astype(np.float64) - logits.max()) / temperature)
    weights[~np.isin(np.arange(len(logits)), filter_tokens(logits, temperature, top_k, 1.0)[0])] = 0
    assert weights[more_probable].sum() / weights.sum() < top_p + 1e-9 or not more_probable.any()


@given(logits_of, temperatures, st.integers(0, 50), shares)
def test_the_fewest_tokens_are_kept_that_reach_the_share(
    logits: np.ndarray, temperature: float, top_k: int, top_p: float
) -> None:
    tokens, kept = filter_tokens(logits, temperature, top_k, top_p)
    assert len(set(tokens.tolist())) == len(tokens) >= 1
    assert (np.diff(kept) <= 1e-12).all()
    assert kept[:-1].sum() < top_p + 1e-12  # a token of 1e-16 does not change a sum near 1
    if top_k == 0:
        assert kept.sum() >= min(top_p, 1) - 1e-6


def test_a_large_vocabulary_is_drawn_from_as_if_it_was_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    for spread, top_p in product((0.1, 1.0, 6.0), (0.05, 0.5, 0.99)):
        logits = rng.normal(0, spread, 3000).astype(np.float32).round(2)
        quick = filter_tokens(logits, 1.0, 0, top_p)
        with monkeypatch.context() as patch:
            patch.setattr(sampling, "FEW", len(logits))
            every = filter_tokens(logits, 1.0, 0, top_p)
        np.testing.assert_array_equal(quick[0], every[0])
        np.testing.assert_allclose(quick[1], every[1])


@given(logits_of, st.integers(0, 50), shares)
def test_no_temperature_takes_the_most_probable(logits: np.ndarray, top_k: int, top_p: float) -> None:
    assert choose_token(logits, 0.0, top_k, top_p, np.random.default_rng(0)) == logits.argmax()


@given(logits_of, temperatures, st.integers(0, 2**32))
def test_what_is_forbidden_is_never_drawn(logits: np.ndarray, temperature: float, seed: int) -> None:
    forbidden = np.arange(len(logits)) % 2 == 1
    masked = np.where(forbidden, np.float32(-np.inf), logits)
    for top_k in (0, 3, len(logits)):
        assert choose_token(masked, temperature, top_k, 1.0, np.random.default_rng(seed)) % 2 == 0


def test_tokens_are_drawn_as_often_as_they_are_probable() -> None:
    logits, rng = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32)), np.random.default_rng(0)
    counts = np.bincount([choose_token(logits, 1.0, 0, 1.0, rng) for _ in range(4000)], minlength=4) / 4000
    np.testing.assert_allclose(counts, [0.5, 0.3, 0.15, 0.05], atol=0.03)
    counts = np.bincount([choose_token(logits, 1.0, 2, 1.0, rng) for _ in range(4000)], minlength=4) / 4000
    np.testing.assert_allclose(counts, [0.625, 0.375, 0, 0], atol=0.03)


@given(logits_of)
def test_log_probabilities_are_those_of_a_softmax(logits: np.ndarray) -> None:
    every = log_probabilities(logits)
    assert abs(np.exp(every.astype(np.float64)).sum() - 1) < 1e-4
    assert all(abs(log_probability(logits, token) - every[token]) < 1e-4 for token in range(len(logits)))
