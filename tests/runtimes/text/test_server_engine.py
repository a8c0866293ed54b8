"""Tests of the engine for OpenAI-compatible servers, with a small server in this process.

The server imitates the faults of such servers.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from vidrisk.runtimes.contract.errors import RuntimeFailure, SettingsError
from vidrisk.runtimes.text import http_json
from vidrisk.runtimes.text.http_json import JsonServer
from vidrisk.runtimes.text.requests import Chat, Request
from vidrisk.runtimes.text.server_engine import KEY_VARIABLE, ServerEngine

SCHEMA = {
    "type": "object",
    "properties": {"level": {"enum": ["low"]}},
    "required": ["level"],
    "additionalProperties": False,
}
Reply = Callable[[BaseHTTPRequestHandler, dict[str, Any]], tuple[int, Any]]


class Server(ThreadingHTTPServer):
    """Small OpenAI-compatible server with configurable replies.

    Attributes:
        reply: function that returns the status and the content for a request body.
        asked: time, body and headers of each request received.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply: Reply = lambda _, body: (200, completion(body["messages"][-1]["content"]))
        self.asked: list[tuple[float, dict[str, Any], Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.send(200, {"data": [{"id": "tiny"}, {"id": "other"}]} if self.path == "/v1/models" else {})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((time.monotonic(), body, dict(self.headers)))
        self.send(*self.server.reply(self, body))

    def send(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


def completion(text: Any, reason: str = "stop", model: str = "tiny") -> dict[str, Any]:
    return {
        "model": model,
        "choices": [{"message": {"content": text}, "finish_reason": reason}],
        "usage": {"prompt_tokens": 7},
    }


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


def engine_of(server: Server, *, attempts: int = 3, timeout_s: float = 5.0) -> ServerEngine:
    return ServerEngine(
        "", "tiny", parallel=4, server=JsonServer(server.url, None, timeout_s, attempts, first_wait_s=0.01)
    )


def asked(text: str, **settings: Any) -> Request:
    return Request(Chat(({"role": "user", "content": text},)), **settings)


def test_answers_come_in_order_and_several_at_a_time(server: Server) -> None:
    at_once = threading.Barrier(4)

    def reply(_: Any, body: dict[str, Any]) -> tuple[int, Any]:
        text = body["messages"][-1]["content"]
        at_once.wait(timeout=10)  # passes only if four are here together
        time.sleep(0.02 * (7 - int(text)))
        return 200, completion(text)

    server.reply = reply
    pieces: list[tuple[int, str]] = []
    answers = list(
        engine_of(server).answers((asked(str(number)) for number in range(8)), lambda *piece: pieces.append(piece))
    )
    assert [answer.text for answer in answers] == [text for _, text in pieces] == list("01234567")
    assert {answer.finish for answer in answers} == {"stop"} and answers[0].prompt_tokens == 7


ASKS = """
import signal, sys
from vidrisk.runtimes.text.requests import Chat, Request
from vidrisk.runtimes.text.server_engine import ServerEngine
signal.signal(signal.SIGINT, signal.default_int_handler)
list(ServerEngine(sys.argv[1], "tiny").answers([Request(Chat(({"role": "user", "content": "a"},)))] * 20))
"""


def test_an_interrupt_ends_the_process_while_a_server_is_silent(server: Server) -> None:
    is_over = threading.Event()
    server.reply = lambda *_: (200, completion(str(is_over.wait(60))))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", ASKS, server.url], env=environment, stderr=subprocess.PIPE) as asking:
        try:
            while len(server.asked) < 8:
                assert asking.poll() is None
                time.sleep(0.01)
            asking.send_signal(signal.SIGINT)
            assert asking.wait(timeout=10) == -signal.SIGINT
        finally:
            asking.kill()
            is_over.set()


def test_a_request_says_all_that_was_asked(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "s3cret")
    server.reply = lambda *_: (200, completion('{"level":"low"}'))
    engine = ServerEngine(server.url, "tiny")
    request = asked("a", schema=SCHEMA, limit=9, temperature=0.5, top_k=3, top_p=0.9, seed=5, banned=(8,))
    assert engine.answer(request).finish == "schema"
    engine.answer(asked("b", stop=("x",)))
    (_, first, headers), (_, second, _) = server.asked
    assert (first["max_tokens"], first["temperature"], first["top_k"], first["top_p"], first["seed"]) == (
        9,
        0.5,
        3,
        0.9,
        5,
    )
    assert first["response_format"]["json_schema"]["schema"] == SCHEMA and first["logit_bias"] == {"8": -100}
    assert second["stop"] == ["x"] and "response_format" not in second
    assert headers["Authorization"] == "Bearer s3cret" and "s3cret" not in repr(engine._server)


def test_a_busy_server_is_asked_again_when_it_says(server: Server) -> None:
    def reply(handler: Any, _: dict[str, Any]) -> tuple[Any, ...]:
        answers = (429, {"error": {"message": "slowly"}}, {"Retry-After": "1"}), (503, b""), (200, completion("a"))
        return answers[len(server.asked) - 1]

    server.reply = reply  # type: ignore[assignment]
    assert engine_of(server).answer(asked("a")).text == "a"
    times = [when for when, _, _ in server.asked]
    assert len(times) == 3 and times[1] - times[0] >= 0.95 and times[2] - times[1] < 0.9


@pytest.mark.parametrize(
    ("reply", "said", "tries"),
    [
        ((503, {"error": "overloaded"}), "did not answer in 3 tries: HTTP 503: overloaded", 3),
        ((400, {"error": {"message": "no such template"}}), "refuses: HTTP 400: no such template", 1),
        ((401, b"<html>"), "refuses: HTTP 401: <html>", 1),
        ((302, b""), "HTTP 302", 1),
        ((200, b"<html>hello</html>"), "which is not JSON", 1),
        ((200, b"[" * 100_000), "which is not JSON", 1),
        ((200, {"choices": []}), "lacks something", 1),
        ((200, completion(None)), "lacks something", 1),
        ((200, completion("a", model="large")), "the answer is from model 'large'; allowed: tiny", 1),
        ((200, completion("a", reason="tool_calls")), "ended an answer with finish_reason 'tool_calls'", 1),
        ((200, b" " * 3000), "more than 2000 bytes", 1),
    ],
)
def test_an_answer_that_is_none_fails_in_one_line(
    server: Server, monkeypatch: pytest.MonkeyPatch, reply: tuple[int, Any], said: str, tries: int
) -> None:
    monkeypatch.setattr(http_json, "MOST_BYTES", 2000 if said.startswith("more") else 2**24)
    server.reply = lambda *_: reply
    answer = engine_of(server).answer(asked("a"))
    assert answer.finish == "failed" and said in answer.error and "\n" not in answer.error and len(answer.error) < 400
    assert len(server.asked) == tries


def test_a_server_that_knows_no_schema_fails_and_one_that_cuts_off_says_so(server: Server) -> None:
    server.reply = lambda *_: (200, completion("The level is low."))
    answer = engine_of(server).answer(asked("a", schema=SCHEMA))
    assert answer.finish == "failed" and "not JSON, although the request has a schema" in answer.error
    server.reply = lambda *_: (200, completion('{"lev', reason="length"))
    answer = engine_of(server).answer(asked("a", schema=SCHEMA))
    assert (answer.finish, answer.text, answer.is_whole) == ("length", '{"lev', False)


def test_a_server_that_stalls_or_hangs_up_fails_one_answer(server: Server) -> None:
    def reply(handler: Any, body: dict[str, Any]) -> tuple[int, Any]:
        text = body["messages"][-1]["content"]
        if text == "stall":
            time.sleep(1)
        if text == "hang up":
            handler.connection.shutdown(socket.SHUT_RDWR)
        return 200, completion(text)

    server.reply = reply
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # what it cannot send any more
    stalled, good, gone = engine_of(server, attempts=2, timeout_s=0.3).answers(map(asked, ("stall", "good", "hang up")))
    assert (stalled.finish, good.finish, gone.finish) == ("failed", "stop", "failed")
    assert "no data for 0.3 s" in stalled.error and "did not answer in 2 tries" in gone.error


def test_a_server_without_the_model_or_without_a_server_is_refused(server: Server) -> None:
    with pytest.raises(RuntimeFailure, match="no model 'huge'; allowed: tiny, other"):
        ServerEngine(server.url, "huge")
    with pytest.raises(RuntimeFailure, match="does not list models"):
        ServerEngine(f"{server.url}/elsewhere", "tiny")
    server_url = "http://127.0.0.1:9"  # discard: nobody listens
    with pytest.raises(RuntimeFailure, match="did not answer in 2 tries"):
        ServerEngine("", "tiny", server=JsonServer(server_url, attempts=2, first_wait_s=0.01))


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ftp://a",
        "http://",
        "http://a:b/",
        "http://me:word@host/v1",
        "file:///etc/passwd",
        "http://a/?b",
        "http://[::1/v1",
        "http://a..b/v1",
        f"http://{'a' * 64}.de/v1",
    ],
)
def test_urls_that_are_none_are_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="allowed: http://host:port/v1") as caught:
        JsonServer(url)
    assert "word" not in str(caught.value).replace("password", "")


@pytest.mark.parametrize("key", ["secret\n", "schlüssel", "a\0b"])
def test_a_key_that_no_header_takes_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(SettingsError, match="the server key") as caught:
        JsonServer("http://a/v1", key)
    assert key not in str(caught.value) and "secret" not in str(caught.value)


def test_an_answer_that_breaks_off_is_asked_for_again(server: Server) -> None:
    whole = json.dumps(completion("whole")).encode()

    def reply(handler: Handler, body: dict[str, Any]) -> tuple[int, Any]:
        if len(server.asked) == 1:
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(whole)))
            handler.end_headers()
            handler.wfile.write(whole[:30])
            handler.connection.shutdown(socket.SHUT_RDWR)
        return 200, whole

    server.reply = reply
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # what it cannot send any more
    (answer,) = engine_of(server).answers([asked("anything")])
    assert (answer.text, answer.finish, len(server.asked)) == ("whole", "stop", 2)
