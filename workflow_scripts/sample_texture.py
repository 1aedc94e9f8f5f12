"""Cut a texture out of a picture that the embedded model paints, and write it as PNG."""

import argparse
from pathlib import Path

from nano_sd.texture import sample
from reprscope.data.canonical import encode_png
from reprscope.runtime.files import atomic


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("resources/models/nano-sd"))
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--negative", default="")
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--box", type=int, nargs=4, metavar=("LEFT", "TOP", "RIGHT", "BOTTOM"))
    parser.add_argument("--output", type=Path, required=True)
    return parser.parse_args()


def main(arguments: argparse.Namespace) -> None:
    """Write the texture."""
    picture = sample(
        arguments.model,
        arguments.prompt,
        negative=arguments.negative,
        box=arguments.box,
        seed=arguments.seed,
        guidance=arguments.guidance,
    )
    with atomic(arguments.output) as part:
        part.write_bytes(encode_png(picture))


if __name__ == "__main__":
    main(_arguments())
