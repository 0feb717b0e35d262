// Fish, after Playground's fish.py: a fish with tail and fins in a fluid, without gravity.
#include "actor/tasks/tasks.h"

enum { ROOT_HEIGHT = 2, ROOT_QUAT = 3, JOINTS = 7, JOINT_COUNT = 7 }; // addresses in qpos

enum { TORSO, MOUTH, TARGET_GEOM, TARGET_BODY };
static const struct task_object OBJECTS[] = {[TORSO] = {mjOBJ_BODY, "torso"},
                                             [MOUTH] = {mjOBJ_GEOM, "mouth"},
                                             [TARGET_GEOM] = {mjOBJ_GEOM, "target"},
                                             [TARGET_BODY] = {mjOBJ_BODY, "target"},
                                             {mjOBJ_UNKNOWN, NULL}};

// A normal vector of four, normalised, is a uniformly random orientation. The reference starts at height 0, not at the
// model's own 0.1.
static void reset(const struct task *task, struct task_worker *w, struct rng_stream draws) {
  (void)task;
  mjtNum *q = w->data->qpos;
  q[ROOT_HEIGHT] = 0;
  for (uint32_t i = 0; i < 4; ++i) q[ROOT_QUAT + i] = rng_normal_at(draws, i);
  mju_normalize4(q + ROOT_QUAT);
  for (uint32_t i = 0; i < JOINT_COUNT; ++i) q[JOINTS + i] = draw_between(draws, 4 + i, -0.2, 0.2);
}

static void place_target(const struct task *task, struct task_worker *w, struct rng_stream draws) {
  mjtNum *target = mocap_pos(task, w, TARGET_BODY);
  target[0] = draw_between(draws, 11, -0.4, 0.4);
  target[1] = draw_between(draws, 12, -0.4, 0.4);
  target[2] = draw_between(draws, 13, 0.1, 0.3);
}

// The target seen from the mouth, in the mouth's frame.
static void mouth_to_target(const struct task *task, const struct task_worker *w, mjtNum out[3]) {
  mjtNum global[3];
  mju_sub3(global, geom_pos(task, w, TARGET_GEOM), geom_pos(task, w, MOUTH));
  mju_mulMatTVec3(out, w->data->geom_xmat + 9 * (ptrdiff_t)task->id[MOUTH], global);
}

static void observe(const struct task *task, const struct task_worker *w, double *obs) {
  const mjData *d = w->data;
  obs[0] = body_mat(task, w, TORSO)[MAT_ZZ];
  copy_numbers(obs + 1, d->qpos + JOINTS, JOINT_COUNT);
  mouth_to_target(task, w, obs + 1 + JOINT_COUNT);
  copy_numbers(obs + 4 + JOINT_COUNT, d->qvel, 13);
}

static double reward(const struct task *task, const struct task_worker *w, const double *action) {
  (void)action;
  const double radii = geom_size(task, MOUTH)[0] + geom_size(task, TARGET_GEOM)[0];
  mjtNum to_target[3];
  mouth_to_target(task, w, to_target);
  const double in_target = tolerance(mju_norm3(to_target), 0, radii, 2 * radii, SIGMOID_GAUSSIAN, 0.1);
  const double upright = (body_mat(task, w, TORSO)[MAT_ZZ] + 1) / 2;
  return (7 * in_target + upright) / 8;
}

static const struct task_kind KINDS[] = {
    {.name = "FishSwim",
     .family = "fish",
     .summary = "swim to a target; starts in any orientation, the target anywhere around (paper task)",
     .source = PLAYGROUND("fish.py"),
     .observation = "cosine of the torso's tilt; angles of tail, tail twist, tail end, right fin roll and pitch, left "
                    "fin roll and pitch (rad); target from the mouth in the mouth's frame (m); velocities of the root "
                    "(m/s, rad/s) and of the seven joints (rad/s)",
     .reward_text = "(7 · in target + upright)/8; in target: 1 with the mouth at the target, falling to 0.1 at twice "
                    "the sum of their radii outside it",
     .termination = ENDS_BY_NAN,
     .model = "fish.xml",
     .control_dt = 0.04,
     .physics_dt = 0.002,
     .qpos_dim = 14,
     .qvel_dim = 13,
     .action_dim = 5,
     .obs_dim = 24,
     .episode_length = 1000,
     .objects = OBJECTS,
     .reset = reset,
     .settle = place_target,
     .observe = observe,
     .reward = reward},
};

const struct task_family fish_family = TASK_FAMILY(KINDS);
