// Errors: one printable line whatever it quotes, prefixes, and suggestions.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "common/error.h"

static void error_carries_code_and_text(void **state) {
  (void)state;
  struct error *e = error_new(EXIT_CODE_USAGE, "%s:%d: no", "file", 7);
  assert_int_equal(e->code, EXIT_CODE_USAGE);
  assert_string_equal(e->text, "file:7: no");
  error_free(e);
  e = error_no_memory("a buffer");
  assert_int_equal(e->code, EXIT_CODE_FAILED);
  assert_non_null(strstr(e->text, "a buffer"));
  error_free(e);
  error_free(NULL);
}

static void prefix_goes_before(void **state) {
  (void)state;
  struct error *e = error_new(EXIT_CODE_STOPPED, "inner");
  e = error_prefix(error_prefix(e, "middle %d", 1), "outer");
  assert_int_equal(e->code, EXIT_CODE_STOPPED);
  assert_string_equal(e->text, "outer: middle 1: inner");
  error_free(e);
  assert_null(error_prefix(NULL, "outer"));
}

static void text_is_one_printable_line(void **state) {
  (void)state;
  static const char *const pairs[][2] = {
      {"a\nb\r\tc\x1b[31m\x7f", "a\\x0ab\\x0d\\x09c\\x1b[31m\\x7f"},
      {"J\xc3\xbcrgen \xe2\x82\xac \xf0\x9f\x8d\x8a", "J\xc3\xbcrgen \xe2\x82\xac \xf0\x9f\x8d\x8a"}, // text stays
      {"\xff\xfe", "\\xff\\xfe"},
      {"\xc2\x85 \xe2\x80\xa8 \xe2\x80\xa9", "\\xc2\\x85 \\xe2\\x80\\xa8 \\xe2\\x80\\xa9"}, // other ends of lines
      {"\xc0\x8a \xe0\x80\x8a \xf0\x80\x80\x8a", "\\xc0\\x8a \\xe0\\x80\\x8a \\xf0\\x80\\x80\\x8a"}, // overlong
      {"\xed\xa0\x80 \xf4\x90\x80\x80 \xf8", "\\xed\\xa0\\x80 \\xf4\\x90\\x80\\x80 \\xf8"}, // surrogate, too high
      {"cut \xe2\x82", "cut \\xe2\\x82"},
      {"", ""},
  };
  for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
    struct error *e = error_new(EXIT_CODE_FAILED, "%s", pairs[i][0]);
    assert_string_equal(e->text, pairs[i][1]);
    e = error_prefix(e, "%s", pairs[i][0]); // and escaping twice changes nothing
    assert_int_equal(strlen(e->text), 2 * strlen(pairs[i][1]) + 2);
    error_free(e);
  }
}

static struct error *pass_on(struct error *e, int *reached) {
  TRY(e);
  *reached = 1;
  return NULL;
}

static void try_returns_the_error(void **state) {
  (void)state;
  int reached = 0;
  struct error *e = error_new(EXIT_CODE_FAILED, "x");
  assert_ptr_equal(pass_on(e, &reached), e);
  assert_int_equal(reached, 0);
  assert_null(pass_on(NULL, &reached));
  assert_int_equal(reached, 1);
  error_free(e);
}

static void suggestion_is_near_or_none(void **state) {
  (void)state;
  static const char *const words[] = {"train", "eval", "render", "bench", "CartpoleBalance", "CartpoleSwingup"};
  enum { COUNT = sizeof words / sizeof words[0] };
  assert_string_equal(nearest_word("trian", COUNT, words), "train");
  assert_string_equal(nearest_word("evl", COUNT, words), "eval");
  assert_string_equal(nearest_word("train", COUNT, words), "train");
  assert_string_equal(nearest_word("cartpole_balance", COUNT, words), "CartpoleBalance");
  assert_string_equal(nearest_word("CartpoleSwngup", COUNT, words), "CartpoleSwingup");
  assert_null(nearest_word("", COUNT, words));
  assert_null(nearest_word("x", COUNT, words));
  assert_null(nearest_word("quit", COUNT, words));
  assert_null(nearest_word("trainer-of-humanoids", COUNT, words));
  assert_null(nearest_word("train", 0, words));
  char endless[300];
  memset(endless, 'e', sizeof endless);
  endless[sizeof endless - 1] = '\0';
  assert_null(nearest_word(endless, COUNT, words));
  const char *const candidates[] = {endless};
  assert_null(nearest_word("eeee", 1, candidates));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(error_carries_code_and_text), cmocka_unit_test(prefix_goes_before),
      cmocka_unit_test(text_is_one_printable_line),  cmocka_unit_test(try_returns_the_error),
      cmocka_unit_test(suggestion_is_near_or_none),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
