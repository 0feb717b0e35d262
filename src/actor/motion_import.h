// Motion capture files into a motion library: reads, retargets to the body's joints, derives velocities and body poses,
// validates. A clip that cannot be used is named and left out; the others go on.
//
// Formats, told apart by the file's first bytes:
// - DeepMimic's JSON: {"Loop": "wrap"|"none", "Frames": [[..44 numbers..], ..]}, y up. A row is the frame's duration
//   (s), the root's position (m) and rotation, and the joints' rotations: quaternions w, x, y, z, angles (rad) of knees
//   and elbows.
// - dm_control's mocap HDF5: a group a clip with the attributes dt, num_steps and the datasets
//   walkers/walker_0/{position [3,T], quaternion [4,T], joints [N,T]}.
#ifndef FLOWRANK_MOTION_IMPORT_H
#define FLOWRANK_MOTION_IMPORT_H

#include <stdio.h>

#include "actor/motion_library.h"
#include "common/error.h"

// Told of every clip: `clip` is null for one that was refused. `text` is one line without its end.
typedef void motion_import_teller(void *context, const struct motion_clip *clip, const char *text);

struct motion_import {
  struct motion_library *library; // with its model; clips are added
  double fps;                     // frames a second to resample to; 0: the clip's own rate
  motion_import_teller *tell;
  void *context;
  int refused; // clips
};

// Adds what is at `path`: a file, or a folder with all its *.txt, *.json and *.h5 files and those of its folders, by
// name. Errors: only what ends the whole import: no memory, a path that cannot be read.
struct error *motion_import_path(struct motion_import *import, const char *path) MUST_USE;

// The body that a file's clips are of, "deepmimic" or "cmu", by its first bytes (a folder: by its first file).
const char *motion_import_body(const char *path);

// Sorts the clips by name.
void motion_import_finish(struct motion_import *import);

#endif
