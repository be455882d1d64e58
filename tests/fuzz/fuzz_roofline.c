/* fuzz_roofline.c - any JSON as what `proa bench slice --json` wrote: refused with a text, or drawn. */
#include "cmd/bench_roofline.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    proa_error err = {0};
    proa_buf text = {0};
    proa_json *whole = proa_json_parse((const char *)data, size, &err);
    if (whole == NULL)
        return 0;
    proa_roofline *roofline = malloc(sizeof *roofline);
    PROA_ASSERT(roofline != NULL);
    if (proa_roofline_read(whole, size % 2 == 0 ? "decode" : NULL, roofline, &err) == PROA_OK) {
        proa_roofline_draw(roofline, &text);
        PROA_ASSERT(strstr(proa_buf_text(&text), "=\"nan") == NULL);
        PROA_ASSERT(strstr(proa_buf_text(&text), "</svg>\n") != NULL);
    } else {
        PROA_ASSERT(err.text[0] != '\0');
    }
    proa_buf_free(&text);
    free(roofline);
    proa_json_free(whole);
    return 0;
}
