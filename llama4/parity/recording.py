"""Write down what the reference computes: inputs, logits, the stream after every layer, every token's expert.

One safetensors file, made once where the reference is installed, lets anybody check an implementation or a checkpoint against it:

    tokens_BS       int64    two rows of one length; they cross chunk boundaries where chunks are short
    images          float32  [1, 3, side, side], in the second row's tokens; absent without a vision encoder
    hidden.embedding, hidden.0, hidden.1, …   [B, S, D]   what enters layer 0 (patches in place), what leaves layer 0, 1, …
    routing.0, …    int64    [B, S]: each token's expert, on MoE layers
    logits_BSV      float32
    own_error       float32  [layers + 2]: relative RMS of the reference in bf16 against itself in float32, at the embedding,
                             every layer and the logits; in float32 files only. It measures what bf16 costs (comparing.py)

The metadata names the reference, its version, torch's, and the dtype. `tokens_BS` and `logits_BSV` must be there, the rest may.

In bf16 two experts' scores may round to a tie and a token go elsewhere, which says nothing about the code. So the reference's
bf16 run takes its float32 run's experts, and ours the file's.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from llama4.config import Config
from llama4.errors import InputError
from llama4.files import replacing
from llama4.parity.routing import Routing, forced, recorded, routers

FORMAT = "llama4-parity-1"
IMAGE_COLUMN = 3  # where the image begins in the second row
Tensors = dict[str, Tensor]


def record(directory: str | Path, file: str | Path, reference: str = "transformers", dtype: str = "auto") -> None:
    """Run `reference` on the checkpoint in `directory` and write `file`.

    dtype: "float32" (and "auto") records float32 and measures bf16 against it; "bfloat16" loads in bf16 only, at half the memory.
    Raises InputError when the reference is unknown, not installed, or does not take the checkpoint whole.
    """
    if reference != "transformers":
        raise InputError(f"There is no reference {reference!r} to record: use transformers.")
    if dtype not in ("auto", "float32", "bfloat16"):
        raise InputError(f"A reference is recorded in float32 or bfloat16, not {dtype!r}: choose one of them.")
    directory, file = Path(directory), Path(file)
    dtype = "float32" if dtype == "auto" else dtype
    inputs = fixed_inputs(Config.from_dir(directory))
    tensors = run_transformers(directory, inputs, getattr(torch, dtype))
    if dtype == "float32":
        routing = {int(name.split(".")[1]): tensors[name] for name in tensors if name.startswith("routing.")}
        in_bf16 = run_transformers(directory, inputs, torch.bfloat16, routing)
        layers = sum(name.startswith("hidden.") for name in tensors) - 1
        tensors["own_error"] = torch.tensor([relative_rms(in_bf16[name], tensors[name]) for name in stages(layers)])
    write(file, {**inputs, **tensors}, reference, dtype)


def fixed_inputs(config: Config, seed: int = 0) -> Tensors:
    """Tokens, and one tile of noise where the model sees: the same for the same config, on every machine."""
    vision = config.vision
    length = 48 if vision is None else vision.tokens_per_tile + 24
    if config.chunk is not None and config.chunk <= 64:
        # Across two boundaries; not with longer chunks: far out, the reference's own angles lose digits (docs/divergences.md).
        length = max(length, 2 * config.chunk + 5)
    draw = torch.Generator().manual_seed(seed)
    tokens_BS = torch.randint(0, config.vocab_size, (2, min(length, config.max_context)), generator=draw)
    tokens_BS[tokens_BS == config.patch_id] = (config.patch_id + 1) % config.vocab_size
    if vision is None:
        return {"tokens_BS": tokens_BS}
    first = IMAGE_COLUMN + 1
    tokens_BS[1, first - 1] = config.image_start_id
    tokens_BS[1, first : first + vision.tokens_per_tile] = config.patch_id
    tokens_BS[1, first + vision.tokens_per_tile] = config.image_end_id
    return {
        "tokens_BS": tokens_BS,
        "images": torch.rand(1, 3, vision.tile_side, vision.tile_side, generator=draw) * 2 - 1,
    }


def run_transformers(directory: Path, inputs: Tensors, dtype: torch.dtype, routing: Routing | None = None) -> Tensors:
    """One prefill of Hugging Face's model: hidden states, experts, logits. `routing` forces the experts."""
    model = load_transformers(directory, dtype)
    text = model.language_model.model if hasattr(model, "language_model") else model.model
    tensors: Tensors = {}
    text.layers[0].register_forward_pre_hook(
        lambda module, args: tensors.update({"hidden.embedding": args[0]})  # what enters, patches in place
    )
    for number, layer in enumerate(text.layers):
        layer.register_forward_hook(_keep(tensors, f"hidden.{number}"))
    images = {"pixel_values": inputs["images"].to(dtype)} if "images" in inputs else {}
    own: Routing = {}
    with torch.inference_mode(), recorded(routers(model), own), forced(routers(model), routing or {}):
        tensors["logits_BSV"] = model(input_ids=inputs["tokens_BS"], use_cache=False, **images).logits.float()
    tensors |= {f"routing.{number}": chosen_N.view(inputs["tokens_BS"].shape) for number, chosen_N in own.items()}
    return {name: tensor.contiguous().clone() for name, tensor in tensors.items()}


def load_transformers(directory: Path, dtype: torch.dtype, attention: str = "sdpa") -> Any:
    """Hugging Face's model of a checkpoint, and InputError instead of its random weights where a tensor is missing."""
    try:
        import transformers
    except ImportError:
        raise InputError(
            "transformers is not installed: pip install 'transformers>=5.23,<6', then record again."
        ) from None
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    vision = Config.from_dir(directory).vision is not None
    kind = transformers.Llama4ForConditionalGeneration if vision else transformers.Llama4ForCausalLM
    try:
        config = kind.config_class.from_pretrained(directory, local_files_only=True)
        text = config.get_text_config()
        if text.attention_chunk_size is None:  # on which it fails (docs/divergences.md): one chunk as long as any
            text.attention_chunk_size = text.max_position_embeddings
        model, loaded = kind.from_pretrained(
            directory, config=config, dtype=dtype, attn_implementation=attention, output_loading_info=True
        )
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"transformers cannot load {directory} ({reason}): record another checkpoint.") from error
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if loaded.get(problem):
            name = sorted(map(str, loaded[problem]))[0]
            raise InputError(f"transformers reports {problem} in {directory}, {name} first: repair the checkpoint.")
    return model.eval()


def stages(layers: int) -> list[str]:
    """The names to compare, in the order of the computation: the embedding, every layer, the logits."""
    return ["hidden.embedding", *(f"hidden.{number}" for number in range(layers)), "logits_BSV"]


def relative_rms(ours: Tensor, reference: Tensor) -> float:
    """Root mean square of the difference over that of the reference."""
    difference = (ours.double() - reference.double()).square().mean().sqrt()
    return float(difference / reference.double().square().mean().sqrt().clamp_min(1e-30))


def write(file: Path, tensors: Tensors, reference: str, dtype: str) -> None:
    """Write beside, then rename: a run that fails leaves no half a file and the old one whole."""
    metadata = {
        "format": FORMAT,
        "reference": f"{reference} {version(reference)}",
        "torch": torch.__version__,
        "dtype": dtype,
    }
    with replacing(file.parent) as part:
        save_file(tensors, part(file.name), metadata=metadata)


def _keep(tensors: Tensors, name: str) -> Callable[..., None]:
    def hook(module: torch.nn.Module, args: tuple, out: Tensor | tuple) -> None:
        tensors[name] = out[0] if isinstance(out, tuple) else out

    return hook
