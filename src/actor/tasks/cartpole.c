// Cart-pole, after Playground's cartpole.py: a cart on a rail, one motor, a pole on a hinge.
#include "actor/tasks/tasks.h"

enum { SLIDER, HINGE }; // addresses in qpos and qvel

enum { POLE };
static const struct task_object OBJECTS[] = {[POLE] = {mjOBJ_BODY, "pole_1"}, {mjOBJ_UNKNOWN, NULL}};

static void reset_balance(const struct task *task, struct task_worker *w, struct rng_stream draws) {
  (void)task;
  w->data->qpos[SLIDER] = draw_between(draws, 0, -0.1, 0.1);
  w->data->qpos[HINGE] = draw_between(draws, 1, -0.034, 0.034);
  for (uint32_t i = 0; i < 2; ++i) w->data->qvel[i] = 0.01 * rng_normal_at(draws, 2 + i);
}

static void reset_swingup(const struct task *task, struct task_worker *w, struct rng_stream draws) {
  (void)task;
  w->data->qpos[SLIDER] = 0.01 * rng_normal_at(draws, 0);
  w->data->qpos[HINGE] = mjPI + 0.01 * rng_normal_at(draws, 1);
  for (uint32_t i = 0; i < 2; ++i) w->data->qvel[i] = 0.01 * rng_normal_at(draws, 2 + i);
}

static void observe(const struct task *task, const struct task_worker *w, double *obs) {
  const mjtNum *pole = body_mat(task, w, POLE);
  obs[0] = w->data->qpos[SLIDER];
  obs[1] = pole[MAT_ZZ];
  obs[2] = pole[MAT_XZ];
  copy_numbers(obs + 3, w->data->qvel, 2);
}

static double dense_reward(const struct task *task, const struct task_worker *w, const double *action) {
  const mjData *d = w->data;
  const double upright = (body_mat(task, w, POLE)[MAT_ZZ] + 1) / 2;
  const double centered = (1 + tolerance(d->qpos[SLIDER], 0, 0, 2, SIGMOID_GAUSSIAN, 0.1)) / 2;
  const double small_velocity = (1 + tolerance(d->qvel[HINGE], 0, 0, 5, SIGMOID_GAUSSIAN, 0.1)) / 2;
  return upright * centered * small_control(task, action) * small_velocity;
}

static double sparse_reward(const struct task *task, const struct task_worker *w, const double *action) {
  (void)action;
  return tolerance(w->data->qpos[SLIDER], -0.25, 0.25, 0, SIGMOID_GAUSSIAN, 0.1) *
         tolerance(body_mat(task, w, POLE)[MAT_ZZ], 0.995, 1, 0, SIGMOID_GAUSSIAN, 0.1);
}

#define CARTPOLE                                                                                                       \
  .family = "cartpole", .source = PLAYGROUND("cartpole.py"),                                                           \
  .observation = "slider position (m); cosine and sine of the pole's angle from upright; slider velocity (m/s); "      \
                 "hinge velocity (rad/s)",                                                                             \
  .termination = ENDS_BY_NAN, .model = "cartpole.xml", .control_dt = 0.01, .physics_dt = 0.01, .qpos_dim = 2,          \
  .qvel_dim = 2, .action_dim = 1, .obs_dim = 5, .episode_length = 1000, .objects = OBJECTS, .observe = observe
#define DENSE                                                                                                          \
  .reward_text = "upright · centered · small control · small hinge velocity, each at most 1", .reward = dense_reward
#define SPARSE                                                                                                         \
  .reward_text = "1 with the cart within 0.25 m of the centre and the pole's cosine above 0.995, else 0",              \
  .reward = sparse_reward
#define BALANCE(text)                                                                                                  \
  .summary = "keep the pole upright and the cart near the centre; starts near it" text, .reset = reset_balance
#define SWINGUP .summary = "swing the pole up and keep it there; starts with the pole hanging", .reset = reset_swingup

static const struct task_kind KINDS[] = {
    {CARTPOLE, BALANCE(" (paper task)"), DENSE, .name = "CartpoleBalance"},
    {CARTPOLE, BALANCE(""), SPARSE, .name = "CartpoleBalanceSparse"},
    {CARTPOLE, SWINGUP, DENSE, .name = "CartpoleSwingup"},
    {CARTPOLE, SWINGUP, SPARSE, .name = "CartpoleSwingupSparse"},
};

const struct task_family cartpole_family = TASK_FAMILY(KINDS);
