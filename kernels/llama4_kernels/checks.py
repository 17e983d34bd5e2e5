"""What the kernels cannot take, told in one sentence before anything is launched: a wrong stride on a GPU is a wrong number."""

from __future__ import annotations

import torch
from torch import Tensor

DTYPES = (torch.bfloat16, torch.float16, torch.float32)


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
