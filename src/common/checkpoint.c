// What is in a checkpoint file, and its way into HDF5 and out again. HDF5 writes, and only ever into memory; the files are
// checkpoint_file.c's, so that every fault of the file system has its name. What is read goes through checkpoint_hdf5.c
// instead: a checksum does not keep anybody from making a file to harm us, and HDF5 trusts what it finds.
#include "common/checkpoint.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <hdf5.h>

#include "common/checkpoint_file.h"
#include "common/checkpoint_hdf5.h"
#include "version.h"

// HDF5's own check of header against library ends the process; hdf5_begin makes it instead, and returns.
#undef H5CHECK
#define H5CHECK

enum { MAX_TENSORS = 4096, MAX_PATH_IN_FILE = TENSOR_NAME_MAX + 32, TYPE_BYTES = 512 };

_Static_assert(sizeof(size_t) == 8, "offsets are stored as 64 bits");

// --- What is stored: the same tables serve writing and reading ---

static const struct counter {
  const char *name;
  size_t at;
} counters[] = {
    // int64 attributes of the root group
    {"iteration", offsetof(struct checkpoint, iteration)}, {"env_steps", offsetof(struct checkpoint, env_steps)},
    {"episodes", offsetof(struct checkpoint, episodes)},   {"adam_step", offsetof(struct checkpoint, adam_step)},
    {"envs", offsetof(struct checkpoint, envs)},           {"state_size", offsetof(struct checkpoint, state_size)},
};

static const struct array {
  const char *group;
  size_t at;
} arrays[] = {
    // flat float arrays, one dataset a tensor
    {"/parameters", offsetof(struct checkpoint, parameters)},
    {"/adam/m", offsetof(struct checkpoint, adam_m)},
    {"/adam/v", offsetof(struct checkpoint, adam_v)},
    {"/acting/parameters", offsetof(struct checkpoint, acting)}, // only with `ahead`
};

enum { COUNTERS = sizeof counters / sizeof counters[0], ARRAYS = sizeof arrays / sizeof arrays[0] };

static size_t array_count(const struct checkpoint *c) { return ARRAYS - (c->ahead ? 0 : 1); }

static int64_t counter_of(const struct checkpoint *c, const struct counter *field) {
  int64_t value;
  memcpy(&value, (const char *)c + field->at, sizeof value);
  return value;
}

static float **array_of(struct checkpoint *c, const struct array *field) {
  return (float **)(void *)((char *)c + field->at);
}

static const float *array_in(const struct checkpoint *c, const struct array *field) {
  const float *values;
  memcpy(&values, (const char *)c + field->at, sizeof values);
  return values;
}

void checkpoint_free(struct checkpoint *c) {
  free(c->config_text);
  free(c->metrics_text);
  free(c->tensors);
  free(c->parameters);
  free(c->adam_m);
  free(c->adam_v);
  free(c->normalizer_mean);
  free(c->normalizer_m2);
  free(c->acting);
  free(c->acting_mean);
  free(c->acting_m2);
  free(c->env_state);
  memset(c, 0, sizeof *c);
}

// --- Sizes that hold together; checked before anything is written or, while loading, allocated ---

// Components of letters, digits and "_-." with single slashes between them; none begins with a dot.
static bool is_tensor_name(const char *name) {
  if (memchr(name, '\0', TENSOR_NAME_MAX) == NULL) return false;
  for (bool begins = true;; ++name) {
    if (*name == '/' || *name == '\0') {
      if (begins) return false; // an empty component
      if (*name == '\0') return true;
      begins = true;
      continue;
    }
    bool letter = (*name >= 'a' && *name <= 'z') || (*name >= 'A' && *name <= 'Z');
    bool digit = *name >= '0' && *name <= '9';
    if (!letter && !digit && *name != '_' && *name != '-' && (*name != '.' || begins)) return false;
    begins = false;
  }
}

// Takes count·size bytes from what is left of a file.
static bool take(size_t count, size_t size, size_t *left) {
  if (size != 0 && count > *left / size) return false;
  *left -= count * size;
  return true;
}

static struct error *check_tensors(const struct checkpoint *c, size_t limit, size_t *parameters) {
  const struct tensor_name *const tensors = c->tensors;
  size_t end = 0, left = limit;
  for (int i = 0; i < c->tensor_count; ++i) {
    const struct tensor_name *t = &tensors[i];
    if (!is_tensor_name(t->name))
      return error_new(EXIT_CODE_FAILED, "tensor %d has no proper name: '%.*s'", i, TENSOR_NAME_MAX, t->name);
    for (int j = 0; j < i; ++j)
      if (strcmp(tensors[j].name, t->name) == 0)
        return error_new(EXIT_CODE_FAILED, "tensors %d and %d are both named %s", j, i, t->name);
    if (t->rows < 1 || t->cols < 0)
      return error_new(EXIT_CODE_FAILED, "tensor %s has the shape [%d, %d]", t->name, t->rows, t->cols);
    if (t->offset != end)
      return error_new(EXIT_CODE_FAILED, "tensor %s begins at float %zu; those before it end at %zu", t->name,
                       t->offset, end);
    const size_t size = (size_t)t->rows * (size_t)(t->cols ? t->cols : 1);
    if (!take(size, array_count(c) * sizeof(float), &left))
      return error_new(EXIT_CODE_FAILED, "tensor %s [%d, %d] is larger than the file", t->name, t->rows, t->cols);
    end += size;
  }
  *parameters = end;
  return NULL;
}

// limit: bytes that all arrays together may take. *parameters: what the tensors add up to.
static struct error *check_sizes(const struct checkpoint *c, size_t limit, size_t *parameters) {
  for (size_t i = 0; i < COUNTERS; ++i)
    if (counter_of(c, &counters[i]) < 0)
      return error_new(EXIT_CODE_FAILED, "%s is %" PRId64 ", which is less than 0", counters[i].name,
                       counter_of(c, &counters[i]));
  if (c->iteration > CHECKPOINT_MAX_ITERATION)
    return error_new(EXIT_CODE_FAILED, "iteration is %" PRId64 ", more than %" PRId64, c->iteration,
                     CHECKPOINT_MAX_ITERATION);
  if (c->obs_dim < 0) return error_new(EXIT_CODE_FAILED, "obs_dim is %d, which is less than 0", c->obs_dim);
  if (c->tensor_count < 1 || c->tensor_count > MAX_TENSORS)
    return error_new(EXIT_CODE_FAILED, "there are %d tensors, not 1 to %d", c->tensor_count, MAX_TENSORS);
  TRY(check_tensors(c, limit, parameters));

  size_t left = limit - *parameters * array_count(c) * sizeof(float), states = left;
  if (!take((size_t)c->obs_dim, (c->ahead ? 4 : 2) * sizeof(double), &left))
    return error_new(EXIT_CODE_FAILED, "obs_dim %d is larger than the file", c->obs_dim);
  // envs·state_size·8 without a product that could overflow
  if (c->state_size != 0) states = left / sizeof(double) / (size_t)c->state_size;
  if ((size_t)c->envs > states)
    return error_new(EXIT_CODE_FAILED, "env_state [%" PRId64 ", %" PRId64 "] is larger than the file", c->envs,
                     c->state_size);
  return NULL;
}

// --- HDF5: types, and where its errors go ---

// The name of every in-memory file; no file on disk can have it.
static const char nowhere[] = "/dev/null/flowrank-checkpoint";

// The application's way of printing HDF5's errors, put back by hdf5_end.
struct hdf5_session {
  H5E_auto2_t print;
  void *context;
};

static struct error *hdf5_begin(struct hdf5_session *s) {
  unsigned major, minor, release;
  H5dont_atexit(); // every file is closed here; nothing is left that could go wrong at exit
  if (H5get_libversion(&major, &minor, &release) < 0 || major != H5_VERS_MAJOR || minor != H5_VERS_MINOR)
    return error_new(EXIT_CODE_FAILED, "flowrank was built with HDF5 %d.%d; the library found at run time is another",
                     H5_VERS_MAJOR, H5_VERS_MINOR);
  if (H5open() < 0) return error_no_memory("HDF5");
  H5Eget_auto2(H5E_DEFAULT, &s->print, &s->context);
  H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
  return NULL;
}

static void hdf5_end(const struct hdf5_session *s) {
  H5Eclear2(H5E_DEFAULT);
  H5Eset_auto2(H5E_DEFAULT, s->print, s->context);
}

void checkpoint_library_version(char *text, size_t size) {
  unsigned major = 0, minor = 0, release = 0;
  H5get_libversion(&major, &minor, &release);
  snprintf(text, size, "%u.%u.%u", major, minor, release);
}

static hid_t text_type(size_t length, H5T_str_t padding) {
  const hid_t type = H5Tcopy(H5T_C_S1);
  if (type < 0) return type;
  if (H5Tset_size(type, length) >= 0 && H5Tset_strpad(type, padding) >= 0 && H5Tset_cset(type, H5T_CSET_UTF8) >= 0)
    return type;
  H5Tclose(type);
  return -1;
}

// A row of /tensors: struct tensor_name, little-endian in the file.
static hid_t tensor_row_type(bool in_file) {
  _Static_assert(sizeof(struct tensor_name) == TENSOR_NAME_MAX + 16, "the row has no padding");
  const hid_t row = H5Tcreate(H5T_COMPOUND, sizeof(struct tensor_name));
  const hid_t name = text_type(TENSOR_NAME_MAX, H5T_STR_NULLTERM);
  const hid_t offset = in_file ? H5T_STD_U64LE : H5T_NATIVE_UINT64, size = in_file ? H5T_STD_I32LE : H5T_NATIVE_INT32;
  const bool good = row >= 0 && name >= 0 && H5Tinsert(row, "name", HOFFSET(struct tensor_name, name), name) >= 0 &&
                    H5Tinsert(row, "offset", HOFFSET(struct tensor_name, offset), offset) >= 0 &&
                    H5Tinsert(row, "rows", HOFFSET(struct tensor_name, rows), size) >= 0 &&
                    H5Tinsert(row, "cols", HOFFSET(struct tensor_name, cols), size) >= 0;
  if (name >= 0) H5Tclose(name);
  if (good) return row;
  if (row >= 0) H5Tclose(row);
  return -1;
}

// The shape and path of tensor t's dataset in `group`. Returns the number of dimensions.
static int tensor_dataset(const struct tensor_name *t, const char *group, char path[MAX_PATH_IN_FILE],
                          hsize_t dims[2]) {
  snprintf(path, MAX_PATH_IN_FILE, "%s/%s", group, t->name);
  dims[0] = (hsize_t)t->rows;
  dims[1] = (hsize_t)t->cols;
  return t->cols ? 2 : 1;
}

// --- HDF5: writing ---

struct writer {
  hid_t file;
  hid_t dataset_list, group_list; // creation properties: no times, so that equal content makes equal bytes
};

static struct error *write_failed(const char *what) {
  return error_new(EXIT_CODE_FAILED, "HDF5 could not put %s into the checkpoint (out of memory?)", what);
}

// Creates the groups on the way to `path`.
static bool make_groups(const struct writer *w, const char *path) {
  char part[MAX_PATH_IN_FILE];
  for (const char *end = strchr(path + 1, '/'); end != NULL; end = strchr(end + 1, '/')) {
    snprintf(part, sizeof part, "%.*s", (int)(end - path), path);
    if (H5Lexists(w->file, part, H5P_DEFAULT) > 0) continue;
    const hid_t group = H5Gcreate2(w->file, part, H5P_DEFAULT, w->group_list, H5P_DEFAULT);
    if (group < 0) return false;
    H5Gclose(group);
  }
  return true;
}

// rank 0: a scalar.
static struct error *write_dataset(const struct writer *w, const char *path, hid_t file_type, hid_t memory_type,
                                   int rank, const hsize_t *dims, const void *data) {
  const hid_t space = rank == 0 ? H5Screate(H5S_SCALAR) : H5Screate_simple(rank, dims, NULL);
  hid_t set = -1;
  if (space >= 0 && file_type >= 0 && memory_type >= 0 && make_groups(w, path))
    set = H5Dcreate2(w->file, path, file_type, space, H5P_DEFAULT, w->dataset_list, H5P_DEFAULT);
  bool good = set >= 0 && H5Dwrite(set, memory_type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) >= 0;
  if (set >= 0) good = H5Dclose(set) >= 0 && good;
  if (space >= 0) H5Sclose(space);
  return good ? NULL : write_failed(path);
}

static struct error *write_text(const struct writer *w, const char *path, const char *text) {
  if (text == NULL) text = "";
  const size_t length = strlen(text);
  const hid_t type = text_type(length ? length : 1, H5T_STR_NULLPAD); // HDF5 has no string of length 0
  struct error *e = write_dataset(w, path, type, type, 0, NULL, text);
  if (type >= 0) H5Tclose(type);
  return e;
}

static struct error *write_attribute(const struct writer *w, const char *name, hid_t file_type, hid_t memory_type,
                                     const void *value) {
  const hid_t space = H5Screate(H5S_SCALAR);
  hid_t attribute = -1;
  if (space >= 0 && file_type >= 0) attribute = H5Acreate2(w->file, name, file_type, space, H5P_DEFAULT, H5P_DEFAULT);
  bool good = attribute >= 0 && H5Awrite(attribute, memory_type, value) >= 0;
  if (attribute >= 0) good = H5Aclose(attribute) >= 0 && good;
  if (space >= 0) H5Sclose(space);
  return good ? NULL : write_failed(name);
}

static struct error *write_integer(const struct writer *w, const char *name, int64_t value) {
  return write_attribute(w, name, H5T_STD_I64LE, H5T_NATIVE_INT64, &value);
}

static struct error *write_real(const struct writer *w, const char *name, double value) {
  return write_attribute(w, name, H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, &value);
}

static struct error *write_name(const struct writer *w, const char *name, const char *value) {
  const size_t length = strlen(value);
  const hid_t type = text_type(length ? length : 1, H5T_STR_NULLPAD);
  struct error *e = write_attribute(w, name, type, type, value);
  if (type >= 0) H5Tclose(type);
  return e;
}

static struct error *write_attributes(const struct writer *w, const struct checkpoint *c) {
  TRY(write_integer(w, "format_version", CHECKPOINT_FORMAT_VERSION));
  TRY(write_name(w, "flowrank_version", FLOWRANK_VERSION));
  TRY(write_name(w, "task_name", c->task_name));
  for (size_t i = 0; i < COUNTERS; ++i) TRY(write_integer(w, counters[i].name, counter_of(c, &counters[i])));
  TRY(write_integer(w, "obs_dim", c->obs_dim));
  TRY(write_real(w, "wall_seconds", c->wall_seconds));
  return write_real(w, "best_return", c->best_return);
}

static struct error *write_tensor_table(const struct writer *w, const struct checkpoint *c) {
  const hsize_t rows = (hsize_t)c->tensor_count;
  // A copy: what is behind the end of a name must not reach the file.
  struct tensor_name *table = calloc(rows, sizeof *table);
  if (table == NULL) return error_no_memory("the tensor table");
  for (int i = 0; i < c->tensor_count; ++i) {
    const struct tensor_name *t = &c->tensors[i];
    table[i] = (struct tensor_name){.offset = t->offset, .rows = t->rows, .cols = t->cols};
    memcpy(table[i].name, t->name, strlen(t->name));
  }
  const hid_t file_type = tensor_row_type(true), memory_type = tensor_row_type(false);
  struct error *e = write_dataset(w, "/tensors", file_type, memory_type, 1, &rows, table);
  if (file_type >= 0) H5Tclose(file_type);
  if (memory_type >= 0) H5Tclose(memory_type);
  free(table);
  return e;
}

static struct error *write_doubles(const struct writer *w, const char *path, int rank, const hsize_t *dims,
                                   const double *data) {
  return write_dataset(w, path, H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, rank, dims, data);
}

static struct error *write_normalizer(const struct writer *w, const struct checkpoint *c) {
  const hsize_t obs[] = {(hsize_t)c->obs_dim};
  TRY(write_doubles(w, "/normalizer/count", 0, NULL, &c->normalizer_count));
  TRY(write_doubles(w, "/normalizer/mean", 1, obs, c->normalizer_mean));
  TRY(write_doubles(w, "/normalizer/m2", 1, obs, c->normalizer_m2));
  if (!c->ahead) return NULL;
  TRY(write_doubles(w, "/acting/normalizer/count", 0, NULL, &c->acting_count));
  TRY(write_doubles(w, "/acting/normalizer/mean", 1, obs, c->acting_mean));
  return write_doubles(w, "/acting/normalizer/m2", 1, obs, c->acting_m2);
}

static struct error *write_content(const struct writer *w, const struct checkpoint *c) {
  const hsize_t states[] = {(hsize_t)c->envs, (hsize_t)c->state_size};
  TRY(write_attributes(w, c));
  TRY(write_text(w, "/config", c->config_text));
  TRY(write_text(w, "/metrics", c->metrics_text));
  TRY(write_tensor_table(w, c));
  for (size_t a = 0; a < array_count(c); ++a)
    for (int i = 0; i < c->tensor_count; ++i) {
      char path[MAX_PATH_IN_FILE];
      hsize_t dims[2];
      const int rank = tensor_dataset(&c->tensors[i], arrays[a].group, path, dims);
      const float *values = array_in(c, &arrays[a]) + c->tensors[i].offset;
      TRY(write_dataset(w, path, H5T_IEEE_F32LE, H5T_NATIVE_FLOAT, rank, dims, values));
    }
  TRY(write_normalizer(w, c));
  return write_doubles(w, "/env_state", 2, states, c->env_state);
}

// The earliest format: any HDF5 reads it, and H5Fget_file_image spoils the superblock's own checksum of later ones (it
// clears a flag behind the checksum's back; HDF5 1.10.8).
static struct error *open_writer(struct writer *w) {
  const size_t growth = (size_t)4 << 20;
  const hid_t access = H5Pcreate(H5P_FILE_ACCESS), creation = H5Pcreate(H5P_FILE_CREATE);
  w->dataset_list = H5Pcreate(H5P_DATASET_CREATE);
  w->group_list = H5Pcreate(H5P_GROUP_CREATE);
  const bool good = access >= 0 && creation >= 0 && w->dataset_list >= 0 && w->group_list >= 0 &&
                    H5Pset_fapl_core(access, growth, false) >= 0 &&
                    H5Pset_libver_bounds(access, H5F_LIBVER_EARLIEST, H5F_LIBVER_V18) >= 0 &&
                    H5Pset_userblock(creation, CHECKPOINT_BLOCK_BYTES) >= 0 &&
                    H5Pset_obj_track_times(creation, false) >= 0 && H5Pset_obj_track_times(w->group_list, false) >= 0 &&
                    H5Pset_obj_track_times(w->dataset_list, false) >= 0 &&
                    H5Pset_alloc_time(w->dataset_list, H5D_ALLOC_TIME_EARLY) >= 0 &&
                    H5Pset_fill_time(w->dataset_list, H5D_FILL_TIME_NEVER) >= 0;
  if (good) w->file = H5Fcreate(nowhere, H5F_ACC_TRUNC, creation, access);
  if (access >= 0) H5Pclose(access);
  if (creation >= 0) H5Pclose(creation);
  return w->file >= 0 ? NULL : write_failed("its first byte");
}

static void close_writer(const struct writer *w) {
  if (w->file >= 0) H5Fclose(w->file);
  if (w->dataset_list >= 0) H5Pclose(w->dataset_list);
  if (w->group_list >= 0) H5Pclose(w->group_list);
}

// The bytes of the HDF5 file behind a user block that is still to be filled.
static struct error *take_image(const struct writer *w, struct checkpoint_image *image) {
  if (H5Fflush(w->file, H5F_SCOPE_GLOBAL) < 0) return write_failed("its content");
  const ssize_t size = H5Fget_file_image(w->file, NULL, 0); // without the user block
  if (size <= 0) return write_failed("its content");
  image->size = CHECKPOINT_BLOCK_BYTES + (size_t)size;
  image->bytes = malloc(image->size);
  if (image->bytes == NULL) return error_no_memory("the checkpoint's file");
  unsigned char *hdf5 = image->bytes + CHECKPOINT_BLOCK_BYTES;
  if (H5Fget_file_image(w->file, hdf5, (size_t)size) != size || memcmp(hdf5, "\211HDF\r\n\032\n", 8) != 0)
    return write_failed("its content");
  return NULL;
}

static struct error *build_image(const struct checkpoint *c, struct checkpoint_image *image) {
  struct writer w = {-1, -1, -1};
  struct hdf5_session session = {NULL, NULL};
  TRY(hdf5_begin(&session));
  struct error *e = open_writer(&w);
  if (e == NULL) e = write_content(&w, c);
  if (e == NULL) e = take_image(&w, image);
  close_writer(&w);
  hdf5_end(&session);
  if (e == NULL) checkpoint_image_seal(image);
  return e;
}

// --- Reading, without the library. Everything is checked as if somebody had made the file to harm us ---

static struct error *must_be(const char *what, const char *kind) {
  return error_new(EXIT_CODE_FAILED, "%s is not %s", what, kind);
}

// Whether a value is stored as the writer's type. H5Tencode puts two bytes of its own before what a file holds.
static bool same_type(const struct hdf5_value *value, hid_t type) {
  unsigned char encoded[TYPE_BYTES];
  size_t size = 0;
  return type >= 0 && H5Tencode(type, NULL, &size) >= 0 && size > 2 && size <= sizeof encoded &&
         H5Tencode(type, encoded, &size) >= 0 && value->type_size >= size - 2 &&
         memcmp(value->type, encoded + 2, size - 2) == 0;
}

// Length of a fixed-size string type, 0 for any other.
static size_t text_length(const struct hdf5_value *value) {
  enum { STRING_CLASS = 3 };
  return (value->type[0] & 0xf) == STRING_CLASS ? value->element_size : 0;
}

static struct error *find_attribute(struct hdf5_image *file, const char *name, struct hdf5_value *value) {
  TRY(hdf5_attribute(file, name, value));
  return value->rank == 0 ? NULL : must_be(name, "a single value");
}

// out: 8 bytes, as all numbers of the root group have.
static struct error *read_number(struct hdf5_image *file, const char *name, hid_t type, void *out) {
  struct hdf5_value value;
  TRY(find_attribute(file, name, &value));
  if (!same_type(&value, type)) return must_be(name, "a number of the expected type");
  if (value.data_size < sizeof(int64_t)) return must_be(name, "stored in full");
  memcpy(out, value.data, sizeof(int64_t));
  return NULL;
}

static struct error *read_integer(struct hdf5_image *file, const char *name, int64_t *out) {
  return read_number(file, name, H5T_STD_I64LE, out);
}

static struct error *read_real(struct hdf5_image *file, const char *name, double *out) {
  return read_number(file, name, H5T_IEEE_F64LE, out);
}

static struct error *read_name(struct hdf5_image *file, const char *name, size_t capacity, char *out) {
  struct hdf5_value value;
  TRY(find_attribute(file, name, &value));
  const size_t length = text_length(&value);
  if (length == 0 || length >= capacity) return must_be(name, "a short text");
  if (value.data_size < length) return must_be(name, "stored in full");
  memset(out, 0, capacity);
  memcpy(out, value.data, length);
  return NULL;
}

static struct error *check_shape(const struct hdf5_value *value, const char *path, int rank, const hsize_t *wanted) {
  if (value->rank != rank) return error_new(EXIT_CODE_FAILED, "%s does not have %d dimensions", path, rank);
  for (int i = 0; i < rank; ++i)
    if (value->dims[i] != wanted[i])
      return error_new(EXIT_CODE_FAILED, "%s has %" PRIu64 " in dimension %d where the rest of the file says %llu",
                       path, value->dims[i], i, (unsigned long long)wanted[i]);
  return NULL;
}

// `out` has room for the product of dims, which has been held against the file's size.
static struct error *read_dataset(struct hdf5_image *file, const char *path, hid_t type, int rank, const hsize_t *dims,
                                  void *out) {
  struct hdf5_value value;
  TRY(hdf5_dataset(file, path, &value));
  if (!same_type(&value, type)) return must_be(path, "of the expected type");
  TRY(check_shape(&value, path, rank, dims));
  uint64_t bytes = value.element_size;
  for (int i = 0; i < rank; ++i) bytes *= dims[i];
  if (value.data_size != bytes) return must_be(path, "stored in full");
  if (bytes > 0) memcpy(out, value.data, bytes);
  return NULL;
}

static struct error *read_text(struct hdf5_image *file, const char *path, char **text) {
  struct hdf5_value value;
  TRY(hdf5_dataset(file, path, &value));
  const size_t length = text_length(&value);
  if (length == 0 || length > file->size) return must_be(path, "a text");
  TRY(check_shape(&value, path, 0, NULL));
  if (value.data_size != length) return must_be(path, "stored in full");
  *text = calloc(length + 1, 1);
  if (*text == NULL) return error_no_memory(path);
  memcpy(*text, value.data, length);
  return NULL;
}

static struct error *read_doubles(struct hdf5_image *file, const char *path, int rank, const hsize_t *dims,
                                  double *out) {
  return read_dataset(file, path, H5T_IEEE_F64LE, rank, dims, out);
}

static struct error *read_attributes(struct hdf5_image *file, struct checkpoint *c) {
  int64_t version, obs_dim;
  TRY(read_integer(file, "format_version", &version));
  if (version != CHECKPOINT_FORMAT_VERSION)
    return error_new(EXIT_CODE_FAILED, "format_version is %" PRId64 " but its header says %d", version,
                     CHECKPOINT_FORMAT_VERSION);
  TRY(read_name(file, "task_name", sizeof c->task_name, c->task_name));
  for (size_t i = 0; i < COUNTERS; ++i) {
    int64_t value;
    TRY(read_integer(file, counters[i].name, &value));
    memcpy((char *)c + counters[i].at, &value, sizeof value);
  }
  TRY(read_integer(file, "obs_dim", &obs_dim));
  if (obs_dim < 0 || obs_dim > INT_MAX) return must_be("obs_dim", "a number of observations");
  c->obs_dim = (int)obs_dim;
  TRY(read_real(file, "wall_seconds", &c->wall_seconds));
  return read_real(file, "best_return", &c->best_return);
}

static struct error *read_tensor_table(struct hdf5_image *file, struct checkpoint *c) {
  struct hdf5_value value;
  TRY(hdf5_dataset(file, "/tensors", &value));
  const hsize_t rows = value.dims[0];
  if (value.rank != 1 || rows < 1 || rows > MAX_TENSORS)
    return error_new(EXIT_CODE_FAILED, "/tensors is not a table of 1 to %d rows", MAX_TENSORS);
  c->tensor_count = (int)rows;
  c->tensors = calloc((size_t)c->tensor_count, sizeof *c->tensors);
  if (c->tensors == NULL) return error_no_memory("the tensor table");
  const hid_t type = tensor_row_type(true);
  struct error *e = read_dataset(file, "/tensors", type, 1, &rows, c->tensors);
  if (type >= 0) H5Tclose(type);
  return e;
}

// Sizes have been checked against the file's.
static struct error *allocate_arrays(struct checkpoint *c) {
  const size_t parameters = c->parameter_count, obs = (size_t)c->obs_dim ? (size_t)c->obs_dim : 1;
  const size_t states = (size_t)c->envs * (size_t)c->state_size;
  for (size_t a = 0; a < array_count(c); ++a)
    if ((*array_of(c, &arrays[a]) = calloc(parameters, sizeof(float))) == NULL)
      return error_no_memory("the checkpoint's parameters");
  c->normalizer_mean = calloc(obs, sizeof(double));
  c->normalizer_m2 = calloc(obs, sizeof(double));
  c->env_state = calloc(states ? states : 1, sizeof(double));
  if (c->ahead) c->acting_mean = calloc(obs, sizeof(double)), c->acting_m2 = calloc(obs, sizeof(double));
  if (c->ahead && (c->acting_mean == NULL || c->acting_m2 == NULL)) return error_no_memory("the acting normaliser");
  if (c->normalizer_mean == NULL || c->normalizer_m2 == NULL || c->env_state == NULL)
    return error_no_memory("the checkpoint's environment states");
  return NULL;
}

// Whether the weights are there that iterations which overlap are collected with.
static bool has_acting(struct hdf5_image *file) {
  struct hdf5_value value;
  struct error *absent = hdf5_dataset(file, "/acting/normalizer/count", &value);
  error_free(absent);
  return absent == NULL;
}

static struct error *read_normalizer(struct hdf5_image *file, struct checkpoint *c) {
  const hsize_t obs[] = {(hsize_t)c->obs_dim};
  TRY(read_doubles(file, "/normalizer/count", 0, NULL, &c->normalizer_count));
  TRY(read_doubles(file, "/normalizer/mean", 1, obs, c->normalizer_mean));
  TRY(read_doubles(file, "/normalizer/m2", 1, obs, c->normalizer_m2));
  if (!c->ahead) return NULL;
  TRY(read_doubles(file, "/acting/normalizer/count", 0, NULL, &c->acting_count));
  TRY(read_doubles(file, "/acting/normalizer/mean", 1, obs, c->acting_mean));
  return read_doubles(file, "/acting/normalizer/m2", 1, obs, c->acting_m2);
}

static struct error *read_content(struct hdf5_image *file, struct checkpoint *c) {
  TRY(read_attributes(file, c));
  c->ahead = has_acting(file);
  TRY(read_tensor_table(file, c));
  TRY(check_sizes(c, file->size, &c->parameter_count));
  TRY(allocate_arrays(c));
  const hsize_t states[] = {(hsize_t)c->envs, (hsize_t)c->state_size};
  TRY(read_text(file, "/config", &c->config_text));
  TRY(read_text(file, "/metrics", &c->metrics_text));
  for (size_t a = 0; a < array_count(c); ++a)
    for (int i = 0; i < c->tensor_count; ++i) {
      char path[MAX_PATH_IN_FILE];
      hsize_t dims[2];
      const int rank = tensor_dataset(&c->tensors[i], arrays[a].group, path, dims);
      float *values = *array_of(c, &arrays[a]) + c->tensors[i].offset;
      TRY(read_dataset(file, path, H5T_IEEE_F32LE, rank, dims, values));
    }
  TRY(read_normalizer(file, c));
  return read_doubles(file, "/env_state", 2, states, c->env_state);
}

static struct error *parse_image(const struct checkpoint_image *image, struct checkpoint *c) {
  struct hdf5_image file;
  struct hdf5_session session = {NULL, NULL};
  TRY(hdf5_begin(&session)); // for the names of types
  struct error *e = hdf5_open(image->bytes + CHECKPOINT_BLOCK_BYTES, image->size - CHECKPOINT_BLOCK_BYTES, &file);
  if (e == NULL) e = read_content(&file, c);
  hdf5_end(&session);
  return e;
}

// --- Loading and writing ---

struct error *checkpoint_load(const char *path, struct checkpoint *c) {
  struct checkpoint_image image = {NULL, 0};
  *c = (struct checkpoint){0};
  struct error *e = checkpoint_image_read(path, &image);
  if (e == NULL) e = parse_image(&image, c);
  free(image.bytes);
  if (e == NULL) return NULL;
  checkpoint_free(c);
  return error_prefix(e, "%s", path);
}

// Loads file `iteration` of DIR into a path that the caller frees.
static struct error *load_numbered(const char *dir, int64_t iteration, struct checkpoint *c, char **path) {
  char name[CHECKPOINT_NAME_BYTES];
  checkpoint_name(iteration, name);
  if (asprintf(path, "%s/%s", dir, name) < 0) {
    *path = NULL;
    return error_no_memory("a path");
  }
  struct error *e = checkpoint_load(*path, c);
  if (e == NULL) return NULL;
  free(*path);
  *path = NULL;
  return e;
}

struct error *checkpoint_load_latest(const char *dir, struct checkpoint *c, bool *found, char **path,
                                     void (*skipped)(void *context, const char *line), void *context) {
  int64_t *iterations;
  size_t count, tried = 0;
  *c = (struct checkpoint){0};
  *found = false;
  *path = NULL;
  struct error *e = checkpoint_list(dir, &iterations, &count);
  struct error **broken = e == NULL ? calloc(count + 1, sizeof *broken) : NULL;
  if (e == NULL && broken == NULL) e = error_no_memory("a folder's list");
  for (; e == NULL && !*found && tried < count; tried += !*found) {
    broken[tried] = load_numbered(dir, iterations[tried], c, path);
    *found = broken[tried] == NULL;
  }
  // What was passed over is news only where something was found behind it; else it is the error.
  for (size_t i = 0; *found && skipped != NULL && i < tried; ++i) skipped(context, broken[i]->text);
  if (e == NULL && !*found && count > 0)
    e = error_new(EXIT_CODE_FAILED, "no checkpoint in %s can be loaded (%zu tried); %s", dir, count, broken[0]->text);
  for (size_t i = 0; i < tried; ++i) error_free(broken[i]);
  free((void *)broken);
  free(iterations);
  return e;
}

static struct error *open_folder(const char *dir, struct checkpoint *c, char **path,
                                 void (*skipped)(void *context, const char *line), void *context) {
  char *inner = NULL;
  struct stat status;
  if (asprintf(&inner, "%s/checkpoints", dir) < 0) return error_no_memory("a path");
  const bool is_run = stat(inner, &status) == 0 && S_ISDIR(status.st_mode);
  bool found = false;
  struct error *e = checkpoint_load_latest(is_run ? inner : dir, c, &found, path, skipped, context);
  if (e == NULL && !found)
    e = error_new(EXIT_CODE_USAGE, "%s: holds no checkpoint (like 000000100.h5)", is_run ? inner : dir);
  free(inner);
  return e;
}

struct error *checkpoint_open(const char *run_or_file, struct checkpoint *c, char **path,
                              void (*skipped)(void *context, const char *line), void *context) {
  struct stat status;
  *c = (struct checkpoint){0};
  *path = NULL;
  if (stat(run_or_file, &status) != 0) {
    if (errno == ENOENT) return error_new(EXIT_CODE_USAGE, "%s: no such file or run folder", run_or_file);
    return error_new(EXIT_CODE_USAGE, "%s: cannot read it: %s", run_or_file, strerror(errno));
  }
  if (S_ISDIR(status.st_mode)) return open_folder(run_or_file, c, path, skipped, context);
  *path = strdup(run_or_file);
  if (*path == NULL) return error_no_memory("a path");
  struct error *e = checkpoint_load(run_or_file, c);
  if (e == NULL) return NULL;
  free(*path);
  *path = NULL;
  return e;
}

struct error *checkpoint_write(const char *dir, const struct checkpoint *c, int64_t keep, bool best) {
  struct checkpoint_image image = {NULL, 0};
  size_t parameters = 0;
  struct error *e = check_sizes(c, SIZE_MAX / 2, &parameters);
  if (e == NULL && parameters != c->parameter_count)
    e = error_new(EXIT_CODE_FAILED, "the tensors hold %zu parameters of %zu", parameters, c->parameter_count);
  if (e == NULL) e = build_image(c, &image);
  if (e != NULL) e = error_prefix(e, "%s: cannot make a checkpoint", dir);
  else e = checkpoint_image_write(dir, c->iteration, &image, keep, best);
  free(image.bytes);
  return e;
}
