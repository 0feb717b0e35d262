#include "actor/task.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "actor/tasks/tasks.h"
#include "common/config.h"

// What an environment must keep between control steps: full physics, warm start, the last control (sensors depend on
// it) and mocap bodies. Applied forces and equality switches are constant in every task.
enum { STATE_PARTS = mjSTATE_FULLPHYSICS | mjSTATE_WARMSTART | mjSTATE_CTRL | mjSTATE_MOCAP_POS | mjSTATE_MOCAP_QUAT };

enum { MUJOCO_4_0_0 = 4000000 };

static const char MODEL_FOLDER[] = "mujoco_playground/_src/dm_control_suite/xmls";

static const struct task_family *const FAMILIES[] = {
    &acrobot_family, &ball_in_cup_family, &cartpole_family, &cheetah_family,   &finger_family,
    &fish_family,    &hopper_family,      &humanoid_family, &pendulum_family,  &point_mass_family,
    &reacher_family, &swimmer_family,     &walker_family,   &gridworld_family, &humanoid_track_family};
enum { FAMILY_COUNT = sizeof FAMILIES / sizeof *FAMILIES };

int task_count(void) {
  int count = 0;
  for (int f = 0; f < FAMILY_COUNT; ++f) count += FAMILIES[f]->count;
  return count;
}

const struct task_kind *task_kind_at(int index) {
  for (int f = 0; f < FAMILY_COUNT; ++f) {
    if (index < FAMILIES[f]->count) return &FAMILIES[f]->kinds[index];
    index -= FAMILIES[f]->count;
  }
  return NULL;
}

static struct error *find_kind(const char *name, const struct task_kind **kind) {
  const int count = task_count();
  const char **names = malloc((size_t)count * sizeof *names);
  if (names == NULL) return error_no_memory("the task names");
  for (int i = 0; i < count; ++i) {
    names[i] = task_kind_at(i)->name;
    if (strcmp(names[i], name) == 0) *kind = task_kind_at(i);
  }
  struct error *e = NULL;
  if (*kind == NULL) {
    const char *near = nearest_word(name, count, names);
    e = error_new(EXIT_CODE_USAGE, "task '%s' is unknown; %s%s%s`flowrank tasks` lists all", name,
                  near ? "did you mean '" : "", near ? near : "", near ? "'? " : "");
  }
  free(names);
  return e;
}

// Warnings come back as NaN states, which the tasks handle; MuJoCo would write them to a file in the working folder.
static void ignore_warning(const char *text) { (void)text; }

// MuJoCo does not expect its error handler to return; what is left to reach it is an allocation that failed.
static void end_process(const char *text) {
  fprintf(stderr, "flowrank: MuJoCo: %.*s\n", (int)strcspn(text, "\r\n"), text);
  _exit(EXIT_CODE_FAILED);
}

struct error *task_check_mujoco(void) {
  if (mj_version() != mjVERSION_HEADER)
    return error_new(EXIT_CODE_FAILED, "MuJoCo library %s does not fit the headers of version %d it was built with",
                     mj_versionString(), mjVERSION_HEADER);
  if (mj_version() == MUJOCO_4_0_0)
    return error_new(EXIT_CODE_FAILED, "MuJoCo 4.0.0 has a solver bug (its issue 3767, wrong accelerations): use 3.17, "
                                       "or 4.0.1 and later");
  mju_user_warning = ignore_warning;
  mju_user_error = end_process;
  return NULL;
}

static struct error *model_path(const struct task_kind *kind, const char *assets, size_t size, char *path) {
  if (assets == NULL) assets = getenv("FLOWRANK_ASSETS");
  if (assets == NULL || *assets == '\0') assets = FLOWRANK_DEFAULT_ASSETS;
  const int length = snprintf(path, size, "%s/%s/%s", assets, MODEL_FOLDER, kind->model);
  if (length < 0 || (size_t)length >= size)
    return error_new(EXIT_CODE_USAGE, "the assets folder's name is too long: %.200s..", assets);
  if (access(path, R_OK) != 0)
    return error_new(EXIT_CODE_FAILED,
                     "model file %s of task %s is missing: run tools/setup.sh or set FLOWRANK_ASSETS to an unpacked "
                     "playground package",
                     path, kind->name);
  return NULL;
}

static struct error *load_model(struct task *task, const char *assets) {
  char path[4096], reason[512] = "";
  TRY(task_check_mujoco());
  TRY(model_path(task->kind, assets, sizeof path, path));
  mjSpec *spec = mj_parseXML(path, NULL, reason, sizeof reason);
  struct error *e = NULL;
  if (spec != NULL && task->kind->edit != NULL) e = task->kind->edit(task->kind, spec);
  if (spec != NULL && e == NULL) {
    task->model = mj_compile(spec, NULL);
    if (task->model == NULL) snprintf(reason, sizeof reason, "%s", mjs_getError(spec));
  }
  if (spec != NULL) mj_deleteSpec(spec);
  if (e != NULL) return e;
  if (task->model == NULL)
    return error_new(EXIT_CODE_FAILED, "model file %s: %.*s", path, (int)strcspn(reason, "\r\n"), reason);
  task->model->opt.timestep = task->kind->physics_dt;
  task->model->opt.disableflags |= mjDSBL_AUTORESET; // a NaN must reach the task, not be replaced by a reset
  return NULL;
}

static struct error *check_size(const struct task *task, const char *what, int64_t got, int64_t want) {
  if (got == want) return NULL;
  return error_new(EXIT_CODE_FAILED,
                   "model %s has %" PRId64 " %s where task %s has %" PRId64 ": it is not the model of %s",
                   task->kind->model, got, what, task->kind->name, want, task->kind->source);
}

static struct error *check_sizes(const struct task *task) {
  const struct task_kind *k = task->kind;
  TRY(check_size(task, "positions", task->model->nq, k->qpos_dim));
  TRY(check_size(task, "velocities", task->model->nv, k->qvel_dim));
  TRY(check_size(task, "actuators", task->model->nu, k->action_dim));
  if (task->substeps < 1)
    return error_new(EXIT_CODE_FAILED, "task %s: the control step is shorter than the physics step", k->name);
  return NULL;
}

struct error *task_lacks(const struct task_kind *kind, mjtObj type, const char *name) {
  return error_new(EXIT_CODE_FAILED, "model %s has no %s named '%s': it is not the model of %s", kind->model,
                   mju_type2Str((int)type), name, kind->source);
}

static struct error *find_objects(struct task *task) {
  const struct task_object *o = task->kind->objects;
  for (int i = 0; o != NULL && o[i].name != NULL; ++i) {
    const int id = mj_name2id(task->model, (int)o[i].type, o[i].name);
    if (id < 0) return task_lacks(task->kind, o[i].type, o[i].name);
    task->id[i] = o[i].type == mjOBJ_SENSOR ? (int)task->model->sensor_adr[id] : id;
  }
  return NULL;
}

// Parts that a model has none of would only cost time in every control step.
static void name_state(struct task *task) {
  for (int bit = 0; bit < mjNSTATE; ++bit)
    if ((STATE_PARTS & 1 << bit) != 0 && mj_stateSize(task->model, 1 << bit) > 0) task->state_parts |= 1 << bit;
  task->state_size += (size_t)mj_stateSize(task->model, task->state_parts);
}

// Sensors, cameras and lights follow from the state and have no effect on it. Nobody looks through cameras while a task is
// stepped, and at sensors only after a control step's last physics step: 6% of the fish's physics, 15% of the cart-pole's.
static struct error *copy_stepped_models(struct task *task) {
  task->inner_model = mj_copyModel(NULL, task->model);
  task->last_model = mj_copyModel(NULL, task->model);
  if (task->inner_model == NULL || task->last_model == NULL) return error_no_memory("a model");
  bool sensors = false;
  for (const struct task_object *o = task->kind->objects; o != NULL && o->name != NULL; ++o)
    sensors |= o->type == mjOBJ_SENSOR;
  task->inner_model->opt.disableflags |= mjDSBL_SENSOR;
  if (!sensors) task->last_model->opt.disableflags |= mjDSBL_SENSOR;
  task->inner_model->ncam = task->inner_model->nlight = 0;
  task->last_model->ncam = task->last_model->nlight = 0;
  return NULL;
}

static struct error *open_own(struct task *task, const struct config *config) {
  TRY(task_check_mujoco());
  return task->kind->open(task, config);
}

struct error *task_open(const char *name, const struct config *config, const char *assets, struct task **out) {
  *out = NULL;
  const struct task_kind *kind = NULL;
  TRY(find_kind(name, &kind));
  struct task *task = calloc(1, sizeof *task);
  if (task == NULL) return error_no_memory("a task");
  task->kind = kind;
  task->obs_dim = kind->obs_dim;
  task->action_dim = kind->action_dim;
  task->natural_length = kind->episode_length;
  task->extra_size = (size_t)kind->extra_size;
  struct error *e = kind->open != NULL ? open_own(task, config) : NULL;
  if (e == NULL && kind->model != NULL) {
    task->substeps = (int)lround(kind->control_dt / kind->physics_dt);
    e = load_model(task, assets);
    if (e == NULL) e = check_sizes(task);
    if (e == NULL) e = find_objects(task);
  }
  if (e == NULL && kind->prepare != NULL) kind->prepare(task);
  if (e == NULL && task->model != NULL) e = copy_stepped_models(task);
  if (e != NULL) {
    task_close(task);
    return e;
  }
  const int64_t asked = config != NULL ? config->task.episode_length : 0;
  task->episode_length = asked > 0 ? asked : task->natural_length;
  task->least_length = kind->complete != NULL ? 1 : task->episode_length;
  task->state_size = task->extra_size;
  if (task->model != NULL) name_state(task);
  *out = task;
  return NULL;
}

void task_close(struct task *task) {
  if (task == NULL) return;
  if (task->kind->close != NULL) task->kind->close(task);
  mj_deleteModel(task->model);
  mj_deleteModel(task->inner_model);
  mj_deleteModel(task->last_model);
  free(task);
}

struct error *task_worker_init(const struct task *task, struct task_worker *w) {
  *w = (struct task_worker){0};
  const size_t extra = task->extra_size, buffer = (size_t)task->obs_dim + (size_t)task->action_dim;
  w->extra = calloc(extra + buffer + task->scratch_size, sizeof *w->extra);
  if (task->model != NULL) w->data = mj_makeData(task->model);
  if (w->extra == NULL || (task->model != NULL && w->data == NULL)) {
    task_worker_free(w);
    return error_no_memory("a simulator");
  }
  w->buffer = w->extra + extra;
  w->scratch = w->buffer + buffer;
  return NULL;
}

void task_worker_free(struct task_worker *w) {
  mj_deleteData(w->data);
  free(w->extra);
  *w = (struct task_worker){0};
}

void task_load(const struct task *task, struct task_worker *w, const double *state) {
  const size_t extra = task->extra_size;
  memcpy(w->extra, state, extra * sizeof *state);
  if (task->model != NULL) mj_setState(task->model, w->data, state + extra, task->state_parts);
}

void task_save(const struct task *task, const struct task_worker *w, double *state) {
  const size_t extra = task->extra_size;
  memcpy(state, w->extra, extra * sizeof *state);
  if (task->model != NULL) mj_getState(task->model, w->data, state + extra, task->state_parts);
}

static void observe(const struct task *task, const struct task_worker *w, float *obs) {
  task->kind->observe(task, w, w->buffer);
  for (int i = 0; i < task->obs_dim; ++i) obs[i] = (float)w->buffer[i];
}

// From the task's own reset on.
static void finish_reset(const struct task *task, struct task_worker *w, struct rng_stream draws, double *state,
                         float *obs) {
  if (task->model != NULL) mj_forward(task->model, w->data);
  if (task->kind->settle != NULL) task->kind->settle(task, w, draws);
  observe(task, w, obs);
  task_save(task, w, state);
}

void task_reset(const struct task *task, struct task_worker *w, struct rng_stream draws, double *state, float *obs) {
  if (task->model != NULL) mj_resetData(task->model, w->data);
  if (task->kind->reset != NULL) task->kind->reset(task, w, draws);
  finish_reset(task, w, draws, state, obs);
}

void task_reset_evaluation(const struct task *task, struct task_worker *w, int64_t episode, struct rng_stream draws,
                           double *state, float *obs) {
  if (task->kind->reset_evaluation == NULL) {
    task_reset(task, w, draws, state, obs);
    return;
  }
  if (task->model != NULL) mj_resetData(task->model, w->data);
  task->kind->reset_evaluation(task, w, episode, draws);
  finish_reset(task, w, draws, state, obs);
}

// Not a number, or so large that observations would soon be none: beyond the bound of MuJoCo's own check.
static bool is_bad(const double *values, int64_t count) {
  for (int64_t i = 0; i < count; ++i)
    if (!(fabs(values[i]) <= mjMAXVAL)) return true;
  return false;
}

unsigned task_step(const struct task *task, struct task_worker *w, const float *action, double *state, float *obs,
                   float *reward) {
  double *const act = w->buffer + task->obs_dim;
  for (int i = 0; i < task->action_dim; ++i) act[i] = (double)action[i];
  task_load(task, w, state);
  if (task->kind->advance != NULL) {
    task->kind->advance(task, w, act);
  } else {
    memcpy(w->data->ctrl, act, (size_t)task->action_dim * sizeof *act);
    for (int i = 1; i < task->substeps; ++i) mj_step(task->inner_model, w->data);
    mj_step(task->last_model, w->data);
  }
  observe(task, w, obs);
  const double r = task->kind->reward(task, w, act);
  const bool broken =
      task->model != NULL && (is_bad(w->data->qpos, task->model->nq) || is_bad(w->data->qvel, task->model->nv));
  *reward = broken || !isfinite(r) ? 0.0f : (float)r;
  task_save(task, w, state);
  if (broken) return TASK_TERMINATED | TASK_BROKEN;
  if (task->kind->terminated != NULL && task->kind->terminated(task, w)) return TASK_TERMINATED;
  return task->kind->complete != NULL && task->kind->complete(task, w) ? TASK_COMPLETE : 0;
}

static double falloff(double distance, enum sigmoid sigmoid, double value_at_margin) {
  switch (sigmoid) {
  case SIGMOID_GAUSSIAN: {
    const double scale = sqrt(-2.0 * log(value_at_margin));
    return exp(-0.5 * distance * distance * scale * scale);
  }
  case SIGMOID_LINEAR: {
    const double scaled = distance * (1.0 - value_at_margin);
    return fabs(scaled) < 1.0 ? 1.0 - scaled : 0.0;
  }
  case SIGMOID_LONG_TAIL:
    return 1.0 / (distance * distance * (1.0 / value_at_margin - 1.0) + 1.0);
  case SIGMOID_QUADRATIC: {
    const double scaled = distance * sqrt(1.0 - value_at_margin);
    return fabs(scaled) < 1.0 ? 1.0 - scaled * scaled : 0.0;
  }
  }
  return 0.0;
}

double tolerance(double x, double low, double high, double margin, enum sigmoid sigmoid, double value_at_margin) {
  if (x >= low && x <= high) return 1.0;
  if (margin <= 0) return 0.0;
  const double distance = (x < low ? low - x : x - high) / margin;
  return falloff(distance, sigmoid, value_at_margin);
}
