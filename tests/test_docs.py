"""The documents against the code: tables, paths, options and targets. ``vidrisk/cli/test_readme.py`` runs the README's commands."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
DOCS = {
    path.relative_to(REPOSITORY).as_posix(): path.read_text(encoding="utf-8")
    for path in sorted((REPOSITORY / "docs").rglob("*.md"))
    if path.relative_to(REPOSITORY / "docs").parts[0] not in ("_build", "api")
}
PAGES = README + "".join(DOCS.values())
CONTRIBUTING = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
MAKEFILE = (REPOSITORY / "Makefile").read_text(encoding="utf-8")


def test_the_two_commands_come_first() -> None:
    section = README.partition("## Two commands")[2].partition("##")[0]
    assert re.findall(r"^    make (\w+)", section, re.MULTILINE) == ["demo", "test"]


def test_the_readme_is_short() -> None:
    assert len(README.encode()) < 10_000


@pytest.mark.parametrize("document", [README, CONTRIBUTING], ids=["README", "CONTRIBUTING"])
def test_make_targets_exist(document: str) -> None:
    named = set(re.findall(r"(?:`|^    )make (\w+)", document, re.MULTILINE))
    targets = set(re.findall(r"^(\w+):", MAKEFILE, re.MULTILINE))
    assert named and named <= targets


def test_every_target_is_listed_by_make_help() -> None:
    make = ["make", "--no-print-directory", "help"]
    listed = subprocess.run(make, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    targets = re.findall(r"^([\w-]+):.*##", MAKEFILE, re.MULTILINE)
    assert targets and {line.split()[0] for line in listed.splitlines()} == set(targets)


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    """``benchmarks/tables.py``, imported: that alone writes nothing."""
    spec = importlib.util.spec_from_file_location("tables", REPOSITORY / "benchmarks" / "tables.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (REPOSITORY / "README.md").read_text(encoding="utf-8") == README
    return module


@pytest.mark.parametrize("name", re.findall(r"<!-- table:(\w+) -->", PAGES))
def test_tables_are_those_of_the_results_and_the_modules(tables: ModuleType, name: str) -> None:
    (written,) = re.findall(rf"<!-- table:{name} -->\n(.*?)<!-- /table -->", PAGES, re.DOTALL)
    try:
        expected = getattr(tables, name)()
    except FileNotFoundError as error:
        pytest.skip(f"{error.filename} is not there: its benchmark has not been run")
    assert written == expected + "\n", "run: make format"


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", *DOCS])
def test_paths_and_links_lead_somewhere(name: str) -> None:
    document, folder = (REPOSITORY / name).read_text(encoding="utf-8"), (REPOSITORY / name).parent
    links = [
        link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)", document) if "://" not in link and link[0] != "#"
    ]
    assert [link for link in links if not (folder / link).exists()] == []
    if name in ("README.md", "CONTRIBUTING.md"):
        places = {entry.name for entry in REPOSITORY.iterdir()}
        texts = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", document, flags=re.DOTALL))
        paths = [word for text in texts for word in text.split() if "/" in word and word.partition("/")[0] in places]
        assert paths and [path for path in paths if not (REPOSITORY / path).exists()] == []


OF_OTHERS = {  # of pip, docker, apt, torchrun and tensorboard
    "--no-deps",
    "--name",
    "--build-arg",
    "--restart",
    "--purge",
    "--nproc-per-node",
    "--logdir",
}
DEFINING = ("vidrisk/deploy/files/*", "benchmarks/*")  # files beside the command line that define options


def options_in(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]+(?!\w)", text))


@pytest.fixture(scope="module")
def offered() -> set[str]:
    """Options of the command line."""
    code = "".join(path.read_text(encoding="utf-8") for path in (REPOSITORY / "vidrisk" / "cli").glob("*.py"))
    parameters = {f"--{name.replace('_', '-')}" for name in re.findall(r"^    (\w+): ", code, re.MULTILINE)}
    quoted = re.findall(r'"(--[\w-]+)(?:/(--[\w-]+))?"', code)
    return parameters | {option for pair in quoted for option in pair}


def test_options_that_the_readme_names_exist(offered: set[str]) -> None:
    assert (named := options_in(README)) and named <= offered


@pytest.mark.parametrize("name", DOCS)
def test_options_that_the_pages_name_exist(offered: set[str], name: str) -> None:
    files = [path for pattern in DEFINING for path in REPOSITORY.glob(pattern) if path.is_file()]
    others = "".join(path.read_text(encoding="utf-8") for path in files)
    assert options_in(DOCS[name]) <= offered | options_in(others) | OF_OTHERS


@pytest.mark.slow(minutes=1)
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "--quiet",
        "--fail-on-warning",
        "--keep-going",
        "--doctree-dir",
        tmp_path / "doctrees",
        REPOSITORY / "docs",
        tmp_path / "html",
    ]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-4000:]
    assert (tmp_path / "html" / "api" / "vidrisk.runtimes.html").is_file()
