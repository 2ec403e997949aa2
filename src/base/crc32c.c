/* CRC-32C (Castagnoli), reflected polynomial 0x82f63b78 (RFC 3720, B.4). */
#include "mpress/fileio.h"

#include <pthread.h>
#include <string.h>

enum { SLICES = 8 };

static uint32_t table[SLICES][256];

/* table[0] is of one byte; table[s][i] is that of byte i followed by s zero bytes. */
static void build_tables(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;

        for (int bit = 0; bit < 8; bit++) c = (c >> 1) ^ (c & 1 ? 0x82f63b78u : 0);
        table[0][i] = c;
    }
    for (int s = 1; s < SLICES; s++)
        for (int i = 0; i < 256; i++)
            table[s][i] = (table[s - 1][i] >> 8) ^ table[0][table[s - 1][i] & 0xff];
}

static uint32_t one_byte(uint32_t crc, unsigned char byte)
{
    return table[0][(crc ^ byte) & 0xff] ^ (crc >> 8);
}

/* Eight bytes at a time; the words are read as little-endian. */
static uint32_t by_tables(uint32_t crc, const unsigned char *p, size_t length)
{
    for (; length >= SLICES; length -= SLICES, p += SLICES) {
        uint32_t low = crc ^ ((uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 |
                              (uint32_t)p[3] << 24);

        crc = table[7][low & 0xff] ^ table[6][low >> 8 & 0xff] ^ table[5][low >> 16 & 0xff] ^
              table[4][low >> 24] ^ table[3][p[4]] ^ table[2][p[5]] ^ table[1][p[6]] ^
              table[0][p[7]];
    }
    while (length-- > 0) crc = one_byte(crc, *p++);
    return crc;
}

#if defined(__x86_64__) && defined(__GNUC__)
__attribute__((target("sse4.2"))) static uint32_t
by_instruction(uint32_t crc, const unsigned char *p, size_t length)
{
    uint64_t wide = crc;

    for (; length >= 8; length -= 8, p += 8) {
        uint64_t word;

        memcpy(&word, p, sizeof word);
        wide = __builtin_ia32_crc32di(wide, word);
    }
    crc = (uint32_t)wide;
    while (length-- > 0) crc = __builtin_ia32_crc32qi(crc, *p++);
    return crc;
}

static int has_instruction(void)
{
    return __builtin_cpu_supports("sse4.2");
}
#else
static uint32_t by_instruction(uint32_t crc, const unsigned char *p, size_t length)
{
    return by_tables(crc, p, length);
}

static int has_instruction(void)
{
    return 0;
}
#endif

uint32_t mp_crc32c_portable(uint32_t crc, const void *bytes, size_t length)
{
    static pthread_once_t built = PTHREAD_ONCE_INIT;

    pthread_once(&built, build_tables);
    return ~by_tables(~crc, bytes, length);
}

uint32_t mp_crc32c(uint32_t crc, const void *bytes, size_t length)
{
    return has_instruction() ? ~by_instruction(~crc, bytes, length)
                             : mp_crc32c_portable(crc, bytes, length);
}
