// The calls that the failing disk (faults.c) stands in for.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#include "faults.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

#define FAIL_IF(ASKED)           \
  do {                           \
    const Fault found = (ASKED); \
    if (found.code != 0) {       \
      errno = found.code;        \
      return -1;                 \
    }                            \
  } while (0)

#define TRANSFER(KIND, FILE, SIZE, CALL)            \
  do {                                              \
    const Fault fault = ask_file(KIND, FILE, SIZE); \
    FAIL_IF(fault);                                 \
    SIZE = fault.at_most;                           \
    const ssize_t moved = (CALL);                   \
    if (fault.torn) kill(getpid(), SIGKILL);        \
    return moved;                                   \
  } while (0)

static int open_at(int folder, const char* path, int flags, mode_t mode) {
  const int creates = (flags & (O_CREAT | O_TRUNC)) != 0;
  const Fault fault = ask_path(creates ? CREATE : OPEN, folder, path);
  FAIL_IF(fault);
  return (int)syscall(SYS_openat, folder, path, flags, mode);
}

#define MODE_OF(FLAGS)                     \
  mode_t mode = 0;                         \
  if ((FLAGS) & (O_CREAT | __O_TMPFILE)) { \
    va_list rest;                          \
    va_start(rest, FLAGS);                 \
    mode = va_arg(rest, mode_t);           \
    va_end(rest);                          \
  }

int open(const char* path, int flags, ...) {
  MODE_OF(flags)
  return open_at(AT_FDCWD, path, flags, mode);
}
int open64(const char* path, int flags, ...) {
  MODE_OF(flags)
  return open_at(AT_FDCWD, path, flags, mode);
}
int openat(int folder, const char* path, int flags, ...) {
  MODE_OF(flags)
  return open_at(folder, path, flags, mode);
}
int openat64(int folder, const char* path, int flags, ...) {
  MODE_OF(flags)
  return open_at(folder, path, flags, mode);
}

ssize_t read(int file, void* to, size_t size) {
  TRANSFER(READ, file, size, syscall(SYS_read, file, to, size));
}
ssize_t pread(int file, void* to, size_t size, off_t offset) {
  TRANSFER(READ, file, size, syscall(SYS_pread64, file, to, size, offset));
}
ssize_t pread64(int file, void* to, size_t size, off64_t offset) {
  return pread(file, to, size, offset);
}

ssize_t write(int file, const void* from, size_t size) {
  TRANSFER(WRITE, file, size, syscall(SYS_write, file, from, size));
}
ssize_t pwrite(int file, const void* from, size_t size, off_t offset) {
  TRANSFER(WRITE, file, size, syscall(SYS_pwrite64, file, from, size, offset));
}
ssize_t pwrite64(int file, const void* from, size_t size, off64_t offset) {
  return pwrite(file, from, size, offset);
}
ssize_t sendfile(int to, int from, off_t* offset, size_t size) {
  TRANSFER(WRITE, to, size, syscall(SYS_sendfile, to, from, offset, size));
}
ssize_t sendfile64(int to, int from, off64_t* offset, size_t size) {
  return sendfile(to, from, offset, size);
}
ssize_t copy_file_range(int from, off64_t* read_at, int to, off64_t* write_at,
                        size_t size, unsigned flags) {
  TRANSFER(WRITE, to, size,
           syscall(SYS_copy_file_range, from, read_at, to, write_at, size, flags));
}

// What is mapped of files, so that madvise can be told by its file.
enum { kMappings = 64 };
static struct {
  char* address;
  size_t size;
  char path[PATH_MAX];
} mappings[kMappings];
static atomic_int mapping_count;

void* mmap(void* address, size_t size, int access, int flags, int file, off_t offset) {
  const int watched = file >= 0 && faults_begun();
  if (watched) {
    const Fault fault = ask_file(MAP, file, 0);
    if (fault.code != 0) {
      errno = fault.code;
      return MAP_FAILED;
    }
  }
  const long at = syscall(SYS_mmap, address, size, access, flags, file, (long)offset);
  if (watched && at != -1) {
    const int here = atomic_fetch_add(&mapping_count, 1) % kMappings;
    mappings[here].address = (char*)at;
    mappings[here].size = size;
    path_of(file, mappings[here].path);
  }
  return (void*)at;
}
void* mmap64(void* address, size_t size, int access, int flags, int file,
             off64_t offset) {
  return mmap(address, size, access, flags, file, offset);
}
int madvise(void* address, size_t size, int advice) {
  const int done = (int)syscall(SYS_madvise, address, size, advice);
  if (advice != MADV_POPULATE_READ || done != 0) return done;
  for (int i = 0; i < kMappings; ++i) {
    const char* const begin = mappings[i].address;
    if ((char*)address >= begin && (char*)address < begin + mappings[i].size) {
      ask_path(POPULATE, AT_FDCWD, mappings[i].path);
      break;
    }
  }
  return 0;
}

int fallocate(int file, int mode, off_t offset, off_t size) {
  FAIL_IF(ask_file(ALLOCATE, file, 0));
  return (int)syscall(SYS_fallocate, file, mode, offset, size);
}
int fallocate64(int file, int mode, off64_t offset, off64_t size) {
  return fallocate(file, mode, offset, size);
}
int posix_fallocate(int file, off_t offset, off_t size) {  // returns its error
  return fallocate(file, 0, offset, size) == 0 ? 0 : errno;
}
int posix_fallocate64(int file, off64_t offset, off64_t size) {
  return posix_fallocate(file, offset, size);
}

int ftruncate(int file, off_t size) {
  FAIL_IF(ask_file(TRUNCATE, file, 0));
  return (int)syscall(SYS_ftruncate, file, size);
}
int ftruncate64(int file, off64_t size) { return ftruncate(file, size); }

int rename(const char* from, const char* to) {
  FAIL_IF(ask_path(RENAME, AT_FDCWD, from));
  return (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}
int renameat(int from_folder, const char* from, int to_folder, const char* to) {
  FAIL_IF(ask_path(RENAME, from_folder, from));
  return (int)syscall(SYS_renameat2, from_folder, from, to_folder, to, 0);
}

int unlink(const char* path) {
  FAIL_IF(ask_path(UNLINK, AT_FDCWD, path));
  return (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
}
int rmdir(const char* path) {
  FAIL_IF(ask_path(UNLINK, AT_FDCWD, path));
  return (int)syscall(SYS_unlinkat, AT_FDCWD, path, AT_REMOVEDIR);
}
int unlinkat(int folder, const char* path, int flags) {
  FAIL_IF(ask_path(UNLINK, folder, path));
  return (int)syscall(SYS_unlinkat, folder, path, flags);
}
int mkdir(const char* path, mode_t mode) {
  FAIL_IF(ask_path(MKDIR, AT_FDCWD, path));
  return (int)syscall(SYS_mkdirat, AT_FDCWD, path, mode);
}

int fsync(int file) {
  FAIL_IF(ask_file(SYNC, file, 0));
  return (int)syscall(SYS_fsync, file);
}
int fdatasync(int file) {
  FAIL_IF(ask_file(SYNC, file, 0));
  return (int)syscall(SYS_fdatasync, file);
}
int flock(int file, int operation) {
  FAIL_IF(ask_file(LOCK, file, 0));
  return (int)syscall(SYS_flock, file, operation);
}
