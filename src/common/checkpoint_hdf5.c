// The part of the HDF5 file format that checkpoints are written in. Numbers in comments: the section of the "HDF5 File Format
// Specification Version 2.0". Every address, size and count is held against the image before it is used.
#include "common/checkpoint_hdf5.h"

#include <stdbool.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "checkpoints are read as they lie in the file, little-endian"
#endif

enum { MESSAGE_HEADER = 8, ENTRY_BYTES = 40, MAX_TREE_LEVEL = 8, MAX_CHUNKS = 64 };
enum message_type {
  MESSAGE_DATASPACE = 0x1,
  MESSAGE_LINK_INFO = 0x2,
  MESSAGE_DATATYPE = 0x3,
  MESSAGE_EXTERNAL_FILES = 0x7,
  MESSAGE_LAYOUT = 0x8,
  MESSAGE_FILTERS = 0xb,
  MESSAGE_ATTRIBUTE = 0xc,
  MESSAGE_CONTINUATION = 0x10,
  MESSAGE_SYMBOL_TABLE = 0x11,
};

// A stretch of the image, or of a message.
struct bytes {
  const unsigned char *at;
  size_t size;
};

// --- Reading within bounds ---

static uint64_t number(const unsigned char *at, size_t size) {
  uint64_t value = 0;
  memcpy(&value, at, size);
  return value;
}

// [address, address + size) of `in`; null where that is not inside.
static const unsigned char *part(struct bytes in, uint64_t address, uint64_t size) {
  return address <= in.size && size <= in.size - address ? in.at + address : NULL;
}

static struct bytes whole(const struct hdf5_image *image) { return (struct bytes){image->bytes, image->size}; }

static const unsigned char *piece(const struct hdf5_image *image, uint64_t address, uint64_t size) {
  return part(whole(image), address, size);
}

// One step of a walk through the image; false when there have been more than any whole file needs.
static bool step(struct hdf5_image *image) { return image->steps > 0 && image->steps-- > 0; }

static struct error *damaged(const char *what) {
  return error_new(EXIT_CODE_FAILED, "its HDF5 structure is damaged at %s", what);
}

static struct error *must_be(const char *what, const char *kind) {
  return error_new(EXIT_CODE_FAILED, "%s is not %s", what, kind);
}

// --- Objects: a header of messages (IV.A.1.a) ---

struct message {
  unsigned type;
  bool shared; // its content lies elsewhere
  struct bytes content;
};

// A walk through an object's messages, chunk after chunk.
struct walk {
  struct hdf5_image *image;
  struct bytes chunk[MAX_CHUNKS];
  int chunks, now;
  size_t messages; // left
};

static bool walk_begin(struct hdf5_image *image, uint64_t object, struct walk *w) {
  const unsigned char *header = piece(image, object, 16);
  if (header == NULL || header[0] != 1) return false;
  const uint64_t size = number(header + 8, 4);
  const unsigned char *first = piece(image, object + 16, size);
  *w = (struct walk){.image = image, .chunk = {{first, (size_t)size}}, .chunks = 1, .messages = number(header + 2, 2)};
  return first != NULL;
}

static bool add_chunk(struct walk *w, struct bytes content) {
  if (content.size < 16 || w->chunks == MAX_CHUNKS) return false;
  const uint64_t size = number(content.at + 8, 8);
  const unsigned char *chunk = piece(w->image, number(content.at, 8), size);
  w->chunk[w->chunks++] = (struct bytes){chunk, (size_t)size};
  return chunk != NULL;
}

// The next message: 1; none is left: 0; damage: -1.
static int walk_on(struct walk *w, struct message *m) {
  while (w->messages > 0) {
    struct bytes *chunk = &w->chunk[w->now];
    if (chunk->size < MESSAGE_HEADER) {
      if (++w->now == w->chunks) return 0;
      continue;
    }
    const uint64_t size = number(chunk->at + 2, 2);
    const unsigned char *content = part(*chunk, MESSAGE_HEADER, size);
    if (content == NULL || !step(w->image)) return -1;
    *m = (struct message){(unsigned)number(chunk->at, 2), (chunk->at[4] & 2) != 0, {content, (size_t)size}};
    chunk->at += MESSAGE_HEADER + size;
    chunk->size -= MESSAGE_HEADER + (size_t)size;
    --w->messages;
    if (m->type != MESSAGE_CONTINUATION) return 1;
    if (!add_chunk(w, m->content)) return -1;
  }
  return 0;
}

// --- Groups: a tree of symbol tables, names in a heap (III.A.1, III.B, III.C, III.D) ---

// What a path's component leads to.
struct link {
  bool found, elsewhere; // elsewhere: anything but an object of this file
  uint64_t object;
};

static bool same_name(struct bytes heap, uint64_t offset, struct bytes name) {
  const unsigned char *text = part(heap, offset, name.size + 1);
  return text != NULL && memcmp(text, name.at, name.size) == 0 && text[name.size] == '\0';
}

static bool find_in_table(struct hdf5_image *image, uint64_t table, struct bytes heap, struct bytes name,
                          struct link *link) {
  const unsigned char *head = piece(image, table, 8);
  if (head == NULL || memcmp(head, "SNOD", 4) != 0) return false;
  const uint64_t count = number(head + 6, 2);
  const unsigned char *entry = piece(image, table + 8, count * ENTRY_BYTES);
  if (entry == NULL) return false;
  for (uint64_t i = 0; i < count; ++i, entry += ENTRY_BYTES) {
    if (!step(image)) return false;
    if (!same_name(heap, number(entry, 8), name)) continue;
    *link = (struct link){.found = true, .elsewhere = number(entry + 16, 4) == 2, .object = number(entry + 8, 8)};
    return true;
  }
  return true;
}

// level: the node's; -1: the root's, whatever it is. NOLINTNEXTLINE(misc-no-recursion): as deep as MAX_TREE_LEVEL
static bool find_in_tree(struct hdf5_image *image, uint64_t node, int level, struct bytes heap, struct bytes name,
                         struct link *link) {
  const unsigned char *head = piece(image, node, 24);
  if (head == NULL || memcmp(head, "TREE", 4) != 0 || head[4] != 0) return false;
  const int here = head[5];
  if (level < 0 ? here > MAX_TREE_LEVEL : here != level) return false;
  const uint64_t count = number(head + 6, 2);
  const unsigned char *child = piece(image, node + 24, count * 16); // a key before each child
  if (child == NULL) return false;
  for (uint64_t i = 0; i < count && !link->found; ++i, child += 16) {
    const uint64_t address = number(child + 8, 8);
    if (!step(image)) return false;
    if (here == 0 ? !find_in_table(image, address, heap, name, link)
                  : !find_in_tree(image, address, here - 1, heap, name, link))
      return false;
  }
  return true;
}

static bool find_in_group(struct hdf5_image *image, struct bytes table, struct bytes name, struct link *link) {
  if (table.size < 16) return false;
  const unsigned char *heap = piece(image, number(table.at + 8, 8), 32);
  if (heap == NULL || memcmp(heap, "HEAP", 4) != 0) return false;
  const uint64_t size = number(heap + 8, 8);
  const struct bytes names = {piece(image, number(heap + 24, 8), size), (size_t)size};
  return names.at != NULL && find_in_tree(image, number(table.at, 8), -1, names, name, link);
}

// Groups that hold external links, or many, are of another kind, which has the message "link info".
static struct error *find_link(struct hdf5_image *image, uint64_t group, struct bytes name, const char *path,
                               struct link *link) {
  struct walk w;
  struct message m;
  int more = 0;
  *link = (struct link){0};
  if (!walk_begin(image, group, &w)) return damaged(path);
  while ((more = walk_on(&w, &m)) == 1) {
    if (m.type == MESSAGE_LINK_INFO)
      return must_be(path, "in an ordinary group, but among links that may lead elsewhere");
    if (m.type != MESSAGE_SYMBOL_TABLE || m.shared) continue;
    return find_in_group(image, m.content, name, link) ? NULL : damaged(path);
  }
  return more == 0 ? NULL : damaged(path); // not a group: it holds nothing
}

// path: "/a/b"; every step must be an ordinary link.
static struct error *find_object(struct hdf5_image *image, const char *path, uint64_t *object) {
  *object = image->root;
  for (const char *name = path; *name == '/';) {
    const size_t length = strcspn(++name, "/");
    const int upto = (int)(name + length - path);
    struct link link;
    TRY(find_link(image, *object, (struct bytes){(const unsigned char *)name, length}, path, &link));
    if (!link.found) return error_new(EXIT_CODE_FAILED, "it lacks %.*s", upto, path);
    if (link.elsewhere) return error_new(EXIT_CODE_FAILED, "%.*s is a link that leads elsewhere", upto, path);
    *object = link.object;
    name += length;
  }
  return NULL;
}

// --- Values ---

// A dataspace (IV.A.2.b), versions 1 and 2.
static bool read_space(struct bytes m, struct hdf5_value *value) {
  if (m.size < 4) return false;
  const int version = m.at[0];
  if (version != 1 && version != 2) return false;
  if (version == 2 && m.at[3] == 2) return false; // no value at all
  value->rank = m.at[1];
  const unsigned char *dims = part(m, version == 1 ? 8 : 4, 8 * (uint64_t)value->rank);
  if (dims == NULL) return false;
  for (int i = 0; i < value->rank && i < HDF5_MAX_RANK; ++i, dims += 8) value->dims[i] = number(dims, 8);
  return true;
}

static bool read_type(struct bytes m, struct hdf5_value *value) {
  if (m.size < 8) return false;
  value->type = m.at;
  value->type_size = m.size;
  value->element_size = number(m.at + 4, 4);
  return true;
}

// A layout (IV.A.2.i), version 3: 1 when it was read; 0: chunked, virtual, or of another version; -1: outside the image.
static int read_layout(const struct hdf5_image *image, struct bytes m, struct hdf5_value *value) {
  enum { COMPACT = 0, CONTIGUOUS = 1 };
  if (m.size < 4 || m.at[0] != 3 || m.at[1] > CONTIGUOUS) return 0;
  if (m.at[1] == COMPACT) {
    const uint64_t size = number(m.at + 2, 2);
    value->data = part(m, 4, size);
    value->data_size = (size_t)size;
    return value->data != NULL ? 1 : -1;
  }
  if (m.size < 18) return -1;
  const uint64_t address = number(m.at + 2, 8), size = number(m.at + 10, 8);
  const bool stored = address != UINT64_MAX; // HDF5 fills with zeros what never was
  value->data = piece(image, stored ? address : 0, stored ? size : 0);
  value->data_size = stored ? (size_t)size : 0;
  return value->data != NULL ? 1 : -1;
}

struct error *hdf5_dataset(struct hdf5_image *image, const char *path, struct hdf5_value *value) {
  uint64_t object;
  struct walk w;
  struct message m;
  int more = 0;
  bool space = false, type = false, layout = false, plain = true;
  *value = (struct hdf5_value){0};
  TRY(find_object(image, path, &object));
  if (!walk_begin(image, object, &w)) return damaged(path);
  while ((more = walk_on(&w, &m)) == 1) {
    if (m.type == MESSAGE_EXTERNAL_FILES || m.type == MESSAGE_FILTERS) plain = false;
    if (m.shared) continue;
    if (m.type == MESSAGE_DATASPACE) space = read_space(m.content, value);
    if (m.type == MESSAGE_DATATYPE) type = read_type(m.content, value);
    if (m.type != MESSAGE_LAYOUT) continue;
    const int good = read_layout(image, m.content, value);
    if (good < 0) return damaged(path);
    plain = plain && good > 0;
    layout = true;
  }
  if (more < 0) return damaged(path);
  if (!plain) return must_be(path, "stored plainly in the file");
  return space && type && layout ? NULL : must_be(path, "a readable dataset");
}

static uint64_t padded(uint64_t size) { return (size + 7) & ~UINT64_C(7); }

// An attribute (IV.A.2.m), version 1. *named: it is the one that is looked for.
static bool read_attribute(struct bytes m, const char *name, bool *named, struct hdf5_value *value) {
  *named = false;
  if (m.size < 8 || m.at[0] != 1) return true; // of another version: not flowrank's
  const uint64_t name_size = number(m.at + 2, 2), type_size = number(m.at + 4, 2), space_size = number(m.at + 6, 2);
  const uint64_t type_at = 8 + padded(name_size), space_at = type_at + padded(type_size);
  const uint64_t data_at = space_at + padded(space_size);
  const unsigned char *text = part(m, 8, name_size);
  *named = text != NULL && name_size == strlen(name) + 1 && memcmp(text, name, name_size) == 0;
  if (!*named) return text != NULL;
  if (data_at > m.size) return false;
  value->data = m.at + data_at;
  value->data_size = m.size - (size_t)data_at;
  return read_type((struct bytes){m.at + type_at, (size_t)type_size}, value) &&
         read_space((struct bytes){m.at + space_at, (size_t)space_size}, value);
}

struct error *hdf5_attribute(struct hdf5_image *image, const char *name, struct hdf5_value *value) {
  struct walk w;
  struct message m;
  int more = 0;
  bool named = false;
  *value = (struct hdf5_value){0};
  if (!walk_begin(image, image->root, &w)) return damaged("the root group");
  while (!named && (more = walk_on(&w, &m)) == 1)
    if (m.type == MESSAGE_ATTRIBUTE && !m.shared && !read_attribute(m.content, name, &named, value))
      more = -1, named = true;
  if (more < 0) return damaged(name);
  return named ? NULL : error_new(EXIT_CODE_FAILED, "it lacks the attribute %s", name);
}

// The superblock (II.A), version 0, with addresses and lengths of 8 bytes.
struct error *hdf5_open(const unsigned char *bytes, size_t size, struct hdf5_image *image) {
  static const unsigned char signature[] = "\211HDF\r\n\032\n\0"; // and the version
  const size_t steps_a_byte = 16;
  *image = (struct hdf5_image){.bytes = bytes, .size = size, .steps = SIZE_MAX / 2};
  if (size < SIZE_MAX / 2 / steps_a_byte) image->steps = steps_a_byte * size;
  const unsigned char *block = piece(image, 0, 96);
  if (block == NULL || memcmp(block, signature, sizeof signature) != 0 || block[13] != 8 || block[14] != 8)
    return error_new(EXIT_CODE_FAILED, "its content is not HDF5 as flowrank writes it");
  image->root = number(block + 64, 8);
  return NULL;
}
