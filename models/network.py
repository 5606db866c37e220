"""A network: one set of weights with a head, a model of its own or an adapter on a shared one."""

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..results.records import Ids
from ..runtime import processes
from ..runtime.device import constants
from ..runtime.memory import free_on
from ..runtime.turns import end_turns
from .gradient_checkpointing import Again, bytes_kept, check_layers, checkpointed, layers_of
from .layout import Batch, Item, Layout, Sequences, Text, count_tokens, families, family_lengths, lay_out, numbered
from .logit_rule import LogitRule
from .lora import Host, backbone_of, rounded_weights
from .micro_batches import halved, micro_batches, start_tokens
from .packed_attention import packed_attention
from .shared_work import by_all, deal
from .target_logps import TargetLogps
from .tuning import Tuning

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from ..runtime.sharding import Frozen, Sharded

Kind = Literal["lm", "score"]
Value = TypeVar("Value")

TRIED = 64  # tokens of a response by which is found out what a pass keeps
UPDATED = 12  # bytes a trained weight beside its value: gradient and Adam's two moments in fp32
# What code of an architecture raises in a packed pass that it cannot take: of the 58 in selfcheck/architectures.py
# Falcon, Nemotron and StableLM a TypeError, MPT an AttributeError. What torch says of a device is none of these.
PYTHON_ERRORS = (TypeError, AttributeError, ValueError, LookupError)


class Network:
    """One set of weights with a language-model head (`lm`) or a scalar head (`score`).

    Dropout is off in training too: ratios and reference log-probs are exact only without it.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        kind: Kind,
        tuning: Tuning,
        host: Host | None,
        adapter: str | None,
        frozen: "Frozen | None" = None,
    ):
        """frozen: the model's backbone, where it has no host and its layers are divided among the processes."""
        self.kind, self.tuning, self._host, self._adapter = kind, tuning, host, adapter
        self._frozen = host.frozen if host else frozen
        self.micro_tokens = tuning.micro_tokens  # less after the memory did not hold as many
        self.score: nn.Linear | None = None
        if kind == "score" and host:
            width = model.config.get_text_config().hidden_size
            self.score = nn.Linear(width, 1, bias=False, device=tuning.device)
        self._sharded: Sharded | None = None
        self._hold(model)

    def _hold(self, model: "PreTrainedModel") -> None:
        """Make passes through this model."""
        self.model = model
        self.backbone: Any = self._frozen or backbone_of(model)
        if self.kind == "lm":
            self._head, self._rule = model.get_output_embeddings(), LogitRule.of(model.config)
        else:
            self.score = self._head = self.score if self._host else model.score
            self._rule = LogitRule()

    @property
    def is_adapter(self) -> bool:
        """The weights are a LoRA adapter, beside the shared model's own."""
        return bool(self._host and self._adapter)

    @property
    def is_of_all(self) -> bool:
        """True if all processes make each of its passes with gradients, for weights are divided among them."""
        return bool(self._sharded or self._frozen)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The weights that an optimizer may change."""
        if self._sharded:
            return self._sharded.parameters
        own = self._host.parameters(self._adapter) if self._host else [*self.model.parameters()]
        return [*own, *self.score.parameters()] if self._host and self.score is not None else own

    @cached_property
    def size(self) -> int:
        """Number of weights that a token passes through, adapters not counted: all on one model cut passes alike."""
        return self._host.size if self._host else sum(p.numel() for p in self.model.parameters())

    def activate(self) -> "PreTrainedModel":
        """Put this network's adapter into the shared model (or take all out) and return the model.

        Where weights are divided: the divided model for passes with gradients, else the plain one.
        """
        if self._sharded:
            grads = torch.is_grad_enabled()
            self._hold(self._sharded.divided() if grads else self._sharded.whole())
            if grads:
                self.backbone = self._sharded.backbone
        if self._host:
            self._host.use(self._adapter)
        return self.model

    def lay_out(self, sequences: Sequences, with_prompt: Collection[int] = ()) -> Layout:
        """Sequences in one pass, on this network's device; with_prompt: indices of those whose prompt is a target."""
        return lay_out(numbered(sequences), self.tuning.device, share_prompts=self.packs, with_prompt=with_prompt)

    def laid_out(self, of: Layout | Sequences) -> Layout:
        """A layout as it is; sequences in one pass."""
        return of if isinstance(of, Layout) else self.lay_out(of)

    def hidden(self, layout: Layout, at: Tensor | None = None) -> Tensor:
        """Last hidden states of the tokens [tokens, width], or of those at some places [places, width]."""
        self.activate()
        states = self._states(layout)
        return states if at is None else states.index_select(0, at)

    def head(self, states: Tensor) -> Tensor:
        """Logits or scores of hidden states, by the model that they come from: the one of the last pass."""
        return self._rule(self._head(states))

    def target_logps(self, states: Tensor, targets: Tensor, temperature: float) -> Tensor:
        """Log-probs [targets], fp32, of tokens from their states [targets, width], with logits over a temperature."""
        if type(self._head) is not nn.Linear or self._rule.cap:  # there is an adapter on it, or more than a product
            with self.autocast():
                logits = self.head(states).float() / temperature
            return torch.log_softmax(logits, dim=-1).gather(1, targets[:, None])[:, 0]
        numbers = torch.bfloat16 if self.tuning.precision == "bf16" else self._head.weight.dtype
        weight, bias = (part if part is None else part.to(numbers) for part in (self._head.weight, self._head.bias))
        if not torch.is_grad_enabled():  # a trainable head would have its logits kept
            weight, bias = weight.detach(), bias if bias is None else bias.detach()
        factor = temperature / self._rule.factor
        return TargetLogps.apply(
            states.to(numbers), weight, bias, targets, factor, torch.is_grad_enabled() and self.checkpoints
        )

    def _states(self, layout: Layout) -> Tensor:
        """One pass through the layers; padded where the architecture cannot pack."""
        packing, again = layout.packing, torch.is_grad_enabled() and self.checkpoints
        with self.autocast(again=again), contextlib.ExitStack() as meanwhile:
            if again:
                meanwhile.enter_context(checkpointed(self.model, self._again(layout.packed)))
            if layout.packed:
                meanwhile.enter_context(packed_attention(self.model))
                given = {"position_ids": layout.positions[None], "packing": packing}
                return self.backbone(input_ids=layout.ids[None], use_cache=False, **given).last_hidden_state[0]
            (block,) = packing.blocks
            ids, mask = layout.ids[packing.queries], torch.zeros_like(packing.queries)
            mask[packing.query_places] = 1
            rows = {"input_ids": ids.view(block.rows, -1), "attention_mask": mask.view(block.rows, -1)}
            return self.backbone(**rows, use_cache=False).last_hidden_state.flatten(0, 1)[packing.query_places]

    def _again(self, packed: bool) -> Again:
        """The state of the model in a pass, for layers that are computed once more when others may have used it."""
        model = self.model

        @contextlib.contextmanager
        def again() -> Iterator[None]:
            if self._host:
                self._host.use(self._adapter)
            with packed_attention(model) if packed else contextlib.nullcontext():
                yield

        return again

    @cached_property
    def checkpoints(self) -> bool:
        """True if layers and logits are computed again in the backward pass and not kept."""
        asked = self.tuning.gradient_checkpointing
        if asked == "auto":
            device = self.tuning.device
            if self._frozen:  # its weights are divided because memory is short
                return bool(layers_of(self.model))
            if (free := free_on(device)) is None or not layers_of(self.model):
                return False
            return self.memory_needed() > constants(device).training_share * free
        if asked:
            check_layers(self.model, "tuning.gradient_checkpointing")
        return asked

    def memory_needed(self) -> float:
        """Bytes that training takes beside the weights, where layers are not computed again.

        Gradients, Adam's moments, and what a pass keeps, by two short ones: so much, and so much more a token. All
        tokens are taken to be targets.
        """
        self.__dict__["checkpoints"] = False
        try:
            kept = [self._kept(rows) for rows in (1, 2)]
        finally:
            del self.__dict__["checkpoints"]
        each = (kept[1] - kept[0]) / (1 + TRIED)
        if self.kind == "lm":
            each += self.model.config.get_text_config().vocab_size * (2 if self.tuning.precision == "bf16" else 4)
        divided = processes.size() if processes.is_sharding() and not self._host else 1
        trained = UPDATED * sum(p.numel() for p in self.parameters) / divided
        return trained + max(0, 2 * kept[0] - kept[1]) + each * self._most_tokens()

    def _kept(self, rows: int) -> int:
        """Bytes that the layers keep of a pass of so many rows of one more than `TRIED` tokens."""
        layout = self.lay_out([((i,), (1,) * TRIED) for i in range(rows)])
        return bytes_kept(lambda: self._states(layout), self.model.parameters())

    def shard(self) -> bool:
        """Divide the weights among the processes until `unshard`; adapters stay whole. Returns whether it did.

        From then on each process calls `end_passes` after its last pass of a step.
        """
        if self._host:
            return False
        from ..runtime.sharding import Sharded

        _ = self.packs, self.size, self.checkpoints  # found out while the weights are whole
        rounded = rounded_weights(self.model) if self.tuning.precision == "bf16" else ()
        self._sharded = Sharded(self.model, rounded, nothing=self._nothing)
        return True

    def unshard(self) -> None:
        """Bring divided weights together in every process, at the end of a training."""
        if self._sharded:
            self._hold(self._sharded.whole(exact=True))
            self._sharded = None

    def _nothing(self) -> None:
        """A pass with a loss of 0."""
        self.activate()
        states = self._states(self.lay_out([((0,), (0,))]))
        with self.autocast():
            nothing = self.head(states.float()).sum() * 0
        nothing.backward()

    def end_passes(self) -> None:
        """Take part in the passes that other processes still make."""
        end_turns()
        if self._sharded:
            self._sharded.end_step()

    @cached_property
    @torch.no_grad()
    def packs(self) -> bool:
        """True if sequences may lie packed and share their prompt: tried on a few, for some architectures cannot."""
        if self._frozen:
            return self._frozen.packs
        config = self.model.config.get_text_config()
        windowed = "sliding" if getattr(config, "sliding_window", None) else "full_attention"
        kinds = getattr(config, "layer_types", None) or [windowed]
        if any(kind != "full_attention" for kind in kinds):  # a window or a state would run on over the responses
            return False
        try:
            packed = self._tried(packed=True)
        except PYTHON_ERRORS:
            return False
        if packed is None:  # it attends in its own way, over all sequences
            return False
        plain = self._tried(packed=False)
        assert plain is not None
        tolerance = 0.05 if self.tuning.precision == "bf16" else 1e-3
        return bool((packed - plain).abs().max() <= tolerance * plain.abs().max())

    def _tried(self, *, packed: bool) -> Tensor | None:
        """States [targets, width] of a few sequences, packed or padded; None where the model ignores the packing.

        InputError for what torch refuses (a device's fault, say), which tells nothing of the architecture.
        """
        self.packs = packed
        try:
            layout = self.lay_out([((2, 0, 1), (3, 1, 2)), ((4, 2), (1,)), ((2, 0, 1), (5, 4))])
            states = self.hidden(layout)[layout.before].float()
        except (RuntimeError, MemoryError) as error:
            first = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            device = self.tuning.device
            raise InputError(
                f"{type(self.model).__name__} fails on {device} with the first few tokens ({first}); "
                f"free the device or take another one by --device, and if it fails there too another model"
            ) from None
        finally:
            del self.packs
        return None if packed and not layout.packing.layers else states

    def batches(
        self,
        rows: Sequence[Item],
        sequences: Sequence[Sequences],
        *,
        by_prompt: bool = False,
        by_place: bool = False,
        with_prompt: bool = False,
        beside: "Network | None" = None,
    ) -> Iterator[Batch[Item]]:
        """Rows in the passes that cost least within the memory, each pass laid out when it is asked for.

        sequences: of each row, which stay together. by_prompt: each row has one, and rows with one prompt stay together
        if they fit. by_place: all rows' first sequences are laid out before all second ones, else one row's sequences
        side by side. with_prompt: the prompt of each row's first sequence is a target too. beside: a network that goes
        through the same batches.
        """
        packed = self.packs and (beside is None or beside.packs)
        flat = iter(numbered([sequence for some in sequences for sequence in some]))
        texts = [[next(flat) for _ in some] for some in sequences]
        if by_prompt:
            alone = [text for (text,) in texts]
            together = families(alone, share_prompts=packed, tokens=self._most_tokens())
            cut = self._cut(family_lengths(alone, together), packed)
            groups = [[i for n in group for i in together[n]] for group in cut]
        else:
            groups = self._cut([_size(some, packed) for some in texts], packed)
        for group in groups:
            places = [(i, k) for i in group for k in range(len(texts[i]))]
            if by_place:
                places.sort(key=lambda place: place[1])
            chosen = [texts[i][k] for i, k in places]
            first = [n for n, (_, k) in enumerate(places) if k == 0] if with_prompt else ()
            layout = lay_out(chosen, self.tuning.device, share_prompts=packed, with_prompt=first)
            yield Batch([rows[i] for i in group], count_tokens(chosen), layout)

    def _cut(self, sizes: Sequence[int], packed: bool) -> list[list[int]]:
        """Indices of what takes up so many tokens, in groups that go through the network together."""
        overhead = start_tokens(self.size, self.tuning.device)
        return micro_batches(sizes, self._most_tokens(), overhead, padded=not packed)

    def _most_tokens(self) -> int:
        """Of a pass; packed ones gain nothing from being larger than this, and memory grows with them."""
        enough = packed_tokens(self.size, self.tuning.device)
        return min(self.micro_tokens, enough) if self.packs else self.micro_tokens

    @torch.no_grad()
    def over_distinct(
        self,
        sequences: Sequences,
        work: Callable[[Layout], Iterable[Value]],
        beside: "Network | None" = None,
        *,
        together: bool = False,
    ) -> list[Value]:
        """The value of each sequence, without gradients: work(layout) gives those of a pass; each is computed once.

        When memory runs out, what is left goes in smaller passes. beside: a network that work goes through as well.
        together: all processes of the run are here, and share the sequences.
        """
        if together and processes.size() > 1:
            for network in (self, beside):
                if network and network._sharded:  # all bring the weights together, also one that is dealt nothing
                    network.activate()
            different = [*dict.fromkeys(sequences)]
            hands = deal([[sequence] for sequence in different], share_prompts=self.packs)
            values = by_all(different, hands, lambda own: self.over_distinct(own, work, beside))
            value_of = dict(zip(different, values, strict=True))
            return [value_of[sequence] for sequence in sequences]
        places: dict[tuple[Ids, Ids], int] = {}
        which = [places.setdefault(sequence, len(places)) for sequence in sequences]
        distinct = list(places)
        found: dict[int, Value] = {}
        while left := [i for i in range(len(distinct)) if i not in found]:
            try:
                for batch in self.batches(left, [[distinct[i]] for i in left], by_prompt=True, beside=beside):
                    found.update(zip(batch.rows, work(batch.layout), strict=True))
            except (RuntimeError, MemoryError) as error:
                self.use_less_memory(error)
        return [found[i] for i in which]

    def use_less_memory(self, error: Exception) -> None:
        """After running out of memory: halve what goes through at once; see `halved`."""
        self.micro_tokens = halved(self._most_tokens(), error, self.tuning.device)

    def autocast(self, *, again: bool = False) -> torch.autocast:
        """bf16 matrix products over fp32 weights, where the tuning asks for them.

        again: layers are computed again, so no weight's cast is kept after its product.
        """
        kind = self.tuning.device.split(":")[0]
        return torch.autocast(kind, torch.bfloat16, enabled=self.tuning.precision == "bf16", cache_enabled=not again)

    def save(self, folder: Path, tokenizer) -> None:
        """Write weights (safetensors), config and tokenizer, loadable by the Auto classes of transformers.

        All processes call this, and only the first one writes.
        """
        with torch.no_grad():
            if self._sharded:
                self._sharded.whole(exact=True)
            model = self.activate()
        if processes.rank():
            return
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if self._host and self._adapter:
            self._host.save(self._adapter, folder, self.score)
        else:
            if self.kind == "score" and tokenizer.pad_token_id == tokenizer.eos_token_id:
                # transformers would take the EOS for padding and read the token before it; without a pad id it says so
                model.config.pad_token_id = None
            model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    def close(self) -> None:
        """Take this network's adapter out of the shared model."""
        if self._host and self._adapter:
            self._host.remove(self._adapter)


def packed_tokens(weights: int, device: str) -> int:
    """Tokens with which a packed pass is large enough."""
    enough = constants(device)
    return max(enough.pass_tokens, int(enough.pass_starts * start_tokens(weights, device)))


def _size(texts: Sequence[Text], packed: bool) -> int:
    """Tokens that texts which stay together take up in a pass, padding included."""
    lengths = family_lengths(texts, families(texts, share_prompts=packed))
    return sum(lengths) if packed else len(lengths) * max(lengths)
