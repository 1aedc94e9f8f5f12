"""Faithful miniatures of the dataset sources: real layouts, names, types and orientation."""

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from support.pictures import smooth_image


def jpeg(width: int, height: int, seed: int) -> bytes:
    """A smooth photograph."""
    buffer = io.BytesIO()
    Image.fromarray(smooth_image(width, height, seed)).save(buffer, "jpeg", quality=90)
    return buffer.getvalue()


def sha256(path: Path) -> str:
    return "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()


#: Images of each category with their split, (width, height), box and keypoints (number: x, y).
#: One name occurs in two categories, one point lies on and one beyond the border.
SPAIR_IMAGES = {
    "cat": {
        "2007_000528": ("trn", (40, 30), [2, 3, 30, 28], {0: [5, 6], 1: [20, 25], 2: None}),
        "2007_000549": ("trn", (36, 36), [4, 4, 32, 32], {0: [8, 8], 1: [30, 12], 2: [9, 30]}),
        "2008_000112": ("val", (40, 30), [2, 2, 38, 28], {0: [10, 10], 1: [30, 10], 2: [20, 20]}),
        "2008_000115": ("val", (30, 40), [1, 1, 29, 39], {0: [10, 10], 1: None, 2: [30, 40]}),
        "2009_000446": ("test", (50, 40), [10, 5, 45, 35], {0: [12, 8], 1: [40, 9], 2: [25, 33]}),
        "2009_001605": ("test", (40, 50), [5, 10, 35, 45], {0: [40, 12], 1: None, 2: [9, 44]}),
    },
    "dog": {
        "2009_000446": ("test", (50, 40), [0, 0, 20, 39], {0: [3, 4], 5: [12, 30]}),
        "2010_000001": ("test", (44, 33), [4, 4, 40, 30], {0: [6, 6], 5: [38, 34]}),
        "2010_000002": (None, (20, 20), [1, 1, 19, 19], {0: [2, 2], 5: [0, 20]}),
    },
}

SPAIR_COUNTS = {
    "images": 9,
    "train_pairs": 2,
    "validation_pairs": 2,
    "test_pairs": 4,
    "test_keypoints": 8,
}


def spair(path: Path) -> Path:
    """SPair-71k's archive: pairs of all images of a split in both directions."""
    files: dict[str, bytes] = {"README": b"SPair-71k\n"}
    pairs: dict[str, list[str]] = {"trn": [], "val": [], "test": []}
    seed = 0
    for category, images in SPAIR_IMAGES.items():
        for name, (_, (width, height), box, points) in images.items():
            seed += 1
            files[f"JPEGImages/{category}/{name}.jpg"] = jpeg(width, height, seed)
            mask = io.BytesIO()
            Image.new("L", (width, height), 8).save(mask, "png")
            files[f"Segmentation/{category}/{name}.png"] = mask.getvalue()
            annotation = {
                "filename": f"{name}.jpg",
                "src_database": "PASCAL_VOC2012",
                "image_width": width,
                "image_height": height,
                "image_depth": 3,
                "category": category,
                "pose": "Unspecified",
                "truncated": 0,
                "occluded": 0,
                "difficult": 0,
                "bndbox": box,
                "kps": {str(i): points.get(i) for i in range(30)},
                "azimuth_id": 3,
            }
            files[f"ImageAnnotation/{category}/{name}.json"] = json.dumps(annotation).encode()
        for split, names in pairs.items():
            chosen = [name for name, entry in images.items() if entry[0] == split]
            for source in chosen:
                for target in chosen:
                    if source != target:
                        number = sum(map(len, pairs.values())) + 1
                        stem = f"{number:06d}-{source}-{target}:{category}"
                        names.append(stem)
                        entry = _spair_pair(stem, category, source, target, number)
                        files[f"PairAnnotation/{split}/{stem}.json"] = json.dumps(entry).encode()
    for layout in ("large", "small"):
        for split, names in pairs.items():
            files[f"Layout/{layout}/{split}.txt"] = "\n".join(names).encode()
    with gzip.GzipFile(path, "wb", mtime=0) as packed, tarfile.open(None, "w", packed) as tar:
        for name, data in files.items():
            for member, content in ((f"SPair-71k/{name}", data), _shadow(name)):
                info = tarfile.TarInfo(member)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


def _shadow(name: str) -> tuple[str, bytes]:
    """What macOS puts beside every file of an archive."""
    folder, _, file = f"SPair-71k/{name}".rpartition("/")
    return f"{folder}/._{file}", b"\x00\x05\x16\x07"


def _spair_pair(stem: str, category: str, source: str, target: str, number: int) -> dict:
    images = SPAIR_IMAGES[category]
    common = [
        i
        for i, point in images[source][3].items()
        if point is not None and images[target][3].get(i) is not None
    ]
    entry = {
        "filename": stem,
        "pair_id": number,
        "src_imname": f"{source}.jpg",
        "trg_imname": f"{target}.jpg",
        "kps_ids": [str(i) for i in common],
        "category": category,
        "viewpoint_variation": number % 3,
        "scale_variation": (number + 1) % 3,
        "truncation": number % 4,
        "occlusion": (number + 2) % 4,
        "mirror": number % 2,
    }
    for side, name in (("src", source), ("trg", target)):
        _, (width, height), box, points = images[name]
        entry[f"{side}_imsize"] = [width, height, 3]
        entry[f"{side}_bndbox"] = box
        entry[f"{side}_pose"] = "Unspecified"
        entry[f"{side}_kps"] = [points[i] for i in common]
    return entry


def nyu_scene(number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Upright image, depth and measured depth: a red corner at the top left, a far right side.

    A quarter of the real 640 x 480 pixels.
    """
    image = smooth_image(160, 120, number)
    image[:15, :20] = (255, 0, 0)
    depth = np.tile(np.linspace(1, 5, 160, dtype=np.float32), (120, 1)) + np.float32(number)
    raw = depth.copy()
    raw[25:30, 50:65] = 0
    return image, depth, raw


def nyu(path: Path, count: int = 5) -> Path:
    """NYU Depth v2's labelled file, which MATLAB has written: axes in reverse order."""
    import h5py

    scenes = [nyu_scene(number) for number in range(count)]
    with h5py.File(path, "w", userblock_size=512) as file:
        options = {"compression": "gzip", "compression_opts": 1, "chunks": True}
        images = np.stack([image.transpose(2, 1, 0) for image, _, _ in scenes])
        file.create_dataset("images", data=images, **options)
        for name, index in (("depths", 1), ("rawDepths", 2)):
            file.create_dataset(name, data=np.stack([s[index].T for s in scenes]), **options)
        file.create_dataset("labels", data=np.zeros((count, 160, 120), np.uint16), **options)
        # A cell array of strings: references to arrays of UTF-16 units.
        cells = file.create_dataset("scenes", (1, count), dtype=h5py.ref_dtype)
        for number in range(count):
            name = np.array([*map(ord, nyu_scene_name(number))], np.uint16)[:, None]
            cells[0, number] = file.create_dataset(f"#refs#/{number}", data=name).ref
    return path


def nyu_scene_name(number: int) -> str:
    """Two images in a row are of one scene."""
    return f"kitchen_{number // 2:04d}"


def nyu_splits(path: Path, train: list[int], test: list[int]) -> Path:
    """NYU Depth v2's ``splits.mat``: columns of numbers that count from 1."""
    from scipy.io import savemat

    columns = {"trainNdxs": train, "testNdxs": test}
    savemat(path, {name: np.array(n, np.uint16)[:, None] for name, n in columns.items()})
    return path


def _parquet(path: Path, columns: dict, features: dict) -> None:
    """A Parquet file as the hub's own converter writes it."""
    from datasets import Dataset, Features

    path.parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_dict(columns, features=Features(features)).to_parquet(path)


def picture(width: int, height: int, seed: int, kind: str = "png", mode: str = "RGB") -> dict:
    """An image as the hub's tables hold it."""
    buffer = io.BytesIO()
    Image.fromarray(smooth_image(width, height, seed)).convert(mode).save(buffer, kind)
    return {"bytes": buffer.getvalue(), "path": f"{seed}.{kind}"}


CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def _card(config: str, splits: dict[str, str]) -> str:
    files = "".join(f"  - split: {name}\n    path: {path}\n" for name, path in splits.items())
    return f"---\nconfigs:\n- config_name: {config}\n  data_files:\n{files}  default: true\n---\n"


def cifar10(repository: Path, train: int = 20, test: int = 10) -> Path:
    """``uoft-cs/cifar10``: PNG of 32 x 32 pixels in the column img."""
    from datasets import ClassLabel
    from datasets import Image as Picture

    for split, count, first in (("train", train, 0), ("test", test, 1000)):
        columns = {
            "img": [picture(32, 32, first + i) for i in range(count)],
            "label": [(3 * i) % 10 for i in range(count)],
        }
        path = repository / "plain_text" / f"{split}-00000-of-00001.parquet"
        _parquet(path, columns, {"img": Picture(), "label": ClassLabel(names=CIFAR10)})
    splits = {split: f"plain_text/{split}-*" for split in ("train", "test")}
    (repository / "README.md").write_text(_card("plain_text", splits))
    return repository


def cifar100(repository: Path, train: int = 12, test: int = 8) -> Path:
    """``uoft-cs/cifar100``: as CIFAR-10, with fine and coarse labels."""
    from datasets import ClassLabel
    from datasets import Image as Picture

    features = {
        "img": Picture(),
        "fine_label": ClassLabel(names=[f"fine {i}" for i in range(100)]),
        "coarse_label": ClassLabel(names=[f"coarse {i}" for i in range(20)]),
    }
    for split, count, first in (("train", train, 0), ("test", test, 1000)):
        columns = {
            "img": [picture(32, 32, first + i) for i in range(count)],
            "fine_label": [7 * i % 100 for i in range(count)],
            "coarse_label": [7 * i % 20 for i in range(count)],
        }
        path = repository / "cifar100" / f"{split}-00000-of-00001.parquet"
        _parquet(path, columns, features)
    splits = {split: f"cifar100/{split}-*" for split in ("train", "test")}
    (repository / "README.md").write_text(_card("cifar100", splits))
    return repository


def parquet_of(repository: Path, table, *, feature: bool) -> None:
    """A dataset of one table, whose column ``image`` is said to hold images if ``feature``."""
    import pyarrow.parquet as pq

    if feature:
        said = json.dumps(
            {
                "info": {
                    "features": {"image": {"_type": "Image"}}
                    | {
                        name: {"_type": "Value", "dtype": "string" if name == "text" else "float64"}
                        for name in table.column_names
                        if name != "image"
                    }
                }
            }
        )
        table = table.replace_schema_metadata({b"huggingface": said.encode()})
    path = repository / "data" / "train-00000-of-00001.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(table, path)


def tiny_imagenet(repository: Path, train: int = 12, valid: int = 6) -> Path:
    """``zh-plus/tiny-imagenet``: JPEG of 64 x 64 pixels, some grey; its second split is valid."""
    from datasets import ClassLabel
    from datasets import Image as Picture

    features = {"image": Picture(), "label": ClassLabel(names=["n01443537", "n01629819"])}
    for split, count, first in (("train", train, 0), ("valid", valid, 1000)):
        columns = {
            "image": [
                picture(64, 64, first + i, "jpeg", "L" if i % 3 == 2 else "RGB")
                for i in range(count)
            ],
            "label": [int(i >= count // 2) for i in range(count)],
        }
        path = repository / "data" / f"{split}-00000-of-00001-0123456789abcdef.parquet"
        _parquet(path, columns, features)
    (repository / "README.md").write_text("---\ntask_categories: [image-classification]\n---\n")
    return repository


#: Rows of ImageNet's training split: class and (width, height); classes come in no order.
IMAGENET_ROWS = [
    (0, (400, 400)),
    (235, (500, 375)),
    (242, (349, 600)),
    (242, (351, 500)),
    (980, (360, 420)),
    (235, (350, 350)),
    (282, (640, 400)),
    (235, (800, 900)),
    (717, (512, 512)),
    (282, (400, 360)),
    (242, (375, 500)),
    (999, (500, 500)),
    (980, (500, 355)),
    (717, (353, 353)),
    (1, (500, 500)),
]


def imagenet(repository: Path) -> Path:
    """``ILSVRC/imagenet-1k``: JPEG of any size, one of them in CMYK, and 1,000 names."""
    from datasets import ClassLabel
    from datasets import Image as Picture

    features = {"image": Picture(), "label": ClassLabel(names=[f"synset {i}" for i in range(1000)])}
    shards = (IMAGENET_ROWS[:8], IMAGENET_ROWS[8:14], IMAGENET_ROWS[14:])
    for number, shard in enumerate(shards):
        columns = {
            "image": [
                picture(*size, 100 * number + i, "jpeg", "CMYK" if size == (640, 400) else "RGB")
                for i, (_, size) in enumerate(shard)
            ],
            "label": [label for label, _ in shard],
        }
        path = repository / "data" / f"train-{number:05d}-of-00003.parquet"
        _parquet(path, columns, features)
    return repository


def captioned(repository: Path, count: int = 30, folder: str = "data") -> Path:
    """Any dataset of the hub: Parquet of images, numbers without names, captions and a list."""
    from datasets import Image as Picture
    from datasets import List, Value

    features = {
        "photo": Picture(),
        "year": Value("int64"),
        "text": Value("string"),
        "tags": List(Value("string")),
    }
    columns = {
        "photo": [picture(20, 10 + i % 3, i) for i in range(count)],
        "year": [1990 + i for i in range(count)],
        "text": [f"photograph {i}" if i % 5 else None for i in range(count)],
        "tags": [["a", "b"]] * count,
    }
    _parquet(repository / folder / "validation-00000-of-00001.parquet", columns, features)
    return repository


def image_folder(repository: Path) -> Path:
    """A dataset of the hub that is a folder of images by class."""
    for split in ("train", "test"):
        for label, seed in (("owl", 1), ("newt", 2)):
            folder = repository / split / label
            folder.mkdir(parents=True)
            (folder / "a.jpg").write_bytes(jpeg(24, 18, seed))
            (folder / "b.jpg").write_bytes(jpeg(18, 24, seed + 10))
    return repository


def web_dataset(repository: Path) -> Path:
    """A dataset of the hub in WebDataset's form: a tar of files with one stem per example."""
    repository.mkdir(parents=True)
    with tarfile.open(repository / "train-0000.tar", "w") as tar:
        for number in range(4):
            content = {"jpg": jpeg(16 + number, 16, number), "cls": str(number % 2).encode()}
            for suffix, data in content.items():
                info = tarfile.TarInfo(f"{number:04d}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return repository


def script(repository: Path, mark: Path) -> Path:
    """A dataset of the hub that is a program; it leaves a mark if it is ever run."""
    repository.mkdir(parents=True)
    (repository / f"{repository.name}.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
    (repository / "README.md").write_text("# a dataset\n")
    return repository


def hub(datasets: Path) -> Path:
    """The folder ``datasets`` of a stand-in hub with every dataset that sources know by name."""
    cifar10(datasets / "uoft-cs" / "cifar10")
    cifar100(datasets / "uoft-cs" / "cifar100")
    tiny_imagenet(datasets / "zh-plus" / "tiny-imagenet")
    imagenet(datasets / "ILSVRC" / "imagenet-1k")
    captioned(datasets / "someone" / "captioned")
    return datasets


def entries(folder: Path) -> dict[str, dict]:
    """Entries of a study for every source that fetches; those of files have them in ``folder``.

    The others come from a hub as :func:`hub` makes it.
    """
    (folder / "photos").mkdir(parents=True)
    for label in ("owl", "newt"):
        (folder / "photos" / label).mkdir()
        for seed in range(3):
            (folder / "photos" / label / f"{seed}.jpg").write_bytes(jpeg(30, 20 + seed, seed))
    archive = spair(folder / "SPair-71k.tar.gz")
    return {
        "cifar10": {"source": "cifar10", "counts": {"train_images": 20, "test_images": 10}},
        "cifar100": {"source": "cifar100", "counts": {"train_images": 12, "test_images": 8}},
        "tiny-imagenet": {
            "source": "tiny_imagenet",
            "counts": {"train_images": 12, "test_images": 6},
        },
        "imagenet-subset": {"source": "imagenet_subset", "images_per_class": 2},
        "captioned": {
            "source": "huggingface",
            "dataset": "someone/captioned",
            "splits": {"test": "validation"},
            "columns": {"image": "photo", "label": "year", "caption": "text"},
            "images": 6,
        },
        "photos": {"source": "folder", "path": str(folder / "photos")},
        "spair": {
            "source": "spair",
            "urls": [str(archive)],
            "size": archive.stat().st_size,
            "checksum": sha256(archive),
            "counts": SPAIR_COUNTS,
        },
        "nyu": {
            "source": "nyu",
            "urls": [str(nyu(folder / "labeled.mat"))],
            "splits_urls": [str(nyu_splits(folder / "splits.mat", [1, 2, 4], [3, 5]))],
            "size": None,
            "checksum": sha256(folder / "labeled.mat"),
            "counts": {"images": 5},
        },
    }
