// How tokens are found by their place in an order: a list in shared memory where few come into question, histograms of
// weights where many do. Histograms narrow the range of keys until a list takes it.
#pragma once
#include "sample_row.cuh"

// The k-th largest of the chunks' maxima: at least k tokens reach it.
__device__ __forceinline__ float kth_maximum(const Shared& shared, int k) {
    unsigned found = 0;
    for (unsigned bit = 1u << 31; bit > 0; bit /= 2) {
        int count = 0;
        for (int first = 0; first < CHUNKS; first += THREADS) {
            const int chunk = first + threadIdx.x;
            count += __syncthreads_count(chunk < CHUNKS && ordered(shared.maxima[chunk]) >= (found | bit));
        }
        if (count >= k) found |= bit;
    }
    return from_ordered(found);
}

// Sorts the list by falling keys: bitonic, over the next power of two.
__device__ __forceinline__ void sort(Shared& shared, int count) {
    int size = 2;
    while (size < count) size *= 2;
    for (int i = count + threadIdx.x; i < size; i += THREADS) shared.list.keys[i] = shared.list.masses[i] = 0;
    for (int run = 2; run <= size; run *= 2)
        for (int distance = run / 2; distance > 0; distance /= 2) {
            __syncthreads();
            for (int i = threadIdx.x; i < size / 2; i += THREADS) {
                const int one = 2 * i - (i & (distance - 1)), other = one + distance;
                const u64 key = shared.list.keys[one], other_key = shared.list.keys[other];
                if ((key < other_key) != ((one & run) == 0)) continue;
                shared.list.keys[one] = other_key;
                shared.list.keys[other] = key;
                const u64 mass = shared.list.masses[one];
                shared.list.masses[one] = shared.list.masses[other];
                shared.list.masses[other] = mass;
            }
        }
    __syncthreads();
}

// Lists the tokens with weight whose keys are from `least` to `most`, by falling keys, and returns how many there are;
// if they do not fit, the list is left as it is. Their logits are at least `low`.
__device__ __forceinline__ int list_tokens(Row& row, const Order& order, float low, u64 least, u64 most) {
    const auto is_listed = [&](float x, int id) {
        const u64 key = order.key(x, id);
        return key >= least && key <= most && order.weight(x, id) > 0;
    };
    // First they are counted, which tells each thread its places, then they are written there.
    int at = 0;
    u64 total = 0;
#pragma unroll 1
    for (bool is_counting : {true, false}) {
        row.each(low, [&](float x, int id) {
            if (!is_listed(x, id)) return;
#pragma unroll 1
            for (int rank = 0; rank < CLUSTER && !is_counting; ++rank) {
                of_block(rank, row.shared.list.keys[at]) = order.key(x, id);
                of_block(rank, row.shared.list.masses[at]) = order.scale.mass(x);
            }
            ++at;
        });
        if (!is_counting) break;
        const Sums sums = row.sums_of<CLUSTER>(at);
        if (sums.total > MEMBERS) return (int)sums.total;
        at = (int)sums.before;
        total = sums.total;
    }
    row_sync();
    sort(row.shared, (int)total);
    return (int)total;
}

// The bin at which weights of tokens reach the target; `bin_of(logit, id)` is -1 for those that do not count.
template <class Bin>
__device__ __forceinline__ Found find_bin(Row& row, const Order& order, float low, u64 target, Bin bin_of) {
    constexpr unsigned ONES = (1u << LIMB) - 1;
    Shared& shared = row.shared;
    row_sync();  // what was there has been read
    for (int i = threadIdx.x; i < 3 * BINS; i += THREADS) shared.limbs[i / BINS][i % BINS] = 0;
    __syncthreads();
    row.each(low, [&](float x, int id) {
        const u64 weight = order.weight(x, id);
        const int bin = weight ? bin_of(x, id) : -1;
        if (bin < 0) return;
        // Shared memory adds 32 bits at once.
#pragma unroll
        for (int i = 0; i < 3; ++i) {
            const unsigned limb = (unsigned)(weight >> LIMB * i) & ONES;
            if (limb) atomicAdd(&shared.limbs[i][bin], limb);
        }
    });
    row_sync();
    const auto weight_of = [&](int bin) {
        u64 sum = 0;
#pragma unroll 1
        for (int rank = 0; rank < CLUSTER; ++rank)
#pragma unroll
            for (int i = 0; i < 3; ++i) sum += (u64)of_block(rank, shared.limbs[i][bin]) << LIMB * i;
        return sum;
    };
    return row.find(BINS, weight_of, [&](u64) { return target; });
}

// The key of the token at which weights, added by falling keys, reach the target; 0 if they never do. All tokens with
// weight have logits of at least `low`.
__device__ __forceinline__ u64 reach(Row& row, const Order& order, float low, u64 target) {
    u64 least = 0, most = ~0ull;
    int shift = -1;  // at first, bins are those of the order
    while (true) {
        const Found found = find_bin(row, order, low, target, [&](float x, int id) {
            if (shift < 0) return order.bin(x, BINS);
            const u64 key = order.key(x, id);
            return key >= least && key <= most ? (int)(most - key >> shift) : -1;
        });
        if (found.at < 0) return 0;
        target = found.rest;
        if (shift < 0) {
            least = ~0ull;
            most = 0;
            row.each(low, [&](float x, int id) {
                if (order.bin(x, BINS) != found.at || order.weight(x, id) == 0) return;
                const u64 key = order.key(x, id);
                least = min(least, key);
                most = max(most, key);
            });
            least = ~row.max(~least);
            most = row.max(most);
        } else {
            most -= (u64)found.at << shift;
            least = max(least, most - ((1ull << shift) - 1));
        }
        if (!order.is_typical) low = fmaxf(low, from_ordered(major_of(least)));
        const int count = list_tokens(row, order, low, least, most);
        if (count <= MEMBERS) {
            const auto weight = [&](int i) { return order.is_counted ? 1 : row.shared.list.masses[i]; };
            return row.shared.list.keys[row.find(count, weight, [&](u64) { return target; }).at];
        }
        shift = 0;
        while (most - least >> shift >= BINS) ++shift;
    }
}
