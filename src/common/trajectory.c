#include "common/trajectory.h"

#include <stdlib.h>
#include <string.h>

void trajectory_layout_init(struct trajectory_layout *l, const struct policy *policy, const struct shard_sizes *sizes,
                            int64_t least_episode_length, size_t task_state_size) {
  *l = (struct trajectory_layout){.envs = sizes->envs,
                                  .steps = sizes->steps,
                                  .obs_dim = policy->obs_dim,
                                  .action_dim = policy->action_dim,
                                  .action_columns = policy->action_columns,
                                  .old_columns = policy->old_columns};
  if (policy->config->objective.bootstrap_truncated) l->finals = (int)(sizes->steps / least_episode_length) + 1;
  l->state_size = ENV_HEADER + (size_t)l->obs_dim + task_state_size;
  const size_t rows = (size_t)l->envs * (size_t)l->steps, f = sizeof(float);
  l->action = ((size_t)l->envs * (size_t)(l->steps + 1)) * (size_t)l->obs_dim * f;
  l->reward = l->action + rows * (size_t)l->action_columns * f;
  l->old_log_prob = l->reward + rows * f;
  l->final_obs = l->old_log_prob + rows * (size_t)l->old_columns * f;
  l->flags = l->final_obs + (size_t)l->envs * (size_t)l->finals * (size_t)l->obs_dim * f;
  l->report = l->learner_bytes = (l->flags + rows + 7) / 8 * 8; // doubles follow
  l->state = l->report + sizeof(struct shard_report);
  l->bytes = l->state + (size_t)l->envs * l->state_size * sizeof(double);
}

struct error *trajectory_init(struct trajectory *t, const struct trajectory_layout *l) {
  *t = (struct trajectory){.memory = aligned_alloc(64, (l->bytes + 63) / 64 * 64)};
  if (t->memory == NULL) return error_no_memory("a shard's trajectory");
  memset(t->memory, 0, l->bytes);
  t->obs = (float *)(void *)t->memory;
  t->action = (float *)(void *)(t->memory + l->action);
  t->reward = (float *)(void *)(t->memory + l->reward);
  t->old_log_prob = (float *)(void *)(t->memory + l->old_log_prob);
  t->final_obs = (float *)(void *)(t->memory + l->final_obs);
  t->flags = t->memory + l->flags;
  t->report = (struct shard_report *)(void *)(t->memory + l->report);
  t->state = (double *)(void *)(t->memory + l->state);
  return NULL;
}

void trajectory_free(struct trajectory *t) {
  free(t->memory);
  *t = (struct trajectory){0};
}
