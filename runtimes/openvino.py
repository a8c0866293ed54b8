"""Runner for OpenVINO, the fastest engine on most x86 machines, which reads the same ONNX files."""

from __future__ import annotations

import functools
import math
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np

from vidrisk.runtimes.contract.errors import RuntimeFailure, require
from vidrisk.runtimes.contract.specs import TensorSpec
from vidrisk.runtimes.layers import Layers, layers_from_openvino
from vidrisk.runtimes.processor import may_saturate
from vidrisk.runtimes.runner import Array, Arrays, Runner

# Input bytes per request: four frames of 224 x 224. The activations of a request then stay in a core's cache, and all
# streams have work until the end of a batch.
REQUEST_BYTES = 4 * 224 * 224 * 3
# Smaller rows (features for a head) are not worth a request each.
SMALL_ROW_BYTES = 1 << 16
# Quantized graphs in float32, without OpenVINO's low-precision transformations.
EXACT_SUMS = {"LP_TRANSFORMS_MODE": "NO"}
_LOADING = threading.Lock()


@contextmanager
def _translate_errors() -> Iterator[None]:
    """Raise OpenVINO's errors as ``RuntimeFailure``."""
    try:
        yield
    except RuntimeFailure:
        raise
    except Exception as error:  # openvino raises RuntimeError and its own types alike
        raise RuntimeFailure(f"OpenVINO failed: {error}") from error


class OpenVinoRunner(Runner):
    """Runner of an ONNX file on OpenVINO's CPU plugin, tuned for throughput.

    A batch is split into requests of a few rows and of one fixed shape, which run concurrently, each on some of the
    cores, instead of one request in which all cores wait for one another. The last request of a batch is padded with
    zeros. Until the first batch that fills a request, rows run one by one on all cores. Graphs are compiled when the
    first rows arrive. A graph whose inputs have different names for their first axes has no batch axis, and is run
    unchanged. Concurrent calls share the requests, so that no core idles at the end of a batch.

    The execution precision is pinned to float32: OpenVINO would otherwise use bfloat16 on processors that have it, and
    a variant would not compute what its name says. If its INT8 kernels may saturate (``processor``), a quantised graph
    is computed in float32 and rounded where the graph says so.

    Args:
        path: the ONNX file.
        inputs, outputs: what the file declares, according to its bundle. The first axis of all but constants is the
            batch.
        constants: values of inputs that never change; every request gets them whole.
        threads: inference threads; None lets OpenVINO use all cores.
    """

    runtime = "openvino"
    is_concurrent = True

    def __init__(
        self,
        path: Path,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        *,
        threads: int | None = None,
        constants: Mapping[str, Array] | None = None,
    ) -> None:
        super().__init__(inputs, outputs, constants)
        self._core = load_core()
        self._config: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"} | (
            {"INFERENCE_NUM_THREADS": threads} if threads else {}
        )
        if may_saturate(path):
            self._config |= EXACT_SUMS
        self._compiled: dict[int | None, Any] = {}  # by rows per request; None for any number
        self._idle: dict[int | None, SimpleQueue[Any]] = {}  # requests that no call uses
        self._preparing = threading.Lock()
        try:
            self._model: Any = self._core.read_model(str(path))
        except Exception as error:  # openvino raises RuntimeError and its own types alike
            raise RuntimeFailure(f"OpenVINO cannot load {path.name}: {error}", fix="export the bundle again") from error

    @_translate_errors()
    def _prepare(self, rows: int) -> None:
        row_bytes = 0
        for spec in self.inputs:
            axes = [axis for axis in spec.shape[1:] if isinstance(axis, int)]
            if len(axes) < len(spec.shape) - 1:
                return  # the size of a row is known when the first one comes
            row_bytes += np.dtype(spec.dtype).itemsize * math.prod(axes)
        self._idle_of(self._rows_per_request(row_bytes, rows))

    @_translate_errors()
    def _infer(self, feed: Mapping[str, Array]) -> Arrays:
        rows = len(feed[self.inputs[0].name])
        step = self._rows_per_request(sum(feed[spec.name].nbytes for spec in self.inputs) // rows, rows)
        results: Arrays = {}
        # Wait for requests in order: a callback into Python would need the lock held by the thread that closes them.
        running: deque[tuple[Any, int, Arrays]] = deque()

        def finish() -> Any:
            request, start, _ = running[0]
            request.wait()
            for spec in self.outputs:
                if step is None:
                    results[spec.name] = np.array(request.get_tensor(spec.name).data)
                    continue
                part = request.get_tensor(spec.name).data[: rows - start]
                if spec.name not in results:
                    results[spec.name] = np.empty((rows, *part.shape[1:]), part.dtype)
                results[spec.name][start : start + len(part)] = part
            running.popleft()
            return request

        try:
            idle = self._idle_of(step)
            for start in range(0, rows, step or rows):
                part = {spec.name: _part(feed[spec.name], start, step) for spec in self.inputs} | self.constants
                try:
                    request = idle.get_nowait()
                except Empty:  # a call that holds no request waits for one of another call, which waits for none
                    request = finish() if running else idle.get()
                running.append((request, start, part))  # keeps the arrays alive
                request.start_async(part, share_inputs=True)
            while running:
                idle.put(finish())
        except Exception:  # ``finally`` returns the requests
            raise
        except BaseException:  # Ctrl-C may have lost a request: the next call makes new ones
            with self._preparing:
                self._idle.pop(step, None)
            raise
        finally:
            for request, _, _ in running:  # they still read the arrays
                with suppress(Exception):
                    request.wait()
                idle.put(request)
        return results

    def _rows_per_request(self, row_bytes: int, rows: int) -> int | None:
        if row_bytes < SMALL_ROW_BYTES or len({spec.shape[:1] for spec in self.inputs}) > 1:
            return None
        step = max(1, REQUEST_BYTES // row_bytes)
        with self._preparing:  # a small batch waits for a graph that is being compiled, and uses it
            return step if rows >= step or step in self._idle else 1

    def _idle_of(self, step: int | None) -> SimpleQueue[Any]:
        with self._preparing:
            if step not in self._idle:
                self._compiled[step] = compiled = self._compiled.get(step) or self._compile(step)
                idle = SimpleQueue[Any]()
                for _ in range(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")):
                    idle.put(compiled.create_infer_request())
                self._idle[step] = idle  # last: a queue that stays empty would be waited for
            return self._idle[step]

    def _compile(self, step: int | None) -> Any:
        model = self._model
        if step is not None:
            model = model.clone()
            model.reshape({spec.name: [step, *spec.shape[1:]] for spec in self.inputs})
        hint = {"PERFORMANCE_HINT": "LATENCY" if step in (None, 1) else "THROUGHPUT"}
        try:
            return self._core.compile_model(model, "CPU", self._config | hint)
        except RuntimeError as error:
            if not self._config.keys() & EXACT_SUMS.keys():
                raise
            raise RuntimeFailure(
                "OpenVINO cannot compute this INT8 graph exactly on a processor without VNNI",
                fix="use another runtime, such as onnxruntime",
            ) from error

    def layers(self) -> Layers:
        compiled = next(iter(self._compiled.values()), None)
        if compiled is None:
            return super().layers()
        try:
            return layers_from_openvino(compiled.get_runtime_model().get_ops())
        except RuntimeError as error:
            return Layers(unproved=f"OpenVINO does not show what it runs: {error}")

    def close(self) -> None:
        super().close()
        self._idle.clear()
        self._compiled.clear()
        self._model = None


def load_core() -> Any:
    """Load the single OpenVINO core of this process, which is never released.

    Its CPU plugin gives the thread that loads it an alternate signal stack. If another thread (an encoder thread, the
    garbage collector) releases the core, that stack is freed while the loading thread still uses it, and the next
    Ctrl-C causes a segmentation fault.

    Its bindings load numpy's C API when an array is first passed. Two threads that do so at once wait for each other
    forever, one with Python's lock and one with the guard of a static variable, so it is done here.

    Raises:
        MissingExtra, RuntimeFailure: OpenVINO is not installed, or does not load.
    """
    with _LOADING:
        return _make_core()


@functools.cache
def _make_core() -> Any:
    ov: Any = require("openvino", "cpu")
    try:
        ov.Type.f32.to_dtype()
        return ov.Core()
    except Exception as error:
        raise RuntimeFailure(
            f"OpenVINO does not start: {error}", fix="pip install --force-reinstall openvino"
        ) from error


def _part(array: Array, start: int, step: int | None) -> Array:
    """Return the contiguous rows of a request, padded with zeros in the last one."""
    part = np.ascontiguousarray(array[start : start + step] if step else array)
    if step is None or len(part) == step:
        return part
    whole = np.zeros((step, *array.shape[1:]), array.dtype)
    whole[: len(part)] = part
    return whole
