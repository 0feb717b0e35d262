// A fuzz target is one file with this function; libFuzzer's name for it. It returns 0, or the process ends.
#ifndef FLOWRANK_FUZZ_H
#define FLOWRANK_FUZZ_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
