#include "actor/motion_library.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <xxhash.h>

#include "actor/motion_hdf5.h"

enum { FORMAT_VERSION = 1, MAX_CLIPS = 100000, MAX_FRAMES = 10000000, MAX_XML_BYTES = 1 << 24 };
static const char FORMAT[] = "flowrank motion library";

bool motion_is_name(const char *text) {
  const size_t length = strlen(text);
  return length > 0 && length < MOTION_NAME_SIZE &&
         strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-") == length;
}

// --- Clips in memory ---

// The arrays of a clip: dataset, its columns, its place.
enum { CLIP_ARRAYS = 5 };
struct clip_array {
  const char *name;
  hsize_t shape[2]; // behind the frames; the second 0: there is none
  double **values;
};

static void clip_arrays(const struct motion_library *l, struct motion_clip *c, struct clip_array out[CLIP_ARRAYS]) {
  const hsize_t bodies = (hsize_t)motion_bodies(l);
  out[0] = (struct clip_array){"qpos", {(hsize_t)l->model->nq, 0}, &c->qpos};
  out[1] = (struct clip_array){"qvel", {(hsize_t)l->model->nv, 0}, &c->qvel};
  out[2] = (struct clip_array){"body_position", {bodies, 3}, &c->pose.position};
  out[3] = (struct clip_array){"body_rotation", {bodies, 4}, &c->pose.rotation};
  out[4] = (struct clip_array){"body_velocity", {bodies, 6}, &c->pose.velocity};
}

static size_t columns(const struct clip_array *a) { return a->shape[0] * (a->shape[1] ? a->shape[1] : 1); }

struct error *motion_clip_allocate(const struct motion_library *l, int frames, struct motion_clip *c) {
  struct clip_array arrays[CLIP_ARRAYS];
  clip_arrays(l, c, arrays);
  c->frames = frames;
  for (int i = 0; i < CLIP_ARRAYS; ++i) {
    *arrays[i].values = calloc((size_t)frames * columns(&arrays[i]), sizeof(double));
    if (*arrays[i].values == NULL) return error_no_memory("a motion clip");
  }
  return NULL;
}

void motion_clip_free(struct motion_clip *c) {
  free(c->qpos);
  free(c->qvel);
  free(c->pose.position);
  free(c->pose.rotation);
  free(c->pose.velocity);
  *c = (struct motion_clip){0};
}

void motion_library_free(struct motion_library *l) {
  for (int i = 0; i < l->count; ++i) motion_clip_free(&l->clip[i]);
  free(l->clip);
  free(l->model_xml);
  mj_deleteModel(l->model);
  *l = (struct motion_library){0};
}

struct error *motion_library_model(const char *path, char *xml, struct motion_library *l) {
  char reason[512] = "";
  l->model_xml = xml;
  l->model_hash = XXH3_64bits(xml, strlen(xml));
  mjSpec *spec = mj_parseXMLString(xml, NULL, reason, sizeof reason);
  if (spec != NULL) l->model = mj_compile(spec, NULL);
  if (spec != NULL && l->model == NULL) snprintf(reason, sizeof reason, "%s", mjs_getError(spec));
  if (spec != NULL) snprintf(l->model_name, sizeof l->model_name, "%s", mjs_getString(spec->modelname));
  if (spec != NULL) mj_deleteSpec(spec);
  if (l->model != NULL) return NULL;
  return error_new(EXIT_CODE_FAILED, "%s: not a model: %.*s", path, (int)strcspn(reason, "\r\n"), reason);
}

// --- Poses ---

void motion_pose_of(const mjModel *m, const mjData *d, int frame, struct motion_pose *pose) {
  const size_t bodies = (size_t)m->nbody - 1, first = (size_t)frame * bodies;
  for (size_t j = 0; j < bodies; ++j) {
    const size_t body = j + 1;
    const mjtNum *com = d->subtree_com + 3 * (size_t)m->body_rootid[body], *cvel = d->cvel + 6 * body;
    double *velocity = pose->velocity + 6 * (first + j), arm[3], turned[3];
    mju_copy3(pose->position + 3 * (first + j), d->xpos + 3 * body);
    mju_copy4(pose->rotation + 4 * (first + j), d->xquat + 4 * body);
    mju_sub3(arm, d->xpos + 3 * body, com); // cvel is (angular, linear) at the tree's centre of mass
    mju_cross(turned, cvel, arm);
    mju_add3(velocity, cvel + 3, turned);
    mju_copy3(velocity + 3, cvel);
  }
}

void motion_forward(const mjModel *m, mjData *d, const double *qpos, const double *qvel, int frame,
                    struct motion_pose *pose) {
  mju_copy(d->qpos, qpos, (int)m->nq);
  mju_copy(d->qvel, qvel, (int)m->nv);
  mj_kinematics(m, d);
  mj_comPos(m, d);
  mj_comVel(m, d);
  motion_pose_of(m, d, frame, pose);
}

// The frame at or before `seconds`, and how far the next one is reached, 0 to 1.
static int frame_at(const struct motion_clip *c, double seconds, double *towards_next) {
  const double at = fmin(fmax(seconds * c->fps, 0), c->frames - 1);
  int frame = (int)at;
  if (frame > c->frames - 2 && frame > 0) frame = c->frames - 2;
  *towards_next = at - frame;
  return frame;
}

static double between(double a, double b, double towards_b) { return a + towards_b * (b - a); }

// Spherical interpolation along the shorter arc. out, a, b [4]
static void between_rotations(const double *a, const double *b, double towards_b, double *out) {
  double turn[3], part[4], angle;
  mjtNum inverse[4], difference[4];
  mju_negQuat(inverse, a);
  mju_mulQuat(difference, inverse, b);
  mju_quat2Vel(turn, difference, 1);
  angle = mju_normalize3(turn);
  mju_axisAngle2Quat(part, turn, towards_b * angle);
  mju_mulQuat(out, a, part);
}

void motion_sample(const struct motion_library *l, const struct motion_clip *c, double seconds,
                   struct motion_pose *out) {
  double towards;
  const size_t bodies = (size_t)motion_bodies(l), first = (size_t)frame_at(c, seconds, &towards) * bodies;
  const size_t step = c->frames > 1 ? bodies : 0;
  for (size_t i = 0; i < 3 * bodies; ++i)
    out->position[i] = between(c->pose.position[3 * first + i], c->pose.position[3 * (first + step) + i], towards);
  for (size_t i = 0; i < 6 * bodies; ++i)
    out->velocity[i] = between(c->pose.velocity[6 * first + i], c->pose.velocity[6 * (first + step) + i], towards);
  for (size_t j = 0; j < bodies; ++j)
    between_rotations(c->pose.rotation + 4 * (first + j), c->pose.rotation + 4 * (first + step + j), towards,
                      out->rotation + 4 * j);
}

void motion_sample_state(const mjModel *m, const struct motion_clip *c, double seconds, double *qpos, double *qvel) {
  double towards;
  const size_t nq = (size_t)m->nq, nv = (size_t)m->nv, first = (size_t)frame_at(c, seconds, &towards);
  const size_t next = c->frames > 1 ? first + 1 : first;
  mj_differentiatePos(m, qvel, 1, c->qpos + first * nq, c->qpos + next * nq); // scratch
  mju_copy(qpos, c->qpos + first * nq, (int)m->nq);
  mj_integratePos(m, qpos, qvel, towards);
  for (size_t i = 0; i < nv; ++i) qvel[i] = between(c->qvel[first * nv + i], c->qvel[next * nv + i], towards);
}

// --- Writing ---

static bool write_clip(hid_t clips, const struct motion_library *l, const struct motion_clip *clip) {
  struct motion_clip c = *clip;
  struct clip_array arrays[CLIP_ARRAYS];
  clip_arrays(l, &c, arrays);
  const hid_t group = H5Gcreate2(clips, c.name, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
  bool good = group >= 0 && motion_hdf5_put_real(group, "fps", c.fps) &&
              motion_hdf5_put_real(group, "height_offset", c.height_offset) &&
              motion_hdf5_put_integer(group, "looped", c.looped) && motion_hdf5_put_text(group, "source", c.source);
  for (int i = 0; good && i < CLIP_ARRAYS; ++i) {
    const hsize_t shape[3] = {(hsize_t)c.frames, arrays[i].shape[0], arrays[i].shape[1]};
    good = motion_hdf5_put_array(group, arrays[i].name, shape[2] > 0 ? 3 : 2, shape, *arrays[i].values);
  }
  if (group >= 0) H5Gclose(group);
  return good;
}

static bool write_all(hid_t file, const struct motion_library *l) {
  char hash[17];
  snprintf(hash, sizeof hash, "%016" PRIx64, l->model_hash);
  bool good = motion_hdf5_put_text(file, "format", FORMAT) &&
              motion_hdf5_put_integer(file, "version", FORMAT_VERSION) &&
              motion_hdf5_put_text(file, "model", l->model_name) && motion_hdf5_put_text(file, "model_hash", hash) &&
              motion_hdf5_put_long_text(file, "model_xml", l->model_xml);
  const hid_t clips = good ? H5Gcreate2(file, "clips", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT) : H5I_INVALID_HID;
  good = clips >= 0;
  for (int i = 0; good && i < l->count; ++i) good = write_clip(clips, l, &l->clip[i]);
  if (clips >= 0) H5Gclose(clips);
  return good;
}

struct error *motion_library_write(const char *path, const struct motion_library *l) {
  char partial[4096];
  const int length = snprintf(partial, sizeof partial, "%s.partial", path);
  if (length < 0 || (size_t)length >= sizeof partial)
    return error_new(EXIT_CODE_USAGE, "the library's name is too long: %.200s..", path);
  TRY(motion_hdf5_begin());
  errno = 0;
  const hid_t file = H5Fcreate(partial, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
  bool good = file >= 0 && write_all(file, l);
  if (file >= 0) good = H5Fclose(file) >= 0 && good;
  if (good && rename(partial, path) == 0) return NULL;
  struct error *e =
      error_new(EXIT_CODE_FAILED, "%s: cannot write it%s%s", path, errno ? ": " : "", errno ? strerror(errno) : "");
  if (file >= 0) unlink(partial);
  return e;
}

// --- Reading ---

static struct error *wrong(const char *path, const char *clip, const char *what) {
  return error_new(EXIT_CODE_FAILED, "%s: clip '%s': %s", path, clip, what);
}

static bool all_finite(size_t count, const double *values) {
  for (size_t i = 0; i < count; ++i)
    if (!isfinite(values[i])) return false;
  return true;
}

static bool all_unit(size_t count, const double *rotations) {
  const double most = 1e-6;
  for (size_t i = 0; i < count; ++i)
    if (!(fabs(mju_norm(rotations + 4 * i, 4) - 1) <= most)) return false;
  return true;
}

static struct error *read_arrays(hid_t group, const char *path, const struct motion_library *l, struct motion_clip *c) {
  hsize_t shape[3];
  struct clip_array arrays[CLIP_ARRAYS];
  if (motion_hdf5_shape(group, "qpos", shape) != 2 || shape[0] < 1 || shape[0] > MAX_FRAMES)
    return wrong(path, c->name, "it has no frames (dataset qpos)");
  TRY(motion_clip_allocate(l, (int)shape[0], c));
  clip_arrays(l, c, arrays);
  for (int i = 0; i < CLIP_ARRAYS; ++i) {
    const struct clip_array *a = &arrays[i];
    const int rank = a->shape[1] > 0 ? 3 : 2;
    char text[128];
    snprintf(text, sizeof text, "dataset %s does not fit the model and the other datasets", a->name);
    if (motion_hdf5_shape(group, a->name, shape) != rank || shape[0] != (hsize_t)c->frames || shape[1] != a->shape[0] ||
        (rank == 3 && shape[2] != a->shape[1]) || !motion_hdf5_get_array(group, a->name, *a->values))
      return wrong(path, c->name, text);
    snprintf(text, sizeof text, "dataset %s has a number that is not finite", a->name);
    if (!all_finite((size_t)c->frames * columns(a), *a->values)) return wrong(path, c->name, text);
  }
  if (!all_unit((size_t)c->frames * (size_t)motion_bodies(l), c->pose.rotation))
    return wrong(path, c->name, "dataset body_rotation has a quaternion that is not of length 1");
  return NULL;
}

static struct error *read_clip(hid_t clips, const char *path, const struct motion_library *l, struct motion_clip *c) {
  const double most = 1e4;
  int64_t looped;
  const hid_t group = H5Gopen2(clips, c->name, H5P_DEFAULT);
  if (group < 0) return wrong(path, c->name, "not a group");
  struct error *e = NULL;
  if (!motion_hdf5_get_real(group, "fps", &c->fps) || !(c->fps > 0 && c->fps < most))
    e = wrong(path, c->name, "attribute fps is missing, or no rate");
  else if (!motion_hdf5_get_real(group, "height_offset", &c->height_offset) ||
           !motion_hdf5_get_integer(group, "looped", &looped) ||
           !motion_hdf5_get_text(group, "source", sizeof c->source, c->source))
    e = wrong(path, c->name, "an attribute is missing");
  else {
    c->looped = looped != 0;
    e = read_arrays(group, path, l, c);
  }
  H5Gclose(group);
  return e;
}

// Whether `name` is one of the words of "a+b+c"; null: every name is.
static bool is_chosen(const char *clips, const char *name) {
  if (clips == NULL) return true;
  const size_t length = strlen(name);
  for (const char *at = clips; *at != '\0'; at += strcspn(at, "+"), at += *at == '+')
    if (strcspn(at, "+") == length && strncmp(at, name, length) == 0) return true;
  return false;
}

static struct error *read_clips(hid_t clips, const char *path, const char *chosen, struct motion_library *l) {
  char name[MOTION_NAME_SIZE];
  H5G_info_t info;
  if (H5Gget_info(clips, &info) < 0 || info.nlinks > MAX_CLIPS)
    return error_new(EXIT_CODE_FAILED, "%s: cannot list its clips", path);
  l->clip = calloc(info.nlinks + 1, sizeof *l->clip);
  if (l->clip == NULL) return error_no_memory("motion clips");
  for (hsize_t i = 0; i < info.nlinks; ++i) {
    const ssize_t length =
        H5Lget_name_by_idx(clips, ".", H5_INDEX_NAME, H5_ITER_INC, i, name, sizeof name, H5P_DEFAULT);
    if (length < 0 || (size_t)length >= sizeof name || !motion_is_name(name))
      return error_new(EXIT_CODE_FAILED, "%s: a clip has no proper name", path);
    if (!is_chosen(chosen, name)) continue;
    struct motion_clip *c = &l->clip[l->count++];
    memcpy(c->name, name, sizeof name);
    TRY(read_clip(clips, path, l, c));
  }
  return l->count > 0 || chosen != NULL ? NULL : error_new(EXIT_CODE_FAILED, "%s: it has no clips", path);
}

// Every word of `chosen` must have been found.
static struct error *check_chosen(const char *path, const char *chosen, const struct motion_library *l) {
  for (const char *at = chosen; at != NULL && *at != '\0'; at += strcspn(at, "+"), at += *at == '+') {
    const int length = (int)strcspn(at, "+");
    bool found = false;
    for (int i = 0; i < l->count; ++i)
      found = found || ((int)strlen(l->clip[i].name) == length && strncmp(at, l->clip[i].name, (size_t)length) == 0);
    if (!found)
      return error_new(EXIT_CODE_USAGE, "%s: it has no clip '%.*s'; `flowrank motion list %s` names them", path, length,
                       at, path);
  }
  return NULL;
}

static struct error *read_model(hid_t file, const char *path, struct motion_library *l) {
  char format[64], stored[32], hash[17];
  int64_t version;
  if (!motion_hdf5_get_text(file, "format", sizeof format, format) || strcmp(format, FORMAT) != 0)
    return error_new(EXIT_CODE_FAILED, "%s: an HDF5 file, but not a motion library; `flowrank motion import` makes one",
                     path);
  if (!motion_hdf5_get_integer(file, "version", &version) || version != FORMAT_VERSION)
    return error_new(EXIT_CODE_FAILED, "%s: written in another version of the format than %d, which is read here", path,
                     FORMAT_VERSION);
  char *xml = motion_hdf5_get_long_text(file, "model_xml", MAX_XML_BYTES);
  if (xml == NULL) return error_new(EXIT_CODE_FAILED, "%s: its model is missing", path);
  TRY(motion_library_model(path, xml, l));
  snprintf(hash, sizeof hash, "%016" PRIx64, l->model_hash);
  if (motion_hdf5_get_text(file, "model_hash", sizeof stored, stored) && strcmp(hash, stored) == 0) return NULL;
  return error_new(EXIT_CODE_FAILED, "%s: its model (hash %s) is not the one that its clips were made for", path, hash);
}

struct error *motion_library_read(const char *path, const char *clips, struct motion_library *l) {
  *l = (struct motion_library){0};
  if (access(path, R_OK) != 0) return error_new(EXIT_CODE_FAILED, "%s: %s", path, strerror(errno));
  TRY(motion_hdf5_begin());
  const hid_t file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
  if (file < 0) return error_new(EXIT_CODE_FAILED, "%s: not an HDF5 file, or a damaged one", path);
  struct error *e = read_model(file, path, l);
  if (e == NULL) {
    const hid_t group = H5Gopen2(file, "clips", H5P_DEFAULT);
    e = group < 0 ? error_new(EXIT_CODE_FAILED, "%s: it has no clips", path) : read_clips(group, path, clips, l);
    if (group >= 0) H5Gclose(group);
  }
  H5Fclose(file);
  if (e == NULL) e = check_chosen(path, clips, l);
  if (e != NULL) motion_library_free(l);
  return e;
}
