"""The thesis protocol against the package it was computed with, and each part on its own."""

from dataclasses import asdict, replace

import numpy as np
import PIL.Image
import pytest
import torch
from reprscope.base.protocol import PROTOCOLS, Protocol
from reprscope.models import vae
from reprscope.models.families.unet import encode_prompts
from reprscope.representations.encoding import encode
from reprscope.representations.extraction import batches, extract
from reprscope.representations.prompts import Prompts
from reprscope.representations.store import Representations, writer
from reprscope.representations.views import View
from sdhelper import SD
from support import tiny_unets
from support.embedded import load_unet
from support.pictures import image_frame

CPU = torch.device("cpu")
SIZES = [(64, 64), (96, 64), (64, 64)]
TEXTS = ["a red cat", "", "a dog"]
SEED = 42


@pytest.fixture(scope="module", params=tiny_unets.KINDS)
def folder(request, tmp_path_factory):
    return tiny_unets.make(request.param, tmp_path_factory.mktemp("models") / request.param)


@pytest.fixture(scope="module")
def peer(folder):
    config = {"name": str(folder)}
    return SD("tiny", device="cpu", config=config, disable_progress_bar=True, local_files_only=True)


def representations(folder, path, protocol, *, timestep, wanted, size=2):
    """Encode and extract three images, as the stages do."""
    frame = image_frame(SIZES)
    with writer(path / "latents.h5", spec="{}", provenance={}, dtype=np.float32) as store:
        encode(
            frame,
            View(fit="keep"),
            vae.load(folder, device=CPU),
            store,
            resolution=96,
            pixels=protocol.pixels,
            batch_size=size,
        )
    scaling, shift = vae.scaling(folder)
    prompts = Prompts(
        encode_prompts(folder, TEXTS, device=CPU),
        {name: row for row, name in enumerate(frame["image_id"])},
    )
    choices = {k: getattr(protocol, k) for k in ("rescaling", "added_conditioning")}
    with (
        Representations([path / "latents.h5"]) as source,
        writer(
            path / "found.h5", spec="{}", provenance={"positions": wanted}, dtype=np.float32
        ) as store,
    ):
        extract(
            load_unet(folder, **choices),
            batches(
                source,
                prompts,
                seed=SEED,
                protocol=protocol,
                scaling=scaling,
                shift=shift,
                size=size,
            ),
            positions=wanted,
            timestep=timestep,
            protocol=protocol,
            device=CPU,
            dtype=torch.float32,
            store=store,
        )
    return Representations([path / "found.h5"])


def pictures():
    """The images as the denoiser's stages see them: the longer side has 96 pixels."""
    frame = image_frame(SIZES)
    view = View(fit="keep")
    from reprscope.data.canonical import decode

    rows = frame.select("image_id", "image").iter_rows()
    shown = {
        n: view.apply(decode(data, n), resolution=96, multiple=4, image_id="a")[0]
        for n, data in rows
    }
    return {name: PIL.Image.fromarray(image) for name, image in shown.items()}


def relative(found, expected):
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("timestep", [0, 500])
def test_the_thesis_protocol_equals_sdhelper(folder, peer, tmp_path, timestep):
    """Same weights, same seed, one image at a time: every block to 1e-5 of its norm."""
    blocks = {
        block: block.replace("[", ".").replace("]", "")
        for block in peer.available_extract_positions
    }
    with representations(
        folder, tmp_path, PROTOCOLS["thesis"], timestep=timestep, wanted=list(blocks.values())
    ) as found:
        for (name, image), text in zip(pictures().items(), TEXTS, strict=True):
            # Its scheduler keeps the first timestep it is asked for: one process per timestep.
            peer.pipeline.scheduler = peer.pipeline.scheduler.from_config(
                peer.pipeline.scheduler.config
            )
            theirs = peer.img2repr(image, list(blocks), timestep, prompt=text, seed=SEED)
            for block, position in blocks.items():
                expected = theirs[block][0].permute(1, 2, 0).numpy()
                assert relative(found.tokens(position, name), expected) < 1e-5, (name, position)


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory):
    return tiny_unets.make("sdxl", tmp_path_factory.mktemp("models") / "sdxl")


def middle(folder, path, protocol, *, size=2):
    path.mkdir()
    wanted = ["conv_in", "mid_block"]
    with representations(folder, path, protocol, timestep=261, wanted=wanted, size=size) as found:
        return np.concatenate([found.tokens("mid_block", n).ravel() for n in found.image_ids])


def test_every_part_of_the_thesis_protocol_can_be_set_alone_and_matters(sdxl, tmp_path):
    """All but the coordinates, which are a matter of the task."""
    standard, thesis = asdict(PROTOCOLS["standard"]), asdict(PROTOCOLS["thesis"])
    assert Protocol() == PROTOCOLS["standard"]
    assert all(standard[part] != thesis[part] for part in standard)
    expected = middle(sdxl, tmp_path / "standard", PROTOCOLS["standard"])
    for part in set(standard) - {"coordinates"}:
        changed = replace(PROTOCOLS["standard"], **{part: thesis[part]})
        assert relative(middle(sdxl, tmp_path / part, changed), expected) > 1e-3, part


def test_the_thesis_protocol_does_not_depend_on_the_batch_here(sdxl, tmp_path):
    """In sdhelper it does: the draw of a batch's posterior moves the generator."""
    one = middle(sdxl, tmp_path / "one", PROTOCOLS["thesis"], size=1)
    three = middle(sdxl, tmp_path / "three", PROTOCOLS["thesis"], size=3)
    assert relative(three, one) < 1e-5


def test_the_peer_does_depend_on_it(folder, peer):
    """What the docstring says of sdhelper: an image's features change with the batch it is in."""
    images = [image for image in pictures().values() if image.size == (96, 96)]
    assert len(images) == 2
    alone = peer.img2repr(images[0], ["mid_block"], 50, seed=SEED)["mid_block"]
    batch = peer.img2repr(images, ["mid_block"], 50, seed=SEED)[0]["mid_block"]
    assert relative(batch.numpy(), alone.numpy()) > 0.01
