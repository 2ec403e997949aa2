#include "lock.h"

#include "mpress/fileio.h"
#include "mpress/log.h"
#include "mpress/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* "process 4711 on node17" */
static void read_holder(int fd, char *holder, size_t size)
{
    ssize_t length = pread(fd, holder, size - 1, 0);

    holder[length > 0 ? length : 0] = '\0';
    holder[strcspn(holder, "\n")] = '\0';
}

/* A lock of the open file, not of the process: closing another descriptor of it changes nothing. */
static mp_status lock_open(int fd, const char *dir)
{
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    char holder[192];
    int error;

    do error = fcntl(fd, F_OFD_SETLK, &whole) == 0 ? 0 : errno;
    while (error == EINTR);
    if (error == 0) return MP_OK;
    if (error == EAGAIN || error == EACCES) {
        read_holder(fd, holder, sizeof holder);
        return mp_fail(MP_ERR_FORMAT,
                       "%s: another run is at work in it (%s), expected one at a time", dir,
                       holder);
    }
    mp_log(MP_LOG_WARNING,
           "%s: the file system has no locks (%s): nothing keeps a second run out of it", dir,
           strerror(error));
    return MP_OK;
}

/* Whether `path` still leads to the open file: a run that gives its directory back removes the file, and who
 * had opened it before would lock what nobody else sees. */
static int is_there(int fd, const char *path)
{
    struct stat mine, now;

    return fstat(fd, &mine) == 0 && stat(path, &now) == 0 && mine.st_dev == now.st_dev &&
           mine.st_ino == now.st_ino;
}

mp_status mp_lock_take(const char *dir, int *lock)
{
    enum { MOST_TRIES = 100 };
    char *path = NULL;
    int fd = -1, tries = 0;
    mp_status st;

    *lock = -1;
    MP_TRY(mp_path_join(dir, MP_LOCK_FILE, &path));
    do {
        if (fd >= 0) close(fd);
        st = mp_file_open(path, O_RDWR | O_CREAT, &fd);
        if (st == MP_OK) st = lock_open(fd, dir);
    } while (st == MP_OK && !is_there(fd, path) && ++tries < MOST_TRIES);
    if (st == MP_OK && tries == MOST_TRIES)
        st = mp_fail(MP_ERR_IO, "%s: removed by others again and again", path);
    mp_free(path);
    if (st == MP_OK)
        *lock = fd;
    else if (fd >= 0)
        close(fd);
    return st;
}

mp_status mp_lock_sign(int lock, const char *dir)
{
    char host[128] = "", line[192];

    if (lock < 0) return MP_OK;
    gethostname(host, sizeof host - 1);
    snprintf(line, sizeof line, "process %ld on %s\n", (long)getpid(), host);
    if (ftruncate(lock, 0) != 0)
        return mp_fail(MP_ERR_IO, "%s/%s: writing failed: %s", dir, MP_LOCK_FILE, strerror(errno));
    return mp_file_pwrite(lock, dir, line, strlen(line), 0);
}

void mp_lock_release(int lock)
{
    if (lock >= 0) close(lock);
}
