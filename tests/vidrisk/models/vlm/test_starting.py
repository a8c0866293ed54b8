"""A run that starts from another run continues from its merged weights: token row, adapters and projector."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from vlm_runs import Trained

from vidrisk.models.bases import bases_of
from vidrisk.models.run import Run
from vidrisk.models.vlm.act_classifier import VlmClassifier
from vidrisk.runtimes.contract.errors import BundleError

pytestmark = pytest.mark.slow(minutes=1)
Train = Callable[..., Trained]


def states(trained: Trained, model: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model.eval().features(trained.frames())
    return found


def without_adapter(run: Run) -> VlmClassifier:
    """Return the backbone that a run was trained on: the merged model from which it started."""
    from vidrisk.models.bases import load_bases
    from vidrisk.models.pretrained import build_classifier

    model = build_classifier(run.config, run.contract)
    load_bases(model, run.bases)
    assert isinstance(model, VlmClassifier)
    return model


@pytest.mark.parametrize(
    "case", ["qwen3_vl", "composed", "composed, untied, no spare row", "vision adapted, merger trained"]
)
def test_a_run_starts_from_what_another_trained_twice_in_a_row(
    train: Train, trained: Train, case: str, tmp_path: Path
) -> None:
    first = trained(case)
    merged = first.run.load_classifier()
    merged.merge()
    second = train(case, "seed=1", start=first.run)
    assert [base.relative_to(second.run.root) for base in second.run.bases] == [Path("base")]
    torch.testing.assert_close(states(first, without_adapter(second.run)), states(first, merged), rtol=0, atol=1e-6)
    reloaded = Run.open(second.run.root).load_classifier()
    assert torch.equal(second.logits(reloaded), second.logits())
    assert not torch.allclose(states(first, reloaded), states(first, merged), atol=1e-3)

    reloaded.merge()
    third = train(case, "seed=2", start=second.run)
    assert [base.relative_to(third.run.root) for base in third.run.bases] == [Path("base/base"), Path("base")]
    torch.testing.assert_close(states(first, without_adapter(third.run)), states(first, reloaded), rtol=0, atol=1e-6)
    place = shutil.move(third.run.root, tmp_path / "moved")  # nothing in it names another run
    shutil.move(second.run.root, tmp_path / "gone")
    assert torch.equal(third.logits(Run.open(place).load_classifier()), third.logits())
    digests = {Run.open(place).digest, Run.open(tmp_path / "gone").digest, first.run.digest}
    assert len(digests) == 3
    shutil.rmtree(Path(place) / "base" / "base")
    assert Run.open(place).digest not in digests


def test_a_run_may_train_a_merger_that_its_start_left_alone(train: Train, trained: Train) -> None:
    first = trained("qwen2_5_vl")
    second = train("qwen2_5_vl", "optim.projector_lr=0.001", start=first.run)
    assert not (second.run.root / "base" / "projector.safetensors").exists()
    assert torch.equal(second.logits(Run.open(second.run.root).load_classifier()), second.logits())
    third = train("qwen2_5_vl", start=second.run)  # and leaves it alone again
    assert not (third.run.root / "projector.safetensors").exists() and len(bases_of(third.run.root)) == 2
    assert torch.equal(third.logits(Run.open(third.run.root).load_classifier()), third.logits())


def test_a_trained_projector_is_gone_on_from(train: Train, trained: Train) -> None:
    """Training continues from a trained projector and does not standardise it again, which would change it."""
    first = trained("composed")
    second = train("composed", "optim.projector_lr=0", "optim.lora_lr=0", "optim.token_lr=0", start=first.run)
    before, after = first.model.backbone.own_projector.state_dict(), second.model.backbone.own_projector.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in after.items())
    merged = first.run.load_classifier()
    merged.merge()
    torch.testing.assert_close(states(first, second.model), states(first, merged), rtol=0, atol=1e-6)


def test_a_base_that_lost_a_part_is_refused(train: Train, trained: Train) -> None:
    second = train("composed", start=trained("composed").run)
    base = second.run.root / "base"
    for name in ("projector.safetensors", "adapter"):
        shutil.move(base / name, second.run.root / "aside")
        with pytest.raises(BundleError, match="base is not what the run started from; fix: copy the run whole"):
            Run.open(second.run.root).load_classifier()
        shutil.move(second.run.root / "aside", base / name)
    settings = base / "adapter" / "adapter_config.json"
    content = json.loads(settings.read_text())
    settings.write_text(
        json.dumps(content | {"lora_alpha": 2 * content["lora_alpha"]})
    )  # the same weights, twice as strong
    with pytest.raises(BundleError, match="base is not what the run started from"):
        Run.open(second.run.root).load_classifier()
