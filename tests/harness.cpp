// SPDX-License-Identifier: Apache-2.0
#include "harness.h"

#include <cctype>
#include <cstring>
#include <sstream>

namespace neox::test {

std::ostream& operator<<(std::ostream& out, const BackendSpec& s) {
  if (s.attention == "unfused") return out << s.device << "_unfused_" << s.unfused_scores;
  if (s.device != "cpu") return out << s.device << (s.deterministic ? "_deterministic" : "");
  return out << s.device << '_' << s.isa << '_' << s.threads << (s.threads == 1 ? "_thread" : "_threads");
}
std::string name_of(const testing::TestParamInfo<BackendSpec>& info) { return testing::PrintToString(info.param); }

std::vector<BackendSpec> cpu_backends() {
  return {{"cpu", "generic", 1}, {"cpu", "generic", 2}, {"cpu", "avx2", 1}, {"cpu", "avx2", 2}, {"cpu", "avx512", 1}, {"cpu", "avx512", 2}};
}
std::vector<BackendSpec> exact_backends() {
  auto backends = cpu_backends();
  backends.push_back({.device = "cuda", .isa = "auto", .threads = 0, .deterministic = true});
  return backends;
}
std::vector<BackendSpec> all_backends() {
  auto backends = exact_backends();
  backends.push_back({.device = "cuda", .isa = "auto", .threads = 0});
  return backends;
}
std::vector<BackendSpec> backends_with_a_baseline() {
  return {{"cpu", "generic", 2}, {"cpu", "avx2", 2}, {"cpu", "avx512", 1}, {"cpu", "avx512", 2}};
}
/// One thread; and one arithmetic for all instruction sets with fused multiply-add.
BackendSpec baseline_of(const BackendSpec& s) { return {s.device, s.isa == "generic" ? "generic" : "avx2", 1}; }

std::unique_ptr<Backend> open(const BackendSpec& s) {
  try {
    auto backend = make_backend({.device = s.device,
                                 .isa = s.isa,
                                 .num_threads = s.threads,
                                 .attention = s.attention,
                                 .unfused_scores = s.unfused_scores,
                                 .deterministic = s.deterministic});
    backend->reserve({.tokens = 1024, .kv = 2048, .heads = 16, .head_dim = 256, .vocab = 65536, .logit_rows = 64, .narrow_inputs = 8192});
    return backend;
  } catch (const Error& e) {
    if (e.kind == ErrorKind::unsupported) return nullptr;
    throw;
  }
}

void OpTest::SetUp() {
  backend_ = open(GetParam());
  if (!backend_) GTEST_SKIP() << "this machine cannot run " << GetParam();
}
void SameBitsTest::SetUp() {
  OpTest::SetUp();
  baseline_ = open(baseline_of(GetParam()));
  if (!baseline_) GTEST_SKIP() << "this machine cannot run " << baseline_of(GetParam());
}

Matrix Random::matrix(int64_t rows, int64_t cols, double low, double high, DType t) {
  Matrix m(rows, cols);
  for (double& x : m.v) x = rounded(rounded(uniform(low, high), DType::f32), t);
  return m;
}

DeviceMatrix::DeviceMatrix(Backend& backend, int64_t rows, int64_t cols, DType dtype, int64_t pad)
    : backend_(backend), memory_(backend, size_t((rows + 2) * (cols + pad)) * size_of(dtype) + 64) {
  const std::string nan(memory_.bytes(), '\xff');  // all ones: a NaN in every type
  backend.upload(memory_.data(), nan.data(), nan.size());
  backend.synchronize();
  view_ = {.data = memory_.data(), .rows = rows, .cols = cols, .ld = cols + pad, .dtype = dtype};
}

DeviceMatrix::DeviceMatrix(Backend& backend, const Matrix& m, DType dtype, int64_t pad)
    : DeviceMatrix(backend, m.rows, m.cols, dtype, pad) {
  std::string host = download();
  for (int64_t r = 0; r < m.rows; r++)
    for (int64_t c = 0; c < m.cols; c++) store_from_f32(host.data(), dtype, r * view_.ld + c, float(m.at(r, c)));
  backend.upload(memory_.data(), host.data(), host.size());
  backend.synchronize();
}

std::string DeviceMatrix::download() const {
  std::string host(memory_.bytes(), '\0');
  backend_.download(host.data(), memory_.data(), host.size());
  backend_.synchronize();
  return host;
}

Matrix DeviceMatrix::values() const {
  const std::string host = download();
  Matrix m(view_.rows, view_.cols);
  for (int64_t r = 0; r < m.rows; r++)
    for (int64_t c = 0; c < m.cols; c++) m.at(r, c) = load_as_f32(host.data(), view_.dtype, r * view_.ld + c);
  return m;
}

std::string DeviceMatrix::bits() const {
  const std::string host = download();
  const size_t size = size_of(view_.dtype);
  std::string out;
  for (int64_t r = 0; r < view_.rows; r++) out += host.substr(size_t(r * view_.ld) * size, size_t(view_.cols) * size);
  return out;
}

bool DeviceMatrix::surroundings_untouched() const {
  std::string host = download();
  const size_t size = size_of(view_.dtype);
  for (int64_t r = 0; r < view_.rows; r++) std::memset(host.data() + size_t(r * view_.ld) * size, 0xff, size_t(view_.cols) * size);
  return host == std::string(host.size(), '\xff');
}

DeviceLinear::DeviceLinear(Backend& backend, const Matrix& weight, const Matrix& bias, Format format, DType source)
    : packed_(backend, backend.packed_bytes(weight.rows, weight.cols, format)),
      bias_(backend, bias, backend.activation_dtype(format.dtype)) {
  std::string host(size_t(weight.rows * weight.cols) * size_of(source), '\0');
  for (size_t i = 0; i < weight.v.size(); i++) store_from_f32(host.data(), source, int64_t(i), float(weight.v[i]));
  linear_.weight = backend.pack(
      packed_.data(), {.data = host.data(), .rows = weight.rows, .cols = weight.cols, .ld = weight.cols, .dtype = source}, format);
  if (bias.rows) linear_.bias = bias_;
  backend.synchronize();
}

double summation_error(const Backend& backend, DType weight) {
  if (backend.name() == "cpu") return 6e-7;
  return weight == DType::f32 ? 3e-6 : 2e-5;  // tensor cores cut off what a sum has below its last bit
}

double relative_error(const Matrix& a, const Matrix& b) {
  if (a.v.size() != b.v.size()) return std::numeric_limits<double>::infinity();
  double difference = 0, norm = 0;
  for (size_t i = 0; i < b.v.size(); i++) difference += (a.v[i] - b.v[i]) * (a.v[i] - b.v[i]), norm += b.v[i] * b.v[i];
  return difference == 0 ? 0 : std::sqrt(difference / norm);
}

std::string describe(std::initializer_list<std::pair<const char*, int64_t>> numbers) {
  std::ostringstream out;
  for (const auto& [name, value] : numbers) out << name << ' ' << value << ' ';
  return out.str();
}

}  // namespace neox::test
