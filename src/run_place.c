#include "run.h"

#include <stdlib.h>
#include <string.h>

bool run_is_mine(const struct run *r, const int *rank_of, int shard) {
  return rank_of[shard] == comm_rank(r->comm); // NOLINT(clang-analyzer-core.NullDereference): placement_init fills it
}

// Trajectories of the shards that this rank acts or learns, and of no others.
static struct error *hold_trajectories(struct run *r) {
  if (r->trajectory == NULL) r->trajectory = calloc((size_t)r->sizes.shards, sizeof *r->trajectory);
  if (r->trajectory == NULL) return error_no_memory("trajectories");
  for (int s = 0; s < r->sizes.shards; ++s) {
    const bool needed = run_is_mine(r, r->placement.actor_of, s) || run_is_mine(r, r->placement.learner_of, s);
    if (!needed) trajectory_free(&r->trajectory[s]);
    else if (r->trajectory[s].memory == NULL) TRY(trajectory_init(&r->trajectory[s], &r->layout));
  }
  return NULL;
}

// Rank 0: where the tails of all shards arrive.
static struct error *hold_tails(struct run *r) {
  const size_t shards = (size_t)r->sizes.shards, tail = r->layout.bytes - r->layout.learner_bytes;
  if (r->tail == NULL) r->tail = calloc(shards, sizeof *r->tail);
  if (r->tail_memory == NULL) r->tail_memory = malloc(shards * tail);
  if (!r->tail || !r->tail_memory) return error_no_memory("environment states");
  for (size_t s = 0; s < shards; ++s)
    r->tail[s] =
        r->trajectory[s].memory ? r->trajectory[s].memory + r->layout.learner_bytes : r->tail_memory + s * tail;
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

struct error *run_hold(struct run *r) {
  TRY(hold_trajectories(r));
  if (comm_rank(r->comm) == 0) TRY(hold_tails(r));
  return hold_actor(r);
}

struct error *run_build_learner(struct run *r) {
  TRY(learner_init(&r->learner, &r->objective, &r->sizes, &r->layout, &r->placement, r->comm, r->trajectory,
                   r->threads));
  if (placement_is_learner(&r->placement, comm_rank(r->comm))) {
    learner_interrupt(r->learner, (struct interrupt){run_is_dropped, r});
    return NULL;
  }
  learner_free(r->learner);
  r->learner = NULL;
  return NULL;
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
    if (me == 0 && actor == 0) memcpy(r->trajectory[s].state, r->env_state + at, bytes);
    else if (me == 0) TRY(comm_send(r->comm, actor, MESSAGE_STATE, s, r->env_state + at, bytes));
    else if (actor == me) TRY(comm_receive(r->comm, 0, MESSAGE_STATE, s, r->trajectory[s].state, bytes));
  }
  return comm_wait(r->comm);
}

struct error *run_hand_out(struct run *r) {
  TRY(run_publish(r, true));
  return scatter_states(r);
}

struct error *run_place(struct run *r, struct placement *p) {
  learner_free(r->learner);
  r->learner = NULL;
  placement_free(&r->placement);
  r->placement = *p;
  *p = (struct placement){0};
  run_balance_restart(r);
  TRY(comm_agree(r->comm, run_hold(r)));
  TRY(comm_agree(r->comm, run_build_learner(r)));
  return run_hand_out(r);
}

void run_release(struct run *r) {
  learner_free(r->learner);
  free_actor(r);
  for (int s = 0; r->trajectory != NULL && s < r->sizes.shards; ++s) trajectory_free(&r->trajectory[s]);
  placement_free(&r->placement);
  free(r->trajectory);
  free((void *)r->tail);
  free(r->tail_memory);
}
