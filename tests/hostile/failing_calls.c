/* Lets one system call under a folder fail, or it and all later ones. Compiled and preloaded by test_faults.py. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

enum { OPEN, WRITE, FSYNC, RENAME, UNLINK, READ, CALLS };

static char folder[PATH_MAX];
static int failing_call = -1, failing_number, failing_errno, for_ever;
static atomic_int counts[CALLS];

void faults_set(const char *path, int call, int number, int error, int lasting)
{
    strncpy(folder, path, sizeof folder - 1);
    failing_call = call;
    failing_number = number;
    failing_errno = error;
    for_ever = lasting;
    for (int i = 0; i < CALLS; i++)
        counts[i] = 0;
}

int faults_count(int call) { return counts[call]; }

static int fails(int call, const char *path)
{
    if (!folder[0] || !path)
        return 0;
    /* Relative paths are taken for paths under the folder, in which the program runs. */
    if (path[0] == '/' ? strncmp(path, folder, strlen(folder)) : !strncmp(path, "..", 2))
        return 0;
    int number = ++counts[call];
    if (call != failing_call || number < failing_number || (number > failing_number && !for_ever))
        return 0;
    errno = failing_errno;
    return 1;
}

static int fails_fd(int call, int fd)
{
    char link[64], path[PATH_MAX];
    if (!folder[0])
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return fails(call, path);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define OPENING(name)                                                                                      \
    int name(const char *path, int flags, ...)                                                             \
    {                                                                                                      \
        va_list rest;                                                                                      \
        va_start(rest, flags);                                                                             \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0;                            \
        va_end(rest);                                                                                      \
        return fails(OPEN, path) ? -1 : REAL(name)(path, flags, mode);                                     \
    }
OPENING(open)
OPENING(open64)

#define WITH_OFFSET(name, call, buffer)                                                                    \
    ssize_t name(int fd, buffer data, size_t size, off_t offset)                                           \
    {                                                                                                      \
        return fails_fd(call, fd) ? -1 : REAL(name)(fd, data, size, offset);                               \
    }
WITH_OFFSET(pwrite, WRITE, const void *)
WITH_OFFSET(pwrite64, WRITE, const void *)
WITH_OFFSET(pread, READ, void *)
WITH_OFFSET(pread64, READ, void *)

ssize_t write(int fd, const void *data, size_t size)
{
    return fails_fd(WRITE, fd) ? -1 : REAL(write)(fd, data, size);
}

ssize_t read(int fd, void *data, size_t size)
{
    return fails_fd(READ, fd) ? -1 : REAL(read)(fd, data, size);
}

int fsync(int fd) { return fails_fd(FSYNC, fd) ? -1 : REAL(fsync)(fd); }

int rename(const char *from, const char *to) { return fails(RENAME, to) ? -1 : REAL(rename)(from, to); }

int unlink(const char *path) { return fails(UNLINK, path) ? -1 : REAL(unlink)(path); }
