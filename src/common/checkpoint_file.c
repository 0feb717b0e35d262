// Checkpoint files as bytes: the header that proves them whole, reading, writing, rotation. No HDF5.
#include "common/checkpoint_file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <xxhash.h>

#include "common/checkpoint.h"

enum { BLOCK_BYTES = CHECKPOINT_BLOCK_BYTES, NAME_BYTES = CHECKPOINT_NAME_BYTES };

static const char prefix[] = "flowrank checkpoint format=";
static const char hdf5_signature[] = "\211HDF\r\n\032\n";

// --- The header: one line in the user block, padded to its end ---

static void make_block(const struct checkpoint_image *image, char block[BLOCK_BYTES]) {
  const uint64_t hash = XXH3_64bits(image->bytes + BLOCK_BYTES, image->size - BLOCK_BYTES);
  memset(block, ' ', BLOCK_BYTES);
  const int length = snprintf(block, BLOCK_BYTES, "%s%d size=%zu xxh3=%016" PRIx64 "\n", prefix,
                              CHECKPOINT_FORMAT_VERSION, image->size, hash);
  block[length] = ' '; // over snprintf's zero
  block[BLOCK_BYTES - 1] = '\n';
}

void checkpoint_image_seal(struct checkpoint_image *image) {
  char block[BLOCK_BYTES];
  make_block(image, block);
  memcpy(image->bytes, block, sizeof block);
}

// Says what a file that begins with head[0..length) is, as far as its first bytes tell. Null: worth reading whole.
static struct error *recognise(const unsigned char *head, size_t length, size_t file_size) {
  const size_t known = sizeof prefix - 1, compared = length < known ? length : known;
  if (memcmp(head, prefix, compared) != 0) {
    if (length >= 8 && memcmp(head, hdf5_signature, 8) == 0)
      return error_new(EXIT_CODE_FAILED, "an HDF5 file, but not a flowrank checkpoint");
    if (length == BLOCK_BYTES + 8 && memcmp(head + BLOCK_BYTES, hdf5_signature, 8) == 0)
      return error_new(EXIT_CODE_FAILED, "an HDF5 file that flowrank did not write, or its header is damaged");
    return error_new(EXIT_CODE_FAILED, "not a flowrank checkpoint (nor any other HDF5 file)");
  }
  char line[BLOCK_BYTES + 1];
  const size_t in_line = length < BLOCK_BYTES ? length : BLOCK_BYTES;
  memcpy(line, head, in_line);
  line[in_line] = '\0';
  int version = 0, read_to = 0;
  size_t size = 0;
  const bool has_version = length > known && sscanf(line + known, "%9d%n", &version, &read_to) == 1;
  if (has_version && line[known + (size_t)read_to] == ' ' && version != CHECKPOINT_FORMAT_VERSION)
    return error_new(EXIT_CODE_FAILED, "written by format %d; this flowrank reads %d", version,
                     CHECKPOINT_FORMAT_VERSION);
  if (length < BLOCK_BYTES) return error_new(EXIT_CODE_FAILED, "torn: only its first %zu bytes are there", file_size);
  if (read_to == 0 || sscanf(line + known + (size_t)read_to, " size=%18zu", &size) != 1)
    return error_new(EXIT_CODE_FAILED, "its header is damaged");
  if (file_size < size)
    return error_new(EXIT_CODE_FAILED, "torn: only %zu of its %zu bytes are there", file_size, size);
  if (file_size > size)
    return error_new(EXIT_CODE_FAILED, "damaged: it has %zu bytes behind the end of its %zu", file_size - size, size);
  return NULL;
}

// The header must be, byte for byte, the one that this content is written with.
static struct error *check_block(const struct checkpoint_image *image) {
  char block[BLOCK_BYTES];
  make_block(image, block);
  if (memcmp(block, image->bytes, BLOCK_BYTES) == 0) return NULL;
  const char *hash = strstr(block, " xxh3=");
  const size_t to_hash = (size_t)(hash - block);
  if (memcmp(block, image->bytes, to_hash) == 0)
    return error_new(EXIT_CODE_FAILED, "damaged: its content does not have the checksum of its header");
  return error_new(EXIT_CODE_FAILED, "its header is damaged");
}

// --- Reading ---

// Reads up to `size` bytes; fewer only at the file's end. Negative: errno.
static ssize_t read_fully(int fd, unsigned char *bytes, size_t size) {
  size_t done = 0;
  while (done < size) {
    const ssize_t now = pread(fd, bytes + done, size - done, (off_t)done);
    if (now < 0 && errno == EINTR) continue;
    if (now < 0) return -1;
    if (now == 0) break;
    done += (size_t)now;
  }
  return (ssize_t)done;
}

static struct error *read_failed(void) { return error_new(EXIT_CODE_FAILED, "cannot read it: %s", strerror(errno)); }

static struct error *read_open_file(int fd, struct checkpoint_image *image) {
  unsigned char head[BLOCK_BYTES + 8];
  struct stat status;
  if (fstat(fd, &status) != 0) return read_failed();
  if (S_ISDIR(status.st_mode)) return error_new(EXIT_CODE_FAILED, "a folder, not a checkpoint file");
  if (!S_ISREG(status.st_mode)) return error_new(EXIT_CODE_FAILED, "not a regular file");
  if (status.st_size == 0) return error_new(EXIT_CODE_FAILED, "empty");
  // The head first: a large file of another kind is refused without being read.
  ssize_t got = read_fully(fd, head, sizeof head);
  if (got < 0) return read_failed();
  TRY(recognise(head, (size_t)got, (size_t)status.st_size));
  image->size = (size_t)status.st_size;
  image->bytes = malloc(image->size);
  if (image->bytes == NULL) return error_no_memory("the checkpoint's file");
  got = read_fully(fd, image->bytes, image->size);
  if (got < 0) return read_failed();
  if ((size_t)got != image->size) return error_new(EXIT_CODE_FAILED, "torn: it became shorter while it was read");
  return check_block(image);
}

struct error *checkpoint_image_read(const char *path, struct checkpoint_image *image) {
  // Non-blocking: a pipe is refused, not waited for.
  const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (fd < 0) return read_failed();
  struct error *e = read_open_file(fd, image);
  close(fd);
  return e;
}

// --- Folders ---

void checkpoint_name(int64_t iteration, char name[NAME_BYTES]) {
  snprintf(name, NAME_BYTES, "%09" PRId64 ".h5", iteration);
}

// The iteration of "000000120.h5"; -1 for any other name.
static int64_t iteration_of(const char *name) {
  char again[NAME_BYTES];
  int64_t iteration;
  if (name[0] < '0' || name[0] > '9' || sscanf(name, "%15" SCNd64, &iteration) != 1) return -1;
  checkpoint_name(iteration, again);
  return strcmp(name, again) == 0 ? iteration : -1;
}

static int newest_first(const void *a, const void *b) {
  int64_t x, y;
  memcpy(&x, a, sizeof x);
  memcpy(&y, b, sizeof y);
  return (x < y) - (x > y);
}

static struct error *read_folder(DIR *folder, const char *dir, int64_t **iterations, size_t *count) {
  size_t capacity = 0;
  for (;;) {
    errno = 0;
    const struct dirent *entry = readdir(folder);
    if (entry == NULL && errno != 0) return error_new(EXIT_CODE_FAILED, "%s: cannot read it: %s", dir, strerror(errno));
    if (entry == NULL) return NULL;
    const int64_t iteration = iteration_of(entry->d_name);
    if (iteration < 0) continue;
    if (*count == capacity) {
      capacity = capacity ? 2 * capacity : 16;
      int64_t *more = realloc(*iterations, capacity * sizeof *more);
      if (more == NULL) return error_no_memory("a folder's list");
      *iterations = more;
    }
    (*iterations)[(*count)++] = iteration;
  }
}

struct error *checkpoint_list(const char *dir, int64_t **iterations, size_t *count) {
  *iterations = NULL;
  *count = 0;
  DIR *folder = opendir(dir);
  if (folder == NULL && errno == ENOENT) return NULL;
  if (folder == NULL) return error_new(EXIT_CODE_FAILED, "%s: cannot read it: %s", dir, strerror(errno));
  struct error *e = read_folder(folder, dir, iterations, count);
  closedir(folder);
  if (*count > 1) qsort(*iterations, *count, sizeof **iterations, newest_first);
  return e;
}

// --- Writing ---

struct folder {
  const char *path;
  int fd;
};

static struct error *file_failed(const struct folder *dir, const char *name, const char *doing) {
  return error_new(EXIT_CODE_FAILED, "%s/%s: cannot %s it: %s", dir->path, name, doing, strerror(errno));
}

static bool write_fully(int fd, const struct checkpoint_image *image) {
  size_t done = 0;
  while (done < image->size) {
    const ssize_t now = write(fd, image->bytes + done, image->size - done);
    if (now < 0 && errno == EINTR) continue;
    if (now == 0) errno = EIO; // a file system that takes nothing and gives no reason
    if (now <= 0) return false;
    done += (size_t)now;
  }
  return true;
}

// A new file `temporary` with the image, on disk when this returns; removed again on error. Errors speak of `name`,
// which it is to become.
static struct error *write_image(const struct folder *dir, const char *temporary, const char *name,
                                 const struct checkpoint_image *image) {
  // A leftover of the same name (a restart can have the same process id) may share its bytes with best.h5: never write
  // into it.
  if (unlinkat(dir->fd, temporary, 0) != 0 && errno != ENOENT) return file_failed(dir, temporary, "remove");
  const int fd = openat(dir->fd, temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0666);
  if (fd < 0) return file_failed(dir, name, "create");
  struct error *e = write_fully(fd, image) && fsync(fd) == 0 ? NULL : file_failed(dir, name, "write");
  if (close(fd) != 0 && e == NULL) e = file_failed(dir, name, "write"); // where NFS reports a full disk
  if (e != NULL) unlinkat(dir->fd, temporary, 0);
  return e;
}

// Makes best.h5 the file `written`, or a copy of it where the file system has no hard links.
static struct error *make_best(const struct folder *dir, const char *written, const struct checkpoint_image *image) {
  char temporary[NAME_BYTES];
  snprintf(temporary, sizeof temporary, ".best.h5.%ld.tmp", (long)getpid());
  if (unlinkat(dir->fd, temporary, 0) != 0 && errno != ENOENT) return file_failed(dir, temporary, "remove");
  if (linkat(dir->fd, written, dir->fd, temporary, 0) != 0) TRY(write_image(dir, temporary, "best.h5", image));
  if (renameat(dir->fd, temporary, dir->fd, "best.h5") == 0) return NULL;
  struct error *e = file_failed(dir, "best.h5", "replace");
  unlinkat(dir->fd, temporary, 0);
  return e;
}

static struct error *place_files(const struct folder *dir, int64_t iteration, const struct checkpoint_image *image,
                                 bool best) {
  char name[NAME_BYTES], temporary[2 * NAME_BYTES];
  checkpoint_name(iteration, name);
  snprintf(temporary, sizeof temporary, ".%s.%ld.tmp", name, (long)getpid());
  TRY(write_image(dir, temporary, name, image));
  // best.h5 first: once the numbered file is there, a run that goes on from it never makes this best again.
  struct error *e = best ? make_best(dir, temporary, image) : NULL;
  if (e == NULL && renameat(dir->fd, temporary, dir->fd, name) != 0) e = file_failed(dir, name, "replace");
  if (e != NULL) unlinkat(dir->fd, temporary, 0);
  // Some network file systems cannot fsync a folder and say so by EINVAL.
  if (e == NULL && fsync(dir->fd) != 0 && errno != EINVAL) e = file_failed(dir, name, "write");
  return e;
}

// Files newer than the one just written did not load (the run would have gone on from them): they count for nothing
// and are left to be looked at until the run overwrites them.
static struct error *rotate(const struct folder *dir, int64_t iteration, int64_t keep) {
  int64_t *iterations, kept = 0;
  size_t count;
  struct error *e = checkpoint_list(dir->path, &iterations, &count);
  for (size_t i = 0; e == NULL && i < count; ++i) {
    char name[NAME_BYTES];
    if (iterations[i] > iteration) continue;
    if (iterations[i] == iteration || kept < keep) {
      ++kept;
      continue;
    }
    checkpoint_name(iterations[i], name);
    if (unlinkat(dir->fd, name, 0) != 0 && errno != ENOENT) e = file_failed(dir, name, "remove");
  }
  free(iterations);
  return e;
}

struct error *checkpoint_image_write(const char *path, int64_t iteration, const struct checkpoint_image *image,
                                     int64_t keep, bool best) {
  const struct folder dir = {path, open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  if (dir.fd < 0) return error_new(EXIT_CODE_FAILED, "%s: cannot write into it: %s", path, strerror(errno));
  struct error *e = place_files(&dir, iteration, image, best);
  if (e == NULL) e = rotate(&dir, iteration, keep);
  close(dir.fd);
  return e;
}

// ".<anything>.h5.<digits>.tmp"
static bool is_leftover(const char *name) {
  const size_t length = strlen(name);
  if (name[0] != '.' || length < 4 || strcmp(name + length - 4, ".tmp") != 0) return false;
  const char *id = strstr(name, ".h5.");
  if (id == NULL) return false;
  const size_t digits = strspn(id + 4, "0123456789");
  return digits > 0 && strcmp(id + 4 + digits, ".tmp") == 0;
}

void checkpoint_sweep(const char *dir) {
  DIR *folder = opendir(dir);
  if (folder == NULL) return;
  for (const struct dirent *entry; (entry = readdir(folder)) != NULL;)
    if (is_leftover(entry->d_name)) unlinkat(dirfd(folder), entry->d_name, 0);
  closedir(folder);
}
