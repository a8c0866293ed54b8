"""``vidrisk verify``: tables, JSON and exit codes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from golden_bundles import changed_bundle

Cli = Callable[..., Any]


def test_a_bundle_that_answers_as_exported(cli: Cli, tiny_bundle: Path) -> None:
    end = cli("verify", tiny_bundle)
    assert end.code == 0 and "error" not in end.stderr
    for said in (
        "onnxruntime",
        "openvino",
        "fp32",
        "int8",
        "100%",
        "float32",
        "same",
        "3 golden samples; expected is what",
    ):
        assert said in end.stdout
    assert "colours.bundle" in (told := cli("doctor", "--json").stdout) and "answered as at export" in told


def test_json_has_every_figure(cli: Cli, tiny_bundle: Path) -> None:
    end = cli("verify", tiny_bundle, "--json", "--runtime", "openvino", "--variant", "int8")
    told = json.loads(end.stdout)
    (row,) = told["rows"]
    assert (end.code, told["is_same"], told["faults"], told["samples"]) == (0, True, [], 3)
    assert (told["bundle"], told["folder"], told["is_whole"]) == ("colours.bundle", str(tiny_bundle.resolve()), True)
    assert (row["runtime"], row["variant"], row["state"], row["layers"]["int8"]) == ("openvino", "int8", "same", 49)
    assert 0 <= row["largest"] <= row["tolerance"] and row["agreement"] == 1 and row["unproved"] == row["note"] == ""


def test_answers_that_differ_are_exit_code_3(cli: Cli, tiny_bundle: Path, tmp_path: Path) -> None:
    def heat(manifest: dict[str, Any]) -> None:
        manifest["variants"]["int8"]["temperature"]["action"] = 50

    stale = changed_bundle(tiny_bundle, tmp_path / "heated", manifest=heat)
    end = cli("verify", stale)
    assert end.code == 3
    assert (
        end.stderr.splitlines()[-1]
        == "error: heated does not answer here as it did where it was exported: stale temperature"
    )
    assert "stale temperature: int8 has the temperature 50 for action" in end.stdout and "differs" in end.stdout
    told = json.loads(cli("verify", stale, "--json").stdout)
    assert not told["is_same"] and [fault["name"] for fault in told["faults"]] == ["stale temperature"]
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    end = cli(
        "watch",
        inbox,
        "-o",
        tmp_path / "out",
        "--bundle",
        stale,
        "--once",
        "--runtime",
        "onnxruntime",
        "--variant",
        "int8",
    )
    assert end.code == 3 and "int8 has the temperature 50 for action" in end.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()
    (check,) = (check for check in json.loads(cli("doctor", "--json").stdout) if check["name"] == "heated")
    assert (check["state"], check["fix"]) == ("broken", f"vidrisk verify {stale}") and "the temperature 50" in check[
        "found"
    ]
    shutil.rmtree(stale)  # what is not there any more is nothing to mend
    assert "heated" not in {check["name"] for check in json.loads(cli("doctor", "--json").stdout)}


def test_a_bundle_without_golden_samples_is_exit_code_4(cli: Cli, tiny_bundle: Path, tmp_path: Path) -> None:
    plain = changed_bundle(tiny_bundle, tmp_path / "b", manifest=lambda manifest: manifest["files"].pop("golden.zip"))
    end = cli("verify", plain)
    assert (end.code, end.stdout) == (4, "b cannot be verified: it has no golden samples: taken out after the export\n")
    assert json.loads(cli("verify", plain, "--json").stdout)["without"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--runtime", "torch"), 2, "torch"),
        (("--variant", "fp16"), 1, "has no variant 'fp16'; allowed: fp32, int8"),
        (("--runtime", "tensorrt"), 1, "nothing runs colours.bundle here"),
    ],
)
def test_what_cannot_be_asked_is_one_line(
    cli: Cli, tiny_bundle: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    end = cli("verify", tiny_bundle, *arguments)
    assert end.code == code and said in end.stderr


def test_no_bundle(cli: Cli, tmp_path: Path) -> None:
    end = cli("verify", tmp_path)
    assert end.code == 1 and "is not a bundle" in end.stderr and end.stderr.count("\n") == 1
