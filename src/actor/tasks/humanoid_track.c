// Humanoid Control, the FPO paper's third domain, after the authors' phc code: a body with a position servo on every
// axis follows reference motion. Body and clips are those of a motion library.
#include "actor/tasks/humanoid_track.h"

#include <stdlib.h>
#include <string.h>

#include "actor/tasks/tasks.h"

enum { CONTROL_RATE = 30, SUBSTEPS = 4 }; // Hz; physics steps of a control step: docs/humanoid.md has the measurement
enum { SOLVER_ITERATIONS = 10, LINE_SEARCH_ITERATIONS = 10 };

// Distances in m after which an episode has failed: of any body while training, of the mean in an evaluation.
static const double FAR_BODY = 0.25, FAR_MEAN = 0.5;
// Sampling by failure: what an episode counts in its clip's share, and the weight of a clip that never fails.
static const double NEWEST = 0.1, LEAST_WEIGHT = 0.1;
enum { FREE_STEPS = 1 };      // of an episode, in which nothing is too far
enum { POWERLESS_STEPS = 3 }; // of an episode, whose power costs nothing

// The environment's own state. Behind it, where clips are sampled by failure: of each clip, the running share of this
// environment's episodes that came to their end.
enum { CLIP, START, STEPS, EVALUATING, ERROR_SUM, FAILED, STATE_SIZE };

struct track {
  struct motion_library library;
  bool *seen;      // [J]
  bool whole;      // the target shows everything
  bool residual;   // targets of the servos are around the reference
  bool by_failure; // clips are sampled by recent failures
  double reach, power_cost;
  double upright[4];
};

// One worker's scratch, views into task_worker.scratch.
struct scratch {
  struct motion_pose self, reference; // at the state's time
  struct motion_pose target;          // a step ahead
  double *qpos, *qvel, *power;
  double *weight; // [clips] of the shard, to draw the next episode's by; all 0: uniform
};

static const struct track *track_of(const struct task *task) { return task->own; }

static double *take(double **at, size_t count) {
  double *taken = *at;
  *at += count;
  return taken;
}

static struct motion_pose take_pose(double **at, size_t bodies) {
  return (struct motion_pose){take(at, 3 * bodies), take(at, 4 * bodies), take(at, 6 * bodies)};
}

static struct scratch scratch_of(const struct task *task, const struct task_worker *w) {
  const size_t bodies = (size_t)task->model->nbody - 1;
  double *at = w->scratch;
  struct scratch s;
  s.self = take_pose(&at, bodies);
  s.reference = take_pose(&at, bodies);
  s.target = take_pose(&at, bodies);
  s.qpos = take(&at, (size_t)task->model->nq);
  s.qvel = take(&at, (size_t)task->model->nv);
  s.power = take(&at, 1);
  s.weight = take(&at, (size_t)track_of(task)->library.count);
  return s;
}

static size_t scratch_size(const struct task *task) {
  return 39 * ((size_t)task->model->nbody - 1) + (size_t)task->model->nq + (size_t)task->model->nv + 1 +
         (size_t)track_of(task)->library.count;
}

// --- Observation and reward of poses ---

// The rotation about z that turns the world's frame into the root's heading. out [4]
static void heading(const double *root_rotation, const double *upright, double *out) {
  double inverse[4], forward[3];
  const double x[3] = {1, 0, 0}, z[3] = {0, 0, 1};
  mjtNum turned[4];
  mju_negQuat(inverse, upright);
  mju_mulQuat(turned, root_rotation, inverse);
  mju_rotVecQuat(forward, x, turned);
  mju_axisAngle2Quat(out, z, atan2(forward[1], forward[0]));
}

static double *put_rotated(double *obs, const double *vector, const double *rotation) {
  mju_rotVecQuat(obs, vector, rotation);
  return obs + 3;
}

static double *put_difference(double *obs, const double *a, const double *b, const double *rotation) {
  double difference[3];
  mju_sub3(difference, a, b);
  return put_rotated(obs, difference, rotation);
}

// The x and z axis of rotation `q`.
static double *put_axes(double *obs, const double *q) {
  const double x[3] = {1, 0, 0}, z[3] = {0, 0, 1};
  return put_rotated(put_rotated(obs, x, q), z, q);
}

static double *put_zeros(double *obs, int count) {
  memset(obs, 0, (size_t)count * sizeof *obs);
  return obs + count;
}

static double *observe_self(int bodies, const struct motion_pose *self, const double *back, double *obs) {
  double rotation[4];
  *obs++ = self->position[2];
  for (int j = 1; j < bodies; ++j) obs = put_difference(obs, self->position + 3 * (size_t)j, self->position, back);
  for (size_t j = 0; j < (size_t)bodies; ++j) {
    mju_mulQuat(rotation, back, self->rotation + 4 * j);
    obs = put_axes(obs, rotation);
  }
  for (size_t part = 0; part < 2; ++part)
    for (size_t j = 0; j < (size_t)bodies; ++j) obs = put_rotated(obs, self->velocity + 6 * j + 3 * part, back);
  return obs;
}

// Rotation differences in the heading's frame: back · (target · self⁻¹) · heading.
static double *observe_turns(int bodies, const struct motion_pose *self, const struct motion_pose *target,
                             const double *back, double *obs) {
  double inverse[4], turn[4], part[4], forth[4];
  mju_negQuat(forth, back);
  for (size_t j = 0; j < (size_t)bodies; ++j) {
    mju_negQuat(inverse, self->rotation + 4 * j);
    mju_mulQuat(turn, target->rotation + 4 * j, inverse);
    mju_mulQuat(part, back, turn);
    mju_mulQuat(turn, part, forth);
    obs = put_axes(obs, turn);
  }
  return obs;
}

static double *observe_places(int bodies, const struct motion_pose *target, const double *from, int stride,
                              const double *back, const bool *seen, double *obs) {
  for (size_t j = 0; j < (size_t)bodies; ++j)
    obs = seen[j] ? put_difference(obs, target->position + 3 * j, from + (size_t)stride * j, back) : put_zeros(obs, 3);
  return obs;
}

void humanoid_track_observe(int bodies, const double *upright, const struct motion_pose *self,
                            const struct motion_pose *target, const bool *seen, bool whole, double *obs) {
  double forth[4], back[4], rotation[4];
  heading(self->rotation, upright, forth);
  mju_negQuat(back, forth);
  obs = observe_self(bodies, self, back, obs);
  obs = observe_places(bodies, target, self->position, 3, back, seen, obs);
  if (whole) obs = observe_turns(bodies, self, target, back, obs);
  for (size_t part = 0; whole && part < 2; ++part)
    for (size_t j = 0; j < (size_t)bodies; ++j)
      obs = put_difference(obs, target->velocity + 6 * j + 3 * part, self->velocity + 6 * j + 3 * part, back);
  if (!whole) obs = put_zeros(obs, 12 * bodies);
  obs = observe_places(bodies, target, self->position, 0, back, seen, obs);
  for (size_t j = 0; whole && j < (size_t)bodies; ++j) {
    mju_mulQuat(rotation, back, target->rotation + 4 * j);
    obs = put_axes(obs, rotation);
  }
  if (!whole) put_zeros(obs, 6 * bodies);
}

static double square_distance(size_t count, size_t stride, const double *a, const double *b) {
  double sum = 0;
  for (size_t j = 0; j < count; ++j)
    for (size_t i = 0; i < 3; ++i)
      sum += (a[stride * j + i] - b[stride * j + i]) * (a[stride * j + i] - b[stride * j + i]);
  return sum / (3.0 * (double)count);
}

static double square_angle(size_t count, const double *a, const double *b) {
  double sum = 0;
  for (size_t j = 0; j < count; ++j) {
    double turn[3];
    mju_subQuat(turn, a + 4 * j, b + 4 * j);
    sum += mju_dot3(turn, turn);
  }
  return sum / (double)count;
}

double humanoid_track_similarity(int bodies, const struct motion_pose *self, const struct motion_pose *reference) {
  const size_t count = (size_t)bodies;
  return 0.5 * exp(-100 * square_distance(count, 3, self->position, reference->position)) +
         0.3 * exp(-10 * square_angle(count, self->rotation, reference->rotation)) +
         0.1 * exp(-0.1 * square_distance(count, 6, self->velocity, reference->velocity)) +
         0.1 * exp(-0.1 * square_distance(count, 6, self->velocity + 3, reference->velocity + 3));
}

// --- Episodes ---

static const struct motion_clip *clip_of(const struct task *task, const struct task_worker *w) {
  return &track_of(task)->library.clip[(int)w->extra[CLIP]];
}

static double seconds_of(const double *extra) { return extra[START] + extra[STEPS] / CONTROL_RATE; }

static const double ROUNDING = 0.1; // of a step: a clip at 30.001 frames a second has as many steps as frames

int humanoid_track_steps(const struct motion_clip *clip) {
  const int steps = (int)floor(motion_duration(clip) * CONTROL_RATE + ROUNDING);
  return steps > 1 ? steps : 1;
}

// The clip has not a whole step left.
static bool is_complete(const struct task *task, const double *extra) {
  const double duration = motion_duration(&track_of(task)->library.clip[(int)extra[CLIP]]);
  return seconds_of(extra) + (1 - ROUNDING) / CONTROL_RATE > duration;
}

// The reference at the state's time, and a step later.
static void place_reference(const struct task *task, const struct task_worker *w, struct scratch *s) {
  const struct motion_library *l = &track_of(task)->library;
  const double now = seconds_of(w->extra);
  motion_sample(l, clip_of(task, w), now, &s->reference);
  motion_sample(l, clip_of(task, w), now + 1.0 / CONTROL_RATE, &s->target);
}

// Body poses from qpos and qvel as they are now: those that the last physics step has left are a step older.
static void place_self(const struct task *task, const struct task_worker *w, struct scratch *s) {
  mj_kinematics(task->model, w->data);
  mj_comPos(task->model, w->data);
  mj_comVel(task->model, w->data);
  motion_pose_of(task->model, w->data, 0, &s->self);
}

static void begin(const struct task *task, struct task_worker *w, int clip, double start, bool evaluating) {
  w->extra[CLIP] = clip;
  w->extra[START] = start;
  w->extra[STEPS] = w->extra[ERROR_SUM] = w->extra[FAILED] = 0;
  w->extra[EVALUATING] = evaluating;
  motion_sample_state(task->model, clip_of(task, w), start, w->data->qpos, w->data->qvel);
}

// Failures of the shard's episodes, clip by clip: the same sum wherever the shard runs, and nothing but its
// environments' states to be kept.
static void pool(const struct task *task, struct task_worker *w, const double *states, size_t stride, int count) {
  const struct track *t = track_of(task);
  const struct scratch s = scratch_of(task, w);
  for (int c = 0; t->by_failure && c < t->library.count; ++c) {
    double ends = 0;
    for (int e = 0; e < count; ++e) ends += states[(size_t)e * stride + STATE_SIZE + (size_t)c];
    s.weight[c] = LEAST_WEIGHT + 1 - ends / count;
  }
}

static void remember(const struct task *task, struct task_worker *w) {
  double *ends = w->extra + STATE_SIZE + (int)w->extra[CLIP];
  if (!track_of(task)->by_failure || w->extra[EVALUATING] != 0) return;
  if (w->extra[FAILED] != 0 || is_complete(task, w->extra)) *ends += NEWEST * ((w->extra[FAILED] == 0) - *ends);
}

static int draw_clip(const struct task *task, const struct task_worker *w, double uniform) {
  const int clips = track_of(task)->library.count;
  const double *weight = scratch_of(task, w).weight;
  double total = 0;
  for (int c = 0; c < clips; ++c) total += weight[c];
  if (!(total > 0)) return (int)(uniform * clips);
  double left = uniform * total;
  int clip = 0;
  while (clip < clips - 1 && left >= weight[clip]) left -= weight[clip++];
  return clip;
}

// Reference-state initialisation: any clip, at any time that leaves a step.
static void reset(const struct task *task, struct task_worker *w, struct rng_stream draws) {
  const struct motion_library *l = &track_of(task)->library;
  const int clip = draw_clip(task, w, rng_uniform_at(draws, 0));
  const double last = fmax(0, motion_duration(&l->clip[clip]) - 1.0 / CONTROL_RATE);
  begin(task, w, clip, rng_uniform_at(draws, 1) * last, false);
}

static void reset_evaluation(const struct task *task, struct task_worker *w, int64_t episode, struct rng_stream draws) {
  (void)draws;
  begin(task, w, (int)(episode % track_of(task)->library.count), 0, true);
}

static void settle(const struct task *task, struct task_worker *w, struct rng_stream draws) {
  (void)draws;
  struct scratch s = scratch_of(task, w);
  place_self(task, w, &s);
  place_reference(task, w, &s);
}

// --- Control ---

// The angle of each servo's axis in the pose qpos. A ball's axes have the components of its rotation vector.
static void servo_angles(const mjModel *m, const double *qpos, double *angle) {
  for (int i = 0; i < m->nu; ++i) {
    const int joint = m->actuator_trnid[2 * (ptrdiff_t)i];
    const double *q = qpos + m->jnt_qposadr[joint];
    double turn[3];
    if (m->jnt_type[joint] == mjJNT_BALL) mju_quat2Vel(turn, q, 1);
    angle[i] = m->jnt_type[joint] == mjJNT_BALL ? mju_dot3(turn, m->actuator_gear + 6 * (ptrdiff_t)i) : *q;
  }
}

// What a servo must aim at to hold both the angle and the speed of the reference: its torque is kp (target - angle) -
// kd speed, so that aiming at the angle alone would lag by kd / kp, a tenth of a second.
static void lead(const mjModel *m, const double *qvel, double *angle) {
  for (int i = 0; i < m->nu; ++i) {
    const int joint = m->actuator_trnid[2 * (ptrdiff_t)i], dof = m->jnt_dofadr[joint];
    const double kp = m->actuator_gainprm[mjNGAIN * (ptrdiff_t)i];
    const double kd = m->dof_damping[dof] - m->actuator_biasprm[mjNBIAS * (ptrdiff_t)i + 2];
    const bool ball = m->jnt_type[joint] == mjJNT_BALL;
    angle[i] += kd / kp * (ball ? mju_dot3(qvel + dof, m->actuator_gear + 6 * (ptrdiff_t)i) : qvel[dof]);
  }
}

// Targets: the middle is the default pose, or what holds the reference a step ahead; at full reach an action of 1 is as
// far from it as the axis's farther limit is from zero. MuJoCo clamps them to the range.
static void set_targets(const struct task *task, struct task_worker *w, const struct scratch *s, const double *action) {
  const mjModel *m = task->model;
  double *ctrl = w->data->ctrl;
  if (track_of(task)->residual) {
    motion_sample_state(m, clip_of(task, w), seconds_of(w->extra) + 1.0 / CONTROL_RATE, s->qpos, s->qvel);
    servo_angles(m, s->qpos, ctrl);
    lead(m, s->qvel, ctrl);
  } else {
    servo_angles(m, m->qpos0, ctrl);
  }
  for (int i = 0; i < m->nu; ++i) {
    const mjtNum *range = m->actuator_ctrlrange + 2 * (ptrdiff_t)i;
    ctrl[i] += action[i] * track_of(task)->reach * fmax(fabs(range[0]), fabs(range[1]));
  }
}

static double mean_distance(size_t bodies, const struct motion_pose *a, const struct motion_pose *b, double *largest) {
  double sum = 0;
  *largest = 0;
  for (size_t j = 0; j < bodies; ++j) {
    const double distance = mju_dist3(a->position + 3 * j, b->position + 3 * j);
    sum += distance;
    if (!(distance <= *largest)) *largest = distance; // a NaN goes through
  }
  return sum / (double)bodies;
}

static void advance(const struct task *task, struct task_worker *w, const double *action) {
  struct scratch s = scratch_of(task, w);
  set_targets(task, w, &s, action);
  for (int i = 1; i < task->substeps; ++i) mj_step(task->inner_model, w->data);
  mj_step(task->model, w->data);
  double largest;
  *s.power = 0;
  w->extra[STEPS] += 1;
  for (int i = 0; i < task->model->nu; ++i)
    *s.power += fabs(w->data->actuator_force[i] * w->data->actuator_velocity[i]);
  if (w->extra[STEPS] <= POWERLESS_STEPS) *s.power = 0;
  place_self(task, w, &s);
  place_reference(task, w, &s);
  const double mean = mean_distance((size_t)task->model->nbody - 1, &s.self, &s.reference, &largest);
  const bool far = w->extra[EVALUATING] != 0 ? !(mean <= FAR_MEAN) : !(largest <= FAR_BODY);
  w->extra[ERROR_SUM] += mean;
  w->extra[FAILED] = far && w->extra[STEPS] > FREE_STEPS;
  remember(task, w);
}

static void observe(const struct task *task, const struct task_worker *w, double *obs) {
  const struct track *t = track_of(task);
  const struct scratch s = scratch_of(task, w);
  humanoid_track_observe((int)task->model->nbody - 1, t->upright, &s.self, &s.target, t->seen, t->whole, obs);
}

static double reward(const struct task *task, const struct task_worker *w, const double *action) {
  (void)action;
  const struct scratch s = scratch_of(task, w);
  return humanoid_track_similarity((int)task->model->nbody - 1, &s.self, &s.reference) -
         track_of(task)->power_cost * *s.power;
}

static bool terminated(const struct task *task, const struct task_worker *w) {
  (void)task;
  return w->extra[FAILED] != 0;
}

static bool complete(const struct task *task, const struct task_worker *w) { return is_complete(task, w->extra); }

// --- Opening ---

static void close_track(struct task *task) {
  struct track *t = task->own;
  if (t == NULL) return;
  motion_library_free(&t->library);
  free(t->seen);
  free(t);
}

// What the target shows, of which bodies.
static struct error *condition(struct track *t, enum conditioning_kind kind, const char *path) {
  const mjModel *m = t->library.model;
  int hands = 0;
  t->whole = kind == CONDITIONING_FULL;
  t->seen = calloc((size_t)m->nbody, sizeof *t->seen);
  if (t->seen == NULL) return error_no_memory("a task");
  for (int j = 0; j < m->nbody - 1; ++j) {
    const char *name = mj_id2name(m, mjOBJ_BODY, j + 1);
    const bool hand = name != NULL && strstr(name, "wrist") != NULL;
    hands += hand;
    t->seen[j] = t->whole || j == 0 || (hand && kind == CONDITIONING_ROOT_HANDS);
  }
  if (kind != CONDITIONING_ROOT_HANDS || hands == 2) return NULL;
  return error_new(EXIT_CODE_USAGE, "%s: task.conditioning root_hands needs two bodies named 'wrist'; model %s has %d",
                   path, t->library.model_name, hands);
}

static struct error *check_body(const struct motion_library *l, const char *path) {
  const mjModel *m = l->model;
  bool fits = m->nu > 0 && m->njnt > 0 && m->jnt_type[0] == mjJNT_FREE && m->jnt_bodyid[0] == 1 &&
              m->nq == m->jnt_qposadr[0] + m->nq;
  for (int j = 1; j < m->njnt; ++j) fits = fits && (m->jnt_type[j] == mjJNT_BALL || m->jnt_type[j] == mjJNT_HINGE);
  for (int i = 0; i < m->nu; ++i) fits = fits && m->actuator_trntype[i] == mjTRN_JOINT && m->actuator_ctrllimited[i];
  if (fits) return NULL;
  return error_new(
      EXIT_CODE_FAILED,
      "%s: model %s is not one body on a free joint with ball and hinge joints and a servo with a range on "
      "each of its axes",
      path, l->model_name);
}

static struct error *read_library(struct track *t, const struct config *c) {
  const char *clips = strcmp(c->task.clips, "all") == 0 ? NULL : c->task.clips;
  if (strcmp(c->task.motions, "none") == 0)
    return error_new(EXIT_CODE_USAGE, "task humanoid_track needs a motion library: set task.motions to a file that "
                                      "`flowrank motion import` wrote");
  TRY(motion_library_read(c->task.motions, clips, &t->library));
  return check_body(&t->library, c->task.motions);
}

static int longest_steps(const struct motion_library *l) {
  int most = 0;
  for (int i = 0; i < l->count; ++i)
    most = most > humanoid_track_steps(&l->clip[i]) ? most : humanoid_track_steps(&l->clip[i]);
  return most + 1; // an episode from between two frames may need one more
}

static struct error *open_track(struct task *task, const struct config *c) {
  struct config defaults;
  if (c == NULL) {
    config_default(&defaults);
    c = &defaults;
  }
  struct track *t = calloc(1, sizeof *t);
  if (t == NULL) return error_no_memory("a task");
  task->own = t;
  t->reach = c->task.servo_reach;
  t->by_failure = c->task.sampling == SAMPLING_FAILURE;
  t->power_cost = c->task.power_cost;
  t->residual = c->task.servo_target == SERVO_TARGET_REFERENCE;
  if (t->residual && c->task.conditioning != CONDITIONING_FULL)
    return error_new(EXIT_CODE_USAGE, "task.servo_target reference gives the whole reference away: it goes with "
                                      "task.conditioning full alone");
  TRY(read_library(t, c));
  TRY(condition(t, c->task.conditioning, c->task.motions));
  task->model = mj_copyModel(NULL, t->library.model);
  if (task->model == NULL) return error_no_memory("a model");
  mju_copy4(t->upright, task->model->qpos0 + 3);
  task->model->opt.timestep = 1.0 / (CONTROL_RATE * SUBSTEPS);
  task->model->opt.integrator = mjINT_IMPLICITFAST;
  task->model->opt.iterations = SOLVER_ITERATIONS;
  task->model->opt.ls_iterations = LINE_SEARCH_ITERATIONS;
  task->model->opt.disableflags |= mjDSBL_AUTORESET;
  task->substeps = SUBSTEPS;
  task->obs_dim = humanoid_track_obs_dim(motion_bodies(&t->library));
  task->action_dim = (int)task->model->nu;
  task->natural_length = longest_steps(&t->library);
  task->extra_size = STATE_SIZE + (t->by_failure ? (size_t)t->library.count : 0);
  task->scratch_size = scratch_size(task);
  return NULL;
}

// --- The interface ---

const struct motion_library *humanoid_track_library(const struct task *task) {
  return task->kind->reset == reset ? &track_of(task)->library : NULL;
}

void humanoid_track_reference(const struct task *task, const double *state, double *qpos, double *qvel) {
  const struct motion_clip *clip = &track_of(task)->library.clip[(int)state[CLIP]];
  motion_sample_state(task->model, clip, seconds_of(state), qpos, qvel);
}

struct humanoid_track_progress humanoid_track_progress(const struct task *task, const double *state) {
  return (struct humanoid_track_progress){.clip = (int)state[CLIP],
                                          .seconds = seconds_of(state),
                                          .steps = (int)state[STEPS],
                                          .error = state[STEPS] > 0 ? state[ERROR_SUM] / state[STEPS] : 0,
                                          .failed = state[FAILED] != 0,
                                          .complete = state[FAILED] == 0 && is_complete(task, state)};
}

static const struct task_kind KINDS[] = {
    {.name = "humanoid_track",
     .family = "humanoid_track",
     .summary = "follow reference motion of a motion library (task.motions)",
     .source = "FPO paper (arXiv 2507.21053), the authors' phc code",
     .observation =
         "of J bodies, in the frame of the root's heading: height of the root, positions, rotations and velocities of "
         "the "
         "bodies; of the reference a step ahead the differences to these, positions and rotations, masked by "
         "task.conditioning",
     .reward_text =
         "0.5 exp(-100 dp²) + 0.3 exp(-10 dr²) + 0.1 exp(-0.1 dv²) + 0.1 exp(-0.1 dw²) - task.power_cost · power; mean "
         "squares of the distances from the reference; power of the servos in W, from the fourth step on",
     .termination = "any body is farther than 0.25 m from the reference; truncated at the clip's end",
     .control_dt = 1.0 / CONTROL_RATE,
     .physics_dt = 1.0 / (CONTROL_RATE * SUBSTEPS),
     .open = open_track,
     .close = close_track,
     .pool = pool,
     .reset = reset,
     .reset_evaluation = reset_evaluation,
     .settle = settle,
     .advance = advance,
     .observe = observe,
     .reward = reward,
     .terminated = terminated,
     .complete = complete},
};

const struct task_family humanoid_track_family = TASK_FAMILY(KINDS);
