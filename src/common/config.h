// The table of settings: YAML and --set in, validated values, YAML and documentation out.
#ifndef FLOWRANK_CONFIG_H
#define FLOWRANK_CONFIG_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "common/error.h"

enum { CONFIG_MAX_LAYERS = 16, CONFIG_MAX_NAME = 256 };

enum reset_kind { RESET_RANDOM, RESET_FIRST_STATE };
enum conditioning_kind { CONDITIONING_FULL, CONDITIONING_ROOT_HANDS, CONDITIONING_ROOT };
enum sampling_kind { SAMPLING_UNIFORM, SAMPLING_FAILURE };
enum servo_target_kind { SERVO_TARGET_POSE, SERVO_TARGET_REFERENCE };
enum normalizer_kind { NORMALIZER_EXACT, NORMALIZER_REFERENCE, NORMALIZER_NONE };
enum sampler_kind { SAMPLER_EULER, SAMPLER_HEUN, SAMPLER_MIDPOINT, SAMPLER_RK4 };
enum objective_kind { OBJECTIVE_FPO, OBJECTIVE_PPO, OBJECTIVE_DPPO, OBJECTIVE_KINDS };
enum ratio_kind { RATIO_AVERAGED, RATIO_PER_SAMPLE };
enum trust_region_kind { TRUST_REGION_CLIP, TRUST_REGION_SPO, TRUST_REGION_ASPO };
enum schedule_kind { SCHEDULE_CONSTANT, SCHEDULE_LINEAR };
enum supervision_kind { SUPERVISION_EPS, SUPERVISION_VELOCITY, SUPERVISION_DATA };
enum flow_time_kind { FLOW_TIME_GRID, FLOW_TIME_UNIFORM, FLOW_TIME_LOGNORMAL };
enum pipeline_kind { PIPELINE_SYNC, PIPELINE_OVERLAP };
enum rebalance_kind { REBALANCE_OFF, REBALANCE_ON };
enum {
  LEARNERS_ALL = -1,
  LEARNERS_AUTO = -2,
  THREADS_AUTO = 0,
  NOISE_AUTO = -1,
  DENOISING_ALL = -1,
  DENOISING_LAST_HALF = -2
};

// Hidden widths of a network, first to last.
struct config_layers {
  int64_t count;
  int64_t width[CONFIG_MAX_LAYERS];
};

// Every setting of a run; the meaning, default and range of each stand in the table in config.c.
struct config {
  struct {
    char name[CONFIG_MAX_NAME];
    int64_t episode_length; // control steps, in training; 0: the task's own
    enum reset_kind reset;
    bool stagger;                                          // first episodes begin at a random step count
    char motions[CONFIG_MAX_NAME], clips[CONFIG_MAX_NAME]; // humanoid_track, and what follows
    enum conditioning_kind conditioning;
    enum sampling_kind sampling;
    enum servo_target_kind servo_target;
    double servo_reach; // share of an axis's range that an action of 1 covers
    double power_cost;  // reward taken for a watt
  } task;
  int64_t seed;
  struct {
    int64_t envs, unroll_length, unrolls, shards;
    double reward_scaling;
    enum normalizer_kind normalizer;
  } rollout;
  struct {
    struct config_layers hidden;
    double output_scale;
    int64_t time_frequencies; // the embedding of t has 2 numbers a frequency
    enum sampler_kind sampler;
    int64_t flow_steps;
    int64_t noise; // 0: the flow starts at zero
    double sde_sigma, feather_std, time_floor;
    double initial_std; // 0: as the network comes
  } policy;
  struct {
    struct config_layers hidden;
  } value;
  struct {
    enum objective_kind kind;
    enum ratio_kind ratio;
    enum trust_region_kind trust_region;
    enum supervision_kind supervision;
    enum flow_time_kind flow_time;
    double flow_time_mean, flow_time_std;
    double loss_weight;
    int64_t mc_samples;
    int64_t denoising_steps; // or DENOISING_ALL, DENOISING_LAST_HALF
    double clip, log_ratio_clip, entropy_cost, value_coef, value_clip, discount, gae_lambda;
    bool normalize_advantage, bootstrap_truncated;
  } objective;
  struct {
    enum schedule_kind schedule;
    double learning_rate, beta1, beta2, epsilon, max_grad_norm; // max_grad_norm 0: no clipping
    int64_t epochs, minibatches;
  } optimizer;
  struct {
    int64_t learners; // or LEARNERS_ALL, LEARNERS_AUTO
    int64_t threads;  // or THREADS_AUTO
    enum rebalance_kind rebalance;
    double timeout; // seconds; 0: never
    enum pipeline_kind pipeline;
  } cluster;
  struct {
    int64_t every, keep; // iterations; files
  } checkpoint;
  struct {
    int64_t every, episodes, episode_length, flow_steps,
        seed; // every 0: never; flow_steps 0: the policy's; length 0: the task's
    enum sampler_kind sampler;
    int64_t noise; // or NOISE_AUTO
  } eval;
  struct {
    double interval; // seconds between plain log lines
  } log;
  int64_t total_env_steps;
};

// Fills `config` with the defaults of the table.
void config_default(struct config *config);

// Reads `path` over the defaults (following `base:`, whose path is relative to the file that names it), then each of
// the `set_count` overrides "section.key=value", then checks ranges and combinations. A key that the method
// (objective.kind) does not have is refused, unless it was set before the method was: a base file's keys for another
// method are passed over.
// Errors: one line with file, line, column and key (or the --set text), what is allowed, the nearest known key.
struct error *config_load(const char *path, int set_count, const char *const *sets, struct config *config) MUST_USE;

// The same from YAML text (a checkpoint's); `name` stands for the file in messages. `base:` is refused here.
struct error *config_parse(const char *name, const char *text, int set_count, const char *const *sets,
                           struct config *config) MUST_USE;

// Combinations that a single key's range cannot express (also called by the loaders).
struct error *config_validate(const char *name, const struct config *config) MUST_USE;

// The effective config as YAML text that config_parse reads back to the same values, bit for bit. Keys that the method
// does not have are left out.
// Caller owns *text.
struct error *config_print(const struct config *config, char **text) MUST_USE;

// Every key with type, default, range and meaning, as Markdown (docs/config.md).
struct error *config_reference(FILE *out) MUST_USE;

// The first key whose value differs between two configs, by its full name, or null when equal.
// Keys that only change where and how long a run goes (cluster, checkpoint, eval, log, total_env_steps) are passed over
// when `learning_only`.
const char *config_first_difference(const struct config *a, const struct config *b, bool learning_only);

// Version of libyaml, "0.2.5".
const char *config_library_version(void);

// The word of an enum-valued setting, for messages and reports.
const char *config_sampler_name(enum sampler_kind kind);
// Reads a sampler's word; the error names the allowed ones.
struct error *config_sampler_parse(const char *word, enum sampler_kind *kind) MUST_USE;

#endif
