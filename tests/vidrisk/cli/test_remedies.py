"""Tests of error texts: the library names arguments, the command line names the flags that set them."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from colour_bundle import write_colour_bundle
from small_media import write_photo

import vidrisk
from vidrisk.cli.remedies import FLAGS, FLAGS_FIRST, line_from_error
from vidrisk.deploy.deployment import write_deployment
from vidrisk.inference.model import open_classifier
from vidrisk.jobs.run_settings import InferSettings
from vidrisk.runtimes.contract.errors import SettingsError, UnreadableError
from vidrisk.watch import WatchSettings, watch_inbox

PACKAGE = Path(vidrisk.__file__).parent
REPOSITORY = PACKAGE.parent
ROOMS = ("runtimes", "calibration", "export", "vidrisk")
FOLDERS = (
    *ROOMS[:3],
    *(f"vidrisk/{folder}" for folder in ("data", "models", "train", "jobs", "inference", "report", "watch", "deploy")),
)
FLAG = re.compile(r"(?<!\w)--[a-z]")


def texts_of_errors(path: Path) -> Iterator[str]:
    """Yield the strings from which a module's errors are built."""
    for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in dir(vidrisk.errors):
            yield from (
                node.value for node in ast.walk(call) if isinstance(node, ast.Constant) and isinstance(node.value, str)
            )


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_error_of_the_library_names_a_flag(folder: str) -> None:
    found = {
        f"{path.name}: {text}"
        for path in (REPOSITORY / folder).rglob("*.py")
        for text in texts_of_errors(path)
        if FLAG.search(text) and not text.startswith(("pip install", "vidrisk "))
    }
    assert not found


def test_every_translation_is_of_words_that_the_library_says() -> None:
    paths = [path for room in ROOMS for path in (REPOSITORY / room).rglob("*.py") if path.name != "remedies.py"]
    source = " ".join(re.sub(r'"\s*\n\s*f?"', "", path.read_text(encoding="utf-8")) for path in paths)
    assert [words for words in (*FLAGS, *FLAGS_FIRST) if words not in source] == []


def test_names_of_files_stay_as_they_are() -> None:
    error = UnreadableError(
        "/data/python=3.png cannot be read", state="skipped", fix="choose another folder for move_done"
    )
    assert line_from_error(error) == "/data/python=3.png cannot be read; fix: choose another folder for --move-done"


def test_every_flag_exists() -> None:
    offered = "".join(path.read_text(encoding="utf-8") for path in (PACKAGE / "cli").glob("*.py"))
    by_name = {f"--{name.replace('_', '-')}" for name in re.findall(r"^    (\w+): ", offered, re.MULTILINE)}
    by_name |= set(re.findall(r'"(--[\w-]+)"', offered))
    assert set(re.findall(r"--[a-z][\w-]+", " ".join(FLAGS.values()))) <= by_name


Call = Callable[[Path, Path], Any]
CASES: dict[str, tuple[Call, list[str], str, str]] = {
    "stride": (
        lambda bundle, media: InferSettings(stride_s=9.0, window_s=1.0).for_reading(open_classifier(bundle)),
        ["infer", "BUNDLE", "MEDIA", "-o", "out", "--window", "1", "--stride", "9"],
        "change the window or the stride",
        "change --window or --stride",
    ),
    "resume": (
        lambda bundle, media: vidrisk.infer(bundle, media, media.parent / "done", report=False),
        ["infer", "BUNDLE", "MEDIA", "-o", "done"],
        "fix: resume=True continues it",
        "fix: --resume continues it",
    ),
    "move_done": (
        lambda bundle, media: watch_inbox(
            open_classifier(bundle), media, media.parent / "out", WatchSettings(move_done=media), InferSettings()
        ),
        ["watch", "MEDIA", "-o", "out", "--bundle", "BUNDLE", "--once", "--move-done", "MEDIA"],
        "fix: choose another folder for move_done$",
        "fix: choose another folder for --move-done",
    ),
    "python": (
        lambda bundle, media: write_deployment(bundle, "jetson-thor", media.parent / "out", wheels=True, python="3.11"),
        ["deploy", "BUNDLE", "--target", "jetson-thor", "-o", "out", "--wheels", "--python", "3.11"],
        "^python=3.11; allowed",
        "error: --python 3.11; allowed",
    ),
    "wheels": (
        lambda bundle, media: write_deployment(bundle, "jetson-thor", media.parent / "out", python="3.12"),
        ["deploy", "BUNDLE", "--target", "jetson-thor", "-o", "out", "--python", "3.12"],
        "^python without wheels; fix: ask for wheels, or leave python out$",
        "error: --python without --wheels; fix: add --wheels, or leave --python out",
    ),
    "inbox": (
        lambda bundle, media: write_deployment(bundle, "cpu", media.parent / "out", inbox="in"),
        ["deploy", "BUNDLE", "--target", "cpu", "-o", "out", "--inbox", "in"],
        "^inbox=in; allowed",
        "error: --inbox in; allowed",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_python_hears_of_arguments_and_a_shell_of_flags(
    case: str, cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, media = write_colour_bundle(tmp_path / "colours.bundle").root, tmp_path / "media"
    media.mkdir()
    write_photo(media / "a.png")
    monkeypatch.chdir(tmp_path)
    call, arguments, of_library, of_shell = CASES[case]
    if case == "resume":
        vidrisk.infer(bundle, media, "done", report=False)
    with pytest.raises(SettingsError, match=of_library) as caught:
        call(bundle, media)
    assert not FLAG.search(str(caught.value))
    end = cli(*({"BUNDLE": str(bundle), "MEDIA": str(media)}.get(word, word) for word in arguments))
    assert end.code == SettingsError.exit_code and of_shell in end.stderr, end
