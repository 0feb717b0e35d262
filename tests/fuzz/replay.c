// Runs a fuzz target over every file of a folder, where no libFuzzer is: the corpus as an ordinary test.
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "fuzz.h"

enum { PATH_BYTES = 4096 };

static void replay(const char *path) {
  struct stat status;
  FILE *file = fopen(path, "rb");
  if (file == NULL || fstat(fileno(file), &status) != 0) abort();
  const size_t size = (size_t)status.st_size;
  uint8_t *bytes = malloc(size ? size : 1); // exactly as long as the file, so that a read beyond it is seen
  if (bytes == NULL || fread(bytes, 1, size, file) != size) abort();
  fclose(file);
  LLVMFuzzerTestOneInput(bytes, size);
  free(bytes);
}

int main(int argc, char **argv) {
  DIR *folder = argc == 2 ? opendir(argv[1]) : NULL;
  int count = 0;
  if (folder == NULL) {
    fprintf(stderr, "usage: %s CORPUS\n", argv[0]);
    return 2;
  }
  for (const struct dirent *entry; (entry = readdir(folder)) != NULL;) {
    char path[PATH_BYTES];
    if (entry->d_name[0] == '.') continue;
    snprintf(path, sizeof path, "%s/%s", argv[1], entry->d_name);
    replay(path);
    ++count;
  }
  closedir(folder);
  printf("%d inputs\n", count);
  return count > 0 ? 0 : 1;
}
