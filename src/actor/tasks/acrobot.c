// Acrobot, after Playground's acrobot.py: two links, a motor only at the elbow; the tip has to reach the target above.
#include "actor/tasks/tasks.h"

enum { UPPER, LOWER, TIP, TARGET };
static const struct task_object OBJECTS[] = {[UPPER] = {mjOBJ_BODY, "upper_arm"},
                                             [LOWER] = {mjOBJ_BODY, "lower_arm"},
                                             [TIP] = {mjOBJ_SITE, "tip"},
                                             [TARGET] = {mjOBJ_SITE, "target"},
                                             {mjOBJ_UNKNOWN, NULL}};

static void reset(const struct task *task, struct task_worker *w, struct rng_stream draws) {
  (void)task;
  for (uint32_t i = 0; i < 2; ++i) w->data->qpos[i] = draw_between(draws, i, -mjPI, mjPI);
}

static void observe(const struct task *task, const struct task_worker *w, double *obs) {
  const mjtNum *upper = body_mat(task, w, UPPER), *lower = body_mat(task, w, LOWER);
  obs[0] = upper[MAT_XZ];
  obs[1] = lower[MAT_XZ];
  obs[2] = upper[MAT_ZZ];
  obs[3] = lower[MAT_ZZ];
  copy_numbers(obs + 4, w->data->qvel, 2);
}

// kind->parameter: the margin.
static double reward(const struct task *task, const struct task_worker *w, const double *action) {
  (void)action;
  const double distance = mju_dist3(site_pos(task, w, TARGET), site_pos(task, w, TIP));
  return tolerance(distance, 0, site_size(task, TARGET)[0], task->kind->parameter, SIGMOID_GAUSSIAN, 0.1);
}

#define ACROBOT                                                                                                        \
  .family = "acrobot", .source = PLAYGROUND("acrobot.py"),                                                             \
  .observation = "x of the upper and of the lower arm's axis, z of the same (sines and cosines from upright); "        \
                 "shoulder and elbow velocity (rad/s)",                                                                \
  .termination = ENDS_BY_NAN, .model = "acrobot.xml", .control_dt = 0.01, .physics_dt = 0.01, .qpos_dim = 2,           \
  .qvel_dim = 2, .action_dim = 1, .obs_dim = 6, .episode_length = 1000, .objects = OBJECTS, .reset = reset,            \
  .observe = observe, .reward = reward

static const struct task_kind KINDS[] = {
    {ACROBOT, .name = "AcrobotSwingup",
     .summary = "swing both links up until the tip is in the target; starts at any angles",
     .reward_text = "1 with the tip within the target's radius (0.2 m), falling to 0.1 at 1 m outside it",
     .parameter = 1},
    {ACROBOT, .name = "AcrobotSwingupSparse",
     .summary = "swing both links up until the tip is in the target; starts at any angles",
     .reward_text = "1 with the tip within the target's radius (0.2 m), else 0", .parameter = 0},
};

const struct task_family acrobot_family = TASK_FAMILY(KINDS);
