"""Fixtures with a tiny text model on disk, and engines that run it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from tiny_text import CONFIG, END, VOCABULARY, WIDTH, builders_graph, write_tokenizer

from vidrisk.calibration.files import save_graph
from vidrisk.export.text.fused import select_logits
from vidrisk.export.text.plain_text import export_plain
from vidrisk.runtimes.text.graph_engine import GraphEngine
from vidrisk.runtimes.text.session import TextRuntime, TextSession
from vidrisk.runtimes.text.vocabulary import Vocabulary

MakeEngine = Callable[..., GraphEngine]


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with ``text.onnx``, ``plain.onnx``, ``embeddings.npy`` and ``tokenizer.json``."""
    folder = tmp_path_factory.mktemp("text")
    save_graph(select_logits(builders_graph(), CONFIG), folder / "text.onnx")
    export_plain(folder / "text.onnx", folder / "plain.onnx")
    np.save(folder / "embeddings.npy", np.random.default_rng(1).normal(0, 1, (VOCABULARY, WIDTH)).astype(np.float32))
    write_tokenizer(folder / "tokenizer.json")
    return folder


@pytest.fixture
def make_session(text_folder: Path) -> Iterator[Callable[..., TextSession]]:
    opened: list[TextSession] = []

    def make(*, sequences: int = 4, tokens: int = 192, runtime: TextRuntime = "onnxruntime") -> TextSession:
        graph = text_folder / ("text.onnx" if runtime == "onnxruntime" else "plain.onnx")
        opened.append(
            TextSession(
                graph, text_folder / "embeddings.npy", sequences=sequences, tokens=tokens, threads=1, runtime=runtime
            )
        )
        return opened[-1]

    yield make
    for session in opened:
        session.close()


@pytest.fixture
def vocabulary(text_folder: Path) -> Vocabulary:
    return Vocabulary(text_folder / "tokenizer.json", [END])


@pytest.fixture
def make_engine(make_session: Callable[..., TextSession], vocabulary: Vocabulary) -> MakeEngine:
    return lambda **sizes: GraphEngine(make_session(**sizes), vocabulary)
