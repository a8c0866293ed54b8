"""Trained model ready for inference, from a bundle or a run: stages with runners, temperature and provenance."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt
from typing_extensions import Self

from vidrisk.inference.call_limit import CallLimit
from vidrisk.inference.open_stages import open_stages, provenance_of, refuse_reports
from vidrisk.inference.plan import plan_from_stages
from vidrisk.runtimes import Bundle, Contract, Runner
from vidrisk.runtimes.chain import chain_runners, run_stages
from vidrisk.runtimes.contract.bundle import MANIFEST, VariantName
from vidrisk.runtimes.contract.contract import DECISION
from vidrisk.runtimes.contract.errors import SettingsError, require
from vidrisk.runtimes.contract.probabilities import probabilities_from_logits
from vidrisk.runtimes.contract.progress import OnProgress, ignore_progress
from vidrisk.runtimes.contract.specs import TensorSpec
from vidrisk.runtimes.contract.stages import PIXELS, Stage
from vidrisk.runtimes.layers import Layers
from vidrisk.runtimes.registry import engine_version
from vidrisk.runtimes.runner import Array, Arrays
from vidrisk.runtimes.uncertainty import Uncertainty, uncertainty_from_variant

log = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float32]
NO_THRESHOLD = "a run has no thresholds; export fits them"


class Classifier:
    """Stages of a model behind the contract that they were made for.

    Use it as a context manager, or call ``close``. Safe to use from several threads: one call runs at a time, or
    three if the engine is concurrent.

    Attributes:
        contract: inputs and outputs.
        stages, runners: stages of the model and their runners, in execution order.
        plan: which stages run per frame, per group and per window.
        runtime, variant: the engine and the precision in use.
        provenance: origin of the model: name, digest, versions.
        encoder_identity: differs between models that compute different features of a frame.
        threads: threads of the engine, as requested; None leaves the number to the engine.
        batches_at_once: batches of frames that a run should encode at the same time.
        engine_files: sha256 of the engine files built for it on this machine; empty if it needs none.
        uncertainty: when its answers are uncertain.
        decision: per multi-label target and label, the probability from which on the label holds.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        runners: Sequence[Runner],
        contract: Contract,
        *,
        variant: str,
        provenance: Mapping[str, str],
        encoder_identity: str = "",
        temperature: Mapping[str, float] | None = None,
        uncertainty: Uncertainty | None = None,
        decision: Mapping[str, Mapping[str, float]] | None = None,
        threads: int | None = None,
    ) -> None:
        self.contract = contract
        self.stages, self.runners = tuple(stages), tuple(runners)
        self.plan = plan_from_stages(self.stages)
        self.runtime = self.runners[0].runtime
        self.variant = variant
        self.provenance = dict(provenance)
        self.encoder_identity = encoder_identity or self.provenance["digest"]
        self.threads = threads
        self.engine_files = " ".join(filter(None, (runner.engine_file for runner in self.runners)))
        self._runner_of = dict(zip((stage.name for stage in self.stages), self.runners, strict=True))
        self._whole: Runner | None = None
        is_concurrent = all(runner.is_concurrent for runner in self.runners)
        self.batches_at_once = 2 if is_concurrent else 1
        self._calls = CallLimit(self.batches_at_once + 1 if is_concurrent else 1)  # one more for windows
        self._temperature = dict(temperature or {})
        self.decision = {
            target.name: (decision or {}).get(target.name) or dict.fromkeys(target.labels, DECISION)
            for target in contract.targets
            if target.multi_label
        }
        self.uncertainty = uncertainty or Uncertainty(
            reasons=dict.fromkeys((t.name for t in contract.targets), NO_THRESHOLD)
        )

    @property
    def width(self) -> int | None:
        """Number of features per encoded frame, D; None if the model does not compute one tensor per frame."""
        feature = self.plan.feature
        return math.prod(int(axis) for axis in feature.shape[1:]) if feature else None

    def require_feature(self, *, otherwise: str = "") -> TensorSpec:
        """Return the spec of a frame's feature; see ``Plan.require_feature``."""
        return self.plan.require_feature(self.provenance.get("model", "the model"), otherwise=otherwise)

    def encode(self, frames: npt.NDArray[np.uint8]) -> Arrays:
        """Run the stages that run per frame.

        Args:
            frames: ``uint8 (N, H, W, 3)``.

        Returns:
            The inputs of later stages, N rows by name, without the pixels.
        """
        computed = self._run(self.plan.frame, frames, {})
        return {name: computed[name] for name in self.plan.frame_gives if name in computed}

    def prepare(self, frames: int) -> None:
        """Prepare the stages that run per frame for batches of ``frames`` frames.

        Raises:
            RuntimeFailure: the model is closed, or the engine failed.
        """
        with self._calls.call():
            for stage in self.plan.frame:
                self._runner_of[stage.name].prepare(frames)

    def encode_groups(self, level: int, flat: Mapping[str, Array]) -> Arrays:
        """Run the stages of one level of groups.

        Args:
            level: index of the level in the plan.
            flat: their inputs, by name, for G groups of n frames: one row per frame.

        Returns:
            The inputs of later stages, G rows by name.
        """
        groups = self.plan.groups[level]
        computed = self._run(groups.stages, flat.get(PIXELS), flat)
        return {name: computed[name] for name in groups.gives}

    def answer(self, flat: Mapping[str, Array], windows: int) -> dict[str, FloatArray]:
        """Run the stages that run per window.

        Args:
            flat: their inputs, by name: one row per frame or group, window after window.
            windows: number of windows.

        Returns:
            Logits ``float32 (windows, C)`` per target; all NaN for a window with a non-finite input.
        """
        computed = self._run(self.plan.window, flat.get(PIXELS), flat)
        logits = self._of_targets(computed)
        for array in flat.values():
            if array.dtype.kind == "f":
                lost = ~np.isfinite(array.reshape(windows, -1)).all(axis=1)
                for scores in logits.values():
                    scores[lost] = np.nan  # a maximum, for example, may hide them
        return logits

    def probabilities_from_logits(self, logits: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
        """Return probabilities per target, after its temperature; all NaN in rows that are not finite."""
        return {
            target.name: probabilities_from_logits(
                logits[target.name], self._temperature.get(target.name, 1.0), multi_label=target.multi_label
            )
            for target in self.contract.targets
        }

    def features(self, frames: npt.NDArray[np.uint8]) -> FloatArray:
        """Compute ``float32 (N, D)`` from ``uint8 (N, H, W, 3)``, for a model with a feature per frame.

        Raises:
            SettingsError: the model has none.
        """
        return self.encode(frames)[self.require_feature().name].reshape(len(frames), -1).astype(np.float32, copy=False)

    def probabilities(self, features: FloatArray) -> dict[str, FloatArray]:
        """Compute probabilities ``float32 (B, C)`` per target, after its temperature, from ``float32 (B, T, D)``.

        Rows with features or logits that are not finite are all NaN: the model has no answer there.
        """
        return self.probabilities_from_logits(self.logits(features))

    def logits(self, features: FloatArray) -> dict[str, FloatArray]:
        """Compute logits ``float32 (B, C)`` per target from ``float32 (B, T, D)``.

        Rows with features that are not finite are all NaN.

        Raises:
            SettingsError: as ``features``.
        """
        name = self.require_feature().name
        return self.logits_from_parts({name: features.reshape(-1, *features.shape[2:])}, len(features))

    def logits_from_frames(self, clips: npt.NDArray[np.uint8], batch_frames: int) -> dict[str, FloatArray]:
        """Compute logits of whole windows as a run does: frames in batches, then groups, then windows.

        Args:
            clips: ``uint8 (B, T, H, W, 3)``.
            batch_frames: frames per batch.
        """
        flat = clips.reshape(-1, *clips.shape[2:])
        known: Arrays = {PIXELS: flat} if PIXELS in self.plan.frame_gives else {}
        if self.plan.frame:
            known |= _join(
                [self.encode(flat[start : start + batch_frames]) for start in range(0, len(flat), batch_frames)]
            )
        if self.plan.batches_windows:
            most = max(1, batch_frames // self.contract.frames)
            parts = [
                self.logits_from_parts(_rows(known, start, most, len(clips)), min(most, len(clips) - start))
                for start in range(0, len(clips), most)
            ]
            return {target: np.concatenate([part[target] for part in parts]) for target in parts[0]}
        return self.logits_from_parts(known, len(clips))

    def logits_from_parts(self, flat: Mapping[str, Array], windows: int) -> dict[str, FloatArray]:
        """Compute logits with the stages per group and per window, from one row per frame."""
        known = dict(flat)
        for level, groups in enumerate(self.plan.groups):
            known |= self.encode_groups(level, {name: flat[name] for name in groups.takes})
        return self.answer({name: known[name] for name in self.plan.window_takes}, windows)

    def layers(self) -> Layers:
        """Return the number of layers per precision, over all stages; call it after the first inference."""
        return sum((runner.layers() for runner in self.runners), Layers())

    def classify(self, clips: npt.NDArray[np.uint8]) -> dict[str, FloatArray]:
        """Compute probabilities from ``uint8 (B, T, H, W, 3)`` in one call of each stage.

        TensorRT engines leave intermediate results on the GPU.

        Raises:
            RuntimeFailure: the model is closed, or the engine failed.
        """
        with self._calls.call():
            if self._whole is None:
                self._whole = chain_runners(self.stages, self.runners, self.contract.frames)
            return self.probabilities_from_logits(self._of_targets(self._whole.infer({PIXELS: clips})))

    def _run(self, stages: Sequence[Stage], pixels: Array | None, flat: Mapping[str, Array]) -> Arrays:
        with self._calls.call():
            return run_stages(stages, [self._runner_of[stage.name] for stage in stages], pixels, flat)

    def _of_targets(self, outputs: Arrays) -> dict[str, FloatArray]:
        return {target.name: np.array(outputs[f"{target.name}_logits"], np.float32) for target in self.contract.targets}

    def close(self) -> None:
        """Free the engines after the current calls have returned. Safe to call twice."""
        if self._calls.close():
            for runner in (self._whole, *self.runners):
                if runner is not None:
                    runner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def open_classifier(
    path: str | Path,
    *,
    runtime: str = "auto",
    variant: str = "auto",
    threads: int | None = None,
    on_progress: OnProgress = ignore_progress,
) -> Classifier:
    """Open a bundle with the requested runtime and variant, or a run directory with torch.

    Args:
        path: a bundle, or a run directory (then ``runtime`` is ``auto`` or ``torch``, and ``variant`` is ``auto`` or
            ``fp32``).
        runtime: ``auto`` takes the fastest one, measured once on this machine.
        variant: ``auto`` takes the fastest one that passed the gate.
        threads: threads of the engine; None leaves the number to the engine.
        on_progress: called while engines are built: name, steps done, steps in all.

    Raises:
        BundleError: neither a bundle nor a run, or damaged.
        SettingsError: torch was requested for a bundle, or another runtime for a run.
    """
    path = Path(path)
    if (path / "config.yaml").is_file() and not (path / MANIFEST).is_file():
        if runtime not in ("auto", "torch") or variant not in ("auto", "fp32"):
            raise SettingsError(
                f"{path.name} is a run, which torch alone can read",
                allowed="runtime torch, variant fp32",
                fix=f"vidrisk export {path.name} -o BUNDLE",
            )
        return _classifier_from_run(path)
    return classifier_from_bundle(
        Bundle.open(path), runtime=runtime, variant=variant, threads=threads, on_progress=on_progress
    )


def classifier_from_bundle(
    bundle: Bundle,
    *,
    runtime: str = "auto",
    variant: str = "auto",
    threads: int | None = None,
    on_progress: OnProgress = ignore_progress,
) -> Classifier:
    """Return the classifier of an open bundle; see ``open_classifier``."""
    path = bundle.root
    refuse_reports(bundle)
    choice, runners = open_stages(bundle, runtime=runtime, variant=variant, threads=threads, on_progress=on_progress)
    chosen = bundle.manifest.variants[choice.variant]
    if chosen.waived:
        log.warning(
            "%s %s was shipped although its gate would have refused it: %s", path.name, choice.variant, chosen.waived
        )
    weights = " ".join(bundle.manifest.files[file].sha256 for file in _files_of_features(bundle, choice.variant))
    return Classifier(
        bundle.stages,
        runners,
        bundle.contract,
        variant=choice.variant,
        provenance=provenance_of(bundle, chosen),
        encoder_identity=f"{weights} {choice.runtime} {engine_version(choice.runtime)}",
        temperature=chosen.temperature,
        decision=chosen.decision,
        threads=threads,
        uncertainty=uncertainty_from_variant(chosen, bundle.contract.targets),
    )


def _files_of_features(bundle: Bundle, variant: VariantName) -> list[str]:
    """Return the files that determine a frame's features: graphs, external weights of large graphs, constants."""
    stages = plan_from_stages(bundle.stages).frame
    graphs = [bundle.manifest.variants[variant].files[stage.name] for stage in stages]
    files = [file for graph in graphs for file in (graph, f"{graph}.data") if file in bundle.manifest.files]
    constants = bundle.manifest.constants
    return [*files, constants] if constants and any(stage.constants for stage in stages) else files


def _join(parts: list[Arrays]) -> Arrays:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _rows(flat: Mapping[str, Array], start: int, windows: int, of: int) -> Arrays:
    """Return the rows of ``windows`` windows from ``start`` on, out of ``of`` windows in all."""
    return {
        name: array[start * (len(array) // of) : (start + windows) * (len(array) // of)] for name, array in flat.items()
    }


def _classifier_from_run(path: Path) -> Classifier:
    require("torch", "train")
    from vidrisk.models.run import Run
    from vidrisk.runtimes.torch import TorchRunner

    run = Run.open(path)
    contract = run.contract
    stages = run.load_classifier().stages(contract)
    runners = [TorchRunner(each.module, each.stage.inputs, each.stage.outputs, each.constants) for each in stages]
    provenance = {"model": path.resolve().name, "digest": run.digest, "backbone": run.config.backbone}
    return Classifier([each.stage for each in stages], runners, contract, variant="fp32", provenance=provenance)
