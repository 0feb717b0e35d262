#include "actor/video.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

// --- The file ---

struct error *video_kind_of(const char *path, enum video_kind *kind) {
  static const char *const EXTENSIONS[] = {[VIDEO_MP4] = ".mp4", [VIDEO_GIF] = ".gif", [VIDEO_PNG] = ".png"};
  const size_t length = strlen(path);
  for (int k = VIDEO_MP4; k <= VIDEO_PNG; ++k) {
    const size_t extension = strlen(EXTENSIONS[k]);
    if (length <= extension || strcmp(path + length - extension, EXTENSIONS[k]) != 0) continue;
    *kind = (enum video_kind)k;
    return NULL;
  }
  return error_new(EXIT_CODE_USAGE, "-o '%.200s': its extension is none of .mp4, .gif and .png", path);
}

static struct error *cannot_write(const char *path) {
  return error_new(EXIT_CODE_FAILED, "%s: cannot write it: %s", path, strerror(errno));
}

// A new file beside `path`; -1 with errno.
static int create_temporary(const char *path, char temporary[PATH_MAX]) {
  const int length = snprintf(temporary, PATH_MAX, "%s.%ld.tmp", path, (long)getpid());
  if (length >= 0 && length < PATH_MAX)
    return open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0666);
  errno = ENAMETOOLONG;
  return -1;
}

// What would only be found out at the end.
static struct error *check_target(const char *path) {
  char temporary[PATH_MAX];
  struct stat status;
  if (stat(path, &status) == 0 && S_ISDIR(status.st_mode)) {
    errno = EISDIR;
    return cannot_write(path);
  }
  const int fd = create_temporary(path, temporary);
  if (fd < 0) return cannot_write(path);
  close(fd);
  unlink(temporary);
  return NULL;
}

static bool copy_all(int to, int from) {
  struct stat status;
  off_t done = 0;
  if (fstat(from, &status) != 0) return false;
  while (done < status.st_size) {
    const ssize_t now = sendfile(to, from, &done, (size_t)(status.st_size - done));
    if (now < 0 && errno == EINTR) continue;
    if (now == 0) errno = EIO;
    if (now <= 0) return false;
  }
  return true;
}

// Gives the finished file its name, in one step.
static struct error *publish(const struct video *v) {
  char temporary[PATH_MAX];
  const int fd = create_temporary(v->path, temporary);
  if (fd < 0) return cannot_write(v->path);
  struct error *e = copy_all(fd, v->output) ? NULL : cannot_write(v->path);
  if (close(fd) != 0 && e == NULL) e = cannot_write(v->path); // where NFS reports a full disk
  if (e == NULL && rename(temporary, v->path) != 0) e = cannot_write(v->path);
  if (e != NULL) unlink(temporary);
  return e;
}

// --- ffmpeg ---

// Waits for its end. The error of an end that is not well, with the first line that it wrote.
static struct error *wait_for_ffmpeg(struct video *v) {
  int status = 0; // stays so where SIGCHLD is ignored, and the kernel keeps no word of it
  while (waitpid(v->ffmpeg, &status, 0) < 0 && errno == EINTR) {
  }
  v->ffmpeg = 0;
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return NULL;
  char word[256] = "";
  const ssize_t length = pread(v->errors, word, sizeof word - 1, 0);
  word[length > 0 ? length : 0] = '\0';
  word[strcspn(word, "\r\n")] = '\0';
  const bool killed = WIFSIGNALED(status);
  return error_new(EXIT_CODE_FAILED, "%s: ffmpeg ended with %s %d%s%s", v->path, killed ? "signal" : "exit status",
                   killed ? WTERMSIG(status) : WEXITSTATUS(status), *word ? ": " : "", word);
}

enum { MOST_ARGUMENTS = 32 };

// text: where the arguments that have numbers in them are kept.
static void arguments_of(const struct video_format *f, char text[3][64], const char *arguments[MOST_ARGUMENTS]) {
  static const char *const HOW[][8] = {
      [VIDEO_MP4] = {"-f", "mp4", "-pix_fmt", "yuv420p", "-movflags", "+faststart"},
      [VIDEO_GIF] = {"-f", "gif", "-lavfi", "split[a][b];[a]palettegen=stats_mode=diff[p];[b][p]paletteuse"},
      [VIDEO_PNG] = {"-f", "image2pipe", "-c:v", "png", "-frames:v", "1", "-vf"},
  };
  snprintf(text[0], sizeof text[0], "%dx%d", f->width, f->height);
  snprintf(text[1], sizeof text[1], "%d", f->per_second);
  snprintf(text[2], sizeof text[2], "tile=%dx%d", f->per_row, f->sheet_rows);
  const char *const source[] = {"ffmpeg", "-loglevel",   "error", "-nostdin",   "-f",    "rawvideo", "-pixel_format",
                                "rgb24",  "-video_size", text[0], "-framerate", text[1], "-i",       "pipe:0"};
  int count = 0;
  for (size_t i = 0; i < sizeof source / sizeof *source; ++i) arguments[count++] = source[i];
  for (int i = 0; i < 8 && HOW[f->kind][i] != NULL; ++i) arguments[count++] = HOW[f->kind][i];
  if (f->kind == VIDEO_PNG) arguments[count++] = text[2];
  arguments[count++] = "-y";
  arguments[count++] = "/proc/self/fd/1"; // mp4 has to seek in it, which a pipe cannot
  arguments[count] = NULL;
}

// stdin, stdout, stderr: the child's, in this order.
static int spawn(pid_t *pid, const int files[3], const char *const *arguments) {
  posix_spawn_file_actions_t actions;
  int fault = posix_spawn_file_actions_init(&actions);
  if (fault != 0) return fault;
  for (int i = 0; i < 3 && fault == 0; ++i) fault = posix_spawn_file_actions_adddup2(&actions, files[i], i);
  if (fault == 0) fault = posix_spawnp(pid, arguments[0], &actions, NULL, (char *const *)arguments, environ);
  posix_spawn_file_actions_destroy(&actions);
  return fault;
}

// A socket, not a pipe: writing to a child that has ended is an error here, and no SIGPIPE.
static struct error *start_ffmpeg(struct video *v, const struct video_format *format) {
  const char *arguments[MOST_ARGUMENTS];
  char text[3][64];
  int ends[2];
  v->output = memfd_create("flowrank video", MFD_CLOEXEC);
  v->errors = memfd_create("flowrank ffmpeg", MFD_CLOEXEC);
  if (v->output < 0 || v->errors < 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
    return error_new(EXIT_CODE_FAILED, "cannot reach ffmpeg: %s", strerror(errno));
  v->frames = ends[0];
  arguments_of(format, text, arguments);
  const int fault = spawn(&v->ffmpeg, (int[3]){ends[1], v->output, v->errors}, arguments);
  close(ends[1]);
  if (fault == 0) return NULL;
  v->ffmpeg = 0;
  if (fault == ENOENT)
    return error_new(EXIT_CODE_FAILED, "rendering needs ffmpeg, which is not in PATH: install it (Debian package "
                                       "ffmpeg)");
  return error_new(EXIT_CODE_FAILED, "cannot start ffmpeg: %s", strerror(fault));
}

static void close_file(int *fd) {
  if (*fd >= 0) close(*fd);
  *fd = -1;
}

struct error *video_open(struct video *v, const char *path, const struct video_format *format) {
  *v = (struct video){.path = path, .frames = -1, .output = -1, .errors = -1};
  v->frame_bytes = (size_t)format->width * (size_t)format->height * 3;
  TRY(check_target(path));
  struct error *e = start_ffmpeg(v, format);
  if (e != NULL) video_discard(v);
  return e;
}

struct error *video_add(struct video *v, const uint8_t *rgb) {
  for (size_t done = 0; done < v->frame_bytes;) {
    const ssize_t now = send(v->frames, rgb + done, v->frame_bytes - done, MSG_NOSIGNAL);
    if (now < 0 && errno == EINTR) continue;
    if (now < 0) {
      struct error *e = wait_for_ffmpeg(v);
      return e != NULL ? e : error_new(EXIT_CODE_FAILED, "%s: ffmpeg ended before the last frame", v->path);
    }
    done += (size_t)now;
  }
  return NULL;
}

struct error *video_close(struct video *v) {
  close_file(&v->frames);
  TRY(wait_for_ffmpeg(v));
  return publish(v);
}

void video_discard(struct video *v) {
  if (v->ffmpeg > 0) {
    kill(v->ffmpeg, SIGKILL);
    while (waitpid(v->ffmpeg, NULL, 0) < 0 && errno == EINTR) {
    }
    v->ffmpeg = 0;
  }
  close_file(&v->frames);
  close_file(&v->output);
  close_file(&v->errors);
}
