"""Tests of the file of golden samples: written, read again, and manipulated in every way that can be sealed."""

from __future__ import annotations

import functools
import io
import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from vidrisk.runtimes import Bundle, Contract, write_bundle
from vidrisk.runtimes import golden as module
from vidrisk.runtimes.contract.errors import AnswersDiffer, BundleError
from vidrisk.runtimes.contract.probabilities import probabilities_from_logits
from vidrisk.runtimes.golden import (
    GOLDEN,
    Description,
    Expected,
    most_samples,
    read_golden,
    webp_from_frame,
    write_golden,
)

SAMPLES = 3
LOGITS = np.array([[3, 0, 1], [0, 2.5, 0], [0, 0.25, 0.5]], np.float32)
Make = Callable[..., Bundle]


def described(
    contract: Contract, variants: tuple[str, ...] = ("fp32", "int8"), temperature: float = 1.5
) -> Description:
    probabilities = probabilities_from_logits(LOGITS, temperature)
    expected = Expected(
        files={},
        temperature={"action": temperature},
        logits={"action": LOGITS.tolist()},
        probabilities={"action": probabilities.tolist()},
    )
    return Description(
        contract=contract.digest,
        runtime="onnxruntime",
        engine="1.30",
        samples=SAMPLES,
        variants=dict.fromkeys(variants, expected),
    )


@pytest.fixture
def frames(contract: Contract) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (SAMPLES, contract.frames, *contract.pixel.frame_shape), np.uint8)


@pytest.fixture
def sealed(make_bundle: Make, frames: np.ndarray, tmp_path: Path) -> Callable[..., Bundle]:
    """Return a function that writes a bundle with golden samples; ``change`` modifies golden.json and the entries."""

    def seal(
        change: Callable[[dict[str, Any], dict[str, bytes]], None] = lambda told, entries: None,
        compression: int = zipfile.ZIP_STORED,
        content: bytes | None = None,
    ) -> Bundle:
        shutil.rmtree(tmp_path / "a.bundle", ignore_errors=True)
        shutil.rmtree(tmp_path / "b.bundle", ignore_errors=True)
        plain = make_bundle()
        told: dict[str, Any] = json.loads(described(plain.contract).model_dump_json())
        entries = {
            f"{n}.{t}.webp": webp_from_frame(frame) for n, clip in enumerate(frames) for t, frame in enumerate(clip)
        }
        change(told, entries)
        path = tmp_path / GOLDEN
        with zipfile.ZipFile(path, "w", compression) as archive:
            for name, data in {"golden.json": json.dumps(told).encode(), **entries}.items():
                archive.writestr(name, data)
        if content is not None:
            path.write_bytes(content)
        files = {name: plain.root / name for name in plain.manifest.files} | {GOLDEN: path}
        return write_bundle(tmp_path / "b.bundle", plain.manifest, files)

    return seal


def test_what_was_written_is_read_again(make_bundle: Make, frames: np.ndarray, tmp_path: Path) -> None:
    plain = make_bundle()
    assert read_golden(plain) is None
    told, pictures = described(plain.contract), [[webp_from_frame(frame) for frame in clip] for clip in frames]
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_golden(tmp_path / name / GOLDEN, told, pictures)
    assert (tmp_path / "one" / GOLDEN).read_bytes() == (tmp_path / "two" / GOLDEN).read_bytes()
    files = {name: plain.root / name for name in plain.manifest.files} | {GOLDEN: tmp_path / "one" / GOLDEN}
    found = read_golden(write_bundle(tmp_path / "b.bundle", plain.manifest, files))
    assert found is not None and found.told == told
    np.testing.assert_array_equal(found.frames, frames)
    np.testing.assert_allclose(found.logits("int8")["action"], LOGITS)
    np.testing.assert_allclose(found.probabilities("int8")["action"], probabilities_from_logits(LOGITS, 1.5))


def without(key: str) -> Callable[[dict[str, Any], dict[str, bytes]], None]:
    return lambda told, entries: told.pop(key)


def in_fp32(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any], dict[str, bytes]], None]:
    return lambda told, entries: change(told["variants"]["fp32"]) and None


def picture(size: tuple[int, int] = (8, 8), mode: str = "RGB", form: str = "WEBP", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size).save(file, form, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (without("samples"), "samples: Field required"),
        (lambda told, entries: told.update(version=2), "version: Input should be 1"),
        (lambda told, entries: told.update(samples=33), "samples: Input should be less than or equal to 32"),
        (lambda told, entries: told.update(samples=2), "logits of action are not 2 rows of 3"),
        (lambda told, entries: told.update(extra=1), "extra: Extra inputs are not permitted"),
        (in_fp32(lambda one: one["logits"]["action"][0].append(1)), "logits of action are not 3 rows of 3"),
        (in_fp32(lambda one: one["logits"].update(action=[])), "logits of action are not 3 rows of 3"),
        (in_fp32(lambda one: one["logits"].update(x=[])), "logits are of the targets action, x"),
        (in_fp32(lambda one: one["probabilities"].pop("action")), "probabilities are of the targets"),
        (
            in_fp32(lambda one: one["logits"]["action"][0].__setitem__(0, float("nan"))),
            "Input should be a finite number",
        ),
        (in_fp32(lambda one: one["logits"]["action"][0].__setitem__(0, "three")), "Input should be a valid number"),
        (
            in_fp32(lambda one: one["logits"]["action"][0].__setitem__(0, 3.1)),
            "probabilities of action are not those of its logits",
        ),
        (
            in_fp32(lambda one: one["temperature"].update(action=3)),
            "probabilities of action are not those of its logits",
        ),
        (in_fp32(lambda one: one["temperature"].update(action=0)), "greater than or equal to 0.001"),
        (
            lambda told, entries: entries.pop("2.3.webp") and None,
            "it does not hold exactly the 12 pictures of 3 samples",
        ),
        (
            lambda told, entries: entries.update({"../x.webp": b""}),
            "it does not hold exactly the 12 pictures of 3 samples",
        ),
        (lambda told, entries: entries.update({"0.0.webp": picture((9, 8))}), "0.0.webp is not an RGB picture of 8x8"),
        (
            lambda told, entries: entries.update({"0.0.webp": picture(mode="RGBA", lossless=True)}),
            "0.0.webp is not an RGB picture",
        ),
        (lambda told, entries: entries.update({"0.0.webp": picture(form="PNG")}), "cannot identify image file"),
        (lambda told, entries: entries.update({"0.0.webp": b"RIFF"}), "cannot identify image file"),
        (lambda told, entries: entries.update({"0.0.webp": bytes(9000)}), "larger than 4480 bytes"),
        (
            lambda told, entries: entries.update(
                {"0.0.webp": picture(save_all=True, append_images=[Image.new("RGB", (8, 8), "red")])}
            ),
            "0.0.webp is not an RGB picture",
        ),
    ],
)
def test_golden_samples_that_make_no_sense(sealed: Callable[..., Bundle], change: Any, why: str) -> None:
    with pytest.raises(
        BundleError, match=rf"golden\.zip in b\.bundle is not a valid file of golden samples: .*({why})"
    ):
        read_golden(sealed(change))


@pytest.mark.parametrize("content", [b"", b"PK", b"no archive at all" * 100])
def test_a_file_that_is_no_archive(sealed: Callable[..., Bundle], content: bytes) -> None:
    with pytest.raises(BundleError, match="is not a valid file of golden samples: "):
        read_golden(sealed(content=content))


def test_nothing_is_unpacked(sealed: Callable[..., Bundle]) -> None:
    with pytest.raises(BundleError, match=r"golden\.json is compressed"):
        read_golden(sealed(compression=zipfile.ZIP_DEFLATED))


def test_an_archive_that_is_too_large_is_not_opened(
    sealed: Callable[..., Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list of an archive's entries alone can take several times its size in memory."""
    monkeypatch.setattr(module, "MAX_DESCRIPTION_BYTES", 1 << 16)
    many = io.BytesIO()
    with zipfile.ZipFile(many, "w") as archive:
        for number in range(20_000):
            archive.writestr(str(number), b"")
    bundle = sealed(content=many.getvalue())
    monkeypatch.setattr(zipfile, "ZipFile", None)
    with pytest.raises(BundleError, match=r"it has \d+ bytes; 112 pictures take at most \d+; fix"):
        read_golden(bundle)


def test_an_archive_that_was_damaged_and_sealed_again(sealed: Callable[..., Bundle]) -> None:
    whole = (sealed().root / GOLDEN).read_bytes()
    for cut in (len(whole) // 2, len(whole) - 10):
        with pytest.raises(BundleError, match="is not a valid file of golden samples: "):
            read_golden(sealed(content=whole[:cut]))
    at = whole.index(b"VP8L") + 20
    with pytest.raises(BundleError, match="Bad CRC-32"):
        read_golden(sealed(content=whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :]))


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_is_in_the_file_is_one_line_or_samples(
    sealed: Callable[..., Bundle], data: st.DataObject, tmp_path: Path
) -> None:
    if not (tmp_path / "whole").exists():
        (tmp_path / "whole").write_bytes((sealed().root / GOLDEN).read_bytes())
    content = bytearray((tmp_path / "whole").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "b.bundle" / GOLDEN).write_bytes(content)
    try:
        found = read_golden(Bundle(tmp_path / "b.bundle", *_opened(tmp_path)))
    except (BundleError, AnswersDiffer):
        return
    assert found is not None and found.frames.shape[0] == found.told.samples


@functools.cache
def _opened(folder: Path) -> tuple[Any, str]:
    """Return the manifest and digest of the bundle with its original golden samples."""
    shutil.copytree(folder / "b.bundle", folder / "c.bundle")
    shutil.copy(folder / "whole", folder / "c.bundle" / GOLDEN)
    opened = Bundle.open(folder / "c.bundle")
    return opened.manifest, opened.digest


def test_a_picture_that_is_damaged_is_one_line(sealed: Callable[..., Bundle], frames: np.ndarray) -> None:
    whole = webp_from_frame(frames[0, 0])
    for at in range(0, len(whole), 3):
        damaged = whole[:at] + bytes([whole[at] ^ 0x5A]) + whole[at + 1 :]
        try:
            read_golden(sealed(lambda told, entries, damaged=damaged: entries.update({"0.0.webp": damaged})))
        except BundleError as error:
            assert "is not a valid file of golden samples: " in str(error)


def test_other_variants_are_another_model(sealed: Callable[..., Bundle]) -> None:
    with pytest.raises(AnswersDiffer, match="belong to another model: variants fp32, not fp32, int8"):
        read_golden(sealed(lambda told, entries: told["variants"].pop("int8") and None))


def test_an_archive_that_promises_more_than_it_holds(sealed: Callable[..., Bundle]) -> None:
    whole = bytearray((sealed().root / GOLDEN).read_bytes())
    whole[26:30] = (60_000).to_bytes(4, "little")  # the length of the first entry's name
    with pytest.raises(BundleError, match="is not a valid file of golden samples: "):
        read_golden(sealed(content=bytes(whole)))


def test_another_contract_is_another_model(sealed: Callable[..., Bundle]) -> None:
    with pytest.raises(AnswersDiffer, match=r"golden samples in b\.bundle belong to another model") as refusal:
        read_golden(sealed(lambda told, entries: told.update(contract="0" * 64)))
    assert refusal.value.exit_code == 3


def test_samples_are_as_many_as_engines_answer_soon_and_memory_holds(
    contract: Contract, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of(frames: int) -> int:
        assert contract.time is not None
        return most_samples(contract.model_copy(update={"time": replace(contract.time, frames=frames)}))

    assert [of(frames) for frames in (1, 8, 16, 64, 4096)] == [32, 14, 7, 1, 1]
    monkeypatch.setattr(module, "MAX_DECODED_BYTES", 8 * 8 * 3 * 20)
    assert [of(frames) for frames in (1, 8, 16, 64)] == [20, 2, 1, 0]
