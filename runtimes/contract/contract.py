"""The sealed contract between training, calibration and inference: inputs, outputs and their names.

Runs and bundles carry it; code that combines two of them compares their digests first.
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from vidrisk.runtimes.contract.choices import Task
from vidrisk.runtimes.contract.errors import SpecError
from vidrisk.runtimes.contract.specs import PixelSpec, TensorSpec, TimeSpec


class Sealed(BaseModel):
    """Base of all models that are written to disk: immutable, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


TARGET_NAME = r"[a-z][a-z0-9_]*"
DECISION = 0.5  # default decision threshold of a multi-label target's labels, if none was fitted
NONE_HOLDS = "none"  # the answer if no label holds


class Target(Sealed):
    """One question that the model answers with a softmax, or, if it is multi-label, with one sigmoid per label.

    Attributes:
        name: ``action``, ``defect`` or ``level``.
        labels: class names; if ``ordered``, from the least to the most severe.
        ordered: whether the labels are levels on one scale.
        severity: 0–100 per label; the severity of an input is the expectation over the label probabilities.
        multi_label: whether any number of labels, including none, may hold for one input.
    """

    name: str = Field(pattern=rf"^{TARGET_NAME}$")
    labels: tuple[str, ...]
    ordered: bool = False
    severity: tuple[float, ...] | None = None
    multi_label: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Target:
        least = 1 if self.multi_label else 2
        if len(self.labels) < least or len(set(self.labels)) != len(self.labels):
            raise SpecError(
                f"target {self.name!r} has labels {list(self.labels)}",
                allowed=f"at least {'one' if self.multi_label else 'two'}, all different",
            )
        if self.multi_label and (self.ordered or self.severity is not None):
            raise SpecError(
                f"target {self.name!r} has ordered levels but is multi-label", allowed="one level per input"
            )
        if self.severity is not None:
            inside = all(0 <= s <= 100 for s in self.severity)
            if len(self.severity) != len(self.labels) or not inside or list(self.severity) != sorted(self.severity):
                raise SpecError(
                    f"severity {list(self.severity)} of {self.name!r}",
                    allowed=f"{len(self.labels)} numbers from 0 to 100 in non-decreasing order",
                )
        return self


class Guidance(Sealed):
    """Most frequent texts of the training data for one defect class and level."""

    defect: str | None = None
    level: str | None = None
    risk: str = ""
    advice: str = ""
    description: str = ""


class Contract(Sealed):
    """Everything that training, calibration and inference must agree on.

    Attributes:
        task: ``action`` (which of these happens), ``risk`` (which defect, how bad), ``action+risk`` (both), or
            ``report`` (a report in words; its level is the only target, if there is a scheme of levels).
        pixel: geometry and normalisation of a frame.
        time: moments of a clip; None for photos, which count as clips of one moment.
        targets: outputs of the last stage, in order; for a report, the labels that its words are compared with.
        guidance: advice and descriptions to show beside a prediction.
    """

    task: Task
    pixel: PixelSpec
    time: TimeSpec | None = None
    targets: tuple[Target, ...]
    guidance: tuple[Guidance, ...] = ()

    @property
    def frames(self) -> int:
        """Number of moments per input, T; 1 for photos."""
        return self.time.frames if self.time else 1

    @property
    def digest(self) -> str:
        """sha256 of the canonical JSON of all values that differ from the defaults.

        Digests are equal exactly if the contracts are equal. They stay the same in later versions, because new keys
        have defaults.
        """
        return hashlib.sha256(self.model_dump_json(exclude_defaults=True).encode()).hexdigest()

    @property
    def digest_of_schema_1(self) -> str:
        """Digest as computed by 0.1.0, over all keys; golden samples and ledgers of that version hold it."""
        old = _ContractOfSchema1(**{name: getattr(self, name) for name in type(self).model_fields})
        return hashlib.sha256(
            old.model_dump_json(exclude={"targets": {"__all__": {"multi_label"}}}).encode()
        ).hexdigest()

    def is_digest(self, digest: str) -> bool:
        """Tell whether a recorded digest belongs to this contract."""
        return digest == self.digest or (not self.multi_targets and digest == self.digest_of_schema_1)

    @model_validator(mode="before")
    @classmethod
    def _of_schema_1(cls, data: Any) -> Any:
        """Drop the key ``encoder`` of files of 0.1.0, which had only one kind of encoder."""
        if isinstance(data, dict) and data.get("encoder") == "frame":
            return {key: value for key, value in data.items() if key != "encoder"}
        return data

    @model_validator(mode="after")
    def _different_targets(self) -> Contract:
        if not self.targets and self.task != "report":
            raise SpecError(f"a contract of task {self.task!r} without targets", allowed="at least one")
        names = [target.name for target in self.targets]
        if len(set(names)) != len(names):
            raise SpecError(f"targets {names}", allowed="different names")
        return self

    @property
    def multi_targets(self) -> frozenset[str]:
        """Names of the multi-label targets."""
        return frozenset(target.name for target in self.targets if target.multi_label)

    def target(self, name: str) -> Target | None:
        return next((t for t in self.targets if t.name == name), None)

    def answers(self) -> tuple[TensorSpec, ...]:
        """Return the specs of the last stage's outputs: logits per target."""
        return tuple(TensorSpec(f"{t.name}_logits", "float32", ("batch", len(t.labels))) for t in self.targets)


class _ContractOfSchema1(Sealed):
    """Keys of a contract of schema 1, in their original order."""

    task: Task
    encoder: Literal["frame"] = "frame"
    pixel: PixelSpec
    time: TimeSpec | None
    targets: tuple[Target, ...]
    guidance: tuple[Guidance, ...]
