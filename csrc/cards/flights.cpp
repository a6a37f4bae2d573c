#include "cards/flights.hpp"

#include <algorithm>
#include <utility>

#include "core/error.hpp"

namespace tvmerge {
namespace {

// What goes to a card at once: enough to hide what a launch costs, little enough that two
// units of every thread fit into memory.
constexpr std::uint64_t kMostBlockBytes = std::uint64_t{4} * 1024 * 1024;
// Of a thread's pinned memory; the rest is for results and waiting writes.
constexpr std::uint64_t kBlockShare = 6;
// Smaller units are read again sooner than a block is set aside for them.
constexpr std::uint64_t kLeastKeptBytes = std::uint64_t{256} * 1024;

std::string key_of(const std::vector<std::string>& paths,
                   const std::vector<Source>& sources, std::uint64_t start,
                   std::uint64_t count) {
  if (slice_bytes(sources, count) < kLeastKeptBytes) return {};
  std::string key = std::to_string(start) + "+" + std::to_string(count);
  for (const Source& source : sources) {
    key += "|" + paths[source.file] + "@" + std::to_string(source.offset_bytes) + ":" +
           std::to_string(static_cast<int>(source.dtype));
  }
  return key;
}

}  // namespace

std::uint64_t card_elements(const std::vector<Source>& sources, const Options& options) {
  const std::uint64_t most =
      std::min(kMostBlockBytes,
               options.buffer_bytes / std::max(1u, options.threads) / kBlockShare);
  std::uint64_t elements = kSumElements;
  while (slice_bytes(sources, elements * 2) <= most) elements *= 2;
  return elements;
}

std::uint64_t FlightNeeds::add(const std::vector<Source>& sources, std::uint64_t elements,
                               const Options& options) {
  const std::uint64_t each = card_elements(sources, options);
  block_bytes =
      std::max(block_bytes, aligned(slice_bytes(sources, std::min(each, elements))));
  return each;
}

Flight::~Flight() {
  stream.reset();  // waits
  if (block != nullptr) pool->give_back(block, {});
}

std::uint64_t Flight::bring(const Reader& reader, const std::vector<std::string>& paths,
                            const std::vector<Source>& sources, std::uint64_t start,
                            std::uint64_t count, bool fresh) {
  key = key_of(paths, sources, start, count);
  const CardPool::Taken taken = pool->take(fresh ? std::string{} : key);
  block = taken.block;
  std::uint64_t read_bytes = 0;
  if (!taken.held) {
    load(reader, sources, start, count, fresh);
    for (const Source& source : sources) read_bytes += count * size_of(source.dtype);
  }
  there.clear();
  std::uint64_t used = 0;
  for (const Source& source : sources) {
    there.push_back({block + used, source.dtype, 0});
    used += aligned(count * size_of(source.dtype));
  }
  return read_bytes;
}

void Flight::load(const Reader& reader, const std::vector<Source>& sources,
                  std::uint64_t start, std::uint64_t count, bool fresh) {
  here.clear();
  // Of the block: what has been looked after, and of that what is on its way or there.
  std::uint64_t used = 0, sent = 0;
  const auto send = [&] {
    if (used != sent) stream->copy_in(block + sent, read + sent, used - sent);
  };
  for (const Source& source : sources) {
    const std::uint64_t size_bytes = count * size_of(source.dtype);
    const std::uint64_t offset_bytes =
        source.offset_bytes + start * size_of(source.dtype);
    const DirectFile* const file = fresh ? nullptr : (*direct)[source.file];
    const unsigned char* data = nullptr;
    const std::uint64_t next = used + aligned(size_bytes);
    if (file == nullptr || !file->suits(offset_bytes, size_bytes)) {
      data = reader.read(source.file, source.digested, offset_bytes, size_bytes,
                         read_at + used);
    } else {
      send();
      pool->read(*file, block + used, size_bytes, offset_bytes);
      reader.count(size_bytes);
      sent = next;
    }
    here.push_back({data, source.dtype, 0});
    used = next;
  }
  send();
}

void Flight::leave(bool keep) {
  pool->give_back(block, keep ? key : std::string{});
  block = nullptr;
}

Flights::Flights(const Options& options, const FlightNeeds& needs, DirectFiles direct)
    : pools_(options.cards), direct_(std::move(direct)), needs_(needs) {
  needs_.block_bytes = aligned(needs_.block_bytes);
  needs_.card_bytes = (needs_.card_bytes + 255) / 256 * 256;
  needs_.shared_bytes = (needs_.shared_bytes + 255) / 256 * 256;
  needs_.host_bytes = aligned(needs_.host_bytes);
  threads_ = std::max(options.threads, static_cast<unsigned>(pools_.size()));
  const std::uint64_t fitting = options.buffer_bytes / thread_bytes();
  if (fitting == 0) {
    throw Error(ErrorKind::memory,
                "the memory limit leaves " + std::to_string(options.buffer_bytes) +
                    " bytes for buffers; on a card this merge needs at least " +
                    std::to_string(thread_bytes()) + ": raise the limit");
  }
  threads_ = static_cast<unsigned>(std::min<std::uint64_t>(threads_, fitting));
  pools_.resize(std::min<std::size_t>(pools_.size(), threads_));
  for (const auto& pool : pools_) {
    while (card_bytes() > pool->memory_bytes() && fewer_threads()) {
    }
    extra_.push_back(pool->prepare(needs_.block_bytes, extra_bytes()));
    while (pool->block_count() < in_flight() && fewer_threads()) {
    }
    if (pool->block_count() < in_flight()) {
      throw Error(ErrorKind::memory,
                  "no room for two units on a card: raise --memory-device, or use "
                  "--device cpu");
    }
    unsigned char* pinned = nullptr;
    while ((pinned = pool->pinned(thread_bytes() * threads_of_card())) == nullptr) {
      if (!fewer_threads())
        throw Error(ErrorKind::memory, "the system gives no pinned memory: free some");
    }
    pinned_.push_back(pinned);
  }
}

bool Flights::fewer_threads() {
  const auto cards = static_cast<unsigned>(pools_.size());
  if (threads_ <= cards) return false;
  threads_ = std::max(cards, threads_ - cards);
  return true;
}

std::uint64_t Flights::in_flight() const {
  return std::uint64_t{kInFlight} * threads_of_card();
}

std::uint64_t Flights::extra_bytes() const {
  return needs_.shared_bytes + needs_.card_bytes * in_flight();
}

std::uint64_t Flights::card_bytes() const {
  return extra_bytes() + needs_.block_bytes * in_flight();
}

std::uint64_t Flights::thread_bytes() const {
  return kInFlight * (needs_.block_bytes + needs_.host_bytes) +
         aligned(needs_.thread_bytes);
}

unsigned Flights::threads_of_card() const {
  const auto cards = static_cast<unsigned>(pools_.size());
  return (threads_ + cards - 1) / cards;
}

std::unique_ptr<Flights::Crew> Flights::crew(unsigned thread) const {
  const std::size_t card = thread % pools_.size(), place = thread / pools_.size();
  auto crew = std::make_unique<Crew>();
  crew->pinned = pinned_[card] + place * thread_bytes();
  crew->waiting = crew->pinned + kInFlight * (needs_.block_bytes + needs_.host_bytes);
  for (std::size_t f = 0; f < kInFlight; ++f) {
    Flight& flight = crew->flights[f];
    flight.pool = pools_[card].get();
    flight.stream = flight.pool->card().make_stream();
    flight.direct = &direct_;
    flight.read_at = f * (needs_.block_bytes + needs_.host_bytes);
    flight.read = crew->pinned + flight.read_at;
    flight.back = flight.read + needs_.block_bytes;
    flight.shared = extra_[card];
    flight.room =
        extra_[card] + needs_.shared_bytes + (place * kInFlight + f) * needs_.card_bytes;
  }
  return crew;
}

void Flights::clear_shared() const {
  for (std::size_t card = 0; card < pools_.size(); ++card) {
    const auto stream = pools_[card]->card().make_stream();
    stream->clear(extra_[card], needs_.shared_bytes);
    stream->wait();
  }
}

std::vector<std::vector<unsigned char>> Flights::shared() const {
  std::vector<std::vector<unsigned char>> all;
  for (std::size_t card = 0; card < pools_.size(); ++card) {
    std::vector<unsigned char>& one = all.emplace_back(needs_.shared_bytes);
    const auto stream = pools_[card]->card().make_stream();
    stream->copy_out(one.data(), extra_[card], one.size());
    stream->wait();
  }
  return all;
}

}  // namespace tvmerge
