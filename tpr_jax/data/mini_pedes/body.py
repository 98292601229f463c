"""The body: a linear shape model, a pose given as limb directions, and linear blend skinning.

Meters, z up; the person faces -y, so their left hand is at +x. `canon` coordinates (one unit is about
0.1 m, y up, z to the front) are the same for every body and pose; garments are cut in them.
"""

import functools
import os

import numpy as np
from jaxtyping import Float, Int

# The shoulder, elbow and wrist in canonical coordinates (mean body, left side).
ARM_JOINTS = np.array([[1.62, 5.0, 0.25], [3.28, 3.12, 0.34], [4.42, 2.19, 1.82]])
SIDES = ("L", "R")
LIMBS = ("shoulder01", "upperarm01", "lowerarm01", "upperleg01", "lowerleg01", "foot")


def _arm_coordinate(canon: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, " n"]:
    """Returns the position along the arm: 0 at the shoulder, 1 at the elbow, 2 at the wrist."""
    p = canon.copy()
    p[:, 0] = np.abs(p[:, 0])
    shoulder, elbow, wrist = ARM_JOINTS
    upper, fore = elbow - shoulder, wrist - elbow
    t0 = (p - shoulder) @ upper / (upper @ upper)
    t1 = (p - elbow) @ fore / (fore @ fore)
    return np.where(t1 > 0, 1 + t1, np.minimum(t0, 1.0))


def _collapse(parents: Int[np.ndarray, " b"], labels: list[str]) -> tuple[list[str], np.ndarray, list[int]]:
    """Keeps the posed bones; every other bone follows its nearest kept ancestor."""
    kept = ["root"] + [f"{limb}.{side}" for limb in LIMBS for side in SIDES]
    rank = {name: i for i, name in enumerate(kept)}
    follows = np.zeros(len(labels), int)
    for bone in range(len(labels)):
        up = bone
        while labels[up] not in rank:
            up = parents[up]
        follows[bone] = rank[labels[up]]
    kept_parents = [-1] + [int(follows[parents[labels.index(name)]]) for name in kept[1:]]
    return kept, follows, kept_parents


@functools.cache
def load_body() -> dict:
    """Loads the arrays of `compact_body.npz` as float32, with the skeleton reduced to the posed bones.

    Keys: mean, basis, coef, phen (gender 1 = female, age, muscle, weight, height, proportions), canon
    [n, 3], arm [n] (skinning weight of the arms), surface [n, 5] (canon, position along the arm as in
    `_arm_coordinate`, arm), faces (name -> [f, 3]), used (name -> the vertices of its faces), bones,
    bone_parents, bone_rows, weights [n, bones].
    """
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "compact_body.npz")
    with np.load(path) as z:
        raw = {key: z[key] for key in z.files}
    labels = [str(label) for label in raw["labels"]]
    parents = raw["parents"].astype(int)
    bones, follows, bone_parents = _collapse(parents, labels)
    canon = raw["canon"].astype(np.float32)
    weights = np.zeros((len(canon), len(bones)), np.float32)
    for k in range(raw["w"].shape[1]):
        np.add.at(
            weights, (np.arange(len(canon)), follows[raw["wi"][:, k]]), raw["w"][:, k].astype(np.float32)
        )
    weights /= weights.sum(1, keepdims=True)
    along = _arm_coordinate(canon).astype(np.float32)
    arm_bones = [i for i, name in enumerate(bones) if "arm" in name]
    arm = weights[:, arm_bones].sum(1)
    head_rows = [labels.index(name) for name in bones]
    head_rows += [labels.index(f"wrist.{side}") for side in SIDES]
    faces = {key[2:]: raw[key].astype(np.int32) for key in raw if key.startswith("f_")}
    return {
        "mean": raw["mean"],
        "basis": raw["basis"].astype(np.float32),
        "coef": raw["body_coef"],
        "phen": raw["body_phen"],
        "canon": canon,
        "arm": arm,
        "surface": np.concatenate([canon, along[:, None], arm[:, None]], 1),
        "faces": faces,
        "used": {name: np.unique(triangles) for name, triangles in faces.items()},
        "bones": bones,
        "bone_parents": bone_parents,
        "bone_rows": head_rows,
        "weights": weights,
    }


def shape_body(row: int) -> tuple[Float[np.ndarray, "n 3"], dict[str, np.ndarray]]:
    """Returns the vertices and named joints of sample body `row`, in the rest pose."""
    data = load_body()
    flat = data["mean"] + data["coef"][row] @ data["basis"]
    count = 3 * len(data["canon"])
    joints = flat[count:].reshape(-1, 3)[data["bone_rows"]].astype(np.float64)
    names = data["bones"] + [f"wrist.{side}" for side in SIDES]
    return flat[:count].reshape(-1, 3), dict(zip(names, joints, strict=True))


def rotation_between(a: Float[np.ndarray, "3"], b: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3 3"]:
    """Returns the smallest rotation from direction `a` to direction `b` (Rodrigues' formula)."""
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    v, c = np.cross(a, b), float(a @ b)
    k = np.array([[0, -v[2], v[1]], [v[2], 0, -v[0]], [-v[1], v[0], 0]])
    return np.eye(3) + k + k @ k / (1 + c)


def _rotation_x(angle: float) -> Float[np.ndarray, "3 3"]:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def _direction(outward: float, forward: float) -> Float[np.ndarray, "3"]:
    """Returns a downward direction, rotated by `forward` (radians) to -y and leaning `outward` in x."""
    return np.array([outward, -np.sin(forward), -np.cos(forward)])


def walking_pose(phase: float, stride: float, swing: float, bend: float, spread: float) -> dict:
    """Returns the limb directions of a walking or, with a stride near 0, standing person. Uses radians.

    Args:
      phase: position in the gait cycle.
      stride: swing of the thighs.
      swing: swing of the arms.
      bend: bend of the elbows.
      spread: angle between the upper arms and the body.
    """
    pose = {}
    for side, sign in (("L", 1.0), ("R", -1.0)):
        s = sign * np.sin(phase)
        thigh = stride * s
        knee = 0.05 + stride * 1.1 * max(0.0, -sign * np.sin(phase - 0.7))
        pose[f"upperleg01.{side}"] = _direction(0.0, thigh)
        pose[f"lowerleg01.{side}"] = _direction(0.02 * sign, thigh - knee)
        pose[f"foot.{side}"] = min(0.0, 0.7 * (thigh - knee + 0.05))
        pose[f"upperarm01.{side}"] = _direction(spread * sign, -swing * s - 0.05)
        pose[f"lowerarm01.{side}"] = _direction(0.25 * spread * sign, -swing * s + bend)
    return pose


def _world_rotations(joints: dict, pose: dict) -> dict[str, np.ndarray]:
    """Returns the rotation of every posed bone, in world axes, that gives the limbs the pose's directions."""
    turn = {"root": np.eye(3)}
    for side, sign in (("L", 1.0), ("R", -1.0)):
        drop = np.deg2rad(9.0) * sign  # the shoulder contributes a little to lowering the arm
        c, s = np.cos(drop), np.sin(drop)
        turn[f"shoulder01.{side}"] = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
        above = turn[f"shoulder01.{side}"]
        for bone, end in (("upperarm01", "lowerarm01"), ("lowerarm01", "wrist")):
            rest = joints[f"{end}.{side}"] - joints[f"{bone}.{side}"]
            above = rotation_between(above @ rest, pose[f"{bone}.{side}"]) @ above
            turn[f"{bone}.{side}"] = above
        above = np.eye(3)
        for bone, end in (("upperleg01", "lowerleg01"), ("lowerleg01", "foot")):
            rest = joints[f"{end}.{side}"] - joints[f"{bone}.{side}"]
            above = rotation_between(above @ rest, pose[f"{bone}.{side}"]) @ above
            turn[f"{bone}.{side}"] = above
        turn[f"foot.{side}"] = _rotation_x(-pose[f"foot.{side}"])
    return turn


def bone_transforms(joints: dict, pose: dict) -> Float[np.ndarray, "bones 3 4"]:
    """Returns the affine map from the rest pose to `pose` of each kept bone."""
    data = load_body()
    turn = _world_rotations(joints, pose)
    out = np.zeros((len(data["bones"]), 3, 4))
    for i, (name, parent) in enumerate(zip(data["bones"], data["bone_parents"], strict=True)):
        head = joints[name]
        moved = head if parent < 0 else out[parent, :, :3] @ head + out[parent, :, 3]
        out[i, :, :3] = turn[name]
        out[i, :, 3] = moved - turn[name] @ head
    return out


def skin(vertices: Float[np.ndarray, "n 3"], transforms: Float[np.ndarray, "bones 3 4"]) -> np.ndarray:
    """Moves vertices [n, 3] by their blend of the bones' transforms (linear blend skinning)."""
    blend = (load_body()["weights"] @ transforms.reshape(len(transforms), 12).astype(np.float32)).reshape(
        -1, 3, 4
    )
    return np.einsum("nij,nj->ni", blend[:, :, :3], vertices) + blend[:, :, 3]
