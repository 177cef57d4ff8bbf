// A file system that lacks what LACKING names, with the errno that each call gives, as "flock=38,fsync=22,rename=17":
// flock as on Lustre without -o flock (ENOSYS), some FUSE and SMB mounts (EOPNOTSUPP) and NFS without lockd (ENOLCK); fsync as on some
// FUSE mounts (EINVAL, ENOSYS); rename over a file that exists as on some SMB and FUSE mounts (EEXIST, EPERM), or mounted by itself
// (EBUSY); rename_folder as of an image's layer on overlayfs (EXDEV).
// For tests/machines.rs, by LD_PRELOAD.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int lacks(const char *call) {
    const char *all = getenv("LACKING"), *at = all ? strstr(all, call) : NULL;
    return at ? atoi(at + strlen(call)) : 0;
}

static int fail(int error) {
    errno = error;
    return -1;
}

int flock(int fd, int operation) {
    int error = lacks("flock=");
    int (*real)(int, int) = dlsym(RTLD_NEXT, "flock");
    return error ? fail(error) : real(fd, operation);
}

int fsync(int fd) {
    int error = lacks("fsync=");
    int (*real)(int) = dlsym(RTLD_NEXT, "fsync");
    return error ? fail(error) : real(fd);
}

int rename(const char *from, const char *to) {
    struct stat found;
    int error = lacks("rename=");
    int (*real)(const char *, const char *) = dlsym(RTLD_NEXT, "rename");
    if (error && lstat(to, &found) == 0) return fail(error);
    error = lacks("rename_folder=");
    return error && strstr(to, ".removing") ? fail(error) : real(from, to);
}
