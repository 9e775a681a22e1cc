"""Makes the golden files beside this script: reference values that dau's tests compare with.

    python tests/golden/make.py            # needs torch (CPU is enough), numpy, safetensors; takes seconds

Every input is drawn in float32 (so that it is exact in the file), every result is computed by PyTorch in float64 and
stored as float32. Layouts are PyTorch's: activations NCHW, convolution weights OIHW, linear weights [K, D]. Each case
draws from its own generator, seeded by the case's name: adding a case changes no other.

A ReLU input that is nearly zero may get the other sign in float32, and the gradients then differ by far more than
rounding. Cases with a ReLU are therefore redrawn until every ReLU input keeps a stated distance from zero; what a test
finds afterwards is an error and not bad luck.

See README.md for the list of keys.
"""

import contextlib
import math
import pathlib
import zlib

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file

from resnet import resnet18

HERE = pathlib.Path(__file__).resolve().parent


# ---- helpers -------------------------------------------------------------------------------------------------------


class Draw:
    """Random float32 values, returned as float64 tensors, from a stream that depends on the name alone."""

    def __init__(self, name):
        self.rng = np.random.default_rng(zlib.crc32(name.encode()))

    def normal(self, *shape, mean=0.0, std=1.0):
        values = self.rng.standard_normal(shape, dtype=np.float32) * np.float32(std) + np.float32(mean)
        return torch.from_numpy(values).double()

    def uniform(self, *shape, low=0.0, high=1.0):
        values = self.rng.random(shape, dtype=np.float32) * np.float32(high - low) + np.float32(low)
        return torch.from_numpy(values).double()

    def labels(self, count, classes):
        return torch.from_numpy(self.rng.integers(0, classes, count))


def stored(tensor):
    """A tensor as it goes into a file: float64 becomes float32, everything else keeps its type."""
    array = tensor.detach().cpu().numpy()
    if array.dtype == np.float64:
        assert np.isfinite(array).all()
        array = array.astype(np.float32)
    return np.array(array, order="C")  # a copy: optimizers change parameters in place


class Golden:
    """The tensors of one file."""

    def __init__(self):
        self.tensors = {}

    def add(self, prefix, **tensors):
        for name, tensor in tensors.items():
            key = f"{prefix}/{name}"
            assert key not in self.tensors, key
            self.tensors[key] = stored(tensor)

    def save(self, name):
        path = HERE / name
        # One metadata entry only: safetensors writes several in no fixed order.
        torch_version = torch.__version__.split("+")[0]  # without the build: only the CPU is used
        made_by = f"tests/golden/make.py, torch {torch_version}, numpy {np.__version__}"
        save_file(self.tensors, path, metadata={"made_by": made_by})
        print(f"{name}: {len(self.tensors)} tensors, {path.stat().st_size} bytes")


def first_draw(name, accept, make, attempts=10_000):
    """The first of make(Draw(name#0)), make(Draw(name#1)), ... that is accepted."""
    for attempt in range(attempts):
        made = make(Draw(f"{name}#{attempt}"))
        if accept(made):
            return made
    raise SystemExit(f"{name}: no acceptable draw in {attempts}")


def leaves(*tensors):
    for tensor in tensors:
        tensor.requires_grad_()
    return tensors


# ---- one op at a time ----------------------------------------------------------------------------------------------


def conv2d(golden):
    #        case         N  Ci  H  W  Co  size stride
    cases = [
        ("3x3s1",         2,  8, 8, 7, 12, 3, 1),
        ("3x3s2",         2, 12, 8, 6, 20, 3, 2),
        ("3x3s2_odd",     3,  8, 7, 7, 12, 3, 2),
        ("1x1s1",         2, 20, 6, 7, 16, 1, 1),
        ("1x1s2",         2, 16, 8, 6, 24, 1, 2),
        ("1x1s2_odd",     2,  8, 7, 9, 12, 1, 2),
        ("stem",          2,  3, 9, 8,  8, 3, 1),
        ("wide",          2, 40, 6, 6, 72, 3, 1),
    ]  # fmt: skip
    for case, n, ci, h, w_, co, size, stride in cases:
        draw = Draw(f"conv2d/{case}")
        x, w = leaves(draw.normal(n, ci, h, w_), draw.normal(co, ci, size, size, std=1 / math.sqrt(ci * size * size)))
        y = F.conv2d(x, w, stride=stride, padding=size // 2)
        gy = draw.normal(*y.shape)
        y.backward(gy)
        golden.add(f"conv2d/{case}", x=x, w=w, gy=gy, y=y, dx=x.grad, dw=w.grad)


def batch_norm(golden):
    #        case                    train  relu   residual mean of x
    cases = [
        ("train",                    True,  False, False,   0.5),
        ("train_relu",               True,  True,  False,   0.5),
        ("train_relu_residual",      True,  True,  True,    0.5),
        ("train_offset",             True,  False, False,  50.0),
        ("eval",                     False, False, False,   0.5),
        ("eval_relu_residual",       False, True,  True,    0.5),
    ]  # fmt: skip
    shape, channels = (3, 12, 5, 7), 12
    for case, train, relu, residual, mean in cases:

        def make(draw):
            t = {
                "x": draw.normal(*shape, mean=mean),
                "gamma": draw.normal(channels, mean=1, std=0.3),
                "beta": draw.normal(channels, std=0.3),
                "running_mean": draw.normal(channels, std=0.5),
                "running_var": draw.uniform(channels, low=0.5, high=1.5),
            }
            if residual:
                t["residual"] = draw.normal(*shape)
            t["gy"] = draw.normal(*shape)
            inputs = leaves(*(t[k] for k in ["x", "gamma", "beta", "residual"] if k in t))
            new_mean, new_var = t["running_mean"].clone(), t["running_var"].clone()
            y = F.batch_norm(t["x"], new_mean, new_var, t["gamma"], t["beta"], train, momentum=0.1, eps=1e-5)
            y = y + t["residual"] if residual else y
            distance = y.detach().abs().min().item() if relu else math.inf
            y = F.relu(y) if relu else y
            if train:
                y.backward(t["gy"])
                t |= {"new_running_mean": new_mean, "new_running_var": new_var}
                names = ["dx", "dgamma", "dbeta", "dresidual"]
                t |= {name: tensor.grad for name, tensor in zip(names, inputs)}
            else:
                del t["gy"]
            return t | {"y": y}, distance

        tensors, _ = first_draw(f"batch_norm/{case}", lambda made: made[1] > 5e-4, make)
        golden.add(f"batch_norm/{case}", **tensors)


def global_avg_pool(golden):
    for case, shape in [("4x4", (3, 8, 4, 4)), ("odd", (2, 12, 7, 5))]:
        draw = Draw(f"global_avg_pool/{case}")
        (x,) = leaves(draw.normal(*shape))
        y = F.adaptive_avg_pool2d(x, 1).flatten(1)
        gy = draw.normal(*y.shape)
        y.backward(gy)
        golden.add(f"global_avg_pool/{case}", x=x, gy=gy, y=y, dx=x.grad)


def max_pool(golden):
    """The stem's windows: 3x3, stride 2, padding 1; in `ties` most windows have several maxima."""
    for case, shape in [("even", (2, 8, 8, 6)), ("odd", (3, 12, 7, 5)), ("ties", (3, 8, 8, 7))]:
        draw = Draw(f"max_pool/{case}")
        values = draw.normal(*shape)
        (x,) = leaves(values.round() if case == "ties" else values)
        y = F.max_pool2d(x, 3, 2, 1)
        gy = draw.normal(*y.shape)
        y.backward(gy)
        golden.add(f"max_pool/{case}", x=x, gy=gy, y=y, dx=x.grad)


def linear(golden):
    for case, n, d, k in [("10_classes", 6, 64, 10), ("odd", 5, 36, 43)]:
        draw = Draw(f"linear/{case}")
        x, w, b = leaves(draw.normal(n, d), draw.normal(k, d, std=1 / math.sqrt(d)), draw.normal(k))
        y = F.linear(x, w, b)
        gy = draw.normal(n, k)
        y.backward(gy)
        golden.add(f"linear/{case}", x=x, w=w, b=b, gy=gy, y=y, dx=x.grad, dw=w.grad, db=b.grad)


# ---- losses --------------------------------------------------------------------------------------------------------


def margin(logits, labels):
    """z_y - lse of the other logits, the log-odds of the label: CE = softplus(-margin), CCE = softplus(margin)."""
    is_label = F.one_hot(labels, logits.shape[1]).bool()
    others = logits.masked_fill(is_label, -math.inf).logsumexp(1)
    return logits.gather(1, labels[:, None])[:, 0] - others


def softplus(x):
    """log(1 + e^x) without F.softplus's cut at 20."""
    return torch.logaddexp(x, torch.zeros_like(x))


def ce(logits, labels):
    """-log p_y, exact also where p_y is 1 but for less than rounding."""
    return softplus(-margin(logits, labels))


def cce(logits, labels):
    """-log(1 - p_y), exact also as p_y goes to 1."""
    return softplus(margin(logits, labels))


def gga(logits, labels):
    return -ce(logits, labels)


def lga(logits, labels):
    loss = ce(logits, labels)
    return (loss - 0.5).sign().detach() * loss


FLOOD = 0.5


def losses(golden):
    n, k = 16, 10

    def add(case, loss, logits, labels, weight):
        (logits,) = leaves(logits)
        per_sample = loss(logits, labels)
        total = (weight * per_sample).sum()
        if case.startswith("flooding"):
            assert (total > FLOOD) == (case == "flooding_above") and abs(total - FLOOD) > 0.1
            total = (total - FLOOD).abs() + FLOOD
        if case == "reweighed":
            share = (weight / (weight + per_sample)).detach()
            total = (share / share.sum() * per_sample).sum()
        total.backward()
        golden.add(
            f"losses/{case}", logits=logits, labels=labels.int(), weight=weight, loss=per_sample, dlogits=logits.grad
        )
        if case.startswith("flooding"):
            golden.add(f"losses/{case}", total=total[None])

    def sample(draw, confident, std=2.0):
        """Random logits; the label's is raised for the confident half (or all, or none), so that CE lies on both
        sides of the threshold .5. Weights are about 1/n; one is zero."""
        logits, labels = draw.normal(n, k, std=std), draw.labels(n, k)
        rows = torch.arange(confident)
        raised = logits[rows].amax(1) + draw.uniform(confident, low=2, high=5)
        logits[rows, labels[:confident]] = raised.float().double()
        weight = draw.uniform(n, low=0.2 / n, high=1.8 / n)
        weight[n // 3] = 0
        return logits, labels, weight

    def accept(made):
        return (ce(made[0], made[1]) - 0.5).abs().min() > 0.05

    for case, loss, confident in [
        ("ce", ce, n // 2),
        ("cce", cce, n // 2),
        ("gga", gga, n // 2),
        ("lga", lga, n // 2),
        ("flooding_above", ce, 0),
        ("flooding_below", ce, n),
        ("reweighed", ce, n // 2),
    ]:
        made = first_draw(f"losses/{case}", accept, lambda draw: sample(draw, confident))
        add(case, loss, *made)

    # Logits up to 60 either way. Rows 0-3: the label wins by up to 120, so that p_y is 1 in float64 too. Rows 4-7: the
    # label loses by as much. Row 8: all equal. The rest: random with a wide spread.
    for case, loss in [("ce_extreme", ce), ("cce_extreme", cce)]:
        draw = Draw(f"losses/{case}")
        logits, labels, weight = sample(draw, 0, std=20)
        logits = logits.clamp(-60, 60)
        rows = torch.arange(4)
        logits[rows] = logits[rows].clamp(max=15)
        logits[rows, labels[:4]] = torch.tensor([60.0, 60.0, 55.0, 60.0]).double()
        logits[0] = torch.where(F.one_hot(labels[0], k).bool(), 60.0, -60.0)
        rows = torch.arange(4, 8)
        logits[rows, labels[4:8]] = torch.tensor([-60.0, -60.0, -50.0, -60.0]).double()
        logits[rows, (labels[4:8] + 1) % k] = 60
        logits[8] = 60
        p = logits.softmax(1).gather(1, labels[:, None])
        assert p[0] == 1 and p[:4].min() > 1 - 1e-15 and p[4:8].max() < 1e-45
        add(case, loss, logits, labels, weight)


# ---- optimizers ----------------------------------------------------------------------------------------------------


def optimizers(golden):
    """Three steps on a vector, the gradients given: param0 is the start, param1..3 what each step leaves."""
    sgd = {"lr": 0.1, "momentum": 0.9}
    adam = {"lr": 0.05, "betas": (0.9, 0.999), "eps": 1e-8}
    cases = [
        ("sgd/momentum", torch.optim.SGD, sgd),
        ("sgd/momentum_weight_decay", torch.optim.SGD, sgd | {"weight_decay": 0.05}),
        ("sgd/nesterov", torch.optim.SGD, sgd | {"nesterov": True}),
        ("sgd/nesterov_weight_decay", torch.optim.SGD, sgd | {"nesterov": True, "weight_decay": 0.05}),
        ("adam/plain", torch.optim.Adam, adam),
        ("adam/weight_decay", torch.optim.Adam, adam | {"weight_decay": 0.06}),
    ]
    for case, kind, options in cases:
        draw = Draw(case)
        param = torch.nn.Parameter(draw.normal(20))
        grads = [draw.normal(20) for _ in range(3)]
        golden.add(case, param0=param)
        optimizer = kind([param], **options)
        for i, grad in enumerate(grads):
            param.grad = grad.clone()
            optimizer.step()
            golden.add(case, **{f"g{i}": grad, f"param{i + 1}": param})


# ---- the network ---------------------------------------------------------------------------------------------------

WIDTH, CLASSES, SIZE = 8, 10, 16
MEAN = torch.tensor([0.4914, 0.4822, 0.4465], dtype=torch.float64)
STD = torch.tensor([0.2470, 0.2430, 0.2610], dtype=torch.float64)


def initial_values(draw, state):
    """Fills a state dict: He-normal (fan out) convolutions; nothing of the rest is left at a trivial 0 or 1."""
    for name, tensor in state.items():
        if name.endswith("num_batches_tracked"):
            continue  # an int64 zero
        elif name.endswith("running_mean"):
            values = draw.normal(*tensor.shape, std=0.2)
        elif name.endswith("running_var"):
            values = draw.uniform(*tensor.shape, low=0.6, high=1.8)
        elif tensor.dim() == 4:
            outputs, _, size, _ = tensor.shape
            values = draw.normal(*tensor.shape, std=math.sqrt(2 / (outputs * size * size)))
        elif name.startswith(("linear", "fc")):
            bound = 1 / math.sqrt(state[name.replace("bias", "weight")].shape[1])
            values = draw.uniform(*tensor.shape, low=-bound, high=bound)
        elif name.endswith("weight"):
            values = draw.normal(*tensor.shape, mean=1, std=0.1)
        else:
            values = draw.normal(*tensor.shape, std=0.1)
        state[name] = values
    return state


def network(state):
    model = resnet18(WIDTH, CLASSES).double()
    model.load_state_dict(state)
    return model


@contextlib.contextmanager
def relu_distances(model):
    """A list that grows by the smallest distance from zero of a ReLU's inputs whenever a ReLU of the model runs."""
    distances = []
    hooks = [
        module.register_forward_pre_hook(lambda _, inputs: distances.append(inputs[0].abs().min().item()))
        for module in model.modules()
        if isinstance(module, torch.nn.ReLU)
    ]
    yield distances
    for hook in hooks:
        hook.remove()


def relu_distance(model, x):
    """The smallest distance from zero of any ReLU's input in a forward pass."""
    with torch.no_grad(), relu_distances(model) as distances:
        model(x)
    return min(distances)


def one_batch(golden, state):
    def make(draw):
        return draw.normal(6, 3, SIZE, SIZE), draw.labels(6, CLASSES)

    def accept(made):
        return relu_distance(network(state).train(), made[0]) > 2e-5

    x, labels = first_draw("resnet/batch", accept, make, attempts=1000)
    model = network(state).train()
    points = model.activations(x)
    loss = F.cross_entropy(points["logits"], labels)
    loss.backward()
    golden.add("batch", x=x, labels=labels.int())
    golden.add("act", **points)
    golden.add("grad", **{name: param.grad for name, param in model.named_parameters()})
    golden.tensors["loss"] = stored(loss[None])
    with torch.no_grad():
        golden.tensors["eval_logits"] = stored(network(state).eval()(x))


def twenty_steps(golden, state):
    """SGD on a fixed pool of 64 images: a smooth random template for each class, plus noise.

    One ReLU that float32 gates the other way changes the next losses by 1e-4 and those after it by 1e-2, so the pool is
    redrawn until no ReLU's input comes near zero in any step. Small images, so that there are few enough of them.
    """
    pool, batch, steps, size, distance = 64, 16, 20, 6, 1e-5

    def make(draw):
        templates = F.interpolate(draw.normal(CLASSES, 3, 4, 4), size=(size, size), mode="bilinear")
        labels = draw.labels(pool, CLASSES)
        images = 128 + 48 * templates[labels] + 32 * draw.normal(pool, 3, size, size)
        return images.round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous(), labels

    def train(made):
        """The trained model and its losses, or None as soon as a ReLU's input comes too near zero."""
        images, labels = made
        model = network(state).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, nesterov=True, weight_decay=5e-4)
        losses = []
        with relu_distances(model) as distances:
            for step in range(steps):
                rows = (step * batch + torch.arange(batch)) % pool
                x = ((images[rows].double() / 255 - MEAN) / STD).permute(0, 3, 1, 2)
                loss = F.cross_entropy(model(x), labels[rows])
                if min(distances) < distance:
                    return None
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.detach())
        return model, torch.stack(losses)

    made = first_draw("resnet/train", train, make)
    model, losses = train(made)
    assert losses[-4:].mean() < 0.5 * losses[:4].mean(), losses
    golden.add("train", images=made[0], labels=made[1].int())
    golden.tensors["steps_losses"] = stored(losses)
    final = model.state_dict()
    golden.add("steps_final", **{name: final[name] for name in ["linear.weight", "bn1.running_mean"]})
    print("losses of the 20 steps:", " ".join(f"{loss:.3f}" for loss in losses))


def main():
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)

    ops = Golden()
    for add in [conv2d, batch_norm, global_avg_pool, max_pool, linear, losses, optimizers]:
        add(ops)
    ops.save("ops.safetensors")

    net = Golden()
    state = initial_values(Draw("resnet/init"), resnet18(WIDTH, CLASSES).double().state_dict())
    net.add("init", **state)
    one_batch(net, state)
    twenty_steps(net, state)
    net.save("resnet_w8.safetensors")


if __name__ == "__main__":
    main()
