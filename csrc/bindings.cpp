// tvmerge._core: converts types, releases the GIL, nothing else. The stub is
// tvmerge/_core.pyi.
#include <pybind11/functional.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <unordered_map>

#include "card_pool.hpp"
#include "delta_sums.hpp"
#include "engine.hpp"
#include "error.hpp"
#include "in_memory.hpp"
#include "kernels.hpp"
#include "select.hpp"

namespace py = pybind11;

namespace tvmerge {
namespace {

const char* python_name(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::config:
      return "ConfigError";
    case ErrorKind::storage:
      return "StorageError";
    case ErrorKind::memory:
      return "MemoryLimitError";
    case ErrorKind::card:
      return "DeviceError";
  }
  return "TVMergeError";
}

// By value: the signature that pybind11 asks for.
// NOLINTNEXTLINE(performance-unnecessary-value-param)
void raise_in_python(std::exception_ptr pointer) {
  try {
    if (pointer) std::rethrow_exception(pointer);
  } catch (const Error& error) {
    const py::object type =
        py::module_::import("tvmerge.errors").attr(python_name(error.kind()));
    PyErr_SetString(type.ptr(), error.what());
  }
}

// Takes the GIL to let signals (Ctrl-C) through and to tell the caller's callback, which
// is borrowed: it must outlive the run.
std::function<void(std::uint64_t)> with_signals(py::handle callback) {
  return [callback](std::uint64_t bytes) {
    const py::gil_scoped_acquire gil;
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    if (!callback.is_none()) callback(bytes);
  };
}

using Cards = std::vector<std::shared_ptr<CardPool>>;

Options make_options(unsigned threads, std::uint64_t slice_bytes,
                     std::uint64_t buffer_bytes, std::string isa, bool drop_behind,
                     const py::object& progress, Cards cards = {}) {
  return {threads,        slice_bytes,     buffer_bytes,
          std::move(isa), drop_behind,     with_signals(progress),
          false,          std::move(cards)};
}

// A path, (address, size in bytes) of writable memory, or None.
std::vector<Place> make_places(const py::sequence& outputs) {
  std::vector<Place> places;
  for (const py::handle output : outputs) {
    if (output.is_none()) {
      places.emplace_back(Nowhere{});
    } else if (py::isinstance<py::str>(output)) {
      places.emplace_back(output.cast<std::string>());
    } else {
      const auto [address, size_bytes] =
          output.cast<std::pair<std::uintptr_t, std::uint64_t>>();
      // The one place where a number becomes memory: the caller vouches for it.
      // NOLINTNEXTLINE(performance-no-int-to-ptr)
      places.emplace_back(Memory{reinterpret_cast<unsigned char*>(address), size_bytes});
    }
  }
  return places;
}

// Files by the numbers that a plan knows them by, each with the engine's own.
using Numbers = std::unordered_map<std::uint32_t, std::uint32_t>;

py::tuple fields(const py::handle value) { return value.cast<py::tuple>(); }

// (file, offset in bytes, dtype, digested)
Source make_source(const py::tuple& range, const Numbers& inputs) {
  return {inputs.at(range[0].cast<std::uint32_t>()), range[1].cast<std::uint64_t>(),
          parse_dtype(range[2].cast<std::string>()), range[3].cast<bool>()};
}

// (file, offset in bytes, dtype, reference, coefficients, Consensus or None)
Output make_output(const py::tuple& result, const Numbers& outputs) {
  return {outputs.at(result[0].cast<std::uint32_t>()),
          result[1].cast<std::uint64_t>(),
          parse_dtype(result[2].cast<std::string>()),
          result[3].cast<std::int32_t>(),
          result[4].cast<std::vector<double>>(),
          result[5].cast<std::optional<Consensus>>()};
}

// (tensor, sources, elements, results): a job of tvmerge/jobs.py, taken apart here, since
// Python takes three times as long, for each tensor of a model.
CombineJob make_combine(const py::tuple& job, const Numbers& inputs,
                        const Numbers& outputs) {
  CombineJob made{{}, job[2].cast<std::uint64_t>(), {}};
  for (const py::handle range : fields(job[1]))
    made.sources.push_back(make_source(fields(range), inputs));
  for (const py::handle result : fields(job[3]))
    made.outputs.push_back(make_output(fields(result), outputs));
  return made;
}

py::list edits(const MergeResult& result) {
  py::list jobs;
  for (const std::vector<Edit>& job : result.edits) {
    py::list outputs;
    for (const Edit& edit : job) {
      outputs.append(py::make_tuple(edit.changed, edit.intended, edit.lost,
                                    edit.intended_sq, edit.realised_sq, edit.dot));
    }
    jobs.append(outputs);
  }
  return jobs;
}

py::list states(const std::vector<DigestLanes>& digests) {
  py::list states;
  for (const DigestLanes& lanes : digests) {
    states.append(
        py::bytes(reinterpret_cast<const char*>(lanes.data()), sizeof(DigestLanes)));
  }
  return states;
}

// A function that reads what `jobs` name and writes nothing; show(result) for each job.
template <typename Job, typename Result>
using Measurement = std::vector<Result> (*)(const std::vector<std::string>&,
                                            const std::vector<Job>&, const Options&);
template <typename Job, typename Result, typename Show>
void def_measurement(py::module_& module, const char* name, Measurement<Job, Result> run,
                     Show show) {
  module.def(
      name,
      [run, show](const std::vector<std::string>& inputs, const std::vector<Job>& jobs,
                  unsigned threads, std::uint64_t buffer_bytes, const std::string& isa,
                  bool drop_behind, const py::object& progress, Cards cards) {
        const Options options = make_options(threads, buffer_bytes, buffer_bytes, isa,
                                             drop_behind, progress, std::move(cards));
        const auto found = [&] {
          const py::gil_scoped_release release;
          return run(inputs, jobs, options);
        }();
        py::list results;
        for (const auto& one : found) results.append(show(one));
        return results;
      },
      py::arg("inputs"), py::arg("jobs"), py::kw_only(), py::arg("threads"),
      py::arg("buffer_bytes"), py::arg("isa") = "", py::arg("drop_behind") = false,
      py::arg("progress") = py::none(), py::arg("cards") = Cards{});
}

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
}  // namespace tvmerge

PYBIND11_MODULE(_core, module) {
  using namespace tvmerge;
  module.doc() = "Streams safetensors files through memory: combine, copy, measure.";
  py::register_exception_translator(&raise_in_python);

  py::class_<Source>(module, "Source")
      .def(py::init([](std::uint32_t file, std::uint64_t offset_bytes,
                       const std::string& dtype, bool digested) {
             return Source{file, offset_bytes, parse_dtype(dtype), digested};
           }),
           py::arg("file"), py::arg("offset_bytes"), py::arg("dtype"),
           py::arg("digested") = false);

  py::class_<CardPool, std::shared_ptr<CardPool>>(module, "Card")
      .def(py::init<int, std::uint64_t>(), py::arg("index"), py::kw_only(),
           py::arg("memory_bytes"), py::call_guard<py::gil_scoped_release>())
      .def_property_readonly("name",
                             [](CardPool& self) { return self.card().info().name; })
      .def_property_readonly("memory_bytes", &CardPool::memory_bytes)
      .def_property_readonly("pinned_bytes", &CardPool::pinned_bytes)
      .def("forget", &CardPool::forget);
  module.def("combine_tensors", &combine_tensors, py::arg("terms"), py::arg("out"),
             py::arg("elements"), py::kw_only(), py::arg("threads") = 1,
             py::arg("isa") = "", py::arg("card") = py::none(), py::arg("stream") = 0);
  module.def("cards", &card_list);
  module.def("cuda_problem", &cuda_problem);

  using PyCut = std::pair<Key, std::uint64_t>;
  py::class_<Part>(module, "Part")
      .def(py::init([](std::int32_t source, double weight, double gain, PyCut outer,
                       PyCut inner, bool of_variance, std::uint64_t random_below,
                       std::uint64_t key, std::uint64_t row, std::uint64_t random_span,
                       double limit, double alone) {
             return Part{source,
                         weight,
                         gain,
                         {{outer.first, outer.second},
                          {inner.first, inner.second},
                          of_variance,
                          random_below,
                          key,
                          row,
                          random_span},
                         limit,
                         alone};
           }),
           py::kw_only(), py::arg("source"), py::arg("weight"), py::arg("gain") = 1.0,
           py::arg("outer") = PyCut{kAll.key, kAll.ties_end},
           py::arg("inner") = PyCut{kNone.key, kNone.ties_end},
           py::arg("of_variance") = false, py::arg("random_below") = kAlways,
           py::arg("key") = 0, py::arg("row") = 0, py::arg("random_span") = 0,
           py::arg("limit") = std::numeric_limits<double>::infinity(),
           py::arg("alone") = 1.0);

  py::class_<Consensus>(module, "Consensus")
      .def(py::init([](std::vector<Part> parts, double scale, bool elect,
                       bool elect_first, bool normalize) {
             return Consensus{std::move(parts), scale, elect, elect_first, normalize};
           }),
           py::kw_only(), py::arg("parts"), py::arg("scale"), py::arg("elect"),
           py::arg("elect_first") = false, py::arg("normalize"));

  py::class_<Output>(module, "Output")
      .def(py::init([](std::uint32_t file, std::uint64_t offset_bytes,
                       const std::string& dtype, std::int32_t reference,
                       std::vector<double> coefficients,
                       std::optional<Consensus> consensus) {
             return Output{file,
                           offset_bytes,
                           parse_dtype(dtype),
                           reference,
                           std::move(coefficients),
                           std::move(consensus)};
           }),
           py::kw_only(), py::arg("file"), py::arg("offset_bytes"), py::arg("dtype"),
           py::arg("reference"), py::arg("coefficients"),
           py::arg("consensus") = std::nullopt);

  py::class_<CombineJob>(module, "CombineJob")
      .def(py::init([](std::vector<Source> sources, std::uint64_t elements,
                       std::vector<Output> outputs) {
             return CombineJob{std::move(sources), elements, std::move(outputs)};
           }),
           py::kw_only(), py::arg("sources"), py::arg("elements"), py::arg("outputs"))
      .def_static("planned", &make_combine, py::arg("job"), py::arg("inputs"),
                  py::arg("outputs"));

  py::class_<CopyJob>(module, "CopyJob")
      .def(py::init([](std::uint32_t file, std::uint64_t offset_bytes,
                       std::uint64_t size_bytes, bool digested,
                       std::vector<std::pair<std::uint32_t, std::uint64_t>> targets,
                       std::vector<Source> same_as) {
             return CopyJob{file,     offset_bytes,       size_bytes,
                            digested, std::move(targets), std::move(same_as)};
           }),
           py::kw_only(), py::arg("file"), py::arg("offset_bytes"), py::arg("size_bytes"),
           py::arg("digested"), py::arg("targets"), py::arg("same_as"));

  py::class_<MeasureJob>(module, "MeasureJob")
      .def(py::init([](std::vector<Source> sources, std::uint64_t elements,
                       std::vector<double> rows) {
             return MeasureJob{std::move(sources), elements, std::move(rows)};
           }),
           py::kw_only(), py::arg("sources"), py::arg("elements"), py::arg("rows"));

  py::class_<MergeResult>(module, "MergeResult")
      .def_property_readonly("edits", [](const MergeResult& self) { return edits(self); })
      .def_readonly("different", &MergeResult::different)
      .def_readonly("cloned_bytes", &MergeResult::cloned_bytes)
      .def_property_readonly(
          "input_digests",
          [](const MergeResult& self) { return states(self.input_digests); })
      .def_property_readonly("output_digests", [](const MergeResult& self) {
        return states(self.output_digests);
      });

  module.def(
      "merge",
      [](const std::vector<std::string>& inputs, const py::sequence& outputs,
         const std::vector<CombineJob>& combines, const std::vector<CopyJob>& copies,
         unsigned threads, std::uint64_t slice_bytes, std::uint64_t buffer_bytes,
         const std::string& isa, bool drop_behind, const py::object& progress,
         Cards cards) {
        const Options options = make_options(threads, slice_bytes, buffer_bytes, isa,
                                             drop_behind, progress, std::move(cards));
        const std::vector<Place> places = make_places(outputs);
        const py::gil_scoped_release release;
        return merge(inputs, places, combines, copies, options);
      },
      py::arg("inputs"), py::arg("outputs"), py::arg("combines"), py::arg("copies"),
      py::kw_only(), py::arg("threads"), py::arg("slice_bytes"), py::arg("buffer_bytes"),
      py::arg("isa") = "", py::arg("drop_behind") = false,
      py::arg("progress") = py::none(), py::arg("cards") = Cards{});

  module.def(
      "floor",
      [](const std::vector<std::string>& inputs, const py::sequence& outputs,
         const std::vector<CombineJob>& combines, const std::vector<CopyJob>& copies,
         unsigned threads, std::uint64_t slice_bytes, std::uint64_t buffer_bytes,
         bool drop_behind, const py::object& progress) {
        Options options =
            make_options(threads, slice_bytes, buffer_bytes, "", drop_behind, progress);
        options.floor = true;
        const std::vector<Place> places = make_places(outputs);
        const py::gil_scoped_release release;
        merge(inputs, places, combines, copies, options);
      },
      py::arg("inputs"), py::arg("outputs"), py::arg("combines"), py::arg("copies"),
      py::kw_only(), py::arg("threads"), py::arg("slice_bytes"), py::arg("buffer_bytes"),
      py::arg("drop_behind") = false, py::arg("progress") = py::none());

  def_measurement<MeasureJob>(module, "measure", &measure, [](const Measured& one) {
    return py::make_tuple(one.gram, one.nonzero);
  });

  py::class_<SelectJob>(module, "SelectJob")
      .def(py::init([](std::vector<Source> sources, std::uint64_t elements,
                       const std::vector<std::pair<std::int32_t, Rank>>& queries) {
             SelectJob job{std::move(sources), elements, {}};
             for (const auto& [source, rank] : queries)
               job.queries.push_back({source, rank});
             return job;
           }),
           py::kw_only(), py::arg("sources"), py::arg("elements"), py::arg("queries"));

  def_measurement<SelectJob>(module, "select", &select, [](const std::vector<Cut>& job) {
    py::list cuts;
    for (const Cut& cut : job) cuts.append(py::make_tuple(cut.key, cut.ties_end));
    return cuts;
  });

  py::class_<DeltaSumsJob>(module, "DeltaSumsJob")
      .def(py::init([](std::vector<Source> sources, std::uint64_t elements,
                       std::vector<Part> parts, bool counted) {
             return DeltaSumsJob{std::move(sources), elements, std::move(parts), counted};
           }),
           py::kw_only(), py::arg("sources"), py::arg("elements"), py::arg("parts"),
           py::arg("counted") = false);

  def_measurement<DeltaSumsJob>(
      module, "delta_sums", &delta_sums, [](const std::vector<DeltaSums>& job) {
        py::list parts;
        for (const DeltaSums& sums : job)
          parts.append(
              py::make_tuple(sums.all, sums.kept, sums.kept_sq, sums.count, sums.alone));
        return parts;
      });

  module.def("allocate", &File::allocate, py::arg("path"), py::arg("size_bytes"),
             py::call_guard<py::gil_scoped_release>());
  module.def("available_isas", &available_isas);
}
