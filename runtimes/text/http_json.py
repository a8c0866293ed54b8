"""JSON over HTTP with the standard library: size limits, timeouts, and retries if a server is busy."""

from __future__ import annotations

import http.client
import json
import random
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from vidrisk.runtimes.contract.errors import RuntimeFailure, SettingsError

MOST_BYTES = 2**24  # of a response
BUSY = (408, 429, 500, 502, 503, 504)
MOST_WAIT_S = 30.0


@dataclass(frozen=True)
class JsonServer:
    """Client of a server that exchanges JSON.

    Attributes:
        url: base URL, ``http://host:port/v1``.
        key: sent as a bearer token; never shown.
        timeout_s: a try fails after this time without a byte.
        attempts: number of tries of a request.
        first_wait_s: wait before the second try; doubled for each further one, unless the server sends Retry-After.

    Raises:
        SettingsError: the URL is invalid, or the key cannot be sent.
    """

    url: str
    key: str | None = field(default=None, repr=False)
    timeout_s: float = 120.0
    attempts: int = 5
    first_wait_s: float = 0.5

    def __post_init__(self) -> None:
        if not _is_url(self.url):
            raise SettingsError(
                f"server {self.url.rpartition('@')[2]!r}", allowed="http://host:port/v1, or https, without a password"
            )
        if self.key is not None and not (self.key.isascii() and self.key.isprintable()):
            raise SettingsError(
                "the server key has characters that are not allowed in an HTTP header",
                allowed="printable ASCII on one line",
                fix="check for a line break at its end",
            )

    def ask(self, path: str, content: Any = None) -> Any:
        """Send JSON, or nothing, and return the JSON of the response.

        Raises:
            RuntimeFailure: a permanent error, a response that is not JSON, or no response in any try.
        """
        body = None if content is None else json.dumps(content).encode()
        said, wait_s = "", 0.0
        for attempt in range(self.attempts):
            time.sleep(wait_s)
            wait_s = min(self.first_wait_s * 2**attempt, MOST_WAIT_S) * random.uniform(0.75, 1.25)
            try:
                status, after_s, answer = self._try(path, body)
            except TimeoutError:
                said = f"no data for {self.timeout_s:g} s"
                continue
            except (OSError, http.client.HTTPException) as error:
                said = str(error) or type(error).__name__
                continue
            if status == 200:
                return _json_of(answer, self.url)
            said = f"HTTP {status}: {_reason(answer)}"
            if status not in BUSY:
                raise RuntimeFailure(f"{self.url} refuses: {said}")
            wait_s = wait_s if after_s is None else min(after_s, MOST_WAIT_S)
        raise RuntimeFailure(
            f"{self.url} did not answer in {self.attempts} tries: {said}", fix="check that the server works"
        )

    def _try(self, path: str, body: bytes | None) -> tuple[int, float | None, bytes]:
        parts = urlsplit(self.url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(str(parts.hostname), parts.port, timeout=self.timeout_s)
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        try:
            connection.request("GET" if body is None else "POST", f"{parts.path.rstrip('/')}/{path}", body, headers)
            response = connection.getresponse()
            after = response.getheader("Retry-After", "")
            answer = response.read(MOST_BYTES + 1)
            if response.length and len(answer) <= MOST_BYTES:  # the connection ended before the whole body
                raise http.client.IncompleteRead(answer, response.length)
        finally:
            connection.close()
        if len(answer) > MOST_BYTES:
            raise RuntimeFailure(f"{self.url} answers with more than {MOST_BYTES} bytes")
        return response.status, float(after) if after.isascii() and after.isdigit() else None, answer


def _is_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        labels = str(parts.hostname or "").rstrip(".").split(".")
        is_good = parts.scheme in ("http", "https") and (parts.port is None or parts.port > 0)
    except ValueError:
        return False
    return (
        is_good
        and all(0 < len(label) < 64 for label in labels)
        and url.isascii()
        and not (parts.query or parts.fragment or parts.username)
    )


def _json_of(answer: bytes, url: str) -> Any:
    try:
        return json.loads(answer)
    except (ValueError, RecursionError) as error:
        raise RuntimeFailure(
            f"{url} answers with {answer[:40]!r}, which is not JSON",
            fix="give the URL of an OpenAI-compatible API, which usually ends in /v1",
        ) from error


def _reason(answer: bytes) -> str:
    """Return the error message of a server, shortened."""
    try:
        error = json.loads(answer)["error"]
        return str(error["message"] if isinstance(error, dict) else error)[:200]
    except (ValueError, KeyError, TypeError, RecursionError):
        return answer[:80].decode("utf-8", errors="replace") or "no reason"
