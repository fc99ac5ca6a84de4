// SPDX-License-Identifier: Apache-2.0
#include "model/model.h"

#include <cmath>

namespace neox {

Model::Model(const Parts& p)
    : be(p.backend), tp(p.tensor_parallel), pp(p.pipeline), cfg(p.config), weights_(p.weights), kv_(p.kv), activations_(p.activations),
      virtual_tokens_(p.virtual_tokens), shard_(p.shard), stage_(shard_.stage), scale_(float(1.0 / std::sqrt(double(cfg.head_dim())))) {}

/// The norms that read x where layer l begins; past the last layer, the final norm.
AddNormArgs Model::entrance(int32_t l, const Activations& a) const {
  if (l == stage_.last_layer && !stage_.last()) return {.x = a.x};
  if (l == stage_.last_layer) return {.x = a.x, .norm = &weights_.final_norm, .out = a.n1};
  const Layer& w = weights_.layers[size_t(l - stage_.first_layer)];
  if (cfg.use_parallel_residual) return {.x = a.x, .norm = &w.ln1, .out = a.n1, .norm2 = &w.ln2, .out2 = a.n2};
  return {.x = a.x, .norm = &w.ln1, .out = a.n1};
}

void Model::forward(const Step& s, const Sample* sampled, const Probe& probe) {
  const Activations a = activations_.first(s.tokens);
  if (stage_.first()) be.embed({.out = a.x, .ids = s.ids, .table = weights_.embedding, .sampled = sampled, .pool = virtual_tokens_});
  else pp.recv(a.x, stage_.prev);
  be.add_norm(entrance(stage_.first_layer, a));
  if (probe) probe(stage_.first_layer - 1, a.x);
  for (int32_t l = stage_.first_layer; l < stage_.last_layer; l++) {
    layer(l, s, a);
    if (probe) probe(l, a.x);
  }
  if (!stage_.last()) pp.send(a.x, stage_.next);
}

void Model::layer(int32_t l, const Step& s, const Activations& a) {
  const Layer& w = weights_.layers[size_t(l - stage_.first_layer)];
  const KvPages& kv = kv_[size_t(l - stage_.first_layer)];
  AddNormArgs next = entrance(l + 1, a);
  next.add = a.y;

  if (cfg.use_parallel_residual) {  // x += attention(ln1 x) + mlp(ln2 x)
    be.linear({{.out = a.qkv, .x = a.n1, .w = w.qkv}, {.out = a.mid, .x = a.n2, .w = w.up, .act = cfg.act}});
    be.attention({.out = a.att, .qkv = a.qkv, .kv = kv, .step = s, .rope = weights_.rope, .scale = scale_});
    be.linear({{.out = a.y, .x = a.att, .w = w.out}, {.out = a.y, .x = a.mid, .w = w.down}});
    next.bias = w.sum_bias;
  } else {  // x += attention(ln1 x); x += mlp(ln2 x)
    be.linear({{.out = a.qkv, .x = a.n1, .w = w.qkv}});
    be.attention({.out = a.att, .qkv = a.qkv, .kv = kv, .step = s, .rope = weights_.rope, .scale = scale_});
    be.linear({{.out = a.y, .x = a.att, .w = w.out}});
    tp.all_reduce_add_norm(be, {.x = a.x, .add = a.y, .bias = w.out_bias, .norm = &w.ln2, .out = a.n1});
    be.linear({{.out = a.mid, .x = a.n1, .w = w.up, .act = cfg.act}});
    be.linear({{.out = a.y, .x = a.mid, .w = w.down}});
    next.bias = w.down_bias;
  }
  tp.all_reduce_add_norm(be, next);
}

Tensor Model::logits(const Step& s, int32_t first, int32_t count) {
  const Activations& a = activations_;
  const Tensor last = a.last.first(count), part = a.logits_part.first(count);
  Tensor logits = a.logits.first(count);
  be.gather_rows({.out = last, .x = a.n1, .rows = s.out_rows + first});
  be.linear({{.out = part, .x = last, .w = weights_.head}});
  tp.all_gather_cols(logits, part);
  logits.cols = cfg.vocab_size;  // the padding is at the end
  return logits;
}

}  // namespace neox
