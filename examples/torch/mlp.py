"""Trains a multilayer perceptron on the digits: python examples/torch/mlp.py"""

import data
import torch
import torch_xla
from torch import nn


def train():
    torch.manual_seed(0)
    device = torch_xla.device()
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
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
