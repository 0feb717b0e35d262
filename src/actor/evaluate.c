#include "actor/evaluate.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"

struct error *evaluate_worker_init(struct evaluate_worker *w, const struct evaluation *v) {
  *w = (struct evaluate_worker){0};
  const size_t obs = (size_t)v->task->obs_dim, act = (size_t)v->task->action_dim;
  w->memory = malloc(EVALUATE_BLOCK * (2 * obs + act) * sizeof(float));
  w->state = malloc((EVALUATE_BLOCK * v->task->state_size + 1) * sizeof(double));
  struct error *e = w->memory && w->state ? NULL : error_no_memory("an evaluation");
  if (e == NULL) e = task_worker_init(v->task, &w->task);
  if (e == NULL) e = policy_workspace_init(&w->acting, v->policy, POLICY_EVALUATE, EVALUATE_BLOCK);
  if (e != NULL) {
    evaluate_worker_free(w);
    return e;
  }
  w->obs = w->memory;
  w->obs_norm = w->obs + EVALUATE_BLOCK * obs;
  w->action = w->obs_norm + EVALUATE_BLOCK * obs;
  return NULL;
}

void evaluate_worker_free(struct evaluate_worker *w) {
  task_worker_free(&w->task);
  policy_workspace_free(&w->acting);
  free(w->memory);
  free(w->state);
  *w = (struct evaluate_worker){0};
}

static void watch(const struct evaluation *v, int64_t episode, const double *state, float reward) {
  if (v->watch.see != NULL) v->watch.see(v->watch.context, episode, state, reward);
}

// Rows without an episode (any more) stay in the batch, so that every product keeps its shape, and an episode its bits
// whatever the number of episodes.
void evaluate_block(const struct evaluation *v, struct evaluate_worker *w, int64_t block,
                    struct episode_result *results) {
  const int64_t first = block * EVALUATE_BLOCK;
  const int count = (int)(v->episodes - first < EVALUATE_BLOCK ? v->episodes - first : EVALUATE_BLOCK);
  const size_t obs = (size_t)v->task->obs_dim, act = (size_t)v->task->action_dim, size = v->task->state_size;
  bool ended[EVALUATE_BLOCK] = {false};
  int running = count;
  memset(w->obs, 0, EVALUATE_BLOCK * obs * sizeof(float));
  for (int i = 0; i < count; ++i) {
    const struct rng_stream draws = rng_stream(v->acting.seed, RNG_EVAL + RNG_RESET, (uint32_t)(first + i), 0);
    task_reset_evaluation(v->task, &w->task, first + i, draws, w->state + (size_t)i * size, w->obs + (size_t)i * obs);
    results[i] = (struct episode_result){0};
    watch(v, first + i, w->state + (size_t)i * size, 0);
  }
  for (int64_t step = 0; step < v->episode_length && running > 0 && !interrupted(&v->interrupt); ++step) {
    normalizer_apply(v->normalizer, EVALUATE_BLOCK, w->obs, w->obs_norm);
    v->policy->method->act(v->policy, v->parameters, &v->acting, (uint32_t)first, (uint32_t)step, EVALUATE_BLOCK,
                           w->obs_norm, &w->acting, w->action);
    for (int i = 0; i < count; ++i) {
      if (ended[i]) continue;
      float *action = w->action + (size_t)i * act, reward;
      policy_squash(act, action, action);
      ended[i] =
          task_step(v->task, &w->task, action, w->state + (size_t)i * size, w->obs + (size_t)i * obs, &reward) != 0;
      results[i].episode_return += (double)reward;
      results[i].length += 1;
      watch(v, first + i, w->state + (size_t)i * size, reward);
      if (!ended[i]) continue;
      memset(w->obs + (size_t)i * obs, 0, obs * sizeof(float)); // it may hold a NaN
      --running;
    }
  }
}

struct error *evaluate_all(const struct evaluation *v, int threads, struct episode_result *results) {
  struct error *failed = NULL;
#pragma omp parallel num_threads(threads)
  {
    struct evaluate_worker w;
    struct error *e = evaluate_worker_init(&w, v);
    if (e != NULL) {
#pragma omp critical(evaluate_failure)
      {
        error_free(failed);
        failed = e;
      }
    }
#pragma omp barrier
    if (failed == NULL) {
#pragma omp for schedule(dynamic, 1)
      for (int64_t b = 0; b < evaluate_blocks(v); ++b) evaluate_block(v, &w, b, results + b * EVALUATE_BLOCK);
    }
    if (e == NULL) evaluate_worker_free(&w);
  }
  return failed;
}

struct error *evaluate_action_seconds(const struct evaluation *v, double *seconds) {
  enum { ROUNDS = 30 };
  const double enough = 0.02; // of a second
  struct evaluate_worker w;
  TRY(evaluate_worker_init(&w, v));
  memset(w.obs_norm, 0, EVALUATE_BLOCK * (size_t)v->task->obs_dim * sizeof(float));
  *seconds = INFINITY;
  const double began = clock_seconds();
  for (uint32_t i = 0; i < ROUNDS || clock_seconds() - began < enough; ++i) {
    const double started = clock_seconds();
    v->policy->method->act(v->policy, v->parameters, &v->acting, 0, i, EVALUATE_BLOCK, w.obs_norm, &w.acting, w.action);
    *seconds = fmin(*seconds, (clock_seconds() - started) / EVALUATE_BLOCK);
  }
  evaluate_worker_free(&w);
  return NULL;
}

void evaluate_summary(int64_t count, const struct episode_result *results, double *mean, double *standard_error,
                      double *mean_length) {
  double sum = 0, squares = 0, length = 0;
  for (int64_t i = 0; i < count; ++i) sum += results[i].episode_return, length += results[i].length;
  *mean = sum / (double)count;
  *mean_length = length / (double)count;
  for (int64_t i = 0; i < count; ++i) {
    const double deviation = results[i].episode_return - *mean;
    squares += deviation * deviation;
  }
  *standard_error = count > 1 ? sqrt(squares / (double)(count - 1) / (double)count) : 0.0;
}
