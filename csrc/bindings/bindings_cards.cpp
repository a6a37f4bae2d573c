// Cards, and tensors in memory, for tvmerge._core.
#include "bindings/bindings.hpp"

#include <pybind11/stl.h>

#include "cards/card_pool.hpp"
#include "engine/in_memory.hpp"
#include "engine/low_rank.hpp"

namespace tvmerge {
namespace {

// (address, dtype, coefficient) and (address, dtype) of memory that the caller vouches
// for, of so many elements.
using Placed = std::tuple<std::uintptr_t, std::string, double>;
void combine_tensors(const std::vector<Placed>& terms,
                     const std::pair<std::uintptr_t, std::string>& out,
                     std::uint64_t elements, unsigned threads, const std::string& isa,
                     std::optional<int> card, std::uintptr_t stream) {
  // NOLINTBEGIN(performance-no-int-to-ptr)
  std::vector<Term> held;
  for (const auto& [address, dtype, coefficient] : terms) {
    const Term term{reinterpret_cast<const void*>(address), parse_dtype(dtype),
                    coefficient};
    if (coefficient != 0) held.push_back(term);
  }
  const Dtype dtype = parse_dtype(out.second);
  const CombineSlice whole{held.data(), held.size(), reinterpret_cast<void*>(out.first),
                           dtype,       elements,    nullptr,
                           nullptr,     dtype};
  const py::gil_scoped_release release;
  if (elements == 0) return;
  if (card) return combine_on_card(whole, *card, reinterpret_cast<void*>(stream));
  combine_in_memory(whole, threads, isa);
  // NOLINTEND(performance-no-int-to-ptr)
}

// Addresses of float32 memory that the caller vouches for, sizes as in LowRankSlice.
void add_low_rank_at(std::uintptr_t out, std::uintptr_t left, std::uintptr_t right,
                     std::size_t rows, std::size_t rank, std::size_t columns,
                     double scale, unsigned threads, const std::string& isa) {
  // NOLINTBEGIN(performance-no-int-to-ptr)
  const LowRankSlice whole{reinterpret_cast<const float*>(left),
                           reinterpret_cast<const float*>(right),
                           reinterpret_cast<float*>(out),
                           rows,
                           rank,
                           columns,
                           scale};
  // NOLINTEND(performance-no-int-to-ptr)
  add_low_rank(whole, threads, isa);
}

py::list card_list() {
  py::list list;
  for (const CardInfo& card : cards()) {
    list.append(py::make_tuple(card.index, card.name,
                               py::make_tuple(card.major, card.minor), card.free_bytes,
                               card.total_bytes, card.problem));
  }
  return list;
}

}  // namespace

void def_cards(py::module_& module) {
  py::class_<CardPool, std::shared_ptr<CardPool>>(module, "Card")
      .def(py::init<int, std::uint64_t, const std::string&>(), py::arg("index"),
           py::kw_only(), py::arg("memory_bytes"), py::arg("cufile") = "",
           py::call_guard<py::gil_scoped_release>())
      .def_property_readonly("name",
                             [](CardPool& self) { return self.card().info().name; })
      .def_property_readonly("memory_bytes", &CardPool::memory_bytes)
      .def_property_readonly("pinned_bytes", &CardPool::pinned_bytes)
      .def_property_readonly("direct_bytes", &CardPool::direct_bytes)
      .def("forget", &CardPool::forget);
  module.def("combine_tensors", &combine_tensors, py::arg("terms"), py::arg("out"),
             py::arg("elements"), py::kw_only(), py::arg("threads") = 1,
             py::arg("isa") = "", py::arg("card") = py::none(), py::arg("stream") = 0);
  module.def("add_low_rank", &add_low_rank_at, py::arg("out"), py::arg("left"),
             py::arg("right"), py::kw_only(), py::arg("rows"), py::arg("rank"),
             py::arg("columns"), py::arg("scale"), py::arg("threads") = 1,
             py::arg("isa") = "", py::call_guard<py::gil_scoped_release>());
  module.def("cards", &card_list);
  module.def("cuda_problem", &cuda_problem);
}

}  // namespace tvmerge
