// Text that came from outside: what a line of output may carry as it is.
#ifndef FLOWRANK_TEXT_H
#define FLOWRANK_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

// Bytes of the UTF-8 character at `s` (its shortest form, no surrogate); 0 at the end and where there is none.
size_t text_character(const unsigned char *s);

// Whether a character moves the cursor or worse: C0, DEL, C1.
bool text_is_control(const unsigned char *s);

// `text` (null: empty) as a JSON string with its quotes; bytes that are no UTF-8 become U+FFFD.
void text_print_json(const char *text, FILE *out);

#endif
