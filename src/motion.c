#include "motion.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "actor/motion_import.h"
#include "actor/renderer.h"
#include "actor/task.h"
#include "actor/video.h"
#include "common/metrics.h"
#include "common/text.h"
#include "render.h"

// --- import ---

static void tell(void *out, const struct motion_clip *c, const char *text) {
  if (c == NULL) {
    metrics_warn(NULL, text);
    return;
  }
  fprintf(out, "%-28s %5d frames %7.2f s %7.2f fps  %+.3f m%s%s\n", c->name, c->frames, motion_duration(c), c->fps,
          c->height_offset, text[0] != '\0' ? "  " : "", text);
}

static struct error *read_text(const char *path, char **text) {
  enum { MOST = 1 << 24 };
  FILE *file = fopen(path, "rb");
  if (file == NULL) return error_new(EXIT_CODE_FAILED, "%s: %s", path, strerror(errno));
  *text = calloc(1, MOST);
  const size_t length = *text != NULL ? fread(*text, 1, MOST - 1, file) : 0;
  const bool failed = ferror(file) != 0;
  fclose(file);
  if (*text != NULL && !failed && length < MOST - 1 && strlen(*text) == length) return NULL;
  free(*text);
  *text = NULL;
  return error_new(EXIT_CODE_FAILED, "%s: cannot be read as a model", path);
}

// A file of the folder that tools/setup.sh fills.
static struct error *in_deps(const char *name, size_t size, char *path) {
  const char *folder = getenv("FLOWRANK_HUMANOID");
  if (folder == NULL || *folder == '\0') folder = FLOWRANK_DEFAULT_HUMANOID;
  const int length = snprintf(path, size, "%s/%s", folder, name);
  if (length < 0 || (size_t)length >= size) return error_new(EXIT_CODE_USAGE, "FLOWRANK_HUMANOID is too long");
  if (access(path, R_OK) == 0) return NULL;
  return error_new(EXIT_CODE_FAILED,
                   "%s is missing: run tools/setup.sh, or set FLOWRANK_HUMANOID to the folder with it", path);
}

static struct error *import_all(const struct motion_import_options *o, struct motion_import *import) {
  char folder[4096], model[4096], name[64], *xml;
  TRY(task_check_mujoco());
  if (o->source_count == 0) TRY(in_deps("motions", sizeof folder, folder));
  const char *first = o->source_count > 0 ? o->sources[0] : folder;
  snprintf(name, sizeof name, "%s.xml", motion_import_body(first));
  if (o->model == NULL) TRY(in_deps(name, sizeof model, model));
  const char *body = o->model != NULL ? o->model : model;
  TRY(read_text(body, &xml));
  TRY(motion_library_model(body, xml, import->library));
  if (o->source_count == 0) TRY(motion_import_path(import, folder));
  for (int i = 0; i < o->source_count; ++i) TRY(motion_import_path(import, o->sources[i]));
  if (import->library->count == 0)
    return error_new(EXIT_CODE_FAILED, "no clip was imported: %d refused, and nothing else found", import->refused);
  motion_import_finish(import);
  return motion_library_write(o->out, import->library);
}

struct error *motion_import(const struct motion_import_options *o, FILE *out) {
  struct motion_library library = {0};
  struct motion_import import = {.library = &library, .fps = o->fps, .tell = tell, .context = out};
  struct error *e = import_all(o, &import);
  if (e == NULL)
    fprintf(out, "%s: %d clips for %s, %d refused\n", o->out, library.count, library.model_name, import.refused);
  motion_library_free(&library);
  return e;
}

// --- list ---

// Largest speed of a body, m/s, and height of the root, m.
struct extent {
  double speed, turning, low, high, distance;
};

static struct extent extent_of(const struct motion_library *l, const struct motion_clip *c) {
  const size_t bodies = (size_t)motion_bodies(l);
  struct extent x = {.low = INFINITY, .high = -INFINITY};
  for (size_t i = 0; i < (size_t)c->frames; ++i) {
    const double *root = c->pose.position + 3 * i * bodies;
    x.low = fmin(x.low, root[2]);
    x.high = fmax(x.high, root[2]);
    for (size_t j = 0; j < bodies; ++j) {
      x.speed = fmax(x.speed, mju_norm3(c->pose.velocity + 6 * (i * bodies + j)));
      x.turning = fmax(x.turning, mju_norm3(c->pose.velocity + 6 * (i * bodies + j) + 3));
    }
  }
  const double *first = c->pose.position, *last = first + 3 * (size_t)(c->frames - 1) * bodies;
  x.distance = hypot(last[0] - first[0], last[1] - first[1]);
  return x;
}

static void print_clip_json(const struct motion_clip *c, const struct extent *x, FILE *out) {
  fputs("{\"name\": ", out);
  text_print_json(c->name, out);
  fputs(", \"source\": ", out);
  text_print_json(c->source, out);
  fprintf(out,
          ", \"frames\": %d, \"fps\": %.6g, \"seconds\": %.6g, \"looped\": %s, \"height_offset\": %.6g, "
          "\"root_height\": [%.6g, %.6g], \"distance\": %.6g, \"max_speed\": %.6g, \"max_turning\": %.6g",
          c->frames, c->fps, motion_duration(c), c->looped ? "true" : "false", c->height_offset, x->low, x->high,
          x->distance, x->speed, x->turning);
}

static void list_clips(const struct motion_library *l, bool json, FILE *out) {
  double seconds = 0;
  if (json)
    fprintf(out, "{\"model\": \"%s\", \"hash\": \"%016" PRIx64 "\", \"bodies\": %d, \"clips\": [", l->model_name,
            l->model_hash, motion_bodies(l));
  else
    fprintf(out, "%-28s %7s %8s %7s %14s %7s %7s %8s\n", "clip", "frames", "seconds", "fps", "root height m", "way m",
            "m/s", "rad/s");
  for (int i = 0; i < l->count; ++i) {
    const struct motion_clip *c = &l->clip[i];
    const struct extent x = extent_of(l, c);
    seconds += motion_duration(c);
    if (json) {
      fputs(i > 0 ? ",\n " : "", out);
      print_clip_json(c, &x, out);
      fputc('}', out);
    } else
      fprintf(out, "%-28s %7d %8.2f %7.2f %6.2f .. %4.2f %7.2f %7.1f %8.1f%s\n", c->name, c->frames, motion_duration(c),
              c->fps, x.low, x.high, x.distance, x.speed, x.turning, c->looped ? "  looped" : "");
  }
  if (json) fputs("]}\n", out);
  else
    fprintf(out, "%d clips, %.1f s, for %s (%d bodies, %d axes; model %016" PRIx64 ")\n", l->count, seconds,
            l->model_name, motion_bodies(l), (int)l->model->nu, l->model_hash);
}

struct error *motion_list(const char *path, bool json, FILE *out) {
  struct motion_library l;
  TRY(task_check_mujoco());
  TRY(motion_library_read(path, NULL, &l));
  list_clips(&l, json, out);
  motion_library_free(&l);
  return NULL;
}

// --- show ---

// What a joint moves through: its angle, for a ball the length of its rotation vector.
static void joint_extent(const mjModel *m, const struct motion_clip *c, int joint, double *low, double *high) {
  *low = INFINITY, *high = -INFINITY;
  for (size_t i = 0; i < (size_t)c->frames; ++i) {
    const double *q = c->qpos + i * (size_t)m->nq + m->jnt_qposadr[joint];
    double turn[3], angle = *q;
    if (m->jnt_type[joint] == mjJNT_BALL) {
      mju_quat2Vel(turn, q, 1);
      angle = mju_norm3(turn);
    }
    *low = fmin(*low, angle);
    *high = fmax(*high, angle);
  }
}

static void show_joints(const mjModel *m, const struct motion_clip *c, bool json, FILE *out) {
  fputs(json ? ", \"joints\": [" : "joint            kind    moves through rad     range rad\n", out);
  for (int j = 1; j < m->njnt; ++j) {
    double low, high;
    const char *kind = m->jnt_type[j] == mjJNT_BALL ? "ball" : "hinge", *name = mj_id2name(m, mjOBJ_JOINT, j);
    const mjtNum *range = m->jnt_range + 2 * (ptrdiff_t)j;
    joint_extent(m, c, j, &low, &high);
    if (json)
      fprintf(out, "%s{\"name\": \"%s\", \"kind\": \"%s\", \"moves\": [%.6g, %.6g], \"range\": [%.6g, %.6g]}",
              j > 1 ? ", " : "", name, kind, low, high, range[0], range[1]);
    else
      fprintf(out, "%-16s %-6s %7.2f .. %6.2f %7.2f .. %6.2f%s\n", name, kind, low, high, range[0], range[1],
              high > range[1] || low < range[0] ? "  outside" : "");
  }
  if (json) fputs("]}\n", out);
}

// The first clip must be the one that was asked for.
static struct error *check_only_clip(const struct motion_library *l, const char *path, const char *name) {
  if (l->count == 1) return NULL;
  return error_new(EXIT_CODE_USAGE, "%s %s %d clips: name one; `flowrank motion list %s` lists them", path,
                   name == NULL ? "has" : "is asked for", l->count, path);
}

static struct error *show_clip(const struct motion_library *l, const char *path, const char *name, bool json,
                               FILE *out) {
  TRY(check_only_clip(l, path, name));
  const struct motion_clip *c = &l->clip[0];
  const struct extent x = extent_of(l, c);
  if (json) print_clip_json(c, &x, out);
  else
    fprintf(
        out,
        "%s, from %s\n%d frames at %.2f fps, %.2f s%s; moved up by %.3f m\nroot %.2f to %.2f m high, %.2f m of way; "
        "fastest body %.1f m/s, %.1f rad/s\n",
        c->name, c->source, c->frames, c->fps, motion_duration(c), c->looped ? ", looped" : "", c->height_offset, x.low,
        x.high, x.distance, x.speed, x.turning);
  show_joints(l->model, c, json, out);
  return NULL;
}

struct error *motion_show(const char *path, const char *clip, bool json, FILE *out) {
  struct motion_library l;
  TRY(task_check_mujoco());
  TRY(motion_library_read(path, clip, &l));
  struct error *e = show_clip(&l, path, clip, json, out);
  motion_library_free(&l);
  return e;
}

// --- play ---

static struct error *draw_frames(const struct motion_library *l, const struct motion_play_options *o, mjData *d,
                                 struct renderer *r, struct video *v, FILE *out) {
  const struct motion_clip *c = &l->clip[0];
  const int frames = (int)(motion_duration(c) * (double)o->fps) + 1;
  char time[512];
  for (int i = 0; i < frames; ++i) {
    const double seconds = (double)i / (double)o->fps;
    motion_sample_state(l->model, c, seconds, d->qpos, d->qvel);
    mj_kinematics(l->model, d);
    mj_comPos(l->model, d); // cameras look at the centre of mass
    mj_camlight(l->model, d);
    renderer_scene(r, l->model, d);
    snprintf(time, sizeof time, "%s\n%.2f s", c->name, seconds);
    renderer_draw(r, "clip\ntime", time);
    TRY(video_add(v, r->rgb));
  }
  TRY(video_close(v));
  fprintf(out, "%s: %d frames of %dx%d\n", o->output, frames, r->width, r->height);
  return NULL;
}

static struct error *film(const struct motion_library *l, const struct motion_play_options *o, enum video_kind kind,
                          FILE *out) {
  mjvCamera camera;
  struct renderer r = {0};
  struct video v = {0};
  TRY(renderer_find_camera(l->model, o->camera, &camera));
  const struct video_format format = {kind, (int)o->width, (int)o->height, (int)o->fps, 1, 1};
  TRY(video_open(&v, o->output, &format));
  mjData *d = mj_makeData(l->model);
  struct error *e = d != NULL ? renderer_init(&r, l->model, &camera, (int)o->width, (int)o->height)
                              : error_no_memory("a motion clip");
  if (e == NULL) e = draw_frames(l, o, d, &r, &v, out);
  renderer_free(&r);
  video_discard(&v);
  mj_deleteData(d);
  return e;
}

struct error *motion_play(const struct motion_play_options *o, FILE *out) {
  struct motion_library l;
  enum video_kind kind;
  if (o->output == NULL) return error_new(EXIT_CODE_USAGE, "motion play needs -o FILE, ending in .mp4 or .gif");
  TRY(video_kind_of(o->output, &kind));
  if (kind == VIDEO_PNG) return error_new(EXIT_CODE_USAGE, "%s: motion play draws .mp4 and .gif", o->output);
  TRY(render_check_frames(o->width, o->height, o->fps));
  TRY(task_check_mujoco());
  TRY(motion_library_read(o->library, o->clip, &l));
  struct error *e = check_only_clip(&l, o->library, o->clip);
  if (e == NULL) e = film(&l, o, kind, out);
  motion_library_free(&l);
  return e;
}
