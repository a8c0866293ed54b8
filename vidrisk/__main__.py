"""Entry point of ``python -m vidrisk``."""

from vidrisk.cli.app import main

if __name__ == "__main__":
    main()
