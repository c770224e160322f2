// Shared memory, asynchronous copies, named barriers and matrix instructions from sm_80 on. PTX back end of ptx.cuh.
#pragma once

// The block's dynamic shared memory, of the size given at launch, as one struct. Starts at a multiple of 1024 bytes.
template <class Layout>
__device__ __forceinline__ Layout& dynamic_shared() {
    extern __shared__ __align__(1024) unsigned char bytes[];
    return *reinterpret_cast<Layout*>(bytes);
}

// Shared memory of fixed size, at most 48 KiB in all: one place for each type of the kernel.
template <class Layout>
__device__ __forceinline__ Layout& static_shared() {
    __shared__ Layout layout;
    return layout;
}

// Where something in shared memory lies, as instructions take it.
__device__ __forceinline__ unsigned shared_address(const void* pointer) {
    return (unsigned)__cvta_generic_to_shared(pointer);
}

// Copies 4, 8 or 16 bytes from global to shared memory, both aligned to as many, while the thread goes on; without
// `is_used` it writes zeros and does not read. The bytes are there after copy_async_wait, for other threads after a
// barrier besides.
template <int num_bytes>
__device__ __forceinline__ void copy_async(void* to, const void* from, bool is_used = true) {
    static_assert(num_bytes == 4 || num_bytes == 8 || num_bytes == 16, "copy_async moves 4, 8 or 16 bytes");
    const unsigned num_read = is_used ? num_bytes : 0;
    if constexpr (num_bytes == 16)
        asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;"
                     :: "r"(shared_address(to)), "l"(from), "r"(num_read) : "memory");
    else
        asm volatile("cp.async.ca.shared.global.L2::128B [%0], [%1], %2, %3;"
                     :: "r"(shared_address(to)), "l"(from), "n"(num_bytes), "r"(num_read) : "memory");
}

// Closes a group of the thread's copies; a group may be empty.
__device__ __forceinline__ void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most `num_pending` of the thread's latest groups are still on their way.
template <int num_pending>
__device__ __forceinline__ void copy_async_wait() {
    asm volatile("cp.async.wait_group %0;" :: "n"(num_pending) : "memory");
}

// 16 bytes of global memory that no other thread reads again: they are not kept in the first cache.
__device__ __forceinline__ uint4 load_once(const void* from) {
    uint4 value;
    asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w) : "l"(from));
    return value;
}

// 16 bytes to global memory that this kernel does not read again.
__device__ __forceinline__ void store_once(void* to, uint4 value) {
    asm volatile("st.global.L1::no_allocate.v4.u32 [%0], {%1, %2, %3, %4};"
                 :: "l"(to), "r"(value.x), "r"(value.y), "r"(value.z), "r"(value.w) : "memory");
}

// Barriers 1 to 15 of the block, each for a number of threads that is a multiple of 32; 0 is that of __syncthreads.
__device__ __forceinline__ void barrier_sync(unsigned id, unsigned num_threads) {
    asm volatile("bar.sync %0, %1;" :: "r"(id), "r"(num_threads) : "memory");
}

// Counts as one of the threads, and goes on.
__device__ __forceinline__ void barrier_arrive(unsigned id, unsigned num_threads) {
    asm volatile("bar.arrive %0, %1;" :: "r"(id), "r"(num_threads) : "memory");
}

// Loads `count` (1, 2 or 4) matrices of 8x8 16-bit elements. Lane i names row i % 8 of matrix i / 8, 16 bytes; each
// lane gets element (lane / 4, lane % 4 * 2) and its right neighbour of each matrix.
template <int count>
__device__ __forceinline__ void load_matrix(unsigned (&to)[count], const void* row) {
    static_assert(count == 1 || count == 2 || count == 4, "load_matrix loads 1, 2 or 4 matrices");
    const unsigned from = shared_address(row);
    if constexpr (count == 1)
        asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(to[0]) : "r"(from) : "memory");
    else if constexpr (count == 2)
        asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                     : "=r"(to[0]), "=r"(to[1]) : "r"(from) : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(from) : "memory");
}

// The same with each matrix transposed: the lane gets elements (lane % 4 * 2, lane / 4) and the one below.
template <int count>
__device__ __forceinline__ void load_matrix_transposed(unsigned (&to)[count], const void* row) {
    static_assert(count == 1 || count == 2 || count == 4, "load_matrix_transposed loads 1, 2 or 4 matrices");
    const unsigned from = shared_address(row);
    if constexpr (count == 1)
        asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];"
                     : "=r"(to[0]) : "r"(from) : "memory");
    else if constexpr (count == 2)
        asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                     : "=r"(to[0]), "=r"(to[1]) : "r"(from) : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(from) : "memory");
}

// d += a b by a warp: a is 16x16 and b 16x8 bf16 or fp16, d is 16x8 float32. For row = lane / 4, column = lane % 4 * 2:
// a[i] has (row + i % 2 * 8, column + i / 2 * 8) and its right neighbour: load_matrix of four matrices in that order;
// b[i] has (column + i * 8, row) and the one below: load_matrix of b stored by columns, transposed if by rows;
// d[i] is (row + i / 2 * 8, column + i % 2).
template <class Element>
__device__ __forceinline__ void mma_16x8x16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]);

template <>
__device__ __forceinline__ void mma_16x8x16<bf16>(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

template <>
__device__ __forceinline__ void mma_16x8x16<fp16>(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
