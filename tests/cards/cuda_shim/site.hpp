// A place in device code where threads meet.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "vectors.hpp"

extern uint3 threadIdx;

namespace cuda_shim {

enum class Meeting : std::uint8_t { sync, shuffle, ballot, match };

struct Site {
  const char* file = nullptr;
  int line = 0;
  int id = 0;

  void sync_block() const;
  // Waits for the lanes of the mask that have not exited. What each gets: of a shuffle
  // the value of lane `source`, of a ballot the lanes whose value is not 0, of a match
  // those whose value is its own.
  std::uint64_t meet(Meeting kind, unsigned mask, std::uint64_t value = 0,
                     unsigned source = 0) const;

  void sync_warp(unsigned mask = 0xffffffffu) const { meet(Meeting::sync, mask); }
  unsigned ballot(unsigned mask, bool predicate) const {
    return static_cast<unsigned>(meet(Meeting::ballot, mask, predicate));
  }
  template <class T>
  unsigned match_any(unsigned mask, T value) const {
    return static_cast<unsigned>(meet(Meeting::match, mask, word(value)));
  }
  // `width` lanes shuffle among themselves: a power of two.
  template <class T>
  T shuffle(unsigned mask, T value, int source, int width = 32) const {
    const unsigned low = static_cast<unsigned>(width) - 1;
    return from(mask, value, (lane() & ~low) | (static_cast<unsigned>(source) & low));
  }
  template <class T>
  T shuffle_xor(unsigned mask, T value, int with, int width = 32) const {
    const unsigned source = lane() ^ static_cast<unsigned>(with);
    return from(mask, value, source <= last(width) ? source : lane());
  }
  template <class T>
  T shuffle_down(unsigned mask, T value, unsigned by, int width = 32) const {
    const unsigned source = lane() + by;
    return from(mask, value, source <= last(width) ? source : lane());
  }
  template <class T>
  T shuffle_up(unsigned mask, T value, unsigned by, int width = 32) const {
    const unsigned first = lane() & ~(static_cast<unsigned>(width) - 1);
    return from(mask, value, lane() >= first + by ? lane() - by : lane());
  }

 private:
  static unsigned lane() { return threadIdx.x % 32; }
  static unsigned last(int width) { return lane() | (static_cast<unsigned>(width) - 1); }
  template <class T>
  static std::uint64_t word(T value) {
    static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8),
                  "CUDA exchanges int, unsigned, long long, float and double");
    std::uint64_t word = 0;
    std::memcpy(&word, &value, sizeof value);
    return word;
  }
  template <class T>
  T from(unsigned mask, T value, unsigned source) const {
    const std::uint64_t got = meet(Meeting::shuffle, mask, word(value), source);
    std::memcpy(&value, &got, sizeof value);
    return value;
  }
};

}  // namespace cuda_shim
