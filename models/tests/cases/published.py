"""Cases for tests/oracle.rs: published models, whose mixing is computed by other people's code.

Whole models of two blocks, all tokens at once: norm, projections and MLP in PyTorch, float64, and in between
the naive recurrences of `flash-linear-attention` (RetNet, DeltaNet, Gated DeltaNet) and the chunked scan that
`transformers` has for Mamba-2 where its kernels are absent. These compute in float32.

    pip install torch safetensors numpy flash-linear-attention transformers && python published.py
"""

import json
import pathlib

import torch
import torch.nn.functional as F
from fla.ops.delta_rule.naive import delta_rule_recurrence
from fla.ops.gated_delta_rule.naive import naive_recurrent_gated_delta_rule
from fla.ops.retention.naive import naive_retention
from fla.ops.simple_gla.naive import naive_recurrent_simple_gla
from safetensors.torch import save_file
from transformers.models.mamba2.modeling_mamba2 import mamba2_chunk_scan

HERE = pathlib.Path(__file__).parent
D, H, T, WIDTH, VOCABULARY = 8, 2, 37, 12, 11
DH = D // H

# Every mix takes q, k, v `[1, T, H, dh]` and the logits of the coefficients that come from the input, `[1, T, H]`, and
# returns `[1, T, H, dh]`. A read here is M q: where a function scales q by 1 / √dh, q is scaled back before.


def heads_first(*tensors):
    return [x.transpose(1, 2) for x in tensors]


def retnet(q, k, v, _):
    """Its decay is of its own making: see `retnet_decay`."""
    return naive_retention(*heads_first(q * DH**0.5, k, v)).transpose(1, 2)


def gated_linear_attention(q, k, v, alpha):
    return naive_recurrent_simple_gla(q, k, v, F.logsigmoid(alpha), scale=1.0)[0]


def mamba2(q, k, v, alpha):
    """exp(A Δ) is sigmoid(alpha) for A = -1 and Δ = softplus(-alpha); its x is scaled by Δ on the way in, as v is not."""
    delta = F.softplus(-alpha)
    return mamba2_chunk_scan(v / delta[..., None], -alpha, -torch.ones(H), k, q, chunk_size=8, dt_softplus=True)


def deltanet(q, k, v, beta):
    return delta_rule_recurrence(*heads_first(q * DH**0.5, k, v, torch.sigmoid(beta)))[0].transpose(1, 2)


def gated_deltanet(q, k, v, alpha, beta):
    return naive_recurrent_gated_delta_rule(q, k, v, torch.sigmoid(beta), F.logsigmoid(alpha), scale=1.0)[0]


def normal(*shape, scale=1.0):
    """Numbers that f32 holds exactly."""
    return (torch.randn(*shape) * scale).float().double()


def make_weights(memory):
    w = {"embed.weight": normal(VOCABULARY, D)}
    for at in ("blocks.0.", "blocks.1."):
        w.update({at + f"{norm}.weight": 1 + normal(D, scale=0.125) for norm in ("norm", "mlp_norm")})
        w.update({at + f"mix.{p}.weight": normal(D, D, scale=0.7 / D**0.5) for p in "qkvo"})
        for name in ("alpha", "beta"):
            if memory[name] == "input":
                w[at + f"memory.{name}.weight"], w[at + f"memory.{name}.bias"] = normal(H, D), normal(H)
        w[at + "mlp.up.weight"], w[at + "mlp.up.bias"] = normal(WIDTH, D, scale=0.4), normal(WIDTH, scale=0.1)
        w[at + "mlp.down.weight"], w[at + "mlp.down.bias"] = normal(D, WIDTH, scale=0.3), normal(D, scale=0.1)
    w.update({"norm.weight": 1 + normal(D, scale=0.125), "norm.bias": normal(D, scale=0.1)})
    w["head.weight"] = normal(VOCABULARY, D, scale=0.5)
    return {name: tensor.float().double() for name, tensor in w.items()}


def run(w, mix, normalize_qk, tokens):
    x = w["embed.weight"][tokens]
    for at in ("blocks.0.", "blocks.1."):
        normed = F.rms_norm(x, (D,), w[at + "norm.weight"], 1e-6)
        q, k, v = (F.linear(normed, w[at + f"mix.{p}.weight"]).view(1, T, H, DH) for p in "qkv")
        if normalize_qk:
            q, k = (F.normalize(p, dim=-1, eps=1e-6) for p in (q, k))
        names = [at + f"memory.{name}" for name in ("alpha", "beta") if at + f"memory.{name}.weight" in w]
        logits = [F.linear(normed, w[name + ".weight"], w[name + ".bias"])[None] for name in names]
        y = mix(q, k, v, *logits).double().reshape(T, D)
        x = x + F.linear(y, w[at + "mix.o.weight"])
        normed = F.rms_norm(x, (D,), w[at + "mlp_norm.weight"], 1e-6)
        up = F.gelu(F.linear(normed, w[at + "mlp.up.weight"], w[at + "mlp.up.bias"]))
        x = x + F.linear(up, w[at + "mlp.down.weight"], w[at + "mlp.down.bias"])
    return F.linear(F.layer_norm(x, (D,), w["norm.weight"], w["norm.bias"], 1e-5), w["head.weight"])


def case(name, mix, alpha, beta, correction, normalize_qk=False, edit=lambda w: None):
    torch.manual_seed(sum(map(ord, name)))
    memory = dict(kind="gated_delta", alpha=alpha, beta=beta, correction=correction)
    w, tokens = make_weights(memory), torch.randint(VOCABULARY, (T,))
    edit(w)
    output = run(w, mix, normalize_qk, tokens)
    assert output.isfinite().all() and output.abs().max() < 100, name
    caching = dict(aggregation="none", segmentation={"kind": "constant", "size": 16}, init="continue")
    block = dict(norm="rms_norm", num_heads=H, normalize_qk=normalize_qk, memory=memory, caching=caching,
                 mlp={"width": WIDTH})
    config = dict(format="mcedge/1", name=name, input={"kind": "tokens", "vocab_size": VOCABULARY}, d_model=D,
                  blocks=[block] * 2, final_norm=True, head={"kind": "logits", "size": VOCABULARY})
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    save_file({k: v.float().contiguous() for k, v in w.items()}, folder / "model.safetensors")
    save_file({"input": tokens, "output": output.float()}, folder / "golden.safetensors")


def retnet_decay(w):
    """γ = 1 - 2^(-5 - h), a constant of each head: a coefficient from the input whose weight is zero."""
    gamma = 1 - torch.exp2(-5 - torch.arange(H).double())
    for at in ("blocks.0.", "blocks.1."):
        w[at + "memory.alpha.weight"].zero_()
        w[at + "memory.alpha.bias"].copy_(torch.logit(gamma).float())


case("published-retnet", retnet, "input", 1.0, False, edit=retnet_decay)
case("published-gated-linear-attention", gated_linear_attention, "input", 1.0, False)
case("published-mamba2", mamba2, "input", 1.0, False)
case("published-deltanet", deltanet, 1.0, "input", True, normalize_qk=True)
case("published-gated-deltanet", gated_deltanet, "input", "input", True, normalize_qk=True)
