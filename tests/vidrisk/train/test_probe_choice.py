"""Tests of the probe that training starts at: the samples that it is fitted on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from vidrisk.data import Sample, Table
from vidrisk.models.config import config_from_options
from vidrisk.runtimes.contract.contract import Target
from vidrisk.train import probe_choice
from vidrisk.train.probe import DECAYS, fit_probe

LABELS = ("a", "b", "c")


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_start_is_a_probe_of_the_labelled_samples_which_are_prepared_once(
    monkeypatch: pytest.MonkeyPatch, multi_label: bool
) -> None:
    rng = np.random.default_rng(0)
    classes = np.arange(60) % 3
    features = (rng.normal(size=(60, 8)) + 2 * np.eye(3, 8)[classes]).astype(np.float32)
    truth = np.eye(3, dtype=np.int64)[classes] if multi_label else classes
    is_labelled = np.arange(60) % 7 != 0
    truth[~is_labelled], features[~is_labelled] = -1, 99.0
    twice = np.concatenate([features, features + np.float32(0.01)])  # two views of every sample
    turned, labelled = np.concatenate([truth, truth]), np.tile(is_labelled, 2)
    target = Target(name="action", labels=LABELS, multi_label=multi_label)
    table = Table(Path(), "action", tuple(Sample(Path(f"{n}"), f"{n}", {}) for n in range(60)))
    prepared: list[np.ndarray] = []
    probe_inputs = probe_choice.probe_inputs
    monkeypatch.setattr(
        probe_choice, "probe_inputs", lambda features: (prepared.append(features), probe_inputs(features))[1]
    )
    weights, bias = probe_choice.fit_start(
        twice,
        truth,
        turned,
        np.tile(np.arange(60), 2),
        np.repeat([0, 1], 60),
        target,
        table,
        config_from_options(None, []),
    )
    (seen,) = prepared
    assert np.array_equal(seen, twice[labelled])
    known = [fit_probe(twice, turned, target, decay) for decay in DECAYS]
    gaps = [float((weights - probe.weights / probe.deviation).abs().max()) for probe in known]
    assert min(gaps) == 0.0
    logits = torch.from_numpy(features[is_labelled]) @ weights.T + bias
    assert (logits.argmax(dim=1).numpy() == classes[is_labelled]).mean() > 0.9
