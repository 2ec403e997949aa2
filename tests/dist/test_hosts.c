/* Whole runs where ranks do not see the same files, or share too little memory: the bytes are those of one
 * host. */
#include <criterion/criterion.h>

#include "launch.h"

/* The run that the others are compared with, in $S/one, of one rank that sees everything. */
static const char settings[] = "--calib $G/calib.safetensors --nsamples 3 --sparsity 2:4";

static void run_reference(const char *options)
{
    static struct outcome o;
    char arguments[512];

    snprintf(arguments, sizeof arguments, "compress $M $S/one %s %s", settings, options);
    expect_success(&o, 1, arguments);
}

/* All files of tensors of $S/one and $S/`out`, byte for byte. */
static void expect_same_tensors(const char *out)
{
    char command[512];

    snprintf(command, sizeof command,
             "cd $S && for f in one/blocks/*.h5 one/hf/*.safetensors; do "
             "cmp $f %s/${f#one/} || exit 1; done",
             out);
    expect_true(command);
}

/* `count` ranks in each of $S/here, where model and OUT are, and $S/there, where nothing is. */
static void launch_apart(struct outcome *o, int count, const char *arguments)
{
    char command[4096], part[2][1024];
    static const char *const places[] = {"here", "there"};

    for (int i = 0; i < 2; i++)
        snprintf(part[i], sizeof part[i], "-n %d --wdir $S/%s %s %s", count, places[i], PROGRAM,
                 arguments);
    snprintf(command, sizeof command,
             "mkdir -p $S/here $S/there; ln -sfn $M $S/here/model; cp $G/*.safetensors $S/here;"
             "{ timeout -k 5 60 %s --oversubscribe --bind-to none %s : %s; } 2>&1 </dev/null",
             MPIEXEC, part[0], part[1]);
    run_shell(o, command);
}

static void expect_success_apart(struct outcome *o, int count, const char *arguments)
{
    launch_apart(o, count, arguments);
    cr_assert_eq(o->code, 0, "%s: exit code %d\n%s", arguments, o->code, o->text);
}

static void expect_text(const struct outcome *o, const char *words)
{
    cr_expect_not_null(strstr(o->text, words), "no \"%s\" in: %s", words, o->text);
}

Test(hosts, what_rank_0_reads_for_all_gives_the_same_bytes, .timeout = 300)
{
    static struct outcome o;
    char scratch[64], arguments[512];

    places_make(scratch);
    run_reference("");
    for (int ranks = 1; ranks <= 4; ranks++) {
        snprintf(arguments, sizeof arguments, "compress $M $S/root %s --model-io root --overwrite",
                 settings);
        expect_success(&o, ranks, arguments);
        if (ranks > 1) expect_text(&o, "rank 0 reads it and sends it on");
        expect_same_tensors("root");
    }
    scratch_remove(scratch);
}

Test(hosts, model_and_out_may_be_where_only_some_ranks_see_them, .timeout = 300)
{
    static const char arguments[] =
        "compress model out --calib calib.safetensors --nsamples 3 --sparsity 2:4 "
        "--eval eval.safetensors --eval-seqlen 256 --max-windows 2 --save-hidden every=1";
    static struct outcome o;
    char scratch[64], more[512];

    places_make(scratch);
    run_reference("");
    expect_success_apart(&o, 2, arguments);
    expect_text(&o, "model: rank 0 reads it and sends it on, because 2 of 4 ranks do not see it "
                    "(rank 2: model: not a directory");
    expect_text(&o, "out/blocks: 2 of 4 ranks do not see it (2, 3): the others read and write");
    expect_same_tensors("here/out");
    expect_true("test -z \"$(ls -A $S/there)\"");

    /* a block that is lost is made again, on another number of ranks */
    expect_true(
        "printf x | dd of=$S/here/out/blocks/00003.h5 bs=1 seek=9999 conv=notrunc status=none");
    snprintf(more, sizeof more, "%s --resume require", arguments);
    expect_success_apart(&o, 1, more);
    expect_text(&o, "out/blocks/00003.h5: damaged");
    expect_same_tensors("here/out");

    expect_success_apart(&o, 1, "export out again");
    expect_true("cmp $S/here/again/model.safetensors $S/one/hf/model.safetensors");
    expect_success_apart(&o, 1, "eval out --data eval.safetensors --seqlen 256 --max-windows 2");
    expect_text(&o, "\"windows\": 2");
    expect_success_apart(&o, 1, "inspect out --verify");
    expect_text(&o, " 0 damaged");
    scratch_remove(scratch);
}

Test(hosts, a_search_by_sensitivity_keeps_its_factors_where_out_is, .timeout = 300)
{
    static const char options[] = "--method asvd+ --rank-policy sensitivity --ratio 0.9 --nsamples "
                                  "2 --seqlen 64 --skip 'layers.[0-4]|mlp|[kv]_proj'";
    static struct outcome o;
    char scratch[64], arguments[512];

    places_make(scratch);
    snprintf(arguments, sizeof arguments, "compress $M $S/one --calib $G/calib.safetensors %s",
             options);
    expect_success(&o, 2, arguments);
    snprintf(arguments, sizeof arguments, "compress model out --calib calib.safetensors %s",
             options);
    expect_success_apart(&o, 1, arguments);
    expect_same_tensors("here/out");
    scratch_remove(scratch);
}

Test(hosts, what_one_rank_does_not_see_is_an_error_where_all_are_to_read, .timeout = 300)
{
    static struct outcome o;
    char scratch[64];

    places_make(scratch);
    launch_apart(&o, 1, "eval model --data eval.safetensors --seqlen 256 --model-io shared");
    cr_expect_eq(o.code, 74, "exit code %d", o.code);
    expect_text(&o, "error: model: not a directory");
    launch_apart(&o, 1, "eval model --data eval.safetensors --seqlen 256 --model-io remote");
    cr_expect_eq(o.code, 64, "exit code %d", o.code);
    expect_text(&o, "--model-io remote: expected auto, shared or root");
    scratch_remove(scratch);
}

/* 5 MiB of shared memory, where that can be had: a block alone takes 3, the head 4. */
Test(hosts, ranks_keep_copies_where_shared_memory_is_too_small, .timeout = 300)
{
    static const char apart[] = "unshare --user --map-root-user --mount";
    static struct outcome o;
    char scratch[64], command[2048];

    places_make(scratch);
    snprintf(command, sizeof command, "%s mount -t tmpfs -o size=3m tmpfs /dev/shm 2>&1", apart);
    run_shell(&o, command);
    if (o.code != 0) {
        scratch_remove(scratch);
        fprintf(stderr, "skipped: no namespaces: %s", o.text);
        cr_skip_test("skipped: no namespaces: %s", o.text);
    }
    run_reference("");
    snprintf(command, sizeof command,
             "%s sh -c 'mount -t tmpfs -o size=3m tmpfs /dev/shm && timeout 60 %s --oversubscribe "
             "--bind-to none --mca btl tcp,self -n 3 %s compress $M $S/copies %s' 2>&1",
             apart, MPIEXEC, PROGRAM, settings);
    run_shell(&o, command);
    cr_assert_eq(o.code, 0, "%s", o.text);
    expect_text(&o, "but /dev/shm has 3.0 MiB left: every rank keeps a copy of its own there");
    expect_same_tensors("copies");
    scratch_remove(scratch);
}

/* mpi-runs/fake-hosts.sh does the comparing; 77 says that it may not make hosts here. */
Test(hosts, four_hosts_without_a_common_file_system_give_the_bytes_of_one, .timeout = 300)
{
    static struct outcome o;
    char scratch[64];

    places_make(scratch);
    run_shell(&o, "MPRESS=" PROGRAM " timeout -k 5 200 " MPRESS_SOURCE
                  "/mpi-runs/fake-hosts.sh $M $G/calib.safetensors --nsamples 2 2>&1 </dev/null");
    scratch_remove(scratch);
    if (o.code == 77) {
        fprintf(stderr, "skipped: %s", o.text);
        cr_skip_test("skipped: %s", o.text);
    }
    cr_assert_eq(o.code, 0, "exit code %d: %s", o.code, o.text);
    expect_text(&o, "4 ranks on 4 nodes (1 each), 1 thread each");
    expect_text(&o, "disk/model: rank 0 reads it and sends it on, because 3 of 4 ranks");
    expect_text(&o, "the same bytes in 8 files");
}
