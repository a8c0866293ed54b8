"""Running any stage of an export over the validation samples: torch modules, ONNX files on any runtime, graphs in a search."""

from __future__ import annotations

import hashlib
import os
import platform
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from torch import nn

from vidrisk.calibration.files import save_graph
from vidrisk.export.gate import lossy_hop
from vidrisk.export.outputs import Outputs, Validation, outputs_of
from vidrisk.runtimes.bundle import Graph, sha256_of
from vidrisk.runtimes.contract import Contract
from vidrisk.runtimes.probabilities import probabilities_from_logits
from vidrisk.runtimes.registry import BUNDLE_RUNTIMES, engine_version
from vidrisk.runtimes.runner import Runner
from vidrisk.runtimes.timing import seconds_in_turns
from vidrisk.runtimes.torch import TorchRunner

Graphs = dict[Literal["encoder", "head"], Graph]
Files = dict[Literal["encoder", "head"], Path]
TIMED_BATCH = 8
SEARCH_ROUNDS = 4  # of a block, among dozens
PROBE_FRAMES = 48


def graphs_from_contract(contract: Contract, width: int) -> Graphs:
    """Tensor specs of the two graphs, for features of ``width``."""
    return {"encoder": Graph(inputs=contract.encoder_inputs(), outputs=contract.encoder_outputs(width)),
            "head": Graph(inputs=contract.head_inputs(width), outputs=contract.head_outputs())}


@dataclass(frozen=True)
class StageJudge:
    """Runs whole stages: an encoder and a head."""

    contract: Contract
    graphs: Graphs
    validation: Validation

    @cached_property
    def digest(self) -> str:
        """Of what the judgement depends on: frames and truth."""
        digest = hashlib.sha256(np.ascontiguousarray(self.validation.frames).data)
        for name, truth in sorted(self.validation.truth.items()):
            digest.update(name.encode() + truth.tobytes())
        return digest.hexdigest()

    def torch(self, encoder: nn.Module, head: nn.Module) -> Outputs:
        before, after = self.graphs["encoder"], self.graphs["head"]
        return outputs_of(TorchRunner(encoder, before.inputs, before.outputs), TorchRunner(head, after.inputs, after.outputs),
                          self.contract, self.validation.frames)

    def onnx(self, runtime: str, files: Files) -> Outputs:
        with self.open(runtime, "encoder", files["encoder"]) as encoder, self.open(runtime, "head", files["head"]) as head:
            return outputs_of(encoder, head, self.contract, self.validation.frames)

    def open(self, runtime: str, graph: Literal["encoder", "head"], path: Path) -> Runner:
        return BUNDLE_RUNTIMES[runtime](path, self.graphs[graph].inputs, self.graphs[graph].outputs)

    def seconds_per_frame(self, files: Mapping[tuple[str, str], Path], rounds: int) -> dict[tuple[str, str], float]:
        """Median time of encoders in batches of ``TIMED_BATCH`` frames, all timed in turns.

        Args:
            files: encoder by (variant, runtime).
        """
        frames = self.validation.frames.reshape(-1, *self.contract.pixel.frame_shape)[:TIMED_BATCH]
        feed = {"frames": np.ascontiguousarray(np.resize(frames, (TIMED_BATCH, *frames.shape[1:])))}
        with ExitStack() as stack:
            runners = {key: stack.enter_context(self.open(key[1], "encoder", path)) for key, path in files.items()}
            return {key: each / TIMED_BATCH for key, each in seconds_in_turns(runners, feed, rounds).items()}


@dataclass(frozen=True)
class SearchJudge:
    """Answers a search about encoder graphs, by one runtime, against what the float graph computed there.

    Attributes:
        others: judges for further runtimes on which a graph must be good, too.
    """

    stages: StageJudge
    runtime: str
    head: Path
    reference: Outputs
    others: tuple[SearchJudge, ...] = ()

    def probe(self, model: onnx.ModelProto) -> tuple[float, float]:
        few, reference = self._probe
        outputs = self._outputs(model, few)
        noise = float(np.square(outputs.features - reference.features).mean())
        shifts = [np.abs(probabilities_from_logits(outputs.logits[name]) - probabilities_from_logits(logits)).sum(axis=1).mean() / 2
                  for name, logits in reference.logits.items()]
        return noise, float(max(shifts))

    def sqnr_db(self, model: onnx.ModelProto) -> float:
        """Signal-to-noise ratio of the features on the probe's samples, in decibels."""
        signal = float(np.square(self._probe[1].features).mean())
        noise = self.probe(model)[0]
        return float(10 * np.log10(signal / noise)) if np.isfinite(noise) and noise > 0 else (-np.inf if noise else 99.0)

    def verdict(self, model: onnx.ModelProto) -> tuple[float, float]:
        """The worst over its runtime and the others: the gate will ask them all."""
        verdicts = [self._own_verdict(model), *(judge.verdict(model) for judge in self.others)]
        return min(agreement for agreement, _ in verdicts), max(drop for _, drop in verdicts)

    def _own_verdict(self, model: onnx.ModelProto) -> tuple[float, float]:
        outputs = self._outputs(model, self.stages.validation)
        hop = lossy_hop("", "int8", self.runtime, self.reference, outputs, self.stages.validation, self.stages.contract,
                        max_drop=100)
        return (hop.agreement, hop.drop_points) if hop.passed else (0.0, 100.0)

    def ms_per_frame(self, models: Sequence[onnx.ModelProto]) -> list[float]:
        with tempfile.TemporaryDirectory(prefix="vidrisk-search-") as folder:
            files = {(str(i), self.runtime): Path(folder) / f"{i}.onnx" for i in range(len(models))}
            for path, model in zip(files.values(), models, strict=True):
                save_graph(model, path)
            return [each * 1e3 for each in self.stages.seconds_per_frame(files, SEARCH_ROUNDS).values()]

    @cached_property
    def identity(self) -> dict[str, Any]:
        """All that its answers depend on, but for the graph that it is asked about."""
        return {"runtime": self.runtime, "engine": engine_version(self.runtime), "head": sha256_of(self.head),
                "samples": self.stages.digest, "machine": [platform.machine(), platform.node(), os.cpu_count()]}

    @cached_property
    def _probe(self) -> tuple[Validation, Outputs]:
        """A few samples, evenly spread, and what the float graph computed for them."""
        whole, reference = self.stages.validation, self.reference
        samples, moments = whole.frames.shape[:2]
        chosen = np.linspace(0, samples - 1, min(samples, max(4, PROBE_FRAMES // moments))).astype(int)
        features = reference.features.reshape(samples, moments, -1)[chosen].reshape(-1, reference.features.shape[-1])
        few = Validation(whole.frames[chosen], {name: truth[chosen] for name, truth in whole.truth.items()},
                         [whole.names[i] for i in chosen])
        return few, Outputs(features, {name: logits[chosen] for name, logits in reference.logits.items()}, reference.ms_per_frame)

    def _outputs(self, model: onnx.ModelProto, samples: Validation) -> Outputs:
        with tempfile.TemporaryDirectory(prefix="vidrisk-search-") as folder:
            path = Path(folder) / "encoder.onnx"
            save_graph(model, path)
            return StageJudge(self.stages.contract, self.stages.graphs, samples).onnx(
                self.runtime, {"encoder": path, "head": self.head})

