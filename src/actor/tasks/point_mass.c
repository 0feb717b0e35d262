// Point mass, after Playground's point_mass.py: a ball on a table, pushed along two axes.
#include "actor/tasks/tasks.h"

enum { TARGET, MASS };
static const struct task_object OBJECTS[] = {
    [TARGET] = {mjOBJ_GEOM, "target"}, [MASS] = {mjOBJ_GEOM, "pointmass"}, {mjOBJ_UNKNOWN, NULL}};

static void reset(const struct task *task, struct task_worker *w, struct rng_stream draws) {
  draw_joints(task, w, draws, 0, 2);
}

static void observe(const struct task *task, const struct task_worker *w, double *obs) {
  (void)task;
  copy_numbers(copy_numbers(obs, w->data->qpos, 2), w->data->qvel, 2);
}

static double reward(const struct task *task, const struct task_worker *w, const double *action) {
  const double distance = mju_dist3(geom_pos(task, w, TARGET), geom_pos(task, w, MASS));
  const double size = geom_size(task, TARGET)[0];
  return tolerance(distance, 0, size, size, SIGMOID_GAUSSIAN, 0.1) * small_control(task, action);
}

static const struct task_kind KINDS[] = {
    {.name = "PointMass",
     .family = "point_mass",
     .summary = "push the mass to the centre and keep it there; starts anywhere on the table (paper task)",
     .source = PLAYGROUND("point_mass.py"),
     .observation = "position x, y (m); velocity x, y (m/s)",
     .reward_text = "near target · small control; near target: 1 within 1.5 cm of the centre, falling to 0.1 at 3 cm",
     .termination = ENDS_BY_NAN,
     .model = "point_mass.xml",
     .control_dt = 0.02,
     .physics_dt = 0.02,
     .qpos_dim = 2,
     .qvel_dim = 2,
     .action_dim = 2,
     .obs_dim = 4,
     .episode_length = 1000,
     .objects = OBJECTS,
     .reset = reset,
     .observe = observe,
     .reward = reward},
};

const struct task_family point_mass_family = TASK_FAMILY(KINDS);
