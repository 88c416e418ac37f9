"""Trains as scripts of TorchNeuron do, on device `neuron`: VTRN_TORCH_NEURON=1 python examples/torch/neuron.py"""

import data
import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.layers = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))

    def forward(self, x):
        return x + self.layers(self.norm(x))


def train():
    torch.manual_seed(0)
    device = torch.device("neuron")
    model = nn.Sequential(nn.Linear(64, 64), Block(64), Block(64), nn.Linear(64, 10)).to(device)
    compiled = torch.compile(model, backend="neuron")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for i, (images, labels) in enumerate(data.digits(32)):
        images, labels = images.flatten(1).to(device), labels.to(device)
        optimizer.zero_grad()
        logits = (compiled if i % 2 else model)(images)
        loss = F.cross_entropy(logits, labels)
        loss.backward()
        optimizer.step()
        yield loss


if __name__ == "__main__":
    data.report(train())
