// Finger, after Playground's finger.py: two links that flick a body on a free hinge.
#include "actor/tasks/tasks.h"

enum { SPINNER_POSITION = 2 }; // address in qpos

// Spin needs the objects up to and including BOTTOM.
enum { HINGE, PROXIMAL, DISTAL, TIP, SPINNER, HINGE_VELOCITY, TOP, BOTTOM, TARGET, TARGET_SITE, TARGET_BODY, CAP };
#define SPIN_OBJECTS                                                                                                   \
  [HINGE] = {mjOBJ_JOINT, "hinge"}, [PROXIMAL] = {mjOBJ_SENSOR, "proximal"}, [DISTAL] = {mjOBJ_SENSOR, "distal"},      \
  [TIP] = {mjOBJ_SENSOR, "tip"}, [SPINNER] = {mjOBJ_SENSOR, "spinner"},                                                \
  [HINGE_VELOCITY] = {mjOBJ_SENSOR, "hinge_velocity"}, [TOP] = {mjOBJ_SENSOR, "touchtop"},                             \
  [BOTTOM] = {mjOBJ_SENSOR, "touchbottom"}
static const struct task_object OBJECTS_OF_SPIN[] = {SPIN_OBJECTS, {mjOBJ_UNKNOWN, NULL}};
static const struct task_object OBJECTS_OF_TURN[] = {SPIN_OBJECTS,
                                                     [TARGET] = {mjOBJ_SENSOR, "target"},
                                                     [TARGET_SITE] = {mjOBJ_SITE, "target"},
                                                     [TARGET_BODY] = {mjOBJ_BODY, "target"},
                                                     [CAP] = {mjOBJ_GEOM, "cap1"},
                                                     {mjOBJ_UNKNOWN, NULL}};

static void loosen_hinge(struct task *task) {
  task->model->dof_damping[task->model->jnt_dofadr[task->id[HINGE]]] = 0.03;
}

// kind->parameter: the target's radius.
static struct error *resize_target(const struct task_kind *kind, mjSpec *spec) {
  mjsSite *target = mjs_asSite(mjs_findElement(spec, mjOBJ_SITE, "target"));
  if (target == NULL) return task_lacks(kind, mjOBJ_SITE, "target");
  target->size[0] = kind->parameter;
  return NULL;
}

static void reset(const struct task *task, struct task_worker *w, struct rng_stream draws) {
  draw_joints(task, w, draws, 0, SPINNER_POSITION);
  w->data->qpos[SPINNER_POSITION] = draw_between(draws, SPINNER_POSITION, -mjPI, mjPI);
}

// The target on the circle that the spinner's tip can reach.
static void place_target(const struct task *task, struct task_worker *w, struct rng_stream draws) {
  const mjtNum *cap = geom_size(task, CAP), *hinge = w->data->xanchor + 3 * (ptrdiff_t)task->id[HINGE];
  const double radius = cap[0] + cap[1] + cap[2], angle = draw_between(draws, 3, -mjPI, mjPI);
  mjtNum *target = mocap_pos(task, w, TARGET_BODY);
  target[0] = hinge[0] + radius * sin(angle);
  target[2] = hinge[2] + radius * cos(angle);
}

// The (x, z) position of a sensor of positions relative to the hinge.
static void relative(const struct task *task, const struct task_worker *w, int object, double *xz) {
  const mjtNum *at = sensor(task, w, object), *hinge = sensor(task, w, SPINNER);
  xz[0] = at[0] - hinge[0];
  xz[1] = at[2] - hinge[2];
}

static void observe_spin(const struct task *task, const struct task_worker *w, double *obs) {
  obs[0] = *sensor(task, w, PROXIMAL);
  obs[1] = *sensor(task, w, DISTAL);
  relative(task, w, TIP, obs + 2);
  copy_numbers(obs + 4, w->data->qvel, 3);
  obs[7] = log1p(*sensor(task, w, TOP));
  obs[8] = log1p(*sensor(task, w, BOTTOM));
}

// Signed distance of the tip to the target's surface, negative inside.
static double target_distance(const struct task *task, const struct task_worker *w) {
  double tip[2], target[2];
  relative(task, w, TIP, tip);
  relative(task, w, TARGET, target);
  return sqrt(pow(target[0] - tip[0], 2) + pow(target[1] - tip[1], 2)) - site_size(task, TARGET_SITE)[0];
}

static void observe_turn(const struct task *task, const struct task_worker *w, double *obs) {
  observe_spin(task, w, obs);
  relative(task, w, TARGET, obs + 9);
  obs[11] = target_distance(task, w);
}

static double reward_spin(const struct task *task, const struct task_worker *w, const double *action) {
  (void)action;
  return *sensor(task, w, HINGE_VELOCITY) <= -15.0;
}

static double reward_turn(const struct task *task, const struct task_worker *w, const double *action) {
  (void)action;
  return target_distance(task, w) <= 0;
}

#define FINGER                                                                                                         \
  .family = "finger", .source = PLAYGROUND("finger.py"), .termination = ENDS_BY_NAN, .model = "finger.xml",            \
  .control_dt = 0.02, .physics_dt = 0.005, .qpos_dim = 3, .qvel_dim = 3, .action_dim = 2, .episode_length = 1000,      \
  .reset = reset
#define SPIN_OBSERVATION                                                                                               \
  "angles of the proximal and distal joint (rad); x and z of the spinner's tip relative to its hinge (m); velocities " \
  "of proximal, distal and spinner hinge (rad/s); log(1 + force) at the fingertip's top and bottom"
#define TURN                                                                                                           \
  FINGER,                                                                                                              \
      .observation = SPIN_OBSERVATION "; x and z of the target relative to the hinge (m); signed distance from the "   \
                                      "tip to the target's surface (m, negative inside)",                              \
      .reward_text = "1 with the spinner's tip inside the target, else 0", .obs_dim = 12, .objects = OBJECTS_OF_TURN,  \
      .edit = resize_target, .settle = place_target, .observe = observe_turn, .reward = reward_turn

static const struct task_kind KINDS[] = {
    {FINGER, .name = "FingerSpin", .summary = "keep the body spinning fast; starts at any angles (paper task)",
     .observation = SPIN_OBSERVATION,
     .reward_text = "1 with the spinner at 15 rad/s or more in the negative direction, else 0", .obs_dim = 9,
     .objects = OBJECTS_OF_SPIN, .prepare = loosen_hinge, .observe = observe_spin, .reward = reward_spin},
    {TURN, .name = "FingerTurnEasy",
     .summary = "turn the body until its tip is in a target of 7 cm; starts at any angles (paper task)",
     .parameter = 0.07},
    {TURN, .name = "FingerTurnHard",
     .summary = "turn the body until its tip is in a target of 3 cm; starts at any angles (paper task)",
     .parameter = 0.03},
};

const struct task_family finger_family = TASK_FAMILY(KINDS);
