#!/usr/bin/env python3
"""Makes the bodies of the task humanoid_track, MJCF files with position servos on a floor.

    tools/humanoid_models.py deepmimic URDF OUT    the DeepMimic humanoid from the numbers of pybullet_data's URDF
    tools/humanoid_models.py cmu DM_CONTROL OUT    the CMU humanoid (V2020) from an unpacked dm_control

tools/setup.sh calls it. Only Python's standard library is needed.
"""
import ast
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

# DeepMimic's servos (its data/characters/humanoid3d.txt and controllers/humanoid3d_ctrl.txt): stiffness kp N·m/rad,
# damping kd N·m·s/rad, largest torque N·m. The damping is a tenth of the stiffness.
# Last, ours: the largest target angle, rad; a spherical joint's is the length of its rotation vector, each component of
# which is an axis with a servo. None: the range of the URDF.
SERVOS = {
    "chest": (1000, 100, 200, 1.4),
    "neck": (100, 10, 50, 1.5),
    "hip": (500, 50, 200, 2.8),
    "knee": (500, 50, 150, None),
    "ankle": (400, 40, 90, 1.4),
    "shoulder": (400, 40, 100, 3.0),
    "elbow": (300, 30, 60, None),
}
# Inertia of a rotor, kg·m². It is of the order of a foot's own, and bounds what a light limb's servo does to it.
ARMATURE = 0.02
URDF_SCALE = 0.25  # pybullet_data's humanoid is four times life size; its masses are life-like
AXES = {"x": "1 0 0", "y": "0 1 0", "z": "0 0 1"}

FLOOR = {"name": "floor", "type": "plane", "size": "0 0 1", "friction": "1 0.005 0.0001", "condim": "3",
         "material": "floor", "rgba": "1 1 1 1"}
TILES = {"name": "floor", "type": "2d", "builtin": "checker", "rgb1": "0.5 0.54 0.58", "rgb2": "0.44 0.48 0.52",
         "width": "128", "height": "128"}
FLOOR_MATERIAL = {"name": "floor", "texture": "floor", "texrepeat": "1 1", "texuniform": "true"}
SKY = {"type": "skybox", "builtin": "gradient", "rgb1": "0.85 0.9 0.95", "rgb2": "0.6 0.7 0.8", "width": "64",
       "height": "64"}


class Refused(Exception):
    """A file that is not what it should be, in one line."""


def numbers(text):
    return [float(word) for word in text.split()]


def words(values):
    return " ".join(f"{value + 0:.6g}" for value in values)  # + 0: no negative zero


def z_up(vector):
    """The URDF has x ahead, y up, z to the right; MuJoCo here x ahead, y to the left, z up."""
    x, y, z = vector
    return [x, -z, y]


def find(parent, path, what):
    found = parent.find(path)
    if found is None:
        raise Refused(f"{what} has no <{path}>")
    return found


# --- The DeepMimic humanoid ---


def geom_of(link, name):
    """The link's shape with its mass: MuJoCo derives the inertia (the URDF's, 0.1 everywhere, is a placeholder)."""
    collision = find(link, "collision", f"link {name}")
    shape = find(collision, "geometry", f"link {name}")[0]
    centre = z_up(numbers(find(collision, "origin", f"link {name}").get("xyz")))
    mass = find(link, "inertial/mass", f"link {name}").get("value")
    geom = {"name": name, "mass": words([float(mass)]), "pos": words(URDF_SCALE * v for v in centre)}
    if shape.tag == "sphere":
        geom.update(type="sphere", size=words([URDF_SCALE * float(shape.get("radius"))]))
    elif shape.tag == "capsule":  # upright, as its origin's quarter turn about x says
        geom.update(type="capsule", size=words([URDF_SCALE * float(shape.get("radius")),
                                                URDF_SCALE * float(shape.get("length")) / 2]))
    elif shape.tag == "box":
        x, y, z = (URDF_SCALE * v / 2 for v in numbers(shape.get("size")))
        geom.update(type="box", size=words([x, z, y]))
    else:
        raise Refused(f"link {name} has an unknown shape <{shape.tag}>")
    return geom


def add_joint(body, actuators, name, joint):
    kp, kd, torque, largest = SERVOS[name.rpartition("_")[2]]
    servo = {"joint": name, "kp": words([kp]), "kv": words([kd]), "forcerange": words([-torque, torque])}
    if joint.get("type") == "spherical":
        ET.SubElement(body, "joint", name=name, type="ball", range=words([0, largest]))
        for i, axis in enumerate(AXES):
            ET.SubElement(actuators, "position", name=f"{name}_{axis}", gear=words([*(float(i == k) for k in range(3)), 0, 0, 0]),
                          ctrlrange=words([-largest, largest]), **servo)
        return
    limit = find(joint, "limit", f"joint {name}")
    span = words([float(limit.get("lower")), float(limit.get("upper"))])
    axis = z_up(numbers(find(joint, "axis", f"joint {name}").get("xyz")))
    ET.SubElement(body, "joint", name=name, type="hinge", axis=words(axis), range=span)
    ET.SubElement(actuators, "position", name=name, ctrlrange=span, **servo)


def add_link(parent, actuators, urdf, name, joint):
    body = ET.SubElement(parent, "body", name=name)
    if joint is None:
        ET.SubElement(body, "freejoint", name=name)
    else:
        offset = numbers(find(joint, "origin", f"joint {name}").get("xyz"))
        body.set("pos", words(URDF_SCALE * v for v in z_up(offset)))
        if joint.get("type") != "fixed":
            add_joint(body, actuators, name, joint)
    ET.SubElement(body, "geom", geom_of(find(urdf, f"link[@name='{name}']", "the URDF"), name))
    for child in urdf.findall("joint"):
        if child.find("parent").get("link") == name:
            add_link(body, actuators, urdf, child.find("child").get("link"), child)


def tree_distance(parents, a, b):
    above = {}
    for distance in range(len(parents) + 1):
        above[a] = distance
        if a not in parents:
            break
        a = parents[a]
    distance = 0
    while b not in above:
        b = parents[b]
        distance += 1
    return distance + above[b]


def add_exclusions(model, worldbody):
    """Bodies one joint apart never collide in MuJoCo; those two apart (both hips, chest and hips, neck and shoulders)
    overlap in ordinary poses, so they do not either."""
    parents = {child.get("name"): parent.get("name") for parent in worldbody.iter("body") for child in parent.findall("body")}
    bodies = [body.get("name") for body in worldbody.iter("body")]
    contact = ET.SubElement(model, "contact")
    for i, a in enumerate(bodies):
        for b in bodies[i + 1:]:
            if tree_distance(parents, a, b) == 2:
                ET.SubElement(contact, "exclude", body1=a, body2=b)


def new_model(name):
    model = ET.Element("mujoco", model=name)
    ET.SubElement(model, "compiler", angle="radian", autolimits="true")
    return model


def add_scene(model, worldbody):
    asset = model.find("asset")
    asset = ET.SubElement(model, "asset") if asset is None else asset
    ET.SubElement(asset, "texture", SKY)
    ET.SubElement(asset, "texture", TILES)
    ET.SubElement(asset, "material", FLOOR_MATERIAL)
    worldbody.insert(0, ET.Element("geom", FLOOR))
    worldbody.insert(0, ET.Element("light", pos="0 0 4", dir="0.2 0.1 -1", directional="true", castshadow="false"))


def deepmimic(source):
    urdf = ET.fromstring(Path(source).read_text(encoding="utf-8").rstrip("\0\n "))  # pybullet's file ends with a NUL
    model = new_model("deepmimic")
    default = ET.SubElement(model, "default")
    ET.SubElement(default, "joint", armature=words([ARMATURE]))
    ET.SubElement(default, "geom", condim="3", friction="1 0.005 0.0001", rgba="0.8 0.6 0.4 1")
    worldbody = ET.SubElement(model, "worldbody")
    actuators = ET.Element("actuator")
    add_link(worldbody, actuators, urdf, "root", None)
    root = worldbody.find("body")
    root.set("pos", words([0, 0, standing_height(root)]))
    ET.SubElement(root, "camera", name="side", mode="trackcom", pos="0 -3.5 0.4", xyaxes="1 0 0 0 0.1 1")
    add_exclusions(model, worldbody)
    add_scene(model, worldbody)
    model.append(actuators)
    return model


def standing_height(body):
    """How far the lowest point of the right leg lies under the body's origin, in the pose of zeros."""
    below, at = 0.0, body
    for name in ("right_hip", "right_knee", "right_ankle"):
        at = find(at, f"body[@name='{name}']", "the URDF")
        below -= numbers(at.get("pos"))[2]
    foot = at.find("geom")
    return below - numbers(foot.get("pos"))[2] + numbers(foot.get("size"))[2]


# --- The CMU humanoid ---

UPRIGHT = "0 0 1.143", "0.859 1 1 0.859"  # dm_control's pose of the root: its y axis up, its z axis ahead


def position_servos(source):
    """dm_control's own gains: rows (joint, force range, kp, damping) of the table in its cmu_humanoid.py."""
    table = "_POSITION_ACTUATORS_V2020"
    for statement in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and getattr(statement.targets[0], "id", None) == table:
            return [[ast.literal_eval(argument) for argument in row.args] for row in statement.value.elts]
    raise Refused(f"{source} has no {table}")


def cmu(folder):
    walkers = Path(folder, "dm_control", "locomotion", "walkers")
    model = ET.parse(walkers / "assets" / "humanoid_CMU_V2020.xml").getroot()
    model.set("model", "cmu")
    worldbody = find(model, "worldbody", "the CMU humanoid")
    root = find(worldbody, "body[@name='root']", "the CMU humanoid")
    root.set("pos", UPRIGHT[0])
    root.set("quat", UPRIGHT[1])
    root.insert(0, ET.Element("freejoint", name="root"))
    for name in ("sensor", "size", "actuator"):
        model.remove(find(model, name, "the CMU humanoid"))
    servos = {name: rest for name, *rest in position_servos(walkers / "cmu_humanoid.py")}
    actuators = ET.SubElement(model, "actuator")
    for joint in worldbody.iter("joint"):
        name = joint.get("name")
        force, kp, damping = servos[name]
        joint.set("damping", words([damping]))
        ET.SubElement(actuators, "position", name=name, joint=name, kp=words([kp]), forcerange=words(force),
                      ctrlrange=joint.get("range"))
    add_scene(model, worldbody)
    return model


def main(arguments):
    makers = {"deepmimic": deepmimic, "cmu": cmu}
    if len(arguments) != 3 or arguments[0] not in makers:
        sys.stderr.write(__doc__)
        return 2
    kind, source, out = arguments
    try:
        model = makers[kind](source)
        ET.indent(model)
        ET.ElementTree(model).write(out, encoding="unicode")
    except (Refused, OSError, ET.ParseError) as fault:
        print(f"{Path(sys.argv[0]).name}: {source}: {fault}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
