"""Text generation by a language model: ordered answers to requests, with interchangeable engines and without torch.

Read in this order:

    requests.py      requests and answers, common to all engines
    turns.py         conversion of conversation turns to parts of a prompt
    engine.py        the common interface to engines, and a fake engine
    session.py       a text graph with a KV cache of several sequences
    text_shape.py    sizes of a text graph
    fused_graph.py   the graph on ONNX Runtime, which updates the cache in place
    plain_graph.py   the graph on OpenVINO
    graph_engine.py  the engine on such a session: continuous batching of sequences
    sequence.py      generation state of one request
    sampling.py      choosing a token from logits
    stream.py        incremental decoding of tokens, up to a stop string
    vocabulary.py    a tokenizer
    schema.py        JSON schemas: check that they bound an answer, and constrain tokens
    prefixes.py      cache of the keys and values of common prompt prefixes
    alternatives.py  log-probabilities of a few alternative words at one place
    server_engine.py the engine on an OpenAI-compatible server
    http_json.py     JSON over HTTP, with timeouts and retries
    llama_engine.py  the engine on llama.cpp
    llama_answer.py  one answer of llama.cpp
    gguf_header.py   header of a GGUF file
"""

from vidrisk.runtimes.text.engine import FakeTextEngine, TextEngine
from vidrisk.runtimes.text.graph_engine import GraphEngine
from vidrisk.runtimes.text.llama_engine import LlamaEngine
from vidrisk.runtimes.text.prefixes import Prefixes
from vidrisk.runtimes.text.requests import Answer, Chat, Comparison, Prompt, Request
from vidrisk.runtimes.text.server_engine import ServerEngine
from vidrisk.runtimes.text.session import TextSession
from vidrisk.runtimes.text.vocabulary import Vocabulary

__all__ = [
    "Answer",
    "Chat",
    "Comparison",
    "FakeTextEngine",
    "GraphEngine",
    "LlamaEngine",
    "Prefixes",
    "Prompt",
    "Request",
    "ServerEngine",
    "TextEngine",
    "TextSession",
    "Vocabulary",
]
