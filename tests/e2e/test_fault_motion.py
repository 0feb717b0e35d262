"""`flowrank motion`: clips are retargeted rightly, a faulty one is named with file and frame, and training takes what was
imported. Without the bodies of tools/setup.sh there is nothing to import."""

import json
import math
import shutil
import unittest
import xml.etree.ElementTree as ET

from harness import DONE, FAILED, HUMANOID, TINY, USAGE, Case, modules, parse_json

h5py, numpy = modules("h5py", "numpy")

MOCAP = HUMANOID.parent / "dm_control" / "dm_control" / "locomotion" / "mocap" / "test_trajectories.h5"
URDF = HUMANOID.parent / "pybullet" / "humanoid" / "humanoid.urdf"
ENV = {"FLOWRANK_HUMANOID": HUMANOID}

# A pose of the row format: standing still, 0.9 m high.
STANDING = [0.0333, 0, 0.9, 0, 1, 0, 0, 0, *[1, 0, 0, 0] * 3, 0, *[1, 0, 0, 0] * 2, 0, *[1, 0, 0, 0], 0, *[1, 0, 0, 0] * 2, 0]


def clip(frames=4, **changes):
    rows = [list(STANDING) for _ in range(frames)]
    for place, value in changes.pop("cells", {}).items():
        rows[place[0]][place[1]] = value
    return {"Loop": "none", "Frames": rows, **changes}


def short(rows):
    return {"Loop": "none", "Frames": rows}


# name -> (contents, fragments of the message)
FAULTS = {
    "not_json": ("{", ["not_json.txt:1:"]),
    "nan": (json.dumps(clip(cells={(2, 5): math.nan})), ["nan.txt:1:"]),
    "no_frames": (json.dumps({"Loop": "none"}), ["no array 'Frames'"]),
    "a_list": ("[1, 2]", ["no array 'Frames'"]),
    "zero_frames": (json.dumps(short([])), ["zero frames"]),
    "short_row": (json.dumps(short([STANDING, STANDING[:-1]])), ["frame 1 has 43 numbers, not 44"]),
    "another_body": (json.dumps(short([[0.1] * 20])), ["frame 0 has 20 numbers, not 44"]),
    "word_in_row": (json.dumps(clip(cells={(3, 7): "x"})), ["frame 3: number 7 is not a finite number"]),
    "row_is_a_number": (json.dumps(short([STANDING, 7])), ["frame 1 is not an array"]),
    "no_rotation": (json.dumps(clip(cells={(1, 8): 0})), ["frame 1: the quaternion of chest"]),
    "long_root": (json.dumps(clip(cells={(2, 4): 3})), ["frame 2: the quaternion of root"]),
    "back_in_time": (json.dumps(clip(cells={(1, 0): -0.03})), ["frame 1: its duration is -0.03 s", "time does not ascend"]),
    "no_time": (json.dumps(clip(cells={(0, 0): 0})), ["frame 0: its duration is 0 s"]),
    "twice": ('{"Loop": "none", "Loop": "none", "Frames": []}', ["twice.txt:1:", "duplicate"]),
    "binary": (bytes(range(256)), ["binary.txt:1:"]),
}


# --- Forward kinematics, written down again: the URDF's own frame, y up, four times life size ---


def multiply(a, b):
    return [[sum(a[i][k] * b[k][j] for k in range(3)) for j in range(3)] for i in range(3)]


def apply(m, v):
    return [sum(m[i][k] * v[k] for k in range(3)) for i in range(3)]


def of_quaternion(q):
    norm = math.sqrt(sum(x * x for x in q))
    w, x, y, z = (c / norm for c in q)
    return [[1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)]]


def about_z(angle):
    c, s = math.cos(angle), math.sin(angle)
    return [[c, -s, 0], [s, c, 0], [0, 0, 1]]


ORDER = ("chest", "neck", "right_hip", "right_knee", "right_ankle", "right_shoulder", "right_elbow", "left_hip",
         "left_knee", "left_ankle", "left_shoulder", "left_elbow")


def rotations(row):
    """The joints' rotations of a row, by name."""
    found, at = {}, 8
    for name in ORDER:
        hinge = name.endswith(("knee", "elbow"))
        found[name] = about_z(row[at]) if hinge else of_quaternion(row[at:at + 4])
        at += 1 if hinge else 4
    return found


def positions(row, joints):
    """Positions of all links in the URDF's frame, metres."""
    turned = rotations(row)
    found = {"root": (row[1:4], of_quaternion(row[4:8]))}
    for name, parent, offset in joints:
        place, rotation = found[parent]
        moved = apply(rotation, [c / 4 for c in offset])
        found[name] = ([a + b for a, b in zip(place, moved)], multiply(rotation, turned.get(name, about_z(0))))
    return {name: place for name, (place, _) in found.items()}


@unittest.skipIf(h5py is None, "this Python has no h5py")
@unittest.skipUnless((HUMANOID / "deepmimic.xml").exists(), f"{HUMANOID} is not there (tools/setup.sh)")
class Motion(Case):
    def motion(self, *arguments, code=DONE, env=None):
        return self.run_program("motion", *arguments, code=code, env={**ENV, **(env or {})})

    def library(self, *sources, **options):
        path = self.new_path("library")
        result = self.motion("import", "-o", path, *sources, **options)
        return path, result

    def write(self, folder, name, contents):
        path = folder / f"{name}.txt"
        path.write_bytes(contents if isinstance(contents, bytes) else contents.encode())
        return path

    # --- What is right ---

    def test_bodies_are_where_the_urdf_puts_them(self):
        """Each body of frames of three clips against kinematics in the URDF's own frame."""
        path, _ = self.library()
        robot = ET.fromstring(URDF.read_text().rstrip("\0\n "))
        joints = [(j.find("child").get("link"), j.find("parent").get("link"),
                   [float(x) for x in j.find("origin").get("xyz").split()]) for j in robot.findall("joint")][1:]
        names = ["root"] + [name for name, _, _ in joints]
        with h5py.File(path) as library:
            model = ET.fromstring(library["model_xml"][()].decode())
            order = [body.get("name") for body in model.iter("body")]
            self.assertEqual(sorted(order), sorted(names))
            for name in ("walk", "cartwheel", "dance_a"):
                rows = json.loads((HUMANOID / "motions" / f"humanoid3d_{name}.txt").read_text())["Frames"]
                group = library["clips"][name]
                self.assertEqual(group["qpos"].shape, (len(rows), 43))
                for frame in range(0, len(rows), 7):
                    for body, (x, y, z) in positions(rows[frame], joints).items():
                        got = group["body_position"][frame][order.index(body)]
                        want = (x, -z, y + group.attrs["height_offset"])
                        self.assertLess(max(abs(a - b) for a, b in zip(got, want)), 2e-6, f"{name} {frame} {body}")

    def test_list_and_show(self):
        path, result = self.library()
        self.assertIn("20 clips for deepmimic, 1 refused", result.out)
        self.assertIn("laikago_walk.txt: frame 0 has 20 numbers, not 44", result.err)
        listed = parse_json(self.motion("list", path, "--json").out)
        self.assertEqual((listed["model"], listed["bodies"], len(listed["clips"])), ("deepmimic", 15, 20))
        walk = next(c for c in listed["clips"] if c["name"] == "walk")
        self.assertTrue(walk["looped"] and walk["frames"] == 39 and abs(walk["seconds"] - 1.2666) < 1e-3, walk)
        self.assertIn("20 clips, ", self.motion("list", path).out)
        shown = parse_json(self.motion("show", path, "walk", "--json").out)
        self.assertEqual(len(shown["joints"]), 12)
        for joint in shown["joints"]:
            self.assertGreaterEqual(joint["moves"][0], joint["range"][0])
            self.assertLessEqual(joint["moves"][1], joint["range"][1])
        self.assertIn("walk, from humanoid3d_walk.txt", self.motion("show", path, "walk").out)

    def test_a_rate_is_what_was_asked_for(self):
        path, _ = self.library("--rate", 25, HUMANOID / "motions" / "humanoid3d_walk.txt")
        shown = parse_json(self.motion("show", path, "--json").out)
        self.assertEqual((shown["fps"], shown["frames"]), (25, 32))

    @unittest.skipUnless(MOCAP.exists(), f"{MOCAP} is not there")
    def test_dm_controls_mocap(self):
        path, result = self.library(MOCAP)
        self.assertIn("2 clips for cmu, 0 refused", result.out)
        with h5py.File(path) as library, h5py.File(MOCAP) as mocap:
            clip_ = library["clips/cmuv2019_001"]
            self.assertEqual((clip_.attrs["fps"], clip_["qpos"].shape), (20, (10, 63)))
            walker = mocap["cmuv2019_001/walkers/walker_0"]
            for frame in (0, 9):
                self.assertLess(abs(clip_["qpos"][frame, 7:] - walker["joints"][:, frame]).max(), 0.02)
                self.assertLess(abs(clip_["qpos"][frame, :2] - walker["position"][:2, frame]).max(), 1e-12)
        run = self.new_path("run")
        config = self.config({**TINY, "task.name": "humanoid_track", "task.motions": path, "task.episode_length": 0,
                              "eval.episode_length": 0, "total_env_steps": 160})
        self.run_program("train", config, "--run", run)

    # --- What is wrong ---

    def test_faulty_clips_are_named_and_the_others_imported(self):
        folder = self.new_path("clips")
        folder.mkdir()
        for name, (contents, _) in FAULTS.items():
            self.write(folder, name, contents)
        self.write(folder, "good", json.dumps(clip()))
        path, result = self.library(folder)
        self.assertIn(f"1 clips for deepmimic, {len(FAULTS)} refused", result.out)
        lines = result.said()
        self.assertEqual(len(lines), len(FAULTS), str(result))
        for name, (_, fragments) in FAULTS.items():
            line = [line for line in lines if f"/{name}.txt" in line]
            self.assertEqual(len(line), 1, f"{name}: {result}")
            for fragment in fragments:
                self.assertIn(fragment, line[0])
        self.assertEqual([c["name"] for c in parse_json(self.motion("list", path, "--json").out)["clips"]], ["good"])

    def test_nothing_to_import(self):
        folder = self.new_path("empty")
        folder.mkdir()
        for sources, fragment in ((folder, "no clip was imported"), (folder / "nothing.txt", "No such file")):
            path, result = self.library(sources, code=FAILED)
            self.assertIn(fragment, result.said()[-1])
            self.assertFalse(path.exists())

    def test_a_model_that_does_not_fit(self):
        _, result = self.library("--model", HUMANOID / "cmu.xml", HUMANOID / "motions" / "humanoid3d_walk.txt", code=FAILED)
        self.assertIn("does not fit the model cmu, which has no ball joint 'chest'", result.err)
        _, result = self.library("--model", HUMANOID / "deepmimic.xml", MOCAP, code=FAILED)
        self.assertIn("does not fit the model deepmimic", result.err)
        model = self.new_path("model")
        model.write_text("<mujoco>")
        _, result = self.library("--model", model, HUMANOID / "motions" / "humanoid3d_walk.txt", code=FAILED)
        self.assertIn("not a model", result.err)

    def test_two_clips_of_one_name(self):
        one, two = self.new_path("one"), self.new_path("two")
        for folder in (one, two):
            folder.mkdir()
            self.write(folder, "same", json.dumps(clip()))
        _, result = self.library(one, two)
        self.assertIn("there is already a clip 'same'", result.err)

    def test_broken_libraries_are_refused(self):
        path, _ = self.library(HUMANOID / "motions" / "humanoid3d_walk.txt")

        def other_model(file):
            del file["model_xml"]
            file["model_xml"] = numpy.bytes_((HUMANOID / "cmu.xml").read_bytes())

        def hole(file):
            file["clips/walk/qvel"][3, 3] = math.nan

        def short_rows(file):
            del file["clips/walk/body_position"]
            file["clips/walk/body_position"] = [[0.0] * 3]

        def bent(file):
            file["clips/walk/body_rotation"][0, 0] = [1, 1, 0, 0]

        faults = {"hash": (other_model, "is not the one that its clips were made for"), "nan": (hole, "dataset qvel"),
                  "shape": (short_rows, "dataset body_position"), "rotation": (bent, "body_rotation"),
                  "rate": (lambda f: f["clips/walk"].attrs.__setitem__("fps", -1.0), "attribute fps"),
                  "empty": (lambda f: f["clips"].__delitem__("walk"), "no clips"),
                  "format": (lambda f: f.attrs.__delitem__("format"), "not a motion library")}
        for name, (break_it, fragment) in faults.items():
            with self.subTest(fault=name):
                broken = self.new_path("broken")
                shutil.copy(path, broken)
                with h5py.File(broken, "r+") as file:
                    break_it(file)
                result = self.motion("list", broken, code=FAILED)
                self.assertEqual(len(result.said()), 1, str(result))
                self.assertIn(str(broken), result.said()[0])
                self.assertIn(fragment, result.said()[0])
        torn = self.new_path("torn")
        torn.write_bytes(path.read_bytes()[:5000])
        self.assertIn("damaged", self.motion("list", torn, code=FAILED).err)

    def test_usage(self):
        path, _ = self.library(HUMANOID / "motions" / "humanoid3d_walk.txt")
        for arguments in (("import",), ("dance",), ("list",), ("show", path, "walk", "run"), ("list", path, "-o", "x"),
                          ("import", "-o", "x", "--rate", "0"), ("import", "-o", "x", "--rate", "fast"),
                          ("show", path, "run")):
            result = self.motion(*arguments, code=USAGE)
            self.assertEqual(len(result.said()), 1, str(result))

    def test_training_says_what_it_misses(self):
        path, _ = self.library(HUMANOID / "motions" / "humanoid3d_walk.txt")
        tiny = {**TINY, "task.name": "humanoid_track"}
        for settings, code, fragment in (({}, USAGE, "set task.motions"),
                                         ({"task.motions": "nowhere.h5"}, FAILED, "nowhere.h5: No such file"),
                                         ({"task.motions": path, "task.clips": "walk+fly"}, USAGE, "no clip 'fly'"),
                                         ({"task.motions": path, "task.conditioning": "root",
                                           "task.servo_target": "reference"}, USAGE, "full alone")):
            run = self.new_path("run")
            result = self.run_program("train", self.config({**tiny, **settings}), "--run", run, code=code)
            self.assertEqual(len(result.said()), 1, str(result))
            self.assertIn(fragment, result.said()[0])
            self.assertFalse(run.exists())


if __name__ == "__main__":
    unittest.main()
