"""Compare a checkpoint, as this code runs it, with a recorded reference, and name the first layer that diverges.

    float32    max|ours - reference| <= 1e-5 * max(1, max|reference|)          rounding in another order, and no more
    bfloat16   RMS(ours - reference) / RMS(reference) <= 1.25 * own error      the reference is float32; own error is what the
               reference itself loses to bf16 (recording.py)
    bfloat16   ... <= 0.2 where the file does not say: it holds bf16 numbers, or no `own_error`

The embedding is the first stage, then every layer, then the logits: the first one over its bound holds the mistake, or what
feeds it does; those after it inherit the error. With logits alone the answer is yes or no, and where.

In bf16 our router's choice is replaced by the file's, where the file has it: two scores that tie after rounding would send a
token to another expert, and the number would say nothing about the code. In float32 routing is our own, and tokens that went
elsewhere are counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from llama4.config import Config
from llama4.errors import InputError
from llama4.load import load_model, resolve_dtype, resolve_path
from llama4.model import Llama4
from llama4.parity.recording import relative_rms, stages
from llama4.parity.routing import Routing, forced, recorded, routers

FP32_BOUND = 1e-5
BF16_OWN_FACTOR = 1.25
BF16_BOUND = 0.2  # drawn models of 2 to 48 layers came to 0.006 to 0.14, both sides in bf16: coarse, so record float32


@dataclass(frozen=True)
class Stage:
    """One comparison: how far ours is from the reference after the embedding, a layer, or the head."""

    name: str
    max_abs: float
    relative_rms: float
    measure: str  # which of the two decides: "max_abs" or "relative_rms"
    bound: float
    worst: tuple[int, int]  # row and column of the largest difference
    rerouted: int | None  # tokens whose expert is not the reference's; None without MoE or without routing in the file

    @property
    def ok(self) -> bool:
        """Within the bound; a NaN is not."""
        return getattr(self, self.measure) <= self.bound


@dataclass(frozen=True)
class ParityReport:
    """All stages of one comparison, in the order of the computation."""

    checkpoint: str
    file: str
    reference: str
    dtype: str
    stages: tuple[Stage, ...]

    @property
    def passed(self) -> bool:
        """Every stage within its bound."""
        return self.first_divergent is None

    @property
    def first_divergent(self) -> str | None:
        """Name of the first stage over its bound, "layer 3" say; None when there is none."""
        return next((stage.name for stage in self.stages if not stage.ok), None)

    def as_dict(self) -> dict[str, Any]:
        """Plain types, with the verdict of every stage."""
        listed = [
            asdict(stage)
            | {"max_abs": _finite(stage.max_abs), "relative_rms": _finite(stage.relative_rms)}
            | {"worst": list(stage.worst), "ok": stage.ok}
            for stage in self.stages
        ]
        return asdict(self) | {"passed": self.passed, "first_divergent": self.first_divergent, "stages": listed}


def render(report: ParityReport) -> str:
    """The table that `llama4 parity` prints: a line a stage, and the verdict."""
    title = f"{report.checkpoint} in {report.dtype} against {report.reference}"
    head = f"{'stage':<12}{'max abs':>11}{'relative RMS':>14}{'bound':>11}  {'verdict':<10}{'rerouted':>8}  worst at"
    lines = [title, "", head]
    for stage in report.stages:
        rerouted = "" if stage.rerouted is None else str(stage.rerouted)
        verdict = "ok" if stage.ok else "DIVERGES"
        row, column = stage.worst
        lines.append(
            f"{stage.name:<12}{stage.max_abs:>11.2e}{stage.relative_rms:>14.2e}{stage.bound:>11.2e}  {verdict:<10}"
            f"{rerouted:>8}  row {row}, token {column}"
        )
    measure = "max abs" if report.stages[0].measure == "max_abs" else "relative RMS"
    verdict = "parity holds" if report.passed else f"{report.first_divergent} is the first that diverges"
    return "\n".join([*lines, "", f"{verdict} (bound on {measure})"])


def compare(
    directory: str | Path,
    file: str | Path,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
) -> ParityReport:
    """Run the checkpoint in `directory` on the inputs that `file` holds, and compare all that it holds.

    dtype: what ours runs in, float32 or bfloat16; None and "auto" mean what the file was recorded in.
    Raises InputError when the file is no reference, or belongs to a model of another shape.
    """
    reference = _Reference(Path(file))
    dtype = resolve_dtype(dtype) or resolve_dtype(reference.dtype)
    if dtype not in (torch.float32, torch.bfloat16):
        raise InputError(f"Parity is measured in float32 or bfloat16, not {dtype}: choose one of them.")
    reference.check(Config.from_dir(resolve_path(directory)))  # before minutes of loading
    model = load_model(directory, device=device, dtype=dtype)
    name = str(dtype).removeprefix("torch.")
    return ParityReport(str(directory), str(file), reference.name, name, tuple(_run(model, reference, name)))


class _Reference:
    """An open reference file; tensors are read one at a time, since all hidden states of a large model are many gigabytes."""

    def __init__(self, file: Path) -> None:
        self.file = file
        try:
            self.tensors = safe_open(file, framework="pt")
            self.metadata = self.tensors.metadata() or {}
            self.names = set(self.tensors.keys())
        except (SafetensorError, OSError) as error:
            raise InputError(
                f"{file} is not a safetensors file that can be read ({error}): make one with `llama4 parity DIR --record FILE`."
            ) from error
        missing = sorted({"tokens_BS", "logits_BSV"} - self.names)
        if missing:
            raise InputError(
                f"{file} has no tensor {missing[0]}: a parity file holds tokens_BS and logits_BSV at least."
            )
        self.name = self.metadata.get("reference", "an unnamed reference")
        self.dtype = self.metadata.get("dtype", "float32")
        layers = sum(name.startswith("hidden.") for name in self.names) - 1
        self.stages = ["logits_BSV"] if layers < 0 else stages(layers)

    def __getitem__(self, name: str) -> Tensor:
        tensor = self.tensors.get_tensor(name)
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise InputError(f"{self.file}: {name} holds NaN or infinite numbers: record the reference again.")
        return tensor

    def get(self, name: str) -> Tensor | None:
        return self[name] if name in self.names else None

    def check(self, config: Config) -> None:
        """InputError unless the file belongs to a model of this config: names, shapes, ids."""
        tokens_BS = self["tokens_BS"]
        if tokens_BS.dim() != 2 or tokens_BS.dtype != torch.int64 or tokens_BS.numel() == 0:
            raise InputError(
                f"{self.file}: tokens_BS must be int64 [rows, tokens], not {tokens_BS.dtype} {list(tokens_BS.shape)}."
            )
        shape_BS = list(tokens_BS.shape)
        expected = {"tokens_BS": shape_BS, "logits_BSV": [*shape_BS, config.vocab_size]}
        if len(self.stages) > 1:  # with hidden states, all of them
            expected |= {name: [*shape_BS, config.width] for name in stages(len(config.layers))[:-1]}
        optional = {"own_error": [len(config.layers) + 2]}
        optional |= {f"routing.{number}": shape_BS for number, spec in enumerate(config.layers) if spec.ffn == "moe"}
        if config.vision is not None:
            optional["images"] = [None, 3, config.vision.tile_side, config.vision.tile_side]
        for name in sorted(expected.keys() - self.names):
            raise InputError(f"{self.file} has no tensor {name}, which this model needs: take the file made from it.")
        for name in sorted(self.names - expected.keys() - optional.keys()):
            raise InputError(f"{self.file}: {name} belongs to no part of this model: take the file made from it.")
        for name in sorted(self.names):
            shape, wanted = self.tensors.get_slice(name).get_shape(), (expected | optional)[name]
            if len(shape) != len(wanted) or any(b not in (None, a) for a, b in zip(shape, wanted, strict=True)):
                raise InputError(
                    f"{self.file}: {name} has shape {shape} where this model gives {wanted}: take the file made from it."
                )
        ids = {"tokens_BS": config.vocab_size} | {name: config.experts for name in self.names if "routing" in name}
        for name, limit in ids.items():
            if int(self[name].min()) < 0 or int(self[name].max()) >= limit:
                raise InputError(f"{self.file}: {name} holds ids outside 0 to {limit - 1}: take the file made from it.")


def _run(model: Llama4, reference: _Reference, dtype: str) -> list[Stage]:
    """One forward; every hidden state is compared as it passes, and not kept."""
    device = model.decoder.embedding.weight.device
    theirs = {
        number: reference[f"routing.{number}"] for number in routers(model) if f"routing.{number}" in reference.names
    }
    own: Routing = {}
    found: dict[str, Stage] = {}
    bounds = _Bounds(reference, dtype)

    def see(name: str, ours: Tensor) -> None:
        if name not in reference.stages:
            return
        last = name.removeprefix("hidden.")
        number = int(last) if last.isdecimal() else -1
        rerouted = int((own[number].cpu() != theirs[number].view(-1)).sum()) if number in theirs else None
        found[name] = bounds.judge(name, ours, rerouted)

    images = reference.get("images")
    forcing = forced(routers(model), theirs if dtype == "bfloat16" else {})
    with torch.inference_mode(), recorded(routers(model), own), forcing, _watched(model, see):
        logits_BSV = model(reference["tokens_BS"].to(device), images=None if images is None else images.to(device))
    see("logits_BSV", logits_BSV)
    return [found[name] for name in reference.stages]


class _Bounds:
    """Which number decides, and what it may be, for each stage."""

    def __init__(self, reference: _Reference, dtype: str) -> None:
        self.reference, self.dtype = reference, dtype
        own_error = reference.get("own_error") if dtype == "bfloat16" else None
        self.own = {} if own_error is None else dict(zip(stages(len(own_error) - 2), own_error.tolist(), strict=True))

    def judge(self, name: str, ours: Tensor, rerouted: int | None) -> Stage:
        theirs = self.reference[name].double()
        ours = ours.cpu().double()
        difference = (ours - theirs).abs()
        per_token_BS = difference.amax(dim=-1)
        worst = divmod(int(per_token_BS.argmax()), per_token_BS.shape[1])
        rms = relative_rms(ours, theirs)
        if self.dtype == "float32" == self.reference.dtype:
            measure, bound = "max_abs", FP32_BOUND * max(1.0, float(theirs.abs().max()))
        else:
            measure = "relative_rms"
            bound = BF16_OWN_FACTOR * self.own[name] if name in self.own else BF16_BOUND
        return Stage(_title(name), float(difference.max()), rms, measure, bound, worst, rerouted)


@contextmanager
def _watched(model: Llama4, see: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Show `see` the embedding and what leaves every layer."""
    layers = model.decoder.layers
    hooks = [layers[0].register_forward_pre_hook(lambda module, args: see("hidden.embedding", args[0]))]
    for number, layer in enumerate(layers):
        hooks.append(layer.register_forward_hook(lambda module, args, out, number=number: see(f"hidden.{number}", out)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _finite(number: float) -> float | None:
    """JSON has no NaN."""
    return number if math.isfinite(number) else None


def _title(name: str) -> str:
    """ "hidden.3" -> "layer 3"."""
    last = name.removeprefix("hidden.")
    return f"layer {last}" if last.isdecimal() else last.removesuffix("_BSV")
