import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from reprscope.data import download
from reprscope.runtime.errors import UserError
from support.file_server import FileServer

DATA = np.random.default_rng(0).bytes(1_000_000)
SUM = "sha256:" + hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def server(tmp_path, monkeypatch):
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "a.tar.gz").write_bytes(DATA)
    (folder / "wrong").write_bytes(DATA[:-1] + b"?")
    monkeypatch.setenv("REPRSCOPE_CACHE", str(tmp_path / "cache"))
    with FileServer(folder) as served:
        yield served


def kept(tmp_path):
    return sorted(
        p.name for p in (tmp_path / "cache").rglob("*") if p.is_file() and p.suffix != ".lock"
    )


def test_a_file_is_fetched_once_and_byte_for_byte(server, tmp_path):
    for _ in range(2):
        path = download.fetch([server.url("a.tar.gz")], what="A", size=len(DATA), checksum=SUM)
        assert path.read_bytes() == DATA
    assert server.requests == [("a.tar.gz", 0)]
    # Another address of the same file is the same file.
    assert download.fetch([server.url("gone/a.tar.gz")], what="A", checksum=SUM) == path
    assert len(server.requests) == 1
    assert kept(tmp_path) == ["a.tar.gz"]


def test_a_dropped_connection_is_taken_up_where_it_was_cut_off(server):
    server.drop["a.tar.gz"] = [400_000, 300_000]
    path = download.fetch([server.url("a.tar.gz")], what="A", checksum=SUM)
    assert path.read_bytes() == DATA
    starts = [start for _, start in server.requests]
    assert len(starts) == 3
    assert 300_000 < starts[1] <= 400_000 < starts[2] <= 700_000


def test_the_next_run_resumes_what_failed(server, tmp_path):
    server.drop["a.tar.gz"] = [200_000] * download.ATTEMPTS
    with pytest.raises(UserError, match=r"A cannot be had \(.*cut off.*run again to go on"):
        download.fetch([server.url("a.tar.gz")], what="A", checksum=SUM)
    assert len(server.requests) == download.ATTEMPTS
    path = download.fetch([server.url("a.tar.gz")], what="A", checksum=SUM)
    assert path.read_bytes() == DATA
    assert server.requests[-1][1] > 400_000
    assert kept(tmp_path) == ["a.tar.gz"]


def test_a_server_without_ranges_sends_all_again(server):
    server.ranges = False
    server.drop["a.tar.gz"] = [400_000]
    assert download.fetch([server.url("a.tar.gz")], what="A").read_bytes() == DATA


def test_a_download_that_was_killed_at_the_end_is_complete(server, tmp_path):
    server.drop["a.tar.gz"] = [200_000] * download.ATTEMPTS
    with pytest.raises(UserError):
        download.fetch([server.url("a.tar.gz")], what="A")
    (part,) = (tmp_path / "cache").rglob("*.part-*")
    part.write_bytes(DATA)
    path = download.fetch([server.url("a.tar.gz")], what="A")
    assert path.read_bytes() == DATA
    assert server.requests[-1] == ("a.tar.gz", len(DATA))


def test_what_is_longer_than_the_file_is_no_beginning_of_it(server, tmp_path):
    server.drop["a.tar.gz"] = [200_000] * download.ATTEMPTS
    with pytest.raises(UserError):
        download.fetch([server.url("a.tar.gz")], what="A")
    (part,) = (tmp_path / "cache").rglob("*.part-*")
    part.write_bytes(DATA + b"more")
    assert download.fetch([server.url("a.tar.gz")], what="A").read_bytes() == DATA


def test_mirrors_are_tried_in_order_and_a_wrong_file_is_deleted(server, tmp_path):
    server.broken["busy"] = 503
    urls = [server.url(name) for name in ("gone", "busy", "wrong", "a.tar.gz")]
    assert download.fetch(urls, what="A", checksum=SUM).read_bytes() == DATA
    assert [name for name, _ in server.requests] == ["gone", "busy", "wrong", "a.tar.gz"]
    assert len(kept(tmp_path)) == 1


def test_a_wrong_checksum_everywhere_is_one_sentence_with_each_reason(server, tmp_path):
    urls = [server.url("gone"), server.url("wrong")]
    with pytest.raises(UserError) as failure:
        download.fetch(urls, what="A", checksum=SUM)
    text = str(failure.value)
    assert "status 404" in text
    assert "its sha256 is" in text
    assert "put its path into `urls`" in text
    assert "\n" not in text
    assert kept(tmp_path) == []
    with pytest.raises(UserError, match="it has 1000000 bytes, not 7"):
        download.fetch(urls, what="A", size=7)


def test_md5_is_understood(server):
    checksum = "md5:" + hashlib.md5(DATA).hexdigest()
    assert download.fetch([server.url("a.tar.gz")], what="A", checksum=checksum).is_file()


def test_nobody_answers(server):
    with FileServer(None) as closed:
        url = closed.url("a")
    with pytest.raises(UserError, match="no answer"):
        download.fetch([url], what="A")


def test_a_file_on_this_machine_is_used_where_it_is(server, tmp_path):
    path = tmp_path / "mine.tar.gz"
    path.write_bytes(DATA)
    urls = [server.url("a.tar.gz"), str(path)]
    assert download.fetch(urls, what="A", checksum=SUM) == path
    assert server.requests == []
    path.write_bytes(b"other")
    assert download.fetch(urls, what="A", checksum=SUM).read_bytes() == DATA


def test_files_on_this_machine_are_those_that_a_dataset_is_made_from(tmp_path):
    path = tmp_path / "a b%20.tar.gz"
    path.write_bytes(DATA)
    for url in (str(path), path.as_uri()):
        assert download.files([url, "http://a/b", str(tmp_path / "none")]) == [str(path)]
        assert download.fetch([url], what="A", checksum=SUM) == path


def test_a_kept_file_that_has_changed_is_fetched_anew(server, tmp_path):
    url = server.url("a.tar.gz")
    found = download.fetch([url], what="A", checksum=SUM)
    found.write_bytes(DATA[:-1] + b"?")
    assert download.fetch([url], what="A", checksum=SUM).read_bytes() == DATA
    assert len(server.requests) == 2


def test_two_processes_fetch_a_file_once(server):
    code = (
        "import sys; from reprscope.data import download;"
        "print(download.fetch([sys.argv[1]], what='A').stat().st_size)"
    )
    command = [sys.executable, "-c", code, server.url("a.tar.gz")]
    environment = os.environ | {"PYTHONPATH": "workflow_scripts"}
    running = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    assert [int(process.communicate()[0]) for process in running] == [len(DATA)] * 2
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("urls", "checksum", "sentence"),
    [((), None, "urls is empty"), (("http://a",), "abc", "checksum is abc")],
)
def test_impossible_settings(urls, checksum, sentence):
    with pytest.raises(UserError, match=sentence):
        download.check_settings(urls, checksum)
