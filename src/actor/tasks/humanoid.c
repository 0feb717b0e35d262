// Humanoid, after Playground's humanoid.py: 21 motors.
#include "actor/tasks/tasks.h"

enum { JOINTS = 7, JOINT_COUNT = 21 }; // address in qpos

enum { HEAD, TORSO, VELOCITY, EXTREMITIES, EXTREMITY_COUNT = 4 };
static const struct task_object OBJECTS[] = {[HEAD] = {mjOBJ_BODY, "head"},
                                             [TORSO] = {mjOBJ_BODY, "torso"},
                                             [VELOCITY] = {mjOBJ_SENSOR, "torso_subtreelinvel"},
                                             [EXTREMITIES] = {mjOBJ_BODY, "left_hand"},
                                             {mjOBJ_BODY, "left_foot"},
                                             {mjOBJ_BODY, "right_hand"},
                                             {mjOBJ_BODY, "right_foot"},
                                             {mjOBJ_UNKNOWN, NULL}};

static double head_height(const struct task *task, const struct task_worker *w) { return body_pos(task, w, HEAD)[2]; }

static void observe(const struct task *task, const struct task_worker *w, double *obs) {
  const mjData *d = w->data;
  const mjtNum *torso = body_mat(task, w, TORSO), *torso_pos = body_pos(task, w, TORSO);
  obs = copy_numbers(obs, d->qpos + JOINTS, JOINT_COUNT);
  *obs++ = head_height(task, w);
  for (int i = 0; i < EXTREMITY_COUNT; ++i, obs += 3) {
    mjtNum from_torso[3];
    mju_sub3(from_torso, body_pos(task, w, EXTREMITIES + i), torso_pos);
    mju_mulMatTVec3(obs, torso, from_torso);
  }
  obs = copy_numbers(obs, torso + MAT_ZX, 3);
  obs = copy_numbers(obs, sensor(task, w, VELOCITY), 3);
  copy_numbers(obs, d->qvel, 27);
}

static double stand_still(const mjtNum *velocity) {
  return (tolerance(velocity[0], 0, 0, 2, SIGMOID_GAUSSIAN, 0.1) +
          tolerance(velocity[1], 0, 0, 2, SIGMOID_GAUSSIAN, 0.1)) /
         2;
}

static double move(const mjtNum *velocity, double speed) {
  const double horizontal = sqrt(velocity[0] * velocity[0] + velocity[1] * velocity[1]);
  return (5 * tolerance(horizontal, speed, INFINITY, speed, SIGMOID_LINEAR, 0) + 1) / 6;
}

// kind->parameter: the speed to reach, 0 for standing still.
static double reward(const struct task *task, const struct task_worker *w, const double *action) {
  const double speed = task->kind->parameter, upright = body_mat(task, w, TORSO)[MAT_ZZ];
  const mjtNum *velocity = sensor(task, w, VELOCITY);
  return tolerance(head_height(task, w), 1.4, INFINITY, 1.4 / 4, SIGMOID_GAUSSIAN, 0.1) *
         tolerance(upright, 0.9, INFINITY, 1.9, SIGMOID_LINEAR, 0) *
         (speed > 0 ? move(velocity, speed) : stand_still(velocity)) * small_control(task, action);
}

#define HUMANOID                                                                                                       \
  .family = "humanoid", .source = PLAYGROUND("humanoid.py"),                                                           \
  .observation = "21 joint angles (rad); height of the head (m); left hand, left foot, right hand, right foot in the " \
                 "torso's frame (m); z components of the torso's axes; velocity of the centre of mass (m/s); "         \
                 "velocities of the root (m/s, rad/s) and of the 21 joints (rad/s)",                                   \
  .termination = ENDS_BY_NAN, .model = "humanoid.xml", .control_dt = 0.025, .physics_dt = 0.005, .qpos_dim = 28,       \
  .qvel_dim = 27, .action_dim = 21, .obs_dim = 67, .episode_length = 1000, .objects = OBJECTS, .observe = observe,     \
  .reward = reward

static const struct task_kind KINDS[] = {
    {HUMANOID, .name = "HumanoidStand", .summary = "stand still; starts upright above the ground",
     .reward_text = "standing (head at 1.4 m) · upright · still (horizontal speed) · small control", .parameter = 0},
    {HUMANOID, .name = "HumanoidWalk", .summary = "walk in any direction; starts upright above the ground",
     .reward_text = "standing (head at 1.4 m) · upright · (5 · min(horizontal speed / 1 m/s, 1) + 1)/6 · small control",
     .parameter = 1},
    {HUMANOID, .name = "HumanoidRun", .summary = "run in any direction; starts upright above the ground",
     .reward_text =
         "standing (head at 1.4 m) · upright · (5 · min(horizontal speed / 10 m/s, 1) + 1)/6 · small control",
     .parameter = 10},
};

const struct task_family humanoid_family = TASK_FAMILY(KINDS);
