"""Small networks of random weights behind the serving code, and a server of them in this process: no package with
weights is needed."""

import contextlib
import threading

import numpy as np

from vtrn.serve.batcher import BatchLimits
from vtrn.serve.decoder_engine import Buckets, DecoderEngine
from vtrn.serve.decoder_schedule import Schedule
from vtrn.serve.decoder_worker import run_step
from vtrn.serve.host import Host, Settings
from vtrn.serve.models import decoder, encoder
from vtrn.serve.paged_engine import PagedEngine
from vtrn.serve.paged_schedule import PagedSchedule
from vtrn.serve.runtime import Device
from vtrn.serve.tensor_models import EncoderModel
from vtrn.serve.weights import TextModel

DECODER = decoder.DecoderConfig(
    n_layers=2, width=64, n_heads=4, n_kv_heads=2, head=16, inner=96, vocabulary=384, max_tokens=128, rope_base=1e4
)
ENCODER = encoder.EncoderConfig(n_layers=2, width=48, n_heads=4, inner=80, vocabulary=300, max_tokens=64)
BUCKETS = Buckets(prompt=(8, 32), batch=(1, 2, 4), length=(32, 128))
N_BYTES = 256
BEGIN, END = N_BYTES, N_BYTES + 1


def random_weights(shapes, seed):
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in shapes.items():
        around = 1.0 if name.endswith("scale") else 0.0
        spread = 0.1 if len(shape) == 1 else 1.5 / np.sqrt(shape[0] if name != "tokens" else 8)
        weights[name] = (around + spread * rng.standard_normal(shape)).astype(np.float32)
    return weights


class ByteTokenizer:
    """A token a byte. What serving calls of the package tokenizers."""

    class _Encoding:
        def __init__(self, ids):
            self.ids = ids

    def encode(self, text):
        marked = text.encode().replace(b"<|im_start|>", bytes([1])).replace(b"<|im_end|>", bytes([2]))
        return self._Encoding(list(marked))

    def encode_batch(self, texts):
        return [self.encode(t) for t in texts]

    def decode(self, ids):
        return bytes(i for i in ids if i < N_BYTES).decode("utf-8", "replace")


def text_model(seed=1):
    weights = random_weights(decoder.weight_shapes(DECODER), seed)
    return TextModel(DECODER, weights, ByteTokenizer(), END, "")


def make_host(instance="inf2.xlarge", buckets=BUCKETS, limits=BatchLimits(max_batch=8, max_delay_us=500, max_queue=64),
              dtype="fp32", max_waiting=8):  # fmt: skip
    host = Host(Settings(models=(), instance=instance, buckets=buckets, limits=limits, dtype=dtype, max_waiting=max_waiting))
    host.add_batched(
        EncoderModel("encoder", host.device, host.programs, ENCODER, random_weights(encoder.weight_shapes(ENCODER), 2),
                     ByteTokenizer(), dtype, (0,), batches=(1, 4, 8), lengths=(8, 32)), (0,))  # fmt: skip
    host.add_text("text", text_model(), (1,))
    return host


def make_device():
    return Device("inf2.xlarge", n_threads=2)


def engine_of(device, programs, buckets, dtype="fp32", cache=None, weights=None):
    kind = PagedEngine if buckets.block else DecoderEngine
    return kind(device, programs, DECODER, text_model().weights if weights is None else weights, dtype, buckets, cache=cache)


def drive(engine, sequences, schedule=None, drafter=None, look=None):
    """Runs all to their end; gives steps and results. look(schedule, step) is called before a step runs."""
    schedule = schedule or (PagedSchedule if engine.buckets.block else Schedule)(engine.buckets)
    schedule.has_drafter = drafter is not None
    for s in sequences:
        schedule.submit(s)
    steps = []
    while (step := schedule.next_step()) is not None:
        if look:
            look(schedule, step)
        result = run_step(engine, step, drafter)
        steps.append((step, result))
        schedule.complete(step, result.tokens)
    return steps


@contextlib.contextmanager
def running(host, max_body_bytes=1 << 20):
    """The port of a server in a thread of this process."""
    import uvicorn

    from vtrn.serve import http

    config = uvicorn.Config(http.make_app(host, max_body_bytes), host="127.0.0.1", port=0, log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()
        host.close()
