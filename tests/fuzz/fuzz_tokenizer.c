/* fuzz_tokenizer.c - a tokenizer.json, a pattern or a text, by the first byte.
 *
 * j: tokenizer.json, a zero byte, a text: loads or is refused; then ids exist, and decoding in parts equals the whole.
 * p: a pattern, a zero byte, a text: compiles or is refused; then decoding gives the text back.
 * others: a text, with DeepSeek-V3's patterns: the same, and added tokens too.
 */
#include "base/json.h"
#include "text/tokenizer.h"
#include "text/utf8.h"

#include <stdint.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { TEXT_BYTES_MAX = 4096 };

/* Every byte's token, some merges, added tokens with every flag. `patterns`: the pre-tokenizer's stages, as JSON. */
static proa_tokenizer *make(const char *patterns)
{
    proa_buf json = {0};
    proa_buf_append_text(&json, "{\"model\":{\"type\":\"BPE\",\"vocab\":{");
    int high = 0x100;
    for (int byte = 0; byte < 256; byte++) {
        bool printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad);
        proa_buf_append_format(&json, "\"\\u%04x\":%d,", printable ? byte : high++, byte);
    }
    proa_buf_append_text(&json,
                         "\"aa\":256,\"aaa\":257,\"ab\":258,\"\\u0120a\":259,\"11\":260,\"aaaa\":261},"
                         "\"merges\":[\"a a\",\"aa a\",\"a b\",\"\\u0120 a\",\"1 1\",\"aa aa\"]},"
                         "\"added_tokens\":["
                         "{\"id\":300,\"content\":\"<s>\",\"special\":true},"
                         "{\"id\":301,\"content\":\"<s><s>\",\"special\":true},"
                         "{\"id\":302,\"content\":\"<l>\",\"lstrip\":true,\"normalized\":false},"
                         "{\"id\":303,\"content\":\"<r>\",\"rstrip\":true},"
                         "{\"id\":304,\"content\":\"word\",\"single_word\":true},"
                         "{\"id\":305,\"content\":\"<b>\",\"lstrip\":true,\"rstrip\":true,\"special\":true}],"
                         "\"decoder\":{\"type\":\"ByteLevel\"},"
                         "\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[");
    proa_buf_append_text(&json, patterns);
    proa_buf_append_text(&json, "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}]}}");
    proa_tokenizer *tokenizer;
    proa_error err;
    proa_status status = proa_tokenizer_parse(json.data, json.length, "fuzz", &tokenizer, &err);
    PROA_ASSERT(status == PROA_OK || status == PROA_ERR_INVALID || status == PROA_ERR_UNSUPPORTED ||
                status == PROA_ERR_TOO_LONG);
    proa_buf_free(&json);
    return tokenizer;
}

static void check_decoding(const proa_tokenizer *tokenizer, const proa_ids *ids, bool skip,
                           const proa_buf *want)
{
    proa_buf whole = {0}, parts = {0};
    proa_detokenizer d;
    proa_detokenizer_init(&d, tokenizer, skip);
    for (size_t i = 0; i < ids->count; i++) {
        size_t before = parts.length, length;
        PROA_ASSERT(proa_tokenizer_bytes(tokenizer, ids->data[i], &length) != NULL);
        proa_detokenizer_push(&d, ids->data[i], &parts);
        PROA_ASSERT(proa_utf8_valid_length(proa_buf_text(&parts) + before, parts.length - before) ==
                    parts.length - before);
    }
    proa_detokenizer_finish(&d, &parts);
    proa_decode(tokenizer, ids->data, ids->count, skip, &whole);
    PROA_ASSERT(whole.length == parts.length);
    PROA_ASSERT(memcmp(proa_buf_text(&whole), proa_buf_text(&parts), whole.length) == 0);
    if (want != NULL) {
        PROA_ASSERT(whole.length == want->length);
        PROA_ASSERT(memcmp(proa_buf_text(&whole), proa_buf_text(want), want->length) == 0);
    }
    proa_buf_free(&whole);
    proa_buf_free(&parts);
}

/* `lossless`: encoding drops and adds nothing, so that plain text comes back. */
static void check_text(const proa_tokenizer *tokenizer, const char *text, size_t length, bool lossless)
{
    if (length > TEXT_BYTES_MAX)
        length = TEXT_BYTES_MAX;
    proa_encoder *encoder = proa_encoder_create(tokenizer);
    PROA_ASSERT(encoder != NULL);
    proa_buf valid = {0};
    proa_utf8_append_valid(text, length, &valid);
    for (int parse_added = 0; parse_added < 2; parse_added++) {
        proa_ids ids = {0};
        proa_error err;
        proa_status status = proa_encode(encoder, text, length, parse_added != 0, &ids, &err);
        PROA_ASSERT(status == PROA_OK || status == PROA_ERR_TOO_LONG);
        if (status == PROA_OK) {
            check_decoding(tokenizer, &ids, false, lossless && !parse_added ? &valid : NULL);
            check_decoding(tokenizer, &ids, true, NULL);
        }
        proa_ids_free(&ids);
    }
    proa_buf_free(&valid);
    proa_encoder_free(encoder);
}

static void check_file(const char *json, size_t length, const char *text, size_t text_length)
{
    proa_tokenizer *tokenizer;
    proa_error err = {0};
    proa_status status = proa_tokenizer_parse(json, length, "fuzz", &tokenizer, &err);
    PROA_ASSERT(status <= PROA_OK);
    PROA_ASSERT((status == PROA_OK) == (tokenizer != NULL));
    if (tokenizer != NULL)
        check_text(tokenizer, text, text_length, false);
    proa_tokenizer_free(tokenizer);
}

static void check_pattern(const char *pattern, size_t length, const char *text, size_t text_length)
{
    proa_buf stage = {0};
    proa_buf_append_text(&stage, "{\"type\":\"Split\",\"behavior\":\"Isolated\",\"pattern\":{\"Regex\":");
    proa_json_write_string(pattern, length, &stage);
    proa_buf_append_text(&stage, "}},");
    proa_tokenizer *tokenizer = make(proa_buf_text(&stage));
    if (tokenizer != NULL)
        check_text(tokenizer, text, text_length, true);
    proa_tokenizer_free(tokenizer);
    proa_buf_free(&stage);
}

static void check_deepseek(const char *text, size_t length)
{
    static proa_tokenizer *tokenizer; /* lives as long as the process */
    if (tokenizer == NULL)
        tokenizer = make(
            "{\"type\":\"Split\",\"behavior\":\"Isolated\",\"pattern\":{\"Regex\":\"\\\\p{N}{1,3}\"}},"
            "{\"type\":\"Split\",\"behavior\":\"Isolated\",\"pattern\":{\"Regex\":"
            "\"[\\u4e00-\\u9fa5\\u3040-\\u309f\\u30a0-\\u30ff]+\"}},"
            "{\"type\":\"Split\",\"behavior\":\"Isolated\",\"pattern\":{\"Regex\":"
            "\"[!\\\"#$%&'()*+,\\\\-./:;<=>?@\\\\[\\\\\\\\\\\\]^_`{|}~][A-Za-z]+|"
            "[^\\\\r\\\\n\\\\p{L}\\\\p{P}\\\\p{S}]?[\\\\p{L}\\\\p{M}]+| ?[\\\\p{P}\\\\p{S}]+[\\\\r\\\\n]*|"
            "\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"}},");
    PROA_ASSERT(tokenizer != NULL);
    check_text(tokenizer, text, length, true);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    const char *body = (const char *)data + 1, *zero = memchr(body, 0, size - 1);
    size_t length = zero != NULL ? (size_t)(zero - body) : size - 1;
    const char *text = zero != NULL ? zero + 1 : "";
    size_t text_length = zero != NULL ? size - 2 - length : 0;
    if (data[0] == 'j')
        check_file(body, length, text, text_length);
    else if (data[0] == 'p')
        check_pattern(body, length, text, text_length);
    else
        check_deepseek(body, size - 1);
    return 0;
}
