"""Batches that do not fit are run in parts, by what a first image needed and by what failed."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from reprscope.base.protocol import Protocol
from reprscope.representations.encoding import encode
from reprscope.representations.extraction import batches, extract
from reprscope.representations.prompts import Prompts
from reprscope.representations.store import Representations, writer
from reprscope.representations.views import View
from reprscope.runtime import memory, system_memory
from reprscope.runtime.errors import UserError
from reprscope.runtime.memory import BatchSize
from support.pictures import image_frame

CPU = torch.device("cpu")
POSITIONS = ["conv_in", "down_blocks.0", "mid_block", "up_blocks.2"]
IMAGES = 12


def run(latents: Path, out: Path, unet, size: BatchSize) -> None:
    with (
        Representations([latents]) as source,
        writer(out, spec="{}", provenance={}, dtype=np.float32) as store,
    ):
        embedding = np.zeros((1, 16, 64), np.float32)
        extract(
            unet,
            batches(
                source,
                Prompts({"embedding": embedding}, dict.fromkeys(source.image_ids, 0)),
                seed=0,
                protocol=Protocol(),
                scaling=1.0,
                shift=0.0,
                size=IMAGES,
            ),
            positions=POSITIONS,
            timestep=50,
            protocol=Protocol(),
            device=CPU,
            dtype=torch.float32,
            store=store,
            size=size,
        )


def test_out_of_memory_ends_with_smaller_batches_and_the_same_features(tmp_path, unet, vae):
    latents = tmp_path / "latents.h5"
    with writer(latents, spec="{}", provenance={}, dtype=np.float32) as store:
        frame = image_frame([(256, 256)] * IMAGES)
        encode(frame, View(), vae, store, resolution=256, pixels="symmetric", batch_size=4)
    run(latents, tmp_path / "free.h5", unet, BatchSize(CPU))

    limited = tmp_path / "limited.h5"
    done = subprocess.run(
        [sys.executable, __file__, str(latents), str(limited)],
        capture_output=True,
        text=True,
        # One arena: else glibc sets 64 MB of addresses aside for every thread, and under a limit
        # the threads are what fails.
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "MALLOC_ARENA_MAX": "1"},
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert 1 <= int(done.stdout) < IMAGES
    with Representations([tmp_path / "free.h5"]) as free, Representations([limited]) as tight:
        assert tight.image_ids == free.image_ids
        for name in free.image_ids:
            for position in POSITIONS:
                expected = free.tokens(position, name)
                assert np.allclose(tight.tokens(position, name), expected, atol=1e-4)


def passes(size: BatchSize, count: int, run, *, item="It", each=1):
    return size.parts(count, run, item=item, ample=each)


def fail_above(limit: int, seen: list[int], error: Exception):
    def pass_over(items: slice) -> list[int]:
        seen.append(items.stop - items.start)
        if seen[-1] > limit:
            raise error
        return list(range(items.start, items.stop))

    return pass_over


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("std::bad_alloc"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"
        ),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("HIP out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("HIP error: hipErrorOutOfMemory"),
        RuntimeError("MPS backend out of memory (MPS allocated: 9.0 GB)"),
    ],
    ids=lambda error: str(error)[:30] or "MemoryError",
)
def test_every_item_is_run_once_after_halving(error):
    size, seen = BatchSize(torch.device("cuda")), []
    parts = list(passes(size, 10, fail_above(3, seen, error)))
    assert [i for _, result in parts for i in result] == list(range(10))
    assert seen == [10, 5, 2, 2, 2, 2, 2]
    assert size.limit == 2
    assert [len(r) for _, r in passes(size, 3, fail_above(3, seen, error))] == [
        2,
        1,
    ]


def test_one_item_that_does_not_fit_is_the_user_s_matter():
    size = BatchSize(CPU)
    with pytest.raises(UserError, match="An image of 8 x 8 pixels does not fit in memory: use a"):
        list(passes(size, 4, fail_above(0, [], MemoryError()), item="An image of 8 x 8 pixels"))


def test_other_errors_are_not_taken_for_lack_of_memory():
    with pytest.raises(RuntimeError, match="shapes"):
        list(passes(BatchSize(CPU), 4, fail_above(0, [], RuntimeError("shapes"))))


FIRST_ITEM = """
import json
import types
import numpy as np
from reprscope.runtime import memory

memory.available = lambda: 512 << 20
size, seen = memory.BatchSize(types.SimpleNamespace(type="cpu")), []

def pass_over(items):
    seen.append(items.stop - items.start)
    return int(np.ones((seen[-1], 8 << 20)).sum())

parts = size.parts(20, pass_over, item="An image", ample=64 << 20)
print(json.dumps([sum(result for _, result in parts), size.limit, seen]))
"""


def test_on_a_processor_the_first_item_says_how_many_fit():
    """Each item takes 64 MB, of which 512 MB are there: 8 would fit without a margin.

    In a process of its own: what other tests leave behind may be freed at any moment.
    """
    found = subprocess.run(
        [sys.executable, "-c", FIRST_ITEM],
        env=os.environ | {"PYTHONPATH": str(Path(memory.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=True,
    )
    total, limit, seen = json.loads(found.stdout)
    assert total == 20 * (8 << 20)
    assert seen[0] == 1
    assert 4 <= limit <= 7
    assert set(seen[1:-1]) == {limit}
    assert sum(seen[1:]) == 20


def test_a_batch_that_fits_by_far_is_not_tried():
    seen = []
    assert len(list(passes(BatchSize(CPU), 20, fail_above(20, seen, MemoryError()))))
    assert seen == [20]


GIB = 1 << 30


def tree(folder, **groups):
    """Control groups as the kernel shows them: limit, memory in use, of it pages of files."""
    for path, entries in groups.items():
        group = folder / path.replace("__", "/").replace("root", ".")
        group.mkdir(parents=True, exist_ok=True)
        for name, text in entries.items():
            (group / name.replace("_DOT_", ".")).write_text(f"{text}\n")


def test_memory_is_that_of_the_job_s_control_group_and_of_those_around_it(tmp_path):
    tree(
        tmp_path,
        slurm__job={
            "memory_DOT_max": 8 * GIB,
            "memory_DOT_current": 3 * GIB,
            "memory_DOT_stat": f"anon {GIB}\ninactive_file {GIB}",
        },
        slurm__job__step={"memory_DOT_max": "max", "memory_DOT_current": GIB},
        slurm={"memory_DOT_max": 20 * GIB, "memory_DOT_current": 19 * GIB},
    )
    found = system_memory.control_groups("0::/slurm/job/step\n", tmp_path)
    assert found == [6 * GIB, 1 * GIB]
    assert system_memory.control_groups("0::/\n", tmp_path) == []
    assert system_memory.control_groups("0::/of/the/host\n", tmp_path) == []
    assert system_memory.control_groups("", tmp_path) == []


def test_memory_of_control_groups_of_version_1(tmp_path):
    tree(
        tmp_path / "memory",
        root={"memory_DOT_limit_in_bytes": 9223372036854771712, "memory_DOT_usage_in_bytes": 0},
        job={
            "memory_DOT_limit_in_bytes": 4 * GIB,
            "memory_DOT_usage_in_bytes": GIB,
            "memory_DOT_stat": f"total_inactive_file {GIB // 2}",
        },
    )
    own = "12:cpu,cpuacct:/job\n9:memory:/job\n1:name=systemd:/\n0::/\n"
    assert system_memory.control_groups(own, tmp_path) == [3 * GIB + GIB // 2, 9223372036854771712]


def test_the_kernel_s_kills_are_counted():
    assert system_memory.kills() >= 0


if __name__ == "__main__":
    # Run under limits that become tighter until the whole batch does not fit any more.
    import resource

    from support.embedded import NANO, load_unet

    unet = load_unet(NANO)
    torch.set_num_threads(1)
    threading.stack_size(1 << 20)
    source, out = (Path(name) for name in sys.argv[1:])
    run(source, out, unet, BatchSize(CPU))
    used = system_memory.status("VmSize")
    for megabytes in range(200, 10, -10):
        resource.setrlimit(resource.RLIMIT_AS, (used + (megabytes << 20), resource.RLIM_INFINITY))
        size = BatchSize(CPU)
        run(source, out, unet, size)
        if size.limit < IMAGES:
            break
    print(size.limit)
