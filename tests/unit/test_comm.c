// Messages of a rank to itself: what an error of MPI says.
#include "helpers.h"

#include "common/comm.h"

static struct comm *comm; // MPI can be started once in a process

static void a_message_arrives(void **state) {
  (void)state;
  unsigned char sent[1000], received[1000] = {0};
  for (size_t i = 0; i < sizeof sent; ++i) sent[i] = (unsigned char)(i * 7);
  must(comm_receive(comm, 0, MESSAGE_TRAJECTORY, 3, received, sizeof received));
  must(comm_send(comm, 0, MESSAGE_TRAJECTORY, 3, sent, sizeof sent));
  must(comm_wait(comm, MESSAGE_TRAJECTORY));
  assert_memory_equal(sent, received, sizeof sent);
}

static void errors_name_the_peer(void **state) {
  (void)state;
  unsigned char sent[1000] = {0}, received[1000];
  must(comm_send(comm, 0, MESSAGE_TAIL, 0, sent, 10));
  must(comm_send(comm, 0, MESSAGE_TRAJECTORY, 0, sent, 20));
  must(comm_receive(comm, 0, MESSAGE_TAIL, 0, received, 10)); // one message is as expected, the other too long
  must(comm_receive(comm, 0, MESSAGE_TRAJECTORY, 0, received + 10, 10));
  must(comm_wait(comm, MESSAGE_TAIL));
  struct error *e = comm_wait(comm, MESSAGE_TRAJECTORY);
  assert_non_null(e);
  assert_non_null(strstr(e->text, "MPI on rank 0, exchanging messages with rank 0: "));
  assert_non_null(strstr(e->text, "TRUNCATE"));
  assert_int_equal(e->code, EXIT_CODE_FAILED);
  error_free(e);

  e = comm_send(comm, 7, MESSAGE_TAIL, 0, sent, 10);
  assert_non_null(e);
  assert_non_null(strstr(e->text, "MPI on rank 0, sending to rank 7: "));
  error_free(e);
  e = comm_receive(comm, 7, MESSAGE_TAIL, 0, received, 10);
  assert_non_null(e);
  assert_non_null(strstr(e->text, "MPI on rank 0, receiving from rank 7: "));
  error_free(e);

  a_message_arrives(state); // nothing of it is left
}

// More than the table of requests begins with.
static void many_messages_may_be_on_the_way(void **state) {
  (void)state;
  enum { MESSAGES = 1000 };
  int sent[MESSAGES], received[MESSAGES];
  for (int i = 0; i < MESSAGES; ++i) must(comm_receive(comm, 0, MESSAGE_SUM, i, &received[i], sizeof received[i]));
  for (int i = 0; i < MESSAGES; ++i) {
    sent[i] = 3 * i;
    must(comm_send(comm, 0, MESSAGE_SUM, i, &sent[i], sizeof sent[i]));
  }
  must(comm_wait(comm, MESSAGE_SUM));
  assert_memory_equal(sent, received, sizeof sent);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_message_arrives),
      cmocka_unit_test(errors_name_the_peer),
      cmocka_unit_test(many_messages_may_be_on_the_way),
  };
  struct error *e = comm_init(&comm);
  if (e != NULL) {
    fprintf(stderr, "%s\n", e->text);
    error_free(e);
    return 1;
  }
  const int failed = cmocka_run_group_tests_name("comm", tests, NULL, NULL);
  comm_finalize(comm);
  return failed;
}
