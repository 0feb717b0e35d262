// Swimmer, after Playground's swimmer.py: a chain of links in a fluid. The model file holds the head; the links behind it
// are added before compiling.
#include <stdio.h>

#include "actor/tasks/tasks.h"

enum { ROOT_ANGLE = 2, ROOT_JOINTS = 3, LINKS = 6, LINK_JOINTS = LINKS - 1 };

enum { NOSE, HEAD, TARGET_GEOM, TARGET_BODY, FIRST_VELOCITY };
static const struct task_object OBJECTS[] = {[NOSE] = {mjOBJ_GEOM, "nose"},
                                             [HEAD] = {mjOBJ_BODY, "head"},
                                             [TARGET_GEOM] = {mjOBJ_GEOM, "target"},
                                             [TARGET_BODY] = {mjOBJ_BODY, "target"},
                                             [FIRST_VELOCITY] = {mjOBJ_SENSOR, "head_vel"},
                                             {mjOBJ_UNKNOWN, NULL}};

enum { NAME_SIZE = 32 };
static const char *numbered(char name[NAME_SIZE], const char *what, int link) {
  snprintf(name, NAME_SIZE, "%s_%d", what, link);
  return name;
}

static void add_sensor(mjSpec *spec, mjtSensor type, const char *what, int link) {
  char name[NAME_SIZE], site[NAME_SIZE];
  mjsSensor *sensor = mjs_addSensor(spec);
  mjs_setName(sensor->element, numbered(name, what, link));
  sensor->type = type;
  sensor->objtype = mjOBJ_SITE;
  mjs_setString(sensor->objname, numbered(site, "site", link));
}

// One more link behind `parent`: its two geoms, hinge, site, motor and the site's velocity sensors.
static mjsBody *add_link(mjSpec *spec, mjsBody *parent, int link) {
  char name[NAME_SIZE];
  const mjsDefault *swimmer = mjs_findDefault(spec, "swimmer");
  mjsBody *body = mjs_addBody(parent, swimmer);
  mjs_setName(body->element, numbered(name, "segment", link));
  body->pos[1] = 0.1;
  mjs_setName(mjs_addGeom(body, mjs_findDefault(spec, "visual"))->element, numbered(name, "visual", link));
  mjs_setName(mjs_addGeom(body, mjs_findDefault(spec, "inertial"))->element, numbered(name, "inertial", link));
  mjs_setName(mjs_addSite(body, swimmer)->element, numbered(name, "site", link));
  mjsJoint *joint = mjs_addJoint(body, swimmer);
  mjs_setName(joint->element, numbered(name, "joint", link));
  joint->range[1] = 360.0 / LINKS; // degrees, as the model file has them
  joint->range[0] = -joint->range[1];
  mjsActuator *motor = mjs_addActuator(spec, mjs_getSpecDefault(spec));
  mjs_setName(motor->element, numbered(name, "motor", link));
  mjs_setToMotor(motor);
  motor->trntype = mjTRN_JOINT;
  mjs_setString(motor->target, numbered(name, "joint", link));
  add_sensor(spec, mjSENS_VELOCIMETER, "velocimeter", link);
  add_sensor(spec, mjSENS_GYRO, "gyro", link);
  return body;
}

static struct error *add_links(const struct task_kind *kind, mjSpec *spec) {
  static const char *const classes[] = {"swimmer", "visual", "inertial"};
  for (int i = 0; i < 3; ++i)
    if (mjs_findDefault(spec, classes[i]) == NULL) return task_lacks(kind, mjOBJ_DEFAULT, classes[i]);
  mjsBody *body = mjs_findBody(spec, "head");
  if (body == NULL) return task_lacks(kind, mjOBJ_BODY, "head");
  for (int link = 0; link < LINK_JOINTS; ++link) body = add_link(spec, body, link);
  return NULL;
}

static void reset(const struct task *task, struct task_worker *w, struct rng_stream draws) {
  w->data->qpos[ROOT_ANGLE] = draw_between(draws, ROOT_ANGLE, -mjPI, mjPI);
  draw_joints(task, w, draws, ROOT_JOINTS, LINK_JOINTS);
}

// In one of five cases the target is near.
static void place_target(const struct task *task, struct task_worker *w, struct rng_stream draws) {
  const double box = rng_uniform_at(draws, 8) < 0.2 ? 0.3 : 2.0;
  mjtNum *target = mocap_pos(task, w, TARGET_BODY);
  for (uint32_t i = 0; i < 2; ++i) target[i] = draw_between(draws, 9 + i, -box, box);
}

// The target seen from the nose, in the head's frame; its z is left out.
static void nose_to_target(const struct task *task, const struct task_worker *w, double xy[2]) {
  mjtNum global[3], local[3];
  mju_sub3(global, geom_pos(task, w, TARGET_GEOM), geom_pos(task, w, NOSE));
  mju_mulMatTVec3(local, body_mat(task, w, HEAD), global);
  xy[0] = local[0];
  xy[1] = local[1];
}

// A velocimeter's and a gyro's three numbers for each link: of these x, y and the turn around z.
static void observe(const struct task *task, const struct task_worker *w, double *obs) {
  const mjtNum *velocity = sensor(task, w, FIRST_VELOCITY);
  obs = copy_numbers(obs, w->data->qpos + ROOT_JOINTS, LINK_JOINTS);
  nose_to_target(task, w, obs);
  obs += 2;
  for (int link = 0; link < LINKS; ++link, velocity += 6) {
    *obs++ = velocity[0];
    *obs++ = velocity[1];
    *obs++ = velocity[5];
  }
}

static double reward(const struct task *task, const struct task_worker *w, const double *action) {
  (void)action;
  double xy[2];
  nose_to_target(task, w, xy);
  const double size = geom_size(task, TARGET_GEOM)[0];
  return tolerance(sqrt(xy[0] * xy[0] + xy[1] * xy[1]), 0, size, 5 * size, SIGMOID_LONG_TAIL, 0.1);
}

static const struct task_kind KINDS[] = {
    {.name = "SwimmerSwimmer6",
     .family = "swimmer",
     .summary = "swim to a target with six links; starts in any pose, the target anywhere around",
     .source = PLAYGROUND("swimmer.py"),
     .observation = "five joint angles (rad); x and y of the target from the nose in the head's frame (m); for each of "
                    "the six links its velocity x, y (m/s) and its turn (rad/s) in its own frame",
     .reward_text = "1 with the nose within the target's radius (0.1 m), falling to 0.1 at 0.5 m outside it, with a "
                    "long tail",
     .termination = ENDS_BY_NAN,
     .model = "swimmer.xml",
     .control_dt = 0.03,
     .physics_dt = 0.003,
     .qpos_dim = 8,
     .qvel_dim = 8,
     .action_dim = 5,
     .obs_dim = 25,
     .episode_length = 1000,
     .objects = OBJECTS,
     .edit = add_links,
     .reset = reset,
     .settle = place_target,
     .observe = observe,
     .reward = reward},
};

const struct task_family swimmer_family = TASK_FAMILY(KINDS);
