"""Cutting text into tokens (used from chapter 1, explained in chapter 8).

Three things stand here. ``train_byte_bpe`` and ``encode_documents`` are what the chapters train small tokenizers with.
``train_for_models`` makes the tokenizer that the book ships, and ``load_tokenizer`` opens it. The rest are the three
algorithms of sub-word segmentation in plain Python, merge for merge and score for score those of ``tokenizers``:
for reading, for small text, and as the reference of chapter 8's cells.
"""

import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from itertools import groupby, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from llmbook.pretrained import FOLDER

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"
PAD, MASK, BOS, EOS = "<pad>", "<mask>", "<s>", "</s>"
SENTINELS = 32
FAMILIES = ("gpt", "bert", "t5")
#: How GPT-2 cuts a text before its merges (Radford et al. 2019): what ``ByteLevel`` does without being told.
GPT2_PATTERN = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
#: The same with combining marks (``\p{M}``: vowel signs, tones, accents) among the letters, where GPT-2 cuts words.
MARKS_PATTERN = GPT2_PATTERN.replace(r" ?\p{L}+", r" ?[\p{L}\p{M}]+").replace(r"\p{L}\p{N}]+", r"\p{L}\p{M}\p{N}]+")

Pair = tuple[str, str]


def half_character(text: str) -> str | None:
    """Return the first half of a character (a lone surrogate) in a text and its place, or ``None`` where there is none.

    Such a text can neither be encoded by a tokenizer nor be written into a file in UTF-8.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"U+{ord(text[error.start]):04X} at place {error.start}"
    return None


def well_formed(text: str) -> str:
    """Return a text that UTF-8 can write: halves of a surrogate pair are joined, and a half alone becomes U+FFFD.

    JSON and file names bring such halves; a tokenizer refuses them. Any other text comes back as it is.
    """
    if half_character(text) is None:
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


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
    tokenizer.train_from_iterator(map(well_formed, texts), trainer)
    return tokenizer


def backend(tokenizer: "Tokenizer | PreTrainedTokenizerFast") -> Tokenizer:
    """Return the ``tokenizers`` tokenizer in one of ``transformers``, or the one that was given.

    A call of one of ``transformers`` leaves padding, truncation and how it reads special tokens there until the next
    call: they are taken off.

    Raises:
        ValueError: neither of the two.
    """
    if isinstance(tokenizer, Tokenizer):
        return tokenizer
    inner = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(inner, Tokenizer):
        raise ValueError(
            f"tokenizer is a {type(tokenizer).__name__}: give a tokenizers.Tokenizer or a fast tokenizer of "
            'transformers, such as tokenization.load_tokenizer("gpt")'
        )
    if inner.truncation is not None:
        inner.no_truncation()
    if inner.padding is not None:
        inner.no_padding()
    inner.encode_special_tokens = bool(getattr(tokenizer, "split_special_tokens", False))
    return inner


@contextmanager
def special_as_text(tokenizer: "Tokenizer | PreTrainedTokenizerFast") -> Iterator[Tokenizer]:
    """Let a tokenizer read its special tokens in a text as text, cut into ordinary pieces, inside a ``with``.

    A document about ``<|endoftext|>`` is one document, and nobody who writes a text can end it or mask a word. The
    tokens that the tokenizer itself puts around a text are not concerned.
    """
    inner = backend(tokenizer)
    before = inner.encode_special_tokens
    inner.encode_special_tokens = True
    try:
        yield inner
    finally:
        inner.encode_special_tokens = before


def encode_documents(
    tokenizer: "Tokenizer | PreTrainedTokenizerFast", texts: Sequence[str], control: bool = False
) -> list[np.ndarray]:
    """Encode each text and close it with ``<|endoftext|>``.

    What looks like a special token in a text is text (:func:`special_as_text`), so that each array has one end. Half a
    surrogate pair is read as U+FFFD (:func:`well_formed`).

    Args:
        tokenizer: of ``tokenizers`` or of ``transformers``; what the latter puts around a text is left out.
        texts: the documents.
        control: read special tokens in the texts as what they stand for instead, as the models that the book ships
            were trained (three of their 31,502 documents have some).

    Returns:
        One ``int32`` array of token ids for each text, shape ``(tokens + 1,)``.

    Raises:
        ValueError: it has no ``<|endoftext|>``, or is no tokenizer.
    """
    end = backend(tokenizer).token_to_id(END_OF_TEXT)
    if end is None:
        raise ValueError(f"this tokenizer has no {END_OF_TEXT} token; train one with train_byte_bpe")
    documents = []
    with nullcontext(backend(tokenizer)) if control else special_as_text(tokenizer) as inner:
        for start in range(0, len(texts), 1000):  # an encoding holds far more than its ids: keep few at a time
            part = [well_formed(text) for text in texts[start : start + 1000]]
            encodings = inner.encode_batch_fast(part, add_special_tokens=False)
            documents += [np.array([*encoding.ids, end], dtype=np.int32) for encoding in encodings]
    return documents


# --- the tokenizer that the book ships ------------------------------------------------------------------------------


def special_tokens(sentinels: int = SENTINELS) -> list[str]:
    """Return the tokens that stand for no text, in the order of their ids, from 0.

    ``<|endoftext|>`` ends a document (GPT); ``<pad>`` fills a batch; ``<mask>``, ``<s>`` and ``</s>`` are for BERT, the
    last also for T5; ``<extra_id_0>`` and so on are the sentinels of T5's span corruption (Raffel et al. 2020).
    """
    if sentinels < 0:
        raise ValueError(f"sentinels={sentinels}: it takes a number from 0 up")
    return [END_OF_TEXT, PAD, MASK, BOS, EOS, *(f"<extra_id_{i}>" for i in range(sentinels))]


def train_for_models(
    texts: Iterable[str], vocab_size: int = 4096, sentinels: int = SENTINELS, pattern: str | None = None
) -> Tokenizer:
    """Train one byte-level BPE for GPT, BERT and T5, as ``benchmarks/train_tokenizer.py`` does for the shipped one.

    It differs from :func:`train_byte_bpe` in its special tokens, and in that every digit is a token of its own, as in
    LLaMA (Touvron et al. 2023). The same texts give the same tokenizer, byte for byte, in any order.

    Args:
        texts: the training documents.
        vocab_size: number of tokens, special ones and 256 bytes included.
        sentinels: how many of them are T5's.
        pattern: a regular expression whose matches are the pieces that no merge crosses, such as ``MARKS_PATTERN``; by
            default GPT-2's, as in the shipped one.

    Returns:
        A tokenizer without a post-processor: it adds no token that is not in the text. See :func:`load_tokenizer`.
    """
    special = special_tokens(sentinels)
    least = 256 + len(special)
    if vocab_size < least:
        raise ValueError(f"vocab_size={vocab_size}: 256 bytes and {len(special)} special tokens need {least} up")
    tokenizer = Tokenizer(models.BPE())
    borders = [] if pattern is None else [pre_tokenizers.Split(Regex(pattern), "isolated")]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            *borders,
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        # the mask takes the space before it along, as in RoBERTa: it stands for a word with its space
        special_tokens=[AddedToken(token, special=True, lstrip=token == MASK) for token in special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(map(well_formed, texts), trainer)
    return tokenizer


def load_tokenizer(family: str = "gpt", path: str | Path | None = None) -> "PreTrainedTokenizerFast":
    """Open the tokenizer that the book ships, or another one made by :func:`train_for_models`.

    Args:
        family: what it adds around a text when called. ``gpt``: nothing; ``bert``: ``<s> text </s>``, and for a pair
            ``<s> first </s> second </s>`` with token types 0 and 1; ``t5``: ``text </s>``.
        path: a ``tokenizer.json``; by default the one in the package.

    Returns:
        A ``transformers`` tokenizer that knows its special tokens; :func:`backend` gives the ``tokenizers`` one in it.

    Raises:
        ValueError: if there is no such family.
        FileNotFoundError: if there is no such file.
    """
    from transformers import PreTrainedTokenizerFast

    if family not in FAMILIES:
        raise ValueError(f"family={family!r}: it takes {', '.join(FAMILIES)}")
    file = FOLDER / "tokenizer.json" if path is None else Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist: make it with `python benchmarks/train_tokenizer.py`")
    tokenizer = Tokenizer.from_file(str(file))
    ids = {token: tokenizer.token_to_id(token) for token in (BOS, EOS)}
    if family == "bert":
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A {EOS}", pair=f"{BOS} $A {EOS} $B:1 {EOS}:1", special_tokens=list(ids.items())
        )
    elif family == "t5":
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"$A {EOS}", pair=f"$A {EOS} $B {EOS}", special_tokens=[(EOS, ids[EOS])]
        )
    extra = [token.content for token in tokenizer.get_added_tokens_decoder().values() if "extra_id" in token.content]
    roles: dict[str, dict[str, Any]] = {
        "gpt": {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT},
        "bert": {"bos_token": BOS, "eos_token": EOS, "cls_token": BOS, "sep_token": EOS, "mask_token": MASK},
        "t5": {"eos_token": EOS, "additional_special_tokens": extra},
    }
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, clean_up_tokenization_spaces=False, **roles[family]
    )


# --- byte-pair encoding ---------------------------------------------------------------------------------------------


def learn_bpe(
    word_counts: Mapping[str, int],
    num_merges: int,
    prefix: str = "",
    first_ids: Sequence[str] = (),
) -> tuple[list[str], list[Pair]]:
    """Learn byte-pair encoding (Sennrich et al. 2016), with the tie-break of ``tokenizers``' ``BpeTrainer``.

    The most frequent pair of neighbours becomes a token, again and again; among equally frequent ones the pair whose
    ids are smaller. With ``prefix="##"`` this is what the library's ``WordPieceTrainer`` does.

    Args:
        word_counts: how often each word (each piece of the pre-tokenizer) occurs.
        num_merges: how many merges to learn; fewer come back if no pair is left.
        prefix: what marks a piece that does not begin a word.
        first_ids: tokens that get the first ids, as special tokens do.

    Returns:
        ``(vocabulary, merges)``: all tokens by id, and the pairs in the order in which they were merged.
    """
    if num_merges < 0:
        raise ValueError(f"num_merges={num_merges}: it takes a number from 0 up")
    vocabulary = list(dict.fromkeys(first_ids))
    ids = {token: i for i, token in enumerate(vocabulary)}

    def id_of(token: str) -> int:
        if token not in ids:
            ids[token] = len(vocabulary)
            vocabulary.append(token)
        return ids[token]

    for character in sorted({c for word in word_counts for c in word}):
        id_of(character)
    words = [[id_of(prefix + c if i else c) for i, c in enumerate(word)] for word in word_counts]
    times = list(word_counts.values())
    pairs: Counter[tuple[int, int]] = Counter()
    where: dict[tuple[int, int], set[int]] = defaultdict(set)
    for number, word in enumerate(words):
        for pair in pairwise(word):
            pairs[pair] += times[number]
            where[pair].add(number)

    heap = [(-count, pair) for pair, count in pairs.items()]
    heapq.heapify(heap)
    merges: list[Pair] = []
    while heap and len(merges) < num_merges:
        negative, pair = heapq.heappop(heap)
        count = pairs[pair]
        if count != -negative:  # counted before other merges changed it
            if count > 0:
                heapq.heappush(heap, (-count, pair))
            continue
        left, right = vocabulary[pair[0]], vocabulary[pair[1]]
        new = id_of(left + right.removeprefix(prefix))
        merges.append((left, right))
        changed: Counter[tuple[int, int]] = Counter()
        for number in where.pop(pair):
            before = words[number]
            after = _merge(before, pair, new)
            words[number] = after
            for old in pairwise(before):
                changed[old] -= times[number]
            for fresh in pairwise(after):
                changed[fresh] += times[number]
                where[fresh].add(number)
        for touched, difference in changed.items():
            pairs[touched] += difference
            if difference > 0:
                heapq.heappush(heap, (-pairs[touched], touched))
        del pairs[pair]
    return vocabulary, merges


def _merge(word: list[int], pair: tuple[int, int], new: int) -> list[int]:
    merged, i = [], 0
    while i < len(word):
        if tuple(word[i : i + 2]) == pair:
            merged.append(new)
            i += 2
        else:
            merged.append(word[i])
            i += 1
    return merged


def apply_bpe(word: str, ranks: Mapping[Pair, int]) -> list[str]:
    """Cut a word as BPE does: of all pairs that stand side by side, merge the one that was learned first; repeat.

    Args:
        word: one piece of the pre-tokenizer.
        ranks: the place of each pair in the list of merges.
    """
    pieces = list(word)
    while len(pieces) > 1:
        rank, at = min((ranks.get(pair, math.inf), i) for i, pair in enumerate(pairwise(pieces)))
        if rank == math.inf:
            break
        pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
    return pieces


# --- WordPiece ------------------------------------------------------------------------------------------------------


def longest_match(
    word: str, vocabulary: Iterable[str], prefix: str = "##", unknown: str = "[UNK]", longest: int = 100
) -> list[str]:
    """Cut a word as BERT's WordPiece does: the longest token that fits, from the left; ``[unknown]`` if one is missing.

    Args:
        word: one piece of the pre-tokenizer.
        vocabulary: the tokens; pass a set, it is asked often.
        prefix: what marks a token that does not begin a word.
        unknown: what stands for the whole word if it cannot be written.
        longest: characters of the longest word that is cut; BERT gives up a longer one, and so does the library.
    """
    if len(word) > longest:
        return [unknown]
    known = vocabulary if isinstance(vocabulary, set | frozenset | dict) else set(vocabulary)
    pieces: list[str] = []
    start = 0
    while start < len(word):
        mark = prefix if start else ""
        end = next((end for end in range(len(word), start, -1) if mark + word[start:end] in known), None)
        if end is None:
            return [unknown]
        pieces.append(mark + word[start:end])
        start = end
    return pieces


# --- Unigram --------------------------------------------------------------------------------------------------------


def viterbi(word: str, scores: Mapping[str, float]) -> tuple[list[str], float]:
    """Find the most probable segmentation of a word under a unigram model (Kudo 2018).

    Args:
        word: one piece of the pre-tokenizer.
        scores: log-probability of each token. A character that is no token has the smallest score minus ten, and a
            run of them is one piece, as in ``tokenizers``.

    Returns:
        ``(pieces, log-probability)``; of equally probable segmentations the one whose last piece is longest.
    """
    cut, score = _viterbi(word, scores, *_limits(scores))
    pieces: list[str] = []
    for known, run in groupby(cut, key=scores.__contains__):
        part = list(run)
        pieces += part if known else ["".join(part)]
    return pieces, score


def expected_counts(word: str, scores: Mapping[str, float]) -> tuple[dict[str, float], float]:
    """How often each token is expected in a word, over all its segmentations (forward-backward; Kudo 2018).

    Args:
        word: one piece of the pre-tokenizer.
        scores: log-probability of each token; other characters as in :func:`viterbi`.

    Returns:
        ``(counts, log-probability of the word)``. Characters that are no token are not counted.
    """
    return _expected_counts(word, scores, *_limits(scores))


def _limits(scores: Mapping[str, float]) -> tuple[float, int]:
    """Return the score of an unknown character and the length of the longest token."""
    if not scores:
        raise ValueError("scores is empty: a unigram model needs a token")
    return min(scores.values()) - 10.0, max(map(len, scores))


def _viterbi(word: str, scores: Mapping[str, float], unknown: float, longest: int) -> tuple[list[str], float]:
    best: list[tuple[float, int]] = [(0.0, 0)]  # by end: log-probability, and where the last piece begins
    for end in range(1, len(word) + 1):
        top, begin = -math.inf, end
        for start in range(max(0, end - longest), end):
            score = scores.get(word[start:end], unknown if end - start == 1 else -math.inf)
            if best[start][0] + score > top:
                top, begin = best[start][0] + score, start
        best.append((top, begin))
    pieces, end = [], len(word)
    while end:
        pieces.append(word[best[end][1] : end])
        end = best[end][1]
    return pieces[::-1], best[-1][0]


def _expected_counts(
    word: str, scores: Mapping[str, float], unknown: float, longest: int
) -> tuple[dict[str, float], float]:
    edges = [
        (start, end, scores.get(word[start:end], unknown))
        for end in range(1, len(word) + 1)
        for start in range(max(0, end - longest), end)
        if word[start:end] in scores or end - start == 1
    ]
    forward = [0.0] + [-math.inf] * len(word)  # log-probability of what stands before a position
    for start, end, score in edges:  # sorted by their ends
        forward[end] = _log_add(forward[end], forward[start] + score)
    backward = [-math.inf] * len(word) + [0.0]  # of what stands behind it
    for start, end, score in sorted(edges, reverse=True):
        backward[start] = _log_add(backward[start], score + backward[end])
    counts: dict[str, float] = defaultdict(float)
    for start, end, score in edges:
        if word[start:end] in scores:
            counts[word[start:end]] += math.exp(forward[start] + score + backward[end] - forward[-1])
    return dict(counts), forward[-1]


def _log_add(a: float, b: float) -> float:
    high, low = max(a, b), min(a, b)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))


def unigram_seeds(word_counts: Mapping[str, int], longest: int = 16) -> dict[str, float]:
    """The tokens that training starts from, with their scores, as ``tokenizers``' ``UnigramTrainer`` chooses them.

    All characters, and all strings of 2 to ``longest`` characters that are followed in the word list by at least two
    different things (another character or the end of a word). A character weighs as often as it occurs, a
    longer string its occurrences in the list of different words times its length.

    Raises:
        ValueError: no word with a character and a count above 0.
    """
    characters: Counter[str] = Counter()
    found: Counter[str] = Counter()
    followers: dict[str, set[str]] = defaultdict(set)
    for word, count in word_counts.items():
        for start in range(len(word)):
            characters[word[start]] += count
            for end in range(start + 2, min(start + longest, len(word)) + 1):
                found[word[start:end]] += 1
                followers[word[start:end]].add(word[end : end + 1])
    if characters.total() <= 0:
        raise ValueError(
            f"{len(word_counts)} words, and no character that occurs: give the words of a text with their counts, "
            "such as Counter(text.split())"
        )
    weights: dict[str, float] = {c: n for n, c in sorted(((n, c) for c, n in characters.items()), reverse=True)}
    longer = [(n * len(s), s) for s, n in found.items() if len(followers[s]) > 1]
    weights |= {s: weight for weight, s in sorted(longer, reverse=True)}
    total = math.log(sum(weights.values()))
    return {token: math.log(weight) - total for token, weight in weights.items()}


def train_unigram(
    word_counts: Mapping[str, int], vocab_size: int, shrink: float = 0.75, rounds: int = 2
) -> dict[str, float]:
    """Train a unigram model (Kudo 2018) step by step as ``tokenizers``' ``UnigramTrainer`` does.

    Rounds of expectation-maximisation, then pruning of the tokens whose loss costs the likelihood least, until
    the vocabulary is small enough. The M-step is the variational one, ``exp(digamma(count))`` in place of the count,
    which drives rare tokens out; expected counts under 0.5 are dropped. Until something is pruned, tokens and scores
    are the library's; of what pruning leaves, a few tokens in a hundred differ.

    Args:
        word_counts: how often each word (each piece of the pre-tokenizer) occurs.
        vocab_size: number of tokens, the unknown token of the library included.
        shrink: which share of the tokens a pruning leaves.
        rounds: rounds of expectation-maximisation between two prunings.

    Returns:
        Log-probability of each token, best first; ``vocab_size - 1`` of them, or fewer if training dropped more. Of no
        words none, as :func:`learn_bpe` makes no merges of them.

    Raises:
        ValueError: words without a character, fewer tokens than characters, or a share out of range.
    """
    if not word_counts:
        return {}
    required = sorted({c for word in word_counts for c in word})
    if vocab_size <= len(required):
        raise ValueError(f"vocab_size={vocab_size}: the text has {len(required)} characters; take more than that")
    if not 0 < shrink < 1:
        raise ValueError(f"shrink={shrink}: the share that a pruning leaves lies between 0 and 1")
    scores = unigram_seeds(word_counts)
    wanted = vocab_size * 11 // 10
    while True:
        for _ in range(rounds):
            scores = _em_round(word_counts, scores)
        if len(scores) + 1 <= wanted:  # the library counts its unknown token
            break
        scores = _prune(word_counts, scores, max(wanted, int((len(scores) + 1) * shrink)) - 1)
    lowest = min(scores.values())
    kept = {c: scores.get(c, lowest) for c in required}
    for token, score in scores.items():
        if len(kept) == vocab_size - 1:
            break
        kept[token] = score
    return dict(sorted(kept.items(), key=lambda item: -item[1]))


def _em_round(word_counts: Mapping[str, int], scores: Mapping[str, float]) -> dict[str, float]:
    from scipy.special import digamma

    limits = _limits(scores)
    expected = dict.fromkeys(scores, 0.0)
    for word, count in word_counts.items():
        for token, times in _expected_counts(word, scores, *limits)[0].items():
            expected[token] += count * times
    kept = {token: count for token, count in expected.items() if count >= 0.5}
    total = digamma(sum(kept.values()))
    return {token: float(digamma(count) - total) for token, count in kept.items()}


def _prune(word_counts: Mapping[str, int], scores: Mapping[str, float], size: int) -> dict[str, float]:
    """Keep ``size`` tokens: those that cannot be written in another way, then those whose loss costs most."""
    unknown, longest = _limits(scores)
    uses: Counter[str] = Counter()
    for word, count in word_counts.items():
        for token in _viterbi(word, scores, unknown, longest)[0]:
            uses[token] += count
    total, words = sum(uses.values()), sum(word_counts.values())
    kept: dict[str, float] = {}
    losses: list[tuple[float, str]] = []
    for token, score in scores.items():
        whole = _viterbi(token, scores, unknown, longest)[0] == [token]
        # the best segmentation without the token itself
        others = _viterbi(token, scores, unknown, len(token) - 1)[0] if whole and len(token) > 1 else []
        if others and uses[token]:
            after = math.log(total + uses[token] * (len(others) - 1))
            rewritten = sum(math.log(uses[other] + uses[token]) - after for other in others)
            losses.append((uses[token] / words * (math.log(uses[token] / total) - rewritten), token))
        elif not others and (whole or uses[token]):
            kept[token] = score
    for _, token in sorted(losses, key=lambda loss: -loss[0]):
        if len(kept) >= size:
            break
        kept[token] = scores[token]
    return kept
