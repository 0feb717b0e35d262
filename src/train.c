#include "train.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <omp.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "run.h"
#include "version.h"

enum { DROPPED = 1 << 20 }; // above all signals
enum { DIED_BYTES = 512 };

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
    if (me == 0 && actor == 0) memcpy(r->env_state + at, run_starting_state(r, 0, s), bytes);
    else if (me == 0) TRY(comm_receive(r->comm, actor, MESSAGE_STATE, s, r->env_state + at, bytes));
    else if (actor == me) TRY(comm_send(r->comm, 0, MESSAGE_STATE, s, run_starting_state(r, 0, s), bytes));
  }
  return comm_wait(r->comm, MESSAGE_STATE);
}

static void begin_environments(struct run *r) {
#pragma omp parallel for schedule(dynamic, 1) num_threads(r->threads)
  for (int s = 0; s < r->sizes.shards; ++s)
    if (run_is_mine(r, r->placement.actor_of, s))
      rollout_begin(&r->rollout, &r->actor[omp_get_thread_num()], s, &run_trajectories(r, -1)[s]);
}

// A learner at rank 0 gets a shard's buffer as one message; any other learner gets its part and rank 0 the tail.
static struct error *post_receives(struct run *r, int64_t iteration) {
  const int me = comm_rank(r->comm);
  const size_t whole = r->layout.bytes, part = r->layout.learner_bytes;
  for (int s = 0; s < r->sizes.shards; ++s) {
    const int actor = r->placement.actor_of[s], learner = r->placement.learner_of[s];
    if (actor == me) continue;
    if (learner == me)
      TRY(comm_receive(r->comm, actor, MESSAGE_TRAJECTORY, s, run_trajectories(r, iteration)[s].memory,
                       me == 0 ? whole : part));
    else if (me == 0) TRY(comm_receive(r->comm, actor, MESSAGE_TAIL, s, run_tails(r, iteration)[s], whole - part));
  }
  return NULL;
}

static struct error *send_shard(struct run *r, const struct trajectory *t, int s) {
  const int me = comm_rank(r->comm), learner = r->placement.learner_of[s];
  const size_t whole = r->layout.bytes, part = r->layout.learner_bytes;
  if (learner != me) TRY(comm_send(r->comm, learner, MESSAGE_TRAJECTORY, s, t->memory, learner == 0 ? whole : part));
  if (learner != 0 && me != 0) TRY(comm_send(r->comm, 0, MESSAGE_TAIL, s, t->memory + part, whole - part));
  return NULL;
}

// Threads take whole shards; each shard is on its way as soon as it is done.
static struct error *act(struct run *r, int64_t iteration) {
  const double started = clock_seconds();
  struct error *failed = NULL;
#pragma omp parallel for schedule(dynamic, 1) num_threads(r->threads)
  for (int s = 0; s < r->sizes.shards; ++s) {
    if (!run_is_mine(r, r->placement.actor_of, s)) continue;
    struct trajectory *const t = &run_trajectories(r, iteration)[s];
    memmove(t->state, run_starting_state(r, iteration, s),
            (size_t)r->sizes.envs * r->layout.state_size * sizeof(double));
    rollout_collect(&r->rollout, &r->actor[omp_get_thread_num()], s, iteration, t);
    t->report->act_seconds = clock_seconds() - started;
    struct error *e = send_shard(r, t, s);
#pragma omp critical(failed)
    {
      if (failed == NULL) failed = e;
      else error_free(e);
    }
  }
  r->act_seconds = clock_seconds() - started;
  return failed;
}

// Also what a rank does that does not act.
static struct error *collect(struct run *r, int64_t iteration) {
  TRY(post_receives(r, iteration));
  if (r->actor != NULL) TRY(act(r, iteration));
  TRY(comm_wait(r->comm, MESSAGE_TRAJECTORY));
  TRY(comm_wait(r->comm, MESSAGE_TAIL));
  r->collected = iteration;
  return NULL;
}

// Rank 0: reports into the line. Shards in order, so that sums do not depend on placement.
static void take_reports(const struct run *r, int64_t iteration, struct metrics_line *line) {
  double return_sum = 0, length_sum = 0;
  for (int s = 0; s < r->sizes.shards; ++s) {
    struct shard_report report;
    memcpy(&report, run_tails(r, iteration)[s], sizeof report);
    line->episodes += report.episodes;
    line->broken += report.broken;
    return_sum += report.return_sum;
    length_sum += report.length_sum;
  }
  line->episode_return = return_sum / (double)line->episodes; // NaN without episodes
  line->episode_length = length_sum / (double)line->episodes;
}

// Rank 0: what collecting cost, which took `seconds`, of which it learned for `hidden`.
static void take_costs(const struct run *r, int64_t iteration, double seconds, double hidden,
                       struct metrics_line *line) {
  double act = 0;
  for (int s = 0; s < r->sizes.shards; ++s) {
    struct shard_report report;
    memcpy(&report, run_tails(r, iteration)[s], sizeof report);
    act = fmax(act, report.act_seconds);
    const int actor = r->placement.actor_of[s], learner = r->placement.learner_of[s];
    if (learner != actor) line->wire_bytes += (int64_t)r->layout.learner_bytes;
    if (actor != 0) line->wire_bytes += (int64_t)(r->layout.bytes - r->layout.learner_bytes);
  }
  act = fmin(act, seconds); // an actor may have begun before this rank
  line->hidden_seconds = fmin(hidden, seconds);
  line->act_seconds = fmax(0, act - line->hidden_seconds);
  line->wire_seconds = seconds - line->hidden_seconds - line->act_seconds;
}

// Rank 0, when the iteration is complete: the shards' states into env_state.
static void take_states(struct run *r, int64_t iteration) {
  const size_t doubles = (size_t)r->sizes.envs * r->layout.state_size;
  for (int s = 0; s < r->sizes.shards; ++s)
    memcpy(r->env_state + (size_t)s * doubles, run_tails(r, iteration)[s] + sizeof(struct shard_report),
           doubles * sizeof(double));
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
  TRY(comm_wait(r->comm, MESSAGE_RETURNS));
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

// Rank 0: from here on the iteration is complete, whatever happens to the others.
static struct error *complete(struct run *r, struct metrics_line *line, const struct update_report *u, int asked,
                              double started, enum stop *stop) {
  const int64_t limit = r->options->max_iterations;
  take_states(r, r->running);
  if (run_overlaps(r)) run_kept_is_previous(r);
  *stop = decide(r, asked);
  if (*stop == STOP_NOT && limit > 0 && r->iteration - r->metrics.first_iteration >= limit) *stop = STOP_EARLY;
  r->running = -1;
  return record(r, line, u, *stop, started);
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

static struct error *learn(struct run *r, struct metrics_line *line, struct update_report *update) {
  const double started = clock_seconds();
  if (r->learner != NULL)
    TRY(learner_update(r->learner, r->iteration, run_trajectories(r, r->iteration), &r->learned, update));
  line->learn_seconds = clock_seconds() - started;
  return NULL;
}

static struct error *collect_and_learn(struct run *r, struct metrics_line *line, struct update_report *update) {
  const double started = clock_seconds();
  TRY(collect(r, r->iteration));
  if (comm_rank(r->comm) == 0) take_costs(r, r->iteration, clock_seconds() - started, 0, line);
  return learn(r, line, update);
}

// The first iteration of a launch is collected as the launch before did it, or would have: with the previous weights.
static struct error *collect_first(struct run *r) {
  const bool first = comm_rank(r->comm) == 0;
  if (first) run_return_to_previous(r);
  TRY(run_publish(r, false));
  TRY(collect(r, r->iteration));
  if (first) run_return_to_kept(r);
  return run_publish(r, false);
}

// What a rank that only learns does beside it: lets the next iteration's messages arrive.
struct arrival {
  struct run *run;
  struct error *error;
  double seconds;
};

static void *let_arrive(void *arrival) {
  struct arrival *a = arrival;
  const double started = clock_seconds();
  a->error = collect(a->run, a->run->iteration + 1);
  a->seconds = clock_seconds() - started;
  return NULL;
}

static struct error *learn_while_arriving(struct run *r, struct metrics_line *line, struct update_report *update) {
  struct arrival a = {.run = r};
  pthread_t thread;
  if (pthread_create(&thread, NULL, let_arrive, &a) != 0)
    return error_new(EXIT_CODE_FAILED, "a thread cannot be started: %s", strerror(errno));
  struct error *e = learn(r, line, update);
  if (e != NULL && !comm_torn(r->comm)) comm_give_up(r->comm);
  pthread_join(thread, NULL);
  if (comm_rank(r->comm) == 0 && e == NULL && a.error == NULL)
    take_costs(r, r->iteration + 1, a.seconds, line->learn_seconds, line);
  if (e == NULL) return a.error;
  error_free(a.error);
  return e;
}

// An iteration is learned while the next is collected with the weights before it, which are one iteration old.
static struct error *learn_and_collect_ahead(struct run *r, struct metrics_line *line, struct update_report *update) {
  if (r->collected < r->iteration) TRY(collect_first(r));
  if (r->iteration + 1 == r->sizes.iterations) return learn(r, line, update);
  if (r->actor == NULL) return learn_while_arriving(r, line, update);
  const double started = clock_seconds();
  TRY(collect(r, r->iteration + 1)); // before it learns, where it does both
  if (comm_rank(r->comm) == 0) take_costs(r, r->iteration + 1, clock_seconds() - started, 0, line);
  return learn(r, line, update);
}

static struct error *iterate(struct run *r, enum stop *stop) {
  const double started = clock_seconds();
  const bool first = comm_rank(r->comm) == 0;
  r->running = r->iteration;
  r->running_since = started;
  if (first) run_keep_learned(r);
  struct metrics_line line = {.eval_return = NAN, .eval_error = NAN};
  struct update_report update = {0};
  TRY(run_overlaps(r) ? learn_and_collect_ahead(r, &line, &update) : collect_and_learn(r, &line, &update));
  if (first) take_reports(r, r->iteration, &line);
  r->learn_seconds = update.value_seconds + update.policy_seconds;
  r->iteration += 1;
  TRY(run_publish(r, false));
  const double worked = clock_seconds() - started;
  const int64_t every = r->config.eval.every;
  if (every > 0 && (r->iteration % every == 0 || r->iteration == r->sizes.iterations)) TRY(evaluate(r, &line));
  int asked = run_is_dropped(r) ? DROPPED : run_signal();
  TRY(comm_max(r->comm, &asked)); // whether it is dropped, too, is the word of all ranks
  if (asked == DROPPED) return drop(r, stop);
  struct error *e = comm_agree(r->comm, first ? complete(r, &line, &update, asked, started, stop) : NULL);
  r->agreed = e != NULL;
  r->running = -1;
  if (e != NULL) return e;
  TRY(comm_broadcast(r->comm, stop, sizeof *stop));
  return *stop == STOP_NOT ? run_balance(r, worked) : NULL;
}

// After a death, the ranks that are left: the run goes on from where the running iteration started, if that was not
// complete, with the dead ranks' shards among the others.
static struct error *take_over(struct run *r, enum stop *stop) {
  const bool first = comm_rank(r->comm) == 0;
  if (first && r->running >= 0) {
    run_return_to_kept(r);
    r->iteration = r->running;
  }
  TRY(comm_broadcast(r->comm, &r->iteration, sizeof r->iteration));
  TRY(comm_broadcast(r->comm, stop, sizeof *stop));
  r->running = -1;
  atomic_store(&r->dropped, -1);
  r->told = false; // rank 0 may not have read it
  if (*stop != STOP_NOT) {
    struct error *e = comm_agree(r->comm, first && r->saved != r->iteration ? run_save(r, false, true) : NULL);
    r->agreed = e != NULL;
    return e;
  }
  struct placement p;
  TRY(placement_even(&p, r->sizes.shards, r->mode, comm_size(r->comm)));
  return run_place(r, &p);
}

// After each piece of the run: whether all ranks have come this far. If not, *e becomes null on those that are left, or why
// none of them goes on.
static bool all_are_here(struct run *r, struct error **e) {
  char died[DIED_BYTES], rest[DIED_BYTES];
  if (comm_whole(r->comm)) return true;
  error_free(*e);
  *e = comm_regroup(r->comm, died, sizeof died);
  r->agreed = true;
  if (*e != NULL || comm_rank(r->comm) != 0) return false;
  const int left = comm_size(r->comm);
  const int64_t from = r->running >= 0 ? r->running : r->iteration;
  if (left == 1) snprintf(rest, sizeof rest, "the rank that is left goes on from iteration %" PRId64, from);
  else snprintf(rest, sizeof rest, "the %d ranks that are left go on from iteration %" PRId64, left, from);
  run_warn(r, died, rest);
  return false;
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
                  .collected = -1,
                  .running = -1,
                  .dropped = -1};
  struct checkpoint loaded = {0};
  enum stop stop = STOP_NOT;
  run_watch_signals();
  struct error *e = prepare(&r, &loaded);
  checkpoint_free(&loaded);
  if (!comm_whole(comm)) {
    char died[DIED_BYTES];
    error_free(e);
    e = comm_regroup(comm, died, sizeof died);
    if (e == NULL) e = error_new(EXIT_CODE_FAILED, "%s before the first iteration", died);
  }
  if (e == NULL && comm_rank(comm) == 0) announce(&r);
  if (e == NULL && r.iteration >= r.sizes.iterations) {
    stop = STOP_COMPLETE;
    if (comm_rank(comm) == 0) printf("%s is complete: nothing to do\n", options->run);
  }
  for (bool here = true; e == NULL && (stop == STOP_NOT || !here);) {
    r.agreed = false;
    e = here ? iterate(&r, &stop) : take_over(&r, &stop);
    if (e != NULL && !r.agreed && !comm_torn(comm)) break; // this rank's alone
    here = all_are_here(&r, &e);
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
