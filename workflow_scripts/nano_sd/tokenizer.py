"""A CLIP tokenizer whose every caption word is one token."""

from __future__ import annotations

import itertools
import json
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from reprscope.runtime.files import write_text

START, END = "<|startoftext|>", "<|endoftext|>"
#: Marks the last symbol of a word, as in CLIP's vocabulary.
LAST = "</w>"
_ALPHABET = string.ascii_lowercase + string.digits + string.punctuation


def _merge(symbols: Sequence[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for symbol in symbols:
        if merged and (merged[-1], symbol) == pair:
            merged[-1] += symbol
        else:
            merged.append(symbol)
    return merged


def learn_merges(words: Iterable[str]) -> list[tuple[str, str]]:
    """Learn byte-pair merges until every word is one symbol.

    Merging the most frequent pair in all words at once (ties: alphabetical) makes what is learnt
    here the very order in which an encoder merges, so no word is split by the merges of another.

    Parameters
    ----------
    words : iterable of str
        Lower-case ASCII words.

    Returns
    -------
    list of (left, right)
        In order of application.

    References
    ----------
    Sennrich, Haddow, Birch (2016), "Neural machine translation of rare words with subword units",
    algorithm 1.
    """
    spelled = [[*word[:-1], word[-1] + LAST] for word in sorted(set(words))]
    merges: list[tuple[str, str]] = []
    while any(len(symbols) > 1 for symbols in spelled):
        counts = Counter(pair for symbols in spelled for pair in itertools.pairwise(symbols))
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        spelled = [_merge(symbols, best) for symbols in spelled]
    return merges


def vocabulary(merges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Number the tokens: characters, characters that end a word, merges, start, end."""
    tokens = [
        *_ALPHABET,
        *(character + LAST for character in _ALPHABET),
        *("".join(pair) for pair in merges),
        START,
        END,
    ]
    return {token: index for index, token in enumerate(dict.fromkeys(tokens))}


def write_tokenizer(folder: Path, words: Iterable[str], *, length: int) -> int:
    """Write a tokenizer that ``transformers.CLIPTokenizer.from_pretrained`` loads.

    Parameters
    ----------
    folder : Path
        Gets ``vocab.json``, ``merges.txt``, ``tokenizer_config.json``,
        ``special_tokens_map.json``.
    words : iterable of str
        The words that become one token each; others are spelled in pieces.
    length : int
        Tokens of a padded prompt, with start and end.

    Returns
    -------
    int
        Number of tokens in the vocabulary.
    """
    merges = learn_merges(words)
    tokens = vocabulary(merges)
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": length,
        "do_lower_case": True,
        **special,
    }
    write_text(folder / "vocab.json", json.dumps(tokens, indent=0) + "\n")
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in merges)]
    write_text(folder / "merges.txt", "\n".join(lines) + "\n")
    write_text(folder / "tokenizer_config.json", json.dumps(settings, indent=2) + "\n")
    write_text(folder / "special_tokens_map.json", json.dumps(special, indent=2) + "\n")
    return len(tokens)
