# SPDX-License-Identifier: Apache-2.0
"""generate_ids: FasterTransformer's tensors, of the same requests as generate's."""

import numpy as np
import pytest

import models
from models import Model
from neoxnative import Engine, SamplingParams

MODEL = Model(seed=11, heads=2, head_dim=40, intermediate=120, max_positions=256)
LENGTHS = np.array([7, 3, 12, 1])
IDS = np.stack([models.prompt(i, 12, MODEL.vocab) for i in range(4)])
IDS[np.arange(12) >= LENGTHS[:, None]] = 0


@pytest.fixture(scope="module")
def engine(folder_of):
    return Engine(folder_of(MODEL), dtype="float32", device="cpu")


def rows_of(out, width):
    for i, length in enumerate(LENGTHS):
        assert (out.output_ids[i, :, :length] == IDS[i, :length]).all()
    return [[out.output_ids[i, j, length : out.sequence_length[i, j]].tolist() for j in range(width)] for i, length in enumerate(LENGTHS)]


def test_a_scalar_seed_gives_row_i_the_draws_of_sample_i_and_lengths_are_real(engine):
    out = engine.generate_ids(IDS, LENGTHS, request_output_len=9, runtime_top_k=20, runtime_top_p=[0.9], temperature=1.3, random_seed=5)
    assert out.output_ids.dtype == np.int32 and out.output_ids.shape == (4, 1, 21)
    assert out.output_log_probs.shape == (4, 1, 9)
    for i, ids in enumerate(rows_of(out, 1)):
        params = SamplingParams(max_tokens=9, top_k=20, top_p=0.9, temperature=1.3, seed=5, n=4, stop_token_ids=[0], ignore_eos=True)
        want = engine.generate([IDS[i, : LENGTHS[i]]], params)[0].outputs[i]
        assert ids[0] == want.token_ids
        new = len(want.token_ids)
        np.testing.assert_array_equal(out.output_log_probs[i, 0, :new], np.float32(want.token_logprobs))
        assert (out.output_log_probs[i, 0, new:] == 0).all()
        assert out.cum_log_probs[i, 0] == pytest.approx(want.cumulative_logprob, rel=1e-6)
        assert (out.output_ids[i, 0, LENGTHS[i] + new :] == 0).all()
    padded = engine.generate_ids(
        IDS, LENGTHS, request_output_len=9, runtime_top_k=20, runtime_top_p=0.9, temperature=1.3, random_seed=5, padded_lengths=True
    )
    np.testing.assert_array_equal(padded.sequence_length - out.sequence_length, 12 - LENGTHS[:, None])


def test_arguments_of_one_value_a_row_are_those_of_single_requests(engine):
    rows = {
        "request_output_len": [5, 9, 3, 7],
        "temperature": [0.7, 1.0, 1.5, 2.0],
        "repetition_penalty": [1.0, 1.2, 1.5, 0.9],
        "presence_penalty": [0.5, 0.0, 0.0, 1.0],
        "min_length": [2, 0, 3, 1],
        "top_p_decay": [0.9, 1.0, 0.5, 0.8],
        "runtime_top_k": [5, 0, 0, 50],
        "runtime_top_p": [0.0, 0.0, 0.8, 0.9],
        "random_seed": [1, 2, 3, 4],
        "end_id": [3, 4, 5, 6],
    }
    bad = np.array([[[1, 2, 9, 0], [1, 3, -1, -1]]] * 4)
    stop = np.array([[8, 17, 20], [1, 3, -1]])
    out = engine.generate_ids(IDS, LENGTHS, bad_words_list=bad, stop_words_list=stop, **rows)
    for i, ids in enumerate(rows_of(out, 1)):
        params = SamplingParams(
            max_tokens=rows["request_output_len"][i],
            temperature=0 if i == 1 else rows["temperature"][i],
            repetition_penalty=rows["repetition_penalty"][i],
            presence_penalty=rows["presence_penalty"][i],
            min_tokens=rows["min_length"][i],
            top_p_decay=rows["top_p_decay"][i],
            top_k=rows["runtime_top_k"][i],
            top_p=rows["runtime_top_p"][i] or 1.0,
            seed=rows["random_seed"][i],
            ignore_eos=True,
            stop_token_ids=[rows["end_id"][i]],
            bad_words=[[1], [2, 9]],
            stop=[[8], [17, 20]],
        )
        assert ids[0] == engine.generate([IDS[i, : LENGTHS[i]]], params)[0].outputs[0].token_ids
        assert (out.output_ids[i, 0, out.sequence_length[i, 0] :] == rows["end_id"][i]).all()


@pytest.mark.parametrize("arguments", [{}, {"runtime_top_k": 30, "runtime_top_p": 0.8}, {"beam_width": 3}])
def test_log_probs_after_are_those_of_the_logits_with_penalties_and_temperature(engine, arguments):
    temperature, penalty = 0.6, 1.4
    common = {"request_output_len": 8, "repetition_penalty": penalty, "random_seed": 3, "temperature": temperature, **arguments}
    before, after = (engine.generate_ids(IDS, LENGTHS, log_probs=form, **common) for form in ("before", "after"))
    np.testing.assert_array_equal(before.output_ids, after.output_ids)
    beams = arguments.get("beam_width", 1)
    for i, length in enumerate(LENGTHS):
        for j in range(beams):
            ids = after.output_ids[i, j, : after.sequence_length[i, j]]
            logits = engine.forward(ids[None])[0].astype(np.float64)
            for k, token in enumerate(ids[length:]):
                z = logits[length + k - 1] - np.logaddexp.reduce(logits[length + k - 1])
                assert before.output_log_probs[i, j, k] == pytest.approx(z[token], abs=1e-4)
                z = z if beams > 1 else logits[length + k - 1].copy()
                seen = np.unique(ids[: length + k])
                z[seen] = np.where(z[seen] < 0, z[seen] * penalty, z[seen] / penalty)
                want = z[token] if beams > 1 else z[token] / temperature - np.logaddexp.reduce(z / temperature)
                assert after.output_log_probs[i, j, k] == pytest.approx(want, abs=1e-4)


def test_beams_come_best_first(engine):
    out = engine.generate_ids(IDS, LENGTHS, request_output_len=8, beam_width=3, len_penalty=[0.0, 0.5, 1.0, 2.0])
    for i, rows in enumerate(rows_of(out, 3)):
        params = SamplingParams(max_tokens=8, beam_width=3, n=3, length_penalty=(0.0, 0.5, 1.0, 2.0)[i])
        want = engine.generate([IDS[i, : LENGTHS[i]]], params)[0]
        assert rows == [made.token_ids for made in want.outputs]
        np.testing.assert_allclose(out.cum_log_probs[i], [made.cumulative_logprob for made in want.outputs], rtol=1e-6)


def test_fastertransformers_never_and_a_least_length_beyond_the_longest_are_taken(engine):
    how = {"request_output_len": [2, 4, 6, 8], "runtime_top_p": 0.9}
    out = engine.generate_ids(IDS, LENGTHS, **how, min_length=6, top_p_reset_ids=np.full(4, -1, np.int32).astype(np.uint32))
    want = engine.generate_ids(IDS, LENGTHS, **how, min_length=[2, 4, 6, 6], top_p_reset_ids=-1)
    assert out.output_ids.tolist() == want.output_ids.tolist()


def test_an_empty_row_begins_with_start_id_which_is_left_out(engine):
    out = engine.generate_ids(np.zeros((2, 0), int), start_id=7, request_output_len=4)
    want = engine.generate([[7]], SamplingParams(max_tokens=4, temperature=0))[0].outputs[0].token_ids
    assert out.output_ids[0, 0].tolist() == want
    assert out.sequence_length.tolist() == [[4], [4]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": [1.0, 2.0]}, r"temperature has shape \[2\], expected a scalar, \[1\] or \[4\]"),
        ({"beam_width": 65}, "beam_width is 65, expected 1 to 64"),
        ({"bad_words_list": [[1, 2]]}, r"bad_words_list is int64 \[1, 2\], expected integers \[2, n\] or \[4, 2, n\]"),
        ({"bad_words_list": [[1, 2], [3, -1]]}, r"bad_words_list has the offsets \[3\], expected rising ones from 1 to 2"),
        ({"input_lengths": [1, 2, 3, 13]}, "input_lengths holds 13, expected 0 to 12"),
        ({"input_lengths": 0}, "a row of input_ids is empty"),
        ({"log_probs": "later"}, 'log_probs is .later., expected "before" or "after"'),
        ({"repetition_penalty": -1.0}, "repetition_penalty is -1, expected more than 0"),
    ],
)
def test_bad_arguments_are_told_by_name(engine, arguments, message):
    with pytest.raises(ValueError, match=message):
        engine.generate_ids(IDS, **arguments)
