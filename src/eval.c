#include "eval.h"

#include <cblas.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "actor/evaluate.h"
#include "actor/multimodality.h"
#include "actor/tasks/gridworld.h"
#include "actor/tracking.h"
#include "common/clock.h"
#include "common/text.h"
#include "loaded_policy.h"
#include "train.h"

// One way to make actions, and what came of it.
struct evaluated {
  enum sampler_kind sampler;
  int flow_steps, evaluations; // of the network for an action
  double mean, error, length, seconds, action_seconds;
};

static const char *acting_name(const struct loaded_policy *p, const struct evaluated *r) {
  return p->config.objective.kind == OBJECTIVE_PPO ? "gaussian" : config_sampler_name(r->sampler);
}

// The object without its closing brace. timed: with the time that an action takes, which is another one each time.
static void print_json(const struct loaded_policy *p, const struct evaluation *v, const struct evaluated *r, bool timed,
                       FILE *out) {
  fprintf(out, "{\"checkpoint\": ");
  text_print_json(p->path, out);
  fprintf(out,
          ", \"task\": \"%s\", \"iteration\": %" PRId64 ", \"sampler\": \"%s\", \"steps\": %d, \"noise\": %d, "
          "\"evaluations\": %d, \"episodes\": %" PRId64 ", \"seed\": %" PRIu64 ", \"mean_return\": %.9g, "
          "\"standard_error\": %.9g, \"mean_length\": %.9g, \"seconds\": %.3f",
          p->task->kind->name, p->checkpoint.iteration, acting_name(p, r), r->flow_steps, v->acting.noise,
          r->evaluations, v->episodes, v->acting.seed, r->mean, r->error, r->length, r->seconds);
  if (timed) fprintf(out, ", \"microseconds_per_action\": %.4g", 1e6 * r->action_seconds);
}

static void print_evaluation(const struct loaded_policy *p, const struct evaluation *v, const struct evaluated *r,
                             FILE *out) {
  fprintf(out, "%s\n%s, iteration %" PRId64 ", ", p->path, p->task->kind->name, p->checkpoint.iteration);
  if (p->config.objective.kind == OBJECTIVE_PPO)
    fprintf(out, "%s", v->acting.noise ? "Gaussian, sampled" : "Gaussian's mean");
  else fprintf(out, "%s with %d steps from %s", acting_name(p, r), r->flow_steps, v->acting.noise ? "noise" : "zero");
  fprintf(out, "\n%" PRId64 " episodes: mean return %.2f ± %.2f (standard error), mean length %.1f\n", v->episodes,
          r->mean, r->error, r->length);
}

// tracking: null but for humanoid_track.
static void print_table_row(const struct loaded_policy *p, const struct evaluation *v, const struct evaluated *r,
                            const struct tracking *tracking, bool first, FILE *out) {
  if (first)
    fprintf(out, "%s\n%s, iteration %" PRId64 ", %" PRId64 " episodes from %s\n%-10s %6s %12s %24s %16s%s\n", p->path,
            p->task->kind->name, p->checkpoint.iteration, v->episodes, v->acting.noise ? "noise" : "zero", "sampler",
            "steps", "evaluations", "mean return ± error", "µs an action",
            tracking ? "  success %  alive steps  MPJPE mm" : "");
  fprintf(out, "%-10s %6d %12d %14.2f ± %7.2f %15.2f", acting_name(p, r), r->flow_steps, r->evaluations, r->mean,
          r->error, 1e6 * r->action_seconds);
  if (tracking != NULL) {
    const struct tracking_figures f = tracking_figures(tracking, -1);
    fprintf(out, " %10.1f %12.2f %9.2f", 100 * f.success, f.alive, f.mpjpe);
  }
  fputc('\n', out);
  fflush(out);
}

static struct error *evaluate_once(const struct loaded_policy *p, struct evaluation *v, bool timed,
                                   struct episode_result *results, struct evaluated *r) {
  const double started = clock_seconds();
  v->acting.sampler = r->sampler;
  v->acting.flow_steps = r->flow_steps;
  TRY(evaluate_all(v, train_threads(&p->config, 1), results));
  evaluate_summary(v->episodes, results, &r->mean, &r->error, &r->length);
  r->seconds = clock_seconds() - started;
  r->evaluations = policy_evaluations(&p->objective.policy, &v->acting);
  return timed ? evaluate_action_seconds(v, &r->action_seconds) : NULL;
}

// --sampler and --steps against what the policy is.
static struct error *check_choices(const struct loaded_policy *p, const struct eval_options *o) {
  const bool grid = gridworld_of(p->task) != NULL;
  if (!grid && (o->field != NULL || o->start != NULL))
    return error_new(EXIT_CODE_USAGE, "--%s: %s is a run of %s, and only a GridWorld has cells",
                     o->field ? "field" : "start", p->path, p->task->kind->name);
  if ((o->field != NULL || o->start != NULL) && (o->sampler_count > 1 || o->step_count > 1))
    return error_new(EXIT_CODE_USAGE, "--%s takes one sampler and one number of steps", o->field ? "field" : "start");
  if (o->start != NULL) TRY(multimodality_check_start(p->task, o->start));
  if (o->sampler_count > 0) return loaded_policy_needs_flow(p, "sampler");
  return o->step_count > 0 ? loaded_policy_needs_flow(p, "steps") : NULL;
}

static struct error *write_field(const struct evaluation *v, const struct multimodality *m, const char *path) {
  FILE *out = fopen(path, "w");
  if (out == NULL) return error_new(EXIT_CODE_FAILED, "%s: %s", path, strerror(errno));
  struct error *e = multimodality_write_field(v, m, out);
  const bool failed = ferror(out) != 0;
  if ((fclose(out) != 0 || failed) && e == NULL) e = error_new(EXIT_CODE_FAILED, "%s: %s", path, strerror(errno));
  return e;
}

// What only a GridWorld has, after its return.
static struct error *evaluate_grid(const struct evaluation *v, const struct eval_options *o, FILE *out) {
  struct multimodality m;
  TRY(multimodality_measure(v, o->start, &m));
  if (o->json) fputs(", \"gridworld\": {", out);
  multimodality_print(&m, o->json, out);
  if (o->json) fputc('}', out);
  struct error *e = o->field ? write_field(v, &m, o->field) : NULL;
  multimodality_free(&m);
  return e;
}

static void print_tracking(const struct tracking *t, bool json, FILE *out) {
  if (json) fputs(", \"tracking\": {", out);
  tracking_print(t, json, out);
  if (json) fputc('}', out);
}

// The i-th of `count` combinations. One alone is told in full; more are rows of a table.
static struct error *evaluate_nth(const struct loaded_policy *p, const struct eval_options *o, int i, int count,
                                  struct evaluation *v, const struct tracking *tracking, struct episode_result *results,
                                  FILE *out) {
  const bool table = count > 1;
  const int steps = o->step_count > 0 ? o->step_count : 1;
  struct evaluated r = {.sampler = v->acting.sampler, .flow_steps = v->acting.flow_steps};
  if (o->sampler_count > 0) r.sampler = o->sampler[i / steps];
  if (o->step_count > 0) r.flow_steps = o->steps[i % steps];
  TRY(evaluate_once(p, v, table, results, &r));
  if (!o->json && table) print_table_row(p, v, &r, tracking, i == 0, out);
  else if (!o->json) print_evaluation(p, v, &r, out);
  if (o->json) {
    if (table) fputs(i == 0 ? "[" : ",\n ", out);
    print_json(p, v, &r, table, out);
  }
  if (!table && gridworld_of(p->task) != NULL) TRY(evaluate_grid(v, o, out));
  if (tracking != NULL && (o->json || !table)) print_tracking(tracking, o->json, out);
  if (o->json) fputs(!table ? "}\n" : i == count - 1 ? "}]\n" : "}", out);
  return NULL;
}

static struct error *evaluate_all_choices(const struct loaded_policy *p, const struct eval_options *o,
                                          struct evaluation *v, const struct tracking *tracking, FILE *out) {
  struct episode_result *results = calloc((size_t)v->episodes + EVALUATE_BLOCK, sizeof *results);
  if (results == NULL) return error_no_memory("evaluation results");
  openblas_set_num_threads(1);
  const int count = (o->sampler_count > 0 ? o->sampler_count : 1) * (o->step_count > 0 ? o->step_count : 1);
  struct error *e = NULL;
  for (int i = 0; e == NULL && i < count; ++i) e = evaluate_nth(p, o, i, count, v, tracking, results, out);
  free(results);
  return e;
}

static struct error *evaluate_policy(const struct loaded_policy *p, const struct eval_options *o, FILE *out) {
  TRY(check_choices(p, o));
  struct evaluation v = loaded_policy_evaluation(p, o->episodes, o->seed, o->noise);
  struct tracking tracking;
  if (humanoid_track_library(p->task) == NULL) return evaluate_all_choices(p, o, &v, NULL, out);
  TRY(tracking_init(&tracking, &v));
  struct error *e = evaluate_all_choices(p, o, &v, &tracking, out);
  tracking_free(&tracking);
  return e;
}

struct error *eval(const struct eval_options *o, FILE *out) {
  struct loaded_policy p;
  struct error *e = loaded_policy_init(&p, o->name);
  if (e == NULL) e = evaluate_policy(&p, o, out);
  loaded_policy_free(&p);
  return e;
}
