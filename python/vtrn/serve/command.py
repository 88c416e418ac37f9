"""vtrn serve: models on a virtual machine behind HTTP."""

import argparse
import json
import pathlib
import sys

from vtrn.serve import http
from vtrn.serve.batcher import BatchLimits
from vtrn.serve.decoder_engine import Buckets
from vtrn.serve.host import Host, Settings
from vtrn.serve.runtime import VtrnError
from vtrn.serve.weights import MissingPackage


def _sizes(text: str) -> tuple[int, ...]:
    sizes = tuple(int(x) for x in text.split(","))
    if any(a >= b for a, b in zip((0, *sizes), sizes)):
        raise argparse.ArgumentTypeError("ascending numbers, with commas between")
    return sizes


def _cores(text: str) -> tuple[str, tuple[int, ...]]:
    name, _, cores = text.partition("=")
    return name, tuple(int(c) for c in cores.split(","))


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser("vtrn serve", description=__doc__)
    default = Buckets()
    p.add_argument("models", nargs="*", default=["minilm", "smollm2"], help="minilm, smollm2, or folders of --repository")
    p.add_argument("--instance", default=None, help="the machine; default VTRN_INSTANCE, else inf2.xlarge")
    p.add_argument("--repository", type=pathlib.Path, help="a folder of folders with model.export and model.toml")
    p.add_argument("--cores", type=_cores, action="append", default=[], metavar="MODEL=0,1", help="where a model runs")
    p.add_argument("--host", default="127.0.0.1", help="address to listen at; 0.0.0.0 is open to the network")
    p.add_argument("--port", type=int, default=8000, help="0: any that is free")
    p.add_argument("--dtype", choices=("bf16", "fp16", "fp32"), default="bf16", help="of weights, matmuls and cache")
    p.add_argument("--weights", choices=("int8", "fp8"), help="a decoder's dense layers, kept in a byte an element")
    p.add_argument("--cache", choices=("fp8",), help="a decoder's keys and values; default as --dtype")
    p.add_argument("--max-batch", type=int, default=32, help="rows that share a call")
    p.add_argument("--max-delay-us", type=int, default=2000, help="how long the first of them waits for others")
    p.add_argument("--max-queue", type=int, default=1024, help="rows that may wait")
    p.add_argument("--max-waiting", type=int, default=128, help="generations that may wait")
    p.add_argument("--prompt-buckets", type=_sizes, default=default.prompt)
    p.add_argument("--batch-buckets", type=_sizes, default=default.batch)
    p.add_argument("--length-buckets", type=_sizes, default=default.length)
    p.add_argument("--json", action="store_true", help="one object when the server is ready")
    return p


def settings_of(args) -> Settings:
    import os

    buckets = Buckets(args.prompt_buckets, args.batch_buckets, args.length_buckets)
    instance = args.instance or os.environ.get("VTRN_INSTANCE") or "inf2.xlarge"
    return Settings(
        models=tuple(args.models), instance=instance, cores=dict(args.cores), repository=args.repository,
        dtype=args.dtype, kept=args.weights, cache=args.cache, buckets=buckets, max_waiting=args.max_waiting,
        limits=BatchLimits(args.max_batch, args.max_delay_us, args.max_queue),
    )  # fmt: skip


def main(arguments: list[str]) -> int:
    args = parser().parse_args(arguments)
    try:
        host = Host(settings_of(args))
        host.warm_up()
    except (VtrnError, MissingPackage, OSError, ValueError) as error:
        print(f"vtrn serve: {error}", file=sys.stderr)
        return 1

    def ready(port: int) -> None:
        url = f"http://{args.host}:{port}"
        if args.json:
            print(json.dumps({"url": url, "instance": host.device.instance_name, "models": args.models}), flush=True)
            return
        print(f"{host.placement_text()}\n{url} is ready: /v1 for OpenAI's clients, /v2 for the Open Inference Protocol, "
              "/metrics, a live page at /; ctrl-C stops", flush=True)  # fmt: skip

    http.serve(host, args.host, args.port, ready)
    return 0
