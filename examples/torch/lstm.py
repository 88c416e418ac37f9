"""Trains a language model with an LSTM: python examples/torch/lstm.py"""

import data
import torch
import torch.nn.functional as F
import torch_xla
from torch import nn

N_WORDS = 40


class Model(nn.Module):
    def __init__(self, width=48):
        super().__init__()
        self.embedding = nn.Embedding(N_WORDS, width)
        self.lstm = nn.LSTM(width, width, num_layers=2, batch_first=True)
        self.head = nn.Linear(width, N_WORDS)

    def forward(self, x):
        y, _ = self.lstm(self.embedding(x))
        return self.head(y)


def train():
    torch.manual_seed(0)
    device = torch_xla.device()
    model = Model().to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for words in data.words(16, 12, N_WORDS):
        words = words.to(device)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(words[:, :-1]).flatten(0, 1), words[:, 1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        torch_xla.sync()
        yield loss


if __name__ == "__main__":
    data.report(train())
