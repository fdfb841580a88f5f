/* blocked.c: see blocked.h. */
#include "blocked.h"

#include "code_registry.h"
#include "sampler.h"

/* Longer spans gain nothing from being looked at more often than all threads are. */
#define MAX_PEEK_NS 50000000u

struct places {
    uint64_t version;
    uint64_t total_ns;
    uint32_t count;
    struct {
        uint32_t row; /* of the open window */
        uint64_t ns;
    } at[CONPROF_BLOCKED_PLACES];
};

struct account {
    pid_t tid; /* 0: free */
    int descriptor;
    bool was_seen;        /* by the watch under way */
    uint64_t looked_ns;   /* the last look; 0: none yet */
    uint64_t version;     /* of the span; 0: there is none */
    uint64_t began_ns;    /* of the span, as are the next three */
    uint64_t first_ns;    /* look that saw it first */
    uint64_t charged_ns;  /* time up to which it was charged */
    bool is_counted;      /* as a block */
    bool has_row;         /* `row` is in the open window */
    uint32_t row;         /* that the span was charged to last */
    uint32_t ahead_row;   /* that was charged ahead of the wait being settled, */
    uint64_t ahead_ns;    /* so much */
    struct places places; /* of the span, not charged yet */
    struct places fresh;  /* of the number seen last that is not the span's */
};

/* owner: holder of the session lock */
static struct account accounts[CONPROF_MAX_LOOPS];
static uint64_t threshold;
static uint64_t blocks;

void
conprof_blocked_configure(uint64_t threshold_ns)
{
    for (uint32_t i = 0; i < CONPROF_MAX_LOOPS; i++) {
        accounts[i].tid = 0;
    }
    threshold = threshold_ns;
    blocks = 0;
}

uint64_t
conprof_blocked_count(void)
{
    return blocks;
}

uint32_t
conprof_blocked_watched(void)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < CONPROF_MAX_LOOPS; i++) {
        count += accounts[i].tid != 0;
    }
    return count;
}

static struct account *
account_of(uint32_t loop)
{
    return loop == 0 || loop > CONPROF_MAX_LOOPS || accounts[loop - 1].tid == 0
               ? NULL
               : &accounts[loop - 1];
}

static void
clear(struct places *places, uint64_t version)
{
    places->version = version;
    places->total_ns = 0;
    places->count = 0;
}

/* ---- what was where ---- */

static void
add(struct places *places, uint32_t row, uint64_t ns)
{
    uint32_t i = 0;
    if (ns == 0) {
        return;
    }
    while (i < places->count && places->at[i].row != row) {
        i++;
    }
    if (i == places->count) {
        if (i == CONPROF_BLOCKED_PLACES) {
            i--;
        }
        else {
            places->at[i].row = row;
            places->at[i].ns = 0;
            places->count++;
        }
    }
    places->at[i].ns += ns;
    places->total_ns += ns;
}

void
conprof_blocked_add(uint32_t loop, uint64_t version, uint32_t row, uint64_t ns)
{
    struct account *account = account_of(loop);
    if (account == NULL || version == 0) {
        return;
    }
    if (version == account->version) {
        if (row == account->ahead_row) {
            uint64_t known = ns < account->ahead_ns ? ns : account->ahead_ns;
            account->ahead_ns -= known;
            ns -= known;
        }
        add(&account->places, row, ns);
        return;
    }
    if (version != account->fresh.version) {
        clear(&account->fresh, version);
    }
    add(&account->fresh, row, ns);
}

void
conprof_blocked_add_sample(const struct conprof_window *window, const uint64_t *words,
                           const struct conprof_row *row)
{
    uint64_t loop = words[CONPROF_SAMPLE_LOOP];
    if (loop != 0 && row != NULL && window->has_wall) {
        conprof_blocked_add((uint32_t)(loop & CONPROF_LOOP_MASK), loop >> CONPROF_LOOP_BITS,
                            (uint32_t)(row - window->rows), words[CONPROF_SAMPLE_CPU_NS]);
    }
}

/* ---- charging ---- */

static void
count_block(struct conprof_window *window, struct account *account, uint32_t row)
{
    if (!account->is_counted) {
        account->is_counted = true;
        blocks++;
        conprof_window_charge(window, &window->rows[row], CONPROF_COLUMN_LOOP_BLOCKS, 1);
    }
    account->row = row;
    account->has_row = true;
}

/* Charges the span up to `until_ns` to its places. `row` is where the thread still stands:
 * what it has waited there is in no place yet, so it gets the rest. With neither it waits for
 * the next. */
static void
charge(struct conprof_window *window, struct account *account, uint64_t until_ns,
       struct conprof_row *row)
{
    struct places *places = &account->places;
    if (until_ns <= account->charged_ns || (places->total_ns == 0 && row == NULL)) {
        return;
    }
    uint64_t left = until_ns - account->charged_ns, most = 0;
    uint64_t placed = row == NULL || places->total_ns > left ? left : places->total_ns;
    uint32_t largest = 0;
    left -= placed;
    for (uint32_t i = 0; i < places->count; i++) {
        double share = (double)places->at[i].ns / (double)places->total_ns;
        uint64_t part = (uint64_t)((double)placed * share);
        if (part >= most) {
            most = part;
            largest = places->at[i].row;
        }
        conprof_window_charge(window, &window->rows[places->at[i].row],
                              CONPROF_COLUMN_LOOP_BLOCKED_NS, part);
    }
    if (left > 0) {
        uint32_t here = (uint32_t)(row - window->rows);
        conprof_window_charge(window, row, CONPROF_COLUMN_LOOP_BLOCKED_NS, left);
        account->ahead_ns = account->ahead_row == here ? account->ahead_ns + left : left;
        account->ahead_row = here;
        largest = left >= most ? here : largest;
    }
    count_block(window, account, largest);
    account->charged_ns = until_ns;
    clear(places, account->version);
}

/* The span is over, at `end_ns`. */
static void
end(struct conprof_window *window, struct account *account, uint64_t end_ns)
{
    if (account->version != 0 && window != NULL && end_ns - account->began_ns >= threshold) {
        struct conprof_row *row = NULL;
        if (account->places.total_ns == 0 && account->has_row) {
            row = &window->rows[account->row];
        }
        else if (account->places.total_ns == 0 && !account->is_counted) {
            /* No look and no sample found out where it stood. Of one that has been charged
             * to an earlier window, the last moment is let go. */
            uint64_t frame = conprof_frame_word(CONPROF_UID_UNWALKABLE, 0);
            struct conprof_marks none = conprof_marks_none();
            row = conprof_window_row(window, &frame, 1, &none, 0);
        }
        charge(window, account, end_ns, row);
    }
    account->version = 0;
}

static void
begin(struct account *account, uint64_t version, uint64_t now_ns)
{
    account->version = version;
    account->first_ns = now_ns;
    account->began_ns = account->looked_ns == 0 ? now_ns : (account->looked_ns + now_ns) / 2;
    account->charged_ns = account->began_ns;
    account->is_counted = account->has_row = false;
    account->ahead_ns = 0;
    if (account->fresh.version == version) {
        account->places = account->fresh;
        clear(&account->fresh, 0);
    }
    else {
        clear(&account->places, version);
    }
}

void
conprof_blocked_look(struct conprof_window *window, const struct conprof_thread *thread,
                     uint64_t version, uint64_t now_ns, struct conprof_row *row)
{
    struct account *account = account_of(atomic_load(&thread->loop));
    if (account == NULL) {
        return;
    }
    if (account->version != 0 && account->version != version) {
        end(window, account, (account->looked_ns + now_ns) / 2);
    }
    if (account->version == 0 && version != 0) {
        begin(account, version, now_ns);
    }
    else if (account->version != 0 && now_ns - account->began_ns >= threshold) {
        charge(window, account, now_ns, row);
    }
    account->looked_ns = now_ns;
}

uint64_t
conprof_blocked_peek_ns(void)
{
    uint64_t next = UINT64_MAX;
    for (uint32_t i = 0; i < CONPROF_MAX_LOOPS; i++) {
        const struct account *account = &accounts[i];
        /* Suspect: seen by two looks. A callback in its first is most often a short one. */
        if (account->tid == 0 || account->version == 0 || account->looked_ns == account->first_ns) {
            continue;
        }
        uint64_t pause = (account->looked_ns - account->began_ns) / 16;
        if (pause > MAX_PEEK_NS) {
            continue;
        }
        pause = pause < CONPROF_BLOCKED_PEEK_NS ? CONPROF_BLOCKED_PEEK_NS : pause;
        uint64_t due = account->looked_ns + pause;
        next = due < next ? due : next;
    }
    return next;
}

void
conprof_blocked_close(struct conprof_window *window)
{
    for (uint32_t i = 0; i < CONPROF_MAX_LOOPS; i++) {
        struct account *account = &accounts[i];
        if (account->tid == 0) {
            continue;
        }
        if (account->version != 0 && account->looked_ns - account->began_ns >= threshold) {
            charge(window, account, account->looked_ns, NULL);
        }
        /* A span that goes on keeps its beginning; what it has not been charged for goes to
         * the rows of the next window. */
        account->has_row = false;
        account->ahead_ns = 0;
        clear(&account->places, account->version);
        clear(&account->fresh, 0);
    }
}

/* ---- who is watched ---- */

static void
let_go(struct conprof_window *window, struct account *account)
{
    end(window, account, account->looked_ns);
    struct conprof_thread *thread = conprof_threads_find(account->tid);
    if (thread != NULL) {
        atomic_store(&thread->loop, 0);
    }
    account->tid = 0;
}

void
conprof_blocked_release(struct conprof_window *window, struct conprof_thread *thread)
{
    struct account *account = account_of(atomic_load(&thread->loop));
    if (account != NULL) {
        let_go(window, account);
    }
    atomic_store(&thread->loop, 0);
}

static void
watch(struct conprof_thread *thread, int descriptor)
{
    struct account *account = account_of(atomic_load(&thread->loop));
    for (uint32_t i = 0; account == NULL && i < CONPROF_MAX_LOOPS; i++) {
        if (accounts[i].tid == 0) {
            account = &accounts[i];
            account->tid = thread->tid;
            account->looked_ns = 0;
            account->version = 0;
            clear(&account->fresh, 0);
            atomic_store(&thread->loop, i + 1);
        }
    }
    if (account == NULL) {
        return;
    }
    if (account->looked_ns == 0 || account->descriptor != descriptor) {
        thread->wait.is_captured = false; /* whether it is idle there was not known */
        account->descriptor = descriptor;
    }
    account->was_seen = true;
}

void
conprof_blocked_watch(struct conprof_window *window, const struct conprof_loop *loops,
                      uint32_t count)
{
    for (uint32_t i = 0; i < CONPROF_MAX_LOOPS; i++) {
        accounts[i].was_seen = false;
    }
    for (uint32_t i = 0; i < count; i++) {
        struct conprof_thread *thread = conprof_threads_find(loops[i].tid);
        if (thread != NULL) {
            watch(thread, loops[i].descriptor);
        }
    }
    for (uint32_t i = 0; i < CONPROF_MAX_LOOPS; i++) {
        if (accounts[i].tid != 0 && !accounts[i].was_seen) {
            let_go(window, &accounts[i]);
        }
    }
}

bool
conprof_blocked_is_idle(const struct conprof_thread *thread, int descriptor)
{
    const struct account *account = account_of(atomic_load(&thread->loop));
    return account != NULL && descriptor >= 0 && account->descriptor == descriptor;
}
