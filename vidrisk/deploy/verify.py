"""``python -m vidrisk.deploy.verify BUNDLE``: compares a bundle with its hashes. ``install.sh`` asks it."""

from __future__ import annotations

import sys

from vidrisk.runtimes.bundle import Bundle
from vidrisk.runtimes.errors import BundleError


def main() -> int:
    try:
        bundle = Bundle.open(sys.argv[1])
    except BundleError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    sys.stdout.write(f"bundle verified: {bundle.root.name}, {len(bundle.manifest.files)} files, sha256 {bundle.digest[:12]}…\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
