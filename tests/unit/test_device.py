"""Leasing devices: two jobs never share one."""

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from reprscope.representations import precision
from reprscope.runtime import device
from reprscope.runtime.errors import UserError

LIBRARY = Path(__file__).parents[2] / "workflow_scripts"
HOLD = """
import sys, time
from reprscope.runtime import device
device.count_gpus = lambda: 2
device.built_for_cuda = lambda: None
with device.lease(1) as kind:
    import os
    print(kind, os.environ["CUDA_VISIBLE_DEVICES"], time.monotonic(), flush=True)
    time.sleep(0.4)
    print(time.monotonic(), flush=True)
"""


def hold(tmp_path, **environment):
    variables = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
    variables |= {"PYTHONPATH": str(LIBRARY), "TMPDIR": str(tmp_path), **environment}
    return subprocess.Popen(
        [sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True, env=variables
    )


def test_six_jobs_on_two_devices_never_overlap(tmp_path):
    jobs = [hold(tmp_path) for _ in range(6)]
    spans = {}
    for job in jobs:
        lines = job.communicate(timeout=60)[0].splitlines()
        kind, name, start = lines[0].split()
        assert kind == "cuda"
        spans.setdefault(name, []).append((float(start), float(lines[1])))
    assert sorted(spans) == ["0", "1"]
    for held in spans.values():
        held.sort()
        for (_, end), (start, _) in pairwise(held):
            assert start >= end


def test_a_killed_job_frees_its_device(tmp_path):
    first, second = hold(tmp_path), hold(tmp_path)
    taken = {job.stdout.readline().split()[1] for job in (first, second)}
    assert taken == {"0", "1"}
    first.kill()
    first.wait()
    third = hold(tmp_path)
    assert third.communicate(timeout=60)[0].startswith("cuda ")
    second.communicate(timeout=60)
    first.stdout.close()


def test_the_device_that_a_scheduler_assigned_is_kept(tmp_path):
    out = hold(tmp_path, CUDA_VISIBLE_DEVICES="7").communicate(timeout=60)[0]
    assert out.split()[:2] == ["cuda", "7"]


def test_no_gpu_asked_means_the_processor():
    with device.lease(0) as kind:
        assert kind == "cpu"


def test_a_gpu_that_is_not_there_is_one_sentence(monkeypatch):
    monkeypatch.setattr(device, "built_for_cuda", lambda: True)
    monkeypatch.setattr(device, "count_gpus", lambda: 0)
    with pytest.raises(UserError, match="set `device: cpu`"), device.lease(1):
        pass


@pytest.mark.parametrize(
    ("visible", "count"),
    {
        "": 0,
        "-1": 0,
        "NoDevFiles": 0,
        "none": 0,
        "0": 1,
        "2,5": 2,
        " 2 , 5 ": 2,
        "0,-1,1": 1,
        "0,,1": 1,
        "0,NoDevFiles": 1,
        "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6,MIG-1/2/3": 2,
        "1,GPU-8932f937": 2,
    }.items(),
)
def test_counting_respects_what_is_visible(monkeypatch, visible, count):
    monkeypatch.setattr(device, "built_for_cuda", lambda: None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert device.count_gpus() == count


@pytest.mark.parametrize(
    ("version", "usable"),
    [
        ("cuda: Optional[str] = '12.6'\nhip: Optional[str] = None\n", True),
        ("cuda: Optional[str] = None\nhip: Optional[str] = '6.3'\n", False),
        ("cuda = '11.8'\n", True),
        ("cuda = None\n", False),
        ("debug = False\n", None),
    ],
)
def test_torch_without_cuda_uses_no_card(tmp_path, monkeypatch, version, usable):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise AssertionError('imported')")
    (tmp_path / "torch" / "version.py").write_text(version)
    found = device.importlib.util.spec_from_file_location("torch", tmp_path / "torch/__init__.py")
    monkeypatch.setattr(device.importlib.util, "find_spec", lambda name: found)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert device.built_for_cuda() is usable
    assert device.count_gpus() == (usable is not False)
    if usable is False:
        with pytest.raises(UserError, match="torch is installed without CUDA"), device.lease(1):
            pass


def test_the_torch_that_is_installed_says_whether_it_uses_cuda():
    import torch

    assert device.built_for_cuda() == (torch.version.cuda is not None)


def test_precision_by_device():
    import torch

    for reduced in ("float16", "bfloat16"):
        assert precision.torch_dtype("float32", "cuda", reduced=reduced) == torch.float32
        assert precision.torch_dtype("auto", "cuda", reduced=reduced) == getattr(torch, reduced)
        assert precision.torch_dtype("auto", "cpu", reduced=reduced) == torch.float32
        assert precision.torch_dtype(reduced, "cpu", reduced=reduced) == getattr(torch, reduced)


def test_float32_is_not_shortened():
    """Whatever was set before; convolutions are shortened by torch's own default."""
    import torch

    torch.backends.cudnn.allow_tf32 = True
    torch.set_float32_matmul_precision("medium")
    assert precision.torch_device("cpu") == torch.device("cpu")
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
    assert torch.get_float32_matmul_precision() == "highest"


def test_a_processor_is_named_with_its_instructions():
    import torch

    found = device.machine(torch.device("cpu"))
    assert found["threads"] == torch.get_num_threads()
    assert found["instructions"] == torch.backends.cpu.get_cpu_capability()
    assert found["processor"]


def test_a_card_is_named_with_its_libraries(monkeypatch):
    """There may be no card here: what torch and the driver's own program say is made up."""
    import torch

    monkeypatch.setattr(torch.cuda, "get_device_name", lambda place: f"card of {place}")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91002)
    monkeypatch.setattr(device.shutil, "which", lambda name: f"/usr/bin/{name}")
    told = subprocess.CompletedProcess([], 0, stdout="570.86.15\n570.86.15\n")
    monkeypatch.setattr(device.subprocess, "run", lambda *asked, **kept: told)
    precision.torch_device("cpu")
    found = device.machine(torch.device("cuda"))
    assert found["card"] == "card of cuda"
    assert found["driver"] == "570.86.15"
    assert found["cudnn"] == 91002
    assert found["tf32"] is False
