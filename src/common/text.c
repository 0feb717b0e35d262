#include "common/text.h"

size_t text_character(const unsigned char *s) {
  if (s[0] < 0x80) return s[0] != '\0';
  const size_t length = s[0] >= 0xc2 && s[0] <= 0xdf   ? 2
                        : (s[0] & 0xf0) == 0xe0        ? 3
                        : s[0] >= 0xf0 && s[0] <= 0xf4 ? 4
                                                       : 0;
  for (size_t i = 1; i < length; ++i)
    if ((s[i] & 0xc0) != 0x80) return 0; // also stops at the terminating zero
  const bool overlong = (s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xf0 && s[1] < 0x90);
  const bool beyond = (s[0] == 0xed && s[1] >= 0xa0) || (s[0] == 0xf4 && s[1] >= 0x90);
  return overlong || beyond ? 0 : length;
}

bool text_is_control(const unsigned char *s) { return s[0] < 0x20 || s[0] == 0x7f || (s[0] == 0xc2 && s[1] < 0xa0); }

void text_print_json(const char *text, FILE *out) {
  fputc('"', out);
  for (const unsigned char *s = (const unsigned char *)(text ? text : ""); *s != '\0';) {
    const size_t length = text_character(s);
    if (*s == '"' || *s == '\\') fprintf(out, "\\%c", *s);
    else if (*s == '\n') fputs("\\n", out);
    else if (length == 0) fputs("\\ufffd", out);
    else if (text_is_control(s)) fprintf(out, "\\u%04x", length == 1 ? s[0] : s[1]);
    else fwrite(s, 1, length, out);
    s += length ? length : 1;
  }
  fputc('"', out);
}
