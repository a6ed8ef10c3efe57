/* STREAM in float, after McCalpin (1995): copy, scale, add and triad, and besides them fill, loops in place, and, with
 * SSE or AVX, loops with non-temporal stores.
 *
 * stream ELEMENTS PASSES prints a line for each loop: its name and the seconds of a pass, lower quartile.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#if defined __AVX512F__
#include <immintrin.h>
typedef __m512 wide;
#define STREAM _mm512_stream_ps
#elif defined __AVX__
#include <immintrin.h>
typedef __m256 wide;
#define STREAM _mm256_stream_ps
#elif defined __SSE__
#include <xmmintrin.h>
typedef __m128 wide;
#define STREAM _mm_stream_ps
#endif

typedef void loop(float *restrict a, const float *restrict b, const float *restrict c, float s, long n);

#define LOOP(name, step, statement) \
    static void name(float *restrict a, const float *restrict b, const float *restrict c, float s, long n) { \
        _Pragma("omp parallel for schedule(static)") \
        for (long i = 0; i < n; i += step) statement; \
    }
LOOP(fill, 1, a[i] = s)
LOOP(copy, 1, a[i] = b[i])
LOOP(scale, 1, a[i] = s * b[i])
LOOP(add, 1, a[i] = b[i] + c[i])
LOOP(triad, 1, a[i] = b[i] + s * c[i])
LOOP(scale_in_place, 1, a[i] *= s)
LOOP(accumulate, 1, a[i] += s * b[i])
#ifdef STREAM
enum { LANES = sizeof(wide) / sizeof(float) };
#define AT(array) (*(const wide *)(array + i))
LOOP(fill_nt, LANES, STREAM(a + i, s + (wide){0}))
LOOP(copy_nt, LANES, STREAM(a + i, AT(b)))
LOOP(triad_nt, LANES, STREAM(a + i, AT(b) + s * AT(c)))
#endif

static const struct { const char *name; loop *run; } LOOPS[] = {
    {"fill", fill}, {"copy", copy}, {"scale", scale}, {"add", add}, {"triad", triad},
    {"scale-in-place", scale_in_place}, {"accumulate", accumulate},
#ifdef STREAM
    {"fill-nt", fill_nt}, {"copy-nt", copy_nt}, {"triad-nt", triad_nt},
#endif
};
enum { COUNT = sizeof LOOPS / sizeof *LOOPS };

static double now_s(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + 1e-9 * now.tv_nsec;
}

static int ascending(const void *left, const void *right) {
    double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

static float *array(long n, float value) {
    float *made = aligned_alloc(1 << 21, n * sizeof(float));
    if (!made) exit(1);
    /* NumPy requests huge pages too. */
    madvise(made, n * sizeof(float), MADV_HUGEPAGE);
    fill(made, NULL, NULL, value, n);
    return made;
}

int main(int count, char **arguments) {
    if (count != 3) return 2;
    long n = atol(arguments[1]), passes = atol(arguments[2]);
    float *a = array(n, 0), *b = array(n, 3), *c = array(n, 2);
    double *passes_s[COUNT];
    for (int k = 0; k < COUNT; k++) passes_s[k] = malloc(passes * sizeof(double));
    for (long pass = 0; pass < passes; pass++)
        for (int k = 0; k < COUNT; k++) {
            double start_s = now_s();
            LOOPS[k].run(a, b, c, pass % 2 ? -1 : 1, n);
            passes_s[k][pass] = now_s() - start_s;
        }
    for (int k = 0; k < COUNT; k++) {
        qsort(passes_s[k], passes, sizeof(double), ascending);
        printf("%s %.9f\n", LOOPS[k].name, passes_s[k][passes / 4]);
    }
    return 0;
}
