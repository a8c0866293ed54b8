"""The projector in LLaVA's form, two linear layers and a GELU, with the standardisation folded into the first layer.

Folded weights round differently, so the layers before folding are stored beside them: a composed model that is saved
and read again gives bit-identical answers.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from vidrisk.models.vlm.composed import Projector
from vidrisk.models.weights import load_state, save_tensors

OWN = (
    Path("vidrisk") / "projector.safetensors"
)  # in a separate folder: some engines read every *.safetensors beside config.json


@torch.no_grad()
def fold_projector(projector: Projector) -> list[tuple[str, str, Tensor]]:
    """Return the layers, names and values of an equivalent plain projector, float32.

    ``W ((x - m) / s) + b = (W / s) x + (b - (W / s) m)``, computed in double precision.
    """
    first, second = projector.linear_1, projector.linear_2
    weight = first.weight.double() / projector.deviation.double()
    bias = first.bias.double() - weight @ projector.mean.double()
    return [
        ("linear_1", "weight", weight.float()),
        ("linear_1", "bias", bias.float()),
        ("linear_2", "weight", second.weight.detach().float()),
        ("linear_2", "bias", second.bias.detach().float()),
    ]


def save_own_projector(projector: Projector, folder: Path) -> None:
    """Write the projector before folding, if folding changes it.

    Raises:
        VidriskError: the disk is full or not writable.
    """
    if not projector.is_new:
        (folder / OWN).parent.mkdir()
        save_tensors(projector.state_dict(), folder / OWN)


def read_own_projector(folder: Path, features: int, width: int) -> Projector | None:
    """Read the projector written by ``save_own_projector``, or return None if there is none.

    Raises:
        BundleError: it is damaged, or of another model.
    """
    if not (folder / OWN).is_file():
        return None
    projector = Projector(features, width)
    load_state(projector, folder / OWN)
    return projector
