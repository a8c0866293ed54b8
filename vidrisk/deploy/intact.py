"""Integrity check of a bundle and of installed packages, which ``install.sh`` runs on the machine.

``python -I -m vidrisk.deploy.intact BUNDLE`` compares a bundle with its hashes. With ``--packages`` the files of every
installed package are also compared with the hashes that pip recorded.
"""

from __future__ import annotations

import base64
import sys
from importlib import metadata
from pathlib import Path

from vidrisk.runtimes.contract.bundle import Bundle, sha256_of
from vidrisk.runtimes.contract.errors import VidriskError


def main() -> int:
    try:
        if "--packages" in sys.argv:
            check_packages(Path(sys.prefix))
        bundle = Bundle.open(sys.argv[-1])
    except VidriskError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    sys.stdout.write(
        f"bundle verified: {bundle.root.name}, {len(bundle.manifest.files)} files, sha256 {bundle.digest[:12]}…\n"
    )
    return 0


def check_packages(prefix: Path) -> None:
    """Compare the files of the packages below ``prefix`` with the hashes in their ``RECORD``.

    Raises:
        VidriskError: a file is missing or was changed.
    """
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"]
        for file in distribution.files or ():
            path = Path(str(distribution.locate_file(file)))
            if file.hash is None or file.hash.mode != "sha256" or not path.is_relative_to(prefix):
                continue
            try:
                digest = sha256_of(path)
            except OSError as error:
                raise VidriskError(
                    f"{file} of {name} cannot be read: {error.strerror}", fix="install it again"
                ) from error
            if digest != base64.urlsafe_b64decode(f"{file.hash.value}==").hex():
                raise VidriskError(f"{file} of {name} was changed after it was installed", fix="install it again")


if __name__ == "__main__":
    sys.exit(main())
