// What a shard owns, and on which ranks it acts and learns. The work of a run is cut into shards by the config alone;
// placement only says who does it, and never changes a bit of the result.
#ifndef FLOWRANK_SHARD_H
#define FLOWRANK_SHARD_H

#include <stdbool.h>
#include <stdint.h>

#include "common/config.h"
#include "common/error.h"

// Sizes that follow from the config: the same for every shard of a run.
struct shard_sizes {
  int shards;
  int envs;                    // environments of a shard
  int steps;                   // control steps an iteration takes in each environment
  int unroll_length;           // control steps of an unroll
  int unrolls;                 // unrolls that a shard collects in an iteration
  int slice_unrolls;           // a shard's unrolls in each minibatch
  int64_t iteration_env_steps; // over all shards
  int64_t minibatch_actions;   // over all shards
  int64_t iterations;          // until total_env_steps
};
struct shard_sizes shard_sizes(const struct config *config);

// First environment of a shard, in the run's numbering.
static inline uint32_t shard_first_env(const struct shard_sizes *s, int shard) {
  return (uint32_t)shard * (uint32_t)s->envs;
}

struct placement {
  int shards, ranks;
  int learners;               // ranks that learn; rank 0 is one, and learns shard 0
  int *actor_of, *learner_of; // [shards] rank
};

// Default: rank 0 learns, the others act. `cluster.learners: K`: the first K learn, the others act. `all`, or as many
// learners as ranks: every rank acts and learns its own shards. `auto`: to begin with, all, or as few learners as leave every
// actor a shard. Neighbouring shards lie together.
// Errors: more actors or learners than shards.
struct error *placement_init(struct placement *p, const struct config *config, int ranks) MUST_USE;
// The same without a config. learners: K or LEARNERS_ALL.
struct error *placement_even(struct placement *p, int shards, int learners, int ranks) MUST_USE;
// Without content.
struct error *placement_alloc(struct placement *p, int shards, int ranks) MUST_USE;
void placement_free(struct placement *p);

// Shards of a rank; rank_of: actor_of or learner_of.
int placement_count(const struct placement *p, const int *rank_of, int rank);
bool placement_is_learner(const struct placement *p, int rank);
bool placement_is_actor(const struct placement *p, int rank);

#endif
