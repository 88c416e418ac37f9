"""The routes that OpenAI's clients use: /v1/models, completions, chat/completions (streamed, too) and embeddings.

Answers carry an object `metrics` with chip time beside wall time, as vLLM's per-request metrics.
"""

import asyncio
import base64
import json
import time
import uuid

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse

from vtrn.serve.decoder_engine import Choice
from vtrn.serve.decoder_worker import Generation
from vtrn.serve.errors import RequestError, bad_request
from vtrn.serve.host import Host
from vtrn.serve.oip import call, json_response, parsed_json
from vtrn.serve.tensor_models import EncoderModel
from vtrn.serve.text import TextService, TextStream

DEFAULT_NEW_TOKENS = 16  # of a completion; a chat goes on to its end

# What clients send and nothing here heeds; anything else that is not known is refused, unless it is null.
IGNORED = {"user", "store", "metadata", "service_tier", "stream_options", "model", "prompt", "messages", "stream",
           "stop", "max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k", "seed", "n", "echo", "best_of",
           "frequency_penalty", "presence_penalty", "ignore_eos", "logprobs", "top_logprobs"}  # fmt: skip
MAX_CHOICES = 16
HELLO = {"role": "assistant", "content": ""}  # what a stream of a chat begins with
NEUTRAL = {"frequency_penalty": 0, "presence_penalty": 0, "echo": False}


def error_response(error: RequestError):
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    body = {"message": error.message, "type": kind, "param": error.parameter, "code": error.status}
    return json_response({"error": body}, error.status)


def _flag(body: dict, name: str) -> bool:
    value = body.get(name)
    if value is not None and type(value) is not bool:
        raise bad_request(f"{name} is {json.dumps(value)[:60]}; it has to be true or false", name)
    return bool(value)


def _number(body: dict, name: str, default, low, high, kind=(int, float)):
    value = body.get(name)
    if value is None:
        return default
    if type(value) not in (kind if isinstance(kind, tuple) else (kind,)) or not low <= value <= high:
        raise bad_request(f"{name} is {json.dumps(value)[:60]}; it has to be a number from {low} to {high}", name)
    return value


def _stops(body: dict) -> list[str]:
    stop = body.get("stop") or []
    stop = [stop] if isinstance(stop, str) else stop
    if not isinstance(stop, list) or len(stop) > 16 or not all(isinstance(s, str) and s for s in stop):
        raise bad_request("stop has to be a text or a list of up to 16 texts", "stop")
    return stop


def _wants_logprobs(body: dict, is_chat: bool) -> bool:
    """Log probabilities are those of the tokens chosen; the likeliest one is that at temperature 0."""
    most = 1 if body.get("temperature") == 0 else 0
    if is_chat:
        wants, n, name = _flag(body, "logprobs"), body.get("top_logprobs"), "top_logprobs"
    else:
        wants, n, name = body.get("logprobs") is not None, body.get("logprobs"), "logprobs"
    if n is not None and (type(n) is not int or not 0 <= n <= most or is_chat and not wants):
        why = "with logprobs, the token that is chosen, and, at temperature 0, no more than the likeliest"
        raise bad_request(f"{name} is {json.dumps(n)[:60]}; what is known is 0 to {most} here: {why}", name)
    return wants


def _check_known(body: dict) -> None:
    for name, value in body.items():
        if name not in IGNORED and value is not None:
            raise bad_request(f"{name} is not supported here; leave it out", name)
    for name, neutral in NEUTRAL.items():
        if body.get(name) not in (None, neutral):
            raise bad_request(f"{name} other than {json.dumps(neutral)} is not supported here; leave it out", name)


class _Run:
    """A generation seen from the event loop: an async stream of (text, finish)."""

    def __init__(self, service: TextService, ids: list[int], body: dict, is_chat: bool, choice_i: int = 0):
        room = service.worker.schedule.buckets.capacity - len(ids)
        limit = body.get("max_completion_tokens")
        max_new = _number(body, "max_tokens" if limit is None else "max_completion_tokens",
                          min(1 << 20 if is_chat else DEFAULT_NEW_TOKENS, max(room, 1)), 1, 1 << 20, int)  # fmt: skip
        choice = Choice(_number(body, "temperature", 1.0, 0, 10), _number(body, "top_k", 0, 0, 1 << 20, int),
                        _number(body, "top_p", 1.0, 0, 1), _wants_logprobs(body, is_chat))  # fmt: skip
        self.n_top = body.get("top_logprobs" if is_chat else "logprobs") or 0
        self._is_chat, self._n_given, self._offset = is_chat, 0, 0  # tokens whose log probabilities were given, characters
        seed = _number(body, "seed", uuid.uuid4().int & 0xFFFFFFFF, -(2**63), 2**63, int) + choice_i
        self.service, self.text = service, TextStream(service.model.tokenizer, _stops(body))
        self.sequence = service.sequence(ids, max_new, choice, seed)
        if _flag(body, "ignore_eos"):
            self.sequence.end_ids = frozenset()
        self._queue: asyncio.Queue = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def put(item):
            try:
                loop.call_soon_threadsafe(self._queue.put_nowait, item)
            except RuntimeError:  # the event loop has ended, and the answer with it
                pass

        self.generation = Generation(self.sequence, lambda token, finish: put((token, finish)), lambda e: put((e, None)))
        service.worker.submit(self.generation)

    async def pieces(self):
        """(new text, None) for each token, at last ("", finish)."""
        try:
            while True:
                token, finish = await self._queue.get()
                if isinstance(token, Exception):
                    raise token
                if token not in self.sequence.end_ids:
                    yield self.text.add(token), None
                if self.text.is_stopped:
                    finish = "stop"
                if finish:
                    yield self.text.end(), finish
                    return
        finally:
            self.cancel()

    def logprobs(self) -> dict | None:
        """Of the tokens since the last call that are part of the text."""
        if not self.sequence.choice.has_logprob:
            return None
        rows = []
        for token, logprob in zip(self.sequence.tokens[self._n_given : self.generation.n_told], self.generation.logprobs[self._n_given :]):
            self._n_given += 1
            if token not in self.sequence.end_ids and not (self.text.is_stopped and self._offset >= len(self.text.text)):
                text = self.service.model.tokenizer.decode([token])
                rows.append((text, logprob, self._offset))
                self._offset += len(text)
        if not self._is_chat:
            texts, values, offsets = zip(*rows) if rows else ((), (), ())
            tops = [{t: v} for t, v, _ in rows] if self.n_top else None
            return {"tokens": list(texts), "token_logprobs": list(values), "top_logprobs": tops, "text_offset": list(offsets)}
        content = [{"token": t, "logprob": v, "bytes": None if "\ufffd" in t else list(t.encode())} for t, v, _ in rows]
        return {"content": [{**c, "top_logprobs": [dict(c)] if self.n_top else []} for c in content], "refusal": None}

    def cancel(self) -> None:
        if not self.sequence.finish:
            self.service.worker.cancel(self.generation)

    def metrics(self) -> dict:
        return self.generation.parameters(self.service.worker.engine.core_i)


def _runs(service: TextService, ids: list[int], body: dict, is_chat: bool) -> list[_Run]:
    """One for each of n choices, with seeds one after the other; none is left behind where one is refused."""
    n = _number(body, "n", 1, 1, MAX_CHOICES, int)
    if body.get("best_of") not in (None, n):
        raise bad_request("best_of other than n is not supported here; leave it out", "best_of")
    runs: list[_Run] = []
    try:
        for i in range(n):
            runs.append(_Run(service, ids, body, is_chat, i))
    except RequestError:
        for run in runs:
            run.cancel()
        raise
    return runs


def _usage(runs: list[_Run]) -> dict:
    n_prompt, n = len(runs[0].sequence.prompt), sum(len(run.sequence.tokens) for run in runs)
    return {"prompt_tokens": n_prompt, "completion_tokens": n, "total_tokens": n_prompt + n,
            "prompt_tokens_details": {"cached_tokens": runs[0].sequence.n_reused}}  # fmt: skip


async def _merged(runs: list[_Run]):
    """(index, text, finish) of all runs as they come; what one raises ends all."""
    queue: asyncio.Queue = asyncio.Queue()

    async def feed(i: int) -> None:
        try:
            async for text, finish in runs[i].pieces():
                queue.put_nowait((i, text, finish))
        except Exception as error:
            queue.put_nowait((i, error, None))

    tasks = [asyncio.ensure_future(feed(i)) for i in range(len(runs))]
    try:
        n_left = len(runs)
        while n_left:
            i, text, finish = await queue.get()
            if isinstance(text, Exception):
                raise text
            n_left -= finish is not None
            yield i, text, finish
    finally:
        for task in tasks:
            task.cancel()
        for run in runs:
            run.cancel()


def _sse(value) -> str:
    return f"data: {value if isinstance(value, str) else json.dumps(value)}\n\n"


def router(host: Host, read_body) -> APIRouter:
    routes = APIRouter()
    started = int(time.time())
    embedders = {n: b for n, b in host.batchers.items() if isinstance(b.model, EncoderModel)}

    def model_of(body: dict, known: dict, what: str):
        name = body.get("model")
        if name not in known:
            raise RequestError(404, f"no model {name!r} makes {what}; there are {', '.join(known) or 'none'}", "model")
        return known[name]

    @routes.get("/v1/models")
    async def models():
        names = [*host.texts, *host.batchers]
        return json_response({"object": "list", "data": [
            {"id": n, "object": "model", "created": started, "owned_by": "vtrn"} for n in names]})  # fmt: skip

    @routes.get("/v1/models/{name}")
    async def model(name: str):
        if name not in host.texts and name not in host.batchers:
            raise RequestError(404, f"there is no model {name!r}", "model")
        return json_response({"id": name, "object": "model", "created": started, "owned_by": "vtrn"})

    async def generate(request: Request, is_chat: bool):
        body = parsed_json(await read_body(request))
        _check_known(body)
        is_streamed, options = _flag(body, "stream"), body.get("stream_options") or {}
        if not isinstance(options, dict):
            raise bad_request("stream_options has to be an object", "stream_options")
        with_usage = _flag(options, "include_usage")
        service = model_of(body, host.texts, "text")
        if is_chat:
            ids = service.encode(service.chat_prompt(body.get("messages")))
        else:
            ids = _prompt_ids(service, body.get("prompt"))
        runs = _runs(service, ids, body, is_chat)
        kind = "chat.completion" if is_chat else "text_completion"
        head = {"id": f"{'chatcmpl' if is_chat else 'cmpl'}-{uuid.uuid4().hex[:24]}", "created": int(time.time()),
                "model": service.name, "object": kind}  # fmt: skip
        if is_streamed:
            head["object"] = "chat.completion.chunk" if is_chat else kind
            return StreamingResponse(_stream(runs, head, is_chat, with_usage), media_type="text/event-stream",
                                     headers={"Cache-Control": "no-cache"})  # fmt: skip
        finishes = await _until_gone(request, _finish(runs))
        head["choices"] = []
        for i, run in enumerate(runs):
            part = {"message": {"role": "assistant", "content": run.text.text}} if is_chat else {"text": run.text.text}
            choice = {"index": i, **part, "logprobs": run.logprobs(), "finish_reason": finishes[i]}
            metrics = {"metrics": {**run.metrics(), **host.about}}
            head["choices"].append(choice if len(runs) == 1 else {**choice, **metrics})
        return json_response({**head, "usage": _usage(runs), **(metrics if len(runs) == 1 else {})})

    async def _stream(runs: list[_Run], head: dict, is_chat: bool, with_usage: bool):
        def chunk(i, part, finish=None, **more):
            logprobs = runs[i].logprobs() if part.get("delta") != HELLO else None
            return _sse({**head, "choices": [{"index": i, **part, "logprobs": logprobs, "finish_reason": finish}], **more})

        try:
            for i in range(len(runs) if is_chat else 0):
                yield chunk(i, {"delta": HELLO})
            async for i, text, finish in _merged(runs):
                if text:
                    yield chunk(i, {"delta": {"content": text}} if is_chat else {"text": text})
                if finish:
                    metrics = {**runs[i].metrics(), **host.about}
                    yield chunk(i, {"delta": {}} if is_chat else {"text": ""}, finish, metrics=metrics)
            if with_usage:
                yield _sse({**head, "choices": [], "usage": _usage(runs)})
        except Exception as error:  # the status is sent already: the stream says it
            yield _sse({"error": {"message": str(error), "type": "server_error", "param": None, "code": 500}})
        yield _sse("[DONE]")

    @routes.post("/v1/chat/completions")
    async def chat(request: Request):
        return await generate(request, True)

    @routes.post("/v1/completions")
    async def completions(request: Request):
        return await generate(request, False)

    @routes.post("/v1/embeddings")
    async def embeddings(request: Request):
        body = parsed_json(await read_body(request))
        batcher = model_of(body, embedders, "embeddings")
        texts = body.get("input")
        texts = [texts] if isinstance(texts, str) else texts
        if not isinstance(texts, list) or not texts or not all(isinstance(t, str) and t for t in texts):
            raise bad_request("input has to be a text or a list of texts, none of them empty", "input")
        if body.get("dimensions") not in (None, batcher.model.config.width):
            raise bad_request(f"dimensions has to be {batcher.model.config.width}", "dimensions")
        encoding = body.get("encoding_format") or "float"
        if encoding not in ("float", "base64"):
            raise bad_request("encoding_format has to be float or base64", "encoding_format")
        rows = batcher.model.tokenize(texts)
        answer = await call(batcher, rows)
        data = [{"object": "embedding", "index": i, "embedding": _encoded(row, encoding)} for i, row in enumerate(answer.rows)]  # fmt: skip
        n = sum(map(len, rows))
        return json_response({"object": "list", "data": data, "model": batcher.model.name,
                              "usage": {"prompt_tokens": n, "total_tokens": n},
                              "metrics": {**answer.parameters, **host.about}})  # fmt: skip

    return routes


def _encoded(row: np.ndarray, encoding: str):
    if encoding == "base64":
        return base64.b64encode(np.ascontiguousarray(row, "<f4").tobytes()).decode()
    return row.tolist()


def _prompt_ids(service: TextService, prompt) -> list[int]:
    if isinstance(prompt, list) and len(prompt) == 1 and not isinstance(prompt[0], int):
        prompt = prompt[0]
    if isinstance(prompt, str):
        return service.encode(prompt)
    if isinstance(prompt, list) and prompt and all(type(i) is int for i in prompt):
        return prompt
    raise bad_request("prompt has to be one text or one list of tokens", "prompt")


async def _finish(runs: list[_Run]) -> list[str]:
    """Why each of them ended."""
    finishes = [""] * len(runs)
    async for i, _, finish in _merged(runs):
        finishes[i] = finish or finishes[i]
    return finishes


async def _until_gone(request: Request, work):
    """The result of `work`; a client that hangs up meanwhile ends it."""
    task = asyncio.ensure_future(work)

    async def watch():
        while not await request.is_disconnected():
            await asyncio.sleep(0.25)
        task.cancel()

    watcher = asyncio.ensure_future(watch())
    try:
        return await task
    except asyncio.CancelledError:
        raise RequestError(499, "the client hung up") from None
    finally:
        watcher.cancel()
