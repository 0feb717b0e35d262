// metrics.jsonl: what a checkpoint remembers of it may be any text.
#include "helpers.h"

#include <unistd.h>

#include "common/metrics.h"

enum { LONG = 32768 }; // what is remembered at the most

static void appends_after(const char *recent) {
  char dir[] = "/tmp/flowrank-test-XXXXXX", path[64];
  struct metrics m;
  assert_non_null(mkdtemp(dir));
  must(metrics_open(&m, dir, 3, recent, 100, 1000, 1e9));
  for (int64_t i = 4; i < 100; ++i) must(metrics_append(&m, &(struct metrics_line){.iteration = i}));
  assert_true(m.recent_size <= LONG && strlen(m.recent) == m.recent_size);
  metrics_close(&m);
  snprintf(path, sizeof path, "%s/metrics.jsonl", dir);
  assert_int_equal(remove(path), 0);
  assert_int_equal(rmdir(dir), 0);
}

static void any_remembered_text_can_be_gone_on_from(void **state) {
  (void)state;
  static const size_t sizes[] = {1, LONG - 1, LONG, LONG + 1, 10 * LONG};
  appends_after("");
  appends_after("{\"iteration\": 3}\n");
  for (size_t i = 0; i < COUNT_OF(sizes); ++i) {
    char *text = zeroed(sizes[i] + 1, 1);
    memset(text, 'x', sizes[i]); // one line without an end
    appends_after(text);
    text[sizes[i] - 1] = '\n';
    appends_after(text);
    free(text);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(any_remembered_text_can_be_gone_on_from)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
