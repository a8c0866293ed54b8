"""ONNX Runtime GenAI's model builder (MIT), run in a separate process.

It prints, and imports modules with common names.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from vidrisk.runtimes.contract.errors import MissingExtra, RuntimeFailure, SettingsError, is_installed

PACKAGE = "onnxruntime_genai"
# Those that the builder supports, and whose graph equals torch's; those of Gemma, OLMo and Phi-3 did not (0.18,
# transformers 5.24).
ARCHITECTURES = (
    "Ernie4_5ForCausalLM",
    "GraniteForCausalLM",
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "SmolLM3ForCausalLM",
)
MOST_SECONDS = 3 * 3600
MOST_CONFIG_BYTES = 2**20


def read_config(folder: Path) -> dict[str, Any]:
    """Read ``config.json`` of a model, and reject one that cannot be built.

    Raises:
        SettingsError: no such file, an unsupported architecture, sliding windows, or weights that are already
            quantised.
    """
    path = folder / "config.json"
    try:
        if path.stat().st_size > MOST_CONFIG_BYTES:
            raise ValueError(f"it has {path.stat().st_size} bytes")
        config = json.loads(path.read_text(encoding="utf-8"))
        architecture = config["architectures"][0]
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise SettingsError(
            f"{path} does not describe a model: {error}", allowed="a folder written by save_pretrained"
        ) from error
    if architecture not in ARCHITECTURES:
        raise SettingsError(f"no text graph can be built from {architecture}", allowed=", ".join(ARCHITECTURES))
    window = config.get("sliding_window") if config.get("use_sliding_window", True) else None
    if window and window < config.get("max_position_embeddings", 0):
        raise SettingsError(
            f"{folder.name} attends to {window} tokens at a time",
            allowed="models without a sliding window",
            fix=f"lower max_position_embeddings to {window} in config.json; texts up to that length are unaffected",
        )
    if config.get("quantization_config"):
        raise SettingsError(
            f"the weights in {folder.name} are quantised",
            allowed="float32, bfloat16 or float16",
            fix="merge and save the model in bfloat16",
        )
    found: dict[str, Any] = config
    return found


def build_graph(folder: Path, out: Path) -> Path:
    """Build the float32 graph of a model, without embeddings.

    Args:
        folder: merged model, already checked by ``read_config``.
        out: folder for the builder's output.

    Returns:
        The graph's file; its weights lie beside it.

    Raises:
        MissingExtra: the builder is not installed.
        RuntimeFailure: it fails.
    """
    if not is_installed(PACKAGE):
        raise MissingExtra("onnxruntime-genai", "text-export")
    source, target = folder.absolute(), out.absolute()
    command = [
        sys.executable,
        "-m",
        f"{PACKAGE}.models.builder",
        "-i",
        str(source),
        "-o",
        str(target),
        "-p",
        "fp32",
        "-e",
        "cpu",
        "-c",
        str(target / "cache"),
        "--extra_options",
        "exclude_embeds=true",
        "hf_token=false",
    ]
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    try:
        end = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            errors="replace",
            timeout=MOST_SECONDS,
            env={**os.environ, **offline},
            cwd=out,
        )
    except subprocess.TimeoutExpired as error:
        raise RuntimeFailure(
            f"the builder of text graphs took more than {MOST_SECONDS} s with {folder.name}"
        ) from error
    if end.returncode != 0:
        said = next((line for line in reversed(end.stderr.splitlines()) if line.strip()), f"exit code {end.returncode}")
        raise RuntimeFailure(f"the builder of text graphs failed for {folder.name}: {said}")
    return out / "model.onnx"
