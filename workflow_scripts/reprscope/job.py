"""What every workflow script does around its work: log, threads, and the sentence for the user."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator

from reprscope.errors import UserError

logger = logging.getLogger("reprscope")


@contextlib.contextmanager
def job(log: str, threads: int, *, online: bool = False) -> Iterator[None]:
    """Run a script's work.

    Everything that is printed, also by native code, goes to the log. A mistake that the user can
    mend ends the log, and the terminal, with one sentence; anything else leaves a traceback.

    Parameters
    ----------
    log : str
        Path of the rule's log file.
    threads : int
        Cores that the rule was given.
    online : bool
        Whether the work may ask the Hugging Face hub.
    """
    # Snakemake sets the numbers of threads of all other libraries.
    os.environ["POLARS_MAX_THREADS"] = str(threads)
    if not online:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    terminal = os.fdopen(os.dup(2), "w")
    stream = open(log, "w", buffering=1, encoding="utf-8")  # noqa: SIM115, PTH123 - until the end
    os.dup2(stream.fileno(), 1)
    os.dup2(stream.fileno(), 2)
    sys.stdout = sys.stderr = stream
    logging.basicConfig(
        stream=stream,
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
        force=True,
    )
    try:
        yield
    except UserError as error:
        logger.error("%s", error)
        print(f"reprscope: {error}", file=terminal, flush=True)
        sys.exit(1)
    except Exception as error:
        logger.exception("%s", error)
        print(
            f"reprscope: unexpected {type(error).__name__} ({error}); the traceback is in {log}.",
            file=terminal,
            flush=True,
        )
        sys.exit(1)
