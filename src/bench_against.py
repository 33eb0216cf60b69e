"""Decoding steps a second of Janus' language model in PyTorch, eager, at the shapes told as JSON in the first argument. Weights are
made up. Reads lines `ROWS STEPS` and answers each with the seconds of the steps, one a line."""

import json
import sys
import time

import torch
import torch.nn.functional as F

shape = json.loads(sys.argv[1])
torch.set_num_threads(shape["threads"])
dtype = getattr(torch, shape["dtype"])
hidden, inner, heads, kv, dim = (shape[name] for name in ("hidden", "inner", "heads", "kv_heads", "head_dim"))
context = shape["context"]


def matrix(outputs, inputs):
    return torch.empty(outputs, inputs).uniform_(-0.02, 0.02).to(dtype)


layers = [
    {
        "qkv": matrix((heads + 2 * kv) * dim, hidden),
        "out": matrix(hidden, heads * dim),
        "gate_up": matrix(2 * inner, hidden),
        "down": matrix(hidden, inner),
        "norms": [torch.ones(hidden, dtype=dtype) for _ in range(2)],
    }
    for _ in range(shape["layers"])
]
code_table = matrix(shape["codes"], shape["code_dim"])
aligner = [matrix(hidden, shape["code_dim"]), matrix(hidden, hidden)]
head = [matrix(hidden, hidden), matrix(shape["codes"], hidden)]
final_norm = torch.ones(hidden, dtype=dtype)
angles = context * 10000.0 ** (-torch.arange(0, dim, 2).float() / dim)
cos, sin = (f(torch.cat([angles, angles])).to(dtype) for f in (torch.cos, torch.sin))


def rotate(x):
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


def step(codes, cache):
    rows = codes.shape[0]
    x = F.linear(F.gelu(F.linear(code_table[codes], aligner[0])), aligner[1])
    for layer, (keys, values) in zip(layers, cache):
        qkv = F.linear(F.rms_norm(x, (hidden,), layer["norms"][0], 1e-6), layer["qkv"])
        q, k, v = qkv.view(rows, heads + 2 * kv, dim).split([heads, kv, kv], dim=1)
        keys[:, :, context], values[:, :, context] = rotate(k), v
        seen = F.scaled_dot_product_attention(rotate(q).unsqueeze(2), keys, values, enable_gqa=heads != kv)
        x = x + F.linear(seen.reshape(rows, heads * dim), layer["out"])
        gate, up = F.linear(F.rms_norm(x, (hidden,), layer["norms"][1], 1e-6), layer["gate_up"]).chunk(2, dim=-1)
        x = x + F.linear(F.silu(gate) * up, layer["down"])
    x = F.rms_norm(x, (hidden,), final_norm, 1e-6)
    return F.linear(F.gelu(F.linear(x, head[0])), head[1])


print(torch.__version__, flush=True)
with torch.inference_mode():
    for line in sys.stdin:
        rows, steps = map(int, line.split())
        cache = [
            tuple(torch.full((rows, kv, context + 1, dim), 0.01, dtype=dtype) for _ in range(2))
            for _ in layers
        ]
        codes = torch.zeros(rows, dtype=torch.long)
        step(codes, cache)
        begun = time.perf_counter()
        for _ in range(steps):
            step(codes, cache)
        print(time.perf_counter() - begun, flush=True)
