// The few HDF5 calls that motion files need, on handles of their caller's. Private to motion_*.c.
#ifndef FLOWRANK_MOTION_HDF5_H
#define FLOWRANK_MOTION_HDF5_H

#include <hdf5.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

// Before any other call: faults are told by return values, and HDF5 prints nothing.
struct error *motion_hdf5_begin(void) MUST_USE;

// Attributes of an object. False: missing, of another kind, or no room. Texts are of fixed length in the file.
bool motion_hdf5_put_text(hid_t object, const char *name, const char *text);
bool motion_hdf5_put_real(hid_t object, const char *name, double value);
bool motion_hdf5_put_integer(hid_t object, const char *name, int64_t value);
bool motion_hdf5_get_text(hid_t object, const char *name, size_t size, char *text);
bool motion_hdf5_get_real(hid_t object, const char *name, double *value);
bool motion_hdf5_get_integer(hid_t object, const char *name, int64_t *value);

// A text as a dataset of its own, for what is too long for an attribute. get: null where there is none of at most
// `most` bytes; the caller frees it.
bool motion_hdf5_put_long_text(hid_t object, const char *name, const char *text);
char *motion_hdf5_get_long_text(hid_t object, const char *name, size_t most);

// Datasets of doubles. shape: its dimensions, returned is how many, 1 to 3; 0: there is no such dataset of numbers.
bool motion_hdf5_put_array(hid_t object, const char *name, int rank, const hsize_t *shape, const double *values);
int motion_hdf5_shape(hid_t object, const char *name, hsize_t shape[3]);
bool motion_hdf5_get_array(hid_t object, const char *name, double *values);

#endif
