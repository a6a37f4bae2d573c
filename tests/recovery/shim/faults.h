// What the wrapped calls (calls.c) ask of the rules (faults.c).
#pragma once

#include <stddef.h>

typedef enum {
  OPEN,
  CREATE,
  READ,
  WRITE,
  ALLOCATE,
  TRUNCATE,
  RENAME,
  UNLINK,
  MKDIR,
  SYNC,
  LOCK,
  MAP,
  POPULATE,
  KINDS
} Kind;
typedef struct {
  int code;        // the errno to fail with; 0: go on
  size_t at_most;  // bytes to transfer
  int torn;        // SIGKILL after the transfer
} Fault;

// What shall happen to a call: on an open file, for a transfer of `size` bytes, or on a
// path as openat takes it.
Fault ask_file(Kind kind, int file, size_t size);
Fault ask_path(Kind kind, int folder, const char* path);
// Whether there is a folder to watch.
int faults_begun(void);
// The path of an open file, in room for PATH_MAX.
void path_of(int file, char* path);
