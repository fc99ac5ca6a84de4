# SPDX-License-Identifier: Apache-2.0
"""GPT-NeoX in numpy float64, a whole sequence at a time: the model as plain mathematics."""

import math

import numpy as np

from models import PREFIX

ERF = np.vectorize(math.erf, otypes=[np.float64])


def gelu_tanh(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


ACTIVATIONS = {
    "gelu": lambda x: 0.5 * x * (1 + ERF(x / math.sqrt(2))),
    "gelu_new": gelu_tanh,
    "gelu_fast": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x / (1 + np.exp(-x)),
}


def rotary_table(model, length):
    """cos, sin [length, half]. Angles are rounded to float32 where HuggingFace does: at position 1000 that is seen in the logits."""
    dim = int(model.head_dim * model.rotary_pct)
    exponent = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    inv_freq = np.float32(1) / (np.float64(model.rotary_base) ** exponent).astype(np.float32)
    angle = (np.arange(length, dtype=np.float32)[:, None] * inv_freq).astype(np.float64)
    return np.cos(angle), np.sin(angle)


def rotate(x, cos, sin):
    """x [length, heads, head_dim]: element i < half turns with element i + half, the rest passes."""
    half = cos.shape[1]
    a, b = x[..., :half], x[..., half : 2 * half]
    cos, sin = cos[:, None], sin[:, None]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin, x[..., 2 * half :]], axis=-1)


def forward(model, named, ids):
    """Logits [len(ids), vocab]."""
    w = {name.removeprefix(PREFIX): value.astype(np.float64) for name, value in named.items()}
    head = w.get("embed_out.weight", w.get("lm_head.weight", w["embed_in.weight"]))
    heads, head_dim, length = model.heads, model.head_dim, len(ids)
    cos, sin = rotary_table(model, length)
    act = ACTIVATIONS[model.hidden_act]
    future = np.triu(np.full((length, length), -np.inf), 1)

    def norm(x, name):
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + model.layer_norm_eps)
        return scaled * w[name + ".weight"] + w[name + ".bias"]

    def linear(x, name):
        return x @ w[name + ".weight"].T + w.get(name + ".bias", 0.0)

    def attention(x, layer):
        qkv = linear(x, layer + "attention.query_key_value").reshape(length, heads, 3, head_dim)
        q, k, v = rotate(qkv[:, :, 0], cos, sin), rotate(qkv[:, :, 1], cos, sin), qkv[:, :, 2]
        score = np.einsum("qhd,khd->hqk", q, k) / math.sqrt(head_dim) + future
        p = np.exp(score - score.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        return linear(np.einsum("hqk,khd->qhd", p, v).reshape(length, -1), layer + "attention.dense")

    def mlp(x, layer):
        return linear(act(linear(x, layer + "mlp.dense_h_to_4h")), layer + "mlp.dense_4h_to_h")

    x = w["embed_in.weight"][np.asarray(ids)]
    for i in range(model.layers):
        layer = f"layers.{i}."
        attended = attention(norm(x, layer + "input_layernorm"), layer)
        if model.parallel_residual:
            x = x + attended + mlp(norm(x, layer + "post_attention_layernorm"), layer)
        else:
            x = x + attended
            x = x + mlp(norm(x, layer + "post_attention_layernorm"), layer)
    return norm(x, "final_layer_norm") @ head.T


def relative_error(a, b):
    """||a - b|| / ||b||."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))
