"""Tests of the contract: it survives every round trip, and every change gives another digest."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from vidrisk.runtimes import Contract, Guidance, PixelSpec, Target, TimeSpec
from vidrisk.runtimes.contract.errors import SpecError
from vidrisk.runtimes.contract.stages import frame_encoder_stages, window_encoder_stages

label_lists = st.lists(st.text(min_size=1, max_size=8), min_size=2, max_size=5, unique=True).map(tuple)
targets = st.builds(Target, name=st.from_regex(r"\A[a-z][a-z0-9_]{0,8}\Z"), labels=label_lists, ordered=st.booleans())
pixels = st.builds(
    PixelSpec,
    st.integers(1, 512),
    st.integers(1, 512),
    st.sampled_from(["squash", "crop", "pad"]),
    st.floats(0.1, 1),
    mean=st.tuples(*[st.floats(-2, 2).map(lambda v: v + 0.0)] * 3),
    std=st.tuples(*[st.floats(1e-3, 2)] * 3),
)
times = st.one_of(st.none(), st.builds(TimeSpec, st.integers(1, 64), st.floats(0.1, 60)))
contracts = st.builds(
    Contract,
    task=st.sampled_from(["action", "risk"]),
    pixel=pixels,
    time=times,
    targets=st.lists(targets, min_size=1, max_size=3, unique_by=lambda t: t.name).map(tuple),
    guidance=st.lists(st.builds(Guidance, defect=st.text(max_size=5), advice=st.text(max_size=20)), max_size=2).map(
        tuple
    ),
)


@given(contracts)
def test_json_round_trip_keeps_contract_and_digest(contract: Contract) -> None:
    again = Contract.model_validate_json(contract.model_dump_json())
    assert again == contract
    assert again.digest == contract.digest


@given(contracts, contracts)
def test_digests_are_equal_exactly_when_contracts_are(one: Contract, other: Contract) -> None:
    assert (one.digest == other.digest) == (one == other)


BASE: dict[str, Any] = {
    "task": "action",
    "pixel": PixelSpec(),
    "time": TimeSpec(8),
    "targets": (Target(name="action", labels=("a", "b")),),
}


@pytest.mark.parametrize(
    "change",
    [
        {"task": "risk"},
        {"pixel": PixelSpec(224, 225)},
        {"pixel": PixelSpec(mean=(0.485, 0.456, 0.4061))},
        {"time": None},
        {"time": TimeSpec(9)},
        {"time": TimeSpec(8, 2.0)},
        {"targets": (Target(name="action", labels=("b", "a")),)},
        {"targets": (Target(name="action", labels=("a", "b"), ordered=True),)},
        {"guidance": (Guidance(advice="stop"),)},
    ],
)
def test_every_change_changes_the_digest(change: dict[str, Any]) -> None:
    assert Contract(**BASE).digest != Contract(**(BASE | change)).digest


def test_digest_does_not_depend_on_the_process() -> None:
    code = (
        "from vidrisk.runtimes import *\n"
        "targets = (Target(name='action', labels=('a', 'b')),)\n"
        "print(Contract(task='action', pixel=PixelSpec(), time=TimeSpec(8), targets=targets).digest)"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == Contract(**BASE).digest


def test_tensor_specs_of_the_usual_stages() -> None:
    contract = Contract(
        task="risk",
        pixel=PixelSpec(48, 64),
        time=TimeSpec(4),
        targets=(
            Target(name="defect", labels=("crack", "ok")),
            Target(name="level", labels=("1", "2", "3"), ordered=True),
        ),
    )
    encoder, head = frame_encoder_stages(contract, 7)
    assert [repr(s) for s in encoder.inputs] == ["TensorSpec(frames: uint8[batch, 48, 64, 3])"]
    assert [repr(s) for s in encoder.outputs] == ["TensorSpec(features: float32[batch, 7])"]
    assert [repr(s) for s in head.inputs] == ["TensorSpec(features: float32[batch, 4, 7])"]
    encoder, head = window_encoder_stages(contract, 7)
    assert [repr(s) for s in encoder.inputs] == ["TensorSpec(frames: uint8[batch, 4, 48, 64, 3])"]
    assert [repr(s) for s in head.inputs] == ["TensorSpec(features: float32[batch, 7])"]
    assert [repr(s) for s in contract.answers()] == [
        "TensorSpec(defect_logits: float32[batch, 2])",
        "TensorSpec(level_logits: float32[batch, 3])",
    ]
    assert contract.target("level") is contract.targets[1]
    assert contract.target("action") is None


def test_photos_are_clips_of_one_moment() -> None:
    assert Contract(**(BASE | {"time": None})).frames == 1


@pytest.mark.parametrize(
    "options",
    [
        {"labels": ()},
        {"labels": ("a",)},
        {"labels": ("a", "a")},
        {"labels": ("a", "b"), "severity": (0.0,)},
        {"labels": ("a", "b"), "severity": (10.0, 0.0)},
        {"labels": ("a", "b"), "severity": (0.0, 101.0)},
        {"labels": ("a", "b"), "severity": (-1.0, 5.0)},
        {"labels": ("a", "b"), "severity": (0.0, float("nan"))},
    ],
)
def test_target_refuses_labels_and_severities_that_contradict(options: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="allowed: "):
        Target(name="level", **options)


def test_target_takes_severities_that_rise() -> None:
    assert Target(name="level", labels=("a", "b", "c"), severity=(0, 50, 50)).severity == (0.0, 50.0, 50.0)


@pytest.mark.parametrize("name", ["", "Action", "1st", "a-b", "a b", "../x", "a\n"])
def test_target_names_become_tensor_names(name: str) -> None:
    with pytest.raises(ValidationError, match="pattern"):
        Target(name=name, labels=("a", "b"))


def test_contract_refuses_unknown_keys_at_any_depth_and_no_target() -> None:
    described = Contract(**BASE).model_dump()
    for part in (described, described["pixel"], described["time"], described["targets"][0]):
        part["sneaky"] = 1
        with pytest.raises(ValidationError, match="sneaky"):
            Contract.model_validate(described)
        del part["sneaky"]
    with pytest.raises(SpecError, match="without targets"):
        Contract.model_validate(described | {"targets": ()})


def test_contract_refuses_two_targets_of_one_name() -> None:
    twice = (Target(name="action", labels=("a", "b")), Target(name="action", labels=("c", "d")))
    with pytest.raises(SpecError, match="action"):
        Contract(**(BASE | {"targets": twice}))


def test_digests_of_contracts_that_were_written_before_multi_label_stay() -> None:
    """Golden samples, ledgers and ids of predictions contain these digests."""
    contract = Contract(**BASE)
    assert contract.digest == "03ae7f3430db5d6d8b3cdb7e95a7a5f3fc3c6bf2fa92ea42a95cf7ee6d09f661"
    assert contract.digest_of_schema_1 == "f6cf5830a61582183bf9d8d9631bdbd165dfb521210703a2fadddbeb7cde7231"
    old = contract.model_dump()
    del old["targets"][0]["multi_label"]
    assert Contract.model_validate(old) == contract and contract.is_digest(contract.digest_of_schema_1)


def test_whether_several_labels_may_hold_changes_the_digest() -> None:
    one = Contract(**BASE)
    several = Contract(**(BASE | {"targets": (Target(name="action", labels=("a", "b"), multi_label=True),)}))
    assert several.digest != one.digest and several.is_digest(several.digest)
    assert not several.is_digest(one.digest) and not several.is_digest(one.digest_of_schema_1)
    assert not several.is_digest(several.digest_of_schema_1)  # there was no such target then
    assert (one.multi_targets, several.multi_targets) == (frozenset(), {"action"})


def test_a_multi_label_target_may_have_one_label_and_never_levels() -> None:
    assert Target(name="defect", labels=("crack",), multi_label=True).labels == ("crack",)
    for options in (
        {"labels": ()},
        {"labels": ("a", "a")},
        {"labels": ("a", "b"), "ordered": True},
        {"labels": ("a", "b"), "severity": (0.0, 100.0)},
    ):
        with pytest.raises(SpecError, match="allowed: "):
            Target(name="level", multi_label=True, **options)  # type: ignore[arg-type]
