"""Trains a small GPT-2 of transformers: python examples/torch/gpt2.py

pip install transformers"""

import data
import torch
import torch_xla
from transformers import GPT2Config, GPT2LMHeadModel

N_WORDS = 64


def train():
    torch.manual_seed(0)
    device = torch_xla.device()
    config = GPT2Config(vocab_size=N_WORDS, n_positions=32, n_embd=64, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0,
                        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)  # fmt: skip
    model = GPT2LMHeadModel(config).to(device)
    model.tie_weights()  # torch_xla's .to() makes two of a tensor that has two names
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for words in data.words(8, 31, N_WORDS):
        words = words.to(device)
        optimizer.zero_grad()
        loss = model(input_ids=words, labels=words).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        torch_xla.sync()
        yield loss


if __name__ == "__main__":
    data.report(train())
