// The task side alone: environments under random actions, without policy or learner.
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "actor/task.h"
#include "bench.h"
#include "common/clock.h"
#include "common/shard.h"
#include "common/trajectory.h"
#include "train.h"

enum { ACTIONS = 1021 };                 // random actions in turn, from another one in each environment
static const double PASS_SECONDS = 0.15; // at least, on all threads

struct env_bench {
  const struct config *config;
  struct task *task;
  struct shard_sizes sizes;
  int threads;
  struct task_worker *worker; // [threads]
  size_t envs, row_size;      // environments of all shards; doubles of one: env_header, the task's own state
  double *row, *start;        // [envs, row_size] now, and before the pass
  float *obs, *action;        // [envs, O]; [ACTIONS, A] uniform in [-1,1]
  int64_t step, steps;        // control steps done, and those of a pass
};

static double *env_row(const struct env_bench *b, double *rows, int shard, int e) {
  return rows + ((size_t)shard_first_env(&b->sizes, shard) + (size_t)e) * b->row_size;
}

static const float *random_action(const struct env_bench *b, int64_t step, int e) {
  return b->action + (size_t)((step + e) % ACTIONS) * (size_t)b->task->action_dim;
}

static void begin_episode(const struct env_bench *b, struct task_worker *w, int shard, int e, double *row) {
  const uint32_t env = shard_first_env(&b->sizes, shard) + (uint32_t)e;
  const struct rng_stream draws = rng_stream((uint64_t)b->config->seed, RNG_RESET, env, (uint32_t)row[ENV_EPISODE]);
  task_reset(b->task, w, draws, row + ENV_HEADER, b->obs + (size_t)env * (size_t)b->task->obs_dim);
  row[ENV_EPISODE_STEP] = 0;
}

// Counts a control step; at the end of an episode begins the next.
static void end_step(const struct env_bench *b, struct task_worker *w, int shard, int e, double *row, bool ended) {
  row[ENV_EPISODE_STEP] += 1;
  if (!ended && row[ENV_EPISODE_STEP] < (double)b->task->episode_length) return;
  row[ENV_EPISODE] += 1;
  begin_episode(b, w, shard, e, row);
}

// Episodes begin at random phases, so that each pass has its share of resets.
static void begin_shard(const struct env_bench *b, struct task_worker *w, int shard) {
  for (int e = 0; e < b->sizes.envs; ++e) {
    double *row = env_row(b, b->row, shard, e);
    row[ENV_EPISODE] = 0;
    begin_episode(b, w, shard, e, row);
    const uint32_t env = shard_first_env(&b->sizes, shard) + (uint32_t)e;
    const double phase = rng_uniform_at(rng_stream((uint64_t)b->config->seed, RNG_STAGGER, env, 0), 0);
    row[ENV_EPISODE_STEP] = floor(phase * (double)b->task->episode_length);
  }
}

static void step_shard(const struct env_bench *b, struct task_worker *w, int shard) {
  for (int64_t step = b->step; step < b->step + b->steps; ++step)
    for (int e = 0; e < b->sizes.envs; ++e) {
      double *row = env_row(b, b->row, shard, e);
      const size_t env = (size_t)shard_first_env(&b->sizes, shard) + (size_t)e;
      float reward;
      const unsigned end = task_step(b->task, w, random_action(b, step, e), row + ENV_HEADER,
                                     b->obs + env * (size_t)b->task->obs_dim, &reward);
      end_step(b, w, shard, e, row, end != 0);
    }
}

// The physics alone: the same actions and resets again from the same states, each environment through its steps.
static void bare_shard(const struct env_bench *b, struct task_worker *w, int shard) {
  const size_t act = (size_t)b->task->action_dim;
  for (int e = 0; e < b->sizes.envs; ++e) {
    double *row = env_row(b, b->start, shard, e);
    task_load(b->task, w, row + ENV_HEADER);
    for (int64_t step = b->step; step < b->step + b->steps; ++step) {
      const float *action = random_action(b, step, e);
      for (size_t i = 0; i < act; ++i) w->data->ctrl[i] = (double)action[i];
      for (int i = 0; i < b->task->substeps; ++i) mj_step(b->task->model, w->data);
      end_step(b, w, shard, e, row, false);
    }
  }
}

typedef void shard_work(const struct env_bench *b, struct task_worker *w, int shard);

// Seconds for the work on all shards.
static double run_pass(const struct env_bench *b, int threads, shard_work *work) {
  const double started = clock_seconds();
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
  for (int s = 0; s < b->sizes.shards; ++s) work(b, &b->worker[omp_get_thread_num()], s);
  return clock_seconds() - started;
}

static struct error *env_bench_init(struct env_bench *b, const struct config *config) {
  b->config = config;
  b->sizes = shard_sizes(config);
  const int threads = train_threads(config, 1);
  b->threads = threads < b->sizes.shards ? threads : b->sizes.shards;
  TRY(task_open(config->task.name, config, NULL, &b->task));
  b->envs = (size_t)b->sizes.shards * (size_t)b->sizes.envs;
  b->row_size = ENV_HEADER + b->task->state_size;
  b->worker = calloc((size_t)b->threads, sizeof *b->worker);
  b->row = calloc(2 * b->envs * b->row_size, sizeof *b->row);
  const size_t numbers = ACTIONS * (size_t)b->task->action_dim;
  b->obs = malloc((b->envs * (size_t)b->task->obs_dim + numbers) * sizeof *b->obs);
  if (b->worker == NULL || b->row == NULL || b->obs == NULL) return error_no_memory("the environment benchmark");
  b->start = b->row + b->envs * b->row_size;
  b->action = b->obs + b->envs * (size_t)b->task->obs_dim;
  rng_uniform(rng_stream((uint64_t)config->seed, RNG_BENCH, 0, 0), numbers, b->action);
  for (size_t i = 0; i < numbers; ++i) b->action[i] = 2 * b->action[i] - 1;
  for (int t = 0; t < b->threads; ++t) TRY(task_worker_init(b->task, &b->worker[t]));
  return NULL;
}

static void env_bench_free(struct env_bench *b) {
  for (int t = 0; b->worker != NULL && t < b->threads; ++t) task_worker_free(&b->worker[t]);
  task_close(b->task);
  free(b->worker);
  free(b->row);
  free(b->obs);
}

// Environment steps/s, CPU seconds of a step, and the ratio to the physics alone, on a number of threads.
struct env_rates {
  double rate[BENCH_ROUNDS], cpu[BENCH_ROUNDS], physics[BENCH_ROUNDS], ratio[BENCH_ROUNDS]; // physics: mj_step/s
};

// Of all threads; other work on the machine hardly changes it.
static double cpu_seconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void env_round(struct env_bench *b, int threads, int round, struct env_rates *r) {
  const double steps = (double)b->envs * (double)b->steps;
  memcpy(b->start, b->row, b->envs * b->row_size * sizeof *b->row);
  const double cpu = cpu_seconds(), all = run_pass(b, threads, step_shard);
  r->cpu[round] = (cpu_seconds() - cpu) / steps;
  const double bare = b->task->model != NULL ? run_pass(b, threads, bare_shard) : NAN;
  b->step += b->steps;
  r->rate[round] = steps / all;
  r->physics[round] = steps * b->task->substeps / bare;
  r->ratio[round] = bare / all;
}

// Passes long enough to be measured; also the warm-up.
static void choose_steps(struct env_bench *b) {
  run_pass(b, b->threads, begin_shard);
  b->steps = 4;
  for (double seconds = 0; seconds < PASS_SECONDS;) {
    b->steps *= 2;
    seconds = run_pass(b, b->threads, step_shard);
    b->step += b->steps;
  }
}

// A number, or null where there is none.
static void print_number(const char *name, double value, FILE *out) {
  if (isnan(value)) fprintf(out, ", \"%s\": null", name);
  else fprintf(out, ", \"%s\": %.6g", name, value);
}

static void print_env(const struct env_bench *b, struct env_rates *all, struct env_rates *one, bool json, FILE *out) {
  const double rate = bench_median(all->rate), ratio = bench_median(all->ratio), physics = bench_median(all->physics);
  const double one_rate = bench_median(one->rate), one_ratio = bench_median(one->ratio);
  if (json) {
    fprintf(out,
            "{\"task\": \"%s\", \"envs\": %zu, \"shards\": %d, \"threads\": %d, \"substeps\": %d, \"physics_dt\": %g",
            b->task->kind->name, b->envs, b->sizes.shards, b->threads, b->task->substeps, b->task->kind->physics_dt);
    print_number("env_steps_per_second", rate, out);
    print_number("cpu_seconds_per_env_step", bench_median(all->cpu), out);
    print_number("bare_physics_steps_per_second", physics, out);
    print_number("ratio", ratio, out);
    print_number("one_core_env_steps_per_second", one_rate, out);
    print_number("one_core_ratio", one_ratio, out);
    fprintf(out, ", \"mujoco\": \"%s\"}\n", mj_versionString());
    return;
  }
  fprintf(out,
          "%s, random actions, %zu environments in %d shards, %d physics steps a control step\n"
          "on one core          %12.0f environment steps/s\n"
          "on %2d threads        %12.0f environment steps/s\n",
          b->task->kind->name, b->envs, b->sizes.shards, b->task->substeps, one_rate, b->threads, rate);
  if (isnan(ratio)) fprintf(out, "achieved / limit                - the task has no physics\n");
  else
    fprintf(out,
            "bare physics         %12.0f mj_step/s on the same threads\n"
            "achieved / limit     %12.2f  (one core: %.2f; limit: mj_step and resets alone)\n",
            physics, ratio, one_ratio);
}

struct error *bench_env(const struct config *config, bool json, FILE *out) {
  struct env_bench b = {0};
  struct env_rates all, one;
  struct error *e = env_bench_init(&b, config);
  if (e == NULL) {
    choose_steps(&b);
    for (int i = 0; i < BENCH_ROUNDS; ++i) {
      env_round(&b, b.threads, i, &all);
      env_round(&b, 1, i, &one);
    }
    print_env(&b, &all, &one, json, out);
  }
  env_bench_free(&b);
  return e;
}
