/* One macro that compiles a loop for several processors at once.
 * Floor 0: base.
 *
 * The program is built for any x86-64, so that one binary runs on all nodes of a site.  A function
 * marked MP_SIMD_CLONES is compiled three times (AVX-512, AVX2, plain) and the loader binds the one
 * that the processor can run.  It pays for functions that are one vectorisable loop over hundreds
 * of elements.  The function must be static (clang 14 gives the clones of others a name that nobody
 * can link to), and an OpenMP region must stay outside (its body is cut out before the clones).
 *
 * Empty where the compiler or the C library cannot do it, where one processor was asked for anyway
 * (-march=native), and under sanitizers (the loader binds the clones before their runtime is up).
 */
#ifndef MPRESS_SIMD_H
#define MPRESS_SIMD_H

#include <limits.h> /* defines __GLIBC__ where that is the C library */

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) ||                         \
    __has_feature(memory_sanitizer) || __has_feature(undefined_behavior_sanitizer)
#define MP_SIMD_SANITIZED_
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define MP_SIMD_SANITIZED_
#endif

#if !defined(__x86_64__) || !defined(__GLIBC__) || defined(__AVX2__) || defined(MP_SIMD_SANITIZED_)
#define MP_SIMD_CLONES
#elif defined(__clang__) && __clang_major__ >= 14
#define MP_SIMD_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#elif !defined(__clang__) && defined(__GNUC__) && __GNUC__ >= 12
#define MP_SIMD_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define MP_SIMD_CLONES
#endif

#endif
