"""As test_fault_kill.py, with 100 rounds of kill -9 (FLOWRANK_SLOW_KILLS)."""

import os
import unittest

from kill_rounds import KillRounds


class SlowKill(KillRounds):
    def test_killed_at_random_instants(self):
        self.rounds(int(os.environ.get("FLOWRANK_SLOW_KILLS", 100)))


if __name__ == "__main__":
    unittest.main()
