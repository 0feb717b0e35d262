// A motion library: clips of reference motion for one body, in one HDF5 file that needs nothing else. It holds the
// body's MJCF, so that poses and body can never be of different models.
//
// Attributes of the root: format, version, model (the body's name), model_hash (XXH3 of the MJCF). Dataset model_xml.
// A group per clip in /clips, by its name, with the attributes fps, looped, source, height_offset (m, already in the
// poses) and the datasets qpos [T, nq], qvel [T, nv], body_position [T, J, 3], body_rotation [T, J, 4] (quaternions w,
// x, y, z), body_velocity [T, J, 6] (linear m/s, angular rad/s, in the world's frame, of the body's origin).
#ifndef FLOWRANK_MOTION_LIBRARY_H
#define FLOWRANK_MOTION_LIBRARY_H

#include <mujoco/mujoco.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

enum { MOTION_NAME_SIZE = 64 };

// A pose of all bodies of the model but the world, J of them: the layouts of arrays in this file and in the task.
struct motion_pose {
  double *position; // [J, 3] m
  double *rotation; // [J, 4] w, x, y, z
  double *velocity; // [J, 6] linear m/s, angular rad/s
};

struct motion_clip {
  char name[MOTION_NAME_SIZE]; // a word: letters, digits, _ and -
  char source[256];            // the file that it was made of
  double fps, height_offset;
  bool looped; // its source says that it repeats
  int frames;
  double *qpos, *qvel;     // [frames, nq], [frames, nv]
  struct motion_pose pose; // each with a leading dimension of frames
};

struct motion_library {
  char *model_xml;
  mjModel *model; // what model_xml compiles to
  char model_name[MOTION_NAME_SIZE];
  uint64_t model_hash;
  int count;
  struct motion_clip *clip; // [count], ascending by name
};

// Seconds from the first frame to the last.
static inline double motion_duration(const struct motion_clip *c) { return (c->frames - 1) / c->fps; }

// J of the library's body: without the world.
static inline int motion_bodies(const struct motion_library *l) { return (int)l->model->nbody - 1; }

// Compiles `xml`, which the library takes, and fills in all of the model but the clips. Errors name `path`.
struct error *motion_library_model(const char *path, char *xml, struct motion_library *l) MUST_USE;

// Whether a text may be a clip's name.
bool motion_is_name(const char *text);

// All arrays of a clip of `frames`, with zeros. The clip's other fields are left alone.
struct error *motion_clip_allocate(const struct motion_library *l, int frames, struct motion_clip *c) MUST_USE;
void motion_clip_free(struct motion_clip *c);

// Body poses of one frame from qpos and qvel by MuJoCo's forward kinematics. `d` is scratch.
void motion_forward(const mjModel *m, mjData *d, const double *qpos, const double *qvel, int frame,
                    struct motion_pose *pose);

// The same of what `d` holds, whose kinematics and velocities are already there.
void motion_pose_of(const mjModel *m, const mjData *d, int frame, struct motion_pose *pose);

// The body poses at `seconds` from the clip's start, held at both ends: positions and velocities linearly between
// frames, rotations along the shorter arc. out: arrays of one frame.
void motion_sample(const struct motion_library *l, const struct motion_clip *c, double seconds,
                   struct motion_pose *out);

// qpos [nq] and qvel [nv] likewise, on the manifold of the model's joints.
void motion_sample_state(const mjModel *m, const struct motion_clip *c, double seconds, double *qpos, double *qvel);

// Writes under a temporary name, then renames. Errors name the file.
struct error *motion_library_write(const char *path, const struct motion_library *l) MUST_USE;

// Reads a whole library and checks that its sizes hold together, that every number is finite, that rotations are unit
// quaternions and that the hash is the model's. clips: names joined by '+', or null for all. Errors name file and clip.
struct error *motion_library_read(const char *path, const char *clips, struct motion_library *l) MUST_USE;
void motion_library_free(struct motion_library *l);

#endif
