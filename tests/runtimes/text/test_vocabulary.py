"""Tests of a tokenizer file: text survives a round trip; special tokens are read only where they are meant."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_text import END

from vidrisk.runtimes.contract.errors import BundleError
from vidrisk.runtimes.text.vocabulary import Vocabulary


def test_text_comes_back(vocabulary: Vocabulary) -> None:
    assert vocabulary.decode(vocabulary.encode("裂缝, 3 cm\n").tolist()) == "裂缝, 3 cm\n"


def test_special_tokens_are_read_only_from_templates(vocabulary: Vocabulary) -> None:
    assert vocabulary.encode("<end>", special=True).tolist() == [END] == [vocabulary.token("<end>")]
    assert END not in vocabulary.encode("<end>") and vocabulary.decode(vocabulary.encode("<end>").tolist()) == "<end>"
    assert vocabulary.decode([END]) == ""


def test_other_files_and_ends_are_refused(text_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("{}", encoding="utf-8")
    good = text_folder / "tokenizer.json"
    for path, ends, said in (
        (tmp_path / "absent.json", [1], "not a tokenizer"),
        (tmp_path / "broken.json", [1], "not a tokenizer"),
        (good, [999], "no token 999"),
        (good, [], "ends a text"),
    ):
        with pytest.raises(BundleError, match=said):
            Vocabulary(path, ends)
