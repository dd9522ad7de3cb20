"""A phrase tokenizer, learned by counting an environment's own texts.

Entities (`cabinet 3`) and the phrases between them (`You arrive at `, `, a `) are single tokens, so
that an episode is short and a small model can copy. Any other text is spelled in its bytes: the
tokenizer gives every Unicode string back exactly.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from .torch_first import tokenizers, transformers

pre_tokenizers = tokenizers.pre_tokenizers

START, ACT, END, PAD = "<|start|>", "<|act|>", "<|end|>", "<|pad|>"
TEMPLATE = (
    "{{ '<|start|>' }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "{{ '<|act|>' + message['content'] + '<|end|>' }}"
    "{% else %}{{ message['content'] }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|act|>' }}{% endif %}"
)
"""One token opens a reply and one ends it; observations need none."""
_ENTITY = re.compile(r"\b([a-z]{3,}) [0-9]+\b")
_WORD = re.compile(r" ?[A-Za-z]+|[^A-Za-z]")


def learn(texts: Iterable[str], size: int) -> Any:
    """Learn a `PreTrainedTokenizerFast`.

    Args:
        texts: observations and actions, as an agent sees and writes them.
        size: most tokens, the 256 bytes included.
    """
    lines = list(texts)
    nouns = sorted({noun for line in lines for noun in _ENTITY.findall(line)})
    splitter = _splitter(nouns)
    pieces = Counter(
        piece for line in lines for piece, _ in splitter.pre_tokenize_str(line) if len(piece) > 1
    )
    words: Counter[str] = Counter()
    for piece, count in pieces.items():
        for word in _WORD.findall(_plain(piece)):
            words[_shown(word)] += count
    repeated = [piece for piece, count in _ranked(pieces) if count > 1]
    spare = [word for word, _ in _ranked(words) if len(word) > 1 and word not in pieces]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    room = max(size - len(alphabet) - 4, 0)
    # Words come last: they spell the phrases that were too rare for a token of their own.
    kept = repeated[: max(room - len(spare), room // 2)]
    kept += spare[: room - len(kept)]
    return _assemble([*alphabet, *kept], nouns)


def _assemble(pieces: Sequence[str], nouns: Sequence[str]) -> Any:
    """Put the parts together as `tokenizers` and `transformers` know them."""
    # Every token costs the same, so that the best spelling is the one with fewest tokens.
    model = tokenizers.models.Unigram([(piece, -1.0) for piece in pieces], unk_id=0)
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = _splitter(nouns)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    control = [tokenizers.AddedToken(token, special=True) for token in (START, ACT, END, PAD)]
    tokenizer.add_special_tokens(control)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=START,
        eos_token=END,
        pad_token=PAD,
        extra_special_tokens=[ACT],
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def _splitter(nouns: Sequence[str]) -> pre_tokenizers.PreTokenizer:
    """Cut at entities and at the names of their kinds, then write bytes as letters."""
    steps: list[pre_tokenizers.PreTokenizer] = []
    if nouns:
        kinds = "|".join(sorted(map(re.escape, nouns), key=len, reverse=True))
        pattern = tokenizers.Regex(rf"\b(?:{kinds})(?: [0-9]+)?\b")
        steps.append(pre_tokenizers.Split(pattern, behavior="isolated"))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    return pre_tokenizers.Sequence(steps)


def _ranked(counts: Counter[str]) -> list[tuple[str, int]]:
    """Order by the characters that a token of its own would cover; ties by text."""
    return sorted(counts.items(), key=lambda item: (-item[1] * len(item[0]), item[0]))


_BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
_TEXT = tokenizers.decoders.ByteLevel()


def _shown(text: str) -> str:
    return _BYTES.pre_tokenize_str(text)[0][0]


def _plain(piece: str) -> str:
    return str(_TEXT.decode([piece]))
