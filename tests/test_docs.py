"""Tests of the documents against the code: tables, paths, options, make targets and pictures.

They also check that a test runs the code of every page.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from pages import Block, read_blocks, read_page

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


def load_script(path: str) -> ModuleType:
    """Import a script of the repository that is in no package."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, REPOSITORY / path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    """Return ``benchmarks/tables.py`` as a module, and check that importing it writes nothing."""
    module = load_script("benchmarks/tables.py")
    assert (REPOSITORY / "README.md").read_text(encoding="utf-8") == README
    return module


@pytest.mark.parametrize("name", re.findall(r"<!-- table:(\w+) -->", PAGES))
def test_tables_are_those_of_the_results_and_the_modules(tables: ModuleType, name: str) -> None:
    (written,) = re.findall(rf"<!-- table:{name} -->\n.*?<!-- /table -->", PAGES, re.DOTALL)
    try:
        expected = tables.with_tables(written)
    except FileNotFoundError as error:
        pytest.skip(f"{error.filename} is not there: its benchmark has not been run")
    assert written == expected, "run: make format"


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", *DOCS])
def test_paths_and_links_lead_somewhere(name: str) -> None:
    document, folder = (REPOSITORY / name).read_text(encoding="utf-8"), (REPOSITORY / name).parent
    links = [
        link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)", document) if "://" not in link and link[0] != "#"
    ]
    generated = "api/"  # by docs/conf.py, while the site is built: that checks these links
    assert [link for link in links if not link.startswith(generated) and not (folder / link).exists()] == []
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
    """Return the options of the command line."""
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


def pages_in_mark(node: ast.expr, named: dict[str, ast.expr]) -> Iterator[str]:
    """Yield the pages of a ``page`` mark, or of every such mark in a list; other marks yield nothing."""
    if isinstance(node, ast.Name) and node.id in named:
        yield from pages_in_mark(named[node.id], named)
    elif isinstance(node, ast.List | ast.Tuple):
        for each in node.elts:
            yield from pages_in_mark(each, named)
    elif isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.page":
        for argument in node.args:
            assert isinstance(argument, ast.Constant) and isinstance(argument.value, str), ast.unparse(node)
            yield argument.value


def pages_run_by(module: Path) -> set[str]:
    """Return the pages of the marks that a test module or its tests carry."""
    text = module.read_text(encoding="utf-8")
    if "pytest.mark.page(" not in text:
        return set()
    body = ast.parse(text).body
    assigned = [node for node in body if isinstance(node, ast.Assign)]
    named = {target.id: node.value for node in assigned for target in node.targets if isinstance(target, ast.Name)}
    marks = [named["pytestmark"]] if "pytestmark" in named else []
    for node in body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            marks += node.decorator_list
    return {page for mark in marks for page in pages_in_mark(mark, named)}


RUN_BY = {
    module.relative_to(REPOSITORY).as_posix(): pages
    for module in sorted((REPOSITORY / "tests").rglob("test_*.py"))
    if (pages := pages_run_by(module))
}
WITH_CODE = [name for name in ("README.md", "CONTRIBUTING.md", *DOCS) if read_blocks(name)]


@pytest.mark.parametrize("name", WITH_CODE)
def test_a_test_runs_the_code_of_the_page(name: str) -> None:
    modules = [module for module, pages in RUN_BY.items() if name in pages]
    assert modules, (
        f"no test has @pytest.mark.page({name!r}); fix: run the page's blocks in one, with tests/docs/pages.py"
    )


@pytest.mark.parametrize("module", RUN_BY)
def test_marked_tests_read_pages_that_have_code(module: str) -> None:
    assert sorted(RUN_BY[module] - set(WITH_CODE)) == []
    assert re.search(r"^from pages import .*\bread_(blocks|commands)\b", (REPOSITORY / module).read_text("utf-8"), re.M)


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", *DOCS])
def test_every_block_can_be_found_by_the_test_that_runs_it(name: str) -> None:
    fences = re.findall(r"^ *```(.*)$", read_page(name), re.MULTILINE)
    blocks = read_blocks(name)
    of_the_site = [fence for fence in fences[::2] if fence == "{toctree}"]
    assert fences[::2] == [*of_the_site, *(block.language for block in blocks)] and set(fences[1::2]) <= {""}
    assert [line for block in blocks for line in lines_without_prompt(block)] == []


def lines_without_prompt(block: Block) -> list[str]:
    return [line for line in block.text.splitlines() if block.language == "console" and not line.startswith("$ ")]


def test_marks_are_found_where_they_are_and_nowhere_else(tmp_path: Path) -> None:
    module = tmp_path / "test_it.py"
    module.write_text(
        "ONCE, TWICE = 1, 2\nMARK = pytest.mark.page('a.md', 'b.md')\nUNUSED = pytest.mark.page('c.md')\n"
        "pytestmark = [pytest.mark.slow(minutes=1), pytest.mark.page('d.md')]\n"
        "def helper(): pytest.mark.page('e.md')\n"
        "@MARK\n@pytest.mark.parametrize('page', MARK.args)\ndef test_it(page): ...\n"
        "@pytest.mark.page('f.md')\ndef no_test(): ...\n"
    )
    assert pages_run_by(module) == {"a.md", "b.md", "d.md"}
    module.write_text("@pytest.mark.page(f'{name}.md')\ndef test_it(): ...\n")
    with pytest.raises(AssertionError, match="name"):
        pages_run_by(module)


@pytest.fixture(scope="module")
def pictures() -> ModuleType:
    """Return ``docs/make_pictures.py`` as a module; importing it creates nothing."""
    return load_script("docs/make_pictures.py")


def test_pictures_are_shown_and_their_sources_are_known(pictures: ModuleType) -> None:
    files = {path.name for path in (REPOSITORY / "docs" / "pictures").glob("*.png")}
    assert files == set(pictures.TEMPLATES) == set(json.loads(pictures.SOURCES.read_text(encoding="utf-8")))
    assert files == set(re.findall(r"!\[[^]]*\]\((?:docs/)?pictures/([^)]+)\)", PAGES))


@pytest.mark.parametrize("name", sorted(path.name for path in (REPOSITORY / "docs" / "pictures").glob("*.png")))
def test_a_picture_shows_the_page_as_it_is_today(pictures: ModuleType, name: str) -> None:
    made_of = json.loads(pictures.SOURCES.read_text(encoding="utf-8"))[name]
    files = ", ".join(path.name for path in pictures.find_sources(name))
    assert made_of == pictures.compute_digest(name), f"of {files}; run: python docs/make_pictures.py"


def test_a_changed_style_or_script_is_noticed(
    pictures: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {name: pictures.compute_digest(name) for name in pictures.TEMPLATES}
    for name in pictures.TEMPLATES:
        for path in pictures.find_sources(name):
            copy = tmp_path / path.relative_to(REPOSITORY)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    monkeypatch.setattr(pictures, "REPOSITORY", tmp_path)
    assert {name: pictures.compute_digest(name) for name in before} == before
    with (tmp_path / "vidrisk" / "report" / "report.css").open("a", encoding="utf-8") as style:
        style.write("p { color: red }")
    changed = {name for name, digest in before.items() if pictures.compute_digest(name) != digest}
    assert changed == {"report.png", "reports.png", "comparison.png"}


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
