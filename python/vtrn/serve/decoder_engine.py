"""A decoder on one NeuronCore: weights and caches in its HBM, programs by bucket, one call a step.

It knows slots and positions, no requests: decoder_queue.py decides what runs next.
"""

import dataclasses

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from vtrn.serve.models import decoder, sampling
from vtrn.serve.programs import Program, Programs, artifact_of, bucket_for
from vtrn.serve.runtime import Device, Profile


@dataclasses.dataclass(frozen=True)
class Choice:
    """How the next token is chosen; temperature 0 is greedy."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0


@dataclasses.dataclass(frozen=True)
class Buckets:
    """Sizes that programs exist for, each ascending."""

    prompt: tuple[int, ...] = (32, 128, 512)  # tokens of a chunk of a prompt
    batch: tuple[int, ...] = (1, 4, 8)  # sequences of a decode step
    length: tuple[int, ...] = (128, 512, 1024)  # tokens a step looks back at; the last is the capacity of a slot

    @property
    def capacity(self) -> int:
        return self.length[-1]

    @property
    def n_slots(self) -> int:
        return self.batch[-1]


@dataclasses.dataclass(frozen=True)
class StepResult:
    tokens: list[int]
    bucket: str  # the program's name: decode_b4_l512
    rows: int  # of the batch that computed something that counts
    bucket_rows: int
    profile: Profile


class DecoderEngine:
    """`weights` as vtrn.serve.models.decoder names them; matrices are stored in `dtype` unless quantised."""

    def __init__(self, device: Device, programs: Programs, config: decoder.DecoderConfig, weights, dtype: str = "bf16",
                 cache_dtype: str | None = None, buckets: Buckets = Buckets(), core_i: int = 0):  # fmt: skip
        self.config, self.buckets, self.core_i, self._device, self._programs = config, buckets, core_i, device, programs
        self.dtype = {"bf16": jnp.bfloat16, "fp16": jnp.float16, "fp32": jnp.float32}[dtype]
        kept = {None: self.dtype, "fp8e4m3": ml_dtypes.float8_e4m3, "bf16": jnp.bfloat16, "fp32": jnp.float32}
        self.cache_dtype = np.dtype(kept[cache_dtype])
        stored = {name: self._stored(name, w) for name, w in weights.items()}
        self._names = sorted(stored)
        self._shapes = {n: jax.ShapeDtypeStruct(stored[n].shape, stored[n].dtype) for n in self._names}
        self._weights = [device.put(stored[n], core_i) for n in self._names]
        self.weight_bytes = sum(stored[n].nbytes for n in self._names)
        shape = (buckets.n_slots, buckets.capacity, config.n_kv_heads, config.head)
        self._cache_shape = jax.ShapeDtypeStruct(shape, self.cache_dtype)
        self._cache = [device.put(np.zeros(shape, self.cache_dtype), core_i) for _ in range(2 * config.n_layers)]

    def _stored(self, name: str, weight):
        is_matrix = weight.ndim == 2 and weight.dtype == np.float32
        return np.asarray(weight).astype(self.dtype) if is_matrix else weight

    @property
    def cache_bytes(self) -> int:
        return sum(b.type.dtype.itemsize * int(np.prod(b.type.shape)) for b in self._cache)

    # --- programs

    def _choice_shapes(self, n: int, is_greedy: bool):
        return () if is_greedy else (jax.ShapeDtypeStruct((n,), jnp.float32),) * 4

    def decode_program(self, batch: int, length: int, is_greedy: bool) -> Program:
        def step(weights, cache, tokens, positions, *choice):
            logits, cache = decoder.decode_step(self.config, length, weights, cache, tokens, positions, self.dtype)
            return (sampling.greedy(logits) if is_greedy else sampling.sample(logits, *choice)), cache

        ints = jax.ShapeDtypeStruct((batch,), jnp.int32)
        return self._make(f"decode_b{batch}_l{length}", step, (ints, ints), batch, is_greedy)

    def prefill_program(self, n: int, length: int, is_greedy: bool) -> Program:
        def chunk(weights, cache, ids, slot, start, n_tokens, *choice):
            logits, cache = decoder.prefill_chunk(
                self.config, length, weights, cache, ids, slot, start, n_tokens, self.dtype
            )
            return (sampling.greedy(logits) if is_greedy else sampling.sample(logits, *choice)), cache

        one = jax.ShapeDtypeStruct((), jnp.int32)
        shapes = (jax.ShapeDtypeStruct((n,), jnp.int32), one, one, one)
        return self._make(f"prefill_s{n}_l{length}", chunk, shapes, 1, is_greedy)

    def _make(self, name, function, shapes, n_choices, is_greedy) -> Program:
        shapes = (self._shapes, (self._cache_shape,) * len(self._cache), *shapes)
        choice = self._choice_shapes(n_choices, is_greedy)
        name = name if is_greedy else f"{name}_sampled"
        return self._programs.get(
            f"{id(self)}/{name}", lambda: artifact_of(function, *shapes, *choice, donated=(1,))
        )

    # --- steps

    def _run(self, program: Program, arguments, choices, uniforms) -> tuple[np.ndarray, Profile]:
        if choices:
            columns = ([c.temperature for c in choices], [c.top_k for c in choices], [c.top_p for c in choices], uniforms)
            arguments = [*arguments, *(np.array(c, np.float32) for c in columns)]
        buffers = [self._device.put(a, self.core_i) for a in arguments]
        outputs = program.executable([*self._weights, *self._cache, *buffers], self.core_i)
        self._cache = outputs[1:]
        return outputs[0].numpy(), program.executable.profile()

    def prefill(self, slot: int, start: int, tokens: list[int], choice: Choice, uniform: float) -> StepResult:
        """A chunk of a prompt at positions start and after; the result's token is the one behind it."""
        n = bucket_for(list(self.buckets.prompt), len(tokens))
        length = n if start == 0 else bucket_for(list(self.buckets.length), start + n)
        if n is None or length is None or start + n > self.buckets.capacity:
            raise ValueError(f"no bucket holds {len(tokens)} tokens at position {start}: prompts {self.buckets.prompt}, "
                             f"lengths {self.buckets.length}")  # fmt: skip
        is_greedy = choice.temperature == 0
        program = self.prefill_program(n, length, is_greedy)
        ids = np.zeros(n, np.int32)
        ids[: len(tokens)] = tokens
        scalars = [np.int32(slot), np.int32(start), np.int32(len(tokens))]
        out, profile = self._run(program, [ids, *scalars], [] if is_greedy else [choice], [uniform])
        return StepResult([int(out[0])], f"prefill_s{n}_l{length}", len(tokens), n, profile)

    def decode(self, tokens: dict[int, int], positions: dict[int, int], choices: dict[int, Choice],
               uniforms: dict[int, float]) -> StepResult:  # fmt: skip
        """The next token of each slot: all dicts by slot. tokens: the last one, at its position."""
        batch = bucket_for(list(self.buckets.batch), max(tokens) + 1)
        length = bucket_for(list(self.buckets.length), max(positions.values()) + 1)
        is_greedy = all(c.temperature == 0 for c in choices.values())
        program = self.decode_program(batch, length, is_greedy)
        # Slots that take no part may hold a prompt half computed. They write their last row, which no sequence has:
        # prompt and new tokens fit into the capacity, and the last token is never fed back.
        spare = self.buckets.capacity - 1
        rows = [np.array([of.get(i, other) for i in range(batch)], np.int32)
                for of, other in ((tokens, 0), (positions, spare))]  # fmt: skip
        out, profile = self._run(program, rows, [] if is_greedy else [choices.get(i, Choice()) for i in range(batch)],
                                 [uniforms.get(i, 0.0) for i in range(batch)])  # fmt: skip
        return StepResult([int(out[i]) for i in tokens], f"decode_b{batch}_l{length}", len(tokens), batch, profile)
