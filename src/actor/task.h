// The task interface and the registry. A task is constant once opened and shared by all threads; an environment is a row
// of doubles; a worker is one thread's place to simulate any of them.
#ifndef FLOWRANK_TASK_H
#define FLOWRANK_TASK_H

#include <mujoco/mujoco.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/config.h"
#include "common/error.h"
#include "common/rng.h"

enum { TASK_MAX_IDS = 16 };

struct task;

// One thread's simulator: the state of whichever environment it holds at the moment.
struct task_worker {
  mjData *data;    // null for tasks without physics
  double *extra;   // [task->extra_size]: what the task keeps beside the physics (targets, clip, phase)
  double *buffer;  // [obs_dim + action_dim] scratch
  double *scratch; // [task->scratch_size]: the task's own, of no meaning beyond an iteration
};

// A named thing of the model that a task looks at.
struct task_object {
  mjtObj type;
  const char *name;
};

// What a family of tasks implements, one row per task. Hooks see the worker right after the physics steps: positions
// derived by kinematics are those before the last integration, as in the reference.
struct task_kind {
  const char *name, *family, *summary, *source;
  const char *observation, *reward_text, *termination; // for `flowrank tasks NAME`
  const char *model;                                   // MJCF file in the assets' folder; null: no physics
  double control_dt, physics_dt;                       // seconds
  int qpos_dim, qvel_dim, action_dim;                  // checked against the model
  int obs_dim;
  int episode_length; // control steps
  int extra_size;
  // Of tasks whose model and sizes follow from settings: sets model, substeps, sizes and `own`, which close frees.
  struct error *(*open)(struct task *task, const struct config *config);
  void (*close)(struct task *task);
  double parameter;                  // the family's own: a target's size, a speed
  const struct task_object *objects; // looked up in the model into task->id; ended by a null name; null: none
  struct error *(*edit)(const struct task_kind *kind, mjSpec *spec); // before compiling; may be null
  void (*prepare)(struct task *task);                                // adjusts the compiled model; may be null
  // Before an iteration of a shard: what its environments know together, from their rows of `states` [count], `stride`
  // doubles apart, into the worker, for the resets to come. May be null.
  void (*pool)(const struct task *task, struct task_worker *w, const double *states, size_t stride, int count);
  void (*reset)(const struct task *task, struct task_worker *w,
                struct rng_stream draws); // before mj_forward; may be null. What it leaves of `extra` goes on.
  void (*reset_evaluation)(const struct task *task, struct task_worker *w, int64_t episode,
                           struct rng_stream draws); // an evaluation's own reset; null: reset
  void (*settle)(const struct task *task, struct task_worker *w, struct rng_stream draws); // after it; may be null
  void (*advance)(const struct task *task, struct task_worker *w, const double *action);   // null: mj_step, `substeps`
  void (*observe)(const struct task *task, const struct task_worker *w, double *obs);
  double (*reward)(const struct task *task, const struct task_worker *w, const double *action);
  bool (*terminated)(const struct task *task, const struct task_worker *w); // null: only a NaN ends an episode
  bool (*complete)(const struct task *task,
                   const struct task_worker *w); // truncates before the episode length; or null
};

struct task {
  const struct task_kind *kind;
  mjModel *model;       // as its file describes it; null without physics
  mjModel *inner_model; // for physics steps after which nobody looks: the same physics without sensors and cameras
  mjModel *last_model;  // for a control step's last one: with the sensors, where the task has any among its objects
  int substeps;
  int obs_dim, action_dim;
  void *own;                       // the family's own
  int64_t natural_length;          // of an episode that nothing ends, control steps
  int64_t episode_length;          // the same in training
  int64_t least_length;            // of the shortest that may be truncated
  size_t extra_size, scratch_size; // doubles
  size_t state_size;               // doubles of a saved environment
  int state_parts;                 // of the physics, as mj_getState takes them
  int id[TASK_MAX_IDS];            // of kind->objects, in their order; for a sensor its address in sensordata
};

// The registry, in the order in which `flowrank tasks` lists it.
int task_count(void);
const struct task_kind *task_kind_at(int index);

// Finds the task and loads its model. `config`: its settings but for the name, read while opening; null: the defaults.
// `assets`: folder of the unpacked Playground package, or null for FLOWRANK_ASSETS and then the build's own.
// Errors: unknown task (with the nearest name), missing or broken model file, a model of other sizes or without an object
// that the task needs, a MuJoCo that computes wrongly.
struct error *task_open(const char *name, const struct config *config, const char *assets, struct task **task) MUST_USE;
void task_close(struct task *task);

struct error *task_worker_init(const struct task *task, struct task_worker *w) MUST_USE;
void task_worker_free(struct task_worker *w);

// Starts an episode: state [state_size] and obs [O] out.
void task_reset(const struct task *task, struct task_worker *w, struct rng_stream draws, double *state, float *obs);

// The same for episode `episode` of an evaluation.
void task_reset_evaluation(const struct task *task, struct task_worker *w, int64_t episode, struct rng_stream draws,
                           double *state, float *obs);

// How a control step ended, as bits.
enum task_end {
  TASK_TERMINATED = 1, // nothing follows
  TASK_COMPLETE = 2,   // the task stops here, though more could follow: a truncation
  TASK_BROKEN = 4,     // a position or velocity is not a number or beyond mjMAXVAL: terminated as well, with reward 0
};

// One control step from `state` [state_size], which is replaced by what follows. action [A] in [-1,1] as the
// environment receives it. obs [O] and reward out. Returns bits of task_end.
unsigned task_step(const struct task *task, struct task_worker *w, const float *action, double *state, float *obs,
                   float *reward);

// The worker's own state from and to a saved row.
void task_load(const struct task *task, struct task_worker *w, const double *state);
void task_save(const struct task *task, const struct task_worker *w, double *state);

// Before the first use of MuJoCo in a process: the library must be the headers' and one that computes rightly; warnings
// come back as NaN states.
struct error *task_check_mujoco(void) MUST_USE;

// The error of an object that a model does not have.
struct error *task_lacks(const struct task_kind *kind, mjtObj type, const char *name) MUST_USE;

// dm_control's tolerance: 1 inside [low, high], falling to value_at_margin at `margin` outside it.
enum sigmoid { SIGMOID_GAUSSIAN, SIGMOID_LINEAR, SIGMOID_LONG_TAIL, SIGMOID_QUADRATIC };
double tolerance(double x, double low, double high, double margin, enum sigmoid sigmoid, double value_at_margin);

#endif
