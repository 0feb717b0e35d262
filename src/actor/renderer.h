// Frames of a model through MuJoCo's own renderer, off screen.
//   renderer_init, then for each frame renderer_scene, perhaps renderer_ghost, and renderer_draw; renderer_free.
// All calls from one thread, and one renderer at a time: OpenGL's context is the thread's.
#ifndef FLOWRANK_RENDERER_H
#define FLOWRANK_RENDERER_H

#include <mujoco/mujoco.h>
#include <stdint.h>

#include "actor/gl_context.h"
#include "common/error.h"

enum { RENDERER_LEAST_SIZE = 16, RENDERER_MOST_SIZE = 4096 }; // pixels

struct renderer {
  int width, height;
  uint8_t *rgb; // [height, width, 3], the top row first: the newest frame
  uint8_t *row; // [width, 3] scratch
  mjvCamera camera;
  mjvOption option;
  mjvScene scene;
  mjrContext context;
  struct gl_context gl;
};

// A camera by its name in the model or its number there, "track" (follows the first body that moves) or "free" (the
// model's default view). Null: the model's first camera, or "track" where it has none. Needs no OpenGL.
// Errors: no such camera; names the nearest, or all.
struct error *renderer_find_camera(const mjModel *model, const char *name, mjvCamera *camera) MUST_USE;

// width, height: even, in pixels. To be freed after an error as well.
// Errors: no OpenGL; a size that it cannot do; no memory.
struct error *renderer_init(struct renderer *r, const mjModel *model, const mjvCamera *camera, int width,
                            int height) MUST_USE;
void renderer_free(struct renderer *r);

// Begins a frame: the whole model in the pose of `data`, whose positions are computed (mj_forward or mj_kinematics with
// mj_camlight).
void renderer_scene(struct renderer *r, const mjModel *model, mjData *data);

// Adds what moves in `data`, translucent: a reference beside the body. alpha 0..1: opacity. `model` may be another one
// than the scene's if it has no meshes, textures or height fields.
void renderer_ghost(struct renderer *r, const mjModel *model, mjData *data, float alpha);

// Draws the scene into r->rgb, with a caption in the upper left corner: lines of `labels` and, beside them, of `values`
// (null: no caption).
void renderer_draw(struct renderer *r, const char *labels, const char *values);

#endif
