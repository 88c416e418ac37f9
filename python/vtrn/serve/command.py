"""vtrn serve: models on a virtual machine behind HTTP."""

import json
import os
import socket
import sys

from vtrn.serve import arguments as read
from vtrn.serve import listeners, machine
from vtrn.serve.batcher import BatchLimits
from vtrn.serve.buckets import Buckets
from vtrn.serve.host import Host, Settings
from vtrn.serve.runtime import VtrnError
from vtrn.serve.weights import MissingPackage

DEFAULT_INSTANCE = "inf2.xlarge"


def _instance_of(args) -> str:
    """What was asked for, else the default. VTRN_CHIP alone stands for no instance here."""
    asked = args.instance or os.environ.get("VTRN_INSTANCE")
    name, chip = asked or DEFAULT_INSTANCE, os.environ.get("VTRN_CHIP")
    fitting = [i.name for i in machine.instances().values() if i.chip == chip] if chip else []
    if fitting and name not in fitting and name in machine.instances():
        who = "--instance" if args.instance else "VTRN_INSTANCE" if asked else "the instance of vtrn serve, unless --instance says otherwise,"
        more = f" (or {', '.join(fitting[1:])})" if fitting[1:] else ""
        raise VtrnError(f"VTRN_CHIP is {chip}, and {who} is {name}, which has other chips; give --instance {fitting[0]}"
                        f"{more}, or unset VTRN_CHIP")  # fmt: skip
    return name


def settings_of(args) -> Settings:
    if not 0 <= args.draft < args.length_buckets[0]:
        raise VtrnError(f"--draft is {args.draft}; it has to be from 0 to {args.length_buckets[0] - 1}, below the least length bucket")
    if args.draft_model and not args.draft:
        raise VtrnError("--draft-model guesses as many tokens as --draft says; give --draft, 4 for one")
    buckets = Buckets(args.prompt_buckets, args.batch_buckets, args.length_buckets, args.draft, args.block_size, args.cache_blocks)
    if (fault := buckets.fault()) is not None:
        raise VtrnError(fault)
    return Settings(
        models=tuple(args.models), instance=_instance_of(args), n_cores=os.environ.get("NEURON_RT_NUM_CORES", ""), cores=dict(args.cores),
        pipelines=dict(args.pipeline_cores), repository=args.repository,
        dtype=args.dtype, kept=args.weights, cache=args.cache, draft_model=args.draft_model, buckets=buckets, max_waiting=args.max_waiting,
        limits=BatchLimits(args.max_batch, args.max_delay_us, args.max_queue),
    )  # fmt: skip


def main(arguments: list[str]) -> int:
    args = read.serve().parse_args(arguments)
    sockets: list[socket.socket] = []
    try:
        settings = settings_of(args)
        sockets += listeners.bound(args.host, args.port)
        if args.grpc_port:
            listeners.close(listeners.bound(args.host, args.grpc_port, "--grpc-port"))  # gRPC binds it itself
        return _serve(args, settings, sockets)
    except (VtrnError, MissingPackage, OSError, ValueError) as error:
        print(f"vtrn serve: {error}", file=sys.stderr)
        return 1
    finally:
        listeners.close(sockets)


def _serve(args, settings: Settings, sockets: list[socket.socket]) -> int:
    from vtrn.serve import http  # what it needs, the other commands do not
    from vtrn.serve.stopping import StopLimits

    host = Host(settings)
    try:
        host.warm_up()
        listeners.listen(sockets, args.host)
    except BaseException:
        host.close()
        raise

    door = None
    if args.grpc_port is not None:
        try:
            from vtrn.serve.grpc_door import GrpcDoor

            door = GrpcDoor(host, args.host, args.grpc_port)
        except ModuleNotFoundError:
            print("vtrn serve: --grpc-port needs the Python package grpcio; pip install 'vtrn[grpc]'", file=sys.stderr)
        except RuntimeError as error:
            print(f"vtrn serve: port {args.grpc_port} of {args.host} cannot be served over gRPC: {error}", file=sys.stderr)
        if door is None:
            host.close()
            return 1

    def ready(port: int) -> None:
        url = f"http://{args.host}:{port}"
        if args.json:
            grpc = {"grpc": f"{args.host}:{door.port}"} if door else {}
            print(json.dumps({"url": url, **grpc, "instance": host.device.instance_name, "models": args.models}), flush=True)
            return
        print(f"{host.placement_text()}\n{url} is ready: /v1 for OpenAI's clients, /v2 for the Open Inference Protocol, "
              f"/metrics, a live page at /{f'; gRPC at {args.host}:{door.port}' if door else ''}; ctrl-C stops", flush=True)  # fmt: skip

    limits = StopLimits(args.stop_seconds, args.stop_client_seconds)
    http.serve(host, sockets, ready, limits, (lambda: door.stop(limits)) if door else None)
    return 0
