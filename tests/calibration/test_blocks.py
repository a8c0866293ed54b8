"""Tests of the blocks: they are prefixes of module paths, and few enough to search.

Every quantizable node is in exactly one block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from vidrisk.calibration.blocks import ENOUGH, blocks_from_net, every_block
from vidrisk.calibration.graph import Net
from vidrisk.calibration.qdq import quantizable_nodes

Make = Callable[..., onnx.ModelProto]


def net_of(names: Sequence[str]) -> Net:
    """Return a chain of matrix products with the given names and a Relu after each."""
    nodes = []
    for i, name in enumerate(names):
        nodes += [
            helper.make_node("MatMul", [f"t{i}", "w"], [f"m{i}"], name=name),
            helper.make_node("Relu", [f"m{i}"], [f"t{i + 1}"], name=f"{name}.relu"),
        ]
    graph = helper.make_graph(nodes, "g", [], [], [numpy_helper.from_array(np.eye(2, dtype=np.float32), "w")])
    return Net(helper.make_model(graph))


def test_few_layers_with_many_modules_are_divided_further() -> None:
    parts = ("attention.q_proj", "attention.o_proj", "mlp.fc1")
    modules = [f"backbone.layers.{layer}.{part}" for layer in range(3) for part in parts]
    names = [f"{module}/{op}" for module in modules for op in ("MatMul_1", "MatMul_2")]
    assert list(blocks_from_net(net_of(names))) == modules


def test_every_node_is_in_one_of_all_blocks_divided_by_layers_alone(exported_vit: onnx.ModelProto) -> None:
    net = Net(exported_vit)
    blocks = every_block(net)
    assert sorted(name for names in blocks.values() for name in names) == sorted(node.name for node in net.nodes)
    layers = [block for block in blocks if "layers" in block]
    assert layers == [f"backbone.layers.{layer}" for layer in range(3)]
    assert all(any("softmax" in name.lower() for name in blocks[layer]) for layer in layers)
    inside = ("backbone.layers.1.", "backbone.layers.1/")
    assert set(blocks[layers[1]]) == {node.name for node in net.nodes if node.name.startswith(inside)}


def test_many_layers_are_the_blocks() -> None:
    names = [
        f"backbone.layers.{layer}.{part}/MatMul" for layer in range(12) for part in ("attention.q_proj", "mlp.fc1")
    ]
    blocks = blocks_from_net(net_of(["backbone.embeddings.patch.projection/Conv", *names, "backbone.norm/MatMul"]))
    assert list(blocks) == [
        "backbone.embeddings",
        *(f"backbone.layers.{layer}" for layer in range(12)),
        "backbone.norm",
    ]
    assert blocks["backbone.layers.11"] == (
        "backbone.layers.11.attention.q_proj/MatMul",
        "backbone.layers.11.mlp.fc1/MatMul",
    )


def test_numbers_inside_names_are_no_layers() -> None:
    names = [f"model.stage2.conv1x{i}.part.{j}/MatMul" for i in range(4) for j in range(2)]
    assert list(blocks_from_net(net_of(names))) == [name.partition("/")[0] for name in names]


def test_nodes_without_module_paths_stand_for_themselves() -> None:
    names = [f"node_conv2d_{i}" for i in range(5)]
    assert blocks_from_net(net_of(names)) == {name: (name,) for name in names}


def test_a_graph_too_small_gets_the_finest_division() -> None:
    assert list(blocks_from_net(net_of(["a.b.c.d/MatMul", "a.b.c.e/MatMul", "a.b.c.e/MatMul_1"]))) == [
        "a.b.c.d",
        "a.b.c.e",
    ]


def test_a_graph_without_anything_to_quantise_has_no_blocks() -> None:
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"], name="relu")], "g", [], [])
    assert blocks_from_net(Net(helper.make_model(graph))) == {}


PATHS = st.lists(st.sampled_from(["blocks", "0", "1", "2", "attn", "fc1", "layer3"]), max_size=5).map(".".join)


@given(paths=st.lists(PATHS, min_size=1, max_size=30))
def test_every_quantisable_node_is_in_exactly_one_block(paths: list[str]) -> None:
    names = [f"{path}/op_{i}" if path else f"op_{i}" for i, path in enumerate(paths)]
    net = net_of(names)
    blocks = blocks_from_net(net)
    inside = [name for nodes in blocks.values() for name in nodes]
    assert sorted(inside) == sorted(n.name for n in quantizable_nodes(net))
    order = {name: i for i, name in enumerate(names)}
    assert all(list(nodes) == sorted(nodes, key=order.__getitem__) for nodes in blocks.values())
    firsts = [order[nodes[0]] for nodes in blocks.values()]
    assert firsts == sorted(firsts)  # blocks by their first node
    for block, nodes in blocks.items():
        for name in nodes:
            path = name.partition("/")[0]
            assert path == block or path.startswith(f"{block}.")
    assert len(blocks) >= min(ENOUGH, len({name.partition("/")[0] for name in names}))


def test_a_convolutional_network(make_mobilenet: Make) -> None:
    blocks = blocks_from_net(Net(make_mobilenet()))
    assert blocks == {
        "stem": ("stem/conv",),
        "expand": ("expand/conv",),
        "depthwise": ("depthwise/conv",),
        "project": ("project/conv",),
        "sum": ("sum/add",),
        "last": ("last/conv",),
        "head": ("head/gemm",),
    }


@pytest.mark.slow
def test_exported_nodes_carry_their_module_paths(exported_vit: onnx.ModelProto) -> None:
    names = [n.name for n in exported_vit.graph.node]
    assert len(set(names)) == len(names)
    blocks = blocks_from_net(Net(exported_vit))
    parts = [
        "attention.q_proj",
        "attention.k_proj",
        "attention.v_proj",
        "attention",
        "attention.o_proj",
        "mlp.fc1",
        "mlp.fc2",
    ]
    assert list(blocks) == [
        "backbone.embeddings.patch_embeddings.projection",
        *(f"backbone.layers.{layer}.{part}" for layer in range(3) for part in parts),
    ]
    assert [len(blocks[f"backbone.layers.1.{part}"]) for part in parts] == [1, 1, 1, 2, 1, 1, 1]
    assert {n.name.partition("/")[0] for n in exported_vit.graph.node if n.op_type == "Gelu"} == {
        f"backbone.layers.{layer}.mlp.activation_fn" for layer in range(3)
    }
