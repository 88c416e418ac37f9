"""A decoder on one NeuronCore: weights and caches in its HBM, programs by bucket, one call a step.

It knows slots and positions, no requests: decoder_queue.py decides what runs next.
"""

import dataclasses
import typing

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from vtrn.serve import quantise
from vtrn.serve.buckets import Buckets
from vtrn.serve.models import decoder, sampling
from vtrn.serve.programs import Program, Programs, artifact_of, bucket_for
from vtrn.serve.runtime import Device, Profile


@dataclasses.dataclass(frozen=True)
class Choice:
    """How the next token is chosen; temperature 0 is greedy."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    has_logprob: bool = False  # the token's log probability is asked for


@dataclasses.dataclass(frozen=True)
class StepResult:
    tokens: list[int]
    bucket: str  # the program's name: decode_b4_l512
    rows: int  # of the batch that computed something that counts
    bucket_rows: int
    profile: Profile
    logprobs: list[float] | None = None  # of the tokens, if any choice asks for them


FLOATS = {"bf16": ml_dtypes.bfloat16, "fp16": np.float16, "fp32": np.float32, "fp8": ml_dtypes.float8_e4m3}


@dataclasses.dataclass(frozen=True)
class ProgramSpec:
    name: str
    make_artifact: typing.Callable[[], bytes]


class DecoderShapes:
    """The programs of a decoder, which its shapes decide: nothing here has values.

    dtype: bf16, fp16 or fp32, of matmuls and of matrices; weights: None, or int8 or fp8 for matrices in a byte an
    element; cache: None for dtype, or fp8."""

    def __init__(self, config: decoder.DecoderConfig, buckets: Buckets, dtype: str = "bf16", weights: str | None = None,
                 cache: str | None = None):  # fmt: skip
        self.config, self.buckets = config, buckets
        self.dtype, self.weights, self.cache_dtype = np.dtype(FLOATS[dtype]), weights, np.dtype(FLOATS[cache or dtype])
        self.weight_shapes = {}
        for name, shape in decoder.program_shapes(config, buckets.capacity).items():
            kind = self.dtype if quantise.is_matrix(name) else np.float32
            if weights and quantise.is_matrix(name):
                kind = quantise.KINDS[weights][0]
                self.weight_shapes[f"{name}_scale"] = jax.ShapeDtypeStruct((shape[quantise.scale_axis(name)],), jnp.float32)
            self.weight_shapes[name] = jax.ShapeDtypeStruct(shape, kind)
        self.weight_names = sorted(self.weight_shapes)
        cache_shape = (*self._rows(), config.n_kv_heads, config.head)
        self.cache_shapes = (jax.ShapeDtypeStruct(cache_shape, self.cache_dtype),) * (2 * config.n_layers)

    def _rows(self) -> tuple[int, int]:
        return self.buckets.n_slots, self.buckets.capacity

    @property
    def weight_bytes(self) -> int:
        return sum(s.size * s.dtype.itemsize for s in self.weight_shapes.values())

    @property
    def step_bytes(self) -> int:
        """Of weights that a step for one token reads: all but tables, of which it takes a row."""
        tables = ("tokens", "tokens_scale", "rotation")
        return sum(s.size * s.dtype.itemsize // (s.shape[0] if n in tables else 1) for n, s in self.weight_shapes.items())

    @property
    def cache_bytes(self) -> int:
        return sum(s.size * s.dtype.itemsize for s in self.cache_shapes)

    def stored(self, weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """fp32 weights as the programs take them."""
        if self.weights:
            weights = quantise.quantise_all(weights, self.weights)
        weights = decoder.lay_out(self.config, weights, self.buckets.capacity)
        return {n: np.asarray(weights[n]).astype(s.dtype) for n, s in self.weight_shapes.items()}

    def decode(self, batch: int, length: int, is_greedy: bool, has_logprobs: bool = False) -> ProgramSpec:
        def step(weights, cache, tokens, positions, *choice):
            logits, cache = decoder.decode_step(self.config, length, weights, cache, tokens, positions, self.dtype)
            return chosen(logits, choice, is_greedy, has_logprobs), cache

        ints = jax.ShapeDtypeStruct((batch,), jnp.int32)
        return self._spec(f"decode_b{batch}_l{length}", step, (ints, ints), batch, is_greedy, has_logprobs)

    def prefill(self, n: int, length: int, is_greedy: bool, has_logprobs: bool = False) -> ProgramSpec:
        def chunk(weights, cache, ids, slot, start, n_tokens, *choice):
            logits, cache = decoder.prefill_chunk(
                self.config, length, weights, cache, ids, slot, start, n_tokens, self.dtype
            )
            return chosen(logits, choice, is_greedy, has_logprobs), cache

        one = jax.ShapeDtypeStruct((), jnp.int32)
        shapes = (jax.ShapeDtypeStruct((n,), jnp.int32), one, one, one)
        return self._spec(f"prefill_s{n}_l{length}", chunk, shapes, 1, is_greedy, has_logprobs)

    def verify(self, length: int) -> ProgramSpec:
        """The likeliest token behind each of the last one and buckets.draft guessed ones."""

        def check(weights, cache, ids, slot, start):
            logits, cache = decoder.verify_chunk(self.config, length, weights, cache, ids, slot, start, self.dtype)
            return sampling.greedy(logits), cache

        n, one = self.buckets.draft + 1, jax.ShapeDtypeStruct((), jnp.int32)
        return self._spec(f"verify_s{n}_l{length}", check, (jax.ShapeDtypeStruct((n,), jnp.int32), one, one), 1, True)

    def copy(self, length: int) -> ProgramSpec:
        """Rows of one slot into another."""

        def copy(cache, source, target):
            return decoder.copy_rows(length, cache, source, target)

        one = jax.ShapeDtypeStruct((), jnp.int32)
        return ProgramSpec(f"copy_l{length}", lambda: artifact_of(copy, self.cache_shapes, one, one, donated=(0,)))

    def _spec(self, name, function, shapes, n_choices, is_greedy, has_logprobs=False) -> ProgramSpec:
        choice = () if is_greedy else (jax.ShapeDtypeStruct((n_choices,), jnp.float32),) * 4
        shapes = (self.weight_shapes, self.cache_shapes, *shapes, *choice)
        name = f"{name}{'' if is_greedy else '_sampled'}{'_logprobs' if has_logprobs else ''}"
        return ProgramSpec(name, lambda: artifact_of(function, *shapes, donated=(1,)))


def chosen(logits, choice, is_greedy: bool, has_logprobs: bool):
    tokens = sampling.greedy(logits) if is_greedy else sampling.sample(logits, *choice)
    return (tokens, sampling.log_probability(logits, tokens)) if has_logprobs else tokens


class DecoderEngine:
    """`weights` in fp32 as vtrn.serve.models.decoder names them; the rest as DecoderShapes has it."""

    shapes_of = DecoderShapes

    def __init__(self, device: Device, programs: Programs, config: decoder.DecoderConfig, weights, dtype: str = "bf16",
                 buckets: Buckets = Buckets(), core_i: int = 0, kept: str | None = None, cache: str | None = None):  # fmt: skip
        self.shapes = self.shapes_of(config, buckets, dtype, kept, cache)
        self.buckets, self.core_i, self._device, self._programs = buckets, core_i, device, programs
        stored = self.shapes.stored(weights)
        self._weights = [device.put(stored[n], core_i) for n in self.shapes.weight_names]
        self._cache = [device.put(np.zeros(s.shape, s.dtype), core_i) for s in self.shapes.cache_shapes]

    @property
    def weight_bytes(self) -> int:
        return self.shapes.weight_bytes

    @property
    def cache_bytes(self) -> int:
        return self.shapes.cache_bytes

    def decode_program(self, batch: int, length: int, is_greedy: bool, has_logprobs: bool = False) -> Program:
        return self._get(self.shapes.decode(batch, length, is_greedy, has_logprobs))

    def prefill_program(self, n: int, length: int, is_greedy: bool, has_logprobs: bool = False) -> Program:
        return self._get(self.shapes.prefill(n, length, is_greedy, has_logprobs))

    def verify_program(self, length: int) -> Program:
        return self._get(self.shapes.verify(length))

    def warm_up(self) -> None:
        """Makes the programs of the smallest buckets."""
        self.prefill_program(self.buckets.prompt[0], self.buckets.prompt[0], True)
        self._warm_up_decoding()

    def _warm_up_decoding(self) -> None:
        b = self.buckets
        for batch in b.batch[:2]:
            self.decode_program(batch, b.length[0], True)
        if b.draft:
            self.verify_program(b.length[0])

    def _get(self, spec: ProgramSpec) -> Program:
        return self._programs.get(f"{id(self)}/{spec.name}", spec.make_artifact)

    # --- steps

    def _run(self, program: Program, arguments, choices, uniforms) -> tuple[list[np.ndarray], Profile]:
        """Tokens, and their log probabilities if the program gives them."""
        if choices:
            columns = ([c.temperature for c in choices], [c.top_k for c in choices], [c.top_p for c in choices], uniforms)
            arguments = [*arguments, *(np.array(c, np.float32) for c in columns)]
        buffers = [self._device.put(a, self.core_i) for a in arguments]
        outputs = program.executable([*self._weights, *self._cache, *buffers], self.core_i)
        n = len(outputs) - len(self._cache)
        self._cache = outputs[n:]
        return [o.numpy() for o in outputs[:n]], program.executable.profile()

    def prefill(self, slot: int, start: int, tokens: list[int], choice: Choice, uniform: float) -> StepResult:
        """A chunk of a prompt at positions start and after; the result's token is the one behind it."""
        n = bucket_for(list(self.buckets.prompt), len(tokens))
        length = n if start == 0 else bucket_for(list(self.buckets.length), start + n)
        if n is None or length is None or start + n > self.buckets.capacity:
            raise ValueError(f"no bucket holds {len(tokens)} tokens at position {start}: prompts {self.buckets.prompt}, "
                             f"lengths {self.buckets.length}")  # fmt: skip
        is_greedy = choice.temperature == 0
        program = self.prefill_program(n, length, is_greedy, choice.has_logprob)
        ids = np.zeros(n, np.int32)
        ids[: len(tokens)] = tokens
        scalars = [np.int32(slot), np.int32(start), np.int32(len(tokens))]
        out, profile = self._run(program, [ids, *scalars], [] if is_greedy else [choice], [uniform])
        return StepResult([int(out[0][0])], f"prefill_s{n}_l{length}", len(tokens), n, profile, floats(out[1:], [0]))

    def verify(self, slot: int, start: int, tokens: list[int]) -> StepResult:
        """The likeliest token behind each of `tokens`, of which the first is the sequence's last one, at position start, and
        the others are guesses."""
        n = self.buckets.draft + 1
        length = bucket_for(list(self.buckets.length), start + n)
        if len(tokens) > n or length is None:
            raise ValueError(f"no program checks {len(tokens)} tokens at position {start}: {n} of at most {self.buckets.capacity}")
        ids = np.zeros(n, np.int32)
        ids[: len(tokens)] = tokens
        (out,), profile = self._run(self.verify_program(length), [ids, np.int32(slot), np.int32(start)], [], [])
        return StepResult([int(t) for t in out[: len(tokens)]], f"verify_s{n}_l{length}", len(tokens), n, profile)

    def copy(self, source: int, target: int, n: int) -> StepResult:
        """The first n rows of slot source into slot target, and those behind them up to a bucket: nothing reads these
        before they are written anew."""
        length = bucket_for(list(self.buckets.length), n)
        program = self._get(self.shapes.copy(length))
        buffers = [self._device.put(np.int32(slot), self.core_i) for slot in (source, target)]
        self._cache = program.executable([*self._cache, *buffers], self.core_i)
        return StepResult([], f"copy_l{length}", n, length, program.executable.profile())

    def decode(self, tokens: dict[int, int], positions: dict[int, int], choices: dict[int, Choice],
               uniforms: dict[int, float]) -> StepResult:  # fmt: skip
        """The next token of each slot: all dicts by slot. tokens: the last one, at its position."""
        batch = bucket_for(list(self.buckets.batch), max(tokens) + 1)
        length = bucket_for(list(self.buckets.length), max(positions.values()) + 1)
        is_greedy = all(c.temperature == 0 for c in choices.values())
        program = self.decode_program(batch, length, is_greedy, any(c.has_logprob for c in choices.values()))
        # Slots that take no part may hold a prompt half computed. They write their last row, which no sequence has:
        # prompt and new tokens fit into the capacity, and the last token is never fed back.
        spare = self.buckets.capacity - 1
        rows = [np.array([of.get(i, other) for i in range(batch)], np.int32)
                for of, other in ((tokens, 0), (positions, spare))]  # fmt: skip
        out, profile = self._run(program, rows, [] if is_greedy else [choices.get(i, Choice()) for i in range(batch)],
                                 [uniforms.get(i, 0.0) for i in range(batch)])  # fmt: skip
        return StepResult([int(out[0][i]) for i in tokens], f"decode_b{batch}_l{length}", len(tokens), batch, profile,
                          floats(out[1:], tokens))  # fmt: skip


def floats(out: list[np.ndarray], rows) -> list[float] | None:
    return [float(out[0][i]) for i in rows] if out else None
