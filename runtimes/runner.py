"""Common interface to all engines: numpy arrays in and out, both checked against the specs.

with open_runner(bundle, "encoder", runtime="openvino", variant="int8") as encoder:
    features = encoder.infer({"frames": frames})["features"]
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

import numpy as np
import numpy.typing as npt
from typing_extensions import Self

from vidrisk.runtimes.contract.errors import RuntimeFailure, SpecError
from vidrisk.runtimes.contract.specs import TensorSpec
from vidrisk.runtimes.layers import Layers

Array = npt.NDArray[np.generic]
Arrays = dict[str, Array]


class Runner(ABC):
    """Executor of one graph. Subclasses load it in ``__init__`` and implement ``_infer``.

    Attributes:
        inputs, outputs: specs of the tensors that ``infer`` takes and returns.
        constants: values of the graph's other inputs, by name.
        runtime: name of the engine, as in ``BUNDLE_RUNTIMES``, or ``torch``.
        engine_file: sha256 of the engine that was built for it here; empty if it needs none.
        reuses_outputs: if True, the next call overwrites the arrays returned by ``infer``; copy them to keep them.
        is_concurrent: if True, several threads may call ``infer`` at once, and gain by it.
    """

    runtime: str = ""
    engine_file: str = ""
    reuses_outputs: bool = False
    is_concurrent: bool = False

    def __init__(
        self, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], constants: Mapping[str, Array] | None = None
    ) -> None:
        """Separate the constants from the inputs.

        Args:
            inputs: specs of all inputs of the graph.
            outputs: specs of its outputs.
            constants: values of some of the inputs, which never change.

        Raises:
            SpecError: a constant is not an input, or has another dtype or shape.
        """
        self.constants = dict(constants or {})
        for name, array in self.constants.items():
            spec = next((spec for spec in inputs if spec.name == name), None)
            if spec is None:
                raise SpecError(f"constant {name!r}", allowed=", ".join(spec.name for spec in inputs))
            spec.check(array, {})
        self.inputs = tuple(spec for spec in inputs if spec.name not in self.constants)
        self.outputs = tuple(outputs)
        self._closed = False

    def infer(self, feed: Mapping[str, Array]) -> Arrays:
        """Run the graph once.

        Args:
            feed: one array per input, with the dtype and shape of its spec.

        Returns:
            One array per output. Named axes agree with those of the feed.

        Raises:
            SpecError: the feed, or the engine's output, does not match the specs.
            RuntimeFailure: the engine failed, or the runner is closed.
        """
        self._check_open()
        names = {spec.name for spec in self.inputs}
        if set(feed) != names:
            raise SpecError(f"feed has {sorted(feed)}", allowed=str(sorted(names)))
        axes: dict[str, int] = {}
        for spec in self.inputs:
            spec.check(feed[spec.name], axes)
        shapes = {
            spec.name: [axes.get(axis, 1) if isinstance(axis, str) else axis for axis in spec.shape]
            for spec in self.outputs
        }
        if all(0 in shape for shape in shapes.values()):  # not every engine accepts an empty batch
            return {spec.name: np.empty(shapes[spec.name], spec.dtype) for spec in self.outputs}
        result = self._infer({**feed, **self.constants} if self.constants else feed)
        for spec in self.outputs:
            if spec.name not in result:
                raise SpecError(f"{self.runtime} returned {sorted(result)}", allowed=f"also {spec.name}")
            spec.check(result[spec.name], axes)
        return result

    @abstractmethod
    def _infer(self, feed: Mapping[str, Array]) -> Arrays:
        """Run the engine on a checked feed, which includes the constants."""

    def prepare(self, rows: int) -> None:
        """Compile in advance what ``infer`` needs for ``rows`` rows.

        Raises:
            RuntimeFailure: the engine failed, or the runner is closed.
        """
        self._check_open()
        self._prepare(rows)

    def _prepare(self, rows: int) -> None:  # noqa: B027 (most engines have nothing to compile)
        """Prepare the engine for ``rows`` rows."""

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeFailure(f"{self.runtime} runner is closed", fix="open it again")

    def layers(self) -> Layers:
        """Count layers by the precision they really run in, as the engine reports it; call it after ``infer``.

        Raises:
            RuntimeFailure: the engine failed.
        """
        return Layers(unproved=f"{self.runtime} does not say how its layers run")

    def close(self) -> None:
        """Release the engine. Safe to call twice."""
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        ins, outs = (", ".join(f"{s.name}{list(s.shape)}" for s in specs) for specs in (self.inputs, self.outputs))
        return f"{type(self).__name__}({ins} → {outs})"


class FakeRunner(Runner):
    """Runner around a plain function, for tests and for trying a pipeline without a model."""

    runtime = "fake"

    def __init__(
        self,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        function: Callable[[Mapping[str, Array]], Arrays],
        constants: Mapping[str, Array] | None = None,
    ) -> None:
        super().__init__(inputs, outputs, constants)
        self._function = function

    def _infer(self, feed: Mapping[str, Array]) -> Arrays:
        return self._function(feed)
