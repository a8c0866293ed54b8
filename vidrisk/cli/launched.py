"""A command in several processes (``accelerate launch -m vidrisk train …``): the main one alone speaks."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from vidrisk.runtimes.contract.errors import VidriskError

HEAD_START_S = 30.0  # of the main process to say its error and end, on a busy machine too


@contextmanager
def silence_other_processes() -> Iterator[bool]:
    """Join the other processes for the block, which gets whether this is the main one.

    What befalls all of them the main process says: the others wait with their errors, and the launcher ends them
    meanwhile. An error that the main process does not have is said.
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
