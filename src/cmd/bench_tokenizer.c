/* bench_tokenizer.c - `proa bench tokenizer`: how fast tokenizer.json loads and text becomes ids and text again.
 *
 * One thread, as a frontend's each encodes its own requests. Times are the best of several rounds, in seconds of
 * processor; each round of encoding begins with an empty word cache. The texts are generated, the same on every
 * machine:
 *   english   common words by Zipf's law, one in eight made up of syllables, punctuation, numbers, paragraphs
 *   chinese   clauses of random characters, a fifth of them rare
 *   run       one letter over and over: the longest word there can be
 */
#include "base/clock.h"
#include "base/random.h"
#include "cmd/cmd.h"
#include "text/tokenizer.h"
#include "text/utf8.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { TEXT_BYTES = 4 << 20, LOADS = 3, ROUNDS = 5 };

/* A stream of draws. */
typedef struct dice {
    uint64_t key;
    uint64_t counter;
} dice;

static size_t roll(dice *d, size_t below)
{
    return (size_t)(proa_random_uniform(d->key, d->counter++) * (double)below);
}

/* Ranks with probability about 1 / (rank + 1). */
static size_t roll_zipf(dice *d, size_t below)
{
    size_t rank = (size_t)exp(proa_random_uniform(d->key, d->counter++) * log((double)below + 1)) - 1;
    return rank < below ? rank : below - 1;
}

/* --- texts --- */

static const char common_words[] = "the of and to a in is that it for was on are as with be by at this from "
                                   "have or had not but what all were when we "
                                   "there can an your which their said if do will each about how up out them "
                                   "then she many some so these would other "
                                   "into has more her two like him see time could no make than first been "
                                   "its who now people my made over did down "
                                   "only way find use may water long little very after words called just "
                                   "where most know get through back much before "
                                   "go good new write our used me man too any day same right look think also "
                                   "around another came come work three word "
                                   "must because does part even place well such here take why things help "
                                   "put years different away again off went old "
                                   "number great tell men say small every found still between name should "
                                   "home big give air line set own under read "
                                   "last never us left end along while might next sound below saw something "
                                   "thought both few those always looked show "
                                   "large often together asked house don't world going want school important "
                                   "until form food keep children feet land "
                                   "side without boy once animals life enough took sometimes four head above "
                                   "kind began almost live page got earth "
                                   "need far hand high year mother light parts country father let night "
                                   "following picture being study second eyes "
                                   "soon times story boys since white days ever paper hard near sentence "
                                   "better best across during today others "
                                   "however sure means knew it's try told young miles sun ways thing whole "
                                   "hear example heard several change answer "
                                   "room sea against top turned learn point city play toward five using "
                                   "himself usually money seen didn't car morning";

static void list_words(const char *words[], size_t lengths[], size_t *count, size_t max)
{
    *count = 0;
    for (const char *at = common_words; *at != 0 && *count < max; (*count)++) {
        words[*count] = at;
        lengths[*count] = strcspn(at, " ");
        at += lengths[*count];
        at += *at == ' ';
    }
}

static void append_made_up(dice *d, proa_buf *out)
{
    static const char *const syllables[] = {"ra",  "tion", "con", "ter", "ment", "pre", "al",  "is",
                                            "com", "ble",  "men", "der", "vi",   "lo",  "gra", "phy",
                                            "us",  "ne",   "ti",  "ve",  "mor",  "ph",  "ex",  "qui"};
    dice own = {roll_zipf(d, 20000), 1}; /* one of twenty thousand words */
    for (size_t n = 2 + roll(&own, 3); n > 0; n--)
        proa_buf_append_text(out, syllables[roll(&own, sizeof syllables / sizeof syllables[0])]);
}

static void write_english(proa_buf *out)
{
    enum { WORDS_MAX = 512 };
    const char *words[WORDS_MAX];
    size_t lengths[WORDS_MAX], count;
    list_words(words, lengths, &count, WORDS_MAX);
    dice d = {1, 0};
    while (out->length < TEXT_BYTES && !out->failed) {
        for (size_t n = 5 + roll(&d, 20), i = 0; i < n; i++) {
            if (roll(&d, 40) == 0) {
                proa_buf_append_format(out, "%zu", roll(&d, 3000));
            } else if (roll(&d, 8) == 0) {
                append_made_up(&d, out);
            } else {
                size_t word = roll_zipf(&d, count),
                       first = i == 0 ? 1 : 0; /* a sentence begins with a capital */
                if (first == 1)
                    proa_buf_append_char(out, (char)(words[word][0] - 32));
                proa_buf_append(out, words[word] + first, lengths[word] - first);
            }
            proa_buf_append_text(out, i + 1 == n ? "." : roll(&d, 12) == 0 ? ", " : " ");
        }
        proa_buf_append_text(out, roll(&d, 6) == 0 ? "\n\n" : " ");
    }
}

static void write_chinese(proa_buf *out)
{
    dice d = {2, 0};
    while (out->length < TEXT_BYTES && !out->failed) {
        for (size_t n = 4 + roll(&d, 14); n > 0; n--) {
            char character[4];
            uint32_t code = 0x4e00 + (uint32_t)(roll(&d, 5) == 0 ? roll(&d, 0x51a6) : roll_zipf(&d, 3000));
            proa_buf_append(out, character, proa_utf8_encode(code, character));
        }
        proa_buf_append_text(out, roll(&d, 3) == 0 ? "\xe3\x80\x82" : "\xef\xbc\x8c");
    }
}

static void write_run(proa_buf *out)
{
    while (out->length < TEXT_BYTES && !out->failed)
        proa_buf_append_text(out, "aaaaaaaaaaaaaaaa");
}

/* --- measuring --- */

static double processor_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

typedef struct figures {
    double encode_seconds;
    double decode_seconds;
    size_t ids;
} figures;

static proa_status measure_round(const proa_tokenizer *tokenizer, const proa_buf *text, figures *best,
                                 proa_error *err)
{
    proa_ids ids = {0};
    proa_buf decoded = {0};
    proa_encoder *encoder = proa_encoder_create(tokenizer);
    proa_status status = PROA_OK;
    if (encoder == NULL)
        status = proa_error_set(err, PROA_ERR_MEMORY, "no memory left to tokenize");
    double start = processor_seconds();
    if (status == PROA_OK)
        status = proa_encode(encoder, proa_buf_text(text), text->length, true, &ids, err);
    double middle = processor_seconds();
    proa_decode(tokenizer, ids.data, ids.count, false, &decoded);
    double end = processor_seconds();
    if (status == PROA_OK &&
        (decoded.length != text->length || memcmp(decoded.data, text->data, text->length) != 0))
        status = proa_error_set(err, PROA_ERR_INTERNAL, "decoding does not give the text back");
    best->ids = ids.count;
    best->encode_seconds = fmin(best->encode_seconds, middle - start);
    best->decode_seconds = fmin(best->decode_seconds, end - middle);
    proa_encoder_free(encoder);
    proa_buf_free(&decoded);
    proa_ids_free(&ids);
    return status;
}

static proa_status measure_text(const proa_tokenizer *tokenizer, const char *name, void (*write)(proa_buf *),
                                proa_error *err)
{
    proa_buf text = {0};
    write(&text);
    proa_status status = PROA_OK;
    if (text.failed)
        status = proa_error_set(err, PROA_ERR_MEMORY, "no memory for a text of %d bytes", TEXT_BYTES);
    figures best = {INFINITY, INFINITY, 0};
    for (int i = 0; i < ROUNDS && status == PROA_OK; i++)
        status = measure_round(tokenizer, &text, &best, err);
    double megabytes = (double)text.length * 1e-6;
    if (status == PROA_OK)
        printf("%-8s %8.2f MB %9zu ids %8.2f bytes/id   encode %8.2f MB/s   decode %8.2f MB/s\n", name,
               megabytes, best.ids, (double)text.length / (double)best.ids, megabytes / best.encode_seconds,
               megabytes / best.decode_seconds);
    fflush(stdout);
    proa_buf_free(&text);
    return status;
}

static int load(const proa_options *options, proa_tokenizer **tokenizer)
{
    int64_t best_us = INT64_MAX;
    double best_seconds = INFINITY;
    *tokenizer = NULL;
    for (int i = 0; i < LOADS; i++) {
        proa_tokenizer_free(*tokenizer);
        int64_t start_us = proa_clock_us();
        double start = processor_seconds();
        int exit_status = proa_cmd_open_tokenizer(options, tokenizer);
        if (exit_status != PROA_EXIT_OK)
            return exit_status;
        int64_t took_us = proa_clock_us() - start_us;
        best_us = took_us < best_us ? took_us : best_us;
        best_seconds = fmin(best_seconds, processor_seconds() - start);
    }
    printf("load %.3f s, %.3f s of processor, %d ids\n", (double)best_us * 1e-6, best_seconds,
           proa_tokenizer_vocab_size(*tokenizer));
    return PROA_EXIT_OK;
}

int proa_cmd_bench_tokenizer(const proa_options *options)
{
    static const struct {
        const char *name;
        void (*write)(proa_buf *);
    } texts[] = {{"english", write_english}, {"chinese", write_chinese}, {"run", write_run}};
    proa_tokenizer *tokenizer;
    int exit_status = load(options, &tokenizer);
    if (exit_status != PROA_EXIT_OK)
        return exit_status;
    proa_error err = {0};
    proa_status status = PROA_OK;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0] && status == PROA_OK; i++)
        status = measure_text(tokenizer, texts[i].name, texts[i].write, &err);
    proa_tokenizer_free(tokenizer);
    return status == PROA_OK ? PROA_EXIT_OK : proa_cmd_fail(&err);
}
