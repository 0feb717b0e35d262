// Reads golden HDF5 files. The folder is $FLOWRANK_GOLDEN, else the compile definition FLOWRANK_GOLDEN_DEFAULT. All
// sizes come from the file. Anything missing or unreadable fails the running cmocka test with the file's and its name.
#ifndef FLOWRANK_TESTS_GOLDEN_FILE_H
#define FLOWRANK_TESTS_GOLDEN_FILE_H

#include <stddef.h>
#include <stdint.h>

enum { GOLDEN_MAX_RANK = 8, GOLDEN_NAME_SIZE = 256 };

struct golden {
  int64_t file; // an HDF5 identifier
  char path[4096];
};

// A dataset as doubles, whatever it is stored as. The caller owns `data` (golden_array_free).
struct golden_array {
  int rank;
  size_t dim[GOLDEN_MAX_RANK];
  size_t count; // product of dim
  double *data;
};

// Opens <golden folder>/<name>, for example "fpo/golden.h5".
void golden_open(struct golden *g, const char *name);
void golden_close(struct golden *g);

// Whether the group or dataset `path` exists.
int golden_has(const struct golden *g, const char *path);

// A scalar number at group or dataset `object` ("/" for the file's own).
double golden_attribute(const struct golden *g, const char *object, const char *name);

// A dataset, whatever its rank.
struct golden_array golden_read(const struct golden *g, const char *path);
void golden_array_free(struct golden_array *a);

// Members of a group by number, in the order of their names. golden_member returns 0 behind the last one.
int golden_member(const struct golden *g, const char *group, size_t number, char name[GOLDEN_NAME_SIZE]);

#endif
