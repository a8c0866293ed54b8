"""Tests of docs/text.md: its Python runs from a checkpoint to answers of every engine, one block after the other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from itertools import product
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from pages import Block, read_blocks
from test_server_engine import Server, completion
from tiny_text import END, save_causal

from vidrisk.runtimes.text import Vocabulary

EXPORT, GATE, ANSWERS, OPENVINO, LLAMA, SERVER = read_blocks("docs/text.md", "python")
MERGES = (("l", "e"), ("o", "o"))  # llama.cpp wants some
LAST = END + len(MERGES)  # the token that ends a text
WALLS = ("wall", "roof", "beam", "tile", "door", "pipe", "stair", "floor")
FAULTS = {"wet": "low", "old": "low", "burnt": "high", "broken": "high"}
ADVICE = {"low": "wait", "high": "close"}
RULES = "<|im_start|>system\nYou judge defects.<|im_end|>\n"
URL, SERVED = "http://gpu-box:8000/v1", "inspector-7b"  # of the page


@dataclass(frozen=True)
class Shown:
    """State after some blocks: their names, and the output of the gate's block and of the answers' block."""

    names: dict[str, Any]
    gate: str
    answers: str


def case(part: str, fault: str) -> dict[str, object]:
    level = FAULTS[fault]
    return {"question": f"{part} {fault}", "answer": {"level": level, "advice": ADVICE[level]}}


CASES = [case(part, fault) for part, fault in product(WALLS, FAULTS)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with ``merged`` (a small model that has learnt to judge), ``cases.jsonl`` and ``out``."""
    root = tmp_path_factory.mktemp("page")
    model = save_causal(root / "merged", "Llama", MERGES, max_position_embeddings=1024)
    train(model, Vocabulary(root / "merged" / "tokenizer.json", [LAST]))
    model.save_pretrained(root / "merged")
    lines = [json.dumps(each) + "\n" for each in CASES]
    (root / "cases.jsonl").write_text("".join(lines), encoding="utf-8")
    (root / "out").mkdir()
    return root


@pytest.fixture(scope="module")
def shown(folder: Path) -> Shown:
    """Run the page up to the answers of the first engine."""
    names: dict[str, Any] = {}
    said = [run_in(folder, block, names) for block in (EXPORT, GATE, ANSWERS)]
    return Shown(names, *said[1:])


def run_in(folder: Path, block: Block, names: dict[str, Any]) -> str:
    """Execute a block in a folder, and return what it prints."""
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as said:
        patch.chdir(folder)
        block.execute(names)
    return said.getvalue()


def train(model: torch.nn.Module, vocabulary: Vocabulary) -> None:
    """Train the model on the answers of all cases, and check that it has learnt them."""
    torch.manual_seed(0)
    prompts, answers = [], []
    for each in CASES:
        turn = f"{RULES}<|im_start|>user\n{each['question']}<|im_end|>\n<|im_start|>assistant\n"
        prompts.append(vocabulary.encode(turn, special=True).tolist())
        answers.append([*vocabulary.encode(json.dumps(each["answer"], separators=(",", ":"))).tolist(), LAST])
    longest = max(len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True))
    ids, wanted = torch.full((len(CASES), longest), LAST), torch.full((len(CASES), longest), -100)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        ids[row, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
        wanted[row, len(prompt) : len(prompt) + len(answer)] = torch.tensor(answer)
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    model.train()
    for _ in range(150):
        loss = model(input_ids=ids, labels=wanted).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.eval()
    assert loss < 0.05


@pytest.fixture
def server() -> Iterator[Server]:
    """Yield an OpenAI-compatible server of the page's model."""
    made = Server()
    made.reply = lambda _, body: (200, completion(json.dumps({"level": "low", "advice": body["model"]}), model="tiny"))
    thread = Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


@pytest.mark.page("docs/text.md")
@pytest.mark.slow(minutes=1)
def test_the_page_goes_from_a_checkpoint_to_answers(folder: Path, shown: Shown) -> None:
    files = {path.name for path in (folder / "out").iterdir()}
    assert files >= {"text.fp32.onnx", "text.int4.onnx", "embeddings.npy"}
    assert shown.gate == "('fp32', 'mixed')\n"
    for line in shown.answers.splitlines():
        assert '{"level":"' in line and "} schema {'low': " in line
    assert len(shown.answers.splitlines()) == 2


@pytest.mark.page("docs/text.md")
@pytest.mark.slow(minutes=1)
def test_openvino_answers(folder: Path, shown: Shown) -> None:
    assert_answered(folder, OPENVINO, shown)


@pytest.mark.page("docs/text.md")
@pytest.mark.slow(minutes=1)
def test_llama_cpp_answers(folder: Path, shown: Shown) -> None:
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: pip install 'vidrisk[gguf]'")
    assert_answered(folder, LLAMA, shown)


@pytest.mark.page("docs/text.md")
@pytest.mark.slow(minutes=1)
def test_a_server_answers(folder: Path, shown: Shown, server: Server) -> None:
    text = SERVER.text.replace(URL, server.url).replace(SERVED, "tiny")
    assert text.count(server.url) == text.count('"tiny"') == 1
    assert_answered(folder, Block(SERVER.page, SERVER.language, text), shown)
    assert len(server.asked) == 2 and all("response_format" in body for _, body, _ in server.asked)


def assert_answered(folder: Path, block: Block, shown: Shown) -> None:
    """Check that the block returns two answers that match the schema."""
    names = dict(shown.names)
    run_in(folder, block, names)
    assert len(names["answers"]) == 2
    assert all(set(json.loads(answer.text)) == {"level", "advice"} for answer in names["answers"])
