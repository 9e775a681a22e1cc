"""Times in PyTorch what `dau bench --step` times: a training step and inference of ResNet-18 with the CIFAR stem.

Synthetic images, channels last, SGD with Nesterov momentum and weight decay, cross-entropy. Prints one line of JSON a mode.
As in dau, images are uploaded as bytes and each step's losses come back.
"""

import argparse
import json
import statistics
import sys
import time

try:
    import torch
    from torch import nn
    from torch.nn import functional as F
except ImportError as e:
    sys.exit(f"{e}; install PyTorch (pip install torch), or name a Python that has it")

SAMPLES, STEPS = 5, 4  # as dau bench --step: the median of 5 samples of 4 batches, after one to warm up


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


class ResNet18(nn.Module):
    def __init__(self, width, classes=10):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        blocks, inputs = [], width
        for stage in range(4):
            outputs = width << stage
            blocks += [Block(inputs, outputs, 1 if stage == 0 else 2), Block(outputs, outputs, 1)]
            inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.linear = nn.Linear(inputs, classes)

    def forward(self, x):
        return self.linear(self.blocks(F.relu(self.bn1(self.conv1(x)))).mean((2, 3)))


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=64, help="channels of the first stage")
    parser.add_argument("--batch", type=int, default=64, help="images a step")
    parser.add_argument("--image-size", type=int, default=32, help="height and width, pixels")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="cuda where there is one")
    parser.add_argument("--threads", type=int, help="of the CPU; PyTorch's choice without")
    return parser.parse_args()


# name: (what CUDA's matrix units may round fp32 to, what autocast computes in)
MODES = {"fp32": (False, None), "tf32": (True, None), "bf16": (False, torch.bfloat16), "f16": (False, torch.float16)}


def median_ms(device, sample):
    """Of one batch: the median over samples of STEPS batches, after one to warm up."""
    seconds = []
    for _ in range(1 + SAMPLES):
        start = time.perf_counter()
        sample()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return 1e3 * statistics.median(seconds[1:]) / STEPS


def measure(args, mode):
    tf32, half = MODES[mode]
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    device = args.device
    net = ResNet18(args.width).to(device, memory_format=torch.channels_last)
    sgd = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9, nesterov=True, weight_decay=5e-4)
    scaler = torch.amp.GradScaler(device, enabled=half == torch.float16)
    pixels = torch.randint(0, 256, (args.batch, args.image_size, args.image_size, 3), dtype=torch.uint8)
    labels = torch.randint(0, 10, (args.batch,))
    if device == "cuda":
        pixels, labels = pixels.pin_memory(), labels.pin_memory()

    def forward():
        x = pixels.to(device, non_blocking=True).permute(0, 3, 1, 2)
        x = x.float().div_(255).sub_(0.5).div_(0.25).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device, dtype=half, enabled=half is not None):
            return net(x).float()

    def train():
        losses = []
        for _ in range(STEPS):
            sgd.zero_grad(set_to_none=True)
            loss = F.cross_entropy(forward(), labels.to(device, non_blocking=True), reduction="none")
            scaler.scale(loss.mean()).backward()
            scaler.step(sgd)
            scaler.update()
            losses.append(loss.detach())
        return torch.stack(losses).cpu()

    @torch.inference_mode()
    def infer():
        return torch.stack([forward() for _ in range(STEPS)]).cpu()

    training = median_ms(device, train)
    net.eval()
    inference = median_ms(device, infer)
    speed = lambda ms: {"ms": ms, "images_per_second": 1e3 * args.batch / ms}
    return {"training": speed(training), "inference": speed(inference)}


def main():
    args = parse()
    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("--device cuda: PyTorch finds none; see nvidia-smi, or give --device cpu")
    args.device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if args.threads:
        torch.set_num_threads(args.threads)
    cuda = args.device == "cuda"
    common = {
        "peer": "torch",
        "adapter": torch.cuda.get_device_name() if cuda else f"cpu, {torch.get_num_threads()} threads",
        "versions": {"torch": torch.__version__, "python": sys.version.split()[0]},
        "width": args.width,
        "batch": args.batch,
        "image_size": args.image_size,
    }
    if cuda:
        common["versions"] |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    for mode in MODES if cuda else ["fp32"]:
        print(json.dumps({**common, "mode": mode, **measure(args, mode)}), flush=True)


if __name__ == "__main__":
    main()
