"""Mistakes in the code for cards, each under what it breaks; cuda_mutants.py puts them there."""

from __future__ import annotations

from cards.shim_build import Mutation

MUTANTS: dict[str, Mutation] = {
    # Tiles, lanes and elements.
    "last partial tile is lost": (
        "csrc/cuda",
        "  if (sums.count % kTile == 0) return;",
        "  if (sums.count % kTile == 0 || sums.first_tile != 0) return;",
    ),
    "tile is one element too long": (
        "csrc/cuda",
        "return count - start < tile ? count : start + tile;",
        "return count - start < tile ? count + 1 : start + tile;",
    ),
    "tile behind the end is there": (
        "csrc/cuda",
        "sums.edits != nullptr && end > start && threadIdx.x % kLanes<Sum> == 0",
        "sums.edits != nullptr && threadIdx.x % kLanes<Sum> == 0",
    ),
    "lanes in reverse": (
        "csrc/cuda",
        "__shfl_sync(kWholeWarp, value, lane, Lanes)",
        "__shfl_sync(kWholeWarp, value, Lanes - 1 - lane, Lanes)",
    ),
    "last lane is dropped": (
        "csrc/cuda",
        "for (unsigned lane = 0; lane < Lanes; ++lane)",
        "for (unsigned lane = 0; lane + 1 < Lanes; ++lane)",
    ),
    "step of a count is dropped": (
        "csrc/cuda",
        "for (unsigned step = Lanes / 2; step > 0; step /= 2)",
        "for (unsigned step = Lanes / 2; step > 1; step /= 2)",
    ),
    "wrong stride of lanes": (
        "csrc/cuda",
        "i < end; i += kLanes<Sum>) {\n    Sum sum = 0;",
        "i < end; i += kLanes<Sum> + 1) {\n    Sum sum = 0;",
    ),
    "last pass is skipped": (
        "csrc/cuda",
        "pass < Chunk::kPasses; ++pass, first += Chunk::kStep",
        "pass + 1 < Chunk::kPasses; ++pass, first += Chunk::kStep",
    ),
    "last term of a group is skipped": (
        "csrc/cuda",
        "if (begin + k >= sums.term_count) break;",
        "if (begin + k >= sums.term_count || begin + k == 7) break;",
    ),
    "second group of terms is lost": (
        "csrc/cuda",
        "begin < (Most <= kGroup ? 1 : sums.term_count)",
        "begin < 1",
    ),
    "group begins the sum anew": (
        "csrc/cuda",
        "y[e] = begin + k == 0 ? c * x",
        "y[e] = k == 0 ? c * x",
    ),
    "product and sum are rounded twice": (
        "csrc/cuda",
        "c * x : fused(c, x, y[e]);",
        "c * x : c * x + y[e];",
    ),
    "odd element at the end is lost": (
        "csrc/cuda",
        "i < pair + 2 && i < end; ++i",
        "i < pair + 2 && pair + 1 < end; ++i",
    ),
    "element behind the end is summed": (
        "csrc/cuda",
        "i < pair + 2 && i < end; ++i",
        "i < pair + 2; ++i",
    ),
    "coefficient of 0 is a term": (
        "csrc/cuda",
        "if (c != 0) sum = fused(c, value_at<Sum>(sums.terms[k], i), sum);",
        "sum = fused(c, value_at<Sum>(sums.terms[k], i), sum);",
    ),
    "lines begin with the slice": (
        "csrc/cuda",
        "((table.first + i) / lines.run % lines.count - table.begin)",
        "(i / lines.run % lines.count)",
    ),
    "all terms have the first one's lines": (
        "csrc/cuda",
        "++k, values += table.stride",
        "++k, values += 0",
    ),
    "other lines are brought": (
        "csrc/cards",
        "k * all.lines.count + range.begin;",
        "k * all.lines.count;",
    ),
    "end of a tile has no sum of its own": (
        "csrc/cuda",
        "const std::size_t rows_end = start + (end - start) / kRow * kRow;",
        "const std::size_t rows_end = end / kRow * kRow == end ? end : end + 0 * kRow;",
    ),
    "infinity is not summed again": (
        "csrc/cuda",
        "const bool broken = sum - sum != 0;",
        "const bool broken = false && sum != 0;",
    ),
    "pairs where the processor has none": (
        "csrc/cuda",
        "sums.term_count <= kFusedTerms;",
        "sums.term_count <= kFusedTerms + 1;",
    ),
    "chunk is not waited for": (
        "csrc/cuda",
        "    __syncwarp();\n#pragma unroll\n    for (unsigned step",
        "#pragma unroll\n    for (unsigned step",
    ),
    "chunk is overwritten too early": (
        "csrc/cuda",
        "    __syncwarp();  // all have read the last chunk\n",
        "",
    ),
    "tiles share a stage": (
        "csrc/cuda",
        "stage + threadIdx.x / kLanesHere * 2 * kRoom;",
        "stage + threadIdx.x / kLanesHere * kRoom;",
    ),
    "stage is too small": (
        "csrc/cuda",
        "kStage = 2 * kThreads * (kCount + 1);",
        "kStage = 2 * kThreads * kCount;",
    ),
    "pairs are not neighbours": (
        "csrc/cuda",
        "step / 2 * 2 * kLanesHere + 2 * lane + step % 2",
        "step / 2 * 2 * kLanesHere + lane + step % 2 * kLanesHere",
    ),
    "code keeps its neighbour's bits": (
        "csrc/cuda",
        "    Held held{};\n",
        "    Held held;\n    memset(held.words, 1, sizeof held.words);\n",
    ),
    # Deltas.
    "ties end one element late": (
        "csrc/cuda",
        "delta, ranked, element < part.outer.ties_end",
        "delta, ranked, element <= part.outer.ties_end",
    ),
    "ties of a whole tile end one late": (
        "csrc/cuda",
        "static_cast<unsigned>(cut.ties_end - element)",
        "static_cast<unsigned>(cut.ties_end - element + 1)",
    ),
    "inner cut takes what equals it": (
        "csrc/cuda",
        "key < (inner_ties",
        "key <= (inner_ties",
    ),
    "number that equals its limit is kept": (
        "csrc/cuda",
        "kTile) < part.random_below;",
        "kTile) <= part.random_below;",
    ),
    "drawn by the place in the slice": (
        "csrc/cuda",
        "ops::draw_of(part.key, element, kTile)",
        "ops::draw_of(part.key, i, kTile)",
    ),
    "bits of a whole tile are drawn for another": (
        "csrc/cuda",
        "drawn_[p].draw(all.parts[p], first_, all.first + first_);",
        "drawn_[p].draw(all.parts[p], first_, first_);",
    ),
    "limits of the wrong quarter": (
        "csrc/cuda",
        "part.limits[first + place + n * (kTile / 4)]",
        "part.limits[first + place]",
    ),
    "limits of the first part for all": (
        "csrc/cuda",
        "slice.limits == nullptr ? nullptr : slice.limits + p * slice.count); all.counts_alone",
        "slice.limits);\n    all.counts_alone",
    ),
    "rows that moved are not looked at": (
        "csrc/cuda",
        "if (part.weighed) ranked = ops::weighed(ranked, part.limits[i]);",
        "",
    ),
    "sums with limits of the first part": (
        "csrc/cuda",
        "slice.limits == nullptr ? nullptr : slice.limits + p * slice.count); }",
        "slice.limits);\n  }",
    ),
    "stretch of deltas loses its last tile": (
        "csrc/cuda",
        "first + kEach < all ? first + kEach : all;",
        "first + kEach < all ? first + kEach - 1 : all;",
    ),
    "zero times infinity of few rows": (
        "csrc/cuda",
        "if (c == 0) continue;  // 0 * infinity would be NaN\n        y[r]",
        "y[r]",
    ),
    "variance of one term less": (
        "csrc/cuda",
        "  for (unsigned k = 1; k < terms.count; ++k) {\n    const float apart",
        "  for (unsigned k = 1; k + 1 < terms.count; ++k) {\n    const float apart",
    ),
    "zero weight divides": (
        "csrc/cuda",
        "sum /= weight != 0 ? weight : Sum{1};",
        "sum /= weight;",
    ),
    "whoever disagrees is left out": (
        "csrc/cuda",
        "y[e] = ops::backed(y[e], counted(values, e, whole) >= all_.least);",
        ";",
    ),
    "one may disagree": (
        "csrc/cuda",
        "ops::backed(sum, number >= all.least)",
        "ops::backed(sum, number + 1 >= all.least)",
    ),
    "whoever is small counts": (
        "csrc/cuda",
        "ops::counts(one, whole - one, part.threshold, agrees);",
        "agrees;",
    ),
    "whoever is small counts in whole tiles": (
        "csrc/cuda",
        "ops::counts(value, whole - value, threshold, agrees) ? Sum{1}",
        "agrees ? Sum{1}",
    ),
    "largest is summed": (
        "csrc/cuda",
        "agreed = all.takes_largest ? larger : agreed + (agrees ? late : Sum{0});",
        "agreed += agrees ? late : Sum{0};",
    ),
    "everybody has one vote": (
        "csrc/cuda",
        "number += counts ? part.votes : Sum{0};",
        "number += counts ? Sum{1} : Sum{0};",
    ),
    "whoever has two votes goes with whole tiles": (
        "csrc/cuda",
        "            part.votes == 1 && ",
        "            ",
    ),
    "largest goes with whole tiles": (
        "csrc/cuda",
        "slice.consensus->parts.size() <= kFew && !slice.consensus->largest;",
        "slice.consensus->parts.size() <= kFew;",
    ),
    "elected by what has no weight": (
        "csrc/cuda",
        "slice.elected < 0 ? 1 : part.weight * part.gain",
        "1",
    ),
    "whoever disagrees with the elected is summed": (
        "csrc/cuda",
        "return ops::agrees(*own, whole < 0, false) ? largest : Sum{0};",
        "return largest;",
    ),
    "sign is elected before the weights": (
        "csrc/cuda",
        "consensus.elect_first ? part.gain : part.weight * part.gain;",
        "part.gain;",
    ),
    # Reductions.
    "stretch loses its last tile": (
        "csrc/cuda",
        "first + kEach < tiles ? first + kEach : tiles;",
        "first + kEach < tiles ? first + kEach - 1 : tiles;",
    ),
    "matrix is not mirrored": (
        "csrc/cuda",
        "  matrix[s * rows + r] = sum;\n",
        "",
    ),
    "counts are not asked for and made": (
        "csrc/cuda",
        "  if (!counted) return;\n",
        "",
    ),
    "zero times infinity": (
        "csrc/cuda",
        "if (c == 0) continue;  // 0 * infinity would be NaN\n    const",
        "const",
    ),
    "room is a tile too small": (
        "csrc/cuda",
        "return cuda::parts_of(count, cuda::kTile) * parts * sizeof(DeltaSums);",
        "return (cuda::parts_of(count, cuda::kTile) * parts - 1) * sizeof(DeltaSums) + 8;",
    ),
    "key at the upper end has no bin": (
        "csrc/cuda",
        "key >= all_.low && key <= all_.high)",
        "key >= all_.low && key < all_.high)",
    ),
    "bin of another one's slot": (
        "csrc/cuda",
        "held == 0 || held == tag ? counts_",
        "held == 0 || held != tag ? counts_",
    ),
    "bins are not waited for": (
        "csrc/cuda",
        "    __syncthreads();\n    for (unsigned slot = threadIdx.x; slot < kOwnBins; slot += "
        "kThreads)\n      if",
        "    for (unsigned slot = threadIdx.x; slot < kOwnBins; slot += kThreads)\n      if",
    ),
    "bins are used before they are empty": (
        "csrc/cuda",
        "      tags_[slot] = counts_[slot] = 0;\n    __syncthreads();\n",
        "      tags_[slot] = counts_[slot] = 0;\n",
    ),
    "end of a scan is left out": (
        "csrc/cuda",
        "for (std::size_t rest = i; rest < all.count; ++rest)",
        "for (std::size_t rest = i; rest + 1 < all.count; ++rest)",
    ),
    "ties of the wrong stretch": (
        "csrc/cuda",
        "all_.ties + first / kSumElements",
        "all_.ties + (first + kScanned) / kSumElements",
    ),
    # Digests.
    "digest stands at the wrong place": (
        "csrc/cuda",
        "range.position + stripe * kStripeBytes",
        "range.position + stripe * (kStripeBytes - 8)",
    ),
    "last stripe is read whole": (
        "csrc/cuda",
        "    if (stripe < whole) {",
        "    if (stripe <= whole) {",
    ),
    "step of the digest's sum is dropped": (
        "csrc/cuda",
        "for (unsigned step = kStripeThreads; step < 32; step *= 2)",
        "for (unsigned step = kStripeThreads; step < 16; step *= 2)",
    ),
    "digest of the first range for all": (
        "csrc/cuda",
        "all.ranges[r] = ranges[first + r];",
        "all.ranges[r] = ranges[r];",
    ),
    # Streams and memory.
    "nobody waits for the stream": (
        "csrc/cards",
        "    crew.flights[turn].stream->wait();\n",
        "",
    ),
    "end of the flight is not waited for": (
        "csrc/cards",
        "  for (std::size_t left = 0; left < Flights::kInFlight; ++left) {",
        "  for (std::size_t left = 1; left < Flights::kInFlight; ++left) {",
    ),
    "both flights read into the same memory": (
        "csrc/cards",
        "    flight.read_at = f * (needs_.block_bytes + needs_.host_bytes);",
        "    flight.read_at = 0;",
    ),
    "flights share what they compute in": (
        "csrc/cards",
        "(place * kInFlight + f) * needs_.card_bytes",
        "place * kInFlight * needs_.card_bytes",
    ),
    "threads share what they compute in": (
        "csrc/cards",
        "(place * kInFlight + f) * needs_.card_bytes",
        "f * needs_.card_bytes",
    ),
    "block is given back too early": (
        "csrc/cards",
        "    flight.slots.clear();\n",
        "    flight.slots.clear();\n    flight.pool->give_back(flight.block, {});\n"
        "    const auto other = flight.pool->take({}).block;\n"
        "    flight.stream->clear(other, 64);\n    flight.block = other;\n",
    ),
    "copied before it is computed": (
        "csrc/cuda",
        "    copy(host, device, size_bytes, cudaMemcpyDeviceToHost);",
        "    check(cudaMemcpy(host, device, size_bytes, cudaMemcpyDeviceToHost), name_);",
    ),
    "computed before it is copied": (
        "csrc/cuda",
        "    copy(device, host, size_bytes, cudaMemcpyHostToDevice);",
        "    check(cudaMemcpyAsync(device, host, size_bytes, cudaMemcpyHostToDevice), name_);",
    ),
    "edits come back from the first output": (
        "csrc/cards",
        "edits_on_card(flight) + o * tiles_of(slice.length)",
        "edits_on_card(flight)",
    ),
    "digests of one card only": (
        "csrc/cards",
        "    for (const std::vector<unsigned char>& card : flights.shared())\n"
        "      add_digests(card, seen.front());",
        "    add_digests(flights.shared().front(), seen.front());",
    ),
    "counters are not cleared": (
        "csrc/cards",
        "    if (needs.shared_bytes != 0) flights.clear_shared();\n",
        "",
    ),
    "ties of one card only": (
        "csrc/cards",
        "ties[s] += counted[s];",
        "ties[s] = counted[s];",
    ),
    "ties are counted from the tensor's start": (
        "csrc/cards",
        " +\n                             slice.start / kSumElements;",
        ";",
    ),
    "block of another place is taken for this one": (
        "csrc/cards",
        '  std::string key = std::to_string(start) + "+" + std::to_string(count);',
        '  std::string key = "+" + std::to_string(count);',
    ),
    "block of another file is taken for this one": (
        "csrc/cards",
        '    key += "|" + paths[source.file] + "@"',
        '    key += "|@"',
    ),
    "what is kept is not forgotten": (
        "csrc/cards",
        "  for (const auto& [key, block] : kept_) free_.push_back(block);\n"
        "  kept_.clear();\n  order_.clear();\n  direct_files_.clear();\n",
        "  direct_files_.clear();\n",
    ),
    "room is not made again for larger blocks": (
        "csrc/cards",
        "  kept_.clear();\n  order_.clear();\n  free_.clear();\n",
        "  free_.clear();\n",
    ),
    "stream is not of its card": (
        "csrc/cuda",
        "    check(cudaSetDevice(index_), name_);\n    check(cudaStreamCreate",
        "    check(cudaStreamCreate",
    ),
    "failed copy is not looked at": (
        "csrc/cuda",
        'check(cudaMemcpyAsync(to, from, size_bytes, kind, stream_), name_ + ": copying");',
        "cudaMemcpyAsync(to, from, size_bytes, kind, stream_);",
    ),
    # Files that cards read by themselves.
    "what the card has read is copied over": (
        "csrc/cards",
        "      sent = next;\n",
        "",
    ),
    "what comes before the card's range is not sent": (
        "csrc/cards",
        "      send();\n      pool->read",
        "      pool->read",
    ),
    "card reads what the processor is to rank": (
        "csrc/cards",
        "fresh ? nullptr : (*direct)[source.file]",
        "(*direct)[source.file]",
    ),
    "rest of a short read goes to the start": (
        "csrc/cards",
        "    at += read;\n",
        "",
    ),
    "rest of a short read is read again": (
        "csrc/cards",
        "    offset_bytes += read;\n",
        "",
    ),
    "file that was not taken is read by the card": (
        "csrc/cards",
        "if (library.take(&handle, &description).error != 0) return nullptr;",
        "library.take(&handle, &description);",
    ),
    "cached range is read from the disk": (
        "csrc/cards",
        " && !file_.is_cached(offset_bytes, size_bytes)",
        "",
    ),
    "what the card is to read is read ahead": (
        "csrc/engine",
        "if (elsewhere_[file]) return read_alone",
        "if (false) return read_alone",
    ),
    "what is read beside the card stays in the cache": (
        "csrc/engine",
        "if (drops) file.wont_need(offset_bytes, size_bytes);",
        "",
    ),
    "files of one batch are those of the next": (
        "csrc/cards",
        "  order_.clear();\n  direct_files_.clear();\n",
        "  order_.clear();\n",
    ),
    "library may read by way of the processor": (
        "csrc/cards",
        "if (set(kByProcessor, false).error != 0) {",
        "if (false) {",
    ),
}
