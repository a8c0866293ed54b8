"""Packed weights of a text graph, by a recipe of bits, group, wider layers and float32 layers that a gate chooses."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from vidrisk.calibration.files import SHARED, load_graph, save_graph
from vidrisk.calibration.nbits import WeightGrid
from vidrisk.calibration.weight_only import Packing, WeightPacker
from vidrisk.runtimes.contract.errors import SettingsError


@dataclass(frozen=True)
class TextRecipe:
    """How the weights of a text graph are packed.

    Attributes:
        packing: bits and group, and kinds of layers that have 8 bits in any case (``lm_head``,
            ``model.layers.*.mlp.down_proj``).
        keep_float: kinds of layers that stay in float32.
    """

    packing: Packing
    keep_float: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.packing}, float32 in {' and '.join(self.keep_float)}" if self.keep_float else str(self.packing)


INT8 = TextRecipe(Packing(WeightGrid(8, 32)))
INT4 = TextRecipe(Packing(WeightGrid(4, 32), ("lm_head",)))


def pack_text(graph: Path, out: Path, recipe: TextRecipe) -> None:
    """Write a text graph with packed weights.

    Args:
        graph: in float32, of ``export_text``.
        out: file to write.
        recipe: how to pack.

    Raises:
        SettingsError: the recipe names a kind of layer that the graph does not have.
        DataError: a weight is not finite.
    """
    with tempfile.TemporaryDirectory(prefix=f".{SHARED}-", dir=out.parent) as folder:
        packer = WeightPacker(load_graph(graph, Path(folder)), Path(folder))
        kinds = packer.kinds
        foreign = sorted({*recipe.packing.wide, *recipe.keep_float} - set(kinds))
        if foreign:
            raise SettingsError(f"{foreign[0]!r} is not a kind of layer of {graph.name}", allowed=", ".join(kinds))
        save_graph(packer.pack(recipe.packing, [node for kind in recipe.keep_float for node in kinds[kind]]), out)
