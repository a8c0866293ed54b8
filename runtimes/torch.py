"""Runner for torch, the reference that every exported graph is compared with.

This is the only module here that uses torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vidrisk.runtimes.contract.errors import RuntimeFailure, require
from vidrisk.runtimes.contract.specs import TensorSpec
from vidrisk.runtimes.runner import Array, Arrays, Runner

if TYPE_CHECKING:
    from torch import nn


class TorchRunner(Runner):
    """Runner of a torch module in evaluation mode.

    Its outputs, a tensor or a tuple, are named by the specs in order.
    """

    runtime = "torch"

    def __init__(
        self,
        module: nn.Module,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        constants: Mapping[str, Array] | None = None,
    ) -> None:
        """Put the module into evaluation mode.

        Args:
            module: the module to run.
            inputs: specs of its arguments, in order.
            outputs: specs of its return values, in order.
            constants: values of inputs that never change.
        """
        super().__init__(inputs, outputs, constants)
        self._arguments = tuple(spec.name for spec in inputs)
        self._torch: Any = require("torch", "train")
        self._module = module.eval()
        parameter = next(module.parameters(), None)
        self._device = parameter.device if parameter is not None else "cpu"

    def _infer(self, feed: Mapping[str, Array]) -> Arrays:
        torch = self._torch
        # Copied: torch accepts neither read-only arrays nor negative strides.
        tensors = [torch.from_numpy(np.array(feed[name], order="C")).to(self._device) for name in self._arguments]
        try:
            with torch.inference_mode():
                result = self._module(*tensors)
        except RuntimeError as error:
            raise RuntimeFailure(f"torch failed: {error}") from error
        arrays = result if isinstance(result, tuple) else (result,)
        # Floats are cast to the dtype of the spec: numpy has no bfloat16, so such a module returns float32.
        return {
            spec.name: (tensor.to(getattr(torch, spec.dtype)) if tensor.is_floating_point() else tensor).cpu().numpy()
            for spec, tensor in zip(self.outputs, arrays, strict=True)
        }
