"""The training loop that the VAE and the denoiser share: resumable, stoppable, logged."""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import torch
from reprscope.runtime.errors import UserError
from reprscope.runtime.files import atomic
from torch import nn
from tqdm import tqdm

from nano_sd.gradients import GradientWorkers

logger = logging.getLogger(__name__)

Module = TypeVar("Module", bound=nn.Module)
Part = TypeVar("Part")


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How long to train: until either is reached.

    Attributes
    ----------
    minutes : float
        Of training over all sittings; time between sittings does not count.
    steps : int or None
        Optimiser steps over all sittings. A run that has this is a function of its seed alone.
    """

    minutes: float = math.inf
    steps: int | None = None

    def progress(self, *, step: int, seconds: float) -> float:
        """Share of the budget that is used up, in [0, 1]."""
        if self.steps is not None:
            return min(1.0, step / self.steps)
        return min(1.0, seconds / (60 * self.minutes))


@dataclass(frozen=True, kw_only=True)
class Optimisation:
    """AdamW with warm-up, cosine decay over the budget, clipping, and an average of the weights.

    Attributes
    ----------
    rate : float
        Peak learning rate.
    floor : float
        Share of the peak that is left at the end.
    warm_up : int
        Steps of linear warm-up.
    decay : float
        Weight decay.
    clip : float
        Largest norm of a gradient.
    average : float
        Decay per step of the exponential moving average (EMA) of the weights; it starts as a
        plain mean, ``min(average, (1 + step) / (10 + step))``.
    """

    rate: float = 1e-3
    floor: float = 0.02
    warm_up: int = 100
    decay: float = 1e-2
    clip: float = 1.0
    average: float = 0.998

    def factor(self, *, step: int, progress: float) -> float:
        """Learning rate as a share of the peak."""
        cosine = 0.5 * (1 + math.cos(math.pi * progress))
        return min(1.0, (step + 1) / self.warm_up) * (self.floor + (1 - self.floor) * cosine)


@dataclass
class State:
    """Everything that a later sitting needs, but for weights and optimiser."""

    step: int = 0
    seconds: float = 0.0
    samples: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


class Stop:
    """Turns SIGTERM and SIGINT into a request that the loop reads between two steps."""

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> Stop:
        self._before = {
            number: signal.signal(number, self._ask) for number in (signal.SIGTERM, signal.SIGINT)
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.requested = True


class Trainer:
    """Trains ``module`` and remembers its average.

    Parameters
    ----------
    module : nn.Module
        Trained in place.
    checkpoint : Path
        Read if it exists; training then continues exactly where it stood.
    optimisation : Optimisation
        Settings of the optimiser.
    """

    def __init__(self, module: nn.Module, checkpoint: Path, optimisation: Optimisation) -> None:
        self.module = module
        self.average = [p.detach().clone() for p in module.parameters()]
        self.state = State()
        self._checkpoint = checkpoint
        self._settings = optimisation
        self._optimiser = torch.optim.AdamW(
            module.parameters(),
            lr=optimisation.rate,
            weight_decay=optimisation.decay,
            betas=(0.9, 0.99),
            fused=True,
        )
        if checkpoint.exists():
            stored = torch.load(checkpoint, weights_only=True)
            module.load_state_dict(stored["module"])
            self._optimiser.load_state_dict(stored["optimiser"])
            self.average = stored["average"]
            self.state = State(**stored["state"])
            logger.info(
                "resumed %s at step %d (%.1f min)",
                checkpoint.name,
                self.state.step,
                self.state.seconds / 60,
            )

    def save(self) -> None:
        """Write the checkpoint atomically."""
        with atomic(self._checkpoint) as part:
            torch.save(
                {
                    "module": self.module.state_dict(),
                    "optimiser": self._optimiser.state_dict(),
                    "average": self.average,
                    "state": vars(self.state),
                },
                part,
            )

    def averaged(self, target: Module) -> Module:
        """Copy the averaged weights into ``target``, a module of the same architecture."""
        with torch.no_grad():
            for parameter, mean in zip(target.parameters(), self.average, strict=True):
                parameter.copy_(mean)
        return target

    def _update(self, factor: float) -> None:
        settings = self._settings
        for group in self._optimiser.param_groups:
            group["lr"] = settings.rate * factor
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), settings.clip)
        self._optimiser.step()
        step = self.state.step
        weight = 1 - min(settings.average, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(self.average, list(self.module.parameters()), weight)

    def run(
        self,
        batch: Callable[[int, float], Sequence[Part]],
        loss: Callable[[Any, Part], torch.Tensor],
        size: Callable[[Sequence[Part]], int],
        budget: Budget,
        *,
        workers: int,
        name: str,
        save_minutes: float = 4.0,
        on_save: Callable[[Trainer], None] | None = None,
    ) -> None:
        """Train until the budget is used up.

        Parameters
        ----------
        batch : callable (step, progress) -> parts
            The parts of a step's batch; a function of its arguments only, so that a resumed run
            sees what an uninterrupted one would.
        loss : callable (module, part) -> Tensor
        size : callable (parts) -> int
            Pictures in a batch.
        budget : Budget
        workers : int
            Cores to use.
        name : str
            For log and progress bar.
        save_minutes : float
            Between two checkpoints.
        on_save : callable (trainer), optional
            Called after every checkpoint.

        Raises
        ------
        UserError
            On SIGTERM or SIGINT, after a checkpoint.
        """
        state = self.state
        gradients: GradientWorkers[nn.Module, Part] = GradientWorkers(
            self.module.train(), loss, workers=workers
        )
        losses: list[float] = []
        begun = last_save = last_log = time.monotonic()
        before, samples_before = state.seconds, state.samples
        bar = tqdm(total=100, desc=name, unit="%", mininterval=10)
        try:
            with Stop() as stop:
                while True:
                    now = time.monotonic()
                    state.seconds = before + now - begun
                    progress = budget.progress(step=state.step, seconds=state.seconds)
                    bar.update(int(100 * progress) - bar.n)
                    if now - last_log > 30 or progress >= 1 or stop.requested:
                        if losses:
                            rate = (state.samples - samples_before) / (now - begun)
                            self._note(losses, rate, name)
                        last_log = now
                    if progress >= 1 or stop.requested or now - last_save > 60 * save_minutes:
                        self.save()
                        if on_save is not None:
                            on_save(self)
                        last_save = time.monotonic()
                    if stop.requested:
                        raise UserError(
                            f"Training of the {name} was stopped at step {state.step}; its state "
                            f"is in {self._checkpoint}: run the same command again to continue."
                        )
                    if progress >= 1:
                        break
                    parts = batch(state.step, progress)
                    losses.append(gradients(parts))
                    self._update(self._settings.factor(step=state.step, progress=progress))
                    state.step += 1
                    state.samples += size(parts)
        finally:
            bar.close()
            gradients.close()
            self.module.eval()

    def _note(self, losses: list[float], rate: float, name: str) -> None:
        state = self.state
        mean = sum(losses) / len(losses)
        state.history.append(
            {"step": state.step, "minutes": state.seconds / 60, "loss": mean, "rate": rate}
        )
        logger.info(
            "%s step %d, %.1f min, %d samples, loss %.4f, %.1f samples/s",
            name,
            state.step,
            state.seconds / 60,
            state.samples,
            mean,
            rate,
        )
        losses.clear()
