// Checkpoint files as bytes: the header that proves them whole, reading, writing, rotation. Private to checkpoint*.c.
#ifndef FLOWRANK_CHECKPOINT_FILE_H
#define FLOWRANK_CHECKPOINT_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

enum { CHECKPOINT_BLOCK_BYTES = 512 };
#define CHECKPOINT_MAX_ITERATION INT64_C(999999999999999) // what a file name has room for

// A whole file in memory: the header (HDF5 calls it user block), then HDF5. The owner frees `bytes`.
struct checkpoint_image {
  unsigned char *bytes;
  size_t size;
};

// Fills the header: one line with the format, the file's size and the checksum of everything behind it.
void checkpoint_image_seal(struct checkpoint_image *image);

// Reads a file and verifies its header. Errors do not name the file. The caller frees the bytes, also after an error.
struct error *checkpoint_image_read(const char *path, struct checkpoint_image *image) MUST_USE;

// Puts a sealed image into DIR as checkpoint_write promises. best.h5 is made first: after an error it may be newer than
// the newest numbered file.
struct error *checkpoint_image_write(const char *dir, int64_t iteration, const struct checkpoint_image *image,
                                     int64_t keep, bool best) MUST_USE;

// Iterations of the numbered files in DIR, newest first; none when there is no such folder. The caller frees
// *iterations, also after an error.
struct error *checkpoint_list(const char *dir, int64_t **iterations, size_t *count) MUST_USE;

#endif
