// Checkpoints: what is written comes back bit for bit, a file that is not whole is refused by name, and neither a full
// disk nor a kill at any instant loses the newest complete one.
#include "helpers.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <hdf5.h>
#include <xxhash.h>

#include "common/checkpoint.h"

// --- Faults: these stand before the C library's functions of the same names, for the code under test too ---

static struct {
  ssize_t disk_left;    // bytes that write still takes before ENOSPC; negative: no limit
  size_t write_at_most; // bytes a write takes; 0: all
  int fsync_error, link_error, rename_error, folder_fsync_error;
  int fsyncs, folder_fsyncs;
  int kill_at; // SIGKILL before the n-th of these calls, counted from 1; 0: never
  int calls;
} fault;

static void no_faults(void) {
  memset(&fault, 0, sizeof fault);
  fault.disk_left = -1;
}

static void call(void) {
  if (++fault.calls == fault.kill_at) raise(SIGKILL);
}

ssize_t write(int fd, const void *bytes, size_t size) {
  call();
  if (fault.write_at_most != 0 && size > fault.write_at_most) size = fault.write_at_most;
  if (fault.disk_left >= 0) {
    if (fault.disk_left == 0 && size > 0) {
      errno = ENOSPC;
      return -1;
    }
    if (size > (size_t)fault.disk_left) size = (size_t)fault.disk_left;
    fault.disk_left -= (ssize_t)size;
  }
  return syscall(SYS_write, fd, bytes, size);
}

int fsync(int fd) {
  struct stat status;
  call();
  const int is_folder = fstat(fd, &status) == 0 && S_ISDIR(status.st_mode);
  const int error = is_folder ? fault.folder_fsync_error : fault.fsync_error;
  if (is_folder) ++fault.folder_fsyncs;
  else ++fault.fsyncs;
  errno = error;
  return error == 0 ? 0 : -1; // no power fails in a test: the disk is not waited for
}

int linkat(int from_fd, const char *from, int to_fd, const char *to, int flags) {
  call();
  if (fault.link_error == 0) return (int)syscall(SYS_linkat, from_fd, from, to_fd, to, flags);
  errno = fault.link_error;
  return -1;
}

int renameat(int from_fd, const char *from, int to_fd, const char *to) {
  call();
  if (fault.rename_error == 0) return (int)syscall(SYS_renameat2, from_fd, from, to_fd, to, 0);
  errno = fault.rename_error;
  return -1;
}

int unlinkat(int fd, const char *name, int flags) {
  call();
  return (int)syscall(SYS_unlinkat, fd, name, flags);
}

// --- Helpers ---

enum { TENSORS = 4, PARAMETERS = 22, OBS = 3, ENVS = 4, STATE = 5, PATH_BYTES = 512 };

static char dir[64]; // of the running test

static const char *in_dir(const char *name) {
  static char paths[4][PATH_BYTES];
  static unsigned next;
  char *path = paths[next++ % 4];
  snprintf(path, PATH_BYTES, "%s/%s", dir, name);
  return path;
}

static int open_files(void) {
  DIR *folder = opendir("/proc/self/fd");
  int count = 0;
  assert_non_null(folder);
  while (readdir(folder) != NULL) ++count;
  closedir(folder);
  return count;
}

static int files_before;

static int begin(void **state) {
  (void)state;
  no_faults();
  files_before = open_files();
  strcpy(dir, "/tmp/flowrank-test-XXXXXX");
  return mkdtemp(dir) == NULL;
}

static int remove_one(const char *path, const struct stat *status, int kind, struct FTW *walk) {
  (void)status, (void)kind, (void)walk;
  return remove(path);
}

static int end(void **state) {
  (void)state;
  no_faults();
  if (open_files() != files_before) {
    print_error("a file is left open\n");
    return 1;
  }
  return nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static float float_of_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

static double double_of_bits(uint64_t bits) {
  double value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

// A small checkpoint with every kind of number in it.
static struct checkpoint sample(int64_t iteration) {
  static const struct tensor_name tensors[TENSORS] = {
      {"policy/w0", 0, 3, 4}, {"policy/b0", 12, 4, 0}, {"value/w0", 16, 5, 1}, {"value/b0", 21, 1, 0}};
  struct source source = {(uint64_t)iteration};
  struct checkpoint c = {.config_text = strdup("task:\n  name: \"J\xc3\xbcrgen\"\nseed: 1\n"),
                         .metrics_text = strdup("{\"iteration\": 1}\n"),
                         .task_name = "CartpoleBalance",
                         .iteration = iteration,
                         .env_steps = iteration * 4096,
                         .episodes = 17,
                         .wall_seconds = 3725.5,
                         .best_return = -INFINITY,
                         .tensor_count = TENSORS,
                         .tensors = zeroed(TENSORS, sizeof *c.tensors),
                         .parameter_count = PARAMETERS,
                         .parameters = normal_floats(&source, PARAMETERS, 1),
                         .adam_m = normal_floats(&source, PARAMETERS, 1e-3),
                         .adam_v = uniform_floats(&source, PARAMETERS),
                         .adam_step = iteration * 64,
                         .obs_dim = OBS,
                         .normalizer_count = 1e15 + 0.125,
                         .normalizer_mean = doubles(OBS),
                         .normalizer_m2 = doubles(OBS),
                         .envs = ENVS,
                         .state_size = STATE,
                         .env_state = doubles(ENVS * STATE)};
  memcpy(c.tensors, tensors, sizeof tensors);
  for (int i = 0; i < OBS; ++i) c.normalizer_mean[i] = source_normal(&source);
  for (int i = 0; i < ENVS * STATE; ++i) c.env_state[i] = source_normal(&source);
  c.parameters[1] = NAN, c.parameters[2] = -0.0f, c.parameters[13] = -INFINITY;
  c.parameters[20] = float_of_bits(0x7fa12345); // a signalling NaN with a payload
  c.adam_v[3] = float_of_bits(1);               // the smallest denormal
  c.normalizer_m2[0] = double_of_bits(1), c.normalizer_m2[1] = INFINITY;
  c.env_state[7] = double_of_bits(UINT64_C(0xfff0000000abcdef));
  return c;
}

// The same from a run whose iterations overlap.
static struct checkpoint sample_ahead(int64_t iteration) {
  struct checkpoint c = sample(iteration);
  struct source source = {(uint64_t)iteration + 1000};
  c.ahead = true;
  c.acting = normal_floats(&source, PARAMETERS, 1);
  c.acting[4] = float_of_bits(0x7fa12345);
  c.acting_count = 1e15 + 0.25;
  c.acting_mean = doubles(OBS);
  c.acting_m2 = doubles(OBS);
  for (int i = 0; i < OBS; ++i) c.acting_mean[i] = source_normal(&source), c.acting_m2[i] = -c.acting_mean[i];
  return c;
}

static void write_sample(int64_t iteration) {
  struct checkpoint c = sample(iteration);
  must(checkpoint_write(dir, &c, 100, false));
  checkpoint_free(&c);
}

// Fails unless `e` is an error of one line with all the words in it.
static void expect(struct error *e, const char *first, const char *second) {
  if (e == NULL) fail_msg("no error, but '%s' '%s' expected", first, second);
  if (strstr(e->text, first) == NULL || strstr(e->text, second) == NULL || strchr(e->text, '\n') != NULL)
    fail_msg("'%s' expected with '%s', but the error is: %s", second, first, e->text);
  error_free(e);
}

// The file is refused, the message has these words in it, and nothing is left in the struct.
static void refused(const char *path, const char *words) {
  static const struct checkpoint empty;
  struct checkpoint c;
  memset(&c, 0x5a, sizeof c);
  expect(checkpoint_load(path, &c), path, words);
  assert_memory_equal(&c, &empty, sizeof c);
}

static void accepted(const char *path, int64_t iteration) {
  struct checkpoint want = sample(iteration), got;
  must(checkpoint_load(path, &got));
  char *difference = checkpoint_difference(&want, &got);
  if (difference != NULL) fail_msg("%s: %s", path, difference);
  checkpoint_free(&want);
  checkpoint_free(&got);
}

static unsigned char *read_all(const char *path, size_t *size) {
  FILE *f = fopen(path, "rb");
  struct stat status;
  if (f == NULL) fail_msg("%s: %s", path, strerror(errno));
  assert_int_equal(fstat(fileno(f), &status), 0);
  *size = (size_t)status.st_size;
  unsigned char *bytes = zeroed(*size, 1);
  assert_int_equal(fread(bytes, 1, *size, f), *size);
  fclose(f);
  return bytes;
}

static void write_all(const char *path, const void *bytes, size_t size) {
  unlink(path); // many times faster than to truncate it, on ext4
  FILE *f = fopen(path, "wb");
  assert_non_null(f);
  assert_int_equal(fwrite(bytes, 1, size, f), size);
  assert_int_equal(fclose(f), 0);
}

static bool exists(const char *name) { return access(in_dir(name), F_OK) == 0; }

static int entries(void) {
  DIR *folder = opendir(dir);
  int count = -2;
  assert_non_null(folder);
  while (readdir(folder) != NULL) ++count;
  closedir(folder);
  return count;
}

struct told {
  int lines;
  char text[8][PATH_BYTES];
};

static void tell(void *context, const char *line) {
  struct told *told = context;
  assert_true(told->lines < 8);
  snprintf(told->text[told->lines++], PATH_BYTES, "%s", line);
}

// --- Round trip ---

static void what_is_written_comes_back_bit_for_bit(void **state) {
  (void)state;
  struct checkpoint c = sample(120), got;
  must(checkpoint_write(dir, &c, 3, false));
  must(checkpoint_load(in_dir("000000120.h5"), &got));
  assert_string_equal(got.config_text, c.config_text);
  assert_string_equal(got.metrics_text, c.metrics_text);
  assert_string_equal(got.task_name, c.task_name);
  assert_int_equal(got.iteration, c.iteration);
  assert_int_equal(got.env_steps, c.env_steps);
  assert_int_equal(got.episodes, c.episodes);
  assert_int_equal(got.adam_step, c.adam_step);
  assert_true(got.wall_seconds == c.wall_seconds && got.best_return == c.best_return);
  assert_int_equal(got.tensor_count, TENSORS);
  assert_memory_equal(got.tensors, c.tensors, TENSORS * sizeof *c.tensors);
  assert_int_equal(got.parameter_count, PARAMETERS);
  assert_memory_equal(got.parameters, c.parameters, PARAMETERS * sizeof(float));
  assert_memory_equal(got.adam_m, c.adam_m, PARAMETERS * sizeof(float));
  assert_memory_equal(got.adam_v, c.adam_v, PARAMETERS * sizeof(float));
  assert_int_equal(got.obs_dim, OBS);
  assert_memory_equal(&got.normalizer_count, &c.normalizer_count, sizeof(double));
  assert_memory_equal(got.normalizer_mean, c.normalizer_mean, OBS * sizeof(double));
  assert_memory_equal(got.normalizer_m2, c.normalizer_m2, OBS * sizeof(double));
  assert_true(got.envs == ENVS && got.state_size == STATE);
  assert_memory_equal(got.env_state, c.env_state, ENVS * STATE * sizeof(double));
  assert_null(checkpoint_difference(&c, &got));
  checkpoint_free(&c);
  checkpoint_free(&c); // nothing is left to free
  checkpoint_free(&got);
}

static void acting_weights_come_back_where_they_are(void **state) {
  (void)state;
  struct checkpoint c = sample_ahead(120), plain = sample(120), got;
  must(checkpoint_write(dir, &c, 3, false));
  must(checkpoint_load(in_dir("000000120.h5"), &got));
  assert_true(got.ahead);
  assert_memory_equal(got.acting, c.acting, PARAMETERS * sizeof(float));
  assert_memory_equal(&got.acting_count, &c.acting_count, sizeof(double));
  assert_memory_equal(got.acting_mean, c.acting_mean, OBS * sizeof(double));
  assert_memory_equal(got.acting_m2, c.acting_m2, OBS * sizeof(double));
  assert_null(checkpoint_difference(&c, &got));
  checkpoint_free(&got);
  must(checkpoint_write(dir, &plain, 3, false));
  must(checkpoint_load(in_dir("000000120.h5"), &got));
  assert_false(got.ahead);
  assert_null(got.acting);
  checkpoint_free(&got);
  checkpoint_free(&c);
  checkpoint_free(&plain);
}

static void empty_parts_come_back_empty(void **state) {
  (void)state;
  struct checkpoint c = sample(0), got;
  free(c.metrics_text);
  c.metrics_text = NULL;
  c.config_text[0] = '\0';
  c.task_name[0] = '\0';
  c.obs_dim = 0;
  c.envs = 0;
  must(checkpoint_write(dir, &c, 3, false));
  must(checkpoint_load(in_dir("000000000.h5"), &got));
  assert_string_equal(got.metrics_text, "");
  assert_string_equal(got.config_text, "");
  assert_string_equal(got.task_name, "");
  assert_true(got.obs_dim == 0 && got.envs == 0 && got.state_size == STATE);
  assert_null(checkpoint_difference(&c, &got));
  checkpoint_free(&c);
  checkpoint_free(&got);
}

static void many_large_tensors_come_back(void **state) {
  (void)state;
  enum { COUNT = 300, ROWS = 61, COLS = 97 };
  struct source source = {9};
  struct checkpoint c = sample(1), got;
  free(c.tensors), free(c.parameters), free(c.adam_m), free(c.adam_v);
  c.tensor_count = COUNT;
  c.parameter_count = (size_t)COUNT * ROWS * COLS;
  c.tensors = zeroed(COUNT, sizeof *c.tensors);
  for (int i = 0; i < COUNT; ++i) {
    struct tensor_name *t = &c.tensors[i];
    memset(t->name, 'x', sizeof t->name); // of the longest kind, and nothing behind its end reaches the file
    const int length = snprintf(t->name, sizeof t->name, "a/b.c/d-%d/_layer_with_quite_a_long_name_%07d", i % 7, i);
    assert_int_equal(length, TENSOR_NAME_MAX - 1);
    t->offset = (size_t)i * ROWS * COLS, t->rows = ROWS, t->cols = COLS;
  }
  c.parameters = normal_floats(&source, c.parameter_count, 1);
  c.adam_m = normal_floats(&source, c.parameter_count, 1);
  c.adam_v = normal_floats(&source, c.parameter_count, 1);
  must(checkpoint_write(dir, &c, 3, false));
  must(checkpoint_load(in_dir("000000001.h5"), &got));
  assert_null(checkpoint_difference(&c, &got));
  checkpoint_free(&c);
  checkpoint_free(&got);
}

static void equal_content_makes_equal_bytes(void **state) {
  (void)state;
  size_t sizes[2];
  unsigned char *bytes[2];
  for (int i = 0; i < 2; ++i) {
    write_sample(7);
    bytes[i] = read_all(in_dir("000000007.h5"), &sizes[i]);
    sleep(1);                                           // so that a time stamp would show
    for (size_t size = 16; size < 1 << 20; size *= 2) { // so that memory which nobody set would show
      void *noise = malloc(size);
      assert_non_null(noise);
      memset(noise, 0x30 + i, size);
      free(noise);
    }
  }
  assert_int_equal(sizes[0], sizes[1]);
  assert_memory_equal(bytes[0], bytes[1], sizes[0]);
  free(bytes[0]), free(bytes[1]);
}

static void what_cannot_be_read_back_is_not_written(void **state) {
  (void)state;
  struct checkpoint c = sample(3);
  c.tensors[1].offset = 13;
  expect(checkpoint_write(dir, &c, 3, true), dir, "tensor policy/b0 begins at float 13");
  c.tensors[1].offset = 12;
  c.parameter_count = 23;
  expect(checkpoint_write(dir, &c, 3, true), dir, "22 parameters of 23");
  c.parameter_count = PARAMETERS;
  c.iteration = -1;
  expect(checkpoint_write(dir, &c, 3, true), dir, "iteration is -1");
  c.iteration = INT64_C(1000000000000000);
  expect(checkpoint_write(dir, &c, 3, true), dir, "iteration is 1000000000000000");
  c.iteration = 3;
  strcpy(c.tensors[2].name, "policy/w0/x"); // policy/w0 is a dataset already
  expect(checkpoint_write(dir, &c, 3, true), dir, "/parameters/policy/w0/x");
  c.tensor_count = 0;
  expect(checkpoint_write(dir, &c, 3, true), dir, "0 tensors");
  assert_int_equal(entries(), 0);
  checkpoint_free(&c);
}

// --- Torn, damaged and foreign files ---

static void torn_checkpoint_is_refused(void **state) {
  (void)state;
  size_t size;
  write_sample(1);
  unsigned char *bytes = read_all(in_dir("000000001.h5"), &size);
  for (size_t cut = 0; cut < size; cut += 97) {
    write_all(in_dir("torn.h5"), bytes, cut);
    refused(in_dir("torn.h5"), cut == 0 ? "empty" : "torn");
  }
  write_all(in_dir("torn.h5"), bytes, size - 1);
  refused(in_dir("torn.h5"), "torn");
  free(bytes);
}

static void flipped_byte_is_refused(void **state) {
  (void)state;
  size_t size;
  write_sample(1);
  unsigned char *bytes = read_all(in_dir("000000001.h5"), &size);
  for (size_t at = 0; at < size; at += at < 512 ? 1 : 61)
    for (int bit = 0; bit < 8; bit += 3) {
      bytes[at] ^= (unsigned char)(1 << bit);
      write_all(in_dir("flipped.h5"), bytes, size);
      refused(in_dir("flipped.h5"), at < 512 ? "" : "checksum");
      bytes[at] ^= (unsigned char)(1 << bit);
    }
  write_all(in_dir("flipped.h5"), bytes, size);
  accepted(in_dir("flipped.h5"), 1);
  free(bytes);
}

static void appended_byte_is_refused(void **state) {
  (void)state;
  size_t size;
  write_sample(1);
  unsigned char *bytes = read_all(in_dir("000000001.h5"), &size);
  bytes = realloc(bytes, size + 1);
  assert_non_null(bytes);
  bytes[size] = 0;
  write_all(in_dir("long.h5"), bytes, size + 1);
  refused(in_dir("long.h5"), "1 bytes behind the end");
  free(bytes);
}

static void future_format_is_refused_by_its_number(void **state) {
  (void)state;
  size_t size;
  write_sample(1);
  unsigned char *bytes = read_all(in_dir("000000001.h5"), &size);
  memcpy(bytes, "flowrank checkpoint format=2 and whatever the future holds\n", 59);
  write_all(in_dir("future.h5"), bytes, size);
  refused(in_dir("future.h5"), "written by format 2; this flowrank reads 1");
  memcpy(bytes, "flowrank checkpoint format=10 ", 30);
  write_all(in_dir("future.h5"), bytes, 30);
  refused(in_dir("future.h5"), "written by format 10; this flowrank reads 1");
  free(bytes);
}

static void foreign_files_are_named(void **state) {
  (void)state;
  write_all(in_dir("text.h5"), "seed: 1\n", 8);
  refused(in_dir("text.h5"), "not a flowrank checkpoint");
  write_all(in_dir("empty.h5"), "", 0);
  refused(in_dir("empty.h5"), "empty");
  refused(dir, "a folder");
  refused(in_dir("missing.h5"), "No such file");
  refused(in_dir("text.h5/x"), "Not a directory");
  assert_int_equal(mkfifo(in_dir("pipe.h5"), 0600), 0);
  refused(in_dir("pipe.h5"), "not a regular file");
  refused("/dev/null", "not a regular file");

  const hid_t plain = H5Fcreate(in_dir("plain.h5"), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
  const hid_t list = H5Pcreate(H5P_FILE_CREATE);
  assert_true(H5Pset_userblock(list, 512) >= 0);
  const hid_t block = H5Fcreate(in_dir("block.h5"), H5F_ACC_TRUNC, list, H5P_DEFAULT);
  assert_true(plain >= 0 && block >= 0);
  H5Fclose(plain), H5Fclose(block), H5Pclose(list);
  refused(in_dir("plain.h5"), "an HDF5 file, but not a flowrank checkpoint");
  refused(in_dir("block.h5"), "an HDF5 file that flowrank did not write");
}

// --- Files with a right checksum and a wrong content: made here with HDF5 itself ---

// The header, as the format says it: independent of the code under test.
static void seal(const char *path) {
  size_t size;
  unsigned char *bytes = read_all(path, &size);
  char line[513];
  const int length = snprintf(line, sizeof line, "flowrank checkpoint format=1 size=%zu xxh3=%016llx\n", size,
                              (unsigned long long)XXH3_64bits(bytes + 512, size - 512));
  memset(bytes, ' ', 512);
  memcpy(bytes, line, (size_t)length);
  bytes[511] = '\n';
  write_all(path, bytes, size);
  free(bytes);
}

static void remove_link(hid_t file, const char *path) { assert_true(H5Ldelete(file, path, H5P_DEFAULT) >= 0); }

static void set_attribute(hid_t file, const char *name, hid_t type, hid_t memory_type, hsize_t count,
                          const void *value) {
  const hid_t space = count == 0 ? H5Screate(H5S_SCALAR) : H5Screate_simple(1, &count, NULL);
  assert_true(H5Adelete(file, name) >= 0);
  const hid_t attribute = H5Acreate2(file, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
  assert_true(attribute >= 0 && H5Awrite(attribute, memory_type, value) >= 0);
  H5Aclose(attribute), H5Sclose(space);
}

static void set_integer(hid_t file, const char *name, int64_t value) {
  set_attribute(file, name, H5T_STD_I64LE, H5T_NATIVE_INT64, 0, &value);
}

static hid_t text_of(size_t length) {
  const hid_t type = H5Tcopy(H5T_C_S1);
  assert_true(H5Tset_size(type, length) >= 0);
  return type;
}

// Puts another dataset in a dataset's place; data may be null (nothing is written). dims[1] 0: one dimension.
static void replace(hid_t file, const char *path, hid_t type, hsize_t rows, hsize_t cols, hid_t list,
                    const void *data) {
  const hsize_t dims[2] = {rows, cols};
  const hid_t space = rows == 0 ? H5Screate(H5S_SCALAR) : H5Screate_simple(cols ? 2 : 1, dims, NULL);
  remove_link(file, path);
  const hid_t set = H5Dcreate2(file, path, type, space, H5P_DEFAULT, list, H5P_DEFAULT);
  assert_true(set >= 0);
  if (data != NULL) assert_true(H5Dwrite(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) >= 0);
  H5Dclose(set), H5Sclose(space);
}

static const double some_numbers[64] = {1, 2, 3};

static void without_config(hid_t f) { remove_link(f, "/config"); }
static void without_metrics(hid_t f) { remove_link(f, "/metrics"); }
static void without_tensors(hid_t f) { remove_link(f, "/tensors"); }
static void without_one_tensor(hid_t f) { remove_link(f, "/adam/v/value/b0"); }
static void without_adam(hid_t f) { remove_link(f, "/adam"); }
static void without_states(hid_t f) { remove_link(f, "/env_state"); }
static void acting_without_content(hid_t f) {
  H5Gclose(H5Gcreate2(f, "/acting", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
}
static void without_count(hid_t f) { remove_link(f, "/normalizer/count"); }
static void without_iteration(hid_t f) { assert_true(H5Adelete(f, "iteration") >= 0); }
static void without_task(hid_t f) { assert_true(H5Adelete(f, "task_name") >= 0); }
static void iteration_of_32_bits(hid_t f) {
  set_attribute(f, "iteration", H5T_STD_I32LE, H5T_NATIVE_DOUBLE, 0, some_numbers);
}
static void two_iterations(hid_t f) { // a reader with room for one would be overrun
  static const int64_t many[2] = {1, 2};
  set_attribute(f, "iteration", H5T_STD_I64LE, H5T_NATIVE_INT64, 2, many);
}
static void negative_iteration(hid_t f) { set_integer(f, "iteration", -1); }
static void other_format_inside(hid_t f) { set_integer(f, "format_version", 2); }
static void huge_obs_dim(hid_t f) { set_integer(f, "obs_dim", INT64_C(1) << 40); }
static void large_obs_dim(hid_t f) { set_integer(f, "obs_dim", INT32_MAX); }
static void wrong_obs_dim(hid_t f) { set_integer(f, "obs_dim", OBS + 1); }
static void negative_envs(hid_t f) { set_integer(f, "envs", -4); }
static void overflowing_states(hid_t f) {
  set_integer(f, "envs", INT64_C(1) << 62);
  set_integer(f, "state_size", INT64_C(1) << 62);
}
static void states_that_wrap_around(hid_t f) { // 2^61 · 8 bytes are 2^64: 0
  set_integer(f, "envs", INT64_C(1) << 61);
  set_integer(f, "state_size", 1);
}
static void transposed_states(hid_t f) {
  set_integer(f, "envs", STATE);
  set_integer(f, "state_size", ENVS);
}
static void long_task(hid_t f) {
  char text[300];
  memset(text, 'x', sizeof text);
  const hid_t type = text_of(sizeof text);
  set_attribute(f, "task_name", type, type, 0, text);
  H5Tclose(type);
}
static void task_of_any_length(hid_t f) {
  const char *text = "CartpoleBalance";
  const hid_t type = text_of(H5T_VARIABLE);
  set_attribute(f, "task_name", type, type, 0, &text);
  H5Tclose(type);
}
static void config_of_any_length(hid_t f) {
  const char *text = "seed: 1\n";
  const hid_t type = text_of(H5T_VARIABLE);
  replace(f, "/config", type, 0, 0, H5P_DEFAULT, &text);
  H5Tclose(type);
}
static void config_of_numbers(hid_t f) { replace(f, "/config", H5T_IEEE_F64LE, 0, 0, H5P_DEFAULT, some_numbers); }
static void two_configs(hid_t f) {
  const hid_t type = text_of(4);
  replace(f, "/config", type, 2, 0, H5P_DEFAULT, "one two");
  H5Tclose(type);
}
static void config_larger_than_the_file(hid_t f) {
  const hid_t type = text_of((size_t)1 << 31);
  const hid_t list = H5Pcreate(H5P_DATASET_CREATE);
  assert_true(H5Pset_alloc_time(list, H5D_ALLOC_TIME_LATE) >= 0);
  replace(f, "/config", type, 0, 0, list, NULL);
  H5Pclose(list), H5Tclose(type);
}
static void config_never_stored(hid_t f) {
  const hid_t type = text_of(9);
  replace(f, "/config", type, 0, 0, H5P_DEFAULT, NULL);
  H5Tclose(type);
}
static void weights_in_double(hid_t f) {
  replace(f, "/parameters/policy/w0", H5T_IEEE_F64LE, 3, 4, H5P_DEFAULT, some_numbers);
}
static void weights_big_endian(hid_t f) {
  replace(f, "/parameters/policy/w0", H5T_IEEE_F32BE, 3, 4, H5P_DEFAULT, some_numbers);
}
static void weights_transposed(hid_t f) {
  replace(f, "/parameters/policy/w0", H5T_IEEE_F32LE, 4, 3, H5P_DEFAULT, some_numbers);
}
static void weights_flat(hid_t f) {
  replace(f, "/parameters/policy/w0", H5T_IEEE_F32LE, 12, 0, H5P_DEFAULT, some_numbers);
}
static void weights_never_stored(hid_t f) {
  replace(f, "/parameters/policy/w0", H5T_IEEE_F32LE, 3, 4, H5P_DEFAULT, NULL);
}
static void weights_are_a_group(hid_t f) {
  remove_link(f, "/parameters/policy/w0");
  H5Gclose(H5Gcreate2(f, "/parameters/policy/w0", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
}
static void policy_is_a_dataset(hid_t f) {
  replace(f, "/parameters/policy", H5T_IEEE_F32LE, 12, 0, H5P_DEFAULT, some_numbers);
}
static void weights_with(hid_t f, bool filter, bool external) {
  const hsize_t chunk[2] = {3, 4};
  const hid_t list = H5Pcreate(H5P_DATASET_CREATE);
  if (external) assert_true(H5Pset_external(list, "/etc/passwd", 0, 48) >= 0);
  else assert_true(H5Pset_chunk(list, 2, chunk) >= 0);
  if (filter) assert_true(H5Pset_shuffle(list) >= 0);
  replace(f, "/parameters/policy/w0", H5T_IEEE_F32LE, 3, 4, list, external ? NULL : some_numbers);
  H5Pclose(list);
}
static void weights_chunked(hid_t f) { weights_with(f, false, false); }
static void weights_filtered(hid_t f) { weights_with(f, true, false); }
static void weights_elsewhere(hid_t f) { weights_with(f, false, true); }
static void weights_virtual(hid_t f) {
  const hsize_t dims[2] = {3, 4};
  const hid_t list = H5Pcreate(H5P_DATASET_CREATE), space = H5Screate_simple(2, dims, NULL);
  assert_true(H5Pset_virtual(list, space, in_dir("000000001.h5"), "/adam/m/policy/w0", space) >= 0);
  remove_link(f, "/parameters/policy/w0");
  const hid_t set = H5Dcreate2(f, "/parameters/policy/w0", H5T_IEEE_F32LE, space, H5P_DEFAULT, list, H5P_DEFAULT);
  assert_true(set >= 0);
  H5Dclose(set), H5Sclose(space), H5Pclose(list);
}
static void weights_behind_external_link(hid_t f) {
  remove_link(f, "/parameters/policy/w0");
  assert_true(H5Lcreate_external(in_dir("000000001.h5"), "/adam/m/policy/w0", f, "/parameters/policy/w0", H5P_DEFAULT,
                                 H5P_DEFAULT) >= 0);
}
static void group_behind_external_link(hid_t f) {
  remove_link(f, "/parameters/policy");
  assert_true(H5Lcreate_external(in_dir("000000001.h5"), "/adam/m/policy", f, "/parameters/policy", H5P_DEFAULT,
                                 H5P_DEFAULT) >= 0);
}
static void weights_behind_soft_link(hid_t f) {
  remove_link(f, "/parameters/policy/w0");
  assert_true(H5Lcreate_soft("/adam/m/policy/w0", f, "/parameters/policy/w0", H5P_DEFAULT, H5P_DEFAULT) >= 0);
}
static void states_in_float(hid_t f) {
  replace(f, "/env_state", H5T_IEEE_F32LE, ENVS, STATE, H5P_DEFAULT, some_numbers);
}
static void huge_states(hid_t f) { // a small file that claims 64 TiB
  const hid_t list = H5Pcreate(H5P_DATASET_CREATE);
  const hsize_t chunk[2] = {1, 5};
  assert_true(H5Pset_chunk(list, 2, chunk) >= 0);
  replace(f, "/env_state", H5T_IEEE_F64LE, (hsize_t)1 << 40, 8, list, NULL);
  set_integer(f, "envs", INT64_C(1) << 40);
  set_integer(f, "state_size", 8);
  H5Pclose(list);
}

// A row of the tensor table as the format says it.
struct row {
  char name[48];
  uint64_t offset;
  int32_t rows, cols;
};

static const struct row right_rows[TENSORS] = {
    {"policy/w0", 0, 3, 4}, {"policy/b0", 12, 4, 0}, {"value/w0", 16, 5, 1}, {"value/b0", 21, 1, 0}};

static hid_t row_type(hid_t size_type) {
  const hid_t row = H5Tcreate(H5T_COMPOUND, sizeof(struct row)), name = text_of(48);
  assert_true(H5Tset_cset(name, H5T_CSET_UTF8) >= 0);
  assert_true(H5Tinsert(row, "name", offsetof(struct row, name), name) >= 0);
  assert_true(H5Tinsert(row, "offset", offsetof(struct row, offset), H5T_STD_U64LE) >= 0);
  assert_true(H5Tinsert(row, "rows", offsetof(struct row, rows), size_type) >= 0);
  assert_true(H5Tinsert(row, "cols", offsetof(struct row, cols), size_type) >= 0);
  H5Tclose(name);
  return row;
}

static void replace_rows(hid_t f, hsize_t count, const struct row *rows, hid_t size_type) {
  const hid_t type = row_type(size_type);
  replace(f, "/tensors", type, count, 0, H5P_DEFAULT, rows);
  H5Tclose(type);
}

static void with_row(hid_t f, int at, struct row row) {
  struct row rows[TENSORS];
  memcpy(rows, right_rows, sizeof rows);
  rows[at] = row;
  replace_rows(f, TENSORS, rows, H5T_STD_I32LE);
}

static void same_table(hid_t f) { replace_rows(f, TENSORS, right_rows, H5T_STD_I32LE); }
static void table_of_other_type(hid_t f) { replace_rows(f, TENSORS, right_rows, H5T_STD_U32LE); }
static void table_of_numbers(hid_t f) { replace(f, "/tensors", H5T_IEEE_F64LE, 4, 0, H5P_DEFAULT, some_numbers); }
static void table_without_last(hid_t f) { replace_rows(f, 3, right_rows, H5T_STD_I32LE); }
static void table_of_one_value(hid_t f) { replace_rows(f, 0, right_rows, H5T_STD_I32LE); }
static void table_too_long(hid_t f) {
  struct row *rows = zeroed(4097, sizeof *rows);
  replace_rows(f, 4097, rows, H5T_STD_I32LE);
  free(rows);
}
static void huge_tensor(hid_t f) { with_row(f, 0, (struct row){"policy/w0", 0, INT32_MAX, INT32_MAX}); }
static void huge_vector(hid_t f) { with_row(f, 3, (struct row){"value/b0", 21, INT32_MAX, 0}); }
static void tensor_without_rows(hid_t f) { with_row(f, 1, (struct row){"policy/b0", 12, 0, 4}); }
static void tensor_of_negative_cols(hid_t f) { with_row(f, 1, (struct row){"policy/b0", 12, 4, -1}); }
static void gap(hid_t f) { with_row(f, 2, (struct row){"value/w0", 17, 5, 1}); }
static void overlap(hid_t f) { with_row(f, 2, (struct row){"value/w0", 15, 5, 1}); }
static void offset_far_out(hid_t f) { with_row(f, 1, (struct row){"policy/b0", UINT64_MAX - 3, 4, 0}); }
static void same_name_twice(hid_t f) { with_row(f, 2, (struct row){"policy/w0", 16, 5, 1}); }
static void name_with_dots(hid_t f) { with_row(f, 0, (struct row){"policy/../w0", 0, 3, 4}); }
static void name_from_root(hid_t f) { with_row(f, 0, (struct row){"/policy/w0", 0, 3, 4}); }
static void name_with_escape(hid_t f) { with_row(f, 0, (struct row){"policy/\033[31m", 0, 3, 4}); }
static void empty_name(hid_t f) { with_row(f, 0, (struct row){"", 0, 3, 4}); }
static void endless_name(hid_t f) {
  struct row row = {"", 0, 3, 4};
  memset(row.name, 'x', sizeof row.name);
  with_row(f, 0, row);
}
static void other_shape_in_table(hid_t f) { with_row(f, 0, (struct row){"policy/w0", 0, 6, 2}); }

static const struct crafted {
  const char *what;
  void (*change)(hid_t file);
  const char *words; // null: the file stays good
} crafted[] = {
    {"same table", same_table, NULL},
    {"no config", without_config, "lacks /config"},
    {"no metrics", without_metrics, "lacks /metrics"},
    {"no tensors", without_tensors, "lacks /tensors"},
    {"no value/b0", without_one_tensor, "lacks /adam/v/value/b0"},
    {"no adam", without_adam, "lacks /adam"},
    {"no states", without_states, "lacks /env_state"},
    {"acting empty", acting_without_content, NULL}, // as if it were not there
    {"no count", without_count, "lacks /normalizer/count"},
    {"no iteration", without_iteration, "lacks the attribute iteration"},
    {"no task", without_task, "lacks the attribute task_name"},
    {"iteration int32", iteration_of_32_bits, "iteration is not a number of the expected type"},
    {"two iterations", two_iterations, "iteration is not a single value"},
    {"iteration -1", negative_iteration, "iteration is -1"},
    {"format inside", other_format_inside, "format_version is 2"},
    {"obs_dim 2^40", huge_obs_dim, "obs_dim"},
    {"obs_dim 2^31-1", large_obs_dim, "larger than the file"},
    {"obs_dim 4", wrong_obs_dim, "/normalizer/mean has 3 in dimension 0"},
    {"envs -4", negative_envs, "envs is -4"},
    {"states overflow", overflowing_states, "larger than the file"},
    {"states wrap", states_that_wrap_around, "larger than the file"},
    {"states transposed", transposed_states, "/env_state has 4 in dimension 0"},
    {"task long", long_task, "task_name is not a short text"},
    {"task vlen", task_of_any_length, "task_name is not a short text"},
    {"config vlen", config_of_any_length, "/config is not a text"},
    {"config numbers", config_of_numbers, "/config is not a text"},
    {"two configs", two_configs, "/config does not have 0 dimensions"},
    {"config 2 GiB", config_larger_than_the_file, "/config is not a text"},
    {"config unstored", config_never_stored, "/config is not stored in full"},
    {"weights double", weights_in_double, "/parameters/policy/w0 is not of the expected type"},
    {"weights big endian", weights_big_endian, "/parameters/policy/w0 is not of the expected type"},
    {"weights transposed", weights_transposed, "/parameters/policy/w0 has 4 in dimension 0"},
    {"weights flat", weights_flat, "/parameters/policy/w0 does not have 2 dimensions"},
    {"weights unstored", weights_never_stored, "/parameters/policy/w0 is not stored in full"},
    {"weights group", weights_are_a_group, "/parameters/policy/w0 is not a readable dataset"},
    {"policy dataset", policy_is_a_dataset, "lacks /parameters/policy/w0"},
    {"weights chunked", weights_chunked, "/parameters/policy/w0 is not stored plainly"},
    {"weights filtered", weights_filtered, "/parameters/policy/w0 is not stored plainly"},
    {"weights external", weights_elsewhere, "/parameters/policy/w0 is not stored plainly"},
    {"weights virtual", weights_virtual, "/parameters/policy/w0 is not stored plainly"},
    {"weights external link", weights_behind_external_link, "/parameters/policy/w0 is not in an ordinary group"},
    {"group external link", group_behind_external_link, "/parameters/policy/w0 is not in an ordinary group"},
    {"weights soft link", weights_behind_soft_link, "/parameters/policy/w0 is a link that leads elsewhere"},
    {"states float", states_in_float, "/env_state is not of the expected type"},
    {"states huge", huge_states, "larger than the file"},
    {"table type", table_of_other_type, "/tensors is not of the expected type"},
    {"table numbers", table_of_numbers, "/tensors is not of the expected type"},
    {"table short", table_without_last, NULL}, // smaller arrays, but whole: what is not named is not read
    {"table scalar", table_of_one_value, "/tensors is not a table"},
    {"table long", table_too_long, "/tensors is not a table"},
    {"tensor huge", huge_tensor, "larger than the file"},
    {"vector huge", huge_vector, "larger than the file"},
    {"tensor 0 rows", tensor_without_rows, "tensor policy/b0 has the shape [0, 4]"},
    {"tensor -1 cols", tensor_of_negative_cols, "tensor policy/b0 has the shape [4, -1]"},
    {"gap", gap, "tensor value/w0 begins at float 17"},
    {"overlap", overlap, "tensor value/w0 begins at float 15"},
    {"offset far", offset_far_out, "tensor policy/b0 begins at float 18446744073709551612"},
    {"name twice", same_name_twice, "tensors 0 and 2 are both named policy/w0"},
    {"name ..", name_with_dots, "tensor 0 has no proper name"},
    {"name /", name_from_root, "tensor 0 has no proper name"},
    {"name escape", name_with_escape, "tensor 0 has no proper name"},
    {"name empty", empty_name, "tensor 0 has no proper name"},
    {"name endless", endless_name, "tensor 0 has no proper name"},
    {"shape in table", other_shape_in_table, "/parameters/policy/w0 has 3 in dimension 0"},
};

static void craft(const struct crafted *one) {
  size_t size;
  unsigned char *bytes = read_all(in_dir("000000001.h5"), &size);
  write_all(in_dir("crafted.h5"), bytes, size);
  free(bytes);
  const hid_t file = H5Fopen(in_dir("crafted.h5"), H5F_ACC_RDWR, H5P_DEFAULT);
  assert_true(file >= 0);
  one->change(file);
  assert_true(H5Fclose(file) >= 0);
  seal(in_dir("crafted.h5"));
}

static void lying_files_are_refused(void **state) {
  (void)state;
  write_sample(1);
  for (size_t i = 0; i < COUNT_OF(crafted); ++i) {
    craft(&crafted[i]);
    if (crafted[i].words != NULL) {
      refused(in_dir("crafted.h5"), crafted[i].words);
      continue;
    }
    struct checkpoint c;
    must(checkpoint_load(in_dir("crafted.h5"), &c));
    checkpoint_free(&c);
  }
}

// HDF5's own structures; the checksum is right in each.
static void broken_hdf5_is_refused(void **state) {
  (void)state;
  size_t size;
  write_sample(1);
  unsigned char *bytes = read_all(in_dir("000000001.h5"), &size);
  static const size_t kept[] = {0, 1, 8, 24, 96}; // of HDF5's bytes; zeros follow
  for (size_t i = 0; i < COUNT_OF(kept); ++i) {
    unsigned char *broken = zeroed(size, 1);
    memcpy(broken, bytes, 512 + kept[i]);
    write_all(in_dir("broken.h5"), broken, size);
    seal(in_dir("broken.h5"));
    refused(in_dir("broken.h5"), "");
    write_all(in_dir("broken.h5"), broken, 512 + kept[i]);
    seal(in_dir("broken.h5"));
    refused(in_dir("broken.h5"), kept[i] < 96 ? "not HDF5 as flowrank writes it" : "damaged at the root group");
    free(broken);
  }
  write_all(in_dir("broken.h5"), bytes, size / 2);
  seal(in_dir("broken.h5"));
  refused(in_dir("broken.h5"), "damaged at /");
  free(bytes);
}

// HDF5 prints its error stack on the standard error unless it is told not to.
static void nothing_is_printed(void **state) {
  (void)state;
  const int kept = dup(STDERR_FILENO), captured = open(in_dir("stderr"), O_RDWR | O_CREAT, 0600);
  assert_true(kept >= 0 && captured >= 0);
  fflush(NULL);
  assert_true(dup2(captured, STDERR_FILENO) >= 0);
  write_sample(1);
  for (size_t i = 0; i < COUNT_OF(crafted); ++i) {
    struct checkpoint c;
    craft(&crafted[i]);
    error_free(checkpoint_load(in_dir("crafted.h5"), &c));
    checkpoint_free(&c);
  }
  const off_t printed = lseek(captured, 0, SEEK_END);
  dup2(kept, STDERR_FILENO);
  close(kept), close(captured);
  assert_int_equal(printed, 0);
}

// HDF5 counts its handles up: whatever is valid between two of ours was made in between and left.
static int left_between(const hid_t *first, const hid_t *last) {
  int left = 0;
  for (int kind = 0; kind < 3; ++kind)
    for (hid_t id = first[kind] + 1; id < last[kind]; ++id) left += H5Iis_valid(id) > 0;
  return left;
}

static void make_marks(hid_t *marks) {
  marks[0] = H5Screate(H5S_SCALAR);
  marks[1] = H5Pcreate(H5P_DATASET_CREATE);
  marks[2] = H5Tcopy(H5T_C_S1);
}

static void close_marks(const hid_t *marks) { H5Sclose(marks[0]), H5Pclose(marks[1]), H5Tclose(marks[2]); }

static void nothing_of_hdf5_stays_open(void **state) {
  (void)state;
  write_sample(1);
  for (size_t i = 0; i < COUNT_OF(crafted); ++i) {
    hid_t first[3], last[3];
    struct checkpoint c;
    craft(&crafted[i]);
    make_marks(first);
    error_free(checkpoint_load(in_dir("crafted.h5"), &c));
    write_sample(1);
    make_marks(last);
    checkpoint_free(&c);
    if (left_between(first, last) != 0) fail_msg("%s: a handle is left", crafted[i].what);
    close_marks(first), close_marks(last);
    assert_int_equal(H5Fget_obj_count((hid_t)H5F_OBJ_ALL, H5F_OBJ_ALL), 0);
  }
}

static int prints;
static herr_t count_print(hid_t stack, void *context) {
  (void)stack, (void)context;
  ++prints;
  return 0;
}

static void applications_error_printing_is_put_back(void **state) {
  (void)state;
  H5E_auto2_t function;
  void *context;
  write_sample(1);
  craft(&crafted[1]);
  assert_true(H5Eset_auto2(H5E_DEFAULT, count_print, &prints) >= 0);
  refused(in_dir("crafted.h5"), "lacks");
  write_sample(2);
  assert_true(H5Eget_auto2(H5E_DEFAULT, &function, &context) >= 0);
  H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
  assert_true(function == count_print && context == &prints);
  assert_int_equal(prints, 0);
}

// --- Folders ---

static void newest_that_verifies_is_loaded(void **state) {
  (void)state;
  struct told told = {0};
  struct checkpoint c;
  bool found = true;
  char *path;
  must(checkpoint_load_latest(in_dir("nowhere"), &c, &found, &path, tell, &told));
  assert_true(!found && path == NULL);
  found = true;
  must(checkpoint_load_latest(dir, &c, &found, &path, tell, &told));
  assert_true(!found && path == NULL && told.lines == 0);

  for (int64_t i = 8; i <= 11; ++i) write_sample(i);
  write_all(in_dir("000000011.h5"), "torn", 4);
  assert_int_equal(truncate(in_dir("000000010.h5"), 3000), 0);
  write_all(in_dir("999.h5"), "not a number of ours", 20);
  write_all(in_dir("0000000012.h5"), "nor this", 8);
  write_all(in_dir("best.h5"), "nor this", 8);
  must(checkpoint_load_latest(dir, &c, &found, &path, tell, &told));
  assert_true(found);
  assert_string_equal(path, in_dir("000000009.h5"));
  assert_int_equal(c.iteration, 9);
  assert_int_equal(told.lines, 2);
  assert_non_null(strstr(told.text[0], in_dir("000000011.h5")));
  assert_non_null(strstr(told.text[0], "not a flowrank checkpoint"));
  assert_non_null(strstr(told.text[1], in_dir("000000010.h5")));
  assert_non_null(strstr(told.text[1], "torn"));
  free(path);
  checkpoint_free(&c);
  must(checkpoint_load_latest(dir, &c, &found, &path, NULL, NULL)); // nobody needs to listen
  free(path);
  checkpoint_free(&c);
}

static void order_is_by_number(void **state) {
  (void)state;
  struct checkpoint c;
  bool found;
  char *path;
  write_sample(999999999);
  write_sample(1000000000);
  must(checkpoint_load_latest(dir, &c, &found, &path, NULL, NULL));
  assert_string_equal(path, in_dir("1000000000.h5"));
  free(path);
  checkpoint_free(&c);
}

static void all_broken_is_an_error(void **state) {
  (void)state;
  struct told told = {0};
  struct checkpoint c;
  bool found = true;
  char *path;
  write_all(in_dir("000000001.h5"), "", 0);
  write_all(in_dir("000000002.h5"), "x", 1);
  expect(checkpoint_load_latest(dir, &c, &found, &path, tell, &told), dir, "2 tried");
  assert_true(!found && path == NULL && told.lines == 0);
  expect(checkpoint_load_latest(in_dir("000000001.h5"), &c, &found, &path, tell, &told), dir, "Not a directory");
}

static void open_takes_run_folder_or_file(void **state) {
  (void)state;
  struct checkpoint c;
  char *path;
  char run[PATH_BYTES];
  snprintf(run, sizeof run, "%s", dir);
  expect(checkpoint_open(in_dir("nothing"), &c, &path, NULL, NULL), in_dir("nothing"), "no such file or run folder");
  expect(checkpoint_open(dir, &c, &path, NULL, NULL), dir, "no checkpoint");
  assert_null(path);
  assert_int_equal(mkdir(in_dir("checkpoints"), 0700), 0);
  expect(checkpoint_open(dir, &c, &path, NULL, NULL), in_dir("checkpoints"), "no checkpoint");
  snprintf(dir, sizeof dir, "%.40s/checkpoints", run);
  write_sample(5);
  write_sample(6);
  const char *const names[] = {run, dir, in_dir("000000006.h5")};
  for (size_t i = 0; i < COUNT_OF(names); ++i) {
    must(checkpoint_open(names[i], &c, &path, NULL, NULL));
    assert_string_equal(path, in_dir("000000006.h5"));
    assert_int_equal(c.iteration, 6);
    free(path);
    checkpoint_free(&c);
  }
  must(checkpoint_open(in_dir("000000005.h5"), &c, &path, NULL, NULL)); // any file, not only the newest
  assert_int_equal(c.iteration, 5);
  free(path);
  checkpoint_free(&c);
  expect(checkpoint_open(in_dir("000000005.h5/x"), &c, &path, NULL, NULL), dir, "Not a directory");
  snprintf(dir, sizeof dir, "%.40s", run);
}

static void the_newest_and_the_best_are_kept(void **state) {
  (void)state;
  for (int64_t i = 10; i <= 70; i += 10) {
    struct checkpoint c = sample(i);
    must(checkpoint_write(dir, &c, 3, i == 20));
    checkpoint_free(&c);
  }
  assert_int_equal(entries(), 4);
  accepted(in_dir("000000050.h5"), 50);
  accepted(in_dir("000000060.h5"), 60);
  accepted(in_dir("000000070.h5"), 70);
  accepted(in_dir("best.h5"), 20);
  struct checkpoint c = sample(80);
  must(checkpoint_write(dir, &c, 1, true));
  must(checkpoint_write(dir, &c, 1, true)); // the same again
  must(checkpoint_write(dir, &c, -5, true));
  checkpoint_free(&c);
  assert_int_equal(entries(), 2);
  accepted(in_dir("000000080.h5"), 80);
  accepted(in_dir("best.h5"), 80);
}

// After a resume past a broken newest file, that file must not push out the good ones.
static void broken_newer_files_do_not_count(void **state) {
  (void)state;
  for (int64_t i = 1; i <= 3; ++i) write_sample(i);
  write_all(in_dir("000000009.h5"), "broken", 6);
  struct checkpoint c = sample(4);
  must(checkpoint_write(dir, &c, 1, false));
  checkpoint_free(&c);
  assert_true(exists("000000004.h5") && exists("000000009.h5") && !exists("000000003.h5"));
}

static void best_is_a_copy_where_links_are_not_to_be_had(void **state) {
  (void)state;
  struct stat numbered, best;
  struct checkpoint c = sample(1);
  must(checkpoint_write(dir, &c, 3, true));
  assert_true(stat(in_dir("000000001.h5"), &numbered) == 0 && stat(in_dir("best.h5"), &best) == 0);
  assert_true(numbered.st_ino == best.st_ino);
  fault.link_error = EPERM;
  must(checkpoint_write(dir, &c, 3, true));
  assert_true(stat(in_dir("000000001.h5"), &numbered) == 0 && stat(in_dir("best.h5"), &best) == 0);
  assert_true(numbered.st_ino != best.st_ino);
  accepted(in_dir("best.h5"), 1);
  assert_int_equal(entries(), 2);
  fault.disk_left = 30000; // room for the first of the two; the copy does not fit
  size_t size;
  free(read_all(in_dir("best.h5"), &size));
  fault.disk_left = (ssize_t)size + 100;
  c.iteration = 2;
  expect(checkpoint_write(dir, &c, 3, true), "best.h5", strerror(ENOSPC));
  assert_int_equal(entries(), 2);
  checkpoint_free(&c);
}

static void leftovers_are_swept(void **state) {
  (void)state;
  static const char *const stay[] = {"000000001.h5.7.tmp",
                                     ".000000001.h5.tmp",
                                     ".000000001.h5.x7.tmp",
                                     ".7.tmp",
                                     "best.h5",
                                     ".h5.7.tmpx",
                                     "metrics.tmp",
                                     ".tmp"};
  static const char *const go[] = {".000000001.h5.7.tmp", ".best.h5.12345.tmp", ".1000000000.h5.1.tmp"};
  for (size_t i = 0; i < COUNT_OF(stay); ++i) write_all(in_dir(stay[i]), "x", 1);
  for (size_t i = 0; i < COUNT_OF(go); ++i) write_all(in_dir(go[i]), "x", 1);
  checkpoint_sweep(dir);
  checkpoint_sweep(in_dir("nowhere"));
  assert_int_equal(entries(), (int)COUNT_OF(stay));
  for (size_t i = 0; i < COUNT_OF(stay); ++i) assert_true(exists(stay[i]));
}

// --- Faults of the file system ---

static void failed_write(const char *name, int error) {
  struct checkpoint c = sample(2);
  expect(checkpoint_write(dir, &c, 1, false), in_dir(name), strerror(error));
  assert_int_equal(entries(), 1); // neither a torn file nor a temporary one; and the older one stays
  no_faults();
  accepted(in_dir("000000001.h5"), 1);
  checkpoint_free(&c);
}

static void full_disk_is_one_line_and_loses_nothing(void **state) {
  (void)state;
  write_sample(1);
  for (ssize_t left = 0; left < 20000; left += 4999) {
    fault.disk_left = left;
    failed_write("000000002.h5", ENOSPC);
  }
  fault.fsync_error = EIO;
  failed_write("000000002.h5", EIO);
  fault.rename_error = EACCES;
  failed_write("000000002.h5", EACCES);
}

static void file_size_limit_is_one_line(void **state) {
  (void)state;
  struct rlimit before, small;
  write_sample(1);
  void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
  assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
  small = before;
  small.rlim_cur = 5000;
  assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
  struct checkpoint c = sample(2);
  struct error *e = checkpoint_write(dir, &c, 1, true);
  assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
  signal(SIGXFSZ, handler);
  expect(e, in_dir("000000002.h5"), strerror(EFBIG));
  assert_int_equal(entries(), 1);
  checkpoint_free(&c);
}

static void short_writes_go_on(void **state) {
  (void)state;
  fault.write_at_most = 777;
  write_sample(1);
  accepted(in_dir("000000001.h5"), 1);
}

static void folder_that_cannot_be_written_is_one_line(void **state) {
  (void)state;
  struct checkpoint c = sample(1);
  expect(checkpoint_write(in_dir("nowhere"), &c, 1, true), in_dir("nowhere"), strerror(ENOENT));
  write_all(in_dir("file"), "x", 1);
  expect(checkpoint_write(in_dir("file"), &c, 1, true), in_dir("file"), strerror(ENOTDIR));
  expect(checkpoint_write(in_dir("file/below"), &c, 1, true), in_dir("file/below"), strerror(ENOTDIR));
  assert_int_equal(chmod(dir, 0500), 0);
  if (access(dir, W_OK) != 0) // root may write anywhere
    expect(checkpoint_write(dir, &c, 1, true), in_dir("000000001.h5"), strerror(EACCES));
  assert_int_equal(chmod(dir, 0700), 0);
  checkpoint_free(&c);
}

static void file_and_folder_reach_the_disk(void **state) {
  (void)state;
  write_sample(1);
  assert_true(fault.fsyncs == 1 && fault.folder_fsyncs == 1);
  fault.folder_fsync_error = EINVAL; // some network file systems cannot, and that must not stop a run
  write_sample(2);
  accepted(in_dir("000000002.h5"), 2);
  fault.folder_fsync_error = EIO;
  struct checkpoint c = sample(3);
  expect(checkpoint_write(dir, &c, 3, false), in_dir("000000003.h5"), strerror(EIO));
  checkpoint_free(&c);
}

// SIGKILL before each system call of a write in turn; the writes are cut in pieces.
static void kill_at_any_instant_leaves_a_whole_checkpoint(void **state) {
  (void)state;
  struct told told = {0};
  int killed = 0;
  for (int at = 1;; ++at) {
    write_sample(1);
    fflush(NULL);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
      struct checkpoint c = sample(2);
      fault.calls = 0;
      fault.kill_at = at;
      fault.write_at_most = 4096;
      _exit(checkpoint_write(dir, &c, 1, true) == NULL ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    struct checkpoint c;
    bool found;
    char *path;
    must(checkpoint_load_latest(dir, &c, &found, &path, tell, &told));
    assert_true(found && told.lines == 0);
    if (exists("best.h5")) accepted(in_dir("best.h5"), 2);
    if (c.iteration == 2) assert_true(exists("best.h5")); // the best is never behind
    accepted(path, c.iteration);
    free(path);
    checkpoint_free(&c);
    checkpoint_sweep(dir);
    assert_int_equal(entries(), exists("000000001.h5") + exists("000000002.h5") + exists("best.h5"));
    unlink(in_dir("000000002.h5"));
    unlink(in_dir("best.h5"));
    if (WIFEXITED(status)) {
      assert_int_equal(WEXITSTATUS(status), 0);
      break;
    }
    assert_int_equal(WTERMSIG(status), SIGKILL);
    ++killed;
  }
  assert_true(killed >= 8); // pieces, fsync, link, renames, fsync, unlink
}

// A killed writer with the same process id has left its temporary file linked to best.h5.
static void leftover_that_is_best_is_not_written_into(void **state) {
  (void)state;
  char leftover[64];
  struct checkpoint c = sample(1);
  must(checkpoint_write(dir, &c, 1, true));
  checkpoint_free(&c);
  snprintf(leftover, sizeof leftover, ".000000002.h5.%ld.tmp", (long)getpid());
  assert_int_equal(link(in_dir("best.h5"), in_dir(leftover)), 0);
  fault.disk_left = 100;
  c = sample(2);
  expect(checkpoint_write(dir, &c, 1, false), in_dir("000000002.h5"), strerror(ENOSPC));
  no_faults();
  checkpoint_free(&c);
  accepted(in_dir("best.h5"), 1);
  accepted(in_dir("000000001.h5"), 1);
}

// --- Comparison and description ---

static void differs(const struct checkpoint *a, const struct checkpoint *b, const char *want) {
  char *difference = checkpoint_difference(a, b);
  if (difference == NULL) fail_msg("no difference, but '%s' expected", want);
  assert_string_equal(difference, want);
  free(difference);
}

static void a_difference_in_the_acting_weights_is_named(void **state) {
  (void)state;
  struct checkpoint a = sample_ahead(1), b = sample_ahead(1), plain = sample(1);
  assert_null(checkpoint_difference(&a, &b));
  differs(&a, &plain, "acting weights: 1 and 0");
  a.acting_m2[2] = 1, b.acting_m2[2] = 1.5;
  differs(&a, &b, "acting/normalizer/m2[2]: 0x1p+0 and 0x1.8p+0");
  a.acting_mean[1] = 1, b.acting_mean[1] = 2;
  differs(&a, &b, "acting/normalizer/mean[1]: 0x1p+0 and 0x1p+1");
  a.acting_count = 1, b.acting_count = 2;
  differs(&a, &b, "acting/normalizer/count: 0x1p+0 and 0x1p+1");
  a.acting[21] = 1, b.acting[21] = 2;
  differs(&a, &b, "acting/parameters/value/b0[0]: 0x1p+0 and 0x1p+1");
  checkpoint_free(&a);
  checkpoint_free(&b);
  checkpoint_free(&plain);
}

// Changes come from the last place to the first, so that each must hide those before it.
static void first_difference_is_named(void **state) {
  (void)state;
  struct checkpoint a = sample(1), b = sample(1);
  assert_null(checkpoint_difference(&a, &b));
  b.wall_seconds = 0;
  b.config_text[0] = 'T', b.metrics_text[0] = '?';
  assert_null(checkpoint_difference(&a, &b));

  a.env_state[13] = 0.0, b.env_state[13] = -0.0;
  differs(&a, &b, "env_state[environment 2, column 3]: 0x0p+0 and -0x0p+0");
  b.state_size = 4;
  differs(&a, &b, "state_size: 5 and 4");
  b.envs = 3;
  differs(&a, &b, "envs: 4 and 3");
  a.normalizer_m2[2] = 1, b.normalizer_m2[2] = 1.5;
  differs(&a, &b, "normalizer/m2[2]: 0x1p+0 and 0x1.8p+0");
  a.normalizer_mean[1] = 0.5, b.normalizer_mean[1] = INFINITY;
  differs(&a, &b, "normalizer/mean[1]: 0x1p-1 and inf");
  a.normalizer_count = double_of_bits(UINT64_C(0x7ff8000000000001));
  b.normalizer_count = double_of_bits(UINT64_C(0x7ff8000000000002));
  differs(&a, &b, "normalizer/count: nan(0x7ff8000000000001) and nan(0x7ff8000000000002)");
  b.obs_dim = 2;
  differs(&a, &b, "obs_dim: 3 and 2");
  a.adam_v[21] = 1, b.adam_v[21] = 2;
  differs(&a, &b, "adam/v/value/b0[0]: 0x1p+0 and 0x1p+1");
  a.adam_m[18] = 3, b.adam_m[18] = 2;
  differs(&a, &b, "adam/m/value/w0[2, 0]: 0x1.8p+1 and 0x1p+1");
  a.parameters[6] = 3, b.parameters[6] = float_of_bits(0x40400001);
  differs(&a, &b, "parameters/policy/w0[1, 2]: 0x1.8p+1 and 0x1.800002p+1");
  a.parameters[1] = float_of_bits(0x7fc00000), b.parameters[1] = float_of_bits(0xffc00001);
  differs(&a, &b, "parameters/policy/w0[0, 1]: nan(0x7fc00000) and nan(0xffc00001)");
  b.tensors[2].rows = 1, b.tensors[2].cols = 5;
  differs(&a, &b, "tensor 2: value/w0 [5, 1] at 16 and value/w0 [1, 5] at 16");
  b.tensor_count = 3;
  differs(&a, &b, "number of tensors: 4 and 3");
  b.best_return = 17;
  differs(&a, &b, "best_return: -inf and 0x1.1p+4");
  b.adam_step = 65;
  differs(&a, &b, "adam_step: 64 and 65");
  b.episodes = 18;
  differs(&a, &b, "episodes: 17 and 18");
  b.env_steps = 1;
  differs(&a, &b, "env_steps: 4096 and 1");
  b.iteration = 2;
  differs(&a, &b, "iteration: 1 and 2");
  strcpy(b.task_name, "Hopper");
  differs(&a, &b, "task: CartpoleBalance and Hopper");
  checkpoint_free(&a);
  checkpoint_free(&b);
}

static char *described(const struct checkpoint *c, const char *path, bool json) {
  char *text = NULL;
  size_t size;
  FILE *out = open_memstream(&text, &size);
  assert_non_null(out);
  checkpoint_describe(c, path, json, out);
  assert_int_equal(fclose(out), 0);
  return text;
}

static void has(const char *text, const char *words) {
  if (strstr(text, words) == NULL) fail_msg("'%s' is not in:\n%s", words, text);
}

static void description_names_everything(void **state) {
  (void)state;
  struct checkpoint c = sample(120);
  for (int i = 0; i < 4; ++i) c.parameters[12 + i] = 2;
  char *text = described(&c, "run/000000120.h5", false);
  has(text, "checkpoint    run/000000120.h5\n");
  has(text, "task          CartpoleBalance\n");
  has(text, "iteration     120\n");
  has(text, "wall time     1:02:05\n");
  has(text, "best return   none yet\n");
  has(text, "environments  4, 5 numbers each\n");
  has(text, "parameters    22 in 4 tensors\n");
  has(text, "policy/w0  [3, 4] ");
  has(text, "policy/b0  [4]                       4 ");
  has(text, "  task:\n    name: \"J\xc3\xbcrgen\"\n  seed: 1\n");
  free(text);
  text = described(&c, "run/000000120.h5", true);
  has(text, "{\"path\": \"run/000000120.h5\", \"bytes\": 0, \"format\": 1, \"task\": \"CartpoleBalance\", ");
  has(text, "\"iteration\": 120, ");
  has(text, "\"best_return\": null, ");
  has(text, "{\"name\": \"policy/w0\", \"shape\": [3, 4], \"norm\": null, ");
  has(text, "{\"name\": \"policy/b0\", \"shape\": [4], \"norm\": 4, ");
  has(text, "\"config\": \"task:\\n  name: \\\"J\xc3\xbcrgen\\\"\\nseed: 1\\n\"}\n");
  free(text);
  checkpoint_free(&c);
}

static void description_of_hostile_text_is_harmless(void **state) {
  (void)state;
  struct checkpoint c = sample(1);
  free(c.config_text);
  c.config_text = strdup("a\033[2Jb\tc\\\xff\xc2\x9b\x7f\xe2\x82");
  strcpy(c.task_name, "\"\r");
  char *text = described(&c, "", true);
  has(text, "\"config\": \"a\\u001b[2Jb\\u0009c\\\\\\ufffd\\u009b\\u007f\\ufffd\\ufffd\"}");
  has(text, "\"task\": \"\\\"\\u000d\"");
  free(text);
  text = described(&c, NULL, false);
  has(text, "checkpoint    -\n");
  has(text, "  a?[2Jb\tc\\????"
            "?\n");
  has(text, "task          \"?\n");
  free(text);
  checkpoint_free(&c);
}

static void library_says_its_version(void **state) {
  (void)state;
  char text[32];
  unsigned major, minor;
  checkpoint_library_version(text, sizeof text);
  assert_int_equal(sscanf(text, "%u.%u.", &major, &minor), 2);
  assert_true(major >= 1);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)
  const struct CMUnitTest tests[] = {
      TEST(what_is_written_comes_back_bit_for_bit),
      TEST(acting_weights_come_back_where_they_are),
      TEST(empty_parts_come_back_empty),
      TEST(many_large_tensors_come_back),
      TEST(equal_content_makes_equal_bytes),
      TEST(what_cannot_be_read_back_is_not_written),
      TEST(torn_checkpoint_is_refused),
      TEST(flipped_byte_is_refused),
      TEST(appended_byte_is_refused),
      TEST(future_format_is_refused_by_its_number),
      TEST(foreign_files_are_named),
      TEST(lying_files_are_refused),
      TEST(broken_hdf5_is_refused),
      TEST(nothing_is_printed),
      TEST(nothing_of_hdf5_stays_open),
      TEST(applications_error_printing_is_put_back),
      TEST(newest_that_verifies_is_loaded),
      TEST(order_is_by_number),
      TEST(all_broken_is_an_error),
      TEST(open_takes_run_folder_or_file),
      TEST(the_newest_and_the_best_are_kept),
      TEST(broken_newer_files_do_not_count),
      TEST(best_is_a_copy_where_links_are_not_to_be_had),
      TEST(leftovers_are_swept),
      TEST(full_disk_is_one_line_and_loses_nothing),
      TEST(file_size_limit_is_one_line),
      TEST(short_writes_go_on),
      TEST(folder_that_cannot_be_written_is_one_line),
      TEST(file_and_folder_reach_the_disk),
      TEST(kill_at_any_instant_leaves_a_whole_checkpoint),
      TEST(leftover_that_is_best_is_not_written_into),
      TEST(a_difference_in_the_acting_weights_is_named),
      TEST(first_difference_is_named),
      TEST(description_names_everything),
      TEST(description_of_hostile_text_is_harmless),
      TEST(library_says_its_version),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
