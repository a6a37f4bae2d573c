// A failing disk, as a library to be preloaded: short transfers, EINTR, EIO, ENOSPC, and
// a process that is killed or stopped at its n-th call.
//
//   FAULTS_UNDER  a folder: only calls on paths below it count (Python's own stay out)
//   FAULTS_RULES  rules with a comma between: KIND[:PART]@FIRST[-]=ACTION
//   FAULTS_LOG    a file that gets a line "KIND PATH" before every call (optional)
//
//   KIND    open create read write allocate truncate rename unlink mkdir sync lock map
//           populate (a mapped file's pages; asked when it is done, with no error to
//           give); any: all of these; change: all but open, read, lock, map and populate
//   PART    only paths that contain it count
//   FIRST   the number of the matching call, from 1; with "-" all later ones too
//   ACTION  an errno's name: the call fails with it, and nothing has happened;
//           short: at most a third of the bytes; flaky: short or EINTR, mixed;
//           torn: half of a write, then SIGKILL; kill: SIGKILL before the call;
//           stop: SIGSTOP before the call; cut: its file is cut to 4096 bytes before it
//
// A process that sets the variables after its start calls faults_begin().
// To add a call (ioctl FICLONERANGE, say): a Kind, its name, a wrapper in calls.c.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#include "faults.h"

static const char* const kNames[KINDS] = {
    "open",   "create", "read", "write", "allocate", "truncate", "rename",
    "unlink", "mkdir",  "sync", "lock",  "map",      "populate"};
static const struct {
  const char* name;
  int code;
} kErrors[] = {{"EINTR", EINTR},           {"EIO", EIO},       {"ENOSPC", ENOSPC},
               {"EDQUOT", EDQUOT},         {"EACCES", EACCES}, {"EROFS", EROFS},
               {"EOPNOTSUPP", EOPNOTSUPP}, {"ENOLCK", ENOLCK}, {"ENODEV", ENODEV}};

typedef struct {
  char kind[16], part[128], action[16];
  long first;
  int open_ended;
  atomic_long count;
} Rule;

enum { kRules = 8 };
static Rule rules[kRules];
static int rule_count;
static char under[PATH_MAX];
static int log_file = -1;

__attribute__((constructor)) void faults_begin(void) {
  const char* folder = getenv("FAULTS_UNDER");
  rule_count = 0;
  if (folder == NULL) return;
  snprintf(under, sizeof under, "%s/", folder);
  const char* log = getenv("FAULTS_LOG");
  if (log != NULL) {
    log_file = (int)syscall(SYS_openat, AT_FDCWD, log,
                            O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  }
  char text[1024];
  const char* given = getenv("FAULTS_RULES");
  snprintf(text, sizeof text, "%s", given != NULL ? given : "");
  char* rest = NULL;
  for (char* one = strtok_r(text, ",", &rest); one != NULL;
       one = strtok_r(NULL, ",", &rest)) {
    char *at = strrchr(one, '@'), *equals = strrchr(one, '=');
    if (at == NULL || equals == NULL || rule_count == kRules)
      abort();  // a test's own mistake
    *at = *equals = '\0';
    Rule* rule = &rules[rule_count++];
    memset(rule, 0, sizeof *rule);
    char* colon = strchr(one, ':');
    if (colon != NULL) {
      *colon = '\0';
      snprintf(rule->part, sizeof rule->part, "%s", colon + 1);
    }
    snprintf(rule->kind, sizeof rule->kind, "%s", one);
    snprintf(rule->action, sizeof rule->action, "%s", equals + 1);
    rule->first = atol(at + 1);
    rule->open_ended = at[strlen(at + 1)] == '-';
  }
}

int faults_begun(void) { return under[0] != '\0'; }

static int matches(const Rule* rule, Kind kind, const char* path) {
  const int changes =
      kind != READ && kind != LOCK && kind != OPEN && kind != MAP && kind != POPULATE;
  if (strcmp(rule->kind, "any") != 0 && strcmp(rule->kind, kNames[kind]) != 0 &&
      !(changes && strcmp(rule->kind, "change") == 0)) {
    return 0;
  }
  return strstr(path + strlen(under), rule->part) != NULL;
}

static void act(const Rule* rule, long count, Kind kind, const char* path, size_t size,
                Fault* fault) {
  const char* action = rule->action;
  const size_t third = size / 3 > 0 ? size / 3 : 1;
  const unsigned long hash = (unsigned long)count * 0x9E3779B97F4A7C15UL >> 60;
  const int transfers = kind == READ || kind == WRITE;
  if (strcmp(action, "kill") == 0) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
  } else if (strcmp(action, "stop") == 0) {
    kill(getpid(), SIGSTOP);
  } else if (strcmp(action, "cut") == 0) {
    if (syscall(SYS_truncate, path, 4096L) != 0) abort();
  } else if (strcmp(action, "torn") == 0) {
    fault->at_most = size / 2;
    fault->torn = 1;
  } else if (strcmp(action, "short") == 0) {
    if (transfers) fault->at_most = third;
  } else if (strcmp(action, "flaky") == 0) {
    // Those calls never return EINTR, and no caller expects it.
    const int interruptible = kind != RENAME && kind != UNLINK && kind != MKDIR;
    if (hash % 2 == 0 && interruptible) fault->code = EINTR;
    if (hash % 4 == 1 && transfers) fault->at_most = third;
  } else {
    for (size_t i = 0; i < sizeof kErrors / sizeof kErrors[0]; ++i) {
      if (strcmp(action, kErrors[i].name) == 0) fault->code = kErrors[i].code;
    }
    if (fault->code == 0) abort();
  }
}

static Fault ask(Kind kind, const char* path, size_t size) {
  Fault fault = {0, size, 0};
  if (under[0] == '\0' || strncmp(path, under, strlen(under)) != 0) return fault;
  if (log_file >= 0) {
    char line[PATH_MAX + 16];
    const int length =
        snprintf(line, sizeof line, "%s %s\n", kNames[kind], path + strlen(under));
    syscall(SYS_write, log_file, line, (size_t)length);
  }
  for (int i = 0; i < rule_count; ++i) {
    if (!matches(&rules[i], kind, path)) continue;
    const long count = atomic_fetch_add(&rules[i].count, 1) + 1;
    if (count == rules[i].first || (count > rules[i].first && rules[i].open_ended)) {
      act(&rules[i], count, kind, path, size, &fault);
    }
  }
  return fault;
}

static void link_of(const char* link, char* path) {
  const ssize_t length =
      syscall(SYS_readlinkat, AT_FDCWD, link, path, (size_t)PATH_MAX - 1);
  path[length > 0 ? length : 0] = '\0';
}

void path_of(int file, char* path) {
  char link[64];
  const int before = errno;
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  link_of(link, path);
  errno = before;
}

// Before faults_begin a sanitizer may be starting, whose functions cannot be called yet.
Fault ask_file(Kind kind, int file, size_t size) {
  if (!faults_begun()) return (Fault){0, size, 0};
  char path[PATH_MAX];
  path_of(file, path);
  return ask(kind, path, size);
}

Fault ask_path(Kind kind, int folder, const char* path) {
  if (!faults_begun()) return (Fault){0, 0, 0};
  char link[64], whole[2 * PATH_MAX] = "";
  const int before = errno;
  if (path[0] != '/') {
    snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
    link_of(folder == AT_FDCWD ? "/proc/self/cwd" : link, whole);
    strcat(whole, "/");
  }
  strncat(whole, path, PATH_MAX - 1);
  errno = before;
  return ask(kind, whole, 0);
}
