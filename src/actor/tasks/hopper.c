// Planar hopper, after Playground's hopper.py: one leg with four motors.
#include "actor/tasks/tasks.h"

enum { ROOT_PITCH = 2, ROOT_JOINTS = 3, LEG_JOINTS = 4 };

enum { TORSO, FOOT, VELOCITY, TOE, HEEL };
static const struct task_object OBJECTS[] = {[TORSO] = {mjOBJ_BODY, "torso"},
                                             [FOOT] = {mjOBJ_BODY, "foot"},
                                             [VELOCITY] = {mjOBJ_SENSOR, "torso_subtreelinvel"},
                                             [TOE] = {mjOBJ_SENSOR, "touch_toe"},
                                             [HEEL] = {mjOBJ_SENSOR, "touch_heel"},
                                             {mjOBJ_UNKNOWN, NULL}};

static void reset(const struct task *task, struct task_worker *w, struct rng_stream draws) {
  w->data->qpos[ROOT_PITCH] = draw_between(draws, ROOT_PITCH, -mjPI, mjPI);
  draw_joints(task, w, draws, ROOT_JOINTS, LEG_JOINTS);
}

static void observe(const struct task *task, const struct task_worker *w, double *obs) {
  const mjData *d = w->data;
  copy_numbers(copy_numbers(obs, d->qpos + 1, 6), d->qvel, 7);
  obs[13] = log1p(*sensor(task, w, TOE));
  obs[14] = log1p(*sensor(task, w, HEEL));
}

// Height of the torso's centre of mass above the foot's.
static double standing(const struct task *task, const struct task_worker *w) {
  const mjtNum *xipos = w->data->xipos;
  const double height = xipos[3 * (ptrdiff_t)task->id[TORSO] + 2] - xipos[3 * (ptrdiff_t)task->id[FOOT] + 2];
  return tolerance(height, 0.6, 2, 0, SIGMOID_GAUSSIAN, 0.1);
}

static double reward_hop(const struct task *task, const struct task_worker *w, const double *action) {
  (void)action;
  const double speed = *sensor(task, w, VELOCITY);
  return standing(task, w) * tolerance(speed, 2, INFINITY, 1, SIGMOID_LINEAR, 0.5);
}

static double reward_stand(const struct task *task, const struct task_worker *w, const double *action) {
  return standing(task, w) * small_control(task, action);
}

#define HOPPER                                                                                                         \
  .family = "hopper", .source = PLAYGROUND("hopper.py"),                                                               \
  .observation = "root height (m) and pitch (rad), angles of waist, hip, knee, ankle (rad); velocities of root x and " \
                 "z (m/s), pitch and the four joints (rad/s); log(1 + force) at toe and heel",                         \
  .termination = ENDS_BY_NAN, .model = "hopper.xml", .control_dt = 0.02, .physics_dt = 0.005, .qpos_dim = 7,           \
  .qvel_dim = 7, .action_dim = 4, .obs_dim = 15, .episode_length = 1000, .objects = OBJECTS, .reset = reset,           \
  .observe = observe

static const struct task_kind KINDS[] = {
    {HOPPER, .name = "HopperHop", .summary = "hop forward; starts in any pose",
     .reward_text = "standing · hopping; standing: 1 with the torso 0.6 to 2 m above the foot, else 0; hopping: 1 from "
                    "2 m/s forward, falling linearly to 0.5 at 1 m/s and 0 at rest",
     .reward = reward_hop},
    {HOPPER, .name = "HopperStand", .summary = "stand up and stay; starts in any pose",
     .reward_text = "standing · small control; standing: 1 with the torso 0.6 to 2 m above the foot, else 0",
     .reward = reward_stand},
};

const struct task_family hopper_family = TASK_FAMILY(KINDS);
