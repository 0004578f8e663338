"""Cutting text into tokens (used from chapter 1, explained in chapter 8)."""

from collections.abc import Iterable, Sequence

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

END_OF_TEXT = "<|endoftext|>"


def train_byte_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train a byte-level byte-pair encoding (Sennrich et al. 2016; bytes as in GPT-2) with ``tokenizers``.

    Args:
        texts: the training documents.
        vocab_size: number of tokens, at least 257: the 256 bytes and ``<|endoftext|>`` (id 0), then merges.

    Returns:
        A tokenizer that encodes any Unicode text without an unknown token and decodes it back to the same text.
    """
    if vocab_size < 257:
        raise ValueError(f"vocab_size={vocab_size}: a byte-level vocabulary needs 256 bytes and {END_OF_TEXT}: 257 up")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def encode_documents(tokenizer: Tokenizer, texts: Sequence[str]) -> list[np.ndarray]:
    """Encode each text and close it with ``<|endoftext|>``.

    Returns:
        One ``int32`` array of token ids for each text, shape ``(tokens + 1,)``.
    """
    end = tokenizer.token_to_id(END_OF_TEXT)
    if end is None:
        raise ValueError(f"this tokenizer has no {END_OF_TEXT} token; train one with train_byte_bpe")
    documents = []
    for start in range(0, len(texts), 1000):  # an encoding holds far more than its ids: keep few at a time
        encodings = tokenizer.encode_batch_fast(list(texts[start : start + 1000]), add_special_tokens=False)
        documents += [np.array([*encoding.ids, end], dtype=np.int32) for encoding in encodings]
    return documents
