"""Send questions about photos to an OpenAI-compatible server on the GPU, with a model of Qwen2.5-VL-3B's dimensions.

The weights are random, in bfloat16, and therefore the answers are meaningless. Requests are those of ``vidrisk infer
--text-server``: JPEGs, chat completions, several requests at a time. A trial uses a small LLaVA, because Qwen's
processor needs torchvision, which vLLM installs.
"""

from __future__ import annotations

import base64
import io
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from gpu_place import Part, Place, say

TESTS = Path(__file__).resolve().parent.parent / "tests"
PARALLEL = (1, 8, 32)
PHOTOS, ANSWER_TOKENS, SIDE_PX = 64, 64, 448
START_S = 300.0  # for billions of weights
LAST_LINES = 3  # of a server that does not start
TOKENS = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
NONE = "no server is installed: neither vLLM, nor FastAPI, uvicorn, openai and torchvision"
TRANSFORMERS = "from transformers.cli.transformers import main; main()"


def server(place: Place) -> Iterator[Part]:
    """Measure photos per second, by server and by number of concurrent requests.

    Raises:
        RuntimeError: a server is installed, but none answers.
    """
    told: Part = {
        "photos": _photos(place),
        "answer_tokens": ANSWER_TOKENS,
        "servers": {},
        "missing": {},
        "headline": NONE,
    }
    if not (commands := _commands(place)):
        yield told
        return
    folder = _make_checkpoint(place)
    for name, command in commands.items():
        try:
            for parallel, row in _time_requests([*command, str(folder)], folder, place):
                told["servers"].setdefault(name, {})[str(parallel)] = row
                told["headline"] = "; ".join(
                    f"{each}, {at_once} at a time: {found['photos_per_s']:.3g} photos/s"
                    for each, rows in told["servers"].items()
                    for at_once, found in rows.items()
                )
                say(told["headline"])
                yield told
        except RuntimeError as error:
            told["missing"][name] = str(error)
    if not told["servers"]:
        raise RuntimeError(f"no server answers: {told['missing']}")
    yield told


def _photos(place: Place) -> int:
    return 4 if place.trial else PHOTOS


def _make_checkpoint(place: Place) -> Path:
    """Create a Hugging Face folder with weights and processor, as ``vidrisk export --merged`` does."""
    folder = place.work / ("llava-served" if place.trial else "qwen-served")
    if not folder.is_dir():
        half_made = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(half_made, ignore_errors=True)
        half_made.mkdir(parents=True)
        sys.path.insert(0, str(TESTS / "vidrisk" / "models"))
        _write_checkpoint(half_made, place)
        half_made.rename(folder)
    return folder


def _write_checkpoint(folder: Path, place: Place) -> None:
    from vlms import save_llava_hf, save_qwen

    if place.trial:
        save_llava_hf(folder)
        return
    import torch
    import transformers
    from gpu_vlm_graphs import free_memory
    from qwen_3b import TEXT, VISION, draw_weights
    from transformers.initialization import no_init_weights

    save_qwen(folder, "qwen2_5_vl")  # tokenizer and processor; the weights are written over
    small = transformers.AutoConfig.from_pretrained(folder)
    ids = {name: getattr(small, name) for name in TOKENS}
    text = {**TEXT, "eos_token_id": small.text_config.eos_token_id, "pad_token_id": small.text_config.pad_token_id}
    config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=VISION, tie_word_embeddings=True, **ids)
    with no_init_weights(), torch.device(place.device):
        model = transformers.Qwen2_5_VLForConditionalGeneration._from_config(config, dtype=torch.bfloat16)
    model.tie_weights()
    draw_weights(model)
    model.save_pretrained(folder)
    del model
    free_memory()  # the server wants the card


def _commands(place: Place) -> dict[str, list[str]]:
    """Return the command of each installed server, without its model and port."""
    from vidrisk.runtimes.contract.errors import is_installed

    found = {}
    if is_installed("vllm") and not place.trial:
        found["vllm"] = [
            sys.executable,
            "-m",
            "vllm.entrypoints.openai.api_server",
            "--max-model-len",
            "4096",
            "--model",
        ]
    needed = ("fastapi", "uvicorn", "openai", *(() if place.trial else ("torchvision",)))  # for Qwen's processor
    if all(map(is_installed, needed)):
        found["transformers"] = [sys.executable, "-c", TRANSFORMERS, "serve"]
    return found


def _time_requests(command: Sequence[str], folder: Path, place: Place) -> Iterator[tuple[int, dict[str, float]]]:
    from vidrisk.runtimes.text import Chat, Request, ServerEngine

    photos = iter(_jpegs())  # no photo is shown twice: a server keeps what it has seen

    def requests(count: int, limit: int) -> list[Request]:
        question = {"type": "text", "text": "What is wrong with the wall?"}
        shown = [{"type": "image_url", "image_url": {"url": next(photos)}} for _ in range(count)]
        return [Request(Chat(({"role": "user", "content": [photo, question]},)), limit=limit) for photo in shown]

    with run_server(command, place.work / "server.log") as url:
        for parallel in PARALLEL:
            with ServerEngine(url, str(folder), parallel=parallel) as engine:
                list(engine.answers(requests(2, limit=2)))
                asked = requests(_photos(place), limit=ANSWER_TOKENS)
                begin = time.perf_counter()
                answers = list(engine.answers(asked))
                seconds = time.perf_counter() - begin
            if failed := [answer.error for answer in answers if answer.finish == "failed"]:
                raise RuntimeError(f"{len(failed)} of {len(answers)} answers failed: {failed[0]}")
            yield parallel, {"photos_per_s": len(answers) / seconds, "seconds": seconds}


def _jpegs() -> Iterator[str]:
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    while True:
        file = io.BytesIO()
        clouds = Image.fromarray(random.integers(0, 255, (12, 12, 3), np.uint8))
        clouds.resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        yield f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


@contextmanager
def run_server(command: Sequence[str], log: Path) -> Iterator[str]:
    """Start a server on a free port, yield its URL when it lists its model, and stop it at the end.

    Raises:
        RuntimeError: the server exits, or does not start in time.
    """
    from vidrisk.runtimes.contract.errors import VidriskError
    from vidrisk.runtimes.text.http_json import JsonServer

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/v1"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )
    try:
        end = time.monotonic() + START_S
        while True:
            try:
                JsonServer(url, None, 5.0, 1).ask("models")
                break
            except VidriskError:
                if process.poll() is not None or time.monotonic() > end:
                    lines = [
                        line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()
                    ]
                    raise RuntimeError(f"the server does not start: {' | '.join(lines[-LAST_LINES:])}") from None
                time.sleep(0.5)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
