"""MLA, CLFA and unseen modality interaction in PyTorch, over features and classes, with modalign's settings for MOSEI:
the part of `torch_models.py` whose steps are not a loss and Adam alone.

Each entry of MODELS takes columns and steps of the streams and the number of classes. The module says by `given(batch)`
what a data set would bring along with a batch, and by `optimiser()` what it learns with, at a constant rate;
`forward(batch)` is the loss to learn from. MLA takes its own steps by `learn`. No row lacks a modality, so nothing is
masked for that; modalign multiplies by what says that a modality is there.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch_models import STREAMS, SubNet, TextSubNet, attend


def inside(batch, stream):
    """Which steps of a stream are no padding, `[batch, steps]`."""
    x = batch[stream]
    return torch.arange(x.shape[1], device=x.device) < batch[f"{stream}_lengths"].to(x.device)[:, None]


def mean_inside(x, there):
    shares = there.to(x) / there.sum(1, keepdim=True)
    return (shares[:, None] @ x).squeeze(1)


class OfClasses(nn.Module):
    def given(self, batch):
        return {}


# ---------------------------------------------------------------- MLA


class Mla(OfClasses):
    """Modalities that learn by turns through one head, whose gradient is kept away from what it has read before."""

    def __init__(self, dims, steps, classes, width=128, dropout=0.2):
        super().__init__()
        self.encoders = nn.ModuleDict({
            "audio": nn.Sequential(SubNet(dims["audio"], 32, dropout), nn.Linear(32, width)),
            "vision": nn.Sequential(SubNet(dims["vision"], 128, dropout), nn.Linear(128, width)),
            "text": nn.Sequential(TextSubNet(dims["text"], 128, 128, dropout), nn.Linear(128, width)),
        })  # fmt: skip
        self.head = nn.Linear(width, classes)
        self.register_buffer("projector", torch.eye(width))

    def optimiser(self):
        # The fused kernel wants the momenta of a group to begin together.
        groups = [{"params": part.parameters()} for part in (*self.encoders.values(), self.head)]
        return torch.optim.SGD(groups, lr=1e-3, momentum=0.9, weight_decay=1e-4, fused=True)

    def learn(self, batch, optimiser, done):
        """A turn of each modality, where the share `done` of an epoch is over; the mean of their losses."""
        losses = []
        for stream, encoder in self.encoders.items():
            # Other modalities' encoders are left without gradients, so that neither momentum nor decay moves them.
            optimiser.zero_grad(set_to_none=True)
            h = encoder(batch[stream])
            loss = F.cross_entropy(self.head(h), batch["labels"])
            loss.backward()
            self.head.weight.grad = self.head.weight.grad @ self.projector
            optimiser.step()
            with torch.no_grad():
                r = h.mean(0)
                k = self.projector @ r
                self.projector -= torch.outer(k, k) / (0.1 ** (1 + done) + r @ k)
            losses.append(loss.detach())
        return torch.stack(losses).mean().item()


# ---------------------------------------------------------------- CLFA


class AskBlock(nn.Module):
    """x asks a sequence, which may be itself, with the norm behind the residual."""

    def __init__(self, width, heads, dropout):
        super().__init__()
        self.heads, self.drop = heads, nn.Dropout(dropout)
        self.query, self.key_value = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.dense, self.norm = nn.Linear(width, width), nn.LayerNorm(width, 1e-12)

    def forward(self, x, of, seen):
        p = self.drop.p if self.training else 0.0
        read = attend(self.query(x), *self.key_value(of).chunk(2, -1), self.heads, attn_mask=seen, dropout_p=p)
        return self.norm(x + self.drop(self.dense(read)))


class ClfaLayer(nn.Module):
    def __init__(self, width, heads, inner, dropout):
        super().__init__()
        self.asks = nn.ModuleDict({s: AskBlock(width, heads, dropout) for s in ("text", "vision", "audio")})
        self.net = nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width))
        self.drop, self.norm = nn.Dropout(dropout), nn.LayerNorm(width, 1e-12)

    def forward(self, t, others, seen):
        for stream, block in self.asks.items():
            t = block(t, t if stream == "text" else others[stream], seen[stream])
        return self.norm(t + self.drop(self.net(t)))


def alignment(f, guide, tau):
    scores = F.normalize(f, dim=1) @ F.normalize(guide, dim=1).T / tau
    own = torch.arange(len(f), device=f.device)
    return (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2


class Clfa(OfClasses):
    """Text that asks vision and audio. By the preset the means of text and vision as the data have them are guides."""

    def __init__(self, dims, steps, classes, width=128, hidden=256, dropout=0.1, tau=0.1):
        super().__init__()
        self.tau = tau
        mlp = lambda dim: nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, width))
        self.mlp = nn.ModuleDict({s: mlp(dims[s]) for s in STREAMS})
        # From vectors of this width to those of the guides.
        self.align = nn.ModuleDict({s: nn.Linear(width, dims[s]) for s in ("text", "vision")})
        self.layers = nn.ModuleList([ClfaLayer(width, 4, 512, dropout) for _ in range(3)])
        self.drop, self.head = nn.Dropout(dropout), nn.Linear(width, classes)

    def given(self, batch):
        return {f"guide_{s}": mean_inside(batch[s], inside(batch, s)) for s in self.align}

    def optimiser(self):
        # BERT's own Adam differs in having no correction of the bias of its moments, which is no time.
        of = lambda matrix, decay: {
            "params": [p for p in self.parameters() if (p.ndim > 1) == matrix], "weight_decay": decay
        }  # fmt: skip
        return torch.optim.AdamW([of(True, 0.01), of(False, 0.0)], lr=3e-4, eps=1e-6, fused=True)

    def forward(self, batch):
        there = {s: inside(batch, s) for s in STREAMS}
        x = {s: self.mlp[s](batch[s]) for s in STREAMS}
        seen = {s: t[:, None, None, :] for s, t in there.items()}
        off = sum(
            alignment(linear(mean_inside(x[s], there[s])), batch[f"guide_{s}"], self.tau)
            for s, linear in self.align.items()
        )  # fmt: skip
        t = x["text"]
        for layer in self.layers:
            t = layer(t, x, seen)
        return F.cross_entropy(self.head(self.drop(mean_inside(t, there["text"]))), batch["labels"]) + off


# ---------------------------------------------------------------- unseen modality interaction


class NormFirst(nn.Module):
    """A layer of a transformer with the norms before what they are for, and no bias of queries, keys and values."""

    def __init__(self, width, heads=4, inner=128):
        super().__init__()
        self.heads, self.norm_1, self.norm_2 = heads, nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.dense = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.net = nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width))

    def forward(self, x, seen=None):
        x = x + self.dense(attend(*self.qkv(self.norm_1(x)).chunk(3, -1), self.heads, attn_mask=seen))
        return x + self.net(self.norm_2(x))


class Tokens(nn.Module):
    def __init__(self, dim, steps, width):
        super().__init__()
        self.embed, self.linear = nn.Linear(dim, width, bias=False), nn.Linear(width, width)
        self.norm_in, self.norm, self.norm_out = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.position = nn.Parameter(torch.randn(steps, width))
        self.layers = nn.ModuleList([NormFirst(width) for _ in range(2)])

    def read(self, x, there):
        """What is embedded, and what the layers make of it."""
        embedded = self.embed(x)
        h = self.norm(self.linear(self.norm_in(embedded))) + self.position
        for layer in self.layers:
            h = layer(h, there[:, None, None, :])
        return embedded, self.norm_out(h)


class Alone(Tokens):
    """A model of a single modality."""

    def __init__(self, dim, steps, width, classes):
        super().__init__(dim, steps, width)
        self.head = nn.Linear(width, classes)

    def forward(self, x, there):
        return self.head(mean_inside(self.read(x, there)[1], there))


class Grid(Tokens):
    """The steps of a stream moved to places that all streams share. Padding is 0 also where it is embedded."""

    def __init__(self, dim, steps, width, places):
        super().__init__(dim, steps, width)
        self.assign = nn.Linear(width, places)
        self.moved = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.LayerNorm(width))

    def forward(self, x, there):
        embedded, h = self.read(x, there)
        return self.moved(self.assign(h).softmax(-1).transpose(1, 2) @ embedded)


class Whole(nn.Module):
    def __init__(self, dims, steps, classes, width, places):
        super().__init__()
        self.grids = nn.ModuleDict({s: Grid(dims[s], steps[s], width, places) for s in STREAMS})
        self.first = nn.Parameter(torch.randn(2, 1, width))
        self.position = nn.Parameter(torch.randn(2, places // 2 + 1, width))
        self.layers = nn.ModuleList([NormFirst(width) for _ in range(2)])
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, classes))
        self.vectors = nn.Parameter(torch.randn(classes, width))

    def forward(self, batch):
        """The scores of either half, and the mean place of each modality, `[batch, modalities, width]`."""
        grids = [grid(batch[s], inside(batch, s)) for s, grid in self.grids.items()]
        halves = sum(grids).unflatten(1, (2, -1))
        x = torch.cat([self.first.expand(len(halves), -1, -1, -1), halves], 2) + self.position
        # Each half is a sequence of its own.
        x = x.flatten(0, 1)
        for layer in self.layers:
            x = layer(x)
        return self.head(x[:, 0]).unflatten(0, (-1, 2)).unbind(1), torch.stack([grid.mean(1) for grid in grids], 1)


class Umi(OfClasses):
    """Its last stage, in which the whole learns, also from what models of single modalities had said of a row."""

    def __init__(self, dims, steps, classes, width=64, places=16):
        super().__init__()
        self.alone = nn.ModuleDict({s: Alone(dims[s], steps[s], width, classes) for s in STREAMS})
        self.whole = Whole(dims, steps, classes, width, places)
        # PyTorch's smoothing leaves a share to a row's own class, too.
        self.smoothing = 0.1 * classes / (classes - 1)

    @torch.no_grad()
    def given(self, batch):
        said = [model(batch[s], inside(batch, s)).softmax(1) for s, model in self.alone.items()]
        return {"pseudo": torch.stack(said, 1)}

    def optimiser(self):
        return torch.optim.SGD(self.whole.parameters(), lr=1e-2, momentum=0.9, weight_decay=5e-4, fused=True)

    def forward(self, batch):
        (z0, z1), means = self.whole(batch)
        labels, pseudo = batch["labels"], batch["pseudo"]
        task = F.cross_entropy(z0, labels, label_smoothing=self.smoothing)
        taught = F.kl_div(z1.log_softmax(1)[:, None].expand_as(pseudo), pseudo, reduction="batchmean")
        far = F.mse_loss(means, self.whole.vectors[labels][:, None].expand_as(means))
        return task + taught + 0.001 * far


MODELS = {"mla": Mla, "clfa": Clfa, "umi": Umi}
