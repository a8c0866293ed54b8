"""Checkpoints of an unfinished run: trained weights and optimiser state, in safetensors and JSON only (no pickle).

Keys of the tensors:

    model.<parameter>               the trained parameters, and all of the model's own parts
    average.<parameter>             the moving averages of the trained parameters, if the run keeps them
    optimizer.<parameter>.<slot>    state of the optimiser; 0.1.0 wrote the parameter's index in the optimiser
                                    instead of its name
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from vidrisk.models.trainable import Trainable
from vidrisk.models.weights import load_tensors, save_tensors
from vidrisk.runtimes.contract import versions
from vidrisk.runtimes.contract.errors import BundleError, DataError
from vidrisk.train.averaging import WeightAverage
from vidrisk.train.history import Epoch
from vidrisk.train.shares import ALONE, Share, is_asked
from vidrisk.train.strategies import gather_weights, lay_out_as, load_weights, reshard, whole

STATE_KEYS = ("fingerprint", "file", "schedule_step", "history")
START = "start"  # the state before the first step, if it was evaluated


class Checkpoint:
    """Checkpoint folder with ``last`` weights after every epoch, and the best ones so far.

    ``epoch-<n>.safetensors`` and ``state.json`` are written after every epoch, ``best.safetensors`` when the metric is
    the best so far. Files are replaced atomically, the JSON last, so the pair on disk is consistent whenever the
    process is killed. With several processes, the main one writes and all of them read: the folder has to be visible to
    all.
    """

    def __init__(self, folder: Path, fingerprint: str, share: Share = ALONE) -> None:
        self.folder = folder
        self.fingerprint = fingerprint
        self.share = share

    def exists(self) -> bool:
        return (self.folder / "state.json").is_file()

    def save(
        self,
        model: Trainable,
        average: WeightAverage,
        optimizer: Any,
        schedule: Any,
        history: list[Epoch],
        *,
        is_best: bool,
    ) -> None:
        """Write the state after an epoch; a collective call for all processes."""
        moments = {name: whole(tensor) for name, tensor in _moments(model, optimizer).items()}
        with gather_weights(model):
            if self.share.is_main:
                if is_best:
                    with average.applied():
                        self._write_best(model)
                self._write({**_collect_trained(model), **average.tensors(), **moments}, schedule, history)
        self.share.wait()

    def save_start(self, model: Trainable) -> None:
        """Write the weights before the first step as the best so far; a collective call for all processes.

        A run that is killed before the end of its first epoch starts again from the beginning.
        """
        with gather_weights(model):
            if self.share.is_main:
                self._write_best(model)
        self.share.wait()

    def _write_best(self, model: Trainable) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        save_tensors(_collect_trained(model), self.folder / "best.safetensors")

    def _write(self, tensors: dict[str, Tensor], schedule: Any, history: list[Epoch]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        name = f"epoch-{history[-1].epoch}.safetensors"
        save_tensors(tensors, self.folder / name)
        content = versions.CHECKPOINT.stamp(
            {
                "fingerprint": self.fingerprint,
                "file": name,
                "schedule_step": schedule.last_epoch,
                "history": [dataclasses.asdict(epoch) for epoch in history if epoch.epoch],
                START: next((dataclasses.asdict(epoch) for epoch in history if not epoch.epoch), None),
            }
        )
        staged = self.folder / "state.json.tmp"
        staged.write_text(json.dumps(content), encoding="utf-8")
        staged.replace(self.folder / "state.json")
        for old in self.folder.glob("epoch-*.safetensors"):
            if old.name != name:
                old.unlink()

    def read_state(self) -> dict[str, Any]:
        """Return the content of ``state.json``.

        Raises:
            BundleError: the file is damaged, or was left by a run with other settings or data.
        """
        try:
            text = (self.folder / "state.json").read_text(encoding="utf-8")
            content = versions.CHECKPOINT.read(json.loads(text), (*STATE_KEYS, START), STATE_KEYS)
            fingerprint = content["fingerprint"]
        except (OSError, ValueError, DataError) as error:
            raise BundleError(f"{self.folder} is damaged: {error}", fix="delete it and train again") from error
        if fingerprint != self.fingerprint:
            raise BundleError(
                f"{self.folder} was left by a run with other settings or data",
                fix="resume with the same ones, or choose another run folder",
            )
        return content

    def load(self, model: Trainable, average: WeightAverage, optimizer: Any, schedule: Any) -> list[Epoch]:
        """Restore weights, their average, optimiser and schedule; return the history so far.

        Raises:
            BundleError: the checkpoint is damaged, or was left by a run with other settings or data.
        """
        content = self.read_state()
        tensors = load_tensors(self.folder / content["file"])
        if is_asked("DEEPSPEED") or not any(key.startswith("optimizer.") for key in tensors):
            raise BundleError(
                f"{self.folder} cannot be continued: the state of DeepSpeed's optimiser is not saved",
                fix="train again, with DDP or FSDP2 if the run has to be resumable",
            )
        _restore(model, tensors)
        average.load(tensors)
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        places = {name: place for place, name in enumerate(_names_in_optimizer(model, optimizer))}
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("optimizer."):
                name, _, slot = key.removeprefix("optimizer.").rpartition(".")
                if name not in places and not name.isdecimal():
                    raise BundleError(
                        f"the checkpoint holds the state of {name}, which is not trained",
                        fix="delete it and train again",
                    )
                place = int(name) if name.isdecimal() else places[name]
                state.setdefault(place, {})[slot] = lay_out_as(value, parameters[place])
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        schedule.last_epoch = content["schedule_step"]
        for group, base, factor in zip(optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True):
            group["lr"] = base * factor(schedule.last_epoch)
        known = {field.name for field in dataclasses.fields(Epoch)}
        start = content.get(START)
        return [
            Epoch(**{key: epoch[key] for key in epoch if key in known})
            for epoch in [*([start] if start else []), *content["history"]]
        ]

    def load_best(self, model: Trainable) -> None:
        _restore(model, load_tensors(self.folder / "best.safetensors"))


def _names_in_optimizer(model: nn.Module, optimizer: Any) -> list[str]:
    """Return the names of the parameters in the order of the optimiser."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]


def _moments(model: nn.Module, optimizer: Any) -> dict[str, Tensor]:
    """Return the state of an optimiser by parameter; empty for DeepSpeed, whose state is flat and partitioned."""
    if is_asked("DEEPSPEED"):
        return {}
    reshard(model)
    names = _names_in_optimizer(model, optimizer)
    return {
        f"optimizer.{names[i]}.{slot}": value
        for i, slots in optimizer.state_dict()["state"].items()
        for slot, value in slots.items()
    }


def _collect_trained(model: Trainable) -> dict[str, Tensor]:
    """Return what training changes: the parameters with a gradient, and all of the model's own parts."""
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return {
        f"model.{name}": tensor
        for name, tensor in model.state_dict().items()
        if name in trained or name.startswith(model.own_parts)
    }


def _restore(model: Trainable, tensors: dict[str, Tensor]) -> None:
    """Load the tensors of a checkpoint into a model.

    Raises:
        BundleError: a trained tensor is missing, or the model has no tensor of that name.
    """
    trained = {
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad or name.startswith(model.own_parts)
    }
    lacking = sorted(trained - {key.removeprefix("model.") for key in tensors})
    if lacking:
        raise BundleError(f"the checkpoint lacks {lacking[0]}", fix="delete it and train again")
    unexpected = load_weights(
        model, {key.removeprefix("model."): value for key, value in tensors.items() if key.startswith("model.")}
    )
    if unexpected:
        raise BundleError(
            f"the checkpoint holds {unexpected[0]}, which the model lacks", fix="delete it and train again"
        )
