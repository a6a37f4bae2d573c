// A card: its memory, and the work it is given. Nothing here knows CUDA: cuda/card.cu
// does, and no_cuda.cpp stands in for it in a build without.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/kernels.hpp"

namespace tvmerge {

struct CardInfo {
  int index;
  std::string name;
  int major, minor;  // compute capability
  std::uint64_t free_bytes, total_bytes;
  std::string problem;  // why it cannot be used; empty if it can
};

// Why no card can be used (no build, no driver, no card); empty where `cards` has some.
std::string cuda_problem();
std::vector<CardInfo> cards();

// Counts of the keys of a slice (select.hpp), all in memory of the card. `ties` has one
// counter for every kSumElements; keys in [low, high] go to bin (key - low) >> shift.
struct CardScan {
  RankedSlice slice;
  std::uint32_t low, high, tie;
  unsigned shift;
  std::uint64_t* above;
  std::uint32_t* ties;
  std::uint32_t* bins;
};

// A range that stands at `position` of a file, and the digest of that file (digest.hpp).
struct CardDigest {
  const void* data;
  std::size_t size_bytes;
  std::uint64_t position;
  std::uint64_t* lanes;
};

// What one thread asks of a card: done in order, some time after the call, which returns
// at once. All slices lie in memory of the card (the arrays that list their terms do
// not); the arithmetic is that of Kernels, bit for bit. Throws Error(card).
class Stream {
 public:
  virtual ~Stream() = default;
  // `host` is pinned, and is left alone until `wait`.
  virtual void copy_in(void* device, const void* host, std::size_t size_bytes) = 0;
  virtual void copy_out(void* host, const void* device, std::size_t size_bytes) = 0;
  virtual void clear(void* device, std::size_t size_bytes) = 0;

  virtual void combine(const CombineSlice& slice) = 0;
  virtual void consensus(const ConsensusSlice& slice) = 0;
  virtual void digest(const std::vector<CardDigest>& ranges) = 0;
  // `gram` and `nonzero` have one matrix and one row of counts for every kSumElements;
  // `room` is what measure_room says.
  virtual void measure(const MeasureSlice& slice, void* room) = 0;
  virtual void scan(const CardScan& scan) = 0;
  // `sums` has one result per part for every kSumElements; `room` is what delta_room
  // says.
  virtual void delta_sums(const DeltaSlice& slice, bool counted, void* room) = 0;

  // Returns when all that was asked for is done.
  virtual void wait() = 0;
};

// What a stream needs beside a slice of `count` elements to reduce it.
std::uint64_t measure_room(std::uint64_t rows, std::uint64_t count);
std::uint64_t delta_room(std::uint64_t parts, std::uint64_t count);

class CardMemory {
 public:
  virtual ~CardMemory() = default;
  [[nodiscard]] unsigned char* data() const { return data_; }
  [[nodiscard]] std::uint64_t size_bytes() const { return size_bytes_; }

 protected:
  unsigned char* data_ = nullptr;
  std::uint64_t size_bytes_ = 0;
};

class Card {
 public:
  virtual ~Card() = default;
  // Throws Error(card) that says why it cannot be used.
  static std::unique_ptr<Card> open(int index);

  [[nodiscard]] virtual const CardInfo& info() const = 0;
  [[nodiscard]] virtual std::unique_ptr<Stream> make_stream() = 0;
  // Null where the card, or the system, has no such memory left.
  [[nodiscard]] virtual std::unique_ptr<CardMemory> allocate(std::uint64_t bytes) = 0;
  [[nodiscard]] virtual std::unique_ptr<CardMemory> allocate_pinned(
      std::uint64_t bytes) = 0;
};

}  // namespace tvmerge
