// SPDX-License-Identifier: Apache-2.0
// The formats: torch/serialization.py (_save and _legacy_save) and torch/_utils.py (_rebuild_*).
#include "model/torch_file.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <set>

#include "base/check.h"
#include "base/text_file.h"
#include "base/zip.h"
#include "model/pickle.h"

namespace neox {
namespace {

using Kind = Pickle::Kind;
using Ref = Pickle::Ref;

constexpr int kDeepest = 16;
constexpr size_t kMostVisits = 1 << 20;  // of values on the way to tensors: shared parts of a pickle are walked once for each use
constexpr size_t kLongestName = 1024, kMostDimensions = 64;

struct ElementType {
  size_t bytes;
  std::optional<DType> dtype;  // of those that a weight may have
};

/// By the name of the storage without "Storage".
const std::map<std::string_view, ElementType>& storage_types() {
  static const std::map<std::string_view, ElementType> types{
      {"Float", {4, DType::f32}},  {"Half", {2, DType::f16}}, {"BFloat16", {2, DType::bf16}},
      {"Double", {8, DType::f32}}, {"Long", {8, {}}},         {"Int", {4, {}}},
      {"Short", {2, {}}},          {"Char", {1, {}}},         {"Byte", {1, {}}},
      {"Bool", {1, {}}},           {"ComplexFloat", {8, {}}}, {"ComplexDouble", {16, {}}},
      {"QInt8", {1, {}}},          {"QUInt8", {1, {}}},       {"QInt32", {4, {}}},
      {"Untyped", {1, {}}}};
  return types;
}

const std::map<std::string_view, ElementType>& dtypes() {
  static const std::map<std::string_view, ElementType> types{{"float32", {4, DType::f32}},
                                                             {"float16", {2, DType::f16}},
                                                             {"bfloat16", {2, DType::bf16}},
                                                             {"float64", {8, DType::f32}},
                                                             {"int64", {8, {}}},
                                                             {"int32", {4, {}}},
                                                             {"int16", {2, {}}},
                                                             {"int8", {1, {}}},
                                                             {"uint8", {1, {}}},
                                                             {"uint16", {2, {}}},
                                                             {"uint32", {4, {}}},
                                                             {"uint64", {8, {}}},
                                                             {"bool", {1, {}}},
                                                             {"float8_e4m3fn", {1, {}}},
                                                             {"float8_e5m2", {1, {}}},
                                                             {"complex64", {8, {}}}};
  return types;
}

/// "torch.FloatStorage", "torch.cuda.FloatStorage", "torch.storage.UntypedStorage" -> its type, or null.
const ElementType* storage_type(std::string_view global) {
  for (const std::string_view prefix : {"torch.cuda.", "torch.storage.", "torch."})
    if (global.starts_with(prefix) && global.ends_with("Storage")) {
      global = global.substr(prefix.size(), global.size() - prefix.size() - 7);
      const auto found = storage_types().find(global);
      return found == storage_types().end() ? nullptr : &found->second;
    }
  return nullptr;
}

const ElementType* dtype_type(std::string_view global) {
  if (!global.starts_with("torch.")) return nullptr;
  const auto found = dtypes().find(global.substr(6));
  return found == dtypes().end() ? nullptr : &found->second;
}

bool allowed(const std::string& global) {
  static const std::set<std::string_view> names{"collections.OrderedDict",
                                                "torch.Size",
                                                "torch.device",
                                                "torch._utils._rebuild_tensor",
                                                "torch._utils._rebuild_tensor_v2",
                                                "torch._utils._rebuild_tensor_v3",
                                                "torch._utils._rebuild_parameter",
                                                "torch._utils._rebuild_parameter_with_state"};
  return names.contains(global) || storage_type(global) || dtype_type(global);
}

/// A key or a name in UTF-8 that messages and Python can take: well-formed, no NUL.
bool is_name(std::string_view text) {
  if (text.size() > kLongestName || text.find('\0') != std::string_view::npos) return false;
  for (size_t i = 0; i < text.size();) {
    const auto lead = static_cast<unsigned char>(text[i++]);
    const int more = lead < 0x80                   ? 0
                     : lead >= 0xc2 && lead < 0xe0 ? 1
                     : lead >= 0xe0 && lead < 0xf0 ? 2
                     : lead >= 0xf0 && lead < 0xf5 ? 3
                                                   : -1;
    if (more < 0 || size_t(more) > text.size() - i) return false;
    uint32_t code = lead & (0x7fu >> (more ? more + 1 : 0));
    for (int k = 0; k < more; k++, i++) {
      if ((text[i] & 0xc0) != 0x80) return false;
      code = code << 6 | (static_cast<unsigned char>(text[i]) & 0x3f);
    }
    if ((more == 2 && code < 0x800) || (more == 3 && (code < 0x10000 || code > 0x10ffff)) || (code >= 0xd800 && code < 0xe000))
      return false;
  }
  return true;
}

/// The pickle's tensors, given where the bytes of its storages are.
class Tensors {
 public:
  Tensors(const MappedFile& file, const Pickle& pickle) : file_(file), pickle_(pickle) {}

  struct Storage {
    std::string key;
    std::string_view type_name;
    ElementType type{};
    uint64_t elements = 0, first = 0;  // of the whole storage; where a view of it begins
  };
  /// Of a persistent id: ("storage", type, key, location, elements[, view]).
  Storage storage(Ref persistent) const {
    const auto& id = items(pickle_[persistent].items[0], Kind::tuple, 5, "a persistent id");
    require(pickle_[id[0]].text == "storage", path(), ": a persistent id begins with ", neox::quoted(pickle_[id[0]].text),
            ", expected 'storage'");
    const ElementType* type = storage_type(pickle_[id[1]].name);
    require(type, path(), ": a persistent id names ", neox::quoted(pickle_[id[1]].name), ", expected a type of storage");
    require(pickle_[id[2]].kind == Kind::text && is_name(pickle_[id[2]].text), path(), ": the key of a storage is not text");
    Storage s{.key = std::string(pickle_[id[2]].text),
              .type_name = pickle_[id[1]].name,
              .type = *type,
              .elements = size(id[4], "a storage's size")};
    if (id.size() > 5 && pickle_[id[5]].kind != Kind::none)
      s.first = size(items(id[5], Kind::tuple, 3, "the view of a storage")[1], "the offset of a storage's view");
    return s;
  }
  /// All storages by key, those of the pickle that nothing uses too.
  std::map<std::string, Storage> storages() const {
    std::map<std::string, Storage> out;
    for (Ref r = 0; r < pickle_.values.size(); r++)
      if (pickle_[r].kind == Kind::persistent) {
        Storage s = storage(r);
        const auto [found, is_new] = out.emplace(s.key, s);
        require(is_new || (found->second.type.bytes == s.type.bytes && found->second.elements == s.elements), path(), ": storage ", s.key,
                " is named with two sizes");
      }
    return out;
  }
  std::vector<TorchTensor> read(const std::map<std::string, std::string_view>& bytes) {
    bytes_ = &bytes;
    walk(pickle_.root, "", 0);
    return std::move(out_);
  }

 private:
  const std::string& path() const { return file_.path(); }
  const std::vector<Ref>& items(Ref r, Kind kind, size_t least, const char* what) const {
    const auto& v = pickle_[r];
    require(v.kind == kind && v.items.size() >= least, path(), ": ", what, " is not a tuple of ", least, " or more");
    return v.items;
  }
  uint64_t size(Ref r, const char* what) const {
    require(pickle_[r].kind == Kind::integer && pickle_[r].integer >= 0, path(), ": ", what, " is not a number from 0 on");
    return uint64_t(pickle_[r].integer);
  }
  std::vector<int64_t> sizes(Ref r, const std::string& name) const;
  void walk(Ref r, const std::string& name, int depth);
  void call(const Pickle::Value& v, const std::string& name, int depth);
  void tensor(const std::vector<Ref>& arguments, const ElementType* type, const std::string& name);
  void place(TorchTensor& t, const Storage& s, uint64_t first, size_t element) const;

  const MappedFile& file_;
  const Pickle& pickle_;
  const std::map<std::string, std::string_view>* bytes_ = nullptr;
  size_t visits_ = 0;
  std::set<std::string> names_;
  std::vector<TorchTensor> out_;
};

std::vector<int64_t> Tensors::sizes(Ref r, const std::string& name) const {
  if (pickle_[r].kind == Kind::call) r = items(pickle_[r].items[1], Kind::tuple, 1, "the arguments of torch.Size")[0];
  const auto& list = pickle_[r];
  require((list.kind == Kind::tuple || list.kind == Kind::list) && list.items.size() <= kMostDimensions, path(), ": ", name,
          " has no shape or strides, or more than ", kMostDimensions, " dimensions");
  std::vector<int64_t> out;
  for (const Ref item : list.items) out.push_back(int64_t(size(item, "a shape or stride")));
  return out;
}

void Tensors::walk(Ref r, const std::string& name, int depth) {
  const auto& v = pickle_[r];
  require(++visits_ <= kMostVisits, path(), ": more than ", kMostVisits, " values on the way to its tensors");
  require(depth <= kDeepest, path(), ": nested more than ", kDeepest, " deep at ", neox::quoted(name));
  const auto under = [&](const std::string& key) { return name.empty() ? key : name + "." + key; };
  if (v.kind == Kind::call) call(v, name, depth);
  if (v.kind == Kind::tuple || v.kind == Kind::list)
    for (size_t i = 0; i < v.items.size(); i++) walk(v.items[i], under(std::to_string(i)), depth + 1);
  if (v.kind != Kind::dict) return;
  for (size_t i = 0; i + 1 < v.items.size(); i += 2) {
    const auto& key = pickle_[v.items[i]];
    if (key.kind == Kind::integer) {
      walk(v.items[i + 1], under(std::to_string(key.integer)), depth + 1);
    } else if (key.kind == Kind::text) {
      require(is_name(key.text), path(), ": ", neox::quoted(key.text), " in ", neox::quoted(name),
              " is no name: expected UTF-8 of at most ", kLongestName, " bytes");
      walk(v.items[i + 1], under(std::string(key.text)), depth + 1);
    }
  }
}

void Tensors::call(const Pickle::Value& v, const std::string& name, int depth) {
  const std::string& global = pickle_[v.items[0]].name;
  const auto& arguments = pickle_[v.items[1]].items;
  if (global.starts_with("torch._utils._rebuild_parameter")) {
    require(!arguments.empty(), path(), ": the parameter ", name, " is of nothing");
    walk(arguments[0], name, depth + 1);
  } else if (global.starts_with("torch._utils._rebuild_tensor")) {
    require(arguments.size() >= 4, path(), ": ", name, " is a tensor of ", arguments.size(),
            " parts, expected storage, offset, shape and strides");
    const bool typed = global.ends_with("_v3");
    const ElementType* type = typed && arguments.size() > 6 ? dtype_type(pickle_[arguments[6]].name) : nullptr;
    require(type || !typed, path(), ": ", name, " is a tensor without a type");
    tensor(arguments, type, name.empty() ? "tensor" : name);
  }
}

void Tensors::tensor(const std::vector<Ref>& arguments, const ElementType* type, const std::string& name) {
  require(names_.insert(name).second, path(), ": ", name, " is there twice");
  require(pickle_[arguments[0]].kind == Kind::persistent, path(), ": ", name, " has no storage");
  const Storage s = storage(arguments[0]);
  std::string type_name(s.type_name);
  if (type)
    type_name =
        "torch." + std::string(std::find_if(dtypes().begin(), dtypes().end(), [&](const auto& t) { return &t.second == type; })->first);
  else type = &s.type;
  TorchTensor t{.name = name};
  t.tensor = {.file = &file_, .data = file_.data(), .shape = sizes(arguments[2], name), .strides = sizes(arguments[3], name)};
  require(t.tensor.shape.size() == t.tensor.strides.size(), path(), ": ", name, " has ", t.tensor.shape.size(), " dimensions and ",
          t.tensor.strides.size(), " strides");
  if (type->dtype) {
    t.tensor.dtype = *type->dtype, t.tensor.wide = type->bytes == 8;
    const uint64_t offset = size(arguments[1], "a tensor's offset");
    place(t, s, offset, type->bytes);
  } else {
    t.refusal = "is of type " + type_name + ", expected float32, float16, bfloat16 or float64";
  }
  out_.push_back(std::move(t));
}

/// Finds the tensor's first byte, or says why it has none.
void Tensors::place(TorchTensor& t, const Storage& s, uint64_t offset, size_t element) const {
  const auto found = bytes_->find(s.key);
  require(found != bytes_->end(), path(), ": ", t.name, " is in storage ", s.key, ", which is not there");
  const uint64_t room = found->second.size() / element;
  require(s.elements <= found->second.size() / s.type.bytes, path(), ": storage ", s.key, " of ", t.name, " holds ", found->second.size(),
          " bytes, expected ", s.elements, " elements of ", s.type.bytes, ": is it truncated?");
  std::vector<int64_t>& shape = t.tensor.shape;
  const std::string where = path() + ": " + t.name + " of shape " + shape_text(shape);
  if (std::find(shape.begin(), shape.end(), 0) != shape.end()) return;
  require(s.first <= room && offset <= room - s.first, where, " begins at element ", offset, " of a storage of ", room);
  uint64_t last = s.first + offset, count = 1;
  bool expanded = false;
  for (size_t i = 0; i < shape.size(); i++) {
    const auto steps = uint64_t(shape[i] - 1), stride = uint64_t(t.tensor.strides[i]);
    const auto reach = static_cast<unsigned __int128>(steps) * stride;
    require(reach < room - std::min(room, last), where, " and strides ", shape_text(t.tensor.strides), " from element ", offset,
            " on goes past the end of its storage of ", room);
    last += uint64_t(reach);
    expanded = expanded || uint64_t(shape[i]) > room / count;
    if (!expanded) count *= uint64_t(shape[i]);
  }
  require(last < room, where, " begins at element ", offset, " of a storage of ", room);
  if (expanded)
    t.refusal = concat("has ", shape_text(shape), " elements, more than its storage, which holds ", room, ": expected no expanded view");
  t.tensor.data = found->second.data() + (s.first + offset) * element;
}

std::vector<TorchTensor> read_zip(const MappedFile& file) {
  const ZipArchive zip(file);
  const std::map<std::string, std::string_view>& entries = zip.entries();
  std::string root;
  for (const auto& [name, bytes] : entries)
    if (name.ends_with("/data.pkl") && (root.empty() || name.size() < root.size() + 8)) root = name.substr(0, name.size() - 8);
  require(!root.empty(), file.path(), " is a zip archive without a data.pkl: not a file of torch.save");
  if (const auto order = entries.find(root + "byteorder"); order != entries.end() && order->second != "little")
    fail(ErrorKind::unsupported, file.path(), ": its numbers are ", neox::quoted(order->second), "-endian, expected little");
  const Pickle pickle = read_pickle(entries.at(root + "data.pkl"), file.path(), allowed);
  std::map<std::string, std::string_view> bytes;
  const std::string data = root + "data/";
  for (const auto& [name, value] : entries)
    if (name.starts_with(data)) bytes[name.substr(data.size())] = value;
  return Tensors(file, pickle).read(bytes);
}

constexpr std::string_view kMagic = "\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";  // 0x1950a86a20f9469cfc6c

/// Five pickles: a magic number, the protocol, the machine, the object, the keys of its storages; then these, each after its size.
std::vector<TorchTensor> read_legacy(const MappedFile& file) {
  std::string_view rest(file.data(), file.size());
  const auto next = [&] {
    Pickle p = read_pickle(rest, file.path(), allowed);
    rest.remove_prefix(p.bytes);
    return p;
  };
  const Pickle magic = next();
  require(magic[magic.root].kind == Kind::long_integer && magic[magic.root].text == kMagic, file.path(),
          " is a pickle, but not one of torch.save: expected its magic number first");
  const Pickle protocol = next();
  require(protocol[protocol.root].integer == 1001, file.path(), ": torch's protocol ", protocol[protocol.root].integer, ", expected 1001");
  const Pickle machine = next();
  const auto& fields = machine[machine.root].items;
  for (size_t i = 0; i + 1 < fields.size(); i += 2)
    if (machine[fields[i]].text == "little_endian" && machine[fields[i + 1]].integer == 0)
      fail(ErrorKind::unsupported, file.path(), ": its numbers are big-endian, expected little-endian");
  const Pickle object = next(), keys = next();
  Tensors tensors(file, object);
  const auto storages = tensors.storages();
  std::map<std::string, std::string_view> bytes;
  for (const Ref r : keys[keys.root].items) {
    const std::string key(keys[r].text);
    const auto found = storages.find(key);
    require(found != storages.end(), file.path(), ": storage ", neox::quoted(key), " is listed, but no tensor names it");
    uint64_t elements = 0;
    require(rest.size() >= 8, file.path(), ": the size of storage ", key, " is cut off: is it truncated?");
    std::memcpy(&elements, rest.data(), 8);
    rest.remove_prefix(8);
    const size_t element = found->second.type.bytes;
    require(elements <= rest.size() / element, file.path(), ": storage ", key, " has ", elements, " elements of ", element,
            " bytes, but the file holds ", rest.size(), " more: is it truncated?");
    bytes[key] = rest.substr(0, elements * element);
    rest.remove_prefix(elements * element);
  }
  return tensors.read(bytes);
}

}  // namespace

bool is_torch_file(const MappedFile& file) { return ZipArchive::is_zip(file) || (file.size() > 0 && file.data()[0] == '\x80'); }

std::vector<TorchTensor> read_torch_file(const MappedFile& file) {
  if (ZipArchive::is_zip(file)) return read_zip(file);
  const std::string_view begin(file.data(), std::min<size_t>(file.size(), 512));
  require(!begin.starts_with("version https://git-lfs"), file.path(),
          " is a pointer of Git LFS, and not the file that it stands for: fetch it with git lfs pull");
  require(is_torch_file(file), file.path(), " (", file.size(), " bytes, beginning with ", neox::quoted(begin.substr(0, 16)),
          ") is not a file of torch.save: expected a zip archive, or torch's format before it; torch's first, a tar archive, is not read");
  return read_legacy(file);
}

}  // namespace neox
