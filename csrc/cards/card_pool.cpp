#include "cards/card_pool.hpp"

#include <algorithm>

#include "core/error.hpp"

namespace tvmerge {
namespace {

constexpr std::uint64_t kLeastBytes = std::uint64_t{64} * 1024 * 1024;
constexpr std::uint64_t kAlignment = 256;
// Of a file that is read so: ours, one for the rest of it, and the library's.
constexpr std::size_t kDescriptorsEach = 3;
// What runs get beside their blocks, at first: enough for most, so that blocks stay.
constexpr std::uint64_t kMostExtraBytes = std::uint64_t{512} * 1024 * 1024;

}  // namespace

CardPool::CardPool(int index, std::uint64_t memory_bytes, const std::string& cufile)
    : card_(Card::open(index)), cufile_(cufile.empty() ? nullptr : &load_cufile(cufile)) {
  for (std::uint64_t bytes = memory_bytes; !memory_; bytes /= 2) {
    if (bytes != 0) memory_ = card_->allocate(bytes);
    if (!memory_ && bytes / 2 < std::min(kLeastBytes, memory_bytes + 1))
      throw Error(ErrorKind::memory, card_->info().name + ": no memory left for " +
                                         std::to_string(bytes) + " bytes");
  }
  extra_bytes_ =
      std::min(kMostExtraBytes, memory_->size_bytes() / 4) / kAlignment * kAlignment;
}

unsigned char* CardPool::prepare(std::uint64_t block_bytes, std::uint64_t extra_bytes) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto rounded = [](std::uint64_t bytes) {
    return (bytes + kAlignment - 1) / kAlignment * kAlignment;
  };
  block_bytes = std::max(rounded(block_bytes), block_bytes_);
  extra_bytes = std::max(rounded(extra_bytes), extra_bytes_);
  if (block_bytes == block_bytes_ && extra_bytes == extra_bytes_) return memory_->data();
  const std::uint64_t whole = memory_->size_bytes();
  if (extra_bytes + block_bytes > whole) {
    throw Error(ErrorKind::memory,
                card_->info().name + ": " + std::to_string(whole) +
                    " bytes of its memory may be used, this merge needs at least " +
                    std::to_string(extra_bytes + block_bytes) +
                    ": raise --memory-device, or use --device cpu");
  }
  block_bytes_ = block_bytes;
  extra_bytes_ = extra_bytes;
  block_count_ = (whole - extra_bytes) / block_bytes;
  kept_.clear();
  order_.clear();
  free_.clear();
  for (std::size_t b = 0; b < block_count_; ++b)
    free_.push_back(memory_->data() + extra_bytes + b * block_bytes);
  return memory_->data();
}

unsigned char* CardPool::pinned(std::uint64_t bytes) {
  if (!pinned_ || pinned_->size_bytes() < bytes) {
    pinned_.reset();
    pinned_ = card_->allocate_pinned(bytes);
  }
  return pinned_ ? pinned_->data() : nullptr;
}

DirectFiles CardPool::direct_files(const std::vector<std::string>& paths) {
  DirectFiles files(paths.size(), nullptr);
  if (cufile_ == nullptr) return files;
  reserve_descriptors(kDescriptorsEach * paths.size());
  for (std::size_t f = 0; f < paths.size(); ++f) {
    auto [held, is_new] = direct_files_.try_emplace(paths[f]);
    if (is_new) held->second = DirectFile::open(*cufile_, paths[f]);
    files[f] = held->second.get();
  }
  return files;
}

void CardPool::read(const DirectFile& file, unsigned char* to, std::uint64_t size_bytes,
                    std::uint64_t offset_bytes) {
  file.read(memory_->data(), static_cast<std::uint64_t>(to - memory_->data()), size_bytes,
            offset_bytes);
  direct_bytes_ += size_bytes;
}

CardPool::Taken CardPool::take(const std::string& key) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (const auto found = kept_.find(key); found != kept_.end()) {
    unsigned char* const block = found->second;
    kept_.erase(found);
    order_.erase(std::find(order_.begin(), order_.end(), key));
    return {block, true};
  }
  if (free_.empty()) {
    // The latest goes: who comes again begins with the oldest.
    if (order_.empty()) throw Error(ErrorKind::memory, "a card has no block left");
    const auto latest = kept_.find(order_.back());
    free_.push_back(latest->second);
    kept_.erase(latest);
    order_.pop_back();
  }
  unsigned char* const block = free_.back();
  free_.pop_back();
  return {block, false};
}

void CardPool::give_back(unsigned char* block, const std::string& key) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!key.empty() && kept_.emplace(key, block).second) {
    order_.push_back(key);
  } else {
    free_.push_back(block);
  }
}

void CardPool::forget() {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (const auto& [key, block] : kept_) free_.push_back(block);
  kept_.clear();
  order_.clear();
  direct_files_.clear();
}

DirectFiles direct_files(const Options& options, const std::vector<std::string>& paths) {
  return options.cards.empty() ? DirectFiles(paths.size(), nullptr)
                               : options.cards[0]->direct_files(paths);
}

}  // namespace tvmerge
