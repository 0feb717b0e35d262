#include "run.h"

#include <stdlib.h>
#include <string.h>

bool run_is_mine(const struct run *r, const int *rank_of, int shard) {
  return rank_of[shard] == comm_rank(r->comm); // NOLINT(clang-analyzer-core.NullDereference): placement_init fills it
}

struct trajectory *run_trajectories(const struct run *r, int64_t iteration) {
  return r->trajectory[iteration & 1];
}

unsigned char **run_tails(const struct run *r, int64_t iteration) { return r->tail[iteration & 1]; }

double *run_starting_state(const struct run *r, int64_t iteration, int shard) {
  return run_trajectories(r, iteration - 1)[shard].state;
}

// How many iterations lie in memory at once.
static size_t generations(const struct run *r) { return run_overlaps(r) ? 2 : 1; }

// Trajectories of the shards that this rank acts or learns, and of no others.
static struct error *hold_trajectories(struct run *r) {
  const size_t shards = (size_t)r->sizes.shards;
  if (r->trajectory[0] == NULL) r->trajectory[0] = calloc(generations(r) * shards, sizeof *r->trajectory[0]);
  if (r->trajectory[0] == NULL) return error_no_memory("trajectories");
  r->trajectory[1] = r->trajectory[0] + (generations(r) - 1) * shards;
  for (size_t i = 0; i < generations(r) * shards; ++i) {
    struct trajectory *const t = &r->trajectory[0][i];
    const int s = (int)(i % shards);
    const bool needed = run_is_mine(r, r->placement.actor_of, s) || run_is_mine(r, r->placement.learner_of, s);
    if (!needed) trajectory_free(t);
    else if (t->memory == NULL) TRY(trajectory_init(t, &r->layout));
  }
  return NULL;
}

// Rank 0: where the tails of all shards arrive.
static struct error *hold_tails(struct run *r) {
  const size_t shards = (size_t)r->sizes.shards, all = generations(r) * shards;
  const size_t bytes = r->layout.bytes - r->layout.learner_bytes;
  if (r->tail[0] == NULL) r->tail[0] = calloc(all, sizeof *r->tail[0]);
  if (r->tail_memory == NULL) r->tail_memory = malloc(all * bytes);
  if (!r->tail[0] || !r->tail_memory) return error_no_memory("environment states");
  r->tail[1] = r->tail[0] + all - shards;
  for (size_t i = 0; i < all; ++i) {
    unsigned char *const memory = r->trajectory[0][i].memory;
    r->tail[0][i] = memory ? memory + r->layout.learner_bytes : r->tail_memory + i * bytes;
  }
  return NULL;
}

static void free_actor(struct run *r) {
  for (int t = 0; r->actor != NULL && t < r->threads; ++t) rollout_worker_free(&r->actor[t]);
  free(r->actor);
  r->actor = NULL;
}

static struct error *hold_actor(struct run *r) {
  if (!placement_is_actor(&r->placement, comm_rank(r->comm))) free_actor(r);
  else if (r->actor == NULL) {
    r->actor = calloc((size_t)r->threads, sizeof *r->actor);
    if (r->actor == NULL) return error_no_memory("actors");
    for (int t = 0; t < r->threads; ++t) TRY(rollout_worker_init(&r->actor[t], &r->rollout));
  }
  return NULL;
}

static struct error *hold_learner(struct run *r) {
  learner_free(r->learner);
  r->learner = NULL;
  if (!placement_is_learner(&r->placement, comm_rank(r->comm))) return NULL;
  TRY(learner_init(&r->learner, &r->objective, &r->sizes, &r->layout, &r->placement, r->comm, r->threads));
  learner_interrupt(r->learner, (struct interrupt){run_is_dropped, r});
  return NULL;
}

struct error *run_hold(struct run *r) {
  TRY(hold_trajectories(r));
  if (comm_rank(r->comm) == 0) TRY(hold_tails(r));
  TRY(hold_actor(r));
  return hold_learner(r);
}

struct error *run_publish(struct run *r, bool all) {
  struct learned *l = &r->learned;
  const size_t moments = moments_size(r->task->obs_dim) * sizeof(double);
  TRY(comm_broadcast(r->comm, l->parameters, (all ? 3 : 1) * l->count * sizeof(float)));
  TRY(comm_broadcast(r->comm, l->normalizer.moments, moments));
  if (all) TRY(comm_broadcast(r->comm, &l->adam_step, sizeof l->adam_step));
  normalizer_refresh(&l->normalizer);
  return NULL;
}

// Environment states from rank 0 to the ranks that act on them.
static struct error *scatter_states(struct run *r) {
  const int me = comm_rank(r->comm);
  const size_t doubles = (size_t)r->sizes.envs * r->layout.state_size, bytes = doubles * sizeof(double);
  for (int s = 0; s < r->sizes.shards; ++s) {
    const int actor = r->placement.actor_of[s];
    const size_t at = (size_t)s * doubles; // env_state is rank 0's alone
    if (me == 0 && actor == 0) memcpy(run_starting_state(r, r->iteration, s), r->env_state + at, bytes);
    else if (me == 0) TRY(comm_send(r->comm, actor, MESSAGE_STATE, s, r->env_state + at, bytes));
    else if (actor == me)
      TRY(comm_receive(r->comm, 0, MESSAGE_STATE, s, run_starting_state(r, r->iteration, s), bytes));
  }
  return comm_wait(r->comm, MESSAGE_STATE);
}

struct error *run_hand_out(struct run *r) {
  TRY(run_publish(r, true));
  return scatter_states(r);
}

struct error *run_place(struct run *r, struct placement *p) {
  placement_free(&r->placement);
  r->placement = *p;
  *p = (struct placement){0};
  run_balance_restart(r);
  r->collected = -1; // what lies ready does so elsewhere
  TRY(comm_agree(r->comm, run_hold(r)));
  return run_hand_out(r);
}

void run_release(struct run *r) {
  learner_free(r->learner);
  free_actor(r);
  const size_t all = r->trajectory[0] ? generations(r) * (size_t)r->sizes.shards : 0;
  for (size_t i = 0; i < all; ++i) trajectory_free(&r->trajectory[0][i]);
  placement_free(&r->placement);
  free(r->trajectory[0]);
  free((void *)r->tail[0]);
  free(r->tail_memory);
}
