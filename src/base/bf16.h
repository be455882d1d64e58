/* bf16.h - arrays between float32 and bf16: as number.h says for one value, and as fast as memory. Any thread. */
#ifndef PROA_BASE_BF16_H
#define PROA_BASE_BF16_H

#include <stddef.h>
#include <stdint.h>

void proa_bf16_from_floats(uint16_t *to, const float *from, size_t count);
void proa_bf16_to_floats(float *to, const uint16_t *from, size_t count);

#endif
