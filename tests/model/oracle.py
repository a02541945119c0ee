"""Both towers once more, as equations: numpy, float64, one clip, token by token. What the model is tested against.

Written from the description of the reference, not from the model: it shares the config dataclasses alone. Weights come
under the reference's state-dict names. A stream is one pass over all its frames, whose `chunks` say how they arrived: a
frame sees only frames of its own and of earlier chunks.
"""

import numpy as np


class Weights:
  """The tensors below one prefix: `w["ffn.0"](x)` is x W^T + b, `w.at("blocks.0")` goes one level down."""

  def __init__(self, tensors, prefix=""):
    self.tensors, self.prefix = tensors, prefix

  def at(self, name):
    return Weights(self.tensors, f"{self.prefix}{name}.")

  def get(self, name):
    return np.asarray(self.tensors[self.prefix + name], np.float64)

  def __getitem__(self, name):
    bias = self.get(f"{name}.bias") if f"{self.prefix}{name}.bias" in self.tensors else 0.0
    return lambda x: x @ self.get(f"{name}.weight").T + bias

  def mlp(self, name, x):
    return self[f"{name}.2"](silu(self[f"{name}.0"](x)))


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def silu(x):
  return x * sigmoid(x)


def layer_norm(x, eps):
  return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)


def rms_norm(x, weight, eps):
  return x / np.sqrt(np.mean(x**2, -1, keepdims=True) + eps) * weight


def softmax(x):
  x = np.exp(x - x.max(-1, keepdims=True))
  return x / x.sum(-1, keepdims=True)


def frequencies(half):
  return 10000.0 ** (-np.arange(half) / half)


def time_embedding(w, timesteps, freq_dim):
  """Timesteps [S] -> t [S D], t_mod [S 6 D]."""
  angle = np.asarray(timesteps, np.float64)[:, None] * frequencies(freq_dim // 2)
  t = w.mlp("time_embedding", np.concatenate([np.cos(angle), np.sin(angle)], -1))
  return t, w["time_projection.1"](silu(t)).reshape(len(t), 6, -1)


def video_angles(first_frame, frames, rows, columns, head_dim):
  """[S D/2], tokens in the order frame, row, column."""
  half = head_dim // 2
  side = half // 3
  parts = ((first_frame, half - 2 * side), (0, side), (0, side))
  return np.array(
    [
      np.concatenate([(first + i) * frequencies(n) for i, (first, n) in zip((f, r, c), parts, strict=True)])
      for f in range(frames)
      for r in range(rows)
      for c in range(columns)
    ]
  )


def rope_cos_sin(x, angle):
  """Turns the interleaved pairs of x [S H D]."""
  pairs = (x[..., 0::2] + 1j * x[..., 1::2]) * np.exp(1j * angle)[:, None, :]
  return np.stack([pairs.real, pairs.imag], -1).reshape(x.shape)


def attend(q, k, v, mask):
  """q [Q H D], k and v [K H D], mask [Q K] -> [Q H D]."""
  logits = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(q.shape[-1])
  return np.einsum("hqk,khd->qhd", softmax(np.where(mask, logits, -np.inf)), v)


def frame_mask(config, kind, frames, num_observed, chunks):
  """Who sees whom, [F F]: the frame-level rule, chunk by chunk."""
  chunk = np.repeat(np.arange(len(chunks)), chunks)
  mask = np.zeros((frames, frames), bool)
  for i in range(frames):
    for j in range(frames):
      step = config.dilation if kind == "DSWA" else 1
      seen = kind == "FA" or ((j - i) % step == 0 and abs(j - i) // step < config.window_size)
      if not config.history_sees_future and i < num_observed:
        seen = seen and j < num_observed
      if config.all_see_history:
        seen = seen or j < num_observed
      if config.causal_history and i < num_observed:
        seen = seen and j <= i
      mask[i, j] = seen and chunk[j] <= chunk[i]
  return mask


def token_level(config, kind, q, k, v, tokens):
  """The token-level rule: plain token distances; a dilated layer splits a clip into phases, and its padding is seen."""
  frames, dilation = len(q) // tokens, config.dilation
  if kind == "DSWA" and frames // dilation > 1:
    padded = [np.concatenate([x, np.zeros(((dilation - frames % dilation) * tokens, *x.shape[1:]))]) for x in (q, k, v)]
    out = np.zeros_like(padded[0])
    frame = np.arange(len(out)) // tokens
    for phase in range(dilation):
      mine = frame % dilation == phase
      out[mine] = token_level(config, "SWA", *(x[mine] for x in padded), tokens)
    return out[: frames * tokens]
  distance = np.abs(np.arange(len(q))[:, None] - np.arange(len(q)))
  return attend(q, k, v, (distance <= tokens * config.window_size) | (kind == "FA"))


def gated_delta_rule(q, k, v, log_decay, beta, state):
  """[T H K], [T H V], [T H], [H K V] -> reads [T H V], state: one token after the other."""
  reads, state = np.zeros(v.shape), np.array(state, np.float64)
  for t in range(len(q)):
    for h in range(q.shape[1]):
      memory = np.exp(log_decay[t, h]) * state[h]
      memory = memory + beta[t, h] * np.outer(k[t, h], v[t, h] - memory.T @ k[t, h])
      reads[t, h], state[h] = memory.T @ q[t, h], memory
  return reads, state


def l2_normalize(x):
  return x / np.sqrt(np.sum(x**2, -1, keepdims=True) + 1e-6)


def gated_delta_net(w, x, heads, eps):
  """x [T D] -> (output [T D], final memory [H K V])."""

  def short_conv(name):
    raw, taps = w[f"{name}_proj"](x), w.get(f"{name}_conv1d.weight")[:, 0].T
    raw = np.concatenate([np.zeros((len(taps) - 1, raw.shape[1])), raw])
    return silu(np.array([np.sum(raw[t : t + len(taps)] * taps, 0) for t in range(len(x))])).reshape(len(x), heads, -1)

  q, k, v = (short_conv(name) for name in "qkv")
  q, k = l2_normalize(q) / np.sqrt(q.shape[-1]), l2_normalize(k)
  log_decay = -np.exp(w.get("A_log")) * np.log1p(np.exp(w["a_proj"](x) + w.get("dt_bias")))
  state = np.zeros((heads, q.shape[-1], v.shape[-1]))
  read, state = gated_delta_rule(q, k, v, log_decay, sigmoid(w["b_proj"](x)), state)
  read = rms_norm(read, w.get("o_norm.weight"), eps).reshape(len(x), -1)
  return w["o_proj"](read * silu(w["g_proj"](x))), state


def block(w, x, t_mod, context, context_mask, config, mix):
  """One block on x [S D]; `mix` is its self-attention or delta net, t_mod [S 6 D] or [1 6 D]."""
  eps, heads = config.eps, config.heads
  scale_a, shift_a, gate_a, scale_f, shift_f, gate_f = np.moveaxis(w.get("modulation") + t_mod, 1, 0)
  x = x + gate_a * mix(w, layer_norm(x, eps) * (1 + scale_a) + shift_a)

  c = w.at("cross_attn")
  hidden = layer_norm(x, eps) * w.get("cross_attn_norm.weight") + w.get("cross_attn_norm.bias")
  q = rms_norm(c["q"](hidden), c.get("norm_q.weight"), eps)
  k, v = rms_norm(c["k"](context), c.get("norm_k.weight"), eps), c["v"](context)
  mask = np.ones(len(context), bool) if context_mask is None else np.asarray(context_mask, bool)
  read = attend(*(y.reshape(len(y), heads, -1) for y in (q, k, v)), mask[None])
  x = x + c["o"](read.reshape(len(x), -1))

  return x + gate_f * w.mlp("ffn", layer_norm(x, eps) * (1 + scale_f) + shift_f)


def qkv(w, x, config, angle):
  """[S H D] each: q and k normalized over the whole width, then turned."""
  a = w.at("self_attn")
  q, k = (rms_norm(a[name](x), a.get(f"norm_{name}.weight"), config.eps) for name in "qk")
  q, k, v = (y.reshape(len(x), config.heads, -1) for y in (q, k, a["v"](x)))
  return rope_cos_sin(q, angle), rope_cos_sin(k, angle), v


def video(
  tensors, config, latents, timestep, context, context_mask=None, *, num_observed=0, chunks=None, first_frame=0
):
  """Latents [F H W C], the first `num_observed` frames clean -> velocity [F H W C] and every intermediate."""
  w, config = Weights(tensors, "video_dit."), config.video
  frames, height, width, channels = latents.shape
  _, p, q = config.patch
  rows, columns = height // p, width // q
  tokens = rows * columns
  patches = np.asarray(latents, np.float64).reshape(frames, rows, p, columns, q, channels)
  patches = patches.transpose(0, 1, 3, 5, 2, 4).reshape(frames * tokens, -1)  # as the kernel [D C 1 p q] lies
  x = patches @ w.get("patch_embedding.weight").reshape(config.dim, -1).T + w.get("patch_embedding.bias")

  timesteps = np.repeat(np.where(np.arange(frames) < num_observed, 0.0, timestep), tokens)
  t, t_mod = time_embedding(w, timesteps, config.freq_dim)
  text = w.mlp("text_embedding", np.asarray(context, np.float64))
  angle = video_angles(first_frame, frames, rows, columns, config.dim // config.heads)
  trace = dict(
    patch_tokens=x, t=t, t_mod=t_mod, context_emb=text, angle=angle, blocks=[], keys=[], values=[], states=[]
  )

  for layer, kind in enumerate(config.layers):

    def mix(w, x, kind=kind):
      if kind == "GATED":
        out, state = gated_delta_net(w.at("gated_delta"), x, config.heads, config.eps)
        q = k = v = None
      else:
        (q, k, v), state = qkv(w, x, config, angle), None
        if config.rule == "token":
          read = token_level(config, kind, q, k, v, tokens)
        else:
          mask = frame_mask(config, kind, frames, num_observed, chunks or [frames])
          read = attend(q, k, v, np.kron(mask, np.ones((tokens, tokens), bool)))
        out = w.at("self_attn")["o"](read.reshape(len(x), -1))
      for name, value in (("keys", k), ("values", v), ("states", state)):
        trace[name].append(value)
      return out

    x = block(w.at(f"blocks.{layer}"), x, t_mod, text, context_mask, config, mix)
    trace["blocks"].append(x)

  shift, scale = np.moveaxis(w.get("head.modulation") + t[:, None], 1, 0)
  out = w["head.head"](layer_norm(x, config.eps) * (1 + scale) + shift)
  out = out.reshape(frames, rows, columns, p, q, channels).transpose(0, 1, 3, 2, 4, 5)
  return out.reshape(latents.shape), trace


def action(tensors, config, actions, timestep, context, context_mask, trace, seen):
  """An action chunk [A N] beside the video pass of `trace`, of which it reads the tokens `seen` (a slice)."""
  w, layers, config = Weights(tensors, "action_dit."), config.video.layers, config.action
  _, t_mod = time_embedding(w, [timestep], config.freq_dim)
  text = w.mlp("text_embedding", np.asarray(context, np.float64))
  half = config.attention_dim // config.heads // 2
  angle = np.arange(len(actions))[:, None] * frequencies(half)
  x = w["action_encoder"](np.asarray(actions, np.float64))
  for layer, kind in enumerate(layers):

    def mix(w, x, layer=layer, kind=kind):
      q, k, v = qkv(w, x, config, angle)
      if kind != "GATED":
        k, v = (np.concatenate([trace[name][layer][seen], y]) for name, y in (("keys", k), ("values", v)))
      return w.at("self_attn")["o"](attend(q, k, v, np.ones((len(q), len(k)), bool)).reshape(len(x), -1))

    x = block(w.at(f"blocks.{layer}"), x, t_mod, text, context_mask, config, mix)
  return w["head"](x)


def joint(
  tensors, config, latents, timestep, actions, action_timestep, context, context_mask=None, *, num_observed, **span
):
  """Both velocities of one clip: actions read the history's tokens and each other."""
  velocity, trace = video(tensors, config, latents, timestep, context, context_mask, num_observed=num_observed, **span)
  tokens = len(trace["patch_tokens"]) // len(latents)
  most = config.action.video_frames or num_observed
  seen = slice(max(num_observed - most, 0) * tokens, num_observed * tokens)
  return velocity, action(tensors, config, actions, action_timestep, context, context_mask, trace, seen)


def with_state(tensors, context, context_mask, state, state_mask):
  """The context [N D] with one token more: the encoded state."""
  w = Weights(tensors, "action_dit.")
  token = w.mlp("proprio_encoder", np.asarray(state, np.float64) * state_mask)
  context_mask = np.ones(len(context), bool) if context_mask is None else context_mask
  return np.concatenate([context, token[None]]), np.append(context_mask, np.any(state_mask))
