"""Fine-tunes a BERT or an MPNet on a data set of the project's format with PyTorch, by the same recipe and
settings as `modalign train --data FILE --bert FOLDER`: the peer that the README's table stands beside.

    pip install torch transformers numpy safetensors
    python benches/torch_text.py --data cmu_mosi.safetensors --bert FOLDER [--modalities TA] [--seed 1111] [--device cuda]

A BERT reads the data set's own tokens, as in modalign; another encoder's are made from the texts beside it.

Self-MM with label generation and the covariance term, MMSA's MOSI settings. Batches are padded to their
longest sentence (--pad 50 pads to a fixed length, as the Python toolkits do). Order and initial heads are
PyTorch's own, so scores agree with modalign's as two seeds would.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence
from transformers import AutoConfig, AutoModel, AutoTokenizer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "fixtures"))
from golden_selfmm import centre_pair, covariance_loss, relative_distance  # noqa: E402

POST = {"m": 128, "t": 32, "a": 16, "v": 32}
HIDDEN = {"a": 16, "v": 32}
FIELD = {"a": "audio", "v": "vision"}


class Head(nn.Module):
    def __init__(self, inputs, size, dropout):
        super().__init__()
        self.drop, self.first = nn.Dropout(dropout), nn.Linear(inputs, size)
        self.second, self.third = nn.Linear(size, size), nn.Linear(size, 1)

    def forward(self, x):
        feature = torch.relu(self.first(self.drop(x)))
        return feature, self.third(torch.relu(self.second(feature))).squeeze(1)


class Sequence(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.rnn, self.linear = nn.LSTM(width, hidden, batch_first=True), nn.Linear(hidden, hidden)

    def forward(self, x, lengths):
        packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        return self.linear(self.rnn(packed)[1][0][-1])


class Model(nn.Module):
    def __init__(self, folder, modalities, widths):
        super().__init__()
        self.senses = modalities.lower()
        self.bert = AutoModel.from_pretrained(folder, add_pooling_layer=False)
        self.segments = self.bert.config.model_type == "bert"
        self.streams = nn.ModuleDict({s: Sequence(widths[s], HIDDEN[s]) for s in self.senses[1:]})
        sizes = {"t": self.bert.config.hidden_size, **{s: HIDDEN[s] for s in self.senses[1:]}}
        sizes["m"] = sum(sizes[s] for s in self.senses)
        dropout = {"m": 0.0, "t": 0.1, "a": 0.1, "v": 0.0}
        self.heads = nn.ModuleDict({s: Head(sizes[s], POST[s], dropout[s]) for s in "m" + self.senses})
        self.align = nn.ModuleDict({s: nn.Linear(sizes[s], 16, bias=False) for s in self.senses})

    def forward(self, batch):
        segments = {"token_type_ids": batch["segments"]} if self.segments else {}
        text = self.bert(input_ids=batch["ids"], attention_mask=batch["mask"], **segments)
        f = {"t": text.last_hidden_state[:, 0]}
        for s in self.senses[1:]:
            f[s] = self.streams[s](batch[s], batch[s + "_lengths"])
        f["m"] = torch.cat([f[s] for s in self.senses], 1)
        return f, {s: self.heads[s](f[s]) for s in "m" + self.senses}


def own_tokens(data, folder):
    """Each split's ids, mask and segments, N×3×50, for an encoder with a vocabulary of its own; none for a BERT."""
    if AutoConfig.from_pretrained(folder).model_type == "bert":
        return {}
    tokenizer = AutoTokenizer.from_pretrained(folder)
    out = {}
    for name, rows in json.loads(Path(data).with_suffix(".json").read_text()).items():
        texts = rows["raw_text"]
        made = tokenizer(texts, padding="max_length", truncation=True, max_length=50, return_tensors="pt")
        ids, mask = made["input_ids"], made["attention_mask"]
        out[name] = torch.stack([ids, mask, torch.zeros_like(ids)], 1)
    return out


class Split:
    def __init__(self, tensors, name, senses, stats, tokens, device):
        get = lambda field: torch.from_numpy(tensors[f"{name}.{field}"])
        self.tokens = tokens.get(name, get("text_bert").long()).to(device)
        self.labels = get("regression_labels").to(device)
        self.streams = {}
        for s in senses[1:]:
            x, key = get(FIELD[s]), f"{name}.{FIELD[s]}_lengths"
            lengths = get(f"{FIELD[s]}_lengths").long() if key in tensors else torch.full((len(x),), x.shape[1])
            inside = torch.arange(x.shape[1])[None] < lengths[:, None]
            if s not in stats:
                valid = x[inside]
                spread = valid.std(0, unbiased=False)
                stats[s] = valid.mean(0), torch.where(spread > 1e-6, spread, torch.ones_like(spread))
            x = (x - stats[s][0]) / stats[s][1] * inside[..., None]
            self.streams[s] = x.to(device), lengths.to(device)

    def batch(self, rows, pad):
        ids, mask, segments = self.tokens[rows].unbind(1)
        longest = pad or int(mask.sum(1).max())
        out = {"ids": ids[:, :longest], "mask": mask[:, :longest], "segments": segments[:, :longest]}
        for s, (x, lengths) in self.streams.items():
            out[s], out[s + "_lengths"] = x[rows], lengths[rows]
        return out


@torch.no_grad()
def scores(model, split, size, pad):
    model.eval()
    parts = torch.arange(len(split.labels), device=split.labels.device).split(size)
    return torch.cat([model(split.batch(rows, pad))[1]["m"][1] for rows in parts])


def measure(yhat, y):
    yhat, y = yhat.cpu(), y.cpu()
    mae = (yhat - y).abs().mean().item()
    return mae, float(np.corrcoef(yhat.numpy(), y.numpy())[0, 1])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--bert", required=True)
    parser.add_argument("--modalities", default="TA")
    parser.add_argument("--seed", type=int, default=1111)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--patience", type=int, default=8)
    parser.add_argument("--align", type=float, default=100.0)
    parser.add_argument("--pad", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    tensors, stats = load_file(args.data), {}
    senses = args.modalities.lower()
    device, tokens = torch.device(args.device), own_tokens(args.data, args.bert)
    torch.backends.cuda.matmul.allow_tf32 = False
    train, valid, test = (Split(tensors, name, senses, stats, tokens, device) for name in ("train", "valid", "test"))
    model = Model(args.bert, args.modalities, {s: train.streams[s][0].shape[2] for s in senses[1:]}).to(device)
    plain = lambda name: name.endswith("bias") or "LayerNorm" in name
    named = list(model.bert.named_parameters())
    groups = [
        dict(params=[p for n, p in named if not plain(n)], lr=5e-5, weight_decay=1e-3),
        dict(params=[p for n, p in named if plain(n)], lr=5e-5, weight_decay=0.0),
        dict(params=list(model.streams.parameters()), lr=5e-3, weight_decay=1e-3),
        dict(params=[*model.heads.parameters(), *model.align.parameters()], lr=1e-3, weight_decay=1e-3),
    ]
    adam = torch.optim.Adam([g for g in groups if g["params"]])
    every = "m" + senses
    n, size, accumulate = len(train.labels), 16, 4
    y = {s: train.labels.clone() for s in every}
    store = {s: torch.zeros(n, POST[s], device=device) for s in every}
    centre = {s: torch.zeros(2, POST[s], device=device) for s in every}
    best = (float("inf"), 0, None)
    begun = time.time()
    for epoch in range(1, args.epochs + 1):
        model.train()
        adam.zero_grad()
        start = time.time()
        for step, rows in enumerate(torch.randperm(n).to(device).split(size), start=1):
            f, out = model(train.batch(rows, args.pad))
            loss = torch.zeros((), device=device)
            for s in every:
                w = torch.ones(len(rows), device=device) if s == "m" else torch.tanh((y[s][rows] - y["m"][rows]).abs())
                loss = loss + (w * (out[s][1] - y[s][rows]).abs()).mean()
            projected = {s: model.align[s](f[s]) for s in senses}
            for i, a in enumerate(senses):
                for b in senses[i + 1:]:
                    loss = loss + args.align * covariance_loss(projected[a], projected[b])
            loss.backward()
            star = {s: out[s][0].detach() for s in every}
            if epoch >= 2:
                alpha = {s: relative_distance(star[s], centre[s]) for s in every}
                ym = y["m"][rows]
                for s in senses:
                    ratio = alpha[s] / (alpha["m"] + 1e-8) * ym
                    new = (0.5 * ratio + 0.5 * (ym + alpha[s] - alpha["m"])).clamp(-3, 3)
                    y[s][rows] = (epoch - 1) / (epoch + 1) * y[s][rows] + 2 / (epoch + 1) * new
            for s in every:
                store[s][rows] = star[s]
                centre[s] = centre_pair(store[s], y[s], centre[s], True)
            if step % accumulate == 0:
                adam.step()
                adam.zero_grad()
        loss.item()
        trained = time.time() - start
        parts = torch.arange(len(valid.labels), device=device).split(size)
        guess = scores(model, valid, size, args.pad)
        error = float(np.mean([(guess[r] - valid.labels[r]).abs().mean().item() for r in parts]))
        mark = ""
        if error <= best[0] - 1e-6:
            best = (error, epoch, measure(scores(model, test, size, args.pad), test.labels))
            mark = " best"
        mae, corr = measure(guess, valid.labels)
        print(f"epoch {epoch:>3}  {trained:.1f} s  valid MAE {mae:.4f} Corr {corr:.4f}{mark}", flush=True)
        if epoch - best[1] >= args.patience:
            break
    if device.type == "cuda":
        print(f"at most {torch.cuda.max_memory_allocated() / 2**20:.0f} MiB")
    print(f"test MAE {best[2][0]:.4f} Corr {best[2][1]:.4f} at epoch {best[1]}; {time.time() - begun:.0f} s")


if __name__ == "__main__":
    main()
