#include "actor/motion_hdf5.h"

#include <stdlib.h>
#include <string.h>

// HDF5's own check of header against library ends the process; motion_hdf5_begin makes it instead, and returns.
#undef H5CHECK
#define H5CHECK

struct error *motion_hdf5_begin(void) {
  unsigned major, minor, release;
  H5dont_atexit();
  if (H5get_libversion(&major, &minor, &release) < 0 || major != H5_VERS_MAJOR || minor != H5_VERS_MINOR)
    return error_new(EXIT_CODE_FAILED, "flowrank was built with HDF5 %d.%d; the library found at run time is another",
                     H5_VERS_MAJOR, H5_VERS_MINOR);
  if (H5open() < 0) return error_no_memory("HDF5");
  H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
  return NULL;
}

static hid_t text_type(size_t length) {
  const hid_t type = H5Tcopy(H5T_C_S1);
  H5Tset_size(type, length > 0 ? length : 1);
  H5Tset_strpad(type, H5T_STR_NULLPAD);
  H5Tset_cset(type, H5T_CSET_UTF8);
  return type;
}

// --- Attributes ---

static bool put_attribute(hid_t object, const char *name, hid_t type, const void *value) {
  const hid_t space = H5Screate(H5S_SCALAR);
  const hid_t attribute = H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
  bool good = attribute >= 0 && H5Awrite(attribute, type, value) >= 0;
  if (attribute >= 0) good = H5Aclose(attribute) >= 0 && good;
  H5Sclose(space);
  return good;
}

bool motion_hdf5_put_text(hid_t object, const char *name, const char *text) {
  const hid_t type = text_type(strlen(text));
  const bool good = put_attribute(object, name, type, text);
  H5Tclose(type);
  return good;
}

bool motion_hdf5_put_real(hid_t object, const char *name, double value) {
  return put_attribute(object, name, H5T_NATIVE_DOUBLE, &value);
}

bool motion_hdf5_put_integer(hid_t object, const char *name, int64_t value) {
  return put_attribute(object, name, H5T_NATIVE_INT64, &value);
}

// One value of a class of types. type: as in memory.
static bool get_attribute(hid_t object, const char *name, bool is_text, hid_t type, size_t most, void *value) {
  if (H5Aexists(object, name) <= 0) return false;
  const hid_t attribute = H5Aopen(object, name, H5P_DEFAULT);
  if (attribute < 0) return false;
  const hid_t space = H5Aget_space(attribute), stored = H5Aget_type(attribute);
  const H5T_class_t class = H5Tget_class(stored);
  bool good = H5Sget_simple_extent_npoints(space) == 1;
  if (is_text) good = good && class == H5T_STRING && H5Tis_variable_str(stored) == 0 && H5Tget_size(stored) < most;
  else good = good && (class == H5T_INTEGER || class == H5T_FLOAT);
  good = good && H5Aread(attribute, is_text ? stored : type, value) >= 0;
  H5Tclose(stored);
  H5Sclose(space);
  H5Aclose(attribute);
  return good;
}

bool motion_hdf5_get_text(hid_t object, const char *name, size_t size, char *text) {
  memset(text, 0, size);
  return get_attribute(object, name, true, H5I_INVALID_HID, size, text);
}

bool motion_hdf5_get_real(hid_t object, const char *name, double *value) {
  return get_attribute(object, name, false, H5T_NATIVE_DOUBLE, 0, value);
}

bool motion_hdf5_get_integer(hid_t object, const char *name, int64_t *value) {
  return get_attribute(object, name, false, H5T_NATIVE_INT64, 0, value);
}

// --- Datasets ---

static bool put_dataset(hid_t object, const char *name, hid_t type, hid_t space, const void *values) {
  const hid_t set = H5Dcreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
  bool good = set >= 0 && H5Dwrite(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) >= 0;
  if (set >= 0) good = H5Dclose(set) >= 0 && good;
  H5Sclose(space);
  return good;
}

bool motion_hdf5_put_long_text(hid_t object, const char *name, const char *text) {
  const hid_t type = text_type(strlen(text));
  const bool good = put_dataset(object, name, type, H5Screate(H5S_SCALAR), text);
  H5Tclose(type);
  return good;
}

bool motion_hdf5_put_array(hid_t object, const char *name, int rank, const hsize_t *shape, const double *values) {
  return put_dataset(object, name, H5T_NATIVE_DOUBLE, H5Screate_simple(rank, shape, NULL), values);
}

static hid_t open_dataset(hid_t object, const char *name) {
  if (H5Lexists(object, name, H5P_DEFAULT) <= 0) return H5I_INVALID_HID;
  return H5Dopen2(object, name, H5P_DEFAULT);
}

char *motion_hdf5_get_long_text(hid_t object, const char *name, size_t most) {
  const hid_t set = open_dataset(object, name);
  if (set < 0) return NULL;
  const hid_t type = H5Dget_type(set), space = H5Dget_space(set);
  const size_t length = H5Tget_size(type);
  char *text = NULL;
  if (H5Tget_class(type) == H5T_STRING && H5Tis_variable_str(type) == 0 && length <= most &&
      H5Sget_simple_extent_npoints(space) == 1)
    text = calloc(1, length + 1);
  if (text != NULL && H5Dread(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, text) < 0) {
    free(text);
    text = NULL;
  }
  H5Sclose(space);
  H5Tclose(type);
  H5Dclose(set);
  return text;
}

int motion_hdf5_shape(hid_t object, const char *name, hsize_t shape[3]) {
  const hid_t set = open_dataset(object, name);
  if (set < 0) return 0;
  const hid_t type = H5Dget_type(set), space = H5Dget_space(set);
  const H5T_class_t class = H5Tget_class(type);
  int rank = H5Sget_simple_extent_ndims(space);
  if (rank < 1 || rank > 3 || (class != H5T_FLOAT && class != H5T_INTEGER)) rank = 0;
  if (rank > 0) H5Sget_simple_extent_dims(space, shape, NULL);
  H5Sclose(space);
  H5Tclose(type);
  H5Dclose(set);
  return rank;
}

bool motion_hdf5_get_array(hid_t object, const char *name, double *values) {
  const hid_t set = open_dataset(object, name);
  if (set < 0) return false;
  const bool good = H5Dread(set, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) >= 0;
  H5Dclose(set);
  return good;
}
