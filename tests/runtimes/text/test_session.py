"""Tests of a text graph with a cache: logits are the same for tokens alone, in a batch or after cached tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from tiny_text import POSITIONS, WIDTH, builders_graph

from vidrisk.calibration.files import save_graph
from vidrisk.runtimes.contract.errors import BundleError, RuntimeFailure, SettingsError
from vidrisk.runtimes.text import session as module
from vidrisk.runtimes.text.session import TextSession

Make = Callable[..., TextSession]
RUNTIMES = ("onnxruntime", "openvino")
IDS = np.random.default_rng(3).integers(0, 256, (4, 40))


def alone(session: TextSession, ids: np.ndarray) -> np.ndarray:
    session.truncate(0, 0)
    return session.extend(0, session.embed(ids), rows=len(ids)).copy()


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_sequences_of_any_length_share_a_step(make_session: Make, runtime: str) -> None:
    session = make_session(runtime=runtime)
    wanted = [alone(session, ids) for ids in IDS]
    lengths = [10, 3, 25, 1]
    for slot, length in enumerate(lengths):
        session.truncate(slot, 0)
        session.extend(slot, session.embed(IDS[slot, :length]))
    for step in range(5):
        logits = session.step(
            session.embed(np.array([ids[length + step] for ids, length in zip(IDS, lengths, strict=True)]))
        )
        for slot, length in enumerate(lengths):
            np.testing.assert_allclose(logits[slot], wanted[slot][length + step], atol=1e-4)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_long_prompt_is_read_in_chunks(make_session: Make, monkeypatch: pytest.MonkeyPatch, runtime: str) -> None:
    session = make_session(runtime=runtime)
    wanted = alone(session, IDS[0])
    monkeypatch.setattr(module, "CHUNK_TOKENS", 7)
    for rows in (1, 7, 8, 40):
        session.truncate(0, 0)
        np.testing.assert_allclose(session.extend(0, session.embed(IDS[0]), rows=rows), wanted[-rows:], atol=1e-4)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_sequence_goes_on_from_where_it_is_cut_off(make_session: Make, runtime: str) -> None:
    session = make_session(runtime=runtime)
    wanted = alone(session, IDS[0])
    session.truncate(0, 20)
    session.extend(0, session.embed(IDS[1, :10]))
    session.truncate(0, 20)
    np.testing.assert_allclose(session.extend(0, session.embed(IDS[0, 20:]), rows=20), wanted[20:], atol=1e-4)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_sequence_moves_and_is_copied(make_session: Make, runtime: str) -> None:
    session = make_session(runtime=runtime)
    wanted = alone(session, IDS[0])
    session.truncate(2, 0)
    session.extend(2, session.embed(IDS[0, :30]))
    kept = session.copy_out(2)
    session.move(2, 1)
    session.copy_in(3, kept)
    assert (session.length(1), session.length(2), session.length(3)) == (30, 0, 30)
    for slot in (1, 3):
        np.testing.assert_allclose(session.extend(slot, session.embed(IDS[0, 30:]), rows=10), wanted[30:], atol=1e-4)


def test_a_full_cache_is_an_error(make_session: Make) -> None:
    session = make_session(tokens=16)
    session.extend(0, session.embed(IDS[0, :16]))
    with pytest.raises(RuntimeFailure, match="16 tokens"):
        session.step(session.embed(IDS[0, :1]))
    with pytest.raises(RuntimeFailure, match="17 more"):
        session.extend(1, session.embed(IDS[0, :17]))


def test_a_closed_session_says_so(make_session: Make) -> None:
    session = make_session()
    session.close()
    with pytest.raises(RuntimeFailure, match="closed"):
        session.extend(0, np.zeros((1, WIDTH), np.float32))


def test_memory_is_said_and_checked(make_session: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    session = make_session(sequences=3, tokens=100)
    assert session.cache_bytes == 3 * 100 * session.shape.token_bytes == session._cache.nbytes
    monkeypatch.setattr(module, "available_bytes", lambda: 2 * 100 * session.shape.token_bytes)
    with pytest.raises(SettingsError, match="at most 2 sequences"):
        make_session(sequences=3, tokens=100)


@pytest.mark.parametrize(("sequences", "tokens"), [(0, 10), (1, 1), (1, POSITIONS + 1)])
def test_sizes_that_make_no_sense_are_refused(make_session: Make, sequences: int, tokens: int) -> None:
    with pytest.raises(SettingsError, match=f"2 to {POSITIONS} tokens"):
        make_session(sequences=sequences, tokens=tokens)


def test_other_graphs_and_embeddings_are_refused(text_folder: Path, tmp_path: Path) -> None:
    table = text_folder / "embeddings.npy"
    save_graph(builders_graph(), tmp_path / "raw.onnx")
    with pytest.raises(BundleError, match="not a text graph"):
        TextSession(tmp_path / "raw.onnx", table)
    unsized = onnx.load(text_folder / "text.onnx")
    del unsized.metadata_props[:]
    onnx.save(unsized, tmp_path / "unsized.onnx")
    with pytest.raises(BundleError, match="does not declare its sizes"):
        TextSession(tmp_path / "unsized.onnx", table)
    (tmp_path / "broken.onnx").write_bytes(b"\x08")
    for runtime in RUNTIMES:
        with pytest.raises(RuntimeFailure, match="cannot load"):
            TextSession(tmp_path / "broken.onnx", table, runtime=runtime)  # type: ignore[arg-type]
    for other, runtime in (("plain.onnx", "onnxruntime"), ("text.onnx", "openvino")):
        with pytest.raises((BundleError, RuntimeFailure), match=r"not a text graph|cannot load"):
            TextSession(text_folder / other, table, runtime=runtime)  # type: ignore[arg-type]
    np.save(tmp_path / "narrow.npy", np.zeros((258, 32), np.float32))
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    for name, said in (
        ("narrow", r"\[258, 32\]"),
        ("objects", "cannot be read as embeddings"),
        ("absent", "cannot be read as embeddings"),
    ):
        with pytest.raises(BundleError, match=said):
            TextSession(text_folder / "text.onnx", tmp_path / f"{name}.npy", tokens=16)
