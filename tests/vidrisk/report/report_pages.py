"""Helper that opens a page in a real browser and queries it with a script of the test."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

from vidrisk.runtimes.html import csp_digest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-component-update",
    "--disable-background-networking",
    "--disable-sync",
    "--hide-scrollbars",
    "--virtual-time-budget=3000",
    "--enable-logging=stderr",
    "--v=0",
    "--dump-dom",
)
# A frame, because a window is at least 500 pixels wide.
FRAME = """<!DOCTYPE html><html style="color-scheme: light dark"><title>no answer</title>
<script>addEventListener("message", (event) => { document.title = event.data; });</script>
<iframe src="probed.html" style="width: %dpx; height: 900px; border: 0"></iframe></html>"""


def open_page(page: Path, profile: Path, probe: str, *, width: int, dark: bool) -> tuple[dict[str, Any], str]:
    """Return the findings of the probe script and the log of the browser.

    In a page that allows no scripts, the probe is the only script that may run.
    """
    probed = page.with_name("probed.html")
    text = page.read_text(encoding="utf-8").replace("</body>", f"<script>{probe}</script></body>")
    policy = "script-src " if "script-src " in text else "default-src 'none'"
    allowed = f"script-src {csp_digest(probe)}"
    probed.write_text(
        text.replace(policy, f"{allowed} " if policy == "script-src " else f"{policy}; {allowed}"), encoding="utf-8"
    )
    frame = page.with_name("frame.html")
    frame.write_text(FRAME % width, encoding="utf-8")
    result = subprocess.run(
        [
            str(CHROMIUM),
            *FLAGS,
            f"--user-data-dir={profile}",
            "--window-size=1400,1000",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            frame.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ, "HOME": os.fspath(profile)},
    )
    title = re.search(r"<title>(.*?)</title>", result.stdout, re.DOTALL)
    assert title and title.group(1) != "no answer", result.stderr
    return json.loads(unescape(title.group(1))), result.stderr
