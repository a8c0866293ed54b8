"""Checks of a Jetson: JetPack, power mode, clocks, throttling; none on other machines."""

from __future__ import annotations

from collections.abc import Iterator

from vidrisk.doctor.check import Check
from vidrisk.doctor.facts import Facts
from vidrisk.doctor.jetson import Jetson

SECTION = "Jetson"


def board_checks(facts: Facts) -> Iterator[Check]:
    jetson = facts.jetson
    if jetson is None:
        return
    yield Check(SECTION, "board", "ok", jetson.model or "a Jetson")
    yield _jetpack(jetson)
    if jetson.power_mode:
        yield _power_mode(jetson)
    if jetson.clocks:
        yield _clocks(jetson)
    yield from _throttling(jetson)


def _jetpack(jetson: Jetson) -> Check:
    found = f"{jetson.jetpack or 'unknown'}, Jetson Linux {jetson.l4t or 'unknown'}"
    if jetson.is_too_old:
        return Check(
            SECTION,
            "JetPack",
            "warning",
            f"{found}; its TensorRT is too old, 10.3 is needed",
            "sdkmanager  # on a PC: flash JetPack 6.1 or later",
        )
    if not jetson.has_jetpack:
        return Check(
            SECTION,
            "JetPack",
            "optional",
            f"{found}; the package nvidia-jetpack (CUDA, TensorRT) is not installed",
            "sudo apt update && sudo apt install nvidia-jetpack",
        )
    return Check(SECTION, "JetPack", "ok", found)


def _power_mode(jetson: Jetson) -> Check:
    fastest = jetson.fastest_mode
    if fastest is None or jetson.power_mode == fastest[1]:
        return Check(SECTION, "power mode", "ok", jetson.power_mode)
    return Check(
        SECTION,
        "power mode",
        "optional",
        f"{jetson.power_mode}; {fastest[1]} is faster, if supply and cooling allow it",
        f"sudo nvpmodel -m {fastest[0]}",
    )


def _clocks(jetson: Jetson) -> Check:
    found = ", ".join(
        f"{clock.name} {clock.high_mhz if clock.is_locked else f'{clock.low_mhz} to {clock.high_mhz}'} MHz"
        for clock in jetson.clocks
    )
    if all(clock.is_locked for clock in jetson.clocks):
        return Check(SECTION, "clocks", "ok", f"locked: {found}")
    return Check(SECTION, "clocks", "optional", f"{found}; not locked, so measurements vary", "sudo jetson_clocks")


def _throttling(jetson: Jetson) -> Iterator[Check]:
    hottest = f"{jetson.hottest_c:.0f} °C at the hottest" if jetson.hottest_c is not None else "temperature unknown"
    if jetson.hot:
        yield Check(
            SECTION,
            "throttling",
            "warning",
            f"{', '.join(jetson.hot)}: clocks are held down now, {hottest}",
            "sudo systemctl restart nvfancontrol  # and check the heat sink",
        )
    elif jetson.overcurrents:
        counted = ", ".join(f"{name} {count} times" for name, count in jetson.overcurrents.items())
        yield Check(
            SECTION,
            "throttling",
            "warning",
            f"over-current since the start: {counted}; {hottest}",
            "sudo nvpmodel -q  # a mode with less power, or a stronger supply",
        )
    elif jetson.hottest_c is not None:
        yield Check(SECTION, "throttling", "ok", f"none; {hottest}")
