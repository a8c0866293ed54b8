"""Tests of stored verification results, and of how a watch uses them."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from golden_bundles import changed_bundle

from vidrisk.inference.model import open_classifier
from vidrisk.runtimes import Bundle
from vidrisk.runtimes.contract.errors import AnswersDiffer
from vidrisk.runtimes.openvino import OpenVinoRunner
from vidrisk.verify import kept, start, verify_bundle
from vidrisk.verify import replay as run
from vidrisk.verify.kept import keep, last_result, last_results
from vidrisk.verify.start import ensure_same_answers

pytestmark = pytest.mark.usefixtures("own_cache_folder")


def heat(manifest: dict[str, Any]) -> None:
    manifest["variants"]["fp32"]["temperature"]["level"] = 9.0


def test_every_row_is_kept_with_what_it_depends_on(small: Path) -> None:
    found = verify_bundle(small)
    keep(found)
    results = last_results()
    assert {(one.runtime, one.variant) for one in results} == {(row.runtime, row.variant) for row in found.rows}
    assert all(one.is_good and one.is_there and one.digest == found.digest for one in results)
    assert {one.folder for one in results} == {str(small.resolve())}
    known = last_result(found.digest, "openvino", "fp32")
    assert known is not None and set(known.found_with) == {"openvino", "machine", "vidrisk"}
    assert last_result(found.digest, "openvino", "fp16") is None and last_result("0" * 64, "openvino", "fp32") is None


def test_a_result_is_good_until_engine_driver_or_vidrisk_change(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(verify_bundle(small, runtime="openvino", variant="fp32"))
    (known,) = last_results()
    monkeypatch.setattr(kept, "engine_version", lambda runtime: "2030.1")
    assert not known.is_good and known.changed == {"openvino": (known.found_with["openvino"], "2030.1")}
    monkeypatch.undo()
    monkeypatch.setattr(kept, "__version__", "9.9")
    assert list(known.changed) == ["vidrisk"]
    on_gpu = replace(known, runtime="onnxruntime-cuda", found_with={"driver": "580.1", "GPU": "Orin, CUDA 12.6"})
    monkeypatch.setattr(kept, "driver_version", lambda: "590.2")
    assert on_gpu.changed["driver"] == ("580.1", "590.2") and not on_gpu.is_good
    assert "driver" not in known.changed  # nothing to a processor


def test_a_result_with_a_fault_is_never_good(small: Path, tmp_path: Path) -> None:
    keep(verify_bundle(changed_bundle(small, tmp_path / "b", manifest=heat)))
    by_variant = {one.variant: one for one in last_results()}
    stale = by_variant.pop("fp32")
    assert (
        stale.state == "differs"
        and not stale.is_good
        and not stale.changed
        and "the temperature 9 for level" in stale.said
    )
    assert all(one.is_good for one in by_variant.values())


def test_what_others_may_have_written_is_not_believed(small: Path, own_cache_folder: Path) -> None:
    keep(verify_bundle(small, runtime="openvino"))
    paths = sorted((own_cache_folder / "verified").iterdir())
    assert len(paths) == 2 and {path.stat().st_mode & 0o777 for path in paths} == {0o600}
    paths[0].chmod(0o666)
    assert len(last_results()) == 1
    for text in ("", "[]", "{}", '{"folder": 1}', json.dumps({**json.loads(paths[1].read_text()), "found_with": []})):
        paths[1].write_text(text)
        assert last_results() == []
    (own_cache_folder / "verified").chmod(0o777)
    assert last_results() == []


def test_old_results_make_room(small: Path, own_cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = verify_bundle(small, runtime="openvino", variant="fp32")
    monkeypatch.setattr(kept, "MOST_KEPT", 3)
    for number in range(5):
        keep(replace(found, digest=str(number) * 64))
        newest = next((own_cache_folder / "verified").glob(f"{number}*"))
        os.utime(newest, (time.time(), time.time() - 100 + number))
    assert [one.digest[0] for one in last_results()] == ["4", "3", "2"]


def test_a_folder_that_cannot_be_written_costs_nothing_else(small: Path, own_cache_folder: Path) -> None:
    own_cache_folder.mkdir()
    (own_cache_folder / "verified").write_text("a file")
    keep(verify_bundle(small, runtime="openvino", variant="fp32"))
    assert last_results() == []


def watched(bundle: Path, variant: str = "fp32") -> None:
    with open_classifier(bundle, runtime="openvino", variant=variant) as classifier:
        ensure_same_answers(bundle, classifier)


def test_a_watch_asks_once_and_again_when_the_engine_changed(
    small: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[str] = []
    real = run.row_of
    monkeypatch.setattr(
        run,
        "row_of",
        lambda bundle, golden, classifier, variant: asked.append(variant) or real(bundle, golden, classifier, variant),
    )
    caplog.set_level(logging.INFO, logger="vidrisk.verify.start")
    watched(small)
    watched(small)
    assert asked == ["fp32"]
    first, second = (record.getMessage() for record in caplog.records)
    assert first == "walls.bundle answers on openvino fp32 as it did where it was exported: 32 golden samples"
    assert "verified on 20" in second
    monkeypatch.setattr(kept, "engine_version", lambda runtime: "2030.1")
    watched(small)
    assert asked == ["fp32", "fp32"]


def test_a_watch_does_not_begin_where_answers_differ(
    small: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stale = changed_bundle(small, tmp_path / "b", manifest=heat)
    for _ in range(2):  # a bad result is no reason not to ask again
        with pytest.raises(AnswersDiffer, match=r"b does not answer here as .* exported: fp32 has the temperature 9"):
            watched(stale)
    real = OpenVinoRunner._infer
    monkeypatch.setattr(
        OpenVinoRunner, "_infer", lambda self, feed: {name: -array for name, array in real(self, feed).items()}
    )
    with pytest.raises(AnswersDiffer, match="openvino fp32 does not run this graph"):
        watched(small)


def test_a_watch_is_not_kept_from_what_is_right_by_another_variant(small: Path, tmp_path: Path) -> None:
    def heat_int8(manifest: dict[str, Any]) -> None:
        manifest["variants"][quantised]["temperature"]["level"] = 9.0

    quantised = next(name for name in Bundle.open(small).passed if name != "fp32")
    stale = changed_bundle(small, tmp_path / "b", manifest=heat_int8)
    for _ in range(2):  # the second start decides as the first one did
        watched(stale)
        with pytest.raises(AnswersDiffer, match=f"exported: {quantised} has the temperature 9"):
            watched(stale, quantised)


def test_a_watch_begins_where_an_engine_cannot_tell_its_layers(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: OpenVinoRunner) -> Any:
        raise TypeError("get_runtime_model() takes 2 positional arguments")

    monkeypatch.setattr(OpenVinoRunner, "layers", broken)
    watched(small)
    (row,) = verify_bundle(small, runtime="openvino", variant="fp32").rows
    assert row.unproved == "get_runtime_model() takes 2 positional arguments" and not row.wrong


def test_a_watch_asks_again_when_an_engine_was_built_anew(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    real = run.row_of
    monkeypatch.setattr(
        run,
        "row_of",
        lambda bundle, golden, classifier, variant: (
            asked.append(classifier.engine_files) or real(bundle, golden, classifier, variant)
        ),
    )
    for sha256 in ("a", "a", "b", "b"):
        monkeypatch.setattr(OpenVinoRunner, "engine_file", sha256)
        watched(small)
    assert asked == ["a a", "b b"]


def test_a_bundle_that_was_moved_or_replaced_is_not_there(small: Path, other: Path, tmp_path: Path) -> None:
    shutil.copytree(small, tmp_path / "b")
    keep(verify_bundle(tmp_path / "b", runtime="openvino", variant="fp32"))
    (known,) = last_results()
    assert known.is_there
    shutil.rmtree(tmp_path / "b")
    assert not known.is_there
    shutil.copytree(other, tmp_path / "b")
    assert not known.is_there


def test_a_bundle_without_golden_samples_is_watched_with_a_word(
    small: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    watched(changed_bundle(small, tmp_path / "b", manifest=lambda manifest: manifest["files"].pop("golden.zip")))
    (said,) = (record.getMessage() for record in caplog.records if record.name == start.__name__)
    assert said == "b is not verified: it has no golden samples: taken out after the export"
    assert last_results() == []
