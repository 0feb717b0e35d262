// An OpenGL context without a window, by EGL. libEGL is loaded when the first one is made: nothing else of flowrank needs
// OpenGL, and neither building nor training asks for it.
#ifndef FLOWRANK_GL_CONTEXT_H
#define FLOWRANK_GL_CONTEXT_H

#include "common/error.h"

struct gl_context {
  void *display, *context; // null: none
};

// Makes a context on the first device that gives one, a GPU or Mesa's software, and makes it the calling thread's.
// Errors: no libEGL, or no device with OpenGL; says which Debian packages have them.
struct error *gl_context_init(struct gl_context *gl) MUST_USE;
void gl_context_free(struct gl_context *gl);

#endif
