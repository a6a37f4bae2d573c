// Digests of bytes that lie in memory; digest.hpp says what they are.
#pragma once

#include <algorithm>
#include <cstring>

#include "core/digest.hpp"

namespace tvmerge::TVMERGE_ISA {
namespace {

constexpr std::size_t kLongs = TVMERGE_VECTOR_BYTES / sizeof(std::uint64_t);
constexpr std::size_t kStripeRegisters = kStripeBytes / TVMERGE_VECTOR_BYTES;

// What one register in `StepBytes` adds to a digest: the first one is part `part` of the
// stripe at `position`.
template <std::size_t StepBytes>
struct DigestRegister {
  Longs products{}, words{}, keys;

  void begin(std::uint64_t position, std::size_t part) {
    std::memcpy(&keys, kDigestKeys + part * kLongs, sizeof keys);
    keys += position * kDigestStep;
  }
  inline void add(const unsigned char* data) {
    Longs word;
    std::memcpy(&word, data, sizeof word);
    products += product_of_halves(word ^ keys);
    words += word;
    keys += StepBytes * kDigestStep;
  }
};

// `registers`: a whole stripe, one behind the other.
template <std::size_t StepBytes>
void add_stripe(const DigestRegister<StepBytes>* registers, std::uint64_t* lanes) {
  std::uint64_t product[kDigestLanes], word[kDigestLanes];
  for (std::size_t r = 0; r < kStripeRegisters; ++r) {
    std::memcpy(product + r * kLongs, &registers[r].products, sizeof(Longs));
    std::memcpy(word + r * kLongs, &registers[r].words, sizeof(Longs));
  }
  for (std::size_t lane = 0; lane < kDigestLanes; ++lane)
    lanes[lane] += product[lane] + word[lane ^ 1];
}

// Blocks of so many registers, whole stripes. Each register of a block has keys and sums
// of its own: in one chain every addition waits for the one before it.
template <std::size_t Registers>
void digest_blocks(const unsigned char* data, std::size_t blocks, std::uint64_t position,
                   std::uint64_t* lanes) {
  constexpr std::size_t kBlockBytes = Registers * TVMERGE_VECTOR_BYTES;
  DigestRegister<kBlockBytes> held[Registers];
  for (std::size_t r = 0; r < Registers; ++r) {
    const std::size_t stripe = r / kStripeRegisters, part = r % kStripeRegisters;
    held[r].begin(position + stripe * kStripeBytes, part);
  }
  for (std::size_t b = 0; b < blocks; ++b, data += kBlockBytes) {
    for (std::size_t r = 0; r < Registers; ++r)
      held[r].add(data + r * TVMERGE_VECTOR_BYTES);
  }
  for (std::size_t r = 0; r < Registers; r += kStripeRegisters)
    add_stripe(held + r, lanes);
}

// A tensor's last stripe is padded with zeros.
void digest(const void* data, std::size_t size_bytes, std::uint64_t position,
            std::uint64_t* lanes) {
  // Keys and sums of four fill 12 of the 16 registers that AVX2 has.
  constexpr std::size_t kAtOnce = 4, kBlockBytes = kAtOnce * TVMERGE_VECTOR_BYTES;
  const auto* const bytes = static_cast<const unsigned char*>(data);
  const std::size_t blocks = size_bytes / kBlockBytes;
  digest_blocks<kAtOnce>(bytes, blocks, position, lanes);
  for (std::size_t at = blocks * kBlockBytes; at < size_bytes; at += kStripeBytes) {
    unsigned char stripe[kStripeBytes]{};
    std::memcpy(stripe, bytes + at, std::min(kStripeBytes, size_bytes - at));
    digest_blocks<kStripeRegisters>(stripe, 1, position + at, lanes);
  }
}

}  // namespace
}  // namespace tvmerge::TVMERGE_ISA
