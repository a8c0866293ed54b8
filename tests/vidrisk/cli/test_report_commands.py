"""Tests of ``infer`` and ``ask`` with a bundle that writes reports.

The commands run as a user types them, in separate processes, without torch, and with a server.
"""

from __future__ import annotations

import io
import json
import os
import pty
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from colour_bundle import write_colour_bundle
from pages import read_commands
from risk_tables import draw, write_csv
from small_report_bundle import SCHEME, report_bundle, write_report_bundle

import vidrisk
from vidrisk.cli import chat as chat_module
from vidrisk.cli.chat import chat
from vidrisk.data import load_cases, split_cases
from vidrisk.data.convert_cases import convert_cases
from vidrisk.inference.ask_photos import photos_and_question
from vidrisk.inference.open_reporter import open_reporter
from vidrisk.inference.predictions import read_predictions
from vidrisk.runtimes.contract.errors import (
    EXIT_ERROR,
    EXIT_OK,
    EXIT_SOME_FAILED,
    EXIT_USAGE,
    BundleError,
    SettingsError,
)

REPOSITORY = Path(__file__).resolve().parents[3]
DEVICE = (
    "torch",
    "transformers",
    "onnx",
    "onnxscript",
    "peft",
    "accelerate",
    "pyarrow",
    "matplotlib",
    "safetensors",
    "yaml",
    "pandas",
    "sklearn",
    "decord",
    "onnxruntime_genai",
    "openvino",
)
HIDE = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {hidden!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hide())
"""


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number in range(4):
        draw(tmp_path / "photos" / f"{number}.png", number)
    return tmp_path / "photos"


def test_a_folder_and_a_table_become_reports(cli: Callable[..., Any], photos: Path, tmp_path: Path) -> None:
    (photos / "bad.jpg").write_bytes(b"\xff\xd8\xff junk")
    table = write_csv(tmp_path / "risks.csv", [{"id": "a", "image_path": "photos/1.png", "level": ""}])
    end = cli("infer", report_bundle(), photos, table, "-o", tmp_path / "out")
    assert end.code == EXIT_SOME_FAILED and end.stderr == "", end
    assert "6 inputs: 5 ok, 1 corrupt" in end.stdout and "report.html" in end.stdout
    assert (tmp_path / "out" / "report.html").is_file()
    again = cli("infer", report_bundle(), photos, "-o", tmp_path / "out", "--resume", "--json", "--no-report")
    assert json.loads(again.stdout)["states"] == {"ok": 5, "corrupt": 1}
    assert all(prediction.report for prediction in read_predictions(tmp_path / "out"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--window", "3"], "--window is not for a bundle that writes reports; fix: leave --window out"),
        (["--feature-cache"], "--feature-cache is not"),
        (["--frames", "keyframes"], "--frames is not"),
        (["--text-server", "http://127.0.0.1:9/v1"], "--text-server and --text-model go together"),
        (["--answer-tokens", "900"], "answer_tokens 900"),
        (["--runtime", "torch"], "torch cannot read"),
        (["--question", " "], "a question without words"),
        (["--question", "why? " * 300], "the question is too long"),
        (
            ["--question", "what?", "--compare", "truth.csv"],
            "--compare is not for a --question, whose answers have no level; fix",
        ),
        (["--question", "what?", "--classifier", "out"], "--classifier is not for a --question"),
    ],
)
def test_options_that_mean_nothing_are_refused(
    cli: Callable[..., Any], photos: Path, tmp_path: Path, options: list[str], said: str
) -> None:
    end = cli("infer", report_bundle(), photos, "-o", tmp_path / "out", *options)
    assert (end.code, end.stdout) == (EXIT_USAGE, "") and said in end.stderr and end.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["bench", "verify", "eval", "watch"])
def test_commands_of_labels_say_which_command_it_is(
    cli: Callable[..., Any], photos: Path, tmp_path: Path, command: str
) -> None:
    arguments = {
        "eval": (report_bundle(), photos),
        "watch": (photos, "--bundle", report_bundle(), "-o", tmp_path / "out"),
    }
    end = cli(command, *arguments.get(command, (report_bundle(),)))
    assert (
        end.code == EXIT_ERROR
        and "small.bundle writes reports" in end.stderr
        and "vidrisk infer small.bundle" in end.stderr
    )


def test_questions_are_answered(cli: Callable[..., Any], photos: Path) -> None:
    bundle = report_bundle()
    asked = ("ask", bundle, photos / "0.png", photos / "1.png", "what is it?", "--answer-tokens", "20")
    answer = json.loads(cli(*asked, "--json").stdout)
    assert (answer["photos"], answer["answer_tokens"], answer["finish"]) == (2, 20, "length") and answer[
        "prompt_tokens"
    ] > 20
    end = cli(*asked)
    assert (
        end.code == EXIT_OK
        and end.stderr == "cut off after 20 tokens; --answer-tokens allows more\n"
        and end.stdout.strip()
    )
    assert json.loads(cli("ask", bundle, "and without one?", "--answer-tokens", "5", "--json").stdout)["photos"] == 0


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["bad.jpg", "what?"], EXIT_ERROR, "bad.jpg cannot be read (corrupt)"),
        (["gone.png", "what?"], EXIT_ERROR, "gone.png cannot be"),
        (["gone.png"], EXIT_USAGE, "no question; fix: vidrisk ask"),
        ([], EXIT_USAGE, "no question"),
        ([" "], EXIT_USAGE, "without words"),
        (["why? " * 300], EXIT_USAGE, "the conversation is too long"),
        (
            ["1.png", "../photos", "what?"],
            EXIT_USAGE,
            "is a folder; allowed: photos, all of which the question is about; fix: "
            'vidrisk infer … --question "QUESTION", which is asked about each photo of a folder',
        ),
        (["."], EXIT_USAGE, "is a folder"),
        (["0.png"] * 65 + ["what?"], EXIT_USAGE, "65 photos; allowed: up to 64"),
    ],
)
def test_what_cannot_be_asked_is_one_line(
    cli: Callable[..., Any], photos: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], code: int, said: str
) -> None:
    (photos / "bad.jpg").write_bytes(b"\xff\xd8\xff junk")
    monkeypatch.chdir(photos)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    end = cli("ask", report_bundle(), *words)
    assert (end.code, end.stdout) == (code, "") and said in end.stderr and end.stderr.count("\n") == 1


def test_photos_are_told_from_the_question(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos)
    assert photos_and_question(["0.png", "1.png"]) == (["0.png", "1.png"], None)
    assert photos_and_question(["0.png", "what is 1.png"]) == (["0.png"], "what is 1.png")
    assert photos_and_question(["is it bad?"]) == ([], "is it bad?") and photos_and_question([]) == ([], None)


def test_a_conversation_goes_on_after_what_cannot_be_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = iter(["hello?", "", "why? " * 300, "and then?", "/new", "hello?", "/exit", "never"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    lengths: list[int] = []
    ask = chat_module._answer
    monkeypatch.setattr(chat_module, "_answer", lambda *arguments: noted(ask(*arguments)))

    def noted(answer: Any) -> Any:
        lengths.append(answer.prompt_tokens)
        return answer

    with open_reporter(report_bundle(), threads=1, sequences=1, answer_tokens=20) as reporter:
        chat(reporter, ())
    said = capsys.readouterr()
    assert next(lines) == "never" and lengths[1] > lengths[0] == lengths[2]
    assert len(lengths) == 3 and said.err.count("error: the conversation is too long") == 1
    assert said.out.splitlines()[0] == said.out.splitlines()[-1]  # nothing is left of what was said before


def test_a_terminal_gets_a_conversation(photos: Path, tmp_path: Path) -> None:
    """In a terminal, ``ask`` starts a conversation, which Ctrl-D ends."""
    ours, theirs = pty.openpty()
    command = [
        sys.executable,
        "-m",
        "vidrisk",
        "ask",
        str(report_bundle()),
        str(photos / "0.png"),
        "--answer-tokens",
        "5",
    ]
    with subprocess.Popen(
        command, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=on_a_device(tmp_path)
    ) as running:
        os.write(ours, b"what is it?\n\x04")
        stdout, stderr = running.communicate(timeout=60)
    os.close(ours)
    os.close(theirs)
    assert running.returncode == EXIT_OK and stdout.count(b"> ") == 2 and b"cut off after 5 tokens" in stderr


def on_a_device(folder: Path) -> dict[str, str]:
    """Return an environment in which packages that a device does not have cannot be imported."""
    (folder / "hide").mkdir(exist_ok=True)
    (folder / "hide" / "sitecustomize.py").write_text(HIDE.format(hidden=set(DEVICE)), encoding="utf-8")
    return {
        **os.environ,
        "PYTHONPATH": f"{folder / 'hide'}{os.pathsep}{REPOSITORY}",
        "VIDRISK_CACHE": str(folder / "cache"),
    }


def test_a_device_writes_reports_with_base_dependencies(photos: Path, tmp_path: Path) -> None:
    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "vidrisk", *map(os.fspath, arguments)],
            env=on_a_device(tmp_path),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    end = run("infer", report_bundle(), photos, "-o", "out", "--json")
    assert (end.returncode, end.stderr) == (EXIT_OK, "") and json.loads(end.stdout)["states"] == {"ok": 4}
    asked = run("ask", report_bundle(), photos / "0.png", "what is it?", "--answer-tokens", "5", "--json")
    assert (asked.returncode, asked.stderr) == (EXIT_OK, "") and json.loads(asked.stdout)["answer_tokens"] == 5


@pytest.mark.page("docs/reports.md")
def test_every_command_of_the_page_does_what_it_says(
    cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = [command.removeprefix("vidrisk ") for command in read_commands("docs/reports.md")]
    write_report_bundle(tmp_path / "walls.bundle")
    names = ("north", "south", "east", "west")
    for number, name in enumerate(names):
        draw(tmp_path / "photos" / f"{name}.jpg", number)
    (tmp_path / "list.txt").write_text("photos/south.jpg\n")
    table = write_csv(
        tmp_path / "risks.csv", [{"id": name, "image_path": f"photos/{name}.jpg", "level": "minor"} for name in names]
    )
    convert_cases(split_cases(load_cases(table, SCHEME)), tmp_path / "data", "risk-parquet")
    next((tmp_path / "data").glob("test.parquet")).rename(tmp_path / "test.parquet")
    monkeypatch.chdir(tmp_path)
    assert len(commands) == 6
    for command in commands:
        end = cli(*shlex.split(command))
        codes = (
            (EXIT_OK, EXIT_SOME_FAILED) if "--question" in command else (EXIT_OK,)
        )  # nobody has taught it to end an answer
        assert end.code in codes and end.stdout, f"{command}\n{end}"
    in_rows = len(load_cases(tmp_path / "test.parquet"))
    assert [len(list(read_predictions(out))) for out in ("out", "listed", "cases", "answers")] == [
        4,
        1,
        4 + in_rows,
        4,
    ] and in_rows


class Handler(BaseHTTPRequestHandler):
    """Request handler of a server with a report model.

    It answers every request with a report, except the second one.
    """

    def do_GET(self) -> None:
        self.send({"data": [{"id": "tiny"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((body, self.headers["Authorization"]))  # type: ignore[attr-defined]
        broken = len(self.server.asked) == 2  # type: ignore[attr-defined]
        text = "no JSON" if broken else '{"level":"severe","defect":"a","risk":"b","advice":"c"}'
        choice = {"message": {"content": text}, "finish_reason": "stop"}
        self.send({"model": "tiny", "choices": [choice], "usage": {"prompt_tokens": 9}})

    def send(self, content: Any) -> None:
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.asked = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


def test_a_server_answers_in_the_place_of_the_graphs(
    cli: Callable[..., Any], photos: Path, tmp_path: Path, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIDRISK_TEXT_KEY", "secret")
    options = ("--text-server", f"http://127.0.0.1:{server.server_port}/v1", "--text-model", "tiny")
    end = cli("infer", report_bundle(), photos, "-o", tmp_path / "out", *options)
    assert (
        end.code == EXIT_SOME_FAILED
        and "4 inputs: 3 ok, 1 skipped" in end.stdout
        and "secret" not in end.stdout + end.stderr
    )
    again = cli("infer", report_bundle(), photos, "-o", tmp_path / "out", *options, "--resume")
    assert again.code == EXIT_OK and "4 inputs: 4 ok" in again.stdout  # who had no answer is asked again, nobody else
    assert len(server.asked) == 5 and {key for _, key in server.asked} == {"Bearer secret"}
    content = server.asked[0][0]["messages"][1]["content"]
    assert (
        content[0]["image_url"]["url"].startswith("data:image/jpeg;base64,/9j/") and content[1]["text"] == "1 photos."
    )
    assert server.asked[0][0]["response_format"]["json_schema"]["schema"] == SCHEME.json_schema()
    predictions = list(read_predictions(tmp_path / "out"))
    assert all(
        (each.label, each.severity, each.targets, each.uncertain) == ("severe", 100, {}, None) for each in predictions
    )
    without = cli("infer", report_bundle(), photos, "-o", tmp_path / "out", "--resume")
    assert without.code == EXIT_USAGE and "are from a server" in without.stderr
    asked = cli("ask", report_bundle(), photos / "0.png", "what is it?", *options)
    assert asked.code == EXIT_OK and '"severe"' in asked.stdout
    begin = len(server.asked)
    end = cli("infer", report_bundle(), photos, "-o", tmp_path / "answers", *options, "--question", "what is it?")
    assert end.code == EXIT_OK and "4 inputs: 4 ok; 4 answers" in end.stdout and len(server.asked) == begin + 4
    for body, _ in server.asked[begin:]:
        (message,) = body["messages"]  # the bundle has no text in front of questions
        assert [part["type"] for part in message["content"]] == ["image_url", "text"] and "response_format" not in body
        assert message["content"][1]["text"] == "what is it?"
    assert {each.report["text"][:9] for each in read_predictions(tmp_path / "answers") if each.report} == {'{"level":'}


def test_python_does_what_the_command_does(photos: Path, tmp_path: Path) -> None:
    summary = vidrisk.infer(report_bundle(), photos, tmp_path / "out", workers=1)
    assert summary.states == {"ok": 4} and (tmp_path / "out" / "report.html").is_file()
    assert vidrisk.infer(report_bundle(), photos, tmp_path / "out", resume=True, report=False).files_per_s == 0
    summary = vidrisk.infer(report_bundle(), photos, tmp_path / "answers", question="what is it?")
    assert sum(summary.states.values()) == summary.predictions == 4 and summary.question == "what is it?"
    with pytest.raises(SettingsError, match="'window_s' for a bundle that writes reports; allowed: workers"):
        vidrisk.infer(report_bundle(), photos, tmp_path / "other", window_s=2.0)
    with pytest.raises(BundleError, match="writes reports"):
        vidrisk.load(report_bundle())


def test_a_bundle_without_a_scheme_answers_questions_alone(
    cli: Callable[..., Any], photos: Path, tmp_path: Path
) -> None:
    bundle = write_report_bundle(tmp_path / "talks.bundle", scheme=None)
    end = cli("infer", bundle, photos, "-o", tmp_path / "out")
    assert end.code == EXIT_USAGE and "has no scheme of reports" in end.stderr and not (tmp_path / "out").exists()
    assert (
        'fix: vidrisk infer … --question "QUESTION", which is asked about each photo separately, or vidrisk ask talks.bundle'
        in end.stderr
    )
    end = cli("infer", bundle, photos, "-o", tmp_path / "out", "--question", "what?", "--answer-tokens", "5", "--json")
    told = json.loads(end.stdout)
    assert end.code in (EXIT_OK, EXIT_SOME_FAILED) and (told["predictions"], told["settings"]["question"]) == (
        4,
        "what?",
    )
    assert (tmp_path / "out" / "report.html").is_file()
    assert cli("ask", bundle, photos / "0.png", "what?", "--answer-tokens", "5").code == EXIT_OK


def test_a_question_is_not_for_a_bundle_of_labels(cli: Callable[..., Any], photos: Path, tmp_path: Path) -> None:
    bundle = write_colour_bundle(tmp_path / "colours.bundle").root
    end = cli("infer", bundle, photos, "-o", tmp_path / "out", "--question", "what?")
    assert (end.code, end.stdout) == (EXIT_USAGE, "") and not (tmp_path / "out").exists()
    assert end.stderr == "error: --question is for bundles that write reports; fix: leave --question out\n"
