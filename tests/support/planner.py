"""Dry runs of Snakemake, each in a fork of one process that has imported what all of them need.

A dry run spends most of its time on importing Snakemake and what the library stands on. The library
itself is not imported before the fork: each project has a copy of its own, with edits.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import subprocess
import sys
import tempfile
import traceback
from functools import cache
from pathlib import Path

PRELOADED = ("altair", "h5py", "jsonschema", "numpy", "polars", "scipy", "snakemake.cli", "yaml")


def snakemake(
    arguments: list[str], folder: Path, environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """What ``snakemake`` with these arguments does in a folder, without the start of Python."""
    server = _server()
    with tempfile.TemporaryDirectory() as temporary:
        out, err = Path(temporary) / "out", Path(temporary) / "err"
        request = {
            "arguments": arguments,
            "folder": str(folder),
            "environment": environment,
            "out": str(out),
            "err": str(err),
        }
        assert server.stdin and server.stdout
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        code = int(server.stdout.readline())
        return subprocess.CompletedProcess(arguments, code, out.read_text(), err.read_text())


@cache
def _server() -> subprocess.Popen[str]:
    server = subprocess.Popen(
        [sys.executable, __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={k: v for k, v in os.environ.items() if not k.startswith("PYTHON")},
    )

    def stop() -> None:
        server.communicate()

    atexit.register(stop)
    return server


def _serve() -> None:
    """Answer each line of the standard input, a request, with the exit status of a dry run."""
    for name in PRELOADED:
        __import__(name)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if not child:
            _run(**request)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _run(
    arguments: list[str], folder: str, environment: dict[str, str], out: str, err: str
) -> None:
    code: object = 1
    try:
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        for descriptor, path in ((1, out), (2, err)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
        sys.path[0] = str(Path(sys.executable).parent)  # as for the command of that name
        sys.argv = ["snakemake", *arguments]
        from snakemake.cli import main

        main()
    except SystemExit as error:
        code = error.code or 0
        if isinstance(code, str):
            print(code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    _serve()
