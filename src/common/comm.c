#include "common/comm.h"

#include <math.h>
#include <mpi.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"

enum { PIECE_BYTES = 1 << 30 };   // longest single MPI message; counts are ints
enum { SPINS_BEFORE_NAP = 2000 }; // polls that only yield, about 100 µs
enum { NAP_NANOSECONDS = 50000 };
enum { HOST_BYTES = 64 };

struct comm {
  int rank, size, node_ranks;
  MPI_Comm world;
  MPI_Request *pending; // [capacity]
  MPI_Status *status;   // [capacity]: how each ended
  int *peer;            // [capacity]: the other rank of each
  int pending_count, capacity;
  struct interrupt watch;
  char (*host)[HOST_BYTES]; // [size]
  MPI_Comm notes;
  MPI_Request note_arriving, *note_leaving; // [size]
  int64_t note_in, *note_out;               // [size]
  double timeout, looked, next_sign, next_check;
  bool lost;
  int lost_rank;
  double *heard; // [size]: when each rank's last note came; only rank 0's on the others
};

static const int64_t sign_of_life = INT64_MIN; // a note that nobody else sends

static struct error *mpi_error(const struct comm *comm, int status, const char *doing) {
  if (comm->lost)
    return error_new(EXIT_CODE_FAILED,
                     "rank %d on %s has given no sign of life for %.3g s (cluster.timeout): the job ends; the same "
                     "command goes on from the newest checkpoint",
                     comm->lost_rank, comm->host[comm->lost_rank], comm->timeout);
  char text[MPI_MAX_ERROR_STRING] = "unknown fault";
  int length;
  MPI_Error_string(status, text, &length);
  return error_new(EXIT_CODE_FAILED, "MPI on rank %d, %s: %s", comm->rank, doing, text);
}

static struct error *peer_error(const struct comm *comm, int status, const char *doing, int peer) {
  char text[64];
  snprintf(text, sizeof text, "%s rank %d", doing, peer);
  return mpi_error(comm, status, text);
}

static struct error *find_node_ranks(struct comm *comm) {
  MPI_Comm node;
  int status = MPI_Comm_split_type(comm->world, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node);
  if (status != MPI_SUCCESS) return mpi_error(comm, status, "finding the ranks of this node");
  MPI_Comm_size(node, &comm->node_ranks);
  MPI_Comm_free(&node);
  return NULL;
}

static struct error *find_hosts(struct comm *comm) {
  char host[HOST_BYTES] = "";
  gethostname(host, sizeof host - 1);
  comm->host = calloc((size_t)comm->size, sizeof *comm->host);
  if (comm->host == NULL) return error_no_memory("communication");
  const int status = MPI_Allgather(host, HOST_BYTES, MPI_CHAR, comm->host, HOST_BYTES, MPI_CHAR, comm->world);
  return status == MPI_SUCCESS ? NULL : mpi_error(comm, status, "finding the hosts");
}

static struct error *init_notes(struct comm *comm) {
  if (comm->size == 1) return NULL;
  const size_t size = (size_t)comm->size;
  comm->note_leaving = calloc(size, sizeof *comm->note_leaving);
  comm->note_out = calloc(size, sizeof *comm->note_out);
  for (size_t i = 0; comm->note_leaving != NULL && i < size; ++i) comm->note_leaving[i] = MPI_REQUEST_NULL;
  if (comm->note_leaving == NULL || comm->note_out == NULL) return error_no_memory("communication");
  int status = MPI_Comm_dup(comm->world, &comm->notes);
  if (status == MPI_SUCCESS)
    status = MPI_Irecv(&comm->note_in, 1, MPI_INT64_T, MPI_ANY_SOURCE, 0, comm->notes, &comm->note_arriving);
  return status == MPI_SUCCESS ? NULL : mpi_error(comm, status, "preparing notes");
}

static void free_notes(struct comm *comm) {
  if (comm->note_arriving != MPI_REQUEST_NULL) {
    MPI_Cancel(&comm->note_arriving);
    MPI_Wait(&comm->note_arriving, MPI_STATUS_IGNORE);
  }
  for (int i = 0; comm->note_leaving != NULL && i < comm->size; ++i)
    if (comm->note_leaving[i] != MPI_REQUEST_NULL) MPI_Wait(&comm->note_leaving[i], MPI_STATUS_IGNORE);
  if (comm->notes != MPI_COMM_NULL) MPI_Comm_free(&comm->notes);
  free(comm->note_leaving);
  free(comm->note_out);
}

struct error *comm_init(struct comm **out) {
  struct comm *comm = *out = calloc(1, sizeof *comm);
  if (comm == NULL) return error_no_memory("communication");
  int provided;
  int status = MPI_Init_thread(NULL, NULL, MPI_THREAD_SERIALIZED, &provided);
  if (status != MPI_SUCCESS || provided < MPI_THREAD_SERIALIZED) {
    free(comm);
    *out = NULL;
    return error_new(EXIT_CODE_FAILED, "MPI cannot be started with MPI_THREAD_SERIALIZED");
  }
  comm->world = MPI_COMM_WORLD;
  comm->notes = MPI_COMM_NULL;
  comm->note_arriving = MPI_REQUEST_NULL;
  MPI_Comm_set_errhandler(comm->world, MPI_ERRORS_RETURN);
  MPI_Comm_rank(comm->world, &comm->rank);
  MPI_Comm_size(comm->world, &comm->size);
  struct error *e = find_node_ranks(comm);
  if (e == NULL) e = find_hosts(comm);
  if (e == NULL) e = init_notes(comm);
  if (e == NULL) return NULL;
  comm_finalize(comm);
  *out = NULL;
  return e;
}

void comm_finalize(struct comm *comm) {
  if (comm == NULL) return;
  free_notes(comm);
  MPI_Finalize();
  free(comm->pending);
  free(comm->status);
  free(comm->peer);
  free(comm->host);
  free(comm->heard);
  free(comm);
}

void comm_abort(struct comm *comm, int code) { MPI_Abort(comm->world, code); }

int comm_rank(const struct comm *comm) { return comm->rank; }
int comm_size(const struct comm *comm) { return comm->size; }
int comm_ranks_on_node(const struct comm *comm) { return comm->node_ranks; }
const char *comm_host(const struct comm *comm, int rank) { return comm->host[rank]; }

void comm_library_version(char *text, size_t size) {
  char version[MPI_MAX_LIBRARY_VERSION_STRING];
  int length;
  MPI_Get_library_version(version, &length);
  version[strcspn(version, ",\n")] = '\0';
  snprintf(text, size, "%s", version);
}

static bool grow_pending(struct comm *comm) {
  const size_t capacity = comm->capacity ? 2 * (size_t)comm->capacity : 64;
  MPI_Request *pending = realloc(comm->pending, capacity * sizeof *pending);
  if (pending != NULL) comm->pending = pending;
  MPI_Status *status = realloc(comm->status, capacity * sizeof *status);
  if (status != NULL) comm->status = status;
  int *peer = realloc(comm->peer, capacity * sizeof *peer);
  if (peer != NULL) comm->peer = peer;
  if (pending == NULL || status == NULL || peer == NULL) return false;
  comm->capacity = (int)capacity;
  return true;
}

// Place for one more pending request to or from `peer`, or null without memory.
static MPI_Request *next_request(struct comm *comm, int peer) {
  if (comm->pending_count == comm->capacity && !grow_pending(comm)) return NULL;
  comm->peer[comm->pending_count] = peer;
  return &comm->pending[comm->pending_count];
}

static int message_tag(enum message_kind kind, int shard) { return shard * MESSAGE_KINDS + (int)kind; }

struct error *comm_send(struct comm *comm, int to, enum message_kind kind, int shard, const void *data, size_t bytes) {
  for (size_t at = 0; at < bytes; at += PIECE_BYTES) {
    const int piece = (int)(bytes - at < PIECE_BYTES ? bytes - at : PIECE_BYTES);
    MPI_Request *request = next_request(comm, to);
    if (request == NULL) return error_no_memory("message requests");
    const int status =
        MPI_Isend((const char *)data + at, piece, MPI_BYTE, to, message_tag(kind, shard), comm->world, request);
    if (status != MPI_SUCCESS) return peer_error(comm, status, "sending to", to);
    comm->pending_count++;
  }
  return NULL;
}

struct error *comm_receive(struct comm *comm, int from, enum message_kind kind, int shard, void *data, size_t bytes) {
  for (size_t at = 0; at < bytes; at += PIECE_BYTES) {
    const int piece = (int)(bytes - at < PIECE_BYTES ? bytes - at : PIECE_BYTES);
    MPI_Request *request = next_request(comm, from);
    if (request == NULL) return error_no_memory("message requests");
    const int status =
        MPI_Irecv((char *)data + at, piece, MPI_BYTE, from, message_tag(kind, shard), comm->world, request);
    if (status != MPI_SUCCESS) return peer_error(comm, status, "receiving from", from);
    comm->pending_count++;
  }
  return NULL;
}

struct error *comm_set_timeout(struct comm *comm, double seconds) {
  if (comm->size == 1 || seconds == 0) seconds = 0;
  else if (comm->heard == NULL) comm->heard = calloc((size_t)comm->size, sizeof *comm->heard);
  if (seconds > 0 && comm->heard == NULL) return error_no_memory("signs of life");
  comm->timeout = seconds;
  comm->looked = -INFINITY; // heard from all just now
  comm->next_sign = comm->next_check = 0;
  return NULL;
}

void comm_live(struct comm *comm) {
  const double now = clock_seconds();
  const int first = comm->rank == 0 ? 1 : 0, end = comm->rank == 0 ? comm->size : 1;
  if (comm->timeout == 0) return;
  if (now - comm->looked > comm->timeout / 4) // this rank was away, and cannot tell who else was
    for (int i = 0; i < comm->size; ++i) comm->heard[i] = now;
  comm->looked = now;
  if (now < comm->next_sign) return;
  comm->next_sign = now + comm->timeout / 8;
  for (int to = first; to < end; ++to) error_free(comm_note_send(comm, to, sign_of_life));
}

// Whether a rank is lost. The lower rank speaks first, as one line is enough.
static bool misses_signs(struct comm *comm) {
  const double now = clock_seconds();
  const int first = comm->rank == 0 ? 1 : 0, end = comm->rank == 0 ? comm->size : 1;
  if (comm->timeout == 0 || now < comm->next_check || now - comm->looked > comm->timeout / 4) return false;
  comm->next_check = now + comm->timeout / 16;
  const double patience = comm->timeout + (comm->rank == 0 ? 0 : 0.5 * (comm->rank - 1));
  for (int i = first; i < end; ++i) {
    if (now - comm->heard[i] <= patience) continue;
    comm->lost = true;
    comm->lost_rank = i;
    return true;
  }
  return false;
}

bool comm_lost(const struct comm *comm) { return comm->lost; }

// MPI_Waitall would hold a core while it waits; on a full machine that core is an actor's. Returns MPI's status, or that a
// rank is lost, which mpi_error says. statuses [count], or MPI_STATUSES_IGNORE.
static int poll_until_done(struct comm *comm, int count, MPI_Request *requests, MPI_Status *statuses) {
  for (int polls = 0;; ++polls) {
    int done;
    const int status = MPI_Testall(count, requests, &done, statuses);
    if (status != MPI_SUCCESS || done) return status;
    interrupted(&comm->watch);
    if (misses_signs(comm)) return MPI_ERR_OTHER;
    if (polls < SPINS_BEFORE_NAP) sched_yield();
    else nanosleep(&(struct timespec){.tv_nsec = NAP_NANOSECONDS}, NULL);
  }
}

void comm_watch(struct comm *comm, struct interrupt watch) { comm->watch = watch; }

struct error *comm_note_send(struct comm *comm, int to, int64_t note) {
  int status = MPI_Wait(&comm->note_leaving[to], MPI_STATUS_IGNORE); // so short a message leaves at once
  comm->note_out[to] = note;
  if (status == MPI_SUCCESS)
    status = MPI_Isend(&comm->note_out[to], 1, MPI_INT64_T, to, 0, comm->notes, &comm->note_leaving[to]);
  return status == MPI_SUCCESS ? NULL : peer_error(comm, status, "sending a note to", to);
}

bool comm_note_receive(struct comm *comm, int64_t *note) {
  int done = 0;
  MPI_Status status;
  do {
    if (comm->size == 1 || MPI_Test(&comm->note_arriving, &done, &status) != MPI_SUCCESS || !done) return false;
    *note = comm->note_in;
    MPI_Irecv(&comm->note_in, 1, MPI_INT64_T, MPI_ANY_SOURCE, 0, comm->notes, &comm->note_arriving);
    if (comm->timeout > 0) comm->heard[status.MPI_SOURCE] = clock_seconds();
  } while (*note == sign_of_life);
  return true;
}

// The error of the first pending message that has one.
static struct error *pending_error(const struct comm *comm, int status) {
  for (int i = 0; status == MPI_ERR_IN_STATUS && i < comm->pending_count; ++i) {
    const int of_message = comm->status[i].MPI_ERROR;
    if (of_message != MPI_SUCCESS && of_message != MPI_ERR_PENDING)
      return peer_error(comm, of_message, "exchanging messages with", comm->peer[i]);
  }
  return mpi_error(comm, status, "waiting for messages");
}

struct error *comm_wait(struct comm *comm) {
  const int status = poll_until_done(comm, comm->pending_count, comm->pending, comm->status);
  struct error *e = status == MPI_SUCCESS ? NULL : pending_error(comm, status);
  comm->pending_count = 0;
  return e;
}

// Rank 0's bytes to all of `group`, of which rank 0 is the first.
static struct error *broadcast(struct comm *comm, MPI_Comm group, void *data, size_t bytes, const char *doing) {
  for (size_t at = 0; at < bytes; at += PIECE_BYTES) {
    const int piece = (int)(bytes - at < PIECE_BYTES ? bytes - at : PIECE_BYTES);
    MPI_Request request;
    int status = MPI_Ibcast((char *)data + at, piece, MPI_BYTE, 0, group, &request);
    if (status == MPI_SUCCESS) status = poll_until_done(comm, 1, &request, MPI_STATUSES_IGNORE);
    if (status != MPI_SUCCESS) return mpi_error(comm, status, doing);
  }
  return NULL;
}

struct error *comm_broadcast(struct comm *comm, void *data, size_t bytes) {
  return comm->size == 1 ? NULL : broadcast(comm, comm->world, data, bytes, "broadcasting");
}

struct error *comm_max(struct comm *comm, int *value) {
  if (comm->size == 1) return NULL;
  const int mine = *value;
  MPI_Request request;
  int status = MPI_Iallreduce(&mine, value, 1, MPI_INT, MPI_MAX, comm->world, &request);
  if (status == MPI_SUCCESS) status = poll_until_done(comm, 1, &request, MPI_STATUSES_IGNORE);
  return status == MPI_SUCCESS ? NULL : mpi_error(comm, status, "asking all ranks");
}

struct error *comm_gather(struct comm *comm, const void *mine, size_t bytes, void *all) {
  MPI_Request request;
  int status = MPI_Igather(mine, (int)bytes, MPI_BYTE, all, (int)bytes, MPI_BYTE, 0, comm->world, &request);
  if (status == MPI_SUCCESS) status = poll_until_done(comm, 1, &request, MPI_STATUSES_IGNORE);
  return status == MPI_SUCCESS ? NULL : mpi_error(comm, status, "asking all ranks");
}

// Collective: the bytes of rank `root` to all.
static struct error *spread(struct comm *comm, int root, void *data, int bytes) {
  MPI_Request request;
  int status = MPI_Ibcast(data, bytes, MPI_BYTE, root, comm->world, &request);
  if (status == MPI_SUCCESS) status = poll_until_done(comm, 1, &request, MPI_STATUSES_IGNORE);
  return status == MPI_SUCCESS ? NULL : mpi_error(comm, status, "agreeing on an error");
}

struct error *comm_agree(struct comm *comm, struct error *mine) {
  if (comm->size == 1) return mine;
  struct {
    int code;
    char text[1024];
  } word = {.code = mine ? mine->code : 0};
  int first = mine ? comm->size - comm->rank : 0; // the lowest rank with an error has the largest
  struct error *e = comm_max(comm, &first);
  if (e == NULL && first == 0) return NULL;
  snprintf(word.text, sizeof word.text, "%s", mine ? mine->text : "");
  error_free(mine);
  if (e == NULL) e = spread(comm, comm->size - first, &word, sizeof word);
  return e ? e : error_new(word.code, "%s", word.text);
}

void combine_floats(size_t bytes, void *into, const void *from) {
  float *restrict a = into;
  const float *restrict b = from;
  for (size_t i = 0; i < bytes / sizeof *a; ++i) a[i] += b[i];
}

void combine_doubles(size_t bytes, void *into, const void *from) {
  double *restrict a = into;
  const double *restrict b = from;
  for (size_t i = 0; i < bytes / sizeof *a; ++i) a[i] += b[i];
}

struct tree {
  struct comm *comm;
  MPI_Comm learners;
  int shards, learner_count;
  const int *owner;    // [shards], the placement's
  const void **source; // [shards]: what slot i takes in at the present level, or null
  int *pair;           // [shards]: slots of this rank that take something in at the present level
  size_t largest;
  int arrivals;           // largest number of slots that arrive from other ranks at one level
  unsigned char *arrival; // [arrivals, largest]
};

// Slot i takes in slot i + stride when i is a multiple of 2·stride.
static int partner(const struct tree *t, int i, int stride) {
  return i % (2 * stride) == 0 && i + stride < t->shards ? i + stride : -1;
}

static int most_arrivals(const struct tree *t) {
  int most = 0;
  for (int stride = 1; stride < t->shards; stride *= 2) {
    int here = 0;
    for (int i = 0; i < t->shards; i += 2 * stride) {
      const int j = partner(t, i, stride);
      here += j >= 0 && t->owner[i] == t->comm->rank && t->owner[j] != t->comm->rank;
    }
    if (here > most) most = here;
  }
  return most;
}

struct error *tree_init(struct tree **out, struct comm *comm, const struct placement *placement, size_t largest) {
  struct tree *t = *out = calloc(1, sizeof *t);
  if (t == NULL) return error_no_memory("the reduction tree");
  t->comm = comm;
  t->shards = placement->shards;
  t->owner = placement->learner_of;
  t->learner_count = placement->learners;
  t->learners = MPI_COMM_NULL;
  t->largest = (largest + 63) / 64 * 64;
  t->arrivals = most_arrivals(t);
  t->source = calloc((size_t)t->shards, sizeof *t->source);
  t->pair = calloc((size_t)t->shards, sizeof *t->pair);
  if (t->arrivals > 0) t->arrival = aligned_alloc(64, (size_t)t->arrivals * t->largest);
  struct error *e =
      t->source && t->pair && (t->arrivals == 0 || t->arrival) ? NULL : error_no_memory("the reduction tree");
  if (comm->size > 1) { // collective, so every rank takes part whatever happened above
    const int colour = placement_is_learner(placement, comm->rank) ? 0 : MPI_UNDEFINED;
    const int status = MPI_Comm_split(comm->world, colour, comm->rank, &t->learners);
    if (status != MPI_SUCCESS && e == NULL) e = mpi_error(comm, status, "grouping the learners");
    if (t->learners != MPI_COMM_NULL) MPI_Comm_set_errhandler(t->learners, MPI_ERRORS_RETURN);
  }
  if (e != NULL) {
    tree_free(t);
    *out = NULL;
  }
  return e;
}

void tree_free(struct tree *t) {
  if (t == NULL) return;
  if (t->learners != MPI_COMM_NULL) MPI_Comm_free(&t->learners);
  free(t->source);
  free(t->pair);
  free(t->arrival);
  free(t);
}

// Sends and receives what has to cross ranks at this level; lists the slots that take something in.
static struct error *exchange_level(struct tree *t, void *const *slot, size_t bytes, int stride, int *pairs) {
  const int me = t->comm->rank;
  int arrived = 0;
  *pairs = 0;
  for (int i = 0; i < t->shards; i += 2 * stride) {
    const int j = partner(t, i, stride);
    if (j < 0) continue;
    if (t->owner[i] == me) {
      t->source[i] = slot[j];
      t->pair[(*pairs)++] = i;
    }
    if (t->owner[i] == me && t->owner[j] != me) {
      unsigned char *const into = t->arrival + (size_t)arrived++ * t->largest;
      t->source[i] = into;
      TRY(comm_receive(t->comm, t->owner[j], MESSAGE_SUM, j, into, bytes));
    }
    if (t->owner[i] != me && t->owner[j] == me) TRY(comm_send(t->comm, t->owner[i], MESSAGE_SUM, j, slot[j], bytes));
  }
  return comm_wait(t->comm);
}

static void combine_level(const struct tree *t, void *const *slot, size_t bytes, size_t grain, combine_fn *combine,
                          int pairs) {
  const int64_t pieces = (int64_t)((bytes + grain - 1) / grain);
#pragma omp parallel for schedule(static) if (bytes > 65536)
  for (int64_t work = 0; work < pairs * pieces; ++work) {
    const int i = t->pair[work / pieces];
    const size_t at = (size_t)(work % pieces) * grain, here = bytes - at < grain ? bytes - at : grain;
    combine(here, (char *)slot[i] + at, (const char *)t->source[i] + at);
  }
}

struct error *tree_reduce(struct tree *t, void *const *slot, size_t bytes, size_t grain, combine_fn *combine,
                          void *result) {
  for (int stride = 1; stride < t->shards; stride *= 2) {
    int pairs;
    TRY(exchange_level(t, slot, bytes, stride, &pairs));
    combine_level(t, slot, bytes, grain, combine, pairs);
  }
  if (t->owner[0] == t->comm->rank && result != slot[0]) memcpy(result, slot[0], bytes);
  if (t->learner_count == 1) return NULL;
  return broadcast(t->comm, t->learners, result, bytes, "sharing a sum with the learners"); // rank 0 owns slot 0
}
