"""The PyTorch side of gpu.sh: the same work in PyTorch, in turns with the built modalign; and the table.

    python benches/gpu_torch.py --modalign PATH --out torch.json [--seconds S] [--rounds N] [--limit S]
    python benches/gpu_torch.py --table gpu.json

fp32 without TF32 (WGSL has no matrix units), eager, fused Adam, cuDNN's LSTM. Steps are timed as a training
takes them, one after the other without a wait in between; products on the device, by events. Work that has no
size here takes that of benches/peers. `GPU_DEVICE=cpu` tries all of it without a GPU.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
MATMULS = [(1024, 1024, 1024), (1600, 768, 768), (32, 768, 3072)]
# How the shape of what is compared begins in modalign's suite, and its name in the table.
STEPS = [
    ("LSTM", "LSTM training step, 32 × 50 × 74 → 32"),
    ("encoder layer, 32 × 50 tokens, d = 384", "encoder layer step, 32 × 50 tokens, d = 384"),
    ("encoder layer, 32 × 50 tokens, d = 768", "encoder layer step, 32 × 50 tokens, d = 768"),
    ("Adam", "Adam, 22 million parameters"),
    ("Self-MM", "Self-MM step, batch 16, audio 500, vision 375"),
]
# Figures by their published names, and what adapters of that kind call themselves.
KINDS = [
    ("NVIDIA H100 PCIe", ["h100 pcie"]),
    ("NVIDIA H100 SXM", ["h100"]),
    ("NVIDIA H200", ["h200"]),
    ("NVIDIA RTX 4060 Laptop", ["4060 laptop"]),
    ("Apple M2 (10 cores)", ["apple m2"]),
    ("Apple M3 Pro (18 cores)", ["apple m3 pro"]),
    ("AMD Radeon 780M", ["780m"]),
    ("Intel Arc 140V", ["140v"]),
    ("Intel Iris Xe (96 EU)", ["iris"]),
]


def report(path, value):
    """Replaces the file in one step, so that what was measured survives a kill."""
    other = Path(str(path) + ".part")
    other.write_text(json.dumps(value, indent=1, ensure_ascii=False))
    os.replace(other, path)


class Timer:
    """Milliseconds of steps on a device."""

    def __init__(self, torch, device, seconds):
        self.torch, self.device, self.seconds = torch, device, seconds

    def wait(self):
        if self.device == "cuda":
            self.torch.cuda.synchronize()

    def row(self, step, count):
        self.wait()
        begun = time.perf_counter()
        for _ in range(count):
            step()
        self.wait()
        return (time.perf_counter() - begun) * 1e3 / count

    def times(self, step):
        self.row(step, 1)
        if (one := self.row(step, 1)) > 1e3:  # a CPU
            return {"streamed": one, "waited": one}
        one = self.row(step, 5)
        count = max(5, min(256, int(self.seconds * 250 / max(one, 1e-3))))
        streamed = [self.row(step, count) for _ in range(3)]
        waited = [self.row(step, 1) for _ in range(min(20, count))]
        return {"streamed": statistics.median(streamed), "waited": statistics.median(waited)}

    def device_times(self, step):
        """Of short work the device's time alone, by events around many."""
        if self.device != "cuda":
            return self.times(step)["streamed"]
        for _ in range(5):
            step()
        times = []
        for _ in range(5):
            first, last = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
            first.record()
            for _ in range(20):
                step()
            last.record()
            self.wait()
            times.append(first.elapsed_time(last) / 20)
        return statistics.median(times)


def items(torch, device):
    """What is timed, each made when it is asked for: a function that takes a step."""
    from torch import nn
    from torch.nn.functional import l1_loss, mse_loss

    sys.path.insert(0, str(HERE / "peers"))
    import torch_peer as peer

    def put(value):
        return value.to(device)

    def training(model, loss):
        optimiser = peer.adam(model.parameters())

        def step():
            optimiser.zero_grad()
            loss().backward()
            optimiser.step()

        return step

    def matmul(m, k, n):
        a, b = put(peer.noise("a", m, k)), put(peer.noise("b", k, n))
        return lambda: a @ b

    def lstm():
        model = put(peer.LstmModel(74, 32))
        x, target = put(peer.noise("x", 32, 50, 74)), put(peer.noise("target", 32, 1))
        return training(model, lambda: l1_loss(model(x), target))

    def layer(d):
        model = put(
            nn.TransformerEncoderLayer(
                d, d // 64, 4 * d, dropout=0.0, activation="gelu", layer_norm_eps=1e-12, batch_first=True
            )
        )
        x, target = put(peer.noise("x", 32, 50, d)), put(peer.noise("target", 32, 50, d))
        return training(model, lambda: mse_loss(model(x), target))

    def adam():
        params = [nn.Parameter(put(peer.noise(f"p{i}", 1000, 1000))) for i in range(22)]
        for i, p in enumerate(params):
            p.grad = put(peer.noise(f"g{i}", 1000, 1000))
        return peer.adam(params).step

    def self_mm():
        return SelfMm(torch, peer, device, (500, 5), (375, 20), rows=1284, ragged=False).step

    table = {f"{m} × {k} × {n}": lambda m=m, k=k, n=n: matmul(m, k, n) for m, k, n in MATMULS}
    steps = [lstm, lambda: layer(384), lambda: layer(768), adam, self_mm]
    table.update({name: make for (_, name), make in zip(STEPS, steps)})
    return table


class SelfMm:
    """A training step of the three-modality model with label generation, all of it on the device: nothing of a
    step waits for a number from there. Data lie there, too."""

    def __init__(self, torch, peer, device, audio, vision, rows, ragged):
        hidden = {"audio": 16, "video": 32}
        widths = {"audio": audio[1], "video": vision[1]}
        self.torch, self.peer, self.rows, self.ragged = torch, peer, rows, ragged
        self.model = peer.SelfMm(widths, hidden, {"text": 768, **hidden}, text_lstm=False).to(device)
        self.optimiser = peer.adam(self.model.parameters())
        random = lambda *shape: torch.rand(*shape, device=device) * 2 - 1
        self.x = {"text": random(rows, 1, 768), "audio": random(rows, *audio), "video": random(rows, *vision)}
        steps = {"audio": audio[0], "video": vision[0]}
        # cuDNN wants lengths on the host.
        self.lengths = {s: torch.randint(n // 4, n + 1, (rows,)) for s, n in steps.items()}
        labels = random(rows) * 3
        self.tasks = list(peer.SelfMm.POST)
        self.y = {s: labels.clone() for s in self.tasks}
        sizes = peer.SelfMm.POST
        self.store = {s: torch.zeros(rows, n, device=device) for s, n in sizes.items()}
        self.centres = {s: torch.zeros(2, n, device=device) for s, n in sizes.items()}
        self.done, self.device = 0, device

    def step(self):
        torch = self.torch
        first = self.done * 16 % (self.rows - 15)
        self.done += 1
        host = torch.arange(first, first + 16)
        rows = host.to(self.device, non_blocking=True)
        lengths = {s: n[host] if self.ragged else None for s, n in self.lengths.items()}
        self.optimiser.zero_grad()
        f, feature, score = self.model({s: (x[rows], lengths.get(s)) for s, x in self.x.items()})
        y = {s: self.y[s][rows] for s in self.tasks}
        loss = (score["fusion"] - y["fusion"]).abs().mean()
        for s in self.tasks[1:]:
            w = torch.tanh((y[s] - y["fusion"]).abs())
            loss = loss + (w * (score[s] - y[s]).abs()).mean()
        c = {s: self.peer.covariance(getattr(self.model, f"align_{s}")(f[s])) for s in self.model.SENSES}
        for a, b in (("text", "audio"), ("text", "video"), ("audio", "video")):
            loss = loss + 100.0 * (c[a] - c[b]).square().sum() / (4 * 16**2)
        loss.backward()
        with torch.no_grad():
            self.generate(rows, feature, y)
        self.optimiser.step()

    def generate(self, rows, feature, y, epoch=2):
        torch, alpha = self.torch, {}
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
                count = side.sum()
                mean = side.to(self.store[s].dtype) @ self.store[s] / count.clamp(min=1)
                self.centres[s][i] = torch.where(count > 0, mean, self.centres[s][i])


def fine_tuning(torch, device, tokens):
    """A step of a BERT-base with one linear layer on position 0, over 16 sentences of equal length."""
    from torch import nn

    length, d = max(1, round(tokens / 16)), 768

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.word, self.position = nn.Embedding(30522, d), nn.Embedding(512, d)
            self.segment, self.norm = nn.Embedding(2, d), nn.LayerNorm(d, 1e-12)
            layer = nn.TransformerEncoderLayer(
                d, 12, 4 * d, dropout=0.1, activation="gelu", layer_norm_eps=1e-12, batch_first=True
            )
            self.drop = nn.Dropout(0.1)
            self.layers = nn.TransformerEncoder(layer, 12, enable_nested_tensor=False)
            self.head = nn.Linear(d, 1)

        def forward(self, ids):
            at = torch.arange(ids.shape[1], device=ids.device)
            x = self.word(ids) + self.position(at) + self.segment.weight[0]
            return self.head(self.layers(self.drop(self.norm(x)))[:, 0])

    model = Model().to(device)
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-5, fused=True)
    ids = torch.randint(1000, 30000, (16, length), device=device)
    target = torch.rand(16, 1, device=device)

    def step():
        optimiser.zero_grad()
        (model(ids) - target).abs().mean().backward()
        optimiser.step()

    return step


def bench(modalign, words, seconds, limit):
    """Rows of `modalign bench`."""
    command = [modalign, "bench", *words, "--seconds", str(seconds), "--json", "--quiet"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    if run.returncode != 0:
        raise RuntimeError(run.stderr.strip().splitlines()[-1] if run.stderr.strip() else "bench failed")
    return json.loads(run.stdout)["results"]


def read(path):
    try:
        return json.loads(Path(path).read_text())
    except (OSError, TypeError, ValueError):
        return {}


def main(options):
    found = {"torch": None, "device": None, "work": {}, "errors": []}
    deadline = time.monotonic() + options.limit
    left = lambda: max(1.0, deadline - time.monotonic())
    device, make = os.environ.get("GPU_DEVICE", "cuda"), {}
    try:
        import torch

        if device == "cuda" and not torch.cuda.is_available():
            raise RuntimeError("PyTorch sees no CUDA device")
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        torch.manual_seed(1111)
        found["torch"] = torch.__version__
        found["device"] = torch.cuda.get_device_name() if device == "cuda" else "CPU"
        make = items(torch, device)
        timer = Timer(torch, device, options.seconds)
    except Exception as error:  # Without PyTorch modalign's half is still worth having.
        found["errors"].append(f"PyTorch: {type(error).__name__}: {error}")
    work = found["work"]

    def add(name, who, values):
        entry = work.setdefault(name, {"modalign": {}, "torch": {}})
        for kind, ms in values.items():
            if ms is not None:
                entry[who].setdefault(kind, []).append(ms)

    def attempt(what, body):
        if options.only and not any(part in what for part in options.only):
            return
        if time.monotonic() > deadline:
            found["errors"].append(f"{what}: no time was left")
            return
        try:
            body()
        except Exception as error:
            found["errors"].append(f"{what}: {type(error).__name__}: {error}")
        report(options.out, found)

    def ours_steps():
        for shape, name in STEPS:
            rows = bench(options.modalign, ["step", "--shape", shape], options.seconds, left())
            for row in (r for r in rows if r["kernel"] == "whole" and r["shape"].startswith(shape)):
                ours = {"waited": row["end_to_end"]["median_ms"], "device sum": row["device"]["median_ms"]}
                for key, kind in (("streamed", "streamed"), ("span", "device")):
                    ours[kind] = row[key]["median_ms"] if row.get(key) else None
                add(name, "modalign", ours)
                work[name]["predicted"] = row["predicted_ms"]

    def ours_matmul(shape):
        for row in bench(options.modalign, ["matmul", "--shape", shape], options.seconds, left()):
            if row["part"] == "forward" and row["shape"] == shape:
                add(shape, "modalign", {"device": row["device"]["median_ms"]})

    def theirs(name):
        # Made anew each time, and dropped, so that one item's memory is not the next one's.
        step = make[name]()
        if name in shapes:
            add(name, "torch", {"device": timer.device_times(step)})
        else:
            add(name, "torch", timer.times(step))

    shapes = [f"{m} × {k} × {n}" for m, k, n in MATMULS]
    for _ in range(options.rounds):
        attempt("modalign step", ours_steps)
        for name in [name for name in make if name not in shapes]:
            attempt(f"PyTorch {name}", lambda: theirs(name))
        for shape in shapes:
            attempt(f"modalign {shape}", lambda: ours_matmul(shape))
            if shape in make:
                attempt(f"PyTorch {shape}", lambda: theirs(shape))

    profiled = read(options.bert)
    if make and profiled.get("token_rows"):
        name = f"fine-tuning step, BERT-base, {profiled['token_rows']} tokens"

        def tuned():
            step = fine_tuning(torch, device, profiled["token_rows"])
            add(name, "torch", timer.times(step))
            add(name, "modalign", {"waited": profiled["step_ms"]})

        attempt(f"PyTorch {name}", tuned)
    epoch = read(options.epoch)
    if make and epoch.get("seconds"):
        name = f"epoch of a MOSEI-shaped set, {epoch['rows']} rows"

        def epochs():
            model = SelfMm(torch, peer_of(), device, (500, 74), (500, 35), epoch["rows"], ragged=True)
            batches = epoch["rows"] // 16
            row = min(batches, 40)
            timer.row(model.step, 5)
            add(name, "torch", {"streamed": timer.row(model.step, row) * batches})
            add(name, "modalign", {"streamed": min(epoch["seconds"]) * 1e3})

        attempt(f"PyTorch {name}", epochs)
    report(options.out, found)
    return 0 if work else 1


def peer_of():
    import torch_peer

    return torch_peer


def kind_of(adapter):
    low = (adapter or "").lower()
    return next((name for name, words in KINDS if any(word in low for word in words)), None)


def ms(value):
    if value is None:
        return ""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}" if value < 10 else f"{value:.1f}"


def table(path):
    """The table of ratios of a gpu.json."""
    parts = read(path).get("parts", {})
    result = lambda name: (parts.get(name) or {}).get("result") or {}
    chosen = [a for a in result("devices").get("adapters", []) if a.get("chosen")]
    adapter = chosen[0]["name"] if chosen else "an unknown adapter"
    compared = result("compare")
    kind = kind_of(adapter)
    rows = [["work", "modalign ms", "PyTorch ms", "PyTorch / modalign", "predicted ms"]]

    def row(name, ours, theirs, predicted=None):
        ratio = f"{theirs / ours:.2f}" if ours and theirs else ""
        rows.append([name, ms(ours), ms(theirs), ratio, ms(predicted)])

    def predicted(name, key):
        found = [p for p in result(name).get("predictions", []) if p["device"] == kind]
        return found[0][key] * 1e3 if found else None

    middle = lambda values: statistics.median(values) if values else None
    for name, entry in compared.get("work", {}).items():
        ours, theirs = entry["modalign"], entry["torch"]
        same = next((k for k in ("streamed", "device", "waited") if ours.get(k) and theirs.get(k)), None)
        same = same or next((k for k in ("streamed", "device", "waited") if ours.get(k) or theirs.get(k)), None)
        foretold = entry.get("predicted", {}).get(kind)
        if name.startswith("fine-tuning"):
            foretold = predicted("predict_bert", "step")
        if same:
            row(name, middle(ours.get(same)), middle(theirs.get(same)), foretold)
    default = result("profile_default")
    if default:
        row("Self-MM step of the profile", default["step_ms"], None, predicted("predict_default", "step"))
    if result("profile_bert") and not any(r[0].startswith("fine-tuning") for r in rows):
        row("fine-tuning step, BERT-base", result("profile_bert")["step_ms"], None, predicted("predict_bert", "step"))
    print(f"{adapter}; PyTorch {compared.get('torch') or 'is not there'} ({compared.get('device')}), fp32 without TF32")
    print(f"predictions: {kind or 'no published figures of this adapter'}, by `modalign profile --predict`\n")
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    for i, cells in enumerate(rows):
        line = [cells[0].ljust(widths[0])] + [c.rjust(w) for c, w in zip(cells[1:], widths[1:])]
        print("  ".join(line).rstrip())
        if i == 0:
            print("  ".join("-" * w for w in widths))
    # Each once, although it was tried in every round.
    errors = list(dict.fromkeys(compared.get("errors", [])))
    late = [error.split(":")[0] for error in errors if error.endswith("no time was left")]
    for error in errors:
        if not error.endswith("no time was left"):
            print(f"not measured: {error}")
    if late:
        print(f"not measured, for want of time: {'; '.join(late)}")
    tested = result("selftest")
    if tested:
        verdict = "all well" if tested["passed"] else f"{tested['failed']} FAILED"
        print(f"\nselftest: {tested['cases']} cases in {tested['seconds']:.0f} s: {verdict}")
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--modalign", default="modalign")
    parser.add_argument("--out", default="torch.json")
    parser.add_argument("--seconds", type=float, default=0.3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=float, default=150)
    parser.add_argument("--only", nargs="*", help="only work whose name contains one of these")
    parser.add_argument("--bert", help="what `modalign profile --json` said of a BERT-base step")
    parser.add_argument("--epoch", help='{"rows": N, "seconds": [...]} of a MOSEI-shaped set')
    parser.add_argument("--table", metavar="GPU_JSON", help="only print the table of a report")
    given = parser.parse_args()
    sys.exit(table(given.table) if given.table else main(given))
