"""The models that the book ships: each in a folder beside this file, and the tokenizer of all of them (chapter 10).

:func:`llmbook.hub.pretrained` opens a model with its tokenizer; here is only where they lie. Those that others trained
come from the package index, see :mod:`llmbook.pretrained.real`.
"""

from pathlib import Path

from llmbook.pretrained import real

FOLDER = Path(__file__).parent


def model_names() -> list[str]:
    """Return the names of the models that the book ships, such as ``pydocs-gpt``."""
    return sorted(path.parent.name for path in FOLDER.glob("*/config.json"))


def model_folder(model: str | Path) -> Path:
    """Return the folder of a model, for :func:`llmbook.hub.load` and any ``from_pretrained``.

    Args:
        model: the name of one that the book ships (``"pydocs-gpt"``) or of a real one (``"smollm2-135m-instruct"``,
            ``"minilm-l6"``), which the first call fetches; or a folder with a ``config.json``. A name goes before a
            folder of that name in the working directory: write ``"./pydocs-gpt"`` or a ``Path`` for that one.

    Raises:
        FileNotFoundError: neither is there; the message lists the names.
        ModelError: a real model that cannot be had, see :func:`llmbook.pretrained.real.fetch`.
    """
    named = Path(model)
    is_folder = (named / "config.json").is_file()
    if not (isinstance(model, Path) and is_folder):
        if str(model) in model_names():
            return FOLDER / named
        if str(model) in real.REAL_MODELS:
            return real.fetch(str(model))
    if not is_folder:
        known = ", ".join([*model_names(), *real.REAL_MODELS])
        raise FileNotFoundError(
            f"{model} is no folder with a config.json and no model of the book ({known}): "
            "give one of these names, or a folder that hub.save or save_pretrained wrote"
        )
    return named
