#include "actor/rollout.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"

enum { LOSS_BLOCK_PAIRS = 512 }; // rows of the velocity network at once when the old losses are made

static int loss_block(const struct rollout *r) {
  const int pairs = (int)r->config->objective.mc_samples;
  return pairs < LOSS_BLOCK_PAIRS ? LOSS_BLOCK_PAIRS / pairs : 1;
}

struct error *rollout_worker_init(struct rollout_worker *w, const struct rollout *r) {
  *w = (struct rollout_worker){0};
  const size_t envs = (size_t)r->sizes.envs, obs = (size_t)r->task->obs_dim, act = (size_t)r->task->action_dim;
  const size_t block = (size_t)loss_block(r), pairs = block * (size_t)r->config->objective.mc_samples;
  const size_t draw = (size_t)r->config->policy.flow_steps * act;
  const size_t sde = r->config->policy.sde_sigma > 0 ? envs * draw : 0;
  const size_t obs_rows = envs > block ? envs : block; // obs_norm serves both phases
  w->memory = malloc((envs * (obs + 2 * act) + obs_rows * obs + draw + sde + pairs * (act + 2)) * sizeof(float));
  w->truncations = malloc(envs * sizeof *w->truncations);
  if (w->memory == NULL || w->truncations == NULL) {
    rollout_worker_free(w);
    return error_no_memory("an actor's buffers");
  }
  w->obs = w->memory;
  w->action = w->obs + envs * obs;
  w->env_action = w->action + envs * act;
  w->obs_norm = w->env_action + envs * act;
  w->draw = w->obs_norm + obs_rows * obs;
  w->sde_noise = w->draw + draw;
  w->eps = w->sde_noise + sde;
  w->t = w->eps + pairs * act;
  w->loss = w->t + pairs;
  struct error *e = task_worker_init(r->task, &w->task);
  if (e == NULL) e = flow_workspace_init(&w->sampler, r->policy, r->sizes.envs, 1, 0);
  if (e == NULL) e = flow_workspace_init(&w->losses, r->policy, (int)block, (int)r->config->objective.mc_samples, 0);
  if (e != NULL) rollout_worker_free(w);
  return e;
}

void rollout_worker_free(struct rollout_worker *w) {
  task_worker_free(&w->task);
  flow_workspace_free(&w->sampler);
  flow_workspace_free(&w->losses);
  free(w->memory);
  free(w->truncations);
  *w = (struct rollout_worker){0};
}

// An environment's row of state: header, newest observation, the task's own.
static double *env_obs(double *env) { return env + ENV_HEADER; }
static double *env_task(const struct rollout *r, double *env) { return env + ENV_HEADER + r->task->obs_dim; }

static void begin_episode(const struct rollout *r, struct rollout_worker *w, uint32_t env_index, double *env,
                          float *obs) {
  const int first = r->config->task.reset == RESET_FIRST_STATE; // the reference returns to each environment's first
  const uint32_t episode = first ? 0 : (uint32_t)env[ENV_EPISODE];
  task_reset(r->task, &w->task, rng_stream((uint64_t)r->config->seed, RNG_RESET, env_index, episode), env_task(r, env),
             obs);
  env[ENV_EPISODE_STEP] = env[ENV_EPISODE_RETURN] = 0;
}

void rollout_begin(const struct rollout *r, struct rollout_worker *w, int shard, struct trajectory *out) {
  const size_t dim = (size_t)r->task->obs_dim;
  for (int e = 0; e < r->sizes.envs; ++e) {
    double *env = out->state + (size_t)e * r->layout.state_size;
    const uint32_t index = shard_first_env(&r->sizes, shard) + (uint32_t)e;
    const struct rng_stream draws = rng_stream((uint64_t)r->config->seed, RNG_STAGGER, index, 0);
    env[ENV_EPISODE] = 0;
    begin_episode(r, w, index, env, w->obs);
    if (r->config->task.stagger)
      env[ENV_EPISODE_STEP] = floor(rng_uniform_at(draws, 0) * (double)r->task->episode_length);
    for (size_t i = 0; i < dim; ++i) env_obs(env)[i] = (double)w->obs[i];
  }
}

// Raw actions of all environments at control step `step` since the run's start.
static void act(const struct rollout *r, struct rollout_worker *w, uint32_t first_env, uint32_t step) {
  const struct config *c = r->config;
  const uint64_t seed = (uint64_t)c->seed;
  const size_t envs = (size_t)r->sizes.envs, dims = (size_t)r->task->action_dim, k = (size_t)c->policy.flow_steps;
  for (size_t e = 0; e < envs; ++e)
    rng_normal(rng_stream(seed, RNG_ACTION_NOISE, first_env + (uint32_t)e, step), dims, w->action + e * dims);
  const int sde = c->policy.sde_sigma > 0;
  for (size_t e = 0; sde && e < envs; ++e) {
    rng_normal(rng_stream(seed, RNG_SDE_NOISE, first_env + (uint32_t)e, step), k * dims, w->draw);
    for (size_t i = 0; i < k; ++i)
      memcpy(w->sde_noise + (i * envs + e) * dims, w->draw + i * dims, dims * sizeof(float));
  }
  normalizer_apply(r->normalizer, envs, w->obs, w->obs_norm);
  flow_policy_sample(r->policy, r->parameters, c->policy.sampler, (int)k, r->sizes.envs, w->obs_norm,
                     sde ? w->sde_noise : NULL, &w->sampler, w->action);
  for (size_t e = 0; c->policy.feather_std > 0 && e < envs; ++e) {
    rng_normal(rng_stream(seed, RNG_FEATHER, first_env + (uint32_t)e, step), dims, w->draw);
    for (size_t i = 0; i < dims; ++i) w->action[e * dims + i] += (float)c->policy.feather_std * w->draw[i];
  }
  for (size_t i = 0; i < envs * dims; ++i) w->env_action[i] = tanhf(w->action[i]);
}

// One environment's control step with its bookkeeping: record, end of episode, next observation into w->obs.
static void step_env(const struct rollout *r, struct rollout_worker *w, int shard, int e, int step,
                     struct trajectory *out) {
  const size_t dim = (size_t)r->task->obs_dim, dims = (size_t)r->task->action_dim;
  const size_t row = (size_t)e * (size_t)r->sizes.steps + (size_t)step;
  double *env = out->state + (size_t)e * r->layout.state_size;
  float *obs = w->obs + (size_t)e * dim;
  bool terminated, broken;
  memcpy(out->action + row * dims, w->action + (size_t)e * dims, dims * sizeof(float));
  task_step(r->task, &w->task, w->env_action + (size_t)e * dims, env_task(r, env), obs, &out->reward[row], &terminated,
            &broken);
  env[ENV_EPISODE_STEP] += 1;
  env[ENV_EPISODE_RETURN] += (double)out->reward[row];
  const bool truncated = !terminated && env[ENV_EPISODE_STEP] >= (double)r->task->episode_length;
  out->flags[row] = (uint8_t)((terminated ? STEP_TERMINATED : 0) | (truncated ? STEP_TRUNCATED : 0));
  if (!terminated && !truncated) return;
  if (truncated && r->layout.finals > 0) {
    const size_t at = (size_t)e * (size_t)r->layout.finals + (size_t)w->truncations[e]++;
    memcpy(out->final_obs + at * dim, obs, dim * sizeof(float));
  }
  const bool whole = !r->config->task.stagger || env[ENV_EPISODE] > 0; // a staggered first episode is a part of one
  out->report->episodes += whole;
  out->report->return_sum += whole ? env[ENV_EPISODE_RETURN] : 0;
  out->report->length_sum += whole ? env[ENV_EPISODE_STEP] : 0;
  out->report->broken += broken;
  env[ENV_EPISODE] += 1;
  begin_episode(r, w, shard_first_env(&r->sizes, shard) + (uint32_t)e, env, obs);
}

// The old losses need the whole iteration's actions and nothing of the physics, so they are made at the end, in blocks
// that suit the matrix products.
static void old_losses(const struct rollout *r, struct rollout_worker *w, uint32_t first_env, uint32_t first_step,
                       struct trajectory *out) {
  const size_t dim = (size_t)r->task->obs_dim, dims = (size_t)r->task->action_dim;
  const size_t pairs = (size_t)r->config->objective.mc_samples, columns = (size_t)r->layout.loss_columns;
  const int block = loss_block(r), steps = r->sizes.steps;
  for (int e = 0; e < r->sizes.envs; ++e)
    for (int first = 0; first < steps; first += block) {
      const int rows = steps - first < block ? steps - first : block;
      const size_t row = (size_t)e * (size_t)steps + (size_t)first;
      for (size_t i = 0; i < (size_t)rows; ++i)
        flow_policy_draw_pairs(r->config, r->task->action_dim, first_env + (uint32_t)e,
                               first_step + (uint32_t)first + (uint32_t)i, w->eps + i * pairs * dims, w->t + i * pairs);
      normalizer_apply(r->normalizer, (size_t)rows, out->obs + (row + (size_t)e) * dim, w->obs_norm);
      flow_policy_cfm_forward(r->policy, r->parameters, rows, (int)pairs, w->obs_norm, out->action + row * dims, w->eps,
                              w->t, &w->losses, w->loss);
      for (size_t i = 0; i < (size_t)rows; ++i) {
        const float *loss = w->loss + i * pairs;
        float mean = 0;
        for (size_t m = 0; m < pairs; ++m) mean += loss[m];
        if (columns == 1) out->old_loss[row + i] = mean / (float)pairs;
        else memcpy(out->old_loss + (row + i) * columns, loss, pairs * sizeof *loss);
      }
    }
}

void rollout_collect(const struct rollout *r, struct rollout_worker *w, int shard, int64_t iteration,
                     struct trajectory *out) {
  const double started = clock_seconds();
  const size_t dim = (size_t)r->task->obs_dim;
  const int steps = r->sizes.steps, envs = r->sizes.envs;
  const uint32_t first_env = shard_first_env(&r->sizes, shard);
  const uint32_t first_step = (uint32_t)(iteration * steps);
  memset(w->truncations, 0, (size_t)envs * sizeof *w->truncations);
  *out->report = (struct shard_report){0};
  for (int e = 0; e < envs; ++e) {
    const double *from = env_obs(out->state + (size_t)e * r->layout.state_size);
    for (size_t i = 0; i < dim; ++i) w->obs[(size_t)e * dim + i] = (float)from[i];
  }
  for (int step = 0; step <= steps; ++step) {
    for (int e = 0; e < envs; ++e)
      memcpy(out->obs + ((size_t)e * (size_t)(steps + 1) + (size_t)step) * dim, w->obs + (size_t)e * dim,
             dim * sizeof(float));
    if (step == steps) break;
    act(r, w, first_env, first_step + (uint32_t)step);
    for (int e = 0; e < envs; ++e) step_env(r, w, shard, e, step, out);
  }
  for (int e = 0; e < envs; ++e) {
    double *to = env_obs(out->state + (size_t)e * r->layout.state_size);
    for (size_t i = 0; i < dim; ++i) to[i] = (double)w->obs[(size_t)e * dim + i];
  }
  old_losses(r, w, first_env, first_step, out);
  out->report->act_seconds = clock_seconds() - started;
}
