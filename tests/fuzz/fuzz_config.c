// The config parser. Input: a config's text and, behind a zero byte, a --set. What is accepted must print as a config that
// is read back to the same values; what is refused must be refused in one line.
#include <stdlib.h>
#include <string.h>

#include "common/config.h"
#include "fuzz.h"

static void check_error(struct error *e) {
  if (strchr(e->text, '\n') != NULL || (e->code != EXIT_CODE_USAGE && e->code != EXIT_CODE_FAILED)) abort();
  error_free(e);
}

static void check_round_trip(const struct config *config) {
  struct config again;
  char *text = NULL;
  struct error *e = config_print(config, &text);
  if (e == NULL) e = config_parse("printed", text, 0, NULL, &again);
  if (e != NULL || config_first_difference(config, &again, false) != NULL) abort();
  free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct config config;
  char *text = calloc(size + 2, 1);
  if (text == NULL) abort();
  if (size > 0) memcpy(text, data, size);
  const char *set = text + strlen(text) + 1; // at the most the second zero at the end
  struct error *e = config_parse("input", text, *set != '\0', &set, &config);
  if (e == NULL) check_round_trip(&config);
  else check_error(e);
  free(text);
  return 0;
}
