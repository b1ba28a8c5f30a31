/* Counts the system calls of a process that touch what matters to it, and strikes at the n-th.
 *
 * Preloaded (LD_PRELOAD) into Python programs under test. A call counts if its path, or that of its descriptor, lies
 * below one of CALLS_ROOTS (separated by colons), or if its descriptor is a socket and CALLS_SOCKETS is set. It strikes
 * where `calls_arm` was called (a fork server does that), or where the environment says so: the i-th process whose
 * command line has CALLS_WHO in it takes the i-th line of CALLS_PLAN, "n mode errno times".
 *
 * Modes: 1 dies (SIGKILL) before the call; 2 dies after half of it (a write), or right behind it; 3 `times` calls fail
 * with errno; 4 writes half. With CALLS_LOG, each counted call is a line: number, name, path, and what was done to it.
 * With CALLS_RECORD, each call that changes a file is kept there with its bytes: see cut.py.
 *
 * What it does not see: calls that libc makes by itself (stdio), and stores into mappings.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { NONE, KILL, TORN, FAIL, SHORT };

static long counted, at = -1;
static int mode, fault, times;
static char roots[4096];
static char log_path[PATH_MAX], record_path[PATH_MAX];
static int sockets;
static pthread_mutex_t lock = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;

#define REAL(name) ((__typeof__(&name))real(#name))
static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

/* -- arming ------------------------------------------------------------------------------------------------------- */

/* Anew each time: an agent closes all descriptors that it has inherited. */
static void append(const char *to, const void *data, size_t n) {
    int fd = syscall(SYS_openat, AT_FDCWD, to, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0) return;
    syscall(SYS_write, fd, data, n);
    syscall(SYS_close, fd);
}

void calls_arm(long n, int how, int error, int many) {
    counted = 0, at = n, mode = how, fault = error, times = many;
}

long calls_counted(void) { return counted; }

static void set(char *to, const char *text) { snprintf(to, PATH_MAX, "%s", text ? text : ""); }
void calls_log(const char *path) { set(log_path, path); }
void calls_record(const char *path) { set(record_path, path); }
void calls_roots(const char *text) { strncpy(roots, text, sizeof roots - 1); }

static int is_wanted(const char *who) {
    char line[16384];
    int fd = syscall(SYS_openat, AT_FDCWD, "/proc/self/cmdline", O_RDONLY);
    long n = fd < 0 ? 0 : syscall(SYS_read, fd, line, sizeof line - 1);
    if (fd >= 0) syscall(SYS_close, fd);
    return n > 0 && memmem(line, n, who, strlen(who)) != NULL;
}

static void take_plan(const char *plan) {
    char path[PATH_MAX], text[4096];
    for (int i = 0;; i++) {
        snprintf(path, sizeof path, "%s.%d", plan, i);
        int fd = syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (fd < 0) continue;
        syscall(SYS_close, fd);
        fd = syscall(SYS_openat, AT_FDCWD, plan, O_RDONLY | O_CLOEXEC);
        long n = fd < 0 ? 0 : syscall(SYS_read, fd, text, sizeof text - 1);
        if (fd >= 0) syscall(SYS_close, fd);
        text[n > 0 ? n : 0] = 0;
        char *line = text;
        for (int skip = i; line && skip; skip--) line = (line = strchr(line, '\n')) ? line + 1 : NULL;
        if (line && sscanf(line, "%ld %d %d %d", &at, &mode, &fault, &times) != 4) at = -1;
        return;
    }
}

__attribute__((constructor)) static void begin(void) {
    const char *who = getenv("CALLS_WHO"), *text;
    if ((text = getenv("CALLS_ROOTS"))) calls_roots(text);
    sockets = getenv("CALLS_SOCKETS") != NULL;
    if (who && !is_wanted(who)) { roots[0] = 0, sockets = 0; return; }
    if ((text = getenv("CALLS_LOG"))) calls_log(text);
    if ((text = getenv("CALLS_RECORD"))) calls_record(text);
    if (who && (text = getenv("CALLS_PLAN"))) take_plan(text);
}

/* -- what counts, and what is done to it -------------------------------------------------------------------------- */

static int below(const char *path) {
    for (const char *root = roots; *root;) {
        size_t n = strcspn(root, ":");
        if (n && !strncmp(path, root, n)) return 1;
        root += n + (root[n] == ':');
    }
    return 0;
}

static int path_of(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    long n = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX - 1);
    path[n > 0 ? n : 0] = 0;
    return n > 0;
}

static void tell(const char *name, const char *path, const char *what) {
    if (!*log_path) return;
    char line[PATH_MAX + 100];
    int n = snprintf(line, sizeof line, "%ld\t%s\t%s\t%s\n", counted, name, path, what);
    append(log_path, line, n);
}

static void die(void) {
    syscall(SYS_kill, syscall(SYS_getpid), SIGKILL);
    for (;;) syscall(SYS_pause);
}

/* What is to become of this call; NONE: nothing, or it does not count. */
static int strike(const char *name, const char *path) {
    if (!below(path) && !(sockets && !strncmp(path, "socket:", 7))) return NONE;
    long n = __sync_add_and_fetch(&counted, 1);
    if (at < 0 || n < at || (mode == FAIL ? n >= at + times : n != at)) { tell(name, path, ""); return NONE; }
    tell(name, path, mode == KILL ? "kill" : mode == TORN ? "torn" : mode == FAIL ? strerrorname_np(fault) : "short");
    if (mode == KILL) die();
    return mode;
}

static int strike_fd(const char *name, int fd) {
    char path[PATH_MAX];
    int kept = errno, found = roots[0] && path_of(fd, path) ? strike(name, path) : NONE;
    errno = kept;
    return found;
}

static const char *absolute(int directory, const char *path, char *whole) {
    if (path[0] == '/') return path;
    char base[PATH_MAX];
    if (directory == AT_FDCWD) { if (!getcwd(base, sizeof base)) return path; }
    else if (!path_of(directory, base)) return path;
    return snprintf(whole, PATH_MAX, "%s/%s", base, path) < PATH_MAX ? whole : path;
}

static int strike_path(const char *name, int directory, const char *path) {
    char whole[PATH_MAX];
    return roots[0] && path ? strike(name, absolute(directory, path, whole)) : NONE;
}

/* -- what is kept ------------------------------------------------------------------------------------------------- */

struct head { uint32_t size; char kind; char pad[3]; uint32_t path, other, data; int64_t offset; } __attribute__((packed));

static void keep(char kind, const char *path, const char *other, int64_t offset, const void *data, size_t n) {
    if (!*record_path || !below(path)) return;
    struct head head = {0, kind, {0}, strlen(path), other ? strlen(other) : 0, n, offset};
    size_t size = sizeof head + head.path + head.other + n;
    char *all = malloc(size), *to = all + sizeof head;
    head.size = size;
    memcpy(all, &head, sizeof head);
    memcpy(to, path, head.path), to += head.path;
    if (head.other) memcpy(to, other, head.other);
    memcpy(to + head.other, data ? data : "", n);
    append(record_path, all, size);
    free(all);
}

static void keep_fd(char kind, int fd, int64_t offset, const void *data, size_t n) {
    char path[PATH_MAX];
    int kept = errno;
    if (*record_path && path_of(fd, path) && !strstr(path, " (deleted)")) keep(kind, path, NULL, offset, data, n);
    errno = kept;
}

static void keep_path(char kind, int directory, const char *path, int other_directory, const char *other) {
    char whole[PATH_MAX], more[PATH_MAX];
    int kept = errno;
    if (*record_path)
        keep(kind, absolute(directory, path, whole), other ? absolute(other_directory, other, more) : NULL, 0, NULL, 0);
    errno = kept;
}

/* -- the calls ---------------------------------------------------------------------------------------------------- */

/* DO: what happens, and TORN dies behind it. */
#define BEHIND(what) do { if ((what) == TORN) die(); } while (0)
#define FAILS(what, value) do { if ((what) == FAIL) { errno = fault; return value; } } while (0)
/* Only what is kept must be in order; a call may block for ever. */
#define LOCKED int locked = *record_path != 0; if (locked) pthread_mutex_lock(&lock)
#define UNLOCKED if (locked) pthread_mutex_unlock(&lock)

static ssize_t half(ssize_t n) { return n > 1 ? n / 2 : n; }

ssize_t write(int fd, const void *data, size_t n) {
    int what = strike_fd("write", fd);
    FAILS(what, -1);
    LOCKED;
    int64_t from = !*record_path ? 0 : lseek(fd, 0, SEEK_CUR);
    ssize_t done = REAL(write)(fd, data, what == TORN || what == SHORT ? half(n) : (ssize_t)n);
    if (done > 0 && *record_path) {
        int flags = syscall(SYS_fcntl, fd, F_GETFL);
        keep_fd('w', fd, flags & O_APPEND ? lseek(fd, 0, SEEK_CUR) - done : from, data, done);
    }
    UNLOCKED;
    BEHIND(what);
    return done;
}

ssize_t pwrite64(int fd, const void *data, size_t n, off64_t to) {
    int what = strike_fd("pwrite", fd);
    FAILS(what, -1);
    LOCKED;
    ssize_t done = REAL(pwrite64)(fd, data, what == TORN || what == SHORT ? half(n) : (ssize_t)n, to);
    if (done > 0) keep_fd('w', fd, to, data, done);
    UNLOCKED;
    BEHIND(what);
    return done;
}
ssize_t pwrite(int fd, const void *data, size_t n, off_t to) { return pwrite64(fd, data, n, to); }

#define ON_FD(type, name, label, kind, value, params, args, record)  \
    type name params {                                               \
        int what = strike_fd(label, fd);                             \
        FAILS(what, value);                                          \
        LOCKED;                                                      \
        type done = REAL(name) args;                                 \
        if (done != value && kind) record;                           \
        UNLOCKED;                                                    \
        BEHIND(what);                                                \
        return done;                                                 \
    }

ON_FD(int, fsync, "fsync", 1, -1, (int fd), (fd), keep_fd('s', fd, 0, NULL, 0))
ON_FD(int, fdatasync, "fdatasync", 1, -1, (int fd), (fd), keep_fd('s', fd, 0, NULL, 0))
ON_FD(int, ftruncate64, "ftruncate", 1, -1, (int fd, off64_t to), (fd, to), keep_fd('t', fd, to, NULL, 0))
ON_FD(int, fchmod, "fchmod", 0, -1, (int fd, mode_t m), (fd, m), (void)0)
ON_FD(int, flock, "flock", 0, -1, (int fd, int how), (fd, how), (void)0)
ON_FD(ssize_t, read, "read", 0, -1, (int fd, void *to, size_t n), (fd, to, n), (void)0)
ON_FD(ssize_t, pread64, "pread", 0, -1, (int fd, void *to, size_t n, off64_t o), (fd, to, n, o), (void)0)
ON_FD(ssize_t, send, "send", 0, -1, (int fd, const void *d, size_t n, int f), (fd, d, n, f), (void)0)
ON_FD(ssize_t, recv, "recv", 0, -1, (int fd, void *d, size_t n, int f), (fd, d, n, f), (void)0)
ON_FD(ssize_t, sendmsg, "send", 0, -1, (int fd, const struct msghdr *m, int f), (fd, m, f), (void)0)
ON_FD(ssize_t, recvmsg, "recv", 0, -1, (int fd, struct msghdr *m, int f), (fd, m, f), (void)0)
ON_FD(int, connect, "connect", 0, -1, (int fd, const struct sockaddr *a, socklen_t n), (fd, a, n), (void)0)
int ftruncate(int fd, off_t to) { return ftruncate64(fd, to); }
ssize_t pread(int fd, void *to, size_t n, off_t o) { return pread64(fd, to, n, o); }

/* It says its error by its value. */
int posix_fallocate64(int fd, off64_t o, off64_t n) {
    int what = strike_fd("fallocate", fd);
    FAILS(what, fault);
    int done = REAL(posix_fallocate64)(fd, o, n);
    BEHIND(what);
    return done;
}
int posix_fallocate(int fd, off_t o, off_t n) { return posix_fallocate64(fd, o, n); }

void *mmap64(void *a, size_t n, int p, int f, int fd, off64_t o) {
    int what = fd < 0 ? NONE : strike_fd("mmap", fd);
    FAILS(what, MAP_FAILED);
    void *done = (void *)syscall(SYS_mmap, a, n, p, f, fd, o);
    BEHIND(what);
    return done;
}
void *mmap(void *a, size_t n, int p, int f, int fd, off_t o) { return mmap64(a, n, p, f, fd, o); }

/* What the kernel copies is kept as a write, read back from where it went. */
ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t n, unsigned flags) {
    int what = strike_fd("copy", out);
    FAILS(what, -1);
    LOCKED;
    int64_t start = to ? *to : lseek(out, 0, SEEK_CUR);
    ssize_t done = REAL(copy_file_range)(in, from, out, to, what == TORN || what == SHORT ? half(n) : (ssize_t)n, flags);
    if (done > 0 && *record_path) {
        char link[64], *data = malloc(done);
        snprintf(link, sizeof link, "/proc/self/fd/%d", out);
        int again = syscall(SYS_openat, AT_FDCWD, link, O_RDONLY);
        long got = syscall(SYS_pread64, again, data, done, start);
        syscall(SYS_close, again);
        if (got > 0) keep_fd('w', out, start, data, got);
        free(data);
    }
    UNLOCKED;
    BEHIND(what);
    return done;
}

static int opens(int directory, const char *path, int flags, mode_t m) {
    int what = strike_path("open", directory, path);
    FAILS(what, -1);
    LOCKED;
    int made = flags & O_CREAT && *record_path && syscall(SYS_faccessat, directory, path, F_OK) != 0;
    int fd = syscall(SYS_openat, directory, path, flags, m);
    if (fd >= 0 && made) keep_path('c', directory, path, 0, NULL);
    if (fd >= 0 && flags & O_TRUNC && !made) keep_fd('t', fd, 0, NULL, 0);
    UNLOCKED;
    BEHIND(what);
    return fd;
}
#define MODE(flags, last) ({ mode_t m_ = 0; if (flags & (O_CREAT | O_TMPFILE)) { va_list l; va_start(l, last); m_ = va_arg(l, int); va_end(l); } m_; })
int open64(const char *path, int flags, ...) { return opens(AT_FDCWD, path, flags, MODE(flags, flags)); }
int open(const char *path, int flags, ...) { return opens(AT_FDCWD, path, flags, MODE(flags, flags)); }
int openat64(int d, const char *path, int flags, ...) { return opens(d, path, flags, MODE(flags, flags)); }
int openat(int d, const char *path, int flags, ...) { return opens(d, path, flags, MODE(flags, flags)); }

#define ON_PATH(name, label, kind_, params, args, directory, path, other_directory, other) \
    int name params {                                                    \
        int kind = kind_, what = strike_path(label, directory, path);                  \
        FAILS(what, -1);                                                 \
        LOCKED;                                                          \
        int done = REAL(name) args;                                      \
        if (!done && kind) keep_path(kind, directory, path, other_directory, other); \
        UNLOCKED;                                                        \
        BEHIND(what);                                                    \
        return done;                                                     \
    }

ON_PATH(unlink, "unlink", 'u', (const char *p), (p), AT_FDCWD, p, 0, NULL)
ON_PATH(unlinkat, "unlink", (f & AT_REMOVEDIR ? 'd' : 'u'), (int d, const char *p, int f), (d, p, f), d, p, 0, NULL)
ON_PATH(rmdir, "rmdir", 'd', (const char *p), (p), AT_FDCWD, p, 0, NULL)
ON_PATH(mkdir, "mkdir", 'm', (const char *p, mode_t m), (p, m), AT_FDCWD, p, 0, NULL)
ON_PATH(mkdirat, "mkdir", 'm', (int d, const char *p, mode_t m), (d, p, m), d, p, 0, NULL)
ON_PATH(rename, "rename", 'r', (const char *p, const char *q), (p, q), AT_FDCWD, p, AT_FDCWD, q)
ON_PATH(renameat, "rename", 'r', (int d, const char *p, int e, const char *q), (d, p, e, q), d, p, e, q)
ON_PATH(link, "link", 'l', (const char *p, const char *q), (p, q), AT_FDCWD, q, AT_FDCWD, p)
ON_PATH(chmod, "chmod", 0, (const char *p, mode_t m), (p, m), AT_FDCWD, p, 0, NULL)

int truncate64(const char *path, off64_t n) {
    int fd = open64(path, O_WRONLY | O_CLOEXEC);
    int done = fd < 0 ? -1 : ftruncate64(fd, n), kept = errno;
    if (fd >= 0) syscall(SYS_close, fd);
    errno = kept;
    return done;
}
int truncate(const char *p, off_t n) { return truncate64(p, n); }
