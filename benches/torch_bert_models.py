"""MAG-BERT and CENET in PyTorch, with MMSA's settings for MOSEI, inside a BERT of any size: the part of
`torch_models.py` that reads sentences. The BERT is a plain module of the shape of `transformers`' BertModel, so that
nothing has to be installed for it; its weights are random, which costs a step as much."""

import torch
import torch.nn.functional as F
from torch import nn
from torch_models import OfTask


class BertLayer(nn.Module):
    def __init__(self, c):
        super().__init__()
        size, inner, eps = c["hidden_size"], c["intermediate_size"], c["layer_norm_eps"]
        self.heads, self.drop = c["num_attention_heads"], nn.Dropout(c["hidden_dropout_prob"])
        self.of_weights = c["attention_probs_dropout_prob"]
        self.query, self.key, self.value = nn.Linear(size, size), nn.Linear(size, size), nn.Linear(size, size)
        self.dense, self.norm1 = nn.Linear(size, size), nn.LayerNorm(size, eps)
        self.intermediate, self.output = nn.Linear(size, inner), nn.Linear(inner, size)
        self.norm2 = nn.LayerNorm(size, eps)

    def forward(self, x, seen):
        split = lambda y: y.unflatten(2, (self.heads, -1)).transpose(1, 2)
        q, k, v = split(self.query(x)), split(self.key(x)), split(self.value(x))
        p = self.of_weights if self.training else 0.0
        read = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, dropout_p=p).transpose(1, 2).flatten(2)
        x = self.norm1(x + self.drop(self.dense(read)))
        return self.norm2(x + self.drop(self.output(F.gelu(self.intermediate(x)))))


class Embeddings(nn.Module):
    def __init__(self, c):
        super().__init__()
        size = c["hidden_size"]
        self.word = nn.Embedding(c["vocab_size"], size, padding_idx=0)
        self.position = nn.Embedding(c["max_position_embeddings"], size)
        self.segment = nn.Embedding(c["type_vocab_size"], size)
        self.norm, self.drop = nn.LayerNorm(size, c["layer_norm_eps"]), nn.Dropout(c["hidden_dropout_prob"])

    def forward(self, ids):
        place = torch.arange(ids.shape[1])
        return self.drop(self.norm(self.word(ids) + self.position(place) + self.segment(torch.zeros_like(ids))))


class InBert(OfTask):
    """What goes into layer `at` of the BERT is changed by `change`."""

    at = 0

    def __init__(self, c):
        super().__init__()
        self.embeddings = Embeddings(c)
        self.layers = nn.ModuleList([BertLayer(c) for _ in range(c["num_hidden_layers"])])
        self.drop = nn.Dropout(c["hidden_dropout_prob"])

    def first(self, batch):
        """The last state of position 0."""
        x, seen = self.embeddings(batch["ids"]), batch["inside"][:, None, None, :]
        for i, layer in enumerate(self.layers):
            x = layer(self.change(x, batch) if i == self.at else x, seen)
        return x[:, 0]


class BertMag(InBert):
    def __init__(self, dims, steps, c):
        super().__init__(c)
        size, audio, vision = c["hidden_size"], dims["audio"], dims["vision"]
        self.W_hv, self.W_ha = nn.Linear(vision + size, size), nn.Linear(audio + size, size)
        self.W_v, self.W_a = nn.Linear(vision, size), nn.Linear(audio, size)
        self.LayerNorm, self.moved = nn.LayerNorm(size), nn.Dropout(0.2)
        self.pooler, self.classifier = nn.Linear(size, size), nn.Linear(size, 1)

    def change(self, t, batch):
        v, a = batch["vision"], batch["audio"]
        gate_v, gate_a = F.relu(self.W_hv(torch.cat([v, t], -1))), F.relu(self.W_ha(torch.cat([a, t], -1)))
        h = gate_v * self.W_v(v) + gate_a * self.W_a(a)
        length = h.norm(dim=-1)
        length = torch.where(length == 0, torch.ones_like(length), length)
        alpha = torch.clamp(t.norm(dim=-1) / (length + 1e-6), max=1.0)
        return self.moved(self.LayerNorm(alpha[..., None] * h + t))

    def score(self, batch):
        return self.classifier(self.drop(torch.tanh(self.pooler(self.first(batch)))))


class Cenet(InBert):
    at = 1

    def __init__(self, dims, steps, c):
        super().__init__(c)
        size = c["hidden_size"]
        self.embeddings.requires_grad_(False)
        self.transform = nn.ModuleDict({
            s: nn.Sequential(nn.Linear(dims[s], size), nn.ReLU(), nn.Linear(size, size)) for s in ("vision", "audio")
        })  # fmt: skip
        asks = lambda: nn.ModuleDict({part: nn.Linear(size, size) for part in "qkv"})
        self.asking = nn.ModuleDict({"vision": asks(), "audio": asks()})
        self.cat_connect = nn.Linear(2 * size, size)
        self.dense, self.out_proj = nn.Linear(size, size), nn.Linear(size, 1)

    def change(self, t, batch):
        found = []
        for s, ask in self.asking.items():
            x = self.transform[s](batch[s])
            # Scores are multiplied by 8, and padded steps are asked as well.
            found.append(F.scaled_dot_product_attention(ask["q"](t), ask["k"](x), ask["v"](x), scale=8.0))
        return t + self.cat_connect(torch.cat(found, -1))

    def score(self, batch):
        return self.out_proj(self.drop(torch.tanh(self.dense(self.drop(self.first(batch))))))


MODELS = {"bert_mag": BertMag, "cenet": Cenet}
