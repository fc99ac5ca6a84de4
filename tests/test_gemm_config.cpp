// SPDX-License-Identifier: Apache-2.0
#include "base/gemm_config.h"

#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <string_view>

#include "base/check.h"
#include "temp_folder.h"

namespace neox::test {
namespace {

const GemmPlace kHere{.gpu = "NVIDIA H200, 132 SMs", .driver = "580.159.04", .cublaslt = "130100"};
const GemmChoice kSome{.algorithm = 66,
                       .custom_option = 1,
                       .tile = 448,
                       .split_k = 4,
                       .swizzle = 0,
                       .reduction = 2,
                       .workspace = 1 << 20,
                       .stages = 35,
                       .inner_shape = 0,
                       .cluster_shape = 3};

GemmConfig some() {
  GemmConfig c{.place = kHere, .lines = {}};
  for (const int rows : {1, 8, 64})
    c.lines[{.type = DType::f16, .n = 768, .k = 256, .rows = rows}] = {.choice = kSome, .milliseconds = 0.5};
  c.lines[{.type = DType::f16, .n = 768, .k = 256, .rows = 8}].choice = {.algorithm = GemmChoice::kOwn};
  c.lines[{.type = DType::f16, .n = 256, .k = 768, .rows = 16}] = {
      .batch = 8, .length = 32, .heads = 4, .head_dim = 64, .choice = {}, .milliseconds = 2};
  return c;
}

/// A file of these lines, with the digest that belongs to them.
std::string file_of(const std::string& lines) {
  const auto digest = [](std::string_view bytes) {
    uint64_t h = 0xcbf29ce484222325;
    for (const char c : bytes) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3;
    char hex[17];
    std::snprintf(hex, sizeof hex, "%016llx", static_cast<unsigned long long>(h));
    return std::string(hex);
  };
  return "neoxnative gemm_config 1; gpu=G; driver=1.2; cublaslt=3; digest=" + digest(lines) + "\n" + lines;
}

const std::string kLine = "8 1 4 64 1 ### 1 768 8 256 66 1 448 4 0 2 1024 35 0 3 0.061400\n";

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  return text.replace(text.find(from), from.size(), to);
}

/// What the Error(invalid) says that `body` throws.
std::string refusal(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind, ErrorKind::invalid);
    return e.what();
  }
  return "nothing was refused";
}
std::string refusal(const std::string& text) {
  return refusal([&] { GemmConfig::parse(text, "gemm_config.in"); });
}

TEST(GemmConfig, WhatIsWrittenIsRead) {
  const GemmConfig wrote = some(), read = GemmConfig::parse(wrote.text(), "file");
  EXPECT_EQ(read.place, kHere);
  EXPECT_NO_THROW(read.require_place(kHere, "file"));
  ASSERT_EQ(read.lines.size(), wrote.lines.size());
  for (const auto& [key, line] : wrote.lines) EXPECT_EQ(read.lines.at(key).choice, line.choice);
  const GemmLine& line = read.lines.at({.type = DType::f16, .n = 256, .k = 768, .rows = 16});
  EXPECT_EQ(line.batch, 8);
  EXPECT_EQ(line.length, 32);
  EXPECT_EQ(line.milliseconds, 2);
}

TEST(GemmConfig, LinesHaveTheColumnsOfFasterTransformer) {
  const GemmConfig c = GemmConfig::parse(file_of(kLine), "file");
  const GemmLine* line = c.find(DType::f16, 768, 256, 8);
  ASSERT_TRUE(line);
  EXPECT_EQ(line->heads, 4);
  EXPECT_EQ(line->choice.tile, 448);
  EXPECT_EQ(line->choice.split_k, 4);
  EXPECT_EQ(line->choice.workspace, 1024);
  EXPECT_EQ(line->choice.cluster_shape, 3);
  EXPECT_DOUBLE_EQ(line->milliseconds, 0.0614);
  const std::string text = c.text();
  EXPECT_EQ(text.substr(text.find('\n') + 1), kLine);
  EXPECT_LT(text.find('\n'), 1024);  // what FasterTransformer has room for
}

TEST(GemmConfig, RowsMapToTheNextTunedOnes) {
  const GemmConfig c = some();
  const auto found = [&](int64_t rows) { return c.find(DType::f16, 768, 256, rows); };
  EXPECT_EQ(found(1), &c.lines.at({.type = DType::f16, .n = 768, .k = 256, .rows = 1}));
  for (const int64_t rows : {2, 7, 8}) EXPECT_EQ(found(rows)->choice.algorithm, GemmChoice::kOwn) << rows;
  for (const int64_t rows : {9, 64}) EXPECT_EQ(found(rows)->choice, kSome) << rows;
  EXPECT_EQ(found(65), nullptr);
  EXPECT_EQ(found(int64_t(1) << 40), nullptr);
  EXPECT_EQ(c.find(DType::f16, 256, 768, 1)->choice.algorithm, GemmChoice::kDefault);
}

TEST(GemmConfig, OtherTypesAndShapesFindNothing) {
  const GemmConfig c = some();
  EXPECT_EQ(c.find(DType::bf16, 768, 256, 1), nullptr);
  EXPECT_EQ(c.find(DType::f32, 768, 256, 1), nullptr);
  EXPECT_EQ(c.find(DType::f16, 768, 255, 1), nullptr);
  EXPECT_EQ(c.find(DType::f16, 767, 256, 1), nullptr);
  EXPECT_EQ(c.find(DType::f16, 769, 256, 1), nullptr);
}

TEST(GemmConfig, OfTwoLinesForTheSameProductTheLaterOneCounts) {
  const GemmConfig c = GemmConfig::parse(file_of(kLine + replaced(kLine, " 448 ", " 449 ")), "file");
  EXPECT_EQ(c.lines.size(), 1);
  EXPECT_EQ(c.find(DType::f16, 768, 256, 8)->choice.tile, 449);
}

TEST(GemmConfig, AFileOfAnotherPlaceIsRefusedNamingBoth) {
  for (const auto& [from, to] : {std::pair("H200", "A100"), std::pair("580.159.04", "570.1"), std::pair("130100", "120900")}) {
    const GemmConfig c = GemmConfig::parse(replaced(some().text(), from, to), "file");
    const std::string said = refusal([&] { c.require_place(kHere, "file"); });
    EXPECT_NE(said.find(from), std::string::npos) << said;
    EXPECT_NE(said.find(to), std::string::npos) << said;
  }
}

TEST(GemmConfig, AFileCutShortAnywhereIsRefused) {
  const std::string text = some().text();
  for (size_t length = 0; length < text.size(); length++) EXPECT_NE(refusal(text.substr(0, length)), "nothing was refused") << length;
}

TEST(GemmConfig, AnEditOfAnyByteOfALineIsRefused) {
  const std::string text = some().text();
  for (size_t i = text.find('\n') + 1; i < text.size(); i++) {
    std::string edited = text;
    edited[i] = edited[i] == '7' ? '8' : '7';
    EXPECT_NE(refusal(edited).find("cut short or edited"), std::string::npos) << i;
  }
}

TEST(GemmConfig, LinesThatAreNoLinesAreRefusedNamingLineAndColumn) {
  const auto said = [](const std::string& lines, const std::string& what) {
    const std::string message = refusal(file_of(lines));
    EXPECT_NE(message.find(what), std::string::npos) << message;
  };
  said("", "expected lines after the first, found none");
  said("\n", "line 2: expected 21 columns, found 0");
  said(kLine + "\n", "line 3: expected 21 columns, found 0");
  said(replaced(kLine, " 0.061400", ""), "line 2: expected 21 columns, found 20");
  said(replaced(kLine, " 0.061400", " 1 2"), "line 2: expected 21 columns, found 22");
  said(kLine.substr(0, kLine.size() - 1), "line 2 has no end");
  said(replaced(kLine, "###", "##"), "line 2: column ###: expected ###, found '##'");
  said(replaced(kLine, " 448 ", " x "), "line 2: column tile: expected an integer, found 'x'");
  said(replaced(kLine, " 448 ", " 4.5 "), "line 2: column tile: expected an integer, found '4.5'");
  said(replaced(kLine, " 448 ", " 99999999999 "), "line 2: column tile: expected an integer, found '99999999999'");
  said(replaced(kLine, " 0.061400", " nan"), "column exec_time: expected a number, found 'nan'");
  said(replaced(kLine, " 64 1 ", " 64 4 "), "column data_type: expected 0, 1 or 2, found 4");
  said(replaced(kLine, "### 1 ", "### 2 "), "column batchCount: expected 1, found 2");
  said(replaced(kLine, " 768 ", " 0 "), "column n: expected at least 1, found 0");
  said(replaced(kLine, " 66 ", " -3 "), "column algoId: expected at least -2, found -3");
  said(replaced(kLine, " 66 ", " -2 "), "expected -1 in the columns after an algoId of -2");
}

TEST(GemmConfig, AFileOfFasterTransformerIsRefused) {
  EXPECT_NE(refusal("batch_size, seq_len, head_num, size_per_head dataType ### batchCount, n, m, k, algoId\n" + kLine).find("gpt_gemm"),
            std::string::npos);
}

TEST(GemmConfig, IsReadFromAFile) {
  const TempFolder folder;
  folder.write("gemm_config.in", some().text());
  EXPECT_EQ(GemmConfig::read(folder.path() + "/gemm_config.in").lines.size(), 4);
  EXPECT_THROW(GemmConfig::read(folder.path() + "/other"), Error);
  EXPECT_NE(refusal([&] { GemmConfig::read(folder.path()); }).find("found a folder"), std::string::npos);
}

}  // namespace
}  // namespace neox::test
