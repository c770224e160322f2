// Matrices by warpgroups of four warps, on sm_90a alone. PTX back end of ptx.cuh.
#pragma once

// Gives each thread of the warpgroup more registers, or fewer: `count` is a multiple of 8 from 24 to 240.
template <int count>
__device__ __forceinline__ void increase_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" :: "n"(count));
}

template <int count>
__device__ __forceinline__ void decrease_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" :: "n"(count));
}

// Goes before each group of products: they may use what was written to registers before it.
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

// Closes a group of products.
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Waits until at most `num_pending` of the latest groups are not done.
template <int num_pending>
__device__ __forceinline__ void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" :: "n"(num_pending) : "memory");
}

// Waits when `made` is. For the assembler nothing ties arithmetic to a wait, and it moves the wait in front, where the
// arithmetic no longer runs beside the products; but not past an instruction that may sleep, for a nanosecond if `made`
// were below zero.
template <int num_pending>
__device__ __forceinline__ void wgmma_wait(float made) {
    asm volatile("{\n"
                 ".reg .pred p;\n"
                 "setp.lt.f32 p, %0, 0f00000000;\n"
                 "@p nanosleep.u32 1;\n"
                 "}" :: "f"(made) : "memory");
    wgmma_wait<num_pending>();
}

// Keeps the compiler from moving uses of registers across this place: before a group and after its wait, for what
// products in flight own.
template <int count>
__device__ __forceinline__ void pin_registers(float (&registers)[count]) {
#pragma unroll
    for (int i = 0; i < count; ++i) asm volatile("" : "+f"(registers[i]) :: "memory");
}

template <int count>
__device__ __forceinline__ void pin_registers(unsigned (&registers)[count]) {
#pragma unroll
    for (int i = 0; i < count; ++i) asm volatile("" : "+r"(registers[i]) :: "memory");
}

template <class Element>
constexpr bool is_bf16 = false;
template <>
constexpr bool is_bf16<bf16> = true;

// The operands of the instruction, eight at a time.
#define WGMMA_OUTPUTS_8(d, i) \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
        "+f"(d[i + 6]), "+f"(d[i + 7])
#define WGMMA_OUTPUTS_32(d) \
    WGMMA_OUTPUTS_8(d, 0), WGMMA_OUTPUTS_8(d, 8), WGMMA_OUTPUTS_8(d, 16), WGMMA_OUTPUTS_8(d, 24)
#define WGMMA_OUTPUTS_48(d) WGMMA_OUTPUTS_32(d), WGMMA_OUTPUTS_8(d, 32), WGMMA_OUTPUTS_8(d, 40)
#define WGMMA_OUTPUTS_64(d) WGMMA_OUTPUTS_48(d), WGMMA_OUTPUTS_8(d, 48), WGMMA_OUTPUTS_8(d, 56)
#define WGMMA_OUTPUTS_88(d) \
    WGMMA_OUTPUTS_64(d), WGMMA_OUTPUTS_8(d, 64), WGMMA_OUTPUTS_8(d, 72), WGMMA_OUTPUTS_8(d, 80)
#define WGMMA_OUTPUTS_96(d) WGMMA_OUTPUTS_88(d), WGMMA_OUTPUTS_8(d, 88)
#define WGMMA_OUTPUTS_128(d) \
    WGMMA_OUTPUTS_96(d), WGMMA_OUTPUTS_8(d, 96), WGMMA_OUTPUTS_8(d, 104), WGMMA_OUTPUTS_8(d, 112), \
        WGMMA_OUTPUTS_8(d, 120)

#define WGMMA_NAMES_32 \
    "%0, %1, %2, %3, %4, %5, %6, %7, " \
    "%8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, " \
    "%24, %25, %26, %27, %28, %29, %30, %31"
#define WGMMA_NAMES_48 \
    WGMMA_NAMES_32 ", " \
    "%32, %33, %34, %35, %36, %37, %38, %39, " \
    "%40, %41, %42, %43, %44, %45, %46, %47"
#define WGMMA_NAMES_64 \
    WGMMA_NAMES_48 ", " \
    "%48, %49, %50, %51, %52, %53, %54, %55, " \
    "%56, %57, %58, %59, %60, %61, %62, %63"
#define WGMMA_NAMES_88 \
    WGMMA_NAMES_64 ", " \
    "%64, %65, %66, %67, %68, %69, %70, %71, " \
    "%72, %73, %74, %75, %76, %77, %78, %79, " \
    "%80, %81, %82, %83, %84, %85, %86, %87"
#define WGMMA_NAMES_96 \
    WGMMA_NAMES_88 ", " \
    "%88, %89, %90, %91, %92, %93, %94, %95"
#define WGMMA_NAMES_128 \
    WGMMA_NAMES_96 ", " \
    "%96, %97, %98, %99, %100, %101, %102, %103, " \
    "%104, %105, %106, %107, %108, %109, %110, %111, " \
    "%112, %113, %114, %115, %116, %117, %118, %119, " \
    "%120, %121, %122, %123, %124, %125, %126, %127"

#define WGMMA_FROM_SHARED(TYPE, N, COUNT, A, B, ADD, A_MAJOR, B_MAJOR) \
    asm volatile("{\n" \
                 ".reg .pred p;\n" \
                 "setp.ne.b32 p, %" #ADD ", 0;\n" \
                 "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE " {" WGMMA_NAMES_##COUNT "}, " \
                 "%" #A ", %" #B ", p, 1, 1, %" #A_MAJOR ", %" #B_MAJOR ";\n" \
                 "}" \
                 : WGMMA_OUTPUTS_##COUNT(d) \
                 : "l"(a), "l"(b), "r"((int)accumulates), "n"((int)a_major), "n"((int)b_major))

#define WGMMA_FROM_REGISTERS(TYPE, N, COUNT, A0, A1, A2, A3, B, ADD, B_MAJOR) \
    asm volatile("{\n" \
                 ".reg .pred p;\n" \
                 "setp.ne.b32 p, %" #ADD ", 0;\n" \
                 "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPE "." TYPE " {" WGMMA_NAMES_##COUNT "}, " \
                 "{%" #A0 ", %" #A1 ", %" #A2 ", %" #A3 "}, %" #B ", p, 1, 1, %" #B_MAJOR ";\n" \
                 "}" \
                 : WGMMA_OUTPUTS_##COUNT(d) \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)accumulates), "n"((int)b_major))

// d = a b, plus d if `accumulates`, by a warpgroup: a is 64x16 and b 16xN bf16 or fp16, d is 64xN float32. a and b lie
// in shared memory as their descriptors say; a may instead be in registers, as for mma_16x8x16, warp i having rows
// 16 i to 16 i + 15. d[4 j + i] is (row + i / 2 * 8, 8 j + column + i % 2) with row = 16 * warp + lane / 4 and
// column = lane % 4 * 2. Until the wait, registers and shared memory belong to the product.
#define WGMMA(N, COUNT, NEXT0, NEXT1, NEXT2, NEXT3, NEXT4, NEXT5, NEXT6) \
    template <class Element, Major a_major, Major b_major> \
    __device__ __forceinline__ void wgmma(float (&d)[COUNT], unsigned long long a, unsigned long long b, \
                                          bool accumulates) { \
        if constexpr (is_bf16<Element>) \
            WGMMA_FROM_SHARED("bf16", N, COUNT, NEXT0, NEXT1, NEXT2, NEXT3, NEXT4); \
        else \
            WGMMA_FROM_SHARED("f16", N, COUNT, NEXT0, NEXT1, NEXT2, NEXT3, NEXT4); \
    } \
    template <class Element, Major b_major> \
    __device__ __forceinline__ void wgmma(float (&d)[COUNT], const unsigned (&a)[4], unsigned long long b, \
                                          bool accumulates) { \
        if constexpr (is_bf16<Element>) \
            WGMMA_FROM_REGISTERS("bf16", N, COUNT, NEXT0, NEXT1, NEXT2, NEXT3, NEXT4, NEXT5, NEXT6); \
        else \
            WGMMA_FROM_REGISTERS("f16", N, COUNT, NEXT0, NEXT1, NEXT2, NEXT3, NEXT4, NEXT5, NEXT6); \
    }

WGMMA(64, 32, 32, 33, 34, 35, 36, 37, 38)
WGMMA(96, 48, 48, 49, 50, 51, 52, 53, 54)
WGMMA(128, 64, 64, 65, 66, 67, 68, 69, 70)
WGMMA(176, 88, 88, 89, 90, 91, 92, 93, 94)
WGMMA(192, 96, 96, 97, 98, 99, 100, 101, 102)
WGMMA(256, 128, 128, 129, 130, 131, 132, 133, 134)

#undef WGMMA
#undef WGMMA_FROM_SHARED
#undef WGMMA_FROM_REGISTERS
