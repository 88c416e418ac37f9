"""Arguments of the commands: read before anything is imported that may be missing, so that wrong usage is said so."""

import argparse
import pathlib
import sys

from vtrn.serve.buckets import Buckets

MODELS = ("smollm2",)  # that replay knows the shapes of


class Parser(argparse.ArgumentParser):
    """Wrong usage exits with 2 and the words of the vtrn command."""

    file: str | None = None  # the name of the one positional that must be given

    def parse_args(self, *args, **kwargs):
        parsed = super().parse_args(*args, **kwargs)
        if self.file and getattr(parsed, self.file) is None:
            self.error(f"a file is needed: {self.file}")
        if (fault := self.fault(parsed)) is not None:
            self.error(fault)
        return parsed

    def fault(self, parsed: argparse.Namespace) -> str | None:
        """What is wrong with options that are right one by one."""
        return None

    def error(self, message: str):
        unknown = message.removeprefix("unrecognized arguments: ")
        what = f"no option {unknown}" if unknown != message else message
        print(f"{self.prog}: {what}\n  `{self.prog} --help` shows options and an example", file=sys.stderr)
        sys.exit(2)


def _sizes(text: str) -> tuple[int, ...]:
    sizes = tuple(int(x) for x in text.split(","))
    if any(a >= b for a, b in zip((0, *sizes), sizes)):
        raise argparse.ArgumentTypeError("ascending numbers, with commas between")
    return sizes


def _cores(text: str) -> tuple[str, tuple[int, ...]]:
    name, _, listed = text.partition("=")
    cores = listed.split(",")
    if not all(c.isdecimal() for c in cores):
        raise argparse.ArgumentTypeError(f"{text!r} is not MODEL=CORES with numbers of cores, as {name or 'MODEL'}=0 or {name or 'MODEL'}=0,1")
    numbers = tuple(map(int, cores))
    if (twice := [c for c in numbers if numbers.count(c) > 1]):
        raise argparse.ArgumentTypeError(f"{text!r} names core {twice[0]} twice; name each core once")
    return name, numbers


def _count_of(text: str) -> tuple[str, int]:
    name, _, n = text.partition("=")
    if not n.isdecimal() or int(n) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not MODEL=N with a whole number from 1")
    return name, int(n)


def _from(least: int):
    """A whole number that is not below least."""

    def number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} is too small; a whole number from {least}")
        return value

    return number


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port < 1 << 16:
        raise argparse.ArgumentTypeError(f"{port} is no port; from 1 to 65535, or 0 for any that is free")
    return port


class _ServeParser(Parser):
    def fault(self, parsed: argparse.Namespace) -> str | None:
        placed = [name for name, _ in parsed.cores]
        for name in placed:
            if name not in parsed.models:
                return f"--cores names {name}, which is not served; models are {', '.join(parsed.models)}"
            if placed.count(name) > 1:
                return f"--cores places {name} twice; give all its cores at once, as {name}=0,1"
        for name, _ in parsed.pipeline_cores:
            if name not in parsed.models:
                return f"--pipeline-cores names {name}, which is not served; models are {', '.join(parsed.models)}"
        return None


def serve() -> Parser:
    p = _ServeParser("vtrn serve")
    default = Buckets()
    p.add_argument("models", nargs="*", default=["minilm", "smollm2"], help="minilm, smollm2, or folders of --repository")
    p.add_argument("--instance", default=None, help="the machine; default VTRN_INSTANCE, else inf2.xlarge")
    p.add_argument("--repository", type=pathlib.Path, help="a folder of folders with model.export and model.toml")
    p.add_argument("--cores", type=_cores, action="append", default=[], metavar="MODEL=0,1", help="where a model runs")
    p.add_argument("--pipeline-cores", type=_count_of, action="append", default=[], metavar="MODEL=N",
                   help="a model of --repository dealt out over N cores of inf1; default: as its model.toml says")
    p.add_argument("--host", default="127.0.0.1", help="address to listen at; 0.0.0.0 is open to the network")
    p.add_argument("--port", type=_port, default=8000, help="0: any that is free")
    p.add_argument("--grpc-port", type=_port, metavar="N", help="the Open Inference Protocol over gRPC, too (needs grpcio); 0: any that is free")
    p.add_argument("--dtype", choices=("bf16", "fp16", "fp32"), default="bf16", help="of weights, matmuls and cache")
    p.add_argument("--weights", choices=("int8", "fp8"), help="a decoder's dense layers, kept in a byte an element")
    p.add_argument("--cache", choices=("fp8",), help="a decoder's keys and values; default as --dtype")
    p.add_argument("--max-batch", type=_from(1), default=32, help="rows that share a call")
    p.add_argument("--max-delay-us", type=_from(0), default=2000, help="how long the first of them waits for others")
    p.add_argument("--max-queue", type=_from(1), default=1024, help="rows that may wait")
    p.add_argument("--max-waiting", type=_from(1), default=128, help="generations that may wait")
    p.add_argument("--stop-seconds", type=_from(0), default=60, metavar="N", help="after SIGTERM: how long answers under way may take")
    p.add_argument("--stop-client-seconds", type=_from(0), default=5, metavar="N",
                   help="after SIGTERM: how long a client may take to send the rest of its request, or not read its answer")
    p.add_argument("--prompt-buckets", type=_sizes, default=default.prompt)
    p.add_argument("--batch-buckets", type=_sizes, default=default.batch)
    p.add_argument("--length-buckets", type=_sizes, default=default.length)
    p.add_argument("--block-size", type=int, default=0, metavar="N", help="a paged cache, of blocks of N tokens; 0: a stretch a sequence")
    p.add_argument("--cache-blocks", type=int, default=0, metavar="N", help="blocks of the paged cache; default: as many as all sequences may need")
    p.add_argument("--draft", type=int, default=0, metavar="N", help="tokens that a lone greedy text guesses ahead; 0: none")
    p.add_argument("--draft-model", metavar="FILE", help="a smaller network that guesses in place of the text: a GGUF file of the "
                   "same vocabulary, or layers:N for the model's own first N layers")  # fmt: skip
    p.add_argument("--json", action="store_true", help="one object when the server is ready")
    return p


def replay() -> Parser:
    p = Parser("vtrn serve-replay")
    b = Buckets()
    p.file = "trace"
    p.add_argument("trace", type=pathlib.Path, nargs="?")
    p.add_argument("--model", choices=MODELS, default="smollm2")
    p.add_argument("--rate")
    p.add_argument("--instance")
    p.add_argument("--goodput", action="append", default=[])
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--dtype", choices=("bf16", "fp16", "fp32"), default="bf16")
    p.add_argument("--max-waiting", type=_from(1), default=128)
    p.add_argument("--prompt-buckets", type=_sizes, default=b.prompt)
    p.add_argument("--batch-buckets", type=_sizes, default=b.batch)
    p.add_argument("--length-buckets", type=_sizes, default=b.length)
    p.add_argument("--block-size", type=int, default=0, metavar="N", help="a paged cache, of blocks of N tokens; 0: a stretch a sequence")
    p.add_argument("--cache-blocks", type=int, default=0, metavar="N", help="blocks of the paged cache; default: as many as all sequences may need")
    p.add_argument("--html", type=pathlib.Path)
    p.add_argument("--csv", type=pathlib.Path)
    p.add_argument("--json", action="store_true")
    return p


STORED = ("resnet50", "vit_b16", "silero_vad")  # that serve-export writes


def store() -> Parser:
    p = Parser("vtrn serve-export")
    p.add_argument("models", nargs="+", choices=STORED, metavar="MODEL", help=f"one or several of {', '.join(STORED)}")
    p.add_argument("--repository", type=pathlib.Path, default=pathlib.Path("models"), help="the folder that gets a folder each")
    p.add_argument("--batch", type=_from(1), default=1, help="rows of a call")
    p.add_argument("--dtype", choices=("bf16", "fp16", "fp32"), default="bf16", help="of matrices and products")
    p.add_argument("--pipeline-cores", type=_from(1), default=1, metavar="N", help="of inf1: vtrn serve deals the network out over N cores")
    p.add_argument("--weights-stay", choices=("true", "false"), help="of inf1: all weights have to stay on the chip between calls, or none; "
                   "default: those that have room, where that is faster")  # fmt: skip
    return p


def bench() -> Parser:
    p = Parser("vtrn bench")
    p.file = "model"
    p.add_argument("model", type=pathlib.Path, nargs="?")
    p.add_argument("--instances", default="inf1.xlarge,inf2.xlarge,trn1.2xlarge,trn2.3xlarge")
    p.add_argument("--batch", type=_from(1), help="inferences a call; default: the first axis of the first input")
    p.add_argument("--resident", type=_from(0), metavar="N",
                   help="the first N arguments are weights, on the device; default: as model.toml beside it says, else 0")
    p.add_argument("--pipeline-cores", type=_from(1), metavar="N", help="a pipeline over N cores of inf1, with layers dealt out over them")
    p.add_argument("--auto-cast", choices=("none", "matmult", "all"))
    p.add_argument("--auto-cast-type", choices=("bf16", "fp16", "tf32", "fp8_e4m3"))
    p.add_argument("--csv", type=pathlib.Path)
    p.add_argument("--html", type=pathlib.Path)
    p.add_argument("--json", action="store_true")
    return p
