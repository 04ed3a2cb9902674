"""Times a training step of every model in modalign and in PyTorch, in turns, over the same data.

    cargo build --release
    pip install torch numpy safetensors
    python benches/models.py                              every model, three turns
    python benches/models.py --only mult,almt --turns 1   some of them, shortly
    python benches/models.py --markdown                   the table for a document; --json has every repeat and kernel
    python benches/models.py --check                      parameters and dispatches alone, nothing is timed

The data have the shapes of MMSA's MOSEI files and random contents: text of 50 steps of 768 features, audio of 500 of
74, vision of 375 of 35, or 50 steps of each where a model wants aligned data. Settings are MMSA's for MOSEI, with
batches of 32 and an optimiser step after each. MAG-BERT and CENET read sentences of about 20 tokens through a BERT of
MiniLM's size; PyTorch pads them to 50, as MMSA's files have them, and modalign packs them. Self-MM reads one step of
the text. MLA, CLFA and unseen modality interaction (umi), which MMSA has not, learn two classes at modalign's settings.

A step is forward, backward and Adam; of umi it is one of its last stage, by SGD, and of MLA a turn of each modality, by
SGD as well. modalign's is what `modalign profile` replays whole: it also uploads the batch.
PyTorch's begins with a batch that is there (Self-MM's picks its rows). A turn is a call of `modalign profile`, then as
many steps in PyTorch; the first has one step, which tells how many the others may have. PyTorch's median is that of all
its steps, modalign's that of its turns' medians. For figures to quote let nothing else run.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

sys.path[:0] = [str(Path(__file__).resolve().parent / "peers")]
import torch_bert_models  # noqa: E402
import torch_models  # noqa: E402
import torch_peer  # noqa: E402
import torch_systems  # noqa: E402

BATCH, ROWS = 32, 64
STREAMS = ("text", "audio", "vision")
STEPS = {"unaligned": (50, 500, 375), "aligned": (50, 50, 50), "classes": (50, 500, 375)}
DIMS, CLASSES = (768, 74, 35), 2
# The data that a model reads, and whether through a BERT.
FORMS = {
    "self_mm": "unaligned", "ef_lstm": "aligned", "lf_dnn": "unaligned", "tfn": "unaligned", "lmf": "unaligned",
    "mfn": "aligned", "mult": "unaligned", "misa": "unaligned", "almt": "unaligned", "mmcl": "unaligned",
    "bert_mag": "aligned", "cenet": "unaligned", "mla": "classes", "clfa": "classes", "umi": "classes",
}  # fmt: skip
# These gradients are limited before a step, as MMSA or CLFA has it.
CLIP = {
    "mult": lambda p: torch.nn.utils.clip_grad_value_(p, 0.6),
    "misa": lambda p: torch.nn.utils.clip_grad_value_(p, 0.8),
    "cenet": lambda p: torch.nn.utils.clip_grad_norm_(p, 2.0),
    "clfa": lambda p: torch.nn.utils.clip_grad_norm_(p, 1.0),
}
SENTENCE = 50


class Modalign:
    """The built program, and the data that it makes."""

    def __init__(self, program, folder):
        if not Path(program).is_file():
            how = "build it (cargo build --release) or name it by --modalign"
            raise SystemExit(f"models: no program at {program}: {how}")
        self.program, self.folder, self.encoder = str(program), Path(folder), Path(folder) / "bert"
        for form in STEPS:
            if not self.data(form).is_file():
                self.make(form)
        self.trainable = {m["name"]: m["parameters"]["mosei"] for m in self.ask("models")}

    def data(self, form):
        return self.folder / f"{form}.safetensors"

    def make(self, form):
        shape = lambda dim, steps: f"dim={dim},steps={steps},min_steps=50"
        shapes = [f"--{s}={shape(*of)}" for s, *of in zip(STREAMS, DIMS, STEPS[form])]
        size = ["--train", str(ROWS), "--valid", "4", "--test", "4"]
        size += ["--classes", str(CLASSES)] if form == "classes" else []
        self.run("synth", "--out", self.data(form), *size, *shapes, "--encoder", self.encoder, "--encoder-size", "mini")

    def run(self, *args):
        done = subprocess.run([self.program, "--quiet", *map(str, args)], capture_output=True, text=True)
        if done.returncode:
            said = done.stderr.strip().splitlines()
            raise SystemExit(f"models: modalign {args[0]} failed: {said[-1] if said else done.returncode}")
        return done.stdout

    def ask(self, *args):
        return json.loads(self.run("--json", *args))

    def settings(self, name):
        bert = ["--bert", self.encoder] if name in torch_bert_models.MODELS else []
        sets = ["--set", f"train.batch_size={BATCH}", "--set", "train.accumulate=1"]
        return ["--model", name, "--preset", "mosei", *bert, *sets]

    def plan(self, name):
        return self.ask("inspect", self.data(FORMS[name]), "--plan", *self.settings(name))

    def profile(self, name, steps):
        return self.ask("profile", "--data", self.data(FORMS[name]), "--steps", steps, *self.settings(name))


class Torch:
    """A model with its batches."""

    def __init__(self, name, modalign, device):
        torch.manual_seed(1111)
        file = modalign.data(FORMS[name])
        if name == "self_mm":
            self.self_mm(file)
            return
        # Also what a model makes within a step, positions for instance, is to lie there.
        torch.set_default_device(device)
        values, tokens = load_file(file), {}
        dims = {s: values[f"train.{s}"].shape[2] for s in STREAMS}
        steps = {s: values[f"train.{s}"].shape[1] for s in STREAMS}
        if name in torch_bert_models.MODELS:
            config = json.loads((modalign.encoder / "config.json").read_text())
            self.module = torch_bert_models.MODELS[name](dims, steps, config)
            tokens = sentences(file.with_suffix(".json"), modalign.encoder / "vocab.txt")
        elif name in torch_systems.MODELS:
            self.module = torch_systems.MODELS[name](dims, steps, CLASSES)
        else:
            self.module = torch_models.MODELS[name](dims, steps)
        classes = FORMS[name] == "classes"
        labels = values["train.class_labels"].long() if classes else values["train.regression_labels"]
        fields = {**{s: values[f"train.{s}"] for s in STREAMS}, "labels": labels, **tokens}
        fields = {k: v.to(device) for k, v in fields.items()}
        # Packing wants lengths on the host.
        fields |= {f"{s}_lengths": values[f"train.{s}_lengths"].long() for s in STREAMS}
        self.batches = [{k: v[i : i + BATCH] for k, v in fields.items()} for i in range(0, ROWS, BATCH)]
        trained = [p for p in self.module.parameters() if p.requires_grad]
        if name in torch_systems.MODELS:
            self.optimiser = self.module.optimiser()
            for batch in self.batches:
                batch |= self.module.given(batch)
        else:
            kind = torch.optim.AdamW if name == "almt" else torch.optim.Adam
            self.optimiser = kind(trained, lr=1e-4, weight_decay=1e-4, fused=True)
        clip = CLIP.get(name, lambda p: None)

        def step(i):
            at = i % len(self.batches)
            if name == "mla":
                return self.module.learn(self.batches[at], self.optimiser, at / len(self.batches))
            self.optimiser.zero_grad()
            loss = self.module(self.batches[at])
            loss.backward()
            clip(trained)
            self.optimiser.step()
            return loss.item()

        self.step = step

    def self_mm(self, file):
        """The peers' Self-MM, with labels generated as from the second epoch on. Of the text it reads one step."""
        sizes = {"audio": 16, "video": 32}
        trainer = torch_peer.Trainer(
            file.resolve(), sizes, {"text": DIMS[0], **sizes}, text_lstm=False, accumulate=1,
            groups=lambda model: torch_peer.adam(model.parameters()), align=100.0, standardize=False, ragged=True,
        )  # fmt: skip
        trainer.x["text"] = trainer.x["text"][:, :1].clone()
        rows = torch.arange(ROWS).split(BATCH)
        self.module, self.step = trainer.model, lambda i: trainer.step(rows[i % len(rows)], 2)

    def counts(self):
        """Parameters that are trained, and all numbers that a model keeps."""
        parameters = list(self.module.parameters())
        kept = sum(b.numel() for name, b in self.module.named_buffers() if name.endswith(("_mean", "_var")))
        return sum(p.numel() for p in parameters if p.requires_grad), sum(p.numel() for p in parameters) + kept

    def time(self, steps):
        """Milliseconds of each step; the two before do not count."""
        times = []
        for i in range(steps + 2):
            begun = time.perf_counter()
            loss = self.step(i)
            times.append((time.perf_counter() - begun) * 1e3)
            if loss != loss:
                raise SystemExit(f"models: the loss of PyTorch's {type(self.module).__name__} is not a number")
        return times[2:]


def sentences(file, vocabulary):
    """The training texts as word pieces, padded to 50 as MMSA's files have them."""
    pieces = {word: i for i, word in enumerate(vocabulary.read_text().splitlines())}
    ids = torch.zeros(ROWS, SENTENCE, dtype=torch.long)
    for row, text in enumerate(json.loads(file.read_text())["train"]["raw_text"]):
        words = ["[CLS]", *text.replace(",", " ,").split()[: SENTENCE - 2], "[SEP]"]
        ids[row, : len(words)] = torch.tensor([pieces.get(word, pieces["[UNK]"]) for word in words])
    return {"ids": ids, "inside": ids != 0}


def row(name, modalign, device):
    """What can be said of a model without timing it."""
    plan, model = modalign.plan(name), Torch(name, modalign, device)
    trained, kept = model.counts()
    # Of a model inside a BERT the list of models counts what is not the BERT's, at another width; it has umi with a
    # number for a target. All that umi keeps is trained.
    otherwise = name == "umi" or name in torch_bert_models.MODELS
    same = kept == plan["parameters"] and (otherwise or trained == modalign.trainable[name])
    form = FORMS[name] + (", BERT" if name in torch_bert_models.MODELS else "")
    counts = {"kept": plan["parameters"], "trainable": modalign.trainable[name]}
    return {
        "model": name, "form": form, "dispatches": len(plan["dispatches"]), "parameters": trained, "same": same,
        "modalign_counts": counts, "torch_counts": {"kept": kept, "trainable": trained}, "profiles": [], "torch_ms": [],
    }, model  # fmt: skip


def turn(row, model, modalign, steps):
    """Times both sides, and gives the medians of this turn."""
    row["profiles"].append(modalign.profile(row["model"], steps))
    row["torch_ms"].append(model.time(steps))
    return row["profiles"][-1]["step_ms"], statistics.median(row["torch_ms"][-1])


def summary(row):
    steps, torch_ms = [p["step_ms"] for p in row["profiles"]], [t for turn in row["torch_ms"] for t in turn]
    row["modalign_ms"] = [statistics.median(steps), min(p["fastest_ms"] for p in row["profiles"])]
    row["torch_median_fastest_ms"] = [statistics.median(torch_ms), min(torch_ms)]
    row["ratio"] = row["modalign_ms"][0] / row["torch_median_fastest_ms"][0]
    row["steps"] = len(torch_ms)
    longest = row["profiles"][-1]["rows"][:2]
    row["longest"] = ", ".join(f"{r['name']} {r['share']:.0%}".replace("%", " %") for r in longest)


HEAD = [
    "model", "data", "dispatches", "parameters", "modalign ms", "fastest", "PyTorch ms", "fastest", "ratio",
    "longest kernels",
]  # fmt: skip


def cells(row):
    digits = lambda ms: f"{ms:,.0f}" if ms >= 100 else f"{ms:.1f}"
    counts = row["modalign_counts"], row["torch_counts"]
    parameters = f"{row['parameters']:,}" if row["same"] else f"DIFFER: {counts[0]} and {counts[1]}"
    known = [row["model"], row["form"], str(row["dispatches"]), parameters]
    if "ratio" not in row:
        return known
    times = [digits(ms) for ms in row["modalign_ms"] + row["torch_median_fastest_ms"]]
    return known + times + [f"{row['ratio']:.2f}", row["longest"]]


def show(rows, markdown):
    lines = [cells(r) for r in rows]
    lines.insert(0, HEAD[: len(lines[0])])
    if markdown:
        lines.insert(1, ["---"] * len(lines[0]))
        print(*(f"| {' | '.join(line)} |" for line in lines), sep="\n")
        return
    widths = [max(map(len, column)) for column in zip(*lines)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())


def chosen(names):
    unknown = [name for name in names if name not in FORMS]
    if unknown:
        raise SystemExit(f"models: no model {unknown[0]}: there are {', '.join(FORMS)}")
    return names or list(FORMS)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parent.parent
    parser.add_argument("--modalign", type=Path, default=root / "target" / "release" / "modalign", help="the program")
    parser.add_argument("--only", default="", help="models by name, with commas between")
    parser.add_argument("--turns", type=int, default=3, help="how often each side is timed")
    parser.add_argument("--seconds", type=float, default=5.0, help="about what the counted steps of a turn may take")
    parser.add_argument("--device", default="cpu", help="PyTorch's device: cpu, or cuda for all but Self-MM")
    parser.add_argument("--threads", type=int, default=2, help="PyTorch's threads")
    parser.add_argument("--folder", type=Path, help="keep the data here, and use what is there")
    parser.add_argument("--check", action="store_true", help="count, and time nothing")
    parser.add_argument("--markdown", action="store_true", help="the table as Markdown")
    parser.add_argument("--json", action="store_true", help="everything as JSON instead of a table")
    args = parser.parse_args()
    names = chosen([name for name in args.only.split(",") if name])
    if args.device != "cpu":
        # gpu.sh times Self-MM there. Both sides compute in full f32.
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        names = [name for name in names if name != "self_mm"]
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        modalign = Modalign(args.modalign, folder)
        pairs = [row(name, modalign, args.device) for name in names]
        steps = {}
        for number in range(0 if args.check else args.turns):
            for r, model in pairs:
                name = r["model"]
                ours, theirs = turn(r, model, modalign, steps.get(name, 1))
                said = f"{name}: modalign {ours:,.1f} ms, PyTorch {theirs:,.1f} ms"
                print(f"turn {number + 1} of {args.turns}, {said}", file=sys.stderr, flush=True)
                # The first turn, of one step, tells how many there may be.
                steps[name] = max(1, min(30, int(args.seconds * 1e3 / max(ours, theirs))))
        rows = [r for r, _ in pairs]
        if not args.check:
            for r in rows:
                summary(r)
    known = next((r["profiles"][0] for r in rows if r["profiles"]), None)
    card = None if args.device == "cpu" else torch.cuda.get_device_name()
    machine = {
        "torch": torch.__version__, "threads": torch.get_num_threads(), "cores": os.cpu_count(), "card": card,
        "processor": platform.processor() or platform.machine(),
        "adapter": known and known["adapter"], "driver": known and known["driver"],
    }  # fmt: skip
    if args.json:
        print(json.dumps({"machine": machine, "batch": BATCH, "rows": rows}, indent=1))
        return
    show(rows, args.markdown)
    where = f"modalign on {machine['adapter']}; " if known else ""
    there = card or f"the CPU, {machine['threads']} threads"
    print(f"\n{where}PyTorch {machine['torch']} on {there}; batches of {BATCH}; "
          "ms are medians, ratios modalign's by PyTorch's.")  # fmt: skip


if __name__ == "__main__":
    main()
