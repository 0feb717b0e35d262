// Ball in cup, after Playground's ball_in_cup.py: a cup on two motors, a ball on a string.
#include "actor/tasks/tasks.h"

enum { TARGET_SITE, BALL_BODY, BALL_GEOM };
static const struct task_object OBJECTS[] = {[TARGET_SITE] = {mjOBJ_SITE, "target"},
                                             [BALL_BODY] = {mjOBJ_BODY, "ball"},
                                             [BALL_GEOM] = {mjOBJ_GEOM, "ball"},
                                             {mjOBJ_UNKNOWN, NULL}};

static void observe(const struct task *task, const struct task_worker *w, double *obs) {
  (void)task;
  copy_numbers(copy_numbers(obs, w->data->qpos, 4), w->data->qvel, 4);
}

static double reward(const struct task *task, const struct task_worker *w, const double *action) {
  (void)action;
  const mjtNum *target = site_pos(task, w, TARGET_SITE);
  const mjtNum *ball = body_pos(task, w, BALL_BODY);
  const mjtNum *size = site_size(task, TARGET_SITE);
  const double radius = geom_size(task, BALL_GEOM)[0];
  return fabs(target[0] - ball[0]) < size[0] - radius && fabs(target[2] - ball[2]) < size[2] - radius;
}

static const struct task_kind KINDS[] = {
    {.name = "BallInCup",
     .family = "ball_in_cup",
     .summary = "swing the ball on its string into the cup; starts with the ball hanging (paper task)",
     .source = PLAYGROUND("ball_in_cup.py"),
     .observation = "positions of cup x, cup z, ball x, ball z (m, from the start); their velocities (m/s)",
     .reward_text = "1 with the whole ball inside the cup, else 0",
     .termination = ENDS_BY_NAN,
     .model = "ball_in_cup.xml",
     .control_dt = 0.02,
     .physics_dt = 0.002,
     .qpos_dim = 4,
     .qvel_dim = 4,
     .action_dim = 2,
     .obs_dim = 8,
     .episode_length = 1000,
     .objects = OBJECTS,
     .observe = observe,
     .reward = reward},
};

const struct task_family ball_in_cup_family = TASK_FAMILY(KINDS);
