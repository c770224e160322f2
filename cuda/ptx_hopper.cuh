// Clusters of blocks, barriers in shared memory, and bulk copies by the tensor memory accelerator, from sm_90 on. PTX back
// end of ptx.cuh.
#pragma once

// Waits for all threads of the cluster that have not returned; what they have written can then be read by all.
__device__ __forceinline__ void cluster_sync() {
    asm volatile("barrier.cluster.arrive.release;\n"
                 "barrier.cluster.wait.acquire;" ::: "memory");
}

// The same variable in the shared memory of a block of the cluster, which has begun (cluster_sync) and not returned.
template <class T>
__device__ __forceinline__ T& shared_of(unsigned rank, T& own) {
    unsigned long long address;
    asm("mapa.u64 %0, %1, %2;" : "=l"(address) : "l"(&own), "r"(rank));
    return *reinterpret_cast<T*>(address);
}

// True in one lane of the warp, which must be together.
__device__ __forceinline__ bool is_elected() {
    unsigned is_elected;
    asm volatile("{\n"
                 ".reg .pred p;\n"
                 "elect.sync _|p, 0xffffffff;\n"
                 "selp.b32 %0, 1, 0, p;\n"
                 "}"
                 : "=r"(is_elected));
    return is_elected;
}

// A phase of the barrier is over when `num_arrivals` threads have come and all announced bytes are there; the next one
// begins at once. One thread makes it, then fence_mbarrier_init and a barrier of the block show it to all.
__device__ __forceinline__ void mbarrier_init(Mbarrier& barrier, unsigned num_arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" :: "r"(shared_address(&barrier)), "r"(num_arrivals));
}

__device__ __forceinline__ void fence_mbarrier_init() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ __forceinline__ void mbarrier_arrive(Mbarrier& barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" :: "r"(shared_address(&barrier)) : "memory");
}

// Arrives, and announces bytes that bulk copies will bring in this phase.
__device__ __forceinline__ void mbarrier_arrive_expecting(Mbarrier& barrier, unsigned num_bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;"
                 :: "r"(shared_address(&barrier)), "r"(num_bytes) : "memory");
}

// Waits for the end of the phase of this parity: 0 for the first, 1 for the second, 0 for the third. Parity 1 of a new
// barrier counts as over.
__device__ __forceinline__ void mbarrier_wait(Mbarrier& barrier, unsigned parity) {
    unsigned is_over;
    do {
        asm volatile("{\n"
                     ".reg .pred p;\n"
                     "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
                     "selp.b32 %0, 1, 0, p;\n"
                     "}"
                     : "=r"(is_over) : "r"(shared_address(&barrier)), "r"(parity) : "memory");
    } while (!is_over);
}

// What this thread wrote to shared memory can be read by bulk stores and warpgroup matrices that come after; a barrier
// follows where another thread issues them.
__device__ __forceinline__ void fence_async_shared() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

__device__ __forceinline__ void prefetch_tensor_map(const TensorMap& map) {
    asm volatile("prefetch.tensormap [%0];" :: "l"(&map) : "memory");
}

// One thread loads a box of a tensor whose first element has these coordinates, the innermost first; what lies outside
// the tensor becomes zero. The box goes to a multiple of 128 bytes of shared memory, and the barrier gets its bytes.
__device__ __forceinline__ void load_box(void* to, const TensorMap& map, Mbarrier& barrier, int x, int y) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%3, %4}], [%2];"
                 :: "r"(shared_address(to)), "l"(&map), "r"(shared_address(&barrier)), "r"(x), "r"(y) : "memory");
}

__device__ __forceinline__ void load_box(void* to, const TensorMap& map, Mbarrier& barrier, int x, int y, int z) {
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%3, %4, %5}], [%2];"
                 :: "r"(shared_address(to)), "l"(&map), "r"(shared_address(&barrier)), "r"(x), "r"(y), "r"(z)
                 : "memory");
}

__device__ __forceinline__ void load_box(void* to, const TensorMap& map, Mbarrier& barrier, int x, int y, int z,
                                         int w) {
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%3, %4, %5, %6}], [%2];"
                 :: "r"(shared_address(to)), "l"(&map), "r"(shared_address(&barrier)), "r"(x), "r"(y), "r"(z), "r"(w)
                 : "memory");
}

// One thread loads neighbouring bytes; both addresses and the number are multiples of 16.
__device__ __forceinline__ void load_bytes(void* to, const void* from, unsigned num_bytes, Mbarrier& barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
                 :: "r"(shared_address(to)), "l"(from), "r"(num_bytes), "r"(shared_address(&barrier)) : "memory");
}

// One thread stores a box; what lies outside the tensor is left out.
__device__ __forceinline__ void store_box(const TensorMap& map, const void* from, int x, int y) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%2, %3}], [%1];"
                 :: "l"(&map), "r"(shared_address(from)), "r"(x), "r"(y) : "memory");
}

__device__ __forceinline__ void store_box(const TensorMap& map, const void* from, int x, int y, int z) {
    asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group [%0, {%2, %3, %4}], [%1];"
                 :: "l"(&map), "r"(shared_address(from)), "r"(x), "r"(y), "r"(z) : "memory");
}

__device__ __forceinline__ void store_box(const TensorMap& map, const void* from, int x, int y, int z, int w) {
    asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.tile.bulk_group [%0, {%2, %3, %4, %5}], [%1];"
                 :: "l"(&map), "r"(shared_address(from)), "r"(x), "r"(y), "r"(z), "r"(w) : "memory");
}

// Closes a group of the thread's stores.
__device__ __forceinline__ void store_box_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }

// Waits until all but the latest `num_pending` groups have read their shared memory, which a block must do before it
// ends; it may then be written again.
template <int num_pending>
__device__ __forceinline__ void store_box_wait() {
    asm volatile("cp.async.bulk.wait_group.read %0;" :: "n"(num_pending) : "memory");
}
