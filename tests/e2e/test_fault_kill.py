"""Nothing lost: kill -9 at any instant, and checkpoints torn in any way.

FLOWRANK_KILLS: number of rounds (10); FLOWRANK_KILL_SEED: the instants of an earlier test.
"""

import os
import shutil
import unittest

from harness import DONE, FAILED, ITERATIONS, STOPPED, Case, checkpoints
from kill_rounds import KillRounds


class Kill(KillRounds):
    def test_killed_at_random_instants(self):
        self.rounds(int(os.environ.get("FLOWRANK_KILLS", 10)))


class Torn(Case):
    """The newest checkpoint is damaged: the run goes on from the one before it, and says so."""

    def stopped(self):
        """A run stopped at iteration 4, made once; returns a copy to be damaged."""
        if not hasattr(type(self), "original"):
            type(self).original = self.new_path("original")
            self.train(self.config(), self.original, "--max-iterations", 4, code=STOPPED)
        run = self.new_path("torn")
        shutil.copytree(self.original, run)
        return run

    def check_skipped(self, run, files, ranks=None, context=""):
        """Going on names each file that is passed over, in one line each, and ends like the reference."""
        result = self.run_program("train", run, ranks=ranks)
        self.assertEqual(len(result.said()), len(files), f"{context}{result}")
        for line, path in zip(result.said(), files):
            self.assertTrue(line.startswith("flowrank: warning: "), f"{context}{result}")
            self.assertIn(str(path), line, context)
        self.assert_equal_runs(self.reference(), run, context)
        self.assert_complete_metrics(run, ITERATIONS, context)
        self.assert_tidy(run, context)
        for path in checkpoints(run):
            self.run_program("info", path)

    def test_truncated_anywhere(self):
        size = checkpoints(self.stopped())[-1].stat().st_size
        for kept in (0, 1, 26, 100, 511, 513, 2048, size // 2, size - 1):
            with self.subTest(kept=kept, size=size):
                run = self.stopped()
                newest = checkpoints(run)[-1]
                os.truncate(newest, kept)
                self.check_skipped(run, [newest], ranks=2 if kept % 3 == 0 else None, context=f"{kept} of {size} bytes")

    def test_a_flipped_bit_anywhere(self):
        size = checkpoints(self.stopped())[-1].stat().st_size
        places = (0, 27, 40, 60, 100, 511, 512, 1000, size // 2, size - 1)
        for place in places:
            with self.subTest(place=place, size=size):
                run = self.stopped()
                newest = checkpoints(run)[-1]
                self.flip(newest, place, 1 << place % 8)
                self.check_skipped(run, [newest], context=f"byte {place} of {size}")

    def test_a_flipped_bit_is_seen_by_every_reader(self):
        """A denser net of places than a resume has time for."""
        run = self.stopped()
        newest = checkpoints(run)[-1]
        size = newest.stat().st_size
        for place in range(3, size, size // 60):
            with self.subTest(place=place, size=size):
                self.flip(newest, place, 0x10)
                self.assert_one_line(self.run_program("info", newest, code=FAILED), str(newest))
                self.flip(newest, place, 0x10)
        self.run_program("info", newest, code=DONE)

    def flip(self, path, place, bits):
        with open(path, "r+b") as file:
            file.seek(place)
            byte = file.read(1)[0]
            file.seek(place)
            file.write(bytes([byte ^ bits]))

    def test_a_hole_of_zeros(self):
        """What a file system may leave after a power cut: the right length, and zeros."""
        for begin, length in ((0, 512), (512, 4096), (4096, 1 << 20), (0, 1 << 20)):
            with self.subTest(begin=begin):
                run = self.stopped()
                newest = checkpoints(run)[-1]
                content = bytearray(newest.read_bytes())
                end = min(begin + length, len(content))
                content[begin:end] = bytes(end - begin)
                newest.write_bytes(content)
                self.check_skipped(run, [newest])

    def test_more_bytes_than_were_written(self):
        run = self.stopped()
        newest = checkpoints(run)[-1]
        with open(newest, "ab") as file:
            file.write(b"tail")
        self.check_skipped(run, [newest])

    def test_two_torn_files(self):
        run = self.stopped()
        before, newest = checkpoints(run)[-2:]
        os.truncate(newest, 1000)
        os.truncate(before, 0)
        self.check_skipped(run, [newest, before], ranks=3)

    def test_a_folder_in_the_place_of_the_newest(self):
        """Not skipped by luck: the loader meets something that is no file."""
        run = self.stopped()
        odd = run / "checkpoints" / "000000999.h5"
        odd.mkdir()
        result = self.run_program("train", run)
        self.assertEqual(len(result.said()), 1, str(result))
        self.assertIn(str(odd), result.said()[0])
        self.assert_equal_files(run)

    def assert_equal_files(self, run):
        newest = run / "checkpoints" / f"{ITERATIONS:09d}.h5"
        self.run_program("diff", newest, self.reference(), code=DONE)

    def test_leftovers_of_a_killed_writer_are_swept(self):
        """Whatever temporary name the writer used: only whole checkpoints stay."""
        run = self.stopped()
        folder = run / "checkpoints"
        for name in (".000000005.h5.4711.tmp", ".best.h5.4711.tmp", ".000000005.h5.1.tmp"):
            (folder / name).write_bytes(b"half")
        (run / "metrics.jsonl.tmp").write_text("half")
        self.check_skipped(run, [])

    def test_reading_commands_skip_a_torn_file_too(self):
        run = self.stopped()
        newest, before = checkpoints(run)[-1], checkpoints(run)[-2]
        os.truncate(newest, 5000)
        for arguments in (("info", run), ("eval", run, "--episodes", 2), ("diff", run, before)):
            with self.subTest(command=arguments[0]):
                result = self.run_program(*arguments, code=DONE)
                self.assertEqual(len(result.said()), 1, str(result))
                self.assertIn(f"warning: {newest}", result.said()[0])


if __name__ == "__main__":
    unittest.main()
