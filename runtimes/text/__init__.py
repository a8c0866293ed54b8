"""Text by a language model: requests in, answers out, in their order, whatever engine writes them. numpy, no torch.

Read in this order:

    requests.py      what is asked and what is answered, for every engine
    turns.py         from turns of a conversation to the parts of a prompt
    engine.py        the one seam to engines, and its fake
    session.py       a text graph with its KV cache, several sequences side by side
    text_shape.py    sizes of a text graph
    fused_graph.py   the graph on ONNX Runtime, which writes the cache in place
    plain_graph.py   the graph on OpenVINO
    graph_engine.py  the engine over such a session: sequences enter and leave a batch
    sequence.py      one request on its way to an answer
    sampling.py      from logits to a token
    stream.py        from tokens to text, piece by piece, up to a stop string
    vocabulary.py    a tokenizer
    schema.py        JSON by a schema: which schemas bound an answer, and which tokens they allow
    prefixes.py      keys and values of the beginnings that prompts share
    alternatives.py  how likely a model finds each of a few words at one place
    server_engine.py the engine behind an OpenAI-compatible server
    http_json.py     JSON over HTTP, with time limits and further tries
    llama_engine.py  the engine over llama.cpp
    llama_answer.py  one answer of llama.cpp
    gguf_header.py   what a GGUF file says of itself
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
