"""Runs of a model's stages on the validation samples: torch modules, ONNX files on any runtime, graphs in a search."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx
from torch import nn

from vidrisk.calibration.files import save_trial
from vidrisk.calibration.points import Outcome
from vidrisk.export.gate.confidence import match_temperatures
from vidrisk.export.gate.hops import lossy_hop, outcome_of
from vidrisk.export.gate.outputs import Outputs, Validation, batch_of, outputs_of
from vidrisk.runtimes.chain import feed_of, frames_of
from vidrisk.runtimes.contract.bundle import sha256_of
from vidrisk.runtimes.contract.contract import Contract
from vidrisk.runtimes.contract.probabilities import probabilities_from_logits
from vidrisk.runtimes.contract.stages import Stage
from vidrisk.runtimes.registry import BUNDLE_RUNTIMES, engine_version
from vidrisk.runtimes.runner import Array, Runner
from vidrisk.runtimes.timing import turns_of
from vidrisk.runtimes.torch import TorchRunner

Files = dict[str, Path]  # by stage
Sources = Mapping[str, nn.Module | Path]  # by stage
Key = TypeVar("Key")
REFERENCE = "onnxruntime"  # it computes exactly what a graph says, on every machine
TIMED_FRAMES = 8
PROBE_FRAMES = 48
TRIALS = "trials"
RULES = 3  # version, increased whenever the same outputs are judged differently; this invalidates earlier measurements


@dataclass(frozen=True)
class StageJudge:
    """Runner of all stages of a model, from pixels to logits.

    Attributes:
        constants: values of the stages' constants, by name.
    """

    contract: Contract
    stages: tuple[Stage, ...]
    validation: Validation
    constants: Mapping[str, Array]

    @cached_property
    def digest(self) -> str:
        """Digest of the inputs of the judgement: frames, truth and constants."""
        digest = hashlib.sha256(np.ascontiguousarray(self.validation.frames).data)
        for name, values in sorted({**self.validation.truth, **self.constants}.items()):
            digest.update(name.encode() + values.tobytes())
        return digest.hexdigest()

    def stage(self, name: str) -> Stage:
        return next(stage for stage in self.stages if stage.name == name)

    def sources(self, sources: Sources) -> Outputs:
        """Return the outputs of torch modules; files among them are run by ONNX Runtime."""
        with ExitStack() as stack:
            runners = {
                stage.name: stack.enter_context(self._of_source(stage, sources[stage.name])) for stage in self.stages
            }
            return self._outputs(runners)

    def onnx(self, runtime: str, files: Mapping[str, Path], known: Outputs | None = None) -> Outputs:
        """Return the outputs of files.

        Args:
            runtime: that runs them.
            files: by stage.
            known: outputs of the stages without a file, all of which come before the others.
        """
        with ExitStack() as stack:
            return self._outputs(
                {name: stack.enter_context(self.open(runtime, name, path)) for name, path in files.items()}, known
            )

    def open(self, runtime: str, stage: str, path: Path) -> Runner:
        """Open the file of a stage with its constants."""
        opened = self.stage(stage)
        return BUNDLE_RUNTIMES[runtime](path, opened.inputs, opened.outputs, constants=self._constants(opened))

    def _constants(self, stage: Stage) -> dict[str, Array]:
        return {name: self.constants[name] for name in stage.constants}

    def seconds_per_frame(
        self,
        files: Mapping[Key, tuple[str, Mapping[str, Path]]],
        known: Outputs,
        rounds: int,
        is_decided: Callable[[Mapping[Key, list[float]]], bool] = lambda turns: True,
        most: int = 0,
    ) -> dict[Key, list[float]]:
        """Time stages in turns, in batches of ``TIMED_FRAMES`` frames.

        Args:
            files: runtime and files by stage, by any key; the same stages under every key.
            known: floating-point outputs, which are the inputs of the timed stages.
            rounds: number of turns.
            is_decided: whether the turns so far are enough; otherwise as many again follow, up to ``most``.
            most: limit on the number of turns.

        Returns:
            One value per turn, summed over the stages, by key.
        """
        timed = [stage for stage in self.stages if any(stage.name in of_key for _, of_key in files.values())]
        feeds = {stage.name: self._feed_for_timing(stage, known) for stage in timed}
        with ExitStack() as stack:
            runners = {
                stage.name: {
                    key: stack.enter_context(self.open(runtime, stage.name, of_key[stage.name]))
                    for key, (runtime, of_key) in files.items()
                }
                for stage in timed
            }
            turns: dict[Key, list[float]] = {key: [] for key in files}
            while True:
                found = {stage.name: turns_of(runners[stage.name], feeds[stage.name], rounds) for stage in timed}
                shown = {
                    stage.name: batch_of(stage, self.contract.frames, TIMED_FRAMES)
                    * frames_of(stage, self.contract.frames)
                    for stage in timed
                }
                for key, so_far in turns.items():
                    so_far += [sum(found[name][key][turn] / shown[name] for name in found) for turn in range(rounds)]
                done = max(map(len, turns.values()), default=most)
                if is_decided(turns) or done + rounds > most:
                    return turns

    def _feed_for_timing(self, stage: Stage, known: Outputs) -> dict[str, Array]:
        pixels = self.validation.frames.reshape(-1, *self.contract.pixel.frame_shape)
        batch = batch_of(stage, self.contract.frames, TIMED_FRAMES)
        every = feed_of(stage, pixels, known.cuts)
        return {
            name: np.ascontiguousarray(np.resize(values[:batch], (batch, *values.shape[1:])))
            for name, values in every.items()
        }

    def _of_source(self, stage: Stage, source: nn.Module | Path) -> Runner:
        if isinstance(source, Path):
            return self.open(REFERENCE, stage.name, source)
        return TorchRunner(source, stage.inputs, stage.outputs, self._constants(stage))

    def _outputs(self, runners: Mapping[str, Runner], known: Outputs | None = None) -> Outputs:
        return outputs_of(runners, self.stages, self.contract, self.validation.frames, known)


@dataclass(frozen=True)
class SearchJudge:
    """Judge of one stage's graphs for a search, on one runtime, relative to the float model.

    Attributes:
        stages: on the selection samples.
        stage: the one that is searched.
        files: of all stages; those before may already be quantised.
        reference: outputs of the float model.
        given: outputs of ``files``, equal to ``reference`` as long as none is quantised.
        temperature: of floating point, by target.
        others: judges for further runtimes on which a graph must be good, too.
        rival: the runtime on which the float stage is fastest, and its file.
    """

    stages: StageJudge
    runtime: str
    stage: str
    files: Mapping[str, Path]
    reference: Outputs
    given: Outputs
    temperature: Mapping[str, float]
    others: tuple[SearchJudge, ...] = ()
    rival: tuple[str, Path] | None = None

    def probe(self, model: onnx.ModelProto) -> tuple[float, float]:
        few, given = self._probe
        outputs = self._outputs(model, few, given)
        stage = self.stages.stage(self.stage)
        pairs = zip(outputs.of(stage), given.of(stage), strict=True)
        noise = float(np.mean([np.square(found - exact).mean() / _power(exact) for found, exact in pairs]))
        shifts = []
        for target in self.stages.contract.targets:
            moved = np.abs(
                np.subtract(
                    *(
                        probabilities_from_logits(side.logits[target.name], multi_label=target.multi_label)
                        for side in (outputs, given)
                    )
                )
            )
            shifts.append(moved.max(axis=1).mean() if target.multi_label else moved.sum(axis=1).mean() / 2)
        return noise, float(max(shifts))

    def sqnr_db(self, model: onnx.ModelProto) -> float:
        """Signal-to-noise ratio of the stage's outputs on the probe's samples, in decibels."""
        noise = self.probe(model)[0]
        return float(-10 * np.log10(noise)) if np.isfinite(noise) and noise > 0 else (-np.inf if noise else 99.0)

    def outcome(self, model: onnx.ModelProto) -> Outcome:
        """Return the worst outcome over its runtime and the others, at one temperature.

        The gate judges on all of them.
        """
        outputs = self._outputs(model, self.stages.validation, self.given)
        matched = match_temperatures(
            self.stages.contract.targets, self.reference.logits, outputs.logits, self.temperature
        )
        every = [
            self._judge(outputs, matched),
            *(
                judge._judge(judge._outputs(model, judge.stages.validation, judge.given), matched)
                for judge in self.others
            ),
        ]
        return Outcome(
            min(every, key=lambda outcome: outcome.agreement).kept,
            max(every, key=lambda o: o.drop_points).gains,
            max(outcome.confidence_points for outcome in every),
        )

    def _judge(self, outputs: Outputs, matched: Mapping[str, float]) -> Outcome:
        validation = self.stages.validation
        hop = lossy_hop(
            "",
            "int8",
            self.runtime,
            self.reference,
            outputs,
            validation,
            self.stages.contract,
            max_drop=100,
            temperature=self.temperature,
            matched=matched,
        )
        return outcome_of(self.reference, outputs, validation, self.stages.contract, hop)

    def seconds(self, models: Sequence[onnx.ModelProto | None], rounds: int) -> list[list[float]]:
        files: dict[int, tuple[str, Mapping[str, Path]]] = {}
        for i, model in enumerate(models):
            if model is None:
                assert self.rival is not None
                runtime, path = self.rival
            else:
                runtime, path = self.runtime, self._trials / f"{self.stage}.{i}.onnx"
                save_trial(model, path)
            files[i] = runtime, {self.stage: path}
        return list(self.stages.seconds_per_frame(files, self.reference, rounds).values())

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that its answers depend on, except for the judged graph."""
        others = {name: sha256_of(path) for name, path in self.files.items() if name != self.stage}
        return {
            "rules": RULES,
            "runtime": self.runtime,
            "engine": engine_version(self.runtime),
            "stages": others,
            "samples": self.stages.digest,
            "machine": [platform.machine(), platform.node(), os.cpu_count()],
            "temperature": dict(self.temperature),
        }

    @property
    def _trials(self) -> Path:
        """Folder of the tried graphs, which share their weights."""
        folder = self.files[self.stage].parent / TRIALS
        folder.mkdir(exist_ok=True)
        return folder

    @cached_property
    def _probe(self) -> tuple[Validation, Outputs]:
        """A few samples, evenly spread, and the outputs for them that do not depend on the judged graph."""
        samples, moments = self.stages.validation.frames.shape[:2]
        chosen = np.linspace(0, samples - 1, min(samples, max(4, PROBE_FRAMES // moments))).astype(int)
        return self.stages.validation.at(chosen), self.given.at(chosen)

    def _outputs(self, model: onnx.ModelProto, samples: Validation, given: Outputs) -> Outputs:
        names = [stage.name for stage in self.stages.stages]
        later = names[names.index(self.stage) + 1 :]
        path = self._trials / f"{self.stage}.onnx"
        save_trial(model, path)
        return replace(self.stages, validation=samples).onnx(
            self.runtime, {self.stage: path, **{name: self.files[name] for name in later}}, given
        )


def _power(values: Any) -> float:
    return float(np.square(values).mean()) or 1.0


def weighty_stages(
    stages: Collection[Stage], work: Mapping[str, int], frames: int, share: float = 0.99
) -> tuple[str, ...]:
    """Return the stages that do nearly all the work of a window, in order; a head with a thousandth is left out.

    Args:
        stages: of the model.
        work: multiply-accumulates of one run, by stage; or any proxy for them.
        frames: number of frames per window, T.
        share: least share of the work that the chosen stages do.
    """
    of_window = {stage.name: work[stage.name] * (frames // frames_of(stage, frames)) for stage in stages}
    total, chosen, done = sum(of_window.values()), set[str](), 0
    for name in sorted(of_window, key=lambda name: -of_window[name]):
        if chosen and done >= share * total:
            break
        chosen.add(name)
        done += of_window[name]
    return tuple(stage.name for stage in stages if stage.name in chosen)
