#include "loaded_policy.h"

#include <stdlib.h>

#include "common/metrics.h"

struct error *loaded_policy_init(struct loaded_policy *p, const char *name) {
  *p = (struct loaded_policy){0};
  TRY(checkpoint_open(name, &p->checkpoint, &p->path, metrics_warn, NULL));
  const struct checkpoint *c = &p->checkpoint;
  TRY(error_prefix(config_parse("its config", c->config_text, 0, NULL, &p->config), "%s", p->path));
  TRY(task_open(p->config.task.name, &p->config, NULL, &p->task));
  objective_layout(&p->objective, &p->config, p->task->obs_dim, p->task->action_dim);
  if (c->parameter_count != p->objective.parameter_count || c->obs_dim != p->task->obs_dim)
    return error_new(EXIT_CODE_FAILED, "%s: its parameters do not fit its config", p->path);
  TRY(normalizer_init(&p->normalizer, p->config.rollout.normalizer, c->obs_dim));
  moments_join(c->obs_dim, c->normalizer_count, c->normalizer_mean, c->normalizer_m2, p->normalizer.moments);
  normalizer_refresh(&p->normalizer);
  return NULL;
}

void loaded_policy_free(struct loaded_policy *p) {
  checkpoint_free(&p->checkpoint);
  free(p->path);
  task_close(p->task);
  normalizer_free(&p->normalizer);
}

struct evaluation loaded_policy_evaluation(const struct loaded_policy *p, int64_t episodes, int64_t seed, int noise) {
  const struct config *c = &p->config;
  struct evaluation v = {.task = p->task,
                         .policy = &p->objective.policy,
                         .parameters = p->checkpoint.parameters,
                         .normalizer = &p->normalizer,
                         .acting = policy_evaluation(c),
                         .episodes = episodes ? episodes : c->eval.episodes,
                         .episode_length = evaluate_length(p->task, c->eval.episode_length)};
  if (seed >= 0) v.acting.seed = (uint64_t)seed;
  if (noise >= 0) v.acting.noise = noise != 0;
  return v;
}

struct error *loaded_policy_needs_flow(const struct loaded_policy *p, const char *option) {
  if (p->config.objective.kind != OBJECTIVE_PPO) return NULL;
  return error_new(EXIT_CODE_USAGE,
                   "--%s: %s holds a Gaussian policy (objective.kind ppo), which has no flow to integrate", option,
                   p->path);
}
