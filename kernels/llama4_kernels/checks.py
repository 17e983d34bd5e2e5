"""What the kernels cannot take, told in one sentence before anything is launched: a wrong stride on a GPU is a wrong number."""

from __future__ import annotations

import torch
from torch import Tensor

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
WIDTHS = (
    16,
    32,
    64,
    128,
)  # of a head: powers of two that a tensor core multiplies and a tile of sums has registers for


def check_grouped(x_ND: Tensor, w_EDF: Tensor, group_ends_E: Tensor) -> None:
    """Raise where `grouped_matmul` would read past an end or give nonsense."""
    if x_ND.dim() != 2 or w_EDF.dim() != 3 or x_ND.shape[1] != w_EDF.shape[1]:
        raise ValueError(
            f"grouped_matmul needs x [N, D] and w [E, D, F], but got {list(x_ND.shape)} and {list(w_EDF.shape)}."
        )
    if list(group_ends_E.shape) != [w_EDF.shape[0]] or group_ends_E.dtype not in (torch.int64, torch.int32):
        raise ValueError(
            f"grouped_matmul needs one int64 group end for each of {w_EDF.shape[0]} experts, but got "
            f"{group_ends_E.dtype} {list(group_ends_E.shape)}."
        )
    same_kind("grouped_matmul", {"x": x_ND, "w": w_EDF})
    same_device("grouped_matmul", {"x": x_ND, "w": w_EDF, "group_ends": group_ends_E})
    if not group_ends_E.is_contiguous():
        raise ValueError("grouped_matmul needs group_ends without gaps: call .contiguous() on it.")


def check_moe(
    x_ND: Tensor,
    router_logits_NE: Tensor,
    gate_up_EDF: Tensor,
    down_EFD: Tensor,
    shared_gate_FD: Tensor,
    shared_up_FD: Tensor,
    shared_down_DF: Tensor,
) -> None:
    """Raise where `moe_mlp` would read past an end or give nonsense."""
    if x_ND.dim() != 2 or gate_up_EDF.dim() != 3:
        raise ValueError(
            f"moe_mlp needs x [N, D] and gate_up [E, D, 2F], but got {list(x_ND.shape)} and {list(gate_up_EDF.shape)}."
        )
    (rows, width), (experts, _, both) = x_ND.shape, gate_up_EDF.shape
    hidden, shared_hidden = both // 2, shared_gate_FD.shape[0]
    named = {
        "x": (x_ND, [rows, width]),
        "router_logits": (router_logits_NE, [rows, experts]),
        "gate_up": (gate_up_EDF, [experts, width, 2 * hidden]),
        "down": (down_EFD, [experts, hidden, width]),
        "shared_gate": (shared_gate_FD, [shared_hidden, width]),
        "shared_up": (shared_up_FD, [shared_hidden, width]),
        "shared_down": (shared_down_DF, [width, shared_hidden]),
    }
    for name, (tensor, shape) in named.items():
        if list(tensor.shape) != shape:
            raise ValueError(
                f"moe_mlp needs {name} of shape {shape}, as x and gate_up have it, but got {list(tensor.shape)}."
            )
        if not tensor.is_contiguous():
            raise ValueError(f"moe_mlp needs {name} without gaps and not transposed: call .contiguous() on it.")
    if width % 8 or hidden % 8 or shared_hidden % 8:
        raise ValueError(
            f"moe_mlp needs widths that are multiples of 8, for blocks that begin at multiples of 16 bytes, but got D {width} "
            f"and F {hidden}, {shared_hidden}."
        )
    same_device("moe_mlp", {name: tensor for name, (tensor, _) in named.items()})
    same_kind("moe_mlp", {name: tensor for name, (tensor, _) in named.items() if name != "router_logits"})
    if x_ND.dtype == torch.float32 or router_logits_NE.dtype != torch.float32:
        raise TypeError(
            f"moe_mlp needs x and weights in bfloat16 or float16 and router_logits in float32, but got {x_ND.dtype} and "
            f"{router_logits_NE.dtype}."
        )


def check_aligned(x_ND: Tensor, *weights: Tensor) -> None:
    """Raise where the copy engine cannot begin to read. In the operator, not before it: a compiler has no addresses yet."""
    names = ("x", "gate_up", "down", "shared_gate", "shared_up", "shared_down")
    for name, tensor in zip(names, (x_ND, *weights), strict=True):
        if tensor.data_ptr() % 16:
            raise ValueError(f"moe_mlp needs {name} to begin at a multiple of 16 bytes: call .clone() on it.")


def check_int4(
    x_ND: Tensor,
    router_logits_NE: Tensor,
    gate_up: tuple[Tensor, Tensor],
    down: tuple[Tensor, Tensor],
    gate: tuple[Tensor, Tensor],
    up: tuple[Tensor, Tensor],
    shared_down: tuple[Tensor, Tensor],
) -> None:
    """Raise where `moe_mlp_int4` would read past an end or give nonsense."""
    if x_ND.dim() != 2 or gate_up[0].dim() != 3 or gate[0].dim() != 2:
        raise ValueError("moe_mlp_int4 needs x [N, D], gate_up's q [E, 2F, D / 2] and the shared gate's q [F, D / 2].")
    (rows, width), (experts, both, _), shared_hidden = x_ND.shape, gate_up[0].shape, len(gate[0])
    if list(router_logits_NE.shape) != [rows, experts]:
        raise ValueError(
            f"moe_mlp_int4 needs router_logits of shape {[rows, experts]}, but got {list(router_logits_NE.shape)}."
        )
    named = {
        "gate_up": (gate_up, [experts, both, width]),
        "down": (down, [experts, width, both // 2]),
        "shared gate": (gate, [shared_hidden, width]),
        "shared up": (up, [shared_hidden, width]),
        "shared down": (shared_down, [width, shared_hidden]),
    }
    groups = {name: _int4_group(name, packed, shape) for name, (packed, shape) in named.items()}
    if len({groups[name] for name in ("gate_up", "shared gate", "shared up")}) > 1:
        raise ValueError(f"moe_mlp_int4 needs one group for gate_up and the shared gate and up, but got {groups}.")
    tensors = {"x": x_ND, "router_logits": router_logits_NE}
    tensors |= {
        f"{name} {part}": t for name, (pair, _) in named.items() for part, t in zip(("q", "scale"), pair, strict=True)
    }
    same_device("moe_mlp_int4", tensors)
    _check_x("moe_mlp_int4", x_ND)


def check_int4_linear(x: Tensor, weight: tuple[Tensor, Tensor]) -> None:
    """Raise where `linear_int4` would read past an end or give nonsense."""
    if x.dim() < 2 or weight[0].dim() != 2:
        raise ValueError(
            f"linear_int4 needs x [..., D] and q [F, D / 2], but got {list(x.shape)} and {list(weight[0].shape)}."
        )
    _int4_group("the weight", weight, [len(weight[0]), x.shape[-1]])
    same_device("linear_int4", {"x": x, "q": weight[0], "scale": weight[1]})
    _check_x("linear_int4", x)


def _check_x(name: str, x: Tensor) -> None:
    if x.dtype not in (torch.bfloat16, torch.float16):
        raise TypeError(f"{name} needs x in bfloat16 or float16, but got {x.dtype}.")
    if not x.is_contiguous():
        raise ValueError(f"{name} needs x without gaps: call .contiguous() on it.")


def check_chunked(q_BSHK: Tensor, k_BSGK: Tensor, v_BSGK: Tensor, chunk: int) -> None:
    """Raise where `chunked_attention` would read past an end or give nonsense."""
    _check_heads("chunked_attention", q_BSHK, k_BSGK, v_BSGK)
    if k_BSGK.shape[1] != q_BSHK.shape[1]:
        raise ValueError(
            f"chunked_attention needs a key for each query of a row, but got {k_BSGK.shape[1]} and {q_BSHK.shape[1]}."
        )
    if chunk < 1:
        raise ValueError(f"chunked_attention needs a chunk of at least 1 position, but got {chunk}.")


def check_decode(q_BSHK: Tensor, k_BTGK: Tensor, v_BTGK: Tensor, seen_BS: Tensor, most_rows: int) -> None:
    """Raise where `decode_attention` would read past an end or give nonsense. What `seen` holds is the device's to know."""
    _check_heads("decode_attention", q_BSHK, k_BTGK, v_BTGK)
    batch, queries, heads, _ = q_BSHK.shape
    if list(seen_BS.shape) != [batch, queries] or seen_BS.dtype not in (torch.int64, torch.int32):
        raise ValueError(
            f"decode_attention needs seen as int64 or int32 {[batch, queries]}, a count of slots for each query, but got "
            f"{seen_BS.dtype} {list(seen_BS.shape)}."
        )
    if queries * heads // k_BTGK.shape[2] > most_rows:
        raise ValueError(
            f"decode_attention takes at most {most_rows} queries times heads a key/value head, but got {queries} times "
            f"{heads // k_BTGK.shape[2]}: attend to fewer positions a call."
        )
    same_device("decode_attention", {"q": q_BSHK, "seen": seen_BS})


def check_turn(name: str, q_BSHK: Tensor, k_BSGK: Tensor, cos_BSK: Tensor, sin_BSK: Tensor) -> None:
    """Raise where `rotate` or `rotate_and_norm` would read past an end or give nonsense."""
    _check_heads(name, q_BSHK, k_BSGK, k_BSGK)
    if q_BSHK.shape[1] != k_BSGK.shape[1]:
        raise ValueError(
            f"{name} needs a key for each query of a row, but got {k_BSGK.shape[1]} and {q_BSHK.shape[1]}."
        )
    angles = [*q_BSHK.shape[:2], q_BSHK.shape[3] // 2]
    for angle, tensor in (("cos", cos_BSK), ("sin", sin_BSK)):
        if list(tensor.shape) != angles or tensor.dtype != torch.float32 or not tensor.is_contiguous():
            raise ValueError(
                f"{name} needs {angle} as float32 {angles} without gaps, but got {tensor.dtype} {list(tensor.shape)}."
            )
    same_device(name, {"q": q_BSHK, "cos": cos_BSK, "sin": sin_BSK})


def _check_heads(name: str, q_BSHK: Tensor, k_BTGK: Tensor, v_BTGK: Tensor) -> None:
    """What all attention asks of q, k and v."""
    shapes = [list(tensor.shape) for tensor in (q_BSHK, k_BTGK, v_BTGK)]
    if q_BSHK.dim() != 4 or k_BTGK.dim() != 4 or shapes[1] != shapes[2] or shapes[0][::3] != shapes[1][::3]:
        raise ValueError(
            f"{name} needs q [B, S, H, K] and k, v [B, T, G, K], but got {shapes[0]}, {shapes[1]}, {shapes[2]}."
        )
    heads, kv_heads, width = q_BSHK.shape[2], k_BTGK.shape[2], q_BSHK.shape[3]
    if kv_heads == 0 or heads == 0 or heads % kv_heads:
        raise ValueError(
            f"{name} needs query heads that are a multiple of key/value heads, but got {heads} and {kv_heads}."
        )
    if width not in WIDTHS:
        raise ValueError(f"{name} needs heads of width 16, 32, 64 or 128, but got {width}.")
    for tensor_name, tensor in (("q", q_BSHK), ("k", k_BTGK), ("v", v_BTGK)):
        if tensor.stride(3) != 1:
            raise ValueError(
                f"{name} needs the numbers of a head of {tensor_name} side by side: call .contiguous() on it."
            )
    same_kind(name, {"q": q_BSHK, "k": k_BTGK, "v": v_BTGK})
    same_device(name, {"q": q_BSHK, "k": k_BTGK, "v": v_BTGK})


def _int4_group(name: str, packed: tuple[Tensor, Tensor], shape: list[int]) -> int:
    """The group of one weight `[..., out, in]`, after its bytes and scales were found to belong together."""
    q, scale = packed
    *lead, width = shape
    if q.dtype != torch.uint8 or list(q.shape) != [*lead, width // 2] or list(scale.shape[:-1]) != lead:
        raise ValueError(
            f"int4 needs {name} as uint8 {[*lead, width // 2]} and scales {[*lead, '…']}, but got {q.dtype} "
            f"{list(q.shape)} and {list(scale.shape)}."
        )
    group = width // max(1, scale.shape[-1])
    if group * scale.shape[-1] != width or group not in (32, 64, 128):
        raise ValueError(f"int4 needs groups of 32, 64 or 128 in {name}, but got {scale.shape[-1]} for {width}.")
    if not (q.is_contiguous() and scale.is_contiguous()):
        raise ValueError(f"int4 needs {name} without gaps and not transposed: call .contiguous() on it.")
    return group


def same_kind(name: str, tensors: dict[str, Tensor]) -> None:
    """One of DTYPES for all."""
    dtypes = {key: tensor.dtype for key, tensor in tensors.items()}
    if len(set(dtypes.values())) > 1 or next(iter(dtypes.values())) not in DTYPES:
        given = ", ".join(f"{key} {dtype}" for key, dtype in dtypes.items())
        raise TypeError(f"{name} needs bfloat16, float16 or float32, the same for all, but got {given}.")


def same_device(name: str, tensors: dict[str, Tensor]) -> None:
    """One device for all."""
    devices = {key: str(tensor.device) for key, tensor in tensors.items()}
    if len(set(devices.values())) > 1:
        given = ", ".join(f"{key} on {device}" for key, device in devices.items())
        raise ValueError(f"{name} needs all tensors on one device, but got {given}.")
