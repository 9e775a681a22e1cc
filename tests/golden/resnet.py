"""The ResNets that dau trains, in PyTorch: stem, four stages of basic blocks, global average pool, linear.

Parameter names are those of the common CIFAR ResNet (conv1, bn1, layer1.0.conv1, layer2.0.shortcut.0, linear), with the
ImageNet stem (`large`, for images of 64 pixels or more) torchvision's (layer2.0.downsample.0, fc), so a dau checkpoint
loads with strict=True. `width` is the number of channels of the first stage (64 is the standard).
"""

import torch.nn.functional as F
from torch import nn


def conv(inputs, outputs, size, stride):
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)


class BasicBlock(nn.Module):
    """relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x))"""

    def __init__(self, inputs, outputs, stride, shortcut):
        super().__init__()
        self.conv1 = conv(inputs, outputs, 3, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = conv(outputs, outputs, 3, 1)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.branch = shortcut
        branch = nn.Sequential()
        if stride != 1 or inputs != outputs:
            branch = nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))
        setattr(self, shortcut, branch)

    def forward(self, x):
        out = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(out)) + getattr(self, self.branch)(x))


class ResNet(nn.Module):
    def __init__(self, blocks, width, classes, large=False):
        super().__init__()
        channels = [width, 2 * width, 4 * width, 8 * width]
        shortcut, self.classifier = ("downsample", "fc") if large else ("shortcut", "linear")
        self.conv1 = conv(3, width, 7, 2) if large else conv(3, width, 3, 1)
        self.pool = nn.MaxPool2d(3, 2, padding=1) if large else nn.Identity()
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        inputs = width
        for i, (outputs, count) in enumerate(zip(channels, blocks)):
            stage = []
            for j in range(count):
                stage.append(BasicBlock(inputs, outputs, 2 if i > 0 and j == 0 else 1, shortcut))
                inputs = outputs
            setattr(self, f"layer{i + 1}", nn.Sequential(*stage))
        setattr(self, self.classifier, nn.Linear(inputs, classes))

    def activations(self, x):
        """The named points on the way to the logits, in order."""
        points = {"stem": self.relu(self.bn1(self.conv1(x)))}
        out = self.pool(points["stem"])
        for name in ["layer1", "layer2", "layer3", "layer4"]:
            out = points[name] = getattr(self, name)(out)
        points["pooled"] = F.adaptive_avg_pool2d(out, 1).flatten(1)
        points["logits"] = getattr(self, self.classifier)(points["pooled"])
        return points

    def forward(self, x):
        return self.activations(x)["logits"]


def resnet18(width=64, classes=10, large=False):
    return ResNet([2, 2, 2, 2], width, classes, large)


def resnet34(width=64, classes=10, large=False):
    return ResNet([3, 4, 6, 3], width, classes, large)
