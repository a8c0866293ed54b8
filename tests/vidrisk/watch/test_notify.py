from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from vidrisk.watch import notify


@pytest.fixture(params=["file", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Yield the socket of systemd, at an address of either kind (file or abstract)."""
    address = str(tmp_path / "s") if request.param == "file" else f"@vidrisk {tmp_path.name}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ours:
        ours.bind("\0" + address[1:] if address.startswith("@") else address)
        ours.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        yield ours


def test_what_systemd_hears(systemd: socket.socket) -> None:
    notify.ready()
    notify.status("12 files →\n2026-11-21 \udcff")
    notify.report_stopping()
    heard = [systemd.recv(1000).decode() for _ in range(3)]
    assert heard == ["READY=1", "STATUS=12 files → 2026-11-21 \\udcff", "STOPPING=1"]


def test_staying_alive_while_something_takes_long(systemd: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "BEAT_S", 0.01)
    with notify.keep_watchdog_alive():
        assert [systemd.recv(1000) for _ in range(3)] == [b"WATCHDOG=1"] * 3
    systemd.settimeout(0.1)
    with pytest.raises(TimeoutError):
        while True:
            systemd.recv(1000)


def test_without_systemd_nothing_happens(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for address in ("", str(tmp_path / "nobody"), "@nobody at all"):
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        notify.ready()
