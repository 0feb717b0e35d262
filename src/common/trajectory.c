#include "common/trajectory.h"

#include <stdlib.h>
#include <string.h>

void trajectory_layout_init(struct trajectory_layout *l, const struct config *config, const struct shard_sizes *sizes,
                            int obs_dim, int action_dim, int64_t episode_length, size_t task_state_size) {
  *l = (struct trajectory_layout){
      .envs = sizes->envs, .steps = sizes->steps, .obs_dim = obs_dim, .action_dim = action_dim};
  l->loss_columns = config->objective.ratio == RATIO_AVERAGED ? 1 : (int)config->objective.mc_samples;
  if (config->objective.bootstrap_truncated) l->finals = (int)(sizes->steps / episode_length) + 1;
  l->state_size = ENV_HEADER + (size_t)obs_dim + task_state_size;
  const size_t rows = (size_t)l->envs * (size_t)l->steps, f = sizeof(float);
  l->action = ((size_t)l->envs * (size_t)(l->steps + 1)) * (size_t)obs_dim * f;
  l->reward = l->action + rows * (size_t)action_dim * f;
  l->old_loss = l->reward + rows * f;
  l->final_obs = l->old_loss + rows * (size_t)l->loss_columns * f;
  l->flags = l->final_obs + (size_t)l->envs * (size_t)l->finals * (size_t)obs_dim * f;
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
  t->old_loss = (float *)(void *)(t->memory + l->old_loss);
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
