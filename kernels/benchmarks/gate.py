"""Compile every kernel with every tuned tile for Hopper, without a GPU, and look at what came out.

    python kernels/benchmarks/gate.py

    HGMMA     the tensor cores are fed by warpgroup instructions: without them a kernel that multiplies is at a third of its speed
    stack 0   no sums spilled from registers to memory
    shared    at most 227 KB, what a block may have
    registers at most 255 a thread, what one may have

Compiling needs Triton's own compiler and the assembler in its package: one to three seconds a kernel. Exit code 1 if any fails.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from llama4_kernels import (
    attention_backward,
    attention_chunked,
    attention_decode,
    decode,
    down,
    int4,
    int4_prefill,
    persistent,
    swiglu,
    turn,
)
from llama4_kernels.configs import HOPPER, Tile

SHARED, REGISTERS = 227 * 1024, 255
DTYPES = ("bf16", "fp16")
HEADS = {"Scout": {"SHARING": 5, "WIDTH": 128}, "default": {"SHARING": 3, "WIDTH": 32}}  # Maverick's are Scout's
ANY = ("experts", "tokens", "length", "queries", "slots", "heads", "kv_heads")  # sizes that need not be multiples of 16
EXPERTS = {"Scout": 32, "Maverick": 256}  # SLOTS: the power of two above 16 and 128


@dataclass(frozen=True)
class Case:
    """One kernel as it is launched: types of its arguments by name, and its constants."""

    name: str
    kernel: triton.JITFunction
    types: dict[str, str]
    constants: dict[str, object]
    tile: Tile
    multiplies: bool = True  # on tensor cores


@dataclass(frozen=True)
class Compiled:
    """What the assembler says of a kernel."""

    registers: int
    stack: int
    shared: int
    hgmma: int
    copies: int

    def faults(self, multiplies: bool = True) -> list[str]:
        """What the gate refuses; empty when it passes."""
        return [
            *([] if self.hgmma or not multiplies else ["no HGMMA"]),
            *([f"{self.stack} bytes of stack"] if self.stack else []),
            *([f"{self.shared} bytes of shared memory"] if self.shared > SHARED else []),
            *([f"{self.registers} registers"] if self.registers > REGISTERS else []),
        ]


def cases() -> list[Case]:
    """Every kernel, dtype and number of experts that a Scout or Maverick layer launches, forward and backward."""
    found = []
    for dtype in DTYPES:
        for model, slots in EXPERTS.items():
            found += [*_multiplies(dtype, model, slots), *_gate_ups(dtype, model, slots), _down(dtype, model, slots)]
            found += _int4_prefill(dtype, model, slots)
            few = [case for tokens in (16, 32, 64) for case in _decode(dtype, model, slots, tokens)]
            few += [case for tokens in (16, 32) for case in _int4(dtype, model, slots, tokens)]
            # Triton makes a constant of an argument that is 1: one token has kernels of its own.
            one = [
                replace(case, name=f"one token: {case.name}", constants={**case.constants, "tokens": 1})
                for case in few
                if case.constants["TOKENS"] == 16
            ]
            found += few + one
        found += [_gradient(dtype), *_chunked(dtype), *_attention_decode(dtype)]
    return found


def _sizes(tile: Tile) -> dict[str, object]:
    return {"ROWS": tile.rows, "COLUMNS": tile.columns, "DEPTH": tile.depth}


def _multiplies(dtype: str, model: str, slots: int) -> list[Case]:
    tile, cases = HOPPER["forward"], []
    for turned in (False, True):
        block = f"1, {tile.columns}, {tile.depth}" if turned else f"1, {tile.depth}, {tile.columns}"
        types = {"x_desc": f"tensordesc<{dtype}[{tile.rows}, {tile.depth}]>", "w_desc": f"tensordesc<{dtype}[{block}]>"}
        constants = {**_sizes(tile), "BAND": tile.band, "SLOTS": slots, "TRANSPOSED": turned}
        name = f"grouped matmul{', w turned' if turned else ''}, {model}, {dtype}"
        cases.append(
            Case(name, persistent._multiply, {**types, "y_ptr": f"*{dtype}", "ends_ptr": "*i64"}, constants, tile)
        )
    return cases


def _gradient(dtype: str) -> Case:
    tile = HOPPER["weight_gradient"]
    types = {
        "x_desc": f"tensordesc<{dtype}[{tile.depth}, {tile.rows}]>",
        "dy_desc": f"tensordesc<{dtype}[{tile.depth}, {tile.columns}]>",
        **{"dw_ptr": f"*{dtype}", "ends_ptr": "*i64"},
    }
    return Case(f"weight gradient, {dtype}", persistent._weight_gradient, types, _sizes(tile), tile)


def _gate_ups(dtype: str, model: str, slots: int) -> list[Case]:
    tile, cases = HOPPER["gate_up"], []
    for routed in (True, False):
        for keep in (False, True):
            block = f"1, {tile.depth}, {tile.columns}" if routed else f"1, {tile.columns}, {tile.depth}"
            descriptors = dict.fromkeys(("gate_desc", "up_desc"), f"tensordesc<{dtype}[{block}]>")
            order, score = ("*i64", "*fp32") if routed else (f"*{dtype}", f"*{dtype}")
            types = {**descriptors, **dict.fromkeys(("x_ptr", "h_ptr", "ab_ptr"), f"*{dtype}")}
            types |= {"order_ptr": order, "score_ptr": score, "ends_ptr": "*i64"}
            constants = {**_sizes(tile), "BAND": tile.band, "SLOTS": slots if routed else 2}
            constants |= {"ROUTED": routed, "KEEP": keep, "EVEN": True}
            whose = model if routed else "shared expert"
            name = f"gate and up, {whose}{', training' if keep else ''}, {dtype}"
            if routed or model == "Scout":
                cases.append(Case(name, swiglu._gate_up, types, constants, tile))
    return cases


def _down(dtype: str, model: str, slots: int) -> Case:
    tile = HOPPER["down"]
    types = {
        "h_desc": f"tensordesc<{dtype}[{tile.rows}, {tile.depth}]>",
        "w_desc": f"tensordesc<{dtype}[1, {tile.depth}, {tile.columns}]>",
        **{"y_ptr": f"*{dtype}", "order_ptr": "*i64", "ends_ptr": "*i64"},
    }
    constants = {**_sizes(tile), "BAND": tile.band, "SLOTS": slots}
    return Case(f"down, added in place, {model}, {dtype}", down._add_down, types, constants, tile)


def _decode(dtype: str, model: str, slots: int, tokens: int) -> list[Case]:
    """The two launches for a few tokens."""
    numbers = {"order_ptr": "*i64", "ends_ptr": "*i64"}
    cases = []
    for name, kernel in (("gate_up", decode._gate_up), ("down", decode._down)):
        tile = HOPPER[f"decode_{name}"]
        turned = f"tensordesc<{dtype}[1, {tile.depth}, {tile.columns}]>"
        plain = f"tensordesc<{dtype}[{tile.columns}, {tile.depth}]>"
        descriptors = {
            **dict.fromkeys(("gate_up_desc", "down_desc"), turned),
            **dict.fromkeys(("shared_gate_desc", "shared_up_desc", "shared_down_desc"), plain),
        }
        pointers = dict.fromkeys(("x_ptr", "h_ptr", "shared_h_ptr"), f"*{dtype}")
        types = {**descriptors, **pointers, **numbers, "score_ptr": "*fp32", "parts_ptr": "*fp32"}
        constants = {"TOKENS": tokens, "COLUMNS": tile.columns, "DEPTH": tile.depth, "SLOTS": slots}
        constants |= {"SLICES": decode.SLICES} if name == "down" else {}
        cases.append(Case(f"decode {name}, {tokens} wide, {model}, {dtype}", kernel, types, constants, tile))
    return cases


def _int4(dtype: str, model: str, slots: int, tokens: int) -> list[Case]:
    """The same two on int4 weights, in groups of 128 as D = 5120 and F = 8192 have them."""
    tile = HOPPER["int4"]
    types = dict.fromkeys(("q_ptr", "gate_q_ptr", "up_q_ptr", "shared_q_ptr"), "*u8")
    narrow = ("scale_ptr", "gate_scale_ptr", "up_scale_ptr", "shared_scale_ptr", "x_ptr", "h_ptr", "shared_h_ptr")
    types |= dict.fromkeys(narrow, f"*{dtype}")
    types |= {"order_ptr": "*i64", "ends_ptr": "*i64", "score_ptr": "*fp32", "parts_ptr": "*fp32"}
    constants = {"TOKENS": tokens, "COLUMNS": tile.columns, "GROUP": 128}
    slices, slots_ = {"SLICES": int4.SLICES}, {"SLOTS": slots}
    both = (("gate_up", int4._gate_up, slots_), ("down", int4._down, {"SHARED_GROUP": 128, **slices, **slots_}))
    both += (("linear", int4._linear, slices),) if model == "Scout" else ()
    return [
        Case(f"int4 {name}, {tokens} wide, {model}, {dtype}", kernel, types, constants | more, tile)
        for name, kernel, more in both
    ]


def _chunked(dtype: str) -> list[Case]:
    """Chunked attention, forward and backward."""
    names = ("q_ptr", "k_ptr", "v_ptr", "out_ptr", "dout_ptr", "dq_ptr", "dk_ptr", "dv_ptr")
    types = dict.fromkeys(names, f"*{dtype}") | dict.fromkeys(("scale", "unit"), "fp32")
    types |= dict.fromkeys(("lse_ptr", "delta_ptr"), "*fp32")
    found = []
    for name, key, kernel in (
        ("forward", "attention", attention_chunked._forward),
        ("dq", "attention_dq", attention_backward._query_gradient),
        ("dk and dv", "attention_dkv", attention_backward._key_value_gradient),
    ):
        tile = HOPPER[key]
        sizes = {"ROWS": tile.rows, "COLUMNS": tile.columns, "PRECISION": "tf32"}
        for model, heads in HEADS.items():
            found.append(Case(f"chunked attention, {name}, {model}, {dtype}", kernel, types, {**heads, **sizes}, tile))
    return found


def _attention_decode(dtype: str) -> list[Case]:
    """One token of five heads a key/value head, which is a kernel of its own, since Triton makes a constant of 1; and more."""
    tile = HOPPER["attention_decode"]
    types = dict.fromkeys(("q_ptr", "k_ptr", "v_ptr"), f"*{dtype}") | dict.fromkeys(("parts_ptr", "lse_ptr"), "*fp32")
    types |= {"seen_ptr": "*i64", "scale": "fp32"}
    constants = {"COLUMNS": tile.columns, "SPLITS": 32, "PRECISION": "tf32"}
    found = []
    for model, heads in HEADS.items():
        for name, rows, more in (("one token", 16, {"queries": 1}), ("16 rows", 16, {}), ("32 rows", 32, {})):
            here = {**constants, **heads, "ROWS": rows, **more}
            told = f"attention decode, {name}, {model}, {dtype}"
            found.append(Case(told, attention_decode._attend_split, types, here, tile))
    types |= {"out_ptr": f"*{dtype}"}
    added = {"WIDTH": tile.depth, "SPLITS": attention_decode.MOST_SPLITS}
    found.append(
        Case(f"attention decode, splits added, {dtype}", attention_decode._add_splits, types, added, tile, False)
    )
    types = dict.fromkeys(("q_ptr", "k_ptr", "q_out_ptr", "k_out_ptr"), f"*{dtype}")
    types |= {"cos_ptr": "*fp32", "sin_ptr": "*fp32", "eps": "fp32"}
    turned = {"WIDTH": tile.depth, "HEADS": turn.HEADS, "NORM": True}
    found.append(Case(f"rotation and QK norm, {dtype}", turn._turn, types, turned, tile, False))
    return found


def _int4_prefill(dtype: str, model: str, slots: int) -> list[Case]:
    """Many tokens on int4 weights: routed, and for one group of all rows (the shared expert, a linear layer)."""
    pointers = dict.fromkeys(("q_ptr", "gate_q_ptr", "up_q_ptr"), "*u8")
    pointers |= dict.fromkeys(("scale_ptr", "gate_scale_ptr", "up_scale_ptr", "x_ptr", "h_ptr", "y_ptr"), f"*{dtype}")
    pointers |= {"order_ptr": "*i64", "ends_ptr": "*i64", "score_ptr": "*fp32"}
    cases = []
    for name, kernel, routed in (
        ("gate_up", int4_prefill._gate_up, "ROUTED"),
        ("product", int4_prefill._multiply, "ADD"),
    ):
        tile = HOPPER[f"int4_{name}"]
        constants = {"TOKENS": tile.rows, "COLUMNS": tile.columns, "GROUP": 128, "BAND": tile.band}
        cases.append(
            Case(
                f"int4 prefill {name}, {model}, {dtype}",
                kernel,
                pointers,
                {**constants, "SLOTS": slots, routed: True},
                tile,
            )
        )
        if model == "Scout":
            one = {**constants, "SLOTS": 2, routed: False, "experts": 1}
            cases.append(Case(f"int4 prefill {name}, all rows, {dtype}", kernel, pointers, one, tile))
    return cases


def compiled(case: Case) -> Compiled:
    """Compile for sm_90; pointers and sizes are multiples of 16, as those of the real models are."""
    names = case.kernel.arg_names
    types = {name: "constexpr" if name in case.constants else case.types.get(name, "i32") for name in names}
    attributes = {
        (place,): [["tt.divisibility", 16]]
        for place, name in enumerate(names)
        if types[name].startswith("*") or (types[name] == "i32" and name not in ANY)
    }
    constants = {(names.index(name),): value for name, value in case.constants.items()}
    source = ASTSource(fn=case.kernel, signature=types, constexprs=constants, attrs=attributes)
    options = {"num_warps": case.tile.warps, "num_stages": case.tile.stages}
    kernel = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage, sass = (_cuobjdump(option, file.name) for option in ("--dump-resource-usage", "--dump-sass"))
    return Compiled(
        registers=int(re.search(r"REG:(\d+)", usage)[1]),
        stack=int(re.search(r"STACK:(\d+)", usage)[1]),
        shared=kernel.metadata.shared,
        hgmma=sass.count("HGMMA"),
        copies=sass.count("UTMALDG"),
    )


def _cuobjdump(option: str, file: str) -> str:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    return subprocess.run([tool, option, file], capture_output=True, text=True, check=True).stdout


def main() -> int:
    """Print the table; 1 if a kernel fails."""
    print(f"Triton {triton.__version__}, sm_90\n")
    print(f"{'kernel':48} {'registers':>9} {'stack':>6} {'shared':>8} {'HGMMA':>6} {'TMA':>4}  verdict")
    failed = 0
    for case in cases():
        found = compiled(case)
        faults = found.faults(case.multiplies)
        failed += bool(faults)
        row = f"{found.registers:>9} {found.stack:>6} {found.shared:>8} {found.hgmma:>6} {found.copies:>4}"
        print(f"{case.name:48} {row}  {', '.join(faults) or 'ok'}", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
