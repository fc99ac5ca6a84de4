// SPDX-License-Identifier: Apache-2.0
// The opcodes are those of Python's Lib/pickletools.py. Those that only protocols 0 and 1 write are refused.
#include "model/pickle.h"

#include <bit>
#include <cstring>
#include <unordered_map>

#include "base/check.h"
#include "base/text_file.h"

namespace neox {
namespace {

using Kind = Pickle::Kind;
using Ref = Pickle::Ref;
using Value = Pickle::Value;

constexpr size_t kMostValues = 1 << 21;  // of a checkpoint of ten thousand tensors there are less than a tenth
constexpr size_t kLongestName = 256;

class Machine {
 public:
  Machine(std::string_view input, const std::string& what, const std::function<bool(const std::string&)>& allowed)
      : in_(input), what_(what), allowed_(allowed) {}

  Pickle run() {
    while (!step(static_cast<unsigned char>(take(1)[0]))) {}
    out_.root = pop();
    out_.bytes = at_;
    return std::move(out_);
  }

 private:
  bool step(unsigned char op);  // true at the end
  void constant(unsigned char op);
  void collect(unsigned char op);
  void refer(unsigned char op);
  void call(unsigned char op);

  template <class... Parts> [[noreturn]] void wrong(const Parts&... parts) const {
    fail(ErrorKind::invalid, what_, ": the pickle is broken at byte ", opcode_at_, ": ", parts...);
  }
  std::string_view take(uint64_t bytes) {
    if (bytes > in_.size() - at_) wrong("it needs ", bytes, " more bytes, but ends after ", in_.size() - at_);
    const std::string_view out = in_.substr(at_, size_t(bytes));
    at_ += size_t(bytes);
    return out;
  }
  template <class T> T number() {
    T value;
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    return value;
  }
  std::string_view line() {
    const size_t end = in_.substr(at_, kLongestName + 1).find('\n');
    if (end == std::string_view::npos) wrong("a name of more than ", kLongestName, " bytes, or without an end");
    const std::string_view text = take(end);
    take(1);
    return text;
  }

  void push(Value value) {
    if (out_.values.size() >= kMostValues) wrong("more than ", kMostValues, " values");
    out_.values.push_back(std::move(value));
    stack_.push_back(Ref(out_.values.size() - 1));
  }
  void push_integer(int64_t n) { push({.kind = Kind::integer, .integer = n}); }
  Ref top() const {
    if (stack_.size() <= floor()) wrong("its stack is empty");
    return stack_.back();
  }
  Ref pop() {
    const Ref r = top();
    stack_.pop_back();
    return r;
  }
  size_t floor() const { return marks_.empty() ? 0 : marks_.back(); }
  /// All that was pushed since the last mark, which goes.
  std::vector<Ref> pop_mark() {
    if (marks_.empty()) wrong("there is no mark");
    std::vector<Ref> items(stack_.begin() + std::ptrdiff_t(marks_.back()), stack_.end());
    stack_.resize(marks_.back());
    marks_.pop_back();
    return items;
  }
  std::vector<Ref> pop_items(size_t n) {
    std::vector<Ref> items(n);
    while (n-- > 0) items[n] = pop();
    return items;
  }
  Value& container(Kind kind, const char* name) {
    Value& v = out_.values[top()];
    if (v.kind != kind) wrong("expected a ", name, " to put something into");
    return v;
  }
  void extend(Kind kind, const char* name, const std::vector<Ref>& items) {
    if (kind == Kind::dict && items.size() % 2 != 0) wrong("a key without a value");
    Value& v = container(kind, name);
    v.items.insert(v.items.end(), items.begin(), items.end());
  }
  void push_global(std::string_view module, std::string_view name) {
    const std::string full = std::string(module) + "." + std::string(name);
    require(allowed_(full), what_, ": the pickle names ", printable(full, kLongestName),
            ", which is not part of a checkpoint's tensors: refused, and nothing of it was executed");
    push({.kind = Kind::global, .name = full});
  }
  void remember(uint64_t index) {
    if (index > UINT32_MAX) wrong("memo ", index, " of a pickle of ", in_.size(), " bytes");
    memo_[uint32_t(index)] = top();
  }
  void recall(uint32_t index) {
    const auto found = memo_.find(index);
    if (found == memo_.end()) wrong("memo ", index, " was never stored");
    stack_.push_back(found->second);
  }
  void push_long(std::string_view bytes) {
    if (bytes.size() > 8) return push({.kind = Kind::long_integer, .text = bytes});
    uint64_t n = 0;
    std::memcpy(&n, bytes.data(), bytes.size());
    if (!bytes.empty() && bytes.size() < 8 && (bytes.back() & 0x80)) n |= ~uint64_t(0) << (8 * bytes.size());  // two's complement
    push_integer(int64_t(n));
  }

  const std::string_view in_;
  const std::string& what_;
  const std::function<bool(const std::string&)>& allowed_;
  size_t at_ = 0, opcode_at_ = 0;
  Pickle out_;
  std::vector<Ref> stack_;
  std::vector<size_t> marks_;  // places in stack_
  std::unordered_map<uint32_t, Ref> memo_;
};

bool Machine::step(unsigned char op) {
  opcode_at_ = at_ - 1;
  switch (op) {
    case '.': return true;
    case 0x80:  // PROTO
      if (const int version = number<uint8_t>(); version > 5) wrong("protocol ", version, ", expected at most 5");
      break;
    case 0x95: number<uint64_t>(); break;  // FRAME
    case '(': marks_.push_back(stack_.size()); break;
    case '0': pop(); break;
    case '1': pop_mark(); break;
    case '2': stack_.push_back(top()); break;
    case 'N':
    case 0x88:
    case 0x89:
    case 'K':
    case 'M':
    case 'J':
    case 0x8a:
    case 0x8b:
    case 'G': constant(op); break;
    case 'X': push({.kind = Kind::text, .text = take(number<uint32_t>())}); break;
    case 0x8c: push({.kind = Kind::text, .text = take(number<uint8_t>())}); break;
    case 0x8d: push({.kind = Kind::text, .text = take(number<uint64_t>())}); break;
    case 'U': push({.kind = Kind::text, .text = take(number<uint8_t>())}); break;  // a str of Python 2
    case 'T': push({.kind = Kind::text, .text = take(number<uint32_t>())}); break;
    case 'B': push({.kind = Kind::bytes, .text = take(number<uint32_t>())}); break;
    case 'C': push({.kind = Kind::bytes, .text = take(number<uint8_t>())}); break;
    case 0x8e: push({.kind = Kind::bytes, .text = take(number<uint64_t>())}); break;
    case ')':
    case 't':
    case 0x85:
    case 0x86:
    case 0x87:
    case ']':
    case 'l':
    case 'a':
    case 'e':
    case '}':
    case 'd':
    case 's':
    case 'u': collect(op); break;
    case 'q':
    case 'r':
    case 0x94:
    case 'h':
    case 'j': refer(op); break;
    case 'c':
    case 0x93:
    case 'R':
    case 0x81:
    case 'b':
    case 'Q':
    case 'i': call(op); break;
    default: wrong("opcode ", int(op), " (", printable(std::string(1, char(op))), "), which no checkpoint has");
  }
  return false;
}

void Machine::constant(unsigned char op) {
  switch (op) {
    case 'N': push({}); break;
    case 0x88:
    case 0x89: push({.kind = Kind::boolean, .integer = op == 0x88}); break;
    case 'K': push_integer(number<uint8_t>()); break;
    case 'M': push_integer(number<uint16_t>()); break;
    case 'J': push_integer(number<int32_t>()); break;
    case 0x8a: push_long(take(number<uint8_t>())); break;
    case 0x8b: push_long(take(number<uint32_t>())); break;
    default: push({.kind = Kind::real, .real = std::bit_cast<double>(__builtin_bswap64(number<uint64_t>()))});  // 'G', big-endian
  }
}

void Machine::collect(unsigned char op) {
  switch (op) {
    case ')': push({.kind = Kind::tuple}); break;
    case ']': push({.kind = Kind::list}); break;
    case '}': push({.kind = Kind::dict}); break;
    case 't': push({.kind = Kind::tuple, .items = pop_mark()}); break;
    case 'l': push({.kind = Kind::list, .items = pop_mark()}); break;
    case 'd': {
      const std::vector<Ref> items = pop_mark();
      push({.kind = Kind::dict});
      extend(Kind::dict, "dict", items);
      break;
    }
    case 'a': extend(Kind::list, "list", pop_items(1)); break;
    case 'e': extend(Kind::list, "list", pop_mark()); break;
    case 's': extend(Kind::dict, "dict", pop_items(2)); break;
    case 'u': extend(Kind::dict, "dict", pop_mark()); break;
    default: push({.kind = Kind::tuple, .items = pop_items(op - 0x84u)});  // TUPLE1 to TUPLE3
  }
}

void Machine::refer(unsigned char op) {
  switch (op) {
    case 'q': remember(number<uint8_t>()); break;
    case 'r': remember(number<uint32_t>()); break;
    case 0x94: remember(memo_.size()); break;
    case 'h': recall(number<uint8_t>()); break;
    default: recall(number<uint32_t>());
  }
}

void Machine::call(unsigned char op) {
  if (op == 'c' || op == 'i') {  // INST is a call of what it names
    const std::string_view module = line(), name = line();
    push_global(module, name);
    if (op == 'i') wrong("opcode INST, which no checkpoint has");
  } else if (op == 0x93) {
    const Ref name = pop(), module = pop();
    if (out_[name].kind != Kind::text || out_[module].kind != Kind::text) wrong("a global whose name is not text");
    push_global(out_[module].text, out_[name].text.substr(0, kLongestName));
  } else if (op == 'Q') {
    const Ref id = pop();
    push({.kind = Kind::persistent, .items = {id}});
  } else if (op == 'b') {
    pop();  // a state: the metadata of a state_dict. Nothing else that is let in has one
    container(Kind::dict, "dict");
  } else {
    const Ref arguments = pop(), global = pop();
    if (out_[global].kind != Kind::global || out_[arguments].kind != Kind::tuple) wrong("a call of something that is no global");
    push({.kind = Kind::call, .items = {global, arguments}});
    if (out_[global].name != "collections.OrderedDict") return;
    if (!out_[arguments].items.empty()) wrong("an OrderedDict made with arguments");
    out_.values.back() = {.kind = Kind::dict};
  }
}

}  // namespace

Pickle read_pickle(std::string_view input, const std::string& what, const std::function<bool(const std::string&)>& allowed) {
  return Machine(input, what, allowed).run();
}

}  // namespace neox
