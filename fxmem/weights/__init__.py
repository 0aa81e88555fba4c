"""The external weight manager: layers compute with quantized weights, the optimizer with masters.

    manager = fxmem.weights.ExternalWeightManager(model, "dorefa", bits=2)
    for x, y in batches:
        optimizer.zero_grad()
        with manager:  # the weights are quantized in here
            loss_function(model(x), y).backward()
        optimizer.step()  # on the masters, with gradients as the method wants them
        manager.clip()

or, round the optimizer's own step, with no change of the loop at all:

    manager = fxmem.weights.ExternalWeightManager(model, "binaryconnect", optimizer=optimizer)

Trained, the weights are saved in the bits that they need, and read by another program:

    export = manager.export()  # print it for the bytes of each weight
    export.save("bits.pt")
    model = fxmem.weights.Export.load("bits.pt").load_into(Model())
"""

from .export import Export as Export
from .manager import ExternalWeightManager as ExternalWeightManager
from .methods import METHODS as METHODS
from .methods import Treatment as Treatment
from .methods import centred as centred
from .order import OrderError as OrderError
from .packing import pack_model as pack_model
