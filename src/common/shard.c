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

struct error *placement_alloc(struct placement *p, int shards, int ranks) {
  *p = (struct placement){.shards = shards, .ranks = ranks};
  p->actor_of = malloc(2 * (size_t)shards * sizeof *p->actor_of);
  if (p->actor_of == NULL) return error_no_memory("the placement of shards");
  p->learner_of = p->actor_of + shards;
  return NULL;
}

struct error *placement_even(struct placement *p, int shards, int learners, int ranks) {
  const bool together = learners == LEARNERS_ALL || learners >= ranks;
  *p = (struct placement){.shards = shards, .ranks = ranks, .learners = together ? ranks : learners};
  TRY(check_counts(p, together));
  const int first_actor = together ? 0 : learners, actors = ranks - first_actor, learning = p->learners;
  TRY(placement_alloc(p, shards, ranks));
  p->learners = learning;
  for (int s = 0; s < shards; ++s) {
    p->learner_of[s] = (int)((int64_t)s * learning / shards);
    p->actor_of[s] = first_actor + (int)((int64_t)s * actors / shards);
  }
  return NULL;
}

struct error *placement_init(struct placement *p, const struct config *config, int ranks) {
  const int shards = (int)config->rollout.shards;
  int64_t learners = config->cluster.learners;
  if (learners == LEARNERS_AUTO) learners = ranks <= shards ? LEARNERS_ALL : ranks - shards;
  return placement_even(p, shards, learners > ranks ? ranks : (int)learners, ranks);
}

void placement_free(struct placement *p) {
  free(p->actor_of);
  *p = (struct placement){0};
}

int placement_count(const struct placement *p, const int *rank_of, int rank) {
  int count = 0;
  for (int s = 0; s < p->shards; ++s) count += rank_of[s] == rank;
  return count;
}

bool placement_is_learner(const struct placement *p, int rank) { return placement_count(p, p->learner_of, rank) > 0; }
bool placement_is_actor(const struct placement *p, int rank) { return placement_count(p, p->actor_of, rank) > 0; }
