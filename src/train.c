#include "train.h"

#include <inttypes.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "run.h"
#include "version.h"

enum { DROPPED = 1 << 20 }; // above all signals

// Every rank gets rank 0's effective config, so that only rank 0's file system matters.
static struct error *share_config(struct run *r) {
  int64_t length = r->config_text ? (int64_t)strlen(r->config_text) + 1 : 0;
  TRY(comm_broadcast(r->comm, &length, sizeof length));
  if (comm_rank(r->comm) != 0) r->config_text = malloc((size_t)length);
  if (r->config_text == NULL) return error_no_memory("the config");
  TRY(comm_broadcast(r->comm, r->config_text, (size_t)length));
  return comm_rank(r->comm) == 0 ? NULL : config_parse("rank 0's config", r->config_text, 0, NULL, &r->config);
}

// Environment states to rank 0: what it needs when the first iteration of all is dropped.
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
    if (run_is_mine(r, r->placement.actor_of, s))
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
    if (!run_is_mine(r, r->placement.actor_of, s)) continue;
    rollout_collect(&r->rollout, &r->actor[omp_get_thread_num()], s, r->iteration, &r->trajectory[s]);
    r->trajectory[s].report->act_seconds = clock_seconds() - started;
#pragma omp critical(send_shard)
    {
      struct error *e = send_shard(r, s);
      if (failed == NULL) failed = e;
      else error_free(e);
    }
  }
  r->act_seconds = clock_seconds() - started;
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
  const struct evaluation v = run_evaluation(r);
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

static bool all_finite(const float *values, size_t count) {
  for (size_t i = 0; i < count; ++i)
    if (!isfinite(values[i])) return false;
  return true;
}

// Parameters as well as losses: a loss is of the parameters before the last step, and a checkpoint of those behind it.
static struct error *check_learning(const struct run *r, const struct update_report *u) {
  const char *what = NULL;
  if (!isfinite(u->policy_loss) || !isfinite(u->value_loss)) what = "the loss is";
  else if (!all_finite(r->learned.parameters, r->learned.count)) what = "parameters are";
  if (what == NULL) return NULL;
  char good[RUN_WORDS_BYTES];
  run_name_checkpoint(r, good);
  return error_new(EXIT_CODE_FAILED,
                   "%s not a number after iteration %" PRId64 "; %s; the same line comes to the same end: begin "
                   "another run with a lower optimizer.learning_rate, or with an optimizer.max_grad_norm",
                   what, r->iteration, good);
}

// Rank 0, after an iteration: metrics line, best return, checkpoint when due.
static struct error *record(struct run *r, struct metrics_line *line, const struct update_report *u, enum stop stop,
                            double started) {
  TRY(check_learning(r, u));
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
  line->checkpoint_seconds = r->save_seconds;
  r->save_seconds = 0;
  line->other_seconds = r->last_iteration_seconds - line->act_seconds - line->wire_seconds - line->learn_seconds;
  run_append_metrics(r, line);
  const bool due = stop != STOP_NOT || best || r->unsaved || r->iteration % r->config.checkpoint.every == 0;
  return due ? run_save(r, best, stop != STOP_NOT) : NULL;
}

// The iteration's starting state becomes the checkpoint. All ranks.
static struct error *drop(struct run *r, enum stop *stop) {
  const bool first = comm_rank(r->comm) == 0;
  r->iteration = r->running;
  *stop = STOP_EARLY;
  if (first) run_return_to_kept(r);
  struct error *e = comm_agree(r->comm, first && r->saved != r->iteration ? run_save(r, false, true) : NULL);
  r->agreed = true;
  return e;
}

static struct error *iterate(struct run *r, enum stop *stop) {
  const double started = clock_seconds();
  const bool first = comm_rank(r->comm) == 0;
  r->running = r->iteration;
  r->running_since = started;
  if (first) run_keep_learned(r);
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
  r->learn_seconds = update.value_seconds + update.policy_seconds;
  r->iteration += 1;
  TRY(run_publish(r, false));
  const double worked = clock_seconds() - started;
  const int64_t every = r->config.eval.every;
  if (every > 0 && (r->iteration % every == 0 || r->iteration == r->sizes.iterations)) TRY(evaluate(r, &line));
  int asked = run_is_dropped(r) ? DROPPED : run_signal();
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
  if (e != NULL || *stop != STOP_NOT) return e;
  r->agreed = false;
  return run_balance(r, worked);
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
  TRY(comm_agree(r->comm, first ? run_read_config(r, c, &found) : NULL));
  TRY(comm_agree(r->comm, share_config(r)));
  comm_watch(r->comm, (struct interrupt){run_is_dropped, r});
  TRY(comm_agree(r->comm, comm_set_timeout(r->comm, r->config.cluster.timeout)));
  TRY(comm_agree(r->comm, run_build(r)));
  TRY(comm_agree(r->comm, run_build_learner(r)));
  TRY(comm_agree(r->comm, first && found ? run_restore(r, c) : NULL));
  TRY(comm_broadcast(r->comm, &found, sizeof found));
  TRY(comm_broadcast(r->comm, &r->iteration, sizeof r->iteration));
  if (r->iteration >= r->sizes.iterations) return NULL;
  if (found) {
    TRY(run_hand_out(r));
  } else {
    begin_environments(r);
    TRY(gather_states(r));
  }
  return comm_agree(r->comm, first ? run_open_folder(r, found ? c->metrics_text : "") : NULL);
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
  run_watch_signals();
  struct error *e = prepare(&r, &loaded);
  checkpoint_free(&loaded);
  if (e == NULL && comm_rank(comm) == 0) announce(&r);
  if (e == NULL && r.iteration >= r.sizes.iterations) {
    stop = STOP_COMPLETE;
    if (comm_rank(comm) == 0) printf("%s is complete: nothing to do\n", options->run);
  }
  while (e == NULL && stop == STOP_NOT) {
    r.agreed = false;
    e = iterate(&r, &stop);
  }
  comm_watch(comm, (struct interrupt){0});
  if (e != NULL) *end = r.agreed && !comm_lost(comm) ? TRAIN_FAILED : TRAIN_TORN;
  else *end = stop == STOP_EARLY ? TRAIN_STOPPED : TRAIN_COMPLETE;
  if (*end == TRAIN_STOPPED && comm_rank(comm) == 0) {
    metrics_end_bar(&r.metrics);
    printf("stopped after iteration %" PRId64 " of %" PRId64 " with a complete checkpoint; the same command goes on\n",
           r.iteration, r.sizes.iterations);
  }
  run_free(&r);
  return e;
}
