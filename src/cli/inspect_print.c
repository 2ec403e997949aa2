/* The report of an inspection in words. */
#include "inspect_report.h"

#include "mpress/quant.h"

#include <stdio.h>
#include <string.h>

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));

    return text != NULL ? text : "?";
}

static long long number_of(const json_t *object, const char *key)
{
    return (long long)json_integer_value(json_object_get(object, key));
}

/* A label, then what follows on the line. */
static void label(const char *text)
{
    printf("  %-13s ", text);
}

static int print_refusal(const json_t *object)
{
    if (json_object_get(object, "refused") == NULL) return 0;
    printf("refused: %s\n", text_of(object, "refused"));
    return 1;
}

static void print_arch(const json_t *arch)
{
    label("architecture");
    if (print_refusal(arch)) return;
    printf("%s, %lld blocks of width %lld, feed-forward %lld\n", text_of(arch, "family"),
           number_of(arch, "blocks"), number_of(arch, "d_model"), number_of(arch, "d_ff"));
    label("attention");
    printf("%lld heads, %lld of keys and values, %lld wide", number_of(arch, "heads"),
           number_of(arch, "kv_heads"), number_of(arch, "head_dim"));
    if (number_of(arch, "window") > 0) printf(", window %lld", number_of(arch, "window"));
    printf("\n");
    label("positions");
    printf("%lld, rope theta %g%s\n", number_of(arch, "positions"),
           json_number_value(json_object_get(arch, "rope_theta")),
           json_is_true(json_object_get(arch, "rope_llama3")) ? ", scaled as Llama 3.1" : "");
    label("vocabulary");
    printf("%lld, head %s\n", number_of(arch, "vocabulary"),
           json_is_true(json_object_get(arch, "tied_head")) ? "tied to the embedding"
                                                            : "of its own");
}

static void print_count(double value)
{
    static const char *const units[] = {"", " thousand", " million", " billion"};
    int unit = 0;

    while (value >= 9999.5 && unit < 3) {
        value /= 1000.0;
        unit++;
    }
    printf(unit == 0 ? "%.0f%s" : "%.1f%s", value, units[unit]);
}

static void print_tensors(const json_t *tensors)
{
    const char *dtype, *comma = "";
    const json_t *count;

    if (!json_is_object(tensors)) return;
    label("tensors");
    printf("%lld, ", number_of(tensors, "count"));
    print_count((double)number_of(tensors, "parameters"));
    printf(" elements, ");
    print_count((double)number_of(tensors, "bytes"));
    printf(" bytes (");
    json_object_foreach ((json_t *)json_object_get(tensors, "dtypes"), dtype, count) {
        printf("%s%lld %s", comma, (long long)json_integer_value(count), dtype);
        comma = ", ";
    }
    printf(")\n");
}

static void print_tokenizer(const json_t *tokenizer)
{
    label("tokenizer");
    if (!json_is_object(tokenizer)) {
        printf("none\n");
        return;
    }
    if (print_refusal(tokenizer)) return;
    printf("%s, %lld ids", text_of(tokenizer, "file"), number_of(tokenizer, "ids"));
    if (number_of(tokenizer, "bos") < 0)
        printf(", no BOS\n");
    else
        printf(", BOS %lld%s\n", number_of(tokenizer, "bos"),
               json_is_true(json_object_get(tokenizer, "adds_bos")) ? ", added by default" : "");
}

/* The options and whatever else the run recorded, one line each, nested keys with dots. */
static void print_members(const json_t *object, const char *prefix)
{
    const char *key;
    const json_t *value;
    char name[160];

    json_object_foreach ((json_t *)object, key, value) {
        if (strcmp(key, "identity") == 0) continue; /* some of the options once more */
        snprintf(name, sizeof name, "%.70s%s%.70s", prefix, prefix[0] != '\0' ? "." : "", key);
        if (json_is_object(value)) {
            print_members(value, name);
        } else if (json_is_string(value)) {
            printf("    %-26s %s\n", name, json_string_value(value));
        } else if (!json_is_null(value)) {
            printf("    %-26s ", name);
            json_dumpf(value, stdout, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(9));
            printf("\n");
        }
    }
}

/* One linear map over all blocks. */
typedef struct summary {
    const char *name;
    int blocks, measured;                    /* that are compressed, and whose error is known */
    mp_quant quant;                          /* of the last one that is quantised */
    double sparsity, rank, rel_error, worst; /* sums, and the largest error */
} summary;

static void add_up(const json_t *record, summary *s)
{
    const json_t *sparsity = json_object_get(record, "sparsity");
    const json_t *error = json_object_get(record, "rel_error");

    s->name = text_of(record, "name");
    if (strcmp(text_of(record, "method"), "dense") == 0) return;
    s->blocks++;
    if (json_object_get(record, "bits") != NULL)
        s->quant = (mp_quant){(int)number_of(record, "bits"), number_of(record, "group"),
                              (int)number_of(record, "symmetric")};
    s->rank += json_number_value(json_object_get(record, "rank"));
    s->sparsity += json_number_value(sparsity);
    if (!json_is_number(error)) return;
    s->measured++;
    s->rel_error += json_number_value(error);
    if (json_number_value(error) > s->worst) s->worst = json_number_value(error);
}

/* How many maps of a block there can be: the names are few, so that looking them up one by one
 * does. */
enum { MOST_NAMES = 64 };

static void print_linears(const json_t *linears)
{
    summary all[MOST_NAMES] = {{0}};
    int count = 0, ranks = 0;
    size_t index;
    const json_t *record;

    json_array_foreach (linears, index, record) {
        int i = 0;

        while (i < count && strcmp(all[i].name, text_of(record, "name")) != 0) i++;
        if (i == MOST_NAMES) continue;
        add_up(record, &all[i]);
        if (i == count) count++;
    }
    if (count == 0) return;
    for (int i = 0; i < count; i++) ranks |= all[i].rank > 0.0;
    printf("  %-24s %10s  %8s  %s%10s  %10s\n", "linear map", "compressed", "sparsity",
           ranks ? "mean rank  " : "", "mean error", "worst");
    for (int i = 0; i < count; i++) {
        double blocks = all[i].blocks > 0 ? (double)all[i].blocks : 1.0;
        char grids[64];

        printf("    %-22s %10d  %8.4f", all[i].name, all[i].blocks, all[i].sparsity / blocks);
        if (ranks) printf("  %9.1f", all[i].rank / blocks);
        if (all[i].measured > 0)
            printf("  %10.3e  %10.3e", all[i].rel_error / all[i].measured, all[i].worst);
        else if (all[i].quant.bits > 0)
            printf("  %10s  %10s", "", "");
        if (all[i].quant.bits > 0) printf("  %s", mp_quant_words(&all[i].quant, grids));
        printf("\n");
    }
}

static void print_checkpoint(const json_t *report)
{
    label("format");
    printf("%lld\n", number_of(report, "format"));
    label("blocks");
    printf("%zu of %lld, %s\n", json_array_size(json_object_get(report, "done")),
           number_of(report, "blocks"),
           json_is_true(json_object_get(report, "finished")) ? "finished" : "not finished");
}

static void print_tokens(const json_t *tokens)
{
    label("tokens");
    if (number_of(tokens, "windows") == 0)
        printf("a stream of %lld", number_of(tokens, "seqlen"));
    else
        printf("%lld window%s of %lld", number_of(tokens, "windows"),
               number_of(tokens, "windows") == 1 ? "" : "s", number_of(tokens, "seqlen"));
    printf(", ids %lld to %lld\n", number_of(tokens, "lowest"), number_of(tokens, "highest"));
}

void inspect_print(const json_t *report)
{
    const char *kind = text_of(report, "kind");

    printf("%s: %s\n", text_of(report, "path"),
           strcmp(kind, "model") == 0        ? "a Hugging Face model"
           : strcmp(kind, "checkpoint") == 0 ? "a checkpoint of mpress"
           : strcmp(kind, "tokens") == 0     ? "a token file"
                                             : "a safetensors file");
    if (json_object_get(report, "done") != NULL) print_checkpoint(report);
    if (json_object_get(report, "architecture") != NULL)
        print_arch(json_object_get(report, "architecture"));
    print_tensors(json_object_get(report, "tensors"));
    if (json_object_get(report, "tokens") != NULL) print_tokens(json_object_get(report, "tokens"));
    if (json_object_get(report, "tokenizer") != NULL)
        print_tokenizer(json_object_get(report, "tokenizer"));
    if (json_object_get(report, "identity") != NULL) {
        label("identity");
        printf("%s\n", text_of(report, "identity"));
    }
    if (json_object_get(report, "run") == NULL) return;
    printf("  run\n");
    print_members(json_object_get(report, "run"), "");
    print_linears(json_object_get(report, "linears"));
}
