"""What the numbers were measured on."""

from __future__ import annotations

import os
import platform
import re
from importlib import metadata
from pathlib import Path

from reprscope.provenance import versions


def machine() -> dict[str, object]:
    """Processor, memory, threads, default precision and versions."""
    import torch
    from reprscope.device import torch_dtype

    return {
        "processor": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "default_precision": str(torch_dtype("auto", "cpu", reduced="float16")).removeprefix(
            "torch."
        ),
        "versions": {
            "python": platform.python_version(),
            **versions(),
            "sdhelper": metadata.version("sdhelper"),
        },
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else []
    return names[0].strip() if names else platform.processor()
