#!/usr/bin/env python3
"""Makes humanoid.h5: observation and similarity of humanoid_track for random poses, evaluated with rotation matrices.

    tests/golden/humanoid/make.py [OUT]

Nothing here is taken from flowrank: the formulas are those of the paper's task (docs/humanoid.md), written down again for
numpy. A quaternion only occurs as a name for the matrix that is stored with it.
"""
import sys
from pathlib import Path

import h5py
import numpy as np

CASES = 4  # poses a body


def random_rotations(rng, shape):
    """Uniform rotations as unit quaternions w, x, y, z."""
    q = rng.normal(size=(*shape, 4))
    return q / np.linalg.norm(q, axis=-1, keepdims=True)


def matrix(q):
    w, x, y, z = np.moveaxis(q, -1, 0)
    rows = [[w * w + x * x - y * y - z * z, 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), w * w - x * x + y * y - z * z, 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), w * w - x * x - y * y + z * z]]
    return np.moveaxis(np.array(rows), (0, 1), (-2, -1))


def random_pose(rng, bodies):
    return {"position": rng.normal(scale=0.5, size=(bodies, 3)) + [2, -3, 0.9], "rotation": random_rotations(rng, (bodies,)),
            "velocity": rng.normal(scale=2, size=(bodies, 6))}


def near(rng, pose, distance):
    """The pose, a little elsewhere: what a body that follows its reference looks like."""
    w = np.concatenate([[1], rng.normal(scale=distance, size=3)])
    turn = w / np.linalg.norm(w)
    a, b = turn, pose["rotation"]
    product = np.stack([a[0] * b[:, 0] - a[1] * b[:, 1] - a[2] * b[:, 2] - a[3] * b[:, 3],
                        a[0] * b[:, 1] + a[1] * b[:, 0] + a[2] * b[:, 3] - a[3] * b[:, 2],
                        a[0] * b[:, 2] - a[1] * b[:, 3] + a[2] * b[:, 0] + a[3] * b[:, 1],
                        a[0] * b[:, 3] + a[1] * b[:, 2] - a[2] * b[:, 1] + a[3] * b[:, 0]], axis=1)
    return {"position": pose["position"] + rng.normal(scale=distance, size=pose["position"].shape), "rotation": product,
            "velocity": pose["velocity"] + rng.normal(scale=distance, size=pose["velocity"].shape)}


def level(root, upright):
    """Matrix whose product with a column turns the world into the heading's frame."""
    forward = matrix(root) @ matrix(upright).T @ np.array([1.0, 0, 0])
    yaw = np.arctan2(forward[1], forward[0])
    cos, sin = np.cos(yaw), np.sin(yaw)
    return np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])


def two_columns(matrices):
    """x axis, then z axis, of each matrix."""
    return np.concatenate([matrices[:, :, 0], matrices[:, :, 2]], axis=1)


def observation(body, target, upright, seen, whole):
    h = level(body["rotation"][0], upright)
    r, s = matrix(body["rotation"]), matrix(target["rotation"])
    root = body["position"][0]
    itself = [root[2:3], (body["position"][1:] - root) @ h.T, two_columns(h @ r), body["velocity"][:, :3] @ h.T,
              body["velocity"][:, 3:] @ h.T]
    turned = h @ (s @ np.transpose(r, (0, 2, 1))) @ h.T
    difference = [(target["position"] - body["position"]) @ h.T * seen[:, None], two_columns(turned) * whole,
                  (target["velocity"] - body["velocity"])[:, :3] @ h.T * whole,
                  (target["velocity"] - body["velocity"])[:, 3:] @ h.T * whole]
    place = [(target["position"] - root) @ h.T * seen[:, None], two_columns(h @ s) * whole]
    return np.concatenate([part.ravel() for part in itself + difference + place])


def similarity(body, reference):
    trace = np.einsum("jii->j", matrix(body["rotation"]) @ np.transpose(matrix(reference["rotation"]), (0, 2, 1)))
    angle = np.arccos(np.clip((trace - 1) / 2, -1, 1))
    difference = body["velocity"] - reference["velocity"]
    return (0.5 * np.exp(-100 * np.mean((body["position"] - reference["position"]) ** 2)) +
            0.3 * np.exp(-10 * np.mean(angle ** 2)) + 0.1 * np.exp(-0.1 * np.mean(difference[:, :3] ** 2)) +
            0.1 * np.exp(-0.1 * np.mean(difference[:, 3:] ** 2)))


def main(out):
    rng = np.random.default_rng(7)
    with h5py.File(out, "w", track_order=False) as file:
        for number in range(3 * CASES):
            bodies = (4, 15, 31)[number // CASES]
            upright = random_rotations(rng, (1,))[0] if number % 2 else np.array([1.0, 0, 0, 0])
            body = random_pose(rng, bodies)
            target = near(rng, body, 0.1) if number % CASES < 3 else random_pose(rng, bodies)
            group = file.create_group(f"case{number:02d}")
            for name, pose in (("self", body), ("target", target)):
                for part, values in pose.items():
                    group[f"{name}_{part}"] = values
            group["upright"] = upright
            group["similarity"] = [similarity(body, target)]
            hands = np.zeros(bodies)
            hands[[0, 1, bodies - 1]] = 1
            for name, seen, whole in (("full", np.ones(bodies), 1), ("some", hands, 0), ("root", np.eye(bodies)[0], 0)):
                group[f"seen_{name}"] = seen
                group[f"obs_{name}"] = observation(body, target, upright, seen, whole)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).with_name("humanoid.h5"))
