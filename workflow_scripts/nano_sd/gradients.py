"""Exact data parallelism on a processor: one single-threaded replica per core.

Small layers gain little from several threads each, and a pool of threads that meets after every
layer stands still whenever another program takes one of its cores. So every core runs its own
replica on small parts of the batch, taking the next part when it is free. The gradients of the
parts are summed in the order of the parts, whoever computed them, so that a step does not depend
on the number of workers or on their speed.
"""

from __future__ import annotations

import copy
import ctypes
import queue
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)
Part = TypeVar("Part")

# glibc's mallopt parameters (malloc.h).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8


def keep_memory() -> None:
    """Have glibc keep freed memory instead of returning it to the kernel between layers.

    Page faults otherwise cost a third of the time of training. Does nothing elsewhere.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    mallopt(_MMAP_MAX, 0)
    mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(_TOP_PAD, 2**27)
    # Arenas of threads other than the first cannot hold large blocks.
    mallopt(_ARENA_MAX, 1)


class GradientWorkers(Generic[Module, Part]):
    """Computes the gradient of a loss over the parts of a batch on several cores.

    Parameters
    ----------
    module : nn.Module
        Replicas share its parameters; their gradients appear in ``module``.
    loss : callable (module, part) -> Tensor
        Mean loss over one part. Parts of a batch are of equal size.
    workers : int
        Replicas, one thread each.
    """

    def __init__(
        self, module: Module, loss: Callable[[Module, Part], Tensor], *, workers: int
    ) -> None:
        self._loss = loss
        self._parameters = [p for p in module.parameters() if p.requires_grad]
        self._replicas: queue.SimpleQueue[Module] = queue.SimpleQueue()
        self._replicas.put(module)
        for _ in range(workers - 1):
            replica = copy.deepcopy(module)
            for mine, shared in zip(replica.parameters(), module.parameters(), strict=True):
                mine.data = shared.data
            self._replicas.put(replica)
        self._pool = ThreadPoolExecutor(
            workers, thread_name_prefix="gradient", initializer=torch.set_num_threads, initargs=(1,)
        )

    def _part(self, part: Part) -> tuple[float, Sequence[Tensor | None]]:
        replica = self._replicas.get()
        try:
            parameters = [p for p in replica.parameters() if p.requires_grad]
            loss = self._loss(replica, part)
            return float(loss.detach()), torch.autograd.grad(loss, parameters, allow_unused=True)
        finally:
            self._replicas.put(replica)

    def __call__(self, parts: Sequence[Part]) -> float:
        """Set the gradients of the mean loss over ``parts``; return that loss."""
        total = 0.0
        for parameter in self._parameters:
            parameter.grad = None
        for loss, gradients in self._pool.map(self._part, parts):
            total += loss / len(parts)
            with torch.no_grad():
                for parameter, gradient in zip(self._parameters, gradients, strict=True):
                    if gradient is None:
                        continue
                    if parameter.grad is None:
                        parameter.grad = gradient
                    else:
                        parameter.grad += gradient
        present = [p.grad for p in self._parameters if p.grad is not None]
        torch._foreach_div_(present, float(len(parts)))
        return total

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()
