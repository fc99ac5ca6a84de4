// SPDX-License-Identifier: Apache-2.0
#include "engine/ranks.h"

#include <algorithm>
#include <span>

#include "base/check.h"
#include "comm/mpi.h"
#include "comm/solo.h"
#include "comm/thread_group.h"
#include "engine/checks.h"
#include "model/ft_config.h"

namespace neox {

namespace {

ErrorKind kind_of(const std::exception& e) {
  const auto* error = dynamic_cast<const Error*>(&e);
  return error ? error->kind : ErrorKind::runtime;
}

std::vector<std::unique_ptr<HostGroup>> make_groups(const EngineConfig& c) {
  require(c.tensor_parallel_size >= 1, "tensor_parallel_size is ", c.tensor_parallel_size, ", expected 1 or more");
  require(c.pipeline_parallel_size >= 1, "pipeline_parallel_size is ", c.pipeline_parallel_size, ", expected 1 or more");
  require(c.comm_timeout > 0, "comm_timeout is ", c.comm_timeout, ", expected more than 0 seconds");
  require(c.ranks == "threads" || c.ranks == "mpi", "ranks is '", c.ranks, "', expected threads or mpi");
  const int64_t size = int64_t(c.tensor_parallel_size) * c.pipeline_parallel_size;
  require(size <= 1024, "tensor_parallel_size ", c.tensor_parallel_size, " * pipeline_parallel_size ", c.pipeline_parallel_size, " is ",
          size, " ranks, expected at most 1024");
  if (c.ranks == "threads" && size > 1) return make_thread_groups(int(size), c.comm_timeout);
  std::vector<std::unique_ptr<HostGroup>> groups;
  if (c.ranks == "mpi") groups.push_back(make_mpi_group({.comm = c.mpi_comm, .library = c.mpi_library, .timeout = c.comm_timeout}));
  else groups.push_back(std::make_unique<SoloGroup>());
  if (c.ranks == "mpi")
    require(groups[0]->size() == size, "tensor_parallel_size ", c.tensor_parallel_size, " * pipeline_parallel_size ",
            c.pipeline_parallel_size, " is ", size, ", expected the number of MPI ranks, ", groups[0]->size());
  return groups;
}

}  // namespace

Rank::Rank(EngineConfig& config, HostGroup& group, std::vector<std::string>& warnings) : group_(group), executor_(config, group, warnings) {
  if (group.rank() != 0) told_.emplace(executor_.limits());
}

void Rank::run(const StepBuffer& buffer) {
  group_.doing = {.step = ++steps_, .what = "its beginning"};
  executor_.enqueue(buffer);
  if (samples() && group_.rank() != 0) report(buffer);
}

void Rank::report(const StepBuffer& buffer) {
  const Executor::Result& r = executor_.collect(buffer.ring_slot());
  const auto send = [&](const auto& list) { group_.send(0, Channel::results, list.data(), list.size() * sizeof(list[0])); };
  send(r.samples);
  send(r.top_ids);
  send(r.top_logprobs);
  send(r.candidates);
  for (const auto& sink : buffer.sinks()) send(std::span(sink.to, size_t(executor_.model().vocab_size)));
}

std::string Rank::follow() {
  StepBuffer& buffer = *told_;
  for (;;) {
    const size_t bytes = group_.recv(0, Channel::steps, buffer.message(), buffer.capacity(), HostGroup::Patience::forever);
    buffer.read_message(bytes, samples() ? &logits_ : nullptr);
    if (buffer.order() == StepBuffer::Order::leave) return recv_text(group_, 0, Channel::steps);
    if (buffer.order() == StepBuffer::Order::step) {
      run(buffer);
      continue;
    }
    const int32_t where = executor_.probe(buffer);
    group_.send(0, Channel::probes, &where, sizeof where);
  }
}

Ranks::Ranks(EngineConfig& config, std::vector<std::string>& warnings) {
  auto groups = make_groups(config);
  config.model = model_folder(config.model, config.tensor_parallel_size);
  group_ = std::move(groups[0]);
  groups.erase(groups.begin());
  try {
    if (config.ranks == "mpi" && group_->size() > 1) agree(*group_, what_ranks_share(config));
    start_threads(config, std::move(groups));
    own_ = std::make_unique<Rank>(config, *group_, warnings);
  } catch (const std::exception& e) {
    fail(e);
    for (auto& t : threads_) t.join();
    throw;
  }
  max_logprobs_ = config.max_logprobs;
  due_.resize(size_t(executor().limits().slots));
  results_.resize(due_.size());
}

Ranks::~Ranks() {
  if (threads_.empty()) return;
  try {
    release("");
  } catch (const std::exception& e) { fail(e); }
  for (auto& t : threads_) t.join();
}

void Ranks::start_threads(const EngineConfig& config, std::vector<std::unique_ptr<HostGroup>> groups) {
  for (auto& group : groups)
    threads_.emplace_back([config = EngineConfig(config), group = std::move(group)]() mutable {
      try {
        std::vector<std::string> warnings;  // rank 0 has the same
        Rank(config, *group, warnings).follow();
      } catch (const std::exception& e) { group->abort(kind_of(e), e.what()); }
    });
}

void Ranks::fail(const std::exception& why) noexcept { group_->abort(kind_of(why), why.what()); }

void Ranks::tell(const StepBuffer& buffer) {
  for (int r = 1; r < group_->size(); r++) group_->send(r, Channel::steps, buffer.data(), buffer.bytes());
}

void Ranks::enqueue(StepBuffer& buffer) {
  buffer.set_order(StepBuffer::Order::step);
  tell(buffer);
  own_->run(buffer);
  const size_t samples = size_t(buffer.samples()), top = buffer.top_n() > 0 ? samples * size_t(max_logprobs_) : 0;
  if (!own_->samples())
    due_[size_t(buffer.ring_slot())] = {.samples = samples, .top = top, .candidates = size_t(buffer.candidates()), .sinks = buffer.sinks()};
}

void Ranks::receive(int from, Channel channel, void* data, size_t bytes) {
  const size_t got = group_->recv(from, channel, data, bytes);
  if (got != bytes) neox::fail(ErrorKind::runtime, "rank ", from, " sent ", got, " bytes of results, expected ", bytes);
}

const Executor::Result& Ranks::collect(int32_t slot) {
  if (own_->samples()) return own_->executor().collect(slot);
  const Due& due = due_[size_t(slot)];
  Executor::Result& r = results_[size_t(slot)];
  group_->doing.what = "results", group_->doing.nth = 0;
  const int from = group_->size() - executor().shard().ranks;
  r.top_ld = due.top > 0 ? max_logprobs_ : 0;
  r.samples.resize(due.samples), r.top_ids.resize(due.top), r.top_logprobs.resize(due.top), r.candidates.resize(due.candidates);
  receive(from, Channel::results, r.samples.data(), due.samples * sizeof(Sample));
  receive(from, Channel::results, r.top_ids.data(), due.top * sizeof(int32_t));
  receive(from, Channel::results, r.top_logprobs.data(), due.top * sizeof(float));
  receive(from, Channel::results, r.candidates.data(), due.candidates * sizeof(Candidate));
  for (const auto& sink : due.sinks) receive(from, Channel::results, sink.to, size_t(executor().model().vocab_size) * sizeof(float));
  return r;
}

std::string Ranks::locate_non_finite(const Sequence& sequence, int32_t length) {
  StepLimits exact = executor().limits();
  exact.recorded.clear();
  if (sequence.table.size() * exact.block_size < length) return "a place that cannot be told, its pages being gone";
  const auto copy = std::make_shared<Sequence>(sequence);  // the same numbers go to the same places of its pages
  copy->logits_out = nullptr, copy->params = {}, copy->group = nullptr;
  int32_t where = Executor::kAllFinite;
  StepBuffer buffer(exact);
  int32_t probes = 0;
  for (int32_t start = copy->prefix_length, count; start < length; start += count, probes++) {
    count = std::min(exact.tokens, length - start);
    if (copy->soft_rows(start, count) > exact.embed_rows) count = std::max(0, copy->soft_begin - start) + exact.embed_rows;
    StepPlan plan{.copies = {}, .chunks = {}, .tokens = count};
    plan.chunks.push_back({.sequence = copy, .preemptions = 0, .start = start, .count = count, .first_score = 0, .scores = 0, .draws = 0});
    buffer.fill(plan, 0);
    buffer.set_order(StepBuffer::Order::probe);
    tell(buffer);
    where = std::min(where, own_->executor().probe(buffer));
  }
  for (int r = 1; r < group_->size(); r++)
    for (int32_t i = 0, found; i < probes; i++) {
      receive(r, Channel::probes, &found, sizeof found);
      where = std::min(where, found);
    }
  if (where < 0) return "the embedding";
  if (where == Executor::kAllFinite) return "the final norm or the head";
  return concat("layer ", where);
}

void Ranks::release(const std::string& word) {
  StepBuffer buffer(StepLimits{.tokens = 0, .seqs = 0, .blocks_per_seq = 0, .block_size = 0, .vocab = 0, .edit_words = 0});
  buffer.fill_leave();
  tell(buffer);
  for (int r = 1; r < group_->size(); r++) send_text(*group_, r, Channel::steps, word);
}

void Ranks::meet(const std::string& call) {
  call_ = call.substr(0, call.find('\n'));
  group_->doing = {.step = 0, .what = call_.c_str()};
  agree(*group_, call);
}

}  // namespace neox
