#include "actor/motion_import.h"

#include <errno.h>
#include <fts.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "actor/motion_hdf5.h"

// What is refused, and what is only told. Published clips are blended component by component, so that quaternions get
// short between distant poses: DeepMimic normalises them, and so does this, up to where a direction is left to trust.
static const double WORST_NORM = 0.5, TOLD_NORM = 0.01;
static const double TOLD_ANGLE = 0.01;                  // rad outside a joint's range, which the pose is moved into
static const double TOLD_HEIGHT = 0.05;                 // m
static const double TOLD_SPEED = 15, TOLD_TURNING = 40; // m/s of a body, rad/s
static const double UNEVEN = 0.01;                      // of a frame's duration, from which on a clip is resampled

// A clip as its file has it: a pose at each time.
struct raw_clip {
  char name[MOTION_NAME_SIZE], source[256];
  bool looped;
  int frames;
  double *time; // [frames] s, ascending from 0
  double *qpos; // [frames, nq]
};

// What there is to say of an imported clip.
struct findings {
  double norm, angle; // largest deviations
  int norm_frame, angle_frame, speed_frame;
  double speed, turning;
};

static struct error *raw_allocate(const struct motion_library *l, int frames, struct raw_clip *raw) {
  raw->frames = frames;
  raw->time = calloc((size_t)frames, sizeof *raw->time);
  raw->qpos = calloc((size_t)frames * (size_t)l->model->nq, sizeof *raw->qpos);
  return raw->time != NULL && raw->qpos != NULL ? NULL : error_no_memory("a motion clip");
}

static void raw_free(struct raw_clip *raw) {
  free(raw->time);
  free(raw->qpos);
}

// The file's stem as a clip's name, without DeepMimic's prefix.
static void name_of_file(const char *path, char name[MOTION_NAME_SIZE]) {
  static const char prefix[] = "humanoid3d_";
  const char *slash = strrchr(path, '/'), *stem = slash ? slash + 1 : path;
  if (strncmp(stem, prefix, sizeof prefix - 1) == 0) stem += sizeof prefix - 1;
  const char *dot = strrchr(stem, '.');
  snprintf(name, MOTION_NAME_SIZE, "%.*s", (int)(dot ? dot - stem : (long)strlen(stem)), stem);
  for (char *c = name; *c != '\0'; ++c)
    if (!motion_is_name((char[2]){*c, '\0'})) *c = '_';
  if (name[0] == '\0') snprintf(name, MOTION_NAME_SIZE, "clip");
}

static void refuse(struct motion_import *import, struct error *e) {
  import->tell(import->context, NULL, e->text);
  import->refused += 1;
  error_free(e);
}

#define REFUSED(...) error_new(EXIT_CODE_FAILED, __VA_ARGS__)

// Makes q [4] of length 1. False: its length tells that it is no rotation.
static bool normalize(double *q, int frame, struct findings *f) {
  const double norm = mju_norm(q, 4), off = fabs(norm - 1);
  if (!(off <= WORST_NORM)) return false;
  if (off > f->norm) f->norm = off, f->norm_frame = frame;
  mju_scl(q, q, 1 / norm, 4);
  return true;
}

// --- From a pose at each time to a clip ---

static bool is_foot(const mjModel *m, int body) {
  const char *name = mj_id2name(m, mjOBJ_BODY, body);
  return name != NULL && (strstr(name, "foot") || strstr(name, "toe") || strstr(name, "ankle"));
}

// Height of a geom's lowest point, m.
static double lowest_point(const mjModel *m, const mjData *d, int geom) {
  const mjtNum *size = m->geom_size + 3 * (ptrdiff_t)geom, *down = d->geom_xmat + 9 * (ptrdiff_t)geom + 6;
  const double z = d->geom_xpos[3 * (ptrdiff_t)geom + 2];
  switch (m->geom_type[geom]) {
  case mjGEOM_SPHERE:
    return z - size[0];
  case mjGEOM_CAPSULE:
    return z - fabs(down[2]) * size[1] - size[0];
  case mjGEOM_CYLINDER:
    return z - fabs(down[2]) * size[1] - sqrt(fmax(0, 1 - down[2] * down[2])) * size[0];
  case mjGEOM_ELLIPSOID:
    return z - sqrt(pow(down[0] * size[0], 2) + pow(down[1] * size[1], 2) + pow(down[2] * size[2], 2));
  default:
    return z - fabs(down[0]) * size[0] - fabs(down[1]) * size[1] - fabs(down[2]) * size[2];
  }
}

static double lowest_foot(const mjModel *m, mjData *d, const double *qpos) {
  double lowest = INFINITY;
  mju_copy(d->qpos, qpos, (int)m->nq);
  mj_kinematics(m, d);
  for (int g = 0; g < m->ngeom; ++g)
    if (is_foot(m, m->geom_bodyid[g])) lowest = fmin(lowest, lowest_point(m, d, g));
  return lowest;
}

// Hinges into their ranges. Balls are only looked at: their limit is soft, and the pose stays what was captured.
static void check_ranges(const mjModel *m, double *qpos, int frame, struct findings *f) {
  for (int j = 0; j < m->njnt; ++j) {
    const mjtNum *range = m->jnt_range + 2 * (ptrdiff_t)j;
    double *q = qpos + m->jnt_qposadr[j], turn[3], off = 0;
    if (!m->jnt_limited[j]) continue;
    if (m->jnt_type[j] == mjJNT_BALL) {
      mju_quat2Vel(turn, q, 1);
      off = mju_norm3(turn) - range[1];
    } else {
      const double inside = fmin(fmax(*q, range[0]), range[1]);
      off = fabs(*q - inside);
      *q = inside;
    }
    if (off > f->angle) f->angle = off, f->angle_frame = frame;
  }
}

// The pose at `seconds` of the raw clip. *at: a frame to begin the search at, which goes forward with the time.
static void sample_raw(const mjModel *m, const struct raw_clip *raw, double seconds, int *at, double *turn,
                       double *qpos) {
  while (*at < raw->frames - 2 && raw->time[*at + 1] <= seconds) ++*at;
  const double *from = raw->qpos + (size_t)*at * (size_t)m->nq;
  mju_copy(qpos, from, (int)m->nq);
  if (raw->frames == 1) return;
  const double length = raw->time[*at + 1] - raw->time[*at];
  mj_differentiatePos(m, turn, 1, from, from + m->nq);
  mj_integratePos(m, qpos, turn, fmin((seconds - raw->time[*at]) / length, 1));
}

static bool is_even(const struct raw_clip *raw, double length) {
  for (int i = 1; i < raw->frames; ++i)
    if (fabs(raw->time[i] - raw->time[i - 1] - length) > UNEVEN * length) return false;
  return true;
}

// Uniform frames of the raw clip, at its own mean rate or the one asked for.
static struct error *resample(const struct motion_import *import, const struct raw_clip *raw, double *turn,
                              struct motion_clip *c) {
  const mjModel *m = import->library->model;
  const double duration = raw->time[raw->frames - 1], rounding = 1e-6;
  const double own = raw->frames > 1 ? (raw->frames - 1) / duration : 1;
  c->fps = import->fps > 0 ? import->fps : own;
  const int frames = import->fps > 0 ? (int)floor(duration * c->fps + rounding) + 1 : raw->frames;
  TRY(motion_clip_allocate(import->library, frames, c));
  if (import->fps <= 0 && (raw->frames == 1 || is_even(raw, 1 / own))) {
    memcpy(c->qpos, raw->qpos, (size_t)raw->frames * (size_t)m->nq * sizeof *c->qpos);
    return NULL;
  }
  for (int i = 0, at = 0; i < frames; ++i)
    sample_raw(m, raw, i / c->fps, &at, turn, c->qpos + (size_t)i * (size_t)m->nq);
  return NULL;
}

// Velocities from the neighbouring frames, then the bodies' poses.
static void derive(const mjModel *m, mjData *d, struct motion_clip *c, struct findings *f) {
  const size_t nq = (size_t)m->nq, nv = (size_t)m->nv, bodies = (size_t)m->nbody - 1;
  for (int i = 0; i < c->frames; ++i) {
    const int before = i > 0 ? i - 1 : 0, after = i < c->frames - 1 ? i + 1 : i;
    double *qvel = c->qvel + (size_t)i * nv;
    if (after > before)
      mj_differentiatePos(m, qvel, (after - before) / c->fps, c->qpos + (size_t)before * nq,
                          c->qpos + (size_t)after * nq);
    motion_forward(m, d, c->qpos + (size_t)i * nq, qvel, i, &c->pose);
    for (size_t j = 0; j < bodies; ++j) {
      const double *velocity = c->pose.velocity + 6 * ((size_t)i * bodies + j);
      const double speed = mju_norm3(velocity), turning = mju_norm3(velocity + 3);
      if (speed > f->speed) f->speed = speed, f->speed_frame = i;
      f->turning = fmax(f->turning, turning);
    }
  }
}

static void append(char *text, size_t size, const char *format, ...) PRINTF_LIKE(3, 4);
static void append(char *text, size_t size, const char *format, ...) {
  const size_t used = strlen(text);
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text + used, size - used, format, arguments);
  va_end(arguments);
}

static void tell_findings(const struct motion_import *import, const struct motion_clip *c, const struct findings *f) {
  char text[512] = "";
  if (f->norm > TOLD_NORM)
    append(text, sizeof text, "; quaternions up to %.2f from length 1 (frame %d)", f->norm, f->norm_frame);
  if (f->angle > TOLD_ANGLE)
    append(text, sizeof text, "; joints up to %.2f rad outside their range (frame %d)", f->angle, f->angle_frame);
  if (fabs(c->height_offset) > TOLD_HEIGHT)
    append(text, sizeof text, "; feet were %.3f m from the floor", -c->height_offset);
  if (f->speed > TOLD_SPEED)
    append(text, sizeof text, "; a body moves at %.1f m/s (frame %d)", f->speed, f->speed_frame);
  if (f->turning > TOLD_TURNING) append(text, sizeof text, "; a body turns at %.1f rad/s", f->turning);
  import->tell(import->context, c, text[0] != '\0' ? text + 2 : "");
}

static struct error *complete(const struct motion_import *import, const struct raw_clip *raw, struct findings *f,
                              mjData *d, double *turn, struct motion_clip *c) {
  const mjModel *m = import->library->model;
  double lowest = INFINITY;
  TRY(resample(import, raw, turn, c));
  for (int i = 0; i < c->frames; ++i) {
    double *qpos = c->qpos + (size_t)i * (size_t)m->nq;
    check_ranges(m, qpos, i, f);
    lowest = fmin(lowest, lowest_foot(m, d, qpos));
  }
  c->height_offset = isfinite(lowest) ? -lowest : 0;
  for (int i = 0; i < c->frames; ++i) c->qpos[(size_t)i * (size_t)m->nq + 2] += c->height_offset;
  derive(m, d, c, f);
  return NULL;
}

// Adds the raw clip to the library.
static struct error *add_clip(struct motion_import *import, const struct raw_clip *raw, struct findings *f) {
  struct motion_library *l = import->library;
  for (int i = 0; i < l->count; ++i)
    if (strcmp(l->clip[i].name, raw->name) == 0)
      return REFUSED("%s: there is already a clip '%s', from %s", raw->source, raw->name, l->clip[i].source);
  struct motion_clip *more = realloc(l->clip, (size_t)(l->count + 1) * sizeof *more);
  if (more == NULL) return error_no_memory("motion clips");
  l->clip = more;
  struct motion_clip *c = &l->clip[l->count];
  *c = (struct motion_clip){.looped = raw->looped};
  memcpy(c->name, raw->name, sizeof c->name);
  memcpy(c->source, raw->source, sizeof c->source);
  mjData *d = mj_makeData(l->model);
  double *turn = calloc((size_t)l->model->nv, sizeof *turn);
  struct error *e = d != NULL && turn != NULL ? complete(import, raw, f, d, turn, c) : error_no_memory("a motion clip");
  mj_deleteData(d);
  free(turn);
  if (e != NULL) {
    motion_clip_free(c);
    return e;
  }
  l->count += 1;
  tell_findings(import, c, f);
  return NULL;
}

// --- DeepMimic's JSON ---

enum { ROW = 44, ROW_POSITION = 1, ROW_ROTATION = 4 };
static const struct {
  const char *joint;
  int at;
  bool ball;
} ROW_JOINTS[] = {{"chest", 8, true},         {"neck", 12, true},          {"right_hip", 16, true},
                  {"right_knee", 20, false},  {"right_ankle", 21, true},   {"right_shoulder", 25, true},
                  {"right_elbow", 29, false}, {"left_hip", 30, true},      {"left_knee", 34, false},
                  {"left_ankle", 35, true},   {"left_shoulder", 39, true}, {"left_elbow", 43, false}};
enum { ROW_JOINT_COUNT = sizeof ROW_JOINTS / sizeof *ROW_JOINTS };

// Addresses in qpos of the row's joints. False: the model has no such joint.
static struct error *find_joints(const struct motion_library *l, const char *path, int address[ROW_JOINT_COUNT]) {
  const mjModel *m = l->model;
  for (int i = 0; i < ROW_JOINT_COUNT; ++i) {
    const int id = mj_name2id(m, mjOBJ_JOINT, ROW_JOINTS[i].joint);
    const int type = ROW_JOINTS[i].ball ? mjJNT_BALL : mjJNT_HINGE;
    if (id < 0 || m->jnt_type[id] != type)
      return REFUSED("%s: does not fit the model %s, which has no %s joint '%s'", path, l->model_name,
                     ROW_JOINTS[i].ball ? "ball" : "hinge", ROW_JOINTS[i].joint);
    address[i] = m->jnt_qposadr[id];
  }
  if (m->jnt_type[0] == mjJNT_FREE && m->nq == 7 + 4 * 8 + 4) return NULL;
  return REFUSED("%s: does not fit the model %s, which has %d coordinates instead of 43", path, l->model_name,
                 (int)m->nq);
}

// y up, z to the right: into z up, y to the left.
static void turn_upright(const double *q, double *out) {
  const double turned[4] = {q[0], q[1], -q[3], q[2]};
  mju_copy4(out, turned);
}

static struct error *take_row(const char *path, const double row[ROW], int frame, const int address[ROW_JOINT_COUNT],
                              struct findings *f, double *qpos) {
  const char *bad = NULL;
  const double position[3] = {row[ROW_POSITION], -row[ROW_POSITION + 2], row[ROW_POSITION + 1]};
  mju_copy3(qpos, position);
  turn_upright(row + ROW_ROTATION, qpos + 3);
  if (!normalize(qpos + 3, frame, f)) bad = "root";
  for (int i = 0; i < ROW_JOINT_COUNT && bad == NULL; ++i) {
    double *q = qpos + address[i];
    if (!ROW_JOINTS[i].ball) *q = row[ROW_JOINTS[i].at];
    else turn_upright(row + ROW_JOINTS[i].at, q);
    if (ROW_JOINTS[i].ball && !normalize(q, frame, f)) bad = ROW_JOINTS[i].joint;
  }
  if (bad == NULL) return NULL;
  return REFUSED("%s: frame %d: the quaternion of %s is not a rotation: its length is not near 1", path, frame, bad);
}

static struct error *read_row(const char *path, const json_t *row, int frame, double out[ROW]) {
  if (!json_is_array(row)) return REFUSED("%s: frame %d is not an array of numbers", path, frame);
  if (json_array_size(row) != ROW)
    return REFUSED("%s: frame %d has %zu numbers, not %d", path, frame, json_array_size(row), ROW);
  for (size_t i = 0; i < ROW; ++i) {
    const json_t *number = json_array_get(row, i);
    out[i] = json_number_value(number);
    if (!json_is_number(number) || !isfinite(out[i]))
      return REFUSED("%s: frame %d: number %zu is not a finite number", path, frame, i);
  }
  return NULL;
}

static struct error *read_frames(const struct motion_library *l, const char *path, const json_t *frames,
                                 struct raw_clip *raw, struct findings *f) {
  int address[ROW_JOINT_COUNT];
  double row[ROW], time = 0;
  TRY(raw_allocate(l, (int)json_array_size(frames), raw));
  TRY(read_row(path, json_array_get(frames, 0), 0, row)); // before the model: a clip of another body says so
  TRY(find_joints(l, path, address));
  for (int i = 0; i < raw->frames; ++i) {
    TRY(read_row(path, json_array_get(frames, (size_t)i), i, row));
    TRY(take_row(path, row, i, address, f, raw->qpos + (size_t)i * (size_t)l->model->nq));
    raw->time[i] = time;
    time += row[0];
    if (row[0] < 0 || (row[0] == 0 && i < raw->frames - 1))
      return REFUSED("%s: frame %d: its duration is %g s, so that time does not ascend", path, i, row[0]);
  }
  return NULL;
}

static struct error *import_json(struct motion_import *import, const char *path) {
  enum { MOST_FRAMES = 1000000 };
  json_error_t fault;
  struct raw_clip raw = {0};
  struct findings f = {0};
  snprintf(raw.source, sizeof raw.source, "%s", strrchr(path, '/') ? strrchr(path, '/') + 1 : path);
  name_of_file(path, raw.name);
  json_t *root = json_load_file(path, JSON_REJECT_DUPLICATES, &fault);
  if (root == NULL) {
    refuse(import, fault.line > 0 ? REFUSED("%s:%d:%d: %s", path, fault.line, fault.column, fault.text)
                                  : REFUSED("%s: %s", path, fault.text));
    return NULL;
  }
  const json_t *frames = json_object_get(root, "Frames");
  const char *loop = json_string_value(json_object_get(root, "Loop"));
  raw.looped = loop != NULL && strcmp(loop, "wrap") == 0;
  struct error *e = NULL;
  if (!json_is_array(frames)) e = REFUSED("%s: it has no array 'Frames': it is not a DeepMimic clip", path);
  else if (json_array_size(frames) == 0) e = REFUSED("%s: it has zero frames", path);
  else if (json_array_size(frames) > MOST_FRAMES) e = REFUSED("%s: it has more than %d frames", path, MOST_FRAMES);
  else e = read_frames(import->library, path, frames, &raw, &f);
  json_decref(root);
  if (e == NULL) e = add_clip(import, &raw, &f);
  raw_free(&raw);
  if (e != NULL) refuse(import, e);
  return NULL;
}

// --- dm_control's mocap HDF5 ---

// Reads a dataset [rows, T], transposed into qpos at `column`. frames: T, or 0 to be told.
static struct error *read_transposed(hid_t group, const char *path, const char *clip, const char *name, int rows,
                                     int *frames, double **out) {
  enum { MOST_FRAMES = 1000000 };
  hsize_t shape[3];
  char where[128];
  snprintf(where, sizeof where, "walkers/walker_0/%s", name);
  if (H5Lexists(group, "walkers", H5P_DEFAULT) <= 0 || H5Lexists(group, "walkers/walker_0", H5P_DEFAULT) <= 0 ||
      motion_hdf5_shape(group, where, shape) != 2)
    return REFUSED("%s: clip '%s': it has no dataset %s of two dimensions", path, clip, where);
  if (shape[1] == 0) return REFUSED("%s: clip '%s': it has zero frames", path, clip);
  if (shape[0] != (hsize_t)rows)
    return REFUSED("%s: clip '%s': %s has %d rows; the model needs %d", path, clip, where, (int)shape[0], rows);
  if (shape[1] > MOST_FRAMES || (*frames > 0 && shape[1] != (hsize_t)*frames))
    return REFUSED("%s: clip '%s': %s has %d frames; other datasets have %d", path, clip, where, (int)shape[1],
                   *frames);
  *frames = (int)shape[1];
  *out = malloc(shape[0] * shape[1] * sizeof **out);
  if (*out == NULL) return error_no_memory("a motion clip");
  if (motion_hdf5_get_array(group, where, *out)) return NULL;
  return REFUSED("%s: clip '%s': %s cannot be read", path, clip, where);
}

static struct error *check_attributes(hid_t group, const char *path, const char *clip, int frames, double *dt) {
  int64_t steps;
  if (!motion_hdf5_get_real(group, "dt", dt) || !isfinite(*dt))
    return REFUSED("%s: clip '%s': attribute dt is missing, or no number", path, clip);
  if (*dt <= 0) return REFUSED("%s: clip '%s': dt is %g s, so that time does not ascend", path, clip, *dt);
  if (motion_hdf5_get_integer(group, "num_steps", &steps) && steps == frames) return NULL;
  return REFUSED("%s: clip '%s': attribute num_steps is not its number of frames, %d", path, clip, frames);
}

static struct error *take_columns(const struct motion_library *l, const char *path, double *const part[3], double dt,
                                  struct raw_clip *raw, struct findings *f) {
  const int nq = (int)l->model->nq, first[4] = {0, 3, 7, nq};
  for (int i = 0; i < raw->frames; ++i) {
    double *qpos = raw->qpos + (size_t)i * (size_t)nq;
    raw->time[i] = i * dt;
    for (int k = 0; k < 3; ++k)
      for (int row = first[k]; row < first[k + 1]; ++row) {
        qpos[row] = part[k][(size_t)(row - first[k]) * (size_t)raw->frames + (size_t)i];
        if (!isfinite(qpos[row]))
          return REFUSED("%s: clip '%s': frame %d has a number that is not finite", path, raw->name, i);
      }
    if (!normalize(qpos + 3, i, f))
      return REFUSED("%s: clip '%s': frame %d: the root's quaternion is not a rotation: its length is not near 1", path,
                     raw->name, i);
  }
  return NULL;
}

static struct error *read_mocap_clip(const struct motion_library *l, const char *path, hid_t group,
                                     struct raw_clip *raw, struct findings *f) {
  double *part[3] = {NULL, NULL, NULL}, dt = 0;
  int frames = 0;
  const char *clip = raw->name;
  struct error *e = NULL;
  if (l->model->njnt < 1 || l->model->jnt_type[0] != mjJNT_FREE || l->model->nq != 6 + l->model->njnt)
    e = REFUSED("%s: does not fit the model %s, whose joints are not a free one and hinges", path, l->model_name);
  if (e == NULL) e = read_transposed(group, path, clip, "position", 3, &frames, &part[0]);
  if (e == NULL) e = read_transposed(group, path, clip, "quaternion", 4, &frames, &part[1]);
  if (e == NULL) e = read_transposed(group, path, clip, "joints", (int)l->model->nq - 7, &frames, &part[2]);
  if (e == NULL) e = check_attributes(group, path, clip, frames, &dt);
  if (e == NULL) e = raw_allocate(l, frames, raw);
  if (e == NULL) e = take_columns(l, path, part, dt, raw, f);
  for (int k = 0; k < 3; ++k) free(part[k]);
  return e;
}

static struct error *import_mocap(struct motion_import *import, const char *path) {
  H5G_info_t info;
  TRY(motion_hdf5_begin());
  const hid_t file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
  if (file < 0 || H5Gget_info(file, &info) < 0) {
    if (file >= 0) H5Fclose(file);
    refuse(import, REFUSED("%s: a damaged HDF5 file", path));
    return NULL;
  }
  for (hsize_t i = 0; i < info.nlinks; ++i) {
    char name[256] = "";
    struct raw_clip raw = {0};
    struct findings f = {0};
    H5Lget_name_by_idx(file, ".", H5_INDEX_NAME, H5_ITER_INC, i, name, sizeof name, H5P_DEFAULT);
    name_of_file(name, raw.name);
    snprintf(raw.source, sizeof raw.source, "%s", strrchr(path, '/') ? strrchr(path, '/') + 1 : path);
    const hid_t group = H5Gopen2(file, name, H5P_DEFAULT);
    struct error *e = group < 0 ? REFUSED("%s: '%s' is not a group: it is not dm_control's mocap file", path, name)
                                : read_mocap_clip(import->library, path, group, &raw, &f);
    if (group >= 0) H5Gclose(group);
    if (e == NULL) e = add_clip(import, &raw, &f);
    raw_free(&raw);
    if (e != NULL) refuse(import, e);
  }
  H5Fclose(file);
  return NULL;
}

// --- Files and folders ---

static bool is_hdf5(const char *path) {
  static const char signature[] = "\211HDF\r\n\032\n";
  char head[8] = "";
  FILE *file = fopen(path, "rb");
  const bool whole = file != NULL && fread(head, 1, sizeof head, file) == sizeof head;
  if (file != NULL) fclose(file);
  return whole && memcmp(head, signature, sizeof head) == 0;
}

static bool is_motion_file(const char *name) {
  const char *dot = strrchr(name, '.');
  return dot != NULL && (strcmp(dot, ".txt") == 0 || strcmp(dot, ".json") == 0 || strcmp(dot, ".h5") == 0 ||
                         strcmp(dot, ".hdf5") == 0);
}

static int by_name(const FTSENT **a, const FTSENT **b) { return strcmp((*a)->fts_name, (*b)->fts_name); }

// Calls `use` for the path itself, if a file, or each motion file below it, in order of names; until it returns false.
static struct error *each_file(const char *path, bool (*use)(void *context, const char *file), void *context) {
  char *copy = strdup(path), *const paths[] = {copy, NULL};
  if (copy == NULL) return error_no_memory("a path");
  FTS *tree = fts_open(paths, FTS_LOGICAL | FTS_NOCHDIR, by_name);
  struct error *e = tree == NULL ? error_new(EXIT_CODE_FAILED, "%s: %s", path, strerror(errno)) : NULL;
  bool go_on = tree != NULL;
  for (FTSENT *entry; go_on && (entry = fts_read(tree)) != NULL;) {
    if (entry->fts_level == 0 &&
        (entry->fts_info == FTS_NS || entry->fts_info == FTS_ERR || entry->fts_info == FTS_DNR)) {
      e = error_new(EXIT_CODE_FAILED, "%s: %s", path, strerror(entry->fts_errno));
      break;
    }
    if (entry->fts_info == FTS_F && (entry->fts_level == 0 || is_motion_file(entry->fts_name)))
      go_on = use(context, entry->fts_path);
  }
  if (tree != NULL) fts_close(tree);
  free(copy);
  return e;
}

struct importing {
  struct motion_import *import;
  struct error *failed;
};

static bool import_file(void *context, const char *path) {
  struct importing *i = context;
  i->failed = is_hdf5(path) ? import_mocap(i->import, path) : import_json(i->import, path);
  return i->failed == NULL;
}

struct error *motion_import_path(struct motion_import *import, const char *path) {
  struct importing importing = {.import = import};
  TRY(each_file(path, import_file, &importing));
  return importing.failed;
}

static bool take_first(void *context, const char *path) {
  *(bool *)context = is_hdf5(path);
  return false;
}

const char *motion_import_body(const char *path) {
  bool mocap = false;
  error_free(each_file(path, take_first, &mocap));
  return mocap ? "cmu" : "deepmimic";
}

static int by_clip_name(const void *a, const void *b) {
  return strcmp(((const struct motion_clip *)a)->name, ((const struct motion_clip *)b)->name);
}

void motion_import_finish(struct motion_import *import) {
  struct motion_library *l = import->library;
  if (l->count > 1) qsort(l->clip, (size_t)l->count, sizeof *l->clip, by_clip_name);
}
