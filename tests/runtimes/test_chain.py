"""Tests of the way from clips to logits in one call, with any engine. TensorRT: ``tensorrt/test_runner.py``."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from vidrisk.runtimes import Bundle, open_runner
from vidrisk.runtimes.chain import chain_runners
from vidrisk.runtimes.contract.errors import SpecError
from vidrisk.runtimes.registry import file_runtimes


@pytest.mark.parametrize("runtime", file_runtimes())
def test_it_computes_what_both_compute(make_bundle: Callable[..., Bundle], runtime: str) -> None:
    bundle = make_bundle()
    clips = np.random.default_rng(0).integers(0, 256, (3, 4, 8, 8, 3), dtype=np.uint8)
    encoder, head = (
        open_runner(bundle, graph, runtime=runtime, variant="fp32", threads=1) for graph in ("encoder", "head")
    )
    with encoder, head, chain_runners(bundle.stages, (encoder, head), 4) as both:
        features = np.stack([encoder.infer({"frames": clip})["features"] for clip in clips])
        expected = head.infer({"features": features})["action_logits"]
        np.testing.assert_allclose(both.infer({"frames": clips})["action_logits"], expected, atol=1e-5)
        np.testing.assert_allclose(
            both.infer({"frames": clips[::-1, ::-1]})["action_logits"],
            head.infer({"features": features[::-1, ::-1]})["action_logits"],
            atol=1e-5,
        )
        assert both.runtime == runtime and repr(both).startswith(
            "HostChain(frames['batch', 4, 8, 8, 3] → action_logits"
        )
        with pytest.raises(SpecError, match="axis 4 should be 4"):
            both.infer({"frames": clips[:, :3]})
