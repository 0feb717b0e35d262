"""A clear word: any bad input ends in one line, the right exit code, and an untouched run folder."""

import os
import resource
import shutil
import signal
import time
import unittest

from harness import (BINARY, DONE, FAILED, SOURCE, STEPS_PER_ITERATION, STOPPED, TINY, USAGE, Case, checkpoints,
                     tree)

XMLS = "mujoco_playground/_src/dm_control_suite/xmls"

# Config files: name -> (text, line of the fault or None, fragments of the message)
YAML = {
    "empty": ("", 1, ["the file is empty"]),
    "comment only": ("# nothing\n", None, ["the file is empty"]),
    "unknown key": ("rollout:\n  envz: 3\n", 2, ["'rollout.envz'", "did you mean 'rollout.envs'"]),
    "unknown top key": ("sead: 1\n", 1, ["'sead'", "did you mean 'seed'"]),
    "unknown section": ("seed: 1\nrolout:\n  envs: 16\n", 2, ["did you mean 'rollout'"]),
    "key of another section": ("policy:\n  clip: 0.1\n", 2, ["did you mean 'objective.clip'"]),
    "duplicate key": ("seed: 1\nseed: 2\n", 2, ["'seed'", "twice"]),
    "duplicate section": ("rollout:\n  envs: 16\nrollout:\n  shards: 8\n", 3, ["'rollout'", "twice"]),
    "word for a number": ("seed: many\n", 1, ["'seed'", "'many'", "integer"]),
    "fraction for an integer": ("rollout:\n  envs: 16.5\n", 2, ["'rollout.envs'", "integer"]),
    "quoted number": ('seed: "1"\n', 1, ["'seed'", "quoted"]),
    "negative": ("seed: -1\n", 1, ["'seed'", "[0, "]),
    "beyond 64 bits": ("seed: 99999999999999999999\n", 1, ["'seed'"]),
    "zero steps": ("total_env_steps: 0\n", 1, ["'total_env_steps'", "[1, "]),
    "not a number": ("objective:\n  clip: nan\n", 2, ["'objective.clip'", "finite"]),
    "end of an open range": ("objective:\n  clip: 1\n", 2, ["'objective.clip'", "(0, 1)"]),
    "yes for true": ("objective:\n  normalize_advantage: yes\n", 2, ["true or false"]),
    "unknown choice": ("policy:\n  sampler: runge\n", 2, ["'runge'", "euler", "rk4"]),
    "empty list": ("policy:\n  hidden: []\n", 2, ["'policy.hidden'", "empty list"]),
    "number for a list": ("policy:\n  hidden: 16\n", 2, ["'policy.hidden'", "list"]),
    "list for a number": ("seed: [1]\n", 1, ["'seed'", "a list"]),
    "mapping for a number": ("seed: {a: 1}\n", 1, ["'seed'", "a mapping"]),
    "section without keys": ("rollout: 5\n", 1, ["'rollout'", "holds no keys"]),
    "no value": ("seed:\n", 1, ["'seed'", "empty"]),
    "name with a space": ("task:\n  name: Cartpole Balance\n", 2, ["'task.name'"]),
    "not a mapping": ("- 1\n- 2\n", 1, ["mapping"]),
    "bracket left open": ("rollout: {envs: 4\n", None, ["not valid YAML"]),
    "tab": ("rollout:\n\tenvs: 4\n", 2, ["not valid YAML"]),
    "anchor": ("seed: &a 1\n", 1, ["anchors"]),
    "tag": ("seed: !!int 1\n", 1, ["tag"]),
    "two documents": ("seed: 1\n---\nseed: 2\n", None, ["one YAML document"]),
    "not text": (b"seed: \xff\xfe\n", 1, ["not valid YAML"]),
    "zero byte": (b"seed: 1\0\n", None, []),
    "too large": ("# " + "x" * (1 << 20) + "\n", None, ["too large"]),
    "envs not divisible": ("rollout:\n  envs: 17\n  shards: 8\n", None, ["multiple of shards", "16 or 24"]),
    "minibatches not divisible": ("rollout: {envs: 16, shards: 8, unrolls: 2}\noptimizer: {minibatches: 3}\n", None,
                                  ["multiple of minibatches"]),
    "more learners than shards": ("rollout: {envs: 16, shards: 8, unrolls: 16}\ncluster: {learners: 9}\n", None,
                                  ["at most 8 learners"]),
    "noise without euler": ("policy: {sampler: heun, sde_sigma: 0.5}\n", None, ["only euler"]),
    "too many steps": ("total_env_steps: 1000000000000\nrollout: {envs: 64, shards: 2}\n", None, ["allowed: at most"]),
    "missing base": ("base: nothing.yaml\n", 1, ["nothing.yaml", "cannot read"]),
    "base of itself": ("base: self.yaml\n", None, ["cycle"]),
    "escape codes": (b"seed: \x1b[31mred\n", 1, ["not valid YAML"]),
}

# Command lines that are wrong whatever the files hold; {config}, {run}, {used}, {missing}, {empty} are filled in.
COMMAND_LINES = [
    (["trian", "{config}"], ["'trian'", "did you mean 'train'"]),
    (["--nonsense"], ["'--nonsense'", "--help"]),
    (["train"], ["usage: flowrank train"]),
    (["train", "{config}"], ["--run"]),
    (["train", "{config}", "{config}", "--run", "{run}"], ["usage: flowrank train"]),
    (["train", "{config}", "--run"], ["'--run'", "needs a value"]),
    (["train", "{config}", "--run", ""], ["run"]),
    (["train", "{config}", "--runs", "{run}"], ["'--runs'", "unknown"]),
    (["train", "{config}", "--run", "{run}", "--episodes", "3"], ["'--episodes'", "unknown"]),
    (["train", "{missing}", "--run", "{run}"], ["{missing}", "cannot read this config file"]),
    (["train", "{empty}", "--run", "{run}"], ["{empty}", "cannot read this config file"]),
    (["train", "{missing}"], ["{missing}", "no checkpoint"]),
    (["train", "{empty}"], ["{empty}", "no checkpoint"]),
    (["train", ""], ["no checkpoint"]),
    (["train", "{config}", "--run", "{run}", "--set", "seed"], ["--set seed", "key=value"]),
    (["train", "{config}", "--run", "{run}", "--set", "=1"], ["--set =1"]),
    (["train", "{config}", "--run", "{run}", "--set", "seed="], ["--set seed="]),
    (["train", "{config}", "--run", "{run}", "--set", "seed=x"], ["--set seed=x", "integer"]),
    (["train", "{config}", "--run", "{run}", "--set", "sead=1"], ["--set sead=1", "did you mean 'seed'"]),
    (["train", "{config}", "--run", "{run}", "--set", "rollout={{envs: 3}}"], ["--set rollout"]),
    (["train", "{config}", "--run", "{run}", "--set", "seed=1\nseed: 2"], ["--set"]),
    (["train", "{config}", "--run", "{run}", "--set", "rollout.envs=17"], ["multiple of shards"]),
    (["train", "{config}", "--run", "{run}", "--set", "task.name=CartpoleBalanse"], ["did you mean 'CartpoleBalance'"]),
    (["train", "{config}", "--run", "{run}", *["--set", "seed=1"] * 257], ["256"]),
    (["train", "{config}", "--run", "{run}", "--max-iterations", "0"], ["--max-iterations", "at least 1"]),
    (["train", "{config}", "--run", "{run}", "--max-iterations", "-3"], ["--max-iterations", "'-3'"]),
    (["train", "{config}", "--run", "{run}", "--max-iterations", "2x"], ["--max-iterations", "'2x'"]),
    (["train", "{config}", "--run", "{run}", "--max-iterations", ""], ["--max-iterations"]),
    (["train", "{config}", "--run", "{run}", "--max-iterations", "99999999999999999999"], ["--max-iterations"]),
    (["train", "{config}", "--run", "{run}", "--max-wall", "soon"], ["--max-wall", "'soon'", "01:30:00"]),
    (["train", "{config}", "--run", "{run}", "--max-wall", "0"], ["--max-wall"]),
    (["train", "{config}", "--run", "{run}", "--max-wall", "00:00:00"], ["--max-wall"]),
    (["train", "{config}", "--run", "{run}", "--max-wall", "1:2:3:4"], ["--max-wall"]),
    (["train", "{config}", "--run", "{run}", "--max-wall", "1h"], ["--max-wall"]),
    (["train", "{config}", "--run", "{run}", "--max-wall", "-5"], ["--max-wall", "'-5'"]),
    (["train", "{config}", "--run", "{run}", "--max-wall", "01:-30:00"], ["--max-wall"]),
    (["train", "{config}", "--run", "{run}", "--max-wall", "99999999999"], ["--max-wall"]),
    (["train", "{config}", "--run", "r" * 5000], ["too long"]),
    (["eval"], ["usage: flowrank eval"]),
    (["eval", "{used}", "{used}"], ["usage: flowrank eval"]),
    (["eval", "{missing}"], ["{missing}", "no such file"]),
    (["eval", "{empty}"], ["{empty}", "no checkpoint"]),
    (["eval", "{used}", "--episodes", "0"], ["--episodes", "at least 1"]),
    (["eval", "{used}", "--steps", "0"], ["--steps", "at least 1"]),
    (["eval", "{used}", "--steps", "ten"], ["--steps", "'ten'"]),
    (["eval", "{used}", "--seed", "-1"], ["--seed", "at least 0"]),
    (["eval", "{used}", "--sampler", "runge"], ["'runge'", "euler"]),
    (["eval", "{used}", "--set", "seed=1"], ["'--set'", "unknown"]),
    (["info"], ["usage: flowrank info"]),
    (["info", "{used}", "{used}"], ["usage: flowrank info"]),
    (["info", "{missing}"], ["{missing}", "no such file"]),
    (["info", "{empty}"], ["{empty}", "no checkpoint"]),
    (["info", "{config}/inside"], ["{config}/inside"]),
    (["info", "{used}", "-x"], ["'-x'", "unknown"]),
    (["info", "-xy", "{used}"], ["'-xy'", "unknown"]),
    (["diff"], ["usage: flowrank diff"]),
    (["diff", "{used}"], ["usage: flowrank diff"]),
    (["diff", "{used}", "{missing}"], ["{missing}", "no such file"]),
    (["diff", "{empty}", "{used}"], ["{empty}", "no checkpoint"]),
    (["diff", "--json", "{used}", "{used}"], ["'--json'", "unknown"]),
    (["config"], ["usage: flowrank config"]),
    (["config", "{missing}"], ["{missing}", "cannot read"]),
    (["config", "{empty}"], ["{empty}", "cannot read"]),
    (["config", "{config}", "--set", "objective.clip=2"], ["--set objective.clip=2", "(0, 1)"]),
    (["config", "{config}", "--references"], ["'--references'", "unknown"]),
    (["config", "\x1b[31mred\nnext"], ["cannot read"]),
    (["tasks", "CartpoleBalanse"], ["'CartpoleBalanse'", "did you mean 'CartpoleBalance'"]),
    (["tasks", "Zzz"], ["'Zzz'", "flowrank tasks"]),
    (["tasks", "CartpoleBalance", "more"], ["usage: flowrank tasks"]),
    (["bench"], ["usage: flowrank bench"]),
    (["bench", "rollout"], ["usage: flowrank bench"]),
    (["bench", "rolout", "{config}"], ["'rolout'", "env, rollout, update, products or wire"]),
    (["bench", "rollout", "{missing}"], ["{missing}", "cannot read"]),
    (["bench", "wire", "{config}", "--set", "seed=x"], ["--set seed=x"]),
    (["bench", "update", "{config}", "--obs-dim", "0", "--action-dim", "1"], ["--obs-dim"]),
    (["bench", "update", "{config}", "--obs-dim", "17", "--action-dim", "six"], ["--action-dim", "'six'"]),
    (["bench", "rollout", "{config}", "--set", "task.name=Zzz"], ["'Zzz'"]),
    (["bench", "env", "{config}", "--set", "task.name=Zzz"], ["'Zzz'"]),
]


class Input(Case):
    def refused(self, *arguments, code=USAGE, fragments=(), run=None, ranks=None, **options):
        """One line that holds the fragments, the exit code, and `run` as it was."""
        before = tree(run) if run is not None else None
        result = self.run_program(*arguments, code=code, ranks=ranks, **options)
        if ranks is None:
            self.assert_one_line(result, *map(str, fragments))
        else:  # mpirun adds words of its own
            self.assertEqual(len(result.said()), 1, f"the line is due once:{result}")
            self.check_line(result, result.said()[0], list(map(str, fragments)))
        if run is not None:
            self.assertEqual(tree(run), before, f"the run folder was touched:{result}")
        return result

    def used(self):
        """A run stopped at iteration 3, made once. Not to be changed: see copy_of_used."""
        if not hasattr(type(self), "used_run"):
            run = self.new_path("used")
            self.train(self.config(), run, "--max-iterations", 3, code=STOPPED)
            type(self).used_run = run
        return self.used_run

    def copy_of_used(self, newest_only=False):
        run = self.new_path("copy")
        shutil.copytree(self.used(), run)
        for path in checkpoints(run)[:-1] if newest_only else []:
            path.unlink()
        return run


class Text(Input):
    """Config files and command lines."""

    def test_config_files(self):
        for number, (name, (text, line, fragments)) in enumerate(YAML.items()):
            with self.subTest(fault=name):
                folder = self.new_path("yaml")
                folder.mkdir()
                path, run = folder / "self.yaml", folder / "run"
                path.write_bytes(text if isinstance(text, bytes) else text.encode())
                place = [f"{path}:{line}:" if line is not None else str(path)]
                self.refused("config", path, fragments=place + fragments)
                if number % 3 == 0:  # the same words by way of training
                    self.refused("train", path, "--run", run, fragments=place + fragments, run=run)

    def test_command_lines(self):
        words = {"config": self.config(), "used": self.used(), "missing": self.new_path("missing"),
                 "empty": self.new_path("empty"), "run": self.new_path("run")}
        words["empty"].mkdir()
        # Should a wrong line be taken for a right one, it must fail harmlessly: no models, no run.
        empty = {"FLOWRANK_ASSETS": words["empty"]}
        used_before = tree(words["used"])
        for arguments, fragments in COMMAND_LINES:
            shown = [a[:60] for a in arguments[:12]]
            with self.subTest(arguments=shown):
                arguments = [a.format(**words) for a in arguments]
                env = empty if arguments[0] in ("train", "bench") else None
                self.refused(*arguments, fragments=[f.format(**words) for f in fragments], run=words["run"], env=env)
                self.assertEqual(tree(words["used"]), used_before)
                self.assertEqual(tree(words["empty"]), {})

    def test_a_fault_in_a_base_names_the_base(self):
        folder = self.new_path("bases")
        folder.mkdir()
        (folder / "top.yaml").write_text("base: middle.yaml\n")
        (folder / "middle.yaml").write_text("base: bottom.yaml\nseed: 3\n")
        (folder / "bottom.yaml").write_text("seed: 2\nrollout:\n  envs: many\n")
        self.refused("config", folder / "top.yaml", fragments=[folder / "bottom.yaml", ":3:", "'rollout.envs'"])

    def test_no_arguments_show_the_help(self):
        result = self.run_program(code=USAGE)
        self.assertIn("flowrank train", result.out + result.err)

    def test_ranks_say_it_once(self):
        config, bad = self.config(), self.new_path("bad")
        bad.write_text("seed: 1\nrollout:\n  envz: 3\n")
        missing = self.new_path("missing")
        for arguments, fragment in (
            (["train", missing], "cannot read"),
            (["train", bad], "did you mean 'rollout.envs'"),
            (["train", config, "--nonsense"], "--nonsense"),
            (["train", config, "--set", "seed=x"], "--set seed=x"),
            (["train", config, "--max-iterations", "0"], "--max-iterations"),
            (["train", config, "more"], "usage"),
            (["train", config, "--set", "task.name=Zzz"], "'Zzz'"),
            (["train", config, "--set", "rollout.shards=7"], "multiple of shards"),
        ):
            with self.subTest(arguments=arguments):
                run = self.new_path("run")
                self.refused(*arguments, "--run", run, ranks=2, fragments=[fragment], run=run)

    def test_ranks_of_a_benchmark_say_it_once(self):
        config, missing, empty = self.config(), self.new_path("missing"), self.new_path("empty")
        empty.mkdir()
        self.refused("bench", "wire", missing, ranks=2, fragments=["cannot read"])
        self.refused("bench", "wire", config, "--nonsense", ranks=2, fragments=["--nonsense"])
        for what in ("env", "update", "products"):
            self.refused("bench", what, config, ranks=2, fragments=["without mpirun"])
        self.refused("bench", "wire", config, ranks=2, code=FAILED, fragments=[empty], env={"FLOWRANK_ASSETS": empty})


class Files(Input):
    """Checkpoints, models, run folders."""

    def broken_files(self):
        """name -> (a function that makes a broken file of a good one, fragments)"""

        def write(content):
            return lambda path: path.write_bytes(content)

        def cut(kept):
            return lambda path: os.truncate(path, kept)

        def replaced(old, new):
            def change(path):
                content = path.read_bytes()
                self.assertIn(old, content)
                path.write_bytes(content.replace(old, new, 1))

            return change

        def flipped(place):
            def change(path):
                content = bytearray(path.read_bytes())
                content[place % len(content)] ^= 0x40
                path.write_bytes(content)

            return change

        def instead(make):
            def change(path):
                path.unlink()
                make(path)

            return change

        foreign = (SOURCE / "tests" / "golden" / "env" / "CartpoleBalance.h5").read_bytes()
        newest = checkpoints(self.used())[-1]
        size = newest.stat().st_size
        cases = {f"cut to {kept} bytes": (cut(kept), []) for kept in (1, 20, 27, 60, 511, 512, 4000, size // 2, size - 1)}
        cases |= {f"flipped byte {at}": (flipped(at), []) for at in (0, 30, 45, 80, 511, 512, 700, size // 2, size - 1)}
        cases |= {
            "empty": (write(b""), ["empty"]),
            "text": (write(b"iteration: 3\n"), ["not a flowrank checkpoint"]),
            "long text": (write(b"seed: 1\n" * 10000), ["not a flowrank checkpoint"]),
            "zeros": (write(bytes(size)), ["not a flowrank checkpoint"]),
            "another HDF5 file": (write(foreign), ["HDF5", "not a flowrank checkpoint"]),
            "another HDF5 file with a block before it": (write(bytes(512) + foreign), ["HDF5"]),
            "our block before another HDF5 file": (lambda path: path.write_bytes(path.read_bytes()[:512] + foreign), []),
            "a future version": (replaced(b"format=1 ", b"format=2 "), ["format 2", "reads 1"]),
            "a far future version": (replaced(b"format=1 ", b"format=120 "), ["format 120"]),
            "version 0": (replaced(b"format=1 ", b"format=0 "), ["format 0"]),
            "no version": (replaced(b"format=1 ", b"format=  "), ["header"]),
            "a negative size": (replaced(b"size=", b"size=-"), []),
            "longer": (lambda path: path.write_bytes(path.read_bytes() + b"\0" * 100), ["100 bytes"]),
            "twice the file": (lambda path: path.write_bytes(path.read_bytes() * 2), []),
            "a folder": (instead(lambda path: path.mkdir()), []),
            "a pipe": (instead(os.mkfifo), ["regular"]),
            "a link to nothing": (instead(lambda path: path.symlink_to("nowhere")), []),
            "a link to a device": (instead(lambda path: path.symlink_to("/dev/zero")), ["regular"]),
        }
        return cases

    def test_broken_checkpoint_files(self):
        for name, (damage, fragments) in self.broken_files().items():
            with self.subTest(fault=name):
                run = self.copy_of_used(newest_only=True)
                newest = checkpoints(run)[-1]
                damage(newest)
                code = USAGE if name in ("a folder", "a link to nothing") else FAILED  # no such checkpoint
                self.refused("info", newest, code=code, fragments=[newest, *fragments], run=run)

    def test_a_run_with_nothing_but_a_broken_checkpoint(self):
        """It is not begun anew, which would bury what may be repaired: one line, and nothing is touched."""
        config = self.config()
        for name, (damage, fragments) in self.broken_files().items():
            with self.subTest(fault=name):
                run = self.copy_of_used(newest_only=True)
                newest = checkpoints(run)[-1]
                damage(newest)
                self.refused("train", config, "--run", run, code=FAILED, fragments=[newest, *fragments], run=run)

    def test_every_command_refuses_a_broken_checkpoint(self):
        run = self.copy_of_used(newest_only=True)
        newest = checkpoints(run)[-1]
        os.truncate(newest, 3000)
        for what in (newest, run):
            for arguments in (("eval", what), ("info", what), ("info", what, "--json"), ("diff", what, self.used()),
                              ("diff", self.used(), what)):
                with self.subTest(arguments=arguments):
                    self.refused(*arguments, code=FAILED, fragments=[newest, "torn"], run=run)
        for arguments in (("train", run), ("train", run, "--fresh"), ("train", self.config(), "--run", run)):
            with self.subTest(arguments=arguments):
                self.refused(*arguments, code=FAILED, fragments=[newest, "torn"], run=run)

    def test_ranks_say_it_once(self):
        run = self.copy_of_used(newest_only=True)
        os.truncate(checkpoints(run)[-1], 3000)
        self.refused("train", run, ranks=2, code=FAILED, fragments=["torn"], run=run)

    def test_a_checkpoint_of_another_config(self):
        """It is sound, and the newest, and of another run."""
        config = self.config()
        for key, value in (("seed", 8), ("policy.hidden", "[17, 16]"), ("rollout.shards", 4), ("task.episode_length", 9)):
            with self.subTest(key=key):
                other, run = self.new_path("other"), self.copy_of_used()
                self.train(self.config({key: value}), other, "--max-iterations", 5, code=STOPPED)
                shutil.copy(checkpoints(other)[-1], run / "checkpoints")
                self.refused("train", config, "--run", run, fragments=[f"'{key}'", run], run=run)

    def test_a_checkpoint_of_another_task(self):
        names = [line.split()[0] for line in self.run_program("tasks").out.splitlines()[1:]]
        others = [name for name in names if name != TINY["task.name"]]
        if not others:
            self.skipTest("there is only one task")
        other, run = self.new_path("other"), self.copy_of_used()
        self.train(self.config({"task.name": others[0]}), other, "--max-iterations", 5, code=STOPPED)
        shutil.copy(checkpoints(other)[-1], run / "checkpoints")
        self.refused("train", self.config(), "--run", run, fragments=["'task.name'"], run=run)
        result = self.refused("diff", other, self.used(), code=FAILED, fragments=["different: task"])
        self.assertIn(others[0], result.err)

    # --- models ---

    def assets(self, files):
        """An assets folder with these files among the models."""
        folder = self.new_path("assets")
        (folder / XMLS).mkdir(parents=True)
        for name, text in files.items():
            (folder / XMLS / name).write_text(text)
        return folder

    def test_models(self):
        config, good = self.config(), self.used()
        no_pole = "<mujoco><worldbody><body><joint name='j'/><joint/><geom size='1'/></body></worldbody>"
        motor = "<actuator><motor joint='j'/></actuator></mujoco>"
        as_folder = self.assets({})
        (as_folder / XMLS / "cartpole.xml").mkdir()
        cases = {
            "no folder": (self.new_path("nowhere"), ["cartpole.xml", "FLOWRANK_ASSETS"]),
            "an empty folder": (self.assets({}), ["cartpole.xml", "FLOWRANK_ASSETS"]),
            "an empty file": (self.assets({"cartpole.xml": ""}), ["cartpole.xml"]),
            "garbage": (self.assets({"cartpole.xml": "this is\nno XML at all\n" * 50}), ["cartpole.xml"]),
            "XML cut short": (self.assets({"cartpole.xml": "<mujoco><worldbody>\n<body"}), ["cartpole.xml"]),
            "an unknown element": (self.assets({"cartpole.xml": "<mujoco><wordbody/></mujoco>"}), ["cartpole.xml"]),
            "a missing include": (self.assets({"cartpole.xml": "<mujoco><include file='gone.xml'/></mujoco>"}),
                                  ["cartpole.xml"]),
            "no joints": (self.assets({"cartpole.xml": "<mujoco/>"}), ["cartpole.xml", "positions"]),
            "no actuator": (self.assets({"cartpole.xml": no_pole + "</mujoco>"}), ["cartpole.xml", "actuators"]),
            "no pole": (self.assets({"cartpole.xml": no_pole + motor}), ["cartpole.xml", "pole_1"]),
            "a folder of that name": (as_folder, ["cartpole.xml"]),
        }
        for name, (folder, fragments) in cases.items():
            env = {"FLOWRANK_ASSETS": folder}
            with self.subTest(fault=name):
                run = self.new_path("run")
                self.refused("train", config, "--run", run, code=FAILED, fragments=fragments, run=run, env=env)
                self.refused("train", config, "--run", good, code=FAILED, fragments=fragments, run=good, env=env)
                self.refused("eval", good, code=FAILED, fragments=fragments, run=good, env=env)
        for what in ("env", "rollout", "update", "products", "wire"):
            arguments = ("bench", what, config)
            with self.subTest(arguments=arguments):
                self.refused(*arguments, code=FAILED, fragments=cases["garbage"][1],
                             env={"FLOWRANK_ASSETS": cases["garbage"][0]})
        run = self.new_path("run")
        self.refused("train", config, "--run", run, ranks=2, code=FAILED, fragments=["cartpole.xml"], run=run,
                     env={"FLOWRANK_ASSETS": cases["garbage"][0]})

    def test_a_model_that_one_rank_lacks(self):
        """A node whose file system is not the others'."""
        run, empty = self.new_path("run"), self.assets({})
        line = ["train", self.config(), "--run", run]
        for first, second in (([], ["env", f"FLOWRANK_ASSETS={empty}"]), (["env", f"FLOWRANK_ASSETS={empty}"], [])):
            program = ["mpirun", "-n", "1", *first, BINARY, *line, ":", "-n", "1", *second, BINARY, *line]
            result = self.run_program(program=program, code=FAILED)
            self.assertEqual(len(result.said()), 1, str(result))
            self.assertIn("cartpole.xml", result.said()[0])
            self.assertEqual(tree(run), "absent")

    def test_commands_that_need_no_model(self):
        env = {"FLOWRANK_ASSETS": self.new_path("nowhere")}
        self.run_program("info", self.used(), env=env)
        self.run_program("diff", self.used(), self.used(), env=env)
        self.run_program("config", self.config(), env=env)
        self.run_program("tasks", env=env)
        self.run_program("bench", "update", self.config(), "--obs-dim", 17, "--action-dim", 6, "--json", env=env)

    # --- run folders ---

    def test_run_folders_that_cannot_be(self):
        config, file = self.config(), self.new_path("file")
        file.write_text("a regular file\n")
        inside = self.new_path("inside")
        inside.mkdir()
        (inside / "checkpoints").write_text("a regular file\n")
        for run, fragments in ((file, [file]), (file / "run", [file]), (file / "a" / "b", [file]),
                               (inside, [inside / "checkpoints"]), ("/proc/flowrank/run", ["/proc/flowrank"]),
                               (self.folder / ("n" * 300), ["File name too long"])):
            for ranks in (None, 2):
                with self.subTest(run=str(run)[:80], ranks=ranks):
                    self.refused("train", config, "--run", run, code=(FAILED, USAGE), fragments=fragments, ranks=ranks,
                                 run=file)
        self.assertEqual(tree(inside), {"checkpoints": tree(inside / "checkpoints")})

    def test_a_folder_where_a_file_must_be(self):
        """The checkpoints stay as they are, and nothing half-made stays behind."""
        config = self.config()
        for name in ("metrics.jsonl", "config.yaml", "launches.jsonl"):
            with self.subTest(name=name):
                run = self.copy_of_used()
                (run / name).unlink()
                (run / name).mkdir()
                before = {path: tree(path) for path in checkpoints(run)}
                self.refused("train", config, "--run", run, code=FAILED, fragments=[run / name])
                self.assertEqual({path: tree(path) for path in checkpoints(run)}, before)
                (run / name).rmdir()
                self.train(config, run)
                self.assert_tidy(run)
                self.assert_equal_runs(self.reference(), run) if name != "metrics.jsonl" else None

    def test_a_stored_config_that_was_edited_does_not_matter(self):
        """config.yaml is for people: the checkpoint's own copy counts."""
        run = self.copy_of_used()
        (run / "config.yaml").write_text("garbage: [\n")
        self.run_program("train", run, code=DONE)
        self.assert_equal_runs(self.reference(), run)
        self.assertEqual((run / "config.yaml").read_text(), (self.reference() / "config.yaml").read_text())


class FullDisk(Input):
    """From some instant on, no file can grow beyond 40 KiB: a checkpoint does not fit."""

    base = {**TINY, "total_env_steps": 60 * STEPS_PER_ITERATION, "value.hidden": [64, 64], "optimizer.epochs": 20}

    def limit(self, started, size):
        resource.prlimit(started.process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    def start_training(self, config, run):
        # A write beyond the limit is to fail, not to end the program.
        return self.start("train", config, "--run", run, program=("bash", "-c", "trap '' XFSZ; exec \"$@\"", "-", BINARY))

    def filled(self, changes=None, size=40 << 10):
        """A run whose disk is full from its fifth iteration or so on."""
        config, run = self.config(changes), self.new_path("run")
        started = self.start_training(config, run)
        self.wait_for_iteration(started, run, 5)
        self.limit(started, size)
        return config, run, started

    def check_warning(self, result, line, *fragments):
        self.check_line(result, line, ["flowrank: warning: ", "File too large", "training goes on", *fragments])

    def check_failed(self, result, run):
        """Warnings on the way, and one last line."""
        self.check_sane(result)
        self.assertEqual(result.code, FAILED, str(result))
        *warnings, last = result.err.splitlines()
        for line in warnings:
            self.check_warning(result, line)
        self.check_line(result, last, [str(run / "checkpoints"), ".h5", "File too large"])
        self.assertNotIn("warning", last)
        self.assert_tidy(run)
        return warnings

    def check_goes_on(self, config, run):
        self.train(config, run, ranks=2)
        self.assert_equal_runs(self.reference(), run)
        self.assert_complete_metrics(run, 60)

    def test_training_goes_on_and_what_was_there_stays_good(self):
        config, run, started = self.filled()
        result = started.wait()
        warnings = self.check_failed(result, run)
        self.assertTrue(any(".h5" in line for line in warnings), str(result))
        self.assertIn("iteration 60/60", result.out)
        self.assertEqual(len(checkpoints(run)), 3)
        self.assertGreaterEqual(self.info(run)["iteration"], 4)
        self.check_goes_on(config, run)

    def test_room_again_makes_the_run_whole(self):
        """One warning; the next iteration's checkpoint, though none is due, and nothing is missing in the end."""
        config, run, started = self.filled({"checkpoint.every": 4})
        before = checkpoints(run)
        self.wait_for_iteration(started, run, 15)
        self.limit(started, resource.RLIM_INFINITY)
        result = started.wait()
        self.check_sane(result)
        self.assertEqual(result.code, DONE, str(result))
        self.assertEqual(len(result.err.splitlines()), 1, str(result))
        self.check_warning(result, result.err.splitlines()[0], str(run / "checkpoints"))
        self.assertNotEqual(checkpoints(run), before)
        self.assert_equal_runs(self.reference(), run)
        self.assert_complete_metrics(run, 60)
        self.assert_tidy(run)

    def test_a_checkpoint_folder_that_went_away_for_a_while(self):
        config, run = self.config(), self.new_path("run")
        started = self.start("train", config, "--run", run, ranks=2)
        self.wait_for_iteration(started, run, 5)
        (run / "checkpoints").rename(run / "away")
        self.wait_for_iteration(started, run, 12)
        (run / "away").rename(run / "checkpoints")
        result = started.wait()
        self.assertEqual(result.code, DONE, str(result))
        self.assertEqual(len(result.said()), 1, str(result))
        self.check_line(result, result.said()[0], ["warning", str(run / "checkpoints"), "training goes on"])
        self.assert_equal_runs(self.reference(), run)
        self.assert_tidy(run)

    def test_metrics_without_room_warn_once_and_are_mended(self):
        config, run, started = self.filled({"checkpoint.every": 1000, "eval.every": 0, "optimizer.epochs": 60},
                                           2 << 10)
        time.sleep(0.2)
        self.limit(started, resource.RLIM_INFINITY)
        result = started.wait()
        self.assertEqual(result.code, DONE, str(result))
        about = [line for line in result.err.splitlines() if "metrics.jsonl" in line]
        self.assertEqual(len(about), 1, str(result))
        self.check_warning(result, about[0], str(run / "metrics.jsonl"))
        self.assert_complete_metrics(run, 60)
        self.assert_tidy(run)

    def test_a_stop_without_room_is_no_stop(self):
        """Exit code 75 promises a complete checkpoint."""
        config, run, started = self.filled({"checkpoint.every": 1000, "eval.every": 0})
        for path in checkpoints(run):  # written because they were the best
            path.unlink()
        started.process.send_signal(signal.SIGTERM)
        self.check_failed(started.wait(), run)
        self.assertEqual(checkpoints(run), [])


if __name__ == "__main__":
    unittest.main()
