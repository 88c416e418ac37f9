"""What PyTorch's users do with a model, each a function of the device that gives numbers to compare.

`python torch_programs.py` runs all of them on the host and on the device of torch_xla, and prints one JSON object:
the largest relative difference of each, or what it raised."""

import copy
import io
import json
import os
import sys
import tempfile

import torch
import torch.nn.functional as F
import torch_xla
from torch import nn, optim

PROGRAMS = {}
HOST = torch.device("cpu")


def program(function):
    PROGRAMS[function.__name__] = function
    return function


def backend(device):
    return "eager" if device == HOST else "openxla"


def autocast(device):
    return torch.autocast(device.type, dtype=torch.bfloat16)


def randn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def data(device, size=8):
    generator = torch.Generator().manual_seed(7)
    return randn(size, 12).to(device), torch.randint(5, (size,), generator=generator).to(device)


def network(device, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 5)).to(device)


def train(loss_of, optimizer, steps=3, after=lambda loss: None):
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        optimizer.step()
        after(loss)
        torch_xla.sync()
        losses.append(loss.detach())
    return torch.stack(losses)


def classifier(device, model=None, seed=0):
    """(a network, its loss)."""
    model = model or network(device, seed)
    x, y = data(device)
    return model, lambda: F.cross_entropy(model(x), y)


@program
def optimizers(device):
    makers = (
        lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
        lambda p: optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
        lambda p: optim.Adagrad(p, lr=0.1),
        lambda p: optim.Adadelta(p),
        lambda p: optim.Adamax(p),
        lambda p: optim.NAdam(p),
        lambda p: optim.RAdam(p, lr=0.01),
        lambda p: optim.ASGD(p, lr=0.1),
        lambda p: optim.AdamW(p, amsgrad=True),
        lambda p: optim.Adam(p, lr=torch.tensor(0.01)),
        lambda p: optim.Adam(p, foreach=True),
        lambda p: optim.Adafactor(p),
    )
    losses = []
    for make in makers:
        model, loss_of = classifier(device)
        losses.append(train(loss_of, make(model.parameters())))
    return torch.cat(losses)


@program
def schedulers(device):
    makers = (
        lambda o: optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=10),
        lambda o: optim.lr_scheduler.CosineAnnealingLR(o, 5),
        lambda o: optim.lr_scheduler.LambdaLR(o, lambda epoch: 0.9**epoch),
    )
    losses = []
    for make in makers:
        model, loss_of = classifier(device)
        optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        scheduler = make(optimizer)
        losses.append(train(loss_of, optimizer, after=lambda _, scheduler=scheduler: scheduler.step()))
    model, loss_of = classifier(device)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    plateau = optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
    losses.append(train(loss_of, optimizer, after=lambda loss: plateau.step(loss.item())))
    return torch.cat(losses)


@program
def clipped_gradients(device):
    model, loss_of = classifier(device)
    optimizer, norms = optim.SGD(model.parameters(), lr=1.0), []
    for _ in range(3):
        optimizer.zero_grad()
        loss_of().backward()
        norms.append(nn.utils.clip_grad_norm_(model.parameters(), 0.1, error_if_nonfinite=True))
        nn.utils.clip_grad_value_(model.parameters(), 0.05)
        optimizer.step()
        torch_xla.sync()
    return torch.stack(norms)


@program
def accumulated_gradients(device):
    model, loss_of = classifier(device)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for i in range(6):
        loss = loss_of() / 2
        loss.backward()
        losses.append(loss.detach())
        if i % 2:
            optimizer.step()
            optimizer.zero_grad(set_to_none=False)
            torch_xla.sync()
    return torch.stack(losses)


@program
def a_checkpoint_goes_on_where_it_was_saved(device):
    def parts(seed):
        model, loss_of = classifier(device, seed=seed)
        optimizer = optim.AdamW(model.parameters(), lr=0.01)
        return model, loss_of, optimizer, optim.lr_scheduler.StepLR(optimizer, 2, 0.5)

    model, loss_of, optimizer, scheduler = parts(0)
    train(loss_of, optimizer, after=lambda _: scheduler.step())
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}, file)
    expected = train(loss_of, optimizer, after=lambda _: scheduler.step())

    file.seek(0)
    saved = torch.load(file, map_location="cpu")
    assert saved["model"]["0.weight"].device == HOST
    model, loss_of, optimizer, scheduler = parts(5)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    scheduler.load_state_dict(saved["scheduler"])
    losses = train(loss_of, optimizer, after=lambda _: scheduler.step())
    assert torch.equal(losses.cpu(), expected.cpu())
    return losses


@program
def what_xm_save_and_torch_save_write(device):
    import torch_xla.core.xla_model as xm

    model, x = network(device), data(device)[0]
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "model.pt")
        (torch.save if device == HOST else xm.save)(model.state_dict(), path)
        other = network(HOST, seed=5)
        other.load_state_dict(torch.load(path))
        torch.save(model, path)
        whole = torch.load(path, weights_only=False)
    assert torch.equal(whole(x).cpu(), model(x).cpu())
    return other(x.cpu())


@program
def batches_of_a_data_loader(device):
    dataset = torch.utils.data.TensorDataset(*data(HOST, 32))
    model, losses = network(device), []
    optimizer = optim.SGD(model.parameters(), lr=0.1)

    def epoch(batches):
        for x, y in batches:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x.to(device, non_blocking=True)), y.to(device, non_blocking=True))
            loss.backward()
            optimizer.step()
            losses.append(loss.item())

    epoch(torch.utils.data.DataLoader(dataset, batch_size=12))
    epoch(torch.utils.data.DataLoader(dataset, batch_size=12, num_workers=2))  # forks of a process with an open device
    loader = torch.utils.data.DataLoader(dataset, batch_size=12, drop_last=True)
    if device != HOST:
        import torch_xla.distributed.parallel_loader as pl

        loader = pl.MpDeviceLoader(loader, device)
    epoch(loader)
    return torch.tensor(losses)


@program
def a_printed_loss(device):
    loss = classifier(device)[1]()
    for text in (f"{loss:.4f}", f"{loss.item():.4f}", str(loss)[7:13]):
        assert abs(float(text) - loss.item()) < 1e-4, text
    return loss


@program
def mixed_precision_with_a_scaler(device):
    model, loss_of = classifier(device)
    optimizer, scaler = optim.SGD(model.parameters(), lr=0.1), torch.amp.GradScaler(device.type)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        with autocast(device):
            loss = loss_of()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    return torch.tensor(losses)


@program
def a_model_in_bfloat16(device):
    x, y = data(device)
    model = network(device).bfloat16()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    return train(lambda: F.cross_entropy(model(x.bfloat16()).float(), y), optimizer)


@program
def embeddings_and_ignored_labels(device):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(20, 8, padding_idx=0), nn.Linear(8, 20)).to(device)
    words = torch.randint(20, (4, 6), generator=torch.Generator().manual_seed(1))
    labels = words.roll(1, 1)
    labels[0, :3] = -100
    x, y = words.to(device), labels.flatten().to(device)
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    return train(lambda: F.cross_entropy(model(x).flatten(0, 1), y, ignore_index=-100), optimizer)


@program
def recurrent_layers(device):
    torch.manual_seed(0)
    x, y = randn(3, 5, 6).to(device), []
    for layer in (
        nn.GRU(6, 7, 2, batch_first=True, bidirectional=True),
        nn.RNN(6, 7),
        nn.LSTM(6, 7, bidirectional=True, proj_size=3),
    ):
        y.append(layer.to(device)(x)[0].flatten())
    return torch.cat(y)


@program
def a_transformer_with_masks(device):
    torch.manual_seed(0)
    model = nn.Transformer(16, 2, 1, 1, 32, dropout=0.0, batch_first=True).to(device)
    padding = torch.tensor([[0, 0, 0, 0, 1], [0, 0, 0, 1, 1]]).bool().to(device)
    mask = nn.Transformer.generate_square_subsequent_mask(4, device=device)
    y = model(randn(2, 5, 16).to(device), randn(2, 4, 16).to(device), tgt_mask=mask, src_key_padding_mask=padding)
    y.square().sum().backward()
    return torch.cat([y.flatten(), model.encoder.layers[0].linear1.weight.grad.flatten()])


@program
def losses(device):
    x, y = randn(6, 5).to(device).requires_grad_(True), randn(6, 5).flip(0).to(device)
    classes, signs = torch.tensor([0, 4, 2, 2, 1, 3]).to(device), (y > 0).float()
    rows = torch.ones(6, device=device)
    log_p = F.log_softmax(randn(7, 2, 5).to(device) * x[0], 2)
    each = (
        F.binary_cross_entropy_with_logits(x, signs, pos_weight=torch.full((5,), 2.0, device=device)),
        F.kl_div(F.log_softmax(x, 1), F.softmax(y, 1), reduction="batchmean"),
        F.nll_loss(F.log_softmax(x, 1), classes, weight=torch.arange(1.0, 6, device=device)),
        F.cross_entropy(x, F.softmax(y, 1), label_smoothing=0.1),
        F.smooth_l1_loss(x, y) + F.huber_loss(x, y) + F.l1_loss(x, y),
        F.cosine_embedding_loss(x, y, rows) + F.triplet_margin_loss(x, y, y.flip(0)),
        F.multi_margin_loss(x, classes) + F.margin_ranking_loss(x[:, 0], y[:, 0], rows),
        F.ctc_loss(log_p, torch.tensor([[1, 2, 3], [2, 2, 4]]).to(device), torch.tensor([7, 7]), torch.tensor([3, 2])),
    )
    gradients = [torch.autograd.grad(loss, x, retain_graph=True)[0].flatten() for loss in each]
    return torch.cat([torch.stack(each), *gradients])


@program
def gradients_of_gradients(device):
    model, x = network(device), data(device)[0].clone().requires_grad_(True)
    (g,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
    (g.norm(dim=1) - 1).square().mean().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@program
def functions_of_parameters(device):
    model, (x, y) = network(device), data(device)
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(parameters, x, y):
        return F.cross_entropy(torch.func.functional_call(model, parameters, (x[None],)), y[None])

    gradients = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(parameters, x, y)
    return torch.cat([gradients["0.weight"].flatten(), torch.func.jacrev(model)(x[0]).flatten()])


@program
def hooks_and_a_function_of_ones_own(device):
    class Rounded(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.round()

        @staticmethod
        def backward(ctx, g):
            return g * (ctx.saved_tensors[0].abs() < 1)

    model, seen = network(device), []
    model[0].register_forward_hook(lambda module, inputs, output: seen.append(output.mean()))
    model[0].weight.register_hook(lambda g: g * 2)
    Rounded.apply(model(data(device)[0]) * 3).square().sum().backward()
    return torch.stack([*seen, model[0].weight.grad.norm()])


@program
def averaged_copied_and_frozen_weights(device):
    model, loss_of = classifier(device)
    model[0].requires_grad_(False)
    average = optim.swa_utils.AveragedModel(model, multi_avg_fn=optim.swa_utils.get_ema_multi_avg_fn(0.9))
    optimizer = optim.Adam([{"params": model[2].weight, "lr": 0.1}, {"params": model[2].bias, "lr": 0.01}])
    train(loss_of, optimizer, after=lambda _: average.update_parameters(model))
    twice = copy.deepcopy(model)
    with torch.no_grad():
        for p in twice.parameters():
            p.mul_(2)
    x = data(device)[0]
    return torch.cat([model(x), average(x), twice(x)])


@program
def parametrised_weights(device):
    torch.manual_seed(0)
    layers = (
        nn.utils.parametrizations.weight_norm(nn.Linear(12, 5)),
        nn.utils.parametrizations.spectral_norm(nn.Linear(12, 5)),
        nn.utils.parametrizations.orthogonal(nn.Linear(12, 12)),
    )
    return torch.cat([layer.to(device)(data(device)[0]).flatten() for layer in layers])


@program
def an_adversary(device):
    torch.manual_seed(0)
    maker, judge = nn.Linear(4, 6).to(device), nn.Linear(6, 1).to(device)
    optimizers = [optim.Adam(m.parameters(), lr=0.01) for m in (maker, judge)]
    noise, real = randn(8, 4).to(device), randn(8, 6).to(device)
    ones, losses = torch.ones(8, 1, device=device), []
    for _ in range(3):
        told = judge(real), judge(maker(noise).detach())
        judged = F.binary_cross_entropy_with_logits(told[0], ones) + F.binary_cross_entropy_with_logits(told[1], 0 * ones)
        optimizers[1].zero_grad()
        judged.backward()
        optimizers[1].step()
        made = F.binary_cross_entropy_with_logits(judge(maker(noise)), ones)
        optimizers[0].zero_grad()
        made.backward()
        optimizers[0].step()
        torch_xla.sync()
        losses += [judged.item(), made.item()]
    return torch.tensor(losses)


@program
def a_cache_that_is_written_in_place(device):
    cache, sums = torch.zeros(2, 8, 4, device=device), []
    for i in range(5):
        cache[:, i] = randn(2, 4).to(device) * (i + 1)
        sums.append(cache[:, : i + 1].sum(1).flatten())
        torch_xla.sync()
    return torch.cat(sums)


@program
def python_that_asks_tensors(device):
    x, n = data(device)[0], 0
    while (x.abs().max() > 0.5).item():
        x, n = x * 0.5, n + 1
    if (x > 0).any():
        n += 10
    hits = (x.argmax(1).cpu() == data(HOST)[0].argmax(1)).sum().item()
    return torch.tensor([n, hits, *x[0].tolist(), (x * 2).cpu().numpy().sum()])


@program
def a_compiled_training(device):
    compiled, loss_of = classifier(device, torch.compile(network(device), backend=backend(device)))
    return train(loss_of, optim.AdamW(compiled.parameters(), lr=0.01))


@program
def a_compiled_function_of_several_shapes_and_graphs(device):
    model = network(device)

    @torch.compile(backend=backend(device))
    def f(x):
        y = model(x)
        if y.sum().item() > 0:
            y = y * 2
        return torch.relu(y)

    x = data(device)[0]
    return torch.cat([f(x), f(x[:3]), f(x[:5])])


def compare(function):
    """The largest difference, relative to numbers over 1; or what was raised."""
    try:
        expected = function(HOST).detach().double()
        got = function(torch_xla.device()).detach().cpu().double()
        if got.shape != expected.shape:
            return f"{list(got.shape)} instead of {list(expected.shape)}"
        return ((got - expected).abs() / (expected.abs() + 1)).max().item()
    except Exception as error:  # each program's error is a result
        return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    torch_xla.device()  # PyTorch counts the devices at the first backward pass of the process
    names = sys.argv[1:] or PROGRAMS
    print(json.dumps({name: compare(PROGRAMS[name]) for name in names}))
