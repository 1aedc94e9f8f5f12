"""Batches that fit in memory: a first guess from one image, and halving when it was wrong."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, TypeVar

from reprscope.runtime.errors import UserError
from reprscope.runtime.system_memory import available, reset_peak, says_out_of_memory, status

if TYPE_CHECKING:
    import torch

Result = TypeVar("Result")

MARGIN: Final = 1.25
"""Memory that a batch may need beyond what its first image grew by, as a factor."""


class BatchSize:
    """How many items of a batch one forward pass takes; it only ever shrinks.

    A GPU that runs out of memory says so, and the batch is tried again in halves. A processor's
    memory is lent without question and the kernel kills the process that uses it, so there one
    item is run alone before the first batch that might not fit, and what it needs says how many do.

    Attributes
    ----------
    limit : int
        Items that fit, as far as is known.
    """

    def __init__(self, device: torch.device) -> None:
        self.limit = sys.maxsize
        self._device = device
        self._trial = device.type == "cpu" and reset_peak()
        self._before = status("VmRSS") if self._trial else 0

    def parts(
        self, count: int, run: Callable[[slice], Result], *, item: str, ample: int
    ) -> Iterator[tuple[slice, Result]]:
        """Run over ``count`` items in parts that fit.

        Parameters
        ----------
        count : int
        run : callable
            Takes the slice of the items to run, and returns anything but None; called again with
            a shorter one if memory runs out.
        item : str
            What one item is, for the message.
        ample : int
            Bytes that one item is sure not to need: as long as all have so much, none is tried.

        Raises
        ------
        UserError
            If a single item does not fit.
        """
        if self._trial and count > 1 and count * ample > available():
            # Not kept: a batch that fits is not cut, so that its values do not change in the last
            # digits with the machine's memory.
            self._run(slice(0, 1), run, item)
            self._learn()
        start = 0
        while start < count:
            part = slice(start, min(start + self.limit, count))
            result = self._run(part, run, item)
            if result is not None:
                yield part, result
                start = part.stop

    def _run(self, part: slice, run: Callable[[slice], Result], item: str) -> Result | None:
        """Run a part; None if it did not fit and the limit was lowered."""
        try:
            return run(part)
        except Exception as error:
            if not out_of_memory(error):
                raise
            if part.stop - part.start == 1:
                raise UserError(
                    f"{item} does not fit in memory: use a smaller resolution, a lower "
                    "`precision`, or a machine with more memory."
                ) from error
            self.limit = (part.stop - part.start) // 2
        # Only here is what the failed pass held released.
        if self._device.type == "cuda":
            import torch

            torch.cuda.empty_cache()
        return None

    def _learn(self) -> None:
        self._trial = False
        # Weights that were mapped and are first read now are counted too: too much is safe.
        need = max(status("VmHWM") - self._before, 1 << 20) * MARGIN
        self.limit = max(1, int(available() / need))


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on the processor."""
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # Allocators of processors and libraries of cards raise plain RuntimeErrors.
    return isinstance(error, RuntimeError) and says_out_of_memory(error)
