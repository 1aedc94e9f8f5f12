"""Hooks, early exit, batching, and streaming to the store.

One forward pass yields every position of a hook set; it stops after the last one. Latents are
read and features cast and written by threads of their own while the denoiser computes, and memory
does not depend on the number of images. A batch that does not fit is run in parts.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray

from reprscope.base.protocol import Protocol
from reprscope.models.denoiser import Denoiser, Passed, modules
from reprscope.representations.coordinates import Affine
from reprscope.representations.diffusion import noise, shared_maps
from reprscope.representations.prompts import Prompts
from reprscope.representations.store import Representations, Writer
from reprscope.runtime.errors import UserError
from reprscope.runtime.memory import BatchSize

Item = TypeVar("Item")

AMPLE = 1 << 14
"""A pass needs less than this many times the bytes of its latents; SD-1.5 needs half of it."""


LARGEST = 65504.0
"""The largest number of float16, to which diffusers cuts what is larger."""


class _Complete(Exception):  # noqa: N818 - not an error: it ends the pass early
    """All positions are captured; nothing after them needs to run."""


class Capture:
    """Runs a denoiser and returns what its modules put out.

    Use as a context manager; the hooks are gone afterwards.

    Parameters
    ----------
    denoiser : Denoiser
    positions : sequence of str
        Module paths inside the denoiser.
    gradients : bool
        Keep what gradients with respect to the latents need.
    """

    def __init__(
        self, denoiser: Denoiser, positions: Sequence[str], *, gradients: bool = False
    ) -> None:
        self._denoiser = denoiser
        self._gradients = gradients
        self._wanted = len(positions)
        self._found: dict[str, torch.Tensor] = {}
        self._passed = Passed((0, 0), None, 0)
        self._features: dict[str, tuple[int, int]] = {}
        found = modules(denoiser, positions)
        self._handles = [
            module.register_forward_hook(self._hook(position)) for position, module in found.items()
        ]
        self._peaks: list[tuple[str, torch.Tensor]] = []
        self._handles += [
            denoiser.module.get_submodule(path).register_forward_hook(self._watch(path))
            for path in denoiser.clipping
        ]
        around = {path for position in positions for path in _around(position)}
        self._handles += [
            denoiser.module.get_submodule(path).register_forward_pre_hook(
                self._note(path), with_kwargs=True
            )
            for path in sorted(around)
        ]

    def _watch(self, path: str) -> Callable[[torch.nn.Module, Any, Any], None]:
        """Keep the largest absolute value that a module puts out in float16."""

        def watch(module: torch.nn.Module, arguments: Any, output: Any) -> None:
            streams = output if isinstance(output, tuple) else (output,)
            for one in streams:
                # The last block of SD-3 gives None for the text.
                if one is not None and one.dtype == torch.float16:
                    self._peaks.append((path, one.abs().max()))

        return watch

    def _note(self, path: str) -> Callable[[torch.nn.Module, Any, Any], None]:
        """Note the grid of the feature map that goes into a module, if it is given one."""

        def note(module: torch.nn.Module, arguments: Any, named: Mapping[str, Any]) -> None:
            given = arguments[0] if arguments else named.get("hidden_states")
            if isinstance(given, torch.Tensor) and given.ndim == 4:
                self._features[path] = (given.shape[2], given.shape[3])

        return note

    def _hook(self, position: str) -> Callable[[torch.nn.Module, Any, Any], None]:
        around = _around(position)

        def keep(module: torch.nn.Module, arguments: Any, output: Any) -> None:
            near = (self._features[path] for path in around if path in self._features)
            passed = self._passed._replace(features=next(near, None))
            tokens = self._denoiser.tokens(position, output, passed)
            # A copy: later modules may write into their input.
            copied = tokens.clone(memory_format=torch.contiguous_format)
            self._found[position] = copied if self._gradients else copied.detach()
            if len(self._found) == self._wanted:
                raise _Complete

        return keep

    def __call__(
        self, latents: torch.Tensor, timestep: int, prompt: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """Token grids (batch, h, w, channels) by position, for noised latents.

        Parameters
        ----------
        latents : tensor, (batch, channels, h, w)
        timestep : int
        prompt : mapping of tensors, (batch, ...)

        Raises
        ------
        UserError
            If a block has cut off values to the range of float16, or a position has no grid.
        """
        self._found, self._features, self._peaks = {}, {}, []
        text = prompt["embedding"].shape[1]
        self._passed = Passed((latents.shape[2], latents.shape[3]), None, text)
        with contextlib.suppress(_Complete), torch.inference_mode(not self._gradients):
            self._denoiser(latents, timestep, prompt)
        if (
            self._peaks
            and not float(torch.stack([peak for _, peak in self._peaks]).max()) < LARGEST
        ):
            path = next(path for path, peak in self._peaks if not float(peak) < LARGEST)
            raise UserError(_beyond(path))
        return self._found

    def __enter__(self) -> Capture:
        return self

    def __exit__(self, *failure: object) -> None:
        for handle in self._handles:
            handle.remove()


def _around(position: str) -> list[str]:
    """Paths of a module and of those around it, from within; the denoiser's own is left out."""
    names = position.split(".")
    return [".".join(names[:count]) for count in range(len(names), 0, -1)]


@dataclass(frozen=True)
class Batch:
    """Noise-free latents of images of one shape, ready for the denoiser.

    Attributes
    ----------
    latents, noise : float32 tensors, (batch, channels, h, w)
        Latents in the denoiser's units (shifted and scaled).
    prompt : mapping of tensors, (batch, ...)
        Entries of :meth:`reprscope.models.denoiser.Family.encode_prompts`.
    """

    image_ids: list[str]
    pixels: list[tuple[int, int]]
    transforms: list[Affine]
    latents: torch.Tensor
    noise: torch.Tensor
    prompt: dict[str, torch.Tensor]

    def __len__(self) -> int:
        return len(self.image_ids)

    def part(self, items: slice) -> Batch:
        """Some of the images."""
        return Batch(
            image_ids=self.image_ids[items],
            pixels=self.pixels[items],
            transforms=self.transforms[items],
            latents=self.latents[items],
            noise=self.noise[items],
            prompt={key: values[items] for key, values in self.prompt.items()},
        )

    def pinned(self) -> Batch:
        """The same in memory from which a GPU copies while it computes."""
        return replace(
            self,
            latents=self.latents.pin_memory(),
            noise=self.noise.pin_memory(),
            prompt={key: values.pin_memory() for key, values in self.prompt.items()},
        )


def batches(
    latents: Representations,
    prompts: Prompts,
    *,
    seed: int,
    protocol: Protocol,
    scaling: float,
    shift: float,
    size: int,
) -> Iterator[Batch]:
    """Cut the images of a latent store into batches of one shape each.

    Parameters
    ----------
    latents : Representations
        Store with the tables ``mean`` and ``logvar`` in the VAE's units.
    prompts : Prompts
    seed : int
        Noise seed; together with an image's name and size it determines that image's noise.
    scaling, shift : float
        Latents become ``(z - shift) * scaling``.
    size : int
        Largest batch; another may change the last digits of features.
    """
    groups: dict[tuple[int, int], list[str]] = {}
    for image_id in latents.image_ids:
        groups.setdefault(latents.grid("mean", image_id), []).append(image_id)
    for names in groups.values():
        for start in range(0, len(names), size):
            chosen = names[start : start + size]
            clean = _stacked([_latent(latents, name, seed, protocol) for name in chosen])
            yield Batch(
                image_ids=chosen,
                pixels=[latents.pixels(name) for name in chosen],
                transforms=[latents.transform(name) for name in chosen],
                latents=torch.from_numpy((clean - np.float32(shift)) * np.float32(scaling)),
                noise=torch.from_numpy(
                    _stacked([_noise(clean[0].shape, name, seed, protocol) for name in chosen])
                ),
                prompt={
                    key: torch.from_numpy(values) for key, values in prompts.of(chosen).items()
                },
            )


def _stacked(maps: Sequence[torch.Tensor]) -> NDArray[np.float32]:
    """A batch, by numpy: torch would wake further threads, against those of the denoiser."""
    return np.stack([one.numpy() for one in maps])


def _latent(store: Representations, name: str, seed: int, protocol: Protocol) -> torch.Tensor:
    mean = torch.from_numpy(store.tokens("mean", name)).permute(2, 0, 1)
    if protocol.posterior == "mode":
        return mean
    logvar = torch.from_numpy(store.tokens("logvar", name)).permute(2, 0, 1).clamp(-30.0, 20.0)
    if protocol.posterior == "shared_sample":
        drawn, _ = shared_maps(tuple(mean.shape), seed=seed)
    else:
        drawn = noise(tuple(mean.shape), seed=seed, image_id=name, purpose="posterior")
    return mean + (0.5 * logvar).exp() * drawn


def _noise(shape: tuple[int, ...], name: str, seed: int, protocol: Protocol) -> torch.Tensor:
    if protocol.noise == "none":
        return torch.zeros(shape)
    if protocol.noise == "shared":
        return shared_maps(shape, seed=seed)[1]
    return noise(shape, seed=seed, image_id=name)


def extract(
    denoiser: Denoiser,
    source: Iterable[Batch],
    *,
    positions: Sequence[str],
    timestep: int,
    protocol: Protocol,
    device: torch.device,
    dtype: torch.dtype,
    store: Writer,
    size: BatchSize | None = None,
    progress: Callable[[int], object] = lambda images: None,
) -> None:
    """Run the denoiser over batches and append the tokens of every position to a store.

    Parameters
    ----------
    denoiser : Denoiser
    source : iterable of Batch
        Consumed by a thread that reads ahead.
    positions : sequence of str
        Module paths, stored as tables of these names.
    timestep : int
        0 to ``denoiser.timesteps - 1``; 0 already adds a little noise.
    size : BatchSize
        What is known of how many images fit in memory; pass the same to several calls.
    progress : callable
        Called with the number of images just finished.

    Raises
    ------
    UserError
        If a single image does not fit in memory, or values leave the range of float16 in which
        the denoiser computes.
    """
    if device.type == "cuda":
        source = (batch.pinned() for batch in source)
    size = size or BatchSize(device)
    with Capture(denoiser, positions) as capture, _written_behind(store) as write:

        def run(whole: Batch, items: slice) -> dict[str, Tokens]:
            batch = whole.part(items)
            noised = batch.latents.to(device, non_blocking=True)
            if protocol.noise != "none":
                drawn = batch.noise.to(device, non_blocking=True)
                noised = denoiser.add_noise(noised, drawn, timestep)
            conditions = {
                key: values.to(device, dtype, non_blocking=True)
                for key, values in batch.prompt.items()
            }
            # Exact in float32, but not in every lower precision.
            conditions["pixels"] = torch.tensor(batch.pixels, dtype=torch.float32, device=device)
            noised = noised.to(dtype).contiguous(memory_format=torch.channels_last)
            found = capture(noised, timestep, conditions)
            # Cast where the denoiser runs: all of its threads, and half as much to copy from a GPU.
            form = torch.float16 if store.dtype == np.float16 else torch.float32
            return {name: Tokens(found[name], found[name].to(form)) for name in positions}

        for batch in _read_ahead(source):
            image = "An image of {} x {} pixels".format(*batch.pixels[0])
            ample = AMPLE * batch.latents[0].nbytes
            passes = size.parts(len(batch), partial(run, batch), item=image, ample=ample)
            for items, found in passes:
                part = batch.part(items)
                write(part, found)
                progress(len(part))


class Tokens(NamedTuple):
    """Token grids (batch, h, w, channels) as the denoiser gave them, and as they are to be kept."""

    given: torch.Tensor
    kept: torch.Tensor

    def array(self) -> NDArray[np.floating[Any]]:
        """Those to be kept, or all in float32 if a value is too large for float16."""
        kept: NDArray[np.floating[Any]] = self.kept.cpu().numpy()
        if kept.dtype != np.float16 or within(kept):
            return kept
        return cast("NDArray[np.floating[Any]]", self.given.cpu().float().numpy())


def within(values: NDArray[np.floating[Any]]) -> bool:
    """Whether all values are smaller than the largest number of float16.

    That number itself is what larger ones become where they are cut off. numpy's own comparison is
    slow for float16, whose bits tell it.
    """
    if values.dtype == np.float16:
        return bool((values.view(np.uint16) & 0x7FFF).max(initial=0) < 0x7BFF)
    return bool(np.abs(values).max(initial=0.0) < LARGEST)


def _beyond(where: str) -> str:
    return (
        f"Position {where} has values beyond the range of float16: set `precision: bfloat16` or "
        "`float32` for this model, or check its weights."
    )


def _read_ahead(source: Iterable[Item], depth: int = 2) -> Iterator[Item]:
    """Yield from ``source``, which a thread keeps ``depth`` items ahead."""
    items: queue.Queue[tuple[Item | None, BaseException | None]] = queue.Queue(maxsize=depth)
    stopped = threading.Event()

    def offer(entry: tuple[Item | None, BaseException | None]) -> None:
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                items.put(entry, timeout=0.1)
                return

    def read() -> None:
        try:
            for item in source:
                offer((item, None))
                if stopped.is_set():
                    return
        except BaseException as error:
            offer((None, error))
        else:
            offer((None, None))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        while True:
            item, error = items.get()
            if error is not None:
                raise error
            if item is None:
                return
            yield item
    finally:
        stopped.set()
        thread.join()


@contextlib.contextmanager
def _written_behind(
    store: Writer, depth: int = 2
) -> Iterator[Callable[[Batch, Mapping[str, Tokens]], None]]:
    """Yield a function that hands a batch to a writing thread."""
    entries: queue.Queue[tuple[Batch, Mapping[str, Tokens]] | None] = queue.Queue(depth)
    failures: list[BaseException] = []

    def run() -> None:
        while (entry := entries.get()) is not None:
            if failures:
                continue
            batch, tokens = entry
            try:
                tables = {name: values.array() for name, values in tokens.items()}
                for name, values in tokens.items():
                    if values.given.dtype == torch.float16 and not within(tables[name]):
                        pairs = zip(batch.image_ids, tables[name], strict=True)
                        image = next(image for image, one in pairs if not within(one))
                        raise UserError(_beyond(f"{name} of image {image}"))
                store.append(batch.image_ids, batch.pixels, batch.transforms, tables)
            except BaseException as error:
                failures.append(error)

    def write(batch: Batch, tokens: Mapping[str, Tokens]) -> None:
        if failures:
            raise failures[0]
        entries.put((batch, tokens))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield write
    finally:
        entries.put(None)
        thread.join()
    if failures:
        raise failures[0]
