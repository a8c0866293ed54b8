"""Tables of risks as users have them, with RisKVA's columns and photos drawn on the spot."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

LEVELS = ("轻微", "中等", "严重")
ADVICE = {"轻微": "定期检查", "中等": "安排维修, 30 天内完成", "严重": "立即停工"}
COLUMNS = (
    "data_序号",
    "image_id",
    "image_path",
    "data_缺陷描述",
    "data_风险",
    "data_风险等级",
    "data_纠正和预防建议",
    "data_原",
    "data_现",
    "source_csv",
    "original_filename",
)


def draw(path: Path, seed: int = 0, size: tuple[int, int] = (48, 32), **options: Any) -> Path:
    """Write a photo of noise around a colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(seed, size)).save(path, **options)
    return path


def pixels(seed: int, size: tuple[int, int] = (48, 32)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.clip(rng.integers(40, 200, 3) + rng.integers(-20, 20, (size[1], size[0], 3)), 0, 255).astype(np.uint8)


def jpeg(seed: int = 0, size: tuple[int, int] = (48, 32)) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels(seed, size)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def seed_rows(count: int = 12) -> list[dict[str, str]]:
    """Return rows in the form of the seed's CSV.

    They have photos in a folder, a cell ``nan``, and English words and commas in texts.
    """
    rows = []
    for number in range(1, count + 1):
        level = LEVELS[number % 3]
        rows.append(
            dict(
                zip(
                    COLUMNS,
                    (
                        str(number),
                        f"IMG_{number:03d}",
                        f"图/{number} 墙.png",
                        f"{number} 号楼墙体裂缝, banana nan width",
                        "坍塌",
                        level,
                        ADVICE[level],
                        "nan" if number == 1 else "D",
                        "A",
                        "a.csv",
                        f"old {number}.png",
                    ),
                    strict=True,
                )
            )
        )
    return rows


def write_csv(path: Path, rows: Sequence[Mapping[str, str]], encoding: str = "utf-8-sig") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_seed(folder: Path, count: int = 12, encoding: str = "utf-8-sig") -> Path:
    """Write the seed's CSV and its photos, and return the path of the CSV."""
    rows = seed_rows(count)
    for number, row in enumerate(rows):
        draw(folder / row["image_path"], number)
    return write_csv(folder / "risks.csv", rows, encoding)


def write_jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path
