"""vidrisk's manifest as a Parquet file."""

from __future__ import annotations

from vidrisk.data.formats.manifests.manifest_format import manifest_format

FORMAT = manifest_format("parquet", "Parquet")
