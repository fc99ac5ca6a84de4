// SPDX-License-Identifier: Apache-2.0
#include "base/ini.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "base/text_file.h"
#include "base/token_csv.h"
#include "neox/error.h"

namespace neox::test {
namespace {

using namespace std::string_view_literals;

Ini parse(std::string_view text) { return Ini::parse(text, "run.ini"); }

/// The message of the Error(kind) that `body` throws.
template <class Body> std::string message_of(Body body, ErrorKind kind = ErrorKind::invalid) {
  try {
    body();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind, kind) << e.what();
    return e.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

bool contains(const std::string& text, std::string_view part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST(Ini, ReadsNamesSetByEqualsOrColonInAnySection) {
  const Ini ini = parse("free=1\n[a]\nx=2\ny : 3\n\n[b]\n  \nx = four words = here\n");
  EXPECT_EQ(ini.integer("", "free"), 1);
  EXPECT_EQ(ini.integer("a", "x"), 2);
  EXPECT_EQ(ini.integer("a", "y"), 3);
  EXPECT_EQ(ini.text("b", "x"), "four words = here");
  EXPECT_FALSE(ini.has("b", "y"));
  EXPECT_FALSE(ini.has("c", "x"));
  EXPECT_EQ(ini.keys("a"), (std::vector<std::string>{"x", "y"}));
}

TEST(Ini, MatchesSectionsAndNamesInAnyCaseAndKeepsTheCaseOfValues) {
  const Ini ini = parse("[GptNeoX_20B]\nHead_Num=64\nName=GptNeoX_20B\n");
  EXPECT_EQ(ini.integer("gptneox_20b", "HEAD_NUM"), 64);
  EXPECT_EQ(ini.text("GPTNEOX_20B", "name"), "GptNeoX_20B");
}

TEST(Ini, TakesLinesThatStartWithSemicolonOrHashForComments) {
  const Ini ini = parse("; a=1\n# b=2\n[s] ; of the section\nc=3\n   ; not a continuation\n   # nor this\n");
  EXPECT_EQ(ini.integer("s", "c"), 3);
  EXPECT_EQ(ini.keys("s").size(), 1u);
  EXPECT_TRUE(ini.keys("").empty());
}

TEST(Ini, EndsAValueAtASemicolonAfterWhiteSpaceOnly) {
  const Ini ini = parse("[s]\na=1 ; comment = here\nb=x;y\nc=\t;nothing\nd=5;touching\n");
  EXPECT_EQ(ini.text("s", "a"), "1");
  EXPECT_EQ(ini.text("s", "b"), "x;y");
  EXPECT_EQ(ini.text("s", "c"), "");
  EXPECT_EQ(ini.integer("s", "d"), 5);
}

TEST(Ini, KeepsATrailingHashInTextAndEndsNumbersBeforeIt) {
  const Ini ini = parse("[s]\na=8 # determined by the request\nb=0.5# half\n");
  EXPECT_EQ(ini.text("s", "a"), "8 # determined by the request");
  EXPECT_EQ(ini.integer("s", "a"), 8);
  EXPECT_EQ(ini.number("s", "b"), 0.5);
}

TEST(Ini, JoinsIndentedLinesToTheValueAbove) {
  const Ini ini = parse("[s]\na=one\n  two ; comment\n\tthree=3\nb=\n  late\n[t]\n  c=1\n");
  EXPECT_EQ(ini.text("s", "a"), "one\ntwo\nthree=3");
  EXPECT_EQ(ini.text("s", "b"), "late");
  EXPECT_EQ(ini.integer("t", "c"), 1) << "nothing stands above it in its section";
}

TEST(Ini, ReadsCarriageReturnsByteOrderMarkAndAMissingLastNewline) {
  const Ini ini = parse("\xEF\xBB\xBF[s]\r\na=7\r\nb=8");
  EXPECT_EQ(ini.text("s", "a"), "7");
  EXPECT_EQ(ini.integer("s", "b"), 8);
}

TEST(Ini, ReadsLinesLongerThanTheLimitOfTheOriginal) {
  const std::string path(5000, 'p');
  EXPECT_EQ(parse("[s]\na=" + path + "\n").text("s", "a"), path);
}

TEST(Ini, ContinuesASectionThatComesAgain) {
  const Ini ini = parse("[s]\na=1\n[t]\na=2\n[S]\nb=3\n");
  EXPECT_EQ(ini.integer("s", "a"), 1);
  EXPECT_EQ(ini.integer("s", "b"), 3);
}

TEST(Ini, ReadsIntegersInBaseZero) {
  const Ini ini = parse("[s]\nhex=0x1F\noct=010\ndec=-12\nplus=+3\nzero=0\nmost=2147483647\nleast=-2147483648\n");
  EXPECT_EQ(ini.integer("s", "hex"), 31);
  EXPECT_EQ(ini.integer("s", "oct"), 8);
  EXPECT_EQ(ini.integer("s", "dec"), -12);
  EXPECT_EQ(ini.integer("s", "plus"), 3);
  EXPECT_EQ(ini.integer("s", "zero"), 0);
  EXPECT_EQ(ini.integer("s", "most"), INT32_MAX);
  EXPECT_EQ(ini.integer("s", "least"), INT32_MIN);
}

TEST(Ini, RefusesWhatIsNoIntegerOf32Bits) {
  for (const char* value :
       {"", "x", "1.5", "8 rows", "08", "0x", "0xg", "--1", "+-1", "2147483648", "-2147483649", "99999999999999999999", "1\n top_k=2"}) {
    const Ini ini = parse("[s]\na=" + std::string(value) + "\n");
    EXPECT_TRUE(contains(message_of([&] { ini.integer("s", "a"); }), "run.ini:2: [s] a: expected an integer")) << value;
  }
}

TEST(Ini, ReadsNumbersWithoutALocale) {
  const Ini ini = parse("[s]\na=1e-5\nb=.5\nc=2.\nd=+0.25\ne=-3\n");
  EXPECT_EQ(ini.number("s", "a"), 1e-5);
  EXPECT_EQ(ini.number("s", "b"), 0.5);
  EXPECT_EQ(ini.number("s", "c"), 2);
  EXPECT_EQ(ini.number("s", "d"), 0.25);
  EXPECT_EQ(ini.number("s", "e"), -3);
}

TEST(Ini, RefusesWhatIsNoFiniteNumber) {
  for (const char* value : {"", "x", "nan", "inf", "-inf", "1e999", "0,5", "0.5f", "+-1", "+"}) {
    const Ini ini = parse("[s]\na=" + std::string(value) + "\n");
    EXPECT_TRUE(contains(message_of([&] { ini.number("s", "a"); }), "[s] a: expected a number, found")) << value;
  }
}

TEST(Ini, NamesFileSectionAndKeyOfWhatIsMissing) {
  const Ini ini = parse("[request]\ntop_k=1\n");
  EXPECT_EQ(message_of([&] { ini.integer("request", "beam_width"); }), "run.ini: [request] beam_width is missing");
  EXPECT_EQ(message_of([&] { ini.text("model", "end_id"); }), "run.ini: [model] end_id is missing, and so is the section");
  EXPECT_EQ(ini.integer_or("request", "beam_width", 4), 4);
  EXPECT_EQ(ini.number_or("model", "x", 0.5), 0.5);
  EXPECT_EQ(ini.text_or("model", "x", "y"), "y");
}

TEST(Ini, ChecksAKeyThatIsThereEvenWhereItMayBeMissing) {
  const Ini ini = parse("[s]\na=x\n");
  message_of([&] { ini.integer_or("s", "a", 1); });
  message_of([&] { ini.number_or("s", "a", 1); });
}

TEST(Ini, NamesTheLineThatIsNoIni) {
  EXPECT_EQ(message_of([] { parse("[s]\n\nnonsense\n"); }), "run.ini:3: expected name=value, found 'nonsense'");
  EXPECT_EQ(message_of([] { parse("[s]\n=1\n"); }), "run.ini:2: expected name=value, found '=1'");
  EXPECT_EQ(message_of([] { parse("a ; b=1\n"); }), "run.ini:1: expected name=value, found 'a ; b=1'");
  EXPECT_EQ(message_of([] { parse("[s\n"); }), "run.ini:1: expected [section], found '[s'");
  EXPECT_EQ(message_of([] { parse("[s] a=1\n"); }), "run.ini:1: expected [section], found '[s] a=1'");
}

TEST(Ini, RefusesANameGivenTwice) {
  EXPECT_EQ(message_of([] { parse("[s]\na=1\nb=2\nA=3\n"); }), "run.ini:4: [s] a is given twice, first on line 2");
}

TEST(Ini, PutsForeignBytesIntoMessagesAsOneLineOfAscii) {
  const Ini ini = parse("[s]\na=\x01\0\xff\n more\n"sv);
  EXPECT_EQ(message_of([&] { ini.integer("s", "a"); }),
            "run.ini:2: [s] a: expected an integer of 32 bits (0x for base 16, a leading 0 for base 8), found '\\x01\\x00\\xff\\nmore'");
  EXPECT_LT(message_of([] { parse(std::string(100000, 'x')); }).size(), 200u);
}

TEST(Ini, SaysWhichFileIsNotThere) {
  EXPECT_TRUE(contains(message_of([] { Ini::read("no/such.ini"); }, ErrorKind::not_found), "no/such.ini"));
  EXPECT_TRUE(contains(message_of([] { Ini::read("/"); }), "found a folder"));
  EXPECT_TRUE(contains(message_of([] { Ini::read("/dev/zero"); }), "at most"));
}

TEST(Ini, ReadsOrRefusesAnyBytesWithoutACrash) {
  std::mt19937 random(1);
  const std::string_view likely =
      "[]=:;#\n\n\t  \r\\\0\xff\xef\xbb\xbf"
      "abx0178.-+e"sv;
  for (int round = 0; round < 20000; ++round) {
    std::string text(random() % 60, '\0');
    for (char& c : text) c = random() % 8 == 0 ? static_cast<char>(random()) : likely[random() % likely.size()];
    try {
      const Ini ini = parse(text);
      for (const char* section : {"", "a", "b"}) {
        for (const std::string& key : ini.keys(section)) {
          EXPECT_TRUE(ini.has(section, key));
          try {
            ini.integer(section, key);
          } catch (const Error&) {}
          try {
            ini.number(section, key);
          } catch (const Error&) {}
        }
      }
    } catch (const Error& e) { EXPECT_EQ(e.kind, ErrorKind::invalid); }
    try {
      for (const auto& row : parse_token_csv(text, "ids.csv")) EXPECT_FALSE(row.empty());
    } catch (const Error& e) { EXPECT_EQ(e.kind, ErrorKind::invalid); }
  }
}

TEST(TokenCsv, ReadsOneRequestALineWithSpacesAllowed) {
  using Rows = std::vector<std::vector<int32_t>>;
  EXPECT_EQ(parse_token_csv("1,2, 3\r\n 4 ,5\n6", "ids.csv"), (Rows{{1, 2, 3}, {4, 5}, {6}}));
  EXPECT_EQ(parse_token_csv("0\n\n  \n", "ids.csv"), (Rows{{0}})) << "empty lines may end the file";
}

TEST(TokenCsv, NamesLineAndFieldThatIsNoId) {
  EXPECT_EQ(message_of([] { parse_token_csv("1,2\n3,x\n", "ids.csv"); }), "ids.csv:2: field 2: expected a token id, found 'x'");
  EXPECT_EQ(message_of([] { parse_token_csv("1,2,\n", "ids.csv"); }), "ids.csv:1: field 3: expected a token id, found ''");
  EXPECT_EQ(message_of([] { parse_token_csv("1\n\n2\n", "ids.csv"); }), "ids.csv:2: field 1: expected a token id, found ''");
  for (const char* field : {"-1", "1.5", "0x10", "2147483648", "1 2", "+1"}) {
    EXPECT_TRUE(contains(message_of([&] { parse_token_csv(field, "ids.csv"); }), "expected a token id")) << field;
  }
  EXPECT_EQ(message_of([] { parse_token_csv(" \n", "ids.csv"); }), "ids.csv: expected one request a line, found none");
}

}  // namespace neox::test
