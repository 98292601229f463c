"""MiniPEDES: body, rasterizer, wardrobe and images."""

import numpy as np
import pytest

from tpr_jax.data.mini_pedes import body, raster, wardrobe
from tpr_jax.data.mini_pedes.generate import make_example
from tpr_jax.data.mini_pedes.paint import PART
from tpr_jax.data.mini_pedes.raster import rasterize_numpy
from tpr_jax.data.mini_pedes.scene import fit_camera, sample_view, turn_hue, walking_pose


def _random_mesh(rng, count=200, height=60, width=40):
    center = rng.uniform(-5, 1, (count, 1, 3)) * (1, 1, 0) + rng.uniform(0, 60, (count, 1, 3))
    corners = center + rng.normal(0, 6, (count, 3, 3))
    return corners.reshape(-1, 3), np.arange(3 * count, dtype=np.int32).reshape(-1, 3), height, width


def _signed(p, a, b):
    return (b[0] - a[0]) * (p[1] - a[1]) - (b[1] - a[1]) * (p[0] - a[0])


def test_rasterize_matches_a_test_of_every_pixel_against_every_triangle():
    points, faces, height, width = _random_mesh(np.random.default_rng(0), 40, 30, 24)
    depth, index, _ = rasterize_numpy(points, faces, height, width)
    for y in range(height):
        for x in range(width):
            p, best, who = (x + 0.5, y + 0.5), np.inf, -1
            for i, face in enumerate(faces):
                a, b, c = points[face]
                sides = (_signed(p, a, b), _signed(p, b, c), _signed(p, c, a))
                if not (min(sides) > 0 or max(sides) < 0):
                    continue
                normal = np.cross(b - a, c - a)  # the plane's depth at p
                z = a[2] - (normal[0] * (p[0] - a[0]) + normal[1] * (p[1] - a[1])) / normal[2]
                if z < best:
                    best, who = z, i
            assert index[y, x] == who
            assert depth[y, x] == pytest.approx(best, abs=1e-6)


@pytest.mark.skipif(raster.numba is None, reason="Numba is not installed")
@pytest.mark.parametrize("seed", range(3))
def test_numba_and_numpy_agree(seed):
    args = _random_mesh(np.random.default_rng(seed))
    depth, index, bary = rasterize_numpy(*args)
    fast_depth, fast_index, fast_bary = raster.rasterize(*args)
    assert np.array_equal(index, fast_index) and (index >= 0).sum() > 100
    np.testing.assert_allclose(depth, fast_depth, rtol=1e-12)
    np.testing.assert_allclose(bary, fast_bary, atol=1e-12)


def test_rasterize_of_nothing_in_frame():
    points = np.array([[-9.0, -9, 1], [-8, -9, 1], [-9, -8, 1]])
    depth, index, _ = rasterize_numpy(points, np.array([[0, 1, 2]]), 8, 8)
    assert np.isinf(depth).all() and (index == -1).all()


def test_vertex_normals_of_a_square():
    points = np.array([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [5, 5, 5]])
    normals = raster.vertex_normals(points, np.array([[0, 1, 2], [0, 2, 3]]))
    np.testing.assert_allclose(normals, [[0, 0, 1]] * 4 + [[0, 0, 0]])


def test_pose_turns_limbs_to_the_directions_asked_for_and_keeps_their_lengths():
    _, joints = body.shape_body(3)
    pose = walking_pose(phase=0.8, stride=0.3, swing=0.2, bend=0.3, spread=0.15)
    transforms = body.bone_transforms(joints, pose)
    names = body.load_body()["bones"]
    for bone, end in (("upperarm01", "lowerarm01"), ("lowerarm01", "wrist"), ("upperleg01", "lowerleg01")):
        for side in "LR":
            move = transforms[names.index(f"{bone}.{side}")]
            start, stop = (move[:, :3] @ joints[f"{n}.{side}"] + move[:, 3] for n in (bone, end))
            asked = pose[f"{bone}.{side}"]
            rest = np.linalg.norm(joints[f"{end}.{side}"] - joints[f"{bone}.{side}"])
            np.testing.assert_allclose(stop - start, asked / np.linalg.norm(asked) * rest, atol=1e-9)


def test_skinning_with_one_rigid_motion_moves_the_whole_body_rigidly():
    rest, _ = body.shape_body(0)
    turn = body.rotation_between(np.array([1.0, 0, 0]), np.array([0.0, 1, 0]))
    move = np.tile(np.c_[turn, [1.0, 2, 3]], (len(body.load_body()["bones"]), 1, 1))
    np.testing.assert_allclose(body.skin(rest, move), rest @ turn.T + (1, 2, 3), atol=1e-5)


@pytest.mark.parametrize(
    ("rgb", "expected"),  # reference values of sRGB's corners under D65
    [
        ((255, 255, 255), (100, 0, 0)),
        ((255, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 0, 255), (32.30, 79.19, -107.86)),
    ],
)
def test_lab(rgb, expected):
    np.testing.assert_allclose(wardrobe.lab(rgb), expected, atol=0.15)


@pytest.mark.parametrize("domain", ["mini", "pretrain"])
def test_people_agree_with_their_bodies_and_wear_no_skin_colors(domain):
    phen = body.load_body()["phen"]
    kinds = set()
    for i in range(400):
        person = wardrobe.sample_person(np.random.default_rng([9, i]), domain)
        assert (person["sex"] == "woman") == (phen[person["body"], 0] > 0.5)
        skin = wardrobe.SKINS[person["skin"]]
        for item in ("top", "lower", "hat", "bag", "shoes"):
            if person[item] and person[item]["type"] != "jeans":
                rgb = wardrobe.rgb_of(person, person[item]["color"], person[item]["type"])
                assert wardrobe.color_distance(rgb, skin) > 30, person
        kinds |= {person["top"]["type"], person["lower"]["type"]}
    assert kinds >= {
        "t-shirt",
        "shirt",
        "hoodie",
        "jacket",
        "coat",
        "dress",
        "trousers",
        "jeans",
        "shorts",
        "skirt",
    }


def test_camera_holds_all_points_in_frame_whatever_the_direction():
    rng = np.random.default_rng(0)
    points = rng.uniform(-1, 1, (300, 3)) * (0.5, 0.4, 0.9)
    for i in range(40):
        xy = fit_camera(points, sample_view(rng, "mini", i), 192, 64)(points)
        assert xy[:, 0].min() >= 0 and xy[:, 0].max() <= 64
        assert xy[:, 1].min() >= 0 and xy[:, 1].max() <= 192


def test_a_third_of_a_turn_of_hue_makes_red_green_and_leaves_greys():
    np.testing.assert_allclose(turn_hue(120) @ [1, 0, 0], [0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(turn_hue(20) @ [0.3, 0.3, 0.3], [0.3, 0.3, 0.3])
    np.testing.assert_allclose(turn_hue(20) @ turn_hue(-20), np.eye(3), atol=1e-12)
    sensors = [sample_view(np.random.default_rng(0), domain, 0)["sensor"] for domain in ("mini", "pretrain")]
    np.testing.assert_array_equal(sensors[0], np.eye(3))
    assert np.abs(sensors[1] - np.eye(3)).max() > 0.1


def test_nobody_leaves_the_frame_and_everybody_fills_it():
    for i in range(16):
        parts = make_example(1, "mini", "train", i, i % 4, size=(96, 32))["parts"] > 0
        edge = np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]])
        assert not edge.any()
        assert np.ptp(np.nonzero(parts.any(1))[0]) > 0.55 * len(parts)


def test_plain_tops_are_drawn_in_the_color_they_are_called():
    checked = 0
    for i in range(60):
        example = make_example(2, "mini", "train", i, i % 4, size=(96, 32))
        top = example["person"]["top"]
        if top["pattern"] or top["color"] not in (
            "red",
            "green",
            "blue",
            "yellow",
            "orange",
            "purple",
            "pink",
        ):
            continue
        mask = example["parts"][::2, ::2] == PART["top"]
        drawn = example["image"][mask].mean(0)
        want = np.array(wardrobe.PALETTES["mini"][top["color"]], float)
        drawn, want = drawn - drawn.mean(), want - want.mean()
        assert drawn @ want > 0.85 * np.linalg.norm(drawn) * np.linalg.norm(want), (i, top)
        checked += 1
    assert checked >= 8


def test_sides_show_what_they_should():
    """A backpack covers more of the back than of the front; faces are visible from the front only."""
    skin = {0: 0, 2: 0}
    bag = {0: 0, 2: 0}
    for i in range(40):
        person = wardrobe.sample_person(np.random.default_rng([0, 0, 0, i]), "mini")
        if not person["bag"] or person["bag"]["type"] != "backpack":
            continue
        for view in (0, 2):
            parts = make_example(0, "mini", "train", i, view, size=(96, 32))["parts"]
            bag[view] += (parts == PART["bag"]).sum()
            head = np.nonzero((parts > 0).any(1))[0][0] + parts.shape[0] // 9
            skin[view] += (parts[:head] == PART["skin"]).sum()
    assert bag[2] > 1.8 * bag[0] > 0
    assert skin[0] > 2 * skin[2]
