#include "actor/renderer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_GEOMS = 10000 }; // drawn at once

// Follows the first body that is not fixed to the world.
static void track(const mjModel *m, mjvCamera *camera) {
  int body = 1;
  while (body < m->nbody - 1 && m->body_weldid[body] == 0) ++body;
  camera->type = mjCAMERA_TRACKING;
  camera->trackbodyid = body;
}

static struct error *unknown_camera(const mjModel *m, const char *name) {
  char list[512] = "";
  const char *names[64] = {"track", "free"};
  int count = 2;
  for (int i = 0; i < m->ncam; ++i) {
    const char *other = mj_id2name(m, mjOBJ_CAMERA, i);
    const size_t used = strlen(list);
    if (other == NULL) continue;
    snprintf(list + used, sizeof list - used, "%s, ", other);
    if (count < (int)(sizeof names / sizeof *names)) names[count++] = other;
  }
  const char *near = nearest_word(name, count, names);
  if (near != NULL) return error_new(EXIT_CODE_USAGE, "camera '%.100s' is unknown; did you mean '%s'?", name, near);
  return error_new(EXIT_CODE_USAGE, "camera '%.100s' is unknown; the model's %d and two more: %strack, free", name,
                   (int)m->ncam, list);
}

struct error *renderer_find_camera(const mjModel *model, const char *name, mjvCamera *camera) {
  char *end;
  mjv_defaultFreeCamera(model, camera);
  if (name == NULL && model->ncam == 0) name = "track";
  if (name != NULL && strcmp(name, "free") == 0) return NULL;
  if (name != NULL && strcmp(name, "track") == 0) {
    track(model, camera);
    return NULL;
  }
  camera->type = mjCAMERA_FIXED;
  camera->fixedcamid = name == NULL ? 0 : mj_name2id(model, mjOBJ_CAMERA, name);
  if (camera->fixedcamid >= 0) return NULL;
  const long number = strtol(name, &end, 10);
  if (*name < '0' || *name > '9' || *end != '\0' || number >= model->ncam) return unknown_camera(model, name);
  camera->fixedcamid = (int)number;
  return NULL;
}

struct error *renderer_init(struct renderer *r, const mjModel *model, const mjvCamera *camera, int width, int height) {
  *r = (struct renderer){.width = width, .height = height, .camera = *camera};
  mjv_defaultOption(&r->option);
  mjv_defaultScene(&r->scene);
  mjr_defaultContext(&r->context);
  r->row = malloc((size_t)width * 3);
  r->rgb = malloc((size_t)width * (size_t)height * 3);
  if (r->rgb == NULL || r->row == NULL) return error_no_memory("a frame");
  TRY(gl_context_init(&r->gl));
  mjv_makeScene(model, &r->scene, MOST_GEOMS);
  mjr_makeContext(model, &r->context, height < 1000 ? mjFONTSCALE_100 : mjFONTSCALE_200);
  mjr_resizeOffscreen(width, height, &r->context);
  mjr_setBuffer(mjFB_OFFSCREEN, &r->context);
  const mjrRect most = mjr_maxViewport(&r->context);
  if (r->context.currentBuffer == mjFB_OFFSCREEN && most.width >= width && most.height >= height) return NULL;
  return error_new(EXIT_CODE_FAILED, "this OpenGL cannot draw frames of %dx%d", width, height);
}

void renderer_free(struct renderer *r) {
  if (r->gl.context != NULL) mjr_freeContext(&r->context);
  mjv_freeScene(&r->scene);
  gl_context_free(&r->gl);
  free(r->rgb);
  free(r->row);
  r->rgb = r->row = NULL;
}

void renderer_scene(struct renderer *r, const mjModel *model, mjData *data) {
  mjv_updateScene(model, data, &r->option, NULL, &r->camera, mjCAT_ALL, &r->scene);
}

void renderer_ghost(struct renderer *r, const mjModel *model, mjData *data, float alpha) {
  const int first = r->scene.ngeom;
  mjv_addGeoms(model, data, &r->option, NULL, mjCAT_DYNAMIC, &r->scene);
  for (int i = first; i < r->scene.ngeom; ++i) {
    r->scene.geoms[i].rgba[3] *= alpha;
    r->scene.geoms[i].transparent = 1;
    r->scene.geoms[i].category = mjCAT_DECOR; // without a shadow
  }
}

// OpenGL's first row is the lowest.
static void turn_over(struct renderer *r) {
  const size_t row = (size_t)r->width * 3;
  for (int i = 0; i < r->height / 2; ++i) {
    uint8_t *const upper = r->rgb + (size_t)i * row, *const lower = r->rgb + (size_t)(r->height - 1 - i) * row;
    memcpy(r->row, upper, row);
    memcpy(upper, lower, row);
    memcpy(lower, r->row, row);
  }
}

void renderer_draw(struct renderer *r, const char *labels, const char *values) {
  const mjrRect all = {0, 0, r->width, r->height};
  mjr_render(all, &r->scene, &r->context);
  if (labels != NULL) mjr_overlay(mjFONT_NORMAL, mjGRID_TOPLEFT, all, labels, values, &r->context);
  mjr_readPixels(r->rgb, NULL, all, &r->context);
  turn_over(r);
}
