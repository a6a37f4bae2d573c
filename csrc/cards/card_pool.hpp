// A card's memory cut into blocks, which keep what was read for those who read it again,
// and the pinned memory through which it comes.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "cards/card.hpp"
#include "cards/gpudirect.hpp"
#include "engine/engine.hpp"

namespace tvmerge {

class CardPool {
 public:
  // Takes `memory_bytes` of the card, or half of it and so on where it has less left.
  // `cufile` is the library by which it reads files itself, where it is to do so.
  CardPool(int index, std::uint64_t memory_bytes, const std::string& cufile = {});

  [[nodiscard]] Card& card() { return *card_; }
  [[nodiscard]] std::uint64_t memory_bytes() const { return memory_->size_bytes(); }
  // Files that are read so, opened once and kept until `forget`; a null for each of those
  // that cannot be. Not for several threads.
  DirectFiles direct_files(const std::vector<std::string>& paths);
  // A range of a file into a block, by the card itself; and how much has come so.
  void read(const DirectFile& file, unsigned char* to, std::uint64_t size_bytes,
            std::uint64_t offset_bytes);
  [[nodiscard]] std::uint64_t direct_bytes() const { return direct_bytes_; }

  // Makes ready for a run that has `in_use` blocks of `block_bytes` in use at once, and
  // `extra_bytes` of its own memory, which it gets. What is kept stays where it can.
  // Throws Error(memory) where there is no room for one block.
  unsigned char* prepare(std::uint64_t block_bytes, std::uint64_t extra_bytes);
  // How many blocks there are.
  [[nodiscard]] std::size_t block_count() const { return block_count_; }
  // Pinned memory of the host, kept for the next run; null where there is none.
  unsigned char* pinned(std::uint64_t bytes);
  [[nodiscard]] std::uint64_t pinned_bytes() const {
    return pinned_ ? pinned_->size_bytes() : 0;
  }

  // A block that holds `key`, or one that holds nothing of use (`held` says which); an
  // empty key is never held. Any thread may call it that has given back what it took.
  struct Taken {
    unsigned char* block;
    bool held;
  };
  Taken take(const std::string& key);
  // The block holds `key` now; it is kept if there is no need for its room, unless the
  // key is empty.
  void give_back(unsigned char* block, const std::string& key);
  // Nothing that is kept is of use any more, and nobody uses it.
  void forget();

 private:
  std::unique_ptr<Card> card_;
  const CuFile* cufile_;
  std::unique_ptr<CardMemory> memory_, pinned_;
  std::map<std::string, std::unique_ptr<DirectFile>> direct_files_;
  std::atomic<std::uint64_t> direct_bytes_{0};
  std::uint64_t block_bytes_ = 0, extra_bytes_ = 0;
  std::size_t block_count_ = 0;
  std::mutex mutex_;
  std::vector<unsigned char*> free_;
  std::map<std::string, unsigned char*> kept_;
  std::vector<std::string> order_;  // of what is kept, oldest first
};

// The files that cards read by themselves, if they do.
DirectFiles direct_files(const Options& options, const std::vector<std::string>& paths);

}  // namespace tvmerge
