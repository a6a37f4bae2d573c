// Units of work on their way through cards: while one of a thread's units is computed and
// comes back, the thread reads the next.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cards/card_pool.hpp"
#include "engine/engine.hpp"
#include "engine/job.hpp"
#include "engine/pool.hpp"
#include "engine/reading.hpp"
#include "engine/slices.hpp"

namespace tvmerge {

// How many elements of a job go to a card at once: kSumElements times a power of two, the
// same for all that is measured and computed under the same options, so that what one run
// has left on a card is what the next one looks for.
std::uint64_t card_elements(const std::vector<Source>& sources, const Options& options);

// What a run needs.
struct FlightNeeds {
  // Of one unit: its sources' slices; other memory of the card; pinned memory, that comes
  // back.
  std::uint64_t block_bytes = kSmallestSliceBytes, card_bytes = 0, host_bytes = 0;
  // Pinned, of one thread: writes that wait.
  std::uint64_t thread_bytes = 0;
  // On every card, of all units together.
  std::uint64_t shared_bytes = 0;

  // Makes room for units of a job; returns their number of elements.
  std::uint64_t add(const std::vector<Source>& sources, std::uint64_t elements,
                    const Options& options);
};

// One unit on its way.
struct Flight {
  std::unique_ptr<Stream> stream;
  CardPool* pool = nullptr;
  const DirectFiles* direct = nullptr;  // of the run's files
  unsigned char* read = nullptr;        // pinned: its slices as they were read
  unsigned char* back = nullptr;        // pinned: what comes back
  unsigned char* room = nullptr;        // on the card: needs.card_bytes
  unsigned char* shared = nullptr;      // on the card: needs.shared_bytes
  std::uint64_t read_at = 0;            // where `read` lies in the thread's pinned memory
  std::vector<Term> here, there;        // its terms, in `read` and on the card
  unsigned char* block = nullptr;
  std::string key;
  std::vector<unsigned char*> slots;  // pinned: where its outputs wait to be written

  Flight() = default;
  Flight(const Flight&) = delete;
  Flight& operator=(const Flight&) = delete;
  ~Flight();

  // Brings a slice of all sources to the card, unless an earlier run has left it there
  // and `fresh` does not ask for it to be read. Returns how many bytes were read.
  std::uint64_t bring(const Reader& reader, const std::vector<std::string>& paths,
                      const std::vector<Source>& sources, std::uint64_t start,
                      std::uint64_t count, bool fresh = false);
  // The part of `bring` that reads: each source by the card or by the processor, which
  // alone leaves it in `here`.
  void load(const Reader& reader, const std::vector<Source>& sources, std::uint64_t start,
            std::uint64_t count, bool fresh);
  // After the stream has been waited for: the block is free, or kept for a later run.
  void leave(bool keep);
};

class Flights {
 public:
  static constexpr unsigned kInFlight = 2;

  // Throws Error(memory) where there is no room for a single thread.
  Flights(const Options& options, const FlightNeeds& needs, DirectFiles direct);

  [[nodiscard]] unsigned threads() const { return threads_; }

  // One thread's.
  struct Crew {
    unsigned char* pinned;  // of the two flights, and behind them needs.thread_bytes
    unsigned char* waiting;
    std::array<Flight, kInFlight> flights;
  };
  [[nodiscard]] std::unique_ptr<Crew> crew(unsigned thread) const;

  // Clears what all units of a card share; and brings it back from each.
  void clear_shared() const;
  [[nodiscard]] std::vector<std::vector<unsigned char>> shared() const;

 private:
  [[nodiscard]] std::uint64_t thread_bytes() const;
  [[nodiscard]] unsigned threads_of_card() const;
  // Units of one card in flight; what they take of it beside their blocks, and with them.
  [[nodiscard]] std::uint64_t in_flight() const;
  [[nodiscard]] std::uint64_t extra_bytes() const;
  [[nodiscard]] std::uint64_t card_bytes() const;
  // Does with one thread less on every card; false where each has one only.
  bool fewer_threads();

  std::vector<std::shared_ptr<CardPool>> pools_;
  DirectFiles direct_;
  FlightNeeds needs_;
  unsigned threads_;
  std::vector<unsigned char*> extra_, pinned_;  // per card
};

// One thread's work: start(flight, unit) asks a flight's stream for a unit, land(flight,
// unit) is called once all of that is done.
template <typename Start, typename Land>
void fly(Flights::Crew& crew, Share& share, Start&& start, Land&& land) {
  std::array<std::optional<std::uint64_t>, Flights::kInFlight> units;
  const auto land_one = [&](std::size_t turn) {
    if (!units[turn]) return;
    crew.flights[turn].stream->wait();
    land(crew.flights[turn], *units[turn]);
    units[turn].reset();
  };
  std::size_t turn = 0;
  while (const auto unit = share.next()) {
    land_one(turn);
    if (!start(crew.flights[turn], *unit)) continue;
    units[turn] = unit;
    turn = (turn + 1) % Flights::kInFlight;
  }
  for (std::size_t left = 0; left < Flights::kInFlight; ++left) {
    land_one(turn);
    turn = (turn + 1) % Flights::kInFlight;
  }
}

}  // namespace tvmerge
