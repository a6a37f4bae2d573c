#include "files/bus_errors.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <csignal>
#include <cstddef>

namespace tvmerge {
namespace {

// The ranges of the process, and who takes a bus error that is in none of them.
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
  ~Locked() { taken_.clear(std::memory_order_release); }

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

void handle(int signal, siginfo_t* info, void* context) {
  if (cover(info->si_addr)) return;
  if ((former.sa_flags & SA_SIGINFO) != 0) {
    former.sa_sigaction(signal, info, context);
  } else if (former.sa_handler == SIG_DFL || former.sa_handler == SIG_IGN) {
    // The error comes again when this returns, and ends the process as it would have.
    ::sigaction(SIGBUS, &former, nullptr);
  } else {
    former.sa_handler(signal);
  }
}

// The caller holds the lock. Others (Python's faulthandler) may have put theirs in its
// place since the last time.
void install() {
  struct sigaction now = {};
  if (::sigaction(SIGBUS, nullptr, &now) != 0) return;
  if ((now.sa_flags & SA_SIGINFO) != 0 && now.sa_sigaction == handle) return;
  former = now;
  struct sigaction ours = {};
  ours.sa_sigaction = handle;
  ours.sa_flags = SA_SIGINFO | SA_ONSTACK;
  ::sigemptyset(&ours.sa_mask);
  ::sigaction(SIGBUS, &ours, nullptr);
}

}  // namespace

BusErrors::BusErrors(void* begin, std::size_t size_bytes)
    : begin_(static_cast<char*>(begin)), end_(begin_ + size_bytes) {
  const Locked locked;
  install();
  next_ = first;
  if (next_ != nullptr) next_->previous_ = this;
  first = this;
}

BusErrors::~BusErrors() {
  const Locked locked;
  (previous_ != nullptr ? previous_->next_ : first) = next_;
  if (next_ != nullptr) next_->previous_ = previous_;
}

}  // namespace tvmerge
