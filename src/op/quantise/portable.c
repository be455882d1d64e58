/* portable.c - quantise where nothing is known of the processor: the reference serves. */
#include "op/quantise/row.h"

#include <stddef.h>

proa_quantise_row proa_quantise_row_portable(void)
{
    return NULL;
}
