#!/usr/bin/env python3
"""The defense at full scale, on a machine with a CUDA GPU that Vulkan sees too: for each case poison CIFAR-10 with `dau poison`, train
ResNet-18 (width 64) in PyTorch bf16, then `dau import`, `dau scan`, `dau unlearn`, `dau predict`, and compare with poison.csv. Every case has
a target class of its own, (seed + its place in CASES) modulo 10, so that another seed is another set of targets.

    evaluate.py --dau BINARY --data CIFAR10_FOLDER --out OUT [--cases none,wanet10,...] [--seed 7] [--deadline SECONDS]
    evaluate.py ... --limit 60 --width 8 --epochs 1 --batch 64 --jobs 1      # a dry run on a CPU
    evaluate.py --table OUT                                                  # Markdown of OUT/results.jsonl

Writes OUT/log, a line of JSON a case to OUT/results.jsonl as soon as it is known, and with --keep NAMES the networks as
OUT/NAME.npz (int8, and NAME/scale an output channel). Needs torch, numpy, pillow. Training is PyTorch's here
because it is several times faster than ours in matrix-unit precision; the defense and its figures are ours.
"""
import argparse
import csv
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

START = time.time()
CLEAN = "@none"  # stands for the unpoisoned case's checkpoint
CASES = {
    "none": None,
    "wanet10": "--attack WaNet",
    "lf10": f"--attack LF --surrogate {CLEAN}",
    "wanet05": "--attack WaNet --poison-rate .05",
    "bpp10": "--attack BPP",
    "lc05": f"--attack LC --poison-rate .05 --surrogate {CLEAN}",
    "trojannn01": f"--attack TrojanNN --poison-rate .01 --surrogate {CLEAN}",
    "ftrojan10": "--attack FTrojan",
    "sig02": "--attack SIG --poison-rate .02",
    "badnets01": "--attack BadNets --poison-rate .01",
    "blended005": "--attack Blended --poison-rate .005",
    "ctrl05": "--attack CTRL --poison-rate .05",
    "a2a10": "--attack BadNets --pattern grid --target-mode all-to-all",
    "badnets10": "--attack BadNets --pattern grid",
    "blended10": "--attack Blended",
    "wanet01": "--attack WaNet --poison-rate .01",
    "lf05": f"--attack LF --poison-rate .05 --surrogate {CLEAN}",
    "sig05": "--attack SIG --poison-rate .05",
    "blended01": "--attack Blended --poison-rate .01",
    "bpp01": "--attack BPP --poison-rate .01",
}

p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
p.add_argument("--dau")
p.add_argument("--data", help="CIFAR-10 as DIR/{train,test}/<class>/*")
p.add_argument("--out")
p.add_argument("--table", metavar="OUT", help="only print the table of an earlier OUT")
p.add_argument("--seed", type=int, default=0, help="of the poisoning, the target classes and the training")
p.add_argument("--borders", default="", help="cases that are scanned with the two other borders as well, comma-separated")
p.add_argument("--work", default="/tmp/dau-full-scale")
p.add_argument("--cases", help="comma-separated; all without. `none` comes first, since some attacks need its network")
p.add_argument("--keep", default="", help="cases whose networks are kept, comma-separated")
p.add_argument("--width", type=int, default=64)
p.add_argument("--epochs", type=int, default=18)
p.add_argument("--batch", type=int, default=512)
p.add_argument("--limit", help="images a class, for dry runs")
p.add_argument("--deadline", type=float, default=1e9, help="seconds after which no case is begun or waited for")
p.add_argument("--jobs", type=int, default=3, help="defenses at a time, beside the training")
p.add_argument("--decoders", type=int, default=12, help="processes that decode images")
p.add_argument("--dau-options", default="", help="given to scan, unlearn and predict")
args = p.parse_args()
if args.table:
    args.out = args.table
elif not (args.dau and args.data and args.out):
    p.error("--dau, --data and --out are needed, or --table")
OUT, WORK, DATA = Path(args.out), Path(args.work), Path(args.data or ".")
OUT.mkdir(parents=True, exist_ok=True)
WORK.mkdir(parents=True, exist_ok=True)
lock, clean_ready = threading.Lock(), threading.Event()
EXTRA = args.dau_options.split()
LIMIT = ["--limit-per-class", args.limit] if args.limit else []


def target(name):
    """The class that the case's triggered images are to be taken for."""
    return (args.seed + list(CASES).index(name)) % 10


def aim(name, true):
    """What triggered images of class `true` (a number, or an array of numbers) are to be taken for."""
    return (true + 1) % 10 if name.startswith("a2a") else target(name) + 0 * true


def percent(hits):
    hits = list(map(bool, hits))
    return 100 * sum(hits) / max(1, len(hits))


def elapsed():
    return time.time() - START


def say(*words):
    with lock, open(OUT / "log", "a") as log:
        for to in (None, log):
            print(f"{elapsed():6.1f}", *words, file=to, flush=True)


def dau(*words, timeout=300):
    start = time.time()
    done = subprocess.run([args.dau, *map(str, words)], capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise RuntimeError(f"dau {words[0]}: exit code {done.returncode}: {done.stderr.strip()[-300:]}")
    return time.time() - start


def decode(paths):
    import numpy as np
    from PIL import Image

    return np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])


def images(root, decoders):
    import numpy as np

    classes = sorted(os.listdir(root))
    files = [(str(Path(root) / c / f), i) for i, c in enumerate(classes) for f in sorted(os.listdir(Path(root) / c))]
    paths = [path for path, _ in files]
    chunks = [paths[i : i + 500] for i in range(0, len(paths), 500)]
    return np.concatenate(list(decoders.map(decode, chunks))), np.array([label for _, label in files]), classes


def poison(name):
    """The folder of the case's poisoned images."""
    words = CASES[name]
    if words is None:
        return DATA
    if CLEAN in words:
        clean_ready.wait()
        words = words.replace(CLEAN, str(WORK / "none.safetensors"))
    aimed = ["--seed", args.seed] if name.startswith("a2a") else ["--seed", args.seed, "--target", target(name)]
    seconds = dau("poison", "--dataset", "CIFAR-10", "--data", DATA, "--out", WORK / f"images-{name}", *words.split(), *aimed, *LIMIT)
    say("poisoned", name, f"{seconds:.1f} s")
    return WORK / f"images-{name}"


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def place(path):
    return path[path.find("train/") :] if "train/" in path else "train/" + path


def scan(name, checkpoint, folder, border):
    """Scans; returns the folder of its findings and what there is to tell."""
    out, limit = WORK / f"scan-{name}-{border}", LIMIT if name == "none" else []
    data = ["--dataset", "CIFAR-10", "--data", folder]
    seconds = dau("scan", "--checkpoint", checkpoint, *data, "--border", border, "--out", out, *EXTRA, *limit)
    flagged = {place(row["path"]) for row in rows(out / "suspects.csv") if row["verdict"] not in ("clean", "")}
    told = {"seconds": seconds, "flagged": len(flagged), "classes": sorted({path.split("/")[1] for path in flagged})}
    if name != "none":
        poisoned = {row["path"] for row in rows(folder / "poison.csv") if row["role"] == "poisoned"}
        told |= {"poison": len(poisoned), "hit": len(flagged & poisoned)}
    return out, told


def after(name, checkpoint, folder):
    """The figures of a defended network, in percent."""
    names, found = sorted(os.listdir(folder / "test")), {}
    for what in ("test", "triggered"):
        table = WORK / f"{name}-{what}.csv"
        dau("predict", "--checkpoint", checkpoint, "--images", folder / what, "--out", table, *EXTRA)
        number = lambda label: int(label) if label.isdigit() else names.index(label)
        called = [(names.index(Path(row["path"]).parent.name), number(row["label"])) for row in rows(table)]
        if what == "test":
            found["acc_after"] = percent(a == b for a, b in called)
            found["t_after"] = percent(a == b for a, b in called if a == target(name))
        else:
            found["asr_after"] = percent(aim(name, a) == b for a, b in called)
            found["ra_after"] = percent(a == b for a, b in called)
    return found


def defend(name, folder, state_dict, found):
    """Import, scan, unlearn and test; adds to `found` and writes it."""
    checkpoint, unlearned = WORK / f"{name}.safetensors", WORK / f"unlearn-{name}"
    try:
        dau("import", state_dict, "--model", "resnet18", "--dataset", "CIFAR-10", "--out", checkpoint)
        if name == "none":
            clean_ready.set()
        findings, told = scan(name, checkpoint, folder, "features")
        found |= {"features": told, "verdict": (findings / "verdict.txt").read_text()}
        if told["flagged"] and name != "none":
            data = ["--dataset", "CIFAR-10", "--data", folder]
            suspects = findings / "suspects.csv"
            found["unlearn_seconds"] = dau("unlearn", "--checkpoint", checkpoint, "--suspects", suspects, *data, "--out", unlearned, *EXTRA)
            found |= after(name, unlearned / "defended.safetensors", folder)
    except Exception as e:  # noqa: BLE001: one case must not end the others
        found["error"] = repr(e)[:500]
    write("results.jsonl", found)
    say("defended", name, {k: round(v, 2) if isinstance(v, float) else v for k, v in found.items() if k != "verdict"})


def compare(name, border):
    """Scans with another border; once all cases are defended."""
    told = {"name": name, "border": border}
    try:
        told |= scan(name, WORK / f"{name}.safetensors", WORK / f"images-{name}", border)[1]
    except Exception as e:  # noqa: BLE001
        told["error"] = repr(e)[:500]
    write("borders.jsonl", told)
    say(told)


def write(file, found):
    with lock, open(OUT / file, "a") as out:
        out.write(json.dumps(found) + "\n")


def table():
    """Markdown of the cases."""
    print("| case, target | ACC/ASR/RA/T before | poison | flagged | right | P / R | ACC/ASR/RA/T after | DER |\n|---|---|---|---|---|---|---|---|")
    four = lambda f, end: "/".join(f"{f[k + end]:.1f}" if k + end in f else "-" for k in ("acc", "asr", "ra", "t"))
    for found in map(json.loads, (OUT / "results.jsonl").read_text().splitlines()):
        told = found.get("features", {})
        poison, flagged, hit = (told.get(k, 0) for k in ("poison", "flagged", "hit"))
        right = f"{100 * hit / max(flagged, 1):.1f} / {100 * hit / max(poison, 1):.1f}" if poison else "-"
        der = ""
        if "asr" in found:
            asr, acc = found.get("asr_after", found["asr"]), found.get("acc_after", found["acc"])
            der = f"{(max(0, found['asr'] - asr) - max(0, found['acc'] - acc) + 100) / 2:.1f}"
        print(f"| {found['name']}, {target(found['name'])} | {four(found, '')} | {poison} | {flagged} | {hit} | {right} | {four(found, '_after')} | {der} |")


def main():
    import numpy as np
    import torch
    from torch.nn import functional as F

    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "golden"))
    from networks import build

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cudnn.benchmark = True

    mean = torch.tensor([0.4914, 0.4822, 0.4465], device=device).view(1, 3, 1, 1)
    std = torch.tensor([0.2470, 0.2430, 0.2610], device=device).view(1, 3, 1, 1)
    upload = lambda pixels: torch.tensor(pixels).permute(0, 3, 1, 2).to(device)

    def train(pixels, labels):
        torch.manual_seed(args.seed)
        net = build("resnet18", args.width, 10, 32).to(device, memory_format=torch.channels_last)
        n, batch = len(labels), min(args.batch, len(labels))
        steps = args.epochs * (n // batch)
        weights = [w for w in net.parameters() if w.ndim > 1]
        others = [w for w in net.parameters() if w.ndim <= 1]
        groups = [{"params": weights, "weight_decay": 5e-4}, {"params": others, "weight_decay": 0}]
        sgd = torch.optim.SGD(groups, lr=0.2, momentum=0.9, nesterov=True)
        one_cycle = torch.optim.lr_scheduler.OneCycleLR(
            sgd, 0.4, total_steps=steps + 1, pct_start=0.25, anneal_strategy="linear", div_factor=10, final_div_factor=1e3
        )
        padded = F.pad((pixels.float() / 255 - mean) / std, (4, 4, 4, 4))
        padded = padded.half() if device == "cuda" else padded
        at = torch.arange(32, device=device)
        for _ in range(args.epochs):
            order = torch.randperm(n, device=device)
            for k in range(n // batch):
                i = order[k * batch : (k + 1) * batch]
                dy, dx = (torch.randint(0, 9, (batch, 1), device=device) for _ in range(2))
                flip = torch.rand(batch, 1, device=device) < 0.5
                rows_, columns = at + dy, torch.where(flip, 31 - at, at) + dx
                x = padded[i[:, None, None], :, rows_[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
                with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
                    logits = net(x.contiguous(memory_format=torch.channels_last))
                loss = F.cross_entropy(logits.float(), labels[i])
                sgd.zero_grad(set_to_none=True)
                loss.backward()
                sgd.step()
                one_cycle.step()
        return net.eval(), float(loss.detach())

    @torch.inference_mode()
    def classes_of(net, pixels):
        parts = [(pixels[k : k + 1000].float() / 255 - mean) / std for k in range(0, len(pixels), 1000)]
        return torch.cat([net(x.contiguous(memory_format=torch.channels_last)).argmax(1) for x in parts])

    def packed(net):
        out = {}
        for key, value in net.state_dict().items():
            value = value.detach().float().cpu().numpy()
            if value.ndim >= 2:
                scale = np.abs(value).reshape(len(value), -1).max(1).clip(1e-12) / 127
                out[key + "/scale"] = scale.astype(np.float32)
                value = np.round(value / scale.reshape(-1, *[1] * (value.ndim - 1))).astype(np.int8)
            out[key] = value
        return out

    names = args.cases.split(",") if args.cases else list(CASES)
    decoders, poisoners = ProcessPoolExecutor(args.decoders), ThreadPoolExecutor(3)
    readers, defenses = ThreadPoolExecutor(1), ThreadPoolExecutor(args.jobs)
    folders = {name: poisoners.submit(poison, name) for name in names}
    read = lambda n: images(folders[n].result() / "train", decoders)
    coming = {names[0]: readers.submit(read, names[0])}
    pixels, labels, _ = images(DATA / "test", decoders)
    test, truth = upload(pixels), torch.tensor(labels).to(device)
    running = []
    for k, name in enumerate(names):
        if elapsed() > args.deadline - 75:
            say("no time for", name)
            continue
        pixels, labels, classes = coming.pop(name).result()
        if k + 1 < len(names):
            coming[names[k + 1]] = readers.submit(read, names[k + 1])
        if args.limit and name == "none":
            few = np.concatenate([np.where(labels == c)[0][: int(args.limit)] for c in range(10)])
            pixels, labels = pixels[few], labels[few]
        folder, start = folders[name].result(), time.time()
        net, loss = train(upload(pixels), torch.tensor(labels).to(device))
        called = classes_of(net, test)
        found = {"name": name, "train_seconds": time.time() - start, "loss": loss, "acc": percent((called == truth).tolist())}
        found["t"] = percent((called == truth)[truth == target(name)].tolist())
        if name != "none":
            pixels, labels, present = images(folder / "triggered", decoders)
            true = torch.tensor([classes.index(present[y]) for y in labels]).to(device)
            called = classes_of(net, upload(pixels))
            found |= {"asr": percent((called == aim(name, true)).tolist()), "ra": percent((called == true).tolist())}
        say("trained", found)
        state_dict = WORK / f"{name}.pt"
        torch.save({key: value.cpu().contiguous() for key, value in net.state_dict().items()}, state_dict)
        running.append(defenses.submit(defend, name, folder, state_dict, found))
        if name in args.keep.split(","):
            np.savez_compressed(OUT / f"{name}.npz", **packed(net))
    names = [name for name in args.borders.split(",") if name and elapsed() < args.deadline]
    running += [defenses.submit(compare, name, border) for name in names for border in ("classifier", "images")]
    for future in running:
        try:
            future.result(timeout=max(1, args.deadline - elapsed()))
        except Exception as e:  # noqa: BLE001
            say("unfinished:", repr(e)[:200])
    say("end")
    os._exit(0)


if __name__ == "__main__":
    table() if args.table else main()
