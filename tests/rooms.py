"""Who may import whom, as data: `test_architecture.py` holds the package to it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Room:
    """A part of the package: what it may import beside the standard library, and what never."""

    may: tuple[str, ...]
    never: tuple[str, ...] = ()


DECISIONS = ("fxmem.plan", "fxmem.policy")
PAIR_TOOLS = tuple(
    f"fxmem.passes.pair.{name}"
    for name in (
        *("graphs", "rewrite", "eligible", "sensitivity", "logits", "allocate"),
        *("cones", "products", "curves", "steps", "hoist"),
        *("masked", "ranges", "unbounded", "averages", "codable", "companions"),
        *("places", "parts"),
    )
)
TOOLS = (
    "torch",
    *(f"fxmem.passes.{name}" for name in ("graph", "operators", "emit", "bits")),
    *DECISIONS,
)
RULE = Room((*TOOLS, "fxmem.passes.rule", *PAIR_TOOLS, "fxmem.activations", "fxmem.ops"))
FORWARD_TOOLS = tuple(
    f"fxmem.passes.forward.{name}"
    for name in (
        *("dialect", "effects", "constants", "cones", "known", "activations", "eager", "uses"),
        *("traced", "emit", "coded", "nested", "differentiated", "rule"),
        *("loss_path", "losses", "z_loss"),
    )
)
FORWARD = (*TOOLS, *FORWARD_TOOLS, "fxmem.activations", "fxmem.ops")
ENTRANCE = (
    "torch",
    "functorch",
    *("fxmem.passes", "fxmem.ops", *DECISIONS),
    *("fxmem.backend", "fxmem.partitioner", "fxmem.history", "fxmem.measure"),
)
REVERSIBLE = "fxmem.passes.joint.reversible"
SKETCHES = "fxmem.passes.joint.sketches"
NORMS = "fxmem.passes.forward.norms"
MODULES = ("torch", "fxmem.ops", "fxmem.activations", "fxmem.functional")
INTEGERS = ("torch", "fxmem.ops", "fxmem.quantizers", "fxmem.integer")
PROGRAM = Room(("fxmem", "torch", "numpy", "transformers", "matplotlib", "tqdm"))

# The most exact name counts; "x.*" is whatever in x has no row of its own. A rule's row lets it
# import no other rule: the registry alone imports them.
ROOMS = {
    "fxmem": Room(("fxmem",)),
    "fxmem.__main__": PROGRAM,
    "fxmem.demo": PROGRAM,
    "fxmem.commands": PROGRAM,
    "fxmem.plan": Room(("fxmem.tables",)),
    "fxmem.tables": Room(("fxmem.plan",)),
    "fxmem.policy": Room(("fxmem.switches",)),
    "fxmem.switches": Room(()),
    "fxmem.compat": Room(("torch",)),
    "fxmem.history": Room(("torch", *DECISIONS)),
    "fxmem.measure": Room(("torch", "fxmem.measure")),
    "fxmem.backend": Room(ENTRANCE),
    "fxmem.partitioner": Room(ENTRANCE),
    "fxmem.transform": Room(ENTRANCE),
    "fxmem.observer": Room((*ENTRANCE, "fxmem.partitioner")),
    "fxmem.explain": Room((*ENTRANCE, "fxmem.measure", "fxmem.observer", "fxmem.nn")),
    "fxmem.activations": Room(("sympy", "numpy", "fxmem.activations")),
    "fxmem.ops": Room(("torch", "fxmem.ops", "fxmem.activations"), never=("torch.fx",)),
    "fxmem.passes": Room(("fxmem.passes",)),
    "fxmem.passes.bits": Room((*TOOLS, "fxmem.ops")),
    "fxmem.passes.emit": Room(("torch",)),
    "fxmem.passes.operators": Room(("torch",)),
    "fxmem.passes.graph": Room(("torch", "fxmem.plan")),
    "fxmem.passes.paths": Room(("torch",)),
    "fxmem.passes.registry": Room(("fxmem.passes.pair", "fxmem.policy")),
    "fxmem.passes.rule": Room((*TOOLS, *PAIR_TOOLS)),
    "fxmem.passes.forward": Room(()),
    "fxmem.passes.forward.asked": Room(("torch", "fxmem.passes.forward", *DECISIONS)),
    "fxmem.passes.forward.registry": Room(("torch", "fxmem.passes.forward", *DECISIONS)),
    "fxmem.passes.forward.rewrite": Room(FORWARD),
    **{tool: Room((*FORWARD, "numpy")) for tool in FORWARD_TOOLS},
    "fxmem.passes.forward.*": Room(FORWARD),
    NORMS: Room((*FORWARD, NORMS)),
    "fxmem.passes.joint": Room((*RULE.may, "fxmem.passes.joint")),
    "fxmem.passes.joint.*": RULE,
    "fxmem.passes.joint.inputs": Room((*TOOLS, "fxmem.passes.joint.copies")),
    REVERSIBLE: Room((*TOOLS, REVERSIBLE)),
    f"{REVERSIBLE}.shrinking": Room((*TOOLS, REVERSIBLE, "fxmem.ops")),
    f"{REVERSIBLE}.streams": Room((*TOOLS, REVERSIBLE, "fxmem.ops")),
    f"{REVERSIBLE}.reverse": Room((*RULE.may, REVERSIBLE)),
    SKETCHES: Room((*RULE.may, SKETCHES)),
    "fxmem.passes.pair": Room((*RULE.may, "fxmem.passes.pair")),
    "fxmem.passes.pair.*": RULE,
    **{tool: Room((*TOOLS, *PAIR_TOOLS, "fxmem.ops")) for tool in PAIR_TOOLS},
    "fxmem.passes.pair.curves": Room((*TOOLS, *PAIR_TOOLS, "numpy")),
    "fxmem.passes.pair.steps": Room((*PAIR_TOOLS, "fxmem.activations", "numpy")),
    "fxmem.functional": Room((*MODULES, "sympy", "numpy")),
    "fxmem.nn": Room((*MODULES, "fxmem.nn", "fxmem.passes.forward", "numpy", "tqdm")),
    "fxmem.nn.reversible": Room(("torch", "fxmem.ops", "fxmem.nn.reversible")),
    "fxmem.convert": Room((*MODULES, "fxmem.nn")),
    "fxmem.calibrate": Room((*MODULES, "fxmem.nn", "fxmem.convert")),
    "fxmem.quantizers": Room(("torch", "fxmem.ops", "fxmem.quantizers")),
    "fxmem.integer": Room(INTEGERS),
    "fxmem.nn.quantized": Room((*INTEGERS, "fxmem.nn.quantized")),
    "fxmem.passes.forward.integer": Room((*FORWARD, "fxmem.integer")),
    "fxmem.passes.forward.exact_codes": Room((*FORWARD, "fxmem.integer")),
    "fxmem.weights": Room(("torch", "fxmem.quantizers", "fxmem.weights")),
    "fxmem.weights.rewritten": Room((*INTEGERS, "fxmem.weights")),
}
EVERYWHERE = ("fxmem.compat",)
