from __future__ import annotations

from pathlib import Path

import pytest
from golden_bundles import export_small


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle with two targets, in fp32 and quantized."""
    return export_small(tmp_path_factory.mktemp("small") / "walls.bundle").root


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the bundle of another model with the same contract."""
    return export_small(tmp_path_factory.mktemp("other") / "roofs.bundle", seed=5).root


@pytest.fixture
def own_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VIDRISK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
