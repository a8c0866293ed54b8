"""Process a folder of JPEG files to reports by a schema: decoding, a vision stage and text, eight reports at a time.

The vision stage is EfficientNet-Lite0 with an untrained projector: the reports are meaningless but take as long as real
ones. llama.cpp accepts no visual tokens, and gets the same number of token ids instead.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from text_lanes import OPENVINO, OWN, THREADS, TOKENIZER, TOKENS, Own, gguf_of

from vidrisk.runtimes.text.engine import TextEngine
from vidrisk.runtimes.text.llama_engine import LlamaEngine
from vidrisk.runtimes.text.requests import Comparison, Prompt, Request
from vidrisk.runtimes.text.vocabulary import Vocabulary

ENGINES = (OWN[2], OPENVINO[1], "llama.cpp Q8_0")
SIDE, TURNS = 224, 4
RULES = (
    "You judge photos of building defects. "
    + "State the level of risk, the kind of defect, and what should be done. " * 7
)
FIELDS: dict[str, Any] = {
    "level": {"enum": ["low", "medium", "high"]},
    "defect": {"enum": ["crack", "leak", "spalling", "none"]},
    "advice": {"type": "string", "maxLength": 120},
}
SCHEMA = {"type": "object", "properties": FIELDS, "required": list(FIELDS), "additionalProperties": False}


def write_photos(work: Path, count: int) -> list[Path]:
    """Write JPEG files of 1280 x 960 with smooth noise."""
    folder = work / "photos"
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{number:03}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        if not path.is_file():
            noise = np.random.default_rng(number).integers(0, 256, (30, 40, 3), np.uint8)
            Image.fromarray(noise).resize((1280, 960), Image.Resampling.BICUBIC).save(path, quality=90)
    return paths


def write_vision_stage(work: Path) -> Path:
    """Write the graph of the vision stage, with 49 tokens per photo."""
    path = work / "vision.onnx"
    if not path.is_file():
        import torch

        from vidrisk.export.convert.graphs import export_onnx
        from vidrisk.models.encoders import build_encoder
        from vidrisk.models.vlm.composed import GridVision, Projector, VisionStage
        from vidrisk.runtimes.contract.specs import TensorSpec

        torch.manual_seed(0)
        vision = GridVision(build_encoder("efficientnet-lite0", pixel={"height": SIDE, "width": SIDE}), None)
        frames = torch.zeros((2, SIDE, SIDE, 3), dtype=torch.uint8)
        export_onnx(
            VisionStage(vision, Projector(vision.features, 576)),
            (frames,),
            (TensorSpec("frames", "uint8", ("batch", SIDE, SIDE, 3)),),
            (TensorSpec("visual", "float32", ("batch", vision.height * vision.width, 576)),),
            path,
        )
    return path


def folder_times(work: Path, engines: list[str], count: int) -> dict[str, dict[str, float]]:
    """Measure seconds per photo of every engine in turns, tokens per answer, and the share of complete answers."""
    import onnxruntime

    paths, options = write_photos(work, count), onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    vision = onnxruntime.InferenceSession(str(write_vision_stage(work)), options, providers=["CPUExecutionProvider"])
    opened = {name: _open_engine(work, name) for name in ENGINES if name in engines}
    found = {name: dict.fromkeys(("decode_s", "vision_s", "text_s", "tokens", "whole"), 0.0) for name in opened}
    for turn in range(TURNS):
        for name, engine in opened.items():
            for key, value in _turn(vision, engine, paths[turn::TURNS]).items():
                found[name][key] += value / count
    for engine in opened.values():
        engine.close()
    return found


def _open_engine(work: Path, name: str) -> TextEngine:
    if name in (*OWN, *OPENVINO):
        return Own(work, name, 8).engine
    vocabulary = Vocabulary(work / TOKENIZER, [2])
    return LlamaEngine(gguf_of(work, name.split()[1]), vocabulary, sequences=8, tokens=TOKENS, threads=THREADS)


def _turn(vision: Any, engine: Any, paths: list[Path]) -> dict[str, float]:
    vocabulary, is_llama = engine.vocabulary, isinstance(engine, LlamaEngine)
    rules, asked = (
        vocabulary.encode(text, special=True)
        for text in (
            f"<|im_start|>system\n{RULES}<|im_end|>\n<|im_start|>user\n",
            "\nWhat is the risk?<|im_end|>\n<|im_start|>assistant\n",
        )
    )
    begin = time.perf_counter()
    frames = np.stack([_read(path) for path in paths])
    decoded = time.perf_counter()
    visual = np.concatenate(
        [vision.run(None, {"frames": frames[start : start + 8]})[0] for start in range(0, len(frames), 8)]
    )
    seen = time.perf_counter()
    parts = [np.random.default_rng(number).integers(100, 40_000, visual.shape[1]) for number in range(len(visual))]
    requests = [
        Request(
            Prompt((rules, part if is_llama else tokens, asked), constant=1),
            limit=96,
            schema=SCHEMA,
            comparison=Comparison('"level":"', tuple(FIELDS["level"]["enum"]), until='","'),
        )
        for tokens, part in zip(visual, parts, strict=True)
    ]
    answers = list(engine.answers(requests))
    end = time.perf_counter()
    return {
        "decode_s": decoded - begin,
        "vision_s": seen - decoded,
        "text_s": end - seen,
        "tokens": sum(len(answer.tokens) for answer in answers),
        "whole": sum(answer.is_whole for answer in answers),
    }


def _read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        image.draft("RGB", (2 * SIDE, 2 * SIDE))
        return np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC))
