// The checkpoint loader. Input: a checkpoint file. It is loaded as it is, and once more under a header that is right for
// it, as whoever means harm would write it; what is accepted must be whole.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/checkpoint.h"
#include "common/checkpoint_file.h"
#include "fuzz.h"

// Everything that is loaded is read, so that a sanitizer sees what lies outside.
static void look_at(const struct checkpoint *c, const char *path) {
  FILE *nowhere = fopen("/dev/null", "w");
  char *difference = checkpoint_difference(c, c);
  if (nowhere == NULL || difference != NULL) abort();
  checkpoint_describe(c, path, true, nowhere);
  checkpoint_describe(c, path, false, nowhere);
  fclose(nowhere);
}

static void load(const uint8_t *data, size_t size) {
  char path[64];
  struct checkpoint c;
  const int fd = memfd_create("checkpoint", MFD_CLOEXEC);
  if (fd < 0 || (size > 0 && write(fd, data, size) != (ssize_t)size)) abort();
  snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  struct error *e = checkpoint_load(path, &c);
  if (e != NULL && strchr(e->text, '\n') != NULL) abort();
  if (e == NULL) look_at(&c, path);
  error_free(e);
  checkpoint_free(&c);
  close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  load(data, size);
  if (size <= CHECKPOINT_BLOCK_BYTES) return 0;
  struct checkpoint_image image = {malloc(size), size};
  if (image.bytes == NULL) abort();
  memcpy(image.bytes, data, size);
  checkpoint_image_seal(&image);
  load(image.bytes, size);
  free(image.bytes);
  return 0;
}
