"""Checkpoints of an unfinished run: trained weights and optimiser state, in safetensors and JSON only (no pickle).

    model.<parameter>               what training changes, and all of the head
    optimizer.<parameter>.<slot>    state of the optimiser; 0.1.0 wrote the parameter's place in the optimiser instead of its name
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vidrisk.models.weights import load_tensors, save_tensors
from vidrisk.runtimes.contract import versions
from vidrisk.runtimes.contract.errors import BundleError, DataError
from vidrisk.train.history import Epoch

STATE_KEYS = ("fingerprint", "file", "schedule_step", "history")


class Checkpoint:
    """``last.safetensors`` and ``state.json`` after every epoch, ``best.safetensors`` when the metric is the best so far.

    Files are replaced in one step, the JSON last: whatever is killed when, the pair on disk belongs together.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder = folder
        self.fingerprint = fingerprint

    def exists(self) -> bool:
        return (self.folder / "state.json").is_file()

    def save(self, model: nn.Module, optimizer: Any, schedule: Any, history: list[Epoch], *, is_best: bool) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        weights = _trained(model)
        if is_best:
            save_tensors(weights, self.folder / "best.safetensors")
        names = _names_in_optimizer(model, optimizer)
        moments = {f"optimizer.{names[i]}.{slot}": value for i, slots in optimizer.state_dict()["state"].items()
                   for slot, value in slots.items()}
        name = f"epoch-{history[-1].epoch}.safetensors"
        save_tensors({**weights, **moments}, self.folder / name)
        content = versions.CHECKPOINT.stamp({
            "fingerprint": self.fingerprint, "file": name, "schedule_step": schedule.last_epoch,
            "history": [dataclasses.asdict(epoch) for epoch in history]})
        staged = self.folder / "state.json.tmp"
        staged.write_text(json.dumps(content), encoding="utf-8")
        staged.replace(self.folder / "state.json")
        for old in self.folder.glob("epoch-*.safetensors"):
            if old.name != name:
                old.unlink()

    def read_state(self) -> dict[str, Any]:
        """Content of ``state.json``.

        Raises:
            BundleError: damaged, or left by a run with other settings or data.
        """
        try:
            text = (self.folder / "state.json").read_text(encoding="utf-8")
            content = versions.CHECKPOINT.read(json.loads(text), STATE_KEYS, STATE_KEYS)
            fingerprint = content["fingerprint"]
        except (OSError, ValueError, DataError) as error:
            raise BundleError(f"{self.folder} is damaged: {error}", fix="delete it and train again") from error
        if fingerprint != self.fingerprint:
            raise BundleError(f"{self.folder} was left by a run with other settings or data",
                              fix="resume with the same ones, or choose another run folder")
        return content

    def load(self, model: nn.Module, optimizer: torch.optim.Optimizer, schedule: Any) -> list[Epoch]:
        """Restore weights, optimiser and schedule; returns the history so far.

        Raises:
            BundleError: damaged, or left by a run with other settings or data.
        """
        content = self.read_state()
        tensors = load_tensors(self.folder / content["file"])
        _restore(model, tensors)
        places = {name: place for place, name in enumerate(_names_in_optimizer(model, optimizer))}
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("optimizer."):
                name, _, slot = key.removeprefix("optimizer.").rpartition(".")
                if name not in places and not name.isdecimal():
                    raise BundleError(f"the checkpoint holds the state of {name}, which is not trained",
                                      fix="delete it and train again")
                state.setdefault(int(name) if name.isdecimal() else places[name], {})[slot] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        schedule.last_epoch = content["schedule_step"]
        for group, base, factor in zip(optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True):
            group["lr"] = base * factor(schedule.last_epoch)
        known = {field.name for field in dataclasses.fields(Epoch)}
        return [Epoch(**{key: epoch[key] for key in epoch if key in known}) for epoch in content["history"]]

    def load_best(self, model: nn.Module) -> None:
        _restore(model, load_tensors(self.folder / "best.safetensors"))


def _names_in_optimizer(model: nn.Module, optimizer: Any) -> list[str]:
    """Names of the parameters in the order in which an optimiser counts them."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]


def _trained(model: nn.Module) -> dict[str, Tensor]:
    """What training changes: the parameters with a gradient, and all of the head."""
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return {f"model.{name}": tensor for name, tensor in model.state_dict().items()
            if name in trained or name.startswith("head.")}


def _restore(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    weights = {key.removeprefix("model."): value for key, value in tensors.items() if key.startswith("model.")}
    unexpected = model.load_state_dict(weights, strict=False).unexpected_keys
    if unexpected:
        raise BundleError(f"the checkpoint holds {unexpected[0]}, which the model lacks", fix="delete it and train again")
