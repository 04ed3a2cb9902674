"""The models in PyTorch, as one writes them there, with MMSA's settings for MOSEI: what `models.py` times beside
modalign. They compute what MMSA computes, also what nothing reads afterwards: padding, other positions of last layers.

Each entry of MODELS takes columns and steps of the streams, and gives a module whose `forward(batch)` is the loss to
learn from.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

STREAMS = ("text", "audio", "vision")


class OfTask(nn.Module):
    """A model of one score, whose loss is its distance from the label."""

    def __init__(self, distance=F.l1_loss):
        super().__init__()
        self.distance = distance

    def forward(self, batch):
        return self.distance(self.score(batch).squeeze(1), batch["labels"])


# ---------------------------------------------------------------- of features


class EfLstm(OfTask):
    def __init__(self, dims, steps):
        super().__init__()
        self.norm = nn.BatchNorm1d(steps["text"])
        self.lstm = nn.LSTM(sum(dims.values()), 256, num_layers=2, dropout=0.4, batch_first=True)
        self.linear, self.out, self.dropout = nn.Linear(256, 256), nn.Linear(256, 1), nn.Dropout(0.4)

    def score(self, batch):
        x = self.norm(torch.cat([batch[s] for s in STREAMS], -1))
        h = self.lstm(x)[1][0][-1]
        return self.out(self.dropout(F.relu(self.linear(self.dropout(h)))))


class SubNet(nn.Module):
    def __init__(self, dim, hidden, dropout):
        super().__init__()
        self.norm, self.drop = nn.BatchNorm1d(dim), nn.Dropout(dropout)
        self.linear_1, self.linear_2 = nn.Linear(dim, hidden), nn.Linear(hidden, hidden)
        self.linear_3 = nn.Linear(hidden, hidden)

    def forward(self, x):
        x = self.drop(self.norm(x.mean(1)))
        return F.relu(self.linear_3(F.relu(self.linear_2(F.relu(self.linear_1(x))))))


class TextSubNet(nn.Module):
    def __init__(self, dim, hidden, out, dropout):
        super().__init__()
        self.rnn, self.dropout = nn.LSTM(dim, hidden, batch_first=True), nn.Dropout(dropout)
        self.linear_1 = nn.Linear(hidden, out)

    def forward(self, x):
        return self.linear_1(self.dropout(self.rnn(x)[1][0][-1]))


class ThreeNets(OfTask):
    def __init__(self, dims, hidden, text_out, dropout):
        super().__init__()
        text, audio, vision = hidden
        self.audio_subnet = SubNet(dims["audio"], audio, dropout)
        self.video_subnet = SubNet(dims["vision"], vision, dropout)
        self.text_subnet = TextSubNet(dims["text"], text, text_out, dropout)

    def parts(self, batch):
        return self.audio_subnet(batch["audio"]), self.video_subnet(batch["vision"]), self.text_subnet(batch["text"])


def fusion(inputs, size, dropout):
    layers = nn.Linear(inputs, size), nn.ReLU(), nn.Linear(size, size), nn.ReLU(), nn.Linear(size, 1)
    return nn.Sequential(nn.Dropout(dropout), *layers)


def with_one(x):
    return torch.cat([x.new_ones(len(x), 1), x], 1)


class LfDnn(ThreeNets):
    def __init__(self, dims, steps):
        super().__init__(dims, (128, 32, 128), 128, 0.2)
        self.post_fusion = fusion(32 + 128 + 128, 128, 0.2)

    def score(self, batch):
        return self.post_fusion(torch.cat(self.parts(batch), 1))


class Tfn(ThreeNets):
    def __init__(self, dims, steps):
        super().__init__(dims, (128, 16, 128), 128, 0.4)
        self.post_fusion = fusion(17 * 129 * 129, 16, 0.4)

    def score(self, batch):
        a, v, t = map(with_one, self.parts(batch))
        z = torch.bmm(a.unsqueeze(2), v.unsqueeze(1)).flatten(1)
        z = torch.bmm(z.unsqueeze(2), t.unsqueeze(1)).flatten(1)
        return torch.sigmoid(self.post_fusion(z)) * 6 - 3


class Lmf(ThreeNets):
    def __init__(self, dims, steps):
        super().__init__(dims, (128, 16, 128), 64, 0.2)
        rank = 4
        factor = lambda size: nn.Parameter(torch.randn(rank, size + 1, 1) * (2 / (rank + size + 1)) ** 0.5)
        self.audio_factor, self.video_factor, self.text_factor = factor(16), factor(128), factor(64)
        self.fusion_weights = nn.Parameter(torch.randn(1, rank) * (2 / (1 + rank)) ** 0.5)
        self.fusion_bias = nn.Parameter(torch.zeros(1, 1))

    def score(self, batch):
        a, v, t = map(with_one, self.parts(batch))
        z = (a @ self.audio_factor) * (v @ self.video_factor) * (t @ self.text_factor)
        return (self.fusion_weights @ z.permute(1, 0, 2)).squeeze(1) + self.fusion_bias


def two_layers(inputs, inner, outputs, dropout):
    return nn.Sequential(nn.Linear(inputs, inner), nn.ReLU(), nn.Dropout(dropout), nn.Linear(inner, outputs))


class Mfn(OfTask):
    def __init__(self, dims, steps):
        super().__init__()
        self.hidden, self.memory = {"text": 128, "audio": 32, "vision": 128}, 128
        self.lstm = nn.ModuleDict({s: nn.LSTMCell(dims[s], self.hidden[s]) for s in STREAMS})
        cells, memory = sum(self.hidden.values()), self.memory
        self.att1 = two_layers(2 * cells, 128, 2 * cells, 0.2)
        self.att2 = two_layers(2 * cells, 128, memory, 0.5)
        self.gamma1 = two_layers(2 * cells + memory, 256, memory, 0.7)
        self.gamma2 = two_layers(2 * cells + memory, 256, memory, 0.0)
        self.out = two_layers(cells + memory, 128, 1, 0.5)

    def score(self, batch):
        x = {s: batch[s].transpose(0, 1) for s in STREAMS}
        state = {s: [x[s].new_zeros(x[s].shape[1], n)] * 2 for s, n in self.hidden.items()}
        memory = x["text"].new_zeros(x["text"].shape[1], self.memory)
        for t in range(len(x["text"])):
            before = [state[s][1] for s in STREAMS]
            state = {s: self.lstm[s](x[s][t], state[s]) for s in STREAMS}
            cells = torch.cat(before + [state[s][1] for s in STREAMS], 1)
            seen = torch.softmax(self.att1(cells), 1) * cells
            both = torch.cat([seen, memory], 1)
            keep, add = torch.sigmoid(self.gamma1(both)), torch.sigmoid(self.gamma2(both))
            memory = keep * memory + add * torch.tanh(self.att2(seen))
        return self.out(torch.cat([state[s][0] for s in STREAMS] + [memory], 1))


# ---------------------------------------------------------------- MulT


class Place(nn.Module):
    """Scaled rows with the sines and cosines of their positions, of none where channel 0 is 0."""

    def __init__(self, width, most):
        super().__init__()
        half = width // 2
        angle = torch.arange(most + 1)[:, None] * torch.exp(-math.log(1e4) / (half - 1) * torch.arange(half))
        table = torch.cat([angle.sin(), angle.cos()], 1)
        table[0] = 0
        self.register_buffer("table", table, persistent=False)

    def forward(self, x):
        index = torch.arange(1, x.shape[1] + 1) * (x[..., 0] != 0)
        return math.sqrt(x.shape[2]) * x + self.table[index]


class CrossLayer(nn.Module):
    def __init__(self, width, heads, dropout):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.layer_norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])

    def forward(self, x, kv, hidden):
        asked = self.layer_norms[0](x)
        known = asked if kv is None else self.layer_norms[0](kv)
        x = x + self.self_attn(asked, known, known, attn_mask=hidden, need_weights=False)[0]
        return x + self.fc2(F.relu(self.fc1(self.layer_norms[1](x))))


class CrossEncoder(nn.Module):
    def __init__(self, width, dropout, most):
        super().__init__()
        self.place = Place(width, most)
        self.layers = nn.ModuleList([CrossLayer(width, 6, dropout) for _ in range(4)])
        self.layer_norm = nn.LayerNorm(width)

    def forward(self, x, kv=None):
        x, kv = self.place(x), None if kv is None else self.place(kv)
        queries, keys = x.shape[1], (x if kv is None else kv).shape[1]
        hidden = torch.ones(queries, keys, dtype=torch.bool).triu(1 + abs(keys - queries))
        for layer in self.layers:
            x = layer(x, kv, hidden)
        return self.layer_norm(x)


class MulT(OfTask):
    def __init__(self, dims, steps):
        super().__init__()
        width, taps = 30, {"text": 5, "audio": 1, "vision": 3}
        dropout, most = {"text": 0.4, "audio": 0.0, "vision": 0.0}, max(steps.values())
        self.proj = nn.ModuleDict({s: nn.Conv1d(dims[s], width, taps[s], bias=False) for s in STREAMS})
        pairs = [(s, o) for s in STREAMS for o in STREAMS if o != s]
        self.cross = nn.ModuleDict({s + o: CrossEncoder(width, dropout[o], most) for s, o in pairs})
        self.mem = nn.ModuleDict({s: CrossEncoder(2 * width, dropout["text"], most) for s in STREAMS})
        self.proj1, self.proj2 = nn.Linear(6 * width, 6 * width), nn.Linear(6 * width, 6 * width)
        self.out_layer, self.text_drop, self.out_drop = nn.Linear(6 * width, 1), nn.Dropout(0.3), nn.Dropout(0.5)

    def score(self, batch):
        x = {**batch, "text": self.text_drop(batch["text"])}
        x = {s: self.proj[s](x[s].transpose(1, 2)).transpose(1, 2) for s in STREAMS}
        last = []
        for s in STREAMS:
            heard = [self.cross[s + o](x[s], x[o]) for o in STREAMS if o != s]
            last.append(self.mem[s](torch.cat(heard, -1))[:, -1])
        h = torch.cat(last, 1)
        return self.out_layer(self.proj2(self.out_drop(F.relu(self.proj1(h)))) + h)


# ---------------------------------------------------------------- MISA


def difference(x, y):
    def prepared(z):
        z = z - z.mean(0)
        return z / (z.detach().norm(dim=1, keepdim=True) + 1e-6)

    return (prepared(x).T @ prepared(y)).square().mean()


def moments(x, y):
    distance = (x.mean(0) - y.mean(0)).norm()
    x, y = x - x.mean(0), y - y.mean(0)
    return distance + sum(((x**k).mean(0) - (y**k).mean(0)).norm() for k in range(2, 6))


class Misa(nn.Module):
    def __init__(self, dims, steps):
        super().__init__()
        size, dim = 128, {"v": dims["vision"], "a": dims["audio"]}
        both_ways = lambda inputs, hidden: nn.LSTM(inputs, hidden, bidirectional=True, batch_first=True)
        of = lambda make, keys="tva": nn.ModuleDict({m: make(m) for m in keys})
        self.rnn1 = of(lambda m: both_ways(dim[m], dim[m]), "va")
        self.rnn2 = of(lambda m: both_ways(2 * dim[m], dim[m]), "va")
        self.layer_norm = of(lambda m: nn.LayerNorm(2 * dim[m]), "va")
        wide = {"t": dims["text"], "v": 4 * dim["v"], "a": 4 * dim["a"]}
        self.project = of(lambda m: nn.Sequential(nn.Linear(wide[m], size), nn.ReLU(), nn.LayerNorm(size)))
        self.private, self.shared = of(lambda m: nn.Linear(size, size)), nn.Linear(size, size)
        self.recon = of(lambda m: nn.Linear(size, size))
        self.attention = nn.TransformerEncoderLayer(size, 2, 2048, dropout=0.1, batch_first=True)
        self.fusion = nn.Sequential(
            nn.Linear(6 * size, 3 * size), nn.Dropout(0.5), nn.ReLU(), nn.Linear(3 * size, 1)
        )  # fmt: skip
        # MMSA has these, too, and no loss reaches them.
        self.sp_discriminator, self.tlayer_norm = nn.Linear(size, 4), nn.LayerNorm(2 * dims["text"])
        self.sp_discriminator.requires_grad_(False), self.tlayer_norm.requires_grad_(False)

    def summary(self, m, x, lengths):
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        states, (first, _) = self.rnn1[m](packed)
        normed = self.layer_norm[m](pad_packed_sequence(states, batch_first=True)[0])
        packed = pack_padded_sequence(normed, lengths, batch_first=True, enforce_sorted=False)
        second = self.rnn2[m](packed)[1][0]
        return torch.cat([first[0], second[0], first[1], second[1]], 1)

    def forward(self, batch):
        inside = (torch.arange(batch["text"].shape[1], device="cpu") < batch["text_lengths"][:, None]).to(batch["text"])
        u = {
            "t": (batch["text"] * inside[..., None]).sum(1) / inside.sum(1, keepdim=True),
            "v": self.summary("v", batch["vision"], batch["vision_lengths"]),
            "a": self.summary("a", batch["audio"], batch["audio_lengths"]),
        }
        o = {m: self.project[m](u[m]) for m in "tva"}
        p = {m: torch.sigmoid(self.private[m](o[m])) for m in "tva"}
        s = {m: torch.sigmoid(self.shared(o[m])) for m in "tva"}
        x = torch.stack([*p.values(), *s.values()], 1)
        score = self.fusion(self.attention(x).flatten(1)).squeeze(1)
        diff = sum(difference(p[m], s[m]) for m in "tva") + sum(difference(p[m], p[n]) for m, n in ("at", "av", "tv"))
        sim = sum(moments(s[m], s[n]) for m, n in ("tv", "ta", "av")) / 3
        recon = sum(F.mse_loss(self.recon[m](p[m] + s[m]), o[m]) for m in "tva") / 3
        return F.mse_loss(score, batch["labels"]) + 0.3 * diff + 0.8 * sim + recon


# ---------------------------------------------------------------- ALMT


def attend(q, k, v, heads, **how):
    split = lambda x: x.unflatten(2, (heads, -1)).transpose(1, 2)
    return F.scaled_dot_product_attention(split(q), split(k), split(v), **how).transpose(1, 2).flatten(2)


class AskLayer(nn.Module):
    """x asks what it is given, under norms of its own for query, key and value."""

    def __init__(self, width=128, heads=8, head=64):
        super().__init__()
        self.heads, linear = heads, lambda: nn.Linear(width, heads * head, bias=False)
        self.norm_q, self.norm_k, self.norm_v = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_q, self.to_k, self.to_v = linear(), linear(), linear()
        self.to_out, self.norm = nn.Linear(heads * head, width), nn.LayerNorm(width)
        self.net = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, x, of):
        read = attend(self.to_q(self.norm_q(x)), self.to_k(self.norm_k(of)), self.to_v(self.norm_v(of)), self.heads)
        x = x + self.to_out(read)
        return x + self.net(self.norm(x))


class HyperLayer(nn.Module):
    def __init__(self, width=128, heads=8):
        super().__init__()
        self.heads, linear = heads, lambda: nn.Linear(width, width, bias=False)
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(4)])
        self.to_q, self.to_out = linear(), nn.Linear(width, width)
        self.to_k, self.to_v = nn.ModuleList([linear(), linear()]), nn.ModuleList([linear(), linear()])

    def forward(self, *all):
        t, a, v, hyper = (norm(x) for norm, x in zip(self.norms, all))
        q, pairs = self.to_q(t), zip((a, v), self.to_k, self.to_v)
        return hyper + self.to_out(sum(attend(q, to_k(x), to_v(x), self.heads) for x, to_k, to_v in pairs))


class Embedding(nn.Module):
    def __init__(self, dim, steps, width=128, tokens=8):
        super().__init__()
        self.linear, self.layer, self.tokens = nn.Linear(dim, width), AskLayer(), tokens
        self.pos_embedding = nn.Parameter(torch.randn(1, tokens + steps, width))
        self.extra_token = nn.Parameter(torch.zeros(1, tokens, width))

    def forward(self, x):
        x = torch.cat([self.extra_token.expand(len(x), -1, -1), self.linear(x)], 1) + self.pos_embedding
        return self.layer(x, x)[:, : self.tokens]


class Almt(OfTask):
    def __init__(self, dims, steps):
        super().__init__(F.mse_loss)
        table = lambda rows: nn.Parameter(torch.randn(1, rows, 128))
        self.embedding = nn.ModuleDict({s: Embedding(dims[s], steps[s]) for s in STREAMS})
        self.h_hyper, self.text_positions = nn.Parameter(torch.ones(1, 8, 128)), table(8)
        self.text_layers = nn.ModuleList([AskLayer() for _ in range(2)])
        self.hyper_layers = nn.ModuleList([HyperLayer() for _ in range(3)])
        self.source_positions, self.target_positions = table(9), table(9)
        self.extra_token = nn.Parameter(torch.zeros(1, 1, 128))
        self.fusion_layers = nn.ModuleList([AskLayer() for _ in range(4)])
        self.regression_head = nn.Linear(128, 1)

    def score(self, batch):
        text, audio, vision = (self.embedding[s](batch[s]) for s in STREAMS)
        text = text + self.text_positions
        hyper = self.h_hyper.expand(len(text), -1, -1)
        for i, layer in enumerate(self.hyper_layers):
            text = self.text_layers[i - 1](text, text) if i else text
            hyper = layer(text, audio, vision, hyper)
        extra = self.extra_token.expand(len(text), -1, -1)
        source = torch.cat([extra, hyper], 1) + self.source_positions
        x = torch.cat([extra, text], 1) + self.target_positions
        for layer in self.fusion_layers:
            x = layer(x, source)
        return self.regression_head(x[:, 0])


class Mmcl(nn.Module):
    """MMCL, as this house reconstructs it: coding by two views, prediction, contrast by row and by sentiment."""

    def __init__(self, dims, steps, width=64, tau=0.5):
        super().__init__()
        two = lambda inputs, out: nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, out))
        self.tau, self.senses, hidden = tau, ("audio", "vision"), {"audio": 16, "vision": 32}
        self.text = nn.Linear(dims["text"], width)
        self.rnn = nn.ModuleDict({s: nn.LSTM(dims[s], hidden[s], batch_first=True) for s in self.senses})
        self.encode = nn.ModuleDict({s: nn.Linear(hidden[s], width) for s in self.senses})
        self.code = nn.ModuleDict({s: two(width, width) for s in self.senses})
        self.predict = nn.ModuleDict({s: two(width, width) for s in self.senses})
        self.fuse = two(5 * width, 1)

    def encoded(self, s, x, lengths):
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return self.encode[s](self.rnn[s](packed)[1][0][-1])

    @staticmethod
    def view(x, lengths):
        """Without a run of steps, without some channels, with noise."""
        n, steps, channels = x.shape
        at = torch.arange(steps)[None]
        valid = at < lengths[:, None]
        run = torch.ceil(0.15 * lengths)
        first = torch.floor(torch.rand(n) * (lengths - run + 1))
        kept = (at < first[:, None]) | (at >= (first + run)[:, None])
        kept = kept[..., None] & (torch.rand(n, 1, channels) >= 0.1)
        deviation = x[valid].std(0, unbiased=False)
        return (x * kept + 0.05 * deviation * torch.randn_like(x)) * valid[..., None]

    def forward(self, batch):
        text = self.text(batch["text"][:, 0])
        label = batch["labels"]
        n = len(label)
        own, made, loss = [], [], 0
        alike = (label[:, None].sign() == label.sign()) & (label != 0) & ~torch.eye(n, dtype=torch.bool)
        others = (label != 0)[None] & ~torch.eye(n, dtype=torch.bool)
        for s in self.senses:
            x, lengths = batch[s], batch[f"{s}_lengths"]
            there = lengths.to(x.device)
            all_rows = torch.cat([x, self.view(x, there), self.view(x, there)])
            h = self.encoded(s, all_rows, lengths.repeat(3))
            z = F.normalize(self.code[s](h[n:]), dim=1)
            logits = (z @ z.T / self.tau).masked_fill(torch.eye(2 * n, dtype=torch.bool), -1e30)
            loss = loss + 0.1 * F.cross_entropy(logits, (torch.arange(2 * n) + n) % (2 * n))
            p = self.predict[s](text)
            unit = F.normalize(p, dim=1)
            loss = loss + 0.1 * F.cross_entropy(unit @ F.normalize(h[:n], dim=1).T / self.tau, torch.arange(n))
            log = (unit @ unit.T / self.tau).masked_fill(~others, -1e30).log_softmax(1)
            count = alike.sum(1)
            each = -(log * alike).sum(1) / count.clamp(min=1)
            loss = loss + 0.1 * each.sum() / (count > 0).sum().clamp(min=1)
            own.append(h[:n])
            made.append(p)
        return loss + F.l1_loss(self.fuse(torch.cat([text, *own, *made], 1)).squeeze(1), label)


MODELS = {
    "ef_lstm": EfLstm, "lf_dnn": LfDnn, "tfn": Tfn, "lmf": Lmf, "mfn": Mfn, "mult": MulT, "misa": Misa, "almt": Almt,
    "mmcl": Mmcl,
}  # fmt: skip
