"""Tests of the real training loop on vision-language models: changed parts, unchanged parts, and reloading."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor
from vlm_runs import CASES, Trained

from vidrisk.models.run import Run
from vidrisk.models.vlm.act_classifier import VlmClassifier
from vidrisk.runtimes.contract.errors import BundleError

Make = Callable[..., Any]
pytestmark = pytest.mark.slow(minutes=1)
every_case = pytest.mark.parametrize("case", CASES)


def plain_name(name: str) -> str:
    """Return the name of a parameter without the parts that PEFT adds."""
    for part in ("base_model.model.", ".base_layer", ".token_adapter"):
        name = name.replace(part, "." if part.startswith("base_model") else "")
    return (
        name.replace("..", ".").replace("model.model.", "model.", 1)
        if "base_model" in name
        else name.replace("..", ".")
    )


@every_case
def test_only_the_row_the_adapters_the_projector_and_the_head_change(
    trained: Callable[[str], Trained], case: str
) -> None:
    was = trained(case)
    fresh = was.fresh()
    lora, projector = was.run.config.lora, fresh.trains_projector
    before = {name: value.clone() for name, value in fresh.backbone.base.state_dict().items()}
    # The very model that was trained: everything but what was to be trained is as it was, to the bit.
    now = {
        plain_name(name): value
        for name, value in was.model.backbone.base.state_dict().items()
        if "lora_" not in name and "trainable_tokens" not in name
    }
    assert now.keys() == before.keys()
    changed = {name for name, value in now.items() if not torch.equal(value, before[name])}
    assert all("merger" in name for name in changed) and bool(changed) is (
        projector and not fresh.backbone.has_own_projector
    )
    trainable = {name: p for name, p in was.model.named_parameters() if p.requires_grad}
    assert all(
        any(part in name for part in ("lora_", "trainable_tokens_delta", "head.", "merger", "own_projector"))
        for name in trainable
    )
    rows = [p for name, p in trainable.items() if "trainable_tokens_delta" in name]
    start = fresh.backbone.embed(torch.tensor([fresh.backbone.token]))
    if "language" in lora.parts:
        assert rows and all(row.shape == (1, 64) and not torch.equal(row, start) for row in rows)
    assert all(p.abs().max() > 0 for name, p in trainable.items() if "lora_B" in name)
    assert all(p.abs().max() > 0 for p in was.model.head.head.classifiers.parameters())
    if fresh.backbone.has_own_projector:
        own = was.model.backbone.own_projector
        assert any(p.requires_grad for p in own.parameters()) is projector


@every_case
def test_reloading_gives_equal_logits_to_the_bit(trained: Callable[[str], Trained], case: str) -> None:
    was = trained(case)
    expected, found = was.logits(), was.logits(Run.open(was.run.root).load_classifier())
    assert expected.std() > 0.01 and torch.equal(found, expected)


@every_case
def test_merging_changes_logits_by_rounding_and_keeps_the_tie(trained: Callable[[str], Trained], case: str) -> None:
    was = trained(case)
    model = was.run.load_classifier()
    model.merge()
    assert isinstance(model, VlmClassifier)
    torch.testing.assert_close(was.logits(model), was.logits(), rtol=0, atol=1e-4)
    ends = [model.backbone.base.get_input_embeddings().weight, model.backbone.base.get_output_embeddings().weight]
    assert (ends[0].data_ptr() == ends[1].data_ptr()) is ("untied" not in case)
    assert not any(p.requires_grad for p in model.backbone.parameters())
    row = next((p for name, p in was.model.named_parameters() if "trainable_tokens_delta" in name), None)
    assert row is None or torch.equal(ends[0][model.backbone.token], row[0])


@pytest.fixture
def copy(trained: Callable[[str], Trained], tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that copies the run of a named case; a test may change the copy."""
    return lambda case: Path(shutil.copytree(trained(case).run.root, tmp_path / "copy"))


def refused(root: Path, said: str) -> None:
    with pytest.raises(BundleError, match=said) as caught:
        Run.open(root).load_classifier()
    assert len(str(caught.value).splitlines()) == 1


PARTS = {  # and a case with another one
    "head.safetensors": "DoRA, rank-stabilised",
    "projector.safetensors": "vision adapted, merger trained",
    "prompt.json": "qwen2_5_vl",
    "adapter/adapter_model.safetensors": "DoRA, rank-stabilised",
    "adapter/adapter_config.json": "DoRA, rank-stabilised",
}


@pytest.mark.parametrize("damage", ["missing", "cut off", "empty", "of another model"])
@pytest.mark.parametrize("name", PARTS)
def test_a_part_that_is_missing_damaged_or_foreign_is_an_error(
    trained: Callable[[str], Trained], copy: Callable[[str], Path], name: str, damage: str
) -> None:
    """A missing, damaged or foreign part raises an error; it is never replaced by random weights."""
    root = copy("composed")
    path = root / name
    whole = path.read_bytes()
    path.unlink()
    if damage in ("cut off", "empty"):
        path.write_bytes(whole[: len(whole) // 2] if damage == "cut off" else b"")
    elif damage == "of another model":
        shutil.copyfile(trained(PARTS[name]).run.root / name, path)
    refused(
        root, "it lacks head|cannot be read|does not fit|holds no adapter|is damaged|gives a different prompt|lacks its"
    )


def replace_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    from safetensors.torch import load, save

    content = save({**load(path.read_bytes()), **tensors})
    path.unlink()
    path.write_bytes(content)


def test_a_trained_merger_that_is_missing_is_an_error(copy: Callable[[str], Path]) -> None:
    """A missing trained merger is an error, because the pretrained merger would take its place."""
    root = copy("vision adapted, merger trained")
    (root / "projector.safetensors").unlink()
    refused(root, r"lacks its projector\.safetensors; fix: copy the run whole")


def test_pickled_weights_are_ignored(copy: Callable[[str], Path]) -> None:
    root = copy("composed")
    for path in (root / "head.safetensors", root / "projector.safetensors", root / "adapter/adapter_model.safetensors"):
        whole = load_file(path)
        torch.save({name: value.clone() for name, value in whole.items()}, path.with_suffix(".bin"))
    Run.open(root).load_classifier()
    (root / "projector.safetensors").unlink()
    refused(root, "projector.safetensors cannot be read: No such file")
    (root / "adapter/adapter_model.safetensors").unlink()
    refused(root, "holds no adapter|cannot be read")


def test_an_adapter_of_another_family_is_refused(
    trained: Callable[[str], Trained], copy: Callable[[str], Path]
) -> None:
    root = copy("qwen2_5_vl")
    shutil.rmtree(root / "adapter")
    shutil.copytree(trained("qwen3_vl").run.root / "adapter", root / "adapter")
    refused(
        root,
        r"does not fit the backbone: it was made for Qwen3VLFor\w+, and this is Qwen2_5_VLFor\w+; fix: use the backbone",
    )
    shutil.rmtree(root / "adapter")
    refused(root, "lacks its adapter folder; fix: copy the run whole")


@pytest.mark.parametrize("row", [10**6, 640])
def test_an_adapter_of_a_row_that_is_not_there_is_refused(copy: Callable[[str], Path], row: int) -> None:
    root = copy("composed")
    path = root / "adapter/adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"trainable_token_indices": [row]}))
    refused(root, "adapter does not fit the backbone: ")


def moved(root: Path, old: Path, new: Path) -> None:
    """Replace one folder by another in a run's configuration."""
    text = (root / "config.yaml").read_text(encoding="utf-8")
    assert str(old) in text
    (root / "config.yaml").write_text(text.replace(str(old), str(new)), encoding="utf-8")


def test_a_tokenizer_that_changed_after_training_is_refused(
    qwen_folder: Make, copy: Callable[[str], Path], tmp_path: Path
) -> None:
    root, old = copy("qwen2_5_vl"), qwen_folder("qwen2_5_vl")
    new = Path(shutil.copytree(old, tmp_path / "backbone"))
    moved(root, old, new)
    Run.open(root).load_classifier()
    tokenizer = transformers.AutoTokenizer.from_pretrained(new)
    tokenizer.add_tokens(["<EXTRA>"], special_tokens=True)
    tokenizer.save_pretrained(new)
    refused(
        root,
        r"gives a different prompt from the one in .*prompt\.json; fix: use the backbone that the run was trained with",
    )


def test_a_chat_template_that_changed_after_training_is_refused(
    qwen_folder: Make, copy: Callable[[str], Path], tmp_path: Path
) -> None:
    root, old = copy("qwen2_5_vl"), qwen_folder("qwen2_5_vl")
    new = Path(shutil.copytree(old, tmp_path / "backbone"))
    moved(root, old, new)
    template = new / "chat_template.jinja"
    template.write_text(template.read_text().replace("helpful assistant", "very helpful assistant"))
    refused(root, "gives a different prompt")


def test_a_backbone_of_another_family_is_refused(qwen_folder: Make, copy: Callable[[str], Path]) -> None:
    root = copy("qwen2_5_vl")
    moved(root, qwen_folder("qwen2_5_vl"), qwen_folder("qwen2_5_vl", layers=2))
    refused(root, "adapter does not fit the backbone")


def test_a_run_that_was_moved_opens(trained: Callable[[str], Trained], copy: Callable[[str], Path]) -> None:
    was = trained("composed")
    assert torch.equal(was.logits(Run.open(copy("composed")).load_classifier()), was.logits())


@pytest.mark.parametrize("name", ["head.safetensors", "projector.safetensors", "adapter/adapter_model.safetensors"])
def test_the_digest_is_of_every_trained_file(copy: Callable[[str], Path], name: str) -> None:
    root = copy("composed")
    before = Run.open(root).digest
    assert Run.open(root).digest == before
    tensors = load_file(root / name)
    first = next(iter(tensors))
    replace_tensors(root / name, {first: tensors[first] + 1})
    assert Run.open(root).digest != before


def test_a_digest_of_a_run_without_further_files_is_as_it_was(copy: Callable[[str], Path]) -> None:
    """The digest of a run without further files is unchanged; bundles and caches of earlier versions name it."""
    import hashlib

    root = copy("qwen2_5_vl")
    parts = [(root / name).read_bytes() for name in ("head.safetensors", "adapter/adapter_model.safetensors")]
    assert Run.open(root).digest == hashlib.sha256(b"".join(parts)).hexdigest()
