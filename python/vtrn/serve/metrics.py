"""/metrics with the names that boards of vLLM and of neuron-monitor read, and /state for the live page.

Times of names with `chip` are the virtual chip's; all other seconds are the wall clock's.
"""

import os
import resource

from vtrn.serve.accounting import Histogram, ModelMeters
from vtrn.serve.host import Host, Placement
from vtrn.serve.paged_schedule import PagedSchedule


def _labels(**labels) -> str:
    return "{" + ",".join(f'{k}="{v}"' for k, v in labels.items()) + "}"


class _Text:
    def __init__(self):
        self.lines: list[str] = []
        self._known: set[str] = set()

    def add(self, name: str, kind: str, help_text: str, value, **labels) -> None:
        self._head(name, kind, help_text)
        self.lines.append(f"{name}{_labels(**labels)} {value}")

    def _head(self, name, kind, help_text):
        if name not in self._known:
            self._known.add(name)
            self.lines += [f"# HELP {name} {help_text}", f"# TYPE {name} {kind}"]

    def histogram(self, name: str, help_text: str, h: Histogram, **labels) -> None:
        self._head(name, "histogram", help_text)
        for bound, n in h.cumulative():
            self.lines.append(f"{name}_bucket{_labels(**labels, le=bound)} {n}")
        self.lines += [f"{name}_sum{_labels(**labels)} {h.total}", f"{name}_count{_labels(**labels)} {h.n}"]


def _served(host: Host):
    for name, batcher in host.batchers.items():
        yield name, batcher.meters, batcher, None
    for name, service in host.texts.items():
        yield name, service.worker.meters, service.worker, service.worker


def prometheus(host: Host) -> str:
    text = _Text()
    for name, m, queue, worker in _served(host):
        with m.lock:
            _model(text, name, m, queue)
            if worker:
                _decoder(text, name, m, worker)
            _neuron_monitor_model(text, name, m)
    _programs(text, host)
    _neuron_monitor(text, host)
    return "\n".join(text.lines) + "\n"


def _model(text: _Text, name: str, m: ModelMeters, queue) -> None:
    label = {"model_name": name}
    text.add("vllm:num_requests_running", "gauge", "Requests that a core works at.", queue.n_running, **label)
    text.add("vllm:num_requests_waiting", "gauge", "Requests that wait.", queue.n_waiting, **label)
    text.add("vllm:request_success_total", "counter", "Requests answered.", m.n_success, **label)
    text.add("vtrn:request_failure_total", "counter", "Requests that failed.", m.n_failure, **label)
    text.add("vtrn:request_rejected_total", "counter", "Requests refused because the queue was full.", m.n_rejected, **label)
    text.add("vtrn:request_cancelled_total", "counter", "Requests whose client hung up.", m.n_cancelled, **label)
    text.histogram("vllm:e2e_request_latency_seconds", "Arrival to answer, wall clock.", m.latency, **label)
    text.histogram("vllm:request_queue_time_seconds", "Time waited, wall clock.", m.queue, **label)
    text.add("vtrn:chip_seconds_total", "counter", "Simulated time of all calls.", m.chip_ns * 1e-9, **label)
    for bucket, n in m.by_bucket.items():
        text.add("vllm_neuron:neff_execution_count", "counter", "Calls of a program.", n, **label, bucket_name=bucket)
    text.add("vllm_neuron:num_seqs_padding", "counter", "Rows of padding computed.", m.n_padding, **label)


def _decoder(text: _Text, name: str, m: ModelMeters, worker) -> None:
    label = {"model_name": name}
    text.histogram("vllm:time_to_first_token_seconds", "Wall clock.", m.first_token, **label)
    text.histogram("vllm:time_per_output_token_seconds", "Wall clock.", m.per_token, **label)
    text.add("vllm:prompt_tokens_total", "counter", "Prompt tokens computed.", m.n_prompt_tokens, **label)
    text.add("vllm:generation_tokens_total", "counter", "Tokens generated.", m.n_new_tokens, **label)
    text.add("vllm:kv_cache_usage_perc", "gauge", "Of the cache's rows or blocks, those in use.", worker.schedule.cache_use, **label)
    if isinstance(worker.schedule, PagedSchedule):
        pool = worker.schedule.pool
        text.add("vllm:cache_config_info", "gauge", "The cache's blocks.", 1, **label, block_size=pool.size, num_gpu_blocks=pool.n_blocks)
        blocks = {"used": pool.n_used, "cached": pool.n_cached, "free": pool.n_free - pool.n_cached}
        for kind, n in blocks.items():
            text.add("vtrn:kv_cache_blocks", "gauge", "Of sequences that run, free with a text's rows, and free.", n, **label, state=kind)
        text.add("vllm:num_preemptions_total", "counter", "Sequences whose blocks were taken.", worker.schedule.n_preemptions, **label)
    text.add("vllm:spec_decode_num_draft_tokens_total", "counter", "Tokens guessed.", m.n_guessed, **label)
    text.add("vllm:spec_decode_num_accepted_tokens_total", "counter", "Tokens guessed right.", m.n_accepted, **label)
    text.add("vllm:prefix_cache_hits_total", "counter", "Prompt tokens taken from the cache.", m.n_reused_tokens, **label)


def _neuron_monitor_model(text: _Text, name: str, m: ModelMeters) -> None:
    kinds = {"completed": m.n_success, "failed_to_infer": m.n_failure, "failed_to_queue": m.n_rejected}
    for kind, n in kinds.items():
        text.add("execution_status_total", "counter", "Of requests.", n, model_name=name, status_type=kind)
    for q in (0.5, 0.99):
        value = m.latency.quantile(q)
        if value is not None:
            text.add("execution_latency_seconds", "gauge", "Upper bound of the quantile.", value, model_name=name,
                     percentile=f"p{int(q * 100)}")  # fmt: skip


def _programs(text: _Text, host: Host) -> None:
    programs = list(host.programs.by_name.values())
    text.add("vllm_neuron:compilation_time_seconds", "counter", "Tracing and compiling programs.",
             sum(p.trace_seconds + p.compile_seconds for p in programs))  # fmt: skip
    for p in host.placements:
        text.add("vllm_neuron:model_load_size_bytes", "gauge", "Weights on a core.", p.weight_bytes, model_name=p.model)


def stage_ns(host: Host, p: Placement) -> list[float]:
    """Of a pipeline's stages; [] of another model, and before the first call."""
    return host.batchers[p.model].model.plan.stage_ns() if p.n_stages > 1 else []


def core_use(host: Host) -> list[float]:
    """Chip seconds that each core has worked."""
    used = [0.0] * host.device.n_cores
    for p in host.placements:
        meters = host.batchers[p.model].meters if p.model in host.batchers else host.texts[p.model].worker.meters
        times = stage_ns(host, p)
        shares = [t / sum(times) for t in times] or [1.0]
        for i, c in enumerate(p.cores):
            used[c] += meters.chip_ns * 1e-9 * shares[i % len(shares)] * len(shares) / len(p.cores)
    return used


def _neuron_monitor(text: _Text, host: Host) -> None:
    label = {"instance_type": host.device.instance_name}
    n = host.device.n_cores
    text.add("neuron_hardware_info", "gauge", "The machine.", 1, **label, neuron_device_type=host.device.chip,
             neuroncore_per_device_count=n)  # fmt: skip
    for i, seconds in enumerate(core_use(host)):
        text.add("vtrn:neuroncore_chip_seconds_total", "counter", "Simulated time that a core worked.", seconds, **label, neuroncore=i)  # fmt: skip
    device_bytes = sum((p.weight_bytes + p.cache_bytes) * len(p.cores) // p.n_stages for p in [*host.placements, *host.drafts.values()])
    text.add("neuron_runtime_memory_used_bytes", "gauge", "Weights and caches.", device_bytes, **label,
             memory_location="neuron_device")  # fmt: skip
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    text.add("neuron_runtime_memory_used_bytes", "gauge", "Weights and caches.", rss, **label, memory_location="host")
    text.add("system_vcpu_count", "gauge", "Of this host.", os.cpu_count(), **label)


def _blocks(worker) -> dict | None:
    if worker is None or not isinstance(worker.schedule, PagedSchedule):
        return None
    pool = worker.schedule.pool
    return {"size": pool.size, "used": pool.n_used, "cached": pool.n_cached, "free": pool.n_free - pool.n_cached,
            "preemptions": worker.schedule.n_preemptions}  # fmt: skip


def state(host: Host) -> dict:
    models = []
    for name, m, queue, worker in _served(host):
        with m.lock:
            models.append({
                "name": name, "waiting": queue.n_waiting, "running": queue.n_running, "answered": m.n_success,
                "failed": m.n_failure, "rejected": m.n_rejected, "cancelled": m.n_cancelled,
                "calls": m.n_steps, "rows": m.n_rows, "padding": m.n_padding,
                "chip_seconds": m.chip_ns * 1e-9, "busy_seconds": m.busy_seconds, "tokens": m.n_new_tokens,
                "latency": {"bounds": m.latency.bounds, "counts": m.latency.counts},
                "buckets": dict(m.by_bucket), "reference_share": m.reference_ns / m.chip_ns if m.chip_ns else 0.0,
                "cache": worker.schedule.cache_use if worker else None, "blocks": _blocks(worker),
                "guessed": m.n_guessed, "accepted": m.n_accepted,
            })  # fmt: skip
    return {
        "instance": host.device.instance_name, "chip": host.device.chip, "cores": core_use(host),
        "placements": [{"model": p.model, "cores": p.cores, "weight_bytes": p.weight_bytes, "cache_bytes": p.cache_bytes,
                        "pipeline_cores": p.n_stages, "stage_us": [round(t / 1e3, 3) for t in stage_ns(host, p)],
                        "weights_on_chip_bytes": p.stay_bytes, "weights_load_us": round(p.load_ns / 1e3, 3)}
                       for p in host.placements],
        "models": models, "programs": len(host.programs.by_name), "is_closing": host.is_closing,
    }  # fmt: skip
