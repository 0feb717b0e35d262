// What humanoid_track is made of, for tests, reports and pictures: observation and reward as functions of body poses,
// and episodes that start where one wants them to.
#ifndef FLOWRANK_HUMANOID_TRACK_H
#define FLOWRANK_HUMANOID_TRACK_H

#include <stdbool.h>

#include "actor/motion_library.h"
#include "actor/task.h"

// Numbers of an observation of J bodies: 15 J - 2 of the body itself, 24 J of the target.
static inline int humanoid_track_obs_dim(int bodies) { return 15 * bodies - 2 + 24 * bodies; }

// The observation, in the frame of the root's heading (its x axis along the horizontal projection of the root's forward
// axis, its z axis up). Bodies in the model's order, the root first; a rotation is the x and the z axis of its matrix.
//   itself   root height 1; positions from the root 3(J-1); rotations 6J; linear velocities 3J; angular velocities 3J
//   target   differences of position 3J, of rotation 6J, of linear 3J and angular velocity 3J;
//            positions from the body's root 3J; rotations 6J
// seen [J]: bodies of which the target shows the position; whole: it shows all else as well. The rest is 0.
// upright [4]: the root's rotation when it looks along x in the pose of zeros. obs [humanoid_track_obs_dim] out.
void humanoid_track_observe(int bodies, const double *upright, const struct motion_pose *self,
                            const struct motion_pose *target, const bool *seen, bool whole, double *obs);

// What following is worth, 0 to 1: 0.5 exp(-100 dp²) + 0.3 exp(-10 dr²) + 0.1 exp(-0.1 dv²) + 0.1 exp(-0.1 dw²), with
// mean squares over bodies and, but for the angle dr, components. The reward is this less task.power_cost · Σ |torque ·
// velocity|.
double humanoid_track_similarity(int bodies, const struct motion_pose *self, const struct motion_pose *reference);

// The task's library, or null for any other task.
const struct motion_library *humanoid_track_library(const struct task *task);

// Control steps from a clip's first frame to its end.
int humanoid_track_steps(const struct motion_clip *clip);

// What a saved environment is doing. Episode e of an evaluation is of clip e modulo their number, from its first frame.
struct humanoid_track_progress {
  int clip;
  double seconds; // of the clip
  int steps;      // control steps since the episode's start
  double error;   // m, mean distance of the bodies from the reference, mean over the steps
  bool failed, complete;
};
// The reference's qpos [nq] and qvel [nv] at a saved environment's time.
void humanoid_track_reference(const struct task *task, const double *state, double *qpos, double *qvel);

struct humanoid_track_progress humanoid_track_progress(const struct task *task, const double *state);

#endif
