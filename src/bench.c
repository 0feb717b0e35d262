#include "bench.h"

#include <cblas.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "actor/rollout.h"
#include "common/checkpoint.h"
#include "common/clock.h"
#include "learner/update.h"

static int ascending(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

double bench_median(double values[BENCH_ROUNDS]) {
  qsort(values, BENCH_ROUNDS, sizeof *values, ascending);
  return values[BENCH_ROUNDS / 2];
}

struct error *bench_sizes(const struct config *config, int *obs_dim, int *action_dim) {
  struct task *task = NULL;
  if (*obs_dim != 0 && *action_dim != 0) return NULL;
  TRY(task_open(config->task.name, config, NULL, &task));
  *obs_dim = task->obs_dim, *action_dim = task->action_dim;
  task_close(task);
  return NULL;
}

struct error *bench_sgemm(double *rate) {
  enum { N = 768 };
  const size_t square = (size_t)N * N;
  *rate = 0;
  float *m = aligned_alloc(64, 3 * square * sizeof *m);
  if (m == NULL) return error_no_memory("the sgemm benchmark");
  for (size_t i = 0; i < 3 * square; ++i) m[i] = (float)(i % 97) * 0.01f;
  double best = INFINITY;
  for (int i = 0; i < 6; ++i) {
    const double started = clock_seconds();
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, N, N, N, 1.0f, m, N, m + square, N, 0.0f, m + 2 * square, N);
    best = fmin(best, clock_seconds() - started);
  }
  free(m);
  *rate = 2.0 * N * N * N / best;
  return NULL;
}

// --- rollout ---

struct rollout_bench {
  struct config config;
  struct task *task;
  struct objective objective;
  struct learned learned;
  struct rollout rollout;
  struct rollout_worker worker;
  struct trajectory trajectory;
  double *start; // the environments' states before the shard is collected
};

static struct error *rollout_bench_init(struct rollout_bench *b, const struct config *config) {
  b->config = *config;
  openblas_set_num_threads(1);
  TRY(task_open(config->task.name, config, NULL, &b->task));
  objective_layout(&b->objective, &b->config, b->task->obs_dim, b->task->action_dim);
  TRY(learned_init(&b->learned, &b->objective));
  struct rollout *r = &b->rollout;
  *r = (struct rollout){.config = &b->config,
                        .task = b->task,
                        .policy = &b->objective.policy,
                        .parameters = b->learned.parameters,
                        .normalizer = &b->learned.normalizer,
                        .sizes = shard_sizes(&b->config)};
  trajectory_layout_init(&r->layout, &b->objective.policy, &r->sizes, b->task->least_length, b->task->state_size);
  TRY(trajectory_init(&b->trajectory, &r->layout));
  b->start = malloc(r->layout.bytes); // room for the trajectory's states
  if (b->start == NULL) return error_no_memory("the rollout benchmark");
  TRY(rollout_worker_init(&b->worker, r));
  rollout_begin(r, &b->worker, 0, &b->trajectory);
  return NULL;
}

static void rollout_bench_free(struct rollout_bench *b) {
  rollout_worker_free(&b->worker);
  trajectory_free(&b->trajectory);
  learned_free(&b->learned);
  task_close(b->task);
  free(b->start);
}

// The physics alone, of the very states that the collection went through: each environment from where it began, with
// the recorded actions, and with the resets where its episodes ended (some tasks let the physics settle in them).
static void bare_physics(struct rollout_bench *b) {
  const struct rollout *r = &b->rollout;
  const struct task *task = b->task;
  const size_t act = (size_t)task->action_dim, steps = (size_t)r->sizes.steps;
  const size_t columns = (size_t)r->layout.action_columns;
  mjData *d = b->worker.task.data;
  for (size_t e = 0; e < (size_t)r->sizes.envs; ++e) {
    double *env = b->start + e * r->layout.state_size, *state = env + ENV_HEADER + task->obs_dim;
    const bool first = b->config.task.reset == RESET_FIRST_STATE;
    uint32_t episode = (uint32_t)env[ENV_EPISODE];
    task_load(task, &b->worker.task, state);
    for (size_t row = e * steps; row < (e + 1) * steps; ++row) {
      const float *action = b->trajectory.action + (row + 1) * columns - act;
      for (size_t i = 0; i < act; ++i) d->ctrl[i] = (double)action[i];
      for (int i = 0; i < task->substeps; ++i) mj_step(task->model, d);
      if (b->trajectory.flags[row] == 0) continue;
      episode = first ? 0 : episode + 1;
      task_reset(task, &b->worker.task, rng_stream((uint64_t)b->config.seed, RNG_RESET, (uint32_t)e, episode), state,
                 b->worker.obs);
    }
  }
}

// Inference alone: actions of the shard's batch, as often as a collection makes them.
static void bare_acting(struct rollout_bench *b) {
  const struct policy *p = &b->objective.policy;
  const struct policy_acting how = policy_training(&b->config);
  for (int s = 0; s < b->rollout.sizes.steps; ++s)
    p->method->act(p, b->learned.parameters, &how, 0, (uint32_t)s, b->rollout.sizes.envs, b->worker.obs_norm,
                   &b->worker.acting, b->worker.record);
}

struct rollout_times {
  double collect[BENCH_ROUNDS], physics[BENCH_ROUNDS], sampler[BENCH_ROUNDS],
      rate[BENCH_ROUNDS]; // seconds; sgemm operations/s
};

static struct error *rollout_rounds(struct rollout_bench *b, struct rollout_times *t) {
  const size_t bytes = b->rollout.layout.bytes - b->rollout.layout.state;
  rollout_collect(&b->rollout, &b->worker, 0, 0, &b->trajectory); // warm-up
  for (int i = 0; i < BENCH_ROUNDS; ++i) {
    double mark = clock_seconds();
    memcpy(b->start, b->trajectory.state, bytes);
    rollout_collect(&b->rollout, &b->worker, 0, i + 1, &b->trajectory);
    t->collect[i] = clock_seconds() - mark;
    const size_t recorded = (size_t)b->rollout.sizes.envs * (size_t)b->rollout.sizes.steps;
    policy_squash(recorded * (size_t)b->rollout.layout.action_columns, b->trajectory.action, b->trajectory.action);
    mark = clock_seconds();
    if (b->task->model != NULL) bare_physics(b);
    t->physics[i] = clock_seconds() - mark;
    mark = clock_seconds();
    bare_acting(b);
    t->sampler[i] = clock_seconds() - mark;
    TRY(bench_sgemm(&t->rate[i]));
  }
  return NULL;
}

static void print_rollout(const struct rollout_bench *b, struct rollout_times *t, bool json, FILE *out) {
  const double steps = (double)b->rollout.sizes.envs * b->rollout.sizes.steps;
  const struct policy *p = &b->objective.policy;
  const struct policy_acting how = policy_training(&b->config);
  const double flops = policy_act_flops(p, &how) + (p->old_columns > 0 ? policy_forward_flops(p) : 0);
  double ratio[BENCH_ROUNDS];
  for (int i = 0; i < BENCH_ROUNDS; ++i) ratio[i] = (t->physics[i] + steps * flops / t->rate[i]) / t->collect[i];
  const double collect = bench_median(t->collect) / steps, physics = bench_median(t->physics) / steps;
  const double sampler = bench_median(t->sampler) / steps, rate = bench_median(t->rate);
  fprintf(out,
          json ? "{\"task\": \"%s\", \"physics_steps_per_second\": %.6g, \"env_steps_per_second\": %.6g, "
                 "\"ratio\": %.4f, \"sgemm_flops\": %.6g, \"inference_flops_per_step\": %.6g, "
                 "\"physics_share\": %.4f, \"sampler_share\": %.4f}\n"
               : "%s, one core\n"
                 "bare physics         %12.0f mj_step/s (resets included)\n"
                 "with policy          %12.0f environment steps/s\n"
                 "achieved / limit     %12.2f  (limit: bare physics + inference operations at the sgemm peak)\n"
                 "sgemm peak           %12.3g operations/s\n"
                 "inference            %12.0f operations per environment step (sampler and old log-probabilities)\n"
                 "share of the time    %11.1f%% bare physics, %.1f%% sampler, ",
          b->task->kind->name, b->task->substeps / physics, 1 / collect, bench_median(ratio), rate, flops,
          (json ? 1 : 100) * physics / collect, (json ? 1 : 100) * sampler / collect);
  if (!json)
    fprintf(out, "%.1f%% old log-probabilities, state, observation, reward\n",
            100 * (collect - physics - sampler) / collect);
}

struct error *bench_rollout(const struct config *config, bool json, FILE *out) {
  struct rollout_bench b = {0};
  struct rollout_times t;
  struct error *e = rollout_bench_init(&b, config);
  if (e == NULL) e = rollout_rounds(&b, &t);
  if (e == NULL) print_rollout(&b, &t, json, out);
  rollout_bench_free(&b);
  return e;
}

// --- update ---

struct update_bench {
  struct config config;
  struct objective objective;
  struct shard_sizes sizes;
  struct trajectory_layout layout;
  struct placement placement;
  struct learned learned;
  struct trajectory *trajectory;
  struct learner *learner;
};

static int64_t greatest_common_divisor(int64_t a, int64_t b) { return b == 0 ? a : greatest_common_divisor(b, a % b); }

// Fewer minibatches of the same shape: a shard's slice, and so every product, stays what it is in training.
static void shorten(struct config *c) {
  const int64_t common = greatest_common_divisor(c->rollout.unrolls, c->optimizer.minibatches);
  c->rollout.unrolls /= common;
  c->optimizer.minibatches /= common;
  c->optimizer.epochs = 1;
}

// An action's part of a standard normal's log density, about. Ratios of e^-40 would make gradients of denormal numbers,
// which are slow.
static const float PLAUSIBLE_LOG_DENSITY = -1.4f;

// Plausible numbers: what they are does not change the work.
static void synthetic_shard(const struct update_bench *b, int s) {
  const struct trajectory *t = &b->trajectory[s];
  const struct trajectory_layout *l = &b->layout;
  const size_t rows = (size_t)l->envs * (size_t)l->steps;
  const uint32_t owner = (uint32_t)s;
  rng_normal(rng_stream(1, RNG_BENCH, owner, 0), (rows + (size_t)l->envs) * (size_t)l->obs_dim, t->obs);
  rng_normal(rng_stream(1, RNG_BENCH, owner, 1), rows * (size_t)l->action_columns, t->action);
  rng_uniform(rng_stream(1, RNG_BENCH, owner, 2), rows, t->reward);
  rng_uniform(rng_stream(1, RNG_BENCH, owner, 3), rows * (size_t)l->old_columns, t->old_log_prob);
  const float density =
      b->config.objective.kind == OBJECTIVE_PPO ? PLAUSIBLE_LOG_DENSITY * (float)l->action_columns : 0;
  for (size_t i = 0; i < rows * (size_t)l->old_columns; ++i) t->old_log_prob[i] += density;
  memset(t->flags, 0, rows);
}

static struct error *update_bench_init(struct update_bench *b, struct comm *comm, const struct config *config,
                                       int obs_dim, int action_dim) {
  b->config = *config;
  shorten(&b->config);
  openblas_set_num_threads(1);
  TRY(bench_sizes(config, &obs_dim, &action_dim));
  objective_layout(&b->objective, &b->config, obs_dim, action_dim);
  b->sizes = shard_sizes(&b->config);
  trajectory_layout_init(&b->layout, &b->objective.policy, &b->sizes, 1000, 0);
  TRY(placement_init(&b->placement, &b->config, 1));
  TRY(learned_init(&b->learned, &b->objective));
  b->trajectory = calloc((size_t)b->sizes.shards, sizeof *b->trajectory);
  if (b->trajectory == NULL) return error_no_memory("the update benchmark");
  for (int s = 0; s < b->sizes.shards; ++s) TRY(trajectory_init(&b->trajectory[s], &b->layout));
  return learner_init(&b->learner, &b->objective, &b->sizes, &b->layout, &b->placement, comm, 1);
}

static void update_bench_free(struct update_bench *b) {
  learner_free(b->learner);
  for (int s = 0; b->trajectory != NULL && s < b->sizes.shards; ++s) trajectory_free(&b->trajectory[s]);
  free(b->trajectory);
  learned_free(&b->learned);
  placement_free(&b->placement);
}

// `peak`: sgemm's operations per second; `u`, `seconds`: of the newest update, whose networks are held against it alone.
static void print_update(const struct update_bench *b, double ratio, double rate, double peak,
                         const struct update_report *u, double seconds, bool json, FILE *out) {
  const double share = (json ? 1 : 100) / seconds;
  const struct learner_flops flops = learner_flops(&b->objective, &b->sizes);
  fprintf(out,
          json ? "{\"obs_dim\": %d, \"action_dim\": %d, \"parameters\": %zu, \"update_flops\": %.6g, "
                 "\"sgemm_flops\": %.6g, \"ratio\": %.4f, \"value_ratio\": %.4f, \"policy_ratio\": %.4f, "
                 "\"value_share\": %.4f, \"policy_share\": %.4f, \"reduce_share\": %.4f, \"adam_share\": %.4f, "
                 "\"normalise_share\": %.4f}\n"
               : "observation %d, action %d, %zu parameters, one core\n"
                 "update               %12.3g operations/s\n"
                 "sgemm peak           %12.3g operations/s\n"
                 "achieved / limit     %12.2f\n"
                 "of it, while at work %12.2f in the value network, %.2f in the policy\n"
                 "share of the time    %11.1f%% value network, %.1f%% policy, %.1f%% reduction, %.1f%% Adam, %.1f%% "
                 "normaliser\n",
          b->objective.policy.obs_dim, b->objective.policy.action_dim, b->objective.parameter_count, rate, peak, ratio,
          flops.value / u->value_seconds / peak, flops.policy / u->policy_seconds / peak, share * u->value_seconds,
          share * u->policy_seconds, share * u->reduce_seconds, share * u->adam_seconds, share * u->normalise_seconds);
}

struct error *bench_update(struct comm *comm, const struct config *config, int obs_dim, int action_dim, bool json,
                           FILE *out) {
  struct update_bench b = {0};
  struct update_report u;
  double rate[BENCH_ROUNDS], peak[BENCH_ROUNDS], ratio[BENCH_ROUNDS], last = 0;
  struct error *e = update_bench_init(&b, comm, config, obs_dim, action_dim);
  for (int i = -1; e == NULL && i < BENCH_ROUNDS; ++i) { // the first is a warm-up
    for (int s = 0; s < b.sizes.shards; ++s) synthetic_shard(&b, s);
    const double started = clock_seconds();
    e = learner_update(b.learner, 0, b.trajectory, &b.learned, &u);
    last = clock_seconds() - started;
    if (e != NULL || i < 0) continue;
    const struct learner_flops flops = learner_flops(&b.objective, &b.sizes);
    rate[i] = (flops.value + flops.policy) / last;
    e = bench_sgemm(&peak[i]);
    ratio[i] = rate[i] / peak[i];
  }
  if (e == NULL) print_update(&b, bench_median(ratio), bench_median(rate), bench_median(peak), &u, last, json, out);
  update_bench_free(&b);
  return e;
}

// --- wire ---

enum { WIRE_FLIGHT = 64 << 20, WIRE_PINGS = 100 }; // bytes on the way at once, as far as a run's shards make them

struct wire_bench {
  struct trajectory_layout layout;
  int messages; // of a round: as many shards as WIRE_FLIGHT has room for
  unsigned char *memory;
  double rate[BENCH_ROUNDS], latency[BENCH_ROUNDS]; // bytes/s; seconds
};

static unsigned char *wire_message(const struct wire_bench *w, int m) {
  return w->memory + (size_t)m * w->layout.bytes;
}

static struct error *wire_init(struct wire_bench *w, const struct config *config) {
  struct task *task;
  TRY(task_open(config->task.name, config, NULL, &task));
  const struct shard_sizes sizes = shard_sizes(config);
  struct policy policy;
  policy_layout(&policy, config, task->obs_dim, task->action_dim, 0);
  trajectory_layout_init(&w->layout, &policy, &sizes, task->least_length, task->state_size);
  task_close(task);
  const size_t room = WIRE_FLIGHT / w->layout.bytes;
  w->messages = room == 0 ? 1 : room < (size_t)sizes.shards ? (int)room : sizes.shards;
  w->memory = malloc((size_t)w->messages * w->layout.bytes);
  if (w->memory == NULL) return error_no_memory("the wire benchmark");
  memset(w->memory, 0, (size_t)w->messages * w->layout.bytes);
  return NULL;
}

static void wire_fill(struct wire_bench *w) {
  const size_t bytes = (size_t)w->messages * w->layout.bytes;
  for (size_t i = 0; i + sizeof(uint64_t) <= bytes; i += sizeof(uint64_t)) {
    const uint64_t word = i * UINT64_C(0x9E3779B97F4A7C15);
    memcpy(w->memory + i, &word, sizeof word);
  }
}

// All messages of a round, from the last rank to rank 0, as an iteration sends its shards.
static struct error *wire_stream(struct comm *comm, struct wire_bench *w) {
  const int me = comm_rank(comm), last = comm_size(comm) - 1;
  for (int m = 0; m < w->messages; ++m) {
    if (me == last) TRY(comm_send(comm, 0, MESSAGE_TRAJECTORY, m, wire_message(w, m), w->layout.bytes));
    if (me == 0) TRY(comm_receive(comm, last, MESSAGE_TRAJECTORY, m, wire_message(w, m), w->layout.bytes));
  }
  return comm_wait(comm, MESSAGE_TRAJECTORY);
}

// The shortest of messages there and back.
static struct error *wire_ping(struct comm *comm) {
  const int me = comm_rank(comm), last = comm_size(comm) - 1;
  int64_t ball = 0;
  if (me == 0) {
    TRY(comm_send(comm, last, MESSAGE_STATE, 0, &ball, sizeof ball));
    TRY(comm_wait(comm, MESSAGE_STATE));
    TRY(comm_receive(comm, last, MESSAGE_STATE, 0, &ball, sizeof ball));
  } else if (me == last) {
    TRY(comm_receive(comm, 0, MESSAGE_STATE, 0, &ball, sizeof ball));
    TRY(comm_wait(comm, MESSAGE_STATE));
    TRY(comm_send(comm, 0, MESSAGE_STATE, 0, &ball, sizeof ball));
  }
  return comm_wait(comm, MESSAGE_STATE);
}

// Whether what arrived is what was sent.
static struct error *wire_check(struct comm *comm, const struct wire_bench *w) {
  const int last = comm_size(comm) - 1;
  const uint64_t mine = XXH3_64bits(w->memory, (size_t)w->messages * w->layout.bytes);
  uint64_t theirs = mine;
  if (comm_rank(comm) == last) TRY(comm_send(comm, 0, MESSAGE_RETURNS, 0, &mine, sizeof mine));
  if (comm_rank(comm) == 0) TRY(comm_receive(comm, last, MESSAGE_RETURNS, 0, &theirs, sizeof theirs));
  TRY(comm_wait(comm, MESSAGE_RETURNS));
  if (theirs == mine) return NULL;
  return error_new(EXIT_CODE_FAILED, "what arrived from rank %d is not what it sent", last);
}

static struct error *wire_rounds(struct comm *comm, struct wire_bench *w) {
  if (comm_rank(comm) == comm_size(comm) - 1) wire_fill(w);
  TRY(wire_stream(comm, w)); // warm-up
  for (int i = 0; i < BENCH_ROUNDS; ++i) {
    int together = 1;
    TRY(comm_max(comm, &together));
    double mark = clock_seconds();
    TRY(wire_stream(comm, w));
    w->rate[i] = (double)w->messages * (double)w->layout.bytes / (clock_seconds() - mark);
    mark = clock_seconds();
    for (int ping = 0; ping < WIRE_PINGS; ++ping) TRY(wire_ping(comm));
    w->latency[i] = (clock_seconds() - mark) / (2 * WIRE_PINGS);
  }
  return wire_check(comm, w);
}

static void print_wire(struct wire_bench *w, int last, bool json, FILE *out) {
  const struct trajectory_layout *l = &w->layout;
  const double steps = (double)l->envs * l->steps;
  const double payload = 4.0 * (l->obs_dim + l->action_columns + l->old_columns + 1) + 1; // with reward and flags
  if (json) {
    fprintf(out, "{\"message_bytes\": %zu, \"bytes_per_step\": %.3f, \"payload_bytes_per_step\": %.3f, ", l->bytes,
            (double)l->bytes / steps, payload);
    if (last == 0) fprintf(out, "\"bytes_per_second\": null, \"latency_seconds\": null}\n");
    else
      fprintf(out, "\"bytes_per_second\": %.6g, \"latency_seconds\": %.6g}\n", bench_median(w->rate),
              bench_median(w->latency));
    return;
  }
  fprintf(out,
          "message              %12zu bytes a shard and iteration (%zu for the learner, %zu tail)\n"
          "per environment step %12.2f bytes (%.0f of observation, action, reward, flags and old log-probability)\n",
          l->bytes, l->learner_bytes, l->bytes - l->learner_bytes, (double)l->bytes / steps, payload);
  if (last == 0) fprintf(out, "bandwidth                       - one rank has no wire: run under mpirun -n 2\n");
  else
    fprintf(out,
            "bandwidth            %12.3g bytes/s from rank %d to rank 0, %d message%s at once\n"
            "latency              %12.3g s, half of there and back\n",
            bench_median(w->rate), last, w->messages, w->messages == 1 ? "" : "s", bench_median(w->latency));
}

struct error *bench_wire(struct comm *comm, const struct config *config, bool json, FILE *out) {
  struct wire_bench w = {0};
  struct error *e = comm_agree(comm, wire_init(&w, config));
  if (e == NULL && comm_size(comm) > 1) e = wire_rounds(comm, &w);
  if (e == NULL && out != NULL) print_wire(&w, comm_size(comm) - 1, json, out);
  free(w.memory);
  return e;
}

// --- rates, for the plan ---

static const double round_seconds = 0.1, collect_seconds = 1.0;

static double peak_bytes(void) {
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return 1024.0 * (double)usage.ru_maxrss;
}

// Memory that one more acting thread takes. Right while this process is at its peak.
static struct error *worker_bytes(struct rollout_bench *b, double *bytes) {
  const double before = peak_bytes();
  struct rollout_worker another;
  TRY(rollout_worker_init(&another, &b->rollout));
  rollout_collect(&b->rollout, &another, 0, 0, &b->trajectory);
  *bytes = peak_bytes() - before;
  rollout_worker_free(&another);
  return NULL;
}

static struct error *collect_rounds(struct rollout_bench *b, double *seconds) {
  double round[BENCH_ROUNDS];
  int64_t iteration = 0;
  rollout_collect(&b->rollout, &b->worker, 0, iteration++, &b->trajectory); // warm-up
  for (int i = 0; i < BENCH_ROUNDS; ++i) {
    const double started = clock_seconds();
    double passed = 0;
    int count = 0;
    for (; passed < round_seconds; ++count) {
      rollout_collect(&b->rollout, &b->worker, 0, iteration++, &b->trajectory);
      passed = clock_seconds() - started;
    }
    round[i] = passed / count;
  }
  *seconds = bench_median(round);
  return NULL;
}

// Seconds of a shard over `unrolls` unrolls; with `memory`, what a process and an acting thread take as well.
static struct error *act_rates(const struct config *config, int64_t unrolls, bool memory, struct bench_rates *rates) {
  struct rollout_bench b = {0};
  struct config c = *config;
  c.rollout.unrolls = unrolls;
  struct error *e = rollout_bench_init(&b, &c);
  if (e == NULL) e = collect_rounds(&b, &rates->act);
  if (e == NULL && memory) {
    e = worker_bytes(&b, &rates->thread_bytes);
    const double known = (double)b.rollout.layout.bytes + 3.0 * sizeof(float) * (double)b.learned.count;
    rates->process_bytes = peak_bytes() - known - 2 * rates->thread_bytes;
  }
  rollout_bench_free(&b);
  return e;
}

// One shard and one minibatch: the slice, and so every product, is what it is in training.
static struct config single_slice(const struct config *config) {
  struct config c = *config;
  c.rollout.envs = shard_sizes(config).slice_unrolls;
  c.rollout.unrolls = c.rollout.shards = 1;
  c.optimizer.minibatches = c.optimizer.epochs = 1;
  c.optimizer.learning_rate = 0; // however often it is done, the numbers stay plausible
  c.cluster.learners = 1;
  return c;
}

static struct error *update_rates(struct update_bench *b, struct bench_rates *rates) {
  double learn[BENCH_ROUNDS], normalise[BENCH_ROUNDS], adam[BENCH_ROUNDS];
  for (int i = -1; i < BENCH_ROUNDS; ++i) { // the first is a warm-up
    struct update_report u;
    double sum[3] = {0};
    int count = 0;
    const double started = clock_seconds();
    for (; count == 0 || clock_seconds() - started < round_seconds; ++count) {
      synthetic_shard(b, 0);
      TRY(learner_update(b->learner, 0, b->trajectory, &b->learned, &u));
      sum[0] += u.value_seconds + u.policy_seconds, sum[1] += u.normalise_seconds, sum[2] += u.adam_seconds;
    }
    if (i >= 0) learn[i] = sum[0] / count, normalise[i] = sum[1] / count, adam[i] = sum[2] / count;
  }
  rates->learn = bench_median(learn), rates->normalise = bench_median(normalise), rates->adam = bench_median(adam);
  return NULL;
}

static struct error *learn_rates(struct comm *comm, const struct config *config, struct bench_rates *rates) {
  struct update_bench b = {0};
  const struct config c = single_slice(config);
  struct error *e = update_bench_init(&b, comm, &c, 0, 0);
  if (e == NULL) e = update_rates(&b, rates);
  rates->normalise *= (double)config->optimizer.minibatches; // a slice's observations, to a shard's
  // With a shard's gradient, and the sum.
  const double known = (double)b.layout.bytes + 5.0 * sizeof(float) * (double)b.learned.count;
  rates->thread_bytes += fmax(0, peak_bytes() - known - rates->process_bytes);
  update_bench_free(&b);
  return e;
}

static struct error *add_rate(double *rate) {
  enum { BYTES = 32 << 20 };
  double round[BENCH_ROUNDS];
  unsigned char *memory = calloc(2, BYTES);
  if (memory == NULL) return error_no_memory("the benchmark of sums");
  memset(memory, 0, 2 * (size_t)BYTES);
  for (int i = 0; i < BENCH_ROUNDS; ++i) {
    const double started = clock_seconds();
    combine_floats(BYTES, memory, memory + BYTES);
    round[i] = BYTES / (clock_seconds() - started);
  }
  free(memory);
  *rate = bench_median(round);
  return NULL;
}

// A checkpoint of a run's size, all of whose parameters are one tensor.
static struct error *write_checkpoint(const struct rollout_bench *b, const char *folder) {
  struct tensor_name all = {.name = "parameters", .rows = (int)b->learned.count};
  const int64_t envs = b->config.rollout.envs;
  char *text;
  TRY(config_print(&b->config, &text));
  struct checkpoint c = {.config_text = text,
                         .metrics_text = (char[]){""},
                         .tensor_count = 1,
                         .tensors = &all,
                         .parameter_count = b->learned.count,
                         .parameters = b->learned.parameters,
                         .adam_m = b->learned.adam_m,
                         .adam_v = b->learned.adam_v,
                         .obs_dim = b->task->obs_dim,
                         .normalizer_mean = b->learned.normalizer.mean,
                         .normalizer_m2 = b->learned.normalizer.m2,
                         .envs = envs,
                         .state_size = (int64_t)b->rollout.layout.state_size};
  c.env_state = calloc((size_t)(c.envs * c.state_size), sizeof *c.env_state);
  struct error *e = c.env_state ? checkpoint_write(folder, &c, 1, false) : error_no_memory("a checkpoint");
  free(c.env_state);
  free(text);
  return e;
}

static struct error *checkpoint_rate(const struct config *config, struct bench_rates *rates) {
  struct rollout_bench b = {0};
  const char *scratch = getenv("TMPDIR");
  char folder[4096], file[4200];
  struct stat status = {0};
  struct config c = *config;
  c.rollout.unrolls = 1;
  snprintf(folder, sizeof folder, "%s/flowrank-plan-XXXXXX", scratch ? scratch : "/tmp");
  if (mkdtemp(folder) == NULL) return error_new(EXIT_CODE_FAILED, "%s: %s", folder, strerror(errno));
  struct error *e = rollout_bench_init(&b, &c);
  const double started = clock_seconds();
  if (e == NULL) e = write_checkpoint(&b, folder);
  rates->checkpoint = clock_seconds() - started;
  rollout_bench_free(&b);
  snprintf(file, sizeof file, "%s/000000000.h5", folder);
  if (e == NULL && stat(file, &status) != 0) e = error_new(EXIT_CODE_FAILED, "%s: %s", file, strerror(errno));
  rates->checkpoint_bytes = (double)status.st_size;
  unlink(file);
  rmdir(folder);
  return e;
}

struct error *bench_rates(struct comm *comm, const struct config *config, struct bench_rates *rates) {
  *rates = (struct bench_rates){0};
  TRY(act_rates(config, 1, true, rates));
  const int64_t unrolls = (int64_t)fmax(1, fmin((double)config->rollout.unrolls, collect_seconds / rates->act));
  if (unrolls > 1) TRY(act_rates(config, unrolls, false, rates));
  rates->act *= (double)config->rollout.unrolls / (double)unrolls;
  TRY(learn_rates(comm, config, rates));
  TRY(add_rate(&rates->add));
  return checkpoint_rate(config, rates);
}
