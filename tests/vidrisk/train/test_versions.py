"""Tests of run directories and checkpoints that 0.1.0 and other versions wrote."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from vidrisk.jobs.export import _read_recorded
from vidrisk.models.run import Run
from vidrisk.runtimes.contract.errors import BundleError, VidriskError
from vidrisk.train.averaging import WeightAverage
from vidrisk.train.checkpoint import Checkpoint
from vidrisk.train.history import Epoch

OLD = Path(__file__).resolve().parents[2] / "fixtures" / "0.1.0"
Change = Callable[[dict[str, Any]], dict[str, Any]]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(OLD / "run", tmp_path / "run"))


def change(path: Path, by: Change) -> None:
    text = path.read_text(encoding="utf-8")
    changed = by(yaml.safe_load(text) if path.suffix == ".yaml" else json.loads(text))
    path.write_text(yaml.safe_dump(changed) if path.suffix == ".yaml" else json.dumps(changed), encoding="utf-8")


def test_a_run_of_0_1_0_is_read(run: Path) -> None:
    opened = Run.open(run)
    assert (opened.config.frames, opened.contract.frames, opened.contract.pixel.height) == (2, 2, 64)
    assert opened.labels.targets[0].labels == ("run", "sit")
    table = opened.read_split()
    assert [(sample.name, sample.split, sample.labels["action"]) for sample in table.samples] == [
        ("a.mp4", "train", "run"),
        ("b.mp4", "train", "sit"),
        ("c.mp4", "val", "run"),
    ]
    assert _read_recorded(opened) == ({"action": 0.75}, 4, set())


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("config.yaml", None),
        ("config.yaml", "lora"),
        ("config.yaml", "optim"),
        ("labels.json", None),
        ("labels.json", "targets"),
        ("metrics.json", None),
    ],
)
def test_other_versions_of_a_run(name: str, key: str | None, run: Path) -> None:
    """Unknown keys of a newer minor version are ignored at any depth; a newer major version is refused in one line."""

    def newer(version: str) -> Change:
        def by(content: dict[str, Any]) -> dict[str, Any]:
            part = content if key is None else content[key]
            (part[0] if isinstance(part, list) else part)["new"] = {"a": 1}
            return {**content, "version": version}

        return by

    def read() -> Any:
        opened = Run.open(run)
        return opened.config, opened.labels, _read_recorded(opened)

    before = read()
    change(run / name, newer("1.99"))
    assert read() == before
    change(run / name, newer("1.1"))
    if name != "metrics.json":  # which holds more than is read
        with pytest.raises(BundleError, match="damaged"):
            read()
    change(run / name, newer("2.0"))
    with pytest.raises(VidriskError, match=rf"{name} has version 2\.0; allowed: 1\.x; fix: use a newer vidrisk"):
        read()


def test_what_a_run_writes_says_its_version(run: Path, tmp_path: Path) -> None:
    opened = Run.open(run)
    written = Run(tmp_path / "written", opened.config, opened.labels)
    written.root.mkdir()
    written.write_split(opened.read_split())
    written.write_metrics({"samples": {}})
    assert json.loads((written.root / "metrics.json").read_text(encoding="utf-8"))["version"] == "1.3"
    assert written.read_split().samples == opened.read_split().samples


@pytest.mark.parametrize(("version", "is_read"), [("1.99", True), ("2.0", False), ("two", False)])
def test_other_versions_of_a_split(version: str, is_read: bool, run: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    table = parquet.read_table(run / "split.parquet")
    table = table.append_column("new", pa.array([1] * len(table))).replace_schema_metadata({"vidrisk.version": version})
    parquet.write_table(table, run / "split.parquet")
    if is_read:
        assert len(Run.open(run).read_split().samples) == 3
        return
    with pytest.raises(BundleError, match=rf"split\.parquet has version .*{version}"):
        Run.open(run).read_split()


class Trained(nn.Module):
    """The model whose state the checkpoint of 0.1.0 holds."""

    own_parts = ("head.",)

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.head = nn.Linear(3, 3), nn.Linear(3, 2)
        self.encoder.weight.requires_grad_(False)

    def step(self, optimizer: Any, schedule: Any) -> None:
        optimizer.zero_grad()
        self.head(self.encoder(torch.ones(4, 3))).square().sum().backward()
        optimizer.step()
        schedule.step()


def trained(*, turned: bool = False) -> tuple[Trained, Any, Any]:
    """Return a model, its optimiser and its schedule; ``turned`` changes the parameter order of the optimiser."""
    model = Trained()
    groups = [{"params": [model.encoder.bias], "lr": 1e-3}, {"params": list(model.head.parameters()), "lr": 1e-2}]
    optimizer = torch.optim.AdamW(groups[::-1] if turned else groups)
    return model, optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))


def moments(model: nn.Module, optimizer: Any) -> dict[str, torch.Tensor]:
    return {
        name: optimizer.state[parameter]["exp_avg"].clone()
        for name, parameter in model.named_parameters()
        if parameter in optimizer.state
    }


def test_a_checkpoint_of_0_1_0_is_continued() -> None:
    expected, expected_optimizer, schedule = trained()
    expected.step(expected_optimizer, schedule)
    model, optimizer, schedule = trained()
    history = Checkpoint(OLD / "checkpoints", "f" * 64).load(model, WeightAverage(model, 0.0), optimizer, schedule)
    assert [epoch.epoch for epoch in history] == [1] and schedule.last_epoch == 1
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value)
    found, wanted = moments(model, optimizer), moments(expected, expected_optimizer)
    assert found.keys() == wanted.keys() and len(found) == 3
    for name, moment in wanted.items():
        torch.testing.assert_close(found[name], moment)


def test_a_checkpoint_holds_its_state_by_name(tmp_path: Path) -> None:
    """An optimiser with another parameter order continues from the same moments."""
    model, optimizer, schedule = trained()
    model.step(optimizer, schedule)
    epoch = Epoch(epoch=1, train_loss=0.5, val_loss=None, metric=None, lr={"lora": 1e-3, "head": 1e-2})
    Checkpoint(tmp_path, "f").save(model, WeightAverage(model, 0.0), optimizer, schedule, [epoch], is_best=False)
    assert json.loads((tmp_path / "state.json").read_text(encoding="utf-8"))["version"] == "1.2"
    other, turned, schedule = trained(turned=True)
    Checkpoint(tmp_path, "f").load(other, WeightAverage(other, 0.0), turned, schedule)
    wanted, found = moments(model, optimizer), moments(other, turned)
    assert wanted.keys() == found.keys()
    for name, moment in wanted.items():
        torch.testing.assert_close(found[name], moment)


def test_a_checkpoint_of_another_major_version_is_refused(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(OLD / "checkpoints", tmp_path / "checkpoints"))
    change(folder / "state.json", lambda content: {**content, "new": 1, "version": "1.99"})
    model, optimizer, schedule = trained()
    assert len(Checkpoint(folder, "f" * 64).load(model, WeightAverage(model, 0.0), optimizer, schedule)) == 1
    change(folder / "state.json", lambda content: {**content, "version": "2.0"})
    with pytest.raises(BundleError, match=r"state\.json has version 2\.0; allowed: 1\.x; fix: use a newer vidrisk"):
        Checkpoint(folder, "f" * 64).read_state()
