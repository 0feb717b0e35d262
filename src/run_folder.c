#include "run.h"

#include <cblas.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/text.h"
#include "version.h"

enum { PATH_BYTES = 4096 };
enum { WARNING_SECONDS = 60 }; // between two warnings of one kind

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

struct error *run_read_config(struct run *r, struct checkpoint *c, bool *found) {
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
                         .env_state = r->env_state,
                         .ahead = run_overlaps(r)};
  if (c.ahead) {
    c.acting = r->previous;
    c.acting_count = r->previous_moments[0];
    c.acting_mean = r->previous_moments + 1;
    c.acting_m2 = c.acting_mean + c.obs_dim;
  }
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

struct error *run_restore(struct run *r, const struct checkpoint *c) {
  if (strcmp(c->task_name, r->task->kind->name) != 0 || c->parameter_count != r->learned.count ||
      c->obs_dim != r->task->obs_dim || c->envs != r->config.rollout.envs ||
      c->state_size != (int64_t)r->layout.state_size)
    return error_new(EXIT_CODE_FAILED,
                     "the checkpoint of task %s has %zu parameters, %d observations and %" PRId64
                     " numbers a state; task %s here has %zu, %d and %zu",
                     c->task_name, c->parameter_count, c->obs_dim, c->state_size, r->task->kind->name, r->learned.count,
                     r->task->obs_dim, r->layout.state_size);
  if (run_overlaps(r) && !c->ahead)
    return error_new(EXIT_CODE_FAILED,
                     "the checkpoint lacks the acting weights with which 'cluster.pipeline: overlap' goes on");
  const size_t bytes = r->learned.count * sizeof(float);
  memcpy(r->learned.parameters, c->parameters, bytes);
  memcpy(r->learned.adam_m, c->adam_m, bytes);
  memcpy(r->learned.adam_v, c->adam_v, bytes);
  r->learned.adam_step = c->adam_step;
  moments_join(c->obs_dim, c->normalizer_count, c->normalizer_mean, c->normalizer_m2, r->learned.normalizer.moments);
  if (c->ahead) {
    memcpy(r->previous, c->acting, bytes);
    moments_join(c->obs_dim, c->acting_count, c->acting_mean, c->acting_m2, r->previous_moments);
  }
  memcpy(r->env_state, c->env_state, (size_t)c->envs * (size_t)c->state_size * sizeof(double));
  r->iteration = r->saved = c->iteration;
  r->episodes = c->episodes;
  r->wall_before = c->wall_seconds;
  r->best_return = c->best_return;
  return NULL;
}

void run_warn(struct run *r, const char *text, const char *consequence) {
  char line[PATH_BYTES + 512];
  snprintf(line, sizeof line, "%s; %s", text, consequence);
  metrics_end_bar(&r->metrics);
  metrics_warn(NULL, line);
}

void run_append_metrics(struct run *r, const struct metrics_line *line) {
  struct error *e = metrics_append(&r->metrics, line);
  if (e != NULL && !r->metrics_behind) run_warn(r, e->text, "training goes on");
  r->metrics_behind = e != NULL;
  error_free(e);
}

struct error *run_save(struct run *r, bool best, bool last) {
  TRY(run_lock_check(r->lock));
  const double started = clock_seconds();
  struct error *e = save(r, best);
  r->save_seconds += clock_seconds() - started;
  const bool told = r->unsaved && clock_seconds() - r->last_warning < WARNING_SECONDS;
  r->unsaved = e != NULL;
  if (e == NULL || last) return e;
  if (!told) {
    run_warn(r, e->text, "training goes on, and tries again after each iteration");
    r->last_warning = clock_seconds();
  }
  error_free(e);
  return NULL;
}

void run_name_checkpoint(const struct run *r, char words[RUN_WORDS_BYTES]) {
  char name[CHECKPOINT_NAME_BYTES];
  checkpoint_name(r->saved, name);
  if (r->saved < 0) snprintf(words, RUN_WORDS_BYTES, "there is no checkpoint yet");
  else snprintf(words, RUN_WORDS_BYTES, "the last good checkpoint is %s/checkpoints/%s", r->options->run, name);
}

// --- The folder ---

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
  fprintf(f, "{\"time\": %lld, \"iteration\": %" PRId64 ", \"host\": ", (long long)time(NULL), r->iteration);
  text_print_json(host, f);
  fprintf(f, ", \"pid\": %d, \"job\": ", (int)getpid());
  text_print_json(job ? job : "", f);
  fprintf(f,
          ", \"ranks\": %d, \"learners\": %d, \"threads\": %d, \"flowrank\": \"%s\", \"mujoco\": \"%s\", "
          "\"mpi\": \"%s\", \"hdf5\": \"%s\", \"blas\": \"%s\", \"command\": ",
          comm_size(r->comm), r->placement.learners, r->threads, FLOWRANK_VERSION, mj_versionString(), mpi, hdf5,
          openblas_get_config());
  text_print_json(r->options->command_line, f);
  fputs("}\n", f);
  return fclose(f) == 0 ? NULL : error_new(EXIT_CODE_FAILED, "%s: %s", path, strerror(errno));
}

static void print_counts(const struct placement *p, const char *key, const int *rank_of, FILE *f) {
  fprintf(f, ", \"%s\": ", key);
  for (int i = 0; i < p->ranks; ++i) fprintf(f, "%s%d", i == 0 ? "[" : ", ", placement_count(p, rank_of, i));
  fputs("]", f);
}

void run_tell_placement(struct run *r, const char *text) {
  char path[PATH_BYTES + 32];
  metrics_end_bar(&r->metrics);
  puts(text);
  fflush(stdout);
  snprintf(path, sizeof path, "%s/launches.jsonl", r->options->run);
  FILE *f = fopen(path, "a");
  if (f == NULL) return; // it is said, and a full disk does not end a run
  fprintf(f, "{\"time\": %lld, \"iteration\": %" PRId64, (long long)time(NULL), r->iteration);
  print_counts(&r->placement, "acts", r->placement.actor_of, f);
  print_counts(&r->placement, "learns", r->placement.learner_of, f);
  fputs(", \"placement\": ", f);
  text_print_json(text, f);
  fputs("}\n", f);
  fclose(f);
}

struct error *run_open_folder(struct run *r, const char *recent) {
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
