"""Which device a job uses, and in what precision."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import itertools
import os
import platform
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from reprscope.runtime.errors import UserError

if TYPE_CHECKING:
    import torch


def count_gpus() -> int:
    """Number of NVIDIA GPUs that jobs can use, without importing torch.

    Importing it would slow every parse by seconds. None if torch is installed here without CUDA;
    cards of other makers (ROCm, MPS) are not counted, and jobs run on the processor.
    """
    if built_for_cuda() is False:
        return 0
    visible = visible_gpus()
    if visible is not None:
        return len(visible)
    if shutil.which("nvidia-smi") is None:
        return 0
    listing = subprocess.run(
        ["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=False
    )
    return listing.stdout.count("GPU ") if listing.returncode == 0 else 0


def visible_gpus() -> list[str] | None:
    """GPUs that ``CUDA_VISIBLE_DEVICES`` lets a process see; None if it says nothing.

    As CUDA reads it: numbers from 0, or names that start with ``GPU-`` or ``MIG-``, up to the first
    entry that is neither (such as ``-1`` or ``NoDevFiles``).
    """
    text = os.environ.get("CUDA_VISIBLE_DEVICES")
    if text is None:
        return None
    entries = (entry.strip() for entry in text.split(","))
    return list(itertools.takewhile(re.compile(r"\d+$|(GPU|MIG)-").match, entries))


def built_for_cuda() -> bool | None:
    """Whether the torch that is installed here can use CUDA; None if none is.

    Read from its file ``version.py``. Where rules have environments of their own (``--sdm conda``)
    the process that plans may have no torch.
    """
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return None
    try:
        text = Path(found.origin).with_name("version.py").read_text(encoding="utf-8")
    except OSError:
        return None
    cuda = re.search(r"^cuda\b.*= *(.+)$", text, re.MULTILINE)
    return cuda[1].strip() != "None" if cuda else None


@contextlib.contextmanager
def lease(wanted: int) -> Iterator[str]:
    """Lease a device for the length of a job.

    Snakemake counts GPUs but assigns none, so two jobs would both take the first one. Each device
    has a lock file, freed by the kernel however the job ends. A device that a cluster scheduler
    has assigned (exactly one in ``CUDA_VISIBLE_DEVICES``) is kept.

    Parameters
    ----------
    wanted : int
        GPUs that the job was given; 0 means the CPU.

    Yields
    ------
    str
        ``cpu`` or ``cuda``. Call this before torch is imported: it sets ``CUDA_VISIBLE_DEVICES``.
    """
    if wanted < 1:
        yield "cpu"
        return
    if built_for_cuda() is False:
        raise UserError(
            "The job was given a GPU but torch is installed without CUDA: install its build for "
            "CUDA, or set `device: cpu` in the study."
        )
    devices = count_gpus()
    if devices == 0:
        raise UserError(
            "The job was given a GPU but none is visible: set `device: cpu` in the study or run "
            "with --resources gpu=0."
        )
    visible = visible_gpus()
    names = visible or [str(number) for number in range(devices)]
    if visible and len(visible) == 1:
        yield "cuda"
        return
    folder = Path(tempfile.gettempdir()) / f"reprscope-gpus-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    while True:
        for name in names:
            with (folder / f"{name.replace('/', '-')}.lock").open("w") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                os.environ["CUDA_VISIBLE_DEVICES"] = name
                yield "cuda"
                return
        time.sleep(0.5)


def machine(device: torch.device) -> dict[str, object]:
    """What a job computes on, as far as numbers may depend on it.

    Returns
    -------
    dict
        Of a GPU ``card``, ``driver``, ``cuda``, ``cudnn`` and ``tf32`` (whether float32 may be
        shortened to it); of a processor ``processor``, ``instructions`` and ``threads``.
    """
    import torch

    if device.type == "cuda":
        return {
            "card": torch.cuda.get_device_name(device),
            "driver": _driver(),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "tf32": torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32,
        }
    return {
        "processor": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }


def _driver() -> str | None:
    """Version of NVIDIA's driver; all cards of a machine share it."""
    if shutil.which("nvidia-smi") is None:
        return None
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    found = subprocess.run(asked, capture_output=True, text=True, check=False)
    lines = found.stdout.split()
    return lines[0] if found.returncode == 0 and lines else None


def _processor() -> str:
    """Name of the processor's model."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
