#include "train.h"

#include <cblas.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <omp.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "actor/evaluate.h"
#include "actor/rollout.h"
#include "common/checkpoint.h"
#include "common/clock.h"
#include "common/interrupt.h"
#include "common/metrics.h"
#include "common/run_lock.h"
#include "common/text.h"
#include "learner/update.h"
#include "version.h"

enum { PATH_BYTES = 4096 };
enum { DROPPED = 1 << 20 };    // above all signals
enum { WARNING_SECONDS = 60 }; // between two warnings of one kind

// Everything that one rank holds.
struct run {
  const struct train_options *options;
  struct comm *comm;
  struct config config;
  char *config_text;
  struct task *task;
  struct objective objective;
  struct shard_sizes sizes;
  struct trajectory_layout layout;
  struct placement placement;
  int threads;
  struct learned learned;

  struct rollout rollout;
  struct rollout_worker *actor;      // [threads]; null on ranks that do not act
  struct evaluate_worker *evaluator; // [threads]; null unless config.eval.every
  struct trajectory *trajectory;     // [shards]; allocated for shards that this rank acts or learns
  struct learner *learner;           // null on ranks that do not learn

  // rank 0 only
  struct run_lock *lock;
  unsigned char **tail; // [shards]: where a shard's report and states arrive
  unsigned char *tail_memory;
  double *env_state; // [envs, state_size] at the end of the newest complete iteration
  struct metrics metrics;
  bool metrics_open;
  bool unsaved;        // the newest checkpoint that was due could not be written
  bool metrics_behind; // metrics.jsonl could not be written, and this has been said
  double last_warning; // that a checkpoint could not be written
  float *kept;         // what is learned, at the start of the running iteration: [3·parameters]
  double *kept_moments;
  int64_t kept_adam_step;
  int64_t saved;      // iteration of the newest checkpoint on disk; -1: none
  bool signalled;     // another rank has got a signal
  double signal_time; // when rank 0 knew of one; 0: it does not

  int64_t running;         // the iteration that is being done; -1: none
  double running_since;    // its start
  _Atomic int64_t dropped; // the newest iteration that rank 0 has given up
  _Atomic double next_look;
  bool told; // rank 0, of this rank's signal

  int64_t iteration; // iterations completed
  int64_t episodes;
  double wall_before, started; // seconds of earlier launches; this launch's start
  double best_return, last_iteration_seconds;
  struct episode_result *eval_results; // [config.eval.episodes], whole blocks
  bool agreed;                         // all ranks know of the error that ends the run
};

// The only global state: what signal has come.
static volatile sig_atomic_t signal_received;

static void on_signal(int number) { signal_received = number; }

static void watch_signals(void) {
  struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
  sigemptyset(&action.sa_mask);
  sigaction(SIGTERM, &action, NULL);
  sigaction(SIGUSR1, &action, NULL);
  action.sa_flags = SA_RESTART | (int)SA_RESETHAND; // the second SIGINT ends the process at once
  sigaction(SIGINT, &action, NULL);
}

int train_threads(const struct config *config, int ranks_on_node) {
  if (config->cluster.threads != THREADS_AUTO) return (int)config->cluster.threads;
  const char *asked = getenv("OMP_NUM_THREADS");
  if (asked == NULL) asked = getenv("SLURM_CPUS_PER_TASK");
  if (asked != NULL && atoi(asked) > 0) return atoi(asked);
  cpu_set_t cpus;
  if (sched_getaffinity(0, sizeof cpus, &cpus) != 0) return 1;
  const int allowed = CPU_COUNT(&cpus), online = (int)sysconf(_SC_NPROCESSORS_ONLN);
  if (allowed < online) return allowed; // bound by the launcher: the cores are this rank's alone
  return allowed / ranks_on_node > 0 ? allowed / ranks_on_node : 1;
}

// --- A signal that comes in a long iteration ---
//
// Any rank tells rank 0 of its signal, by a note. Rank 0 knows how long an iteration takes: when the running one does not
// fit into the grace, it gives it up and tells all ranks, by a note. These leave out the work that is left, but none of
// the messages, so that the iteration ends as any other; at its end all ranks agree on whether it was complete.

static const double grace_for_work = 0.75; // the rest is for the checkpoint

static void give_up(struct run *r) {
  atomic_store(&r->dropped, r->running);
  for (int to = 1; to < comm_size(r->comm); ++to) error_free(comm_note_send(r->comm, to, r->running));
}

static void look_on_rank_0(struct run *r, double now) {
  int64_t note;
  while (comm_note_receive(r->comm, &note)) r->signalled = true;
  if ((!signal_received && !r->signalled) || atomic_load(&r->dropped) == r->running) return;
  if (r->signal_time == 0) r->signal_time = now;
  const double left = fmax(0, r->running_since + r->last_iteration_seconds - now); // 0 in the first: it may yet end
  if (now + left > r->signal_time + grace_for_work * r->options->grace) give_up(r);
}

static void look(struct run *r, double now) {
  int64_t note;
  if (comm_rank(r->comm) == 0) {
    look_on_rank_0(r, now);
    return;
  }
  if (signal_received && !r->told) error_free(comm_note_send(r->comm, 0, signal_received));
  r->told = signal_received != 0;
  while (comm_note_receive(r->comm, &note)) atomic_store(&r->dropped, note);
}

// Whether the running iteration is given up. From any thread; an `interrupt`.
static bool is_dropped(void *run) {
  struct run *r = run;
  const double now = clock_seconds(), pause = 0.002;
  if (r->running < 0) return false;
  if (atomic_load(&r->dropped) != r->running && now >= atomic_load(&r->next_look)) {
    atomic_store(&r->next_look, now + pause);
#pragma omp critical(send_shard)
    look(r, now);
  }
  return atomic_load(&r->dropped) == r->running;
}

static void keep_learned(struct run *r) {
  const struct learned *l = &r->learned;
  memcpy(r->kept, l->parameters, 3 * l->count * sizeof(float)); // with Adam's moments
  memcpy(r->kept_moments, l->normalizer.moments, moments_size(r->task->obs_dim) * sizeof(double));
  r->kept_adam_step = l->adam_step;
}

static void return_to_kept(struct run *r) {
  struct learned *l = &r->learned;
  memcpy(l->parameters, r->kept, 3 * l->count * sizeof(float));
  memcpy(l->normalizer.moments, r->kept_moments, moments_size(r->task->obs_dim) * sizeof(double));
  l->adam_step = r->kept_adam_step;
}

// --- Start: rank 0 reads, all ranks build ---

static struct error *checkpoint_folder(const struct run *r, char path[PATH_BYTES]) {
  if (snprintf(path, PATH_BYTES, "%s/checkpoints", r->options->run) < PATH_BYTES) return NULL;
  return error_new(EXIT_CODE_USAGE, "the run folder's name is too long: %.200s..", r->options->run);
}

// The settings that shape what is learned must be those that the run began with.
static struct error *check_same_learning(const struct run *r, const struct checkpoint *c) {
  struct config stored;
  TRY(config_parse("the checkpoint's config", c->config_text, 0, NULL, &stored));
  const char *key = config_first_difference(&stored, &r->config, true);
  if (key == NULL) return NULL;
  return error_new(EXIT_CODE_USAGE, "%s holds a run with another '%s': give another --run, or the value it began with",
                   r->options->run, key);
}

// Rank 0: settles the config and finds the checkpoint to go on from, if there is one.
static struct error *read_config(struct run *r, struct checkpoint *c, bool *found) {
  const struct train_options *o = r->options;
  char folder[PATH_BYTES];
  char *path = NULL;
  struct stat status;
  if (o->config == NULL && stat(o->run, &status) == 0 && S_ISREG(status.st_mode))
    return error_new(EXIT_CODE_USAGE, "%s is a file: name the run folder as well, by --run DIR", o->run);
  TRY(checkpoint_folder(r, folder));
  TRY(run_lock_look(o->run));
  struct error *e = checkpoint_load_latest(folder, c, found, &path, metrics_warn, NULL);
  free(path);
  if (e != NULL) return e;
  if (*found && o->fresh)
    return error_new(EXIT_CODE_USAGE, "--fresh: %s already holds a run (iteration %" PRId64 ")", o->run, c->iteration);
  if (o->config == NULL && !*found)
    return error_new(EXIT_CODE_USAGE, "%s holds no checkpoint to go on from: name a config file and --run", o->run);
  if (o->config != NULL) TRY(config_load(o->config, o->set_count, o->sets, &r->config));
  else TRY(config_parse("the checkpoint's config", c->config_text, o->set_count, o->sets, &r->config));
  if (*found) TRY(check_same_learning(r, c));
  return config_print(&r->config, &r->config_text);
}

// Every rank gets rank 0's effective config, so that only rank 0's file system matters.
static struct error *share_config(struct run *r) {
  int64_t length = r->config_text ? (int64_t)strlen(r->config_text) + 1 : 0;
  TRY(comm_broadcast(r->comm, &length, sizeof length));
  if (comm_rank(r->comm) != 0) r->config_text = malloc((size_t)length);
  if (r->config_text == NULL) return error_no_memory("the config");
  TRY(comm_broadcast(r->comm, r->config_text, (size_t)length));
  return comm_rank(r->comm) == 0 ? NULL : config_parse("rank 0's config", r->config_text, 0, NULL, &r->config);
}

static bool is_mine(const struct run *r, const int *rank_of, int shard) {
  return rank_of[shard] == comm_rank(r->comm); // NOLINT(clang-analyzer-core.NullDereference): placement_init fills it
}

static struct error *init_trajectories(struct run *r) {
  const size_t shards = (size_t)r->sizes.shards;
  r->trajectory = calloc(shards, sizeof *r->trajectory);
  if (r->trajectory == NULL) return error_no_memory("trajectories");
  for (int s = 0; s < r->sizes.shards; ++s)
    if (is_mine(r, r->placement.actor_of, s) || is_mine(r, r->placement.learner_of, s))
      TRY(trajectory_init(&r->trajectory[s], &r->layout));
  if (comm_rank(r->comm) != 0) return NULL;
  const size_t tail = r->layout.bytes - r->layout.learner_bytes;
  r->tail = calloc(shards, sizeof *r->tail);
  r->tail_memory = malloc(shards * tail);
  r->env_state = calloc((size_t)r->config.rollout.envs * r->layout.state_size, sizeof *r->env_state);
  r->kept = malloc(3 * r->learned.count * sizeof *r->kept);
  r->kept_moments = malloc(moments_size(r->task->obs_dim) * sizeof *r->kept_moments);
  if (!r->tail || !r->tail_memory || !r->env_state || !r->kept || !r->kept_moments)
    return error_no_memory("environment states");
  for (size_t s = 0; s < shards; ++s)
    r->tail[s] =
        r->trajectory[s].memory ? r->trajectory[s].memory + r->layout.learner_bytes : r->tail_memory + s * tail;
  return NULL;
}

static struct error *init_actor(struct run *r) {
  r->rollout = (struct rollout){.config = &r->config,
                                .task = r->task,
                                .policy = &r->objective.policy,
                                .parameters = r->learned.parameters,
                                .normalizer = &r->learned.normalizer,
                                .sizes = r->sizes,
                                .layout = r->layout,
                                .interrupt = {is_dropped, r}};
  if (!placement_is_actor(&r->placement, comm_rank(r->comm))) return NULL;
  r->actor = calloc((size_t)r->threads, sizeof *r->actor);
  if (r->actor == NULL) return error_no_memory("actors");
  for (int t = 0; t < r->threads; ++t) TRY(rollout_worker_init(&r->actor[t], &r->rollout));
  return NULL;
}

static struct evaluation evaluation_of(struct run *r) {
  const struct config *c = &r->config;
  return (struct evaluation){.task = r->task,
                             .policy = &r->objective.policy,
                             .parameters = r->learned.parameters,
                             .normalizer = &r->learned.normalizer,
                             .acting = policy_evaluation(c),
                             .episodes = c->eval.episodes,
                             .episode_length = evaluate_length(r->task, c->eval.episode_length),
                             .interrupt = {is_dropped, r}};
}

static struct error *init_evaluators(struct run *r) {
  if (r->config.eval.every == 0) return NULL;
  const struct evaluation v = evaluation_of(r);
  r->evaluator = calloc((size_t)r->threads, sizeof *r->evaluator);
  r->eval_results = calloc((size_t)(evaluate_blocks(&v) * EVALUATE_BLOCK), sizeof *r->eval_results);
  if (r->evaluator == NULL || r->eval_results == NULL) return error_no_memory("evaluation");
  for (int t = 0; t < r->threads; ++t) TRY(evaluate_worker_init(&r->evaluator[t], &v));
  return NULL;
}

// What follows from the config alone; no messages, so a rank may fail alone.
static struct error *build(struct run *r) {
  struct task *task;
  TRY(task_open(r->config.task.name, r->config.task.episode_length, NULL, &task));
  r->task = task;
  objective_layout(&r->objective, &r->config, task->obs_dim, task->action_dim);
  r->sizes = shard_sizes(&r->config);
  trajectory_layout_init(&r->layout, &r->objective.policy, &r->sizes, task->episode_length, task->state_size);
  TRY(placement_init(&r->placement, &r->config, comm_size(r->comm)));
  r->threads = train_threads(&r->config, comm_ranks_on_node(r->comm));
  openblas_set_num_threads(1); // a shard's products run on the thread that works the shard
  TRY(learned_init(&r->learned, &r->objective));
  TRY(init_trajectories(r));
  TRY(init_actor(r));
  return init_evaluators(r);
}

// Collective, as the learners form a group; the others keep nothing of it.
static struct error *init_learner(struct run *r) {
  TRY(learner_init(&r->learner, &r->objective, &r->sizes, &r->layout, &r->placement, r->comm, r->trajectory,
                   r->threads));
  if (placement_is_learner(&r->placement, comm_rank(r->comm))) {
    learner_interrupt(r->learner, (struct interrupt){is_dropped, r});
    return NULL;
  }
  learner_free(r->learner);
  r->learner = NULL;
  return NULL;
}

// --- Checkpoints ---

static void name_network(const struct mlp *net, const char *prefix, struct tensor_name *names) {
  for (int l = 0; l < net->layers; ++l) {
    struct tensor_name *w = &names[2 * (size_t)l], *b = w + 1;
    *w = (struct tensor_name){.offset = net->weight[l], .rows = net->width[l], .cols = net->width[l + 1]};
    *b = (struct tensor_name){.offset = net->bias[l], .rows = net->width[l + 1]};
    snprintf(w->name, sizeof w->name, "%s/w%d", prefix, l);
    snprintf(b->name, sizeof b->name, "%s/b%d", prefix, l);
  }
}

// A checkpoint that borrows everything from the run. names: room for all tensors.
static struct checkpoint snapshot(struct run *r, struct tensor_name names[4 * MLP_MAX_LAYERS]) {
  const struct objective *o = &r->objective;
  const struct mlp *policy = policy_net(&o->policy);
  name_network(policy, "policy", names);
  name_network(&o->value, "value", names + 2 * (size_t)policy->layers);
  struct checkpoint c = {.config_text = r->config_text,
                         .metrics_text = r->metrics.recent,
                         .iteration = r->iteration,
                         .env_steps = r->iteration * r->sizes.iteration_env_steps,
                         .episodes = r->episodes,
                         .wall_seconds = r->wall_before + clock_seconds() - r->started,
                         .best_return = r->best_return,
                         .tensor_count = 2 * (policy->layers + o->value.layers),
                         .tensors = names,
                         .parameter_count = o->parameter_count,
                         .parameters = r->learned.parameters,
                         .adam_m = r->learned.adam_m,
                         .adam_v = r->learned.adam_v,
                         .adam_step = r->learned.adam_step,
                         .obs_dim = r->task->obs_dim,
                         .normalizer_count = r->learned.normalizer.moments[0],
                         .normalizer_mean = r->learned.normalizer.mean,
                         .normalizer_m2 = r->learned.normalizer.m2,
                         .envs = r->config.rollout.envs,
                         .state_size = (int64_t)r->layout.state_size,
                         .env_state = r->env_state};
  snprintf(c.task_name, sizeof c.task_name, "%s", r->task->kind->name);
  return c;
}

static struct error *save(struct run *r, bool best) {
  char folder[PATH_BYTES];
  struct tensor_name names[4 * MLP_MAX_LAYERS];
  TRY(checkpoint_folder(r, folder));
  const struct checkpoint c = snapshot(r, names);
  TRY(checkpoint_write(folder, &c, r->config.checkpoint.keep, best));
  r->saved = r->iteration;
  return NULL;
}

// Takes over a loaded checkpoint, which must have this build's shapes.
static struct error *restore(struct run *r, const struct checkpoint *c) {
  if (strcmp(c->task_name, r->task->kind->name) != 0 || c->parameter_count != r->learned.count ||
      c->obs_dim != r->task->obs_dim || c->envs != r->config.rollout.envs ||
      c->state_size != (int64_t)r->layout.state_size)
    return error_new(EXIT_CODE_FAILED,
                     "the checkpoint of task %s has %zu parameters, %d observations and %" PRId64
                     " numbers a state; task %s here has %zu, %d and %zu",
                     c->task_name, c->parameter_count, c->obs_dim, c->state_size, r->task->kind->name, r->learned.count,
                     r->task->obs_dim, r->layout.state_size);
  const size_t bytes = r->learned.count * sizeof(float), dim = (size_t)c->obs_dim * sizeof(double);
  memcpy(r->learned.parameters, c->parameters, bytes);
  memcpy(r->learned.adam_m, c->adam_m, bytes);
  memcpy(r->learned.adam_v, c->adam_v, bytes);
  r->learned.adam_step = c->adam_step;
  r->learned.normalizer.moments[0] = c->normalizer_count;
  memcpy(r->learned.normalizer.mean, c->normalizer_mean, dim);
  memcpy(r->learned.normalizer.m2, c->normalizer_m2, dim);
  memcpy(r->env_state, c->env_state, (size_t)c->envs * (size_t)c->state_size * sizeof(double));
  r->iteration = r->saved = c->iteration;
  r->episodes = c->episodes;
  r->wall_before = c->wall_seconds;
  r->best_return = c->best_return;
  return NULL;
}

// --- The way of the data ---

// Rank 0's learned state to all. Learners hold the same bits already, except after a restore (`all`).
static struct error *publish(struct run *r, bool all) {
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

// And back: what rank 0 needs when the first iteration of all is dropped.
static struct error *gather_states(struct run *r) {
  const int me = comm_rank(r->comm);
  const size_t doubles = (size_t)r->sizes.envs * r->layout.state_size, bytes = doubles * sizeof(double);
  for (int s = 0; s < r->sizes.shards; ++s) {
    const int actor = r->placement.actor_of[s];
    const size_t at = (size_t)s * doubles;
    if (me == 0 && actor == 0) memcpy(r->env_state + at, r->trajectory[s].state, bytes);
    else if (me == 0) TRY(comm_receive(r->comm, actor, MESSAGE_STATE, s, r->env_state + at, bytes));
    else if (actor == me) TRY(comm_send(r->comm, 0, MESSAGE_STATE, s, r->trajectory[s].state, bytes));
  }
  return comm_wait(r->comm);
}

static void begin_environments(struct run *r) {
#pragma omp parallel for schedule(dynamic, 1) num_threads(r->threads)
  for (int s = 0; s < r->sizes.shards; ++s)
    if (is_mine(r, r->placement.actor_of, s))
      rollout_begin(&r->rollout, &r->actor[omp_get_thread_num()], s, &r->trajectory[s]);
}

// A learner at rank 0 gets a shard's buffer as one message; any other learner gets its part and rank 0 the tail.
static struct error *post_receives(struct run *r) {
  const int me = comm_rank(r->comm);
  const size_t whole = r->layout.bytes, part = r->layout.learner_bytes;
  for (int s = 0; s < r->sizes.shards; ++s) {
    const int actor = r->placement.actor_of[s], learner = r->placement.learner_of[s];
    if (actor == me) continue;
    if (learner == me)
      TRY(comm_receive(r->comm, actor, MESSAGE_TRAJECTORY, s, r->trajectory[s].memory, me == 0 ? whole : part));
    else if (me == 0) TRY(comm_receive(r->comm, actor, MESSAGE_TAIL, s, r->tail[s], whole - part));
  }
  return NULL;
}

static struct error *send_shard(struct run *r, int s) {
  const int me = comm_rank(r->comm), learner = r->placement.learner_of[s];
  const size_t whole = r->layout.bytes, part = r->layout.learner_bytes;
  const unsigned char *memory = r->trajectory[s].memory;
  if (learner != me) TRY(comm_send(r->comm, learner, MESSAGE_TRAJECTORY, s, memory, learner == 0 ? whole : part));
  if (learner != 0 && me != 0) TRY(comm_send(r->comm, 0, MESSAGE_TAIL, s, memory + part, whole - part));
  return NULL;
}

// Threads take whole shards; each shard is on its way as soon as it is done.
static struct error *collect(struct run *r) {
  const double started = clock_seconds();
  struct error *failed = NULL;
  TRY(post_receives(r));
#pragma omp parallel for schedule(dynamic, 1) num_threads(r->threads)
  for (int s = 0; s < r->sizes.shards; ++s) {
    if (!is_mine(r, r->placement.actor_of, s)) continue;
    rollout_collect(&r->rollout, &r->actor[omp_get_thread_num()], s, r->iteration, &r->trajectory[s]);
    r->trajectory[s].report->act_seconds = clock_seconds() - started;
#pragma omp critical(send_shard)
    {
      struct error *e = send_shard(r, s);
      if (failed == NULL) failed = e;
      else error_free(e);
    }
  }
  return failed ? failed : comm_wait(r->comm);
}

// Rank 0: reports into the line. Shards in order, so that sums do not depend on placement.
static void take_reports(const struct run *r, struct metrics_line *line) {
  double return_sum = 0, length_sum = 0;
  for (int s = 0; s < r->sizes.shards; ++s) {
    struct shard_report report;
    memcpy(&report, r->tail[s], sizeof report);
    line->episodes += report.episodes;
    line->broken += report.broken;
    return_sum += report.return_sum;
    length_sum += report.length_sum;
    line->act_seconds = fmax(line->act_seconds, report.act_seconds);
    const int actor = r->placement.actor_of[s], learner = r->placement.learner_of[s];
    if (learner != actor) line->wire_bytes += (int64_t)r->layout.learner_bytes;
    if (actor != 0) line->wire_bytes += (int64_t)(r->layout.bytes - r->layout.learner_bytes);
  }
  line->episode_return = return_sum / (double)line->episodes; // NaN without episodes
  line->episode_length = length_sum / (double)line->episodes;
}

// Rank 0, when the iteration is complete: the shards' states into env_state.
static void take_states(struct run *r) {
  const size_t doubles = (size_t)r->sizes.envs * r->layout.state_size;
  for (int s = 0; s < r->sizes.shards; ++s)
    memcpy(r->env_state + (size_t)s * doubles, r->tail[s] + sizeof(struct shard_report), doubles * sizeof(double));
}

// All ranks take blocks of evaluation episodes; rank 0 gets the returns.
static struct error *evaluate(struct run *r, struct metrics_line *line) {
  const struct evaluation v = evaluation_of(r);
  const int me = comm_rank(r->comm), size = comm_size(r->comm);
  const int64_t blocks = evaluate_blocks(&v);
#pragma omp parallel for schedule(dynamic, 1) num_threads(r->threads)
  for (int64_t b = me; b < blocks; b += size)
    evaluate_block(&v, &r->evaluator[omp_get_thread_num()], b, r->eval_results + b * EVALUATE_BLOCK);
  for (int64_t b = 0; b < blocks; ++b) {
    struct episode_result *results = r->eval_results + b * EVALUATE_BLOCK;
    const size_t bytes = EVALUATE_BLOCK * sizeof *results;
    const int owner = (int)(b % size);
    if (me == 0 && owner != 0) TRY(comm_receive(r->comm, owner, MESSAGE_RETURNS, (int)b, results, bytes));
    if (me == owner && owner != 0) TRY(comm_send(r->comm, 0, MESSAGE_RETURNS, (int)b, results, bytes));
  }
  TRY(comm_wait(r->comm));
  double length;
  evaluate_summary(v.episodes, r->eval_results, &line->eval_return, &line->eval_error, &length);
  return NULL;
}

enum stop { STOP_NOT, STOP_COMPLETE, STOP_EARLY };

// Rank 0's word on whether this was the last iteration; `asked` is a signal that any rank has got.
static enum stop decide(const struct run *r, int asked) {
  const struct train_options *o = r->options;
  if (r->iteration >= r->sizes.iterations) return STOP_COMPLETE;
  if (asked) return STOP_EARLY;
  const double elapsed = clock_seconds() - r->started;
  if (o->max_wall_seconds > 0 && elapsed + r->last_iteration_seconds > o->max_wall_seconds) return STOP_EARLY;
  return STOP_NOT;
}

static void warn(struct run *r, const char *text, const char *consequence) {
  char line[PATH_BYTES + 512];
  snprintf(line, sizeof line, "%s; %s", text, consequence);
  metrics_end_bar(&r->metrics);
  metrics_warn(NULL, line);
}

// A full disk takes no metrics for a while: said once, mended when there is room. The checkpoint holds the newest lines.
static void take_metrics_error(struct run *r, struct error *e) {
  if (e != NULL && !r->metrics_behind) warn(r, e->text, "training goes on");
  r->metrics_behind = e != NULL;
  error_free(e);
}

// A checkpoint in the middle of a run may fail: the older ones are intact, and the next iteration tries again (best.h5
// stays the older one until a better policy comes). The last one may not, as the exit code promises it.
static struct error *save_due(struct run *r, bool best, bool last) {
  TRY(run_lock_check(r->lock));
  struct error *e = save(r, best);
  const bool told = r->unsaved && clock_seconds() - r->last_warning < WARNING_SECONDS;
  r->unsaved = e != NULL;
  if (e == NULL || last) return e;
  if (!told) {
    warn(r, e->text, "training goes on, and tries again after each iteration");
    r->last_warning = clock_seconds();
  }
  error_free(e);
  return NULL;
}

// Rank 0, after an iteration: metrics line, best return, checkpoint when due.
static struct error *record(struct run *r, struct metrics_line *line, const struct update_report *u, enum stop stop,
                            double started) {
  if (!isfinite(u->policy_loss) || !isfinite(u->value_loss))
    return error_new(EXIT_CODE_FAILED,
                     "the loss is not a number at iteration %" PRId64
                     ": the newest checkpoint in %s/checkpoints is from "
                     "before it; try a lower optimizer.learning_rate or an optimizer.max_grad_norm",
                     r->iteration, r->options->run);
  const double score = r->config.eval.every > 0 ? line->eval_return : line->episode_return;
  const bool best = score > r->best_return; // false for NaN
  if (best) r->best_return = score;
  r->episodes += line->episodes;
  r->last_iteration_seconds = clock_seconds() - started;
  line->iteration = r->iteration;
  line->env_steps = r->iteration * r->sizes.iteration_env_steps;
  line->wall_seconds = r->wall_before + clock_seconds() - r->started;
  line->steps_per_second = (double)r->sizes.iteration_env_steps / r->last_iteration_seconds;
  line->policy_loss = u->policy_loss, line->value_loss = u->value_loss, line->cfm_loss = u->cfm_loss,
  line->entropy = u->entropy;
  line->ratio_mean = u->ratio_mean, line->ratio_std = u->ratio_std, line->value_mean = u->value_mean;
  line->clipped_fraction = u->clipped_fraction, line->grad_norm = u->grad_norm;
  line->other_seconds = r->last_iteration_seconds - line->act_seconds - line->wire_seconds - line->learn_seconds;
  take_metrics_error(r, metrics_append(&r->metrics, line));
  const bool due = stop != STOP_NOT || best || r->unsaved || r->iteration % r->config.checkpoint.every == 0;
  return due ? save_due(r, best, stop != STOP_NOT) : NULL;
}

// The iteration's starting state becomes the checkpoint. All ranks.
static struct error *drop(struct run *r, enum stop *stop) {
  const bool first = comm_rank(r->comm) == 0;
  r->iteration = r->running;
  *stop = STOP_EARLY;
  if (first) return_to_kept(r);
  struct error *e = comm_agree(r->comm, first && r->saved != r->iteration ? save_due(r, false, true) : NULL);
  r->agreed = true;
  return e;
}

static struct error *iterate(struct run *r, enum stop *stop) {
  const double started = clock_seconds();
  const bool first = comm_rank(r->comm) == 0;
  r->running = r->iteration;
  r->running_since = started;
  if (first) keep_learned(r);
  struct metrics_line line = {.eval_return = NAN, .eval_error = NAN};
  struct update_report update = {0};
  TRY(collect(r));
  if (first) {
    take_reports(r, &line);
    const double collected = clock_seconds() - started; // an actor may have begun before this rank
    line.act_seconds = fmin(line.act_seconds, collected);
    line.wire_seconds = collected - line.act_seconds;
  }
  const double learn_started = clock_seconds();
  if (r->learner != NULL) TRY(learner_update(r->learner, r->iteration, &r->learned, &update));
  line.learn_seconds = clock_seconds() - learn_started;
  r->iteration += 1;
  TRY(publish(r, false));
  const int64_t every = r->config.eval.every;
  if (every > 0 && (r->iteration % every == 0 || r->iteration == r->sizes.iterations)) TRY(evaluate(r, &line));
  int asked = is_dropped(r) ? DROPPED : signal_received;
  TRY(comm_max(r->comm, &asked)); // whether it is dropped, too, is the word of all ranks
  if (asked == DROPPED) return drop(r, stop);
  if (first) {
    take_states(r);
    *stop = decide(r, asked);
    const int64_t limit = r->options->max_iterations;
    if (*stop == STOP_NOT && limit > 0 && r->iteration - r->metrics.first_iteration >= limit) *stop = STOP_EARLY;
  }
  TRY(comm_broadcast(r->comm, stop, sizeof *stop));
  struct error *e = comm_agree(r->comm, first ? record(r, &line, &update, *stop, started) : NULL);
  r->agreed = true;
  return e;
}

// --- The run folder ---

static struct error *make_folder(const char *path) {
  char partial[PATH_BYTES];
  snprintf(partial, sizeof partial, "%s", path);
  for (char *slash = strchr(partial + 1, '/');; slash = strchr(slash + 1, '/')) {
    if (slash != NULL) *slash = '\0';
    if (mkdir(partial, 0777) != 0 && errno != EEXIST)
      return error_new(EXIT_CODE_FAILED, "%s: %s", partial, strerror(errno));
    if (slash == NULL) return NULL;
    *slash = '/';
  }
}

// config.yaml: the effective config. launches.jsonl: with what each launch ran.
static struct error *describe_launch(const struct run *r) {
  char path[PATH_BYTES + 32], mpi[256], hdf5[32], host[256] = "?";
  snprintf(path, sizeof path, "%s/config.yaml", r->options->run);
  FILE *f = fopen(path, "w");
  if (f == NULL || fputs(r->config_text, f) < 0 || fclose(f) != 0)
    return error_new(EXIT_CODE_FAILED, "%s: %s", path, strerror(errno));
  snprintf(path, sizeof path, "%s/launches.jsonl", r->options->run);
  f = fopen(path, "a");
  if (f == NULL) return error_new(EXIT_CODE_FAILED, "%s: %s", path, strerror(errno));
  comm_library_version(mpi, sizeof mpi);
  checkpoint_library_version(hdf5, sizeof hdf5);
  gethostname(host, sizeof host - 1);
  const char *job = getenv("SLURM_JOB_ID");
  fprintf(f,
          "{\"time\": %lld, \"iteration\": %" PRId64 ", \"host\": \"%s\", \"pid\": %d, \"job\": \"%s\", "
          "\"ranks\": %d, \"learners\": %d, \"threads\": %d, \"flowrank\": \"%s\", \"mujoco\": \"%s\", "
          "\"mpi\": \"%s\", \"hdf5\": \"%s\", \"blas\": \"%s\", \"command\": ",
          (long long)time(NULL), r->iteration, host, (int)getpid(), job ? job : "", comm_size(r->comm),
          r->placement.learners, r->threads, FLOWRANK_VERSION, mj_versionString(), mpi, hdf5, openblas_get_config());
  text_print_json(r->options->command_line, f);
  fputs("}\n", f);
  return fclose(f) == 0 ? NULL : error_new(EXIT_CODE_FAILED, "%s: %s", path, strerror(errno));
}

// recent: the checkpoint's metrics lines, or "".
static struct error *open_run_folder(struct run *r, const char *recent) {
  char folder[PATH_BYTES];
  TRY(checkpoint_folder(r, folder));
  TRY(make_folder(folder));
  TRY(run_lock_take(r->options->run, &r->lock));
  checkpoint_sweep(folder);
  TRY(describe_launch(r));
  r->metrics_open = true;
  return metrics_open(&r->metrics, r->options->run, r->iteration, recent, r->sizes.iterations,
                      r->sizes.iterations * r->sizes.iteration_env_steps, r->config.log.interval);
}

static void announce(const struct run *r) {
  const struct placement *p = &r->placement;
  printf("flowrank %s: %s, %zu parameters, %d shards of %d environments, %d rank%s (%d learning), %d thread%s\n",
         FLOWRANK_VERSION, r->task->kind->name, r->learned.count, r->sizes.shards, r->sizes.envs, p->ranks,
         p->ranks == 1 ? "" : "s", p->learners, r->threads, r->threads == 1 ? "" : "s");
  if (r->iteration > 0) printf("going on from iteration %" PRId64 " of %s\n", r->iteration, r->options->run);
  fflush(stdout);
}

// Everything before the first iteration. The run folder is not touched before all that can be wrong has been checked.
static struct error *prepare(struct run *r, struct checkpoint *c) {
  bool found = false;
  const bool first = comm_rank(r->comm) == 0;
  TRY(comm_agree(r->comm, first ? read_config(r, c, &found) : NULL));
  TRY(comm_agree(r->comm, share_config(r)));
  TRY(comm_agree(r->comm, build(r)));
  TRY(comm_agree(r->comm, init_learner(r)));
  TRY(comm_agree(r->comm, first && found ? restore(r, c) : NULL));
  TRY(comm_broadcast(r->comm, &found, sizeof found));
  TRY(comm_broadcast(r->comm, &r->iteration, sizeof r->iteration));
  if (r->iteration >= r->sizes.iterations) return NULL;
  if (found) {
    TRY(publish(r, true));
    TRY(scatter_states(r));
  } else {
    begin_environments(r);
    TRY(gather_states(r));
  }
  return comm_agree(r->comm, first ? open_run_folder(r, found ? c->metrics_text : "") : NULL);
}

static void free_run(struct run *r) {
  learner_free(r->learner);
  for (int t = 0; r->actor != NULL && t < r->threads; ++t) rollout_worker_free(&r->actor[t]);
  for (int t = 0; r->evaluator != NULL && t < r->threads; ++t) evaluate_worker_free(&r->evaluator[t]);
  for (int s = 0; r->trajectory != NULL && s < r->sizes.shards; ++s) trajectory_free(&r->trajectory[s]);
  if (r->metrics_open) metrics_close(&r->metrics);
  run_lock_release(r->lock);
  learned_free(&r->learned);
  placement_free(&r->placement);
  task_close(r->task);
  free(r->actor);
  free(r->evaluator);
  free(r->eval_results);
  free(r->trajectory);
  free((void *)r->tail);
  free(r->tail_memory);
  free(r->env_state);
  free(r->kept);
  free(r->kept_moments);
  free(r->config_text);
}

struct error *train(struct comm *comm, const struct train_options *options, enum train_end *end) {
  struct run r = {.options = options,
                  .comm = comm,
                  .best_return = -INFINITY,
                  .started = clock_seconds(),
                  .agreed = true,
                  .saved = -1,
                  .running = -1,
                  .dropped = -1};
  struct checkpoint loaded = {0};
  enum stop stop = STOP_NOT;
  watch_signals();
  struct error *e = prepare(&r, &loaded);
  checkpoint_free(&loaded);
  if (e == NULL && comm_rank(comm) == 0) announce(&r);
  if (e == NULL && r.iteration >= r.sizes.iterations) {
    stop = STOP_COMPLETE;
    if (comm_rank(comm) == 0) printf("%s is complete: nothing to do\n", options->run);
  }
  comm_watch(comm, (struct interrupt){is_dropped, &r});
  while (e == NULL && stop == STOP_NOT) {
    r.agreed = false;
    e = iterate(&r, &stop);
  }
  comm_watch(comm, (struct interrupt){0});
  *end = e == NULL ? (stop == STOP_EARLY ? TRAIN_STOPPED : TRAIN_COMPLETE) : r.agreed ? TRAIN_FAILED : TRAIN_TORN;
  if (*end == TRAIN_STOPPED && comm_rank(comm) == 0) {
    metrics_end_bar(&r.metrics);
    printf("stopped after iteration %" PRId64 " of %" PRId64 " with a complete checkpoint; the same command goes on\n",
           r.iteration, r.sizes.iterations);
  }
  free_run(&r);
  return e;
}
