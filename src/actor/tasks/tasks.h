// The families of tasks; each lives in a file of its own and is entered in actor/task.c. All but GridWorld carry over
// MuJoCo Playground 0.2.0's dm_control_suite: each family's formulas are those of its Python file there.
#ifndef FLOWRANK_TASKS_H
#define FLOWRANK_TASKS_H

#include <math.h>
#include <stddef.h>

#include "actor/task.h"

struct task_family {
  int count;
  const struct task_kind *kinds; // [count]
};
#define TASK_FAMILY(kinds)                                                                                             \
  { sizeof(kinds) / sizeof *(kinds), kinds }

extern const struct task_family acrobot_family, ball_in_cup_family, cartpole_family, cheetah_family, finger_family,
    fish_family, gridworld_family, hopper_family, humanoid_family, humanoid_track_family, pendulum_family,
    point_mass_family, reacher_family, swimmer_family, walker_family;

#define PLAYGROUND(file) "MuJoCo Playground 0.2.0, dm_control_suite/" file
#define ENDS_BY_NAN                                                                                                    \
  "none but a physics that diverges (a state that is not a number, or beyond 1e10); truncated after the episode "      \
  "length"

// What a worker's simulator says of one of kind->objects: position [3], rotation [3x3, row-major], size [3], sensor
// numbers, and the place to move a mocap body [3].
static inline const mjtNum *body_pos(const struct task *task, const struct task_worker *w, int object) {
  return w->data->xpos + 3 * (ptrdiff_t)task->id[object];
}
static inline const mjtNum *body_mat(const struct task *task, const struct task_worker *w, int object) {
  return w->data->xmat + 9 * (ptrdiff_t)task->id[object];
}
static inline const mjtNum *geom_pos(const struct task *task, const struct task_worker *w, int object) {
  return w->data->geom_xpos + 3 * (ptrdiff_t)task->id[object];
}
static inline const mjtNum *geom_size(const struct task *task, int object) {
  return task->model->geom_size + 3 * (ptrdiff_t)task->id[object];
}
static inline const mjtNum *site_pos(const struct task *task, const struct task_worker *w, int object) {
  return w->data->site_xpos + 3 * (ptrdiff_t)task->id[object];
}
static inline const mjtNum *site_size(const struct task *task, int object) {
  return task->model->site_size + 3 * (ptrdiff_t)task->id[object];
}
static inline const mjtNum *sensor(const struct task *task, const struct task_worker *w, int object) {
  return w->data->sensordata + task->id[object];
}
static inline mjtNum *mocap_pos(const struct task *task, const struct task_worker *w, int object) {
  return w->data->mocap_pos + 3 * (ptrdiff_t)task->model->body_mocapid[task->id[object]];
}

// Entries of a rotation matrix: xz is the x component of the z axis.
enum { MAT_XX = 0, MAT_XZ = 2, MAT_ZX = 6, MAT_ZZ = 8 };

static inline double draw_between(struct rng_stream draws, uint32_t index, double low, double high) {
  return low + (high - low) * rng_uniform_at(draws, index);
}

// Draws joint positions uniformly in their ranges, joints first..first+count-1, which have one coordinate each; draw j
// for joint j.
static inline void draw_joints(const struct task *task, struct task_worker *w, struct rng_stream draws, int first,
                               int count) {
  for (int j = first; j < first + count; ++j) {
    const mjtNum *range = task->model->jnt_range + 2 * (ptrdiff_t)j;
    w->data->qpos[task->model->jnt_qposadr[j]] = draw_between(draws, (uint32_t)j, range[0], range[1]);
  }
}

static inline double *copy_numbers(double *to, const mjtNum *from, int count) {
  for (int i = 0; i < count; ++i) to[i] = from[i];
  return to + count;
}

// (4 + mean over actions of the tolerance around zero)/5: 1 without action, 0.8 with all motors at full.
static inline double small_control(const struct task *task, const double *action) {
  double sum = 0;
  for (int i = 0; i < task->action_dim; ++i) sum += tolerance(action[i], 0, 0, 1, SIGMOID_QUADRATIC, 0);
  return (4 + sum / task->action_dim) / 5;
}

#endif
