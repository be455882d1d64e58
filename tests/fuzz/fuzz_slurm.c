/* What `proa slurm` reads that it has not written itself: flags in one text, lines of a layout, ends of logs. */
#include "base/shell.h"
#include "cmd/slurm_layout.h"
#include "cmd/slurm_words.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Words that are quoted and split again are the same words. */
static void split_again(const proa_words *words, proa_arena *arena)
{
    proa_buf text = {0};
    proa_words again = {.arena = arena};
    for (int i = 0; i < words->count; i++) {
        proa_shell_quote(&text, words->list[i]);
        proa_buf_append_char(&text, ' ');
    }
    PROA_ASSERT(proa_words_split(&again, proa_buf_text(&text), "again", NULL) == PROA_OK);
    PROA_ASSERT(again.count == words->count);
    for (int i = 0; i < words->count; i++)
        PROA_ASSERT(strcmp(again.list[i], words->list[i]) == 0);
    proa_buf_free(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    proa_layout_line line;
    proa_layout_notes notes;
    proa_arena *arena = proa_arena_create(0);
    char *text = malloc(size + 1);
    if (text != NULL && arena != NULL) {
        proa_words words = {.arena = arena};
        memcpy(text, data, size);
        text[size] = '\0';
        if (proa_words_split(&words, text, "fuzz", NULL) == PROA_OK)
            split_again(&words, arena);
    }
    if (proa_layout_parse((const char *)data, size, &line))
        PROA_ASSERT(strchr(line.label, '/') == NULL && line.worker >= 0);
    proa_layout_read_log((const char *)data, size, &notes);
    PROA_ASSERT(strlen(notes.error) < sizeof notes.error);
    free(text);
    proa_arena_free(arena);
    return 0;
}
