"""Chat templates, cut into the pieces that stand around observations and replies.

An episode's row of tokens only ever grows: the opening (system prompt, first observation, header of
the reply), the reply with its end-of-turn token, then for each further turn what stands between
that token and the next reply. The pieces are the differences between renderings with and without a
message, which exist only where each rendering is a prefix of the next; templates that rewrite
earlier messages (some strip earlier reasoning) are refused. Observations and replies are tokenised
apart from the template's own text, so no text of theirs can ever become a control token.

Without a template, a row is `system prompt`, blank line, then `observation`, a line `> `, the reply
and the end-of-sequence token, with a line break before each further observation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trialgym.errors import BadInput
from trialgym.records import Message

from .torch_first import jinja2

OBSERVATION, REPLY = "the seen 7c1f", "the said 7c1f"
"""Stand for real texts while a template is cut; no template holds them."""
PLAIN = "plain"
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEMPLATES = {"chatml": CHATML}


@dataclass(frozen=True, slots=True)
class Pieces:
    """Text around observations, for one preamble."""

    opening: tuple[str, str]
    """What stands before and after the first observation."""
    between: tuple[str, str]
    """What stands before and after each later one, counted from the end-of-turn token."""
    end: int
    """The end-of-turn token."""
    trims: bool
    """Whether the template strips blanks around a message."""


@dataclass(frozen=True, slots=True)
class Chat:
    """A tokenizer's way to render chats."""

    tokenizer: Any
    template: str | None
    """Jinja text; `plain` for none; None for the tokenizer's own, or plain where it has none."""

    def pieces(self, preamble: Sequence[Message]) -> Pieces:
        """Cut the template.

        Raises:
            BadInput: the template is not prefix-stable or ends replies with no special token, or
                the tokenizer has neither template nor end-of-sequence token.
        """
        if self.template == PLAIN or (self.template is None and not self.tokenizer.chat_template):
            return self._plain(preamble)
        return self._cut(self._opening_messages(preamble))

    def _plain(self, preamble: Sequence[Message]) -> Pieces:
        end = self.tokenizer.eos_token_id
        if end is None:
            raise BadInput(
                "a tokenizer without chat template and without end-of-sequence token; wanted one "
                "of them to end replies; set `tokenizer.eos_token` and save it with the model"
            )
        start = self.tokenizer.bos_token or ""
        head = start + "".join(f"{message.content}\n\n" for message in preamble)
        return Pieces((head, "\n> "), ("\n", "\n> "), end, trims=False)

    def _opening_messages(self, preamble: Sequence[Message]) -> list[dict[str, str]]:
        """Open with the system prompt, inside the first observation where there is no such role."""
        chat = [{"role": m.role, "content": m.content} for m in preamble]
        first = {"role": "user", "content": OBSERVATION}
        try:
            text = self._render([*chat, first], open_reply=True)
            if all(m.content.strip() in text for m in preamble):
                return [*chat, first]
        except jinja2.TemplateError:
            pass
        head = "".join(f"{message.content}\n\n" for message in preamble)
        return [{"role": "user", "content": head + OBSERVATION}]

    def _render(self, messages: list[dict[str, str]], *, open_reply: bool) -> str:
        text = self.tokenizer.apply_chat_template(
            messages,
            chat_template=TEMPLATES.get(self.template or "", self.template),
            tokenize=False,
            add_generation_prompt=open_reply,
        )
        return str(text)

    def _cut(self, opening: list[dict[str, str]]) -> Pieces:
        said = {"role": "assistant", "content": REPLY}
        seen = {"role": "user", "content": OBSERVATION}
        try:
            chats = [opening, [*opening, said, seen], [*opening, said, seen, said, seen]]
            asked = [self._render(chat, open_reply=True) for chat in chats]
            answered = [self._render([*chat, said], open_reply=False) for chat in chats]
            padded = self._render(
                [{"role": "user", "content": f" {OBSERVATION} "}], open_reply=True
            )
        except jinja2.TemplateError as error:
            raise _unstable(f"cannot render a chat of several turns ({error})") from error
        end, first = self._turn(asked[0], answered[0], asked[1])
        _, second = self._turn(asked[1], answered[1], asked[2])
        if first != second:
            raise _unstable("renders the second turn unlike the third")
        return Pieces(
            _around(asked[0]), _around(first), end, trims=f" {OBSERVATION} " not in padded
        )

    def _turn(self, asked: str, answered: str, following: str) -> tuple[int, str]:
        """Give the end-of-turn token, and the text from there to the next reply."""
        if not answered.startswith(asked + REPLY):
            raise _unstable("renders a reply otherwise than after its own generation prompt")
        if not following.startswith(answered):
            raise _unstable("rewrites earlier messages when new ones come")
        suffix = answered[len(asked) + len(REPLY) :].lstrip()
        specials = self.tokenizer.all_special_tokens + list(self.tokenizer.get_added_vocab())
        ends = [token for token in specials if token and suffix.startswith(token)]
        if not ends:
            raise _unstable("ends replies with no special token, so a model cannot learn to stop")
        token = max(ends, key=len)
        rest = suffix[len(token) :]
        return self.tokenizer.convert_tokens_to_ids(token), rest + following[len(answered) :]


def _around(text: str) -> tuple[str, str]:
    parts = text.split(OBSERVATION)
    if len(parts) < 2:
        raise _unstable("leaves out the user's message")
    return OBSERVATION.join(parts[:-1]), parts[-1]


def _unstable(problem: str) -> BadInput:
    return BadInput(
        f"a chat template that {problem}; wanted a prefix-stable one (each rendering begins with "
        'the one before it), without which no exact loss mask exists; pass `chat_template="plain"`,'
        ' `"chatml"` or the text of a template that keeps every message as it is'
    )
