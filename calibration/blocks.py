"""Blocks: pieces of a graph that stay in floating point, or become integers, as a unit.

Nodes carry the path of the module that they come from (``backbone.blocks.3.expand.0/conv2d_9``). A block is a prefix of
that path: ``backbone.blocks.3``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from vidrisk.calibration.graph import Net
from vidrisk.calibration.qdq import quantizable_nodes

Blocks = dict[str, tuple[str, ...]]
ENOUGH = 8  # the least number of blocks that gives a search a choice


def blocks_from_net(net: Net) -> Blocks:
    """Group quantisable nodes by block, in graph order.

    The division is the coarsest with at least ``ENOUGH`` blocks, or else the finest.
    """
    return blocks_from_names([node.name for node in quantizable_nodes(net)])


def blocks_from_names(names: Sequence[str]) -> Blocks:
    """Group nodes by block, in their order.

    The division is the coarsest with at least ``ENOUGH`` blocks, or else the finest.
    """
    deepest = max((name.count(".") for name in names), default=0)
    blocks: Blocks = {}
    for depth in range(deepest + 2):
        blocks = {}
        for name in names:
            block = _block(name, depth)
            blocks[block] = (*blocks.get(block, ()), name)
        if len(blocks) >= ENOUGH:
            break
    return blocks


def every_block(net: Net) -> Blocks:
    """Group all nodes by block at the coarsest division, in graph order.

    Nodes outside numbered modules form blocks, too.
    """
    blocks: Blocks = {}
    for node in net.nodes:
        block = _block(node.name, 0)
        blocks[block] = (*blocks.get(block, ()), node.name)
    return blocks


def _block(name: str, depth: int) -> str:
    """Return the path up to its first number, plus ``depth`` more parts.

    A path without a number starts with two parts.
    """
    path = name.partition("/")[0]
    numbered = re.match(r"(?:[^.]+\.)*?\d+(?=\.|$)", path)
    start = numbered[0].count(".") + 1 if numbered else 2
    parts = path.split(".")
    return ".".join(parts[: start + depth]) if len(parts) > start + depth else path
