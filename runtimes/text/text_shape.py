"""Sizes of a text graph, read from its declared inputs and outputs, independent of the engine."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

from vidrisk.runtimes.contract.errors import BundleError

METADATA = "vidrisk.text"  # key of the graph's metadata: JSON
AGAIN = "export the text graph again"
# Inputs of a graph besides past keys and values.
FUSED_INPUTS = ("inputs_embeds", "attention_mask", "logits_at")
PLAIN_INPUTS = ("inputs_embeds", "positions", "attention_bias", "logits_at")


@dataclass(frozen=True)
class TextShape:
    """Sizes of a text graph.

    Attributes:
        width: size of an embedding.
        vocabulary: number of logits.
        positions: maximum number of tokens of a sequence.
    """

    layers: int
    kv_heads: int
    head_size: int
    width: int
    vocabulary: int
    positions: int

    @property
    def token_bytes(self) -> int:
        """Size of the keys and values of one token."""
        return 2 * self.layers * self.kv_heads * self.head_size * 4

    @property
    def halves(self) -> list[str]:
        """Names of the keys and values of all layers after ``past_key_values.`` and ``present.``."""
        return [f"{layer}.{half}" for layer in range(self.layers) for half in ("key", "value")]


def shape_from_graph(
    inputs: Mapping[str, Sequence[Any]],
    outputs: Mapping[str, Sequence[Any]],
    described: str | None,
    name: str,
    others: Sequence[str],
) -> TextShape:
    """Return the sizes of a graph.

    Args:
        inputs: shapes by name; a free axis is not a number.
        outputs: shapes by name.
        described: the metadata of the graph.
        name: name of its file.
        others: names of the inputs besides past keys and values.

    Raises:
        BundleError: it is not a text graph of this form, or does not declare its sizes.
    """
    layers = sum(bool(re.fullmatch(r"past_key_values\.\d+\.key", each)) for each in inputs)
    halves = [f"{layer}.{half}" for layer in range(layers) for half in ("key", "value")]
    wanted = {*others, *(f"past_key_values.{half}" for half in halves)}
    if not layers or set(inputs) != wanted or set(outputs) != {"logits", *(f"present.{half}" for half in halves)}:
        odd = sorted(set(inputs) ^ wanted)[:3]
        raise BundleError(f"{name} is not a text graph: it differs by {', '.join(odd) or 'its outputs'}", fix=AGAIN)
    past = inputs["past_key_values.0.key"]
    try:
        positions = json.loads(described or "")["positions"]
        shape = TextShape(
            layers,
            *(int(size) for size in (past[1], past[3], inputs["inputs_embeds"][2], outputs["logits"][-1], positions)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(f"{name} does not declare its sizes: {error}", fix=AGAIN) from error
    if min(astuple(shape)) < 1:
        raise BundleError(f"{name} declares sizes below 1: {shape}", fix=AGAIN)
    return shape
