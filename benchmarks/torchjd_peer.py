"""TorchJD on the decoder of `benchmarks.decoder`, stepping when told to.

Started by `benchmarks.instrument` in an environment with gradlens[bench], which
has no JAX in use. A line in names a step; a line out says that it is done.
"""

from collections.abc import Callable
import copy
import json
import pathlib
import sys

import numpy as np
from safetensors.torch import load_file
import torch
from torch import nn
from torchjd.aggregation import IMTLG, IMTLGWeighting
from torchjd.autogram import Engine
from torchjd.autojac import backward, jac_to_grad


class RMSNorm(nn.Module):
  """With a scale of its own."""

  def __init__(self, size: int) -> None:
    super().__init__()
    self.weight = nn.Parameter(torch.ones(size))

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """Of the last axis."""
    mean_square = x.square().mean(-1, keepdim=True)
    return x * torch.rsqrt(mean_square + 1e-6) * self.weight


def rotate(x_NxHxLxE: torch.Tensor) -> torch.Tensor:
  """Rotary positions, halves paired as in Llama."""
  length, width = x_NxHxLxE.shape[-2:]
  half = width // 2
  frequencies = 10_000.0 ** (-torch.arange(half) / half)
  angles = torch.arange(length)[:, None] * frequencies
  a, b = x_NxHxLxE.chunk(2, -1)
  cos, sin = angles.cos(), angles.sin()
  return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class Attention(nn.Module):
  """Causal, with shared keys and values."""

  def __init__(self, c: dict) -> None:
    super().__init__()
    self.heads, self.kv_heads = (
        c['num_attention_heads'], c['num_key_value_heads']
    )
    width = c['head_dim']
    inner, kv = self.heads * width, self.kv_heads * width
    self.q_proj = nn.Linear(c['hidden_size'], inner, bias=False)
    self.k_proj = nn.Linear(c['hidden_size'], kv, bias=False)
    self.v_proj = nn.Linear(c['hidden_size'], kv, bias=False)
    self.o_proj = nn.Linear(inner, c['hidden_size'], bias=False)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """`[N, L, D]` to the same."""
    n, length, _ = x.shape

    def split(y, heads):
      return y.reshape(n, length, heads, -1).transpose(1, 2)

    q = rotate(split(self.q_proj(x), self.heads))
    k = rotate(split(self.k_proj(x), self.kv_heads))
    v = split(self.v_proj(x), self.kv_heads)
    group = self.heads // self.kv_heads
    k, v = (a.repeat_interleave(group, 1) for a in (k, v))
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    scores = torch.where(causal, scores, -1e30)
    out = scores.softmax(-1) @ v
    return self.o_proj(out.transpose(1, 2).reshape(n, length, -1))


class FeedForward(nn.Module):
  """SwiGLU."""

  def __init__(self, c: dict) -> None:
    super().__init__()
    size, inner = c['hidden_size'], c['intermediate_size']
    self.gate_proj = nn.Linear(size, inner, bias=False)
    self.up_proj = nn.Linear(size, inner, bias=False)
    self.down_proj = nn.Linear(inner, size, bias=False)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """`[N, L, D]` to the same."""
    gate = nn.functional.silu(self.gate_proj(x))
    return self.down_proj(gate * self.up_proj(x))


class Layer(nn.Module):
  """Pre-norm."""

  def __init__(self, c: dict) -> None:
    super().__init__()
    self.input_layernorm = RMSNorm(c['hidden_size'])
    self.self_attn = Attention(c)
    self.post_attention_layernorm = RMSNorm(c['hidden_size'])
    self.mlp = FeedForward(c)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    """`[N, L, D]` to the same."""
    x = x + self.self_attn(self.input_layernorm(x))
    return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
  """Parameters have the names of the Hugging Face layout."""

  def __init__(self, c: dict) -> None:
    super().__init__()
    self.model = nn.ModuleDict(dict(
        embed_tokens=nn.Embedding(c['vocab_size'], c['hidden_size']),
        layers=nn.ModuleList(
            Layer(c) for _ in range(c['num_hidden_layers'])
        ),
        norm=RMSNorm(c['hidden_size']),
    ))
    self.lm_head = nn.Linear(c['hidden_size'], c['vocab_size'], bias=False)

  def forward(self, tokens_NxL: torch.Tensor) -> torch.Tensor:
    """Logits."""
    x = self.model['embed_tokens'](tokens_NxL)
    for layer in self.model['layers']:
      x = layer(x)
    return self.lm_head(self.model['norm'](x))


def losses(
    decoder: Decoder, tokens_NxL: torch.Tensor, advantages_N: torch.Tensor
) -> torch.Tensor:
  """Each sequence's, `[N]`, as in `benchmarks.decoder`; rows are sums."""
  logprobs = decoder(tokens_NxL)[:, :-1].log_softmax(-1)
  chosen = logprobs.gather(-1, tokens_NxL[:, 1:, None])[..., 0].mean(-1)
  return -chosen * advantages_N


def steps(
    decoder: Decoder, sequences: Callable[[Decoder], torch.Tensor],
    num_rows: int,
) -> dict[str, Callable[[], None]]:
  """What can be asked for."""
  # Of its own: an engine watches every forward pass of its module.
  watched = copy.deepcopy(decoder)
  # Sequences are independent, which is cheaper than rows without that.
  engine = Engine(watched, batch_dim=0)
  weighting, aggregator = IMTLGWeighting(), IMTLG()

  def rows(values, *axes):
    for axis in axes:
      values = values.unflatten(axis, (num_rows, -1)).sum(axis + 1)
    return values

  def autogram():
    losses_N = sequences(watched)
    weights_R = weighting(rows(engine.compute_gramian(losses_N), 0, 1))
    rows(losses_N, 0).backward(weights_R)
    watched.zero_grad(set_to_none=True)

  def autojac():
    backward(rows(sequences(decoder), 0), parallel_chunk_size=1)
    jac_to_grad(decoder.parameters(), aggregator)
    decoder.zero_grad(set_to_none=True)

  def joint():
    sequences(decoder).sum().backward()
    decoder.zero_grad(set_to_none=True)

  return {
      'torch joint': joint,
      'TorchJD autogram': autogram,
      'TorchJD autojac': autojac,
  }


def main(folder: str, num_rows: int) -> None:
  """Answers lines until there are no more."""
  path = pathlib.Path(folder)
  decoder = Decoder(json.loads((path / 'config.json').read_text()))
  decoder.load_state_dict(load_file(path / 'model.safetensors'))
  data = np.load(path / 'batch.npz')
  tokens = torch.tensor(data['tokens'], dtype=torch.long)
  advantages = torch.tensor(data['advantages'])

  def sequences(decoder):
    return losses(decoder, tokens, advantages)

  known = steps(decoder, sequences, num_rows)
  rows_R = sequences(decoder).reshape(num_rows, -1).sum(-1)
  print(','.join(known), flush=True)
  print(','.join(f'{x:.6f}' for x in rows_R.tolist()), flush=True)
  for line in sys.stdin:
    known[line.strip()]()
    print('done', flush=True)


if __name__ == '__main__':
  main(sys.argv[1], int(sys.argv[2]))
