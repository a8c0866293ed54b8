from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pytest

from vidrisk.deploy.intact import check_packages
from vidrisk.runtimes.contract.errors import VidriskError


def write_package(site: Path, content: bytes) -> Path:
    """Write the files that pip leaves of a package with one module, and return the path of the module."""
    info = site / "small-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "small.py").write_bytes(content)
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: small\nVersion: 1.0\n")
    (info / "RECORD").write_text(
        f"small.py,sha256={digest},{len(content)}\nsmall.pyc,,\nsmall-1.0.dist-info/RECORD,,\n"
    )
    return site / "small.py"


def test_packages_that_are_whole_changed_and_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = write_package(tmp_path / "site", b"x = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    check_packages(tmp_path)
    module.write_bytes(b"x = 2\n")
    with pytest.raises(VidriskError, match=r"small\.py of small was changed after it was installed"):
        check_packages(tmp_path)
    check_packages(tmp_path / "another environment")  # the system's packages are somebody else's matter
    module.unlink()
    with pytest.raises(VidriskError, match=r"small\.py of small cannot be read: No such file"):
        check_packages(tmp_path)
