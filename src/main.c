// Commands and their --help; nothing else.
#include <cblas.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "actor/task.h"
#include "bench.h"
#include "common/checkpoint.h"
#include "common/comm.h"
#include "common/config.h"
#include "common/metrics.h"
#include "eval.h"
#include "motion.h"
#include "plan.h"
#include "render.h"
#include "train.h"
#include "version.h"

enum { MAX_SETS = 256 };

enum { DEFAULT_GRACE = 20 }; // seconds

// render's, unless it is told otherwise.
enum { DEFAULT_WIDTH = 640, DEFAULT_HEIGHT = 480, DEFAULT_FPS = 25, DEFAULT_FRAMES = 5 };

// What the options of all commands add up to; each command allows a subset.
struct arguments {
  const char *run;
  char command_line[4096];
  const char *sets[MAX_SETS];
  int set_count;
  struct eval_options eval;
  struct plan_options plan;
  int start[2];                 // eval's
  struct render_options render; // its `eval` is the one above
  struct motion_import_options motion;
  int64_t max_iterations, obs_dim, action_dim;
  int64_t grace;
  double max_wall;
  bool fresh, json, reference, help;
  int operand_count;
  char **operands;
};

enum option_code {
  OPTION_RUN = 1 << 8,
  OPTION_SET,
  OPTION_MAX_WALL,
  OPTION_MAX_ITERATIONS,
  OPTION_GRACE,
  OPTION_FRESH,
  OPTION_EPISODES,
  OPTION_STEPS,
  OPTION_SAMPLER,
  OPTION_NOISE,
  OPTION_START,
  OPTION_FIELD,
  OPTION_SEED,
  OPTION_LENGTH,
  OPTION_CAMERA,
  OPTION_WIDTH,
  OPTION_HEIGHT,
  OPTION_FPS,
  OPTION_FRAMES,
  OPTION_BARE,
  OPTION_JSON,
  OPTION_REFERENCE,
  OPTION_OBS_DIM,
  OPTION_ACTION_DIM,
  OPTION_NODES,
  OPTION_CORES,
  OPTION_RANKS,
  OPTION_NET,
  OPTION_LATENCY,
  OPTION_MODEL,
  OPTION_RATE,
};

static struct error *usage(const char *format, const char *what) {
  char text[512];
  snprintf(text, sizeof text, format, what); // NOLINT: formats are this file's own
  return error_new(EXIT_CODE_USAGE, "%s", text);
}

static struct error *read_count(const char *name, const char *text, int64_t least, int64_t *out) {
  char *end;
  const long long value = strtoll(text, &end, 10);
  if (*text == '\0' || *end != '\0' || value < least || value > INT32_MAX)
    return error_new(EXIT_CODE_USAGE, "--%s '%.100s' is not a whole number of at least %" PRId64, name, text, least);
  *out = value;
  return NULL;
}

// HH:MM:SS, MM:SS or seconds; each part digits alone.
static struct error *read_duration(const char *text, double *seconds) {
  enum { MOST_PARTS = 3, MOST_DIGITS = 9 };
  const char *at = text;
  *seconds = 0;
  for (int part = 0; part < MOST_PARTS; ++part) {
    const size_t digits = strspn(at, "0123456789");
    if (digits == 0 || digits > MOST_DIGITS) break;
    *seconds = 60 * *seconds + (double)strtol(at, NULL, 10);
    at += digits;
    if (*at != ':') break;
    ++at;
  }
  if (*at != '\0' || at == text || at[-1] == ':')
    return usage("--max-wall '%.100s' is not a time such as 01:30:00", text);
  return *seconds > 0 ? NULL : usage("--max-wall '%.100s' leaves no time", text);
}

// A list "a,b,c", cut up.
struct list {
  char text[1024];
  char *item[EVAL_MAX_LIST];
};

// Returns how many items; 0: an empty one, or too many.
static int split(const char *text, struct list *list) {
  int count = 0;
  if (strlen(text) >= sizeof list->text) return 0;
  snprintf(list->text, sizeof list->text, "%s", text);
  for (char *next = list->text; next != NULL; ++count) {
    if (count == EVAL_MAX_LIST) return 0;
    list->item[count] = strsep(&next, ",");
    if (list->item[count][0] == '\0') return 0;
  }
  return count;
}

static struct error *read_samplers(const char *text, struct eval_options *o) {
  struct list list;
  o->sampler_count = split(text, &list);
  if (o->sampler_count == 0) return usage("--sampler '%.100s' is not a list such as euler,heun", text);
  for (int i = 0; i < o->sampler_count; ++i) TRY(config_sampler_parse(list.item[i], &o->sampler[i]));
  return NULL;
}

static struct error *read_steps(const char *text, struct eval_options *o) {
  struct list list;
  o->step_count = split(text, &list);
  if (o->step_count == 0) return usage("--steps '%.100s' is not a list such as 1,2,5,10", text);
  for (int i = 0; i < o->step_count; ++i) {
    int64_t steps;
    TRY(read_count("steps", list.item[i], 1, &steps));
    o->steps[i] = (int)steps;
  }
  return NULL;
}

// Cores or ranks of a node.
static struct error *read_small(const char *name, const char *text, int *out) {
  enum { MOST = 4096 };
  int64_t count;
  TRY(read_count(name, text, 1, &count));
  if (count > MOST) return error_new(EXIT_CODE_USAGE, "--%s '%.100s' is more than %d", name, text, MOST);
  *out = (int)count;
  return NULL;
}

static struct error *bad_nodes(const char *text) {
  return usage("--nodes '%.100s' is not a list such as 1,2,4,...,256", text);
}

// Numbers of nodes; "..." goes on by doubling.
static struct error *read_nodes(const char *text, struct plan_options *o) {
  struct list list;
  const int items = split(text, &list);
  o->sizes = 0;
  if (items == 0) return bad_nodes(text);
  for (int i = 0; i < items; ++i) {
    int64_t nodes, next = o->sizes > 0 ? o->nodes[o->sizes - 1] : 0;
    const bool doubling = strcmp(list.item[i], "...") == 0;
    if (doubling && (next == 0 || ++i == items)) return bad_nodes(text);
    TRY(read_count("nodes", list.item[i], 1, &nodes));
    if (nodes > PLAN_MAX_NODES) return usage("--nodes '%.100s' is more than 65536", list.item[i]);
    for (next *= 2; doubling && next < nodes && o->sizes < PLAN_MAX_SIZES; next *= 2) o->nodes[o->sizes++] = (int)next;
    if (o->sizes == PLAN_MAX_SIZES) return bad_nodes(text);
    o->nodes[o->sizes++] = (int)nodes;
  }
  return NULL;
}

// A positive number with one of `units` (each with its value), the whole word.
static struct error *read_quantity(const char *text, const char *format, int count, const char *const *units,
                                   const double *values, double *out) {
  char *end;
  const double number = strtod(text, &end);
  for (int i = 0; i < count; ++i)
    if (end != text && strcmp(end, units[i]) == 0 && number > 0 && number < 1e12) {
      *out = number * values[i];
      return NULL;
    }
  return usage(format, text);
}

static struct error *read_bandwidth(const char *text, double *bytes_per_second) {
  static const char *const units[] = {"", "K", "M", "G", "T"};
  static const double values[] = {1 / 8.0, 1e3 / 8, 1e6 / 8, 1e9 / 8, 1e12 / 8};
  return read_quantity(text, "--net '%.100s' is not a bandwidth in bits per second such as 100G, 10G or 500M", 5, units,
                       values, bytes_per_second);
}

static struct error *read_latency(const char *text, double *seconds) {
  static const char *const units[] = {"s", "ms", "us", "ns"};
  static const double values[] = {1, 1e-3, 1e-6, 1e-9};
  return read_quantity(text, "--latency '%.100s' is not a time such as 2us or 0.2ms", 4, units, values, seconds);
}

static struct error *read_cell(const char *text, struct arguments *a) {
  char junk;
  if (sscanf(text, "%d,%d%c", &a->start[0], &a->start[1], &junk) != 2)
    return usage("--start '%.100s' is not a cell such as 12,12", text);
  a->eval.start = a->start;
  return NULL;
}

static struct error *read_rate(const char *text, double *rate) {
  const double most = 1000;
  char *end;
  *rate = strtod(text, &end);
  if (end != text && *end == '\0' && *rate > 0 && *rate <= most) return NULL;
  return usage("--rate '%.100s' is not a number of frames a second, such as 30", text);
}

static struct error *take_option(struct arguments *a, int option, const char *value) {
  switch (option) {
  case OPTION_RUN:
    a->run = value;
    return *value != '\0' ? NULL : usage("--run '%s' is not a folder's name", value);
  case OPTION_GRACE:
    return read_count("grace", value, 0, &a->grace);
  case OPTION_MAX_WALL:
    return read_duration(value, &a->max_wall);
  case OPTION_MAX_ITERATIONS:
    return read_count("max-iterations", value, 1, &a->max_iterations);
  case OPTION_FRESH:
    a->fresh = true;
    return NULL;
  case OPTION_EPISODES:
    return read_count("episodes", value, 1, &a->eval.episodes);
  case OPTION_STEPS:
    return read_steps(value, &a->eval);
  case OPTION_SAMPLER:
    return read_samplers(value, &a->eval);
  case OPTION_NOISE:
    if (strcmp(value, "0") != 0 && strcmp(value, "1") != 0) return usage("--noise '%.100s' is neither 0 nor 1", value);
    a->eval.noise = *value == '1';
    return NULL;
  case OPTION_START:
    return read_cell(value, a);
  case OPTION_FIELD:
    a->eval.field = value;
    return *value != '\0' ? NULL : usage("--field '%s' is not a file's name", value);
  case OPTION_SEED:
    return read_count("seed", value, 0, &a->eval.seed);
  case 'o':
    a->render.output = value;
    return NULL;
  case OPTION_LENGTH:
    return read_count("length", value, 1, &a->render.length);
  case OPTION_CAMERA:
    a->render.camera = value;
    return NULL;
  case OPTION_WIDTH:
    return read_count("width", value, 1, &a->render.width);
  case OPTION_HEIGHT:
    return read_count("height", value, 1, &a->render.height);
  case OPTION_FPS:
    return read_count("fps", value, 1, &a->render.fps);
  case OPTION_FRAMES:
    return read_count("frames", value, 1, &a->render.frames);
  case OPTION_BARE:
    a->render.bare = true;
    return NULL;
  case OPTION_MODEL:
    a->motion.model = value;
    return NULL;
  case OPTION_RATE:
    return read_rate(value, &a->motion.fps);
  case OPTION_JSON:
    a->json = true;
    return NULL;
  case OPTION_REFERENCE:
    a->reference = true;
    return NULL;
  case OPTION_OBS_DIM:
    return read_count("obs-dim", value, 1, &a->obs_dim);
  case OPTION_ACTION_DIM:
    return read_count("action-dim", value, 1, &a->action_dim);
  case OPTION_NODES:
    return read_nodes(value, &a->plan);
  case OPTION_CORES:
    return read_small("cores", value, &a->plan.cluster.cores);
  case OPTION_RANKS:
    return read_small("ranks", value, &a->plan.cluster.ranks);
  case OPTION_NET:
    return read_bandwidth(value, &a->plan.cluster.bandwidth);
  case OPTION_LATENCY:
    return read_latency(value, &a->plan.cluster.latency);
  case OPTION_SET:
    if (a->set_count == MAX_SETS) return usage("more than 256 --set options, at '%.100s'", value);
    a->sets[a->set_count++] = value;
    return NULL;
  default:
    a->help = true;
    return NULL;
  }
}

// The ranks that a command runs on (null: this process alone), and how training on them ended.
struct job {
  struct comm *comm;
  enum train_end end;
};

struct command {
  const char *name, *usage, *help;
  int least, most; // operands
  bool parallel;   // may run under mpirun
  const struct option *options;
  struct error *(*run)(const struct arguments *a, struct job *job);
};

// The argument that getopt_long found fault with. In a bundle of short options it has not stepped behind it yet.
static const char *faulty_argument(int argc, char **argv) {
  for (int i = 1; optopt > 0 && optopt < OPTION_RUN && i < argc; ++i)
    if (argv[i][0] == '-' && argv[i][1] != '-' && strchr(argv[i] + 1, optopt) != NULL) return argv[i];
  return argv[optind - 1];
}

// -o only where the command writes a file.
static const char *short_options(const struct command *c) {
  for (const struct option *o = c->options; o->name != NULL; ++o)
    if (o->val == 'o') return ":ho:";
  return ":h";
}

static struct error *parse(const struct command *c, int argc, char **argv, struct arguments *a) {
  *a = (struct arguments){
      .grace = DEFAULT_GRACE,
      .eval = {.seed = -1, .noise = -1},
      .plan = {.cluster = {.cores = 64, .ranks = 1, .bandwidth = 100e9 / 8, .latency = 2e-6}},
      .render = {.width = DEFAULT_WIDTH, .height = DEFAULT_HEIGHT, .fps = DEFAULT_FPS, .frames = DEFAULT_FRAMES}};
  optind = 1;
  opterr = 0;
  for (int option; (option = getopt_long(argc, argv, short_options(c), c->options, NULL)) != -1;) {
    if (option == ':') return usage("option '%.100s' needs a value", argv[optind - 1]);
    if (option == '?')
      return error_new(EXIT_CODE_USAGE, "option '%.100s' is unknown to 'flowrank %s'; see flowrank %s --help",
                       faulty_argument(argc, argv), c->name, c->name);
    TRY(take_option(a, option, optarg));
  }
  a->operands = argv + optind;
  a->operand_count = argc - optind;
  if (a->help) return NULL;
  if (a->operand_count < c->least || a->operand_count > c->most)
    return error_new(EXIT_CODE_USAGE, "usage: flowrank %s", c->usage);
  return NULL;
}

// --- eval, render ---

static struct error *run_eval(const struct arguments *a, struct job *job) {
  (void)job;
  struct eval_options o = a->eval;
  o.name = a->operands[0];
  o.json = a->json;
  return eval(&o, stdout);
}

static struct error *run_render(const struct arguments *a, struct job *job) {
  (void)job;
  struct render_options o = a->render;
  o.eval = a->eval;
  o.eval.name = a->operands[0];
  if (o.eval.episodes == 0) o.eval.episodes = 1;
  return render(&o, stdout);
}

// --- info, diff, config, tasks ---

static struct error *run_info(const struct arguments *a, struct job *job) {
  (void)job;
  struct checkpoint c = {0};
  char *path = NULL;
  struct error *e = checkpoint_open(a->operands[0], &c, &path, metrics_warn, NULL);
  if (e == NULL) checkpoint_describe(&c, path, a->json, stdout);
  checkpoint_free(&c);
  free(path);
  return e;
}

static struct error *run_diff(const struct arguments *a, struct job *job) {
  (void)job;
  struct checkpoint c[2] = {0};
  char *path[2] = {NULL, NULL}, *difference = NULL;
  struct error *e = NULL;
  for (int i = 0; e == NULL && i < 2; ++i) e = checkpoint_open(a->operands[i], &c[i], &path[i], metrics_warn, NULL);
  if (e == NULL) difference = checkpoint_difference(&c[0], &c[1]);
  if (e == NULL && difference == NULL) printf("equal: %s and %s\n", path[0], path[1]);
  if (difference != NULL) e = error_new(EXIT_CODE_FAILED, "different: %s", difference);
  free(difference);
  for (int i = 0; i < 2; ++i) {
    checkpoint_free(&c[i]);
    free(path[i]);
  }
  return e;
}

static struct error *run_config(const struct arguments *a, struct job *job) {
  (void)job;
  struct config config;
  char *text;
  if (a->reference) return config_reference(stdout);
  if (a->operand_count == 0)
    return usage("usage: flowrank %s", "config CONFIG [--set key=value]... | config --reference");
  TRY(config_load(a->operands[0], a->set_count, a->sets, &config));
  TRY(config_print(&config, &text));
  fputs(text, stdout);
  free(text);
  return NULL;
}

// A count that a task of a body of the user's only has when it is opened is 0 here.
static const char *count_text(int count, const char *otherwise, char text[32]) {
  if (count == 0) return otherwise;
  snprintf(text, 32, "%d", count);
  return text;
}

static void describe_task(const struct task_kind *k) {
  char obs[32], act[32], length[32];
  printf("%s: %s\nsource       %s\nmodel        %s\nobservation  %s numbers: %s\naction       %s numbers in [-1,1]\n"
         "reward       %s\ntermination  %s\nepisode      %s control steps",
         k->name, k->summary, k->source,
         k->model  ? k->model
         : k->open ? "the motion library's"
                   : "none",
         count_text(k->obs_dim, "39 J - 2", obs), k->observation, count_text(k->action_dim, "as many as servos:", act),
         k->reward_text, k->termination, count_text(k->episode_length, "at most the longest clip's", length));
  if (k->physics_dt > 0) printf(" of %.4g s (physics step %.4g s)", k->control_dt, k->physics_dt);
  putchar('\n');
}

static void list_task(const struct task_kind *k) {
  char seconds[32] = "-", obs[32], act[32];
  if (k->control_dt > 0) snprintf(seconds, sizeof seconds, "%.4g", k->control_dt);
  printf("%-24s %5s %7s %9s  %s\n", k->name, count_text(k->obs_dim, "-", obs), count_text(k->action_dim, "-", act),
         seconds, k->source);
}

static struct error *run_tasks(const struct arguments *a, struct job *job) {
  (void)job;
  if (a->operand_count == 0) printf("%-24s %5s %7s %9s  %s\n", "task", "obs", "action", "control s", "source");
  for (int i = 0; i < task_count(); ++i) {
    const struct task_kind *k = task_kind_at(i);
    if (a->operand_count == 0) list_task(k);
    else if (strcmp(k->name, a->operands[0]) == 0) {
      describe_task(k);
      return NULL;
    }
  }
  if (a->operand_count == 0) return NULL;
  struct task *task;
  struct error *e = task_open(a->operands[0], NULL, NULL, &task); // for its word on unknown names
  task_close(task);
  return e;
}

// --- motion ---

static struct error *run_motion_import(const struct arguments *a) {
  struct motion_import_options o = a->motion;
  if (a->render.output == NULL || *a->render.output == '\0')
    return usage("motion %s needs -o FILE, the library to write", "import");
  o.out = a->render.output;
  o.source_count = a->operand_count - 1;
  o.sources = a->operands + 1;
  return motion_import(&o, stdout);
}

static struct error *run_motion(const struct arguments *a, struct job *job) {
  (void)job;
  const char *verb = a->operands[0];
  const int count = a->operand_count;
  const char *clip = count == 3 ? a->operands[2] : NULL;
  if (strcmp(verb, "import") == 0) return run_motion_import(a);
  if (strcmp(verb, "play") == 0 && (count == 2 || count == 3))
    return motion_play(&(struct motion_play_options){a->operands[1], clip, a->render.output, a->render.camera,
                                                     a->render.width, a->render.height, a->render.fps},
                       stdout);
  if (strcmp(verb, "list") != 0 && strcmp(verb, "show") != 0 && strcmp(verb, "play") != 0)
    return usage("motion '%.100s' is unknown: import, list, show or play", verb);
  if (a->render.output != NULL || a->motion.model != NULL || a->motion.fps > 0)
    return usage("motion %.100s takes no option but --json", verb);
  if (strcmp(verb, "list") == 0 && count == 2) return motion_list(a->operands[1], a->json, stdout);
  if (strcmp(verb, "show") == 0 && (count == 2 || count == 3))
    return motion_show(a->operands[1], clip, a->json, stdout);
  return usage("usage: flowrank motion %s", verb[0] == 'l'   ? "list LIBRARY [--json]"
                                            : verb[0] == 's' ? "show LIBRARY [CLIP] [--json]"
                                                             : "play LIBRARY [CLIP] -o FILE");
}

// --- train and bench, the commands that may run on many ranks ---

static struct error *train_options(const struct arguments *a, struct train_options *o) {
  *o = (struct train_options){.config = a->operands[0],
                              .run = a->run,
                              .set_count = a->set_count,
                              .sets = a->sets,
                              .max_wall_seconds = a->max_wall,
                              .max_iterations = a->max_iterations,
                              .grace = (double)a->grace,
                              .fresh = a->fresh,
                              .command_line = a->command_line};
  if (o->run != NULL) return NULL;
  o->run = o->config; // `train RUN`
  o->config = NULL;
  return NULL;
}

static struct error *run_train(const struct arguments *a, struct job *job) {
  struct train_options options;
  TRY(train_options(a, &options));
  return train(job->comm, &options, &job->end);
}

static struct error *run_bench(const struct arguments *a, struct job *job) {
  struct config config;
  const char *what = a->operands[0];
  TRY(comm_agree(job->comm, config_load(a->operands[1], a->set_count, a->sets, &config)));
  if (strcmp(what, "wire") == 0)
    return bench_wire(job->comm, &config, a->json, comm_rank(job->comm) == 0 ? stdout : NULL);
  const bool env = strcmp(what, "env") == 0, rollout = strcmp(what, "rollout") == 0;
  const bool products = strcmp(what, "products") == 0;
  if (!env && !rollout && !products && strcmp(what, "update") != 0)
    return usage("benchmark '%.100s' is unknown: env, rollout, update, products or wire", what);
  if (comm_size(job->comm) > 1) return usage("bench %s measures one process: start it without mpirun", what);
  if (env) return bench_env(&config, a->json, stdout);
  if (rollout) return bench_rollout(&config, a->json, stdout);
  const int obs_dim = (int)a->obs_dim, action_dim = (int)a->action_dim;
  if (products) return bench_products(&config, obs_dim, action_dim, a->json, stdout);
  return bench_update(job->comm, &config, obs_dim, action_dim, a->json, stdout);
}

static struct error *run_plan(const struct arguments *a, struct job *job) {
  struct config config;
  if (comm_size(job->comm) > 1) return usage("%s measures one process: start it without mpirun", "plan");
  TRY(config_load(a->operands[0], a->set_count, a->sets, &config));
  struct plan_options options = a->plan;
  options.json = a->json;
  if (options.sizes == 0) TRY(read_nodes("1,2,4,...,256", &options));
  return plan(job->comm, &config, &options, stdout);
}

// --- The table of commands ---

#define HELP                                                                                                           \
  { "help", no_argument, NULL, 'h' }
#define END                                                                                                            \
  { NULL, 0, NULL, 0 }
#define TAKES(name, option)                                                                                            \
  { name, required_argument, NULL, option }
#define FLAG(name, option)                                                                                             \
  { name, no_argument, NULL, option }

static const struct option TRAIN_OPTIONS[] = {TAKES("run", OPTION_RUN),
                                              TAKES("set", OPTION_SET),
                                              TAKES("max-wall", OPTION_MAX_WALL),
                                              TAKES("max-iterations", OPTION_MAX_ITERATIONS),
                                              TAKES("grace", OPTION_GRACE),
                                              FLAG("fresh", OPTION_FRESH),
                                              HELP,
                                              END};
static const struct option EVAL_OPTIONS[] = {TAKES("episodes", OPTION_EPISODES),
                                             TAKES("steps", OPTION_STEPS),
                                             TAKES("sampler", OPTION_SAMPLER),
                                             TAKES("noise", OPTION_NOISE),
                                             TAKES("start", OPTION_START),
                                             TAKES("field", OPTION_FIELD),
                                             TAKES("seed", OPTION_SEED),
                                             FLAG("json", OPTION_JSON),
                                             HELP,
                                             END};
static const struct option RENDER_OPTIONS[] = {TAKES("output", 'o'),
                                               TAKES("episodes", OPTION_EPISODES),
                                               TAKES("length", OPTION_LENGTH),
                                               TAKES("camera", OPTION_CAMERA),
                                               TAKES("width", OPTION_WIDTH),
                                               TAKES("height", OPTION_HEIGHT),
                                               TAKES("fps", OPTION_FPS),
                                               TAKES("frames", OPTION_FRAMES),
                                               FLAG("bare", OPTION_BARE),
                                               TAKES("steps", OPTION_STEPS),
                                               TAKES("sampler", OPTION_SAMPLER),
                                               TAKES("noise", OPTION_NOISE),
                                               TAKES("seed", OPTION_SEED),
                                               HELP,
                                               END};
static const struct option INFO_OPTIONS[] = {FLAG("json", OPTION_JSON), HELP, END};
static const struct option NO_OPTIONS[] = {HELP, END};
static const struct option CONFIG_OPTIONS[] = {TAKES("set", OPTION_SET), FLAG("reference", OPTION_REFERENCE), HELP,
                                               END};
static const struct option MOTION_OPTIONS[] = {TAKES("output", 'o'),
                                               TAKES("model", OPTION_MODEL),
                                               TAKES("rate", OPTION_RATE),
                                               TAKES("camera", OPTION_CAMERA),
                                               TAKES("width", OPTION_WIDTH),
                                               TAKES("height", OPTION_HEIGHT),
                                               TAKES("fps", OPTION_FPS),
                                               FLAG("json", OPTION_JSON),
                                               HELP,
                                               END};
static const struct option BENCH_OPTIONS[] = {TAKES("set", OPTION_SET),
                                              TAKES("obs-dim", OPTION_OBS_DIM),
                                              TAKES("action-dim", OPTION_ACTION_DIM),
                                              FLAG("json", OPTION_JSON),
                                              HELP,
                                              END};

static const struct option PLAN_OPTIONS[] = {TAKES("set", OPTION_SET),
                                             TAKES("nodes", OPTION_NODES),
                                             TAKES("cores", OPTION_CORES),
                                             TAKES("ranks", OPTION_RANKS),
                                             TAKES("net", OPTION_NET),
                                             TAKES("latency", OPTION_LATENCY),
                                             FLAG("json", OPTION_JSON),
                                             HELP,
                                             END};

static const struct command COMMANDS[] = {
    {"train",
     "train CONFIG --run DIR | train DIR  [--set key=value]... [--max-wall HH:MM:SS] [--max-iterations N]\n"
     "                     [--grace SECONDS] [--fresh]",
     "Trains; goes on from the newest checkpoint where DIR holds one. Also under mpirun or srun.\n"
     "  --run DIR             run folder (made when missing)\n"
     "  --set key=value       overrides a setting, may be repeated\n"
     "  --max-wall HH:MM:SS   stops early, with a checkpoint, before this wall time is over\n"
     "  --max-iterations N    stops early after N iterations of this launch\n"
     "  --grace SECONDS       from a signal to the end (default 20)\n"
     "  --fresh               refuses a run folder that is in use\n"
     "Exit code: 0 training complete, 75 stopped early (the same line goes on), 2 usage or config, 1 anything else.\n"
     "SIGTERM, SIGUSR1 and SIGINT stop after the iteration, or within the grace: what is left of an iteration that "
     "takes\n"
     "longer is dropped, and done again when the run goes on. A second SIGINT stops at once.\n",
     1, 1, true, TRAIN_OPTIONS, run_train},
    {"eval",
     "eval RUN|CHECKPOINT [--episodes N] [--sampler LIST] [--steps LIST] [--noise 0|1] [--seed S]\n"
     "                     [--start X,Y] [--field FILE] [--json]",
     "Runs whole episodes with the policy of a checkpoint; lists give a table of all their combinations.\n"
     "  --sampler LIST   euler, heun, midpoint or rk4, such as euler,heun\n"
     "  --steps LIST     integration steps, such as 1,2,5,10\n"
     "  --noise 0|1      1: a flow starts from noise, a Gaussian is sampled; 0: it starts at zero, the Gaussian's "
     "mean\n"
     "  --start X,Y      GridWorld: the cell from which the shares of the goals are counted\n"
     "  --field FILE     GridWorld: what tools/gridworld.py draws, as JSON\n"
     "  --json           one object, or for a table an array of them\n",
     1, 1, false, EVAL_OPTIONS, run_eval},
    {"render",
     "render RUN|CHECKPOINT -o FILE [--episodes N] [--length STEPS] [--camera NAME] [--width W] [--height H]\n"
     "                     [--fps F] [--frames N] [--bare] [--sampler S] [--steps K] [--noise 0|1] [--seed S]",
     "Draws the first episodes that eval would run with the same options. Needs ffmpeg, and EGL (tools/setup.sh "
     "--render).\n"
     "  -o FILE          .mp4, .gif, or .png: a sheet with a row of frames an episode\n"
     "  --episodes N     how many (default 1)\n"
     "  --length STEPS   at most so many control steps of each (default all)\n"
     "  --camera NAME    of the model, or its number there, track or free (default the model's first)\n"
     "  --width, --height   of a frame (default 640, 480)\n"
     "  --fps F          frames of a simulated second (default 25)\n"
     "  --frames N       of an episode on a sheet (default 5); 1: its end\n"
     "  --bare           no caption with episode, step, reward and return\n"
     "  --sampler, --steps, --noise, --seed   as for eval, one of each\n",
     1, 1, false, RENDER_OPTIONS, run_render},
    {"info", "info RUN|CHECKPOINT [--json]", "Describes a checkpoint.\n", 1, 1, false, INFO_OPTIONS, run_info},
    {"diff", "diff A B",
     "Compares two checkpoints (or the newest of two runs) bit by bit: parameters, optimizer, normaliser, environment\n"
     "states, counters. Exit code 0 when equal, 1 with the first difference named.\n",
     2, 2, false, NO_OPTIONS, run_diff},
    {"config", "config CONFIG [--set key=value]... | config --reference",
     "Prints the effective, validated config, or every setting with type, default, range and meaning.\n", 0, 1, false,
     CONFIG_OPTIONS, run_config},
    {"tasks", "tasks [NAME]", "Lists the tasks, or explains one.\n", 0, 1, false, NO_OPTIONS, run_tasks},
    {"motion",
     "motion import -o LIBRARY [--model MJCF] [--rate FPS] [SOURCE]... | motion list LIBRARY [--json]\n"
     "                     | motion show LIBRARY [CLIP] [--json]\n"
     "                     | motion play LIBRARY [CLIP] -o FILE [--camera NAME] [--width W] [--height H] [--fps F]",
     "Libraries of reference motion, for the task humanoid_track.\n"
     "  import           reads DeepMimic's JSON clips and dm_control's mocap HDF5, files or folders, and writes a "
     "library;\n"
     "                   no SOURCE: the DeepMimic clips that tools/setup.sh unpacked. A clip that cannot be used is "
     "named\n"
     "                   and left out\n"
     "  --model MJCF     the body (default: the DeepMimic or the CMU humanoid, as the first source needs)\n"
     "  --rate FPS       resamples to so many frames a second (default: each clip's own)\n"
     "  list, show       all clips in a line each; one in detail\n"
     "  play             draws a clip as .mp4 or .gif, without physics; its options are those of render\n",
     1, INT32_MAX, false, MOTION_OPTIONS, run_motion},
    {"bench",
     "bench env|rollout|update|products|wire CONFIG [--set key=value]... [--obs-dim O --action-dim A] [--json]",
     "Measures against the machine's limit in the same process.\n"
     "  env                   the tasks alone, with random actions, on one core and on cluster.threads\n"
     "  rollout               acting, on one core\n"
     "  update                learning, on one core; --obs-dim, --action-dim: of a synthetic batch\n"
     "  products              the networks' matrix products alone, on one core; sizes as for update\n"
     "  wire                  from the actors to the learner, under mpirun\n",
     2, 2, true, BENCH_OPTIONS, run_bench},
    {"plan",
     "plan CONFIG [--set key=value]... [--nodes LIST] [--cores C] [--ranks R] [--net BANDWIDTH]\n"
     "                     [--latency TIME] [--json]",
     "Predicts a run on a cluster, from what one core of this machine takes (measured first) and the sizes of the\n"
     "messages: per number of nodes the time of an iteration, what it goes to, the best number of learners, memory, "
     "wire\n"
     "and hours.\n"
     "  --nodes LIST          numbers of nodes (default 1,2,4,...,256)\n"
     "  --cores C             cores of a node (default 64)\n"
     "  --ranks R             ranks of a node, which share its cores as threads (default 1)\n"
     "  --net BANDWIDTH       bits per second between two nodes, as `bench wire` reaches them (default 100G)\n"
     "  --latency TIME        of a short message between two nodes (default 2us)\n"
     "  --json                with every number of learners\n",
     1, 1, true, PLAN_OPTIONS, run_plan},
};
enum { COMMAND_COUNT = sizeof COMMANDS / sizeof *COMMANDS };

static void print_help(void) {
  puts("flowrank trains flow policies by Flow Policy Optimization on MuJoCo, as one MPI job.\n");
  for (int i = 0; i < COMMAND_COUNT; ++i) printf("  flowrank %s\n", COMMANDS[i].usage);
  puts("\nflowrank COMMAND --help explains a command; flowrank --version names the libraries.");
}

static void print_version(void) {
  char mpi[256], hdf5[32];
  comm_library_version(mpi, sizeof mpi);
  checkpoint_library_version(hdf5, sizeof hdf5);
  printf("flowrank %s\nMuJoCo   %s\nMPI      %s\nHDF5     %s\nBLAS     %s (%s)\nlibyaml  %s\n", FLOWRANK_VERSION,
         mj_versionString(), mpi, hdf5, openblas_get_config(), openblas_get_corename(), config_library_version());
}

static const struct command *find_command(const char *name) {
  for (int i = 0; i < COMMAND_COUNT; ++i)
    if (strcmp(COMMANDS[i].name, name) == 0) return &COMMANDS[i];
  return NULL;
}

static struct error *unknown_command(const char *name) {
  const char *names[COMMAND_COUNT];
  for (int i = 0; i < COMMAND_COUNT; ++i) names[i] = COMMANDS[i].name;
  const char *near = nearest_word(name, COMMAND_COUNT, names);
  return error_new(EXIT_CODE_USAGE, "command '%.100s' is unknown%s%s%s; see flowrank --help", name,
                   near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
}

static void remember_command_line(struct arguments *a, int argc, char **argv) {
  size_t at = (size_t)snprintf(a->command_line, sizeof a->command_line, "flowrank");
  for (int i = 0; i < argc && at < sizeof a->command_line; ++i)
    at += (size_t)snprintf(a->command_line + at, sizeof a->command_line - at, " %s", argv[i]);
}

// Prints the line of an error, where this rank is to speak, and ends MPI. Returns the exit code.
static int finish(const struct job *job, struct error *e) {
  const bool torn = job->end == TRAIN_TORN; // this rank failed alone: the others know nothing and would wait
  int code = job->end == TRAIN_STOPPED ? EXIT_CODE_STOPPED : EXIT_CODE_DONE;
  if (e != NULL) {
    code = e->code;
    if (job->comm == NULL || comm_rank(job->comm) == 0 || torn) fprintf(stderr, "flowrank: %s\n", e->text);
    error_free(e);
  }
  if (torn && comm_size(job->comm) > 1) comm_abort(job->comm, code);
  comm_finalize(job->comm);
  return code;
}

static void print_command_help(const struct command *c, const struct job *job) {
  if (job->comm == NULL || comm_rank(job->comm) == 0) printf("usage: flowrank %s\n%s", c->usage, c->help);
}

// MPI is up before the command line is read, so that its faults are told once and not by every rank.
static int execute(const struct command *c, int argc, char **argv) {
  struct job job = {.end = TRAIN_COMPLETE};
  struct arguments a;
  struct error *e = c->parallel ? comm_init(&job.comm) : NULL;
  if (e == NULL) e = parse(c, argc, argv, &a);
  if (e != NULL) return finish(&job, e);
  remember_command_line(&a, argc, argv);
  if (a.help) print_command_help(c, &job);
  else e = c->run(&a, &job);
  return finish(&job, e);
}

int main(int argc, char **argv) {
  if (argc < 2 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
    print_help();
    return argc < 2 ? EXIT_CODE_USAGE : EXIT_CODE_DONE;
  }
  if (strcmp(argv[1], "--version") == 0) {
    print_version();
    return EXIT_CODE_DONE;
  }
  const struct command *c = find_command(argv[1]);
  return c != NULL ? execute(c, argc - 1, argv + 1)
                   : finish(&(struct job){.end = TRAIN_FAILED}, unknown_command(argv[1]));
}
