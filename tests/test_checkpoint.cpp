// SPDX-License-Identifier: Apache-2.0
// Checkpoints as C++ programs open them.
#include <gtest/gtest.h>

#include <cstring>
#include <map>

#include "base/check.h"
#include "neox/checkpoint.h"
#include "neox/engine.h"
#include "tiny_model.h"
#include "torch_archive.h"

namespace neox::test {
namespace {

std::vector<float> floats(const CheckpointReader& reader, const std::string& name) {
  const StoredTensor t = reader.read(name);
  std::vector<float> out(t.bytes / sizeof(float));
  std::memcpy(out.data(), t.data, t.bytes);
  return out;
}

std::string layer_file(int layer, int rank) { return concat("layer_0", layer, "-model_0", rank, "-model_states.pt"); }

std::string training_name(std::string name) {
  if (name == "gpt_neox.embed_in.weight") return "word_embeddings.weight";
  if (name == "embed_out.weight") return "final_linear.weight";
  if (name.starts_with("gpt_neox.final_layer_norm.")) return "norm." + name.substr(26);
  return name.substr(std::string("gpt_neox.layers.0.").size());
}

int layer_of(const std::string& name, int layers) {
  if (name == "gpt_neox.embed_in.weight") return 0;
  if (name == "embed_out.weight") return layers + 4;
  return name.starts_with("gpt_neox.layers.") ? name[16] - '0' + 2 : layers + 3;
}

/// Columns [first, first + count) of a matrix.
std::vector<float> columns(const std::vector<float>& matrix, int64_t cols, int64_t first, int64_t count) {
  std::vector<float> out;
  for (int64_t row = 0; row < int64_t(matrix.size()) / cols; row++)
    out.insert(out.end(), matrix.begin() + row * cols + first, matrix.begin() + row * cols + first + count);
  return out;
}

/// The model in `from` as two tensor-parallel ranks leave it behind. Its residual is sequential, so that all of a row-parallel layer's
/// biases are copies.
void write_training(const CheckpointReader& from, const TempFolder& to, const TinyModel& model) {
  for (int rank = 0; rank < 2; rank++) {
    std::map<int, StateDict> files;
    for (const std::string& name : from.names()) {
      std::vector<int64_t> shape = from.shape(name);
      std::vector<float> values = floats(from, name);
      const bool norm = name.find("norm") != std::string::npos,
                 row_parallel = name.find("dense.") != name.npos || name.find("4h_to_h.") != name.npos;
      if (row_parallel && shape.size() == 2) {
        values = columns(values, shape[1], rank * shape[1] / 2, shape[1] / 2), shape[1] /= 2;
      } else if (!norm && !row_parallel) {
        const auto half = std::ptrdiff_t(values.size() / 2);
        values =
            rank == 0 ? std::vector<float>(values.begin(), values.begin() + half) : std::vector<float>(values.begin() + half, values.end());
        shape[0] /= 2;
      }
      files[layer_of(name, model.layers)].add(training_name(name), shape, values);
    }
    for (const auto& [layer, state] : files) to.write(layer_file(layer, rank), state.file());
  }
}

TEST(Checkpoint, OfATrainingGivesTheTensorsAndLogitsOfTheSameModelInSafetensors) {
  const TinyModel model{.vocab = 130, .parallel_residual = false};
  const TempFolder safe, training;
  write_tiny_model(safe, model);
  const CheckpointReader want(safe.path());
  write_training(want, training, model);
  try {
    const CheckpointReader no_config(training.path());
    FAIL() << "there is no config.json";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind, ErrorKind::not_found);
    EXPECT_NE(std::string(e.what()).find("neoxnative convert --config-only " + training.path()), std::string::npos) << e.what();
  }
  training.write("config.json", tiny_config(model));
  CheckpointReader got(training.path());
  ASSERT_EQ(got.names(), want.names());
  for (const std::string& name : want.names()) {
    EXPECT_EQ(got.shape(name), want.shape(name)) << name;
    EXPECT_EQ(floats(got, name), floats(want, name)) << name;
    got.done_with(name);
    EXPECT_EQ(floats(got, name), floats(want, name)) << name << ", read again";
  }
  const std::vector<int32_t> ids{1, 2, 3, 4, 5};
  std::vector<float> logits[2];
  for (int i = 0; i < 2; i++) {
    Engine engine({.model = i == 0 ? safe.path() : training.path(), .device = "cpu", .num_threads = 1});
    logits[i].resize(ids.size() * size_t(model.vocab));
    engine.forward(ids, 1, int64_t(ids.size()), logits[i]);
  }
  EXPECT_EQ(logits[0], logits[1]);
}

TEST(Checkpoint, OfAFileHasTheFilesOwnNames) {
  const TempFolder folder;
  StateDict state;
  state.add("prompt", {2, 3}, {1, 2, 3, 4, 5, 6});
  folder.write("prompt.bin", state.file());
  const CheckpointReader reader(folder.path() + "/prompt.bin");
  EXPECT_EQ(reader.names(), std::vector<std::string>{"prompt"});
  EXPECT_EQ(reader.shape("prompt"), (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(reader.dtype("prompt"), "float32");
  EXPECT_EQ(floats(reader, "prompt"), (std::vector<float>{1, 2, 3, 4, 5, 6}));
}

TEST(Checkpoint, OfAFolderWithoutWeightsSaysWhatIsLookedFor) {
  const TempFolder folder;
  try {
    const CheckpointReader reader(folder.path());
    FAIL() << "an empty folder";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind, ErrorKind::not_found);
    for (const char* form :
         {"model.safetensors", "pytorch_model.bin", ".index.json", "layer_*-model_*-model_states.pt", "latest", "config.ini"})
      EXPECT_NE(std::string(e.what()).find(form), std::string::npos) << form << " in " << e.what();
  }
}

}  // namespace
}  // namespace neox::test
