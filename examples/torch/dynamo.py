"""A compiled teacher's outputs are learned by a compiled student: python examples/torch/dynamo.py"""

import data
import torch
import torch.nn.functional as F
import torch_xla
from torch import nn


def network(*widths):
    layers = [layer for n, m in zip(widths, widths[1:]) for layer in (nn.Linear(n, m), nn.GELU())]
    return nn.Sequential(*layers[:-1])


def train():
    torch.manual_seed(0)
    device = torch_xla.device()
    teacher = torch.compile(network(64, 96, 10).to(device).eval(), backend="openxla")
    student = network(64, 48, 10).to(device)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)

    @torch.compile(backend="openxla")
    def loss_of(images, targets):
        return F.mse_loss(student(images), targets)

    for images, _ in data.digits(64):
        images = images.flatten(1).to(device)
        with torch.no_grad():
            targets = teacher(images)
        optimizer.zero_grad()
        loss = loss_of(images, targets)
        loss.backward()
        optimizer.step()
        torch_xla.sync()
        yield loss


if __name__ == "__main__":
    data.report(train())
