"""Text in, text out: a decoder with its tokenizer. Tokens become text as soon as they are whole characters."""

import dataclasses

from vtrn.serve.decoder_engine import Choice
from vtrn.serve.decoder_schedule import Sequence
from vtrn.serve.decoder_worker import DecoderWorker
from vtrn.serve.errors import bad_request, whole_text
from vtrn.serve.weights import TextModel


class TextStream:
    """Turns tokens into pieces of text. What may still change, a part of a character or of a stop text, is held."""

    def __init__(self, tokenizer, stops: list[str]):
        self._tokenizer, self._stops = tokenizer, stops
        self._ids: list[int] = []
        self._given = 0  # characters
        self.text = ""
        self.is_stopped = False

    def add(self, token: int) -> str:
        """The text that is new."""
        self._ids.append(token)
        return self._give(is_end=False)

    def end(self) -> str:
        return self._give(is_end=True)

    def _give(self, is_end: bool) -> str:
        if self.is_stopped:
            return ""
        text = self._tokenizer.decode(self._ids)
        found = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.is_stopped, text = True, text[: min(found)]
        elif not is_end:
            held = 0
            if text.endswith("�"):
                held = len(text) - len(text.rstrip("�"))
            for stop in self._stops:
                held = max([held, *(n for n in range(1, len(stop)) if text.endswith(stop[:n]))])
            text = text[: len(text) - held]
        piece = text[self._given :]
        if len(text) > self._given:
            self._given, self.text = len(text), text
        return piece


@dataclasses.dataclass
class TextService:
    name: str
    model: TextModel
    worker: DecoderWorker

    def encode(self, prompt: str) -> list[int]:
        return self.model.tokenizer.encode(whole_text(prompt, "prompt")).ids

    def sequence(self, ids: list[int], max_new: int, choice: Choice, seed: int) -> Sequence:
        self.worker.schedule.check(len(ids), max_new)
        if any(not 0 <= i < self.model.config.vocabulary for i in ids):
            raise bad_request(f"the prompt names a token that is not in 0..{self.model.config.vocabulary - 1}", "prompt")
        return Sequence(ids, max_new, choice, seed, frozenset([self.model.end_id]))

    def chat_prompt(self, messages: list) -> str:
        """The messages as the model was trained on them: ChatML, whose first is a system message."""
        if not isinstance(messages, list) or not messages:
            raise bad_request("messages has to be a list of at least one message", "messages")
        turns = []
        for m in messages:
            if not isinstance(m, dict) or not isinstance(m.get("role"), str):
                raise bad_request("each message needs a role and a content, both text", "messages")
            content = m.get("content")
            if isinstance(content, list) and all(isinstance(p, dict) and p.get("type") == "text" for p in content):
                content = "".join(str(p.get("text", "")) for p in content)
            if not isinstance(content, str):
                raise bad_request("the content of a message has to be text; images and sound are not understood", "messages")
            turns.append((m["role"], content))
        if turns[0][0] != "system" and self.model.system_message:
            turns.insert(0, ("system", self.model.system_message))
        begin, end = self.model.turn_marks
        return "".join(f"{begin}{role}\n{content}{end}\n" for role, content in turns) + f"{begin}assistant\n"
