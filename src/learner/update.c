#include "learner/update.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "learner/adam.h"

enum { GRADIENT_GRAIN = 65536 }; // bytes that one thread adds at a time

struct error *learned_init(struct learned *l, const struct objective *o) {
  *l = (struct learned){.count = o->parameter_count};
  l->parameters = calloc(3 * l->count, sizeof *l->parameters);
  struct error *e = l->parameters ? NULL : error_no_memory("parameters");
  if (e == NULL) e = normalizer_init(&l->normalizer, o->config->rollout.normalizer, o->policy.obs_dim);
  if (e != NULL) {
    learned_free(l);
    return e;
  }
  l->adam_m = l->parameters + l->count;
  l->adam_v = l->adam_m + l->count;
  const uint64_t seed = (uint64_t)o->config->seed;
  policy_initialise(&o->policy, seed, l->parameters);
  mlp_initialise(&o->value, seed, MLP_MAX_LAYERS, l->parameters);
  return NULL;
}

void learned_free(struct learned *l) {
  free(l->parameters);
  normalizer_free(&l->normalizer);
  *l = (struct learned){0};
}

// One thread's slice of a minibatch, gathered from a shard.
struct gather {
  float *memory;
  float *obs, *last_obs, *final_obs, *action, *eps, *t, *old_log_prob, *reward, *old_value;
  int32_t *final_at;
  uint8_t *flags;
  struct objective_workspace *objective;
};

struct learner {
  const struct objective *objective;
  struct shard_sizes sizes;
  struct trajectory_layout layout;
  struct comm *comm;
  const struct trajectory *trajectory; // [shards]: of the running update
  int threads, own;
  int *shard;            // [own]: the shards this rank learns from
  struct gather *gather; // [threads]
  struct tree *tree;
  struct interrupt interrupt;
  double *total;          // [1 + 2·obs_dim] result of a reduction of moments
  float *total_gradient;  // [parameters + 1]; the last: above 0 when a learner breaks off
  float **gradient;       // [shards] of [parameters + 1]; null for shards of others
  double **moments;       // [shards] of [2, 1 + 2·obs_dim]: moments of observations or advantages, and scratch
  double **sums;          // [shards] of [OBJECTIVE_SUMS]
  float **advantage;      // [shards] of a slice's actions
  uint32_t **permutation; // [shards] of [unrolls]
  float **old_value;      // [shards] of [envs, steps] where values are clipped
  void *memory;
};

static bool clips_values(const struct learner *l) { return l->objective->config->objective.value_clip > 0; }

static size_t slice_actions(const struct learner *l) {
  return (size_t)l->sizes.slice_unrolls * (size_t)l->sizes.unroll_length;
}

static struct error *gather_init(struct gather *g, const struct learner *l) {
  const size_t n = slice_actions(l), unrolls = (size_t)l->sizes.slice_unrolls;
  const struct policy *p = &l->objective->policy;
  const size_t obs = (size_t)p->obs_dim, act = (size_t)p->action_columns, ratios = (size_t)p->ratios;
  const size_t noises = (size_t)p->noises * (size_t)p->action_dim, times = (size_t)p->times;
  const size_t finals = l->layout.finals > 0 ? n : 0;
  const size_t floats = n * (obs + act + noises + times + ratios + 2) + (unrolls + finals) * obs;
  g->memory = malloc(floats * sizeof(float) + (finals + 1) * sizeof(int32_t) + n);
  if (g->memory == NULL) return error_no_memory("a minibatch");
  g->obs = g->memory;
  g->last_obs = g->obs + n * obs;
  g->final_obs = g->last_obs + unrolls * obs;
  g->action = g->final_obs + finals * obs;
  g->eps = g->action + n * act;
  g->t = g->eps + n * noises;
  g->old_log_prob = g->t + n * times;
  g->reward = g->old_log_prob + n * ratios;
  g->old_value = g->reward + n;
  g->final_at = (int32_t *)(void *)(g->old_value + n);
  g->flags = (uint8_t *)(g->final_at + finals + 1);
  return objective_workspace_init(&g->objective, l->objective);
}

// One allocation for what each own shard keeps; each piece starts on a cache line.
static struct error *shard_memory_init(struct learner *l) {
  const size_t size[] = {(l->objective->parameter_count + 1) * sizeof(float),
                         2 * moments_size(l->layout.obs_dim) * sizeof(double),
                         OBJECTIVE_SUMS * sizeof(double),
                         slice_actions(l) * sizeof(float),
                         (size_t)l->sizes.unrolls * sizeof(uint32_t),
                         clips_values(l) ? (size_t)l->sizes.envs * (size_t)l->sizes.steps * sizeof(float) : 0};
  enum { PARTS = sizeof size / sizeof *size };
  size_t padded[PARTS], each = 0;
  for (int i = 0; i < PARTS; ++i) each += padded[i] = (size[i] + 63) / 64 * 64;
  const size_t shards = (size_t)l->sizes.shards;
  l->memory = aligned_alloc(64, each * (size_t)l->own + 64);
  void **pointers = calloc(PARTS * shards, sizeof *pointers);
  l->gradient = (float **)pointers;
  if (l->memory == NULL || pointers == NULL) return error_no_memory("gradients");
  l->moments = (double **)(pointers + shards);
  l->sums = (double **)(pointers + 2 * shards);
  l->advantage = (float **)(pointers + 3 * shards);
  l->permutation = (uint32_t **)(pointers + 4 * shards);
  l->old_value = (float **)(pointers + 5 * shards);
  unsigned char *next = l->memory;
  for (int i = 0; i < l->own; ++i)
    for (size_t part = 0; part < PARTS; ++part) {
      pointers[part * shards + (size_t)l->shard[i]] = next;
      next += padded[part];
    }
  return NULL;
}

static struct error *find_own_shards(struct learner *l, const struct placement *placement) {
  l->shard = calloc((size_t)l->sizes.shards, sizeof *l->shard);
  if (l->shard == NULL) return error_no_memory("the learner");
  for (int s = 0; s < l->sizes.shards; ++s)
    if (placement->learner_of[s] == comm_rank(l->comm)) l->shard[l->own++] = s;
  return NULL;
}

struct error *learner_init(struct learner **out, const struct objective *o, const struct shard_sizes *sizes,
                           const struct trajectory_layout *layout, const struct placement *placement, struct comm *comm,
                           int threads) {
  struct learner *l = *out = calloc(1, sizeof *l);
  if (l == NULL) return error_no_memory("the learner");
  *l = (struct learner){.objective = o, .sizes = *sizes, .layout = *layout, .comm = comm, .threads = threads};
  const size_t moments = moments_size(layout->obs_dim) * sizeof(double);
  const size_t gradient = (o->parameter_count + 1) * sizeof(float);
  struct error *e = tree_init(&l->tree, comm, placement, gradient > moments ? gradient : moments);
  if (e == NULL) e = find_own_shards(l, placement);
  if (e == NULL) e = shard_memory_init(l);
  l->gather = calloc((size_t)threads, sizeof *l->gather);
  l->total = calloc(moments_size(layout->obs_dim) + OBJECTIVE_SUMS, sizeof *l->total);
  l->total_gradient = malloc(gradient);
  if (e == NULL && !(l->gather && l->total && l->total_gradient)) e = error_no_memory("the learner");
  for (int t = 0; e == NULL && t < threads; ++t) e = gather_init(&l->gather[t], l);
  if (e != NULL) {
    learner_free(l);
    *out = NULL;
  }
  return e;
}

void learner_free(struct learner *l) {
  if (l == NULL) return;
  for (int t = 0; l->gather != NULL && t < l->threads; ++t) {
    free(l->gather[t].memory);
    objective_workspace_free(l->gather[t].objective);
  }
  tree_free(l->tree);
  free(l->gather);
  free(l->shard);
  free(l->total);
  free(l->total_gradient);
  free((void *)l->gradient);
  free(l->memory);
  free(l);
}

void learner_interrupt(struct learner *l, struct interrupt interrupt) { l->interrupt = interrupt; }

// Where an unroll lies in its shard's trajectory.
struct unroll_place {
  size_t env, row, obs_row; // environment; first row of [envs, steps]; first row of [envs, steps+1]
};

static struct unroll_place place_of(const struct learner *l, uint32_t unroll) {
  const size_t steps = (size_t)l->sizes.steps, per_env = steps / (size_t)l->sizes.unroll_length;
  const size_t env = unroll / per_env, first = unroll % per_env * (size_t)l->sizes.unroll_length;
  return (struct unroll_place){env, env * steps + first, env * (steps + 1) + first};
}

// Observations, rewards and flags of slice `k`.
static struct minibatch gather_slice(const struct learner *l, struct gather *g, int shard, int k) {
  const struct trajectory *t = &l->trajectory[shard];
  const size_t length = (size_t)l->sizes.unroll_length, dim = (size_t)l->layout.obs_dim;
  const uint32_t *unroll = l->permutation[shard] + (size_t)k * (size_t)l->sizes.slice_unrolls;
  for (size_t i = 0; i < (size_t)l->sizes.slice_unrolls; ++i) {
    const struct unroll_place from = place_of(l, unroll[i]);
    memcpy(g->obs + i * length * dim, t->obs + from.obs_row * dim, length * dim * sizeof(float));
    memcpy(g->last_obs + i * dim, t->obs + (from.obs_row + length) * dim, dim * sizeof(float));
    memcpy(g->reward + i * length, t->reward + from.row, length * sizeof(float));
    memcpy(g->flags + i * length, t->flags + from.row, length);
    if (clips_values(l)) memcpy(g->old_value + i * length, l->old_value[shard] + from.row, length * sizeof(float));
  }
  return (struct minibatch){.unrolls = l->sizes.slice_unrolls,
                            .steps = l->sizes.unroll_length,
                            .obs = g->obs,
                            .last_obs = g->last_obs,
                            .action = g->action,
                            .eps = g->eps,
                            .t = g->t,
                            .old_log_prob = g->old_log_prob,
                            .old_value = clips_values(l) ? g->old_value : NULL,
                            .reward = g->reward,
                            .flags = g->flags};
}

// Last observations of the episodes that were truncated inside the slice, in the order of its rows.
static void gather_finals(const struct learner *l, struct gather *g, int shard, int k, struct minibatch *b) {
  const struct trajectory *t = &l->trajectory[shard];
  const size_t length = (size_t)l->sizes.unroll_length, dim = (size_t)l->layout.obs_dim;
  const uint32_t *unroll = l->permutation[shard] + (size_t)k * (size_t)l->sizes.slice_unrolls;
  for (size_t i = 0; i < (size_t)b->unrolls; ++i) {
    const struct unroll_place from = place_of(l, unroll[i]);
    size_t nth = 0; // truncations of this environment before the unroll
    for (size_t row = from.env * (size_t)l->sizes.steps; row < from.row; ++row) nth += t->flags[row] / STEP_TRUNCATED;
    for (size_t s = 0; s < length; ++s) {
      if (!(t->flags[from.row + s] & STEP_TRUNCATED)) continue;
      memcpy(g->final_obs + (size_t)b->finals * dim, t->final_obs + (from.env * (size_t)l->layout.finals + nth++) * dim,
             dim * sizeof(float));
      g->final_at[b->finals++] = (int32_t)(i * length + s);
    }
  }
  b->final_obs = g->final_obs;
  b->final_at = g->final_at;
}

// Actions and old log-probabilities as far as they were recorded, and what is drawn again.
static void gather_actions(const struct learner *l, struct gather *g, int shard, int k, int64_t iteration) {
  const struct trajectory *t = &l->trajectory[shard];
  const struct policy *p = &l->objective->policy;
  const size_t length = (size_t)l->sizes.unroll_length, act = (size_t)p->action_columns, ratios = (size_t)p->ratios;
  const size_t noises = (size_t)p->noises * (size_t)p->action_dim, times = (size_t)p->times;
  const size_t columns = (size_t)p->old_columns; // ratios or none
  const uint32_t *unroll = l->permutation[shard] + (size_t)k * (size_t)l->sizes.slice_unrolls;
  for (size_t i = 0; i < (size_t)l->sizes.slice_unrolls; ++i) {
    const struct unroll_place from = place_of(l, unroll[i]);
    const uint32_t env = shard_first_env(&l->sizes, shard) + (uint32_t)from.env;
    const uint32_t step =
        (uint32_t)((int64_t)(from.row - from.env * (size_t)l->sizes.steps) + iteration * l->sizes.steps);
    float *const old = g->old_log_prob + i * length * ratios;
    memcpy(g->action + i * length * act, t->action + from.row * act, length * act * sizeof(float));
    memcpy(old, t->old_log_prob + from.row * columns, length * columns * sizeof(float));
    p->method->draw(
        p, env, step, l->sizes.unroll_length,
        (struct policy_draws){.eps = g->eps + i * length * noises, .t = g->t + i * length * times, .old = old});
  }
}

static void combine_moments(size_t bytes, void *into, const void *from) {
  moments_combine((int)(bytes / sizeof(double) - 1) / 2, into, from);
}

// Moments of the new observations over all shards into the normaliser; then the observations are normalised in place,
// once for all epochs.
static struct error *normalise(struct learner *l, struct learned *learned) {
  const size_t dim = (size_t)l->layout.obs_dim, bytes = moments_size(l->layout.obs_dim) * sizeof(double);
  const size_t steps = (size_t)l->layout.steps, envs = (size_t)l->layout.envs;
#pragma omp parallel for schedule(dynamic, 1) num_threads(l->threads)
  for (int i = 0; i < l->own; ++i) {
    const struct trajectory *t = &l->trajectory[l->shard[i]];
    double *moments = l->moments[l->shard[i]], *of_env = moments + bytes / sizeof *moments;
    memset(moments, 0, bytes);
    for (size_t e = 0; e < envs; ++e) { // the steps' observations; an environment's last row is the next iteration's
      moments_of_rows((int)dim, steps, t->obs + e * (steps + 1) * dim, of_env);
      moments_combine((int)dim, moments, of_env);
    }
  }
  TRY(tree_reduce(l->tree, (void *const *)l->moments, bytes, bytes, combine_moments, l->total));
  normalizer_update(&learned->normalizer, l->total);
#pragma omp parallel for schedule(dynamic, 1) num_threads(l->threads)
  for (int i = 0; i < l->own; ++i) {
    const struct trajectory *t = &l->trajectory[l->shard[i]];
    normalizer_apply(&learned->normalizer, envs * (steps + 1), t->obs, t->obs);
    normalizer_apply(&learned->normalizer, envs * (size_t)l->layout.finals, t->final_obs, t->final_obs);
  }
  return NULL;
}

// Values before the update, of all own shards.
static void keep_values(struct learner *l, const float *parameters) {
  const size_t dim = (size_t)l->layout.obs_dim, steps = (size_t)l->layout.steps;
#pragma omp parallel for schedule(dynamic, 1) num_threads(l->threads)
  for (int i = 0; i < l->own; ++i)
    for (size_t e = 0; e < (size_t)l->layout.envs; ++e)
      objective_values(l->objective, parameters, steps, l->trajectory[l->shard[i]].obs + e * (steps + 1) * dim,
                       l->gather[omp_get_thread_num()].objective, l->old_value[l->shard[i]] + e * steps);
}

// First half of a minibatch: values, advantages and the value network's gradient. Leaves the moments of the slice's
// advantages in l->moments.
static void value_slice(struct learner *l, struct gather *g, int shard, int k, const float *parameters) {
  struct minibatch b = gather_slice(l, g, shard, k);
  if (l->layout.finals > 0) gather_finals(l, g, shard, k, &b);
  objective_value(l->objective, parameters, &b, l->sizes.minibatch_actions, g->objective, false, l->gradient[shard],
                  l->sums[shard], l->advantage[shard]);
  moments_of_rows(1, slice_actions(l), l->advantage[shard], l->moments[shard]);
}

// Second half: normalised advantages, the surrogate and the policy's gradient.
static void policy_slice(struct learner *l, struct gather *g, int shard, int k, int64_t iteration,
                         const float *parameters) {
  const struct minibatch b = gather_slice(l, g, shard, k);
  gather_actions(l, g, shard, k, iteration);
  float *advantage = l->advantage[shard];
  if (l->objective->config->objective.normalize_advantage) {
    const float mean = (float)l->total[1], scale = (float)(1.0 / (sqrt(l->total[2] / l->total[0]) + 1e-8));
    for (size_t i = 0; i < slice_actions(l); ++i) advantage[i] = (advantage[i] - mean) * scale;
  }
  memset(l->gradient[shard], 0, policy_net(&l->objective->policy)->end * sizeof(float));
  objective_policy(l->objective, parameters, &b, l->sizes.minibatch_actions, advantage, g->objective,
                   l->gradient[shard], l->sums[shard]);
}

// Adds the time since *mark to *phase and moves the mark.
static void lap(double *mark, double *phase) {
  const double now = clock_seconds();
  *phase += now - *mark;
  *mark = now;
}

static struct error *learn_minibatch(struct learner *l, int64_t iteration, int k, struct learned *learned,
                                     struct update_report *report) {
  double mark = clock_seconds();
  const size_t moments = moments_size(1) * sizeof(double);
#pragma omp parallel for schedule(dynamic, 1) num_threads(l->threads)
  for (int i = 0; i < l->own; ++i)
    value_slice(l, &l->gather[omp_get_thread_num()], l->shard[i], k, learned->parameters);
  lap(&mark, &report->value_seconds);
  TRY(tree_reduce(l->tree, (void *const *)l->moments, moments, moments, combine_moments, l->total));
  lap(&mark, &report->reduce_seconds);
#pragma omp parallel for schedule(dynamic, 1) num_threads(l->threads)
  for (int i = 0; i < l->own; ++i)
    policy_slice(l, &l->gather[omp_get_thread_num()], l->shard[i], k, iteration, learned->parameters);
  lap(&mark, &report->policy_seconds);
  const float break_off = interrupted(&l->interrupt) ? 1 : 0; // travels with the gradient, so all learners agree
  for (int i = 0; i < l->own; ++i) l->gradient[l->shard[i]][learned->count] = break_off;
  TRY(tree_reduce(l->tree, (void *const *)l->gradient, (learned->count + 1) * sizeof(float), GRADIENT_GRAIN,
                  combine_floats, l->total_gradient));
  lap(&mark, &report->reduce_seconds);
  report->broken_off = l->total_gradient[learned->count] > 0;
  if (report->broken_off) return NULL;
  const struct config *c = l->objective->config;
  const double left = 1.0 - (double)iteration / (double)l->sizes.iterations;
  const double rate = c->optimizer.learning_rate * (c->optimizer.schedule == SCHEDULE_LINEAR ? fmax(left, 0) : 1.0);
  const struct adam adam = {.learning_rate = (float)rate,
                            .beta1 = (float)c->optimizer.beta1,
                            .beta2 = (float)c->optimizer.beta2,
                            .epsilon = (float)c->optimizer.epsilon,
                            .max_grad_norm = (float)c->optimizer.max_grad_norm};
  report->grad_norm += adam_step(&adam, ++learned->adam_step, learned->count, l->total_gradient, learned->adam_m,
                                 learned->adam_v, learned->parameters);
  lap(&mark, &report->adam_seconds);
  return NULL;
}

// From sums over all minibatches to averages.
static struct error *average(struct learner *l, struct update_report *report) {
  double *const sum = l->total + moments_size(l->layout.obs_dim);
  TRY(tree_reduce(l->tree, (void *const *)l->sums, OBJECTIVE_SUMS * sizeof(double), OBJECTIVE_SUMS * sizeof(double),
                  combine_doubles, sum));
  const struct config *c = l->objective->config;
  const double minibatches = (double)(c->optimizer.epochs * c->optimizer.minibatches);
  const double actions = minibatches * (double)l->sizes.minibatch_actions;
  const double ratios = actions * l->objective->policy.ratios;
  report->policy_loss = sum[SUM_POLICY_LOSS] / ratios;
  report->value_loss = c->objective.value_coef * sum[SUM_VALUE_LOSS] / actions;
  report->ratio_mean = sum[SUM_RATIO] / ratios;
  report->ratio_std = sqrt(fmax(0, sum[SUM_RATIO_SQUARED] / ratios - report->ratio_mean * report->ratio_mean));
  report->clipped_fraction = sum[SUM_CLIPPED] / ratios;
  report->cfm_loss =
      c->objective.kind == OBJECTIVE_FPO ? -sum[SUM_LOG_PROB] / (actions * l->objective->policy.terms) : NAN;
  report->entropy = c->objective.entropy_cost > 0 ? sum[SUM_ENTROPY] / actions : NAN;
  report->value_mean = sum[SUM_VALUE] / actions;
  report->grad_norm /= minibatches;
  return NULL;
}

struct error *learner_update(struct learner *l, int64_t iteration, const struct trajectory *trajectory,
                             struct learned *learned, struct update_report *report) {
  const struct config *c = l->objective->config;
  double mark = clock_seconds();
  *report = (struct update_report){0};
  l->trajectory = trajectory;
  omp_set_num_threads(l->threads); // for the loops inside the tree and Adam
  TRY(normalise(l, learned));
  if (clips_values(l)) keep_values(l, learned->parameters);
  lap(&mark, &report->normalise_seconds);
  for (int i = 0; i < l->own; ++i) memset(l->sums[l->shard[i]], 0, OBJECTIVE_SUMS * sizeof(double));
  for (int64_t epoch = 0; epoch < c->optimizer.epochs; ++epoch) {
    const uint32_t shuffle = (uint32_t)(iteration * c->optimizer.epochs + epoch);
    for (int i = 0; i < l->own; ++i)
      rng_permutation(rng_stream((uint64_t)c->seed, RNG_SHUFFLE, (uint32_t)l->shard[i], shuffle),
                      (uint32_t)l->sizes.unrolls, l->permutation[l->shard[i]]);
    for (int k = 0; k < c->optimizer.minibatches; ++k) {
      TRY(learn_minibatch(l, iteration, k, learned, report));
      if (report->broken_off) return NULL;
    }
  }
  return average(l, report);
}

struct learner_flops learner_flops(const struct objective *o, const struct shard_sizes *sizes) {
  const struct config *c = o->config;
  const double steps = sizes->unroll_length; // an unroll's last observation has a value too
  const double minibatches = (double)(c->optimizer.epochs * c->optimizer.minibatches);
  const double actions = (double)sizes->minibatch_actions * minibatches;
  const double value = mlp_forward_flops(&o->value) * (steps + 1) / steps + mlp_backward_flops(&o->value);
  const double policy = policy_forward_flops(&o->policy) + policy_backward_flops(&o->policy);
  return (struct learner_flops){.value = actions * value, .policy = actions * policy};
}
