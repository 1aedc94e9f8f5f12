"""What every workflow script does around its work: log, threads, and the sentence for the user."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from reprscope.runtime import checksums, code_digests, failures, snapshot
from reprscope.runtime.errors import UserError
from reprscope.runtime.files import full, is_full_disk
from reprscope.runtime.system_memory import says_out_of_memory

logger = logging.getLogger("reprscope")


@contextlib.contextmanager
def job(
    log: str, threads: int, *, spec: str = "{}", files: Iterable[str] = (), online: bool = False
) -> Iterator[failures.State]:
    """Run a script's work.

    Everything that is printed, also by native code, goes to the log. A mistake that the user can
    mend ends the log with one sentence, and so the run that the job is of (see
    :mod:`reprscope.runtime.failures`); anything else leaves a traceback in the log.

    Parameters
    ----------
    log : str
        Path of the rule's log file.
    threads : int
        Cores that the rule was given.
    spec : str
        What the job was planned with; it stops if its code has been edited since.
    files : iterable of str
        What the job reads: after an unexpected error those that are damaged are looked for.
    online : bool
        Whether the work may ask the Hugging Face hub.

    Yields
    ------
    State
        Of this try: how far its batches are to be halved.
    """
    # Snakemake sets the numbers of threads of all other libraries.
    os.environ["POLARS_MAX_THREADS"] = str(threads)
    if not online:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
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
    state = failures.begin(log)
    try:
        if "code" in (planned := json.loads(spec)):
            code = planned["code"]
            code_digests.check_code(code["digest"], code["script"], code["modules"])
        yield state
    except Exception as error:
        sentence = _sentence(error, files)
        if not isinstance(error, UserError):
            logger.exception("%s", error)
        if sentence is not None:
            logger.error("%s", sentence)
        unexpected = (
            f"Memory ran out in this job: run again with more of it, or with fewer jobs at once; "
            f"the traceback is in {log}."
            if says_out_of_memory(error)
            else f"Unexpected {type(error).__name__} ({_short(error, 300)}); the traceback is in "
            f"{log}."
        )
        ended = replace(state, sentence=sentence or unexpected, mendable=sentence is not None)
        failures.write(log, ended)
        sys.exit(1)
    failures.forget(log)


def _sentence(error: Exception, files: Iterable[str]) -> str | None:
    """What the user should do about an error; None if it is the program's own."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError):
        named = error.filename2 or error.filename
        if is_full_disk(error):
            return full(named or "the results")
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) and named:
            return f"{named} cannot be used ({error.strerror}): change its rights or its place."
    elif is_full_disk(error):
        return full("the results")
    if says_out_of_memory(error):
        return None
    return next((text for text in (damage(Path(file)) for file in files) if text), None)


def _short(error: Exception, characters: int) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= characters else f"{text[:characters]} …"


def damage(path: Path) -> str | None:
    """A sentence if a result that a job reads is damaged; None if it is whole or of another kind.

    Of HDF5 all but the chunks is compared, which say so themselves when they are read, as pictures
    in a table do; of a model its files, too.
    """
    try:
        match path.suffix:
            case ".parquet" | ".json" if path.name != "images.parquet":
                checksums.read(path)
                if path.name == "manifest.json":
                    snapshot.verified(path)
            case ".h5":
                with checksums.hdf5(path):
                    pass
    except UserError as error:
        return str(error)
    except OSError as error:
        return str(checksums.damaged(path, error.strerror or error))
    return None
