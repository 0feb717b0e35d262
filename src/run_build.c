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

bool run_overlaps(const struct run *r) { return r->config.cluster.pipeline == PIPELINE_OVERLAP; }

// What only rank 0 has: a checkpoint's content that is not learned, and where the running iteration started.
static struct error *init_first_rank(struct run *r) {
  const size_t moments = moments_size(r->task->obs_dim) * sizeof(double);
  r->env_state = calloc((size_t)r->config.rollout.envs * r->layout.state_size, sizeof *r->env_state);
  r->kept = malloc(3 * r->learned.count * sizeof *r->kept);
  r->kept_moments = malloc(moments);
  if (!r->env_state || !r->kept || !r->kept_moments) return error_no_memory("environment states");
  if (!run_overlaps(r)) return NULL;
  r->previous = malloc(r->learned.count * sizeof *r->previous);
  r->previous_moments = malloc(moments);
  if (!r->previous || !r->previous_moments) return error_no_memory("the acting weights");
  run_keep_learned(r);
  run_kept_is_previous(r); // before the first iteration
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
  TRY(task_open(r->config.task.name, &r->config, NULL, &task));
  r->task = task;
  objective_layout(&r->objective, &r->config, task->obs_dim, task->action_dim);
  r->sizes = shard_sizes(&r->config);
  trajectory_layout_init(&r->layout, &r->objective.policy, &r->sizes, task->least_length, task->state_size);
  TRY(placement_init(&r->placement, &r->config, comm_size(r->comm)));
  const struct placement *p = &r->placement;
  r->mode = p->learners == p->ranks ? LEARNERS_ALL : p->learners;
  TRY(run_balance_init(r));
  r->threads = train_threads(&r->config, comm_ranks_on_node(r->comm));
  openblas_set_num_threads(1); // a shard's products run on the thread that works the shard
  TRY(learned_init(&r->learned, &r->objective));
  r->rollout = (struct rollout){.config = &r->config,
                                .task = r->task,
                                .policy = &r->objective.policy,
                                .parameters = r->learned.parameters,
                                .normalizer = &r->learned.normalizer,
                                .sizes = r->sizes,
                                .layout = r->layout,
                                .interrupt = {run_is_dropped, r}};
  if (comm_rank(r->comm) == 0) TRY(init_first_rank(r));
  TRY(run_hold(r));
  return init_evaluators(r);
}

void run_free(struct run *r) {
  run_balance_free(r);
  run_release(r);
  for (int t = 0; r->evaluator != NULL && t < r->threads; ++t) evaluate_worker_free(&r->evaluator[t]);
  if (r->metrics_open) metrics_close(&r->metrics);
  run_lock_release(r->lock);
  learned_free(&r->learned);
  task_close(r->task);
  free(r->evaluator);
  free(r->eval_results);
  free(r->env_state);
  free(r->kept);
  free(r->kept_moments);
  free(r->previous);
  free(r->previous_moments);
  free(r->config_text);
}
