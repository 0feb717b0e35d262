// Reacher, after Playground's reacher.py: an arm of two links on a table.
#include "actor/tasks/tasks.h"

enum { SHOULDER, WRIST }; // joints

enum { TARGET_GEOM, TARGET_BODY, FINGER };
static const struct task_object OBJECTS[] = {[TARGET_GEOM] = {mjOBJ_GEOM, "target"},
                                             [TARGET_BODY] = {mjOBJ_BODY, "target"},
                                             [FINGER] = {mjOBJ_GEOM, "finger"},
                                             {mjOBJ_UNKNOWN, NULL}};

// kind->parameter: the target's radius.
static struct error *resize_target(const struct task_kind *kind, mjSpec *spec) {
  mjsGeom *target = mjs_asGeom(mjs_findElement(spec, mjOBJ_GEOM, "target"));
  if (target == NULL) return task_lacks(kind, mjOBJ_GEOM, "target");
  target->size[0] = kind->parameter;
  return NULL;
}

static void reset(const struct task *task, struct task_worker *w, struct rng_stream draws) {
  w->data->qpos[SHOULDER] = draw_between(draws, SHOULDER, -mjPI, mjPI);
  draw_joints(task, w, draws, WRIST, 1);
}

static void place_target(const struct task *task, struct task_worker *w, struct rng_stream draws) {
  const double angle = draw_between(draws, 2, 0, 2 * mjPI), radius = draw_between(draws, 3, 0.05, 0.2);
  mjtNum *target = mocap_pos(task, w, TARGET_BODY);
  target[0] = radius * sin(angle);
  target[1] = radius * cos(angle);
}

static void finger_to_target(const struct task *task, const struct task_worker *w, double xy[2]) {
  const mjtNum *target = geom_pos(task, w, TARGET_GEOM), *finger = geom_pos(task, w, FINGER);
  for (int i = 0; i < 2; ++i) xy[i] = target[i] - finger[i];
}

static void observe(const struct task *task, const struct task_worker *w, double *obs) {
  copy_numbers(obs, w->data->qpos, 2);
  finger_to_target(task, w, obs + 2);
  copy_numbers(obs + 4, w->data->qvel, 2);
}

static double reward(const struct task *task, const struct task_worker *w, const double *action) {
  (void)action;
  double xy[2];
  finger_to_target(task, w, xy);
  const double radii = geom_size(task, TARGET_GEOM)[0] + geom_size(task, FINGER)[0];
  return tolerance(sqrt(xy[0] * xy[0] + xy[1] * xy[1]), 0, radii, 0, SIGMOID_GAUSSIAN, 0.1);
}

#define REACHER                                                                                                        \
  .family = "reacher", .source = PLAYGROUND("reacher.py"),                                                             \
  .observation = "angles of shoulder and wrist (rad); x and y from the finger to the target (m); velocities of "       \
                 "shoulder and wrist (rad/s)",                                                                         \
  .reward_text = "1 with the finger touching the target, else 0", .termination = ENDS_BY_NAN, .model = "reacher.xml",  \
  .control_dt = 0.02, .physics_dt = 0.005, .qpos_dim = 2, .qvel_dim = 2, .action_dim = 2, .obs_dim = 6,                \
  .episode_length = 1000, .objects = OBJECTS, .edit = resize_target, .reset = reset, .settle = place_target,           \
  .observe = observe, .reward = reward

static const struct task_kind KINDS[] = {
    {REACHER, .name = "ReacherEasy",
     .summary = "reach a target of 5 cm with the finger; arm and target start anywhere (paper task)",
     .parameter = 0.05},
    {REACHER, .name = "ReacherHard",
     .summary = "reach a target of 1.5 cm with the finger; arm and target start anywhere (paper task)",
     .parameter = 0.015},
};

const struct task_family reacher_family = TASK_FAMILY(KINDS);
