"""Trains with dropout: python examples/torch/dropout.py"""

import data
import torch
import torch_xla
from torch import nn


def train():
    torch.manual_seed(0)
    device = torch_xla.device()
    model = nn.Sequential(
        nn.Linear(64, 128), nn.GELU(), nn.Dropout(0.1), nn.Linear(128, 128), nn.GELU(), nn.Dropout(0.5), nn.Linear(128, 10)
    ).to(device)
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    criterion = nn.CrossEntropyLoss()
    for images, labels in data.digits(64):
        optimizer.zero_grad()
        loss = criterion(model(images.flatten(1).to(device)), labels.to(device))
        loss.backward()
        optimizer.step()
        torch_xla.sync()
        yield loss


if __name__ == "__main__":
    data.report(train())
