// Half-cheetah, after Playground's cheetah.py: a planar runner with six motors.
#include "actor/tasks/tasks.h"

enum { RUN_SPEED = 10, ROOT_JOINTS = 3, LEG_JOINTS = 6, SETTLE_STEPS = 200 };

enum { VELOCITY };
static const struct task_object OBJECTS[] = {[VELOCITY] = {mjOBJ_SENSOR, "torso_subtreelinvel"}, {mjOBJ_UNKNOWN, NULL}};

static void reset(const struct task *task, struct task_worker *w, struct rng_stream draws) {
  draw_joints(task, w, draws, ROOT_JOINTS, LEG_JOINTS);
}

// Lets the body fall to the ground.
static void settle(const struct task *task, struct task_worker *w, struct rng_stream draws) {
  (void)draws;
  for (int i = 0; i < SETTLE_STEPS; ++i) mj_step(task->inner_model, w->data);
  w->data->time = 0;
}

static void observe(const struct task *task, const struct task_worker *w, double *obs) {
  (void)task;
  copy_numbers(copy_numbers(obs, w->data->qpos + 1, 8), w->data->qvel, 9);
}

static double reward(const struct task *task, const struct task_worker *w, const double *action) {
  (void)action;
  return tolerance(*sensor(task, w, VELOCITY), RUN_SPEED, INFINITY, RUN_SPEED, SIGMOID_LINEAR, 0);
}

static const struct task_kind KINDS[] = {
    {.name = "CheetahRun",
     .family = "cheetah",
     .summary = "run forward; starts from random legs after 2 s of falling to the ground (paper task)",
     .source = PLAYGROUND("cheetah.py"),
     .observation = "root height (m) and pitch (rad), angles of back thigh, shin, foot, front thigh, shin, foot (rad); "
                    "velocities of root x and z (m/s), pitch and the six joints (rad/s)",
     .reward_text = "forward speed of the centre of mass / 10 m/s, at most 1",
     .termination = ENDS_BY_NAN,
     .model = "cheetah.xml",
     .control_dt = 0.01,
     .physics_dt = 0.01,
     .qpos_dim = 9,
     .qvel_dim = 9,
     .action_dim = 6,
     .obs_dim = 17,
     .episode_length = 1000,
     .objects = OBJECTS,
     .reset = reset,
     .settle = settle,
     .observe = observe,
     .reward = reward},
};

const struct task_family cheetah_family = TASK_FAMILY(KINDS);
