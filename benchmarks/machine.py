"""What the numbers were measured on."""

from __future__ import annotations

import os
import platform
import re
from importlib import metadata
from pathlib import Path

from reprscope.base.provenance import versions


def machine() -> dict[str, object]:
    """Processor, memory, threads, its fastest precision and versions."""
    import torch

    return {
        "processor": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "reduced_precision": reduced_precision(),
        "versions": {
            "python": platform.python_version(),
            **versions(),
            "sdhelper": metadata.version("sdhelper"),
        },
    }


def reduced_precision() -> str:
    """bfloat16 if the processor has it in hardware, otherwise float32."""
    info = Path("/proc/cpuinfo")
    flags = info.read_text() if info.exists() else ""
    return "bfloat16" if "avx512_bf16" in flags or "amx_bf16" in flags else "float32"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else []
    return names[0].strip() if names else platform.processor()
