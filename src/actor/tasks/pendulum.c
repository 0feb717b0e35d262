// Pendulum, after Playground's pendulum.py: a motor too weak to lift the mass at once.
#include "actor/tasks/tasks.h"

enum { POLE };
static const struct task_object OBJECTS[] = {[POLE] = {mjOBJ_BODY, "pole"}, {mjOBJ_UNKNOWN, NULL}};

// The reference draws from one side only.
static void reset(const struct task *task, struct task_worker *w, struct rng_stream draws) {
  (void)task;
  w->data->qpos[0] = draw_between(draws, 0, 0, mjPI);
}

static void observe(const struct task *task, const struct task_worker *w, double *obs) {
  const mjtNum *pole = body_mat(task, w, POLE);
  obs[0] = pole[MAT_XZ];
  obs[1] = pole[MAT_ZZ];
  obs[2] = w->data->qvel[0];
}

static double reward(const struct task *task, const struct task_worker *w, const double *action) {
  (void)action;
  return tolerance(body_mat(task, w, POLE)[MAT_ZZ], cos(8 * mjPI / 180), 1, 0, SIGMOID_GAUSSIAN, 0.1);
}

static const struct task_kind KINDS[] = {
    {.name = "PendulumSwingup",
     .family = "pendulum",
     .summary = "swing the pole up and keep it there; starts anywhere on one side",
     .source = PLAYGROUND("pendulum.py"),
     .observation = "sine and cosine of the angle from upright; hinge velocity (rad/s)",
     .reward_text = "1 with the pole within 8 degrees of upright, else 0",
     .termination = ENDS_BY_NAN,
     .model = "pendulum.xml",
     .control_dt = 0.02,
     .physics_dt = 0.01,
     .qpos_dim = 1,
     .qvel_dim = 1,
     .action_dim = 1,
     .obs_dim = 3,
     .episode_length = 1000,
     .objects = OBJECTS,
     .reset = reset,
     .observe = observe,
     .reward = reward},
};

const struct task_family pendulum_family = TASK_FAMILY(KINDS);
