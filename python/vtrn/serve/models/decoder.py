"""A llama decoder: the pass over a chunk of a prompt, the pass for one token of several sequences, and the choice
of the next token, all on the device.

Keys and values of past tokens are a tensor a layer each, [n_slots, capacity, n_kv_heads, head]: a sequence has a
slot, a token a row. Programs take them donated and write the new rows only.

Weights are a dict of arrays, dense layers as [in, out]. Programs take them as lay_out() has them: queries, keys and
values are one product, and the output layer is the embedding transposed, for a product reads whole rows of weights. The first elements of the rotation's pairs of all query and key heads stand before the second
ones, so that the rotation is arithmetic on two stretches of a row; rows of the key cache are in that order, too. A
quantised matrix is int8 or fp8 with a scale for each output feature beside it.
"""

import dataclasses
import typing

import jax
import jax.numpy as jnp
import numpy as np

# Columns of zeros behind the output layer's: rows of a vocabulary of 49152 are a multiple of 4 KiB apart, and would share
# banks of HBM (strided_pitch_bytes of the chip file).
HEAD_PAD = 64
N_PARTITIONS = 128
FULL_RATE_BYTES = 512  # of a run of memory: docs/hardware.md, "DMA rates that contradict each other"
NEVER = -1e30  # in place of scores that do not count: finite, so that rows of nothing else have no NaN


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    n_layers: int
    width: int
    n_heads: int
    n_kv_heads: int
    head: int
    inner: int
    vocabulary: int
    max_tokens: int
    rope_base: float = 1e4
    epsilon: float = 1e-5

    def cache_bytes_per_token(self, bytes_per_element: int) -> int:
        return 2 * self.n_layers * self.n_kv_heads * self.head * bytes_per_element


def weight_shapes(config: DecoderConfig) -> dict[str, tuple[int, ...]]:
    """As models are stored. The output layer is the embedding."""
    w, inner, kv = config.width, config.inner, config.n_kv_heads * config.head
    shapes = {"tokens": (config.vocabulary, w), "norm.scale": (w,)}
    for i in range(config.n_layers):
        shapes |= {
            f"{i}.attention_norm.scale": (w,), f"{i}.q.weight": (w, config.n_heads * config.head),
            f"{i}.k.weight": (w, kv), f"{i}.v.weight": (w, kv), f"{i}.o.weight": (config.n_heads * config.head, w),
            f"{i}.mlp_norm.scale": (w,), f"{i}.gate.weight": (w, inner), f"{i}.up.weight": (w, inner),
            f"{i}.down.weight": (inner, w),
        }  # fmt: skip
    return shapes


def n_rotated(config: DecoderConfig) -> int:
    """Pairs of a token that are rotated: of all query and key heads."""
    return (config.n_heads + config.n_kv_heads) * config.head // 2


def program_shapes(config: DecoderConfig, capacity: int) -> dict[str, tuple[int, ...]]:
    """As programs take them; positions are below capacity."""
    w, inner, kv = config.width, config.inner, config.n_kv_heads * config.head
    shapes = {"tokens": (config.vocabulary, w), "norm.scale": (w,), "head.weight": (w, config.vocabulary + HEAD_PAD),
              "rotation": (capacity, 2, n_rotated(config))}  # fmt: skip
    for i in range(config.n_layers):
        shapes |= {
            f"{i}.attention_norm.scale": (w,), f"{i}.qkv.weight": (w, config.n_heads * config.head + 2 * kv),
            f"{i}.o.weight": (config.n_heads * config.head, w), f"{i}.mlp_norm.scale": (w,),
            f"{i}.gate.weight": (w, inner), f"{i}.up.weight": (w, inner), f"{i}.down.weight": (inner, w),
        }  # fmt: skip
    return shapes


def lay_out(config: DecoderConfig, weights: dict[str, np.ndarray], capacity: int) -> dict[str, np.ndarray]:
    """Weights by the names of weight_shapes(), and perhaps their scales -> by those of program_shapes()."""
    out = {"rotation": rotation(config, capacity)}
    for name, weight in weights.items():
        layer, _, part = name.partition(".")
        if part.startswith("q.weight"):
            q, k, v = (weights[f"{layer}.{m}{part[1:]}"] for m in "qkv")
            q, k = (np.reshape(m, (*m.shape[:-1], -1, 2, config.head // 2)) for m in (q, k))
            halves = [m[..., half, :] for half in (0, 1) for m in (q, k)]
            rows = [m.reshape(*v.shape[:-1], -1) for m in (*halves, v)]
            out[f"{layer}.qkv{part[1:]}"] = np.concatenate(rows, -1)
        elif not part.startswith(("k.weight", "v.weight")):
            out[name] = weight
        if name == "tokens":
            out["head.weight"] = np.pad(weight.T, ((0, 0), (0, HEAD_PAD)))
        elif name == "tokens_scale":
            out["head.weight_scale"] = np.pad(weight, (0, HEAD_PAD))
    return out


def _norm(config, weights, name, x):
    x = x.astype(jnp.float32)
    scale = jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + config.epsilon)
    return x * scale * weights[f"{name}.scale"].astype(jnp.float32)


def _dense(weights, name, x, dtype):
    """x[rows, in] -> fp32[rows, out]. Weights of another type than dtype are quantised: their scale follows."""
    w = weights[f"{name}.weight"]
    product = jnp.dot(x.astype(dtype), w.astype(dtype), preferred_element_type=jnp.float32)
    scale = weights.get(f"{name}.weight_scale")
    return product if scale is None else product * scale


def rotation(config: DecoderConfig, capacity: int) -> np.ndarray:
    """Cosine and sine, fp32[capacity, 2, n_rotated()], of the rotary embedding by position: a row is what one token's
    pairs of all heads are multiplied with."""
    half = config.head // 2
    angles = np.arange(capacity)[:, None] * config.rope_base ** (-np.arange(half) / half)
    return np.tile(np.stack([np.cos(angles), np.sin(angles)], 1), n_rotated(config) // half).astype(np.float32)


def _mlp(weights, i, x, dtype):
    x = x.astype(dtype)  # once, for both products
    inner = jax.nn.silu(_dense(weights, f"{i}.gate", x, dtype)) * _dense(weights, f"{i}.up", x, dtype)
    return _dense(weights, f"{i}.down", inner, dtype)


def _qkv(config, weights, i, x, angles, dtype):
    """Of rows x[rows, w]: queries [rows, 2, n_kv_heads, groups, head / 2] and keys [rows, 2, n_kv_heads * head / 2],
    both rotated, and values [rows, 1, n_kv_heads * head].
    """
    half, n_kv = config.head // 2, config.n_kv_heads
    made = _dense(weights, f"{i}.qkv", _norm(config, weights, f"{i}.attention_norm", x), dtype)
    n = n_rotated(config)
    a, b, v = made[:, :n], made[:, n : 2 * n], made[:, 2 * n :]
    cos, sin = angles[:, 0], angles[:, 1]
    rotated = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1).reshape(x.shape[0], 2, n)
    q, k = rotated[:, :, : config.n_heads * half], rotated[:, :, config.n_heads * half :]
    groups = config.n_heads // n_kv
    return q.reshape(-1, 2, n_kv, groups, half), k, v[:, None]


def _logits(config, weights, x, dtype):
    """x[rows, w] -> fp32[rows, vocabulary]."""
    return _dense(weights, "head", _norm(config, weights, "norm", x), dtype)[:, : config.vocabulary]


def _embed(weights, ids):
    x = _rows_of(weights["tokens"], ids).astype(jnp.float32)
    scale = weights.get("tokens_scale")
    return x if scale is None else x * _rows_of(scale, ids)[:, None]


def _rows_of(table, indices):
    """Nothing is spent on indices out of bounds: the device clamps them in any case."""
    return table.at[indices].get(mode="promise_in_bounds", wrap_negative_indices=False)


def decode_step(config: DecoderConfig, length: int, weights, cache, tokens, positions, dtype):
    """One token of each of the first b slots: tokens int32[b], positions int32[b] (of the token) -> logits
    fp32[b, vocabulary] and the cache. Rows up to `length`, the bucket, are read. A slot that takes no part
    still writes the row of its position.
    """
    b, capacity = tokens.shape[0], cache[0].shape[1]
    rows = jnp.arange(b, dtype=jnp.int32) * capacity + positions
    access = CacheAccess(lambda c: c[:b, :length], lambda c, new: _write_rows(c, new, rows))
    return _decode(config, length, weights, cache, tokens, positions, access, dtype)


def decode_step_paged(config: DecoderConfig, length: int, weights, cache, tokens, positions, rows, tables, dtype):
    """The same over a cache of blocks, [n_blocks, block, n_kv_heads, head]: token i of sequence j is row i % block of block
    tables[j, i // block] (int32[b, length / block]). rows int32[b]: where each token's keys and values are written, of all
    n_blocks * block; no two are equal, and one beyond them is not written.
    """
    b = tokens.shape[0]
    write = (lambda c, new: _write_rows(c, new, rows)) if b == 1 else (lambda c, new: _scatter_rows(c, new, rows))

    def read_before(c, new):  # the gather does not wait for this token
        new = new.astype(c.dtype).reshape(b, 1, *c.shape[2:])
        return jax.lax.dynamic_update_slice(_blocks_of(c, tables), new, (0, length - 1, 0, 0))

    return _decode(config, length, weights, cache, tokens, positions, CacheAccess(None, write, read_before), dtype)


@dataclasses.dataclass(frozen=True)
class CacheAccess:
    """How a step reads and writes a tensor of the cache: read(tensor) -> [b, length, n_kv_heads, head] of what is past, and
    write(tensor, new rows) -> tensor."""

    read: typing.Callable | None  # None: nothing is past
    write: typing.Callable
    # (tensor before write, new rows) -> as read, with the new row of each sequence last: no past row can be there, for the longest
    # sequence has length - 1 of them.
    read_before: typing.Callable | None = None


def _decode(config, length, weights, cache, tokens, positions, access, dtype):
    b = tokens.shape[0]
    angles = _rows_of(weights["rotation"], positions)
    x = _embed(weights, tokens)
    columns, here = jnp.arange(length)[None, :], positions[:, None]
    counts = (columns < here) | (columns == length - 1) if access.read_before else columns <= here
    mask = jnp.where(counts, 0.0, NEVER)
    cache = list(cache)
    for i in range(config.n_layers):
        q, k, v = _qkv(config, weights, i, x, angles, dtype)
        seen = []
        for j, new in ((2 * i, k), (2 * i + 1, v)):
            past = access.read_before(cache[j], new) if access.read_before else None
            cache[j] = access.write(cache[j], new)
            seen.append((access.read(cache[j]) if past is None else past).astype(dtype))
        keys, values = seen
        keys = keys.reshape(b, length, 2, config.n_kv_heads, -1)
        scores = jnp.einsum("bckgd,blckd->bkgl", q.astype(dtype), keys, preferred_element_type=jnp.float32)
        scores = scores * config.head**-0.5
        shares = jax.nn.softmax(scores + mask[:, None, None, :], axis=-1).astype(dtype)
        mixed = jnp.einsum("bkgl,blkd->bkgd", shares, values, preferred_element_type=jnp.float32)
        x = x + _dense(weights, f"{i}.o", mixed.reshape(b, -1), dtype)
        x = x + _mlp(weights, i, _norm(config, weights, f"{i}.mlp_norm", x), dtype)
    return _logits(config, weights, x, dtype), tuple(cache)


def _blocks_of(tensor, tables):
    """tensor[n_blocks, block, heads, head], tables int32[b, n] -> [b, n * block, heads, head]."""
    n = _pieces_of(tensor, tables.size)
    pieces = tensor.reshape(tensor.shape[0] * n, -1)
    rows = (tables[..., None] * n + jnp.arange(n, dtype=jnp.int32)).reshape(tables.shape[0], -1)
    return _rows_of(pieces, rows).reshape(tables.shape[0], -1, *tensor.shape[2:])


def _pieces_of(tensor, n_blocks: int) -> int:
    """Into how many equal pieces a block is cut to be gathered: what a partition takes is one, and partitions receive side by
    side, so as many as give all of them work; none below what DMAs move at their full rate."""
    block, row_bytes = tensor.shape[1], tensor.shape[2] * tensor.shape[3] * tensor.dtype.itemsize
    fit = [n for n in range(1, block + 1) if block % n == 0 and block // n * row_bytes >= FULL_RATE_BYTES]
    return max((n for n in fit if n * n_blocks <= N_PARTITIONS), default=1)


def _slice(x, starts, sizes):
    """Starts are never negative, so nothing is spent on those."""
    return jax.lax.dynamic_slice(x, _ints(starts), sizes, allow_negative_indices=False)


def _put(x, new, starts):
    return jax.lax.dynamic_update_slice(x, new, _ints(starts), allow_negative_indices=False)


def _ints(values):
    return tuple(jnp.int32(v) for v in values)


def _write_rows(tensor, new, rows):
    """tensor[slots, capacity, heads, head] with row rows[i] of slots * capacity replaced by new[i, n, m], where n * m is
    heads * head."""
    flat = tensor.reshape(-1, *new.shape[1:])
    new = new.astype(tensor.dtype)
    if new.shape[0] == 1:
        return _put(flat, new, (rows[0], 0, 0)).reshape(tensor.shape)
    written = flat.at[rows].set(new, mode="promise_in_bounds", unique_indices=True, wrap_negative_indices=False)
    return written.reshape(tensor.shape)


def _scatter_rows(tensor, new, rows):
    """The same of any number of rows; those beyond the tensor are left out."""
    flat = tensor.reshape(-1, *new.shape[1:])
    written = flat.at[rows].set(new.astype(tensor.dtype), mode="drop", unique_indices=True, wrap_negative_indices=False)
    return written.reshape(tensor.shape)


def copy_block(cache, source, target):
    """The cache with block source in block target, too."""
    return copy_rows(cache[0].shape[1], cache, source, target)


def copy_rows(length: int, cache, source, target):
    """The cache with the first `length` rows of slot source in slot target, too."""
    sizes = [(1, length, *c.shape[2:]) for c in cache]
    return tuple(_put(c, _slice(c, (source, 0, 0, 0), n), (target, 0, 0, 0)) for c, n in zip(cache, sizes))


def prefill_chunk(config: DecoderConfig, length: int, weights, cache, ids, slot, start, n_tokens, dtype):
    """A chunk of one sequence's prompt: ids int32[s], of which the first n_tokens count, stand at positions start and
    after -> logits fp32[1, vocabulary] behind the last of them, and the cache. The chunk's rows are written to the
    slot, those of padding too: the next chunk or token overwrites them before anything reads them. length: how many
    rows are read, at least start + s.
    """
    access = _slot_access(cache, ids.shape[0], length, slot, start)
    x, cache = _chunk(config, length, weights, cache, ids, start, access, dtype)
    return _last_logits(config, weights, x, n_tokens, dtype), cache


def prefill_chunk_paged(config: DecoderConfig, length: int, weights, cache, ids, rows, table, start, n_tokens, dtype):
    """The same over a cache of blocks, with rows int32[s] and table int32[length / block] as decode_step_paged() has them.
    Rows of padding lie beyond the tensor. length is at least start + n_tokens; 0: start is 0, and the chunk attends to
    itself.
    """
    access = _table_access(rows, table) if length else CacheAccess(None, lambda c, new: _scatter_rows(c, new, rows))
    x, cache = _chunk(config, length or ids.shape[0], weights, cache, ids, start, access, dtype)
    return _last_logits(config, weights, x, n_tokens, dtype), cache


def verify_chunk(config: DecoderConfig, length: int, weights, cache, ids, slot, start, dtype):
    """Logits fp32[s, vocabulary] behind each of the tokens ids int32[s] of a sequence at positions start and after, and
    the cache with their rows. Rows of tokens that turn out to be others are overwritten before anything reads them.
    """
    x, cache = _chunk(config, length, weights, cache, ids, start, _slot_access(cache, ids.shape[0], length, slot, start), dtype)
    return _logits(config, weights, x, dtype), cache


def verify_chunk_paged(config: DecoderConfig, length: int, weights, cache, ids, rows, table, start, dtype):
    """The same over a cache of blocks."""
    x, cache = _chunk(config, length, weights, cache, ids, start, _table_access(rows, table), dtype)
    return _logits(config, weights, x, dtype), cache


def chunk_logits(config: DecoderConfig, length: int, weights, cache, ids, dtype):
    """Logits fp32[s, vocabulary] behind each token of a text that begins with ids int32[s]: to score it."""
    zero = jnp.int32(0)
    x, _ = _chunk(config, length, weights, cache, ids, zero, _slot_access(cache, ids.shape[0], length, zero, zero), dtype)
    return _logits(config, weights, x, dtype)


def _last_logits(config, weights, x, n_tokens, dtype):
    return _logits(config, weights, _slice(x, (n_tokens - 1, 0), (1, config.width)), dtype)


def _slot_access(cache, s, length, slot, start) -> CacheAccess:
    """Where length is s, start is 0."""
    sizes = (1, length, *cache[0].shape[2:])
    read = None if length == s else lambda c: _slice(c, (slot, 0, 0, 0), sizes)[0]
    return CacheAccess(read, lambda c, new: _put(c, new[None], (slot, start, 0, 0)))


def _table_access(rows, table) -> CacheAccess:
    return CacheAccess(lambda c: _blocks_of(c, table[None])[0], lambda c, new: _scatter_rows(c, new, rows))


def _chunk(config, length, weights, cache, ids, start, access, dtype):
    """Hidden states fp32[s, w] and the cache."""
    s = ids.shape[0]
    positions = start + jnp.arange(s, dtype=jnp.int32)
    angles = _slice(weights["rotation"], (start, 0, 0), (s, *weights["rotation"].shape[1:]))
    x = _embed(weights, ids)
    mask = jnp.where(jnp.arange(length)[None, :] <= positions[:, None], 0.0, NEVER)
    cache = list(cache)
    for i in range(config.n_layers):
        q, k, v = _qkv(config, weights, i, x, angles, dtype)
        parts = []
        for j, new in ((2 * i, k), (2 * i + 1, v)):
            new = new.reshape(s, *cache[j].shape[2:]).astype(cache[j].dtype)
            cache[j] = access.write(cache[j], new)
            parts.append((access.read(cache[j]) if access.read else new).astype(dtype))
        keys, values = parts
        keys = keys.reshape(length, 2, config.n_kv_heads, -1)
        scores = jnp.einsum("sckgd,lckd->kgsl", q.astype(dtype), keys, preferred_element_type=jnp.float32)
        scores = scores * config.head**-0.5
        shares = jax.nn.softmax(scores + mask[None, None], axis=-1).astype(dtype)
        mixed = jnp.einsum("kgsl,lkd->skgd", shares, values, preferred_element_type=jnp.float32)
        x = x + _dense(weights, f"{i}.o", mixed.reshape(s, -1), dtype)
        x = x + _mlp(weights, i, _norm(config, weights, f"{i}.mlp_norm", x), dtype)
    return x, tuple(cache)


def empty_cache(config: DecoderConfig, n_slots: int, capacity: int, dtype):
    shape = (n_slots, capacity, config.n_kv_heads, config.head)
    return tuple(jnp.zeros(shape, dtype) for _ in range(2 * config.n_layers))
