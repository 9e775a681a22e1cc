"""Makes checkpoints as training scripts write them: a state dict of eight small tensors, and beside it whatever else they keep.

    python tests/golden/make_checkpoints.py    # needs torch (CPU is enough) and numpy; takes seconds

Files of `checkpoints/`: `beside_FORMAT_PROTOCOL.pt` for both formats and protocols 2 to 5, `key_NAME.pt` for a usual key each,
`wrapped_NAME.pt` for what puts a prefix before the names, and single ones below. `tests/import_beside.rs` says what is read.
The older format names storages by their addresses, so its files differ from one run to the next.
"""

import argparse
import datetime
import enum
import functools
import os
import pathlib
import random
from collections import Counter, OrderedDict, defaultdict, namedtuple

import numpy as np
import torch
from torch import nn

from make import HERE

PLACE = HERE / "checkpoints"
KEYS = ["state_dict", "model_state_dict", "model", "net", "netC", "network", "state_dict_ema", "my_own_key"]


class Tiny(nn.Module):
    """A convolution, a batch norm and a classifier. Every value is its place in its tensor, in eighths."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(2)
        self.linear = nn.Linear(2, 3)
        with torch.no_grad():
            for tensor in self.state_dict().values():
                tensor.copy_(torch.arange(tensor.numel()).view(tensor.shape) / 8 if tensor.dim() else torch.tensor(7))

    def forward(self, x):
        return self.linear(self.bn1(self.conv1(x)).mean((2, 3)))


class Bare(nn.Module):
    """The older format writes the source of a network's classes, too: this one is all there is."""


class Harm:
    """Runs a command where a pickle is obeyed."""

    def __reduce__(self):
        return os.system, ("touch tests/golden/checkpoints/ran",)


class Slotted:
    """An object that newer protocols make with keyword arguments."""

    def __new__(cls, *, name):
        return super().__new__(cls)

    def __getnewargs_ex__(self):
        return (), {"name": "x"}


class Settings(dict):
    """A dict of a class of its own, as attribute dictionaries are."""


class State(OrderedDict):
    """The same of an ordered one."""


class Names(list):
    pass


class Kind(enum.Enum):
    A = 1


Pair = namedtuple("Pair", [f"x{i}" for i in range(20)])


def save(name, what, **options):
    torch.save(what, PLACE / f"{name}.pt", **options)


def trained():
    """What a script has after a step: the network, the optimizer's and the schedule's state."""
    torch.manual_seed(0)
    model = Tiny()
    state = OrderedDict((name, tensor.clone()) for name, tensor in model.state_dict().items())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [100, 150])
    model(torch.ones(2, 3, 4, 4)).sum().backward()
    optimizer.step()
    schedule.step()
    return state, optimizer.state_dict(), schedule.state_dict()


def beside():
    state, optimizer, schedule = trained()
    random.seed(0)
    np.random.seed(0)
    slotted = Slotted(name="x")
    return {
        "epoch": 3,
        "best_prec1": torch.tensor(93.5),
        "grid": torch.zeros(1, 2, 2, 2),
        "rng": torch.get_rng_state()[:16].clone(),
        "mask": torch.tensor([True, False]),
        "spectrum": torch.zeros(2, dtype=torch.complex128),
        "small floats": torch.zeros(2).to(torch.float8_e5m2),
        "sparse": torch.eye(2).to_sparse(),
        "optimizer": optimizer,
        "scheduler": schedule,
        "args": argparse.Namespace(lr=0.1, milestones=[100, 150], out=pathlib.PurePosixPath("runs"), gpu=None),
        "device": torch.device("cpu"),
        "dtype": torch.float16,
        "size": torch.Size([2, 3]),
        "bytes": b"\x00\xff" * 3,
        "long bytes": b"x" * 300,
        "array of bytes": bytearray(b"abc"),
        "set": {1, 2},
        "frozen": frozenset(["a"]),
        "counter": Counter("abca"),
        "default": defaultdict(list, {"a": [1]}),
        "ordered": OrderedDict(a=1),
        "accuracy": np.float64(0.5),
        "count": np.int64(3),
        "array": np.arange(6, dtype=np.float32).reshape(2, 3),
        "names": np.array(["a", None], dtype=object),
        "random": random.Random(0).getstate()[1][:5],
        "numpy random": np.random.default_rng(0).bit_generator.state,
        "large": [2**100, -(2**200), 2**2100],
        "when": datetime.datetime(2020, 1, 2, tzinfo=datetime.timezone.utc),
        "slotted": slotted,
        "settings": Settings(lr=0.1),
        "named": Names(["a"]),
        "kind": Kind.A,
        "pair": Pair(*range(20)),
        "part": functools.partial(int, base=2),
        "complex": 1j,
        "ellipsis": ...,
        "class": nn.BatchNorm2d,
        "parameter": nn.Parameter(torch.ones(2)),
        "state_dict": state,
    }


def attack_result(state):
    """As BackdoorBench writes it."""
    poisoned = {
        "bd_data_container": {"save_path": "x", "data_dict": {}},
        "poison_indicator": np.array([0, 1, 1]),
        "original_index_array": np.arange(3),
        "getitem_all": True,
    }
    return {
        "model_name": "preactresnet18",
        "num_classes": 3,
        "model": state,
        "data_path": "../data",
        "img_size": (32, 32, 3),
        "clean_data": "cifar10",
        "bd_train": poisoned,
        "bd_test": poisoned,
    }


def wanet(state):
    """As WaNet's own script writes it."""
    return {
        "netC": state,
        "schedulerC": {"milestones": Counter([100, 200])},
        "optimizerC": {"state": {0: {"momentum_buffer": torch.zeros(2)}}},
        "best_clean_acc": torch.tensor(94.0),
        "identity_grid": torch.zeros(1, 2, 2, 2),
        "noise_grid": torch.zeros(1, 2, 2, 2),
        "epoch_current": 9,
    }


class Held(nn.Module):
    """As a LightningModule holds a network, and something of its own."""

    def __init__(self):
        super().__init__()
        self.model = Tiny()
        self.register_buffer("confusion", torch.zeros(3, 3))
        self.criterion = nn.CrossEntropyLoss(weight=torch.ones(3))


def wrapped():
    averaged = torch.optim.swa_utils.AveragedModel
    return {
        "parallel": nn.DataParallel(Tiny()),
        "compiled": torch.compile(Tiny()),
        "compiled_parallel": torch.compile(nn.DataParallel(Tiny())),
        "parallel_compiled": nn.DataParallel(torch.compile(Tiny())),
        "averaged": averaged(Tiny()),
        "averaged_parallel": averaged(nn.DataParallel(Tiny())),
        "lightning": Held(),
    }


def main():
    PLACE.mkdir(exist_ok=True)
    whole = beside()
    for protocol in [2, 3, 4, 5]:
        save(f"beside_zip_{protocol}", whole, pickle_protocol=protocol)
        save(f"beside_older_{protocol}", whole, pickle_protocol=protocol, _use_new_zipfile_serialization=False)
    state = Tiny().state_dict()
    for key in KEYS:
        save(f"key_{key}", {"epoch": 3, "best_acc": torch.tensor(93.5), key: state})
    for name, model in wrapped().items():
        save(f"wrapped_{name}", model.state_dict())
    save("attack_result", attack_result(state))
    save("wanet", wanet(state))
    other = {name: tensor + 1 for name, tensor in state.items()}
    save("ema", {"state_dict_ema": other, "state_dict": state})
    save("same_twice", {"best": state, "last": state})
    save("two_unknown", {"first": state, "second": other})
    save("deep", {"checkpoint": {"netG": {"state_dict": other}, "netC": {"state_dict": state}}})
    save("numpy_weight", {"state_dict": OrderedDict(state, **{"conv1.weight": state["conv1.weight"].numpy()})})
    marked = nn.Parameter(state["linear.bias"])
    marked.note = "saved with the parameter"
    save("default_dict", defaultdict(list, state, **{"linear.bias": marked}))
    save("own_dicts", Settings(state_dict=State(state)))
    save("whole_model", Tiny())
    save("whole_model_older", Bare(), _use_new_zipfile_serialization=False)
    save("under_model", {"model": Tiny(), "epoch": 3})
    save("no_weights", {"epoch": 3, "accuracy": torch.tensor(1.0)})
    save("harm", {"state_dict": state, "hook": Harm(), "more": [Harm()]})


if __name__ == "__main__":
    main()
