"""The server's inside, without a protocol: a machine, the models on its cores, and the threads that run them."""

import dataclasses
import os
import pathlib

import vtrn
from vtrn.serve import machine, weights
from vtrn.serve.batcher import Batcher, BatchLimits
from vtrn.serve.decoder_engine import Buckets, DecoderEngine
from vtrn.serve.decoder_schedule import Schedule
from vtrn.serve.decoder_worker import DecoderWorker
from vtrn.serve.draft import Drafter, first_layers
from vtrn.serve.paged_engine import PagedEngine
from vtrn.serve.paged_schedule import PagedSchedule
from vtrn.serve.programs import Programs
from vtrn.serve.repository import settings_of
from vtrn.serve.runtime import Device, VtrnError
from vtrn.serve.stages import Kept, Pipeline, Wanted
from vtrn.serve.tensor_models import EncoderModel, StoredModel, wanted_of
from vtrn.serve.text import TextService

BUILT_IN = ("minilm", "smollm2")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What `vtrn serve` is told."""

    models: tuple[str, ...] = ("minilm", "smollm2")
    instance: str | None = None
    chip: str | None = None
    n_cores: str = ""  # NEURON_RT_NUM_CORES; else all
    cores: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)  # by model; else the next free core
    pipelines: dict[str, int] = dataclasses.field(default_factory=dict)  # cores that share a stored model; else as model.toml says
    repository: pathlib.Path | None = None
    dtype: str = "bf16"
    kept: str | None = None  # int8 or fp8: a decoder's weights in a byte an element
    cache: str | None = None  # fp8: keys and values
    draft_model: str | None = None  # a GGUF file, or layers:N
    buckets: Buckets = Buckets()
    limits: BatchLimits = BatchLimits()
    max_waiting: int = 128  # generations


@dataclasses.dataclass(frozen=True)
class Placement:
    model: str
    cores: tuple[int, ...]
    weight_bytes: int
    cache_bytes: int = 0
    about: str | None = None  # what model.toml says of the model
    n_stages: int = 1  # of a pipeline, a core each
    stay_bytes: int = 0  # of weight_bytes, those on the chip between calls
    load_ns: float = 0.0  # of these, once


def refuse_halves() -> None:
    """Answers are values with their times, so a server without either has none to give."""
    if os.environ.get("VTRN_VALUES") == "off":
        raise VtrnError("VTRN_VALUES is off, so answers would be what lies in memory; unset it. `vtrn bench` and `vtrn serve-replay` "
                        "time models without values")  # fmt: skip
    if os.environ.get("VTRN_TIMING") == "off":
        raise VtrnError("VTRN_TIMING is off, and answers say what the chip would have taken; unset it")


def n_cores_of(device: Device, text: str) -> int:
    """How many models are dealt out over: as many as the text asks for, else all."""
    n = device.n_cores
    if not text:
        return n
    if not text.isdecimal() or not 1 <= int(text) <= n:
        raise VtrnError(f"NEURON_RT_NUM_CORES asks for {text} NeuronCores; {device.instance_name} has {n} here: give a number from 1 to "
                        f"{n}, or another --instance")  # fmt: skip
    return int(text)


class Host:
    """Close it to let what waits finish and the device go."""

    def __init__(self, settings: Settings):
        refuse_halves()
        self.settings = settings
        self.device = Device(settings.instance, settings.chip)
        self.programs = Programs(self.device)
        self.batchers: dict[str, Batcher] = {}  # the Open Inference Protocol's models
        self.texts: dict[str, TextService] = {}  # generate text
        self.placements: list[Placement] = []
        self.drafts: dict[str, Placement] = {}  # by the model that they guess for
        self.is_closing = False
        self.about = {"instance": self.device.instance_name}  # of every answer
        if (assumed := machine.rests_on(self.device.chip)) is not None:
            self.about["rests_on"] = assumed
        try:
            self.n_cores = n_cores_of(self.device, settings.n_cores)
            wanted = {name: self._wanted(name) for name in settings.models}
            cores = self._deal_cores(wanted)
            for name in settings.models:
                others = {c for other in settings.models if other != name for c in cores[other]}
                self._add(name, cores[name], dataclasses.replace(wanted[name], is_alone=not others & set(cores[name])))
        except BaseException:
            self.close()
            raise

    def _folder(self, name: str) -> pathlib.Path:
        return (self.settings.repository or pathlib.Path()) / name

    def _wanted(self, name: str) -> Wanted:
        if name in BUILT_IN:
            if name in self.settings.pipelines:
                raise VtrnError(f"--pipeline-cores {name}={self.settings.pipelines[name]}: only folders of --repository are dealt out; leave it out")
            return Wanted()
        folder = self._folder(name)
        if not (folder / "model.export").is_file():
            raise VtrnError(f"there is no model {name}: known are minilm, smollm2 and folders of the model repository "
                            f"with a model.export ({folder} has none)")  # fmt: skip
        wanted = wanted_of(folder, settings_of(folder))
        return dataclasses.replace(wanted, pipeline_cores=self.settings.pipelines.get(name, wanted.pipeline_cores))

    def _deal_cores(self, wanted: dict[str, Wanted]) -> dict[str, tuple[int, ...]]:
        """Those that --cores says, else the next in turn."""
        dealt, n, at = {}, self.n_cores, 0
        for name, w in wanted.items():
            if w.pipeline_cores > n:
                raise VtrnError(f"model {name}: pipeline_cores is {w.pipeline_cores}; {self.device.instance_name} has {n} cores here")
            cores = dealt[name] = self.settings.cores.get(name) or tuple((at + i) % n for i in range(w.pipeline_cores))
            at += w.pipeline_cores
            for c in cores:
                if cores.count(c) > 1 and w.pipeline_cores == 1:
                    raise VtrnError(f"model {name} is placed on core {c} twice; name each core once")
                if not 0 <= c < n:
                    raise VtrnError(f"model {name} is placed on core {c}; {self.device.chip} has {f'cores 0 to {n - 1}' if n > 1 else 'core 0 alone'} here")
            if len(cores) % w.pipeline_cores or w.pipeline_cores > 1 and len(set(cores)) < len(cores):
                raise VtrnError(f"model {name} is dealt out over {w.pipeline_cores} cores, and --cores names {', '.join(map(str, cores))}; name "
                                f"{w.pipeline_cores} for each pipeline, each once")  # fmt: skip
        return dealt

    def _add(self, name: str, cores: tuple[int, ...], wanted: Wanted) -> None:
        if name in self.batchers or name in self.texts:
            raise VtrnError(f"model {name} is named twice; give each model once")
        if name == "minilm":
            config, w = weights.load_minilm()
            self.add_batched(EncoderModel(name, self.device, self.programs, config, w, weights.minilm_tokenizer(),
                                          self.settings.dtype, cores, kept=self.settings.kept), cores)  # fmt: skip
        elif name == "smollm2":
            self.add_text(name, weights.load_smollm2(), cores)
        else:
            self.add_batched(StoredModel(self._folder(name), self.device, self.programs, cores, wanted), cores)

    def add_batched(self, model, cores) -> None:
        plan = getattr(model, "plan", None)
        self.batchers[model.name] = Batcher(model, plan.lanes if plan else list(cores), self.settings.limits)
        kept = plan.kept if plan else Kept()
        n_stages = len(plan.cores[0]) if isinstance(plan, Pipeline) else 1
        self.placements.append(Placement(model.name, tuple(cores), model.weight_bytes, 0, model.about, n_stages, kept.stay_bytes, kept.load_ns))

    def add_text(self, name: str, model: weights.TextModel, cores) -> None:
        if len(cores) != 1:
            raise VtrnError(f"model {name} runs on one core, {len(cores)} were given; name one")
        buckets = self.settings.buckets
        kind = PagedEngine if buckets.block else DecoderEngine
        engine = kind(self.device, self.programs, model.config, model.weights, self.settings.dtype,
                      buckets, cores[0], self.settings.kept, self.settings.cache)  # fmt: skip
        schedule = (PagedSchedule if buckets.block else Schedule)(buckets, self.settings.max_waiting, name)
        drafter = self._drafter(model, cores[0]) if self.settings.draft_model else None
        self.texts[name] = TextService(name, model, DecoderWorker(name, engine, schedule, drafter))
        self.placements.append(Placement(name, tuple(cores), engine.weight_bytes, engine.cache_bytes))
        if drafter:
            self.drafts[name] = Placement(f"{name}'s draft, {self.settings.draft_model}", tuple(cores),
                                          drafter.engine.weight_bytes, drafter.engine.cache_bytes)  # fmt: skip

    def _drafter(self, model: weights.TextModel, core_i: int) -> Drafter:
        named = self.settings.draft_model
        if named.startswith("layers:"):
            n = int(named[7:]) if named[7:].isdecimal() else 0
            config, w = first_layers(model.config, model.weights, n)
        else:
            draft = weights.load_gguf(pathlib.Path(named))
            config, w = draft.config, draft.weights
        if config.vocabulary != model.config.vocabulary:
            raise VtrnError(f"--draft-model {named} has a vocabulary of {config.vocabulary} tokens, the model one of "
                            f"{model.config.vocabulary}; a draft has the same tokenizer")  # fmt: skip
        return Drafter(self.device, self.programs, config, w, self.settings.dtype, self.settings.buckets, core_i, self.settings.kept)

    def warm_up(self) -> None:
        """Makes the programs of the smallest buckets, so that first requests do not wait for the compiler."""
        for batcher in self.batchers.values():
            if isinstance(batcher.model, EncoderModel):
                for batch in batcher.model.batches[:2]:
                    batcher.model.program(batch, batcher.model.lengths[1])
        for text in self.texts.values():
            text.worker.engine.warm_up()
            if text.worker.drafter:
                text.worker.drafter.warm_up()

    def placement_text(self) -> str:
        lines = [f"vtrn {vtrn.__version__}: {self.device.chip}, {self.n_cores} NeuronCore{'s' * (self.n_cores > 1)} here"]
        for p in [*self.placements, *self.drafts.values()]:
            cache = f", {p.cache_bytes / 2**20:.1f} MiB of cache" if p.cache_bytes else ""
            cores = ", ".join(map(str, p.cores))
            about = f"; {p.about}" if p.about else ""
            per = "a core" if p.n_stages == 1 else f"dealt out over {p.n_stages} cores"
            stay = f", {p.stay_bytes / 2**20:.1f} of them on the chip between calls, loaded once in {p.load_ns / 1e6:.3g} ms" if p.stay_bytes else ""
            lines.append(f"  {p.model}: core {cores}, {p.weight_bytes / 2**20:.1f} MiB of weights {per}{stay}{cache}{about}")
        for core in range(self.device.n_cores):
            shared = [p.model for p in self.placements if core in p.cores]
            if len(shared) > 1:
                lines.append(f"  core {core} is shared by {' and '.join(shared)}: their calls take turns")
        return "\n".join(lines)

    def abandon(self, error: Exception) -> None:
        """Nothing more is taken, and requests under way are told the error; close() then waits for calls that run, not for others."""
        self.is_closing = True
        for queue in (*self.batchers.values(), *(t.worker for t in self.texts.values())):
            queue.abandon(error)

    def close(self) -> None:
        self.is_closing = True
        for batcher in self.batchers.values():
            batcher.close()
        for text in self.texts.values():
            text.worker.close()
        self.device.close()
