#include "files/bus_errors.hpp"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <csignal>
#include <cstddef>

namespace tvmerge {
namespace {

// The ranges of the process, and who takes what is in none of them.
BusErrors* first = nullptr;
struct sigaction former = {};

// A signal handler may not wait for a mutex. No thread that holds this touches a mapped
// file, so none can meet itself in the handler.
class Locked {
 public:
  Locked() {
    while (taken_.test_and_set(std::memory_order_acquire)) {
    }
  }
  Locked(const Locked&) = delete;
  Locked& operator=(const Locked&) = delete;
  ~Locked() { free(); }
  static void free() { taken_.clear(std::memory_order_release); }

 private:
  static inline std::atomic_flag taken_ = ATOMIC_FLAG_INIT;
};

}  // namespace

// False where the address is nobody's.
bool cover(void* address) {
  const Locked locked;
  for (BusErrors* range = first; range != nullptr; range = range->next_) {
    if (address < range->begin_ || address >= range->end_) continue;
    const std::ptrdiff_t page = ::getpagesize();
    char* const at =
        range->begin_ + (static_cast<char*>(address) - range->begin_) / page * page;
    range->happened_ = true;
    return ::mmap(at, static_cast<std::size_t>(page), PROT_READ,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED;
  }
  return false;
}

namespace {

// The threads that are handing a signal on, and that have done so last. No thread_local:
// a library that is loaded late has none that needs no allocation.
std::atomic<pid_t> passing{0}, passed{0};

bool is_function(const struct sigaction& action) {
  return (action.sa_flags & SA_SIGINFO) != 0 ||
         (action.sa_handler != SIG_DFL && action.sa_handler != SIG_IGN);
}

void handle(int signal, siginfo_t* info, void* context) {
  const bool sent = info->si_code <= 0;  // by a process: no address came with it
  if (!sent && cover(info->si_addr)) return;
  const pid_t thread = ::gettid();
  // Whoever was there before may send the signal again, or call us: once is enough.
  if (!is_function(former) || passing == thread || (sent && passed == thread)) {
    struct sigaction end = {};
    end.sa_handler = sent && former.sa_handler == SIG_IGN ? SIG_IGN : SIG_DFL;
    ::sigaction(signal, &end, nullptr);
    if (sent) ::raise(signal);  // A fault comes again by itself.
    return;
  }
  passing = passed = thread;
  if ((former.sa_flags & SA_SIGINFO) != 0) {
    former.sa_sigaction(signal, info, context);
  } else {
    former.sa_handler(signal);
  }
  passing = 0;
}

bool is_ours(const struct sigaction& action) {
  return (action.sa_flags & SA_SIGINFO) != 0 && action.sa_sigaction == handle;
}

// The caller holds the lock, as for `uninstall`.
void install() {
  static const bool forks = ::pthread_atfork(nullptr, nullptr, Locked::free) == 0;
  static_cast<void>(forks);
  struct sigaction now = {};
  if (::sigaction(SIGBUS, nullptr, &now) != 0 || is_ours(now)) return;
  former = now;
  struct sigaction ours = {};
  ours.sa_sigaction = handle;
  ours.sa_flags = SA_SIGINFO | SA_ONSTACK;
  ::sigemptyset(&ours.sa_mask);
  ::sigaction(SIGBUS, &ours, nullptr);
}

void uninstall() {
  struct sigaction now = {};
  if (::sigaction(SIGBUS, nullptr, &now) == 0 && is_ours(now))
    ::sigaction(SIGBUS, &former, nullptr);
}

}  // namespace

BusErrors::BusErrors(void* begin, std::size_t size_bytes)
    : begin_(static_cast<char*>(begin)), end_(begin_ + size_bytes) {
  const Locked locked;
  if (first == nullptr) install();
  next_ = first;
  if (next_ != nullptr) next_->previous_ = this;
  first = this;
}

BusErrors::~BusErrors() {
  const Locked locked;
  (previous_ != nullptr ? previous_->next_ : first) = next_;
  if (next_ != nullptr) next_->previous_ = previous_;
  if (first == nullptr) uninstall();
}

}  // namespace tvmerge
