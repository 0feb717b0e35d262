// Planar walker, after Playground's walker.py: two legs with six motors.
#include "actor/tasks/tasks.h"

enum { ROOT_PITCH = 2, ROOT_JOINTS = 3, LEG_JOINTS = 6, BODIES = 7 };

enum { TORSO, VELOCITY };
static const struct task_object OBJECTS[] = {
    [TORSO] = {mjOBJ_BODY, "torso"}, [VELOCITY] = {mjOBJ_SENSOR, "torso_subtreelinvel"}, {mjOBJ_UNKNOWN, NULL}};

static void reset(const struct task *task, struct task_worker *w, struct rng_stream draws) {
  w->data->qpos[ROOT_PITCH] = draw_between(draws, ROOT_PITCH, -mjPI, mjPI);
  draw_joints(task, w, draws, ROOT_JOINTS, LEG_JOINTS);
}

// Body 0 is the world. What the reference calls a height is the torso's zz.
static void observe(const struct task *task, const struct task_worker *w, double *obs) {
  for (int body = 1; body <= BODIES; ++body) {
    const mjtNum *mat = w->data->xmat + 9 * (ptrdiff_t)body;
    *obs++ = mat[MAT_XX];
    *obs++ = mat[MAT_XZ];
  }
  *obs++ = body_mat(task, w, TORSO)[MAT_ZZ];
  copy_numbers(obs, w->data->qvel, 9);
}

// kind->parameter: the speed to reach, 0 for standing.
static double reward(const struct task *task, const struct task_worker *w, const double *action) {
  (void)action;
  const double speed = task->kind->parameter, height = body_pos(task, w, TORSO)[2];
  const double standing = tolerance(height, 1.2, INFINITY, 0.6, SIGMOID_GAUSSIAN, 0.1);
  const double upright = (1 + body_mat(task, w, TORSO)[MAT_ZZ]) / 2;
  const double stand = (3 * standing + upright) / 4;
  if (speed <= 0) return stand;
  const double forward = *sensor(task, w, VELOCITY);
  return stand * (5 * tolerance(forward, speed, INFINITY, speed / 2, SIGMOID_LINEAR, 0.5) + 1) / 6;
}

#define WALKER                                                                                                         \
  .family = "walker", .source = PLAYGROUND("walker.py"),                                                               \
  .observation = "for torso, right thigh, leg, foot, left thigh, leg, foot: the x components of its x and z axis; "    \
                 "cosine of the torso's pitch; velocities of root z and x (m/s), pitch and the six joints (rad/s)",    \
  .termination = ENDS_BY_NAN, .model = "walker.xml", .control_dt = 0.025, .physics_dt = 0.0025, .qpos_dim = 9,         \
  .qvel_dim = 9, .action_dim = 6, .obs_dim = 24, .episode_length = 1000, .objects = OBJECTS, .reset = reset,           \
  .observe = observe, .reward = reward
#define STAND "stand = (3 · torso at 1.2 m + upright)/4"

static const struct task_kind KINDS[] = {
    {WALKER, .name = "WalkerStand", .summary = "stand upright; starts in any pose", .reward_text = STAND,
     .parameter = 0},
    {WALKER, .name = "WalkerWalk", .summary = "walk forward; starts in any pose",
     .reward_text = STAND ", times (5 · move + 1)/6; move: 1 from 1 m/s forward, falling linearly to 0 at rest",
     .parameter = 1},
    {WALKER, .name = "WalkerRun", .summary = "run forward; starts in any pose",
     .reward_text = STAND ", times (5 · move + 1)/6; move: 1 from 8 m/s forward, falling linearly to 0 at rest",
     .parameter = 8},
};

const struct task_family walker_family = TASK_FAMILY(KINDS);
