#include "tokenizer_internal.h"

#include "mpress/memory.h"

#include <string.h>

/* Open addressing with linear probing at a load of at most one half. */
static int64_t slots_for(int64_t capacity)
{
    int64_t slots = 16;

    while (slots < 2 * capacity) slots *= 2;
    return slots;
}

/* The finaliser of MurmurHash3 (Appleby, public domain): every bit of the key reaches every bit. */
static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 33) * 0xFF51AFD7ED558CCDu;
    x = (x ^ x >> 33) * 0xC4CEB9FE1A85EC53u;
    return x ^ x >> 33;
}

/* FNV-1a, 64 bits (Fowler, Noll, Vo). */
static uint64_t hash_text(const char *text, size_t length)
{
    uint64_t hash = 0xCBF29CE484222325u;

    for (size_t i = 0; i < length; i++) hash = (hash ^ (unsigned char)text[i]) * 0x100000001B3u;
    return mix(hash);
}

mp_status mp_token_table_init(mp_token_table *table, int64_t capacity)
{
    int64_t slots = slots_for(capacity);

    memset(table, 0, sizeof *table);
    MP_TRY(MP_NEW(table->slots, slots, "vocabulary"));
    MP_TRY(MP_NEW_RAW(table->entries, capacity, "vocabulary"));
    table->mask = slots - 1;
    table->capacity = capacity;
    return MP_OK;
}

void mp_token_table_free(mp_token_table *table)
{
    mp_text_free(&table->arena);
    mp_free(table->entries);
    mp_free(table->slots);
    memset(table, 0, sizeof *table);
}

/* The slot that holds the text, or the free one where it belongs. */
static int64_t token_slot(const mp_token_table *table, const char *text, size_t length)
{
    int64_t slot = (int64_t)(hash_text(text, length) & (uint64_t)table->mask);

    while (table->slots[slot] != 0) {
        const mp_token_entry *entry = &table->entries[table->slots[slot] - 1];

        if (entry->length == length &&
            memcmp(table->arena.bytes + entry->offset, text, length) == 0)
            break;
        slot = (slot + 1) & table->mask;
    }
    return slot;
}

int32_t mp_token_find(const mp_token_table *table, const char *text, size_t length)
{
    int64_t index = table->slots[token_slot(table, text, length)];

    return index == 0 ? -1 : table->entries[index - 1].id;
}

mp_status mp_token_insert(mp_token_table *table, const char *text, size_t length, int32_t id)
{
    int64_t slot = token_slot(table, text, length);
    mp_token_entry *entry;

    if (table->slots[slot] != 0) {
        table->entries[table->slots[slot] - 1].id = id;
        return MP_OK;
    }
    if (table->count == table->capacity || length > UINT32_MAX)
        return mp_fail(MP_ERR_INTERNAL, "a vocabulary of %lld tokens has no room for one more",
                       (long long)table->capacity);
    entry = &table->entries[table->count];
    entry->offset = table->arena.length;
    entry->length = (uint32_t)length;
    entry->id = id;
    MP_TRY(mp_text_append(&table->arena, text, length));
    table->slots[slot] = ++table->count;
    return MP_OK;
}

mp_status mp_pair_table_init(mp_pair_table *table, int64_t capacity)
{
    int64_t slots = slots_for(capacity);

    memset(table, 0, sizeof *table);
    MP_TRY(MP_NEW_RAW(table->slots, slots, "merges of the tokenizer"));
    for (int64_t i = 0; i < slots; i++) table->slots[i].value.rank = -1;
    table->mask = slots - 1;
    table->capacity = capacity;
    return MP_OK;
}

void mp_pair_table_free(mp_pair_table *table)
{
    mp_free(table->slots);
    memset(table, 0, sizeof *table);
}

static int64_t pair_slot(const mp_pair_table *table, uint64_t key)
{
    int64_t slot = (int64_t)(mix(key) & (uint64_t)table->mask);

    while (table->slots[slot].value.rank >= 0 && table->slots[slot].key != key)
        slot = (slot + 1) & table->mask;
    return slot;
}

const mp_pair_value *mp_pair_find(const mp_pair_table *table, uint32_t left, uint32_t right)
{
    int64_t slot = pair_slot(table, (uint64_t)left << 32 | right);

    return table->slots[slot].value.rank < 0 ? NULL : &table->slots[slot].value;
}

void mp_pair_insert(mp_pair_table *table, uint32_t left, uint32_t right, mp_pair_value value)
{
    uint64_t key = (uint64_t)left << 32 | right;
    int64_t slot = pair_slot(table, key);

    table->count += table->slots[slot].value.rank < 0;
    table->slots[slot].key = key;
    table->slots[slot].value = value;
}
