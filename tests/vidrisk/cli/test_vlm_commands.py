"""Tests of vision-language models with the commands of the documents.

They cover data set, configuration, train, export, infer and verify.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from trees import SSV2_TEMPLATES, UCF_CLASSES, encoded, write_ssv2, write_ucf101
from vlms import save_qwen

from vidrisk.inference.predictions import read_predictions
from vidrisk.runtimes import Bundle

REPOSITORY = Path(__file__).resolve().parents[3]
SMALL = (
    "pixel.height=56",
    "pixel.width=84",
    "frames=4",
    "optim.epochs=1",
    "optim.batch_size=6",
    "optim.accumulate=1",
    "head.hidden=32",
    "head.layers=1",
    "workers=0",
    "precision=fp32",
)

Run = Callable[..., Any]


@pytest.mark.slow(minutes=4)
@pytest.mark.parametrize("name", ["ucf101", "ssv2"])
def test_a_data_set_and_its_configuration_from_train_to_infer(
    name: str, tmp_path: Path, run_line: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands work as in ``docs/ucf101.md`` and ``docs/something-something-v2.md``.

    The test uses a smaller model and smaller frames.
    """
    (tmp_path / "examples").symlink_to(REPOSITORY / "examples")
    write, labels = (write_ucf101, UCF_CLASSES) if name == "ucf101" else (write_ssv2, SSV2_TEMPLATES)
    write(tmp_path / name, clips=True)
    encoded((200, 40, 40), 1000)(tmp_path / "cam7" / "1.mp4")
    backbone = save_qwen(tmp_path / "qwen", "qwen2_5_vl")
    small = [word for setting in SMALL for word in ("--set", setting)]
    run_line(
        f"vidrisk train {name}/ -o run --config examples/qwen2_5vl_{name}.yaml",
        tmp_path,
        "--backbone",
        str(backbone),
        *small,
    )
    assert {"adapter", "head.safetensors", "prompt.json"} <= {path.name for path in (tmp_path / "run").iterdir()}
    run_line(
        "vidrisk export run -o b --int8 --max-drop 60 --max-confidence-drop 60 --allow-drop --search-s 5", tmp_path
    )
    bundle = Bundle.open(tmp_path / "b")
    assert [stage.name for stage in bundle.stages] == ["vision", "text", "head"]
    assert len(bundle.contract.targets[0].labels) == len(labels)
    assert set(bundle.passed) > {"fp32"}
    run_line("vidrisk infer b cam7 -o out", tmp_path, alone=True)
    (row,) = read_predictions(tmp_path / "out")
    assert row.label in bundle.contract.targets[0].labels
    assert (tmp_path / "out" / "report.html").is_file()
    if name == "ucf101":
        monkeypatch.setattr("vidrisk.bench.data.BUDGET_S", 0.0)  # one round
        run_line("vidrisk verify b", tmp_path)
        run_line("vidrisk watch cam7 --bundle b -o watched --once", tmp_path)
        run_line("vidrisk bench b --json", tmp_path)
        run_line(f"vidrisk train {name} -o next --from run --set optim.epochs=1", tmp_path)
        assert (tmp_path / "next" / "base" / "adapter" / "adapter_model.safetensors").is_file()


def test_bad_input_is_one_line(tmp_path: Path, run_line: Run) -> None:
    write_ucf101(tmp_path / "ucf101", clips=True, classes=tuple(UCF_CLASSES)[:2])
    backbone = save_qwen(tmp_path / "qwen", "qwen2_5_vl")
    small = [word for setting in SMALL for word in ("--set", setting)]

    def refused(*more: str) -> str:
        said = run_line(
            "vidrisk train ucf101 -o run", tmp_path, "--backbone", str(backbone), *small, *more, code=2
        ).stderr
        assert not (tmp_path / "run" / "head.safetensors").exists()
        lines = [line for line in said.splitlines() if line.startswith("error")]
        assert len(lines) == 1, said
        return lines[0]

    assert "multiples of 28 pixels" in refused("--set", "pixel.height=50")
    assert "multiples of 2" in refused("--set", "frames=3")
    assert "allowed: q_proj" in refused("--set", "lora.targets=[q_porj]")
    assert "would be cut off" in refused("--set", "vlm.max_tokens=20")
    assert "once, in the reply" in refused("--set", "vlm.prompts=[{question: 'is it <ACT>?', reply: 'it is {token}'}]")
    (backbone / "preprocessor_config.json").rename(backbone / "aside.json")
    assert "has no image processor" in refused()
