"""Anti-Backdoor Learning in PyTorch, on a folder that `dau poison` wrote: the figures that `dau run --defense abl` is compared with.

    dau poison --dataset digits --attack BadNets --seed 0 --out SET
    python benches/peers/abl.py SET datasets/digits.toml --width 16 --seed 0

Written from the paper's formulas (Li et al. 2021) and the settings of src/defenses/abl.rs, with initial values as in src/nn/init.rs (under batch norm
the size of a kernel sets how far a step goes): flooding at .5 for 10 epochs without augmentation
from fresh weights, the 1 % of least loss isolated, the network trained on the rest as the victim is, then 40 steps of gradient ascent
on the isolated images at 5e-4, without augmentation. SGD with Nesterov momentum .9; a cosine schedule in the first two, as dau has it, a
constant rate in the last, as the authors' code has it. Prints one row of a Markdown table.
"""

import argparse
import csv
import math
import sys
import tomllib
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import cross_entropy, pad

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "golden"))
from networks import build  # noqa: E402


def images(folder, classes):
    """Images [N, S, S, 3], the class of each by its folder, and paths."""
    pixels, labels, paths = [], [], []
    for label, name in enumerate(classes):
        for path in sorted((folder / name).glob("*")):
            pixels.append(np.asarray(Image.open(path).convert("RGB")))
            labels.append(label)
            paths.append(f"{folder.name}/{name}/{path.name}")
    return torch.tensor(np.stack(pixels)), torch.tensor(labels), paths


def augmented(x, crop, flip, rng):
    if crop:
        size = x.shape[-1]
        x = pad(x, (crop,) * 4)
        at = torch.randint(0, 2 * crop + 1, (len(x), 2), generator=rng)
        x = torch.stack([image[:, i : i + size, j : j + size] for image, (i, j) in zip(x, at.tolist())])
    if flip:
        turn = torch.rand(len(x), generator=rng) < 0.5
        x[turn] = x[turn].flip(-1)
    return x


class Lab:
    def __init__(self, spec, seed):
        # What a data set does not have otherwise is as in src/experiment/training.rs.
        self.options, self.rng = {"weight_decay": 5e-4, **spec["options"]}, torch.Generator().manual_seed(seed)
        self.mean, self.std = (torch.tensor(spec[key]).view(3, 1, 1) for key in ("mean", "std"))

    def prepare(self, x):
        return (x.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std

    def train(self, model, x, y, epochs, lr, loss_of, augment, constant=False):
        batch = self.options["batch"]
        decay = self.options["weight_decay"]
        optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9, nesterov=True, weight_decay=decay)
        steps, step = epochs * math.ceil(len(x) / batch), 0
        model.train()
        for _ in range(epochs):
            for part in torch.randperm(len(x), generator=self.rng).split(batch):
                for group in optimizer.param_groups:
                    group["lr"] = lr if constant else lr * (1 + math.cos(math.pi * step / steps)) / 2
                given = self.prepare(x[part])
                if augment:
                    given = augmented(given, self.options["crop_pad"], self.options["flip"], self.rng)
                optimizer.zero_grad()
                loss_of(cross_entropy(model(given), y[part])).backward()
                optimizer.step()
                step += 1

    @torch.no_grad()
    def logits(self, model, x):
        model.eval()
        return torch.cat([model(self.prepare(part)) for part in x.split(250)])


def main():
    args = argparse.ArgumentParser()
    args.add_argument("set", type=Path)
    args.add_argument("dataset", type=Path)
    args.add_argument("--width", type=int, default=16)
    args.add_argument("--seed", type=int, default=0)
    args.add_argument("--target", type=int, default=0)
    args = args.parse_args()
    torch.manual_seed(args.seed)
    spec = tomllib.loads(args.dataset.read_text())
    lab = Lab(spec, args.seed)
    classes = sorted(folder.name for folder in (args.set / "train").iterdir())
    x, y, paths = images(args.set / "train", classes)
    clean, clean_y, _ = images(args.set / "test", classes)
    marked, marked_y, _ = images(args.set / "triggered", classes)
    with open(args.set / "poison.csv") as file:
        poisoned = {row["path"] for row in csv.DictReader(file) if row["role"] == "poisoned"}
    poison = torch.tensor([path in poisoned for path in paths])

    lr, epochs = lab.options["lr"], lab.options["epochs"]
    model = build("resnet18", args.width, len(classes), x.shape[1])
    for layer in model.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    lab.train(model, x, y, 10, lr, lambda loss: (loss - 0.5).abs() + 0.5, augment=False)
    loss = cross_entropy(lab.logits(model, x), y, reduction="none")
    isolated = torch.zeros(len(x), dtype=torch.bool)
    isolated[loss.argsort()[: int(0.01 * len(x))]] = True
    lab.train(model, x[~isolated], y[~isolated], epochs, lr, lambda loss: loss, augment=True)
    ascent = math.ceil(40 / math.ceil(int(isolated.sum()) / lab.options["batch"]))
    lab.train(model, x[isolated], y[isolated], ascent, 5e-4, lambda loss: -loss, augment=False, constant=True)

    said, under = lab.logits(model, clean).argmax(1), lab.logits(model, marked).argmax(1)
    percent = lambda hits: 100 * hits.float().mean().item()
    figures = [percent(said == clean_y), percent(under == args.target), percent(under == marked_y), percent(poison[isolated])]
    print(f"| PyTorch | {args.set.name} | {args.seed} | " + " | ".join(f"{value:.1f}" for value in figures) + " |", flush=True)


main()
