#include "golden_file.h"

#include <hdf5.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#ifndef FLOWRANK_GOLDEN_DEFAULT
#define FLOWRANK_GOLDEN_DEFAULT "tests/golden"
#endif

void golden_open(struct golden *g, const char *name) {
  const char *folder = getenv("FLOWRANK_GOLDEN");
  if (folder == NULL || *folder == '\0') folder = FLOWRANK_GOLDEN_DEFAULT;
  const int length = snprintf(g->path, sizeof g->path, "%s/%s", folder, name);
  if (length < 0 || (size_t)length >= sizeof g->path) fail_msg("the golden folder's name is too long: %s", folder);
  H5Eset_auto2(H5E_DEFAULT, NULL, NULL); // our own message is enough
  g->file = H5Fopen(g->path, H5F_ACC_RDONLY, H5P_DEFAULT);
  if (g->file < 0) fail_msg("%s: cannot be opened as HDF5 (set FLOWRANK_GOLDEN to the golden folder)", g->path);
}

void golden_close(struct golden *g) {
  if (g->file > 0) H5Fclose(g->file);
  g->file = -1;
}

int golden_has(const struct golden *g, const char *path) {
  char part[1024];
  const size_t length = strlen(path);
  if (length >= sizeof part) fail_msg("%s: too long a name: %s", g->path, path);
  // H5Lexists wants every group on the way to exist.
  for (size_t i = 1; i <= length; ++i) {
    if (path[i] != '/' && path[i] != '\0') continue;
    memcpy(part, path, i);
    part[i] = '\0';
    if (H5Lexists(g->file, part, H5P_DEFAULT) <= 0) return 0;
  }
  return 1;
}

double golden_attribute(const struct golden *g, const char *object, const char *name) {
  double value = 0;
  const hid_t id = H5Aopen_by_name(g->file, object, name, H5P_DEFAULT, H5P_DEFAULT);
  if (id < 0) fail_msg("%s: no attribute %s at %s", g->path, name, object);
  const hid_t space = H5Aget_space(id);
  const hssize_t points = H5Sget_simple_extent_npoints(space);
  const herr_t status = points == 1 ? H5Aread(id, H5T_NATIVE_DOUBLE, &value) : -1;
  H5Sclose(space);
  H5Aclose(id);
  if (status < 0) fail_msg("%s: attribute %s at %s is not one number", g->path, name, object);
  return value;
}

struct golden_array golden_read(const struct golden *g, const char *path) {
  struct golden_array a = {.count = 1};
  hsize_t dim[GOLDEN_MAX_RANK] = {0};
  const hid_t id = golden_has(g, path) ? H5Dopen2(g->file, path, H5P_DEFAULT) : -1;
  if (id < 0) fail_msg("%s: no dataset %s", g->path, path);
  const hid_t space = H5Dget_space(id);
  a.rank = H5Sget_simple_extent_ndims(space);
  herr_t status = a.rank >= 0 && a.rank <= GOLDEN_MAX_RANK ? 0 : -1;
  if (status >= 0) {
    H5Sget_simple_extent_dims(space, dim, NULL);
    for (int i = 0; i < a.rank; ++i) a.count *= a.dim[i] = (size_t)dim[i];
    a.data = calloc(a.count ? a.count : 1, sizeof *a.data);
    if (a.data != NULL && a.count > 0) status = H5Dread(id, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, a.data);
  }
  H5Sclose(space);
  H5Dclose(id);
  if (status < 0 || a.data == NULL) {
    free(a.data);
    fail_msg("%s: dataset %s cannot be read as numbers", g->path, path);
  }
  return a;
}

void golden_array_free(struct golden_array *a) {
  free(a->data);
  *a = (struct golden_array){0};
}

int golden_member(const struct golden *g, const char *group, size_t number, char name[GOLDEN_NAME_SIZE]) {
  H5G_info_t info;
  if (!golden_has(g, group) || H5Gget_info_by_name(g->file, group, &info, H5P_DEFAULT) < 0)
    fail_msg("%s: no group %s", g->path, group);
  if (number >= info.nlinks) return 0;
  const ssize_t length = H5Lget_name_by_idx(g->file, group, H5_INDEX_NAME, H5_ITER_INC, (hsize_t)number, name,
                                            GOLDEN_NAME_SIZE, H5P_DEFAULT);
  if (length < 0 || length >= GOLDEN_NAME_SIZE) fail_msg("%s: a member of %s has no readable name", g->path, group);
  return 1;
}
