// All of MPI: shard messages, broadcast, the tree reduction, agreement on errors. One rank is the embedded mode, in which
// every call here is a no-op or a local copy. Waiting polls and yields, so that a waiting rank does not hold a core.
#ifndef FLOWRANK_COMM_H
#define FLOWRANK_COMM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"
#include "common/interrupt.h"
#include "common/shard.h"

struct comm;

// Starts MPI (alone where no launcher is present). Call once; *comm is freed by comm_finalize.
struct error *comm_init(struct comm **comm) MUST_USE;
void comm_finalize(struct comm *comm);
// Ends every rank at once with `code`: for faults after which the ranks can no longer agree.
void comm_abort(struct comm *comm, int code);

int comm_rank(const struct comm *comm);
int comm_size(const struct comm *comm);
int comm_ranks_on_node(const struct comm *comm);
const char *comm_host(const struct comm *comm, int rank);
void comm_library_version(char *text, size_t size);

// Collective: every rank gives its error or null, all get the error of the lowest rank that has one (or null).
// Takes `mine`.
struct error *comm_agree(struct comm *comm, struct error *mine) MUST_USE;

// --- A rank's death. Where MPI can tell of it (ULFM: Open MPI 5 under `mpirun --with-ft ulfm`) the others may go on;
// elsewhere MPI ends the job, and these say that all is well. ---

// Whether a rank is known to have died: then every call that needs other ranks fails. From any thread.
bool comm_torn(const struct comm *comm);
// Collective over the living, whatever calls of theirs have failed: whether nobody has died so far. The same on all.
bool comm_whole(struct comm *comm);
// Collective, where comm_whole said no: the living become a smaller job's ranks 0, 1, .. in their order. No message that was
// under way arrives. died: which ranks of the job's start are gone, "rank 2 on node1 has died, ..".
// Errors: rank 0 is among them; then all ranks have the error.
struct error *comm_regroup(struct comm *comm, char *died, size_t size) MUST_USE;

// What a message carries; a shard has one of each kind on the way at most.
enum message_kind {
  MESSAGE_TRAJECTORY,
  MESSAGE_TAIL,
  MESSAGE_STATE,
  MESSAGE_RETURNS,
  MESSAGE_SUM,
  MESSAGE_BROADCAST,
  MESSAGE_UP,
  MESSAGE_NOTE, // inside comm.c, as the two before
  MESSAGE_KINDS
};

// Non-blocking; the buffer must stay until comm_wait. Any size: long messages travel in pieces. These two, comm_wait and
// the notes may be called from any thread.
struct error *comm_send(struct comm *comm, int to, enum message_kind kind, int shard, const void *data,
                        size_t bytes) MUST_USE;
struct error *comm_receive(struct comm *comm, int from, enum message_kind kind, int shard, void *data,
                           size_t bytes) MUST_USE;
// Completes every message of a kind that was started since the last wait for this kind. One thread a kind; another thread
// may wait for, or start, messages of other kinds meanwhile. Errors name the rank at the other end.
struct error *comm_wait(struct comm *comm, enum message_kind kind) MUST_USE;

// Ends this rank's waiting, in whatever thread, for good: after an error in one thread while another waits.
void comm_give_up(struct comm *comm);

// Collective over all ranks: rank 0's bytes go to all.
struct error *comm_broadcast(struct comm *comm, void *data, size_t bytes) MUST_USE;

// Collective: the largest of all ranks' values, on every rank.
struct error *comm_max(struct comm *comm, int *value) MUST_USE;

// Collective: `bytes` bytes of every rank, in the order of ranks, into rank 0's `all` [size, bytes].
struct error *comm_gather(struct comm *comm, const void *mine, size_t bytes, void *all) MUST_USE;

// From here on waiting fails where a rank that matters gives no sign of life for `seconds`: any rank matters to rank 0, rank 0
// to all others. 0: it never does. This rank's own absence (a suspended job) is not held against the others.
struct error *comm_set_timeout(struct comm *comm, double seconds) MUST_USE;
// Whether waiting has failed for that reason: the other ranks know nothing of it.
bool comm_lost(const struct comm *comm);
// Gives the others a sign of life, where one is due. Long work calls it now and then, one thread at a time; waiting does so
// only by what comm_watch is given.
void comm_live(struct comm *comm);

// Waiting calls this at every poll (its answer does not matter to them), so that notes are read while a rank waits.
void comm_watch(struct comm *comm, struct interrupt watch);

// Notes: numbers that may come at any time, beside all other messages. Neither call waits. Between ranks only.
struct error *comm_note_send(struct comm *comm, int to, int64_t note) MUST_USE;
// False when there is none (or none can be read).
bool comm_note_receive(struct comm *comm, int64_t *note);

// into ← into ⊕ from, over `bytes` bytes.
typedef void combine_fn(size_t bytes, void *into, const void *from);
void combine_floats(size_t bytes, void *into, const void *from);  // sums
void combine_doubles(size_t bytes, void *into, const void *from); // sums

// The fixed binary tree over shard indices: at stride 1, 2, 4, .. slot i takes in slot i + stride. The same additions in
// the same order whoever holds the slots, so the result does not depend on placement. Collective over the learners.
struct tree;
// largest: bytes of the biggest slot that will be reduced.
struct error *tree_init(struct tree **tree, struct comm *comm, const struct placement *placement,
                        size_t largest) MUST_USE;
void tree_free(struct tree *tree);
// slot [shards]: this rank's slots of `bytes` bytes (others' entries are not read); all are overwritten on the way.
// grain: bytes that combine can be given apart (threads share the work by it). After it, `result` on every learner
// holds the whole; it may be a slot.
struct error *tree_reduce(struct tree *tree, void *const *slot, size_t bytes, size_t grain, combine_fn *combine,
                          void *result) MUST_USE;

#endif
