/* fuzz_chain.c: ring -> code table and aggregator -> pprof and OTLP, with random and hostile records.
 *
 * Writes the profiles of its windows into a directory, for the tests' independent
 * reader to check. Built with the address and undefined-behaviour sanitizers.
 *
 *   fuzz_chain ROUNDS SEED DIRECTORY
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "aggregate.h"
#include "code_registry.h"
#include "label_records.h"
#include "lock.h"
#include "otlp.h"
#include "pprof.h"
#include "sampler.h"

static uint64_t state;

static uint64_t
next_random(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static struct conprof_ring ring;
static uint64_t words_of_record[CONPROF_RING_MAX_RECORD];
static uint64_t samples_put, cpu_put;

static bool
publish(const uint64_t *words, uint32_t n, enum conprof_record_kind kind)
{
    struct conprof_ring_slot slot;
    if (!conprof_ring_reserve(&ring, n + 1, &slot)) {
        return false;
    }
    for (uint32_t i = 0; i < n; i++) {
        conprof_ring_put(&slot, i + 1, words[i]);
    }
    conprof_ring_publish(&slot, kind);
    return true;
}

/* A code record: any bytes in its strings, lengths mostly within the rules. */
static void
put_code(uint64_t uid)
{
    uint64_t *w = words_of_record;
    uint32_t kind = (uint32_t[]){1, 2, 4, 1}[next_random() % 4];
    uint32_t name = (uint32_t)(next_random() % (next_random() % 8 ? 40 : CONPROF_MAX_NAME_BYTES + 9));
    uint32_t file = (uint32_t)(next_random() % 60), table = (uint32_t)(next_random() % 200);
    w[CONPROF_CODE_UID] = uid;
    w[CONPROF_CODE_FIRST_LINE] = next_random() % 3 ? next_random() % 5000 : next_random();
    w[CONPROF_CODE_QUALNAME] = (uint64_t)kind << 32 | name;
    w[CONPROF_CODE_FILENAME] = (uint64_t)1 << 32 | file;
    w[CONPROF_CODE_LINETABLE] = table;
    uint32_t n = CONPROF_CODE_DATA;
    for (uint32_t i = 0; i < (name + 7) / 8 + (file + 7) / 8 + (table + 7) / 8; i++) {
        w[n++] = next_random();
    }
    /* Now and then a record that promises more than it holds. */
    publish(w, next_random() % 16 ? n : n / 2, CONPROF_RECORD_CODE);
}

static void
put_sample(struct conprof_label_record *record)
{
    uint64_t *w = words_of_record;
    uint32_t frames = (uint32_t)(next_random() % 258);
    w[CONPROF_SAMPLE_CPU_NS] = next_random() % 20000000;
    w[CONPROF_SAMPLE_CELL] = next_random() % 4 ? 0 : next_random() % 50 + 1;
    w[CONPROF_SAMPLE_RECORD] = (uint64_t)(uintptr_t)record;
    w[CONPROF_SAMPLE_NAME] = 1;
    for (uint32_t i = 0; i < frames; i++) {
        uint64_t uid = next_random() % 5 ? CONPROF_UID_FIRST + next_random() % 300
                                         : next_random() % 400;
        w[CONPROF_SAMPLE_FRAMES + i] = conprof_frame_word(uid, next_random() % 200);
    }
    uint32_t n = CONPROF_SAMPLE_FRAMES + frames;
    enum conprof_record_kind kind = CONPROF_RECORD_SAMPLE;
    if (next_random() % 2) {
        w[n++] = next_random();
        w[n++] = next_random();
        w[n++] = next_random() % 3 ? next_random() % 100 + 1 : next_random() | 1;
        kind |= CONPROF_RECORD_TRACED;
    }
    else if (w[CONPROF_SAMPLE_CELL] != 0) {
        struct conprof_trace late = {next_random(), next_random(), next_random() | 1};
        conprof_unlock();
        conprof_traces_bind(w[CONPROF_SAMPLE_CELL], &late);
        conprof_lock();
    }
    if (publish(w, n, kind) && frames > 0) {
        samples_put += 1;
        cpu_put += w[CONPROF_SAMPLE_CPU_NS];
    }
}

static void
take_all(struct conprof_window *window)
{
    static uint64_t words[CONPROF_RING_MAX_RECORD];
    for (;;) {
        int kind;
        uint32_t n = conprof_ring_take(&ring, words, &kind);
        if (kind == 0) {
            return;
        }
        struct conprof_trace trace = {0};
        if (kind & CONPROF_RECORD_TRACED) {
            kind &= ~CONPROF_RECORD_TRACED;
            n -= CONPROF_TRACE_WORDS;
            memcpy(&trace, words + n, sizeof trace);
        }
        if (kind == CONPROF_RECORD_SAMPLE) {
            conprof_window_add(window, words, n, &trace);
        }
        else if (kind == CONPROF_RECORD_CODE) {
            conprof_code_table_add(words, n);
        }
    }
}

static struct conprof_text
text(const char *of)
{
    return (struct conprof_text){of, strlen(of)};
}

static void
write_file(const char *directory, long number, const char *kind, char *data, size_t bytes)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%05ld.%s", directory, number, kind);
    FILE *file = fopen(path, "wb");
    if (data == NULL || file == NULL || fwrite(data, 1, bytes, file) != bytes) {
        abort();
    }
    fclose(file);
    free(data);
}

static void
write_profile(const struct conprof_window *window, const char *directory, long number)
{
    struct conprof_pprof profile = {
        .naming = {.sample_types = {{text("samples"), text("count"), CONPROF_COLUMN_SAMPLES},
                                    {text("cpu"), text("nanoseconds"), CONPROF_COLUMN_CPU_NS}},
                   .sample_type_count = 2,
                   .thread_label = number % 2 ? text("thread") : (struct conprof_text){NULL, 0}},
        .period_type = text("cpu"),
        .period_unit = text("nanoseconds"),
        .period = 10000000,
        .default_sample_type = text("cpu"),
        .mapping_file = text("fuzz"),
    };
    profile.naming.span_form = (enum conprof_span_form)(number % 4);
    profile.naming.span_keys[0] = text("span id");
    profile.naming.span_keys[1] = text("local root span id");
    profile.naming.span_key_count = 2;
    size_t bytes;
    char *pprof = conprof_pprof_encode(window, &profile, &bytes);
    write_file(directory, number, "pprof", pprof, bytes);
    struct conprof_otlp request = {
        .naming = profile.naming,
        .shapes = {{text("process_cpu"), text("cpu"), text("nanoseconds"), 10000000, 0, 2}},
        .shape_count = 1,
        .version = text("1"),
        .profile_id = text("0123456789abcdef"),
    };
    request.naming.span_form = number % 2 ? CONPROF_SPAN_LINK : CONPROF_SPAN_NONE;
    request.naming.max_samples = number % 3 ? 0 : 100;
    request.naming.max_label_sets = number % 5 ? 0 : 4;
    char *otlp = conprof_otlp_encode(window, &request, &bytes);
    write_file(directory, number, "otlp", otlp, bytes);
}

int
main(int argc, char **argv)
{
    long rounds = argc > 1 ? atol(argv[1]) : 20;
    state = argc > 2 ? strtoull(argv[2], NULL, 0) : 88172645463325252ull;
    const char *directory = argc > 3 ? argv[3] : ".";
    if (!conprof_ring_init(&ring) || !conprof_label_records_init()) {
        return 1;
    }
    struct conprof_label_record *records[20];
    for (uint32_t i = 0; i < 20; i++) {
        char value[64];
        for (size_t c = 0; c < sizeof value; c++) {
            value[c] = (char)(' ' + next_random() % 90);
        }
        /* Not empty: in a profile that is no label, and two records would be one. */
        uint32_t bytes = 1 + (uint32_t)(next_random() % (sizeof value - 1));
        struct conprof_label label = {"key", value, 3, bytes};
        records[i] = i == 0 ? conprof_labels_empty() : conprof_label_records_intern(&label, 1);
    }
    uint64_t total = 0;
    for (long round = 0; round < rounds; round++) {
        conprof_lock();
        /* Small tables too: what overflows must be counted and stay in the sums. */
        struct conprof_window *window =
            conprof_window_new(round % 3 ? 4096 : 16, 1700000000000000000 + round);
        samples_put = cpu_put = 0;
        for (int i = 0; i < 3000; i++) {
            if (next_random() % 3 == 0) {
                put_code(CONPROF_UID_FIRST + next_random() % 300);
            }
            else {
                put_sample(records[next_random() % 20]);
            }
            if (next_random() % 8 == 0) {
                take_all(window);
            }
        }
        take_all(window);
        conprof_window_resolve(window);
        conprof_traces_reset();
        conprof_window_forget_cache();
        window->end_ns = window->start_ns + 1000000000;
        conprof_unlock();
        if (window->totals[CONPROF_COLUMN_SAMPLES] != samples_put || window->totals[CONPROF_COLUMN_CPU_NS] != cpu_put) {
            printf("round %ld: %lu of %lu samples, %lu of %lu ns\n", round,
                   (unsigned long)window->totals[CONPROF_COLUMN_SAMPLES], (unsigned long)samples_put,
                   (unsigned long)window->totals[CONPROF_COLUMN_CPU_NS], (unsigned long)cpu_put);
            return 1;
        }
        total += window->totals[CONPROF_COLUMN_SAMPLES];
        write_profile(window, directory, round);
        conprof_window_free(window);
    }
    printf("chain: %ld windows, %lu samples\n", rounds, (unsigned long)total);
    return total > 0 ? 0 : 1;
}
