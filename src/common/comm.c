#include "common/comm.h"

#include <math.h>
#include <mpi.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#ifdef OPEN_MPI
#include <mpi-ext.h>
#endif

#include "common/clock.h"

enum { PIECE_BYTES = 1 << 30 };   // longest single MPI message; counts are ints
enum { SPINS_BEFORE_NAP = 2000 }; // polls that only yield, about 100 µs
enum { NAP_NANOSECONDS = 50000 };
enum { HOST_BYTES = 64 };

struct queue {
  MPI_Request *request; // [capacity]
  MPI_Status *status;   // [capacity]: how each ended
  int *peer;            // [capacity]: the other rank of each
  int count, capacity;
};

struct comm {
  int rank, size, node_ranks;
  MPI_Comm world;
  struct queue pending[MESSAGE_KINDS];
  pthread_mutex_t lock; // around each call into MPI that another thread may meet
  struct interrupt watch;
  bool outlives;     // the job may go on without a rank that dies
  _Atomic bool torn; // a rank is known to have died
  _Atomic bool given_up;
  int *origin;                              // [size]: rank at the job's start
  char (*host)[HOST_BYTES];                 // [size at the job's start]
  MPI_Request note_arriving, *note_leaving; // [size]
  int64_t note_in, *note_out;               // [size]
  double timeout, looked, next_sign, next_check;
  bool lost;
  double *heard; // [size]: when each rank's last note came; only rank 0's on the others
};

static const int64_t sign_of_life = INT64_MIN; // a note that nobody else sends

// --- What ULFM, in Open MPI 5, adds to MPI; without it a rank's death is not told to the others but ends them ---

#ifdef OMPI_HAVE_MPI_EXT_FTMPI

// Without the barrier at the end of MPI_Finalize: with two dead it may never be reached (Open MPI 5.0.11). Nothing is under
// way then, as all ranks have agreed that the run is over.
static void prepare_job(void) { setenv("OMPI_MCA_async_mpi_finalize", "1", 0); }

// Started by `mpirun --with-ft ulfm`?
static bool job_outlives(void) {
  int *fault_tolerant, found = 0;
  const int status = MPI_Comm_get_attr(MPI_COMM_WORLD, MPI_FT, (void *)&fault_tolerant, &found);
  return status == MPI_SUCCESS && found && *fault_tolerant;
}

static bool has_lost_rank(MPI_Comm world) {
  int revoked = 0, count = 0;
  MPI_Group dead;
  MPIX_Comm_is_revoked(world, &revoked);
  if (MPIX_Comm_get_failed(world, &dead) != MPI_SUCCESS) return revoked;
  MPI_Group_size(dead, &count);
  MPI_Group_free(&dead);
  return revoked || count > 0;
}

static void revoke_group(MPI_Comm group) { MPIX_Comm_revoke(group); }
static int shrink(MPI_Comm world, MPI_Comm *alive) { return MPIX_Comm_shrink(world, alive); }

// The same answer on all ranks: whether all are alive and say yes.
static bool all_say(MPI_Comm world, bool yes) {
  int flag = yes;
  return MPIX_Comm_agree(world, &flag) == MPI_SUCCESS && flag;
}

#else

static void prepare_job(void) {}
static bool job_outlives(void) { return false; }
static bool has_lost_rank(MPI_Comm world) { return (void)world, false; }
static void revoke_group(MPI_Comm group) { (void)group; }
static int shrink(MPI_Comm world, MPI_Comm *alive) { return MPI_Comm_dup(world, alive); }
static bool all_say(MPI_Comm world, bool yes) { return (void)world, yes; }

#endif

static struct error *rank_lost(void) { return error_new(EXIT_CODE_FAILED, "a rank has died"); }

static struct error *mpi_error(struct comm *comm, int status, const char *doing) {
  if (comm->outlives && has_lost_rank(comm->world)) {
    comm->torn = true;
    return rank_lost();
  }
  char text[MPI_MAX_ERROR_STRING] = "unknown fault";
  int length;
  MPI_Error_string(status, text, &length);
  return error_new(EXIT_CODE_FAILED, "MPI on rank %d, %s: %s", comm->rank, doing, text);
}

static struct error *peer_error(struct comm *comm, int status, const char *doing, int peer) {
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
  comm->origin = calloc((size_t)comm->size, sizeof *comm->origin);
  comm->host = calloc((size_t)comm->size, sizeof *comm->host);
  if (comm->origin == NULL || comm->host == NULL) return error_no_memory("communication");
  for (int i = 0; i < comm->size; ++i) comm->origin[i] = i;
  const int status = MPI_Allgather(host, HOST_BYTES, MPI_CHAR, comm->host, HOST_BYTES, MPI_CHAR, comm->world);
  return status == MPI_SUCCESS ? NULL : mpi_error(comm, status, "finding the hosts");
}

static int receive_note(struct comm *comm) {
  return MPI_Irecv(&comm->note_in, 1, MPI_INT64_T, MPI_ANY_SOURCE, MESSAGE_NOTE, comm->world, &comm->note_arriving);
}

static struct error *init_notes(struct comm *comm) {
  if (comm->size == 1) return NULL;
  const size_t size = (size_t)comm->size;
  comm->note_leaving = calloc(size, sizeof *comm->note_leaving);
  comm->note_out = calloc(size, sizeof *comm->note_out);
  for (size_t i = 0; comm->note_leaving != NULL && i < size; ++i) comm->note_leaving[i] = MPI_REQUEST_NULL;
  if (comm->note_leaving == NULL || comm->note_out == NULL) return error_no_memory("communication");
  const int status = receive_note(comm);
  return status == MPI_SUCCESS ? NULL : mpi_error(comm, status, "preparing notes");
}

static void free_notes(struct comm *comm) {
  if (comm->note_arriving != MPI_REQUEST_NULL) {
    MPI_Cancel(&comm->note_arriving);
    MPI_Wait(&comm->note_arriving, MPI_STATUS_IGNORE);
  }
  for (int i = 0; comm->note_leaving != NULL && i < comm->size; ++i)
    if (comm->note_leaving[i] != MPI_REQUEST_NULL) MPI_Wait(&comm->note_leaving[i], MPI_STATUS_IGNORE);
  free(comm->note_leaving);
  free(comm->note_out);
  comm->note_leaving = NULL;
  comm->note_out = NULL;
}

struct error *comm_init(struct comm **out) {
  struct comm *comm = *out = calloc(1, sizeof *comm);
  if (comm == NULL) return error_no_memory("communication");
  int provided;
  prepare_job();
  int status = MPI_Init_thread(NULL, NULL, MPI_THREAD_SERIALIZED, &provided);
  if (status != MPI_SUCCESS || provided < MPI_THREAD_SERIALIZED) {
    free(comm);
    *out = NULL;
    return error_new(EXIT_CODE_FAILED, "MPI cannot be started with MPI_THREAD_SERIALIZED");
  }
  pthread_mutex_init(&comm->lock, NULL);
  comm->world = MPI_COMM_WORLD;
  comm->note_arriving = MPI_REQUEST_NULL;
  MPI_Comm_set_errhandler(comm->world, MPI_ERRORS_RETURN); // what is made of it inherits that
  comm->outlives = job_outlives();
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
  for (int kind = 0; kind < MESSAGE_KINDS; ++kind) {
    free(comm->pending[kind].request);
    free(comm->pending[kind].status);
    free(comm->pending[kind].peer);
  }
  free(comm->origin);
  free(comm->heard);
  free(comm->host);
  pthread_mutex_destroy(&comm->lock);
  free(comm);
}

void comm_abort(struct comm *comm, int code) { MPI_Abort(comm->world, code); }

int comm_rank(const struct comm *comm) { return comm->rank; }
int comm_size(const struct comm *comm) { return comm->size; }
int comm_ranks_on_node(const struct comm *comm) { return comm->node_ranks; }
const char *comm_host(const struct comm *comm, int rank) { return comm->host[comm->origin[rank]]; }

void comm_library_version(char *text, size_t size) {
  char version[MPI_MAX_LIBRARY_VERSION_STRING];
  int length;
  MPI_Get_library_version(version, &length);
  version[strcspn(version, ",\n")] = '\0';
  snprintf(text, size, "%s", version);
}

static bool grow_queue(struct queue *q) {
  const size_t capacity = q->capacity ? 2 * (size_t)q->capacity : 64;
  MPI_Request *request = realloc(q->request, capacity * sizeof *request);
  if (request != NULL) q->request = request;
  MPI_Status *status = realloc(q->status, capacity * sizeof *status);
  if (status != NULL) q->status = status;
  int *peer = realloc(q->peer, capacity * sizeof *peer);
  if (peer != NULL) q->peer = peer;
  if (request == NULL || status == NULL || peer == NULL) return false;
  q->capacity = (int)capacity;
  return true;
}

// Place for one more pending request to or from `peer`, or null without memory.
static MPI_Request *next_request(struct queue *q, int peer) {
  if (q->count == q->capacity && !grow_queue(q)) return NULL;
  q->peer[q->count] = peer;
  return &q->request[q->count];
}

static int message_tag(enum message_kind kind, int shard) { return shard * MESSAGE_KINDS + (int)kind; }

enum way { SEND, RECEIVE };

static struct error *start_piece(struct comm *comm, enum way way, int peer, enum message_kind kind, int shard,
                                 char *data, int bytes) {
  MPI_Request *request = next_request(&comm->pending[kind], peer);
  if (request == NULL) return error_no_memory("message requests");
  const int tag = message_tag(kind, shard);
  const int status = way == SEND ? MPI_Isend(data, bytes, MPI_BYTE, peer, tag, comm->world, request)
                                 : MPI_Irecv(data, bytes, MPI_BYTE, peer, tag, comm->world, request);
  if (status != MPI_SUCCESS) return peer_error(comm, status, way == SEND ? "sending to" : "receiving from", peer);
  comm->pending[kind].count++;
  return NULL;
}

static struct error *start(struct comm *comm, enum way way, int peer, enum message_kind kind, int shard, char *data,
                           size_t bytes) {
  struct error *e = comm->torn ? rank_lost() : NULL;
  pthread_mutex_lock(&comm->lock);
  for (size_t at = 0; e == NULL && at < bytes; at += PIECE_BYTES)
    e = start_piece(comm, way, peer, kind, shard, data + at,
                    (int)(bytes - at < PIECE_BYTES ? bytes - at : PIECE_BYTES));
  pthread_mutex_unlock(&comm->lock);
  return e;
}

struct error *comm_send(struct comm *comm, int to, enum message_kind kind, int shard, const void *data, size_t bytes) {
  return start(comm, SEND, to, kind, shard, (char *)data, bytes); // only read
}

struct error *comm_receive(struct comm *comm, int from, enum message_kind kind, int shard, void *data, size_t bytes) {
  return start(comm, RECEIVE, from, kind, shard, data, bytes);
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
  pthread_mutex_lock(&comm->lock);
  if (now - comm->looked > comm->timeout / 4) // this rank was away, and cannot tell who else was
    for (int i = 0; i < comm->size; ++i) comm->heard[i] = now;
  comm->looked = now;
  pthread_mutex_unlock(&comm->lock);
  if (now < comm->next_sign) return;
  comm->next_sign = now + comm->timeout / 8;
  for (int to = first; to < end; ++to) error_free(comm_note_send(comm, to, sign_of_life));
}

// The lower rank speaks first, as one line is enough.
static struct error *check_signs(struct comm *comm) {
  const double now = clock_seconds();
  const int first = comm->rank == 0 ? 1 : 0, end = comm->rank == 0 ? comm->size : 1;
  if (comm->timeout == 0 || now < comm->next_check || now - comm->looked > comm->timeout / 4) return NULL;
  comm->next_check = now + comm->timeout / 16;
  const double patience = comm->timeout + (comm->rank == 0 ? 0 : 0.5 * (comm->rank - 1));
  for (int i = first; i < end; ++i) {
    if (now - comm->heard[i] <= patience) continue;
    comm->lost = true;
    return error_new(EXIT_CODE_FAILED,
                     "rank %d on %s has given no sign of life for %.3g s (cluster.timeout): the job ends; the same "
                     "command goes on from the newest checkpoint",
                     comm->origin[i], comm->host[comm->origin[i]], comm->timeout);
  }
  return NULL;
}

bool comm_lost(const struct comm *comm) { return comm->lost; }

void comm_give_up(struct comm *comm) { comm->given_up = true; }

void comm_watch(struct comm *comm, struct interrupt watch) { comm->watch = watch; }

struct error *comm_note_send(struct comm *comm, int to, int64_t note) {
  pthread_mutex_lock(&comm->lock);
  int status = MPI_Wait(&comm->note_leaving[to], MPI_STATUS_IGNORE); // so short a message leaves at once
  comm->note_out[to] = note;
  if (status == MPI_SUCCESS)
    status = MPI_Isend(&comm->note_out[to], 1, MPI_INT64_T, to, MESSAGE_NOTE, comm->world, &comm->note_leaving[to]);
  pthread_mutex_unlock(&comm->lock);
  return status == MPI_SUCCESS ? NULL : peer_error(comm, status, "sending a note to", to);
}

bool comm_note_receive(struct comm *comm, int64_t *note) {
  int done = 0;
  if (comm->size == 1) return false;
  pthread_mutex_lock(&comm->lock);
  do {
    MPI_Status status;
    if (MPI_Test(&comm->note_arriving, &done, &status) != MPI_SUCCESS) {
      done = 0;
      if (comm->outlives) comm->torn = has_lost_rank(comm->world); // notes come from any rank, so each death shows here
    }
    if (!done) break;
    *note = comm->note_in;
    if (comm->timeout > 0) comm->heard[status.MPI_SOURCE] = clock_seconds();
    receive_note(comm);
  } while (*note == sign_of_life);
  pthread_mutex_unlock(&comm->lock);
  return done != 0;
}

// The error of the first message of a queue that has one.
static struct error *queue_error(struct comm *comm, const struct queue *q, int status) {
  for (int i = 0; status == MPI_ERR_IN_STATUS && i < q->count; ++i) {
    const int of_message = q->status[i].MPI_ERROR;
    if (of_message != MPI_SUCCESS && of_message != MPI_ERR_PENDING)
      return peer_error(comm, of_message, "exchanging messages with", q->peer[i]);
  }
  return mpi_error(comm, status, "waiting for messages");
}

// One look at a queue.
static struct error *test_queue(struct comm *comm, struct queue *q, int *done) {
  pthread_mutex_lock(&comm->lock);
  const int status = MPI_Testall(q->count, q->request, done, q->status);
  struct error *e = status == MPI_SUCCESS ? NULL : queue_error(comm, q, status);
  if (e != NULL && !comm->torn) q->count = 0; // what a death leaves is for comm_regroup
  if (e == NULL && !*done) e = check_signs(comm);
  pthread_mutex_unlock(&comm->lock);
  return e;
}

// MPI_Waitall would hold a core while it waits; on a full machine that core is an actor's.
struct error *comm_wait(struct comm *comm, enum message_kind kind) {
  struct queue *const q = &comm->pending[kind];
  for (int polls = 0, done = q->count == 0; !done; ++polls) {
    TRY(test_queue(comm, q, &done));
    if (done) break;
    interrupted(&comm->watch);
    if (comm->torn) return rank_lost();
    if (comm->given_up) return error_new(EXIT_CODE_FAILED, "given up: waiting for messages");
    if (polls < SPINS_BEFORE_NAP) sched_yield();
    else nanosleep(&(struct timespec){.tv_nsec = NAP_NANOSECONDS}, NULL);
  }
  q->count = 0;
  return NULL;
}

bool comm_torn(const struct comm *comm) { return comm->torn; }

bool comm_whole(struct comm *comm) {
  if (!comm->outlives) return true;
  if (comm->torn) revoke_group(comm->world); // wakes the others where they wait for a message
  comm->torn = !all_say(comm->world, !comm->torn);
  return !comm->torn;
}

// Appends the ranks that are in comm->world and not in `alive`, and renumbers the others.
static void name_dead(struct comm *comm, MPI_Comm alive, char *died, size_t size) {
  MPI_Group before, after;
  MPI_Comm_group(comm->world, &before);
  MPI_Comm_group(alive, &after);
  int left = 0;
  for (int i = 0; i < comm->size; ++i) {
    int at;
    MPI_Group_translate_ranks(before, 1, &i, after, &at);
    const int origin = comm->origin[i];
    const size_t end = strlen(died);
    if (at == MPI_UNDEFINED)
      snprintf(died + end, size - end, "%srank %d on %s has died", end > 0 ? ", " : "", origin, comm->host[origin]);
    else comm->origin[left++] = origin;
  }
  MPI_Group_free(&before);
  MPI_Group_free(&after);
}

// All that is under way ends with an error.
static void drop_messages(struct comm *comm) {
  revoke_group(comm->world);
  for (int kind = 0; kind < MESSAGE_KINDS; ++kind) {
    MPI_Waitall(comm->pending[kind].count, comm->pending[kind].request, MPI_STATUSES_IGNORE);
    comm->pending[kind].count = 0;
  }
  free_notes(comm);
}

struct error *comm_regroup(struct comm *comm, char *died, size_t size) {
  MPI_Comm alive;
  died[0] = '\0';
  drop_messages(comm);
  const int status = shrink(comm->world, &alive);
  if (status != MPI_SUCCESS) return mpi_error(comm, status, "going on without a dead rank");
  name_dead(comm, alive, died, size);
  if (comm->world != MPI_COMM_WORLD) MPI_Comm_free(&comm->world);
  comm->world = alive;
  MPI_Comm_rank(alive, &comm->rank);
  MPI_Comm_size(alive, &comm->size);
  comm->torn = false;
  comm->looked = -INFINITY; // heard from all just now
  if (comm->origin[0] == 0) return init_notes(comm);
  return error_new(EXIT_CODE_FAILED, "%s; the same command goes on from the newest checkpoint", died);
}

// Rank 0's bytes to all of a group, over a binomial tree of messages. `me`: which of the group this rank is. rank_of [count]:
// the group, rank 0 first; null: rank i is the group's i-th. No MPI_Ibcast: a rank's death would leave a collective under
// way that can be neither ended nor taken back.
static struct error *broadcast(struct comm *comm, int me, int count, const int *rank_of, void *data, size_t bytes) {
  int bit = 1;
  while (bit < count && !(me & bit)) bit *= 2;
  if (me != 0) {
    TRY(comm_receive(comm, rank_of ? rank_of[me - bit] : me - bit, MESSAGE_BROADCAST, 0, data, bytes));
    TRY(comm_wait(comm, MESSAGE_BROADCAST));
  }
  for (bit /= 2; bit > 0; bit /= 2)
    if (me + bit < count)
      TRY(comm_send(comm, rank_of ? rank_of[me + bit] : me + bit, MESSAGE_BROADCAST, 0, data, bytes));
  return comm_wait(comm, MESSAGE_BROADCAST);
}

struct error *comm_broadcast(struct comm *comm, void *data, size_t bytes) {
  return broadcast(comm, comm->rank, comm->size, NULL, data, bytes);
}

// Up the tree that the answer comes down.
struct error *comm_max(struct comm *comm, int *value) {
  const int me = comm->rank;
  for (int bit = 1; bit < comm->size; bit *= 2) {
    int theirs = *value;
    if (me & bit) TRY(comm_send(comm, me - bit, MESSAGE_UP, 0, value, sizeof *value));
    else if (me + bit < comm->size) TRY(comm_receive(comm, me + bit, MESSAGE_UP, 0, &theirs, sizeof theirs));
    TRY(comm_wait(comm, MESSAGE_UP));
    if (me & bit) break;
    if (theirs > *value) *value = theirs;
  }
  return comm_broadcast(comm, value, sizeof *value);
}

struct error *comm_gather(struct comm *comm, const void *mine, size_t bytes, void *all) {
  if (comm->rank != 0) TRY(comm_send(comm, 0, MESSAGE_UP, 0, mine, bytes));
  else memcpy(all, mine, bytes);
  for (int i = 1; comm->rank == 0 && i < comm->size; ++i)
    TRY(comm_receive(comm, i, MESSAGE_UP, 0, (char *)all + (size_t)i * bytes, bytes));
  return comm_wait(comm, MESSAGE_UP);
}

// Collective: the bytes of rank `root` to all.
static struct error *spread(struct comm *comm, int root, void *data, size_t bytes) {
  if (root != 0 && comm->rank == root) TRY(comm_send(comm, 0, MESSAGE_UP, 0, data, bytes));
  if (root != 0 && comm->rank == 0) TRY(comm_receive(comm, root, MESSAGE_UP, 0, data, bytes));
  TRY(comm_wait(comm, MESSAGE_UP));
  return comm_broadcast(comm, data, bytes);
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
  int shards, learners, own; // own: which of the learners this rank is
  int *learner;              // [learners]: their ranks, rank 0 first
  const int *owner;          // [shards], the placement's
  const void **source;       // [shards]: what slot i takes in at the present level, or null
  int *pair;                 // [shards]: slots of this rank that take something in at the present level
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

static void find_learners(struct tree *t, const struct placement *placement) {
  for (int rank = 0; rank < t->comm->size; ++rank) {
    if (!placement_is_learner(placement, rank)) continue;
    if (rank == t->comm->rank) t->own = t->learners;
    t->learner[t->learners++] = rank;
  }
}

struct error *tree_init(struct tree **out, struct comm *comm, const struct placement *placement, size_t largest) {
  struct tree *t = *out = calloc(1, sizeof *t);
  if (t == NULL) return error_no_memory("the reduction tree");
  t->comm = comm;
  t->shards = placement->shards;
  t->owner = placement->learner_of;
  t->largest = (largest + 63) / 64 * 64;
  t->arrivals = most_arrivals(t);
  t->source = calloc((size_t)t->shards, sizeof *t->source);
  t->pair = calloc((size_t)t->shards, sizeof *t->pair);
  t->learner = calloc((size_t)comm->size, sizeof *t->learner);
  if (t->arrivals > 0) t->arrival = aligned_alloc(64, (size_t)t->arrivals * t->largest);
  if (t->learner != NULL) find_learners(t, placement);
  if (t->source && t->pair && t->learner && (t->arrivals == 0 || t->arrival)) return NULL;
  tree_free(t);
  *out = NULL;
  return error_no_memory("the reduction tree");
}

void tree_free(struct tree *t) {
  if (t == NULL) return;
  free(t->source);
  free(t->pair);
  free(t->learner);
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
  return comm_wait(t->comm, MESSAGE_SUM);
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
  return broadcast(t->comm, t->own, t->learners, t->learner, result, bytes); // rank 0 owns slot 0
}
