"""The `transformers` agent: any causal language model that Hugging Face's library loads.

History is appended as token ids and never tokenised again, so what a trainer reads (`encode`) is
exactly what the model wrote. `restricted` decoding walks the prefix tree of the admissible actions;
log-probabilities are then those of the choice and not of the spelling, at acting and at training.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from trialgym.core import ActionSpec
from trialgym.errors import UnknownId
from trialgym.policy import Encoding, Reply, Request
from trialgym.records import Message, PolicyInfo, Trajectory, Turn
from trialgym.registry import make

from .chat import Chat, Pieces
from .checkpoint import configured, load, read_settings, write_settings
from .engine import Engine, Prompt, Sample, Sampling, Trie, trie_of
from .formats import format_of
from .scoring import turn_log_probs

DEFAULT_CONTEXT = 4096
"""Context window where the model's configuration names none."""


class Language:
    """A causal language model as a policy.

    Args:
        model: a directory, a hub id, or a directory that `save` wrote.
        format: `react` or `act`; None for the one saved with the model, else `react`. So with the
            other settings: restricted, system, remind, chat_template, max_new_tokens,
            max_context.
        adapter: directory of a PEFT adapter to put on the model.
        lora: rank of a new LoRA adapter on every linear layer, to be trained.
        dtype: a torch dtype's name; `auto` is the checkpoint's own on a GPU and float32 on a CPU.
        batch_slots: episodes whose keys and values are kept between turns.

    Raises:
        BadInput: the model cannot be loaded, a setting is unknown, or the chat template is not
            prefix-stable.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        format: str | None = None,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        max_new_tokens: int | None = None,
        adapter: str | Path | None = None,
        lora: int | None = None,
        device: str | None = None,
        dtype: str = "auto",
        restricted: bool | None = None,
        system: bool | None = None,
        remind: bool | None = None,
        chat_template: str | None = None,
        max_context: int | None = None,
        batch_slots: int = 64,
    ) -> None:
        given: dict[str, Any] = {
            "format": format,
            "restricted": restricted,
            "system": system,
            "remind": remind,
            "chat_template": chat_template,
            "max_new_tokens": max_new_tokens,
            "max_context": max_context,
        }
        chosen = {name: value for name, value in given.items() if value is not None}
        self.settings = replace(read_settings(Path(model)), **chosen)
        self.format = format_of(self.settings.format)
        self.top_p, self.batch_slots = top_p, batch_slots
        self._model, self._tokenizer = load(str(model), adapter, lora, device, dtype)
        self._info = PolicyInfo(
            str(model), str(adapter) if adapter else None, temperature=temperature, seed=seed
        )
        self._begin()
        self._cut(())

    def _begin(self) -> None:
        self._rows: dict[str, tuple[tuple[Turn, ...], tuple[int, ...]]] = {}
        self._pieces: dict[tuple[Message, ...], Pieces] = {}
        self._specs: dict[str, ActionSpec | None] = {}
        self._spelled: dict[str, tuple[int, ...]] = {}
        self._templates: dict[str, tuple[int, ...]] = {}

    # What the hall's protocols ask for.

    @property
    def info(self) -> PolicyInfo:
        return self._info

    @property
    def needs_candidates(self) -> bool:
        return self.settings.restricted

    @property
    def model(self) -> Any:
        return self._model

    @property
    def tokenizer(self) -> Any:
        return self._tokenizer

    def preamble(self, instruction: str, spec: ActionSpec) -> tuple[Message, ...]:
        """Give the system prompt: the grammar of actions and the format of replies."""
        if not self.settings.system:
            return ()
        return (Message("system", f"{spec.grammar}\n\n{self.format.instructions}"),)

    def act(self, requests: Sequence[Request]) -> Sequence[Reply]:
        """Answer every request; one whose row fills the context says so."""
        prompts, added = [], []
        for request in requests:
            history, ids = self._row(request)
            added.append(ids)
            prompts.append(
                Prompt(request.episode, history + ids, request.seed, self._allowed(request))
            )
        sampling = Sampling(self._info.temperature, self.top_p, self.settings.max_new_tokens)
        samples = self.engine.generate(prompts, sampling)
        return [self._reply(sample, ids) for sample, ids in zip(samples, added, strict=True)]

    def forget(self, episode: str) -> None:
        """Free the episode's slot."""
        self._rows.pop(episode, None)
        self.engine.forget(episode)

    def with_info(self, info: PolicyInfo) -> "Language":
        """Give a view of the same weights under another name, temperature or seed."""
        view = copy.copy(self)
        view.__dict__["engine"] = self.engine
        view._info, view._rows = info, {}
        return view

    def parameters(self) -> Sequence[Any]:
        return [p for p in self._model.parameters() if p.requires_grad]

    def prepare(self, trajectory: Trajectory) -> Encoding:
        return self.encode(trajectory)

    def log_probs(self, prepared: Sequence[Encoding]) -> Any:
        """Sum each turn's token log-probabilities, dropout off; turns without loss included."""
        return turn_log_probs(self._model, prepared, self._tokenizer.pad_token_id or 0)

    def clone(self) -> "Language":
        """Copy the weights: a frozen reference."""
        twin = copy.copy(self)
        # The engine is tied to its weights; the copy makes its own when it acts.
        twin.__dict__.pop("engine", None)
        twin._model = copy.deepcopy(self._model).requires_grad_(False).eval()
        twin._rows = {}
        return twin

    def save(self, directory: Path) -> None:
        """Write model (an adapter as an adapter), tokenizer and settings."""
        self._model.save_pretrained(directory)
        self._tokenizer.save_pretrained(directory)
        write_settings(self.settings, Path(directory))

    @cached_property
    def engine(self) -> Engine:
        """The engine over these weights, made when first asked to act."""
        configured = self._model.generation_config.eos_token_id
        stops = {self._cut(()).end, self._tokenizer.eos_token_id}
        stops |= set(configured) if isinstance(configured, list) else {configured}
        limit = self.settings.max_context or self.longest
        return Engine(
            self._model,
            stops={token for token in stops if token is not None},
            max_context=limit,
            slots=self.batch_slots,
        )

    @property
    def longest(self) -> int:
        """Positions that the model was built for."""
        return int(configured(self._model, "max_position_embeddings") or DEFAULT_CONTEXT)

    # Rows of tokens.

    def encode(self, trajectory: Trajectory) -> Encoding:
        """Give an episode's exact tokens: as sampled where known, else as the format renders them.

        A turn counts as sampled by this tokenizer when its ids decode to its text.
        """
        ids: list[int] = []
        owner: list[int] = []
        loss: list[bool] = []
        allowed: dict[int, tuple[int, ...]] = {}
        preamble = self._preamble_of(trajectory)
        for index, turn in enumerate(trajectory.turns):
            prompt, reply = self._spans(
                turn, preamble, trajectory.turns[:index], trajectory.instruction
            )
            allowed |= self._allowed_at(turn, reply, len(ids) + len(prompt))
            ids += prompt + reply
            owner += [-1] * len(prompt) + [index] * len(reply)
            loss += [False] * len(prompt) + [turn.loss] * len(reply)
        return Encoding(tuple(ids), tuple(owner), tuple(loss), allowed)

    def _preamble_of(self, trajectory: Trajectory) -> tuple[Message, ...]:
        """Give what this policy itself would have been told, whoever acted."""
        if not self.settings.system:
            return ()
        if trajectory.env not in self._specs:
            try:
                self._specs[trajectory.env] = make(trajectory.env).grammar()
            except UnknownId:
                self._specs[trajectory.env] = None
        told = trajectory.info.get("grammar")
        spec = ActionSpec(str(told)) if told else self._specs[trajectory.env]
        return self.preamble(trajectory.instruction, spec) if spec else trajectory.preamble

    def _spans(
        self,
        turn: Turn,
        preamble: tuple[Message, ...],
        before: Sequence[Turn],
        instruction: str,
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Give the tokens before a turn's reply, and the reply's."""
        if self._sampled(turn):
            return turn.prompt_ids, turn.token_ids
        text = self.format.render(turn.thought, turn.action) if turn.action else turn.text
        reply = (*self._ids(text), self._cut(()).end)
        return self._prompt(turn.observation, preamble, before, instruction), reply

    def _sampled(self, turn: Turn) -> bool:
        if not turn.token_ids or not turn.prompt_ids:
            return False
        known = max(*turn.token_ids, *turn.prompt_ids, 0) < len(self._tokenizer)
        return known and self._text(turn.token_ids) == turn.text

    def _prompt(
        self,
        observation: str,
        preamble: tuple[Message, ...],
        before: Sequence[Turn],
        instruction: str,
    ) -> tuple[int, ...]:
        """Give the tokens from the end of the last reply to the start of the next."""
        if self.settings.remind and before:
            observation = f"{observation}\n\nYour task is to: {instruction}."
        pieces = self._cut(preamble)
        head, tail = pieces.between if before else pieces.opening
        seen = self._ids(observation.strip() if pieces.trims else observation)
        ids = (*self._template_ids(head), *seen, *self._template_ids(tail))
        last = before[-1] if before else None
        # A reply that was cut off did not end its turn; the prompt does.
        cut = last is not None and self._sampled(last) and last.token_ids[-1] not in self.stops
        return (pieces.end, *ids) if cut else ids

    @property
    def stops(self) -> frozenset[int]:
        """Tokens that end a reply."""
        return self.engine.stops

    def _cut(self, preamble: tuple[Message, ...]) -> Pieces:
        if preamble not in self._pieces:
            chat = Chat(self._tokenizer, self.settings.chat_template)
            self._pieces[preamble] = chat.pieces(preamble)
        return self._pieces[preamble]

    def _ids(self, text: str) -> tuple[int, ...]:
        """Tokenise text that anyone may have written: none of it becomes a control token."""
        encoded = self._tokenizer(text, add_special_tokens=False, split_special_tokens=True)
        return tuple(encoded["input_ids"])

    def _template_ids(self, text: str) -> tuple[int, ...]:
        """Tokenise the template's own text, control tokens included."""
        if text not in self._templates:
            encoded = self._tokenizer(text, add_special_tokens=False, split_special_tokens=False)
            self._templates[text] = tuple(encoded["input_ids"])
        return self._templates[text]

    def _text(self, ids: Sequence[int]) -> str:
        return str(
            self._tokenizer.decode(
                list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )

    def _row(self, request: Request) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Give the row up to the last reply, and what the new observation appends to it."""
        known, row = self._rows.get(request.episode, ((), ()))
        turns = tuple(request.turns)
        if len(known) > len(turns) or any(a is not b for a, b in zip(known, turns, strict=False)):
            known, row = (), ()
        preamble = self.preamble(request.instruction, request.spec)
        for index in range(len(known), len(turns)):
            prompt, reply = self._spans(turns[index], preamble, turns[:index], request.instruction)
            row += prompt + reply
        self._rows[request.episode] = (turns, row)
        return row, self._prompt(request.observation, preamble, turns, request.instruction)

    # Restricted decoding.

    def _allowed(self, request: Request) -> Trie | None:
        if not self.settings.restricted or not request.spec.valid:
            return None
        return trie_of(self._spelling(action) for action in request.spec.valid)

    def _spelling(self, action: str) -> tuple[int, ...]:
        if action not in self._spelled:
            text = self.format.render("", action)
            self._spelled[action] = (*self._ids(text), self._cut(()).end)
        return self._spelled[action]

    def _allowed_at(
        self, turn: Turn, reply: Sequence[int], start: int
    ) -> Mapping[int, tuple[int, ...]]:
        if not self.settings.restricted or not turn.candidates:
            return {}
        node = trie_of([*(self._spelling(action) for action in turn.candidates), reply])
        allowed = {}
        for position, token in enumerate(reply, start):
            allowed[position] = tuple(sorted(node))
            node = node[token]
        return allowed

    def _reply(self, sample: Sample, prompt: tuple[int, ...]) -> Reply:
        text = self._text(sample.ids)
        parsed = self.format.parse(text)
        return Reply(
            action=parsed.action,
            text=text,
            thought=parsed.thought,
            problem=parsed.problem,
            log_prob=sum(sample.log_probs),
            prompt_ids=prompt,
            token_ids=sample.ids,
            token_log_probs=sample.log_probs,
            out_of_context=sample.full,
        )
