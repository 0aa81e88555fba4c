"""Networks of integers, trained in full: weights, activations, gradients, errors, updates.

net = nn.Sequential(nn.Conv2d(...), nn.BatchNorm2d(...), nn.ReLU(), ...)
fxmem.nn.quantized.config_network(net, ".*", fxmem.nn.quantized.QuantConfig())
optimizer = fxmem.nn.quantized.SGD(net.parameters(), lr=0.05)

The names and widths are wageubn's; what is stored and multiplied here are the integers themselves.
"""

from torch.nn import AdaptiveAvgPool1d as AdaptiveAvgPool1d
from torch.nn import AdaptiveAvgPool2d as AdaptiveAvgPool2d
from torch.nn import AdaptiveMaxPool2d as AdaptiveMaxPool2d
from torch.nn import AvgPool1d as AvgPool1d
from torch.nn import AvgPool2d as AvgPool2d
from torch.nn import Flatten as Flatten
from torch.nn import MaxPool1d as MaxPool1d
from torch.nn import MaxPool2d as MaxPool2d
from torch.nn import ModuleDict as ModuleDict
from torch.nn import ModuleList as ModuleList
from torch.nn import Sequential as Sequential

from .activation import ReLU as ReLU
from .activation import ReLU6 as ReLU6
from .adder import Adder2d as Adder2d
from .adder import adder2d as adder2d
from .config import QuantConfig as QuantConfig
from .layers import Conv1d as Conv1d
from .layers import Conv2d as Conv2d
from .layers import Linear as Linear
from .network import config_network as config_network
from .norm import BatchNorm2d as BatchNorm2d
from .sgd import SGD as SGD
