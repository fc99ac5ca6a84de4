// SPDX-License-Identifier: Apache-2.0
#include "model/quantization_config.h"

#include <vector>

#include "base/check.h"

namespace neox {
namespace {

constexpr int32_t kGroup = 64;
constexpr DType kModes[] = {DType::i8, DType::w8a8, DType::i4, DType::w4a8};

DType mode_named(const std::string& mode) {
  for (DType t : kModes)
    if (mode == name_of(t)) return t;
  fail(ErrorKind::invalid, "quantization is '", mode, "', expected none, int8, w8a8, int4 or w4a8");
}

/// The value of a key, or null.
const Json& at(const Json& object, const char* key) {
  static const Json null;
  return object.is_object() && object.contains(key) ? object.at(key) : null;
}

void expect(const std::string& where, const Json& object, const char* key, const std::vector<Json>& wanted) {
  std::string list;
  for (const Json& w : wanted) {
    if (at(object, key) == w) return;
    list += (list.empty() ? "" : " or ") + brief(w);
  }
  fail(ErrorKind::unsupported, where, ": ", key, " is ", brief(at(object, key)), ", expected ", list);
}

}  // namespace

Format layer_format(const std::string& mode, int32_t group) {
  const DType t = mode_named(mode);
  if (!is_grouped(t)) {
    require(group == 0, "quantization_group_size is ", group, " with quantization ", mode,
            ", which has a scale for each output: expected none");
    return t;
  }
  if (group == 0) group = kGroup;
  require(group == 32 || group == 64 || group == 128, "quantization_group_size is ", group, ", expected 32, 64 or 128");
  return {t, group};
}

Format head_format(const std::string& mode) { return has_narrow_inputs(mode_named(mode)) ? DType::w8a8 : DType::i8; }

StoredQuantization read_quantization(const Json& config, const std::string& where) {
  StoredQuantization out;
  if (config.is_null()) return out;
  if (at(config, "quant_method") != "compressed-tensors")
    fail(ErrorKind::unsupported, where, ": quant_method is ", brief(at(config, "quant_method")), ", expected compressed-tensors");
  const Json& groups = at(config, "config_groups");
  require(groups.is_object() && !groups.empty(), where, ": config_groups is ", brief(groups), ", expected an object");
  int32_t bits = 8;
  bool narrow_inputs = false, first = true;
  for (const auto& [name, g] : groups.items()) {
    const std::string at_weights = where + ": config_groups." + name + ".weights", at_inputs = where + ": " + name + ".input_activations";
    const Json &w = at(g, "weights"), &x = at(g, "input_activations");
    expect(at_weights, w, "type", {"int"});
    expect(at_weights, w, "num_bits", {8, 4});
    expect(at_weights, w, "symmetric", {true});
    const bool four = at(w, "num_bits") == 4;
    expect(at_weights, w, "strategy", {four ? "group" : "channel"});
    if (four) {
      expect(at_weights, w, "group_size", {32, 64, 128});
      bits = 4, out.group = at(w, "group_size").get<int32_t>();
    }
    if (!x.is_null()) {
      expect(at_inputs, x, "type", {"int"});
      expect(at_inputs, x, "num_bits", {8});
      expect(at_inputs, x, "symmetric", {true});
      expect(at_inputs, x, "dynamic", {true});
      expect(at_inputs, x, "strategy", {"token"});
    }
    require(first || narrow_inputs == !x.is_null(), where, ": config_groups differ in whether inputs are quantised, expected one way");
    narrow_inputs = !x.is_null(), first = false;
  }
  out.mode = name_of(bits == 4 ? (narrow_inputs ? DType::w4a8 : DType::i4) : (narrow_inputs ? DType::w8a8 : DType::i8));
  return out;
}

Quantization choose_quantization(const std::string& mode, int32_t group, const StoredQuantization& stored, DType dtype) {
  Quantization q{.layers = dtype, .head = dtype};
  if (stored.mode.empty()) {
    if (mode == "auto" || mode == "none") {
      require(group == 0, "quantization_group_size is ", group, " without quantization");
      return q;
    }
    q.layers = layer_format(mode, group), q.head = head_format(mode);
  } else {
    const DType held = stored_as(mode_named(stored.mode));
    const bool fits = mode == "auto" || (mode != "none" && stored_as(mode_named(mode)) == held);
    require(fits && (group == 0 || group == stored.group), "quantization is '", mode, "'",
            group ? concat(" with quantization_group_size ", group) : "", ", but the checkpoint has ", name_of(held), " weights",
            stored.group ? concat(" in groups of ", stored.group) : "", ": expected ",
            held == DType::i4 ? "auto, int4 or w4a8" : "auto, int8 or w8a8");
  }
  q.mode = mode == "auto" ? stored.mode : mode;
  q.group = stored.mode.empty() ? q.layers.group : stored.group;
  q.narrow_inputs = has_narrow_inputs(mode_named(q.mode));
  return q;
}

}  // namespace neox
