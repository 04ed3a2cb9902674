"""The work in PyTorch on the CPU. See src/lib.rs for the protocol and the numbers that all begin with."""

import json
import math
import os
import platform
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import l1_loss, mse_loss
from torch.nn.utils.rnn import pack_padded_sequence

THREADS = int(os.environ.get("THREADS", "2"))
DATA = Path(sys.argv[2] if len(sys.argv) > 2 else "data")
BATCH = 16


def noise(name, *shape):
    seed = 0x811C9DC5
    for byte in name.encode():
        seed = ((seed ^ byte) * 0x01000193) & 0xFFFFFFFF
    n = math.prod(shape)
    h = np.arange(n, dtype=np.uint32) * np.uint32(0x9E3779B9) + np.uint32(seed)
    h = (h ^ (h >> 16)) * np.uint32(0x85EBCA6B)
    h = (h ^ (h >> 13)) * np.uint32(0xC2B2AE35)
    h ^= h >> 16
    return torch.from_numpy((h >> 8).astype(np.float32) / np.float32(1 << 23) - np.float32(1)).reshape(shape)


def adam(params, lr=1e-3, **more):
    # The fused kernel is the fastest that PyTorch has for this.
    return torch.optim.Adam(params, lr=lr, betas=(0.9, 0.999), eps=1e-8, fused=True, **more)


@torch.no_grad()
def start(module, bounds):
    """Gives every parameter its values; `bounds` tells the bound from name and shape."""
    for name, p in module.named_parameters():
        p.copy_(noise(name, *p.shape) * bounds(name, p))


def checked(run):
    """The mean square of the first result, then nothing."""
    first = True

    def steps(count):
        nonlocal first
        for _ in range(count):
            result = run()
        if not first:
            return []
        first = False
        return [result.double().square().mean().item()]

    return steps


def training(step):
    return lambda count: [step() for _ in range(count)]


def matmul(m, k, n):
    a, b = noise("a", m, k), noise("b", k, n)
    return checked(lambda: a @ b)


class LstmModel(nn.Module):
    def __init__(self, inputs, hidden):
        super().__init__()
        self.lstm, self.head = nn.LSTM(inputs, hidden, batch_first=True), nn.Linear(hidden, 1)

    def forward(self, x):
        return self.head(self.lstm(x)[1][0][-1])


def lstm():
    batch, steps, inputs, hidden = 32, 50, 74, 32
    model = LstmModel(inputs, hidden)
    start(model, lambda name, p: hidden**-0.5)
    x, target = noise("x", batch, steps, inputs), noise("target", batch, 1)
    optimiser = adam(model.parameters())

    def step():
        optimiser.zero_grad()
        loss = l1_loss(model(x), target)
        loss.backward()
        optimiser.step()
        return loss.item()

    return training(step)


def encoder(d, train):
    batch, length = 32, 50
    layer = nn.TransformerEncoderLayer(
        d, d // 64, 4 * d, dropout=0.0, activation="gelu", layer_norm_eps=1e-12, batch_first=True
    )
    linear = lambda name, n, k: (noise(f"{name}.weight", n, k) * k**-0.5, noise(f"{name}.bias", n) * k**-0.5)
    norm = lambda name: (1 + 0.1 * noise(f"{name}.weight", d), 0.1 * noise(f"{name}.bias", d))
    with torch.no_grad():
        qkv = [linear(name, d, d) for name in ("query", "key", "value")]
        layer.self_attn.in_proj_weight.copy_(torch.cat([w for w, _ in qkv]))
        layer.self_attn.in_proj_bias.copy_(torch.cat([b for _, b in qkv]))
        for module, (w, b) in [
            (layer.self_attn.out_proj, linear("out", d, d)),
            (layer.linear1, linear("inner", 4 * d, d)),
            (layer.linear2, linear("outer", d, 4 * d)),
            (layer.norm1, norm("norm1")),
            (layer.norm2, norm("norm2")),
        ]:
            module.weight.copy_(w)
            module.bias.copy_(b)
    x, target = noise("x", batch, length, d), noise("target", batch, length, d)
    if not train:
        layer.eval()
        return checked(torch.no_grad()(lambda: layer(x)))
    optimiser = adam(layer.parameters())

    def step():
        optimiser.zero_grad()
        loss = mse_loss(layer(x), target)
        loss.backward()
        optimiser.step()
        return loss.item()

    return training(step)


def adam_alone():
    count, side = 22, 1000
    params = [nn.Parameter(noise(f"p{i}", side, side)) for i in range(count)]
    optimiser = adam(params)
    for i, p in enumerate(params):
        p.grad = noise(f"g{i}", side, side)

    def step():
        optimiser.step()
        # Each step but the first has a gradient of zero, as where it is cleared after use.
        for p in params if not step.cleared else []:
            p.grad = torch.zeros_like(p)
        step.cleared = True
        return params[0][0, 0].item()

    step.cleared = False
    return training(step)


class Sequence(nn.Module):
    def __init__(self, inputs, hidden, out):
        super().__init__()
        self.rnn, self.linear_1 = nn.LSTM(inputs, hidden, batch_first=True), nn.Linear(hidden, out)

    def forward(self, x, lengths):
        if lengths is not None:
            x = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return self.linear_1(self.rnn(x)[1][0][-1])


class SelfMm(nn.Module):
    """The three-modality model under MMSA's names. `text` is the sizes of an LSTM, or None for features."""

    POST = {"fusion": 128, "text": 32, "audio": 16, "video": 32}
    SENSES = ("text", "audio", "video")

    def __init__(self, widths, hidden, out, text_lstm):
        super().__init__()
        self.encoders = self.SENSES if text_lstm else self.SENSES[1:]
        for s in self.encoders:
            self.add_module(f"{s}_model", Sequence(widths[s], hidden[s], out[s]))
        sizes = {**out, "fusion": sum(out.values())}
        for s, n in self.POST.items():
            for i, (inputs, outputs) in enumerate([(sizes[s], n), (n, n), (n, 1)], start=1):
                self.add_module(f"post_{s}_layer_{i}", nn.Linear(inputs, outputs))
        for s in self.SENSES:
            self.add_module(f"align_{s}", nn.Linear(out[s], 16, bias=False))

        def bound(name, p):
            if ".rnn." in name:
                return hidden[name.split("_")[0]] ** -0.5
            weight = self.get_parameter(name.rsplit(".", 1)[0] + ".weight")
            return weight.shape[1] ** -0.5

        start(self, bound)

    def forward(self, batch):
        f = {}
        for s in self.SENSES:
            x, lengths = batch[s]
            f[s] = getattr(self, f"{s}_model")(x, lengths) if s in self.encoders else x[:, 0]
        f["fusion"] = torch.cat([f[s] for s in self.SENSES], 1)
        feature, score = {}, {}
        for s in self.POST:
            layer = lambda i: getattr(self, f"post_{s}_layer_{i}")
            feature[s] = torch.relu(layer(1)(f[s]))
            score[s] = layer(3)(torch.relu(layer(2)(feature[s]))).squeeze(1)
        return f, feature, score


def covariance(x):
    centred = x - x.mean(0)
    return centred.T @ centred / (len(x) - 1)


def standardised(x):
    return (x - x.mean(0)) / (x.var(0) + 1e-5).sqrt()


class Trainer:
    """Self-MM's loop: losses, label generation from epoch 2 on, an optimiser step every `accumulate`."""

    def __init__(self, file, hidden, out, text_lstm, accumulate, groups, align, standardize, ragged):
        from safetensors.torch import load_file

        tensors = load_file(DATA / file)
        get = lambda name: tensors.get(f"train.{name}")
        fields = {"text": "text", "audio": "audio", "video": "vision"}
        self.x = {s: get(field) for s, field in fields.items()}
        self.lengths = {s: get(f"{field}_lengths") if ragged else None for s, field in fields.items()}
        self.labels = get("regression_labels")
        self.rows = len(self.labels)
        self.model = SelfMm({s: x.shape[2] for s, x in self.x.items()}, hidden, out, text_lstm)
        self.optimiser = groups(self.model)
        self.accumulate, self.align, self.standardize = accumulate, align, standardize
        self.tasks = list(SelfMm.POST)
        self.y = {s: self.labels.clone() for s in self.tasks}
        self.store = {s: torch.zeros(self.rows, n) for s, n in SelfMm.POST.items()}
        self.centres = {s: torch.zeros(2, n) for s, n in SelfMm.POST.items()}
        self.in_group = 0

    def batch(self, rows):
        part = lambda t: None if t is None else t[rows]
        return {s: (x[rows], part(self.lengths[s])) for s, x in self.x.items()}

    def step(self, rows, epoch):
        if self.in_group == 0:
            self.optimiser.zero_grad()
        f, feature, score = self.model(self.batch(rows))
        y = {s: self.y[s][rows] for s in self.tasks}
        loss = (score["fusion"] - y["fusion"]).abs().mean()
        for s in self.tasks[1:]:
            w = torch.tanh((y[s] - y["fusion"]).abs())
            loss = loss + (w * (score[s] - y[s]).abs()).mean()
        c = {}
        for s in SelfMm.SENSES:
            side = getattr(self.model, f"align_{s}")(f[s])
            c[s] = covariance(standardised(side) if self.standardize else side)
        for a, b in (("text", "audio"), ("text", "video"), ("audio", "video")):
            loss = loss + self.align * (c[a] - c[b]).square().sum() / (4 * 16**2)
        loss.backward()
        with torch.no_grad():
            self.generate(rows, epoch, feature, y)
        self.in_group += 1
        if self.in_group == self.accumulate:
            self.optimiser.step()
            self.in_group = 0
        return loss.item()

    def generate(self, rows, epoch, feature, y):
        if epoch >= 2:
            alpha = {}
            for s in self.tasks:
                minus, plus = ((feature[s] - centre).norm(dim=1) for centre in self.centres[s])
                alpha[s] = (minus - plus) / (plus + 1e-8)
            m, ym = alpha["fusion"], y["fusion"]
            for s in self.tasks[1:]:
                new = 0.5 * alpha[s] / (m + 1e-8) * ym + 0.5 * (ym + alpha[s] - m)
                self.y[s][rows] = (epoch - 1) / (epoch + 1) * y[s] + 2 / (epoch + 1) * new.clamp(-3, 3)
        for s in self.tasks:
            self.store[s][rows] = feature[s]
            for i, side in enumerate((self.y[s] < 0, self.y[s] > 0)):
                if side.any():
                    self.centres[s][i] = self.store[s][side].mean(0)


def whole(file, ragged):
    sizes = {"audio": 16, "video": 32}
    trainer = Trainer(
        file, sizes, {"text": 768, **sizes}, text_lstm=False, accumulate=1,
        groups=lambda model: adam(model.parameters()), align=100.0, standardize=False, ragged=ragged,
    )  # fmt: skip
    calls, batches = 0, 0

    def steps(count):
        nonlocal calls, batches
        calls += 1
        losses = []
        for _ in range(count):
            first = batches * BATCH % trainer.rows
            losses.append(trainer.step(torch.arange(first, first + BATCH), max(calls - 1, 1)))
            batches += 1
        return losses

    return steps


def demo_groups(model):
    named = list(model.named_parameters())
    part = lambda s: [p for n, p in named if n.startswith(f"{s}_model")]
    rest = [p for n, p in named if "_model" not in n]
    groups = [(part("text"), 1e-3), (part("audio"), 5e-3), (part("video"), 5e-3), (rest, 1e-3)]
    return adam([dict(params=p, lr=lr) for p, lr in groups], weight_decay=1e-3)


def epoch():
    hidden = {"text": 32, "audio": 16, "video": 32}
    trainer = Trainer(
        "demo.safetensors", hidden, {s: 4 for s in hidden}, text_lstm=True, accumulate=4,
        groups=demo_groups, align=0.3, standardize=True, ragged=True,
    )  # fmt: skip
    number = 0

    def steps(count):
        nonlocal number
        means = []
        for _ in range(count):
            number += 1
            trainer.in_group = 0
            rows = torch.arange(trainer.rows).split(BATCH)
            means.append(float(np.mean([trainer.step(r, number) for r in rows])))
        return means

    return steps


def open_item(name):
    kind, _, size = name.partition("/")
    sizes = [int(s) for s in size.split("x")] if size else []
    table = {
        "matmul": lambda: matmul(*sizes),
        "lstm": lstm,
        "encoder": lambda: encoder(sizes[0], True),
        "forward": lambda: encoder(sizes[0], False),
        "adam": adam_alone,
        "selfmm": lambda: whole("full.safetensors", ragged=False),
        "selfmm-lengths": lambda: whole("lengths.safetensors", ragged=True),
        "epoch": epoch,
    }
    return table[kind]()


def main():
    torch.set_num_threads(THREADS)
    torch.manual_seed(1111)
    say = lambda value: print(json.dumps(value), flush=True)
    processor = platform.processor() or platform.machine()
    settings = f"{torch.get_num_threads()} threads, eager, fused Adam"
    say({"version": f"PyTorch {torch.__version__}", "device": f"CPU ({processor})", "settings": settings})
    ready, steps = None, None
    for line in sys.stdin:
        try:
            _, name, count = line.split()
            begun = time.perf_counter()
            if name != ready:
                steps = None
                steps, ready = open_item(name), name
            opened = time.perf_counter() - begun
            begun = time.perf_counter()
            values = steps(int(count))
            say({"open": opened, "seconds": time.perf_counter() - begun, "values": values})
        except Exception as error:  # the driver prints it beside the item
            ready = None
            say({"error": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    main()
