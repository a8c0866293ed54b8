from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

import pytest
import typer
from colour_bundle import write_colour_bundle
from typer.testing import CliRunner

from vidrisk.cli.deploy import deploy
from vidrisk.runtimes.contract.errors import EXIT_OK, EXIT_USAGE, BundleError, SettingsError

app = typer.Typer()
app.command()(deploy)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_colour_bundle(tmp_path_factory.mktemp("bundles") / "colours.bundle").root


def run(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, [os.fspath(argument) for argument in arguments])
    if isinstance(result.exception, Exception) and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout


def test_a_folder_is_written_and_what_comes_next_is_said(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "to orin"
    code, stdout = run(bundle, "--target", "jetson-orin", "-o", out, "--inbox", "/mnt/nas/in")
    assert code == EXIT_OK and "VIDRISK_INBOX=/mnt/nas/in\n" in (out / "deploy.conf").read_text(encoding="utf-8")
    said, licenses, then = stdout.splitlines()
    assert said.startswith("colours.bundle for jetson-orin, ")
    assert said.endswith(f"packages from its index, in the versions of that day → {out}")
    assert licenses == f"licences of the contents: {out / 'LICENSES.txt'}"
    words = shlex.split(then.removeprefix("next: "))
    assert words[:3] == ["scp", "-r", str(out)] and words[-1] == "./to orin/install.sh"


def test_json(bundle: Path, tmp_path: Path) -> None:
    code, stdout = run(bundle, "--target", "cpu", "-o", tmp_path / "out", "--json")
    made = json.loads(stdout)
    assert code == EXIT_OK and (made["folder"], made["bundle"], made["wheels"]) == (
        str(tmp_path / "out"),
        "colours.bundle",
        0,
    )
    assert (tmp_path / "out" / made["wheel"]).is_file()


def test_what_cannot_be_used_is_one_line(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(bundle, "--target", "jetson-xavier", "-o", out)[0] == EXIT_USAGE
    with pytest.raises(BundleError, match="is not a bundle"):
        run(tmp_path, "--target", "cpu", "-o", out)
    with pytest.raises(SettingsError, match=r"python=3\.11; allowed: 3\.12"):
        run(bundle, "--target", "jetson-thor", "-o", out, "--wheels", "--python", "3.11")
    assert not out.exists()
