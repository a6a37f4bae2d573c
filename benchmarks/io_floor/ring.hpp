// A queue of reads in flight: io_uring through its system calls, so that nothing needs to
// be installed. One thread uses one ring.
#pragma once

#include <linux/io_uring.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>

class Ring {
 public:
  explicit Ring(unsigned entries) {
    io_uring_params setup{};
    descriptor_ = static_cast<int>(::syscall(SYS_io_uring_setup, entries, &setup));
    if (descriptor_ < 0) {
      throw std::runtime_error(std::string("io_uring_setup: ") + std::strerror(errno));
    }
    char* const submissions =
        map(setup.sq_off.array + setup.sq_entries * sizeof(unsigned), IORING_OFF_SQ_RING);
    char* const completions = map(
        setup.cq_off.cqes + setup.cq_entries * sizeof(io_uring_cqe), IORING_OFF_CQ_RING);
    requests_ = reinterpret_cast<io_uring_sqe*>(
        map(setup.sq_entries * sizeof(io_uring_sqe), IORING_OFF_SQES));
    sq_tail_ = reinterpret_cast<unsigned*>(submissions + setup.sq_off.tail);
    sq_mask_ = *reinterpret_cast<unsigned*>(submissions + setup.sq_off.ring_mask);
    sq_array_ = reinterpret_cast<unsigned*>(submissions + setup.sq_off.array);
    cq_head_ = reinterpret_cast<unsigned*>(completions + setup.cq_off.head);
    cq_tail_ = reinterpret_cast<unsigned*>(completions + setup.cq_off.tail);
    cq_mask_ = *reinterpret_cast<unsigned*>(completions + setup.cq_off.ring_mask);
    results_ = reinterpret_cast<io_uring_cqe*>(completions + setup.cq_off.cqes);
  }
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;
  ~Ring() { ::close(descriptor_); }  // The maps go with the process.

  void read(int file, void* to, std::uint32_t size_bytes, std::uint64_t offset_bytes,
            std::uint64_t tag) {
    const unsigned tail = *sq_tail_;
    io_uring_sqe& request = requests_[tail & sq_mask_];
    std::memset(&request, 0, sizeof request);
    request.opcode = IORING_OP_READ;
    request.fd = file;
    request.addr = reinterpret_cast<std::uint64_t>(to);
    request.len = size_bytes;
    request.off = offset_bytes;
    request.user_data = tag;
    sq_array_[tail & sq_mask_] = tail & sq_mask_;
    __atomic_store_n(sq_tail_, tail + 1, __ATOMIC_RELEASE);
    ++unsubmitted_;
  }

  // Hands over what was queued; with `wait`, returns when something has been completed.
  void enter(bool wait) {
    const unsigned flags = wait ? IORING_ENTER_GETEVENTS : 0;
    while (true) {
      const long done = ::syscall(SYS_io_uring_enter, descriptor_, unsubmitted_,
                                  wait ? 1u : 0u, flags, nullptr, 0);
      if (done < 0 && errno == EINTR) continue;
      if (done < 0) {
        throw std::runtime_error(std::string("io_uring_enter: ") + std::strerror(errno));
      }
      unsubmitted_ -= static_cast<unsigned>(done);
      return;
    }
  }

  // Takes one completion, if there is one: its tag and the bytes read (or -errno).
  bool take(std::uint64_t& tag, int& result) {
    const unsigned head = *cq_head_;
    if (head == __atomic_load_n(cq_tail_, __ATOMIC_ACQUIRE)) return false;
    tag = results_[head & cq_mask_].user_data;
    result = results_[head & cq_mask_].res;
    __atomic_store_n(cq_head_, head + 1, __ATOMIC_RELEASE);
    return true;
  }

 private:
  char* map(std::size_t size_bytes, std::uint64_t what) const {
    void* const at =
        ::mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
               descriptor_, static_cast<off_t>(what));
    if (at == MAP_FAILED) throw std::runtime_error("io_uring: mmap failed");
    return static_cast<char*>(at);
  }

  int descriptor_ = -1;
  unsigned unsubmitted_ = 0;
  io_uring_sqe* requests_ = nullptr;
  io_uring_cqe* results_ = nullptr;
  unsigned *sq_tail_ = nullptr, *sq_array_ = nullptr, *cq_head_ = nullptr,
           *cq_tail_ = nullptr;
  unsigned sq_mask_ = 0, cq_mask_ = 0;
};
