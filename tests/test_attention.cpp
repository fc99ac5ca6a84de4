// SPDX-License-Identifier: Apache-2.0
// attention: rotate q and k, store k and v in their pages, attend causally. copy_blocks: pages elsewhere hold the same.
#include <bit>

#include "attention_cases.h"

namespace neox::test {
namespace {

const std::vector<int> kRagged = {1, 15, 16, 17, 33, 130, 5, 64};
constexpr int kHeadDims[] = {8, 16, 24, 32, 40, 64, 80, 96, 128, 200, 256};

std::vector<DType> page_types(const Backend& backend) {
  std::vector<DType> types(std::begin(kDTypes), std::end(kDTypes));
  if (backend.name() == "cpu") types.push_back(DType::i8);
  return types;
}

std::vector<BackendSpec> attention_backends() {
  auto backends = all_backends();
  backends.push_back({"cuda", "auto", 0, "unfused"});
  return backends;
}

void expect_reference(Backend& backend, const Shape& shape, const Schedule& schedule, const Surroundings& around = {}, double more = 1) {
  const Sequences sequences = make_sequences(shape, backend.activation_dtype(shape.kv));
  const std::vector<Matrix> want = reference_outputs(sequences), got = run(backend, sequences, schedule, around);
  for (size_t s = 0; s < want.size(); s++)
    EXPECT_LE(relative_error(got[s], want[s]), more * attention_error(backend, shape.kv)) << describe({{"heads", shape.heads},
                                                                                                       {"head_dim", shape.head_dim},
                                                                                                       {"half", shape.half},
                                                                                                       {"kv", int(shape.kv)},
                                                                                                       {"block", shape.block},
                                                                                                       {"length", shape.lengths[s]}});
}

/// Outputs are f32 or 16-bit values held exactly in doubles, so equal numbers are equal bits; signs of zeros are looked at, too.
bool same_bits(const std::vector<Matrix>& a, const std::vector<Matrix>& b) {
  for (size_t s = 0; s < a.size(); s++)
    for (size_t i = 0; i < a[s].v.size(); i++)
      if (std::bit_cast<uint64_t>(a[s].v[i]) != std::bit_cast<uint64_t>(b[s].v[i])) return false;
  return a.size() == b.size();
}

}  // namespace

class AttentionOp : public OpTest {};
INSTANTIATE_TEST_SUITE_P(On, AttentionOp, testing::ValuesIn(attention_backends()), name_of);
class AttentionWithScoresOfTheModelsType : public OpTest {};
INSTANTIATE_TEST_SUITE_P(On, AttentionWithScoresOfTheModelsType, testing::Values(BackendSpec{"cuda", "auto", 0, "unfused", "model"}),
                         name_of);
NEOX_EXACT_OP_TEST(AttentionRowBits);
NEOX_SAME_BITS_TEST(AttentionBits);

TEST_P(AttentionOp, AgreesWithTheReferenceForEveryHeadSizeAndPageType) {
  for (DType kv : page_types(*backend_))
    for (int head_dim : kHeadDims)
      for (int block : {16, 32}) {
        const Shape shape{.heads = 2, .head_dim = head_dim, .half = head_dim / 8, .kv = kv, .block = block, .lengths = {1, 17, 40, 70}};
        expect_reference(*backend_, shape, whole(shape));
        expect_reference(*backend_, shape, mixed(shape, uint32_t(head_dim)));
      }
}

TEST_P(AttentionOp, AgreesWithTheReferenceForEveryRotaryWidth) {
  for (int head_dim : {8, 24, 64, 80})
    for (int half : {0, 1, 3, head_dim / 4, head_dim / 2}) {
      const Shape shape{.heads = 3, .head_dim = head_dim, .half = half, .lengths = {33, 20}};
      expect_reference(*backend_, shape, whole(shape));
      expect_reference(*backend_, shape, chunked(shape, 7));
    }
}

TEST_P(AttentionOp, AgreesWithTheReferenceForAnyNumberOfHeads) {
  for (int heads : {1, 3, 5, 12}) {
    const Shape shape{.heads = heads, .head_dim = 40, .half = 5, .lengths = {1, 23, 64}};
    expect_reference(*backend_, shape, whole(shape));
  }
}

TEST_P(AttentionOp, AgreesWithTheReferenceHoweverStepsAreCut) {
  for (DType kv : page_types(*backend_)) {
    const Shape shape{.heads = 2, .head_dim = 64, .half = 8, .kv = kv, .block = 16, .lengths = kRagged};
    expect_reference(*backend_, shape, alone(shape));
    expect_reference(*backend_, shape, whole(shape));
    for (int rows : {1, 5, 16, 31}) expect_reference(*backend_, shape, chunked(shape, rows));
    for (uint32_t seed : {1, 2, 3}) expect_reference(*backend_, shape, mixed(shape, seed));
  }
}

TEST_P(AttentionOp, AgreesWithTheReferenceOverLongSequences) {
  for (DType kv : page_types(*backend_)) {
    const Shape shape{.heads = 2, .head_dim = 32, .half = 4, .kv = kv, .block = 16, .lengths = {600, 257, 256}};
    expect_reference(*backend_, shape, chunked(shape, 100));
    expect_reference(*backend_, shape, mixed(shape, 4));
  }
}

/// Kernels take rows by 64 to 192 and keys by 64 to 128.
TEST_P(AttentionOp, AgreesWithTheReferenceWhereTilesOfRowsAndBlocksOfKeysEnd) {
  for (int head_dim : {64, 72, 96, 128, 256}) {
    const Shape shape{.head_dim = head_dim, .half = 0, .kv = DType::f16, .block = 32, .lengths = {63, 64, 65, 97, 128, 193, 257}};
    expect_reference(*backend_, shape, whole(shape));
    for (int rows : {2, 64, 97}) expect_reference(*backend_, shape, chunked(shape, rows), {.padding_rows = 3});
  }
}

TEST_P(AttentionOp, AgreesWithTheReferenceForSingleRowsOfSequencesOfAnyLengths) {
  for (DType kv : page_types(*backend_))
    for (int head_dim : kHeadDims) {
      const Shape shape{.heads = 3, .head_dim = head_dim, .half = head_dim / 8, .kv = kv, .lengths = {1, 2, 16, 17, 18, 33, 47, 64, 200}};
      expect_reference(*backend_, shape, tails(shape, 18), {}, 2);  // one rounded key weighs more in a short sequence
    }
}

TEST_P(AttentionOp, AgreesWithTheReferenceHoweverManyHeadsSingleRowsHave) {
  for (int heads : {1, 5, 16})  // few heads in many pieces, and more than a GPU has SMs
    for (int block : {16, 32}) {
      const Shape shape{
          .heads = heads, .head_dim = 64, .half = 8, .kv = DType::f16, .block = block, .lengths = {400, 3, 130, 16, 17, 233, 1, 64, 90}};
      expect_reference(*backend_, shape, tails(shape, 3));
    }
}

TEST_P(AttentionOp, SingleRowsRepeatTheirBitsBesideTheSameOnes) {
  for (int heads : {2, 16}) {
    const Shape shape{.heads = heads, .head_dim = 96, .half = 12, .kv = DType::f16, .lengths = {400, 40, 233, 1, 16, 17, 64, 90, 130}};
    const Sequences sequences = make_sequences(shape, backend_->activation_dtype(shape.kv));
    const std::vector<Matrix> want = run(*backend_, sequences, tails(shape, 4));
    EXPECT_TRUE(same_bits(run(*backend_, sequences, tails(shape, 4), {.page_seed = 2, .padding_rows = 3}), want));
  }
}

TEST_P(AttentionOp, PaddingRowsStoreNothing) {
  const Shape shape{.lengths = kRagged};
  expect_reference(*backend_, shape, mixed(shape, 5), {.padding_rows = 9});  // the run checks that free pages keep their NaN
  expect_reference(*backend_, shape, tails(shape, 4), {.padding_rows = 9});
}

TEST_P(AttentionOp, RowsMayBeFartherApartThanTheyAreLong) {
  for (DType kv : page_types(*backend_))
    for (int head_dim : {24, 96}) {
      const Shape shape{.heads = 3, .head_dim = head_dim, .half = head_dim / 8, .kv = kv, .lengths = kRagged};
      expect_reference(*backend_, shape, mixed(shape, 6), {.pad = 16}, kv == DType::f32 ? 1 : 2);
      expect_reference(*backend_, shape, mixed(shape, 6), {.pad = 5}, kv == DType::f32 ? 1 : 2);
      expect_reference(*backend_, shape, tails(shape, 6), {.pad = 5}, kv == DType::f32 ? 1 : 2);
    }
}

TEST_P(AttentionOp, LargeScoresDoNotOverflow) {
  const Shape shape{.lengths = {40}};
  Sequences sequences = make_sequences(shape, backend_->activation_dtype(shape.kv));
  for (double& x : sequences.qkv[0].v) x *= 64;  // scores of several thousand: exp overflows unless the largest is taken off
  EXPECT_LE(relative_error(run(*backend_, sequences, whole(shape))[0], reference_outputs(sequences)[0]),
            attention_error(*backend_, shape.kv));
}

TEST_P(AttentionOp, OneSequencesNaNDoesNotReachAnother) {
  for (DType kv : {DType::f32, page_types(*backend_).back()}) {
    const Shape shape{.kv = kv, .lengths = {30, 30, 30}};
    Sequences sequences = make_sequences(shape, backend_->activation_dtype(shape.kv));
    const std::vector<Matrix> want = reference_outputs(sequences);
    for (double& x : sequences.qkv[1].v) x = NAN;
    const std::vector<Matrix> got = run(*backend_, sequences, mixed(shape, 7));
    EXPECT_LE(relative_error(got[0], want[0]), attention_error(*backend_, shape.kv));
    EXPECT_LE(relative_error(got[2], want[2]), attention_error(*backend_, shape.kv));
    for (double y : got[1].v) EXPECT_TRUE(std::isnan(y));
  }
}

TEST_P(AttentionOp, CopiedPagesHoldTheSameBits) {
  for (DType kv : page_types(*backend_))
    for (int block : {16, 32}) {
      const Shape shape{.heads = 3, .head_dim = 40, .half = 5, .kv = kv, .block = block, .lengths = kRagged};
      const Sequences sequences = make_sequences(shape, backend_->activation_dtype(kv));
      for (const Schedule& schedule : {chunked(shape, 16), mixed(shape, 8)})
        EXPECT_TRUE(same_bits(run(*backend_, sequences, schedule, {.move_pages = true}), run(*backend_, sequences, schedule)));
    }
}

TEST_P(AttentionWithScoresOfTheModelsType, IsAsFarFromTheReferenceAsTheirRounding) {
  for (DType kv : kDTypes)
    for (int head_dim : kHeadDims) {
      const Shape shape{.heads = 3, .head_dim = head_dim, .half = head_dim / 8, .kv = kv, .lengths = {1, 17, 40, 300}};
      expect_reference(*backend_, shape, whole(shape), {}, kv == DType::f32 ? 1 : 4);
      expect_reference(*backend_, shape, mixed(shape, uint32_t(head_dim)), {}, kv == DType::f32 ? 1 : 4);
    }
}

TEST_P(AttentionRowBits, ARowHasTheSameBitsAloneAndInAnyBatchChunkedOrWhole) {
  for (DType kv : page_types(*backend_))
    for (int head_dim : {24, 64, 96, 128, 256}) {
      const Shape shape{
          .heads = 3, .head_dim = head_dim, .half = head_dim / 8, .kv = kv, .block = 16, .lengths = {1, 15, 16, 17, 33, 270, 64}};
      const Sequences sequences = make_sequences(shape, backend_->activation_dtype(kv));
      const std::vector<Matrix> want = run(*backend_, sequences, alone(shape));
      EXPECT_TRUE(same_bits(run(*backend_, sequences, whole(shape)), want));
      for (int rows : {1, 5, 12, 13, 16, 40}) EXPECT_TRUE(same_bits(run(*backend_, sequences, chunked(shape, rows)), want)) << rows;
      for (uint32_t seed : {1, 2, 3})
        EXPECT_TRUE(same_bits(run(*backend_, sequences, mixed(shape, seed), {.page_seed = seed, .padding_rows = int32_t(seed) * 3}), want))
            << seed;
    }
}

TEST_P(AttentionRowBits, ARowHasTheSameBitsWithAnyPageSize) {
  Shape shape{.heads = 2, .head_dim = 40, .half = 5, .lengths = {300, 47}};
  const Schedule schedule = mixed(shape, 9);
  const Sequences small = make_sequences(shape, backend_->activation_dtype(shape.kv));
  shape.block = 64;
  const Sequences large = make_sequences(shape, backend_->activation_dtype(shape.kv));
  EXPECT_TRUE(same_bits(run(*backend_, large, schedule), run(*backend_, small, schedule)));
}

TEST_P(AttentionBits, AreThoseOfOneThreadAndOfEveryInstructionSet) {
  for (DType kv : page_types(*backend_))
    for (int head_dim : {8, 24, 80, 256}) {
      const Shape shape{
          .heads = 3, .head_dim = head_dim, .half = head_dim / 8, .kv = kv, .block = 16, .lengths = {1, 15, 16, 17, 33, 270, 64}};
      const Sequences sequences = make_sequences(shape, backend_->activation_dtype(kv));
      for (const Schedule& schedule : {whole(shape), chunked(shape, 1), mixed(shape, 10)})
        EXPECT_TRUE(same_bits(run(*backend_, sequences, schedule), run(*baseline_, sequences, schedule))) << head_dim;
    }
}

}  // namespace neox::test
