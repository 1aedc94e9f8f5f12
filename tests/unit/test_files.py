import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from reprscope.runtime import failures, files
from reprscope.runtime.disk import check_temporary_files
from reprscope.runtime.errors import UserError
from reprscope.runtime.files import atomic, write_text

LIBRARY = Path(__file__).parents[2] / "workflow_scripts"


def test_a_file_appears_only_when_complete(tmp_path):
    with pytest.raises(RuntimeError), atomic(tmp_path / "a.txt") as part:
        part.write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    write_text(tmp_path / "a.txt", "whole")
    with pytest.raises(RuntimeError), atomic(tmp_path / "a.txt") as part:
        part.write_text("half")
        raise RuntimeError
    assert (tmp_path / "a.txt").read_text() == "whole"
    assert part.suffix == ".txt"


def test_sigkill_in_the_middle_leaves_the_old_file_and_the_next_writer_cleans_up(tmp_path):
    target = tmp_path / "a.txt"
    write_text(target, "old")
    code = (
        "import sys, time; from reprscope.runtime.files import atomic\n"
        "with atomic(sys.argv[1]) as part:\n"
        "    part.write_text('half'); print('ready', flush=True); time.sleep(60)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, target],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(LIBRARY)},
    )
    assert child.stdout.readline() == b"ready\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert target.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2
    write_text(target, "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert target.read_text() == "new"


def test_what_writers_of_other_machines_and_namespaces_left_is_kept(tmp_path):
    """Nobody here can say whether they still write: their numbers of processes mean nothing."""
    elsewhere = tmp_path / ".0123abcd-99999999-01234567.part-a.txt"
    here = tmp_path / f".{files._place()}-99999999-01234567.part-a.txt"
    alive = tmp_path / f".{files._place()}-{os.getpid()}-01234567.part-a.txt"
    another = tmp_path / f".{files._place()}-99999999-01234567.part-b.txt"
    for path in (elsewhere, here, alive, another):
        path.write_text("half")
    write_text(tmp_path / "a.txt", "new")
    assert {path.name for path in tmp_path.iterdir()} == {
        "a.txt",
        elsewhere.name,
        alive.name,
        another.name,
    }


def test_two_writers_of_one_process_do_not_share_a_file(tmp_path):
    with atomic(tmp_path / "a.txt") as first, atomic(tmp_path / "a.txt") as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert (tmp_path / "a.txt").read_text() == "first"


def test_full_disks_are_told_apart_from_other_errors():
    assert files.is_full_disk(OSError(28, "No space left on device"))
    assert files.is_full_disk(RuntimeError("write failed: errno = 28"))
    assert not files.is_full_disk(OSError(13, "Permission denied"))
    try:
        try:
            raise OSError(122, "Disk quota exceeded")
        except OSError as error:
            raise ValueError("could not write") from error
    except ValueError as error:
        assert files.is_full_disk(error)


@pytest.fixture
def small_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a tmpfs needs root")
    yield disk
    for _ in range(20):
        if subprocess.run(["umount", disk], capture_output=True).returncode == 0:
            return
        time.sleep(0.1)


def test_full_disk_is_one_sentence_and_keeps_what_was_there(small_disk):
    write_text(small_disk / "old.txt", "kept")
    with (
        pytest.raises(UserError, match=r"a\.bin is full: free some space"),
        atomic(small_disk / "a.bin") as part,
    ):
        part.write_bytes(b"x" * 1_000_000)
    assert [path.name for path in small_disk.iterdir()] == ["old.txt"]


WRITERS = {
    "h5": """
from reprscope.representations.coordinates import Affine
from reprscope.representations.store import writer
with writer(path, spec="{}", provenance={}) as store:
    for number in range(20):
        values = np.random.default_rng(number).normal(size=(1, 32, 32, 32)).astype("float32")
        store.append([str(number)], [(128, 128)], [Affine()], {"conv_in": values})
""",
    "parquet": """
import polars as pl
from pathlib import Path
from reprscope.runtime.frames import write_frame
frame = pl.DataFrame({"x": np.random.default_rng(0).normal(size=200_000)})
write_frame(frame, Path(path), spec="{}")
""",
}


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_job_on_a_full_disk_ends_in_one_sentence_and_leaves_nothing(small_disk, tmp_path, suffix):
    body = "".join(f"    {line}\n" for line in WRITERS[suffix].splitlines())
    code = (
        "import sys; import numpy as np; from reprscope.runtime.job import job\n"
        "path = sys.argv[1]\n"
        f"with job(sys.argv[2], 1):\n{body}"
    )
    path = small_disk / f"a.{suffix}"
    child = subprocess.run(
        [sys.executable, "-c", code, path, tmp_path / "log"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(LIBRARY)},
    )
    assert child.returncode == 1
    assert not child.stderr
    assert failures.read(tmp_path / "log").sentence == (
        f"The disk that should hold {path} is full: free some space (or raise the quota, or the "
        "limit of a file's size) and run again; "
        "everything finished before is kept."
    )
    assert list(small_disk.iterdir()) == []


def test_a_limit_of_a_file_s_size_is_one_sentence(tmp_path):
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(UserError, match=r"a\.txt is full: .* limit of a file's size"):
            write_text(tmp_path / "a.txt", "x" * 2000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_a_full_folder_for_temporary_files_is_named(small_disk, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(small_disk / "none"))
    check_temporary_files()
    monkeypatch.setenv("TMPDIR", str(small_disk))
    with contextlib.suppress(OSError):
        (small_disk / "x").write_bytes(bytes(1 << 18))
    with pytest.raises(UserError, match=f"cannot be written to {small_disk} .*set TMPDIR"):
        check_temporary_files()
