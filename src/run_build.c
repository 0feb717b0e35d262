#include "run.h"

#include <cblas.h>
#include <sched.h>
#include <stdlib.h>
#include <unistd.h>

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

bool run_is_mine(const struct run *r, const int *rank_of, int shard) {
  return rank_of[shard] == comm_rank(r->comm); // NOLINT(clang-analyzer-core.NullDereference): placement_init fills it
}

static struct error *init_trajectories(struct run *r) {
  const size_t shards = (size_t)r->sizes.shards;
  r->trajectory = calloc(shards, sizeof *r->trajectory);
  if (r->trajectory == NULL) return error_no_memory("trajectories");
  for (int s = 0; s < r->sizes.shards; ++s)
    if (run_is_mine(r, r->placement.actor_of, s) || run_is_mine(r, r->placement.learner_of, s))
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
                                .interrupt = {run_is_dropped, r}};
  if (!placement_is_actor(&r->placement, comm_rank(r->comm))) return NULL;
  r->actor = calloc((size_t)r->threads, sizeof *r->actor);
  if (r->actor == NULL) return error_no_memory("actors");
  for (int t = 0; t < r->threads; ++t) TRY(rollout_worker_init(&r->actor[t], &r->rollout));
  return NULL;
}

struct evaluation run_evaluation(struct run *r) {
  const struct config *c = &r->config;
  return (struct evaluation){.task = r->task,
                             .policy = &r->objective.policy,
                             .parameters = r->learned.parameters,
                             .normalizer = &r->learned.normalizer,
                             .acting = policy_evaluation(c),
                             .episodes = c->eval.episodes,
                             .episode_length = evaluate_length(r->task, c->eval.episode_length),
                             .interrupt = {run_is_dropped, r}};
}

static struct error *init_evaluators(struct run *r) {
  if (r->config.eval.every == 0) return NULL;
  const struct evaluation v = run_evaluation(r);
  r->evaluator = calloc((size_t)r->threads, sizeof *r->evaluator);
  r->eval_results = calloc((size_t)(evaluate_blocks(&v) * EVALUATE_BLOCK), sizeof *r->eval_results);
  if (r->evaluator == NULL || r->eval_results == NULL) return error_no_memory("evaluation");
  for (int t = 0; t < r->threads; ++t) TRY(evaluate_worker_init(&r->evaluator[t], &v));
  return NULL;
}

struct error *run_build(struct run *r) {
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

struct error *run_build_learner(struct run *r) {
  TRY(learner_init(&r->learner, &r->objective, &r->sizes, &r->layout, &r->placement, r->comm, r->trajectory,
                   r->threads));
  if (placement_is_learner(&r->placement, comm_rank(r->comm))) {
    learner_interrupt(r->learner, (struct interrupt){run_is_dropped, r});
    return NULL;
  }
  learner_free(r->learner);
  r->learner = NULL;
  return NULL;
}

void run_free(struct run *r) {
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
