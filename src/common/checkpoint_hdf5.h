// The part of the HDF5 file format that checkpoints are written in, read without the library, which a crafted file makes
// read and write outside its memory (HDF5 1.10.8). Private to checkpoint*.c.
//
// What is read: superblock 0, groups of symbol tables, object headers 1, attributes of the root group, datasets stored in
// one piece. That is what HDF5 of any version writes for H5F_LIBVER_EARLIEST. Nothing here leads out of the image: links to
// elsewhere, external storage, virtual datasets and filters are not known, and refused by name.
#ifndef FLOWRANK_CHECKPOINT_HDF5_H
#define FLOWRANK_CHECKPOINT_HDF5_H

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

enum { HDF5_MAX_RANK = 2 };

// An HDF5 file in memory, owned by the caller: addresses in it count from its first byte.
struct hdf5_image {
  const unsigned char *bytes;
  size_t size;
  uint64_t root; // address of the root group's header
  size_t steps;  // left: what a lookup may still go through, so that no crafted circle is endless
};

// An attribute's or a dataset's value inside the image.
struct hdf5_value {
  const unsigned char *type; // the datatype as the file encodes it [type_size]
  size_t type_size, element_size;
  int rank; // 0: a scalar
  uint64_t dims[HDF5_MAX_RANK];
  const unsigned char *data; // [data_size]; a dataset's is as long as its storage, an attribute's at least as its value
  size_t data_size;
};

// All errors name what is wrong, but not the file.
struct error *hdf5_open(const unsigned char *bytes, size_t size, struct hdf5_image *image) MUST_USE;
struct error *hdf5_attribute(struct hdf5_image *image, const char *name, struct hdf5_value *value) MUST_USE;
struct error *hdf5_dataset(struct hdf5_image *image, const char *path, struct hdf5_value *value) MUST_USE;

#endif
