// Frames to a file, by ffmpeg: a child process that reads them from a socket.
//   video_open, video_add for each frame, video_close; after an error video_discard instead.
// What ffmpeg makes has no name until it is whole: however flowrank ends, no partial file is left.
#ifndef FLOWRANK_VIDEO_H
#define FLOWRANK_VIDEO_H

#include <stdint.h>
#include <sys/types.h>

#include "common/error.h"

enum video_kind {
  VIDEO_MP4,
  VIDEO_GIF, // with a palette of its own
  VIDEO_PNG, // one sheet of all frames
};

struct video {
  const char *path; // the caller's
  size_t frame_bytes;
  pid_t ffmpeg;               // 0: none
  int frames, output, errors; // its stdin, our end of it; its stdout and stderr, files without a name. -1: none
};

struct video_format {
  enum video_kind kind;
  int width, height;       // pixels of a frame, even
  int per_second;          // frames
  int per_row, sheet_rows; // of a sheet; ignored by the others
};

// The kind that a file's extension stands for. Errors: another extension (usage).
struct error *video_kind_of(const char *path, enum video_kind *kind) MUST_USE;

// Errors: the folder cannot be written into; there is no ffmpeg.
struct error *video_open(struct video *v, const char *path, const struct video_format *format) MUST_USE;

// rgb [height, width, 3], the top row first. Errors: ffmpeg's end, with its status and its word.
struct error *video_add(struct video *v, const uint8_t *rgb) MUST_USE;

// Waits for ffmpeg and gives the file its name. Errors: ffmpeg's; the file cannot be written.
struct error *video_close(struct video *v) MUST_USE;

// Ends ffmpeg, if it runs, and forgets what it made. Also after video_close.
void video_discard(struct video *v);

#endif
