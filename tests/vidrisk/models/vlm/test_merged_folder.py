"""A trained Qwen-VL is written as a folder with everything that other software needs to serve it.

The origin of its backbone does not matter.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from trained_reporters import report_config
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from vlms import QWEN, enliven

from vidrisk.models.config import TrainConfig
from vidrisk.models.pretrained import Labels, build_reporter, contract_from_config, resolve_config
from vidrisk.models.run import Run
from vidrisk.models.vlm.layout import Grid
from vidrisk.models.vlm.merged_folder import write_merged
from vidrisk.models.vlm.reporter import Reporter
from vidrisk.models.vlm.sequences import batch_from_sequences, sequence_from_parts
from vidrisk.runtimes.contract.errors import SettingsError
from vidrisk.runtimes.text.turns import Parts, Photo

LABELS = Labels(targets=(), clips=False)
EDGE = {"qwen2_5_vl": 56, "qwen3_vl": 64}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, str], Path]:
    """Return a function that puts a folder into the local hub cache under a hub id.

    It returns the snapshot, which has the form that a download leaves.
    """
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))

    def put(folder: Path, name: str) -> Path:
        root = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
        commit = "0123456789abcdef" * 2 + "01234567"
        (root / "refs").mkdir(parents=True)
        (root / "refs" / "main").write_text(commit)
        return Path(shutil.copytree(folder, root / "snapshots" / commit))

    return put


def built(backbone: str, kind: str) -> tuple[Reporter, TrainConfig]:
    edge = EDGE[kind]
    config = resolve_config(report_config(backbone, "", f"pixel.height={edge}", f"pixel.width={edge}"), clips=False)
    torch.manual_seed(0)
    return build_reporter(config, contract_from_config(config, LABELS).pixel), config


def losses(model: Reporter, kind: str) -> torch.Tensor:
    parts = Parts((np.array([5, 6]), Photo(0), np.array([7, 8, 9, 10])), (False, False, True))
    frames = torch.randint(
        0, 256, (1, EDGE[kind], EDGE[kind], 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    sequence = sequence_from_parts(parts, Grid(1, 2, 2))
    with torch.inference_mode():
        return model.eval().losses(batch_from_sequences([sequence], frames, model.positions))[0]


@pytest.mark.parametrize("kind", QWEN)
def test_a_backbone_of_the_hub_is_merged_with_its_processor(
    kind: str, qwen_folder: Callable[..., Path], tmp_path: Path, hub: Callable[[Path, str], Path]
) -> None:
    snapshot = hub(qwen_folder(kind), f"org/{kind}")
    model, config = built(f"org/{kind}", kind)
    fresh = losses(model, kind)
    model.adapt(config)
    enliven(model)
    Run(tmp_path / "run", config, LABELS).save(model)
    write_merged(tmp_path / "run", tmp_path / "merged")
    for name in ("preprocessor_config.json", "video_preprocessor_config.json"):
        assert (tmp_path / "merged" / name).read_bytes() == (snapshot / name).read_bytes()
    assert Qwen2VLImageProcessorPil.from_pretrained(tmp_path / "merged").merge_size == 2
    again, _ = built(str(tmp_path / "merged"), kind)  # which looks for a processor
    torch.testing.assert_close(losses(again, kind), losses(model, kind), rtol=0, atol=1e-4)
    assert (losses(again, kind) - fresh).abs().max() > 1e-2


def test_a_backbone_whose_processor_has_gone_is_refused(
    qwen_folder: Callable[..., Path], tmp_path: Path, hub: Callable[[Path, str], Path]
) -> None:
    kind = "qwen2_5_vl"
    snapshot = hub(qwen_folder(kind), f"org/{kind}")
    model, _ = built(f"org/{kind}", kind)
    for path in snapshot.glob("*processor_config.json"):
        path.unlink()
    with pytest.raises(
        SettingsError, match=r"backbone 'org/qwen2_5_vl' has no image processor; allowed: .*; fix: copy"
    ) as caught:
        write_merged(model, tmp_path / "merged")
    assert "\n" not in str(caught.value) and not (tmp_path / "merged").exists()
