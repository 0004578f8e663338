"""Turn a GGUF file into Hugging Face's files: ``python _gguf.py FILE FOLDER``, a program of its own.

Weights that were rounded to four bits are unpacked and kept in bfloat16. ``transformers`` reads the file; two things
that it leaves out of the tokenizer are put in: how numbers are cut (``tokenizer.ggml.pre``), and the longest text.
"""

import json
import sys
from pathlib import Path

#: Before the model's own chat template, which writes any role as it is given.
ROLES = (
    "{% for message in messages %}{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('role \"' ~ message['role'] ~ '\": a message is of system, user or assistant') }}"
    "{% endif %}{% endfor %}"
)


def convert(file: Path, folder: Path) -> None:
    """Write ``config.json``, ``model.safetensors`` and the tokenizer of a GGUF file into a folder."""
    import torch
    import transformers
    from gguf import GGUFReader
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    where = {"gguf_file": file.name, "local_files_only": True}
    # from version 5 on the weights stay packed unless one says otherwise
    newer = hasattr(transformers, "GgufConfig")
    unpacked = {"quantization_config": transformers.GgufConfig(dequantize=True)} if newer else {}
    model = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.bfloat16, **unpacked, **where)
    model.config.rms_norm_eps = float(f"{model.config.rms_norm_eps:.6g}")  # the file has it in float32
    model.save_pretrained(folder)
    longest = model.config.max_position_embeddings
    del model
    tokenizer = AutoTokenizer.from_pretrained(file.parent, **where)
    how = GGUFReader(file).fields.get("tokenizer.ggml.pre")
    if how is not None and how.contents() == "smollm":  # each digit is a token of its own, then as GPT-2
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    tokenizer.model_max_length = longest
    if tokenizer.chat_template:
        tokenizer.chat_template = ROLES + tokenizer.chat_template
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    for name in ("backend", "is_local", "local_files_only"):  # older versions of transformers do not know them
        config.pop(name, None)
    path.write_text(
        json.dumps(config | {"tokenizer_class": "PreTrainedTokenizerFast"}, indent=2) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
