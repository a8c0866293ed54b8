from __future__ import annotations

import json
import re
from dataclasses import fields
from datetime import date
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidrisk.doctor.known import PROBES
from vidrisk.doctor.support import read_table, troubles_from_json
from vidrisk.doctor.trouble import Situation, Trouble, find_troubles
from vidrisk.runtimes.contract.errors import VidriskError

TABLE = read_table()
ENTRY: dict[str, Any] = {
    "id": "a",
    "component": "tensorrt",
    "versions": ">=10.3,<10.5",
    "severity": "wrong",
    "what": "is wrong",
    "remedy": "pip install",
    "sources": [{"at": "NVIDIA/TensorRT#1", "date": "2026-01-31"}],
}
OTHERS = {"driver", "jetpack", "jetson-linux"}  # components that are no packages


def version_in(trouble: Trouble, component: str) -> str:
    """Return the lowest affected version of a component, out of a few versions near the bounds of the entry."""
    versions = trouble.versions if component == trouble.component else trouble.beside[component]
    numbers = {numbers for _, numbers in versions.clauses}
    near = numbers | {(*head[:-1], max(0, head[-1] + step)) for head, step in product(numbers, (-1, 1))}
    return min(text for text in (".".join(map(str, each)) for each in sorted(near)) if text in versions)


def made_up(trouble: Trouble) -> Situation:
    """Return a machine and an engine that have exactly the properties that the entry names."""
    versions = {component: version_in(trouble, component) for component in (trouble.component, *trouble.beside)}
    return Situation(
        versions,
        trouble.machine,
        trouble.compute_capabilities[:1],
        trouble.variants[:1],
        trouble.opt_batch_at_most,
        trouble.model_mb_at_most,
        trouble.dla,
    )


@pytest.mark.parametrize("trouble", TABLE, ids=lambda trouble: trouble.id)
class TestEveryEntry:
    def test_fits_a_machine(self, trouble: Trouble) -> None:
        situation = made_up(trouble)
        assert trouble in find_troubles(TABLE, situation)
        assert trouble.what in trouble.describe(situation) and trouble.sources[0].at in trouble.describe(situation)

    def test_does_not_fit_its_fixed_version(self, trouble: Trouble) -> None:
        if not trouble.fixed_in:
            pytest.skip("no version is known to be without it")
        situation = made_up(trouble)
        fixed = Situation(
            **{**vars(situation), "versions": {**situation.versions, trouble.component: trouble.fixed_in}}
        )
        assert not trouble.fits(fixed)

    def test_does_not_fit_where_one_of_its_conditions_is_unknown(self, trouble: Trouble) -> None:
        situation = vars(made_up(trouble))
        for condition, value in situation.items():
            if value:
                assert not trouble.fits(
                    Situation(
                        **{
                            **situation,
                            condition: Situation.__dataclass_fields__[condition].default
                            if condition != "versions"
                            else {},
                        }
                    )
                ), condition

    def test_is_about_something_that_the_doctor_knows(self, trouble: Trouble) -> None:
        for component in (trouble.component, *trouble.beside):
            assert component in OTHERS | set(PROBES)

    def test_has_a_remedy_and_sources_of_the_past(self, trouble: Trouble) -> None:
        assert re.match(r"(sudo |pip |vidrisk )", trouble.remedy)
        assert all(source.date <= date.today() for source in trouble.sources)


def test_the_table_knows_what_its_readers_asked_for() -> None:
    assert {
        "tensorrt-10.3-jetson",
        "tensorrt-without-orin",
        "tensorrt-int8-small-batch",
        "tensorrt-fp16-overflow",
        "pyav-17.0",
    } <= {trouble.id for trouble in TABLE}


def table_with(**changes: Any) -> str:
    return json.dumps([{key: value for key, value in {**ENTRY, **changes}.items() if value is not None}])


def test_a_whole_entry() -> None:
    (trouble,) = troubles_from_json(
        table_with(
            beside={"jetpack": "<7"},
            machine="arm64",
            compute_capabilities=["8.7"],
            fixed_in="10.5",
            variants=["int8"],
            opt_batch_at_most=8,
            model_mb_at_most=100,
            dla=False,
        )
    )
    assert (trouble.fixed_in, trouble.sources[0].date, "6.2" in trouble.beside["jetpack"]) == (
        "10.5",
        date(2026, 1, 31),
        True,
    )


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"versions": "10.3"}, "entry a '10.3' is not a range of versions; allowed: for example"),
        ({"versions": None}, "entry a is missing 1 required positional argument: 'versions'"),
        ({"severity": "bad"}, "has severity 'bad'; allowed: wrong, crashes, slow"),
        ({"machine": "sparc"}, "has machine 'sparc'; allowed: x86-64, arm64"),
        ({"verions": ">=1"}, "has the unknown key 'verions'; allowed: beside, "),
        ({"what": ""}, "has what ''; allowed: one line of 1 to 200 characters"),
        ({"what": "two\nlines"}, "allowed: one line of"),
        ({"remedy": " x"}, "allowed: one line of"),
        ({"remedy": 3}, "has remedy 3; allowed: a str"),
        ({"sources": []}, r"has sources \[\]; allowed: at least one"),
        ({"sources": [{"at": "somewhere", "date": "2026-01-31"}]}, "allowed: .*owner/repository#1"),
        (
            {"sources": [{"at": "NVIDIA/TensorRT#1", "date": "31.1.2026"}]},
            "has date '31.1.2026'; allowed: a date such as 2026-01-31",
        ),
        ({"sources": [{"at": "NVIDIA/TensorRT#1"}]}, "has sources"),
        ({"sources": "NVIDIA/TensorRT#1"}, "allowed: a list"),
        ({"variants": ["int4"]}, "has variants 'int4'; allowed: fp32, fp16, int8, mixed"),
        ({"compute_capabilities": ["sm_87"]}, "has compute_capabilities 'sm_87'; allowed: a number such as 8.7"),
        ({"compute_capabilities": [8.7]}, "has compute_capabilities 8.7; allowed: a str"),
        ({"beside": {"jetpack": 6}}, "has beside 6; allowed: a str"),
        ({"beside": "jetpack"}, "allowed: a dict"),
        ({"opt_batch_at_most": 0}, "has opt_batch_at_most 0; allowed: a whole number, at least 1"),
        ({"opt_batch_at_most": True}, "has opt_batch_at_most True"),
        ({"dla": 1}, "has dla 1; allowed: a bool"),
        ({"fixed_in": "10.4.1"}, r"has fixed_in 10\.4\.1; allowed: a version that is not >=10\.3,<10\.5"),
        ({"fixed_in": "soon"}, "has fixed_in soon"),
    ],
)
def test_a_bad_entry_is_refused_in_one_line(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(VidriskError, match=rf"^known_trouble\.json: .*{says}") as caught:
        troubles_from_json(table_with(**changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[", "is not JSON"),
        ("{}", "is not a list"),
        ("[1]", "entry 1 is not an object"),
        (f"[{json.dumps(ENTRY)}, {json.dumps(ENTRY)}]", "two entries have the id 'a'"),
    ],
)
def test_a_table_that_is_none(text: str, says: str) -> None:
    with pytest.raises(VidriskError, match=says):
        troubles_from_json(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=8), values, max_size=3),
)


@given(st.sampled_from([each.name for each in fields(Trouble)]), JSON)
def test_whatever_stands_in_an_entry_is_read_or_refused(key: str, value: Any) -> None:
    try:
        (trouble,) = troubles_from_json(json.dumps([{**ENTRY, key: value}]))
    except VidriskError as error:
        assert str(error).startswith("known_trouble.json: ")
    else:
        trouble.fits(Situation({"tensorrt": "10.3"}))


@given(st.dictionaries(st.sampled_from(sorted(OTHERS | set(PROBES))), st.text(max_size=12)))
def test_no_version_ends_in_a_crash(versions: dict[str, str]) -> None:
    for trouble in find_troubles(TABLE, Situation(versions, "arm64", ("8.7",), ("int8",), 1, 1, True)):
        assert versions[trouble.component] in trouble.versions
