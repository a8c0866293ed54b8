"""Tests of file names in every locale: they are found, read, stored and resumed as bytes.

The console shows the characters that its encoding supports.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from colour_bundle import write_colour_bundle
from small_media import write_photo

from vidrisk.jobs.ledger import read_ledger
from vidrisk.runtimes.contract.errors import EXIT_OK, EXIT_SOME_FAILED

# Characters in the encoding of a system; ``odd`` is text in none.
NAMES = {
    "utf8": "裂缝 №1".encode(),
    "gbk": "裂缝".encode("gbk"),
    "latin1": "fissure à 3 m".encode("latin-1"),
    "odd": b"a\x80\xff\xfe b",
    "controls": b"x\x1b]0;t\x07\n\xe2\x80\xaey",
    "plain": b"plain",
}
LOCALES = {"zh_CN.GBK": ("zh_CN", "GBK"), "en_US.ISO-8859-1": ("en_US", "ISO-8859-1")}
Vidrisk = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture(scope="session")
def locale_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not shutil.which("localedef"):
        pytest.skip("localedef is not installed (Debian: locales)")
    folder = tmp_path_factory.mktemp("locales")
    for name, (source, charmap) in LOCALES.items():
        end = subprocess.run(
            ["localedef", "-i", source, "-f", charmap, str(folder / name)], capture_output=True, check=False
        )
        if not (folder / name).is_dir():
            pytest.skip(f"localedef cannot make {name}: {end.stderr.decode(errors='replace')[:200]} (Debian: locales)")
    return folder


@pytest.fixture
def vidrisk(locale_folder: Path, tmp_path: Path) -> Vidrisk:
    def run(locale: str, *arguments: str | bytes, **environment: str) -> subprocess.CompletedProcess[bytes]:
        theirs = ("LC_", "LANG", "PYTHONUTF8", "PYTHONIO")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(theirs)}
        ours = {
            "LOCPATH": str(locale_folder),
            "LC_ALL": locale,
            "VIDRISK_CACHE": str(tmp_path / "cache"),
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        return subprocess.run(
            [sys.executable, "-m", "vidrisk", *arguments],
            cwd=tmp_path,
            capture_output=True,
            timeout=120,
            check=False,
            env={**kept, **ours, **environment},
        )

    write_colour_bundle(tmp_path / "colours.bundle")
    return run


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in NAMES.values():
        write_photo(os.fsdecode(os.fsencode(folder) + b"/" + name + b".png"), "red")
    return folder


def infer(*more: str) -> tuple[str, ...]:
    return "infer", "colours.bundle", "photos", "-o", "out", "--runtime", "onnxruntime", *more


def names_in(out: Path) -> list[bytes]:
    with (out / "predictions.jsonl").open("rb") as file:
        paths = [json.loads(line)["path"] for line in file]
    return sorted(path.rpartition("/")[2].encode("utf-8", "surrogateescape") for path in paths)


EVERY = sorted(name + b".png" for name in NAMES.values())
OFF = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize(
    ("locale", "environment"), [("zh_CN.GBK", {}), ("en_US.ISO-8859-1", OFF), ("C", OFF), ("POSIX", {})]
)
def test_every_name_is_read_and_stored_as_its_bytes(
    vidrisk: Vidrisk, photos: Path, tmp_path: Path, locale: str, environment: dict[str, str]
) -> None:
    end = vidrisk(locale, *infer(), **environment)
    assert (end.returncode, end.stderr) == (EXIT_OK, b"") and b"6 inputs: 6 ok" in end.stdout
    assert names_in(tmp_path / "out") == EVERY
    assert sorted(os.fsencode(Path(row.path).name) for row in read_ledger(tmp_path / "out")) == EVERY
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert all(
        shown in page
        for shown in ("裂缝 №1.png", "fissure \\xe0 3 m.png", "a\\x80\\xff\\xfe b.png", "x\\x1b]0;t\\x07\\n\\u202ey")
    )


def test_a_run_is_continued_in_another_locale(vidrisk: Vidrisk, photos: Path, tmp_path: Path) -> None:
    assert vidrisk("zh_CN.GBK", *infer("--no-report")).returncode == EXIT_OK
    before = (tmp_path / "out" / "predictions.jsonl").read_bytes()
    write_photo(photos / "新的.png", "blue")
    for locale in ("en_US.ISO-8859-1", "C.UTF-8", "zh_CN.GBK"):
        end = vidrisk(locale, *infer("--no-report", "--resume"))
        assert (end.returncode, end.stderr) == (EXIT_OK, b"") and b"7 inputs: 7 ok" in end.stdout
    after = (tmp_path / "out" / "predictions.jsonl").read_bytes()
    assert after.startswith(before) and names_in(tmp_path / "out") == sorted([*EVERY, "新的.png".encode()])


def test_arguments_are_taken_as_bytes(vidrisk: Vidrisk, photos: Path, tmp_path: Path) -> None:
    """File names in arguments are taken as bytes.

    One of the names is read as GBK by glibc, but Python cannot write it as GBK again.
    """
    names = [b"\x80.png", b"\xa1\xa4\xa8\x44.png", "裂缝 №1.png".encode()]
    for name in names[:2]:
        write_photo(os.fsdecode(os.fsencode(photos) + b"/" + name), "green")
    end = vidrisk(
        "zh_CN.GBK",
        "infer",
        "colours.bundle",
        *(b"photos/" + name for name in names),
        "-o",
        "out",
        "--no-report",
        "--runtime",
        "onnxruntime",
    )
    assert (end.returncode, end.stderr) == (EXIT_OK, b"")
    assert names_in(tmp_path / "out") == sorted(names)


def test_a_ledger_of_before_stays_readable(vidrisk: Vidrisk, photos: Path, tmp_path: Path) -> None:
    """A ledger that was written in one locale can be read in another.

    In every locale, it stores names that are UTF-8 as text, and other names as blobs.
    """
    assert vidrisk("C.UTF-8", *infer("--no-report")).returncode == EXIT_OK
    with closing(sqlite3.connect(tmp_path / "out" / "ledger.sqlite")) as database:
        kinds = [kind for (kind,) in database.execute("SELECT typeof(path) FROM inputs")]
    assert sorted(kinds) == ["blob"] * 3 + ["text"] * 3
    end = vidrisk("en_US.ISO-8859-1", *infer("--resume", "--no-report"))
    assert end.returncode == EXIT_OK and b"6 inputs: 6 ok" in end.stdout and names_in(tmp_path / "out") == EVERY


def test_a_failed_input_is_named_on_a_console_that_lacks_its_characters(
    vidrisk: Vidrisk, photos: Path, tmp_path: Path
) -> None:
    (photos / "坏了.png").write_bytes(b"")
    end = vidrisk("en_US.ISO-8859-1", "-v", *infer())
    assert end.returncode == EXIT_SOME_FAILED and b"1 corrupt" in end.stdout and b"Traceback" not in end.stderr
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "坏了.png" in page


@pytest.mark.parametrize(
    ("locale", "environment", "arrow"),
    [
        ("en_US.ISO-8859-1", {}, b"? out"),
        ("C", OFF, b"? out"),
        ("C.UTF-8", {"PYTHONIOENCODING": "ascii"}, b"? out"),
        ("zh_CN.GBK", {"PYTHONIOENCODING": "latin-1"}, b"? out"),
        ("zh_CN.GBK", {}, "→ out".encode("gbk")),
        ("POSIX", {}, "→ out".encode()),
    ],
)
def test_the_console_shows_what_it_has(
    vidrisk: Vidrisk, tmp_path: Path, locale: str, environment: dict[str, str], arrow: bytes
) -> None:
    (tmp_path / "photos").mkdir()
    write_photo(tmp_path / "photos" / "a.png")
    end = vidrisk(locale, *infer("--no-report"), **environment)
    assert (end.returncode, end.stderr) == (EXIT_OK, b"")
    assert end.stdout.rstrip().endswith(arrow)


@pytest.mark.parametrize("locale", ["en_US.ISO-8859-1", "zh_CN.GBK", "C.UTF-8"])
def test_json_is_json_on_any_console(vidrisk: Vidrisk, tmp_path: Path, locale: str) -> None:
    for place, label in enumerate(("裂缝", "naïve \u202e☃")):
        (tmp_path / "data" / label).mkdir(parents=True)
        for number in range(3):
            write_photo(tmp_path / "data" / label / f"{number}.png", "red", size=(40 + 3 * place + number, 36))
    end = vidrisk(locale, "data", "split", "data", "-o", "split.csv", "--json")
    assert (end.returncode, end.stderr) == (EXIT_OK, b"")
    text = end.stdout.decode("utf-8" if locale == "C.UTF-8" else "ascii")
    assert "\u202e" not in text and set(json.loads(text)["counts"]["action"]) == {"裂缝", "naïve \u202e☃"}
    table = vidrisk(locale, "data", "preview", "split.csv", "-o", "sheet.png")
    assert (table.returncode, table.stderr) == (EXIT_OK, b"") and b"\xe2\x80\xae" not in table.stdout
    assert b"\\u202e" in table.stdout


def test_a_manifest_in_utf8_names_files_in_utf8_or_in_the_locale(vidrisk: Vidrisk, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    lines = ["path,action"]
    for number, (characters, encoding) in enumerate(
        [("裂缝", "utf-8"), ("损坏", "gbk"), ("正常", "utf-8"), ("划痕", "gbk")]
    ):
        path = os.fsdecode(os.fsencode(tmp_path / "data") + b"/" + characters.encode(encoding) + b".png")
        write_photo(path, "red", size=(40 + number, 36))
        lines.append(f"{characters}.png,{'ab'[number % 2]}")
    (tmp_path / "data" / "m.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    end = vidrisk("zh_CN.GBK", "data", "preview", "data/m.csv", "-o", "sheet.png", "--json")
    assert (end.returncode, end.stderr) == (EXIT_OK, b"") and json.loads(end.stdout)["samples"] == 4


def test_the_library_in_such_a_locale(locale_folder: Path, photos: Path, tmp_path: Path) -> None:
    """The library stores names as bytes, although it does not restart Python as the command line does."""
    script = Path(__file__).parents[1] / "jobs" / "colour.py"
    for locale in LOCALES:
        out = tmp_path / f"out-{locale}"
        end = subprocess.run(
            [sys.executable, str(script), str(out), str(photos)],
            capture_output=True,
            timeout=120,
            check=False,
            env={
                **os.environ,
                "LOCPATH": str(locale_folder),
                "LC_ALL": locale,
                "PYTHONUTF8": "0",
                "PYTHONPATH": os.pathsep.join(sys.path),
            },
        )
        assert end.returncode == EXIT_OK, end.stderr
        assert names_in(out) == EVERY
        assert {row.state for row in read_ledger(out)} == {"ok"}
