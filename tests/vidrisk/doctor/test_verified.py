from __future__ import annotations

from typing import Any

import pytest

from vidrisk.doctor.asking import Probe, run_probes
from vidrisk.doctor.facts import Facts
from vidrisk.doctor.verified import MOST_BUNDLES, verification_checks


def result(
    digest: str = "a" * 64,
    runtime: str = "openvino",
    variant: str = "int8",
    state: str = "same",
    said: str = "",
    changed: dict[str, Any] | None = None,
    folder: str = "/data/walls.bundle",
) -> dict[str, Any]:
    return {
        "folder": folder,
        "digest": digest,
        "runtime": runtime,
        "variant": variant,
        "state": state,
        "said": said,
        "when": "2026-11-21T08:00:00+00:00",
        "found_with": {},
        "changed": changed or {},
    }


def checks_of(*results: dict[str, Any]) -> list[tuple[str, str, str]]:
    facts = Facts(probes={"verified": Probe({"results": list(results)})})
    return [(check.name, check.state, check.found) for check in verification_checks(facts)]


def test_a_bundle_is_one_line() -> None:
    assert checks_of(result(), result(variant="fp32")) == [
        ("walls.bundle", "ok", "openvino fp32, openvino int8 answered as at export, on 2026-11-21T08:00:00+00:00")
    ]
    assert checks_of() == []


def test_what_differed_is_broken_whatever_else_did_not() -> None:
    ((name, state, found),) = checks_of(result(), result(runtime="tensorrt", state="differs", said="not this graph"))
    assert (name, state) == ("walls.bundle", "broken")
    assert found == "tensorrt int8 did not answer as at export, on 2026-11-21T08:00:00+00:00: not this graph"


def test_what_has_changed_since_is_a_warning() -> None:
    ((_, state, found),) = checks_of(result(changed={"driver": ["580.1", "590.2"], "openvino": ["", "2026.4"]}))
    assert state == "warning" and found.endswith("; changed since: driver 580.1 → 590.2, openvino none → 2026.4")


def test_what_differed_before_something_changed_is_to_be_asked_again() -> None:
    ((_, state, found),) = checks_of(
        result(), result(runtime="tensorrt", state="differs", changed={"tensorrt": ["10.3", "10.16"]})
    )
    assert state == "warning" and found.startswith("tensorrt int8 did not answer as at export, on 2026")
    assert found.endswith("; changed since: tensorrt 10.3 → 10.16")


def test_the_fix_can_be_copied() -> None:
    facts = Facts(probes={"verified": Probe({"results": [result(state="differs", folder="/data/my walls")]})})
    (check,) = verification_checks(facts)
    assert (check.name, check.fix) == ("my walls", "vidrisk verify '/data/my walls'")


def test_few_bundles_are_shown_and_no_two_under_one_name() -> None:
    checks = checks_of(*(result(digest=str(number) * 64) for number in range(MOST_BUNDLES + 2)))
    assert (
        len({name for name, _, _ in checks}) == len(checks) == MOST_BUNDLES and checks[1][0] == "walls.bundle 11111111"
    )


def test_where_nothing_is_told_nothing_is_said() -> None:
    assert (
        list(verification_checks(Facts()))
        == list(verification_checks(Facts(probes={"verified": Probe(problem="no numpy")})))
        == []
    )


def test_the_probe_reads_the_cache(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDRISK_CACHE", str(tmp_path))
    assert run_probes(["verified"])["verified"] == Probe({"results": []}, stderr="")
