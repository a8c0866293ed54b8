"""A trained model, ready to be asked: encoder and head runners, temperature and provenance, from a bundle or a run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt
from typing_extensions import Self

from vidrisk.runtimes import Bundle, Contract, Runner, choose, open_runner
from vidrisk.runtimes.bundle import MANIFEST, VariantName
from vidrisk.runtimes.chain import chained
from vidrisk.runtimes.errors import EngineMissing, SettingsError, require
from vidrisk.runtimes.probabilities import probabilities_from_logits
from vidrisk.runtimes.registry import ENGINE_KINDS, engine_version, possible_runtimes
from vidrisk.runtimes.runner import Arrays

log = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float32]
OnProgress = Callable[[str, int, int], None]


class Classifier:
    """Encoder and head behind the contract that both were made for. Use it as a context manager, or ``close`` it.

    Attributes:
        contract: what goes in and what comes out.
        runtime, variant: the engine and the precision that answer.
        provenance: where the model came from: name, digest, versions.
        encoder_identity: differs between encoders that compute different features.
        width: of the features of a frame, D.
        threads: of the engine, as asked for; None leaves them to it.
    """

    def __init__(self, encoder: Runner, head: Runner, contract: Contract, *, variant: str, provenance: Mapping[str, str],
                 encoder_identity: str = "", temperature: Mapping[str, float] | None = None,
                 threshold: Mapping[str, float] | None = None, threads: int | None = None) -> None:
        self.contract = contract
        self.runtime = encoder.runtime
        self.variant = variant
        self.provenance = dict(provenance)
        self.encoder_identity = encoder_identity or self.provenance["digest"]
        self.width = int(encoder.outputs[0].shape[-1])
        self.threads = threads
        self._encoder, self._head = encoder, head
        self._both: Runner | None = None
        self._temperature, self._threshold = dict(temperature or {}), dict(threshold or {})

    def features(self, frames: npt.NDArray[np.uint8]) -> FloatArray:
        """``uint8 (N, H, W, 3)`` → ``float32 (N, D)``."""
        features = self._encoder.infer({"frames": frames})["features"]
        return np.array(features, np.float32) if self._encoder.reuses_outputs else np.asarray(features, np.float32)

    def probabilities(self, features: FloatArray) -> dict[str, FloatArray]:
        """``float32 (B, T, D)`` → probabilities ``float32 (B, C)`` per target, after its temperature."""
        return self._calibrated(self._head.infer({"features": np.ascontiguousarray(features)}))

    def classify(self, clips: npt.NDArray[np.uint8]) -> dict[str, FloatArray]:
        """``uint8 (B, T, H, W, 3)`` → the probabilities of their features, which engines of TensorRT leave on the GPU."""
        if self._both is None:
            self._both = chained(self._encoder, self._head)
        return self._calibrated(self._both.infer({"frames": clips}))

    def _calibrated(self, outputs: Arrays) -> dict[str, FloatArray]:
        return {target.name: probabilities_from_logits(np.asarray(outputs[f"{target.name}_logits"], np.float32),
                                                       self._temperature.get(target.name, 1.0)) for target in self.contract.targets}

    def threshold(self, target: str) -> float:
        """A top probability below it is reported as uncertain; 0 when the model has none."""
        return self._threshold.get(target, 0.0)

    def close(self) -> None:
        for runner in (self._both, self._encoder, self._head):
            if runner is not None:
                runner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def open_classifier(path: str | Path, *, runtime: str = "auto", variant: str = "auto", threads: int | None = None,
                    on_progress: OnProgress = lambda what, done, total: None) -> Classifier:
    """Open a bundle with the runtime and variant asked for, or a run directory with torch.

    Args:
        path: a bundle, or a run directory (then ``runtime`` is ``auto`` or ``torch``).
        runtime: ``auto`` takes the fastest one, measured once on this machine.
        variant: ``auto`` takes the fastest one that passed the gate.
        threads: of the engine; None leaves it to the engine.
        on_progress: told of engines that have to be built first: what, steps done, steps in all.

    Raises:
        BundleError: neither a bundle nor a run, or damaged.
        SettingsError: torch asked of a bundle, or another runtime of a run.
    """
    path = Path(path)
    if (path / "config.yaml").is_file() and not (path / MANIFEST).is_file():
        if runtime not in ("auto", "torch") or variant != "auto":
            raise SettingsError(f"{path.name} is a run, which torch alone can read", allowed="--runtime torch",
                                fix=f"vidrisk export {path.name} -o BUNDLE")
        return _classifier_from_run(path)
    bundle = Bundle.open(path)
    if runtime == "torch":
        raise SettingsError(f"{path.name} is a bundle, which torch cannot read", allowed=f"auto, {', '.join(possible_runtimes())}",
                            fix="give the run directory instead")
    opened = partial(_opened_with_engine, on_progress=on_progress)
    choice = choose(bundle, runtime=runtime, variant=variant, threads=threads, opened=opened)
    with ExitStack() as stack:
        encoder, head = (stack.enter_context(opened(bundle, graph, runtime=choice.runtime, variant=choice.variant, threads=threads))
                         for graph in ("encoder", "head"))
        stack.pop_all()
    chosen = bundle.manifest.variants[choice.variant]
    if chosen.waived:
        log.warning("%s %s was shipped although its gate would have refused it: %s", path.name, choice.variant, chosen.waived)
    provenance = {"model": path.resolve().name, "digest": bundle.digest, "created": bundle.manifest.created,
                  **({"waived": chosen.waived} if chosen.waived else {}),
                  **{f"made with {name}": version for name, version in bundle.manifest.made_with.items()}}
    name = chosen.files["encoder"]  # weights of a large graph lie beside it
    weights = " ".join(bundle.manifest.files[file].sha256 for file in (name, f"{name}.data") if file in bundle.manifest.files)
    return Classifier(encoder, head, bundle.contract, variant=choice.variant, provenance=provenance,
                      encoder_identity=f"{weights} {choice.runtime} {engine_version(choice.runtime)}",
                      temperature=chosen.temperature, threshold=chosen.threshold, threads=threads)


def _opened_with_engine(bundle: Bundle, graph: str, *, runtime: str, variant: VariantName, threads: int | None,
                        on_progress: OnProgress) -> Runner:
    """``open_runner``, after building the engine that is missing."""
    try:
        return open_runner(bundle, graph, runtime=runtime, variant=variant, threads=threads)
    except EngineMissing:
        from vidrisk.export.engines import ensured_engines  # only where something has to be built

        ensured_engines(bundle, ENGINE_KINDS[runtime], [variant], on_progress)
        return open_runner(bundle, graph, runtime=runtime, variant=variant, threads=threads)


def _classifier_from_run(path: Path) -> Classifier:
    require("torch", "train")
    from vidrisk.run import Run
    from vidrisk.runtimes.torch import TorchRunner

    run = Run.open(path)
    model, contract = run.load_classifier(), run.contract
    width = model.encoder.width
    encoder = TorchRunner(model.encoder, contract.encoder_inputs(), contract.encoder_outputs(width))
    head = TorchRunner(model.head, contract.head_inputs(width), contract.head_outputs())
    provenance = {"model": path.resolve().name, "digest": run.digest, "backbone": run.config.backbone}
    return Classifier(encoder, head, contract, variant="fp32", provenance=provenance)
