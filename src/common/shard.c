#include "common/shard.h"

#include <stdlib.h>

struct shard_sizes shard_sizes(const struct config *c) {
  struct shard_sizes s = {0};
  s.shards = (int)c->rollout.shards;
  s.envs = (int)(c->rollout.envs / c->rollout.shards);
  s.unroll_length = (int)c->rollout.unroll_length;
  s.steps = (int)(c->rollout.unrolls * c->rollout.unroll_length);
  s.unrolls = (int)(s.envs * c->rollout.unrolls);
  s.slice_unrolls = (int)(s.unrolls / c->optimizer.minibatches);
  s.iteration_env_steps = c->rollout.envs * (int64_t)s.steps;
  s.minibatch_actions = (int64_t)s.shards * s.slice_unrolls * s.unroll_length;
  s.iterations = (c->total_env_steps + s.iteration_env_steps - 1) / s.iteration_env_steps;
  return s;
}

static struct error *check_counts(const struct placement *p, bool together) {
  const int actors = together ? p->ranks : p->ranks - p->learners;
  if (actors > p->shards)
    return error_new(EXIT_CODE_USAGE,
                     "%d ranks act but 'rollout.shards' is %d: start at most %d ranks, or raise 'rollout.shards'",
                     actors, p->shards, together ? p->shards : p->shards + p->learners);
  if (p->learners > p->shards)
    return error_new(EXIT_CODE_USAGE,
                     "%d ranks learn but 'rollout.shards' is %d: lower 'cluster.learners' to at most %d", p->learners,
                     p->shards, p->shards);
  return NULL;
}

struct error *placement_init(struct placement *p, const struct config *config, int ranks) {
  const bool together = config->cluster.learners == LEARNERS_ALL || config->cluster.learners >= ranks;
  *p = (struct placement){.shards = (int)config->rollout.shards, .ranks = ranks};
  p->learners = together ? ranks : (int)config->cluster.learners;
  TRY(check_counts(p, together));
  p->actor_of = malloc(2 * (size_t)p->shards * sizeof *p->actor_of);
  if (p->actor_of == NULL) return error_no_memory("the placement of shards");
  p->learner_of = p->actor_of + p->shards;
  const int first_actor = together ? 0 : p->learners, actors = ranks - first_actor;
  for (int s = 0; s < p->shards; ++s) {
    p->learner_of[s] = (int)((int64_t)s * p->learners / p->shards);
    p->actor_of[s] = first_actor + (int)((int64_t)s * actors / p->shards);
  }
  return NULL;
}

void placement_free(struct placement *p) {
  free(p->actor_of);
  *p = (struct placement){0};
}

static bool holds(const int *rank_of, int shards, int rank) {
  for (int s = 0; s < shards; ++s)
    if (rank_of[s] == rank) return true;
  return false;
}

bool placement_is_learner(const struct placement *p, int rank) { return holds(p->learner_of, p->shards, rank); }
bool placement_is_actor(const struct placement *p, int rank) { return holds(p->actor_of, p->shards, rank); }
