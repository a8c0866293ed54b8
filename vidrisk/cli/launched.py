"""Commands in several processes (``accelerate launch -m vidrisk train …``): only the main one prints."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from vidrisk.runtimes.contract.errors import VidriskError

HEAD_START_S = 30.0  # time for the main process to print its error and end, even on a busy machine


@contextmanager
def silence_other_processes() -> Iterator[bool]:
    """Join the other processes for the block; yield whether this is the main one.

    An error of all processes is printed by the main one: the others wait before they raise theirs, and the launcher
    ends them meanwhile. An error that the main process does not have is printed by another process.
    """
    from vidrisk.train.shares import LostProcess, close_share, open_share

    share = open_share()
    if not share.is_main:
        logging.getLogger("vidrisk").setLevel(logging.ERROR)
    try:
        yield share.is_main
    except VidriskError as error:
        if not share.is_main and not isinstance(error, LostProcess):
            time.sleep(HEAD_START_S)
        raise
    finally:
        close_share()
