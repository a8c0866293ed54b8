"""torch and ONNX Runtime on the GPU with their own best settings, as runners from frames to features on the host.

torch in FP16 (convolutions channels-last), eager and compiled with ``max-autotune``, which records CUDA graphs; ONNX
Runtime on CUDA in FP16 with bound buffers on the GPU and its own CUDA graph. On a device other than ``cuda`` both run
without the CUDA features, which tests the code but measures nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from vidrisk.runtimes import Bundle, FakeRunner
from vidrisk.runtimes.contract.errors import RuntimeFailure, require
from vidrisk.runtimes.ort import PROVIDERS, UNSAFE_OPTIMIZERS
from vidrisk.runtimes.registry import BUNDLE_RUNTIMES
from vidrisk.runtimes.runner import Array, Arrays, Runner


def torch_runner(encoder: Any, bundle: Bundle, *, compiled: bool, device: str = "cuda") -> Runner:
    """Return a runner of torch in FP16 on the GPU.

    Raises:
        RuntimeFailure: torch is a build without CUDA.
    """
    on_gpu = device == "cuda"
    if on_gpu and not torch.cuda.is_available():
        raise RuntimeFailure(f"torch {torch.__version__} was built without CUDA", fix="install one with it")
    torch.backends.cudnn.benchmark = True
    module = encoder.to(device).half().to(memory_format=torch.channels_last)
    module.backbone.register_forward_pre_hook(lambda _, pixels: tuple(each.half() for each in pixels))
    if compiled:
        # what was compiled for another model or batch counts against a limit, behind which it runs eagerly
        torch.compiler.reset()
    how: dict[str, Any] = {"mode": "max-autotune"} if on_gpu else {"backend": "eager"}
    called = torch.compile(module, dynamic=False, **how) if compiled else module

    def run(feed: Mapping[str, Array]) -> Arrays:
        with torch.inference_mode():
            frames = torch.from_numpy(feed["frames"])
            frames = frames.pin_memory().cuda(non_blocking=True) if on_gpu else frames
            return {"features": called(frames).float().cpu().numpy()}

    return _name_runner("torch.compile" if compiled else "torch eager", bundle, run)


def bind_onnx_runtime(bundle: Bundle, batch: int, *, device: str = "cuda") -> Runner:
    """Return a runner of ONNX Runtime on CUDA for batches of one size, with all its options that reduce overhead.

    Raises:
        RuntimeFailure, MissingExtra: it is not installed, or does not load.
    """
    encoder = bundle.manifest.stage("encoder")
    path = bundle.path("encoder", "fp16")
    providers: list[Any] = ["CPUExecutionProvider"]
    if device == "cuda":
        BUNDLE_RUNTIMES["onnxruntime-cuda"](path, encoder.inputs, encoder.outputs).close()  # says why not
        providers = [("CUDAExecutionProvider", {"enable_cuda_graph": "1"}), *PROVIDERS["onnxruntime-cuda"][1:]]
    ort: Any = require("onnxruntime", "gpu")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=providers, disabled_optimizers=UNSAFE_OPTIMIZERS)
    frames, features = (
        ort.OrtValue.ortvalue_from_numpy(np.zeros((batch, *spec.shape[1:]), spec.dtype), device, 0)
        for spec in (encoder.inputs[0], encoder.outputs[0])
    )
    binding = session.io_binding()
    binding.bind_ortvalue_input("frames", frames)
    binding.bind_ortvalue_output("features", features)

    def run(feed: Mapping[str, Array]) -> Arrays:
        frames.update_inplace(feed["frames"])
        session.run_with_iobinding(binding)
        return {"features": features.numpy()}

    return _name_runner("ONNX Runtime CUDA", bundle, run)


def _name_runner(name: str, bundle: Bundle, run: Callable[[Mapping[str, Array]], Arrays]) -> Runner:
    encoder = bundle.manifest.stage("encoder")
    runner = FakeRunner(encoder.inputs, encoder.outputs, run)
    runner.runtime = name
    return runner
