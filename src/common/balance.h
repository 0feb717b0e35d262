// Which placement of the shards is fastest, by what ranks have been measured to take. Arithmetic alone: it changes the wall
// time of a run and nothing else.
#ifndef FLOWRANK_BALANCE_H
#define FLOWRANK_BALANCE_H

#include <stdint.h>

#include "common/error.h"
#include "common/shard.h"

struct rank_rates {
  double act, learn; // seconds that a thread of the rank takes for a shard; NaN: not known, as much as the others
  int threads;
};

struct rates {
  int ranks;
  const struct rank_rates *rank; // [ranks]
  double wire;                   // seconds that a shard's trajectory is on the way between two ranks
  double sum;                    // seconds, over an iteration, of one level of the sums that crosses ranks
  bool overlap;                  // ranks that only act do so while others only learn
};

// Shares shards out so that all ranks are done at the same time: each goes to the rank that is then done first. Some may
// get none, but for rank 0, which learns shard 0. learners: LEARNERS_ALL, all ranks do both, each its own shards; or K < ranks:
// the first K learn, the others act. Errors: out of memory.
struct error *placement_by_rates(struct placement *p, int shards, int learners, const struct rates *rates) MUST_USE;

// Seconds of an iteration: act + wire + learn + sums, each as long as on the rank that is last; the longer half of it where
// these overlap.
double placement_seconds(const struct placement *p, const struct rates *rates);

// The fastest even placement: all, or 1, 2, 4, .. learners, as far as every rank gets work. *learners: LEARNERS_ALL or K.
// predicted: its seconds; runner_up, other: of the second best (0 where there is no other).
struct learners_choice {
  int learners, other;
  double predicted, runner_up;
};
struct error *balance_learners(int shards, const struct rates *rates, struct learners_choice *choice) MUST_USE;

#endif
