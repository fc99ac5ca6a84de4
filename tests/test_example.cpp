// SPDX-License-Identifier: Apache-2.0
// What gptneox_example reads: the ini's job, csv files, and the batch that they make.
#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "base/json.h"
#include "base/token_csv.h"
#include "example_batch.h"
#include "example_job.h"
#include "model/config.h"
#include "neox/engine.h"
#include "temp_folder.h"
#include "tiny_model.h"

namespace neox::test {
namespace {

/// An ini of the tiny model; `request` and `instance` are more lines of those sections.
std::string ini_text(const std::string& request = "", const std::string& instance = "", const std::string& model_dir = "model") {
  return "[ft_instance_hyperparameter]\ndata_type=fp32\nmodel_name=m\nmodel_dir=" + model_dir + "\n" +
         (instance.find("tensor_para_size") == std::string::npos ? "tensor_para_size=1\n" : "") + "pipeline_para_size=1\ndevice=cpu\n" +
         instance + "[request]\ntop_k=1\ntop_p=0\ntemperature=1\nrequest_output_len=6\nrequest_batch_size=0\n" +
         (request.find("beam_width") == std::string::npos ? "beam_width=1\n" : "") + request +
         "[m]\nhead_num=2\nsize_per_head=16\nvocab_size=131\ndecoder_layers=2\nrotary_embedding=4\nend_id=0\n";
}

std::string message_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& e) { return e.what(); }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

using Phrases = std::vector<std::vector<int32_t>>;

TEST(PhraseCsv, ReadsPhrasesByTheirEndsAndSkipsWhatFillsUp) {
  EXPECT_EQ(parse_phrase_csv("7768,3908\n1,2\n", "words.csv"), (Phrases{{7768}, {3908}}));
  EXPECT_EQ(parse_phrase_csv("287, 4346, 12\r\n3, -1, -1\r\n\r\n", "words.csv"), (Phrases{{287, 4346, 12}}));
  EXPECT_EQ(parse_phrase_csv("5,6,7,0,0\n1,3,-1,-1,-1", "words.csv"), (Phrases{{5}, {6, 7}}));
  EXPECT_EQ(parse_phrase_csv("0\n-1\n", "words.csv"), Phrases{});
}

TEST(PhraseCsv, NamesFileLineAndFieldOfWhatIsWrong) {
  const std::pair<const char*, const char*> wrong[] = {
      {"1,2\n1\n", "w.csv:2: expected 2 fields, as on line 1, found 1"},
      {"1,2,3\n2,1,-1\n", "w.csv:2: field 2: expected an end from 3 to 3, found 1"},
      {"1,2\n-1,2\n", "w.csv:2: field 2: expected only -1 behind a -1, found 2"},
      {"1,2\n1,-2\n", "w.csv:2: field 2: expected the end of a phrase, or -1, found '-2'"},
      {"1,-2\n1,2\n", "w.csv:1: field 2: expected a token id, found '-2'"},
      {"1\n", "w.csv: expected two lines, ids and where each phrase of them ends, found 1"}};
  for (const auto& [text, message] : wrong) EXPECT_EQ(message_of([text = text] { parse_phrase_csv(text, "w.csv"); }), message) << text;
}

TEST(Example, UnderMpirunThePipelinesRanksAreKeptAndTheTensorsFollow) {
  const Ini ini = Ini::parse(ini_text("", "tensor_para_size=2\n"), "run.ini");
  EXPECT_EQ(read_job(ini, 1).engine.ranks, "threads");
  const Job job = read_job(ini, 4);
  EXPECT_EQ(job.engine.ranks, "mpi");
  EXPECT_EQ(job.engine.tensor_parallel_size, 4);
  EXPECT_EQ(job.notes, std::vector<std::string>{"Setting tensor_para_size to 4"});
  EXPECT_TRUE(read_job(ini, 2).notes.empty());
}

TEST(Example, AKeyThatNobodyReadsIsAWarningInEverySection) {
  for (const char* section : {"[request]\n", "[m]\n", "[ft_instance_hyperparameter]\n"}) {
    std::string text = ini_text();
    text.insert(text.find(section) + std::string_view(section).size(), "tpo_k=1\n");
    const Job job = read_job(Ini::parse(text, "run.ini"), 1);
    ASSERT_EQ(job.warnings.size(), 1u);
    EXPECT_TRUE(job.warnings[0].ends_with("tpo_k is no key that this program reads, so it does nothing")) << job.warnings[0];
  }
  for (const char* section : {"[task_0]\n", "[m_task_1]\n"}) {
    std::string text = ini_text();
    text.append("[other]\na=1\n").append(section).append("task_name=a\nprompt_lenght=3\n");
    const Job job = read_job(Ini::parse(text, "run.ini"), 1);
    ASSERT_EQ(job.warnings.size(), 1u) << section;
    EXPECT_TRUE(job.warnings[0].ends_with("prompt_lenght is no key that this program reads, so it does nothing")) << job.warnings[0];
  }
  EXPECT_TRUE(read_job(Ini::parse(ini_text(), "run.ini"), 1).warnings.empty());
}

TEST(Example, WhatIsOfSamplingAloneIsAWarningWithBeams) {
  const auto warnings = [](const std::string& keys) {
    std::string text = ini_text();
    for (const char* key : {"beam_width=", "top_k=", "top_p=", "temperature="})
      if (const size_t at = text.find(key); at != std::string::npos) text.erase(at, text.find('\n', at) + 1 - at);
    text.insert(text.find("[request]\n") + 10, keys);
    return read_job(Ini::parse(text, "run.ini"), 1).warnings.size();
  };
  EXPECT_EQ(warnings("beam_width=3\ntop_k=1\ntop_p=0\ntemperature=1\n"), 0u);
  EXPECT_EQ(warnings("beam_width=3\ntop_k=1\ntop_p=0\ntemperature=0.5\n"), 1u);
  EXPECT_EQ(warnings("beam_width=3\ntop_k=0\ntop_p=0.9\ntemperature=1\n"), 1u);
  EXPECT_EQ(warnings("beam_width=1\ntop_k=4\ntop_p=0.9\ntemperature=0.5\n"), 0u);
}

TEST(Example, TheShapeOfRandomWeightsIsTheInisForEveryRotarySize) {
  for (int rotary = 0; rotary <= 24; rotary++) {
    std::string text = ini_text();
    text.replace(text.find("rotary_embedding=4"), 18,
                 "rotary_embedding=" + std::to_string(rotary) + "\ninter_size=88\nuse_gptj_residual=0");
    text.replace(text.find("size_per_head=16"), 16, "size_per_head=24");
    const Ini ini = Ini::parse(text, "run.ini");
    const TempFolder folder;
    folder.write("config.json", config_json(ini, read_job(ini, 1), 512));
    const ModelConfig c = read_model_config(folder.path());
    EXPECT_EQ(c.rotary_dim, rotary);
    EXPECT_EQ(c.hidden_size, 48);
    EXPECT_EQ(c.intermediate_size, 88);
    EXPECT_EQ(c.num_hidden_layers, 2);
    EXPECT_EQ(c.max_position_embeddings, 512);
    EXPECT_FALSE(c.use_parallel_residual);
  }
}

TEST(Example, ABatchIsBeamsInOrderEachLineFilledUpWithEndId) {
  const TempFolder folder;
  write_tiny_model(folder, {});
  folder.write("start_ids.csv", "5,6,7\n8\n");
  folder.write("stop_words.csv", "9\n1\n");
  const Ini ini = Ini::parse(ini_text("beam_width=2\n", "", "."), folder.path() + "/run.ini");
  Job job = read_job(ini, 1);
  EXPECT_TRUE(job.bad_words.empty());
  const Input input = read_input(job);
  Engine engine(job.engine);
  const Batch batch = make_batch(ini, job, input, engine.info());
  EXPECT_EQ(batch.sampling.stop_phrases, (Phrases{{9}}));
  const Rows rows = generate(engine, batch);
  ASSERT_EQ(rows.size(), 4u);
  for (size_t i = 0; i < 4; i++) {
    EXPECT_EQ(rows[i].size(), 9u);
    EXPECT_EQ(rows[i][0], i < 2 ? 5 : 8);
  }
  EXPECT_NE(rows[0], rows[1]);
  EXPECT_EQ(rows[2].back(), 0) << "the shorter prompt's line ends with end_id";
}

}  // namespace
}  // namespace neox::test
