// The jobs of tvmerge._core: what Python plans, as the engine takes it.
#include "bindings/bindings.hpp"

#include <pybind11/stl.h>

#include <cstring>
#include <string_view>
#include <unordered_map>

#include "engine/job.hpp"
#include "passes/delta_sums.hpp"
#include "passes/divergence.hpp"
#include "passes/line_grams.hpp"
#include "passes/select.hpp"

namespace tvmerge {
namespace {

// Files by the numbers that a plan knows them by, each with the engine's own.
using Numbers = std::unordered_map<std::uint32_t, std::uint32_t>;

py::tuple fields(const py::handle value) { return value.cast<py::tuple>(); }

// (file, offset in bytes, dtype, digested)
Source make_source(const py::tuple& range, const Numbers& inputs) {
  return {inputs.at(range[0].cast<std::uint32_t>()), range[1].cast<std::uint64_t>(),
          parse_dtype(range[2].cast<std::string>()), range[3].cast<bool>()};
}

using ByLine = std::shared_ptr<LineCoefficients>;

// (file, offset in bytes, dtype, reference, coefficients, what is in their place or None)
Output make_output(const py::tuple& result, const Numbers& outputs) {
  const bool by_line = py::isinstance<LineCoefficients>(result[5]);
  return {outputs.at(result[0].cast<std::uint32_t>()),
          result[1].cast<std::uint64_t>(),
          parse_dtype(result[2].cast<std::string>()),
          result[3].cast<std::int32_t>(),
          result[4].cast<std::vector<double>>(),
          by_line ? std::nullopt : result[5].cast<std::optional<Consensus>>(),
          by_line ? result[5].cast<ByLine>() : nullptr};
}

// (tensor, sources, elements, results): a job of tvmerge/engine/jobs.py, taken apart
// here, since Python takes three times as long, for each tensor of a model.
CombineJob make_combine(const py::tuple& job, const Numbers& inputs,
                        const Numbers& outputs) {
  CombineJob made{{}, job[2].cast<std::uint64_t>(), {}};
  for (const py::handle range : fields(job[1]))
    made.sources.push_back(make_source(fields(range), inputs));
  for (const py::handle result : fields(job[3]))
    made.outputs.push_back(make_output(fields(result), outputs));
  return made;
}

}  // namespace

void def_jobs(py::module_& module) {
  py::class_<Source>(module, "Source")
      .def(py::init([](std::uint32_t file, std::uint64_t offset_bytes,
                       const std::string& dtype, bool digested) {
             return Source{file, offset_bytes, parse_dtype(dtype), digested};
           }),
           py::arg("file"), py::arg("offset_bytes"), py::arg("dtype"),
           py::arg("digested") = false);

  py::class_<RowFactors, std::shared_ptr<RowFactors>>(module, "RowFactors")
      .def_readonly("row", &RowFactors::row)
      .def_readonly("factors", &RowFactors::factors);

  py::class_<DrawnMask, std::shared_ptr<DrawnMask>>(module, "DrawnMask")
      .def(py::init<std::uint64_t>(), py::kw_only(), py::arg("elements"));

  using PyCut = std::pair<Key, std::uint64_t>;
  py::class_<Part>(module, "Part")
      .def(
          py::init([](std::int32_t source, double weight, double gain, PyCut outer,
                      PyCut inner, bool of_variance, std::uint64_t random_below,
                      std::uint64_t key, std::uint64_t row, std::uint64_t random_span,
                      double limit, double alone, std::shared_ptr<RowFactors> factors,
                      double threshold, unsigned votes, std::shared_ptr<DrawnMask> mask) {
            return Part{source,
                        weight,
                        gain,
                        {{outer.first, outer.second},
                         {inner.first, inner.second},
                         of_variance,
                         random_below,
                         key,
                         row,
                         random_span,
                         std::move(factors),
                         std::move(mask)},
                        limit,
                        alone,
                        threshold,
                        votes};
          }),
          py::kw_only(), py::arg("source"), py::arg("weight"), py::arg("gain") = 1.0,
          py::arg("outer") = PyCut{kAll.key, kAll.ties_end},
          py::arg("inner") = PyCut{kNone.key, kNone.ties_end},
          py::arg("of_variance") = false, py::arg("random_below") = kAlways,
          py::arg("key") = 0, py::arg("row") = 0, py::arg("random_span") = 0,
          py::arg("limit") = std::numeric_limits<double>::infinity(),
          py::arg("alone") = 1.0, py::arg("factors") = nullptr,
          py::arg("threshold") = 0.0, py::arg("votes") = 1, py::arg("mask") = nullptr);

  py::class_<Consensus>(module, "Consensus")
      .def(
          py::init([](std::vector<Part> parts, double scale, bool elect, bool elect_first,
                      bool normalize, std::size_t least, bool largest) {
            return Consensus{std::move(parts), scale, elect,  elect_first,
                             normalize,        least, largest};
          }),
          py::kw_only(), py::arg("parts"), py::arg("scale"), py::arg("elect"),
          py::arg("elect_first") = false, py::arg("normalize"), py::arg("least") = 0,
          py::arg("largest") = false);

  py::class_<LineCoefficients, ByLine>(module, "LineCoefficients")
      .def(py::init([](std::uint64_t run, std::uint64_t count,
                       std::vector<std::uint32_t> sources, std::string_view values) {
             std::vector<double> held(values.size() / sizeof(double));
             if (!held.empty())
               std::memcpy(held.data(), values.data(), held.size() * sizeof(double));
             return LineCoefficients(Lines{run, count}, std::move(sources),
                                     std::move(held));
           }),
           py::kw_only(), py::arg("run"), py::arg("count"), py::arg("sources"),
           py::arg("values"));

  py::class_<Output>(module, "Output")
      .def(py::init([](std::uint32_t file, std::uint64_t offset_bytes,
                       const std::string& dtype, std::int32_t reference,
                       std::vector<double> coefficients,
                       std::optional<Consensus> consensus, ByLine lines) {
             return Output{file,
                           offset_bytes,
                           parse_dtype(dtype),
                           reference,
                           std::move(coefficients),
                           std::move(consensus),
                           std::move(lines)};
           }),
           py::kw_only(), py::arg("file"), py::arg("offset_bytes"), py::arg("dtype"),
           py::arg("reference"), py::arg("coefficients"),
           py::arg("consensus") = std::nullopt, py::arg("lines") = nullptr);

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

  py::class_<LineGramsJob>(module, "LineGramsJob")
      .def(py::init([](std::vector<Source> sources, std::uint64_t elements,
                       std::vector<double> rows, std::uint64_t run, std::uint64_t count) {
             return LineGramsJob{std::move(sources), elements, std::move(rows),
                                 Lines{run, count}};
           }),
           py::kw_only(), py::arg("sources"), py::arg("elements"), py::arg("rows"),
           py::arg("run"), py::arg("count"));

  py::class_<SelectJob>(module, "SelectJob")
      .def(py::init([](std::vector<Source> sources, std::uint64_t elements,
                       const std::vector<std::pair<std::int32_t, Rank>>& queries,
                       std::shared_ptr<RowFactors> factors) {
             SelectJob job{std::move(sources), elements, {}, std::move(factors)};
             for (const auto& [source, rank] : queries)
               job.queries.push_back({source, rank});
             return job;
           }),
           py::kw_only(), py::arg("sources"), py::arg("elements"), py::arg("queries"),
           py::arg("factors") = nullptr);

  py::class_<DivergenceJob>(module, "DivergenceJob")
      .def(py::init([](std::vector<Source> sources, std::uint64_t elements,
                       std::uint64_t row) {
             return DivergenceJob{std::move(sources), elements, row};
           }),
           py::kw_only(), py::arg("sources"), py::arg("elements"), py::arg("row"));

  py::class_<DeltaSumsJob>(module, "DeltaSumsJob")
      .def(py::init([](std::vector<Source> sources, std::uint64_t elements,
                       std::vector<Part> parts, bool counted, std::int32_t elected) {
             return DeltaSumsJob{std::move(sources), elements, std::move(parts), counted,
                                 elected};
           }),
           py::kw_only(), py::arg("sources"), py::arg("elements"), py::arg("parts"),
           py::arg("counted") = false, py::arg("elected") = -1);
}

}  // namespace tvmerge
