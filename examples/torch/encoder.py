"""Trains a transformer's encoder to find a word that is out of line: python examples/torch/encoder.py"""

import data
import torch
import torch.nn.functional as F
import torch_xla
from torch import nn

N_WORDS, LENGTH, WIDTH = 40, 16, 64


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(N_WORDS, WIDTH)
        self.position = nn.Parameter(torch.randn(LENGTH, WIDTH) / 8)
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, dropout=0.0, activation="gelu", batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, 1)

    def forward(self, x):
        return self.head(self.encoder(self.embedding(x) + self.position)).squeeze(-1)


def train():
    torch.manual_seed(0)
    device = torch_xla.device()
    model = Model().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    generator = torch.Generator().manual_seed(3)
    for words in data.words(16, LENGTH - 1, N_WORDS):
        place = torch.randint(LENGTH, (16,), generator=generator)
        words[torch.arange(16), place] += N_WORDS // 2
        words, place = (words % N_WORDS).to(device), place.to(device)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(words), place)
        loss.backward()
        optimizer.step()
        torch_xla.sync()
        yield loss


if __name__ == "__main__":
    data.report(train())
