#include "actor/rollout.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"

enum { COMPARED_TERMS = 512 }; // rows of the policy's network at once when the old log-probabilities are made

static int compared_rows(const struct rollout *r) {
  return r->policy->terms < COMPARED_TERMS ? COMPARED_TERMS / r->policy->terms : 1;
}

struct error *rollout_worker_init(struct rollout_worker *w, const struct rollout *r) {
  *w = (struct rollout_worker){0};
  const struct policy *p = r->policy;
  const size_t envs = (size_t)r->sizes.envs, obs = (size_t)p->obs_dim, act = (size_t)p->action_dim;
  const size_t block = (size_t)compared_rows(r), columns = (size_t)p->action_columns;
  const size_t drawn = (size_t)p->noises * act + (size_t)p->times, terms = (size_t)p->terms;
  const size_t obs_rows = envs > block ? envs : block; // obs_norm serves both phases
  w->memory = malloc((envs * (obs + columns + act) + obs_rows * obs + block * (drawn + terms)) * sizeof(float));
  w->truncations = malloc(envs * sizeof *w->truncations);
  if (w->memory == NULL || w->truncations == NULL) {
    rollout_worker_free(w);
    return error_no_memory("an actor's buffers");
  }
  w->obs = w->memory;
  w->record = w->obs + envs * obs;
  w->env_action = w->record + envs * columns;
  w->obs_norm = w->env_action + envs * act;
  w->eps = w->obs_norm + obs_rows * obs;
  w->t = w->eps + block * (size_t)p->noises * act;
  w->log_prob = w->t + block * (size_t)p->times;
  struct error *e = task_worker_init(r->task, &w->task);
  if (e == NULL) e = policy_workspace_init(&w->acting, p, POLICY_EXPLORE, r->sizes.envs);
  if (e == NULL) e = policy_workspace_init(&w->comparing, p, POLICY_COMPARE, (int)block);
  if (e != NULL) rollout_worker_free(w);
  return e;
}

void rollout_worker_free(struct rollout_worker *w) {
  task_worker_free(&w->task);
  policy_workspace_free(&w->acting);
  policy_workspace_free(&w->comparing);
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

// Actions of all environments at control step `step` since the run's start.
static void act(const struct rollout *r, struct rollout_worker *w, uint32_t first_env, uint32_t step) {
  const struct policy *p = r->policy;
  const struct policy_acting how = policy_training(r->config);
  const size_t envs = (size_t)r->sizes.envs, dims = (size_t)p->action_dim, columns = (size_t)p->action_columns;
  normalizer_apply(r->normalizer, envs, w->obs, w->obs_norm);
  p->method->act(p, r->parameters, &how, first_env, step, r->sizes.envs, w->obs_norm, &w->acting, w->record);
  for (size_t e = 0; e < envs; ++e)
    memcpy(w->env_action + e * dims, w->record + (e + 1) * columns - dims, dims * sizeof(float));
  policy_squash(envs * dims, w->env_action, w->env_action);
}

// One environment's control step with its bookkeeping: record, end of episode, next observation into w->obs.
static void step_env(const struct rollout *r, struct rollout_worker *w, int shard, int e, int step,
                     struct trajectory *out) {
  const size_t dim = (size_t)r->task->obs_dim, dims = (size_t)r->task->action_dim;
  const size_t columns = (size_t)r->layout.action_columns;
  const size_t row = (size_t)e * (size_t)r->sizes.steps + (size_t)step;
  double *env = out->state + (size_t)e * r->layout.state_size;
  float *obs = w->obs + (size_t)e * dim;
  memcpy(out->action + row * columns, w->record + (size_t)e * columns, columns * sizeof(float));
  const unsigned end =
      task_step(r->task, &w->task, w->env_action + (size_t)e * dims, env_task(r, env), obs, &out->reward[row]);
  env[ENV_EPISODE_STEP] += 1;
  env[ENV_EPISODE_RETURN] += (double)out->reward[row];
  const bool terminated = (end & TASK_TERMINATED) != 0;
  const bool over = (end & TASK_COMPLETE) != 0 || env[ENV_EPISODE_STEP] >= (double)r->task->episode_length;
  const bool truncated = !terminated && over;
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
  out->report->broken += (end & TASK_BROKEN) != 0;
  env[ENV_EPISODE] += 1;
  begin_episode(r, w, shard_first_env(&r->sizes, shard) + (uint32_t)e, env, obs);
}

// The old log-probabilities need the whole iteration's actions and nothing of the physics, so they are made at the end,
// in blocks that suit the matrix products.
static void old_log_probs(const struct rollout *r, struct rollout_worker *w, uint32_t first_env, uint32_t first_step,
                          struct trajectory *out) {
  const struct policy *p = r->policy;
  const size_t dim = (size_t)p->obs_dim;
  const int block = compared_rows(r), steps = r->sizes.steps;
  for (int e = 0; p->old_columns > 0 && e < r->sizes.envs; ++e)
    for (int first = 0; first < steps && !interrupted(&r->interrupt); first += block) {
      const int rows = steps - first < block ? steps - first : block;
      const size_t row = (size_t)e * (size_t)steps + (size_t)first;
      const struct policy_batch b = {.rows = rows,
                                     .obs = w->obs_norm,
                                     .action = out->action + row * (size_t)p->action_columns,
                                     .eps = w->eps,
                                     .t = w->t};
      p->method->draw(p, first_env + (uint32_t)e, first_step + (uint32_t)first, rows,
                      (struct policy_draws){.eps = w->eps, .t = w->t});
      normalizer_apply(r->normalizer, (size_t)rows, out->obs + (row + (size_t)e) * dim, w->obs_norm);
      p->method->forward(p, r->parameters, &b, &w->comparing, w->log_prob);
      for (size_t i = 0; i < (size_t)rows; ++i)
        policy_combine(p, w->log_prob + i * (size_t)p->terms, out->old_log_prob + (row + i) * (size_t)p->old_columns);
    }
}

void rollout_collect(const struct rollout *r, struct rollout_worker *w, int shard, int64_t iteration,
                     struct trajectory *out) {
  const double started = clock_seconds();
  const size_t dim = (size_t)r->task->obs_dim;
  const int steps = r->sizes.steps, envs = r->sizes.envs;
  const uint32_t first_env = shard_first_env(&r->sizes, shard);
  const uint32_t first_step = (uint32_t)(iteration * steps);
  if (r->task->kind->pool != NULL)
    r->task->kind->pool(r->task, &w->task, env_task(r, out->state), r->layout.state_size, envs);
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
    if (interrupted(&r->interrupt)) return;
    act(r, w, first_env, first_step + (uint32_t)step);
    for (int e = 0; e < envs; ++e) step_env(r, w, shard, e, step, out);
  }
  for (int e = 0; e < envs; ++e) {
    double *to = env_obs(out->state + (size_t)e * r->layout.state_size);
    for (size_t i = 0; i < dim; ++i) to[i] = (double)w->obs[(size_t)e * dim + i];
  }
  old_log_probs(r, w, first_env, first_step, out);
  out->report->act_seconds = clock_seconds() - started;
}
