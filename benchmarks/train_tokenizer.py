"""Make the tokenizer that the book ships: byte-level BPE from the training split of `pydocs` (chapter 8).

    python benchmarks/train_tokenizer.py       # writes llmbook/pretrained/tokenizer.json and tokenizer.md

The same packages give the same bytes. `--folder` writes elsewhere, to compare.
"""

import argparse
import hashlib
import importlib.metadata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from llmbook import corpora, tokenization
from llmbook.files import write_whole
from llmbook.pretrained import FOLDER

CARD = """# The tokenizer of this book

`tokenizer.json` is a byte-level byte-pair encoding with {vocab_size:,} tokens, made by
`python benchmarks/train_tokenizer.py` from the training split of `llmbook.corpora.pydocs()`. Chapter 8 explains it;
`llmbook.tokenization.load_tokenizer()` opens it for GPT, BERT or T5.

| | |
|---|---|
| SHA-256 of `tokenizer.json` | `{sha256}` |
| trained on | {documents:,} documents, {size:,} bytes: the training split of `pydocs` |
| SHA-256 of `pydocs` | `{data_sha256}` |
| tokens | {special} special ones (ids 0 to {last_special}), 256 bytes, {merges:,} merges |
| pre-tokenizer | every digit alone, then GPT-2's pattern; no normaliser |
| trained with | `tokenizers` {version} |

Ids 0 to 4: `<|endoftext|>` ends a document, `<pad>` fills a batch, `<mask>`, `<s>` and `</s>` are BERT's, the last also
T5's; then T5's sentinels `<extra_id_0>` to `<extra_id_{last_sentinel}>`.

Held-out text of the same kind takes {bytes_per_token:.2f} bytes a token (the {test_documents:,} documents of the test
split). The vocabulary is made for English technical prose; other languages cost several times as many tokens, as
chapter 8 measures. No text of others is in this file, only pieces of words.
"""


def to_bytes(tokenizer: Any) -> bytes:
    """Return what is written as `tokenizer.json`."""
    return tokenizer.to_str(pretty=False).encode() + b"\n"


def card(tokenizer: Any, content: bytes, texts: list[str], held_out: list[str], data_sha256: str) -> str:
    """Return the model card; all numbers in it are computed here."""
    special = tokenization.special_tokens()
    tokens = sum(len(encoding.ids) for encoding in tokenizer.encode_batch_fast(held_out))
    return CARD.format(
        vocab_size=tokenizer.get_vocab_size(),
        sha256=hashlib.sha256(content).hexdigest(),
        documents=len(texts),
        size=sum(len(text.encode()) for text in texts),
        data_sha256=data_sha256,
        special=len(special),
        last_special=len(special) - 1,
        merges=tokenizer.get_vocab_size() - 256 - len(special),
        version=importlib.metadata.version("tokenizers"),
        last_sentinel=tokenization.SENTINELS - 1,
        bytes_per_token=sum(len(text.encode()) for text in held_out) / tokens,
        test_documents=len(held_out),
    )


def make(
    folder: Path, texts: Iterable[str], held_out: Iterable[str], data_sha256: str, vocab_size: int = 4096
) -> tuple[Path, Path]:
    """Train on the texts, write `tokenizer.json` and its card into the folder, and return both paths."""
    texts, held_out = list(texts), list(held_out)
    tokenizer = tokenization.train_for_models(texts, vocab_size)
    content = to_bytes(tokenizer)
    paths = folder / "tokenizer.json", folder / "tokenizer.md"
    write_whole(paths[0], content)
    write_whole(paths[1], card(tokenizer, content, texts, held_out, data_sha256))
    return paths


def main(arguments: list[str] | None = None) -> None:
    """Make the tokenizer from `pydocs` and say where it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where to write (default: %(default)s)")
    folder = parser.parse_args(arguments).folder
    docs = corpora.pydocs()
    data_sha256 = corpora.describe(docs)["sha256"]
    for path in make(folder, docs["train"]["text"], docs["test"]["text"], data_sha256):
        print(path)


if __name__ == "__main__":
    main()
