"""The buffer between handlers and the reader, by itself: laps, many writers, records given up."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
from support.compiled import shared_library

NATIVE = Path(__file__).resolve().parents[2] / "conprof_core" / "_native"

HARNESS = """
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include "@NATIVE@/own_tid.c"
#include "@NATIVE@/ring.c"

bool conprof_safe_read(void *to, uintptr_t from, size_t bytes)
{
    memcpy(to, (const void *)from, bytes);
    return true;
}

static struct conprof_ring ring;
static uint64_t out[CONPROF_RING_MAX_RECORD];

static int check(void) { return conprof_ring_init(&ring) ? 0 : 1; }
static int take(uint32_t *words)
{
    int kind;
    *words = conprof_ring_take(&ring, out, &kind);
    return kind;
}

static bool write_one(uint64_t value, uint32_t words, struct conprof_ring_slot *slot)
{
    if (!conprof_ring_reserve(&ring, words, slot)) {
        return false;
    }
    for (uint32_t i = 1; i < words; i++) {
        conprof_ring_put(slot, i, value);
    }
    return true;
}

static struct conprof_ring_slot left;
static void *leave_open(void *unused) { (void)unused; write_one(7, 5, &left); return NULL; }

/* The line that failed, or 0. */
#define CHECK(what) do { if (!(what)) return __LINE__; } while (0)

int given_up(int laps)
{
    struct conprof_ring_slot slot;
    uint32_t words;
    uint64_t at;
    CHECK(check() == 0);
    for (int i = 0; i < laps; i++) {
        CHECK(write_one(i, 14000, &slot));
        CHECK(conprof_ring_publish(&slot, CONPROF_RECORD_SAMPLE));
        CHECK(take(&words) == CONPROF_RECORD_SAMPLE && out[0] == (uint64_t)i);
    }
    CHECK(conprof_ring_waits_for(&ring, &at) == 0);
    pthread_t thread;
    pthread_create(&thread, NULL, leave_open, NULL);
    pthread_join(thread, NULL);
    pid_t writer = conprof_ring_waits_for(&ring, &at);
    CHECK(writer != 0 && writer != (pid_t)syscall(SYS_gettid));
    CHECK(write_one(8, 9, &slot) && conprof_ring_publish(&slot, CONPROF_RECORD_SAMPLE));
    CHECK(take(&words) == 0); /* what is behind it cannot be had */
    CHECK(!conprof_ring_has_later(&ring, writer));
    CHECK(conprof_ring_has_later(&ring, (pid_t)syscall(SYS_gettid)));
    CHECK(conprof_ring_give_up(&ring, at) && !conprof_ring_give_up(&ring, at));
    CHECK(!conprof_ring_publish(&left, CONPROF_RECORD_SAMPLE)); /* too late */
    CHECK(take(&words) == CONPROF_RECORD_PAD && words == 4);
    CHECK(take(&words) == CONPROF_RECORD_SAMPLE && words == 8 && out[7] == 8);
    CHECK(take(&words) == 0 && conprof_ring_fill(&ring) == 0);
    CHECK(!conprof_ring_publish(&left, CONPROF_RECORD_SAMPLE)); /* later still */
    return 0;
}

/* A writer that dies between its header and the move of `reserved` is helped on by the next. */
int between_two_steps(void)
{
    struct conprof_ring_slot slot;
    uint32_t words;
    uint64_t at;
    CHECK(check() == 0);
    CHECK(write_one(1, 6, &slot));
    atomic_store(&ring.reserved, 0);
    CHECK(conprof_ring_waits_for(&ring, &at) != 0);
    CHECK(write_one(2, 7, &slot) && slot.at == 6);
    atomic_store(&ring.reserved, 6); /* the same again, and the reader comes first */
    CHECK(conprof_ring_give_up(&ring, 0) && take(&words) == CONPROF_RECORD_PAD && words == 5);
    CHECK(conprof_ring_give_up(&ring, 6) && take(&words) == CONPROF_RECORD_PAD && words == 6);
    CHECK(conprof_ring_fill(&ring) == 0 && atomic_load(&ring.reserved) == 13);
    CHECK(write_one(3, 8, &slot) && conprof_ring_publish(&slot, CONPROF_RECORD_CODE));
    CHECK(take(&words) == CONPROF_RECORD_CODE && words == 7 && out[6] == 3);
    return 0;
}

#define WRITERS 4
static void *write_many(void *number)
{
    uint64_t mine = (uint64_t)(uintptr_t)number;
    for (uint64_t i = 1; i <= 40000; ) {
        struct conprof_ring_slot slot;
        if (write_one(mine << 32 | i, 2 + (uint32_t)(i * 7919 % 300), &slot)) {
            if (!conprof_ring_publish(&slot, CONPROF_RECORD_SAMPLE)) {
                return (void *)1;
            }
            i++;
        }
        else {
            sched_yield();
        }
    }
    return NULL;
}

int many_writers(void)
{
    pthread_t threads[WRITERS];
    uint64_t last[WRITERS] = {0}, total = 0;
    CHECK(check() == 0);
    for (uintptr_t i = 0; i < WRITERS; i++) {
        CHECK(pthread_create(&threads[i], NULL, write_many, (void *)i) == 0);
    }
    while (total < WRITERS * 40000u) {
        uint32_t words;
        if (take(&words) == 0) {
            sched_yield();
            continue;
        }
        uint64_t who = out[0] >> 32, number = (uint32_t)out[0];
        CHECK(who < WRITERS && number == last[who] + 1);
        CHECK(words == 1 + (uint32_t)(number * 7919 % 300));
        for (uint32_t i = 1; i < words; i++) {
            CHECK(out[i] == out[0]);
        }
        last[who] = number;
        total++;
    }
    for (int i = 0; i < WRITERS; i++) {
        void *failed;
        pthread_join(threads[i], &failed);
        CHECK(failed == NULL);
    }
    return conprof_ring_fill(&ring) == 0 ? 0 : __LINE__;
}
"""


@pytest.fixture
def ring(tmp_path: Path) -> ctypes.CDLL:
    """Return the ring and what tries it, compiled."""
    source = HARNESS.replace("@NATIVE@", str(NATIVE))
    return ctypes.CDLL(str(shared_library(tmp_path, source)))


@pytest.mark.parametrize("laps", [0, 3, 20])
def test_a_record_that_is_never_finished_is_stepped_over(ring: ctypes.CDLL, laps: int) -> None:
    assert ring.given_up(laps) == 0


def test_a_writer_that_ends_between_two_steps_stops_nobody(ring: ctypes.CDLL) -> None:
    assert ring.between_two_steps() == 0


def test_many_writers_at_once(ring: ctypes.CDLL) -> None:
    assert ring.many_writers() == 0
