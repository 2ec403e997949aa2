#include "mpress/io.h"

#include "mpress/fileio.h"
#include "mpress/log.h"
#include "mpress/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { PIECE = 16 << 20, FILE_LIMIT = 1 << 30 };

/* A network file system may show a new file a moment later. */
enum { LOOKS = 6, WAIT_NS = 100000000 };

/* What the ranks look for: a file, and what rank 0 finds in it. */
typedef struct probe {
    char *path; /* owned */
    uint32_t crc;
    int64_t bytes;
    int flags; /* how it is opened */
    int looks; /* how often, before a rank does not see it */
} probe;

static int is_probe(const probe *p)
{
    struct stat info;
    char buffer[4096];
    uint32_t crc = 0;
    int fd, same;
    int64_t at = 0;

    if (mp_file_open(p->path, p->flags, &fd) != MP_OK) return 0;
    same = fstat(fd, &info) == 0 && info.st_size == p->bytes;
    while (same && at < p->bytes) {
        ssize_t got = read(fd, buffer, sizeof buffer);

        same = got > 0;
        if (same) crc = mp_crc32c(crc, buffer, (size_t)got);
        at += got;
    }
    close(fd);
    return same && crc == p->crc;
}

static int is_seen(const probe *p)
{
    const struct timespec wait = {.tv_nsec = WAIT_NS};

    for (int i = 0; i < p->looks; i++) {
        if (i > 0) nanosleep(&wait, NULL);
        if (is_probe(p)) return 1;
    }
    return 0;
}

/* A file of random name, so that nobody has looked for it before, and of random content.  Collective;
 * agreed. */
static mp_status make_probe(const mp_comm *comm, const char *dir, probe *p)
{
    unsigned char content[32] = {0};
    char name[64];
    mp_status st = MP_OK;

    if (comm->rank == 0 && getrandom(content, sizeof content, 0) != (ssize_t)sizeof content)
        st = mp_fail(MP_ERR_IO, "no random numbers: %s", strerror(errno));
    MP_TRY(mp_comm_agree(comm, st));
    MP_TRY(mp_comm_tell(comm, content, sizeof content, 0));
    *p = (probe){.crc = mp_crc32c(0, content, sizeof content),
                 .bytes = sizeof content,
                 .flags = O_RDWR,
                 .looks = LOOKS};
    snprintf(name, sizeof name, "probe.%02x%02x%02x%02x%02x%02x%02x%02x.tmp", content[0],
             content[1], content[2], content[3], content[4], content[5], content[6], content[7]);
    st = mp_path_join(dir, name, &p->path);
    if (st == MP_OK && comm->rank == 0) st = mp_file_write(p->path, content, sizeof content);
    return mp_comm_agree(comm, st);
}

/* A file that is there already.  Collective; agreed. */
static mp_status take_probe(const mp_comm *comm, const char *path, probe *p)
{
    char *content = NULL;
    size_t length = 0;
    mp_status st = mp_strdup(path, &p->path);

    p->flags = O_RDONLY;
    p->looks = 1;
    if (st == MP_OK && comm->rank == 0) st = mp_file_read(path, FILE_LIMIT, &content, &length);
    p->crc = mp_crc32c(0, content, length);
    p->bytes = (int64_t)length;
    mp_free(content);
    MP_TRY(mp_comm_agree(comm, st));
    MP_TRY(mp_comm_tell(comm, &p->crc, sizeof p->crc, 0));
    return mp_comm_tell(comm, &p->bytes, sizeof p->bytes, 0);
}

/* server_of holds 1 for the ranks that see the directory. */
static void appoint(mp_io *io)
{
    const int size = io->comm->size;
    int blind = 0, *seeing = io->server_of + size; /* the ranks that do, in their order */

    for (int r = 0; r < size; r++)
        if (io->server_of[r]) seeing[io->count++] = r;
    for (int r = 0, next = 0; r < size; r++) {
        if (next < io->count && seeing[next] == r) {
            if (r == io->comm->rank) io->place = next;
            io->server_of[r] = seeing[next++];
        } else {
            io->server_of[r] = seeing[blind++ % io->count];
        }
    }
}

/* "1, 2, 3, 5 ...": some of those that do not see it. */
static void say(const mp_io *io, const char *dir)
{
    char text[128] = "";
    size_t used = 0;

    if (io->count == io->comm->size) return;
    for (int r = 0; r < io->comm->size && used < sizeof text - 32; r++)
        if (io->server_of[r] != r)
            used +=
                (size_t)snprintf(text + used, sizeof text - used, "%s%d", used > 0 ? ", " : "", r);
    mp_log(MP_LOG_WARNING,
           "%s: %d of %d ranks do not see it (%s%s): the others read and write there for them", dir,
           io->comm->size - io->count, io->comm->size, text,
           used < sizeof text - 32 ? "" : ", ...");
}

/* Which ranks see the probe. */
static mp_status fill(mp_io *io, const probe *p)
{
    const mp_comm *comm = io->comm;
    int sees = comm->rank == 0 || is_seen(p);

    MP_TRY(mp_comm_agree(comm, MP_NEW(io->server_of, 2 * (int64_t)comm->size, "a table of ranks")));
    MP_TRY(mp_mpi_check(MPI_Allgather(&sees, 1, MPI_INT, io->server_of, 1, MPI_INT, comm->mpi),
                        "finding the ranks that see a directory"));
    appoint(io);
    return mp_mpi_check(MPI_Comm_split(comm->mpi, sees ? 0 : MPI_UNDEFINED, comm->rank, &io->mpi),
                        "gathering the ranks that see a directory");
}

static mp_status create(const mp_comm *comm, const probe *p, mp_io **io)
{
    mp_io *made = NULL;
    mp_status st = MP_NEW(made, 1, "the ranks that see a directory");

    if (st == MP_OK) *made = (mp_io){.comm = comm, .mpi = MPI_COMM_NULL, .place = -1};
    MP_GO(mp_comm_agree(comm, st));
    MP_GO(fill(made, p));
    *io = made;
    made = NULL;
out:
    mp_io_close(made);
    return st;
}

mp_status mp_io_open(const mp_comm *comm, const char *dir, mp_io **io)
{
    probe p = {.path = NULL};
    mp_status st = make_probe(comm, dir, &p);

    if (st == MP_OK) st = create(comm, &p, io);
    if (comm->rank == 0 && p.path != NULL) unlink(p.path);
    mp_free(p.path);
    if (st == MP_OK) say(*io, dir);
    return st;
}

mp_status mp_io_of_file(const mp_comm *comm, const char *path, mp_io **io)
{
    probe p = {.path = NULL};
    mp_status st = take_probe(comm, path, &p);

    if (st == MP_OK) st = create(comm, &p, io);
    mp_free(p.path);
    return st;
}

void mp_io_close(mp_io *io)
{
    if (io == NULL) return;
    if (io->mpi != MPI_COMM_NULL) MPI_Comm_free(&io->mpi);
    mp_free(io->server_of);
    mp_free(io);
}

int mp_io_copiers(const mp_io *io, const mp_source *source)
{
    return source->readers == MP_READ_BY_ROOT ? 1 : io->count;
}

/* What a rank asks its server for, ahead of the pieces. */
typedef struct order {
    int64_t first, count;
} order;

/* Units on their way, with `write` or `read`, the other one NULL. */
typedef struct transfer {
    const mp_io *io;
    size_t unit;
    int64_t piece; /* units at a time */
    mp_io_write write;
    mp_io_read read;
    void *context;
    char *buffer; /* of a piece, on ranks that see the directory while others do not; owned */
} transfer;

static mp_status apply(const transfer *t, int64_t first, int64_t count, void *data)
{
    return t->write != NULL ? t->write(t->context, first, count, data)
                            : t->read(t->context, first, count, data);
}

static size_t bytes_at(const transfer *t, int64_t at, const order *o)
{
    return (size_t)(o->count - at < t->piece ? o->count - at : t->piece) * t->unit;
}

/* A rank that does not see the directory sends its units to its server, or receives them from it. */
static mp_status ask(const transfer *t, const order *mine, char *data)
{
    const mp_comm *comm = t->io->comm;
    const int server = t->io->server_of[comm->rank];

    MP_TRY(mp_comm_send(comm, mine, sizeof *mine, server));
    for (int64_t at = 0; at < mine->count; at += t->piece) {
        char *here = data + (size_t)at * t->unit;

        MP_TRY(t->write != NULL ? mp_comm_send(comm, here, bytes_at(t, at, mine), server)
                                : mp_comm_receive(comm, here, bytes_at(t, at, mine), server));
    }
    return MP_OK;
}

/* The server's side for one rank; `st` is what became of everything before.  After an error the pieces
 * are passed on all the same: the other side is waiting, and learns of it when all agree. */
static mp_status serve(const transfer *t, int rank, mp_status st)
{
    const mp_comm *comm = t->io->comm;
    order theirs;

    MP_TRY(mp_comm_receive(comm, &theirs, sizeof theirs, rank));
    for (int64_t at = 0; at < theirs.count; at += t->piece) {
        size_t bytes = bytes_at(t, at, &theirs);

        if (t->write != NULL) MP_TRY(mp_comm_receive(comm, t->buffer, bytes, rank));
        if (st == MP_OK) st = apply(t, theirs.first + at, (int64_t)(bytes / t->unit), t->buffer);
        if (t->read != NULL) MP_TRY(mp_comm_send(comm, t->buffer, bytes, rank));
    }
    return st;
}

static mp_status move(transfer *t, const order *mine, void *data)
{
    const mp_io *io = t->io;
    const int me = io->comm->rank, blind = io->place < 0;
    mp_status st = MP_OK;

    if (io->count < io->comm->size) {
        if (!blind) st = mp_alloc((void **)&t->buffer, t->piece, t->unit, 1, "a piece of data");
        MP_TRY(mp_comm_agree(io->comm, st));
    }
    if (blind) return mp_comm_agree(io->comm, ask(t, mine, data));
    if (mine->count > 0) st = apply(t, mine->first, mine->count, data);
    for (int r = 0; r < io->comm->size; r++)
        if (r != me && io->server_of[r] == me) st = serve(t, r, st);
    return mp_comm_agree(io->comm, st);
}

static mp_status start(transfer *t, const order *mine, void *data)
{
    mp_status st;

    t->piece = t->unit > 0 && t->unit < PIECE ? (int64_t)(PIECE / t->unit) : 1;
    st = move(t, mine, data);
    mp_free(t->buffer);
    return st;
}

mp_status mp_io_put(const mp_io *io, size_t unit, int64_t first, int64_t count, const void *data,
                    mp_io_write write, void *context)
{
    transfer t = {.io = io, .unit = unit, .write = write, .context = context};

    return start(&t, &(order){first, count}, (void *)(uintptr_t)data);
}

mp_status mp_io_get(const mp_io *io, size_t unit, int64_t first, int64_t count, void *data,
                    mp_io_read read, void *context)
{
    transfer t = {.io = io, .unit = unit, .read = read, .context = context};

    return start(&t, &(order){first, count}, data);
}
