"""Groups of tokens over all layers: an image is encoded once for every token size."""

import yaml
from support.project import make

LAYERS = [
    "conv_in",
    "down[*] res[*]",
    "down[*] attn[*]",
    "down[*] downsample",
    "mid res[*]",
    "mid attn[*]",
    "up[*] res[*]",
    "up[*] attn[*]",
    "up[*] upsample",
    "conv_out",
]
CUTS = {
    f"crop-{size}": {"after": [{"crop": dict.fromkeys(("left", "top", "right", "bottom"), size)}]}
    for size in (4, 8, 16, 32)
}
STUDY = {
    "title": "Groups of tokens",
    "device": "cpu",
    "precision": "float32",
    "datasets": {"creatures": {"source": "menagerie", "seed": 3, "images": 80, "size": 128}},
    "models": {
        "nano-sd": {"path": "resources/models/nano-sd", "family": "unet", "resolution": 128}
    },
    "views": CUTS,
    "hooksets": {"layers": {"positions": LAYERS, "store": "tokens"}},
    "tasks": {
        "groups": {"kind": "token_groups", "crops": list(CUTS)},
        "groups-published": {"kind": "token_groups", "counts": "published", "crops": list(CUTS)},
    },
    "experiments": [
        {
            "name": "token-groups",
            "tasks": ["groups", "groups-published"],
            "datasets": ["creatures"],
            "models": ["nano-sd"],
            "positions": LAYERS,
            "timesteps": [50],
        }
    ],
}


def test_every_cut_is_encoded_once_and_not_once_for_every_layer(tmp_path):
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(STUDY))
    project = make(tmp_path / "project", tmp_path / "study.yaml")
    jobs = project.planned()
    # The whole images and one cut for each token size; both tasks read the same.
    assert jobs["encode_images"] == jobs["extract"] == 1 + len(CUTS)
    assert jobs["evaluate"] == 2
