#include "common/config.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

// ---------------------------------------------------------------------------------------------------------------------
// The table. Reading, --set, ranges, printing, documentation and comparison all follow it; a key stands nowhere else
// but in struct config.

enum setting_kind { INTEGER, REAL, BOOLEAN, WORD, CHOICE, LAYERS };

struct setting {
  const char *name;         // "section.key", or "key" at the top level
  size_t offset, size;      // of its field in struct config
  const char *fallback;     // the default, as it would stand in a file
  const char *range;        // an interval: '[' and ']' include the end, '(' and ')' leave it out
  const char *meaning;      // one line
  const char *const *words; // CHOICE: by enum value, null at the end. INTEGER: stand for word_value, word_value - 1, ..
  int64_t word_value;
  enum setting_kind kind;
  bool run_only;    // changes where and how long a run goes, not what it learns
  unsigned methods; // bit set of objective_kind that have it; 0: all
};

// clang-format off
static const char *const resets[] = {[RESET_RANDOM] = "random", [RESET_FIRST_STATE] = "first_state", NULL};
static const char *const conditionings[] = {[CONDITIONING_FULL] = "full", [CONDITIONING_ROOT_HANDS] = "root_hands",
                                            [CONDITIONING_ROOT] = "root", NULL};
static const char *const samplings[] = {[SAMPLING_UNIFORM] = "uniform", [SAMPLING_FAILURE] = "failure", NULL};
static const char *const servo_targets[] = {
  [SERVO_TARGET_POSE] = "pose", [SERVO_TARGET_REFERENCE] = "reference", NULL};
static const char *const normalizers[] = {
  [NORMALIZER_EXACT] = "exact", [NORMALIZER_REFERENCE] = "reference", [NORMALIZER_NONE] = "none", NULL};
static const char *const samplers[] = {
  [SAMPLER_EULER] = "euler", [SAMPLER_HEUN] = "heun", [SAMPLER_MIDPOINT] = "midpoint", [SAMPLER_RK4] = "rk4", NULL};
static const char *const objectives[] = {
  [OBJECTIVE_FPO] = "fpo", [OBJECTIVE_PPO] = "ppo", [OBJECTIVE_DPPO] = "dppo", NULL};
static const char *const ratios[] = {[RATIO_AVERAGED] = "averaged", [RATIO_PER_SAMPLE] = "per_sample", NULL};
static const char *const schedules[] = {[SCHEDULE_CONSTANT] = "constant", [SCHEDULE_LINEAR] = "linear", NULL};
static const char *const trust_regions[] = {
    [TRUST_REGION_CLIP] = "clip", [TRUST_REGION_SPO] = "spo", [TRUST_REGION_ASPO] = "aspo", NULL};
static const char *const supervisions[] = {
  [SUPERVISION_EPS] = "eps", [SUPERVISION_VELOCITY] = "velocity", [SUPERVISION_DATA] = "data", NULL};
static const char *const flow_times[] = {
  [FLOW_TIME_GRID] = "grid", [FLOW_TIME_UNIFORM] = "uniform", [FLOW_TIME_LOGNORMAL] = "lognormal", NULL};
static const char *const pipelines[] = {
  [PIPELINE_SYNC] = "sync", [PIPELINE_OVERLAP] = "overlap", NULL};
static const char *const rebalances[] = {[REBALANCE_OFF] = "off", [REBALANCE_ON] = "on", NULL};
static const char *const word_learners[] = {"all", "auto", NULL};
static const char *const word_auto[] = {"auto", NULL};
static const char *const denoisings[] = {"all", "last_half", NULL};

#define SETTING(kind_, field, fallback_, range_, ...)                                                                  \
  {.name = #field, .kind = kind_, .fallback = fallback_, .range = range_, .offset = offsetof(struct config, field),    \
   .size = sizeof(((struct config *)NULL)->field), .meaning = __VA_ARGS__}
#define RUN_ONLY .run_only = true
enum { FPO = 1 << OBJECTIVE_FPO, PPO = 1 << OBJECTIVE_PPO, DPPO = 1 << OBJECTIVE_DPPO, FLOWS = FPO | DPPO };
#define METHODS .methods

static const struct setting settings[] = {
  SETTING(INTEGER, seed, "0", "[0, 9223372036854775807]", "every random number of the run follows from it"),
  SETTING(INTEGER, total_env_steps, "60000000", "[1, 1000000000000]",
          "environment steps of the whole run; the last iteration is completed", RUN_ONLY),

  SETTING(WORD, task.name, "CartpoleBalance", "", "the task; `flowrank tasks` lists them"),
  SETTING(INTEGER, task.episode_length, "0", "[0, 1000000000]", "control steps after which training truncates an episode; 0: the task's own"),
  SETTING(CHOICE, task.reset, "random", "",
          "where an episode starts: anew at random, or in the environment's own first state (the authors' code)",
          .words = resets),
  SETTING(BOOLEAN, task.stagger, "false", "",
          "first episodes begin at a random step count, so that truncations spread over iterations"),
  SETTING(WORD, task.motions, "none", "",
          "humanoid_track: the motion library, a file that `flowrank motion import` wrote"),
  SETTING(WORD, task.clips, "all", "", "humanoid_track: clips of the library to follow, joined by +, such as walk+run"),
  SETTING(CHOICE, task.conditioning, "full", "",
          "humanoid_track: what the observation shows of the reference; root_hands, root: positions of these bodies alone",
          .words = conditionings),
  SETTING(CHOICE, task.sampling, "uniform", "",
          "humanoid_track: how an episode's clip is drawn; failure: more often where recent episodes have failed",
          .words = samplings),
  SETTING(CHOICE, task.servo_target, "pose", "",
          "humanoid_track: what an action is added to, the default pose or (full conditioning alone) the reference",
          .words = servo_targets),
  SETTING(REAL, task.servo_reach, "1", "(0, 1]",
          "humanoid_track: how far an action of 1 moves a servo's target, as a share of its range"),
  SETTING(REAL, task.power_cost, "0.0005", "[0, 1]",
          "humanoid_track: reward that a watt of the servos costs in a control step (the authors' code)"),

  SETTING(INTEGER, rollout.envs, "2048", "[1, 1048576]", "environments in all; a multiple of shards"),
  SETTING(INTEGER, rollout.unroll_length, "30", "[1, 65536]", "control steps of an unroll"),
  SETTING(INTEGER, rollout.unrolls, "16", "[1, 1048576]", "unrolls of every environment in an iteration"),
  SETTING(INTEGER, rollout.shards, "64", "[1, 65536]",
          "pieces of the work, the most that can go on at once; part of the result, which ranks and threads are not"),
  SETTING(REAL, rollout.reward_scaling, "10", "(0, 1e6]", "factor on rewards before advantages; reports stay unscaled"),
  SETTING(CHOICE, rollout.normalizer, "exact", "",
          "observation statistics; reference: the authors' update, which forgets squares, to reproduce their curves",
          .words = normalizers),

  SETTING(LAYERS, policy.hidden, "[32, 32, 32, 32]", "[1, 65536]", "hidden widths of the policy's network"),
  SETTING(REAL, policy.output_scale, "0.25", "(0, 1e3]", "factor on the network's output", METHODS = FLOWS),
  SETTING(INTEGER, policy.time_frequencies, "4", "[1, 16]", "frequencies 2^k of the embedding of flow time",
          METHODS = FLOWS),
  SETTING(CHOICE, policy.sampler, "euler", "", "integrator from noise to action while training", METHODS = FLOWS,
          .words = samplers),
  SETTING(INTEGER, policy.flow_steps, "10", "[1, 1000]", "integration steps, and the grid of the loss's flow times",
          METHODS = FLOWS),
  SETTING(INTEGER, policy.noise, "1", "[0, 1]", "where the flow starts while training; 1: normal noise, 0: zero",
          METHODS = FLOWS),
  SETTING(REAL, policy.sde_sigma, "0", "[0, 100]",
          "noise added in every flow step while training; above 0 only with euler; dppo needs it", METHODS = FLOWS),
  SETTING(REAL, policy.feather_std, "0", "[0, 100]", "noise added to the finished raw action while training",
          METHODS = FPO),
  SETTING(REAL, policy.time_floor, "0.05", "(0, 1]",
          "supervision data: the least t that divides where the predicted action becomes a velocity", METHODS = FPO),
  SETTING(REAL, policy.initial_std, "0", "[0, 100]",
          "deviation of the raw action before anything is learned; 0: the network's own, 0.69", METHODS = PPO),

  SETTING(LAYERS, value.hidden, "[256, 256, 256, 256, 256]", "[1, 65536]", "hidden widths of the value network"),

  SETTING(CHOICE, objective.kind, "fpo", "",
          "the method; fpo: flow policy, flow matching losses as likelihoods; ppo: Gaussian policy; dppo: flow policy, "
          "each noisy flow step an action", .words = objectives),
  SETTING(CHOICE, objective.ratio, "averaged", "", "one ratio per action, or one per (eps, t) pair", METHODS = FPO,
          .words = ratios),
  SETTING(CHOICE, objective.trust_region, "clip", "",
          "PPO-clip; spo: a quadratic penalty instead; aspo: clip for positive advantages, spo for negative ones",
          .words = trust_regions),
  SETTING(CHOICE, objective.supervision, "eps", "",
          "what the flow matching loss compares; data: the network predicts the action, else the velocity",
          METHODS = FPO, .words = supervisions),
  SETTING(CHOICE, objective.flow_time, "grid", "",
          "times of the loss: the sampler's grid, uniform in (0, 1), or sigmoid(flow_time_mean + flow_time_std*N(0,1))",
          METHODS = FPO, .words = flow_times),
  SETTING(REAL, objective.flow_time_mean, "-1.2", "[-10, 10]", "lognormal times: mean of the logit", METHODS = FPO),
  SETTING(REAL, objective.flow_time_std, "1.2", "[0, 10]", "lognormal times: deviation of the logit", METHODS = FPO),
  SETTING(REAL, objective.loss_weight, "1", "(0, 1e6]", "factor on the flow matching losses whose difference is the log ratio",
          METHODS = FPO),
  SETTING(INTEGER, objective.mc_samples, "8", "[1, 1024]", "(eps, t) pairs drawn for every action", METHODS = FPO),
  SETTING(INTEGER, objective.denoising_steps, "all", "[1, 1000]", "flow steps, counted from the last, that are learned",
          METHODS = DPPO, .words = denoisings, .word_value = DENOISING_ALL),
  SETTING(REAL, objective.clip, "0.05", "(0, 1)", "the surrogate clips the ratio to 1 ± clip; the width of spo's penalty"),
  SETTING(REAL, objective.log_ratio_clip, "3", "(0, 20]", "bound on the log of a per-sample ratio", METHODS = FPO),
  SETTING(REAL, objective.entropy_cost, "0", "[0, 1e3]", "factor on the entropy that is added to what is maximised",
          METHODS = PPO),
  SETTING(REAL, objective.value_coef, "0.25", "[0, 1e6]", "factor on the value loss"),
  SETTING(REAL, objective.value_clip, "0", "[0, 1e6]",
          "PPO's clipping of values, to those before the update ± this; 0: none"),
  SETTING(REAL, objective.discount, "0.995", "[0, 1]", "discount of a control step (gamma)"),
  SETTING(REAL, objective.gae_lambda, "0.95", "[0, 1]", "lambda of generalised advantage estimation"),
  SETTING(BOOLEAN, objective.normalize_advantage, "true", "", "normalise advantages over each minibatch"),
  SETTING(BOOLEAN, objective.bootstrap_truncated, "false", "",
          "value a truncated episode's last observation; false: its last step learns nothing (the authors' code)"),

  SETTING(REAL, optimizer.learning_rate, "0.0003", "[0, 1]", "Adam's learning rate"),
  SETTING(CHOICE, optimizer.schedule, "constant", "", "the rate over the run; linear: falls to 0 at total_env_steps",
          .words = schedules),
  SETTING(REAL, optimizer.beta1, "0.9", "[0, 0.999999]", "Adam's decay of the first moment"),
  SETTING(REAL, optimizer.beta2, "0.999", "[0, 0.999999]", "Adam's decay of the second moment"),
  SETTING(REAL, optimizer.epsilon, "1e-08", "[1e-30, 1]", "Adam's epsilon"),
  SETTING(REAL, optimizer.max_grad_norm, "0", "[0, 1e6]", "bound on the gradient's norm; 0: no clipping"),
  SETTING(INTEGER, optimizer.epochs, "16", "[1, 10000]", "passes over the data of an iteration"),
  SETTING(INTEGER, optimizer.minibatches, "32", "[1, 1048576]", "Adam steps of an epoch"),

  SETTING(INTEGER, cluster.learners, "1", "[1, 65536]", "ranks that learn, while the others act; all: all do both; auto: what the first iterations say is fastest",
          RUN_ONLY, .words = word_learners, .word_value = LEARNERS_ALL),
  SETTING(INTEGER, cluster.threads, "auto", "[1, 4096]", "threads of a rank; auto: the cores it may use",
          RUN_ONLY, .words = word_auto, .word_value = THREADS_AUTO),
  SETTING(CHOICE, cluster.rebalance, "off", "", "on: shards move from ranks that stay slow to others", RUN_ONLY,
          .words = rebalances),
  SETTING(REAL, cluster.timeout, "600", "[0, 1e6]",
          "seconds without a sign of life after which a rank counts as lost and the job ends; 0: never", RUN_ONLY),
  SETTING(CHOICE, cluster.pipeline, "sync", "",
          "collect, then learn; overlap: iteration k+1 is collected with the weights of k-1 while k is learned",
          .words = pipelines),

  SETTING(INTEGER, checkpoint.every, "10", "[1, 1000000000]", "iterations between checkpoints", RUN_ONLY),
  SETTING(INTEGER, checkpoint.keep, "3", "[1, 1000000]", "newest checkpoints kept, besides the best", RUN_ONLY),

  SETTING(INTEGER, eval.every, "10", "[0, 1000000000]", "iterations between evaluations; 0: never", RUN_ONLY),
  SETTING(INTEGER, eval.episodes, "128", "[1, 1000000]", "episodes of an evaluation", RUN_ONLY),
  SETTING(INTEGER, eval.episode_length, "0", "[0, 1000000000]",
          "control steps after which an evaluation's episode ends; 0: the task's own", RUN_ONLY),
  SETTING(INTEGER, eval.flow_steps, "0", "[0, 1000]", "integration steps; 0: policy.flow_steps", RUN_ONLY,
          METHODS = FLOWS),
  SETTING(INTEGER, eval.seed, "0", "[0, 9223372036854775807]", "seed of an evaluation's random numbers", RUN_ONLY),
  SETTING(CHOICE, eval.sampler, "euler", "", "integrator of evaluations", RUN_ONLY, METHODS = FLOWS,
          .words = samplers),
  SETTING(INTEGER, eval.noise, "auto", "[0, 1]",
          "1: a flow starts from normal noise, a Gaussian is sampled; 0: it starts at zero, the Gaussian's mean; auto: 1 "
          "for flows, 0 for Gaussians", RUN_ONLY, .words = word_auto, .word_value = NOISE_AUTO),

  SETTING(REAL, log.interval, "10", "[0, 1e6]", "least seconds between log lines; 0: every iteration", RUN_ONLY),
};

static const struct { const char *name, *meaning; } sections[] = {
  {"task", "What is learned."},
  {"rollout", "How experience is collected."},
  {"policy", "The policy's network and its sampler."},
  {"value", "The value network."},
  {"objective", "What the update minimises."},
  {"optimizer", "How the update minimises it."},
  {"cluster", "How the work lies on ranks and threads. Only `pipeline` changes the result; the rest, the wall time."},
  {"checkpoint", "What is kept on disk."},
  {"eval", "Evaluation during training, and the defaults of `flowrank eval`."},
  {"log", "What is said while training."},
};
// clang-format on

enum {
  SETTING_COUNT = sizeof settings / sizeof settings[0],
  SECTION_COUNT = sizeof sections / sizeof sections[0],
  TOP_LEVEL = -1,
  VALUE_SIZE = 512, // room for any value as text
  NAME_SIZE = 128,
  MAX_FILE_BYTES = 1 << 20,
  MAX_BASE_DEPTH = 8, // also what stops a cycle
};

static int find_setting(const char *name) {
  for (int i = 0; i < SETTING_COUNT; i++)
    if (strcmp(settings[i].name, name) == 0) return i;
  return -1;
}

static int find_section(const char *name, size_t length) {
  for (int i = 0; i < SECTION_COUNT; i++)
    if (strlen(sections[i].name) == length && memcmp(sections[i].name, name, length) == 0) return i;
  return TOP_LEVEL;
}

static int section_of(const struct setting *s) {
  const char *dot = strchr(s->name, '.');
  return dot == NULL ? TOP_LEVEL : find_section(s->name, (size_t)(dot - s->name));
}

// The name inside its section.
static const char *short_name(const char *name) {
  const char *dot = strrchr(name, '.');
  return dot == NULL ? name : dot + 1;
}

// ---------------------------------------------------------------------------------------------------------------------
// One value: text to field, field to text

// Decimal digits only: "010" is 8 to some readers of YAML and 10 to others, so it is refused.
static bool read_integer(const char *text, int64_t *value) {
  const char *digits = text + (*text == '-' || *text == '+');
  size_t count = strspn(digits, "0123456789");
  if (count == 0 || digits[count] != '\0' || (count > 1 && digits[0] == '0')) return false;
  errno = 0;
  *value = strtoll(text, NULL, 10);
  return errno == 0;
}

// Decimal notation only, finite. The program stays in the C locale, so the point is a point.
static bool read_real(const char *text, double *value) {
  if (text[0] == '\0' || text[strspn(text, "+-.0123456789eE")] != '\0') return false;
  char *end;
  *value = strtod(text, &end);
  return end != text && *end == '\0' && isfinite(*value);
}

static bool in_integer_range(const char *range, int64_t value) {
  char *end;
  int64_t low = strtoll(range + 1, &end, 10), high = strtoll(end + 1, NULL, 10);
  return value >= low && value <= high;
}

static bool in_real_range(const char *range, double value) {
  char *end;
  double low = strtod(range + 1, &end), high = strtod(end + 1, &end);
  return (range[0] == '[' ? value >= low : value > low) && (*end == ']' ? value <= high : value < high);
}

// Letters, digits and ._/+- : such a word needs no quotes in YAML and no care in a message or a file name.
static bool is_word(const char *text) {
  size_t length = strlen(text);
  return length > 0 && length < CONFIG_MAX_NAME && strchr("-+_", text[0]) == NULL &&
         strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._/+-") == length;
}

static int index_of(const char *word, const char *const *words) {
  for (int i = 0; words[i] != NULL; i++)
    if (strcmp(words[i], word) == 0) return i;
  return -1;
}

// Reads a scalar into the setting's field; a LAYERS setting gets one more width. False when it is not allowed.
static bool set_item(const struct setting *s, const char *text, struct config *config) {
  void *field = (char *)config + s->offset;
  struct config_layers *layers = field;
  int64_t integer = 0;
  double real = 0;
  int choice = s->kind == CHOICE ? index_of(text, s->words) : 0;
  bool allowed = false;
  switch (s->kind) {
  case INTEGER:
    allowed = read_integer(text, &integer) && in_integer_range(s->range, integer);
    if (!allowed && s->words != NULL && index_of(text, s->words) >= 0)
      allowed = true, integer = s->word_value - index_of(text, s->words);
    if (allowed) *(int64_t *)field = integer;
    break;
  case REAL:
    allowed = read_real(text, &real) && in_real_range(s->range, real);
    if (allowed) *(double *)field = real;
    break;
  case BOOLEAN:
    allowed = strcmp(text, "true") == 0 || strcmp(text, "false") == 0;
    if (allowed) *(bool *)field = text[0] == 't';
    break;
  case WORD:
    allowed = is_word(text);
    if (allowed) strncpy(field, text, s->size); // fits, and clears the rest
    break;
  case CHOICE:
    allowed = choice >= 0;
    if (allowed) memcpy(field, &choice, sizeof choice);
    break;
  case LAYERS:
    allowed = layers->count < CONFIG_MAX_LAYERS && read_integer(text, &integer) && in_integer_range(s->range, integer);
    if (allowed) layers->width[layers->count++] = integer;
    break;
  }
  return allowed;
}

// Reads a whole value as format_value writes it.
static bool set_text(const struct setting *s, const char *text, struct config *config) {
  if (s->kind != LAYERS) return set_item(s, text, config);
  memset((char *)config + s->offset, 0, s->size);
  int count = 0;
  for (const char *item = text + strspn(text, "[], "); *item != '\0'; item += strspn(item, "[], "), count++) {
    char word[NAME_SIZE];
    size_t length = strcspn(item, "[], ");
    if (length >= sizeof word) return false;
    memcpy(word, item, length);
    word[length] = '\0';
    if (!set_item(s, word, config)) return false;
    item += length;
  }
  return count > 0;
}

// The fewest digits that read back to the same bits, always with a point, without which "1e-08" is a string to many
// readers of YAML.
static void format_real(double value, char *out) {
  for (int digits = 15; digits <= 17; digits++) {
    snprintf(out, VALUE_SIZE, "%.*g", digits, value);
    if (strtod(out, NULL) == value) break;
  }
  if (strchr(out, '.') != NULL || !isfinite(value)) return;
  char *mantissa_end = out + strcspn(out, "e");
  memmove(mantissa_end + 2, mantissa_end, strlen(mantissa_end) + 1);
  mantissa_end[0] = '.', mantissa_end[1] = '0';
}

// out [VALUE_SIZE]
static void format_value(const struct setting *s, const struct config *config, char *out) {
  const void *field = (const char *)config + s->offset;
  const struct config_layers *layers = field;
  int choice = 0, known = 0;
  size_t used = 1;
  switch (s->kind) {
  case INTEGER:
    snprintf(out, VALUE_SIZE, "%" PRId64, *(const int64_t *)field);
    for (int i = 0; s->words != NULL && s->words[i] != NULL; i++)
      if (*(const int64_t *)field == s->word_value - i) snprintf(out, VALUE_SIZE, "%s", s->words[i]);
    break;
  case REAL:
    format_real(*(const double *)field, out);
    break;
  case BOOLEAN:
    snprintf(out, VALUE_SIZE, "%s", *(const bool *)field ? "true" : "false");
    break;
  case WORD:
    snprintf(out, VALUE_SIZE, "%.*s", CONFIG_MAX_NAME, (const char *)field);
    break;
  case CHOICE:
    memcpy(&choice, field, sizeof choice);
    while (s->words[known] != NULL) known++;
    snprintf(out, VALUE_SIZE, "%s", choice >= 0 && choice < known ? s->words[choice] : "?");
    break;
  case LAYERS:
    snprintf(out, VALUE_SIZE, "%s", "[");
    for (int64_t i = 0; i < layers->count && i < CONFIG_MAX_LAYERS; i++)
      used += (size_t)snprintf(out + used, VALUE_SIZE - used, "%s%" PRId64, i > 0 ? ", " : "", layers->width[i]);
    snprintf(out + used, VALUE_SIZE - used, "]");
    break;
  }
}

// What a setting allows, in words. out [VALUE_SIZE]
static void describe_allowed(const struct setting *s, char *out) {
  size_t used = 0;
  switch (s->kind) {
  case INTEGER:
    used = (size_t)snprintf(out, VALUE_SIZE, "an integer in %s", s->range);
    for (int i = 0; s->words != NULL && s->words[i] != NULL; i++)
      used += (size_t)snprintf(out + used, VALUE_SIZE - used, "%s%s", i == 0 ? ", or " : " or ", s->words[i]);
    break;
  case REAL:
    snprintf(out, VALUE_SIZE, "a finite number in %s", s->range);
    break;
  case BOOLEAN:
    snprintf(out, VALUE_SIZE, "%s", "true or false");
    break;
  case WORD:
    snprintf(out, VALUE_SIZE, "a name of letters, digits and ._/+-, not beginning with one of _+-, at most %d long",
             CONFIG_MAX_NAME - 1);
    break;
  case CHOICE:
    for (int i = 0; s->words[i] != NULL; i++) {
      const char *glue = s->words[i + 1] != NULL ? ", " : " or ";
      used += (size_t)snprintf(out + used, VALUE_SIZE - used, "%s%s", i == 0 ? "" : glue, s->words[i]);
    }
    break;
  case LAYERS:
    snprintf(out, VALUE_SIZE, "a list of 1 to %d integers in %s", CONFIG_MAX_LAYERS, s->range);
    break;
  }
}

void config_default(struct config *config) {
  memset(config, 0, sizeof *config);
  for (int i = 0; i < SETTING_COUNT; i++) {
    bool allowed = set_text(&settings[i], settings[i].fallback, config);
    (void)allowed; // a test reads every default back
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Reading YAML. Each file, and each --set, is a layer of its own; layers are then laid over the defaults in order.

struct layer {
  struct config values;       // only fields whose `where` is set mean anything
  char *where[SETTING_COUNT]; // "file:line:column" or "--set ..."; null: not set by this layer
  bool section_seen[SECTION_COUNT];
  char *base, *base_where;
};

static void layer_free(struct layer *layer) {
  for (int i = 0; i < SETTING_COUNT; i++) free(layer->where[i]);
  free(layer->base);
  free(layer->base_where);
}

struct reader {
  yaml_parser_t parser;
  yaml_event_t event; // the newest; owned
  const char *name;   // the file's
  const char *text;
  const char *set; // the text of a --set; null for files
  struct layer *layer;
};

// Where a message points: "file:line:column" or "--set key=value". Null: no memory. Caller owns it.
static char *location(const struct reader *r, yaml_mark_t mark) {
  char *text = NULL;
  int length = r->set != NULL ? asprintf(&text, "--set %.200s", r->set)
                              : asprintf(&text, "%s:%zu:%zu", r->name, mark.line + 1, mark.column + 1);
  return length < 0 ? NULL : text;
}

// Puts the place before an error's text.
static struct error *at(const struct reader *r, yaml_mark_t mark, struct error *e) {
  char *where = location(r, mark);
  e = error_prefix(e, "%s", where != NULL ? where : r->name);
  free(where);
  return e;
}
#define FAULT(r, mark, ...) at(r, mark, error_new(EXIT_CODE_USAGE, __VA_ARGS__))

static struct error *parser_error(const struct reader *r) {
  const yaml_parser_t *p = &r->parser;
  if (p->error == YAML_MEMORY_ERROR) return error_no_memory("reading YAML");
  yaml_mark_t mark = p->problem_mark;
  if (p->error == YAML_READER_ERROR) { // a byte that is no text: libyaml gives its offset alone
    mark = (yaml_mark_t){0};
    for (size_t i = 0; i < p->problem_offset; i++) {
      mark.column += ((unsigned char)r->text[i] & 0xc0) != 0x80; // characters, as libyaml counts elsewhere
      if (r->text[i] == '\n') mark.line++, mark.column = 0;
    }
  }
  const char *context = p->context != NULL ? p->context : "";
  return FAULT(r, mark, "not valid YAML: %s%s%s", p->problem != NULL ? p->problem : "unknown problem",
               context[0] != '\0' ? " " : "", context);
}

// Moves to the next event. What a flat table of settings has no use for is refused here, wherever it stands.
static struct error *next_event(struct reader *r) {
  yaml_event_delete(&r->event);
  if (!yaml_parser_parse(&r->parser, &r->event)) return parser_error(r);
  const yaml_event_t *e = &r->event;
  const yaml_char_t *anchor = NULL, *tag = NULL;
  bool scalar = e->type == YAML_SCALAR_EVENT;
  if (scalar) anchor = e->data.scalar.anchor, tag = e->data.scalar.tag;
  if (e->type == YAML_SEQUENCE_START_EVENT) anchor = e->data.sequence_start.anchor, tag = e->data.sequence_start.tag;
  if (e->type == YAML_MAPPING_START_EVENT) anchor = e->data.mapping_start.anchor, tag = e->data.mapping_start.tag;
  if (e->type == YAML_ALIAS_EVENT || anchor != NULL)
    return FAULT(r, e->start_mark, "anchors and aliases (&x, *x) are not allowed; write the value itself");
  if (tag != NULL)
    return FAULT(r, e->start_mark, "the tag '%.60s' is not allowed; write the plain value", (const char *)tag);
  if (scalar && memchr(e->data.scalar.value, '\0', e->data.scalar.length) != NULL)
    return FAULT(r, e->start_mark, "a zero byte is not allowed in a value");
  return NULL;
}

static const char *event_text(const struct reader *r) { return (const char *)r->event.data.scalar.value; }

// "key 'x' is <what>; allowed: ..." at the newest event.
static struct error *value_error(const struct reader *r, const struct setting *s) {
  char allowed[VALUE_SIZE], quoted[NAME_SIZE];
  describe_allowed(s, allowed);
  bool inside = s->kind == LAYERS;
  const char *what = quoted;
  if (r->event.type == YAML_MAPPING_START_EVENT) what = "a mapping";
  else if (r->event.type == YAML_SEQUENCE_START_EVENT) what = inside ? "a list in a list" : "a list";
  else if (r->event.type == YAML_SEQUENCE_END_EVENT) what = "an empty list";
  else if (event_text(r)[0] == '\0') what = "empty";
  else {
    bool plain = r->event.data.scalar.style == YAML_PLAIN_SCALAR_STYLE; // and wrong indentation joins lines
    snprintf(quoted, sizeof quoted, "%s'%.60s'%s", plain ? "" : "the quoted string ", event_text(r),
             plain && r->event.end_mark.line > r->event.start_mark.line ? ", over several lines" : "");
  }
  return FAULT(r, r->event.start_mark, "key '%s' is %s; allowed: %s", s->name, what, allowed);
}

// A scalar where one is due. A quoted number is a string, and refused as such.
static struct error *read_item(struct reader *r, const struct setting *s) {
  if (r->event.type != YAML_SCALAR_EVENT) return value_error(r, s);
  bool quoted = r->event.data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
  if (quoted && s->kind != WORD && s->kind != CHOICE) return value_error(r, s);
  return set_item(s, event_text(r), &r->layer->values) ? NULL : value_error(r, s);
}

// Reads the value that begins with the newest event; `key` is where its key stands.
static struct error *read_value(struct reader *r, int index, yaml_mark_t key) {
  const struct setting *s = &settings[index];
  char **where = &r->layer->where[index];
  if (*where != NULL) return FAULT(r, key, "key '%s' is set twice; first at %s", s->name, *where);
  *where = location(r, key);
  if (*where == NULL) return error_no_memory("a key's place");
  if (s->kind != LAYERS) return read_item(r, s);

  struct config_layers *layers = (void *)((char *)&r->layer->values + s->offset);
  *layers = (struct config_layers){0};
  if (r->event.type != YAML_SEQUENCE_START_EVENT) return value_error(r, s);
  for (;;) {
    TRY(next_event(r));
    if (r->event.type == YAML_SEQUENCE_END_EVENT) return layers->count > 0 ? NULL : value_error(r, s);
    if (layers->count == CONFIG_MAX_LAYERS)
      return FAULT(r, r->event.start_mark, "key '%s' has too many widths; allowed: 1 to %d", s->name,
                   CONFIG_MAX_LAYERS);
    TRY(read_item(r, s));
  }
}

// The known keys of a section, or of the top level, in one string. out [VALUE_SIZE]
static void list_keys(int section, char *out) {
  size_t used = 0;
  out[0] = '\0';
  for (int i = 0; section == TOP_LEVEL && i < SECTION_COUNT && used < VALUE_SIZE; i++)
    used += (size_t)snprintf(out + used, VALUE_SIZE - used, "%s, ", sections[i].name);
  for (int i = 0; i < SETTING_COUNT && used < VALUE_SIZE; i++)
    if (section_of(&settings[i]) == section)
      used += (size_t)snprintf(out + used, VALUE_SIZE - used, "%s, ", short_name(settings[i].name));
  if (used >= 2 && used < VALUE_SIZE) out[used - 2] = '\0';
}

static struct error *unknown_key(const struct reader *r, const char *name, yaml_mark_t mark) {
  const char *candidates[SETTING_COUNT + SECTION_COUNT + 1] = {[SETTING_COUNT + SECTION_COUNT] = "base"};
  for (int i = 0; i < SETTING_COUNT; i++) candidates[i] = settings[i].name;
  for (int i = 0; i < SECTION_COUNT; i++) candidates[SETTING_COUNT + i] = sections[i].name;
  bool whole = r->set == NULL && strchr(name, '.') == NULL; // it may mean a whole section, or the base
  const char *near = nearest_word(name, whole ? SETTING_COUNT + SECTION_COUNT + 1 : SETTING_COUNT, candidates);
  for (int i = 0; near == NULL && i < SETTING_COUNT; i++) // right key, wrong section
    if (strcmp(short_name(settings[i].name), short_name(name)) == 0) near = settings[i].name;
  if (near != NULL) return FAULT(r, mark, "key '%s' is unknown; did you mean '%s'?", name, near);

  char known[VALUE_SIZE];
  int section = find_section(name, strcspn(name, "."));
  list_keys(section, known);
  if (section == TOP_LEVEL)
    return FAULT(r, mark, "key '%s' is unknown; the top level has: %s%s", name, r->set == NULL ? "base, " : "", known);
  return FAULT(r, mark, "key '%s' is unknown; section '%s' has: %s", name, sections[section].name, known);
}

static struct error *read_base(struct reader *r, yaml_mark_t key) {
  struct layer *layer = r->layer;
  if (layer->base != NULL) return FAULT(r, key, "key 'base' is set twice; first at %s", layer->base_where);
  if (r->event.type != YAML_SCALAR_EVENT || event_text(r)[0] == '\0')
    return FAULT(r, r->event.start_mark, "key 'base' needs the path of one YAML file, relative to this one");
  layer->base = strdup(event_text(r));
  layer->base_where = location(r, key);
  return layer->base == NULL || layer->base_where == NULL ? error_no_memory("a base's path") : NULL;
}

// Reads "key: value" pairs up to the end of the mapping whose start is the newest event.
static struct error *read_mapping(struct reader *r, int section) {
  for (;;) {
    TRY(next_event(r));
    if (r->event.type == YAML_MAPPING_END_EVENT) return NULL;
    yaml_mark_t key = r->event.start_mark;
    if (r->event.type != YAML_SCALAR_EVENT) return FAULT(r, key, "a key must be one word, not a list or a mapping");
    char name[NAME_SIZE];
    if (section == TOP_LEVEL) snprintf(name, sizeof name, "%s", event_text(r));
    else snprintf(name, sizeof name, "%s.%s", sections[section].name, event_text(r));
    TRY(next_event(r));
    int setting = find_setting(name);
    int inner = section == TOP_LEVEL ? find_section(name, strlen(name)) : TOP_LEVEL;
    if (section == TOP_LEVEL && strcmp(name, "base") == 0) {
      TRY(read_base(r, key));
    } else if (setting >= 0) {
      TRY(read_value(r, setting, key));
    } else if (inner == TOP_LEVEL) {
      return unknown_key(r, name, key);
    } else if (r->layer->section_seen[inner]) {
      return FAULT(r, key, "section '%s' appears twice; put its keys together", name);
    } else if (r->event.type != YAML_MAPPING_START_EVENT) {
      char known[VALUE_SIZE];
      list_keys(inner, known);
      return FAULT(r, key, "section '%s' holds no keys; give it some of: %s", name, known);
    } else {
      r->layer->section_seen[inner] = true;
      TRY(read_mapping(r, inner));
    }
  }
}

// The one document of a file (a mapping), or of a --set (the value of `setting`).
static struct error *read_document(struct reader *r, int setting) {
  TRY(next_event(r)); // the stream's start
  TRY(next_event(r));
  if (r->event.type == YAML_DOCUMENT_START_EVENT) TRY(next_event(r));
  yaml_mark_t start = r->event.start_mark;
  bool empty = r->event.type == YAML_STREAM_END_EVENT ||
               (r->event.type == YAML_SCALAR_EVENT && event_text(r)[0] == '\0' && r->set == NULL);
  if (empty && r->set != NULL) return FAULT(r, start, "no value is given; write --set section.key=value");
  if (empty) return FAULT(r, start, "the file is empty; a config has lines such as 'seed: 1'");
  if (r->set != NULL) {
    TRY(read_value(r, setting, start));
  } else {
    if (r->event.type != YAML_MAPPING_START_EVENT)
      return FAULT(r, start, "a config is a mapping of sections and keys, with lines such as 'seed: 1'");
    TRY(read_mapping(r, TOP_LEVEL));
  }
  TRY(next_event(r)); // the document's end
  TRY(next_event(r));
  if (r->event.type == YAML_STREAM_END_EVENT) return NULL;
  return FAULT(r, r->event.start_mark, "only one YAML document is allowed; remove this one");
}

// Reads a text of `length` bytes, zero-terminated, into an empty layer. set, setting: of a --set; null for files.
static struct error *read_layer(const char *name, const char *text, size_t length, const char *set, int setting,
                                struct layer *layer) {
  if (strncmp(text, "\xef\xbb\xbf", 3) == 0) text += 3, length -= 3; // the byte order mark of some editors
  struct reader r = {.name = name, .text = text, .set = set, .layer = layer};
  if (!yaml_parser_initialize(&r.parser)) return error_no_memory("reading YAML");
  yaml_parser_set_encoding(&r.parser, YAML_UTF8_ENCODING);
  yaml_parser_set_input_string(&r.parser, (const unsigned char *)text, length);
  struct error *e = read_document(&r, setting);
  yaml_event_delete(&r.event);
  yaml_parser_delete(&r.parser);
  return e;
}

// ---------------------------------------------------------------------------------------------------------------------
// Loading: defaults, then base files, then the file, then each --set

struct loading {
  const char *name; // of the file on the command line; stands for the place where no key's place is known
  struct config config;
  char *where[SETTING_COUNT]; // as in struct layer; null: the default
  int rank[SETTING_COUNT];    // number of the layer that set it; 0: the default
  int layers, files;          // all; those that are files
};

// Moves what `layer` sets on top.
static void lay_over(struct loading *l, struct layer *layer) {
  l->layers++;
  for (int i = 0; i < SETTING_COUNT; i++) {
    if (layer->where[i] == NULL) continue;
    size_t offset = settings[i].offset;
    memcpy((char *)&l->config + offset, (const char *)&layer->values + offset, settings[i].size);
    free(l->where[i]);
    l->where[i] = layer->where[i];
    l->rank[i] = l->layers;
    layer->where[i] = NULL;
  }
}

// Reads a whole file into *text, zero-terminated. Caller owns *text.
static struct error *read_file(const char *path, char **text, size_t *length) {
  *text = NULL;
  FILE *file = fopen(path, "rb");
  if (file == NULL) return error_new(EXIT_CODE_USAGE, "%s: cannot read this config file: %s", path, strerror(errno));
  char *buffer = malloc(MAX_FILE_BYTES + 2);
  struct error *e = buffer == NULL ? error_no_memory(path) : NULL;
  *length = e != NULL ? 0 : fread(buffer, 1, MAX_FILE_BYTES + 1, file);
  if (e == NULL && ferror(file))
    e = error_new(EXIT_CODE_USAGE, "%s: cannot read this config file: %s", path, strerror(errno)); // a folder, say
  fclose(file);
  if (e == NULL && *length > MAX_FILE_BYTES)
    e = error_new(EXIT_CODE_USAGE, "%s: too large for a config; allowed: at most %d bytes", path, MAX_FILE_BYTES);
  if (e == NULL) {
    buffer[*length] = '\0';
    *text = buffer;
  } else {
    free(buffer);
  }
  return e;
}

// Lays a file, over its bases, on top. named_at: the place that names it as a base, null for the first file.
static struct error *load_file(const char *path, const char *named_at, int depth, struct loading *l) {
  char *text = NULL, *base = NULL;
  size_t length = 0;
  struct error *e = depth > MAX_BASE_DEPTH
                        ? error_new(EXIT_CODE_USAGE, "%s: more than %d files inherit from one another; is it a cycle?",
                                    path, MAX_BASE_DEPTH)
                        : read_file(path, &text, &length);
  if (text == NULL) return named_at == NULL ? e : error_prefix(e, "%s: base", named_at);
  struct layer layer = {0};
  e = read_layer(path, text, length, NULL, -1, &layer);
  free(text);
  if (e == NULL && layer.base != NULL) {
    const char *slash = strrchr(path, '/');
    int folder = layer.base[0] == '/' || slash == NULL ? 0 : (int)(slash - path) + 1;
    if (asprintf(&base, "%.*s%s", folder, path, layer.base) < 0) base = NULL;
    e = base == NULL ? error_no_memory("a base's path") : load_file(base, layer.base_where, depth + 1, l);
    free(base);
  }
  if (e == NULL) lay_over(l, &layer);
  layer_free(&layer);
  return e;
}

static struct error *load_set(const char *set, struct loading *l) {
  struct reader r = {.set = set};
  const char *equals = strchr(set, '=');
  if (equals == NULL || equals == set)
    return FAULT(&r, (yaml_mark_t){0}, "write --set section.key=value, such as --set rollout.envs=2048");
  char name[NAME_SIZE];
  snprintf(name, sizeof name, "%.*s", (int)(equals - set < NAME_SIZE ? equals - set : NAME_SIZE), set);
  int setting = find_setting(name);
  if (setting < 0) return unknown_key(&r, name, (yaml_mark_t){0});
  struct layer layer = {0};
  struct error *e = read_layer("--set", equals + 1, strlen(equals + 1), set, setting, &layer);
  if (e == NULL) lay_over(l, &layer);
  layer_free(&layer);
  return e;
}

// ---------------------------------------------------------------------------------------------------------------------
// Combinations

// A fault of several keys (null-terminated) together: names them with their values, and the place of the one set last.
static struct error *conflict(const struct loading *l, const char *const *keys, struct error *rule) {
  const char *where = l->name;
  int best = 0;
  char values[4 * VALUE_SIZE] = "", value[VALUE_SIZE];
  for (size_t used = 0; *keys != NULL && used < sizeof values; keys++) {
    int i = find_setting(*keys);
    format_value(&settings[i], &l->config, value);
    used += (size_t)snprintf(values + used, sizeof values - used, "%s%s is %s", used > 0 ? ", " : "", *keys, value);
    if (l->rank[i] <= best) continue;
    best = l->rank[i];
    where = l->where[i];
  }
  return error_prefix(rule, "%s: %s", where, values);
}
#define CONFLICT(l, keys, ...) conflict(l, keys, error_new(EXIT_CODE_USAGE, __VA_ARGS__))
#define KEYS(...) ((const char *const[]){__VA_ARGS__, NULL})

// The multiples of `step` around `value` that the key's range allows: "64 or 128". out [VALUE_SIZE]
static const char *nearest_multiples(const char *key, int64_t value, int64_t step, char *out) {
  const char *range = settings[find_setting(key)].range;
  int64_t low = value - value % step, high = low + step;
  bool low_fits = in_integer_range(range, low), high_fits = in_integer_range(range, high);
  if (low_fits && high_fits) snprintf(out, VALUE_SIZE, "%" PRId64 " or %" PRId64, low, high);
  else if (low_fits || high_fits) snprintf(out, VALUE_SIZE, "%" PRId64, low_fits ? low : high);
  else snprintf(out, VALUE_SIZE, "none");
  return out;
}

// Ranges once more: a config may have been filled by hand.
static struct error *check_ranges(const struct loading *l) {
  struct config scratch;
  memset(&scratch, 0, sizeof scratch);
  for (int i = 0; i < SETTING_COUNT; i++) {
    char value[VALUE_SIZE], allowed[VALUE_SIZE];
    format_value(&settings[i], &l->config, value);
    describe_allowed(&settings[i], allowed);
    if (!set_text(&settings[i], value, &scratch)) return CONFLICT(l, KEYS(settings[i].name), "allowed: %s", allowed);
  }
  return NULL;
}

static struct error *check_shards(const struct loading *l) {
  char nearest[VALUE_SIZE];
  int64_t envs = l->config.rollout.envs, shards = l->config.rollout.shards;
  int64_t unrolls = l->config.rollout.unrolls, minibatches = l->config.optimizer.minibatches;
  if (envs % shards != 0)
    return CONFLICT(l, KEYS("rollout.envs", "rollout.shards"), "envs must be a multiple of shards; nearest envs: %s",
                    nearest_multiples("rollout.envs", envs, shards, nearest));
  int64_t shard_unrolls = envs / shards * unrolls;
  if (shard_unrolls % minibatches != 0) {
    int64_t step = 1, fewer = minibatches;
    while (envs / shards * step % minibatches != 0) step++;
    while (shard_unrolls % fewer != 0) fewer--;
    return CONFLICT(l, KEYS("rollout.envs", "rollout.shards", "rollout.unrolls", "optimizer.minibatches"),
                    "envs / shards * unrolls (%" PRId64 ") must be a multiple of minibatches; nearest unrolls: %s; "
                    "nearest minibatches: %" PRId64,
                    shard_unrolls, nearest_multiples("rollout.unrolls", unrolls, step, nearest), fewer);
  }
  if (l->config.cluster.learners > shards)
    return CONFLICT(l, KEYS("cluster.learners", "rollout.shards"),
                    "every learner needs a shard; allowed: at most %" PRId64 " learners, or all", shards);
  return NULL;
}

// Row numbers are 32-bit, and so are the step and epoch counters of the random streams (common/rng.h).
static struct error *check_sizes(const struct loading *l) {
  const struct config *g = &l->config;
  const char *const *keys = KEYS("rollout.envs", "rollout.unrolls", "rollout.unroll_length", "rollout.shards");
  int64_t env_steps = g->rollout.unrolls * g->rollout.unroll_length; // at most 2^36 by the table's ranges
  int64_t shard_steps = g->rollout.envs / g->rollout.shards * env_steps, steps = g->rollout.envs * env_steps;
  int64_t most_steps = INT64_C(1) << 40, iterations = (g->total_env_steps + steps - 1) / steps;
  if (shard_steps > INT32_MAX)
    return CONFLICT(l, keys, "%" PRId64 " steps a shard and iteration; allowed: at most %" PRId32, shard_steps,
                    INT32_MAX);
  if (steps > most_steps)
    return CONFLICT(l, keys, "%" PRId64 " steps an iteration; allowed: at most %" PRId64, steps, most_steps);
  if (iterations * env_steps > UINT32_MAX)
    return CONFLICT(l, KEYS("total_env_steps", "rollout.envs"),
                    "%" PRId64 " steps of each environment; allowed: at most %" PRIu32, iterations * env_steps,
                    UINT32_MAX);
  if (iterations * g->optimizer.epochs > UINT32_MAX)
    return CONFLICT(l, KEYS("total_env_steps", "optimizer.epochs", "rollout.envs"),
                    "%" PRId64 " iterations; allowed: at most %" PRIu32 " epochs in all", iterations, UINT32_MAX);
  return NULL;
}

// An evaluation's sampler may be any: evaluations take no noise on the way.
static struct error *check_samplers(const struct loading *l) {
  const struct config *g = &l->config;
  const int64_t learned = g->objective.denoising_steps;
  if (g->objective.kind == OBJECTIVE_PPO) return NULL;
  if (g->policy.sde_sigma > 0 && g->policy.sampler != SAMPLER_EULER)
    return CONFLICT(l, KEYS("policy.sampler", "policy.sde_sigma"),
                    "only euler takes noise; set policy.sampler to euler or sde_sigma to 0");
  if (g->objective.kind != OBJECTIVE_DPPO) return NULL;
  if (!(g->policy.sde_sigma > 0) || g->policy.sampler != SAMPLER_EULER)
    return CONFLICT(l, KEYS("objective.kind", "policy.sampler", "policy.sde_sigma"),
                    "dppo learns from the noise of its flow steps; set policy.sampler to euler and sde_sigma above 0");
  if (learned > g->policy.flow_steps)
    return CONFLICT(l, KEYS("objective.denoising_steps", "policy.flow_steps"),
                    "no more flow steps can be learned than there are; allowed: at most %" PRId64 ", all or last_half",
                    g->policy.flow_steps);
  return NULL;
}

static bool has_setting(enum objective_kind kind, const struct setting *s) {
  return s->methods == 0 || (s->methods >> kind & 1u) != 0;
}

// Keys that the method does not have: refused where they were set together with the method or after it (all --set are
// one place), back to their defaults where a base file set them for another method.
static struct error *check_method(struct loading *l) {
  const int chosen = l->rank[find_setting("objective.kind")];
  const enum objective_kind kind = l->config.objective.kind;
  for (int i = 0; i < SETTING_COUNT; i++) {
    const struct setting *s = &settings[i];
    if (has_setting(kind, s) || l->rank[i] == 0) continue;
    if (l->rank[i] >= chosen || l->rank[i] > l->files)
      return CONFLICT(l, KEYS(s->name, "objective.kind"), "%s has no such setting; remove it", objectives[kind]);
    bool allowed = set_text(s, s->fallback, &l->config);
    (void)allowed; // a default
  }
  return NULL;
}

static struct error *check_all(struct loading *l) {
  TRY(check_ranges(l));
  TRY(check_method(l));
  TRY(check_shards(l));
  TRY(check_sizes(l));
  return check_samplers(l);
}

// ---------------------------------------------------------------------------------------------------------------------
// The interface

struct error *config_validate(const char *name, const struct config *config) {
  return check_all(&(struct loading){.name = name, .config = *config});
}

// --set on top, checks, hand over; gives back what loading holds. e: how reading went.
static struct error *finish(struct error *e, int set_count, const char *const *sets, struct loading *l,
                            struct config *config) {
  l->files = l->layers;
  for (int i = 0; e == NULL && i < set_count; i++) e = load_set(sets[i], l);
  if (e == NULL) e = check_all(l);
  if (e == NULL) *config = l->config;
  for (int i = 0; i < SETTING_COUNT; i++) free(l->where[i]);
  return e;
}

struct error *config_load(const char *path, int set_count, const char *const *sets, struct config *config) {
  struct loading l = {.name = path};
  config_default(&l.config);
  return finish(load_file(path, NULL, 1, &l), set_count, sets, &l, config);
}

struct error *config_parse(const char *name, const char *text, int set_count, const char *const *sets,
                           struct config *config) {
  struct loading l = {.name = name};
  struct layer layer = {0};
  config_default(&l.config);
  struct error *e = read_layer(name, text, strlen(text), NULL, -1, &layer);
  if (e == NULL && layer.base != NULL)
    e = error_new(EXIT_CODE_USAGE, "%s: key 'base' is not allowed here; only files on disk inherit", layer.base_where);
  if (e == NULL) lay_over(&l, &layer);
  layer_free(&layer);
  return finish(e, set_count, sets, &l, config);
}

struct error *config_print(const struct config *config, char **text) {
  size_t size = 0;
  *text = NULL;
  FILE *out = open_memstream(text, &size);
  if (out == NULL) return error_no_memory("the config's text");
  int section = TOP_LEVEL;
  for (int i = 0; i < SETTING_COUNT; i++) {
    const struct setting *s = &settings[i];
    char value[VALUE_SIZE];
    if (!has_setting(config->objective.kind, s)) continue;
    format_value(s, config, value);
    if (section_of(s) != section) {
      section = section_of(s);
      fprintf(out, "%s:\n", sections[section].name);
    }
    fprintf(out, "%s%s: %s\n", section == TOP_LEVEL ? "" : "  ", short_name(s->name), value);
  }
  bool failed = ferror(out) != 0;
  if (fclose(out) == 0 && !failed) return NULL;
  free(*text);
  *text = NULL;
  return error_no_memory("the config's text");
}

struct error *config_reference(FILE *out) {
  static const char *const kinds[] = {[INTEGER] = "integer", [REAL] = "real",     [BOOLEAN] = "boolean",
                                      [WORD] = "word",       [CHOICE] = "choice", [LAYERS] = "list of integers"};
  int section = TOP_LEVEL;
  for (int i = 0; i < SETTING_COUNT; i++) {
    const struct setting *s = &settings[i];
    if (i == 0 || section_of(s) != section) {
      section = section_of(s);
      fprintf(out, "%s## %s\n%s\n\n", i == 0 ? "" : "\n", section == TOP_LEVEL ? "Top level" : sections[section].name,
              section == TOP_LEVEL ? "Keys outside any section." : sections[section].meaning);
      fprintf(out, "| key | type | default | allowed | meaning |\n| --- | --- | --- | --- | --- |\n");
    }
    char allowed[VALUE_SIZE];
    describe_allowed(s, allowed);
    fprintf(out, "| `%s` | %s | `%s` | %s | %s", s->name, kinds[s->kind], s->fallback, allowed, s->meaning);
    for (int kind = 0, named = 0; s->methods != 0 && kind < OBJECTIVE_KINDS; kind++)
      if (has_setting((enum objective_kind)kind, s)) fprintf(out, "%s%s", named++ ? ", " : " (only ", objectives[kind]);
    fprintf(out, "%s |\n", s->methods != 0 ? ")" : "");
  }
  return ferror(out) ? error_new(EXIT_CODE_FAILED, "cannot write the reference of settings") : NULL;
}

const char *config_first_difference(const struct config *a, const struct config *b, bool learning_only) {
  for (int i = 0; i < SETTING_COUNT; i++) {
    char left[VALUE_SIZE], right[VALUE_SIZE];                               // equal texts are equal bits
    const bool length_matters = a->optimizer.schedule == SCHEDULE_LINEAR && // the rate falls to 0 at the run's end
                                strcmp(settings[i].name, "total_env_steps") == 0;
    if (learning_only && settings[i].run_only && !length_matters) continue;
    format_value(&settings[i], a, left);
    format_value(&settings[i], b, right);
    if (strcmp(left, right) != 0) return settings[i].name;
  }
  return NULL;
}

const char *config_library_version(void) { return yaml_get_version_string(); }

const char *config_sampler_name(enum sampler_kind kind) { return samplers[kind]; }

struct error *config_sampler_parse(const char *word, enum sampler_kind *kind) {
  int index = index_of(word, samplers);
  if (index < 0) {
    char allowed[VALUE_SIZE];
    describe_allowed(&settings[find_setting("policy.sampler")], allowed);
    return error_new(EXIT_CODE_USAGE, "sampler '%.60s' is unknown; allowed: %s", word, allowed);
  }
  *kind = (enum sampler_kind)index;
  return NULL;
}
