"""What the system says of memory: what is left, what this process has, whom it killed for it."""

from __future__ import annotations

import re
import resource
from pathlib import Path
from typing import Final

_OUT: Final = re.compile(
    r"(?i)can't allocate memory|cannot allocate memory|not enough memory|std::bad_alloc"
    r"|out of memory|_STATUS_ALLOC_FAILED|ErrorMemoryAllocation|ErrorOutOfMemory"
    r"|failed to map segment|can't start new thread"
)
"""What says that memory ran out.

That is torch's allocators, oneDNN, CUDA, cuBLAS, cuDNN, HIP, rocBLAS, MPS, and what loads libraries
and starts threads.
"""


def says_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out."""
    return isinstance(error, MemoryError) or bool(_OUT.search(str(error)))


def available() -> int:
    """Bytes that this process can still take without being refused or killed.

    The least of what the machine, the process's limit of addresses and each control group (version
    2 or 1) that the process is in leave.
    """
    found = [_meminfo()]
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        found.append(limit - status("VmSize"))
    found += control_groups(_text(Path("/proc/self/cgroup")), Path("/sys/fs/cgroup"))
    return max(min(found), 0)


def control_groups(own: str, mounted: Path) -> list[int]:
    """Bytes that each control group around this process leaves it.

    Parameters
    ----------
    own : str
        Text of ``/proc/self/cgroup``.
    mounted : Path
        Where control groups are mounted.

    Returns
    -------
    list of int
        One for each group with a limit, of the process's own up to the outermost that is seen.
        Pages of files that the kernel would give back at once do not count as taken.
    """
    found = []
    for line in own.splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root, names = mounted, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            root = mounted / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        # Inside a container the path may be that of the host, and what is mounted the own group.
        group = Path(path.lstrip("/"))
        for folder in (root / group, *(root / outer for outer in group.parents)):
            limit, used = (_text(folder / name).strip() for name in names[:2])
            if limit.isdigit() and used.isdigit():
                statistics = dict(
                    entry.split() for entry in _text(folder / "memory.stat").splitlines()
                )
                found.append(int(limit) - int(used) + int(statistics.get(names[2], 0)))
    return found


def kills() -> int:
    """Processes of this machine that its kernel has killed for lack of memory since it started."""
    for path in (Path("/proc/vmstat"), Path("/sys/fs/cgroup/memory.events")):
        for line in _text(path).splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def _text(path: Path) -> str:
    """Text of a file of the kernel; empty where it has none of that name."""
    try:
        return path.read_text()
    except OSError:
        return ""


def _meminfo() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 1 << 62
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))


def status(key: str) -> int:
    """Bytes of an entry of the process's status, such as ``VmRSS``."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{key}:"))


def reset_peak() -> bool:
    """Let the peak of resident memory (VmHWM) start anew; False where that is not possible."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True
