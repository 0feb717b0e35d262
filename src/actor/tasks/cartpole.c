// Cart-pole, after Playground's dm_control_suite/cartpole.py. A cart on a rail, one motor, a pole on a hinge.
#include <math.h>

#include "actor/tasks/tasks.h"

enum { SLIDER, HINGE }; // addresses in qpos and qvel
enum { POLE_BODY };     // in task->id

static struct error *prepare(struct task *task) { return task_find(task, mjOBJ_BODY, "pole_1", &task->id[POLE_BODY]); }

static void reset_balance(const struct task *task, struct task_worker *w, struct rng_stream draws) {
  (void)task;
  w->data->qpos[SLIDER] = 0.1 * (2.0 * rng_uniform_at(draws, 0) - 1.0);
  w->data->qpos[HINGE] = 0.034 * (2.0 * rng_uniform_at(draws, 1) - 1.0);
  for (uint32_t i = 0; i < 2; ++i) w->data->qvel[i] = 0.01 * rng_normal_at(draws, 2 + i);
}

// zz and xz of the pole's rotation matrix.
static double pole_cosine(const struct task *task, const mjData *d) { return d->xmat[9 * task->id[POLE_BODY] + 8]; }
static double pole_sine(const struct task *task, const mjData *d) { return d->xmat[9 * task->id[POLE_BODY] + 2]; }

static void observe(const struct task *task, const struct task_worker *w, double *obs) {
  const mjData *d = w->data;
  obs[0] = d->qpos[SLIDER];
  obs[1] = pole_cosine(task, d);
  obs[2] = pole_sine(task, d);
  obs[3] = d->qvel[SLIDER];
  obs[4] = d->qvel[HINGE];
}

static double dense_reward(const struct task *task, const struct task_worker *w, const double *action) {
  const mjData *d = w->data;
  const double upright = (pole_cosine(task, d) + 1) / 2;
  const double centered = (1 + tolerance(d->qpos[SLIDER], 0, 0, 2, SIGMOID_GAUSSIAN, 0.1)) / 2;
  const double small_control = (4 + tolerance(action[0], 0, 0, 1, SIGMOID_QUADRATIC, 0)) / 5;
  const double small_velocity = (1 + tolerance(d->qvel[HINGE], 0, 0, 5, SIGMOID_GAUSSIAN, 0.1)) / 2;
  return upright * centered * small_control * small_velocity;
}

static const struct task_kind KINDS[] = {
    {.name = "CartpoleBalance",
     .family = "cartpole",
     .summary = "keep the pole upright and the cart near the centre; starts near the balance",
     .source = "MuJoCo Playground 0.2.0, dm_control_suite/cartpole.py",
     .observation = "slider position (m); cosine and sine of the pole's angle from upright; slider velocity (m/s); "
                    "hinge velocity (rad/s)",
     .reward_text = "upright · centered · small_control · small_velocity, each in [0,1]",
     .termination = "none but a NaN in the physics; truncated after the episode length",
     .model = "cartpole.xml",
     .control_dt = 0.01,
     .physics_dt = 0.01,
     .obs_dim = 5,
     .action_dim = 1,
     .episode_length = 1000,
     .prepare = prepare,
     .reset = reset_balance,
     .observe = observe,
     .reward = dense_reward},
};

const struct task_family cartpole_family = {sizeof KINDS / sizeof *KINDS, KINDS};
