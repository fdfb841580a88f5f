/* hash.h: the one hash of the extension's tables. Not for hostile keys: every
 * table that uses it is bounded, so a collision costs time within the bound. */
#ifndef CONPROF_HASH_H
#define CONPROF_HASH_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline uint64_t
conprof_hash_word(uint64_t seed, uint64_t word)
{
    uint64_t x = (seed ^ word) * UINT64_C(0x9E3779B97F4A7C15);
    return x ^ x >> 29;
}

static inline uint64_t
conprof_hash_bytes(uint64_t seed, const void *bytes, size_t n)
{
    const unsigned char *at = bytes;
    uint64_t hash = conprof_hash_word(seed, n);
    for (; n >= 8; n -= 8, at += 8) {
        uint64_t word;
        memcpy(&word, at, 8);
        hash = conprof_hash_word(hash, word);
    }
    uint64_t tail = 0;
    memcpy(&tail, at, n);
    return conprof_hash_word(hash, tail);
}

#endif
