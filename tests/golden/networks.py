"""The networks of dau's list in PyTorch, by dau's names. Parameter names are those that they commonly have there."""

from torch import nn

from resnet import conv, resnet18, resnet34


class Preactivated(nn.Module):
    """conv2(relu(bn2(conv1(relu(bn1(x)))))) + shortcut"""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv(inputs, outputs, 3, stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = conv(outputs, outputs, 3, 1)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()

    def shortcut_of(self, x, active):
        raise NotImplementedError

    def forward(self, x):
        active = self.relu1(self.bn1(x))
        out = self.conv2(self.relu2(self.bn2(self.conv1(active))))
        return out + self.shortcut_of(x, active)


class PreActBlock(Preactivated):
    def __init__(self, inputs, outputs, stride):
        super().__init__(inputs, outputs, stride)
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(conv(inputs, outputs, 1, stride))

    def shortcut_of(self, x, active):
        return self.shortcut(active) if hasattr(self, "shortcut") else x


class PreActResNet18(nn.Module):
    """No batch norm after the stem, none after the last block."""

    def __init__(self, width, classes):
        super().__init__()
        self.conv1 = conv(3, width, 3, 1)
        inputs = width
        for i in range(4):
            outputs = width << i
            stage = [PreActBlock(inputs, outputs, 2 if i > 0 else 1), PreActBlock(outputs, outputs, 1)]
            setattr(self, f"layer{i + 1}", nn.Sequential(*stage))
            inputs = outputs
        self.linear = nn.Linear(inputs, classes)

    def forward(self, x):
        out = self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(x)))))
        return self.linear(out.mean((2, 3)))


class WideBlock(Preactivated):
    def __init__(self, inputs, outputs, stride):
        super().__init__(inputs, outputs, stride)
        self.convShortcut = conv(inputs, outputs, 1, stride) if inputs != outputs else None

    def shortcut_of(self, x, active):
        return x if self.convShortcut is None else self.convShortcut(active)


class Stage(nn.Module):
    def __init__(self, blocks, inputs, outputs, stride):
        super().__init__()
        rest = [WideBlock(outputs, outputs, 1) for _ in range(blocks - 1)]
        self.layer = nn.Sequential(WideBlock(inputs, outputs, stride), *rest)

    def forward(self, x):
        return self.layer(x)


class WideResNet(nn.Module):
    """WRN-depth-width"""

    def __init__(self, depth, width, classes):
        super().__init__()
        blocks = (depth - 4) // 6
        self.conv1 = conv(3, 16, 3, 1)
        self.block1 = Stage(blocks, 16, 16 * width, 1)
        self.block2 = Stage(blocks, 16 * width, 32 * width, 2)
        self.block3 = Stage(blocks, 32 * width, 64 * width, 2)
        self.bn1 = nn.BatchNorm2d(64 * width)
        self.relu = nn.ReLU()
        self.fc = nn.Linear(64 * width, classes)

    def forward(self, x):
        out = self.relu(self.bn1(self.block3(self.block2(self.block1(self.conv1(x))))))
        return self.fc(out.mean((2, 3)))


def build(name, width, classes, size, large=None):
    """The network that dau calls `name`, for images of size x size, a ResNet with the large stem or the small one if not the usual
    for that size. KeyError for another name."""
    large = size >= 64 if large is None else large
    networks = {
        "resnet18": lambda: resnet18(width, classes, large),
        "resnet34": lambda: resnet34(width, classes, large),
        "preact-resnet18": lambda: PreActResNet18(width, classes),
        "wrn-16": lambda: WideResNet(16, width, classes),
        "wrn-28": lambda: WideResNet(28, width, classes),
        "wrn-40": lambda: WideResNet(40, width, classes),
    }
    return networks[name]()
