#include "actor/gl_context.h"

#include <dlfcn.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

// Of EGL 1.5 and EGL_EXT_platform_device (Khronos registry); declared here so that building needs no headers of EGL.
enum {
  EGL_RED_SIZE = 0x3024,
  EGL_NONE = 0x3038,
  EGL_RENDERABLE_TYPE = 0x3040,
  EGL_SURFACE_TYPE = 0x3033,
  EGL_OPENGL_BIT = 8,
  EGL_PBUFFER_BIT = 1,
  EGL_OPENGL_API = 0x30A2,
  EGL_PLATFORM_DEVICE_EXT = 0x313F,
  MOST_DEVICES = 32
};

struct egl {
  void *(*get_proc_address)(const char *name);
  unsigned (*query_devices)(int32_t most, void **devices, int32_t *count);
  void *(*get_platform_display)(unsigned platform, void *native, const int32_t *attributes);
  unsigned (*initialize)(void *display, int32_t *major, int32_t *minor);
  unsigned (*choose_config)(void *display, const int32_t *attributes, void **configs, int32_t size, int32_t *count);
  unsigned (*bind_api)(unsigned api);
  void *(*create_context)(void *display, void *config, void *share, const int32_t *attributes);
  unsigned (*make_current)(void *display, void *draw, void *read, void *context);
  unsigned (*destroy_context)(void *display, void *context);
  unsigned (*terminate)(void *display);
};

#define PACKAGES "install EGL with its software driver (Debian packages libegl1, libgl1-mesa-dri)"

// ISO C has no cast from an object's pointer to a function's; POSIX promises that they are alike.
static bool take(void *function, void *symbol) {
  memcpy(function, &symbol, sizeof symbol);
  return symbol != NULL;
}

// The library stays loaded: drivers leave threads behind.
static struct error *load(struct egl *egl) {
  void *library = dlopen("libEGL.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library == NULL) return error_new(EXIT_CODE_FAILED, "rendering needs OpenGL: %s; " PACKAGES, dlerror());
  if (take(&egl->get_proc_address, dlsym(library, "eglGetProcAddress")) &&
      take(&egl->query_devices, egl->get_proc_address("eglQueryDevicesEXT")) &&
      take(&egl->get_platform_display, egl->get_proc_address("eglGetPlatformDisplayEXT")) &&
      take(&egl->initialize, dlsym(library, "eglInitialize")) &&
      take(&egl->choose_config, dlsym(library, "eglChooseConfig")) &&
      take(&egl->bind_api, dlsym(library, "eglBindAPI")) &&
      take(&egl->create_context, dlsym(library, "eglCreateContext")) &&
      take(&egl->make_current, dlsym(library, "eglMakeCurrent")) &&
      take(&egl->destroy_context, dlsym(library, "eglDestroyContext")) &&
      take(&egl->terminate, dlsym(library, "eglTerminate")))
    return NULL;
  return error_new(EXIT_CODE_FAILED, "rendering needs OpenGL: libEGL.so.1 has no platform of devices; " PACKAGES);
}

// A current context on `device`; false where there is none to be had, as on a GPU that belongs to others.
static bool open_device(const struct egl *egl, void *device, struct gl_context *gl) {
  static const int32_t WANTED[] = {
      EGL_SURFACE_TYPE, EGL_PBUFFER_BIT, EGL_RENDERABLE_TYPE, EGL_OPENGL_BIT, EGL_RED_SIZE, 8, EGL_NONE};
  int32_t major, minor, count = 0;
  void *config;
  gl->display = egl->get_platform_display(EGL_PLATFORM_DEVICE_EXT, device, NULL);
  if (gl->display == NULL || !egl->initialize(gl->display, &major, &minor)) return false;
  if (egl->choose_config(gl->display, WANTED, &config, 1, &count) && count > 0 && egl->bind_api(EGL_OPENGL_API))
    gl->context = egl->create_context(gl->display, config, NULL, NULL);
  if (gl->context != NULL && egl->make_current(gl->display, NULL, NULL, gl->context)) return true;
  if (gl->context != NULL) egl->destroy_context(gl->display, gl->context);
  egl->terminate(gl->display);
  return false;
}

struct error *gl_context_init(struct gl_context *gl) {
  struct egl egl;
  void *devices[MOST_DEVICES];
  int32_t count = 0;
  *gl = (struct gl_context){0};
  TRY(load(&egl));
  if (!egl.query_devices(MOST_DEVICES, devices, &count)) count = 0;
  for (int32_t i = 0; i < count; ++i) {
    if (open_device(&egl, devices[i], gl)) return NULL;
    *gl = (struct gl_context){0};
  }
  return error_new(EXIT_CODE_FAILED, "rendering needs OpenGL, and none of EGL's %d devices has it; " PACKAGES, count);
}

void gl_context_free(struct gl_context *gl) {
  struct egl egl;
  if (gl->display == NULL) return;
  struct error *e = load(&egl); // the functions again, of the library that is loaded
  if (e == NULL) {
    egl.make_current(gl->display, NULL, NULL, NULL);
    egl.destroy_context(gl->display, gl->context);
    egl.terminate(gl->display);
  }
  error_free(e);
  *gl = (struct gl_context){0};
}
