import numpy as np
import polars as pl
import pytest
from reprscope.data.canonical import check, decode
from reprscope.data.sources import menagerie
from reprscope.data.synthetic.contact_sheet import contact_sheet
from reprscope.data.synthetic.creatures import KEYPOINTS, KINDS, grow
from reprscope.data.synthetic.quadrics import capsule_pieces, ellipsoid_pieces, join, normals, trace
from reprscope.data.synthetic.scenes import render
from reprscope.runtime.errors import UserError

SIZE = 96


@pytest.fixture(scope="module")
def scenes():
    return [render(1, index, size=SIZE, supersample=1) for index in range(60)]


@pytest.fixture(scope="module")
def dataset():
    return menagerie.build(SMALL, threads=1)


SMALL = menagerie.Parameters(
    images=60, size=48, validation=0.4, test=0.5, pairs_validation=7, pairs_test=20
)


def back_project(camera, x, y, depth):
    return np.array(
        [
            (x - camera.centre_x) * depth / camera.focal,
            (y - camera.centre_y) * depth / camera.focal,
            depth,
        ]
    )


# ── ray intersection ──────────────────────────────────────────────────────────────────────────


def test_sphere_has_closed_form_depth_and_outline():
    radius, distance = 0.5, 4.0
    pieces = ellipsoid_pieces(
        np.array([[0.0, 0.0, distance]]), radius**2 * np.eye(3)[None], np.array([0])
    )
    grid = np.linspace(-0.2, 0.2, 41)
    depth, piece = trace(pieces, grid, grid)
    # |t (x, y, 1) - (0, 0, d)|^2 = r^2, smaller root.
    a = 1 + grid[None, :] ** 2 + grid[:, None] ** 2
    root = distance**2 - a * (distance**2 - radius**2)
    expected = np.where(root >= 0, (distance - np.sqrt(np.maximum(root, 0))) / a, np.inf)
    assert depth[20, 20] == pytest.approx(distance - radius, abs=1e-6)
    assert np.allclose(depth, expected, atol=1e-5)
    assert ((piece == 0) == (root > 0)).all()
    # The tangent cone of a sphere has tan = r / sqrt(d^2 - r^2).
    tangent = radius / np.sqrt(distance**2 - radius**2)
    assert np.allclose(pieces.bounds[0], [-tangent, -tangent, tangent, tangent])


def test_turned_ellipsoid_satisfies_its_equation():
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    radii, centre = np.array([0.6, 0.05, 0.3]), np.array([0.4, -0.3, 5.0])
    axes = turn * radii
    pieces = ellipsoid_pieces(centre[None], (axes @ axes.T)[None], np.array([0]))
    grid = np.linspace(-0.3, 0.3, 301)
    depth, piece = trace(pieces, grid, grid)
    rows, columns = np.nonzero(piece == 0)
    z = depth[rows, columns]
    points = np.stack([grid[columns] * z, grid[rows] * z, z], axis=1).astype(np.float32)
    local = ((points - centre) @ turn) / radii
    assert len(rows) > 200
    assert np.allclose((local**2).sum(axis=1), 1, atol=2e-3)
    # The bounds touch the outline to within a pixel of this grid.
    step = grid[1] - grid[0]
    outline = [grid[columns.min()], grid[rows.min()], grid[columns.max()], grid[rows.max()]]
    assert np.abs(pieces.bounds[0] - outline).max() <= step
    normal = normals(pieces, piece[rows, columns], points)
    expected = (local / radii) @ turn.T
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert np.allclose(normal, expected, atol=2e-3)


@pytest.mark.parametrize(
    ("first", "second", "radii"),
    [
        ([-0.5, 0.1, 4.0], [0.6, -0.2, 4.5], [0.3, 0.1]),
        ([0.0, 0.0, 5.0], [0.1, 0.05, 3.5], [0.5, 0.05]),  # nearly along the view
        ([0.1, 0.0, 3.5], [0.0, 0.0, 5.0], [0.2, 0.7]),
        ([-0.4, 0.0, 4.0], [0.4, 0.0, 4.0], [0.2, 0.2]),
    ],
)
def test_capsule_is_the_union_of_spheres_along_its_axis(first, second, radii):
    first, second = np.array(first), np.array(second)
    pieces = join(capsule_pieces(first[None], second[None], np.array([radii]), np.array([0])))
    grid = np.linspace(-0.3, 0.3, 61)
    depth, piece = trace(pieces, grid, grid)
    share = np.linspace(0, 1, 2001)[:, None]
    centres = first + share * (second - first)
    sizes = radii[0] + share[:, 0] * (radii[1] - radii[0])
    brute = np.full((61, 61), np.inf)
    a = 1 + grid[None, :] ** 2 + grid[:, None] ** 2
    for centre, size in zip(centres, sizes, strict=True):
        b = grid[None, :] * centre[0] + grid[:, None] * centre[1] + centre[2]
        root = b**2 - a * (centre @ centre - size**2)
        hit = np.where(root >= 0, (b - np.sqrt(np.maximum(root, 0))) / a, np.inf)
        brute = np.minimum(brute, hit)
    both = np.isfinite(depth) & np.isfinite(brute)
    assert both.sum() > 100
    # Only at the very outline may the two disagree about a hit.
    assert (np.isfinite(depth) != np.isfinite(brute)).mean() < 0.002
    error = np.abs(depth[both] - brute[both])
    assert error.max() < 0.03
    assert np.median(error) < 1e-4
    rows, columns = np.nonzero(both)
    z = depth[both]
    points = np.stack([grid[columns] * z, grid[rows] * z, z], axis=1).astype(np.float32)
    normal = normals(pieces, piece[both], points)
    # What is seen faces the camera.
    assert ((normal * points).sum(axis=1) < 1e-3).all()


# ── scenes ────────────────────────────────────────────────────────────────────────────────────


def test_same_bytes_in_any_order(scenes):
    for index in (7, 3, 40):
        again = render(1, index, size=SIZE, supersample=1)
        assert again.image.tobytes() == scenes[index].image.tobytes()
        assert again.depth.tobytes() == scenes[index].depth.tobytes()
        assert again.keypoints == scenes[index].keypoints
        assert again.caption == scenes[index].caption


def test_seeds_give_other_images():
    assert render(0, 5, size=48).image.tobytes() != render(1, 5, size=48).image.tobytes()


def test_the_scene_does_not_depend_on_the_size():
    for index in range(10):
        small, large = render(2, index, size=64), render(2, index, size=128)
        assert small.caption == large.caption
        for name in KEYPOINTS:
            one, two = small.keypoints[name], large.keypoints[name]
            assert (2 * one.x, 2 * one.y, one.depth) == pytest.approx((two.x, two.y, two.depth))
        halved = large.mask.reshape(64, 2, 64, 2).mean(axis=(1, 3))
        assert ((halved > 0.5) != small.mask).mean() < 0.03


def test_supersampling_changes_colours_only():
    rough, fine = (render(1, 4, size=64, supersample=s) for s in (1, 3))
    assert (rough.depth == fine.depth).all() and (rough.mask == fine.mask).all()
    assert rough.keypoints == fine.keypoints
    assert (rough.image != fine.image).any()
    # Inside the animal and away from edges the colours stay close.
    assert np.abs(rough.image.astype(int) - fine.image).mean() < 4


def test_depth_outside_the_mask_is_the_ground_plane(scenes):
    rows = np.arange(SIZE) + 0.5
    for scene in scenes:
        camera = scene.camera
        ground = np.full(SIZE, np.inf)
        below = rows > camera.centre_y
        if scene.ground != "white":
            ground[below] = camera.focal * camera.height / (rows[below] - camera.centre_y)
        expected = np.repeat(ground[:, None], SIZE, axis=1)
        assert np.allclose(scene.depth[~scene.mask], expected[~scene.mask], rtol=1e-5)
        assert np.isfinite(scene.depth[scene.mask]).all()
        # The animal stands on the ground, into which its feet press a little.
        y, x = np.nonzero(scene.mask)
        surface = back_project(camera, x + 0.5, y + 0.5, scene.depth[scene.mask])
        assert -0.04 < (camera.height - surface[1]).min() < 0.15 or scene.truncation > 0


def test_white_scenes_are_white_outside_the_animal(scenes):
    white = [scene for scene in scenes if scene.ground == "white"]
    assert 0.05 * len(scenes) < len(white) < 0.4 * len(scenes)
    for scene in white:
        x0, y0, x1, y1 = (int(v) for v in scene.box)
        outside = np.ones((SIZE, SIZE), dtype=bool)
        outside[max(y0 - 1, 0) : y1 + 1, max(x0 - 1, 0) : x1 + 1] = False
        assert (scene.image[outside] == 255).all()


def test_box_is_tight(scenes):
    for scene in scenes:
        x0, y0, x1, y1 = (int(v) for v in scene.box)
        assert scene.mask[y0:y1, x0:x1].sum() == scene.mask.sum()
        for edge in (scene.mask[y0], scene.mask[y1 - 1], scene.mask[:, x0], scene.mask[:, x1 - 1]):
            assert edge.any()


def test_scale_is_that_of_the_whole_animal(scenes):
    for scene in scenes:
        if scene.truncation == 0:
            x0, y0, x1, y1 = scene.box
            assert max(x1 - x0, y1 - y0) / SIZE == pytest.approx(scene.scale, abs=2.5 / SIZE)
    assert any(scene.truncation > 0.01 for scene in scenes)


def test_visible_keypoints_lie_on_the_surface(scenes):
    visible = 0
    for scene in scenes:
        assert tuple(sorted(scene.keypoints)) == tuple(sorted(KEYPOINTS))
        for name, point in scene.keypoints.items():
            if not point.visible:
                continue
            visible += 1
            assert 0 <= point.x < SIZE and 0 <= point.y < SIZE
            row, column = int(point.y), int(point.x)
            assert scene.mask[row, column]
            surface = back_project(
                scene.camera, column + 0.5, row + 0.5, float(scene.depth[row, column])
            )
            own = back_project(scene.camera, point.x, point.y, point.depth)
            assert np.linalg.norm(surface - own) < (0.32 if name == "back" else 0.25)
    assert visible > 5 * len(scenes)


def test_paws_are_near_the_ground_and_heads_above(scenes):
    for scene in scenes:
        height = {
            name: scene.camera.height - back_project(scene.camera, p.x, p.y, p.depth)[1]
            for name, p in scene.keypoints.items()
        }
        for name, value in height.items():
            if name.endswith("_paw"):
                assert 0 < value < 0.12
            elif name.endswith(("_eye", "_ear")) or name == "back":
                assert value > 0.25


def sides(scene):
    points = {
        name: back_project(scene.camera, p.x, p.y, p.depth) for name, p in scene.keypoints.items()
    }
    front = points["left_front_paw"] + points["right_front_paw"]
    hind = points["left_hind_paw"] + points["right_hind_paw"]
    forward = front - hind
    # x right, y down, z forward is right-handed; up is -y.
    right = np.cross(forward, [0.0, -1.0, 0.0])
    return points, forward, right / np.linalg.norm(right)


def test_left_and_right_are_the_animals_own_in_mirrored_scenes_too(scenes):
    assert {scene.mirrored for scene in scenes} == {False, True}
    for scene in scenes:
        points, _, right = sides(scene)
        for part in ("eye", "ear", "front_paw", "hind_paw"):
            assert (points[f"right_{part}"] - points[f"left_{part}"]) @ right > 0


def test_yaw_is_the_heading_in_the_picture(scenes):
    for scene in scenes:
        _, forward, _ = sides(scene)
        assert (forward[0] < 0) == scene.mirrored
        heading = np.degrees(np.arctan2(forward[2], forward[0]))
        difference = (heading - scene.yaw + 180) % 360 - 180
        assert abs(difference) < 25
        assert -180 <= scene.yaw < 180


def test_the_far_eye_is_hidden(scenes):
    near, far = [], []
    for scene in scenes:
        points, _, _ = sides(scene)
        first, second = sorted(("left_eye", "right_eye"), key=lambda name: points[name][2])
        between = points[first] - points[second]
        if abs(between[2]) > 0.9 * np.linalg.norm(between):
            near.append(scene.keypoints[first].visible)
            far.append(scene.keypoints[second].visible)
    assert len(near) > 20
    assert np.mean(near) > 0.7
    assert np.mean(far) < 0.1


def test_captions_say_what_is_there(scenes):
    assert {scene.kind for scene in scenes} == set(KINDS)
    for scene in scenes:
        words = scene.caption.split()
        assert words[0] == ("an" if words[1][0] in "aeiou" else "a")
        assert words[-1] == scene.ground and words[-2] == "on" and words[-3] == scene.kind
        assert words[-4] == scene.colour
        assert words[1:-4] == ([] if scene.pattern == "plain" else [scene.pattern])


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_grows_every_keypoint(kind):
    animal = grow(kind, np.random.default_rng(3))
    assert set(animal.keypoints) == set(KEYPOINTS)
    for first, second, radius, end_radius, _ in animal.capsules:
        assert np.linalg.norm(second - first) > abs(radius - end_radius)


def test_contact_sheet_shows_pictures_and_annotations(scenes):
    sheet = contact_sheet(scenes[:6], columns=3, gap=2)
    assert sheet.shape == (4 * SIZE + 3 * 2, 3 * SIZE + 2 * 2, 3)
    assert (sheet[SIZE + 2 : 2 * SIZE + 2, :SIZE] == scenes[3].image).all()
    below = sheet[2 * SIZE + 4 : 3 * SIZE + 4, :SIZE]
    x0, y0 = (int(v) for v in scenes[0].box[:2])
    assert tuple(below[y0, x0]) == (120, 120, 255)


# ── dataset ───────────────────────────────────────────────────────────────────────────────────


def test_dataset_is_canonical_and_complete(dataset):
    check(dataset)
    assert dataset.images["image_id"][7] == "menagerie-1-000007"
    counts = dict(dataset.images["split"].value_counts().iter_rows())
    assert counts == {"train": 6, "validation": 24, "test": 30}
    assert dataset.keypoints.height == 60 * len(KEYPOINTS)
    scene = render(1, 7, size=48)
    row = dataset.images.row(7, named=True)
    assert (decode(row["image"], "7") == scene.image).all()
    assert (row["label"], row["caption"]) == (scene.kind, scene.caption)
    assert (dataset.depth["menagerie-1-000007"] == scene.depth).all()
    assert (dataset.masks["menagerie-1-000007"] == scene.mask).all()


def test_workers_do_not_change_the_dataset(dataset):
    parallel = menagerie.build(SMALL, threads=2)
    assert parallel.images.equals(dataset.images)
    assert parallel.pairs.equals(dataset.pairs)
    assert parallel.keypoints.equals(dataset.keypoints)
    assert all((parallel.depth[name] == depth).all() for name, depth in dataset.depth.items())


def test_pairs_link_one_kind_inside_one_split(dataset):
    images = {row["image_id"]: row for row in dataset.images.iter_rows(named=True)}
    points = {
        (row["image_id"], row["keypoint"]): row for row in dataset.keypoints.iter_rows(named=True)
    }
    pairs = dataset.pairs
    assert dict(pairs["split"].value_counts().iter_rows()) == {"validation": 7, "test": 20}
    assert set(pairs.filter(pl.col("split") == "test")["category"].value_counts()["count"]) == {2}
    assert pairs["pair_id"].is_unique().all()
    for pair in pairs.iter_rows(named=True):
        source, target = images[pair["source_id"]], images[pair["target_id"]]
        assert source["image_id"] != target["image_id"]
        assert source["label"] == target["label"] == pair["category"]
        assert source["split"] == target["split"] == pair["split"]
        shared = [
            name
            for name in KEYPOINTS
            if points[source["image_id"], name]["visible"]
            and points[target["image_id"], name]["visible"]
        ]
        assert pair["keypoints"] == shared and len(shared) >= 3
        for side, row in (("source", source), ("target", target)):
            expected = [
                [points[row["image_id"], n]["x"], points[row["image_id"], n]["y"]] for n in shared
            ]
            assert pair[f"{side}_xy"] == expected
            rows, columns = np.nonzero(dataset.masks[row["image_id"]])
            assert pair[f"{side}_box"] == [
                columns.min(),
                rows.min(),
                columns.max() + 1,
                rows.max() + 1,
            ]


def test_keypoints_are_comparable_within_a_kind(dataset):
    of = dataset.keypoints.join(dataset.images.select("image_id", "label"), on="image_id")
    pairs = of.select("label", "group").unique()
    assert len(pairs) == of["label"].n_unique() == of["group"].n_unique() > 1


def test_pair_attributes_follow_the_scenes(dataset):
    def scene(image_id):
        return render(1, int(image_id.rsplit("-", 1)[1]), size=48, supersample=1)

    for pair in dataset.pairs.iter_rows(named=True):
        source, target = scene(pair["source_id"]), scene(pair["target_id"])
        facing = [np.cos(np.radians(s.yaw)) > 0 for s in (source, target)]
        assert pair["mirror"] == int(facing[0] != facing[1])
        # Headings away from the picture plane, whichever way the animal faces.
        turned = [
            np.degrees(np.arctan2(np.sin(np.radians(s.yaw)), abs(np.cos(np.radians(s.yaw)))))
            for s in (source, target)
        ]
        difference = abs(turned[0] - turned[1])
        assert pair["viewpoint_variation"] == (2 if difference >= 60 else difference >= 25)
        areas = sorted(
            (x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (pair["source_box"], pair["target_box"])
        )
        ratio = areas[1] / areas[0]
        assert pair["scale_variation"] == (2 if ratio >= 3 else ratio >= 1.5)
        assert pair["occlusion"] == 0
        cut = [s.truncation > 0.01 for s in (source, target)]
        assert pair["truncation"] == {(0, 0): 0, (1, 0): 1, (0, 1): 2, (1, 1): 3}[tuple(cut)]


def test_training_and_evaluation_images_have_other_names(dataset):
    training = menagerie.build(
        menagerie.Parameters(images=2, seed=0, size=16, pairs_validation=0, pairs_test=0), 1
    )
    assert menagerie.Parameters().seed != 0
    assert not set(training.images["image_id"]) & set(dataset.images["image_id"])
    assert training.pairs.is_empty()
    check(training)


@pytest.mark.parametrize(
    "wrong",
    [{"images": 0}, {"seed": -1}, {"size": 15}, {"test": 1.2}, {"validation": 0.8}],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        menagerie.Parameters(**wrong)


def test_too_few_images_for_the_pairs():
    with pytest.raises(UserError, match="more images or fewer pairs_validation"):
        menagerie.build(menagerie.Parameters(images=20, size=16), 1)
