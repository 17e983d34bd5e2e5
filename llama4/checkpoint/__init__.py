"""Official checkpoints in and out: Hugging Face's safetensors and Meta's consolidated .pth files.

load.py     load_model, list_tensors           save.py     save_hf, save_meta
names.py    both formats' names, as data       shapes.py   what a config needs
hf.py       reading one format                 meta.py     reading the other; transforms.py undoes its sharding
folder.py   files and staying inside           safetensors_file.py, torch_file.py     one file
shards.py   the files of a save                source.py   checks that both formats share
memory.py   how much there is
"""

from llama4.checkpoint.load import list_tensors, load_model
from llama4.checkpoint.names import hf_names, meta_rows
from llama4.checkpoint.save import require_room, save_hf, save_meta
from llama4.checkpoint.shapes import parameter_count, parameter_shapes

__all__ = [
    "hf_names",
    "list_tensors",
    "load_model",
    "meta_rows",
    "parameter_count",
    "parameter_shapes",
    "require_room",
    "save_hf",
    "save_meta",
]
