"""Settings of the documentation site: ``make docs`` builds it into ``docs/_build/html``.

The pages of the API are written from the packages before each build, one page per folder.
"""

from __future__ import annotations

import pkgutil
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path.insert(0, str(ROOT))

from sphinx.application import Sphinx  # noqa: E402

import vidrisk  # noqa: E402

project = "vidrisk"
author = "The vidrisk authors"
release = vidrisk.__version__
copyright = author
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
html_theme = "furo"
html_title = f"vidrisk {release}"
toc_object_entries = False
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_class_signature = "separated"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
suppress_warnings = ["ref.python"]  # words such as "bytes" in types, which several classes have as attributes
# Runners of engines that this machine may lack.
autodoc_mock_imports = ["tensorrt", "tensorrt_rtx", "cuda", "deepspeed", "wandb"]


def write_api_pages(folder: Path) -> None:
    """Write one page for every package, with all that its modules define."""
    folder.mkdir(exist_ok=True)
    packages = sorted(_packages())
    names = "\n".join(packages)
    (folder / "index.md").write_text(
        "# API\n\nEvery folder of the code, with the classes and functions of its modules. The names that programs\n"
        f"use are in [Python](../python.md).\n\n```{{toctree}}\n:maxdepth: 1\n\n{names}\n```\n",
        encoding="utf-8",
    )
    for package in packages:
        parts = [f"# {package}\n", _automodule(package)]
        path = ROOT / Path(*package.split("."))
        for module in sorted(each.name for each in pkgutil.iter_modules([str(path)]) if not each.ispkg):
            if not module.startswith("__"):
                parts += [f"## {module}\n", _automodule(f"{package}.{module}")]
        (folder / f"{package}.md").write_text("\n".join(parts), encoding="utf-8")


def _packages() -> list[str]:
    found = ["vidrisk"]
    for package in found:
        path = ROOT / Path(*package.split("."))
        found += [f"{package}.{each.name}" for each in pkgutil.iter_modules([str(path)]) if each.ispkg]
    return found


def _automodule(name: str) -> str:
    """Return a directive for what a module defines itself; what it imports is on the page of its own module."""
    return f"```{{eval-rst}}\n.. automodule:: {name}\n   :members:\n   :ignore-module-all:\n```\n"


def mark_literal_blocks(
    app: Sphinx, what: str, name: str, described: object, options: object, lines: list[str]
) -> None:
    """Mark indented tables in docstrings, which stand between blank lines, as literal blocks."""
    if what == "module" and described.__doc__:  # autodoc removes the indentation of a table that ends the docstring
        lines[:] = described.__doc__.splitlines()
    for place in range(len(lines) - 1, 1, -1):
        if lines[place].startswith("    ") and not lines[place - 1].strip():
            above = next((line for line in reversed(lines[:place]) if line.strip()), "")
            if above and not above.startswith("    "):
                lines[place:place] = ["::", ""]


def setup(app: Sphinx) -> None:
    """Connect to autodoc, before napoleon does."""
    app.connect("autodoc-process-docstring", mark_literal_blocks, priority=400)


write_api_pages(DOCS / "api")
