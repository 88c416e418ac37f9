/* Which bytes of a tensor were written, to the byte: marks and counts along the pattern of a view.
 */
#include "nki/nki_session.h"

#include <stdlib.h>
#include <string.h>

uint64_t nki_view_elements(const nki_view *view) {
    uint64_t n = 1;
    for (int i = 0; i < view->n_dims; i++)
        n *= (uint64_t)view->shape[i];
    return n;
}

nki_view nki_element_of(const nki_view *view, uint64_t i) {
    nki_view one = {.storage = view->storage,
                    .dtype = view->dtype,
                    .n_dims = 1,
                    .offset = view->offset,
                    .shape = {1},
                    .step = {1}};
    for (int d = view->n_dims - 1; d >= 0; d--) {
        one.offset += (int64_t)(i % (uint64_t)view->shape[d]) * view->step[d];
        i /= (uint64_t)view->shape[d];
    }
    return one;
}

vtrn_status nki_view_check(const nki_view *view) {
    int64_t size = nki_element_bytes(view), lo = view->offset, hi = lo;
    bool is_near = true;
    for (int i = 0; i < view->n_dims && is_near; i++) {
        int64_t reach;
        is_near = !__builtin_mul_overflow(view->shape[i] - 1, view->step[i], &reach) &&
                  !__builtin_add_overflow(*(reach < 0 ? &lo : &hi), reach, reach < 0 ? &lo : &hi);
    }
    int64_t n = (int64_t)view->storage->n_bytes / size;
    if (is_near && lo >= 0 && hi < n)
        return NULL;
    return VTRN_ERROR(VTRN_UNDEFINED,
                      "a view reaches from element %lld to %lld of a tensor, which has %lld; its "
                      "pattern or offset is wrong",
                      (long long)lo, (long long)hi, (long long)n);
}

/* A view as runs of adjacent bytes at `at` + sum of index * step. */
typedef struct runs {
    uint64_t run_bytes, run_elements;
    int64_t at;
    int n;
    int64_t num[NKI_MAX_DIMS], step[NKI_MAX_DIMS]; /* bytes */
} runs;

static runs runs_of(const nki_view *view) {
    int64_t size = nki_element_bytes(view), adjacent = 1;
    runs r = {.at = view->offset * size};
    int n = view->n_dims;
    for (; n > 0; n--) {
        if (view->shape[n - 1] == 1)
            continue;
        if (view->step[n - 1] != adjacent)
            break;
        adjacent *= view->shape[n - 1];
    }
    r.run_elements = (uint64_t)adjacent;
    r.run_bytes = (uint64_t)(adjacent * size);
    for (int i = 0; i < n; i++) {
        if (view->shape[i] == 1)
            continue;
        r.num[r.n] = view->shape[i];
        r.step[r.n++] = view->step[i] * size;
    }
    return r;
}

/* Moves on to the next run; false behind the last. */
static bool next_run(runs *r, int64_t *index) {
    for (int i = r->n - 1; i >= 0; i--) {
        r->at += r->step[i];
        if (++index[i] < r->num[i])
            return true;
        r->at -= r->step[i] * r->num[i];
        index[i] = 0;
    }
    return false;
}

static uint64_t count_ones(const uint8_t *bytes, uint64_t n) {
    uint64_t sum = 0;
    for (uint64_t i = 0; i < n; i++)
        sum += bytes[i];
    return sum;
}

static bool is_whole(const nki_map *map) {
    return map->n_set == map->n_bytes;
}

/* How many bytes the map describes. */
static uint64_t length_of(const nki_map *map) {
    return map->n_alike ? map->n_bytes / map->n_alike : map->n_bytes;
}

/* From ranges to bytes: there are too many. */
static vtrn_status spell_out(nki_map *map) {
    map->bytes = calloc(length_of(map), 1);
    if (!map->bytes)
        return VTRN_OUT_OF_MEMORY(length_of(map));
    for (uint32_t i = 0; i < map->n_ranges; i++)
        memset(map->bytes + map->range[i].lo, 1, map->range[i].hi - map->range[i].lo);
    map->n_ranges = 0;
    return NULL;
}

/* Adds a range, joined with those that it meets. False: there is no room for it. */
static bool add_range(nki_map *map, uint64_t lo, uint64_t hi) {
    enum { MAX_RANGES = sizeof map->range / sizeof *map->range };
    uint32_t first = 0, end, n = map->n_ranges;
    while (first < n && map->range[first].hi < lo)
        first++;
    for (end = first; end < n && map->range[end].lo <= hi; end++) {
        lo = map->range[end].lo < lo ? map->range[end].lo : lo;
        hi = map->range[end].hi > hi ? map->range[end].hi : hi;
        map->n_set -= map->range[end].hi - map->range[end].lo;
    }
    if (n - (end - first) == MAX_RANGES)
        return false;
    memmove(&map->range[first + 1], &map->range[end], (n - end) * sizeof *map->range);
    map->range[first] = (nki_range){lo, hi};
    map->n_ranges = n - (end - first) + 1;
    map->n_set += hi - lo;
    return true;
}

static vtrn_status mark_run(nki_map *map, uint64_t lo, uint64_t n) {
    if (!map->bytes) {
        if (add_range(map, lo, lo + n))
            return NULL;
        VTRN_RETURN_IF_ERROR(spell_out(map));
    }
    map->n_set += n - count_ones(map->bytes + lo, n);
    memset(map->bytes + lo, 1, n);
    return NULL;
}

/* The part of the view in its first partition, as if the tile had no other; false: its
 * partitions have not the same part each. */
static bool is_alike(const nki_view *view, nki_view *part) {
    int64_t size = nki_element_bytes(view), row = (int64_t)view->storage->row_bytes / size;
    if (view->storage->n_partitions < 2 || (int64_t)view->storage->row_bytes % size ||
        view->n_dims < 2 || view->offset < 0 || (view->shape[0] > 1 && view->step[0] != row))
        return false;
    *part = (nki_view){.storage = view->storage,
                       .dtype = view->dtype,
                       .n_dims = (uint8_t)(view->n_dims - 1),
                       .offset = view->offset % row};
    int64_t lo = part->offset, hi = lo;
    for (int i = 0; i < part->n_dims; i++) {
        part->shape[i] = view->shape[i + 1];
        part->step[i] = view->step[i + 1];
        *(part->step[i] < 0 ? &lo : &hi) += (part->shape[i] - 1) * part->step[i];
    }
    return lo >= 0 && hi < row;
}

/* From one partition to all, which are no longer alike. */
static vtrn_status tell_apart(nki_map *map) {
    uint64_t row = length_of(map);
    if (!map->bytes)
        VTRN_RETURN_IF_ERROR(spell_out(map));
    uint8_t *all = malloc(map->n_bytes);
    if (!all)
        return VTRN_OUT_OF_MEMORY(map->n_bytes);
    for (uint64_t at = 0; at < map->n_bytes; at += row)
        memcpy(all + at, map->bytes, row);
    free(map->bytes);
    map->bytes = all;
    map->n_alike = 0;
    return NULL;
}

static vtrn_status mark_runs(nki_map *map, const nki_view *view) {
    runs r = runs_of(view);
    int64_t index[NKI_MAX_DIMS] = {0};
    do
        VTRN_RETURN_IF_ERROR(mark_run(map, (uint64_t)r.at, r.run_bytes));
    while (next_run(&r, index));
    return NULL;
}

/* Of all partitions the same part. */
static vtrn_status mark_alike(nki_map *map, const nki_view *part) {
    uint32_t n = part->storage->n_partitions;
    map->n_alike = n;
    map->n_set /= n;
    vtrn_status status = mark_runs(map, part);
    map->n_set *= n;
    return status;
}

vtrn_status nki_map_mark(nki_map *map, const nki_view *view) {
    nki_view part;
    if (is_whole(map))
        return NULL;
    if (nki_view_elements(view) * (uint64_t)nki_element_bytes(view) == map->n_bytes &&
        runs_of(view).n == 0) {
        map->n_set = map->n_bytes;
    } else if ((map->n_alike || !map->n_set) && is_alike(view, &part) &&
               view->shape[0] == view->storage->n_partitions) {
        VTRN_RETURN_IF_ERROR(mark_alike(map, &part));
    } else {
        if (map->n_alike)
            VTRN_RETURN_IF_ERROR(tell_apart(map));
        VTRN_RETURN_IF_ERROR(mark_runs(map, view));
    }
    if (is_whole(map)) {
        free(map->bytes);
        map->bytes = NULL;
    }
    return NULL;
}

/* Bytes of [lo, lo + n) that have the property; *missing: the first that has it not, where one is.
 */
static uint64_t count_described(const nki_map *map, uint64_t lo, uint64_t n, uint64_t *missing) {
    uint64_t n_set = 0, hi = lo + n;
    if (map->bytes) {
        n_set = count_ones(map->bytes + lo, n);
        for (*missing = lo; n_set < n && map->bytes[*missing];)
            ++*missing;
        return n_set;
    }
    *missing = lo;
    for (uint32_t i = 0; i < map->n_ranges; i++) {
        uint64_t from = map->range[i].lo > lo ? map->range[i].lo : lo;
        uint64_t to = map->range[i].hi < hi ? map->range[i].hi : hi;
        if (from >= to)
            continue;
        n_set += to - from;
        *missing = from == *missing ? to : *missing;
    }
    return n_set;
}

/* The same of a run that may include several partitions which are alike. */
static uint64_t count_run(const nki_map *map, uint64_t lo, uint64_t n, uint64_t *missing) {
    uint64_t row = length_of(map), n_set = 0;
    bool has_missing = false;
    if (!map->n_alike)
        return count_described(map, lo, n, missing);
    for (uint64_t at = lo, end = lo + n, part; at < end; at += part) {
        uint64_t column = at % row, first;
        part = end - at < row - column ? end - at : row - column;
        uint64_t here = count_described(map, column, part, &first);
        if (here < part && !has_missing) {
            *missing = at - column + first;
            has_missing = true;
        }
        n_set += here;
    }
    return n_set;
}

uint64_t nki_map_count(const nki_map *map, const nki_view *view, uint64_t *first) {
    uint64_t size = (uint64_t)nki_element_bytes(view);
    nki_view part;
    if (is_whole(map))
        return nki_view_elements(view) * size;
    if (map->n_alike && view->shape[0] > 1 && is_alike(view, &part))
        return (uint64_t)view->shape[0] * nki_map_count(map, &part, first);
    runs r = runs_of(view);
    int64_t index[NKI_MAX_DIMS] = {0};
    uint64_t n_set = 0, n_before = 0;
    bool has_first = false;
    do {
        uint64_t missing = 0, n = count_run(map, (uint64_t)r.at, r.run_bytes, &missing);
        if (n < r.run_bytes && !has_first) {
            *first = n_before + (missing - (uint64_t)r.at) / size;
            has_first = true;
        }
        n_set += n;
        n_before += r.run_elements;
    } while (next_run(&r, index));
    return n_set;
}
